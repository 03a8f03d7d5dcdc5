//! Zones of every kind, litetrees, what only the view has, and what shows layers once more: through
//! forgetting, new mounts, a reset and a reload.

use crate::cluster::{Cluster, put};
use crate::daemon::Daemon;
use crate::handle::{Handle, Kept, assert_stale};
use crate::harness::drop_caches;

fn cluster() -> Cluster {
    let c = Cluster::new(&[
        ("/etc/", "tmpfs"),
        ("/etc/conf.d/", "persistent"),
        ("/etc/conf.d/local/", "localdisk"),
        ("/etc/conf.d/local/tmp/", "tmpfs"),
        ("/etc/hosts", "con"),
        ("/var/log/", "persistent"),
        ("/srv/nowhere/dir/", "tmpfs"),
        ("/srv/nowhere/file", "persistent"),
        ("/usr/share/ro/", "ro"),
    ]);
    for path in [
        "bin/sh",
        "etc/passwd",
        "etc/conf.d/image",
        "etc/conf.d/local/image",
        "etc/conf.d/local/tmp/image",
        "etc/hosts",
        "var/log/messages",
        "usr/share/ro/image",
    ] {
        put(c.image(path), path);
    }
    put(c.tree(1, "etc/tree"), "tree 1");
    put(c.tree(2, "etc/tree"), "tree 2");
    put(c.tree(2, "etc/conf.d/tree"), "tree 2");
    put(c.tree(1, "etc/hosts"), "tree 1\n");
    put(c.tree(2, "etc/hosts"), "tree 2\n");
    put(c.tree(1, "usr/share/ro/tree"), "tree 1");
    c
}

const BELOW: [&str; 31] = [
    "bin",
    "bin/sh",
    "etc",
    "etc/passwd",
    "etc/tree",
    "etc/conf.d",
    "etc/conf.d/image",
    "etc/conf.d/tree",
    "etc/conf.d/local",
    "etc/conf.d/local/image",
    "etc/conf.d/local/tmp",
    "etc/conf.d/local/tmp/image",
    "etc/hosts",
    "etc/mtab",
    "var/log",
    "var/log/messages",
    "srv",
    "srv/nowhere",
    "srv/nowhere/dir",
    "srv/nowhere/file",
    "usr/share/ro",
    "usr/share/ro/image",
    "usr/share/ro/tree",
    ".statelite",
    ".statelite/litefile",
    ".statelite/litetree",
    ".statelite/tmpfs",
    ".default",
    ".default/etc",
    ".default/etc/passwd",
    ".default/var/log/messages",
];

/// Files of a node in zones that last, and in those that don't.
const LASTING: [&str; 4] = [
    "etc/conf.d/own",
    "etc/conf.d/local/own",
    "var/log/own/deep/er",
    "var/log/own",
];
const PASSING: [&str; 3] = ["etc/own", "etc/conf.d/local/tmp/own", "srv/nowhere/dir/own"];

fn make(v: &std::path::Path) {
    for path in LASTING.iter().chain(&PASSING) {
        if !path.ends_with("log/own") {
            put(v.join(path), path);
        }
    }
    for path in ["etc/passwd", "etc/conf.d/image", "etc/conf.d/local/image"] {
        put(v.join(path), "changed");
    }
    put(v.join("srv/nowhere/file"), "written");
}

fn raw(c: &Cluster) -> [String; 3] {
    let node = c.node(1);
    [
        ".statelite/tmpfs/etc/own".into(),
        ".statelite/tmpfs/etc".into(),
        format!(".statelite/persistent/{node}/var/log/own/deep/er"),
    ]
}

#[test]
fn zones_of_every_kind() {
    through_everything("auto");
}

#[test]
fn deletions_kept_as_files() {
    through_everything("file");
}

fn through_everything(whiteouts: &str) {
    let c = cluster();
    c.set("whiteouts", &format!("{whiteouts:?}"));
    let v = c.mount(1);
    let mut kept = Kept::of(&v.root, &BELOW);
    drop_caches();
    kept.check(&v.root, "caches dropped");
    v.remount();
    kept.check(&v.root, "mounted again");
    make(&v.root);
    for path in LASTING.iter().chain(&PASSING) {
        kept.add(&v.root, path);
    }
    for path in raw(&c) {
        kept.add(&v.root, &path);
    }
    drop_caches();
    kept.check(&v.root, "changed, caches dropped");
    let gone = ["etc/tree", "etc/own"].map(|path| (path, Handle::of(v.at(path))));
    for (path, _) in &gone {
        std::fs::remove_file(v.at(path)).unwrap();
        kept.forget(path);
    }
    kept.forget(&raw(&c)[0]);
    v.remount();
    kept.check(&v.root, "changed, mounted again");
    for (path, handle) in gone {
        assert_stale(&handle, &v.root, path);
    }
}

#[test]
fn after_a_reset_what_lasts_is_there() {
    let c = cluster();
    let v = c.mount(1);
    make(&v.root);
    let mut kept = Kept::of(&v.root, &BELOW);
    let gone = PASSING.map(|path| Handle::of(v.at(path)));
    for path in LASTING {
        kept.add(&v.root, path);
    }
    v.reboot();
    kept.check(&v.root, "reset");
    make(&v.root);
    for handle in &gone {
        assert_stale(handle, &v.root, "reset");
    }
    v.remount();
    kept.check(&v.root, "reset, and mounted again");
    for handle in &gone {
        assert_stale(handle, &v.root, "reset, and mounted again");
    }
}

#[test]
fn under_a_rule_of_the_root_and_chains_of_symlinks() {
    for setting in ["\"none\"", "\"symlink\""] {
        let c = Cluster::new(&[
            ("/", "tmpfs"),
            ("/etc/a", "link"),
            ("/etc/b", "link,persistent"),
            ("/opt/", "link,persistent"),
        ]);
        if setting == "\"symlink\"" {
            c.set("link_view", setting);
        }
        for path in ["etc/a", "etc/b", "opt/image", "opt/dir/image", "usr/bin/x"] {
            put(c.image(path), path);
        }
        let v = c.mount(1);
        put(v.at("opt/own"), "own");
        put(v.at("etc/b"), "written");
        let through = format!(".statelite/persistent/{}/opt", c.node(1));
        let below = [format!("{through}/own"), format!("{through}/dir/image")];
        let mut paths = vec![
            "etc/a",
            "etc/b",
            "opt",
            "usr/bin/x",
            ".default/opt/dir/image",
            ".statelite/tmpfs",
        ];
        match setting {
            "\"symlink\"" => paths.extend(below.iter().map(String::as_str)),
            _ => paths.extend(["opt/own", "opt/dir/image", "opt/dir"]),
        }
        let kept = Kept::of(&v.root, &paths);
        drop_caches();
        kept.check(&v.root, "caches dropped");
        v.remount();
        kept.check(&v.root, "mounted again");
    }
}

#[test]
fn an_image_that_liteimg_rewrote() {
    let c = Cluster::new(&[("/etc/ntp.conf", "tmpfs")]);
    put(c.image(".default/etc/ntp.conf"), "ntp");
    put(c.image(".default/opt/dir/file"), "file");
    let chain = |path: &str, up: &str| {
        let first = format!("{up}.statelite/tmpfs/{path}");
        crate::cluster::link(&first, c.image(path));
        let second = format!("{}{up}.default/{path}", "../../");
        crate::cluster::link(&second, c.image(format!(".statelite/tmpfs/{path}")));
    };
    chain("etc/ntp.conf", "../");
    chain("opt/dir", "../");
    let v = c.mount(1);
    let paths = [
        "etc/ntp.conf",
        "opt/dir",
        "opt/dir/file",
        ".default/etc/ntp.conf",
    ];
    let kept = Kept::of(&v.root, &paths);
    v.remount();
    kept.check(&v.root, "mounted again");
}

#[test]
fn a_daemon_that_reloads_and_starts_again() {
    let c = cluster();
    c.set("persistent_seed", "\"lazy\"");
    let d = Daemon::start(&c);
    let root = d.root(1);
    make(&root);
    let mut kept = Kept::of(&root, &BELOW);
    for path in LASTING.iter().chain(&PASSING) {
        kept.add(&root, path);
    }
    let hidden = Handle::of(root.join("etc/own"));
    // The rules below stay, and so do the stores, and what is open.
    let open = [
        "etc/passwd",
        "etc/hosts",
        "srv/nowhere/file",
        "usr/share/ro/tree",
        "bin/sh",
    ];
    let open = open.map(|path| std::fs::File::open(root.join(path)).unwrap());
    c.rule("/bin/", "tmpfs");
    d.reload();
    drop_caches();
    kept.check(&root, "a rule more");
    drop((open, d));
    let d = Daemon::start(&c);
    kept.check(&root, "a new daemon");
    // What no rule shows any more is gone until one does.
    let rows: &str = "#image,file,options\nALL,/var/log/,persistent\n";
    c.table("litefile", rows);
    d.reload();
    drop_caches();
    assert_stale(&hidden, &root, "no rule shows it");
    drop(d);
    c.table("litefile", &format!("{rows}ALL,/etc/,tmpfs\n"));
    let _d = Daemon::start(&c);
    let shown = hidden.open(&root).unwrap();
    assert_eq!(
        crate::handle::Object::of(&shown),
        crate::handle::Object::at(root.join("etc/own"))
    );
}
