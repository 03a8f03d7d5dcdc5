//! What a view keeps of an inode: where in the rules it stands, and which layers have it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::backing::Way;
use super::resolve::Trust;
use crate::rules::{Pos, Text, UpperKind};

/// What [`Node::bare`] is before the copy has a handle.
pub(super) const JUST_COPIED: u64 = u64::MAX;

/// A layer that has an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Src {
    /// Index of the layer.
    pub layer: u8,
    /// The object lies below the layer's `.default` (an image that liteimg rewrote).
    pub default: bool,
}

/// Layers in the order in which they are looked at.
pub(super) type Srcs = SmallVec<[Src; 4]>;

/// Where an object's contents come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A directory, merged from these; none for one that only the view has.
    Dir(Srcs),
    /// Anything else, from one layer.
    One(Src),
    /// A file that is the concatenation of several.
    Con(Srcs),
    /// An empty file that exists nowhere.
    Empty,
    /// A symlink that only the view has.
    Link(Box<[u8]>),
    /// A text that only the view has.
    Text(Text),
}

impl Source {
    /// Is neither of them an object of a layer, and both of one kind?
    pub(super) fn is_made_up_like(&self, other: &Source) -> bool {
        !matches!(self, Source::Dir(_) | Source::One(_))
            && std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What can change of an inode's state. What has to be dropped comes first: see
/// [`crate::inode::Inode`].
#[derive(Clone, Debug)]
#[repr(C)]
pub struct State {
    /// Where the contents come from.
    pub source: Source,
    /// What is left when the last name is gone, `O_PATH`.
    pub orphan: Option<Arc<Orphan>>,
    /// Place in the rules.
    pub pos: Pos,
    /// Type bits.
    pub kind: u32,
    /// The plan of the view ([`super::View`]) in whose terms `pos` and `source` are.
    pub plan: u64,
    /// When the layers were last looked at; `None` where that failed.
    pub checked: Option<Checked>,
    /// What (device and inode) a lower layer has there, where that is no directory.
    pub backing: Option<(u64, u64)>,
    /// A directory's layers have changed since the kernel was last told to ask again for what is
    /// below it.
    pub renewed: bool,
    /// Rises with each copy-up: an open file with an older one reopens.
    pub epoch: u32,
}

/// When and how the layers were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// When.
    pub at: Instant,
    /// The view's generation then: directories of another one are looked at again.
    pub generation: u64,
    /// Whatever changes it would be told of: it is good in its generation.
    pub lasting: bool,
}

impl Checked {
    /// Just now, and as good as that.
    pub(super) fn now(trust: Trust) -> Checked {
        Checked {
            at: Instant::now(),
            generation: trust.generation,
            lasting: trust.lasting,
        }
    }
}

/// An object without a name.
#[derive(Debug)]
pub struct Orphan {
    /// Still reaches it.
    pub fd: Arc<OwnedFd>,
    /// It lies in this upper, and may be changed.
    pub upper: Option<UpperKind>,
    /// The path that it had last.
    pub path: Box<[u8]>,
}

/// An inode's payload.
#[derive(Debug)]
#[repr(C)]
pub struct Node {
    /// Which way its contents come to the kernel, once it was opened.
    pub(super) way: Mutex<Option<Box<Way>>>,
    /// Short critical sections only; never across I/O.
    pub state: RwLock<State>,
    /// Held while the object is copied up.
    pub copying: Mutex<()>,
    /// How often it lost its name to another file ([`super::View`], displacement).
    pub displaced: AtomicU32,
    /// Where it is was noted for a worker that follows.
    pub noted: AtomicBool,
    /// How many handles have it open.
    pub opens: AtomicU32,
    /// The last handle that it was opened under for writing, or 0: while that is open, what it
    /// holds is the object.
    pub writer: AtomicU64,
    /// The handle that it was made or copied under, or [`JUST_COPIED`] before that has a number, while
    /// nobody has set an attribute since; else 0.
    pub bare: AtomicU64,
    /// The upper's own number of the object's copy, once it is known to be that; else 0.
    pub copied: AtomicU64,
}

impl Node {
    /// A node as it was just found.
    pub fn new(pos: Pos, kind: u32, source: Source, plan: u64) -> Node {
        Node {
            state: RwLock::new(State {
                pos,
                kind,
                source,
                plan,
                checked: None,
                renewed: false,
                backing: None,
                orphan: None,
                epoch: 0,
            }),
            copying: Mutex::new(()),
            displaced: AtomicU32::new(0),
            noted: AtomicBool::new(false),
            opens: AtomicU32::new(0),
            writer: AtomicU64::new(0),
            bare: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            way: Mutex::new(None),
        }
    }

    /// The same, once its layers were looked at; `backing` as [`State::backing`].
    #[must_use]
    pub fn checked(mut self, backing: Option<(u64, u64)>, checked: Checked) -> Node {
        let state = self.state.get_mut();
        state.backing = backing;
        state.checked = Some(checked);
        self
    }

    /// What was just copied bare, and is open under this handle, is bare as long as nobody has set
    /// an attribute meanwhile.
    pub(super) fn made_under(&self, handle: u64) {
        let copied = self.bare.load(Ordering::Relaxed) == JUST_COPIED;
        if copied {
            // Lost to somebody who has set one: then it is not.
            self.bare
                .compare_exchange(JUST_COPIED, handle, Ordering::Relaxed, Ordering::Relaxed)
                .ok();
        }
    }

    /// A copy of the state.
    pub fn snapshot(&self) -> State {
        self.state.read().clone()
    }
}
