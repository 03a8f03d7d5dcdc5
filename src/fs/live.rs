//! What a view makes of a change below it: which of its inodes are looked at again, and what the
//! kernel is told. Computed here, sent by whoever has the mount: nothing is sent under a lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::lookup::MAX_SALT;
use super::resolve::join;
use super::{Inode, Source, TreeMode, View, next_number};
use crate::inode::id;
use crate::layer::Layer;
use crate::sys::obj::is_at_or_below;

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
    /// A directory (by its path in the view) may stand for something else, and with it what is
    /// below it.
    Tree {
        /// The path.
        path: Box<[u8]>,
        /// It does; else only where its layers have changed.
        sure: bool,
    },
    /// What is being looked up or listed in a directory is waited for, so that what is told
    /// afterwards is told of that, too.
    Wait(u64),
    /// An inode's attributes, cached contents or listing are void.
    Inode(u64),
}

/// What is mounted in a view, as paths in it; `None` where that is not known.
pub type Mounts = Option<Vec<Vec<u8>>>;

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
    /// An object's contents or attributes.
    Object {
        /// Its path in the layer.
        path: &'a [u8],
        /// It is a directory.
        dir: bool,
    },
    /// The contents or attributes of what is no directory, by its device and inode: it may have
    /// several names.
    Backing(u64, u64),
}

impl View {
    /// What a change in one of its layers is to this view; the shared facts of the layer have been
    /// forgotten by then. What is about a name comes before what is about its object: the kernel
    /// ends look-ups that are under way before it takes the former, and with them comes the object.
    pub fn changed(&self, layer: &Layer, event: Event<'_>) -> Vec<Notice> {
        let mut notices = Vec::new();
        let first = self.options.trees == TreeMode::First;
        match event {
            Event::Backing(dev, ino) => self.held.inodes.for_each(|inode| {
                let state = inode.data.state.read();
                // Of the parts of a file that was put together nothing is kept.
                if state.backing == Some((dev, ino)) || matches!(state.source, Source::Con(_)) {
                    notices.push(Notice::Inode(inode.number));
                }
            }),
            Event::Name { dir, name, tree } => {
                if tree || first {
                    self.look_again();
                }
                for dir in self.seen_as(dir) {
                    self.name_changed(&dir, name, tree, &mut notices);
                    if first {
                        // Whether it is empty decides what else shows there.
                        let (path, sure) = (dir.into(), false);
                        notices.push(Notice::Tree { path, sure });
                    }
                }
                if dir.is_empty() {
                    self.age_changed(layer, &mut notices);
                }
            }
            Event::Object { path, dir } => {
                if dir {
                    self.look_again();
                }
                for path in self.seen_as(path) {
                    self.object_changed(&path, dir, &mut notices);
                }
                if path.is_empty() {
                    self.age_changed(layer, &mut notices);
                }
            }
        }
        notices
    }

    fn name_changed(&self, dir: &[u8], name: &[u8], tree: bool, notices: &mut Vec<Notice>) {
        let parents = self.known_by_path(dir);
        if parents.is_empty() {
            return;
        }
        for parent in &parents {
            notices.push(Notice::Entry {
                parent: parent.number,
                name: name.into(),
            });
            notices.push(Notice::Inode(parent.number));
        }
        let path = join(dir, name);
        let known = self.known_by_path(&path);
        self.push_inodes(&path, &known, notices);
        // Also where it is not a directory (any more): it may have hidden one, or come over it.
        let was_dir = |inode: &Arc<Inode>| inode.data.state.read().kind == libc::S_IFDIR;
        if tree || known.iter().any(was_dir) {
            let (path, sure) = (path.into(), true);
            notices.push(Notice::Tree { path, sure });
        }
    }

    fn object_changed(&self, path: &[u8], dir: bool, notices: &mut Vec<Notice>) {
        let (above, _) = crate::sys::obj::split(path);
        for parent in self.known_by_path(above) {
            notices.push(Notice::Wait(parent.number));
        }
        let known = self.known_by_path(path);
        if notices.is_empty() && known.is_empty() {
            return;
        }
        self.push_inodes(path, &known, notices);
        if dir && !known.is_empty() {
            // It may have become opaque, or ceased to be.
            let (path, sure) = (path.into(), false);
            notices.push(Notice::Tree { path, sure });
        }
    }

    /// Those that are known by a path, and the one that a look-up under way may be about to be
    /// answered with.
    fn push_inodes(&self, path: &[u8], known: &[Arc<Inode>], notices: &mut Vec<Notice>) {
        let first = id::of_path(path, 0);
        notices.push(Notice::Inode(first));
        let others = known.iter().map(|inode| inode.number);
        notices.extend(others.filter(|n| *n != first).map(Notice::Inode));
    }

    /// What only the view has is as old as the image's root.
    fn age_changed(&self, layer: &Layer, notices: &mut Vec<Notice>) {
        let image = self.roles.images.first();
        if image.is_none_or(|image| self.layers[*image as usize].id() != layer.id()) {
            return;
        }
        self.held.inodes.for_each(|inode| {
            let only_here = match &inode.data.state.read().source {
                Source::Dir(srcs) => srcs.is_empty(),
                Source::Empty | Source::Link(_) | Source::Text(_) => true,
                Source::One(_) | Source::Con(_) => false,
            };
            if only_here {
                notices.push(Notice::Inode(inode.number));
            }
        });
    }

    /// Nothing is certain any more: every inode is looked at again, and the kernel is to be told
    /// of each ([`View::every_inode`], [`View::every_name`]).
    pub fn all_changed(&self) {
        self.look_again();
    }

    /// Every inode that the kernel holds.
    pub fn every_inode(&self) -> Vec<u64> {
        let mut numbers = self.unseen();
        let inodes = &self.held.inodes;
        inodes.for_each(|inode| numbers.push(inode.number));
        numbers
    }

    /// Do other layers make up the directory of this path than when this was last asked?
    pub fn is_renewed(&self, path: &[u8]) -> bool {
        let mut renewed = false;
        for inode in self.known_by_path(path) {
            let there = self.object(&inode).is_ok();
            renewed |= !there || std::mem::take(&mut inode.data.state.write().renewed);
        }
        renewed
    }

    /// The directories at and below a path that the kernel holds.
    pub fn every_dir(&self, top: &[u8]) -> Vec<Notice> {
        let dirs = self.dirs_below(top, |_| true);
        dirs.into_iter().map(Notice::Wait).collect()
    }

    /// The numbers of such directories, as far as they are wanted.
    fn dirs_below(&self, top: &[u8], wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut dirs = Vec::new();
        self.held.inodes.for_each(|inode| {
            let is_dir = wanted(inode.number) && inode.data.state.read().kind == libc::S_IFDIR;
            if is_dir && inode.path().is_some_and(|path| is_at_or_below(&path, top)) {
                dirs.push(inode.number);
            }
        });
        dirs
    }

    /// Every name at and below a directory that the kernel may hold, present ones and absent ones,
    /// without harm to what is mounted on `mounts`: a directory that has none of these at or below
    /// it is told of as gone, with whatever the kernel holds below it; the names in the others one
    /// by one.
    pub fn every_name(&self, top: &[u8], mounts: &Mounts) -> Vec<(Notice, Drop)> {
        let holds_mount = |path: &[u8]| match mounts {
            Some(mounts) => mounts.iter().any(|mount| is_at_or_below(mount, path)),
            None => true,
        };
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
                let (parent, name) = (link.parent.number, link.name.into_boxed_slice());
                (Notice::Entry { parent, name }, drop)
            }));
        });
        if top.is_empty() {
            notices.extend(self.unseen_names());
        }
        for dir in spared {
            let parent = dir.number;
            let path = dir.path().unwrap_or_default();
            let absent = self.cache.absent_in(&path).into_iter();
            notices.extend(absent.map(|name| (Notice::Entry { parent, name }, Drop::IfChanged)));
        }
        notices
    }

    /// How often the kernel was told something that it believes until it is told otherwise.
    pub fn lasting_answers(&self) -> u64 {
        self.held.lasting.load(Ordering::Relaxed)
    }

    /// Directories have other paths now, with all below: they are found by these.
    pub(super) fn dirs_moved(&self, top: &[u8]) {
        // The others are found by these already.
        let moved = self.dirs_below(top, id::is_of_path);
        self.held.own_dirs.lock().extend(moved);
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
    fn seen_as(&self, path: &[u8]) -> SmallVec<[Vec<u8>; 2]> {
        // What liteimg moved away shows at its old path.
        let moved = match path.strip_prefix(b".default") {
            Some(b"") => Some(&b""[..]),
            Some(below) => below.strip_prefix(b"/"),
            None => None,
        };
        let mut paths: SmallVec<[Vec<u8>; 2]> = SmallVec::new();
        for path in std::iter::once(path).chain(moved) {
            paths.push(path.to_vec());
            paths.extend(self.prefixes.iter().map(|prefix| match path {
                // The root itself: without the slash.
                b"" => prefix.strip_suffix(b"/").unwrap_or(prefix).to_vec(),
                path => [prefix, path].concat(),
            }));
        }
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
