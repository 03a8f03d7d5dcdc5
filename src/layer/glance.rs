//! An upper's objects by their names in directories that are held open: one call tells what a name
//! is, and a descriptor of it is had only where somebody needs one.
//!
//! May not: tell of deletions in the form of files, which lie beside a name; that is
//! [`Layer::probe`].

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::machinery::{self, Form};
use super::{Layer, is_whiteout};
use crate::sys::obj::{self, Stat, Xattrs};
use crate::sys::{Errno, Res};

/// What a name was found to be.
#[derive(Debug)]
pub enum Glance {
    /// Nothing: lower layers are looked at.
    Absent,
    /// Deleted: lower layers are hidden.
    Whiteout,
    /// An object, and the directory that has the name.
    Object(Stat, Arc<OwnedFd>),
}

impl Layer {
    /// What is at `path`, whose directory may be held, and as old as `age`; `None` where it takes
    /// more than one look to tell.
    ///
    /// # Errors
    /// As [`Layer::probe`].
    pub fn glance(&self, path: &[u8], age: Duration) -> Res<Option<Glance>> {
        let form = self.form();
        let (parent, name) = obj::split(path);
        if form != Form::Device || name.is_empty() {
            return Ok(None);
        }
        if machinery::is_ours(name, form) {
            return Ok(Some(Glance::Absent));
        }
        let looked = self
            .hold_dir(parent, age)
            .and_then(|dir| Ok((obj::stat_name(&*dir, name)?, dir)));
        Ok(Some(match looked {
            Ok((stat, _)) if is_whiteout(&stat) => Glance::Whiteout,
            Ok((stat, dir)) => Glance::Object(stat, dir),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Glance::Absent,
            Err(e) => return Err(e),
        }))
    }

    /// The object at `path`, `O_PATH`, whose directory may be held, and as old as `age`.
    ///
    /// # Errors
    /// As [`Layer::open`].
    pub fn open_near(&self, path: &[u8], age: Duration) -> Res<OwnedFd> {
        let (parent, name) = obj::split(path);
        if name.is_empty() {
            return self.open(path, OFlags::PATH);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&*self.hold_dir(parent, age)?, name, flags, Mode::empty())
    }

    /// Does a directory that was glanced at hide what is below it?
    ///
    /// # Errors
    /// As [`Layer::opaque`].
    pub fn opaque_name(&self, dir: &OwnedFd, name: &[u8]) -> Res<bool> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        self.opaque_by(&Xattrs::of_name(dir, &name))
    }

    /// As [`Layer::stored_number`], of an object that was glanced at.
    ///
    /// # Errors
    /// As [`Layer::stored_number`].
    pub fn stored_number_of_name(
        &self,
        dir: impl AsFd,
        name: &[u8],
        stat: &Stat,
    ) -> Res<Option<u64>> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        self.stored_number_by(&Xattrs::of_name(&dir, &name), stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::UpperSpec;
    use crate::layer::tests::spec;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_name_is_seen_and_no_symlink_followed() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join("upper").join(name);
        std::fs::create_dir_all(at("dir/in")).unwrap();
        std::fs::write(at("dir/file"), "x").unwrap();
        std::fs::write(top.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret", at("dir/link")).unwrap();
        std::os::unix::fs::symlink("dir", at("way")).unwrap();
        std::os::unix::fs::symlink("..", at("out")).unwrap();
        let upper = UpperSpec {
            work: Some(top.path().into()),
            ..UpperSpec::default()
        };
        let layer = Layer::new(spec(top.path().join("upper"), Some(upper)));
        let form = layer.caps().unwrap().form;
        if form != Form::Device {
            assert!(layer.glance(b"dir/file", SECOND).unwrap().is_none());
            return;
        }
        let kind = |path: &[u8]| match layer.glance(path, SECOND).unwrap() {
            Some(Glance::Object(stat, _)) => Some(stat.kind()),
            Some(Glance::Absent) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(b"dir/file"), Some(libc::S_IFREG));
        assert_eq!(kind(b"dir"), Some(libc::S_IFDIR));
        assert_eq!(kind(b"dir/link"), Some(libc::S_IFLNK));
        assert_eq!(kind(b"way"), Some(libc::S_IFLNK));
        for none in [
            &b"dir/none"[..],
            b"way/file",
            b"out/secret",
            b"dir/file/x",
            b"no/such",
        ] {
            assert_eq!(kind(none), None);
            assert!(layer.open_near(none, SECOND).is_err());
        }
        let link = layer.open_near(b"dir/link", SECOND).unwrap();
        assert_eq!(obj::stat(&link).unwrap().kind(), libc::S_IFLNK);
        let opaque = |name: &[u8]| match layer.glance(name, SECOND).unwrap() {
            Some(Glance::Object(_, dir)) => layer.opaque_name(&dir, obj::split(name).1).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(!opaque(b"dir/in"));
        layer
            .mark_opaque(layer.open_near(b"dir/in", SECOND).unwrap())
            .unwrap();
        assert!(opaque(b"dir/in") && !opaque(b"dir"));
    }
}
