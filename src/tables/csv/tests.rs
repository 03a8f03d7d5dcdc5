//! The CSV grammar, against a strict reader where a table is sound.

use super::*;
use csv::ByteRecord;
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
    let (t, p) = parse(b"#b,a,mine,disable\n\"1\",\"2\",x,\n3,4,\"y\",no\n5,6,z,yes\n7,8,w,1\n");
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
