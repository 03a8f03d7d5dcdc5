//! What the tables say of a node, and why a path is what it is, in the form in which the commands
//! show it. Whoever answers, the daemon or the command itself, says it with these.

use serde::Serialize;

use super::build::{option_word, rule_path};
use crate::control::PathAnswer;
use crate::fs::explain::Explanation;
use crate::tables::{NodeSpec, RuleRow};

#[derive(Serialize)]
struct Image<'a> {
    #[serde(flatten)]
    spec: &'a NodeSpec,
    /// Where this server looks for the node's persistent files.
    persistent: Option<String>,
}

/// For programs.
///
/// # Errors
/// None that is known: a specification is made of what JSON has.
pub fn json(spec: &NodeSpec) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(Image {
        spec,
        persistent: persistent(spec),
    })
}

fn persistent(spec: &NodeSpec) -> Option<String> {
    let store = spec.store.as_ref()?;
    Some(store.location.path.join(&spec.node).display().to_string())
}

/// For people.
pub fn text(spec: &NodeSpec) -> String {
    let mut out = format!("{}\n", spec.node);
    let mut line = |key: &str, value: &str| out.push_str(&format!("  {key:<11} {value}\n"));
    line("groups", &spec.groups.join(","));
    line(
        "image",
        &format!("{}, {}", spec.image.name, spec.image.rootimg.display()),
    );
    line(
        "persistent",
        persistent(spec)
            .as_deref()
            .unwrap_or("none: no statelite row"),
    );
    for (at, row) in spec.rules.iter().enumerate() {
        let key = if at == 0 { "litefile" } else { "" };
        line(key, &format!("{:<16} {}", option_word(row), rule_path(row)));
    }
    for (at, tree) in spec.trees.iter().enumerate() {
        let key = if at == 0 { "litetree" } else { "" };
        line(
            key,
            &format!("{:<4} {}", tree.priority, tree.location.path.display()),
        );
    }
    out
}

/// An explanation with the row that governs.
pub fn path_answer(spec: &NodeSpec, row: Option<&RuleRow>, why: Explanation) -> PathAnswer {
    PathAnswer {
        node: spec.node.clone(),
        image: spec.image.name.clone(),
        rule: row.map(|row| row.at.to_string()),
        row: row.map(|row| format!("{} {}", rule_path(row), option_word(row))),
        why,
    }
}
