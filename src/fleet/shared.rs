//! What the views of a process share: layers by what and where they are, and the cache of what
//! lower layers were found to have.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::cache::Cache;
use crate::layer::{Layer, LayerSpec};

/// Shared by all views of a process.
#[derive(Debug)]
pub struct Shared {
    cache: Arc<Cache>,
    layers: Mutex<HashMap<LayerSpec, Weak<Layer>>>,
}

impl Shared {
    /// With a cache of at most so many bytes.
    pub fn new(cache_bytes: usize) -> Shared {
        Shared {
            cache: Arc::new(Cache::new(cache_bytes)),
            layers: Mutex::default(),
        }
    }

    /// For views that are asked and never mounted.
    pub fn for_a_look() -> Shared {
        Shared::new(0)
    }

    /// The layer that is this, made where no view has it yet.
    pub fn layer(&self, spec: LayerSpec) -> Arc<Layer> {
        if let Some(layer) = self.layers.lock().get(&spec).and_then(Weak::upgrade) {
            return layer;
        }
        // Looking for it may take as long as its store does: not under the lock.
        let made = Arc::new(Layer::new(spec.clone()));
        let mut layers = self.layers.lock();
        if let Some(layer) = layers.get(&spec).and_then(Weak::upgrade) {
            return layer;
        }
        layers.retain(|_, layer| layer.strong_count() > 0);
        layers.insert(spec, Arc::downgrade(&made));
        made
    }

    /// Are changes in layers told of, where their file systems can?
    pub fn is_watching(&self) -> bool {
        false
    }

    /// What lower layers were found to have.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }
}
