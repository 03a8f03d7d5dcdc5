//! LOOKUP of "." and "..": the kernel decodes a file handle whose object it has forgotten
//! (fs/fuse/inode.c, fuse_get_dentry and fuse_get_parent), and asks for it by its number. What the
//! inode table does not hold either is looked for: where it was when it was forgotten
//! (`inode::departed`), in the layers' tables of paths (`layer::paths`), among what only rules call
//! for. Whatever these say is a guess at a path: it counts once the ordinary look-up of that path has
//! come to an object with that number.
//!
//! A number is given up once every layer that may have it was walked and no name there has changed
//! since. Walks take their time: whoever serves requests asks [`View::by_known_handle`] first, and
//! leaves the rest to another thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::lookup::{MAX_SALT, numbers_of};
use super::node::Srcs;
use super::resolve::{Here, Outcome, join};
use super::{Entry, Inode, View};
use crate::inode::id;
use crate::layer::paths::{Paths, Sought, Walked};
use crate::rules::ZoneKind;
use crate::sys::obj;
use crate::sys::{Errno, Res};

/// For how long a walk of an upper is good against changes that did not come through the view.
const UPPER_LIFETIME: Duration = Duration::from_secs(60);
/// How often all is looked through again because something moved meanwhile.
const TRIES: usize = 4;

/// Where layers show besides their own paths: behind `prefix`, which ends in a slash.
#[derive(Debug)]
pub(super) struct Shown {
    prefix: Box<[u8]>,
    layers: SmallVec<[u8; 4]>,
}

/// Is it news to the tables where this was when the kernel forgot it? What lies in a lower layer
/// under its own number they have.
pub(super) fn is_news(inode: &Inode) -> bool {
    if !id::is_of_path(inode.number) {
        return true;
    }
    {
        let state = inode.data.state.read();
        if state.kind != libc::S_IFDIR && state.backing.is_none() {
            return true;
        }
    }
    let moved = |path: Vec<u8>| {
        id::of_path(&path, 0) != inode.number || obj::is_at_or_below(&path, b".statelite")
    };
    inode.path().is_some_and(moved)
}

/// May an object be somewhere else, as far as this answer tells?
fn is_elsewhere(error: Errno) -> bool {
    matches!(
        error,
        Errno::STALE | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG
    )
}

impl View {
    /// The object with a number ("."), or its directory (".."); the reply counts as a lookup. Asked
    /// for at `asked`.
    ///
    /// # Errors
    /// `ESTALE` where there is none; `EIO` where a layer that may have it is missing.
    pub fn by_handle(&self, number: u64, name: &[u8], asked: Instant) -> Res<Entry> {
        match self.by_known_handle(number, name) {
            Err(error) if is_elsewhere(error) => {}
            known => return known,
        }
        let entry = self.find(number, asked)?;
        if name == b"." {
            return Ok(entry);
        }
        let above = self.by_known_handle(number, name);
        self.forget(number, 1);
        above
    }

    /// Is this number in memory?
    pub fn knows(&self, number: u64) -> bool {
        self.held.inodes.get(number).is_some()
    }

    /// As [`View::by_handle`], of what is in memory: takes no longer than any look-up.
    ///
    /// # Errors
    /// `ESTALE`, `ENOENT` and the like where it is not, or not where it was.
    pub fn by_known_handle(&self, number: u64, name: &[u8]) -> Res<Entry> {
        let inode = self.held.inodes.get(number).ok_or(Errno::STALE)?;
        if name == b"." {
            return self.again(&inode);
        }
        let links = inode.links();
        match links.first() {
            Some(link) => self.again(&link.parent),
            None if number == id::ROOT => self.again(&inode),
            None => Err(Errno::STALE),
        }
    }

    /// Nobody waits for answers any more: who looks for a number gives up.
    pub fn end(&self) {
        self.held.ended.store(true, Ordering::Release);
    }

    /// Counts one more lookup of a known inode.
    fn again(&self, inode: &Arc<Inode>) -> Res<Entry> {
        let here = self.object(inode)?;
        if inode.number == id::ROOT {
            return Ok(self.entry_of(&here));
        }
        let links = inode.links();
        let is_it = |path: Option<Vec<u8>>, name: &[u8]| {
            path.is_some_and(|path| join(&path, name) == here.path)
        };
        // The name by which it was just found; others may be gone.
        let link = links
            .iter()
            .find(|link| is_it(link.parent.path(), &link.name))
            .ok_or(Errno::STALE)?;
        self.enter_as(&link.parent, &link.name, *here, inode.number)
    }

    /// Looks for a number that is not in memory.
    fn find(&self, number: u64, asked: Instant) -> Res<Entry> {
        if self.held.inodes.departed().begin() {
            // What was forgotten until now was not noted.
            self.uppers_changed();
        }
        let mut asked = asked;
        for _ in 0..TRIES {
            let before = self.changes();
            let mut missing = None;
            if let Some(entry) = self.search(number, &mut missing) {
                return Ok(entry);
            }
            for at in self.layers_with(number) {
                match self.renew(at, number, asked) {
                    Ok(false) => {}
                    Ok(true) => {
                        if let Some(entry) = self.search(number, &mut missing) {
                            return Ok(entry);
                        }
                    }
                    Err(error) => missing = Some(error),
                }
                let table = self.layer(at).paths();
                missing = missing.or(table.and_then(|table| table.incomplete()));
            }
            if let Some(error) = missing {
                // It may be there, once its layer is.
                return Err(error);
            }
            if self.changes() == before {
                break;
            }
            asked = Instant::now();
        }
        tracing::debug!(view = self.name, number, "a file handle of what is gone");
        Err(Errno::STALE)
    }

    /// What changed in layers so far, in a number that is another one after every change.
    fn changes(&self) -> u64 {
        if self.held.inodes.departed().take_dropped() {
            // There was no room to note where everything was.
            self.uppers_changed();
        }
        let changes = self.layers.iter().map(|layer| layer.name_changes());
        changes.fold(0, u64::wrapping_add)
    }

    fn uppers_changed(&self) {
        for layer in self.layers.iter().filter(|layer| layer.is_upper()) {
            layer.names_changed();
        }
    }

    /// The layers in which something with a number may lie, those first that have the most.
    fn layers_with(&self, number: u64) -> Srcs {
        let lower = id::is_of_path(number);
        let of = |uppers: bool| {
            let all = self.layers.iter().enumerate();
            all.filter(move |(_, layer)| layer.is_upper() == uppers)
                .map(|(at, _)| super::Src {
                    layer: at as u8,
                    default: false,
                })
        };
        of(false).filter(|_| lower).chain(of(true)).collect()
    }

    /// Has a layer walked again where its table may lack a number; true where the table is new.
    fn renew(&self, src: super::Src, number: u64, asked: Instant) -> Res<bool> {
        let layer = self.layer(src);
        let lifetime = match layer.is_upper() {
            true => UPPER_LIFETIME,
            false if layer.is_watched() => Duration::MAX,
            // The view may have shown what came a moment ago.
            false => Duration::ZERO,
        };
        let number_of = |walked: Walked<'_>, put: &mut dyn FnMut(u64)| match walked {
            Walked::Lower(path) => {
                put(id::of_path(path, 0));
                if let Some(moved) = moved_away(path) {
                    put(id::of_path(moved, 0));
                }
            }
            Walked::Upper(stat, stored) => {
                put(stored.unwrap_or_else(|| self.own_number(src.layer, stat)));
            }
        };
        let sought = Sought {
            number,
            asked,
            lifetime,
            given_up: &|| self.held.ended.load(Ordering::Acquire),
        };
        match layer.renew_paths(&sought, &number_of) {
            Ok(table) => Ok(table.is_some()),
            // A litetree that does not exist.
            Err(Errno::NOENT) => Ok(false),
            Err(error) => {
                tracing::debug!(view = self.name, layer = layer.spec().label, %error, "not walked");
                Err(error)
            }
        }
    }

    /// Looks where a number may be by what is known now. What keeps a guess from being looked at is
    /// put into `missing`.
    fn search(&self, number: u64, missing: &mut Option<Errno>) -> Option<Entry> {
        let mut found = None;
        let mut look = |path: &[u8]| {
            match self.at_path(number, path) {
                Ok(entry) => found = Some(entry),
                Err(error) if is_elsewhere(error) => {}
                Err(error) => *missing = Some(error),
            }
            found.is_some()
        };
        self.guess(number, &mut look);
        found
    }

    /// Calls `look` with each path that an object with a number may have in the view, until it
    /// says that it is the one.
    fn guess(&self, number: u64, look: &mut dyn FnMut(&[u8]) -> bool) {
        let noted = self.held.inodes.departed().paths(number);
        if noted.iter().any(|path| look(path)) {
            return;
        }
        let tables: SmallVec<[(u8, Arc<Paths>); 4]> = self
            .layers_with(number)
            .iter()
            .filter_map(|src| Some((src.layer, self.layer(*src).paths()?)))
            .collect();
        for (at, table) in &tables {
            let salts = match self.layer_is_upper(*at) {
                true => 1,
                false => MAX_SALT,
            };
            let paths = (0..salts).flat_map(|salt| table.find(id::unsalted(number, salt)));
            for path in paths {
                let moved = moved_away(&path);
                if look(&path) || moved.is_some_and(&mut *look) || self.look_below(*at, &path, look)
                {
                    return;
                }
            }
        }
        if !id::is_of_path(number) || self.guess_rules(number, look) {
            return;
        }
        for shown in self.shown_behind() {
            let of_it = tables.iter().filter(|(at, _)| shown.layers.contains(at));
            for (_, table) in of_it {
                let number_of = |path: &[u8]| id::of_path(path, 0);
                for salt in 0..MAX_SALT {
                    let number = id::unsalted(number, salt);
                    let paths = table.find_below(&shown.prefix, number, number_of);
                    if paths.iter().any(|path| look(path)) {
                        return;
                    }
                }
            }
        }
    }

    /// What a layer has at a path, wherever else the view shows it: a number of an upper's own does
    /// not tell.
    fn look_below(&self, layer: u8, path: &[u8], look: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let upper = self.layer_is_upper(layer);
        let shown = self.shown_behind().iter();
        let mut shown = shown.filter(|shown| upper && shown.layers.contains(&layer));
        shown.any(|shown| look(&[&shown.prefix, path].concat()))
    }

    /// What is there only because rules call for it: their own paths, and what leads to them.
    fn guess_rules(&self, number: u64, look: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let is_it = |path: &[u8]| numbers_of(path).any(|salted| salted == number);
        let mut last = Vec::new();
        for zone in self.rules.zones() {
            let path = self.rules.path(zone);
            let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
            let ends = ends.map(|(end, _)| end).chain([path.len()]);
            for end in ends {
                // Rules that lie side by side have most of their way in common.
                let known = last.len() >= end && last[..end] == path[..end];
                if !known && is_it(&path[..end]) && look(&path[..end]) {
                    return true;
                }
            }
            last = path;
        }
        is_it(b"etc/mtab") && look(b"etc/mtab")
    }

    fn shown_behind(&self) -> &[Shown] {
        self.shown.get_or_init(|| {
            let mut all: Vec<Shown> = Vec::new();
            let mut default = false;
            for zone in self.rules.zones() {
                match zone.kind {
                    ZoneKind::Mirror(_) | ZoneKind::Lite(_) => {}
                    // There may be as many of these as there are rules, all alike.
                    ZoneKind::Default if !std::mem::replace(&mut default, true) => {}
                    _ => continue,
                }
                let path = self.rules.path(zone);
                let below = zone.layer_path(&path).len();
                if below == path.len() {
                    continue;
                }
                let mut prefix = path[..path.len() - below].to_vec();
                if !prefix.ends_with(b"/") {
                    prefix.push(b'/');
                }
                let known = all.iter().position(|shown| *shown.prefix == *prefix);
                let at = known.unwrap_or_else(|| {
                    all.push(Shown {
                        prefix: prefix.into(),
                        layers: SmallVec::new(),
                    });
                    all.len() - 1
                });
                for src in self.stack(zone) {
                    if !all[at].layers.contains(&src.layer) {
                        all[at].layers.push(src.layer);
                    }
                }
            }
            all.into()
        })
    }

    /// Looks a path up name by name, and counts a lookup of what is there if it has this number.
    ///
    /// # Errors
    /// `ESTALE`, `ENOENT` or `ENOTDIR` where it is not there.
    pub(super) fn at_path(&self, number: u64, path: &[u8]) -> Res<Entry> {
        let (above, last) = obj::split(path);
        let mut way: SmallVec<[Arc<Inode>; 8]> = SmallVec::new();
        way.push(self.inode(id::ROOT)?);
        let found = (|| {
            for name in above.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
                let parent = &way[way.len() - 1];
                let (dir, inode) = match self.resolve(&self.dir(parent)?, name)? {
                    Outcome::Here(here) => {
                        let is_dir = here.kind() == libc::S_IFDIR;
                        (is_dir, self.enter(parent, name, *here)?.1)
                    }
                    Outcome::Absent { .. } => return Err(Errno::NOENT),
                };
                way.push(inode);
                if !dir {
                    return Err(Errno::NOTDIR);
                }
            }
            let parent = &way[way.len() - 1];
            match self.resolve(&self.dir(parent)?, last)? {
                Outcome::Here(here) if self.has_number(&here, number) => {
                    self.enter_as(parent, last, *here, number)
                }
                Outcome::Here(_) => Err(Errno::STALE),
                Outcome::Absent { .. } => Err(Errno::NOENT),
            }
        })();
        // What was found keeps its parents.
        for inode in way[1..].iter().rev() {
            self.forget(inode.number, 1);
        }
        found
    }

    /// Is this the object that a number stands for? A path may have had a salted one.
    fn has_number(&self, here: &Here, number: u64) -> bool {
        let first = here.attr.number;
        let is_its = first == number
            || first == id::of_path(&here.path, 0)
                && numbers_of(&here.path)
                    .skip(1)
                    .any(|salted| salted == number);
        is_its && !self.is_taken(here, number)
    }
}

/// Where an image that liteimg rewrote shows what lies at a path of it. In another it is a guess
/// in vain.
fn moved_away(path: &[u8]) -> Option<&[u8]> {
    path.strip_prefix(b".default/")
}

#[cfg(test)]
mod tests {
    use rustix::fs::RenameFlags;

    use super::*;
    use crate::fs::OpenHow;
    use crate::fs::tests::{ME, ROOT, plain};

    /// Opened by its handle, and forgotten again.
    fn find(view: &View, number: u64) -> Res<()> {
        let entry = view.by_handle(number, b".", Instant::now())?;
        assert_eq!(entry.attr.number, number);
        view.forget(number, 1);
        assert_eq!(view.inode_count(), 1, "what is forgotten is not kept");
        Ok(())
    }

    #[test]
    fn what_is_below_a_moved_directory_that_nobody_remembers() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |_| ());
        let made = |parent, name: &[u8]| view.mkdir(parent, name, 0o755, 0, ME).unwrap();
        let (a, z) = (made(ROOT, b"a").attr.number, made(ROOT, b"z").attr.number);
        let below = made(a, b"below").attr.number;
        for number in [below, a, z] {
            view.forget(number, 1);
        }
        // From now on there is a table.
        find(&view, below).unwrap();
        let (a, z) = (view.lookup(ROOT, b"a").unwrap(), view.lookup(ROOT, b"z"));
        let z = z.unwrap().attr.number;
        view.rename((ROOT, b"a"), (z, b"b"), RenameFlags::empty())
            .unwrap();
        view.forget(a.attr.number, 1);
        view.forget(z, 1);
        find(&view, below).unwrap();
        let above = view.by_handle(below, b"..", Instant::now()).unwrap();
        assert_eq!(above.attr.number, a.attr.number);
        view.forget(above.attr.number, 1);
        assert_eq!(view.inode_count(), 1);
        assert_eq!(find(&view, 1 << 63 | 5), Err(Errno::STALE));
    }

    #[test]
    fn a_salted_number_is_found_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let low = dir.path().join("lower/f");
        let view = plain(dir.path(), |_| std::fs::write(&low, "old").unwrap());
        let old = view.lookup(ROOT, b"f").unwrap().attr.number;
        let how = OpenHow::from_raw(libc::O_RDONLY);
        let handle = view.open(old, how, ME).unwrap();
        std::fs::write(dir.path().join("lower/n"), "new").unwrap();
        std::fs::rename(dir.path().join("lower/n"), &low).unwrap();
        let new = view.lookup(ROOT, b"f").unwrap().attr.number;
        assert_ne!(old, new);
        view.release(handle);
        view.forget(old, 1);
        view.forget(new, 1);
        for number in [old, new, old] {
            find(&view, number).unwrap();
        }
        std::fs::remove_file(&low).unwrap();
        for number in [old, new] {
            assert_eq!(find(&view, number), Err(Errno::STALE));
        }
    }

    #[test]
    fn another_name_of_what_lost_the_one_it_was_known_by() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |_| ());
        let how = OpenHow::from_raw(libc::O_WRONLY);
        let (entry, handle) = view.create(ROOT, b"a", 0o644, 0, how, ME).unwrap();
        let number = entry.attr.number;
        view.release(handle);
        view.forget(number, 1);
        find(&view, number).unwrap();
        // A second name, which neither the table has nor, in the end, a note.
        view.lookup(ROOT, b"a").unwrap();
        view.link(number, ROOT, b"b").unwrap();
        view.forget(number, 2);
        view.lookup(ROOT, b"a").unwrap();
        view.forget(number, 1);
        view.lookup(ROOT, b"a").unwrap();
        view.unlink(ROOT, b"a").unwrap();
        // While it is still known, and once it is not.
        let entry = view.by_handle(number, b".", Instant::now()).unwrap();
        assert_eq!(entry.attr.number, number);
        view.forget(number, 2);
        find(&view, number).unwrap();
        view.lookup(ROOT, b"b").unwrap();
        view.unlink(ROOT, b"b").unwrap();
        view.forget(number, 1);
        assert_eq!(find(&view, number), Err(Errno::STALE));
    }

    #[test]
    fn who_is_not_waited_for_gets_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| {
            std::fs::write(lower.join("f"), "").unwrap()
        });
        view.end();
        assert!(find(&view, id::of_path(b"f", 0)).is_err());
    }
}
