//! The compiled rule tree against a model too simple to be wrong: of all rules whose path is a prefix
//! of the path, by components, the longest governs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use statelite::rules::{
    CompileOptions, LinkView, Rule, RuleTree, Text, UpperKind, ZoneKind, compile,
};
use statelite::tables::LiteOption;

const NODE: &str = "cn1";

/// Paths by their components; empty is the root.
type Path = Vec<&'static str>;

/// What the model knows: where zones begin, and what is to be there.
#[derive(Debug, Default)]
struct Model {
    zones: BTreeMap<Path, (ZoneKind, Option<usize>)>,
}

/// All paths that are looked at have these names, one of which is a prefix of another as a string.
const NAMES: [&str; 4] = ["a", "ab", "b", ".statelite"];

impl Model {
    fn new(rules: &[Rule], options: &CompileOptions) -> Self {
        let mut model = Self::default();
        let mut put = |path: Path, kind: ZoneKind, rule| model.zones.insert(path, (kind, rule));
        put(vec![], ZoneKind::Outside, None);
        if options.compat_dirs {
            put(vec![".statelite"], ZoneKind::Virtual, None);
            put(vec![".default"], ZoneKind::Virtual, None);
            for (name, text) in [
                ("litefile", Text::Litefile),
                ("litetree", Text::Litetree),
                ("statelite.log", Text::Log),
            ] {
                put(vec![".statelite", name], ZoneKind::Text(text), None);
            }
            put(
                vec![".statelite", "tmpfs"],
                ZoneKind::Mirror(UpperKind::Tmpfs),
                None,
            );
            if options.persistent {
                put(
                    vec![".statelite", "persistent", NODE],
                    ZoneKind::Mirror(UpperKind::Persistent),
                    None,
                );
            }
            for rule in rules.iter().filter(|rule| !rule.path.is_empty()) {
                put(
                    [vec![".default"], components(&rule.path)].concat(),
                    ZoneKind::Default,
                    None,
                );
            }
        }
        for (index, rule) in rules.iter().enumerate() {
            put(
                components(&rule.path),
                ZoneKind::Lite(rule.option),
                Some(index),
            );
        }
        model
    }

    fn governs(&self, path: &[&'static str]) -> &(ZoneKind, Option<usize>) {
        let longest = self
            .zones
            .keys()
            .filter(|zone| path.starts_with(zone))
            .max_by_key(|zone| zone.len());
        &self.zones[longest.unwrap()]
    }

    /// Is a zone's beginning here or below?
    fn guarded(&self, path: &[&'static str]) -> bool {
        self.zones.keys().any(|zone| zone.starts_with(path))
    }

    fn names(&self, path: &[&'static str]) -> BTreeSet<&'static str> {
        let below = self
            .zones
            .keys()
            .filter(|zone| zone.len() > path.len() && zone.starts_with(path));
        below.map(|zone| zone[path.len()]).collect()
    }
}

fn components(path: &[u8]) -> Path {
    let known = NAMES
        .into_iter()
        .chain(["tmpfs", "persistent", NODE, ".default", "x"]);
    let known: Vec<&'static str> = known.collect();
    let text = std::str::from_utf8(path).unwrap();
    let names = text.split('/').filter(|name| !name.is_empty());
    names
        .map(|name| *known.iter().find(|k| **k == name).unwrap())
        .collect()
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    use LiteOption::{Con, Localdisk, Persistent, Ro, Tmpfs};
    let names = prop::collection::vec(prop::sample::select(&["a", "ab", "b"][..]), 0..5);
    let option = prop::sample::select(&[Tmpfs, Persistent, Localdisk, Con, Ro][..]);
    let rule = (names, option, any::<bool>(), any::<bool>());
    prop::collection::vec(rule, 0..10).prop_map(|rules| {
        let mut seen = BTreeSet::new();
        let rules = rules
            .into_iter()
            .filter(|(names, ..)| seen.insert(names.clone()));
        rules
            .map(|(names, option, dir, link)| Rule {
                path: names.join("/").into_bytes(),
                dir,
                option,
                link,
            })
            .collect()
    })
}

fn options(link_view: LinkView) -> impl Strategy<Value = CompileOptions> {
    any::<(bool, bool)>().prop_map(move |(compat_dirs, persistent)| CompileOptions {
        node: NODE.into(),
        link_view,
        compat_dirs,
        mtab: true,
        persistent,
    })
}

/// Every zone's beginning, what is above it, and what is one and two names below it.
fn interesting(model: &Model) -> BTreeSet<Path> {
    let mut paths = BTreeSet::from([vec![]]);
    for zone in model.zones.keys() {
        for end in 0..=zone.len() {
            let above = zone[..end].to_vec();
            for name in NAMES.into_iter().chain(["x"]) {
                paths.insert([&above[..], &[name]].concat());
                paths.insert([&above[..], &[name, "x"]].concat());
            }
            paths.insert(above);
        }
    }
    paths
}

/// The node's own tree, and one that it shares with another node.
fn trees(rules: &[Rule], options: &CompileOptions) -> [RuleTree; 2] {
    let own = compile(rules, options);
    let other = CompileOptions {
        node: b"longer-name-17".to_vec(),
        ..options.clone()
    };
    let shared = compile(rules, &other).for_node(NODE.as_bytes()).unwrap();
    assert_eq!(own.zones(), shared.zones());
    [own, shared]
}

fn compare(rules: &[Rule], options: &CompileOptions) -> Result<(), TestCaseError> {
    let model = Model::new(rules, options);
    for tree in trees(rules, options) {
        compare_tree(&tree, &model)?;
    }
    Ok(())
}

fn compare_tree(tree: &RuleTree, model: &Model) -> Result<(), TestCaseError> {
    for path in interesting(model) {
        let bytes = path.join("/").into_bytes();
        let pos = tree.walk(&bytes);
        let zone = tree.zone(pos.zone);
        let (kind, rule) = model.governs(&path);
        prop_assert_eq!(&zone.kind, kind, "{}", path.join("/"));
        prop_assert_eq!(zone.rule(), *rule, "{}", path.join("/"));
        prop_assert_eq!(
            tree.guarded(pos),
            model.guarded(&path),
            "{}",
            path.join("/")
        );
        prop_assert_eq!(tree.begins(pos), model.zones.contains_key(&path));
        if tree.begins(pos) {
            prop_assert_eq!(tree.path(zone), bytes.clone());
        }
        let names: BTreeSet<&[u8]> = tree.rule_names(pos).collect();
        let expected = model.names(&path);
        prop_assert_eq!(tree.leads_deeper(pos), !expected.is_empty());
        let expected: BTreeSet<&[u8]> = expected.iter().map(|name| name.as_bytes()).collect();
        prop_assert_eq!(names, expected, "{}", path.join("/"));
        if matches!(kind, ZoneKind::Outside | ZoneKind::Lite(_)) {
            prop_assert_eq!(zone.layer_path(&bytes), &bytes[..]);
        }
    }
    Ok(())
}

/// Where a path leads to when the chains of symlinks on the way are followed, as a kernel does.
fn follow(tree: &RuleTree, path: &[&'static str]) -> Result<Vec<u8>, TestCaseError> {
    let mut todo: Vec<Vec<u8>> = path
        .iter()
        .rev()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == b".." {
            done.pop();
            continue;
        }
        done.push(name);
        let pos = tree.walk(&done.join(&b'/'));
        if let Some(target) = tree.target(tree.zone(pos.zone)) {
            prop_assert!(tree.begins(pos), "a symlink has nothing below it");
            links += 1;
            prop_assert!(links <= 40, "a loop: {:?}", path);
            done.pop();
            let names = target.split(|b| *b == b'/').map(<[u8]>::to_vec);
            todo.extend(names.rev());
        }
    }
    Ok(done.join(&b'/'))
}

/// A rule in a node's directory is for that node alone: its tree is no other's.
#[test]
fn a_rule_that_names_a_node_is_not_shared() {
    let rule = |path: &str| Rule {
        path: path.into(),
        dir: true,
        option: LiteOption::Tmpfs,
        link: false,
    };
    let options = |node: &str| CompileOptions {
        node: node.into(),
        compat_dirs: true,
        persistent: true,
        ..CompileOptions::default()
    };
    let below = rule(".statelite/persistent/cn1/etc");
    let tree = compile(std::slice::from_ref(&below), &options("cn1"));
    let own = tree.walk(b".statelite/persistent/cn1");
    assert_eq!(
        tree.zone(own.zone).kind,
        ZoneKind::Mirror(UpperKind::Persistent)
    );
    assert_eq!(tree.rule_names(own).collect::<Vec<_>>(), [b"etc"]);
    assert!(tree.for_node(b"cn2").is_none());
    let other = compile(&[below], &options("cn2"));
    let own = other.walk(b".statelite/persistent/cn2");
    assert_eq!(other.rule_names(own).count(), 0);
    let tree = compile(&[rule(".statelite/persistently")], &options("cn1"));
    assert!(tree.for_node(b"cn2").unwrap().shares(&tree));
    assert_eq!(
        tree.walk(b".statelite/persistent/cn2"),
        tree.walk(b".statelite/persistent/cn3")
    );
}

#[test]
fn equal_trees_become_one() {
    let rules = |count: usize| -> Vec<Rule> {
        let rule = |n: usize| Rule {
            path: format!("d{}/f{n}", n % 7).into(),
            dir: false,
            option: LiteOption::Ro,
            link: false,
        };
        (0..count).map(rule).collect()
    };
    let options = CompileOptions::default();
    let (first, mut second) = (compile(&rules(50), &options), compile(&rules(50), &options));
    let mut third = compile(&rules(51), &options);
    assert!(!second.shares(&first));
    second.share(&first);
    third.share(&first);
    assert!(second.shares(&first) && !third.shares(&first));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_longest_prefix_governs(rules in rules(), options in options(LinkView::File)) {
        compare(&rules, &options)?;
    }

    #[test]
    fn a_step_from_the_parent_is_a_walk_from_the_root(rules in rules(), options in options(LinkView::File)) {
        let (tree, model) = (compile(&rules, &options), Model::new(&rules, &options));
        for path in interesting(&model) {
            let stepped = path.iter().fold(tree.root(), |pos, name| tree.step(pos, name.as_bytes()));
            prop_assert_eq!(stepped, tree.walk(path.join("/").as_bytes()));
        }
    }

    /// However rules nest: with their symlinks followed, a path is governed by the same rule, and is
    /// the same path in every layer, as where link rules show as files.
    #[test]
    fn chains_of_symlinks_lead_to_the_rule_that_governs(rules in rules(), options in options(LinkView::Symlink)) {
        let plain = CompileOptions { link_view: LinkView::File, ..options.clone() };
        let model = Model::new(&rules, &plain);
        let trees = trees(&rules, &options);
        for (tree, path) in trees.iter().flat_map(|tree| interesting(&model).into_iter().map(move |path| (tree, path))) {
            if path.first().is_some_and(|name| name.starts_with('.')) {
                continue;
            }
            let found = follow(tree, &path)?;
            let zone = tree.zone(tree.walk(&found).zone);
            let (kind, rule) = model.governs(&path);
            prop_assert_eq!(&zone.kind, kind, "{} is {}", path.join("/"), String::from_utf8_lossy(&found));
            prop_assert_eq!(zone.rule(), *rule);
            let joined = path.join("/");
            prop_assert_eq!(zone.layer_path(&found), joined.as_bytes());
        }
    }

    #[test]
    fn writes_go_where_the_option_says(rules in rules()) {
        let tree = compile(&rules, &CompileOptions::default());
        for rule in &rules {
            let zone = tree.zone(tree.walk(&rule.path).zone);
            let expected = match rule.option {
                LiteOption::Tmpfs | LiteOption::Con => Some(UpperKind::Tmpfs),
                LiteOption::Persistent => Some(UpperKind::Persistent),
                LiteOption::Localdisk => Some(UpperKind::Localdisk),
                LiteOption::Ro => None,
            };
            prop_assert_eq!(zone.writes_to(), expected);
        }
    }
}
