//! A layer's root directory: found, kept open, checked for being what it is meant to be, and
//! found again when it comes back (SEMANTICS section 8).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::LayerSpec;
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};

/// How often a root that is in use is looked at again.
const RECHECK: Duration = Duration::from_secs(1);
/// f_type of an automount point on which nothing is mounted yet (include/uapi/linux/magic.h).
const AUTOFS_MAGIC: u64 = 0x0187;

/// What must be mounted for a directory to be the store it is meant to be.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum MountRule {
    /// The base must be on another mount than this directory: what an automounter, or the daemon
    /// itself, mounts below it for a remote store.
    Off(PathBuf),
    /// This directory must be a mount point.
    At(PathBuf),
}

#[derive(Debug, Default)]
struct State {
    fd: Option<Arc<OwnedFd>>,
    why: Option<String>,
    /// An upper that is only looked at and has nothing of this node yet.
    empty: bool,
    checked: Option<Instant>,
}

/// Why a root could not be opened.
enum Missing {
    /// The store is not there, in words.
    Gone(String),
    /// The store is there, and has nothing of this node yet (an upper that is only looked at).
    Empty,
    /// This process has no descriptor or memory left to look: nothing is known of the store.
    NoMeans,
}

impl Missing {
    fn of(path: impl std::fmt::Display, error: Errno) -> Missing {
        match error {
            Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR => Missing::NoMeans,
            error => Missing::Gone(format!("{path}: {error}")),
        }
    }
}

/// A root and its health.
#[derive(Debug, Default)]
pub(super) struct Root {
    state: Mutex<State>,
}

impl Root {
    pub(super) fn get(&self, spec: &LayerSpec) -> Res<Arc<OwnedFd>> {
        let mut state = self.state.lock();
        if state.checked.is_none_or(|at| at.elapsed() >= RECHECK) {
            state.recheck(spec);
        }
        match &state.fd {
            Some(fd) => Ok(fd.clone()),
            None if spec.optional || state.empty => Err(Errno::NOENT),
            None => Err(Errno::IO),
        }
    }

    /// Looks at once whether it is still the same directory.
    pub(super) fn look_again(&self, spec: &LayerSpec) {
        self.state.lock().recheck(spec);
    }

    pub(super) fn missing(&self, spec: &LayerSpec) -> Option<String> {
        let mut state = self.state.lock();
        if state.fd.is_none() || state.checked.is_none_or(|at| at.elapsed() >= RECHECK) {
            state.recheck(spec);
        }
        state.why.clone()
    }
}

impl State {
    fn recheck(&mut self, spec: &LayerSpec) {
        self.checked = Some(Instant::now());
        match open(spec) {
            Ok((fd, stat)) => {
                self.empty = false;
                if self.why.take().is_some() {
                    tracing::info!(layer = spec.label, path = %spec.base.display(), "is there again");
                }
                // The same directory: the open descriptor stays, and with it what it pins.
                let same = self.fd.as_ref().is_some_and(|held| {
                    obj::stat(held).is_ok_and(|s| (s.dev, s.ino) == (stat.dev, stat.ino))
                });
                if !same {
                    self.fd = Some(Arc::new(fd));
                }
            }
            Err(Missing::Empty) => {
                (self.fd, self.why, self.empty) = (None, None, true);
            }
            // What is held stays good; without it, the store is as little there as before.
            Err(Missing::NoMeans) => {
                tracing::warn!(layer = spec.label, "no descriptors left to look for it");
            }
            Err(Missing::Gone(why)) => {
                if self.why.is_none() && !spec.optional {
                    tracing::warn!(layer = spec.label, path = %spec.base.display(), %why, "is missing");
                }
                (self.fd, self.why, self.empty) = (None, Some(why), false);
            }
        }
    }
}

fn open(spec: &LayerSpec) -> Result<(OwnedFd, Stat), Missing> {
    let shown = &spec.base.display();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = open_base(spec, &spec.base, flags).map_err(|e| Missing::of(shown, e))?;
    if let Some(rule) = &spec.require_mount {
        check_mounted(rule, &spec.base, &base)?;
    }
    let Some(sub) = &spec.sub else {
        let stat = obj::stat(&base).map_err(|e| Missing::of(shown, e))?;
        return Ok((base, stat));
    };
    let named = |e| Missing::of(format!("{shown}/{}", String::from_utf8_lossy(sub)), e);
    let mut found = obj::open_beneath(base.as_fd(), sub, flags, Mode::empty());
    let makes = spec.upper.as_ref().is_some_and(|upper| !upper.read_only);
    if matches!(found, Err(Errno::NOENT)) && makes {
        for (end, _) in sub.iter().enumerate().filter(|(_, b)| **b == b'/') {
            make_dir(&base, &sub[..end]).map_err(named)?;
        }
        make_dir(&base, sub).map_err(named)?;
        found = obj::open_beneath(base.as_fd(), sub, flags, Mode::empty());
    }
    let fd = match found {
        Err(Errno::NOENT) if spec.upper.is_some() => return Err(Missing::Empty),
        found => found.map_err(named)?,
    };
    let stat = obj::stat(&fd).map_err(named)?;
    Ok((fd, stat))
}

/// Opens a directory by a path of the administrator's. Its symlinks are followed, and an automounter
/// mounts. Not so where the directory is itself the upper: whoever can write beside it could put a
/// symlink in its place. Such a path was freed of symlinks when it was given.
///
/// # Errors
/// open(2)'s; `ELOOP` for a symlink that is there now.
pub(super) fn open_base(spec: &LayerSpec, path: &Path, flags: OFlags) -> Res<OwnedFd> {
    if spec.upper.is_none() || spec.sub.is_some() {
        return rustix::fs::open(path, flags, Mode::empty());
    }
    let confined = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), confined)
}

fn make_dir(base: &OwnedFd, path: &[u8]) -> Res<()> {
    let (parent, name) = obj::split(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let parent = obj::open_beneath(base.as_fd(), parent, flags, Mode::empty())?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => obj::open_beneath(parent.as_fd(), name, flags, Mode::empty())
            .and_then(|made| obj::chmod(made, 0o755)),
        Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e),
    }
}

fn check_mounted(rule: &MountRule, base: &Path, fd: &OwnedFd) -> Result<(), Missing> {
    let gone = |why: String| Err(Missing::Gone(why));
    match rule {
        MountRule::At(point) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let stat = rustix::fs::open(point, flags, Mode::empty())
                .and_then(obj::stat)
                .map_err(|e| Missing::of(point.display(), e))?;
            if !stat.mount_root {
                return gone(format!("nothing is mounted on {}", point.display()));
            }
        }
        MountRule::Off(dir) => {
            let kind = rustix::fs::fstatfs(fd).map_err(|e| Missing::of(base.display(), e))?;
            if kind.f_type as u64 == AUTOFS_MAGIC {
                return gone(format!(
                    "{}: the automounter has not mounted it",
                    base.display()
                ));
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let around = rustix::fs::open(dir, flags, Mode::empty())
                .and_then(obj::mount_id)
                .map_err(|e| Missing::of(dir.display(), e))?;
            let own = obj::mount_id(fd).map_err(|e| Missing::of(base.display(), e))?;
            if own == around {
                return gone(format!("{} is remote and not mounted", base.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::UpperSpec;
    use crate::layer::tests::spec;

    #[test]
    fn a_symlink_that_takes_the_place_of_an_upper_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for name in ["upper", "other"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let spec = spec(at("upper"), Some(UpperSpec::default()));
        assert!(open(&spec).is_ok());
        std::fs::rename(at("upper"), at("moved")).unwrap();
        std::os::unix::fs::symlink("other", at("upper")).unwrap();
        assert!(matches!(open(&spec), Err(Missing::Gone(why)) if why.contains("symbolic link")));
        // A store's own path is the administrator's, and may lead through one.
        let store = LayerSpec {
            sub: Some(b"node".to_vec()),
            ..spec
        };
        assert!(open(&store).is_ok());
    }
}
