//! `statelite reset`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Globals, load_tables, print_json, say};
use crate::config::Config;
use crate::fleet;

const ABOUT: &str = "Do to nodes what a reboot does

The tmpfs upper is emptied; what is persistent or on a local disk stays. Refused while a node's root
is mounted, unless forced: programs in it would lose their files.";

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

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ResetArgs,
) -> Result<ExitCode, Failure> {
    let tables = load_tables(config)?;
    let mut all = Vec::new();
    for node in tables.noderange(&args.node)? {
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
