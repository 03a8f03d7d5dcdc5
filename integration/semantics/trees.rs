//! Section 2: litetrees, the image below them, and how soon their changes show.

use crate::cluster::{Cluster, dir, eventually, exists, fails, link, names, put, stat, text};

#[test]
fn levels_merge_and_the_first_that_has_a_name_wins() {
    let c = Cluster::new(&[("/opt/", "tmpfs")]);
    put(c.tree(1, "opt/a"), "one\n");
    put(c.tree(2, "opt/a"), "two\n");
    put(c.image("opt/a"), "image\n");
    put(c.tree(2, "opt/b"), "two\n");
    put(c.image("opt/b"), "image\n");
    put(c.image("opt/c"), "image\n");
    // Directories merge at any depth.
    put(c.tree(1, "opt/d/e/one"), "");
    put(c.tree(2, "opt/d/e/two"), "");
    put(c.image("opt/d/e/image"), "");
    // Anything else hides what is below, of any kind.
    put(c.tree(1, "opt/hides"), "file\n");
    put(c.tree(2, "opt/hides/not-seen"), "");
    put(c.tree(2, "opt/split"), "a file between two directories\n");
    put(c.tree(1, "opt/split/seen"), "");
    put(c.image("opt/split/not-seen"), "");
    link("c", c.tree(1, "opt/link"));
    put(c.image("opt/link/not-seen"), "");
    let v = c.mount(1);
    assert_eq!(
        v.names("opt"),
        ["a", "b", "c", "d", "hides", "link", "split"]
    );
    assert_eq!(v.text("opt/a"), "one\n");
    assert_eq!(v.text("opt/b"), "two\n");
    assert_eq!(v.text("opt/c"), "image\n");
    assert_eq!(v.text("opt/link"), "image\n");
    assert_eq!(v.names("opt/d/e"), ["image", "one", "two"]);
    assert_eq!(v.text("opt/hides"), "file\n");
    assert_eq!(v.names("opt/split"), ["seen"]);
    // Writes don't change who wins elsewhere.
    v.write("opt/d/e/three", "").unwrap();
    v.write("opt/b", "written\n").unwrap();
    assert_eq!(v.names("opt/d/e"), ["image", "one", "three", "two"]);
    assert_eq!(v.text("opt/a"), "one\n");
    assert_eq!(names(c.tree(1, "opt/d/e")), ["one"]);
}

#[test]
fn litetrees_say_nothing_outside_rules() {
    let c = Cluster::new(&[("/etc/a", "tmpfs")]);
    put(c.tree(1, "etc/a"), "tree\n");
    put(c.tree(1, "etc/b"), "tree\n");
    put(c.tree(1, "new/dir"), "tree\n");
    put(c.image("etc/b"), "image\n");
    let v = c.mount(1);
    assert_eq!(v.text("etc/a"), "tree\n");
    assert_eq!(v.text("etc/b"), "image\n");
    assert!(!exists(v.at("new")));
}

#[test]
fn equal_priorities_keep_the_order_of_the_table() {
    let c = Cluster::new(&[("/etc/hosts", "con"), ("/opt/", "tmpfs")]);
    let mut table = String::from("#priority,image,directory,mntopts\n");
    for (priority, name) in [(2, "c"), (1, "a"), (2, "d"), (1, "b")] {
        table.push_str(&format!("\"{priority}\",,\"@/{name}\",\n"));
        put(c.path(name).join("etc/hosts"), name);
        put(c.path(name).join("opt/f"), name);
        put(c.path(name).join("opt").join(name), "");
    }
    c.table("litetree", &table);
    let v = c.mount(1);
    assert_eq!(v.text("etc/hosts"), "abcd");
    assert_eq!(v.text("opt/f"), "a");
    assert_eq!(v.names("opt"), ["a", "b", "c", "d", "f"]);
}

#[test]
fn changes_of_a_litetree_show_at_once() {
    let c = Cluster::new(&[("/opt/", "tmpfs"), ("/etc/conf", "persistent")]);
    put(c.image("opt/edited"), "image\n");
    put(c.image("etc/conf"), "image\n");
    put(c.tree(1, "opt/goes"), "");
    let v = c.mount(1);
    assert_eq!(v.names("opt"), ["edited", "goes"]);
    assert_eq!(v.text("etc/conf"), "image\n");

    put(c.tree(2, "opt/edited"), "tree 2\n");
    v.comes_to_say("opt/edited", "tree 2\n");
    put(c.tree(1, "opt/edited"), "tree 1\n");
    v.comes_to_say("opt/edited", "tree 1\n");
    put(c.tree(1, "opt/edited"), "tree 1, edited in place\n");
    v.comes_to_say("opt/edited", "tree 1, edited in place\n");
    put(c.tree(1, "etc/conf"), "tree\n");
    v.comes_to_say("etc/conf", "tree\n");
    put(c.tree(1, "opt/new/deep"), "deep\n");
    v.comes_to_say("opt/new/deep", "deep\n");
    std::fs::remove_file(c.tree(1, "opt/goes")).unwrap();
    eventually("a removed file is gone", || !exists(v.at("opt/goes")));
    eventually("the listing too", || v.names("opt") == ["edited", "new"]);
    std::fs::remove_file(c.tree(1, "opt/edited")).unwrap();
    std::fs::remove_file(c.tree(2, "opt/edited")).unwrap();
    v.comes_to_say("opt/edited", "image\n");
}

#[test]
fn changes_of_the_image_show_at_once_in_and_outside_rules() {
    let c = Cluster::new(&[("/var/lib/", "tmpfs")]);
    put(c.image("usr/bin/tool"), "v1\n");
    put(c.image("var/lib/db"), "v1\n");
    put(c.image("usr/share/goes/x"), "");
    let v = c.mount(1);
    for path in ["usr/bin/tool", "var/lib/db"] {
        assert_eq!(v.text(path), "v1\n");
        // As a package manager does: a new file is renamed over the old one.
        put(c.image("tmp-new"), "v2\n");
        std::fs::rename(c.image("tmp-new"), c.image(path)).unwrap();
        v.comes_to_say(path, "v2\n");
    }
    put(c.image("usr/bin/added"), "added\n");
    v.comes_to_say("usr/bin/added", "added\n");
    put(c.image("usr/newdir/sub/f"), "f\n");
    v.comes_to_say("usr/newdir/sub/f", "f\n");
    assert_eq!(v.names("usr/share"), ["goes"]);
    std::fs::remove_dir_all(c.image("usr/share/goes")).unwrap();
    eventually("a removed directory is gone", || {
        v.names("usr/share").is_empty() && !exists(v.at("usr/share/goes/x"))
    });
}

#[test]
fn a_change_of_kind_in_a_lower_layer_shows() {
    let c = Cluster::new(&[("/opt/", "tmpfs")]);
    put(c.image("opt/x"), "file\n");
    put(c.image("opt/y/inside"), "");
    let v = c.mount(1);
    assert_eq!(v.text("opt/x"), "file\n");
    assert_eq!(v.names("opt/y"), ["inside"]);
    std::fs::remove_file(c.image("opt/x")).unwrap();
    put(c.image("opt/x/inside"), "now a directory\n");
    std::fs::remove_dir_all(c.image("opt/y")).unwrap();
    link("x", c.image("opt/y"));
    v.comes_to_say("opt/x/inside", "now a directory\n");
    v.comes_to_say("opt/y/inside", "now a directory\n");
    assert!(stat(v.at("opt/y")).is_symlink());
}

#[test]
fn what_a_node_has_written_is_its_own() {
    let c = Cluster::new(&[("/opt/", "persistent")]);
    put(c.image("opt/a"), "image\n");
    put(c.tree(1, "opt/b"), "tree\n");
    let v = c.mount(1);
    v.write("opt/a", "mine\n").unwrap();
    std::fs::remove_file(v.at("opt/b")).unwrap();
    put(c.image("opt/a"), "newer\n");
    put(c.tree(1, "opt/b"), "newer\n");
    put(c.tree(1, "opt/c"), "proof\n");
    v.comes_to_say("opt/c", "proof\n");
    v.remount();
    assert_eq!(v.text("opt/a"), "mine\n");
    assert_eq!(v.names("opt"), ["a", "c"]);
}

#[test]
fn table_changes_need_no_liteimg_and_no_reboot_of_others() {
    let c = Cluster::new(&[("/etc/a", "tmpfs")]);
    put(c.image("etc/a"), "image\n");
    put(c.image("etc/b"), "image\n");
    let v = c.mount(1);
    v.write("etc/a", "written\n").unwrap();
    fails!(v.write("etc/b", ""), EROFS);
    c.rule("/etc/b", "tmpfs");
    v.remount();
    v.write("etc/b", "now\n").unwrap();
    assert_eq!(v.text("etc/a"), "written\n");
    assert_eq!(text(c.image("etc/b")), "image\n");
}

#[test]
fn first_takes_one_directory_whole() {
    let c = Cluster::new(&[
        ("/opt/", "tmpfs"),
        ("/srv/", "tmpfs"),
        ("/etc/conf", "tmpfs"),
    ]);
    c.set("litetree_directories", "\"first\"");
    dir(c.tree(1, "opt")); // empty: the next is taken
    put(c.tree(2, "opt/two"), "two\n");
    put(c.tree(2, "opt/sub/two"), "two\n");
    put(c.image("opt/image"), "");
    put(c.image("opt/sub/image"), "");
    put(c.image("srv/image"), "image\n");
    put(c.tree(2, "etc/conf"), "two\n");
    let v = c.mount(1);
    assert_eq!(v.names("opt"), ["sub", "two"]);
    assert_eq!(v.names("opt/sub"), ["two"]);
    assert!(!exists(v.at("opt/image")));
    assert_eq!(v.names("srv"), ["image"]);
    assert_eq!(v.text("etc/conf"), "two\n");
    v.write("opt/mine", "").unwrap();
    v.write("opt/sub/mine", "").unwrap();
    std::fs::remove_file(v.at("opt/two")).unwrap();
    for _ in 0..2 {
        assert_eq!(v.names("opt"), ["mine", "sub"]);
        assert_eq!(v.names("opt/sub"), ["mine", "two"]);
        v.remount();
    }
    // A name that only a level not taken has is free.
    v.write("opt/image", "mine\n").unwrap();
    assert_eq!(v.text("opt/image"), "mine\n");
}

#[test]
fn eager_seed_copies_once_and_looks_no_more_at_the_image() {
    let c = Cluster::new(&[
        ("/var/lib/", "persistent"),
        ("/var/lib/cache/", "tmpfs"),
        ("/etc/conf", "persistent"),
    ]);
    c.set("persistent_seed", "\"eager\"");
    put(c.image("var/lib/db/one"), "one\n");
    put(c.tree(1, "var/lib/two"), "two\n");
    put(c.image("var/lib/cache/big"), "not seeded\n");
    put(c.image("etc/conf"), "conf\n");
    let v = c.mount(1);
    assert_eq!(text(c.store(1, "var/lib/db/one")), "one\n");
    assert_eq!(text(c.store(1, "var/lib/two")), "two\n");
    assert_eq!(text(c.store(1, "etc/conf")), "conf\n");
    assert!(!exists(c.store(1, "var/lib/cache/big")));
    assert_eq!(v.text("var/lib/cache/big"), "not seeded\n");

    put(c.image("var/lib/db/one"), "changed\n");
    put(c.image("var/lib/later"), "later\n");
    put(c.image("etc/conf"), "changed\n");
    std::fs::remove_file(v.at("var/lib/two")).unwrap();
    v.reboot();
    assert_eq!(v.text("var/lib/db/one"), "one\n");
    assert_eq!(v.text("etc/conf"), "conf\n");
    assert_eq!(v.names("var/lib"), ["cache", "db"]);
    assert_eq!(v.names("var/lib/db"), ["one"]);
}

#[test]
fn an_interrupted_seed_is_completed() {
    let c = Cluster::new(&[("/var/lib/", "persistent")]);
    put(c.image("var/lib/a/one"), "one\n");
    put(c.image("var/lib/b"), "b\n");
    put(c.image("var/lib/c/three"), "three\n");
    // As a crash leaves it: some of it there, the top not yet marked as all of it. A lazy mount
    // that writes one file makes the same state.
    let v = c.mount(1);
    v.write("var/lib/a/one", "mine\n").unwrap();
    drop(v);
    assert!(!exists(c.store(1, "var/lib/b")));
    c.set("persistent_seed", "\"eager\"");
    let v = c.mount(1);
    assert_eq!(text(c.store(1, "var/lib/b")), "b\n");
    assert_eq!(text(c.store(1, "var/lib/c/three")), "three\n");
    assert_eq!(v.text("var/lib/a/one"), "mine\n");
    put(c.image("var/lib/d"), "later\n");
    v.remount();
    assert_eq!(v.names("var/lib"), ["a", "b", "c"]);
}
