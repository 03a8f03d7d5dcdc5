//! The command line: clap types, and one file a command. Human output on standard output, `--json`
//! for programs, diagnostics on standard error.
//!
//! Exit codes: 0 done; 1 the input has problems, or the work failed; 2 the command line is wrong.

mod mount;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A live root for every diskless node, merged from image, litetree and writable layers.
#[derive(Debug, Parser)]
#[command(name = "statelite", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Globals {
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter such as
    /// `statelite::fs=debug`.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// Where the background process logs; without it, nowhere once the mount is ready.
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::MountArgs),
}

/// Parses the command line, runs the command and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.globals);
    let done = match &cli.command {
        Command::Mount(args) => mount::run(&cli.globals, args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("statelite: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a command fails with: a sentence for people.
type Failure = Box<dyn std::error::Error>;

fn start_logging(globals: &Globals) {
    use tracing_subscriber::EnvFilter;
    let filter = globals.log.as_deref().unwrap_or("warn");
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
