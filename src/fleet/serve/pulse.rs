//! Finds a worker that will never answer again: ends it, so that the holder starts another.
//!
//! Owns: one thread that waits for nothing but the time. May not: take a lock that work is done under.
//!
//! Time alone says nothing, since a store may take hours. So a thread must have been at one request for a while and then, at
//! several looks in a row, no thread may be doing what could ever let it go on: all that are at one for so long wait for
//! another thread, or spin, and nobody else is where a store makes it wait. What busy threads do that go from request to
//! request does not count: they have nothing that others wait for so long. Requests that nobody is at, in a session that has
//! answered none for a while, are lost as well if no thread at all does what could answer them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::holder::link::Link;
use crate::holder::wire::TELLS;
use crate::metrics;
use crate::serving;
use crate::sys::threads::{self, Doing, Thread};

/// How often it looks, and tells the holder that this process lives.
const LOOK: Duration = Duration::from_secs(2);
/// Requests that are in flight, or that a thread is at, for less are no reason to look at threads.
const SUSPICIOUS: Duration = Duration::from_secs(10);
/// So many looks in a row must say the same.
const LOOKS: u32 = 3;
/// A thread that has used more time between two looks is at work, whatever it does just now: 50 ms.
const AT_WORK: u64 = 5;

/// What has stayed as it is, and since when that was seen.
#[derive(Debug)]
struct Still<K>(HashMap<K, (u64, Instant)>);

impl<K: Copy + Eq + Hash> Still<K> {
    /// What is there now: those that have stayed so for long.
    fn look(&mut self, now: Instant, there: impl IntoIterator<Item = (K, u64)>) -> HashSet<K> {
        let before = std::mem::take(&mut self.0);
        let since = |key: &K, value: u64| match before.get(key) {
            Some((same, since)) if *same == value => *since,
            _ => now,
        };
        let there = there.into_iter();
        let there = there.map(|(key, value)| (key, (value, since(&key, value))));
        self.0 = there.collect();
        let long = |since: Instant| now.saturating_duration_since(since) >= SUSPICIOUS;
        let still = self.0.iter().filter(|(_, (_, since))| long(*since));
        still.map(|(key, _)| *key).collect()
    }
}

impl<K> Default for Still<K> {
    fn default() -> Self {
        Still(HashMap::new())
    }
}

/// What was seen at the looks before.
#[derive(Debug, Default)]
struct Doubt {
    /// How many requests each session has answered, where any is in flight.
    sessions: Still<usize>,
    /// The request that each thread is at.
    serving: Still<u32>,
    threads: HashMap<u32, Thread>,
    /// So many looks in a row said: of the threads that are at a request for long, none will go on.
    held: u32,
    /// And so many: no thread at all does what could answer a request.
    lost: u32,
}

impl Doubt {
    /// Has any session had requests in flight, and answered none, for long?
    fn any_stuck(&mut self, now: Instant, sessions: &[Arc<metrics::Node>]) -> bool {
        let flying = sessions.iter().filter_map(|session| {
            let (answered, flying) = session.progress();
            (flying > 0).then_some((Arc::as_ptr(session) as usize, answered))
        });
        !self.sessions.look(now, flying).is_empty()
    }

    /// The threads that have been at one request for long.
    fn held_up(&mut self, now: Instant, serving: Vec<(u32, u64)>) -> HashSet<u32> {
        self.serving.look(now, serving)
    }

    /// Is this the last of the looks that say that nothing will ever come?
    fn hopeless(
        &mut self,
        threads: HashMap<u32, Thread>,
        held_up: &HashSet<u32>,
        any_stuck: bool,
    ) -> bool {
        let before = std::mem::replace(&mut self.threads, threads);
        let works = |id: &u32, now: &Thread| match before.get(id) {
            Some(before) => may_answer(before, now),
            None => true,
        };
        let waits_in_a_call =
            |id: &u32, now: &Thread| now.doing == Doing::Unknown && before.get(id) == Some(now);
        let mut threads = self.threads.iter();
        let goes_on = threads.any(|(id, now)| match held_up.contains(id) {
            true => works(id, now),
            false => waits_in_a_call(id, now),
        });
        let any_works = self.threads.iter().any(|(id, now)| works(id, now));
        let again = |said: bool, looks: u32| if said { looks + 1 } else { 0 };
        self.held = again(!held_up.is_empty() && !goes_on, self.held);
        self.lost = again(any_stuck && !any_works, self.lost);
        self.held.max(self.lost) >= LOOKS
    }

    /// There is none now: the looks in a row begin anew.
    fn ends(&mut self) {
        self.threads.clear();
        (self.held, self.lost) = (0, 0);
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
        let (now, sessions) = (Instant::now(), pulse.sessions());
        let stuck = doubt.any_stuck(now, &sessions);
        let held_up = doubt.held_up(now, serving::now());
        if !stuck && held_up.is_empty() {
            doubt.ends();
            continue;
        }
        match threads::others(TELLS).map(|threads| doubt.hopeless(threads, &held_up, stuck)) {
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
    fn who_goes_from_request_to_request_is_not_held_up() {
        let mut doubt = Doubt::default();
        let start = Instant::now();
        let mut at = |seconds, serving| {
            let mut held: Vec<u32> = doubt
                .held_up(start + Duration::from_secs(seconds), serving)
                .into_iter()
                .collect();
            held.sort_unstable();
            held
        };
        assert!(at(0, vec![(1, 3), (2, 5)]).is_empty());
        assert!(at(9, vec![(1, 3), (2, 7), (3, 1)]).is_empty());
        assert_eq!(at(10, vec![(1, 3), (2, 9), (3, 1)]), [1]);
        assert_eq!(at(19, vec![(1, 3), (2, 11), (3, 1)]), [1, 3]);
        assert!(at(20, vec![(2, 13), (3, 3)]).is_empty(), "they are done");
    }

    #[test]
    fn one_thread_that_may_wait_for_a_store_is_hope() {
        let waits = thread(Doing::Waits, 7, 7, 7);
        let hang = HashMap::from([(1, waits), (2, waits)]);
        let none = HashSet::new();
        let mut doubt = Doubt::default();
        let mut lost =
            |threads: &HashMap<u32, Thread>| doubt.hopeless(threads.clone(), &none, true);
        assert!(!lost(&hang), "there was no look before");
        assert!(!lost(&hang));
        assert!(!lost(&hang));
        assert!(lost(&hang));
        let store = HashMap::from([(1, waits), (2, thread(Doing::Unknown, 7, 7, 7))]);
        for _ in 0..100 {
            assert!(!lost(&store));
        }
        for _ in 0..2 {
            assert!(!lost(&hang));
        }
        let mut new = hang.clone();
        new.insert(3, waits);
        assert!(!lost(&new), "a thread that was not there before");
        assert!(!lost(&hang), "and it begins anew");
    }

    #[test]
    fn busy_neighbours_are_no_hope_and_a_store_is() {
        let waits = thread(Doing::Waits, 7, 7, 7);
        let held_up = HashSet::from([1]);
        // Thread 2 is busy with other requests, in calls that may wait for a store, and 3 is new each time.
        let look = |n: u64| {
            let busy = thread(Doing::Unknown, 7 + n * 20, 7 + n * 50, 7 + n);
            HashMap::from([(1, waits), (2, busy), (3 + n as u32, waits)])
        };
        let mut doubt = Doubt::default();
        for n in 0..3 {
            assert!(!doubt.hopeless(look(n), &held_up, false));
        }
        assert!(doubt.hopeless(look(3), &held_up, false));
        // One of them waits in one call for long: it may have what the first waits for.
        let mut doubt = Doubt::default();
        let hangs = thread(Doing::Unknown, 7, 7, 7);
        for n in 0..100 {
            let mut look = look(n);
            look.insert(2, hangs);
            assert!(!doubt.hopeless(look, &held_up, false));
        }
        // So may the first itself.
        let mut doubt = Doubt::default();
        for n in 0..100 {
            let mut look = look(n);
            look.insert(1, hangs);
            assert!(!doubt.hopeless(look, &held_up, false));
        }
        // Nobody is held up.
        for n in 0..100 {
            assert!(!doubt.hopeless(look(n), &HashSet::new(), true));
        }
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
