//! A client sees the root as it is.

use std::path::Path;

use crate::cluster::{names, put};
use crate::server::Client;
use crate::site::{Served, cluster, line};

over_both_versions!(whole_tree);

fn whole_tree(version: u32) {
    let c = cluster();
    let s = Served::start(&c);
    for zone in ["etc", "var"] {
        put(s.daemon.at(1, &format!("{zone}/own/file")), "own\n");
        put(s.daemon.at(1, &format!("{zone}/image")), "changed\n");
        std::fs::remove_file(s.daemon.at(1, &format!("{zone}/tree"))).unwrap();
    }
    let mut client = s.ganesha.client(version, 1);
    let seen = compare(&mut client, &s.daemon.root(1), "");
    // What each layer has is in it.
    for path in [
        "etc/own",
        "etc/hosts",
        "var/dir",
        "usr/large",
        ".default/etc/large",
    ] {
        assert!(seen.iter().any(|seen| seen == path), "{path} of {seen:?}");
    }
}

/// Everything below a directory, by the client and on the server; the paths.
fn compare(client: &mut Client, root: &Path, below: &str) -> Vec<String> {
    let mut found = client.ask(&["list", &format!("/{below}")]).unwrap();
    found.retain(|name| name != "." && name != "..");
    found.sort();
    assert_eq!(found, names(root.join(below)), "names in {below:?}");
    let mut all = Vec::new();
    for name in found {
        let path = [below, &name].join("/");
        let path = path.trim_start_matches('/').to_owned();
        let (asked, here) = (format!("/{path}"), root.join(&path));
        assert_eq!(client.get(&["stat", &asked]), line(&here), "{path}");
        let kind = here.symlink_metadata().unwrap().file_type();
        all.push(path.clone());
        if kind.is_dir() {
            all.extend(compare(client, root, &path));
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&here).unwrap();
            assert_eq!(client.get(&["readlink", &asked]), target.to_str().unwrap());
        } else if kind.is_file() {
            let contents = std::fs::read(&here).unwrap();
            assert_eq!(client.bytes(&["read", &asked]), contents, "{path}");
        }
    }
    all
}
