//! How soon a change shows. Measured and printed, never judged.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::site::Site;

const VIEWS: usize = 100;
const ROUNDS: u32 = 100;

/// One kind of change: what it does to the layer's file, and whether a view shows it.
struct Kind {
    name: &'static str,
    /// Makes the state in which a round begins.
    before: fn(&Path),
    change: fn(&Path, u32),
    shows: fn(&Path, u32) -> bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "edit in place",
        before: |f| set_times(f, 1_000_000).unwrap(),
        change: |f, n| pwrite(&open_rw(f).unwrap(), 0, format!("{n:09}")).unwrap(),
        shows: |f, _| lstat(f).unwrap().st_mtime != 1_000_000,
    },
    Kind {
        name: "rename over",
        before: |f| write(f.with_extension("new"), "").unwrap(),
        change: |f, n| {
            let new = f.with_extension("new");
            truncate(&new, u64::from(n) + 20).unwrap();
            rename(new, f).unwrap();
        },
        shows: |f, n| lstat(f).unwrap().st_size == i64::from(n) + 20,
    },
    Kind {
        name: "create",
        before: |f| unlink(f).unwrap(),
        change: |f, _| write(f, "new").unwrap(),
        shows: |f, _| exists(f),
    },
    Kind {
        name: "delete",
        before: |f| write(f, "old").unwrap(),
        change: |f, _| unlink(f).unwrap(),
        shows: |f, _| !exists(f),
    },
    Kind {
        name: "chmod",
        before: |f| write(f, "f").and_then(|()| chmod(f, 0o644)).unwrap(),
        change: |f, _| chmod(f, 0o600).unwrap(),
        shows: |f, _| perm(f) == 0o600,
    },
];

/// From the end of the change to the end of the first lstat that shows it, of each view. Views are
/// looked at in turn, and those that have shown it no more: a look at one that has not is answered
/// by its kernel side without the daemon, in about a microsecond, so that what is measured of a view
/// is at most one round of such looks too long, beside what the daemon takes to answer the looks at
/// those that are told already.
fn round(site: &Site, kind: &Kind, n: u32, took: &mut Vec<Duration>) {
    let path = "d/sub/measured";
    (kind.before)(&site.low(1, path));
    site.settle();
    let paths: Vec<_> = site.views.iter().map(|view| view.at(path)).collect();
    for path in paths.iter().chain(&paths) {
        assert!(!(kind.shows)(path, n), "{} shows early", kind.name);
    }
    (kind.change)(&site.low(1, path), n);
    let start = Instant::now();
    let mut waiting: Vec<_> = paths.iter().collect();
    while !waiting.is_empty() {
        waiting.retain(|path| {
            let shown = (kind.shows)(path, n);
            if shown {
                took.push(start.elapsed());
            }
            !shown
        });
        assert!(
            start.elapsed().as_secs() < 60,
            "{} does not show",
            kind.name
        );
        // On one CPU the daemon is to have it between the rounds.
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "measures; run it alone and in release, on a machine that does nothing else"]
fn how_soon_a_change_shows_in_a_hundred_views() {
    let site = Site::new(2, VIEWS, |lowers| {
        std::fs::create_dir_all(lowers[1].join("d/sub")).unwrap();
        write(lowers[1].join("d/sub/measured"), "as it was").unwrap();
    });
    let mut line = Vec::new();
    for kind in &KINDS {
        let mut took = Vec::new();
        (0..ROUNDS).for_each(|n| round(&site, kind, n, &mut took));
        took.sort();
        let at = |share: usize| took[took.len() * share / 100 - 1];
        let (p50, p99, max) = (at(50), at(99), at(100));
        line.push(format!(
            "{}: p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}",
            kind.name
        ));
    }
    println!("until {VIEWS} views show it: {}", line.join("; "));
}
