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
