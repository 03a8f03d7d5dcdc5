//! Sections 2, 3 and 8 over time: tables that change over what a node has written, an image that is
//! replaced whole, and what rules and layers disagree about.

use std::os::unix::fs::MetadataExt;

use rustix::fs::XattrFlags;

use crate::cluster::{Cluster, chmod, dir, exists, fails, link, mode, put, stat, text};

#[test]
fn a_rule_that_grows_shows_what_was_written_below_it() {
    let c = Cluster::new(&[("/p/in/er/x", "persistent")]);
    for path in ["p/in/er/x", "p/in/er/y", "p/z"] {
        put(c.image(path), "image\n");
    }
    chmod(c.image("p/in"), 0o750).unwrap();
    std::os::unix::fs::chown(c.image("p/in"), Some(5), Some(6)).unwrap();
    let v = c.mount(1);
    v.write("p/in/er/x", "mine\n").unwrap();
    c.rule("/p/", "persistent");
    v.remount();
    assert_eq!(v.text("p/in/er/x"), "mine\n");
    assert_eq!(v.names("p/in/er"), ["x", "y"]);
    // Directories that only led to the rule are as the image has them.
    let inner = stat(v.at("p/in"));
    assert_eq!(
        (inner.mode() & 0o7777, inner.uid(), inner.gid()),
        (0o750, 5, 6)
    );
    v.write("p/in/er/y", "mine\n").unwrap();
    v.write("p/z", "mine\n").unwrap();
    v.reboot();
    assert_eq!(v.text("p/z"), "mine\n");
}

#[test]
fn a_new_rule_below_what_was_deleted_works() {
    for form in ["device", "file"] {
        let c = Cluster::new(&[("/p/", "persistent")]);
        c.set("whiteouts", &format!("\"{form}\""));
        put(c.image("p/in/er/x"), "image\n");
        put(c.image("p/in/other"), "image\n");
        let v = c.mount(1);
        std::fs::remove_dir_all(v.at("p/in")).unwrap();
        c.rule("/p/in/er/x", "persistent");
        v.remount();
        // The rule's path is there with its content; what was deleted beside it stays so.
        assert_eq!(v.text("p/in/er/x"), "image\n", "{form}");
        assert_eq!(v.names("p/in"), ["er"], "{form}");
        v.write("p/in/er/x", "mine\n").unwrap();
        for _ in 0..2 {
            assert_eq!(v.text("p/in/er/x"), "mine\n", "{form}");
            assert_eq!(v.names("p/in"), ["er"], "{form}");
            assert_eq!(v.names("p/in/er"), ["x"], "{form}");
            v.remount();
        }
    }
}

#[test]
fn a_directory_between_two_rules_of_one_upper_keeps_the_litetrees_mode() {
    let c = Cluster::new(&[("/a/", "tmpfs"), ("/a/b/f", "tmpfs")]);
    put(c.image("a/b/f"), "image\n");
    put(c.tree(1, "a/b/other"), "private\n");
    crate::cluster::chmod(c.tree(1, "a/b"), 0o700).unwrap();
    let v = c.mount(1);
    assert_eq!(crate::cluster::mode(v.at("a/b")), 0o700);
    v.write("a/b/f", "mine\n").unwrap();
    assert_eq!(crate::cluster::mode(v.at("a/b")), 0o700);
    assert_eq!(v.text("a/b/other"), "private\n");
}

#[test]
fn a_lower_name_that_means_a_deletion_is_not_copied_up() {
    let c = Cluster::new(&[("/p/", "persistent")]);
    c.set("whiteouts", "\"file\"");
    put(c.image("p/.wh.x"), "of an unpacked layer\n");
    put(c.image("p/x"), "image\n");
    let v = c.mount(1);
    fails!(crate::cluster::chmod(v.at("p/.wh.x"), 0o600), EPERM);
    assert_eq!(v.text("p/x"), "image\n");
}

#[test]
fn a_rule_below_what_became_a_file_is_refused_not_wrong() {
    let c = Cluster::new(&[("/p/", "persistent")]);
    put(c.image("p/in/x"), "image\n");
    let v = c.mount(1);
    std::fs::remove_dir_all(v.at("p/in")).unwrap();
    v.write("p/in", "now a file\n").unwrap();
    c.rule("/p/in/x", "persistent");
    v.remount();
    assert_eq!(v.text("p/in/x"), "image\n");
    fails!(v.write("p/in/x", "mine\n"), EIO);
    assert_eq!(text(c.store(1, "p/in")), "now a file\n");
}

#[test]
fn a_change_of_option_changes_where_writes_go() {
    let c = Cluster::new(&[("/d/", "tmpfs")]);
    put(c.image("d/x"), "image\n");
    let v = c.mount(1);
    v.write("d/x", "in tmpfs\n").unwrap();
    c.table("litefile", "#image,file,options\nALL,/d/,persistent\n");
    v.remount();
    assert_eq!(v.text("d/x"), "image\n");
    v.write("d/x", "in the store\n").unwrap();
    c.table("litefile", "#image,file,options\nALL,/d/,tmpfs\n");
    v.remount();
    assert_eq!(v.text("d/x"), "in tmpfs\n");
}

#[test]
fn an_image_that_is_replaced_whole_shows() {
    let c = Cluster::new(&[("/etc/", "tmpfs")]);
    put(c.image("usr/x"), "v1\n");
    put(c.image("etc/x"), "v1\n");
    put(c.image("etc/mine"), "v1\n");
    let v = c.mount(1);
    assert_eq!(v.text("usr/x"), "v1\n");
    v.write("etc/mine", "mine\n").unwrap();
    std::fs::rename(c.image(""), c.path("image/old")).unwrap();
    put(c.path("image/new/usr/x"), "v2\n");
    put(c.path("image/new/etc/x"), "v2\n");
    put(c.path("image/new/added/y"), "v2\n");
    std::fs::rename(c.path("image/new"), c.image("")).unwrap();
    v.comes_to_say("usr/x", "v2\n");
    v.comes_to_say("etc/x", "v2\n");
    v.comes_to_say("added/y", "v2\n");
    assert_eq!(v.text("etc/mine"), "mine\n");
    assert_eq!(v.names("etc"), ["mine", "mtab", "x"]);
}

#[test]
fn a_rule_is_of_the_kind_that_is_there() {
    // A trailing slash says what to make where there is nothing, and nothing else.
    let c = Cluster::new(&[("/a", "tmpfs"), ("/b/", "tmpfs"), ("/c", "persistent")]);
    put(c.image("a/x"), "image\n");
    put(c.image("b"), "file\n");
    link("a", c.image("c"));
    let v = c.mount(1);
    v.write("a/x", "mine\n").unwrap();
    v.write("a/y", "mine\n").unwrap();
    assert_eq!(v.names("a"), ["x", "y"]);
    assert_eq!(v.text("b"), "file\n");
    v.write("b", "mine\n").unwrap();
    assert_eq!(text(c.tmpfs(1, "b")), "mine\n");
    assert!(stat(v.at("c")).is_symlink());
}

#[test]
fn a_rule_that_cannot_be_in_the_image_is_reported() {
    let c = Cluster::new(&[
        ("/etc/passwd/x", "tmpfs"),
        ("/loop/x", "tmpfs"),
        ("/etc/ok", "tmpfs"),
    ]);
    put(c.image("etc/passwd"), "root\n");
    link("loop", c.image("loop"));
    let said = c.check();
    assert!(said.contains("litefile.csv:2:"), "{said}");
    assert!(said.contains("/etc/passwd/x cannot be in image"), "{said}");
    assert!(said.contains("/loop/x cannot be in image"), "{said}");
    let v = c.mount(1);
    assert_eq!(v.text("etc/passwd"), "root\n");
    v.write("etc/ok", "").unwrap();
}

#[test]
fn what_exists_nowhere_takes_every_change() {
    let c = Cluster::new(&[
        ("/n/file", "tmpfs"),
        ("/n/dir/", "persistent"),
        ("/n/con", "con"),
    ]);
    put(c.tree(1, "n/con"), "one\n");
    let v = c.mount(1);
    for (path, bits) in [("n/file", 0o600), ("n/dir", 0o700), ("n/con", 0o640)] {
        let at = v.at(path);
        let number = stat(&at).ino();
        chmod(&at, bits).unwrap();
        std::os::unix::fs::chown(&at, Some(3), Some(4)).unwrap();
        rustix::fs::setxattr(&at, c"trusted.x", b"y", XattrFlags::empty()).unwrap();
        for _ in 0..2 {
            let now = stat(&at);
            assert_eq!(
                (now.mode() & 0o7777, now.uid(), now.gid()),
                (bits, 3, 4),
                "{path}"
            );
            assert_eq!(now.ino(), number, "{path}");
            let mut value = [0u8; 4];
            assert_eq!(
                rustix::fs::getxattr(&at, c"trusted.x", &mut value),
                Ok(1),
                "{path}"
            );
            v.remount();
        }
    }
    assert_eq!(v.text("n/con"), "one\n");
    assert_eq!(mode(c.store(1, "n/dir")), 0o700);
    fails!(v.write("n/other", ""), EROFS);
}

#[test]
fn a_con_file_that_is_truncated_or_replaced() {
    let c = Cluster::new(&[("/etc/hosts", "con"), ("/etc/group", "con")]);
    for name in ["hosts", "group"] {
        put(c.tree(1, "etc").join(name), "one\n");
        put(c.tree(2, "etc").join(name), "two\n");
    }
    dir(c.path("litter"));
    // A litetree's directory or symlink of that name is no part of it.
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"@/tree1\",\n2,,\"@/odd\",\n3,,\"@/tree2\",\n",
    );
    dir(c.path("odd/etc/hosts"));
    link("/etc/passwd", c.path("odd/etc/group"));
    let v = c.mount(1);
    assert_eq!(v.text("etc/hosts"), "one\ntwo\n");
    assert_eq!(v.text("etc/group"), "one\ntwo\n");
    v.write("etc/hosts", "").unwrap();
    assert_eq!(stat(v.at("etc/hosts")).len(), 0);
    let file = std::fs::File::options()
        .write(true)
        .open(v.at("etc/group"))
        .unwrap();
    file.set_len(5).unwrap();
    drop(file);
    assert_eq!(v.text("etc/group"), "one\nt");
    fails!(std::fs::remove_file(v.at("etc/group")), EBUSY);
    v.remount();
    assert_eq!(v.text("etc/hosts"), "");
    v.reboot();
    assert_eq!(v.text("etc/hosts"), "one\ntwo\n");
}

#[test]
fn eager_seed_and_link_view_go_together() {
    let c = Cluster::new(&[
        ("/etc/key", "link,persistent"),
        ("/var/d/", "link,persistent"),
    ]);
    c.set("persistent_seed", "\"eager\"");
    c.set("link_view", "\"symlink\"");
    put(c.image("etc/key"), "key\n");
    put(c.image("var/d/x"), "x\n");
    let v = c.mount(1);
    assert_eq!(text(c.store(1, "etc/key")), "key\n");
    assert_eq!(text(c.store(1, "var/d/x")), "x\n");
    put(c.image("var/d/y"), "later\n");
    v.remount();
    assert_eq!(v.names("var/d"), ["x"]);
    assert_eq!(v.text("etc/key"), "key\n");
}

#[test]
fn one_node_is_mounted_once() {
    let c = Cluster::new(&[("/t/", "tmpfs")]);
    let v = c.mount(1);
    v.write("t/x", "x\n").unwrap();
    let second = dir(c.path("second"));
    let out = c.run(&["mount", &c.node(1), second.to_str().unwrap()]);
    if out.status.success() {
        rustix::mount::unmount(&second, rustix::mount::UnmountFlags::DETACH).unwrap();
        panic!("two servers wrote to one upper");
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains(v.root.to_str().unwrap()), "{said}");
    assert_eq!(v.text("t/x"), "x\n");
    assert!(!exists(second.join("t")));
}
