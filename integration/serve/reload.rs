//! Tables and configuration that change under a daemon.

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::{Cluster, eventually, exists, put, text};
use crate::daemon::{Daemon, json, node_of, prepare};

fn litefile(c: &Cluster, rows: &str) {
    c.table("litefile", &format!("#image,file,options\n{rows}"));
}

#[test]
fn nothing_has_changed() {
    let c = Cluster::new(&[("/a", "tmpfs"), ("/b", "tmpfs")]);
    let d = Daemon::start(&c);
    let held = std::fs::File::open(d.at(1, "a")).unwrap();
    let reloaded = d.reload();
    assert_eq!(reloaded["unchanged"], 2, "{reloaded}");
    assert_eq!(reloaded["nodes"].as_array().unwrap().len(), 0);
    // Other lines and comments change no node, but explain says where a row is now.
    litefile(&c, "\nALL,/b,tmpfs\nALL,/a,tmpfs\n");
    assert_eq!(d.reload()["unchanged"], 2);
    assert!(
        c.explain(1, "/a").contains("litefile.csv:4:5"),
        "{}",
        c.explain(1, "/a")
    );
    assert_eq!(d.status_of(1)["open"], 1);
    assert_eq!(d.status()["daemon"]["reloads"], 2);
    drop(held);
}

#[test]
fn nodes_come_and_go() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    c.table("nodelist", "#node,groups\n%1,compute\n");
    let d = Daemon::start(&c);
    assert_eq!(d.mounts().len(), 1);
    c.table("nodelist", "#node,groups\n%1,compute\n%2,compute\n");
    let reloaded = d.reload();
    assert_eq!(node_of(&reloaded, &c.node(2))["change"], "added");
    assert_eq!(reloaded["unchanged"], 1);
    std::fs::write(d.at(2, "etc/x"), "new\n").unwrap();
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    c.table("nodelist", "#node,groups\n%2,compute\n");
    let reloaded = d.reload();
    let gone = node_of(&reloaded, &c.node(1));
    assert_eq!(
        (&gone["change"], &gone["outcome"]),
        (&"removed".into(), &"detached".into())
    );
    assert_eq!(d.mounts(), [d.root(2).to_str().unwrap()]);
    assert_eq!(text(d.at(2, "etc/x")), "new\n");
    assert_eq!(d.status()["nodes"].as_array().unwrap().len(), 1);
    held.metadata().unwrap();
}

#[test]
fn changed_rules_count_and_what_they_hide_is_told() {
    let c = Cluster::new(&[
        ("/home/", "persistent"),
        ("/etc/x", "tmpfs"),
        ("/old", "tmpfs"),
    ]);
    put(c.image("home/y"), "image\n");
    put(c.image("old"), "image\n");
    let d = Daemon::start(&c);
    for n in 0..12 {
        std::fs::write(d.at(1, &format!("home/f{n:02}")), "mine\n").unwrap();
    }
    std::fs::write(d.at(1, "old"), "mine\n").unwrap();
    std::fs::remove_file(d.at(1, "home/y")).unwrap();
    litefile(&c, "ALL,/home/,tmpfs\nALL,/etc/x,tmpfs\nALL,/new/,tmpfs\n");
    let reloaded = d.reload();
    let one = node_of(&reloaded, &c.node(1));
    assert_eq!(one["outcome"], "done", "{one}");
    assert_eq!(one["rules_added"][0], "tmpfs /new/");
    assert_eq!(one["rules_removed"][0], "tmpfs /old");
    assert_eq!(one["options_changed"][0], "/home/, was persistent: tmpfs");
    let hides = one["hides"].as_array().unwrap();
    let home = hides.iter().find(|h| h["path"] == "/home").unwrap();
    assert_eq!(
        (&home["upper"], &home["count"]),
        (&"persistent".into(), &12.into())
    );
    assert_eq!(home["entries"].as_array().unwrap().len(), 10);
    let old = hides.iter().find(|h| h["path"] == "/old").unwrap();
    assert_eq!(old["entries"][0], "old");
    assert_eq!(
        node_of(&reloaded, &c.node(2))["hides"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    // The kernel is told right after.
    eventually("the new rules show", || {
        text(d.at(1, "old")) == "image\n"
            && !exists(d.at(1, "home/f00"))
            && exists(d.at(1, "home/y"))
            && exists(d.at(1, "new"))
    });
    std::fs::write(d.at(1, "new/z"), "mine\n").unwrap();
    // And back: what was hidden shows again.
    litefile(
        &c,
        "ALL,/home/,persistent\nALL,/etc/x,tmpfs\nALL,/old,tmpfs\n",
    );
    let out = c.run(&["reload"]);
    assert!(out.status.success(), "{out:?}");
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("  + tmpfs /old\n  - tmpfs /new/\n"), "{said}");
    assert!(
        said.contains("  hides what /new has in the tmpfs upper: z\n"),
        "{said}"
    );
    assert!(
        said.contains("  shows again what /home has in the persistent upper: f00"),
        "{said}"
    );
    assert!(said.contains(" and 2 more\n"), "{said}");
    assert!(said.ends_with("2 changed, 0 unchanged\n"), "{said}");
    eventually("what was hidden shows", || {
        text(d.at(1, "old")) == "mine\n"
            && std::fs::read_to_string(d.at(1, "home/f11")).is_ok_and(|f| f == "mine\n")
    });
}

#[test]
fn a_changed_node_is_not_unmounted() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    let held = std::fs::File::create(d.at(1, "etc/x")).unwrap();
    let mount_id = || statelite::sys::fusemount::mount_id(&d.root(1)).unwrap();
    let id = mount_id();
    litefile(&c, "ALL,/etc/x,tmpfs\nALL,/new/,tmpfs\n");
    let reloaded = d.reload();
    assert_eq!(
        node_of(&reloaded, &c.node(1))["change"],
        "changed",
        "{reloaded}"
    );
    std::io::Write::write_all(&mut &held, b"goes on\n").unwrap();
    assert_eq!(text(d.at(1, "etc/x")), "goes on\n");
    eventually("the new rule shows", || {
        std::fs::write(d.at(1, "new/y"), "mine\n").is_ok()
    });
    assert_eq!(mount_id(), id);
}

#[test]
fn what_needs_a_new_mount_waits_for_the_roots_users() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    c.set("threads", "2");
    let out = c.run(&["--json", "reload"]);
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    let reloaded = json(&out);
    let (one, two) = (c.node(1), c.node(2));
    assert_eq!(node_of(&reloaded, &one)["outcome"], "busy", "{reloaded}");
    assert_eq!(
        node_of(&reloaded, &two)["change"],
        "remounted",
        "{reloaded}"
    );
    assert_eq!(node_of(&reloaded, &two)["outcome"], "done", "{reloaded}");
    assert!(d.status_of(1)["pending"].is_string());
    assert_eq!(c.run(&["status"]).status.code(), Some(4));
    drop(held);
    eventually("it is mounted again", || {
        d.status_of(1)["pending"].is_null()
    });
    assert_eq!(d.status_of(1)["state"], "serving");
    assert_eq!(d.mounts().len(), 2);
}

#[test]
fn an_error_changes_nothing_and_all_are_told() {
    let c = Cluster::new(&[("/home/", "persistent"), ("/etc/x", "tmpfs")]);
    put(c.image("file"), "image\n");
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "home/y"), "mine\n").unwrap();
    litefile(
        &c,
        "ALL,/home/,tmpfs\nALL,/etc/x,tmpsf\nALL,relative,tmpfs\nALL,/file/below,tmpfs\n",
    );
    let out = c.run(&["reload"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    let told = [
        "litefile.csv:3:12: error: unknown option",
        "litefile.csv:4:5: error: ",
        "litefile.csv:5:5: error: ",
    ];
    for problem in told {
        assert!(said.contains(problem), "{problem} in {said}");
        assert!(d.log().contains(problem), "{problem} in the log");
    }
    assert!(String::from_utf8(out.stdout).unwrap().contains("refused"));
    assert_eq!(text(d.at(1, "home/y")), "mine\n");
    assert_eq!(d.status()["daemon"]["refused"][1], 3);
    assert_eq!(d.status()["daemon"]["reloads"], 0);
    assert!(c.says(&["status"]).contains("was refused for 3 errors"));

    // A configuration that can't be read.
    litefile(&c, "ALL,/home/,persistent\nALL,/etc/x,tmpfs\n");
    c.set("threads", "0");
    let out = c.run(&["--json", "show", "all"]);
    assert_eq!(
        out.status.code(),
        Some(1),
        "the commands read it too: {out:?}"
    );
    d.forget_told();
    d.signal(Signal::HUP);
    d.told("RELOADING=1");
    d.told("READY=1");
    assert!(d.log().contains("0 threads a session"), "{}", d.log());
    assert_eq!(text(d.at(1, "home/y")), "mine\n");

    // Tables that are gone would be a cluster without nodes.
    c.set("threads", "1");
    c.table("nodelist", "#node,groups\n");
    let out = c.run(&["reload"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(d.mounts().len(), 2);

    // And when all is well again, it is taken.
    c.table("nodelist", "#node,groups\n%1,compute\n%2,compute\n");
    assert_eq!(d.reload()["unchanged"], 2);
    assert_eq!(d.status()["daemon"]["refused"], Value::Null);
}

#[test]
fn sighup_reloads() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    let d = Daemon::start(&c);
    c.rule("/new/", "tmpfs");
    c.write();
    d.signal(Signal::HUP);
    d.told("RELOADING=1");
    d.told("READY=1");
    eventually("the new rule shows", || {
        std::fs::write(d.at(1, "new/y"), "mine\n").is_ok()
    });
    assert_eq!(d.status()["daemon"]["reloads"], 1);
}

#[test]
fn a_node_whose_new_image_is_missing_keeps_the_old_one() {
    let c = Cluster::new(&[]);
    put(c.image("v"), "1\n");
    let d = Daemon::start(&c);
    c.table(
        "linuximage",
        "#imagename,rootimgdir\nel9-x86_64-statelite-compute,@/second\n",
    );
    let out = c.run(&["reload"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(text(d.at(1, "v")), "1\n");
    let pending = d.status_of(1)["pending"].to_string();
    assert!(pending.contains("is missing"), "{pending}");
    put(c.path("second/rootimg/v"), "2\n");
    eventually("the new image shows", || {
        std::fs::read_to_string(d.at(1, "v")).is_ok_and(|v| v == "2\n")
    });
    eventually("nothing is pending", || d.status_of(1)["pending"].is_null());
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    let socket = c.path("run/control.sock");
    c.set("log", "\"warn\"");
    let reloaded = d.reload();
    assert_eq!(reloaded["restart"], serde_json::json!(["log"]));
    assert_eq!(reloaded["unchanged"], 2);
    assert!(exists(socket));
}

#[test]
fn changed_tables_are_read_without_being_asked_for_and_drop_no_node() {
    let c = Cluster::new(&[("/etc/x", "tmpfs")]);
    prepare(&c);
    c.set("watch_tables", "true");
    let d = Daemon::launch(&c, &[]);
    d.told("READY=1");
    c.rule("/new/", "tmpfs");
    c.write();
    d.told("RELOADING=1");
    eventually("the new rule shows", || {
        std::fs::write(d.at(1, "new/y"), "mine\n").is_ok()
    });
    // As a table looks that is being written.
    c.table("nodelist", "#node,groups\n%1,compute\n");
    c.write();
    eventually("it is refused", || {
        d.log().contains("1 nodes are gone, such as")
    });
    assert_eq!(d.mounts().len(), 2);
    assert_eq!(d.reload()["nodes"][0]["change"], "removed");
    assert_eq!(d.mounts().len(), 1);
}
