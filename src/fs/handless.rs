//! Descriptors for requests that come without a handle: from an NFS server, and all of them where
//! the kernel does not tell of opens (`io = "cached"`).
//!
//! A descriptor is a hint: whether it is still the right one is checked at each use. What has no
//! name any more is let go of, so that a store gets its space back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::backing::File;
use super::resolve::Here;
use super::upper::Data;
use super::{Inode, IoMode, OpenHow, Source, View};
use crate::sys::Res;
use rustix::fs::OFlags;

#[derive(Clone, Debug)]
struct Hint {
    fd: Arc<OwnedFd>,
    epoch: u32,
    /// The file of a lower layer that this is.
    file: Option<File>,
}

/// Inodes' descriptors, for reading and for writing.
#[derive(Debug)]
pub(super) struct Files {
    most: usize,
    hints: Mutex<LruCache<(u64, bool), Hint>>,
}

impl Files {
    pub(super) fn new(io: IoMode) -> Files {
        Files {
            most: if io == IoMode::Cached { 1024 } else { 64 },
            hints: Mutex::new(LruCache::unbounded()),
        }
    }

    fn get(&self, number: u64, write: bool) -> Option<Hint> {
        let mut hints = self.hints.lock();
        if hints.is_empty() {
            return None;
        }
        // Whatever is open for writing is open for reading, too.
        let written = hints.get(&(number, true)).cloned();
        match (written, write) {
            (None, false) => hints.get(&(number, false)).cloned(),
            (written, _) => written,
        }
    }

    fn put(&self, number: u64, write: bool, hint: Hint) {
        let mut hints = self.hints.lock();
        let before = hints.put((number, write), hint);
        let oldest = match hints.len() > self.most {
            true => hints.pop_lru(),
            false => None,
        };
        drop(hints);
        drop((before, oldest));
    }

    /// Lets go of an inode's.
    pub(super) fn let_go(&self, number: u64) {
        let mut hints = self.hints.lock();
        if hints.is_empty() {
            return;
        }
        let gone = (hints.pop(&(number, false)), hints.pop(&(number, true)));
        drop(hints);
        drop(gone);
    }

    /// The descriptor that an inode was last read by.
    pub(super) fn last(&self, number: u64) -> Option<Arc<OwnedFd>> {
        self.get(number, false).map(|hint| hint.fd)
    }
}

impl View {
    /// What was just made in an upper is open for reading and writing.
    pub(super) fn keep_handless(&self, inode: &Inode, fd: OwnedFd, epoch: u32) {
        let (fd, file) = (Arc::new(fd), None);
        let hint = Hint { fd, epoch, file };
        self.held.handless.put(inode.number, true, hint);
    }

    /// The descriptor that serves a request without a handle.
    ///
    /// # Errors
    /// As opening it.
    pub(super) fn file_of_none(&self, inode: &Arc<Inode>, write: bool) -> Res<Arc<OwnedFd>> {
        let number = inode.number;
        if let Some(hint) = self.held.handless.get(number, write) {
            let state = inode.data.state.read();
            let same = state.backing.is_none() || state.backing == hint.file;
            if hint.epoch == state.epoch && same && self.is_fresh(&state) {
                return Ok(hint.fd);
            }
        }
        let flags = match write {
            true => OFlags::RDWR,
            false => OFlags::RDONLY,
        };
        let how = OpenHow { flags };
        let here: Box<Here> = match write {
            true => self.copy_up(inode, Data::Whole)?,
            false => self.object(inode)?,
        };
        let epoch = inode.data.state.read().epoch;
        let fd = match write {
            true => self.open_upper(&here, how).map(Arc::new),
            false => self.open_to_read(&here, how),
        }?;
        // What was put together is not the same a moment later; what is gone is not kept.
        if matches!(here.source, Source::One(_)) && !inode.is_nameless() {
            let file = here.backing();
            let hint = Hint {
                fd: fd.clone(),
                epoch,
                file,
            };
            self.held.handless.put(number, write, hint);
            if inode.is_nameless() {
                self.held.handless.let_go(number);
            }
        }
        Ok(fd)
    }
}
