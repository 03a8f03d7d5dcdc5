//! What a client does is done, and lies where the rule says.

use std::path::Path;

use rustix::io::Errno;

use crate::cluster::{Cluster, exists, mode, names, stat, text};
use crate::harness::is_whiteout;
use crate::server::{Client, hex};
use crate::site::{Served, cluster, line};

over_both_versions!(every_change, ten_thousand_files);

fn every_change(version: u32) {
    let c = cluster();
    let s = Served::start(&c);
    let mut client = s.ganesha.client(version, 1);
    for (zone, upper) in [("etc", c.tmpfs(1, "etc")), ("var", c.store(1, "var"))] {
        change(&mut client, zone, &s.daemon.at(1, zone), &upper);
    }
    refused(&mut client, &c);
    // Nothing of it has come to another root or to a layer that is shared.
    assert_eq!(text(s.daemon.at(2, "etc/image")), "etc image\n");
    assert_eq!(text(c.image("var/image")), "var image\n");
}

fn change(client: &mut Client, zone: &str, here: &Path, upper: &Path) {
    let at = |name: &str| format!("/{zone}/{name}");
    let both = |name: &str| [here.join(name), upper.join(name)];
    client.get(&["create", &at("new"), &hex("hello")]);
    client.get(&["append", &at("image"), &hex("more")]);
    for (name, expected) in [("new", "hello"), ("image", &*format!("{zone} image\nmore"))] {
        assert_eq!(both(name).map(text), [expected, expected]);
        assert_eq!(client.bytes(&["read", &at(name)]), expected.as_bytes());
    }
    client.get(&["rename", &at("new"), &at("renamed")]);
    client.get(&["rename", &at("image"), &at("dir/image")]);
    assert!(!exists(here.join("new")) && !exists(here.join("image")));
    assert!(is_whiteout(upper.join("image")));
    assert_eq!(
        both("dir/image").map(text),
        [zone, zone].map(|zone| format!("{zone} image\nmore"))
    );
    client.get(&["link", &at("renamed"), &at("linked")]);
    assert_eq!(line(here.join("renamed")), line(here.join("linked")));
    assert_eq!(
        client.get(&["stat", &at("linked")]),
        line(here.join("renamed"))
    );
    client.get(&["unlink", &at("renamed")]);
    assert_eq!(both("linked").map(text), ["hello", "hello"]);
    client.get(&["symlink", "some/where", &at("led")]);
    for path in both("led") {
        assert_eq!(
            std::fs::read_link(path).unwrap().to_str(),
            Some("some/where")
        );
    }
    client.get(&["mkdir", &at("made")]);
    client.get(&["rename", &at("linked"), &at("made/linked")]);
    assert_eq!(
        client.ask(&["rmdir", &at("made")]),
        Err(Errno::NOTEMPTY.raw_os_error())
    );
    client.get(&["rename", &at("made"), &at("moved")]);
    assert_eq!(both("moved/linked").map(text), ["hello", "hello"]);
    client.get(&["truncate", &at("large"), "12345"]);
    assert_eq!(both("large").map(|path| stat(path).len()), [12345, 12345]);
    assert_eq!(
        client.bytes(&["read", &at("large")]),
        "0123456789".repeat(1235).as_bytes()[..12345]
    );
    client.get(&["chmod", &at("mode"), "640"]);
    client.get(&["chown", &at("mode"), "7", "8"]);
    client.get(&["mtime", &at("mode"), "1000000000"]);
    assert_eq!(both("mode").map(mode), [0o640, 0o640]);
    for path in both("mode") {
        let words: Vec<_> = line(path).split(' ').map(String::from).collect();
        assert_eq!(words[3..], ["7", "8", "0", "1000000000"]);
    }
    client.get(&["unlink", &at("tree")]);
    assert!(!exists(here.join("tree")) && is_whiteout(upper.join("tree")));
    assert_eq!(
        client.ask(&["stat", &at("tree")]),
        Err(Errno::NOENT.raw_os_error())
    );
    client.get(&["unlink", &at("moved/linked")]);
    client.get(&["rmdir", &at("moved")]);
    assert!(both("moved").iter().all(|path| !exists(path)));
    let mut listed = client.ask(&["list", &format!("/{zone}")]).unwrap();
    listed.retain(|name| !name.starts_with('.'));
    listed.sort();
    assert_eq!(listed, names(here));
}

fn refused(client: &mut Client, c: &Cluster) {
    for (words, why) in [
        (&["create", "/usr/new", ""][..], Errno::ROFS),
        (&["chmod", "/usr/image", "600"], Errno::ROFS),
        (&["rename", "/usr/image", "/usr/other"], Errno::ROFS),
        (&["rename", "/etc/symlink", "/var/other"], Errno::XDEV),
        (&["link", "/etc/mode", "/var/other"], Errno::XDEV),
        (&["mkdir", "/etc/dir"], Errno::EXIST),
        (&["rmdir", "/etc/dir"], Errno::NOTEMPTY),
        (&["create", "/etc/none/new", ""], Errno::NOENT),
    ] {
        assert_eq!(client.ask(words), Err(why.raw_os_error()), "{words:?}");
    }
    // A rule's own path stays, with whatever a protocol has for it.
    assert!(client.ask(&["unlink", "/etc/hosts"]).is_err());
    assert!(client.ask(&["append", "/usr/image", "00"]).is_err());
    assert!(!exists(c.image("usr/new")));
}

fn ten_thousand_files(version: u32) {
    const COUNT: usize = 10_000;
    let c = cluster();
    let s = Served::start(&c);
    let mut client = s.ganesha.client(version, 1);
    client.get(&["mkdir", "/etc/many"]);
    client.get(&["many", "/etc/many", "file", &COUNT.to_string()]);
    let mut expected: Vec<_> = (0..COUNT).map(|n| format!("file{n}")).collect();
    expected.sort();
    let mut listed = client.ask(&["list", "/etc/many"]).unwrap();
    listed.retain(|name| !name.starts_with('.'));
    listed.sort();
    assert!(listed == expected, "{} of them are listed", listed.len());
    assert!(names(s.daemon.at(1, "etc/many")) == expected);
    assert!(names(c.tmpfs(1, "etc/many")) == expected);
    client.get(&["fewer", "/etc/many", "file", &COUNT.to_string()]);
    client.get(&["rmdir", "/etc/many"]);
    assert!(!exists(s.daemon.at(1, "etc/many")) && !exists(c.tmpfs(1, "etc/many")));
}
