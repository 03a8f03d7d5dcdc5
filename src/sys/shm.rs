//! Memory that outlives a process: a memfd, mapped as words that several processes may share.
//!
//! All access is by atomics, so that whatever another process does to it is a value and no more.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::{Errno, Res};

/// A mapped memfd. What was never written to takes no memory.
#[derive(Debug)]
pub struct Memory {
    fd: OwnedFd,
    at: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping stays where it is until the value is dropped, and is only reached as atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes one of so many words, all zero, whose size nobody can change any more.
    ///
    /// # Errors
    /// memfd_create(2)'s and mmap(2)'s.
    pub fn create(name: &str, words: usize) -> Res<Memory> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::ftruncate(&fd, (words * size_of::<u64>()) as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Memory::map(fd)
    }

    /// Maps one that another process has made.
    ///
    /// # Errors
    /// `EINVAL` where it could be made smaller, or is none; mmap(2)'s.
    pub fn map(fd: OwnedFd) -> Res<Memory> {
        // What is cut off under a mapping would be a SIGBUS.
        if !rustix::fs::fcntl_get_seals(&fd)?.contains(SealFlags::SHRINK) {
            return Err(Errno::INVAL);
        }
        let bytes = usize::try_from(rustix::fs::fstat(&fd)?.st_size).map_err(|_| Errno::INVAL)?;
        let words = bytes / size_of::<u64>();
        let (read_write, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; no other memory is touched.
        let at =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, read_write, shared, &fd, 0)? };
        let at = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
        Ok(Memory { fd, at, words })
    }

    /// The words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has so many words, is aligned to a page, cannot shrink (its seal), and
        // lives as long as self; atomics may change under a shared reference.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.words) }
    }

    /// Gives back the memory of whole pages in a range of words, which are zero then.
    ///
    /// # Errors
    /// fallocate(2)'s.
    pub fn give_back(&self, from: usize, words: usize) -> Res<()> {
        let size = size_of::<u64>();
        let (from, len) = ((from * size) as u64, (words * size) as u64);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, punch, from, len)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody has a reference into it any more.
        let unmapped =
            unsafe { rustix::mm::munmap(self.at.as_ptr().cast(), self.words * size_of::<u64>()) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "shared memory was not unmapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_writes_another_reads() {
        let one = Memory::create("test", 4096).unwrap();
        let other = Memory::map(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        one.words()[4095].store(7, Ordering::Release);
        assert_eq!(other.words()[4095].load(Ordering::Acquire), 7);
        other.give_back(3584, 512).unwrap();
        assert_eq!(one.words()[4095].load(Ordering::Acquire), 0);
        assert_eq!(one.words().len(), 4096);
    }

    #[test]
    fn what_may_shrink_is_not_mapped() {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(Memory::map(fd).err(), Some(Errno::INVAL));
    }
}
