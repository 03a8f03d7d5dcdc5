//! What the shared cache costs: a fact that is there, an absence, one that is not known, and what
//! forgetting takes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use statelite::cache::{Cache, Fact, Lookup, Object};
use statelite::sys::obj::Stat;

const FACTS: u32 = 100_000;

fn path(n: u32) -> Vec<u8> {
    format!("usr/share/doc/package-{}/file-{n}", n / 50).into_bytes()
}

/// Every second path is absent.
fn full() -> Cache {
    let cache = Cache::new(256 << 20);
    for n in 0..FACTS {
        let path = path(n);
        let Lookup::Miss(ticket) = cache.fact(1, &path) else {
            continue;
        };
        let fact = match n % 2 {
            0 => Fact::Object(Object {
                stat: Stat::default(),
                opaque: false,
                target: None,
            }),
            _ => Fact::Absent,
        };
        cache.put_fact(1, &path, fact, ticket);
    }
    assert_eq!(cache.counts().entries, u64::from(FACTS));
    cache
}

fn cache(c: &mut Criterion) {
    let cache = full();
    let mut group = c.benchmark_group("cache");
    for (what, first) in [("an object", 0), ("an absence", 1)] {
        let paths: Vec<Vec<u8>> = (first..FACTS).step_by(2).map(path).collect();
        let mut at = 0;
        group.bench_function(what, |b| {
            b.iter(|| {
                // From one end of the memory to the other, as a walk does.
                at = (at + 7919) % paths.len();
                assert!(matches!(
                    cache.fact(1, black_box(&paths[at])),
                    Lookup::Hit(_)
                ));
            })
        });
    }
    group.bench_function("not known", |b| {
        b.iter(|| {
            assert!(matches!(
                cache.fact(2, black_box(b"etc/x")),
                Lookup::Miss(_)
            ))
        })
    });
    group.bench_function("forgetting one", |b| {
        b.iter(|| cache.forget(2, black_box(b"etc/x")))
    });
    group.sample_size(10);
    group.bench_function("forgetting a directory of 50 among 100,000", |b| {
        b.iter_batched(
            full,
            |cache| {
                cache.forget_below(1, b"usr/share/doc/package-7");
                cache
            },
            BatchSize::PerIteration,
        )
    });
    group.finish();
}

criterion_group!(benches, cache);
criterion_main!(benches);
