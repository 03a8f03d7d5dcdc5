//! Where objects were that the kernel has forgotten: what it knew of them is news to a table that
//! was made before.
//!
//! Owns: the notes and their bound. Nothing is noted before the first question. Lock order: last;
//! a note is made under a shard of the inode table, so that a number is always found in one of the
//! two.

use lru::LruCache;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// So many are kept, some 150 bytes each: what was made or moved since a table was made, and more.
const MOST: usize = 4096;

type Paths = Box<[Box<[u8]>]>;

/// Numbers and the paths that they had.
#[derive(Debug)]
pub struct Departed {
    wanted: AtomicBool,
    notes: Mutex<LruCache<u64, Paths>>,
    dropped: AtomicU64,
}

impl Default for Departed {
    fn default() -> Self {
        Departed {
            wanted: AtomicBool::new(false),
            // Takes no memory before there are any.
            notes: Mutex::new(LruCache::unbounded()),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Departed {
    /// From now on notes are made. False where they were before.
    pub fn begin(&self) -> bool {
        !self.wanted.swap(true, Ordering::AcqRel)
    }

    /// Are notes made?
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    pub(super) fn note(&self, number: u64, paths: Paths) {
        let mut notes = self.notes.lock();
        notes.put(number, paths);
        if notes.len() > MOST {
            notes.pop_lru();
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The paths that a number had when it was forgotten.
    pub fn paths(&self, number: u64) -> Paths {
        let mut notes = self.notes.lock();
        notes.get(&number).cloned().unwrap_or_default()
    }

    /// Were notes dropped for want of room since this was last asked?
    pub fn take_dropped(&self) -> bool {
        self.dropped.swap(0, Ordering::AcqRel) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_told() {
        let departed = Departed::default();
        assert!(departed.begin() && !departed.begin());
        let paths = |n: u64| -> Paths { [n.to_string().into_bytes().into()].into() };
        let most = MOST as u64;
        for n in 0..most {
            departed.note(n, paths(n));
        }
        assert!(!departed.take_dropped());
        assert_eq!(departed.paths(0), paths(0));
        departed.note(most, paths(most));
        assert!(departed.take_dropped() && !departed.take_dropped());
        assert_eq!(departed.paths(0), paths(0));
        assert!(departed.paths(1).is_empty());
    }
}
