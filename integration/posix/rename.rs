//! rename(2) and its flags, over everything that a layered tree can have at either end.

use crate::harness::*;

on_every_store!(
    an_upper_file_moves,
    a_lower_file_moves_and_leaves_a_whiteout,
    over_a_lower_file,
    over_a_whiteout,
    over_a_symlink,
    special_files_move,
    keeps_the_number_and_attributes,
    noreplace,
    exchange_files,
    exchange_file_and_directory,
    exchange_of_lower_directories_is_exdev,
    lower_directories_are_exdev,
    upper_directories_move,
    an_upper_directory_over_a_whiteout_is_opaque,
    an_upper_directory_over_an_empty_merged_one,
    a_directory_over_a_full_one,
    across_directories_with_whiteouts_at_the_source,
    errors,
    whiteout_flag_is_no_way_to_make_a_device,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        for name in ["a", "b"] {
            write(l.join(name), name).unwrap();
        }
        for dir in ["full", "empty", "empty2", "full/sub"] {
            mkdir(l.join(dir), 0o755).unwrap();
        }
        write(l.join("full/x"), "x").unwrap();
        symlink("a", l.join("sym")).unwrap();
        mknod(l.join("fifo"), FileType::Fifo, 0o640, 0).unwrap();
    })
}

fn an_upper_file_moves(store: Store) {
    let ov = base(store);
    write(ov.at("new"), "new").unwrap();
    rename(ov.at("new"), ov.at("moved")).unwrap();
    fails!(lstat(ov.at("new")), NOENT);
    assert_eq!(read(ov.at("moved")).unwrap(), b"new");
    assert_eq!(
        names(&ov.upper),
        ["moved"],
        "no whiteout where nothing lies below"
    );
    rename(ov.at("moved"), ov.at("full/in")).unwrap();
    assert_eq!(names(ov.at("full")), ["in", "sub", "x"]);
}

fn a_lower_file_moves_and_leaves_a_whiteout(store: Store) {
    let mut ov = base(store);
    let before = ov.lower_trees();
    rename(ov.at("a"), ov.at("full/moved")).unwrap();
    assert!(is_whiteout(ov.up("a")));
    for _ in 0..2 {
        fails!(lstat(ov.at("a")), NOENT);
        assert_eq!(read(ov.at("full/moved")).unwrap(), b"a");
        assert!(!names(&ov.root).contains(&"a".to_owned()));
        ov.remount();
    }
    rename(ov.at("full/moved"), ov.at("a")).unwrap();
    assert_eq!(read(ov.at("a")).unwrap(), b"a");
    assert_eq!(names(ov.at("full")), ["sub", "x"]);
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn over_a_lower_file(store: Store) {
    let ov = base(store);
    let open_b = open_r(ov.at("b")).unwrap();
    rename(ov.at("a"), ov.at("b")).unwrap();
    assert_eq!(read(ov.at("b")).unwrap(), b"a");
    fails!(lstat(ov.at("a")), NOENT);
    assert_eq!(
        pread(&open_b, 0, 9).unwrap(),
        b"b",
        "who had it open keeps it"
    );
    write(ov.at("c"), "c").unwrap();
    rename(ov.at("c"), ov.at("b")).unwrap();
    unlink(ov.at("b")).unwrap();
    fails!(lstat(ov.at("b")), NOENT);
    assert!(is_whiteout(ov.up("b")));
}

fn over_a_whiteout(store: Store) {
    let ov = base(store);
    unlink(ov.at("b")).unwrap();
    rename(ov.at("a"), ov.at("b")).unwrap();
    assert_eq!(read(ov.at("b")).unwrap(), b"a");
    fails!(lstat(ov.at("a")), NOENT);
    // Back and forth: each side has a whiteout in turn.
    for _ in 0..3 {
        rename(ov.at("b"), ov.at("a")).unwrap();
        rename(ov.at("a"), ov.at("b")).unwrap();
    }
    assert_eq!(read(ov.at("b")).unwrap(), b"a");
    assert!(is_whiteout(ov.up("a")));
    unlink(ov.at("b")).unwrap();
    fails!(lstat(ov.at("b")), NOENT);
}

fn over_a_symlink(store: Store) {
    let ov = base(store);
    rename(ov.at("b"), ov.at("sym")).unwrap();
    assert_eq!(kind(ov.at("sym")), FileType::RegularFile);
    assert_eq!(read(ov.at("sym")).unwrap(), b"b");
    assert_eq!(read(ov.at("a")).unwrap(), b"a");
}

fn special_files_move(store: Store) {
    let ov = base(store);
    rename(ov.at("sym"), ov.at("empty/sym")).unwrap();
    assert_eq!(readlink(ov.at("empty/sym")).unwrap(), b"a");
    rename(ov.at("fifo"), ov.at("fifo2")).unwrap();
    assert_eq!(
        (kind(ov.at("fifo2")), perm(ov.at("fifo2"))),
        (FileType::Fifo, 0o640)
    );
    assert!(is_whiteout(ov.up("fifo")) && is_whiteout(ov.up("sym")));
}

fn keeps_the_number_and_attributes(store: Store) {
    let mut ov = Overlay::new(store, |l| {
        write(l.join("a"), "a").unwrap();
        mkdir(l.join("d"), 0o755).unwrap();
        chmod(l.join("a"), 0o604).unwrap();
        lchown(l.join("a"), Some(7), Some(8)).unwrap();
        setx(l.join("a"), "user.k", "v").unwrap();
        set_times(l.join("a"), 1_000_000_000).unwrap();
    });
    let before = lstat(ov.at("a")).unwrap();
    rename(ov.at("a"), ov.at("d/a2")).unwrap();
    for _ in 0..2 {
        let after = lstat(ov.at("d/a2")).unwrap();
        assert_eq!(after.st_ino, before.st_ino);
        assert_eq!(
            (after.st_mode, after.st_uid, after.st_gid),
            (before.st_mode, 7, 8)
        );
        assert_eq!(
            (after.st_mtime, after.st_mtime_nsec),
            (1_000_000_000, 123_456_789)
        );
        assert_eq!(getx(ov.at("d/a2"), "user.k").unwrap(), b"v");
        ov.remount();
    }
}

fn noreplace(store: Store) {
    let ov = base(store);
    let how = RenameFlags::NOREPLACE;
    fails!(rename_with(ov.at("a"), ov.at("b"), how), EXIST);
    fails!(rename_with(ov.at("a"), ov.at("sym"), how), EXIST);
    fails!(rename_with(ov.at("a"), ov.at("full"), how), EXIST);
    rename_with(ov.at("a"), ov.at("c"), how).unwrap();
    assert_eq!(read(ov.at("c")).unwrap(), b"a");
    // A whiteout counts as absent.
    rename_with(ov.at("b"), ov.at("a"), how).unwrap();
    assert_eq!(read(ov.at("a")).unwrap(), b"b");
    fails!(lstat(ov.at("b")), NOENT);
}

fn exchange_files(store: Store) {
    let mut ov = base(store);
    let how = RenameFlags::EXCHANGE;
    rename_with(ov.at("a"), ov.at("b"), how).unwrap();
    assert_eq!(
        (read(ov.at("a")).unwrap(), read(ov.at("b")).unwrap()),
        (b"b".into(), b"a".into())
    );
    write(ov.at("new"), "new").unwrap();
    rename_with(ov.at("new"), ov.at("full/x"), how).unwrap();
    rename_with(ov.at("sym"), ov.at("a"), how).unwrap();
    ov.remount();
    assert_eq!(read(ov.at("new")).unwrap(), b"x");
    assert_eq!(read(ov.at("full/x")).unwrap(), b"new");
    assert_eq!(readlink(ov.at("a")).unwrap(), b"a");
    assert_eq!(read(ov.at("sym")).unwrap(), b"b");
    fails!(rename_with(ov.at("b"), ov.at("none"), how), NOENT);
    unlink(ov.at("b")).unwrap();
    fails!(rename_with(ov.at("new"), ov.at("b"), how), NOENT);
}

fn exchange_file_and_directory(store: Store) {
    let mut ov = base(store);
    mkdir(ov.at("made"), 0o755).unwrap();
    write(ov.at("made/in"), "in").unwrap();
    rename_with(ov.at("made"), ov.at("a"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(names(ov.at("a")), ["in"]);
    assert_eq!(read(ov.at("made")).unwrap(), b"a");
    ov.remount();
    assert_eq!(names(ov.at("a")), ["in"]);
    unlink(ov.at("a/in")).unwrap();
    rmdir(ov.at("a")).unwrap();
    fails!(lstat(ov.at("a")), NOENT);
}

fn exchange_of_lower_directories_is_exdev(store: Store) {
    let ov = base(store);
    let how = RenameFlags::EXCHANGE;
    fails!(rename_with(ov.at("full"), ov.at("empty"), how), XDEV);
    fails!(rename_with(ov.at("full"), ov.at("a"), how), XDEV);
    fails!(rename_with(ov.at("a"), ov.at("full"), how), XDEV);
    assert_eq!(names(ov.at("full")), ["sub", "x"]);
    assert_eq!(read(ov.at("a")).unwrap(), b"a");
}

fn lower_directories_are_exdev(store: Store) {
    let ov = base(store);
    fails!(rename(ov.at("full"), ov.at("moved")), XDEV);
    fails!(rename(ov.at("full"), ov.at("empty")), XDEV);
    fails!(rename(ov.at("full/sub"), ov.at("sub")), XDEV);
    // Also once it has a part in the upper.
    write(ov.at("full/new"), "x").unwrap();
    fails!(rename(ov.at("full"), ov.at("moved")), XDEV);
    fails!(lstat(ov.at("moved")), NOENT);
    assert_eq!(names(ov.at("full")), ["new", "sub", "x"]);
    // mv copies then, and that works.
    let status = std::process::Command::new("mv")
        .arg(ov.at("full"))
        .arg(ov.at("moved"))
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(names(ov.at("moved")), ["new", "sub", "x"]);
    fails!(lstat(ov.at("full")), NOENT);
}

fn upper_directories_move(store: Store) {
    let mut ov = base(store);
    mkdir(ov.at("made"), 0o750).unwrap();
    mkdir(ov.at("made/deep"), 0o755).unwrap();
    write(ov.at("made/deep/f"), "f").unwrap();
    let ino = lstat(ov.at("made/deep/f")).unwrap().st_ino;
    let held = open_rw(ov.at("made/deep/f")).unwrap();
    rename(ov.at("made"), ov.at("full/made")).unwrap();
    pwrite(&held, 1, "!").unwrap();
    drop(held);
    for _ in 0..2 {
        assert_eq!(read(ov.at("full/made/deep/f")).unwrap(), b"f!");
        assert_eq!(lstat(ov.at("full/made/deep/f")).unwrap().st_ino, ino);
        assert_eq!(perm(ov.at("full/made")), 0o750);
        fails!(lstat(ov.at("made")), NOENT);
        ov.remount();
    }
    rename(ov.at("full/made/deep"), ov.at("deep")).unwrap();
    assert_eq!(names(ov.at("deep")), ["f"]);
    assert!(names(ov.at("full/made")).is_empty());
}

fn an_upper_directory_over_a_whiteout_is_opaque(store: Store) {
    let mut ov = base(store);
    std::fs::remove_dir_all(ov.at("full")).unwrap();
    mkdir(ov.at("made"), 0o755).unwrap();
    write(ov.at("made/own"), "own").unwrap();
    mkdir(ov.at("made/sub"), 0o755).unwrap();
    rename(ov.at("made"), ov.at("full")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(ov.at("full")), ["own", "sub"]);
        fails!(lstat(ov.at("full/x")), NOENT);
        ov.remount();
    }
    // And its number and content leave with it.
    rename(ov.at("full"), ov.at("elsewhere")).unwrap();
    ov.remount();
    assert_eq!(names(ov.at("elsewhere")), ["own", "sub"]);
    fails!(lstat(ov.at("full")), NOENT);
}

fn an_upper_directory_over_an_empty_merged_one(store: Store) {
    let mut ov = base(store);
    mkdir(ov.at("made"), 0o755).unwrap();
    write(ov.at("made/own"), "own").unwrap();
    rename(ov.at("made"), ov.at("empty")).unwrap();
    assert_eq!(names(ov.at("empty")), ["own"]);
    // One that is empty only by whiteouts.
    unlink(ov.at("full/x")).unwrap();
    rmdir(ov.at("full/sub")).unwrap();
    mkdir(ov.at("made"), 0o755).unwrap();
    write(ov.at("made/own2"), "own").unwrap();
    rename(ov.at("made"), ov.at("full")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(ov.at("full")), ["own2"]);
        assert_eq!(names(ov.at("empty")), ["own"]);
        fails!(lstat(ov.at("made")), NOENT);
        ov.remount();
    }
}

fn a_directory_over_a_full_one(store: Store) {
    let ov = base(store);
    mkdir(ov.at("made"), 0o755).unwrap();
    fails!(rename(ov.at("made"), ov.at("full")), NOTEMPTY);
    write(ov.at("empty/now"), "x").unwrap();
    fails!(rename(ov.at("made"), ov.at("empty")), NOTEMPTY);
    fails!(rename(ov.at("made"), ov.at("a")), NOTDIR);
    fails!(rename(ov.at("a"), ov.at("made")), ISDIR);
    assert_eq!(names(ov.at("full")), ["sub", "x"]);
    assert!(names(ov.at("made")).is_empty());
}

fn across_directories_with_whiteouts_at_the_source(store: Store) {
    let mut ov = base(store);
    rename(ov.at("full/x"), ov.at("empty/y")).unwrap();
    rename(ov.at("a"), ov.at("full/x")).unwrap();
    ov.remount();
    assert_eq!(read(ov.at("empty/y")).unwrap(), b"x");
    assert_eq!(read(ov.at("full/x")).unwrap(), b"a");
    fails!(lstat(ov.at("a")), NOENT);
}

fn errors(store: Store) {
    let ov = base(store);
    fails!(rename(ov.at("none"), ov.at("x")), NOENT);
    fails!(rename(ov.at("a"), ov.at("none/x")), NOENT);
    fails!(rename(ov.at("a"), ov.at("b/x")), NOTDIR);
    mkdir(ov.at("made"), 0o755).unwrap();
    mkdir(ov.at("made/in"), 0o755).unwrap();
    fails!(rename(ov.at("made"), ov.at("made/in/x")), INVAL);
    fails!(rename(ov.at("made/in"), ov.at("made")), NOTEMPTY);
    fails!(rename(ov.at("full/."), ov.at("x")), BUSY);
    fails!(
        rename_with(
            ov.at("a"),
            ov.at("b"),
            RenameFlags::NOREPLACE | RenameFlags::EXCHANGE
        ),
        INVAL
    );
    rename(ov.at("a"), ov.at("a")).unwrap();
    assert_eq!(read(ov.at("a")).unwrap(), b"a");
}

fn whiteout_flag_is_no_way_to_make_a_device(store: Store) {
    let mut ov = base(store);
    // Refused, or what it leaves can be seen; never a hidden name over the lower file.
    if rename_with(ov.at("a"), ov.at("c"), RenameFlags::WHITEOUT).is_ok() {
        assert_eq!(read(ov.at("c")).unwrap(), b"a");
    } else {
        ov.remount();
        assert_eq!(read(ov.at("a")).unwrap(), b"a");
        fails!(lstat(ov.at("c")), NOENT);
    }
}
