use super::*;
use proptest::prelude::*;

fn value(value: &str, node: &str) -> Result<String, String> {
    evaluate(value, node, &Regexes::default()).map(|v| v.text.into_owned())
}

#[test]
fn the_manuals_examples() {
    for (text, node, expected) in [
        (r"/\z/-bmc/", "node1", "node1-bmc"),
        (r"|node(\d+)|10.0.0.($1+0)|", "node007", "10.0.0.7"),
        (r"|10.0.0.($1+0)|", "node007", "10.0.0.7"),
        (
            r"|\D+(\d+)\D+(\d+)\D+(\d+)\D+(\d+)|c($1)f($2)x($3)|",
            "c01f02x03v04",
            "c01f02x03",
        ),
        (
            r"|\D+(\d+)\D+(\d+)\D+(\d+)\D+(\d+)|dir:///install/vms/vm($4+0)|",
            "c01f02x03v04",
            "dir:///install/vms/vm4",
        ),
        (
            r"|\D+(\d+)|cmm(sprintf('%02d',($1-1)/14+1))|",
            "node20",
            "cmm02",
        ),
        (r"|\D+(\d+)|(($1-1)%14+1)|", "node20", "6"),
        (
            r"|row(\d+)-col(\d+)|(dim2idx($1, 4, $2))|",
            "row2-col3",
            "7",
        ),
        (
            r"|row(\d+)-col(\d+)-node(\d+)|(dim2idx($1, 4, $2, 20, $3))|",
            "row1-col2-node3",
            "23",
        ),
        (r"|rack(\w)|(a2idx($1))|", "rackC", "3"),
    ] {
        assert_eq!(value(text, node).unwrap(), expected, "{text} of {node}");
    }
}

#[test]
fn substitution_is_of_the_first_match_only() {
    assert_eq!(value("/n/m/", "nn1").unwrap(), "mn1");
    assert_eq!(value(r"/(\d+)/-$1-/", "cn12x").unwrap(), "cn-12-x");
    assert_eq!(value(r"|(\d)|<($1*2)>|", "a4b").unwrap(), "a<8>b");
    assert_eq!(value("|r($1)u($2-1)|", "r02u40").unwrap(), "r2u39");
    assert_eq!(value("|x($1)|", "cn000").unwrap(), "x0");
    assert_eq!(value("|fixed|", "cn1").unwrap(), "fixed");
}

#[test]
fn what_is_no_regex_value_stays() {
    for text in [
        "",
        "/",
        "//",
        "|",
        "/a/b",
        "/a/b/c/",
        "a|b",
        "10.0.0.1",
        "10.0.0.1:/a/b/",
    ] {
        assert_eq!(value(text, "cn1").unwrap(), text);
        assert!(!looks_like_slashes(text), "{text}");
    }
    assert!(looks_like_slashes("/gpfs/state/"));
    let miss = evaluate("/gpfs/state/", "cn1", &Regexes::default()).unwrap();
    assert_eq!(
        miss,
        Evaluated {
            text: "cn1".into(),
            unmatched: true
        }
    );
}

#[test]
fn faults_are_explained() {
    for (text, expected) in [
        ("/(/x/", "\"(\" is no regular expression: unclosed group"),
        (
            r"|(\d+)|($2)|",
            "there is no group $2: the regular expression has 1",
        ),
        (r"|(\d+)|($1/0)|", "divides by zero"),
        (r"|(\d+)|($1+)|", "is not understood at its end"),
        (r"|(\d+)|($1+1|", "lacks a closing parenthesis"),
        (
            r"|(\d+)|(hostname)|",
            "\"hostname\" in \"(hostname)\" is no number",
        ),
        (r"|(\d+)|(system('x'))|", "the function system is not known"),
        (r"|(\d+)|(9223372036854775807+$1)|", "too large"),
        (r"|(\D+)|($1+1)|", "\"cn\" is no number"),
        (r"|(?=c)|x|", "is no regular expression: look-around"),
        (r"|(\d+)|(sprintf('%d'))|", "too few values"),
        (r"|(\d+)|(sprintf('%999d',1))|", "too wide"),
    ] {
        let fault = value(text, "cn7").expect_err(text);
        assert!(fault.contains(expected), "{text}: {fault}");
    }
    let deep = format!("|(\\d+)|{}1{}|", "(".repeat(9999), ")".repeat(9999));
    assert!(value(&deep, "cn7").unwrap_err().contains("too deeply"));
    assert!(value(&format!("|({}1)|", "-".repeat(99_999)), "cn7").is_err());
}

proptest! {
    #[test]
    fn any_value_is_evaluated_without_a_panic(
        text in r"[/|]?[a-z$0-9()%*/+,'|\[\]\\{}-]{0,30}[/|]?", node in "[a-z0-9-]{1,12}") {
        value(&text, &node).ok();
    }

    #[test]
    fn arithmetic_is_that_of_integers(n in 0..100_000_i64, a in 1..50_i64, b in 1..50_i64) {
        let text = format!(r"|\D+(\d+)|(($1-{a})/{b}+$1%{b}*{a}-({a}-{b}))|");
        let expected = (n - a) / b + n % b * a - (a - b);
        prop_assert_eq!(value(&text, &format!("cn{n:04}")).unwrap(), expected.to_string());
    }

    #[test]
    fn the_easy_form_finds_each_number(numbers in proptest::collection::vec(0..2000_u32, 1..5), width in 0..5_usize) {
        let mut node = String::new();
        let mut text = String::from("|");
        let mut expected = String::new();
        for (i, n) in numbers.iter().enumerate() {
            node += &format!("{}{n:0width$}", ["c", "rack", "u-", "n"][i]);
            text += &format!("x($1+{i})").replace("$1", &format!("${}", i + 1));
            expected += &format!("x{}", *n as usize + i);
        }
        prop_assert_eq!(value(&(text + "|"), &node).unwrap(), expected);
    }
}
