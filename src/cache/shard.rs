//! One part of the cache, under one lock: facts by the hash of their path, in the order of use.

use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use super::{Counts, LayerId, Value};

/// What is known of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum About {
    /// What it is.
    Itself,
    /// Which names a directory has.
    Names,
    /// What its names are.
    Listing,
}

/// What is asked for: the path by its hash, and compared in full when it is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key {
    pub(super) hash: u64,
    pub(super) layer: LayerId,
    pub(super) about: About,
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One path is in few layers.
        let salt = (u64::from(self.layer) << 2 | self.about as u64) << 20;
        state.write_u64(self.hash ^ salt);
    }
}

/// The key is a hash already.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Debug)]
struct Entry {
    path: Box<[u8]>,
    value: Value,
    cost: usize,
}

/// Says what had been forgotten of a shard when something was found to be missing there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket(u64);

/// What an entry takes besides its path and what its value points to: its node in the list, its
/// place in the table (a pointer and a byte of control at a load of 7/8), the allocations' heads.
const OVERHEAD: usize = size_of::<Key>() + size_of::<Entry>() + 2 * 8 + 2 * 10 + 2 * 8;

#[derive(Debug)]
pub(super) struct Shard {
    entries: LruCache<Key, Entry, BuildHasherDefault<AsIs>>,
    bytes: usize,
    limit: usize,
    /// How often something was forgotten.
    changes: u64,
    evictions: u64,
    forgotten: u64,
}

impl Shard {
    pub(super) fn new(limit: usize) -> Shard {
        Shard {
            entries: LruCache::unbounded_with_hasher(BuildHasherDefault::default()),
            bytes: 0,
            limit,
            changes: 0,
            evictions: 0,
            forgotten: 0,
        }
    }

    pub(super) fn get(&mut self, key: Key, path: &[u8]) -> Option<&Value> {
        let entry = self.entries.get(&key)?;
        (*entry.path == *path).then_some(&entry.value)
    }

    /// As [`Shard::get`], without a change of the order.
    pub(super) fn peek(&self, key: Key, path: &[u8]) -> Option<&Value> {
        let entry = self.entries.peek(&key)?;
        (*entry.path == *path).then_some(&entry.value)
    }

    /// Is there room for something of this path that takes so many bytes?
    pub(super) fn has_room(&self, path: &[u8], cost: usize) -> bool {
        OVERHEAD + path.len() + cost <= self.limit
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.changes)
    }

    pub(super) fn put(&mut self, key: Key, path: &[u8], value: Value, cost: usize, at: Ticket) {
        if at != self.ticket() || !self.has_room(path, cost) {
            return;
        }
        let cost = OVERHEAD + path.len() + cost;
        let entry = Entry {
            path: path.into(),
            value,
            cost,
        };
        self.bytes += cost;
        if let Some(before) = self.entries.put(key, entry) {
            self.bytes -= before.cost;
        }
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= oldest.cost;
            self.evictions += 1;
        }
    }

    pub(super) fn forget<const N: usize>(&mut self, keys: [Key; N]) {
        self.changes += 1;
        for key in keys {
            self.drop_entry(&key);
        }
    }

    pub(super) fn forget_where(
        &mut self,
        layer: LayerId,
        mut which: impl FnMut(&[u8], &Value) -> bool,
    ) {
        self.changes += 1;
        let gone: Vec<Key> = self
            .entries
            .iter()
            .filter(|(key, entry)| key.layer == layer && which(&entry.path, &entry.value))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.drop_entry(&key);
        }
    }

    fn drop_entry(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= entry.cost;
            self.forgotten += 1;
        }
    }

    pub(super) fn count(&self, counts: &mut Counts) {
        counts.entries += self.entries.len() as u64;
        counts.bytes += self.bytes as u64;
        counts.evictions += self.evictions;
        counts.forgotten += self.forgotten;
    }
}
