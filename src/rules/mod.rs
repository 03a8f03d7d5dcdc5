//! Rows to one compiled, immutable rule tree a node: which zone governs a path, found by a step
//! from the parent's position, so that the cost does not depend on the number of rules.
//!
//! Owns: zones and positions. May not: do I/O, know of layers' contents, inodes or FUSE.

mod compile;

use std::collections::HashMap;

pub use compile::{CompileOptions, LinkView, Rule, compile};

use crate::tables::LiteOption;

/// Index of a [`Zone`] in its [`RuleTree`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct ZoneId(pub u32);

/// Where a walk from the root has come to: the zone that governs, and the place in the tree of
/// rules while the path is a rule's own or leads to one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pos {
    /// The governing zone.
    pub zone: ZoneId,
    at: Option<u32>,
}

/// What a file that only the view has tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Text {
    /// `/.statelite/litefile`: the effective rules.
    Litefile,
    /// `/.statelite/litetree`: the effective trees.
    Litetree,
    /// `/.statelite/statelite.log`: what was chosen for each rule and why.
    Log,
}

/// Which of a node's writable layers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum UpperKind {
    /// Lost at reboot.
    Tmpfs,
    /// Kept, on the store of the statelite table.
    Persistent,
    /// Kept, on a local disk.
    Localdisk,
}

impl UpperKind {
    /// The word that messages and `explain` use.
    pub fn word(self) -> &'static str {
        match self {
            UpperKind::Tmpfs => "tmpfs",
            UpperKind::Persistent => "persistent",
            UpperKind::Localdisk => "localdisk",
        }
    }
}

/// What governs a part of the tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ZoneKind {
    /// Outside every rule: the image, read-only (SEMANTICS section 4).
    Outside,
    /// A litefile rule (SEMANTICS section 2).
    Lite(LiteOption),
    /// One of the node's uppers as it is, below `/.statelite` (SEMANTICS section 7).
    Mirror(UpperKind),
    /// The image's own version, below `/.default`.
    Default,
    /// A symlink of `link_view = "symlink"`'s chain, with its target.
    Chain(Box<[u8]>),
    /// A text file that only the view has.
    Text(Text),
    /// A directory that only the view has.
    Virtual,
}

/// A part of the tree that one rule governs: its path and all below, less what deeper rules
/// govern.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Zone {
    /// What governs it.
    pub kind: ZoneKind,
    /// The path in the view, without a leading slash; empty for the root.
    pub path: Box<[u8]>,
    /// How many leading bytes of a view path are not part of the path in a layer
    /// (`.statelite/tmpfs/` for what mirrors an upper).
    pub strip: usize,
    /// A directory, where it exists nowhere.
    pub dir: bool,
    /// The rule it came from: an index into what [`compile`] was given.
    pub rule: Option<usize>,
}

impl Zone {
    /// The upper that writes go to; `None` where nothing may be written.
    pub fn writes_to(&self) -> Option<UpperKind> {
        match self.kind {
            ZoneKind::Lite(LiteOption::Tmpfs | LiteOption::Con) => Some(UpperKind::Tmpfs),
            ZoneKind::Lite(LiteOption::Persistent) => Some(UpperKind::Persistent),
            ZoneKind::Lite(LiteOption::Localdisk) => Some(UpperKind::Localdisk),
            _ => None,
        }
    }

    /// The part of a view path below this zone that names the object in a layer.
    pub fn layer_path<'a>(&self, view_path: &'a [u8]) -> &'a [u8] {
        view_path.get(self.strip..).unwrap_or(b"")
    }
}

#[derive(Debug, Default)]
struct Node {
    zone: u32,
    /// The zone begins here.
    own: bool,
    /// `/etc/mtab`: see SEMANTICS section 1.
    mtab: bool,
    /// A rule lies here or below (mtab alone does not count).
    guarded: bool,
    children: HashMap<Box<[u8]>, u32>,
}

/// One node's compiled rules.
#[derive(Debug)]
pub struct RuleTree {
    zones: Vec<Zone>,
    nodes: Vec<Node>,
}

impl RuleTree {
    /// The position of the view's root.
    pub fn root(&self) -> Pos {
        Pos {
            zone: ZoneId(self.nodes[0].zone),
            at: Some(0),
        }
    }

    /// One step down.
    pub fn step(&self, from: Pos, name: &[u8]) -> Pos {
        let Some(at) = from.at else { return from };
        match self.nodes[at as usize].children.get(name) {
            Some(&child) => Pos {
                zone: ZoneId(self.nodes[child as usize].zone),
                at: Some(child),
            },
            None => Pos {
                zone: from.zone,
                at: None,
            },
        }
    }

    /// The position of a path without a leading slash.
    pub fn walk(&self, path: &[u8]) -> Pos {
        path.split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .fold(self.root(), |pos, name| self.step(pos, name))
    }

    /// A zone by its id.
    pub fn zone(&self, id: ZoneId) -> &Zone {
        &self.zones[id.0 as usize]
    }

    /// Every zone.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Does the zone begin at this position?
    pub fn begins(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.nodes[at as usize].own)
    }

    /// A rule's own path, or a directory that a rule lies below: always there, and neither
    /// removed nor renamed (SEMANTICS section 5).
    pub fn guarded(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.nodes[at as usize].guarded)
    }

    /// Has this position rules strictly below it? It is a directory then, whatever layers say.
    pub fn leads_deeper(&self, pos: Pos) -> bool {
        self.rule_names(pos).next().is_some()
    }

    /// The names below this position that rules call for.
    pub fn rule_names(&self, pos: Pos) -> impl Iterator<Item = &[u8]> {
        pos.at.into_iter().flat_map(|at| {
            self.nodes[at as usize]
                .children
                .iter()
                .filter(|(_, child)| self.nodes[**child as usize].guarded)
                .map(|(name, _)| &**name)
        })
    }

    /// Is this `/etc/mtab`, to be a symlink to `/proc/mounts` unless it is a symlink already?
    pub fn is_mtab(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.nodes[at as usize].mtab)
    }
}
