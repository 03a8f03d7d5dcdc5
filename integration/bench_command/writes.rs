//! `--write`: what it measures, and that nothing is left behind however a run ends.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::*;

#[test]
fn writing_leaves_nothing_behind() {
    let (_dir, a, _) = two_directories();
    let ov = Overlay::new(TMPFS, fill);
    let before = (ov.tree(), snapshot::take(&a, Default::default()));
    let mut command = bench();
    command.args(["--write", "--dir", "/srv"]);
    let report = json(command.arg(named("dir", &a)).arg(named("view", &ov.root)));
    let expected: Vec<&str> = READERS
        .into_iter()
        .chain(["create-unlink", "append"])
        .collect();
    assert_eq!(operations(&report), expected);
    consistent(&report, &["dir", "view"], |operation| match operation {
        "seq-read" => (LARGE >> 17) as usize,
        _ => PATHS,
    });
    assert!(before == (ov.tree(), snapshot::take(&a, Default::default())));
    // Only the directory itself, which was written in.
    assert_eq!(names(&ov.upper), ["srv"]);
    assert_eq!(names(ov.up("srv")), [""; 0]);
}

#[test]
fn copy_up_takes_each_file_once_and_changes_none() {
    let ov = Overlay::new(TMPFS, fill);
    let before = ov.tree();
    let mut command = bench();
    command.args(["--write", "--dir", "srv", "--only", "copy-up"]);
    let report = json(command.arg(named("view", &ov.root)));
    assert_eq!(operations(&report), ["copy-up"]);
    consistent(&report, &["view"], |_| PATHS);
    assert!(before == ov.tree());
    // Three rounds of ten: all thirty.
    assert_eq!(names(ov.up("srv")), names(ov.low("srv")));
    assert_eq!(leftovers(&ov.upper), [""; 0]);
}

/// One of the mounts can't be written: what was made in the other one is removed.
#[test]
fn a_mount_that_is_read_only() {
    let (dir, a, _) = two_directories();
    let fixed = dir.path().join("fixed");
    mkdir(&fixed, 0o755).unwrap();
    let _tmpfs = Tmpfs::new(&fixed, 16 << 20);
    fill(&fixed);
    rustix::mount::mount_remount(&fixed, MountFlags::RDONLY, c"").unwrap();
    let before = snapshot::take(&a, Default::default());
    let mut command = bench();
    command
        .args(["--write", "--dir", "srv"])
        .arg(&a)
        .arg(&fixed);
    let at = fixed.join("srv");
    fails_with(
        &mut command,
        1,
        &[
            "fixed: ",
            at.to_str().unwrap(),
            "Read-only",
            "leave out --write",
        ],
    );
    assert!(before == snapshot::take(&a, Default::default()));
    // To be read, it is as good as any.
    consistent(
        &json(bench().args(["--only", "open"]).arg(&a).arg(&fixed)),
        &["a", "fixed"],
        |_| PATHS,
    );
}

#[test]
fn a_place_to_write_that_is_not_there() {
    let (_dir, a, _) = two_directories();
    symlink("srv", a.join("link")).unwrap();
    for (below, words) in [
        ("nowhere", ["a/nowhere", "make it first"]),
        ("link", ["a/link", "symlink"]),
        ("etc/1", ["a/etc/1", "Not a directory"]),
    ] {
        fails_with(bench().args(["--write", "--dir", below]).arg(&a), 1, &words);
    }
}

/// A child that does not outlive its test.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    fn output(mut self) -> std::process::Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A run that would never end, over all of `mounts`, once it has begun to write.
fn endless(mounts: &[&Path]) -> Running {
    let mut command = Command::new(program());
    command.args(["bench", "--rounds", "1000000000", "--paths", "5"]);
    command.args(["--only", "create-unlink,append", "--write", "--dir", "srv"]);
    // Named, since the harness takes a process that has a view's path as an argument for its daemon.
    for (number, mount) in mounts.iter().enumerate() {
        command.arg(named(&format!("mount{number}"), mount));
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(Some(child));
    // The second operation has begun on each mount once a file has been appended to.
    let appended = |mount: &Path| {
        let made = leftovers(&mount.join("srv"));
        made.iter()
            .any(|dir| lstat(format!("{dir}/a0")).is_ok_and(|stat| stat.st_size > 0))
    };
    poll_until("the run's first changes", || {
        let ended = running.child().try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {ended:?}");
        mounts.iter().all(|mount| appended(mount))
    });
    running
}

#[test]
fn an_interrupt_removes_what_was_made() {
    let (_dir, a, _) = two_directories();
    let ov = Overlay::new(TMPFS, fill);
    let before = (ov.tree(), snapshot::take(&a, Default::default()));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut run = endless(&[&a, &ov.root]);
        kill_process(Pid::from_child(run.child()), signal).unwrap();
        let out = run.output();
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(
            out.status.code(),
            Some(1),
            "{:?} {err}",
            out.status.signal()
        );
        assert!(
            err.contains("interrupted") && out.stdout.is_empty(),
            "{err}"
        );
        assert!(before == (ov.tree(), snapshot::take(&a, Default::default())));
    }
}

/// The server of a mount dies: what can still be removed is, the rest is named.
#[test]
fn a_mount_that_goes_away() {
    let (_dir, a, _) = two_directories();
    let mut ov = Overlay::new(TMPFS, fill);
    if ov.is_overlayfs() {
        // There is no daemon to kill; the run itself must work.
        consistent(
            &json(bench().args(["--only", "open"]).arg(&a)),
            &["a"],
            |_| PATHS,
        );
        return;
    }
    let run = endless(&[&a, &ov.root]);
    ov.kill_daemon();
    let out = run.output();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    for word in [
        "mount1: ",
        "and so did all others",
        "could not be removed",
        "view/srv/.statelite-bench.",
    ] {
        assert!(err.contains(word), "{word}: {err}");
    }
    assert_eq!(leftovers(&a), [""; 0]);
}
