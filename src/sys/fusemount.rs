//! Mounting FUSE with a descriptor of our own, and unmounting just that mount.
//!
//! fuser's own mounting is not used: when a view was unmounted by umount(8), its session unmounts
//! the path once more, and takes with it what was mounted there before.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Errno, Res};

/// Mounts a FUSE file system named `source` on `point`; requests come out of the descriptor.
/// Setuid programs and devices work in it, the kernel checks permissions, all users may enter.
///
/// # Errors
/// `ENOENT` or `ENXIO` where there is no /dev/fuse; mount(2)'s.
pub fn mount(source: &str, point: &Path) -> Res<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(c"/dev/fuse", flags, Mode::empty())?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::empty();
    rustix::mount::mount(source, point, "fuse.statelite", flags, options.as_c_str())?;
    Ok(device)
}

/// Unmounts what is on top at `point`, unless it is in use.
///
/// # Errors
/// `EBUSY` where a file is open or a directory is a working directory; umount2(2)'s.
pub fn unmount(point: &Path) -> Res<()> {
    rustix::mount::unmount(point, UnmountFlags::NOFOLLOW)
}

/// Takes what is on top at `point` out of the tree, and what is mounted below it; who uses it goes
/// on, and it ends with the last of them.
///
/// # Errors
/// umount2(2)'s.
pub fn detach(point: &Path) -> Res<()> {
    rustix::mount::unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
}

/// As [`detach`], and ends the connection: who uses it gets ENOTCONN.
///
/// # Errors
/// umount2(2)'s.
pub fn abort(point: &Path) -> Res<()> {
    let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE;
    rustix::mount::unmount(point, flags)
}

/// The id of the mount on top at `point`. Asks no file system, so that one that hangs or is dead
/// can be told as well.
///
/// # Errors
/// statx(2)'s.
pub fn mount_id(point: &Path) -> Res<u64> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(rustix::fs::CWD, point, flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}
