//! The hot path: what lower layers were found to have, and not to have, shared by all views.
//!
//! Owns: facts about paths in layers, the bytes that they take, and which of them make room for
//! others. May not: do I/O, know of views, rules or what a layer is beyond its number.
//!
//! A fact is good until it is forgotten: only what is told of every change may be kept here. A
//! change may come while a fact is being found out, so a miss hands out a [`Ticket`], and what is
//! put in with it is dropped if anything was forgotten meanwhile.
//!
//! A [`Listing`] is put together from facts and has shards of its own. Its ticket is drawn before the
//! facts are looked at, and where something is forgotten, facts go before listings: what was put
//! together from an older fact meets either a void ticket, or the forgetting itself.
//!
//! Lock order: one shard at a time, nothing else is locked under it.

mod absent;
mod listing;
mod shard;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use crate::sys::obj::{Stat, is_at_or_below, split};
use absent::Absences;
pub use listing::{Listing, ListingBuilder, ListingEntry};
pub use shard::Ticket;
use shard::{About, Key, Shard};

/// A layer's number: no two layers of a process have the same, not even one after the other.
pub type LayerId = u32;

/// What a path is in a layer.
#[derive(Clone, Debug)]
pub enum Fact {
    /// Nothing.
    Absent,
    /// A device that hides what is below it.
    Whiteout,
    /// An object.
    Object(Object),
}

/// An object, as far as it can be told without opening it.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its attributes.
    pub stat: Stat,
    /// A directory that hides what is below it.
    pub opaque: bool,
    /// A symlink's target.
    pub target: Option<Arc<[u8]>>,
}

/// One name in a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name {
    /// The name.
    pub name: Box<[u8]>,
    /// `S_IFMT` bits, 0 where unknown.
    pub kind: u32,
    /// Hides the name in lower layers.
    pub whiteout: bool,
}

/// A directory's names.
pub type Names = Arc<[Name]>;

#[derive(Clone, Debug)]
enum Value {
    Fact(Fact),
    Names(Names),
    Listing(Arc<Listing>),
}

/// What is remembered or not.
#[derive(Debug)]
pub enum Lookup<T> {
    /// It is known.
    Hit(T),
    /// It is not; what is found out can be put in with this.
    Miss(Ticket),
}

/// Counts since the start, and what is held now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Answered from memory.
    pub hits: u64,
    /// Not known.
    pub misses: u64,
    /// Left out to make room.
    pub evictions: u64,
    /// Forgotten because a layer changed.
    pub forgotten: u64,
    /// Facts held.
    pub entries: u64,
    /// Bytes held.
    pub bytes: u64,
    /// The most bytes that may be held.
    pub limit: u64,
}

/// The facts of all layers.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    listings: Box<[Mutex<Shard>]>,
    absent: Absences,
    /// One bit for each object that was ever looked at, by a hash: most changes that are told by
    /// an object alone are of objects that no layer has.
    seen: Box<[AtomicU64]>,
    limit: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// So many locks; a power of two.
const SHARDS: usize = 32;

/// So many for listings: few, so that each has room for a large one.
const LISTING_SHARDS: usize = 8;

/// Of all bytes, listings may take one in so many.
const LISTING_SHARE: usize = 4;

/// The names that kernels may hold as absent without end are at most so many.
const ABSENCES: usize = 1 << 18;

/// Words of the table of objects that were seen; a power of two.
const SEEN: usize = 1 << 18;

impl Cache {
    /// An empty cache that holds at most so many bytes.
    pub fn new(limit: usize) -> Cache {
        let shards = |count: usize, limit: usize| {
            let shard = |_| Mutex::new(Shard::new(limit / count));
            (0..count).map(shard).collect()
        };
        let for_listings = limit / LISTING_SHARE;
        Cache {
            shards: shards(SHARDS, limit - for_listings),
            listings: shards(LISTING_SHARDS, for_listings),
            absent: Absences::new(ABSENCES),
            // A cache that keeps nothing is told of nothing.
            seen: (0..if limit == 0 { 1 } else { SEEN })
                .map(|_| AtomicU64::new(0))
                .collect(),
            limit,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What is known of a path in a layer.
    pub fn fact(&self, layer: LayerId, path: &[u8]) -> Lookup<Fact> {
        self.get(key(layer, path, About::Itself), path, |value| match value {
            Value::Fact(fact) => Some(fact.clone()),
            _ => None,
        })
    }

    /// The same of what may be known, for one who has no use for a ticket: that it was asked for
    /// keeps it no longer.
    pub fn peek(&self, layer: LayerId, path: &[u8]) -> Option<Fact> {
        let key = key(layer, path, About::Itself);
        match self.shard(key.hash).lock().peek(key, path)? {
            Value::Fact(fact) => Some(fact.clone()),
            _ => None,
        }
    }

    /// The names in a directory of a layer.
    pub fn names(&self, layer: LayerId, path: &[u8]) -> Lookup<Names> {
        self.get(key(layer, path, About::Names), path, |value| match value {
            Value::Names(names) => Some(names.clone()),
            _ => None,
        })
    }

    /// What the names in a directory of a layer are. A miss counts as none: it is answered from facts.
    pub fn listing(&self, layer: LayerId, path: &[u8]) -> Lookup<Arc<Listing>> {
        let key = key(layer, path, About::Listing);
        let mut shard = self.listing_shard(key.hash).lock();
        if let Some(Value::Listing(listing)) = shard.get(key, path) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Lookup::Hit(listing.clone());
        }
        Lookup::Miss(shard.ticket())
    }

    fn get<T>(&self, key: Key, path: &[u8], of: impl Fn(&Value) -> Option<T>) -> Lookup<T> {
        let mut shard = self.shard(key.hash).lock();
        if let Some(found) = shard.get(key, path).and_then(of) {
            drop(shard);
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Lookup::Hit(found);
        }
        let ticket = shard.ticket();
        drop(shard);
        self.misses.fetch_add(1, Ordering::Relaxed);
        Lookup::Miss(ticket)
    }

    /// Keeps what was found out after a miss.
    pub fn put_fact(&self, layer: LayerId, path: &[u8], fact: Fact, ticket: Ticket) {
        if let Fact::Object(Object { stat, .. }) = &fact {
            let (word, bit) = self.bit(stat.dev, stat.ino);
            word.fetch_or(bit, Ordering::Relaxed);
        }
        let cost = match &fact {
            Fact::Object(object) => object.target.as_ref().map_or(0, |target| target.len() + 16),
            Fact::Absent | Fact::Whiteout => 0,
        };
        let key = key(layer, path, About::Itself);
        let mut shard = self.shard(key.hash).lock();
        shard.put(key, path, Value::Fact(fact), cost, ticket);
    }

    /// Keeps a directory's names, read after a miss.
    pub fn put_names(&self, layer: LayerId, path: &[u8], names: Names, ticket: Ticket) {
        let cost = names
            .iter()
            .map(|name| size_of::<Name>() + name.name.len() + 8)
            .sum::<usize>();
        let key = key(layer, path, About::Names);
        let mut shard = self.shard(key.hash).lock();
        shard.put(key, path, Value::Names(names), cost, ticket);
    }

    /// Is there room for a listing of a directory with so many names?
    pub fn has_room_for_listing(&self, path: &[u8], names: usize) -> bool {
        let shard = self.listing_shard(hash(path)).lock();
        shard.has_room(path, Listing::least_bytes(names))
    }

    /// Keeps a listing, put together after a miss.
    pub fn put_listing(&self, layer: LayerId, path: &[u8], listing: Arc<Listing>, ticket: Ticket) {
        let cost = listing.bytes();
        let key = key(layer, path, About::Listing);
        let mut shard = self.listing_shard(key.hash).lock();
        shard.put(key, path, Value::Listing(listing), cost, ticket);
    }

    /// Something happened to an object: what is known of it is void.
    pub fn forget(&self, layer: LayerId, path: &[u8]) {
        let itself = key(layer, path, About::Itself);
        let names = Key {
            about: About::Names,
            ..itself
        };
        self.shard(itself.hash).lock().forget([itself, names]);
        self.forget_listing(layer, path);
        if !path.is_empty() {
            self.forget_listing(layer, split(path).0);
        }
    }

    fn forget_listing(&self, layer: LayerId, path: &[u8]) {
        let key = key(layer, path, About::Listing);
        self.listing_shard(key.hash).lock().forget([key]);
    }

    /// Something happened to a whole subtree, its top included.
    pub fn forget_below(&self, layer: LayerId, top: &[u8]) {
        self.forget_where(layer, |path, _| is_at_or_below(path, top));
        if !top.is_empty() {
            self.forget_listing(layer, split(top).0);
        }
    }

    /// Something happened to an object that may have other names.
    pub fn forget_object(&self, layer: LayerId, dev: u64, ino: u64) {
        self.forget_where(layer, |_, value| match value {
            Value::Fact(Fact::Object(object)) => (object.stat.dev, object.stat.ino) == (dev, ino),
            Value::Listing(listing) => listing.has(dev, ino),
            Value::Fact(_) | Value::Names(_) => false,
        });
    }

    /// Nothing of a layer is certain any more.
    pub fn forget_layer(&self, layer: LayerId) {
        self.forget_where(layer, |_, _| true);
    }

    fn forget_where(&self, layer: LayerId, which: impl Fn(&[u8], &Value) -> bool) {
        for shard in self.shards.iter().chain(&self.listings) {
            shard.lock().forget_where(layer, &which);
        }
    }

    /// Was this object ever found in a layer? True for a few that were not.
    pub fn has_seen(&self, dev: u64, ino: u64) -> bool {
        let (word, bit) = self.bit(dev, ino);
        word.load(Ordering::Relaxed) & bit != 0
    }

    fn bit(&self, dev: u64, ino: u64) -> (&AtomicU64, u64) {
        let hash = xxh3_64([dev.to_ne_bytes(), ino.to_ne_bytes()].as_flattened());
        let word = (hash >> 6) as usize % self.seen.len();
        (&self.seen[word], 1 << (hash & 63))
    }

    /// A kernel is about to be told that a view's directory (by its path) lacks a name, until it
    /// is told otherwise. False where it must not be: the name could not be noted.
    pub fn note_absent(&self, dir: &[u8], name: &[u8]) -> bool {
        self.absent.note(dir, name)
    }

    /// The names that some kernel may hold as absent in a directory of a view.
    pub fn absent_in(&self, dir: &[u8]) -> Vec<Box<[u8]>> {
        self.absent.of(dir)
    }

    /// How it does.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            limit: self.limit as u64,
            ..Counts::default()
        };
        for shard in self.shards.iter().chain(&self.listings) {
            shard.lock().count(&mut counts);
        }
        counts
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    fn listing_shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.listings[(hash >> 40) as usize % LISTING_SHARDS]
    }
}

fn key(layer: LayerId, path: &[u8], about: About) -> Key {
    let hash = hash(path);
    Key { hash, layer, about }
}

fn hash(path: &[u8]) -> u64 {
    xxh3_64(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(size: u64) -> Fact {
        let stat = Stat {
            size,
            dev: 7,
            ino: size,
            ..Stat::default()
        };
        Fact::Object(Object {
            stat,
            opaque: false,
            target: None,
        })
    }

    fn put(cache: &Cache, layer: LayerId, path: &[u8], fact: Fact) {
        let Lookup::Miss(ticket) = cache.fact(layer, path) else {
            return;
        };
        cache.put_fact(layer, path, fact, ticket);
    }

    fn size(cache: &Cache, layer: LayerId, path: &[u8]) -> Option<u64> {
        match cache.fact(layer, path) {
            Lookup::Hit(Fact::Object(object)) => Some(object.stat.size),
            Lookup::Hit(_) => Some(0),
            Lookup::Miss(_) => None,
        }
    }

    #[test]
    fn facts_are_kept_by_layer_and_path() {
        let cache = Cache::new(1 << 20);
        put(&cache, 1, b"etc/motd", object(1));
        put(&cache, 2, b"etc/motd", object(2));
        put(&cache, 1, b"etc/none", Fact::Absent);
        assert_eq!(size(&cache, 1, b"etc/motd"), Some(1));
        assert_eq!(size(&cache, 2, b"etc/motd"), Some(2));
        assert!(matches!(
            cache.fact(1, b"etc/none"),
            Lookup::Hit(Fact::Absent)
        ));
        assert_eq!(size(&cache, 2, b"etc/none"), None);
        cache.forget(1, b"etc/motd");
        assert_eq!(size(&cache, 1, b"etc/motd"), None);
        assert_eq!(size(&cache, 2, b"etc/motd"), Some(2));
    }

    #[test]
    fn what_was_found_before_a_change_is_not_kept_after_it() {
        let cache = Cache::new(1 << 20);
        let Lookup::Miss(ticket) = cache.fact(1, b"a") else {
            panic!("an empty cache knew something");
        };
        cache.forget(1, b"a");
        cache.put_fact(1, b"a", object(1), ticket);
        assert_eq!(size(&cache, 1, b"a"), None);
        // A subtree, and a whole layer, likewise.
        for forget in [
            (|cache: &Cache| cache.forget_below(1, b"d")) as fn(&Cache),
            |cache| cache.forget_layer(1),
            |cache| cache.forget_object(1, 7, 1),
        ] {
            let Lookup::Miss(ticket) = cache.fact(1, b"d/e") else {
                panic!("it knew something");
            };
            forget(&cache);
            cache.put_fact(1, b"d/e", object(1), ticket);
            assert_eq!(size(&cache, 1, b"d/e"), None);
        }
    }

    #[test]
    fn a_subtree_is_forgotten_with_its_top_and_nothing_beside_it() {
        let cache = Cache::new(1 << 20);
        for path in [&b"d"[..], b"d/e", b"d/e/f", b"de", b"c/d"] {
            put(&cache, 1, path, object(3));
        }
        cache.forget_below(1, b"d");
        let left = [&b"d"[..], b"d/e", b"d/e/f", b"de", b"c/d"]
            .map(|path| size(&cache, 1, path).is_some());
        assert_eq!(left, [false, false, false, true, true]);
        cache.forget_below(1, b"");
        assert_eq!(cache.counts().entries, 0);
    }

    fn listing(ino: u64) -> Arc<Listing> {
        let stat = Stat {
            dev: 7,
            ino,
            ..Stat::default()
        };
        let mut builder = Listing::builder(1);
        builder.push(ListingEntry {
            cookie: 9,
            number: 9,
            name: b"e",
            stat: &stat,
        });
        Arc::new(builder.finish())
    }

    #[test]
    fn a_listing_goes_with_any_fact_that_it_is_made_of() {
        let cache = Cache::new(1 << 20);
        let is_kept = || matches!(cache.listing(1, b"d"), Lookup::Hit(_));
        for forget in [
            (|cache: &Cache| cache.forget(1, b"d/e")) as fn(&Cache),
            |cache| cache.forget(1, b"d"),
            |cache| cache.forget_below(1, b"d/e"),
            |cache| cache.forget_below(1, b""),
            |cache| cache.forget_object(1, 7, 5),
            |cache| cache.forget_layer(1),
        ] {
            let Lookup::Miss(ticket) = cache.listing(1, b"d") else {
                panic!("it knew something");
            };
            cache.put_listing(1, b"d", listing(5), ticket);
            assert!(is_kept());
            forget(&cache);
            assert!(!is_kept());
            // What was put together from older facts is not kept afterwards.
            cache.put_listing(1, b"d", listing(5), ticket);
            assert!(!is_kept());
        }
        let Lookup::Miss(ticket) = cache.listing(1, b"d") else {
            panic!("it knew something");
        };
        cache.put_listing(1, b"d", listing(5), ticket);
        cache.forget(1, b"d/e/below");
        cache.forget(1, b"de");
        cache.forget(2, b"d/e");
        cache.forget_object(1, 7, 6);
        assert!(is_kept());
    }

    #[test]
    fn listings_take_their_share_and_no_more() {
        let limit = 1 << 20;
        let cache = Cache::new(limit);
        for n in 0..20_000 {
            let path = format!("dir/{n}").into_bytes();
            let Lookup::Miss(ticket) = cache.listing(1, &path) else {
                panic!("it knew something");
            };
            assert!(cache.has_room_for_listing(&path, 1));
            cache.put_listing(1, &path, listing(n), ticket);
            assert!(cache.counts().bytes <= (limit / LISTING_SHARE) as u64);
        }
        assert!(cache.counts().entries > 300);
        assert!(!cache.has_room_for_listing(b"large", limit / 1000));
        cache.forget_layer(1);
        assert_eq!((cache.counts().bytes, cache.counts().entries), (0, 0));
    }

    #[test]
    fn an_object_that_was_found_is_known_as_seen_also_when_its_fact_is_gone() {
        let cache = Cache::new(1 << 20);
        assert!(!cache.has_seen(7, 5));
        put(&cache, 1, b"a", object(5));
        cache.forget(1, b"a");
        assert!(cache.has_seen(7, 5));
    }

    #[test]
    fn other_names_of_an_object_are_forgotten() {
        let cache = Cache::new(1 << 20);
        put(&cache, 1, b"a", object(5));
        put(&cache, 1, b"b", object(5));
        put(&cache, 1, b"c", object(6));
        cache.forget_object(1, 7, 5);
        assert_eq!(size(&cache, 1, b"a"), None);
        assert_eq!(size(&cache, 1, b"b"), None);
        assert_eq!(size(&cache, 1, b"c"), Some(6));
    }

    #[test]
    fn it_never_holds_more_than_it_may_and_keeps_what_is_used() {
        let limit = 1 << 20;
        let cache = Cache::new(limit);
        for n in 0..20_000u32 {
            put(&cache, 1, b"kept", object(1));
            put(
                &cache,
                1,
                format!("dir/{n}").as_bytes(),
                object(u64::from(n)),
            );
            assert!(cache.counts().bytes <= limit as u64);
        }
        let counts = cache.counts();
        assert!(counts.evictions > 0 && counts.entries > 500, "{counts:?}");
        assert_eq!(size(&cache, 1, b"kept"), Some(1));
        assert_eq!(size(&cache, 1, b"dir/0"), None);
        assert_eq!(size(&cache, 1, b"dir/19999"), Some(19_999));
        // The bytes are those of what is there: all forgotten, none are left.
        cache.forget_layer(1);
        assert_eq!((cache.counts().bytes, cache.counts().entries), (0, 0));
    }

    #[test]
    fn what_is_larger_than_a_shard_is_not_kept() {
        let cache = Cache::new(32 * 1024);
        let names: Names = (0..1000)
            .map(|n| Name {
                name: format!("{n}").into_bytes().into(),
                kind: 0,
                whiteout: false,
            })
            .collect();
        let Lookup::Miss(ticket) = cache.names(1, b"big") else {
            panic!("an empty cache knew something");
        };
        cache.put_names(1, b"big", names, ticket);
        assert!(matches!(cache.names(1, b"big"), Lookup::Miss(_)));
        assert_eq!(cache.counts().bytes, 0);
    }
}
