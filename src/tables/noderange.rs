//! Noderanges: `cn1-cn40,rack[01-02],-cn7,/login.*/`.
//!
//! Owns: their grammar. May not: invent a node: each name must be a node or a group that the
//! tables have.
//!
//! Forms: a node, a group, `all`, `@group`, `a1-a9` or `a1:a9` (one number differs), `a[1-9,12]b[1-2]`,
//! `/regex/` (the whole name must match), `x@y` (what both have), and `-` before any of them to
//! leave it out. What is left out is left out wherever it stands. Nodes come in the order in which
//! they are named, each once.

use std::collections::HashSet;

use regex::Regex;

use super::nearest;
use super::nodes::Nodes;

/// More pairs of brackets than this no name has.
const MOST_BRACKETS: usize = 8;

/// Why a noderange has no nodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoderangeError {
    /// A name is neither a node nor a group.
    #[error(
        "{name:?}{} is no {what} of nodelist{}",
        within(name, range),
        hint(near)
    )]
    Unknown {
        /// The name.
        name: String,
        /// The part of the noderange that it came from.
        range: String,
        /// What was looked for: "node or group", or "group".
        what: &'static str,
        /// A name that is spelled nearly so; may be empty.
        near: String,
    },
    /// A part of the noderange is not understood.
    #[error("{range:?} is no noderange: {reason}")]
    Syntax {
        /// The part.
        range: String,
        /// Why not.
        reason: String,
    },
}

fn within(name: &str, range: &str) -> String {
    if name == range {
        String::new()
    } else {
        format!(" (of {range:?})")
    }
}

fn hint(near: &str) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!(": {near}")
    }
}

fn syntax<T>(range: &str, reason: impl Into<String>) -> Result<T, NoderangeError> {
    Err(NoderangeError::Syntax {
        range: range.to_owned(),
        reason: reason.into(),
    })
}

/// The nodes of a noderange.
pub(crate) fn expand(range: &str, nodes: &Nodes) -> Result<Vec<String>, NoderangeError> {
    let mut found = Ordered::default();
    let mut left_out = HashSet::new();
    let mut named = false;
    for part in split(range)? {
        match part.strip_prefix('-') {
            Some(part) => left_out.extend(atom(part, nodes)?.names),
            None => {
                named = true;
                found.extend(atom(part, nodes)?.names);
            }
        }
    }
    if !named {
        let reason = if left_out.is_empty() {
            "it is empty"
        } else {
            "it only leaves out: say from what, as in all,-cn1"
        };
        return syntax(range, reason);
    }
    Ok(found
        .names
        .into_iter()
        .filter(|n| !left_out.contains(n))
        .map(str::to_owned)
        .collect())
}

/// Names in the order in which they came, each once.
#[derive(Default)]
struct Ordered<'n> {
    names: Vec<&'n str>,
    seen: HashSet<&'n str>,
}

impl<'n> Ordered<'n> {
    fn extend(&mut self, names: impl IntoIterator<Item = &'n str>) {
        for name in names {
            if self.seen.insert(name) {
                self.names.push(name);
            }
        }
    }
}

/// The parts between commas; those in brackets, braces and parentheses part nothing.
fn split(range: &str) -> Result<Vec<&str>, NoderangeError> {
    let (mut parts, mut open, mut start) = (Vec::new(), Vec::new(), 0);
    let mut escaped = false;
    for (i, c) in range.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            '[' | '{' | '(' => open.push(c),
            ']' | '}' | ')' => {
                let Some(_) = open.pop() else {
                    return syntax(range, format!("nothing opens the {c:?}"));
                };
            }
            ',' if open.is_empty() => {
                parts.push(range[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if let Some(c) = open.pop() {
        return syntax(range, format!("nothing closes the {c:?}"));
    }
    parts.push(range[start..].trim());
    parts.retain(|part| !part.is_empty());
    Ok(parts)
}

fn atom<'n>(part: &str, nodes: &'n Nodes) -> Result<Ordered<'n>, NoderangeError> {
    let mut found = Ordered::default();
    if let Some(regex) = part.strip_prefix('/') {
        found.extend(matching(
            part,
            regex.strip_suffix('/').unwrap_or(regex),
            nodes,
        )?);
        return Ok(found);
    }
    if part.contains(['(', '{']) || part.starts_with('^') {
        return syntax(part, "parentheses and ^file are not supported");
    }
    if let Some(group) = part.strip_prefix('@') {
        let Some(members) = group_members(group, nodes) else {
            return Err(unknown(group, part, "group", nodes));
        };
        found.extend(members);
        return Ok(found);
    }
    let mut both = part.split('@');
    names(both.next().unwrap_or_default(), part, nodes, &mut found)?;
    for other in both {
        let mut also = Ordered::default();
        names(other, part, nodes, &mut also)?;
        found.names.retain(|name| also.seen.contains(name));
    }
    found.seen = found.names.iter().copied().collect();
    Ok(found)
}

fn matching<'n>(part: &str, regex: &str, nodes: &'n Nodes) -> Result<Vec<&'n str>, NoderangeError> {
    let regex = match Regex::new(&format!("^(?:{regex})$")) {
        Ok(regex) => regex,
        Err(e) => return syntax(part, e.to_string().lines().last().unwrap_or_default()),
    };
    let found: Vec<&str> = nodes.names().filter(|name| regex.is_match(name)).collect();
    if found.is_empty() {
        return syntax(part, "it matches no node");
    }
    Ok(found)
}

fn group_members<'n>(
    group: &str,
    nodes: &'n Nodes,
) -> Option<Box<dyn Iterator<Item = &'n str> + 'n>> {
    match nodes.members(group) {
        Some(members) => Some(Box::new(members.iter().map(String::as_str))),
        None if group == "all" => Some(Box::new(nodes.names())),
        None => None,
    }
}

fn unknown(name: &str, range: &str, what: &'static str, nodes: &Nodes) -> NoderangeError {
    let known = nodes
        .groups()
        .chain(nodes.names().filter(|_| what != "group"));
    NoderangeError::Unknown {
        name: name.to_owned(),
        range: range.to_owned(),
        what,
        near: nearest::hint(name, known),
    }
}

/// A node, a group, or a range of them.
fn names<'n>(
    text: &str,
    part: &str,
    nodes: &'n Nodes,
    found: &mut Ordered<'n>,
) -> Result<(), NoderangeError> {
    if one(text, nodes, found) {
        return Ok(());
    }
    if text.contains(['[', ']']) {
        // Each is a level of recursion.
        if text.matches('[').count() > MOST_BRACKETS {
            return syntax(
                part,
                format!("it has more than {MOST_BRACKETS} pairs of brackets"),
            );
        }
        return brackets(String::new(), text, part, nodes, found);
    }
    if let Some(range) = Range::between(text) {
        return range
            .names(part)
            .try_for_each(|name| must(&name?, part, nodes, found));
    }
    Err(unknown(text, part, "node or group", nodes))
}

/// Takes a node or a group; false where it is neither.
fn one<'n>(name: &str, nodes: &'n Nodes, found: &mut Ordered<'n>) -> bool {
    if let Some(node) = nodes.known(name) {
        found.extend([node]);
    } else if let Some(members) = group_members(name, nodes) {
        found.extend(members);
    } else {
        return false;
    }
    true
}

fn must<'n>(
    name: &str,
    part: &str,
    nodes: &'n Nodes,
    found: &mut Ordered<'n>,
) -> Result<(), NoderangeError> {
    if one(name, nodes, found) {
        Ok(())
    } else {
        Err(unknown(name, part, "node or group", nodes))
    }
}

/// Expands the first brackets of `text`, then the rest, so that a name that isn't there is met
/// before a range of millions is built.
fn brackets<'n>(
    prefix: String,
    text: &str,
    part: &str,
    nodes: &'n Nodes,
    found: &mut Ordered<'n>,
) -> Result<(), NoderangeError> {
    let Some((before, rest)) = text.split_once('[') else {
        return must(&(prefix + text), part, nodes, found);
    };
    let Some((list, after)) = rest.split_once(']') else {
        return syntax(part, "nothing closes the '['");
    };
    for item in list.split(',').map(str::trim) {
        let ends = item.split_once(['-', ':']);
        let range = match ends {
            None if !item.is_empty() => Range::single(item),
            Some((from, to)) => match Range::of_numbers("", from, to, "") {
                Some(range) => range,
                None => return syntax(part, format!("{item:?} is no range of numbers")),
            },
            None => return syntax(part, "an item between the brackets is empty"),
        };
        for value in range.names(part) {
            brackets(
                format!("{prefix}{before}{}", value?),
                after,
                part,
                nodes,
                found,
            )?;
        }
    }
    Ok(())
}

/// `prefix` + each number + `suffix`; zero padding as in `from`.
struct Range<'t> {
    prefix: &'t str,
    suffix: &'t str,
    /// From, to, width; none: the prefix alone.
    numbers: Option<(u64, u64, usize)>,
}

impl<'t> Range<'t> {
    fn single(text: &'t str) -> Self {
        Self {
            prefix: text,
            suffix: "",
            numbers: None,
        }
    }

    fn of_numbers(prefix: &'t str, from: &str, to: &str, suffix: &'t str) -> Option<Self> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(from) || !digits(to) {
            return None;
        }
        let numbers = Some((from.parse().ok()?, to.parse().ok()?, from.len()));
        Some(Self {
            prefix,
            suffix,
            numbers,
        })
    }

    /// `left-right` or `left:right`, where both are the same but for one number. A name may have
    /// dashes itself: the one that parts two such halves is meant.
    fn between(text: &'t str) -> Option<Self> {
        text.match_indices(['-', ':'])
            .find_map(|(i, _)| Self::halves(&text[..i], &text[i + 1..]))
    }

    fn halves(left: &'t str, right: &str) -> Option<Self> {
        let (a, b) = (pieces(left), pieces(right));
        if a.len() != b.len() {
            return None;
        }
        let mut differing = (0..a.len()).filter(|i| a[*i] != b[*i]);
        let at = differing
            .next()
            .or_else(|| (0..a.len()).find(|i| is_number(a[*i])))?;
        if differing.next().is_some() {
            return None;
        }
        let before = a[..at].iter().map(|piece| piece.len()).sum();
        let after = before + a[at].len();
        Self::of_numbers(&left[..before], a[at], b[at], &left[after..])
    }

    fn names(&self, part: &str) -> impl Iterator<Item = Result<String, NoderangeError>> {
        let backwards = self.numbers.filter(|(from, to, _)| from > to);
        let error =
            backwards.map(|(from, to, _)| syntax(part, format!("{from} to {to} runs backwards")));
        let (from, to, width) = self.numbers.unwrap_or((1, 1, 0));
        let numbered = self.numbers.is_some();
        let name = move |n: u64| {
            if numbered {
                format!("{}{n:0width$}{}", self.prefix, self.suffix)
            } else {
                self.prefix.to_owned()
            }
        };
        error
            .into_iter()
            .chain((from..=to).map(move |n| Ok(name(n))))
    }
}

fn is_number(piece: &str) -> bool {
    piece.starts_with(|c: char| c.is_ascii_digit())
}

/// Runs of digits and of other characters.
fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let number = is_number(rest);
        let end = rest
            .find(|c: char| c.is_ascii_digit() != number)
            .unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cluster() -> Nodes {
        let mut list = Vec::new();
        for n in 1..=40 {
            list.push((
                format!("cn{n:02}"),
                vec!["compute".to_owned(), format!("rack{}", n / 21 + 1)],
            ));
        }
        for name in [
            "c1", "c9", "c10", "a-1-x", "a-2-x", "f1n1", "f1n2", "f2n1", "login1",
        ] {
            list.push((name.to_owned(), vec!["others".to_owned()]));
        }
        Nodes::of(list)
    }

    fn names(range: &str) -> String {
        expand(range, &cluster()).unwrap().join(" ")
    }

    #[test]
    fn the_forms() {
        for (range, expected) in [
            ("cn01", "cn01"),
            ("cn03-cn05", "cn03 cn04 cn05"),
            ("cn03:cn05", "cn03 cn04 cn05"),
            ("cn[09-11]", "cn09 cn10 cn11"),
            ("cn[01-02,20]", "cn01 cn02 cn20"),
            ("cn[01:02],cn02", "cn01 cn02"),
            ("c9-c10", "c9 c10"),
            ("c1-c1", "c1"),
            ("a-1-x-a-2-x", "a-1-x a-2-x"),
            ("f1n[1-2],f[1-2]n1", "f1n1 f1n2 f2n1"),
            ("/cn0[12]/", "cn01 cn02"),
            ("/cn[0-9]{1,2},-@compute,c1", "c1"),
            ("others,-/.*n.*/", "c1 c9 c10 a-1-x a-2-x"),
            ("compute@/x", ""),
        ] {
            if expected.is_empty() {
                assert!(expand(range, &cluster()).is_err(), "{range}");
            } else {
                assert_eq!(names(range), expected, "{range}");
            }
        }
        assert_eq!(expand("all", &cluster()).unwrap().len(), 49);
        assert_eq!(expand("@all", &cluster()).unwrap().len(), 49);
        assert_eq!(expand("@compute,-rack2", &cluster()).unwrap().len(), 20);
        assert_eq!(expand("rack1-rack2", &cluster()).unwrap().len(), 40);
        assert_eq!(names("-cn02,cn01-cn03"), "cn01 cn03");
        assert_eq!(names("compute@cn39-cn40"), "cn39 cn40");
        assert_eq!(names("cn01-cn03@rack1,-cn02"), "cn01 cn03");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (range, expected) in [
            (
                "cn41",
                "\"cn41\" is no node or group of nodelist: did you mean",
            ),
            (
                "cn39-cn99999999999",
                "\"cn41\" (of \"cn39-cn99999999999\") is no node or group",
            ),
            ("cn[39-18446744073709551615]", "\"cn41\""),
            (
                "@rack9",
                "\"rack9\" (of \"@rack9\") is no group of nodelist: did you mean \"rack",
            ),
            ("cn05-cn01", "5 to 1 runs backwards"),
            ("", "it is empty"),
            (",", "it is empty"),
            ("-cn01", "it only leaves out"),
            ("cn[01-02", "nothing closes the '['"),
            ("cn01]", "nothing opens the ']'"),
            ("cn[]", "an item between the brackets is empty"),
            ("cn[1-b]", "\"1-b\" is no range of numbers"),
            ("/nothing/", "it matches no node"),
            ("/(/", "nothing closes the '('"),
            ("(cn01)", "not supported"),
            ("^/tmp/list", "not supported"),
            ("cn[1-99999999999999999999999]", "is no range of numbers"),
            (
                "cn[1][2][3][4][5][6][7][8][9]",
                "more than 8 pairs of brackets",
            ),
        ] {
            let error = expand(range, &cluster()).expect_err(range).to_string();
            assert!(error.contains(expected), "{range}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_without_a_panic(range in r"[acnf0-9\[\]@/(){}:,\\-]{0,24}") {
            expand(&range, &cluster()).ok();
        }

        #[test]
        fn ranges_are_what_a_loop_gives(
            parts in proptest::collection::vec((1..=40_u32, 1..=40_u32, 0..3, any::<bool>()), 1..5)) {
            let (mut text, mut wanted, mut gone): (Vec<String>, Vec<String>, Vec<String>) = Default::default();
            let mut named = false;
            for (a, b, form, minus) in parts {
                let (a, b) = (a.min(b), a.max(b));
                let minus = minus && named;
                named = true;
                let sign = if minus { "-" } else { "" };
                text.push(match form {
                    0 => format!("{sign}cn{a:02}-cn{b:02}"),
                    1 => format!("{sign}cn[{a:02}-{b:02}]"),
                    _ => format!("{sign}cn[{}]", (a..=b).map(|n| format!("{n:02}")).collect::<Vec<_>>().join(",")),
                });
                for n in a..=b {
                    let name = format!("cn{n:02}");
                    let list = if minus { &mut gone } else { &mut wanted };
                    if !list.contains(&name) {
                        list.push(name);
                    }
                }
            }
            wanted.retain(|name| !gone.contains(name));
            prop_assert_eq!(expand(&text.join(","), &cluster()).unwrap(), wanted);
        }
    }
}
