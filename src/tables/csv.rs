//! One table's text: the CSV that `tabdump` prints, to rows that know where they stand.
//!
//! Owns: the CSV grammar and positions in files. May not: know what a column means, `disable`
//! excepted.
//!
//! Lenient CSV readers repair what they can't understand: a quote that is never closed swallows
//! the rest of the file in silence. Here a table is what gives a node its root, so a broken row is
//! reported where it breaks, left out, and reading goes on at the next line.

use std::borrow::Cow;
use std::path::PathBuf;

use super::source::RawTable;
use super::{Origin, Problem};

/// One table: its columns and its enabled rows.
#[derive(Debug)]
pub struct Table {
    name: String,
    file: PathBuf,
    raw: Vec<u8>,
    columns: Vec<String>,
    rows: Vec<Record>,
    /// The fields of all rows, one after the other: as many a row as there are columns.
    fields: Vec<Field>,
    /// Values that don't stand in the raw bytes as they are, since they have quotes in them.
    unquoted: Vec<u8>,
}

/// Where a row stands.
#[derive(Clone, Copy, Debug)]
struct Record {
    line: u64,
    line_start: usize,
}

/// Where a field starts in the raw bytes, and where its value stands: there, or, from the raw
/// bytes' end on, in the unquoted ones.
#[derive(Clone, Copy, Debug)]
struct Field {
    start: usize,
    from: usize,
    to: usize,
}

/// One enabled row of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'t> {
    table: &'t Table,
    record: Record,
    fields: &'t [Field],
}

/// A row that cannot be read: where, what, what to do.
struct Broken {
    offset: usize,
    message: String,
    help: &'static str,
}

impl Table {
    /// Reads a table. What is broken is left out and reported.
    pub fn parse(name: &str, raw: RawTable, problems: &mut Vec<Problem>) -> Self {
        let mut table = Self {
            name: name.to_owned(),
            file: raw.file,
            raw: raw.bytes,
            columns: Vec::new(),
            rows: Vec::new(),
            fields: Vec::new(),
            unquoted: Vec::new(),
        };
        if table.raw.starts_with(&[0xff, 0xfe]) || table.raw.starts_with(&[0xfe, 0xff]) {
            problems.push(Problem::error(
                table.place(1, 1),
                "the table is in UTF-16",
                "save it as UTF-8, without a byte order mark",
            ));
            return table;
        }
        if table.raw.starts_with(b"\xef\xbb\xbf") {
            table.raw.drain(..3);
        }
        let mut reader = Reader {
            line: 1,
            line_start: 0,
        };
        if table.read_header(&mut reader, problems) {
            while let Some(record) = table.next_record(&mut reader, problems) {
                table.keep(record, problems);
            }
        }
        table.rows.shrink_to_fit();
        table.fields.shrink_to_fit();
        table
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns, in the file's order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// The rows that are not disabled, in the file's order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.rows.len()).map(|index| self.nth(index))
    }

    /// The n-th of [`rows`](Self::rows).
    pub fn row(&self, index: usize) -> Option<Row<'_>> {
        (index < self.rows.len()).then(|| self.nth(index))
    }

    fn nth(&self, index: usize) -> Row<'_> {
        let columns = self.columns.len();
        Row {
            table: self,
            record: self.rows[index],
            fields: &self.fields[index * columns..][..columns],
        }
    }

    fn value(&self, field: &Field) -> &[u8] {
        let (raw, length) = (self.raw.len(), field.to - field.from);
        match field.from.checked_sub(raw) {
            None => &self.raw[field.from..field.to],
            Some(from) => &self.unquoted[from..from + length],
        }
    }

    /// The table as a whole, for a message.
    pub fn whole(&self) -> Origin {
        self.place(0, 0)
    }

    fn place(&self, line: u64, column: u64) -> Origin {
        Origin {
            file: self.file.clone(),
            line,
            column,
        }
    }

    /// Line and column of an offset at or after the start of a line.
    fn position(&self, line: u64, line_start: usize, offset: usize) -> Origin {
        let between = self.raw.get(line_start..offset).unwrap_or_default();
        let newlines = between.iter().filter(|b| **b == b'\n').count();
        let start = between
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(line_start, |n| line_start + n + 1);
        self.place(
            line + newlines as u64,
            (offset.saturating_sub(start) + 1) as u64,
        )
    }

    fn read_header(&mut self, reader: &mut Reader, problems: &mut Vec<Problem>) -> bool {
        const HELP: &str = "the first line must name the columns as tabdump prints it, for example #key,value,comments,disable";
        self.skip_blank(reader);
        let first = self.raw.get(reader.line_start);
        if first != Some(&b'#') {
            let what = match first {
                None => "the table is empty: it has no header",
                Some(_) => "the first line is no header: it does not begin with #",
            };
            problems.push(Problem::error(self.place(1, 1), what, HELP));
            return false;
        }
        let (line, start) = (reader.line, reader.line_start);
        let next = match self.read_record(start + 1) {
            Ok(next) => next,
            Err(broken) => {
                let at = self.position(line, start, broken.offset);
                problems.push(Problem::error(at, broken.message, broken.help));
                return false;
            }
        };
        reader.advance(&self.raw, next);
        let mut sound = true;
        for field in std::mem::take(&mut self.fields) {
            let name = String::from_utf8_lossy(self.value(&field))
                .trim()
                .to_owned();
            let fault = if name.is_empty() {
                Some("a column without a name".to_owned())
            } else if self.columns.contains(&name) {
                Some(format!("the column {name} stands twice in the header"))
            } else {
                None
            };
            if let Some(message) = fault {
                let at = self.position(line, start, field.start);
                problems.push(Problem::error(at, message, HELP));
                sound = false;
            }
            self.columns.push(name);
        }
        if !sound {
            self.columns.clear();
        }
        sound
    }

    /// The next row that can be read, its fields after those of all before it; the others are
    /// reported.
    fn next_record(&mut self, reader: &mut Reader, problems: &mut Vec<Problem>) -> Option<Record> {
        loop {
            self.skip_blank(reader);
            let (line, line_start) = (reader.line, reader.line_start);
            match self.raw.get(line_start)? {
                b'#' => reader.advance(&self.raw, end_of_line(&self.raw, line_start)),
                _ => match self.read_record(line_start) {
                    Ok(next) => {
                        reader.advance(&self.raw, next);
                        return Some(Record { line, line_start });
                    }
                    Err(broken) => {
                        let at = self.position(line, line_start, broken.offset);
                        problems.push(Problem::error(at, broken.message, broken.help));
                        reader.advance(&self.raw, end_of_line(&self.raw, broken.offset));
                    }
                },
            }
        }
    }

    /// Reads the fields of one record from `pos`, and says where the next starts.
    fn read_record(&mut self, mut pos: usize) -> Result<usize, Broken> {
        let before = self.fields.len();
        loop {
            let read = read_field(&self.raw, pos, &mut self.unquoted);
            let (field, end) = read.inspect_err(|_| self.fields.truncate(before))?;
            self.fields.push(field);
            pos = match &self.raw[end..] {
                [b',', ..] => end + 1,
                [b'\r', b'\n', ..] => return Ok(end + 2),
                [] => return Ok(end),
                _ => return Ok(end + 1),
            };
        }
    }

    /// Takes the row that was just read into the table where it has the right fields and isn't
    /// disabled.
    fn keep(&mut self, record: Record, problems: &mut Vec<Problem>) {
        let wanted = self.columns.len();
        let fields = &self.fields[self.rows.len() * wanted..];
        let found = fields.len();
        if found != wanted {
            let field = if found > wanted { wanted } else { found - 1 };
            let at = self.position(record.line, record.line_start, fields[field].start);
            let last = &fields[found - 1];
            let cut =
                !self.raw.ends_with(b"\n") && self.raw.len() == last.start + self.value(last).len();
            let help = match (found < wanted, cut) {
                (true, true) => "the file ends inside this row: it looks truncated, dump it again",
                (true, false) => {
                    "each row has a field for every column, empty ones too: add the missing commas"
                }
                (false, _) => "a field that has a comma in it must stand in double quotes",
            };
            let message = format!("the row has {found} fields, the header {wanted} columns");
            problems.push(Problem::error(at, message, help));
            self.fields.truncate(self.rows.len() * wanted);
            return;
        }
        self.rows.push(record);
        let row = self.nth(self.rows.len() - 1);
        let disabled = match row.text("disable").trim() {
            "" => false,
            word => match word.to_ascii_lowercase().as_str() {
                "yes" | "1" => true,
                "no" | "0" => false,
                other => {
                    problems.push(Problem::warning(
                        row.at("disable"),
                        format!("disable is \"{other}\": the row is used"),
                        "write yes or 1 to switch a row off, and nothing to use it",
                    ));
                    false
                }
            },
        };
        if disabled {
            self.rows.pop();
            self.fields.truncate(self.rows.len() * wanted);
        }
    }

    fn skip_blank(&self, reader: &mut Reader) {
        while reader.line_start < self.raw.len() {
            let end = end_of_line(&self.raw, reader.line_start);
            if !self.raw[reader.line_start..end]
                .iter()
                .all(u8::is_ascii_whitespace)
            {
                break;
            }
            reader.advance(&self.raw, end);
        }
    }
}

impl<'t> Row<'t> {
    /// The value of a column; empty where the table has no such column.
    pub fn get(&self, column: &str) -> &'t [u8] {
        let field = self.index(column).map(|i| &self.fields[i]);
        field.map_or(&[], |field| self.table.value(field))
    }

    /// The value of a column as text.
    pub fn text(&self, column: &str) -> Cow<'t, str> {
        String::from_utf8_lossy(self.get(column))
    }

    /// Where a column's field starts: at its opening quote, where it has one.
    pub fn at(&self, column: &str) -> Origin {
        let start = self.fields[self.index(column).unwrap_or(0)].start;
        self.table
            .position(self.record.line, self.record.line_start, start)
    }

    /// Where the byte at `offset` of a column's value stands.
    pub fn at_byte(&self, column: &str, offset: usize) -> Origin {
        let Some(start) = self.index(column).map(|i| self.fields[i].start) else {
            return self.at(column);
        };
        let raw = &self.table.raw;
        let mut place = start + offset;
        if raw.get(start) == Some(&b'"') {
            place = start + 1;
            for _ in 0..offset {
                place += if raw.get(place) == Some(&b'"') { 2 } else { 1 };
            }
        }
        self.table
            .position(self.record.line, self.record.line_start, place)
    }

    /// The line on which the row starts.
    pub fn line(&self) -> u64 {
        self.record.line
    }

    fn index(&self, column: &str) -> Option<usize> {
        self.table.columns.iter().position(|name| name == column)
    }
}

/// How far a table was read: always the start of a line.
struct Reader {
    line: u64,
    line_start: usize,
}

impl Reader {
    fn advance(&mut self, raw: &[u8], to: usize) {
        self.line += raw[self.line_start..to]
            .iter()
            .filter(|b| **b == b'\n')
            .count() as u64;
        self.line_start = to;
    }
}

/// The offset after the newline that ends the line of `from`.
fn end_of_line(raw: &[u8], from: usize) -> usize {
    find(raw, from, |b| b == b'\n').map_or(raw.len(), |n| n + 1)
}

fn find(raw: &[u8], from: usize, is: impl Fn(u8) -> bool) -> Option<usize> {
    raw.get(from..)?
        .iter()
        .position(|b| is(*b))
        .map(|n| from + n)
}

/// Reads the field at `pos`, and says where it ends; a value that has quotes in it goes to
/// `unquoted`.
fn read_field(raw: &[u8], pos: usize, unquoted: &mut Vec<u8>) -> Result<(Field, usize), Broken> {
    let (value, end, opening) = match raw.get(pos) {
        Some(b'"') => {
            let (value, end) = quoted(raw, pos)?;
            (value, end, 1)
        }
        _ => {
            let (value, end) = plain(raw, pos)?;
            (value, end, 0)
        }
    };
    if let Some(nul) = find(&raw[..end], pos, |b| b == 0) {
        return Err(Broken {
            offset: nul,
            message: "a NUL byte in a value".into(),
            help: "the file is damaged, or no text: dump the table again",
        });
    }
    let from = match &value {
        Cow::Borrowed(_) => pos + opening,
        Cow::Owned(value) => {
            unquoted.extend_from_slice(value);
            raw.len() + unquoted.len() - value.len()
        }
    };
    let field = Field {
        start: pos,
        from,
        to: from + value.len(),
    };
    Ok((field, end))
}

/// A field from its opening quote at `open`: its value, and the offset after its closing quote.
fn quoted(raw: &[u8], open: usize) -> Result<(Cow<'_, [u8]>, usize), Broken> {
    let mut value = Cow::Borrowed(&raw[open + 1..open + 1]);
    let mut from = open + 1;
    loop {
        let Some(quote) = find(raw, from, |b| b == b'"') else {
            return Err(Broken {
                offset: open,
                message: "the quote that opens here is never closed".into(),
                help: "close it; a quote inside a quoted field is written twice",
            });
        };
        let piece = &raw[from..quote];
        if value.is_empty() {
            value = Cow::Borrowed(piece);
        } else {
            value.to_mut().extend_from_slice(piece);
        }
        match &raw[quote + 1..] {
            [b'"', ..] => {
                value.to_mut().push(b'"');
                from = quote + 2;
            }
            [] | [b',', ..] | [b'\n', ..] | [b'\r', b'\n', ..] => return Ok((value, quote + 1)),
            [b'\r'] => return Ok((value, quote + 2)),
            _ => {
                // Where lines lie between, the closing quote is the next row's opening one.
                let broken = if raw[open..quote].contains(&b'\n') {
                    (open, "the quote that opens here is not closed in its line")
                } else {
                    (quote + 1, "text after the closing quote")
                };
                return Err(Broken {
                    offset: broken.0,
                    message: broken.1.into(),
                    help: "a quoted field ends at its second quote; a quote inside it is written twice",
                });
            }
        }
    }
}

/// A field without quotes from `start`: its value and the offset after it.
fn plain(raw: &[u8], start: usize) -> Result<(Cow<'_, [u8]>, usize), Broken> {
    let stop = find(raw, start, |b| matches!(b, b',' | b'\n' | b'"')).unwrap_or(raw.len());
    let end = match raw.get(stop) {
        Some(b'"') => {
            return Err(Broken {
                offset: stop,
                message: "a quote inside a field that does not begin with one".into(),
                help: "put the whole field in double quotes and write the quotes inside it twice",
            });
        }
        Some(b'\n') | None if stop > start && raw[stop - 1] == b'\r' => stop - 1,
        _ => stop,
    };
    let next = if raw.get(stop).is_none() {
        raw.len()
    } else {
        end
    };
    Ok((Cow::Borrowed(&raw[start..end]), next))
}

#[cfg(test)]
mod tests;
