//! `statelite bench` as a user runs it: over plain directories and over a mounted view. What it says is
//! checked for shape and consistency; no test depends on how fast anything is.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::*;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ROUNDS: usize = 3;
const PATHS: usize = 10;
const LARGE: u64 = 1 << 20;
const READERS: [&str; 11] = [
    "cold-stat",
    "warm-stat",
    "cold-absent",
    "warm-absent",
    "cold-readdir",
    "warm-readdir",
    "open",
    "cold-read",
    "warm-read",
    "seq-read",
    "random-read",
];
const FIGURES: [&str; 4] = ["p50_ns", "p99_ns", "p999_ns", "mean_ns"];

/// A tree with what every operation needs; `srv` is for writing.
fn fill(root: &Path) {
    for name in ["etc", "usr", "usr/share", "srv", "dev", "proc"] {
        mkdir(root.join(name), 0o755).unwrap();
    }
    for n in 0..30 {
        write(root.join(format!("etc/{n}")), "x".repeat(n * 100)).unwrap();
        write(root.join(format!("srv/{n}")), "y".repeat(n + 1)).unwrap();
    }
    for n in 0..12 {
        mkdir(root.join(format!("usr/share/{n}")), 0o755).unwrap();
        symlink("../x", root.join(format!("usr/share/{n}/link"))).unwrap();
    }
    write(root.join("usr/large"), vec![b'z'; LARGE as usize]).unwrap();
    write(root.join("dev/never"), "").unwrap();
}

fn program() -> PathBuf {
    std::env::var_os("STATELITE_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_statelite").into(), PathBuf::from)
}

fn bench() -> Command {
    bench_of(PATHS)
}

fn bench_of(paths: usize) -> Command {
    let mut command = Command::new(program());
    command.arg("bench").stdin(Stdio::null());
    command.args([
        "--rounds",
        &ROUNDS.to_string(),
        "--paths",
        &paths.to_string(),
    ]);
    command
}

fn named(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

/// Exit code, standard output, standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let out = command.output().unwrap();
    let code = out
        .status
        .code()
        .unwrap_or_else(|| panic!("{command:?}: {}", out.status));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(out.stdout), text(out.stderr))
}

/// Runs it with `--json`, which must succeed without a word on standard error.
#[track_caller]
fn json(command: &mut Command) -> Value {
    let (code, out, err) = run(command.arg("--json"));
    assert_eq!((code, err.as_str()), (0, ""), "{command:?}: {out}");
    serde_json::from_str(&out).unwrap()
}

/// It fails with this code, and says each of these.
#[track_caller]
fn fails_with(command: &mut Command, expected: i32, words: &[&str]) {
    let (code, out, err) = run(command);
    assert_eq!(code, expected, "{command:?}: {out}{err}");
    assert_eq!(out, "", "{command:?}");
    for word in words {
        assert!(err.contains(word), "{command:?}: no {word:?} in: {err}");
    }
}

fn operations(report: &Value) -> Vec<&str> {
    let operations = report["operations"].as_array().unwrap();
    operations
        .iter()
        .map(|op| op["operation"].as_str().unwrap())
        .collect()
}

/// Every line's figures are there, positive and ordered, and each round has `count(operation)`.
#[track_caller]
fn consistent(report: &Value, names: &[&str], count: impl Fn(&str) -> usize) {
    for operation in report["operations"].as_array().unwrap() {
        let each = count(operation["operation"].as_str().unwrap());
        let lines = operation["mounts"].as_array().unwrap();
        let said: Vec<&str> = lines
            .iter()
            .map(|line| line["name"].as_str().unwrap())
            .collect();
        assert_eq!(said, names);
        for line in lines {
            assert_eq!(line["count"], each * ROUNDS, "{operation:#}");
            assert_eq!(line["failed"], 0, "{operation:#}");
            let rounds = line["rounds"].as_array().unwrap();
            assert_eq!(rounds.len(), ROUNDS);
            assert!(
                rounds.iter().all(|round| round["count"] == each),
                "{operation:#}"
            );
            for figures in rounds.iter().chain([line]) {
                let [p50, p99, p999, mean] = FIGURES.map(|name| figures[name].as_f64().unwrap());
                assert!(
                    0.0 < p50 && p50 <= p99 && p99 <= p999 && mean > 0.0,
                    "{operation:#}"
                );
            }
        }
    }
}

fn texts(xml: &str) -> Vec<String> {
    let options = roxmltree::ParsingOptions {
        allow_dtd: true,
        ..Default::default()
    };
    let tree = roxmltree::Document::parse_with_options(xml, options).unwrap();
    let texts = tree.descendants().filter(|node| node.is_text());
    texts
        .map(|node| node.text().unwrap().trim().to_owned())
        .collect()
}

/// The directories below that bench has made.
fn leftovers(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(root) {
        let path = root.join(&name);
        if name.starts_with(".statelite-bench.") {
            found.push(path.display().to_string());
        } else if kind(&path) == FileType::Directory {
            found.extend(leftovers(&path));
        }
    }
    found
}

fn two_directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = scratch();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    for root in [&a, &b] {
        mkdir(root, 0o755).unwrap();
        fill(root);
    }
    (dir, a, b)
}

#[test]
fn reading_two_directories() {
    let (_dir, a, b) = two_directories();
    write(a.join("etc/only-here"), "").unwrap();
    let report = json(
        bench()
            .arg(&a)
            .arg(named("other", &b))
            .args(["--base", "other"]),
    );
    assert_eq!(operations(&report), READERS);
    consistent(&report, &["a", "other"], |operation| match operation {
        "seq-read" => (LARGE >> 17) as usize,
        _ => PATHS,
    });
    assert_eq!(report["base"], "other");
    assert_eq!(report["mounts"][0]["path"], a.to_str().unwrap());
    assert_eq!(report["skipped"], serde_json::json!([]));
    assert_eq!(
        report["paths"]["large"],
        serde_json::json!({ "path": "usr/large", "bytes": LARGE })
    );
    // All but /dev, /proc and what is in them.
    assert_eq!(report["paths"]["seen"], 4 + 30 + 30 + 24 + 1 + 1);
    for operation in report["operations"].as_array().unwrap() {
        let [first, base] = [0, 1].map(|at| &operation["mounts"][at]);
        for figure in FIGURES {
            let name = figure.trim_end_matches("_ns");
            let expected = first[figure].as_f64().unwrap() / base[figure].as_f64().unwrap();
            let ratio = first["ratio"][name].as_f64().unwrap();
            assert!((ratio / expected - 1.0).abs() < 1e-9, "{operation:#}");
            assert_eq!(base["ratio"][name], 1.0);
        }
    }
}

#[test]
fn all_paths_where_the_limit_is_higher() {
    let (_dir, a, b) = two_directories();
    write(a.join("etc/only-here"), "").unwrap();
    write(b.join("etc/3"), "of another size").unwrap();
    let report = json(
        bench_of(usize::MAX)
            .args(["--only", "open,warm-stat,random-read"])
            .arg(&a)
            .arg(&b),
    );
    assert_eq!(operations(&report), ["warm-stat", "open", "random-read"]);
    let files = 30 + 30 + 1 - 1;
    consistent(&report, &["a", "b"], |operation| match operation {
        "open" => files,
        // What has no list to end it.
        "random-read" => 10_000,
        _ => files + 4 + 24,
    });
    assert_eq!(report["paths"]["differ"], 2);
}

#[test]
fn the_seed_decides_which_paths() {
    let (_dir, a, _) = two_directories();
    // One that is found missing, and is there: it shows whether its neighbour was among the paths.
    let picked = |seed: &str| {
        let mut command = bench();
        command.args(["--only", "warm-absent", "--json", "--seed", seed]);
        let (_, out, _) = run(command.arg(&a));
        let report: Value = serde_json::from_str(&out).unwrap();
        report["operations"][0]["mounts"][0]["failed"]
            .as_u64()
            .unwrap()
    };
    for n in 0..15 {
        write(a.join(format!("etc/{n}.statelite-absent")), "").unwrap();
    }
    let seeds = ["1", "2", "3", "4", "5", "6", "7", "8"].map(picked);
    assert_eq!(picked("1"), seeds[0]);
    assert!(seeds.iter().any(|failed| *failed != seeds[0]), "{seeds:?}");
}

#[test]
fn what_fails_is_counted_told_and_not_timed() {
    let (_dir, a, _) = two_directories();
    write(a.join("etc/7.statelite-absent"), "").unwrap();
    let mut command = bench_of(1000);
    let (code, out, _) = run(command.args(["--json", "--only", "warm-absent"]).arg(&a));
    assert_eq!(code, 1);
    let report: Value = serde_json::from_str(&out).unwrap();
    let line = &report["operations"][0]["mounts"][0];
    assert_eq!(line["failed"], ROUNDS);
    let paths = report["paths"]["any"].as_u64().unwrap() as usize;
    assert_eq!(line["count"], (paths - 1) * ROUNDS);
    let failure = line["failure"].as_str().unwrap();
    assert!(
        failure.contains(a.join("etc/7.statelite-absent").to_str().unwrap()),
        "{failure}"
    );
}

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

#[test]
fn pictures() {
    let (dir, a, _) = two_directories();
    let ov = Overlay::new(TMPFS, fill);
    for file in ["picture.svg", "page.html"] {
        let file = dir.path().join(file);
        let mut command = bench();
        command
            .args(["--only", "warm-stat,random-read", "--plot"])
            .arg(&file);
        let (code, out, err) = run(command
            .arg(named("a<b> & c", &a))
            .arg(named("view", &ov.root)));
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let xml = String::from_utf8(read(&file).unwrap()).unwrap();
        assert!(xml.contains("<svg "));
        let texts = texts(&xml);
        for text in ["a<b> & c", "view", "warm-stat", "random-read", "90%"] {
            assert!(texts.iter().any(|said| said == text), "{text}: {texts:?}");
        }
        for text in [
            "a<b> & c",
            "view",
            "warm-stat: ",
            "random-read: ",
            "clock costs ",
        ] {
            assert!(out.contains(text), "{text}: {out}");
        }
    }
}

/// The program as a user without rights, who may not reach where it was built.
#[test]
fn without_the_right_to_drop_caches() {
    let (dir, a, _) = two_directories();
    let copy = dir.path().join("statelite");
    std::fs::copy(program(), &copy).unwrap();
    let user = || {
        let mut command = Command::new(&copy);
        command.args(["bench", "--rounds", "3", "--paths", "10"]);
        command.uid(65534).gid(65534).stdin(Stdio::null());
        command
    };
    let report = json(user().arg(&a));
    let warm: Vec<&str> = READERS
        .into_iter()
        .filter(|name| !name.starts_with("cold"))
        .collect();
    assert_eq!(operations(&report), warm);
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), READERS.len() - warm.len());
    for skip in skipped {
        assert!(
            skip["operation"].as_str().unwrap().starts_with("cold-"),
            "{skip}"
        );
        assert!(
            skip["why"]
                .as_str()
                .unwrap()
                .contains("/proc/sys/vm/drop_caches"),
            "{skip}"
        );
    }
    let (code, out, _) = run(user().arg(&a));
    assert_eq!(code, 0);
    assert!(
        out.contains("cold-stat not measured: no right to drop caches"),
        "{out}"
    );
    let words = ["drop the kernel's caches", "run it as root"];
    fails_with(user().arg("--cold").arg(&a), 1, &words);
    fails_with(user().args(["--only", "cold-read"]).arg(&a), 1, &words);
    fails_with(
        user().args(["--write", "--dir", "srv"]).arg(&a),
        1,
        &["a/srv", "Permission denied"],
    );
}

#[test]
fn what_cannot_be_measured() {
    let (dir, a, _) = two_directories();
    let at = |name: &str| dir.path().join(name);
    let missing = at("missing");
    let said = missing.to_str().unwrap();
    fails_with(
        bench().arg(&a).arg(&missing),
        1,
        &[said, "No such file", "name a mount point"],
    );
    fails_with(
        bench().arg(a.join("etc/1")),
        1,
        &["etc/1", "Not a directory"],
    );
    mkdir(at("empty"), 0o755).unwrap();
    fails_with(
        bench().arg(at("empty")),
        1,
        &["not enough files", "nothing is there"],
    );
    let words = ["not enough files", "none is the same in every mount"];
    fails_with(bench().arg(&a).arg(at("empty")), 1, &words);
    fails_with(
        bench().args(["--pin", "1023"]).arg(&a),
        1,
        &["CPU 1023", "nproc"],
    );
    fails_with(
        bench().args(["--pin", "5000"]).arg(&a),
        1,
        &["CPU 5000", "nproc"],
    );
    let plot = at("missing/x.svg");
    fails_with(
        bench().arg("--plot").arg(&plot).arg(&a),
        1,
        &["--plot", said],
    );

    mkdir(at("few"), 0o755).unwrap();
    write(at("few/file"), "small").unwrap();
    let words = ["seq-read: not enough files", "1 MiB"];
    fails_with(
        bench().args(["--only", "open,seq-read"]).arg(at("few")),
        1,
        &words,
    );
    let mut copies = bench();
    copies
        .args(["--write", "--dir", ".", "--only", "copy-up"])
        .arg(at("few"));
    fails_with(
        &mut copies,
        1,
        &["copy-up: not enough files", "3 files", "one a round"],
    );
    assert_eq!(names(at("few")), ["file"]);
    // Not named, they are left out and that is told.
    let report = json(bench().arg(at("few")));
    let skipped = report["skipped"].as_array().unwrap().iter();
    let skipped: Vec<&str> = skipped
        .map(|skip| skip["operation"].as_str().unwrap())
        .collect();
    assert_eq!(
        skipped,
        ["cold-readdir", "warm-readdir", "seq-read", "random-read"]
    );
    consistent(&report, &["few"], |_| 1);
}

#[test]
fn wrong_command_lines() {
    let (_dir, a, b) = two_directories();
    fails_with(&mut bench(), 2, &["MOUNTPOINT"]);
    fails_with(
        bench().args(["--base", "c"]).arg(&a).arg(&b),
        2,
        &["--base c", "a, b"],
    );
    fails_with(
        bench().arg(&a).arg(&a),
        2,
        &["two mounts are called a", "NAME="],
    );
    fails_with(
        bench().args(["--only", "stat"]).arg(&a),
        2,
        &["stat", "cold-stat"],
    );
    fails_with(bench().arg("--write").arg(&a), 2, &["--dir"]);
    fails_with(
        bench().args(["--only", "append"]).arg(&a),
        2,
        &["append", "--write"],
    );
    fails_with(
        bench().args(["--write", "--dir", "../b"]).arg(&a),
        2,
        &["without .."],
    );
    fails_with(
        bench().args(["--plot", "x.png"]).arg(&a),
        2,
        &[".svg or .html"],
    );
    fails_with(bench().arg("=").arg(&a), 2, &["NAME=MOUNTPOINT"]);
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

#[test]
fn the_help_teaches() {
    let (code, out, _) = run(bench().arg("--help"));
    assert_eq!(code, 0);
    for word in READERS
        .into_iter()
        .chain(["Example: ", "statelite bench --pin 0", "drop_caches"])
    {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 100), "{out}");
}
