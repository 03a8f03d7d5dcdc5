//! The litefile table: which path has which option (SEMANTICS section 2).
//!
//! Owns: options and their synonyms, rows as typed rules. May not: choose between rows for one
//! image.

use std::collections::HashMap;
use std::sync::Arc;

use super::csv::{Row, Table};
use super::{LiteOption, Problem, RuleRow, nearest, paths};

/// Every way to write an option; the second is true where xCAT makes a link of it.
const OPTIONS: [(&str, LiteOption, bool); 12] = [
    ("tmpfs", LiteOption::Tmpfs, false),
    ("rw", LiteOption::Tmpfs, false),
    ("tempfs", LiteOption::Tmpfs, false),
    ("persistent", LiteOption::Persistent, false),
    ("localdisk", LiteOption::Localdisk, false),
    ("con", LiteOption::Con, false),
    ("ro", LiteOption::Ro, false),
    ("link", LiteOption::Tmpfs, true),
    ("tmpfs,rw", LiteOption::Tmpfs, true),
    ("link,persistent", LiteOption::Persistent, true),
    ("link,con", LiteOption::Con, true),
    ("link,ro", LiteOption::Ro, true),
];

/// The rows of litefile that can be used.
#[derive(Debug, Default)]
pub(crate) struct LiteRows {
    /// In the table's order.
    pub(crate) rows: Vec<LiteRow>,
    /// What the image column of some row has, each once.
    pub(crate) columns: Columns,
    /// Indexes of `rows`, sorted by path; those of one path in the table's order.
    pub(crate) by_path: Vec<usize>,
}

/// One row of litefile that can be used.
#[derive(Debug)]
pub(crate) struct LiteRow {
    /// The image column: an index of the columns.
    pub(crate) column: usize,
    /// The rule, as every image that it applies to has it.
    pub(crate) rule: Arc<RuleRow>,
    /// Which row of the table.
    pub(crate) row: usize,
}

/// The different values of an image column: far fewer than rows.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    values: Vec<String>,
    known: HashMap<String, usize>,
}

impl Columns {
    /// The index of a value.
    pub(crate) fn index(&mut self, value: &str) -> usize {
        if let Some(index) = self.known.get(value) {
            return *index;
        }
        self.known.insert(value.to_owned(), self.values.len());
        self.values.push(value.to_owned());
        self.values.len() - 1
    }

    /// All values, by their index.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(String::as_str)
    }
}

impl std::ops::Index<usize> for Columns {
    type Output = str;

    fn index(&self, index: usize) -> &str {
        &self.values[index]
    }
}

/// Reads litefile; rows that can't be used are reported and left out.
pub(crate) fn read(table: &Table, problems: &mut Vec<Problem>) -> LiteRows {
    let mut found = LiteRows {
        rows: Vec::with_capacity(table.rows().len()),
        ..LiteRows::default()
    };
    for (i, row) in table.rows().enumerate() {
        match read_row(i, row, &mut found.columns) {
            Ok(row) => found.rows.push(row),
            Err(problem) => problems.push(problem),
        }
    }
    let rows = &found.rows;
    let mut by_path: Vec<usize> = (0..rows.len()).collect();
    by_path.sort_unstable_by(|a, b| (&rows[*a].rule.path, a).cmp(&(&rows[*b].rule.path, b)));
    found.by_path = by_path;
    found
}

fn read_row(index: usize, row: Row<'_>, columns: &mut Columns) -> Result<LiteRow, Problem> {
    let path = paths::clean(row.get("file")).map_err(|fault| {
        let at = row.at_byte("file", fault.offset);
        Problem::error(at, format!("the path {}", fault.what), fault.help)
    })?;
    let (option, link) = parse_option(&row.text("options"))
        .map_err(|(message, help)| Problem::error(row.at("options"), message, help))?;
    if option == LiteOption::Con && path.dir {
        let path = String::from_utf8_lossy(row.get("file")).into_owned();
        let message = format!("{path} is a directory: con is for files only");
        let help =
            "name each file, or use tmpfs, where directories of several litetrees are merged";
        return Err(Problem::error(row.at("options"), message, help));
    }
    Ok(LiteRow {
        column: columns.index(row.text("image").trim()),
        rule: Arc::new(RuleRow {
            path: path.bytes,
            dir: path.dir,
            option,
            link,
            at: row.at("file"),
        }),
        row: index,
    })
}

/// What an options column says; blank is xCAT's default, a link into tmpfs.
fn parse_option(text: &str) -> Result<(LiteOption, bool), (String, String)> {
    let known = |word: &str| OPTIONS.iter().find(|(known, ..)| *known == word);
    if let Some((_, option, link)) = known(text) {
        return Ok((*option, *link));
    }
    let word: String = text.split_whitespace().collect();
    if word.is_empty() {
        return Ok((LiteOption::Tmpfs, true));
    }
    if let Some((_, option, link)) = known(&word) {
        return Ok((*option, *link));
    }
    let known = OPTIONS.map(|(known, ..)| known);
    let hint = nearest::hint(&word, known);
    let space = if hint.is_empty() { "" } else { " " };
    let help = format!(
        "{hint}{space}the options are {}, or none",
        known.map(|k| format!("\"{k}\"")).join(" ")
    );
    Err((format!("unknown option \"{text}\""), help))
}

#[cfg(test)]
mod tests {
    use super::super::RawTable;
    use super::*;

    fn read_text(text: impl AsRef<[u8]>) -> (LiteRows, Vec<String>) {
        let mut problems = Vec::new();
        let raw = RawTable {
            file: "litefile.csv".into(),
            bytes: text.as_ref().to_vec(),
        };
        let table = Table::parse("litefile", raw, &mut problems);
        let rows = read(&table, &mut problems);
        (rows, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_option_of_the_contract() {
        use LiteOption::{Con, Localdisk, Persistent, Ro, Tmpfs};
        for (text, option, link) in [
            ("tmpfs", Tmpfs, false),
            ("rw", Tmpfs, false),
            ("tempfs", Tmpfs, false),
            ("persistent", Persistent, false),
            ("localdisk", Localdisk, false),
            ("con", Con, false),
            ("ro", Ro, false),
            ("link", Tmpfs, true),
            ("", Tmpfs, true),
            (" ", Tmpfs, true),
            ("tmpfs,rw", Tmpfs, true),
            ("link,persistent", Persistent, true),
            ("link, con", Con, true),
            ("link,ro", Ro, true),
        ] {
            assert_eq!(parse_option(text).unwrap(), (option, link), "{text}");
        }
    }

    #[test]
    fn broken_rows_are_left_out_and_named() {
        let (rows, problems) = read_text(
            b"#image,file,options\nALL,/etc/x,persistant\nALL,/etc/y/,con\nALL,etc,ro\nALL,,ro\nALL,\"/a/../b\",ro\nALL,/f\xff,rw\nALL,/z/,\"link,con\"\nALL,/q,frobnicate\n",
        );
        let rows = rows.rows;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].rule.path, b"/f\xff");
        assert_eq!(rows[0].row, 5);
        let expected = [
            "litefile.csv:2:12: error: unknown option \"persistant\" (did you mean \"persistent\"? the options are \"tmpfs\"",
            "litefile.csv:3:13: error: /etc/y/ is a directory: con is for files only",
            "litefile.csv:4:5: error: the path is not absolute",
            "litefile.csv:5:5: error: the path is empty",
            "litefile.csv:6:9: error: the path has \"..\" in it",
            "litefile.csv:8:9: error: /z/ is a directory",
            "litefile.csv:9:8: error: unknown option \"frobnicate\" (the options are",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }
}
