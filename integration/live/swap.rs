//! Other rules and layers for a mounted view, while it is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use statelite::config::Config;
use statelite::fleet::Shared;
use statelite::fs::{IoMode, Roles, TreeMode, View, ViewOptions, ViewSpec};
use statelite::layer::{FormChoice, Layer, LayerSpec, UpperSpec};
use statelite::rules::{CompileOptions, Rule, compile};
use statelite::tables::LiteOption;

use crate::harness::sys::Map;
use crate::harness::*;
use crate::site::{ALL, Mounted};

/// What a view is made of here.
#[derive(Clone)]
struct Made {
    image: &'static str,
    trees: Vec<&'static str>,
    rules: Vec<(&'static str, LiteOption)>,
}

fn made(rules: &[(&'static str, LiteOption)]) -> Made {
    Made {
        image: "image",
        trees: vec!["tree1", "tree2"],
        rules: rules.to_vec(),
    }
}

struct Cell {
    view: Option<Mounted>,
    shared: Shared,
    base: tempfile::TempDir,
}

impl Cell {
    fn new(first: &Made) -> Cell {
        let base = scratch();
        for dir in ["image", "image2", "tree1", "tree2"] {
            for sub in ["", "d", "d/sub", "e", "e/in"] {
                mkdir(base.path().join(dir).join(sub), 0o755).unwrap();
            }
        }
        for dir in ["tmpfs", "tmpfs/upper", "kept", "kept/upper"] {
            mkdir(base.path().join(dir), 0o755).unwrap();
        }
        for (dir, names) in [
            ("image", "f d/f d/sub/f e/f e/in/f d/only d/a d/b d/c"),
            ("image2", "f d/f d/sub/f e/f e/in/f d/another d/a d/b d/c"),
            ("tree1", "d/f d/t1 e/in/f"),
            ("tree2", "d/f d/t2 e/in/t2 d/sub/t2"),
        ] {
            for name in names.split(' ') {
                let text = format!("{dir} {name} ").repeat(800);
                write(base.path().join(dir).join(name), text).unwrap();
            }
        }
        let shared = Shared::new(&Config::default());
        let mut cell = Cell {
            view: None,
            shared,
            base,
        };
        cell.mount(first);
        cell
    }

    fn mount(&mut self, made: &Made) {
        drop(self.view.take());
        let view = View::new(self.spec(made)).unwrap();
        let at = self.base.path().join("root");
        self.view = Some(Mounted::new(view, &self.shared, &at));
    }

    fn layer(&self, name: &str, is_upper: bool) -> Arc<Layer> {
        let base = self.base.path().join(name);
        self.shared.layer(LayerSpec {
            label: name.into(),
            sub: is_upper.then(|| b"upper".to_vec()),
            require_mount: None,
            optional: false,
            upper: is_upper.then(|| UpperSpec {
                work: Some(base.clone()),
                form: FormChoice::Auto,
                durable: false,
                read_only: false,
            }),
            base,
        })
    }

    fn spec(&self, made: &Made) -> ViewSpec {
        let mut layers = vec![self.layer(made.image, false)];
        layers.extend(made.trees.iter().map(|tree| self.layer(tree, false)));
        let trees = (1..layers.len() as u8).collect();
        layers.extend(["tmpfs", "kept"].map(|name| self.layer(name, true)));
        let upper = layers.len() as u8 - 2;
        let rule = |(path, option): &(&str, LiteOption)| Rule {
            path: path.trim_end_matches('/').as_bytes().to_vec(),
            dir: path.ends_with('/'),
            option: *option,
            link: false,
        };
        let rules: Vec<Rule> = made.rules.iter().map(rule).collect();
        ViewSpec {
            name: "n1".into(),
            rules: compile(&rules, &CompileOptions::default()),
            layers,
            roles: Roles {
                images: vec![0],
                trees,
                tmpfs: Some(upper),
                persistent: Some(upper + 1),
                localdisk: None,
            },
            texts: Default::default(),
            options: ViewOptions {
                io: IoMode::Passthrough,
                lifetime: std::time::Duration::from_secs(1),
                watched: true,
                trees: TreeMode::Merge,
                eager_seed: false,
            },
            cache: self.shared.cache().clone(),
        }
    }

    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.view.as_ref().unwrap().at(path)
    }

    fn replace(&self, made: &Made) {
        self.view.as_ref().unwrap().replace(self.spec(made));
    }

    fn tree(&self) -> snapshot::Tree {
        snapshot::take(&self.at(""), ALL)
    }
}

use LiteOption::{Persistent, Ro, Tmpfs};

#[test]
fn other_rules_show_at_once_and_hidden_uppers_come_back() {
    let ruled = made(&[("d/", Tmpfs)]);
    let mut cell = Cell::new(&ruled);
    let numbers =
        || ["f", "d", "d/sub", "d/sub/f", "d/only"].map(|p| lstat(cell.at(p)).unwrap().st_ino);
    write(cell.at("d/f"), "mine").unwrap();
    write(cell.at("d/new"), "new").unwrap();
    unlink(cell.at("d/sub/f")).unwrap();
    write(cell.at("d/sub/f"), "again").unwrap();
    let before = numbers();
    let (tree, absent) = (cell.tree(), exists(cell.at("d/another")));
    assert!(!absent);
    cell.replace(&made(&[]));
    cell.shared.settle();
    assert!(!exists(cell.at("d/new")) && !exists(cell.at("d/t1")));
    assert_eq!(read(cell.at("d/f")).unwrap()[..9], *b"image d/f");
    fails!(write(cell.at("d/f"), "no"), ROFS);
    let mut plain = numbers();
    // Its first number is that of what the node made.
    plain[3] = before[3];
    assert_eq!(plain, before);
    cell.replace(&made(&[("d/", Persistent), ("e/in/", Ro)]));
    cell.shared.settle();
    assert_eq!(read(cell.at("d/f")).unwrap()[..9], *b"tree1 d/f");
    assert_eq!(read(cell.at("e/in/t2")).unwrap()[..5], *b"tree2");
    cell.replace(&ruled);
    cell.shared.settle();
    snapshot::assert_same(&cell.tree(), &tree);
    assert_eq!(numbers(), before);
    let swapped = Made {
        trees: vec!["tree2", "tree1"],
        ..made(&[("d/", Persistent)])
    };
    cell.replace(&swapped);
    cell.shared.settle();
    assert_eq!(read(cell.at("d/f")).unwrap()[..9], *b"tree2 d/f");
    let warm = cell.tree();
    cell.mount(&swapped);
    snapshot::assert_same(&warm, &cell.tree());
}

#[test]
fn what_is_open_goes_on_over_other_rules_and_images() {
    let ruled = made(&[("d/", Tmpfs)]);
    let cell = Cell::new(&ruled);
    let was = read(cell.at("d/only")).unwrap();
    let image = read(cell.at("f")).unwrap();
    let [lower, plain, gone] = ["d/only", "f", "d/a"].map(|path| open_r(cell.at(path)).unwrap());
    let upper = open_rw(cell.at("d/b")).unwrap();
    pwrite(&upper, 0, "mine").unwrap();
    unlink(cell.at("d/a")).unwrap();
    let map = Map::shared(&lower, 4096, false).unwrap();
    let cwd = open(cell.at("d"), OFlags::PATH | OFlags::DIRECTORY, 0).unwrap();
    let half = open(cell.at("d"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    let mut half = rustix::fs::Dir::new(half).unwrap();
    half.next().unwrap().unwrap();
    for next in [
        made(&[]),
        made(&[("d/", Persistent), ("e/", Ro), ("d/sub/", Tmpfs)]),
        Made {
            image: "image2",
            trees: vec![],
            rules: vec![("d/", Tmpfs)],
        },
        ruled.clone(),
    ] {
        cell.replace(&next);
        cell.shared.settle();
        cell.tree();
        assert_eq!(pread(&lower, 0, 1 << 20).unwrap(), was);
        assert_eq!(fstat(&lower).st_size as usize, was.len());
        assert_eq!(map.read(0, 4096), was[..4096]);
        assert_eq!(pread(&plain, 0, 1 << 20).unwrap(), image);
        assert_eq!(pread(&gone, 0, 9).unwrap(), b"image d/a");
        assert_eq!(pread(&upper, 0, 4).unwrap(), b"mine");
        pwrite(&upper, 4, "more").unwrap();
        let there = rustix::fs::openat(&cwd, "sub", OFlags::RDONLY, Mode::empty());
        assert!(there.is_ok(), "{there:?}");
    }
    for entry in half {
        entry.unwrap();
    }
    assert_eq!(read(cell.at("d/b")).unwrap()[..8], *b"minemore");
}

#[test]
fn rules_change_under_load() {
    let plans = [
        made(&[("d/", Tmpfs)]),
        made(&[]),
        made(&[
            ("d/", Persistent),
            ("d/sub/", Tmpfs),
            ("e/", Tmpfs),
            ("e/in/", Ro),
        ]),
        Made {
            image: "image2",
            trees: vec!["tree2"],
            rules: vec![("e/", Persistent)],
        },
        Made {
            image: "image",
            trees: vec!["tree2", "tree1"],
            rules: vec![("d/sub/", Persistent), ("e/in/", Tmpfs), ("", Tmpfs)],
        },
    ];
    let mut cell = Cell::new(&plans[0]);
    let stop = AtomicBool::new(false);
    let all = [
        "",
        "f",
        "d",
        "e",
        "d/f",
        "d/sub",
        "d/sub/f",
        "d/t1",
        "d/t2",
        "e/f",
        "e/in",
        "e/in/f",
        "d/new",
        "e/in/new",
        "d/another",
    ];
    let top = cell.at("");
    std::thread::scope(|scope| {
        for user in 0..4 {
            let (stop, top) = (&stop, &top);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(user);
                // What is not there or not allowed just now is so; nothing fails inside.
                let well = |what: &str, result: Option<Errno>| {
                    assert!(
                        !matches!(result, Some(Errno::IO | Errno::NOTCONN)),
                        "{what}"
                    );
                };
                while !stop.load(Ordering::Relaxed) {
                    let path = top.join(all[rng.usize(..all.len())]);
                    match rng.u32(..6) {
                        0 => well("lstat", lstat(&path).err()),
                        1 => well("list", list(&path).err()),
                        2 | 3 => well("read", read(&path).err()),
                        4 => well("write", write(&path, "mine").err()),
                        _ => well("unlink", unlink(&path).err()),
                    }
                }
            });
        }
        let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 0..200 {
                cell.replace(&plans[n % plans.len()]);
                lstat(top.join("d/sub/f")).ok();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        replaced.unwrap();
    });
    for plan in &plans {
        cell.replace(plan);
        cell.shared.settle();
        let warm = cell.tree();
        cell.mount(plan);
        snapshot::assert_same(&warm, &cell.tree());
    }
}
