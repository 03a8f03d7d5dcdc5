//! Other parts' families, written when somebody asks.

use super::text::{Kind, Text};

/// Writes families of its own. It is called from the endpoint's threads, by several at once, and
/// must not wait for requests.
pub trait Source: Send + Sync {
    /// Writes all of them, also those at 0, so that a graph has no holes.
    fn collect(&self, text: &mut Text);
}

impl<F: Fn(&mut Text) + Send + Sync> Source for F {
    fn collect(&self, text: &mut Text) {
        self(text);
    }
}

/// The lookup cache's counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheFigures {
    /// Lookups that it answered.
    pub hits: u64,
    /// Lookups that it could not answer.
    pub misses: u64,
    /// Entries that had to go for others.
    pub evictions: u64,
    /// Entries that it has now.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

impl CacheFigures {
    pub(super) fn write(&self, text: &mut Text) {
        let mut counter = |name, help, n: u64| text.single(name, Kind::Counter, help, n);
        counter(
            "statelite_lookup_cache_hits_total",
            "Lookups in lower layers that the shared cache answered.",
            self.hits,
        );
        counter(
            "statelite_lookup_cache_misses_total",
            "Lookups in lower layers that the shared cache could not answer.",
            self.misses,
        );
        counter(
            "statelite_lookup_cache_evictions_total",
            "Entries of the shared cache that had to go for others.",
            self.evictions,
        );
        let mut gauge = |name, help, n: u64| text.single(name, Kind::Gauge, help, n);
        gauge(
            "statelite_lookup_cache_entries",
            "Entries in the shared cache.",
            self.entries,
        );
        gauge(
            "statelite_lookup_cache_bytes",
            "Memory that the shared cache's entries take.",
            self.bytes,
        );
    }
}

/// The watcher's counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WatchFigures {
    /// Changes that the kernel told of.
    pub events: u64,
    /// Times that it had to drop some, so that all was looked at again.
    pub overflows: u64,
    /// Layers that are watched now.
    pub layers: u64,
}

impl WatchFigures {
    pub(super) fn write(&self, text: &mut Text) {
        text.single(
            "statelite_watch_events_total",
            Kind::Counter,
            "Changes in layers that the kernel told of.",
            self.events,
        );
        text.single(
            "statelite_watch_overflows_total",
            Kind::Counter,
            "Times that the kernel's queue of changes overflowed.",
            self.overflows,
        );
        text.single(
            "statelite_watched_layers",
            Kind::Gauge,
            "Layers that are watched for changes.",
            self.layers,
        );
    }
}
