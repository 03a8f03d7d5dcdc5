//! Where the kernel's inodes were last seen: a log of numbers and names, written anew into its other
//! half when most of it is old.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{AT_LOG, AT_NAMES, State, WORDS, bytes, put_bytes};

/// Each half of the log.
const HALF: usize = (WORDS - AT_LOG) / 2;
/// So much is never written anew: 64 KiB.
const SMALL: usize = 1 << 13;
const HEAD: usize = 3;
/// What a record is of, in the upper half of its first word.
const NAME: u64 = 1;
const OBJECT: u64 = 2;

/// A name: the directory's number and the name in it.
pub type Seen = (u64, Box<[u8]>);

/// An object without a name: its upper, by a number of the caller's (0: none), and its last path.
pub type Nameless = (u8, Box<[u8]>);

/// Where the log is written.
#[derive(Debug)]
pub(super) struct Names {
    half: usize,
    used: usize,
    /// It is written anew when it is longer than this.
    limit: usize,
    /// There is no room for all that is: nothing more is written.
    full: bool,
}

const fn used_at(half: usize) -> usize {
    AT_NAMES + 1 + half
}

fn start(half: usize) -> usize {
    AT_LOG + half * HALF
}

impl Names {
    pub(super) fn of(words: &[AtomicU64]) -> Names {
        let half = words[AT_NAMES].load(Ordering::Acquire) as usize & 1;
        let used = words[used_at(half)].load(Ordering::Acquire) as usize;
        let used = if used > HALF { 0 } else { used };
        Names {
            half,
            used,
            // What of it is old is not known: it is not to become longer by each worker that comes.
            limit: SMALL.max(used),
            full: false,
        }
    }

    pub(super) fn forget_all(words: &[AtomicU64]) {
        for half in 0..2 {
            words[used_at(half)].store(0, Ordering::Release);
        }
    }

    /// Appends a record; false where there is no room.
    fn append(
        &mut self,
        words: &[AtomicU64],
        kind: u64,
        (number, of): (u64, u64),
        name: &[u8],
    ) -> bool {
        let size = HEAD + name.len().div_ceil(8);
        if self.used + size > HALF {
            return false;
        }
        let record = &words[start(self.half) + self.used..][..size];
        record[0].store(kind << 32 | name.len() as u64, Ordering::Relaxed);
        record[1].store(number, Ordering::Relaxed);
        record[2].store(of, Ordering::Relaxed);
        put_bytes(&record[HEAD..], name);
        self.used += size;
        // Now it is there.
        words[used_at(self.half)].store(self.used as u64, Ordering::Release);
        true
    }
}

impl State {
    /// Notes where an inode is. True where the log should be written anew ([`State::rewrite_names`]).
    pub fn note_name(&self, number: u64, parent: u64, name: &[u8]) -> bool {
        self.note(NAME, (number, parent), name)
    }

    /// Notes an object that is about to lose its last name.
    pub fn note_nameless(&self, number: u64, upper: u8, path: &[u8]) -> bool {
        self.note(OBJECT, (number, u64::from(upper)), path)
    }

    fn note(&self, kind: u64, of: (u64, u64), name: &[u8]) -> bool {
        let mut names = self.names.lock();
        if names.full {
            return false;
        }
        let fits = names.append(self.words(), kind, of, name);
        !fits || names.used > names.limit
    }

    /// Much of the log is old: the next note has it written anew, unless it is short.
    pub fn names_are_old(&self) {
        self.names.lock().limit = SMALL;
    }

    /// Writes the log anew: what `each` calls its argument with, and objects without a name that
    /// `still` are.
    pub fn rewrite_names(
        &self,
        still: impl Fn(u64) -> bool,
        each: impl FnOnce(&mut dyn FnMut(u64, u64, &[u8])),
    ) {
        let mut names = self.names.lock();
        if names.used <= names.limit && !names.full {
            // Somebody else has just done it.
            return;
        }
        let (objects, words) = (self.nameless_in(&names), self.words());
        let mut anew = Names {
            half: names.half ^ 1,
            used: 0,
            limit: 0,
            full: false,
        };
        let mut fits = true;
        for (number, (upper, path)) in objects.iter().filter(|(number, _)| still(**number)) {
            fits &= anew.append(words, OBJECT, (*number, u64::from(*upper)), path);
        }
        each(&mut |number, parent, name| {
            fits &= anew.append(words, NAME, (number, parent), name);
        });
        anew.limit = SMALL.max(anew.used * 2).min(HALF);
        anew.full = !fits;
        if anew.full {
            tracing::warn!(
                "too many inodes to note where they are: a worker that follows looks for the others"
            );
        }
        words[AT_NAMES].store(anew.half as u64, Ordering::Release);
        let old = std::mem::replace(&mut *names, anew);
        if let Err(error) = self.memory.give_back(start(old.half), HALF) {
            tracing::debug!(%error, "the log of names keeps its memory");
        }
    }

    fn records(&self, names: &Names, mut visit: impl FnMut(u64, u64, u64, Vec<u8>)) {
        let log = &self.words()[start(names.half)..][..names.used];
        let mut rest = log;
        while rest.len() >= HEAD {
            let word = |at: usize| rest[at].load(Ordering::Relaxed);
            let (kind, len) = (word(0) >> 32, (word(0) & u64::from(u32::MAX)) as usize);
            let size = HEAD + len.div_ceil(8);
            if size > rest.len() {
                break;
            }
            visit(kind, word(1), word(2), bytes(&rest[HEAD..size], len));
            rest = &rest[size..];
        }
    }

    /// Where each inode was last seen.
    pub fn names(&self) -> HashMap<u64, Seen> {
        let names = self.names.lock();
        let mut seen = HashMap::new();
        self.records(&names, |kind, number, parent, name| {
            if kind == NAME {
                seen.insert(number, (parent, name.into()));
            }
        });
        seen
    }

    fn nameless_in(&self, names: &Names) -> HashMap<u64, Nameless> {
        let mut all = HashMap::new();
        self.records(names, |kind, number, upper, path| {
            if kind == OBJECT {
                all.insert(number, (upper as u8, path.into()));
            }
        });
        all
    }

    /// The objects that were about to lose their last name.
    pub fn nameless(&self) -> HashMap<u64, Nameless> {
        self.nameless_in(&self.names.lock())
    }
}

const _: () = assert!(used_at(1) < super::AT_OPENS_END);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn again(state: &State) -> State {
        State::open(state.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn the_last_name_counts() {
        let state = State::create(b"i").unwrap();
        state.note_name(10, 1, b"dir");
        state.note_name(11, 10, b"a name of more than eight bytes");
        state.note_name(11, 1, b"moved");
        state.note_nameless(12, 2, b"dir/gone");
        let next = again(&state);
        let names = next.names();
        assert_eq!(names[&11], (1, b"moved"[..].into()));
        assert_eq!(names[&10], (1, b"dir"[..].into()));
        assert_eq!(next.nameless()[&12], (2, b"dir/gone"[..].into()));
        next.note_name(13, 10, b"");
        assert_eq!(again(&next).names().len(), 3);
    }

    #[test]
    fn it_is_written_anew_when_most_of_it_is_old() {
        let state = State::create(b"i").unwrap();
        let (mut rewrites, mut longest) = (0, 0);
        state.note_nameless(5, 0, b"gone");
        for n in 0..100_000u64 {
            if state.note_name(10 + n % 100, 1, format!("name {n}").as_bytes()) {
                rewrites += 1;
                state.rewrite_names(
                    |number| number == 5,
                    |put| (0..100).for_each(|n| put(10 + n, 1, format!("kept {n}").as_bytes())),
                );
            }
            longest = longest.max(state.names.lock().used);
        }
        assert!(rewrites > 10, "{rewrites}");
        assert!(longest <= SMALL + 16, "{longest}");
        let next = again(&state);
        assert_eq!((next.names().len(), next.nameless().len()), (100, 1));
    }
}
