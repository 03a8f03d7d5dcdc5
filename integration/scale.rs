//! A large site, from its tables to what each node is to get: that it is right, and that what nodes
//! have in common is there once. Times and memory are printed, never asserted.
//!
//! An optimised build takes 100,000 rows and 5,000 nodes, another one a tenth of the rows.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "scale/site.rs"]
mod site;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use site::Size;
use statelite::fleet::build::{option_word, rule_path};
use statelite::fleet::{Plan, Planned, Shared, Use, plan, planned_view};
use statelite::tables::{CsvDir, RuleRow, Tables};

const SIZE: Size = Size {
    rows: if cfg!(debug_assertions) {
        10_000
    } else {
        100_000
    },
    nodes: 5_000,
    images: 8,
};

/// Says how long something took, on the clock and on the processors, and what memory there is.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let cpu = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (began, cpu_began) = (Instant::now(), cpu());
    let done = work();
    let (took, cpu) = (began.elapsed(), cpu() - cpu_began);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let memory = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    println!("{what}: {took:.2?}, processor {cpu:.2?}, {memory}");
    done
}

/// What an image's nodes are to have: of each path the most specific row, and the first of those
/// that are equally so.
fn expected(image: usize) -> BTreeMap<String, &'static str> {
    let mut best: HashMap<String, (usize, String, &'static str)> = HashMap::new();
    for n in 0..SIZE.rows {
        let rank = match n % 20 {
            0..8 => 1,
            8..10 => 2,
            10..16 if n / 20 % SIZE.images == image => 0,
            16..19 if n % 3 == image % 3 => 3,
            19 => 3,
            _ => continue,
        };
        let (path, option) = site::row(n);
        let key = path.trim_end_matches('/').to_owned();
        let best = best.entry(key).or_insert((rank, path.clone(), option));
        if rank < best.0 {
            *best = (rank, path, option);
        }
    }
    best.into_values()
        .map(|(_, path, option)| (path, option))
        .collect()
}

/// Where a rule's path leads to in the image: see the symlinks that the site has.
fn canonical(path: &str) -> String {
    let path = path.trim_matches('/').replacen("lnk/", "opt/vendor/", 1);
    match path.strip_prefix("opt/vendor/d") {
        Some(rest) => format!("opt/vendor/v2/d{rest}"),
        None => path,
    }
}

fn written(row: &RuleRow) -> (String, String) {
    let option = option_word(row);
    (
        rule_path(row),
        if option == "link" && !row.link {
            "tmpfs".into()
        } else {
            option
        },
    )
}

fn check_rules(node: &Planned, image: usize, stored: bool) {
    let word = |option: &str| if option.is_empty() { "link" } else { option }.to_owned();
    let wanted = expected(image).into_iter();
    let wanted: BTreeMap<String, String> = wanted
        .filter(|(_, option)| stored || !option.contains("persistent"))
        .map(|(path, option)| (path, word(option)))
        .collect();
    let found: BTreeMap<String, String> = node.rows().iter().map(|row| written(row)).collect();
    assert!(
        found == wanted,
        "{}: other rows than the tables give",
        node.spec().node
    );
    assert_eq!(node.rows().len(), wanted.len());
    for (index, row) in node.rows().iter().enumerate().step_by(7) {
        let at = canonical(&rule_path(row));
        let pos = node.rules().walk(at.as_bytes());
        assert_eq!(node.rules().zone(pos.zone).rule(), Some(index), "{at}");
        assert!(node.rules().begins(pos) && node.rules().guarded(pos));
        let beside = node.rules().walk(format!("{at}-beside").as_bytes());
        assert_ne!(
            node.rules().zone(beside.zone).rule(),
            Some(index),
            "{at}-beside"
        );
    }
}

fn check_plan(plan: &Plan) {
    assert_eq!(plan.nodes().len(), SIZE.nodes);
    assert!(plan.refused().is_empty(), "{:?}", plan.refused().first());
    let mut firsts: BTreeMap<(usize, bool), &Planned> = BTreeMap::new();
    for n in 0..SIZE.nodes {
        let node = plan.node(&site::node(n)).unwrap();
        let stored = n % site::STORELESS != site::STORELESS - 1;
        assert_eq!(node.spec().image.name, site::image(n % SIZE.images));
        assert_eq!(node.spec().store.is_some(), stored);
        let tree = &node.spec().trees[0].location.path;
        assert!(tree.ends_with(site::node(n)), "{}", tree.display());
        let rack = &node.spec().trees[1].location.path;
        assert!(rack.ends_with(format!("r{}", n / 40)), "{}", rack.display());
        let first = firsts.entry((n % SIZE.images, stored)).or_insert(node);
        assert!(node.rules().shares(first.rules()));
        assert!(std::sync::Arc::ptr_eq(node.rows(), first.rows()));
        let own = format!(".statelite/persistent/{}", site::node(n));
        let own = node.rules().walk(own.as_bytes());
        assert_eq!(node.rules().begins(own), stored);
    }
    let sets: Vec<&&Planned> = firsts.values().collect();
    for (at, one) in sets.iter().enumerate() {
        assert!(
            sets[..at]
                .iter()
                .all(|other| !one.rules().shares(other.rules()))
        );
    }
    let bytes: usize = sets.iter().map(|one| one.rules().shared_bytes()).sum();
    let rules: usize = sets.iter().map(|one| one.rows().len()).sum();
    println!(
        "{} trees of {rules} rules together: {bytes} bytes",
        sets.len()
    );
    for image in [0, SIZE.images - 1] {
        check_rules(firsts[&(image, true)], image, true);
    }
    let last = SIZE.images - 1;
    check_rules(firsts[&(last, false)], last, false);
}

#[test]
fn a_large_site_is_planned_once() {
    let dir = tempfile::tempdir().unwrap();
    let config = site::write(dir.path(), SIZE);
    println!("{SIZE:?}");
    let (tables, first) = timed("reading and planning", || {
        let tables = timed("  reading", || Tables::load(&CsvDir::new(&config.tables)));
        let nodes = tables.nodes();
        let first = timed("  planning", || plan(&tables, &config, &nodes, None));
        (tables, first)
    });
    check_plan(&first);
    let nodes = tables.nodes();
    let again = timed("planning once more", || {
        plan(&tables, &config, &nodes, Some(&first))
    });
    let same = timed("comparing", || {
        let pairs = first.nodes().iter().zip(again.nodes());
        pairs.filter(|(a, b)| a.same_view(b)).count()
    });
    assert_eq!(same, SIZE.nodes);
    assert!(again.nodes()[0].rules().shares(first.nodes()[0].rules()));
    drop(again);
    let told = timed("checking the tables", || tables.check(&config));
    assert_eq!(told.len(), 1, "{:?}", told.first());
    let storeless = "there are persistent rules, but no store to keep what is written (nodes ";
    assert!(told[0].message.starts_with(storeless), "{}", told[0]);
    timed("what xCAT would refuse", || tables.check_strict_xcat());
    let all: Vec<String> = first.problems().iter().map(ToString::to_string).collect();
    let of_bare = |line: &String| {
        line.contains("is persistent, but nodes") && line.contains(" have no store")
    };
    assert!(
        !all.is_empty() && all.iter().all(of_bare),
        "{:?}",
        all.first()
    );
    let shared = Shared::for_a_look();
    timed("a view of each node", || {
        for node in first.nodes() {
            planned_view(node, &config, Use::Look, &shared).unwrap();
        }
    });
}
