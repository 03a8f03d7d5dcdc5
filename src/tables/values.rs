//! Attribute values that are computed from the node's name: `/regex/replacement/` and
//! `|regex|replacement with (arithmetic)|` (SEMANTICS section 1).
//!
//! Owns: the two forms and the arithmetic in them. May not: know which attribute a value is of.
//!
//! The rules follow xCAT's manual page xcatdb(5), "Groups and regular expressions in tables". The
//! regex is Rust's, not Perl's: look-around and back references are refused, with that reason.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use regex::{Captures, Regex};

/// Regexes by their text: one value is evaluated for thousands of nodes.
#[derive(Debug, Default)]
pub(crate) struct Regexes(RwLock<HashMap<String, Compiled>>);

/// Behind a pointer: a clone of a regex itself would begin without its caches.
type Compiled = Result<Arc<Regex>, String>;

impl Regexes {
    /// The compiled regex, or why it is none, in one line.
    pub(crate) fn get(&self, text: &str) -> Compiled {
        if let Some(regex) = self.0.read().get(text) {
            return regex.clone();
        }
        let regex = Regex::new(text).map(Arc::new).map_err(|e| {
            let message = e.to_string();
            let last = message.lines().last().unwrap_or_default();
            format!(
                "\"{text}\" is no regular expression: {}",
                last.trim_start_matches("error: ")
            )
        });
        let mut known = self.0.write();
        known.entry(text.to_owned()).or_insert(regex).clone()
    }
}

/// A value as it is for one node.
#[derive(Debug, PartialEq)]
pub(crate) struct Evaluated<'v> {
    /// The value.
    pub(crate) text: Cow<'v, str>,
    /// The value has a regex, and it doesn't match: what comes out is the node's name, as a
    /// substitution without a match gives.
    pub(crate) unmatched: bool,
}

/// What `value` is for `node`. A value of neither form is taken as it is.
pub(crate) fn evaluate<'v>(
    value: &'v str,
    node: &str,
    regexes: &Regexes,
) -> Result<Evaluated<'v>, String> {
    let (regex, replacement, arithmetic) = match form(value) {
        Form::Plain => {
            return Ok(Evaluated {
                text: value.into(),
                unmatched: false,
            });
        }
        Form::Slashes(regex, replacement) => (Cow::Borrowed(regex), replacement, false),
        Form::Bars(Some(regex), replacement) => (Cow::Borrowed(regex), replacement, true),
        Form::Bars(None, replacement) => (Cow::Owned(easy(node)), replacement, true),
    };
    let regex = regexes.get(&regex)?;
    let Some(groups) = regex.captures(node) else {
        return Ok(Evaluated {
            text: node.to_owned().into(),
            unmatched: true,
        });
    };
    let middle = substitute(replacement, &groups, arithmetic)?;
    let whole = groups.get_match();
    let text = format!("{}{middle}{}", &node[..whole.start()], &node[whole.end()..]);
    Ok(Evaluated {
        text: text.into(),
        unmatched: false,
    })
}

/// True where [`evaluate`] would read `value` as `/regex/replacement/`: a path may look like one.
pub(crate) fn looks_like_slashes(value: &str) -> bool {
    matches!(form(value), Form::Slashes(..))
}

enum Form<'v> {
    Plain,
    Slashes(&'v str, &'v str),
    Bars(Option<&'v str>, &'v str),
}

fn form(value: &str) -> Form<'_> {
    let inner = |mark| {
        value
            .strip_prefix(mark)
            .and_then(|v: &str| v.strip_suffix(mark))
    };
    if let Some(inner) = inner('/')
        && let Some((regex, replacement)) = inner.split_once('/')
        && !replacement.contains('/')
    {
        return Form::Slashes(regex, replacement);
    }
    match inner('|') {
        None => Form::Plain,
        Some(inner) => match inner.split_once('|') {
            Some((regex, replacement)) => Form::Bars(Some(regex), replacement),
            None => Form::Bars(None, inner),
        },
    }
}

/// The regex of `|replacement|`: the numbers of the node's name, without leading zeros, are its
/// groups, and it matches the whole name.
fn easy(node: &str) -> String {
    let numbers = node
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .count();
    let mut regex = String::from("^");
    for _ in 0..numbers {
        regex.push_str(r"[^0-9]*0*([0-9]+)");
    }
    regex.push_str(".*$");
    regex
}

fn substitute(
    replacement: &str,
    groups: &Captures<'_>,
    arithmetic: bool,
) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some(at) = rest.find(['$', '(']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('(') {
            if !arithmetic {
                out.push('(');
                rest = &rest[1..];
                continue;
            }
            let end =
                closing(rest).ok_or_else(|| format!("\"{rest}\" lacks a closing parenthesis"))?;
            let mut parser = Parser {
                rest: &rest[1..end],
                whole: &rest[..=end],
                groups,
            };
            out.push_str(&parser.all()?.into_text());
            rest = &rest[end + 1..];
        } else if let Some((number, after)) = group_number(rest) {
            out.push_str(group(groups, number)?);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The offset of the parenthesis that closes the one at 0; those in quotes don't count.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            (None, _) => {}
        }
    }
    None
}

/// `$1…` or `${1}…`: the number and what follows.
fn group_number(text: &str) -> Option<(usize, &str)> {
    let text = text.strip_prefix('$')?;
    let (braced, digits) = match text.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let number = digits[..end].parse().ok()?;
    let after = &digits[end..];
    Some((
        number,
        if braced {
            after.strip_prefix('}')?
        } else {
            after
        },
    ))
}

fn group<'n>(groups: &Captures<'n>, number: usize) -> Result<&'n str, String> {
    if number == 0 || number >= groups.len() {
        let count = groups.len() - 1;
        return Err(format!(
            "there is no group ${number}: the regular expression has {count}"
        ));
    }
    Ok(groups.get(number).map_or("", |m| m.as_str()))
}

/// A value inside the arithmetic: a group alone keeps its zeros, as `c($1)` shows.
enum Operand {
    Number(i64),
    Text(String),
}

impl Operand {
    fn number(&self) -> Result<i64, String> {
        match self {
            Self::Number(n) => Ok(*n),
            Self::Text(text) => text.parse().map_err(|_| format!("\"{text}\" is no number")),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// Recursive descent over one parenthesised expression; integers throughout.
struct Parser<'p, 'n> {
    rest: &'p str,
    whole: &'p str,
    groups: &'p Captures<'n>,
}

impl Parser<'_, '_> {
    fn all(&mut self) -> Result<Operand, String> {
        // Each of these is a level of recursion.
        if self.whole.bytes().filter(|b| b"(-".contains(b)).count() > 64 {
            return Err(format!("\"{}\" is nested too deeply", self.whole));
        }
        let value = self.sum()?;
        if self.peek().is_some() {
            return Err(self.wrong());
        }
        Ok(value)
    }

    fn wrong(&self) -> String {
        let whole = self.whole;
        let place = match self.rest {
            "" => "its end".to_owned(),
            rest => format!("\"{rest}\""),
        };
        format!(
            "\"{whole}\" is not understood at {place}: \
             numbers, $1, + - * / % and parentheses are"
        )
    }

    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    fn sum(&mut self) -> Result<Operand, String> {
        let mut left = self.product()?;
        loop {
            let add = self.take('+');
            if !add && !self.take('-') {
                return Ok(left);
            }
            let (a, b) = (left.number()?, self.product()?.number()?);
            left = self.checked(if add {
                a.checked_add(b)
            } else {
                a.checked_sub(b)
            })?;
        }
    }

    fn product(&mut self) -> Result<Operand, String> {
        let mut left = self.unit()?;
        loop {
            let Some(op @ ('*' | '/' | '%')) = self.peek() else {
                return Ok(left);
            };
            self.rest = &self.rest[1..];
            let (a, b) = (left.number()?, self.unit()?.number()?);
            if op != '*' && b == 0 {
                return Err(format!("\"{}\" divides by zero", self.whole));
            }
            left = self.checked(match op {
                '*' => a.checked_mul(b),
                '/' => a.checked_div(b),
                _ => a.checked_rem(b),
            })?;
        }
    }

    fn checked(&self, result: Option<i64>) -> Result<Operand, String> {
        let whole = self.whole;
        result
            .map(Operand::Number)
            .ok_or_else(|| format!("\"{whole}\" is too large a number"))
    }

    fn unit(&mut self) -> Result<Operand, String> {
        match self.peek() {
            Some('-') => {
                self.rest = &self.rest[1..];
                let n = self.unit()?.number()?;
                self.checked(n.checked_neg())
            }
            Some('(') => {
                self.rest = &self.rest[1..];
                let value = self.sum()?;
                if self.take(')') {
                    Ok(value)
                } else {
                    Err(self.wrong())
                }
            }
            Some('$') => {
                let (number, after) = group_number(self.rest).ok_or_else(|| self.wrong())?;
                self.rest = after;
                Ok(Operand::Text(group(self.groups, number)?.to_owned()))
            }
            Some(quote @ ('\'' | '"')) => {
                let (text, after) = self.rest[1..]
                    .split_once(quote)
                    .ok_or_else(|| self.wrong())?;
                self.rest = after;
                Ok(Operand::Text(text.to_owned()))
            }
            Some(c) if c.is_ascii_digit() => {
                let end = self.rest.bytes().take_while(u8::is_ascii_digit).count();
                let number = self.rest[..end].parse().ok();
                self.rest = &self.rest[end..];
                self.checked(number)
            }
            Some(c) if c.is_ascii_alphabetic() => self.call(),
            _ => Err(self.wrong()),
        }
    }

    /// `sprintf('%02d', …)`, and the helpers xcatdb(5) lists.
    fn call(&mut self) -> Result<Operand, String> {
        let end = self
            .rest
            .bytes()
            .take_while(u8::is_ascii_alphanumeric)
            .count();
        let name = &self.rest[..end];
        self.rest = &self.rest[end..];
        if !self.take('(') {
            return Err(format!("\"{name}\" in \"{}\" is no number", self.whole));
        }
        let mut args = Vec::new();
        while !self.take(')') {
            args.push(self.sum()?);
            if !self.take(',') && self.peek() != Some(')') {
                return Err(self.wrong());
            }
        }
        let letter = |zero: i64| match args.as_slice() {
            [Operand::Text(text)]
                if text.len() == 1 && text.as_bytes()[0].is_ascii_alphabetic() =>
            {
                Ok(i64::from(text.as_bytes()[0].to_ascii_lowercase() - b'a') + zero)
            }
            _ => Err(format!("{name} takes one letter")),
        };
        match name {
            "sprintf" => sprintf(&args).map(Operand::Text),
            "a2idx" => letter(1).map(Operand::Number),
            "a2zidx" => letter(0).map(Operand::Number),
            "dim2idx" => {
                let numbers = args
                    .iter()
                    .map(Operand::number)
                    .collect::<Result<Vec<_>, _>>()?;
                let index = numbers.iter().enumerate().try_fold(0_i64, |sum, (i, n)| {
                    if i % 2 == 0 {
                        sum.checked_add(n.checked_sub(1)?)
                    } else {
                        sum.checked_mul(*n)
                    }
                });
                self.checked(index.and_then(|n| n.checked_add(1)))
            }
            _ => Err(format!(
                "the function {name} is not known: sprintf, a2idx, a2zidx and dim2idx are"
            )),
        }
    }
}

/// `%d`, `%5d`, `%05d`, `%x`, `%s` and text.
fn sprintf(args: &[Operand]) -> Result<String, String> {
    let Some((Operand::Text(format), mut args)) = args.split_first() else {
        return Err("sprintf takes a format in quotes, then numbers".into());
    };
    let mut out = String::new();
    let mut rest = format.as_str();
    while let Some((text, spec)) = rest.split_once('%') {
        out.push_str(text);
        if let Some(after) = spec.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let digits = spec.bytes().take_while(u8::is_ascii_digit).count();
        let (width, kind) = spec.split_at(digits);
        let zeros = width.starts_with('0');
        let width: usize = if width.is_empty() {
            0
        } else {
            width.parse().unwrap_or(usize::MAX)
        };
        let Some((arg, others)) = args.split_first() else {
            return Err(format!("sprintf('{format}') has too few values"));
        };
        args = others;
        let value = match kind.chars().next() {
            Some('d') => arg.number()?.to_string(),
            Some('x') => format!("{:x}", arg.number()?),
            Some('s') => match arg {
                Operand::Number(n) => n.to_string(),
                Operand::Text(text) => text.clone(),
            },
            _ => return Err(format!("sprintf('{format}'): %d, %x and %s are known")),
        };
        if width > 255 {
            return Err(format!("sprintf('{format}'): that is too wide"));
        }
        out.push_str(&if zeros {
            format!("{value:0>width$}")
        } else {
            format!("{value:>width$}")
        });
        rest = &kind[1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests;
