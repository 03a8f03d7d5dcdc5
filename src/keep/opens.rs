//! Open files, and the files that were handed to the kernel: a slot each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{AT_BACKINGS, AT_OPENS, BACKINGS, OPENS, State};

/// A slot's words. The first one is the handle, 0 where the slot is free.
pub(super) const WORDS: usize = 8;

/// An open file as the next worker needs it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Open {
    /// The handle's number, never 0.
    pub handle: u64,
    /// The inode's.
    pub number: u64,
    /// The request that opened it.
    pub unique: u64,
    /// open(2)'s flags.
    pub flags: u32,
    /// What the kernel reads and writes by itself: the backing's number (0: the daemon does), and
    /// device and inode of that file.
    pub backing: u32,
    /// Device and inode of the backing file.
    pub file: (u64, u64),
    /// Which upper has it, by a number of the caller's; 0: none.
    pub upper: u8,
}

/// Which slots of a table are free.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    /// None from here on was ever used.
    end: u32,
    most: u32,
    /// The word that has `end`: what lies behind it is never read, since reading takes memory.
    end_at: usize,
}

impl Slots {
    /// As they are: `most` of `size` words each from `at`.
    pub(super) fn of(
        words: &[AtomicU64],
        end_at: usize,
        at: usize,
        (most, size): (usize, usize),
    ) -> Slots {
        let end = (words[end_at].load(Ordering::Acquire) as usize).min(most);
        let is_free = |slot: &usize| words[at + slot * size].load(Ordering::Acquire) == 0;
        Slots {
            free: (0..end).filter(is_free).map(|slot| slot as u32).collect(),
            end: end as u32,
            most: most as u32,
            end_at,
        }
    }

    fn take(&mut self, words: &[AtomicU64]) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        (self.end < self.most).then(|| {
            self.end += 1;
            words[self.end_at].store(u64::from(self.end), Ordering::Release);
            self.end - 1
        })
    }
}

/// An open file's slot, free again when this is dropped.
#[derive(Debug)]
pub struct Record {
    state: Arc<State>,
    slot: u32,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.state.open_words(self.slot)[0].store(0, Ordering::Release);
        self.state.opens.lock().free.push(self.slot);
    }
}

/// A backing's slot, likewise.
#[derive(Debug)]
pub struct Registered {
    state: Arc<State>,
    slot: u32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.state.words()[AT_BACKINGS + self.slot as usize].store(0, Ordering::Release);
        self.state.backings.lock().free.push(self.slot);
    }
}

impl State {
    fn open_words(&self, slot: u32) -> &[AtomicU64] {
        &self.words()[AT_OPENS + slot as usize * WORDS..][..WORDS]
    }

    /// Records an open file, before the kernel is told of it. `None` where there is no room: the next
    /// worker knows nothing of it then.
    pub fn opened(self: &Arc<Self>, open: &Open) -> Option<Record> {
        let slot = self.opens.lock().take(self.words())?;
        let words = self.open_words(slot);
        let packed = u64::from(open.flags) | u64::from(open.upper) << 32;
        let all = [
            open.number,
            open.unique,
            packed,
            open.file.0,
            open.file.1,
            u64::from(open.backing),
        ];
        for (word, value) in words[1..].iter().zip(all) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(open.handle, Ordering::Release);
        let state = self.clone();
        Some(Record { state, slot })
    }

    /// The files that are open, and their slots.
    pub fn open_files(self: &Arc<Self>) -> Vec<(Open, Record)> {
        let end = self.opens.lock().end;
        let read = |slot: u32| {
            let words = self.open_words(slot);
            let word = |at: usize| words[at].load(Ordering::Relaxed);
            let handle = words[0].load(Ordering::Acquire);
            let open = Open {
                handle,
                number: word(1),
                unique: word(2),
                flags: word(3) as u32,
                upper: (word(3) >> 32) as u8,
                file: (word(4), word(5)),
                backing: word(6) as u32,
            };
            // Not before it is known to be one: whoever drops it frees the slot.
            let record = || Record {
                state: self.clone(),
                slot,
            };
            (handle != 0).then(|| (open, record()))
        };
        (0..end).filter_map(read).collect()
    }

    /// Records a file that was just handed to the kernel.
    pub fn registered(self: &Arc<Self>, backing: u32) -> Option<Registered> {
        let slot = self.backings.lock().take(self.words())?;
        self.words()[AT_BACKINGS + slot as usize].store(u64::from(backing), Ordering::Release);
        let state = self.clone();
        Some(Registered { state, slot })
    }

    /// The backings that the kernel has, and their slots.
    pub fn backings(self: &Arc<Self>) -> Vec<(u32, Registered)> {
        let end = self.backings.lock().end;
        let read = |slot: u32| {
            let id = self.words()[AT_BACKINGS + slot as usize].load(Ordering::Acquire) as u32;
            let registered = || Registered {
                state: self.clone(),
                slot,
            };
            (id != 0).then(|| (id, registered()))
        };
        (0..end).filter_map(read).collect()
    }
}

const _: () =
    assert!(AT_BACKINGS + BACKINGS <= AT_OPENS && AT_OPENS + OPENS * WORDS <= super::AT_LOG);

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn open(handle: u64) -> Open {
        Open {
            handle,
            number: handle + 100,
            unique: handle * 2,
            flags: 0o2,
            backing: 7,
            file: (8, 9),
            upper: 2,
        }
    }

    fn again(state: &State) -> Arc<State> {
        Arc::new(State::open(state.as_fd().try_clone_to_owned().unwrap()).unwrap())
    }

    #[test]
    fn open_files_are_found_until_they_are_closed() {
        let state = Arc::new(State::create(b"i").unwrap());
        let mut records: Vec<Record> = (1..=3).map(|n| state.opened(&open(n)).unwrap()).collect();
        drop(records.remove(1));
        let next = again(&state);
        let found = next.open_files();
        let opens: Vec<Open> = found.iter().map(|(open, _)| *open).collect();
        assert_eq!(opens, [open(1), open(3)]);
        // The free slot is used again, and none of another's.
        let fourth = next.opened(&open(4)).unwrap();
        assert_eq!(next.open_files().len(), 3);
        std::mem::forget(fourth);
        drop(found);
    }

    #[test]
    fn a_slot_is_nobody_s_or_somebody_s_alone() {
        let state = Arc::new(State::create(b"i").unwrap());
        drop((state.opened(&open(1)), state.registered(1)));
        let next = again(&state);
        assert!(next.open_files().is_empty() && next.backings().is_empty());
        let opens: Vec<Record> = (2..=3).map(|n| next.opened(&open(n)).unwrap()).collect();
        let backings: Vec<Registered> = (2..=3).map(|n| next.registered(n).unwrap()).collect();
        assert_ne!(opens[0].slot, opens[1].slot);
        assert_ne!(backings[0].slot, backings[1].slot);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let state = Arc::new(State::create(b"i").unwrap());
        let records: Vec<_> = (1..=OPENS as u64 + 1)
            .map(|n| state.opened(&open(n)))
            .collect();
        assert_eq!(records.iter().flatten().count(), OPENS);
        drop(records);
        assert!(again(&state).open_files().is_empty());
    }

    #[test]
    fn backings_are_found() {
        let state = Arc::new(State::create(b"i").unwrap());
        let (one, _two) = (state.registered(5).unwrap(), state.registered(6).unwrap());
        drop(one);
        let ids = |state: &Arc<State>| {
            let all = state.backings();
            let ids: Vec<u32> = all.iter().map(|(id, _)| *id).collect();
            std::mem::forget(all);
            ids
        };
        assert_eq!(ids(&again(&state)), [6]);
    }
}
