//! All that is counted in this process, and its text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::errno;
use super::node::{Figures, Node, Totals};
use super::op::Op;
use super::shared::{self, Shared};
use super::source::{CacheFigures, Source, WatchFigures};
use super::text::{Kind, Text};

/// Nodes and other sources of numbers. One a process; it is made once metrics are configured.
pub struct Registry {
    shared: Arc<Shared>,
    /// A session that ends takes its node with it.
    nodes: Mutex<Vec<Weak<Node>>>,
    sources: Mutex<Vec<Arc<dyn Source>>>,
}

impl Registry {
    /// One without nodes.
    pub fn new() -> Arc<Registry> {
        Arc::new(Registry {
            shared: Arc::new(Shared::new()),
            nodes: Mutex::default(),
            sources: Mutex::default(),
        })
    }

    /// A node's counters, for as long as somebody holds them; `look` is asked at each scrape, and
    /// answers `None` once the view is gone.
    pub fn node(
        &self,
        name: &str,
        look: impl Fn() -> Option<Figures> + Send + Sync + 'static,
    ) -> Arc<Node> {
        let node = Node::observed(name, self.shared.clone(), Box::new(look));
        let mut nodes = self.nodes.lock();
        if nodes.len() == nodes.capacity() {
            nodes.retain(|node| node.strong_count() > 0);
        }
        nodes.push(Arc::downgrade(&node));
        node
    }

    /// Adds families to what is told.
    pub fn source(&self, source: impl Source + 'static) {
        self.sources.lock().push(Arc::new(source));
    }

    /// Adds the lookup cache's.
    pub fn lookup_cache(&self, figures: impl Fn() -> CacheFigures + Send + Sync + 'static) {
        self.source(move |text: &mut Text| figures().write(text));
    }

    /// Adds the watcher's.
    pub fn watcher(&self, figures: impl Fn() -> WatchFigures + Send + Sync + 'static) {
        self.source(move |text: &mut Text| figures().write(text));
    }

    /// Everything as it is now, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = Text::default();
        self.process(&mut text);
        self.requests(&mut text);
        self.by_node(&mut text);
        let sources = self.sources.lock().clone();
        for source in sources {
            source.collect(&mut text);
        }
        text.into_string()
    }

    fn process(&self, text: &mut Text) {
        let mut info = text.family(
            "statelite_build_info",
            Kind::Gauge,
            "1, with the version of the program.",
        );
        info.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        let mut counter = |name, help, n: u64| text.single(name, Kind::Counter, help, n);
        let (copies, copied) = super::copies::so_far();
        let (read, written) = self.shared.bytes();
        counter(
            "statelite_copy_ups_total",
            "Objects that were copied to an upper before a change.",
            copies,
        );
        counter(
            "statelite_copy_up_bytes_total",
            "Bytes of their contents.",
            copied,
        );
        counter(
            "statelite_read_bytes_total",
            "Bytes of files that were read through the daemon, not by the kernel itself (io = \"passthrough\").",
            read,
        );
        counter(
            "statelite_written_bytes_total",
            "Bytes of files that were written through the daemon, not by the kernel itself (io = \"passthrough\").",
            written,
        );
        counter(
            "statelite_panics_total",
            "Requests that failed inside; each was answered EIO.",
            self.shared.panics(),
        );
    }

    fn requests(&self, text: &mut Text) {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        let mut times = text.family(
            "statelite_request_duration_seconds",
            Kind::Histogram,
            "From a request's arrival to its answer, by operation, of all nodes.",
        );
        for op in Op::ALL {
            let read = self.shared.times(op);
            let (above, within) = (read.buckets[read.buckets.len() - 1], read.buckets);
            if within.iter().any(|count| *count > 0) {
                let buckets = shared::bounds().map(seconds).zip(within);
                times.histogram(&[("op", op.name())], buckets, above, seconds(read.nanos));
            }
        }
        let mut errors = text.family(
            "statelite_request_errors_total",
            Kind::Counter,
            "Requests that were answered with an error, by operation and error, of all nodes.",
        );
        for op in Op::ALL {
            for (slot, count) in self.shared.errors(op) {
                let labels = [("op", op.name()), ("errno", &*errno::label(slot))];
                errors.sample(&labels, count);
            }
        }
    }

    fn by_node(&self, text: &mut Text) {
        let live: Vec<Arc<Node>> = {
            let mut nodes = self.nodes.lock();
            nodes.retain(|node| node.strong_count() > 0);
            nodes.iter().filter_map(Weak::upgrade).collect()
        };
        let mut totals: BTreeMap<&str, Totals> = BTreeMap::new();
        for node in &live {
            totals.entry(node.name()).or_default().add(&node.totals());
        }
        let (name, help) = ("statelite_nodes", "Roots that are served.");
        text.single(name, Kind::Gauge, help, totals.len() as u64);
        let mut requests = text.family(
            "statelite_requests_total",
            Kind::Counter,
            "Requests that were answered.",
        );
        for (node, total) in &totals {
            for op in Op::ALL {
                let count = total.requests[op as usize];
                if count > 0 {
                    requests.sample(&[("node", node), ("op", op.name())], count);
                }
            }
        }
        let counter = Kind::Counter;
        let mut each = |name, kind, help, value: &dyn Fn(&Totals) -> Option<super::Value>| {
            let mut family = text.family(name, kind, help);
            for (node, total) in &totals {
                if let Some(value) = value(total) {
                    family.sample(&[("node", node)], value);
                }
            }
        };
        each(
            "statelite_node_request_seconds_total",
            counter,
            "Time in requests.",
            &|t| Some((t.nanos as f64 / 1e9).into()),
        );
        each(
            "statelite_node_errors_total",
            counter,
            "Requests that were answered with an error, the expected ones (as ENOENT) included.",
            &|t| Some(t.errors.into()),
        );
        each(
            "statelite_node_failures_total",
            counter,
            "Requests that were answered EIO, ENOSPC, EDQUOT, EMFILE or ENFILE.",
            &|t| Some(t.failures.into()),
        );
        each(
            "statelite_node_inodes",
            Kind::Gauge,
            "Inodes that the kernel holds.",
            &|t| t.figures.map(|f| f.inodes.into()),
        );
        each(
            "statelite_node_tmpfs_used_bytes",
            Kind::Gauge,
            "Used bytes of the node's tmpfs.",
            &|t| t.figures?.tmpfs.map(|(used, _)| used.into()),
        );
        each(
            "statelite_node_tmpfs_size_bytes",
            Kind::Gauge,
            "Size of the node's tmpfs.",
            &|t| t.figures?.tmpfs.map(|(_, size)| size.into()),
        );
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("nodes", &self.nodes.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }

    #[test]
    fn what_nodes_and_sources_tell_is_in_the_text() {
        let registry = Registry::new();
        let figures = Figures {
            inodes: 12,
            tmpfs: Some((4096, 1 << 20)),
        };
        let one = registry.node("n1", move || Some(figures));
        let two = registry.node("n2", || None);
        for errno in [0, libc::ENOENT, libc::EIO] {
            one.finish(Op::Lookup, one.begin(), errno);
        }
        two.finish(Op::CopyFileRange, two.begin(), 0);
        two.panicked();
        one.read(10);
        two.read(5);
        one.written(3);
        registry.lookup_cache(|| CacheFigures {
            hits: 77,
            ..CacheFigures::default()
        });
        registry.watcher(|| WatchFigures {
            overflows: 1,
            ..WatchFigures::default()
        });
        let text = registry.text();
        has(&text, "statelite_nodes 2");
        has(
            &text,
            r#"statelite_requests_total{node="n1",op="lookup"} 3"#,
        );
        has(
            &text,
            r#"statelite_requests_total{node="n2",op="copy_file_range"} 1"#,
        );
        has(
            &text,
            r#"statelite_request_errors_total{op="lookup",errno="ENOENT"} 1"#,
        );
        has(
            &text,
            r#"statelite_request_duration_seconds_count{op="lookup"} 3"#,
        );
        has(&text, r#"statelite_node_errors_total{node="n1"} 2"#);
        has(&text, r#"statelite_node_failures_total{node="n1"} 1"#);
        has(&text, r#"statelite_node_failures_total{node="n2"} 0"#);
        has(&text, r#"statelite_node_inodes{node="n1"} 12"#);
        has(&text, r#"statelite_node_tmpfs_used_bytes{node="n1"} 4096"#);
        has(
            &text,
            r#"statelite_node_tmpfs_size_bytes{node="n1"} 1048576"#,
        );
        has(&text, "statelite_read_bytes_total 15");
        has(&text, "statelite_written_bytes_total 3");
        has(&text, "statelite_panics_total 1");
        has(&text, "statelite_lookup_cache_hits_total 77");
        has(&text, "statelite_watch_overflows_total 1");
        assert!(!text.contains("inodes{node=\"n2\"}"));
        // Totals stay when a node goes, its own series end.
        drop(one);
        let text = registry.text();
        assert!(!text.contains("n1"));
        has(
            &text,
            r#"statelite_request_duration_seconds_count{op="lookup"} 3"#,
        );
        has(&text, "statelite_read_bytes_total 15");
    }

    #[test]
    fn two_sessions_of_one_name_are_one_series() {
        let registry = Registry::new();
        let nodes = [registry.node("n", || None), registry.node("n", || None)];
        for node in &nodes {
            node.finish(Op::Getattr, node.begin(), 0);
        }
        let text = registry.text();
        let line = r#"statelite_requests_total{node="n",op="getattr"}"#;
        assert_eq!(text.matches(line).count(), 1);
        has(&text, &format!("{line} 2"));
        has(&text, "statelite_nodes 1");
    }

    #[test]
    fn nodes_that_are_gone_take_no_room() {
        let registry = Registry::new();
        for _ in 0..10_000 {
            drop(registry.node("n", || None));
        }
        assert!(registry.nodes.lock().capacity() < 64);
    }
}
