//! Sections 3 and 4: rules inside rules, and what lies outside every rule.

use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::cluster::{Cluster, chmod, dir, exists, fails, link, names, put, stat, text};

#[test]
fn the_deepest_of_many_nested_rules_governs() {
    let c = Cluster::new(&[
        ("/a/", "tmpfs"),
        ("/a/b/", "persistent"),
        ("/a/b/c/", "ro"),
        ("/a/b/c/d/", "localdisk"),
        ("/a/b/c/d/e", "con"),
        ("/a/b/c/d/f/", "tmpfs"),
        ("/a/b/c/d/f/g/h", "persistent"),
    ]);
    for path in [
        "a/x",
        "a/b/x",
        "a/b/c/x",
        "a/b/c/d/x",
        "a/b/c/d/f/x",
        "a/b/c/d/f/g/h",
    ] {
        put(c.image(path), "image\n");
    }
    put(c.tree(1, "a/b/c/d/e"), "one\n");
    put(c.tree(2, "a/b/c/d/e"), "two\n");
    let v = c.mount(1);
    assert_eq!(v.text("a/b/c/d/e"), "one\ntwo\n");
    fails!(v.write("a/b/c/x", ""), EROFS);
    fails!(v.write("a/b/c/new", ""), EROFS);
    for path in ["a/x", "a/b/x", "a/b/c/d/x", "a/b/c/d/f/x", "a/b/c/d/f/g/h"] {
        v.write(path, "written\n").unwrap();
    }
    v.write("a/b/c/d/e", "written\n").unwrap();
    v.write("a/b/c/d/f/g/beside", "written\n").unwrap();
    assert_eq!(v.names("a/b/c/d"), ["e", "f", "x"]);

    assert_eq!(text(c.tmpfs(1, "a/x")), "written\n");
    assert_eq!(text(c.store(1, "a/b/x")), "written\n");
    assert_eq!(text(c.disk(1, "a/b/c/d/x")), "written\n");
    assert_eq!(text(c.tmpfs(1, "a/b/c/d/e")), "written\n");
    assert_eq!(text(c.tmpfs(1, "a/b/c/d/f/x")), "written\n");
    assert_eq!(text(c.tmpfs(1, "a/b/c/d/f/g/beside")), "written\n");
    assert_eq!(text(c.store(1, "a/b/c/d/f/g/h")), "written\n");
    assert!(!exists(c.tmpfs(1, "a/b/x")) && !exists(c.store(1, "a/x")));

    v.reboot();
    for (path, contents) in [
        ("a/x", "image\n"),
        ("a/b/x", "written\n"),
        ("a/b/c/x", "image\n"),
        ("a/b/c/d/x", "written\n"),
        ("a/b/c/d/e", "one\ntwo\n"),
        ("a/b/c/d/f/x", "image\n"),
        ("a/b/c/d/f/g/h", "written\n"),
    ] {
        assert_eq!(v.text(path), contents, "{path}");
    }
    assert_eq!(v.names("a/b/c/d/f/g"), ["h"]);
}

#[test]
fn any_option_nests_in_any_other() {
    let options = ["tmpfs", "persistent", "localdisk", "ro"];
    for outer in options {
        let c = Cluster::new(&[("/o/", outer)]);
        for inner in options {
            c.rule(&format!("/o/{inner}/"), inner);
            c.rule(&format!("/o/f-{inner}"), inner);
            put(c.image(format!("o/{inner}/x")), "image\n");
            put(c.image(format!("o/f-{inner}")), "image\n");
        }
        let v = c.mount(1);
        for inner in options {
            for path in [format!("o/{inner}/x"), format!("o/f-{inner}")] {
                assert_eq!(v.text(&path), "image\n", "{outer} {inner}");
                if inner == "ro" {
                    fails!(v.write(&path, ""), EROFS);
                    continue;
                }
                v.write(&path, "written\n").unwrap();
                let at = match inner {
                    "tmpfs" => c.tmpfs(1, &path),
                    "persistent" => c.store(1, &path),
                    _ => c.disk(1, &path),
                };
                assert_eq!(text(at), "written\n", "{outer} {inner}");
            }
        }
        v.reboot();
        for inner in options {
            let kept = ["persistent", "localdisk"].contains(&inner);
            let expected = if kept { "written\n" } else { "image\n" };
            assert_eq!(v.text(&format!("o/{inner}/x")), expected, "{outer} {inner}");
        }
    }
}

#[test]
fn inner_rules_show_whatever_becomes_of_the_outer_zone() {
    // The outer zone deletes its whole content; the inner zone's stays, and comes back with it.
    let c = Cluster::new(&[("/o/", "tmpfs"), ("/o/sub/in/", "persistent")]);
    put(c.image("o/sub/in/x"), "x\n");
    put(c.image("o/sub/other"), "");
    put(c.image("o/more/y"), "");
    let v = c.mount(1);
    std::fs::remove_dir_all(v.at("o/more")).unwrap();
    std::fs::remove_file(v.at("o/sub/other")).unwrap();
    fails!(std::fs::remove_dir_all(v.at("o/sub/in")), EBUSY);
    assert!(v.names("o/sub/in").is_empty(), "its content may go");
    assert_eq!(v.names("o"), ["sub"]);
    assert_eq!(v.names("o/sub"), ["in"]);
    v.reboot();
    assert_eq!(v.names("o"), ["more", "sub"]);
    assert!(v.names("o/sub/in").is_empty());
}

#[test]
fn the_root_may_be_a_rule() {
    let c = Cluster::new(&[
        ("/", "tmpfs"),
        ("/home/", "persistent"),
        ("/usr/", "ro"),
        ("/etc/hosts", "con"),
    ]);
    put(c.image("etc/passwd"), "root\n");
    put(c.image("usr/bin/x"), "x\n");
    put(c.image("opt/gone/x"), "x\n");
    put(c.image("home/me/x"), "image\n");
    put(c.tree(1, "etc/hosts"), "one\n");
    put(c.tree(2, "etc/hosts"), "two\n");
    put(c.tree(1, "added"), "by a tree\n");
    let v = c.mount(1);
    assert_eq!(v.text("added"), "by a tree\n");
    assert_eq!(v.text("etc/hosts"), "one\ntwo\n");
    v.write("new", "new\n").unwrap();
    v.write("etc/passwd", "root and more\n").unwrap();
    v.write("home/me/x", "mine\n").unwrap();
    std::fs::remove_dir_all(v.at("opt")).unwrap();
    chmod(&v.root, 0o711).unwrap();
    fails!(v.write("usr/bin/x", ""), EROFS);
    v.remount();
    assert_eq!(v.text("new"), "new\n");
    assert!(!exists(v.at("opt")));
    assert_eq!(stat(&v.root).mode() & 0o7777, 0o711);
    assert_eq!(stat(&v.root).ino(), 1);
    assert_eq!(text(c.tmpfs(1, "etc/passwd")), "root and more\n");
    v.reboot();
    assert_eq!(v.text("etc/passwd"), "root\n");
    assert_eq!(v.text("home/me/x"), "mine\n");
    assert!(!exists(v.at("new")) && exists(v.at("opt/gone/x")));
}

#[test]
fn strict_check_names_the_pairs_that_xcat_refuses() {
    let c = Cluster::new(&[
        ("/a/", "tmpfs"),
        ("/a/b/", "tmpfs"),
        ("/a/b/c", "persistent"),
    ]);
    dir(c.image("a"));
    let plain = c.run(&["check"]);
    assert!(plain.status.success(), "{plain:?}");
    let said = c.says(&["check", "--strict-xcat"]);
    assert!(said.contains("litefile.csv:4:"), "{said}");
}

/// Every operation that changes something, on what lies outside every rule.
#[test]
fn every_change_outside_every_rule_is_refused() {
    let c = Cluster::new(&[("/var/", "tmpfs")]);
    put(c.image("d/f"), "f\n");
    put(c.image("d/e/g"), "g\n");
    dir(c.image("d/empty"));
    link("f", c.image("d/l"));
    let v = c.mount(1);
    let (d, f, l) = (v.at("d"), v.at("d/f"), v.at("d/l"));
    let before = (stat(&f).mtime(), stat(&d).mtime());
    // Contents.
    fails!(std::fs::write(&f, ""), EROFS);
    fails!(std::fs::File::options().write(true).open(&f), EROFS);
    fails!(
        std::fs::File::options().read(true).write(true).open(&f),
        EROFS
    );
    fails!(std::fs::File::options().append(true).open(&f), EROFS);
    let truncating = libc::O_TRUNC;
    fails!(
        std::fs::File::options()
            .read(true)
            .custom_flags(truncating)
            .open(&f),
        EROFS
    );
    // New names.
    fails!(std::fs::write(d.join("new"), ""), EROFS);
    fails!(std::fs::create_dir(d.join("new")), EROFS);
    fails!(std::os::unix::fs::symlink("x", d.join("new")), EROFS);
    fails!(std::fs::hard_link(&f, d.join("new")), EROFS);
    for kind in [
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::RegularFile,
    ] {
        fails!(
            rustix::fs::mknodat(CWD, d.join("new"), kind, Mode::RWXU, 0),
            EROFS
        );
    }
    // Names that go.
    fails!(std::fs::remove_file(&f), EROFS);
    fails!(std::fs::remove_file(&l), EROFS);
    fails!(std::fs::remove_dir(v.at("d/empty")), EROFS);
    fails!(std::fs::rename(&f, d.join("new")), EROFS);
    fails!(std::fs::rename(v.at("d/e"), d.join("new")), EROFS);
    fails!(std::fs::rename(&f, v.at("d/e/g")), EROFS);
    // Attributes.
    for path in [&d, &f, &v.root] {
        fails!(chmod(path, 0o700), EROFS);
        fails!(std::os::unix::fs::chown(path, Some(1), Some(1)), EROFS);
        fails!(
            rustix::fs::setxattr(path, c"user.x", b"y", XattrFlags::empty()),
            EROFS
        );
        fails!(
            rustix::fs::setxattr(path, c"trusted.x", b"y", XattrFlags::empty()),
            EROFS
        );
        fails!(rustix::fs::removexattr(path, c"user.x"), EROFS);
        let at = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: at,
            last_modification: at,
        };
        fails!(
            rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()),
            EROFS
        );
    }
    fails!(std::os::unix::fs::lchown(&l, Some(1), None), EROFS);
    // As someone without rights gets EACCES or EROFS, nothing else; and nothing has changed.
    assert_eq!((stat(&f).mtime(), stat(&d).mtime()), before);
    assert_eq!(v.names("d"), ["e", "empty", "f", "l"]);
    assert_eq!(names(c.image("d")), ["e", "empty", "f", "l"]);
    assert_eq!(text(c.image("d/f")), "f\n");
}

#[test]
fn devices_fifos_and_sockets_outside_rules_are_open_to_writers() {
    let c = Cluster::new(&[("/var/", "tmpfs")]);
    dir(c.image("dev"));
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        c.image("dev/null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        null,
    )
    .unwrap();
    rustix::fs::mknodat(
        CWD,
        c.image("dev/pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(c.image("dev/socket")).unwrap();
    let v = c.mount(1);
    std::fs::write(v.at("dev/null"), "swallowed").unwrap();
    let pipe = std::fs::File::options()
        .read(true)
        .write(true)
        .open(v.at("dev/pipe"))
        .unwrap();
    std::io::Write::write_all(&mut &pipe, b"through").unwrap();
    let mut through = [0; 7];
    std::io::Read::read_exact(&mut &pipe, &mut through).unwrap();
    assert_eq!(&through, b"through");
    assert!(stat(v.at("dev/socket")).file_type().is_socket());
    let said = std::os::unix::net::UnixStream::connect(v.at("dev/socket"));
    // A FUSE socket is an inode of its own: nobody listens there, but nothing is read-only about it.
    if let Err(e) = said {
        assert_eq!(e.raw_os_error(), Some(libc::ECONNREFUSED));
    }
    fails!(chmod(v.at("dev/null"), 0o600), EROFS);
}
