//! Mount points: why a view could not be mounted, and how it goes.

use std::io;
use std::path::{Path, PathBuf};

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
