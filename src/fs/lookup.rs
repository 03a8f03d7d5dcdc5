//! LOOKUP, FORGET, READLINK.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::node::{Checked, Orphan};
use super::resolve::{Here, Outcome, Trust};
use super::{Answer, Attr, Entry, Inode, IoMode, Node, View};
use crate::inode::id;
use crate::inode::table::{Collision, Naming};
use crate::rules::Pos;
use crate::sys::obj;
use crate::sys::{Errno, Res};

/// So many numbers may be tried for a path.
pub(super) const MAX_SALT: u32 = 8;

/// The numbers that what lies at a path below may have, the first choice first.
pub(super) fn numbers_of(path: &[u8]) -> impl Iterator<Item = u64> {
    (0..MAX_SALT).map(|salt| id::of_path(path, salt))
}

impl View {
    /// A name in a directory that is there; as [`View::answer`].
    ///
    /// # Errors
    /// `ENOENT`, and what [`View::answer`] has.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Res<Entry> {
        match self.answer(parent, name)? {
            Answer::Entry(entry) => Ok(entry),
            Answer::Absent(_) => Err(Errno::NOENT),
        }
    }

    /// A name in a directory; the reply counts as a lookup.
    ///
    /// "." and ".." are how the kernel asks for a number that it got out of a file handle: see
    /// [`View::by_handle`].
    ///
    /// # Errors
    /// `ENOTDIR`, `ENAMETOOLONG`; `ESTALE` for a number that is not known.
    pub fn answer(&self, parent: u64, name: &[u8]) -> Res<Answer> {
        if matches!(name, b"." | b"..") {
            let entry = self.by_handle(parent, name, Instant::now())?;
            return Ok(Answer::Entry(entry));
        }
        let dir_inode = self.inode(parent)?;
        let generation = self.generation();
        let dir = self.dir(&dir_inode)?;
        match self.resolve(&dir, name)? {
            Outcome::Here(here) => Ok(Answer::Entry(self.enter(&dir_inode, name, *here)?.0)),
            Outcome::Absent { lasting, .. } => {
                let trust = Trust {
                    lasting: lasting && self.cache.note_absent(&dir.path, name),
                    generation,
                };
                Ok(Answer::Absent(self.lifetime(trust)))
            }
        }
    }

    /// Counts a lookup of what was found, before the reply is sent.
    pub(super) fn enter(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        here: Here,
    ) -> Res<(Entry, Arc<Inode>)> {
        let first = here.upper.is_none().then(|| {
            let make = || {
                let source = here.source.clone();
                Node::new(here.pos, here.kind(), source, self.plan)
                    .checked(here.backing(), Checked::now(here.trust))
            };
            self.enter_new(parent, name, (here.pos, here.attr.number), make)
        });
        match first.flatten() {
            Some(inode) => {
                self.note_name(&inode, parent, name);
                let entry = self.entry_of(&here);
                self.keep_last(here);
                Ok((entry, inode))
            }
            None => self.enter_closely(parent, name, here),
        }
    }

    /// What was just opened to be looked at may be copied up next.
    fn keep_last(&self, here: Here) {
        if here.kind() == libc::S_IFREG
            && let Some(src) = here.top()
            && self.writable(here.pos).is_ok()
            && let Some(fd) = here.fd.into_inner().and_then(Arc::into_inner)
        {
            self.layer(src).keep_last(fd, &here.attr.stat);
        }
    }

    /// As [`View::enter`], of what [`View::enter_new`] does not count.
    pub(super) fn enter_closely(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        mut here: Here,
    ) -> Res<(Entry, Arc<Inode>)> {
        let mut number = self.number_of(&here);
        if let Some(known) = self.held.inodes.get(number)
            && self.displace(&known, Some(&here))
        {
            number = self.number_of(&here);
        }
        if number != here.attr.number
            && let Some(upper) = here.upper
        {
            self.number_anew(&mut here, upper)?;
            number = here.attr.number;
        }
        for _ in 0..MAX_SALT {
            match self.count(parent, name, &here, number) {
                Ok(counted) => {
                    self.note_told(&here, number);
                    return Ok(counted);
                }
                Err(_) => tracing::warn!(
                    view = self.name, path = %String::from_utf8_lossy(&here.path),
                    number, "two paths hash to one number"
                ),
            }
            number = self.number_of(&here);
        }
        Err(Errno::IO)
    }

    /// Counts the first lookup of what no upper has, by the number of its path. `None` where the
    /// number is known, or may not be the path's ([`View::number_of`]): that takes a closer look.
    pub(super) fn enter_new(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        (pos, number): (Pos, u64),
        make: impl FnOnce() -> Node,
    ) -> Option<Arc<Inode>> {
        if self.held.salted.load(Ordering::Relaxed) || self.has_moved(pos, number) {
            return None;
        }
        self.held.inodes.remember_new(number, (parent, name), make)
    }

    /// As [`View::enter`], by this number and no other.
    ///
    /// # Errors
    /// `ESTALE` where another object is known by it.
    pub(super) fn enter_as(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        here: Here,
        number: u64,
    ) -> Res<Entry> {
        if self.number_of(&here) != number {
            // The object goes by another number just now, or may by this one.
            let counted = self.count(parent, name, &here, number);
            return counted.map(|(entry, _)| entry).or(Err(Errno::STALE));
        }
        let (entry, inode) = self.enter(parent, name, here)?;
        if inode.number != number {
            self.forget(inode.number, 1);
            return Err(Errno::STALE);
        }
        Ok(entry)
    }

    /// Counts a lookup of what was found by a number.
    fn count(
        &self,
        parent: &Arc<Inode>,
        name: &[u8],
        here: &Here,
        number: u64,
    ) -> Result<(Entry, Arc<Inode>), Collision> {
        let shared =
            here.upper.is_some() && here.kind() != libc::S_IFDIR && here.attr.stat.nlink > 1;
        let naming = if shared {
            Naming::Another
        } else {
            Naming::Sole
        };
        if number != here.attr.number {
            self.held.salted.store(true, Ordering::Relaxed);
        }
        let clashes = |known: &Inode| !self.may_be(known, here);
        let make = || Node::new(here.pos, here.kind(), here.source.clone(), self.plan);
        let inode = self
            .held
            .inodes
            .remember(number, (parent, name), naming, make, clashes)?;
        self.note_name(&inode, parent, name);
        self.refresh(&inode, here);
        if let Some(upper) = here.upper.filter(|_| id::is_of_path(number)) {
            self.remember_copy(&inode, upper, &here.attr.stat);
        }
        if here.kind() == libc::S_IFDIR && number != id::of_path(&here.path, 0) {
            self.held.own_dirs.lock().insert(number);
        }
        let attr = Attr {
            number,
            ..here.attr
        };
        let lifetime = self.lifetime_of(&inode, here.trust);
        Ok((Entry { attr, lifetime }, inode))
    }

    /// A copy keeps the number of the path that it had below. Where another object is known by that
    /// number (the copy was renamed, and a lower layer has the path again), it goes by its own from
    /// now on: a number that hangs on the path would be another one after the next rename.
    fn number_anew(&self, here: &mut Here, upper: u8) -> Res<()> {
        let stat = here.attr.stat;
        let fd = self.reach(here)?.ok_or(Errno::IO)?;
        self.layers[upper as usize].take_number(&**fd, &stat)?;
        here.attr.number = self.own_number(upper, &stat);
        Ok(())
    }

    /// Is a number without a name in use for another file than what was found?
    fn goes_on_nameless(&self, known: &Inode, here: &Here) -> bool {
        let file = (here.attr.stat.dev, here.attr.stat.ino);
        match self.through(known) {
            Some((through, _)) => through != file || here.upper.is_none(),
            None if here.upper.is_some() => false,
            None if self.held.io == IoMode::Cached => known.data.state.read().orphan.is_some(),
            None => known.data.opens.load(Ordering::Relaxed) > 0,
        }
    }

    /// May the inode that is known by the number of what was found be the same object?
    fn may_be(&self, known: &Inode, here: &Here) -> bool {
        if !id::is_of_path(known.number) {
            return true;
        }
        // To the kernel a number's object never changes its type.
        let (same_kind, in_upper) = {
            let state = known.data.state.read();
            let same_kind = here.upper.is_some() || state.kind == here.kind();
            (same_kind, state.backing.is_none())
        };
        let is_there = match known.path() {
            // Or another name of the same copy.
            Some(path) => {
                let copied = known.data.copied.load(Ordering::Relaxed);
                let same_copy = |upper| {
                    let stat = &here.attr.stat;
                    copied == 0 || stat.btime == (0, 0) || copied == self.own_number(upper, stat)
                };
                path == here.path || (in_upper && here.upper.is_some_and(same_copy))
            }
            None => !self.goes_on_nameless(known, here),
        };
        same_kind && is_there
    }

    /// The number of what was found: its own, or where another object is known by that, the next
    /// best of its path.
    pub(super) fn number_of(&self, here: &Here) -> u64 {
        let first = here.attr.number;
        if !id::is_of_path(first) || first == id::ROOT {
            return first;
        }
        let known = |number| self.held.inodes.get(number);
        let free = |number: &u64| {
            !self.is_taken(here, *number)
                && known(*number).is_none_or(|known| self.may_be(&known, here))
        };
        let salted = self.held.salted.load(Ordering::Relaxed);
        // The one that was told is kept: a listing that has it may be in the kernel's cache for
        // longer than the number is.
        let told = salted.then(|| self.held.told.lock().get(&*here.path).copied());
        // A copy has a number of its own to go back to.
        let holds = |number: &u64| here.upper.is_none() || known(*number).is_some();
        if let Some(number) = told.flatten().filter(holds).filter(&free) {
            return number;
        }
        if free(&first) {
            return first;
        }
        let mut others = numbers_of(&here.path).skip(1);
        others.find(free).unwrap_or(first)
    }

    /// Has a copy taken this number to another path than the one where something was found?
    pub(super) fn is_taken(&self, here: &Here, number: u64) -> bool {
        here.upper.is_none() && self.has_moved(here.pos, number)
    }

    /// Has a copy taken this number of a path to another one, as far as the upper of the path's zone
    /// tells? Nothing else can have got there.
    pub(super) fn has_moved(&self, pos: Pos, number: u64) -> bool {
        let upper = self.writable(pos);
        upper.is_ok_and(|upper| self.layers[upper as usize].has_moved(number))
    }

    /// Records that a copy, and a directory's with those below it, is about to get another name.
    ///
    /// # Errors
    /// What the record answers; the name must not change then.
    pub(super) fn note_moved(&self, here: &Here, upper: u8) -> Res<()> {
        let number = here.attr.number;
        // What the node made has no other's number; see `note_below_own` for what is in its directories.
        if !id::is_of_path(number) {
            return Ok(());
        }
        let layer = &self.layers[upper as usize];
        let mut numbers = vec![number];
        if here.kind() == libc::S_IFDIR {
            numbers.extend(
                layer.numbers_below(self.rules.zone(here.pos.zone).layer_path(&here.path))?,
            );
        }
        layer.note_moved(&numbers)
    }

    /// Records a copy that was made below a directory that has another number than its path's, by the
    /// node's doing: that may move with all below, and is not looked through then. Not before it is
    /// made: until then the number is that of what is below, and where no copy comes to be, it stays.
    ///
    /// # Errors
    /// What the record answers: the copy is there, and is not on record.
    pub(super) fn note_below_own(&self, parent: &Arc<Inode>, here: &Here, upper: u8) -> Res<()> {
        let mut path = parent.path().unwrap_or_default();
        let mut above = Some(parent.clone());
        while let Some(dir) = above.filter(|dir| dir.number != id::ROOT) {
            if numbers_of(&path).all(|number| number != dir.number) {
                return self.layers[upper as usize].note_moved(&[here.attr.number]);
            }
            path.truncate(obj::split(&path).0.len());
            above = dir.links().first().map(|link| link.parent.clone());
        }
        Ok(())
    }

    /// Keeps the number of a path where it is not the first choice.
    fn note_told(&self, here: &Here, number: u64) {
        if !self.held.salted.load(Ordering::Relaxed) {
            return;
        }
        let mut told = self.held.told.lock();
        match number == here.attr.number {
            true => told.remove(&*here.path),
            false => told.insert(here.path.as_slice().into(), number),
        };
    }

    /// What was found, as the kernel is told of it.
    pub(super) fn entry_of(&self, here: &Here) -> Entry {
        Entry {
            attr: here.attr,
            lifetime: self.lifetime(here.trust),
        }
    }

    /// A file that is open goes on as it is when another takes its place in a lower layer (a
    /// package is upgraded in the image), or none does: it loses its name as if it had been removed,
    /// and with that its number to the newcomer's next best. One number is one page cache: programs
    /// that run the old file would get pages of the new one.
    pub(super) fn displace(&self, known: &Inode, here: Option<&Here>) -> bool {
        if known.is_nameless() {
            return false;
        }
        let found = here.map(|here| (here.attr.stat.dev, here.attr.stat.ino));
        if let Some((file, _)) = self.through(known) {
            // By one number the kernel reads and writes one file only.
            return found != Some(file) && self.displace_open(known);
        }
        let open = known.data.opens.load(Ordering::Relaxed) > 0;
        if !open && self.held.io != IoMode::Cached {
            return false;
        }
        let (before, replanned, source) = {
            let state = known.data.state.read();
            (state.backing, state.plan != self.plan, state.source.clone())
        };
        let stays = match here {
            // A copy of it, or what it was.
            Some(here) => here.upper.is_some() || before.is_none() || before == here.backing(),
            None => before.is_none(),
        };
        if stays {
            if here.is_some_and(|here| source.is_made_up_like(&here.source)) {
                // What is put together is the same however often it is, whatever it is made of.
                return false;
            }
            // Whichever layers there were: is it still the one that is open?
            let file = self.open_file_of(known).filter(|_| replanned);
            let Some(Ok(stat)) = file.map(|file| obj::stat(&*file)) else {
                return false;
            };
            if found == Some((stat.dev, stat.ino)) {
                return false;
            }
        }
        self.displace_open(known)
    }

    /// What an inode's users read and write now.
    fn open_file_of(&self, known: &Inode) -> Option<Arc<OwnedFd>> {
        let mut files = self.held.files.all().into_iter();
        let file = files.find(|file| file.is_of(known) && file.is_up_to_date());
        match file.and_then(|file| file.current()) {
            None if self.held.io == IoMode::Cached => self.held.handless.last(known.number),
            file => file,
        }
    }

    /// Takes its name from an inode that is open, as if it had been removed; false where nobody
    /// has it open after all.
    pub(super) fn displace_open(&self, known: &Inode) -> bool {
        let copy = self.open_file_of(known);
        let open = known.data.opens.load(Ordering::Relaxed) > 0;
        if copy.is_none() && !open {
            // Nobody has read it lately, as far as is known.
            return false;
        }
        let path = known.path().unwrap_or_default().into();
        let upper = self.through(known).and_then(|(_, upper)| upper);
        let orphan = copy.map(|fd| Orphan { fd, upper, path });
        if let Some(orphan) = orphan.as_ref().filter(|_| self.may_be_open(known)) {
            let object = (orphan.fd.as_fd(), true);
            self.hand_over_object(known.number, object, upper, &orphan.path);
        }
        known.data.state.write().orphan = orphan.map(Arc::new);
        known.data.displaced.fetch_add(1, Ordering::Release);
        for link in known.links() {
            self.held.inodes.unlink(known, &link.parent, &link.name);
        }
        true
    }

    /// The kernel forgets lookups, all of them where it forgets the inode.
    pub fn forget_of_kernel(&self, number: u64, count: u64) {
        self.forget(number, count);
        self.forgotten(number);
    }

    /// Lookups count no longer.
    pub fn forget(&self, number: u64, count: u64) {
        self.held.inodes.forget(number, count);
        if self.held.inodes.shrink() {
            crate::sys::memory::give_back();
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    pub fn readlink(&self, number: u64) -> Res<Vec<u8>> {
        let here = self.object(&*self.inode(number)?)?;
        self.readlink_of(&here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tests::{ROOT, plain};
    use crate::fs::{Caller, OpenHow};

    /// What a listing tells of a name.
    fn listed(view: &View, name: &[u8]) -> u64 {
        let mut number = 0;
        let look = |entry: crate::fs::DirEntry<'_>| {
            if entry.name == name {
                number = entry.number;
            }
            false
        };
        view.readdir(ROOT, 0, look).unwrap();
        number
    }

    #[test]
    fn a_number_that_a_listing_told_stays_when_the_kernel_forgets_it() {
        let dir = tempfile::tempdir().unwrap();
        let low = dir.path().join("lower/f");
        let view = plain(dir.path(), |_| std::fs::write(&low, "a file").unwrap());
        let look = || view.lookup(ROOT, b"f").unwrap().attr.number;
        let file = look();
        std::fs::remove_file(&low).unwrap();
        std::fs::create_dir(&low).unwrap();
        let made = look();
        assert_ne!(
            file, made,
            "to a kernel a number's object never changes its type"
        );
        view.forget(file, 1);
        view.forget(made, 1);
        assert_eq!((look(), listed(&view, b"f")), (made, made));
        // Of another file that takes its place while it is open, too.
        view.forget(made, 1);
        std::fs::remove_dir(&low).unwrap();
        std::fs::write(&low, "first").unwrap();
        let first = look();
        let how = OpenHow::from_raw(libc::O_RDONLY);
        let handle = view.open(first, how, Caller { uid: 0, gid: 0 }).unwrap();
        std::fs::write(dir.path().join("lower/n"), "second").unwrap();
        std::fs::rename(dir.path().join("lower/n"), &low).unwrap();
        let second = look();
        assert_ne!(first, second, "one number is one page cache");
        view.release(handle);
        view.forget(first, 1);
        view.forget(second, 1);
        assert_eq!((look(), listed(&view, b"f")), (second, second));
    }
}
