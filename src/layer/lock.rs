//! One process serves an upper: a second one would take the first one's stages for what a crash
//! left, and neither would see what the other writes.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, OFlags};

use crate::sys::obj;
use crate::sys::{Errno, Res};

/// How long to wait for a process that is just ending: its mount goes before it does.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// A held lock; it goes with the last view of this process that uses the upper.
pub(super) type Lock = Arc<Option<OwnedFd>>;

type Held = HashMap<(u64, u64), Weak<Option<OwnedFd>>>;

/// Locks that this process holds, by device and inode. A lock of flock(2) is an open file's: a
/// second view of this process, made while the first still serves, must share the first one's.
static HELD: LazyLock<Mutex<Held>> = LazyLock::new(Mutex::default);

/// Locks a work directory.
///
/// # Errors
/// `EBUSY` where another process holds the lock.
pub(super) fn take(work: &OwnedFd) -> Res<Lock> {
    let stat = obj::stat(work)?;
    let key = (stat.dev, stat.ino);
    let file = obj::reopen(work, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let start = Instant::now();
    loop {
        let mut held = HELD.lock();
        if let Some(lock) = held.get(&key).and_then(Weak::upgrade) {
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
        let lock = Arc::new(file);
        held.retain(|_, lock| lock.strong_count() > 0);
        held.insert(key, Arc::downgrade(&lock));
        return Ok(lock);
    }
}
