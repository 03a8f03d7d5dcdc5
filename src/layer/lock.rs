//! One process serves an upper: a second one would take the first one's stages for what a crash
//! left, and neither would see what the other writes.
//!
//! Owns: the locks of this process. May not: know of views.
//!
//! A lock of flock(2) is an open file's. Where a process that follows this one is to go on with what
//! this one serves, its locks are given to a [`LockKeeper`]: so nobody else gets them between the two,
//! and it does not matter how long the end of this process takes.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags};

use crate::sys::obj;
use crate::sys::{Errno, Res};

/// How long to wait for a process that is just ending: its mount goes before it does.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// A directory's device and inode.
type Id = (u64, u64);

/// Keeps locks for a process that follows this one. Told in the order in which it is to happen.
pub trait LockKeeper: Send + Sync {
    /// Keep this open file.
    fn keep(&self, id: (u64, u64), lock: BorrowedFd<'_>);
    /// Close it.
    fn let_go(&self, id: (u64, u64));
}

/// A held lock.
#[derive(Debug)]
pub(super) struct Held {
    id: Id,
    /// `None` where the store has no locks.
    file: Option<OwnedFd>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        if let Some(keeper) = KEEPER.get() {
            keeper.let_go(self.id);
        }
        // Not by closing it: the keeper may close it later.
        if let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock) {
            tracing::warn!(%error, "an upper stays locked");
        }
    }
}

/// A held lock; it goes with the last view of this process that uses the upper.
pub(super) type Lock = Arc<Held>;

/// Locks that this process holds: a second view of it, made while the first still serves, must share
/// the first one's.
static HELD: LazyLock<Mutex<HashMap<Id, Weak<Held>>>> = LazyLock::new(Mutex::default);
/// What the process before this one has left and nobody has asked for yet.
static LEFT: LazyLock<Mutex<HashMap<Id, Lock>>> = LazyLock::new(Mutex::default);
static KEEPER: OnceLock<Box<dyn LockKeeper>> = OnceLock::new();

/// From now on, locks are kept for a process that follows; those that the one before has left are
/// this one's.
pub fn keep_locks(keeper: Box<dyn LockKeeper>, left: impl IntoIterator<Item = (Id, OwnedFd)>) {
    if KEEPER.set(keeper).is_err() {
        tracing::error!("locks have a keeper already");
    }
    let left = left.into_iter().map(|(id, file)| {
        let file = Some(file);
        (id, Arc::new(Held { id, file }))
    });
    let mut held = HELD.lock();
    LEFT.lock().extend(left.inspect(|(id, lock)| {
        held.insert(*id, Arc::downgrade(lock));
    }));
}

/// What was left and nobody has asked for is not asked for any more.
pub fn let_go_of_left_locks() {
    // Not under the lock.
    let left = std::mem::take(&mut *LEFT.lock());
    drop(left);
}

/// Locks a work directory.
///
/// # Errors
/// `EBUSY` where another process holds the lock.
pub(super) fn take(work: &OwnedFd) -> Res<Lock> {
    let stat = obj::stat(work)?;
    let id = (stat.dev, stat.ino);
    let file = obj::reopen(work, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let start = Instant::now();
    loop {
        let mut held = HELD.lock();
        if let Some(lock) = held.get(&id).and_then(Weak::upgrade) {
            LEFT.lock().remove(&id);
            return Ok(lock);
        }
        let file = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(file),
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => {
                drop(held);
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Err(Errno::BUSY),
            // A store without locks (NFS mounted so): two processes cannot be told apart there.
            Err(error) => {
                tracing::debug!(%error, "the store has no locks");
                None
            }
        };
        if let Some((keeper, file)) = KEEPER.get().zip(file.as_ref()) {
            keeper.keep(id, file.as_fd());
        }
        let lock = Arc::new(Held { id, file });
        held.retain(|_, lock| lock.strong_count() > 0);
        held.insert(id, Arc::downgrade(&lock));
        return Ok(lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &std::path::Path) -> OwnedFd {
        std::fs::File::open(dir).unwrap().into()
    }

    #[test]
    fn what_was_left_is_this_process_s_until_it_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let (left, other) = (open(dir.path()), open(dir.path()));
        rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive).unwrap();
        let try_lock = || rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
        let stat = obj::stat(&left).unwrap();
        // As a keeper's copy that is closed late.
        let copy = left.try_clone().unwrap();
        let id = (stat.dev, stat.ino);
        let held = Arc::new(Held {
            id,
            file: Some(left),
        });
        HELD.lock().insert(id, Arc::downgrade(&held));
        LEFT.lock().insert(id, held);
        let lock = take(&open(dir.path())).unwrap();
        assert!(LEFT.lock().is_empty());
        assert_eq!(try_lock(), Err(Errno::WOULDBLOCK));
        drop(lock);
        assert_eq!(try_lock(), Ok(()));
        drop(copy);
    }
}
