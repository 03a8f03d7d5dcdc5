//! Mounting FUSE with a descriptor of our own, and unmounting just that mount.
//!
//! fuser's own mounting is not used: when a view was unmounted by umount(8), its session unmounts
//! the path once more, and takes with it what was mounted there before.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
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
