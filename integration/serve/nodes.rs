//! What is done to single nodes of a daemon that runs.

use rustix::fs::statvfs;

use crate::cluster::{Cluster, dir, eventually, exists, fails, put, text};
use crate::daemon::{Daemon, json};

#[test]
fn nodes_are_unmounted_and_mounted_while_others_go_on() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    let other = std::fs::File::open(d.at(2, "etc/x")).unwrap();
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    let node = c.node(1);
    let out = c.run(&["umount", &node]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(d.mounts().len(), 1);
    assert_eq!(d.status_of(1)["state"], "unmounted");
    assert_eq!(c.run(&["status"]).status.code(), Some(4));
    assert!(c.says(&["umount", &node]).contains("was not mounted"));
    // It stays so over a reload.
    d.reload();
    assert_eq!(d.status_of(1)["state"], "unmounted");
    let out = c.run(&["mount", &node]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    assert!(c.says(&["mount", &node]).contains("was mounted"));
    assert_eq!(d.status_of(2)["open"], 1);
    drop(other);
}

#[test]
fn a_busy_root_is_unmounted_only_lazily() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    let out = c.run(&["umount", &c.node(1)]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("is in use"),
        "{out:?}"
    );
    assert_eq!(d.status_of(1)["state"], "serving");
    let out = c.run(&["umount", "--lazy", &c.node(1)]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(d.mounts().len(), 1);
    assert_eq!(d.status_of(1)["detached"], 1);
    assert_eq!(
        std::io::read_to_string(&held).unwrap(),
        "mine\n",
        "its user goes on"
    );
    assert!(c.run(&["mount", &c.node(1)]).status.success());
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    drop(held);
    eventually("the detached one ends", || d.status_of(1)["detached"] == 0);
    assert_eq!(d.status_of(1)["state"], "serving");
}

#[test]
fn umount_of_another_program_is_noticed() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    rustix::mount::unmount(d.root(1), rustix::mount::UnmountFlags::empty()).unwrap();
    let status = d.comes_to_be(1, "unmounted");
    assert!(
        status["reason"]
            .as_str()
            .unwrap()
            .contains("another program"),
        "{status}"
    );
    assert!(c.run(&["mount", &c.node(1)]).status.success());
    assert_eq!(d.mounts().len(), 2);
}

#[test]
fn what_is_mounted_over_a_root_is_left_alone() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    let over = crate::cluster::Tmpfs::on(&d.root(1));
    let out = c.run(&["umount", "--lazy", &c.node(1)]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert_eq!(d.mounts().len(), 3);
    drop(over);
    assert!(c.run(&["umount", &c.node(1)]).status.success());
}

#[test]
fn a_served_node_is_reset_by_force_and_goes_on() {
    let c = Cluster::new(&[
        ("/etc/x", "tmpfs"),
        ("/etc/unwritten", "tmpfs"),
        ("/home/", "persistent"),
    ]);
    put(c.image("etc/x"), "image\n");
    put(c.image("etc/unwritten"), "image\n");
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    std::fs::write(d.at(1, "home/y"), "kept\n").unwrap();
    let out = c.run(&["reset", &c.node(1)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("--force"),
        "{out:?}"
    );
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    // A rule's file that no node has written is read by the daemon; the kernel would go on by itself.
    let mut held = std::fs::File::open(d.at(1, "etc/unwritten")).unwrap();
    let out = c.run(&["reset", "--force", &c.node(1)]);
    assert!(out.status.success(), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stdout).contains("emptied"),
        "{out:?}"
    );
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    assert_eq!(text(d.at(1, "home/y")), "kept\n");
    // As in a reboot, what was open is gone.
    fails!(std::io::Read::read(&mut held, &mut [0; 8]), ENOTCONN);
    assert_eq!(d.status_of(1)["state"], "serving");
    assert_eq!(d.status_of(1)["detached"], 0);
    // One that is unmounted needs no force.
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    let out = json(&c.run(&["--json", "reset", &c.node(1)]));
    assert_eq!(out[0]["reset"], true, "{out}");
    assert!(!exists(c.tmpfs(1, "etc/x")));
    assert_eq!(d.status_of(1)["state"], "unmounted");
}

#[test]
fn a_node_without_its_image_fails_alone_and_heals() {
    let c = Cluster::new(&[]);
    put(c.image("etc/x"), "image\n");
    c.table(
        "nodetype",
        "#node,provmethod\n%1,el9-x86_64-statelite-compute\n%2,late\n",
    );
    c.table(
        "osimage",
        "#imagename,provmethod\nel9-x86_64-statelite-compute,statelite\nlate,statelite\n",
    );
    c.table(
        "linuximage",
        "#imagename,rootimgdir\nel9-x86_64-statelite-compute,@/image\nlate,@/late\n",
    );
    let d = Daemon::start(&c);
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    let status = d.status_of(2);
    assert_eq!(status["state"], "retrying", "{status}");
    let why = status["reason"].as_str().unwrap();
    assert!(why.contains("image late is missing"), "{why}");
    assert_eq!(c.run(&["status"]).status.code(), Some(4));
    let out = c.run(&["mount", &c.node(2)]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    put(c.path("late/rootimg/etc/x"), "at last\n");
    d.comes_to_be(2, "serving");
    assert_eq!(text(d.at(2, "etc/x")), "at last\n");
    // What goes away under a mounted root is told, too.
    std::fs::rename(c.path("late"), c.path("gone")).unwrap();
    eventually("the image is missing", || {
        d.status_of(2)["layers"][0]["missing"].is_string()
    });
    assert_eq!(
        d.status_of(1)["layers"][0]["missing"],
        serde_json::Value::Null
    );
    assert_eq!(c.run(&["status"]).status.code(), Some(4));
}

#[test]
fn a_store_that_is_missing_is_told_and_comes_back() {
    let c = Cluster::new(&[("/home/", "persistent"), ("/etc/x", "tmpfs")]);
    std::fs::remove_dir(c.path("store")).unwrap();
    let d = Daemon::start(&c);
    let status = d.status_of(1);
    assert_eq!(status["state"], "serving", "{status}");
    assert!(status["layers"][4]["missing"].is_string(), "{status}");
    assert!(c.says(&["status"]).contains("persistent upper is missing"));
    std::fs::write(d.at(1, "etc/x"), "works\n").unwrap();
    fails!(std::fs::read_dir(d.at(1, "home")), EIO);
    dir(c.path("store"));
    eventually("the store is there", || {
        std::fs::write(d.at(1, "home/y"), "kept\n").is_ok()
    });
    assert_eq!(c.run(&["status"]).status.code(), Some(0));
}

#[test]
fn the_live_view_explains_itself() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    let before = c.explain(1, "/etc/x");
    assert!(before.contains("/etc/x tmpfs, "), "{before}");
    let shown = c.says(&["show", &c.node(1)]);
    assert!(shown.contains("tmpfs            /etc/x"), "{shown}");
    // The tables say something else now, but nobody has asked for a reload.
    c.table("litefile", "#image,file,options\nALL,/etc/x,persistent\n");
    assert!(c.explain(1, "/etc/x").contains("(tmpfs)"));
    assert!(
        c.says(&["show", &c.node(1)])
            .contains("tmpfs            /etc/x")
    );
    // A node that is not mounted is asked of the tables.
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    assert!(c.explain(1, "/etc/x").contains("(persistent)"));
    let both = format!("{},{}", c.node(1), c.node(2));
    let answers = json(&c.run(&["--json", "explain", &both, "/etc/x"]));
    let options: Vec<_> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (&a["node"], &a["option"]))
        .collect();
    let (one, two) = (c.node(1).into(), c.node(2).into());
    assert_eq!(
        options,
        [(&two, &"tmpfs".into()), (&one, &"persistent".into())]
    );
    drop(d);
}

#[test]
fn statfs_tells_of_the_zone() {
    let c = Cluster::new(&[("/t/", "tmpfs"), ("/p/", "persistent")]);
    for path in ["t/x", "p/x", "o/x"] {
        put(c.image(path), "image\n");
    }
    let d = Daemon::start(&c);
    let blocks = |path: &str| {
        let fs = statvfs(d.at(1, path)).unwrap();
        (fs.f_blocks * fs.f_frsize, fs.f_files)
    };
    let of = |path: std::path::PathBuf| {
        let fs = statvfs(path).unwrap();
        (fs.f_blocks * fs.f_frsize, fs.f_files)
    };
    assert_eq!(blocks("t/x").0, 16 << 20);
    assert_eq!(blocks("p/x"), of(c.path("store")));
    assert_eq!(blocks("o/x"), of(c.image("o/x")));
    // The size changes under the mounted root, and what was written stays.
    std::fs::write(d.at(1, "t/mine"), vec![1; 4 << 20]).unwrap();
    let held = std::fs::File::open(d.at(1, "t/mine")).unwrap();
    c.set(
        "tmpfs_sizes",
        &format!("{{ {} = \"32M\", compute = \"8M\" }}", c.node(1)),
    );
    let reloaded = d.reload();
    assert_eq!(reloaded["nodes"].as_array().unwrap().len(), 2, "{reloaded}");
    let setting = reloaded["nodes"][0]["settings"][0].as_str().unwrap();
    assert_eq!(
        setting,
        format!("tmpfs size {}, was {}", 32 << 20, 16 << 20)
    );
    assert_eq!(blocks("t/x").0, 32 << 20);
    assert_eq!(statvfs(d.at(2, "t/x")).unwrap().f_blocks * 4096, 8 << 20);
    assert_eq!(held.metadata().unwrap().len(), 4 << 20);
    // Less than it holds can't be: it stays as it is, and that is told.
    c.set("tmpfs_sizes", &format!("{{ {} = \"1M\" }}", c.node(1)));
    let out = c.run(&["reload"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(blocks("t/x").0, 32 << 20);
    assert!(d.status_of(1)["pending"].is_string());
    std::fs::remove_file(d.at(1, "t/mine")).unwrap();
    drop(held);
    eventually("there is room", || blocks("t/x").0 == 1 << 20);
    eventually("and it is told", || d.status_of(1)["pending"].is_null());
}
