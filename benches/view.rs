//! What requests cost without the kernel: lookups that are found and not, attributes, listings,
//! a copy-up. Uppers in the system's temporary directory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use statelite::config::Config;
use statelite::fleet::{PlainSpec, Shared, plain_view};
use statelite::fs::{Caller, OpenHow, View};
use statelite::layer::FormChoice;

const ROOT: u64 = 1;
const ME: Caller = Caller { uid: 0, gid: 0 };

/// A view over `levels` lower directories, the last of which has everything.
fn view(dir: &Path, levels: usize, shared: &Shared) -> View {
    let lower: Vec<_> = (0..levels).map(|n| dir.join(format!("lower{n}"))).collect();
    for path in lower.iter().chain([&dir.join("upper"), &dir.join("work")]) {
        std::fs::create_dir_all(path.join("d")).unwrap();
    }
    let last = lower.last().unwrap().join("d");
    for n in 0..1000 {
        std::fs::write(last.join(format!("f{n}")), [7; 4096]).unwrap();
    }
    plain_view(
        &PlainSpec {
            io: statelite::fs::IoMode::default(),
            lower,
            upper: dir.join("upper"),
            work: dir.join("work"),
            lifetime: Duration::from_secs(3600),
            form: FormChoice::Auto,
        },
        shared,
    )
    .unwrap()
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for levels in [1, 4, 16] {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path(), levels, &Shared::for_a_look());
        let parent = view.lookup(ROOT, b"d").unwrap().attr.number;
        for (what, name) in [("found", &b"f7"[..]), ("absent", b"nothing")] {
            group.bench_function(BenchmarkId::new(what, levels), |b| {
                b.iter(|| {
                    if let Ok(entry) = view.lookup(parent, name) {
                        view.forget(entry.attr.number, 1);
                    }
                })
            });
        }
    }
    group.finish();
}

fn listing(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path(), 1, &Shared::for_a_look());
    let parent = view.lookup(ROOT, b"d").unwrap().attr.number;
    c.bench_function("readdir of 1,000 names", |b| {
        b.iter(|| {
            view.opendir(parent).unwrap();
            let mut count = 0;
            view.readdir(parent, 0, |_| {
                count += 1;
                false
            })
            .unwrap();
            assert_eq!(count, 1002);
        })
    });
}

/// Entries with their attributes, and all of them forgotten, as a walk does; over a directory whose
/// changes are told of, where the system allows that.
fn listing_plus(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let shared = Shared::new(&Config::default());
    let view = view(dir.path(), 1, &shared);
    let parent = view.lookup(ROOT, b"d").unwrap().attr.number;
    let mut listed = Vec::new();
    c.bench_function("readdirplus of 1,000 names", |b| {
        b.iter(|| {
            let mut last = 0;
            for requests in 0.. {
                let before = listed.len();
                view.readdirplus(parent, last, |entry, _, _| {
                    if !matches!(entry.name, b"." | b"..") {
                        listed.push(entry.number);
                    }
                    last = entry.cookie;
                    false
                })
                .unwrap();
                if listed.len() == before {
                    assert_eq!((listed.len(), requests), (1000, 1));
                    break;
                }
            }
            for number in listed.drain(..) {
                view.forget(number, 1);
            }
        })
    });
}

fn copy_up(c: &mut Criterion) {
    c.bench_function("copy-up of 4 KiB", |b| {
        b.iter_batched(
            || {
                let dir = tempfile::tempdir().unwrap();
                let view = view(dir.path(), 1, &Shared::for_a_look());
                let parent = view.lookup(ROOT, b"d").unwrap().attr.number;
                let file = view.lookup(parent, b"f1").unwrap().attr.number;
                (dir, view, file)
            },
            |(dir, view, file)| {
                let handle = view
                    .open(file, OpenHow::from_raw(libc::O_RDWR), ME)
                    .unwrap();
                view.release(handle);
                (dir, view)
            },
            BatchSize::PerIteration,
        )
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = lookups, listing, listing_plus, copy_up
}
criterion_main!(benches);
