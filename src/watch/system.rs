//! One file system with watched roots on it: from the handles in its events to paths below its
//! roots. Remembers what it found, in tables of bounded size; `events` drops what a change
//! made untrue.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{Object, RootId};
use crate::sys::fanotify::{self, Fsid};
use crate::sys::obj::{self, Stat};
use crate::sys::{Errno, Res, dir};

/// How many directories, and how many objects, are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");

/// A watched root.
#[derive(Clone, Debug)]
pub(super) struct Root {
    /// Absolute, and free of symlinks when it was watched.
    pub(super) path: PathBuf,
    pub(super) handle: Box<[u8]>,
    pub(super) fsid: Fsid,
    /// The mount it was reached through.
    pub(super) mount: u64,
    /// Its file system in the mount table.
    pub(super) dev: (u32, u32),
}

/// A directory, as a watched root sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) root: RootId,
    pub(super) dir: Arc<[u8]>,
}

/// No place: below no root.
pub(super) type Places = Arc<[Place]>;

/// An object and the mount in which it was found: two file systems may have one fsid (copied disk
/// images), and a handle may mean something on each.
pub(super) type Objects = Arc<[(u64, Object)]>;

pub(super) struct System {
    roots: HashMap<RootId, Root>,
    /// Mounts with roots in them; there, from a path to the roots that have it.
    mounts: BTreeMap<u64, HashMap<Vec<u8>, Vec<RootId>>>,
    /// The roots themselves and the directories that lead to them, by handle.
    lineage: HashSet<Box<[u8]>>,
    dirs: LruCache<Box<[u8]>, Places>,
    objects: LruCache<Box<[u8]>, Objects>,
    /// Roots held open while events are at hand; never longer, they would keep the file system
    /// from being unmounted.
    open: HashMap<RootId, Arc<OwnedFd>>,
    /// Roots found not to be where they were.
    gone: Vec<RootId>,
    lookups: u64,
}

impl System {
    pub(super) fn new() -> System {
        System {
            roots: HashMap::new(),
            mounts: BTreeMap::new(),
            lineage: HashSet::new(),
            dirs: LruCache::sparse(REMEMBERED),
            objects: LruCache::sparse(REMEMBERED),
            open: HashMap::new(),
            gone: Vec::new(),
            lookups: 0,
        }
    }

    /// Takes in a root that `dir` is open on.
    pub(super) fn add(&mut self, id: RootId, root: Root, dir: &OwnedFd) -> Res<()> {
        self.lineage.extend(lineage(dir, root.fsid)?);
        self.index(id, &root);
        self.roots.insert(id, root);
        self.forget();
        Ok(())
    }

    fn index(&mut self, id: RootId, root: &Root) {
        let paths = self.mounts.entry(root.mount).or_default();
        let path = root.path.as_os_str().as_bytes().to_vec();
        paths.entry(path).or_default().push(id);
    }

    pub(super) fn remove(&mut self, id: RootId) -> Option<Root> {
        let root = self.roots.remove(&id)?;
        // What led to it alone stays in the lineage, which costs a look at the roots now and then.
        self.mounts.clear();
        for (id, root) in self.roots.clone() {
            self.index(id, &root);
        }
        self.forget();
        Some(root)
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = (RootId, &Root)> {
        self.roots.iter().map(|(id, root)| (*id, root))
    }

    /// All roots, in order.
    pub(super) fn ids(&self) -> Vec<RootId> {
        let mut ids: Vec<RootId> = self.roots.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn get(&self, id: RootId) -> Option<&Root> {
        self.roots.get(&id)
    }

    pub(super) fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Forgets where directories and objects are.
    pub(super) fn forget(&mut self) {
        self.dirs.clear();
        self.objects.clear();
    }

    /// Directories moved.
    pub(super) fn forget_dirs(&mut self) {
        self.dirs.clear();
    }

    pub(super) fn forget_dir(&mut self, handle: &[u8]) {
        self.dirs.pop(handle);
    }

    /// It is known to be inside a root.
    pub(super) fn knows_inside(&self, handle: &[u8]) -> bool {
        self.dirs
            .peek(handle)
            .is_some_and(|places| !places.is_empty())
    }

    /// It is a root or leads to one.
    pub(super) fn is_lineage(&self, handle: &[u8]) -> bool {
        self.lineage.contains(handle)
    }

    /// Lets go of the roots' descriptors.
    pub(super) fn rest(&mut self) {
        self.open.clear();
    }

    /// The roots found not to be where they were, since the last call.
    pub(super) fn take_gone(&mut self) -> Vec<RootId> {
        std::mem::take(&mut self.gone)
    }

    /// Looks whether every root is where it was; [`System::take_gone`] has those that are not.
    pub(super) fn check(&mut self) -> Res<()> {
        for id in self.ids() {
            // What is held open would be there in any case.
            self.open.remove(&id);
            self.root(id)?;
            self.open.remove(&id);
        }
        Ok(())
    }

    /// A descriptor of a root, if its path still leads to it.
    fn root(&mut self, id: RootId) -> Res<Option<Arc<OwnedFd>>> {
        if let Some(fd) = self.open.get(&id) {
            return Ok(Some(fd.clone()));
        }
        let Some(root) = self.roots.get(&id) else {
            return Ok(None);
        };
        match open_root(root) {
            Ok(Some(fd)) => {
                let fd = Arc::new(fd);
                self.open.insert(id, fd.clone());
                Ok(Some(fd))
            }
            Err(error) if no_means(error) => Err(error),
            Ok(None) | Err(_) => {
                if !self.gone.contains(&id) {
                    self.gone.push(id);
                }
                Ok(None)
            }
        }
    }

    /// Any root in a mount, through which its file system can be asked.
    fn anchor(&mut self, mount: u64) -> Res<Option<Arc<OwnedFd>>> {
        let paths = self.mounts.get(&mount);
        let ids: Vec<RootId> = paths
            .into_iter()
            .flat_map(HashMap::values)
            .flatten()
            .copied()
            .collect();
        for id in ids {
            if let Some(fd) = self.root(id)? {
                return Ok(Some(fd));
            }
        }
        Ok(None)
    }

    /// What a handle stands for, in each mount with roots in it.
    fn open_everywhere(&mut self, handle: &[u8]) -> Res<Vec<(u64, OwnedFd, Stat)>> {
        self.lookups += 1;
        let mut found = Vec::new();
        let mounts: Vec<u64> = self.mounts.keys().copied().collect();
        for mount in mounts {
            let Some(anchor) = self.anchor(mount)? else {
                continue;
            };
            match fanotify::open_handle(anchor.as_fd(), handle) {
                Ok(fd) => {
                    let stat = obj::stat(&fd)?;
                    found.push((mount, fd, stat));
                }
                Err(Errno::STALE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Where a directory is, below which roots.
    pub(super) fn places(&mut self, handle: &[u8]) -> Res<Places> {
        if let Some(places) = self.dirs.get(handle) {
            return Ok(places.clone());
        }
        let mut places = Vec::new();
        let mut sure = true;
        for (mount, fd, stat) in self.open_everywhere(handle)? {
            let path = path_of(fd)?;
            for (root, below) in self.above(mount, &path) {
                if self.leads_to(root, below, &stat)? {
                    places.push(Place {
                        root,
                        dir: below.into(),
                    });
                } else {
                    // On its way elsewhere, or removed: an event of that is still to come.
                    sure = false;
                }
            }
        }
        let places: Places = places.into();
        if sure && self.gone.is_empty() {
            self.dirs.put(handle.into(), places.clone());
        }
        Ok(places)
    }

    /// The roots of a mount that lie on a path, each with the rest of the path.
    fn above<'p>(&self, mount: u64, path: &'p [u8]) -> Vec<(RootId, &'p [u8])> {
        let Some(roots) = self.mounts.get(&mount) else {
            return Vec::new();
        };
        let slashes = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        let mut found = Vec::new();
        for end in slashes.filter(|at| *at > 0).chain([path.len()]) {
            let rest = path[end..].strip_prefix(b"/").unwrap_or_default();
            let ids = roots.get(&path[..end]).into_iter().flatten();
            found.extend(ids.map(|id| (*id, rest)));
        }
        if path != b"/" && path.first() == Some(&b'/') {
            let ids = roots.get(b"/".as_slice()).into_iter().flatten();
            found.extend(ids.map(|id| (*id, &path[1..])));
        }
        found
    }

    /// Whether a path below a root is that of this object. The kernel's text alone proves
    /// nothing: it may end in " (deleted)", and of what lies outside a bind mount it is
    /// counted from elsewhere.
    fn leads_to(&mut self, root: RootId, below: &[u8], stat: &Stat) -> Res<bool> {
        let Some(fd) = self.root(root)? else {
            return Ok(false);
        };
        same(
            obj::open_beneath(fd.as_fd(), below, OFlags::PATH, Mode::empty()),
            stat,
        )
    }

    /// The identity of an object that is no directory; nothing if it has no name any more.
    pub(super) fn objects(&mut self, handle: &[u8]) -> Res<Objects> {
        if let Some(objects) = self.objects.get(handle) {
            return Ok(objects.clone());
        }
        let found = self.open_everywhere(handle)?;
        let objects = found.iter().filter(|(_, _, stat)| stat.nlink > 0);
        let objects: Objects = objects
            .map(|(mount, _, stat)| (*mount, object(stat)))
            .collect();
        if !objects.is_empty() {
            self.objects.put(handle.into(), objects.clone());
        }
        Ok(objects)
    }

    /// The places of an object of whose name an event says nothing. The link count is looked at
    /// anew, since its change is such an event.
    pub(super) fn nameless(&mut self, handle: &[u8]) -> Res<Vec<Nameless>> {
        self.objects.pop(handle);
        let mut all = Vec::new();
        for (mount, fd, stat) in self.open_everywhere(handle)? {
            if stat.nlink == 0 {
                continue;
            }
            let mut one = Nameless {
                object: object(&stat),
                names: Vec::new(),
                complete: false,
            };
            // With one name, the path that the kernel knows is the only one, if it knows one.
            if stat.nlink == 1 {
                let path = match path_of(fd) {
                    // Too long, and a file has no way up.
                    Err(Errno::NOTDIR) => Vec::new(),
                    path => path?,
                };
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(CWD, &*path, flags, Mode::empty());
                one.complete = same(opened, &stat)?;
                for (root, below) in self.above(mount, &path) {
                    if one.complete && self.leads_to(root, below, &stat)? {
                        let (dir, name) = obj::split(below);
                        one.names.push((root, dir.to_vec(), name.to_vec()));
                    }
                }
            }
            if !all.contains(&one) {
                all.push(one);
            }
        }
        Ok(all)
    }
}

/// An object whose event had no name.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Nameless {
    pub(super) object: Object,
    /// Root, directory, name.
    pub(super) names: Vec<(RootId, Vec<u8>, Vec<u8>)>,
    /// Those are all the names it has.
    pub(super) complete: bool,
}

fn object(stat: &Stat) -> Object {
    Object {
        dev: stat.dev,
        ino: stat.ino,
        nlink: stat.nlink,
    }
}

/// Whether what was opened is that object. Not found, or something in the way, is a no.
fn same(opened: Res<OwnedFd>, stat: &Stat) -> Res<bool> {
    match opened {
        Ok(fd) => {
            let found = obj::stat(fd)?;
            Ok((found.dev, found.ino) == (stat.dev, stat.ino))
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// This process could not look: nothing is known of the object.
fn no_means(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR | Errno::AGAIN
    )
}

/// Tries again where the kernel had no memory or no peace for a moment: ext4 answers `ENOMEM` when
/// a block was being dropped from the cache (sb_getblk), and giving up costs all that is known.
pub(super) fn patiently(mut attempt: impl FnMut() -> Res<()>) -> Res<()> {
    for turn in 0..600 {
        match attempt() {
            Err(Errno::NOMEM | Errno::INTR | Errno::AGAIN) if turn < 100 => {
                std::thread::yield_now();
            }
            Err(Errno::NOMEM | Errno::INTR | Errno::AGAIN) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            result => return result,
        }
    }
    attempt()
}

/// Opens a root's path, if it leads to the same directory. No symlink is followed: through one
/// the directory would be there, but the kernel would give paths that don't begin with this one.
pub(super) fn open_root(root: &Root) -> Res<Option<OwnedFd>> {
    // open_by_handle_at(2) does not take O_PATH for the mount.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(
        CWD,
        &*root.path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    let same =
        fanotify::fsid_of(&fd)? == root.fsid && fanotify::handle_of(fd.as_fd())? == root.handle;
    Ok(same.then_some(fd))
}

/// The path that the kernel has for an object, however long.
pub(super) fn path_of(object: OwnedFd) -> Res<Vec<u8>> {
    let mut at = object;
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let link = format!("/proc/self/fd/{}", at.as_raw_fd());
        match rustix::fs::readlink(&*link, Vec::new()) {
            // One page is what the kernel has room for; the rest is found upwards.
            Err(Errno::NAMETOOLONG) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = match rustix::fs::openat(&at, c"..", flags, Mode::empty()) {
                    // It lies outside of this mount, which is one of a part of its file system.
                    Err(Errno::NOENT) => return Ok(Vec::new()),
                    parent => parent?,
                };
                tail.splice(0..0, name_in(&parent, &obj::stat(&at)?)?);
                tail.insert(0, b'/');
                at = parent;
            }
            path => return Ok([path?.as_bytes(), &tail].concat()),
        }
    }
}

/// The name of a directory in its parent; none if it was removed or moved just now, which gives a
/// path that leads nowhere.
fn name_in(parent: &OwnedFd, child: &Stat) -> Res<Vec<u8>> {
    for entry in dir::list(parent)? {
        match obj::stat_name(parent, &entry.name) {
            Ok(stat) if (stat.dev, stat.ino) == (child.dev, child.ino) => {
                return Ok(entry.name.into());
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}

/// The handles of a directory and of those that lead to it, as far as they are on its file system.
fn lineage(dir: &OwnedFd, fsid: Fsid) -> Res<Vec<Box<[u8]>>> {
    let mut handles = Vec::new();
    let mut at = rustix::io::fcntl_dupfd_cloexec(dir, 0)?;
    loop {
        if fanotify::fsid_of(&at)? == fsid {
            handles.push(fanotify::handle_of(at.as_fd())?);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = rustix::fs::openat(&at, c"..", flags, Mode::empty())?;
        let (here, above) = (obj::stat(&at)?, obj::stat(&up)?);
        let top = (here.dev, here.ino) == (above.dev, above.ino);
        if top && obj::mount_id(&at)? == obj::mount_id(&up)? {
            return Ok(handles);
        }
        at = up;
    }
}

/// Whether `path` lies below `root` and is not the root.
pub(super) fn is_below(path: &Path, root: &Path) -> bool {
    path != root && path.starts_with(root)
}
