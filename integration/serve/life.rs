//! Starting, stopping, and what the service manager is told.

use rustix::process::Signal;

use crate::cluster::{Cluster, eventually, exists, put, text};
use crate::daemon::{Daemon, json, prepare};

#[test]
fn every_node_is_mounted_and_has_its_own() {
    let c = Cluster::new(&[("/etc/x", "tmpfs"), ("/home/", "persistent")]);
    put(c.image("etc/x"), "image\n");
    let d = Daemon::start(&c);
    let status = d.status();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 2);
    let one = d.status_of(1);
    assert_eq!(one["state"], "serving", "{one}");
    assert_eq!(one["image"], crate::cluster::IMAGE);
    assert_eq!(one["mountpoint"], d.root(1).to_str().unwrap());
    let io = one["io"].as_str().unwrap();
    assert!(["passthrough", "daemon"].contains(&io), "{io}");
    let layers: Vec<_> = one["layers"].as_array().unwrap().iter().collect();
    let named: Vec<_> = layers
        .iter()
        .map(|l| l["layer"].as_str().unwrap())
        .collect();
    let expected = "image, litetree 1, litetree 2, tmpfs upper, persistent upper, localdisk upper";
    assert_eq!(named.join(", "), expected);
    assert!(
        layers.iter().all(|layer| layer["missing"].is_null()),
        "{one}"
    );
    assert_eq!(
        layers[4]["path"],
        d.store(1, "").to_str().unwrap().trim_end_matches('/')
    );

    std::fs::write(d.at(1, "etc/x"), "one\n").unwrap();
    std::fs::write(d.at(2, "home/y"), "two\n").unwrap();
    assert_eq!(text(d.at(1, "etc/x")), "one\n");
    assert_eq!(text(d.at(2, "etc/x")), "image\n");
    assert!(!exists(d.at(1, "home/y")));
    assert_eq!(text(d.store(2, "home/y")), "two\n");
    let said = c.run(&["status"]);
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("2 of 2 served well"), "{said}");
    let said = c.says(&["status", &c.node(1)]);
    assert!(
        said.contains("persistent upper") && !said.contains(&c.node(2)),
        "{said}"
    );
}

#[test]
fn only_root_writes_what_the_daemon_makes() {
    let c = Cluster::new(&[("/etc/x", "tmpfs"), ("/home/", "persistent")]);
    put(c.image("etc/x"), "image\n");
    let d = Daemon::start(&c);
    for file in ["etc/x", "home/new"] {
        std::fs::write(d.at(1, file), "").unwrap();
    }
    let find = ["-xdev", "!", "-type", "l", "-perm", "/022", "-print"];
    let places = [c.path("."), c.tmpfs(1, "."), d.store(1, ".")];
    let found = std::process::Command::new("find")
        .args(places)
        .args(find)
        .output()
        .unwrap();
    assert!(found.status.success(), "{found:?}");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(exists(c.tmpfs(1, ".")) && exists(d.root(1)));
    // The mount points, too, once nothing is mounted there.
    let point = d.root(1);
    drop(d);
    assert_eq!(crate::cluster::mode(point) & 0o777, 0o755);
}

/// Files without contents take no room of a tmpfs' size, but of the server's memory.
#[test]
fn empty_files_are_bounded_by_the_size_of_the_tmpfs() {
    let c = Cluster::new(&[("/var/", "tmpfs")]);
    crate::cluster::dir(c.image("var"));
    c.set("tmpfs_size", "\"16M\"");
    let d = Daemon::start(&c);
    let made = |n: usize| std::fs::File::create_new(d.at(1, &format!("var/{n}")));
    let end = (0..40_000).find_map(|n| Some((n, made(n).err()?)));
    let (count, error) = end.expect("there is an end");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    assert!((16_000..=16 << 10).contains(&count), "{count}");
    std::fs::remove_file(d.at(1, "var/0")).unwrap();
    made(0).unwrap();
    // With another size there are more, or as many as are used.
    c.set("tmpfs_size", "\"32M\"");
    d.reload();
    made(count).unwrap();
    c.set("tmpfs_size", "\"4M\"");
    d.reload();
    assert!(c.run(&["status"]).status.success());
    assert_eq!(std::fs::read(d.at(1, "var/7")).unwrap(), b"");
}

#[test]
fn a_noderange_chooses_nodes() {
    let c = Cluster::new(&[]);
    let d = Daemon::with(&c, &[&c.node(2)]);
    assert_eq!(d.mounts(), [d.root(2).to_str().unwrap()]);
    let out = c.run(&["mount", &c.node(1)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let out = c.run(&["status", &c.node(1)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    drop(d);
    let out = c.run(&["serve", "nobody"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("nobody"),
        "{out:?}"
    );
}

#[test]
fn without_a_daemon_the_commands_say_so() {
    let c = Cluster::new(&[]);
    prepare(&c);
    let node = c.node(1);
    for args in [
        &["status"][..],
        &["reload"],
        &["umount", &node],
        &["mount", &node],
    ] {
        let out = c.run(args);
        assert_eq!(out.status.code(), Some(3), "{args:?}: {out:?}");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            said.contains("run/control.sock: start it with statelite serve"),
            "{said}"
        );
    }
    assert!(c.explain(1, "/etc").contains("zone"), "explain needs none");
}

#[test]
fn sigterm_unmounts_everything() {
    let c = Cluster::new(&[]);
    let mut d = Daemon::start(&c);
    assert_eq!(d.mounts().len(), 2);
    d.signal(Signal::TERM);
    d.told("STOPPING=1");
    assert_eq!(d.end(), Some(0), "{}", d.log());
    assert_eq!(d.mounts(), [""; 0]);
    assert!(!exists(c.path("run/control.sock")));
}

#[test]
fn what_is_in_use_is_detached_after_the_grace() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    c.set("stop_grace", "\"1ms\"");
    let mut d = Daemon::start(&c);
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    d.signal(Signal::INT);
    assert_eq!(d.end(), Some(0), "{}", d.log());
    assert_eq!(d.mounts(), [""; 0]);
    assert!(d.log().contains("its users' files fail now"), "{}", d.log());
    drop(held);
}

#[test]
fn a_second_signal_waits_for_nobody() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    c.set("stop_grace", "\"1h\"");
    let mut d = Daemon::start(&c);
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    d.signal(Signal::TERM);
    d.told("STOPPING=1");
    // The other node is unmounted: the first round is over, or nearly.
    eventually("the idle root is gone", || d.mounts().len() == 1);
    d.signal(Signal::TERM);
    assert_eq!(d.end(), Some(0), "{}", d.log());
    assert_eq!(d.mounts(), [""; 0]);
    drop(held);
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_ones_leavings_are_cleared() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let mut d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "before\n").unwrap();
    let second = c.run(&["serve"]);
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let pid = d.pid().as_raw_nonzero();
    assert!(
        said.contains(&format!("another daemon (process {pid})")),
        "{said}"
    );
    assert_eq!(d.status_of(1)["state"], "serving");

    d.signal(Signal::KILL);
    assert_eq!(d.end(), None);
    assert!(
        exists(c.path("run/control.sock")),
        "a killed one leaves its socket"
    );
    let d = Daemon::start(&c);
    assert_eq!(d.mounts().len(), 2, "the dead roots are gone");
    assert_eq!(text(d.at(1, "etc/x")), "before\n");
}

#[test]
fn the_service_manager_is_told() {
    let c = Cluster::new(&[]);
    prepare(&c);
    let d = Daemon::launch(&c, &[]);
    let ready = d.told("READY=1");
    assert!(ready.contains("STATUS=serving 2 of 2 nodes"), "{ready}");
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    let status = d.told("STATUS=");
    assert!(
        status.contains("serving 1 of 2 nodes, 1 unmounted"),
        "{status}"
    );
    d.signal(Signal::HUP);
    let reloading = d.told("RELOADING=1");
    let monotonic = reloading
        .lines()
        .find_map(|l| l.strip_prefix("MONOTONIC_USEC="));
    assert!(
        monotonic.unwrap().parse::<u64>().unwrap() > 0,
        "{reloading}"
    );
    d.told("READY=1");
}

#[test]
fn the_service_manager_is_told_what_a_reload_took_back() {
    const ONE: &str = "STATUS=serving 1 of 2 nodes, 1 unmounted";
    let c = Cluster::new(&[]).of(3);
    c.table("nodelist", "#node,groups\n%1,compute\n%2,compute\n");
    let d = Daemon::start(&c);
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    d.told(ONE);
    c.table("nodelist", "#node,groups\n%2,compute\n%3,compute\n");
    d.reload();
    let ready = d.told("READY=1");
    assert!(ready.contains("STATUS=serving 2 of 2 nodes"), "{ready}");
    // The very words of before, which are news again.
    assert!(c.run(&["umount", &c.node(3)]).status.success());
    d.told(ONE);
}

#[test]
fn a_thousand_nodes() {
    const NODES: usize = 1000;
    let c = Cluster::new(&[
        ("/etc/x", "tmpfs"),
        ("/home/", "persistent"),
        ("/var/", "tmpfs"),
    ]);
    put(c.image("etc/x"), "image\n");
    let mut list = String::from("#node,groups\n");
    for n in 1..=NODES {
        list.push_str(&format!("{},compute\n", c.node(n as u32)));
    }
    c.table("nodelist", &list);
    prepare(&c);
    let began = std::time::Instant::now();
    let mut d = Daemon::launch(&c, &[]);
    let ready = d.told("READY=1");
    println!("{NODES} nodes mounted in {:?}", began.elapsed());
    assert!(
        ready.contains(&format!("serving {NODES} of {NODES} nodes")),
        "{ready}"
    );
    assert_eq!(d.mounts().len(), NODES);
    std::fs::write(d.at(NODES as u32, "etc/x"), "the last one's\n").unwrap();
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    let pid = d.worker().as_raw_nonzero();
    let status = text(format!("/proc/{pid}/status"));
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    println!("{} KiB resident, {fds} descriptors", field("VmRSS:"));
    // The session twice, its state, and each of three uppers with two locks; the rest is shared.
    assert!(fds < 12 * NODES + 100, "{fds} descriptors");
    // Two a session, and what sends, copies and waits for all: at most 64 of each kind.
    assert!(field("Threads:") <= 2 * NODES + 150, "{status}");
    // An unoptimised program of some 10 MiB and its libraries are in this, too.
    assert!(field("VmRSS:") < 64 * NODES + (32 << 10), "{status}");
    let all = json(&c.run(&["--json", "status"]));
    assert_eq!(all["nodes"].as_array().unwrap().len(), NODES);
    let began = std::time::Instant::now();
    d.signal(Signal::TERM);
    assert_eq!(d.end(), Some(0));
    println!("and unmounted in {:?}", began.elapsed());
    assert_eq!(d.mounts(), [""; 0]);
}
