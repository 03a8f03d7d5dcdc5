//! `statelite upgrade`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, Upgraded};

const ABOUT: &str = "Have another program take over all roots, while they are used

The program is started beside the one that serves, looks at what that one has and says whether it can go on
with it. Only then the old one ends, and the new one goes on: programs in the roots wait for a moment. Where
it can't, or fails at once, the old one serves on or again, and it is said why.

The process that systemd knows stays what it is until the service is restarted, which keeps the roots, too.

Exit codes: 0 the new program serves; 1 it does not, the old one does; 3 no daemon answers.";

/// Have another program take over all roots
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct UpgradeArgs {
    /// The program [default: what lies now where the one that serves was started from].
    #[arg(value_name = "FILE")]
    program: Option<PathBuf>,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &UpgradeArgs,
) -> Result<ExitCode, Failure> {
    let program = args.program.as_ref().map(std::path::absolute).transpose()?;
    let upgraded: Upgraded = control::ask(&config.control, Ask::Upgrade { program })?;
    match globals.json {
        true => print_json(&upgraded)?,
        false => say(&format!(
            "version {} serves, process {}\n",
            upgraded.version, upgraded.pid
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}
