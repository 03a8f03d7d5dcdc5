//! Descriptors that the process keeps although it could do without them, counted, and what share of
//! all that it may have each kind of them gets. What no kind has is left for requests.
//!
//! May not: close anything. Whoever keeps them lets go of some where there is an [`Budget::excess`].

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::sys::most_descriptors;

/// Directories of uppers that are in use.
pub static DIRECTORIES: Budget = Budget::new(1, 8);
/// Files of lower layers that were read lately.
pub static FILES: Budget = Budget::new(1, 3);
/// Files that are open in views.
pub static OPEN: Budget = Budget::new(3, 8);

/// One kind of them, in all layers and views together.
#[derive(Debug)]
pub struct Budget {
    share: (usize, usize),
    most: OnceLock<usize>,
    kept: AtomicUsize,
}

impl Budget {
    const fn new(parts: usize, of: usize) -> Budget {
        Budget {
            share: (parts, of),
            most: OnceLock::new(),
            kept: AtomicUsize::new(0),
        }
    }

    /// Counts a descriptor until it is dropped.
    pub fn keep(&'static self, fd: Arc<OwnedFd>) -> Kept {
        self.kept.fetch_add(1, Ordering::Relaxed);
        Kept { fd, budget: self }
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        let (parts, of) = self.share;
        *self.most.get_or_init(|| most_descriptors() / of * parts)
    }

    /// How many there are.
    pub fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// How many there are too many.
    pub fn excess(&self) -> usize {
        self.kept().saturating_sub(self.most())
    }
}

/// One that is counted.
#[derive(Debug)]
pub struct Kept {
    fd: Arc<OwnedFd>,
    budget: &'static Budget,
}

impl Kept {
    /// The descriptor, for whoever uses it now; it may outlive this.
    pub fn get(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.kept.fetch_sub(1, Ordering::Relaxed);
    }
}
