//! I/O on one layer, confined to its root: what is there (`probe`, `list`), and, for an upper,
//! changing it (`store`, `copyup`); and which path has a number (`paths`, `moved`).
//!
//! Owns: a layer's root descriptor, its health, the forms in `machinery`. May not: know of other
//! layers, rules, inode numbers' meaning, or FUSE.

pub mod copyup;
mod files;
pub mod glance;
mod held;
mod last;
mod lock;
pub mod machinery;
mod moved;
pub mod paths;
mod root;
pub mod store;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::sys::obj::{self, Stat, Xattrs};
use crate::sys::{Errno, Res, dir};
pub use lock::{LockKeeper, keep_locks, let_go_of_left_locks};
use machinery::Form;
pub use root::MountRule;
use root::Root;
use store::Caps;

/// How deletions are to be kept in an upper.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum FormChoice {
    /// In the device form where the store can hold it.
    #[default]
    Auto,
    /// In this form; an upper that cannot hold it is refused.
    Fixed(Form),
}

/// What a layer is and where.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct LayerSpec {
    /// A word for messages and `explain`: `image`, `litetree 1`, `tmpfs upper`.
    pub label: String,
    /// The directory; for an upper, the store that holds [`LayerSpec::sub`].
    pub base: PathBuf,
    /// A directory in `base` that is made where it is missing, once the base is known to be there.
    pub sub: Option<Vec<u8>>,
    /// What must be mounted for the base to be what it is meant to be.
    pub require_mount: Option<MountRule>,
    /// A local litetree that does not exist is empty, not an error.
    pub optional: bool,
    /// `Some` for an upper.
    pub upper: Option<UpperSpec>,
}

/// What only an upper has.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct UpperSpec {
    /// A directory on the same file system for what is not yet, or no longer, part of the upper.
    pub work: Option<PathBuf>,
    /// How deletions are kept.
    pub form: FormChoice,
    /// Survives a power cut: what is copied up is written out before it is named.
    pub durable: bool,
    /// Only looked at: nothing is made in it, not even to try out what it can hold.
    pub read_only: bool,
}

/// What a path is in one layer.
#[derive(Debug)]
pub enum Found {
    /// Nothing: lower layers are looked at.
    Absent,
    /// Deleted: lower layers are hidden.
    Whiteout,
    /// An object.
    Object(Object),
}

/// An object in a layer.
#[derive(Debug)]
pub struct Object {
    /// `O_PATH`.
    pub fd: OwnedFd,
    /// As it was when probed.
    pub stat: Stat,
    /// In the `.wh.` form: a whiteout stands beside it, so that nothing below shows through.
    pub covered: bool,
}

/// One layer of a view.
#[derive(Debug)]
pub struct Layer {
    spec: LayerSpec,
    id: u32,
    /// Every change in it is told of.
    watched: AtomicBool,
    root: Root,
    caps: OnceLock<Caps>,
    /// Held while it is found out what the upper can do: once, before anything is made in it.
    trying: parking_lot::Mutex<()>,
    /// Held from the first time that the upper is tried out.
    lock: OnceLock<[lock::Lock; 2]>,
    /// Directories of an upper that are in use.
    held: held::Held,
    /// Files of a lower layer that were read lately.
    files: files::Files,
    /// What was looked at last in a lower layer.
    last: last::Last,
    /// Which path has a number, once somebody asked.
    paths: paths::Slot,
    /// An upper's numbers that are not at their paths.
    moved: moved::Moved,
}

impl Layer {
    /// A layer whose directory is looked for now, and again later where it is missing.
    pub fn new(spec: LayerSpec) -> Layer {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Layer {
            spec,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            watched: AtomicBool::new(false),
            root: Root::default(),
            caps: OnceLock::new(),
            trying: parking_lot::Mutex::new(()),
            lock: OnceLock::new(),
            held: held::Held::default(),
            files: files::Files::default(),
            last: last::Last::default(),
            paths: paths::Slot::default(),
            moved: moved::Moved::default(),
        }
    }

    /// What and where.
    pub fn spec(&self) -> &LayerSpec {
        &self.spec
    }

    /// A number that no other layer of this process has or had.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Is every change in it told of, so that what was found needs no second look?
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// Says whether every change in it is told of from now on.
    pub fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::Release);
    }

    /// Can it be written to at all?
    pub fn is_upper(&self) -> bool {
        self.spec.upper.is_some()
    }

    /// The root's descriptor, checked for health at most once a second.
    ///
    /// # Errors
    /// `EIO` where the store is missing (SEMANTICS section 8); `ENOENT` for an optional layer.
    pub fn root(&self) -> Res<std::sync::Arc<OwnedFd>> {
        self.root.get(&self.spec)
    }

    /// Looks at once, and not within the next second, whether its root is another directory now.
    pub fn look_again(&self) {
        self.root.look_again(&self.spec);
    }

    /// Why the layer is not there now.
    pub fn missing(&self) -> Option<String> {
        self.root.missing(&self.spec)
    }

    /// How this layer keeps deletions.
    pub fn form(&self) -> Form {
        if !self.is_upper() {
            return Form::Device;
        }
        self.caps().map_or(Form::Device, |caps| caps.form)
    }

    /// Opens without following a symlink anywhere.
    ///
    /// # Errors
    /// openat2(2)'s, and [`Layer::root`]'s.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Res<OwnedFd> {
        obj::open_beneath(self.root()?.as_fd(), path, flags, Mode::empty())
    }

    /// Opens a directory to act on names in it.
    ///
    /// # Errors
    /// openat2(2)'s, and [`Layer::root`]'s.
    pub fn open_dir(&self, path: &[u8]) -> Res<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Opens a regular file for I/O: never a FIFO or a device that took its place.
    ///
    /// # Errors
    /// openat2(2)'s; `ESTALE` where it is no regular file.
    pub fn open_regular(&self, path: &[u8], flags: OFlags) -> Res<OwnedFd> {
        let fd = self.open(path, OFlags::PATH)?;
        if obj::stat(&fd)?.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        let flags = if self.is_upper() {
            flags
        } else {
            flags | OFlags::NOATIME
        };
        obj::reopen(&fd, flags)
    }

    /// What is at `path`; the empty path is the root.
    ///
    /// # Errors
    /// `EIO` where the layer is missing, `ENAMETOOLONG`, `EACCES` and the like.
    pub fn probe(&self, path: &[u8]) -> Res<Found> {
        if self.is_upper() && machinery::is_ours(obj::split(path).1, self.form()) {
            // A lower layer may have such a name, and it may have been deleted.
            return Ok(match self.has_whiteout_file(path)? {
                true => Found::Whiteout,
                false => Found::Absent,
            });
        }
        let fd = match self.open(path, OFlags::PATH) {
            Ok(fd) => fd,
            Err(e @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                if e == Errno::NOENT && self.has_whiteout_file(path)? {
                    return Ok(Found::Whiteout);
                }
                return Ok(Found::Absent);
            }
            Err(e) => return Err(e),
        };
        let stat = obj::stat(&fd)?;
        if is_whiteout(&stat) {
            return Ok(Found::Whiteout);
        }
        let covered = self.has_whiteout_file(path)?;
        Ok(Found::Object(Object { fd, stat, covered }))
    }

    /// What is at `path`, whiteouts shown as the objects that they are.
    ///
    /// # Errors
    /// As [`Layer::probe`].
    pub fn probe_raw(&self, path: &[u8]) -> Res<Found> {
        if obj::split(path).1.starts_with(machinery::OURS) {
            return Ok(Found::Absent);
        }
        match self.open(path, OFlags::PATH) {
            Ok(fd) => {
                let stat = obj::stat(&fd)?;
                Ok(Found::Object(Object {
                    fd,
                    stat,
                    covered: false,
                }))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Found::Absent),
            Err(e) => Err(e),
        }
    }

    /// Does a whiteout of the `.wh.` form stand for this path?
    fn has_whiteout_file(&self, path: &[u8]) -> Res<bool> {
        if !self.is_upper() || self.form() != Form::File || path.is_empty() {
            return Ok(false);
        }
        let (parent, name) = obj::split(path);
        let Ok(mark) = machinery::whiteout_name(name) else {
            return Ok(false);
        };
        let mark = if parent.is_empty() {
            mark
        } else {
            [parent, b"/", &mark[..]].concat()
        };
        match self.open(&mark, OFlags::PATH) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Does this directory, `covered` by a whiteout beside it or not ([`Object::covered`]), hide
    /// what is below it?
    ///
    /// # Errors
    /// What reading the mark answers, other than that there is none.
    pub fn opaque(&self, dir: impl AsFd, covered: bool) -> Res<bool> {
        if covered {
            return Ok(true);
        }
        if self.form() == Form::File {
            return match obj::stat_name(dir, machinery::WH_OPAQUE) {
                Ok(_) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(e) => Err(e),
            };
        }
        self.opaque_by(&Xattrs::of_dir(&dir))
    }

    fn opaque_by(&self, attrs: &Xattrs<'_>) -> Res<bool> {
        match attrs.get(machinery::OPAQUE) {
            Ok(value) => Ok(value == b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The names in a directory with their types (0 where unknown), whiteouts told apart; nothing
    /// of the machinery.
    ///
    /// # Errors
    /// What opening or reading answers.
    pub fn list(&self, path: &[u8]) -> Res<Vec<Listed>> {
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let form = self.form();
        let mut listed = Vec::new();
        for entry in dir::list(&fd)? {
            if self.is_upper() && form == Form::File && entry.name.starts_with(machinery::WH) {
                let name = &entry.name[machinery::WH.len()..];
                if !machinery::is_reserved(&entry.name) && !name.is_empty() {
                    listed.push(Listed {
                        name: name.into(),
                        kind: 0,
                        whiteout: true,
                    });
                }
                continue;
            }
            if self.is_upper() && machinery::is_ours(&entry.name, form) {
                continue;
            }
            let mut whiteout = false;
            if entry.kind == libc::S_IFCHR || entry.kind == 0 {
                match obj::stat_name(&fd, &entry.name) {
                    Ok(stat) => whiteout = is_whiteout(&stat),
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e),
                }
            }
            listed.push(Listed {
                name: entry.name,
                kind: entry.kind,
                whiteout,
            });
        }
        Ok(listed)
    }

    /// The names in a directory as they are, less the daemon's own.
    ///
    /// # Errors
    /// As [`Layer::list`].
    pub fn list_raw(&self, path: &[u8]) -> Res<Vec<Listed>> {
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = dir::list(&fd)?.into_iter();
        Ok(entries
            .filter(|entry| !entry.name.starts_with(machinery::OURS))
            .map(|entry| Listed {
                name: entry.name,
                kind: entry.kind,
                whiteout: false,
            })
            .collect())
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// readlinkat(2)'s.
    pub fn readlink(&self, fd: impl AsFd) -> Res<Vec<u8>> {
        Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
    }

    /// Where an image that liteimg rewrote keeps the content of `path`, if that is a symlink to
    /// `target` and the first step of its chain:
    /// `etc/x -> ../.statelite/tmpfs/etc/x -> ../../../.default/etc/x`. By words alone: liteimg may
    /// run while the image is served.
    pub fn read_through(&self, path: &[u8], target: &[u8]) -> Option<Vec<u8>> {
        let chain = || [b".statelite/tmpfs/", path].concat();
        let first_step =
            target.ends_with(obj::split(path).1) && resolve_lexically(path, target) == chain();
        first_step.then(|| [b".default/", path].concat())
    }
}

/// One name in a layer's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// The name in the view.
    pub name: Box<[u8]>,
    /// `S_IFMT` bits or 0.
    pub kind: u32,
    /// A deletion: hides the name in lower layers.
    pub whiteout: bool,
}

fn is_whiteout(stat: &Stat) -> bool {
    stat.kind() == libc::S_IFCHR && stat.rdev == machinery::NULL_DEVICE
}

/// A symlink's target as a path from the root, by words alone.
fn resolve_lexically(link: &[u8], target: &[u8]) -> Vec<u8> {
    let start = if target.starts_with(b"/") {
        &b""[..]
    } else {
        obj::split(link).0
    };
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in start
        .split(|b| *b == b'/')
        .chain(target.split(|b| *b == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn spec(base: impl Into<PathBuf>, upper: Option<UpperSpec>) -> LayerSpec {
        LayerSpec {
            label: "test".into(),
            base: base.into(),
            sub: None,
            require_mount: None,
            optional: false,
            upper,
        }
    }

    fn layer(base: PathBuf) -> Layer {
        Layer::new(spec(base, None))
    }

    #[test]
    fn a_symlink_is_found_but_never_walked_through() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::fs::write(dir.path().join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("etc")).unwrap();
        let layer = layer(dir.path().into());
        let kind = |path: &[u8]| match layer.probe(path).unwrap() {
            Found::Object(o) => o.stat.kind(),
            _ => 0,
        };
        assert_eq!(kind(b"real/file"), libc::S_IFREG);
        assert_eq!(kind(b"link"), libc::S_IFLNK);
        assert_eq!(kind(b"etc"), libc::S_IFLNK);
        assert_eq!(kind(b"link/file"), 0);
        assert_eq!(kind(b"etc/passwd"), 0);
        assert!(layer.open(b"../x", OFlags::PATH).is_err());
    }

    #[test]
    fn a_path_longer_than_path_max_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let mut at = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o755)).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).unwrap();
            path.extend_from_slice(name.as_bytes());
            path.push(b'/');
        }
        path.pop();
        assert!(path.len() > 4096);
        assert!(matches!(
            layer(dir.path().into()).probe(&path),
            Ok(Found::Object(_))
        ));
    }

    #[test]
    fn a_chain_of_liteimg_is_read_through() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["etc", ".default/etc", ".statelite/tmpfs/etc"] {
            std::fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        std::fs::write(dir.path().join(".default/etc/ntp.conf"), "server").unwrap();
        let link =
            |to: &str, at: &str| std::os::unix::fs::symlink(to, dir.path().join(at)).unwrap();
        link(
            "../../../.default/etc/ntp.conf",
            ".statelite/tmpfs/etc/ntp.conf",
        );
        link("../.statelite/tmpfs/etc/ntp.conf", "etc/ntp.conf");
        link("../usr/share/zoneinfo/UTC", "etc/localtime");
        let layer = layer(dir.path().into());
        let through = |path: &[u8]| match layer.probe(path).unwrap() {
            Found::Object(o) => layer.read_through(path, &layer.readlink(&o.fd).unwrap()),
            _ => None,
        };
        assert_eq!(through(b"etc/ntp.conf").unwrap(), b".default/etc/ntp.conf");
        assert!(through(b"etc/localtime").is_none());
    }
}
