//! `statelite check`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::progress::Progress;
use super::{Failure, Globals, load_tables, print_json, say};
use crate::config::Config;
use crate::fleet::{BuildError, PlanError, Shared, Use, plan, planned_view};
use crate::tables::{Problem, Severity, Tables, spread};

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
    if !args.tables_only {
        problems.extend(look(&tables, config, &nodes));
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

/// What is wrong beside the tables: paths that can't be in an image, and what is missing now.
fn look(tables: &Tables, config: &Config, nodes: &[String]) -> BTreeSet<Problem> {
    let plan = plan(tables, config, nodes, None);
    let mut problems: BTreeSet<Problem> = plan.problems().into_iter().collect();
    let failed = |error: &BuildError| {
        let at = crate::tables::Origin {
            file: config.tables.clone(),
            ..Default::default()
        };
        Problem::error(at, error.to_string(), "")
    };
    for (_, error) in plan.refused() {
        match error {
            // Said by the check of the tables.
            PlanError::Tables(_) => {}
            PlanError::Image(error) => {
                problems.insert(failed(error));
            }
        }
    }
    let mut progress = Progress::new("nodes checked", nodes.len());
    let shared = Shared::for_a_look();
    for some in plan.nodes().chunks(256) {
        let looked = spread::map(some, |node| planned_view(node, config, Use::Look, &shared));
        for looked in looked {
            progress.step();
            match looked {
                Ok(built) => problems.extend(built.problems),
                Err(error) => {
                    problems.insert(failed(&error));
                }
            }
        }
    }
    problems
}
