//! `fs`' plain structs in fuser's terms.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyEntry, TimeOrNow};

use crate::fs::{Attr, Entry};
use crate::sys::Errno;
use crate::sys::obj::SetTime;

pub(super) fn errno(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.raw_os_error())
}

pub(super) fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFBLK => FileType::BlockDevice,
        libc::S_IFCHR => FileType::CharDevice,
        _ => FileType::RegularFile,
    }
}

fn time((seconds, nanos): (i64, u32)) -> SystemTime {
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::new(seconds, nanos),
        Err(_) => UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), 0) + Duration::new(0, nanos),
    }
}

/// The time that a request asks for. fuser counts nanoseconds of a time before 1970 backwards
/// (its `system_time_from_time`): undone here.
pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(at)) => match at.duration_since(UNIX_EPOCH) {
            Ok(since) => SetTime::At(since.as_secs() as i64, since.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                SetTime::At(-(before.as_secs() as i64), before.subsec_nanos())
            }
        },
    }
}

/// A device number as the kernel's FUSE client sends it: `new_encode_dev` (include/linux/kdev_t.h).
pub(super) fn rdev_from_wire(dev: u32) -> u64 {
    libc::makedev(
        (dev & 0xf_ff00) >> 8,
        (dev & 0xff) | ((dev >> 12) & 0xf_ff00),
    )
}

fn rdev_to_wire(dev: u64) -> u32 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The generation of every inode. It tells apart objects that have one number after the other, and
/// there are none: a path's number is the path's, whatever lies there, and an upper's object has one
/// made of its inode and its birth. (The kernel compares it when it decodes a file handle, and after
/// a restart or on another server it must be the same.)
pub(super) const GENERATION: Generation = Generation(0);

/// Answers with what was found.
pub(super) fn entry(reply: ReplyEntry, entry: &Entry) {
    reply.entry(&entry.lifetime, &attr(&entry.attr), GENERATION);
}

/// What an absent name has instead of attributes.
pub(super) const NOTHING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

pub(super) fn attr(attr: &Attr) -> FileAttr {
    let stat = &attr.stat;
    FileAttr {
        ino: INodeNo(attr.number),
        size: stat.size,
        blocks: stat.blocks,
        atime: time(stat.atime),
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(stat.mode),
        perm: (stat.mode & 0o7777) as u16,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: rdev_to_wire(stat.rdev),
        blksize: stat.blksize,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (259, 70_000), (4095, 0xf_ffff)] {
            let dev = libc::makedev(major, minor);
            assert_eq!(rdev_from_wire(rdev_to_wire(dev)), dev);
        }
    }

    #[test]
    fn times_before_1970_are_kept() {
        let at = time((-2, 250_000_000));
        let before = UNIX_EPOCH.duration_since(at).unwrap();
        assert_eq!(before, Duration::new(1, 750_000_000));
        let as_fuser_reads = UNIX_EPOCH - Duration::new(2, 250_000_000);
        let set = set_time(Some(TimeOrNow::SpecificTime(as_fuser_reads)));
        assert_eq!(set, SetTime::At(-2, 250_000_000));
    }
}
