//! Who does something: a thread with credentials, umask, root and working directory of its own.
//!
//! To the kernel a thread that has unshared these is as good as a process, and unlike a forked child
//! it may allocate, panic and return a value in a test program that has other threads.

use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};

use super::sys;

/// An identity to run a closure with.
#[derive(Clone, Debug)]
pub struct Who {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    root: Option<PathBuf>,
    cwd: Option<PathBuf>,
    own_files: bool,
}

impl Who {
    /// root with umask 022.
    pub fn root() -> Self {
        Self::user(0, 0)
    }

    /// A user with no supplementary groups and umask 022.
    pub fn user(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            groups: Vec::new(),
            umask: 0o022,
            root: None,
            cwd: None,
            own_files: false,
        }
    }

    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.groups = groups.to_vec();
        self
    }

    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = umask;
        self
    }

    /// With `root` as its root directory, as a node has its view.
    pub fn chroot(mut self, root: &Path) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    pub fn cwd(mut self, cwd: &Path) -> Self {
        self.cwd = Some(cwd.to_owned());
        self
    }

    /// With a table of open files of its own: another process where record locks are concerned. It
    /// starts empty, so what runs so may use no file that was opened before.
    pub fn own_files(mut self) -> Self {
        self.own_files = true;
        self
    }

    /// Makes the calling thread this identity, for good.
    pub fn become_it(&self) {
        sys::unshare_fs();
        if self.own_files {
            sys::unshare_files();
        }
        if let Some(root) = &self.root {
            rustix::process::chroot(root).unwrap();
            rustix::process::chdir("/").unwrap();
        }
        if let Some(cwd) = &self.cwd {
            rustix::process::chdir(cwd).unwrap();
        }
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        let groups: Vec<Gid> = self.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_groups(&groups).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    }

    /// Runs `f` as this identity and hands its value, or its panic, on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let outcome = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.become_it();
                    f()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// `f` as a user with exactly these groups and umask 022.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> T + Send) -> T {
    Who::user(uid, gid).groups(groups).run(f)
}
