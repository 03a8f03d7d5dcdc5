//! Copy-up: an object of a lower layer comes to the upper whole or not at all, with owner, mode,
//! times, attributes, ACLs and holes (SEMANTICS section 6).
//!
//! The order matters and is the same for every kind: make it under a stage's name (a regular file
//! without any name), contents, owner, mode (chown clears setuid bits), attributes (chown and
//! writes clear file capabilities), the number, times last; write it out where the store is to
//! survive a power cut; then name it. Whatever fails, the stage goes.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags};

use super::{Layer, machinery, store};
use crate::sys::obj::{self, SetTime, Stat, Xattrs};
use crate::sys::{Errno, Res, copy, creds};

/// The mode of what somebody else might open before it is complete.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Attributes and contents for the copy.
#[derive(Debug)]
pub struct Origin<'a> {
    /// Type, mode, owner, times, size and device number of the copy.
    pub stat: Stat,
    /// The object whose extended attributes are copied, if it has any.
    pub attrs: Option<&'a OwnedFd>,
    /// What a regular file contains, in order: descriptors open for reading, and their sizes.
    pub contents: &'a [(OwnedFd, u64)],
    /// A symlink's target.
    pub target: &'a [u8],
    /// Stored with the copy where it is to keep its number.
    pub number: Option<u64>,
}

/// A copy that was made without a name, and has one now.
#[derive(Debug)]
pub struct Copied {
    /// Open for reading and writing.
    pub fd: OwnedFd,
    /// No attribute came along with it.
    pub bare: bool,
}

/// What is being made, and how it can be reached.
#[derive(Clone, Copy)]
enum By<'a> {
    /// A regular file that is open for I/O, and was made with this mode.
    Open(&'a OwnedFd, Mode),
    /// `O_PATH`.
    Path(&'a OwnedFd),
}

impl Layer {
    /// Makes the copy at `name` in `dir`, which has nothing there. A regular file that was made
    /// without a name comes back open.
    ///
    /// # Errors
    /// `EEXIST` where something has come to be there; `ENOSPC`, `EDQUOT`, `EIO` as they come, and
    /// nothing is left behind then.
    pub fn copy_up(&self, dir: &OwnedFd, name: &[u8], origin: &Origin<'_>) -> Res<Option<Copied>> {
        if origin.stat.kind() == libc::S_IFREG && self.caps()?.tmpfile {
            let copied = self.copy_unnamed(origin)?;
            self.unnoticed(dir, || {
                rustix::fs::linkat(&copied.fd, c"", dir, name, AtFlags::EMPTY_PATH)
            })?;
            return Ok(Some(copied));
        }
        let work = self.work()?;
        self.staged(
            &work,
            |stage| self.make(&work, stage, origin),
            |stage| {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&work, stage, flags, Mode::empty())?;
                if origin.stat.kind() == libc::S_IFREG {
                    let file = obj::reopen(&made, OFlags::RDWR)?;
                    self.fill(&file, PRIVATE, origin)?;
                } else {
                    self.dress(By::Path(&made), origin)?;
                }
                self.unnoticed(dir, || {
                    store::rename(&work, stage, dir, name, RenameFlags::NOREPLACE)
                })
            },
        )?;
        Ok(None)
    }

    /// Names a copy: to the node nothing was added to the directory, so its times stay (as
    /// overlayfs' ovl_link_up; as there, the copy is made whether that succeeds or not).
    fn unnoticed(&self, dir: &OwnedFd, name: impl FnOnce() -> Res<()>) -> Res<()> {
        let before = obj::stat(dir)?;
        name()?;
        let time = |(s, n): (i64, u32)| SetTime::At(s, n);
        self.clear_away(obj::set_times(dir, time(before.atime), time(before.mtime)));
        Ok(())
    }

    /// A complete copy of a regular file that has no name (yet): what an open file whose last name
    /// is gone is written to.
    ///
    /// # Errors
    /// As [`Layer::copy_up`].
    pub fn copy_unnamed(&self, origin: &Origin<'_>) -> Res<Copied> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // Not in the directory where it will be named: it would inherit that one's default ACL.
        let work = self.work()?;
        let (fd, mode) = match self.caps()?.tmpfile {
            true => {
                // Nobody can open what has no name, so that it may have its mode from the beginning.
                let mode = Mode::from_raw_mode(origin.stat.mode & 0o777);
                let mode = if creds::umask_takes(mode) {
                    PRIVATE
                } else {
                    mode
                };
                (rustix::fs::openat(work, c".", flags, mode)?, mode)
            }
            false => (store::open_and_unlink(&work, PRIVATE)?, PRIVATE),
        };
        let bare = self.fill(&fd, mode, origin)?;
        Ok(Copied { fd, bare })
    }

    /// Returns whether no attribute came along.
    fn fill(&self, file: &OwnedFd, mode: Mode, origin: &Origin<'_>) -> Res<bool> {
        match origin.contents {
            [(from, size)] if copy::is_small(&origin.stat) => {
                copy::small(from, file, *size)?;
            }
            [(from, size)] => copy::contents(from, file, *size)?,
            many => {
                let mut at = 0;
                for (from, size) in many {
                    at += copy::range(from, 0, file, at, *size)?;
                }
            }
        }
        let bare = self.dress(By::Open(file, mode), origin)?;
        if self.spec.upper.as_ref().is_some_and(|upper| upper.durable) {
            rustix::fs::fsync(file)?;
        }
        Ok(bare)
    }

    fn make(&self, work: &OwnedFd, stage: &[u8], origin: &Origin<'_>) -> Res<()> {
        let kind = match origin.stat.kind() {
            libc::S_IFDIR => return rustix::fs::mkdirat(work, stage, Mode::from_raw_mode(0o700)),
            libc::S_IFLNK => return rustix::fs::symlinkat(origin.target, work, stage),
            libc::S_IFREG => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFCHR => FileType::CharacterDevice,
            _ => return Err(Errno::IO),
        };
        rustix::fs::mknodat(work, stage, kind, PRIVATE, origin.stat.rdev)
    }

    /// Returns whether no attribute came along.
    fn dress(&self, made: By<'_>, origin: &Origin<'_>) -> Res<bool> {
        let stat = &origin.stat;
        let (By::Open(fd, _) | By::Path(fd)) = made;
        let owner = self.caps()?.owner.filter(|_| matches!(made, By::Open(..)));
        if owner != Some((stat.uid, stat.gid)) {
            obj::chown(fd, Some(stat.uid), Some(stat.gid))?;
        }
        match made {
            By::Open(_, mode) if mode.as_raw_mode() == stat.mode & 0o7777 => {}
            By::Open(fd, _) => obj::chmod_open(fd, stat.mode)?,
            By::Path(_) if stat.kind() == libc::S_IFLNK => {}
            By::Path(fd) => obj::chmod(fd, stat.mode)?,
        }
        let to = match &made {
            By::Open(fd, _) => Xattrs::of_open(fd),
            By::Path(fd) => Xattrs::of(fd),
        };
        let mut bare = true;
        if let Some(from) = origin.attrs {
            // What is open already is quicker asked than what a descriptor only names.
            let from = match origin.contents {
                [(open, _)] if stat.kind() == libc::S_IFREG => Xattrs::of_open(open),
                _ => Xattrs::of(from),
            };
            bare = self.copy_all(&from, &to)?;
        }
        if let Some(number) = origin.number {
            self.store_number_by(&to, fd, number)?;
        }
        let time = |(s, n): (i64, u32)| SetTime::At(s, n);
        obj::set_times(fd, time(stat.atime), time(stat.mtime))?;
        Ok(bare)
    }

    pub(super) fn copy_attrs(&self, from: impl AsFd, to: impl AsFd) -> Res<()> {
        self.copy_all(&Xattrs::of(&from), &Xattrs::of(&to))
            .map(drop)
    }

    /// Returns whether there were none.
    fn copy_all(&self, from: &Xattrs<'_>, to: &Xattrs<'_>) -> Res<bool> {
        let names = from.list()?;
        for name in names.split_inclusive(|b| *b == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            if machinery::attr_to_view(name.to_bytes()).is_none() {
                continue;
            }
            let value = match from.get(name) {
                Ok(value) => value,
                // Gone meanwhile, or listed by a file system that does not hand it out.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                Err(e) => return Err(e),
            };
            match to.set(name, &value, XattrFlags::empty()) {
                // The store has no such name space (an ACL or a label on tmpfs or NFS, say): the
                // copy is as good as the store can hold, as with overlayfs' ovl_copy_xattr.
                Err(Errno::OPNOTSUPP) => tracing::debug!(
                    layer = self.spec.label, attr = ?name, "the store does not hold this attribute"
                ),
                other => other?,
            }
        }
        Ok(names.is_empty())
    }
}
