//! Threads for work that takes long (copying up a large file), so that a view's other requests
//! don't wait for it.
//!
//! Owns: the threads. May not: know what they do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// More are not started; what comes then waits for one of these.
const MOST: usize = 64;

/// Starts a thread where none is idle, up to a bound; they stay.
#[derive(Debug)]
pub struct Pool {
    /// Its threads' name.
    name: &'static str,
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    threads: AtomicUsize,
    idle: std::sync::Arc<AtomicUsize>,
    /// Jobs that are waiting or running.
    unfinished: std::sync::Arc<AtomicUsize>,
}

/// Counts a job until it is over, however it ends.
struct Unfinished(std::sync::Arc<AtomicUsize>);

impl Unfinished {
    fn new(count: &std::sync::Arc<AtomicUsize>) -> Unfinished {
        count.fetch_add(1, Ordering::AcqRel);
        Unfinished(count.clone())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Pool {
    fn default() -> Self {
        Pool::named("statelite-copy")
    }
}

impl Pool {
    /// One whose threads have this name, of at most 15 bytes.
    pub fn named(name: &'static str) -> Pool {
        let (jobs, waiting) = unbounded();
        Pool {
            name,
            jobs,
            waiting,
            threads: AtomicUsize::new(0),
            idle: Default::default(),
            unfinished: Default::default(),
        }
    }

    /// Runs a job on a thread of the pool; on this one where none can be had.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let unfinished = Unfinished::new(&self.unfinished);
        let job = move || {
            job();
            drop(unfinished);
        };
        if self.idle.load(Ordering::Acquire) <= self.jobs.len() {
            self.grow();
        }
        if self.threads.load(Ordering::Acquire) == 0 {
            return job();
        }
        if let Err(unsent) = self.jobs.send(Box::new(job)) {
            (unsent.0)();
        }
    }

    /// Is any job waiting or running?
    pub fn is_busy(&self) -> bool {
        self.unfinished.load(Ordering::Acquire) > 0
    }

    fn grow(&self) {
        if self.threads.fetch_add(1, Ordering::AcqRel) >= MOST {
            self.threads.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let (waiting, idle) = (self.waiting.clone(), self.idle.clone());
        let started = thread::Builder::new()
            .name(self.name.into())
            .spawn(move || {
                idle.fetch_add(1, Ordering::AcqRel);
                for job in waiting {
                    idle.fetch_sub(1, Ordering::AcqRel);
                    job();
                    idle.fetch_add(1, Ordering::AcqRel);
                }
            });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for long work");
            self.threads.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_for_another_does_not_stop_it() {
        let pool = Pool::default();
        let (to_first, from_second) = unbounded();
        let (done, finished) = unbounded();
        pool.run(move || done.send(from_second.recv().unwrap()).unwrap());
        pool.run(move || to_first.send(7).unwrap());
        assert_eq!(finished.recv().unwrap(), 7);
    }
}
