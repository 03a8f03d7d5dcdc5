//! Who owns what comes into being, and who may do what: umask, setgid and sticky directories,
//! supplementary groups.

use std::os::unix::process::CommandExt;

use crate::harness::*;

on_every_store!(
    the_caller_owns_what_it_makes,
    the_umask_is_the_caller_s,
    mode_bits_are_what_was_asked,
    setgid_directories_give_their_group,
    setgid_directories_that_are_copied_up,
    setgid_goes_where_the_caller_is_outside_the_group,
    sticky_directories_protect,
    supplementary_groups_count,
    a_copy_up_by_another_user_keeps_the_owner,
    a_user_s_whiteouts_and_copies_work_in_root_s_directories,
    processes_by_the_real_system_calls,
);

fn base(store: Store) -> Overlay {
    Overlay::new(store, |l| {
        for (dir, bits, gid) in [
            ("open", 0o777, 0),
            ("setgid", 0o2777, 1234),
            ("sticky", 0o1777, 0),
            ("group", 0o770, 2000),
        ] {
            mkdir(l.join(dir), 0o755).unwrap();
            lchown(l.join(dir), None, Some(gid)).unwrap();
            chmod(l.join(dir), bits).unwrap();
            write(l.join(dir).join("root"), "root's").unwrap();
            lchown(l.join(dir).join("root"), Some(0), Some(0)).unwrap();
        }
        write(l.join("sticky/owned"), "owned").unwrap();
        lchown(l.join("sticky/owned"), Some(1000), Some(1000)).unwrap();
    })
}

fn make_one_of_each(dir: &std::path::Path, bits: u32) {
    create(dir.join("f"), bits).unwrap();
    mkdir(dir.join("d"), bits).unwrap();
    mknod(dir.join("p"), FileType::Fifo, bits, 0).unwrap();
    mknod(dir.join("s"), FileType::Socket, bits, 0).unwrap();
    mknod(dir.join("r"), FileType::RegularFile, bits, 0).unwrap();
    symlink("f", dir.join("l")).unwrap();
}

const EACH: [&str; 6] = ["f", "d", "p", "s", "r", "l"];

fn the_caller_owns_what_it_makes(store: Store) {
    let mut ov = base(store);
    as_user(1000, 1001, &[2000], || {
        make_one_of_each(&ov.at("open"), 0o777)
    });
    for _ in 0..2 {
        for name in EACH {
            for at in [ov.at("open"), ov.up("open")] {
                let stat = lstat(at.join(name)).unwrap();
                assert_eq!((stat.st_uid, stat.st_gid), (1000, 1001), "{name}");
            }
        }
        ov.remount();
    }
    // A hard link changes no owner.
    link(ov.at("open/f"), ov.at("open/link")).unwrap();
    assert_eq!(lstat(ov.at("open/link")).unwrap().st_uid, 1000);
}

fn the_umask_is_the_caller_s(store: Store) {
    let ov = base(store);
    for umask in [0, 0o022, 0o077, 0o777, 0o135] {
        let dir = ov.at(format!("open/{umask:o}"));
        mkdir(&dir, 0o777).unwrap();
        chmod(&dir, 0o777).unwrap();
        Who::user(1000, 1000)
            .umask(umask)
            .run(|| make_one_of_each(&dir, 0o777));
        for name in ["f", "d", "p", "s", "r"] {
            assert_eq!(
                perm(dir.join(name)),
                0o777 & !umask,
                "{name} under {umask:o}"
            );
        }
        assert_eq!(perm(dir.join("l")), 0o777);
        // Over a whiteout the way is another one; the bits are the same.
        let at = ov.at("open/root");
        if umask == 0o135 {
            unlink(&at).unwrap();
            Who::root().umask(umask).run(|| create(&at, 0o666).unwrap());
            assert_eq!(perm(&at), 0o642);
        }
    }
}

fn mode_bits_are_what_was_asked(store: Store) {
    let ov = base(store);
    Who::root().umask(0).run(|| {
        for bits in [0, 0o400, 0o777, 0o1777, 0o4755, 0o2755, 0o6711] {
            create(ov.at(format!("f{bits:o}")), bits).unwrap();
            mkdir(ov.at(format!("d{bits:o}")), bits).unwrap();
            mknod(ov.at(format!("p{bits:o}")), FileType::Fifo, bits, 0).unwrap();
            assert_eq!(perm(ov.at(format!("f{bits:o}"))), bits);
            // mkdir(2) takes the permissions and the sticky bit.
            assert_eq!(perm(ov.at(format!("d{bits:o}"))), bits & 0o1777);
            assert_eq!(perm(ov.at(format!("p{bits:o}"))), bits);
        }
    });
    // Created without a right, yet open for writing: the creator's own handle works.
    as_user(1000, 1000, &[], || {
        let file = create(ov.at("open/locked"), 0).unwrap();
        pwrite(&file, 0, "written").unwrap();
        fails!(open_r(ov.at("open/locked")), ACCESS);
    });
    assert_eq!(read(ov.at("open/locked")).unwrap(), b"written");
}

fn setgid_directories_give_their_group(store: Store) {
    let ov = base(store);
    as_user(1000, 1000, &[1234], || {
        make_one_of_each(&ov.at("setgid"), 0o755);
        mkdir(ov.at("setgid/d/deeper"), 0o755).unwrap();
    });
    for name in EACH.iter().chain(&["d/deeper"]) {
        let stat = lstat(ov.at("setgid").join(name)).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (1000, 1234), "{name}");
    }
    assert_eq!(
        perm(ov.at("setgid/d")),
        0o2755,
        "a directory inherits the bit"
    );
    assert_eq!(perm(ov.at("setgid/d/deeper")), 0o2755);
    assert_eq!(perm(ov.at("setgid/f")), 0o755);
    // A rename into it changes nothing.
    write(ov.at("open/moved"), "x").unwrap();
    rename(ov.at("open/moved"), ov.at("setgid/moved")).unwrap();
    assert_eq!(lstat(ov.at("setgid/moved")).unwrap().st_gid, 0);
}

fn setgid_directories_that_are_copied_up(store: Store) {
    let mut ov = base(store);
    as_user(1000, 1000, &[], || {
        write(ov.at("setgid/mine"), "x").unwrap()
    });
    for _ in 0..2 {
        for dir in [ov.at("setgid"), ov.up("setgid")] {
            let stat = lstat(&dir).unwrap();
            assert_eq!((stat.st_mode & 0o7777, stat.st_gid), (0o2777, 1234));
        }
        assert_eq!(lstat(ov.at("setgid/mine")).unwrap().st_gid, 1234);
        // A copy-up into it keeps the file's own group.
        append(ov.at("setgid/root"), "x").unwrap();
        assert_eq!(lstat(ov.at("setgid/root")).unwrap().st_gid, 0);
        ov.remount();
    }
}

fn setgid_goes_where_the_caller_is_outside_the_group(store: Store) {
    let ov = base(store);
    Who::user(1000, 1000).umask(0).run(|| {
        create(ov.at("setgid/f"), 0o2775).unwrap();
        mkdir(ov.at("setgid/d"), 0o2775).unwrap();
    });
    assert_eq!(
        perm(ov.at("setgid/f")),
        0o775,
        "no setgid program of a foreign group"
    );
    assert_eq!(perm(ov.at("setgid/d")), 0o2775);
    Who::user(1000, 1000).groups(&[1234]).umask(0).run(|| {
        create(ov.at("setgid/g"), 0o2775).unwrap();
    });
    assert_eq!(perm(ov.at("setgid/g")), 0o2775);
}

fn sticky_directories_protect(store: Store) {
    let ov = base(store);
    as_user(1001, 1001, &[], || {
        write(ov.at("sticky/mine"), "x").unwrap();
        for name in ["root", "owned"] {
            fails!(unlink(ov.at("sticky").join(name)), PERM);
            fails!(rename(ov.at("sticky").join(name), ov.at("sticky/x")), PERM);
            fails!(
                rename(ov.at("sticky/mine"), ov.at("sticky").join(name)),
                PERM
            );
        }
        unlink(ov.at("sticky/mine")).unwrap();
    });
    as_user(1000, 1000, &[], || {
        rename(ov.at("sticky/owned"), ov.at("sticky/renamed")).unwrap();
        unlink(ov.at("sticky/renamed")).unwrap();
    });
    assert_eq!(names(ov.at("sticky")), ["root"]);
    assert_eq!(perm(ov.at("sticky")), 0o1777);
}

fn supplementary_groups_count(store: Store) {
    let ov = base(store);
    as_user(1000, 1000, &[], || {
        fails!(list(ov.at("group")), ACCESS);
        fails!(create(ov.at("group/new"), 0o644), ACCESS);
    });
    // More than a page of a status file tells, with the right one last.
    let mut many: Vec<u32> = (10_000..10_500).collect();
    many.push(2000);
    Who::user(1000, 1000).groups(&many).umask(0o007).run(|| {
        assert_eq!(names(ov.at("group")), ["root"]);
        create(ov.at("group/new"), 0o660).unwrap();
        lchown(ov.at("group/new"), None, Some(2000)).unwrap();
    });
    let stat = lstat(ov.at("group/new")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (1000, 2000));
    as_user(1001, 1001, &[2000], || {
        append(ov.at("group/new"), "x").unwrap();
        unlink(ov.at("group/root")).unwrap();
    });
    assert_eq!(names(ov.at("group")), ["new"]);
}

fn a_copy_up_by_another_user_keeps_the_owner(store: Store) {
    let ov = Overlay::new(store, |l| {
        mkdir(l.join("d"), 0o755).unwrap();
        lchown(l.join("d"), Some(5), Some(6)).unwrap();
        write(l.join("d/f"), "x").unwrap();
        chmod(l.join("d/f"), 0o666).unwrap();
        lchown(l.join("d/f"), Some(7), Some(8)).unwrap();
    });
    as_user(1000, 1000, &[], || append(ov.at("d/f"), "y").unwrap());
    for (path, ids) in [("d", (5, 6)), ("d/f", (7, 8))] {
        for at in [ov.at(path), ov.up(path)] {
            let stat = lstat(at).unwrap();
            assert_eq!((stat.st_uid, stat.st_gid), ids, "{path}");
        }
    }
    assert_eq!(perm(ov.at("d/f")), 0o666);
}

fn a_user_s_whiteouts_and_copies_work_in_root_s_directories(store: Store) {
    let mut ov = base(store);
    as_user(1000, 1000, &[], || {
        unlink(ov.at("open/root")).unwrap();
        mkdir(ov.at("open/root"), 0o755).unwrap();
        rmdir(ov.at("open/root")).unwrap();
        rename(ov.at("setgid/root"), ov.at("open/taken")).unwrap();
    });
    assert!(is_whiteout(ov.up("open/root")));
    ov.remount();
    assert_eq!(names(ov.at("open")), ["taken"]);
    assert!(names(ov.at("setgid")).is_empty());
    assert_eq!(lstat(ov.at("open/taken")).unwrap().st_uid, 0);
}

/// The other tests act by threads with credentials of their own; this one by whole processes.
fn processes_by_the_real_system_calls(store: Store) {
    let ov = base(store);
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", "umask 027; echo x > f && mkdir d && ln f l && mkfifo p && mv f g && echo y >> root2 && rm root2"])
        .current_dir(ov.at("open"))
        .uid(1000)
        .gid(1001)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(names(ov.at("open")), ["d", "g", "l", "p", "root"]);
    let modes = ["d", "g", "p"].map(|n| perm(ov.at("open").join(n)));
    assert_eq!(modes, [0o750, 0o640, 0o640]);
    assert_eq!(lstat(ov.at("open/g")).unwrap().st_gid, 1001);
}
