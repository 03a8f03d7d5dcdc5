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

use csv::ByteRecord;

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
}

/// One row as it was found: values, and where each field starts in the raw bytes.
#[derive(Debug)]
struct Record {
    line: u64,
    line_start: usize,
    values: ByteRecord,
    starts: Box<[usize]>,
}

/// One enabled row of a [`Table`].
#[derive(Clone, Copy, Debug)]
pub struct Row<'t> {
    table: &'t Table,
    record: &'t Record,
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
        self.rows.iter().map(|record| Row {
            table: self,
            record,
        })
    }

    /// The n-th of [`rows`](Self::rows).
    pub fn row(&self, index: usize) -> Option<Row<'_>> {
        self.rows.get(index).map(|record| Row {
            table: self,
            record,
        })
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
        let (record, next) = match read_record(&self.raw, start + 1) {
            Ok(found) => found,
            Err(broken) => {
                let at = self.position(line, start, broken.offset);
                problems.push(Problem::error(at, broken.message, broken.help));
                return false;
            }
        };
        reader.advance(&self.raw, next);
        let mut sound = true;
        for (value, offset) in record.0.iter().zip(&record.1) {
            let name = String::from_utf8_lossy(value).trim().to_owned();
            let fault = if name.is_empty() {
                Some("a column without a name".to_owned())
            } else if self.columns.contains(&name) {
                Some(format!("the column {name} stands twice in the header"))
            } else {
                None
            };
            if let Some(message) = fault {
                let at = self.position(line, start, *offset);
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

    /// The next row that can be read; the others are reported.
    fn next_record(&self, reader: &mut Reader, problems: &mut Vec<Problem>) -> Option<Record> {
        loop {
            self.skip_blank(reader);
            let (line, line_start) = (reader.line, reader.line_start);
            match self.raw.get(line_start)? {
                b'#' => reader.advance(&self.raw, end_of_line(&self.raw, line_start)),
                _ => match read_record(&self.raw, line_start) {
                    Ok(((values, starts), next)) => {
                        reader.advance(&self.raw, next);
                        return Some(Record {
                            line,
                            line_start,
                            values,
                            starts: starts.into(),
                        });
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

    /// Takes a row into the table where it has the right fields and isn't disabled.
    fn keep(&mut self, record: Record, problems: &mut Vec<Problem>) {
        let (found, wanted) = (record.starts.len(), self.columns.len());
        if found != wanted {
            let field = if found > wanted { wanted } else { found - 1 };
            let at = self.position(record.line, record.line_start, record.starts[field]);
            let cut = !self.raw.ends_with(b"\n")
                && self.raw.len() == record.starts[found - 1] + record.values[found - 1].len();
            let help = match (found < wanted, cut) {
                (true, true) => "the file ends inside this row: it looks truncated, dump it again",
                (true, false) => {
                    "each row has a field for every column, empty ones too: add the missing commas"
                }
                (false, _) => "a field that has a comma in it must stand in double quotes",
            };
            let message = format!("the row has {found} fields, the header {wanted} columns");
            problems.push(Problem::error(at, message, help));
            return;
        }
        let row = Row {
            table: self,
            record: &record,
        };
        match row.text("disable").trim().to_ascii_lowercase().as_str() {
            "yes" | "1" => return,
            "" | "no" | "0" => {}
            other => problems.push(Problem::warning(
                row.at("disable"),
                format!("disable is \"{other}\": the row is used"),
                "write yes or 1 to switch a row off, and nothing to use it",
            )),
        }
        self.rows.push(record);
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
        self.index(column)
            .and_then(|i| self.record.values.get(i))
            .unwrap_or_default()
    }

    /// The value of a column as text.
    pub fn text(&self, column: &str) -> Cow<'t, str> {
        String::from_utf8_lossy(self.get(column))
    }

    /// Where a column's field starts: at its opening quote, where it has one.
    pub fn at(&self, column: &str) -> Origin {
        let start = self
            .index(column)
            .map_or(self.record.starts[0], |i| self.record.starts[i]);
        self.table
            .position(self.record.line, self.record.line_start, start)
    }

    /// Where the byte at `offset` of a column's value stands.
    pub fn at_byte(&self, column: &str, offset: usize) -> Origin {
        let Some(start) = self.index(column).map(|i| self.record.starts[i]) else {
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

type Fields = (ByteRecord, Vec<usize>);

/// Reads one record from `pos`, and says where the next starts.
fn read_record(raw: &[u8], mut pos: usize) -> Result<(Fields, usize), Broken> {
    let mut values = ByteRecord::new();
    let mut starts = Vec::new();
    loop {
        starts.push(pos);
        let (value, end) = match raw.get(pos) {
            Some(b'"') => quoted(raw, pos)?,
            _ => unquoted(raw, pos)?,
        };
        if let Some(nul) = find(&raw[..end], pos, |b| b == 0) {
            return Err(Broken {
                offset: nul,
                message: "a NUL byte in a value".into(),
                help: "the file is damaged, or no text: dump the table again",
            });
        }
        values.push_field(&value);
        pos = match &raw[end..] {
            [b',', ..] => end + 1,
            [b'\r', b'\n', ..] => return Ok(((values, starts), end + 2)),
            [] => return Ok(((values, starts), end)),
            _ => return Ok(((values, starts), end + 1)),
        };
    }
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
fn unquoted(raw: &[u8], start: usize) -> Result<(Cow<'_, [u8]>, usize), Broken> {
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> (Table, Vec<String>) {
        let mut problems = Vec::new();
        let raw = RawTable {
            file: "t.csv".into(),
            bytes: bytes.to_vec(),
        };
        let table = Table::parse("t", raw, &mut problems);
        (table, problems.iter().map(ToString::to_string).collect())
    }

    fn values(table: &Table, column: &str) -> Vec<String> {
        table.rows().map(|r| r.text(column).into_owned()).collect()
    }

    #[test]
    fn columns_are_found_by_name_and_unknown_ones_are_kept() {
        let (t, p) =
            parse(b"#b,a,mine,disable\n\"1\",\"2\",x,\n3,4,\"y\",no\n5,6,z,yes\n7,8,w,1\n");
        assert!(p.is_empty(), "{p:?}");
        assert_eq!(values(&t, "a"), ["2", "4"]);
        assert_eq!(values(&t, "mine"), ["x", "y"]);
        assert_eq!(values(&t, "absent"), ["", ""]);
        assert_eq!(
            t.columns().collect::<Vec<_>>(),
            ["b", "a", "mine", "disable"]
        );
        assert_eq!(t.name(), "t");
    }

    #[test]
    fn quotes_newlines_crlf_bom_and_bytes() {
        let (t, p) = parse(
            b"\xef\xbb\xbf#a,b\r\n\"x \"\"y\"\" z\",\"two\r\nlines\"\r\n\r\n# a comment\r\n\"\xff\xfe\",\"\"\r\nplain,end",
        );
        assert!(p.is_empty(), "{p:?}");
        assert_eq!(values(&t, "a"), ["x \"y\" z", "\u{fffd}\u{fffd}", "plain"]);
        assert_eq!(t.row(1).unwrap().get("a"), b"\xff\xfe");
        assert_eq!(t.row(0).unwrap().get("b"), b"two\r\nlines");
        assert_eq!(t.row(2).unwrap().get("b"), b"end");
        let at = |row: usize, column| t.row(row).unwrap().at(column).to_string();
        assert_eq!(at(0, "a"), "t.csv:2:1");
        assert_eq!(at(0, "b"), "t.csv:2:13");
        assert_eq!(at(1, "b"), "t.csv:6:6");
        assert_eq!(at(2, "b"), "t.csv:7:7");
        let byte = |row: usize, column, n| t.row(row).unwrap().at_byte(column, n).to_string();
        assert_eq!(byte(0, "a", 0), "t.csv:2:2");
        assert_eq!(byte(0, "a", 3), "t.csv:2:6", "after a doubled quote");
        assert_eq!(byte(0, "b", 5), "t.csv:3:1");
        assert_eq!(byte(2, "b", 1), "t.csv:7:8");
    }

    #[test]
    fn what_is_broken_is_named_and_the_rest_is_read() {
        let (t, p) = parse(
            b"#a,b\n1,2\n\"open,x\n3,4\n5\n6,7,8\n\"x\"y,1\nq\"r,1\n9,\0\n10,11\n\"12\",\"13\n\"14\",15\n16,\"end",
        );
        assert_eq!(values(&t, "a"), ["1", "3", "10", "14"]);
        let expected = [
            "t.csv:3:1: error: the quote that opens here is not closed in its line",
            "t.csv:5:1: error: the row has 1 fields, the header 2 columns",
            "t.csv:6:5: error: the row has 3 fields, the header 2 columns",
            "t.csv:7:4: error: text after the closing quote",
            "t.csv:8:2: error: a quote inside a field that does not begin with one",
            "t.csv:9:3: error: a NUL byte in a value",
            "t.csv:11:6: error: the quote that opens here is not closed in its line",
            "t.csv:13:4: error: the quote that opens here is never closed",
        ];
        assert_eq!(p.len(), expected.len(), "{p:#?}");
        for (found, expected) in p.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} / {expected}");
        }
        let (_, p) = parse(b"#a,b,c\n1,2");
        assert!(p[0].contains("truncated"), "{p:?}");
    }

    #[test]
    fn a_table_needs_a_header() {
        for (bytes, expected) in [
            (&b""[..], "t.csv:1:1: error: the table is empty"),
            (b"\n\n", "t.csv:1:1: error: the table is empty"),
            (
                b"a,b\n1,2\n",
                "t.csv:1:1: error: the first line is no header",
            ),
            (
                b"#a,b,a\n1,2,3\n",
                "t.csv:1:6: error: the column a stands twice",
            ),
            (
                b"#a,,b\n1,2,3\n",
                "t.csv:1:4: error: a column without a name",
            ),
            (
                b"#\"a,b\n",
                "t.csv:1:2: error: the quote that opens here is never closed",
            ),
            (
                b"\xff\xfe#\0a\0",
                "t.csv:1:1: error: the table is in UTF-16",
            ),
        ] {
            let (t, p) = parse(bytes);
            assert_eq!(t.rows().len(), 0);
            assert!(p[0].starts_with(expected), "{p:?} / {expected}");
            assert_eq!(p.len(), 1, "{p:?}");
        }
    }

    #[test]
    fn an_odd_disable_is_told() {
        let (t, p) = parse(b"#a,disable\n1,maybe\n2,YES\n");
        assert_eq!(values(&t, "a"), ["1"]);
        assert!(
            p[0].starts_with("t.csv:2:3: warning: disable is \"maybe\""),
            "{p:?}"
        );
    }

    fn quote(value: &[u8]) -> Vec<u8> {
        let mut out = vec![b'"'];
        for b in value {
            out.extend(std::iter::repeat_n(*b, if *b == b'"' { 2 } else { 1 }));
        }
        out.push(b'"');
        out
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse(&bytes);
            let mut headed = b"#a,b\n".to_vec();
            headed.extend(bytes);
            parse(&headed);
        }

        #[test]
        fn csv_like_bytes_are_read_without_a_panic(text in "[#a,\"\r\n\u{0}]{0,60}") {
            let (t, _) = parse(format!("#a,b\n{text}").as_bytes());
            for row in t.rows() {
                prop_assert!(row.at("b").line >= row.line());
                row.at_byte("b", row.get("b").len());
            }
        }

        #[test]
        fn sound_tables_read_as_the_csv_crate_reads_them(
            rows in proptest::collection::vec(
                (proptest::collection::vec(1..=255u8, 0..12), "[a-z/ ]{0,8}"), 0..8),
            crlf: bool,
        ) {
            let end: &[u8] = if crlf { b"\r\n" } else { b"\n" };
            let mut bytes = [b"#a,b", end].concat();
            for (a, b) in &rows {
                bytes.extend([quote(a).as_slice(), b",", b.as_bytes(), end].concat());
            }
            let (table, problems) = parse(&bytes);
            prop_assert!(problems.is_empty(), "{:?}", problems);
            let mut oracle = csv::ReaderBuilder::new().from_reader(bytes.as_slice());
            let theirs: Vec<ByteRecord> = oracle.byte_records().map(Result::unwrap).collect();
            prop_assert_eq!(table.rows().len(), theirs.len());
            for (row, their) in table.rows().zip(&theirs) {
                prop_assert_eq!(row.get("a"), &their[0]);
                prop_assert_eq!(row.get("b"), &their[1]);
                // With CRLF the crate counts a line when it meets the next record's LF.
                prop_assert!(crlf || row.line() == their.position().unwrap().line());
            }
        }
    }
}
