//! The nodes and their groups.
//!
//! Owns: nodelist, and who is in which group. May not: read an attribute of any other table.

use std::collections::{BTreeMap, HashMap};

use super::csv::Table;
use super::{Origin, Problem};

/// What a node may be called: it becomes a directory's name, and part of noderanges.
const NAME_HELP: &str = "a node's name has letters, digits, \".\", \"-\" and \"_\", and begins with a letter or a digit";

/// Every node, in nodelist's order, and the groups.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    names: Vec<String>,
    entries: HashMap<String, Entry>,
    members: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Entry {
    groups: Vec<String>,
    at: Origin,
}

impl Nodes {
    /// Reads nodelist.
    pub(crate) fn read(nodelist: &Table, problems: &mut Vec<Problem>) -> Self {
        let mut nodes = Self::default();
        for row in nodelist.rows() {
            let (name, at) = (row.text("node").into_owned(), row.at("node"));
            if !is_node_name(&name) {
                let message = format!("{name:?} is no name for a node");
                problems.push(Problem::error(at, message, NAME_HELP));
            } else if let Some(entry) = nodes.entries.get(&name) {
                let message = format!("node {name} stands in line {} already", entry.at.line);
                problems.push(Problem::warning(
                    at,
                    message,
                    "the first row counts: remove this one",
                ));
            } else {
                nodes.add(name, split_list(&row.text("groups")), at);
            }
        }
        nodes
    }

    fn add(&mut self, name: String, groups: Vec<String>, at: Origin) {
        for group in &groups {
            self.members
                .entry(group.clone())
                .or_default()
                .push(name.clone());
        }
        self.names.push(name.clone());
        self.entries.insert(name, Entry { groups, at });
    }

    /// Adds a group of the nodegroup table; those who are in it already stay where they are.
    pub(crate) fn add_group(&mut self, group: &str, members: impl IntoIterator<Item = String>) {
        let list = self.members.entry(group.to_owned()).or_default();
        for name in members {
            if let Some(entry) = self.entries.get_mut(&name)
                && !entry.groups.iter().any(|known| known == group)
            {
                entry.groups.push(group.to_owned());
                list.push(name);
            }
        }
    }

    /// All names, in nodelist's order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The same name, where there is such a node.
    pub(crate) fn known(&self, name: &str) -> Option<&str> {
        self.entries
            .get_key_value(name)
            .map(|(name, _)| name.as_str())
    }

    /// A node's groups, in order.
    pub(crate) fn groups_of(&self, node: &str) -> &[String] {
        self.entries
            .get(node)
            .map_or(&[], |entry| entry.groups.as_slice())
    }

    /// Where nodelist has the node.
    pub(crate) fn at(&self, node: &str) -> Origin {
        self.entries
            .get(node)
            .map(|entry| entry.at.clone())
            .unwrap_or_default()
    }

    /// All groups that have or were declared to have members.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// A group's nodes, in nodelist's order; `None` where there is no such group.
    pub(crate) fn members(&self, group: &str) -> Option<&[String]> {
        self.members.get(group).map(Vec::as_slice)
    }

    #[cfg(test)]
    pub(crate) fn of(list: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        let mut nodes = Self::default();
        for (name, groups) in list {
            nodes.add(name, groups, Origin::default());
        }
        nodes
    }
}

/// The items of a comma list, each once, without blanks.
pub(crate) fn split_list(list: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for item in list
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        if !items.iter().any(|known| known == item) {
            items.push(item.to_owned());
        }
    }
    items
}

fn is_node_name(name: &str) -> bool {
    name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::super::RawTable;
    use super::*;

    #[test]
    fn nodelist_is_read_in_order() {
        let mut problems = Vec::new();
        let bytes = b"#node,groups,disable\ncn2,\"all, rack1,,compute\",\ncn1,rack1,\n../x,a,\n,b,\ncn2,z,\ncn3,rack1,yes\n";
        let raw = RawTable {
            file: "nodelist.csv".into(),
            bytes: bytes.to_vec(),
        };
        let table = Table::parse("nodelist", raw, &mut problems);
        let mut nodes = Nodes::read(&table, &mut problems);
        assert_eq!(nodes.names().collect::<Vec<_>>(), ["cn2", "cn1"]);
        assert_eq!(nodes.groups_of("cn2"), ["all", "rack1", "compute"]);
        assert_eq!(nodes.members("rack1").unwrap(), ["cn2", "cn1"]);
        assert_eq!(nodes.at("cn1").to_string(), "nodelist.csv:3:1");
        let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            told[0].starts_with("nodelist.csv:4:1: error: \"../x\" is no name"),
            "{told:?}"
        );
        assert!(
            told[1].starts_with("nodelist.csv:5:1: error: \"\" is no name"),
            "{told:?}"
        );
        assert!(
            told[2].starts_with("nodelist.csv:6:1: warning: node cn2 stands in line 2"),
            "{told:?}"
        );
        nodes.add_group("new", ["cn1".to_owned(), "stranger".to_owned()]);
        nodes.add_group("rack1", ["cn1".to_owned()]);
        assert_eq!(nodes.groups_of("cn1"), ["rack1", "new"]);
        assert_eq!(nodes.members("new").unwrap(), ["cn1"]);
    }
}
