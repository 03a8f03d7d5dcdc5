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

fn walk(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules: walk of five names");
    for count in [10, 1_000, 100_000] {
        let tree = compile(&rules(count), &CompileOptions::default());
        group.bench_function(BenchmarkId::new("ruled", count), |b| {
            b.iter(|| tree.walk(black_box(b"var/lib/app7/state7/file")))
        });
        group.bench_function(BenchmarkId::new("outside", count), |b| {
            b.iter(|| tree.walk(black_box(b"usr/share/doc/bash/README")))
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let rules = rules(10_000);
    c.bench_function("rules: compile 10,000", |b| {
        b.iter(|| compile(black_box(&rules), &CompileOptions::default()))
    });
}

criterion_group!(benches, walk, build);
criterion_main!(benches);
