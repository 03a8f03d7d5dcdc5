//! All tables by name, and an attribute of a node in any of them.
//!
//! Owns: loading from a [`Source`], the rows by key, the rule "a group's row gives defaults, the
//! node's own row wins, attribute by attribute" (SEMANTICS section 1). May not: know what an
//! attribute is for.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::csv::{Row, Table};
use super::values::{self, Regexes};
use super::{Origin, Problem, Source, nearest};

/// Tables without which no node has a root.
const MANDATORY: [&str; 3] = ["litefile", "nodelist", "nodetype"];

/// Columns that the program itself asks for: a table without them is unusable.
const COLUMNS: [(&str, &[&str]); 14] = [
    ("litefile", &["image", "file", "options"]),
    ("litetree", &["priority", "image", "directory"]),
    ("statelite", &["node", "statemnt"]),
    ("nodelist", &["node", "groups"]),
    ("nodetype", &["node"]),
    ("osimage", &["imagename"]),
    ("linuximage", &["imagename", "rootimgdir"]),
    ("site", &["key", "value"]),
    ("hosts", &["node"]),
    ("nodegroup", &["groupname"]),
    ("mac", &["node"]),
    ("nodehm", &["node"]),
    ("nodepos", &["node"]),
    ("noderes", &["node"]),
];

/// Every table of a source.
#[derive(Debug, Default)]
pub(crate) struct Book {
    tables: BTreeMap<String, Table>,
    keys: HashMap<String, HashMap<Vec<u8>, Vec<usize>>>,
    regexes: Regexes,
}

/// An attribute of a node: its value, and where that stands.
pub(crate) struct Found<'b> {
    /// The value, regexes evaluated; never empty.
    pub(crate) value: Cow<'b, [u8]>,
    /// The row it came from.
    pub(crate) row: Row<'b>,
    /// Something odd on the way.
    pub(crate) warning: Option<Problem>,
}

impl Book {
    /// Reads every table; what can't be read or is missing is reported.
    pub(crate) fn load(source: &dyn Source, problems: &mut Vec<Problem>) -> Self {
        let mut book = Self::default();
        let whole = |file| Origin {
            file,
            line: 0,
            column: 0,
        };
        let mut names: BTreeSet<String> = MANDATORY.map(str::to_owned).into();
        match source.list() {
            Ok(found) => names.extend(found),
            Err(e) => {
                let message = format!("cannot list the tables: {e}");
                let help = "the configuration's key \"tables\" names the directory";
                problems.push(Problem::error(whole(source.place()), message, help));
                return book;
            }
        }
        for name in names {
            let at = whole(source.file(&name));
            match source.read(&name) {
                Ok(Some(raw)) => {
                    let table = Table::parse(&name, raw, problems);
                    if book.has_columns(&table, problems) {
                        book.index(&table);
                        book.tables.insert(name, table);
                    }
                }
                Ok(None) => {
                    let message = format!("the table {name} is missing");
                    let help = format!("write it there: tabdump {name} > {}", at.file.display());
                    problems.push(Problem::error(at, message, help));
                }
                Err(e) => {
                    let message = format!("cannot read the table {name}: {e}");
                    problems.push(Problem::error(
                        at,
                        message,
                        "the daemon must be able to read it",
                    ));
                }
            }
        }
        book
    }

    fn has_columns(&self, table: &Table, problems: &mut Vec<Problem>) -> bool {
        // Without a header there is a problem already, and nothing to say of columns.
        if table.columns().next().is_none() {
            return false;
        }
        let needed = COLUMNS
            .iter()
            .find(|(name, _)| *name == table.name())
            .map_or(&[][..], |(_, c)| c);
        let missing: Vec<&str> = needed
            .iter()
            .copied()
            .filter(|c| !table.columns().any(|t| t == *c))
            .collect();
        if missing.is_empty() {
            return true;
        }
        let mut at = table.whole();
        (at.line, at.column) = (1, 1);
        let message = format!(
            "the table {} has no column {}",
            table.name(),
            missing.join(", ")
        );
        let help = format!(
            "its header has {}; dump it again",
            table.columns().collect::<Vec<_>>().join(", ")
        );
        problems.push(Problem::error(at, message, help));
        false
    }

    fn index(&mut self, table: &Table) {
        let Some(column) = key_column(table) else {
            return;
        };
        let mut rows: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (i, row) in table.rows().enumerate() {
            rows.entry(row.get(column).to_vec()).or_default().push(i);
        }
        self.keys.insert(table.name().to_owned(), rows);
    }

    /// A table, where there is one of that name.
    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    /// All tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// Compiled regexes, shared by all who need some.
    pub(crate) fn regexes(&self) -> &Regexes {
        &self.regexes
    }

    /// The rows of a table whose key is `key`, in the table's order.
    pub(crate) fn rows_of<'b>(
        &'b self,
        table: &str,
        key: &str,
    ) -> impl Iterator<Item = Row<'b>> + use<'b> {
        let rows = self
            .keys
            .get(table)
            .and_then(|keys| keys.get(key.as_bytes()));
        let table = self.tables.get(table);
        rows.into_iter()
            .flatten()
            .filter_map(move |i| table?.row(*i))
    }

    /// The first value of `column` that one of the keys' rows has, keys in order.
    pub(crate) fn first<'b>(
        &'b self,
        table: &str,
        keys: impl IntoIterator<Item = impl AsRef<str>>,
        column: &str,
    ) -> Option<Row<'b>> {
        keys.into_iter().find_map(|key| {
            self.rows_of(table, key.as_ref())
                .find(|row| !row.get(column).is_empty())
        })
    }

    /// A node's attribute in a table that is keyed by node: its own row's, else that of the first
    /// of its groups whose row has a value.
    pub(crate) fn attribute<'b>(
        &'b self,
        node: &str,
        groups: &[String],
        table: &str,
        column: &str,
    ) -> Result<Option<Found<'b>>, Problem> {
        let keys = std::iter::once(node).chain(groups.iter().map(String::as_str));
        match self.first(table, keys, column) {
            Some(row) => self.value_of(row, column, node),
            None => Ok(None),
        }
    }

    /// A row's value as it is for a node: `None` where nothing is left of it.
    pub(crate) fn value_of<'b>(
        &'b self,
        row: Row<'b>,
        column: &str,
        node: &str,
    ) -> Result<Option<Found<'b>>, Problem> {
        let raw = row.get(column);
        let Ok(text) = std::str::from_utf8(raw) else {
            return Ok(Some(Found {
                value: raw.into(),
                row,
                warning: None,
            }));
        };
        let evaluated = values::evaluate(text, node, &self.regexes).map_err(|fault| {
            let message = format!("{column} cannot be evaluated: {fault}");
            Problem::error(
                row.at(column),
                message,
                "a value between slashes or bars is a regular expression and what replaces it",
            )
        })?;
        let warning = evaluated.unmatched.then(|| {
            let message = format!("the regular expression of {column} does not match: the value is the node's name");
            Problem::warning(row.at(column), message, "make it match each node that the row is for; a path that is not meant so must not end with /")
        });
        let value: Cow<'b, [u8]> = match evaluated.text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Ok((!value.is_empty()).then_some(Found {
            value,
            row,
            warning,
        }))
    }

    /// ": did you mean …" for a table that isn't there, or nothing.
    pub(crate) fn suggest_table(&self, name: &str) -> String {
        nearest::clause(name, self.tables.keys().map(String::as_str))
    }
}

/// The column that names what a row is about.
pub(crate) fn key_column(table: &Table) -> Option<&'static str> {
    ["node", "imagename", "key"]
        .into_iter()
        .find(|key| table.columns().any(|c| c == *key))
}
