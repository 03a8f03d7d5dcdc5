//! Which names kernels may hold as absent for as long as nobody says otherwise, by their directory
//! in a view. Kept for all views together, since all look for the same names: a kernel does not
//! say which absences it holds, and some can be taken from it only one by one.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

type Dirs = HashMap<Box<[u8]>, HashSet<Box<[u8]>>>;

/// So many locks.
const SHARDS: usize = 16;

#[derive(Debug)]
pub(super) struct Absences {
    shards: [Mutex<Dirs>; SHARDS],
    count: AtomicUsize,
    limit: usize,
}

impl Absences {
    pub(super) fn new(limit: usize) -> Absences {
        Absences {
            shards: Default::default(),
            count: AtomicUsize::new(0),
            limit,
        }
    }

    fn shard(&self, dir: &[u8]) -> &Mutex<Dirs> {
        &self.shards[xxh3_64(dir) as usize % SHARDS]
    }

    /// Notes a name. False where no more can be kept: then it may be believed for a while only.
    pub(super) fn note(&self, dir: &[u8], name: &[u8]) -> bool {
        let mut dirs = self.shard(dir).lock();
        if dirs.get(dir).is_some_and(|names| names.contains(name)) {
            return true;
        }
        if self.count.load(Ordering::Relaxed) >= self.limit {
            return false;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        dirs.entry(dir.into()).or_default().insert(name.into());
        true
    }

    /// The names noted in a directory.
    pub(super) fn of(&self, dir: &[u8]) -> Vec<Box<[u8]>> {
        let dirs = self.shard(dir).lock();
        let names = dirs.get(dir).into_iter().flatten();
        names.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_noted_once_and_up_to_a_limit() {
        let absences = Absences::new(2);
        assert!(absences.note(b"d", b"a") && absences.note(b"d", b"a"));
        assert!(absences.note(b"", b"a"));
        assert!(!absences.note(b"d", b"b"));
        assert!(absences.note(b"d", b"a"));
        assert_eq!(absences.of(b"d"), [b"a"[..].into()]);
        assert!(absences.of(b"e").is_empty());
    }
}
