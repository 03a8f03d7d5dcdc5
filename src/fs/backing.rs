//! Which way the contents of an open file come to the kernel: through this daemon, or straight out
//! of a layer's file (FUSE passthrough).
//!
//! While an inode is open, the kernel allows one way only, and only one backing file: any other
//! open is EIO there (fs/fuse/iomode.c). So each inode counts its opens by their way. The count
//! goes up before the kernel is told of an open, and down after the kernel has told of its end: it
//! may be high for a moment, and never low.
//!
//! May not: know how a file is registered with the kernel. The adapter does that ([`Register`]).

use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::resolve::Here;
use super::{Inode, IoMode, OpenHow, Source, View};
use crate::rules::UpperKind;
use crate::sys::{Errno, Res, obj};
use rustix::fs::OFlags;

/// A file that the kernel was handed.
pub trait Handle: Debug + Send + Sync {
    /// The kernel's number of it, never 0.
    fn id(&self) -> u32;
}

/// A file that the kernel reads and writes by itself, for as long as this is kept.
pub type Backing = Arc<dyn Handle>;

/// Hands a file (perhaps only named by its descriptor, `O_PATH`) on a device to the kernel; `None`
/// where the kernel does not take it.
pub type Register<'r> = &'r dyn Fn(BorrowedFd<'_>, u64) -> Option<Backing>;

/// A [`Register`] where no kernel is there that could read and write by itself.
pub fn by_daemon(_: BorrowedFd<'_>, _: u64) -> Option<Backing> {
    None
}

/// Device and inode of a layer's file.
pub(super) type File = (u64, u64);

/// How an inode is open now.
#[derive(Debug, Default)]
pub(super) struct Way {
    now: Now,
    /// The file whose contents may still be in the kernel's page cache, where it is told of every
    /// change of them.
    cached: Option<File>,
}

#[derive(Debug, Default)]
enum Now {
    #[default]
    Closed,
    /// So often, through the daemon.
    Daemon(u32),
    /// So often, in one file of a layer.
    Through {
        opens: u32,
        mappers: u32,
        backing: Backing,
        file: File,
        /// The upper that has it.
        upper: Option<UpperKind>,
    },
}

/// One open of an inode, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    inode: Arc<Inode>,
    pub(super) backing: Option<Backing>,
    /// What the kernel has of the contents is still good.
    pub(super) keeps_cache: bool,
    maps: bool,
}

impl Entered {
    pub(super) fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut way = self.inode.data.way.lock();
        let Some(way) = way.as_mut() else { return };
        let last = match &mut way.now {
            Now::Closed => false,
            Now::Daemon(opens) => {
                *opens -= 1;
                *opens == 0
            }
            Now::Through { opens, mappers, .. } => {
                *opens -= 1;
                *mappers -= u32::from(self.maps);
                *opens == 0
            }
        };
        if last {
            // Our own reference keeps the backing until the lock is free.
            way.now = Now::Closed;
        }
    }
}

/// An open that cannot be had: another file than the one that the kernel has open.
struct Other;

impl Way {
    /// Counts an open; `None` where it would be the first one, and could go past the daemon.
    fn enter(&mut self, wish: &Wish, backing: Option<Backing>) -> Option<Result<Counted, Other>> {
        let counted = match (&mut self.now, backing) {
            (Now::Daemon(opens), _) => {
                *opens += 1;
                None
            }
            (Now::Through { file, .. }, _) if Some(*file) != wish.file => return Some(Err(Other)),
            (
                Now::Through {
                    opens,
                    mappers,
                    backing,
                    ..
                },
                _,
            ) => {
                *opens += 1;
                *mappers += u32::from(wish.maps);
                Some(backing.clone())
            }
            (Now::Closed, None) if wish.through => return None,
            (now @ Now::Closed, backing) => {
                *now = match (&backing, wish.file) {
                    (Some(backing), Some(file)) => Now::Through {
                        opens: 1,
                        mappers: u32::from(wish.maps),
                        backing: backing.clone(),
                        file,
                        upper: wish.upper,
                    },
                    _ => Now::Daemon(1),
                };
                backing.filter(|_| wish.file.is_some())
            }
        };
        let mut keeps_cache = false;
        if counted.is_some() {
            self.cached = None;
        } else {
            let lasting = wish.file.filter(|_| wish.lasting);
            keeps_cache = lasting.is_some() && self.cached == lasting;
            self.cached = lasting;
        }
        Some(Ok(Counted {
            backing: counted,
            keeps_cache,
        }))
    }
}

struct Counted {
    backing: Option<Backing>,
    keeps_cache: bool,
}

/// A descriptor of the file that is opened.
#[derive(Clone, Copy)]
pub(super) struct Handed<'f> {
    pub(super) fd: &'f OwnedFd,
    /// It is open for writing itself.
    pub(super) writes: bool,
}

/// What an open is of.
struct Wish {
    /// The layer's file, if it is one.
    file: Option<File>,
    /// That cannot become another one while it is open.
    through: bool,
    writes: bool,
    /// It may be written to through a mapping (mmap(2): that takes a file open for both).
    maps: bool,
    upper: Option<UpperKind>,
    /// The kernel is told of every change of it.
    lasting: bool,
}

impl View {
    /// Which file of a layer this is, if it is one.
    fn file_of(&self, inode: &Inode, here: &Here) -> Option<File> {
        let one = matches!(here.source, Source::One(_)) || inode.is_nameless();
        (one && here.kind() == libc::S_IFREG).then_some((here.attr.stat.dev, here.attr.stat.ino))
    }

    /// May the kernel read and write this by itself? Only what cannot be copied up, or was already.
    /// A file with setuid or setgid bits stays with the daemon, which knows who writes: through a
    /// backing the kernel takes the bits from everybody, or from nobody.
    fn may_go_through(&self, here: &Here, how: OpenHow) -> bool {
        if self.held.io != IoMode::Passthrough
            || !matches!(here.source, Source::One(_))
            || how.flags.contains(OFlags::DIRECT)
        {
            return false;
        }
        match here.upper {
            Some(upper) => self.writable(here.pos) == Ok(upper) && !here.attr.stat.has_bits(),
            None => self.rules.zone(here.pos.zone).writes_to().is_none(),
        }
    }

    /// Counts an open of what was found, and settles which way it goes. `handed` is what the kernel
    /// gets where it has to be handed the file.
    ///
    /// # Errors
    /// `EINVAL` for O_DIRECT that the layer's file system does not have; `ESTALE` where the kernel has another file open by this number: that one has lost its name
    /// then, and the kernel finds a new number when it looks again.
    pub(super) fn enter_open(
        &self,
        inode: &Arc<Inode>,
        here: &Here,
        how: OpenHow,
        register: Register<'_>,
        handed: Handed<'_>,
    ) -> Res<Entered> {
        let mut wish = Wish {
            file: self.file_of(inode, here),
            through: self.may_go_through(here, how),
            writes: how.writes(),
            maps: how.maps(),
            upper: here.upper.map(|upper| self.kind_of(upper)),
            lasting: here.trust.lasting,
        };
        let first = inode
            .data
            .way
            .lock()
            .get_or_insert_default()
            .enter(&wish, None);
        let counted = match first {
            Some(counted) => counted,
            None => {
                // Two who come at once both hand it to the kernel, and one of them in vain.
                let backing = self.backing(here, &wish, register, handed)?;
                wish.through = false;
                let mut way = inode.data.way.lock();
                let entered = way.get_or_insert_default().enter(&wish, backing);
                entered.ok_or(Errno::IO)?
            }
        };
        let Ok(Counted {
            backing,
            keeps_cache,
        }) = counted
        else {
            if !inode.is_nameless() {
                self.displace_open(inode);
            }
            return Err(Errno::STALE);
        };
        let entered = Entered {
            inode: inode.clone(),
            backing,
            keeps_cache,
            maps: wish.maps,
        };
        if entered.backing.is_some() {
            allow_direct(handed.fd, how)?;
        }
        Ok(entered)
    }

    /// Counts an open that a worker before this one has told the kernel of; `None` where it does not
    /// go with the others.
    pub(super) fn enter_again(
        &self,
        inode: &Arc<Inode>,
        how: OpenHow,
        through: Option<(Backing, File, Option<UpperKind>)>,
    ) -> Option<Entered> {
        let maps = how.maps();
        let mut way = inode.data.way.lock();
        let now = &mut way.get_or_insert_default().now;
        let backing = through.as_ref().map(|(backing, ..)| backing.clone());
        match (&mut *now, through) {
            (Now::Closed, None) => *now = Now::Daemon(1),
            (Now::Closed, Some((backing, file, upper))) => {
                *now = Now::Through {
                    opens: 1,
                    mappers: u32::from(maps),
                    backing,
                    file,
                    upper,
                };
            }
            (Now::Daemon(opens), None) => *opens += 1,
            (
                Now::Through {
                    opens,
                    mappers,
                    file,
                    ..
                },
                Some((_, other, _)),
            ) if *file == other => {
                *opens += 1;
                *mappers += u32::from(maps);
            }
            _ => return None,
        }
        drop(way);
        Some(Entered {
            inode: inode.clone(),
            backing,
            keeps_cache: false,
            maps,
        })
    }

    fn backing(
        &self,
        here: &Here,
        wish: &Wish,
        register: Register<'_>,
        Handed { fd, writes }: Handed<'_>,
    ) -> Res<Option<Backing>> {
        let Some(file) = wish.file else {
            return Ok(None);
        };
        if wish.writes {
            self.make_room(fd);
        }
        let kept = match here.upper {
            None => here
                .top()
                .filter(|src| !self.layer_is_upper(src.layer))
                .map(|_| &self.held.lowers),
            // On a server's file system another file may come to have this number meanwhile.
            Some(upper) => self.is_local(upper).then_some(&self.held.uppers),
        };
        if let Some(backing) = kept.and_then(|kept| kept.get(file)) {
            return Ok(Some(backing));
        }
        let backing = match here.upper {
            // Whoever writes: the setuid bits that a file gets while it is open go.
            Some(_) => crate::sys::creds::killing_suid(|| register(fd.as_fd(), file.0))?,
            None => register(fd.as_fd(), file.0),
        };
        // Open for writing it would be in the way of mount(2), MS_RDONLY, and of execve(2).
        if let (Some(kept), Some(backing)) = (kept, &backing)
            && !writes
        {
            kept.put(file, backing.clone());
        }
        Ok(backing)
    }

    /// The file that the kernel itself reads and writes by an inode's number, and the upper that
    /// has it.
    pub(super) fn through(&self, inode: &Inode) -> Option<(File, Option<UpperKind>)> {
        match inode.data.way.lock().as_deref() {
            Some(Way {
                now: Now::Through { file, upper, .. },
                ..
            }) => Some((*file, *upper)),
            _ => None,
        }
    }

    /// May the kernel write to it by itself through a mapping? It does not know the times that this
    /// leaves (fs/fuse/passthrough.c tells its cache of attributes of writes alone).
    pub(super) fn may_be_mapped(&self, inode: &Inode) -> bool {
        matches!(
            inode.data.way.lock().as_deref(),
            Some(Way { now: Now::Through { mappers, .. }, .. }) if *mappers > 0
        )
    }
}

/// Where the kernel reads by itself, O_DIRECT is between it and the layer's file system: what that
/// does not have would be an EIO.
fn allow_direct(fd: &OwnedFd, how: OpenHow) -> Res<()> {
    match how.flags.contains(OFlags::DIRECT) {
        true => obj::reopen(fd, how.backing() | OFlags::DIRECT).map(drop),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ME, ROOT, plain};

    impl Handle for () {
        fn id(&self) -> u32 {
            1
        }
    }

    /// A kernel that takes every file.
    fn takes(_: BorrowedFd<'_>, _: u64) -> Option<Backing> {
        Some(Arc::new(()))
    }

    fn open(view: &View, number: u64, flags: i32) -> Res<crate::fs::Opened> {
        view.open_by(number, OpenHow::from_raw(flags), ME, &takes)
    }

    #[test]
    fn what_may_be_copied_up_is_read_by_the_daemon_and_its_copy_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "lower").unwrap()
        });
        let file = view.lookup(ROOT, b"f").unwrap().attr.number;
        let reader = open(&view, file, libc::O_RDONLY).unwrap();
        assert!(reader.backing.is_none());
        // The copy, too, while the daemon has the inode open.
        let writer = open(&view, file, libc::O_RDWR).unwrap();
        assert!(writer.backing.is_none());
        view.release(reader.handle);
        assert!(open(&view, file, libc::O_RDONLY).unwrap().backing.is_none());
        for handle in 1..=writer.handle + 1 {
            view.release(handle);
        }
        let first = open(&view, file, libc::O_RDWR).unwrap();
        let second = open(&view, file, libc::O_RDONLY).unwrap();
        let (a, b) = (first.backing.unwrap(), second.backing.unwrap());
        assert!(Arc::ptr_eq(&a, &b), "one inode has one backing");
        drop(a);
        view.release(first.handle);
        view.release(second.handle);
        // Opened again, it is the same; without a name, nothing keeps it.
        let again = open(&view, file, libc::O_WRONLY).unwrap();
        assert!(Arc::ptr_eq(&b, &again.backing.unwrap()));
        view.release(again.handle);
        view.unlink(ROOT, b"f").unwrap();
        assert_eq!(Arc::strong_count(&b), 1);
    }

    #[test]
    fn a_setuid_file_of_an_upper_is_written_by_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |_| {});
        let how = OpenHow::from_raw(libc::O_RDWR);
        for (name, mode, through) in [(&b"s"[..], 0o4755, false), (b"p", 0o755, true)] {
            let made = view.create_by((ROOT, name), (mode, 0), how, ME, &takes);
            assert_eq!(made.unwrap().1.backing.is_some(), through);
        }
    }

    #[test]
    fn an_open_of_another_file_than_the_kernel_has_is_looked_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "lower").unwrap()
        });
        let old = view.lookup(ROOT, b"f").unwrap().attr.number;
        let writer = open(&view, old, libc::O_RDWR).unwrap();
        assert!(writer.backing.is_some());
        view.write(old, writer.handle, 0, b"upper", false).unwrap();
        // As a store that is emptied by hand, or a rule that is another one now.
        std::fs::remove_file(dir.path().join("upper/f")).unwrap();
        assert_eq!(open(&view, old, libc::O_RDONLY).err(), Some(Errno::STALE));
        let new = view.lookup(ROOT, b"f").unwrap().attr.number;
        assert_ne!(old, new);
        let reader = open(&view, new, libc::O_RDONLY).unwrap();
        let mut text = [0; 5];
        view.read(new, reader.handle, 0, &mut text).unwrap();
        assert_eq!(&text, b"lower");
        view.read(old, writer.handle, 0, &mut text).unwrap();
        assert_eq!(&text, b"upper");
        assert_eq!(view.getattr(old, None).unwrap().attr.stat.nlink, 0);
    }

    #[test]
    fn what_the_kernel_has_is_kept_for_the_same_file_only() {
        let file = Some((1, 2));
        let wish = |file, through| Wish {
            file,
            through,
            writes: false,
            maps: false,
            upper: None,
            lasting: true,
        };
        let mut way = Way::default();
        let mut keeps = |file, backing: Option<Backing>| {
            let counted = way.enter(&wish(file, backing.is_some()), backing);
            way.now = Now::Closed;
            counted
                .and_then(Result::ok)
                .is_some_and(|counted| counted.keeps_cache)
        };
        assert!(!keeps(file, None));
        assert!(keeps(file, None));
        assert!(!keeps(Some((1, 3)), None));
        assert!(keeps(Some((1, 3)), None));
        assert!(!keeps(Some((1, 3)), Some(Arc::new(()))));
        assert!(
            !keeps(Some((1, 3)), None),
            "it may have been written past the cache"
        );
        assert!(!keeps(None, None));
        assert!(!keeps(None, None));
    }
}
