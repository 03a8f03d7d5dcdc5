//! The few system calls that neither std nor rustix offers as a safe function.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};
use rustix::thread::UnshareFlags;

fn last() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn c(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Gives the calling thread its own working directory, root and umask.
pub fn unshare_fs() {
    // SAFETY: only the calling thread's fs_struct changes; no Rust object refers to it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.unwrap();
}

/// Gives the calling thread its own table of open files, with the standard streams only: to the kernel
/// its locks are another process's, and it keeps no other test's view busy.
pub fn unshare_files() {
    // SAFETY: only this thread's table changes. A thread that calls this uses no descriptor from before.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE as i32) };
    assert_eq!(done, 0, "close_range: {}", last());
}

/// truncate(2), which unlike ftruncate(2) carries no handle.
pub fn truncate(path: &Path, len: u64) -> Result<()> {
    let path = c(path);
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    match unsafe { libc::truncate(path.as_ptr(), len as libc::off_t) } {
        0 => Ok(()),
        _ => Err(last()),
    }
}

/// What F_GETLK says: the type of a lock that would conflict with an exclusive one over `start..start+len`.
pub fn conflicting_lock<F: AsFd>(fd: F, start: i64, len: i64) -> Result<i16> {
    // SAFETY: flock is a plain struct of integers, for which all zeros is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: `lock` is a valid flock for the kernel to fill in.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GETLK, &mut lock) } {
        0 => Ok(lock.l_type),
        _ => Err(last()),
    }
}

/// Sets or clears a POSIX record lock without waiting.
pub fn set_lock<F: AsFd>(fd: F, kind: i32, start: i64, len: i64) -> Result<()> {
    // SAFETY: as in `conflicting_lock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: `lock` is a valid flock.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(last()),
    }
}

/// A mapping of a file's beginning, read and written through volatile accesses only.
pub struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    /// Maps `len` bytes shared; `write` asks for a writable mapping.
    pub fn shared(file: &File, len: usize, write: bool) -> Result<Self> {
        Self::new(file, len, write, MapFlags::SHARED)
    }

    /// Maps `len` bytes privately and writable.
    pub fn private(file: &File, len: usize) -> Result<Self> {
        Self::new(file, len, true, MapFlags::PRIVATE)
    }

    fn new(file: &File, len: usize, write: bool, flags: MapFlags) -> Result<Self> {
        let prot = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }?;
        Ok(Self { at: at.cast(), len })
    }

    /// The bytes `from..from + n` now.
    pub fn read(&self, from: usize, n: usize) -> Vec<u8> {
        assert!(from + n <= self.len);
        // SAFETY: within the mapping; volatile because the file may change beneath at any time.
        (from..from + n)
            .map(|i| unsafe { self.at.add(i).read_volatile() })
            .collect()
    }

    /// Stores `bytes` at `from`; the mapping must be writable.
    pub fn write(&self, from: usize, bytes: &[u8]) {
        assert!(from + bytes.len() <= self.len);
        for (i, b) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, which the caller made writable.
            unsafe { self.at.add(from + i).write_volatile(*b) };
        }
    }

    /// msync(MS_SYNC).
    pub fn sync(&self) -> Result<()> {
        // SAFETY: the range is exactly this mapping.
        unsafe { rustix::mm::msync(self.at.cast(), self.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range is exactly this mapping, and `self` is its only owner.
        unsafe { rustix::mm::munmap(self.at.cast(), self.len) }.unwrap();
    }
}
