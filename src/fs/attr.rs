//! GETATTR, SETATTR, STATFS.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, StatVfs};

use super::resolve::Here;
use super::upper::Data;
use super::{Attr, Caller, Entry, Inode, View};
use crate::sys::obj::{self, SetTime};
use crate::sys::{Errno, Res, creds};

/// What SETATTR asks for.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Access time.
    pub atime: SetTime,
    /// Modification time.
    pub mtime: SetTime,
}

/// What is changed.
enum To {
    /// A file that is open for I/O.
    Open,
    /// What a descriptor only names.
    Object,
    /// A symlink, which has no mode of its own.
    Symlink,
}

impl Changes {
    fn gives_away(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// Makes all but the size so, in the order that keeps what each call clears.
    fn make(&self, fd: &OwnedFd, to: To) -> Res<()> {
        if self.gives_away() {
            obj::chown(fd, self.uid, self.gid)?;
        }
        match (self.mode, to) {
            (None, _) | (_, To::Symlink) => {}
            (Some(mode), To::Open) => obj::chmod_open(fd, mode)?,
            (Some(mode), To::Object) => obj::chmod(fd, mode)?,
        }
        if self.atime != SetTime::Omit || self.mtime != SetTime::Omit {
            obj::set_times(fd, self.atime, self.mtime)?;
        }
        Ok(())
    }
}

impl View {
    /// Attributes, of what is open under `handle` where no name leads to it any more.
    ///
    /// # Errors
    /// `ESTALE`, `ENOENT`, and what the layer answers.
    pub fn getattr(&self, number: u64, handle: Option<u64>) -> Res<Entry> {
        let inode = self.inode(number)?;
        if let Some(entry) = self.near_attr(&inode) {
            return Ok(entry);
        }
        match self.object(&inode) {
            Ok(here) => Ok(Entry {
                attr: here.attr,
                lifetime: self.lifetime_of(&inode, here.trust),
            }),
            Err(e @ (Errno::NOENT | Errno::STALE)) => {
                let file = handle
                    .and_then(|handle| self.held.files.get(handle))
                    .ok_or(e)?;
                let mut stat = obj::stat(&*file.current().ok_or(e)?)?;
                stat.nlink = 0;
                Ok(Entry {
                    attr: Attr { number, stat },
                    lifetime: self.options.lifetime,
                })
            }
            Err(e) => Err(e),
        }
    }

    /// Changes attributes, in the order that keeps what each call clears: size, owner, mode, times.
    ///
    /// # Errors
    /// `EROFS` outside writable zones; what copy-up and the upper answer.
    pub fn setattr(
        &self,
        number: u64,
        changes: &Changes,
        handle: Option<u64>,
        caller: Caller,
    ) -> Res<Entry> {
        let changed = self.change(number, changes, handle, caller);
        self.acl_changed(number);
        changed
    }

    fn change(
        &self,
        number: u64,
        changes: &Changes,
        handle: Option<u64>,
        caller: Caller,
    ) -> Res<Entry> {
        let inode = self.inode(number)?;
        if let Some(entry) = self.change_written(&inode, changes)? {
            return Ok(entry);
        }
        let data = if changes.size == Some(0) {
            Data::Nothing
        } else {
            Data::Whole
        };
        let here = self.copy_up(&inode, data)?;
        let fd = self.reach(&here)?.ok_or(Errno::IO)?;
        if (changes.size.is_some() || changes.gives_away()) && here.attr.stat.has_bits() {
            creds::keep_bits()?;
        }
        if let Some(size) = changes.size {
            self.truncate(&here, size, handle)?;
            // FUSE_HANDLE_KILLPRIV_V2: the kernel leaves this to the file system. The flag that
            // says whether the caller may keep the bits is not handed through; root may.
            if caller.uid != 0 && changes.mode.is_none() {
                obj::kill_suid(fd)?;
            }
        }
        let to = match (here.open, here.kind()) {
            (Some(_), _) => To::Open,
            (None, libc::S_IFLNK) => To::Symlink,
            (None, _) => To::Object,
        };
        changes.make(fd, to)?;
        let mut stat = obj::stat(fd)?;
        stat.rdev = here.attr.stat.rdev;
        if here.attr.stat.is_dir() {
            stat.nlink = here.attr.stat.nlink;
        }
        Ok(Entry {
            attr: Attr { number, stat },
            lifetime: self.lifetime_of(&inode, here.trust),
        })
    }

    /// The same of a file that somebody has open for writing: what is open is the object, and
    /// nothing else need be known of it. (tar sets owner, mode and times of each file that it has
    /// just written.)
    fn change_written(&self, inode: &Inode, changes: &Changes) -> Res<Option<Entry>> {
        if changes.size.is_some() || inode.is_nameless() {
            return Ok(None);
        }
        let Some((fd, open, ..)) = self.writing_to(inode) else {
            return Ok(None);
        };
        if changes.gives_away() && obj::stat(&*fd)?.has_bits() {
            creds::keep_bits()?;
        }
        changes.make(&fd, open.map_or(To::Object, |_| To::Open))?;
        let attr = self.shown(inode.number, obj::stat(&*fd)?);
        Ok(Some(self.own_entry(inode, attr)))
    }

    fn truncate(&self, here: &Here, size: u64, handle: Option<u64>) -> Res<()> {
        let open = handle.and_then(|handle| self.held.files.get(handle));
        if let Some(file) = open.and_then(|file| file.to_write()) {
            return rustix::fs::ftruncate(&*file, size);
        }
        let fd = self.reach(here)?.ok_or(Errno::IO)?;
        if here.kind() != libc::S_IFREG {
            return Err(Errno::INVAL);
        }
        rustix::fs::ftruncate(obj::reopen(fd, OFlags::WRONLY)?, size)
    }

    /// The file system that the zone of an object is on: its upper's where it has one.
    ///
    /// # Errors
    /// `EIO` where that is missing.
    pub fn statfs(&self, number: u64) -> Res<StatVfs> {
        let inode = self.inode(number)?;
        let zone = self.rules.zone(self.pos_of(&inode).zone);
        let upper = zone.writes_to().and_then(|kind| self.upper_of(kind));
        let layer = upper.or(self.stack(zone).first().map(|src| src.layer));
        let layer = layer
            .or(self.roles.images.first().copied())
            .ok_or(Errno::IO)?;
        rustix::fs::fstatvfs(&*self.layers[layer as usize].root()?)
    }
}
