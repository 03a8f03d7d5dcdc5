//! Layers, and views of them that are mounted by this process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use statelite::config::Config;
use statelite::fleet::{Attached, PlainSpec, Shared, plain_view};
use statelite::fs::{IoMode, Root, View};
use statelite::fuse::{self, Adapter};
use statelite::layer::FormChoice;
use statelite::pool::Pool;

use crate::harness::snapshot::{self, Look, Tree};
use crate::harness::{self, *};

/// Everything that two trees can be compared by.
pub(crate) const ALL: Look = Look {
    mtime: true,
    dir_mtime: true,
    set_mtime: false,
    without_d_ino: false,
};

/// A mounted view, unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
    pub(crate) root: Arc<Root>,
    attached: Option<Attached>,
    server: Option<JoinHandle<()>>,
}

impl Mounted {
    pub(crate) fn new(view: View, shared: &Shared, at: &Path) -> Mounted {
        statelite::sys::creds::clear_umask();
        std::fs::create_dir_all(at).unwrap();
        let root = Arc::new(Root::new(view));
        let adapter = Adapter::new(root.clone(), Arc::new(Pool::default()));
        let mounted = fuse::mount(adapter, at, 2).unwrap();
        let attached = shared.attach(root.clone(), at.to_owned(), mounted.notifier());
        let server = std::thread::spawn(move || mounted.run().unwrap());
        Mounted {
            at: at.to_owned(),
            root,
            attached: Some(attached),
            server: Some(server),
        }
    }

    /// A path of the view.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.at.join(path)
    }

    /// Other rules or layers.
    pub(crate) fn replace(&self, spec: statelite::fs::ViewSpec) {
        self.root.replace(spec).unwrap();
        self.attached.as_ref().unwrap().all_changed();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.attached.take());
        let detach = rustix::mount::UnmountFlags::DETACH;
        if std::thread::panicking() {
            // What a failed test left open keeps the session going.
            rustix::mount::unmount(&self.at, detach).ok();
            return;
        }
        harness::unmount(&self.at).unwrap();
        self.server.take().unwrap().join().unwrap();
    }
}

/// Lower layers and what is mounted over them.
pub(crate) struct Site {
    // Unmounted before all else goes.
    pub(crate) views: Vec<Mounted>,
    pub(crate) shared: Shared,
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) config: Config,
    pub(crate) base: tempfile::TempDir,
}

impl Site {
    /// So many lower directories that `fill` fills, and so many views of all of them.
    pub(crate) fn new(lowers: usize, views: usize, fill: impl FnOnce(&[PathBuf])) -> Site {
        Site::with(Config::default(), lowers, views, fill)
    }

    pub(crate) fn with(
        config: Config,
        lowers: usize,
        views: usize,
        fill: impl FnOnce(&[PathBuf]),
    ) -> Site {
        let base = scratch();
        let lowers: Vec<PathBuf> = (0..lowers)
            .map(|n| base.path().join(format!("lower{n}")))
            .collect();
        lowers.iter().for_each(|dir| mkdir(dir, 0o755).unwrap());
        mkdir(base.path().join("outside"), 0o755).unwrap();
        fill(&lowers);
        let shared = Shared::new(&config);
        let mut site = Site {
            views: Vec::new(),
            shared,
            lowers,
            config,
            base,
        };
        for _ in 0..views {
            site.mount();
        }
        site
    }

    /// One more view.
    pub(crate) fn mount(&mut self) {
        let name = format!("view{}", self.views.len());
        let view = self.plain(&self.dirs(&name), &self.shared);
        let at = self.base.path().join(&name).join("root");
        self.views.push(Mounted::new(view, &self.shared, &at));
    }

    fn dirs(&self, name: &str) -> PathBuf {
        let dir = self.base.path().join(name);
        for name in ["upper", "work", "root"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        dir
    }

    fn plain(&self, dir: &Path, shared: &Shared) -> View {
        let spec = PlainSpec {
            lower: self.lowers.clone(),
            upper: dir.join("upper"),
            work: dir.join("work"),
            lifetime: self.config.cache_lifetime,
            io: IoMode::Passthrough,
            form: FormChoice::Auto,
        };
        plain_view(&spec, shared).unwrap()
    }

    /// A path of a lower layer.
    pub(crate) fn low(&self, n: usize, path: impl AsRef<Path>) -> PathBuf {
        self.lowers[n].join(path)
    }

    /// A path outside all layers, on their file system.
    pub(crate) fn outside(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.path().join("outside").join(path)
    }

    pub(crate) fn settle(&self) {
        self.shared.settle();
    }

    /// Looks at a view that is mounted just for this over the same layers, with a copy of a view's
    /// upper.
    pub(crate) fn fresh<T>(&self, view: usize, look: impl FnOnce(&Path) -> T) -> T {
        let dir = self.base.path().join("fresh");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).unwrap();
        }
        self.dirs("fresh");
        let upper = self.base.path().join(format!("view{view}/upper"));
        copy(&upper, &dir.join("upper"));
        let shared = Shared::new(&Config {
            watch: false,
            ..self.config.clone()
        });
        let mounted = Mounted::new(self.plain(&dir, &shared), &shared, &dir.join("root"));
        look(&mounted.at)
    }

    /// Every view is as one that was just mounted.
    #[track_caller]
    pub(crate) fn assert_true(&self, also: &[PathBuf], what: &str) {
        for (n, view) in self.views.iter().enumerate() {
            let look = |root: &Path| (snapshot::take(root, ALL), kinds(root, also));
            assert_as_fresh(n, &look(&view.at), &self.fresh(n, look), also, what);
        }
    }

    /// Has every view cache all that there is, and that these are not.
    pub(crate) fn warm(&self, also: &[PathBuf]) {
        for view in &self.views {
            kinds(&view.at, also);
            snapshot::take(&view.at, ALL);
        }
    }
}

/// What is seen of a root: its tree, and what each of some paths is.
pub(crate) type Seen = (Tree, Vec<Result<u32>>);

/// What is seen of a view is what is seen of one that was just mounted.
#[track_caller]
pub(crate) fn assert_as_fresh(n: usize, seen: &Seen, fresh: &Seen, also: &[PathBuf], what: &str) {
    let mut lines = snapshot::differences(&seen.0, &fresh.0);
    for (path, (a, b)) in also.iter().zip(seen.1.iter().zip(&fresh.1)) {
        if a != b {
            lines.push(format!("{}: {a:?}, should be {b:?}", path.display()));
        }
    }
    assert!(
        lines.is_empty(),
        "{what}: view {n} is not what a new one is:\n{}",
        lines.join("\n")
    );
}

/// What each of these is: its type, or why it can't be told.
pub(crate) fn kinds(root: &Path, paths: &[PathBuf]) -> Vec<Result<u32>> {
    let kind = |path: &PathBuf| lstat(root.join(path)).map(|stat| stat.st_mode & libc::S_IFMT);
    paths.iter().map(kind).collect()
}

/// A tree with all that it has, over what is there.
pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["-aT"])
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success(), "{} to {}", from.display(), to.display());
}
