//! What outlives the process that serves a view: noting it while it serves, and going on where a
//! process before this one was killed.
//!
//! Of what the kernel holds, only open files and objects without a name are restored at once. Every
//! other number is recalled when a request names it: where it was noted to be, or wherever it is found
//! (`find`). Lookup counts begin anew, and are hints: what is forgotten too early is recalled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backing::Backing;
use super::live::{Drop, Notice};
use super::node::Orphan;
use super::open::{OpenFile, OpenHow, Served};
use super::resolve::{Here, join};
use super::{Inode, IoMode, Node, Source, View};
use crate::inode::id;
use crate::keep::State;
use crate::keep::names::Seen;
use crate::keep::opens::{Open, Record};
use crate::keep::request;
use crate::rules::UpperKind;
use crate::sys::{Errno, Res, obj};

/// A chain of directories that is longer is none.
const DEEPEST: usize = 4096;
/// So many workers may crash over a request that comes again, besides the first one that did.
const CRASHES: u64 = 4;
/// What the keeper was told to let go of is closed after this.
const CLOSED: Duration = Duration::from_secs(1);
/// How far apart the handles of two workers are.
const WORKER: u32 = 40;

/// Holds objects without a name for a worker that follows. A call has taken effect when it returns,
/// whatever becomes of this process then, and waits for nobody.
pub trait Keeper: Debug + Send + Sync {
    /// The object with this number is about to lose its last name. `lasts`: also when all of this
    /// program is started anew.
    fn keep_object(&self, number: u64, object: BorrowedFd<'_>, lasts: bool);
    /// Nobody uses it any more.
    fn drop_object(&self, number: u64);
}

/// What of a view's outlives the process, as far as it does.
#[derive(Debug, Default)]
pub(super) struct Outliving {
    state: OnceLock<Arc<State>>,
    keeper: OnceLock<Arc<dyn Keeper>>,
    /// There was a worker before: the kernel knows numbers that memory does not.
    goes_on: AtomicBool,
    /// Where these were seen last.
    seen: Mutex<HashMap<u64, Seen>>,
    /// The handles of files by the requests that opened them, of the worker before.
    opened_by: Mutex<HashMap<u64, u64>>,
    /// Open files that were not found, by their handles.
    lost: Mutex<BTreeMap<u64, Option<Lost>>>,
    any_lost: AtomicBool,
    /// When the keeper was last told to let go of one.
    dropped: Mutex<Option<Instant>>,
    /// Numbers of objects that the keeper has.
    held: Mutex<HashSet<u64>>,
}

/// An open file that the kernel has and that is not found here. It is recorded for the next worker
/// still, and the kernel's file stays what the inode's others have: two of one inode it refuses.
#[derive(Debug)]
struct Lost {
    open: Open,
    record: Record,
    backing: Option<Backing>,
}

/// An upper in the state's terms.
fn code(upper: Option<UpperKind>) -> u8 {
    match upper {
        None => 0,
        Some(UpperKind::Tmpfs) => 1,
        Some(UpperKind::Persistent) => 2,
        Some(UpperKind::Localdisk) => 3,
    }
}

fn upper_of(code: u8) -> Option<UpperKind> {
    match code {
        1 => Some(UpperKind::Tmpfs),
        2 => Some(UpperKind::Persistent),
        3 => Some(UpperKind::Localdisk),
        _ => None,
    }
}

impl View {
    /// From now on what a worker that follows needs is noted there.
    pub fn keep_in(&self, state: Arc<State>) {
        self.held.files.go_on_from(state.worker() << WORKER);
        self.held.outliving.state.get_or_init(|| state);
    }

    /// Who holds objects without a name.
    pub fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        self.held.outliving.keeper.get_or_init(|| keeper);
    }

    fn state(&self) -> Option<&Arc<State>> {
        self.held.outliving.state.get()
    }

    /// Goes on where another worker has left: `backings` are the files that the kernel reads and
    /// writes by itself, by its numbers of them.
    pub fn go_on(
        &self,
        state: Arc<State>,
        backings: &HashMap<u32, Backing>,
        objects: BTreeMap<u64, OwnedFd>,
    ) {
        *self.held.outliving.seen.lock() = state.names();
        self.held.outliving.goes_on.store(true, Ordering::Release);
        self.keep_in(state.clone());
        let nameless = state.nameless();
        for (number, object) in objects {
            let (upper, path) = nameless.get(&number).cloned().unwrap_or_default();
            self.restore_nameless(number, object, upper_of(upper), path);
        }
        let mut lost = BTreeMap::new();
        for (open, record) in state.open_files() {
            let backing = backings.get(&open.backing).cloned();
            let file = Lost {
                open,
                record,
                backing,
            };
            if let Err(file) = self.restore_open(file) {
                lost.insert(open.handle, Some(file));
            }
        }
        if !lost.is_empty() {
            tracing::warn!(
                view = self.name,
                lost = lost.len(),
                "open files that are not found: they are served by their numbers"
            );
            *self.held.outliving.lost.lock() = lost;
            let any = &self.held.outliving.any_lost;
            any.store(true, Ordering::Release);
        }
    }

    /// Before an inode is opened: what was not found of it at first is found now.
    pub(super) fn find_lost(&self, number: u64) {
        let outliving = &self.held.outliving;
        if !outliving.any_lost.load(Ordering::Acquire) {
            return;
        }
        // Its place stays while it is looked for: whoever closes it meanwhile takes that.
        let of_number: Vec<Lost> = {
            let mut lost = outliving.lost.lock();
            let of_number = lost
                .values_mut()
                .filter_map(|file| file.take_if(|file| file.open.number == number));
            of_number.collect()
        };
        for file in of_number {
            let handle = file.open.handle;
            let found = self.restore_open(file);
            let mut lost = outliving.lost.lock();
            match (lost.get_mut(&handle), found) {
                (Some(place), Err(file)) => *place = Some(file),
                (Some(_), Ok(())) => drop(lost.remove(&handle)),
                (None, Ok(())) => drop(self.held.files.remove(handle)),
                (None, Err(_)) => {}
            }
        }
        let none = outliving.lost.lock().is_empty();
        outliving.any_lost.store(!none, Ordering::Release);
    }

    /// A file is closed that may be one of those; it, where it has just been found.
    pub(super) fn close_lost(&self, handle: u64) -> Option<Arc<OpenFile>> {
        let outliving = &self.held.outliving;
        if outliving.any_lost.load(Ordering::Acquire) {
            outliving.lost.lock().remove(&handle);
        }
        self.held.files.remove(handle)
    }

    /// An object that was about to lose its last name, if it has.
    fn restore_nameless(
        &self,
        number: u64,
        object: OwnedFd,
        upper: Option<UpperKind>,
        path: Box<[u8]>,
    ) {
        self.held.outliving.held.lock().insert(number);
        let Ok(stat) = obj::stat(&object) else { return };
        let there = self.at_path(number, &path);
        if there
            .is_ok_and(|entry| (entry.attr.stat.dev, entry.attr.stat.ino) == (stat.dev, stat.ino))
        {
            // It still has it. The lookup that was counted is one of the kernel's.
            return self.object_is_named(number);
        }
        self.forget(number, 1);
        let source = Source::One(super::Src {
            layer: upper
                .and_then(|kind| self.upper_of(kind))
                .unwrap_or_default(),
            default: false,
        });
        let node = Node::new(self.rules.walk(&path), stat.kind(), source, self.plan);
        {
            let mut kept = node.state.write();
            kept.orphan = Some(Arc::new(Orphan {
                fd: Arc::new(object),
                upper,
                path,
            }));
        }
        self.held.inodes.restore_nameless(number, node);
    }

    fn restore_open(&self, file: Lost) -> Result<(), Lost> {
        let Lost { open, backing, .. } = &file;
        let how = OpenHow::from_raw(open.flags as i32);
        let inode = match self.inode(open.number) {
            Ok(inode) => inode,
            Err(error) => {
                tracing::debug!(view = self.name, number = open.number, %error, "an open file is not found");
                return Err(file);
            }
        };
        let through = match (open.backing, backing) {
            (0, _) => None,
            (_, Some(backing)) => Some((backing.clone(), open.file, upper_of(open.upper))),
            (_, None) => return Err(file),
        };
        let Some(entered) = self.enter_again(&inode, how, through) else {
            return Err(file);
        };
        let Lost { open, record, .. } = file;
        let epoch = inode.data.state.read().epoch;
        let file = OpenFile::new(entered, how, Served::Nothing, epoch);
        file.is_recorded(record);
        if how.writes() {
            inode.data.writer.store(open.handle, Ordering::Relaxed);
        }
        self.held.files.insert_as(open.handle, file);
        let opened_by = &self.held.outliving.opened_by;
        opened_by.lock().insert(open.unique, open.handle);
        Ok(())
    }

    /// A request that comes again is about to be served: false where workers crash over it. To be
    /// followed by [`View::was_served`].
    pub fn may_serve(&self) -> bool {
        let again = self.state().filter(|_| request::is_resent());
        again.is_none_or(|state| state.attempt(request::number()) < CRASHES)
    }

    /// It was, or is not to be.
    pub fn was_served(&self) {
        if let Some(state) = self.state().filter(|_| request::is_resent()) {
            state.attempted(request::number());
        }
    }

    /// Records an open file, before the kernel is told of it.
    pub(super) fn record_open(&self, handle: u64, file: &OpenFile) {
        let Some(state) = self.state() else { return };
        let inode = file.inode();
        let through = file.backing().and_then(|backing| {
            let (at, upper) = self.through(inode)?;
            Some((backing.id(), at, upper))
        });
        let (backing, at, upper) = through.unwrap_or_default();
        let open = Open {
            handle,
            number: inode.number,
            unique: request::number(),
            flags: file.how().flags.bits(),
            backing,
            file: at,
            upper: code(upper),
        };
        match state.opened(&open) {
            Some(record) => file.is_recorded(record),
            None => tracing::debug!(view = self.name, "too many open files to record them"),
        }
    }

    /// A request to open comes again: what its first time left open nobody will ever close.
    pub(super) fn open_again(&self) {
        if !request::is_resent() {
            return;
        }
        let (outliving, unique) = (&self.held.outliving, request::number());
        let is = |file: &Lost| file.open.unique == unique;
        outliving
            .lost
            .lock()
            .retain(|_, file| !file.as_ref().is_some_and(is));
        let before = outliving.opened_by.lock().remove(&unique);
        if let Some(handle) = before {
            self.release(handle);
        }
    }

    /// Notes where an inode is that the kernel is about to be told of.
    pub(super) fn note_name(&self, inode: &Inode, parent: &Inode, name: &[u8]) {
        let Some(state) = self.state() else { return };
        if inode.data.noted.swap(true, Ordering::Relaxed) {
            return;
        }
        self.note_new_name(state, inode, parent, name);
    }

    /// As [`View::note_name`], also where one was noted before.
    pub(super) fn note_rename(&self, inode: &Inode, parent: &Inode, name: &[u8]) {
        if let Some(state) = self.state() {
            self.note_new_name(state, inode, parent, name);
        }
    }

    fn note_new_name(&self, state: &Arc<State>, inode: &Inode, parent: &Inode, name: &[u8]) {
        if !state.note_name(inode.number, parent.number, name) {
            return;
        }
        let still = |number| self.held.outliving.held.lock().contains(&number);
        let unseen = self.held.outliving.seen.lock().clone();
        state.rewrite_names(still, |put| {
            self.held.inodes.for_each(|inode| {
                if let Some(link) = inode.links().first() {
                    put(inode.number, link.parent.number, &link.name);
                }
            });
            for (number, (parent, name)) in &unseen {
                put(*number, *parent, name);
            }
        });
    }

    /// An inode that the kernel names and memory does not hold.
    ///
    /// # Errors
    /// `ESTALE` where there was no worker before, or no such object is left.
    pub(super) fn recall(&self, number: u64) -> Res<Arc<Inode>> {
        if !self.held.outliving.goes_on.load(Ordering::Acquire) {
            return Err(Errno::STALE);
        }
        let noted = self.seen_at(number).map(|path| self.at_path(number, &path));
        if !matches!(noted, Some(Ok(_))) {
            self.by_handle(number, b".", Instant::now())?;
        }
        self.held.outliving.seen.lock().remove(&number);
        self.held.inodes.get(number).ok_or(Errno::STALE)
    }

    /// The path at which a number was seen last.
    fn seen_at(&self, number: u64) -> Option<Vec<u8>> {
        let seen = self.held.outliving.seen.lock();
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = number;
        let mut path = Vec::new();
        while at != id::ROOT {
            match seen.get(&at) {
                Some((parent, name)) if names.len() < DEEPEST => {
                    names.push(name);
                    at = *parent;
                }
                Some(_) => return None,
                None => {
                    path = self.held.inodes.get(at)?.path()?;
                    break;
                }
            }
        }
        for name in names.iter().rev() {
            path = join(&path, name);
        }
        Some(path)
    }

    /// The kernel has forgotten it: so is where it was.
    pub(super) fn forgotten(&self, number: u64) {
        let outliving = &self.held.outliving;
        if outliving.goes_on.load(Ordering::Relaxed) {
            outliving.seen.lock().remove(&number);
        }
        let held = outliving.held.lock().contains(&number);
        if held && self.held.inodes.get(number).is_none() {
            self.object_is_named(number);
        }
    }

    /// Nobody else needs to hold this object.
    pub(super) fn object_is_named(&self, number: u64) {
        let outliving = &self.held.outliving;
        if outliving.held.lock().remove(&number)
            && let Some(keeper) = outliving.keeper.get()
        {
            keeper.drop_object(number);
            *outliving.dropped.lock() = Some(Instant::now());
        }
    }

    /// Was something let go of so lately that the keeper may not have closed it yet?
    pub(super) fn may_be_closing(&self) -> bool {
        let dropped = *self.held.outliving.dropped.lock();
        dropped.is_some_and(|at| at.elapsed() < CLOSED)
    }

    /// Has anybody this file open? Where the kernel opens by itself, nobody tells: whoever has it has
    /// read or written it, as far as is known.
    pub(super) fn may_be_open(&self, inode: &Inode) -> bool {
        let used = || self.held.handless.last(inode.number).is_some();
        inode.data.opens.load(Ordering::Relaxed) > 0 || self.held.io == IoMode::Cached && used()
    }

    /// Before an object loses a name: where somebody may use it, and nobody could find it any more,
    /// another hand holds it, too. Nobody tells of a directory that it is in use.
    pub(super) fn hand_over(&self, here: &Here) {
        let Some(inode) = self.known(here) else {
            return;
        };
        // Of each directory: that is too much for a service manager.
        let lasts = here.kind() != libc::S_IFDIR;
        if lasts && !self.may_be_open(&inode) {
            return;
        }
        match self.reach(here) {
            Ok(Some(fd)) => {
                let upper = here.upper.map(|upper| self.kind_of(upper));
                let object = (fd.as_fd(), lasts);
                self.hand_over_object(inode.number, object, upper, &here.path);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(view = self.name, %error, "removed while open, and not to be reached");
            }
        }
    }

    /// The same of what an open file's descriptor reaches.
    pub(super) fn hand_over_object(
        &self,
        number: u64,
        (object, lasts): (BorrowedFd<'_>, bool),
        upper: Option<UpperKind>,
        path: &[u8],
    ) {
        let outliving = &self.held.outliving;
        let (Some(state), Some(keeper)) = (self.state(), outliving.keeper.get()) else {
            return;
        };
        outliving.held.lock().insert(number);
        state.note_nameless(number, code(upper), path);
        keeper.keep_object(number, object, lasts);
    }

    /// Every number that the kernel may hold and memory does not.
    pub(super) fn unseen(&self) -> Vec<u64> {
        let seen = self.held.outliving.seen.lock();
        seen.keys().copied().collect()
    }

    /// The kernel does not hold this number: where it was seen is not needed any more.
    pub fn is_not_held(&self, number: u64) {
        let outliving = &self.held.outliving;
        outliving.seen.lock().remove(&number);
        // An object without a name that was forgotten when nobody listened. Nothing leads to it any more.
        let held = outliving.held.lock().contains(&number);
        if held
            && self
                .held
                .inodes
                .get(number)
                .is_some_and(|inode| inode.is_nameless())
        {
            self.forget(number, u64::MAX);
            self.object_is_named(number);
        }
    }

    /// All that the kernel may hold was asked for: what the log of names has beside that is old.
    pub fn names_are_known(&self) {
        if let Some(state) = self.state() {
            state.names_are_old();
        }
    }

    /// The names of these.
    pub(super) fn unseen_names(&self) -> Vec<(Notice, Drop)> {
        let seen = self.held.outliving.seen.lock();
        let notice = |(parent, name): &Seen| {
            let (parent, name) = (*parent, name.clone());
            (Notice::Entry { parent, name }, Drop::IfChanged)
        };
        seen.values().map(notice).collect()
    }

    /// Does a request that fails so come again, and was it done the first time?
    pub(super) fn was_done<T>(
        &self,
        failed: Res<T>,
        error: &[Errno],
        done: impl FnOnce() -> Option<T>,
    ) -> Res<T> {
        match failed {
            Err(e) if error.contains(&e) && request::is_resent() => done().ok_or(e),
            other => other,
        }
    }

    /// Before an exchange: which object moves.
    pub(super) fn intend(&self, here: &Here) {
        if let Some(state) = self.state() {
            let stat = &here.attr.stat;
            state.intend(request::number(), (stat.dev, stat.ino));
        }
    }

    /// Was an exchange that comes again done? Then what was to move is where it was to go.
    pub(super) fn was_exchanged(&self, to: &Here) -> bool {
        let intended = || self.state()?.intended(request::number());
        let stat = &to.attr.stat;
        request::is_resent() && intended() == Some((stat.dev, stat.ino))
    }
}
