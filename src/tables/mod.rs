//! The tables: CSV as `tabdump` prints it, to typed rows, to what they say of one node.
//!
//! Owns: parsing and evaluation of tables. May not: look into images, litetrees or stores.
//!
//! [`Tables::load`] reads everything that doesn't depend on a node and never fails: what is wrong
//! is collected. [`Tables::node`] says what one node gets; nodes of one image share its rules.

mod book;
mod boot;
mod command;
mod context;
mod csv;
mod groups;
mod hosts;
mod images;
mod litefile;
mod litetree;
mod location;
pub(crate) mod nearest;
mod noderange;
mod nodes;
mod paths;
mod source;
mod spec;
pub(crate) mod spread;
mod statelite;
mod strict;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod values;
mod vars;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::config::Config;
use book::Book;
use command::Commands;
use context::Context;
use images::{ImageRows, Ranks};
use litefile::LiteRows;
use litetree::LiteTrees;
use location::LocalHosts;
use nodes::Nodes;

pub use boot::{Address, Elsewhere, NodeBoot, ServerName};
pub use csv::{Row, Table};
pub use noderange::NoderangeError;
pub use source::{CsvDir, Frozen, FrozenTable, RawTable, Source};
pub use spec::*;

/// Every table, read and checked as far as that is possible without a node.
#[derive(Debug)]
pub struct Tables {
    book: Book,
    nodes: Nodes,
    lite: LiteRows,
    trees: LiteTrees,
    problems: Vec<Problem>,
    commands: Commands,
    hosts: OnceLock<LocalHosts>,
    /// The first node that has an address.
    owners: OnceLock<HashMap<IpAddr, String>>,
    /// The addresses of every name in hosts.
    addresses: OnceLock<HashMap<String, Vec<IpAddr>>>,
    images: Mutex<HashMap<Ranks, Arc<OnceLock<Arc<ImageRows>>>>>,
}

/// Why the tables say nothing of a node.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TablesError {
    /// nodelist has no such node.
    #[error("there is no node {node} in nodelist{}", parenthesised(near))]
    UnknownNode {
        /// The name that was asked for.
        node: String,
        /// A name that is spelled nearly so; may be empty.
        near: String,
    },
    /// The node has no image, or one that is not defined. Where the problem is only a warning, the
    /// node is none of ours: a switch that nodetype says nothing of, a node with disks.
    #[error("node {node}: {problem}")]
    NoImage {
        /// The node.
        node: String,
        /// What is wrong, and where.
        problem: Box<Problem>,
    },
}

fn no_image(node: &str) -> impl FnOnce(Problem) -> TablesError + '_ {
    move |problem| TablesError::NoImage {
        node: node.to_owned(),
        problem: Box::new(problem),
    }
}

fn parenthesised(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(" ({text})")
    }
}

impl Tables {
    /// Reads all tables. What is wrong with them is in [`problems`](Self::problems).
    pub fn load(source: &dyn Source) -> Self {
        let mut problems = Vec::new();
        let book = Book::load(source, &mut problems);
        let mut nodes = book
            .table("nodelist")
            .map(|t| Nodes::read(t, &mut problems))
            .unwrap_or_default();
        groups::add_nodegroups(&book, &mut nodes, &mut problems);
        let lite = book
            .table("litefile")
            .map(|t| litefile::read(t, &mut problems))
            .unwrap_or_default();
        let trees = book
            .table("litetree")
            .map(|t| litetree::read(t, &mut problems))
            .unwrap_or_default();
        problems.sort();
        Self {
            book,
            nodes,
            lite,
            trees,
            problems,
            commands: Commands::default(),
            hosts: OnceLock::new(),
            owners: OnceLock::new(),
            addresses: OnceLock::new(),
            images: Mutex::default(),
        }
    }

    /// What was found wrong when the tables were read, sorted by place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// All nodes, in nodelist's order.
    pub fn nodes(&self) -> Vec<String> {
        self.nodes.names().map(str::to_owned).collect()
    }

    /// The nodes of a noderange, in the order in which it names them.
    pub fn noderange(&self, range: &str) -> Result<Vec<String>, NoderangeError> {
        noderange::expand(range, &self.nodes)
    }

    /// A table as it was read, where there is one of that name.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.book.table(name)
    }

    /// All that the tables say of one node.
    pub fn node(&self, node: &str, config: &Config) -> Result<NodeSpec, TablesError> {
        let (mut spec, of_rows) = self.node_alone(node, config)?;
        spec.problems.extend(of_rows.iter().cloned());
        spec.problems.sort();
        Ok(spec)
    }

    fn known(&self, node: &str) -> Result<&str, TablesError> {
        let near = || nearest::hint(node, self.nodes.names());
        self.nodes
            .known(node)
            .ok_or_else(|| TablesError::UnknownNode {
                node: node.to_owned(),
                near: near(),
            })
    }

    /// As [`node`](Self::node), without the problems of the rows, which all nodes of its image
    /// have: those come beside it.
    pub(crate) fn node_alone(
        &self,
        node: &str,
        config: &Config,
    ) -> Result<(NodeSpec, Arc<[Problem]>), TablesError> {
        let known = self.known(node)?;
        let (spec, rows) = self.evaluate(known, config).map_err(no_image(node))?;
        Ok((spec, rows.problems.clone()))
    }

    /// Evaluates a node; the problems are those of the node alone, without its name.
    fn evaluate(&self, node: &str, config: &Config) -> Result<(NodeSpec, Arc<ImageRows>), Problem> {
        let groups = self.nodes.groups_of(node);
        let image = images::of_node(&self.book, node, groups, self.nodes.at(node))?;
        let rows = self.rows_of(&image);
        let mut context = Context {
            book: &self.book,
            config,
            commands: &self.commands,
            hosts: self.hosts.get_or_init(LocalHosts::of_this_host),
            node,
            groups,
            image: &image.name,
            problems: Vec::new(),
        };
        let mut trees = Vec::new();
        if let Some(table) = self.book.table("litetree") {
            for tree in rows.trees.iter().map(|i| &self.trees.rows[*i]) {
                let row = table.row(tree.row);
                trees.extend(row.and_then(|row| litetree::evaluate(&mut context, tree, row)));
            }
        }
        let store = statelite::evaluate(&mut context);
        let mut problems = context.problems;
        if let (Some(at), None) = (&rows.persistent, &store) {
            problems.push(Problem::warning(
                at.clone(),
                "there are persistent rules, but no store to keep what is written",
                "give statelite a row with a statemnt for the node or one of its groups",
            ));
        }
        if let (Some(at), None) = (&rows.localdisk, &config.localdisk_dir) {
            problems.push(Problem::warning(
                at.clone(),
                "there are localdisk rules, but no directory to keep what is written",
                "set localdisk_dir in the configuration",
            ));
        }
        let spec = NodeSpec {
            node: node.to_owned(),
            groups: groups.to_vec(),
            rules: rows.rules.clone(),
            image,
            trees,
            store,
            problems,
        };
        Ok((spec, rows))
    }

    /// The rows of an image, chosen once for all its nodes, and for every image of which the rows
    /// say the same.
    fn rows_of(&self, image: &ImageSpec) -> Arc<ImageRows> {
        let ranks = Ranks::of(image, &self.lite, &self.trees);
        let cell = self.images.lock().entry(ranks.clone()).or_default().clone();
        let choose = || Arc::new(ImageRows::choose(&ranks, &self.lite, &self.trees));
        cell.get_or_init(choose).clone()
    }

    /// Every image that nodes run or osimage and linuximage define, sorted by name. Those that
    /// have no tree (of full installations, say) are not among them.
    pub fn images(&self) -> Vec<ImageSpec> {
        let mut found = BTreeMap::new();
        for node in self.nodes.names() {
            let groups = self.nodes.groups_of(node);
            if let Ok(image) = images::of_node(&self.book, node, groups, Origin::default()) {
                found.entry(image.name.clone()).or_insert(image);
            }
        }
        for table in ["osimage", "linuximage"] {
            for row in self.book.table(table).into_iter().flat_map(Table::rows) {
                let name = row.text("imagename").into_owned();
                if let Ok(image) = images::by_name(&self.book, &name, Origin::default()) {
                    found.entry(name).or_insert(image);
                }
            }
        }
        found.into_values().collect()
    }

    /// Everything that is wrong: of all tables, and of every node evaluated. Each is told once,
    /// with the nodes that it concerns, sorted by place.
    pub fn check(&self, config: &Config) -> Vec<Problem> {
        let mut concerned: HashMap<Problem, Vec<&str>> = HashMap::new();
        let mut found: BTreeSet<Problem> = self.problems.iter().cloned().collect();
        let nodes: Vec<&str> = self.nodes.names().collect();
        let evaluated = spread::map(&nodes, |node| match self.evaluate(node, config) {
            Ok((spec, _)) => spec.problems,
            Err(problem) => vec![problem],
        });
        for (node, problems) in nodes.iter().copied().zip(evaluated) {
            for problem in problems {
                let concerned = concerned.entry(problem).or_default();
                if concerned.last() != Some(&node) {
                    concerned.push(node);
                }
            }
        }
        let all = nodes.len();
        found.extend(concerned.into_iter().map(|(mut problem, nodes)| {
            problem.message.push_str(&concerns(&nodes, all));
            problem
        }));
        let images = self.images();
        for image in &images {
            found.extend(self.rows_of(image).problems.iter().cloned());
        }
        found.extend(self.unknown_images(&images));
        found.into_iter().collect()
    }

    /// Rows of litefile and litetree whose image column means no image.
    fn unknown_images(&self, images: &[ImageSpec]) -> Vec<Problem> {
        let mut known: BTreeSet<String> = ["ALL".to_owned(), String::new()].into();
        for image in images {
            known.insert(image.name.clone());
            known.extend(image.groups.iter().cloned());
        }
        for row in self.book.table("osimage").into_iter().flat_map(Table::rows) {
            known.insert(row.text("imagename").into_owned());
            known.extend(nodes::split_list(&row.text("groups")));
        }
        let help = |image: &str| match nearest::hint(image, known.iter().map(String::as_str)) {
            hint if hint.is_empty() => {
                "write an osimage's name, one of its groups, ALL or nothing".to_owned()
            }
            hint => hint,
        };
        // Once a value: many rows may have it.
        let unknown = |columns: &litefile::Columns| -> Vec<Option<String>> {
            let help = |image: &str| (!known.contains(image)).then(|| help(image));
            columns.values().map(help).collect()
        };
        let (lite, trees) = (unknown(&self.lite.columns), unknown(&self.trees.columns));
        let problem = |table: &str, row: usize, help: &Option<String>| {
            let help = help.as_ref()?;
            let row = self.book.table(table)?.row(row)?;
            let message = format!(
                "\"{}\" is no image and no group of images: the row is never used",
                row.text("image").trim()
            );
            Some(Problem::warning(row.at("image"), message, help))
        };
        let of_lite = self.lite.rows.iter();
        let of_trees = self.trees.rows.iter();
        let of_lite = of_lite.filter_map(|row| problem("litefile", row.row, &lite[row.column]));
        let of_trees = of_trees.filter_map(|row| problem("litetree", row.row, &trees[row.column]));
        of_lite.chain(of_trees).collect()
    }

    /// Each row that xCAT would refuse, and why; the rows that this program can't use are not
    /// among them: [`check`](Self::check) has those.
    pub fn check_strict_xcat(&self) -> Vec<Problem> {
        let images = self.images();
        let found = spread::map(&images, |image| {
            let (rows, mut problems) = (self.rows_of(image), Vec::new());
            if let Some(table) = self.book.table("litefile") {
                strict::litefile(table, &self.lite, &rows, &mut problems);
            }
            if let Some(table) = self.book.table("litetree") {
                let rank = |column: &str| images::rank(column, &image.name, &image.groups);
                strict::litetree(table, &self.trees, &rows, rank, &mut problems);
            }
            problems
        });
        let mut problems = found.concat();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// " (node cn1)", " (nodes cn1, cn2 and 7 more)" or " (every node)".
pub(crate) fn concerns(nodes: &[&str], all: usize) -> String {
    const SHOWN: usize = 3;
    match nodes {
        [node] => format!(" (node {node})"),
        _ if nodes.len() == all => " (every node)".to_owned(),
        _ if nodes.len() <= SHOWN => format!(" (nodes {})", nodes.join(", ")),
        _ => format!(
            " (nodes {} and {} more)",
            nodes[..SHOWN].join(", "),
            nodes.len() - SHOWN
        ),
    }
}
