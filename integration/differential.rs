//! Random operations on two views of the same layers, ours and kernel overlayfs: the same results and
//! the same trees, step by step.
//!
//! `STATELITE_DIFF_CASES` sets how many sequences (64 unless told), `STATELITE_DIFF_SEED` where the
//! random ones start. A failure prints the shortest sequence found in the form that `regressions`
//! takes.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod harness;

#[path = "differential/layers.rs"]
mod layers;
#[path = "differential/ops.rs"]
mod ops;
#[path = "differential/side.rs"]
mod side;

use harness::*;
use ops::{Op, Step, p};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use side::{FAULTS, Fault, Outcome, Side};

type Excuse = fn(&Op, ours: &Outcome, overlayfs: &Outcome) -> bool;

/// Where the two may differ, and why. Nothing else may.
const KNOWN: &[(&str, Excuse)] = &[
    (
        "overlayfs copies a small sparse file up without its holes; ours keeps them",
        |op, _, _| matches!(op, Op::Seek(..)),
    ),
    (
        "removing an ACL that isn't there: ext4 and tmpfs tell success, overlayfs looks first and tells ENODATA",
        |op, ours, overlayfs| {
            matches!(op, Op::RmAcl(..)) && ours.is_ok() && *overlayfs == Err(Errno::NODATA)
        },
    ),
    (
        "a change by the handle of an unlinked file from below: overlayfs has nothing to copy up to and \
         tells an error, ours works",
        |op, ours, overlayfs| {
            let by_handle = matches!(
                op,
                Op::FChmod(..) | Op::FChown(..) | Op::FTimes(..) | Op::FSetX(..)
            );
            let refused = matches!(overlayfs, Err(Errno::NOENT | Errno::STALE | Errno::EXIST));
            by_handle && ours.is_ok() && refused
        },
    ),
];

/// Also not compared: st_nlink by a handle (overlayfs tells a lower file's count after its name is
/// gone), a directory's size and st_nlink, st_blocks, atime and ctime. Not generated: hard links in
/// lower layers (overlayfs breaks them at copy-up unless it has an index), the whiteout device, the
/// machinery's xattrs, O_TMPFILE and RENAME_WHITEOUT, on which each has its own, tested elsewhere.
fn excused(op: &Op, ours: &Outcome, overlayfs: &Outcome) -> bool {
    KNOWN.iter().any(|(_, excuse)| excuse(op, ours, overlayfs))
}

/// overlayfs may put an emptied directory in the place of one with whiteouts before it refuses to
/// rename over it (ovl_clear_empty in fs/overlayfs/dir.c), and so changes the times of the
/// directory that holds it. A rename that is refused changes nothing here: both get the same times.
fn same_age(op: &Op, ours: &Side, overlayfs: &Side) {
    let (Op::Rename(_, to) | Op::Noreplace(_, to)) = op else {
        return;
    };
    for side in [ours, overlayfs] {
        let to = side.view.root.join(to.path());
        if let Some(parent) = to.parent().filter(|parent| parent.is_dir()) {
            set_times(parent, 1_200_000_000).ok();
        }
    }
}

/// Steps between two comparisons of the whole trees.
const EVERY: usize = 12;

/// Runs a sequence on both sides; what differs.
fn compare(
    target: Target,
    seed: u64,
    steps: &[Step],
    fault: Option<Fault>,
) -> std::result::Result<(), String> {
    let mut ours = Side::new(target, seed, fault);
    let mut overlayfs = Side::new(Target::Overlayfs, seed, None);
    let lowers = ours.view.lower_trees();
    let same_trees = |ours: &snapshot::Tree, overlayfs: &snapshot::Tree, when: &str| {
        match snapshot::differences(ours, overlayfs) {
            lines if lines.is_empty() => Ok(()),
            lines => Err(format!(
                "{when}, the trees differ (ours, overlayfs):\n{}",
                lines.join("\n")
            )),
        }
    };
    same_trees(&ours.tree(), &overlayfs.tree(), "at the start")?;
    for (i, step) in steps.iter().enumerate() {
        let (a, b) = (ours.run(step), overlayfs.run(step));
        if a != b && !excused(&step.op, &a, &b) {
            return Err(format!(
                "step {i}, {step:?}:\n  ours      {a:?}\n  overlayfs {b:?}"
            ));
        }
        if a.is_err() {
            same_age(&step.op, &ours, &overlayfs);
        }
        if matches!(step.op, Op::DropCaches) {
            std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        }
        if i % EVERY == EVERY - 1 {
            same_trees(&ours.tree(), &overlayfs.tree(), &format!("after step {i}"))?;
        }
    }
    same_trees(&ours.tree(), &overlayfs.tree(), "at the end")?;
    ours.remount();
    let expect = overlayfs.tree();
    same_trees(&ours.tree(), &expect, "after a remount")?;
    same_trees(
        &ours.tree_by_overlayfs(),
        &expect,
        "with our upper read by overlayfs",
    )?;
    for (before, after) in lowers.iter().zip(ours.view.lower_trees()) {
        same_trees(before, &after, "in a lower layer, which nothing may change")?;
    }
    Ok(())
}

fn runner(cases: u32, seed: u64, shrink: u32) -> TestRunner {
    let config = Config {
        cases,
        max_shrink_iters: shrink,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// So many random sequences from a seed; the first that fails, as short as it can be made.
fn search(
    target: Target,
    cases: u32,
    seed: u64,
    fault: Option<Fault>,
    shrink: u32,
) -> std::result::Result<(), String> {
    let sequences = (0..64u64, proptest::collection::vec(ops::step(), 1..80));
    let outcome = runner(cases, seed, shrink)
        .run(&sequences.no_shrink_seed(), |(layers, steps)| {
            compare(target, layers, &steps, fault).map_err(TestCaseError::fail)
        });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, (layers, steps))) => {
            let lines: Vec<String> = steps
                .iter()
                .map(|s| format!("    Step {{ who: {}, op: Op::{:?} }},", s.who, s.op))
                .collect();
            Err(format!(
                "seed {seed}: ({layers}, vec![\n{}\n])\n{why}",
                lines.join("\n")
            ))
        }
        Err(TestError::Abort(why)) => Err(why.to_string()),
    }
}

/// Keeps the layers' seed as it is while the steps shrink: another seed is another world.
trait NoShrinkSeed<S> {
    fn no_shrink_seed(self) -> impl Strategy<Value = (u64, Vec<Step>)>;
}

impl<A, S> NoShrinkSeed<S> for (A, S)
where
    A: Strategy<Value = u64>,
    S: Strategy<Value = Vec<Step>>,
{
    fn no_shrink_seed(self) -> impl Strategy<Value = (u64, Vec<Step>)> {
        (self.0.no_shrink(), self.1)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| {
        v.parse().unwrap_or_else(|_| panic!("{name}={v}"))
    })
}

/// From a seed that is told (the long form of the tests gives one that nobody chose), or always
/// the same.
#[test]
fn random_sequences_agree() {
    let cases = number("STATELITE_DIFF_CASES", 64) as u32;
    let seed = number("STATELITE_DIFF_SEED", 2026);
    if let Err(why) = search(target(), cases, seed, None, 2000) {
        panic!("{why}");
    }
}

/// Always the same ones, so that what was found once is found again.
#[test]
fn fixed_seeds_agree() {
    let cases = number("STATELITE_DIFF_CASES", 64) as u32 / 4;
    for seed in [1, 20_090_622, 4_294_967_296] {
        if let Err(why) = search(target(), cases.max(1), seed, None, 2000) {
            panic!("{why}");
        }
    }
}

/// Sequences worth keeping: where a peer, or an earlier form of ours, went wrong.
fn regressions() -> Vec<(u64, Vec<Step>)> {
    let root = |op| Step { who: 0, op };
    let user = |op| Step { who: 1, op };
    vec![
        // A directory made over a removed one, moved, removed, made again.
        (
            3,
            vec![
                root(Op::RemoveAll(p("a"))),
                root(Op::Mkdir(p("a"), 0o755)),
                root(Op::Mkdir(p("a/b"), 0o755)),
                root(Op::Write(p("a/b/c"), 10)),
                root(Op::Rename(p("a/b"), p("b"))),
                root(Op::RemoveAll(p("b"))),
                root(Op::Rename(p("a/b"), p("b"))),
                root(Op::Remount),
                root(Op::List(p("a"))),
                root(Op::List(p("b"))),
            ],
        ),
        // A handle from before copy-up, across rename and exchange.
        (
            7,
            vec![
                root(Op::Write(p("c"), 5000)),
                root(Op::Remount),
                root(Op::Open(0, p("c"), 0, 0)),
                root(Op::Append(p("c"), 20)),
                root(Op::Rename(p("c"), p("d"))),
                root(Op::PRead(0, 0, 6000)),
                root(Op::Write(p("c"), 3)),
                root(Op::Exchange(p("c"), p("d"))),
                root(Op::Append(p("c"), 7)),
                root(Op::PRead(0, 0, 6000)),
                root(Op::Unlink(p("c"))),
                root(Op::FStat(0)),
                root(Op::FTruncate(0, 3)),
            ],
        ),
        // setgid and default ACLs over whiteouts.
        (
            11,
            vec![
                root(Op::RemoveAll(p("e"))),
                root(Op::Mkdir(p("e"), 0o777)),
                root(Op::Chown(p("e"), 0, 3)),
                root(Op::Chmod(p("e"), 0o2777)),
                root(Op::Acl(p("e"), true, 500)),
                user(Op::Mkdir(p("e/a"), 0o777)),
                user(Op::Create(p("e/b"), 0o666)),
                user(Op::Unlink(p("e/b"))),
                user(Op::Fifo(p("e/b"), 0o666)),
                user(Op::Stat(p("e/b"))),
                user(Op::Create(p("e/a/c"), 0o2777)),
                user(Op::Stat(p("e/a/c"))),
            ],
        ),
        // Hard links over whiteouts, replaced by one another.
        (
            13,
            vec![
                root(Op::RemoveAll(p("a"))),
                root(Op::RemoveAll(p("b"))),
                root(Op::Write(p("a"), 9)),
                root(Op::Link(p("a"), p("b"))),
                root(Op::Rename(p("a"), p("b"))),
                root(Op::Stat(p("a"))),
                root(Op::Unlink(p("a"))),
                root(Op::Stat(p("b"))),
                root(Op::Remount),
                root(Op::Stat(p("b"))),
            ],
        ),
        // A rename that is refused, before which overlayfs tidies up the directory in its way.
        (
            41,
            vec![
                root(Op::Rename(p("d"), p("c"))),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Create(p("a"), 420)),
                root(Op::Unlink(p("c"))),
                root(Op::Noreplace(p("a/a"), p("a"))),
                root(Op::Create(p("a"), 420)),
            ],
        ),
    ]
}

#[test]
fn regressions_agree() {
    for (seed, steps) in regressions() {
        if let Err(why) = compare(target(), seed, &steps, None) {
            panic!("layers {seed}, {steps:?}\n{why}");
        }
    }
}

/// The comparison itself is tested: each of these defects, put into one operation, is found.
#[test]
fn injected_faults_are_found() {
    for fault in FAULTS {
        let found = search(Target::Overlayfs, 200, 1, Some(fault), 0);
        let why = found.expect_err(&format!("{fault:?} was not noticed"));
        assert!(why.contains("Step {"), "{why}");
    }
}
