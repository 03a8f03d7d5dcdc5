//! All watched roots, and what an event means for them: turns events, overflows and changes of
//! the mount table into what the sink is to be told.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::refuse::{self, NotWatched};
use super::system::{self, Root, System, patiently};
use super::{Lost, Object, RootId, What};
use crate::sys::fanotify::{Event, Fsid, Group};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{Errno, Res};

/// What the sink is to be told.
#[derive(Debug)]
pub(super) enum Told<'e> {
    Name {
        root: RootId,
        dir: Arc<[u8]>,
        name: std::borrow::Cow<'e, [u8]>,
        what: What,
        is_dir: bool,
        pid: i32,
        object: Option<Object>,
    },
    Object {
        roots: Vec<RootId>,
        object: Object,
        what: What,
    },
    Lost {
        roots: Vec<RootId>,
        why: Lost,
    },
}

/// The roots and their file systems.
pub(super) struct Tree {
    group: Arc<Group>,
    systems: HashMap<Fsid, System>,
    next: u64,
    /// The reading of events has ended.
    ended: bool,
    /// Of file systems that are no longer here.
    lookups: u64,
}

impl Tree {
    pub(super) fn new(group: Arc<Group>) -> Tree {
        Tree {
            group,
            systems: HashMap::new(),
            next: 1,
            ended: false,
            lookups: 0,
        }
    }

    /// Roots, marks, lookups.
    pub(super) fn count(&self) -> (usize, usize, u64) {
        let roots = self.systems.values().flat_map(System::roots);
        let marks: HashSet<_> = roots.map(|(_, root)| (root.fsid, root.dev)).collect();
        let roots = self.systems.values().map(|s| s.roots().count()).sum();
        let lookups: u64 = self.systems.values().map(System::lookups).sum();
        (roots, marks.len(), self.lookups + lookups)
    }

    fn all(&self) -> Vec<RootId> {
        let mut ids: Vec<RootId> = self.systems.values().flat_map(System::ids).collect();
        ids.sort_unstable();
        ids
    }

    /// Watches a directory. Everything is looked at while the lock on the tree is held, so that
    /// what changes meanwhile is found by the events that it makes.
    pub(super) fn watch(&mut self, path: &Path) -> Result<RootId, NotWatched> {
        if self.ended {
            return Err(NotWatched::Ended);
        }
        let suitable = refuse::look(path)?;
        let root = suitable.root;
        let not_there = |error| NotWatched::NotThere {
            path: path.into(),
            error,
        };
        let refused = |error| NotWatched::Kernel {
            path: path.into(),
            kind: suitable.kind.clone(),
            error,
        };
        self.group.mark(suitable.fd.as_fd()).map_err(refused)?;
        let id = RootId(self.next);
        // From here on events come. Its path is looked at again: it may have been moved before.
        let added = match system::open_root(&root) {
            Ok(Some(_)) => {
                let system = self.systems.entry(root.fsid).or_insert_with(System::new);
                system.add(id, root.clone(), &suitable.fd)
            }
            Ok(None) => Err(Errno::STALE),
            Err(error) => Err(error),
        };
        if let Err(error) = added {
            self.unmark(&root);
            return Err(not_there(error));
        }
        self.next += 1;
        Ok(id)
    }

    /// Forgets a root, and takes the mark off a file system that has none left.
    pub(super) fn unwatch(&mut self, id: RootId) {
        let removed = self
            .systems
            .values_mut()
            .find_map(|system| system.remove(id));
        let Some(root) = removed else { return };
        if self
            .systems
            .get(&root.fsid)
            .is_some_and(|s| s.roots().next().is_none())
        {
            self.lookups += self.systems.remove(&root.fsid).map_or(0, |s| s.lookups());
        }
        self.unmark(&root);
    }

    /// Takes the mark off the file system of a root that is watched no longer, if it was the last
    /// there. Where the file system is mounted nowhere any more, the mark goes with it, or its
    /// events are dropped.
    fn unmark(&self, root: &Root) {
        let others = self
            .systems
            .get(&root.fsid)
            .into_iter()
            .flat_map(System::roots);
        if others.into_iter().any(|(_, other)| other.dev == root.dev) {
            return;
        }
        let Ok(table) = mountinfo::read() else { return };
        for mount in table.iter().filter(|mount| mount.dev == root.dev) {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&mount.point, flags, Mode::empty()) else {
                continue;
            };
            // Something else may be mounted over it: then there is no mark, and the next is tried.
            if crate::sys::fanotify::fsid_of(&fd) == Ok(root.fsid)
                && self.group.unmark(fd.as_fd()).is_ok()
            {
                return;
            }
        }
    }

    /// Lets go of descriptors until there are events again.
    pub(super) fn rest(&mut self) {
        for system in self.systems.values_mut() {
            system.rest();
        }
    }

    /// Nothing can be read any more.
    pub(super) fn end(&mut self, told: &mut Vec<Told<'_>>) {
        self.ended = true;
        lost(told, self.all(), Lost::Ended);
        self.systems.clear();
    }

    /// Events were dropped, or could not be understood.
    pub(super) fn overflow(&mut self, told: &mut Vec<Told<'_>>) {
        for system in self.systems.values_mut() {
            system.forget();
        }
        lost(told, self.all(), Lost::Overflow);
        // Among them may have been the move of a root.
        for fsid in self.systems.keys().copied().collect::<Vec<_>>() {
            self.check(fsid, told);
        }
    }

    /// The mount table changed.
    pub(super) fn mounts_changed(&mut self, told: &mut Vec<Told<'_>>) -> io::Result<()> {
        if self.systems.is_empty() {
            return Ok(());
        }
        let table = mountinfo::read()?;
        let marked: HashSet<(u32, u32)> = self.group.marked()?.into_iter().collect();
        let mut gone = Vec::new();
        let mut over = Vec::new();
        for (id, root) in self.systems.values().flat_map(System::roots) {
            if !marked.contains(&root.dev) {
                // Unmounted; what is mounted there now, be it the same device, has no mark.
                gone.push(id);
            } else if mount_below(&table, &root.path).is_some() {
                over.push(id);
            }
        }
        for (ids, why) in [(gone, Lost::Gone), (over, Lost::MountedOver)] {
            ids.iter().for_each(|id| self.unwatch(*id));
            lost(told, ids, why);
        }
        for fsid in self.systems.keys().copied().collect::<Vec<_>>() {
            self.check(fsid, told);
        }
        Ok(())
    }

    /// Looks whether the roots of a file system are where they were.
    fn check(&mut self, fsid: Fsid, told: &mut Vec<Told<'_>>) {
        if let Some(system) = self.systems.get_mut(&fsid) {
            let result = patiently(|| system.check());
            self.finish(fsid, result, told);
        }
    }

    /// What follows from an event on a file system: roots that are gone, or, where it could not be
    /// followed, the loss of all.
    fn finish(&mut self, fsid: Fsid, result: Res<()>, told: &mut Vec<Told<'_>>) {
        let Some(system) = self.systems.get_mut(&fsid) else {
            return;
        };
        let gone = system.take_gone();
        if let Err(error) = result {
            system.forget();
            let kind = io::Error::from(error).kind();
            lost(told, system.ids(), Lost::Unresolved(kind));
        }
        gone.iter().for_each(|id| self.unwatch(*id));
        lost(told, gone, Lost::Gone);
    }

    /// What an event means.
    pub(super) fn event<'e>(&mut self, event: &Event<'e>, told: &mut Vec<Told<'e>>) {
        if event.is_overflow() {
            return self.overflow(told);
        }
        // Without it: a mark that could not be taken off.
        if let Some(system) = self.systems.get_mut(&event.fsid) {
            // Neither tells anything before it has succeeded.
            let result = patiently(|| match (event.dir, event.object) {
                (Some(dir), _) => in_dir(system, event, dir, told),
                (None, Some(object)) => nameless(system, event, object, told),
                (None, None) => Ok(()),
            });
            self.finish(event.fsid, result, told);
        }
    }
}

fn lost(told: &mut Vec<Told<'_>>, roots: Vec<RootId>, why: Lost) {
    if !roots.is_empty() {
        told.push(Told::Lost { roots, why });
    }
}

/// The first mount point below a directory.
pub(super) fn mount_below<'t>(table: &'t [Mount], path: &Path) -> Option<&'t Mount> {
    table
        .iter()
        .find(|mount| system::is_below(&mount.point, path))
}

fn whats(event: &Event<'_>) -> impl Iterator<Item = What> + use<> {
    let all = [
        (event.is_entry(), What::Entry),
        (event.is_attributes(), What::Attributes),
        (event.is_contents(), What::Contents),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, what)| what)
}

/// What an event says of an object that may have several names.
fn whats_of_object(event: &Event<'_>) -> impl Iterator<Item = What> + use<> {
    let counts = event.dir.is_none() && event.is_attributes();
    let contents = (counts && !event.is_contents()).then_some(What::Contents);
    whats(event)
        .filter(|what| *what != What::Entry)
        .chain(contents)
}

/// An event that says in which directory.
fn in_dir<'e>(
    system: &mut System,
    event: &Event<'e>,
    dir: &[u8],
    told: &mut Vec<Told<'e>>,
) -> Res<()> {
    let places = system.places(dir)?;
    if event.is_dir() {
        tree_changed(system, event, dir, !places.is_empty())?;
    }
    let of_object = !event.is_dir() && (event.is_attributes() || event.is_contents());
    let objects = match event.object {
        // Also where the directory is outside: the object may have a name inside as well.
        Some(object) if of_object => Some(system.objects(object)?),
        _ => None,
    };
    for place in places.iter() {
        let mount = system.get(place.root).map(|root| root.mount);
        let object = objects.iter().flat_map(|all| all.iter());
        let object = object
            .filter(|(at, _)| Some(*at) == mount)
            .map(|(_, object)| *object)
            .next();
        for what in whats(event) {
            told.push(Told::Name {
                root: place.root,
                dir: place.dir.clone(),
                name: event.name.into(),
                what,
                is_dir: event.is_dir(),
                pid: event.pid,
                object: object.filter(|_| what != What::Entry),
            });
        }
    }
    for (_, object) in objects.iter().flat_map(|all| all.iter()) {
        if object.nlink > 1 {
            other_names(system, event, *object, told);
        }
    }
    Ok(())
}

/// An event on a directory: what is remembered may have become untrue, and roots may have moved.
fn tree_changed(system: &mut System, event: &Event<'_>, dir: &[u8], inside: bool) -> Res<()> {
    let about_root = |system: &System| event.object.is_none_or(|object| system.is_lineage(object));
    if event.is_move() {
        // From outside to outside nothing inside changes its path.
        if inside
            || event
                .object
                .is_none_or(|object| system.knows_inside(object))
        {
            system.forget_dirs();
        }
        if about_root(system) {
            system.check()?;
        }
    } else if event.is_delete() {
        if let Some(object) = event.object {
            system.forget_dir(object);
        }
        if about_root(system) {
            system.check()?;
        }
    } else if event.name.is_empty() && system.is_lineage(dir) {
        // What a directory that another was renamed over is left with is a change of its links.
        system.check()?;
    }
    Ok(())
}

/// An event that names only the object: its link count, or a change made through a descriptor
/// that knows no directory, as those of an NFS server.
///
/// With its link count its contents are told, too: what was written by a name that was removed right
/// afterwards was told of that name alone, since it had no other any more when the event was read.
fn nameless<'e>(
    system: &mut System,
    event: &Event<'e>,
    handle: &[u8],
    told: &mut Vec<Told<'e>>,
) -> Res<()> {
    for found in system.nameless(handle)? {
        for (root, dir, name) in &found.names {
            for what in whats_of_object(event) {
                told.push(Told::Name {
                    root: *root,
                    dir: dir.as_slice().into(),
                    name: name.clone().into(),
                    what,
                    is_dir: false,
                    pid: event.pid,
                    object: Some(found.object),
                });
            }
        }
        if !found.complete {
            other_names(system, event, found.object, told);
        }
    }
    Ok(())
}

fn other_names(system: &System, event: &Event<'_>, object: Object, told: &mut Vec<Told<'_>>) {
    for what in whats_of_object(event) {
        told.push(Told::Object {
            roots: system.ids(),
            object,
            what,
        });
    }
}
