//! `statelite show`.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, load_tables, of_daemon, print_json, say, tell};
use crate::config::Config;
use crate::control::{Ask, NodeShown, Shown};
use crate::fleet::shown;
use crate::tables::Tables;

const ABOUT: &str = "Show what the tables say of nodes or images

The image, the persistent directory, the litefile rules and the litetrees in order, with every
default, group and variable applied: what lslite shows. Of a node that a daemon serves, it is what the
mounted root goes by; of others, what the tables say now.";

/// Show what the tables say of nodes or images
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ShowArgs {
    /// A node, a noderange, or an image's name.
    #[arg(value_name = "NODE|IMAGE")]
    what: String,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ShowArgs,
) -> Result<ExitCode, Failure> {
    let nodes = args.what.clone();
    let (mut shown, rest) = match of_daemon::<Shown>(config, Ask::Show { nodes })? {
        Some(Shown { nodes, elsewhere }) => (nodes, Some(elsewhere)),
        None => (Vec::new(), None),
    };
    // What the daemon does not serve is said of the tables as they are now.
    if rest.as_ref().is_none_or(|rest| !rest.is_empty()) {
        let tables = load_tables(config)?;
        let nodes = match rest {
            Some(rest) => rest,
            None => nodes_of(&tables, config, &args.what)?,
        };
        for node in nodes {
            let spec = tables.node(&node, config)?;
            tell(&spec.problems);
            shown.push(NodeShown {
                text: shown::text(&spec),
                json: shown::json(&spec)?,
            });
        }
    }
    if globals.json {
        let all: Vec<_> = shown.iter().map(|node| &node.json).collect();
        print_json(&all)?;
    } else {
        let texts: Vec<_> = shown.iter().map(|node| node.text.as_str()).collect();
        say(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An image's name stands for the nodes that run it.
fn nodes_of(tables: &Tables, config: &Config, what: &str) -> Result<Vec<String>, Failure> {
    let images = tables.images();
    if !images.iter().any(|image| image.name == what) {
        return Ok(tables.noderange(what)?);
    }
    let runs = |node: &String| {
        tables
            .node(node, config)
            .is_ok_and(|spec| spec.image.name == what)
    };
    let nodes: Vec<String> = tables.nodes().into_iter().filter(runs).collect();
    if nodes.is_empty() {
        return Err(format!("no node runs image {what}").into());
    }
    Ok(nodes)
}
