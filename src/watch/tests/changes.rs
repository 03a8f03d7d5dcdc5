//! Every kind of change, at every depth, by every name.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, Mode, RenameFlags, XattrFlags};

use super::*;
use What::{Attributes, Contents, Entry};

/// What is expected: path, what, whether it is a directory.
fn set<const N: usize>(of: [(&str, What, bool); N]) -> BTreeSet<(String, What, bool)> {
    of.into_iter()
        .map(|(path, what, dir)| (path.to_owned(), what, dir))
        .collect()
}

#[test]
fn every_kind_of_change_at_every_depth() {
    for bench in Bench::all() {
        let long = "x".repeat(255);
        let deep = format!("{long}/{long}/{long}");
        for at in ["", "one", "one/two/three/four/five", &deep] {
            let dir = bench.top.join(at);
            fs::create_dir_all(&dir).unwrap();
            let root = bench.watcher.watch(&bench.top).unwrap();
            let name = |n: &str| {
                if at.is_empty() {
                    n.to_owned()
                } else {
                    format!("{at}/{n}")
                }
            };
            let (f, d, g) = (&*name("f"), &*name("d"), &*name("g"));
            let heard =
                |expected: BTreeSet<_>| assert_eq!(bench.names(root), expected, "in {at:?}");
            heard(set([]));

            let mut file = fs::File::create(dir.join("f")).unwrap();
            heard(set([(f, Entry, false)]));
            file.write_all(b"1").unwrap();
            heard(set([(f, Contents, false)]));
            drop(file);
            heard(set([(f, Contents, false)]));
            fs::OpenOptions::new()
                .write(true)
                .open(dir.join("f"))
                .unwrap()
                .set_len(0)
                .unwrap();
            heard(set([(f, Contents, false)]));
            rustix::fs::chmod(dir.join("f"), Mode::from_raw_mode(0o600)).unwrap();
            heard(set([(f, Attributes, false)]));
            std::os::unix::fs::chown(dir.join("f"), Some(7), Some(7)).unwrap();
            heard(set([(f, Attributes, false)]));
            rustix::fs::setxattr(dir.join("f"), "trusted.a", b"1", XattrFlags::empty()).unwrap();
            heard(set([(f, Attributes, false)]));
            rustix::fs::removexattr(dir.join("f"), "trusted.a").unwrap();
            heard(set([(f, Attributes, false)]));
            fs::File::open(dir.join("f"))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
            assert!(!bench.names(root).is_empty(), "times");
            fs::create_dir(dir.join("d")).unwrap();
            heard(set([(d, Entry, true)]));
            fs::set_permissions(dir.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
            heard(set([(d, Attributes, true)]));
            symlink("f", dir.join("g")).unwrap();
            heard(set([(g, Entry, false)]));
            std::os::unix::fs::lchown(dir.join("g"), Some(7), None).unwrap();
            heard(set([(g, Attributes, false)]));
            fs::remove_file(dir.join("g")).unwrap();
            heard(set([(g, Entry, false)]));
            rustix::fs::mknodat(
                CWD,
                dir.join("g"),
                rustix::fs::FileType::Fifo,
                Mode::RUSR,
                0,
            )
            .unwrap();
            heard(set([(g, Entry, false)]));
            fs::rename(dir.join("f"), dir.join("g")).unwrap();
            heard(set([(f, Entry, false), (g, Entry, false)]));
            rustix::fs::renameat_with(
                CWD,
                dir.join("g"),
                CWD,
                dir.join("d"),
                RenameFlags::EXCHANGE,
            )
            .unwrap();
            let both = [
                (g, Entry, false),
                (g, Entry, true),
                (d, Entry, false),
                (d, Entry, true),
            ];
            heard(set(both));
            fs::remove_dir(dir.join("g")).unwrap();
            fs::remove_file(dir.join("d")).unwrap();
            heard(set([(g, Entry, true), (d, Entry, false)]));
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            heard(set([(at, Attributes, true)]));
            // Reading is no change.
            fs::read_dir(&dir).unwrap().for_each(drop);
            heard(set([]));
            bench.watcher.unwatch(root);
        }
    }
}

#[test]
fn who_did_it_and_in_which_order() {
    let bench = Bench::on(Mounted::tmpfs());
    let root = bench.watcher.watch(&bench.top).unwrap();
    for n in 0..3000 {
        fs::create_dir(bench.top.join(n.to_string())).unwrap();
    }
    let heard = bench.heard();
    assert_eq!(heard.len(), 3000);
    for (n, heard) in heard.iter().enumerate() {
        let expected = Heard::Name {
            root,
            path: n.to_string().into_bytes(),
            what: Entry,
            is_dir: true,
            pid: std::process::id().cast_signed(),
            object: None,
        };
        assert_eq!(*heard, expected);
    }
}

#[test]
fn hostile_names() {
    for bench in Bench::all() {
        let root = bench.watcher.watch(&bench.top).unwrap();
        let longest = [b'\xff'; 255];
        let names: [&[u8]; 8] = [
            b"new\nline",
            b"gone (deleted)",
            b" (deleted)",
            &longest,
            b"\xff\xfe",
            b"...",
            b"a\\040b",
            b"-",
        ];
        for dir in names {
            fs::create_dir(bench.top.join(bytes(dir))).unwrap();
            bench.heard();
            for name in names {
                fs::write(bench.top.join(bytes(dir)).join(bytes(name)), b"").unwrap();
                let heard = bench.heard();
                assert!(
                    heard.iter().any(
                        |h| matches!(h, Heard::Name { root: r, path, what: Entry, .. }
                    if *r == root && *path == [dir, b"/", name].concat())
                    ),
                    "{heard:?}"
                );
            }
        }
        // A directory that has the name under which the kernel shows another that was removed.
        fs::create_dir_all(bench.top.join("x (deleted)/in")).unwrap();
        fs::create_dir(bench.top.join("x")).unwrap();
        let held = fs::File::open(bench.top.join("x")).unwrap();
        fs::remove_dir(bench.top.join("x")).unwrap();
        bench.heard();
        fs::set_permissions(
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held)),
            fs::Permissions::from_mode(0o711),
        )
        .unwrap();
        assert_eq!(bench.names(root), set([]));
        fs::remove_dir(bench.top.join("x (deleted)/in")).unwrap();
        assert_eq!(bench.names(root), set([("x (deleted)/in", Entry, true)]));
    }
}

/// A directory whose path is longer than PATH_MAX, below another one.
fn deep_below(top: &Path) -> (std::os::fd::OwnedFd, String) {
    let name = "n".repeat(200);
    let mut at = fs::File::open(top).map(std::os::fd::OwnedFd::from).unwrap();
    let mut dirs = Vec::new();
    for _ in 0..30 {
        rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &*name, flags, Mode::empty()).unwrap();
        dirs.push(&*name);
    }
    let path = dirs.join("/");
    assert!(path.len() > 4096);
    (at, path)
}

#[test]
fn paths_longer_than_path_max() {
    for bench in Bench::all() {
        let (at, path) = deep_below(&bench.top);
        let root = bench.watcher.watch(&bench.top).unwrap();
        rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
        let expected = format!("{path}/deep");
        assert_eq!(bench.names(root), set([(&expected, Entry, true)]));
    }
}

/// Through a mount of a part of the file system nothing leads there.
#[test]
fn paths_longer_than_path_max_outside_of_a_bind_mount() {
    for bench in Bench::all() {
        fs::create_dir(bench.top.join("part")).unwrap();
        let bound = Mounted::bind(&bench.top.join("part"));
        let root = bench.watcher.watch(bound.path()).unwrap();
        let (at, _) = deep_below(&bench.top);
        rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
        fs::create_dir(bound.path().join("own")).unwrap();
        assert_eq!(bench.names(root), set([("own", Entry, true)]));
        assert_eq!(bench.losses(), []);
    }
}

#[test]
fn directories_move_within_in_and_out() {
    for bench in Bench::all() {
        let outside = bench.fs.path().join("outside");
        fs::create_dir_all(bench.top.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        let root = bench.watcher.watch(&bench.top).unwrap();
        let heard = |expected: BTreeSet<_>| assert_eq!(bench.names(root), expected);
        let touch = |path: &Path| {
            fs::create_dir(path.join("new"))
                .and_then(|()| fs::remove_dir(path.join("new")))
                .unwrap()
        };

        touch(&bench.top.join("a/b/c"));
        heard(set([("a/b/c/new", Entry, true)]));
        fs::rename(bench.top.join("a/b"), bench.top.join("z")).unwrap();
        heard(set([("a/b", Entry, true), ("z", Entry, true)]));
        touch(&bench.top.join("z/c"));
        heard(set([("z/c/new", Entry, true)]));
        fs::rename(bench.top.join("z"), outside.join("z")).unwrap();
        heard(set([("z", Entry, true)]));
        touch(&outside.join("z/c"));
        heard(set([]));
        fs::rename(outside.join("z"), outside.join("y")).unwrap();
        touch(&outside.join("y/c"));
        heard(set([]));
        fs::rename(outside.join("y"), bench.top.join("a/y")).unwrap();
        heard(set([("a/y", Entry, true)]));
        touch(&bench.top.join("a/y/c"));
        heard(set([("a/y/c/new", Entry, true)]));
        // Both at once, before any of it is read.
        touch(&bench.top.join("a/y/c"));
        fs::rename(bench.top.join("a/y"), bench.top.join("y")).unwrap();
        let names = bench.names(root);
        assert!(
            names.contains(&("a/y".into(), Entry, true))
                && names.contains(&("y".into(), Entry, true))
        );
        // A directory of the same name is another one.
        fs::create_dir(bench.top.join("a/y")).unwrap();
        fs::create_dir(bench.top.join("a/y/c")).unwrap();
        bench.heard();
        touch(&bench.top.join("a/y/c"));
        touch(&bench.top.join("y/c"));
        heard(set([("a/y/c/new", Entry, true), ("y/c/new", Entry, true)]));
    }
}

#[test]
fn a_change_by_one_name_concerns_the_others() {
    for bench in Bench::all() {
        let outside = bench.fs.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(bench.top.join("a"), b"1").unwrap();
        fs::write(outside.join("alone"), b"1").unwrap();
        let root = bench.watcher.watch(&bench.top).unwrap();
        let meta = fs::metadata(bench.top.join("a")).unwrap();
        let object = |nlink| Object {
            dev: meta.dev(),
            ino: meta.ino(),
            nlink,
        };
        let told = |heard: &[Heard], object, what| {
            heard.contains(&Heard::Object(vec![root], object, what))
        };

        fs::write(outside.join("alone"), b"2").unwrap();
        assert_eq!(bench.heard(), []);
        fs::write(bench.top.join("a"), b"2").unwrap();
        let heard = bench.heard();
        assert!(!heard.is_empty());
        for heard in heard {
            let Heard::Name {
                object: Some(found),
                what: Contents,
                ..
            } = heard
            else {
                panic!("{heard:?}")
            };
            assert_eq!(found, object(1));
        }
        fs::hard_link(bench.top.join("a"), bench.top.join("b")).unwrap();
        assert!(told(&bench.heard(), object(2), Attributes));
        fs::write(bench.top.join("a"), b"3").unwrap();
        assert!(told(&bench.heard(), object(2), Contents));
        // By a name that no root has.
        fs::hard_link(bench.top.join("a"), outside.join("c")).unwrap();
        assert!(told(&bench.heard(), object(3), Attributes));
        fs::write(outside.join("c"), b"4").unwrap();
        assert!(told(&bench.heard(), object(3), Contents));
        // What was alone is so no longer.
        fs::write(outside.join("alone"), b"5").unwrap();
        assert_eq!(bench.heard(), []);
        fs::hard_link(outside.join("alone"), bench.top.join("d")).unwrap();
        bench.heard();
        fs::write(outside.join("alone"), b"6").unwrap();
        let meta = fs::metadata(bench.top.join("d")).unwrap();
        let other = Object {
            dev: meta.dev(),
            ino: meta.ino(),
            nlink: 2,
        };
        assert!(told(&bench.heard(), other, Contents));
        // One name left, and it is known.
        fs::remove_file(outside.join("alone")).unwrap();
        let heard = bench.heard();
        let one = Some(Object { nlink: 1, ..other });
        assert!(
            heard.iter().any(
                |h| matches!(h, Heard::Name { path, what: Attributes, object, .. }
            if path == b"d" && *object == one)
                    || matches!(h, Heard::Object(_, o, Attributes) if Some(*o) == one)
            ),
            "{heard:?}"
        );
    }
}

#[test]
fn what_lies_outside_is_dropped_after_one_look() {
    for bench in Bench::all() {
        let outside = bench.fs.path().join("outside");
        fs::create_dir(&outside).unwrap();
        bench.watcher.watch(&bench.top).unwrap();
        let mut file = fs::File::create(outside.join("f")).unwrap();
        file.write_all(b"1").unwrap();
        bench.heard();
        let before = bench.watcher.stats();
        for n in 0..1000 {
            file.write_all(b"more").unwrap();
            fs::create_dir(outside.join(n.to_string())).unwrap();
        }
        assert_eq!(bench.heard(), []);
        let after = bench.watcher.stats();
        assert!(after.events >= before.events + 1000);
        assert_eq!(after.lookups, before.lookups);
        assert_eq!(after.delivered, 0);
    }
}

#[test]
fn a_change_through_a_handle_alone() {
    use crate::sys::fanotify::{handle_of, open_handle};
    use std::os::fd::{AsFd, AsRawFd};
    let bench = Bench::on(Mounted::ext4());
    fs::create_dir(bench.fs.path().join("outside")).unwrap();
    let files = [bench.top.join("f"), bench.fs.path().join("outside/f")];
    let handles = files.each_ref().map(|file| {
        fs::write(file, b"1").unwrap();
        let file = fs::File::open(file).unwrap();
        handle_of(file.as_fd()).unwrap()
    });
    // After this the kernel knows the objects by no name, as for a request to an NFS server. Not at
    // the first attempt where a process that has just begun has a copy of the mount still.
    let named = |handle: &[u8]| {
        let mount = fs::File::open(bench.fs.path()).unwrap();
        let fd = open_handle(mount.as_fd(), handle).unwrap();
        let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        path.unwrap().starts_with(bench.fs.path())
    };
    let forgotten = (0..1000).any(|_| {
        bench.fs.unmount();
        bench.fs.mount_again();
        !handles.iter().any(|handle| named(handle))
    });
    assert!(forgotten, "somebody keeps a copy of the mount");
    let root = bench.watcher.watch(&bench.top).unwrap();
    let mount = fs::File::open(bench.fs.path()).unwrap();
    for handle in &handles {
        let fd = open_handle(mount.as_fd(), handle).unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        let mut open = fs::OpenOptions::new();
        let open = open
            .write(true)
            .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        open.unwrap().write_all(b"2").unwrap();
        let object = Object {
            dev: stat.st_dev,
            ino: stat.st_ino,
            nlink: 1,
        };
        let heard = bench.heard();
        let told = Heard::Object(vec![root], object, Contents);
        assert!(heard.contains(&told), "{told:?} is not in {heard:?}");
    }
    // Once the names are known, what is outside concerns nobody.
    let known = files.each_ref().map(|file| fs::metadata(file).unwrap());
    for handle in &handles {
        let fd = open_handle(mount.as_fd(), handle).unwrap();
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), Mode::RUSR).unwrap();
    }
    assert_eq!(known.len(), 2);
    assert_eq!(bench.names(root), set([("f", Attributes, false)]));
}
