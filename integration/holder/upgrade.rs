//! Another program takes over.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::cluster::{Cluster, eventually, put};
use crate::daemon::{Daemon, json, prepare};
use crate::kill::site;
use crate::load::Load;

/// A program of its own, that can be replaced.
fn installed(c: &Cluster) -> PathBuf {
    prepare(c);
    let program = c.path("program");
    std::fs::copy(env!("CARGO_BIN_EXE_statelite"), &program).unwrap();
    program
}

/// As make install does.
fn replace(program: &Path) {
    let new = program.with_extension("new");
    std::fs::copy(env!("CARGO_BIN_EXE_statelite"), &new).unwrap();
    std::fs::rename(new, program).unwrap();
}

/// The file that a process was started from.
fn inode(pid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino()
}

#[test]
fn a_new_program_takes_over_while_the_roots_are_used() {
    let c = site(50);
    let program = installed(&c);
    let d = Daemon::of(&c, &program, &[]);
    d.told("READY=1");
    let load = Load::start(&d.at(1, "opt"), 50, &d.at(1, "home"));
    for _ in 0..3 {
        load.goes_on();
        let before = d.worker().as_raw_nonzero().get() as u32;
        let old = inode(before);
        replace(&program);
        let out = c.run(&["--json", "upgrade"]);
        assert!(out.status.success(), "{out:?}\n{}", d.log());
        let pid = json(&out)["pid"].as_u64().unwrap() as u32;
        assert_eq!(d.worker().as_raw_nonzero().get() as u32, pid);
        assert_ne!(inode(pid), old, "it is the new file's");
    }
    let worker = d.worker();
    replace(&program);
    d.signal(Signal::USR2);
    eventually("SIGUSR2 does the same", || d.worker() != worker);
    load.goes_on();
    load.end();
    let why = d.status()["daemon"]["worker"]["last"]["why"].clone();
    assert_eq!(why, "another program has taken over");
}

/// What becomes of a program that can't.
#[track_caller]
fn is_refused(d: &Daemon<'_>, program: &Path, why: &str) {
    let worker = d.worker();
    let out = d.run(&["upgrade", program.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains(why), "{why} is not in {said}");
    assert_eq!(d.worker(), worker, "the old one serves");
}

#[test]
fn a_program_that_cannot_take_over_leaves_the_old_one_serving() {
    let c = site(20);
    let d = Daemon::start(&c);
    let load = Load::start(&d.at(1, "opt"), 20, &d.at(1, "home"));
    is_refused(&d, Path::new("/nowhere"), "No such file");
    is_refused(&d, Path::new("/etc/passwd"), "Permission denied");
    let rubbish = c.path("rubbish");
    put(&rubbish, "rubbish\n");
    crate::cluster::chmod(&rubbish, 0o755).unwrap();
    is_refused(&d, &rubbish, "Exec format error");
    is_refused(&d, Path::new("/bin/true"), "exit code 0");
    is_refused(&d, Path::new("/bin/false"), "exit code 1");
    let own = Path::new(env!("CARGO_BIN_EXE_statelite"));
    put(c.path("stuck"), "abort check\n");
    is_refused(&d, own, "signal 6");
    put(c.path("stuck"), "deadlock check\n");
    is_refused(&d, own, "did not say in time");
    load.goes_on();
    load.end();
    assert_eq!(d.status()["daemon"]["worker"]["replaced"], 0);
}

#[test]
fn a_program_that_fails_right_after_gives_way_to_the_one_before() {
    let c = site(20);
    let program = installed(&c);
    let d = Daemon::of(&c, &program, &[]);
    d.told("READY=1");
    let load = Load::start(&d.at(1, "opt"), 20, &d.at(1, "home"));
    let old = inode(d.worker().as_raw_nonzero().get() as u32);
    replace(&program);
    put(c.path("stuck"), "abort again\n");
    let out = c.run(&["upgrade"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("signal 6") && said.contains("serves again"),
        "{said}"
    );
    load.goes_on();
    load.end();
    assert_eq!(inode(d.worker().as_raw_nonzero().get() as u32), old);
}

/// `integration/two-builds.sh` makes the other one, whose sessions' state has another layout.
#[test]
#[ignore = "needs a second build"]
fn another_build_with_another_layout_takes_over_and_back() {
    let other = std::env::var_os("STATELITE_ANOTHER").unwrap();
    let c = site(50);
    let d = Daemon::start(&c);
    let load = Load::start(&d.at(1, "opt"), 50, &d.at(1, "home"));
    let held = std::fs::File::open(d.at(1, "opt/f1")).unwrap();
    for program in [
        Path::new(&other),
        Path::new(env!("CARGO_BIN_EXE_statelite")),
        Path::new(&other),
    ] {
        load.goes_on();
        let out = c.run(&["upgrade", program.to_str().unwrap()]);
        assert!(out.status.success(), "{out:?}\n{}", d.log());
        let pid = d.worker().as_raw_nonzero().get();
        let runs = std::fs::canonicalize(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(runs, std::fs::canonicalize(program).unwrap());
        let mut text = [0; 7];
        std::os::unix::fs::FileExt::read_exact_at(&held, &mut text, 0).unwrap();
        assert_eq!(&text, b"file 1\n");
    }
    load.goes_on();
    load.end();
}
