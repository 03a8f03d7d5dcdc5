//! The statelite table: where a node's persistent files live.
//!
//! Owns: that table. May not: look whether the store is there.

use super::context::Context;
use super::{Problem, StoreRow, location, values, vars};

const TABLE: &str = "statelite";

/// The node's store; what is wrong goes into the context.
pub(crate) fn evaluate(context: &mut Context<'_>) -> Option<StoreRow> {
    let (book, node, groups) = (context.book, context.node, context.groups);
    let keys = std::iter::once(node).chain(groups.iter().map(String::as_str));
    let row = book.first(TABLE, keys, "statemnt")?;
    // "/gpfs/state/" is a path here, not the regular expression "gpfs".
    let raw = row.get("statemnt");
    let is_path = std::str::from_utf8(raw).is_ok_and(values::looks_like_slashes);
    let value = if is_path {
        raw.into()
    } else {
        let found = keep(context, book.value_of(row, "statemnt", node))??;
        context.problems.extend(found.warning);
        found.value
    };
    let as_written = value == raw;
    let place = |offset| {
        if as_written {
            row.at_byte("statemnt", offset)
        } else {
            row.at("statemnt")
        }
    };
    let text = vars::expand(context, &value, &place)?;
    let location = match location::resolve(context, &text) {
        Ok(location) => location,
        Err((offset, what, help)) => {
            let at = if text == raw {
                place(offset)
            } else {
                row.at("statemnt")
            };
            let message = format!("{what}: \"{}\"", String::from_utf8_lossy(&text));
            context.problems.push(Problem::error(at, message, help));
            return None;
        }
    };
    if location.path.file_name().is_some_and(|last| last == node) {
        context.problems.push(Problem::warning(
            row.at("statemnt"),
            "the store ends in the node's name, which is added to it once more",
            "leave the name out: statemnt /state is /state/<node> for each node",
        ));
    }
    let mntopts = keep(context, book.attribute(node, groups, TABLE, "mntopts"))?
        .map(|found| String::from_utf8_lossy(&found.value).into_owned())
        .unwrap_or_default();
    Some(StoreRow {
        location,
        mntopts,
        at: row.at("statemnt"),
    })
}

fn keep<T>(context: &mut Context<'_>, result: Result<T, Problem>) -> Option<T> {
    result
        .map_err(|problem| context.problems.push(problem))
        .ok()
}
