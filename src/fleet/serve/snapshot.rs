//! Configuration and tables as the fleet goes by them, for a worker that takes over: what has become
//! of the files meanwhile takes no root away.
//!
//! Owns: the form of that in memory that a holder holds. May not: know what the tables say.
//!
//! The form: [`MAGIC`], then records of a kind, a name and bytes, each with its length before it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::MemfdFlags;

use super::loaded::ServeOptions;
use crate::config::Config;
use crate::tables::{CsvDir, Frozen, FrozenTable};

/// The first bytes; another form has others.
const MAGIC: &[u8] = b"statelite snapshot 1\n";

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Snapshot {
    /// The configuration's file and text; `None` where there is no file.
    config: Option<(PathBuf, String)>,
    tables: Frozen,
}

/// Kinds of records.
const CONFIG: u8 = b'c';
const PLACE: u8 = b'p';
const TABLE: u8 = b't';
const FAILED: u8 = b'f';
const FILE: u8 = b'n';

impl Snapshot {
    /// Reads all files.
    ///
    /// # Errors
    /// A sentence: there is no configuration, or no directory of tables.
    pub(super) fn read(options: &ServeOptions) -> Result<Snapshot, String> {
        let file = Config::file(options.config.as_deref());
        let config = match std::fs::read_to_string(file) {
            Ok(text) => Some((file.to_owned(), text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound && options.config.is_none() => None,
            Err(error) => {
                let file = file.display();
                return Err(format!("{file}: cannot read the configuration: {error}"));
            }
        };
        let mut snapshot = Snapshot {
            config,
            tables: Frozen::default(),
        };
        let dir = snapshot.config(options)?.tables;
        let failed = |why: &dyn std::fmt::Display| {
            let dir = dir.display();
            format!("{dir}: {why}; tables are read from it, one TABLE.csv each")
        };
        if !dir.is_dir() {
            return Err(failed(&"no such directory"));
        }
        snapshot.tables = Frozen::of(&CsvDir::new(&dir)).map_err(|error| failed(&error))?;
        Ok(snapshot)
    }

    /// The configuration, with the command line's words over it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn config(&self, options: &ServeOptions) -> Result<Config, String> {
        let mut config = match &self.config {
            Some((file, text)) => Config::parse(text, file).map_err(|error| error.to_string())?,
            None => Config::default(),
        };
        options.over(&mut config);
        Ok(config)
    }

    pub(super) fn tables(&self) -> &Frozen {
        &self.tables
    }

    /// Written into memory that a descriptor leads to.
    ///
    /// # Errors
    /// There is no memory.
    pub(super) fn store(&self) -> io::Result<OwnedFd> {
        let mut bytes = MAGIC.to_vec();
        if let Some((file, text)) = &self.config {
            record(
                &mut bytes,
                CONFIG,
                file.as_os_str().as_bytes(),
                text.as_bytes(),
            );
        }
        record(
            &mut bytes,
            PLACE,
            self.tables.place.as_os_str().as_bytes(),
            b"",
        );
        for (name, table) in &self.tables.tables {
            let (kind, contents) = match &table.bytes {
                Ok(contents) => (TABLE, contents.as_slice()),
                Err(why) => (FAILED, why.as_bytes()),
            };
            record(&mut bytes, FILE, table.file.as_os_str().as_bytes(), b"");
            record(&mut bytes, kind, name.as_bytes(), contents);
        }
        in_memory("statelite-snapshot", &bytes)
    }

    /// Reads what [`Snapshot::store`] has written.
    ///
    /// # Errors
    /// It is none, or of another form.
    pub(super) fn load(memory: &OwnedFd) -> io::Result<Snapshot> {
        let bytes = of_memory(memory)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "no snapshot of this program's");
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(wrong)?;
        let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.into()));
        let text = |bytes: &[u8]| String::from_utf8(bytes.into()).map_err(|_| wrong());
        let mut snapshot = Snapshot::default();
        let mut file = PathBuf::new();
        while !rest.is_empty() {
            let (kind, name, contents, after) = next(rest).ok_or_else(wrong)?;
            rest = after;
            let bytes = match kind {
                CONFIG => {
                    snapshot.config = Some((path(name), text(contents)?));
                    continue;
                }
                PLACE => {
                    snapshot.tables.place = path(name);
                    continue;
                }
                FILE => {
                    file = path(name);
                    continue;
                }
                TABLE => Ok(contents.to_vec()),
                FAILED => Err(text(contents)?),
                _ => return Err(wrong()),
            };
            let file = std::mem::take(&mut file);
            let tables = &mut snapshot.tables.tables;
            tables.insert(text(name)?, FrozenTable { file, bytes });
        }
        Ok(snapshot)
    }
}

/// Bytes in memory of their own, that goes with the last descriptor of it.
///
/// # Errors
/// There is no memory.
pub(super) fn in_memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    let mut at = 0;
    while at < bytes.len() {
        at += rustix::io::pwrite(&memory, &bytes[at..], at as u64)?;
    }
    Ok(memory)
}

/// What [`in_memory`] has written.
///
/// # Errors
/// pread(2)'s.
pub(super) fn of_memory(memory: &OwnedFd) -> io::Result<Vec<u8>> {
    let size = rustix::fs::fstat(memory)?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::pread(memory, &mut bytes[at..], at as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => at += n,
        }
    }
    Ok(bytes)
}

fn record(out: &mut Vec<u8>, kind: u8, name: &[u8], contents: &[u8]) {
    out.push(kind);
    out.extend((name.len() as u64).to_le_bytes());
    out.extend((contents.len() as u64).to_le_bytes());
    out.extend(name);
    out.extend(contents);
}

type Record<'b> = (u8, &'b [u8], &'b [u8], &'b [u8]);

/// A record, and what follows it.
fn next(bytes: &[u8]) -> Option<Record<'_>> {
    let (kind, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_first_chunk()?;
    let (contents, rest) = rest.split_first_chunk()?;
    let length = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).ok();
    let (name, rest) = rest.split_at_checked(length(name)?)?;
    let (contents, rest) = rest.split_at_checked(length(contents)?)?;
    Some((*kind, name, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_comes_back() {
        let table = |file: &str, bytes| FrozenTable {
            file: file.into(),
            bytes,
        };
        let mut snapshot = Snapshot {
            config: Some(("/etc/x.toml".into(), "tables = \"/t\"\n".into())),
            tables: Frozen {
                place: "/t".into(),
                ..Frozen::default()
            },
        };
        let tables = &mut snapshot.tables.tables;
        tables.insert(
            "site".into(),
            table("/t/site.csv", Ok(b"#key\n\xff,\0".into())),
        );
        tables.insert(
            "hosts".into(),
            table("/t/hosts.csv", Err("no right".into())),
        );
        let memory = snapshot.store().unwrap();
        assert_eq!(Snapshot::load(&memory).unwrap(), snapshot);
        assert_eq!(Snapshot::load(&memory).unwrap(), snapshot, "again");
        let options = ServeOptions::default();
        assert_eq!(
            snapshot.config(&options).unwrap().tables,
            PathBuf::from("/t")
        );

        let bytes = of_memory(&memory).unwrap();
        for cut in MAGIC.len() + 1..bytes.len() {
            let memory = in_memory("cut", &bytes[..cut]).unwrap();
            if let Ok(less) = Snapshot::load(&memory) {
                assert!(less.tables.tables.len() < 2, "cut at {cut}");
            }
        }
        let other = in_memory("other", b"statelite snapshot 9\n").unwrap();
        assert!(Snapshot::load(&other).is_err());
    }
}
