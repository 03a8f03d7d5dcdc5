//! A tree outside that tells when someone looked at it, and all that a node can try to get there.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::harness::*;

pub const SECRET: &[u8] = b"SECRET";
/// Of everything in the canary and of nothing else.
const OWNER: u32 = 4242;

/// Everything about a path that an access changes, the access time included.
type State = BTreeMap<PathBuf, String>;

pub struct Canary {
    pub dir: PathBuf,
    before: State,
}

impl Canary {
    /// Below `base`, with the names that the view's own tree has.
    pub fn new(base: &Path) -> Self {
        let dir = base.join("canary");
        for path in ["", "d", "d/sub", "sub", "empty", "d/empty", "d/sub/empty"] {
            mkdir(dir.join(path), 0o755).unwrap();
        }
        for path in ["f", "d/f", "d/sub/f", "sub/f", "secret"] {
            write(dir.join(path), SECRET).unwrap();
            setx(dir.join(path), "user.k", SECRET).unwrap();
        }
        settle(&dir);
        let before = state(&dir);
        Self { dir, before }
    }

    /// Fails where anything was changed or only read.
    #[track_caller]
    pub fn assert_untouched(&self, what: &str) {
        assert_eq!(
            self.before,
            state(&self.dir),
            "the canary was reached: {what}"
        );
    }
}

/// Owner and times; a read then shows in the access time, also on a relatime mount.
fn settle(path: &Path) {
    if kind(path) == FileType::Directory {
        for entry in list(path).unwrap() {
            settle(&path.join(std::ffi::OsStr::from_bytes(&entry.name)));
        }
    }
    lchown(path, Some(OWNER), Some(OWNER)).unwrap();
    set_times(path, 1_000_000_000).unwrap();
}

fn state(dir: &Path) -> State {
    let mut all = State::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let stat = lstat(&path).unwrap();
        all.insert(path.clone(), format!("{stat:?} {:?}", xattrs(&path)));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
            let fd = open(&path, flags, 0).unwrap();
            for entry in rustix::fs::Dir::read_from(&fd).unwrap() {
                let name = entry.unwrap().file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    left.push(path.join(std::ffi::OsStr::from_bytes(&name)));
                }
            }
        }
    }
    all
}

/// What an operation showed to the node, if anything.
type Shown = Option<Vec<u8>>;

fn nothing(result: Result<()>) -> Shown {
    // Whether it works is not the question here.
    result.ok();
    None
}

fn shown_stat(result: Result<Stat>) -> Shown {
    let stat = result.ok()?;
    (stat.st_uid == OWNER).then(|| SECRET.to_vec())
}

type Operation = (&'static str, fn(&Path) -> Shown);

/// Every operation, on a file `f` and a directory `empty` in `dir`, and on names that are new there.
pub const OPERATIONS: &[Operation] = &[
    ("lstat", |d| shown_stat(lstat(d.join("f")))),
    ("lstat of a directory", |d| {
        shown_stat(lstat(d.join("empty")))
    }),
    ("list", |d| {
        let names = list(d).ok()?;
        names
            .iter()
            .any(|e| e.name == b"secret")
            .then(|| SECRET.to_vec())
    }),
    ("read", |d| read(d.join("f")).ok()),
    ("readlink", |d| nothing(readlink(d.join("f")).map(drop))),
    ("open of a secret name", |d| read(d.join("secret")).ok()),
    ("getxattr", |d| getx(d.join("f"), "user.k").ok()),
    ("listxattr", |d| nothing(listx(d.join("f")).map(drop))),
    ("statfs", |d| {
        nothing(rustix::fs::statfs(d.join("f")).map(drop))
    }),
    ("write in place", |d| {
        nothing(open_rw(d.join("f")).and_then(|f| pwrite(&f, 0, "node")))
    }),
    ("append", |d| nothing(append(d.join("f"), "node"))),
    ("open with truncation", |d| {
        nothing(write(d.join("f"), "node"))
    }),
    ("truncate", |d| nothing(truncate(&d.join("f"), 1))),
    ("create", |d| {
        nothing(create(d.join("new-file"), 0o644).and_then(|f| pwrite(&f, 0, "node")))
    }),
    ("mkdir", |d| nothing(mkdir(d.join("new-dir"), 0o755))),
    ("mkdir in a directory", |d| {
        nothing(mkdir(d.join("empty/new-dir"), 0o755))
    }),
    ("mknod", |d| {
        nothing(mknod(d.join("new-fifo"), FileType::Fifo, 0o644, 0))
    }),
    ("symlink", |d| nothing(symlink("x", d.join("new-symlink")))),
    ("link", |d| nothing(link(d.join("f"), d.join("new-link")))),
    ("link into", |d| nothing(link("/own", d.join("linked")))),
    ("link out", |d| {
        link(d.join("f"), "/linked-out").ok()?;
        read("/linked-out").ok()
    }),
    ("chmod", |d| nothing(chmod(d.join("f"), 0o777))),
    ("chmod of a directory", |d| {
        nothing(chmod(d.join("empty"), 0o777))
    }),
    ("chmod of the directory", |d| nothing(chmod(d, 0o777))),
    ("chown", |d| nothing(lchown(d.join("f"), Some(1), Some(1)))),
    ("chown of a directory", |d| {
        nothing(lchown(d.join("empty"), Some(1), Some(1)))
    }),
    ("utimes", |d| nothing(set_times(d.join("f"), 5))),
    ("utimes of the directory", |d| nothing(set_times(d, 5))),
    ("setxattr", |d| {
        nothing(setx(d.join("f"), "user.new", "node"))
    }),
    ("setxattr of the directory", |d| {
        nothing(setx(d, "user.new", "node"))
    }),
    ("removexattr", |d| nothing(rmx(d.join("f"), "user.k"))),
    ("ACL", |d| {
        let acl = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        nothing(setx(d.join("f"), ACL_ACCESS, &acl).and_then(|()| setx(d, ACL_DEFAULT, &acl)))
    }),
    ("rename within", |d| {
        nothing(rename(d.join("f"), d.join("renamed")))
    }),
    ("rename back", |d| {
        nothing(rename(d.join("renamed"), d.join("f")))
    }),
    ("rename into", |d| {
        write("/incoming", "node").ok();
        nothing(rename("/incoming", d.join("incoming")))
    }),
    ("rename over", |d| {
        write("/incoming", "node").ok();
        nothing(rename("/incoming", d.join("f")))
    }),
    ("exchange", |d| {
        write("/incoming", "node").ok();
        rename_with("/incoming", d.join("f"), RenameFlags::EXCHANGE).ok()?;
        read("/incoming").ok()
    }),
    ("rename out", |d| {
        rename(d.join("f"), "/renamed-out").ok()?;
        read("/renamed-out").ok()
    }),
    ("rename of a directory", |d| {
        nothing(rename(d.join("empty"), d.join("renamed-dir")))
    }),
    ("unlink", |d| nothing(unlink(d.join("f")))),
    ("unlink of a secret name", |d| {
        nothing(unlink(d.join("secret")))
    }),
    ("rmdir", |d| nothing(rmdir(d.join("empty")))),
    ("rmdir of the directory", |d| nothing(rmdir(d))),
    ("an unnamed file", |d| {
        nothing(open(d, OFlags::TMPFILE | OFlags::RDWR, 0o600).map(drop))
    }),
    ("remove all below", |d| {
        for entry in list(d).ok()? {
            let path = d.join(std::ffi::OsStr::from_bytes(&entry.name));
            if unlink(&path).is_err() {
                rmdir(&path).ok();
            }
        }
        None
    }),
];

/// The operations by a handle that the node got when all was well.
pub fn by_handle(dir: &std::fs::File, file: &std::fs::File) -> Vec<Shown> {
    use rustix::fs as r;
    let none: Shown = None;
    let create = OFlags::CREATE | OFlags::RDWR;
    r::openat(dir, "h-new", create, mode(0o644)).ok();
    r::mkdirat(dir, "h-dir", mode(0o755)).ok();
    r::symlinkat("x", dir, "h-symlink").ok();
    r::mknodat(dir, "h-fifo", FileType::Fifo, mode(0o644), 0).ok();
    r::unlinkat(dir, "f", AtFlags::empty()).ok();
    r::unlinkat(dir, "empty", AtFlags::REMOVEDIR).ok();
    r::renameat(dir, "h-new", dir, "h-moved").ok();
    r::fchmod(dir, mode(0o700)).ok();
    r::fsetxattr(dir, "user.h", b"v", XattrFlags::empty()).ok();
    r::futimens(dir, &at_time(5)).ok();
    r::fchmod(file, mode(0o600)).ok();
    r::fsetxattr(file, "user.h", b"v", XattrFlags::empty()).ok();
    r::futimens(file, &at_time(5)).ok();
    let secret = r::openat(
        dir,
        "secret",
        OFlags::RDONLY | OFlags::NOFOLLOW,
        Mode::empty(),
    );
    let listed = r::Dir::read_from(dir).ok().and_then(|entries| {
        entries
            .flatten()
            .any(|e| e.file_name().to_bytes() == b"secret")
            .then(|| SECRET.to_vec())
    });
    vec![
        none,
        secret.ok().map(|_| SECRET.to_vec()),
        pread(file, 0, 100).ok(),
        shown_stat(r::statat(dir, "f", AtFlags::SYMLINK_NOFOLLOW)),
        shown_stat(r::fstat(dir)),
        listed,
    ]
}

#[track_caller]
pub fn assert_no_secret(shown: &Shown, what: &str) {
    let leaked = shown
        .as_ref()
        .is_some_and(|bytes| bytes.windows(SECRET.len()).any(|w| w == SECRET));
    assert!(!leaked, "the node was shown the canary: {what}");
}

/// A view of two lower layers (the first a litetree that someone may write to) and an upper in which all
/// of the tree has been copied up, so that every access has a path in each.
pub fn view() -> Overlay {
    let ov = Overlay::layered(Store::Disk, 2, |l| {
        for lower in l {
            for dir in ["d", "d/sub", "d/empty", "d/sub/empty", "empty"] {
                mkdir(lower.join(dir), 0o755).unwrap();
            }
            for file in ["f", "d/f", "d/sub/f"] {
                write(lower.join(file), "plain").unwrap();
            }
        }
    });
    refill(&ov.upper);
    ov
}

/// Puts the tree into a layer again, as far as it is gone.
pub fn refill(layer: &Path) {
    for dir in ["d", "d/sub", "d/empty", "d/sub/empty", "empty"] {
        let path = layer.join(dir);
        if lstat(&path).is_err() || is_whiteout(&path) {
            unlink(&path).ok();
            mkdir(&path, 0o755).ok();
        }
    }
    for file in ["own", "f", "d/f", "d/sub/f"] {
        let path = layer.join(file);
        if lstat(&path).is_err() || is_whiteout(&path) {
            unlink(&path).ok();
            write(&path, "plain").ok();
        }
    }
}
