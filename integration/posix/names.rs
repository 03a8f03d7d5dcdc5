//! Names come into being: create, mkdir, mknod, symlink, link; and what a name may be.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::harness::*;

on_every_store!(
    create_makes_a_file_in_the_upper_only,
    create_refuses_what_exists,
    create_over_a_deleted_name_starts_empty,
    open_truncate_of_a_lower_file,
    mkdir_makes_a_directory,
    mkdir_over_a_deleted_directory_is_empty,
    mknod_makes_fifo_socket_and_devices,
    mknod_of_the_whiteout_device_makes_no_whiteout,
    symlink_and_readlink,
    symlink_over_a_deleted_name,
    link_shares_the_inode,
    link_of_a_lower_file_copies_it_up,
    link_over_a_deleted_name,
    link_of_a_symlink_links_the_symlink,
    link_of_an_unnamed_file,
    names_are_bytes,
    names_of_255_bytes_work_and_256_are_too_long,
    a_path_longer_than_path_max_is_too_long,
    lookups_through_files_and_loops_fail,
    layers_merge_in_order,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        write(l.join("file"), "below").unwrap();
        mkdir(l.join("dir"), 0o755).unwrap();
        write(l.join("dir/inner"), "inner").unwrap();
        symlink("file", l.join("sym")).unwrap();
    })
}

fn create_makes_a_file_in_the_upper_only(store: Store) {
    let ov = base(store);
    let before = ov.lower_trees();
    write(ov.at("new"), "hello").unwrap();
    write(ov.at("dir/new"), "deep").unwrap();
    assert_eq!(read(ov.at("new")).unwrap(), b"hello");
    assert_eq!(read(ov.up("new")).unwrap(), b"hello");
    assert_eq!(read(ov.up("dir/new")).unwrap(), b"deep");
    assert_eq!(names(ov.at("dir")), ["inner", "new"]);
    snapshot::assert_same(&before[0], &ov.lower_trees()[0]);
}

fn create_refuses_what_exists(store: Store) {
    let ov = base(store);
    fails!(create(ov.at("file"), 0o644), EXIST);
    fails!(create(ov.at("dir"), 0o644), EXIST);
    fails!(create(ov.at("sym"), 0o644), EXIST);
    fails!(mkdir(ov.at("file"), 0o755), EXIST);
    fails!(mkdir(ov.at("dir"), 0o755), EXIST);
    fails!(symlink("x", ov.at("file")), EXIST);
    fails!(link(ov.at("file"), ov.at("sym")), EXIST);
    fails!(mknod(ov.at("dir"), FileType::Fifo, 0o644, 0), EXIST);
    fails!(create(ov.at("none/new"), 0o644), NOENT);
    fails!(create(ov.at("file/new"), 0o644), NOTDIR);
    assert!(
        names(&ov.upper).is_empty(),
        "a refusal leaves nothing behind"
    );
}

fn create_over_a_deleted_name_starts_empty(store: Store) {
    let ov = base(store);
    unlink(ov.at("file")).unwrap();
    let file = create(ov.at("file"), 0o640).unwrap();
    assert_eq!(fstat(&file).st_size, 0);
    assert_eq!(fstat(&file).st_nlink, 1);
    pwrite(&file, 0, "mine").unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"mine");
    assert_eq!(perm(ov.at("file")), 0o640);
    unlink(ov.at("file")).unwrap();
    assert!(!exists(ov.at("file")), "the lower file must not come back");
}

fn open_truncate_of_a_lower_file(store: Store) {
    let ov = base(store);
    let file = open(ov.at("file"), OFlags::WRONLY | OFlags::TRUNC, 0).unwrap();
    assert_eq!(fstat(&file).st_size, 0);
    pwrite(&file, 0, "ab").unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"ab");
    assert_eq!(read(ov.low("file")).unwrap(), b"below");
}

fn mkdir_makes_a_directory(store: Store) {
    let ov = base(store);
    mkdir(ov.at("new"), 0o750).unwrap();
    mkdir(ov.at("new/deeper"), 0o700).unwrap();
    mkdir(ov.at("dir/sub"), 0o755).unwrap();
    assert_eq!(perm(ov.at("new")), 0o750);
    assert_eq!(perm(ov.at("new/deeper")), 0o700);
    assert!(names(ov.at("new/deeper")).is_empty());
    assert_eq!(names(ov.at("dir")), ["inner", "sub"]);
    fails!(mkdir(ov.at("none/sub"), 0o755), NOENT);
}

fn mkdir_over_a_deleted_directory_is_empty(store: Store) {
    let mut ov = base(store);
    unlink(ov.at("dir/inner")).unwrap();
    rmdir(ov.at("dir")).unwrap();
    mkdir(ov.at("dir"), 0o755).unwrap();
    assert!(names(ov.at("dir")).is_empty());
    assert!(!exists(ov.at("dir/inner")));
    assert!(is_opaque(ov.up("dir")));
    ov.remount();
    assert!(names(ov.at("dir")).is_empty());
    fails!(open_r(ov.at("dir/inner")), NOENT);
}

fn mknod_makes_fifo_socket_and_devices(store: Store) {
    let mut ov = base(store);
    let dev = rustix::fs::makedev(1, 3);
    mknod(ov.at("fifo"), FileType::Fifo, 0o644, 0).unwrap();
    mknod(ov.at("sock"), FileType::Socket, 0o600, 0).unwrap();
    mknod(ov.at("null"), FileType::CharacterDevice, 0o644, dev).unwrap();
    mknod(
        ov.at("blk"),
        FileType::BlockDevice,
        0o600,
        rustix::fs::makedev(250, 7),
    )
    .unwrap();
    mknod(ov.at("reg"), FileType::RegularFile, 0o644, 0).unwrap();
    for _ in 0..2 {
        assert_eq!(kind(ov.at("fifo")), FileType::Fifo);
        assert_eq!(kind(ov.at("sock")), FileType::Socket);
        assert_eq!(kind(ov.at("null")), FileType::CharacterDevice);
        assert_eq!(lstat(ov.at("null")).unwrap().st_rdev, dev);
        assert_eq!(kind(ov.at("blk")), FileType::BlockDevice);
        assert_eq!(
            lstat(ov.at("blk")).unwrap().st_rdev,
            rustix::fs::makedev(250, 7)
        );
        assert_eq!(kind(ov.at("reg")), FileType::RegularFile);
        ov.remount();
    }
    // They work: a device, a FIFO and a socket are the kernel's, whoever stores their name.
    let null = open(ov.at("null"), OFlags::RDWR, 0).unwrap();
    pwrite(&null, 0, "gone").unwrap();
    assert!(pread(&null, 0, 4).unwrap().is_empty());
    let path = ov.at("fifo");
    let writer = std::thread::spawn(move || std::fs::write(path, "through"));
    assert_eq!(std::fs::read(ov.at("fifo")).unwrap(), b"through");
    writer.join().unwrap().unwrap();
    let server = std::os::unix::net::UnixListener::bind(ov.at("bound")).unwrap();
    std::os::unix::net::UnixStream::connect(ov.at("bound")).unwrap();
    drop(server);
    fails!(
        std::os::unix::net::UnixStream::connect(ov.at("bound")).map_err(errno),
        CONNREFUSED
    );
}

fn mknod_of_the_whiteout_device_makes_no_whiteout(store: Store) {
    let mut ov = base(store);
    let whiteout = |path| mknod(path, FileType::CharacterDevice, 0o644, 0);
    // Refused or stored as what it is; what must not be is success and then no such file.
    for name in ["new", "dir/new"] {
        if whiteout(ov.at(name)).is_ok() {
            assert_eq!(kind(ov.at(name)), FileType::CharacterDevice);
        }
    }
    fails!(whiteout(ov.at("file")), EXIST);
    ov.remount();
    assert_eq!(read(ov.at("file")).unwrap(), b"below");
    assert_eq!(read(ov.at("dir/inner")).unwrap(), b"inner");
}

fn symlink_and_readlink(store: Store) {
    let mut ov = base(store);
    let long = "x/".repeat(2000);
    symlink("file", ov.at("new")).unwrap();
    symlink(&long, ov.at("long")).unwrap();
    symlink("/absolute/nowhere", ov.at("dir/dangling")).unwrap();
    for _ in 0..2 {
        assert_eq!(readlink(ov.at("new")).unwrap(), b"file");
        assert_eq!(read(ov.at("new")).unwrap(), b"below");
        assert_eq!(readlink(ov.at("long")).unwrap(), long.as_bytes());
        assert_eq!(readlink(ov.at("sym")).unwrap(), b"file");
        assert_eq!(
            readlink(ov.at("dir/dangling")).unwrap(),
            b"/absolute/nowhere"
        );
        assert_eq!(lstat(ov.at("new")).unwrap().st_size, 4);
        assert_eq!(lstat(ov.at("long")).unwrap().st_size, 4000);
        ov.remount();
    }
    fails!(readlink(ov.at("file")), INVAL);
    fails!(
        open(ov.at("new"), OFlags::RDONLY | OFlags::NOFOLLOW, 0),
        LOOP
    );
    fails!(symlink("", ov.at("empty")), NOENT);
    fails!(symlink("x".repeat(4096), ov.at("toolong")), NAMETOOLONG);
}

fn symlink_over_a_deleted_name(store: Store) {
    let ov = base(store);
    unlink(ov.at("file")).unwrap();
    symlink("dir/inner", ov.at("file")).unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"inner");
    unlink(ov.at("dir/inner")).unwrap();
    fails!(read(ov.at("file")), NOENT);
}

fn link_shares_the_inode(store: Store) {
    let mut ov = base(store);
    write(ov.at("one"), "1").unwrap();
    link(ov.at("one"), ov.at("two")).unwrap();
    link(ov.at("one"), ov.at("dir/three")).unwrap();
    for _ in 0..2 {
        let one = lstat(ov.at("one")).unwrap();
        for name in ["two", "dir/three"] {
            let other = lstat(ov.at(name)).unwrap();
            assert_eq!((other.st_ino, other.st_nlink), (one.st_ino, 3), "{name}");
        }
        ov.remount();
    }
    append(ov.at("two"), "2").unwrap();
    chmod(ov.at("dir/three"), 0o600).unwrap();
    assert_eq!(read(ov.at("one")).unwrap(), b"12");
    assert_eq!(perm(ov.at("one")), 0o600);
    assert_eq!(lstat(ov.at("dir/three")).unwrap().st_size, 2);
    unlink(ov.at("one")).unwrap();
    assert_eq!(lstat(ov.at("two")).unwrap().st_nlink, 2);
    rename(ov.at("two"), ov.at("moved")).unwrap();
    assert_eq!(read(ov.at("dir/three")).unwrap(), b"12");
    // rename(2): two names of one file leave both.
    rename(ov.at("moved"), ov.at("dir/three")).unwrap();
    assert!(exists(ov.at("moved")) && exists(ov.at("dir/three")));
    fails!(link(ov.at("dir"), ov.at("dir2")), PERM);
    fails!(link(ov.at("none"), ov.at("x")), NOENT);
}

fn link_of_a_lower_file_copies_it_up(store: Store) {
    let mut ov = base(store);
    let ino = lstat(ov.at("file")).unwrap().st_ino;
    link(ov.at("file"), ov.at("dir/second")).unwrap();
    for _ in 0..2 {
        for name in ["file", "dir/second"] {
            let stat = lstat(ov.at(name)).unwrap();
            assert_eq!((stat.st_ino, stat.st_nlink), (ino, 2), "{name}");
        }
        ov.remount();
    }
    write(ov.at("dir/second"), "both").unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"both");
    assert_eq!(read(ov.low("file")).unwrap(), b"below");
}

fn link_over_a_deleted_name(store: Store) {
    let ov = base(store);
    write(ov.at("new"), "new").unwrap();
    unlink(ov.at("file")).unwrap();
    link(ov.at("new"), ov.at("file")).unwrap();
    assert_eq!(read(ov.at("file")).unwrap(), b"new");
    assert_eq!(lstat(ov.at("file")).unwrap().st_nlink, 2);
    unlink(ov.at("file")).unwrap();
    assert!(!exists(ov.at("file")));
    assert!(is_whiteout(ov.up("file")));
    assert_eq!(lstat(ov.at("new")).unwrap().st_nlink, 1);
}

fn link_of_a_symlink_links_the_symlink(store: Store) {
    let ov = base(store);
    link(ov.at("sym"), ov.at("dir/sym2")).unwrap();
    assert_eq!(readlink(ov.at("dir/sym2")).unwrap(), b"file");
    let pair = ["sym", "dir/sym2"].map(|n| lstat(ov.at(n)).unwrap());
    assert_eq!(pair[0].st_ino, pair[1].st_ino);
    assert_eq!(pair[0].st_nlink, 2);
}

fn link_of_an_unnamed_file(store: Store) {
    let ov = base(store);
    // O_TMPFILE is the file system's to offer; where it does, the file can get a name.
    let file = match open(ov.at("dir"), OFlags::TMPFILE | OFlags::RDWR, 0o600) {
        Err(Errno::OPNOTSUPP) => return,
        other => other.unwrap(),
    };
    assert_eq!(fstat(&file).st_nlink, 0);
    pwrite(&file, 0, "unnamed").unwrap();
    rustix::fs::linkat(&file, "", CWD, ov.at("named"), AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(read(ov.at("named")).unwrap(), b"unnamed");
    assert_eq!(fstat(&file).st_nlink, 1);
}

fn names_are_bytes(store: Store) {
    let mut ov = base(store);
    let odd: Vec<Vec<u8>> = vec![
        b"\xff\xfe\x80".to_vec(),
        b"new\nline".to_vec(),
        b"back\\slash:colon,comma".to_vec(),
        b" ".to_vec(),
        b"...".to_vec(),
        b"\x01".to_vec(),
        vec![0xc3; 255],
    ];
    for name in &odd {
        write(ov.at(OsStr::from_bytes(name)), name).unwrap();
        let below = ov.at("dir").join(OsStr::from_bytes(name));
        mkdir(&below, 0o755).unwrap();
    }
    for _ in 0..2 {
        let listed: Vec<_> = list(&ov.root)
            .unwrap()
            .into_iter()
            .map(|e| e.name)
            .collect();
        for name in &odd {
            assert_eq!(&read(ov.at(OsStr::from_bytes(name))).unwrap(), name);
            assert!(listed.contains(name), "{name:?} is not listed");
        }
        ov.remount();
    }
    for name in &odd {
        unlink(ov.at(OsStr::from_bytes(name))).unwrap();
        rmdir(ov.at("dir").join(OsStr::from_bytes(name))).unwrap();
    }
    assert_eq!(names(&ov.root), ["dir", "file", "sym"]);
}

fn names_of_255_bytes_work_and_256_are_too_long(store: Store) {
    let ov = base(store);
    let (most, over) = ("n".repeat(255), "n".repeat(256));
    write(ov.at(&most), "long").unwrap();
    assert_eq!(read(ov.at(&most)).unwrap(), b"long");
    rename(ov.at(&most), ov.at("m".repeat(255))).unwrap();
    link(ov.at("m".repeat(255)), ov.at(&most)).unwrap();
    unlink(ov.at(&most)).unwrap();
    fails!(lstat(ov.at(&over)), NAMETOOLONG);
    fails!(open_r(ov.at(&over)), NAMETOOLONG);
    fails!(create(ov.at(&over), 0o644), NAMETOOLONG);
    fails!(mkdir(ov.at(&over), 0o755), NAMETOOLONG);
    fails!(symlink("x", ov.at(&over)), NAMETOOLONG);
    fails!(mknod(ov.at(&over), FileType::Fifo, 0o644, 0), NAMETOOLONG);
    fails!(link(ov.at("file"), ov.at(&over)), NAMETOOLONG);
    fails!(rename(ov.at("file"), ov.at(&over)), NAMETOOLONG);
    fails!(unlink(ov.at(&over)), NAMETOOLONG);
    fails!(rmdir(ov.at(&over)), NAMETOOLONG);
    fails!(lstat(ov.at("dir").join(&over)), NAMETOOLONG);
}

fn a_path_longer_than_path_max_is_too_long(store: Store) {
    let ov = base(store);
    let long = ov.at("dir/".to_owned() + &"./".repeat(2040) + "inner");
    fails!(lstat(&long), NAMETOOLONG);
    // Deeper than a path can say, reached a step at a time.
    let names = "d".repeat(200);
    Who::root().cwd(&ov.root).run(|| {
        for _ in 0..30 {
            mkdir(&names, 0o755).unwrap();
            rustix::process::chdir(names.as_str()).unwrap();
        }
        write("bottom", "deep").unwrap();
        assert_eq!(read("bottom").unwrap(), b"deep");
        rename("bottom", "moved").unwrap();
        assert_eq!(list(".").unwrap().len(), 1);
        unlink("moved").unwrap();
        for _ in 0..30 {
            rustix::process::chdir("..").unwrap();
            rmdir(&names).unwrap();
        }
    });
}

fn lookups_through_files_and_loops_fail(store: Store) {
    let ov = base(store);
    symlink("loop2", ov.at("loop1")).unwrap();
    symlink("loop1", ov.at("loop2")).unwrap();
    fails!(read(ov.at("loop1")), LOOP);
    fails!(lstat(ov.at("loop1/x")), LOOP);
    fails!(lstat(ov.at("file/x")), NOTDIR);
    fails!(
        open(ov.at("file"), OFlags::RDONLY | OFlags::DIRECTORY, 0),
        NOTDIR
    );
    fails!(open_rw(ov.at("dir")), ISDIR);
    fails!(lstat(ov.at("none")), NOENT);
    assert_eq!(
        lstat(ov.at("dir/..")).unwrap().st_ino,
        lstat(&ov.root).unwrap().st_ino
    );
    assert_eq!(read(ov.at("dir/../dir/./inner")).unwrap(), b"inner");
}

fn layers_merge_in_order(store: Store) {
    let ov = Overlay::layered(store, 3, |l| {
        for (i, lower) in l.iter().enumerate() {
            mkdir(lower.join("dir"), 0o755).unwrap();
            write(lower.join("dir/same"), format!("{i}")).unwrap();
            write(lower.join(format!("dir/own{i}")), format!("{i}")).unwrap();
        }
        // What is no directory hides a directory below it, and the reverse.
        write(l[0].join("a"), "file").unwrap();
        mkdir(l[1].join("a"), 0o755).unwrap();
        write(l[1].join("a/hidden"), "x").unwrap();
        mkdir(l[0].join("b"), 0o755).unwrap();
        write(l[1].join("b"), "hidden").unwrap();
        mkdir(l[2].join("b"), 0o755).unwrap();
        write(l[2].join("b/hidden"), "x").unwrap();
        // The highest one's attributes are the merged directory's.
        chmod(l[0].join("dir"), 0o700).unwrap();
        chmod(l[2].join("dir"), 0o777).unwrap();
    });
    assert_eq!(names(ov.at("dir")), ["own0", "own1", "own2", "same"]);
    assert_eq!(read(ov.at("dir/same")).unwrap(), b"0");
    assert_eq!(read(ov.at("dir/own2")).unwrap(), b"2");
    assert_eq!(read(ov.at("a")).unwrap(), b"file");
    assert!(names(ov.at("b")).is_empty());
    assert_eq!(perm(ov.at("dir")), 0o700);
    write(ov.at("dir/own2"), "up").unwrap();
    assert_eq!(perm(ov.up("dir")), 0o700);
    unlink(ov.at("dir/same")).unwrap();
    assert_eq!(names(ov.at("dir")), ["own0", "own1", "own2"]);
}
