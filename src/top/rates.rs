//! Two scrapes to rates.

use std::cmp::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::scrape::{NodeTotals, Scrape};

/// By what nodes are ordered; the most comes first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sort {
    /// Requests a second.
    #[default]
    Requests,
    /// Mean time of a request.
    Latency,
    /// Used bytes of the tmpfs.
    Tmpfs,
    /// Failures a second, then errors a second.
    Errors,
}

impl Sort {
    /// All of them.
    pub const ALL: [Sort; 4] = [Sort::Requests, Sort::Latency, Sort::Tmpfs, Sort::Errors];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Sort::Requests => "requests",
            Sort::Latency => "latency",
            Sort::Tmpfs => "tmpfs",
            Sort::Errors => "errors",
        }
    }

    pub(super) fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }
}

/// What happened between two scrapes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The daemon's version.
    pub version: String,
    /// The time between the scrapes.
    pub interval_seconds: f64,
    /// All nodes together.
    pub all: Summary,
    /// Each node, in the order asked for.
    pub nodes: Vec<Row>,
}

/// All nodes together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// How many there are.
    pub nodes: usize,
    /// Requests since their sessions began.
    pub requests: f64,
    /// Now, a second.
    pub requests_per_second: f64,
    /// Mean time of a request.
    pub mean_seconds: Option<f64>,
    /// Half of the requests took at most this.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 took at most this.
    pub p99_seconds: Option<f64>,
    /// Bytes of files read through the daemon, a second.
    pub read_bytes_per_second: f64,
    /// Written.
    pub written_bytes_per_second: f64,
    /// Copy-ups a second.
    pub copy_ups_per_second: f64,
    /// Requests that panicked since the daemon began.
    pub panics: f64,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub node: String,
    /// Requests since its session began.
    pub requests: f64,
    /// Now, a second.
    pub requests_per_second: f64,
    /// Mean time of a request.
    pub mean_seconds: Option<f64>,
    /// Errors a second, the expected ones included.
    pub errors_per_second: f64,
    /// Errors since its session began.
    pub errors: f64,
    /// EIO, ENOSPC, EDQUOT, EMFILE, ENFILE a second.
    pub failures_per_second: f64,
    /// Since its session began.
    pub failures: f64,
    /// Used bytes of its tmpfs.
    pub tmpfs_used_bytes: Option<f64>,
    /// Its size.
    pub tmpfs_size_bytes: Option<f64>,
    /// Inodes that its kernel holds.
    pub inodes: Option<f64>,
}

/// A counter that is smaller than it was began anew.
fn grown(before: f64, now: f64) -> f64 {
    if now >= before { now - before } else { now }
}

fn mean(seconds: f64, requests: f64) -> Option<f64> {
    (requests > 0.0).then(|| seconds / requests)
}

impl Report {
    /// The report of what happened between two scrapes that were `apart`.
    pub fn new(before: &Scrape, now: &Scrape, apart: Duration, sort: Sort) -> Report {
        let interval = apart.as_secs_f64();
        let rate = |before, now| {
            if interval > 0.0 {
                grown(before, now) / interval
            } else {
                0.0
            }
        };
        let none = NodeTotals::default();
        let row = |(name, now): (&String, &NodeTotals)| {
            let before = before.nodes.get(name).unwrap_or(&none);
            let requests = grown(before.requests, now.requests);
            Row {
                node: name.clone(),
                requests: now.requests,
                requests_per_second: rate(before.requests, now.requests),
                mean_seconds: mean(grown(before.seconds, now.seconds), requests),
                errors_per_second: rate(before.errors, now.errors),
                errors: now.errors,
                failures_per_second: rate(before.failures, now.failures),
                failures: now.failures,
                tmpfs_used_bytes: now.tmpfs_used,
                tmpfs_size_bytes: now.tmpfs_size,
                inodes: now.inodes,
            }
        };
        let nodes: Vec<Row> = now.nodes.iter().map(row).collect();
        let durations = differences(&before.durations, &now.durations);
        let requests = durations.iter().map(|(_, count)| count).sum();
        let all = Summary {
            nodes: nodes.len(),
            requests: nodes.iter().map(|row| row.requests).sum(),
            requests_per_second: nodes.iter().map(|row| row.requests_per_second).sum(),
            mean_seconds: mean(grown(before.seconds, now.seconds), requests),
            p50_seconds: quantile(&durations, 0.5),
            p99_seconds: quantile(&durations, 0.99),
            read_bytes_per_second: rate(before.read, now.read),
            written_bytes_per_second: rate(before.written, now.written),
            copy_ups_per_second: rate(before.copy_ups, now.copy_ups),
            panics: now.panics,
        };
        let mut report = Report {
            version: now.version.clone(),
            interval_seconds: interval,
            all,
            nodes,
        };
        report.sort(sort);
        report
    }

    /// Orders the nodes anew.
    pub fn sort(&mut self, sort: Sort) {
        let key = |row: &Row| match sort {
            Sort::Requests => (row.requests_per_second, row.requests),
            Sort::Latency => (row.mean_seconds.unwrap_or(0.0), row.requests_per_second),
            Sort::Tmpfs => (row.tmpfs_used_bytes.unwrap_or(0.0), 0.0),
            Sort::Errors => (row.failures_per_second, row.errors_per_second),
        };
        let order = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        self.nodes.sort_by(|a, b| {
            let (x, y) = (key(a), key(b));
            let by_key = order(x.0, y.0).then(order(x.1, y.1));
            by_key.then_with(|| a.node.cmp(&b.node))
        });
    }
}

/// How many requests came between, by upper bound; not summed up.
fn differences(before: &[(f64, f64)], now: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let began_anew = match (before.last(), now.last()) {
        (Some(before), Some(now)) => now.1 < before.1,
        _ => true,
    };
    let mut below = 0.0;
    let mut between = Vec::with_capacity(now.len());
    for (bound, count) in now {
        let earlier = before.iter().find(|(b, _)| b == bound);
        let earlier = earlier.filter(|_| !began_anew).map_or(0.0, |(_, c)| *c);
        let up_to = grown(earlier, *count);
        between.push((*bound, (up_to - below).max(0.0)));
        below = up_to;
    }
    between
}

/// A quantile as Prometheus' histogram_quantile reckons it: straight within a bucket, the last bound
/// where it lies beyond.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total: f64 = buckets.iter().map(|(_, count)| count).sum();
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut low, mut seen) = (0.0, 0.0);
    for (bound, count) in buckets {
        if seen + count >= rank && *count > 0.0 {
            let within = (rank - seen) / count;
            return Some(match bound.is_finite() {
                true => low + (bound - low) * within,
                false => low,
            });
        }
        seen += count;
        if bound.is_finite() {
            low = *bound;
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(nodes: &[(&str, f64, f64, f64)]) -> Scrape {
        let totals = |&(name, requests, seconds, failures): &(&str, f64, f64, f64)| {
            let totals = NodeTotals {
                requests,
                seconds,
                errors: failures,
                failures,
                ..NodeTotals::default()
            };
            (name.to_owned(), totals)
        };
        Scrape {
            nodes: nodes.iter().map(totals).collect(),
            ..Scrape::default()
        }
    }

    fn order(report: &Report) -> Vec<&str> {
        report.nodes.iter().map(|row| row.node.as_str()).collect()
    }

    #[test]
    fn rates_means_and_orders() {
        let before = scrape(&[("a", 100.0, 1.0, 0.0), ("b", 50.0, 1.0, 0.0)]);
        let now = scrape(&[
            ("a", 300.0, 2.0, 1.0),
            ("b", 60.0, 2.0, 4.0),
            ("c", 0.0, 0.0, 0.0),
        ]);
        let mut report = Report::new(&before, &now, Duration::from_secs(2), Sort::Requests);
        assert_eq!(order(&report), ["a", "b", "c"]);
        assert_eq!(report.nodes[0].requests_per_second, 100.0);
        assert_eq!(report.nodes[0].mean_seconds, Some(1.0 / 200.0));
        assert_eq!(report.nodes[2].mean_seconds, None);
        assert_eq!(report.all.requests, 360.0);
        assert_eq!(report.all.requests_per_second, 105.0);
        report.sort(Sort::Latency);
        assert_eq!(order(&report), ["b", "a", "c"]);
        report.sort(Sort::Errors);
        assert_eq!(order(&report), ["b", "a", "c"]);
        report.sort(Sort::Tmpfs);
        assert_eq!(order(&report), ["a", "b", "c"]);
    }

    #[test]
    fn a_daemon_that_began_anew_has_no_negative_rates() {
        let before = scrape(&[("a", 1000.0, 9.0, 5.0)]);
        let now = scrape(&[("a", 10.0, 0.1, 0.0)]);
        let report = Report::new(&before, &now, Duration::from_secs(1), Sort::Requests);
        assert_eq!(report.nodes[0].requests_per_second, 10.0);
        assert_eq!(report.nodes[0].failures_per_second, 0.0);
        let before = [(1.0, 100.0), (f64::INFINITY, 200.0)];
        let now = [(1.0, 3.0), (f64::INFINITY, 4.0)];
        let between = differences(&before, &now);
        assert_eq!(between, [(1.0, 3.0), (f64::INFINITY, 1.0)]);
    }

    #[test]
    fn quantiles_are_those_of_what_came_between() {
        let before = [(1.0, 10.0), (2.0, 10.0), (4.0, 10.0), (f64::INFINITY, 10.0)];
        let now = [
            (1.0, 10.0),
            (2.0, 60.0),
            (4.0, 109.0),
            (f64::INFINITY, 110.0),
        ];
        let between = differences(&before, &now);
        assert_eq!(
            between,
            [(1.0, 0.0), (2.0, 50.0), (4.0, 49.0), (f64::INFINITY, 1.0)]
        );
        assert_eq!(quantile(&between, 0.5), Some(2.0));
        assert_eq!(quantile(&between, 0.25), Some(1.5));
        assert_eq!(quantile(&between, 0.99), Some(4.0));
        assert_eq!(quantile(&between, 1.0), Some(4.0), "beyond the last bound");
        assert_eq!(quantile(&differences(&now, &now), 0.5), None);
    }
}
