//! Objects below a root: opening them confined to it, and reading and changing what belongs to
//! the object itself (never to what a symlink in its place would point to).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};

pub use super::xattr::Xattrs;
use super::{Errno, Res, creds, procfs};

/// Longer paths are walked in pieces: PATH_MAX is 4096 (include/uapi/linux/limits.h).
const PIECE: usize = 4000;

/// No symlink, no magic link, nothing above the root: what a node plants in its store is never
/// followed (SEMANTICS section 8; openat2(2)).
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// The parts of statx(2) that are used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stat {
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// The backing file's own inode number.
    pub ino: u64,
    /// Its device.
    pub dev: u64,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Preferred I/O size.
    pub blksize: u32,
    /// Times: seconds (negative before 1970) and nanoseconds.
    pub atime: (i64, u32),
    /// Modification.
    pub mtime: (i64, u32),
    /// Change.
    pub ctime: (i64, u32),
    /// Birth; zero where the file system keeps none.
    pub btime: (i64, u32),
    /// The object is the root of a mount.
    pub mount_root: bool,
    /// It is marked as not to be changed, or only to be appended to (chattr(1)).
    pub guarded: bool,
}

impl Stat {
    /// File type bits.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }
    /// Has it setuid or setgid bits?
    pub fn has_bits(&self) -> bool {
        has_bits(self.mode)
    }
    /// Is it a directory?
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
}

/// openat2 below `root`, a path of any length without a leading slash; the empty path is the
/// root itself. No component may be a symlink; `O_NOFOLLOW` with `O_PATH` gives a final symlink.
///
/// # Errors
/// openat2(2)'s; `ELOOP` or `EXDEV` where the path would leave the root.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Res<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if path.len() <= PIECE {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        return open_retrying(root, path, flags, mode);
    }
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() > PIECE {
        let cut = rest[..PIECE]
            .iter()
            .rposition(|b| *b == b'/')
            .ok_or(Errno::NAMETOOLONG)?;
        let at = held.as_ref().map_or(root, |fd| fd.as_fd());
        let dir = open_retrying(
            at,
            &rest[..cut],
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
        )?;
        held = Some(dir);
        rest = &rest[cut + 1..];
    }
    let at = held.as_ref().map_or(root, |fd| fd.as_fd());
    open_retrying(at, rest, flags, mode)
}

fn open_retrying(at: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> Res<OwnedFd> {
    // NO_SYMLINKS refuses a symlink in the last component too, also with O_PATH|O_NOFOLLOW; the
    // last component is therefore opened from its directory, where O_NOFOLLOW suffices.
    let (parent, name) = split(path);
    let flags_at = flags | OFlags::NOFOLLOW;
    // BENEATH answers EAGAIN when a rename elsewhere raced with a ".." check (openat2(2)); there
    // is no ".." in these paths, so once more is enough in practice, and the loop is bounded.
    for _ in 0..64 {
        let opened = if flags.contains(OFlags::PATH) && !flags.contains(OFlags::DIRECTORY) {
            match rustix::fs::openat2(at, path, flags_at, mode, CONFINED) {
                Err(Errno::LOOP) if parent.is_empty() => {
                    rustix::fs::openat(at, name, flags_at, mode)
                }
                Err(Errno::LOOP) => {
                    let dir_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    rustix::fs::openat2(at, parent, dir_flags, Mode::empty(), CONFINED)
                        .and_then(|dir| rustix::fs::openat(&dir, name, flags_at, mode))
                }
                other => other,
            }
        } else {
            rustix::fs::openat2(at, path, flags_at, mode, CONFINED)
        };
        match opened {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Splits at the last slash: (directory, last component).
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Is a path `top` itself or below it? Both without a leading slash; all is below the empty path.
pub fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| rest.is_empty() || top.is_empty() || rest[0] == b'/')
}

/// statx of the object behind a descriptor, `O_PATH` ones too.
///
/// # Errors
/// statx(2)'s.
pub fn stat(fd: impl AsFd) -> Res<Stat> {
    stat_at(fd, b"", AtFlags::EMPTY_PATH)
}

/// Which mount an object was reached through; two mounts of one file system differ.
///
/// # Errors
/// statx(2)'s.
pub fn mount_id(fd: impl AsFd) -> Res<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(fd, c"", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// statx of `name` in a directory, a symlink itself where it is one.
///
/// # Errors
/// statx(2)'s.
pub fn stat_name(dir: impl AsFd, name: &[u8]) -> Res<Stat> {
    stat_at(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn stat_at(fd: impl AsFd, name: &[u8], flags: AtFlags) -> Res<Stat> {
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let x = rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let has_birth = x.stx_mask & StatxFlags::BTIME.bits() != 0;
    let time = |t: rustix::fs::StatxTimestamp| (t.tv_sec, t.tv_nsec);
    Ok(Stat {
        mode: u32::from(x.stx_mode),
        ino: x.stx_ino,
        dev: libc::makedev(x.stx_dev_major, x.stx_dev_minor),
        nlink: x.stx_nlink,
        uid: x.stx_uid,
        gid: x.stx_gid,
        size: x.stx_size,
        blocks: x.stx_blocks,
        rdev: libc::makedev(x.stx_rdev_major, x.stx_rdev_minor),
        blksize: x.stx_blksize,
        atime: time(x.stx_atime),
        mtime: time(x.stx_mtime),
        ctime: time(x.stx_ctime),
        btime: if has_birth { time(x.stx_btime) } else { (0, 0) },
        mount_root: x
            .stx_attributes
            .contains(rustix::fs::StatxAttributes::MOUNT_ROOT),
        guarded: x.stx_attributes.intersects(
            rustix::fs::StatxAttributes::IMMUTABLE | rustix::fs::StatxAttributes::APPEND,
        ),
    })
}

/// The object behind an `O_PATH` descriptor as a path, for calls that take no such descriptor.
/// The kernel goes straight to the object: nothing is looked up by name.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens the object behind an `O_PATH` descriptor for I/O.
///
/// # Errors
/// open(2)'s.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Res<OwnedFd> {
    let flags = (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC;
    if let Some((proc, name)) = procfs::own(fd.as_fd()) {
        return rustix::fs::openat(proc, name, flags, Mode::empty());
    }
    rustix::fs::open(proc_path(fd.as_fd()), flags, Mode::empty())
}

/// chmod of the object behind a descriptor (not a symlink).
///
/// # Errors
/// chmod(2)'s.
pub fn chmod(fd: impl AsFd, mode: u32) -> Res<()> {
    let mode = mode_to_set(mode)?;
    match procfs::own(fd.as_fd()) {
        Some((links, name)) => rustix::fs::chmodat(links, name, mode, AtFlags::empty()),
        None => rustix::fs::chmod(proc_path(fd.as_fd()), mode),
    }
}

/// chmod of a file that is open for I/O.
///
/// # Errors
/// fchmod(2)'s.
pub fn chmod_open(fd: impl AsFd, mode: u32) -> Res<()> {
    rustix::fs::fchmod(fd, mode_to_set(mode)?)
}

/// The setgid bit is for those who have the right to set it (fs/attr.c, setattr_prepare).
fn mode_to_set(mode: u32) -> Res<Mode> {
    if has_bits(mode) {
        creds::keep_bits()?;
    }
    Ok(Mode::from_raw_mode(mode & 0o7777))
}

/// Are there setuid or setgid bits?
fn has_bits(mode: u32) -> bool {
    mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// chown of the object behind a descriptor, symlinks themselves.
///
/// # Errors
/// fchownat(2)'s.
pub fn chown(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Res<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

/// A time to set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The present.
    Now,
    /// Seconds and nanoseconds since 1970.
    At(i64, u32),
}

impl SetTime {
    fn spec(self) -> rustix::fs::Timespec {
        let (tv_sec, tv_nsec) = match self {
            SetTime::Omit => (0, rustix::fs::UTIME_OMIT),
            SetTime::Now => (0, rustix::fs::UTIME_NOW),
            SetTime::At(s, n) => (s, n.into()),
        };
        rustix::fs::Timespec { tv_sec, tv_nsec }
    }
}

/// utimensat of the object behind a descriptor, symlinks themselves (`AT_EMPTY_PATH`, Linux 5.8).
///
/// # Errors
/// utimensat(2)'s.
pub fn set_times(fd: impl AsFd, atime: SetTime, mtime: SetTime) -> Res<()> {
    let times = rustix::fs::Timestamps {
        last_access: atime.spec(),
        last_modification: mtime.spec(),
    };
    rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)
}

/// Clears what a write by someone without CAP_FSETID clears: the setuid bit, and the setgid bit of
/// a group-executable file (fs/attr.c, setattr_should_drop_suidgid). File capabilities go by
/// themselves: the kernel drops them at any write, the daemon's included.
///
/// # Errors
/// What stat or chmod answer.
pub fn kill_suid(fd: impl AsFd) -> Res<()> {
    let stat = stat(&fd)?;
    if stat.kind() != libc::S_IFREG {
        return Ok(());
    }
    let mut drop = stat.mode & libc::S_ISUID;
    if stat.mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP {
        drop |= libc::S_ISGID;
    }
    if drop == 0 {
        Ok(())
    } else {
        chmod(fd, stat.mode & !drop)
    }
}
