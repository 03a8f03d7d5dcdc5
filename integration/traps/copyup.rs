//! Copy-up and rename: what gets lost on the way, and what others see meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::*;

on_every_store!(
    a_backing_of_the_lower_outlives_copy_up,
    a_backing_of_the_lower_is_mapped_while_written,
    copy_up_turns_0700_into_0755,
    copy_up_fills_a_hole_of_64_mib,
    copy_up_loses_the_gid_of_a_setgid_directory,
    copy_up_under_the_daemon_s_umask,
    copy_up_changes_times_and_xattrs,
    copy_up_of_a_file_without_read_permission,
    copy_up_of_a_setuid_program_loses_its_bits,
    copy_up_leaves_its_stage,
    rename_without_an_atomic_whiteout,
    noreplace_and_exchange_meet_whiteouts,
    renames_lock_parents_against_each_other,
    directory_renames_fail_with_exdev_cleanly,
);

fn a_backing_of_the_lower_outlives_copy_up(store: Store) {
    let ov = Overlay::new(store, |l| write(l.join("f"), vec![b'l'; 20_000]).unwrap());
    let before = ov.lower_trees();
    let reader = open_r(ov.at("f")).unwrap();
    assert_eq!(pread(&reader, 0, 1).unwrap(), b"l");
    let writer = open_rw(ov.at("f")).unwrap();
    pwrite(&writer, 0, vec![b'u'; 5000]).unwrap();
    // Opened while the first reader still holds what it had.
    let later = open_rw(ov.at("f")).unwrap();
    pwrite(&later, 5000, vec![b'v'; 5000]).unwrap();
    let mut expect = vec![b'u'; 5000];
    expect.extend(vec![b'v'; 5000]);
    expect.extend(vec![b'l'; 10_000]);
    for handle in [&reader, &writer, &later] {
        assert!(pread(handle, 0, 30_000).unwrap() == expect);
    }
    drop((reader, writer, later));
    // A new open may not find the old backing either.
    let again = open_rw(ov.at("f")).unwrap();
    pwrite(&again, 19_999, "end").unwrap();
    drop(again);
    expect.truncate(19_999);
    expect.extend(b"end");
    assert!(read(ov.at("f")).unwrap() == expect);
    assert!(read(ov.up("f")).unwrap() == expect);
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn a_backing_of_the_lower_is_mapped_while_written(store: Store) {
    let ov = Overlay::new(store, |l| write(l.join("f"), vec![b'l'; 8192]).unwrap());
    let before = ov.lower_trees();
    let reader = open_r(ov.at("f")).unwrap();
    let map = sys::Map::shared(&reader, 8192, false).unwrap();
    assert_eq!(map.read(0, 1), b"l");
    let writer = open_rw(ov.at("f")).unwrap();
    let second = sys::Map::shared(&writer, 8192, true).unwrap();
    second.write(100, b"mapped");
    second.sync().unwrap();
    assert_eq!(pread(&writer, 100, 6).unwrap(), b"mapped");
    assert_eq!(read(ov.at("f")).unwrap()[100..106], *b"mapped");
    drop((map, second, reader, writer));
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn copy_up_turns_0700_into_0755(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("closed"), 0o700).unwrap();
        mkdir(l.join("closed/open"), 0o755).unwrap();
        write(l.join("closed/open/f"), "x").unwrap();
    });
    append(ov.at("closed/open/f"), "y").unwrap();
    assert_eq!(
        (perm(ov.at("closed")), perm(ov.up("closed"))),
        (0o700, 0o700)
    );
    as_user(1000, 1000, &[], || {
        fails!(lstat(ov.at("closed/open/f")), ACCESS);
    });
}

fn copy_up_fills_a_hole_of_64_mib(store: Store) {
    let ov = Overlay::new(store, |l| {
        let file = create(l.join("f"), 0o644).unwrap();
        rustix::fs::ftruncate(&file, 64 << 20).unwrap();
    });
    append(ov.at("f"), "end").unwrap();
    assert_eq!(lstat(ov.at("f")).unwrap().st_size, (64 << 20) + 3);
    assert!(
        lstat(ov.up("f")).unwrap().st_blocks < 100,
        "the hole is full of zeros"
    );
}

fn copy_up_loses_the_gid_of_a_setgid_directory(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        lchown(l.join("d"), Some(1000), Some(1234)).unwrap();
        chmod(l.join("d"), 0o2770).unwrap();
        write(l.join("d/f"), "x").unwrap();
    });
    as_user(1000, 1000, &[1234], || {
        write(ov.at("d/new"), "x").unwrap();
    });
    for at in [ov.at("d"), ov.up("d")] {
        let stat = lstat(at).unwrap();
        assert_eq!(
            (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            (0o2770, 1000, 1234)
        );
    }
    assert_eq!(lstat(ov.at("d/new")).unwrap().st_gid, 1234);
}

fn copy_up_under_the_daemon_s_umask(store: Store) {
    let ov = Who::root().umask(0o077).run(|| {
        Overlay::new(store, |l| {
            mkdir(l.join("d"), 0o777).unwrap();
            chmod(l.join("d"), 0o777).unwrap();
            write(l.join("d/f"), "x").unwrap();
            chmod(l.join("d/f"), 0o666).unwrap();
            mknod(l.join("d/p"), FileType::Fifo, 0o666, 0).unwrap();
            chmod(l.join("d/p"), 0o666).unwrap();
            chmod(l, 0o755).unwrap();
        })
    });
    append(ov.at("d/f"), "y").unwrap();
    set_times(ov.at("d/p"), 1_000_000_000).unwrap();
    assert_eq!(
        [perm(ov.at("d")), perm(ov.at("d/f")), perm(ov.at("d/p"))],
        [0o777, 0o666, 0o666]
    );
    Who::user(1000, 1000).umask(0).run(|| {
        mkdir(ov.at("d/new"), 0o777).unwrap();
        create(ov.at("d/new/f"), 0o666).unwrap();
    });
    assert_eq!(
        [perm(ov.at("d/new")), perm(ov.at("d/new/f"))],
        [0o777, 0o666]
    );
}

fn copy_up_changes_times_and_xattrs(store: Store) {
    let look = snapshot::Look {
        set_mtime: true,
        ..Default::default()
    };
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        write(l.join("d/f"), "x").unwrap();
        for path in ["d/f", "d"] {
            setx(l.join(path), "user.u", "u").unwrap();
            setx(l.join(path), "trusted.t", "t").unwrap();
            setx(
                l.join(path),
                ACL_ACCESS,
                acl(&[
                    (USER_OBJ, 7, 0),
                    (USER, 5, 1000),
                    (GROUP_OBJ, 1, 0),
                    (MASK, 7, 0),
                    (OTHER, 1, 0),
                ]),
            )
            .unwrap();
            set_times(l.join(path), 1_234_567_890).unwrap();
        }
    });
    let before = snapshot::take(&ov.root, look);
    drop(open_rw(ov.at("d/f")).unwrap());
    let after = snapshot::take(&ov.root, look);
    for path in ["d", "d/f"].map(std::path::Path::new) {
        assert_eq!(before[path], after[path]);
    }
}

fn copy_up_of_a_file_without_read_permission(store: Store) {
    let ov = Overlay::new(store, |l| {
        for name in ["wo", "none"] {
            write(l.join(name), "below").unwrap();
            lchown(l.join(name), Some(1000), Some(1000)).unwrap();
        }
        chmod(l.join("wo"), 0o200).unwrap();
        chmod(l.join("none"), 0).unwrap();
    });
    as_user(1000, 1000, &[], || {
        append(ov.at("wo"), "+").unwrap();
        fails!(open_r(ov.at("wo")), ACCESS);
        // Unaligned, on a page that the writer may not read.
        let file = open(ov.at("wo"), OFlags::WRONLY, 0).unwrap();
        pwrite(&file, 2, "XY").unwrap();
        fails!(append(ov.at("none"), "+"), ACCESS);
        chmod(ov.at("none"), 0o600).unwrap();
        append(ov.at("none"), "+").unwrap();
    });
    assert_eq!(read(ov.at("wo")).unwrap(), b"beXYw+");
    assert_eq!(read(ov.at("none")).unwrap(), b"below+");
}

fn copy_up_of_a_setuid_program_loses_its_bits(store: Store) {
    let ov = Overlay::new(store, |l| {
        write(l.join("p"), "program").unwrap();
        lchown(l.join("p"), Some(1000), Some(1000)).unwrap();
        setx(l.join("p"), "security.capability", capability(1)).unwrap();
        chmod(l.join("p"), 0o6755).unwrap();
    });
    // None of these is a write.
    drop(open_rw(ov.at("p")).unwrap());
    set_times(ov.at("p"), 1_000_000_000).unwrap();
    rename(ov.at("p"), ov.at("q")).unwrap();
    link(ov.at("q"), ov.at("p")).unwrap();
    assert_eq!(perm(ov.at("p")), 0o6755);
    assert_eq!(
        getx(ov.at("p"), "security.capability").unwrap(),
        capability(1)
    );
    // A write by another kills both, the bits and the capability.
    chmod(ov.at("p"), 0o6777).unwrap();
    as_user(1001, 1001, &[], || append(ov.at("p"), "x").unwrap());
    assert_eq!(perm(ov.at("q")), 0o777);
    fails!(getx(ov.at("q"), "security.capability"), NODATA);
}

fn copy_up_leaves_its_stage(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        for n in 0..20 {
            write(l.join(format!("d/{n}")), "x").unwrap();
        }
    });
    for n in 0..20 {
        let path = ov.at(format!("d/{n}"));
        match n % 5 {
            0 => append(&path, "y").unwrap(),
            1 => unlink(&path).unwrap(),
            2 => rename(&path, ov.at(format!("d/r{n}"))).unwrap(),
            3 => {
                unlink(&path).unwrap();
                mkdir(&path, 0o755).unwrap();
            }
            _ => link(&path, ov.at(format!("d/l{n}"))).unwrap(),
        }
    }
    // Overlayfs keeps one whiteout to link from; a few hidden files of that kind are no leak.
    let mut staged = 0;
    for dir in names(&ov.work) {
        if kind(ov.work.join(&dir)) == FileType::Directory {
            staged += names(ov.work.join(&dir)).len();
        } else {
            staged += 1;
        }
    }
    assert!(staged <= 3, "{staged} things stay in the work directory");
    let strange: Vec<_> = names(ov.up("d"))
        .into_iter()
        .filter(|n| n.starts_with('.'))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
}

fn rename_without_an_atomic_whiteout(store: Store) {
    const FILES: usize = 150;
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        for n in 0..FILES {
            write(l.join(format!("d/a{n}")), format!("{n}")).unwrap();
        }
    });
    let (left, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (ov, left, over) = (&ov, &left, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Acquire) {
                for n in 0..FILES {
                    // Once the old name is away the new one is there, and the old never returns.
                    if !exists(ov.at(format!("d/a{n}"))) {
                        assert!(exists(ov.at(format!("d/b{n}"))), "{n} has no name");
                        assert!(!exists(ov.at(format!("d/a{n}"))), "a{n} came back");
                        left.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
        for n in 0..FILES {
            rename(ov.at(format!("d/a{n}")), ov.at(format!("d/b{n}"))).unwrap();
            assert!(!exists(ov.at(format!("d/a{n}"))));
        }
        // The observer must have seen one at least.
        poll_until("the observer's look", || left.load(Ordering::Relaxed));
        over.store(true, Ordering::Release);
    });
    assert_eq!(names(ov.at("d")).len(), FILES);
}

fn noreplace_and_exchange_meet_whiteouts(store: Store) {
    let ov = Overlay::new(store, |l| {
        for name in ["a", "b", "c"] {
            write(l.join(name), name).unwrap();
        }
    });
    unlink(ov.at("b")).unwrap();
    fails!(
        rename_with(ov.at("a"), ov.at("b"), RenameFlags::EXCHANGE),
        NOENT
    );
    fails!(
        rename_with(ov.at("b"), ov.at("a"), RenameFlags::EXCHANGE),
        NOENT
    );
    fails!(
        rename_with(ov.at("b"), ov.at("x"), RenameFlags::NOREPLACE),
        NOENT
    );
    rename_with(ov.at("a"), ov.at("b"), RenameFlags::NOREPLACE).unwrap();
    fails!(
        rename_with(ov.at("c"), ov.at("b"), RenameFlags::NOREPLACE),
        EXIST
    );
    assert_eq!(names(&ov.root), ["b", "c"]);
    assert_eq!(read(ov.at("b")).unwrap(), b"a");
}

fn renames_lock_parents_against_each_other(store: Store) {
    let ov = Overlay::new(store, |l| {
        for dir in ["a", "b", "a/deep", "b/deep"] {
            mkdir(l.join(dir), 0o755).unwrap();
        }
        for n in 0..8 {
            write(l.join(format!("a/{n}")), "x").unwrap();
        }
    });
    mkdir(ov.at("a/new"), 0o755).unwrap();
    without_deadlock(&ov, || {
        together(6, |i| {
            for round in 0..60 {
                let outcome = match (i, round % 2) {
                    (0, 0) => rename(ov.at("a/0"), ov.at("b/0")),
                    (0, _) => rename(ov.at("b/0"), ov.at("a/0")),
                    (1, 0) => rename(ov.at("b/deep/1"), ov.at("a/1")),
                    (1, _) => rename(ov.at("a/1"), ov.at("b/deep/1")),
                    (2, 0) => rename(ov.at("a/new"), ov.at("b/deep/new")),
                    (2, _) => rename(ov.at("b/deep/new"), ov.at("a/new")),
                    (3, _) => rename_with(ov.at("a/3"), ov.at("a/4"), RenameFlags::EXCHANGE),
                    (4, 0) => link(ov.at("a/5"), ov.at("a/deep/5")),
                    (4, _) => unlink(ov.at("a/deep/5")),
                    _ => list(ov.at("a"))
                        .and_then(|_| list(ov.at("b/deep")))
                        .map(drop),
                };
                match outcome {
                    Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
                    Err(e) => panic!("{i}, {round}: {e}"),
                }
            }
        });
    });
    let files = list(ov.at("a")).unwrap().len() + list(ov.at("b")).unwrap().len();
    assert!(files >= 10, "{files}");
}

fn directory_renames_fail_with_exdev_cleanly(store: Store) {
    let ov = Overlay::new(store, |l| {
        std::fs::create_dir_all(l.join("full/sub/deep")).unwrap();
        write(l.join("full/sub/f"), "f").unwrap();
        mkdir(l.join("to"), 0o755).unwrap();
    });
    let before = ov.tree();
    fails!(rename(ov.at("full"), ov.at("to/full")), XDEV);
    fails!(rename(ov.at("full/sub"), ov.at("sub")), XDEV);
    fails!(rename(ov.at("full/sub/deep"), ov.at("to")), XDEV);
    snapshot::assert_same(&before, &ov.tree());
    fails!(lstat(ov.up("to/full")), NOENT);
    assert!(!names(&ov.upper).iter().any(|n| is_whiteout(ov.up(n))));
    // A directory of the upper that replaced one from below has nothing of it, and moves.
    std::fs::remove_dir_all(ov.at("full/sub")).unwrap();
    mkdir(ov.at("full/sub"), 0o755).unwrap();
    rename(ov.at("full/sub"), ov.at("to/sub")).unwrap();
    assert!(names(ov.at("to/sub")).is_empty());
    fails!(lstat(ov.at("full/sub")), NOENT);
}
