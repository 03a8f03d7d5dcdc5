//! The files that `statelite export` prints and installs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::cluster::{Cluster, dir, put, text};
use crate::daemon::json;
use crate::server::site;

/// Client to options, for each path of an exports(5) text; as the manual page has it.
pub fn parse(text: &str) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let path = unescaped(words.next().unwrap());
        for word in words {
            let (client, options) = word.split_once('(').expect(line);
            let options = options.strip_suffix(')').expect(line);
            let options = options.split(',').map(String::from).collect();
            let before = found.entry(path.clone()).or_default();
            assert!(before.insert(client.into(), options).is_none(), "{line}");
        }
    }
    found
}

fn unescaped(word: &str) -> String {
    let (mut out, mut bytes) = (Vec::new(), word.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => {
                let digits: Vec<u8> = bytes.by_ref().take(3).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 8).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(out).unwrap()
}

/// A program in the place of the system's that notes that it was called.
pub fn stand_in(c: &Cluster, name: &str, status: i32) {
    let log = c.path(name);
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\necho said by {name} >&2\nexit {status}\n",
        log.display()
    );
    put(c.path("bin").join(name), script);
    crate::cluster::chmod(c.path("bin").join(name), 0o755).unwrap();
}

#[test]
fn each_node_may_mount_its_own_root_alone() {
    let c = site(&[]);
    c.set("root", &c.quoted("my #1 \\\\ roots"));
    let out = c.run(&["export"]);
    assert!(out.status.success(), "{out:?}");
    let printed = String::from_utf8(out.stdout).unwrap();
    let exports = parse(&printed);
    let at = |node| c.path("my #1 \\ roots").join(c.node(node));
    let at = |node| at(node).to_str().unwrap().to_owned();
    assert_eq!(exports.keys().cloned().collect::<Vec<_>>(), [at(1), at(2)]);
    let clients = |node| {
        exports[&at(node)]
            .keys()
            .map(String::as_str)
            .collect::<Vec<_>>()
    };
    assert_eq!(clients(1), ["10.9.1.1"]);
    assert_eq!(clients(2), ["10.9.2.1", "fd00::2"]);
    let options = &exports[&at(2)]["fd00::2"];
    assert_eq!(
        options[..4],
        ["rw", "no_root_squash", "no_subtree_check", "mountpoint"]
    );
    assert_eq!(options, &exports[&at(2)]["10.9.2.1"]);
    assert_ne!(options, &exports[&at(1)]["10.9.1.1"], "another fsid");
    // And exportfs(8) reads it so: in a mount namespace, since it works on files of the system.
    let script = r#"
        mount -t tmpfs none /var/lib/nfs && mount --bind "$1" /etc/exports &&
        if [ -d /etc/exports.d ]; then mount -t tmpfs none /etc/exports.d; fi &&
        exportfs -ra && cat /var/lib/nfs/etab"#;
    for node in [1, 2] {
        dir(at(node));
    }
    put(c.path("printed"), &printed);
    let out = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(c.path("printed"))
        .output()
        .unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let etab = String::from_utf8(out.stdout).unwrap().replace('\t', " ");
    let read = parse(&etab);
    for (path, clients) in &exports {
        for (client, options) in clients {
            for option in options {
                assert!(
                    read[path][client].contains(option),
                    "{option} of {client}: {etab}"
                );
            }
        }
    }
    assert_eq!(etab.lines().count(), 3, "{etab}");
}

#[test]
fn a_node_without_an_address_is_told_with_its_row() {
    let c = site(&[]);
    c.table("hosts", "#node,ip\n%1,10.9.1.1\n%2,\n");
    let out = c.run(&["export"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let place = format!("{}:3:", c.path("tables/hosts.csv").display());
    assert!(
        told.contains(&place) && told.contains("has no address"),
        "{told}"
    );
    assert_eq!(parse(&String::from_utf8_lossy(&out.stdout)).len(), 1);
    // One of them alone is well.
    assert!(c.run(&["export", &c.node(1)]).status.success());
    let answer = json(&c.run(&["--json", "export"]));
    assert_eq!(answer["nodes"][0]["clients"][0], "10.9.1.1", "{answer}");
    assert_eq!(answer["problems"][0]["severity"], "error", "{answer}");
}

#[test]
fn nodes_of_other_servers_are_left_out() {
    let c = site(&[]);
    c.table("noderes", "#node,servicenode\n%1,sn1\n%2,sn2\n");
    c.set("server", "\"sn2\"");
    let out = c.run(&["export"]);
    assert!(out.status.success(), "{out:?}");
    let exports = parse(&String::from_utf8_lossy(&out.stdout));
    assert_eq!(exports.len(), 1);
    assert!(
        exports
            .keys()
            .all(|path| Path::new(path).ends_with(c.node(2)))
    );
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        told.contains(&format!("node {} is served by sn1", c.node(1))),
        "{told}"
    );
}

#[test]
fn an_installed_file_is_written_once_and_its_server_told() {
    let c = site(&[]);
    stand_in(&c, "exportfs", 0);
    let installed = || json(&c.run(&["--json", "export", "--install"]))["installed"].clone();
    let first = installed();
    assert_eq!(
        (&first["changed"], &first["server"]),
        (&true.into(), &"told".into())
    );
    assert_eq!(parse(&text(c.path("exports.d/x.exports"))).len(), 2);
    assert_eq!(installed()["changed"], false);
    assert_eq!(text(c.path("exportfs")), "-ra\n-ra\n");
    c.table("hosts", "#node,ip\n%1,10.9.1.1\n%2,10.9.2.9\n");
    assert_eq!(installed()["changed"], true);
    assert!(text(c.path("exports.d/x.exports")).contains("10.9.2.9(rw,"));
    // What the server says is told; the file is there all the same.
    stand_in(&c, "exportfs", 1);
    let out = c.run(&["export", "--install"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(told.contains("exportfs -ra: said by exportfs"), "{told}");
    for wrong in [
        &["export", "--install", "@all"][..],
        &["export", "--file", "/x"],
    ] {
        assert_eq!(c.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let said = c.says(&["export", "--install", "--format", "dnsmasq"]);
    assert!(
        said.contains("--install is for exports and ganesha"),
        "{said}"
    );
}

/// A word for each of thousands of exports, and then success or failure.
#[test]
fn a_server_that_has_much_to_say_is_waited_for() {
    let c = site(&[]);
    for status in [0, 1] {
        stand_in(&c, "exportfs", status);
        let script = text(c.path("bin/exportfs"));
        let said = script.replace(
            "echo said",
            "head -c 1M /dev/zero | tr '\\0' x >&2\necho said",
        );
        put(c.path("bin/exportfs"), said);
        let out = c.run(&["export", "--install"]);
        assert_eq!(out.status.code(), Some(status), "{:?}", out.status);
        let told = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(
            told.contains("exportfs -ra: xxx"),
            status == 1,
            "{told:.100}"
        );
        assert!(told.len() < 10_000, "{} bytes", told.len());
    }
}

#[test]
fn what_boot_loaders_need() {
    let c = site(&[]);
    c.table(
        "noderes",
        "#node,nfsserver,tftpserver\ncompute,localhost,10.9.0.1\n",
    );
    let hosts = "#node,ip\n%1,10.9.1.1\n%2,10.9.1.2\n";
    c.table("hosts", hosts);
    c.table(
        "mac",
        "#node,mac\n%1,00:11:22:33:44:55\n%2,00:11:22:33:44:66\n",
    );
    c.table("osimage", "#imagename,provmethod,osvers,nfsrootopts\nel9-x86_64-statelite-compute,statelite,rhels9,\"vers=3,nolock\"\n");
    let (one, root) = (c.node(1), c.path("roots").join(c.node(1)));
    let root = root.display();
    let line = c.says(&["export", "--format", "kernel-cmdline", &one]);
    assert_eq!(
        line,
        format!("# {one}\nroot=nfs:localhost:{root}:vers=3,nolock rw ip=dhcp\n")
    );
    // initramfs-tools has nobody to ask for a name's address.
    let args = ["export", "--format", "kernel-cmdline", "--initrd"];
    let debian = [&args[..], &["initramfs-tools", &one]].concat();
    let out = c.run(&debian);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    let place = format!("{}:2:9: error: ", c.path("tables/noderes.csv").display());
    assert!(told.contains(&place), "{told}");
    c.table("hosts", &format!("{hosts}localhost,10.9.0.1\n"));
    assert_eq!(
        c.says(&debian),
        format!("# {one}\nroot=/dev/nfs nfsroot=10.9.0.1:{root},vers=3,nolock rw ip=dhcp\n")
    );
    let pxe = c.says(&["export", "--format", "pxelinux", &one]);
    assert!(
        pxe.starts_with("# pxelinux.cfg/01-00-11-22-33-44-55\n"),
        "{pxe}"
    );
    // dnsmasq's own parser takes its lines.
    let out = c.run(&["export", "--format", "dnsmasq"]);
    assert!(out.status.success(), "{out:?}");
    put(c.path("dnsmasq.conf"), &out.stdout);
    let conf = format!("--conf-file={}", c.path("dnsmasq.conf").display());
    let out = Command::new("dnsmasq")
        .args(["--test", &conf])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}
