//! `statelite serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals};
use crate::fleet::{ServeOptions, serve};

const ABOUT: &str = "Mount the roots of many nodes, and keep them mounted

One process serves all nodes that have an image, or those that are named; each root is mounted on a
directory of the node's name. It stays in the foreground, as systemd wants it: SIGTERM and SIGINT
unmount everything, SIGHUP reads tables and configuration anew. A node that can't be mounted is tried
again until it can be. What it does is asked and told with status, reload, mount, umount and reset.

Exit codes: 0 stopped; 1 it could not start; 5 another daemon has the control socket.";

/// Mount the roots of many nodes, and keep them mounted
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ServeArgs {
    /// A noderange [default: every node that has an image].
    nodes: Option<String>,
    /// Where the roots are mounted, DIR/NODE; over the configuration's `root`.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

pub(super) fn run(globals: &Globals, args: &ServeArgs) -> Result<ExitCode, Failure> {
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    serve(ServeOptions {
        config: absolute(&globals.config)?,
        tables: absolute(&globals.tables)?,
        root: absolute(&args.root)?,
        nodes: args.nodes.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}
