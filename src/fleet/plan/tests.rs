//! Plans of a small site: what is shared, what a change of the tables changes, what is told.

use super::*;
use crate::fleet::{Use, node_view};
use crate::tables::CsvDir;

/// Tables and two images in a directory of the test's own.
struct Site {
    dir: tempfile::TempDir,
    config: Config,
}

impl Site {
    fn new(nodes: usize) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let config = Config {
            tables: dir.path().join("tables"),
            tmpfs_dir: dir.path().join("tmpfs"),
            ..Config::default()
        };
        let site = Site { dir, config };
        std::fs::create_dir(&site.config.tables).unwrap();
        for image in ["one", "two"] {
            let rootimg = site.dir.path().join(image).join("rootimg");
            std::fs::create_dir_all(rootimg.join("usr/bin")).unwrap();
            std::fs::write(rootimg.join("etc"), "no directory").unwrap();
            std::os::unix::fs::symlink("usr/bin", rootimg.join("bin")).unwrap();
        }
        let mut nodelist = String::from("#node,groups\n");
        for n in 0..nodes {
            nodelist += &format!("cn{n},\"stored,all\"\n");
        }
        nodelist += "own1,\"stored,all\"\nbare1,all\nbare2,all\nlost1,all\n";
        site.table("nodelist", &nodelist);
        site.table(
            "nodetype",
            "#node,provmethod\nall,one\nown1,two\nlost1,nowhere\n",
        );
        site.table(
            "osimage",
            "#imagename,provmethod\none,statelite\ntwo,statelite\n",
        );
        site.table(
            "linuximage",
            &format!("#imagename,rootimgdir\none,{root}/one\ntwo,{root}/two\n"),
        );
        site.table(
            "statelite",
            &format!("#node,statemnt\nstored,{root}/store\n"),
        );
        site.table(
            "litetree",
            &format!("#priority,image,directory\n1,,{root}/trees/$node\n"),
        );
        site.table("litefile", LITEFILE);
        site
    }

    fn table(&self, name: &str, text: &str) {
        std::fs::write(self.config.tables.join(format!("{name}.csv")), text).unwrap();
    }

    fn plan(&self, before: Option<&Plan>) -> Plan {
        let tables = Tables::load(&CsvDir::new(&self.config.tables));
        let nodes: Vec<String> = tables
            .nodes()
            .into_iter()
            .filter(|n| n != "lost1")
            .collect();
        plan(&tables, &self.config, &nodes, before)
    }
}

const LITEFILE: &str = "#image,file,options\nALL,/var/,tmpfs\nALL,/var/lib/x,persistent\n\
    ALL,/bin/ping,ro\nALL,/usr/bin/ping,ro\nALL,/etc/x/y,tmpfs\nALL,/d,localdisk\ntwo,/two,tmpfs\n";

fn lines(problems: &[Problem]) -> Vec<String> {
    let lines = problems.iter().map(|problem| {
        let line = problem.to_string();
        line[line.find("litefile.csv").unwrap()..].to_owned()
    });
    lines.collect()
}

#[test]
fn nodes_of_an_image_share_one_tree() {
    let site = Site::new(5_000);
    let plan = site.plan(None);
    assert_eq!(plan.nodes().len(), 5_003);
    let first = plan.node("cn0").unwrap();
    for n in 0..5_000 {
        let node = plan.node(&format!("cn{n}")).unwrap();
        assert!(Arc::ptr_eq(&node.common, &first.common));
        assert!(node.rules().shares(first.rules()) && Arc::ptr_eq(node.rows(), first.rows()));
        let own = format!(".statelite/persistent/cn{n}");
        assert!(node.rules().begins(node.rules().walk(own.as_bytes())));
    }
    let (own, bare) = (plan.node("own1").unwrap(), plan.node("bare1").unwrap());
    assert!(!own.rules().shares(first.rules()), "another image");
    assert!(!bare.rules().shares(first.rules()), "no store");
    assert!(bare.rules().shares(plan.node("bare2").unwrap().rules()));
    assert_eq!(
        own.rules().zone(own.rules().walk(b"two/x").zone).rule(),
        Some(1)
    );
    assert_eq!(own.rows()[1].path, b"/two");
    fn shared_between_threads<T: Send + Sync>(_: &T) {}
    shared_between_threads(&plan);
}

#[test]
fn what_stays_the_same_is_known_and_kept() {
    let site = Site::new(3);
    let before = site.plan(None);
    let names = ["cn0", "cn1", "own1", "bare1"];
    let same = |now: &Plan| -> Vec<&str> {
        let same = |node: &&str| {
            now.node(node)
                .unwrap()
                .same_view(before.node(node).unwrap())
        };
        names.into_iter().filter(same).collect()
    };
    let again = site.plan(Some(&before));
    assert_eq!(same(&again), names);
    assert!(
        again
            .node("cn0")
            .unwrap()
            .rules()
            .shares(before.node("cn1").unwrap().rules())
    );
    // All rows stand further below; that changes no view, only where messages point to.
    let moved = LITEFILE.replacen('\n', "\n# a comment\n", 1);
    site.table("litefile", &moved);
    let now = site.plan(Some(&before));
    assert_eq!(same(&now), names);
    assert_eq!(now.node("cn0").unwrap().rows()[0].at.line, 5);
    site.table(
        "litefile",
        &LITEFILE.replace("two,/two,tmpfs", "two,/two,ro"),
    );
    assert_eq!(same(&site.plan(Some(&before))), ["cn0", "cn1", "bare1"]);
    site.table(
        "litefile",
        &LITEFILE.replace("/d,localdisk", "/d/,localdisk"),
    );
    assert_eq!(
        same(&site.plan(Some(&before))),
        names,
        "a row that is left out"
    );
    site.table("litefile", LITEFILE);
    site.table("statelite", "#node,statemnt\nstored,/elsewhere\n");
    assert_eq!(same(&site.plan(Some(&before))), ["bare1"]);
}

#[test]
fn rows_that_are_left_out_are_told_once_and_of_each_node() {
    let site = Site::new(1);
    let plan = site.plan(None);
    let nowhere = "litefile.csv:6:5: error: /etc/x/y cannot be in image one: Not a directory";
    let twice = "litefile.csv:5:5: error: /usr/bin/ping is /usr/bin/ping in the image, which ";
    let disk = "litefile.csv:7:5: error: /d is localdisk, but there is no localdisk_dir (set";
    let of_bare =
        "litefile.csv:3:5: error: /var/lib/x is persistent, but node bare1 has no store (add";
    let begins = |found: &[Problem], expected: &[&str]| {
        let found = lines(found);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    };
    begins(&plan.node("cn0").unwrap().faults(), &[disk, nowhere, twice]);
    begins(
        &plan.node("bare1").unwrap().problems()[..1],
        &["litefile.csv:3:5: warning: there are persistent rules"],
    );
    let of_both = of_bare.replace("node bare1 has", "nodes bare1, bare2 have");
    let of_two = nowhere.replace("image one", "image two");
    begins(&plan.problems(), &[&of_both, twice, nowhere, &of_two, disk]);
    // Asked for alone, a node is told the same.
    let tables = Tables::load(&CsvDir::new(&site.config.tables));
    let spec = tables.node("bare1", &site.config).unwrap();
    let built = node_view(&spec, &site.config, Use::Look, &Shared::for_a_look()).unwrap();
    let faults = plan.node("bare1").unwrap().faults();
    assert_eq!(built.problems[..faults.len()], faults);
    assert!(lines(&faults).iter().any(|line| line.starts_with(of_bare)));
    assert_eq!(&built.rows[..], &plan.node("bare1").unwrap().rows()[..]);
}

#[test]
fn one_image_that_is_missing_stops_its_nodes_alone() {
    let site = Site::new(2);
    std::fs::remove_dir_all(site.dir.path().join("two")).unwrap();
    let tables = Tables::load(&CsvDir::new(&site.config.tables));
    let plan = plan(&tables, &site.config, &tables.nodes(), None);
    assert!(plan.node("cn1").is_some() && plan.node("own1").is_none());
    let refused: Vec<String> = plan
        .refused()
        .iter()
        .map(|(node, e)| format!("{node}: {e}"))
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused[0].starts_with("lost1: node lost1: "), "{refused:?}");
    assert!(
        refused[1].starts_with("own1: node own1: image two is missing: "),
        "{refused:?}"
    );
}
