//! What a step through the rule tree costs, by the number of rules: it should not depend on it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use statelite::rules::{CompileOptions, Rule, compile};
use statelite::tables::LiteOption;

fn rules(count: usize) -> Vec<Rule> {
    let rule = |n: usize| Rule {
        path: format!("var/lib/app{}/state{n}", n % 97).into_bytes(),
        dir: true,
        option: LiteOption::Tmpfs,
        link: false,
    };
    (0..count).map(rule).collect()
}

fn look_up(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    let options = CompileOptions {
        node: b"cn1".to_vec(),
        compat_dirs: true,
        mtab: true,
        persistent: true,
        ..CompileOptions::default()
    };
    for count in [10, 1_000, 100_000] {
        let tree = compile(&rules(count), &options);
        println!(
            "{count} rules: {} bytes a rule",
            tree.shared_bytes() / count
        );
        let dir = tree.walk(b"var/lib/app7");
        let outside = tree.walk(b"usr/share");
        group.bench_function(BenchmarkId::new("step hit", count), |b| {
            b.iter(|| tree.step(black_box(dir), black_box(b"state7")))
        });
        group.bench_function(BenchmarkId::new("step miss", count), |b| {
            b.iter(|| tree.step(black_box(dir), black_box(b"other7")))
        });
        group.bench_function(BenchmarkId::new("step outside", count), |b| {
            b.iter(|| tree.step(black_box(outside), black_box(b"doc")))
        });
        group.bench_function(BenchmarkId::new("walk of six names", count), |b| {
            b.iter(|| tree.walk(black_box(b"var/lib/app7/state7/dir/file")))
        });
        // One after the other, so that the processor's caches do not have them all.
        let paths: Vec<Vec<u8>> = rules(count).into_iter().map(|rule| rule.path).collect();
        let mut next = paths.iter().cycle().step_by(7919 % count + 1);
        group.bench_function(BenchmarkId::new("walk to each rule", count), |b| {
            b.iter(|| next.next().map(|path| tree.walk(black_box(path))))
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let rules = rules(100_000);
    c.bench_function("rules/compile 100,000", |b| {
        b.iter(|| compile(black_box(&rules), &CompileOptions::default()))
    });
}

criterion_group!(benches, look_up, build);
criterion_main!(benches);
