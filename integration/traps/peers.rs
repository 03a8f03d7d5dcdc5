//! Defects measured in other union file systems.

use std::process::Command;

use crate::harness::*;

on_every_store!(
    a_name_of_256_bytes_is_enoent,
    path_max,
    nlink_after_unlink,
    setfattr_on_a_symlink_deadlocks,
    an_acl_question_that_squashfs_refuses,
    equal_inode_numbers_in_two_layers,
    a_directory_listed_empty_while_full,
    mode_bits_under_umask_and_acl,
    attributes_of_hard_links_go_stale,
    a_char_device_0_0_vanishes,
    an_upper_written_by_overlayfs_is_read,
    overlayfs_reads_what_was_written,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        symlink("file", l.join("sym")).unwrap();
    })
}

fn a_name_of_256_bytes_is_enoent(store: Store) {
    let ov = base(store);
    for dir in ["", "dir"] {
        fails!(lstat(ov.at(dir).join("x".repeat(256))), NAMETOOLONG);
        fails!(mkdir(ov.at(dir).join("x".repeat(256)), 0o755), NAMETOOLONG);
        fails!(lstat(ov.at(dir).join("x".repeat(255))), NOENT);
    }
}

fn path_max(store: Store) {
    let ov = base(store);
    let mut longest = format!("{}/", ov.root.display());
    while longest.len() + 2 <= 4095 - 4 {
        longest.push_str("./");
    }
    while longest.len() < 4095 - 4 {
        longest.insert(longest.len() - 1, '/');
    }
    let longest = longest + "file";
    assert_eq!(longest.len(), 4095);
    assert_eq!(read(&longest).unwrap(), b"below");
    fails!(read(format!("{longest}x")), NAMETOOLONG);
    symlink("t".repeat(4095), ov.at("longlink")).unwrap();
    assert_eq!(readlink(ov.at("longlink")).unwrap().len(), 4095);
}

fn nlink_after_unlink(store: Store) {
    let ov = base(store);
    write(ov.at("new"), "x").unwrap();
    link(ov.at("new"), ov.at("other")).unwrap();
    let file = open_r(ov.at("new")).unwrap();
    unlink(ov.at("new")).unwrap();
    assert_eq!(fstat(&file).st_nlink, 1);
    unlink(ov.at("other")).unwrap();
    assert_eq!(fstat(&file).st_nlink, 0);
}

fn setfattr_on_a_symlink_deadlocks(store: Store) {
    let ov = base(store);
    without_deadlock(&ov, || {
        let set = |name: &str| {
            let mut tool = Command::new("setfattr");
            tool.args(["-h", "-n", name, "-v", "v"]).arg(ov.at("sym"));
            tool.stderr(std::process::Stdio::null())
                .status()
                .unwrap()
                .success()
        };
        assert!(set("trusted.k"));
        assert!(!set("user.k"), "symlinks have no user attributes");
    });
    assert_eq!(getx(ov.at("sym"), "trusted.k").unwrap(), b"v");
    fails!(getx(ov.at("file"), "trusted.k"), NODATA);
}

/// A file system image, mounted until this is dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if unmount(&self.0).is_err() {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

fn an_acl_question_that_squashfs_refuses(store: Store) {
    let image = scratch();
    let tree = image.path().join("tree");
    mkdir(&tree, 0o755).unwrap();
    mkdir(tree.join("dir"), 0o755).unwrap();
    write(tree.join("dir/f"), "squashed").unwrap();
    chmod(tree.join("dir/f"), 0o666).unwrap();
    write(tree.join("group"), "for a group").unwrap();
    lchown(tree.join("group"), None, Some(2000)).unwrap();
    chmod(tree.join("group"), 0o640).unwrap();
    setx(tree.join("dir/f"), "user.k", "v").unwrap();
    let file = image.path().join("image");
    let made = Command::new("mksquashfs")
        .args([&tree, &file])
        .args(["-quiet", "-no-progress"])
        .stdout(std::process::Stdio::null())
        .status();
    if !made.is_ok_and(|s| s.success()) {
        return eprintln!("skipped: there is no mksquashfs");
    }
    let mut squashed = None;
    let mut mounted = false;
    let mut ov = Overlay::build(target(), store, 1, |l, _| {
        let status = Command::new("mount")
            .args(["-t", "squashfs", "-o", "loop,ro"])
            .args([&file, &l[0]])
            .stderr(std::process::Stdio::null())
            .status();
        mounted = status.is_ok_and(|s| s.success());
        if mounted {
            squashed = Some(Mounted(l[0].clone()));
        }
    });
    if !mounted {
        return eprintln!("skipped: squashfs can't be mounted here");
    }
    ov.hold(squashed);
    as_user(1000, 1000, &[2000], || {
        assert_eq!(read(ov.at("dir/f")).unwrap(), b"squashed");
        assert_eq!(read(ov.at("group")).unwrap(), b"for a group");
        assert_eq!(names(ov.at("dir")), ["f"]);
        append(ov.at("dir/f"), "!").unwrap();
    });
    // Only now: ENODATA or that it isn't supported are both no ACL.
    assert!(matches!(
        getx(ov.at("group"), ACL_ACCESS),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    ));
    assert_eq!(getx(ov.at("dir/f"), "user.k").unwrap(), b"v");
    chmod(ov.at("group"), 0o600).unwrap();
    assert_eq!(perm(ov.at("group")), 0o600);
    unlink(ov.at("group")).unwrap();
}

fn equal_inode_numbers_in_two_layers(store: Store) {
    // Two file systems made the same way give the same numbers to different files.
    let mut tmpfs = Vec::new();
    let mut ov = Overlay::layered(store, 2, |l| {
        for (i, lower) in l.iter().enumerate() {
            tmpfs.push(Tmpfs::new(lower, 1 << 20));
            mkdir(lower.join("dir"), 0o755).unwrap();
            for n in 0..10 {
                write(lower.join(format!("dir/{i}-{n}")), format!("{i}-{n}")).unwrap();
            }
        }
        for n in 0..10 {
            let numbers = [0, 1].map(|i| lstat(l[i].join(format!("dir/{i}-{n}"))).unwrap().st_ino);
            assert_eq!(numbers[0], numbers[1], "the layers of this test");
        }
    });
    ov.hold(tmpfs);
    let mut seen = std::collections::BTreeSet::new();
    let held: Vec<_> = ["0", "1"]
        .iter()
        .flat_map(|i| (0..10).map(move |n| format!("dir/{i}-{n}")))
        .map(|path| (open_r(ov.at(&path)).unwrap(), path))
        .collect();
    for (file, path) in &held {
        assert!(
            seen.insert(fstat(file).st_ino),
            "{path} has another's number"
        );
        assert_eq!(pread(file, 0, 9).unwrap(), path.as_bytes()[4..]);
    }
    for (_, path) in &held {
        append(ov.at(path), "+").unwrap();
    }
    for (file, path) in &held {
        assert_eq!(
            read(ov.at(path)).unwrap(),
            format!("{}+", &path[4..]).as_bytes()
        );
        assert_eq!(pread(file, 0, 9).unwrap().len(), 4);
    }
}

fn a_directory_listed_empty_while_full(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        for n in 0..20 {
            write(l.join(format!("d/low{n}")), "x").unwrap();
        }
    });
    together(4, |i| {
        for round in 0..60 {
            let name = |n: usize| ov.at(format!("d/{i}-{}", n % 7));
            let outcome = match round % 6 {
                0 => write(name(round), "x"),
                1 => mkdir(name(round), 0o755),
                2 => rename(name(round + 5), name(round)),
                3 => unlink(name(round + 2)),
                4 => rmdir(name(round + 3)),
                _ => list(ov.at("d")).map(drop),
            };
            match outcome {
                Ok(())
                | Err(
                    Errno::NOENT | Errno::EXIST | Errno::ISDIR | Errno::NOTDIR | Errno::NOTEMPTY,
                ) => {}
                Err(e) => panic!("{i}, {round}: {e}"),
            }
            if i == 0 && round % 3 == 0 {
                unlink(ov.at(format!("d/low{}", round / 3))).unwrap();
            }
        }
    });
    let shown = names(ov.at("d"));
    let stored: Vec<String> = names(ov.up("d"))
        .into_iter()
        .filter(|n| !is_whiteout(ov.up("d").join(n)))
        .collect();
    assert_eq!(
        shown, stored,
        "all of the lower files are gone, so the upper is all there is"
    );
    for name in &shown {
        lstat(ov.at("d").join(name)).unwrap();
    }
    std::fs::remove_dir_all(ov.at("d")).unwrap();
    fails!(lstat(ov.at("d")), NOENT);
}

fn mode_bits_under_umask_and_acl(store: Store) {
    let ov = base(store);
    let acls: [Option<Vec<u8>>; 3] = [
        None,
        Some(acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 1, 0)])),
        Some(acl(&[
            (USER_OBJ, 6, 0),
            (USER, 7, 1000),
            (GROUP_OBJ, 7, 0),
            (MASK, 5, 0),
            (OTHER, 0, 0),
        ])),
    ];
    // The file system below is the judge: the same calls in a directory of its own.
    let judge = ov.outside().join("judge");
    for (i, default) in acls.iter().enumerate() {
        for umask in [0, 0o022, 0o077, 0o246] {
            for asked in [0o777, 0o666, 0o640, 0o4711, 0o001] {
                let name = format!("{i}-{umask:o}-{asked:o}");
                let results = [ov.at(&name), judge.join(&name)].map(|dir| {
                    std::fs::create_dir_all(&dir).unwrap();
                    if let Some(default) = default {
                        setx(&dir, ACL_DEFAULT, default).unwrap();
                    }
                    Who::root().umask(umask).run(|| {
                        create(dir.join("open"), asked).unwrap();
                        mkdir(dir.join("mkdir"), asked).unwrap();
                        mknod(dir.join("mkfifo"), FileType::Fifo, asked, 0).unwrap();
                        mknod(dir.join("mknod"), FileType::RegularFile, asked, 0).unwrap();
                    });
                    ["open", "mkdir", "mkfifo", "mknod"].map(|n| {
                        let path = dir.join(n);
                        (n, format!("{:o}", perm(&path)), xattrs(&path).unwrap())
                    })
                });
                assert_eq!(results[0], results[1], "{name}");
            }
        }
    }
}

fn attributes_of_hard_links_go_stale(store: Store) {
    let ov = base(store);
    write(ov.at("one"), "1").unwrap();
    link(ov.at("one"), ov.at("dir/two")).unwrap();
    let same = |what: &str| {
        let (a, b) = (
            lstat(ov.at("one")).unwrap(),
            lstat(ov.at("dir/two")).unwrap(),
        );
        assert_eq!(
            (
                a.st_ino,
                a.st_mode,
                a.st_uid,
                a.st_size,
                a.st_nlink,
                a.st_mtime,
                a.st_mtime_nsec,
                a.st_ctime_nsec
            ),
            (
                b.st_ino,
                b.st_mode,
                b.st_uid,
                b.st_size,
                b.st_nlink,
                b.st_mtime,
                b.st_mtime_nsec,
                b.st_ctime_nsec
            ),
            "after {what}"
        );
        a
    };
    same("link");
    chmod(ov.at("one"), 0o600).unwrap();
    assert_eq!(same("chmod").st_mode & 0o7777, 0o600);
    append(ov.at("dir/two"), "2345").unwrap();
    assert_eq!(same("append").st_size, 5);
    lchown(ov.at("dir/two"), Some(9), None).unwrap();
    assert_eq!(same("chown").st_uid, 9);
    set_times(ov.at("one"), 1_000_000_000).unwrap();
    assert_eq!(same("utimes").st_mtime, 1_000_000_000);
    link(ov.at("dir/two"), ov.at("three")).unwrap();
    assert_eq!(same("another link").st_nlink, 3);
    unlink(ov.at("three")).unwrap();
    assert_eq!(same("unlink").st_nlink, 2);
    setx(ov.at("one"), "user.k", "v").unwrap();
    assert_eq!(getx(ov.at("dir/two"), "user.k").unwrap(), b"v");
    write(ov.at("victim"), "v").unwrap();
    rename(ov.at("victim"), ov.at("dir/two")).unwrap();
    assert_eq!(lstat(ov.at("one")).unwrap().st_nlink, 1);
}

fn a_char_device_0_0_vanishes(store: Store) {
    let ov = base(store);
    let made = mknod(ov.at("dir/zero"), FileType::CharacterDevice, 0o644, 0);
    let listed = names(ov.at("dir")).contains(&"zero".to_owned());
    match made {
        // It was taken, so it must be there.
        Ok(()) => assert!(listed && kind(ov.at("dir/zero")) == FileType::CharacterDevice),
        Err(e) => {
            assert!(
                matches!(e, Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP),
                "{e}"
            );
            assert!(!listed);
            fails!(lstat(ov.at("dir/zero")), NOENT);
            assert!(!exists(ov.up("dir/zero")));
        }
    }
}

fn work_in(ov: &Overlay) {
    append(ov.at("file"), "+").unwrap();
    for n in 0..5 {
        write(ov.at(format!("dir/{n}")), format!("{n}")).unwrap();
    }
    unlink(ov.at("low/gone")).unwrap();
    std::fs::remove_dir_all(ov.at("low/tree")).unwrap();
    mkdir(ov.at("low/tree"), 0o750).unwrap();
    write(ov.at("low/tree/own"), "own").unwrap();
    rename(ov.at("low/moved"), ov.at("dir/moved")).unwrap();
    rename(ov.at("sym"), ov.at("dir/sym")).unwrap();
    chmod(ov.at("low"), 0o711).unwrap();
    setx(ov.at("low/tree"), "user.k", "v").unwrap();
    link(ov.at("dir/1"), ov.at("low/link")).unwrap();
    mkdir(ov.at("made"), 0o755).unwrap();
    rename(ov.at("made"), ov.at("low/empty")).unwrap();
}

fn layers(store: Store, target: Target) -> Overlay {
    Overlay::build(target, store, 1, |l, _| {
        let l = &l[0];
        write(l.join("file"), "below").unwrap();
        symlink("file", l.join("sym")).unwrap();
        for dir in ["dir", "low", "low/tree", "low/empty"] {
            mkdir(l.join(dir), 0o755).unwrap();
        }
        for file in ["low/gone", "low/tree/hidden", "low/moved", "low/stays"] {
            write(l.join(file), file).unwrap();
        }
    })
}

fn an_upper_written_by_overlayfs_is_read(store: Store) {
    let mut ov = layers(store, Target::Overlayfs);
    work_in(&ov);
    let written = ov.tree();
    ov.umount();
    ov.target = target();
    ov.mount();
    snapshot::assert_same(&written, &ov.tree());
    append(ov.at("low/tree/own"), "+").unwrap();
    assert_eq!(names(ov.at("low/tree")), ["own"]);
}

fn overlayfs_reads_what_was_written(store: Store) {
    let mut ov = layers(store, target());
    work_in(&ov);
    let written = ov.tree();
    ov.umount();
    ov.target = Target::Overlayfs;
    ov.mount();
    let look = snapshot::Look {
        without_d_ino: true,
        ..Default::default()
    };
    snapshot::assert_same(&written, &snapshot::take(&ov.root, look));
}
