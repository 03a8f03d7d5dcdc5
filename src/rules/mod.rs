//! Rows to one compiled, immutable rule tree a node: which zone governs a path, found by a step
//! from the parent's position, so that the cost does not depend on the number of rules.
//!
//! Owns: zones and positions. May not: do I/O, know of layers' contents, inodes or FUSE.
//!
//! What thousands of nodes have in common, all but their name, is one [`shape::Shape`], which they
//! share: a [`RuleTree`] is a pointer to it and the name.

mod compile;
mod shape;

use std::sync::Arc;

pub use compile::{CompileOptions, LinkView, Rule, compile};
use shape::Shape;

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

/// Which step of `link_view = "symlink"`'s chain a symlink is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum Chain {
    /// From the rule's path to the same path below `/.statelite/tmpfs`.
    ToTmpfs,
    /// From there to the same path below `/.statelite/persistent/<node>`.
    ToPersistent,
}

/// What governs a part of the tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash)]
pub enum ZoneKind {
    /// Outside every rule: the image, read-only (SEMANTICS section 4).
    Outside,
    /// A litefile rule (SEMANTICS section 2).
    Lite(LiteOption),
    /// One of the node's uppers as it is, below `/.statelite` (SEMANTICS section 7).
    Mirror(UpperKind),
    /// The image's own version, below `/.default`.
    Default,
    /// A symlink of `link_view = "symlink"`'s chain; [`RuleTree::target`] says where it leads to.
    Chain(Chain),
    /// A text file that only the view has.
    Text(Text),
    /// A directory that only the view has.
    Virtual,
}

/// A part of the tree that one rule governs: its path and all below, less what deeper rules
/// govern. Its path is [`RuleTree::path`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Zone {
    /// What governs it.
    pub kind: ZoneKind,
    /// A directory, where it exists nowhere.
    pub dir: bool,
    /// How many leading names of a view path are not part of the path in a layer
    /// (`.statelite`, `tmpfs` for what mirrors an upper).
    strip: u8,
    /// One more than the rule's index, so that none takes no room.
    rule: u32,
    /// Where it begins in the tree.
    at: u32,
}

impl Zone {
    /// The rule it came from: an index into what [`compile`] was given.
    pub fn rule(&self) -> Option<usize> {
        (self.rule as usize).checked_sub(1)
    }

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
        let mut rest = view_path;
        for _ in 0..self.strip {
            match rest.iter().position(|b| *b == b'/') {
                Some(slash) => rest = &rest[slash + 1..],
                None => return b"",
            }
        }
        rest
    }
}

/// One node's compiled rules. A clone is cheap: it shares them.
#[derive(Clone, Debug)]
pub struct RuleTree {
    shape: Arc<Shape>,
    node: Arc<[u8]>,
}

impl RuleTree {
    /// The same rules for another node, sharing all of them. `None` where the node's name matters
    /// beyond the directory of that name, since a rule's path has one: then there is no way
    /// but [`compile`].
    pub fn for_node(&self, node: &[u8]) -> Option<RuleTree> {
        if node == &*self.node {
            return Some(self.clone());
        }
        (self.suits_all() && !node.is_empty()).then(|| RuleTree {
            shape: self.shape.clone(),
            node: node.into(),
        })
    }

    /// Does [`RuleTree::for_node`] give one to every other node?
    pub fn suits_all(&self) -> bool {
        self.shape.is_shareable()
    }

    /// Do the two trees share their rules (whichever nodes they are for)?
    pub fn shares(&self, other: &RuleTree) -> bool {
        Arc::ptr_eq(&self.shape, &other.shape)
    }

    /// Shares the rules of `other` where they are the same, so that one copy of them is kept and
    /// [`RuleTree::shares`] holds from now on.
    pub fn share(&mut self, other: &RuleTree) {
        if self.shape == other.shape {
            self.shape = other.shape.clone();
        }
    }

    /// How many bytes the rules take, shared by however many nodes.
    pub fn shared_bytes(&self) -> usize {
        self.shape.bytes()
    }

    /// The position of the view's root.
    pub fn root(&self) -> Pos {
        Pos {
            zone: ZoneId(self.shape.node(0).zone),
            at: Some(0),
        }
    }

    /// One step down.
    #[inline]
    pub fn step(&self, from: Pos, name: &[u8]) -> Pos {
        let Some(at) = from.at else { return from };
        match self.shape.child(at, name, &self.node) {
            Some(child) => Pos {
                zone: ZoneId(self.shape.node(child).zone),
                at: Some(child),
            },
            None => Pos {
                zone: from.zone,
                at: None,
            },
        }
    }

    /// Where a step down leads to whatever the name is; `None` where that depends on the name.
    #[inline]
    pub fn step_any(&self, from: Pos) -> Option<Pos> {
        let leads_on = from.at.is_some_and(|at| self.shape.node(at).leads_on());
        (!leads_on).then_some(Pos { at: None, ..from })
    }

    /// The position of a path without a leading slash.
    pub fn walk(&self, path: &[u8]) -> Pos {
        path.split(|b| *b == b'/')
            .filter(|name| !name.is_empty())
            .fold(self.root(), |pos, name| self.step(pos, name))
    }

    /// A zone by its id.
    pub fn zone(&self, id: ZoneId) -> &Zone {
        &self.shape.zones()[id.0 as usize]
    }

    /// Every zone.
    pub fn zones(&self) -> &[Zone] {
        self.shape.zones()
    }

    /// A zone's path in the view, without a leading slash; empty for the root.
    pub fn path(&self, zone: &Zone) -> Vec<u8> {
        self.shape.path(zone.at, &self.node)
    }

    /// Where lower layers are shown besides their own paths (`/.default`, the end of a link chain):
    /// what stands before these in the view, each once.
    pub fn prefixes(&self) -> Vec<Box<[u8]>> {
        let mut prefixes: Vec<Box<[u8]>> = Vec::new();
        let mut default = false;
        for zone in self.zones().iter().filter(|zone| zone.strip > 0) {
            let known = match zone.kind {
                ZoneKind::Mirror(_) => true,
                // There may be as many of these as there are rules, all alike.
                ZoneKind::Default => std::mem::replace(&mut default, true),
                _ => false,
            };
            if known {
                continue;
            }
            let path = self.path(zone);
            let prefix = &path[..path.len() - zone.layer_path(&path).len()];
            if !prefixes.iter().any(|known| **known == *prefix) {
                prefixes.push(prefix.into());
            }
        }
        prefixes
    }

    /// Where the symlink that such a zone is leads to; `None` for every other kind.
    pub fn target(&self, zone: &Zone) -> Option<Box<[u8]>> {
        let ZoneKind::Chain(chain) = zone.kind else {
            return None;
        };
        Some(compile::target(chain, &self.path(zone), &self.node))
    }

    /// Does the zone begin at this position?
    pub fn begins(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.shape.node(at).own)
    }

    /// A rule's own path, or a directory that a rule lies below: always there, and neither
    /// removed nor renamed (SEMANTICS section 5).
    pub fn guarded(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.shape.node(at).guarded)
    }

    /// Has this position rules strictly below it? It is a directory then, whatever layers say.
    pub fn leads_deeper(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.shape.node(at).leads_deeper())
    }

    /// The names below this position that rules call for.
    pub fn rule_names(&self, pos: Pos) -> impl Iterator<Item = &[u8]> {
        let names = pos.at.map(|at| self.shape.rule_names(at, &self.node));
        names.into_iter().flatten()
    }

    /// Is this `/etc/mtab`, to be a symlink to `/proc/mounts` unless it is a symlink already?
    pub fn is_mtab(&self, pos: Pos) -> bool {
        pos.at.is_some_and(|at| self.shape.node(at).mtab)
    }
}
