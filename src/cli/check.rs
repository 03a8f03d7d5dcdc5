//! `statelite check`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::progress::Progress;
use super::{Failure, Globals, load_tables, print_json, say};
use crate::config::Config;
use crate::fleet::{Shared, Use, node_view};
use crate::tables::{Problem, Severity, TablesError};

const ABOUT: &str = "Check every table, every node and the images they need

Every problem is printed as file:line:column: severity: what is wrong (what to do). The exit code is
1 where there is an error; warnings alone are 0.";

/// Check every table, every node and the images they need
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct CheckArgs {
    /// Name each litefile row that xCAT itself would refuse.
    #[arg(long)]
    strict_xcat: bool,
    /// Look at the tables alone, not at whether images and stores are there.
    #[arg(long)]
    tables_only: bool,
}

#[derive(Serialize)]
struct Report {
    problems: Vec<Problem>,
    errors: usize,
    warnings: usize,
    nodes: usize,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &CheckArgs,
) -> Result<ExitCode, Failure> {
    let tables = load_tables(config)?;
    let mut problems: BTreeSet<Problem> = tables.check(config).into_iter().collect();
    if args.strict_xcat {
        problems.extend(tables.check_strict_xcat());
    }
    let nodes = tables.nodes();
    let shared = Shared::for_a_look();
    if !args.tables_only {
        let mut progress = Progress::new("nodes checked", nodes.len());
        for node in &nodes {
            progress.step();
            let spec = match tables.node(node, config) {
                Ok(spec) => spec,
                // Said by the check of the tables.
                Err(TablesError::NoImage { .. } | TablesError::UnknownNode { .. }) => continue,
            };
            match node_view(&spec, config, Use::Look, &shared) {
                Ok(built) => problems.extend(built.problems),
                Err(error) => {
                    let at = crate::tables::Origin {
                        file: config.tables.clone(),
                        ..Default::default()
                    };
                    problems.insert(Problem::error(at, error.to_string(), ""));
                }
            }
        }
    }
    let problems: Vec<Problem> = problems.into_iter().collect();
    let errors = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    let report = Report {
        errors,
        warnings: problems.len() - errors,
        nodes: nodes.len(),
        problems,
    };
    if globals.json {
        print_json(&report)?;
    } else {
        let mut text: String = report.problems.iter().map(|p| format!("{p}\n")).collect();
        let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        text.push_str(&format!(
            "{}, {} in the tables of {}\n",
            plural(errors, "error"),
            plural(report.warnings, "warning"),
            plural(report.nodes, "node"),
        ));
        say(&text)?;
    }
    Ok(if errors > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
