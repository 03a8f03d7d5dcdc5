//! Processes that stand still, and what waits for them.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, dir, eventually, put, text};

/// A process that is stopped, until this is dropped: a test that fails is not to wait for it.
pub struct Stopped(Pid);

impl Stopped {
    pub fn new(process: Pid) -> Stopped {
        kill_process(process, Signal::STOP).unwrap();
        let stopped = Stopped(process);
        // One thread takes the signal, and the others go on until that one has run.
        let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
        eventually("all its threads stand still", || {
            let mut tasks = std::fs::read_dir(&tasks).unwrap();
            tasks.all(|task| text(task.unwrap().path().join("status")).contains("T (stopped)"))
        });
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).unwrap();
    }
}

/// The litetree of node 1 is a file system whose server can be stopped: a view of its own.
pub struct Hanging {
    pub trees: [PathBuf; 2],
    server: std::process::Child,
}

impl Hanging {
    pub fn below(c: &Cluster) -> Self {
        c.table(
            "litetree",
            "#priority,image,directory,mntopts\n\"1\",\"ALL\",\"@/trees/$node\",\n",
        );
        let (lower, upper, work) = (c.path("sl"), c.path("su"), c.path("sw"));
        let trees = [1, 2].map(|node| c.path("trees").join(c.node(node)));
        for made in [&lower, &upper, &work, &trees[0], &trees[1]] {
            dir(made);
        }
        put(lower.join("home/early"), "tree\n");
        put(lower.join("home/late"), "tree\n");
        let server = c
            .command(&["mount", "--foreground", "--lower"])
            .arg(&lower)
            .arg("--upper")
            .arg(&upper)
            .arg("--work")
            .arg(&work)
            .arg(&trees[0])
            .spawn()
            .unwrap();
        let outside = crate::cluster::stat(c.path(".")).dev();
        eventually("the litetree is mounted", || {
            crate::cluster::stat(&trees[0]).dev() != outside
        });
        Self { trees, server }
    }

    /// Until what this returns is dropped, which is to be before the daemon that waits for it is.
    pub fn stop(&self) -> Stopped {
        Stopped::new(Pid::from_child(&self.server))
    }

    /// Nobody uses it any more.
    pub fn end(mut self) {
        eventually("the litetree is unmounted", || {
            rustix::mount::unmount(&self.trees[0], rustix::mount::UnmountFlags::empty()).is_ok()
        });
        assert!(self.server.wait().unwrap().success());
    }
}

impl Drop for Hanging {
    /// A failed test leaves no process that is stopped.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.server.kill().ok();
            rustix::mount::unmount(&self.trees[0], rustix::mount::UnmountFlags::DETACH).ok();
            self.server.wait().ok();
        }
    }
}
