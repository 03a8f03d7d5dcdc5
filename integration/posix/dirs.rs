//! Directories as streams, and the numbers that name things.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::*;

on_every_store!(
    a_listing_is_the_union_with_right_types_and_numbers,
    a_listing_has_dot_and_dotdot,
    a_stream_rewound_shows_the_present,
    a_stream_survives_removal_while_reading,
    a_stream_resumes_at_a_cookie,
    a_removed_directory_lists_nothing_and_takes_nothing,
    a_directory_handle_follows_a_rename,
    numbers_stay_at_copy_up,
    numbers_stay_at_rename,
    numbers_stay_at_remount,
    numbers_are_distinct,
    numbers_of_new_things_are_not_reused_while_open,
    the_root_has_attributes_too,
);

fn base(store: Store) -> Overlay {
    Overlay::layered(store, 2, |l| {
        for (i, lower) in l.iter().enumerate() {
            mkdir(lower.join("dir"), 0o755).unwrap();
            mkdir(lower.join("dir/sub"), 0o755).unwrap();
            for n in 0..20 {
                write(lower.join(format!("dir/{i}-{n}")), format!("{n}")).unwrap();
            }
            write(lower.join("dir/both"), "x").unwrap();
        }
        symlink("both", l[1].join("dir/sym")).unwrap();
        mknod(l[1].join("dir/fifo"), FileType::Fifo, 0o644, 0).unwrap();
        mknod(l[0].join("dir/sock"), FileType::Socket, 0o644, 0).unwrap();
        write(l[1].join("dir/sub/deep"), "deep").unwrap();
    })
}

fn numbers(ov: &Overlay) -> BTreeMap<String, u64> {
    fn walk(root: &Path, below: &str, all: &mut BTreeMap<String, u64>) {
        for name in names(root.join(below)) {
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            let stat = lstat(root.join(&path)).unwrap();
            all.insert(path.clone(), stat.st_ino);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                walk(root, &path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(&ov.root, "", &mut all);
    all
}

fn a_listing_is_the_union_with_right_types_and_numbers(store: Store) {
    let ov = base(store);
    write(ov.at("dir/new"), "x").unwrap();
    mkdir(ov.at("dir/newdir"), 0o755).unwrap();
    unlink(ov.at("dir/0-3")).unwrap();
    unlink(ov.at("dir/1-3")).unwrap();
    append(ov.at("dir/1-4"), "x").unwrap();
    let entries = list(ov.at("dir")).unwrap();
    // both, sub, sym, fifo, sock, new, newdir
    assert_eq!(entries.len(), 40 - 2 + 7);
    // Before any lookup of them, and after: `take` compares d_ino and d_type with lstat.
    let tree = ov.tree();
    for entry in entries {
        let path = Path::new("dir").join(String::from_utf8(entry.name).unwrap());
        assert_eq!(entry.kind, tree[&path].kind, "{}", path.display());
        assert_eq!(
            entry.ino,
            lstat(ov.at(&path)).unwrap().st_ino,
            "{}",
            path.display()
        );
    }
}

fn a_listing_has_dot_and_dotdot(store: Store) {
    let ov = base(store);
    for dir in ["", "dir", "dir/sub"] {
        let fd = open_r(ov.at(dir)).unwrap();
        let mut seen = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_str().unwrap().to_owned();
            if name == "." || name == ".." {
                assert_eq!(entry.file_type(), FileType::Directory);
                // Of the root, ".." lies outside and its number is the mount's business.
                // Overlayfs gives its own root's number as the layer has it.
                let above_root = dir.is_empty() || (dir == "dir" && ov.is_overlayfs());
                if !(name == ".." && above_root) {
                    let stat = lstat(ov.at(dir).join(&name)).unwrap();
                    assert_eq!(entry.ino(), stat.st_ino, "{dir}/{name}");
                }
                seen.push(name);
            }
        }
        seen.sort();
        assert_eq!(seen, [".", ".."], "in {dir:?}");
    }
}

fn a_stream_rewound_shows_the_present(store: Store) {
    let ov = base(store);
    let fd = open_r(ov.at("dir")).unwrap();
    let mut dir = rustix::fs::Dir::new(fd).unwrap();
    let mut count = || {
        dir.rewind();
        let mut n = 0;
        while let Some(entry) = dir.read() {
            entry.unwrap();
            n += 1;
        }
        n
    };
    let before = count();
    write(ov.at("dir/new"), "x").unwrap();
    assert_eq!(count(), before + 1);
    unlink(ov.at("dir/0-0")).unwrap();
    unlink(ov.at("dir/new")).unwrap();
    assert_eq!(count(), before - 1);
}

fn a_stream_survives_removal_while_reading(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        for n in 0..2000 {
            write(l.join(format!("d/low{n}")), "").unwrap();
        }
    });
    for n in 0..2000 {
        write(ov.at(format!("d/up{n}")), "").unwrap();
    }
    let fd = open_r(ov.at("d")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(&fd).unwrap() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if name.starts_with('.') {
            continue;
        }
        assert!(seen.insert(name.clone()), "{name} twice");
        unlink(ov.at("d").join(&name)).unwrap();
    }
    assert_eq!(
        seen.len(),
        4000,
        "an entry that nobody removed was left out"
    );
    assert!(names(ov.at("d")).is_empty());
    rmdir(ov.at("d")).unwrap();
}

fn a_stream_resumes_at_a_cookie(store: Store) {
    let ov = base(store);
    let fd = open_r(ov.at("dir")).unwrap();
    let mut buffer = Vec::with_capacity(512);
    let mut all = Vec::new();
    let mut raw = rustix::fs::RawDir::new(&fd, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        all.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
    }
    // From each cookie on come exactly the rest, also by a new handle.
    for reopened in [false, true] {
        let fd = if reopened {
            open_r(ov.at("dir")).unwrap()
        } else {
            fd.try_clone().unwrap()
        };
        if reopened && ov.is_overlayfs() {
            continue; // Its cookies belong to a handle's snapshot of a merged directory.
        }
        for (i, (_, cookie)) in all.iter().enumerate().step_by(7) {
            rustix::fs::seek(&fd, SeekFrom::Start(*cookie)).unwrap();
            let mut buffer = Vec::with_capacity(512);
            let mut raw = rustix::fs::RawDir::new(&fd, buffer.spare_capacity_mut());
            let mut rest = Vec::new();
            while let Some(entry) = raw.next() {
                rest.push(entry.unwrap().file_name().to_owned());
            }
            let expect: Vec<_> = all[i + 1..].iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(rest, expect, "after entry {i}, reopened: {reopened}");
        }
    }
}

fn a_removed_directory_lists_nothing_and_takes_nothing(store: Store) {
    let ov = base(store);
    mkdir(ov.at("gone"), 0o755).unwrap();
    for path in ["gone", "dir/sub"] {
        let fd = open(ov.at(path), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
        std::fs::remove_dir_all(ov.at(path)).unwrap();
        // Overlayfs tells the lower directory's count.
        let lower_on_overlayfs = ov.is_overlayfs() && path == "dir/sub";
        assert_eq!(fstat(&fd).st_nlink, u64::from(lower_on_overlayfs), "{path}");
        let at = |name| rustix::fs::openat(&fd, name, OFlags::CREATE | OFlags::WRONLY, mode(0o644));
        fails!(at("new"), NOENT);
        fails!(rustix::fs::mkdirat(&fd, "new", mode(0o755)), NOENT);
        let left = rustix::fs::Dir::read_from(&fd)
            .unwrap()
            .filter(|e| !matches!(e.as_ref().unwrap().file_name().to_bytes(), b"." | b".."));
        assert_eq!(left.count(), 0, "{path}");
        rustix::fs::fchmod(&fd, mode(0o700)).unwrap();
        assert_eq!(fstat(&fd).st_mode & 0o7777, 0o700);
    }
}

fn a_directory_handle_follows_a_rename(store: Store) {
    let ov = base(store);
    mkdir(ov.at("made"), 0o755).unwrap();
    mkdir(ov.at("made/in"), 0o755).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let (outer, inner) = (
        open(ov.at("made"), flags, 0).unwrap(),
        open(ov.at("made/in"), flags, 0).unwrap(),
    );
    rename(ov.at("made"), ov.at("dir/moved")).unwrap();
    let create = |fd: &std::fs::File, name| {
        rustix::fs::openat(fd, name, OFlags::CREATE | OFlags::WRONLY, mode(0o644)).map(drop)
    };
    create(&outer, "a").unwrap();
    create(&inner, "b").unwrap();
    assert_eq!(names(ov.at("dir/moved")), ["a", "in"]);
    assert_eq!(names(ov.at("dir/moved/in")), ["b"]);
    // A new directory in the old place is another.
    mkdir(ov.at("made"), 0o755).unwrap();
    create(&outer, "c").unwrap();
    assert!(names(ov.at("made")).is_empty());
    let parent = rustix::fs::statat(&inner, "..", AtFlags::empty()).unwrap();
    assert_eq!(parent.st_ino, lstat(ov.at("dir/moved")).unwrap().st_ino);
}

fn numbers_stay_at_copy_up(store: Store) {
    let ov = base(store);
    let before = numbers(&ov);
    let held = open_r(ov.at("dir/both")).unwrap();
    for path in before.keys() {
        set_times(ov.at(path), 1_000_000_000).unwrap();
        assert!(exists(ov.up(path)));
    }
    assert_eq!(numbers(&ov), before);
    assert_eq!(fstat(&held).st_ino, before["dir/both"]);
    assert_eq!(
        fstat(&held).st_dev,
        lstat(ov.at("dir/both")).unwrap().st_dev
    );
}

fn numbers_stay_at_rename(store: Store) {
    let ov = base(store);
    let before = numbers(&ov);
    write(ov.at("new"), "x").unwrap();
    let new = lstat(ov.at("new")).unwrap().st_ino;
    rename(ov.at("new"), ov.at("dir/new")).unwrap();
    assert_eq!(lstat(ov.at("dir/new")).unwrap().st_ino, new);
    for name in ["both", "1-7", "sym", "fifo", "sock"] {
        rename(ov.at("dir").join(name), ov.at("dir/sub").join(name)).unwrap();
        let now = lstat(ov.at("dir/sub").join(name)).unwrap().st_ino;
        assert_eq!(now, before[&format!("dir/{name}")], "{name}");
    }
}

fn numbers_stay_at_remount(store: Store) {
    let mut ov = base(store);
    let before = numbers(&ov);
    ov.remount();
    assert_eq!(numbers(&ov), before, "of what no one has touched");
    for path in ["dir/both", "dir/1-1", "dir/sym", "dir/sub"] {
        set_times(ov.at(path), 1_000_000_000).unwrap();
    }
    write(ov.at("dir/sub/new"), "x").unwrap();
    mkdir(ov.at("newdir"), 0o755).unwrap();
    link(ov.at("dir/sub/new"), ov.at("newdir/link")).unwrap();
    let before = numbers(&ov);
    ov.remount();
    assert_eq!(numbers(&ov), before);
    ov.remount();
    // Asked for in another order.
    lstat(ov.at("newdir/link")).unwrap();
    lstat(ov.at("dir/sub/deep")).unwrap();
    assert_eq!(numbers(&ov), before);
}

fn numbers_are_distinct(store: Store) {
    let ov = base(store);
    for n in 0..50 {
        write(ov.at(format!("new{n}")), "x").unwrap();
        mkdir(ov.at(format!("dir/new{n}")), 0o755).unwrap();
        unlink(ov.at("dir").join(format!("0-{}", n % 20))).ok();
        write(ov.at("dir").join(format!("0-{}", n % 20)), "again").unwrap();
    }
    let mut by_number = BTreeMap::new();
    for (path, ino) in numbers(&ov) {
        assert_ne!(ino, 0);
        if let Some(other) = by_number.insert(ino, path.clone()) {
            panic!("{path} and {other} have one number");
        }
    }
}

fn numbers_of_new_things_are_not_reused_while_open(store: Store) {
    let ov = base(store);
    let mut held = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..100 {
        let file = create(ov.at("same-name"), 0o644).unwrap();
        pwrite(&file, 0, format!("{n}")).unwrap();
        assert!(
            seen.insert(fstat(&file).st_ino),
            "a number of an open file was given again"
        );
        unlink(ov.at("same-name")).unwrap();
        held.push(file);
    }
    for (n, file) in held.iter().enumerate() {
        assert_eq!(pread(file, 0, 9).unwrap(), format!("{n}").as_bytes());
    }
}

fn the_root_has_attributes_too(store: Store) {
    let mut ov = base(store);
    let ino = lstat(&ov.root).unwrap().st_ino;
    chmod(&ov.root, 0o751).unwrap();
    lchown(&ov.root, Some(3), Some(4)).unwrap();
    setx(&ov.root, "user.k", "v").unwrap();
    set_times(&ov.root, 1_000_000_000).unwrap();
    for _ in 0..2 {
        let stat = lstat(&ov.root).unwrap();
        assert_eq!(
            (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid),
            (0o751, 3, 4)
        );
        assert_eq!((stat.st_mtime, stat.st_ino), (1_000_000_000, ino));
        assert_eq!(getx(&ov.root, "user.k").unwrap(), b"v");
        ov.remount();
    }
    fails!(rmdir(&ov.root), BUSY);
    fails!(rename(&ov.root, ov.outside().join("x")), BUSY);
    fails!(rename(ov.at("dir/both"), ov.outside().join("x")), XDEV);
}

#[test]
fn a_hundred_thousand_entries() {
    let mut ov = Overlay::new(TMPFS, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        for n in 0..98_000 {
            mknod(l.join(format!("d/{n}")), FileType::RegularFile, 0o644, 0).unwrap();
        }
    });
    for n in 98_000..100_000 {
        create(ov.at(format!("d/{n}")), 0o644).unwrap();
    }
    for _ in 0..2 {
        let mut seen = vec![false; 100_000];
        for entry in list(ov.at("d")).unwrap() {
            let n: usize = std::str::from_utf8(&entry.name).unwrap().parse().unwrap();
            assert!(!std::mem::replace(&mut seen[n], true), "{n} twice");
        }
        assert!(
            seen.into_iter().all(|seen| seen),
            "the listing isn't complete"
        );
        ov.remount();
    }
    // Every tenth goes while the rest is read.
    let mut left = 0;
    for entry in rustix::fs::Dir::read_from(open_r(ov.at("d")).unwrap()).unwrap() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        if name.ends_with('7') {
            unlink(ov.at("d").join(&name)).unwrap();
        } else if !name.starts_with('.') {
            left += 1;
        }
    }
    assert_eq!(left, 90_000);
    assert_eq!(list(ov.at("d")).unwrap().len(), 90_000);
}
