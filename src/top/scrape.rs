//! An endpoint's text to what is shown of it. Families that are not known are passed over, so that
//! an older program reads a newer daemon.

use std::collections::BTreeMap;

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    pub(super) version: String,
    pub(super) nodes: BTreeMap<String, NodeTotals>,
    /// Durations of requests of all nodes and operations: upper bounds in seconds, in order, each
    /// with how many requests took at most that.
    pub(super) durations: Vec<(f64, f64)>,
    pub(super) seconds: f64,
    pub(super) read: f64,
    pub(super) written: f64,
    pub(super) copy_ups: f64,
    pub(super) panics: f64,
}

/// What is told of one node since its session began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeTotals {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    pub(super) errors: f64,
    pub(super) failures: f64,
    pub(super) inodes: Option<f64>,
    pub(super) tmpfs_used: Option<f64>,
    pub(super) tmpfs_size: Option<f64>,
}

/// What is no text of metrics.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the metrics is not understood: {text:?}")]
pub struct ScrapeError {
    line: usize,
    text: String,
}

impl Scrape {
    /// Reads a text of metrics.
    ///
    /// # Errors
    /// [`ScrapeError`] for a line that is none of the format.
    pub fn parse(text: &str) -> Result<Scrape, ScrapeError> {
        let mut scrape = Scrape::default();
        let mut durations: BTreeMap<u64, f64> = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let sample = Sample::parse(line).ok_or_else(|| ScrapeError {
                line: at + 1,
                text: line.chars().take(80).collect(),
            })?;
            scrape.take(&sample, &mut durations);
        }
        let bound = |(bits, count)| (f64::from_bits(bits), count);
        scrape.durations = durations.into_iter().map(bound).collect();
        Ok(scrape)
    }

    fn take(&mut self, sample: &Sample<'_>, durations: &mut BTreeMap<u64, f64>) {
        let value = sample.value;
        match sample.name {
            "statelite_build_info" => self.version = sample.label("version").unwrap_or_default(),
            "statelite_request_duration_seconds_bucket" => {
                let le = sample.label("le").and_then(|le| number(&le));
                // Of bounds, which are positive, the bits are in the numbers' order.
                if let Some(le) = le.filter(|le| *le > 0.0) {
                    *durations.entry(le.to_bits()).or_default() += value;
                }
            }
            "statelite_request_duration_seconds_sum" => self.seconds += value,
            "statelite_read_bytes_total" => self.read = value,
            "statelite_written_bytes_total" => self.written = value,
            "statelite_copy_ups_total" => self.copy_ups = value,
            "statelite_panics_total" => self.panics = value,
            name => self.of_node(name, sample),
        }
    }

    fn of_node(&mut self, name: &str, sample: &Sample<'_>) {
        const KNOWN: [&str; 7] = [
            "statelite_requests_total",
            "statelite_node_request_seconds_total",
            "statelite_node_errors_total",
            "statelite_node_failures_total",
            "statelite_node_inodes",
            "statelite_node_tmpfs_used_bytes",
            "statelite_node_tmpfs_size_bytes",
        ];
        let Some(which) = KNOWN.iter().position(|known| *known == name) else {
            return;
        };
        let Some(node) = sample.label("node") else {
            return;
        };
        let node = self.nodes.entry(node).or_default();
        match which {
            // One sample an operation.
            0 => node.requests += sample.value,
            1 => node.seconds = sample.value,
            2 => node.errors = sample.value,
            3 => node.failures = sample.value,
            4 => node.inodes = Some(sample.value),
            5 => node.tmpfs_used = Some(sample.value),
            _ => node.tmpfs_size = Some(sample.value),
        }
    }
}

struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Sample<'a>> {
        let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                rest = rest.trim_start_matches([',', ' ']);
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (label, after) = rest.split_once("=\"")?;
                let (value, after) = unescape(after)?;
                labels.push((label, value));
                rest = after;
            }
        }
        // A time may follow the value.
        let value = number(rest.split_ascii_whitespace().next()?)?;
        Some(Sample {
            name,
            labels,
            value,
        })
    }

    fn label(&self, name: &str) -> Option<String> {
        let found = self.labels.iter().find(|(label, _)| *label == name);
        found.map(|(_, value)| value.clone())
    }
}

/// A label's value up to its closing quote, and what comes after.
fn unescape(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            (_, c) => value.push(c),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        other => other.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Figures, Op, Registry};

    #[test]
    fn what_the_daemon_tells_is_read() {
        let registry = Registry::new();
        let figures = Figures {
            inodes: 7,
            tmpfs: Some((100, 1000)),
        };
        let odd = "odd \"name\"\\,}{\n";
        let node = registry.node(odd, move || Some(figures));
        let plain = registry.node("n2", || None);
        for (op, errno) in [
            (Op::Lookup, 0),
            (Op::Lookup, libc::ENOENT),
            (Op::Read, libc::EIO),
        ] {
            node.finish(op, node.begin(), errno);
        }
        node.read(11);
        plain.written(12);
        plain.panicked();
        let scrape = Scrape::parse(&registry.text()).unwrap();
        assert_eq!(scrape.version, env!("CARGO_PKG_VERSION"));
        let read = &scrape.nodes[odd];
        assert_eq!((read.requests, read.errors, read.failures), (3.0, 2.0, 1.0));
        assert!(read.seconds > 0.0);
        assert_eq!(read.inodes, Some(7.0));
        assert_eq!(
            (read.tmpfs_used, read.tmpfs_size),
            (Some(100.0), Some(1000.0))
        );
        assert_eq!(scrape.nodes["n2"], NodeTotals::default());
        assert_eq!(
            (scrape.read, scrape.written, scrape.panics),
            (11.0, 12.0, 1.0)
        );
        let last = scrape.durations.last().unwrap();
        assert_eq!(*last, (f64::INFINITY, 3.0), "of both operations");
        assert!(
            scrape
                .durations
                .is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
        );
    }

    #[test]
    fn what_is_not_the_format_is_an_error_with_its_line() {
        for bad in ["no_value", "a{b=\"c} 1", "a{b=\"c\"} x", "<html>", "a{b} 1"] {
            let error = Scrape::parse(&format!("# HELP a b\n{bad}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2 "), "{bad}: {error}");
        }
        let newer = "something_new{x=\"y\"} 1 1700000000000\n\n# EOF\n";
        assert_eq!(Scrape::parse(newer).unwrap(), Scrape::default());
    }
}
