//! Section 7: what a view also shows; and images that liteimg has been run on (section 2).

use crate::cluster::{Cluster, dir, eventually, exists, fails, link, names, put, stat, text};

#[test]
fn compat_dirs_show_the_uppers_as_they_are() {
    let c = Cluster::new(&[
        ("/etc/a", "tmpfs"),
        ("/var/d/", "tmpfs"),
        ("/etc/p", "persistent"),
    ]);
    for path in ["etc/a", "etc/p", "var/d/x", "var/d/y"] {
        put(c.image(path), "image\n");
    }
    let v = c.mount(1);
    assert_eq!(
        v.names(".statelite"),
        [
            "litefile",
            "litetree",
            "persistent",
            "statelite.log",
            "tmpfs"
        ]
    );
    for _ in 0..2 {
        assert!(v.names(".statelite/tmpfs").is_empty());
    }
    assert_eq!(v.names(".statelite/persistent"), [c.node(1)]);
    v.write("etc/a", "written\n").unwrap();
    v.write("etc/p", "kept\n").unwrap();
    std::fs::remove_file(v.at("var/d/x")).unwrap();
    let persistent = format!(".statelite/persistent/{}/etc/p", c.node(1));
    v.comes_to_say(".statelite/tmpfs/etc/a", "written\n");
    v.comes_to_say(&persistent, "kept\n");
    // Copies leave the times of their directory as they were.
    eventually("the copies' directories", || {
        v.names(".statelite/tmpfs") == ["etc", "var"]
    });
    // A deletion shows as what it is in the store.
    eventually("the whiteout", || exists(v.at(".statelite/tmpfs/var/d/x")));
    assert!(!exists(v.at(".statelite/tmpfs/var/d/y")));
}

#[test]
fn compat_dirs_are_read_only() {
    let c = Cluster::new(&[("/", "tmpfs"), ("/etc/a", "tmpfs")]);
    put(c.image("etc/a"), "image\n");
    let v = c.mount(1);
    v.write("etc/a", "written\n").unwrap();
    eventually("the copy", || exists(v.at(".statelite/tmpfs/etc/a")));
    for path in [
        ".statelite/tmpfs/etc/a",
        ".statelite/litefile",
        ".default/etc/a",
    ] {
        fails!(v.write(path, ""), EROFS);
        assert!(std::fs::remove_file(v.at(path)).is_err(), "{path}");
    }
    for path in [
        ".statelite",
        ".statelite/tmpfs",
        ".statelite/persistent",
        ".default",
        ".default/etc",
    ] {
        fails!(std::fs::write(v.at(path).join("new"), ""), EROFS);
        assert!(
            std::fs::rename(v.at(path), v.at("moved")).is_err(),
            "{path}"
        );
    }
    assert_eq!(text(c.tmpfs(1, "etc/a")), "written\n");
}

#[test]
fn the_effective_tables_can_be_read() {
    let c = Cluster::new(&[
        ("/etc/b", "rw"),
        ("/etc/a/", "link,persistent"),
        ("/etc/c", ""),
    ]);
    c.rule_of("another-image", "/etc/not", "tmpfs");
    let v = c.mount(1);
    assert_eq!(
        v.text(".statelite/litefile"),
        "#file,options\n\"/etc/a/\",\"link,persistent\"\n\"/etc/b\",\"tmpfs\"\n\"/etc/c\",\"link\"\n"
    );
    let litetree = format!(
        "#priority,directory\n\"1\",\"{}\"\n\"2\",\"{}\"\n",
        c.path("tree1").display(),
        c.path("tree2").display()
    );
    assert_eq!(v.text(".statelite/litetree"), litetree);
}

#[test]
fn the_log_says_what_was_chosen_and_why() {
    let c = Cluster::new(&[
        ("/etc/a", "tmpfs"),
        ("/etc/b", "persistent"),
        ("/etc/c", "con"),
        ("/etc/d", "ro"),
    ]);
    put(c.image("etc/a"), "");
    put(c.tree(2, "etc/b"), "");
    put(c.tree(1, "etc/c"), "");
    put(c.tree(2, "etc/c"), "");
    let v = c.mount(1);
    let log = v.text(".statelite/statelite.log");
    let line = |path: &str| log.lines().find(|line| line.starts_with(path)).unwrap();
    assert!(line("/etc/a").contains("from image"), "{log}");
    assert!(
        line("/etc/a").contains(c.tmpfs(1, "etc/a").to_str().unwrap()),
        "{log}"
    );
    assert!(line("/etc/b").contains("from litetree 2"), "{log}");
    assert!(
        line("/etc/b").contains(c.store(1, "etc/b").to_str().unwrap()),
        "{log}"
    );
    assert!(
        line("/etc/c").contains("concatenated from litetree 1, litetree 2"),
        "{log}"
    );
    assert!(line("/etc/d").contains("nothing is written"), "{log}");
    v.write("etc/a", "").unwrap();
    eventually("the log follows", || {
        v.text(".statelite/statelite.log")
            .contains("/etc/a: tmpfs: file from tmpfs upper")
    });
}

#[test]
fn default_shows_the_images_own_version_of_every_ruled_path() {
    let c = Cluster::new(&[
        ("/etc/a", "tmpfs"),
        ("/var/d/", "persistent"),
        ("/var/d/in/", "tmpfs"),
    ]);
    put(c.image("etc/a"), "image\n");
    put(c.image("etc/b"), "no rule\n");
    put(c.tree(1, "etc/a"), "tree\n");
    put(c.image("var/d/x"), "image\n");
    put(c.image("var/d/in/y"), "image\n");
    put(c.tree(1, "var/d/z"), "tree\n");
    let v = c.mount(1);
    v.write("etc/a", "written\n").unwrap();
    std::fs::remove_file(v.at("var/d/x")).unwrap();
    assert_eq!(v.text(".default/etc/a"), "image\n");
    assert_eq!(v.text(".default/var/d/x"), "image\n");
    assert_eq!(v.text(".default/var/d/in/y"), "image\n");
    assert_eq!(v.names(".default"), ["etc", "var"]);
    assert_eq!(v.names(".default/etc"), ["a"]);
    assert_eq!(v.names(".default/var/d"), ["in", "x"]);
}

#[test]
fn without_compat_dirs_there_are_none() {
    let c = Cluster::new(&[("/", "tmpfs"), ("/etc/a", "tmpfs")]);
    c.set("compat_dirs", "false");
    put(c.image("etc/a"), "image\n");
    let v = c.mount(1);
    assert_eq!(v.names(""), ["etc"]);
    assert!(!exists(v.at(".statelite")) && !exists(v.at(".default")));
    // The names are the node's then.
    std::fs::create_dir(v.at(".statelite")).unwrap();
    v.write(".statelite/mine", "").unwrap();
}

/// What liteimg leaves of an image: chains of symlinks into `.statelite/tmpfs`, and `.default`.
fn liteimg(c: &Cluster) {
    put(c.image(".default/etc/ntp.conf"), "ntp of the image\n");
    link(
        "../../../.default/etc/ntp.conf",
        c.image(".statelite/tmpfs/etc/ntp.conf"),
    );
    link("../.statelite/tmpfs/etc/ntp.conf", c.image("etc/ntp.conf"));
    put(c.image(".default/var/lib/app/db"), "db of the image\n");
    link(
        "../../../../.default/var/lib/app",
        c.image(".statelite/tmpfs/var/lib/app"),
    );
    link("../../.statelite/tmpfs/var/lib/app", c.image("var/lib/app"));
    put(c.image("etc/plain"), "plain\n");
    dir(c.image(".statelite/persistent"));
}

#[test]
fn a_liteimged_image_works_without_rules() {
    let c = Cluster::new(&[("/etc/plain", "tmpfs")]);
    liteimg(&c);
    let v = c.mount(1);
    assert_eq!(v.text("etc/ntp.conf"), "ntp of the image\n");
    assert!(stat(v.at("etc/ntp.conf")).is_file());
    assert_eq!(v.names("var/lib/app"), ["db"]);
    assert_eq!(v.text("var/lib/app/db"), "db of the image\n");
    fails!(v.write("etc/ntp.conf", ""), EROFS);
    assert_eq!(v.names("etc"), ["mtab", "ntp.conf", "plain"]);
}

#[test]
fn a_liteimged_image_works_with_rules() {
    for (link_view, directory) in [("file", true), ("symlink", false)] {
        let c = Cluster::new(&[
            ("/etc/ntp.conf", "link"),
            ("/var/lib/app/", "persistent"),
            ("/var/lib/app/sub/", "tmpfs"),
        ]);
        c.set("link_view", &format!("\"{link_view}\""));
        liteimg(&c);
        put(c.image(".default/var/lib/app/sub/x"), "x\n");
        let v = c.mount(1);
        assert_eq!(v.text("etc/ntp.conf"), "ntp of the image\n", "{link_view}");
        assert_eq!(stat(v.at("etc/ntp.conf")).is_file(), directory);
        assert_eq!(v.names("var/lib/app"), ["db", "sub"]);
        assert_eq!(v.text("var/lib/app/db"), "db of the image\n");
        assert_eq!(v.text("var/lib/app/sub/x"), "x\n");
        v.write("etc/ntp.conf", "written\n").unwrap();
        v.write("var/lib/app/db", "written\n").unwrap();
        v.write("var/lib/app/sub/x", "written\n").unwrap();
        v.write("var/lib/app/new", "").unwrap();
        assert_eq!(v.text("etc/ntp.conf"), "written\n");
        assert_eq!(text(c.store(1, "var/lib/app/db")), "written\n");
        assert_eq!(text(c.tmpfs(1, "var/lib/app/sub/x")), "written\n");
        assert_eq!(v.text(".default/etc/ntp.conf"), "ntp of the image\n");
        v.reboot();
        assert_eq!(v.text("etc/ntp.conf"), "ntp of the image\n");
        assert_eq!(v.text("var/lib/app/db"), "written\n");
        assert_eq!(v.text("var/lib/app/sub/x"), "x\n");
        assert_eq!(v.names("var/lib/app"), ["db", "new", "sub"]);
        assert_eq!(names(c.image(".default/var/lib/app")), ["db", "sub"]);
        assert_eq!(text(c.image(".default/etc/ntp.conf")), "ntp of the image\n");
    }
}

#[test]
fn rules_below_what_liteimg_moved_away_work() {
    // liteimg was run for /var/lib/app only; the rules now say something else.
    let c = Cluster::new(&[("/var/", "tmpfs"), ("/var/lib/app/db", "persistent")]);
    liteimg(&c);
    let v = c.mount(1);
    assert_eq!(v.text("var/lib/app/db"), "db of the image\n");
    v.write("var/lib/app/db", "written\n").unwrap();
    v.write("var/lib/app/new", "new\n").unwrap();
    v.reboot();
    assert_eq!(v.text("var/lib/app/db"), "written\n");
    assert_eq!(v.names("var/lib/app"), ["db"]);
}
