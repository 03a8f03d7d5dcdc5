//! The worker is killed, at any moment.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Signal, kill_process};

use crate::cluster::{Cluster, eventually, exists, put, text};
use crate::daemon::{Daemon, json, prepare};
use crate::hanging::Stopped;
use crate::load::Load;

/// A site with something to read and to write.
pub fn site(files: usize) -> Cluster {
    let c = Cluster::new(&[("/var/", "tmpfs"), ("/home/", "persistent")]);
    for n in 0..files {
        put(c.image(format!("opt/f{n}")), format!("file {n}\n"));
    }
    for dir in ["var", "home"] {
        crate::cluster::dir(c.image(dir));
    }
    c
}

/// Kills the worker, and waits for the next one to serve.
#[track_caller]
pub fn kill(d: &Daemon<'_>) {
    let before = d.worker();
    kill_process(before, Signal::KILL).unwrap();
    d.told("READY=1");
    assert_ne!(d.worker(), before);
}

#[test]
fn a_killed_worker_is_not_noticed_by_readers_and_writers() {
    let c = site(200);
    let d = Daemon::start(&c);
    let loads: Vec<Load> = (1..=2)
        .map(|n| {
            Load::start(
                &d.at(n, "opt"),
                200,
                &d.at(n, ["", "var", "home"][n as usize]),
            )
        })
        .collect();
    let mounts = mount_ids(&d);
    const KILLS: u64 = 15;
    for _ in 0..KILLS {
        loads.iter().for_each(Load::goes_on);
        kill(&d);
    }
    assert_eq!(mount_ids(&d), mounts, "nothing was mounted anew");
    for load in loads {
        let (rounds, longest) = load.end();
        println!("{rounds} operations, the longest took {longest:?}");
    }
    let status = d.status();
    let worker = &status["daemon"]["worker"];
    assert_eq!(worker["replaced"], KILLS, "{status}");
    assert!(
        worker["last"]["why"].as_str().unwrap().contains("signal 9"),
        "{status}"
    );
    assert_eq!(status["daemon"]["pid"], d.pid().as_raw_nonzero().get());
    let said = c.says(&["status"]);
    assert!(said.contains("replaced 15 times"), "{said}");
}

fn mount_ids(d: &Daemon<'_>) -> Vec<String> {
    let roots = d.path("roots");
    let table = text("/proc/self/mountinfo");
    let lines = table
        .lines()
        .filter(|line| line.contains(roots.to_str().unwrap()));
    lines
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn who_asks_meanwhile_waits() {
    let c = site(1);
    let d = Daemon::start(&c);
    // One that can't start for a while.
    let worker = d.worker();
    for _ in 0..5 {
        let pid = d.worker();
        kill_process(pid, Signal::KILL).unwrap();
        let out = c.run(&["--json", "status"]);
        assert!(out.status.success(), "{out:?}");
        assert_ne!(
            json(&out)["daemon"]["worker"]["pid"],
            pid.as_raw_nonzero().get()
        );
        d.told("READY=1");
    }
    assert_ne!(d.worker(), worker);
}

#[test]
fn what_was_unmounted_stays_so_and_the_rest_is_as_it_was() {
    let c = site(1).of(3);
    let d = Daemon::start(&c);
    assert!(c.run(&["umount", &c.node(2)]).status.success());
    kill(&d);
    assert_eq!(d.status_of(1)["state"], "serving");
    assert_eq!(d.status_of(2)["state"], "unmounted");
    assert!(c.run(&["mount", &c.node(2)]).status.success());
    kill(&d);
    assert_eq!(d.status_of(2)["state"], "serving");
    // By another program.
    rustix::mount::unmount(d.root(3), rustix::mount::UnmountFlags::empty()).unwrap();
    d.comes_to_be(3, "unmounted");
    kill(&d);
    assert_eq!(d.status_of(3)["state"], "unmounted");
    assert_eq!(d.mounts().len(), 2);
}

#[test]
fn a_root_that_was_unmounted_in_use_goes_on_for_its_users() {
    let c = site(1);
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "home/x"), "one\n").unwrap();
    let dir = std::fs::File::open(d.at(1, "home")).unwrap();
    let there = |name: &str| {
        format!(
            "/proc/self/fd/{}/{name}",
            std::os::fd::AsRawFd::as_raw_fd(&dir)
        )
    };
    assert!(c.run(&["umount", "--lazy", &c.node(1)]).status.success());
    kill(&d);
    assert_eq!(d.status_of(1)["detached"], 1);
    assert_eq!(text(there("x")), "one\n");
    std::fs::write(there("y"), "two\n").unwrap();
    kill(&d);
    assert_eq!(text(there("y")), "two\n");
    drop(dir);
    eventually("it ends with its last user", || {
        d.status_of(1)["detached"] == 0
    });
    kill(&d);
    assert_eq!(d.status_of(1)["detached"], 0);
}

#[test]
fn tables_that_are_broken_meanwhile_take_no_root_away() {
    let c = site(10);
    prepare(&c);
    c.set("watch_tables", "true");
    let d = Daemon::launch(&c, &[]);
    d.told("READY=1");
    let load = Load::of_a_reader(&d.at(1, "opt"), 10);
    c.table("litefile", "#image,file,options\nALL,/etc/x,nonsense\n");
    c.table("nodelist", "#node,groups\n");
    kill(&d);
    load.goes_on();
    assert_eq!(d.mounts().len(), 2);
    eventually("the broken tables were looked at", || {
        !d.status()["daemon"]["refused"].is_null()
    });
    assert_eq!(d.status_of(2)["state"], "serving");
    load.end();
}

#[test]
fn a_worker_that_cannot_start_ends_the_daemon_only_where_nothing_is_held() {
    let c = site(10);
    prepare(&c);
    let program = c.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_statelite"), &program).unwrap();
    let may_run = |may: bool| {
        let mode = if may { 0o755 } else { 0o644 };
        std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
    };
    let mut d = Daemon::of(&c, &program, &[]);
    d.told("READY=1");
    let load = Load::of_a_reader(&d.at(1, "opt"), 10);
    load.goes_on();
    may_run(false);
    kill_process(d.worker(), Signal::KILL).unwrap();
    let said = d.told("STATUS=a worker is started again, time 6");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(d.mounts().len(), 2);
    may_run(true);
    d.told("READY=1");
    load.goes_on();
    load.end();

    assert!(c.run(&["umount", &c.node(1)]).status.success());
    assert!(c.run(&["umount", &c.node(2)]).status.success());
    may_run(false);
    kill_process(d.worker(), Signal::KILL).unwrap();
    assert_eq!(d.end(), Some(1), "{}", d.log());
    assert!(d.log().contains("that was the last try"), "{}", d.log());
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a release build does nothing wrong when it is asked to"
)]
fn a_worker_that_dies_at_once_is_started_with_growing_pauses_and_the_last_one_serves() {
    let c = site(10);
    prepare(&c);
    put(c.path("stuck"), "abort start\n");
    let d = Daemon::launch(&c, &[]);
    d.told("READY=1");
    let load = Load::of_a_reader(&d.at(1, "opt"), 10);
    for _ in 0..4 {
        load.goes_on();
        put(c.path("stuck"), "abort again\n");
        kill_process(d.worker(), Signal::KILL).unwrap();
        d.told("READY=1");
        assert!(!exists(c.path("stuck")), "it has died once more");
    }
    load.end();
    assert!(d.log().contains("signal 6"), "{}", d.log());
}

#[test]
fn what_is_wrong_at_the_start_is_said_and_is_the_exit_code() {
    let c = site(1);
    let config = c.path("wrong.toml");
    put(&config, "nonsense = 1\n");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_statelite"))
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("wrong.toml:1:1: unknown key"), "{said}");
    assert!(!said.contains("holder"), "{said}");
}

#[test]
fn killed_in_the_middle_of_a_stop_it_goes_on_stopping() {
    let c = site(1);
    c.set("stop_grace", "\"1h\"");
    let mut d = Daemon::start(&c);
    let held = std::fs::File::open(d.at(1, "opt/f0")).unwrap();
    let worker = d.worker();
    d.signal(Signal::TERM);
    d.told("STOPPING=1");
    eventually("the idle root is gone", || d.mounts().len() == 1);
    kill_process(worker, Signal::KILL).unwrap();
    d.told("STOPPING=1");
    assert_eq!(d.mounts().len(), 1);
    drop(held);
    assert_eq!(d.end(), Some(0), "{}", d.log());
    assert_eq!(d.mounts(), [""; 0]);
    assert!(!exists(c.path("run/control.sock")));
}

#[test]
fn killed_at_any_moment_of_any_command() {
    let c = site(20);
    let d = Daemon::start(&c);
    let load = Load::start(&d.at(1, "opt"), 20, &d.at(1, "home"));
    let node = c.node(2);
    let commands: [&[&str]; 5] = [
        &["reload"],
        &["umount", &node],
        &["mount", &node],
        &["reset", "--force", &node],
        &["status"],
    ];
    let mut pause = std::time::Duration::ZERO;
    for round in 0..4 {
        for command in commands {
            let worker = d.worker();
            let asks = c
                .command(command)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn();
            std::thread::sleep(pause);
            kill_process(worker, Signal::KILL).unwrap();
            // Done, or cut off: it ends.
            asks.unwrap().wait().unwrap();
            d.told("READY=1");
            load.goes_on();
        }
        pause += std::time::Duration::from_millis(3 + round);
    }
    load.end();
    assert!(c.run(&["mount", &node]).status.success());
    assert_eq!(d.status_of(2)["state"], "serving");
    assert_eq!(text(d.at(2, "opt/f1")), "file 1\n");
}

#[test]
fn without_a_service_manager_the_roots_end_with_the_holder() {
    let c = site(1);
    let mut d = Daemon::start(&c);
    let worker = d.worker();
    d.signal(Signal::KILL);
    assert_eq!(d.end(), None);
    let gone = || !Path::new(&format!("/proc/{}", worker.as_raw_nonzero())).exists();
    eventually("the worker has ended with it", gone);
    let dead = std::fs::read(d.at(1, "opt/f0")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let d = Daemon::start(&c);
    assert_eq!(d.mounts().len(), 2);
    assert_eq!(text(d.at(1, "opt/f0")), "file 0\n");
}

/// What an NFS server is told goes through: a copy of each file that it was told to read is kept.
#[test]
fn nothing_is_taken_from_an_nfs_server_when_the_worker_is_replaced() {
    let c = site(10);
    let (file, told) = (c.path("exports"), crate::cluster::dir(c.path("told")));
    c.set("export", "\"exports\"");
    c.set("exports_file", &c.quoted("exports"));
    let script = format!(
        "#!/bin/sh\ncp {} {}/$(date +%s%N)\n",
        file.display(),
        told.display()
    );
    put(c.path("bin/exportfs"), script);
    crate::cluster::chmod(c.path("bin/exportfs"), 0o755).unwrap();
    put(c.path("hosts"), "");
    c.table("hosts", "#node,ip\n%1,10.0.0.1\n%2,10.0.0.2\n");
    let d = Daemon::start(&c);
    eventually("both are exported", || {
        exists(&file) && text(&file).contains(&c.node(1)) && text(&file).contains(&c.node(2))
    });
    let before = crate::cluster::names(&told).len();
    for _ in 0..3 {
        kill(&d);
        assert_eq!(d.status()["daemon"]["export"]["nodes"], 2);
    }
    let after = crate::cluster::names(&told);
    assert!(after.len() > before, "the server is told once more");
    for name in &after[before..] {
        let lines = text(told.join(name));
        assert!(
            lines.contains(&c.node(1)) && lines.contains(&c.node(2)),
            "{lines}"
        );
    }
}

/// `kill $(pidof statelite)` is not for both of them.
#[test]
fn a_signal_by_name_means_the_holder() {
    let c = site(1);
    let d = Daemon::start(&c);
    let names = |pid: rustix::process::Pid| {
        let of = format!("/proc/{}", pid.as_raw_nonzero());
        let command = text(format!("{of}/cmdline"));
        let (first, _) = command.split_once('\0').unwrap();
        let base = first.rsplit('/').next().unwrap().to_owned();
        [base, text(format!("{of}/comm")).trim_end().to_owned()]
    };
    assert_eq!(names(d.pid()), ["statelite", "statelite"]);
    assert_eq!(names(d.worker()), ["statelite-work", "statelite-work"]);
}

#[test]
fn each_process_keeps_no_more_privileges_than_it_uses() {
    let c = site(1);
    let d = Daemon::start(&c);
    let field = |pid: rustix::process::Pid, name: &str| {
        let status = text(format!("/proc/{}/status", pid.as_raw_nonzero()));
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    let own = rustix::process::getpid();
    // As many as the unit leaves them, and so none but these (capabilities(7)).
    let numbers = [
        ("CAP_CHOWN", 0),
        ("CAP_DAC_OVERRIDE", 1),
        ("CAP_DAC_READ_SEARCH", 2),
        ("CAP_FOWNER", 3),
        ("CAP_FSETID", 4),
        ("CAP_KILL", 5),
        ("CAP_SETGID", 6),
        ("CAP_SETUID", 7),
        ("CAP_SETPCAP", 8),
        ("CAP_NET_BIND_SERVICE", 10),
        ("CAP_SYS_PTRACE", 19),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_MKNOD", 27),
        ("CAP_SETFCAP", 31),
    ];
    let unit = text(Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-helpers/statelite.service"));
    let names = unit
        .lines()
        .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .flat_map(str::split_whitespace);
    let number = |name: &str| numbers.iter().find(|(known, _)| *known == name).unwrap().1;
    let unit = names.fold(0, |set, name| set | 1 << number(name));
    for pid in [d.pid(), d.worker()] {
        assert_eq!(field(pid, "NoNewPrivs:"), 1);
        for set in ["CapBnd:", "CapPrm:"] {
            let caps = field(pid, set);
            assert_eq!(caps, unit & field(own, set), "{set} of {pid:?}");
        }
        assert_eq!(field(pid, "CapAmb:") | field(pid, "CapInh:"), 0);
    }
    assert_eq!(field(d.pid(), "CapEff:"), 0, "the holder uses none");
    assert_ne!(field(d.worker(), "CapEff:"), 0);
}

/// The service manager's watchdog is the first process' affair: it tells that it lives while a worker is killed, or stuck.
#[test]
fn the_service_manager_hears_that_the_first_process_lives() {
    let c = site(1);
    let script = format!(
        "#!/bin/sh\nWATCHDOG_USEC=200000 exec {} \"$@\"\n",
        env!("CARGO_BIN_EXE_statelite")
    );
    put(c.path("watched"), script);
    crate::cluster::chmod(c.path("watched"), 0o755).unwrap();
    let d = Daemon::of(&c, &c.path("watched"), &[]);
    d.told("READY=1");
    let lives = || (0..3).for_each(|_| drop(d.told("WATCHDOG=1")));
    lives();
    kill(&d);
    lives();
    let worker = d.worker();
    let stopped = Stopped::new(worker);
    d.forget_told();
    lives();
    drop(stopped);
    // It itself stands still: nothing is told, which is what the service manager waits for.
    let stopped = Stopped::new(d.pid());
    d.forget_told();
    assert!(!d.tells());
    drop(stopped);
    lives();
}
