//! What a view makes of a change below it: which of its inodes are looked at again, and what the
//! kernel is told. Computed here, sent by whoever has the mount: nothing is sent under a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::lookup::MAX_SALT;
use super::{Inode, TreeMode, View, next_number};
use crate::inode::id;
use crate::layer::Layer;

/// What the kernel is to be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// A name in a directory is to be looked up again.
    Entry {
        /// The directory's number.
        parent: u64,
        /// The name.
        name: Box<[u8]>,
    },
    /// A directory stands for something else, and so does what is below it: its path in the view.
    Tree(Box<[u8]>),
    /// An inode's attributes, cached contents or listing are void.
    Inode(u64),
}

/// What becomes of a name that the kernel is told of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Drop {
    /// It stays if it still means the same.
    IfChanged,
    /// It goes, with all that is below it.
    WithAllBelow,
}

/// A change in a layer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A name came, went, or stands for something else. `tree`: it is or was a directory.
    Name {
        /// The directory, as a path in the layer.
        dir: &'a [u8],
        /// The name in it.
        name: &'a [u8],
        /// A directory, with all that is below it.
        tree: bool,
    },
    /// An object's contents or attributes, by its path in the layer.
    Object(&'a [u8]),
    /// An object's contents or attributes, by its device and inode: it may have several names.
    Backing(u64, u64),
}

impl View {
    /// What a change in one of its layers is to this view; the shared facts of the layer have been
    /// forgotten by then.
    pub fn changed(&self, layer: &Layer, event: Event<'_>) -> Vec<Notice> {
        let mut notices = Vec::new();
        if let Event::Backing(dev, ino) = event {
            self.held.inodes.for_each(|inode| {
                if inode.data.state.read().backing == Some((dev, ino)) {
                    notices.push(Notice::Inode(inode.number));
                }
            });
            return notices;
        }
        if let Event::Name { tree, .. } = event
            && (tree || self.options.trees == TreeMode::First)
        {
            self.look_again();
        }
        match event {
            Event::Name { dir, name, tree } => {
                for dir in self.seen_as(layer, dir) {
                    let path = super::resolve::join(&dir, name);
                    let known = self.known_by_path(&path);
                    for parent in self.known_by_path(&dir) {
                        notices.push(Notice::Inode(parent.number));
                        notices.push(Notice::Entry {
                            parent: parent.number,
                            name: name.into(),
                        });
                    }
                    notices.extend(known.iter().map(|inode| Notice::Inode(inode.number)));
                    if tree && !known.is_empty() {
                        notices.push(Notice::Tree(path.into()));
                    }
                }
            }
            Event::Object(path) => {
                for path in self.seen_as(layer, path) {
                    let known = self.known_by_path(&path);
                    notices.extend(known.iter().map(|inode| Notice::Inode(inode.number)));
                }
            }
            Event::Backing(..) => {}
        }
        notices
    }

    /// Nothing is certain any more: every inode is looked at again, and the kernel is to be told
    /// of each ([`View::every_inode`], [`View::every_name`]).
    pub fn all_changed(&self) {
        self.look_again();
    }

    /// Every inode that the kernel holds.
    pub fn every_inode(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.held
            .inodes
            .for_each(|inode| notices.push(Notice::Inode(inode.number)));
        notices
    }

    /// Every name at and below a directory that the kernel may hold, present ones and absent ones,
    /// without harm to what is mounted on `mounts` (paths in the view): a directory that has none
    /// of these at or below it is told of as gone, with whatever the kernel holds below it; the
    /// names in the others one by one.
    pub fn every_name(&self, top: &[u8], mounts: &[Vec<u8>]) -> Vec<(Notice, Drop)> {
        let holds_mount = |path: &[u8]| mounts.iter().any(|mount| is_at_or_below(mount, path));
        let mut notices = Vec::new();
        let mut spared: Vec<Arc<Inode>> = Vec::new();
        self.held.inodes.for_each(|inode| {
            let Some(path) = inode.path().filter(|path| is_at_or_below(path, top)) else {
                return;
            };
            let is_dir = inode.data.state.read().kind == libc::S_IFDIR;
            let drop = match is_dir && !holds_mount(&path) && inode.number != id::ROOT {
                true => Drop::WithAllBelow,
                false => Drop::IfChanged,
            };
            if is_dir && drop == Drop::IfChanged {
                spared.push(inode.clone());
            }
            notices.extend(inode.links().into_iter().map(|link| {
                let (parent, name) = (link.parent.number, link.name);
                (Notice::Entry { parent, name }, drop)
            }));
        });
        // What is absent there is remembered by the kernel alone; most of it here, too.
        for dir in spared {
            let parent = dir.number;
            let path = dir.path().unwrap_or_default();
            let absent = self
                .layers
                .iter()
                .flat_map(|l| self.cache.absent_in(l.id(), &path));
            notices.extend(absent.map(|name| (Notice::Entry { parent, name }, Drop::IfChanged)));
        }
        notices
    }

    /// The directories whose listings the kernel may hold although nobody tells of changes in
    /// them.
    pub fn unwatched_dirs(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.held.inodes.for_each(|inode| {
            let state = inode.data.state.read();
            let unsure = state.checked.is_none_or(|checked| !checked.lasting);
            if unsure && matches!(state.kind, libc::S_IFDIR | libc::S_IFLNK) {
                notices.push(Notice::Inode(inode.number));
            }
        });
        notices
    }

    /// Directories are looked at again before they are next used.
    fn look_again(&self) {
        self.generation.store(next_number(), Ordering::Release);
    }

    /// The paths in the view that may show a path of a lower layer.
    fn seen_as(&self, layer: &Layer, path: &[u8]) -> SmallVec<[Vec<u8>; 2]> {
        let mut paths: SmallVec<[Vec<u8>; 2]> = SmallVec::new();
        paths.push(path.to_vec());
        if layer.is_liteimg()
            && let Some(moved) = path.strip_prefix(b".default/")
        {
            paths.push(moved.to_vec());
        }
        paths.extend(self.prefixes.iter().map(|prefix| [prefix, path].concat()));
        paths
    }

    /// What the kernel may know by a path: the inode of that path's number, and those that have the
    /// path by another number (copied up, made by the node, salted).
    fn known_by_path(&self, path: &[u8]) -> SmallVec<[Arc<Inode>; 1]> {
        let mut known: SmallVec<[Arc<Inode>; 1]> = SmallVec::new();
        let salts = if self.held.salted.load(Ordering::Relaxed) {
            MAX_SALT
        } else {
            1
        };
        for salt in 0..salts {
            known.extend(self.held.inodes.get(id::of_path(path, salt)));
        }
        // Directories that the node made have numbers of their own, and lower layers may have come
        // to have something at the same path.
        let mut own = self.held.own_dirs.lock();
        own.retain(|number| {
            let inode = self.held.inodes.get(*number);
            let still = inode.is_some();
            known.extend(inode.filter(|inode| inode.path().as_deref() == Some(path)));
            still
        });
        known
    }
}

fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    let rest = path.strip_prefix(top);
    rest.is_some_and(|rest| rest.is_empty() || top.is_empty() || rest[0] == b'/')
}
