//! Which way the kernel reads and writes: what was wished for, and what this kernel and the layers'
//! file systems allow.

use std::collections::HashSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rustix::fs::OFlags;

use super::passthrough::Passed;
use crate::fs::{Backing, IoMode};
use crate::keep::State;
use crate::keep::opens::Registered;
use crate::sys::obj;

/// Which way one mount's files are read and written.
#[derive(Debug)]
pub struct IoNow {
    wished: IoMode,
    /// The kernel offers to read and write by itself, and lets this process use that.
    offered: AtomicBool,
    /// File systems whose files it does not take.
    refused: RwLock<HashSet<u64>>,
    session: OnceLock<(Arc<OwnedFd>, Arc<State>)>,
}

impl IoNow {
    pub(super) fn new(wished: IoMode) -> IoNow {
        IoNow {
            wished,
            offered: AtomicBool::new(false),
            refused: RwLock::default(),
            session: OnceLock::new(),
        }
    }

    /// The mount whose kernel side is handed files.
    pub(super) fn serve(&self, device: Arc<OwnedFd>, state: Arc<State>) {
        // Nobody has set it: a session is served once.
        self.session.get_or_init(|| (device, state));
    }

    /// A file that the kernel was handed by a worker before this one.
    pub(super) fn taken_over(&self, id: u32, noted: Registered) -> Option<Backing> {
        let (device, _) = self.session.get()?;
        Some(Arc::new(Passed::taken_over(device, id, noted)))
    }

    /// What it really is: `Daemon` where passthrough is wished for and cannot be had.
    pub fn mode(&self) -> IoMode {
        match self.wished {
            IoMode::Passthrough if !self.offered.load(Ordering::Relaxed) => IoMode::Daemon,
            wished => wished,
        }
    }

    /// Devices (st_dev) whose files go through the daemon although passthrough is in use.
    pub fn refused(&self) -> Vec<u64> {
        self.refused.read().iter().copied().collect()
    }

    pub(super) fn offer(&self) {
        self.offered.store(true, Ordering::Relaxed);
    }

    /// Hands a file to the kernel.
    pub(super) fn register(&self, fd: BorrowedFd<'_>, device: u64) -> Option<Backing> {
        use std::os::fd::AsFd;
        if self.mode() != IoMode::Passthrough || self.refused.read().contains(&device) {
            return None;
        }
        let (session, state) = self.session.get()?;
        let hand = |file: BorrowedFd<'_>| Passed::hand(session, state, file);
        let handed = match hand(fd) {
            // Older kernels do not take one that only names the file.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
                match obj::reopen(fd, OFlags::RDONLY) {
                    Ok(open) => hand(open.as_fd()),
                    Err(error) => Err(error.into()),
                }
            }
            handed => handed,
        };
        match handed {
            Ok(passed) => Some(Arc::new(passed)),
            Err(error) => {
                self.refuse(device, &error);
                None
            }
        }
    }

    fn refuse(&self, device: u64, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS) => {
                if self.offered.swap(false, Ordering::Relaxed) {
                    tracing::info!(%error, "the kernel allows no passthrough: the daemon reads and writes");
                }
            }
            // One more file system on top of it would be too many.
            Some(libc::ELOOP) => {
                if self.refused.write().insert(device) {
                    let (major, minor) = (libc::major(device), libc::minor(device));
                    tracing::info!(
                        device = %format_args!("{major}:{minor}"),
                        "no passthrough to a stacked file system: the daemon reads and writes its files"
                    );
                }
            }
            _ => tracing::debug!(%error, "a file that the kernel did not take"),
        }
    }
}
