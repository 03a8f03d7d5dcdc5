//! The process's own descriptors as names: a descriptor that a call does not take (`O_PATH`) is
//! reached by its magic link, which ends at the object itself and follows nothing more.
//!
//! Owns: the directory of those links, opened once: a walk through "/proc/self" costs more than
//! what is done at its end. May not: open anything else.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};
use rustix::path::DecInt;

/// The link's name.
pub(super) type Name = DecInt;

/// The directory of the links, and the name of a descriptor's link in it; `None` where there is no
/// /proc to open (then a path through it answers why).
pub(super) fn own(fd: BorrowedFd<'_>) -> Option<(BorrowedFd<'static>, Name)> {
    static LINKS: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()).ok()
    };
    let links = LINKS.get_or_init(open).as_ref()?;
    Some((links.as_fd(), DecInt::new(fd.as_raw_fd())))
}
