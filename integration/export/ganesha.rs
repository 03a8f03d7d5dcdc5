//! NFS-Ganesha over mounted roots, in namespaces of its own, by what `statelite export` has printed.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, eventually, put, text};
use crate::daemon::Daemon;
use crate::server::{Ganesha, Shared, site};

impl Ganesha<'_> {
    /// What a client reads of a node's root.
    fn cat(&self, client: u32, node: u32, path: &str) -> String {
        let url = self.url(4, client, node, path);
        self.run(&format!("timeout 20 nfs-cat '{url}'"))
    }

    /// A client reads it once Ganesha has followed the daemon.
    #[track_caller]
    fn comes_to_read(&self, node: u32, path: &str, expected: &str) {
        let mut last = String::new();
        let end = Instant::now() + Duration::from_secs(60);
        while last != expected {
            assert!(
                Instant::now() < end,
                "{path}: {last:?}, not {expected:?}\n{}",
                self.log()
            );
            last = self.cat(node, node, path);
            // Whatever the kernel has forgotten meanwhile, handles open again.
            assert!(!last.contains("STALE"), "{path}: {last}\n{}", self.log());
        }
    }
}

fn two_nodes() -> Cluster {
    let c = site(&[("/etc/x", "tmpfs")]);
    put(c.image("etc/x"), "image\n");
    put(c.image("etc/motd"), "of all\n");
    c
}

#[test]
fn each_node_reads_its_own_root_and_no_other() {
    let c = two_nodes();
    let _shared = Shared::on(c.path("roots"));
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "of one\n").unwrap();
    std::fs::write(d.at(2, "etc/x"), "of two\n").unwrap();
    let out = c.run(&["export", "--format", "ganesha"]);
    assert!(out.status.success(), "{out:?}");
    put(c.path("ganesha/statelite.conf"), &out.stdout);
    let g = Ganesha::start(&c);
    for (node, expected) in [(1, "of one\n"), (2, "of two\n")] {
        g.comes_to_read(node, "etc/x", expected);
        g.comes_to_read(node, "etc/motd", "of all\n");
        let url = g.url(4, node, node, "etc");
        eventually("it is listed", || {
            let list = g.run(&format!("timeout 20 nfs-ls '{url}'"));
            list.contains(" x\n") && list.contains(" motd\n")
        });
        let other = g.cat(node, 3 - node, "etc/x");
        assert!(other.contains("NFS4ERR_NOENT"), "{other}");
    }
    // Live: what changes on the server is seen by a client that asks again.
    std::fs::write(c.image("etc/motd"), "another\n").unwrap();
    g.comes_to_read(1, "etc/motd", "another\n");
    assert!(!g.log().contains("Errors processing block"), "{}", g.log());
}

#[test]
fn the_daemon_keeps_ganesha_in_step() {
    let c = two_nodes();
    let _shared = Shared::on(c.path("roots"));
    c.set("export", "\"ganesha\"");
    // It holds what it exports: it is let go of before it is unmounted, and given again after a reset.
    put(c.path("ganesha/statelite.conf"), "");
    let d = Daemon::start(&c);
    let g = Ganesha::start(&c);
    std::fs::write(d.at(1, "etc/x"), "of one\n").unwrap();
    g.comes_to_read(1, "etc/x", "of one\n");
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    assert_eq!(d.status_of(1)["detached"], 0);
    eventually("it is not exported", || {
        g.cat(1, 1, "etc/x").contains("Failed to")
    });
    g.comes_to_read(2, "etc/x", "image\n");
    assert!(c.run(&["mount", &c.node(1)]).status.success());
    g.comes_to_read(1, "etc/x", "of one\n");
    let out = c.run(&["reset", "--on-boot", &c.node(1)]);
    assert!(out.status.success(), "{out:?}");
    // As after a boot.
    g.comes_to_read(1, "etc/x", "image\n");
    // Numbers of exports do not change on the way.
    let id = |text: &str, node: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"{node}\";")))
            .unwrap();
        line.to_owned()
    };
    let now = text(c.path("ganesha/statelite.conf"));
    let printed = c.says(&["export", "--format", "ganesha"]);
    assert_eq!(id(&now, &c.node(1)), id(&printed, &c.node(1)));
}
