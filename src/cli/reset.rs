//! `statelite reset`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Globals, load_tables, of_daemon, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, Outcome};
use crate::fleet;

const ABOUT: &str = "Do to nodes what a reboot does

The tmpfs upper is emptied; what is persistent or on a local disk stays. Refused while a node's root
is mounted, unless forced: programs in it would lose their files. A root that the daemon serves is then
unmounted, whoever uses it, and mounted again.";

/// Do to nodes what a reboot does
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ResetArgs {
    /// A node, or a noderange.
    node: String,
    /// Also where the root is mounted.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Done {
    node: String,
    /// There was something to reset.
    reset: bool,
    error: Option<String>,
}

impl Done {
    fn of_daemon(done: control::NodeDone) -> Done {
        let reset = done.outcome == Outcome::Done;
        let failed = matches!(done.outcome, Outcome::Busy | Outcome::Failed);
        Done {
            node: done.node,
            reset,
            error: failed.then(|| done.message.unwrap_or_default()),
        }
    }
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ResetArgs,
) -> Result<ExitCode, Failure> {
    let mut all = Vec::new();
    let ask = Ask::Reset {
        nodes: args.node.clone(),
        force: args.force,
    };
    let nodes = match of_daemon::<control::Done>(config, ask)? {
        Some(done) => {
            all.extend(done.nodes.into_iter().map(Done::of_daemon));
            done.elsewhere
        }
        None => load_tables(config)?.noderange(&args.node)?,
    };
    for node in nodes {
        let (reset, error) = match fleet::reset(config, &node, args.force) {
            Ok(reset) => (reset, None),
            Err(error) => (false, Some(error.to_string())),
        };
        all.push(Done { node, reset, error });
    }
    if globals.json {
        print_json(&all)?;
    } else {
        for done in &all {
            match &done.error {
                Some(error) => eprintln!("statelite: {error}"),
                None if done.reset => say(&format!("{}: tmpfs upper emptied\n", done.node))?,
                None => say(&format!("{}: no tmpfs upper, nothing to do\n", done.node))?,
            }
        }
    }
    let failed = all.iter().any(|done| done.error.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
