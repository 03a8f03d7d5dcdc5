//! The table of inodes that the kernel holds. The only owner of lookup counts.
//!
//! Lock order: a table shard, then an inode's links, then the notes of what is forgotten. No I/O happens under either. An entry stays
//! while the kernel counts lookups of it or while another entry names it as its parent, so that
//! a path can always be put together; the two counts change only here.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::departed::Departed;
use super::id;
use super::spread::Spread;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::mapref::entry::{Entry, VacantEntry};
use crate::sync::mapref::one::RefMut;
use crate::sync::{DashMap, RwLock};

/// One name of an object: the directory and the name in it.
#[derive(Debug)]
pub struct Link<D> {
    /// The directory.
    pub parent: Arc<Inode<D>>,
    /// The name in it.
    pub name: Name,
}

/// A name. Most are short: these need no memory of their own.
pub type Name = SmallVec<[u8; 16]>;

/// The names of an object, of which it mostly has one.
pub type Links<D> = SmallVec<[Link<D>; 1]>;

impl<D> Clone for Link<D> {
    fn clone(&self) -> Self {
        Link {
            parent: self.parent.clone(),
            name: self.name.clone(),
        }
    }
}

impl<D> Link<D> {
    fn is(&self, parent: &Inode<D>, name: &[u8]) -> bool {
        self.parent.number == parent.number && *self.name == *name
    }
}

/// One object that the kernel knows. In this order what is looked at when it is forgotten lies in
/// few lines of the processor's cache.
#[derive(Debug)]
#[repr(C)]
pub struct Inode<D> {
    /// nodeid and st_ino.
    pub number: u64,
    /// Entries that name this one as a parent.
    children: AtomicU64,
    links: RwLock<Links<D>>,
    /// What the conductor keeps of it.
    pub data: D,
}

impl<D> Inode<D> {
    /// Its names; none for the root, and none once the last one is removed.
    pub fn links(&self) -> Links<D> {
        self.links.read().clone()
    }

    /// Its name, where it has just one.
    pub fn only_link(&self) -> Option<Link<D>> {
        match &**self.links.read() {
            [link] => Some(link.clone()),
            _ => None,
        }
    }

    /// Has it this name?
    pub fn is_named(&self, parent: &Inode<D>, name: &[u8]) -> bool {
        self.links.read().iter().any(|link| link.is(parent, name))
    }

    /// Is it reachable by no name (the root aside)?
    pub fn is_nameless(&self) -> bool {
        self.number != id::ROOT && self.links.read().is_empty()
    }

    /// A path from the root, without a leading slash; `None` where no name leads there any more.
    pub fn path(&self) -> Option<Vec<u8>> {
        let mut path = Vec::with_capacity(64);
        let mut ended = None;
        loop {
            match self.append_path(&mut path) {
                Ok(()) => return Some(path),
                // Twice at the same place.
                Err(nameless) if ended == Some(nameless) => return None,
                // A directory loses its names when it is forgotten, after what was in it has another
                // one: who was on the way there meanwhile finds that now.
                Err(nameless) => ended = Some(nameless),
            }
            path.clear();
        }
    }

    /// A path for each of its names.
    fn paths(&self) -> Box<[Box<[u8]>]> {
        let links = self.links();
        let paths = links.iter().filter_map(|link| {
            let mut path = link.parent.path()?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&link.name);
            Some(path.into())
        });
        paths.collect()
    }

    /// Upwards, so backwards, and turned round at the end: the depth is unbounded, and no name
    /// is copied twice.
    ///
    /// # Errors
    /// The number of what has no name on the way.
    fn append_path(&self, path: &mut Vec<u8>) -> Result<(), u64> {
        let mut at: Option<Arc<Inode<D>>> = None;
        loop {
            let parent = {
                let here = at.as_deref().unwrap_or(self);
                if here.number == id::ROOT {
                    break;
                }
                match here.links.read().first() {
                    Some(link) => {
                        if !path.is_empty() {
                            path.push(b'/');
                        }
                        path.extend(link.name.iter().rev());
                        link.parent.clone()
                    }
                    None => return Err(here.number),
                }
            };
            at = Some(parent);
        }
        path.reverse();
        Ok(())
    }
}

#[derive(Debug)]
struct Slot<D> {
    inode: Arc<Inode<D>>,
    lookups: u64,
}

/// How a new name relates to the ones already known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Naming {
    /// The object has one name, this one.
    Sole,
    /// One of several (a hard link).
    Another,
}

/// Number to inode.
#[derive(Debug)]
pub struct Table<D> {
    map: DashMap<u64, Slot<D>, Spread>,
    count: AtomicUsize,
    /// The most entries since the map was last made smaller.
    peak: AtomicUsize,
    departed: Departed,
    /// Is an entry to be noted there when it goes? May take an inode's own locks.
    noted: fn(&Inode<D>) -> bool,
}

/// A map that never held more than this is never made smaller.
const SMALL: usize = 8192;

/// Two different paths have the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Collision;

impl<D> Table<D> {
    /// A table that holds the root, for ever.
    pub fn new(root: D) -> Table<D> {
        let map = DashMap::with_hasher_and_shard_amount(Spread::default(), 16);
        let inode = Arc::new(Inode {
            number: id::ROOT,
            data: root,
            links: RwLock::default(),
            children: AtomicU64::new(0),
        });
        map.insert(id::ROOT, Slot { inode, lookups: 1 });
        Table {
            map,
            count: AtomicUsize::new(1),
            peak: AtomicUsize::new(1),
            departed: Departed::default(),
            noted: |_| false,
        }
    }

    /// The same; what goes and `noted` says so of is noted once notes are made.
    #[must_use]
    pub fn noting(self, noted: fn(&Inode<D>) -> bool) -> Table<D> {
        Table { noted, ..self }
    }

    /// Where objects were that it holds no longer.
    pub fn departed(&self) -> &Departed {
        &self.departed
    }

    /// The inode of a number that the kernel has been told.
    pub fn get(&self, number: u64) -> Option<Arc<Inode<D>>> {
        self.map.get(&number).map(|slot| slot.inode.clone())
    }

    /// Calls `visit` with every inode. It may take an inode's own locks, not the table's.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<Inode<D>>)) {
        for slot in &self.map {
            visit(&slot.inode);
        }
    }

    /// How many inodes there are, the root included.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts one lookup of `number`, found as `name` in `parent`, and returns its inode, made by
    /// `make` where it is new. To be called before the reply is sent: the kernel may forget the
    /// number as soon as it has it.
    ///
    /// # Errors
    /// [`Collision`] where `clashes` says that the inode known by this number is another object.
    pub fn remember(
        &self,
        number: u64,
        (parent, name): (&Arc<Inode<D>>, &[u8]),
        naming: Naming,
        make: impl FnOnce() -> D,
        clashes: impl FnOnce(&Inode<D>) -> bool,
    ) -> Result<Arc<Inode<D>>, Collision> {
        let mut dropped: Links<D> = SmallVec::new();
        let inode = match self.map.entry(number) {
            Entry::Vacant(vacant) => {
                let slot = self.make(vacant, (parent, name), make());
                slot.inode.clone()
            }
            Entry::Occupied(mut slot) => {
                if clashes(&slot.get().inode) {
                    return Err(Collision);
                }
                let slot = slot.get_mut();
                slot.lookups += 1;
                if number != id::ROOT {
                    dropped = slot.inode.add_link(parent, name, naming);
                }
                slot.inode.clone()
            }
        };
        self.release(dropped);
        Ok(inode)
    }

    /// Counts the first lookup of a number that is not known, as [`Table::remember`] does; `None`, and
    /// nothing is counted, where it is known.
    pub fn remember_new(
        &self,
        number: u64,
        (parent, name): (&Arc<Inode<D>>, &[u8]),
        make: impl FnOnce() -> D,
    ) -> Option<Arc<Inode<D>>> {
        match self.map.entry(number) {
            Entry::Vacant(vacant) => {
                let slot = self.make(vacant, (parent, name), make());
                Some(slot.inode.clone())
            }
            Entry::Occupied(_) => None,
        }
    }

    /// Takes in an object without a name that the kernel knows by this number. What is known by it
    /// stays.
    pub fn restore_nameless(&self, number: u64, data: D) {
        if let Entry::Vacant(vacant) = self.map.entry(number) {
            let inode = Arc::new(Inode {
                number,
                data,
                links: RwLock::default(),
                children: AtomicU64::new(0),
            });
            vacant.insert(Slot { inode, lookups: 1 });
            let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
            self.peak.fetch_max(count, Ordering::Relaxed);
        }
    }

    fn make<'m>(
        &self,
        vacant: VacantEntry<'m, u64, Slot<D>>,
        (parent, name): (&Arc<Inode<D>>, &[u8]),
        data: D,
    ) -> RefMut<'m, u64, Slot<D>> {
        parent.children.fetch_add(1, Ordering::Relaxed);
        let inode = Arc::new(Inode {
            number: *vacant.key(),
            data,
            links: RwLock::new(smallvec![Link {
                parent: parent.clone(),
                name: Name::from_slice(name)
            }]),
            children: AtomicU64::new(0),
        });
        let slot = vacant.insert(Slot { inode, lookups: 1 });
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(count, Ordering::Relaxed);
        slot
    }

    /// The kernel forgets `count` lookups.
    pub fn forget(&self, number: u64, count: u64) {
        let gone = self.map.remove_if_mut(&number, |_, slot| {
            slot.lookups = slot.lookups.saturating_sub(count);
            self.goes(number, slot)
        });
        if let Some((_, slot)) = gone {
            self.release(self.gone(&slot));
        }
    }

    /// Makes the map smaller once most of what it held is forgotten. True where it did: what
    /// was freed can go back to the system.
    pub fn shrink(&self) -> bool {
        let (count, peak) = (self.len(), self.peak.load(Ordering::Relaxed));
        if peak <= SMALL || count > peak / 8 {
            return false;
        }
        let mine = self
            .peak
            .compare_exchange(peak, count, Ordering::Relaxed, Ordering::Relaxed);
        if mine.is_ok() {
            self.map.shrink_to_fit();
        }
        mine.is_ok()
    }

    /// A name is gone.
    pub fn unlink(&self, inode: &Inode<D>, parent: &Inode<D>, name: &[u8]) {
        let mut links = inode.links.write();
        let Some(at) = links.iter().position(|link| link.is(parent, name)) else {
            return;
        };
        let gone = links.remove(at);
        drop(links);
        self.release(smallvec![gone]);
    }

    /// A name has become another one.
    pub fn rename(
        &self,
        inode: &Inode<D>,
        (parent, name): (&Inode<D>, &[u8]),
        (to, new): (&Arc<Inode<D>>, &[u8]),
    ) {
        let mut links = inode.links.write();
        let Some(link) = links.iter_mut().find(|link| link.is(parent, name)) else {
            return;
        };
        to.children.fetch_add(1, Ordering::Relaxed);
        let gone = std::mem::replace(
            link,
            Link {
                parent: to.clone(),
                name: Name::from_slice(new),
            },
        );
        drop(links);
        self.release(smallvec![gone]);
    }

    /// Entries name these parents no longer; the parents that nothing holds now go as well, one after
    /// the other. The last child to go, or the kernel's last lookup, finds that: both look under the
    /// shard's lock.
    fn release(&self, mut links: Links<D>) {
        while let Some(Link { parent, .. }) = links.pop() {
            if parent.children.fetch_sub(1, Ordering::Relaxed) > 1 {
                continue;
            }
            let gone = self
                .map
                .remove_if(&parent.number, |number, slot| self.goes(*number, slot));
            if let Some((_, slot)) = gone {
                links.extend(self.gone(&slot));
            }
        }
    }

    /// Does neither the kernel nor a child hold an entry? Under its shard's lock, since it is noted
    /// before it goes: it is always found, here or there.
    fn goes(&self, number: u64, slot: &Slot<D>) -> bool {
        let unused = slot.lookups == 0 && slot.inode.children.load(Ordering::Relaxed) == 0;
        let goes = number != id::ROOT && unused;
        if goes && self.departed.is_wanted() && (self.noted)(&slot.inode) {
            self.departed.note(number, slot.inode.paths());
        }
        goes
    }

    /// An entry went: the names that it had.
    fn gone(&self, slot: &Slot<D>) -> Links<D> {
        self.count.fetch_sub(1, Ordering::Relaxed);
        std::mem::take(&mut *slot.inode.links.write())
    }
}

impl<D> Inode<D> {
    /// Adds a name under the shard's lock; returns the names that it replaces.
    fn add_link(self: &Arc<Self>, parent: &Arc<Inode<D>>, name: &[u8], naming: Naming) -> Links<D> {
        let mut links = self.links.write();
        let known = links.iter().position(|link| link.is(parent, name));
        let mut dropped = SmallVec::new();
        match (known, naming) {
            (Some(at), Naming::Sole) => {
                links.swap(0, at);
                dropped.extend(links.drain(1..));
            }
            (Some(_), Naming::Another) => {}
            (None, _) => {
                if naming == Naming::Sole {
                    dropped.extend(links.drain(..));
                }
                parent.children.fetch_add(1, Ordering::Relaxed);
                links.push(Link {
                    parent: parent.clone(),
                    name: Name::from_slice(name),
                });
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &Table<()>, parent: &Arc<Inode<()>>, name: &str, n: u64) -> Arc<Inode<()>> {
        table
            .remember(n, (parent, name.as_bytes()), Naming::Sole, || (), |_| false)
            .unwrap()
    }

    #[test]
    fn forgotten_parents_live_as_long_as_their_children() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        let a = add(&table, &root, "a", 10);
        let b = add(&table, &a, "b", 11);
        table.forget(10, 1);
        assert_eq!(b.path().unwrap(), b"a/b");
        assert!(table.get(10).is_some());
        table.forget(11, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn lookups_count_and_the_root_stays() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        add(&table, &root, "a", 10);
        add(&table, &root, "a", 10);
        table.forget(10, 1);
        assert!(table.get(10).is_some());
        table.forget(10, 1);
        assert!(table.get(10).is_none());
        table.forget(id::ROOT, 99);
        assert!(table.get(id::ROOT).is_some());
    }

    #[test]
    fn only_what_is_not_known_is_counted_as_new() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        assert!(table.remember_new(10, (&root, b"a"), || ()).is_some());
        assert!(table.remember_new(10, (&root, b"b"), || ()).is_none());
        assert_eq!(table.get(10).unwrap().path().unwrap(), b"a");
        table.forget(10, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_chain_of_any_depth_goes_with_its_last_child() {
        let table = Table::new(());
        let mut at = table.get(id::ROOT).unwrap();
        let last = 50_000;
        for n in 10..=last {
            at = add(&table, &at, "d", n);
        }
        drop(at);
        for n in 10..last {
            table.forget(n, 1);
        }
        assert_eq!(table.len() as u64, last - 8);
        table.forget(last, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn renames_move_whole_trees() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        let (a, z) = (add(&table, &root, "a", 10), add(&table, &root, "z", 12));
        let b = add(&table, &a, "b", 11);
        table.rename(&a, (&root, b"a"), (&z, b"new"));
        assert_eq!(b.path().unwrap(), b"z/new/b");
        table.unlink(&b, &a, b"b");
        assert!(b.is_nameless() && b.path().is_none());
        for n in [10, 11, 12] {
            table.forget(n, 1);
        }
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn hard_links_have_several_names() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        let a = add(&table, &root, "a", 10);
        table
            .remember(10, (&root, b"b"), Naming::Another, || (), |_| false)
            .unwrap();
        assert_eq!(a.links().len(), 2);
        table.unlink(&a, &root, b"a");
        assert_eq!(a.path().unwrap(), b"b");
    }

    #[test]
    fn what_is_forgotten_is_noted_with_its_names() {
        let table = Table::new(()).noting(|inode| inode.number > 10);
        let root = table.get(id::ROOT).unwrap();
        let forgotten = |first: u64| {
            let dir = add(&table, &root, "d", first);
            add(&table, &dir, "a", first + 1);
            let another = (&root, &b"b"[..]);
            table
                .remember(first + 1, another, Naming::Another, || (), |_| false)
                .unwrap();
            table.forget(first, 1);
            table.forget(first + 1, 2);
        };
        forgotten(20);
        assert!(table.departed().paths(21).is_empty(), "nobody asked");
        table.departed().begin();
        forgotten(10);
        let paths = table.departed().paths(11);
        assert_eq!(&*paths, [b"d/a"[..].into(), b"b"[..].into()]);
        assert!(table.departed().paths(10).is_empty());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_map_that_was_large_gets_small_again() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        for n in 0..20_000 {
            add(&table, &root, &n.to_string(), n + 10);
        }
        assert!(!table.shrink());
        for n in 0..19_000 {
            table.forget(n + 10, 1);
        }
        assert!(table.shrink() && !table.shrink());
        assert_eq!(table.len(), 1001);
        assert!(table.get(19_999 + 10).is_some());
    }

    #[test]
    fn two_objects_of_one_number_are_told_apart() {
        let table = Table::new(());
        let root = table.get(id::ROOT).unwrap();
        add(&table, &root, "a", 10);
        let twice = table.remember(10, (&root, b"b"), Naming::Sole, || (), |_| true);
        assert_eq!(twice.err(), Some(Collision));
    }
}
