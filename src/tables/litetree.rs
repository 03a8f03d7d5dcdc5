//! The litetree table: where a ruled path's content is looked for before the image.
//!
//! Owns: its rows and their order. May not: choose the rows of an image, or look into a tree.

use super::context::Context;
use super::csv::{Row, Table};
use super::litefile::Columns;
use super::{Priority, Problem, TreeRow, location, vars};

/// The rows of litetree that can be used.
#[derive(Debug, Default)]
pub(crate) struct LiteTrees {
    /// In order of use.
    pub(crate) rows: Vec<LiteTree>,
    /// What the image column of some row has, each once.
    pub(crate) columns: Columns,
}

/// One row of litetree that can be used.
#[derive(Debug)]
pub(crate) struct LiteTree {
    /// The image column: an index of the columns.
    pub(crate) column: usize,
    /// Lowest first.
    pub(crate) priority: Priority,
    /// Which row of the table.
    pub(crate) row: usize,
}

/// Reads litetree in order of use: lowest priority number first, equal ones in the table's order,
/// none of which is lost.
pub(crate) fn read(table: &Table, problems: &mut Vec<Problem>) -> LiteTrees {
    let mut trees = LiteTrees::default();
    for (index, row) in table.rows().enumerate() {
        match read_row(index, row, &mut trees.columns, problems) {
            Ok(tree) => trees.rows.push(tree),
            Err(problem) => problems.push(problem),
        }
    }
    trees.rows.sort_by_key(|tree| tree.priority);
    trees
}

fn read_row(
    index: usize,
    row: Row<'_>,
    columns: &mut Columns,
    problems: &mut Vec<Problem>,
) -> Result<LiteTree, Problem> {
    if row.get("directory").trim_ascii().is_empty() {
        let help = "write /path or host:/path, or remove the row";
        return Err(Problem::error(
            row.at("directory"),
            "the row has no directory",
            help,
        ));
    }
    let text = row.text("priority");
    let priority = match text.trim() {
        "" => {
            let help = "write a number: the lowest is looked into first";
            problems.push(Problem::warning(
                row.at("priority"),
                "no priority: taken as 0",
                help,
            ));
            Priority::default()
        }
        number => Priority::parse(number).ok_or_else(|| {
            let message = format!("the priority \"{number}\" is no number");
            Problem::error(
                row.at("priority"),
                message,
                "the lowest number is looked into first",
            )
        })?,
    };
    Ok(LiteTree {
        column: columns.index(row.text("image").trim()),
        priority,
        row: index,
    })
}

/// The row as it is for one node; what is wrong goes into the context.
pub(crate) fn evaluate(
    context: &mut Context<'_>,
    tree: &LiteTree,
    row: Row<'_>,
) -> Option<TreeRow> {
    let column = "directory";
    let directory = row.get(column);
    let text = vars::expand(context, directory, &|offset| row.at_byte(column, offset))?;
    match location::resolve(context, &text) {
        Ok(location) => Some(TreeRow {
            location,
            mntopts: row.text("mntopts").into_owned(),
            priority: tree.priority,
            at: row.at(column),
        }),
        Err((offset, what, help)) => {
            // Only where nothing was replaced do the offsets of both texts agree.
            let place = if text == directory {
                row.at_byte(column, offset)
            } else {
                row.at(column)
            };
            let message = format!("{what}: \"{}\"", String::from_utf8_lossy(&text));
            context.problems.push(Problem::error(place, message, help));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RawTable;
    use super::*;
    use proptest::prelude::*;

    fn read_text(text: &str) -> (Table, LiteTrees, Vec<String>) {
        let mut problems = Vec::new();
        let raw = RawTable {
            file: "litetree.csv".into(),
            bytes: text.into(),
        };
        let table = Table::parse("litetree", raw, &mut problems);
        let rows = read(&table, &mut problems);
        (
            table,
            rows,
            problems.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn broken_rows_are_left_out_and_named() {
        let (_, trees, problems) =
            read_text("#priority,image,directory\n2,,/b\nx,,/c\n1.5,,/d\n,,/e\n-1,ALL,/f\n1,,\n");
        assert_eq!(
            trees
                .rows
                .iter()
                .map(|t| t.priority.to_string())
                .collect::<Vec<_>>(),
            ["-1", "0", "1.5", "2"]
        );
        let expected = [
            "litetree.csv:3:1: error: the priority \"x\" is no number",
            "litetree.csv:5:1: warning: no priority: taken as 0",
            "litetree.csv:7:4: error: the row has no directory",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn no_row_is_lost_and_equal_ones_keep_their_order(priorities in proptest::collection::vec(-3..3_i64, 0..20)) {
            let mut text = String::from("#priority,image,directory\n");
            for (i, priority) in priorities.iter().enumerate() {
                text += &format!("{priority},,/tree{i}\n");
            }
            let (_, trees, _) = read_text(&text);
            let found: Vec<(String, usize)> = trees.rows.iter().map(|t| (t.priority.to_string(), t.row)).collect();
            let mut expected: Vec<(i64, usize)> = priorities.into_iter().enumerate().map(|(i, p)| (p, i)).collect();
            expected.sort();
            let expected: Vec<(String, usize)> = expected.into_iter().map(|(p, i)| (p.to_string(), i)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
