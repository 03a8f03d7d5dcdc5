//! What changes below directories of the server, told as it happens.
//!
//! Owns: the fanotify group, the thread that reads it, which directory of which watched root an
//! event is about. May not: know of views, layers, rules or FUSE; keep contents or attributes;
//! call the sink with a lock held.
//!
//! One mark per file system, shared by the roots on it. An event whose directory lies below no
//! root costs one look into a table of directory handles. Paths are those of the moment in which
//! an event is read: a directory that was moved since is reported where it is now, and the move
//! itself is reported as two `Entry` changes, after which all below both names is to be looked at
//! anew. So one rule holds: whoever forgets what he knows of whatever is reported, and reads it
//! again, knows the present state.
//!
//! What the kernel does not tell: writing through a shared mapping (the closing of the file is
//! told), a bare access time, and what another machine does to a file system (those that allow
//! it are refused).

mod reader;
mod refuse;
mod system;
#[cfg(test)]
mod tests;
mod tree;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use refuse::NotWatched;

use reader::Shared;

/// A watched root. Numbers are not used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RootId(pub u64);

/// What happened below a watched root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change<'a> {
    /// Path of the directory below the root, without a leading slash; empty: the root itself.
    pub dir: &'a [u8],
    /// The name in it; empty: the directory itself.
    pub name: &'a [u8],
    /// What happened to that name.
    pub what: What,
    /// It is a directory. An `Entry` of one concerns everything below it.
    pub is_dir: bool,
    /// Who did it: the process, 0 if it is in no namespace that we see.
    pub pid: i32,
    /// The object, with `Attributes` and `Contents` of what is no directory, if it still has a
    /// name. One with several is reported to [`Sink::object_changed`] as well.
    pub object: Option<Object>,
}

/// What happened to a name.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum What {
    /// It came, went, or stands for something else now. Its directory's link count and times
    /// changed with it.
    Entry,
    /// Mode, owner, times, extended attributes, link count.
    Attributes,
    /// Contents and size.
    Contents,
}

/// An object by its identity.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Object {
    /// Device, as stat(2) has it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u32,
}

/// Why all that was known of a root is void.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lost {
    /// The kernel's queue was full, and events were dropped. The root is still watched.
    Overflow,
    /// An event could not be followed to its directory, for the reason given. Still watched.
    Unresolved(io::ErrorKind),
    /// The directory was removed, renamed or unmounted, or its path leads elsewhere now. It is no
    /// longer watched; watch it again once it is there.
    Gone,
    /// Something was mounted below it, and changes there are not told. It is no longer watched.
    MountedOver,
    /// Events can't be read any more. Nothing is watched.
    Ended,
}

impl Lost {
    /// Do the roots go on being watched?
    pub fn still_watched(&self) -> bool {
        matches!(self, Lost::Overflow | Lost::Unresolved(_))
    }
}

/// Who is told. Called by one thread, in the order in which things happened, with no lock held;
/// the next event waits for the return. A root's number may come before [`Watcher::watch`] has
/// returned it, and once more while [`Watcher::unwatch`] returns.
pub trait Sink: Send + Sync {
    /// Something changed below a root. A change that concerns several roots is told for each.
    fn changed(&self, root: RootId, change: &Change<'_>);
    /// Contents or attributes of an object changed that has other names than the one reported, or
    /// whose name is not known: any name below these roots that stands for this object is
    /// concerned, and often there is none.
    fn object_changed(&self, roots: &[RootId], object: Object, what: What);
    /// Events were lost or can no longer be had: everything known of these roots is void.
    fn lost(&self, roots: &[RootId], why: &Lost);
}

/// What a watcher has seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Events read.
    pub events: u64,
    /// Calls of [`Sink::changed`].
    pub delivered: u64,
    /// Directories and objects that had to be looked up by their handle.
    pub lookups: u64,
    /// Overflows of the kernel's queue.
    pub overflows: u64,
    /// Roots that are watched.
    pub roots: usize,
    /// Marks: file systems with a root on them.
    pub marks: usize,
}

/// Watches directory trees until it is dropped.
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("stats", &self.stats())
            .finish()
    }
}

impl Watcher {
    /// Starts the thread that reads events.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `EINVAL` on a kernel before 5.9, `EMFILE`.
    pub fn start(sink: Arc<dyn Sink>) -> io::Result<Watcher> {
        let (shared, thread) = reader::start(sink)?;
        Ok(Watcher {
            shared,
            thread: Some(thread),
        })
    }

    /// Watches a directory and all below it. Whatever begins to happen after the return is told.
    /// Roots may be nested, and one directory may be watched several times. Symlinks in the path
    /// are followed now; a later change of one is not noticed.
    ///
    /// # Errors
    /// Why this directory can't be watched; nothing is known of its changes then.
    pub fn watch(&self, path: &Path) -> Result<RootId, NotWatched> {
        self.shared.tree.lock().watch(path)
    }

    /// Watches a root no longer.
    pub fn unwatch(&self, id: RootId) {
        self.shared.tree.lock().unwatch(id);
    }

    /// What was seen so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Returns once everything that happened before the call has been delivered. Called by a sink
    /// it returns at once, since it would wait for itself.
    pub fn settle(&self) {
        if !self.is_reader() {
            self.shared.settle();
        }
    }

    fn is_reader(&self) -> bool {
        let reader = self.thread.as_ref().map(|thread| thread.thread().id());
        reader == Some(std::thread::current().id())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop();
        // A sink that drops its watcher must not wait for itself; its thread ends after it.
        if let Some(thread) = self
            .thread
            .take()
            .filter(|t| t.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads changes panicked");
        }
    }
}
