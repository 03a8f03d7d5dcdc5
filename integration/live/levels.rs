//! Which level counts, as files come and go in each: concatenated files, the first of several, the
//! first directory that is not empty, and what a view tells of it. Each step says what is to be
//! seen, and a new view must agree.

use std::path::PathBuf;

use crate::cluster::{self, Cluster, put};
use crate::harness::*;
use crate::tabled::Tabled;

fn paths(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(PathBuf::from).collect()
}

#[test]
fn a_concatenated_file_follows_each_of_its_parts() {
    let c = Cluster::new(&[
        ("/etc/con", "con"),
        ("/n/", "tmpfs"),
        ("/n/con", "link,con"),
    ]);
    for path in ["etc/con", "n/con"] {
        put(c.image(path), "image\n");
        put(c.tree(1, path), "one\n");
        put(c.tree(2, path), "two\n");
    }
    let (aside, moved) = (c.path("aside"), c.path("moved"));
    let site = Tabled::new(c);
    let (one, two, image) = (
        site.cluster.tree(1, ""),
        site.cluster.tree(2, ""),
        site.cluster.image(""),
    );
    site.warm(&[]);
    let step = |what: &str, text: &str, change: &dyn Fn(&str)| {
        site.shows(&[], what, || {
            ["etc", "n"].iter().for_each(|dir| change(dir))
        });
        site.says("etc/con", text);
        site.says("n/con", text);
    };
    step("nothing", "one\ntwo\n", &|_| ());
    step("edited", "ONE!\ntwo\n", &|dir| {
        write(one.join(dir).join("con"), "ONE!\n").unwrap()
    });
    step("in place, of the same size", "One!\ntwo\n", &|dir| {
        let file = open_rw(one.join(dir).join("con")).unwrap();
        pwrite(&file, 1, "ne").unwrap();
    });
    step("the last part longer", "One!\ntwo\nmore\n", &|dir| {
        append(two.join(dir).join("con"), "more\n").unwrap()
    });
    step("replaced", "first\ntwo\nmore\n", &|dir| {
        write(&aside, "first\n").unwrap();
        rename(&aside, one.join(dir).join("con")).unwrap();
    });
    step("attributes of parts", "first\ntwo\nmore\n", &|dir| {
        chmod(one.join(dir).join("con"), 0o600).unwrap();
        set_times(two.join(dir).join("con"), 2_000_000_000).unwrap();
    });
    step("one part less", "two\nmore\n", &|dir| {
        unlink(one.join(dir).join("con")).unwrap()
    });
    step("a part that is no file", "two\nmore\n", &|dir| {
        symlink("elsewhere", one.join(dir).join("con")).unwrap()
    });
    step("is a file again", "1\ntwo\nmore\n", &|dir| {
        unlink(one.join(dir).join("con")).unwrap();
        write(one.join(dir).join("con"), "1\n").unwrap();
    });
    step("truncated", "1\n", &|dir| {
        truncate(&two.join(dir).join("con"), 0).unwrap()
    });
    step("its directory gone", "", &|dir| {
        rename(one.join(dir), moved.with_extension(dir)).unwrap()
    });
    step("and back", "1\n", &|dir| {
        rename(moved.with_extension(dir), one.join(dir)).unwrap()
    });
    step("no part: the image's", "image\n", &|dir| {
        unlink(one.join(dir).join("con")).unwrap();
        unlink(two.join(dir).join("con")).unwrap();
    });
    step("the image's edited", "image, edited\n", &|dir| {
        write(image.join(dir).join("con"), "image, edited\n").unwrap()
    });
    step("nowhere", "", &|dir| {
        unlink(image.join(dir).join("con")).unwrap()
    });
    step("a part again", "late\n", &|dir| {
        write(two.join(dir).join("con"), "late\n").unwrap()
    });
    // By another name of a part, in the layer and outside.
    step("by another name", "late, and linked\n", &|dir| {
        let part = two.join(dir).join("con");
        let name = moved.with_extension(format!("{dir}.link"));
        link(&part, &name).unwrap();
        write(&name, "late, and linked\n").unwrap();
    });
    // Whoever has written has a copy of the whole from then on; others go on.
    write(site.at(0, "etc/con"), "mine\n").unwrap();
    write(two.join("etc/con"), "not for the first\n").unwrap();
    site.settle();
    assert_eq!(read(site.at(0, "etc/con")).unwrap(), b"mine\n");
    assert_eq!(read(site.at(1, "etc/con")).unwrap(), b"not for the first\n");
}

#[test]
fn the_first_level_that_has_a_name_shows_and_then_the_next() {
    let c = Cluster::new(&[
        ("/opt/", "tmpfs"),
        ("/etc/f", "persistent"),
        ("/etc/r", "ro"),
        ("/etc/k", "link"),
    ]);
    let files = ["opt/f", "opt/d/f", "etc/f", "etc/r", "etc/k"];
    put(c.image("etc/none"), "");
    cluster::dir(c.image("opt"));
    let site = Tabled::new(c);
    let layers = site.layers();
    let all: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    site.warm(&all);
    // Level after level, each over the ones before, and gone again in the other order.
    for (n, layer) in layers.iter().enumerate().rev() {
        let text = format!("{n}\n");
        site.shows(&all, "a level more", || {
            files.iter().for_each(|file| put(layer.join(file), &text))
        });
        files.iter().for_each(|file| site.says(file, &text));
    }
    for n in 0..layers.len() {
        site.shows(&all, "a level less", || {
            for file in files {
                unlink(layers[n].join(file)).unwrap();
            }
        });
        for file in files {
            match n + 1 < layers.len() {
                true => site.says(file, &format!("{}\n", n + 1)),
                // What has a rule of its own is there, empty.
                false if file.starts_with("etc") => site.says(file, ""),
                false => assert!(!exists(site.at(0, file)) && !exists(site.at(1, file))),
            }
        }
    }
}

#[test]
fn the_first_directory_that_is_not_empty_is_another_one_now() {
    let c = Cluster::new(&[
        ("/opt/", "tmpfs"),
        ("/nest/", "tmpfs"),
        ("/nest/in/", "persistent"),
        ("/srv/", "ro"),
        ("/kept/", "persistent"),
    ]);
    c.set("litetree_directories", "\"first\"");
    let dirs = ["opt", "nest/in", "srv", "kept"];
    for dir in dirs {
        put(c.image(dir).join("image"), "image\n");
        put(c.image(dir).join("sub/image"), "image\n");
    }
    let site = Tabled::new(c);
    let layers = site.layers();
    for dir in ["opt", "kept"] {
        write(site.at(1, dir).join("mine"), "mine\n").unwrap();
    }
    let names_of = ["one", "two", "sub/one", "sub/two", "sub/new", "image"];
    let absent: Vec<PathBuf> = dirs
        .iter()
        .flat_map(|dir| names_of.map(|name| PathBuf::from(dir).join(name)))
        .collect();
    site.warm(&absent);
    let step = |what: &str, shown: &[&str], change: &dyn Fn(&str)| {
        site.shows(&absent, what, || dirs.iter().for_each(|dir| change(dir)));
        for dir in dirs {
            assert_eq!(names(site.at(0, dir)), shown, "{what}: {dir}");
        }
        assert!(exists(site.at(1, "opt/mine")) && exists(site.at(1, "kept/mine")));
    };
    let [one, two, image] = &layers;
    step("the image's", &["image", "sub"], &|_| ());
    step("an empty one before it", &["image", "sub"], &|dir| {
        std::fs::create_dir_all(two.join(dir)).unwrap();
        std::fs::create_dir_all(one.join(dir)).unwrap();
    });
    step("one that is not empty", &["sub", "two"], &|dir| {
        put(two.join(dir).join("two"), "two\n");
        put(two.join(dir).join("sub/two"), "two\n");
    });
    step("a change in what is hidden", &["sub", "two"], &|dir| {
        put(image.join(dir).join("sub/new"), "new\n")
    });
    step("and one before that", &["one"], &|dir| {
        put(one.join(dir).join("one"), "one\n")
    });
    step("a second name in it", &["image", "one"], &|dir| {
        put(one.join(dir).join("image"), "of one\n")
    });
    step("empty again", &["sub", "two"], &|dir| {
        unlink(one.join(dir).join("one")).unwrap();
        unlink(one.join(dir).join("image")).unwrap();
    });
    step("moved away", &["image", "sub"], &|dir| {
        let aside = site.cluster.path("aside").join(dir);
        std::fs::create_dir_all(aside.parent().unwrap()).unwrap();
        for name in ["two", "sub"] {
            let to = format!("{}.{name}", aside.display());
            rename(two.join(dir).join(name), to).unwrap();
        }
    });
    step("moved back", &["sub", "two"], &|dir| {
        let aside = site.cluster.path("aside").join(dir);
        for name in ["two", "sub"] {
            let from = format!("{}.{name}", aside.display());
            rename(from, two.join(dir).join(name)).unwrap();
        }
    });
}

#[test]
fn what_a_view_tells_of_its_levels_follows_them() {
    let c = Cluster::new(&[("/etc/f", "tmpfs"), ("/etc/con", "con"), ("/d/", "ro")]);
    put(c.image("etc/f"), "image\n");
    put(c.image("d/x"), "image\n");
    put(c.tree(1, "etc/con"), "one\n");
    let site = Tabled::new(c);
    let absent = paths(&[
        ".default/etc/con",
        ".default/d/y",
        ".default/etc/other",
        ".statelite/other",
        ".default/d/x/deep",
    ]);
    site.warm(&absent);
    let (one, image) = (site.cluster.tree(1, ""), site.cluster.image(""));
    let log_says = |line: &str| {
        for view in &site.views {
            let log = view.at(".statelite/statelite.log");
            // What it tells depends on more than is told of: it is believed for a moment.
            poll_until(line, || {
                String::from_utf8(read(&log).unwrap())
                    .unwrap()
                    .contains(line)
            });
        }
    };
    log_says("/etc/f: tmpfs: file from image");
    site.shows(&absent, "litetrees don't show in it", || {
        put(one.join("etc/f"), "one\n");
        put(one.join("d/y"), "one\n");
    });
    site.says(".default/etc/f", "image\n");
    log_says("/etc/f: tmpfs: file from litetree 1");
    site.shows(&absent, "the image does", || {
        put(image.join("etc/f"), "edited\n");
        put(image.join("d/y"), "new\n");
        put(image.join("etc/con"), "image\n");
        put(image.join("etc/other"), "no rule\n");
    });
    site.says(".default/etc/f", "edited\n");
    site.says(".default/d/y", "new\n");
    site.says(".default/etc/con", "image\n");
    assert_eq!(names(site.at(0, ".default/etc")), ["con", "f"]);
    site.shows(&absent, "what went from the image", || {
        unlink(image.join("d/x")).unwrap();
        unlink(image.join("etc/con")).unwrap();
        put(image.join("d/x/deep"), "a directory now\n");
    });
    site.says(".default/d/x/deep", "a directory now\n");
    site.says(".default/etc/con", "");
    site.shows(&absent, "the age of what only the view has", || {
        set_times(&image, 1_234_567).unwrap()
    });
    for path in [
        ".statelite",
        ".statelite/litefile",
        "etc/mtab",
        ".statelite/persistent",
    ] {
        let stat = lstat(site.at(0, path)).unwrap();
        assert_eq!(stat.st_mtime, 1_234_567, "{path}");
    }
    unlink(one.join("etc/con")).unwrap();
    log_says("/etc/con: con: ");
}
