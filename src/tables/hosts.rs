//! The hosts table: names and addresses that belong together.
//!
//! Owns: its rows, read for every node of a group. May not: know who this host is, or ask a name
//! server.

use std::collections::HashMap;
use std::net::IpAddr;

use super::book::Book;
use super::location::normal;
use super::nodes::{Nodes, split_list};

/// What one row says of one host.
pub(crate) struct Host {
    /// The row's own name, then hostnames, as they are compared.
    pub(crate) names: Vec<String>,
    /// The column ip as it is for this host, trimmed; may be empty.
    pub(crate) ip: String,
    /// The names and addresses of its other interfaces.
    interfaces: Vec<(String, IpAddr)>,
}

/// Every host of the table, row by row; a row of a group is one for each of its nodes. What cannot be
/// evaluated is left out: who asks for such a node is told.
pub(crate) fn read(book: &Book) -> Vec<Host> {
    let nodes = book
        .table("nodelist")
        .map(|t| Nodes::read(t, &mut Vec::new()))
        .unwrap_or_default();
    let mut found = Vec::new();
    for row in book.table("hosts").into_iter().flat_map(|t| t.rows()) {
        let key = row.text("node").into_owned();
        let members = match nodes.members(&key) {
            Some(members) if nodes.known(&key).is_none() => members.to_vec(),
            _ => vec![key],
        };
        for name in members {
            let value = |column| match book.value_of(row, column, &name) {
                Ok(Some(found)) => String::from_utf8_lossy(&found.value).into_owned(),
                _ => String::new(),
            };
            let hostnames = value("hostnames");
            let mut names: Vec<String> = std::iter::once(name.as_str())
                .chain(hostnames.split([',', ' ']))
                .map(normal)
                .collect();
            names.retain(|name| !name.is_empty());
            let interfaces = split_list(&value("otherinterfaces"));
            found.push(Host {
                ip: value("ip").trim().to_owned(),
                interfaces: interfaces
                    .iter()
                    .filter_map(|item| interface(&name, item))
                    .collect(),
                names,
            });
        }
    }
    found
}

/// `-ib:10.1.0.1` is an interface `cn1-ib` of cn1, `eth1:fd00::1` one with a name of its own.
fn interface(host: &str, item: &str) -> Option<(String, IpAddr)> {
    let (name, ip) = item.split_once(':')?;
    let name = match name.starts_with('-') {
        true => format!("{host}{name}"),
        false => name.to_owned(),
    };
    Some((normal(&name), ip.parse().ok()?))
}

/// The addresses of each name, in the order in which the table has them.
pub(crate) fn addresses(book: &Book) -> HashMap<String, Vec<IpAddr>> {
    let mut found: HashMap<String, Vec<IpAddr>> = HashMap::new();
    let mut add = |name: String, ip: IpAddr| {
        let of_name = found.entry(name).or_default();
        if !of_name.contains(&ip) {
            of_name.push(ip);
        }
    };
    for host in read(book) {
        for ip in split_list(&host.ip).iter().filter_map(|ip| ip.parse().ok()) {
            for name in &host.names {
                add(name.clone(), ip);
            }
        }
        for (name, ip) in host.interfaces {
            add(name, ip);
        }
    }
    found
}
