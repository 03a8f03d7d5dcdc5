//! What servers and boot loaders are told of the nodes' roots: exports(5) lines, NFS-Ganesha's EXPORT
//! blocks, kernel command lines, dnsmasq and PXELINUX configuration.
//!
//! Owns: those formats, which client may have which root, and writing the files of NFS servers. May
//! not: mount anything, or know of the daemon.

mod boot;
mod exports;
mod ganesha;
mod install;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::config::Config;
use crate::tables::{Elsewhere, NodeBoot, Origin, Problem, Severity, Tables, TablesError};

pub use boot::{Initrd, command_line, dnsmasq, pxelinux};
pub use exports::exports;
pub use ganesha::{GaneshaError, ganesha, minor_versions};
pub use install::{InstallError, Server, Told, forget, ganesha_pid, install, let_go, read, tell};

/// What every file begins with.
const HEADER: &str =
    "# Made by statelite from its tables: a change here is lost with the next one there.\n";

/// One node's root, and who may mount it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct NodeRoot {
    /// Where it is mounted on the server.
    pub path: PathBuf,
    /// Identifies it to NFS clients, on every server and after every restart.
    pub fsid: String,
    /// The addresses that may mount it.
    pub clients: Vec<IpAddr>,
    /// What its node is told.
    #[serde(flatten)]
    pub boot: NodeBoot,
}

/// The roots of many nodes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Roots {
    /// Those that have a client, in the order in which they were named.
    pub nodes: Vec<NodeRoot>,
    /// Nodes that other servers have.
    pub elsewhere: Vec<Elsewhere>,
    /// What is wrong, sorted by place.
    pub problems: Vec<Problem>,
}

impl Roots {
    /// Of the nodes that are named. One without an address is a problem, and so is an address that two
    /// of them have: each would have the other's root. `named` says that somebody asked for just these,
    /// so that a node without an image is a problem as well.
    pub fn of(tables: &Tables, config: &Config, names: &[String], named: bool) -> Roots {
        let mut roots = Roots::default();
        let mut owners: HashMap<IpAddr, (String, Origin)> = HashMap::new();
        for name in names {
            if let Some(elsewhere) = tables.elsewhere(name, config) {
                roots.elsewhere.push(elsewhere);
                continue;
            }
            let mut boot = match tables.boot(name, config) {
                Ok(boot) => boot,
                Err(TablesError::NoImage { problem, .. }) => {
                    if named || problem.severity == Severity::Error {
                        let mut problem = *problem;
                        problem.message = format!("node {name}: {}", problem.message);
                        roots.problems.push(problem);
                    }
                    continue;
                }
                Err(error @ TablesError::UnknownNode { .. }) => {
                    let help = "name one that nodelist has";
                    let at = tables.table("nodelist").map(|table| table.whole());
                    let at = at.unwrap_or_default();
                    roots
                        .problems
                        .push(Problem::error(at, error.to_string(), help));
                    continue;
                }
            };
            roots.problems.append(&mut boot.problems);
            let mut clients = Vec::new();
            for address in &boot.addresses {
                match owners.get(&address.ip) {
                    None => {
                        owners.insert(address.ip, (name.clone(), address.at.clone()));
                        clients.push(address.ip);
                    }
                    Some((owner, at)) => {
                        let ip = address.ip;
                        let message = format!("{ip} is {name}'s, and that of {owner} ({at})");
                        let help = "each would have the other's root: the first keeps it, \
                                    give this one an address of its own";
                        let problem = Problem::error(address.at.clone(), message, help);
                        roots.problems.push(problem);
                    }
                }
            }
            if clients.is_empty() {
                continue;
            }
            roots.nodes.push(NodeRoot {
                path: config.root.join(name),
                fsid: fsid(name),
                clients,
                boot,
            });
        }
        roots.problems.sort();
        roots.problems.dedup();
        roots
    }
}

/// A UUID (version 8, RFC 9562) that depends on the node's name alone.
fn fsid(node: &str) -> String {
    let bits = xxh3_128(format!("statelite root of {node}").as_bytes());
    let bits = bits & !(0xf << 76) | 0x8 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let digits = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    parts.join("-")
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::testing::site;
    use super::*;

    #[test]
    fn a_uuid_of_the_name_alone() {
        assert_eq!(fsid("cn1"), fsid("cn1"));
        let mut seen = std::collections::HashSet::new();
        for n in 0..10_000 {
            let id = fsid(&format!("cn{n}"));
            assert_eq!((id.len(), id.as_bytes()[14]), (36, b'8'), "{id}");
            assert!(b"89ab".contains(&id.as_bytes()[19]), "{id}");
            assert!(seen.insert(id));
        }
        // It is in every client's handles: it may not change from version to version.
        assert_eq!(fsid("cn1"), "aaa2e5db-8a07-87cf-8081-e8ef3f6fdbf2");
    }

    #[test]
    fn only_nodes_with_an_address_of_their_own() {
        let roots = site(
            "#node,ip\ncn1,10.0.0.1\ncn2,10.0.0.1\ncn3,\ncn4,10.0.0.4\n",
            "",
        );
        let names: Vec<&str> = roots.nodes.iter().map(|root| &*root.boot.node).collect();
        assert_eq!(names, ["cn1", "cn4"]);
        let told: Vec<String> = roots.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with(
            "hosts.csv:3:5: error: 10.0.0.1 is cn2's, and that of cn1 (hosts.csv:2:5)"
        ));
        assert!(told[1].starts_with("hosts.csv:4:5: error: node cn3 has no address"));
        assert_eq!(roots.elsewhere.len(), 1);
        assert_eq!(roots.elsewhere[0].node, "cn5");
    }
}
