//! What can't be measured, or not by this caller, and command lines that are wrong: each is said.

use std::os::unix::process::CommandExt;

use super::*;

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
