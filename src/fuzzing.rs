//! What is fed with whatever a fuzzer thinks of: each function takes any bytes, and panics where what it
//! calls breaks a promise. Built for fuzzing and for tests alone; the targets are in `integration/fuzz`.
//!
//! May not: allow a command, or look at a file.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cli::options as mount_options;
use crate::config::Config;
use crate::control::Request;
use crate::layer::machinery;
use crate::rules::{CompileOptions, Rule, compile};
use crate::sys::mountinfo;
use crate::systemd;
use crate::tables::testing::Given;
use crate::tables::{Origin, Problem, Tables};

/// So many nodes of a noderange are looked at: each may have all the rows.
const NODES: usize = 8;

/// Tables: each begins behind a line `%name`. Whatever is wrong in them is a problem with a place that is
/// there, and what is left of them is in the form that all others rely on.
pub fn tables(data: &[u8]) {
    let given = given(data);
    let tables = Tables::load(&given);
    let config = Config::default();
    let mut problems = tables.problems().to_vec();
    problems.extend(tables.check(&config));
    problems.extend(tables.check_strict_xcat());
    for node in tables.nodes().iter().take(NODES) {
        let Ok(spec) = tables.node(node, &config) else {
            continue;
        };
        problems.extend(spec.problems.iter().cloned());
        let paths = || spec.rules.iter().map(|rule| &rule.path[..]);
        assert!(paths().is_sorted(), "rules of {node} are not in order");
        for path in paths() {
            assert!(is_plain(path), "{} is a rule's path", path.escape_ascii());
        }
        for dir in spec.dirs() {
            assert!(dir.is_absolute(), "{} is a layer", dir.display());
        }
        let rules = spec.rules.iter().map(|row| Rule {
            path: row.path[1..].to_vec(),
            dir: row.dir,
            option: row.option,
            link: row.link,
        });
        let rules: Vec<Rule> = rules.collect();
        let tree = compile(&rules, &CompileOptions::default());
        for rule in &rules {
            let zone = tree.zone(tree.walk(&rule.path).zone);
            assert!(zone.rule().is_some(), "a rule's path is in no zone");
        }
    }
    for problem in problems {
        has_place(&problem, &given);
        assert!(!problem.to_string().contains('\0') || data.contains(&0));
    }
}

/// A noderange over a few nodes, and a value that is computed from a node's name.
pub fn expression(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (range, value) = text.split_once('\n').unwrap_or((text, text));
    let nodelist = "#node,groups\ncn1,a\ncn2,\"a,b\"\nrack01-login,b\n";
    let quoted = value.replace('"', "\"\"");
    let given = Given::default()
        .table("nodelist", nodelist)
        .table(
            "nodepos",
            format!("#node,rack\nall,\"{quoted}\"\na,\"{quoted}\"\n"),
        )
        .table(
            "nodetype",
            format!("#node,provmethod\na,\"{quoted}\"\nb,i\n"),
        )
        .table("osimage", "#imagename,provmethod\ni,statelite\n")
        .table("linuximage", "#imagename,rootimgdir\ni,/i\n")
        .table(
            "litetree",
            format!("#priority,image,directory\n1,,\"{quoted}\"\n"),
        );
    let tables = Tables::load(&given);
    if let Ok(nodes) = tables.noderange(range) {
        let mut once = nodes.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), nodes.len(), "{range} names a node twice");
    }
    for node in tables.nodes() {
        if let Ok(spec) = tables.node(&node, &Config::default()) {
            spec.dirs()
                .for_each(|dir| assert!(dir.is_absolute(), "{dir:?}"));
        }
    }
}

/// A configuration. One that is taken has no path that depends on where the daemon was started.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(config) = Config::parse(text, Path::new("statelite.toml")) else {
        return;
    };
    for dir in [
        &config.tables,
        &config.root,
        &config.control,
        &config.tmpfs_dir,
    ] {
        assert!(dir.is_absolute(), "{}", dir.display());
    }
}

/// A line of the control socket. What is understood is said again in the same words.
pub fn control(data: &[u8]) {
    if let Ok(request) = Request::read(data) {
        let again = serde_json::to_vec(&request).unwrap_or_default();
        assert_eq!(Request::read(&again), Ok(request));
    }
}

/// Names in stores, and what is shown of them. What a node calls its files and attributes never is the
/// machinery's, and comes back as it was.
pub fn names(data: &[u8]) {
    use machinery::{Form, attr_to_store, attr_to_view, is_ours, whiteout_name};
    let name = data
        .split(|b| *b == 0 || *b == b'/')
        .next()
        .unwrap_or_default();
    if let Ok(mark) = whiteout_name(name) {
        assert!(mark.len() <= 255 && is_ours(&mark, Form::File));
        assert!(!machinery::is_reserved(&mark), "{}", mark.escape_ascii());
        assert!(mark.ends_with(name));
    }
    let Ok(attr) = CString::new(name) else { return };
    if let Ok(stored) = attr_to_store(&attr) {
        assert_eq!(attr_to_view(stored.as_bytes()).as_deref(), Some(name));
    }
    if let Some(shown) = attr_to_view(name)
        && let Ok(shown) = CString::new(shown)
        && let Ok(again) = attr_to_store(&shown)
    {
        assert_eq!(again.as_bytes(), name, "two stored names are shown as one");
    }
}

/// The options of `mount -o`: each becomes a flag, or is refused.
pub fn options(data: &[u8]) {
    let Ok(options) = mount_options::parse(OsStr::from_bytes(data)) else {
        return;
    };
    for flag in options.0 {
        assert!(flag.as_bytes().starts_with(b"--"), "{flag:?}");
    }
}

/// fstab(5) and the kernel's table of mounts.
pub fn mounts(data: &[u8]) {
    for line in systemd::fstab(data) {
        let unit = systemd::mount_unit(&line.point);
        assert!(unit.ends_with(".mount"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b":_.-\\".contains(&b);
        assert!(unit.bytes().all(plain), "{unit}");
    }
    mountinfo::parse(data);
}

fn given(data: &[u8]) -> Given {
    let mut given = Given::default();
    let (mut name, mut text) = (String::new(), Vec::new());
    for line in data.split_inclusive(|b| *b == b'\n') {
        match line.strip_prefix(b"%") {
            Some(next) => {
                given = given.table(&name, std::mem::take(&mut text));
                name = String::from_utf8_lossy(next.trim_ascii()).into_owned();
            }
            None => text.extend_from_slice(line),
        }
    }
    given.table(&name, text)
}

/// Absolute, and each step a name.
fn is_plain(path: &[u8]) -> bool {
    let steps = path.strip_prefix(b"/");
    let is_name = |step: &[u8]| !matches!(step, b"" | b"." | b"..") && !step.contains(&0);
    path == b"/" || steps.is_some_and(|steps| steps.split(|b| *b == b'/').all(is_name))
}

fn has_place(problem: &Problem, given: &Given) {
    let Origin { file, line, column } = &problem.at;
    // A table's name may have slashes here.
    let file = file.to_string_lossy();
    let text = file.strip_suffix(".csv").and_then(|name| given.text(name));
    let Some(text) = text else { return };
    let lines = text.split(|b| *b == b'\n');
    let found = lines.clone().nth(line.saturating_sub(1) as usize);
    let Some(found) = found else {
        panic!("{problem}: there are {} lines", lines.count());
    };
    assert!(
        *line == 0 || *column <= found.len() as u64 + 1,
        "{problem}: the line has {} bytes",
        found.len()
    );
}

#[cfg(test)]
mod tests {
    type Target = fn(&[u8]);

    /// What fuzzing began with and what it has found, each as a test.
    #[test]
    fn the_corpus_breaks_nothing() {
        let corpus =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fuzz/corpus");
        let targets: [(&str, Target); 7] = [
            ("tables", super::tables),
            ("expression", super::expression),
            ("config", super::config),
            ("control", super::control),
            ("names", super::names),
            ("options", super::options),
            ("mounts", super::mounts),
        ];
        for (name, target) in targets {
            let mut count = 0;
            for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
                let path = entry.unwrap().path();
                println!("{}", path.display());
                target(&std::fs::read(path).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no corpus");
        }
    }
}
