//! Between the kernel and us: lookups and forgets, directory streams, names, modes, credentials, caches,
//! signals, notifications.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::*;

on_every_store!(
    lookup_and_forget_race,
    readdirplus_counts_what_was_sent,
    attributes_of_an_unlinked_open_file,
    a_forgotten_number_is_found_again,
    a_directory_stream_isn_t_rebuilt_at_its_beginning,
    names_that_look_like_whiteouts,
    the_umask_is_applied_once,
    killing_setuid_kills_capabilities_too,
    the_caller_s_groups_are_the_thread_s,
    direct_io_breaks_shared_maps,
    a_writeback_cache_reads_for_a_writer,
    a_writeback_cache_strips_append,
    signals_interrupt_requests,
    a_killed_waiter_lets_go,
    notifications_deadlock_with_requests,
);

fn many(store: Store, count: usize) -> Overlay {
    Overlay::new(store, |l| {
        for dir in 0..4 {
            mkdir(l.join(format!("{dir}")), 0o755).unwrap();
            for n in 0..count / 4 {
                write(l.join(format!("{dir}/{n}")), format!("{n}")).unwrap();
            }
        }
    })
}

fn lookup_and_forget_race(store: Store) {
    let ov = many(store, 400);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                drop_caches();
            }
        });
        without_deadlock(&ov, || {
            together(4, |i| {
                for round in 0..15 {
                    for n in 0..100 {
                        let path = ov.at(format!("{}/{n}", (i + round) % 4));
                        assert_eq!(read(&path).unwrap(), format!("{n}").as_bytes());
                        lstat(ov.at(format!("{i}/{n}"))).unwrap();
                    }
                    assert_eq!(list(ov.at(format!("{i}"))).unwrap().len(), 100);
                }
            });
        });
        over.store(true, Ordering::Release);
    });
}

fn readdirplus_counts_what_was_sent(store: Store) {
    let ov = many(store, 4000);
    for _ in 0..5 {
        for dir in 0..4 {
            // Left half read, so that much was sent and little used.
            let fd = open_r(ov.at(format!("{dir}"))).unwrap();
            let mut stream = rustix::fs::Dir::read_from(&fd).unwrap();
            for _ in 0..300 {
                stream.next().unwrap().unwrap();
            }
        }
        drop_caches();
        // The root and the parents, reached by "." and "..", are still there.
        assert_eq!(lstat(ov.at("1/../2/./7")).unwrap().st_size, 1);
        assert_eq!(names(&ov.root), ["0", "1", "2", "3"]);
        assert_eq!(list(ov.at("3")).unwrap().len(), 1000);
    }
}

fn attributes_of_an_unlinked_open_file(store: Store) {
    let ov = many(store, 40);
    let handles: Vec<_> = (0..10)
        .map(|n| open_rw(ov.at(format!("0/{n}"))).unwrap())
        .collect();
    for n in 0..10 {
        unlink(ov.at(format!("0/{n}"))).unwrap();
    }
    drop_caches();
    for (n, file) in handles.iter().enumerate() {
        rustix::fs::fchmod(file, mode(0o600)).unwrap();
        rustix::fs::ftruncate(file, n as u64).unwrap();
        rustix::fs::fsetxattr(file, "user.n", b"v", XattrFlags::empty()).unwrap();
        let stat = fstat(file);
        assert_eq!(
            (stat.st_nlink, stat.st_size, stat.st_mode & 0o7777),
            (0, n as i64, 0o600)
        );
        pwrite(file, 0, "new").unwrap();
        assert_eq!(pread(file, 0, 3).unwrap(), b"new");
    }
    assert_eq!(list(ov.at("0")).unwrap().len(), 0);
}

fn a_forgotten_number_is_found_again(store: Store) {
    let ov = many(store, 40);
    let number = |path: &str| lstat(ov.at(path)).unwrap().st_ino;
    let dir = open(ov.at("1"), OFlags::PATH | OFlags::DIRECTORY, 0).unwrap();
    let before = (number("0/1"), number("1/1"), number("1"));
    append(ov.at("0/1"), "x").unwrap();
    drop_caches();
    assert_eq!((number("0/1"), number("1/1"), number("1")), before);
    rustix::fs::statat(&dir, "5", AtFlags::empty()).unwrap();
    // What has an inotify watch is pinned by it, and keeps its number when it is copied up.
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).unwrap();
    rustix::fs::inotify::add_watch(
        &watch,
        ov.at("1/1"),
        rustix::fs::inotify::WatchFlags::MODIFY,
    )
    .unwrap();
    drop_caches();
    append(ov.at("1/1"), "x").unwrap();
    drop_caches();
    assert_eq!(number("1/1"), before.1);
}

fn a_directory_stream_isn_t_rebuilt_at_its_beginning(store: Store) {
    let ov = many(store, 4000);
    let fd = open_r(ov.at("0")).unwrap();
    let mut stream = rustix::fs::Dir::new(fd).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..500 {
        seen.insert(stream.read().unwrap().unwrap().file_name().to_owned());
    }
    for n in 0..200 {
        write(ov.at(format!("0/new{n}")), "x").unwrap();
        unlink(ov.at(format!("0/{n}"))).unwrap();
    }
    // Nothing that stays is missed or told twice by the same pass.
    while let Some(entry) = stream.read() {
        let name = entry.unwrap().file_name().to_owned();
        assert!(seen.insert(name.clone()), "{name:?} twice");
    }
    for n in 200..1000 {
        assert!(
            seen.contains(&std::ffi::CString::new(format!("{n}")).unwrap()),
            "{n} left out"
        );
    }
    stream.rewind();
    let mut now = 0;
    while let Some(entry) = stream.read() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if !name.starts_with('.') {
            assert!(exists(ov.at("0").join(&name)), "{name} is listed, but gone");
            now += 1;
        }
    }
    assert_eq!(now, 1000);
}

fn names_that_look_like_whiteouts(store: Store) {
    const ODD: [&str; 6] = [
        ".wh.file",
        ".wh..wh..opq",
        ".wh.",
        ".wh..wh.aufs",
        ".wh.none",
        "..wh.x",
    ];
    let mut ov = Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        write(l.join("dir/file"), "below").unwrap();
        mkdir(l.join("has"), 0o755).unwrap();
        write(l.join("has/.wh.odd"), "ordinary").unwrap();
    });
    let mut kept = Vec::new();
    for odd in ODD {
        for path in [odd.to_owned(), format!("dir/{odd}")] {
            // Stored or refused, as one likes.
            if write(ov.at(&path), odd).is_ok() {
                kept.push((path, odd));
            }
        }
    }
    for _ in 0..2 {
        for (path, odd) in &kept {
            assert_eq!(read(ov.at(path)).unwrap(), odd.as_bytes(), "{path}");
        }
        for dir in ["", "dir", "has"] {
            for entry in list(ov.at(dir)).unwrap() {
                let name = String::from_utf8(entry.name).unwrap();
                lstat(ov.at(dir).join(&name))
                    .unwrap_or_else(|e| panic!("{name} is listed, but {e}"));
            }
        }
        assert_eq!(
            read(ov.at("file")).unwrap(),
            b"below",
            "a name of a node's hid a file"
        );
        assert_eq!(read(ov.at("dir/file")).unwrap(), b"below");
        ov.remount();
    }
    for (path, _) in &kept {
        unlink(ov.at(path)).unwrap();
        fails!(lstat(ov.at(path)), NOENT);
    }
    assert_eq!(names(ov.at("dir")), ["file"]);
}

fn the_umask_is_applied_once(store: Store) {
    let ov = many(store, 4);
    setx(
        ov.at("0"),
        ACL_DEFAULT,
        acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]),
    )
    .unwrap();
    let dirs = ["0", "1"];
    Who::root().umask(0o027).run(|| {
        for dir in dirs {
            open(ov.at(dir).join("f"), OFlags::CREATE | OFlags::RDWR, 0o666).unwrap();
            mkdir(ov.at(dir).join("d"), 0o777).unwrap();
            mknod(ov.at(dir).join("p"), FileType::Fifo, 0o666, 0).unwrap();
            mknod(ov.at(dir).join("s"), FileType::Socket, 0o777, 0).unwrap();
        }
    });
    let modes = |dir: &str| ["f", "d", "p", "s"].map(|n| perm(ov.at(dir).join(n)));
    assert_eq!(
        modes("0"),
        [0o666, 0o777, 0o666, 0o777],
        "with a default ACL there is no umask"
    );
    assert_eq!(modes("1"), [0o640, 0o750, 0o640, 0o750]);
}

fn killing_setuid_kills_capabilities_too(store: Store) {
    let ov = Overlay::new(store, |l| {
        for name in [
            "write",
            "truncate",
            "chown",
            "fallocate",
            "open-trunc",
            "copy",
        ] {
            write(l.join(name), "x").unwrap();
            setx(l.join(name), "security.capability", capability(1)).unwrap();
            chmod(l.join(name), 0o6777).unwrap();
        }
    });
    lchown(ov.at("chown"), Some(1000), None).unwrap();
    as_user(1001, 1001, &[], || {
        append(ov.at("write"), "x").unwrap();
        truncate(&ov.at("truncate"), 0).unwrap();
        let file = open_rw(ov.at("fallocate")).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 100).unwrap();
        open(ov.at("open-trunc"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
        let (from, to) = (
            open_r(ov.at("write")).unwrap(),
            open_rw(ov.at("copy")).unwrap(),
        );
        rustix::fs::copy_file_range(&from, None, &to, None, 2).unwrap();
    });
    for name in [
        "write",
        "truncate",
        "chown",
        "fallocate",
        "open-trunc",
        "copy",
    ] {
        assert_eq!(perm(ov.at(name)), 0o777, "{name}");
        fails!(getx(ov.at(name), "security.capability"), NODATA);
        // And in the store: what another mount would see.
        assert_eq!(perm(ov.up(name)), 0o777, "{name}");
        fails!(getx(ov.up(name), "security.capability"), NODATA);
    }
}

fn the_caller_s_groups_are_the_thread_s(store: Store) {
    let ov = many(store, 4);
    for (dir, gid) in [("0", 3000), ("1", 3001)] {
        lchown(ov.at(dir), None, Some(gid)).unwrap();
        chmod(ov.at(dir), 0o2770).unwrap();
    }
    // Two threads of one process with different credentials, as a file server has them.
    std::thread::scope(|scope| {
        for (dir, other, gid) in [("0", "1", 3000), ("1", "0", 3001)] {
            let ov = &ov;
            scope.spawn(move || {
                as_user(1000 + gid, 1000, &[gid], || {
                    for n in 0..50 {
                        create(ov.at(format!("{dir}/by{n}")), 0o2755).unwrap();
                        fails!(create(ov.at(format!("{other}/by{n}")), 0o755), ACCESS);
                    }
                });
            });
        }
    });
    for (dir, gid) in [("0", 3000), ("1", 3001)] {
        for n in 0..50 {
            let stat = lstat(ov.at(format!("{dir}/by{n}"))).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid), (1000 + gid, gid));
            assert_eq!(
                stat.st_mode & 0o7777,
                0o2755,
                "the group is the caller's own"
            );
        }
    }
}

fn direct_io_breaks_shared_maps(store: Store) {
    let ov = many(store, 4);
    for (path, fresh) in [("0/0", false), ("0/new", true)] {
        let file = if fresh {
            create(ov.at(path), 0o644).unwrap()
        } else {
            open_rw(ov.at(path)).unwrap()
        };
        rustix::fs::ftruncate(&file, 8192).unwrap();
        let (one, two) = (
            sys::Map::shared(&file, 8192, true).unwrap(),
            sys::Map::shared(&open_rw(ov.at(path)).unwrap(), 8192, true).unwrap(),
        );
        one.write(5000, b"one");
        two.write(5003, b"two");
        assert_eq!(one.read(5000, 6), b"onetwo");
        assert_eq!(pread(&file, 5000, 6).unwrap(), b"onetwo");
        pwrite(&file, 5000, "ONE").unwrap();
        assert_eq!(two.read(5000, 6), b"ONEtwo");
        one.sync().unwrap();
        assert_eq!(&read(ov.up(path)).unwrap()[5000..5006], b"ONEtwo");
    }
}

fn a_writeback_cache_reads_for_a_writer(store: Store) {
    let ov = many(store, 4);
    chmod(ov.at("0"), 0o777).unwrap();
    as_user(1000, 1000, &[], || {
        let file = open(ov.at("0/w"), OFlags::WRONLY | OFlags::CREATE, 0o200).unwrap();
        pwrite(&file, 0, vec![b'a'; 6000]).unwrap();
        drop(file);
        let file = open(ov.at("0/w"), OFlags::WRONLY, 0).unwrap();
        pwrite(&file, 3001, "unaligned").unwrap();
        fails!(pread(&file, 0, 1), BADF);
    });
    let content = read(ov.at("0/w")).unwrap();
    assert_eq!(
        (content.len(), &content[3000..3011]),
        (6000, &b"aunaligneda"[..])
    );
    // mtime is the store's, not one that a cache made up.
    let (view, upper) = (lstat(ov.at("0/w")).unwrap(), lstat(ov.up("0/w")).unwrap());
    assert_eq!(
        (view.st_mtime, view.st_mtime_nsec),
        (upper.st_mtime, upper.st_mtime_nsec)
    );
}

fn a_writeback_cache_strips_append(store: Store) {
    let ov = many(store, 4);
    together(4, |i| {
        for n in 0..100 {
            append(ov.at("0/0"), format!("{i}:{n:02};")).unwrap();
        }
    });
    let text = String::from_utf8(read(ov.at("0/0")).unwrap()).unwrap();
    let mut lines: Vec<&str> = text[1..].split_terminator(';').collect();
    assert_eq!(lines.len(), 400, "appends overwrote one another");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 400);
    // A handle in append mode ignores where it is told to write.
    let file = open(ov.at("0/0"), OFlags::RDWR | OFlags::APPEND, 0).unwrap();
    let size = fstat(&file).st_size;
    pwrite(&file, 0, "at the end").unwrap();
    assert_eq!(fstat(&file).st_size, size + 10);
    assert_eq!(pread(&file, size as u64, 10).unwrap(), b"at the end");
}

fn signals_interrupt_requests(store: Store) {
    let bytes: Vec<u8> = (0..8 << 20).map(|i: u32| (i >> 3) as u8).collect();
    let ov = Overlay::new(store, |l| write(l.join("big"), &bytes).unwrap());
    // dd handles SIGUSR1 without restarting what it interrupts.
    let mut dd = std::process::Command::new("dd")
        .arg(format!("if={}", ov.at("big").display()))
        .arg(format!("of={}", ov.at("copy").display()))
        .args(["bs=4096", "conv=notrunc,fsync"])
        .env("LC_ALL", "C")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&dd);
    // Its handler stands once it has made the output.
    poll_until("dd's start", || {
        exists(ov.at("copy")) && lstat(ov.at("copy")).unwrap().st_size > 0
    });
    let mut status = None;
    poll_until("dd's end", || {
        for _ in 0..20 {
            rustix::process::kill_process(pid, rustix::process::Signal::USR1).ok();
        }
        status = dd.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success(), "{status:?}");
    assert!(read(ov.at("copy")).unwrap() == bytes);
    append(ov.at("big"), "!").unwrap();
    assert_eq!(lstat(ov.at("big")).unwrap().st_size, (8 << 20) + 1);
}

fn a_killed_waiter_lets_go(store: Store) {
    let ov = many(store, 4);
    let holder = open_rw(ov.at("0/0")).unwrap();
    rustix::fs::flock(&holder, FlockOperation::LockExclusive).unwrap();
    let mut waiter = std::process::Command::new("flock")
        .args([ov.at("0/0").as_os_str(), "true".as_ref()])
        .spawn()
        .unwrap();
    let state = format!("/proc/{}/stat", waiter.id());
    poll_until("the waiter's wait", || {
        // That program sleeps nowhere else.
        std::fs::read_to_string(&state)
            .unwrap_or_default()
            .contains("(flock) S")
    });
    waiter.kill().unwrap();
    poll_until("the waiter's end", || waiter.try_wait().unwrap().is_some());
    drop(holder);
    let next = open_rw(ov.at("0/0")).unwrap();
    poll_until("the lock", || {
        rustix::fs::flock(&next, FlockOperation::NonBlockingLockExclusive).is_ok()
    });
    // The daemon still answers everything.
    assert_eq!(list(ov.at("0")).unwrap().len(), 1);
}

fn notifications_deadlock_with_requests(store: Store) {
    let ov = many(store, 400);
    if ov.is_overlayfs() {
        return; // Changes beneath are undefined there.
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !over.load(Ordering::Acquire) {
                round += 1;
                for n in 0..100 {
                    write(ov.low(format!("0/{n}")), format!("{round}")).unwrap();
                    chmod(ov.low(format!("1/{n}")), 0o600 + round % 8).unwrap();
                    rename(ov.low(format!("2/{n}")), ov.low(format!("2/n{n}"))).unwrap();
                    rename(ov.low(format!("2/n{n}")), ov.low(format!("2/{n}"))).unwrap();
                }
            }
        });
        without_deadlock(&ov, || {
            together(4, |i| {
                for round in 0..10 {
                    for n in 0..100 {
                        read(ov.at(format!("0/{n}"))).unwrap();
                        lstat(ov.at(format!("1/{n}"))).unwrap();
                        // It may have its other name just now.
                        lstat(ov.at(format!("2/{n}"))).ok();
                        write(ov.at(format!("3/{i}-{n}-{round}")), "x").unwrap();
                    }
                    list(ov.at("2")).unwrap();
                }
            });
        });
        over.store(true, Ordering::Release);
    });
    // And in the end the view shows what is there.
    write(ov.low("0/5"), "last").unwrap();
    poll_until("the last change", || read(ov.at("0/5")).unwrap() == b"last");
}
