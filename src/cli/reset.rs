//! `statelite reset`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Globals, load_tables, of_daemon, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, Boot, Outcome};
use crate::fleet;

const ABOUT: &str = "Do to nodes what a reboot does

The tmpfs upper is emptied; what is persistent or on a local disk stays. Refused while a node's root
is mounted, unless forced: programs in it would lose their files. A root that the daemon serves is then
unmounted, whoever uses it, and mounted again.

--on-boot is for hooks of DHCP and TFTP servers, which call it when a node boots: it forces a root that the
daemon serves, and does so once a boot, however often it is called. Calls with one --token are of one boot;
without a token, those within boot_window (configuration, 1m) of the call that reset the node. A hook must
not call it for what a running node asks for, such as the renewal of its lease. NODE may be an address.";

/// Do to nodes what a reboot does
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ResetArgs {
    /// A node, or a noderange.
    node: String,
    /// Also where the root is mounted.
    #[arg(long)]
    force: bool,
    /// Since it boots: once a boot.
    #[arg(long)]
    on_boot: bool,
    /// What all calls of one boot have in common, such as an identifier that the boot loader made.
    #[arg(long, value_name = "TEXT", requires = "on_boot")]
    token: Option<String>,
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
    let boot = args.on_boot.then(|| Boot {
        token: args.token.clone(),
    });
    let ask = Ask::Reset {
        nodes: args.node.clone(),
        force: args.force,
        boot: boot.clone(),
    };
    let nodes = match of_daemon::<control::Done>(config, ask)? {
        Some(done) => {
            all.extend(done.nodes.into_iter().map(Done::of_daemon));
            done.elsewhere
        }
        None => {
            let tables = load_tables(config)?;
            let address = args.node.parse().ok().filter(|_| args.on_boot);
            let node = address.and_then(|ip| tables.node_of_address(ip));
            tables.noderange(node.as_ref().unwrap_or(&args.node))?
        }
    };
    for node in nodes {
        let went = match &boot {
            Some(boot) => fleet::reset_on_boot(config, &node, boot, args.force),
            None => fleet::reset(config, &node, args.force),
        };
        let (reset, error) = match went {
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
                None => say(&format!("{}: nothing to do\n", done.node))?,
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
