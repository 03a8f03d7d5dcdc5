//! A daemon over a cluster, stopped and its mounts counted when it is dropped.
#![allow(dead_code)]

use std::ops::Deref;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::{Cluster, eventually, text};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

pub struct Daemon<'a> {
    cluster: &'a Cluster,
    child: Option<Child>,
    manager: UnixDatagram,
    log: PathBuf,
}

impl Deref for Daemon<'_> {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// The cluster's keys for a daemon.
pub fn prepare(c: &Cluster) {
    c.set("root", &c.quoted("roots"));
    c.set("control", &c.quoted("run/control.sock"));
    c.set("tmpfs_size", "\"16M\"");
    // Every command that a test runs writes the tables.
    c.set("watch_tables", "false");
}

impl<'a> Daemon<'a> {
    /// One that has tried every node.
    pub fn start(cluster: &'a Cluster) -> Self {
        Self::with(cluster, &[])
    }

    pub fn with(cluster: &'a Cluster, args: &[&str]) -> Self {
        prepare(cluster);
        let daemon = Self::launch(cluster, args);
        daemon.told("READY=1");
        daemon
    }

    pub fn launch(cluster: &'a Cluster, args: &[&str]) -> Self {
        let program = env!("CARGO_BIN_EXE_statelite");
        Self::of(cluster, Path::new(program), args)
    }

    /// One of a program of its own.
    pub fn of(cluster: &'a Cluster, program: &Path, args: &[&str]) -> Self {
        let path = cluster.path("run/notify");
        std::fs::remove_file(&path).ok();
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(LONG)).unwrap();
        let log = cluster.path("log");
        let out = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&log);
        let said = cluster.command(&["serve"]);
        let mut command = std::process::Command::new(program);
        command.args(said.get_args());
        command.envs(
            said.get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        let child = command
            .args(args)
            .env("NOTIFY_SOCKET", &path)
            .env("STATELITE_TEST_STUCK", cluster.path("stuck"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out.unwrap())
            .spawn()
            .unwrap();
        Self {
            cluster,
            child: Some(child),
            manager,
            log,
        }
    }

    /// Waits for a message to the service manager that has this line; returns the whole.
    #[track_caller]
    pub fn told(&self, line: &str) -> String {
        let mut heard = String::new();
        let mut buf = [0; 4096];
        loop {
            let Ok(n) = self.manager.recv(&mut buf) else {
                panic!("{line} was not told, but\n{heard}{}", self.log());
            };
            let message = String::from_utf8(buf[..n].into()).unwrap();
            if message.lines().any(|found| found.starts_with(line)) {
                return message;
            }
            heard.push_str(&message);
            heard.push('\n');
        }
    }

    /// Is the service manager told anything, within half a second?
    pub fn tells(&self) -> bool {
        let soon = std::time::Duration::from_millis(500);
        self.manager.set_read_timeout(Some(soon)).unwrap();
        let told = self.manager.recv(&mut [0; 4096]).is_ok();
        self.manager.set_read_timeout(Some(LONG)).unwrap();
        told
    }

    /// Passes over what the service manager was told up to now.
    pub fn forget_told(&self) {
        self.manager.set_nonblocking(true).unwrap();
        while self.manager.recv(&mut [0; 4096]).is_ok() {}
        self.manager.set_nonblocking(false).unwrap();
    }

    pub fn log(&self) -> String {
        text(&self.log)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// The process that serves.
    pub fn worker(&self) -> Pid {
        let pid = self.status()["daemon"]["worker"]["pid"].as_i64().unwrap();
        Pid::from_raw(pid as i32).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end; its exit code.
    pub fn end(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// A path in a node's root.
    pub fn at(&self, node: u32, path: &str) -> PathBuf {
        self.root(node).join(path)
    }

    pub fn root(&self, node: u32) -> PathBuf {
        self.path("roots").join(self.node(node))
    }

    /// `status --json` of all nodes.
    pub fn status(&self) -> Value {
        json(&self.run(&["--json", "status"]))
    }

    /// One node's part of it.
    pub fn status_of(&self, node: u32) -> Value {
        node_of(&self.status(), &self.node(node)).clone()
    }

    #[track_caller]
    pub fn comes_to_be(&self, node: u32, state: &str) -> Value {
        eventually(&format!("node {node} is {state}"), || {
            self.status_of(node)["state"] == state
        });
        self.status_of(node)
    }

    /// `reload --json` that is taken.
    #[track_caller]
    pub fn reload(&self) -> Value {
        let reloaded = json(&self.run(&["--json", "reload"]));
        assert_eq!(reloaded["applied"], true, "{reloaded}");
        reloaded
    }

    /// Mount points below the cluster's roots.
    pub fn mounts(&self) -> Vec<String> {
        mounts_below(&self.path("roots"))
    }
}

pub fn mounts_below(dir: &Path) -> Vec<String> {
    let dir = format!("{}/", dir.display());
    let table = text("/proc/self/mountinfo");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(|point| point.starts_with(&dir))
        .map(String::from)
        .collect()
}

#[track_caller]
/// One node's part of what says something of several.
pub fn node_of<'a>(all: &'a Value, name: &str) -> &'a Value {
    let nodes = all["nodes"].as_array().unwrap();
    let found = nodes.iter().find(|node| node["node"] == name);
    found.unwrap_or_else(|| panic!("{name} in {all}"))
}

pub fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), Signal::TERM).ok();
            child.wait().ok();
        }
        for point in self.mounts() {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(&point, flags).ok();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("the end of the daemon's log:\n{}", last.join("\n"));
        }
    }
}
