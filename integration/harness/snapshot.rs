//! A tree taken whole, so that two of them can be compared.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::ops::{self, FileType, OFlags};

/// What one path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub kind: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0 for directories, whose size is the file system's own business.
    pub size: u64,
    pub content: Option<u64>,
    /// 0 for directories.
    pub links: u64,
    pub rdev: u64,
    pub target: Option<Vec<u8>>,
    pub xattrs: Result<BTreeMap<String, Vec<u8>>, String>,
    pub mtime: Option<(i64, i64)>,
    /// The other names of the same inode in this tree: the first of them, if it isn't this one.
    pub same_as: Option<PathBuf>,
}

/// What to look at beside the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// The mtime of everything but directories.
    pub mtime: bool,
    /// The mtime of directories as well.
    pub dir_mtime: bool,
    /// The mtime of everything where someone set it: later than `RECENT` counts as one time.
    pub set_mtime: bool,
    /// Not d_ino: overlayfs tells it right only where the upper has marks of its own making
    /// (`trusted.overlay.impure`), which another writer needn't make.
    pub without_d_ino: bool,
}

/// Fixtures and `set_times` stay below this second; what an operation stamps lies above.
pub const RECENT: i64 = 1_500_000_000;

pub type Tree = BTreeMap<PathBuf, Node>;

/// Takes the tree below `root`; also checks that each directory lists the numbers and types that
/// lstat gives, and no name that cannot be looked up.
pub fn take(root: &Path, look: Look) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    visit(root, Path::new(""), look, &mut tree, &mut inodes);
    tree
}

fn visit(
    root: &Path,
    below: &Path,
    look: Look,
    tree: &mut Tree,
    inodes: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    use std::os::unix::ffi::OsStrExt;
    let path = root.join(below);
    let stat = ops::lstat(&path).unwrap_or_else(|e| panic!("{} is gone: {e}", path.display()));
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_dir = kind == FileType::Directory;
    let same_as = if is_dir {
        None
    } else {
        let first = inodes
            .entry((stat.st_dev, stat.st_ino))
            .or_insert_with(|| below.to_owned());
        (first != below).then(|| first.clone())
    };
    tree.insert(
        below.to_owned(),
        Node {
            kind: format!("{kind:?}"),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: if is_dir { 0 } else { stat.st_size as u64 },
            content: (kind == FileType::RegularFile).then(|| hash(&path)),
            links: if is_dir { 0 } else { stat.st_nlink },
            rdev: stat.st_rdev,
            target: (kind == FileType::Symlink).then(|| ops::readlink(&path).unwrap()),
            xattrs: ops::xattrs(&path).map_err(|e| e.to_string()),
            mtime: mtime(&stat, is_dir, look),
            same_as,
        },
    );
    if is_dir {
        let mut entries = ops::list(&path).unwrap();
        entries.sort();
        for pair in entries.windows(2) {
            assert_ne!(pair[0].name, pair[1].name, "twice in {}", path.display());
        }
        for entry in entries {
            let name = std::ffi::OsStr::from_bytes(&entry.name);
            let child = path.join(name);
            let stat = ops::lstat(&child)
                .unwrap_or_else(|e| panic!("{} is listed, but: {e}", child.display()));
            let d_ino = if look.without_d_ino {
                stat.st_ino
            } else {
                entry.ino
            };
            assert_eq!(stat.st_ino, d_ino, "d_ino of {}", child.display());
            assert_eq!(
                format!("{:?}", FileType::from_raw_mode(stat.st_mode)),
                entry.kind,
                "d_type of {}",
                child.display()
            );
            visit(root, &below.join(name), look, tree, inodes);
        }
    }
}

fn mtime(stat: &ops::Stat, is_dir: bool, look: Look) -> Option<(i64, i64)> {
    let at = (stat.st_mtime, stat.st_mtime_nsec.cast_signed());
    if look.set_mtime {
        Some(if at.0 > RECENT { (RECENT, 0) } else { at })
    } else {
        (look.mtime && (!is_dir || look.dir_mtime)).then_some(at)
    }
}

fn hash(path: &Path) -> u64 {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME;
    let mut file: File = ops::open(path, flags, 0)
        .or_else(|_| ops::open_r(path))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer).unwrap();
        if n == 0 {
            return hasher.digest();
        }
        hasher.update(&buffer[..n]);
    }
}

/// What differs, a line a path; empty where the trees are the same.
pub fn differences(a: &Tree, b: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, node) in a {
        match b.get(path) {
            None => lines.push(format!("only in the first: {}", path.display())),
            Some(other) if other != node => {
                lines.push(format!("{}:\n  {node:?}\n  {other:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    for path in b.keys().filter(|path| !a.contains_key(*path)) {
        lines.push(format!("only in the second: {}", path.display()));
    }
    lines
}

/// Panics with what differs.
#[track_caller]
pub fn assert_same(a: &Tree, b: &Tree) {
    let lines = differences(a, b);
    assert!(lines.is_empty(), "the trees differ:\n{}", lines.join("\n"));
}
