//! Section 2: the options, their synonyms, and where what is written goes.

use std::os::unix::fs::MetadataExt;

use crate::cluster::{
    Cluster, chmod, dir, eventually, exists, fails, link, mode, names, put, stat, text,
};

/// Writes to a file and a directory under an option, and looks where the writes landed and what a
/// reboot does to them.
fn written(options: &str, upper: impl Fn(&Cluster, &str) -> std::path::PathBuf, kept: bool) {
    let c = Cluster::new(&[("/etc/conf", options), ("/var/lib/data/", options)]);
    put(c.image("etc/conf"), "image\n");
    put(c.tree(2, "etc/conf"), "tree 2\n");
    put(c.image("var/lib/data/old"), "old\n");
    put(c.tree(1, "var/lib/data/from-tree"), "tree 1\n");
    let v = c.mount(1);
    assert_eq!(v.text("etc/conf"), "tree 2\n", "{options}");
    assert_eq!(v.names("var/lib/data"), ["from-tree", "old"]);
    assert!(!exists(upper(&c, "etc/conf")), "reading copies nothing");

    v.write("etc/conf", "written\n").unwrap();
    v.write("var/lib/data/old", "written\n").unwrap();
    v.write("var/lib/data/new", "new\n").unwrap();
    std::fs::remove_file(v.at("var/lib/data/from-tree")).unwrap();
    for view in [1, 2] {
        assert_eq!(v.text("etc/conf"), "written\n");
        assert_eq!(v.text("var/lib/data/old"), "written\n");
        assert_eq!(v.names("var/lib/data"), ["new", "old"]);
        if view == 1 {
            v.remount();
        }
    }
    assert_eq!(text(upper(&c, "etc/conf")), "written\n", "{options}");
    assert_eq!(text(upper(&c, "var/lib/data/new")), "new\n");
    assert_eq!(text(c.image("etc/conf")), "image\n");
    assert_eq!(text(c.tree(2, "etc/conf")), "tree 2\n");
    assert_eq!(names(c.image("var/lib/data")), ["old"]);

    v.reboot();
    if kept {
        assert_eq!(v.text("etc/conf"), "written\n", "{options}");
        assert_eq!(v.names("var/lib/data"), ["new", "old"]);
    } else {
        assert_eq!(v.text("etc/conf"), "tree 2\n", "{options}");
        assert_eq!(v.text("var/lib/data/old"), "old\n");
        assert_eq!(v.names("var/lib/data"), ["from-tree", "old"]);
    }
}

#[test]
fn tmpfs_and_its_synonyms_are_written_to_tmpfs_and_forgotten() {
    for options in ["tmpfs", "rw", "tempfs"] {
        written(options, |c, path| c.tmpfs(1, path), false);
    }
}

#[test]
fn link_rules_are_as_tmpfs() {
    for options in ["link", "", "tmpfs,rw"] {
        written(options, |c, path| c.tmpfs(1, path), false);
    }
}

#[test]
fn persistent_is_written_to_the_store_and_kept() {
    for options in ["persistent", "link,persistent"] {
        written(options, |c, path| c.store(1, path), true);
    }
}

#[test]
fn localdisk_is_written_to_the_local_disk_and_kept() {
    written("localdisk", |c, path| c.disk(1, path), true);
}

#[test]
fn con_concatenates_every_litetree_in_order() {
    for options in ["con", "link,con"] {
        let c = Cluster::new(&[("/etc/hosts", options)]);
        put(c.image("etc/hosts"), "image\n");
        let v = c.mount(1);
        // No litetree has it: the image's.
        assert_eq!(v.text("etc/hosts"), "image\n", "{options}");
        put(c.tree(2, "etc/hosts"), "two\n");
        v.comes_to_say("etc/hosts", "two\n");
        put(c.tree(1, "etc/hosts"), "one\n");
        chmod(c.tree(1, "etc/hosts"), 0o600).unwrap();
        v.comes_to_say("etc/hosts", "one\ntwo\n");
        eventually("the mode of a con file", || {
            mode(v.at("etc/hosts")) == 0o644
        });
        assert_eq!(stat(v.at("etc/hosts")).len(), 8);
        // Live: a part changes.
        put(c.tree(2, "etc/hosts"), "second\n");
        v.comes_to_say("etc/hosts", "one\nsecond\n");
    }
}

#[test]
fn a_written_con_file_is_a_copy_until_the_next_boot() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    put(c.tree(1, "etc/hosts"), "one\n");
    put(c.tree(2, "etc/hosts"), "two\n");
    let v = c.mount(1);
    let mut file = std::fs::File::options()
        .append(true)
        .open(v.at("etc/hosts"))
        .unwrap();
    std::io::Write::write_all(&mut file, b"mine\n").unwrap();
    drop(file);
    assert_eq!(v.text("etc/hosts"), "one\ntwo\nmine\n");
    assert_eq!(text(c.tmpfs(1, "etc/hosts")), "one\ntwo\nmine\n");
    assert_eq!(mode(c.tmpfs(1, "etc/hosts")), 0o644);
    put(c.tree(1, "etc/hosts"), "changed\n");
    v.remount();
    assert_eq!(v.text("etc/hosts"), "one\ntwo\nmine\n");
    v.reboot();
    assert_eq!(v.text("etc/hosts"), "changed\ntwo\n");
}

#[test]
fn a_con_file_that_is_too_large_for_memory_is_refused() {
    let c = Cluster::new(&[("/etc/hosts", "con")]);
    put(c.tree(1, "etc/hosts"), "one\n");
    put(c.tree(2, "etc/hosts"), "");
    let sparse = std::fs::File::options()
        .write(true)
        .open(c.tree(2, "etc/hosts"));
    sparse.unwrap().set_len(1 << 40).unwrap();
    let v = c.mount(1);
    fails!(std::fs::read(v.at("etc/hosts")), EFBIG);
    assert_eq!(stat(v.at("etc/hosts")).len(), (1 << 40) + 4);
    put(c.tree(2, "etc/hosts"), "two\n");
    v.comes_to_say("etc/hosts", "one\ntwo\n");
}

#[test]
fn con_on_a_directory_is_refused() {
    let c = Cluster::new(&[("/etc/d/", "con"), ("/etc/e", "tmpfs")]);
    put(c.image("etc/d/x"), "");
    assert!(c.check().contains("con is for files only"), "{}", c.check());
    let v = c.mount(1);
    fails!(v.write("etc/d/x", ""), EROFS);
    v.write("etc/e", "").unwrap();
}

#[test]
fn ro_is_read_only_and_live() {
    for options in ["ro", "link,ro"] {
        let c = Cluster::new(&[("/etc/keys/", options), ("/etc/motd", options)]);
        put(c.image("etc/motd"), "image\n");
        put(c.image("etc/keys/of-image"), "image\n");
        put(c.tree(2, "etc/keys/a"), "two\n");
        let v = c.mount(1);
        assert_eq!(v.text("etc/motd"), "image\n", "{options}");
        assert_eq!(v.text("etc/keys/a"), "two\n");
        put(c.tree(1, "etc/motd"), "one\n");
        put(c.tree(1, "etc/keys/a"), "one\n");
        v.comes_to_say("etc/motd", "one\n");
        v.comes_to_say("etc/keys/a", "one\n");
        assert_eq!(v.names("etc/keys"), ["a", "of-image"]);

        let (file, key) = (v.at("etc/motd"), v.at("etc/keys/a"));
        for path in [&file, &key] {
            fails!(std::fs::write(path, ""), EROFS);
            fails!(std::fs::File::options().append(true).open(path), EROFS);
            fails!(chmod(path, 0o600), EROFS);
            fails!(std::os::unix::fs::chown(path, Some(1), None), EROFS);
        }
        fails!(std::fs::remove_file(&key), EROFS);
        fails!(std::fs::rename(&key, v.at("etc/keys/b")), EROFS);
        fails!(v.write("etc/keys/new", ""), EROFS);
        fails!(std::fs::create_dir(v.at("etc/keys/new")), EROFS);
        assert_eq!(v.text("etc/motd"), "one\n");
    }
}

#[test]
fn ro_that_only_the_image_has_is_warned_of() {
    let c = Cluster::new(&[("/etc/motd", "ro"), ("/etc/issue", "ro")]);
    put(c.image("etc/motd"), "image\n");
    put(c.tree(1, "etc/issue"), "tree\n");
    let v = c.mount(1);
    assert_eq!(v.text("etc/motd"), "image\n");
    let log = v.text(".statelite/statelite.log");
    let line = |path: &str| log.lines().find(|line| line.starts_with(path)).unwrap();
    assert!(line("/etc/motd").contains("warning"), "{log}");
    assert!(!line("/etc/issue").contains("warning"), "{log}");
    assert!(c.explain(1, "/etc/motd").contains("warning"));
}

#[test]
fn a_ruled_path_that_exists_nowhere_is_empty_and_can_be_written() {
    let c = Cluster::new(&[
        ("/etc/sysconfig/net", "tmpfs"),
        ("/var/spool/jobs/", "persistent"),
        ("/srv/a/b/c", "localdisk"),
        ("/srv/ro/x", "ro"),
        ("/srv/con", "con"),
    ]);
    let v = c.mount(1);
    for (path, is_dir) in [
        ("etc", true),
        ("etc/sysconfig", true),
        ("etc/sysconfig/net", false),
        ("var/spool", true),
        ("var/spool/jobs", true),
        ("srv/a/b", true),
        ("srv/a/b/c", false),
        ("srv/ro/x", false),
        ("srv/con", false),
    ] {
        let found = stat(v.at(path));
        assert_eq!(found.is_dir(), is_dir, "{path}");
        let expected = if is_dir { 0o755 } else { 0o644 };
        assert_eq!(found.mode() & 0o7777, expected, "{path}");
        assert_eq!((found.uid(), found.gid()), (0, 0), "{path}");
    }
    assert_eq!(v.names(""), [".default", ".statelite", "etc", "srv", "var"]);
    assert_eq!(v.names("srv"), ["a", "con", "ro"]);
    assert_eq!(v.names("srv/a"), ["b"]);
    assert_eq!(v.text("etc/sysconfig/net"), "");
    assert!(v.names("var/spool/jobs").is_empty());
    fails!(v.write("etc/sysconfig/other", ""), EROFS);
    fails!(v.write("srv/ro/x", ""), EROFS);

    v.write("etc/sysconfig/net", "up\n").unwrap();
    v.write("var/spool/jobs/1", "job\n").unwrap();
    v.write("srv/a/b/c", "c\n").unwrap();
    v.write("srv/con", "con\n").unwrap();
    v.remount();
    assert_eq!(v.text("etc/sysconfig/net"), "up\n");
    assert_eq!(v.text("var/spool/jobs/1"), "job\n");
    assert_eq!(v.text("srv/a/b/c"), "c\n");
    assert_eq!(v.text("srv/con"), "con\n");
    assert_eq!(mode(c.store(1, "var/spool")), 0o755);
    assert!(!exists(c.image("etc")) && !exists(c.image("srv")));
}

#[test]
fn link_rules_show_the_real_file() {
    let c = Cluster::new(&[("/etc/ntp.conf", "link"), ("/etc/key", "link,persistent")]);
    put(c.image("etc/ntp.conf"), "image\n");
    put(c.image("etc/key"), "key\n");
    chmod(c.image("etc/key"), 0o640).unwrap();
    std::os::unix::fs::chown(c.image("etc/key"), Some(7), Some(8)).unwrap();
    let v = c.mount(1);
    assert!(stat(v.at("etc/ntp.conf")).is_file());
    let key = stat(v.at("etc/key"));
    assert_eq!((key.mode() & 0o7777, key.uid(), key.gid()), (0o640, 7, 8));
}

#[test]
fn link_view_shows_the_chain_of_symlinks() {
    let c = Cluster::new(&[
        ("/etc/ntp.conf", "link"),
        ("/etc/ssh/key", "link,persistent"),
        ("/etc/motd", "link,ro"),
        ("/etc/hosts", "link,con"),
        ("/var/log/", "link"),
        ("/etc/plain", "tmpfs"),
    ]);
    c.set("link_view", "\"symlink\"");
    put(c.image("etc/ntp.conf"), "image\n");
    put(c.image("etc/ssh/key"), "key\n");
    put(c.image("etc/motd"), "motd\n");
    put(c.tree(1, "etc/hosts"), "one\n");
    put(c.tree(2, "etc/hosts"), "two\n");
    put(c.image("var/log/messages"), "boot\n");
    put(c.image("etc/plain"), "plain\n");
    let v = c.mount(1);
    let target = |path: &str| {
        let target = std::fs::read_link(v.at(path)).unwrap();
        target.into_os_string().into_string().unwrap()
    };
    assert_eq!(target("etc/ntp.conf"), "../.statelite/tmpfs/etc/ntp.conf");
    assert_eq!(target("etc/motd"), "../.statelite/tmpfs/etc/motd");
    assert_eq!(target("var/log"), "../.statelite/tmpfs/var/log");
    assert_eq!(target("etc/ssh/key"), "../../.statelite/tmpfs/etc/ssh/key");
    let second = format!("../../../persistent/{}/etc/ssh/key", c.node(1));
    assert_eq!(target(".statelite/tmpfs/etc/ssh/key"), second);
    assert!(stat(v.at("etc/plain")).is_file());

    assert_eq!(v.text("etc/ntp.conf"), "image\n");
    assert_eq!(v.text("etc/ssh/key"), "key\n");
    assert_eq!(v.text("etc/hosts"), "one\ntwo\n");
    assert_eq!(v.names("var/log"), ["messages"]);
    v.write("etc/ntp.conf", "written\n").unwrap();
    v.write("etc/ssh/key", "written\n").unwrap();
    v.write("var/log/new", "new\n").unwrap();
    fails!(v.write("etc/motd", ""), EROFS);
    for round in [1, 2] {
        assert_eq!(v.text("etc/ntp.conf"), "written\n", "{round}");
        assert_eq!(v.text("etc/ssh/key"), "written\n");
        assert_eq!(v.names("var/log"), ["messages", "new"]);
        assert_eq!(target("etc/ntp.conf"), "../.statelite/tmpfs/etc/ntp.conf");
        v.remount();
    }
    assert_eq!(text(c.tmpfs(1, "etc/ntp.conf")), "written\n");
    assert_eq!(text(c.store(1, "etc/ssh/key")), "written\n");
    v.reboot();
    assert_eq!(v.text("etc/ntp.conf"), "image\n");
    assert_eq!(v.text("etc/ssh/key"), "written\n");
    assert_eq!(v.names("var/log"), ["messages"]);
}

#[test]
fn rules_below_a_symlink_of_link_view_govern() {
    for compat_dirs in ["true", "false"] {
        let c = Cluster::new(&[
            ("/etc/", "link"),
            ("/etc/keep", "persistent"),
            ("/etc/ssh/", "link,persistent"),
            ("/p/", "link,persistent"),
            ("/p/scratch/", "link"),
            ("/p/ro", "ro"),
        ]);
        c.set("link_view", "\"symlink\"");
        c.set("compat_dirs", compat_dirs);
        for path in [
            "etc/f",
            "etc/keep",
            "etc/ssh/key",
            "p/f",
            "p/scratch/f",
            "p/ro",
        ] {
            put(c.image(path), "image\n");
        }
        let v = c.mount(1);
        assert_eq!(v.names("etc"), ["f", "keep", "mtab", "ssh"]);
        assert!(stat(v.at("etc/mtab")).is_symlink());
        assert_eq!(v.names("p"), ["f", "ro", "scratch"]);
        fails!(v.write("p/ro", ""), EROFS);
        for path in ["etc/f", "etc/keep", "etc/ssh/key", "p/f", "p/scratch/f"] {
            assert_eq!(v.text(path), "image\n");
            v.write(path, "written\n").unwrap();
        }
        assert_eq!(text(c.tmpfs(1, "etc/f")), "written\n");
        assert_eq!(text(c.store(1, "etc/keep")), "written\n");
        assert_eq!(text(c.store(1, "etc/ssh/key")), "written\n");
        assert_eq!(text(c.store(1, "p/f")), "written\n");
        assert_eq!(text(c.tmpfs(1, "p/scratch/f")), "written\n");
        v.reboot();
        for (path, contents) in [
            ("etc/f", "image\n"),
            ("etc/keep", "written\n"),
            ("etc/ssh/key", "written\n"),
            ("p/f", "written\n"),
            ("p/scratch/f", "image\n"),
        ] {
            assert_eq!(v.text(path), contents, "{path}");
        }
    }
}

#[test]
fn a_rule_through_a_symlink_governs_what_it_leads_to() {
    let c = Cluster::new(&[("/bin/ping", "tmpfs"), ("/etc/alt/conf", "tmpfs")]);
    put(c.image("usr/bin/ping"), "image\n");
    link("usr/bin", c.image("bin"));
    // An absolute symlink is the image's own, never the server's.
    put(c.image("opt/real/conf"), "conf\n");
    link("/opt/real", c.image("etc/alt"));
    let v = c.mount(1);
    v.write("bin/ping", "written\n").unwrap();
    assert_eq!(v.text("usr/bin/ping"), "written\n");
    assert_eq!(text(c.tmpfs(1, "usr/bin/ping")), "written\n");
    assert!(stat(v.at("bin")).is_symlink());
    v.write("opt/real/conf", "written\n").unwrap();
    assert_eq!(text(c.tmpfs(1, "opt/real/conf")), "written\n");
    assert!(c.explain(1, "/bin/ping").contains("/usr/bin/ping"));
}

#[test]
fn two_rules_of_one_canonical_path_are_reported() {
    let c = Cluster::new(&[("/bin/ping", "tmpfs"), ("/usr/bin/ping", "persistent")]);
    put(c.image("usr/bin/ping"), "image\n");
    link("usr/bin", c.image("bin"));
    let said = c.check();
    assert!(said.contains("/usr/bin/ping in the image"), "{said}");
    c.mount(1).write("bin/ping", "").unwrap();
    assert!(exists(c.tmpfs(1, "usr/bin/ping")));
}

#[test]
fn the_last_symlink_is_followed_for_a_directory_and_not_for_a_file() {
    let c = Cluster::new(&[("/var/run/", "tmpfs"), ("/etc/localtime", "tmpfs")]);
    dir(c.image("run"));
    dir(c.image("var"));
    link("../run", c.image("var/run"));
    put(c.image("usr/share/zoneinfo/UTC"), "UTC\n");
    link("../usr/share/zoneinfo/UTC", c.image("etc/localtime"));
    let v = c.mount(1);
    assert!(stat(v.at("var/run")).is_symlink());
    v.write("run/pid", "1\n").unwrap();
    assert_eq!(v.text("var/run/pid"), "1\n");
    assert_eq!(text(c.tmpfs(1, "run/pid")), "1\n");

    assert_eq!(v.text("etc/localtime"), "UTC\n");
    fails!(v.write("etc/localtime", ""), EROFS); // through the symlink, to the image
    fails!(v.write("usr/share/zoneinfo/UTC", ""), EROFS);
    // The symlink itself is what the rule names: its owner can be changed, its name can't go.
    std::os::unix::fs::lchown(v.at("etc/localtime"), Some(3), None).unwrap();
    assert_eq!(stat(v.at("etc/localtime")).uid(), 3);
    assert!(stat(c.tmpfs(1, "etc/localtime")).is_symlink());
}
