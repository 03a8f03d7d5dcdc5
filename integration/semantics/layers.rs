//! Section 6, as far as it depends on rules and stores: whiteouts in both forms, numbers, a full
//! tmpfs, what statfs tells.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};

use crate::cluster::{Cluster, dir, eventually, exists, fails, link, names, put, stat, text};

fn is_device_whiteout(path: impl AsRef<Path>) -> bool {
    path.as_ref()
        .symlink_metadata()
        .is_ok_and(|stat| stat.mode() & libc::S_IFMT == libc::S_IFCHR && stat.rdev() == 0)
}

/// Everything that a deletion can be of, and what may come after it.
fn deletions(form: &str) {
    let c = Cluster::new(&[("/d/", "tmpfs"), ("/p/", "persistent")]);
    c.set("whiteouts", &format!("\"{form}\""));
    for zone in ["d", "p"] {
        for name in [
            "file",
            "again",
            "moved",
            "replaced",
            "dir/x",
            "dir-again/x",
            "to-file/x",
            "deep/er/x",
            "kept",
        ] {
            put(c.image(zone).join(name), "image\n");
        }
        put(c.tree(1, zone).join("dir/y"), "tree\n");
        link("kept", c.image(zone).join("link"));
        rustix::fs::mknodat(
            CWD,
            c.image(zone).join("pipe"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
    }
    let v = c.mount(1);
    for zone in ["d", "p"] {
        let at = |name: &str| v.at(zone).join(name);
        for name in ["file", "again", "link", "pipe"] {
            std::fs::remove_file(at(name)).unwrap();
            fails!(std::fs::remove_file(at(name)), ENOENT);
        }
        std::fs::write(at("again"), "new\n").unwrap();
        std::fs::remove_file(at("again")).unwrap();
        std::fs::write(at("again"), "newer\n").unwrap();
        for name in ["dir", "dir-again", "to-file", "deep/er"] {
            fails!(std::fs::remove_dir(at(name)), ENOTEMPTY);
            std::fs::remove_dir_all(at(name)).unwrap();
        }
        std::fs::create_dir(at("dir-again")).unwrap();
        std::fs::write(at("dir-again/y"), "new\n").unwrap();
        std::fs::write(at("to-file"), "now a file\n").unwrap();
        std::fs::rename(at("moved"), at("moved-here")).unwrap();
        std::fs::rename(at("moved-here"), at("replaced")).unwrap();
        // A new directory over the place of one that is gone, and one over an empty one.
        std::fs::create_dir(at("fresh")).unwrap();
        std::fs::write(at("fresh/z"), "z\n").unwrap();
        std::fs::rename(at("fresh"), at("dir")).unwrap();
        std::fs::hard_link(at("kept"), at("file")).unwrap();
    }
    for round in ["mounted", "remounted"] {
        for zone in ["d", "p"] {
            assert_eq!(
                v.names(zone),
                [
                    "again",
                    "deep",
                    "dir",
                    "dir-again",
                    "file",
                    "kept",
                    "replaced",
                    "to-file"
                ],
                "{form} {round}"
            );
            let text = |name: &str| v.text(&format!("{zone}/{name}"));
            assert_eq!(text("again"), "newer\n");
            assert_eq!(text("to-file"), "now a file\n");
            assert_eq!(text("replaced"), "image\n");
            assert_eq!(text("file"), "image\n");
            assert_eq!(stat(v.at(zone).join("file")).nlink(), 2);
            assert_eq!(v.names(&format!("{zone}/dir")), ["z"], "{form} {round}");
            assert_eq!(v.names(&format!("{zone}/dir-again")), ["y"]);
            assert!(v.names(&format!("{zone}/deep")).is_empty());
        }
        v.remount();
    }
    let (stored, forged) = (c.tmpfs(1, "d"), v.at("d/.wh.kept"));
    if form == "file" {
        assert!(exists(stored.join(".wh.link")) && exists(stored.join(".wh.moved")));
        assert!(!exists(stored.join(".wh.again")) && !exists(stored.join(".wh.file")));
        assert!(exists(c.store(1, "p/.wh.pipe")));
        assert!(!names(&stored).contains(&"link".to_owned()));
        // A node neither sees nor makes such names.
        assert!(!exists(v.at("d/.wh.link")));
        fails!(std::fs::write(&forged, ""), EPERM);
        fails!(std::fs::create_dir(&forged), EPERM);
        fails!(std::fs::rename(v.at("d/again"), &forged), EPERM);
    } else {
        assert!(
            is_device_whiteout(stored.join("link")) && is_device_whiteout(stored.join("moved"))
        );
        assert!(is_device_whiteout(c.store(1, "p/pipe")));
        // The name is like any other here.
        std::fs::write(&forged, "mine\n").unwrap();
        assert_eq!(v.text("d/kept"), "image\n");
    }
    v.reboot();
    assert_eq!(
        v.names("d").len(),
        11,
        "a reboot brings all of tmpfs' zone back"
    );
    assert_eq!(v.names("d/dir"), ["x", "y"]);
    assert_eq!(v.names("p/dir"), ["z"]);
    std::fs::remove_dir_all(v.at("p/dir")).unwrap();
    assert!(!exists(v.at("p/dir")));
}

#[test]
fn deletions_as_devices() {
    deletions("device");
}

#[test]
fn deletions_as_files() {
    deletions("file");
}

/// Names that mean something to the `.wh.` form are names like any other in an image.
#[test]
fn names_of_whiteouts_in_an_image_are_files_there() {
    let c = Cluster::new(&[("/d/", "tmpfs"), ("/p/", "persistent")]);
    c.set("whiteouts", "\"file\"");
    for zone in ["d", "p"] {
        for name in [".wh.x", "x", ".wh..opq", ".statelite.work", ".wh.y"] {
            put(c.image(zone).join(name), "image\n");
        }
    }
    let v = c.mount(1);
    for zone in ["d", "p"] {
        let at = v.at(zone);
        assert_eq!(
            v.names(zone),
            [".statelite.work", ".wh..opq", ".wh.x", ".wh.y", "x"]
        );
        std::fs::remove_file(at.join(".wh.y")).unwrap();
        // What the store could not tell from its own marks stays.
        fails!(std::fs::remove_file(at.join(".wh..opq")), EPERM);
        fails!(std::fs::remove_file(at.join(".statelite.work")), EPERM);
        std::fs::remove_file(at.join("x")).unwrap();
        assert_eq!(v.names(zone), [".statelite.work", ".wh..opq", ".wh.x"]);
        assert_eq!(v.text(&format!("{zone}/.wh.x")), "image\n");
        fails!(std::fs::metadata(at.join("x")), ENOENT);
        fails!(std::fs::metadata(at.join(".wh.y")), ENOENT);
    }
}

#[test]
fn exchange_with_whiteouts_as_files() {
    for form in ["device", "file"] {
        let c = Cluster::new(&[("/d/", "tmpfs")]);
        c.set("whiteouts", &format!("\"{form}\""));
        put(c.image("d/a"), "a\n");
        put(c.image("d/b"), "b\n");
        put(c.image("d/sub/low"), "");
        let v = c.mount(1);
        let swap = |a: &str, b: &str| {
            let (a, b) = (v.at("d").join(a), v.at("d").join(b));
            rustix::fs::renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
        };
        swap("a", "b");
        std::fs::remove_dir_all(v.at("d/sub")).unwrap();
        std::fs::create_dir(v.at("d/sub")).unwrap();
        put(v.at("d/sub/mine"), "");
        swap("sub", "a");
        for _ in 0..2 {
            assert_eq!(v.text("d/b"), "a\n", "{form}");
            assert_eq!(v.text("d/sub"), "b\n", "{form}");
            assert_eq!(v.names("d/a"), ["mine"], "{form}");
            v.remount();
        }
    }
}

#[test]
fn the_machinery_is_hidden_and_cannot_be_forged() {
    let c = Cluster::new(&[
        ("/p/", "persistent"),
        ("/t/", "tmpfs"),
        ("/d/", "localdisk"),
    ]);
    put(c.image("p/x"), "x\n");
    put(c.image("t/x"), "x\n");
    let v = c.mount(1);
    v.write("p/x", "mine\n").unwrap();
    v.write("t/x", "mine\n").unwrap();
    let ours = ".wh..statelite.work";
    for zone in ["p", "t", "d"] {
        let at = v.at(zone).join(ours);
        fails!(std::fs::write(&at, ""), EPERM);
        fails!(std::fs::create_dir(&at), EPERM);
        fails!(std::os::unix::fs::symlink("x", &at), EPERM);
        fails!(std::fs::metadata(&at), ENOENT);
    }
    fails!(std::fs::rename(v.at("t/x"), v.at("t").join(ours)), EPERM);
    fails!(std::fs::hard_link(v.at("t/x"), v.at("t").join(ours)), EPERM);
    // The store's own work directory shows nowhere, not in the mirror either.
    assert!(exists(c.store(1, ours)));
    let mirror = format!(".statelite/persistent/{}", c.node(1));
    assert_eq!(v.names(&mirror), ["p"]);
    assert!(!exists(v.at(&mirror).join(ours)));

    // Attributes: a forged mark is an attribute like any other, and what is really kept is hidden.
    for name in [c"trusted.overlay.opaque", c"trusted.overlay.statelite.ino"] {
        let mut value = [0u8; 16];
        fails!(rustix::fs::getxattr(v.at("p/x"), name, &mut value), ENODATA);
        rustix::fs::setxattr(v.at("p"), name, b"y", XattrFlags::empty()).unwrap();
        let n = rustix::fs::getxattr(v.at("p"), name, &mut value).unwrap();
        assert_eq!(&value[..n], b"y");
    }
    put(c.image("p/later"), "later\n");
    v.comes_to_say("p/later", "later\n");
    let mut list = Vec::with_capacity(1024);
    rustix::fs::listxattr(v.at("p/x"), rustix::buffer::spare_capacity(&mut list)).unwrap();
    assert!(!String::from_utf8_lossy(&list).contains("overlay"));
    // A 0:0 device of the node's own is a device, and deletes nothing.
    std::fs::remove_file(v.at("t/x")).unwrap();
    rustix::fs::mknodat(CWD, v.at("t/x"), FileType::CharacterDevice, Mode::RWXU, 0).unwrap();
    v.remount();
    assert!(is_device_whiteout(v.at("t/x")));
}

#[test]
fn numbers_stay_over_copy_up_remount_and_reset() {
    let c = Cluster::new(&[
        ("/t/", "tmpfs"),
        ("/p/", "persistent"),
        ("/etc/con", "con"),
        ("/nowhere", "tmpfs"),
    ]);
    for path in ["t/f", "t/d/x", "p/f", "p/d/x", "out/f"] {
        put(c.image(path), "image\n");
    }
    put(c.tree(1, "etc/con"), "one\n");
    let paths = [
        "",
        "t",
        "t/f",
        "t/d",
        "t/d/x",
        "p",
        "p/f",
        "p/d",
        "p/d/x",
        "out/f",
        "etc/con",
        "nowhere",
        "etc/mtab",
        ".statelite/litefile",
    ];
    let v = c.mount(1);
    let numbers =
        |paths: &[&str]| -> Vec<u64> { paths.iter().map(|path| stat(v.at(path)).ino()).collect() };
    let first = numbers(&paths);
    let same = |when: &str| assert_eq!(numbers(&paths), first, "{when}");
    for path in ["t/f", "t/d/x", "p/f", "p/d/x", "etc/con", "nowhere"] {
        v.write(path, "written\n").unwrap();
    }
    same("copied up");
    // What readdir says is what stat says.
    use std::os::unix::fs::DirEntryExt;
    for zone in ["t", "p"] {
        for entry in std::fs::read_dir(v.at(zone)).unwrap().flatten() {
            assert_eq!(entry.ino(), stat(entry.path()).ino(), "{entry:?}");
        }
    }
    v.write("p/mine", "").unwrap();
    std::fs::hard_link(v.at("p/mine"), v.at("p/d/mine")).unwrap();
    let mine = numbers(&["p/mine", "p/d/mine"]);
    assert_eq!(mine[0], mine[1]);
    v.remount();
    same("remounted");
    assert_eq!(numbers(&["p/mine", "p/d/mine"]), mine);
    v.reboot();
    same("reset");
    assert_eq!(numbers(&["p/mine", "p/d/mine"]), mine);
    // Another node of the image sees the same numbers of what it shares.
    assert_eq!(stat(c.mount(2).at("out/f")).ino(), first[9]);
}

#[test]
fn a_full_tmpfs_is_enospc_and_leaves_all_else_alone() {
    let c = Cluster::new(&[("/t/", "tmpfs"), ("/p/", "persistent")]);
    c.set("tmpfs_size", "\"64M\"");
    c.set("tmpfs_sizes", &format!("{{ {} = \"1M\" }}", c.node(1)));
    put(c.image("t/small"), "small\n");
    put(c.image("t/big"), vec![b'x'; 3 << 20]);
    put(c.image("p/big"), vec![b'x'; 3 << 20]);
    let (v, other) = (c.mount(1), c.mount(2));
    let append = |path: &str| {
        let mut file = std::fs::File::options().append(true).open(path)?;
        file.write_all(b"y")
    };
    let at = |path: &str| v.at(path).into_os_string().into_string().unwrap();
    // A copy-up that doesn't fit: nothing half-copied is seen, in the view or in the upper.
    fails!(append(&at("t/big")), ENOSPC);
    assert_eq!(stat(v.at("t/big")).len(), 3 << 20);
    assert!(!exists(c.tmpfs(1, "t/big")));
    assert!(
        std::fs::read(v.at("t/big"))
            .unwrap()
            .iter()
            .all(|b| *b == b'x')
    );
    let mut file = std::fs::File::create(v.at("t/fill")).unwrap();
    fails!(file.write_all(&vec![b'z'; 2 << 20]), ENOSPC);
    drop(file);
    // Everything but this node's tmpfs goes on.
    assert_eq!(v.text("t/small"), "small\n");
    append(&at("p/big")).unwrap();
    append(other.at("t/big").to_str().unwrap()).unwrap();
    assert_eq!(stat(other.at("t/big")).len(), (3 << 20) + 1);
    std::fs::remove_file(v.at("t/fill")).unwrap();
    v.write("t/small", "room again\n").unwrap();
    assert_eq!(stat(c.image("t/big")).len(), 3 << 20);
}

#[test]
fn statfs_tells_the_zones_file_system() {
    let c = Cluster::new(&[
        ("/t/", "tmpfs"),
        ("/p/", "persistent"),
        ("/t/in/", "persistent"),
    ]);
    c.set("tmpfs_size", "\"7M\"");
    put(c.image("x"), "");
    put(c.image("t/f"), "");
    let v = c.mount(1);
    let size = |path: &Path| {
        let of = rustix::fs::statvfs(path).unwrap();
        of.f_blocks * of.f_frsize
    };
    let disk = size(&c.path("store"));
    assert_eq!(size(&v.at("t")), 7 << 20);
    assert_eq!(size(&v.at("t/f")), 7 << 20);
    assert_eq!(size(&v.at("p")), disk);
    assert_eq!(size(&v.at("t/in")), disk);
    assert_eq!(size(&v.at("x")), disk);
}

#[test]
fn a_directory_with_content_from_below_moves_by_exdev() {
    let c = Cluster::new(&[("/t/", "tmpfs")]);
    put(c.image("t/low/x"), "");
    let v = c.mount(1);
    fails!(std::fs::rename(v.at("t/low"), v.at("t/moved")), EXDEV);
    dir(v.at("t/own/sub"));
    put(v.at("t/own/sub/x"), "x\n");
    std::fs::rename(v.at("t/own"), v.at("t/moved")).unwrap();
    assert_eq!(v.text("t/moved/sub/x"), "x\n");
}

#[test]
fn an_open_file_is_followed_through_copy_up_and_removal() {
    let c = Cluster::new(&[("/t/", "tmpfs"), ("/etc/con", "con")]);
    put(c.image("t/f"), "before\n");
    put(c.tree(1, "etc/con"), "one\n");
    let v = c.mount(1);
    for path in ["t/f", "etc/con"] {
        let open = std::fs::File::open(v.at(path)).unwrap();
        v.write(path, "after\n").unwrap();
        let mut seen = String::new();
        eventually("the reader sees the later write", || {
            use std::io::{Read, Seek};
            seen.clear();
            let mut open = &open;
            open.rewind().unwrap();
            open.read_to_string(&mut seen).unwrap();
            seen == "after\n"
        });
    }
    let open = std::fs::File::open(v.at("t/f")).unwrap();
    std::fs::remove_file(v.at("t/f")).unwrap();
    assert_eq!(std::io::read_to_string(&open).unwrap(), "after\n");
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(text(c.image("t/f")), "before\n");
}
