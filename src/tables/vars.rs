//! Variables in litetree.directory and statelite.statemnt (SEMANTICS section 1).
//!
//! Owns: `$node`, `$table.column`, `#CMD=command#`. May not: run a command itself, or know what
//! the text is for.
//!
//! A variable may stand anywhere. Its name ends where it can't go on: a table or a column is
//! letters, digits and `_`, and begins with no digit. `$node` takes no column, so that `$node.d` is
//! `cn1.d`. `${table.column}` ends at its brace, whatever follows. `$$` is a dollar sign. What a
//! variable is replaced by is not looked at for variables again.

use super::book::key_column;
use super::context::Context;
use super::{Origin, Problem, nearest};

const COMMAND: &[u8] = b"#CMD=";

/// Replaces every variable of `text`. Where one can't be, each such is reported, at the place that
/// `at` gives for its offset, and nothing comes out.
pub(crate) fn expand(
    context: &mut Context<'_>,
    text: &[u8],
    at: &dyn Fn(usize) -> Origin,
) -> Option<Vec<u8>> {
    let before = context.problems.len();
    let out = Expansion { context, at }.run(text, 0, true);
    (context.problems.len() == before).then_some(out)
}

struct Expansion<'e, 'c> {
    context: &'e mut Context<'c>,
    at: &'e dyn Fn(usize) -> Origin,
}

impl Expansion<'_, '_> {
    fn problem(&mut self, offset: usize, message: String, help: impl Into<String>) {
        let at = (self.at)(offset);
        self.context
            .problems
            .push(Problem::error(at, message, help));
    }

    /// `base` is the offset of `text` in the whole.
    fn run(&mut self, text: &[u8], base: usize, commands: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut pos = 0;
        while let Some(byte) = text.get(pos) {
            let rest = &text[pos..];
            pos += match byte {
                b'$' => self.variable(rest, base + pos, &mut out),
                b'#' if commands && rest.starts_with(COMMAND) => {
                    self.command(rest, base + pos, &mut out)
                }
                _ => {
                    out.push(*byte);
                    1
                }
            };
        }
        out
    }

    /// Replaces the variable at the start of `text`; how many bytes it had.
    fn variable(&mut self, text: &[u8], offset: usize, out: &mut Vec<u8>) -> usize {
        const FORMS: &str =
            "variables are $node, $table.column and ${table.column}; $$ is a dollar sign";
        let after = &text[1..];
        if after.starts_with(b"$") {
            out.push(b'$');
            return 2;
        }
        let braced = after.starts_with(b"{");
        let name_at = 1 + usize::from(braced);
        let table = identifier(&text[name_at..]);
        let mut end = name_at + table.len();
        let mut column = "";
        if table != "node" && text.get(end) == Some(&b'.') {
            column = identifier(&text[end + 1..]);
            end += if column.is_empty() {
                0
            } else {
                1 + column.len()
            };
        }
        let name = &text[name_at..end];
        if braced {
            if text.get(end) != Some(&b'}') {
                self.problem(offset, "\"${\" is not closed".to_owned(), FORMS);
                return end;
            }
            end += 1;
        }
        let shown = format!("${}", String::from_utf8_lossy(name));
        if table.is_empty() {
            self.problem(offset, "\"$\" without a name".to_owned(), FORMS);
        } else if table == "node" {
            out.extend_from_slice(self.context.node.as_bytes());
        } else if column.is_empty() {
            self.problem(
                offset,
                format!("the variable {shown} is not defined"),
                FORMS,
            );
        } else if let Some(value) = self.lookup(table, column, &shown, offset) {
            out.extend(value);
        }
        end
    }

    fn lookup(&mut self, table: &str, column: &str, shown: &str, offset: usize) -> Option<Vec<u8>> {
        let book = self.context.book;
        let undefined = format!("the variable {shown} is not defined");
        let Some(found) = book.table(table) else {
            let help = format!("there is no table {table}{}", book.suggest_table(table));
            self.problem(offset, undefined, help);
            return None;
        };
        let key = key_column(found);
        if key != Some("key") && !found.columns().any(|c| c == column) {
            let hint = nearest::clause(column, found.columns());
            let help = format!(
                "the table {table} has no column {column}{hint}; \
                 where the name ends earlier, write ${{table.column}}"
            );
            self.problem(offset, undefined, help);
            return None;
        }
        let (node, image) = (self.context.node, self.context.image);
        let row = match key {
            Some("node") if column == "node" => return Some(node.as_bytes().to_vec()),
            Some("node") => match book.attribute(node, self.context.groups, table, column) {
                Ok(Some(found)) => {
                    self.context.problems.extend(found.warning);
                    return Some(found.value.into_owned());
                }
                Ok(None) => None,
                Err(problem) => {
                    self.context.problems.push(problem);
                    return None;
                }
            },
            Some("imagename") => book
                .first(table, [image], column)
                .map(|row| row.get(column)),
            Some(_) => book
                .first(table, [column], "value")
                .map(|row| row.get("value")),
            None => {
                self.problem(
                    offset,
                    undefined,
                    format!("the rows of {table} are not by node, image or key"),
                );
                return None;
            }
        };
        if row.is_none() {
            let help = match key {
                Some("node") => {
                    format!("give {table} a row with {column} for the node or one of its groups")
                }
                Some("imagename") => format!("give the image {image} a {column} in {table}"),
                _ => format!("give {table} a row with the key {column}"),
            };
            self.problem(offset, format!("the variable {shown} has no value"), help);
        }
        row.map(<[u8]>::to_vec)
    }

    /// Replaces the command at the start of `text`; how many bytes it had.
    fn command(&mut self, text: &[u8], offset: usize, out: &mut Vec<u8>) -> usize {
        let inner = &text[COMMAND.len()..];
        let Some(length) = inner.iter().position(|b| *b == b'#') else {
            self.problem(
                offset,
                "\"#CMD=\" is not closed".to_owned(),
                "end the command with #",
            );
            return text.len();
        };
        let before = self.context.problems.len();
        let command = self.run(&inner[..length], offset + COMMAND.len(), false);
        if self.context.problems.len() == before {
            match self.context.commands.output(&command, self.context.config) {
                Ok(output) => out.extend(output),
                Err(reason) => self.problem(
                    offset,
                    reason,
                    "allow_commands and command_timeout in the configuration say what may run, and how long",
                ),
            }
        }
        COMMAND.len() + length + 1
    }
}

fn identifier(text: &[u8]) -> &str {
    let end = text
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
        .count();
    match std::str::from_utf8(&text[..end]) {
        Ok(name) if !name.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::Book;
    use super::super::command::Commands;
    use super::super::location::LocalHosts;
    use super::super::testing::Given;
    use super::*;
    use crate::config::{AllowCommands, Config};
    use proptest::prelude::*;

    fn expanded(text: &[u8]) -> Result<String, Vec<String>> {
        let given = Given::default()
            .table(
                "nodetype",
                "#node,os,arch,profile\nall,rhels9,x86_64,\ncn1,,,service\n",
            )
            .table("nodepos", "#node,rack,u\nall,|r($1)|,\n")
            .table("site", "#key,value\nmaster,10.0.0.1\nempty,\n")
            .table("osimage", "#imagename,profile\nimg,compute\n")
            .table("policy", "#priority,name\n1,root\n")
            .table("broken", "#node,x\nall,|(|x|\n");
        let book = Book::load(&given, &mut Vec::new());
        let config = Config {
            allow_commands: AllowCommands::new(["echo".to_owned()]),
            ..Config::default()
        };
        let mut context = Context {
            book: &book,
            config: &config,
            commands: &Commands::default(),
            hosts: &LocalHosts::default(),
            node: "cn1",
            groups: &["all".to_owned()],
            image: "img",
            problems: Vec::new(),
        };
        let at = |offset: usize| Origin {
            file: "t".into(),
            line: 1,
            column: offset as u64,
        };
        expand(&mut context, text, &at)
            .map(|out| String::from_utf8_lossy(&out).into_owned())
            .ok_or_else(|| context.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn variables_stand_anywhere() {
        for (text, expected) in [
            ("/a/$node", "/a/cn1"),
            ("/a/$node.d/$node-x$node", "/a/cn1.d/cn1-xcn1"),
            ("$site.master:/x/${node}s", "10.0.0.1:/x/cn1s"),
            (
                "/$nodetype.os-$nodetype.arch/$nodetype.profile.d",
                "/rhels9-x86_64/service.d",
            ),
            ("/x${nodetype.os}_y", "/xrhels9_y"),
            ("/$nodepos.rack/$osimage.profile", "/r1/compute"),
            ("/$nodetype.node/$$node", "/cn1/$node"),
            ("/#CMD=echo a$node#/#b", "/acn1/#b"),
            ("plain", "plain"),
        ] {
            assert_eq!(expanded(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_undefined_is_named_where_it_stands() {
        for (text, expected) in [
            (
                "/a/$foo",
                "t:1:3: error: the variable $foo is not defined (variables are $node",
            ),
            (
                "/$nodetyp.os",
                "t:1:1: error: the variable $nodetyp.os is not defined (there is no table nodetyp: did you mean \"nodetype\"?)",
            ),
            (
                "/$nodetype.oss",
                "t:1:1: error: the variable $nodetype.oss is not defined (the table nodetype has no column oss: did you mean \"os\"?;",
            ),
            (
                "/$nodepos.u",
                "t:1:1: error: the variable $nodepos.u has no value (give nodepos a row with u",
            ),
            (
                "/$site.master2",
                "t:1:1: error: the variable $site.master2 has no value (give site a row with the key master2)",
            ),
            (
                "/$site.empty",
                "t:1:1: error: the variable $site.empty has no value",
            ),
            (
                "/$linuximage.x",
                "t:1:1: error: the variable $linuximage.x is not defined",
            ),
            (
                "/$policy.name",
                "t:1:1: error: the variable $policy.name is not defined (the rows of policy",
            ),
            ("/$", "t:1:1: error: \"$\" without a name"),
            ("/$1", "t:1:1: error: \"$\" without a name"),
            ("/${node", "t:1:1: error: \"${\" is not closed"),
            (
                "/$broken.x",
                "broken.csv:2:5: error: x cannot be evaluated: \"(\" is no regular",
            ),
            ("/#CMD=echo", "t:1:1: error: \"#CMD=\" is not closed"),
            (
                "/#CMD=date#",
                "t:1:1: error: the command \"date\" is not allowed",
            ),
            ("/x#CMD=echo $foo#", "t:1:12: error: the variable $foo"),
        ] {
            let problems = expanded(text.as_bytes()).expect_err(text);
            assert!(problems[0].starts_with(expected), "{text}: {problems:?}");
        }
        assert_eq!(expanded(b"/$a/$b").unwrap_err().len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_expanded_without_a_panic(text in r"[a-z$.{}#/]{0,20}(nodetype\.os|#CMD=echo |\$node)?[a-z$.{}#/]{0,9}") {
            expanded(text.as_bytes()).ok();
        }
    }
}
