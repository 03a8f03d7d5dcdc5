//! The operations, how likely each is, and what each does to a tree.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use rustix::fs::{
    copy_file_range, fallocate, fchmod, fchown, fsetxattr, fsync, ftruncate, futimens, seek,
};

use crate::harness::*;

/// A path of one to three of five names, so that operations meet.
#[derive(Clone, PartialEq, Eq)]
pub struct P(pub Vec<u8>);

pub const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
pub const SLOTS: usize = 3;

impl P {
    pub fn path(&self) -> String {
        let names: Vec<&str> = self
            .0
            .iter()
            .map(|n| NAMES[usize::from(*n) % NAMES.len()])
            .collect();
        names.join("/")
    }
}

impl std::fmt::Debug for P {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p({:?})", self.path())
    }
}

/// For the regression list: a path as it is printed.
pub fn p(path: &str) -> P {
    P(path
        .split('/')
        .map(|name| NAMES.iter().position(|n| *n == name).unwrap() as u8)
        .collect())
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(P, u32),
    Write(P, u32),
    Append(P, u32),
    Read(P),
    Mkdir(P, u32),
    Fifo(P, u32),
    Socket(P),
    Device(P),
    Symlink(P, P),
    Readlink(P),
    Link(P, P),
    Rename(P, P),
    Noreplace(P, P),
    Exchange(P, P),
    Unlink(P),
    Rmdir(P),
    RemoveAll(P),
    Truncate(P, u32),
    Chmod(P, u32),
    Chown(P, u32, u32),
    Times(P, i64),
    SetX(P, u8, u8),
    GetX(P, u8),
    RmX(P, u8),
    ListX(P),
    Acl(P, bool, u16),
    RmAcl(P, bool),
    Stat(P),
    List(P),
    Open(usize, P, usize, u32),
    Close(usize),
    PRead(usize, u32, u32),
    PWrite(usize, u32, u32),
    MapWrite(usize, u32),
    FTruncate(usize, u32),
    FAllocate(usize, bool, u32, u32),
    Seek(usize, bool, u32),
    CopyRange(usize, u32, usize, u32, u32),
    FChmod(usize, u32),
    FChown(usize, u32),
    FTimes(usize, i64),
    FSetX(usize, u8, u8),
    FStat(usize),
    FList(usize),
    FSync(usize),
    Flock(usize, u8),
    Lock(usize, u8, u8),
    Remount,
    DropCaches,
}

/// An operation by one of the actors.
#[derive(Clone, Debug)]
pub struct Step {
    pub who: u8,
    pub op: Op,
}

pub const FLAGS: [OFlags; 11] = [
    OFlags::RDONLY,
    OFlags::RDWR,
    OFlags::WRONLY,
    OFlags::WRONLY.union(OFlags::APPEND),
    OFlags::RDWR.union(OFlags::CREATE),
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::TRUNC),
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL),
    OFlags::RDWR.union(OFlags::TRUNC),
    OFlags::RDONLY.union(OFlags::NOFOLLOW),
    OFlags::RDONLY.union(OFlags::DIRECTORY),
    OFlags::PATH,
];

const XATTRS: [&str; 4] = ["user.one", "user.two", "trusted.one", "security.one"];
const IDS: [u32; 4] = [0, 1000, 1001, 2000];

fn path() -> impl Strategy<Value = P> {
    let names = |n| prop::collection::vec(0..NAMES.len() as u8, n).prop_map(P);
    prop_oneof![3 => names(1..=1), 4 => names(2..=2), 2 => names(3..=3)]
}

fn bits() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => prop::sample::select(vec![0o644, 0o755, 0o777, 0o666, 0o600]),
        2 => prop::sample::select(vec![0o2777, 0o1777, 0o4755, 0o6777, 0o000, 0o711, 0o2755]),
        1 => 0..0o10000u32,
    ]
}

/// Offsets and lengths around the edges of pages, and beyond what the fixtures hold.
fn size() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..20u32, 2 => 4090..4100u32, 1 => 0..100_000u32]
}

fn op() -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let seconds = || 1_000_000_000..1_400_000_000i64;
    let names = prop_oneof![
        6 => (path(), bits()).prop_map(|(p, b)| Op::Create(p, b)),
        4 => (path(), size()).prop_map(|(p, n)| Op::Write(p, n)),
        4 => (path(), size()).prop_map(|(p, n)| Op::Append(p, n)),
        3 => path().prop_map(Op::Read),
        8 => (path(), bits()).prop_map(|(p, b)| Op::Mkdir(p, b)),
        1 => (path(), bits()).prop_map(|(p, b)| Op::Fifo(p, b)),
        1 => path().prop_map(Op::Socket),
        1 => path().prop_map(Op::Device),
        3 => (path(), path()).prop_map(|(a, b)| Op::Symlink(a, b)),
        1 => path().prop_map(Op::Readlink),
        4 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        10 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        3 => (path(), path()).prop_map(|(a, b)| Op::Noreplace(a, b)),
        4 => (path(), path()).prop_map(|(a, b)| Op::Exchange(a, b)),
        8 => path().prop_map(Op::Unlink),
        6 => path().prop_map(Op::Rmdir),
        3 => path().prop_map(Op::RemoveAll),
        3 => path().prop_map(Op::Stat),
        3 => path().prop_map(Op::List),
    ];
    let attributes = prop_oneof![
        3 => (path(), size()).prop_map(|(p, n)| Op::Truncate(p, n)),
        4 => (path(), bits()).prop_map(|(p, b)| Op::Chmod(p, b)),
        3 => (path(), 0..4u32, 0..4u32).prop_map(|(p, u, g)| Op::Chown(p, u, g)),
        2 => (path(), seconds()).prop_map(|(p, t)| Op::Times(p, t)),
        3 => (path(), 0..4u8, any::<u8>()).prop_map(|(p, n, v)| Op::SetX(p, n, v)),
        1 => (path(), 0..4u8).prop_map(|(p, n)| Op::GetX(p, n)),
        2 => (path(), 0..4u8).prop_map(|(p, n)| Op::RmX(p, n)),
        1 => path().prop_map(Op::ListX),
        3 => (path(), any::<bool>(), 0..512u16).prop_map(|(p, d, v)| Op::Acl(p, d, v)),
        1 => (path(), any::<bool>()).prop_map(|(p, d)| Op::RmAcl(p, d)),
    ];
    let handles = prop_oneof![
        10 => (slot(), path(), 0..FLAGS.len(), bits()).prop_map(|(s, p, f, b)| Op::Open(s, p, f, b)),
        1 => slot().prop_map(Op::Close),
        4 => (slot(), size(), size()).prop_map(|(s, o, n)| Op::PRead(s, o, n)),
        4 => (slot(), size(), size()).prop_map(|(s, o, n)| Op::PWrite(s, o, n)),
        2 => (slot(), size()).prop_map(|(s, o)| Op::MapWrite(s, o)),
        2 => (slot(), size()).prop_map(|(s, n)| Op::FTruncate(s, n)),
        2 => (slot(), any::<bool>(), size(), size()).prop_map(|(s, p, o, n)| Op::FAllocate(s, p, o, n)),
        1 => (slot(), any::<bool>(), size()).prop_map(|(s, d, o)| Op::Seek(s, d, o)),
        2 => (slot(), size(), slot(), size(), size())
            .prop_map(|(a, x, b, y, n)| Op::CopyRange(a, x, b, y, n)),
        2 => (slot(), bits()).prop_map(|(s, b)| Op::FChmod(s, b)),
        1 => (slot(), 0..4u32).prop_map(|(s, u)| Op::FChown(s, u)),
        1 => (slot(), seconds()).prop_map(|(s, t)| Op::FTimes(s, t)),
        1 => (slot(), 0..4u8, any::<u8>()).prop_map(|(s, n, v)| Op::FSetX(s, n, v)),
        3 => slot().prop_map(Op::FStat),
        1 => slot().prop_map(Op::FList),
        1 => slot().prop_map(Op::FSync),
        1 => (slot(), 0..3u8).prop_map(|(s, k)| Op::Flock(s, k)),
        1 => (slot(), 0..3u8, 0..4u8).prop_map(|(s, k, o)| Op::Lock(s, k, o)),
    ];
    prop_oneof![
        60 => names,
        20 => attributes,
        35 => handles,
        1 => Just(Op::Remount),
        1 => Just(Op::DropCaches),
    ]
}

/// Mostly root, who gets far; else one of two users, who meet permissions.
pub fn step() -> impl Strategy<Value = Step> {
    (
        prop_oneof![4 => Just(0u8), 2 => Just(1u8), 1 => Just(2u8)],
        op(),
    )
        .prop_map(|(who, op)| Step { who, op })
}

pub fn bytes(n: u32, seed: u32) -> Vec<u8> {
    (0..n)
        .map(|i| (i.wrapping_mul(31) ^ seed ^ (i >> 8)) as u8)
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    format!(
        "{} bytes, {:x}",
        bytes.len(),
        xxhash_rust::xxh3::xxh3_64(bytes)
    )
}

/// Attributes as they can be compared. A directory's size and links are the file system's business;
/// `links` of an open file isn't compared where the name may be gone (see the known differences).
fn describe(stat: &Stat, links: bool) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_dir = kind == FileType::Directory;
    format!(
        "{kind:?} {:o} {}:{} size {} links {} rdev {:x} mtime {:?}",
        stat.st_mode & 0o7777,
        stat.st_uid,
        stat.st_gid,
        if is_dir { 0 } else { stat.st_size },
        if is_dir || !links { 0 } else { stat.st_nlink },
        stat.st_rdev,
        (stat.st_mtime < snapshot::RECENT).then_some((stat.st_mtime, stat.st_mtime_nsec)),
    )
}

fn listing(dir: impl std::os::fd::AsFd) -> Result<String> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        names.push(format!(
            "{} {:?}",
            entry.file_name().to_string_lossy(),
            entry.file_type()
        ));
    }
    names.sort();
    Ok(names.join(", "))
}

fn some_acl(v: u16) -> Vec<u8> {
    let bits = |shift: u16| (v >> shift) & 7;
    if v.is_multiple_of(3) {
        return acl(&[
            (USER_OBJ, bits(0), 0),
            (GROUP_OBJ, bits(3), 0),
            (OTHER, bits(6), 0),
        ]);
    }
    acl(&[
        (USER_OBJ, 7, 0),
        (USER, bits(0), 1000),
        (GROUP_OBJ, bits(3), 0),
        (GROUP, bits(6), 2000),
        (MASK, bits(1), 0),
        (OTHER, bits(4), 0),
    ])
}

/// Content without waiting for a FIFO's other end.
fn read_some(path: &str) -> Result<String> {
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK, 0)?;
    pread(&file, 0, 1 << 18).map(|b| digest(&b))
}

/// All below and itself, as far as it goes; the first error.
fn remove_all(path: &std::path::Path) -> Result<()> {
    match unlink(path) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let mut entries = list(path)?;
    entries.sort();
    for entry in entries {
        remove_all(&path.join(std::ffi::OsStr::from_bytes(&entry.name)))?;
    }
    rmdir(path)
}

/// Does it in the current directory; the text tells what came of it.
pub fn exec(op: &Op, slots: &mut [Option<File>]) -> Result<String> {
    let done = |result: Result<()>| result.map(|()| String::new());
    // What an operation on an empty slot gives; the same on both sides.
    fn held(slots: &[Option<File>], slot: usize) -> Result<&File> {
        slots[slot % SLOTS].as_ref().ok_or(Errno::BADF)
    }
    let id = |n: u32| IDS[n as usize % IDS.len()];
    let x = |n: u8| XATTRS[usize::from(n) % XATTRS.len()];
    let name = |default: bool| if default { ACL_DEFAULT } else { ACL_ACCESS };
    match op {
        Op::Create(p, bits) => done(create(p.path(), *bits).map(drop)),
        Op::Write(p, n) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
            let file = open(p.path(), flags, 0o666)?;
            done(pwrite(&file, 0, bytes(*n, 1)))
        }
        Op::Append(p, n) => {
            let file = open(
                p.path(),
                OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK,
                0,
            )?;
            rustix::io::write(&file, &bytes(*n, 2)).map(|n| n.to_string())
        }
        Op::Read(p) => read_some(&p.path()),
        Op::Mkdir(p, bits) => done(mkdir(p.path(), *bits)),
        Op::Fifo(p, bits) => done(mknod(p.path(), FileType::Fifo, bits & 0o777, 0)),
        Op::Socket(p) => done(mknod(p.path(), FileType::Socket, 0o755, 0)),
        Op::Device(p) => {
            let null = rustix::fs::makedev(1, 3);
            done(mknod(p.path(), FileType::CharacterDevice, 0o666, null))
        }
        Op::Symlink(target, p) => {
            // Relative to the link, and often into the tree.
            let up = "../".repeat(p.0.len() - 1);
            done(symlink(format!("{up}{}", target.path()), p.path()))
        }
        Op::Readlink(p) => readlink(p.path()).map(|t| String::from_utf8_lossy(&t).into_owned()),
        Op::Link(a, b) => done(link(a.path(), b.path())),
        Op::Rename(a, b) => done(rename(a.path(), b.path())),
        Op::Noreplace(a, b) => done(rename_with(a.path(), b.path(), RenameFlags::NOREPLACE)),
        Op::Exchange(a, b) => done(rename_with(a.path(), b.path(), RenameFlags::EXCHANGE)),
        Op::Unlink(p) => done(unlink(p.path())),
        Op::Rmdir(p) => done(rmdir(p.path())),
        Op::RemoveAll(p) => done(remove_all(p.path().as_ref())),
        Op::Truncate(p, n) => done(truncate(p.path().as_ref(), u64::from(*n))),
        Op::Chmod(p, bits) => done(chmod(p.path(), *bits)),
        Op::Chown(p, u, g) => done(lchown(p.path(), Some(id(*u)), Some(id(*g)))),
        Op::Times(p, at) => done(set_times(p.path(), *at)),
        Op::SetX(p, n, v) => done(setx(p.path(), x(*n), [*v])),
        Op::GetX(p, n) => getx(p.path(), x(*n)).map(|v| format!("{v:?}")),
        Op::RmX(p, n) => done(rmx(p.path(), x(*n))),
        Op::ListX(p) => listx(p.path()).map(|names| names.join(" ")),
        Op::Acl(p, default, v) => done(setx(p.path(), name(*default), some_acl(*v))),
        Op::RmAcl(p, default) => done(rmx(p.path(), name(*default))),
        Op::Stat(p) => lstat(p.path()).map(|stat| describe(&stat, true)),
        Op::List(p) => listing(open(p.path(), OFlags::RDONLY | OFlags::DIRECTORY, 0)?),
        Op::Open(slot, p, flags, bits) => {
            slots[slot % SLOTS] = None;
            let flags = FLAGS[flags % FLAGS.len()] | OFlags::NONBLOCK;
            let flags = if flags.contains(OFlags::PATH) {
                OFlags::PATH
            } else {
                flags
            };
            slots[slot % SLOTS] = Some(open(p.path(), flags, *bits)?);
            Ok(String::new())
        }
        Op::Close(slot) => Ok(slots[slot % SLOTS].take().is_some().to_string()),
        Op::PRead(s, at, n) => {
            pread(held(slots, *s)?, u64::from(*at), *n as usize).map(|b| digest(&b))
        }
        Op::PWrite(s, at, n) => done(pwrite(held(slots, *s)?, u64::from(*at), bytes(*n, 3))),
        Op::MapWrite(s, at) => {
            let (file, at) = (held(slots, *s)?, *at as usize);
            let size = fstat(file).st_size as usize;
            if FileType::from_raw_mode(fstat(file).st_mode) != FileType::RegularFile || at >= size {
                return Ok("nothing to map".into());
            }
            let map = sys::Map::shared(file, size, true)?;
            map.write(at, &bytes(20, 4)[..20.min(size - at)]);
            done(map.sync())
        }
        Op::FTruncate(s, n) => done(ftruncate(held(slots, *s)?, u64::from(*n))),
        Op::FAllocate(s, punch, at, n) => {
            let how = if *punch {
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE
            } else {
                FallocateFlags::empty()
            };
            done(fallocate(
                held(slots, *s)?,
                how,
                u64::from(*at),
                u64::from(*n),
            ))
        }
        Op::Seek(s, data, at) => {
            let at = u64::from(*at);
            let to = if *data {
                SeekFrom::Data(at)
            } else {
                SeekFrom::Hole(at)
            };
            seek(held(slots, *s)?, to).map(|at| at.to_string())
        }
        Op::CopyRange(a, x, b, y, n) => {
            let (mut x, mut y) = (u64::from(*x), u64::from(*y));
            let (from, to) = (held(slots, *a)?, held(slots, *b)?);
            copy_file_range(from, Some(&mut x), to, Some(&mut y), *n as usize)
                .map(|n| n.to_string())
        }
        Op::FChmod(s, bits) => done(fchmod(held(slots, *s)?, mode(*bits))),
        Op::FChown(s, u) => {
            let uid = rustix::fs::Uid::from_raw(id(*u));
            done(fchown(held(slots, *s)?, Some(uid), None))
        }
        Op::FTimes(s, at) => done(futimens(held(slots, *s)?, &at_time(*at))),
        Op::FSetX(s, n, v) => done(fsetxattr(
            held(slots, *s)?,
            x(*n),
            &[*v],
            XattrFlags::empty(),
        )),
        Op::FStat(s) => Ok(describe(&fstat(held(slots, *s)?), false)),
        Op::FList(s) => listing(held(slots, *s)?),
        Op::FSync(s) => done(fsync(held(slots, *s)?)),
        Op::Flock(s, kind) => {
            let how = [
                FlockOperation::NonBlockingLockShared,
                FlockOperation::NonBlockingLockExclusive,
                FlockOperation::Unlock,
            ];
            done(rustix::fs::flock(
                held(slots, *s)?,
                how[usize::from(*kind) % 3],
            ))
        }
        Op::Lock(s, kind, at) => {
            let kind = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK][usize::from(*kind) % 3];
            done(sys::set_lock(
                held(slots, *s)?,
                kind,
                i64::from(*at) * 10,
                15,
            ))
        }
        Op::Remount | Op::DropCaches => Ok(String::new()),
    }
}
