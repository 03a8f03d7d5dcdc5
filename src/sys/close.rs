//! close(2) with its result.
#![allow(unsafe_code)]

use std::os::fd::{IntoRawFd, OwnedFd};

use super::{Errno, Res};

/// Closes a descriptor and says what the file system could not write (NFS: quota, space), which
/// dropping it would throw away.
///
/// # Errors
/// close(2)'s; the descriptor is gone all the same.
pub fn close(fd: OwnedFd) -> Res<()> {
    // SAFETY: the descriptor was owned and is given up here, so nobody else closes or uses it.
    let result = unsafe { libc::close(fd.into_raw_fd()) };
    match std::io::Error::last_os_error().raw_os_error() {
        Some(errno) if result != 0 => Err(Errno::from_raw_os_error(errno)),
        _ => Ok(()),
    }
}
