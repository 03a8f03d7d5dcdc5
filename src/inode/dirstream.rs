//! A directory's listing with cookies that mean the same at any time: a name's cookie is a hash of
//! the name and entries come in the order of their cookies, so a reader that goes on from any
//! cookie, in a new snapshot or after a restart, misses no name that was there all along and sees
//! none twice. (ext4's htree order has the same property, fs/ext4/dir.c.)

use xxhash_rust::xxh3::xxh3_64;

/// The cookie of ".".
pub const DOT: u64 = 1;
/// The cookie of "..".
pub const DOTDOT: u64 = 2;
const FIRST: u64 = 3;

/// One entry of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamEntry {
    /// Where a reader goes on behind this entry.
    pub cookie: u64,
    /// The name.
    pub name: Box<[u8]>,
    /// Type bits, 0 where unknown.
    pub kind: u32,
    /// st_ino, 0 where it takes a lookup to tell.
    pub number: u64,
}

/// A snapshot of a directory.
#[derive(Debug, Default)]
pub struct DirStream {
    entries: Vec<StreamEntry>,
}

impl DirStream {
    /// A snapshot of (name, type, number), in any order, each name once.
    pub fn new(names: impl IntoIterator<Item = (Box<[u8]>, u32, u64)>) -> DirStream {
        let mut entries: Vec<StreamEntry> = names
            .into_iter()
            .map(|(name, kind, number)| StreamEntry {
                cookie: cookie(&name),
                name,
                kind,
                number,
            })
            .collect();
        entries.sort_unstable_by(|a, b| (a.cookie, &a.name).cmp(&(b.cookie, &b.name)));
        for at in 1..entries.len() {
            if entries[at].cookie <= entries[at - 1].cookie {
                entries[at].cookie = entries[at - 1].cookie + 1;
            }
        }
        DirStream { entries }
    }

    /// What comes behind a cookie.
    pub fn after(&self, cookie: u64) -> &[StreamEntry] {
        let at = self.entries.partition_point(|entry| entry.cookie <= cookie);
        &self.entries[at..]
    }
}

/// Positive as a `loff_t`, above the ones of "." and "..".
fn cookie(name: &[u8]) -> u64 {
    (xxh3_64(name) >> 2).max(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(names: impl Iterator<Item = u32>) -> DirStream {
        DirStream::new(names.map(|n| (format!("f{n}").into_bytes().into(), 0, 0)))
    }

    #[test]
    fn a_cookie_holds_in_another_snapshot() {
        let full = stream(0..1000);
        let half = stream((0..1000).filter(|n| n % 2 == 0));
        let (seen, rest) = full.after(0).split_at(400);
        let went_on = half.after(seen[399].cookie);
        let expected: Vec<_> = rest
            .iter()
            .filter(|e| half.after(0).iter().any(|h| h.name == e.name))
            .map(|e| e.name.clone())
            .collect();
        assert_eq!(
            went_on.iter().map(|e| e.name.clone()).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn cookies_rise_and_are_positive() {
        let all = stream(0..10_000);
        let cookies: Vec<u64> = all.after(0).iter().map(|e| e.cookie).collect();
        assert!(cookies.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(cookies[0] >= FIRST && i64::try_from(cookies[9_999]).is_ok());
    }
}
