//! dpkg installs, upgrades and purges a package in the image, below views that have all of it
//! cached and whose programs run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::{self, Cluster, link, put};
use crate::harness::*;
use crate::tabled::Tabled;

const NODES: usize = 4;
const FILES: usize = 120;

/// Runs a program to its end.
#[track_caller]
fn run(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {out:?}");
}

/// Builds the package in one of its versions. What both have is another file in each; some files
/// are in one alone, and one is a file in the first and a directory in the second.
fn package(c: &Cluster, version: usize) -> PathBuf {
    let top = cluster::dir(c.path(format!("deb{version}")));
    let at = |path: &str| top.join(path);
    put(
        at("DEBIAN/control"),
        format!(
            "Package: live\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@example.org>\n\
             Description: seen in every view\n"
        ),
    );
    put(at("DEBIAN/conffiles"), "/etc/live/live.conf\n");
    put(at("etc/live/live.conf"), format!("version {version}\n"));
    std::fs::create_dir_all(at("usr/bin")).unwrap();
    match version {
        1 => drop(std::fs::copy("/bin/cat", at("usr/bin/live")).unwrap()),
        _ => put(
            at("usr/bin/live"),
            format!("#!/bin/sh\necho version {version}\n"),
        ),
    }
    chmod(at("usr/bin/live"), 0o755).unwrap();
    for n in 0..FILES {
        let text = format!("{version} {n}\n").repeat(n * 20 + 1);
        put(at(&format!("usr/share/live/f{n}")), text);
    }
    put(at(&format!("usr/lib/live/only{version}")), "");
    put(at(&format!("usr/lib/live/v{version}/deep/f")), "");
    put(at(&format!("usr/lib/live/lib.so.{version}")), "code");
    link(&format!("lib.so.{version}"), at("usr/lib/live/lib.so"));
    link(
        &format!("/usr/lib/live/v{version}"),
        at("var/lib/live/current"),
    );
    std::fs::hard_link(at("usr/share/live/f1"), at("usr/share/live/hard")).unwrap();
    match version {
        1 => put(at("usr/lib/live/kind"), "a file\n"),
        _ => put(at("usr/lib/live/kind/f"), "in a directory\n"),
    }
    let deb = c.path(format!("live_{version}.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&top, &deb]));
    deb
}

fn absences() -> Vec<PathBuf> {
    let mut all: Vec<String> = (0..FILES).map(|n| format!("usr/share/live/f{n}")).collect();
    for path in [
        "usr/bin/live",
        "usr/lib/live",
        "usr/lib/live/only1",
        "usr/lib/live/only2",
        "usr/lib/live/v1/deep/f",
        "usr/lib/live/v2/deep/f",
        "usr/lib/live/kind/f",
        "usr/lib/live/lib.so",
        "etc/live/live.conf",
        "var/lib/live/current",
    ] {
        all.push(path.into());
    }
    all.into_iter().map(PathBuf::from).collect()
}

#[test]
fn a_package_that_is_installed_shows_in_every_view() {
    let c = Cluster::new(&[
        ("/etc/", "tmpfs"),
        ("/var/", "persistent"),
        ("/usr/share/", "ro"),
    ])
    .of(NODES);
    for dir in [
        "etc",
        "usr/bin",
        "usr/lib",
        "usr/share",
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
    ] {
        cluster::dir(c.image(dir));
    }
    put(c.image("var/lib/dpkg/status"), "");
    put(c.image("usr/lib/other"), "other\n");
    let debs = [1, 2].map(|version| package(&c, version));
    let image = c.image("");
    let dpkg = |args: &[&str], deb: Option<&Path>| {
        run(Command::new("dpkg")
            .arg(format!("--root={}", image.display()))
            .args(["--force-unsafe-io", "--force-confnew", "--force-bad-path"])
            .arg("--log=/dev/null")
            .args(args)
            .args(deb));
    };
    let site = Tabled::new(c);
    let absences = absences();
    site.warm(&absences);
    let program = |view: usize| site.at(view, "usr/bin/live");

    site.shows(&absences, "installed", || {
        dpkg(&["--install"], Some(&debs[0]))
    });
    site.says("etc/live/live.conf", "version 1\n");
    // A node's own configuration stays its own.
    write(site.at(3, "etc/live/live.conf"), "mine\n").unwrap();
    site.warm(&absences);

    // The program of the first version runs on in one view, and its files are read whole.
    let mut running = Command::new(program(0))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(running.stdout.take().unwrap());
    let mut says = |line: &str| {
        let mut input = running.stdin.as_ref().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, line);
    };
    says("before\n");
    let file = "usr/share/live/f100";
    let versions = [1, 2].map(|version| format!("{version} 100\n").repeat(2001));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = [1, 2]
            .into_iter()
            .map(|view| {
                let (at, done, versions) = (site.at(view, file), &done, &versions);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let text = read(&at).unwrap();
                        assert!(versions.iter().any(|whole| whole.as_bytes() == text));
                    }
                })
            })
            .collect();
        let upgraded = std::panic::catch_unwind(|| dpkg(&["--install"], Some(&debs[1])));
        done.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        upgraded.unwrap();
    });
    site.settle();
    site.assert_true(&absences, "upgraded");
    says("after\n");
    site.says(file, &versions[1]);
    for view in 0..NODES {
        let out = Command::new(program(view)).output().unwrap();
        assert_eq!(out.stdout, b"version 2\n");
        let conf = read(site.at(view, "etc/live/live.conf")).unwrap();
        let expected = if view == 3 { "mine\n" } else { "version 2\n" };
        assert_eq!(conf, expected.as_bytes());
        assert!(!exists(site.at(view, "usr/lib/live/only1")));
    }
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());

    site.shows(&absences, "purged", || dpkg(&["--purge", "live"], None));
    for view in 0..NODES {
        for path in &absences {
            let mine = view == 3 && path.starts_with("etc");
            assert_eq!(
                exists(site.at(view, path)),
                mine,
                "{} of {view}",
                path.display()
            );
        }
    }
    assert_eq!(names(site.at(0, "usr/lib")), ["other"]);

    site.shows(&absences, "installed anew", || {
        dpkg(&["--install"], Some(&debs[1]))
    });
    let conf = |view| read(site.at(view, "etc/live/live.conf")).unwrap();
    assert_eq!(
        (conf(0), conf(3)),
        (b"version 2\n".into(), b"mine\n".into())
    );
}
