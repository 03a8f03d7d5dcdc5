//! Descriptors that a process is started with.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use super::{Errno, Res};

/// Takes a descriptor that whoever started this process left to it under a number that it was told;
/// no child of this process gets it. To be called once for each number, before anything else has
/// opened a file.
///
/// # Errors
/// `EBADF` where nothing is open under the number.
pub fn take(number: RawFd) -> Res<OwnedFd> {
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // SAFETY: only borrowed to ask whether it is open; fcntl(2) answers EBADF where it is not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, was left to this process alone, and is taken once, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Leaves a descriptor to the children that are started from now on, or keeps it from them.
///
/// # Errors
/// fcntl(2)'s.
pub fn leave(descriptor: &OwnedFd, leave: bool) -> Res<()> {
    let flags = match leave {
        true => FdFlags::empty(),
        false => FdFlags::CLOEXEC,
    };
    rustix::io::fcntl_setfd(descriptor, flags)
}
