//! The operations that can be measured: their names, what each does, and what it needs.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One kind of operation, which has a latency distribution of its own.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// lstat of a path after the kernel has forgotten it.
    ColdStat,
    /// lstat of a path that was looked up a moment ago.
    WarmStat,
    /// lstat of a name that is not there, after the kernel has forgotten it.
    ColdAbsent,
    /// lstat of a name that was found missing a moment ago.
    WarmAbsent,
    /// A directory opened, listed and closed after the kernel has forgotten it.
    ColdReaddir,
    /// The same of one that was listed a moment ago.
    WarmReaddir,
    /// open and close of a regular file that was opened a moment ago.
    Open,
    /// A small file opened, read and closed after the kernel has forgotten it.
    ColdRead,
    /// The same of one that was read a moment ago.
    WarmRead,
    /// One read of a block, in order, of a large file that was read a moment ago.
    SeqRead,
    /// One read of a page at a random place of that file.
    RandomRead,
    /// A file created, closed and unlinked.
    CreateUnlink,
    /// A byte appended: open, write and close.
    Append,
    /// A small file opened for writing the first time, and closed.
    CopyUp,
}

impl Operation {
    /// All of them, in the order in which they are measured and reported.
    pub const ALL: [Operation; 14] = [
        Operation::ColdStat,
        Operation::WarmStat,
        Operation::ColdAbsent,
        Operation::WarmAbsent,
        Operation::ColdReaddir,
        Operation::WarmReaddir,
        Operation::Open,
        Operation::ColdRead,
        Operation::WarmRead,
        Operation::SeqRead,
        Operation::RandomRead,
        Operation::CreateUnlink,
        Operation::Append,
        Operation::CopyUp,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operation::ColdStat => "cold-stat",
            Operation::WarmStat => "warm-stat",
            Operation::ColdAbsent => "cold-absent",
            Operation::WarmAbsent => "warm-absent",
            Operation::ColdReaddir => "cold-readdir",
            Operation::WarmReaddir => "warm-readdir",
            Operation::Open => "open",
            Operation::ColdRead => "cold-read",
            Operation::WarmRead => "warm-read",
            Operation::SeqRead => "seq-read",
            Operation::RandomRead => "random-read",
            Operation::CreateUnlink => "create-unlink",
            Operation::Append => "append",
            Operation::CopyUp => "copy-up",
        }
    }

    /// What one of it is, for people.
    pub fn what(self) -> &'static str {
        match self {
            Operation::ColdStat => "lstat, names and inodes dropped before",
            Operation::WarmStat => "lstat again",
            Operation::ColdAbsent => "lstat of a name that is not there, dropped before",
            Operation::WarmAbsent => "lstat of such a name again",
            Operation::ColdReaddir => "a directory opened, listed, closed, dropped before",
            Operation::WarmReaddir => "a directory opened, listed, closed again",
            Operation::Open => "a file opened and closed again",
            Operation::ColdRead => "a file of up to 64 KiB opened, read, closed, dropped before",
            Operation::WarmRead => "a file of up to 64 KiB opened, read, closed again",
            Operation::SeqRead => "128 KiB of a large file, in order, read before",
            Operation::RandomRead => "4 KiB at a random place of that file",
            Operation::CreateUnlink => "a file created, closed, unlinked",
            Operation::Append => "a byte appended: open, write, close",
            Operation::CopyUp => "a file of up to 64 KiB opened for writing the first time, closed",
        }
    }

    /// Are the kernel's caches dropped before it?
    pub fn is_cold(self) -> bool {
        matches!(
            self,
            Operation::ColdStat
                | Operation::ColdAbsent
                | Operation::ColdReaddir
                | Operation::ColdRead
        )
    }

    /// Does it change anything in the mount?
    pub fn writes(self) -> bool {
        matches!(
            self,
            Operation::CreateUnlink | Operation::Append | Operation::CopyUp
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(name: &str) -> Result<Operation, String> {
        let found = Operation::ALL.into_iter().find(|op| op.name() == name);
        found.ok_or_else(|| format!("no such operation: {name}"))
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for op in Operation::ALL {
            assert_eq!(op.name().parse(), Ok(op));
        }
        assert!("stat".parse::<Operation>().is_err());
    }

    #[test]
    fn all_is_in_the_order_of_the_type_and_writers_come_last() {
        assert!(Operation::ALL.is_sorted());
        assert!(Operation::ALL.is_sorted_by_key(|op| op.writes()));
    }
}
