//! Files that the kernel reads and writes by itself, kept for a while after their last close, so
//! that opening one again costs no system call: a log that is opened for each line, a library that
//! every program maps.
//!
//! A kept file is in nobody's way but for its space: one of an upper is let go of when it loses its
//! last name, and after [`SHORT`] whatever happens (somebody else may have removed it).

use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::View;
use super::backing::{Backing, File};
use crate::sys::obj::Stat;

/// The most files of each kind that one view keeps. None costs this process a descriptor.
const MOST: usize = 8192;
/// For how long a lower layer's file is kept that nobody opens.
const LONG: Duration = Duration::from_secs(60);
/// The same for an upper's.
const SHORT: Duration = Duration::from_secs(1);

/// Backings by the file that they are of.
#[derive(Debug)]
pub(super) struct Kept {
    files: Mutex<LruCache<File, (Backing, Instant)>>,
    idle: Duration,
}

impl Kept {
    pub(super) fn of_lowers() -> Kept {
        Kept::for_idle(LONG)
    }

    pub(super) fn of_uppers() -> Kept {
        Kept::for_idle(SHORT)
    }

    fn for_idle(idle: Duration) -> Kept {
        Kept {
            files: Mutex::new(LruCache::unbounded()),
            idle,
        }
    }

    pub(super) fn get(&self, file: File) -> Option<Backing> {
        let mut files = self.files.lock();
        let (backing, used) = files.get_mut(&file)?;
        *used = Instant::now();
        Some(backing.clone())
    }

    pub(super) fn put(&self, file: File, backing: Backing) {
        let mut files = self.files.lock();
        let before = files.put(file, (backing, Instant::now()));
        let oldest = match files.len() > MOST {
            true => files.pop_lru(),
            false => None,
        };
        // Letting go of one is a system call.
        drop(files);
        drop((before, oldest));
    }

    fn remove(&self, file: File) {
        let gone = self.files.lock().pop(&file);
        drop(gone);
    }

    /// Lets go of what nobody has opened for long enough at `now`.
    fn let_go_idle(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut files = self.files.lock();
        while files
            .peek_lru()
            .is_some_and(|(_, (_, used))| now.saturating_duration_since(*used) >= self.idle)
        {
            gone.extend(files.pop_lru());
        }
        drop(files);
        drop(gone);
    }
}

impl View {
    /// Lets go of files that nobody has open, once they were not opened for a while. To be called
    /// every second or so.
    pub fn let_go_idle(&self) {
        let now = Instant::now();
        self.held.lowers.let_go_idle(now);
        self.held.uppers.let_go_idle(now);
    }

    /// A file of an upper has no name any more: its space is to come back once it is closed.
    pub(super) fn not_kept(&self, stat: &Stat) {
        self.held.uppers.remove((stat.dev, stat.ino));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_not_opened_for_its_time_goes_oldest_first() {
        let kept = Kept::of_uppers();
        let backings: Vec<Backing> = (0..3).map(|_| Arc::new(()) as Backing).collect();
        for (n, backing) in (0..).zip(&backings) {
            kept.put((1, n), backing.clone());
        }
        // Opened again, it is the youngest.
        assert!(kept.get((1, 0)).is_some());
        let used = kept.files.lock().peek(&(1, 0)).unwrap().1;
        kept.let_go_idle(used);
        assert_eq!(kept.files.lock().len(), 3);
        kept.let_go_idle(used + SHORT);
        assert_eq!(kept.files.lock().len(), 0);
        assert!(backings.iter().all(|b| Arc::strong_count(b) == 1));
    }

    #[test]
    fn no_more_are_kept_than_there_may_be() {
        let kept = Kept::of_lowers();
        let first: Backing = Arc::new(());
        kept.put((1, 0), first.clone());
        for n in 1..=MOST as u64 {
            kept.put((1, n), Arc::new(()));
        }
        assert_eq!(Arc::strong_count(&first), 1);
        assert_eq!(kept.files.lock().len(), MOST);
    }
}
