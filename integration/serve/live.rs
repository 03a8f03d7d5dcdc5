//! Changes beneath the roots that a daemon serves: layers that are missing, come, go and return,
//! and what is mounted in a root while all else changes. Roots have looked at everything before.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};

use crate::cluster::{Cluster, Detached, Tmpfs, dir, eventually, exists, fails, names, put, text};
use crate::daemon::Daemon;

/// What is to be seen of a path.
#[derive(Clone, Copy, Debug)]
enum Seen<'t> {
    Text(&'t str),
    Names(&'t [&'t str]),
    Nothing,
    Unreachable,
}
use Seen::{Names, Nothing, Text, Unreachable};

fn is(at: &Path, seen: Seen<'_>) -> bool {
    match seen {
        Text(text) => std::fs::read_to_string(at).is_ok_and(|found| found == text),
        Names(expected) => std::fs::read_dir(at).is_ok() && names(at) == expected,
        Nothing => !exists(at),
        Unreachable => {
            let error = match std::fs::metadata(at) {
                Ok(found) if found.is_dir() => std::fs::read_dir(at).err(),
                Ok(_) => std::fs::read(at).err(),
                Err(e) => Some(e),
            };
            error.and_then(|e| e.raw_os_error()) == Some(libc::EIO)
        }
    }
}

/// Waits until both nodes see this. They have then cached it, too.
#[track_caller]
fn comes_to_be(d: &Daemon<'_>, what: &str, expected: &[(&str, Seen<'_>)]) {
    for node in [1, 2] {
        for (path, seen) in expected {
            let at = d.at(node, path);
            eventually(&format!("{what}: {path} of node {node}: {seen:?}"), || {
                is(&at, *seen)
            });
        }
    }
    // And it is so for all of them at once.
    for node in [1, 2] {
        for (path, seen) in expected {
            assert!(is(&d.at(node, path), *seen), "{what}: {path} of {node}");
        }
    }
}

#[test]
fn a_litetree_that_is_missing_comes_goes_and_comes_back() {
    let c = Cluster::new(&[
        ("/opt/", "tmpfs"),
        ("/srv/", "ro"),
        ("/etc/con", "con"),
        ("/etc/p", "persistent"),
    ]);
    put(c.image("opt/image"), "image\n");
    put(c.image("srv/image"), "image\n");
    put(c.image("etc/p"), "image\n");
    put(c.tree(1, "etc/con"), "one\n");
    std::fs::remove_dir(c.tree(2, "")).unwrap();
    let fill = |top: &Path, word: &str| {
        for path in ["opt/f", "srv/f", "etc/con", "etc/p"] {
            put(top.join(path), format!("{word}\n"));
        }
        put(top.join("opt").join(word), "");
    };
    let missing = [
        ("opt", Names(&["image"])),
        ("opt/f", Nothing),
        ("srv/f", Nothing),
        ("etc/con", Text("one\n")),
        ("etc/p", Text("image\n")),
    ];
    fill(&c.path("aside"), "aside");
    let at = c.tree(2, "");
    let d = Daemon::start(&c);
    comes_to_be(&d, "missing", &missing);
    // A directory that comes with all that is in it.
    std::fs::rename(c.path("aside"), &at).unwrap();
    let there = [
        ("opt", Names(&["aside", "f", "image"][..])),
        ("opt/f", Text("aside\n")),
        ("srv/f", Text("aside\n")),
        ("etc/con", Text("one\naside\n")),
        ("etc/p", Text("aside\n")),
    ];
    comes_to_be(&d, "there", &there);
    put(at.join("opt/more"), "");
    comes_to_be(
        &d,
        "and followed",
        &[("opt", Names(&["aside", "f", "image", "more"]))],
    );
    std::fs::remove_file(at.join("opt/more")).unwrap();
    std::fs::rename(&at, c.path("aside")).unwrap();
    comes_to_be(&d, "gone", &missing);
    std::fs::rename(c.path("aside"), &at).unwrap();
    comes_to_be(&d, "back", &there);
    // A file system in its place, which goes and comes back with other content.
    for word in ["first", "second"] {
        let source = dir(c.path(word));
        let _held = Tmpfs::on(&source);
        fill(&source, word);
        let mounted = Detached::bind(&source, &at);
        let text = format!("{word}\n");
        let con = format!("one\n{word}\n");
        let listed = if word == "first" {
            ["f", "first", "image"]
        } else {
            ["f", "image", "second"]
        };
        let shown = [
            ("opt", Names(&listed[..])),
            ("opt/f", Text(&text)),
            ("srv/f", Text(&text)),
            ("etc/con", Text(&con)),
            ("etc/p", Text(&text)),
        ];
        comes_to_be(&d, "mounted", &shown);
        put(at.join("srv/f"), "edited\n");
        std::fs::remove_file(at.join("opt/f")).unwrap();
        comes_to_be(
            &d,
            "followed there",
            &[("srv/f", Text("edited\n")), ("opt/f", Nothing)],
        );
        drop(mounted);
        comes_to_be(&d, "unmounted", &there);
    }
    let status = d.status_of(1);
    assert_eq!(status["state"], "serving", "{status}");
}

#[test]
fn a_litetree_that_must_be_mounted_goes_and_comes_back() {
    let c = Cluster::new(&[
        ("/opt/", "tmpfs"),
        ("/etc/f", "ro"),
        ("/home/", "persistent"),
    ]);
    c.set("require_mount", &format!("[{}]", c.quoted("net")));
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n\"1\",\"ALL\",\"@/net/tree\",\n",
    );
    put(c.image("opt/image"), "image\n");
    put(c.image("etc/f"), "image\n");
    put(c.image("etc/other"), "other\n");
    put(c.path("real/tree/opt/f"), "tree\n");
    put(c.path("real/tree/etc/f"), "tree\n");
    // Never what lies below the mount point.
    put(c.path("net/tree/etc/f"), "below\n");
    let d = Daemon::start(&c);
    let missing = [
        ("opt", Unreachable),
        ("opt/f", Unreachable),
        ("etc/f", Unreachable),
        ("etc/other", Text("other\n")),
    ];
    let there = [
        ("opt", Names(&["f", "image"][..])),
        ("opt/f", Text("tree\n")),
        ("opt/late", Nothing),
        ("etc/f", Text("tree\n")),
        ("etc/other", Text("other\n")),
    ];
    for round in ["first", "again"] {
        comes_to_be(&d, "not mounted", &missing);
        let mounted = Detached::bind(&c.path("real"), &c.path("net"));
        comes_to_be(&d, "mounted", &there);
        std::fs::write(d.at(1, "opt/mine"), round).unwrap();
        put(c.path("real/tree/opt/late"), "late\n");
        comes_to_be(&d, "followed", &[("opt/late", Text("late\n"))]);
        std::fs::remove_file(d.at(1, "opt/mine")).unwrap();
        std::fs::remove_file(c.path("real/tree/opt/late")).unwrap();
        comes_to_be(&d, "and again", &there);
        drop(mounted);
    }
    comes_to_be(&d, "gone", &missing);
    fails!(std::fs::write(d.at(1, "opt/new"), ""), EIO);
    assert_eq!(text(c.path("net/tree/etc/f")), "below\n");
}

#[test]
fn stores_that_go_and_come_back_have_what_was_written() {
    let c = Cluster::new(&[
        ("/p/", "persistent"),
        ("/etc/p", "persistent"),
        ("/disk/", "localdisk"),
        ("/t/", "tmpfs"),
    ]);
    let list = format!("[{}, {}]", c.quoted("store"), c.quoted("disk"));
    c.set("require_mount", &list);
    for path in ["p/f", "p/gone", "disk/f", "disk/gone", "etc/p", "t/f"] {
        put(c.image(path), "image\n");
    }
    let (store, disk) = (dir(c.path("real/store")), dir(c.path("real/disk")));
    let mount = || {
        [
            Detached::bind(&store, &c.path("store")),
            Detached::bind(&disk, &c.path("disk")),
        ]
    };
    let d = Daemon::start(&c);
    let missing = [
        ("p", Unreachable),
        ("p/f", Unreachable),
        ("etc/p", Unreachable),
        ("disk/f", Unreachable),
        ("t/f", Text("image\n")),
    ];
    comes_to_be(&d, "missing", &missing);
    let mounted = mount();
    comes_to_be(
        &d,
        "there",
        &[
            ("p", Names(&["f", "gone"])),
            ("p/new", Nothing),
            ("etc/p", Text("image\n")),
            ("disk", Names(&["f", "gone"])),
        ],
    );
    for node in [1, 2] {
        for zone in ["p", "disk"] {
            std::fs::write(d.at(node, zone).join("f"), "mine\n").unwrap();
            std::fs::write(d.at(node, zone).join("new"), "new\n").unwrap();
            std::fs::remove_file(d.at(node, zone).join("gone")).unwrap();
        }
        std::fs::write(d.at(node, "etc/p"), "mine\n").unwrap();
    }
    let written = [
        ("p", Names(&["f", "new"][..])),
        ("p/f", Text("mine\n")),
        ("p/gone", Nothing),
        ("etc/p", Text("mine\n")),
        ("disk", Names(&["f", "new"][..])),
        ("disk/new", Text("new\n")),
        ("disk/gone", Nothing),
    ];
    comes_to_be(&d, "written", &written);
    let mut mounted = Some(mounted);
    for _ in 0..2 {
        drop(mounted.take());
        comes_to_be(&d, "gone", &missing);
        fails!(std::fs::write(d.at(1, "p/lost"), ""), EIO);
        assert!(names(c.path("store")).is_empty() && names(c.path("disk")).is_empty());
        // The image goes on changing meanwhile.
        put(c.image("p/late"), "late\n");
        mounted = Some(mount());
        comes_to_be(&d, "back", &[("p/late", Text("late\n"))]);
        std::fs::remove_file(c.image("p/late")).unwrap();
        comes_to_be(&d, "back", &written);
    }
    // Another store altogether.
    drop(mounted);
    comes_to_be(&d, "gone", &missing);
    let (store, disk) = (dir(c.path("other/store")), dir(c.path("other/disk")));
    let _mounted = [
        Detached::bind(&store, &c.path("store")),
        Detached::bind(&disk, &c.path("disk")),
    ];
    comes_to_be(
        &d,
        "another one",
        &[
            ("p", Names(&["f", "gone"])),
            ("p/f", Text("image\n")),
            ("etc/p", Text("image\n")),
            ("disk/new", Nothing),
            ("disk/gone", Text("image\n")),
        ],
    );
}

/// What is mounted in node 1's root, and has a file each.
fn mounted_in(d: &Daemon<'_>, source: &Path) -> Vec<(Detached, PathBuf)> {
    ["opt/mnt", "srv/mnt", "opt/mine/mnt"]
        .into_iter()
        .map(|path| {
            let at = d.at(1, path);
            let mounted = Detached::bind(source, &at);
            (mounted, at.join("inner"))
        })
        .collect()
}

fn site() -> Cluster {
    let c = Cluster::new(&[("/opt/", "tmpfs"), ("/etc/f", "tmpfs")]);
    for path in ["opt/f", "opt/mnt/f", "srv/f", "srv/mnt/f", "etc/f"] {
        put(c.image(path), "image\n");
    }
    put(c.tree(1, "opt/f"), "one\n");
    put(c.tree(2, "opt/f"), "two\n");
    put(c.tree(1, "srv/tree"), "one\n");
    put(c.path("inner/inner"), "mounted\n");
    c
}

#[test]
fn what_is_mounted_in_a_root_stays_over_a_reload() {
    let c = site();
    put(c.path("image2/rootimg/opt/mnt/g"), "second\n");
    put(c.path("image2/rootimg/opt/mine/mnt/g"), "second\n");
    put(c.path("image2/rootimg/srv/mnt/g"), "second\n");
    put(c.path("image2/rootimg/etc/f"), "second\n");
    let d = Daemon::start(&c);
    for node in [1, 2] {
        dir(d.at(node, "opt/mine/mnt"));
    }
    let before = [
        ("opt/f", Text("one\n")),
        ("opt/new", Nothing),
        ("srv", Names(&["f", "mnt"][..])),
        ("srv/tree", Nothing),
        ("srv/f", Text("image\n")),
        ("etc/f", Text("image\n")),
    ];
    comes_to_be(&d, "before", &before);
    let mounts = mounted_in(&d, &c.path("inner"));
    let still = |what: &str, expected: &[(&str, Seen<'_>)]| {
        comes_to_be(&d, what, expected);
        for (_, inner) in &mounts {
            assert_eq!(text(inner), "mounted\n", "{what}");
        }
    };
    // The litetrees in the other order, one more rule.
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n\"2\",\"ALL\",\"@/tree1\",\n\"1\",\"ALL\",\"@/tree2\",\n",
    );
    c.rule("/srv/", "persistent");
    d.reload();
    still(
        "another order, one more rule",
        &[
            ("opt/f", Text("two\n")),
            ("srv", Names(&["f", "mnt", "tree"])),
            ("srv/tree", Text("one\n")),
        ],
    );
    put(c.image("opt/new"), "new\n");
    std::fs::write(d.at(1, "srv/f"), "mine\n").unwrap();
    still("changes go on", &[("opt/new", Text("new\n"))]);
    // Another image, in which nothing of it is the same.
    c.table(
        "linuximage",
        "#imagename,rootimgdir\n\"el9-x86_64-statelite-compute\",\"@/image2\"\n",
    );
    d.reload();
    still(
        "another image",
        &[
            ("opt/new", Nothing),
            ("etc/f", Text("second\n")),
            ("opt/f", Text("two\n")),
        ],
    );
    assert_eq!(text(d.at(1, "srv/f")), "mine\n");
    // A rule less. The directory that the node made is hidden, and the mount on it goes with it: the
    // image's of that name is another one.
    c.table(
        "litefile",
        "#image,file,options\nALL,/etc/f,tmpfs\nALL,/srv/,persistent\n",
    );
    d.reload();
    comes_to_be(
        &d,
        "a rule less",
        &[
            ("opt/f", Nothing),
            ("opt", Names(&["mine", "mnt"])),
            ("opt/mine/mnt/g", Text("second\n")),
        ],
    );
    for (_, inner) in &mounts[..2] {
        assert_eq!(text(inner), "mounted\n");
    }
    drop(mounts);
    assert_eq!(text(d.at(1, "opt/mnt/g")), "second\n");
}

#[test]
fn what_is_mounted_in_a_root_stays_when_events_are_lost() {
    let c = site();
    let d = Daemon::start(&c);
    for node in [1, 2] {
        dir(d.at(node, "opt/mine/mnt"));
    }
    put(c.image("srv/gone"), "gone\n");
    let before = [
        ("opt/f", Text("one\n")),
        ("opt/new", Nothing),
        ("opt/mnt", Names(&["f"][..])),
        ("srv/f", Text("image\n")),
        ("srv/gone", Text("gone\n")),
        ("srv/new/deep", Nothing),
        ("etc/f", Text("image\n")),
    ];
    comes_to_be(&d, "before", &before);
    let mounts = mounted_in(&d, &c.path("inner"));
    let limit = text("/proc/sys/fs/fanotify/max_queued_events");
    let limit: usize = limit.trim().parse().unwrap();
    // Stopped, the daemon reads none of it, and what comes last is lost.
    let worker = d.worker();
    kill_process(worker, Signal::STOP).unwrap();
    let noise = dir(c.tree(1, "noise"));
    put(noise.join("0"), "");
    for n in 1..=limit {
        // Some file systems take no more than 65,000 names of one file.
        let of = n / 50_000 * 50_000;
        let at = noise.join(n.to_string());
        match n == of {
            true => put(at, ""),
            false => std::fs::hard_link(noise.join(of.to_string()), at).unwrap(),
        }
    }
    put(c.tree(1, "opt/f"), "edited\n");
    put(c.tree(2, "opt/new"), "new\n");
    put(c.image("srv/new/deep"), "deep\n");
    std::fs::remove_file(c.image("srv/gone")).unwrap();
    put(c.image("srv/aside"), "replaced\n");
    std::fs::rename(c.image("srv/aside"), c.image("srv/f")).unwrap();
    put(c.image("opt/mnt/f"), "covered\n");
    put(c.tree(2, "etc/f"), "two\n");
    kill_process(worker, Signal::CONT).unwrap();
    eventually("it is told that events were lost", || {
        d.log().contains("Overflow")
    });
    comes_to_be(
        &d,
        "after",
        &[
            ("opt/f", Text("edited\n")),
            ("opt/new", Text("new\n")),
            ("srv/new/deep", Text("deep\n")),
            ("srv/gone", Nothing),
            ("srv/f", Text("replaced\n")),
            ("srv", Names(&["f", "mnt", "new"])),
            ("etc/f", Text("two\n")),
        ],
    );
    for (_, inner) in &mounts {
        assert_eq!(text(inner), "mounted\n");
    }
    drop(mounts);
    assert_eq!(text(d.at(1, "opt/mnt/f")), "covered\n");
}

/// A kernel asks for it at each walk, and the daemon answers from memory.
#[test]
fn an_acl_of_the_images_root_counts_in_each_root() {
    let c = Cluster::new(&[]);
    put(c.image("etc/f"), "f\n");
    let d = Daemon::start(&c);
    let may = |node: u32| {
        let mut command = std::process::Command::new("stat");
        command.arg(d.at(node, "etc/f")).uid(4711).gid(4711);
        command.output().unwrap().status.success()
    };
    // Version 2; tag, permissions and id of each entry (include/uapi/linux/posix_acl_xattr.h).
    let entries = [
        (1u16, 7u16, u32::MAX),
        (2, 0, 4711),
        (4, 5, u32::MAX),
        (16, 5, u32::MAX),
        (32, 5, u32::MAX),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_access";
    for _ in 0..2 {
        assert!(may(1) && may(2));
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(c.image("."), name, &acl, flags).unwrap();
        eventually("it keeps the user out", || !may(1) && !may(2));
        rustix::fs::removexattr(c.image("."), name).unwrap();
        eventually("it does not any more", || may(1) && may(2));
    }
}
