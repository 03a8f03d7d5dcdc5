//! Metrics of a process that serves views: the registry, its endpoint, and a view's counters in it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::shared::Shared;
use crate::fs::Root;
use crate::metrics::{
    Address, CacheFigures, Node, Registry, ServeError, Server, Source, WatchFigures,
};

/// Counters and the endpoint that tells them, until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    server: Server,
}

impl Metrics {
    /// Begins to listen, for all views that share this; `left` as for [`Server::start`].
    ///
    /// # Errors
    /// [`ServeError`]: the address is taken, or can't be used.
    pub fn start(
        address: &Address,
        shared: &Shared,
        left: Option<OwnedFd>,
    ) -> Result<Metrics, ServeError> {
        let registry = Registry::new();
        let cache = shared.cache().clone();
        registry.lookup_cache(move || {
            let counts = cache.counts();
            CacheFigures {
                hits: counts.hits,
                misses: counts.misses,
                evictions: counts.evictions,
                entries: counts.entries,
                bytes: counts.bytes,
            }
        });
        if let Some(stats) = shared.watch_stats() {
            registry.watcher(move || {
                let stats = stats();
                WatchFigures {
                    events: stats.events,
                    overflows: stats.overflows,
                    layers: stats.roots as u64,
                }
            });
        }
        let server = Server::start(address, registry.clone(), left)?;
        Ok(Metrics { registry, server })
    }

    /// Does this listen at the address?
    pub fn is_at(listener: &OwnedFd, address: &Address) -> bool {
        Server::is_at(listener, address)
    }

    /// What it listens with.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.server.listener()
    }

    /// Adds families to what is told.
    pub fn source(&self, source: impl Source + 'static) {
        self.registry.source(source);
    }

    /// A view's counters, for its [`crate::fuse::Adapter::with_metrics`]. They do not keep the view.
    pub fn node(&self, root: &Arc<Root>) -> Arc<Node> {
        let watched = Arc::downgrade(root);
        self.registry.node(root.view().name(), move || {
            watched.upgrade().map(|root| root.view().figures())
        })
    }
}
