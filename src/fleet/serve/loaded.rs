//! Tables and configuration as they were read together: what all nodes are to be.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::node::Wanted;
use crate::config::Config;
use crate::tables::{CsvDir, Origin, Problem, Severity, Tables, TablesError};

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

/// One reading.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<Config>,
    pub(super) tables: Tables,
    /// Every node that is to be served.
    pub(super) nodes: BTreeMap<String, Wanted>,
    /// All that is wrong with it.
    pub(super) problems: Vec<Problem>,
}

impl Loaded {
    /// The configuration, with the command line's words over it.
    pub(super) fn config(options: &ServeOptions) -> Result<Config, String> {
        let mut config =
            Config::load(options.config.as_deref()).map_err(|error| error.to_string())?;
        if let Some(tables) = &options.tables {
            config.tables.clone_from(tables);
        }
        if let Some(root) = &options.root {
            config.root.clone_from(root);
        }
        Ok(config)
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// A sentence, where there is nothing to go by.
    pub(super) fn read(options: &ServeOptions) -> Result<Loaded, String> {
        let config = Self::config(options)?;
        if !config.tables.is_dir() {
            let dir = config.tables.display();
            return Err(format!(
                "{dir}: no such directory; tables are read from it, one TABLE.csv each"
            ));
        }
        let tables = Tables::load(&CsvDir::new(&config.tables));
        let names = match &options.nodes {
            Some(range) => tables.noderange(range).map_err(|error| error.to_string())?,
            None => tables.nodes(),
        };
        let mut nodes = BTreeMap::new();
        for name in names {
            let wanted = match tables.node(&name, &config) {
                Ok(spec) => Ok(Arc::new(spec)),
                // A switch, a login node: none of ours, unless it was named.
                Err(TablesError::NoImage { problem, .. })
                    if problem.severity == Severity::Warning && options.nodes.is_none() =>
                {
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            nodes.insert(name, wanted);
        }
        let mut problems = tables.check(&config);
        if nodes.is_empty() {
            let at = Origin {
                file: config.tables.clone(),
                ..Origin::default()
            };
            let help = "give nodes an image in nodetype and osimage, or name others";
            problems.push(Problem::error(at, "no node is to be served", help));
        }
        Ok(Loaded {
            config: Arc::new(config),
            tables,
            nodes,
            problems,
        })
    }
}
