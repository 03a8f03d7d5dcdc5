//! A handle that a client keeps leads to its object through all that happens to it, or says that it is gone.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use crate::cluster::{Tmpfs, dir, eventually, exists, put, stat};
use crate::daemon::Daemon;
use crate::harness::drop_caches;
use crate::server::{Client, STALE};
use crate::site::{Served, cluster};

over_both_versions!(
    through_everything,
    gone_is_stale,
    through_new_mounts,
    through_a_new_daemon
);

/// A client's handles by the path at which each was taken.
struct Kept {
    client: Client,
    /// The path where the object is now.
    handles: BTreeMap<String, String>,
}

impl Kept {
    fn new(client: Client, paths: &[&str]) -> Self {
        let mut kept = Self {
            client,
            handles: BTreeMap::new(),
        };
        paths.iter().for_each(|path| kept.add(path));
        kept
    }

    #[track_caller]
    fn add(&mut self, path: &str) {
        let handle = self.client.get(&["handle", path]);
        self.handles.insert(path.into(), handle);
    }

    fn moved(&mut self, from: &str, to: &str) {
        let handle = self.handles.remove(from).unwrap();
        self.handles.insert(to.into(), handle);
    }

    /// Waits until Ganesha has followed the daemon.
    fn comes_back(&mut self, path: &str) {
        let handle = &self.handles[path];
        eventually("it is exported again", || {
            self.client.ask(&["fattr", handle]).is_ok()
        });
    }

    /// All lead to what is at their paths. Handles first: a path that is walked brings to memory what
    /// lies at it.
    #[track_caller]
    fn check(&mut self, d: &Daemon<'_>, what: &str) {
        let mut found = Vec::new();
        for (path, handle) in &self.handles {
            let answer = self.client.ask(&["fattr", handle]);
            found.push((
                path,
                answer.unwrap_or_else(|e| panic!("{what}: {path}: {e}")),
            ));
        }
        for (path, answer) in found {
            let here = stat(d.at(1, path));
            let expected = format!("{} {}", here.ino(), here.len());
            assert_eq!(answer, [expected], "{what}: {path}");
            let handle = &self.handles[path];
            if here.is_dir() {
                let below = self.client.get(&["flook", handle, "below"]);
                let answer = self.client.get(&["fattr", &below]);
                let below = stat(d.at(1, path).join("below"));
                assert_eq!(
                    answer,
                    format!("{} {}", below.ino(), below.len()),
                    "{what}: {path}"
                );
            } else {
                let mut contents = std::fs::read(d.at(1, path)).unwrap();
                contents.truncate(4096);
                assert_eq!(
                    self.client.bytes(&["fread", handle]),
                    contents,
                    "{what}: {path}"
                );
            }
        }
    }
}

const PATHS: [&str; 9] = [
    "usr/image",
    "usr/dir",
    "usr/large",
    "etc/image",
    "etc/tree",
    "etc/hosts",
    "etc/dir",
    "var/image",
    "var/dir",
];

/// What is kept, and what has been open all along, once the kernel has forgotten both.
#[track_caller]
fn check(d: &Daemon<'_>, kept: &mut Kept, open: &mut Client, contents: &str, what: &str) {
    drop_caches();
    kept.check(d, what);
    assert_eq!(open.bytes(&["pread", "0"]), contents.as_bytes(), "{what}");
}

fn through_everything(version: u32) {
    let c = cluster();
    let s = Served::start(&c);
    let d = &s.daemon;
    for zone in ["etc", "var"] {
        put(d.at(1, &format!("{zone}/own/below")), "own\n");
    }
    let mut kept = Kept::new(s.ganesha.client(version, 1), &PATHS);
    for path in ["etc/own", "etc/own/below", "var/own", "var/own/below"] {
        kept.add(path);
    }
    let mut open = s.ganesha.client(version, 1);
    open.get(&["open", "0", "/etc/image"]);
    check(d, &mut kept, &mut open, "etc image\n", "caches dropped");
    put(d.at(1, "etc/image"), "copied up\n");
    put(d.at(1, "var/image"), "copied up\n");
    std::fs::write(d.at(1, "etc/dir/new"), "").unwrap();
    check(d, &mut kept, &mut open, "copied up\n", "copied up");
    for zone in ["etc", "var"] {
        for (from, to) in [("own", "moved"), ("image", "dir/image")] {
            let [from, to] = [from, to].map(|name| format!("{zone}/{name}"));
            std::fs::rename(d.at(1, &from), d.at(1, &to)).unwrap();
            kept.moved(&from, &to);
        }
        kept.moved(&format!("{zone}/own/below"), &format!("{zone}/moved/below"));
    }
    check(d, &mut kept, &mut open, "copied up\n", "renamed");
    c.rule("/usr/dir/", "tmpfs");
    d.reload();
    check(d, &mut kept, &mut open, "copied up\n", "a rule more");
    // What was open goes on, to the server's disk.
    open.get(&["pwrite", "0", &crate::server::hex("wr")]);
    check(
        d,
        &mut kept,
        &mut open,
        "wrpied up\n",
        "written by who had it open",
    );
    put(c.image("usr/image"), "changed below\n");
    eventually("it shows", || stat(d.at(1, "usr/image")).len() == 14);
    check(d, &mut kept, &mut open, "wrpied up\n", "changed below");
}

/// Never another object, whatever has come to the place.
fn gone_is_stale(version: u32) {
    let c = cluster();
    let s = Served::start(&c);
    let d = &s.daemon;
    for path in ["etc/own", "etc/tree2/own", "var/own"] {
        put(d.at(1, path), path);
    }
    put(c.image("usr/gone"), "gone");
    std::fs::write(d.at(1, "etc/image"), "copied").unwrap();
    let paths = [
        "etc/own",
        "etc/tree2",
        "etc/tree2/own",
        "var/own",
        "usr/gone",
        "etc/image",
    ];
    let mut client = s.ganesha.client(version, 1);
    let gone = paths.map(|path| (path, client.get(&["handle", path])));
    for path in ["etc/own", "etc/tree2/own", "var/own", "etc/image"] {
        std::fs::remove_file(d.at(1, path)).unwrap();
    }
    std::fs::remove_dir(d.at(1, "etc/tree2")).unwrap();
    std::fs::remove_file(c.image("usr/gone")).unwrap();
    eventually("the removal below shows", || !exists(d.at(1, "usr/gone")));
    let mut check = |when: &str| {
        drop_caches();
        for (path, handle) in &gone {
            for words in [
                &["fattr", handle][..],
                &["fread", handle],
                &["flook", handle, "own"],
            ] {
                assert_eq!(client.ask(words), Err(STALE), "{words:?} of {path}, {when}");
            }
        }
    };
    check("removed");
    for path in ["etc/own", "etc/tree2/own", "var/own", "etc/image"] {
        put(d.at(1, path), "another");
    }
    check("another in its place");
}

/// The number of the device that a root is on, which Ganesha has in its handles.
fn device(d: &Daemon<'_>) -> u64 {
    stat(d.root(1)).dev()
}

/// Unmounts the root, and mounts it once `first` has been done.
fn remount<T>(d: &Daemon<'_>, first: impl FnOnce() -> T) -> T {
    assert!(d.run(&["umount", &d.node(1)]).status.success());
    let done = first();
    assert!(d.run(&["mount", &d.node(1)]).status.success());
    done
}

/// Mounts the root anew as this device, unless somebody else has the number by now. The kernel gives the
/// lowest that is free, so lower ones are taken first.
fn remount_as(d: &Daemon<'_>, wanted: u64) -> bool {
    let (mut taken, places) = (Vec::new(), dir(d.path("places")));
    assert!(d.run(&["umount", &d.node(2)]).status.success());
    remount(d, || {
        loop {
            let place = dir(places.join(taken.len().to_string()));
            let tmpfs = Tmpfs::on(&place);
            if stat(&place).dev() >= wanted {
                break;
            }
            taken.push(tmpfs);
        }
    });
    assert!(d.run(&["mount", &d.node(2)]).status.success());
    device(d) == wanted
}

/// A mount is another device to Ganesha, unless it happens to get the number of the one before. Its
/// handles hold then, and are stale otherwise, and never lead elsewhere.
fn through_new_mounts(version: u32) {
    let c = cluster();
    // Each try is a boot.
    c.set("boot_window", "\"0\"");
    let s = Served::start(&c);
    let d = &s.daemon;
    let mut kept = Kept::new(s.ganesha.client(version, 1), &PATHS);
    let first = device(d);
    let keeper = remount(d, || {
        let at = dir(c.path("another"));
        let tmpfs = Tmpfs::on(&at);
        (stat(&at).dev() == first).then_some(tmpfs)
    });
    if device(d) != first {
        for (path, handle) in &kept.handles {
            let found = kept.client.ask(&["fattr", handle]);
            assert_eq!(found, Err(STALE), "{path} of another device");
        }
    }
    drop(keeper);
    eventually("a new mount is the same device", || {
        put(d.at(1, "etc/own/below"), "own\n");
        put(d.at(1, "var/own/below"), "own\n");
        s.ganesha.comes_to_export(1);
        kept = Kept::new(s.ganesha.client(version, 1), &PATHS);
        kept.add("etc/own");
        kept.add("var/own");
        let mut open = s.ganesha.client(version, 1);
        open.get(&["open", "0", "/etc/image"]);
        if !remount_as(d, device(d)) {
            return false;
        }
        kept.comes_back("usr/image");
        kept.check(d, "mounted anew");
        // An open file of version 4 is the server's state of an export that has gone.
        let open = open.ask(&["pread", "0"]);
        assert_eq!(open.is_ok(), version == 3, "{open:?}");
        let before = device(d);
        let out = c.run(&["reset", "--on-boot", &c.node(1)]);
        assert!(out.status.success(), "{out:?}");
        if !remount_as(d, before) {
            return false;
        }
        kept.comes_back("usr/image");
        let own = kept.handles.remove("etc/own").unwrap();
        kept.check(d, "reset");
        assert_eq!(kept.client.ask(&["fattr", &own]), Err(STALE), "reset");
        true
    });
}

fn through_a_new_daemon(version: u32) {
    let c = cluster();
    let Served {
        _shared,
        daemon,
        ganesha,
    } = Served::start(&c);
    let mut serving = Some(daemon);
    eventually("a new daemon's mount is the same device", || {
        let old = serving.take().unwrap();
        put(old.at(1, "var/own/below"), "own\n");
        ganesha.comes_to_export(1);
        let mut kept = Kept::new(ganesha.client(version, 1), &PATHS);
        kept.add("var/own");
        let before = device(&old);
        drop(old);
        let (_, handle) = kept.handles.first_key_value().unwrap();
        assert!(
            kept.client.ask(&["fattr", handle]).is_err(),
            "nobody exports it"
        );
        let new = serving.insert(Daemon::start(&c));
        let is_same = remount_as(new, before);
        if is_same {
            kept.comes_back("usr/image");
            kept.check(new, "a new daemon");
        }
        is_same
    });
}
