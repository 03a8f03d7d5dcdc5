//! Copying file contents: reflink where the store can, holes kept where the source has them.

use std::os::fd::AsFd;

use rustix::fs::SeekFrom;

use super::obj::Stat;
use super::{Errno, Res};

/// One copy_file_range(2) call moves at most this much, so that a kill is not waited for long.
const STEP: usize = 64 << 20;

/// Makes `to` (empty) hold the bytes of `from`, `size` of them.
///
/// # Errors
/// `ENOSPC`, `EIO` and whatever else reading or writing answers.
pub fn contents(from: impl AsFd, to: impl AsFd, size: u64) -> Res<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if size == 0 {
        return Ok(());
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut at = 0u64;
    while at < size {
        // A file system without SEEK_DATA answers EINVAL or calls everything data.
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(e) => return Err(e),
        };
        let end = match rustix::fs::seek(from, SeekFrom::Hole(data)) {
            Ok(hole) => hole.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        if data >= size {
            break;
        }
        range(from, data, to, data, end - data)?;
        at = end;
    }
    rustix::fs::ftruncate(to, size)
}

/// Files up to this size are copied by one read and one write.
const SMALL: u64 = 64 << 10;

/// Is a file so small, and without holes, that blocks are not worth sharing?
pub fn is_small(stat: &Stat) -> bool {
    stat.size <= SMALL && stat.blocks * 512 >= stat.size
}

/// As [`contents`], for a file that is [small](is_small).
///
/// # Errors
/// What reading or writing answers.
pub fn small(from: impl AsFd, to: impl AsFd, size: u64) -> Res<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let done = through_memory(from, 0, to, 0, size, 0)?;
    match done == size {
        true => Ok(()),
        // It has become shorter meanwhile.
        false => rustix::fs::ftruncate(to, size),
    }
}

/// Copies `len` bytes from one file's offset to another's; stops early at the source's end.
/// Returns how many were copied.
///
/// # Errors
/// What reading or writing answers.
pub fn range(from: impl AsFd, from_at: u64, to: impl AsFd, to_at: u64, len: u64) -> Res<u64> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let mut done = 0u64;
    while done < len {
        let (mut i, mut o) = (from_at + done, to_at + done);
        let want = usize::try_from(len - done).unwrap_or(STEP).min(STEP);
        match rustix::fs::copy_file_range(from, Some(&mut i), to, Some(&mut o), want) {
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => continue,
            // Across file systems, or into one that cannot: through memory.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return through_memory(from, from_at, to, to_at, len, done);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn through_memory(
    from: impl AsFd,
    from_at: u64,
    to: impl AsFd,
    to_at: u64,
    len: u64,
    mut done: u64,
) -> Res<u64> {
    let most = usize::try_from(len - done).unwrap_or(1 << 20).min(1 << 20);
    let mut buf = Vec::with_capacity(most);
    while done < len {
        let want = usize::try_from(len - done).unwrap_or(most).min(most);
        buf.clear();
        let room = &mut buf.spare_capacity_mut()[..want];
        let got = match rustix::io::pread(&from, room, from_at + done) {
            Ok(([], _)) => break,
            Ok((got, _)) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e),
        };
        write_all(&to, got, to_at + done)?;
        done += got.len() as u64;
    }
    Ok(done)
}

/// pwrite(2) until all is written.
///
/// # Errors
/// pwrite(2)'s.
pub fn write_all(to: impl AsFd, mut data: &[u8], mut at: u64) -> Res<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(&to, data, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                data = &data[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
