//! What can be known of nodes before anything is mounted: all that the tables say of each, its rows'
//! paths canonicalised in the image, its rule tree compiled. A reload makes a [`Plan`], and only then
//! touches what is being served.
//!
//! What comes out the same is there once: rows and compiled rules belong to the nodes of one image
//! together, so that thousands of nodes take little more room and time than one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::build::{BuildError, image_layer, option_word, why};
use super::shared::Shared;
use crate::config::{Config, LinkView};
use crate::fs::{IoMode, Roles, TreeMode, View, ViewOptions, ViewSpec};
use crate::layer::Layer;
use crate::rules::{self, CompileOptions, Rule, RuleTree, compile};
use crate::sys::{Errno, Res};
use crate::tables::{
    ImageSpec, LiteOption, NodeSpec, Problem, RuleRow, Tables, TablesError, spread,
};

/// Why a node has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The tables say nothing of it, or nothing that can be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Its image cannot be looked into.
    #[error(transparent)]
    Image(#[from] BuildError),
}

/// What a set of nodes is to get, computed without mounting or making anything.
#[derive(Debug, Default)]
pub struct Plan {
    nodes: Vec<Planned>,
    by_name: HashMap<String, usize>,
    refused: Vec<(String, PlanError)>,
    commons: Vec<Arc<Common>>,
}

/// What one node is to get. A clone is cheap.
#[derive(Clone, Debug)]
pub struct Planned {
    spec: Arc<NodeSpec>,
    rules: RuleTree,
    common: Arc<Common>,
}

/// What nodes have in common whose image, rows and configuration are the same.
#[derive(Debug)]
struct Common {
    image: String,
    /// For one of the nodes.
    rules: RuleTree,
    rows: Arc<[Arc<RuleRow>]>,
    litefile: Arc<str>,
    faults: Vec<Fault>,
    /// What the tables have against the rows.
    of_rows: Arc<[Problem]>,
}

/// A row that is left out.
#[derive(Debug)]
struct Fault {
    row: Arc<RuleRow>,
    why: Why,
}

#[derive(Debug)]
enum Why {
    NoStore,
    NoDisk,
    /// The path cannot be in the image.
    Nowhere(Errno),
    /// Another row has this path in the image.
    Twice(Box<[u8]>, Arc<RuleRow>),
}

/// Why an image cannot be looked into, whichever node asks.
#[derive(Debug)]
enum Unusable {
    Missing(String),
    Refused(String),
}

impl Unusable {
    fn of(&self, spec: &NodeSpec) -> BuildError {
        let node = spec.node.clone();
        match self {
            Unusable::Missing(why) => BuildError::Image {
                node,
                image: spec.image.name.clone(),
                why: why.clone(),
            },
            Unusable::Refused(why) => BuildError::View {
                node,
                why: why.clone(),
            },
        }
    }
}

/// Plans nodes. What comes out as it was in the plan `before` is taken from there, so that
/// [`Planned::same_view`] finds it and no second copy of it is kept. The configuration is not part
/// of a plan: where it has changed, compare it.
pub fn plan(tables: &Tables, config: &Config, nodes: &[String], before: Option<&Plan>) -> Plan {
    let said = spread::map(nodes, |node| tables.node_alone(node, config));
    // One of each image and set of rows, one of each of these with a store and without.
    let mut images = Groups::default();
    let mut kinds = Groups::default();
    let mut plan = Plan::default();
    let mut specs = Vec::with_capacity(nodes.len());
    for (node, said) in nodes.iter().zip(said) {
        match said {
            Ok((spec, of_rows)) => {
                let rows = Arc::as_ptr(&spec.rules).cast::<()>() as usize;
                let image = (spec.image.name.clone(), spec.image.rootimg.clone(), rows);
                let image = images.find(image, specs.len());
                let kind = kinds.find((image, spec.store.is_some()), specs.len());
                specs.push((Arc::new(spec), of_rows, kind));
            }
            Err(error) => plan.refused.push((node.clone(), error.into())),
        }
    }
    let paths = spread::map(&images.firsts, |first| {
        let spec = &specs[*first].0;
        canonical_paths(&spec.image, &spec.rules)
    });
    let kinds: Vec<(usize, usize)> = kinds
        .firsts
        .iter()
        .zip(&kinds.keys)
        .map(|(first, (image, _))| (*first, *image))
        .collect();
    let made = spread::map(&kinds, |(first, image)| {
        let (spec, of_rows, _) = &specs[*first];
        let paths = paths[*image].as_ref().ok()?;
        let (mut common, mut rules) = Common::new(spec, of_rows.clone(), config, paths);
        for old in before.iter().flat_map(|before| &before.commons) {
            common.take_from(old);
        }
        if common.rules.suits_all() {
            rules = Vec::new();
        }
        Some((Arc::new(common), rules))
    });
    for (spec, _, kind) in specs {
        let Some((common, rules)) = &made[kind] else {
            if let Err(unusable) = &paths[kinds[kind].1] {
                let error = unusable.of(&spec).into();
                plan.refused.push((spec.node.clone(), error));
            }
            continue;
        };
        let mut planned = Planned::new(spec, common.clone(), rules, config);
        if let Some(old) = before.and_then(|before| before.node(&planned.spec.node)) {
            planned.take_from(old);
        }
        let node = planned.spec.node.clone();
        plan.by_name.insert(node, plan.nodes.len());
        plan.nodes.push(planned);
    }
    plan.commons = made
        .into_iter()
        .flatten()
        .map(|(common, _)| common)
        .collect();
    plan
}

/// Things that are the same, numbered, each with the first that was found.
#[derive(Default)]
struct Groups<K> {
    numbers: HashMap<K, usize>,
    keys: Vec<K>,
    firsts: Vec<usize>,
}

impl<K: Clone + Eq + std::hash::Hash> Groups<K> {
    fn find(&mut self, key: K, at: usize) -> usize {
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let number = self.keys.len();
        self.numbers.insert(key.clone(), number);
        self.keys.push(key);
        self.firsts.push(at);
        number
    }
}

impl Plan {
    /// Every node that has a plan, in the order in which they were named.
    pub fn nodes(&self) -> &[Planned] {
        &self.nodes
    }

    /// The plan of one node.
    pub fn node(&self, node: &str) -> Option<&Planned> {
        self.by_name.get(node).map(|at| &self.nodes[*at])
    }

    /// The nodes that have none, and why.
    pub fn refused(&self) -> &[(String, PlanError)] {
        &self.refused
    }

    /// The rows that are left out for some node, each told once with the nodes that it matters to,
    /// sorted by place.
    pub fn problems(&self) -> Vec<Problem> {
        let mut nodes_of: HashMap<*const Common, Vec<usize>> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let nodes = nodes_of.entry(Arc::as_ptr(&node.common)).or_default();
            nodes.push(at);
        }
        // Of one row and reason, for which of the sets of nodes.
        let mut found: HashMap<*const RuleRow, (&Fault, Vec<usize>)> = HashMap::new();
        let mut problems = BTreeSet::new();
        for (number, common) in self.commons.iter().enumerate() {
            for fault in &common.faults {
                if matches!(fault.why, Why::NoStore) {
                    let row = found.entry(Arc::as_ptr(&fault.row));
                    row.or_insert((fault, Vec::new())).1.push(number);
                } else {
                    problems.insert(fault.problem(&common.image, ""));
                }
            }
        }
        let mut who: HashMap<Vec<usize>, String> = HashMap::new();
        for (fault, sets) in found.into_values() {
            let who = who.entry(sets).or_insert_with_key(|sets| {
                let nodes = sets
                    .iter()
                    .filter_map(|set| nodes_of.get(&Arc::as_ptr(&self.commons[*set])));
                let mut nodes: Vec<usize> = nodes.flatten().copied().collect();
                nodes.sort_unstable();
                let nodes = nodes.iter().map(|at| self.nodes[*at].spec.node.as_str());
                several(&nodes.collect::<Vec<_>>())
            });
            problems.insert(fault.problem("", who));
        }
        problems.into_iter().collect()
    }
}

/// "node cn1 has", or "nodes cn1, cn2 and 7 more have".
fn several(nodes: &[&str]) -> String {
    const SHOWN: usize = 3;
    match nodes {
        [node] => format!("node {node} has"),
        _ if nodes.len() <= SHOWN => format!("nodes {} have", nodes.join(", ")),
        _ => {
            let more = nodes.len() - SHOWN;
            format!("nodes {} and {more} more have", nodes[..SHOWN].join(", "))
        }
    }
}

impl Planned {
    /// Plans one node alone.
    ///
    /// # Errors
    /// [`BuildError::Image`] and [`BuildError::View`] where its image cannot be looked into.
    pub fn of(spec: NodeSpec, config: &Config) -> Result<Planned, BuildError> {
        let paths = canonical_paths(&spec.image, &spec.rules);
        let paths = paths.map_err(|unusable| unusable.of(&spec))?;
        // The spec has the tables' problems with the rows itself.
        let (common, rules) = Common::new(&spec, Arc::default(), config, &paths);
        Ok(Planned::new(
            Arc::new(spec),
            Arc::new(common),
            &rules,
            config,
        ))
    }

    fn new(spec: Arc<NodeSpec>, common: Arc<Common>, rules: &[Rule], config: &Config) -> Planned {
        let own = common.rules.for_node(spec.node.as_bytes());
        let rules = own.unwrap_or_else(|| compile(rules, &options(&spec, config)));
        Planned {
            spec,
            rules,
            common,
        }
    }

    /// What the tables say of the node.
    pub fn spec(&self) -> &Arc<NodeSpec> {
        &self.spec
    }

    /// Its compiled rules.
    pub fn rules(&self) -> &RuleTree {
        &self.rules
    }

    /// The row behind each rule index.
    pub fn rows(&self) -> &Arc<[Arc<RuleRow>]> {
        &self.common.rows
    }

    /// The text of `/.statelite/litefile`.
    pub(super) fn litefile(&self) -> &Arc<str> {
        &self.common.litefile
    }

    /// Would the view be the same? Cheap where one plan was made with the other before it; where it
    /// was not, two that are the same may look different. Where rows stand does not count: take
    /// the newer plan for messages, and go on with the view.
    pub fn same_view(&self, other: &Planned) -> bool {
        self.rules.shares(&other.rules)
            && Arc::ptr_eq(&self.common.litefile, &other.common.litefile)
            && self.spec.gives_the_same(&other.spec)
    }

    /// The rows that are left out for this node, and why.
    pub fn faults(&self) -> Vec<Problem> {
        let who = several(&[&self.spec.node]);
        let faults = self.common.faults.iter();
        faults
            .map(|fault| fault.problem(&self.common.image, &who))
            .collect()
    }

    /// All that is wrong with what the tables say of this node, sorted by place.
    pub fn problems(&self) -> Vec<Problem> {
        let of_rows = self.common.of_rows.iter().cloned();
        let mut problems = self.spec.problems.clone();
        problems.extend(of_rows.chain(self.faults()));
        problems.sort();
        problems
    }

    fn take_from(&mut self, old: &Planned) {
        // Rules that name nodes are each node's own.
        if !self.rules.shares(&self.common.rules) {
            self.rules.share(&old.rules);
        }
    }
}

impl Common {
    /// Rows to rules, by their paths in the image: what cannot be is a fault. The rules come beside
    /// it where a node needs a tree of its own.
    fn new(
        spec: &NodeSpec,
        of_rows: Arc<[Problem]>,
        config: &Config,
        paths: &[Res<Vec<u8>>],
    ) -> (Common, Vec<Rule>) {
        let mut seen: HashMap<&[u8], &Arc<RuleRow>> = HashMap::with_capacity(paths.len());
        let (mut rules, mut rows) = (Vec::with_capacity(paths.len()), Vec::new());
        let mut faults = Vec::new();
        for (row, path) in spec.rules.iter().zip(paths) {
            let why = match (row.option, path) {
                (LiteOption::Persistent, _) if spec.store.is_none() => Why::NoStore,
                (LiteOption::Localdisk, _) if config.localdisk_dir.is_none() => Why::NoDisk,
                (_, Err(error)) => Why::Nowhere(*error),
                (option, Ok(path)) => match seen.get(&path[..]) {
                    Some(first) => Why::Twice(path[..].into(), Arc::clone(first)),
                    None => {
                        seen.insert(path, row);
                        rules.push(Rule {
                            path: path.clone(),
                            dir: row.dir,
                            option,
                            link: row.link,
                        });
                        rows.push(row.clone());
                        continue;
                    }
                },
            };
            let row = row.clone();
            faults.push(Fault { row, why });
        }
        // Where no row is left out, the tables' own list serves.
        let rows = match rows.len() == spec.rules.len() {
            true => spec.rules.clone(),
            false => rows.into(),
        };
        let common = Common {
            image: spec.image.name.clone(),
            rules: compile(&rules, &options(spec, config)),
            litefile: litefile_text(&rows).into(),
            rows,
            faults,
            of_rows,
        };
        (common, rules)
    }

    fn take_from(&mut self, old: &Common) {
        if self.image == old.image {
            self.rules.share(&old.rules);
            if self.litefile == old.litefile {
                self.litefile = old.litefile.clone();
            }
        }
    }
}

impl Fault {
    /// `who` has no store, where it is that.
    fn problem(&self, image: &str, who: &str) -> Problem {
        let shown = String::from_utf8_lossy(&self.row.path);
        let (message, help) = match &self.why {
            Why::NoStore => (
                format!("{shown} is persistent, but {who} no store"),
                "add a row for the node to the statelite table",
            ),
            Why::NoDisk => (
                format!("{shown} is localdisk, but there is no localdisk_dir"),
                "set localdisk_dir in the configuration",
            ),
            Why::Nowhere(error) => (
                format!("{shown} cannot be in image {image}: {error}"),
                "a directory on the way is a file, or a loop of symlinks, in the image",
            ),
            Why::Twice(path, first) => {
                let (path, first) = (String::from_utf8_lossy(path), &first.at);
                (
                    format!(
                        "{shown} is /{path} in the image, which {first} has a rule for already"
                    ),
                    "remove one of the two rows",
                )
            }
        };
        Problem::error(self.row.at.clone(), message, help)
    }
}

fn options(spec: &NodeSpec, config: &Config) -> CompileOptions {
    CompileOptions {
        node: spec.node.clone().into_bytes(),
        link_view: match config.link_view {
            LinkView::File => rules::LinkView::File,
            LinkView::Symlink => rules::LinkView::Symlink,
        },
        compat_dirs: config.compat_dirs,
        mtab: true,
        persistent: spec.store.is_some(),
    }
}

/// What each row's path is in the image, with the walk of a view that has the image alone.
fn canonical_paths(
    image: &ImageSpec,
    rows: &[Arc<RuleRow>],
) -> Result<Vec<Res<Vec<u8>>>, Unusable> {
    // A plan is made beside what is served, and holds nothing of the image afterwards.
    let shared = Shared::for_a_look();
    let layer = image_layer(&image.rootimg, &shared).map_err(Unusable::Missing)?;
    let bare = bare_view(&image.name, &layer, &shared).map_err(|error| {
        let layers = std::slice::from_ref(&layer);
        Unusable::Refused(why(layers, error))
    })?;
    Ok(bare.canonical(rows.iter().map(|row| (&row.path[..], row.dir))))
}

fn bare_view(name: &str, image: &Arc<Layer>, shared: &Shared) -> Res<View> {
    View::new(ViewSpec {
        name: name.into(),
        rules: compile(&[], &CompileOptions::default()),
        layers: vec![image.clone()],
        roles: Roles {
            images: vec![0],
            ..Roles::default()
        },
        texts: Default::default(),
        options: ViewOptions {
            lifetime: Duration::from_secs(1),
            watched: false,
            trees: TreeMode::Merge,
            eager_seed: false,
            io: IoMode::Daemon,
        },
        cache: shared.cache().clone(),
    })
}

fn litefile_text(rows: &[Arc<RuleRow>]) -> String {
    let mut text = b"#file,options\n".to_vec();
    for row in rows {
        let slash: &[u8] = if row.dir && row.path != b"/" {
            b"/"
        } else {
            b""
        };
        let option = option_word(row);
        for part in [
            b"\"",
            &row.path[..],
            slash,
            b"\",\"",
            option.as_bytes(),
            b"\"\n",
        ] {
            text.extend_from_slice(part);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests;
