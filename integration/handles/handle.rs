//! A file handle, and what it must lead to.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use statelite::sys::fanotify::{handle_of, open_handle};

use crate::harness::*;

/// A handle as an NFS server keeps it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handle(Box<[u8]>);

/// Where a handle has the nodeid: behind the type, the upper half first (fs/fuse/inode.c,
/// fuse_encode_fh).
const NODEID: std::ops::Range<usize> = 4..12;

impl Handle {
    pub fn of(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let object = open(path, OFlags::PATH | OFlags::NOFOLLOW, 0)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Handle(handle_of(object.as_fd()).unwrap())
    }

    /// The same with another number.
    pub fn with_number(&self, number: u64) -> Self {
        let mut handle = self.clone();
        let halves = [(number >> 32) as u32, number as u32].map(u32::to_ne_bytes);
        handle.0[NODEID].copy_from_slice(&halves.concat());
        handle
    }

    pub fn number(&self) -> u64 {
        let half = |at: usize| {
            u64::from(u32::from_ne_bytes(
                self.0[NODEID][at..at + 4].try_into().unwrap(),
            ))
        };
        half(0) << 32 | half(4)
    }

    /// Opens it in the view that is mounted on `root`.
    pub fn open(&self, root: &Path) -> Result<OwnedFd> {
        self.open_in(&open(root, OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap())
    }

    /// The same, by any directory of the view.
    pub fn open_in(&self, mount: &File) -> Result<OwnedFd> {
        open_handle(mount.as_fd(), &self.0)
    }
}

/// What can be told of an object by a handle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    ino: u64,
    kind: FileType,
    device: u64,
    /// A file's contents, a symlink's target; the names in a directory.
    contents: Vec<u8>,
}

impl Object {
    pub fn of(object: &OwnedFd) -> Self {
        let stat = rustix::fs::fstat(object).unwrap();
        let kind = kind_of(object);
        let again = || PathBuf::from(format!("/proc/self/fd/{}", object.as_raw_fd()));
        let contents = match kind {
            FileType::RegularFile => std::fs::read(again()).unwrap(),
            FileType::Directory => names(again()).join("\n").into_bytes(),
            FileType::Symlink => rustix::fs::readlinkat(object, "", Vec::new())
                .unwrap()
                .into_bytes(),
            _ => Vec::new(),
        };
        Object {
            ino: stat.st_ino,
            kind,
            device: stat.st_rdev,
            contents,
        }
    }

    pub fn at(path: impl AsRef<Path>) -> Self {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        Object::of(&open(path, flags, 0).unwrap().into())
    }
}

/// Handles by a word for each.
#[derive(Default)]
pub struct Kept(BTreeMap<String, Handle>);

impl Kept {
    /// Of each of these paths.
    pub fn of(root: &Path, paths: &[&str]) -> Self {
        let mut kept = Kept::default();
        paths.iter().for_each(|path| kept.add(root, path));
        kept
    }

    pub fn add(&mut self, root: &Path, path: &str) {
        self.0.insert(path.into(), Handle::of(root.join(path)));
    }

    /// What was called so is now at another path.
    pub fn moved(&mut self, from: &str, to: &str) {
        let handle = self.0.remove(from).unwrap();
        self.0.insert(to.into(), handle);
    }

    pub fn forget(&mut self, path: &str) {
        self.0.remove(path).unwrap();
    }

    /// Each leads to what is at its path. First all handles are opened, since a path that is walked
    /// brings to memory what lies at it.
    #[track_caller]
    pub fn check(&self, root: &Path, what: &str) {
        let open = |(path, handle): (&String, &Handle)| {
            let object = open_named(|| {
                handle
                    .open(root)
                    .unwrap_or_else(|e| panic!("{what}: {path}: {e}"))
            });
            if kind_of(&object) == FileType::Directory {
                assert_connected(&object, &root.join(path), what);
            }
            let found = Object::of(&object);
            (path.clone(), found)
        };
        let found: Vec<_> = self.0.iter().map(open).collect();
        for (path, found) in found {
            assert_eq!(found, Object::at(root.join(&path)), "{what}: {path}");
        }
        for number in [0x7777_7777, 1 << 61 | 5, 1 << 63 | 5] {
            let unknown = self.0.values().next().unwrap().with_number(number);
            assert_stale(&unknown, root, what);
        }
    }

    /// Each leads to what is at its path, after each event.
    #[track_caller]
    pub fn check_through_events(&self, ov: &mut Overlay) {
        for (what, event) in EVENTS {
            event(ov);
            self.check(&ov.root, what);
        }
    }
}

fn kind_of(object: &OwnedFd) -> FileType {
    FileType::from_raw_mode(rustix::fs::fstat(object).unwrap().st_mode)
}

/// A directory with the name that it has. Word of a change below takes names from the kernel whenever
/// it comes, and what it still holds, by a descriptor or by a name below, stays without.
#[track_caller]
fn open_named(open: impl Fn() -> OwnedFd) -> OwnedFd {
    let mut named = None;
    poll_until("it has a name", || {
        let object = open();
        if kind_of(&object) != FileType::Directory || !kernels_path(&object).ends_with(" (deleted)")
        {
            named = Some(object);
            return true;
        }
        drop(object);
        drop_caches();
        false
    });
    named.unwrap()
}

fn kernels_path(of: &OwnedFd) -> String {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", of.as_raw_fd())).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// A directory that was opened by a handle has its place in the tree again: "..", and a path.
#[track_caller]
fn assert_connected(dir: &OwnedFd, path: &Path, what: &str) {
    let name = kernels_path(dir);
    let known = name.strip_suffix(" (deleted)").unwrap_or(&name);
    assert_eq!(Path::new(known), path, "{what}");
    let above = rustix::fs::statat(dir, "..", AtFlags::empty()).unwrap();
    let expected = lstat(path.parent().unwrap()).unwrap();
    assert_eq!(above.st_ino, expected.st_ino, "{what}: .. of {path:?}");
}

#[track_caller]
pub fn assert_stale(handle: &Handle, root: &Path, what: &str) {
    match handle.open(root) {
        Err(Errno::STALE) => {}
        Err(e) => panic!("{what}: {e}, expected ESTALE"),
        Ok(object) => panic!("{what}: leads to {:?}", File::from(object)),
    }
}

/// Something that makes a view or its kernel forget.
pub type Event = (&'static str, fn(&mut Overlay));

pub const EVENTS: [Event; 3] = [
    ("caches dropped", |_| drop_caches()),
    ("mounted again", |ov| ov.remount()),
    ("the daemon killed and started again", |ov| {
        ov.kill_daemon();
        ov.mount();
    }),
];
