//! `statelite serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, log_to_file, start_logging};
use crate::fleet::{Beginning, ServeOptions, serve};
use crate::holder::{self, link};
use crate::logs::Limiter;

const ABOUT: &str = "Mount the roots of many nodes, and keep them mounted

One process serves all nodes that have an image, or those that are named; each root is mounted on a
directory of the node's name. It stays in the foreground, as systemd wants it: SIGTERM and SIGINT
unmount everything, SIGHUP reads tables and configuration anew. A node that can't be mounted is tried
again until it can be. What it does is asked and told with status, reload, mount, umount and reset.

A second process, the worker, does the work. When that ends, however it does, the first starts another,
which goes on with every root as it is: programs in them wait for a moment. SIGUSR2 and statelite upgrade
have a new program take over in the same way.

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

/// The process that stays, or one of those that it starts.
pub(super) fn run(
    globals: &Globals,
    args: &ServeArgs,
    limiter: &Limiter,
) -> Result<ExitCode, Failure> {
    if !link::is_worker() {
        return Ok(holder::run()?);
    }
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let options = ServeOptions {
        config: absolute(&globals.config)?,
        tables: absolute(&globals.tables)?,
        root: absolute(&args.root)?,
        nodes: args.nodes.clone(),
    };
    log_to_file(globals)?;
    let beginning = Beginning::wait(&options)?;
    start_logging(globals, &beginning.config(&options)?, true, limiter)?;
    serve(options, beginning)?;
    Ok(ExitCode::SUCCESS)
}
