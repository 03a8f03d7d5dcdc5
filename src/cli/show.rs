//! `statelite show`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Globals, load_tables, print_json, say, tell};
use crate::config::Config;
use crate::fleet::build::{option_word, rule_path};
use crate::tables::{NodeSpec, Tables};

const ABOUT: &str = "Show what the tables say of nodes or images

The image, the persistent directory, the litefile rules and the litetrees in order, with every
default, group and variable applied: what lslite shows.";

/// Show what the tables say of nodes or images
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ShowArgs {
    /// A node, a noderange, or an image's name.
    #[arg(value_name = "NODE|IMAGE")]
    what: String,
}

#[derive(Serialize)]
struct Image<'a> {
    #[serde(flatten)]
    spec: &'a NodeSpec,
    /// Where this server looks for the node's persistent files.
    persistent: Option<String>,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ShowArgs,
) -> Result<ExitCode, Failure> {
    let tables = load_tables(config)?;
    let nodes = nodes(&tables, config, &args.what)?;
    let mut specs = Vec::new();
    for node in nodes {
        let spec = tables.node(&node, config)?;
        tell(&spec.problems);
        specs.push(spec);
    }
    if globals.json {
        let shown: Vec<Image> = specs
            .iter()
            .map(|spec| Image {
                spec,
                persistent: persistent(spec),
            })
            .collect();
        print_json(&shown)?;
    } else {
        let texts: Vec<String> = specs.iter().map(text).collect();
        say(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An image's name stands for the nodes that run it.
fn nodes(tables: &Tables, config: &Config, what: &str) -> Result<Vec<String>, Failure> {
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

fn persistent(spec: &NodeSpec) -> Option<String> {
    let store = spec.store.as_ref()?;
    Some(store.location.path.join(&spec.node).display().to_string())
}

fn text(spec: &NodeSpec) -> String {
    let mut out = format!("{}\n", spec.node);
    let mut line = |key: &str, value: &str| out.push_str(&format!("  {key:<11} {value}\n"));
    line("groups", &spec.groups.join(","));
    line(
        "image",
        &format!("{}, {}", spec.image.name, spec.image.rootimg.display()),
    );
    line(
        "persistent",
        persistent(spec)
            .as_deref()
            .unwrap_or("none: no statelite row"),
    );
    for (at, row) in spec.rules.iter().enumerate() {
        let key = if at == 0 { "litefile" } else { "" };
        line(key, &format!("{:<16} {}", option_word(row), rule_path(row)));
    }
    for (at, tree) in spec.trees.iter().enumerate() {
        let key = if at == 0 { "litetree" } else { "" };
        line(
            key,
            &format!("{:<4} {}", tree.priority, tree.location.path.display()),
        );
    }
    out
}
