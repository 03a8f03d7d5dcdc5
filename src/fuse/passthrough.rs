//! Files that the kernel was handed: what it takes, and their end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::fs::Handle;
use crate::keep::State;
use crate::keep::opens::Registered;
use crate::sys::{Errno, fusemount};

/// A file in the kernel's hands until this is dropped.
#[derive(Debug)]
pub(super) struct Passed {
    device: Arc<OwnedFd>,
    id: u32,
    /// Noted for the next worker: a second backing for a file that is open by the first is EIO for whoever opens it.
    _noted: Registered,
}

impl Passed {
    /// Hands it over.
    ///
    /// # Errors
    /// The kernel's; EMFILE where the next worker could not be told.
    pub(super) fn hand(
        device: &Arc<OwnedFd>,
        state: &Arc<State>,
        file: BorrowedFd<'_>,
    ) -> std::io::Result<Passed> {
        let id = fuser::BackingId::create_raw(device, file)?;
        let Some(noted) = state.registered(id) else {
            close(device, id);
            return Err(Errno::MFILE.into());
        };
        Ok(Passed::taken_over(device, id, noted))
    }

    /// One that a worker before this one has handed over.
    pub(super) fn taken_over(device: &Arc<OwnedFd>, id: u32, noted: Registered) -> Passed {
        Passed {
            device: device.clone(),
            id,
            _noted: noted,
        }
    }
}

impl Handle for Passed {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        close(&self.device, self.id);
    }
}

fn close(device: &OwnedFd, id: u32) {
    match fusemount::close_backing(device.as_fd(), id) {
        // The mount is gone, and with it all that it had; or the worker before this one was killed
        // when it had just done this.
        Ok(()) | Err(Errno::PERM | Errno::NODEV | Errno::NOTCONN | Errno::NOENT) => {}
        Err(error) => tracing::warn!(id, %error, "a file stays with the kernel"),
    }
}
