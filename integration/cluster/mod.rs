//! A cluster to test: image, litetrees, stores and tables in a scratch directory, and nodes whose roots
//! are mounted by the program itself.
//!
//! Every cluster has node names of its own, so that tests run beside one another.
//! `STATELITE_TEST_DIR` names a directory for the scratch, on a file system that holds overlayfs'
//! whiteouts.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};

/// The image that every node runs unless a test says otherwise.
pub const IMAGE: &str = "el9-x86_64-statelite-compute";

/// The expression fails with exactly this errno.
macro_rules! fails {
    ($what:expr, $errno:ident) => {
        match $what {
            Ok(_) => panic!(
                "{} succeeded; expected {}",
                stringify!($what),
                stringify!($errno)
            ),
            Err(e) => {
                let code = std::io::Error::from(e).raw_os_error();
                assert_eq!(code, Some(libc::$errno), "{}", stringify!($what));
            }
        }
    };
}
pub(crate) use fails;

/// Waits until something is so; fails after a minute.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!(
        within(Duration::from_secs(60), &mut is_so),
        "waited a minute in vain: {what}"
    );
}

fn within(limit: Duration, is_so: &mut dyn FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Writes a file, making the directories that lead to it.
pub fn put(path: impl AsRef<Path>, contents: impl AsRef<[u8]>) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, contents).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Makes a directory and those that lead to it.
pub fn dir(path: impl AsRef<Path>) -> PathBuf {
    std::fs::create_dir_all(&path).unwrap();
    path.as_ref().into()
}

/// Makes a symlink, and the directories that lead to it.
pub fn link(target: &str, path: impl AsRef<Path>) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(target, path).unwrap();
}

/// A file's contents as text; a failure names the path.
#[track_caller]
pub fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A directory's names, sorted.
#[track_caller]
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let path = path.as_ref();
    let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Is there anything of this name? A symlink counts as itself.
pub fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().symlink_metadata().is_ok()
}

#[track_caller]
pub fn stat(path: impl AsRef<Path>) -> std::fs::Metadata {
    let path = path.as_ref();
    path.symlink_metadata()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn mode(path: impl AsRef<Path>) -> u32 {
    stat(path).mode() & 0o7777
}

pub fn chmod(path: impl AsRef<Path>, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// What is mounted at a place until this is dropped, whoever uses it then.
pub struct Detached(PathBuf);

impl Detached {
    /// A directory, shown at another place.
    pub fn bind(from: &Path, at: &Path) -> Self {
        rustix::mount::mount_bind(from, at).unwrap();
        // What is mounted below it stays its own.
        let private = rustix::mount::MountPropagationFlags::PRIVATE;
        rustix::mount::mount_change(at, private).unwrap();
        Self(at.into())
    }

    /// A file system of its own.
    pub fn tmpfs(at: &Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("inner", at, "tmpfs", flags, None).unwrap();
        Self(at.into())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
    }
}

/// A tmpfs, unmounted when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn on(at: &Path) -> Self {
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::empty(), None).unwrap();
        Self(at.into())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Unmounts, and where it stays busy (another test's child may hold a descriptor for a moment)
/// takes it out of the tree.
fn unmount(at: &Path) {
    let gone = within(Duration::from_secs(10), &mut || {
        rustix::mount::unmount(at, UnmountFlags::empty()) != Err(rustix::io::Errno::BUSY)
    });
    if !gone {
        rustix::mount::unmount(at, UnmountFlags::DETACH).ok();
    }
}

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Image, litetrees, stores, tables and configuration. Two litetrees, `tree(1)` before `tree(2)`, a
/// persistent store and a local disk are set up; tests change what they need.
pub struct Cluster {
    base: tempfile::TempDir,
    tag: String,
    /// litefile: image, path, options.
    rules: RefCell<Vec<[String; 3]>>,
    settings: RefCell<BTreeMap<String, String>>,
    /// Whole tables in the place of those that are made from the above.
    tables: RefCell<BTreeMap<String, String>>,
    nodes: usize,
}

impl Cluster {
    /// One node, with these litefile rows for every image.
    pub fn new(rules: &[(&str, &str)]) -> Self {
        let top =
            std::env::var_os("STATELITE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let base = tempfile::Builder::new()
            .prefix("statelite-cluster.")
            .tempdir_in(top)
            .unwrap();
        chmod(base.path(), 0o755).unwrap();
        let n = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let cluster = Self {
            base,
            tag: format!("t{}c{n}n", std::process::id()),
            rules: RefCell::default(),
            settings: RefCell::default(),
            tables: RefCell::default(),
            nodes: 2,
        };
        for path in [
            "image/rootimg",
            "tree1",
            "tree2",
            "store",
            "disk",
            "tables",
            "tmpfs",
            "view",
            "run",
        ] {
            dir(cluster.path(path));
        }
        for name in ["tables", "tmpfs"] {
            cluster.set(
                &format!("{name}{}", if name == "tmpfs" { "_dir" } else { "" }),
                &cluster.quoted(name),
            );
        }
        cluster.set("localdisk_dir", &cluster.quoted("disk"));
        for (path, options) in rules {
            cluster.rule(path, options);
        }
        cluster
    }

    /// With so many nodes.
    pub fn of(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The same nodes on another server: by the same tables, which this one writes, so over the same image, litetrees and
    /// stores; with a directory of its own for everything else.
    pub fn on_another_server(&self) -> Self {
        let mut other = Self::new(&[]).of(self.nodes);
        other.tag.clone_from(&self.tag);
        other.set("tables", &self.quoted("tables"));
        other
    }

    /// A path of the server, in this cluster's scratch.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.path().join(path)
    }

    /// The same as a TOML string.
    pub fn quoted(&self, path: impl AsRef<Path>) -> String {
        format!("\"{}\"", self.path(path).display())
    }

    pub fn image(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path("image/rootimg").join(path)
    }

    pub fn tree(&self, n: u32, path: impl AsRef<Path>) -> PathBuf {
        self.path(format!("tree{n}")).join(path)
    }

    /// What a node has in its persistent store.
    pub fn store(&self, node: u32, path: impl AsRef<Path>) -> PathBuf {
        self.path("store").join(self.node(node)).join(path)
    }

    pub fn disk(&self, node: u32, path: impl AsRef<Path>) -> PathBuf {
        self.path("disk").join(self.node(node)).join(path)
    }

    /// What a node has in its tmpfs upper.
    pub fn tmpfs(&self, node: u32, path: impl AsRef<Path>) -> PathBuf {
        self.path("tmpfs")
            .join(self.node(node))
            .join("upper")
            .join(path)
    }

    /// A node's name.
    pub fn node(&self, node: u32) -> String {
        format!("{}{node}", self.tag)
    }

    /// One more litefile row.
    pub fn rule(&self, path: &str, options: &str) {
        self.rule_of("ALL", path, options);
    }

    pub fn rule_of(&self, image: &str, path: &str, options: &str) {
        let row = [image, path, options].map(String::from);
        self.rules.borrow_mut().push(row);
    }

    /// A key of the configuration and its value in TOML.
    pub fn set(&self, key: &str, value: &str) {
        self.settings.borrow_mut().insert(key.into(), value.into());
    }

    /// A whole table; `@` stands for the scratch directory, `%1` for the name of node 1.
    pub fn table(&self, name: &str, text: &str) {
        self.tables.borrow_mut().insert(name.into(), text.into());
    }

    /// Writes tables and configuration; returns the latter's path.
    pub fn write(&self) -> PathBuf {
        let mut tables = BTreeMap::new();
        let mut litefile = String::from("#image,file,options,comments,disable\n");
        for [image, path, options] in self.rules.borrow().iter() {
            writeln!(litefile, "\"{image}\",\"{path}\",\"{options}\",,").unwrap();
        }
        tables.insert("litefile".to_owned(), litefile);
        let mut nodelist = String::from("#node,groups,comments,disable\n");
        for node in 1..=self.nodes {
            writeln!(nodelist, "\"%{node}\",\"compute,all\",,").unwrap();
        }
        let fixed = [
            ("nodelist", &nodelist[..]),
            (
                "nodetype",
                "#node,os,arch,profile,provmethod\n\"compute\",\"el9\",\"x86_64\",\"compute\",\"statelite\"\n",
            ),
            (
                "osimage",
                "#imagename,groups,profile,provmethod\n\"el9-x86_64-statelite-compute\",\"diskless\",\"compute\",\"statelite\"\n",
            ),
            (
                "linuximage",
                "#imagename,rootimgdir\n\"el9-x86_64-statelite-compute\",\"@/image\"\n",
            ),
            (
                "litetree",
                "#priority,image,directory,mntopts\n\"1\",\"ALL\",\"@/tree1\",\n\"2\",\"ALL\",\"@/tree2\",\n",
            ),
            (
                "statelite",
                "#node,image,statemnt,mntopts\n\"compute\",,\"@/store\",\n",
            ),
        ];
        for (name, text) in fixed {
            tables.insert(name.into(), text.into());
        }
        tables.extend(self.tables.borrow().clone());
        for (name, text) in tables {
            let mut text = text.replace('@', self.base.path().to_str().unwrap());
            for node in 1..=self.nodes as u32 {
                text = text.replace(&format!("%{node}"), &self.node(node));
            }
            put(self.path(format!("tables/{name}.csv")), text);
        }
        let mut config = String::new();
        for (key, value) in self.settings.borrow().iter() {
            writeln!(config, "{key} = {value}").unwrap();
        }
        let path = self.path("statelite.toml");
        put(&path, config);
        path
    }

    /// Runs the program with this cluster's configuration.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// The same, to be run by the caller.
    pub fn command(&self, args: &[&str]) -> Command {
        let config = self.write();
        let mut command = Command::new(env!("CARGO_BIN_EXE_statelite"));
        command.arg("--config").arg(config).args(args);
        // What a test puts there stands in for a program of the system.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command
    }

    /// Everything that a command prints.
    pub fn says(&self, args: &[&str]) -> String {
        let out = self.run(args);
        format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    }

    pub fn check(&self) -> String {
        self.says(&["check"])
    }

    pub fn explain(&self, node: u32, path: &str) -> String {
        self.says(&["explain", &self.node(node), path])
    }

    /// What a reboot does to a node's layers.
    pub fn reset(&self, node: u32) {
        let out = self.run(&["reset", &self.node(node)]);
        assert!(out.status.success(), "{out:?}");
    }

    /// Mounts a node's root.
    pub fn mount(&self, node: u32) -> View<'_> {
        let view = View {
            cluster: self,
            node,
            root: dir(self.path("view").join(self.node(node))),
        };
        view.start();
        view
    }

    /// What mounting a node that has no root says.
    pub fn mount_fails(&self, node: u32) -> String {
        let point = dir(self.path("view").join(self.node(node)));
        let out = self.run(&["mount", &self.node(node), point.to_str().unwrap()]);
        if out.status.success() {
            unmount(&point);
            panic!("the mount did not fail");
        }
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for entry in self
            .path("tmpfs")
            .read_dir()
            .into_iter()
            .flatten()
            .flatten()
        {
            unmount(&entry.path());
        }
    }
}

/// A node's mounted root; unmounted when dropped.
pub struct View<'a> {
    cluster: &'a Cluster,
    pub node: u32,
    pub root: PathBuf,
}

impl View<'_> {
    fn start(&self) {
        let log = self.cluster.path(format!("log{}", self.node));
        let out = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let node = self.cluster.node(self.node);
        let mut command =
            self.cluster
                .command(&["--log-file", log.to_str().unwrap(), "mount", &node]);
        // A file, not a pipe, which the daemon would hold open.
        command
            .arg(&self.root)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out);
        let status = command.status().unwrap();
        assert!(status.success(), "{command:?}: {status}\n{}", self.log());
        let outside = stat(self.cluster.base.path()).dev();
        assert_ne!(stat(&self.root).dev(), outside, "nothing is mounted");
    }

    /// All that the server wrote about this view.
    pub fn log(&self) -> String {
        text(self.cluster.path(format!("log{}", self.node)))
    }

    /// A path of the view.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// A file's contents.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        text(self.at(path))
    }

    /// Writes a file as `echo >` would; fails as it does.
    pub fn write(&self, path: &str, contents: &str) -> std::io::Result<()> {
        std::fs::write(self.at(path), contents)
    }

    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        names(self.at(path))
    }

    /// Waits until a file says this.
    #[track_caller]
    pub fn comes_to_say(&self, path: &str, contents: &str) {
        eventually(&format!("{path} says {contents:?}"), || {
            std::fs::read_to_string(self.at(path)).is_ok_and(|found| found == contents)
        });
    }

    /// The server's process ends with the mount.
    pub fn stop(&self) {
        unmount(&self.root);
        within(Duration::from_secs(20), &mut || !self.is_served());
    }

    fn is_served(&self) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let point = self.root.as_os_str().as_bytes();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes.into_iter().any(|entry| {
            // A process that ended meanwhile has no command line: that is no error here.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(b"statelite\0") && line.split(|b| *b == 0).any(|word| word == point)
        })
    }

    /// Unmounts and mounts anew, by the tables as they are now.
    pub fn remount(&self) {
        self.stop();
        self.start();
    }

    /// As after a reboot of the node.
    pub fn reboot(&self) {
        self.stop();
        self.cluster.reset(self.node);
        self.start();
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}
