//! Watching tried out on file systems of its own: tmpfs, and ext4 and XFS in a file. Needs root.

mod changes;
mod roots;
mod storm;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::sys::mountinfo;

/// A file system mounted in a directory of its own.
pub(super) struct Mounted {
    dir: tempfile::TempDir,
}

pub(super) fn run(program: &str, args: &[&OsStr]) -> bool {
    let status = Command::new(program).args(args).status();
    status
        .unwrap_or_else(|e| panic!("{program}: {e}"))
        .success()
}

impl Mounted {
    pub(super) fn tmpfs() -> Mounted {
        let new = Mounted {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(new.path()).unwrap();
        let args = ["-t", "tmpfs", "-o", "size=512m", "watch-test"].map(OsStr::new);
        assert!(run(
            "mount",
            &[&args[..], &[new.path().as_os_str()]].concat()
        ));
        new
    }

    /// A file system in a file, made by `mkfs.<kind>`.
    pub(super) fn of(kind: &str, size: u64) -> Mounted {
        let new = Mounted {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(new.path()).unwrap();
        let image = new.dir.path().join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(size)
            .unwrap();
        assert!(run(
            &format!("mkfs.{kind}"),
            &["-q".as_ref(), image.as_ref()]
        ));
        new.mount_again();
        new
    }

    pub(super) fn mount_again(&self) {
        let image = self.dir.path().join("image");
        let args = [
            "-o".as_ref(),
            "loop".as_ref(),
            image.as_os_str(),
            self.path().as_os_str(),
        ];
        assert!(run("mount", &args));
    }

    /// Another mount of a directory.
    pub(super) fn bind(of: &Path) -> Mounted {
        let new = Mounted {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(new.path()).unwrap();
        assert!(run(
            "mount",
            &["--bind".as_ref(), of.as_ref(), new.path().as_ref()]
        ));
        new
    }

    pub(super) fn ext4() -> Mounted {
        Mounted::of("ext4", 256 << 20)
    }

    pub(super) fn path(&self) -> &'static Path {
        // Kept until the test's process ends, so that threads can have it.
        Box::leak(self.dir.path().join("m").into_boxed_path())
    }

    pub(super) fn unmount(&self) {
        // A watcher looks at its roots when anything on the machine is mounted.
        let unmounted = (0..100).any(|_| run("umount", &[self.path().as_os_str()]));
        assert!(unmounted, "{} is busy", self.path().display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A test that failed may have left it mounted, or unmounted it itself.
        let mounted = mountinfo::read()
            .unwrap()
            .iter()
            .any(|m| m.point == self.path());
        if mounted && !run("umount", &["-l".as_ref(), self.path().as_os_str()]) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

/// What a sink was told, in a form to compare.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    Name {
        root: RootId,
        path: Vec<u8>,
        what: What,
        is_dir: bool,
        pid: i32,
        object: Option<Object>,
    },
    Object(Vec<RootId>, Object, What),
    Lost(Vec<RootId>, Lost),
}

#[derive(Default)]
pub(super) struct Log(Mutex<Vec<Heard>>);

impl Sink for Log {
    fn changed(&self, root: RootId, change: &Change<'_>) {
        self.0.lock().push(Heard::Name {
            root,
            path: joined(change.dir, change.name),
            what: change.what,
            is_dir: change.is_dir,
            pid: change.pid,
            object: change.object,
        });
    }
    fn object_changed(&self, roots: &[RootId], object: Object, what: What) {
        self.0
            .lock()
            .push(Heard::Object(roots.to_vec(), object, what));
    }
    fn lost(&self, roots: &[RootId], why: &Lost) {
        self.0.lock().push(Heard::Lost(roots.to_vec(), why.clone()));
    }
}

pub(super) fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir, name) {
        (_, b"") => dir.to_vec(),
        (b"", _) => name.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

/// A watcher with its log, and a directory to watch.
pub(super) struct Bench {
    pub(super) log: Arc<Log>,
    pub(super) watcher: Watcher,
    pub(super) fs: Mounted,
    pub(super) top: PathBuf,
}

impl Bench {
    pub(super) fn on(fs: Mounted) -> Bench {
        let log = Arc::new(Log::default());
        let watcher = Watcher::start(log.clone()).unwrap();
        let top = fs.path().join("top");
        std::fs::create_dir(&top).unwrap();
        Bench {
            log,
            watcher,
            fs,
            top,
        }
    }

    pub(super) fn all() -> [Bench; 3] {
        [
            Mounted::tmpfs(),
            Mounted::ext4(),
            Mounted::of("xfs", 320 << 20),
        ]
        .map(Bench::on)
    }

    /// What was told since the last call.
    pub(super) fn heard(&self) -> Vec<Heard> {
        self.watcher.settle();
        std::mem::take(&mut *self.log.0.lock())
    }

    /// The names of one root that were told, each once.
    pub(super) fn names(&self, of: RootId) -> BTreeSet<(String, What, bool)> {
        let name = |heard| match heard {
            Heard::Name {
                root,
                path,
                what,
                is_dir,
                ..
            } if root == of => Some((String::from_utf8_lossy(&path).into_owned(), what, is_dir)),
            Heard::Lost(roots, why) => panic!("lost {roots:?}: {why:?}"),
            _ => None,
        };
        self.heard().into_iter().filter_map(name).collect()
    }

    /// What was lost since the last call.
    pub(super) fn losses(&self) -> Vec<(Vec<RootId>, Lost)> {
        let loss = |heard| match heard {
            Heard::Lost(roots, why) => Some((roots, why)),
            _ => None,
        };
        self.heard().into_iter().filter_map(loss).collect()
    }
}

pub(super) fn bytes(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
