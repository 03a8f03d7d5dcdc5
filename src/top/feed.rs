//! Scrapes, one an interval, on a thread of their own: an endpoint that hangs stops no keys.

use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::rates::{Report, Sort};
use super::scrape::Scrape;
use crate::metrics::{self, Address};

/// An endpoint that has not answered after this does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a scrape brought.
#[derive(Debug)]
pub enum News {
    /// A report.
    Report(Box<Report>),
    /// Why there is none.
    Failed(String),
}

/// Reports as they come.
#[derive(Debug)]
pub struct Feed(Receiver<News>);

/// One scrape, and when it was made.
fn scrape(address: &Address) -> Result<(Instant, Scrape), String> {
    let text = metrics::get(address, PATIENCE).map_err(|e| {
        format!("metrics of {address}: {e}; is a daemon running with metrics = \"{address}\"?")
    })?;
    let scrape = Scrape::parse(&text).map_err(|e| format!("metrics of {address}: {e}"))?;
    Ok((Instant::now(), scrape))
}

impl Feed {
    /// Begins to ask. The first report comes after an interval.
    ///
    /// # Errors
    /// What the first scrape fails with; where a later one does, the feed says so and goes on.
    pub fn start(address: Address, interval: Duration) -> Result<Feed, String> {
        let mut before = scrape(&address)?;
        // One at a time: who shows them slowly gets the latest, not a queue.
        let (to_screen, news) = bounded(0);
        std::thread::Builder::new()
            .name("statelite-feed".into())
            .spawn(move || {
                loop {
                    std::thread::sleep(interval.saturating_sub(before.0.elapsed()));
                    let told = match scrape(&address) {
                        Ok(now) => {
                            let apart = now.0.duration_since(before.0);
                            let sort = Sort::default();
                            let report = Report::new(&before.1, &now.1, apart, sort);
                            before = now;
                            News::Report(Box::new(report))
                        }
                        Err(why) => News::Failed(why),
                    };
                    let failed = matches!(told, News::Failed(_));
                    if to_screen.send(told).is_err() {
                        return;
                    }
                    if failed {
                        std::thread::sleep(interval);
                    }
                }
            })
            .map_err(|e| format!("no thread: {e}"))?;
        Ok(Feed(news))
    }

    /// What has come, within some time.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn next(&self, patience: Duration) -> Result<Option<News>, String> {
        match self.0.recv_timeout(patience) {
            Ok(news) => Ok(Some(news)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("asking for metrics has failed".into()),
        }
    }

    /// The first report.
    ///
    /// # Errors
    /// Why there is none.
    pub fn first(&self) -> Result<Report, String> {
        match self.0.recv() {
            Ok(News::Report(report)) => Ok(*report),
            Ok(News::Failed(why)) => Err(why),
            Err(_) => Err("asking for metrics has failed".into()),
        }
    }
}
