//! Attributes: mode, owner, times, size; setuid bits; statfs.

use crate::harness::*;

on_every_store!(
    chmod_copies_up_and_keeps_the_rest,
    chown_of_everything,
    times_of_everything,
    times_now_and_omit,
    truncate_shrinks_and_grows,
    truncate_errors,
    copy_up_keeps_attributes_of_the_whole_path,
    directory_attributes_change_in_place,
    mtime_of_a_directory_moves_with_its_entries,
    times_move_on_write_and_chmod,
    setuid_bits_go_at_a_write_by_another,
    setuid_bits_go_at_chown,
    setuid_bits_go_at_truncate_by_another,
    link_counts_are_current,
    statfs_is_the_store_s,
    statx_gives_what_stat_gives,
    access_checks_are_the_kernel_s,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "0123456789").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        write(l.join("dir/f"), "f").unwrap();
        symlink("file", l.join("sym")).unwrap();
        mknod(l.join("fifo"), FileType::Fifo, 0o644, 0).unwrap();
        for name in ["file", "dir", "dir/f", "sym", "fifo"] {
            set_times(l.join(name), 1_200_000_000).unwrap();
        }
    })
}

fn chmod_copies_up_and_keeps_the_rest(store: Store) {
    let mut ov = base(store);
    let before = ov.lower_trees();
    let old = lstat(ov.at("file")).unwrap();
    chmod(ov.at("file"), 0o6751).unwrap();
    chmod(ov.at("fifo"), 0o600).unwrap();
    chmod(ov.at("dir"), 0o1777).unwrap();
    for _ in 0..2 {
        let new = lstat(ov.at("file")).unwrap();
        assert_eq!(new.st_mode & 0o7777, 0o6751);
        assert_eq!(
            (new.st_ino, new.st_size, new.st_mtime),
            (old.st_ino, 10, old.st_mtime)
        );
        assert_eq!(perm(ov.at("fifo")), 0o600);
        assert_eq!(perm(ov.at("dir")), 0o1777);
        assert_eq!(read(ov.at("file")).unwrap(), b"0123456789");
        ov.remount();
    }
    // Through a symlink, which itself has no mode.
    chmod(ov.at("sym"), 0o640).unwrap();
    assert_eq!(perm(ov.at("file")), 0o640);
    fails!(chmod(ov.at("none"), 0o600), NOENT);
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn chown_of_everything(store: Store) {
    let mut ov = base(store);
    for (i, name) in ["file", "dir", "sym", "fifo", "dir/f"].iter().enumerate() {
        lchown(ov.at(name), Some(100 + i as u32), None).unwrap();
        lchown(ov.at(name), None, Some(200 + i as u32)).unwrap();
    }
    for _ in 0..2 {
        for (i, name) in ["file", "dir", "sym", "fifo", "dir/f"].iter().enumerate() {
            let stat = lstat(ov.at(name)).unwrap();
            assert_eq!(
                (stat.st_uid, stat.st_gid),
                (100 + i as u32, 200 + i as u32),
                "{name}"
            );
        }
        ov.remount();
    }
    assert_eq!(readlink(ov.at("sym")).unwrap(), b"file");
    lchown(ov.at("file"), Some(u32::MAX - 1), Some(u32::MAX - 1)).unwrap();
    assert_eq!(lstat(ov.at("file")).unwrap().st_uid, u32::MAX - 1);
    as_user(1000, 1000, &[], || {
        fails!(lchown(ov.at("dir/f"), Some(1000), None), PERM);
        fails!(chmod(ov.at("dir/f"), 0o777), PERM);
    });
    // The owner may give it to a group of theirs, and to no other.
    write(ov.at("own"), "x").unwrap();
    lchown(ov.at("own"), Some(1000), Some(1000)).unwrap();
    as_user(1000, 1000, &[2000], || {
        lchown(ov.at("own"), None, Some(2000)).unwrap();
        fails!(lchown(ov.at("own"), None, Some(3000)), PERM);
    });
    assert_eq!(lstat(ov.at("own")).unwrap().st_gid, 2000);
}

fn times_of_everything(store: Store) {
    let mut ov = base(store);
    let all = ["file", "dir", "sym", "fifo"];
    for (i, name) in all.iter().enumerate() {
        set_times(ov.at(name), 1_300_000_000 + i as i64).unwrap();
    }
    for _ in 0..2 {
        for (i, name) in all.iter().enumerate() {
            let stat = lstat(ov.at(name)).unwrap();
            let at = 1_300_000_000 + i as i64;
            assert_eq!(
                (stat.st_mtime, stat.st_mtime_nsec),
                (at, 123_456_789),
                "{name}"
            );
            assert_eq!(
                (stat.st_atime, stat.st_atime_nsec),
                (at, 123_456_789),
                "{name}"
            );
        }
        ov.remount();
    }
    // Before 1970, and after 2038.
    for at in [-1_000_000, 1 << 32] {
        set_times(ov.at("file"), at).unwrap();
        assert_eq!(lstat(ov.at("file")).unwrap().st_mtime, at);
    }
}

fn times_now_and_omit(store: Store) {
    let ov = base(store);
    let special = |nsec| Timespec {
        tv_sec: 0,
        tv_nsec: nsec,
    };
    let (now, omit) = (rustix::fs::UTIME_NOW, rustix::fs::UTIME_OMIT);
    let set = |atime: i64, mtime: i64| {
        let times = Timestamps {
            last_access: special(atime),
            last_modification: special(mtime),
        };
        rustix::fs::utimensat(CWD, ov.at("file"), &times, AtFlags::empty())
    };
    set(omit, now).unwrap();
    let stat = lstat(ov.at("file")).unwrap();
    assert_eq!(stat.st_atime, 1_200_000_000);
    assert!(stat.st_mtime > 1_300_000_000);
    set_times(ov.at("file"), 1_200_000_000).unwrap();
    set(now, omit).unwrap();
    let stat = lstat(ov.at("file")).unwrap();
    assert_eq!(stat.st_mtime, 1_200_000_000);
    assert!(stat.st_atime > 1_300_000_000);
    // Who may write may set the present, but only the owner any time.
    chmod(ov.at("file"), 0o666).unwrap();
    as_user(1000, 1000, &[], || {
        set(now, now).unwrap();
        fails!(set_times(ov.at("file"), 5), PERM);
    });
}

fn truncate_shrinks_and_grows(store: Store) {
    let ov = base(store);
    truncate(&ov.at("file"), 4).unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"0123");
    truncate(&ov.at("file"), 8).unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"0123\0\0\0\0");
    truncate(&ov.at("dir/f"), 0).unwrap();
    assert_eq!(lstat(ov.at("dir/f")).unwrap().st_size, 0);
    truncate(&ov.at("sym"), 2).unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"01");
    let file = open_rw(ov.at("file")).unwrap();
    rustix::fs::ftruncate(&file, 1 << 33).unwrap();
    assert_eq!(fstat(&file).st_size, 1 << 33);
    assert!(fstat(&file).st_blocks < 64, "growing makes a hole");
    assert_eq!(read(ov.low("file")).unwrap(), b"0123456789");
}

fn truncate_errors(store: Store) {
    let ov = base(store);
    fails!(truncate(&ov.at("dir"), 0), ISDIR);
    fails!(truncate(&ov.at("none"), 0), NOENT);
    fails!(truncate(&ov.at("file/x"), 0), NOTDIR);
    fails!(truncate(&ov.at("file"), u64::MAX), INVAL);
    as_user(1000, 1000, &[], || {
        fails!(truncate(&ov.at("file"), 0), ACCESS);
    });
    let file = open_r(ov.at("file")).unwrap();
    fails!(rustix::fs::ftruncate(&file, 0), INVAL);
    assert_eq!(read(ov.at("file")).unwrap(), b"0123456789");
}

fn copy_up_keeps_attributes_of_the_whole_path(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        let modes = [("p", 0o700, 1), ("p/q", 0o2775, 2), ("p/q/r", 0o1711, 3)];
        for (dir, bits, id) in modes {
            mkdir(l.join(dir), 0o755).unwrap();
            lchown(l.join(dir), Some(id), Some(id + 10)).unwrap();
            chmod(l.join(dir), bits).unwrap();
            setx(l.join(dir), "user.d", dir).unwrap();
        }
        write(l.join("p/q/r/f"), "content").unwrap();
        lchown(l.join("p/q/r/f"), Some(4), Some(14)).unwrap();
        chmod(l.join("p/q/r/f"), 0o4751).unwrap();
        setx(l.join("p/q/r/f"), "user.f", "f").unwrap();
        setx(l.join("p/q/r/f"), "trusted.t", "t").unwrap();
        for path in ["p/q/r/f", "p/q/r", "p/q", "p"] {
            set_times(l.join(path), 1_111_111_111).unwrap();
        }
    });
    let look = snapshot::Look {
        mtime: true,
        ..Default::default()
    };
    let before = snapshot::take(&ov.root, look);
    let numbers =
        |ov: &Overlay| ["p", "p/q", "p/q/r", "p/q/r/f"].map(|p| lstat(ov.at(p)).unwrap().st_ino);
    let ids = numbers(&ov);
    let dir_times = |ov: &Overlay| ["p", "p/q", "p/q/r"].map(|p| lstat(ov.at(p)).unwrap().st_mtime);
    // Opening for write copies up and changes nothing that can be seen.
    drop(open_rw(ov.at("p/q/r/f")).unwrap());
    assert!(exists(ov.up("p/q/r/f")));
    for _ in 0..2 {
        snapshot::assert_same(&before, &snapshot::take(&ov.root, look));
        assert_eq!(numbers(&ov), ids);
        assert_eq!(dir_times(&ov), [1_111_111_111; 3]);
        ov.remount();
    }
    assert_eq!(perm(ov.up("p")), 0o700);
    assert_eq!(perm(ov.up("p/q")), 0o2775);
}

fn directory_attributes_change_in_place(store: Store) {
    let mut ov = base(store);
    let ino = lstat(ov.at("dir")).unwrap().st_ino;
    let held = open(ov.at("dir"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    rustix::fs::fchmod(&held, mode(0o711)).unwrap();
    lchown(ov.at("dir"), Some(5), Some(6)).unwrap();
    setx(ov.at("dir"), "user.k", "v").unwrap();
    assert_eq!(fstat(&held).st_mode & 0o7777, 0o711);
    assert_eq!(fstat(&held).st_uid, 5);
    drop(held);
    ov.remount();
    let stat = lstat(ov.at("dir")).unwrap();
    assert_eq!(
        (stat.st_ino, stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
        (ino, 0o711, 5, 6)
    );
    assert_eq!(getx(ov.at("dir"), "user.k").unwrap(), b"v");
    assert_eq!(names(ov.at("dir")), ["f"]);
}

fn mtime_of_a_directory_moves_with_its_entries(store: Store) {
    let ov = base(store);
    let moved = |what: &str, act: &dyn Fn()| {
        set_times(ov.at("dir"), 1_200_000_000).unwrap();
        act();
        let stat = lstat(ov.at("dir")).unwrap();
        assert!(
            stat.st_mtime > 1_300_000_000,
            "{what} left the directory's mtime"
        );
    };
    moved("create", &|| write(ov.at("dir/n"), "").unwrap());
    moved("mkdir", &|| mkdir(ov.at("dir/d"), 0o755).unwrap());
    moved("symlink", &|| symlink("x", ov.at("dir/s")).unwrap());
    moved("link", &|| link(ov.at("dir/n"), ov.at("dir/l")).unwrap());
    moved("rename", &|| {
        rename(ov.at("dir/n"), ov.at("dir/m")).unwrap()
    });
    moved("unlink of an upper file", &|| {
        unlink(ov.at("dir/m")).unwrap()
    });
    moved("unlink of a lower file", &|| {
        unlink(ov.at("dir/f")).unwrap()
    });
    moved("rmdir", &|| rmdir(ov.at("dir/d")).unwrap());
    moved("rename out", &|| {
        rename(ov.at("dir/l"), ov.at("out")).unwrap()
    });
}

fn times_move_on_write_and_chmod(store: Store) {
    let ov = base(store);
    append(ov.at("file"), "x").unwrap();
    assert!(lstat(ov.at("file")).unwrap().st_mtime > 1_300_000_000);
    set_times(ov.at("dir/f"), 1_200_000_000).unwrap();
    let before = lstat(ov.at("dir/f")).unwrap();
    poll_until("a later ctime", || {
        chmod(ov.at("dir/f"), 0o600).unwrap();
        let after = lstat(ov.at("dir/f")).unwrap();
        assert_eq!(after.st_mtime, 1_200_000_000);
        (after.st_ctime, after.st_ctime_nsec) > (before.st_ctime, before.st_ctime_nsec)
    });
    link(ov.at("dir/f"), ov.at("dir/g")).unwrap();
    let linked = lstat(ov.at("dir/g")).unwrap();
    assert!((linked.st_ctime, linked.st_ctime_nsec) >= (before.st_ctime, before.st_ctime_nsec));
}

fn suid(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        for (name, bits) in [
            ("both", 0o6777),
            ("gid", 0o2777),
            ("lock", 0o2767),
            ("root", 0o6777),
        ] {
            write(l.join(name), "program").unwrap();
            chmod(l.join(name), bits).unwrap();
        }
    })
}

fn setuid_bits_go_at_a_write_by_another(store: Store) {
    let ov = suid(store);
    as_user(1000, 1000, &[], || {
        for name in ["both", "gid", "lock"] {
            append(ov.at(name), "x").unwrap();
        }
    });
    assert_eq!(perm(ov.at("both")), 0o777);
    assert_eq!(perm(ov.at("gid")), 0o777);
    // Without group execution the bit means something else: it stays for group members alone.
    assert!(matches!(perm(ov.at("lock")), 0o2767 | 0o767));
    // root with CAP_FSETID keeps them.
    append(ov.at("root"), "x").unwrap();
    assert_eq!(perm(ov.at("root")), 0o6777);
    // In the store as well, not only in a cache.
    assert_eq!(perm(ov.up("both")), 0o777);
}

fn setuid_bits_go_at_chown(store: Store) {
    let ov = suid(store);
    lchown(ov.at("both"), Some(1000), Some(1000)).unwrap();
    assert_eq!(perm(ov.at("both")), 0o777);
    chmod(ov.at("both"), 0o6755).unwrap();
    as_user(1000, 1000, &[2000], || {
        lchown(ov.at("both"), None, Some(2000)).unwrap();
    });
    assert_eq!(perm(ov.at("both")), 0o755);
    // chmod by one outside the group drops setgid.
    as_user(1000, 1000, &[], || {
        chmod(ov.at("both"), 0o2755).unwrap();
    });
    assert_eq!(perm(ov.at("both")), 0o755);
    // A directory's bits are no privilege and stay.
    mkdir(ov.at("d"), 0o755).unwrap();
    chmod(ov.at("d"), 0o2755).unwrap();
    lchown(ov.at("d"), Some(5), Some(5)).unwrap();
    assert_eq!(perm(ov.at("d")), 0o2755);
}

fn setuid_bits_go_at_truncate_by_another(store: Store) {
    let ov = suid(store);
    as_user(1000, 1000, &[], || {
        truncate(&ov.at("both"), 3).unwrap();
        open(ov.at("gid"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
    });
    assert_eq!(perm(ov.at("both")), 0o777);
    assert_eq!(perm(ov.at("gid")), 0o777);
}

fn link_counts_are_current(store: Store) {
    let ov = base(store);
    write(ov.at("new"), "x").unwrap();
    let held = open_r(ov.at("new")).unwrap();
    for (i, name) in ["l1", "l2", "dir/l3"].iter().enumerate() {
        link(ov.at("new"), ov.at(name)).unwrap();
        assert_eq!(fstat(&held).st_nlink, 2 + i as u64);
        assert_eq!(lstat(ov.at("new")).unwrap().st_nlink, 2 + i as u64);
    }
    for (left, name) in [(3, "new"), (2, "l2"), (1, "l1"), (0, "dir/l3")] {
        unlink(ov.at(name)).unwrap();
        assert_eq!(fstat(&held).st_nlink, left, "after {name}");
    }
    // Replaced by a rename.
    write(ov.at("victim"), "x").unwrap();
    let victim = open_r(ov.at("victim")).unwrap();
    write(ov.at("winner"), "x").unwrap();
    rename(ov.at("winner"), ov.at("victim")).unwrap();
    assert_eq!(fstat(&victim).st_nlink, 0);
}

fn statfs_is_the_store_s(store: Store) {
    let ov = base(store);
    let (view, upper) = (
        rustix::fs::statfs(&ov.root).unwrap(),
        rustix::fs::statfs(&ov.upper).unwrap(),
    );
    assert_eq!(view.f_namelen, 255);
    // In bytes: the block size may be told differently.
    let bytes = |blocks: u64, s: &rustix::fs::StatFs| blocks as u128 * s.f_bsize as u128;
    assert_eq!(bytes(view.f_blocks, &view), bytes(upper.f_blocks, &upper));
    if matches!(store, Store::Tmpfs(_)) {
        let file = create(ov.at("big"), 0o644).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 32 << 20).unwrap();
        let after = rustix::fs::statfs(&ov.root).unwrap();
        let used = bytes(view.f_bfree, &view) - bytes(after.f_bfree, &after);
        assert!(
            used >= 32 << 20,
            "32 MiB were taken, but only {used} bytes are less free"
        );
    }
}

fn statx_gives_what_stat_gives(store: Store) {
    let ov = base(store);
    for name in ["file", "dir", "sym", "fifo"] {
        let stat = lstat(ov.at(name)).unwrap();
        let statx = rustix::fs::statx(
            CWD,
            ov.at(name),
            AtFlags::SYMLINK_NOFOLLOW,
            rustix::fs::StatxFlags::BASIC_STATS,
        )
        .unwrap();
        assert_eq!(statx.stx_ino, stat.st_ino);
        assert_eq!(u32::from(statx.stx_mode), stat.st_mode);
        assert_eq!(statx.stx_size, stat.st_size as u64);
        assert_eq!(u64::from(statx.stx_nlink), stat.st_nlink);
        assert_eq!(statx.stx_mtime.tv_sec, stat.st_mtime);
        assert_eq!(statx.stx_mtime.tv_nsec as u64, stat.st_mtime_nsec as u64);
    }
}

fn access_checks_are_the_kernel_s(store: Store) {
    let ov = base(store);
    chmod(ov.at("file"), 0o640).unwrap();
    lchown(ov.at("file"), Some(1000), Some(2000)).unwrap();
    mkdir(ov.at("closed"), 0o700).unwrap();
    write(ov.at("closed/x"), "x").unwrap();
    as_user(1000, 1000, &[], || {
        open_rw(ov.at("file")).unwrap();
        fails!(lstat(ov.at("closed/x")), ACCESS);
        fails!(create(ov.at("dir/new"), 0o644), ACCESS);
        fails!(unlink(ov.at("dir/f")), ACCESS);
        fails!(rename(ov.at("dir/f"), ov.at("dir/g")), ACCESS);
        fails!(mkdir(ov.at("dir/new"), 0o755), ACCESS);
    });
    as_user(1001, 1001, &[2000], || {
        assert!(open_r(ov.at("file")).is_ok());
        fails!(open_rw(ov.at("file")), ACCESS);
    });
    as_user(1001, 1001, &[], || {
        fails!(open_r(ov.at("file")), ACCESS);
    });
    // A file below without a right is not opened by copying it up.
    chmod(ov.low("dir/f"), 0o600).unwrap();
    poll_until("the mode of the layer below", || {
        perm(ov.at("dir/f")) == 0o600
    });
    as_user(1000, 1000, &[], || {
        fails!(open_rw(ov.at("dir/f")), ACCESS);
        fails!(append(ov.at("dir/f"), "x"), ACCESS);
    });
    assert!(!exists(ov.up("dir/f")));
}
