//! Section 8: stores that are missing, what nodes plant, and what they see of one another.

use crate::cluster::{
    Cluster, Tmpfs, dir, eventually, exists, fails, link, names, put, stat, text,
};

/// Nodes whose store must be mounted on `mnt`, which it is not.
fn store_to_mount() -> Cluster {
    let c = Cluster::new(&[
        ("/p/", "persistent"),
        ("/t/", "tmpfs"),
        ("/p/in/", "tmpfs"),
        ("/q", "persistent"),
    ]);
    dir(c.path("mnt/store"));
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"@/mnt/store\",\n",
    );
    c.set("require_mount", &format!("[{}]", c.quoted("mnt")));
    put(c.image("p/x"), "image\n");
    put(c.image("p/in/y"), "image\n");
    put(c.image("t/x"), "image\n");
    put(c.image("q"), "image\n");
    put(c.image("out"), "image\n");
    c
}

#[test]
fn a_store_that_is_not_mounted_is_eio_in_its_zones_alone() {
    let c = store_to_mount();
    let v = c.mount(1);
    fails!(std::fs::read(v.at("p/x")), EIO);
    fails!(std::fs::metadata(v.at("p")), EIO);
    fails!(std::fs::read_dir(v.at("p")), EIO);
    fails!(v.write("p/x", "lost"), EIO);
    fails!(v.write("p/new", "lost"), EIO);
    fails!(v.write("q", "lost"), EIO);
    // Its name is listed all the same: nobody may think it deleted.
    assert!(v.names("").contains(&"p".to_owned()));
    v.write("t/x", "written\n").unwrap();
    assert_eq!(v.text("t/x"), "written\n");
    assert_eq!(v.text("out"), "image\n");
    assert!(
        names(c.path("mnt/store")).is_empty(),
        "nothing under the mount point"
    );
    for path in ["/q", "/p/x/y"] {
        let said = c.explain(1, path);
        assert!(
            said.contains("persistent upper nothing is mounted on"),
            "{said}"
        );
        assert!(
            said.contains("shows      nothing: a layer is missing"),
            "{said}"
        );
    }
    let said = c.check();
    assert!(said.contains("statelite.csv:2:"), "{said}");
    assert!(said.contains("the persistent upper is missing"), "{said}");
}

#[test]
fn a_store_heals_by_itself_when_it_is_mounted() {
    let c = store_to_mount();
    let v = c.mount(1);
    fails!(std::fs::read(v.at("p/x")), EIO);
    let mounted = Tmpfs::on(&c.path("mnt"));
    dir(c.path("mnt/store"));
    v.comes_to_say("p/x", "image\n");
    v.write("p/x", "kept\n").unwrap();
    let kept = c.path("mnt/store").join(c.node(1)).join("p/x");
    assert_eq!(text(&kept), "kept\n");
    // It goes away under the running view, and no write lands in the wrong place.
    rustix::mount::unmount(c.path("mnt"), rustix::mount::UnmountFlags::DETACH).unwrap();
    std::mem::forget(mounted);
    eventually("the store is missed", || {
        std::fs::read(v.at("p/x")).is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
    });
    fails!(v.write("p/x", "lost"), EIO);
    fails!(v.write("p/new", "lost"), EIO);
    assert!(names(c.path("mnt/store")).is_empty());
    let again = Tmpfs::on(&c.path("mnt"));
    dir(c.path("mnt/store"));
    v.comes_to_say("p/x", "image\n");
    v.write("p/x", "again\n").unwrap();
    assert_eq!(text(&kept), "again\n");
    drop(v);
    drop(again);
    assert!(names(c.path("mnt/store")).is_empty());
}

#[test]
fn a_local_store_that_does_not_exist_is_eio_until_it_does() {
    let c = Cluster::new(&[("/p/", "persistent"), ("/t/", "tmpfs")]);
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"@/later\",\n",
    );
    put(c.image("p/x"), "image\n");
    let v = c.mount(1);
    fails!(std::fs::read(v.at("p/x")), EIO);
    fails!(v.write("p/x", ""), EIO);
    v.write("t/x", "").unwrap();
    assert!(
        !exists(c.path("later")),
        "a store is never made, only found"
    );
    dir(c.path("later"));
    v.comes_to_say("p/x", "image\n");
    v.write("p/x", "kept\n").unwrap();
    assert_eq!(text(c.path("later").join(c.node(1)).join("p/x")), "kept\n");
}

#[test]
fn a_remote_store_or_litetree_that_is_not_mounted_is_eio() {
    let c = Cluster::new(&[("/p/", "persistent"), ("/t/", "tmpfs")]);
    let root = format!("{}/<host><path>", c.path("net").display());
    c.set("remote_root", &format!("\"{root}\""));
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"filer:/state\",\n",
    );
    put(c.image("p/x"), "image\n");
    put(c.image("t/x"), "image\n");
    dir(c.path("net/filer/state"));
    let v = c.mount(1);
    fails!(std::fs::read(v.at("p/x")), EIO);
    fails!(v.write("p/x", "lost"), EIO);
    v.write("t/x", "written\n").unwrap();
    assert!(names(c.path("net/filer/state")).is_empty());
    let mounted = Tmpfs::on(&c.path("net/filer/state"));
    v.comes_to_say("p/x", "image\n");
    v.write("p/x", "kept\n").unwrap();
    drop(v);
    drop(mounted);
    // A litetree of another host that is not there: what it would supply can't be told.
    c.table(
        "litetree",
        "#priority,image,directory,mntopts\n1,,\"filer:/trees\",\n",
    );
    put(c.path("net/filer/trees/t/x"), "under the mount point\n");
    let v = c.mount(1);
    fails!(std::fs::read(v.at("t/x")), EIO);
    assert_eq!(v.names(""), [".default", ".statelite", "p", "t"]);
}

/// What lies below a mount of its own (`/var`, say) is not a remote store for that.
#[test]
fn a_remote_store_is_not_what_lies_on_another_local_mount() {
    let c = Cluster::new(&[("/p/", "persistent")]);
    let root = format!("{}/net/<host><path>", c.path("var").display());
    c.set("remote_root", &format!("\"{root}\""));
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"filer:/state\",\n",
    );
    let local = Tmpfs::on(&dir(c.path("var")));
    dir(c.path("var/net/filer/state"));
    put(c.image("p/x"), "image\n");
    let v = c.mount(1);
    fails!(v.write("p/x", "lost"), EIO);
    assert!(names(c.path("var/net/filer/state")).is_empty());
    let mounted = Tmpfs::on(&c.path("var/net/filer/state"));
    v.comes_to_say("p/x", "image\n");
    v.write("p/x", "kept\n").unwrap();
    drop(v);
    drop((mounted, local));
}

#[test]
fn a_missing_store_is_not_an_empty_directory_after_a_listing() {
    let c = store_to_mount();
    let v = c.mount(1);
    for _ in 0..3 {
        // A listing with attributes, as `ls -l`, find and rsync make it.
        for name in v.names("") {
            let told = std::fs::symlink_metadata(v.at(&name));
            assert!(
                told.is_ok() || ["p", "q"].contains(&name.as_str()),
                "{name}: {told:?}"
            );
        }
        let listed = std::fs::read_dir(v.at("p")).map(Iterator::count);
        assert_eq!(listed.err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
    }
}

/// mount(8) is stood in for: it notes what it was asked for and binds a local directory.
#[test]
fn the_daemon_mounts_remote_stores_with_the_rows_options() {
    let c = Cluster::new(&[("/p/", "persistent"), ("/q/", "persistent")]);
    let root = format!("{}/<host><path>", c.path("net").display());
    c.set("remote_root", &format!("\"{root}\""));
    c.set("mount_remote", "true");
    c.table(
        "statelite",
        "#node,image,statemnt,mntopts\n\"compute\",,\"filer:/state\",\"nfsvers=3,noatime\"\n",
    );
    let exported = dir(c.path("filer-has"));
    let asked = c.path("asked");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\nfor at; do :; done\nexec /bin/mount --bind {} \"$at\"\n",
        asked.display(),
        exported.display()
    );
    put(c.path("bin/mount"), script);
    crate::cluster::chmod(c.path("bin/mount"), 0o755).unwrap();
    put(c.image("p/x"), "image\n");
    let at = c.path("net/filer/state");
    let v = c.mount(1);
    v.write("p/x", "kept\n").unwrap();
    assert_eq!(text(exported.join(c.node(1)).join("p/x")), "kept\n");
    let words = format!(
        "-t nfs -o hard,nfsvers=3,noatime filer:/state {}\n",
        at.display()
    );
    assert_eq!(text(&asked), words);
    // A second node finds it mounted.
    let w = c.mount(2);
    w.write("p/x", "too\n").unwrap();
    assert_eq!(text(&asked), words);
    drop((v, w));
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_tmpfs_that_is_unmounted_under_a_view_is_eio_not_the_servers_disk() {
    let c = Cluster::new(&[("/t/", "tmpfs")]);
    put(c.image("t/x"), "image\n");
    let v = c.mount(1);
    let at = c.path("tmpfs").join(c.node(1));
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
    eventually("it is missed", || {
        std::fs::read(v.at("t/x")).is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
    });
    fails!(v.write("t/new", ""), EIO);
    assert!(names(&at).is_empty());
}

#[test]
fn a_planted_symlink_is_never_followed() {
    let c = Cluster::new(&[
        ("/etc/conf", "persistent"),
        ("/etc/d/", "persistent"),
        ("/p/", "persistent"),
    ]);
    put(c.image("etc/conf"), "image\n");
    put(c.image("etc/d/x"), "image\n");
    put(c.image("p/sub/x"), "image\n");
    put(c.path("victim/conf"), "the server's\n");
    put(c.path("victim/d/x"), "the server's\n");
    put(c.path("victim/x"), "the server's\n");
    let victim = c.path("victim").into_os_string().into_string().unwrap();
    // As a node plants them that writes its store by other means (its own NFS mount, say).
    dir(c.store(1, ""));
    link(&victim, c.store(1, "etc"));
    link(&victim, c.store(1, "p/sub"));
    let v = c.mount(1);
    // The rule's own path goes through the planted component: nothing of the victim shows.
    for path in ["etc/conf", "etc/d/x"] {
        let shown = std::fs::read_to_string(v.at(path));
        assert!(!shown.is_ok_and(|text| text.contains("server")), "{path}");
        assert!(v.write(path, "broken in").is_err(), "{path}");
    }
    // Inside a zone it is a symlink, shown as one, which the node follows in its own tree.
    assert!(stat(v.at("p/sub")).is_symlink());
    let inner = std::fs::read_link(v.at("p/sub")).unwrap();
    assert_eq!(inner.to_str(), Some(&victim[..]));
    for name in ["conf", "d/x", "x"] {
        assert_eq!(
            text(c.path("victim").join(name)),
            "the server's\n",
            "{name}"
        );
    }
    assert_eq!(names(c.path("victim")), ["conf", "d", "x"]);
}

#[test]
fn a_symlink_in_the_place_of_a_nodes_directory_is_not_followed() {
    let c = Cluster::new(&[("/p/", "persistent")]);
    put(c.image("p/x"), "image\n");
    put(
        c.path("store").join(c.node(2)).join("p/secret"),
        "of node 2\n",
    );
    link(&c.node(2), c.path("store").join(c.node(1)));
    let v = c.mount(1);
    assert!(!exists(v.at("p/secret")));
    assert!(v.write("p/x", "written\n").is_err());
    assert!(!exists(c.store(2, "p/x")));
}

#[test]
fn a_planted_symlink_survives_no_reset_and_harms_none() {
    let c = Cluster::new(&[("/t/", "tmpfs")]);
    put(c.path("victim/x"), "the server's\n");
    let v = c.mount(1);
    let victim = c.path("victim").into_os_string().into_string().unwrap();
    std::os::unix::fs::symlink(&victim, v.at("t/link")).unwrap();
    drop(v);
    link(&victim, c.tmpfs(1, "t/planted"));
    c.reset(1);
    assert!(names(c.tmpfs(1, "")).is_empty());
    assert_eq!(text(c.path("victim/x")), "the server's\n");
}

#[test]
fn nodes_do_not_see_each_other() {
    let c = Cluster::new(&[("/", "tmpfs"), ("/p/", "persistent"), ("/d/", "localdisk")]);
    put(c.image("x"), "image\n");
    let (one, two) = (c.mount(1), c.mount(2));
    one.write("x", "one\n").unwrap();
    one.write("p/mine", "one\n").unwrap();
    one.write("d/mine", "one\n").unwrap();
    two.remount();
    assert_eq!(two.text("x"), "image\n");
    assert!(two.names("p").is_empty() && two.names("d").is_empty());
    assert_eq!(two.names(".statelite/persistent"), [c.node(2)]);
    assert!(two.names(".statelite/tmpfs").is_empty());
    assert!(!exists(two.at(".statelite/persistent").join(c.node(1))));
    two.write("p/mine", "two\n").unwrap();
    c.says(&["reset", "--force", &c.node(2)]);
    assert_eq!(one.text("p/mine"), "one\n");
    assert_eq!(one.text("x"), "one\n");
}

#[test]
fn no_node_changes_an_image_or_a_litetree() {
    let c = Cluster::new(&[
        ("/", "tmpfs"),
        ("/p/", "persistent"),
        ("/c", "con"),
        ("/d/", "localdisk"),
    ]);
    let all = ["image/rootimg", "tree1", "tree2"];
    for layer in all {
        for path in ["a", "p/a", "c", "d/a", "sub/dir/a"] {
            put(c.path(layer).join(path), "original\n");
        }
    }
    let v = c.mount(1);
    for path in ["a", "p/a", "c", "d/a", "sub/dir/a"] {
        v.write(path, "written\n").unwrap();
        crate::cluster::chmod(v.at(path), 0o600).unwrap();
        std::os::unix::fs::chown(v.at(path), Some(9), Some(9)).unwrap();
    }
    std::fs::remove_dir_all(v.at("sub")).unwrap();
    std::fs::remove_file(v.at("p/a")).unwrap();
    std::fs::rename(v.at("d/a"), v.at("d/b")).unwrap();
    for layer in all {
        for path in ["a", "p/a", "c", "d/a", "sub/dir/a"] {
            let at = c.path(layer).join(path);
            assert_eq!(text(&at), "original\n");
            assert_eq!(crate::cluster::mode(&at) & 0o777, 0o644);
        }
        assert_eq!(names(c.path(layer)), ["a", "c", "d", "p", "sub"]);
    }
}

#[test]
fn a_mounted_node_is_not_reset_unless_forced() {
    let c = Cluster::new(&[("/t/", "tmpfs")]);
    let v = c.mount(1);
    v.write("t/x", "x\n").unwrap();
    let out = c.run(&["reset", &c.node(1)]);
    assert!(!out.status.success());
    assert!(c.says(&["reset", &c.node(1)]).contains("--force"));
    assert_eq!(v.text("t/x"), "x\n");
}

#[test]
fn bad_input_names_file_line_column_and_what_to_do() {
    let c = Cluster::new(&[("/etc/a", "persistant")]);
    let said = c.check();
    let at = c.path("tables/litefile.csv");
    assert!(said.contains(&format!("{}:2:", at.display())), "{said}");
    assert!(said.contains("did you mean \"persistent\"?"), "{said}");
    c.set("tmpfs_sise", "\"1G\"");
    let said = c.check();
    assert!(said.contains("statelite.toml:"), "{said}");
    assert!(said.contains("did you mean \"tmpfs_size\"?"), "{said}");
}
