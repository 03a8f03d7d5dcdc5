//! Two servers with the same tables, image, litetrees and stores: what one of them gave a handle for opens on the other one, if
//! it is there at all.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use rustix::process::Signal;

use crate::cluster::{Cluster, eventually, put};
use crate::daemon::{Daemon, prepare};
use crate::handle::{Handle, Kept, Object, assert_stale};
use crate::harness::drop_caches;

/// Three nodes, each with the other rules' content in its own zones.
fn site() -> Cluster {
    let c = Cluster::new(&[
        ("/etc/", "tmpfs"),
        ("/etc/hosts", "con"),
        ("/var/", "persistent"),
        ("/var/cache/", "localdisk"),
    ])
    .of(3);
    prepare(&c);
    c.table("hosts", "#node,ip\n%1,10.9.1.1\n%2,10.9.2.1\n%3,10.9.3.1\n");
    for path in [
        "usr/image",
        "etc/image",
        "var/image",
        "var/cache/image",
        "etc/hosts",
    ] {
        put(c.image(path), path);
    }
    put(c.tree(1, "etc/tree"), "tree 1");
    put(c.tree(2, "var/tree"), "tree 2");
    put(c.tree(1, "etc/hosts"), "tree 1\n");
    c.set("server", "\"sn1\"");
    c
}

/// The tables say who has each node.
fn assign(c: &Cluster, servers: [&str; 3]) {
    let [one, two, three] = servers;
    let columns = "#node,servicenode,nfsserver,xcatmaster";
    c.table(
        "noderes",
        &format!("{columns}\n%1,{one},,\n%2,,{two},\n%3,,,{three}\n"),
    );
    c.write();
}

fn other_of(c: &Cluster) -> Cluster {
    let other = c.on_another_server();
    other.set("server", "\"sn2\"");
    other
}

/// Whom a daemon serves, by the nodes' numbers.
fn served(d: &Daemon<'_>) -> Vec<u32> {
    let mounts = d.mounts();
    let is_served = |node: &u32| {
        mounts
            .iter()
            .any(|at| at.ends_with(&format!("/{}", d.node(*node))))
    };
    (1..=3).filter(is_served).collect()
}

/// The line of exports(5) of each node, without its path.
fn exports(c: &Cluster) -> BTreeMap<String, String> {
    let out = c.run(&["export"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| {
        let (path, clients) = line.split_once(' ').unwrap();
        (
            path.rsplit('/').next().unwrap().to_owned(),
            clients.to_owned(),
        )
    });
    parts.collect()
}

/// Takes node 1 from `from` and gives it to `to`.
fn move_it(c: &Cluster, from: &Daemon<'_>, to: &Daemon<'_>, name: &str) {
    assign(c, [name, "sn2", "sn1"]);
    from.reload();
    assert!(!served(from).contains(&1));
    to.reload();
    assert!(served(to).contains(&1));
}

const SHARED: [&str; 9] = [
    "usr/image",
    "etc/image",
    "etc/tree",
    "etc/hosts",
    "var",
    "var/image",
    "var/tree",
    "var/own",
    "var/own/below",
];
const LOCAL: [&str; 4] = ["etc/own", "etc/own/below", "etc/dir", "var/cache/own"];

#[test]
fn each_node_is_served_by_the_one_that_its_row_names() {
    let c = site();
    let other = other_of(&c);
    assign(&c, ["sn1", "sn2", "sn1"]);
    let (one, two) = (Daemon::start(&c), Daemon::start(&other));
    assert_eq!((served(&one), served(&two)), (vec![1, 3], vec![2]));
    let (of_one, of_two) = (exports(&c), exports(&other));
    assert_eq!((of_one.len(), of_two.len()), (2, 1));
    // What a client mounts by is the node's, whoever serves it.
    assign(&c, ["sn2", "sn1", "sn2"]);
    two.reload();
    one.reload();
    // A store that the other still serves is tried again.
    eventually("each has the other's nodes", || {
        (served(&one), served(&two)) == (vec![2], vec![1, 3])
    });
    assert_eq!((exports(&c), exports(&other)), (of_two, of_one));
}

/// There and back: what each server has by itself is stale on the other, and is there when the node is back.
#[test]
fn a_node_moves_with_its_handles() {
    let c = site();
    let other = other_of(&c);
    assign(&c, ["sn1", "sn2", "sn1"]);
    let (one, two) = (Daemon::start(&c), Daemon::start(&other));
    let here = one.root(1);
    for path in [
        "var/own/below",
        "etc/own/below",
        "etc/dir/below",
        "var/cache/own",
    ] {
        put(here.join(path), path);
    }
    put(here.join("var/image"), "copied");
    put(here.join("etc/image"), "copied");
    let mut kept = Kept::of(&here, &SHARED);
    let own = LOCAL.map(|path| {
        (
            path,
            Handle::of(here.join(path)),
            Object::at(here.join(path)),
        )
    });
    move_it(&c, &one, &two, "sn2");
    let there = two.root(1);
    kept.check(&there, "on the other server");
    // What was copied to the node's tmpfs stayed behind, and the path has the image's again.
    assert_eq!(
        std::fs::read(there.join("etc/image")).unwrap(),
        b"etc/image"
    );
    let stale = |when: &str| {
        drop_caches();
        for (path, handle, _) in &own {
            assert_stale(handle, &there, &format!("{path}, {when}"));
        }
    };
    stale("on the other server");
    for path in ["etc/own/below", "etc/dir/below", "var/cache/own"] {
        put(there.join(path), "another");
    }
    stale("another in its place");
    put(there.join("var/there"), "made there");
    kept.add(&there, "var/there");
    move_it(&c, &two, &one, "sn1");
    kept.check(&here, "back again");
    for (path, handle, object) in &own {
        assert_eq!(Object::of(&handle.open(&here).unwrap()), *object, "{path}");
    }
}

/// Numbers of what the image has are the same in every root, and each root opens its own by them.
#[test]
fn a_handle_of_another_nodes_root_leads_to_nothing_of_it() {
    let c = site();
    assign(&c, ["sn1", "sn1", "sn1"]);
    let d = Daemon::start(&c);
    let (theirs, own) = (d.root(1), d.root(2));
    for path in ["var/secret/below", "etc/secret", "var/cache/secret"] {
        put(theirs.join(path), "secret");
    }
    for path in ["var/image", "etc/image"] {
        put(theirs.join(path), "theirs");
    }
    let handles = [
        "var/secret",
        "var/secret/below",
        "etc/secret",
        "var/cache/secret",
    ];
    let handles = handles.map(|path| (path, Handle::of(theirs.join(path))));
    let shared = ["usr/image", "var/image", "etc/image"];
    let shared = shared.map(|path| (path, Handle::of(theirs.join(path))));
    let look = |when: &str| {
        drop_caches();
        for (path, handle) in &handles {
            assert_stale(handle, &own, &format!("{path}, {when}"));
        }
        for (path, handle) in &shared {
            let found = Object::of(&handle.open(&own).unwrap());
            assert_eq!(found, Object::at(own.join(path)), "{path}, {when}");
            if *path != "usr/image" {
                assert_ne!(found, Object::at(theirs.join(path)), "{path}, {when}");
            }
        }
    };
    look("nothing in its place");
    for path in ["var/secret/below", "etc/secret", "var/cache/secret"] {
        put(own.join(path), "own");
    }
    put(own.join("var/image"), "own");
    look("another of the same name");
}

/// A server that fails, and one that has copies of image and litetrees, by rsync or from a package: no inode is the same.
#[test]
fn a_copy_of_the_image_gives_the_same_handles() {
    let c = site();
    let other = other_of(&c);
    assign(&c, ["sn1", "sn2", "sn1"]);
    let mut one = Daemon::start(&c);
    let here = one.root(1);
    put(here.join("var/own/below"), "own");
    put(here.join("var/image"), "copied");
    let mut kept = Kept::of(&here, &SHARED);
    one.signal(Signal::TERM);
    assert_eq!(one.end(), Some(0));
    let inodes = || {
        let paths = [c.image("usr/image"), c.tree(1, "etc/tree")];
        paths.map(|path| path.metadata().unwrap().ino())
    };
    let before = inodes();
    for dir in ["image", "tree1", "tree2"] {
        let (from, to) = (c.path(format!("{dir}.from")), c.path(dir));
        std::fs::rename(&to, &from).unwrap();
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.unwrap().success());
    }
    let after = inodes();
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before != after)
    );
    assign(&c, ["sn2", "sn2", "sn1"]);
    let two = Daemon::start(&other);
    kept.check(&two.root(1), "on the other server");
    put(two.root(1).join("var/there"), "made there");
    kept.add(&two.root(1), "var/there");
    drop_caches();
    kept.check(&two.root(1), "on the other server, forgotten");
}

/// Where both servers have one store for it, a node's upper goes along.
#[test]
fn an_upper_that_both_servers_have_goes_along() {
    let c = site();
    let other = other_of(&c);
    for (key, path) in [("tmpfs_dir", "tmpfs"), ("localdisk_dir", "disk")] {
        other.set(key, &c.quoted(path));
    }
    assign(&c, ["sn1", "sn2", "sn1"]);
    let (one, two) = (Daemon::start(&c), Daemon::start(&other));
    let here = one.root(1);
    for path in [
        "var/own/below",
        "etc/own/below",
        "etc/dir/below",
        "var/cache/own",
    ] {
        put(here.join(path), path);
    }
    put(here.join("etc/image"), "copied");
    let kept = Kept::of(&here, &[&SHARED[..], &LOCAL].concat());
    move_it(&c, &one, &two, "sn2");
    kept.check(&two.root(1), "on the other server");
    assert_eq!(
        std::fs::read(two.root(1).join("etc/image")).unwrap(),
        b"copied"
    );
    move_it(&c, &two, &one, "sn1");
    kept.check(&here, "back again");
}
