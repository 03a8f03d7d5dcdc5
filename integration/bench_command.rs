//! `statelite bench` as a user runs it: over plain directories and over a mounted view. What it says is
//! checked for shape and consistency; no test depends on how fast anything is.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "bench_command/refused.rs"]
mod refused;
#[path = "bench_command/writes.rs"]
mod writes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::*;
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
