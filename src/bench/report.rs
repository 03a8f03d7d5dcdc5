//! What a run found, as JSON for programs and as a table for people.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::paths::Lists;
use super::stats::{Ratio, Series, Summary};
use super::{BenchError, Mount, Operation, Plan};

/// A run's figures and what they were taken from. Its JSON is an interface: keys are added, not
/// renamed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was measured, in the order of the command line.
    pub mounts: Vec<Mount>,
    /// The name of the mount that ratios are to.
    pub base: String,
    /// How often all was measured.
    pub rounds: usize,
    /// What the order of the paths follows from.
    pub seed: u64,
    /// The CPU that it ran on alone.
    pub cpu: Option<usize>,
    /// What reading the clock costs; it is in every figure.
    pub clock_ns: u64,
    /// The paths that were measured with.
    pub paths: Paths,
    /// In the order of [`Operation::ALL`].
    pub operations: Vec<Figures>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
}

/// How many paths of each kind one round had.
#[derive(Debug, Serialize)]
pub struct Paths {
    /// All that the first mount has.
    pub seen: usize,
    /// Those that were left out because another mount has something else there, or nothing.
    pub differ: usize,
    /// Those that could not be looked at.
    pub unreadable: usize,
    /// The first of them, and why.
    pub first_unreadable: Option<String>,
    /// Looked up.
    pub any: usize,
    /// Listed.
    pub directories: usize,
    /// Opened.
    pub files: usize,
    /// Read whole.
    pub small: usize,
    /// Read in pieces.
    pub large: Option<Large>,
}

/// The large file.
#[derive(Debug, Serialize)]
pub struct Large {
    /// Its path in the mounts.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// An operation that was not measured.
#[derive(Debug, Serialize)]
pub struct Skipped {
    /// The operation.
    pub operation: Operation,
    /// The reason.
    pub why: String,
}

/// One operation on every mount.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The operation.
    pub operation: Operation,
    /// What one of it is.
    pub what: &'static str,
    /// In the order of the command line.
    pub mounts: Vec<Line>,
}

/// One operation on one mount.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The mount's name.
    pub name: String,
    /// Medians over the rounds; counts are summed.
    #[serde(flatten)]
    pub summary: Summary,
    /// To the base.
    pub ratio: Option<Ratio>,
    /// How many operations failed; they are not in the figures.
    pub failed: usize,
    /// The first failure.
    pub failure: Option<String>,
    /// Each round's own figures.
    pub rounds: Vec<Summary>,
    /// Every operation of all rounds.
    #[serde(skip)]
    pub all: Histogram<u64>,
}

/// What was timed of one operation; each list has one entry a mount.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) operation: Operation,
    pub(super) series: Vec<Series>,
    pub(super) failed: Vec<usize>,
    pub(super) failures: Vec<Option<String>>,
}

pub(super) fn make(
    plan: &Plan,
    lists: &Lists,
    outcomes: Vec<Outcome>,
    skipped: Vec<Skipped>,
    clock_ns: u64,
) -> Result<Report, BenchError> {
    let operations: Option<Vec<Figures>> =
        outcomes.into_iter().map(|out| figures(plan, out)).collect();
    Ok(Report {
        base: plan
            .mounts
            .get(plan.base)
            .ok_or(BenchError::NoMounts)?
            .name
            .clone(),
        mounts: plan.mounts.clone(),
        rounds: plan.rounds,
        seed: plan.seed,
        cpu: plan.pin,
        clock_ns,
        paths: Paths {
            seen: lists.seen,
            differ: lists.differ,
            unreadable: lists.unread.as_ref().map_or(0, |(count, _)| *count),
            first_unreadable: lists.unread.as_ref().map(|(_, first)| first.clone()),
            any: lists.any.len(),
            directories: lists.directories.len(),
            files: lists.files.len(),
            small: lists.small.len(),
            large: lists.large.as_ref().map(|(path, bytes)| Large {
                path: path.to_string_lossy().into_owned(),
                bytes: *bytes,
            }),
        },
        operations: operations.ok_or(BenchError::NoOperations)?,
        skipped,
    })
}

/// `None` before the first round.
fn figures(plan: &Plan, outcome: Outcome) -> Option<Figures> {
    let base = outcome.series.get(plan.base)?.summary()?;
    let failures = outcome.failed.into_iter().zip(outcome.failures);
    let lines = plan.mounts.iter().zip(outcome.series).zip(failures);
    let lines = lines.map(|((mount, series), (failed, failure))| {
        let summary = series.summary()?;
        Some(Line {
            name: mount.name.clone(),
            summary,
            ratio: summary.over(&base),
            failed,
            failure,
            rounds: series.rounds,
            all: series.all,
        })
    });
    Some(Figures {
        operation: outcome.operation,
        what: outcome.operation.what(),
        mounts: lines.collect::<Option<_>>()?,
    })
}

impl Report {
    /// How many operations failed.
    pub fn failed(&self) -> usize {
        let lines = self.operations.iter().flat_map(|op| &op.mounts);
        lines.map(|line| line.failed).sum()
    }

    /// The run in a sentence or two, without the figures.
    pub fn headline(&self) -> String {
        let paths = &self.paths;
        let mut text = format!(
            "{}, {}, {} of {} paths, seed {}{}; reading the clock costs {} ns, which is in every figure",
            plural(self.mounts.len(), "mount"),
            plural(self.rounds, "round"),
            paths.any,
            paths.seen,
            self.seed,
            self.cpu
                .map_or(String::new(), |cpu| format!(", on CPU {cpu}")),
            self.clock_ns,
        );
        if paths.differ > 0 {
            let differ = plural(paths.differ, "path");
            text += &format!("; {differ} left out, not the same in every mount");
        }
        if let Some(first) = &paths.first_unreadable {
            let unreadable = plural(paths.unreadable, "path");
            text += &format!("; {unreadable} could not be looked at, the first: {first}");
        }
        text
    }

    /// The notes below the figures: what was not measured, what failed.
    pub fn notes(&self) -> Vec<String> {
        let skipped = self.skipped.iter();
        let mut notes: Vec<String> = skipped
            .map(|skip| format!("{} not measured: {}", skip.operation, skip.why))
            .collect();
        for figures in &self.operations {
            for line in &figures.mounts {
                if let Some(failure) = &line.failure {
                    notes.push(format!(
                        "{} on {}: {} failed and are not in the figures, the first: {failure}",
                        figures.operation, line.name, line.failed
                    ));
                }
            }
        }
        notes
    }

    /// The table.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.headline());
        let names = self.mounts.iter().map(|mount| mount.name.chars().count());
        let wide = names.max().unwrap_or(0).max(12);
        out += &format!(
            "ns an operation, medians of the rounds; ratios to {}\n\n{:wide$}  {}\n",
            self.base,
            "",
            HEAD.map(|head| format!("{head:>11}")).concat().trim_end()
        );
        for figures in &self.operations {
            out += &format!("{}: {}\n", figures.operation, figures.what);
            for line in &figures.mounts {
                let cells = line.cells().map(|cell| format!("{cell:>11}")).concat();
                out += &format!("  {:wide$}{cells}\n", line.name);
            }
        }
        let notes = self.notes();
        if !notes.is_empty() {
            out.push('\n');
        }
        for note in notes {
            out += &format!("{note}\n");
        }
        out
    }
}

/// What stands over [`Line::cells`].
pub(super) const HEAD: [&str; 8] = [
    "p50",
    "p99",
    "p99.9",
    "mean",
    "count",
    "p50 ratio",
    "p99 ratio",
    "mean ratio",
];

impl Line {
    /// The figures as people read them.
    pub(super) fn cells(&self) -> [String; 8] {
        let ns = |figure: f64| format!("{figure:.0}");
        let ratio = |figure: fn(&Ratio) -> f64| {
            let ratio = self.ratio.as_ref().map(figure);
            ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
        };
        [
            ns(self.summary.p50_ns),
            ns(self.summary.p99_ns),
            ns(self.summary.p999_ns),
            ns(self.summary.mean_ns),
            self.summary.count.to_string(),
            ratio(|r| r.p50),
            ratio(|r| r.p99),
            ratio(|r| r.mean),
        ]
    }
}

fn plural(n: usize, word: &str) -> String {
    let mut text = format!("{n} {word}");
    if n != 1 {
        text.push('s');
    }
    text
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::bench::measure::Pass;

    /// A report of `names`, each slower by its place than the one before; the second's operations fail
    /// once a round.
    pub(crate) fn report(names: &[&str], base: usize) -> Report {
        let mounts: Vec<Mount> = names
            .iter()
            .map(|name| Mount {
                name: (*name).into(),
                path: format!("/{name}").into(),
            })
            .collect();
        let plan = Plan {
            mounts,
            base,
            operations: vec![Operation::ColdStat, Operation::Open],
            named: false,
            cold: false,
            rounds: 3,
            paths: 100,
            seed: 7,
            ground: None,
            pin: None,
            stop: Default::default(),
        };
        let outcome = |operation| {
            let mut outcome = Outcome::new(operation, names.len()).unwrap();
            for at in 0..names.len() {
                for _ in 0..plan.rounds {
                    let slower = 100 * (at as u64 + 1);
                    let pass = Pass {
                        samples: (1..=100).map(|n| slower * n).collect(),
                        failed: usize::from(at == 1),
                        failure: (at == 1).then(|| "/x: gone".into()),
                    };
                    outcome.add(at, pass).unwrap();
                }
            }
            outcome
        };
        let outcomes = plan.operations.iter().copied().map(outcome).collect();
        let skipped = vec![Skipped {
            operation: Operation::SeqRead,
            why: "nothing to read".into(),
        }];
        make(&plan, &Lists::default(), outcomes, skipped, 25).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::report;

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 0.002
    }

    #[test]
    fn ratios_are_to_the_base_whichever_it_is() {
        for (base, expected) in [(0, [1.0, 2.0, 3.0]), (2, [1.0 / 3.0, 2.0 / 3.0, 1.0])] {
            let report = report(&["a", "b", "c"], base);
            assert_eq!(report.base, ["a", "b", "c"][base]);
            for figures in &report.operations {
                for (line, expected) in figures.mounts.iter().zip(expected) {
                    let ratio = line.ratio.unwrap();
                    assert!(near(ratio.p50, expected), "{ratio:?}");
                    assert!(near(ratio.p999, expected), "{ratio:?}");
                    assert!(near(ratio.mean, expected), "{ratio:?}");
                }
            }
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_mount_and_says_what_failed() {
        let report = report(&["ext4", "a name that is longer"], 0);
        let text = report.text();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(lines.len(), 1 + 2 * 2, "{text}");
        let width = lines[0].chars().count();
        assert!(
            lines.iter().all(|line| line.chars().count() == width),
            "{text}"
        );
        let cells: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(cells[0], "ext4");
        assert_eq!(cells[5..], ["300", "1.00", "1.00", "1.00"], "{text}");
        assert_eq!(report.failed(), 6);
        assert!(
            text.contains("seq-read not measured: nothing to read"),
            "{text}"
        );
        let failed = "open on a name that is longer: 3 failed and are not in the figures, the first: /x: gone";
        assert!(text.contains(failed), "{text}");
        assert!(text.contains("costs 25 ns"), "{text}");
    }

    #[test]
    fn json_has_the_figures_beside_the_name() {
        let json = serde_json::to_value(report(&["a", "b"], 0)).unwrap();
        let line = &json["operations"][0]["mounts"][1];
        assert_eq!(line["name"], "b");
        assert_eq!(line["count"], 300);
        assert_eq!(line["rounds"].as_array().unwrap().len(), 3);
        assert!(near(line["p50_ns"].as_f64().unwrap(), 10_000.0));
        assert_eq!(json["skipped"][0]["operation"], "seq-read");
    }
}
