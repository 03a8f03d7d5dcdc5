//! `statelite umount`, and `statelite mount` of nodes that the daemon serves.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, Done, Outcome};

const ABOUT: &str = "Let the daemon unmount nodes

They stay unmounted until `statelite mount NODES` asks for them, or the daemon is started again. What
they have written stays, in the tmpfs too.

Exit codes: 0 done; 1 failed; 3 no daemon answers; 5 a root is in use, and stays.";

/// Let the daemon unmount nodes
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct UmountArgs {
    /// A node, or a noderange.
    nodes: String,
    /// Also what is in use: out of the tree now, and away with its last user.
    #[arg(long, short)]
    lazy: bool,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &UmountArgs,
) -> Result<ExitCode, Failure> {
    let ask = Ask::Umount {
        nodes: args.nodes.clone(),
        lazy: args.lazy,
    };
    tell(globals, config, ask, ["unmounted", "was not mounted"])
}

/// `statelite mount NODES`.
pub(super) fn mount(globals: &Globals, config: &Config, nodes: &str) -> Result<ExitCode, Failure> {
    let nodes = nodes.to_owned();
    tell(
        globals,
        config,
        Ask::Mount { nodes },
        ["mounted", "was mounted"],
    )
}

fn tell(
    globals: &Globals,
    config: &Config,
    ask: Ask,
    [done, already]: [&str; 2],
) -> Result<ExitCode, Failure> {
    let answer: Done = control::ask(&config.control, ask)?;
    if globals.json {
        print_json(&answer)?;
    } else {
        for node in &answer.nodes {
            let what = match node.outcome {
                Outcome::Done => done,
                Outcome::Already => already,
                Outcome::Detached => "unmounted, in use",
                Outcome::Busy => "in use",
                Outcome::Failed => "failed",
            };
            let name = &node.node;
            match (&node.message, node.outcome) {
                (Some(why), Outcome::Busy | Outcome::Failed) => {
                    eprintln!("statelite: {name}: {what}: {why}");
                }
                (Some(why), _) => say(&format!("{name}: {what}: {why}\n"))?,
                (None, _) => say(&format!("{name}: {what}\n"))?,
            }
        }
        for name in &answer.elsewhere {
            eprintln!("statelite: {name}: the daemon does not serve it");
        }
    }
    if !answer.elsewhere.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(super::worst(answer.nodes.iter().map(|node| node.outcome)))
}
