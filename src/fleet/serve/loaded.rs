//! Tables and configuration as they were read together: what all nodes are to be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::node::{Fault, Wanted};
use super::snapshot::Snapshot;
use crate::config::Config;
use crate::fleet::{Plan, PlanError, plan};
use crate::tables::{Elsewhere, Origin, Problem, Severity, Tables, TablesError};

/// What the command line said; it holds over every reload.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// The configuration's file; the default one where it is left out.
    pub config: Option<PathBuf>,
    /// Over the configuration's `tables`.
    pub tables: Option<PathBuf>,
    /// Over the configuration's `root`.
    pub root: Option<PathBuf>,
    /// Which nodes; all that have an image where it is left out.
    pub nodes: Option<String>,
}

impl ServeOptions {
    /// The command line's words over a configuration.
    pub(super) fn over(&self, config: &mut Config) {
        if let Some(tables) = &self.tables {
            config.tables.clone_from(tables);
        }
        if let Some(root) = &self.root {
            config.root.clone_from(root);
        }
    }
}

/// One reading.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<Config>,
    /// What was read.
    pub(super) snapshot: Snapshot,
    pub(super) tables: Tables,
    /// For the next plan to share with.
    pub(super) plan: Plan,
    /// Every node that is to be served.
    pub(super) nodes: BTreeMap<String, Wanted>,
    /// Those that noderes gives to other servers.
    pub(super) elsewhere: Vec<Elsewhere>,
    /// All that is wrong with it.
    pub(super) problems: Vec<Problem>,
}

impl Loaded {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// A sentence, where there is nothing to go by.
    pub(super) fn read(options: &ServeOptions, before: Option<&Plan>) -> Result<Loaded, String> {
        Self::of(Snapshot::read(options)?, options, before)
    }

    /// Checks everything that was read.
    ///
    /// # Errors
    /// A sentence, where there is nothing to go by.
    pub(super) fn of(
        snapshot: Snapshot,
        options: &ServeOptions,
        before: Option<&Plan>,
    ) -> Result<Loaded, String> {
        let config = snapshot.config(options)?;
        let tables = Tables::load(snapshot.tables());
        let names = match &options.nodes {
            Some(range) => tables.noderange(range).map_err(|error| error.to_string())?,
            None => tables.nodes(),
        };
        let mut elsewhere = Vec::new();
        let mut names = names;
        names.retain(|name| match tables.elsewhere(name, &config) {
            None => true,
            Some(other) => {
                elsewhere.push(other);
                false
            }
        });
        let plan = plan(&tables, &config, &names, before);
        let mut nodes = wanted_of(&plan);
        if options.nodes.is_none() {
            // A switch, a login node: none of ours, unless it was named.
            for (name, error) in plan.refused() {
                if let PlanError::Tables(TablesError::NoImage { problem, .. }) = error
                    && problem.severity == Severity::Warning
                {
                    nodes.remove(name);
                }
            }
        }
        let mut problems = tables.check(&config);
        problems.extend(plan.problems());
        if nodes.is_empty() {
            let at = Origin {
                file: config.tables.clone(),
                ..Origin::default()
            };
            problems.push(match elsewhere.len() {
                0 => {
                    let help = "give nodes an image in nodetype and osimage, or name others";
                    Problem::error(at, "no node is to be served", help)
                }
                // The last of them may have moved to another server.
                n => {
                    let message =
                        format!("no node is to be served: noderes gives {n} to other servers");
                    let help =
                        "the configuration's key server is the name under which it knows this one";
                    Problem::warning(at, message, help)
                }
            });
        }
        Ok(Loaded {
            config: Arc::new(config),
            snapshot,
            tables,
            plan,
            nodes,
            elsewhere,
            problems,
        })
    }

    /// The node that has an address, where `range` is one.
    pub(super) fn by_address(&self, range: String) -> String {
        let node = range.parse().ok();
        let node = node.and_then(|ip| self.tables.node_of_address(ip));
        node.unwrap_or(range)
    }

    /// Plans nodes that had no image when everything was read.
    pub(super) fn plan_again(&self, names: &[String]) -> BTreeMap<String, Wanted> {
        wanted_of(&plan(&self.tables, &self.config, names, Some(&self.plan)))
    }
}

fn wanted_of(plan: &Plan) -> BTreeMap<String, Wanted> {
    let planned = plan.nodes().iter();
    let planned = planned.map(|node| (node.spec().node.clone(), Ok(node.clone())));
    let refused = plan.refused().iter().map(|(name, error)| {
        let fault = Fault {
            why: error.to_string(),
            lasting: matches!(error, PlanError::Tables(_)),
        };
        (name.clone(), Err(fault))
    });
    planned.chain(refused).collect()
}
