//! The daemon keeps the exports in step with the roots that are mounted.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{CWD, Mode};
use rustix::process::Signal;

use crate::cluster::{Cluster, eventually, fails, put, text};
use crate::daemon::Daemon;
use crate::files::{parse, stand_in};
use crate::server::site;

fn exported(c: &Cluster) -> Vec<String> {
    let paths = parse(&text(c.path("exports.d/x.exports"))).into_keys();
    let name = |path: String| path.rsplit('/').next().unwrap().to_owned();
    paths.map(name).collect()
}

#[test]
fn what_is_mounted_is_exported_and_nothing_else() {
    let c = site(&[("/etc/x", "tmpfs")]);
    stand_in(&c, "exportfs", 0);
    c.set("export", "\"exports\"");
    let mut d = Daemon::start(&c);
    let (one, two) = (c.node(1), c.node(2));
    assert_eq!(exported(&c), [one.clone(), two.clone()]);
    assert_eq!(d.status()["daemon"]["export"]["nodes"], 2);
    assert!(c.says(&["status"]).contains("2 exported, "));
    let calls = || text(c.path("exportfs")).lines().count();
    let before = calls();
    assert!(c.run(&["umount", &one]).status.success());
    assert_eq!(exported(&c), [&*two]);
    fails!(std::fs::File::open(d.at(1, "etc/x")), ENOENT);
    assert!(calls() > before, "and the server was told");
    assert!(c.run(&["mount", &one]).status.success());
    assert_eq!(exported(&c), [one.clone(), two.clone()]);
    // A root in use stays, and so does its export.
    let held = std::fs::File::open(d.at(2, "etc/x")).unwrap();
    assert_eq!(c.run(&["umount", &two]).status.code(), Some(5));
    assert_eq!(exported(&c), [one.clone(), two.clone()]);
    drop(held);
    // Nothing has changed: nothing is written.
    let file = c.path("exports.d/x.exports");
    let written = file.metadata().unwrap().ino();
    d.reload();
    assert_eq!(file.metadata().unwrap().ino(), written);
    // An address that changes, and a node without one.
    c.table("hosts", "#node,ip\n%1,10.9.1.7\n%2,\n");
    d.reload();
    assert_eq!(exported(&c), [&*one]);
    assert!(text(&file).contains("10.9.1.7("));
    assert!(d.log().contains("has no address"), "{}", d.log());
    // Another program unmounts it.
    rustix::mount::unmount(d.root(1), rustix::mount::UnmountFlags::empty()).unwrap();
    eventually("it is exported no more", || exported(&c).is_empty());
    assert!(c.run(&["mount", &one]).status.success());
    assert_eq!(exported(&c), [one]);
    // None is exported any more once nobody is to be told, or the daemon has ended.
    c.set("export", "\"none\"");
    d.reload();
    assert!(exported(&c).is_empty());
    c.set("export", "\"exports\"");
    d.reload();
    assert_eq!(exported(&c).len(), 1);
    d.signal(Signal::TERM);
    assert_eq!(d.end(), Some(0));
    assert!(exported(&c).is_empty());
}

#[test]
fn what_can_not_be_written_is_told_and_tried_again() {
    let c = site(&[]);
    stand_in(&c, "exportfs", 1);
    c.set("export", "\"exports\"");
    let d = Daemon::start(&c);
    let status = c.run(&["status"]);
    assert_eq!(status.status.code(), Some(4), "{status:?}");
    let why = d.status()["daemon"]["export"]["error"].clone();
    assert!(why.as_str().unwrap().contains("said by exportfs"), "{why}");
    // A file that is as it should be is not yet known to the server.
    assert!(c.run(&["mount", &c.node(1)]).status.success());
    assert!(d.status()["daemon"]["export"]["error"].is_string());
    stand_in(&c, "exportfs", 0);
    eventually("it is in step", || {
        d.status()["daemon"]["export"]["error"].is_null()
    });
    assert_eq!(exported(&c).len(), 2);
    assert!(c.run(&["status"]).status.success());
}

#[test]
fn exports_that_are_being_written_are_not_in_step_yet() {
    let c = site(&[]);
    c.set("export", "\"exports\"");
    stand_in(&c, "exportfs", 0);
    let d = Daemon::start(&c);
    assert!(d.status()["daemon"]["export"]["error"].is_null());
    // An exportfs that has not ended yet: it waits for somebody to open the pipe.
    let pipe = c.path("pipe");
    rustix::fs::mkfifoat(CWD, &pipe, Mode::from(0o600)).unwrap();
    let script = format!("#!/bin/sh\nread line <{}\nexit 0\n", pipe.display());
    put(c.path("bin/exportfs"), script);
    c.table("hosts", "#node,ip\n%1,10.9.1.7\n%2,10.9.1.8\n");
    c.write();
    d.signal(Signal::HUP);
    // It is open for writing when the other end is read.
    let end = std::fs::File::options().write(true).open(&pipe).unwrap();
    stand_in(&c, "exportfs", 0);
    let said = d.status()["daemon"]["export"]["error"].clone();
    assert_eq!(c.run(&["status"]).status.code(), Some(4));
    drop(end);
    assert_eq!(said, "they are being written");
    eventually("they are in step", || c.run(&["status"]).status.success());
}

#[test]
fn a_server_has_the_nodes_that_name_it() {
    let c = site(&[]);
    c.table(
        "noderes",
        "#node,servicenode,xcatmaster\n%1,\"sn1,sn2\",\n%2,sn2,mgt\n",
    );
    c.set("server", "\"sn1\"");
    let d = Daemon::start(&c);
    assert_eq!(d.mounts().len(), 1);
    let status = d.status();
    assert_eq!(
        status["elsewhere"][0]["node"],
        c.node(2).as_str(),
        "{status}"
    );
    let said = c.says(&["status", &c.node(2)]);
    assert!(
        said.contains(&format!("{}: served by mgt, sn2 (", c.node(2))),
        "{said}"
    );
    assert!(said.contains("noderes.csv:3:"), "{said}");
    // It moves to this server, and the other one away.
    c.table(
        "noderes",
        "#node,servicenode,xcatmaster\n%1,sn2,\n%2,sn1,mgt\n",
    );
    d.reload();
    assert_eq!(d.mounts(), [d.root(2).to_str().unwrap()]);
    // The last one goes as well.
    c.table("noderes", "#node,servicenode\ncompute,sn2\n");
    let reloaded = d.reload();
    assert!(
        reloaded["problems"][0]["text"]
            .as_str()
            .unwrap()
            .contains("to other servers"),
        "{reloaded}"
    );
    assert!(d.mounts().is_empty());
}
