//! How long a reader waits when the worker is killed, with one root and with many.

use crate::daemon::{Daemon, prepare};
use crate::kill::{kill, site};
use crate::load::Load;

fn pauses(roots: usize) {
    let c = site(100);
    let mut list = String::from("#node,groups\n");
    for n in 1..=roots {
        list.push_str(&format!("{},compute\n", c.node(n as u32)));
    }
    c.table("nodelist", &list);
    prepare(&c);
    let d = Daemon::launch(&c, &[]);
    d.told("READY=1");
    let load = Load::of_a_reader(&d.at(roots as u32, "opt"), 100);
    let mut longest = Vec::new();
    for _ in 0..5 {
        load.goes_on();
        load.pause();
        kill(&d);
        load.goes_on();
        longest.push(load.pause());
    }
    load.end();
    longest.sort();
    println!(
        "{roots} roots: a reader waited {:?}, at most {:?}",
        longest[2], longest[4]
    );
    assert_eq!(d.mounts().len(), roots);
}

#[test]
fn a_reader_waits_for_a_moment() {
    for roots in [1, 100, 1000] {
        pauses(roots);
    }
}
