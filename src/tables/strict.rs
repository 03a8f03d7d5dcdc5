//! What xCAT would refuse: for sites that keep their tables usable with it (SEMANTICS section 3).
//!
//! Owns: xCAT's limits. May not: influence what a node gets.
//!
//! Sources, all in xcat2/xcat-core: `xCAT-server/lib/xcat/plugins/statelite.pm` (what `liteimg`
//! refuses: `process_request`; who is whose parent: `parseLiteFiles`),
//! `xCAT-server/lib/xcat/plugins/litetree.pm` (`mergeArrays`), and the documentation's
//! `manage_clusters/ppc64le/statelite/advanced_features.rst`, "Both directory and its child items
//! coexist in litefile table".
//!
//! The matrix, parent's option by child's:
//!
//! | parent \ child | no link | `link`, blank | `link,persistent` | `link,con` | `link,ro` |
//! |---|---|---|---|---|---|
//! | `tmpfs`, `rw`, `localdisk` | yes | documented as no | documented as no | documented as no | documented as no |
//! | `persistent` | `persistent` only | no | documented as no | no | no |
//! | `link`, blank | no | yes | yes | yes | no |
//! | `link,persistent` | no | no | yes | no | no |
//! | `ro`, `con`, `link,ro`, `link,con` | no | no | no | no | no |
//!
//! Errors are what `liteimg` stops at. Warnings are what the documentation calls not permitted
//! while `liteimg` lets it pass, or what xCAT reads otherwise than it is written: it means to
//! refuse links below a parent that is none, but compares the two paths as numbers. For `link,ro`
//! below `link` the two disagree the other way round; `liteimg` has the last word.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::csv::{Row, Table};
use super::images::{ImageRows, Rank};
use super::litefile::LiteRows;
use super::litetree::{LiteTree, LiteTrees};
use super::{Origin, Priority, Problem, Severity};

/// The options that `liteimg` knows.
const OPTIONS: [&str; 10] = [
    "tmpfs",
    "persistent",
    "localdisk",
    "rw",
    "ro",
    "con",
    "link",
    "link,ro",
    "link,persistent",
    "link,con",
];

/// One effective row as xCAT sees it.
struct Seen<'t> {
    /// As written, for messages.
    path: Cow<'t, str>,
    option: Cow<'t, str>,
    row: Row<'t>,
}

impl Seen<'_> {
    fn at(&self) -> Origin {
        self.row.at("file")
    }

    fn links(&self) -> bool {
        self.option.contains("link")
    }

    fn persists(&self) -> bool {
        self.option.contains("persistent")
    }
}

/// What xCAT would refuse of the litefile rows of one image.
pub(crate) fn litefile(
    table: &Table,
    lite: &LiteRows,
    image: &ImageRows,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<&[u8], (Seen<'_>, bool)> = HashMap::new();
    for (row, rule) in image.rows.iter().zip(image.rules.iter()) {
        let Some(raw) = table.row(lite.rows[*row].row) else {
            continue;
        };
        let mut option = raw.text("options");
        // liteimg's own default, its older name, and the one path whose option it sets itself.
        if option.is_empty() || option == "tmpfs,rw" || rule.path == b"/etc/mtab" {
            option = "link".into();
        }
        let entry = Seen {
            path: raw.text("file"),
            option,
            row: raw,
        };
        single(&entry, problems);
        seen.insert(&rule.path, (entry, rule.dir));
    }
    for (path, (child, _)) in &seen {
        if let Some((above, false)) = ancestors(path).find_map(|p| seen.get(p)) {
            let message = format!(
                "{} has rows below it, but xCAT takes it for a file",
                above.path
            );
            let help = "end a directory with a slash";
            problems.push(Problem::warning(above.at(), message, help));
        }
        let mut parents = ancestors(path).filter_map(|p| seen.get(p).filter(|(_, dir)| *dir));
        if let Some((parent, _)) = parents.next() {
            pair(parent, child, problems);
            if let Some((grandparent, _)) = parents.next() {
                let message = format!(
                    "{} is a third level, below {} and {}: xCAT supports two",
                    child.path, parent.path, grandparent.path
                );
                let help = "leave one of the three out for xCAT";
                problems.push(Problem::warning(child.at(), message, help));
            }
        }
    }
}

/// A row's faults that don't depend on others.
fn single(row: &Seen<'_>, problems: &mut Vec<Problem>) {
    if !OPTIONS.contains(&&*row.option) {
        let message = format!("liteimg does not know the option \"{}\"", row.option);
        let help = format!(
            "it knows {}, \"tmpfs,rw\" and none",
            OPTIONS.map(|o| format!("\"{o}\"")).join(", ")
        );
        problems.push(Problem::error(row.row.at("options"), message, help));
    }
    if row.path.contains(char::is_whitespace) {
        let message = format!("xCAT cuts \"{}\" at its first blank", row.path);
        problems.push(Problem::warning(
            row.at(),
            message,
            "xCAT can't have blanks in a path",
        ));
    }
}

/// What `liteimg` says of a child below its parent.
fn pair(parent: &Seen<'_>, child: &Seen<'_>, problems: &mut Vec<Problem>) {
    const RULE: &str =
        "liteimg stops there: give both a pair of options that it takes, or leave one out";
    let named = |row: &Seen<'_>| format!("{} ({})", row.path, row.option);
    let (above, below) = (named(parent), named(child));
    let childs = child.row;
    let found = if parent.option.ends_with("ro") || parent.option.ends_with("con") {
        let message = format!("{above} has rows below it, such as {}", child.path);
        Some((Severity::Error, parent.row, message))
    } else if parent.links() && !child.links() {
        Some((
            Severity::Error,
            childs,
            format!("{below} is below {above}: only link options may be"),
        ))
    } else if parent.links() && child.option == "link,ro" {
        Some((
            Severity::Error,
            childs,
            format!("{below} is below {above}: link,ro may not be"),
        ))
    } else if parent.persists() && !child.persists() {
        Some((
            Severity::Error,
            childs,
            format!("{below} is below {above}: only persistent may be"),
        ))
    } else if !parent.links() && child.links() && child.path != "/etc/mtab" {
        let message =
            format!("{below} is below {above}: xCAT's documentation does not permit a link there");
        Some((Severity::Warning, childs, message))
    } else {
        None
    };
    if let Some((severity, row, message)) = found {
        let problem = Problem::error(row.at("options"), message, RULE);
        problems.push(match severity {
            Severity::Error => problem,
            Severity::Warning => Problem {
                severity,
                help: String::new(),
                ..problem
            },
        });
    }
}

/// The litetree rows that xCAT drops, because another has the same priority: it reads group,
/// blank, ALL and name rows one after the other, and keeps the last for each number.
pub(crate) fn litetree(
    table: &Table,
    trees: &LiteTrees,
    image: &ImageRows,
    rank: impl Fn(&str) -> Option<Rank>,
    problems: &mut Vec<Problem>,
) {
    let mut by_priority: BTreeMap<Priority, Vec<&LiteTree>> = BTreeMap::new();
    for tree in image.trees.iter().map(|i| &trees.rows[*i]) {
        by_priority.entry(tree.priority).or_default().push(tree);
    }
    for (priority, mut same) in by_priority {
        same.sort_by_key(|tree| {
            (
                std::cmp::Reverse(rank(&trees.columns[tree.column])),
                tree.row,
            )
        });
        let Some((kept, dropped)) = same.split_last() else {
            continue;
        };
        let line = table.row(kept.row).map_or(0, |row| row.line());
        for tree in dropped {
            let Some(row) = table.row(tree.row) else {
                continue;
            };
            let message =
                format!("xCAT drops this row: line {line} has the priority {priority}, too");
            let help = "give each row of an image a priority of its own";
            problems.push(Problem::warning(row.at("priority"), message, help));
        }
    }
}

/// The directories above a path, nearest first, without the root: xCAT doesn't look there.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parent = |path: &&[u8]| -> Option<usize> {
        path.iter().rposition(|b| *b == b'/').filter(|n| *n > 0)
    };
    let mut rest = path;
    std::iter::from_fn(move || {
        rest = &rest[..parent(&rest)?];
        Some(rest)
    })
}
