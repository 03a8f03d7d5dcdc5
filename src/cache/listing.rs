//! A directory's names with what each of them is, in one piece of memory, in the order in which they
//! are listed: who lists it reads from one end to the other, and looks for nothing.

use crate::sys::obj::Stat;

/// What a directory of a layer has. Put together from facts, and good for as long as all of them are.
#[derive(Debug)]
pub struct Listing {
    entries: Box<[Entry]>,
    /// All names, one after the other.
    names: Box<[u8]>,
}

#[derive(Debug)]
struct Entry {
    cookie: u64,
    number: u64,
    stat: Stat,
    /// Where its name ends; it begins where the one before ends.
    end: usize,
}

/// One entry of a listing.
#[derive(Clone, Copy, Debug)]
pub struct ListingEntry<'l> {
    /// Where a reader goes on behind it.
    pub cookie: u64,
    /// The number of its path.
    pub number: u64,
    /// Its name.
    pub name: &'l [u8],
    /// What it is.
    pub stat: &'l Stat,
}

impl Listing {
    /// Nothing yet; [`Listing::push`] adds to it.
    pub fn builder(names: usize) -> ListingBuilder {
        ListingBuilder {
            entries: Vec::with_capacity(names),
            names: Vec::with_capacity(names * 16),
        }
    }

    /// What comes behind a cookie.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = ListingEntry<'_>> {
        let first = self.entries.partition_point(|entry| entry.cookie <= cookie);
        let begin = match first {
            0 => 0,
            first => self.entries[first - 1].end,
        };
        let rest = self.entries[first..].iter();
        rest.scan(begin, |begin, entry| {
            let name = &self.names[std::mem::replace(begin, entry.end)..entry.end];
            Some(ListingEntry {
                cookie: entry.cookie,
                number: entry.number,
                name,
                stat: &entry.stat,
            })
        })
    }

    /// Has it this object?
    pub(super) fn has(&self, dev: u64, ino: u64) -> bool {
        let is_it = |entry: &Entry| (entry.stat.dev, entry.stat.ino) == (dev, ino);
        self.entries.iter().any(is_it)
    }

    /// The bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        Listing::least_bytes(self.entries.len()) + self.names.len()
    }

    /// The bytes that so many entries take, their names aside.
    pub(super) fn least_bytes(entries: usize) -> usize {
        // Two counts before it, and the allocations' heads.
        size_of::<Listing>() + 2 * 8 + 3 * 8 + entries * size_of::<Entry>()
    }
}

/// A listing that is being put together.
#[derive(Debug)]
pub struct ListingBuilder {
    entries: Vec<Entry>,
    names: Vec<u8>,
}

impl ListingBuilder {
    /// Adds what comes next, by its cookie.
    pub fn push(&mut self, entry: ListingEntry<'_>) {
        self.names.extend_from_slice(entry.name);
        self.entries.push(Entry {
            cookie: entry.cookie,
            number: entry.number,
            stat: *entry.stat,
            end: self.names.len(),
        });
    }

    /// All of it.
    pub fn finish(self) -> Listing {
        Listing {
            entries: self.entries.into(),
            names: self.names.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_with_their_names_behind_any_cookie() {
        let mut builder = Listing::builder(3);
        for (cookie, name, ino) in [(10, &b"a"[..], 1), (20, b"", 2), (30, b"long name", 3)] {
            let stat = Stat {
                ino,
                ..Stat::default()
            };
            builder.push(ListingEntry {
                cookie,
                number: ino,
                name,
                stat: &stat,
            });
        }
        let listing = builder.finish();
        let after = |cookie| -> Vec<(&[u8], u64)> {
            let rest = listing.after(cookie);
            rest.map(|entry| (entry.name, entry.stat.ino)).collect()
        };
        let all = [(&b"a"[..], 1), (&b""[..], 2), (&b"long name"[..], 3)];
        for (cookie, from) in [(0, 0), (9, 0), (10, 1), (25, 2), (30, 3)] {
            assert_eq!(after(cookie), all[from..]);
        }
        assert!(listing.has(0, 2) && !listing.has(1, 2));
    }
}
