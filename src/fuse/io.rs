//! Which way the kernel reads and writes: what was wished for, and what this kernel and the layers'
//! file systems allow.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::BackingId;
use parking_lot::RwLock;
use rustix::fs::OFlags;

use crate::fs::{Backing, IoMode, Opened};
use crate::sys::obj;

/// Which way one mount's files are read and written.
#[derive(Debug)]
pub struct IoNow {
    wished: IoMode,
    /// The kernel offers to read and write by itself, and lets this process use that.
    offered: AtomicBool,
    /// File systems whose files it does not take.
    refused: RwLock<HashSet<u64>>,
}

impl IoNow {
    pub(super) fn new(wished: IoMode) -> IoNow {
        IoNow {
            wished,
            offered: AtomicBool::new(false),
            refused: RwLock::default(),
        }
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
    pub(super) fn register(
        &self,
        fd: BorrowedFd<'_>,
        device: u64,
        hand: impl Fn(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Option<Backing> {
        use std::os::fd::AsFd;
        if self.mode() != IoMode::Passthrough || self.refused.read().contains(&device) {
            return None;
        }
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
            Ok(id) => Some(Arc::new(id)),
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

/// What the kernel knows an open file's backing by.
pub(super) fn backing_id(opened: &Opened) -> Option<&BackingId> {
    opened.backing.as_ref()?.downcast_ref()
}
