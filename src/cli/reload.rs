//! `statelite reload`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;

use super::{Failure, Globals, print_json, say};
use crate::config::Config;
use crate::control::{self, Ask, Change, NodeChange, Outcome, Reloaded, Written};

const ABOUT: &str = "Let the daemon read tables and configuration anew

They are read, checked and compiled beside the ones in force. If there is an error, nothing changes, and
each is printed as file:line:column: error: what is wrong (what to do). Otherwise nodes that are new are
mounted, those that are gone are unmounted, and those that differ go by the new rules; others are not
touched. What that hides of a node's own files, or shows again, is said.

Exit codes: 0 done; 1 refused, or some node failed; 3 no daemon answers; 5 a root is in use, and keeps its
rules until it is not.";

/// Let the daemon read tables and configuration anew
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ReloadArgs {}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    _args: &ReloadArgs,
) -> Result<ExitCode, Failure> {
    let reloaded: Reloaded = control::ask(&config.control, Ask::Reload {})?;
    if globals.json {
        print_json(&reloaded)?;
    } else {
        for found in &reloaded.problems {
            eprintln!("{}", found.text);
        }
        say(&text(&reloaded))?;
    }
    if !reloaded.applied {
        return Ok(ExitCode::FAILURE);
    }
    Ok(super::worst(reloaded.nodes.iter().map(|node| node.outcome)))
}

fn text(reloaded: &Reloaded) -> String {
    if !reloaded.applied {
        return "refused: all goes on as before\n".into();
    }
    let mut out = String::new();
    for key in &reloaded.restart {
        out.push_str(&format!("{key} counts when the daemon is started again\n"));
    }
    // A rule of an image changes a thousand nodes alike: that is said once.
    let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in &reloaded.nodes {
        alike.entry(said(node)).or_default().push(&node.node);
    }
    for (said, nodes) in alike {
        let names = match nodes[..] {
            [one] => one.into(),
            [one, two] => format!("{one} and {two}"),
            [one, two, ..] => format!("{one}, {two} and {} more", nodes.len() - 2),
            [] => String::new(),
        };
        out.push_str(&format!("{names}: {said}"));
    }
    out.push_str(&format!(
        "{} changed, {} unchanged\n",
        reloaded.nodes.len(),
        reloaded.unchanged
    ));
    out
}

fn said(node: &NodeChange) -> String {
    let what = match (node.change, node.outcome) {
        (Change::Added, Outcome::Failed) => "new, not mounted",
        (Change::Added, _) => "new, mounted",
        (Change::Removed, Outcome::Done) => "gone, unmounted",
        (Change::Removed, Outcome::Detached) => "gone, unmounted while in use",
        (Change::Removed, _) => "gone, not unmounted",
        (Change::Changed, Outcome::Done) => "goes by the new rules",
        (Change::Remounted, Outcome::Done) => "mounted again, by the new rules",
        (Change::Changed | Change::Remounted, Outcome::Already) => "changed",
        (Change::Changed | Change::Remounted, _) => "keeps the old rules for now",
    };
    let mut out = String::from(what);
    if let Some(message) = &node.message {
        out.push_str(&format!(": {message}"));
    }
    out.push('\n');
    let mut line = |text: String| out.push_str(&format!("  {text}\n"));
    for (sign, rules) in [
        ("+", &node.rules_added),
        ("-", &node.rules_removed),
        ("*", &node.options_changed),
        ("*", &node.settings),
    ] {
        for rule in rules {
            line(format!("{sign} {rule}"));
        }
    }
    for (word, list) in [("hides", &node.hides), ("shows again", &node.shows)] {
        for found in list {
            line(format!("{word} {}", written(found)));
        }
    }
    out
}

fn written(found: &Written) -> String {
    let Written {
        path,
        upper,
        count,
        entries,
    } = found;
    let more = match count - entries.len().min(*count) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "what {path} has in the {upper} upper: {}{more}",
        entries.join(" ")
    )
}
