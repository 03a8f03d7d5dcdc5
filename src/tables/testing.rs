//! A source for tests: tables given as text.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::{RawTable, Source};

/// Tables given as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given(BTreeMap<String, Vec<u8>>);

impl Given {
    /// With one more table, or another text for one.
    pub(crate) fn table(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        self.0.insert(name.to_owned(), text.as_ref().to_vec());
        self
    }
}

impl Given {
    /// A table's text.
    pub(crate) fn text(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Source for Given {
    fn place(&self) -> PathBuf {
        "given".into()
    }

    fn file(&self, table: &str) -> PathBuf {
        format!("{table}.csv").into()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn read(&self, table: &str) -> io::Result<Option<RawTable>> {
        let raw = |bytes: &Vec<u8>| RawTable {
            file: self.file(table),
            bytes: bytes.clone(),
        };
        Ok(self.0.get(table).map(raw))
    }
}
