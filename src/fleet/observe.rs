//! Metrics of a process that serves views: the registry, its endpoint, and a view's counters in it.

use std::sync::Arc;

use crate::fs::Root;
use crate::metrics::{Address, Node, Registry, ServeError, Server};

/// Counters and the endpoint that tells them, until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    _server: Server,
}

impl Metrics {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`ServeError`]: the address is taken, or can't be used.
    pub fn start(address: &Address) -> Result<Metrics, ServeError> {
        let registry = Registry::new();
        let _server = Server::start(address, registry.clone())?;
        Ok(Metrics { registry, _server })
    }

    /// What other parts add their numbers to.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A view's counters, for its [`crate::fuse::Adapter::with_metrics`]. They do not keep the view.
    pub fn node(&self, root: &Arc<Root>) -> Arc<Node> {
        let watched = Arc::downgrade(root);
        self.registry.node(root.view().name(), move || {
            watched.upgrade().map(|root| root.view().figures())
        })
    }
}
