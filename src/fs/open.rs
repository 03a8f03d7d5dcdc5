//! OPEN, CREATE's handle, RELEASE; and which descriptor serves an open file.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use rustix::fs::OFlags;

use super::resolve::Here;
use super::upper::Data;
use super::{Caller, Inode, Source, View};
use crate::sys::obj;
use crate::sys::{Errno, Res};

/// open(2)'s flags as far as they matter here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OpenHow {
    /// Access mode and flags.
    pub flags: OFlags,
}

impl OpenHow {
    /// From a request's `open_flags`.
    pub fn from_raw(flags: i32) -> OpenHow {
        OpenHow {
            flags: OFlags::from_bits_retain(flags as u32),
        }
    }

    /// May the file be written through this?
    pub fn writes(self) -> bool {
        !(self.flags & OFlags::ACCMODE).is_empty()
    }

    /// What the backing file is opened with. O_APPEND is the kernel's business: it sends offsets;
    /// O_DIRECT is between the caller and the kernel's cache.
    pub(super) fn backing(self) -> OFlags {
        self.flags & (OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME)
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    inode: Arc<Inode>,
    how: OpenHow,
    /// Replaced when the file is copied up: a reader then sees later writes. `None` while it was
    /// let go of, to be opened again when it is used.
    file: RwLock<Option<Arc<OwnedFd>>>,
    epoch: AtomicU32,
}

impl OpenFile {
    pub(super) fn new(inode: Arc<Inode>, how: OpenHow, file: OwnedFd, epoch: u32) -> OpenFile {
        inode.data.opens.fetch_add(1, Ordering::Relaxed);
        let file = RwLock::new(Some(Arc::new(file)));
        OpenFile {
            inode,
            how,
            file,
            epoch: AtomicU32::new(epoch),
        }
    }

    /// The descriptor as it is, perhaps of before a copy-up.
    pub(super) fn current(&self) -> Option<Arc<OwnedFd>> {
        self.file.read().clone()
    }

    /// Lets go of the descriptor, unless it is in use or could not be had again: contents that
    /// were put together for this handle.
    fn let_go(&self) {
        let again = matches!(self.inode.data.state.read().source, Source::One(_));
        let mut file = self.file.write();
        if again && file.as_ref().is_some_and(|fd| Arc::strong_count(fd) == 1) {
            *file = None;
        }
    }

    pub(super) fn writes(&self) -> bool {
        self.how.writes()
    }

    /// Was the object not copied up since this was opened?
    pub(super) fn is_up_to_date(&self) -> bool {
        self.epoch.load(Ordering::Acquire) == self.inode.data.state.read().epoch
    }

    pub(super) fn is_of(&self, inode: &Inode) -> bool {
        self.inode.number == inode.number
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.inode.data.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

impl View {
    /// Opens a regular file; for writing, copies it up first. Returns the handle's number.
    ///
    /// # Errors
    /// `EROFS` for a write outside writable zones; what copy-up and opening answer.
    pub fn open(&self, number: u64, how: OpenHow, caller: Caller) -> Res<u64> {
        let inode = self.inode(number)?;
        let truncate = how.flags.contains(OFlags::TRUNC);
        let (file, epoch) = if how.writes() || truncate {
            let data = if truncate { Data::Nothing } else { Data::Whole };
            let here = self.copy_up(&inode, data)?;
            let epoch = inode.data.state.read().epoch;
            let file = self.open_upper(&here, how)?;
            if truncate {
                self.empty(&here, &file, how, caller)?;
            }
            (file, epoch)
        } else {
            let epoch = inode.data.state.read().epoch;
            (self.open_to_read(&*self.object(&inode)?, how)?, epoch)
        };
        Ok(self.keep_open(OpenFile::new(inode, how, file, epoch)))
    }

    /// O_TRUNC (FUSE_ATOMIC_O_TRUNC leaves it to us).
    fn empty(&self, here: &Here, file: &OwnedFd, how: OpenHow, caller: Caller) -> Res<()> {
        if how.writes() {
            rustix::fs::ftruncate(file, 0)?;
        } else {
            let fd = self.reach(here)?.ok_or(Errno::IO)?;
            rustix::fs::ftruncate(obj::reopen(fd, OFlags::WRONLY)?, 0)?;
        }
        if caller.uid != 0 {
            obj::kill_suid(file)
        } else {
            Ok(())
        }
    }

    fn open_upper(&self, here: &Here, how: OpenHow) -> Res<OwnedFd> {
        if here.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        obj::reopen(self.reach(here)?.ok_or(Errno::IO)?, how.backing())
    }

    fn open_to_read(&self, here: &Here, how: OpenHow) -> Res<OwnedFd> {
        // A FIFO or a device in the place of the file would be opened on the server.
        if here.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        if here.upper.is_some() {
            return self.open_upper(here, how);
        }
        if let Source::Con(_) | Source::Empty = here.source {
            let whole = rustix::fs::memfd_create(c"con", rustix::fs::MemfdFlags::CLOEXEC)?;
            let mut at = 0;
            for (part, size) in self.open_contents(here)? {
                at += crate::sys::copy::range(&part, 0, &whole, at, size)?;
            }
            return Ok(whole);
        }
        let mut parts = self.open_contents(here)?;
        parts.pop().map(|(fd, _)| fd).ok_or(Errno::IO)
    }

    /// The descriptor that serves a request: the handle's, brought up to date after a copy-up; for
    /// a handle that is not known, one opened for this request.
    pub(super) fn file(&self, number: u64, handle: u64, write: bool) -> Res<Arc<OwnedFd>> {
        let Some(open) = self.held.files.get(handle) else {
            let inode = self.inode(number)?;
            if write {
                let here = self.copy_up(&inode, Data::Whole)?;
                let how = OpenHow {
                    flags: OFlags::RDWR,
                };
                return self.open_upper(&here, how).map(Arc::new);
            }
            let how = OpenHow {
                flags: OFlags::RDONLY,
            };
            return self.open_to_read(&*self.object(&inode)?, how).map(Arc::new);
        };
        let epoch = open.inode.data.state.read().epoch;
        let current = open
            .current()
            .filter(|_| open.epoch.load(Ordering::Acquire) == epoch);
        if let Some(file) = current {
            return Ok(file);
        }
        let here = self.object(&open.inode)?;
        let file = match open.how.writes() {
            true => self.open_upper(&here, open.how)?,
            false => self.open_to_read(&here, open.how)?,
        };
        let file = Arc::new(file);
        *open.file.write() = Some(file.clone());
        open.epoch.store(epoch, Ordering::Release);
        Ok(file)
    }

    /// Gives an open file a number. Each costs this process a descriptor: where they come near
    /// the limit, files that are not in use right now are let go of.
    pub(super) fn keep_open(&self, file: OpenFile) -> u64 {
        let number = self.held.files.insert(file);
        if number.is_multiple_of(256) && self.held.files.len() > most_open() {
            for file in self.held.files.all() {
                file.let_go();
            }
        }
        number
    }

    /// Lets go of a handle.
    pub fn release(&self, handle: u64) {
        self.held.files.remove(handle);
    }
}

/// How many descriptors open files may hold: half the limit, so that requests have the rest.
fn most_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit / 2).unwrap_or(usize::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ROOT, plain};

    const ME: Caller = Caller { uid: 0, gid: 0 };

    #[test]
    fn a_descriptor_that_was_let_go_of_is_had_again() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "lower").unwrap()
        });
        let file = view.lookup(ROOT, b"f").unwrap().attr.number;
        let reader = view
            .open(file, OpenHow::from_raw(libc::O_RDONLY), ME)
            .unwrap();
        let writer = view
            .open(file, OpenHow::from_raw(libc::O_RDWR), ME)
            .unwrap();
        for round in 0..3 {
            for open in view.held.files.all() {
                open.let_go();
                assert!(open.current().is_none());
            }
            if round == 2 {
                view.unlink(ROOT, b"f").unwrap();
            }
            view.write(file, writer, 0, &[b'0' + round], false).unwrap();
            let mut text = [0; 5];
            view.read(file, reader, 0, &mut text).unwrap();
            assert_eq!(text, [b'0' + round, b'o', b'w', b'e', b'r']);
        }
    }
}
