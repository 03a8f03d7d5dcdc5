//! Objects of each kind, in each state that they can be in, through everything that makes a view forget.

use crate::handle::{EVENTS, Handle, Kept};
use crate::harness::*;

fn fill(l: &std::path::Path) {
    std::fs::create_dir_all(l.join("dir/sub/deep")).unwrap();
    for file in [
        "file",
        "copied",
        "renamed",
        "dir/file",
        "dir/sub/deep/file",
        "dir/copied",
        "dir/renamed",
    ] {
        write(l.join(file), file).unwrap();
    }
    symlink("dir/file", l.join("symlink")).unwrap();
    mknod(l.join("fifo"), FileType::Fifo, 0o644, 0).unwrap();
    let null = libc::makedev(1, 3);
    mknod(l.join("device"), FileType::CharacterDevice, 0o666, null).unwrap();
}

fn view(store: Store) -> Overlay {
    Overlay::build(Target::Statelite, store, 1, |lowers, _| fill(&lowers[0]))
}

const BELOW: [&str; 11] = [
    "file",
    "copied",
    "renamed",
    "dir",
    "dir/file",
    "dir/sub",
    "dir/sub/deep",
    "dir/sub/deep/file",
    "symlink",
    "fifo",
    "device",
];

/// Makes what a node makes, and returns the paths.
fn make(ov: &Overlay) -> Vec<&'static str> {
    write(ov.at("own"), "own").unwrap();
    std::fs::create_dir_all(ov.at("tree/sub/deep")).unwrap();
    write(ov.at("tree/sub/deep/own"), "deep").unwrap();
    write(ov.at("dir/sub/own"), "in a merged directory").unwrap();
    symlink("own", ov.at("tree/symlink")).unwrap();
    let zero = libc::makedev(1, 5);
    mknod(ov.at("tree/device"), FileType::CharacterDevice, 0o600, zero).unwrap();
    mknod(ov.at("tree/null"), FileType::CharacterDevice, 0o600, 0).unwrap();
    mknod(ov.at("tree/socket"), FileType::Socket, 0o600, 0).unwrap();
    write(ov.at("links"), "linked").unwrap();
    link(ov.at("links"), ov.at("tree/links")).unwrap();
    append(ov.at("copied"), "+").unwrap();
    append(ov.at("dir/copied"), "+").unwrap();
    rename(ov.at("renamed"), ov.at("tree/renamed")).unwrap();
    append(ov.at("dir/renamed"), "+").unwrap();
    rename(ov.at("dir/renamed"), ov.at("dir/sub/moved")).unwrap();
    rename(ov.at("symlink"), ov.at("tree/link-from-below")).unwrap();
    vec![
        "own",
        "tree",
        "tree/sub",
        "tree/sub/deep",
        "tree/sub/deep/own",
        "dir/sub/own",
        "tree/symlink",
        "tree/device",
        "tree/null",
        "tree/socket",
        "links",
        "tree/links",
        "copied",
        "dir/copied",
        "tree/renamed",
        "dir/sub/moved",
        "tree/link-from-below",
        "file",
        "dir",
        "dir/sub/deep",
        "dir/sub/deep/file",
        "fifo",
        "device",
    ]
}

on_every_store!(
    what_lies_below,
    what_the_node_made_or_changed,
    what_changes_after_its_handle_was_taken,
    what_is_below_a_directory_that_moved,
    what_lost_one_of_its_names,
    all_of_it_without_passthrough,
);

fn what_lies_below(store: Store) {
    let mut ov = view(store);
    let kept = Kept::of(&ov.root, &BELOW);
    kept.check(&ov.root, "nothing happened");
    kept.check_through_events(&mut ov);
}

fn what_the_node_made_or_changed(store: Store) {
    let mut ov = view(store);
    let paths = make(&ov);
    let kept = Kept::of(&ov.root, &paths);
    kept.check_through_events(&mut ov);
}

/// Between taking a handle and opening it: copy-up, rename, both; each seen by a table that was made
/// before, and by one that is made after.
fn what_changes_after_its_handle_was_taken(store: Store) {
    for (what, event) in EVENTS {
        let mut ov = view(store);
        let mut kept = Kept::of(&ov.root, &BELOW);
        // The tables are there from now on.
        event(&mut ov);
        kept.check(&ov.root, what);
        append(ov.at("copied"), "+").unwrap();
        rename(ov.at("renamed"), ov.at("dir/elsewhere")).unwrap();
        kept.moved("renamed", "dir/elsewhere");
        chmod(ov.at("dir/sub"), 0o700).unwrap();
        write(ov.at("new"), "new").unwrap();
        kept.add(&ov.root, "new");
        event(&mut ov);
        kept.check(&ov.root, what);
        // The copy of what is removed below is all that is left.
        unlink(ov.low("copied")).unwrap();
        rename(ov.at("dir/elsewhere"), ov.at("once more")).unwrap();
        kept.moved("dir/elsewhere", "once more");
        rename(ov.at("new"), ov.at("dir/sub/new")).unwrap();
        kept.moved("new", "dir/sub/new");
        event(&mut ov);
        kept.check(&ov.root, what);
    }
}

fn what_is_below_a_directory_that_moved(store: Store) {
    for (what, event) in EVENTS {
        let mut ov = view(store);
        let paths = make(&ov);
        let mut kept = Kept::of(&ov.root, &paths);
        event(&mut ov);
        kept.check(&ov.root, what);
        // Nobody remembers what is in it when it moves.
        event(&mut ov);
        mkdir(ov.at("far"), 0o755).unwrap();
        rename(ov.at("tree"), ov.at("far/away")).unwrap();
        for path in paths.iter().filter(|path| path.starts_with("tree")) {
            kept.moved(path, &path.replacen("tree", "far/away", 1));
        }
        event(&mut ov);
        kept.check(&ov.root, what);
        // Two directories change places.
        event(&mut ov);
        mkdir(ov.at("other"), 0o755).unwrap();
        rename_with(ov.at("other"), ov.at("far/away"), RenameFlags::EXCHANGE).unwrap();
        for path in paths.iter().filter(|path| path.starts_with("tree")) {
            let from = path.replacen("tree", "far/away", 1);
            kept.moved(&from, &path.replacen("tree", "other", 1));
        }
        event(&mut ov);
        kept.check(&ov.root, what);
    }
}

fn what_lost_one_of_its_names(store: Store) {
    for (what, event) in EVENTS {
        let mut ov = view(store);
        mkdir(ov.at("d"), 0o755).unwrap();
        write(ov.at("d/a"), "x").unwrap();
        for name in ["b", "c"] {
            link(ov.at("d/a"), ov.at(name)).unwrap();
        }
        let mut kept = Kept::of(&ov.root, &["d/a"]);
        event(&mut ov);
        kept.check(&ov.root, what);
        unlink(ov.at("d/a")).unwrap();
        kept.moved("d/a", "b");
        event(&mut ov);
        kept.check(&ov.root, what);
        rename(ov.at("b"), ov.at("e")).unwrap();
        unlink(ov.at("c")).unwrap();
        kept.moved("b", "e");
        event(&mut ov);
        kept.check(&ov.root, what);
    }
}

fn all_of_it_without_passthrough(store: Store) {
    for io in ["cached", "daemon"] {
        let mut ov = view(store).with_io(io);
        let paths = make(&ov);
        let kept = Kept::of(&ov.root, &paths);
        kept.check_through_events(&mut ov);
    }
}

/// The numbers are those of paths, inodes and births: whoever has the layers has them.
#[test]
fn on_another_mount_point() {
    let mut ov = view(Store::Disk);
    let paths = make(&ov);
    let kept = Kept::of(&ov.root, &paths);
    ov.umount();
    ov.root = ov.outside().join("another");
    mkdir(&ov.root, 0o755).unwrap();
    ov.mount();
    kept.check(&ov.root, "mounted elsewhere");
}

/// What comes to be below under a mounted view has handles like everything else.
#[test]
fn what_comes_below_while_mounted() {
    let mut ov = view(Store::Disk);
    let kept = Kept::of(&ov.root, &["file"]);
    ov.remount();
    kept.check(&ov.root, "the table is there");
    mkdir(ov.low("new"), 0o755).unwrap();
    write(ov.low("new/file"), "x").unwrap();
    poll_until("what is new below shows", || exists(ov.at("new/file")));
    let kept = Kept::of(&ov.root, &["new", "new/file"]);
    kept.check_through_events(&mut ov);
}

/// A path deeper than one look-up can name.
#[test]
fn very_deep_ones() {
    let mut ov = view(Store::Disk);
    let deep: std::path::PathBuf = (0..60).map(|n| format!("{n:0>60}")).collect();
    std::fs::create_dir_all(ov.at(&deep)).unwrap();
    write(ov.at(deep.join("f")), "deep").unwrap();
    let handle = Handle::of(ov.at(deep.join("f")));
    let dir = Kept::of(&ov.root, &[deep.to_str().unwrap()]);
    for (what, event) in EVENTS {
        event(&mut ov);
        handle
            .open(&ov.root)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        dir.check(&ov.root, what);
    }
}
