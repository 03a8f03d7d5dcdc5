//! Requests that come again and are being served: where one worker after the other crashes, the one
//! that does it is among them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{AT_ATTEMPTS, AT_INTENTS, State};

/// So many of them are noted at once; others are served without.
const MOST: usize = 16;
/// The request's number, 0 where the slot is free; how many workers have crashed over it.
const WORDS: usize = 2;

impl State {
    fn attempts(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.words()[AT_ATTEMPTS..][..MOST * WORDS].chunks_exact(WORDS)
    }

    fn attempt_of(&self, request: u64) -> Option<&[AtomicU64]> {
        self.attempts()
            .find(|attempt| attempt[0].load(Ordering::Acquire) == request)
    }

    /// The worker before this one has ended. Where it crashed, any of the requests that it was at may
    /// have done it; otherwise none of them is to blame.
    pub fn ended(&self, crashed: bool) {
        for attempt in self.attempts() {
            match crashed && attempt[0].load(Ordering::Acquire) != 0 {
                true => {
                    attempt[1].fetch_add(1, Ordering::Relaxed);
                }
                false => free(attempt),
            }
        }
    }

    /// A request that comes again is about to be served. How many workers in a row have crashed while
    /// they served it so.
    pub fn attempt(&self, request: u64) -> u64 {
        if let Some(attempt) = self.attempt_of(request) {
            return attempt[1].load(Ordering::Relaxed);
        }
        // A free slot's count is 0.
        for attempt in self.attempts() {
            let taken =
                attempt[0].compare_exchange(0, request, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_ok() {
                break;
            }
        }
        0
    }

    /// It was served.
    pub fn attempted(&self, request: u64) {
        if let Some(attempt) = self.attempt_of(request) {
            free(attempt);
        }
    }
}

fn free(attempt: &[AtomicU64]) {
    attempt[1].store(0, Ordering::Relaxed);
    attempt[0].store(0, Ordering::Release);
}

const _: () = assert!(AT_ATTEMPTS + MOST * WORDS <= AT_INTENTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_are_counted_for_who_was_being_served() {
        let state = State::create(b"i").unwrap();
        assert_eq!((state.attempt(10), state.attempt(12)), (0, 0));
        state.attempted(12);
        state.ended(true);
        assert_eq!((state.attempt(10), state.attempt(12)), (1, 0));
        state.ended(true);
        assert_eq!((state.attempt(10), state.attempt(12)), (2, 1));
        // Somebody killed it: that says nothing.
        state.ended(false);
        assert_eq!((state.attempt(10), state.attempt(12)), (0, 0));
    }

    #[test]
    fn there_is_room_for_some() {
        let state = State::create(b"i").unwrap();
        for request in 1..=MOST as u64 + 1 {
            assert_eq!(state.attempt(request), 0);
        }
        state.ended(true);
        assert_eq!(state.attempt(1), 1);
        assert_eq!(state.attempt(MOST as u64 + 1), 0);
        state.attempted(1);
        assert_eq!(state.attempt(MOST as u64 + 1), 0);
        state.ended(true);
        assert_eq!(state.attempt(MOST as u64 + 1), 1);
    }
}
