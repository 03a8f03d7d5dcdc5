//! Prometheus' text format, read strictly: what a real scraper would refuse, or a linter warn of, panics.

use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Exposition {
    kinds: BTreeMap<String, String>,
    samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut exposition = Self {
            kinds: BTreeMap::new(),
            samples: Vec::new(),
        };
        let mut series = BTreeSet::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line
                .strip_prefix("# HELP ")
                .unwrap_or_else(|| panic!("HELP was expected: {line}"));
            let (family, help) = help.split_once(' ').unwrap();
            assert!(is_name(family) && !help.is_empty(), "{line}");
            let kind = lines
                .next()
                .unwrap()
                .strip_prefix(&format!("# TYPE {family} "));
            let kind = kind.unwrap_or_else(|| panic!("no TYPE of {family}"));
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            assert_eq!(
                kind == "counter",
                family.ends_with("_total"),
                "{family} is a {kind}"
            );
            let before = exposition.kinds.insert(family.to_owned(), kind.to_owned());
            assert_eq!(before, None, "{family} comes twice");
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (name, labels, value) = sample(line);
                let suffix = name
                    .strip_prefix(family)
                    .unwrap_or_else(|| panic!("{line} in {family}"));
                let suffixes: &[&str] = match kind {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(suffixes.contains(&suffix), "{line} in {family}");
                assert_eq!(suffix == "_bucket", labels.contains_key("le"), "{line}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                assert!(
                    series.insert((name.clone(), labels.clone())),
                    "{line} comes twice"
                );
                exposition.samples.push((name, labels, value));
            }
            if kind == "histogram" {
                exposition.check_histogram(family);
            }
        }
        exposition
    }

    fn check_histogram(&self, family: &str) {
        for (labels, count) in self.of(&format!("{family}_count")) {
            let (mut bound, mut below) = (f64::NEG_INFINITY, 0.0);
            for (bucket, within) in self.of(&format!("{family}_bucket")) {
                let mut rest = bucket.clone();
                let le = number(&rest.remove("le").unwrap());
                if rest == *labels {
                    assert!(le > bound && within >= below, "{family} {bucket:?}");
                    (bound, below) = (le, within);
                }
            }
            assert_eq!(
                (bound, below),
                (f64::INFINITY, count),
                "{family} {labels:?}"
            );
            self.value(&format!("{family}_sum"), labels);
        }
    }

    pub fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a Labels, f64)> {
        let ours = self.samples.iter().filter(move |(n, ..)| n == name);
        let found: Vec<_> = ours.map(|(_, labels, value)| (labels, *value)).collect();
        found.into_iter()
    }

    #[track_caller]
    fn value(&self, name: &str, labels: &Labels) -> f64 {
        let mut found = self.of(name).filter(|(l, _)| *l == labels).map(|(_, v)| v);
        found
            .next()
            .unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    /// One sample's value.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        self.value(name, &labels.iter().map(owned).collect())
    }

    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    pub fn families(&self) -> BTreeSet<&str> {
        self.kinds.keys().map(String::as_str).collect()
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line
        .find(['{', ' '])
        .unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c} in {line}"),
                    }),
                    (_, c) => value.push(c),
                }
            };
            assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
            rest = &after[end + 1..];
            match rest.split_at(1) {
                (",", more) => rest = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, number(value))
}

fn number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        other => other
            .parse()
            .unwrap_or_else(|_| panic!("{other} is no number")),
    }
}
