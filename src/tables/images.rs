//! Images: which one a node has, and which rows of litefile and litetree apply to it
//! (SEMANTICS section 1).
//!
//! Owns: nodetype, osimage, linuximage; the precedence name, ALL, blank, group. May not: look
//! into an image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use super::book::Book;
use super::csv::Table;
use super::litefile::LiteRows;
use super::litetree::LiteTrees;
use super::nodes::split_list;
use super::{ImageSpec, LiteOption, Origin, Problem, RuleRow, nearest, paths};

/// What applies to one image, the same for each node that runs it, and for every other image of
/// the same [`Ranks`].
#[derive(Debug)]
pub(crate) struct ImageRows {
    /// The winning litefile rows, sorted by path.
    pub(crate) rules: Arc<[Arc<RuleRow>]>,
    /// Which of the litefile rows they are, in the same order.
    pub(crate) rows: Vec<usize>,
    /// Indexes of the litetree rows, in order of use.
    pub(crate) trees: Vec<usize>,
    /// Where the first persistent rule stands.
    pub(crate) persistent: Option<Origin>,
    /// Where the first localdisk rule stands.
    pub(crate) localdisk: Option<Origin>,
    /// Paths that stand twice.
    pub(crate) problems: Arc<[Problem]>,
}

/// How specific the rows of each image column are for an image: all that choosing depends on.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub(crate) struct Ranks {
    lite: Vec<Option<Rank>>,
    trees: Vec<Option<Rank>>,
}

impl Ranks {
    /// Of the image, for the columns that litefile and litetree have.
    pub(crate) fn of(image: &ImageSpec, lite: &LiteRows, trees: &LiteTrees) -> Self {
        let rank = |column| rank(column, &image.name, &image.groups);
        Self {
            lite: lite.columns.values().map(rank).collect(),
            trees: trees.columns.values().map(rank).collect(),
        }
    }
}

impl ImageRows {
    /// Chooses the rows of an image: for one path the most specific, and the first of those that
    /// are equally so.
    pub(crate) fn choose(ranks: &Ranks, lite: &LiteRows, trees: &LiteTrees) -> Self {
        let mut rows: Vec<usize> = Vec::new();
        let mut problems = Vec::new();
        let rule = |row: usize| &lite.rows[row].rule;
        let of_path = |a: &usize, b: &usize| rule(*a).path == rule(*b).path;
        for same in lite.by_path.chunk_by(of_path) {
            let mut chosen: Option<(Rank, usize)> = None;
            for &row in same {
                let Some(rank) = ranks.lite[lite.rows[row].column] else {
                    continue;
                };
                match chosen {
                    Some((other, _)) if rank > other => {}
                    Some((other, first)) if rank == other => {
                        let message = format!(
                            "{} stands in line {} already",
                            String::from_utf8_lossy(&rule(row).path),
                            rule(first).at.line
                        );
                        let help = "the first row counts: remove one of them";
                        problems.push(Problem::warning(rule(row).at.clone(), message, help));
                    }
                    _ => chosen = Some((rank, row)),
                }
            }
            rows.extend(chosen.map(|(_, row)| row));
        }
        let rules: Arc<[Arc<RuleRow>]> = rows.iter().map(|row| rule(*row).clone()).collect();
        let first = |option| {
            let first = rules.iter().find(|rule| rule.option == option);
            first.map(|rule| rule.at.clone())
        };
        let applies = |tree: &usize| ranks.trees[trees.rows[*tree].column].is_some();
        Self {
            persistent: first(LiteOption::Persistent),
            localdisk: first(LiteOption::Localdisk),
            rules,
            rows,
            trees: (0..trees.rows.len()).filter(applies).collect(),
            problems: problems.into(),
        }
    }
}

/// How specific a row is; lower is more so.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub(crate) enum Rank {
    /// The image's name.
    Name,
    /// `ALL`.
    All,
    /// Nothing.
    Blank,
    /// One of the image's groups.
    Group,
}

/// Whether a row whose image column says `column` applies to the image, and how specific it is.
pub(crate) fn rank(column: &str, image: &str, groups: &[String]) -> Option<Rank> {
    if column == image {
        Some(Rank::Name)
    } else if column == "ALL" {
        Some(Rank::All)
    } else if column.is_empty() {
        Some(Rank::Blank)
    } else if groups.iter().any(|group| group == column) {
        Some(Rank::Group)
    } else {
        None
    }
}

/// Where the image's os, arch and profile come from when osimage doesn't say.
#[derive(Default)]
pub(crate) struct Release {
    os: String,
    arch: String,
    profile: String,
}

/// The image of a node; the problem doesn't name the node.
pub(crate) fn of_node(
    book: &Book,
    node: &str,
    groups: &[String],
    at: Origin,
) -> Result<ImageSpec, Problem> {
    let get = |column| -> Result<(String, Option<Origin>), Problem> {
        let found = book.attribute(node, groups, "nodetype", column)?;
        Ok(found.map_or_else(Default::default, |f| {
            (
                String::from_utf8_lossy(&f.value).trim().to_owned(),
                Some(f.row.at(column)),
            )
        }))
    };
    let (method, named_at) = get("provmethod")?;
    let (release, missing) = {
        let columns = ["os", "arch", "profile"];
        let [os, arch, profile] = [get("os")?.0, get("arch")?.0, get("profile")?.0];
        let blank = [&os, &arch, &profile].map(|value| value.is_empty());
        let missing: Vec<&str> = columns
            .into_iter()
            .zip(blank)
            .filter(|(_, b)| *b)
            .map(|(c, _)| c)
            .collect();
        (Release { os, arch, profile }, missing)
    };
    let generated = matches!(method.as_str(), "" | "statelite" | "netboot" | "install");
    if !generated {
        return spec(book, &method, &release, named_at.unwrap_or(at), true);
    }
    if missing.len() == 3 && method.is_empty() {
        // A switch, a login node with disks: nodelist has them, too.
        let at = book.table("nodetype").map_or(at, Table::whole);
        let help = "nothing to do where it is not diskless; \
                    else give it, or one of its groups, an osimage's name as provmethod";
        return Err(Problem::warning(
            at,
            "no image: nodetype says nothing of it",
            help,
        ));
    }
    if !missing.is_empty() {
        let message = format!("no image: nodetype has no {}", missing.join(", "));
        let help = "give the node or one of its groups an osimage's name as provmethod, or os, arch and profile";
        return Err(Problem::error(named_at.unwrap_or(at), message, help));
    }
    let name = format!(
        "{}-{}-statelite-{}",
        release.os, release.arch, release.profile
    );
    spec(book, &name, &release, named_at.unwrap_or(at), false)
}

/// An image by its name.
pub(crate) fn by_name(book: &Book, name: &str, at: Origin) -> Result<ImageSpec, Problem> {
    spec(book, name, &Release::default(), at, true)
}

/// `at`: where the image was asked for. Without a rootimgdir the tree is where genimage puts it:
/// `<site.installdir>/netboot/<os>/<arch>/<profile>/rootimg`.
fn spec(
    book: &Book,
    name: &str,
    release: &Release,
    at: Origin,
    must: bool,
) -> Result<ImageSpec, Problem> {
    let exists = |table| book.rows_of(table, name).next().is_some();
    if must && !exists("osimage") && !exists("linuximage") {
        let tables = ["osimage", "linuximage"]
            .into_iter()
            .filter_map(|t| book.table(t));
        let known: Vec<String> = tables
            .flat_map(Table::rows)
            .map(|row| row.text("imagename").into_owned())
            .collect();
        let hint = nearest::clause(name, known.iter().map(String::as_str));
        let help = format!("give osimage and linuximage a row for it{hint}");
        return Err(Problem::error(
            at,
            format!("there is no image {name}"),
            help,
        ));
    }
    let text = |table, column: &str| {
        let row = book.first(table, [name], column);
        row.map_or_else(String::new, |row| row.text(column).trim().to_owned())
    };
    let method = text("osimage", "provmethod");
    if !matches!(method.as_str(), "" | "statelite" | "netboot") {
        let message = format!("the image {name} is for {method}: not for diskless nodes");
        let help = "nothing to do where the node has disks; else osimage.provmethod is statelite";
        return Err(Problem::warning(at, message, help));
    }
    let groups = split_list(&text("osimage", "groups"));
    let (directory, row) = match book.first("linuximage", [name], "rootimgdir") {
        Some(row) => (row.get("rootimgdir").trim_ascii().to_vec(), Some(row)),
        None => {
            let or = |value: String, other: &str| {
                if value.is_empty() {
                    other.to_owned()
                } else {
                    value
                }
            };
            let parts = [
                or(text("osimage", "osvers"), &release.os),
                or(text("osimage", "osarch"), &release.arch),
                or(text("osimage", "profile"), &release.profile),
            ];
            if parts.iter().any(String::is_empty) {
                let message = format!("the image {name} has no directory");
                let help = "give linuximage a rootimgdir for it: the tree is rootimg below that";
                return Err(Problem::error(at, message, help));
            }
            let top = book.first("site", ["installdir"], "value");
            let top = top.map_or_else(|| "/install".into(), |row| row.text("value"));
            (
                format!("{top}/netboot/{}", parts.join("/")).into_bytes(),
                None,
            )
        }
    };
    let clean = paths::clean(&directory).map_err(|fault| {
        let at = row.map_or(at, |row| row.at_byte("rootimgdir", fault.offset));
        let message = format!("the directory of the image {name} {}", fault.what);
        Problem::error(at, message, fault.help)
    })?;
    let rootimg = std::path::PathBuf::from(OsString::from_vec(clean.bytes)).join("rootimg");
    Ok(ImageSpec {
        name: name.to_owned(),
        groups,
        rootimg,
    })
}

#[cfg(test)]
mod tests {
    use super::super::litefile;
    use super::super::testing::Given;
    use super::*;
    use proptest::prelude::*;

    fn image(nodetype: &str, node: &str) -> Result<(String, String), String> {
        let given = Given::default()
            .table("nodelist", "#node,groups\n")
            .table("litefile", "#image,file,options\n")
            .table("nodetype", nodetype)
            .table("site", "#key,value\ninstalldir,/srv/install\n")
            .table("osimage", "#imagename,groups,provmethod,osvers,osarch,profile\nmine,\"g1,g2\",statelite,,,\nbare,,netboot,rhels9,ppc64le,service\nempty,,,,,\nfull,,install,,,\n")
            .table("linuximage", "#imagename,rootimgdir\nmine,/images/mine/\nrel,images\n");
        let mut problems = Vec::new();
        let book = Book::load(&given, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let at = Origin {
            file: "nodelist.csv".into(),
            line: 1,
            column: 1,
        };
        of_node(&book, node, &["all".to_owned()], at)
            .map(|image| (image.name, image.rootimg.to_string_lossy().into_owned()))
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_nodes_image() {
        let table = "#node,os,arch,profile,provmethod\nall,rhels9,x86_64,compute,mine\ncn2,,,,statelite\ncn3,,,,netboot\ncn4,,,,install\ncn5,,,,bare\n";
        let found = |node| image(table, node).unwrap();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found("cn1"), pair("mine", "/images/mine/rootimg"));
        let generated = pair(
            "rhels9-x86_64-statelite-compute",
            "/srv/install/netboot/rhels9/x86_64/compute/rootimg",
        );
        for node in ["cn2", "cn3", "cn4"] {
            assert_eq!(found(node), generated);
        }
        assert_eq!(
            found("cn5"),
            pair(
                "bare",
                "/srv/install/netboot/rhels9/ppc64le/service/rootimg"
            )
        );
        assert_eq!(
            image("#node,os,arch,profile\nall,rhels9,x86_64,compute\n", "cn1").unwrap(),
            generated
        );
    }

    #[test]
    fn no_image() {
        for (row, expected) in [
            (
                "all,rhels9,,,",
                "nodelist.csv:1:1: error: no image: nodetype has no arch, profile",
            ),
            (
                "all,,,,statelite",
                "nodetype.csv:2:8: error: no image: nodetype has no os, arch, profile",
            ),
            (
                "all,a,b,c,mime",
                "nodetype.csv:2:11: error: there is no image mime (give osimage and linuximage a row for it: did you mean \"mine\"?)",
            ),
            (
                "all,,,,rel",
                "linuximage.csv:3:5: error: the directory of the image rel is not absolute",
            ),
            (
                "all,,,,empty",
                "nodetype.csv:2:8: error: the image empty has no directory",
            ),
            (
                "all,,,,full",
                "nodetype.csv:2:8: warning: the image full is for install",
            ),
            (
                "other,a,b,c,mine",
                "nodetype.csv: warning: no image: nodetype says nothing of it",
            ),
        ] {
            let problem =
                image(&format!("#node,os,arch,profile,provmethod\n{row}\n"), "cn1").expect_err(row);
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    fn choose(text: &str) -> (ImageRows, LiteRows) {
        let mut problems = Vec::new();
        let raw = super::super::RawTable {
            file: "litefile.csv".into(),
            bytes: text.into(),
        };
        let table = Table::parse("litefile", raw, &mut problems);
        let rows = litefile::read(&table, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let image = ImageSpec {
            name: "img".into(),
            groups: vec!["g1".into(), "g2".into()],
            rootimg: "/".into(),
        };
        let trees = LiteTrees::default();
        let ranks = Ranks::of(&image, &rows, &trees);
        (ImageRows::choose(&ranks, &rows, &trees), rows)
    }

    #[test]
    fn the_first_of_equal_rows_wins_with_a_warning() {
        let (found, _) =
            choose("#image,file,options\nALL,/a/,ro\nALL,/a,tmpfs\nimg,/b,ro\n,/b,con\n");
        assert_eq!(found.rules.len(), 2);
        assert_eq!(found.rules[0].option, LiteOption::Ro);
        assert_eq!(found.rules[0].at.to_string(), "litefile.csv:2:5");
        assert!(found.rules[0].dir);
        assert_eq!(found.problems.len(), 1);
        assert!(
            found.problems[0]
                .to_string()
                .starts_with("litefile.csv:3:5: warning: /a stands in line 2 already")
        );
    }

    proptest! {
        #[test]
        fn precedence_is_that_of_the_naive_model(
            rows in proptest::collection::vec((0..7_usize, 0..4_usize, 0..4_usize), 0..30)) {
            let images = ["img", "ALL", "", "g1", "g2", "other", "all"];
            let options = ["tmpfs", "persistent", "ro", "localdisk"];
            let mut text = String::from("#image,file,options\n");
            for (image, path, option) in &rows {
                text += &format!("{},/p{path},{}\n", images[*image], options[*option]);
            }
            let (found, lite) = choose(&text);
            // Path by path: go through the orders, and through the table for each.
            let mut expected = Vec::new();
            for path in 0..4 {
                let orders: [&[usize]; 4] = [&[0], &[1], &[2], &[3, 4]];
                let winner = orders.iter().find_map(|order| {
                    rows.iter().position(|(image, p, _)| *p == path && order.contains(image))
                });
                expected.extend(winner);
            }
            prop_assert_eq!(&found.rows, &expected);
            for (rule, i) in found.rules.iter().zip(&expected) {
                prop_assert_eq!(rule.option, lite.rows[*i].rule.option);
                prop_assert_eq!(rule.at.line, *i as u64 + 2);
            }
        }
    }
}
