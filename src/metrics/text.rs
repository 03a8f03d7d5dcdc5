//! Prometheus' text format, version 0.0.4: what a scrape is answered with.

use std::fmt;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a family has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets with bounds.
    Histogram,
}

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Exact.
    Whole(u64),
    /// As in seconds.
    Real(f64),
}

impl From<u64> for Value {
    fn from(n: u64) -> Value {
        Value::Whole(n)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Value {
        Value::Real(n)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(n) => write!(f, "{n}"),
            Value::Real(n) if n.is_infinite() => {
                f.write_str(if *n > 0.0 { "+Inf" } else { "-Inf" })
            }
            Value::Real(n) => write!(f, "{n}"),
        }
    }
}

/// The text of a scrape while it is written. Each family's name is used once.
#[derive(Debug, Default)]
pub struct Text(String);

/// A family that samples are added to; HELP and TYPE are written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Begins a family. Names are Prometheus': `statelite_things_total` for counters, base units
    /// (`_seconds`, `_bytes`) for all.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.0.push_str("# HELP ");
        self.0.push_str(name);
        self.0.push(' ');
        escape(&mut self.0, help, false);
        self.0.push_str("\n# TYPE ");
        self.0.push_str(name);
        self.0.push(' ');
        self.0.push_str(kind);
        self.0.push('\n');
        Family {
            text: &mut self.0,
            name,
        }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// What was written.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample; label names are of ASCII letters and `_`, values are any text.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    /// Adds a histogram: for each bucket its upper bound and how many are in it, not summed up;
    /// `above`, how many are over the last bound; the sum of all values.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        above: u64,
        sum: f64,
    ) {
        let mut count = 0;
        for (bound, within) in buckets {
            count += within;
            self.line("_bucket", labels, Some(bound.into()), count.into());
        }
        count += above;
        let infinite = Some(f64::INFINITY.into());
        self.line("_bucket", labels, infinite, count.into());
        self.line("_sum", labels, None, sum.into());
        self.line("_count", labels, None, count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], le: Option<Value>, value: Value) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        let mut open = '{';
        for (name, value) in labels {
            text.push(open);
            text.push_str(name);
            text.push_str("=\"");
            escape(text, value, true);
            text.push('"');
            open = ',';
        }
        if let Some(le) = le {
            text.push(open);
            text.push_str(&format!("le=\"{le}\""));
            open = ',';
        }
        if open == ',' {
            text.push('}');
        }
        text.push_str(&format!(" {value}\n"));
    }
}

fn escape(text: &mut String, raw: &str, quotes: bool) {
    for c in raw.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_samples_and_histograms_as_the_format_has_them() {
        let mut text = Text::default();
        text.single("a_total", Kind::Counter, "With \\ and\nlines.", 7_u64);
        let mut family = text.family("b_seconds", Kind::Gauge, "Plain.");
        family.sample(&[("node", "c\"n\\1\n")], 0.5);
        family.sample(&[("node", "x"), ("op", "y")], f64::INFINITY);
        let buckets = [(0.000_002_048, 2), (1.0, 3)];
        let mut family = text.family("c", Kind::Histogram, "H.");
        family.histogram(&[("op", "read")], buckets.into_iter(), 1, 2.25);
        family.histogram(&[], std::iter::empty(), 0, 0.0);
        let expected = r#"# HELP a_total With \\ and\nlines.
# TYPE a_total counter
a_total 7
# HELP b_seconds Plain.
# TYPE b_seconds gauge
b_seconds{node="c\"n\\1\n"} 0.5
b_seconds{node="x",op="y"} +Inf
# HELP c H.
# TYPE c histogram
c_bucket{op="read",le="0.000002048"} 2
c_bucket{op="read",le="1"} 5
c_bucket{op="read",le="+Inf"} 6
c_sum{op="read"} 2.25
c_count{op="read"} 6
c_bucket{le="+Inf"} 0
c_sum 0
c_count 0
"#;
        assert_eq!(text.into_string(), expected);
    }
}
