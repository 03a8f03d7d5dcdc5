//! Room on a full store.
//!
//! A removed file is kept reachable until the kernel forgets it ([`super::node::Orphan`]), and the
//! kernel says so a few requests later. On a full store that is too late: who removes a file and
//! writes at once would still get ENOSPC. So what nobody has open is let go of then.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Inode, View};
use crate::sys::{Errno, Res};

/// How often, and how far apart, what was let go of is waited for.
const CLOSING: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

impl View {
    /// Remembers a regular file that lost its last name.
    pub(super) fn note_removed(&self, inode: &Arc<Inode>) {
        let mut removed = self.held.removed.lock();
        // What the kernel has forgotten meanwhile goes before the list grows.
        if removed.len() == removed.capacity() {
            removed.retain(|inode| inode.strong_count() > 0);
        }
        removed.push(Arc::downgrade(inode));
    }

    /// Runs `work`, and where there is no room for it, once more with removed files let go of.
    ///
    /// # Errors
    /// What `work` answers.
    pub(super) fn with_room<T>(&self, mut work: impl FnMut() -> Res<T>) -> Res<T> {
        let full = |done: &Res<T>| matches!(done, Err(Errno::NOSPC | Errno::DQUOT));
        let mut done = work();
        if full(&done) && (self.let_go() || self.may_be_closing()) {
            done = work();
            // Another process has what was let go of, too, and closes it in a moment.
            for _ in 0..CLOSING {
                if !full(&done) || !self.may_be_closing() {
                    break;
                }
                std::thread::sleep(PAUSE);
                done = work();
            }
        }
        done
    }

    /// Before the kernel writes to a store by itself, where nobody can try a second time: lets go of
    /// removed files if there is little room.
    pub(super) fn make_room(&self, on: impl AsFd) {
        {
            let mut removed = self.held.removed.lock();
            // Mostly the kernel forgets a file right after it was removed.
            while removed
                .last()
                .is_some_and(|inode| inode.strong_count() == 0)
            {
                removed.pop();
            }
            if removed.is_empty() {
                return;
            }
        }
        let scarce = |fs: rustix::fs::StatVfs| fs.f_bavail < fs.f_blocks / 2;
        if rustix::fs::fstatvfs(on).is_ok_and(scarce) {
            self.let_go();
        }
    }

    /// Lets go of removed files that nobody has open; false where there were none.
    fn let_go(&self) -> bool {
        let removed = std::mem::take(&mut *self.held.removed.lock());
        let mut any = false;
        for inode in removed.iter().filter_map(std::sync::Weak::upgrade) {
            if inode.data.opens.load(Ordering::Relaxed) > 0 {
                self.note_removed(&inode);
            } else if inode.is_nameless() {
                self.held.handless.let_go(inode.number);
                any |= inode.data.state.write().orphan.take().is_some();
                self.object_is_named(inode.number);
            }
        }
        any
    }
}
