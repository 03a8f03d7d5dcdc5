//! The allocator: how it is set up for a process of many threads, and giving freed memory back.
#![allow(unsafe_code)]

/// Hands what the allocator holds free back to the system (malloc_trim(3)); worth its time only
/// after much was freed at once.
pub fn give_back() {
    // SAFETY: takes no pointer; glibc locks its arenas itself, so any thread may call it.
    unsafe { libc::malloc_trim(0) };
}

/// What is larger than this has a mapping of its own. Above what is read and written at once, below
/// the buffer that each session reads its requests into (16 MiB, of which little is ever touched).
const OWN_MAPPING: libc::c_int = 8 << 20;

/// For a process with a thread or two for each of many nodes. Without this, the allocator makes up
/// to eight heaps a CPU, and, once the first session's buffer was freed, puts the next ones on them,
/// where they are cleared, and so resident, as a whole.
pub fn many_threads() {
    let heaps = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 32));
    // SAFETY: mallopt(3) takes integers; called before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        libc::mallopt(libc::M_ARENA_MAX, heaps as libc::c_int);
    }
}
