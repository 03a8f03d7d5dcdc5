//! EXPORT blocks for NFS-Ganesha, for its FSAL VFS.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use super::{HEADER, NodeRoot};
use crate::config::Config;
use crate::tables::{Origin, Problem};

/// A second NFSv4 block would put the keys of the first one back to their defaults, so it is not here.
const NOTE: &str = "# ganesha.conf must have NFSv4 { Minor_Versions = 0, 1; }: over NFSv4.2 Ganesha may give clients wrong data.\n";
/// Export_Id has 16 bits, and 0 is the pseudo file system's.
const IDS: u64 = u16::MAX as u64;

/// Why there are no blocks.
#[derive(Debug, thiserror::Error)]
pub enum GaneshaError {
    /// Its grammar has no way to write the path.
    #[error("{}: a line break or a quote in the path can't be written for NFS-Ganesha; choose another root", .0.display())]
    Path(PathBuf),
    /// More roots than numbers.
    #[error("{0} roots: NFS-Ganesha can tell 65535 exports apart, no more")]
    TooMany(usize),
}

/// A block a node. The number of an export is in its clients' handles, so `before`, the text that is in
/// force, says which one a node has; a new one gets a number that nobody has.
///
/// # Errors
/// [`GaneshaError`].
pub fn ganesha(roots: &[NodeRoot], before: &str) -> Result<String, GaneshaError> {
    if roots.len() as u64 > IDS {
        return Err(GaneshaError::TooMany(roots.len()));
    }
    let known = ids(before);
    let mut taken: BTreeSet<u64> = BTreeSet::new();
    let mut numbers: BTreeMap<&str, u64> = BTreeMap::new();
    for root in roots {
        let node = root.boot.node.as_str();
        if let Some(id) = known.get(node)
            && taken.insert(*id)
        {
            numbers.insert(node, *id);
        }
    }
    let mut text = format!("{HEADER}{NOTE}");
    for root in roots {
        let node = root.boot.node.as_str();
        let id = *numbers.entry(node).or_insert_with(|| {
            let mut id = xxh3_64(node.as_bytes()) % IDS;
            while !taken.insert(id + 1) {
                id = (id + 1) % IDS;
            }
            id + 1
        });
        block(&mut text, root, id)?;
    }
    Ok(text)
}

fn block(text: &mut String, root: &NodeRoot, id: u64) -> Result<(), GaneshaError> {
    let unwritable = || GaneshaError::Path(root.path.clone());
    let path = root.path.to_str().ok_or_else(unwritable)?;
    if path.contains(|c: char| c.is_control() || c == '"') {
        return Err(unwritable());
    }
    // Between double quotes a backslash begins an escape.
    let path = path.replace('\\', "\\\\");
    let clients: Vec<String> = root.clients.iter().map(ToString::to_string).collect();
    let clients = clients.join(", ");
    let node = &root.boot.node;
    let fs = xxh3_64(root.fsid.as_bytes());
    let (major, minor) = (fs >> 32, fs & 0xffff_ffff);
    // A change below a root is to show at once, so nothing of it is believed for a time.
    text.push_str(&format!(
        "EXPORT {{\n  Export_Id = {id}; Tag = \"{node}\";\n  Path = \"{path}\"; Pseudo = \"{path}\";\n  \
         Filesystem_Id = {major}.{minor}; Attr_Expiration_Time = 0;\n  \
         Protocols = 3, 4; Transports = TCP; SecType = sys; Access_Type = None;\n  \
         CLIENT {{ Clients = {clients}; Access_Type = RW; Squash = No_Root_Squash; }}\n  \
         FSAL {{ Name = VFS; }}\n}}\n"
    ));
    Ok(())
}

/// The configuration beside our file, where it lets clients use NFSv4.2: they read wrong data then, and
/// nobody is told (READ_PLUS).
pub fn minor_versions(config: &Config) -> Option<Problem> {
    let file = config.ganesha_file.with_file_name("ganesha.conf");
    // One that is elsewhere, or can't be read, says nothing.
    let text = std::fs::read_to_string(&file).ok()?.to_ascii_lowercase();
    let lines = text.lines().enumerate();
    let mut lines = lines.map(|(n, line)| (n + 1, line.split('#').next().unwrap_or_default()));
    let found = lines.find_map(|(n, line)| {
        let (_, after) = line.split_once("minor_versions")?;
        Some((n, after.split(';').next().unwrap_or_default()))
    });
    let line = match found {
        Some((_, list)) if !list.contains('2') => return None,
        Some((line, _)) => line as u64,
        None => 0,
    };
    let column = line.min(1);
    Some(Problem::warning(
        Origin { file, line, column },
        "clients may use NFSv4.2, over which NFS-Ganesha gives them wrong data",
        "write NFSv4 { Minor_Versions = 0, 1; }",
    ))
}

/// The numbers that a text of ours gives to nodes.
fn ids(text: &str) -> BTreeMap<&str, u64> {
    let of = |line: &'_ str| {
        let rest = line.trim().strip_prefix("Export_Id = ")?.to_owned();
        let (id, _) = rest.split_once("; Tag = ")?;
        let id = id.parse::<u64>().ok()?;
        (1..=IDS).contains(&id).then_some(id)
    };
    let node = |line: &'_ str| {
        let start = line.find("Tag = \"")? + "Tag = \"".len();
        let end = line[start..].find('"')?;
        Some(start..start + end)
    };
    text.lines()
        .filter_map(|line| Some((&line[node(line)?], of(line)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::site;
    use super::*;

    const HOSTS: &str = "#node,ip\ncn1,10.0.0.1\ncn2,fd00::2\ncn3,10.0.0.3\ncn4,10.0.0.4\n";

    #[test]
    fn numbers_stay_whoever_comes_and_goes() {
        let roots = site(HOSTS, "");
        let all = ganesha(&roots.nodes, "").unwrap();
        let numbers = ids(&all);
        assert_eq!(numbers.len(), 4);
        assert_eq!(numbers.values().collect::<BTreeSet<_>>().len(), 4);
        assert_eq!(ganesha(&roots.nodes, &all).unwrap(), all);
        // Another node has the number that cn1 would be given.
        let before = format!("  Export_Id = {}; Tag = \"cn3\";\n", numbers["cn1"]);
        let moved = ganesha(&roots.nodes, &before).unwrap();
        let after = ids(&moved);
        assert_eq!(after.values().collect::<BTreeSet<_>>().len(), 4, "{moved}");
        assert_eq!(after["cn3"], numbers["cn1"]);
        // One number twice is somebody's slip: the second gets another.
        let twice = "  Export_Id = 7; Tag = \"cn1\";\n  Export_Id = 7; Tag = \"cn2\";\n  Export_Id = 70000; Tag = \"cn4\";\n";
        let text = ganesha(&roots.nodes, twice).unwrap();
        let after = ids(&text);
        assert_eq!(after["cn1"], 7);
        assert_eq!(after.values().collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn a_block_names_its_client_and_no_other() {
        let roots = site("#node,ip\ncn2,fd00::2\n", "/srv/a b\\c");
        let text = ganesha(&roots.nodes, "").unwrap();
        assert!(
            text.contains("Path = \"/srv/a b\\\\c/cn2\"; Pseudo = \"/srv/a b\\\\c/cn2\";"),
            "{text}"
        );
        assert!(
            text.contains(
                "CLIENT { Clients = fd00::2; Access_Type = RW; Squash = No_Root_Squash; }"
            )
        );
        assert!(text.contains("Access_Type = None;"));
        for root in ["/srv/a\"b", "/srv/a\nb"] {
            let roots = site("#node,ip\ncn2,fd00::2\n", root);
            let error = ganesha(&roots.nodes, "").unwrap_err().to_string();
            assert!(error.contains("choose another root"), "{error}");
        }
    }

    #[test]
    fn the_configuration_beside_it_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            ganesha_file: dir.path().join("statelite.conf"),
            ..Config::default()
        };
        assert_eq!(minor_versions(&config), None);
        for (text, place) in [
            (
                "NFSv4 { Graceless = true; }\n",
                Some("ganesha.conf: warning: clients may"),
            ),
            (
                "# Minor_Versions = 0, 1;\n",
                Some("ganesha.conf: warning: clients may"),
            ),
            (
                "NFSv4 {\n minor_versions = 1, 2;\n}\n",
                Some("ganesha.conf:2:1: warning: clients may"),
            ),
            (
                "NFSv4 { Minor_Versions = 0, 1; Lease_Lifetime = 20; }\n",
                None,
            ),
        ] {
            std::fs::write(dir.path().join("ganesha.conf"), text).unwrap();
            let told = minor_versions(&config).map(|problem| problem.to_string());
            match (told, place) {
                (Some(told), Some(place)) => assert!(told.contains(place), "{text}: {told}"),
                (told, place) => assert_eq!(told.as_deref(), place, "{text}"),
            }
        }
    }
}
