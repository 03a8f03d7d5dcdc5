//! Man pages and shell completions, made from the clap types.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Print completions for a shell
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// bash, zsh, fish, …
    shell: Shell,
}

/// Write man pages into a directory
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// The directory.
    dir: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "statelite", &mut text);
    super::say(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir)?;
    Ok(ExitCode::SUCCESS)
}
