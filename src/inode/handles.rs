//! Open handles by number. A handle is a hint that saves work: every request can be served from
//! its inode alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use super::spread::Spread;

/// Handle numbers to what is open. Numbers are never used twice; 0 is nobody's.
#[derive(Debug)]
pub struct Handles<H> {
    map: DashMap<u64, Arc<H>, Spread>,
    next: AtomicU64,
}

impl<H> Default for Handles<H> {
    fn default() -> Self {
        Handles {
            map: DashMap::with_hasher_and_shard_amount(Spread::default(), 4),
            next: AtomicU64::new(1),
        }
    }
}

impl<H> Handles<H> {
    /// Keeps something open, under a number of its own.
    pub fn insert(&self, handle: H) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.map.insert(number, Arc::new(handle));
        number
    }

    /// Keeps something open under a number that another process has given it.
    pub fn insert_as(&self, number: u64, handle: H) {
        self.map.insert(number, Arc::new(handle));
    }

    /// From now on numbers are higher than this.
    pub fn go_on_from(&self, number: u64) {
        self.next.fetch_max(number + 1, Ordering::Relaxed);
    }

    /// What is open under a number.
    pub fn get(&self, number: u64) -> Option<Arc<H>> {
        self.map.get(&number).map(|handle| handle.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Is nothing open?
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Everything that is open, in no order.
    pub fn all(&self) -> Vec<Arc<H>> {
        self.map.iter().map(|handle| handle.clone()).collect()
    }

    /// Lets go of it.
    pub fn remove(&self, number: u64) -> Option<Arc<H>> {
        self.map.remove(&number).map(|(_, handle)| handle)
    }
}
