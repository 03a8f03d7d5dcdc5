//! Where tables come from.
//!
//! Owns: finding and reading a table's bytes. May not: know what they mean.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// The bytes of one table, and the name under which messages speak of it.
#[derive(Clone, Debug)]
pub struct RawTable {
    /// The file, or what a message should call it.
    pub file: PathBuf,
    /// What `tabdump` printed.
    pub bytes: Vec<u8>,
}

/// A place that has tables.
pub trait Source {
    /// What a message calls the whole: a directory, a database.
    fn place(&self) -> PathBuf;

    /// Where `table` is or would be, for messages.
    fn file(&self, table: &str) -> PathBuf;

    /// The names of all tables that there are, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// One table; `None` where there is none of that name.
    fn read(&self, table: &str) -> io::Result<Option<RawTable>>;
}

/// A directory with one `<table>.csv` a table.
#[derive(Clone, Debug)]
pub struct CsvDir(PathBuf);

impl CsvDir {
    /// The directory; it is looked at when tables are asked for.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }
}

impl Source for CsvDir {
    fn place(&self) -> PathBuf {
        self.0.clone()
    }

    fn file(&self, table: &str) -> PathBuf {
        self.0.join(format!("{table}.csv"))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // Editors leave `.#x.csv` and the like behind: hidden files are no tables.
            if let Ok(name) = entry?.file_name().into_string()
                && let Some(table) = name.strip_suffix(".csv")
                && !table.is_empty()
                && !table.starts_with('.')
            {
                names.push(table.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, table: &str) -> io::Result<Option<RawTable>> {
        let file = self.file(table);
        match std::fs::read(&file) {
            Ok(bytes) => Ok(Some(RawTable { file, bytes })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A place as it was when it was read: what is read from this stays what it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Frozen {
    /// What a message calls the whole.
    pub place: PathBuf,
    /// Each table, by name.
    pub tables: BTreeMap<String, FrozenTable>,
}

/// One table of a [`Frozen`] place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FrozenTable {
    /// What a message calls it.
    pub file: PathBuf,
    /// Its bytes, or why it could not be read.
    pub bytes: Result<Vec<u8>, String>,
}

impl Frozen {
    /// Reads all there is.
    ///
    /// # Errors
    /// The list of tables can't be read; a table that can't is so in the copy, too.
    pub fn of(source: &dyn Source) -> io::Result<Frozen> {
        let mut tables = BTreeMap::new();
        for name in source.list()? {
            let (file, bytes) = match source.read(&name) {
                Ok(None) => continue,
                Ok(Some(raw)) => (raw.file, Ok(raw.bytes)),
                Err(error) => (source.file(&name), Err(error.to_string())),
            };
            tables.insert(name, FrozenTable { file, bytes });
        }
        let place = source.place();
        Ok(Frozen { place, tables })
    }
}

impl Source for Frozen {
    fn place(&self) -> PathBuf {
        self.place.clone()
    }

    fn file(&self, table: &str) -> PathBuf {
        match self.tables.get(table) {
            Some(found) => found.file.clone(),
            None => self.place.join(format!("{table}.csv")),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.tables.keys().cloned().collect())
    }

    fn read(&self, table: &str) -> io::Result<Option<RawTable>> {
        let Some(found) = self.tables.get(table) else {
            return Ok(None);
        };
        let bytes = found.bytes.clone().map_err(io::Error::other)?;
        let file = found.file.clone();
        Ok(Some(RawTable { file, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_csv_is_a_table() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["site.csv", "myown.csv", ".#site.csv", "notes.txt", ".csv"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let source = CsvDir::new(dir.path());
        assert_eq!(source.list().unwrap(), ["myown", "site"]);
        let raw = source.read("myown").unwrap().unwrap();
        assert_eq!(raw.bytes, b"myown.csv");
        assert!(source.read("absent").unwrap().is_none());
        let frozen = Frozen::of(&source).unwrap();
        std::fs::write(dir.path().join("site.csv"), "other").unwrap();
        std::fs::write(dir.path().join("more.csv"), "").unwrap();
        assert_eq!(frozen.list().unwrap(), ["myown", "site"]);
        let raw = frozen.read("site").unwrap().unwrap();
        assert_eq!(
            (raw.bytes, raw.file),
            (b"site.csv".into(), source.file("site"))
        );
        assert!(frozen.read("more").unwrap().is_none());
        assert!(CsvDir::new("/nonexistent").list().is_err());
    }
}
