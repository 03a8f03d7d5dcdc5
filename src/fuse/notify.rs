//! What the kernel is told of changes that it did not make itself. The messages are put together
//! here: the crate's own notifier knows neither of expiry nor of epochs (include/uapi/linux/fuse.h,
//! `fuse_out_header`, with the kind of message for an errno and no `unique`).
//!
//! Never to be sent with a lock held, nor (but for [`Notifier::attributes`]) by the thread that answers requests: the kernel waits for
//! requests in the directory that a message is about.

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fs::{Drop, Notice};
use crate::sys::{Errno, Res};

const INVAL_INODE: i32 = 2;
const INVAL_ENTRY: i32 = 3;
/// Linux 6.16: every name is thrown away when it is next used, with what is mounted below.
const INC_EPOCH: i32 = 8;
/// Linux 6.9: what was read and not answered is handed out again.
const RESEND: i32 = 7;
/// The name is asked for again, and stays if it is still the same object (Linux 6.2). Without this
/// the kernel throws it away with all below, mounts included.
const EXPIRE_ONLY: u32 = 1;

/// Tells one mount's kernel side.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Arc<OwnedFd>,
    epochs: Arc<AtomicBool>,
    expires: Arc<AtomicBool>,
}

impl Notifier {
    pub(super) fn new(device: Arc<OwnedFd>) -> Notifier {
        Notifier {
            device,
            epochs: Arc::new(AtomicBool::new(true)),
            expires: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Tells of one thing.
    ///
    /// # Errors
    /// `ENODEV`, `ENOTCONN` where the mount is gone.
    pub fn tell(&self, notice: &Notice) -> Res<()> {
        match notice {
            Notice::Inode(number) => self.inode(*number).map(|_| ()),
            Notice::Entry { parent, name } => self.name(*parent, name, Drop::IfChanged),
            // No name is empty: all that the kernel does is to take the directory's lock, which
            // look-ups and listings hold until their answers are in its caches.
            Notice::Wait(dir) => self.entry(*dir, b"", EXPIRE_ONLY),
            // One by one: the kernel knows no such message.
            Notice::Tree { .. } => Ok(()),
        }
    }

    /// Tells that an inode's contents and attributes are void; false where the kernel does not hold it.
    ///
    /// # Errors
    /// As [`Notifier::tell`].
    pub fn inode(&self, number: u64) -> Res<bool> {
        let mut body = [0; 24];
        body[..8].copy_from_slice(&number.to_ne_bytes());
        // From offset 0 to the end.
        self.send(INVAL_INODE, &body, None)
    }

    /// Tells that an inode's attributes are void, its contents not. The kernel waits for nothing
    /// then, so that the thread that answers requests may send it.
    ///
    /// # Errors
    /// As [`Notifier::tell`].
    pub(super) fn attributes(&self, number: u64) -> Res<()> {
        let mut body = [0; 24];
        body[..8].copy_from_slice(&number.to_ne_bytes());
        body[8..16].copy_from_slice(&(-1i64).to_ne_bytes());
        self.send(INVAL_INODE, &body, None).map(|_| ())
    }

    /// Has the kernel hand out once more what it has no answer to.
    ///
    /// # Errors
    /// `EINVAL` where this kernel cannot; as [`Notifier::tell`].
    pub(super) fn resend(&self) -> Res<()> {
        self.send(RESEND, &[], None).map(|_| ())
    }

    /// Tells of a name.
    ///
    /// # Errors
    /// As [`Notifier::tell`].
    pub fn name(&self, parent: u64, name: &[u8], drop: Drop) -> Res<()> {
        if drop == Drop::WithAllBelow || !self.expires.load(Ordering::Relaxed) {
            return self.entry(parent, name, 0);
        }
        match self.entry(parent, name, EXPIRE_ONLY) {
            Err(Errno::INVAL) => {
                self.expires.store(false, Ordering::Relaxed);
                self.entry(parent, name, 0)
            }
            other => other,
        }
    }

    /// Tells that every name is to be asked for again; false where this kernel cannot be told so.
    ///
    /// # Errors
    /// As [`Notifier::tell`].
    pub fn all_names(&self) -> Res<bool> {
        if !self.epochs.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self.send(INC_EPOCH, &[], None) {
            Ok(_) => Ok(true),
            Err(Errno::INVAL) => {
                self.epochs.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn entry(&self, parent: u64, name: &[u8], flags: u32) -> Res<()> {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&parent.to_ne_bytes());
        body[8..12].copy_from_slice(&(name.len() as u32).to_ne_bytes());
        body[12..].copy_from_slice(&flags.to_ne_bytes());
        self.send(INVAL_ENTRY, &body, Some(name)).map(|_| ())
    }

    /// False where the kernel does not hold what this is of (any more).
    fn send(&self, what: i32, body: &[u8], name: Option<&[u8]>) -> Res<bool> {
        let named = name.map_or(0, |name| name.len() + 1);
        let mut head = [0; 16];
        let len = (head.len() + body.len() + named) as u32;
        head[..4].copy_from_slice(&len.to_ne_bytes());
        head[4..8].copy_from_slice(&what.to_ne_bytes());
        let parts = [
            IoSlice::new(&head),
            IoSlice::new(body),
            IoSlice::new(name.unwrap_or_default()),
            IoSlice::new(&[0][..usize::from(name.is_some())]),
        ];
        match rustix::io::writev(&*self.device, &parts) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(false),
            Err(e) => Err(e),
        }
    }
}
