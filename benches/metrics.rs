//! What counting costs a request: alone, with neighbours on other processors, and where metrics are off.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, criterion_group, criterion_main};
use statelite::metrics::{Node, Op, Registry, clock};

fn request(node: &Node) {
    let begun = node.begin();
    node.finish(Op::Lookup, begun, 0);
}

fn counting(c: &mut Criterion) {
    println!("one reading of the clock: {:?}", clock::cost());
    let mut group = c.benchmark_group("counting a request");
    let registry = Registry::new();
    let node = registry.node("n1", || None);
    group.bench_function("metrics on", |b| b.iter(|| request(&node)));
    group.bench_function("answered with ENOENT", |b| {
        b.iter(|| node.finish(Op::Lookup, node.begin(), libc::ENOENT))
    });
    let off = Node::unobserved("n1");
    group.bench_function("metrics off", |b| b.iter(|| request(&off)));
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = registry.node("n2", || None);
            while !ends.load(Ordering::Relaxed) {
                request(&other);
            }
        });
        group.bench_function("beside a busy node", |b| b.iter(|| request(&node)));
        ends.store(true, Ordering::Relaxed);
    });
    group.finish();
}

fn scrape(c: &mut Criterion) {
    let registry = Registry::new();
    let nodes: Vec<_> = (0..1000)
        .map(|n| registry.node(&format!("node{n}"), || None))
        .collect();
    for node in &nodes {
        for op in Op::ALL {
            node.finish(op, node.begin(), 0);
        }
    }
    c.bench_function("scrape of 1,000 nodes", |b| {
        b.iter(|| registry.text().len())
    });
}

criterion_group!(benches, counting, scrape);
criterion_main!(benches);
