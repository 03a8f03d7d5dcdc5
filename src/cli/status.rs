//! `statelite status`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;

use super::{Failure, Globals, NOT_SERVED, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, NodeStatus, State, Status, unix_seconds};

const ABOUT: &str = "Show how the daemon's nodes are

For each node: its state, since when, and why it is not served; where it is mounted, its image, and
layers that are missing. One node that is named is shown with all of its layers.

States: serving; retrying (it is tried again by itself); failed (the tables or the configuration have to
change first); unmounted (somebody unmounted it); starting.

Exit codes: 0 all are served, with all layers that they need; 3 no daemon answers; 4 some are not.";

/// Show how the daemon's nodes are
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct StatusArgs {
    /// A node, or a noderange [default: all that the daemon serves].
    nodes: Option<String>,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &StatusArgs,
) -> Result<ExitCode, Failure> {
    let nodes = args.nodes.clone();
    let status: Status = control::ask(&config.control, Ask::Status { nodes })?;
    if globals.json {
        print_json(&status)?;
    } else {
        say(&text(&status, args.nodes.is_some()))?;
    }
    let exported = status
        .daemon
        .export
        .iter()
        .all(|export| export.error.is_none());
    Ok(if exported && status.nodes.iter().all(is_well) {
        ExitCode::SUCCESS
    } else {
        NOT_SERVED.into()
    })
}

fn is_well(node: &NodeStatus) -> bool {
    // A litetree may be missing: it counts as empty, or `check` has said so.
    node.state == State::Serving && node.pending.is_none() && missing(node).next().is_none()
}

fn missing(node: &NodeStatus) -> impl Iterator<Item = String> {
    node.layers.iter().filter_map(|layer| {
        let why = layer.missing.as_ref()?;
        Some(format!("{} is missing: {why}", layer.layer))
    })
}

fn ago(seconds: u64) -> String {
    match unix_seconds(SystemTime::now()).saturating_sub(seconds) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

fn text(status: &Status, named: bool) -> String {
    let daemon = &status.daemon;
    let mut out = String::new();
    let width = status.nodes.iter().map(|node| node.node.len()).max();
    let width = width.unwrap_or(0);
    for node in &status.nodes {
        out.push_str(&format!(
            "{:width$}  {:9}  {:>7}  {}",
            node.node,
            node.state.word(),
            ago(node.since),
            node.mountpoint.display()
        ));
        if let Some(why) = &node.reason {
            out.push_str(&format!("  ({why})"));
        }
        out.push('\n');
        let mut note = |text: String| out.push_str(&format!("{:width$}  {text}\n", ""));
        if let Some(why) = &node.pending {
            note(format!("new rules are not in force: {why}"));
        }
        if node.detached > 0 {
            let n = node.detached;
            note(format!("{n} unmounted before and still in use"));
        }
        if !named {
            missing(node).for_each(note);
            continue;
        }
        let image = node.image.as_deref().unwrap_or("none");
        note(format!(
            "image {image}, {} inodes known, {} open, files by {}",
            node.inodes,
            node.open,
            node.io.as_deref().unwrap_or("nobody")
        ));
        for layer in &node.layers {
            let how = match &layer.missing {
                Some(why) => format!("missing: {why}"),
                None => layer.freshness.clone(),
            };
            note(format!(
                "{:16}  {}  {how}",
                layer.layer,
                layer.path.display()
            ));
        }
    }
    let served = status.nodes.iter().filter(|node| is_well(node)).count();
    out.push_str(&format!(
        "{served} of {} served well; process {}, for {}, {} reloads\n",
        status.nodes.len(),
        daemon.pid,
        ago(daemon.since),
        daemon.reloads
    ));
    if let Some(last) = &daemon.worker.last {
        let worker = &daemon.worker;
        out.push_str(&format!(
            "served by process {}, replaced {} times, the last time {} ago: {}\n",
            worker.pid,
            worker.replaced,
            ago(last.at),
            last.why
        ));
    }
    for other in &status.elsewhere {
        let (node, servers) = (&other.node, other.servers.join(", "));
        out.push_str(&format!("{node}: served by {servers} ({})\n", other.at));
    }
    if let Some(export) = &daemon.export {
        let (file, n) = (export.file.display(), export.nodes);
        out.push_str(&match &export.error {
            None => format!("{n} exported, {file}\n"),
            Some(why) => format!("the exports in {file} are not in step: {why}\n"),
        });
    }
    if let Some((at, errors)) = daemon.refused {
        out.push_str(&format!(
            "the last reload, {} ago, was refused for {errors} errors: statelite check names them\n",
            ago(at)
        ));
    }
    out
}
