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
    total: usize,
    done: usize,
    began: Instant,
    told: Option<Instant>,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Progress {
        Progress {
            what,
            total,
            done: 0,
            began: Instant::now(),
            told: None,
        }
    }

    /// One more is done.
    pub(super) fn step(&mut self) {
        self.done += 1;
        let due = self.told.map_or(self.began + PATIENCE, |told| told + PACE);
        let stderr = std::io::stderr();
        if Instant::now() < due || !rustix::termios::isatty(&stderr) {
            return;
        }
        self.told = Some(Instant::now());
        self.write(&format!("\r{} of {} {}", self.done, self.total, self.what));
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
