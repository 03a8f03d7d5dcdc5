//! Open files: what they are after their name is unlinked, renamed or copied up; locks; and several
//! at once.

use rustix::fs::{fchmod, fchown, flock, fsetxattr, fsync, ftruncate, futimens};

use crate::harness::*;

on_every_store!(
    an_unlinked_upper_file_stays_usable,
    an_unlinked_lower_file_stays_readable,
    every_change_of_an_unlinked_open_file,
    a_reader_from_before_copy_up_sees_later_writes,
    a_reader_from_before_copy_up_sees_later_attributes,
    a_reader_from_before_copy_up_and_unlink,
    a_reader_from_before_copy_up_and_rename,
    attribute_changes_by_a_reader_s_handle,
    a_writer_follows_its_file,
    handles_see_one_another,
    o_path_handles_name_without_opening,
    proc_self_fd_reopens,
    a_name_made_anew_is_another_file,
    flock_excludes,
    record_locks_exclude,
    locks_hold_across_copy_up,
    concurrent_copy_ups_of_one_file_lose_nothing,
    concurrent_copy_ups_of_one_directory,
    concurrent_creation_has_one_winner,
    concurrent_renames_leave_every_file_once,
    readers_never_see_a_half_copied_file,
    leases_and_inotify_report,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        for n in 0..40 {
            write(l.join(format!("dir/{n}")), format!("{n}")).unwrap();
        }
    })
}

fn an_unlinked_upper_file_stays_usable(store: Store) {
    let ov = base(store);
    let file = create(ov.at("new"), 0o644).unwrap();
    unlink(ov.at("new")).unwrap();
    pwrite(&file, 0, "written after").unwrap();
    assert_eq!(pread(&file, 8, 9).unwrap(), b"after");
    let stat = fstat(&file);
    assert_eq!((stat.st_nlink, stat.st_size), (0, 13));
    fsync(&file).unwrap();
    assert!(names(&ov.upper).is_empty(), "{:?}", names(&ov.upper));
}

fn an_unlinked_lower_file_stays_readable(store: Store) {
    let ov = base(store);
    let file = open_r(ov.at("file")).unwrap();
    let ino = fstat(&file).st_ino;
    unlink(ov.at("file")).unwrap();
    assert_eq!(pread(&file, 0, 9).unwrap(), b"below");
    let stat = fstat(&file);
    // Overlayfs tells the lower file's count.
    assert_eq!(stat.st_nlink, u64::from(ov.is_overlayfs()));
    assert_eq!((stat.st_ino, stat.st_size), (ino, 5));
    write(ov.at("file"), "another").unwrap();
    assert_eq!(pread(&file, 0, 9).unwrap(), b"below");
}

fn every_change_of_an_unlinked_open_file(store: Store) {
    let ov = base(store);
    let new = create(ov.at("new"), 0o644).unwrap();
    unlink(ov.at("new")).unwrap();
    let from_below = open_rw(ov.at("file")).unwrap();
    unlink(ov.at("file")).unwrap();
    for file in [&new, &from_below] {
        ftruncate(file, 100).unwrap();
        fchmod(file, mode(0o600)).unwrap();
        fchown(
            file,
            Some(rustix::fs::Uid::from_raw(5)),
            Some(rustix::fs::Gid::from_raw(6)),
        )
        .unwrap();
        futimens(file, &at_time(1_000_000_000)).unwrap();
        fsetxattr(file, "user.k", b"v", XattrFlags::empty()).unwrap();
        let mut value = [0; 9];
        assert_eq!(
            rustix::fs::fgetxattr(file, "user.k", &mut value[..]).unwrap(),
            1
        );
        let mut list = [0; 99];
        let n = rustix::fs::flistxattr(file, &mut list[..]).unwrap();
        assert_eq!(&list[..n], b"user.k\0");
        rustix::fs::fremovexattr(file, "user.k").unwrap();
        let stat = fstat(file);
        assert_eq!(stat.st_mode & 0o7777, 0o600);
        assert_eq!((stat.st_uid, stat.st_gid), (5, 6));
        assert_eq!(
            (stat.st_size, stat.st_nlink, stat.st_mtime),
            (100, 0, 1_000_000_000)
        );
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, 200).unwrap();
        assert_eq!(fstat(file).st_size, 200);
        rustix::fs::fstatfs(file).unwrap();
    }
    assert_eq!(read(ov.low("file")).unwrap(), b"below");
    assert_eq!(perm(ov.low("file")), 0o644);
}

fn a_reader_from_before_copy_up_sees_later_writes(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    assert_eq!(pread(&reader, 0, 9).unwrap(), b"below");
    let writer = open_rw(ov.at("file")).unwrap();
    pwrite(&writer, 0, "ABOVE and more").unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"ABOVE and more");
    truncate(&ov.at("file"), 3).unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"ABO");
    append(ov.at("file"), "!").unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"ABO!");
    assert_eq!(read(ov.low("file")).unwrap(), b"below");
}

fn a_reader_from_before_copy_up_sees_later_attributes(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    chmod(ov.at("file"), 0o600).unwrap();
    lchown(ov.at("file"), Some(5), Some(6)).unwrap();
    setx(ov.at("file"), "user.k", "v").unwrap();
    append(ov.at("file"), "!").unwrap();
    let stat = fstat(&reader);
    assert_eq!(
        (stat.st_mode & 0o7777, stat.st_uid, stat.st_size),
        (0o600, 5, 6)
    );
    let mut value = [0; 9];
    assert_eq!(
        rustix::fs::fgetxattr(&reader, "user.k", &mut value[..]).unwrap(),
        1
    );
    assert_eq!(stat.st_ino, lstat(ov.at("file")).unwrap().st_ino);
}

fn a_reader_from_before_copy_up_and_unlink(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    let writer = open_rw(ov.at("file")).unwrap();
    pwrite(&writer, 0, "above").unwrap();
    unlink(ov.at("file")).unwrap();
    pwrite(&writer, 5, " still").unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"above still");
    assert_eq!(fstat(&reader).st_nlink, 0);
    fchmod(&reader, mode(0o640)).unwrap();
    assert_eq!(fstat(&writer).st_mode & 0o7777, 0o640);
}

fn a_reader_from_before_copy_up_and_rename(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    rename(ov.at("file"), ov.at("dir/moved")).unwrap();
    append(ov.at("dir/moved"), " moved").unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"below moved");
    write(ov.at("other"), "other").unwrap();
    rename(ov.at("other"), ov.at("dir/moved")).unwrap();
    assert_eq!(pread(&reader, 0, 99).unwrap(), b"below moved");
    assert_eq!(fstat(&reader).st_nlink, 0);
    assert_eq!(read(ov.at("dir/moved")).unwrap(), b"other");
}

fn attribute_changes_by_a_reader_s_handle(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    fchmod(&reader, mode(0o604)).unwrap();
    fsetxattr(&reader, "user.k", b"v", XattrFlags::empty()).unwrap();
    futimens(&reader, &at_time(1_000_000_000)).unwrap();
    assert_eq!(perm(ov.at("file")), 0o604);
    assert_eq!(getx(ov.at("file"), "user.k").unwrap(), b"v");
    assert_eq!(lstat(ov.at("file")).unwrap().st_mtime, 1_000_000_000);
    assert_eq!(perm(ov.low("file")), 0o644);
    assert_eq!(pread(&reader, 0, 9).unwrap(), b"below");
}

fn a_writer_follows_its_file(store: Store) {
    let mut ov = base(store);
    let writer = open_rw(ov.at("file")).unwrap();
    rename(ov.at("file"), ov.at("dir/one")).unwrap();
    pwrite(&writer, 0, "1").unwrap();
    link(ov.at("dir/one"), ov.at("two")).unwrap();
    unlink(ov.at("dir/one")).unwrap();
    pwrite(&writer, 1, "2").unwrap();
    rename_with(ov.at("two"), ov.at("dir/0"), RenameFlags::EXCHANGE).unwrap();
    pwrite(&writer, 2, "3").unwrap();
    assert_eq!(read(ov.at("dir/0")).unwrap(), b"123ow");
    assert_eq!(read(ov.at("two")).unwrap(), b"0");
    drop(writer);
    ov.remount();
    assert_eq!(read(ov.at("dir/0")).unwrap(), b"123ow");
}

fn handles_see_one_another(store: Store) {
    let ov = base(store);
    let handles: Vec<_> = (0..20).map(|_| open_rw(ov.at("file")).unwrap()).collect();
    for (i, writer) in handles.iter().enumerate() {
        pwrite(writer, 0, format!("{i:05}")).unwrap();
        for reader in &handles {
            assert_eq!(pread(reader, 0, 9).unwrap(), format!("{i:05}").as_bytes());
        }
    }
    let appender = open(ov.at("file"), OFlags::WRONLY | OFlags::APPEND, 0).unwrap();
    rustix::io::write(&appender, b"!").unwrap();
    assert!(handles.iter().all(|h| fstat(h).st_size == 6));
}

fn o_path_handles_name_without_opening(store: Store) {
    let ov = base(store);
    let path = open(ov.at("file"), OFlags::PATH, 0).unwrap();
    fails!(pread(&path, 0, 1), BADF);
    append(ov.at("file"), "!").unwrap();
    assert_eq!(fstat(&path).st_size, 6);
    unlink(ov.at("file")).unwrap();
    assert_eq!(fstat(&path).st_nlink, 0);
    let dir = open(ov.at("dir"), OFlags::PATH | OFlags::DIRECTORY, 0).unwrap();
    assert_eq!(
        rustix::fs::statat(&dir, "7", AtFlags::empty())
            .unwrap()
            .st_size,
        1
    );
    rustix::fs::unlinkat(&dir, "7", AtFlags::empty()).unwrap();
    fails!(rustix::fs::statat(&dir, "7", AtFlags::empty()), NOENT);
}

fn proc_self_fd_reopens(store: Store) {
    use std::os::fd::AsRawFd;
    let ov = base(store);
    for (name, content) in [("file", b"below"), ("new", b"above")] {
        if name == "new" {
            write(ov.at(name), content).unwrap();
        }
        let reader = open_r(ov.at(name)).unwrap();
        let link = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let writer = open_rw(&link).unwrap();
        pwrite(&writer, 5, "+").unwrap();
        assert_eq!(pread(&reader, 0, 9).unwrap(), [&content[..], b"+"].concat());
        assert_eq!(read(ov.at(name)).unwrap().len(), 6);
        // Without a name as well, where its content is in the upper.
        unlink(ov.at(name)).unwrap();
        let again = open_rw(&link).unwrap();
        pwrite(&again, 6, "+").unwrap();
        assert_eq!(fstat(&reader).st_size, 7);
    }
}

fn a_name_made_anew_is_another_file(store: Store) {
    let ov = base(store);
    let old = open_rw(ov.at("file")).unwrap();
    unlink(ov.at("file")).unwrap();
    let new = create(ov.at("file"), 0o600).unwrap();
    pwrite(&old, 0, "old").unwrap();
    pwrite(&new, 0, "new").unwrap();
    fchmod(&old, mode(0o777)).unwrap();
    ftruncate(&old, 1).unwrap();
    assert_ne!(fstat(&old).st_ino, fstat(&new).st_ino);
    assert_eq!(read(ov.at("file")).unwrap(), b"new");
    assert_eq!(perm(ov.at("file")), 0o600);
    drop(old);
    assert_eq!(read(ov.at("file")).unwrap(), b"new");
}

fn flock_excludes(store: Store) {
    let ov = base(store);
    let (one, two) = (
        open_r(ov.at("file")).unwrap(),
        open_r(ov.at("file")).unwrap(),
    );
    flock(&one, FlockOperation::LockExclusive).unwrap();
    fails!(flock(&two, FlockOperation::NonBlockingLockShared), AGAIN);
    flock(&one, FlockOperation::LockShared).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    fails!(flock(&one, FlockOperation::NonBlockingLockExclusive), AGAIN);
    // One that waits gets it when the other goes.
    let path = ov.at("file");
    let waiter = std::thread::spawn(move || {
        let three = open_r(path).unwrap();
        flock(&three, FlockOperation::LockExclusive).unwrap();
    });
    flock(&one, FlockOperation::Unlock).unwrap();
    drop(two);
    waiter.join().unwrap();
}

fn record_locks_exclude(store: Store) {
    let ov = base(store);
    // A record lock belongs to a table of files, so the other side needs one of its own.
    Who::root().own_files().run(|| {
        let file = open_rw(ov.at("file")).unwrap();
        sys::set_lock(&file, libc::F_WRLCK, 0, 10).unwrap();
        sys::set_lock(&file, libc::F_RDLCK, 20, 10).unwrap();
        Who::root().own_files().run(|| {
            let other = open_rw(ov.at("file")).unwrap();
            fails!(sys::set_lock(&other, libc::F_WRLCK, 5, 1), AGAIN);
            fails!(sys::set_lock(&other, libc::F_WRLCK, 25, 1), AGAIN);
            sys::set_lock(&other, libc::F_RDLCK, 25, 1).unwrap();
            sys::set_lock(&other, libc::F_WRLCK, 10, 10).unwrap();
            assert_eq!(
                sys::conflicting_lock(&other, 0, 1).unwrap(),
                libc::F_WRLCK as i16
            );
            assert_eq!(
                sys::conflicting_lock(&other, 40, 1).unwrap(),
                libc::F_UNLCK as i16
            );
        });
        sys::set_lock(&file, libc::F_UNLCK, 0, 0).unwrap();
        Who::root().own_files().run(|| {
            let other = open_rw(ov.at("file")).unwrap();
            sys::set_lock(&other, libc::F_WRLCK, 0, 0).unwrap();
        });
    });
}

fn locks_hold_across_copy_up(store: Store) {
    let ov = base(store);
    let reader = open_r(ov.at("file")).unwrap();
    flock(&reader, FlockOperation::LockExclusive).unwrap();
    let writer = open_rw(ov.at("file")).unwrap();
    pwrite(&writer, 0, "above").unwrap();
    fails!(
        flock(&writer, FlockOperation::NonBlockingLockExclusive),
        AGAIN
    );
    rename(ov.at("file"), ov.at("moved")).unwrap();
    let again = open_r(ov.at("moved")).unwrap();
    fails!(flock(&again, FlockOperation::NonBlockingLockShared), AGAIN);
    drop(reader);
    flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
}

fn concurrent_copy_ups_of_one_file_lose_nothing(store: Store) {
    for round in 0..10 {
        let ov = Overlay::new(store, |l| {
            write(l.join("file"), vec![b'.'; 300_000]).unwrap()
        });
        let ino = lstat(ov.at("file")).unwrap().st_ino;
        together(8, |i| {
            let file = open_rw(ov.at("file")).unwrap();
            pwrite(&file, i as u64 * 1000, format!("{i}")).unwrap();
            if i == 7 {
                chmod(ov.at("file"), 0o600).unwrap();
            }
        });
        let content = read(ov.at("file")).unwrap();
        assert_eq!(content.len(), 300_000);
        for i in 0..8 {
            let found = char::from(content[i * 1000]);
            assert_eq!(
                found.to_string(),
                i.to_string(),
                "a write was lost in round {round}"
            );
        }
        assert_eq!(lstat(ov.at("file")).unwrap().st_ino, ino);
        assert_eq!(perm(ov.at("file")), 0o600);
    }
}

fn concurrent_copy_ups_of_one_directory(store: Store) {
    let ov = Overlay::new(store, |l| {
        std::fs::create_dir_all(l.join("a/b/c/d")).unwrap();
        chmod(l.join("a/b"), 0o2751).unwrap();
        for i in 0..8 {
            write(l.join(format!("a/b/c/d/{i}")), "x").unwrap();
        }
    });
    together(8, |i| {
        append(ov.at(format!("a/b/c/d/{i}")), "y").unwrap();
        write(ov.at(format!("a/b/c/new{i}")), "z").unwrap();
    });
    for i in 0..8 {
        assert_eq!(read(ov.at(format!("a/b/c/d/{i}"))).unwrap(), b"xy");
        assert_eq!(read(ov.at(format!("a/b/c/new{i}"))).unwrap(), b"z");
    }
    assert_eq!(perm(ov.up("a/b")), 0o2751);
}

fn concurrent_creation_has_one_winner(store: Store) {
    let ov = base(store);
    for n in 0..40 {
        let path = ov.at(format!("dir/{n}"));
        // Over a whiteout, which isn't one operation in the store.
        unlink(&path).unwrap();
        let winners = std::sync::atomic::AtomicUsize::new(0);
        together(4, |i| {
            let made = match i % 4 {
                0 => create(&path, 0o644).map(drop),
                1 => mkdir(&path, 0o755),
                2 => symlink("x", &path),
                _ => mknod(&path, FileType::Fifo, 0o644, 0),
            };
            match made {
                Ok(()) => drop(winners.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                Err(e) => assert_eq!(e, Errno::EXIST),
            }
        });
        assert_eq!(winners.into_inner(), 1);
    }
    assert_eq!(list(ov.at("dir")).unwrap().len(), 40);
}

fn concurrent_renames_leave_every_file_once(store: Store) {
    let mut ov = base(store);
    mkdir(ov.at("other"), 0o755).unwrap();
    together(4, |i| {
        for n in (0..40).filter(|n| n % 4 == i) {
            for round in 0..6 {
                let (from, to) = if round % 2 == 0 {
                    ("dir", "other")
                } else {
                    ("other", "dir")
                };
                rename(ov.at(format!("{from}/{n}")), ov.at(format!("{to}/{n}"))).unwrap();
            }
        }
    });
    // Two that want each other's directory, and each other's name.
    together(2, |i| {
        for _ in 0..50 {
            let (a, b) = if i == 0 {
                ("dir/0", "other/x")
            } else {
                ("other/x", "dir/0")
            };
            match rename(ov.at(a), ov.at(b)) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => panic!("{e}"),
            }
        }
    });
    ov.remount();
    let left = list(ov.at("dir")).unwrap().len() + list(ov.at("other")).unwrap().len();
    assert_eq!(left, 40);
    for n in 1..40 {
        assert_eq!(
            read(ov.at(format!("dir/{n}"))).unwrap(),
            format!("{n}").as_bytes()
        );
    }
}

fn readers_never_see_a_half_copied_file(store: Store) {
    let bytes = vec![b'x'; 3 << 20];
    let ov = Overlay::new(store, |l| {
        for n in 0..8 {
            write(l.join(format!("{n}")), &bytes).unwrap();
        }
    });
    together(4, |i| {
        for n in 0..8 {
            let path = ov.at(format!("{n}"));
            if i == 0 {
                chmod(&path, 0o600).unwrap();
            } else {
                let stat = lstat(&path).unwrap();
                assert_eq!(stat.st_size, 3 << 20);
                assert!(
                    matches!(stat.st_mode & 0o7777, 0o600 | 0o644),
                    "{:o}",
                    stat.st_mode
                );
                assert!(read(&path).unwrap() == bytes);
                assert_eq!(names(&ov.root).len(), 8);
            }
        }
    });
}

fn leases_and_inotify_report(store: Store) {
    use rustix::fs::inotify;
    let ov = base(store);
    let watch =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, ov.at("dir"), inotify::WatchFlags::ALL_EVENTS).unwrap();
    append(ov.at("dir/1"), "x").unwrap();
    unlink(ov.at("dir/2")).unwrap();
    rename(ov.at("dir/3"), ov.at("dir/three")).unwrap();
    write(ov.at("dir/new"), "x").unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut buffer);
    let mut seen = std::collections::BTreeSet::new();
    while let Ok(event) = reader.next() {
        let name = event.file_name().map(|n| n.to_str().unwrap().to_owned());
        seen.insert((event.events().bits(), name.unwrap_or_default()));
    }
    use inotify::ReadFlags as R;
    for (what, name) in [
        (R::MODIFY, "1"),
        (R::DELETE, "2"),
        (R::MOVED_FROM, "3"),
        (R::MOVED_TO, "three"),
        (R::CREATE, "new"),
    ] {
        assert!(
            seen.contains(&(what.bits(), name.to_owned())),
            "{what:?} {name}: {seen:?}"
        );
    }
}
