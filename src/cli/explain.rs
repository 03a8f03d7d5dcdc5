//! `statelite explain`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Globals, load_tables, print_json, say, tell};
use crate::config::Config;
use crate::fleet::build::{option_word, rule_path};
use crate::fleet::{Shared, Use, plan, planned_view};
use crate::fs::explain::Explanation;
use crate::tables::RuleRow;

const ABOUT: &str = "Say why a path of a node's root is what it is

Which rule governs it, which layers were looked at, what was found in each, which one won, and where
a write would go. The same code answers that serves the mounted root.";

/// Say why a path of a node's root is what it is
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ExplainArgs {
    /// A node, or a noderange.
    node: String,
    /// Paths in the node's root.
    #[arg(required = true)]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct Answer {
    node: String,
    image: String,
    /// The litefile row that governs, as file:line:column.
    rule: Option<String>,
    #[serde(flatten)]
    why: Explanation,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ExplainArgs,
) -> Result<ExitCode, Failure> {
    let tables = load_tables(config)?;
    let shared = Shared::for_a_look();
    let mut answers = Vec::new();
    let plan = plan(&tables, config, &tables.noderange(&args.node)?, None);
    if let Some((_, error)) = plan.refused().first() {
        return Err(error.to_string().into());
    }
    for planned in plan.nodes() {
        let spec = planned.spec();
        let node = &spec.node;
        tell(&planned.problems());
        let built = planned_view(planned, config, Use::Look, &shared)?;
        tell(&built.problems);
        for path in &args.paths {
            let why = built
                .view
                .explain(path.as_bytes())
                .map_err(|e| format!("{node}: {}: {e}", path.to_string_lossy()))?;
            let row = why.rule.map(|rule| &*built.rows[rule]);
            let text = text(node, &spec.image.name, row, &why);
            let rule = row.map(|row| row.at.to_string());
            let image = spec.image.name.clone();
            answers.push((
                text,
                Answer {
                    node: node.clone(),
                    image,
                    rule,
                    why,
                },
            ));
        }
    }
    if globals.json {
        let answers: Vec<&Answer> = answers.iter().map(|(_, answer)| answer).collect();
        print_json(&answers)?;
    } else {
        let texts: Vec<&str> = answers.iter().map(|(text, _)| text.as_str()).collect();
        say(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(node: &str, image: &str, row: Option<&RuleRow>, why: &Explanation) -> String {
    let mut out = format!("{node}:{}\n", why.path);
    let mut line = |key: &str, value: &str| out.push_str(&format!("  {key:<10} {value}\n"));
    line("image", image);
    match row {
        Some(row) => {
            let rule = format!("{} {}, {}", rule_path(row), option_word(row), row.at);
            line("rule", &rule);
        }
        None => line("rule", "none"),
    }
    line("zone", &format!("{} ({})", why.zone, why.option));
    for look in &why.layers {
        let mark = if look.wins { "*" } else { " " };
        line(
            "",
            &format!("{mark} {:<16} {:<17} {}", look.layer, look.found, look.path),
        );
    }
    let shows = match why.number {
        Some(number) => format!("{}, inode {number}, {}", why.shows, why.from),
        None => format!("{}: {}", why.shows, why.from),
    };
    line("shows", &shows);
    line(
        "writes to",
        why.writes_to.as_deref().unwrap_or("nowhere: EROFS"),
    );
    if let Some(warning) = &why.warning {
        line("warning", warning);
    }
    if why.guarded {
        line(
            "note",
            "a rule's own path or above one: always there, not removed or renamed",
        );
    }
    out
}
