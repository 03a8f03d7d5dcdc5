//! Shuttle's locks and atomics under the names, and with the parts, that the inode table uses of
//! parking_lot and dashmap. Whatever waits or is shared is a point at which shuttle may go on with
//! another thread.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::{Deref, DerefMut};

pub use shuttle::sync::atomic;
use shuttle::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// Without poisoning, as parking_lot's.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap()
    }
}

/// The same.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

type Shard<K, V> = RwLock<HashMap<K, V>>;

/// A map of shards, each with a lock that its guards hold.
pub struct DashMap<K, V, S> {
    shards: Box<[Shard<K, V>]>,
    hasher: S,
}

impl<K, V, S> fmt::Debug for DashMap<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DashMap")
    }
}

impl<K: Copy + Eq + Hash, V, S: BuildHasher> DashMap<K, V, S> {
    pub fn with_hasher_and_shard_amount(hasher: S, shards: usize) -> Self {
        let shards = (0..shards).map(|_| RwLock::new(HashMap::new())).collect();
        DashMap { shards, hasher }
    }

    fn shard(&self, key: &K) -> &Shard<K, V> {
        &self.shards[(self.hasher.hash_one(key) >> 40) as usize % self.shards.len()]
    }

    pub fn insert(&self, key: K, value: V) -> Option<V> {
        self.shard(&key).write().insert(key, value)
    }

    pub fn get(&self, key: &K) -> Option<mapref::Ref<'_, K, V>> {
        let shard = self.shard(key).read();
        let key = *key;
        shard
            .contains_key(&key)
            .then_some(mapref::Ref { shard, key })
    }

    pub fn entry(&self, key: K) -> mapref::entry::Entry<'_, K, V> {
        let shard = self.shard(&key).write();
        let there = shard.contains_key(&key);
        let at = mapref::one::RefMut { shard, key };
        match there {
            true => mapref::entry::Entry::Occupied(at),
            false => mapref::entry::Entry::Vacant(mapref::entry::VacantEntry(at)),
        }
    }

    pub fn remove_if(&self, key: &K, goes: impl FnOnce(&K, &V) -> bool) -> Option<(K, V)> {
        self.remove_if_mut(key, |key, value| goes(key, value))
    }

    pub fn remove_if_mut(&self, key: &K, goes: impl FnOnce(&K, &mut V) -> bool) -> Option<(K, V)> {
        let mut shard = self.shard(key).write();
        match shard.get_mut(key).map(|value| goes(key, value)) {
            Some(true) => shard.remove_entry(key),
            _ => None,
        }
    }

    pub fn shrink_to_fit(&self) {}
}

impl<'m, K: Copy + Eq + Hash, V, S> IntoIterator for &'m DashMap<K, V, S> {
    type Item = mapref::Ref<'m, K, V>;
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'm>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.shards.iter().flat_map(|shard| {
            let keys: Vec<K> = shard.read().keys().copied().collect();
            let at = move |key| {
                let shard = shard.read();
                shard
                    .contains_key(&key)
                    .then_some(mapref::Ref { shard, key })
            };
            keys.into_iter().filter_map(at)
        }))
    }
}

/// Guards of one value each, which hold its shard's lock.
pub mod mapref {
    use super::*;

    pub struct Ref<'m, K, V> {
        pub(super) shard: RwLockReadGuard<'m, HashMap<K, V>>,
        pub(super) key: K,
    }

    impl<K: Eq + Hash, V> Deref for Ref<'_, K, V> {
        type Target = V;

        fn deref(&self) -> &V {
            &self.shard[&self.key]
        }
    }

    pub mod one {
        use super::*;

        pub struct RefMut<'m, K, V> {
            pub(in crate::sync) shard: RwLockWriteGuard<'m, HashMap<K, V>>,
            pub(in crate::sync) key: K,
        }

        impl<K: Eq + Hash, V> RefMut<'_, K, V> {
            pub fn get(&self) -> &V {
                self
            }

            pub fn get_mut(&mut self) -> &mut V {
                self
            }
        }

        impl<K: Eq + Hash, V> Deref for RefMut<'_, K, V> {
            type Target = V;

            fn deref(&self) -> &V {
                &self.shard[&self.key]
            }
        }

        impl<K: Eq + Hash, V> DerefMut for RefMut<'_, K, V> {
            fn deref_mut(&mut self) -> &mut V {
                self.shard.get_mut(&self.key).unwrap()
            }
        }
    }

    pub mod entry {
        use super::one::RefMut;
        use super::*;

        pub enum Entry<'m, K, V> {
            Occupied(RefMut<'m, K, V>),
            Vacant(VacantEntry<'m, K, V>),
        }

        pub struct VacantEntry<'m, K, V>(pub(in crate::sync) RefMut<'m, K, V>);

        impl<'m, K: Copy + Eq + Hash, V> VacantEntry<'m, K, V> {
            pub fn key(&self) -> &K {
                &self.0.key
            }

            pub fn insert(mut self, value: V) -> RefMut<'m, K, V> {
                self.0.shard.insert(self.0.key, value);
                self.0
            }
        }
    }
}
