//! What requests cost without the kernel: lookups that are found and not, attributes, a listing,
//! a copy-up. Uppers in the system's temporary directory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use statelite::fleet::{PlainSpec, Shared, plain_view};
use statelite::fs::{Caller, OpenHow, View};
use statelite::layer::FormChoice;

const ROOT: u64 = 1;
const ME: Caller = Caller { uid: 0, gid: 0 };

/// A view over `levels` lower directories, the last of which has everything.
fn view(dir: &Path, levels: usize) -> View {
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
        &Shared::for_a_look(),
    )
    .unwrap()
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for levels in [1, 4, 16] {
        let dir = tempfile::tempdir().unwrap();
        let view = view(dir.path(), levels);
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
    let view = view(dir.path(), 1);
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

fn copy_up(c: &mut Criterion) {
    c.bench_function("copy-up of 4 KiB", |b| {
        b.iter_batched(
            || {
                let dir = tempfile::tempdir().unwrap();
                let view = view(dir.path(), 1);
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
    targets = lookups, listing, copy_up
}
criterion_main!(benches);
