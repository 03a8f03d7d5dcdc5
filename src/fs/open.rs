//! OPEN, CREATE's handle, RELEASE; and which descriptor serves an open file.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rustix::fs::OFlags;

use super::backing::{Backing, Entered, Handed, Register, by_daemon};
use super::descriptors::bound;
use super::resolve::Here;
use super::upper::Data;
use super::{Caller, Inode, Source, View};
use crate::budget::{Kept, OPEN};
use crate::keep::opens::Record;
use crate::sys::{Errno, Res, creds, obj};

/// What is put together out of several files is in memory for each open: a file of a litetree that
/// has holes, or is a mistake, must not take all of it.
const MOST_IN_MEMORY: u64 = 64 << 20;

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

    /// May the file be written through a mapping of this?
    pub(super) fn maps(self) -> bool {
        self.flags & OFlags::ACCMODE == OFlags::RDWR
    }

    /// What the backing file is opened with. O_APPEND is the kernel's business: it sends offsets;
    /// O_DIRECT is between the caller and the kernel's cache.
    pub(super) fn backing(self) -> OFlags {
        self.flags & (OFlags::ACCMODE | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME)
    }
}

/// What an open came to.
#[derive(Debug)]
pub struct Opened {
    /// The handle's number.
    pub handle: u64,
    /// The kernel reads and writes this by itself.
    pub backing: Option<Backing>,
    /// What the kernel has of the contents is still good.
    pub keeps_cache: bool,
}

impl Opened {
    /// Requests name the inode alone.
    pub(super) fn without_handle() -> Opened {
        Opened {
            handle: 0,
            backing: None,
            keeps_cache: false,
        }
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    entered: Entered,
    how: OpenHow,
    /// What serves requests. Replaced when the file is copied up: a reader then sees later writes.
    /// Nothing while it was let go of, to be opened again when it is used.
    file: RwLock<Served>,
    epoch: AtomicU32,
    /// What a worker that follows knows of it.
    record: OnceLock<Record>,
}

/// What an open file is reached by.
#[derive(Debug)]
pub(super) enum Served {
    /// A descriptor to read and write.
    File(Kept),
    /// One that only names it (`O_PATH`): the kernel does the reading.
    Object(Kept),
    /// Its inode.
    Nothing,
}

impl Served {
    pub(super) fn file(fd: Arc<OwnedFd>) -> Served {
        Served::File(OPEN.keep(fd))
    }
}

impl OpenFile {
    pub(super) fn new(entered: Entered, how: OpenHow, file: Served, epoch: u32) -> OpenFile {
        let opens = &entered.inode().data.opens;
        opens.fetch_add(1, Ordering::Relaxed);
        OpenFile {
            entered,
            how,
            file: RwLock::new(file),
            epoch: AtomicU32::new(epoch),
            record: OnceLock::new(),
        }
    }

    /// It is recorded, until it is closed.
    pub(super) fn is_recorded(&self, record: Record) {
        self.record.get_or_init(|| record);
    }

    pub(super) fn how(&self) -> OpenHow {
        self.how
    }

    pub(super) fn backing(&self) -> Option<&Backing> {
        self.entered.backing.as_ref()
    }

    pub(super) fn inode(&self) -> &Arc<Inode> {
        self.entered.inode()
    }

    /// The descriptor as it is, perhaps of before a copy-up, perhaps only naming the file.
    pub(super) fn current(&self) -> Option<Arc<OwnedFd>> {
        match &*self.file.read() {
            Served::File(kept) | Served::Object(kept) => Some(kept.get()),
            Served::Nothing => None,
        }
    }

    /// The descriptor for I/O, if there is one that is good in an epoch. What the kernel reads and
    /// writes by itself is the same file for as long as it is open.
    fn serving(&self, epoch: u32) -> Res<Option<Arc<OwnedFd>>> {
        let through = self.entered.backing.is_some();
        let object = match &*self.file.read() {
            Served::File(kept) if through || self.epoch.load(Ordering::Acquire) == epoch => {
                return Ok(Some(kept.get()));
            }
            Served::Object(object) => object.get(),
            _ => return Ok(None),
        };
        let file = Arc::new(obj::reopen(&*object, self.how.backing())?);
        *self.file.write() = Served::file(file.clone());
        Ok(Some(file))
    }

    /// Lets go of the descriptor, unless it could not be had again: contents that were put together
    /// for this handle. Who is using it has it until then.
    pub(super) fn let_go(&self) {
        let again = matches!(self.inode().data.state.read().source, Source::One(_));
        if again {
            *self.file.write() = Served::Nothing;
        }
    }

    /// The descriptor to write to, if there is one now.
    pub(super) fn to_write(&self) -> Option<Arc<OwnedFd>> {
        match &*self.file.read() {
            Served::File(fd) if self.writes() => Some(fd.get()),
            _ => None,
        }
    }

    /// The descriptor of the inode's object as it is in this epoch, and what it is open for
    /// (nothing where it only names the file), if the object is being written to through this.
    pub(super) fn writing(&self, epoch: u32) -> Option<(Arc<OwnedFd>, Option<OFlags>)> {
        if !self.writes() || self.epoch.load(Ordering::Acquire) != epoch {
            return None;
        }
        match &*self.file.read() {
            Served::File(fd) => Some((fd.get(), Some(self.how.backing()))),
            Served::Object(fd) => Some((fd.get(), None)),
            Served::Nothing => None,
        }
    }

    pub(super) fn writes(&self) -> bool {
        self.how.writes()
    }

    /// Was the object not copied up since this was opened?
    pub(super) fn is_up_to_date(&self) -> bool {
        self.epoch.load(Ordering::Acquire) == self.inode().data.state.read().epoch
    }

    pub(super) fn is_of(&self, inode: &Inode) -> bool {
        self.inode().number == inode.number
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.inode().data.opens.fetch_sub(1, Ordering::Relaxed);
    }
}

impl View {
    /// Opens a regular file where no kernel reads by itself. Returns the handle's number.
    ///
    /// # Errors
    /// As [`View::open_by`].
    pub fn open(&self, number: u64, how: OpenHow, caller: Caller) -> Res<u64> {
        let opened = self.open_by(number, how, caller, &by_daemon)?;
        Ok(opened.handle)
    }

    /// Opens a regular file; for writing, copies it up first.
    ///
    /// # Errors
    /// `EROFS` for a write outside writable zones; `ESTALE` where it is to be looked up again;
    /// what copy-up and opening answer.
    pub fn open_by(
        &self,
        number: u64,
        how: OpenHow,
        caller: Caller,
        register: Register<'_>,
    ) -> Res<Opened> {
        self.open_again();
        self.find_lost(number);
        let inode = self.inode(number)?;
        let displaced = inode.data.displaced.load(Ordering::Acquire);
        // Another file has taken its place: whoever opens it by name is to have that one. The
        // kernel looks the name up again and comes back.
        let still = || match inode.data.displaced.load(Ordering::Acquire) == displaced {
            true => Ok(()),
            false => Err(Errno::STALE),
        };
        let truncate = how.flags.contains(OFlags::TRUNC);
        let opened = if how.writes() || truncate {
            let data = if truncate { Data::Nothing } else { Data::Whole };
            let here = self.copy_up(&inode, data)?;
            still()?;
            let epoch = inode.data.state.read().epoch;
            if !truncate && self.opens_surely(&here)? {
                let opened = self.open_named(&inode, here, how, register, epoch)?;
                return Ok(self.opened(opened));
            }
            let file = self.open_copied(&here, how)?;
            let (fd, writes) = (&*file, true);
            let entered = self.enter_open(&inode, &here, how, register, Handed { fd, writes })?;
            if truncate {
                self.empty(&here, &file, how, caller)?;
            }
            let opened = self.opened(OpenFile::new(entered, how, Served::file(file), epoch));
            if here.bare {
                inode.data.made_under(opened.handle);
            }
            return Ok(opened);
        } else {
            let epoch = inode.data.state.read().epoch;
            let here = match self.near_named(&inode) {
                Some(here) => here,
                None => self.object(&inode)?,
            };
            still()?;
            self.open_reader(&inode, here, how, register, epoch)?
        };
        Ok(self.opened(opened))
    }

    fn open_reader(
        &self,
        inode: &Arc<Inode>,
        here: Box<Here>,
        how: OpenHow,
        register: Register<'_>,
        epoch: u32,
    ) -> Res<OpenFile> {
        // A FIFO or a device in the place of the file would be opened on the server.
        if here.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        if here.upper.is_none() {
            let file = self.open_to_read(&here, how)?;
            let (fd, writes) = (&*file, false);
            let entered = self.enter_open(inode, &here, how, register, Handed { fd, writes })?;
            return Ok(OpenFile::new(entered, how, Served::file(file), epoch));
        }
        self.open_named(inode, here, how, register, epoch)
    }

    /// Opens a regular file of an upper that need not be opened here where the kernel does.
    fn open_named(
        &self,
        inode: &Arc<Inode>,
        here: Box<Here>,
        how: OpenHow,
        register: Register<'_>,
        epoch: u32,
    ) -> Res<OpenFile> {
        let fd = self.reach(&here)?.ok_or(Errno::IO)?;
        let writes = here
            .open
            .is_some_and(|open| !(open & OFlags::ACCMODE).is_empty());
        let entered = self.enter_open(inode, &here, how, register, Handed { fd, writes })?;
        let served = if entered.backing.is_some() {
            Served::Object(OPEN.keep(here.fd.into_inner().ok_or(Errno::IO)?))
        } else {
            Served::file(Arc::new(self.open_upper(&here, how)?))
        };
        Ok(OpenFile::new(entered, how, served, epoch))
    }

    /// What the kernel is told of an open file.
    pub(super) fn opened(&self, file: OpenFile) -> Opened {
        let (backing, keeps_cache) = (file.entered.backing.clone(), file.entered.keeps_cache);
        Opened {
            handle: self.keep_open(file),
            backing,
            keeps_cache,
        }
    }

    /// O_TRUNC (FUSE_ATOMIC_O_TRUNC leaves it to us).
    fn empty(&self, here: &Here, file: &OwnedFd, how: OpenHow, caller: Caller) -> Res<()> {
        if here.attr.stat.has_bits() {
            creds::keep_bits()?;
        }
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

    /// Can opening this for writing fail for no reason that is not known? The kernel does it by
    /// itself after the answer, and whatever it finds is EIO to the caller (fs/fuse/iomode.c).
    fn opens_surely(&self, here: &Here) -> Res<bool> {
        let named = here.open.is_none() && here.kind() == libc::S_IFREG;
        let known = |upper| named && self.is_local(upper) && !here.attr.stat.guarded;
        if !here.upper.is_some_and(known) {
            return Ok(false);
        }
        let fd = self.reach(here)?.ok_or(Errno::IO)?;
        let read_only = rustix::fs::StatVfsMountFlags::RDONLY;
        Ok(!rustix::fs::fstatvfs(fd)?.f_flag.contains(read_only))
    }

    /// What was just copied is open for reading and writing already, and may serve as it is.
    fn open_copied(&self, here: &Here, how: OpenHow) -> Res<Arc<OwnedFd>> {
        match here.fd.get() {
            Some(fd) if here.is_open_as(how) && here.kind() == libc::S_IFREG => Ok(Arc::clone(fd)),
            _ => self.open_upper(here, how).map(Arc::new),
        }
    }

    pub(super) fn open_upper(&self, here: &Here, how: OpenHow) -> Res<OwnedFd> {
        if here.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        obj::reopen(self.reach(here)?.ok_or(Errno::IO)?, how.backing())
    }

    pub(super) fn open_to_read(&self, here: &Here, how: OpenHow) -> Res<Arc<OwnedFd>> {
        // A FIFO or a device in the place of the file would be opened on the server.
        if here.kind() != libc::S_IFREG {
            return Err(Errno::STALE);
        }
        if here.upper.is_some() {
            return self.open_upper(here, how).map(Arc::new);
        }
        // What lost its name is reached by its descriptor alone.
        if here.path.is_empty()
            && let Some(fd) = here.fd.get()
        {
            return obj::reopen(fd, OFlags::NOATIME).map(Arc::new);
        }
        if let Source::Con(_) | Source::Empty = here.source {
            let parts = self.open_contents(here)?;
            let size = parts
                .iter()
                .fold(0u64, |sum, part| sum.saturating_add(part.1));
            if size > MOST_IN_MEMORY {
                let path = here.path.escape_ascii();
                tracing::warn!(view = self.name, %path, size, most = MOST_IN_MEMORY, "too large to be put together");
                return Err(Errno::FBIG);
            }
            let whole = rustix::fs::memfd_create(c"con", rustix::fs::MemfdFlags::CLOEXEC)?;
            let mut at = 0;
            for (part, size) in parts {
                at += crate::sys::copy::range(&part, 0, &whole, at, size)?;
            }
            return Ok(Arc::new(whole));
        }
        if let Source::One(src) = here.source
            && !self.layer_is_upper(src.layer)
        {
            let zone = self.rules.zone(here.pos.zone);
            let at = self.layer_path(zone, &here.path, src);
            let stat = &here.attr.stat;
            return self.layer(src).read_file(&at, (stat.dev, stat.ino));
        }
        let mut parts = self.open_contents(here)?;
        parts.pop().map(|(fd, _)| Arc::new(fd)).ok_or(Errno::IO)
    }

    /// The descriptor that serves a request: the handle's, brought up to date after a copy-up; for
    /// a handle that is not known, one of the inode's.
    pub(super) fn file(&self, number: u64, handle: u64, write: bool) -> Res<Arc<OwnedFd>> {
        let Some(open) = self.held.files.get(handle) else {
            return self.file_of_none(&self.inode(number)?, write);
        };
        let epoch = open.inode().data.state.read().epoch;
        if let Some(file) = open.serving(epoch)? {
            return Ok(file);
        }
        let here = self.object(open.inode())?;
        let file = match open.how.writes() {
            true => Arc::new(self.open_upper(&here, open.how)?),
            false => self.open_to_read(&here, open.how)?,
        };
        *open.file.write() = Served::file(file.clone());
        open.epoch.store(epoch, Ordering::Release);
        Ok(file)
    }

    /// Gives an open file a number. Each costs this process a descriptor: where those of all views
    /// come near the limit, files that are not in use right now are let go of.
    pub(super) fn keep_open(&self, file: OpenFile) -> u64 {
        let writes = file.writes().then(|| file.inode().clone());
        let number = self.held.files.insert(file);
        if let Some(file) = self.held.files.get(number) {
            self.record_open(number, &file);
        }
        if let Some(inode) = writes {
            inode.data.writer.store(number, Ordering::Relaxed);
        }
        bound();
        number
    }

    /// Lets go of a handle. An inode whose attributes the kernel is to be told are void comes back:
    /// it was written to by the kernel itself, which does not know what a mapping did to its times.
    pub fn release(&self, handle: u64) -> Option<u64> {
        let file = match self.held.files.remove(handle) {
            Some(file) => file,
            None => self.close_lost(handle)?,
        };
        let through = file.entered.backing.is_some();
        (through && file.how.maps()).then(|| file.inode().number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ME, ROOT, plain};

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
