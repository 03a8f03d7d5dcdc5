//! The place for operations that write: a directory of our own below the one that was named, in each
//! mount, and its removal however a run ends.
//!
//! Owns: everything that is created in a mount. May not: touch what it has not made.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat};
use rustix::io::Errno;

use super::{BenchError, Place};
use crate::sys::close::close;
use crate::sys::dir;

/// What the name of our directory begins with; process and mount follow.
pub(super) const OURS: &str = ".statelite-bench.";
/// How many files appending goes round.
pub(super) const APPENDED: usize = 64;

/// A directory of our own in one mount; it and what is in it go when this is dropped.
#[derive(Debug)]
pub(super) struct Ground {
    parent: OwnedFd,
    /// The directory to work in.
    pub(super) own: OwnedFd,
    name: String,
    shown: PathBuf,
    removed: bool,
}

impl Ground {
    /// Makes it below `dir` of the mount. No symlink on the way is followed: where one in a node's
    /// root leads is not for the node to say.
    pub(super) fn make(place: &Place, number: usize, dir: &Path) -> Result<Ground, BenchError> {
        let name = format!("{OURS}{}.{number}", std::process::id());
        let at = place.mount.path.join(dir);
        let failed = |error| BenchError::Ground {
            mount: place.mount.name.clone(),
            at: at.clone(),
            error,
        };
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let parent = openat2(&place.root, dir, flags, Mode::empty(), inside).map_err(failed)?;
        mkdirat(&parent, &name, Mode::RWXU).map_err(failed)?;
        let flags = flags | OFlags::NOFOLLOW;
        let own = openat(&parent, &name, flags, Mode::empty()).map_err(|error| {
            // What can't be opened is empty: nothing was made in it.
            match unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
                Ok(()) => failed(error),
                Err(left) => left_over(at.join(&name), left),
            }
        })?;
        Ok(Ground {
            parent,
            own,
            shown: at.join(&name),
            name,
            removed: false,
        })
    }

    /// Makes the files that are appended to.
    pub(super) fn fill(&self) -> Result<(), Errno> {
        for number in 0..APPENDED {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            close(openat(
                &self.own,
                appended(number),
                flags,
                Mode::from(0o600),
            )?)?;
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn remove(mut self) -> Result<(), BenchError> {
        self.clear()
            .map_err(|error| left_over(self.shown.clone(), error))
    }

    fn clear(&mut self) -> Result<(), Errno> {
        // Once is enough: a second try of what failed would fail and be told again.
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        // The signal that ends the run may also end a call of its removal.
        rustix::io::retry_on_intr(|| self.try_to_clear())
    }

    fn try_to_clear(&self) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(&self.own, ".", flags, Mode::empty())?;
        for entry in dir::list(&listed)? {
            unlinkat(&self.own, &*entry.name, AtFlags::empty())?;
        }
        unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::error!("{}", left_over(self.shown.clone(), error));
        }
    }
}

fn left_over(at: PathBuf, error: Errno) -> BenchError {
    BenchError::LeftOver { at, error }
}

/// The name of a file that is appended to.
pub(super) fn appended(number: usize) -> String {
    format!("a{}", number % APPENDED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Mount;

    fn place(at: &Path) -> Place {
        Place::open(&Mount {
            name: "here".into(),
            path: at.into(),
        })
        .unwrap()
    }

    fn is_empty(dir: &Path) -> bool {
        std::fs::read_dir(dir).unwrap().next().is_none()
    }

    #[test]
    fn what_was_made_goes_when_asked_and_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let place = place(dir.path());
        for asked in [true, false] {
            let ground = Ground::make(&place, 0, Path::new("sub")).unwrap();
            ground.fill().unwrap();
            let made = std::fs::read_dir(&ground.shown).unwrap().count();
            assert_eq!(made, APPENDED);
            if asked {
                ground.remove().unwrap();
            } else {
                drop(ground);
            }
            assert!(is_empty(&dir.path().join("sub")));
        }
    }

    #[test]
    fn what_cannot_be_removed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ground = Ground::make(&place(dir.path()), 7, Path::new("")).unwrap();
        let foreign = ground.shown.join("directory");
        std::fs::create_dir(&foreign).unwrap();
        let shown = ground.shown.clone();
        let error = ground.remove().unwrap_err().to_string();
        assert!(error.contains(shown.to_str().unwrap()), "{error}");
        assert!(foreign.is_dir());
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let error = Ground::make(&place(&inside), 0, Path::new("link")).unwrap_err();
        assert!(
            matches!(
                error,
                BenchError::Ground {
                    error: Errno::LOOP,
                    ..
                }
            ),
            "{error}"
        );
        let error = Ground::make(&place(&inside), 0, Path::new("../out")).unwrap_err();
        assert!(
            matches!(
                error,
                BenchError::Ground {
                    error: Errno::XDEV,
                    ..
                }
            ),
            "{error}"
        );
        assert!(is_empty(&outside));
    }
}
