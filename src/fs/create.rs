//! CREATE, MKNOD, MKDIR, SYMLINK, LINK: one system call in the upper makes the object with its
//! owner, mode and ACL; where a whiteout stands, in a directory of the work directory that hands
//! down the same, and a rename follows.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::backing::{Handed, Register, by_daemon};
use super::open::{OpenFile, Opened, Served};
use super::resolve::{Here, Outcome, join};
use super::upper::Data;
use super::{Caller, Entry, Inode, IoMode, OpenHow, View};
use crate::keep::request;
use crate::layer::machinery;
use crate::rules::Pos;
use crate::sys::creds::{self, as_caller};
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res};

/// Where a new name goes.
pub(super) struct Place {
    pub(super) parent: Arc<Inode>,
    pub(super) pos: Pos,
    pub(super) path: Vec<u8>,
    pub(super) upper: u8,
    /// The upper says that the name is deleted.
    pub(super) whiteout: bool,
    /// The parent in the upper, where it is known already.
    pub(super) dir: Option<Arc<OwnedFd>>,
}

impl View {
    /// Checks that a name is free and may be made.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `EPERM` for a name of the machinery, `ENAMETOOLONG`.
    pub(super) fn place(&self, parent: u64, name: &[u8]) -> Res<Place> {
        let parent = self.inode(parent)?;
        let dir = self.dir(&parent)?;
        let whiteout = match self.resolve(&dir, name)? {
            Outcome::Here(_) => return Err(Errno::EXIST),
            Outcome::Absent { whiteout, .. } => whiteout,
        };
        let pos = self.rules.step(dir.pos, name);
        let upper = self.writable(pos)?;
        if machinery::is_ours(name, self.layers[upper as usize].form()) {
            return Err(Errno::PERM);
        }
        Ok(Place {
            parent,
            pos,
            path: join(&dir.path, name),
            upper,
            whiteout,
            dir: None,
        })
    }

    /// Makes something at a name that is free.
    ///
    /// # Errors
    /// As [`View::place`], and what making it answers.
    fn make_at<T>(
        &self,
        parent: u64,
        name: &[u8],
        is_dir: bool,
        make: impl Fn(&OwnedFd, &[u8]) -> Res<T>,
    ) -> Res<(Place, T)> {
        let inode = self.inode(parent)?;
        if let Some(place) = self.near_place(&inode, name)
            && let Some(dir) = &place.dir
        {
            match self.with_room(|| make(dir, name)) {
                // There is something, if only a whiteout: a look tells.
                Err(Errno::EXIST) => {}
                // No directory any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => {
                    self.dir_gone(obj::split(&place.path).0, place.pos, place.upper);
                }
                other => return other.map(|made| (place, made)),
            }
        }
        let place = self.place(parent, name)?;
        let made = self.make(&place, name, is_dir, make)?;
        Ok((place, made))
    }

    fn make<T>(
        &self,
        place: &Place,
        name: &[u8],
        is_dir: bool,
        make: impl Fn(&OwnedFd, &[u8]) -> Res<T>,
    ) -> Res<T> {
        let dir = self.parent_in_upper(&place.parent, place.pos, &place.path)?;
        if !place.whiteout {
            return self.with_room(|| make(&dir, name));
        }
        let layer = &self.layers[place.upper as usize];
        self.with_room(|| layer.make_over_whiteout(&dir, name, is_dir, &make))
    }

    fn entry(&self, place: &Place, name: &[u8]) -> Res<(Entry, Arc<Inode>)> {
        if let Some(dir) = &place.dir {
            return self.made(place, name, obj::stat_name(&**dir, name)?);
        }
        let dir = self.dir(&place.parent)?;
        match self.resolve(&dir, name)? {
            Outcome::Here(here) => self.enter(&place.parent, name, *here),
            Outcome::Absent { .. } => Err(Errno::NOENT),
        }
    }

    /// The entry of what was just made, with nothing below it: nobody needs to look for it.
    fn made(&self, place: &Place, name: &[u8], stat: Stat) -> Res<(Entry, Arc<Inode>)> {
        self.enter(&place.parent, name, self.here_made(place, stat))
    }

    fn here_made(&self, place: &Place, stat: Stat) -> Here {
        let number = self.own_number(place.upper, &stat);
        self.here(place.upper, place.path.clone(), place.pos, stat, number)
    }

    /// Makes and opens a regular file where no kernel reads by itself. Returns the handle's number.
    ///
    /// # Errors
    /// As [`View::create_by`].
    pub fn create(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        how: OpenHow,
        caller: Caller,
    ) -> Res<(Entry, u64)> {
        let made = self.create_by((parent, name), (mode, umask), how, caller, &by_daemon)?;
        Ok((made.0, made.1.handle))
    }

    /// Makes and opens a regular file.
    ///
    /// # Errors
    /// As open(2) with O_CREAT.
    pub fn create_by(
        &self,
        (parent, name): (u64, &[u8]),
        (mode, umask): (u32, u32),
        how: OpenHow,
        caller: Caller,
        register: Register<'_>,
    ) -> Res<(Entry, Opened)> {
        self.open_again();
        // Where opens are not told of, neither is the end of this one (fs/fuse/file.c,
        // fuse_file_put): no handle is kept.
        let handless = self.io() == IoMode::Cached;
        let flags = match handless {
            true => (how.backing() - OFlags::ACCMODE) | OFlags::RDWR,
            false => how.backing(),
        };
        let flags = flags | OFlags::CREATE | OFlags::EXCL;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        if mode.intersects(Mode::SUID | Mode::SGID) {
            creds::keep_bits()?;
        }
        let made = self.make_at(parent, name, false, |dir, name| {
            as_caller(caller, umask, || rustix::fs::openat(dir, name, flags, mode))
        });
        let (place, file) = match made {
            // Someone else made it after the kernel looked.
            Err(Errno::EXIST) if !how.flags.contains(OFlags::EXCL) || request::is_resent() => {
                let entry = self.lookup(parent, name)?;
                let number = entry.attr.number;
                if !is_theirs(&entry, libc::S_IFREG, caller) {
                    self.forget(number, 1);
                    // The kernel asks nobody whether who makes a file may open it. After ESTALE it
                    // looks again, finds one, and does.
                    return Err(match how.flags.contains(OFlags::EXCL) {
                        true => Errno::EXIST,
                        false => Errno::STALE,
                    });
                }
                return match self.open_by(number, how, caller, register) {
                    Ok(opened) if handless => {
                        self.release(opened.handle);
                        Ok((entry, Opened::without_handle()))
                    }
                    Ok(opened) => Ok((entry, opened)),
                    Err(e) => {
                        self.forget(number, 1);
                        Err(e)
                    }
                };
            }
            made => made?,
        };
        let stat = obj::stat(&file)?;
        let here = self.here_made(&place, stat);
        let (entry, inode) = self.made(&place, name, stat)?;
        let epoch = inode.data.state.read().epoch;
        if handless {
            self.keep_handless(&inode, file, epoch);
            return Ok((entry, Opened::without_handle()));
        }
        let handed = Handed {
            fd: &file,
            writes: true,
        };
        match self.enter_open(&inode, &here, how, register, handed) {
            Ok(entered) => {
                let file = Served::file(Arc::new(file));
                let opened = self.opened(OpenFile::new(entered, how, file, epoch));
                inode.data.bare.store(opened.handle, Ordering::Relaxed);
                Ok((entry, opened))
            }
            Err(e) => {
                self.forget(inode.number, 1);
                Err(e)
            }
        }
    }

    /// Makes a file of any type but a directory or a symlink.
    ///
    /// # Errors
    /// As mknod(2); `EPERM` for the device number that stands for another.
    pub fn mknod(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        rdev: u64,
        caller: Caller,
    ) -> Res<Entry> {
        let (kind, rdev) = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => (FileType::RegularFile, 0),
            libc::S_IFIFO => (FileType::Fifo, 0),
            libc::S_IFSOCK => (FileType::Socket, 0),
            libc::S_IFBLK => (FileType::BlockDevice, rdev),
            libc::S_IFCHR if rdev == machinery::STORED_NULL_DEVICE => return Err(Errno::PERM),
            // 0:0 is the whiteout: a node's own is stored as a device that stands for it.
            libc::S_IFCHR if rdev == machinery::NULL_DEVICE => {
                (FileType::CharacterDevice, machinery::STORED_NULL_DEVICE)
            }
            libc::S_IFCHR => (FileType::CharacterDevice, rdev),
            _ => return Err(Errno::INVAL),
        };
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let made = self.make_at(parent, name, false, |dir, name| {
            as_caller(caller, umask, || {
                rustix::fs::mknodat(dir, name, kind, mode, rdev)
            })
        });
        self.entry_made(parent, name, (kind.as_raw_mode(), caller), made)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn mkdir(
        &self,
        parent: u64,
        name: &[u8],
        mode: u32,
        umask: u32,
        caller: Caller,
    ) -> Res<Entry> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let made = self.make_at(parent, name, true, |dir, name| {
            as_caller(caller, umask, || rustix::fs::mkdirat(dir, name, mode))
        });
        self.entry_made(parent, name, (libc::S_IFDIR, caller), made)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], caller: Caller) -> Res<Entry> {
        let made = self.make_at(parent, name, false, |dir, name| {
            as_caller(caller, 0, || rustix::fs::symlinkat(target, dir, name))
        });
        self.entry_made(parent, name, (libc::S_IFLNK, caller), made)
    }

    /// The entry of what was made, now or when the request came first: the kernel keeps others from
    /// making anything in the directory meanwhile.
    fn entry_made(
        &self,
        parent: u64,
        name: &[u8],
        (kind, caller): (u32, Caller),
        made: Res<(Place, ())>,
    ) -> Res<Entry> {
        let entry = made.and_then(|(place, ())| Ok(self.entry(&place, name)?.0));
        self.was_done(entry, &[Errno::EXIST], || {
            let entry = self.lookup(parent, name).ok()?;
            if is_theirs(&entry, kind, caller) {
                return Some(entry);
            }
            self.forget(entry.attr.number, 1);
            None
        })
    }

    /// Gives an object another name in its zone.
    ///
    /// # Errors
    /// As link(2); `EXDEV` into another zone.
    pub fn link(&self, number: u64, parent: u64, name: &[u8]) -> Res<Entry> {
        let linked = self.link_once(number, parent, name);
        self.was_done(linked, &[Errno::EXIST], || {
            let entry = self.lookup(parent, name).ok()?;
            if entry.attr.number != number {
                self.forget(entry.attr.number, 1);
                return None;
            }
            Some(entry)
        })
    }

    fn link_once(&self, number: u64, parent: u64, name: &[u8]) -> Res<Entry> {
        let inode = self.inode(number)?;
        let place = self.place(parent, name)?;
        let zone = self.pos_of(&inode).zone;
        if zone != place.pos.zone {
            return Err(Errno::XDEV);
        }
        if inode.is_nameless() {
            return Err(Errno::NOENT);
        }
        let here = self.copy_up(&inode, Data::Whole)?;
        let fd = self.reach(&here)?.ok_or(Errno::IO)?;
        self.note_moved(&here, self.writable(here.pos)?)?;
        self.make(&place, name, false, |dir, name| {
            rustix::fs::linkat(fd, c"", dir, name, AtFlags::EMPTY_PATH)
        })?;
        Ok(self.entry(&place, name)?.0)
    }
}

/// Is this what a caller would have made? Where the request comes again it is all that can be there,
/// whoever owns it in a store that says so itself.
fn is_theirs(entry: &Entry, kind: u32, caller: Caller) -> bool {
    let stat = &entry.attr.stat;
    stat.kind() == kind && (stat.uid == caller.uid || request::is_resent())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ME, ROOT, plain};

    #[test]
    fn another_s_file_is_not_opened_by_who_would_have_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("mine"), "mine").unwrap();
            std::fs::write(lower.join("other"), "secret").unwrap();
            std::os::unix::fs::chown(lower.join("other"), Some(4711), None).unwrap();
        });
        // The kernel has looked before they were there.
        let create = |name: &[u8], flags: i32| {
            let how = OpenHow::from_raw(libc::O_RDWR | libc::O_CREAT | flags);
            view.create(ROOT, name, 0o644, 0, how, ME).map(|_| ())
        };
        assert_eq!(create(b"mine", 0), Ok(()));
        assert_eq!(create(b"other", 0), Err(Errno::STALE));
        assert_eq!(create(b"mine", libc::O_EXCL), Err(Errno::EXIST));
        assert_eq!(create(b"other", libc::O_EXCL), Err(Errno::EXIST));
    }
}
