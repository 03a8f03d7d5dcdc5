//! Which path of a layer has a number: a table made by one walk of the layer, for numbers that come
//! out of file handles and that nobody remembers.
//!
//! Owns: the walk, the table, and how often the one is made anew. May not: know what a number
//! means; who asks gives each object its numbers. What the table says is a hint: names come and go,
//! so it is to be checked against the layer.
//!
//! Memory: about 40 bytes an object, no descriptor, and nothing before the first question. Of a
//! layer with more than [`MOST`] objects the table has all directories and that many files; what is
//! asked for beyond these is looked for in a walk of its own. A table that nobody uses goes.
//!
//! Lock order: `building`, then `table` or a table's `shown`, each of these alone. `building` is
//! held across the walk, and by nobody who serves requests.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::machinery::{self, Form};
use super::{Layer, is_whiteout};
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res, dir};

/// The most files that a table has.
const MOST: usize = 4 << 20;
/// A table that nobody asked for so long goes.
const IDLE: Duration = Duration::from_secs(600);
/// After a walk its layer is left alone for so many times as long as the walk took, so that a flood
/// of dead handles keeps no disk busy.
const REST: u32 = 4;
/// But no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// So many ways to show a layer (see [`Paths::find_below`]) are kept with a table.
const SHOWN: usize = 4;
/// How often who rests looks whether the question still stands.
const STEP: Duration = Duration::from_millis(20);

/// An object as the walk finds it.
#[derive(Clone, Copy, Debug)]
pub enum Walked<'a> {
    /// In a lower layer, at this path.
    Lower(&'a [u8]),
    /// In an upper, with the number that was stored with it.
    Upper(&'a Stat, Option<u64>),
}

/// Gives an object its numbers, one by one.
pub type Numbering<'n> = &'n dyn Fn(Walked<'_>, &mut dyn FnMut(u64));

/// What the walk of a layer is for.
#[derive(Clone, Copy)]
pub struct Sought<'s> {
    /// The number that is asked for.
    pub number: u64,
    /// When it was asked for: a walk that began later answers it.
    pub asked: Instant,
    /// For how long a table is good whose layer tells of no changes, and against changes that
    /// nobody tells of.
    pub lifetime: Duration,
    /// Nobody waits for the answer any more.
    pub given_up: &'s dyn Fn() -> bool,
}

/// A name, and the directory that it is in.
#[derive(Clone, Copy, Debug)]
struct Place {
    parent: u32,
    /// Where the name ends; it begins where the one before ends.
    end: u32,
}

/// Numbers in order, and what has each.
#[derive(Debug, Default)]
struct Column {
    numbers: Box<[u64]>,
    places: Box<[u32]>,
}

impl Column {
    fn new(mut pairs: Vec<(u64, u32)>) -> Column {
        pairs.sort_unstable();
        Column {
            numbers: pairs.iter().map(|(number, _)| *number).collect(),
            places: pairs.iter().map(|(_, place)| *place).collect(),
        }
    }

    fn places(&self, number: u64) -> &[u32] {
        let from = self.numbers.partition_point(|n| *n < number);
        let len = self.numbers[from..].partition_point(|n| *n == number);
        &self.places[from..from + len]
    }
}

/// The numbers behind a prefix.
type Shown = (Box<[u8]>, Arc<Column>);

/// The table.
#[derive(Debug)]
pub struct Paths {
    places: Vec<Place>,
    names: Vec<u8>,
    column: Column,
    /// By the prefix.
    shown: Mutex<Vec<Shown>>,
    /// Not all files are in it; the one that was asked for is.
    partial: Option<u64>,
    /// Why some part of the layer could not be looked at.
    incomplete: Option<Errno>,
    began: Instant,
    /// [`Slot::changes`] before the walk.
    changes: u64,
    used: Mutex<Instant>,
}

impl Paths {
    /// The paths in the layer of what has this number.
    pub fn find(&self, number: u64) -> Vec<Vec<u8>> {
        self.paths_of(self.column.places(number))
    }

    /// The same by what `number_of` makes of each path put behind `prefix`: where a view shows the
    /// layer besides its own paths. The first question takes a moment for each object.
    pub fn find_below(
        &self,
        prefix: &[u8],
        number: u64,
        number_of: impl Fn(&[u8]) -> u64,
    ) -> Vec<Vec<u8>> {
        let mut shown = self.shown.lock();
        let column = match shown.iter().find(|(known, _)| **known == *prefix) {
            Some((_, column)) => column.clone(),
            None => {
                let column = Arc::new(self.column_below(prefix, number_of));
                if shown.len() >= SHOWN {
                    shown.remove(0);
                }
                shown.push((prefix.into(), column.clone()));
                column
            }
        };
        drop(shown);
        let paths = self.paths_of(column.places(number)).into_iter();
        paths.map(|path| [prefix, &path].concat()).collect()
    }

    fn column_below(&self, prefix: &[u8], number_of: impl Fn(&[u8]) -> u64) -> Column {
        let mut pairs = Vec::with_capacity(self.places.len());
        // Names of one directory lie side by side.
        let (mut dir, mut path) = (u32::MAX, Vec::new());
        let mut base = 0;
        for at in 1..self.places.len() as u32 {
            let parent = self.places[at as usize].parent;
            if parent != dir {
                dir = parent;
                path = [prefix, &self.path(parent)].concat();
                if parent != 0 {
                    path.push(b'/');
                }
                base = path.len();
            }
            path.truncate(base);
            path.extend_from_slice(self.name(at));
            pairs.push((number_of(&path), at));
        }
        Column::new(pairs)
    }

    fn paths_of(&self, places: &[u32]) -> Vec<Vec<u8>> {
        *self.used.lock() = Instant::now();
        places.iter().map(|place| self.path(*place)).collect()
    }

    fn name(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let begin = if at == 0 { 0 } else { self.places[at - 1].end };
        &self.names[begin as usize..self.places[at].end as usize]
    }

    fn path(&self, mut at: u32) -> Vec<u8> {
        let mut names = Vec::new();
        while at != 0 {
            names.push(self.name(at));
            at = self.places[at as usize].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Why it lacks a part of the layer, where it does.
    pub fn incomplete(&self) -> Option<Errno> {
        self.incomplete
    }

    /// How many objects are in it.
    pub fn len(&self) -> usize {
        self.places.len() - 1
    }

    /// Is the layer empty?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A layer's table, where there is one.
#[derive(Debug, Default)]
pub(super) struct Slot {
    table: Mutex<Option<Arc<Paths>>>,
    /// When the last walk ended and how long it took.
    building: Mutex<Option<(Instant, Duration)>>,
    /// Rises when names changed in a way that the table's user can't make up for.
    changes: AtomicU64,
}

impl Slot {
    fn is_good(&self, table: &Paths, sought: &Sought<'_>) -> bool {
        if table.began >= sought.asked {
            return true;
        }
        table.changes == self.changes.load(Ordering::Acquire)
            && table.began.elapsed() < sought.lifetime
            && table.partial.is_none_or(|known| known == sought.number)
            && table.incomplete.is_none()
    }
}

impl Layer {
    /// Names came or went, and the table of paths does not know.
    pub fn names_changed(&self) {
        self.paths.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was said.
    pub fn name_changes(&self) -> u64 {
        self.paths.changes.load(Ordering::Acquire)
    }

    /// The table as it is now, good or not.
    pub fn paths(&self) -> Option<Arc<Paths>> {
        self.paths.table.lock().clone()
    }

    /// Makes the table where it is not there or may lack what is sought. `None`: it is good as it is.
    /// Returns after a rest where the last walk was a moment ago.
    ///
    /// # Errors
    /// What listing the layer's root answers; `ESTALE` where nobody waits any more.
    pub fn renew_paths(
        &self,
        sought: &Sought<'_>,
        number: Numbering<'_>,
    ) -> Res<Option<Arc<Paths>>> {
        let good = || {
            let table = self.paths();
            table.filter(|table| self.paths.is_good(table, sought))
        };
        if good().is_some() {
            return Ok(None);
        }
        let mut last = self.paths.building.lock();
        // Somebody else may have made it meanwhile: then it is news for who asks.
        if let Some(table) = good() {
            return Ok(Some(table));
        }
        if let Some((ended, took)) = *last {
            let rest = (took * REST).min(LONGEST_REST);
            while ended.elapsed() < rest {
                if (sought.given_up)() {
                    return Err(Errno::STALE);
                }
                std::thread::sleep(STEP.min(rest));
            }
        }
        let began = Instant::now();
        let made = self.walk(sought, number, MOST);
        *last = Some((Instant::now(), began.elapsed()));
        let table = Arc::new(made?);
        tracing::debug!(
            layer = self.spec.label, objects = table.len(), took = ?began.elapsed(),
            "walked, to find what file handles stand for"
        );
        *self.paths.table.lock() = Some(table.clone());
        Ok(Some(table))
    }

    /// Lets go of a table that nobody asks.
    pub(super) fn let_go_of_idle_paths(&self) {
        let mut table = self.paths.table.lock();
        if table
            .as_ref()
            .is_some_and(|table| table.used.lock().elapsed() > IDLE)
        {
            *table = None;
        }
    }

    fn walk(&self, sought: &Sought<'_>, number: Numbering<'_>, most: usize) -> Res<Paths> {
        let began = Instant::now();
        let mut made = Paths {
            // The root.
            places: vec![Place { parent: 0, end: 0 }],
            names: Vec::new(),
            column: Column::default(),
            shown: Mutex::default(),
            partial: None,
            incomplete: None,
            began,
            changes: self.paths.changes.load(Ordering::Acquire),
            used: Mutex::new(began),
        };
        let mut pairs = Vec::new();
        let mut dirs = vec![0u32];
        let form = self.form();
        while let Some(dir) = dirs.pop() {
            if (sought.given_up)() {
                return Err(Errno::STALE);
            }
            let at = made.path(dir);
            let listed = self
                .open(&at, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|fd| Ok((dir::list(&fd)?, fd)));
            let (entries, fd) = match listed {
                Ok(listed) => listed,
                // Gone since it was seen, or a litetree that does not exist.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(e) if at.is_empty() => return Err(e),
                Err(e) => {
                    self.not_looked_at(&at, e);
                    made.incomplete = Some(e);
                    continue;
                }
            };
            let prefix = match at.is_empty() {
                true => Vec::new(),
                false => [&at[..], b"/"].concat(),
            };
            for entry in entries {
                let found = match self.look(&fd, &entry, form) {
                    Ok(Some(found)) => found,
                    // Not looked for, or gone since it was listed.
                    Ok(None) | Err(Errno::NOENT) => continue,
                    Err(e) => {
                        self.not_looked_at(&at, e);
                        made.incomplete = Some(e);
                        continue;
                    }
                };
                let place = made.places.len() as u32;
                let before = pairs.len();
                let mut put = |number| pairs.push((number, place));
                match &found {
                    Look::Lower(_) => {
                        number(
                            Walked::Lower(&[&prefix[..], &entry.name].concat()),
                            &mut put,
                        );
                    }
                    Look::Upper(stat, stored) => number(Walked::Upper(stat, *stored), &mut put),
                    // Shown only where the upper is shown as it is.
                    Look::Machinery => {}
                }
                let is_sought = pairs[before..].iter().any(|(n, _)| *n == sought.number);
                if !found.is_dir() && made.places.len() > most && !is_sought {
                    pairs.truncate(before);
                    made.partial = Some(sought.number);
                    continue;
                }
                made.names.extend_from_slice(&entry.name);
                let end = u32::try_from(made.names.len()).map_err(|_| Errno::NOMEM)?;
                made.places.push(Place { parent: dir, end });
                if found.is_dir() {
                    dirs.push(place);
                }
            }
        }
        made.places.shrink_to_fit();
        made.names.shrink_to_fit();
        made.column = Column::new(pairs);
        Ok(made)
    }

    /// The numbers that are stored with what lies below a directory of an upper.
    ///
    /// # Errors
    /// What looking at any of it answers.
    pub fn numbers_below(&self, dir: &[u8]) -> Res<Vec<u64>> {
        let (mut numbers, mut dirs, form) = (Vec::new(), vec![dir.to_vec()], self.form());
        while let Some(at) = dirs.pop() {
            let fd = self.open(&at, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for entry in dir::list(&fd)? {
                if let Some(Look::Upper(stat, stored)) = self.look(&fd, &entry, form)? {
                    numbers.extend(stored);
                    if stat.is_dir() {
                        dirs.push([&at[..], b"/", &entry.name].concat());
                    }
                }
            }
        }
        Ok(numbers)
    }

    fn not_looked_at(&self, dir: &[u8], error: Errno) {
        tracing::warn!(
            layer = self.spec.label, path = %String::from_utf8_lossy(dir), %error,
            "can't be read: file handles of what may lie there get no answer"
        );
    }

    /// What the walk needs to know of a name; `None` where it is the daemon's own.
    fn look(&self, dir: &OwnedFd, entry: &dir::RawEntry, form: Form) -> Res<Option<Look>> {
        if !self.is_upper() {
            let kind = match entry.kind {
                0 => obj::stat_name(dir, &entry.name)?.kind(),
                kind => kind,
            };
            return Ok(Some(Look::Lower(kind == libc::S_IFDIR)));
        }
        if entry.name.starts_with(machinery::OURS) {
            return Ok(None);
        }
        if machinery::is_ours(&entry.name, form) {
            return Ok(Some(Look::Machinery));
        }
        let stat = obj::stat_name(dir, &entry.name)?;
        if is_whiteout(&stat) {
            return Ok(Some(Look::Machinery));
        }
        let stored = self.stored_number_of_name(dir.as_fd(), &entry.name, &stat)?;
        Ok(Some(Look::Upper(Box::new(stat), stored)))
    }
}

/// A name in a directory of a layer.
enum Look {
    /// In a lower layer; is it a directory?
    Lower(bool),
    Upper(Box<Stat>, Option<u64>),
    Machinery,
}

impl Look {
    fn is_dir(&self) -> bool {
        match self {
            Look::Lower(is_dir) => *is_dir,
            Look::Upper(stat, _) => stat.is_dir(),
            Look::Machinery => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::layer::tests::spec;

    fn lower(base: &std::path::Path) -> Layer {
        Layer::new(spec(base, None))
    }

    fn by_path(walked: Walked<'_>, put: &mut dyn FnMut(u64)) {
        match walked {
            Walked::Lower(path) => put(xxh3_64(path)),
            Walked::Upper(..) => panic!("it is no upper"),
        }
    }

    fn sought(path: &str) -> Sought<'static> {
        Sought {
            number: xxh3_64(path.as_bytes()),
            asked: Instant::now(),
            lifetime: Duration::MAX,
            given_up: &|| false,
        }
    }

    #[test]
    fn every_path_is_found_by_its_number_and_below_a_prefix() {
        let top = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "b/a", "b/c", "b/c/x", "d"];
        for dir in ["b", "b/c"] {
            std::fs::create_dir(top.path().join(dir)).unwrap();
        }
        for file in ["a", "b/a", "b/c/x", "d"] {
            std::fs::write(top.path().join(file), "").unwrap();
        }
        let layer = lower(top.path());
        let mut first = sought("a");
        let table = layer.renew_paths(&first, &by_path).unwrap().unwrap();
        assert_eq!(table.len(), paths.len());
        for path in paths {
            let number = xxh3_64(path.as_bytes());
            assert_eq!(table.find(number), [path.as_bytes()]);
            let below = format!("up/{path}");
            let number = xxh3_64(below.as_bytes());
            assert!(table.find(number).is_empty());
            assert_eq!(
                table.find_below(b"up/", number, xxh3_64),
                [below.as_bytes()]
            );
        }
        // Good until something is said to have changed.
        first.asked = Instant::now();
        assert!(layer.renew_paths(&first, &by_path).unwrap().is_none());
        layer.names_changed();
        std::fs::write(top.path().join("new"), "").unwrap();
        let table = layer
            .renew_paths(&sought("new"), &by_path)
            .unwrap()
            .unwrap();
        assert_eq!(table.find(xxh3_64(b"new")), [b"new"]);
    }

    #[test]
    fn of_more_than_there_is_room_for_what_is_asked_for_is_found() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("dir")).unwrap();
        for n in 0..50 {
            std::fs::write(top.path().join(format!("dir/{n}")), "").unwrap();
        }
        let layer = lower(top.path());
        for n in 0..50 {
            let path = format!("dir/{n}");
            let sought = sought(&path);
            let table = layer.walk(&sought, &by_path, 10).unwrap();
            assert_eq!(table.find(sought.number), [path.as_bytes()]);
            assert!(table.len() <= 11);
            // It is good for this number alone.
            let later = |number| Sought {
                number,
                asked: Instant::now(),
                ..sought
            };
            assert!(layer.paths.is_good(&table, &later(sought.number)));
            assert!(!layer.paths.is_good(&table, &later(1)));
        }
    }

    #[test]
    fn who_is_not_waited_for_walks_no_further() {
        let top = tempfile::tempdir().unwrap();
        let layer = lower(top.path());
        let given_up = Sought {
            given_up: &|| true,
            ..sought("a")
        };
        let result = layer.renew_paths(&given_up, &by_path);
        assert_eq!(result.map(|_| ()), Err(Errno::STALE));
    }
}
