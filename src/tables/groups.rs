//! Groups of the nodegroup table: static ones by their members, dynamic ones by a selection.
//!
//! Owns: that table. May not: let a group depend on another group of it: members are nodes and
//! nodelist groups, attributes those that nodelist's groups give.

use std::borrow::Cow;

use super::book::Book;
use super::nodes::{Nodes, split_list};
use super::{Problem, noderange};
use crate::tables::csv::Row;

/// How a selection compares.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Is,
    IsNot,
    Matches,
    MatchesNot,
}

/// `table.column==value` and the like: one condition of a dynamic group.
struct Condition<'r> {
    table: String,
    column: String,
    operator: Operator,
    value: &'r str,
}

/// Puts nodes into the groups that nodegroup defines, after those of nodelist.
pub(crate) fn add_nodegroups(book: &Book, nodes: &mut Nodes, problems: &mut Vec<Problem>) {
    let Some(table) = book.table("nodegroup") else {
        return;
    };
    let mut groups = Vec::new();
    for row in table.rows() {
        let name = row.text("groupname").trim().to_owned();
        if name.is_empty() {
            let help = "write the group's name, or remove the row";
            problems.push(Problem::error(
                row.at("groupname"),
                "the group has no name",
                help,
            ));
            continue;
        }
        let members = if row.text("grouptype").trim().eq_ignore_ascii_case("dynamic") {
            selected(book, nodes, row)
        } else {
            listed(nodes, row)
        };
        match members {
            Ok(members) => groups.push((name, members)),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, members) in groups {
        nodes.add_group(&name, members);
    }
}

fn listed(nodes: &Nodes, row: Row<'_>) -> Result<Vec<String>, Problem> {
    let mut members = Vec::new();
    let list = row.text("members");
    // tabdump fills the column with a word where nodelist alone has the members.
    if !list.trim().is_empty() && list.trim() != "static" {
        members = noderange::expand(&list, nodes).map_err(|e| {
            Problem::error(
                row.at("members"),
                e.to_string(),
                "members are nodes and groups of nodelist",
            )
        })?;
    }
    for group in split_list(&row.text("membergroups")) {
        let found = nodes.members(&group).ok_or_else(|| {
            let message = format!("there is no group {group} in nodelist");
            Problem::error(
                row.at("membergroups"),
                message,
                "member groups are groups of nodelist",
            )
        })?;
        members.extend_from_slice(found);
    }
    Ok(members)
}

/// What stands between `::`, with where it begins in the bytes: text would have other offsets behind
/// what is not UTF-8.
fn parts(value: &[u8]) -> Vec<(usize, Cow<'_, str>)> {
    let mut parts = Vec::new();
    let mut rest = Some(value);
    while let Some(now) = rest {
        let end = now.windows(2).position(|pair| pair == b"::");
        let part = &now[..end.unwrap_or(now.len())];
        parts.push((value.len() - now.len(), String::from_utf8_lossy(part)));
        rest = end.and_then(|end| now.get(end + 2..));
    }
    parts
}

/// The nodes that fulfil every condition of `wherevals`.
fn selected(book: &Book, nodes: &Nodes, row: Row<'_>) -> Result<Vec<String>, Problem> {
    let parts = parts(row.get("wherevals"));
    let mut conditions = Vec::new();
    for (offset, part) in &parts {
        if !part.trim().is_empty() {
            let found = condition(book, part).map_err(|message| {
                let help =
                    "write attribute==value, != value, =~ regex or !~ regex, several parted by ::";
                Problem::error(row.at_byte("wherevals", *offset), message, help)
            })?;
            conditions.push(found);
        }
    }
    if conditions.is_empty() {
        let help = "write which nodes are in it, as mgt==ipmi";
        return Err(Problem::error(
            row.at("wherevals"),
            "a dynamic group needs wherevals",
            help,
        ));
    }
    let mut members = Vec::new();
    for node in nodes.names() {
        let mut all = true;
        for condition in &conditions {
            all &= holds(book, nodes, node, condition)?;
        }
        if all {
            members.push(node.to_owned());
        }
    }
    Ok(members)
}

/// A node that has no value is selected by no operator, as in xCAT.
fn holds(book: &Book, nodes: &Nodes, node: &str, c: &Condition<'_>) -> Result<bool, Problem> {
    let groups = nodes.groups_of(node);
    let value = match (c.table.as_str(), c.column.as_str()) {
        ("nodelist", "node") => node.to_owned(),
        ("nodelist", "groups") => groups.join(","),
        (table, column) => match book.attribute(node, groups, table, column)? {
            Some(found) => String::from_utf8_lossy(&found.value).into_owned(),
            None => return Ok(false),
        },
    };
    // `condition` has tried the regex already.
    let matches = || {
        book.regexes()
            .get(c.value)
            .is_ok_and(|regex| regex.is_match(&value))
    };
    Ok(match c.operator {
        Operator::Is => value == c.value,
        Operator::IsNot => value != c.value,
        Operator::Matches => matches(),
        Operator::MatchesNot => !matches(),
    })
}

fn condition<'r>(book: &Book, text: &'r str) -> Result<Condition<'r>, String> {
    use Operator::{Is, IsNot, Matches, MatchesNot};
    let none = || format!("\"{text}\" has no operator");
    let at = text.find(['=', '!']).ok_or_else(none)?;
    let (attribute, rest) = (text[..at].trim(), &text[at..]);
    let (mark, operator) = [
        ("==", Is),
        ("!=", IsNot),
        ("=~", Matches),
        ("!~", MatchesNot),
        ("=", Is),
    ]
    .into_iter()
    .find(|(mark, _)| rest.starts_with(mark))
    .ok_or_else(none)?;
    let mut value = rest[mark.len()..].trim();
    if matches!(operator, Matches | MatchesNot) {
        value = value.strip_prefix('/').unwrap_or(value);
        value = value.strip_suffix('/').unwrap_or(value);
        book.regexes().get(value)?;
    }
    let (table, column) = resolve(book, attribute)?;
    Ok(Condition {
        table,
        column,
        operator,
        value,
    })
}

/// The table and column that an attribute's name means: `table.column`, or a column's name alone.
fn resolve(book: &Book, attribute: &str) -> Result<(String, String), String> {
    /// Where a bare name is looked for first.
    const FIRST: [&str; 6] = [
        "nodelist", "nodetype", "nodehm", "noderes", "nodepos", "hosts",
    ];
    let has = |table: &str, column: &str| {
        book.table(table)
            .is_some_and(|t| t.columns().any(|c| c == "node") && t.columns().any(|c| c == column))
    };
    if let Some((table, column)) = attribute.split_once('.') {
        if has(table, column) {
            return Ok((table.to_owned(), column.to_owned()));
        }
        return Err(format!("no table of nodes has an attribute {attribute}"));
    }
    let others = book.tables().map(super::csv::Table::name);
    FIRST
        .into_iter()
        .chain(others)
        .find(|table| has(table, attribute))
        .map(|table| (table.to_owned(), attribute.to_owned()))
        .ok_or_else(|| format!("no table of nodes has an attribute {attribute:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Given;
    use super::*;

    fn given(nodegroup: &str) -> (Nodes, Vec<String>) {
        let given = Given::default()
            .table(
                "nodelist",
                "#node,groups,status\ncn1,\"all,rack1\",booted\ncn2,all,\ncn3,\"all,rack1\",off\n",
            )
            .table(
                "nodetype",
                "#node,os,arch\nall,rhels9,x86_64\ncn3,sles15,\n",
            )
            .table("nodehm", "#node,mgt\nrack1,ipmi\n")
            .table("nodegroup", nodegroup);
        let mut problems = Vec::new();
        let book = Book::load(&given, &mut problems);
        problems.clear();
        let mut nodes = Nodes::read(book.table("nodelist").unwrap(), &mut problems);
        add_nodegroups(&book, &mut nodes, &mut problems);
        (nodes, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn static_and_dynamic_groups() {
        let (nodes, problems) = given(
            "#groupname,grouptype,members,membergroups,wherevals\n\
             s1,static,\"cn2,cn3\",,\n\
             s2,,static,rack1,\n\
             d1,dynamic,,,mgt==ipmi\n\
             d2,Dynamic,,,nodetype.os!=rhels9\n\
             d3,dynamic,,,mgt!=ipmi\n\
             d4,dynamic,,,os=~/^rh/::status=booted\n\
             d5,dynamic,,,node!~3$\n\
             d6,dynamic,,,groups=~rack1::nodetype.arch!~ppc\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let members = |group| nodes.members(group).unwrap().join(" ");
        assert_eq!(members("s1"), "cn2 cn3");
        assert_eq!(members("s2"), "cn1 cn3");
        assert_eq!(members("d1"), "cn1 cn3");
        assert_eq!(members("d2"), "cn3");
        assert_eq!(members("d3"), "", "cn2 has no mgt: no operator selects it");
        assert_eq!(members("d4"), "cn1");
        assert_eq!(members("d5"), "cn1 cn2");
        assert_eq!(members("d6"), "cn1 cn3");
        assert_eq!(
            nodes.groups_of("cn1"),
            ["all", "rack1", "s2", "d1", "d4", "d5", "d6"]
        );
    }

    #[test]
    fn broken_groups_are_named() {
        let (_, problems) = given(
            "#groupname,grouptype,members,membergroups,wherevals\n\
             s1,static,cn9,,\n\
             s2,static,,rack9,\n\
             d1,dynamic,,,\"os==x::(\"\n\
             d2,dynamic,,,osx==rhels9\n\
             d3,dynamic,,,os=~(\n\
             d4,dynamic,,,\n\
             ,static,,,\n",
        );
        let expected = [
            "nodegroup.csv:2:11: error: \"cn9\" is no node or group",
            "nodegroup.csv:3:12: error: there is no group rack9",
            "nodegroup.csv:4:22: error: \"(\" has no operator",
            "nodegroup.csv:5:14: error: no table of nodes has an attribute \"osx\"",
            "nodegroup.csv:6:14: error: \"(\" is no regular expression",
            "nodegroup.csv:7:14: error: a dynamic group needs wherevals",
            "nodegroup.csv:8:1: error: the group has no name",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    }
}
