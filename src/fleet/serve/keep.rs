//! What the worker has its holder hold, under which names, and what it finds there when it takes over
//! from one before it.
//!
//! Owns: the keys. May not: mount, unmount, or know of tables.
//!
//! A session's are below `session/NODE/N@MOUNT/`: its device, its state, and its objects without a
//! name by their numbers; MOUNT is the mount's id, by which its place is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ServeError;
use super::loaded::ServeOptions;
use super::snapshot::{Snapshot, in_memory, of_memory};
use crate::holder::link::{Given, Link};
use crate::holder::wire::{OBJECT, PASSING, PRECIOUS, Told};
use crate::layer::{LockKeeper, keep_locks};
use crate::sys::mountinfo::{self, Mount};

const METRICS: &str = "metrics.socket";
const SNAPSHOT: &str = "snapshot";
const UNMOUNTED: &str = "unmounted";
pub(super) const LISTENER: &str = "control.socket";
pub(super) const LOCK: &str = "control.lock";
/// What the keys of uppers' locks begin with; then device and inode, with a colon between them.
const UPPERS: &str = "upper/";

/// Who asked for this program to take over, and waits for an answer.
fn asker() -> String {
    format!("{PASSING}asker")
}

/// A session that a worker before this one has left.
#[derive(Debug)]
pub(super) struct Left {
    key: String,
    /// Where it is mounted; `None` where it was taken out of the tree and somebody still uses it.
    pub(super) point: Option<PathBuf>,
    pub(super) mount_id: u64,
    pub(super) device: OwnedFd,
    pub(super) state: OwnedFd,
    /// Objects without a name, by number.
    pub(super) objects: BTreeMap<u64, OwnedFd>,
    crashed: bool,
}

impl Left {
    /// What it is gone on with.
    pub(super) fn into_parts(self) -> crate::fuse::Left {
        crate::fuse::Left {
            device: self.device,
            state: self.state,
            objects: self.objects,
            crashed: self.crashed,
        }
    }
}

/// A session's keys; what they name is let go of when this is dropped.
#[derive(Debug)]
pub(super) struct SessionKeys {
    link: Arc<Link>,
    key: String,
}

impl crate::fs::Keeper for SessionKeys {
    fn keep_object(&self, number: u64, object: BorrowedFd<'_>, lasts: bool) {
        let passing = if lasts { "" } else { PASSING };
        let key = format!("{}{passing}{OBJECT}{number}", self.key);
        if let Err(error) = self.link.hold(&[(&key, object)]) {
            tracing::error!(key, %error, "an object without a name is not held");
        }
    }

    fn drop_object(&self, number: u64) {
        let key = &self.key;
        let both = format!("{key}{OBJECT}{number}\n{key}{PASSING}{OBJECT}{number}");
        self.link.let_go(&both);
    }
}

impl Drop for SessionKeys {
    fn drop(&mut self) {
        self.link.let_go(&self.key);
    }
}

/// Has the holder keep the locks of uppers.
#[derive(Debug)]
struct Locks(Arc<Link>);

fn lock_key((dev, ino): (u64, u64)) -> String {
    format!("{UPPERS}{dev}:{ino}")
}

fn lock_of(key: &str) -> Option<(u64, u64)> {
    let (dev, ino) = key.strip_prefix(UPPERS)?.split_once(':')?;
    Some((dev.parse().ok()?, ino.parse().ok()?))
}

impl LockKeeper for Locks {
    fn keep(&self, id: (u64, u64), lock: BorrowedFd<'_>) {
        let key = lock_key(id);
        if let Err(error) = self.0.hold(&[(&key, lock)]) {
            tracing::error!(key, %error, "an upper's lock is not held");
        }
    }

    fn let_go(&self, id: (u64, u64)) {
        self.0.let_go(&lock_key(id));
    }
}

/// What a worker begins with.
#[derive(Debug)]
pub struct Beginning {
    link: Arc<Link>,
    given: Given,
    told: Told,
    snapshot: Snapshot,
}

impl Beginning {
    /// Waits until this process is to work; where it is to take over from another program, says
    /// before whether it can.
    ///
    /// # Errors
    /// There is no holder, or nothing to go by.
    pub fn wait(options: &ServeOptions) -> Result<Beginning, ServeError> {
        let link = Link::open().map_err(ServeError::Holder)?;
        let check = |given: &Given| could_go_on(given, options);
        let (mut given, told) = link.begin(check).map_err(ServeError::Holder)?;
        let snapshot = match given.remove(SNAPSHOT).map(|memory| Snapshot::load(&memory)) {
            Some(Ok(snapshot)) => snapshot,
            Some(Err(error)) => {
                eprintln!("statelite: what the last one went by: {error}; the files are read");
                Snapshot::read(options).map_err(ServeError::Input)?
            }
            None => Snapshot::read(options).map_err(ServeError::Input)?,
        };
        let link = Arc::new(link);
        Ok(Beginning {
            link,
            given,
            told,
            snapshot,
        })
    }

    /// The configuration that it begins with.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn config(&self, options: &ServeOptions) -> Result<crate::config::Config, ServeError> {
        self.snapshot.config(options).map_err(ServeError::Input)
    }

    pub(super) fn into_parts(self) -> (Arc<Link>, Given, Told, Snapshot) {
        let Beginning {
            link,
            given,
            told,
            snapshot,
        } = self;
        (link, given, told, snapshot)
    }
}

/// Could this program go on with what is held?
fn could_go_on(given: &Given, options: &ServeOptions) -> Result<(), String> {
    crate::stuck::here(b"check");
    let memory = given.get(SNAPSHOT).ok_or("there is no snapshot yet")?;
    let snapshot = Snapshot::load(memory).map_err(|error| error.to_string())?;
    super::loaded::Loaded::of(snapshot, options, None)?;
    for (key, state) in given {
        if key.starts_with(PRECIOUS) && key.ends_with("/state") {
            crate::fuse::check_state(state.as_fd()).map_err(|error| format!("{key}: {error}"))?;
        }
    }
    Ok(())
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Keep {
    pub(super) link: Arc<Link>,
    pub(super) told: Told,
    /// Sessions that were left and are not taken up yet, by node.
    left: Mutex<BTreeMap<String, Vec<Left>>>,
    unmounted: Mutex<BTreeSet<String>>,
    sessions: AtomicU64,
    asker: Mutex<Option<OwnedFd>>,
    metrics: Mutex<Option<OwnedFd>>,
}

impl Keep {
    /// Sorts what was given.
    pub(super) fn new(link: Arc<Link>, mut given: Given, told: Told) -> Arc<Keep> {
        let asker = given.remove(&asker());
        let metrics = given.remove(METRICS);
        let unmounted = given.remove(UNMOUNTED).map(|memory| of_memory(&memory));
        let unmounted = match unmounted.transpose() {
            Ok(names) => String::from_utf8_lossy(&names.unwrap_or_default())
                .lines()
                .map(str::to_owned)
                .collect(),
            Err(error) => {
                tracing::error!(%error, "which nodes were unmounted is not known");
                BTreeSet::new()
            }
        };
        let (locks, given) = given
            .into_iter()
            .partition(|(key, _): &(String, _)| key.starts_with(UPPERS));
        let locks: Given = locks;
        let locks = locks
            .into_iter()
            .filter_map(|(key, lock)| Some((lock_of(&key)?, lock)));
        keep_locks(Box::new(Locks(link.clone())), locks);
        let (left, sessions) = sessions(&link, given, told.crashed);
        Arc::new(Keep {
            link,
            told,
            left: Mutex::new(left),
            unmounted: Mutex::new(unmounted),
            sessions: AtomicU64::new(sessions),
            asker: Mutex::new(asker),
            metrics: Mutex::new(metrics),
        })
    }

    /// Nodes with sessions that were left.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.left.lock().keys().cloned().collect()
    }

    /// Where a node's root is mounted that was left.
    pub(super) fn point(&self, node: &str) -> Option<PathBuf> {
        let left = self.left.lock();
        left.get(node)?.iter().find_map(|left| left.point.clone())
    }

    /// A node's mounted session, or one of those that are in use without a mount.
    pub(super) fn take(&self, node: &str, mounted: bool) -> Option<Left> {
        let mut all = self.left.lock();
        let left = all.get_mut(node)?;
        let at = left
            .iter()
            .rposition(|left| left.point.is_some() == mounted);
        let taken = at.map(|at| left.remove(at));
        if left.is_empty() {
            all.remove(node);
        }
        taken
    }

    /// It could not be taken up now.
    pub(super) fn give_back(&self, node: &str, left: Left) {
        self.left.lock().entry(node.into()).or_default().push(left);
    }

    /// Has a new session held. From then on a worker that follows goes on with it.
    pub(super) fn hold(
        &self,
        node: &str,
        mount_id: u64,
        device: BorrowedFd<'_>,
        state: BorrowedFd<'_>,
    ) -> io::Result<SessionKeys> {
        let n = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let keys = self.keys(format!("{PRECIOUS}{node}/{n}@{mount_id}/"));
        let names = [format!("{}device", keys.key), format!("{}state", keys.key)];
        self.link.hold(&[(&names[0], device), (&names[1], state)])?;
        Ok(keys)
    }

    /// The keys of a session that is taken up.
    pub(super) fn keys_of(&self, left: &Left) -> SessionKeys {
        self.keys(left.key.clone())
    }

    fn keys(&self, key: String) -> SessionKeys {
        let link = self.link.clone();
        SessionKeys { link, key }
    }

    /// What the fleet goes by now.
    pub(super) fn snapshot(&self, snapshot: &Snapshot) {
        let held = snapshot
            .store()
            .and_then(|memory| self.link.hold(&[(SNAPSHOT, memory.as_fd())]));
        if let Err(error) = held {
            tracing::error!(%error, "a worker that follows would not know the new tables");
        }
    }

    /// Did somebody unmount this node?
    pub(super) fn was_unmounted(&self, node: &str) -> bool {
        self.unmounted.lock().contains(node)
    }

    /// A node is unmounted because somebody wanted that, or is not.
    pub(super) fn unmounted(&self, node: &str, is: bool) {
        let mut all = self.unmounted.lock();
        let changed = match is {
            true => all.insert(node.into()),
            false => all.remove(node),
        };
        if !changed {
            return;
        }
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        let held = in_memory("statelite-unmounted", names.join("\n").as_bytes())
            .and_then(|memory| self.link.hold(&[(UNMOUNTED, memory.as_fd())]));
        if let Err(error) = held {
            tracing::error!(%error, "a worker that follows would mount what is unmounted");
        }
    }

    /// Lets go of all sessions: what is still in use ends with this process.
    pub(super) fn let_go_of_all(&self) {
        self.link.let_go(PRECIOUS);
    }

    /// Has another program take over, and answer who asked for it; [`Link::replace`].
    pub(super) fn replace(
        &self,
        program: &OwnedFd,
        asked: BorrowedFd<'_>,
        refused: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<()> {
        self.link.replace(program, (&asker(), asked), refused)
    }

    /// Nobody waits for another program any more.
    pub(super) fn asker_is_answered(&self) {
        self.link.let_go(&asker());
    }

    /// What the last worker told metrics by, once.
    pub(super) fn take_metrics(&self) -> Option<OwnedFd> {
        self.metrics.lock().take()
    }

    /// Metrics are told by another one, or not at all.
    pub(super) fn let_go_metrics(&self, left: &OwnedFd) {
        // Whoever has it still: nothing comes in there any more, and the address is free.
        if let Err(error) = rustix::net::shutdown(left, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "the old metrics' listener");
        }
        self.link.let_go(METRICS);
    }

    /// Has that held which metrics are told by.
    pub(super) fn hold_metrics(&self, listener: BorrowedFd<'_>) {
        if let Err(error) = self.link.hold(&[(METRICS, listener)]) {
            tracing::error!(%error, "a worker that follows might tell no metrics");
        }
    }

    /// Who asked for this program, once.
    pub(super) fn take_asker(&self) -> Option<OwnedFd> {
        self.asker.lock().take()
    }
}

/// The parts of a session's key: node, number, mount, and what it is of it.
fn parts(key: &str) -> Option<(&str, u64, u64, &str)> {
    let (node, rest) = key.strip_prefix(PRECIOUS)?.split_once('/')?;
    let (session, what) = rest.split_once('/')?;
    let (n, mount) = session.split_once('@')?;
    Some((node, n.parse().ok()?, mount.parse().ok()?, what))
}

#[derive(Default)]
struct Found {
    mount_id: u64,
    device: Option<OwnedFd>,
    state: Option<OwnedFd>,
    objects: BTreeMap<u64, OwnedFd>,
}

/// The sessions in what was given, and the highest of their numbers.
fn sessions(link: &Link, given: Given, crashed: bool) -> (BTreeMap<String, Vec<Left>>, u64) {
    let mut found: BTreeMap<(String, u64), Found> = BTreeMap::new();
    for (key, descriptor) in given {
        let Some((node, n, mount_id, what)) = parts(&key) else {
            continue;
        };
        let session = found.entry((node.into(), n)).or_default();
        session.mount_id = mount_id;
        let object = what.strip_prefix(PASSING).unwrap_or(what);
        match object.strip_prefix(OBJECT).map(str::parse) {
            Some(Ok(number)) => drop(session.objects.insert(number, descriptor)),
            None if what == "device" => session.device = Some(descriptor),
            None if what == "state" => session.state = Some(descriptor),
            _ => tracing::warn!(key, "what is this?"),
        }
    }
    let mounts: HashMap<u64, Mount> = match mountinfo::read() {
        Ok(mounts) => mounts.into_iter().map(|mount| (mount.id, mount)).collect(),
        Err(error) => {
            tracing::error!(%error, "what is mounted is not known");
            HashMap::new()
        }
    };
    let mut left: BTreeMap<String, Vec<Left>> = BTreeMap::new();
    let mut last = 0;
    for ((node, n), session) in found {
        last = last.max(n);
        let mount_id = session.mount_id;
        let key = format!("{PRECIOUS}{node}/{n}@{mount_id}/");
        let source = format!("statelite:{node}");
        let mount = mounts
            .get(&mount_id)
            .filter(|mount| *mount.source == *source);
        let Some((device, state)) = session
            .device
            .zip(session.state)
            .filter(|(device, _)| is_alive(device))
        else {
            link.let_go(&key);
            continue;
        };
        let of_node = left.entry(node).or_default();
        let point = mount.map(|mount| mount.point.clone());
        // One mount has one session; an id that was used again is the newer one's.
        for older in of_node.iter_mut().filter(|_| point.is_some()) {
            older.point = None;
        }
        of_node.push(Left {
            key,
            point,
            mount_id,
            device,
            state,
            objects: session.objects,
            crashed,
        });
    }
    (left, last)
}

/// Is there still a mount, or somebody who uses it?
fn is_alive(device: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(device, PollFlags::IN)];
    let at_once = Timespec::default();
    match poll(&mut polled, Some(&at_once)) {
        Ok(_) => !polled[0].revents().contains(PollFlags::ERR),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood() {
        assert_eq!(lock_of(&lock_key((7, 1 << 60))), Some((7, 1 << 60)));
        let key = "session/cn1/3@77/object/12";
        assert_eq!(parts(key), Some(("cn1", 3, 77, "object/12")));
        for other in [
            "snapshot",
            "session/cn1",
            "session/cn1/3/device",
            "session/a/x@1/state",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
