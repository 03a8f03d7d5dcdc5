//! Giving freed memory back.
#![allow(unsafe_code)]

/// Hands what the allocator holds free back to the system (malloc_trim(3)); worth its time only
/// after much was freed at once.
pub fn give_back() {
    // SAFETY: takes no pointer; glibc locks its arenas itself, so any thread may call it.
    unsafe { libc::malloc_trim(0) };
}
