//! `statelite top`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Failure, Globals, print_json, say};
use crate::config::Config;
use crate::metrics::Address;
use crate::top::{Feed, Sort, live, print};

const ABOUT: &str = "Show what the nodes do: requests, latency, errors, tmpfs

Reads the metrics of a running daemon (`metrics` in the configuration, or --metrics). On a terminal the
view is live: q ends it, s changes the order, arrows move. Otherwise, and with --once, it says once
what happened in one interval.

Times are from a request's arrival to its answer. Errors are all that programs are told, as ENOENT;
failures are EIO, ENOSPC, EDQUOT, EMFILE and ENFILE.";

/// Show what the nodes do: requests, latency, errors, tmpfs
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct TopArgs {
    /// Seconds between two looks.
    #[arg(long, value_name = "S", default_value = "2", value_parser = interval)]
    interval: Duration,
    /// One interval as text, also on a terminal.
    #[arg(long)]
    once: bool,
    /// What comes first.
    #[arg(long, value_name = "BY", default_value = "requests")]
    sort: By,
    /// The endpoint, as 127.0.0.1:9471 or unix:/run/statelite/metrics.sock; over the
    /// configuration's `metrics`.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Address>,
}

#[derive(Clone, Copy, Debug)]
struct By(Sort);

impl ValueEnum for By {
    fn value_variants<'a>() -> &'a [By] {
        const ALL: [By; Sort::ALL.len()] = [
            By(Sort::Requests),
            By(Sort::Latency),
            By(Sort::Tmpfs),
            By(Sort::Errors),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(self.0.word().into())
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("0.1 to 3600 seconds are possible".into()),
    }
}

pub(super) fn run(globals: &Globals, config: &Config, args: &TopArgs) -> Result<ExitCode, Failure> {
    let address = args.metrics.as_ref().or(config.metrics.as_ref()).ok_or(
        "there are no metrics: set metrics = \"127.0.0.1:9471\" or \
         \"unix:/run/statelite/metrics.sock\" in the configuration and mount again, or say where \
         they are with --metrics",
    )?;
    let feed = Feed::start(address.clone(), args.interval)?;
    let terminal = |stream| rustix::termios::isatty(stream);
    let interactive = terminal(rustix::stdio::stdin()) && terminal(rustix::stdio::stdout());
    if interactive && !args.once && !globals.json {
        live(&feed, args.sort.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = feed.first()?;
    report.sort(args.sort.0);
    if globals.json {
        print_json(&report)?;
    } else {
        say(&print(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
