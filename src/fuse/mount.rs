//! Mounting a view and running its session.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};

use super::{Adapter, IoNow, Notifier};
use crate::sys::{Errno, fusemount};

/// Why a view could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is no directory.
    #[error("{path}: {error}; {}", point_hint(.error))]
    Point {
        /// The mount point.
        path: PathBuf,
        /// What looking at it answered.
        error: io::Error,
    },
    /// The kernel refused.
    #[error("mounting on {path}: {error}{}", hint(.error))]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) or the handshake answered.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (mounting needs root)",
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => " (is /dev/fuse there, fuse loaded?)",
        _ => "",
    }
}

fn point_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        // A view whose daemon was killed.
        Some(libc::ENOTCONN) => "nothing serves what is mounted there: umount it first",
        _ => "the mount point must be an existing directory",
    }
}

/// A mounted view, not yet serving.
#[derive(Debug)]
pub struct MountPoint {
    session: Session<Adapter>,
    notifier: Notifier,
    io: Arc<IoNow>,
    interim: std::os::fd::OwnedFd,
}

/// Mounts; requests wait until [`MountPoint::run`].
///
/// # Errors
/// [`MountError`], with the reason and what to do.
pub fn mount(adapter: Adapter, point: &Path, threads: usize) -> Result<MountPoint, MountError> {
    let failed = |error| MountError::Point {
        path: point.into(),
        error,
    };
    if !std::fs::metadata(point).map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    let refused = |error: io::Error| MountError::Kernel {
        path: point.into(),
        error,
    };
    let source = format!("statelite:{}", adapter.name());
    let device = fusemount::mount(&source, point).map_err(|e| refused(e.into()))?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    config.clone_fd = threads > 1;
    let interim = device.try_clone().map_err(&refused)?;
    let copy = device.try_clone().map_err(&refused);
    let notifier = match copy {
        Ok(copy) => Notifier::new(copy),
        Err(error) => {
            unmount(point).map_err(|e| refused(e.into()))?;
            return Err(error);
        }
    };
    let io = adapter.io();
    // Nobody has set it: the adapter is mounted once.
    adapter.notifier.get_or_init(|| notifier.clone());
    match Session::from_fd(adapter, device, SessionACL::All, config) {
        Ok(session) => Ok(MountPoint {
            session,
            notifier,
            io,
            interim,
        }),
        Err(error) => {
            unmount(point).map_err(|e| refused(e.into()))?;
            Err(refused(error))
        }
    }
}

/// INTERIM
pub trait Keeper: Send + Sync {
    /// x
    fn keep_object(&self, number: u64, fd: std::os::fd::BorrowedFd<'_>);
    /// x
    fn drop_object(&self, number: u64);
}

/// INTERIM
#[derive(Debug)]
pub struct Left {
    /// x
    pub device: std::os::fd::OwnedFd,
    /// x
    pub state: std::os::fd::OwnedFd,
    /// x
    pub objects: std::collections::BTreeMap<u64, std::os::fd::OwnedFd>,
}

/// INTERIM
pub fn adopt(_adapter: Adapter, _left: Left, _threads: usize) -> Result<MountPoint, MountError> {
    Err(MountError::Kernel {
        path: "".into(),
        error: io::ErrorKind::Unsupported.into(),
    })
}

/// INTERIM
pub fn check_state(_state: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

/// Unmounts what is on top at a mount point, unless it is in use; the session then ends.
///
/// # Errors
/// `EBUSY` while it is in use.
pub fn unmount(point: &Path) -> Result<(), Errno> {
    fusemount::unmount(point)
}

/// How a mount goes that is in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// It stays.
    Idle,
    /// Out of the tree now, and away with its last user.
    Lazily,
    /// Away now: its users' files fail.
    AtOnce,
}

/// Unmounts as [`unmount`] does, and goes on as `how` says where it is in use. Says whether it was
/// not.
///
/// # Errors
/// `EBUSY` while it is in use, for [`Leave::Idle`].
pub fn unmount_how(point: &Path, how: Leave) -> Result<bool, Errno> {
    match (fusemount::unmount(point), how) {
        (Err(Errno::BUSY), Leave::Lazily) => fusemount::detach(point).map(|()| false),
        (Err(Errno::BUSY), Leave::AtOnce) => fusemount::abort(point).map(|()| false),
        (done, _) => done.map(|()| true),
    }
}

/// Takes away what was mounted by a process that has died. Says whether there was any.
///
/// # Errors
/// umount2(2)'s.
pub fn clear_dead(point: &Path) -> Result<bool, Errno> {
    let mut any = false;
    while std::fs::metadata(point).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)) {
        fusemount::detach(point)?;
        any = true;
    }
    Ok(any)
}

/// The mount on top at `point`: another number than before where something else is now.
///
/// # Errors
/// `ENOENT` where there is no such directory.
pub fn mount_id(point: &Path) -> Result<u64, Errno> {
    fusemount::mount_id(point)
}

impl MountPoint {
    /// Tells the kernel of changes, also while [`MountPoint::run`] serves. To be dropped when that
    /// has returned: the mount's connection lives as long as it does.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// INTERIM
    pub fn device(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.interim)
    }
    /// INTERIM
    pub fn state(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.interim)
    }
    /// INTERIM
    pub fn set_keeper(&self, _keeper: Arc<dyn Keeper>) {}
    /// INTERIM
    pub fn goes_on(&self) -> bool {
        false
    }

    /// Which way the kernel reads and writes, also later.
    pub fn io(&self) -> Arc<IoNow> {
        self.io.clone()
    }

    /// Serves until the view is unmounted.
    ///
    /// # Errors
    /// What reading requests answers, other than that the view was unmounted.
    pub fn run(self) -> io::Result<()> {
        let MountPoint {
            session, notifier, ..
        } = self;
        drop(notifier);
        session.run()
    }
}
