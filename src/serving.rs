//! Which threads serve requests, and whether each is still at the one that it was at before.
//!
//! Owns: a counter for each thread that has served one. May not: look at a clock, or wait for another thread where requests are served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::sys::threads;

/// A thread's requests: odd while it serves one.
#[derive(Debug)]
struct Requests {
    thread: u32,
    count: AtomicU64,
}

static THREADS: Mutex<Vec<Weak<Requests>>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: Arc<Requests> = {
        let (thread, count) = (threads::own(), AtomicU64::new(0));
        let own = Arc::new(Requests { thread, count });
        let mut known = THREADS.lock();
        known.retain(|thread| thread.strong_count() > 0);
        known.push(Arc::downgrade(&own));
        own
    };
}

/// Serves a request on this thread, which is seen to until that is done.
pub(crate) fn serve(work: impl FnOnce()) {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            count();
        }
    }
    count();
    let _done = Done;
    work();
}

fn count() {
    OWN.with(|own| own.count.fetch_add(1, Ordering::Relaxed));
}

/// The threads that serve a request just now, and which: the number tells one of a thread's requests from the next.
pub(crate) fn now() -> Vec<(u32, u64)> {
    let known = THREADS.lock();
    let known = known.iter().filter_map(Weak::upgrade);
    let serving = known.map(|requests| (requests.thread, requests.count.load(Ordering::Relaxed)));
    serving.filter(|(_, count)| count % 2 == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_is_seen_while_it_serves() {
        let (told, tell) = channel();
        let (go, goes) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let own = threads::own();
            told.send(own).unwrap();
            for _ in 0..2 {
                goes.recv().unwrap();
                serve(|| {
                    told.send(own).unwrap();
                    goes.recv().unwrap();
                });
                told.send(own).unwrap();
            }
        });
        let id = tell.recv().unwrap();
        let seen = || now().into_iter().find(|(thread, _)| *thread == id);
        let step = || {
            go.send(()).unwrap();
            tell.recv().unwrap();
            seen()
        };
        assert_eq!(seen(), None);
        let first = step();
        assert!(first.is_some());
        assert_eq!(step(), None, "it is done");
        assert!(step().is_some_and(|second| Some(second) != first));
        go.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(seen(), None);
    }
}
