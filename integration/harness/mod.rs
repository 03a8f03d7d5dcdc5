//! A merged view to test: ours, or kernel overlayfs as the yardstick, over layers in a scratch directory.
//!
//! `STATELITE_TARGET=overlayfs` chooses the yardstick, `fuse-overlayfs` a peer with known defects, which
//! shows that a test can fail; `STATELITE_IO` how files are read and written (configuration key `io`); `STATELITE_BIN` another program than the one just built; `STATELITE_TEST_DIR` a directory for the scratch,
//! which must be on a local file system that overlayfs takes as an upper (ext4, xfs, btrfs).
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

pub mod actor;
pub mod ops;
pub mod paths;
pub mod snapshot;
pub mod sys;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

pub use actor::{Who, as_user};
pub use ops::*;

/// What merges the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Overlayfs,
    FuseOverlayfs,
    Statelite,
}

/// The target that this run is about.
pub fn target() -> Target {
    match std::env::var("STATELITE_TARGET").as_deref() {
        Ok("overlayfs") => Target::Overlayfs,
        Ok("fuse-overlayfs") => Target::FuseOverlayfs,
        Ok("statelite") | Err(_) => Target::Statelite,
        Ok(other) => {
            panic!("STATELITE_TARGET={other}: none of statelite, overlayfs, fuse-overlayfs")
        }
    }
}

/// Where the upper lies.
#[derive(Clone, Copy, Debug)]
pub enum Store {
    /// With the lower layers, on the scratch directory's file system.
    Disk,
    /// On a tmpfs of its own, of at most so many bytes.
    Tmpfs(u64),
}

pub const TMPFS: Store = Store::Tmpfs(1 << 30);

/// Waits until `done`, and fails after a minute.
#[track_caller]
pub fn poll_until(what: &str, mut done: impl FnMut() -> bool) {
    assert!(
        poll_for(Duration::from_secs(60), &mut done),
        "waited a minute in vain: {what}"
    );
}

/// Waits until `done`, at most so long; whether it came about.
pub fn poll_for(limit: Duration, done: &mut dyn FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory that is gone when this is dropped.
pub fn scratch() -> tempfile::TempDir {
    let base =
        std::env::var_os("STATELITE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new()
        .prefix("statelite-test.")
        .tempdir_in(base)
        .unwrap();
    chmod(dir.path(), 0o755).unwrap();
    dir
}

/// Unmounts, waiting for what is still busy: a child that another test is just starting may hold a
/// descriptor for a moment.
pub fn unmount(at: &Path) -> Result<()> {
    let mut last = Ok(());
    let gone = poll_for(Duration::from_secs(10), &mut || {
        last = rustix::mount::unmount(at, UnmountFlags::empty());
        last != Err(Errno::BUSY)
    });
    assert_eq!(gone, last != Err(Errno::BUSY));
    last
}

/// A tmpfs of `size` bytes, unmounted when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn new(at: &Path, size: u64) -> Self {
        let data = CString::new(format!("size={size},mode=0755")).unwrap();
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), data.as_c_str()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if unmount(&self.0).is_err() {
            rustix::mount::unmount(&self.0, UnmountFlags::DETACH).ok();
        }
    }
}

/// A mounted view with its layers; unmounted and removed when dropped, also by a panic.
pub struct Overlay {
    pub target: Target,
    /// Highest first.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub root: PathBuf,
    mounted: bool,
    io: Option<&'static str>,
    // In the order in which they must go.
    held: Vec<Box<dyn std::any::Any + Send + Sync>>,
    store: Option<Tmpfs>,
    base: tempfile::TempDir,
}

impl Overlay {
    /// A view of one lower layer that `fill` has filled.
    pub fn new(store: Store, fill: impl FnOnce(&Path)) -> Self {
        Self::layered(store, 1, |lowers| fill(&lowers[0]))
    }

    /// A view of `count` lower layers, highest first.
    pub fn layered(store: Store, count: usize, fill: impl FnOnce(&[PathBuf])) -> Self {
        Self::build(target(), store, count, |lowers, _| fill(lowers))
    }

    /// The same, of a target of choice; `fill` gets the lower layers and the upper.
    pub fn build(
        target: Target,
        store: Store,
        count: usize,
        fill: impl FnOnce(&[PathBuf], &Path),
    ) -> Self {
        let base = scratch();
        let dir = |name: String| {
            let path = base.path().join(name);
            std::fs::create_dir(&path).unwrap();
            chmod(&path, 0o755).unwrap();
            path
        };
        let lowers: Vec<PathBuf> = (0..count).map(|i| dir(format!("lower{i}"))).collect();
        let root = dir("view".into());
        let at = dir("store".into());
        let store = match store {
            Store::Disk => None,
            Store::Tmpfs(size) => Some(Tmpfs::new(&at, size)),
        };
        let (upper, work) = (dir("store/upper".into()), dir("store/work".into()));
        fill(&lowers, &upper);
        let mut view = Self {
            target,
            lowers,
            upper,
            work,
            root,
            mounted: false,
            io: None,
            held: Vec::new(),
            store,
            base,
        };
        view.mount();
        view
    }

    /// The same view, mounted anew with another way of reading and writing (configuration key `io`).
    pub fn with_io(mut self, io: &'static str) -> Self {
        self.umount();
        self.io = Some(io);
        self.mount();
        self
    }

    /// Keeps something that must go after the view and before its scratch directory, as a mount that
    /// is one of the layers.
    pub fn hold(&mut self, what: impl std::any::Any + Send + Sync) {
        self.held.push(Box::new(what));
    }

    /// A path of the view.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A path of the upper.
    pub fn up(&self, path: impl AsRef<Path>) -> PathBuf {
        self.upper.join(path)
    }

    /// A path of the highest lower layer.
    pub fn low(&self, path: impl AsRef<Path>) -> PathBuf {
        self.lowers[0].join(path)
    }

    /// A directory beside the layers, outside all of them.
    pub fn outside(&self) -> &Path {
        self.base.path()
    }

    pub fn is_overlayfs(&self) -> bool {
        self.target == Target::Overlayfs
    }

    /// Mounts over the layers as they are now.
    pub fn mount(&mut self) {
        assert!(!self.mounted);
        let lowers: Vec<&str> = self.lowers.iter().map(|l| l.to_str().unwrap()).collect();
        let lowers = lowers.join(":");
        match self.target {
            Target::Overlayfs => {
                // Every feature by name: what a distribution's kernel has as its default differs. A
                // volatile mount doesn't wait for the disk when it goes, and leaves a mark of that.
                std::fs::remove_dir_all(self.work.join("work/incompat")).ok();
                let options = format!(
                    "lowerdir={lowers},upperdir={},workdir={},xino=on,index=off,redirect_dir=nofollow,metacopy=off,volatile",
                    self.upper.display(),
                    self.work.display()
                );
                let options = CString::new(options).unwrap();
                rustix::mount::mount(
                    "overlay",
                    &self.root,
                    "overlay",
                    MountFlags::empty(),
                    options.as_c_str(),
                )
                .unwrap_or_else(|e| panic!("mount -t overlay -o {options:?}: {e}"));
            }
            Target::FuseOverlayfs => {
                let options = format!(
                    "lowerdir={lowers},upperdir={},workdir={},allow_other,default_permissions",
                    self.upper.display(),
                    self.work.display()
                );
                let mut command = Command::new("fuse-overlayfs");
                command.args(["-o", &options]).arg(&self.root);
                self.start(command);
            }
            Target::Statelite => {
                let program = std::env::var_os("STATELITE_BIN")
                    .unwrap_or_else(|| env!("CARGO_BIN_EXE_statelite").into());
                let mut command = Command::new(program);
                if let Some(io) = std::env::var_os("STATELITE_IO").or(self.io.map(Into::into)) {
                    let config = self.base.path().join("statelite.toml");
                    std::fs::write(&config, format!("io = {io:?}\n")).unwrap();
                    command.arg("--config").arg(config);
                }
                command
                    .args(["mount", "--lower", &lowers, "--upper"])
                    .arg(&self.upper)
                    .arg("--work")
                    .arg(&self.work)
                    .arg(&self.root);
                self.start(command);
            }
        }
        self.mounted = true;
    }

    /// Runs a program that goes to the background once it has mounted the view.
    fn start(&self, mut command: Command) {
        // A file, not a pipe, which the daemon would hold open.
        let log = self.base.path().join("log");
        let mut options = std::fs::OpenOptions::new();
        let out = options.create(true).append(true).open(&log).unwrap();
        let status = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .status()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        assert!(
            status.success(),
            "{command:?}: {status}\n{}",
            String::from_utf8_lossy(&read(&log).unwrap_or_default())
        );
        assert!(
            lstat(&self.root).unwrap().st_dev != lstat(self.base.path()).unwrap().st_dev,
            "{command:?} ended with success, but nothing is mounted"
        );
    }

    /// Unmounts and waits until the daemon has ended.
    pub fn umount(&mut self) {
        if self.mounted {
            unmount(&self.root).unwrap_or_else(|e| panic!("umount: {e}"));
            self.mounted = false;
            poll_until("the daemon's end", || self.daemons().is_empty());
        }
    }

    /// As after a reboot of the node with a store that is kept.
    pub fn remount(&mut self) {
        self.umount();
        self.mount();
    }

    /// The processes that serve this view; none with overlayfs.
    pub fn daemons(&self) -> Vec<u32> {
        if self.target == Target::Overlayfs {
            return Vec::new();
        }
        let needle = self.root.to_str().unwrap().as_bytes();
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // A process that ended meanwhile has no command line: that is no error here.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = line.split(|b| *b == 0).next().is_some_and(|program| {
                program.ends_with(b"statelite") || program.ends_with(b"fuse-overlayfs")
            });
            if ours && line.split(|b| *b == 0).any(|word| word == needle) {
                pids.push(pid);
            }
        }
        pids
    }

    /// kill -9 of the daemon, and the removal of the mount that it leaves behind.
    pub fn kill_daemon(&mut self) {
        for pid in self.daemons() {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        poll_until("the daemon's end", || self.daemons().is_empty());
        rustix::mount::unmount(&self.root, UnmountFlags::DETACH).ok();
        self.mounted = false;
    }

    /// The view's whole tree.
    pub fn tree(&self) -> snapshot::Tree {
        snapshot::take(&self.root, snapshot::Look::default())
    }

    /// All lower layers' trees with times: what no operation through the view may change.
    pub fn lower_trees(&self) -> Vec<snapshot::Tree> {
        self.lowers
            .iter()
            .map(|lower| {
                snapshot::take(
                    lower,
                    snapshot::Look {
                        mtime: true,
                        ..Default::default()
                    },
                )
            })
            .collect()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        if unmount(&self.root).is_err() {
            rustix::mount::unmount(&self.root, UnmountFlags::DETACH).ok();
        }
        // The store must not go before who writes to it. Not `poll_until`: a panic in a panic aborts.
        poll_for(Duration::from_secs(5), &mut || self.daemons().is_empty());
    }
}

/// Runs `act` and fails where it isn't done within two minutes: then something waits for itself. The
/// daemon is killed to let the stuck thread go.
pub fn without_deadlock(ov: &Overlay, act: impl FnOnce() + Send) {
    let done = std::sync::atomic::AtomicBool::new(false);
    let stuck = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            act();
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        let ended = poll_for(Duration::from_secs(120), &mut || worker.is_finished());
        if !ended {
            for pid in ov.daemons() {
                let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
        !ended
    });
    assert!(!stuck, "a deadlock");
}

/// Runs `act` on so many threads, each as a process of its own, all released at once.
pub fn together(count: usize, act: impl Fn(usize) + Sync) {
    let barrier = std::sync::Barrier::new(count);
    std::thread::scope(|scope| {
        for i in 0..count {
            let (barrier, act) = (&barrier, &act);
            scope.spawn(move || {
                Who::root().own_files().become_it();
                barrier.wait();
                act(i);
            });
        }
    });
}

/// Makes the kernel forget entries and inodes that no one uses, so that it asks anew.
pub fn drop_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

/// A form that the upper store gives a deleted name: a 0:0 character device.
pub fn is_whiteout(path: impl AsRef<Path>) -> bool {
    lstat(path).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

pub fn is_opaque(path: impl AsRef<Path>) -> bool {
    getx(path, "trusted.overlay.opaque").is_ok_and(|value| value == b"y")
}

/// Makes each named test one on disk and one on a tmpfs.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod disk { $( #[test] fn $test() { super::$test($crate::harness::Store::Disk) } )* }
        mod tmpfs { $( #[test] fn $test() { super::$test($crate::harness::TMPFS) } )* }
    };
}

/// The expression fails with exactly this errno.
macro_rules! fails {
    ($what:expr, $errno:ident) => {
        match $what {
            Err(e) => assert_eq!(e, $crate::harness::Errno::$errno, "{}", stringify!($what)),
            Ok(_) => panic!(
                "{} succeeded; expected {}",
                stringify!($what),
                stringify!($errno)
            ),
        }
    };
}

pub(crate) use {fails, on_every_store};
