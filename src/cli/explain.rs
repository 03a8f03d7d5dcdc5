//! `statelite explain`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, load_tables, of_daemon, print_json, say, tell};
use crate::config::Config;
use crate::control::{Ask, Explained, PathAnswer};
use crate::fleet::{Shared, Use, plan, planned_view, shown};

const ABOUT: &str = "Say why a path of a node's root is what it is

Which rule governs it, which layers were looked at, what was found in each, which one won, and where
a write would go. The same code answers that serves the mounted root; where a daemon serves the node, its
mounted root is asked.";

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

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ExplainArgs,
) -> Result<ExitCode, Failure> {
    let mut answers = Vec::new();
    let rest = match of_live_views(config, args)? {
        Some(explained) => {
            answers = explained.answers;
            Some(explained.elsewhere)
        }
        None => None,
    };
    // What the daemon does not serve is asked of tables and layers as they are now.
    if rest.as_ref().is_none_or(|rest| !rest.is_empty()) {
        let tables = load_tables(config)?;
        let shared = Shared::for_a_look();
        let nodes = match rest {
            Some(rest) => rest,
            None => tables.noderange(&args.node)?,
        };
        let plan = plan(&tables, config, &nodes, None);
        if let Some((_, error)) = plan.refused().first() {
            return Err(error.to_string().into());
        }
        for planned in plan.nodes() {
            let (spec, node) = (planned.spec(), &planned.spec().node);
            tell(&planned.problems());
            let built = planned_view(planned, config, Use::Look, &shared)?;
            tell(&built.problems);
            for path in &args.paths {
                let why = built
                    .view
                    .explain(path.as_bytes())
                    .map_err(|e| format!("{node}: {}: {e}", path.to_string_lossy()))?;
                let row = why.rule.map(|rule| &*built.rows[rule]);
                answers.push(shown::path_answer(spec, row, why));
            }
        }
    }
    if globals.json {
        print_json(&answers)?;
    } else {
        let texts: Vec<String> = answers.iter().map(text).collect();
        say(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A path that is no UTF-8 can't be asked over the socket.
fn of_live_views(config: &Config, args: &ExplainArgs) -> Result<Option<Explained>, Failure> {
    let paths = args
        .paths
        .iter()
        .map(|path| path.to_str().map(str::to_owned));
    let Some(paths) = paths.collect::<Option<Vec<String>>>() else {
        return Ok(None);
    };
    let nodes = args.node.clone();
    of_daemon(config, Ask::Explain { nodes, paths })
}

fn text(answer: &PathAnswer) -> String {
    let PathAnswer {
        node,
        image,
        rule,
        row,
        why,
    } = answer;
    let mut out = format!("{node}:{}\n", why.path);
    let mut line = |key: &str, value: &str| out.push_str(&format!("  {key:<10} {value}\n"));
    line("image", image);
    match (row, rule) {
        (Some(row), Some(at)) => line("rule", &format!("{row}, {at}")),
        _ => line("rule", "none"),
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
