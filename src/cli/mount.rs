//! `statelite mount`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{Failure, Globals};
use crate::fleet::{Background, PlainSpec, RunError, plain_view, run_foreground, start_background};
use crate::layer::FormChoice;

/// Mount a root
#[derive(Args, Debug)]
pub(super) struct MountArgs {
    /// Read-only directories, the first on top.
    #[arg(long, value_name = "DIR[:DIR…]")]
    lower: Option<OsString>,
    /// Where changes go.
    #[arg(long, value_name = "DIR", requires = "lower", requires = "work")]
    upper: Option<PathBuf>,
    /// An empty directory on the upper's file system.
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<PathBuf>,
    /// Where to mount.
    #[arg(value_name = "MOUNTPOINT")]
    point: PathBuf,
    /// Stay in the foreground; an interrupt unmounts.
    #[arg(long, short)]
    foreground: bool,
    /// Request threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Set by the parent of a process in the background.
    #[arg(long, hide = true)]
    background: bool,
}

pub(super) fn run(globals: &Globals, args: &MountArgs) -> Result<ExitCode, Failure> {
    if !args.foreground && !args.background {
        let mut again: Vec<OsString> = std::env::args_os().skip(1).collect();
        again.push("--background".into());
        return match start_background(again, globals.log_file.as_deref()) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(RunError::NotReady { code }) => Ok(ExitCode::from(code.clamp(1, 255) as u8)),
            Err(e) => Err(e.into()),
        };
    }
    let (Some(lower), Some(upper), Some(work)) = (&args.lower, &args.upper, &args.work) else {
        return Err("--lower, --upper and --work are needed".into());
    };
    let spec = PlainSpec {
        lower: std::env::split_paths(lower).collect(),
        upper: upper.clone(),
        work: work.clone(),
        lifetime: Duration::from_secs(1),
        form: FormChoice::Auto,
    };
    let view = Arc::new(plain_view(&spec)?);
    let background = if args.background {
        Background::Yes
    } else {
        Background::No
    };
    run_foreground(view, &args.point, args.threads, background)?;
    Ok(ExitCode::SUCCESS)
}
