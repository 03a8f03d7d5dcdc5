//! One short function an operation, each with the kernel's own errno as its error.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{self as fs, Gid, Uid};
pub use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom,
    Stat, Timespec, Timestamps, XattrFlags,
};
pub use rustix::io::{Errno, Result};

pub use super::sys::truncate;

pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

pub fn open(path: impl AsRef<Path>, flags: OFlags, bits: u32) -> Result<File> {
    fs::openat(CWD, path.as_ref(), flags | OFlags::CLOEXEC, mode(bits)).map(File::from)
}

pub fn open_r(path: impl AsRef<Path>) -> Result<File> {
    open(path, OFlags::RDONLY, 0)
}

pub fn open_rw(path: impl AsRef<Path>) -> Result<File> {
    open(path, OFlags::RDWR, 0)
}

/// O_CREAT|O_EXCL|O_RDWR.
pub fn create(path: impl AsRef<Path>, bits: u32) -> Result<File> {
    open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, bits)
}

pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut file = open_r(path)?;
    file.read_to_end(&mut all).map_err(errno)?;
    Ok(all)
}

/// Makes or replaces the content, mode 0644.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o644)?;
    file.write_all_at(bytes.as_ref(), 0).map_err(errno)
}

pub fn append(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut file = open(path, OFlags::WRONLY | OFlags::APPEND, 0)?;
    std::io::Write::write_all(&mut file, bytes.as_ref()).map_err(errno)
}

/// Content at an offset of an open file.
pub fn pread(file: &File, from: u64, n: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    let mut have = 0;
    while have < n {
        match file.read_at(&mut bytes[have..], from + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) => return Err(errno(error)),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

pub fn pwrite(file: &File, from: u64, bytes: impl AsRef<[u8]>) -> Result<()> {
    file.write_all_at(bytes.as_ref(), from).map_err(errno)
}

pub fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

pub fn mkdir(path: impl AsRef<Path>, bits: u32) -> Result<()> {
    fs::mkdirat(CWD, path.as_ref(), mode(bits))
}

pub fn mknod(path: impl AsRef<Path>, kind: FileType, bits: u32, dev: u64) -> Result<()> {
    fs::mknodat(CWD, path.as_ref(), kind, mode(bits), dev)
}

pub fn symlink(target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
    fs::symlinkat(target.as_ref(), CWD, path.as_ref())
}

pub fn readlink(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    fs::readlinkat(CWD, path.as_ref(), Vec::new()).map(std::ffi::CString::into_bytes)
}

pub fn link(old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
    fs::linkat(CWD, old.as_ref(), CWD, new.as_ref(), AtFlags::empty())
}

pub fn rename(old: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<()> {
    fs::renameat(CWD, old.as_ref(), CWD, new.as_ref())
}

pub fn rename_with(old: impl AsRef<Path>, new: impl AsRef<Path>, how: RenameFlags) -> Result<()> {
    fs::renameat_with(CWD, old.as_ref(), CWD, new.as_ref(), how)
}

pub fn unlink(path: impl AsRef<Path>) -> Result<()> {
    fs::unlinkat(CWD, path.as_ref(), AtFlags::empty())
}

pub fn rmdir(path: impl AsRef<Path>) -> Result<()> {
    fs::unlinkat(CWD, path.as_ref(), AtFlags::REMOVEDIR)
}

pub fn chmod(path: impl AsRef<Path>, bits: u32) -> Result<()> {
    fs::chmodat(CWD, path.as_ref(), mode(bits), AtFlags::empty())
}

/// Of the thing itself, also where it is a symlink; `None` leaves one as it is.
pub fn lchown(path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    fs::chownat(
        CWD,
        path.as_ref(),
        uid.map(Uid::from_raw),
        gid.map(Gid::from_raw),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

pub fn at_time(seconds: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

/// Sets atime and mtime of the thing itself.
pub fn set_times(path: impl AsRef<Path>, seconds: i64) -> Result<()> {
    fs::utimensat(
        CWD,
        path.as_ref(),
        &at_time(seconds),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

pub fn lstat(path: impl AsRef<Path>) -> Result<Stat> {
    fs::statat(CWD, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
}

pub fn fstat(file: &File) -> Stat {
    fs::fstat(file).unwrap()
}

/// Permission bits with setuid, setgid and sticky.
pub fn perm(path: impl AsRef<Path>) -> u32 {
    lstat(path).unwrap().st_mode & 0o7777
}

pub fn kind(path: impl AsRef<Path>) -> FileType {
    FileType::from_raw_mode(lstat(path).unwrap().st_mode)
}

pub fn exists(path: impl AsRef<Path>) -> bool {
    match lstat(path.as_ref()) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(error) => panic!("{}: {error}", path.as_ref().display()),
    }
}

/// An entry as a directory lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: String,
}

/// Every entry but "." and "..", in the order of the directory.
pub fn list(path: impl AsRef<Path>) -> Result<Vec<Listed>> {
    let dir = open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    let mut entries = Vec::new();
    for entry in fs::Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            entries.push(Listed {
                name,
                ino: entry.ino(),
                kind: format!("{:?}", entry.file_type()),
            });
        }
    }
    Ok(entries)
}

/// The names of a directory, sorted.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = list(path)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect();
    names.sort();
    names
}

pub fn getx(path: impl AsRef<Path>, name: &str) -> Result<Vec<u8>> {
    let mut value = vec![0; 65536];
    let n = fs::lgetxattr(path.as_ref(), name, &mut value[..])?;
    value.truncate(n);
    Ok(value)
}

pub fn setx(path: impl AsRef<Path>, name: &str, value: impl AsRef<[u8]>) -> Result<()> {
    fs::lsetxattr(path.as_ref(), name, value.as_ref(), XattrFlags::empty())
}

pub fn rmx(path: impl AsRef<Path>, name: &str) -> Result<()> {
    fs::lremovexattr(path.as_ref(), name)
}

/// The listed names of a thing's extended attributes, sorted.
pub fn listx(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let mut list = vec![0; 65536];
    let n = fs::llistxattr(path.as_ref(), &mut list[..])?;
    let mut names: Vec<String> = list[..n]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// All extended attributes with their values.
pub fn xattrs(path: impl AsRef<Path>) -> Result<BTreeMap<String, Vec<u8>>> {
    let path = path.as_ref();
    listx(path)?
        .into_iter()
        .map(|name| getx(path, &name).map(|value| (name, value)))
        .collect()
}

pub const ACL_ACCESS: &str = "system.posix_acl_access";
pub const ACL_DEFAULT: &str = "system.posix_acl_default";
pub const USER_OBJ: u16 = 1;
pub const USER: u16 = 2;
pub const GROUP_OBJ: u16 = 4;
pub const GROUP: u16 = 8;
pub const MASK: u16 = 16;
pub const OTHER: u16 = 32;

/// The extended-attribute form of an ACL: (tag, permissions, id).
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        let id = if matches!(*tag, USER | GROUP) {
            *id
        } else {
            u32::MAX
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// The value of `security.capability` that permits `caps` (bits below 32), effective.
pub fn capability(caps: u32) -> Vec<u8> {
    let mut bytes = 0x0200_0001u32.to_le_bytes().to_vec();
    for word in [caps, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// The byte ranges of a file that hold data.
pub fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Ok(start) = fs::seek(file, SeekFrom::Data(at)) {
        at = fs::seek(file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, at));
    }
    ranges
}
