//! Mounting FUSE with a descriptor of our own, and unmounting just that mount.
//!
//! fuser's own mounting is not used: when a view was unmounted by umount(8), its session unmounts
//! the path once more, and takes with it what was mounted there before.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
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

/// Puts an open file in the place of the descriptor `at`, in one step: whoever has that number uses
/// the other file from now on.
///
/// # Errors
/// dup3(2)'s.
pub fn put_in_place(file: BorrowedFd<'_>, at: RawFd) -> Res<()> {
    // SAFETY: dup3 touches no memory. `at` stays an open descriptor, so that whoever owns it may go on
    // to use and to close it.
    let done = unsafe { libc::dup3(file.as_raw_fd(), at, libc::O_CLOEXEC) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

fn last_error() -> Errno {
    let raw = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}

/// `FUSE_DEV_IOC_BACKING_CLOSE`: `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// Takes back a file that the kernel was handed; what is open by it stays.
///
/// # Errors
/// `ENOENT` where there is none with that number.
pub fn close_backing(device: impl AsFd, id: u32) -> Res<()> {
    // SAFETY: the kernel reads a u32, which this is and outlives the call.
    let done = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if done < 0 { Err(last_error()) } else { Ok(()) }
}

/// A backing's number as fuser wants it for an answer. Whoever registered it takes it back, so that this
/// is to be given up by `into_raw`.
pub fn as_opened(reply: &fuser::ReplyOpen, id: u32) -> fuser::BackingId {
    // SAFETY: no memory hangs on the number: it is this session's own, and stays registered until
    // its last open is released.
    unsafe { reply.wrap_backing(id) }
}

/// The same for a file that was made.
pub fn as_created(reply: &fuser::ReplyCreate, id: u32) -> fuser::BackingId {
    // SAFETY: as above.
    unsafe { reply.wrap_backing(id) }
}
