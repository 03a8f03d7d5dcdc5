//! Changes in litetrees and in the image, under every option that a rule can have and outside all
//! rules, in a view that has written and in one that has not.

use std::path::{Path, PathBuf};

use crate::cluster::{self, Cluster};
use crate::harness::*;
use crate::tabled::Tabled;

/// Directories, each with a rule of its own or with none, and some within others.
const ZONES: [(&str, &str); 9] = [
    ("t", "tmpfs"),
    ("p", "persistent"),
    ("disk", "localdisk"),
    ("r", "ro"),
    ("n", "tmpfs"),
    ("n/in", "ro"),
    ("n/in/deep", "persistent"),
    ("n/in/deep/er", "tmpfs"),
    ("out", "none"),
];

const FILES: [(&str, &str); 4] = [
    ("etc/t", "tmpfs"),
    ("etc/p", "persistent"),
    ("etc/r", "ro"),
    ("n/in/con", "con"),
];

const LINKS: [(&str, &str); 5] = [
    ("k", "link"),
    ("b", ""),
    ("kp", "link,persistent"),
    ("kr", "link,ro"),
    ("k/in", "link,persistent"),
];

const LINKED_FILES: [(&str, &str); 3] = [
    ("etc/k", "link"),
    ("etc/kp", "link,persistent"),
    ("etc/kc", "link,con"),
];

/// What is done in one layer's part of a zone.
type Change = fn(&Path, &Path);

/// In this order, so that each finds what the ones before left.
const CHANGES: [(&str, Change); 21] = [
    ("a file written", |z, _| {
        write(z.join("f"), format!("{}\n", z.display())).unwrap()
    }),
    ("appended to", |z, _| append(z.join("f"), "more").unwrap()),
    ("replaced", |z, aside| {
        write(aside, "the new one").unwrap();
        rename(aside, z.join("f")).unwrap();
    }),
    ("attributes", |z, _| {
        for at in [z.to_owned(), z.join("f")] {
            chmod(&at, 0o750).unwrap();
            lchown(&at, Some(12), Some(34)).unwrap();
            setx(&at, "user.x", "y").unwrap();
            set_times(&at, 1_000_000).unwrap();
        }
    }),
    ("removed", |z, _| unlink(z.join("f")).unwrap()),
    ("a directory in its place", |z, _| {
        mkdir(z.join("f"), 0o755).unwrap();
        write(z.join("f/x"), "x").unwrap();
    }),
    ("a symlink in its place", |z, _| {
        std::fs::remove_dir_all(z.join("f")).unwrap();
        symlink("d/f", z.join("f")).unwrap();
    }),
    ("another symlink", |z, aside| {
        symlink("d/g", aside).unwrap();
        rename(aside, z.join("f")).unwrap();
    }),
    ("a file again", |z, _| {
        unlink(z.join("f")).unwrap();
        write(z.join("f"), "again").unwrap();
    }),
    ("new names", |z, _| {
        for path in ["new", "d/new", "d/sub/new", "empty/f", "later/deep/x"] {
            cluster::put(z.join(path), path);
        }
    }),
    ("all of them gone", |z, _| {
        std::fs::remove_dir_all(z.join("later")).unwrap();
        for path in ["new", "d/new", "d/sub/new", "empty/f"] {
            unlink(z.join(path)).unwrap();
        }
    }),
    ("a whiteout", |z, _| {
        unlink(z.join("d/g")).ok();
        mknod(z.join("d/g"), FileType::CharacterDevice, 0o600, 0).unwrap();
    }),
    ("no whiteout", |z, _| {
        unlink(z.join("d/g")).unwrap();
        write(z.join("d/g"), "back").unwrap();
    }),
    ("opaque", |z, _| {
        setx(z.join("d"), "trusted.overlay.opaque", "y").unwrap()
    }),
    ("not opaque", |z, _| {
        rmx(z.join("d"), "trusted.overlay.opaque").unwrap()
    }),
    ("a directory moved out", |z, aside| {
        rename(z.join("d"), aside).unwrap()
    }),
    ("and in", |z, aside| rename(aside, z.join("d")).unwrap()),
    ("a directory moved within", |z, _| {
        rename(z.join("d/sub"), z.join("empty/sub")).unwrap()
    }),
    ("a file in the place of a directory", |z, aside| {
        rename(z.join("d"), aside).unwrap();
        write(z.join("d"), "a file").unwrap();
    }),
    ("the directory again", |z, aside| {
        unlink(z.join("d")).unwrap();
        rename(aside, z.join("d")).unwrap();
    }),
    ("hard links", |z, _| {
        link(z.join("f"), z.join("d/hard")).unwrap();
        append(z.join("d/hard"), "by the other name").unwrap();
    }),
];

type Rules<'r> = &'r [(&'r str, &'r str)];

fn fill(c: &Cluster, zones: Rules<'_>, files: Rules<'_>) {
    for (zone, _) in zones {
        let at = |path: &str| Path::new(zone).join(path);
        for path in ["f", "d/f", "d/g", "d/sub/f", "other/f", "gone"] {
            cluster::put(c.image(at(path)), format!("{zone} {path}\n").repeat(500));
        }
        cluster::dir(c.image(at("empty")));
        cluster::link("f", c.image(at("l")));
        for (tree, path) in [(1, "d/one"), (2, "d/two"), (2, "d/g")] {
            cluster::put(c.tree(tree, at(path)), format!("{tree} {path}\n"));
        }
        // Each layer has what its changes begin with.
        for tree in [1, 2] {
            cluster::dir(c.tree(tree, at("empty")));
            cluster::dir(c.tree(tree, at("d/sub")));
        }
    }
    for (path, _) in files {
        cluster::put(c.image(path), "image\n");
        cluster::put(c.tree(2, path), "two\n");
        cluster::dir(c.tree(1, path).parent().unwrap());
    }
}

/// A site that has all of it cached, and in whose second view the node has written where it can.
fn site(zones: Rules<'_>, files: Rules<'_>, settings: &[(&str, &str)]) -> Tabled {
    let c = Cluster::new(&[]);
    for (path, option) in zones.iter().filter(|(_, option)| *option != "none") {
        c.rule(&format!("/{path}/"), option);
    }
    for (path, option) in files {
        c.rule(&format!("/{path}"), option);
    }
    for (key, value) in settings {
        c.set(key, value);
    }
    fill(&c, zones, files);
    let site = Tabled::new(c);
    let readonly = |option: &str| option.ends_with("ro") || option == "none";
    for (zone, _) in zones.iter().filter(|(_, option)| !readonly(option)) {
        let at = |path: &str| site.at(1, zone).join(path);
        write(at("d/mine"), "mine").unwrap();
        write(at("other/f"), "mine").unwrap();
        unlink(at("gone")).unwrap();
    }
    write(site.at(1, files[0].0), "mine\n").unwrap();
    site.warm(&absences(zones));
    site
}

fn absences(zones: Rules<'_>) -> Vec<PathBuf> {
    let names = [
        "new",
        "d/new",
        "d/sub/new",
        "empty/f",
        "empty/sub",
        "later",
        "later/deep/x",
        "f/x",
    ];
    let within = |(zone, _): &(&str, _)| names.map(|name| Path::new(zone).join(name));
    let mut all: Vec<PathBuf> = zones.iter().flat_map(within).collect();
    let default: Vec<PathBuf> = all.iter().map(|p| Path::new(".default").join(p)).collect();
    all.extend(default);
    all
}

/// Every change in one layer, in all zones at once. What a change has shown is cached for the next.
fn every_change(site: &Tabled, zones: Rules<'_>, files: Rules<'_>, layer: usize) {
    let absences = absences(zones);
    let aside = cluster::dir(site.cluster.path("aside"));
    let layer = &site.layers()[layer];
    let shows = |what: &str, change: &dyn Fn()| site.shows(&absences, what, change);
    for (what, change) in CHANGES {
        shows(what, &|| {
            for (n, (zone, _)) in zones.iter().enumerate() {
                change(&layer.join(zone), &aside.join(n.to_string()));
            }
        });
    }
    for (what, change) in CHANGES_OF_FILES {
        shows(what, &|| {
            for (path, _) in files {
                change(&layer.join(path), &aside.join("file"));
            }
        });
    }
    // The rules' own paths go from the layer, and come back.
    let tops = || zones.iter().filter(|(zone, _)| !zone.contains('/'));
    shows("all zones gone", &|| {
        for (top, _) in tops() {
            rename(layer.join(top), aside.join(top)).unwrap();
        }
    });
    shows("all zones back", &|| {
        for (top, _) in tops() {
            rename(aside.join(top), layer.join(top)).unwrap();
        }
    });
    assert_eq!(read(site.at(1, files[0].0)).unwrap(), b"mine\n");
}

/// Of a file with a rule of its own.
const CHANGES_OF_FILES: [(&str, Change); 6] = [
    ("a ruled file written", |f, _| {
        write(f, "written\n").unwrap()
    }),
    ("a ruled file replaced", |f, aside| {
        write(aside, "new\n").unwrap();
        chmod(aside, 0o600).unwrap();
        rename(aside, f).unwrap();
    }),
    ("a ruled file gone", |f, _| unlink(f).unwrap()),
    ("a directory in its place", |f, _| mkdir(f, 0o755).unwrap()),
    ("a symlink in its place", |f, _| {
        rmdir(f).unwrap();
        symlink("../f", f).unwrap();
    }),
    ("a ruled file back", |f, _| {
        unlink(f).unwrap();
        write(f, "back\n").unwrap();
    }),
];

#[test]
fn whatever_changes_in_a_litetree_shows_under_every_option() {
    every_change(&site(&ZONES, &FILES, &[]), &ZONES, &FILES, 0);
}

#[test]
fn whatever_changes_in_a_litetree_between_others_shows_under_every_option() {
    every_change(&site(&ZONES, &FILES, &[]), &ZONES, &FILES, 1);
}

#[test]
fn whatever_changes_in_the_image_shows_under_every_option() {
    every_change(&site(&ZONES, &FILES, &[]), &ZONES, &FILES, 2);
}

#[test]
fn whatever_changes_shows_behind_the_symlinks_of_link_view() {
    let site = site(&LINKS, &LINKED_FILES, &[("link_view", "\"symlink\"")]);
    for layer in [0, 2] {
        every_change(&site, &LINKS, &LINKED_FILES, layer);
    }
}

#[test]
fn whatever_changes_shows_under_link_rules() {
    let site = site(&LINKS, &LINKED_FILES, &[]);
    every_change(&site, &LINKS, &LINKED_FILES, 1);
}
