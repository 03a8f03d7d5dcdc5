//! The request that a thread is serving, for the few that ask: is it one that a worker before this one
//! may have done already? (FUSE_NOTIFY_RESEND, include/uapi/linux/fuse.h.)

use std::cell::Cell;

/// Set in the number of a request that is handed out again (FUSE_UNIQUE_RESEND).
const RESENT: u64 = 1 << 63;

thread_local! {
    static UNIQUE: Cell<u64> = const { Cell::new(0) };
}

/// This thread serves the request with this number.
pub fn begin(unique: u64) {
    UNIQUE.set(unique);
}

/// The number of the request that this thread serves, as it comes.
pub fn current() -> u64 {
    UNIQUE.get()
}

/// Its number without the mark.
pub fn number() -> u64 {
    UNIQUE.get() & !RESENT
}

/// May it have been done already?
pub fn is_resent() -> bool {
    UNIQUE.get() & RESENT != 0
}
