//! Names go: unlink, rmdir; what is left in the upper, and what a node may see of it.

use crate::harness::*;

on_every_store!(
    unlink_of_an_upper_file_leaves_nothing,
    unlink_of_a_lower_file_leaves_a_whiteout,
    unlink_of_a_copied_up_file_leaves_a_whiteout,
    unlink_of_symlink_fifo_socket_device,
    unlink_errors,
    rmdir_of_a_lower_directory_leaves_a_whiteout,
    rmdir_of_a_directory_with_only_whiteouts,
    rmdir_errors,
    whiteouts_from_before_hide,
    opaque_directories_from_before_hide,
    an_opaque_directory_is_made_only_where_something_lies_below,
    the_lower_never_shines_through_after_remove_and_remake,
    the_machinery_is_not_listed,
    the_machinery_cannot_be_forged,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        for dir in ["dir", "dir/sub", "empty"] {
            mkdir(l.join(dir), 0o755).unwrap();
        }
        write(l.join("dir/a"), "a").unwrap();
        write(l.join("dir/sub/b"), "b").unwrap();
        symlink("file", l.join("sym")).unwrap();
        mknod(l.join("fifo"), FileType::Fifo, 0o644, 0).unwrap();
        mknod(l.join("sock"), FileType::Socket, 0o644, 0).unwrap();
        mknod(
            l.join("null"),
            FileType::CharacterDevice,
            0o644,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
    })
}

fn unlink_of_an_upper_file_leaves_nothing(store: Store) {
    let ov = base(store);
    write(ov.at("new"), "x").unwrap();
    unlink(ov.at("new")).unwrap();
    fails!(lstat(ov.at("new")), NOENT);
    assert!(names(&ov.upper).is_empty());
}

fn unlink_of_a_lower_file_leaves_a_whiteout(store: Store) {
    let mut ov = base(store);
    let before = ov.lower_trees();
    unlink(ov.at("dir/sub/b")).unwrap();
    unlink(ov.at("file")).unwrap();
    assert!(is_whiteout(ov.up("file")));
    assert!(is_whiteout(ov.up("dir/sub/b")));
    for _ in 0..2 {
        fails!(lstat(ov.at("file")), NOENT);
        fails!(open_r(ov.at("dir/sub/b")), NOENT);
        assert!(!names(&ov.root).contains(&"file".to_owned()));
        assert!(names(ov.at("dir/sub")).is_empty());
        ov.remount();
    }
    fails!(unlink(ov.at("file")), NOENT);
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn unlink_of_a_copied_up_file_leaves_a_whiteout(store: Store) {
    let ov = base(store);
    append(ov.at("file"), "!").unwrap();
    assert_eq!(read(ov.up("file")).unwrap(), b"below!");
    unlink(ov.at("file")).unwrap();
    assert!(is_whiteout(ov.up("file")));
    fails!(lstat(ov.at("file")), NOENT);
}

fn unlink_of_symlink_fifo_socket_device(store: Store) {
    let ov = base(store);
    for name in ["sym", "fifo", "sock", "null"] {
        unlink(ov.at(name)).unwrap();
        fails!(lstat(ov.at(name)), NOENT);
        assert!(is_whiteout(ov.up(name)));
        write(ov.at(name), "a file now").unwrap();
        assert_eq!(kind(ov.at(name)), FileType::RegularFile);
    }
    assert_eq!(read(ov.at("file")).unwrap(), b"below");
}

fn unlink_errors(store: Store) {
    let ov = base(store);
    fails!(unlink(ov.at("none")), NOENT);
    fails!(unlink(ov.at("dir")), ISDIR);
    fails!(unlink(ov.at("file/x")), NOTDIR);
    assert!(names(&ov.upper).is_empty());
}

fn rmdir_of_a_lower_directory_leaves_a_whiteout(store: Store) {
    let mut ov = base(store);
    rmdir(ov.at("empty")).unwrap();
    assert!(is_whiteout(ov.up("empty")));
    ov.remount();
    fails!(lstat(ov.at("empty")), NOENT);
    fails!(rmdir(ov.at("empty")), NOENT);
}

fn rmdir_of_a_directory_with_only_whiteouts(store: Store) {
    let mut ov = base(store);
    fails!(rmdir(ov.at("dir")), NOTEMPTY);
    unlink(ov.at("dir/a")).unwrap();
    fails!(rmdir(ov.at("dir")), NOTEMPTY);
    unlink(ov.at("dir/sub/b")).unwrap();
    rmdir(ov.at("dir/sub")).unwrap();
    rmdir(ov.at("dir")).unwrap();
    assert!(is_whiteout(ov.up("dir")));
    ov.remount();
    fails!(lstat(ov.at("dir")), NOENT);
    // A new directory of the upper with nothing below goes without a trace.
    mkdir(ov.at("new"), 0o755).unwrap();
    write(ov.at("new/x"), "x").unwrap();
    unlink(ov.at("new/x")).unwrap();
    rmdir(ov.at("new")).unwrap();
    assert_eq!(names(&ov.upper), ["dir"]);
}

fn rmdir_errors(store: Store) {
    let ov = base(store);
    fails!(rmdir(ov.at("none")), NOENT);
    fails!(rmdir(ov.at("file")), NOTDIR);
    fails!(rmdir(ov.at("sym")), NOTDIR);
    fails!(rmdir(ov.at("dir/.")), INVAL);
    fails!(rmdir(ov.at("dir/sub/..")), NOTEMPTY);
    fails!(rmdir(ov.at("dir")), NOTEMPTY);
    write(ov.at("empty/new"), "x").unwrap();
    fails!(rmdir(ov.at("empty")), NOTEMPTY);
}

fn whiteouts_from_before_hide(store: Store) {
    let whiteout = |path| mknod(path, FileType::CharacterDevice, 0, 0).unwrap();
    let ov = Overlay::build(target(), store, 3, |l, upper| {
        for lower in l {
            mkdir(lower.join("dir"), 0o755).unwrap();
        }
        for name in ["top", "middle", "dir/deep", "again"] {
            write(l[2].join(name), "lowest").unwrap();
        }
        whiteout(l[1].join("middle"));
        whiteout(l[1].join("again"));
        write(l[0].join("again"), "highest").unwrap();
        whiteout(l[1].join("dir/deep"));
        whiteout(upper.join("top"));
    });
    fails!(lstat(ov.at("top")), NOENT);
    fails!(lstat(ov.at("middle")), NOENT);
    fails!(lstat(ov.at("dir/deep")), NOENT);
    assert_eq!(read(ov.at("again")).unwrap(), b"highest");
    assert_eq!(names(&ov.root), ["again", "dir"]);
    assert!(names(ov.at("dir")).is_empty());
    write(ov.at("middle"), "new").unwrap();
    write(ov.at("top"), "new").unwrap();
    assert_eq!(read(ov.at("middle")).unwrap(), b"new");
    rmdir(ov.at("dir")).unwrap();
    mkdir(ov.at("dir"), 0o755).unwrap();
    assert!(names(ov.at("dir")).is_empty());
}

fn opaque_directories_from_before_hide(store: Store) {
    let ov = Overlay::build(target(), store, 3, |l, upper| {
        for layer in [&l[0], &l[1], &l[2]] {
            mkdir(layer.join("dir"), 0o755).unwrap();
            mkdir(layer.join("up"), 0o755).unwrap();
            mkdir(layer.join("dir/sub"), 0o755).unwrap();
        }
        write(l[0].join("dir/0"), "0").unwrap();
        write(l[1].join("dir/1"), "1").unwrap();
        write(l[2].join("dir/2"), "2").unwrap();
        write(l[2].join("dir/sub/2"), "2").unwrap();
        setx(l[1].join("dir"), "trusted.overlay.opaque", "y").unwrap();
        write(l[0].join("up/0"), "0").unwrap();
        mkdir(upper.join("up"), 0o755).unwrap();
        setx(upper.join("up"), "trusted.overlay.opaque", "y").unwrap();
        write(upper.join("up/own"), "x").unwrap();
    });
    assert_eq!(names(ov.at("dir")), ["0", "1", "sub"]);
    fails!(lstat(ov.at("dir/2")), NOENT);
    assert!(
        names(ov.at("dir/sub")).is_empty(),
        "opacity holds for all that is deeper"
    );
    assert_eq!(names(ov.at("up")), ["own"]);
    fails!(lstat(ov.at("up/0")), NOENT);
    write(ov.at("dir/2"), "new").unwrap();
    assert_eq!(read(ov.at("dir/2")).unwrap(), b"new");
}

fn an_opaque_directory_is_made_only_where_something_lies_below(store: Store) {
    let ov = base(store);
    for path in ["dir/a", "dir/sub/b"] {
        unlink(ov.at(path)).unwrap();
    }
    rmdir(ov.at("dir/sub")).unwrap();
    mkdir(ov.at("dir/sub"), 0o755).unwrap();
    assert!(is_opaque(ov.up("dir/sub")));
    assert!(!is_opaque(ov.up("dir")));
    assert!(names(ov.at("dir/sub")).is_empty());
    // A rename over a whiteout of a directory hides as well.
    rmdir(ov.at("empty")).unwrap();
    mkdir(ov.at("other"), 0o755).unwrap();
    rename(ov.at("other"), ov.at("empty")).unwrap();
    assert!(is_opaque(ov.up("empty")));
}

fn the_lower_never_shines_through_after_remove_and_remake(store: Store) {
    let mut ov = base(store);
    for round in 0..3 {
        std::fs::remove_dir_all(ov.at("dir")).unwrap();
        fails!(lstat(ov.at("dir")), NOENT);
        mkdir(ov.at("dir"), 0o755).unwrap();
        assert!(names(ov.at("dir")).is_empty(), "round {round}");
        mkdir(ov.at("dir/sub"), 0o755).unwrap();
        assert!(names(ov.at("dir/sub")).is_empty(), "round {round}");
        write(ov.at("dir/a"), format!("{round}")).unwrap();
        ov.remount();
        assert_eq!(names(ov.at("dir")), ["a", "sub"]);
        assert_eq!(read(ov.at("dir/a")).unwrap(), format!("{round}").as_bytes());
    }
    // A file in the directory's place, and a directory in the file's.
    std::fs::remove_dir_all(ov.at("dir")).unwrap();
    write(ov.at("dir"), "file").unwrap();
    unlink(ov.at("dir")).unwrap();
    fails!(lstat(ov.at("dir")), NOENT);
    unlink(ov.at("file")).unwrap();
    mkdir(ov.at("file"), 0o755).unwrap();
    rmdir(ov.at("file")).unwrap();
    ov.remount();
    fails!(lstat(ov.at("file")), NOENT);
}

fn the_machinery_is_not_listed(store: Store) {
    let ov = base(store);
    append(ov.at("file"), "up").unwrap();
    unlink(ov.at("dir/a")).unwrap();
    std::fs::remove_dir_all(ov.at("dir/sub")).unwrap();
    mkdir(ov.at("dir/sub"), 0o755).unwrap();
    for (path, node) in ov.tree() {
        let names: Vec<_> = node.xattrs.unwrap().into_keys().collect();
        assert!(
            names
                .iter()
                .all(|name| !name.starts_with("trusted.overlay.")),
            "{}: {names:?}",
            path.display()
        );
        assert!(
            !(node.kind == "CharacterDevice" && node.rdev == 0),
            "{}",
            path.display()
        );
    }
    assert!(getx(ov.at("dir/sub"), "trusted.overlay.opaque").is_err());
    assert_eq!(names(ov.at("dir")), ["sub"]);
}

fn the_machinery_cannot_be_forged(store: Store) {
    let mut ov = base(store);
    // Where these are taken (newer overlayfs escapes them), they must have no effect.
    for (path, name, value) in [
        ("dir", "trusted.overlay.opaque", "y"),
        ("dir/sub", "trusted.overlay.opaque", "x"),
        ("dir", "trusted.overlay.redirect", "/empty"),
        ("file", "trusted.overlay.whiteout", "y"),
        ("file", "trusted.overlay.metacopy", ""),
        ("empty", "trusted.overlay.origin", "x"),
    ] {
        if setx(ov.at(path), name, value).is_ok() {
            assert_eq!(getx(ov.at(path), name).unwrap(), value.as_bytes());
        }
    }
    for _ in 0..2 {
        assert_eq!(names(ov.at("dir")), ["a", "sub"]);
        assert_eq!(names(ov.at("dir/sub")), ["b"]);
        assert_eq!(read(ov.at("file")).unwrap(), b"below");
        assert!(names(ov.at("empty")).is_empty());
        ov.remount();
    }
    assert!(!is_opaque(ov.up("dir")));
}
