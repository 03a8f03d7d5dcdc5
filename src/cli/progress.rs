//! A line of progress on a terminal's standard error, once something takes longer than two
//! seconds.

use std::io::Write;
use std::time::{Duration, Instant};

/// Before this, nothing is said.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the line is written anew.
const PACE: Duration = Duration::from_millis(200);

pub(super) struct Progress {
    what: &'static str,
    /// Where it is known.
    total: Option<usize>,
    done: usize,
    began: Instant,
    told: Option<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Progress {
        Progress {
            total: Some(total),
            ..Progress::counting(what)
        }
    }

    /// Of work whose end is not known.
    pub(super) fn counting(what: &'static str) -> Progress {
        Progress {
            what,
            total: None,
            done: 0,
            began: Instant::now(),
            told: None,
        }
    }

    /// One more is done.
    pub(super) fn step(&mut self) {
        self.advance(1);
    }

    /// So many more are done.
    pub(super) fn advance(&mut self, steps: usize) {
        self.done += steps;
        let due = self.told.map_or(self.began + PATIENCE, |told| told + PACE);
        let stderr = std::io::stderr();
        if Instant::now() < due || !rustix::termios::isatty(&stderr) {
            return;
        }
        self.told = Some(Instant::now());
        let of = self.total.map(|total| format!(" of {total}"));
        let of = of.unwrap_or_default();
        self.write(&format!("\r{}{of} {}", self.done, self.what));
    }

    /// Progress that can't be shown is not worth failing for.
    fn write(&self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        if stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush())
            .is_err()
        {
            tracing::debug!("no progress can be shown");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.write("\r\x1b[K");
        }
    }
}
