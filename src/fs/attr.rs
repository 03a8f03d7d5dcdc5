//! GETATTR, SETATTR, STATFS.

use rustix::fs::{Mode, OFlags, StatVfs};

use super::resolve::Here;
use super::upper::Data;
use super::{Attr, Caller, Entry, View};
use crate::sys::obj::{self, SetTime};
use crate::sys::{Errno, Res};

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
        let inode = self.inode(number)?;
        let data = if changes.size == Some(0) {
            Data::Nothing
        } else {
            Data::Whole
        };
        let here = self.copy_up(&inode, data)?;
        let fd = self.reach(&here)?.ok_or(Errno::IO)?;
        if let Some(size) = changes.size {
            self.truncate(&here, size, handle)?;
            // FUSE_HANDLE_KILLPRIV_V2: the kernel leaves this to the file system. The flag that
            // says whether the caller may keep the bits is not handed through; root may.
            if caller.uid != 0 && changes.mode.is_none() {
                obj::kill_suid(fd)?;
            }
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            obj::chown(fd, changes.uid, changes.gid)?;
        }
        if let Some(mode) = changes.mode
            && here.kind() != libc::S_IFLNK
        {
            match here.open {
                Some(_) => rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))?,
                None => obj::chmod(fd, mode)?,
            }
        }
        if changes.atime != SetTime::Omit || changes.mtime != SetTime::Omit {
            obj::set_times(fd, changes.atime, changes.mtime)?;
        }
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
