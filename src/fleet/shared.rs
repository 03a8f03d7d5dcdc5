//! What the views of a process share: layers by what and where they are, the cache of what lower
//! layers were found to have, and the watch over them.
//!
//! Owns: one thread that looks once a second for what no event tells: layers that were missing or
//! could not be watched, and stores that went or came back; and for descriptors that idle.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::live::{Attached, Hub};
use crate::cache::Cache;
use crate::config::Config;
use crate::fs::Root;
use crate::fuse::Notifier;
use crate::layer::{Layer, LayerSpec};
use crate::pool::Pool;
use crate::watch::{self, NotWatched, Watcher};

/// How often what no event tells of is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Shared by all views of a process.
#[derive(Debug)]
pub struct Shared {
    state: Arc<State>,
    /// Dropped, it ends the thread.
    _ticker: Option<Sender<()>>,
}

struct State {
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    watcher: Option<Watcher>,
    layers: Mutex<HashMap<LayerSpec, Known>>,
    /// Stores that are being looked at, each by one thread.
    looking: Mutex<HashSet<PathBuf>>,
    lookers: Pool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A layer and what is known of watching it.
#[derive(Debug)]
struct Known {
    layer: Weak<Layer>,
    /// Why it is not watched; `None` where it is, and for an upper.
    refused: Option<NotWatched>,
    /// It was missing when it was last looked for.
    missing: bool,
}

impl Shared {
    /// For views that are to be mounted, as the configuration has it.
    pub fn new(config: &Config) -> Shared {
        let cache = Arc::new(Cache::new(
            usize::try_from(config.cache_size).unwrap_or(usize::MAX),
        ));
        let hub = Arc::new(Hub::new(cache.clone()));
        let watcher = match config.watch.then(|| Watcher::start(hub.clone())) {
            Some(Ok(watcher)) => Some(watcher),
            Some(Err(error)) => {
                tracing::warn!(
                    %error,
                    lifetime = ?config.cache_lifetime,
                    "changes in layers can't be watched: what was found is believed for cache_lifetime"
                );
                None
            }
            None => None,
        };
        let state = Arc::new(State {
            cache,
            hub,
            watcher,
            layers: Mutex::default(),
            looking: Mutex::default(),
            lookers: Pool::default(),
        });
        let ticker = start_ticker(&state);
        Shared {
            state,
            _ticker: ticker,
        }
    }

    /// For views that are asked and never mounted.
    pub fn for_a_look() -> Shared {
        let cache = Arc::new(Cache::new(0));
        let hub = Arc::new(Hub::new(cache.clone()));
        Shared {
            state: Arc::new(State {
                cache,
                hub,
                watcher: None,
                layers: Mutex::default(),
                looking: Mutex::default(),
                lookers: Pool::default(),
            }),
            _ticker: None,
        }
    }

    /// The layer that is this, made where no view has it yet.
    pub fn layer(&self, spec: LayerSpec) -> Arc<Layer> {
        let state = &self.state;
        let known = |layers: &HashMap<LayerSpec, Known>| {
            layers.get(&spec).and_then(|known| known.layer.upgrade())
        };
        if let Some(layer) = known(&state.layers.lock()) {
            return layer;
        }
        // Looking for it may take as long as its store does: not under the lock.
        let made = Arc::new(Layer::new(spec.clone()));
        let mut layers = state.layers.lock();
        if let Some(layer) = known(&layers) {
            return layer;
        }
        layers.retain(|_, known| known.layer.strong_count() > 0);
        layers.insert(
            spec,
            Known {
                layer: Arc::downgrade(&made),
                refused: None,
                missing: false,
            },
        );
        drop(layers);
        state.watch(&made);
        made
    }

    /// What lower layers were found to have.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.state.cache
    }

    /// Are changes in layers told of, where their file systems can?
    pub fn is_watching(&self) -> bool {
        self.state.watcher.is_some()
    }

    /// A view was mounted: its kernel side is told of changes until what is returned is dropped.
    pub fn attach(&self, root: Arc<Root>, point: PathBuf, notifier: Notifier) -> Attached {
        self.state.hub.attach(root, point, notifier)
    }

    /// Calls `tell` at any change in a directory that is no layer.
    ///
    /// # Errors
    /// Why it can't be watched.
    pub fn watch_dir(
        &self,
        dir: &Path,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> Result<(), NotWatched> {
        let watcher = self.state.watcher.as_ref().ok_or(NotWatched::Ended)?;
        let root = watcher.watch(dir)?;
        self.state.hub.add_other(root, Box::new(tell));
        Ok(())
    }

    /// Why a lower layer is not watched; `None` where it is.
    pub fn not_watched(&self, layer: &Layer) -> Option<String> {
        if layer.is_upper() || layer.is_watched() {
            return None;
        }
        let layers = self.state.layers.lock();
        let refused = layers
            .get(layer.spec())
            .and_then(|known| known.refused.as_ref().map(ToString::to_string));
        Some(refused.unwrap_or_else(|| match self.is_watching() {
            true => "it is not there".into(),
            false => "watching is off".into(),
        }))
    }

    /// Returns once everything that happened in layers before the call has been passed on, and all
    /// kernel sides have been told. What a request that is being answered brings to a kernel's
    /// caches meanwhile may be older.
    pub fn settle(&self) {
        if let Some(watcher) = &self.state.watcher {
            watcher.settle();
        }
        self.state.hub.settle();
    }

    /// Tells what the watcher has seen, as long as there is one.
    pub fn watch_stats(&self) -> Option<impl Fn() -> watch::Stats + Send + Sync + use<>> {
        let state = Arc::downgrade(&self.state);
        self.is_watching().then_some(move || {
            let state = state.upgrade();
            let watcher = state.as_ref().and_then(|state| state.watcher.as_ref());
            watcher.map(Watcher::stats).unwrap_or_default()
        })
    }
}

impl State {
    /// Begins to watch a lower layer; false where it can't be.
    fn watch(&self, layer: &Arc<Layer>) -> bool {
        let Some(watcher) = self.watcher.as_ref().filter(|_| !layer.is_upper()) else {
            return false;
        };
        let missing = layer.missing().is_some();
        let watched = match missing {
            true => Ok(false),
            false => watcher.watch(&layer.spec().base).map(|root| {
                // What is asked from now on is the directory that is watched, not one that was
                // there before.
                layer.look_again();
                self.hub.add_layer(root, layer)
            }),
        };
        let mut layers = self.layers.lock();
        let Some(known) = layers.get_mut(layer.spec()) else {
            return false;
        };
        known.missing = missing;
        match watched {
            Ok(watched) => {
                known.refused = None;
                watched
            }
            Err(refused) => {
                if known.refused.as_ref() != Some(&refused) {
                    tracing::info!(
                        layer = layer.spec().label, path = %layer.spec().base.display(),
                        why = %refused, "not watched: changes show within cache_lifetime"
                    );
                }
                known.refused = Some(refused);
                false
            }
        }
    }

    /// Gives back what nobody uses, and looks for what no event tells of.
    fn tick(self: &Arc<Self>) {
        let layers: Vec<(Arc<Layer>, bool)> = {
            let layers = self.layers.lock();
            let all = layers.values();
            all.filter_map(|known| Some((known.layer.upgrade()?, known.missing)))
                .collect()
        };
        for (layer, _) in &layers {
            layer.let_go_idle();
        }
        self.hub.let_go_idle();
        let Some(watcher) = &self.watcher else {
            return;
        };
        for root in self.hub.abandoned() {
            watcher.unwatch(root);
        }
        self.hub.tick();
        let mut unwatched = false;
        let mut apart: HashMap<PathBuf, Vec<(Arc<Layer>, bool)>> = HashMap::new();
        for (layer, was_missing) in layers {
            let upper = layer.spec().upper.as_ref();
            unwatched |= upper.is_none() && !layer.is_watched();
            match upper {
                // On a tmpfs: looking at it takes no time.
                Some(upper) if !upper.durable => self.look_after(&layer, was_missing),
                None if layer.is_watched() => {}
                _ => {
                    let base = layer.spec().base.clone();
                    apart.entry(base).or_default().push((layer, was_missing));
                }
            }
        }
        // A store may hang, and the others are looked after all the same.
        for (base, layers) in apart {
            if !self.looking.lock().insert(base.clone()) {
                continue;
            }
            let state = self.clone();
            self.lookers.run(move || {
                for (layer, was_missing) in layers {
                    state.look_after(&layer, was_missing);
                }
                state.looking.lock().remove(&base);
            });
        }
        if unwatched {
            self.hub.refresh_unwatched();
        }
    }

    /// Has a store gone or come back, and can a layer be watched that could not?
    fn look_after(&self, layer: &Arc<Layer>, was_missing: bool) {
        if !layer.is_upper() {
            // What was believed while it was not watched is void once it is.
            if self.watch(layer) {
                self.hub.layer_void(layer);
            }
            return;
        }
        let missing = layer.missing().is_some();
        if missing != was_missing {
            if let Some(known) = self.layers.lock().get_mut(layer.spec()) {
                known.missing = missing;
            }
            self.hub.layer_void(layer);
        }
    }
}

fn start_ticker(state: &Arc<State>) -> Option<Sender<()>> {
    let (stop, stopped) = bounded::<()>(0);
    let weak = Arc::downgrade(state);
    let run = move || {
        while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            match weak.upgrade() {
                Some(state) => state.tick(),
                None => return,
            }
        }
    };
    let started = std::thread::Builder::new().name("layers".into()).spawn(run);
    match started {
        Ok(_) => Some(stop),
        Err(error) => {
            tracing::error!(%error, "no thread to look after layers: a store that comes back is not noticed");
            None
        }
    }
}
