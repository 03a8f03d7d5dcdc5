//! The write side of an upper: staging, whiteouts, opaque directories, stored numbers.
//!
//! What is not yet part of the upper is made in the work directory, under a name of the machinery,
//! and comes to its place by one rename. So a crash leaves the old state or the new one, and all
//! that it leaves besides is in the one directory that is emptied at the next start. Likewise what
//! cannot be cleared away once an operation is done: it is done all the same.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, XattrFlags};

use super::machinery::{self, Form};
use super::{FormChoice, Layer, is_whiteout};
use crate::sys::obj::{self, Stat, Xattrs};
use crate::sys::{Errno, Res, dir};

/// What an upper's file system can do, tried out once in its work directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caps {
    /// How deletions are kept.
    pub form: Form,
    /// Holds `trusted.*` attributes.
    pub xattrs: bool,
    /// Makes unnamed files (open(2), O_TMPFILE) that can be linked.
    pub tmpfile: bool,
    /// Whose a file is, user and group, that is made there by the daemon; unknown where another
    /// machine decides that.
    pub owner: Option<(u32, u32)>,
    /// renameat2(2) can leave a whiteout.
    pub rename_whiteout: bool,
    /// A file system of this machine alone, of a kind that is well known: close(2) never fails,
    /// what a write could not do it has said itself; a device and inode number means one file for
    /// as long as somebody holds it; opening for writing fails for reasons that can be asked for.
    pub local: bool,
}

/// File systems without a `flush` operation (`struct file_operations`): ext2 to ext4, tmpfs,
/// ramfs, XFS, Btrfs (include/uapi/linux/magic.h).
const LOCAL: [u64; 5] = [0xEF53, 0x0102_1994, 0x8584_58f6, 0x5846_5342, 0x9123_683E];

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A name that nobody else uses and no node can make.
fn stage_name() -> Vec<u8> {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    [
        machinery::OURS,
        format!("{}.{n}", std::process::id()).as_bytes(),
    ]
    .concat()
}

/// Renames in one store, replacing nothing that `flags` protects.
///
/// # Errors
/// renameat2(2)'s.
pub fn rename(
    from: impl AsFd,
    name: &[u8],
    to: impl AsFd,
    new: &[u8],
    flags: RenameFlags,
) -> Res<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    match rustix::fs::renameat_with(from, name, to, new, flags) {
        // NFS knows no flags. One process serves a store, so looking first is as good.
        Err(Errno::INVAL) if flags == RenameFlags::NOREPLACE => match obj::stat_name(to, new) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
            Err(e) => Err(e),
        },
        other => other,
    }
}

/// A file without a name, where the store makes none by itself.
pub(super) fn open_and_unlink(work: &OwnedFd, mode: Mode) -> Res<OwnedFd> {
    let stage = stage_name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(work, &stage[..], flags, mode)?;
    rustix::fs::unlinkat(work, &stage[..], AtFlags::empty())?;
    Ok(file)
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Layer {
    /// What the upper can do.
    ///
    /// # Errors
    /// `EIO` where the store is missing or refuses what it must hold; `EROFS` of a lower layer;
    /// `EBUSY` where another process serves it.
    pub fn caps(&self) -> Res<Caps> {
        if let Some(caps) = self.caps.get() {
            return Ok(*caps);
        }
        let _trying = self.trying.lock();
        if let Some(caps) = self.caps.get() {
            return Ok(*caps);
        }
        let caps = self.try_out()?;
        Ok(*self.caps.get_or_init(|| caps))
    }

    fn try_out(&self) -> Res<Caps> {
        let spec = self.spec.upper.as_ref().ok_or(Errno::ROFS)?;
        if spec.read_only {
            return self.guess(spec);
        }
        let work = self.work_dir()?;
        let locks = match self.lock.get() {
            Some(locks) => locks,
            None => {
                // The upper itself too: another mount may have another work directory.
                let locks = [
                    super::lock::take(&work)?,
                    super::lock::take(&*self.root()?)?,
                ];
                self.lock.get_or_init(|| locks)
            }
        };
        // What is left there might have the names that are tried out. Where another view of this
        // process serves the upper, they are its stages.
        if std::sync::Arc::strong_count(&locks[0]) == 1 {
            clean(&work)?;
        }
        let name = stage_name();
        let mode = Mode::from_raw_mode(0o600);
        let device = rustix::fs::mknodat(
            &work,
            &name[..],
            rustix::fs::FileType::CharacterDevice,
            mode,
            0,
        )
        .is_ok_and(|()| rustix::fs::unlinkat(&work, &name[..], AtFlags::empty()).is_ok());
        let xattrs = self.tries_xattr(&work)?;
        let form = match spec.form {
            FormChoice::Fixed(form) => form,
            FormChoice::Auto if device && xattrs => Form::Device,
            FormChoice::Auto => Form::File,
        };
        if form == Form::Device && !(device && xattrs) {
            tracing::error!(
                layer = self.spec.label, path = %self.spec.base.display(), device, xattrs,
                "the store holds no overlayfs whiteouts; set whiteouts = \"auto\" or \"file\""
            );
            return Err(Errno::IO);
        }
        let local = LOCAL.contains(&(rustix::fs::fstatfs(&work)?.f_type as u64));
        let unnamed = rustix::fs::openat(
            &work,
            c".",
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            mode,
        )
        .and_then(|fd| {
            rustix::fs::linkat(&fd, c"", &work, &name[..], AtFlags::EMPTY_PATH)?;
            obj::stat(&fd)
        });
        let tmpfile = unnamed.is_ok();
        let owner = unnamed.ok().filter(|_| local);
        let mut rename_whiteout = false;
        if tmpfile {
            let moved = stage_name();
            let whiteout = RenameFlags::WHITEOUT;
            rename_whiteout = rename(&work, &name, &work, &moved, whiteout).is_ok();
            for name in [&name, &moved] {
                ignore_absent(rustix::fs::unlinkat(&work, &name[..], AtFlags::empty()))?;
            }
        }
        Ok(Caps {
            form,
            xattrs,
            tmpfile,
            owner: owner.map(|stat| (stat.uid, stat.gid)),
            rename_whiteout: rename_whiteout && form == Form::Device,
            local,
        })
    }

    /// What a store that may not be written to seems to hold: attributes, unless it says that it
    /// knows none, and the form that goes with them.
    fn guess(&self, spec: &super::UpperSpec) -> Res<Caps> {
        let root = self.root()?;
        let none = Xattrs::of(&*root).get(machinery::OPAQUE);
        let xattrs = !matches!(none, Err(Errno::OPNOTSUPP | Errno::NOSYS));
        let form = match spec.form {
            FormChoice::Fixed(form) => form,
            FormChoice::Auto if xattrs => Form::Device,
            FormChoice::Auto => Form::File,
        };
        Ok(Caps {
            form,
            xattrs,
            tmpfile: false,
            owner: None,
            rename_whiteout: false,
            local: false,
        })
    }

    fn tries_xattr(&self, work: &OwnedFd) -> Res<bool> {
        let attrs = Xattrs::of(work);
        match attrs.set(c"trusted.overlay.statelite.try", b"y", XattrFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NOSYS) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The directory that the work directory lies in, and its name there.
    fn work_place(&self) -> Res<(OwnedFd, &'static [u8])> {
        let spec = self.spec.upper.as_ref().ok_or(Errno::ROFS)?;
        match &spec.work {
            Some(work) => Ok((
                super::root::open_base(&self.spec, work, DIRECTORY)?,
                b"work",
            )),
            None => Ok((
                self.root()?.try_clone().map_err(|_| Errno::MFILE)?,
                machinery::WORK,
            )),
        }
    }

    /// The work directory if it is there: where it is missing it may be that its store is.
    pub(super) fn work_dir_that_is_there(&self) -> Res<OwnedFd> {
        let (parent, name) = self.work_place()?;
        obj::open_beneath(parent.as_fd(), name, DIRECTORY, Mode::empty())
    }

    /// The work directory, made where it is missing. It is private to the daemon.
    pub(super) fn work_dir(&self) -> Res<OwnedFd> {
        let spec = self.spec.upper.as_ref().ok_or(Errno::ROFS)?;
        let (parent, name) = self.work_place()?;
        let open = || obj::open_beneath(parent.as_fd(), name, DIRECTORY, Mode::empty());
        match open() {
            Err(Errno::NOENT) if !spec.read_only => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                let made = open()?;
                // What is made there is to have no ACL but its own.
                match Xattrs::of(&made).remove(c"system.posix_acl_default") {
                    Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(made),
                    Err(e) => Err(e),
                }
            }
            other => other,
        }
    }

    /// The number stored with an object of this upper, if it was copied up.
    ///
    /// # Errors
    /// What reading it answers, other than that there is none.
    pub fn stored_number(&self, fd: impl AsFd, stat: &Stat) -> Res<Option<u64>> {
        self.stored_number_by(&Xattrs::of(&fd), stat)
    }

    /// As [`Layer::stored_number`]; `attrs` are the object's.
    pub(super) fn stored_number_by(&self, attrs: &Xattrs<'_>, stat: &Stat) -> Res<Option<u64>> {
        let bytes = if self.caps()?.xattrs {
            match attrs.get(machinery::NUMBER) {
                Ok(bytes) => bytes,
                Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
                Err(e) => return Err(e),
            }
        } else {
            let open = |work: std::sync::Arc<OwnedFd>| {
                obj::open_beneath(
                    work.as_fd(),
                    &side_file(stat),
                    OFlags::RDONLY,
                    Mode::empty(),
                )
            };
            let side = match self.work().and_then(open) {
                Ok(side) => side,
                Err(Errno::NOENT) => return Ok(None),
                Err(e) => return Err(e),
            };
            let mut bytes = [0u8; 8];
            let n = rustix::io::pread(&side, &mut bytes, 0)?;
            bytes[..n].to_vec()
        };
        Ok(<[u8; 8]>::try_from(&bytes[..]).ok().map(u64::from_le_bytes))
    }

    /// Stores the number of an object of this upper, in an attribute or, where the store has none,
    /// in a small file named after the object's own inode. `attrs` are `fd`'s.
    ///
    /// # Errors
    /// What writing it answers.
    pub(super) fn store_number_by(&self, attrs: &Xattrs<'_>, fd: &OwnedFd, number: u64) -> Res<()> {
        let bytes = number.to_le_bytes();
        if self.caps()?.xattrs {
            return attrs.set(machinery::NUMBER, &bytes, XattrFlags::empty());
        }
        let work = self.work()?;
        let name = side_file(&obj::stat(fd)?);
        match rustix::fs::mkdirat(&work, obj::split(&name).0, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mode = Mode::from_raw_mode(0o600);
        let side = obj::open_beneath(work.as_fd(), &name, flags, mode)?;
        crate::sys::copy::write_all(side, &bytes, 0)
    }

    /// Forgets a stored number with the last name of its object, so that a reused inode does not
    /// inherit it. An attribute goes with the inode by itself.
    ///
    /// # Errors
    /// What removing answers.
    pub fn drop_number(&self, stat: &Stat) -> Res<()> {
        if self.caps()?.xattrs || stat.nlink > 1 && !stat.is_dir() {
            return Ok(());
        }
        self.drop_side_file(stat)
    }

    fn drop_side_file(&self, stat: &Stat) -> Res<()> {
        let flags = AtFlags::empty();
        ignore_absent(rustix::fs::unlinkat(
            self.work()?,
            &side_file(stat)[..],
            flags,
        ))
    }

    /// Takes the stored number from an object that is to go by its own from now on.
    ///
    /// # Errors
    /// What removing answers.
    pub fn take_number(&self, fd: impl AsFd, stat: &Stat) -> Res<()> {
        if !self.caps()?.xattrs {
            return self.drop_side_file(stat);
        }
        match Xattrs::of(&fd).remove(machinery::NUMBER) {
            Err(Errno::NODATA) => Ok(()),
            other => other,
        }
    }

    /// Marks a directory so that nothing below shows through.
    ///
    /// # Errors
    /// What setting the mark answers.
    pub fn mark_opaque(&self, fd: impl AsFd) -> Res<()> {
        match self.caps()?.form {
            Form::Device => Xattrs::of(&fd).set(machinery::OPAQUE, b"y", XattrFlags::empty()),
            Form::File => make_empty(fd, machinery::WH_OPAQUE),
        }
    }

    /// Makes something under a name of the machinery in the work directory, hands it to `finish`,
    /// and takes it away again where that fails.
    ///
    /// # Errors
    /// What `make` and `finish` answer.
    pub(super) fn staged(
        &self,
        work: &OwnedFd,
        make: impl FnOnce(&[u8]) -> Res<()>,
        finish: impl FnOnce(&[u8]) -> Res<()>,
    ) -> Res<()> {
        let stage = stage_name();
        make(&stage)?;
        finish(&stage).inspect_err(|_| self.clear_away(remove_tree(work, &stage)))
    }

    /// What is done is done, also where something could not be cleared away after it.
    pub fn clear_away(&self, cleared: Res<()>) {
        if let Err(e) = ignore_absent(cleared) {
            tracing::warn!(layer = self.spec.label, error = %e, "done, but not cleared away after it");
        }
    }

    /// Puts a whiteout at `name`, in the place of what the upper has there, in one step.
    ///
    /// # Errors
    /// What the store answers; the old state stands then.
    pub fn whiteout(&self, dir: &OwnedFd, name: &[u8]) -> Res<()> {
        let there = match obj::stat_name(dir, name) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(e),
        };
        if self.caps()?.form == Form::File {
            self.whiteout_beside(dir, name)?;
            return match there {
                Some(stat) => self.take_away(dir, name, &stat),
                None => Ok(()),
            };
        }
        let make = |at: &OwnedFd, name: &[u8]| {
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(at, name, kind, Mode::empty(), machinery::NULL_DEVICE)
        };
        let Some(stat) = there else {
            return make(dir, name);
        };
        if is_whiteout(&stat) {
            return Ok(());
        }
        let work = self.work()?;
        let mut stage = Vec::new();
        self.staged(
            &work,
            |name| {
                stage = name.to_vec();
                make(&work, name)
            },
            |stage| match stat.is_dir() {
                false => rename(&work, stage, dir, name, RenameFlags::empty()),
                true => rename(&work, stage, dir, name, RenameFlags::EXCHANGE),
            },
        )?;
        if stat.is_dir() {
            self.clear_away(remove_tree(&work, &stage));
        }
        Ok(())
    }

    /// A whiteout of the `.wh.` form beside a name that still stands; it hides lower layers only.
    ///
    /// # Errors
    /// What the store answers.
    pub fn whiteout_beside(&self, dir: &OwnedFd, name: &[u8]) -> Res<()> {
        make_empty(dir, &machinery::whiteout_name(name)?)
    }

    /// Removes a name from the upper where nothing lies below: a file, or a directory that holds
    /// nothing but whiteouts.
    ///
    /// # Errors
    /// What the store answers.
    pub fn take_away(&self, dir: &OwnedFd, name: &[u8], stat: &Stat) -> Res<()> {
        if !stat.is_dir() {
            return rustix::fs::unlinkat(dir, name, AtFlags::empty());
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let work = self.work()?;
                let stage = stage_name();
                rename(dir, name, &work, &stage, RenameFlags::NOREPLACE)?;
                self.clear_away(remove_tree(&work, &stage));
                Ok(())
            }
            other => other,
        }
    }

    /// Ends a whiteout of the `.wh.` form once `name` itself stands there.
    pub fn end_whiteout_file(&self, dir: &OwnedFd, name: &[u8]) {
        if let Ok(mark) = machinery::whiteout_name(name) {
            self.clear_away(rustix::fs::unlinkat(dir, &mark[..], AtFlags::empty()));
        }
    }

    /// Makes something at `name`, where the upper has a whiteout: by `make` in a directory that
    /// hands down what `dir` would (group, default ACL, label), and then by one rename over the
    /// whiteout. A directory is made opaque, and exchanged with the whiteout.
    ///
    /// # Errors
    /// What `make` and the store answer; the whiteout stands then.
    pub fn make_over_whiteout<T>(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        is_dir: bool,
        make: impl FnOnce(&OwnedFd, &[u8]) -> Res<T>,
    ) -> Res<T> {
        let (work, stage) = (self.work()?, stage_name());
        rustix::fs::mkdirat(&work, &stage[..], Mode::from_raw_mode(0o700))?;
        let made = self
            .like(dir, &work, &stage)
            .and_then(|nest| self.move_out(&nest, dir, name, is_dir, make));
        if rustix::fs::unlinkat(&work, &stage[..], AtFlags::REMOVEDIR).is_err() {
            self.clear_away(remove_tree(&work, &stage));
        }
        made
    }

    /// Opens a directory, and makes it one in which objects come to be as they would in `dir`.
    fn like(&self, dir: &OwnedFd, work: &OwnedFd, stage: &[u8]) -> Res<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let nest = rustix::fs::openat(work, stage, flags, Mode::empty())?;
        let stat = obj::stat(dir)?;
        obj::chown(&nest, Some(stat.uid), Some(stat.gid))?;
        obj::chmod(&nest, stat.mode)?;
        self.copy_attrs(dir, &nest)?;
        Ok(nest)
    }

    fn move_out<T>(
        &self,
        nest: &OwnedFd,
        dir: &OwnedFd,
        name: &[u8],
        is_dir: bool,
        make: impl FnOnce(&OwnedFd, &[u8]) -> Res<T>,
    ) -> Res<T> {
        let made = make(nest, name)?;
        if is_dir {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            self.mark_opaque(rustix::fs::openat(nest, name, flags, Mode::empty())?)?;
        }
        match self.caps()?.form {
            Form::File => {
                rename(nest, name, dir, name, RenameFlags::NOREPLACE)?;
                self.end_whiteout_file(dir, name);
            }
            Form::Device if is_dir => rename(nest, name, dir, name, RenameFlags::EXCHANGE)?,
            Form::Device => rename(nest, name, dir, name, RenameFlags::empty())?,
        }
        Ok(made)
    }
}

fn make_empty(dir: impl AsFd, name: &[u8]) -> Res<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map(drop)
}

/// "Is not there" is as good as removed.
fn ignore_absent(result: Res<()>) -> Res<()> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn side_file(stat: &Stat) -> Vec<u8> {
    format!("numbers/{:x}", stat.ino).into_bytes()
}

/// Removes whatever `name` in `top` is, never following a symlink. Directories are moved up to
/// `top` before they are emptied: a node may nest them deeper than there are descriptors.
pub(super) fn remove_tree(top: &OwnedFd, name: &[u8]) -> Res<()> {
    let mut todo = vec![name.to_vec()];
    while let Some(name) = todo.pop() {
        match rustix::fs::unlinkat(top, &name[..], AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {}
            other => {
                ignore_absent(other)?;
                continue;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = rustix::fs::openat(top, &name[..], flags, Mode::empty())?;
        for entry in dir::list(&inner)? {
            match rustix::fs::unlinkat(&inner, &entry.name[..], AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {}
                other => {
                    ignore_absent(other)?;
                    continue;
                }
            }
            match rustix::fs::unlinkat(&inner, &entry.name[..], AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    let stage = stage_name();
                    rename(&inner, &entry.name, top, &stage, RenameFlags::NOREPLACE)?;
                    todo.push(stage);
                }
                other => ignore_absent(other)?,
            }
        }
        ignore_absent(rustix::fs::unlinkat(top, &name[..], AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

/// Empties a work directory of what a crash left there.
fn clean(work: &OwnedFd) -> Res<()> {
    let listing = obj::reopen(work, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in dir::list(&listing)? {
        if entry.name.starts_with(machinery::OURS) {
            remove_tree(work, &entry.name)?;
        }
    }
    Ok(())
}

/// Empties a directory without removing it.
///
/// # Errors
/// What listing or removing answers.
pub fn empty_dir(dir: &OwnedFd) -> Res<()> {
    let listing = obj::reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in dir::list(&listing)? {
        remove_tree(dir, &entry.name)?;
    }
    Ok(())
}
