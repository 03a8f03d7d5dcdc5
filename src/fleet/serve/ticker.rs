//! The thread that looks after what is to be done later: nodes that failed, and tables that are
//! being rewritten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::node::Node;
use super::reload::Asked;
use super::{Fleet, crew};

/// Tables are read once they were left alone for this long: a file is rewritten in several writes,
/// and one edit often touches several files.
const QUIET: Duration = Duration::from_secs(1);
/// But no later than this after the first of them.
const AT_LAST: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Due {
    look: bool,
    /// When the first change was told of that was not read yet, and when to read it.
    tables: Option<(Instant, Instant)>,
}

/// What wakes the thread.
#[derive(Debug, Default)]
pub(super) struct Ticker {
    due: Mutex<Due>,
    changed: Condvar,
}

impl Ticker {
    /// Some node's next try has changed.
    pub(super) fn wake(&self) {
        self.due.lock().look = true;
        self.changed.notify_one();
    }

    /// A table was changed.
    pub(super) fn tables_changed(&self) {
        let now = Instant::now();
        let mut due = self.due.lock();
        let (first, _) = due.tables.unwrap_or((now, now));
        due.tables = Some((first, (now + QUIET).min(first + AT_LAST)));
        drop(due);
        self.changed.notify_one();
    }

    /// Sleeps until `next` or until it is woken; says whether tables are to be read.
    fn wait(&self, next: Option<Instant>) -> bool {
        let mut due = self.due.lock();
        loop {
            if let Some((_, at)) = due.tables
                && at <= Instant::now()
            {
                due.tables = None;
                return true;
            }
            if std::mem::take(&mut due.look) || next.is_some_and(|next| next <= Instant::now()) {
                return false;
            }
            let until = due.tables.map(|(_, at)| at).into_iter().chain(next).min();
            match until {
                Some(until) => {
                    self.changed.wait_until(&mut due, until);
                }
                None => self.changed.wait(&mut due),
            }
        }
    }
}

/// Runs until the daemon stops.
pub(super) fn run(fleet: &Arc<Fleet>) {
    let mut next = None;
    while !fleet.is_stopping() {
        if fleet.ticker.wait(next) {
            fleet.reload(Asked::Table);
        }
        let now = Instant::now();
        let nodes = fleet.nodes();
        let due: Vec<_> = nodes.iter().filter(|node| node.take_due(now)).collect();
        if !due.is_empty() {
            let due: Vec<_> = due.into_iter().cloned().collect();
            let again = fleet.clone();
            // Nobody waits: what fails says itself when it is to be tried again.
            drop(crew::each(vec![due], move |due: Vec<Arc<Node>>| {
                // Those that share an image share its plan.
                again.plan_again(&due);
                let each = again.clone();
                drop(crew::each(due, move |node| {
                    node.retry(&each);
                    each.tell_status();
                }));
            }));
        }
        next = nodes.iter().filter_map(|node| node.next_try()).min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_follow_one_another_are_read_once_and_not_for_ever_later() {
        let ticker = Ticker::default();
        let start = Instant::now();
        for _ in 0..3 {
            ticker.tables_changed();
        }
        let (first, at) = ticker.due.lock().tables.unwrap();
        assert!(at >= first + QUIET && at <= start + AT_LAST + QUIET);
        ticker.due.lock().tables = Some((start, start + AT_LAST));
        ticker.tables_changed();
        let (first, at) = ticker.due.lock().tables.unwrap();
        assert_eq!(first, start);
        assert!(at <= start + AT_LAST);
        ticker.due.lock().tables = Some((start, start));
        assert!(ticker.wait(None), "to be read now");
        assert!(!ticker.wait(Some(start)), "once");
    }
}
