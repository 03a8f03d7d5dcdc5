//! fanotify(7) with events that name directories by file handles, and the handles themselves.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{Errno, Res};

/// What a mark asks for: every change of names, attributes and contents, of directories too.
const WANTED: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MOVED_FROM
    | libc::FAN_MOVED_TO
    | libc::FAN_ATTRIB
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

/// MAX_HANDLE_SZ of include/linux/exportfs.h.
const HANDLE_MAX: usize = 128;
/// Sizes of `struct fanotify_event_metadata`, of `fanotify_event_info_header` with the fsid that
/// follows it, and of the fixed part of a `struct file_handle` (include/uapi/linux/fanotify.h).
const META: usize = 24;
const INFO: usize = 12;
const HANDLE_HEAD: usize = 8;

/// Identity of a file system in events and in statfs(2).
pub type Fsid = u64;

/// `struct file_handle` with room for the longest.
#[repr(C)]
struct RawHandle {
    len: u32,
    kind: i32,
    bytes: [u8; HANDLE_MAX],
}

/// A group: a queue of events, and the marks that feed it.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Group {
    /// A group whose events carry directory, name and object; the object only from Linux 5.17 on
    /// for changes of names. Reading does not block.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `EINVAL` before Linux 5.9, `EMFILE`, `ENOSYS`.
    pub fn new() -> Res<Group> {
        let base = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_FID
            | libc::FAN_REPORT_DIR_FID
            | libc::FAN_REPORT_NAME;
        match init(base | libc::FAN_REPORT_TARGET_FID) {
            Err(Errno::INVAL) => init(base),
            other => other,
        }
        .map(|fd| Group { fd })
    }

    /// Marks the file system that `dir` (`O_PATH` suffices) is on; again is no error.
    ///
    /// # Errors
    /// fanotify_mark(2)'s: `ENODEV`, `EOPNOTSUPP`, `EXDEV`, `ENOSPC`.
    pub fn mark(&self, dir: BorrowedFd<'_>) -> Res<()> {
        self.change_mark(dir, libc::FAN_MARK_ADD)
    }

    /// Takes the mark off again.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn unmark(&self, dir: BorrowedFd<'_>) -> Res<()> {
        self.change_mark(dir, libc::FAN_MARK_REMOVE)
    }

    fn change_mark(&self, dir: BorrowedFd<'_>, how: u32) -> Res<()> {
        let flags = how | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: both descriptors are borrowed, so open, for the call; the path is a constant C
        // string (with NULL in its place the kernel would refuse O_PATH descriptors).
        let result = unsafe {
            libc::fanotify_mark(
                self.fd.as_raw_fd(),
                flags,
                WANTED,
                dir.as_raw_fd(),
                c".".as_ptr(),
            )
        };
        if result < 0 { Err(last()) } else { Ok(()) }
    }

    /// Reads as many whole events as fit.
    ///
    /// # Errors
    /// `EAGAIN` when there is none, `EINVAL` when the next is longer than the buffer.
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> Res<Events<'b>> {
        let len = loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        Ok(Events {
            rest: &buffer[..len],
        })
    }

    /// How many events wait.
    ///
    /// # Errors
    /// ioctl(2)'s.
    pub fn waiting(&self) -> Res<u64> {
        // The kernel counts each event as one fixed part (fanotify_ioctl).
        Ok(rustix::io::ioctl_fionread(&self.fd)? / META as u64)
    }

    /// Devices (`sb->s_dev` as mountinfo's major and minor) of the file systems that are marked
    /// now; a mark goes silently with its file system.
    ///
    /// # Errors
    /// Reading /proc/self/fdinfo.
    pub fn marked(&self) -> std::io::Result<Vec<(u32, u32)>> {
        let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let device = |line: &str| {
            let hex = line.strip_prefix("fanotify sdev:")?.split(' ').next()?;
            let dev = u32::from_str_radix(hex, 16).ok()?;
            // MKDEV inside the kernel: 20 bits of minor (include/linux/kdev_t.h).
            Some((dev >> 20, dev & 0xf_ffff))
        };
        Ok(text.lines().filter_map(device).collect())
    }
}

fn init(flags: u32) -> Res<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32 | libc::O_CLOEXEC as u32) };
    owned(fd)
}

fn owned(fd: RawFd) -> Res<OwnedFd> {
    if fd < 0 {
        return Err(last());
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What was read, event by event.
#[derive(Debug)]
pub struct Events<'b> {
    rest: &'b [u8],
}

/// One event. Handles are in the form of [`handle_of`], and only mean something on the file system
/// of the event.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event<'b> {
    mask: u64,
    /// The process that caused it.
    pub pid: i32,
    /// The file system.
    pub fsid: Fsid,
    /// The directory that the name is in, or that the event itself is about.
    pub dir: Option<&'b [u8]>,
    /// The name in it; empty for the directory itself.
    pub name: &'b [u8],
    /// The object.
    pub object: Option<&'b [u8]>,
}

impl Event<'_> {
    fn any(&self, of: u64) -> bool {
        self.mask & of != 0
    }
    /// Events were dropped before this one.
    pub fn is_overflow(&self) -> bool {
        self.any(libc::FAN_Q_OVERFLOW)
    }
    /// The object is a directory.
    pub fn is_dir(&self) -> bool {
        self.any(libc::FAN_ONDIR)
    }
    /// A name came or went.
    pub fn is_entry(&self) -> bool {
        self.any(libc::FAN_CREATE | libc::FAN_DELETE) || self.is_move()
    }
    /// A name came or went by a rename.
    pub fn is_move(&self) -> bool {
        self.any(libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO)
    }
    /// A name was removed.
    pub fn is_delete(&self) -> bool {
        self.any(libc::FAN_DELETE)
    }
    /// Attributes or the link count changed.
    pub fn is_attributes(&self) -> bool {
        self.any(libc::FAN_ATTRIB)
    }
    /// Contents changed, or what was open for writing was closed.
    pub fn is_contents(&self) -> bool {
        self.any(libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE)
    }
}

impl<'b> Iterator for Events<'b> {
    /// `None` for an event that can't be understood; those after it in the buffer are lost.
    type Item = Option<Event<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let one = self.one();
        if one.is_none() {
            self.rest = &[];
        }
        Some(one)
    }
}

impl<'b> Events<'b> {
    fn one(&mut self) -> Option<Event<'b>> {
        let len = word(self.rest, 0)? as usize;
        if len < META || self.rest.get(4)? != &libc::FANOTIFY_METADATA_VERSION {
            return None;
        }
        let (event, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        let mut found = Event {
            mask: u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?),
            pid: word(event, 20)?.cast_signed(),
            ..Event::default()
        };
        let mut info = event.get(half(event, 6)? as usize..)?;
        while !info.is_empty() {
            let (record, rest) = info.split_at_checked(half(info, 2)? as usize)?;
            if record.is_empty() {
                return None;
            }
            found.take(record)?;
            info = rest;
        }
        Some(found)
    }
}

impl<'b> Event<'b> {
    /// Takes in one information record.
    fn take(&mut self, record: &'b [u8]) -> Option<()> {
        let kind = *record.first()?;
        let named = kind == libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
        let of_dir = named || kind == libc::FAN_EVENT_INFO_TYPE_DFID;
        if !of_dir && kind != libc::FAN_EVENT_INFO_TYPE_FID {
            return Some(());
        }
        self.fsid = fsid(word(record, 4)?, word(record, 8)?);
        let len = word(record, INFO)? as usize;
        // Type and bytes lie side by side, which is the form of a handle here.
        let handle = record.get(INFO + 4..INFO + HANDLE_HEAD + len)?;
        if of_dir {
            self.dir = Some(handle);
        } else {
            self.object = Some(handle);
        }
        if named {
            let name = record.get(INFO + HANDLE_HEAD + len..)?;
            let name = CStr::from_bytes_until_nul(name).ok()?.to_bytes();
            self.name = if name == b"." { b"" } else { name };
        }
        Some(())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn fsid(low: u32, high: u32) -> Fsid {
    u64::from(low) | u64::from(high) << 32
}

/// The file system that an object is on, as events name it.
///
/// # Errors
/// fstatfs(2)'s.
pub fn fsid_of(object: impl AsFd) -> Res<Fsid> {
    // The C library and rustix put the two words together as `fsid` does.
    Ok(rustix::fs::fstatvfs(object)?.f_fsid)
}

/// The handle of an object: its type and its bytes, as events have them.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has none, `EOVERFLOW`.
pub fn handle_of(object: BorrowedFd<'_>) -> Res<Box<[u8]>> {
    let mut handle = RawHandle {
        len: HANDLE_MAX as u32,
        kind: 0,
        bytes: [0; HANDLE_MAX],
    };
    let mut mount = 0;
    // SAFETY: `handle` is laid out as struct file_handle with room for `len` bytes, and both it
    // and `mount` outlive the call; the empty path is a constant C string.
    let result = unsafe {
        libc::name_to_handle_at(
            object.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if result < 0 {
        return Err(last());
    }
    let bytes = handle
        .bytes
        .get(..handle.len as usize)
        .ok_or(Errno::OVERFLOW)?;
    Ok([&handle.kind.to_ne_bytes(), bytes].concat().into())
}

/// An `O_PATH` descriptor of the object that a handle stands for, as seen in the mount of `mount`
/// (which may not be `O_PATH`). A symlink is opened itself.
///
/// # Errors
/// `ESTALE` when it is gone, `EPERM` without CAP_DAC_READ_SEARCH, `EINVAL` for no handle at all.
pub fn open_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> Res<OwnedFd> {
    let (kind, bytes) = handle.split_at_checked(4).ok_or(Errno::INVAL)?;
    let mut raw = RawHandle {
        len: bytes.len() as u32,
        kind: i32::from_ne_bytes(kind.try_into().map_err(|_| Errno::INVAL)?),
        bytes: [0; HANDLE_MAX],
    };
    let room = raw.bytes.get_mut(..bytes.len()).ok_or(Errno::INVAL)?;
    room.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `raw` is laid out as struct file_handle, has `len` bytes and outlives the call.
    owned(unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) })
}
