//! The conductor: one node's view, one file per family of operations. Each calls inode, rules and
//! layer, in that order, and replies with plain structs, so that tests need no mount and a second
//! transport can stand beside the first.
//!
//! Owns: what a view is made of, and the order of steps in an operation. May not: know of FUSE
//! types, or do I/O other than through `layer` and `sys`.
//!
//! Lock order: an inode's `copying`, a child's before its parent's; then the table (`inode::table`);
//! then an inode's `state`; then a handle's `file`. `state`, `way`
//! and `file` are never held across I/O; nothing else is locked under `way`.

mod alone;
mod attr;
mod backing;
mod create;
mod descriptors;
mod dir;
pub mod explain;
mod figures;
mod find;
mod handless;
mod io;
mod kept;
mod live;
mod look;
mod lookup;
mod near;
mod node;
mod open;
mod reach;
mod remove;
mod rename;
mod resolve;
mod room;
mod seed;
mod takeover;
mod texts;
mod upper;
mod walk;
mod xattr;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

pub use crate::sys::creds::Caller;
pub use attr::Changes;
pub use backing::{Backing, Handle, Register, by_daemon};
pub use dir::DirEntry;
pub use live::{Drop, Event, Mounts, Notice};
pub use node::{Node, Source, Src};
pub use open::{OpenFile, OpenHow, Opened};
pub use takeover::Keeper;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use resolve::Trust;

use crate::cache::Cache;
use crate::inode::{self, Handles, id};
use crate::layer::Layer;
use crate::rules::{RuleTree, UpperKind};
use crate::sys::obj::Stat;
use crate::sys::{Errno, Res};

/// An inode of a view.
pub type Inode = inode::Inode<Node>;

/// What the kernel is told of an object. Times are seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attr {
    /// nodeid and st_ino.
    pub number: u64,
    /// All else, as stat(2) tells it.
    pub stat: Stat,
}

/// A reply that the kernel counts as a lookup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The object.
    pub attr: Attr,
    /// For how long the kernel may believe it.
    pub lifetime: Duration,
}

/// What a name is to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// An object; counts as a lookup.
    Entry(Entry),
    /// Nothing, for so long.
    Absent(Duration),
}

/// For as long as nobody says otherwise. (The kernel counts in jiffies of 64 bits.)
pub const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The layers of a view by their part in it.
#[derive(Debug, Default)]
pub struct Roles {
    /// The image; several for a mount without tables, the first on top.
    pub images: Vec<u8>,
    /// The litetrees, in order.
    pub trees: Vec<u8>,
    /// The tmpfs upper.
    pub tmpfs: Option<u8>,
    /// The persistent upper.
    pub persistent: Option<u8>,
    /// The local disk upper.
    pub localdisk: Option<u8>,
}

/// How a litetree directory combines with what is below it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TreeMode {
    /// All levels merge (SEMANTICS section 2).
    #[default]
    Merge,
    /// The first that is not empty is taken whole, as xCAT's script does.
    First,
}

/// How a view behaves, beside its rules.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// For how long what was found is believed, here and in the kernel, in a layer whose changes
    /// are not told of.
    pub lifetime: Duration,
    /// What is told of is believed until then. Otherwise all is believed for `lifetime`.
    pub watched: bool,
    /// How litetree directories combine.
    pub trees: TreeMode,
    /// Copy persistent paths whole before the first use, and look at nothing below afterwards.
    pub eager_seed: bool,
    /// Which way the kernel is to read and write. A view that takes another's place keeps that one's.
    pub io: IoMode,
}

/// Which way the kernel reads and writes files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IoMode {
    /// By itself, in the file that a layer has, where that cannot change while it is open;
    /// through the daemon otherwise.
    #[default]
    Passthrough,
    /// Through the daemon, without telling it of opens.
    Cached,
    /// Through the daemon.
    Daemon,
}

impl IoMode {
    /// As the configuration has it.
    pub fn word(self) -> &'static str {
        match self {
            IoMode::Passthrough => "passthrough",
            IoMode::Cached => "cached",
            IoMode::Daemon => "daemon",
        }
    }
}

/// All that a view is made of.
#[derive(Debug)]
pub struct ViewSpec {
    /// The node's name, for messages.
    pub name: String,
    /// Compiled rules.
    pub rules: RuleTree,
    /// Every layer; [`Roles`] says which is what.
    pub layers: Vec<Arc<Layer>>,
    /// Indices into `layers`.
    pub roles: Roles,
    /// `/.statelite/litefile` and `/.statelite/litetree`.
    pub texts: (Arc<str>, Arc<str>),
    /// Behaviour.
    pub options: ViewOptions,
    /// What lower layers were found to have.
    pub cache: Arc<Cache>,
}

/// What the kernel holds of a view: it outlives a change of the rules.
#[derive(Debug)]
struct Held {
    inodes: inode::Table<Node>,
    files: Handles<OpenFile>,
    removed: Mutex<Vec<Weak<Inode>>>,
    streams: Mutex<dir::Streams>,
    /// Some path's number is not its first choice.
    salted: AtomicBool,
    /// Those paths and the numbers that were told of them: a kernel may keep a listing with these.
    told: Mutex<HashMap<Box<[u8]>, u64>>,
    /// The numbers of directories that have another than their path's.
    own_dirs: Mutex<HashSet<u64>>,
    io: IoMode,
    /// Lower layers' files that the kernel reads by itself.
    lowers: kept::Kept,
    /// The uppers' that it reads and writes.
    uppers: kept::Kept,
    handless: handless::Files,
    /// How often the kernel was told something that it believes until it is told otherwise.
    lasting: AtomicU64,
    /// Nobody waits for answers any more.
    ended: AtomicBool,
    outliving: takeover::Outliving,
    root_acl: xattr::RootAcl,
}

/// One node's root, by one set of rules and layers (a plan). When those change, another view takes
/// its place over the same inodes and open files ([`View::successor`]): what an inode keeps of
/// rules and layers is good only in the plan that it is from.
#[derive(Debug)]
pub struct View {
    name: String,
    plan: u64,
    /// Rises when directories are to be looked at again.
    generation: AtomicU64,
    rules: RuleTree,
    layers: Vec<Arc<Layer>>,
    roles: Roles,
    options: ViewOptions,
    texts: texts::Texts,
    cache: Arc<Cache>,
    /// Where lower layers are shown besides their own paths.
    prefixes: Vec<Box<[u8]>>,
    /// The same with the layers that each is about, once a number is looked for.
    shown: OnceLock<Box<[find::Shown]>>,
    held: Arc<Held>,
}

/// A node's root as it is mounted: its view now, and the ones that come after.
#[derive(Debug)]
pub struct Root {
    view: ArcSwap<View>,
}

impl Root {
    /// With its first view.
    pub fn new(view: View) -> Root {
        Root {
            view: ArcSwap::from_pointee(view),
        }
    }

    /// The view that serves now.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// The view that serves now, to be kept.
    pub fn view_arc(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Other rules and layers, from the next request on. What is open goes on. The kernel is to be
    /// told that nothing is as it was.
    ///
    /// # Errors
    /// As [`View::new`]; nothing has changed then.
    pub fn replace(&self, spec: ViewSpec) -> Res<()> {
        let next = self.view().successor(spec)?;
        self.view.store(Arc::new(next));
        Ok(())
    }
}

/// No two plans, and no two generations of any, have the same number.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl View {
    /// A view over its layers, ready to serve.
    ///
    /// # Errors
    /// `EIO` where the image or a store is missing, and what a store answers when it is tried out
    /// or, with `eager_seed`, filled.
    pub fn new(spec: ViewSpec) -> Res<View> {
        let root = Node::new(
            spec.rules.root(),
            libc::S_IFDIR,
            Source::Dir(Default::default()),
            0,
        );
        let held = Held {
            inodes: inode::Table::new(root).noting(find::is_news),
            files: Handles::default(),
            removed: Mutex::default(),
            streams: Mutex::default(),
            salted: AtomicBool::new(false),
            told: Mutex::default(),
            own_dirs: Mutex::default(),
            io: spec.options.io,
            lowers: kept::Kept::of_lowers(),
            uppers: kept::Kept::of_uppers(),
            handless: handless::Files::new(spec.options.io),
            lasting: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            outliving: takeover::Outliving::default(),
            root_acl: xattr::RootAcl::default(),
        };
        let held = Arc::new(held);
        descriptors::count_open(&held);
        View::over(spec, held)
    }

    /// The view that takes this one's place: other rules and layers over the same inodes and open
    /// files.
    ///
    /// # Errors
    /// As [`View::new`]; this view then stays.
    pub fn successor(&self, spec: ViewSpec) -> Res<View> {
        View::over(spec, self.held.clone())
    }

    fn over(spec: ViewSpec, held: Arc<Held>) -> Res<View> {
        let view = View {
            name: spec.name,
            plan: next_number(),
            generation: AtomicU64::new(next_number()),
            prefixes: spec.rules.prefixes(),
            shown: OnceLock::new(),
            rules: spec.rules,
            layers: spec.layers,
            roles: spec.roles,
            options: spec.options,
            texts: texts::Texts::new(spec.texts),
            cache: spec.cache,
            held,
        };
        view.root_object()?;
        for layer in view.layers.iter().filter(|layer| layer.is_upper()) {
            // A store that is not there now is tried out when it comes back.
            let writable = layer
                .spec()
                .upper
                .as_ref()
                .is_some_and(|upper| !upper.read_only);
            if writable && layer.missing().is_none() {
                layer.caps()?;
            }
        }
        if view.options.eager_seed {
            view.seed()?;
        }
        Ok(view)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For how long the kernel may believe a reply.
    fn lifetime(&self, trust: Trust) -> Duration {
        match trust.lasting {
            true => {
                self.held.lasting.fetch_add(1, Ordering::Relaxed);
                FOREVER
            }
            false => self.options.lifetime,
        }
    }

    /// For how long the kernel may believe what it is told of an inode.
    fn lifetime_of(&self, inode: &Inode, trust: Trust) -> Duration {
        match self.may_be_mapped(inode) {
            true => Duration::ZERO,
            false => self.lifetime(trust),
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Is this view told of every change in its layers, so that the kernel may keep what it gets?
    pub fn is_watched(&self) -> bool {
        let told = |layer: &Arc<Layer>| layer.is_upper() || layer.is_watched();
        self.options.watched && self.layers.iter().all(told)
    }

    /// Which way the kernel is to read and write.
    pub fn io(&self) -> IoMode {
        self.held.io
    }

    /// Every layer, in no order that means anything.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// How many inodes the kernel holds.
    pub fn inode_count(&self) -> usize {
        self.held.inodes.len()
    }

    /// How many files are open in it.
    pub fn open_count(&self) -> usize {
        self.held.files.len()
    }

    /// The upper of a kind, where it has one.
    pub fn upper(&self, kind: UpperKind) -> Option<Arc<Layer>> {
        self.upper_of(kind)
            .map(|at| self.layers[at as usize].clone())
    }

    fn inode(&self, number: u64) -> Res<Arc<Inode>> {
        match self.held.inodes.get(number) {
            Some(inode) => Ok(inode),
            None => self.recall(number),
        }
    }

    fn layer(&self, src: Src) -> &Layer {
        &self.layers[src.layer as usize]
    }

    fn upper_of(&self, kind: UpperKind) -> Option<u8> {
        match kind {
            UpperKind::Tmpfs => self.roles.tmpfs,
            UpperKind::Persistent => self.roles.persistent,
            UpperKind::Localdisk => self.roles.localdisk,
        }
    }

    /// Is an upper on a file system of this machine, of a kind that is well known?
    fn is_local(&self, upper: u8) -> bool {
        let caps = self.layers[upper as usize].caps();
        caps.is_ok_and(|caps| caps.local)
    }

    fn kind_of(&self, upper: u8) -> UpperKind {
        match Some(upper) {
            at if at == self.roles.tmpfs => UpperKind::Tmpfs,
            at if at == self.roles.persistent => UpperKind::Persistent,
            _ => UpperKind::Localdisk,
        }
    }

    /// The number of an object of an upper: the one it had before it was copied up, or its own.
    /// What is known by its own has no other: copies have theirs from before they are named.
    fn upper_number(&self, upper: u8, seen: &look::Seen, path: &[u8]) -> Res<u64> {
        let (layer, own) = (
            &self.layers[upper as usize],
            self.own_number(upper, &seen.stat),
        );
        if seen.stat.btime != (0, 0) {
            let copied = |inode: &Arc<Inode>| inode.data.copied.load(Ordering::Relaxed) == own;
            let before = id::of_path(path, 0);
            if self.held.inodes.get(own).is_some() {
                return Ok(own);
            } else if self.held.inodes.get(before).as_ref().is_some_and(copied) {
                return Ok(before);
            }
        }
        let stored = match (&seen.fd, &seen.beside) {
            (Some(fd), _) => layer.stored_number(fd, &seen.stat)?,
            (None, Some(dir)) => {
                let name = crate::sys::obj::split(path).1;
                layer.stored_number_of_name(dir, name, &seen.stat)?
            }
            (None, None) => return Err(Errno::IO),
        };
        Ok(stored.unwrap_or(own))
    }

    /// The number of what a node made in an upper. By the kind of upper, not by the layer's index:
    /// that changes with the number of litetrees.
    fn own_number(&self, layer: u8, stat: &Stat) -> u64 {
        let kind = match self.kind_of(layer) {
            UpperKind::Tmpfs => 0,
            UpperKind::Persistent => 1,
            UpperKind::Localdisk => 2,
        };
        id::of_upper(kind, stat.ino, stat.btime)
    }
}

#[cfg(test)]
pub(crate) mod tests;
