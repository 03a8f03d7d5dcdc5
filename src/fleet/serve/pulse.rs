//! Finds a worker that will never answer again: ends it, so that the holder starts another.
//!
//! Owns: one thread that waits for nothing but the time. May not: take a lock that work is done under.
//!
//! Time alone says nothing, since a store may take hours. So requests must be in flight of which
//! none was answered for a while, and then, at several looks in a row, no thread may be doing what
//! could ever answer one: each waits for another thread, or spins. One thread in a system call that
//! a store can make wait, and there is hope.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::holder::link::Link;
use crate::holder::wire::TELLS;
use crate::metrics;
use crate::sys::threads::{self, Doing, Thread};

/// How often it looks, and tells the holder that this process lives.
const LOOK: Duration = Duration::from_secs(2);
/// Requests that are in flight for less are no reason to look at threads.
const SUSPICIOUS: Duration = Duration::from_secs(10);
/// So many looks in a row must say the same.
const LOOKS: u32 = 3;
/// A thread that has used more time between two looks is at work, whatever it does just now: 50 ms.
const AT_WORK: u64 = 5;

/// What is known of one session's requests.
#[derive(Clone, Copy, Debug)]
struct Flying {
    answered: u64,
    /// Since when none was answered.
    since: Instant,
}

/// What was seen at the looks before.
#[derive(Debug, Default)]
struct Doubt {
    sessions: HashMap<usize, Flying>,
    threads: HashMap<u32, Thread>,
    hopeless: u32,
}

impl Doubt {
    /// Has any session had requests in flight, and answered none, for long?
    fn any_stuck(&mut self, now: Instant, sessions: &[Arc<metrics::Node>]) -> bool {
        let mut before = std::mem::take(&mut self.sessions);
        let mut stuck = false;
        for session in sessions {
            let (answered, flying) = session.progress();
            if flying == 0 {
                continue;
            }
            let key = Arc::as_ptr(session) as usize;
            let known = before.remove(&key);
            let known = known.filter(|known| known.answered == answered);
            let flying = known.unwrap_or(Flying {
                answered,
                since: now,
            });
            stuck |= now.saturating_duration_since(flying.since) >= SUSPICIOUS;
            self.sessions.insert(key, flying);
        }
        stuck
    }

    /// Is this the last of the looks that say that nothing will ever come?
    fn hopeless(&mut self, threads: HashMap<u32, Thread>) -> bool {
        let before = std::mem::replace(&mut self.threads, threads);
        let hope = |(id, now): (&u32, &Thread)| match before.get(id) {
            Some(before) => may_answer(before, now),
            None => true,
        };
        match self.threads.iter().any(hope) {
            true => self.hopeless = 0,
            false => self.hopeless += 1,
        }
        self.hopeless >= LOOKS
    }
}

/// May this thread come to answer a request, as far as can be seen?
fn may_answer(before: &Thread, now: &Thread) -> bool {
    let user = now.user.saturating_sub(before.user);
    let system = now.system.saturating_sub(before.system);
    match now.doing {
        Doing::Unknown => true,
        Doing::Waits => user + system > AT_WORK,
        // It turns in a circle in user space if it has called nobody: work for a request asks the
        // kernel for something every few microseconds. (Interrupts count as time in the kernel, too.)
        // One that had no CPU is not to be blamed.
        Doing::Runs => system * 10 > user || user == 0 || now.waits != before.waits,
    }
}

/// Whose requests are looked at.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    sessions: Mutex<Vec<Weak<metrics::Node>>>,
}

impl Pulse {
    /// Starts the thread, which runs until the process ends.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(link: Arc<Link>) -> std::io::Result<Arc<Pulse>> {
        let pulse = Arc::<Pulse>::default();
        let looks = pulse.clone();
        let thread = std::thread::Builder::new().name("statelite-pulse".into());
        thread.spawn(move || run(&looks, &link))?;
        Ok(pulse)
    }

    /// A session's, as long as somebody holds it.
    pub(super) fn add(&self, session: &Arc<metrics::Node>) {
        let mut sessions = self.sessions.lock();
        if sessions.len() == sessions.capacity() {
            sessions.retain(|session| session.strong_count() > 0);
        }
        sessions.push(Arc::downgrade(session));
    }

    fn sessions(&self) -> Vec<Arc<metrics::Node>> {
        self.sessions
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

fn run(pulse: &Pulse, link: &Link) {
    let mut doubt = Doubt::default();
    loop {
        link.lives();
        std::thread::sleep(LOOK);
        let sessions = pulse.sessions();
        if !doubt.any_stuck(Instant::now(), &sessions) {
            doubt.hopeless = 0;
            doubt.threads.clear();
            continue;
        }
        match threads::others(TELLS).map(|threads| doubt.hopeless(threads)) {
            Ok(false) => {}
            Ok(true) => {
                tracing::error!(
                    "requests are in flight that no thread will ever answer: this process ends"
                );
                std::process::abort();
            }
            Err(error) => tracing::debug!(%error, "what threads do is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Node, Op};

    fn thread(doing: Doing, user: u64, system: u64, waits: u64) -> Thread {
        Thread {
            doing,
            user,
            system,
            waits,
        }
    }

    #[test]
    fn requests_that_are_answered_are_no_reason_to_look() {
        let node = Node::unobserved("n1");
        let sessions = [node.clone()];
        let mut doubt = Doubt::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = node.begin();
        assert!(!doubt.any_stuck(at(0), &sessions));
        assert!(!doubt.any_stuck(at(9), &sessions));
        assert!(doubt.any_stuck(at(10), &sessions));
        let _second = node.begin();
        node.finish(Op::Read, first, 0);
        assert!(!doubt.any_stuck(at(11), &sessions), "one was answered");
        assert!(doubt.any_stuck(at(30), &sessions), "the other was not");
        assert!(!doubt.any_stuck(at(31), &[]), "its session has ended");
    }

    #[test]
    fn one_thread_that_may_wait_for_a_store_is_hope() {
        let waits = thread(Doing::Waits, 7, 7, 7);
        let hang = HashMap::from([(1, waits), (2, waits)]);
        let mut doubt = Doubt::default();
        assert!(!doubt.hopeless(hang.clone()), "there was no look before");
        assert!(!doubt.hopeless(hang.clone()));
        assert!(!doubt.hopeless(hang.clone()));
        assert!(doubt.hopeless(hang.clone()));
        let mut doubt = Doubt::default();
        let store = HashMap::from([(1, waits), (2, thread(Doing::Unknown, 7, 7, 7))]);
        for _ in 0..100 {
            assert!(!doubt.hopeless(store.clone()));
        }
        for _ in 0..2 {
            assert!(!doubt.hopeless(hang.clone()));
        }
        let mut new = hang.clone();
        new.insert(3, waits);
        assert!(!doubt.hopeless(new), "a thread that was not there before");
        assert!(!doubt.hopeless(hang), "and it begins anew");
    }

    #[test]
    fn who_spins_does_not_work() {
        let before = thread(Doing::Runs, 100, 10, 5);
        let now = |user, system, waits| thread(Doing::Runs, user, system, waits);
        assert!(!may_answer(&before, &now(300, 10, 5)), "it spins");
        assert!(!may_answer(&before, &now(300, 13, 5)), "under interrupts");
        assert!(
            may_answer(&before, &now(250, 60, 5)),
            "the kernel copies for it"
        );
        assert!(
            may_answer(&before, &now(300, 10, 6)),
            "it has waited for something"
        );
        assert!(may_answer(&before, &now(100, 10, 5)), "it had no CPU");
        let waits = thread(Doing::Waits, 100, 10, 9);
        assert!(!may_answer(&before, &waits));
        assert!(may_answer(&before, &thread(Doing::Waits, 120, 40, 9)));
    }
}
