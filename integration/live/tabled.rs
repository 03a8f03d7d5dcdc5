//! Views of the nodes that tables describe, mounted by this process: rules, litetrees and stores of
//! a cluster, and a second view of a node to hold the first one against.

use std::path::{Path, PathBuf};

use statelite::config::Config;
use statelite::fleet::{Planned, Shared, Use, build, planned_view, stores};
use statelite::tables::{CsvDir, Tables};

use crate::cluster::{self, Cluster};
use crate::harness::snapshot::{self, Tree};
use crate::harness::*;
use crate::site::{ALL, Mounted, assert_as_fresh, copy, kinds};

/// A cluster's nodes, each with its root mounted.
pub(crate) struct Tabled {
    pub(crate) views: Vec<Mounted>,
    pub(crate) shared: Shared,
    plans: Vec<Planned>,
    config: Config,
    pub(crate) cluster: Cluster,
}

impl Tabled {
    /// All nodes of a cluster.
    pub(crate) fn new(cluster: Cluster) -> Tabled {
        // What is not told of, uppers as they are shown below `.statelite`, is looked at each time.
        cluster.set("cache_lifetime", "\"0\"");
        let config = Config::load(Some(&cluster.write())).unwrap();
        let tables = Tables::load(&CsvDir::new(&config.tables));
        let mut site = Tabled {
            views: Vec::new(),
            shared: Shared::new(&config),
            plans: Vec::new(),
            config,
            cluster,
        };
        for node in tables.nodes() {
            let spec = tables.node(&node, &site.config).unwrap();
            assert!(spec.problems.is_empty(), "{:?}", spec.problems);
            let plan = Planned::of(spec, &site.config).unwrap();
            let view = planned_view(&plan, &site.config, Use::Mount, &site.shared).unwrap();
            let at = site.cluster.path("roots").join(&node);
            let mounted = Mounted::new(view.view, &site.shared, &at);
            site.views.push(mounted);
            site.plans.push(plan);
        }
        site
    }

    /// A path of a view.
    pub(crate) fn at(&self, view: usize, path: impl AsRef<Path>) -> PathBuf {
        self.views[view].at(path)
    }

    /// The litetrees in order, and the image.
    pub(crate) fn layers(&self) -> [PathBuf; 3] {
        let c = &self.cluster;
        [c.tree(1, ""), c.tree(2, ""), c.image("")]
    }

    pub(crate) fn settle(&self) {
        self.shared.settle();
    }

    /// Looks at a view of the same node that is mounted just for this and watches nothing, over
    /// copies of what the node has written.
    fn fresh<T>(&self, view: usize, look: impl FnOnce(&Path) -> T) -> T {
        let top = self.cluster.path("twin");
        if top.exists() {
            std::fs::remove_dir_all(&top).unwrap();
        }
        let plan = &self.plans[view];
        let mut spec = (**plan.spec()).clone();
        let node = spec.node.clone();
        let config = Config {
            watch: false,
            // While it is looked at nothing changes.
            cache_lifetime: std::time::Duration::from_secs(3600),
            tmpfs_dir: top.join("tmpfs"),
            localdisk_dir: Some(top.join("disk")),
            ..self.config.clone()
        };
        let tmpfs = cluster::dir(stores::tmpfs_point(&config, &node));
        let _mounted = cluster::Tmpfs::on(&tmpfs);
        stores::ensure_tmpfs(&config, &spec).unwrap();
        let upper = stores::tmpfs_point(&self.config, &node).join("upper");
        copy(&upper, &tmpfs.join("upper"));
        for kept in ["store", "disk"] {
            cluster::dir(top.join(kept));
            let written = self.cluster.path(kept).join(&node);
            if exists(&written) {
                copy(&written, &cluster::dir(top.join(kept).join(&node)));
            }
        }
        if let Some(store) = &mut spec.store {
            store.location.path = top.join("store");
        }
        let shared = Shared::new(&config);
        let twin = Planned::of(spec, &config).unwrap();
        let mut prepared = build::prepared(&twin, &config, Use::Mount, &shared).unwrap();
        // By which symlinks of the image the rules' paths lead is settled when tables are read.
        prepared.spec.rules = plan.rules().clone();
        let view = prepared.view().unwrap().view;
        let mounted = Mounted::new(view, &shared, &top.join("root"));
        look(&mounted.at)
    }

    /// Has every view cache all that there is, and that these are not.
    pub(crate) fn warm(&self, also: &[PathBuf]) {
        for view in &self.views {
            kinds(&view.at, also);
            take(&view.at);
        }
    }

    /// Every view is as one that was just mounted.
    #[track_caller]
    pub(crate) fn assert_true(&self, also: &[PathBuf], what: &str) {
        for (n, view) in self.views.iter().enumerate() {
            let look = |root: &Path| (take(root), kinds(root, also));
            assert_as_fresh(n, &look(&view.at), &self.fresh(n, look), also, what);
        }
    }

    /// Makes a change below views that have all of it cached, and looks at them: that has all of it
    /// cached for the next.
    #[track_caller]
    pub(crate) fn shows(&self, also: &[PathBuf], what: &str, change: impl FnOnce()) {
        change();
        self.settle();
        self.assert_true(also, what);
    }

    /// A file is, and says, the same in every view.
    #[track_caller]
    pub(crate) fn says(&self, path: &str, text: &str) {
        for (n, view) in self.views.iter().enumerate() {
            let found = read(view.at(path)).unwrap();
            let found = String::from_utf8_lossy(&found);
            assert_eq!(found, text, "{path} of view {n}");
            let size = lstat(view.at(path)).unwrap().st_size;
            assert_eq!(size, text.len() as i64, "{path} of view {n}");
        }
    }
}

/// A tree without what depends on where the stores are: the log names them, and they are shown raw.
fn take(root: &Path) -> Tree {
    let mut tree = snapshot::take(root, ALL);
    assert!(tree.remove(Path::new(".statelite/statelite.log")).is_some());
    for (path, node) in &mut tree {
        if path.starts_with(".statelite") {
            node.mtime = None;
        }
    }
    tree
}
