//! What is counted for one node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam::utils::CachePadded;

use super::op::{OPS, Op};
use super::shared::Shared;

/// What is looked at when somebody asks, not counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Figures {
    /// Inodes that the node's kernel holds.
    pub inodes: u64,
    /// Bytes used and size of the node's tmpfs, where it has one.
    pub tmpfs: Option<(u64, u64)>,
}

type Look = Box<dyn Fn() -> Option<Figures> + Send + Sync>;

/// Counts one session's requests; held by what serves them. Where metrics are off it counts
/// how many have come, were answered and panicked, and looks at no clock.
pub struct Node {
    name: String,
    counts: CachePadded<Counts>,
    observed: Option<Observed>,
}

struct Observed {
    shared: Arc<Shared>,
    look: Look,
}

/// Lines of their own: no other session's thread touches them.
#[derive(Debug)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    nanos: AtomicU64,
    errors: AtomicU64,
    failures: AtomicU64,
    panics: AtomicU64,
    requests: [AtomicU64; OPS],
}

/// When a request began; the clock is read only where somebody wants to know.
#[derive(Clone, Copy, Debug)]
#[must_use = "a request that begins also finishes"]
pub struct Begun(Option<Instant>);

/// A node's counts at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) requests: [u64; OPS],
    pub(super) nanos: u64,
    pub(super) errors: u64,
    pub(super) failures: u64,
    pub(super) figures: Option<Figures>,
}

impl Node {
    /// One that no registry knows.
    pub fn unobserved(name: &str) -> Arc<Node> {
        Self::new(name, None)
    }

    pub(super) fn observed(name: &str, shared: Arc<Shared>, look: Look) -> Arc<Node> {
        Self::new(name, Some(Observed { shared, look }))
    }

    fn new(name: &str, observed: Option<Observed>) -> Arc<Node> {
        Arc::new(Node {
            name: name.to_owned(),
            counts: CachePadded::new(Counts {
                begun: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                nanos: AtomicU64::new(0),
                errors: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                panics: AtomicU64::new(0),
                requests: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
            observed,
        })
    }

    /// The value of the label `node`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request has come in. Through the vDSO this takes about 20 ns; where the kernel's clock
    /// source needs a system call, it takes what that costs ([`super::clock`]).
    pub fn begin(&self) -> Begun {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        Begun(self.observed.as_ref().map(|_| Instant::now()))
    }

    /// How many requests were answered, and how many are in flight.
    pub fn progress(&self) -> (u64, u64) {
        // In this order: what ends in between is not taken for one that is in flight.
        let begun = self.counts.begun.load(Ordering::Acquire);
        let ended = self.counts.ended.load(Ordering::Acquire);
        (ended, begun.saturating_sub(ended))
    }

    /// It has been answered, with this errno or 0.
    pub fn finish(&self, op: Op, begun: Begun, errno: i32) {
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        let Some(Observed { shared, .. }) = &self.observed else {
            return;
        };
        self.counts.requests[op as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(begun) = begun.0 {
            let nanos = begun.elapsed().as_nanos() as u64;
            self.counts.nanos.fetch_add(nanos, Ordering::Relaxed);
            shared.took(op, nanos);
        }
        if errno != 0 {
            self.counts.errors.fetch_add(1, Ordering::Relaxed);
            shared.failed(op, errno);
            if is_failure(errno) {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A request panicked; the answer is how many did.
    pub fn panicked(&self) -> u64 {
        if let Some(observed) = &self.observed {
            observed.shared.panicked();
        }
        self.counts.panics.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// So many bytes of a file's contents were read through the daemon.
    pub fn read(&self, bytes: usize) {
        if let Some(observed) = &self.observed {
            observed.shared.read(bytes as u64);
        }
    }

    /// So many were written.
    pub fn written(&self, bytes: usize) {
        if let Some(observed) = &self.observed {
            observed.shared.written(bytes as u64);
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            requests: std::array::from_fn(|op| load(&self.counts.requests[op])),
            nanos: load(&self.counts.nanos),
            errors: load(&self.counts.errors),
            failures: load(&self.counts.failures),
            figures: self.observed.as_ref().and_then(|o| (o.look)()),
        }
    }
}

/// Errors that no program reckons with: what is logged as a warning.
pub fn is_failure(errno: i32) -> bool {
    matches!(
        errno,
        libc::EIO | libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE
    )
}

impl Default for Totals {
    fn default() -> Totals {
        Totals {
            requests: [0; OPS],
            nanos: 0,
            errors: 0,
            failures: 0,
            figures: None,
        }
    }
}

impl Totals {
    /// Two sessions of one name, as while a node is mounted anew, are one series.
    pub(super) fn add(&mut self, other: &Totals) {
        for (sum, count) in self.requests.iter_mut().zip(other.requests) {
            *sum += count;
        }
        self.nanos += other.nanos;
        self.errors += other.errors;
        self.failures += other.failures;
        self.figures = other.figures.or(self.figures);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        let bytes = size_of::<Node>() + 2 * size_of::<usize>();
        assert!(bytes < 1024, "{bytes} bytes, with the counts of its Arc");
    }

    #[test]
    fn one_that_nobody_observes_counts_only_panics() {
        let node = Node::unobserved("n1");
        let begun = node.begin();
        assert!(begun.0.is_none(), "no clock is read");
        node.finish(Op::Read, begun, libc::EIO);
        node.read(1);
        node.written(1);
        let totals = node.totals();
        assert_eq!((totals.requests, totals.errors), ([0; OPS], 0));
        assert_eq!((node.panicked(), node.panicked()), (1, 2));
    }
}
