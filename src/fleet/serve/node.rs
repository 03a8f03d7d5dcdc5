//! One node of the fleet: what it is to be, what it is, and the steps between. A step is done by
//! one thread at a time, and what fails is tried again with growing pauses.
//!
//! Owns: a node's state. May not: know of other nodes.
//!
//! Lock order: `work`, then `inner`. `work` is held across I/O, `inner` never.

mod change;
mod reset;
pub(super) mod session;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::Receiver;
use parking_lot::{Mutex, MutexGuard};

use super::export::Exporter;
use super::keep::Keep;
use super::{Fleet, changes};
use crate::config::Config;
use crate::control::{Outcome, State};
use crate::fleet::build::BuildError;
use crate::fleet::{Attached, Planned, stores};
use crate::fs::View;
use crate::fuse::{self, IoNow, Leave};
use crate::sys::Errno;
use crate::tables::RuleRow;

/// How long an operation waits for another one on the same node.
const WORK: Duration = Duration::from_secs(10);
/// How long an unmounted session has to end.
const ENDING: Duration = Duration::from_secs(5);
/// How long a mount is in use yet that the kernel's NFS server has forgotten.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// The pause before the first new try; doubled up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(4);
/// The thread that waits for a session to end does little before that.
const WAITER_STACK: usize = 256 << 10;

/// What the tables give a node: its plan, or why it can have none.
pub(super) type Wanted = Result<Planned, Fault>;

/// How an operation went.
#[derive(Debug)]
pub(super) struct Went {
    pub(super) outcome: Outcome,
    pub(super) message: Option<String>,
}

impl Went {
    /// Without a word.
    pub(super) fn plain(outcome: Outcome) -> Went {
        let message = None;
        Went { outcome, message }
    }

    pub(super) fn says(outcome: Outcome, message: impl Into<String>) -> Went {
        let message = Some(message.into());
        Went { outcome, message }
    }

    /// What is said of an operation that has not ended in time.
    pub(super) fn hangs() -> Went {
        Went::says(
            Outcome::Failed,
            "it has not ended yet: a store or an image may hang",
        )
    }
}

/// Why a node has no root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fault {
    pub(super) why: String,
    /// Trying again is of no use before the tables change.
    pub(super) lasting: bool,
}

impl Fault {
    fn new(why: impl ToString) -> Fault {
        Fault {
            why: why.to_string(),
            lasting: false,
        }
    }
}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Fault {
        Fault {
            why: error.to_string(),
            lasting: matches!(error, BuildError::TooMany { .. }),
        }
    }
}

/// A mounted root.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Told of changes below it, as long as its session runs.
    attached: Arc<Attached>,
    /// Which way its files are read and written.
    io: Arc<IoNow>,
    /// What it goes by.
    pub(super) planned: Planned,
    pub(super) config: Arc<Config>,
    point: PathBuf,
    mount_id: u64,
    session: u64,
    /// Disconnected when the session has ended.
    ended: Receiver<()>,
}

impl Live {
    /// The view that serves now.
    pub(super) fn view(&self) -> Arc<View> {
        self.attached.root().view_arc()
    }

    /// The row that a rule of the view was made of.
    pub(super) fn row(&self, rule: usize) -> Option<&RuleRow> {
        self.planned.rows().get(rule).map(|row| &**row)
    }
}

#[derive(Debug)]
struct Inner {
    wanted: Wanted,
    state: State,
    why: Option<String>,
    pending: Option<String>,
    since: SystemTime,
    live: Option<Live>,
    /// Sessions of roots that were unmounted while in use.
    detached: Vec<u64>,
    /// A reset that is to come before the next mount.
    reset: Option<reset::Waiting>,
    /// We are unmounting it: the session's end is no news.
    leaving: bool,
    sessions: u64,
    tries: u32,
    next_try: Option<Instant>,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    exporter: Arc<Exporter>,
    keep: Arc<Keep>,
    work: Mutex<()>,
    inner: Mutex<Inner>,
}

impl Node {
    pub(super) fn new(
        name: String,
        wanted: Wanted,
        exporter: Arc<Exporter>,
        keep: Arc<Keep>,
    ) -> Arc<Node> {
        let inner = Inner {
            wanted,
            state: State::Starting,
            why: None,
            pending: None,
            since: SystemTime::now(),
            live: None,
            detached: Vec::new(),
            reset: None,
            leaving: false,
            sessions: 0,
            tries: 0,
            next_try: None,
        };
        Arc::new(Node {
            name,
            exporter,
            keep,
            work: Mutex::default(),
            inner: Mutex::new(inner),
        })
    }

    pub(super) fn state(&self) -> State {
        self.inner.lock().state
    }

    /// The mounted root.
    pub(super) fn live(&self) -> Option<Live> {
        self.inner.lock().live.clone()
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.inner.lock().wanted.clone()
    }

    /// When it is to be tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.inner.lock().next_try
    }

    /// Is it due? Then it is no more: whoever asks is to try it.
    pub(super) fn take_due(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        let due = inner.next_try.is_some_and(|at| at <= now);
        if due {
            inner.next_try = None;
        }
        due
    }

    /// The same rules, from other lines of the tables; and what failed is tried again soon.
    pub(super) fn refresh(&self, wanted: Wanted, config: &Arc<Config>) {
        let mut inner = self.inner.lock();
        if let (Some(live), Ok(planned)) = (&mut inner.live, &wanted) {
            live.planned = planned.clone();
            live.config = config.clone();
            inner.pending = None;
        }
        inner.wanted = wanted;
        if inner.next_try.is_some() {
            inner.next_try = Some(Instant::now());
        }
    }

    /// The tables have it no more: whoever still holds it mounts it no more.
    pub(super) fn strike(&self) {
        self.inner.lock().wanted = Err(Fault {
            why: format!("node {} is not served any more", self.name),
            lasting: true,
        });
    }

    fn work(&self) -> Result<MutexGuard<'_, ()>, Went> {
        self.work.try_lock_for(WORK).ok_or_else(|| {
            Went::says(
                Outcome::Busy,
                "another operation on it has not ended: a store or an image may hang",
            )
        })
    }

    /// Could it have a plan now, since what it lacked may be there?
    pub(super) fn needs_plan(&self) -> bool {
        matches!(&self.inner.lock().wanted, Err(fault) if !fault.lasting)
    }

    /// Takes a plan that was made later.
    pub(super) fn plan_again(&self, wanted: Wanted) {
        let mut inner = self.inner.lock();
        if matches!(&inner.wanted, Err(fault) if !fault.lasting) {
            inner.wanted = wanted;
        }
    }

    /// Mounts what is not mounted.
    pub(super) fn mount(self: &Arc<Self>, fleet: &Arc<Fleet>) -> Went {
        match self.work() {
            Ok(_work) => self.mount_now(fleet),
            Err(went) => went,
        }
    }

    /// The first try of a worker: goes on with the sessions that the one before it has left, those
    /// that are in use without a mount too.
    pub(super) fn begin(self: &Arc<Self>, fleet: &Arc<Fleet>) -> Went {
        let _work = match self.work() {
            Ok(work) => work,
            Err(went) => return went,
        };
        self.go_on_without_mounts(fleet);
        if self.stays_unmounted() {
            return Went::plain(Outcome::Already);
        }
        self.mount_now(fleet)
    }

    /// Somebody unmounted it, and that holds for a worker that follows; sets its state so.
    fn stays_unmounted(&self) -> bool {
        let stays = self.keep.was_unmounted(&self.name);
        if stays {
            self.set(State::Unmounted, Some("it was unmounted before".into()));
        }
        stays
    }

    /// Another try of what failed.
    pub(super) fn retry(self: &Arc<Self>, fleet: &Arc<Fleet>) {
        let Ok(_work) = self.work() else {
            self.try_later(fleet);
            return;
        };
        let (state, pending) = {
            let inner = self.inner.lock();
            (inner.state, inner.pending.is_some())
        };
        if state == State::Serving && pending {
            self.adopt(fleet, self.wanted());
        } else if state == State::Retrying {
            self.mount_now(fleet);
        }
    }

    fn mount_now(self: &Arc<Self>, fleet: &Arc<Fleet>) -> Went {
        if fleet.is_stopping() {
            return Went::says(Outcome::Failed, "the daemon is stopping");
        }
        if self.inner.lock().live.is_some() {
            return Went::plain(Outcome::Already);
        }
        match self.catch_up().and_then(|_| self.try_mount(fleet)) {
            Ok(()) => {
                self.keep.unmounted(&self.name, false);
                self.go_on_without_mounts(fleet);
                // Whoever stops the fleet has passed by here before the root was there.
                if fleet.is_stopping() {
                    return self.leave(Leave::Lazily);
                }
                Went::plain(Outcome::Done)
            }
            Err(Fault { why, lasting }) => {
                let state = if lasting {
                    State::Failed
                } else {
                    State::Retrying
                };
                self.set(state, Some(why.clone()));
                if !lasting {
                    self.try_later(fleet);
                }
                Went::says(Outcome::Failed, why)
            }
        }
    }

    /// Unmounts; `why` is what status says of it.
    pub(super) fn unmount(&self, how: Leave, why: &str) -> Went {
        let _work = match self.work() {
            Ok(work) => work,
            Err(went) => return went,
        };
        // Before it is: a worker that follows would mount it again.
        self.keep.unmounted(&self.name, true);
        while let Some(left) = self.keep.take(&self.name, true) {
            // It could not be gone on with, so nobody serves it.
            self.exporter.withdraw([&*self.name]);
            session::end_left(&self.keep, &self.name, left);
        }
        if self.inner.lock().live.is_none() {
            let was = self.state();
            self.set(State::Unmounted, Some(why.into()));
            self.inner.lock().next_try = None;
            return Went::plain(match was {
                State::Unmounted => Outcome::Already,
                _ => Outcome::Done,
            });
        }
        let went = self.leave(how);
        match went.outcome {
            Outcome::Done | Outcome::Detached => self.set(State::Unmounted, Some(why.into())),
            _ => self.keep.unmounted(&self.name, false),
        }
        went
    }

    /// Unmounts what is mounted, and waits for its session.
    fn leave(&self, how: Leave) -> Went {
        let Some(live) = self.live() else {
            return Went::plain(Outcome::Already);
        };
        self.exporter.withdraw([&*self.name]);
        let withdrawn = Instant::now();
        let mut went = self.leave_now(&live, how);
        if went.outcome == Outcome::Busy && self.exporter.forgets(withdrawn) {
            // The kernel puts such a mount down a moment later (call_rcu).
            let end = Instant::now() + FORGOTTEN;
            while went.outcome == Outcome::Busy && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
                went = self.leave_now(&live, how);
            }
        }
        if matches!(went.outcome, Outcome::Busy | Outcome::Failed) {
            self.exporter.offer(&self.name, &live.point);
        }
        went
    }

    fn leave_now(&self, live: &Live, how: Leave) -> Went {
        // What somebody mounted on top of it is theirs.
        if fuse::mount_id(&live.point).is_ok_and(|id| id != live.mount_id)
            && stores::is_mount_point(&live.point)
        {
            let on = live.point.display();
            return Went::says(
                Outcome::Busy,
                format!("something else is mounted on {on}: unmount that first"),
            );
        }
        self.inner.lock().leaving = true;
        let idle = match fuse::unmount_how(&live.point, how) {
            Ok(idle) => idle,
            // umount(8) was faster.
            Err(Errno::INVAL | Errno::NOENT) => true,
            Err(error) => {
                self.inner.lock().leaving = false;
                let on = live.point.display();
                return match error {
                    Errno::BUSY => Went::says(
                        Outcome::Busy,
                        format!("{on} is in use: `fuser -vm {on}` says by whom"),
                    ),
                    error => Went::says(Outcome::Failed, format!("{on}: {error}")),
                };
            }
        };
        if idle || how == Leave::AtOnce {
            // Nothing is ever sent: it is over when the other end is dropped.
            let over = live.ended.recv_timeout(ENDING);
            debug_assert!(over.is_err());
        }
        let mut inner = self.inner.lock();
        inner.leaving = false;
        match inner.live.take_if(|now| now.session == live.session) {
            None => Went::plain(Outcome::Done),
            Some(_) => {
                inner.detached.push(live.session);
                drop(inner);
                tracing::warn!(node = self.name, point = %live.point.display(), "unmounted while in use; it ends with its last user");
                Went::says(
                    Outcome::Detached,
                    "somebody still uses the root that was unmounted",
                )
            }
        }
    }

    fn try_later(&self, fleet: &Arc<Fleet>) {
        {
            let mut inner = self.inner.lock();
            let pause = FIRST.saturating_mul(1 << inner.tries.min(8)).min(LONGEST);
            inner.tries = inner.tries.saturating_add(1);
            inner.next_try = Some(Instant::now() + pause);
        }
        fleet.ticker.wake();
    }

    /// A state that is new is logged; the same again is no news.
    fn set(&self, state: State, why: Option<String>) {
        let mut inner = self.inner.lock();
        if inner.state == state && inner.why == why {
            return;
        }
        let word = state.word();
        match (&why, state) {
            (Some(why), State::Failed | State::Retrying) => {
                tracing::warn!(node = self.name, why, "{word}");
            }
            (Some(why), _) => tracing::info!(node = self.name, why, "{word}"),
            (None, _) => tracing::info!(node = self.name, "{word}"),
        }
        if inner.state != state {
            inner.since = SystemTime::now();
        }
        (inner.state, inner.why) = (state, why);
    }
}
