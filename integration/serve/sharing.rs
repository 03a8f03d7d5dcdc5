//! What the views of one daemon share, and what one of them cannot do to the others.

use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, dir, eventually, put, text};
use crate::daemon::Daemon;
use crate::hanging::Hanging;

/// A metric's value, summed over its labels.
fn metric(d: &Daemon<'_>, family: &str, with: &str) -> u64 {
    use std::io::{Read, Write};
    let mut stream = UnixStream::connect(d.path("run/metrics.sock")).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let lines = answer.lines().filter(|line| line.starts_with(family));
    lines
        .filter(|line| line.contains(with))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

fn with_metrics(c: &Cluster) {
    c.set(
        "metrics",
        &format!("\"unix:{}\"", c.path("run/metrics.sock").display()),
    );
}

/// Every path at and below a directory with what lstat and readlink say of it.
fn walk(root: &std::path::Path) -> usize {
    let mut count = 0;
    let mut todo = vec![root.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            count += 1;
            if stat.is_symlink() {
                std::fs::read_link(&path).unwrap();
            } else if stat.is_dir() {
                todo.push(path);
            }
        }
    }
    count
}

#[test]
fn the_second_node_asks_the_image_nothing() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    for n in 0..40 {
        dir(c.image(format!("usr/d{n}")));
        for f in 0..10 {
            put(c.image(format!("usr/d{n}/f{f}")), "x");
        }
        crate::cluster::link("f1", c.image(format!("usr/d{n}/l")));
    }
    with_metrics(&c);
    let d = Daemon::start(&c);
    let first = walk(&d.at(1, "usr"));
    assert_eq!(first, 40 * 12);
    let trace = d.path("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .args([
            "-e",
            "trace=%file,getdents64,statx,openat2,newfstatat,readlinkat",
        ])
        .arg("-p")
        .arg(d.worker().as_raw_nonzero().to_string())
        .spawn()
        .unwrap();
    // It follows the daemon once a call of the daemon's shows up: status is asked until then.
    eventually("strace follows the daemon", || {
        d.status();
        std::fs::metadata(&trace).is_ok_and(|m| m.len() > 0)
    });
    let misses = metric(&d, "statelite_lookup_cache_misses_total", "");
    assert_eq!(walk(&d.at(2, "usr")), first);
    assert_eq!(
        metric(&d, "statelite_lookup_cache_misses_total", ""),
        misses
    );
    kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    strace.wait().unwrap();
    let told = text(&trace);
    let of_image: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("usr/d") || line.contains("\"usr\""))
        .collect();
    assert!(of_image.is_empty(), "{of_image:#?}");
    // The first node's walk would have been seen: this one is not known yet.
    put(c.image("usr/d0/new"), "x");
    eventually("the new file is there", || {
        std::fs::symlink_metadata(d.at(1, "usr/d0/new")).is_ok()
    });
    assert!(metric(&d, "statelite_lookup_cache_misses_total", "") > misses);
}

/// kB of page cache, by /proc/meminfo.
fn cached() -> i64 {
    let table = text("/proc/meminfo");
    let line = table
        .lines()
        .find(|line| line.starts_with("Cached:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn many_views_of_a_file_are_one_copy_in_memory() {
    const MEGABYTES: i64 = 48;
    const NODES: u32 = 20;
    let c = Cluster::new(&[("/etc/x", "tmpfs")]).of(NODES as usize);
    put(
        c.image("usr/big"),
        vec![7; MEGABYTES as usize * 1024 * 1024],
    );
    with_metrics(&c);
    let d = Daemon::start(&c);
    if d.status_of(1)["io"] != "passthrough" {
        println!("skipped: this kernel has no passthrough");
        return;
    }
    assert_eq!(
        std::fs::read(d.at(1, "usr/big")).unwrap().len() as i64,
        MEGABYTES << 20
    );
    let before = cached();
    for node in 2..=NODES {
        assert_eq!(std::fs::read(d.at(node, "usr/big")).unwrap()[5], 7);
    }
    let grown = cached() - before;
    let a_copy_each = MEGABYTES * 1024 * i64::from(NODES - 1);
    assert!(
        grown < a_copy_each / 4,
        "{grown} kB more, a copy each is {a_copy_each} kB"
    );
    assert_eq!(metric(&d, "statelite_requests_total", "op=\"read\""), 0);
}

#[test]
fn a_store_that_hangs_stops_only_who_needs_it() {
    let c = Cluster::new(&[("/etc/x", "tmpfs"), ("/home/", "tmpfs")]);
    let hanging = Hanging::below(&c);
    let d = Daemon::start(&c);
    assert_eq!(text(d.at(1, "home/early")), "tree\n");
    let stopped = hanging.stop();
    let stuck = {
        let path = d.at(1, "home/late");
        std::thread::spawn(move || std::fs::read_to_string(path))
    };
    // The others, and the daemon itself, answer while that one waits.
    for n in 0..50 {
        std::fs::write(d.at(2, format!("home/f{n}").as_str()), "2\n").unwrap();
        assert_eq!(text(d.at(2, "etc/x")), "");
    }
    put(c.image("etc/fresh"), "live\n");
    eventually("a change in the image shows", || {
        std::fs::read_to_string(d.at(2, "etc/fresh")).is_ok_and(|t| t == "live\n")
    });
    // A litetree that comes is noticed, though another one hangs.
    put(hanging.trees[1].join("home/came"), "2\n");
    eventually("a change in a litetree shows", || {
        std::fs::read_to_string(d.at(2, "home/came")).is_ok_and(|t| t == "2\n")
    });
    assert!(!stuck.is_finished());
    drop(stopped);
    assert_eq!(stuck.join().unwrap().unwrap(), "tree\n");
    drop(d);
    hanging.end();
}

/// A node boots while a request of its last life waits for a store: its root comes back by itself,
/// emptied, once that request is over.
#[test]
fn a_reset_waits_for_a_root_that_hangs() {
    let c = Cluster::new(&[("/etc/x", "tmpfs"), ("/home/", "tmpfs")]);
    c.set("boot_window", "\"1h\"");
    put(c.image("etc/x"), "image\n");
    let hanging = Hanging::below(&c);
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    assert_eq!(text(d.at(1, "home/early")), "tree\n");
    let worker = d.worker();
    let stopped = hanging.stop();
    let stuck = {
        let path = d.at(1, "home/late");
        std::thread::spawn(move || std::fs::read_to_string(path))
    };
    let upper = c.tmpfs(1, "etc/x");
    // The request is on its way when the daemon waits in the litetree.
    let waits = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.as_raw_nonzero()));
        let calls = tasks
            .unwrap()
            .flatten()
            .map(|task| task.path().join("wchan"));
        let mut calls = calls.filter_map(|path| std::fs::read_to_string(path).ok());
        calls.any(|call| call == "request_wait_answer")
    };
    eventually("a request hangs", waits);
    // The hook, which is told, and its second call.
    for _ in 0..2 {
        let out = c.run(&["reset", "--on-boot", &c.node(1)]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("has not ended"), "{said}");
        assert_eq!(d.status_of(1)["state"], "retrying");
    }
    assert_eq!(text(&upper), "mine\n", "a request may yet write there");
    drop(stopped);
    // Its mount is gone, whatever the store says now.
    stuck.join().unwrap().unwrap_err();
    eventually("it is served again", || {
        d.status_of(1)["state"] == "serving"
    });
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    // That was this boot's.
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    assert!(
        c.says(&["reset", "--on-boot", &c.node(1)])
            .contains("nothing to do")
    );
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    drop(d);
    hanging.end();
}

/// Descriptors belong to the process, and what many nodes have open is more than it may have.
#[test]
fn open_files_of_all_nodes_together_are_bounded() {
    const NODES: u32 = 16;
    let c = Cluster::new(&[("/t/", "tmpfs")]).of(NODES as usize);
    let d = Daemon::start(&c);
    let pid = d.worker();
    let used = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    // A directory in use and what a request takes come on top of what is there now.
    let limit = 2 * used.unwrap().count() as u64 + u64::from(NODES) * 8;
    let most = rustix::process::Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, most).unwrap();
    let each = limit as u32 / NODES + 8;
    let mut open = Vec::new();
    for n in 0..each {
        for node in 1..=NODES {
            let at = d.at(node, &format!("t/f{n}"));
            let mut file = std::fs::File::options();
            let file = file.read(true).write(true).create(true).open(&at);
            open.push((at, file.unwrap()));
        }
    }
    assert!(open.len() as u64 > limit);
    for (at, file) in &open {
        let name = at.as_os_str().as_encoded_bytes();
        std::os::unix::fs::FileExt::write_all_at(file, name, 0).unwrap();
    }
    for (at, file) in &open {
        let mut found = vec![0; at.as_os_str().len()];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut found, 0).unwrap();
        assert_eq!(found, at.as_os_str().as_encoded_bytes());
    }
}
