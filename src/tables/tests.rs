//! The tables as a whole: the fixtures, and what only shows in their interplay.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::testing::Given;
use super::*;
use crate::config::{AllowCommands, Config};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures")
}

/// The cluster's tables in a directory of the test's own, which stands for `@ROOT@`.
fn cluster() -> (tempfile::TempDir, Tables, Config) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let tables = dir.path().join("tables");
    std::fs::create_dir(&tables).unwrap();
    for entry in std::fs::read_dir(fixtures().join("cluster")).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        std::fs::write(tables.join(entry.file_name()), text.replace("@ROOT@", root)).unwrap();
    }
    let config = Config {
        local_hosts: vec!["mgt".into()],
        allow_commands: AllowCommands::new(["uname -m".to_owned()]),
        localdisk_dir: Some("/disk".into()),
        ..Config::default()
    };
    let loaded = Tables::load(&CsvDir::new(tables));
    (dir, loaded, config)
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn rule<'s>(spec: &'s NodeSpec, path: &str) -> &'s RuleRow {
    spec.rules
        .iter()
        .find(|rule| rule.path == path.as_bytes())
        .unwrap()
}

#[test]
fn the_cluster_has_no_problem() {
    let (_dir, tables, config) = cluster();
    assert_eq!(lines(&tables.check(&config)), Vec::<String>::new());
    assert_eq!(tables.nodes().len(), 8);
    assert_eq!(
        tables.noderange("sles,pilot,-cn8").unwrap(),
        ["cn5", "cn6", "cn7", "cn1"]
    );
    let names: Vec<String> = tables
        .images()
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert_eq!(
        names,
        ["rhels9.4-x86_64-statelite-compute", "sles15.5-custom"]
    );
}

#[test]
fn what_xcat_would_refuse_of_the_cluster() {
    let (_dir, tables, _) = cluster();
    let found = lines(&tables.check_strict_xcat());
    let has = |text: &str| {
        assert!(
            found.iter().any(|line| line.contains(text)),
            "{text}: {found:#?}"
        )
    };
    has("error: /root/.ssh/ (tmpfs) is below /root/ (link): only link options may be");
    has("warning: /var/ct/ (link) is below /var/ (tmpfs): xCAT's documentation does not permit");
    has("warning: xCAT drops this row: line 5 has the priority 10");
    assert!(
        !found.iter().any(|line| line.contains("/var/log/")),
        "{found:#?}"
    );
}

#[test]
fn a_node_of_the_cluster() {
    let (dir, tables, config) = cluster();
    let root = dir.path().to_str().unwrap();
    let spec = tables.node("cn3", &config).unwrap();
    assert_eq!(spec.groups, ["compute", "rack1", "all"]);
    assert_eq!(spec.image.name, "rhels9.4-x86_64-statelite-compute");
    assert_eq!(
        spec.image.rootimg,
        dir.path()
            .join("install/netboot/rhels9.4/x86_64/compute/rootimg")
    );
    let machine = String::from_utf8(
        std::process::Command::new("uname")
            .arg("-m")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let expected = [
        format!("{root}/litetree/nodes/cn3"),
        format!("{root}/litetree/racks/r01"),
        format!("{root}/litetree/rhels9.4-{}", machine.trim()),
        format!("{root}/litetree/site-cluster.example"),
        format!("{root}/litetree/common"),
    ];
    let trees: Vec<&str> = spec
        .trees
        .iter()
        .map(|tree| tree.location.path.to_str().unwrap())
        .collect();
    assert_eq!(trees, expected);
    assert_eq!(
        spec.trees
            .iter()
            .map(|tree| tree.priority.to_string())
            .collect::<Vec<_>>(),
        ["1", "2", "5", "10", "10"]
    );
    let store = spec.store.as_ref().unwrap();
    assert_eq!(store.location.path, dir.path().join("state/hall1"));
    assert!(!store.location.require_mount);
    assert_eq!(
        rule(&spec, "/etc/resolv.conf").option,
        LiteOption::Persistent,
        "the name wins over ALL"
    );
    assert_eq!(rule(&spec, "/etc/motd").option, LiteOption::Con);
    assert!(rule(&spec, "/var").dir);
    assert!(rule(&spec, "/gpfs").link, "a blank option");
    assert!(spec.rules.is_sorted_by(|a, b| a.path < b.path));
    assert!(
        !spec.rules.iter().any(|rule| rule.path == b"/srv"),
        "disabled"
    );
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["rules"].as_array().unwrap().len(), spec.rules.len());
    let other = tables.node("cn4", &config).unwrap();
    assert!(
        Arc::ptr_eq(&spec.rules, &other.rules),
        "nodes of one image share its rules"
    );
}

#[test]
fn groups_and_nodes_of_the_cluster_override() {
    let (dir, tables, config) = cluster();
    let spec = tables.node("cn7", &config).unwrap();
    assert_eq!(spec.groups, ["rack2", "compute", "all", "sles"]);
    assert_eq!(spec.image.name, "sles15.5-custom");
    assert_eq!(
        rule(&spec, "/etc/resolv.conf").at.line,
        rule(&spec, "/etc/ntp.conf.org").at.line + 1
    );
    let store = spec.store.unwrap();
    assert_eq!(store.location.path, dir.path().join("state/compute"));
    assert_eq!(
        (store.location.remote, store.mntopts.as_str()),
        (None, "soft,timeo=30")
    );
    let spec = tables.node("cn8", &config).unwrap();
    let store = spec.store.unwrap();
    assert_eq!(store.location.path, Path::new("/net/filer2/export/state"));
    assert_eq!(
        store.location.remote,
        Some(("filer2".into(), "/export/state".into()))
    );
    assert!(store.location.require_mount);
    assert_eq!(store.mntopts, "hard");
    assert!(
        spec.trees.iter().any(|tree| tree.location.remote.is_some()),
        "its nfsserver is filer2"
    );
}

#[test]
fn unknown_nodes_are_errors_with_a_suggestion() {
    let (_dir, tables, config) = cluster();
    let error = tables.node("cn9", &config).unwrap_err().to_string();
    assert!(
        error.starts_with("there is no node cn9 in nodelist (did you mean \"cn"),
        "{error}"
    );
}

/// The golden file has what `check` says, without the directory; write it anew with `BLESS=1`.
#[test]
fn the_broken_tables_are_told_in_one_run() {
    let dir = fixtures().join("broken");
    let tables = Tables::load(&CsvDir::new(&dir));
    let found = lines(&tables.check(&Config::default())).join("\n") + "\n";
    let found = found.replace(&format!("{}/", dir.display()), "");
    let golden = dir.join("expected.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(golden).unwrap());
    assert_eq!(
        tables
            .problems()
            .iter()
            .filter(|p| p.at.file.as_os_str().is_empty())
            .count(),
        0
    );
}

#[test]
fn nodes_that_are_not_diskless_are_warnings() {
    let tables = Tables::load(
        &Given::default()
            .table("nodelist", "#node,groups\nsw1,switch\nlogin1,login\n")
            .table("litefile", "#image,file,options\n")
            .table(
                "nodetype",
                "#node,os,arch,profile,provmethod\nlogin,a,b,c,full\n",
            )
            .table("osimage", "#imagename,provmethod\nfull,install\n"),
    );
    let config = Config::default();
    for node in ["sw1", "login1"] {
        match tables.node(node, &config) {
            Err(TablesError::NoImage { problem, .. }) => {
                assert_eq!(problem.severity, Severity::Warning)
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tables.check(&config).len(), 2);
    assert!(tables.images().is_empty());
}

#[test]
fn tables_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Tables::load(&Given::default()));
}

#[test]
fn no_tables_at_all() {
    let tables = Tables::load(&CsvDir::new("/nonexistent"));
    assert!(tables.nodes().is_empty());
    assert!(lines(tables.problems())[0].starts_with("/nonexistent: error: cannot list the tables"));
    let tables = Tables::load(&Given::default());
    let told = lines(tables.problems());
    assert_eq!(told.len(), 3);
    assert!(told[0].starts_with("litefile.csv: error: the table litefile is missing (write it there: tabdump litefile > "), "{told:?}");
}

fn small(litefile: &str, litetree: &str, statelite: &str) -> Tables {
    Tables::load(
        &Given::default()
            .table("nodelist", "#node,groups\ncn1,all\ncn2,all\n")
            .table("nodetype", "#node,os,arch,profile\nall,os,arch,p\n")
            .table("osimage", "#imagename,groups\nos-arch-statelite-p,g\n")
            .table("litefile", format!("#image,file,options\n{litefile}"))
            .table("litetree", format!("#priority,image,directory\n{litetree}"))
            .table("statelite", format!("#node,statemnt,mntopts\n{statelite}")),
    )
}

#[test]
fn a_path_that_looks_like_a_regex_is_a_store() {
    let tables = small(
        "ALL,/x,persistent\n",
        "",
        "all,/gpfs/state/,\ncn2,|cn(\\d)|/s($1+1)/c|,\n",
    );
    let config = Config::default();
    let path = |node| {
        tables
            .node(node, &config)
            .unwrap()
            .store
            .unwrap()
            .location
            .path
    };
    assert_eq!(path("cn1"), Path::new("/gpfs/state"));
    assert_eq!(path("cn2"), Path::new("/s3/c"));
    assert_eq!(lines(&tables.check(&config)), Vec::<String>::new());
}

#[test]
fn a_store_named_like_the_node_is_warned_of() {
    let tables = small("", "", "all,/state/$node,\n");
    let found = lines(&tables.check(&Config::default()));
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("statelite.csv:2:5: warning: the store ends in the node's name"),
        "{found:?}"
    );
    assert!(found[0].contains("(every node)"));
}

#[test]
fn rules_without_a_store_are_warned_of() {
    let tables = small("ALL,/p,persistent\nALL,/l,localdisk\n", "", "cn1,/state,\n");
    let found = lines(&tables.check(&Config::default()));
    assert_eq!(found.len(), 2);
    assert!(
        found[0].starts_with("litefile.csv:2:5: warning: there are persistent rules, but no store"),
        "{found:?}"
    );
    assert!(found[0].contains("(node cn2)"));
    assert!(
        found[1].starts_with("litefile.csv:3:5: warning: there are localdisk rules"),
        "{found:?}"
    );
}

/// The matrix of `strict`'s header, each pair.
#[test]
fn strict_xcat_pairs() {
    let parents = [
        "tmpfs",
        "rw",
        "localdisk",
        "persistent",
        "",
        "link",
        "\"tmpfs,rw\"",
        "\"link,persistent\"",
        "ro",
        "\"link,ro\"",
    ];
    let children = [
        "tmpfs",
        "localdisk",
        "ro",
        "con",
        "persistent",
        "",
        "link",
        "\"link,persistent\"",
        "\"link,con\"",
        "\"link,ro\"",
    ];
    for parent in parents {
        for child in children {
            let tables = small(&format!("ALL,/d/,{parent}\nALL,/d/sub/f,{child}\n"), "", "");
            let found = tables.check_strict_xcat();
            let link = child.is_empty() || child.contains("link");
            let persists = child.contains("persistent");
            let expected = match parent {
                "ro" | "\"link,ro\"" => Some((Severity::Error, 2)),
                "tmpfs" | "rw" | "localdisk" => link.then_some((Severity::Warning, 3)),
                "persistent" if !persists => Some((Severity::Error, 3)),
                "persistent" => link.then_some((Severity::Warning, 3)),
                "\"link,persistent\"" => (!persists || !link).then_some((Severity::Error, 3)),
                _ => (!link || child == "\"link,ro\"").then_some((Severity::Error, 3)),
            };
            let found: Vec<_> = found.iter().map(|p| (p.severity, p.at.line)).collect();
            assert_eq!(
                found,
                expected.into_iter().collect::<Vec<_>>(),
                "{parent} above {child}"
            );
        }
    }
}

#[test]
fn strict_xcat_rows() {
    let tables = small(
        "ALL,/a,tempfs\nALL,/b,\"link, con\"\nALL,/c d,ro\nALL,/x/,tmpfs\nALL,/x/y/,tmpfs\nALL,/x/y/z,tmpfs\n\
         ALL,/etc/,tmpfs\nALL,/etc/mtab,tmpfs\nALL,/n,ro\nALL,/n/m,link\nALL,/,ro\n",
        "1,os-arch-statelite-p,/t2\n1,ALL,/t3\n2,ALL,/t4\n1,g,/t5\n2,ALL,/t6\n",
        "",
    );
    let found = lines(&tables.check_strict_xcat());
    let expected = [
        "litefile.csv:2:8: error: liteimg does not know the option \"tempfs\"",
        "litefile.csv:3:8: error: liteimg does not know the option \"link, con\"",
        "litefile.csv:4:5: warning: xCAT cuts \"/c d\" at its first blank",
        "litefile.csv:7:5: warning: /x/y/z is a third level, below /x/y/ and /x/",
        "litefile.csv:10:5: warning: /n has rows below it, but xCAT takes it for a file",
        "litetree.csv:3:1: warning: xCAT drops this row: line 2 has the priority 1",
        "litetree.csv:4:1: warning: xCAT drops this row: line 6 has the priority 2",
        "litetree.csv:5:1: warning: xCAT drops this row: line 2 has the priority 1",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}");
    }
}

/// A large site's tables, in a time that a laptop has.
#[test]
fn many_nodes_share_many_rows() {
    let (mut litefile, mut nodelist) = (
        String::from("#image,file,options\n"),
        String::from("#node,groups\n"),
    );
    for i in 0..100_000 {
        litefile += &format!("ALL,/d{}/f{i},tmpfs\n", i % 100);
    }
    for i in 0..5_000 {
        nodelist += &format!("cn{i:04},\"compute,all\"\n");
    }
    let tables = Tables::load(
        &Given::default()
            .table("nodelist", nodelist)
            .table("litefile", litefile)
            .table("nodetype", "#node,os,arch,profile\nall,os,arch,p\n")
            .table(
                "litetree",
                "#priority,image,directory\n1,,/t/$node\n2,,filer:/t/$nodetype.os\n",
            ),
    );
    let config = Config::default();
    let mut first: Option<NodeSpec> = None;
    for node in tables.nodes() {
        let spec = tables.node(&node, &config).unwrap();
        assert_eq!(spec.rules.len(), 100_000);
        let first = first.get_or_insert_with(|| spec.clone());
        assert!(Arc::ptr_eq(&spec.rules, &first.rules));
    }
    assert!(tables.check(&config).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens to a table's bytes: no panic, and each problem has a place.
    #[test]
    fn damaged_tables_are_told_of(
        table in 0..10_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4), 1..6),
    ) {
        let names = [
            "litefile", "litetree", "statelite", "nodelist", "nodetype", "noderes", "nodepos", "nodegroup", "osimage",
            "linuximage",
        ];
        let read = |name: &str| std::fs::read(fixtures().join(format!("cluster/{name}.csv"))).unwrap();
        let mut bytes = read(names[table]);
        for (place, byte, kind) in changes {
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.drain(at..(at + usize::from(byte) % 9).min(bytes.len() - 1))),
                _ => bytes.insert(at, b"\",\n$/|#(.-"[usize::from(byte) % 10]),
            }
        }
        let given = names.iter().fold(Given::default(), |given, name| given.table(name, read(name)));
        let tables = Tables::load(&given.table(names[table], &bytes));
        let config = Config::default();
        for problem in tables.check(&config).iter().chain(&tables.check_strict_xcat()) {
            prop_assert!(!problem.at.file.as_os_str().is_empty(), "{problem}");
            prop_assert!(!problem.message.is_empty() && !problem.help.is_empty() || problem.severity == Severity::Warning, "{problem}");
            prop_assert_eq!(problem.at.line == 0, problem.at.column == 0, "{}", problem);
        }
        for node in tables.nodes() {
            tables.node(&node, &config).ok();
        }
    }
}
