//! What is gone is ESTALE, also where another object has come to its place; what cannot be told now is
//! another error.

use std::path::Path;

use crate::cluster::{Cluster, Detached, put};
use crate::handle::{EVENTS, Handle, Kept, assert_stale};
use crate::harness::*;

fn view() -> Overlay {
    Overlay::build(Target::Statelite, Store::Disk, 1, |lowers, _| {
        let l = &lowers[0];
        std::fs::create_dir_all(l.join("dir")).unwrap();
        for file in ["file", "copied", "renamed", "below", "dir/file"] {
            write(l.join(file), file).unwrap();
        }
    })
}

#[test]
fn removed_and_made_again() {
    for (what, event) in EVENTS {
        let mut ov = view();
        write(ov.at("own"), "own").unwrap();
        mkdir(ov.at("tree"), 0o755).unwrap();
        write(ov.at("tree/own"), "own").unwrap();
        append(ov.at("copied"), "+").unwrap();
        rename(ov.at("renamed"), ov.at("elsewhere")).unwrap();
        let paths = [
            "own",
            "tree",
            "tree/own",
            "copied",
            "elsewhere",
            "file",
            "below",
            "dir",
        ];
        let gone = paths.map(|path| (path, Handle::of(ov.at(path))));
        let mut kept = Kept::of(&ov.root, &["."]);
        for path in ["own", "tree/own", "copied", "elsewhere", "file"] {
            unlink(ov.at(path)).unwrap();
        }
        rmdir(ov.at("tree")).unwrap();
        unlink(ov.low("below")).unwrap();
        std::fs::remove_dir_all(ov.at("dir")).unwrap();
        let check = |ov: &Overlay, when: &str| {
            for (path, handle) in &gone {
                assert_stale(handle, &ov.root, &format!("{what}: {path}, {when}"));
            }
        };
        poll_until("the removal below shows", || !exists(ov.at("below")));
        event(&mut ov);
        check(&ov, "removed");
        kept.check(&ov.root, what);
        // Others in their places.
        for path in ["own", "copied", "elsewhere", "file", "below", "renamed"] {
            write(ov.at(path), "another").unwrap();
            kept.add(&ov.root, path);
        }
        for path in ["tree", "dir"] {
            mkdir(ov.at(path), 0o755).unwrap();
        }
        write(ov.at("tree/own"), "another").unwrap();
        kept.add(&ov.root, "tree/own");
        event(&mut ov);
        check(&ov, "another in its place");
        kept.check(&ov.root, what);
    }
}

/// A copy takes its number along, and whoever comes to its old path in a lower layer gets another: whether it was renamed,
/// exchanged or linked, by itself or with its directory.
#[test]
fn a_newcomer_at_the_old_path_of_a_copy_is_another() {
    const OLD: [&str; 7] = [
        "file",
        "copied",
        "renamed",
        "below",
        "dir",
        "dir/file",
        "dir/deep/file",
    ];
    for (what, event) in EVENTS {
        let mut ov = view();
        mkdir(ov.low("dir/deep"), 0o755).unwrap();
        write(ov.low("dir/deep/file"), "deep").unwrap();
        for file in [
            "file",
            "copied",
            "renamed",
            "below",
            "dir/file",
            "dir/deep/file",
        ] {
            append(ov.at(file), "+").unwrap();
        }
        let mut kept = Kept::of(&ov.root, &OLD);
        // Only the upper has them from now on.
        let remove = |ov: &Overlay| {
            for file in ["file", "copied", "below"] {
                unlink(ov.low(file)).unwrap();
            }
            std::fs::remove_dir_all(ov.low("dir")).unwrap();
        };
        remove(&ov);
        ov.remount();
        rename(ov.at("file"), ov.at("moved")).unwrap();
        link(ov.at("copied"), ov.at("linked")).unwrap();
        unlink(ov.at("copied")).unwrap();
        write(ov.at("own"), "own").unwrap();
        kept.add(&ov.root, "own");
        rename_with(ov.at("own"), ov.at("below"), RenameFlags::EXCHANGE).unwrap();
        unlink(ov.at("below")).unwrap();
        kept.forget("own");
        // It still is below, but not once the node has had another there.
        rename(ov.at("renamed"), ov.at("away")).unwrap();
        write(ov.at("renamed"), "own").unwrap();
        unlink(ov.low("renamed")).unwrap();
        ov.remount();
        unlink(ov.at("renamed")).unwrap();
        assert!(!exists(ov.up("renamed")), "no mark of a deletion stays");
        rename(ov.at("dir"), ov.at("tree")).unwrap();
        for (from, to) in [
            ("file", "moved"),
            ("copied", "linked"),
            ("below", "own"),
            ("renamed", "away"),
            ("dir", "tree"),
            ("dir/file", "tree/file"),
            ("dir/deep/file", "tree/deep/file"),
        ] {
            kept.moved(from, to);
        }
        event(&mut ov);
        std::fs::create_dir_all(ov.low("dir/deep")).unwrap();
        for file in [
            "file",
            "copied",
            "renamed",
            "below",
            "dir/file",
            "dir/deep/file",
        ] {
            write(ov.low(file), "newcomer").unwrap();
        }
        poll_until("they show", || OLD.iter().all(|path| exists(ov.at(path))));
        for path in OLD {
            kept.add(&ov.root, path);
        }
        ov.tree();
        event(&mut ov);
        kept.check(&ov.root, what);
        // Their copies are others, too.
        for path in ["file", "dir/file"] {
            append(ov.at(path), "+").unwrap();
        }
        event(&mut ov);
        kept.check(&ov.root, what);
        // What goes leaves nothing of itself to the newcomer.
        let gone = ["moved", "linked", "own", "away", "tree/deep/file"].map(|path| {
            kept.forget(path);
            let handle = Handle::of(ov.at(path));
            unlink(ov.at(path)).unwrap();
            (path, handle)
        });
        event(&mut ov);
        for (path, handle) in &gone {
            assert_stale(handle, &ov.root, &format!("{what}: {path}"));
        }
        kept.check(&ov.root, what);
    }
}

/// The same with a directory that the node made, which later merged with one that a lower layer had for a time.
#[test]
fn a_newcomer_where_an_own_directory_was() {
    for (what, event) in EVENTS {
        let mut ov = view();
        mkdir(ov.at("own"), 0o755).unwrap();
        let below = ["own/sub/deep", "own/file"];
        for path in below {
            std::fs::create_dir_all(ov.low(path).parent().unwrap()).unwrap();
            write(ov.low(path), "first").unwrap();
        }
        poll_until("they show", || below.iter().all(|path| exists(ov.at(path))));
        for path in below {
            append(ov.at(path), "+").unwrap();
        }
        let mut kept = Kept::of(&ov.root, &["own", "own/sub", "own/sub/deep", "own/file"]);
        std::fs::remove_dir_all(ov.low("own")).unwrap();
        ov.remount();
        rename(ov.at("own"), ov.at("moved")).unwrap();
        for path in ["own", "own/sub", "own/sub/deep", "own/file"] {
            kept.moved(path, &path.replacen("own", "moved", 1));
        }
        for path in below {
            std::fs::create_dir_all(ov.low(path).parent().unwrap()).unwrap();
            write(ov.low(path), "newcomer").unwrap();
        }
        poll_until("they show", || below.iter().all(|path| exists(ov.at(path))));
        for path in below {
            kept.add(&ov.root, path);
        }
        event(&mut ov);
        kept.check(&ov.root, what);
    }
}

/// A store that is away is no reason to call what it holds gone. The one other answer that comes
/// through the kernel makes nfsd tell its clients to try again.
#[test]
fn a_store_that_is_not_there_is_waited_for() {
    let c = Cluster::new(&[("/opt/", "persistent")]);
    put(c.image("opt/image"), "image");
    let (aside, store) = (crate::cluster::dir(c.path("aside")), c.path("store"));
    let tmpfs = Tmpfs::new(&aside, 1 << 24);
    c.set("require_mount", &format!("[{}]", c.quoted("store")));
    let there = Detached::bind(&aside, &store);
    let v = c.mount(1);
    v.write("opt/own", "own").unwrap();
    v.write("opt/image", "copied").unwrap();
    let handles = ["opt/own", "opt/image"].map(|path| Handle::of(v.at(path)));
    v.stop();
    drop(there);
    v.remount();
    for handle in &handles {
        let found = handle.open(&v.root).map(|_| ());
        assert_eq!(found, Err(Errno::NOMEM));
    }
    let there = Detached::bind(&aside, &store);
    for handle in &handles {
        poll_until("the store is back", || handle.open(&v.root).is_ok());
    }
    v.stop();
    drop((there, tmpfs));
}

/// A flood of dead handles neither stops the view nor keeps it from ending.
#[test]
fn a_flood_of_dead_handles() {
    let mut ov = view();
    let kept = Kept::of(&ov.root, &["file", "dir/file"]);
    ov.remount();
    let some = Handle::of(ov.at("file"));
    let root: &Path = &ov.root;
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let some = &some;
            scope.spawn(move || {
                for n in 0..500 {
                    let number = (thread << 32 | n << 8 | 7) | (n & 1) << 63;
                    assert_stale(&some.with_number(number), root, "a flood");
                }
            });
        }
        for n in 0..50 {
            write(root.join("busy"), n.to_string()).unwrap();
            rename(root.join("busy"), root.join("dir/busy")).unwrap();
        }
    });
    kept.check(&ov.root, "after a flood");
    ov.remount();
    kept.check(&ov.root, "after a flood and a new mount");
}
