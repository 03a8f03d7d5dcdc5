//! What a mount's next worker needs of the one before it: a session's state in memory that outlives
//! both (a memfd that somebody else holds).
//!
//! Owns: the layout of that memory. May not: know FUSE's types, layers or rules; do I/O.
//!
//! Every part is written so that a kill between any two stores leaves the old or the new: a record is
//! filled first and made valid by its last store. What is read here was written by a worker, perhaps
//! of another build: [`State::open`] takes what it understands, or refuses. Names are hints only: what
//! is wrong, torn or from another layout does no harm, and is left out.
//!
//! Lock order: the log of names is taken before a shard of the inode table, and nothing else below it.

mod attempts;
pub mod names;
pub mod opens;
pub mod request;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::sys::shm::Memory;
use names::Names;
use opens::Slots;

/// "STLKEEP" and the layout's version of all but names.
const MAGIC: u64 = 0x5354_4c4b_4545_5002;
/// The layout of names. Another one's are left out.
const NAMES_VERSION: u64 = match option_env!("STATELITE_NAMES_VERSION") {
    // A build of the tests.
    Some(_) => 2,
    None => 1,
};

// Words of the header.
const AT_MAGIC: usize = 0;
const AT_NAMES_VERSION: usize = 1;
const AT_WORKERS: usize = 2;
const AT_INIT_LEN: usize = 3;
const AT_NAMES: usize = 4;
const AT_OPENS_END: usize = 8;
const AT_BACKINGS_END: usize = 9;
const AT_INIT: usize = 16;
const INIT_WORDS: usize = 64;
const AT_ATTEMPTS: usize = AT_INIT + INIT_WORDS;
/// What is about to be done by requests that cannot be told apart once done.
const AT_INTENTS: usize = 128;
const INTENTS: usize = 16;
const INTENT_WORDS: usize = 4;
const AT_BACKINGS: usize = 1 << 10;
const BACKINGS: usize = 1 << 14;
const AT_OPENS: usize = 1 << 15;
const OPENS: usize = 1 << 16;
const AT_LOG: usize = 1 << 20;
/// All of it: 64 MiB, of which only what is used takes memory.
const WORDS: usize = 1 << 23;

/// A session's state.
#[derive(Debug)]
pub struct State {
    memory: Memory,
    worker: u64,
    opens: Mutex<Slots>,
    backings: Mutex<Slots>,
    names: Mutex<Names>,
    next_intent: AtomicU64,
}

impl State {
    /// That of a new mount; `init` is the kernel's first request.
    ///
    /// # Errors
    /// There is no memory, or the request is none.
    pub fn create(init: &[u8]) -> io::Result<State> {
        if init.len() > INIT_WORDS * 8 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let memory = Memory::create("statelite-session", WORDS)?;
        let words = memory.words();
        put_bytes(&words[AT_INIT..], init);
        words[AT_INIT_LEN].store(init.len() as u64, Ordering::Relaxed);
        words[AT_NAMES_VERSION].store(NAMES_VERSION, Ordering::Relaxed);
        words[AT_MAGIC].store(MAGIC, Ordering::Release);
        State::taken_up(memory)
    }

    /// That of a mount that another worker has served.
    ///
    /// # Errors
    /// `InvalidData` where it is of a layout that this program does not know.
    pub fn open(fd: OwnedFd) -> io::Result<State> {
        let memory = Memory::map(fd)?;
        check(&memory)?;
        State::taken_up(memory)
    }

    /// Could a worker of this build go on with it?
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn check(fd: BorrowedFd<'_>) -> io::Result<()> {
        check(&Memory::map(fd.try_clone_to_owned()?)?)
    }

    fn taken_up(memory: Memory) -> io::Result<State> {
        let words = memory.words();
        let worker = words[AT_WORKERS].fetch_add(1, Ordering::Relaxed) + 1;
        if words[AT_NAMES_VERSION].swap(NAMES_VERSION, Ordering::Relaxed) != NAMES_VERSION {
            Names::forget_all(words);
        }
        let opens = Slots::of(words, AT_OPENS_END, AT_OPENS, (OPENS, opens::WORDS));
        let backings = Slots::of(words, AT_BACKINGS_END, AT_BACKINGS, (BACKINGS, 1));
        let names = Names::of(words);
        Ok(State {
            opens: Mutex::new(opens),
            backings: Mutex::new(backings),
            names: Mutex::new(names),
            next_intent: AtomicU64::new(0),
            worker,
            memory,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// Which worker of this mount this is, the first one 1.
    pub fn worker(&self) -> u64 {
        self.worker
    }

    /// The kernel's first request.
    pub fn init(&self) -> Vec<u8> {
        let words = self.words();
        let len = words[AT_INIT_LEN].load(Ordering::Acquire) as usize;
        bytes(&words[AT_INIT..AT_INIT + INIT_WORDS], len)
    }

    /// Records, before it is done, that the object with this device and inode is to have another
    /// name: by the name alone nobody could tell afterwards whether it was.
    pub fn intend(&self, unique: u64, object: (u64, u64)) {
        let at = self.next_intent.fetch_add(1, Ordering::Relaxed) as usize % INTENTS;
        let words = &self.words()[AT_INTENTS + at * INTENT_WORDS..][..INTENT_WORDS];
        words[0].store(0, Ordering::Release);
        words[1].store(object.0, Ordering::Relaxed);
        words[2].store(object.1, Ordering::Relaxed);
        words[0].store(unique, Ordering::Release);
    }

    /// What a request that comes again was about to move.
    pub fn intended(&self, unique: u64) -> Option<(u64, u64)> {
        let all = &self.words()[AT_INTENTS..][..INTENTS * INTENT_WORDS];
        let intent = all
            .chunks_exact(INTENT_WORDS)
            .find(|intent| intent[0].load(Ordering::Acquire) == unique)?;
        let word = |at: usize| intent[at].load(Ordering::Relaxed);
        Some((word(1), word(2)))
    }
}

impl AsFd for State {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn check(memory: &Memory) -> io::Result<()> {
    let words = memory.words();
    if words.len() != WORDS || words[AT_MAGIC].load(Ordering::Acquire) != MAGIC {
        let why = "a session's state of another layout than this program's";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(())
}

/// Bytes into words.
fn put_bytes(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
    }
}

/// So many bytes out of words; fewer where there are no more.
fn bytes(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let all = words
        .iter()
        .take(len.div_ceil(8))
        .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
    all.take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(state: &State) -> State {
        State::open(state.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    #[test]
    fn the_first_request_and_the_workers_are_known_to_the_next() {
        let state = State::create(b"init request").unwrap();
        assert_eq!(state.worker(), 1);
        let next = again(&state);
        assert_eq!((next.worker(), &*next.init()), (2, &b"init request"[..]));
        State::check(state.as_fd()).unwrap();
    }

    #[test]
    fn another_layout_is_refused() {
        let other = Memory::create("test", WORDS).unwrap();
        assert!(State::check(other.as_fd()).is_err());
        let short = Memory::create("test", 16).unwrap();
        assert!(State::check(short.as_fd()).is_err());
    }

    #[test]
    fn names_of_another_layout_are_left_out() {
        let state = State::create(b"i").unwrap();
        state.note_name(7, 1, b"a");
        state.words()[AT_NAMES_VERSION].store(99, Ordering::Relaxed);
        assert!(again(&state).names().is_empty());
    }

    #[test]
    fn an_intent_is_found_by_its_request() {
        let state = State::create(b"i").unwrap();
        state.intend(10, (1, 2));
        state.intend(12, (3, 4));
        let next = again(&state);
        assert_eq!(next.intended(10), Some((1, 2)));
        assert_eq!(next.intended(12), Some((3, 4)));
        assert_eq!(next.intended(14), None);
        for n in 0..INTENTS as u64 {
            next.intend(100 + n, (5, 6));
        }
        assert_eq!(next.intended(10), None);
    }
}
