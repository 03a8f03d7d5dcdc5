//! A worker that will never answer is replaced, and one that waits for a store is not.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, put, text};
use crate::daemon::Daemon;
use crate::hanging::Hanging;
use crate::kill::site;
use crate::load::Load;

/// `busy`: while another root is in use.
fn is_replaced(how: &str, busy: bool) {
    let c = site(10);
    let d = Daemon::start(&c);
    let load = busy.then(|| Load::start(&d.at(2, "opt"), 10, &d.at(2, "home")));
    put(c.path("stuck"), format!("{how} f7\n"));
    let began = Instant::now();
    // It waits, and is answered by the next worker.
    assert_eq!(text(d.at(1, "opt/f7")), "file 7\n");
    println!("{how}: answered after {:?}", began.elapsed());
    let worker = &d.status()["daemon"]["worker"];
    assert_eq!(worker["replaced"], 1, "{worker}");
    assert!(
        worker["last"]["why"].as_str().unwrap().contains("signal 6"),
        "{worker}"
    );
    assert!(
        d.log().contains("no thread will ever answer"),
        "{}",
        d.log()
    );
    assert_eq!(text(d.at(2, "opt/f7")), "file 7\n");
    if let Some(load) = load {
        load.end();
    }
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build does nothing wrong when it is asked to"
)]
fn a_deadlock_is_found_and_the_worker_replaced() {
    is_replaced("deadlock", false);
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build does nothing wrong when it is asked to"
)]
fn a_deadlock_is_found_while_other_roots_are_busy() {
    is_replaced("deadlock", true);
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build does nothing wrong when it is asked to"
)]
fn a_thread_that_spins_is_found_and_the_worker_replaced() {
    is_replaced("spin", false);
}

#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build does nothing wrong when it is asked to"
)]
#[test]
fn a_request_that_ends_one_worker_after_the_other_is_refused_and_the_rest_goes_on() {
    let c = site(10);
    let d = Daemon::start(&c);
    put(c.path("stuck"), "always-abort f7\n");
    crate::cluster::fails!(std::fs::metadata(d.at(1, "opt/f7")), EIO);
    let worker = &d.status()["daemon"]["worker"];
    assert_eq!(worker["replaced"], 5, "{worker}");
    assert!(d.log().contains("is refused"), "{}", d.log());
    assert_eq!(text(d.at(1, "opt/f6")), "file 6\n");
    assert_eq!(text(d.at(2, "opt/f6")), "file 6\n");
    std::fs::remove_file(c.path("stuck")).unwrap();
    assert_eq!(text(d.at(1, "opt/f7")), "file 7\n");
}

/// The litetree of one node is on a file system of another process that stops.
#[test]
fn a_store_that_hangs_is_waited_for_however_long_it_takes() {
    let c = Cluster::new(&[("/home/", "tmpfs")]);
    let hanging = Hanging::below(&c);
    for n in 0..10 {
        put(c.image(format!("opt/f{n}")), format!("file {n}\n"));
    }
    let d = Daemon::start(&c);
    let worker = d.worker();
    let stopped = hanging.stop();
    let path = d.at(1, "home/late");
    let stuck = std::thread::spawn(move || std::fs::read_to_string(path));
    let load = Load::of_a_reader(&d.at(2, "opt"), 10);
    // Longer than it takes to find a deadlock.
    let end = Instant::now() + Duration::from_secs(25);
    while Instant::now() < end {
        load.goes_on();
    }
    assert!(!stuck.is_finished());
    assert_eq!(d.worker(), worker);
    drop(stopped);
    assert_eq!(stuck.join().unwrap().unwrap(), "tree\n");
    load.end();
    assert_eq!(d.worker(), worker);
    drop(d);
    hanging.end();
}
