//! docs/SEMANTICS.md names the tests of each of its sections: every name is a test's, every test of
//! integration/semantics is named. So does docs/SECURITY.md for each attack.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every Rust source below a directory.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The functions in a text that stand below `#[test]`, those in `proptest!` too. A macro that makes
/// one test of each name for several stores, or versions of NFS, has its names in a list.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            let name = rest
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next();
            tests.insert(name.unwrap().to_owned());
            marked = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
    let lists = ["on_every_store!", "over_both_versions!"].map(|of| text.split(of).skip(1));
    for list in lists.into_iter().flatten() {
        let opened = list.trim_start_matches([' ', '(', '{', '[', '\n']);
        let list = opened.split(['}', ')', ']', ';']).next().unwrap();
        let names = list.split(',').map(str::trim);
        let is_name =
            |n: &&str| !n.is_empty() && n.chars().all(|c| c.is_alphanumeric() || c == '_');
        tests.extend(names.filter(is_name).map(String::from));
    }
    tests
}

/// Each numbered section's heading and the names in its `Tests:` lines.
fn sections(text: &str) -> BTreeMap<u32, (String, Vec<String>)> {
    let mut sections = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let number = heading.split('.').next().and_then(|n| n.parse().ok());
            current = number;
            if let Some(number) = number {
                sections.insert(number, (heading.to_owned(), Vec::new()));
            }
        } else if let (Some(number), Some(names)) = (current, line.strip_prefix("Tests: ")) {
            let names = names
                .split(',')
                .map(|name| name.trim().trim_matches('`').to_owned());
            sections.get_mut(&number).unwrap().1.extend(names);
        }
    }
    sections
}

fn tests_below(dirs: &[&str]) -> BTreeSet<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in dirs {
        sources(&top.join(dir), &mut files);
    }
    let texts = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap());
    texts.flat_map(|text| tests_in(&text)).collect()
}

fn document() -> BTreeMap<u32, (String, Vec<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SEMANTICS.md");
    sections(&std::fs::read_to_string(path).unwrap())
}

#[test]
fn every_section_names_its_tests() {
    let sections = document();
    let numbers: Vec<u32> = sections.keys().copied().collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
    for (heading, names) in sections.values() {
        assert!(
            !names.is_empty(),
            "section \"{heading}\" has no line \"Tests: …\""
        );
    }
}

#[test]
fn every_name_is_a_tests() {
    let known = tests_below(&["src", "integration"]);
    for (heading, names) in document().values() {
        for name in names {
            assert!(
                known.contains(name),
                "section \"{heading}\": no test is called {name}"
            );
        }
    }
}

/// docs/SECURITY.md: what is claimed of an attack is held by a test.
#[test]
fn every_attack_names_its_tests() {
    let known = tests_below(&["src", "integration"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SECURITY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut attack, mut named) = (None, 0);
    for line in text.lines().map(str::trim) {
        if let Some(claim) = line.strip_prefix("- **") {
            assert_eq!(attack, None, "no tests");
            attack = Some(claim);
        } else if let Some(names) = line.strip_prefix("Tests: ") {
            attack = None;
            for name in names.split(", ") {
                assert!(known.contains(name), "no test is called {name}");
                named += 1;
            }
        }
    }
    assert!(attack.is_none() && named > 20, "{attack:?}, {named}");
}

#[test]
fn every_test_of_the_contract_is_named() {
    let named: BTreeSet<String> = document()
        .into_values()
        .flat_map(|(_, names)| names)
        .collect();
    let unnamed: Vec<String> = tests_below(&["integration/semantics", "integration/live"])
        .into_iter()
        .filter(|test| !named.contains(test))
        .collect();
    assert!(
        unnamed.is_empty(),
        "no section names {}",
        unnamed.join(", ")
    );
}

#[test]
fn tests_are_found_in_every_form() {
    let text = "#[test]\n#[should_panic]\nfn a() {}\nfn not() {}\nproptest! {\n    #[test]\n    // why\n    fn b(x in 0..3) {}\n}\non_every_store!(c, d);\n";
    let found: Vec<String> = tests_in(text).into_iter().collect();
    assert_eq!(found, ["a", "b", "c", "d"]);
    let doc = "## Terms\nTests: no\n## 1. One\ntext\nTests: a, `b`\n## 2. Two\n";
    let found = sections(doc);
    assert_eq!(found[&1].1, ["a", "b"]);
    assert!(found[&2].1.is_empty() && found.len() == 2);
}
