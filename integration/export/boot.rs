//! A node that boots gets its tmpfs upper anew, once.

use std::process::{Command, Output, Stdio};

use crate::cluster::{Cluster, exists, put, text};
use crate::daemon::{Daemon, json};
use crate::server::site;

fn reset(c: &Cluster, args: &[&str]) -> bool {
    let all = [&["--json", "reset", "--on-boot"], args].concat();
    let out = c.run(&all);
    assert!(out.status.success(), "{out:?}");
    json(&out)[0]["reset"] == true
}

#[test]
fn once_a_boot() {
    let c = site(&[("/etc/x", "tmpfs"), ("/home/", "persistent")]);
    c.set("boot_window", "\"1h\"");
    put(c.image("etc/x"), "image\n");
    let d = Daemon::start(&c);
    let node = c.node(1);
    let wrote = || std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    wrote();
    std::fs::write(d.at(1, "home/y"), "kept\n").unwrap();
    std::fs::write(d.at(2, "etc/x"), "another's\n").unwrap();
    // In use: by the node before its boot, as an NFS server sees it.
    let held = std::fs::File::open(d.at(1, "etc/x")).unwrap();
    assert!(reset(&c, &[&node]));
    drop(held);
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    assert_eq!(text(d.at(1, "home/y")), "kept\n");
    assert_eq!(text(d.at(2, "etc/x")), "another's\n");
    // What it writes now is of this boot, whoever calls once more.
    wrote();
    assert!(!reset(&c, &[&node]));
    assert!(
        c.says(&["reset", "--on-boot", &node])
            .contains("nothing to do")
    );
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    // By tokens, each is a boot.
    assert!(reset(&c, &["--token", "a", &node]));
    wrote();
    assert!(!reset(&c, &["--token", "a", &node]));
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
    assert!(reset(&c, &["--token", "b", &node]));
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    // Without a window every call is a boot.
    c.set("boot_window", "\"0\"");
    d.reload();
    wrote();
    assert!(reset(&c, &[&node]));
    assert_eq!(text(d.at(1, "etc/x")), "image\n");
    assert_eq!(d.status_of(1)["state"], "serving");
    assert_eq!(
        c.run(&["reset", "--token", "a", &node]).status.code(),
        Some(2)
    );
}

#[test]
fn another_daemon_knows_the_boot() {
    let c = site(&[("/etc/x", "tmpfs")]);
    c.set("boot_window", "\"1h\"");
    let mut d = Daemon::start(&c);
    assert!(reset(&c, &[&c.node(1)]));
    std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
    d.signal(rustix::process::Signal::TERM);
    assert_eq!(d.end(), Some(0));
    // Without one, too.
    assert!(!reset(&c, &[&c.node(1)]));
    assert!(reset(&c, &[&c.node(2)]));
    drop(d);
    let d = Daemon::start(&c);
    assert!(!reset(&c, &[&c.node(1)]));
    assert_eq!(text(d.at(1, "etc/x")), "mine\n");
}

#[test]
fn hooks_at_once_reset_once() {
    let c = site(&[("/etc/x", "tmpfs")]);
    let mut d = Daemon::start(&c);
    let node = c.node(1);
    let at_once = |token: &str| {
        // Each command writes tables and configuration anew, so all of them come first.
        let args = ["--json", "reset", "--on-boot", "--token", token, &node];
        let mut hooks: Vec<_> = (0..8).map(|_| c.command(&args)).collect();
        let start = |hook: &mut Command| hook.stdout(Stdio::piped()).spawn().unwrap();
        let hooks: Vec<_> = hooks.iter_mut().map(start).collect();
        let outs = hooks.into_iter().map(|hook| {
            let out = hook.wait_with_output().unwrap();
            assert!(out.status.success(), "{out:?}");
            json(&out)[0]["reset"] == true
        });
        outs.filter(|reset| *reset).count()
    };
    assert_eq!(at_once("a"), 1, "the daemon was asked");
    d.signal(rustix::process::Signal::TERM);
    assert_eq!(d.end(), Some(0));
    // It takes a while, in which another one comes.
    for n in 0..10_000 {
        put(c.tmpfs(1, format!("etc/{n}")), "");
    }
    assert_eq!(at_once("b"), 1, "there was none");
}

#[test]
fn the_hook_of_dnsmasq() {
    let c = site(&[("/etc/x", "tmpfs")]);
    c.set("boot_window", "\"1h\"");
    let d = Daemon::start(&c);
    let hook = concat!(env!("CARGO_MANIFEST_DIR"), "/mount-helpers/dnsmasq-boot");
    let script = format!(
        "#!/bin/sh\nexec {} --config {} \"$@\"\n",
        env!("CARGO_BIN_EXE_statelite"),
        c.path("statelite.toml").display()
    );
    put(c.path("program"), script);
    crate::cluster::chmod(c.path("program"), 0o755).unwrap();
    let call = |vendor: &str, args: &[&str]| -> Output {
        let mut command = Command::new(hook);
        command.args(args).env("STATELITE", c.path("program"));
        if !vendor.is_empty() {
            command.env("DNSMASQ_VENDOR_CLASS", vendor);
        }
        let out = command.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        out
    };
    let upper = c.tmpfs(1, "etc/x");
    let wrote = || {
        std::fs::write(d.at(1, "etc/x"), "mine\n").unwrap();
        assert!(exists(&upper));
    };
    wrote();
    // What a running node does, or dnsmasq by itself, is no boot.
    let mac = "00:11:22:33:44:55";
    for (vendor, args) in [
        ("", &["old", mac, "10.9.1.1", "x"][..]),
        ("MSFT 5.0", &["add", mac, "10.9.1.1"]),
        ("PXEClient:Arch:00000", &["del", mac, "10.9.1.1"]),
        ("", &["tftp", "100", "10.9.1.1", "/srv/tftp/some/file"]),
        ("", &["init"]),
    ] {
        assert!(call(vendor, args).stdout.is_empty(), "{args:?}");
    }
    assert!(exists(&upper));
    call(
        "PXEClient:Arch:00000:UNDI:002001",
        &["old", mac, "10.9.1.1"],
    );
    assert!(!exists(&upper));
    // The rest of the same boot.
    wrote();
    call("", &["tftp", "42376", "10.9.1.1", "/srv/tftp/pxelinux.0"]);
    call(
        "PXEClient:Arch:00000:UNDI:002001",
        &["add", mac, "10.9.1.1"],
    );
    assert!(exists(&upper));
}
