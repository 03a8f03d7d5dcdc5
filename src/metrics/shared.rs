//! Counters of all nodes together, in shards: a thread counts in a shard of its own as long as there
//! are no more threads than shards, so that processors don't take cache lines from one another. They
//! are summed when somebody asks.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

use super::errno::{self, ERRNOS};
use super::op::{OPS, Op};

/// More than these are not worth their memory (40 KiB each).
const MOST_SHARDS: usize = 32;
/// The first bound of a histogram is 2^11 ns, and each next one is the double.
const FIRST_BOUND: u32 = 11;
/// With the one that has no bound, and the sum, these fill three cache lines.
const BOUNDS: usize = 22;

/// The upper bounds of a histogram's buckets in nanoseconds: 2 µs to 4.3 s.
pub(super) fn bounds() -> impl Iterator<Item = u64> {
    (0..BOUNDS as u32).map(|n| 1 << (FIRST_BOUND + n))
}

/// The bucket of a duration. A bound belongs to its bucket.
fn bucket(nanos: u64) -> usize {
    let above = nanos.saturating_sub(1) >> FIRST_BOUND;
    ((u64::BITS - above.leading_zeros()) as usize).min(BOUNDS)
}

/// How long requests of one operation took.
#[derive(Debug)]
#[repr(align(64))]
struct Times {
    buckets: [AtomicU64; BOUNDS + 1],
    nanos: AtomicU64,
}

/// The same as plain numbers; buckets are not summed up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimesRead {
    pub(super) buckets: [u64; BOUNDS + 1],
    pub(super) nanos: u64,
}

#[derive(Debug)]
struct Shard {
    times: [Times; OPS],
    errors: Box<[[AtomicU64; ERRNOS]]>,
    read: AtomicU64,
    written: AtomicU64,
}

impl Shard {
    fn new() -> Shard {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Shard {
            times: std::array::from_fn(|_| Times {
                buckets: std::array::from_fn(|_| AtomicU64::new(0)),
                nanos: AtomicU64::new(0),
            }),
            errors: (0..OPS).map(|_| zeros()).collect(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }
}

/// All shards.
#[derive(Debug)]
pub(super) struct Shared {
    shards: Box<[CachePadded<Shard>]>,
    panics: AtomicU64,
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// This thread's number, given at its first request.
fn thread_number() -> usize {
    match THREAD.get() {
        usize::MAX => {
            let number = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
            THREAD.set(number);
            number
        }
        number => number,
    }
}

impl Shared {
    pub(super) fn new() -> Shared {
        // Where the number of processors can't be known, few threads are likely.
        let processors = std::thread::available_parallelism().map_or(4, usize::from);
        let shards = processors.next_power_of_two().min(MOST_SHARDS);
        Shared {
            shards: (0..shards).map(|_| Shard::new().into()).collect(),
            panics: AtomicU64::new(0),
        }
    }

    fn shard(&self) -> &Shard {
        &self.shards[thread_number() & (self.shards.len() - 1)]
    }

    pub(super) fn took(&self, op: Op, nanos: u64) {
        let times = &self.shard().times[op as usize];
        times.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        times.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, op: Op, errno: i32) {
        self.shard().errors[op as usize][errno::slot(errno)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.shard().read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: u64) {
        self.shard().written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn times(&self, op: Op) -> TimesRead {
        let mut sum = TimesRead::default();
        for shard in &self.shards {
            let times = &shard.times[op as usize];
            for (sum, bucket) in sum.buckets.iter_mut().zip(&times.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sum.nanos += times.nanos.load(Ordering::Relaxed);
        }
        sum
    }

    fn sum(&self, counter: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        let loaded = |shard: &CachePadded<Shard>| counter(shard).load(Ordering::Relaxed);
        self.shards.iter().map(loaded).sum()
    }

    /// Each errno that an operation was answered with, and how often.
    pub(super) fn errors(&self, op: Op) -> impl Iterator<Item = (usize, u64)> {
        (0..ERRNOS)
            .map(move |slot| (slot, self.sum(|shard| &shard.errors[op as usize][slot])))
            .filter(|(_, count)| *count > 0)
    }

    /// Bytes of file contents: read, written.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sum(|s| &s.read), self.sum(|s| &s.written))
    }

    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_the_first_bound_that_is_not_smaller() {
        let bounds: Vec<u64> = bounds().collect();
        let mut probes = vec![0, 1, u64::MAX];
        for bound in &bounds {
            probes.extend([bound - 1, *bound, bound + 1]);
        }
        for nanos in probes {
            let expected = bounds.iter().position(|b| nanos <= *b);
            assert_eq!(bucket(nanos), expected.unwrap_or(BOUNDS), "{nanos} ns");
        }
        assert_eq!(size_of::<Times>(), 192, "three cache lines");
    }

    #[test]
    fn what_many_threads_count_adds_up() {
        let shared = Shared::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..1000 {
                        shared.took(Op::Lookup, n);
                        shared.failed(Op::Lookup, libc::ENOENT);
                        shared.read(2);
                        shared.written(3);
                    }
                });
            }
        });
        let times = shared.times(Op::Lookup);
        assert_eq!(times.buckets.iter().sum::<u64>(), 8000);
        assert_eq!(times.nanos, 8 * 999 * 500);
        let errors: Vec<_> = shared.errors(Op::Lookup).collect();
        assert_eq!(errors, [(libc::ENOENT as usize, 8000)]);
        assert_eq!(shared.bytes(), (16_000, 24_000));
        assert_eq!(shared.errors(Op::Read).count(), 0);
    }
}
