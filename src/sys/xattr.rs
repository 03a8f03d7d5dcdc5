//! Extended attributes of one object, never of what a symlink in its place would point to. They are
//! read by the calls that take a directory and a name where the kernel has them (Linux 6.13), else
//! through "/proc/self/fd". Changes go that way always, or by an open file: they are few, and every
//! tracer knows those calls (integration/crash lets each fail).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, XattrFlags};

use super::obj::proc_path;
use super::{Errno, Res, procfs};

/// The numbers are the same on every architecture (scripts/syscall.tbl) but alpha.
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

/// `struct xattr_args` (include/uapi/linux/xattr.h).
#[repr(C, align(8))]
struct Args {
    value: u64,
    size: u32,
    flags: u32,
}

fn answer(result: libc::c_long) -> Res<usize> {
    match usize::try_from(result) {
        Ok(n) => Ok(n),
        Err(_) => Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::IO, Errno::from_raw_os_error)),
    }
}

/// Does the kernel have the calls that take a directory and a name? A filter (seccomp) that does
/// not know them counts as a kernel that does not.
fn has_at() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let args = Args {
            value: 0,
            size: 0,
            flags: 0,
        };
        let empty = AtFlags::EMPTY_PATH.bits();
        // SAFETY: the strings and the structure outlive the call; a size of 0 means that nothing
        // is written, and no descriptor -1 can be open.
        let result = unsafe {
            libc::syscall(
                GETXATTRAT,
                -1,
                c"".as_ptr(),
                empty,
                c"user.x".as_ptr(),
                &raw const args,
                size_of::<Args>(),
            )
        };
        answer(result) == Err(Errno::BADF)
    })
}

/// How the object is reached.
#[derive(Clone, Copy, Debug)]
enum By<'a> {
    /// A descriptor of any kind.
    Object(BorrowedFd<'a>),
    /// A descriptor that is open for I/O.
    Open(BorrowedFd<'a>),
    /// A name in a directory: ".", the directory itself.
    Name(BorrowedFd<'a>, &'a CStr),
}

/// Extended attributes of one object, symlinks themselves.
#[derive(Debug)]
pub struct Xattrs<'fd> {
    by: By<'fd>,
}

impl<'fd> Xattrs<'fd> {
    /// Of the object behind a descriptor, `O_PATH` ones too.
    pub fn of(fd: &'fd impl AsFd) -> Xattrs<'fd> {
        Xattrs {
            by: By::Object(fd.as_fd()),
        }
    }

    /// Of a file that is open for I/O.
    pub fn of_open(fd: &'fd impl AsFd) -> Xattrs<'fd> {
        Xattrs {
            by: By::Open(fd.as_fd()),
        }
    }

    /// Of the directory behind an `O_PATH` descriptor.
    pub fn of_dir(fd: &'fd impl AsFd) -> Xattrs<'fd> {
        match has_at() {
            true => Xattrs {
                by: By::Name(fd.as_fd(), c"."),
            },
            false => Xattrs::of(fd),
        }
    }

    /// Of the object that has a name in the directory behind a descriptor.
    pub fn of_name(dir: &'fd impl AsFd, name: &'fd CStr) -> Xattrs<'fd> {
        Xattrs {
            by: By::Name(dir.as_fd(), name),
        }
    }

    /// Reads one attribute.
    ///
    /// # Errors
    /// getxattr(2)'s, `ENODATA` where it is not there.
    pub fn get(&self, name: &CStr) -> Res<Vec<u8>> {
        sized(|buf| match self.at() {
            Ok((dir, path, flags)) => at(GETXATTRAT, (dir, path, flags), Some(name), buf),
            Err(By::Open(fd)) => rustix::fs::fgetxattr(fd, name, buf),
            Err(By::Object(fd)) => rustix::fs::getxattr(proc_path(fd), name, buf),
            Err(By::Name(dir, at)) => rustix::fs::lgetxattr(named(dir, at), name, buf),
        })
    }

    /// Sets one attribute.
    ///
    /// # Errors
    /// setxattr(2)'s.
    pub fn set(&self, name: &CStr, value: &[u8], flags: XattrFlags) -> Res<()> {
        match self.by {
            By::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
            By::Object(fd) => rustix::fs::setxattr(proc_path(fd), name, value, flags),
            By::Name(dir, at) => rustix::fs::lsetxattr(named(dir, at), name, value, flags),
        }
    }

    /// Removes one attribute.
    ///
    /// # Errors
    /// removexattr(2)'s.
    pub fn remove(&self, name: &CStr) -> Res<()> {
        match self.by {
            By::Open(fd) => rustix::fs::fremovexattr(fd, name),
            By::Object(fd) => rustix::fs::removexattr(proc_path(fd), name),
            By::Name(dir, at) => rustix::fs::lremovexattr(named(dir, at), name),
        }
    }

    /// All names, each ended by a NUL, as listxattr(2) gives them.
    ///
    /// # Errors
    /// listxattr(2)'s; a file system without attributes has an empty list.
    pub fn list(&self) -> Res<Vec<u8>> {
        let listed = sized(|buf| match self.at() {
            Ok((dir, path, flags)) => at(LISTXATTRAT, (dir, path, flags), None, buf),
            Err(By::Open(fd)) => rustix::fs::flistxattr(fd, buf),
            Err(By::Object(fd)) => rustix::fs::listxattr(proc_path(fd), buf),
            Err(By::Name(dir, at)) => rustix::fs::llistxattr(named(dir, at), buf),
        });
        match listed {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The object as a directory, a name in it and flags, where that is how to reach it.
    fn at(&self) -> Result<(BorrowedFd<'fd>, Path<'fd>, AtFlags), By<'fd>> {
        match self.by {
            By::Name(dir, name) if has_at() => {
                Ok((dir, Path::Name(name), AtFlags::SYMLINK_NOFOLLOW))
            }
            // The magic link is followed, and ends at the object.
            By::Object(fd) if has_at() => match procfs::own(fd) {
                Some((links, name)) => Ok((links, Path::Link(name), AtFlags::empty())),
                None => Err(self.by),
            },
            by => Err(by),
        }
    }
}

/// A name in a directory as a path: the magic link is on the way, and what has the name at its end.
fn named(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    [proc_path(dir).as_bytes(), b"/", name.to_bytes()].concat()
}

enum Path<'a> {
    Name(&'a CStr),
    Link(procfs::Name),
}

impl Path<'_> {
    fn as_ptr(&self) -> *const libc::c_char {
        match self {
            Path::Name(name) => name.as_ptr(),
            Path::Link(name) => name.as_c_str().as_ptr(),
        }
    }
}

/// getxattrat or, without a name, listxattrat.
fn at(
    call: libc::c_long,
    (dir, path, flags): (BorrowedFd<'_>, Path<'_>, AtFlags),
    name: Option<&CStr>,
    buf: &mut [u8],
) -> Res<usize> {
    let Some(name) = name else {
        // SAFETY: the path outlives the call; at most `buf.len()` bytes are written to `buf`.
        return answer(unsafe {
            libc::syscall(
                call,
                dir.as_raw_fd(),
                path.as_ptr(),
                flags.bits(),
                buf.as_mut_ptr(),
                buf.len(),
            )
        });
    };
    let args = Args {
        value: buf.as_mut_ptr() as u64,
        size: u32::try_from(buf.len()).map_err(|_| Errno::TOOBIG)?,
        flags: 0,
    };
    // SAFETY: the strings and the structure outlive the call; at most `buf.len()` bytes are
    // written to `buf`.
    answer(unsafe {
        libc::syscall(
            call,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags.bits(),
            name.as_ptr(),
            &raw const args,
            size_of::<Args>(),
        )
    })
}

/// Calls with a small buffer first, with the largest that the kernel can fill where it is short
/// (XATTR_SIZE_MAX and XATTR_LIST_MAX are 65536).
fn sized(mut read: impl FnMut(&mut [u8]) -> Res<usize>) -> Res<Vec<u8>> {
    let mut small = [0u8; 256];
    match read(&mut small) {
        Ok(n) => Ok(small[..n].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0u8; 65536];
            let n = read(&mut large)?;
            large.truncate(n);
            Ok(large)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    /// Each way to an object reads what another way set, and a symlink is the symlink.
    #[test]
    fn every_way_reaches_the_same_object() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        let path = |name: &str| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(dir.path().join(name), flags, Mode::empty()).unwrap()
        };
        let (object, top) = (path("f"), path("."));
        let open = std::fs::File::open(dir.path().join("f")).unwrap();
        let (none, name) = (XattrFlags::empty(), c"trusted.t");
        Xattrs::of(&object).set(name, b"1", none).unwrap();
        assert_eq!(Xattrs::of_open(&open).get(name).unwrap(), b"1");
        Xattrs::of_open(&open).set(name, &[7; 300], none).unwrap();
        assert_eq!(Xattrs::of(&object).get(name).unwrap(), [7; 300]);
        assert_eq!(
            Xattrs::of(&object).list().unwrap(),
            Xattrs::of_open(&open).list().unwrap()
        );
        assert!(
            Xattrs::of(&object)
                .list()
                .unwrap()
                .ends_with(b"trusted.t\0")
        );
        let link = path("link");
        assert_eq!(Xattrs::of(&link).get(name), Err(Errno::NODATA));
        Xattrs::of(&object).remove(name).unwrap();
        assert_eq!(Xattrs::of_open(&open).get(name), Err(Errno::NODATA));
        assert_eq!(Xattrs::of_open(&open).remove(name), Err(Errno::NODATA));
        Xattrs::of_name(&top, c"f").set(name, b"n", none).unwrap();
        assert_eq!(Xattrs::of_open(&open).get(name).unwrap(), b"n");
        assert_eq!(Xattrs::of_name(&top, c"f").get(name).unwrap(), b"n");
        let by_path = named(top.as_fd(), c"f");
        let mut buf = [0u8; 8];
        assert_eq!(rustix::fs::lgetxattr(by_path, name, &mut buf), Ok(1));
        let by_name = Xattrs::of_name(&top, c"link");
        assert_eq!(by_name.get(name), Err(Errno::NODATA));
        Xattrs::of_name(&top, c"f").remove(name).unwrap();
        Xattrs::of_dir(&top).set(name, b"d", none).unwrap();
        assert_eq!(Xattrs::of(&top).get(name).unwrap(), b"d");
    }

    #[test]
    fn the_mode_of_what_a_descriptor_only_names_is_changed() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let fd = rustix::fs::open(file.path(), OFlags::PATH, Mode::empty()).unwrap();
        crate::sys::obj::chmod(&fd, 0o4751).unwrap();
        let mode = file.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o4751);
    }
}
