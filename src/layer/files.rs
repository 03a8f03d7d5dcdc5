//! Regular files of a lower layer that were read lately, kept open and shared: a file that many
//! nodes open, or one node opens again and again, is opened once.
//!
//! A descriptor counts only for the file (device and inode) that was just found at its path. A root
//! that is not the same any more takes all of them along (SEMANTICS section 8).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::Layer;
use crate::budget::{self, FILES};
use crate::sys::obj;
use crate::sys::{Errno, Res};

/// The most of one layer, each a descriptor: what a node that boots reads, and more.
const MOST: usize = 8192;
/// What nobody asked for in so long is let go of.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Kept {
    fd: budget::Kept,
    file: (u64, u64),
    used: Instant,
}

#[derive(Debug)]
struct State {
    /// Whose files these are.
    root: Option<Arc<OwnedFd>>,
    files: LruCache<Box<[u8]>, Kept>,
}

/// The files of one layer.
#[derive(Debug)]
pub(super) struct Files(Mutex<State>);

impl Default for Files {
    fn default() -> Self {
        Files(Mutex::new(State {
            root: None,
            files: LruCache::unbounded(),
        }))
    }
}

impl Files {
    /// Lets go of what nobody has asked for in a long time.
    pub(super) fn let_go_idle(&self) {
        let now = Instant::now();
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        while state
            .files
            .peek_lru()
            .is_some_and(|(_, kept)| now.saturating_duration_since(kept.used) > IDLE)
        {
            gone.extend(state.files.pop_lru());
        }
        drop(state);
        // Closing is a system call each.
        drop(gone);
    }
}

impl Layer {
    /// A regular file, open for reading, that may be shared: the one that was just found at `path`
    /// with this device and inode.
    ///
    /// # Errors
    /// openat2(2)'s; `ESTALE` where another file has come to be there.
    pub fn read_file(&self, path: &[u8], file: (u64, u64)) -> Res<Arc<OwnedFd>> {
        let root = match self.root() {
            Ok(root) => root,
            Err(e) => {
                let mut state = self.files.0.lock();
                state.root = None;
                let gone = std::mem::replace(&mut state.files, LruCache::unbounded());
                drop(state);
                drop(gone);
                return Err(e);
            }
        };
        {
            let mut state = self.files.0.lock();
            let same = state.root.as_ref().is_some_and(|at| Arc::ptr_eq(at, &root));
            if !same {
                state.root = Some(root.clone());
                state.files.clear();
            } else if let Some(kept) = state.files.get_mut(path)
                && kept.file == file
            {
                kept.used = Instant::now();
                return Ok(kept.fd.get());
            }
        }
        let fd = self.open_regular(path, OFlags::RDONLY)?;
        let stat = obj::stat(&fd)?;
        if (stat.dev, stat.ino) != file {
            return Err(Errno::STALE);
        }
        let fd = Arc::new(fd);
        let kept = Kept {
            fd: FILES.keep(fd.clone()),
            file,
            used: Instant::now(),
        };
        let mut gone = Vec::new();
        let mut state = self.files.0.lock();
        if state.root.as_ref().is_some_and(|at| Arc::ptr_eq(at, &root)) {
            gone.extend(state.files.put(path.into(), kept));
            let more = state.files.len().saturating_sub(MOST);
            for _ in 0..more.max(FILES.excess()) {
                gone.extend(state.files.pop_lru().map(|(_, kept)| kept));
            }
        }
        drop(state);
        drop(gone);
        Ok(fd)
    }
}
