//! Short ways for what an upper decides alone: the parent's directory in the upper is held open,
//! and one call on a name in it tells or does what a look through all layers would.
//!
//! Each answers `None` where it cannot tell, whatever the reason: then the way through `resolve`
//! decides, and says what is wrong. None is taken for what a rule names or leads to.

use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::create::Place;
use super::look::Look;
use super::resolve::{Dir, Here, Trust, join};
use super::{Attr, Entry, Inode, Source, Src, View};
use crate::layer::machinery::{self, Form};
use crate::rules::Pos;
use crate::sys::obj::{self, Stat};

/// A directory that the upper has.
pub(super) struct Near {
    pub(super) dir: Dir,
    /// The upper, to which what is below is written too.
    pub(super) upper: u8,
    /// The directory there.
    pub(super) fd: Arc<OwnedFd>,
}

impl View {
    fn near(&self, inode: &Inode) -> Option<Near> {
        let dir = self.dir(inode).ok()?;
        let src = *dir.srcs.first()?;
        let upper = self.writable(dir.pos).ok()?;
        if src.layer != upper {
            return None;
        }
        let at = self.layer_path(self.rules.zone(dir.pos.zone), &dir.path, src);
        let layer = &self.layers[upper as usize];
        let fd = layer.hold_dir(&at, self.options.lifetime).ok()?;
        Some(Near { dir, upper, fd })
    }

    /// The position of a name that rules say nothing of.
    fn plain_step(&self, near: &Near, name: &[u8]) -> Option<Pos> {
        let pos = self.rules.step(near.dir.pos, name);
        let special = self.rules.begins(pos)
            || self.rules.guarded(pos)
            || self.rules.leads_deeper(pos)
            || self.rules.is_mtab(pos)
            || machinery::is_ours(name, self.layers[near.upper as usize].form())
            || name.len() > 255
            || matches!(name, b"" | b"." | b"..")
            || name.contains(&b'/');
        (!special).then_some(pos)
    }

    /// Has no lower layer anything at a path in the directory?
    fn nothing_below(&self, near: &Near, path: &[u8], pos: Pos) -> bool {
        let zone = self.rules.zone(pos.zone);
        near.dir
            .srcs
            .iter()
            .skip(1)
            .all(|&src| matches!(self.probe(zone, path, src), Ok((_, Look::Absent))))
    }

    /// As the view shows it.
    pub(super) fn shown(&self, number: u64, mut stat: Stat) -> Attr {
        if stat.rdev == machinery::STORED_NULL_DEVICE {
            stat.rdev = machinery::NULL_DEVICE;
        }
        Attr { number, stat }
    }

    /// Is this object of the upper the inode's, as its birth tells? A number that was stored with
    /// a copy is read once ([`View::near_here`]), and remembered by the copy's own.
    fn is_by_birth(&self, inode: &Inode, upper: u8, stat: &Stat) -> bool {
        let own = self.own_number(upper, stat);
        let known = stat.btime != (0, 0) && inode.data.copied.load(Ordering::Relaxed) == own;
        inode.number == own || known
    }

    /// The copy with this number is this object.
    pub(super) fn remember_copy(&self, inode: &Inode, upper: u8, stat: &Stat) {
        let own = self.own_number(upper, stat);
        inode.data.copied.store(own, Ordering::Relaxed);
    }

    /// Is this in an upper, as far as is known? And a directory?
    fn in_upper_by(&self, inode: &Inode) -> Option<bool> {
        let state = inode.data.state.read();
        let (src, is_dir) = match &state.source {
            Source::Dir(srcs) => (*srcs.first()?, true),
            Source::One(src) => (*src, false),
            _ => return None,
        };
        (state.plan == self.plan && self.layer_is_upper(src.layer)).then_some(is_dir)
    }

    /// Attributes of what the upper has.
    pub(super) fn near_attr(&self, inode: &Inode) -> Option<Entry> {
        let is_dir = self.in_upper_by(inode)?;
        if is_dir {
            let near = self.near(inode).filter(|_| !inode.is_nameless())?;
            let mut stat = obj::stat(&*near.fd).ok().filter(Stat::is_dir)?;
            if near.dir.srcs.len() > 1 {
                stat.nlink = 1;
            }
            let number = inode.number;
            return Some(self.own_entry(inode, Attr { number, stat }));
        }
        let link = inode.only_link()?;
        let near = self.near(&link.parent)?;
        self.plain_step(&near, &link.name)?;
        let stat = obj::stat_name(&*near.fd, &link.name).ok()?;
        self.is_by_birth(inode, near.upper, &stat)
            .then(|| self.own_entry(inode, self.shown(inode.number, stat)))
    }

    /// What the node itself made or changed, as the kernel is told of it.
    pub(super) fn own_entry(&self, inode: &Inode, attr: Attr) -> Entry {
        Entry {
            attr,
            lifetime: self.lifetime_of(inode, self.own_trust()),
        }
    }

    /// An object that is in its upper already (no directory).
    pub(super) fn near_here(&self, inode: &Inode) -> Option<Box<Here>> {
        self.being_written(inode).or_else(|| self.near_named(inode))
    }

    /// The same, by its name as it is now.
    pub(super) fn near_named(&self, inode: &Inode) -> Option<Box<Here>> {
        if self.in_upper_by(inode)? {
            return None;
        }
        let link = inode.only_link()?;
        let near = self.near(&link.parent)?;
        let pos = self.plain_step(&near, &link.name)?;
        let fd = open_name(&near, &link.name)?;
        let stat = obj::stat(&fd).ok()?;
        if stat.is_dir() {
            return None;
        }
        if !self.is_by_birth(inode, near.upper, &stat) {
            let layer = &self.layers[near.upper as usize];
            let stored = layer.stored_number(&fd, &stat).ok()??;
            if stored != inode.number {
                return None;
            }
            self.remember_copy(inode, near.upper, &stat);
        }
        let path = join(&near.dir.path, &link.name);
        let mut here = self.here(near.upper, path, pos, stat, inode.number);
        here.fd = OnceCell::from(Arc::new(fd));
        Some(Box::new(here))
    }

    /// A regular file that was found in a lower layer, by what is remembered of the layers below
    /// the upper. That the upper has nothing in its place is what the kernel was told without end;
    /// naming a copy there finds out where it is not so.
    pub(super) fn still_below(&self, inode: &Inode) -> Option<Box<Here>> {
        let (backing, pos, generation) = {
            let state = inode.data.state.read();
            let checked = state.checked.filter(|checked| checked.lasting)?;
            if state.plan != self.plan || !self.is_fresh(&state) {
                return None;
            }
            (state.backing?, state.pos, checked.generation)
        };
        let link = inode.only_link()?;
        let dir = self.dir(&link.parent).ok()?;
        let upper = self.writable(pos).ok()?;
        let zone = self.rules.zone(pos.zone);
        if self.rules.begins(pos) || self.rules.guarded(pos) || self.rules.is_mtab(pos) {
            return None;
        }
        let path = join(&dir.path, &link.name);
        let mut below = dir.srcs.iter().filter(|src| src.layer != upper);
        let (src, seen) = below.find_map(|&src| match self.probe(zone, &path, src) {
            Ok((_, Look::Absent)) => None,
            Ok((src, Look::Object(seen))) => Some(Some((src, seen))),
            Ok((_, Look::Whiteout)) | Err(_) => Some(None),
        })??;
        let stat = seen.stat;
        if stat.kind() != libc::S_IFREG || (stat.dev, stat.ino) != backing {
            return None;
        }
        let trust = Trust {
            lasting: true,
            generation,
        };
        let attr = self.shown(inode.number, stat);
        let mut here = Here::below(path, pos, Source::One(src), attr, trust);
        if let Some(fd) = seen.fd {
            here.fd = OnceCell::from(Arc::new(fd));
        }
        Some(Box::new(here))
    }

    /// An object of an upper that somebody has open for writing: what is open is the object,
    /// whatever its name. (tar sets owner, mode and times of each file that it has just written.)
    fn being_written(&self, inode: &Inode) -> Option<Box<Here>> {
        let (fd, flags, src, pos) = self.writing_to(inode)?;
        let path = inode.path()?;
        let stat = obj::stat(&*fd).ok()?;
        Some(Box::new(Here {
            path,
            pos,
            source: Source::One(src),
            attr: self.shown(inode.number, stat),
            fd: OnceCell::from(fd),
            open: flags,
            bare: false,
            upper: Some(src.layer),
            target: None,
            trust: self.own_trust(),
        }))
    }

    /// The descriptor of an object of an upper that is being written, what that is open for
    /// (nothing where it only names the object), and where the object is.
    pub(super) fn writing_to(
        &self,
        inode: &Inode,
    ) -> Option<(Arc<OwnedFd>, Option<OFlags>, Src, Pos)> {
        let open = self
            .held
            .files
            .get(inode.data.writer.load(Ordering::Relaxed))?;
        let (src, pos, epoch) = {
            let state = inode.data.state.read();
            match state.source {
                Source::One(src) if state.plan == self.plan => (src, state.pos, state.epoch),
                _ => return None,
            }
        };
        if self.writable(pos) != Ok(src.layer) || !open.is_of(inode) {
            return None;
        }
        let (fd, flags) = open.writing(epoch)?;
        Some((fd, flags, src, pos))
    }

    /// What an upper alone has at a path.
    pub(super) fn here(&self, upper: u8, path: Vec<u8>, pos: Pos, stat: Stat, number: u64) -> Here {
        let src = Src {
            layer: upper,
            default: false,
        };
        Here {
            path,
            pos,
            source: match stat.is_dir() {
                true => Source::Dir(std::iter::once(src).collect()),
                false => Source::One(src),
            },
            attr: self.shown(number, stat),
            fd: OnceCell::new(),
            open: None,
            bare: false,
            upper: Some(upper),
            target: None,
            trust: self.own_trust(),
        }
    }

    /// A place for a new name that no lower layer has: making it finds out whether the upper has
    /// it, or a whiteout.
    pub(super) fn near_place(&self, parent: &Arc<Inode>, name: &[u8]) -> Option<Place> {
        let near = self.near(parent)?;
        let pos = self.plain_step(&near, name)?;
        // In the other form a whiteout has a name of its own.
        let decides = self.layers[near.upper as usize].form() == Form::Device;
        let path = join(&near.dir.path, name);
        if !decides || !self.nothing_below(&near, &path, pos) {
            return None;
        }
        Some(Place {
            parent: parent.clone(),
            pos,
            path,
            upper: near.upper,
            whiteout: false,
            dir: Some(near.fd),
        })
    }

    /// Removes what only the upper has and had from the beginning.
    pub(super) fn near_remove(&self, parent: &Inode, name: &[u8], directory: bool) -> Option<()> {
        let near = self.near(parent)?;
        let pos = self.plain_step(&near, name)?;
        let fd = open_name(&near, name)?;
        let stat = obj::stat(&fd).ok()?;
        let number = self.own_number(near.upper, &stat);
        let victim = self.held.inodes.get(number)?;
        let path = join(&near.dir.path, name);
        if stat.is_dir() != directory
            || !victim.is_named(parent, name)
            || !self.nothing_below(&near, &path, pos)
        {
            return None;
        }
        let _still = victim.data.copying.try_lock()?;
        let flags = match directory {
            true => AtFlags::REMOVEDIR,
            false => AtFlags::empty(),
        };
        let mut here = self.here(near.upper, path, pos, stat, number);
        here.fd = OnceCell::from(Arc::new(fd));
        self.hand_over(&here);
        if rustix::fs::unlinkat(&*near.fd, name, flags).is_err() {
            self.object_is_named(number);
            return None;
        }
        if directory {
            self.empty_dir_gone(&here.path, pos, near.upper);
        }
        self.name_gone(&mut here, parent, name);
        Some(())
    }

    /// A directory of the upper is not at this path any more.
    pub(super) fn dir_gone(&self, path: &[u8], pos: Pos, upper: u8) {
        let at = self.rules.zone(pos.zone).layer_path(path);
        self.layers[upper as usize].let_go_of(at);
    }

    /// The same of one that was removed, and so was empty.
    pub(super) fn empty_dir_gone(&self, path: &[u8], pos: Pos, upper: u8) {
        let at = self.rules.zone(pos.zone).layer_path(path);
        self.layers[upper as usize].let_go_of_empty(at);
    }
}

/// The object behind a name in a directory, whatever it is.
fn open_name(near: &Near, name: &[u8]) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&*near.fd, name, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::tests::{ME, ROOT, plain};
    use crate::fs::{Changes, OpenHow};
    use crate::sys::Errno;
    use crate::sys::obj::SetTime;
    use rustix::fs::RenameFlags;

    fn create(view: &View, parent: u64, name: &[u8]) -> Result<u64, Errno> {
        let how = OpenHow::from_raw(libc::O_WRONLY | libc::O_EXCL);
        let (entry, handle) = view.create(parent, name, 0o644, 0o022, how, ME)?;
        view.release(handle);
        Ok(entry.attr.number)
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_made_after_a_directory_was_moved_is_in_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |_| {});
        let upper = dir.path().join("upper");
        let first = view.mkdir(ROOT, b"a", 0o755, 0, ME).unwrap().attr.number;
        create(&view, first, b"x").unwrap();
        view.rename((ROOT, b"a"), (ROOT, b"b"), RenameFlags::empty())
            .unwrap();
        let second = view.mkdir(ROOT, b"a", 0o755, 0, ME).unwrap().attr.number;
        create(&view, second, b"y").unwrap();
        create(&view, first, b"z").unwrap();
        assert_eq!(names(&upper.join("a")), ["y"]);
        assert_eq!(names(&upper.join("b")), ["x", "z"]);
        view.rename((ROOT, b"a"), (ROOT, b"b"), RenameFlags::EXCHANGE)
            .unwrap();
        create(&view, second, b"w").unwrap();
        assert_eq!(names(&upper.join("b")), ["w", "y"]);
        for name in [&b"w"[..], b"y"] {
            view.unlink(second, name).unwrap();
        }
        view.rmdir(ROOT, b"b").unwrap();
        assert_eq!(create(&view, second, b"v"), Err(Errno::NOENT));
        let third = view.mkdir(ROOT, b"b", 0o755, 0, ME).unwrap().attr.number;
        create(&view, third, b"u").unwrap();
        assert_eq!(names(&upper.join("b")), ["u"]);
    }

    #[test]
    fn what_is_open_for_writing_is_what_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "lower").unwrap()
        });
        let how = OpenHow::from_raw(libc::O_WRONLY);
        let changes = |mode| Changes {
            mode: Some(mode),
            uid: None,
            gid: None,
            size: None,
            atime: SetTime::Omit,
            mtime: SetTime::At(1, 0),
        };
        let set = |number, mode| {
            let entry = view.setattr(number, &changes(mode), None, ME).unwrap();
            assert_eq!(entry.attr.stat.mode & 0o7777, mode);
            assert_eq!(entry.attr.number, number);
        };
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt;
            let at = dir.path().join("upper").join(name);
            at.symlink_metadata().unwrap().permissions().mode() & 0o7777
        };
        let made = view.create(ROOT, b"own", 0o600, 0, how, ME).unwrap();
        let copy = view.lookup(ROOT, b"f").unwrap().attr.number;
        let files = [(made.0.attr.number, "own", Some(made.1)), (copy, "f", None)];
        for (number, name, handle) in files {
            let handle = handle.unwrap_or_else(|| view.open(number, how, ME).unwrap());
            let inode = view.inode(number).unwrap();
            assert!(view.near_here(&inode).unwrap().open.is_some());
            set(number, 0o640);
            view.setxattr(number, b"user.k", b"v", 0, ME).unwrap();
            assert_eq!(view.getxattr(number, b"user.k").unwrap(), b"v");
            // The name is another's now: the inode is what it was.
            let new = create(&view, ROOT, b"new").unwrap();
            view.rename(
                (ROOT, b"new"),
                (ROOT, name.as_bytes()),
                RenameFlags::empty(),
            )
            .unwrap();
            set(number, 0o604);
            assert_eq!(mode(name), 0o644);
            set(new, 0o600);
            assert_eq!(mode(name), 0o600);
            view.release(handle);
            assert!(view.being_written(&inode).is_none());
        }
    }

    #[test]
    fn whiteouts_are_made_and_ended_as_by_the_long_way() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::create_dir(lower.join("d")).unwrap();
            std::fs::write(lower.join("d/f"), "lower").unwrap();
        });
        let d = view.lookup(ROOT, b"d").unwrap().attr.number;
        create(&view, d, b"own").unwrap();
        for _ in 0..2 {
            view.lookup(d, b"f").unwrap();
            view.unlink(d, b"f").unwrap();
            assert_eq!(view.lookup(d, b"f").err(), Some(Errno::NOENT));
            create(&view, d, b"f").unwrap();
            assert_eq!(create(&view, d, b"f"), Err(Errno::EXIST));
        }
        view.unlink(d, b"f").unwrap();
        view.unlink(d, b"own").unwrap();
        assert_eq!(names(&dir.path().join("upper/d")), ["f"]);
        view.rmdir(ROOT, b"d").unwrap();
        let d = view.mkdir(ROOT, b"d", 0o755, 0, ME).unwrap().attr.number;
        assert_eq!(view.lookup(d, b"f").err(), Some(Errno::NOENT));
        // A lower directory that comes to be where only the upper had one.
        let own = view.mkdir(ROOT, b"e", 0o755, 0, ME).unwrap().attr.number;
        create(&view, own, b"x").unwrap();
        assert_eq!(view.rmdir(ROOT, b"e"), Err(Errno::NOTEMPTY));
        view.unlink(own, b"x").unwrap();
        std::fs::create_dir(dir.path().join("lower/e")).unwrap();
        std::fs::write(dir.path().join("lower/e/x"), "").unwrap();
        view.rmdir(ROOT, b"e").unwrap_err();
    }

    #[test]
    fn the_short_way_tells_what_the_long_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "lower").unwrap()
        });
        let made = view.mkdir(ROOT, b"d", 0o755, 0, ME).unwrap().attr.number;
        let file = create(&view, made, b"own").unwrap();
        let copied = view.lookup(ROOT, b"f").unwrap().attr.number;
        let how = OpenHow::from_raw(libc::O_WRONLY);
        view.release(view.open(copied, how, ME).unwrap());
        for number in [made, file, copied] {
            let inode = view.inode(number).unwrap();
            let long = view.object(&inode).unwrap().attr;
            assert_eq!(view.near_attr(&inode).map(|entry| entry.attr), Some(long));
        }
        // Another file in the place of the copy is not taken for it.
        let upper = dir.path().join("upper");
        std::fs::write(upper.join("new"), "other").unwrap();
        std::fs::rename(upper.join("new"), upper.join("f")).unwrap();
        let inode = view.inode(copied).unwrap();
        assert_eq!(view.near_attr(&inode), None);
        assert!(view.near_here(&inode).is_none());
    }
}
