//! What the tables say, after every default, group, variable and precedence rule has been
//! applied: the typed hand-over from `tables` to `rules` and the mount.
//!
//! Owns: these types. May not: read a file, or know of layers, inodes or FUSE.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

/// A place in an input file. Lines and columns count from 1; 0 means "the whole file".
#[derive(Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
pub struct Origin {
    /// The file, as it was opened.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Column in bytes, from 1.
    pub column: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if self.line == 0 {
            return write!(f, "{file}");
        }
        write!(f, "{file}:{}:{}", self.line, self.column)
    }
}

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The row is used, but probably not as meant.
    Warning,
    /// The row is left out.
    Error,
}

/// One finding about the input: where, what, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
pub struct Problem {
    /// Where.
    pub at: Origin,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl Problem {
    /// An error: the row is left out.
    pub fn error(at: Origin, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            at,
            severity: Severity::Error,
            message: message.into(),
            help: help.into(),
        }
    }

    /// A warning: the row is used, but probably not as meant.
    pub fn warning(at: Origin, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(at, message, help)
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}: {word}: {}", self.at, self.message)?;
        if self.help.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.help)
        }
    }
}

/// Where writes of a ruled path go and where its contents come from (SEMANTICS section 2).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LiteOption {
    /// Writes to the tmpfs upper, forgotten at reboot.
    Tmpfs,
    /// Writes to the persistent upper.
    Persistent,
    /// Writes to the local disk upper.
    Localdisk,
    /// Every litetree's file, concatenated in order; writes to tmpfs.
    Con,
    /// Read-only, from the first litetree that has it.
    Ro,
}

impl LiteOption {
    /// The word that tables and messages have for it.
    pub fn word(self) -> &'static str {
        match self {
            LiteOption::Tmpfs => "tmpfs",
            LiteOption::Persistent => "persistent",
            LiteOption::Localdisk => "localdisk",
            LiteOption::Con => "con",
            LiteOption::Ro => "ro",
        }
    }
}

/// One effective litefile row of one node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct RuleRow {
    /// The path as written, absolute, without a trailing slash (`/` itself is `/`).
    /// Bytes: file names need not be UTF-8.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// Written with a trailing slash: a directory where it exists nowhere.
    pub dir: bool,
    /// The option, synonyms resolved.
    pub option: LiteOption,
    /// The option is a link to xCAT: it begins with `link`, is blank, or is `tmpfs,rw` (matters to
    /// `link_view` and strict xCAT checks only).
    pub link: bool,
    /// The row it came from.
    pub at: Origin,
}

/// `host:path` or a plain path, resolved against this host's names (SEMANTICS section 1).
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Location {
    /// As the table says it, variables replaced.
    pub text: String,
    /// Where this server finds it.
    pub path: PathBuf,
    /// `Some((host, exported path))` where it is on another host.
    pub remote: Option<(String, String)>,
    /// Must be a mount point's content (remote, or listed in `require_mount`): where nothing is
    /// mounted there, the store is missing, never what lies under its mount point.
    pub require_mount: bool,
}

/// litetree.priority: a number, whole or not (xCAT's own examples have `1.0`).
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Priority(f64);

impl Priority {
    /// Reads a finite number.
    pub fn parse(text: &str) -> Option<Priority> {
        // -0 is 0, so that the two are equal.
        text.parse::<f64>()
            .ok()
            .filter(|n| n.is_finite())
            .map(|n| Priority(n + 0.0))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Ord for Priority {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Priority {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Priority {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Priority {}

/// One effective litetree row, in order of use.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct TreeRow {
    /// The tree.
    pub location: Location,
    /// Mount options for a remote one.
    pub mntopts: String,
    /// The row's priority.
    pub priority: Priority,
    /// The row it came from.
    pub at: Origin,
}

/// The statelite row of a node: where its persistent files live.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct StoreRow {
    /// The store, without the node's name.
    pub location: Location,
    /// Mount options for a remote one.
    pub mntopts: String,
    /// The row it came from.
    pub at: Origin,
}

/// The image a node runs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ImageSpec {
    /// osimage name.
    pub name: String,
    /// osimage.groups.
    pub groups: Vec<String>,
    /// The root tree: `linuximage.rootimgdir` + `/rootimg`.
    pub rootimg: PathBuf,
}

/// All that the tables say of one node.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NodeSpec {
    /// The node's name.
    pub node: String,
    /// nodelist.groups, in order, then the groups that the nodegroup table puts it into.
    pub groups: Vec<String>,
    /// Its image.
    pub image: ImageSpec,
    /// Effective litefile rows, one a path, sorted by path. Nodes of one image share them.
    #[serde(serialize_with = "as_slice")]
    pub rules: Arc<[Arc<RuleRow>]>,
    /// Effective litetree rows, in order of use.
    pub trees: Vec<TreeRow>,
    /// Where its persistent files live; `None` where no statelite row applies.
    pub store: Option<StoreRow>,
    /// What was found wrong on the way; rows with an error are not in the lists above.
    pub problems: Vec<Problem>,
}

impl NodeSpec {
    /// Does a node get the same of both, rules aside? Where rows stand does not count.
    pub(crate) fn gives_the_same(&self, other: &NodeSpec) -> bool {
        self.node == other.node
            && self.groups == other.groups
            && self.image == other.image
            && self.has_same_trees(other)
            && self.has_same_store(other)
    }

    /// Where its image, litetrees and persistent files are, whether or not anything is there.
    pub fn dirs(&self) -> impl Iterator<Item = &Path> {
        let trees = self.trees.iter().map(|tree| &tree.location);
        let store = self.store.iter().map(|store| &store.location);
        let located = trees.chain(store).map(|at| at.path.as_path());
        located.chain([self.image.rootimg.as_path()])
    }

    /// The same litetrees in the same order, wherever their rows stand?
    pub(crate) fn has_same_trees(&self, other: &NodeSpec) -> bool {
        fn trees(spec: &NodeSpec) -> impl Iterator<Item = (&Location, &str, Priority)> {
            let trees = spec.trees.iter();
            trees.map(|tree| (&tree.location, tree.mntopts.as_str(), tree.priority))
        }
        trees(self).eq(trees(other))
    }

    /// The same store, wherever its row stands?
    pub(crate) fn has_same_store(&self, other: &NodeSpec) -> bool {
        fn store(spec: &NodeSpec) -> Option<(&Location, &str)> {
            let store = spec.store.as_ref()?;
            Some((&store.location, &store.mntopts))
        }
        store(self) == store(other)
    }
}

fn lossy<S: serde::Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&String::from_utf8_lossy(bytes))
}

fn as_slice<S: serde::Serializer>(rules: &Arc<[Arc<RuleRow>]>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(rules.iter().map(|rule| &**rule))
}
