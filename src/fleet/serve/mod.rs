//! One daemon for many nodes: each has a session of its own, all have one process.
//!
//! Owns: which nodes are served, and starting and stopping them. May not: know of one node's steps
//! (`node`), or of what is said over the socket (`control`, `answers`).

mod answers;
mod changes;
mod control;
mod crew;
mod export;
mod keep;
mod loaded;
mod node;
mod notify;
mod pulse;
mod reload;
mod snapshot;
mod ticker;
mod upgrade;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex, RwLock};
use signal_hook::iterator::Signals;

pub use control::ControlError;
pub use keep::Beginning;
pub use loaded::ServeOptions;

use crate::config::Config;
use crate::control::Outcome;
use crate::control::unix_seconds;
use crate::fleet::{Metrics, Shared};
use crate::fuse::Leave;
use crate::metrics::{Kind, Text};
use crate::pool::Pool;
use crate::tables::{Problem, Severity};
use control::Socket;
use export::Exporter;
use keep::Keep;
use loaded::Loaded;
use node::Node;
use notify::Manager;
use pulse::Pulse;
use ticker::Ticker;

/// How long the start waits for nodes whose image or store hangs before it is said to be over.
const START: Duration = Duration::from_secs(60);
/// How long a round of unmounting may take.
const ROUND: Duration = Duration::from_secs(10);
/// The pause between two rounds over roots that are in use.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration or the tables can't be read, or name no such nodes.
    #[error("{0}")]
    Input(String),
    /// The control socket is not to be had.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The process that is to hold what this one serves is not there, or says nothing.
    #[error("the holder: {0}")]
    Holder(io::Error),
    /// Signals can't be waited for, or no thread can be had.
    #[error("starting: {0}")]
    Start(io::Error),
}

/// All nodes that this process serves.
#[derive(Debug)]
pub struct Fleet {
    options: ServeOptions,
    loaded: RwLock<Arc<Loaded>>,
    nodes: RwLock<BTreeMap<String, Arc<Node>>>,
    /// Layers, what was found in them, and the watch over them.
    shared: Shared,
    /// Counters of all roots, where the configuration has an address for them.
    metrics: Option<Metrics>,
    /// For long work of all views.
    pool: Arc<Pool>,
    ticker: Ticker,
    exporter: Arc<Exporter>,
    keep: Arc<Keep>,
    manager: Manager,
    pulse: Arc<Pulse>,
    /// Held during a reload.
    reloading: Mutex<()>,
    reloads: AtomicU64,
    refused: Mutex<Option<(u64, usize)>>,
    /// Problems that the log has: many nodes have the same.
    told: Mutex<HashSet<Problem>>,
    /// The last words that the service manager was told.
    said: Mutex<String>,
    /// Every node was tried.
    started: (Mutex<bool>, Condvar),
    stopping: AtomicBool,
    since: SystemTime,
}

/// Serves until SIGTERM or SIGINT. Where a worker has left sessions, it goes on with them, and with
/// what that went by.
///
/// # Errors
/// [`ServeError`]; what is wrong with a single node is no error.
pub fn serve(options: ServeOptions, beginning: Beginning) -> Result<(), ServeError> {
    crate::sys::memory::many_threads();
    super::run::raise_open_files();
    crate::sys::creds::clear_umask();
    let (link, mut given, told, snapshot) = beginning.into_parts();
    crate::stuck::here(match told.replaced {
        0 => b"start",
        _ => b"again",
    });
    let config = snapshot.config(&options).map_err(ServeError::Input)?;
    let socket = Socket::take(&config.control, &mut given, &link)?;
    let keep = Keep::new(link, given, told);
    let signals = [libc::SIGHUP, libc::SIGTERM, libc::SIGINT];
    let mut signals = Signals::new(signals).map_err(ServeError::Start)?;
    let pulse = Pulse::start(keep.link.clone()).map_err(ServeError::Start)?;
    let loaded = Loaded::of(snapshot, &options, None).map_err(ServeError::Input)?;
    let fleet = Arc::new(Fleet::new(options, loaded, keep, pulse));
    fleet.offer_left();
    socket.serve(&fleet).map_err(ServeError::Start)?;
    if fleet.keep.told.stopping {
        tracing::info!("goes on with what the last one was at: it stops");
        fleet.start();
        fleet.stop(|| signals.pending().any(|signal| signal != libc::SIGHUP));
        return Ok(());
    }
    for (name, work) in [
        ("statelite-start", Fleet::start as fn(&Arc<Fleet>)),
        ("statelite-tick", ticker::run),
        ("statelite-nfs", export::run),
        ("statelite-held", listen),
    ] {
        let fleet = fleet.clone();
        let thread = std::thread::Builder::new().name(name.into());
        let started = thread.spawn(move || work(&fleet));
        started.map_err(ServeError::Start)?;
    }
    loop {
        for signal in signals.wait() {
            if signal == libc::SIGHUP {
                fleet.reload_aside();
                continue;
            }
            tracing::info!(signal, "asked to stop");
            // Asked once more, it waits for nobody.
            fleet.stop(|| signals.pending().any(|signal| signal != libc::SIGHUP));
            return Ok(());
        }
    }
}

fn listen(fleet: &Arc<Fleet>) {
    fleet.keep.link.listen();
}

/// Roots without metrics are better than none.
fn metrics(config: &Config, shared: &Shared, keep: &Arc<Keep>) -> Option<Metrics> {
    let left = keep.take_metrics();
    let Some(address) = &config.metrics else {
        left.inspect(|left| keep.let_go_metrics(left));
        return None;
    };
    let left = left.filter(|left| {
        let goes_on = Metrics::is_at(left, address);
        if !goes_on {
            keep.let_go_metrics(left);
        }
        goes_on
    });
    let metrics = Metrics::start(address, shared, left)
        .inspect_err(|error| tracing::error!(%error, "there are no metrics"))
        .ok()?;
    keep.hold_metrics(metrics.listener());
    let (replaced, since) = (keep.told.replaced, unix_seconds(SystemTime::now()));
    metrics.source(move |text: &mut Text| {
        let help =
            "How often the process that serves was replaced by another, since the daemon runs.";
        text.single(
            "statelite_worker_replacements_total",
            Kind::Counter,
            help,
            replaced,
        );
        let help = "When the process that serves was started, in seconds since 1970.";
        text.single(
            "statelite_worker_start_time_seconds",
            Kind::Gauge,
            help,
            since,
        );
    });
    Some(metrics)
}

impl Fleet {
    fn new(options: ServeOptions, loaded: Loaded, keep: Arc<Keep>, pulse: Arc<Pulse>) -> Fleet {
        let shared = Shared::new(&loaded.config);
        let loaded = Arc::new(loaded);
        let exporter = Exporter::new(loaded.clone());
        let nodes = loaded.nodes.iter().map(|(name, wanted)| {
            let node = Node::new(name.clone(), wanted.clone(), exporter.clone(), keep.clone());
            (name.clone(), node)
        });
        Fleet {
            options,
            nodes: RwLock::new(nodes.collect()),
            metrics: metrics(&loaded.config, &shared, &keep),
            shared,
            loaded: RwLock::new(loaded),
            pool: Arc::default(),
            ticker: Ticker::default(),
            exporter,
            manager: Manager::new(keep.link.clone()),
            pulse,
            keep,
            reloading: Mutex::default(),
            reloads: AtomicU64::new(0),
            refused: Mutex::default(),
            told: Mutex::default(),
            said: Mutex::default(),
            started: Default::default(),
            stopping: AtomicBool::new(false),
            since: SystemTime::now(),
        }
    }

    fn config(&self) -> Arc<Config> {
        self.loaded.read().config.clone()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().values().cloned().collect()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A table was changed on disk: all of them are read once they are left alone.
    pub fn tables_changed(&self) {
        self.ticker.tables_changed();
    }

    /// Plans nodes that had no image when the tables were read, and may have it now.
    fn plan_again(&self, nodes: &[Arc<Node>]) {
        let nodes: Vec<_> = nodes.iter().filter(|node| node.needs_plan()).collect();
        if nodes.is_empty() {
            return;
        }
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let loaded = self.loaded.read().clone();
        let mut planned = loaded.plan_again(&names);
        for node in nodes {
            if let Some(wanted) = planned.remove(&node.name)
                && Arc::ptr_eq(&loaded, &self.loaded.read())
            {
                node.plan_again(wanted);
            }
        }
    }

    /// Has the tables' directory watched: what changes there is read.
    fn watch_tables(self: &Arc<Self>) {
        let fleet = Arc::downgrade(self);
        let tables = self.config().tables.clone();
        let watched = self.shared.watch_dir(&tables, move || {
            if let Some(fleet) = fleet.upgrade() {
                fleet.tables_changed();
            }
        });
        if let Err(why) = watched {
            tracing::info!(path = %tables.display(), %why, "tables are read at statelite reload only");
        }
    }

    /// Logs problems that the log does not have yet.
    fn tell(&self, problems: &[Problem]) {
        let mut told = self.told.lock();
        for problem in problems {
            if !told.insert(problem.clone()) {
                continue;
            }
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
    }

    /// Tells the service manager how many nodes are served, where that has changed.
    fn tell_status(&self) {
        let line = self.status_line();
        let mut said = self.said.lock();
        if *said != line {
            self.manager.status(&line);
            *said = line;
        }
    }

    /// Tells it that a start or a reload is over.
    fn tell_ready(&self) {
        let line = self.status_line();
        let mut said = self.said.lock();
        self.manager.ready(&line);
        *said = line;
    }

    /// Tries every node once, then says that the daemon is ready.
    fn start(self: &Arc<Self>) {
        // A reload that comes now waits: it would find nodes that were not tried.
        let _one = self.reloading.lock();
        let began = Instant::now();
        self.tell(&self.loaded.read().problems.clone());
        self.manager.more_time(START * 2);
        self.keep.snapshot(&self.loaded.read().snapshot);
        let left = self.keep.nodes();
        let fleet = self.clone();
        let stopping = self.keep.told.stopping;
        // Those first that programs may be waiting for.
        let (mut nodes, others): (Vec<_>, Vec<_>) = self
            .nodes()
            .into_iter()
            .partition(|node| left.contains(&node.name));
        if !stopping {
            nodes.extend(others);
        }
        let tried = crew::gather(nodes, START, move |node| node.begin(&fleet));
        *self.started.0.lock() = true;
        self.started.1.notify_all();
        self.end_strangers();
        if self.keep.nodes().is_empty() {
            crate::layer::let_go_of_left_locks();
        }
        self.exporter.settle();
        // What building needed and nobody needs any more.
        crate::sys::memory::give_back();
        let late = tried.iter().filter(|went| went.is_none()).count();
        tracing::info!(took = ?began.elapsed(), late, "{}", self.status_line());
        if stopping {
            return;
        }
        if self.config().watch_tables {
            self.watch_tables();
            if self.keep.told.replaced > 0 {
                // What was gone by is what the last one had read. The files may have changed.
                self.tables_changed();
            }
        }
        self.tell_ready();
        self.keep.link.serves();
        self.tell_asker();
    }

    /// Nothing that is mounted is to be taken from an NFS server because it is not gone on with yet.
    fn offer_left(&self) {
        for node in self.keep.nodes() {
            if let Some(point) = self.keep.point(&node) {
                self.exporter.offer(&node, &point);
            }
        }
    }

    /// Ends sessions of nodes that are not served any more: the tables changed when the last worker
    /// ended, and nothing says how to serve them.
    fn end_strangers(&self) {
        let served = self.nodes.read();
        let strange = |node: &String| !served.contains_key(node);
        let strangers: Vec<String> = self.keep.nodes().into_iter().filter(strange).collect();
        drop(served);
        self.exporter.withdraw(strangers.iter().map(String::as_str));
        for node in &strangers {
            while let Some(left) = [true, false]
                .into_iter()
                .find_map(|mounted| self.keep.take(node, mounted))
            {
                tracing::warn!(node, "it is not served any more: its root is unmounted");
                node::session::end_left(&self.keep, node, left);
            }
        }
    }

    /// Reloads while signals are still listened to.
    fn reload_aside(self: &Arc<Self>) {
        let fleet = self.clone();
        let thread = std::thread::Builder::new().name("statelite-load".into());
        let started = thread.spawn(move || {
            fleet.reload(reload::Asked::Signal);
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread to reload on");
        }
    }

    /// Unmounts everything. What is in use is waited for, unless `hurry` says that there is no time,
    /// and then taken out of the tree.
    fn stop(self: &Arc<Self>, mut hurry: impl FnMut() -> bool) {
        self.stopping.store(true, Ordering::Release);
        self.ticker.wake();
        self.manager.stopping();
        let grace = self.config().stop_grace;
        self.manager.more_time(grace + ROUND * 3);
        let end = Instant::now() + grace;
        let why = "the daemon stops";
        let mut left = self.nodes();
        let all = left.len();
        // All at once; one by one, each would be waited for.
        self.exporter.withdraw(left.iter().map(|node| &*node.name));
        loop {
            let last = Instant::now() >= end || hurry();
            let how = if last { Leave::Lazily } else { Leave::Idle };
            let went = crew::gather(left.clone(), ROUND, move |node| node.unmount(how, why));
            let mut used = Vec::new();
            for (node, went) in left.into_iter().zip(went) {
                match went.map(|went| (went.outcome, went.message)) {
                    Some((Outcome::Done | Outcome::Already, _)) => {}
                    Some((Outcome::Busy, _)) if !last => used.push(node),
                    went => {
                        let why = went.and_then(|(_, message)| message);
                        tracing::warn!(node = node.name, why, "its users' files fail now");
                    }
                }
            }
            if used.is_empty() {
                tracing::info!(nodes = all, "stopped");
                self.keep.let_go_of_all();
                return;
            }
            left = used;
            std::thread::sleep(PAUSE);
        }
    }
}
