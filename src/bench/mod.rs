//! Measuring mounts: what a lookup, an open, a read or a change costs through each of them, side by
//! side in one run, whatever file system they are of.
//!
//! Owns: what is timed and how, the figures, their plots, and all that is made for it in a mount. May
//! not: know of views, layers or tables; leave anything behind; parse a command line.
//!
//! In each round an operation is timed on every mount before the next operation comes, so that noise
//! hits all alike, and each round begins with another mount. Disks are not measured: before the first
//! round all has been read once. Paths are looked up from a descriptor of
//! the mount's root: where it is mounted makes no difference.

mod measure;
mod op;
mod paths;
pub mod plot;
pub mod report;
pub mod stats;
mod write;

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::{Serialize, Serializer};

pub use op::Operation;
pub use report::Report;

use measure::{Bench, Cold, Pass};
use paths::Lists;
use report::{Outcome, Skipped};
use stats::Series;
use write::Ground;

/// What is measured.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// Its name in reports.
    pub name: String,
    /// A mount point, or any directory.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
}

/// A name that is no text is shown as well as it can be: figures are not lost for it.
fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// What to measure, and how.
#[derive(Debug)]
pub struct Plan {
    /// At least one; paths are collected from the first.
    pub mounts: Vec<Mount>,
    /// The number of the mount that ratios are to.
    pub base: usize,
    /// In the order of [`Operation::ALL`].
    pub operations: Vec<Operation>,
    /// The operations were named: what can't be measured is an error and not left out.
    pub named: bool,
    /// The same for those on a cold cache.
    pub cold: bool,
    /// How often all is measured, at least once.
    pub rounds: usize,
    /// How many paths an operation is measured with at most, in a round.
    pub paths: usize,
    /// What the order of the paths follows from.
    pub seed: u64,
    /// The directory below each mount for operations that write: names alone, no `.` or `..`; empty
    /// for the root itself.
    pub ground: Option<PathBuf>,
    /// The CPU to run on.
    pub pin: Option<usize>,
    /// Once this is set the run ends, and what it made is removed.
    pub stop: Arc<AtomicBool>,
}

/// Is told how far a run has come.
pub trait Observer {
    /// So many more paths were found.
    fn found(&mut self, paths: usize);
    /// All paths are known; so many operations are to be timed.
    fn begins(&mut self, operations: usize);
    /// So many more were timed.
    fn measured(&mut self, operations: usize);
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No mount was named.
    #[error("no mount to measure")]
    NoMounts,
    /// A mount is not there, or no directory.
    #[error("{}: {error}; name a mount point, or any directory", .path.display())]
    Mount {
        /// As it was named.
        path: PathBuf,
        /// Why it can't be opened.
        error: Errno,
    },
    /// The mounts have nothing in common that could be measured.
    #[error(
        "{}: not enough files: {} (/dev, /proc, /sys and /run are left out); \
         the mounts must show the same tree", .mount.display(), none_of(*.seen)
    )]
    NoPaths {
        /// The first mount.
        mount: PathBuf,
        /// How many paths it has.
        seen: usize,
    },
    /// An operation that was named lacks its files.
    #[error("{operation}: not enough files: {why}")]
    NotEnough {
        /// The operation.
        operation: Operation,
        /// What is missing.
        why: String,
    },
    /// Nothing is left to be measured.
    #[error("none of the operations can be measured here")]
    NoOperations,
    /// Caches can't be dropped.
    #[error(
        "cold operations need the right to drop the kernel's caches: {file}: {0}; \
         run it as root on the host, or measure warm ones only",
        file = Cold::FILE
    )]
    Cold(std::io::Error),
    /// There is no such CPU, or not for this process.
    #[error("CPU {cpu}: {error}; nproc and taskset -p $$ show which there are")]
    Pin {
        /// As it was asked for.
        cpu: usize,
        /// The kernel's answer.
        error: Errno,
    },
    /// Nothing can be written where it should be.
    #[error("{mount}: nothing can be made in {}: {error}{}", .at.display(), hint(*.error))]
    Ground {
        /// The mount's name.
        mount: String,
        /// The directory.
        at: PathBuf,
        /// Why not.
        error: Errno,
    },
    /// Every call failed.
    #[error("{mount}: {operation}: {failure}, and so did all others")]
    Failed {
        /// The mount's name.
        mount: String,
        /// What was measured.
        operation: Operation,
        /// The first failure.
        failure: String,
    },
    /// What was made is still there.
    #[error("{}: made by this run, and could not be removed: {error}; remove it", .at.display())]
    LeftOver {
        /// The directory.
        at: PathBuf,
        /// Why it is still there.
        error: Errno,
    },
    /// Two things went wrong.
    #[error("{0}; besides, {1}")]
    Both(Box<BenchError>, Box<BenchError>),
    /// It was asked to stop.
    #[error("interrupted; there are no figures")]
    Interrupted,
    /// A histogram can't hold a figure.
    #[error("a latency can't be counted: {0}")]
    Histogram(String),
    /// The plot could not be drawn.
    #[error("drawing: {0}")]
    Plot(String),
}

fn none_of(seen: usize) -> String {
    match seen {
        0 => "nothing is there".into(),
        seen => format!("of {seen} paths, none is the same in every mount"),
    }
}

/// What to do about it.
fn hint(error: Errno) -> &'static str {
    match error {
        Errno::ROFS => "; leave out --write, or name a writable directory of the mount with --dir",
        Errno::NOENT => "; make it first, or name another one with --dir",
        Errno::LOOP => "; a symlink is not followed: name the directory itself",
        Errno::XDEV => "; it is not in this mount: name a directory of the mount's own file system",
        _ => "",
    }
}

impl BenchError {
    fn mount(mount: &Mount, error: Errno) -> BenchError {
        BenchError::Mount {
            path: mount.path.clone(),
            error,
        }
    }
}

/// A mount with its root open.
#[derive(Debug)]
struct Place {
    mount: Mount,
    root: OwnedFd,
}

impl Place {
    fn open(mount: &Mount) -> Result<Place, BenchError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(&mount.path, flags, Mode::empty())
            .map_err(|error| BenchError::mount(mount, error))?;
        Ok(Place {
            mount: mount.clone(),
            root,
        })
    }

    /// A path of the mount as people name it.
    fn shown(&self, path: &CStr) -> PathBuf {
        self.mount
            .path
            .join(std::ffi::OsStr::from_bytes(path.to_bytes()))
    }
}

/// Measures.
///
/// # Errors
/// [`BenchError`]; what was made in the mounts has been removed, or the error names it.
pub fn run(plan: &Plan, observer: &mut dyn Observer) -> Result<Report, BenchError> {
    if let Some(cpu) = plan.pin {
        pin(cpu)?;
    }
    let places: Vec<Place> = plan
        .mounts
        .iter()
        .map(Place::open)
        .collect::<Result<_, _>>()?;
    let mut skipped = Vec::new();
    let cold = cold(plan, &mut skipped)?;
    let mut grounds = Vec::new();
    // Before the walk, which may take long: where nothing can be written is known at once.
    let ready = make_grounds(plan, &places, &mut grounds);
    let cold = cold.as_ref();
    let result =
        ready.and_then(|()| measure(plan, &places, &grounds, cold, &mut skipped, observer));
    // What fails then may have failed for that.
    let result = result.map_err(|error| plan.go_on().err().unwrap_or(error));
    let removed = grounds.into_iter().map(Ground::remove);
    let removed = removed.filter_map(Result::err).reduce(both);
    let (lists, outcomes) = match (result, removed) {
        (Ok(done), None) => done,
        (Ok(_), Some(left)) => return Err(left),
        (Err(error), None) => return Err(error),
        (Err(error), Some(left)) => return Err(both(error, left)),
    };
    report::make(plan, &lists, outcomes, skipped, measure::clock_cost())
}

fn both(first: BenchError, second: BenchError) -> BenchError {
    BenchError::Both(Box::new(first), Box::new(second))
}

/// On this CPU alone, for the rest of the process.
fn pin(cpu: usize) -> Result<(), BenchError> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let failed = |error| BenchError::Pin { cpu, error };
    if cpu >= CpuSet::MAX_CPU {
        return Err(failed(Errno::INVAL));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(failed)
}

/// The right to drop caches, if it is needed and there. Without it cold operations are skipped,
/// unless they were asked for.
fn cold(plan: &Plan, skipped: &mut Vec<Skipped>) -> Result<Option<Cold>, BenchError> {
    let asked: Vec<Operation> = plan
        .operations
        .iter()
        .copied()
        .filter(|op| op.is_cold())
        .collect();
    if asked.is_empty() {
        return Ok(None);
    }
    match Cold::open() {
        Ok(cold) => Ok(Some(cold)),
        Err(error) if plan.cold || plan.named => Err(BenchError::Cold(error)),
        Err(error) => {
            let why = format!(
                "no right to drop caches ({}: {error}): warm only",
                Cold::FILE
            );
            skipped.extend(asked.into_iter().map(|operation| Skipped {
                operation,
                why: why.clone(),
            }));
            Ok(None)
        }
    }
}

/// Into `made`, also where one fails: they are to be removed.
fn make_grounds(plan: &Plan, places: &[Place], made: &mut Vec<Ground>) -> Result<(), BenchError> {
    if !plan.operations.iter().any(|op| op.writes()) {
        return Ok(());
    }
    let dir = plan.ground.as_deref().unwrap_or(Path::new(""));
    for (number, place) in places.iter().enumerate() {
        let ground = Ground::make(place, number, dir)?;
        let filled = ground.fill();
        made.push(ground);
        filled.map_err(|error| BenchError::Ground {
            mount: place.mount.name.clone(),
            at: place.mount.path.join(dir),
            error,
        })?;
    }
    Ok(())
}

fn measure(
    plan: &Plan,
    places: &[Place],
    grounds: &[Ground],
    cold: Option<&Cold>,
    skipped: &mut Vec<Skipped>,
    observer: &mut dyn Observer,
) -> Result<(Lists, Vec<Outcome>), BenchError> {
    let lists = paths::collect(plan, places, observer)?;
    let mut bench = Bench {
        plan,
        places,
        lists: &lists,
        grounds,
        cold,
        observer,
    };
    let mut outcomes = Vec::new();
    for operation in &plan.operations {
        if skipped.iter().any(|skip| skip.operation == *operation) {
            continue;
        }
        if bench.count(*operation) > 0 {
            outcomes.push(Outcome::new(*operation, places.len())?);
            continue;
        }
        let (operation, why) = (*operation, lacking(*operation, plan));
        if plan.named {
            return Err(BenchError::NotEnough { operation, why });
        }
        let why = format!("not enough files: {why}");
        skipped.push(Skipped { operation, why });
    }
    if outcomes.is_empty() {
        return Err(BenchError::NoOperations);
    }
    let all = outcomes.iter().fold(0usize, |all, out| {
        let rounds = plan.rounds.saturating_add(out.operation.is_cold().into());
        let each = places.len() * bench.count(out.operation);
        all.saturating_add(rounds.saturating_mul(each))
    });
    bench.observer.begins(all);
    // Unmeasured: what comes from the disk would be put down to whoever is first to ask for it.
    for outcome in outcomes.iter().filter(|out| out.operation.is_cold()) {
        for at in 0..places.len() {
            bench.pass(outcome.operation, at, 0)?;
        }
    }
    // What is written comes last: a file that was copied up is not what it was for reading.
    let (writes, reads): (Vec<_>, Vec<_>) =
        outcomes.iter_mut().partition(|out| out.operation.writes());
    let phases = [reads, writes].into_iter();
    for mut phase in phases.filter(|phase| !phase.is_empty()) {
        for round in 0..plan.rounds {
            for outcome in &mut phase {
                for turn in 0..places.len() {
                    let at = (round + turn) % places.len();
                    let pass = bench.pass(outcome.operation, at, round)?;
                    outcome.add(at, pass)?;
                }
            }
        }
    }
    Ok((lists, outcomes))
}

/// What an operation that can't be measured would need.
fn lacking(operation: Operation, plan: &Plan) -> String {
    let needs = match operation {
        Operation::ColdReaddir | Operation::WarmReaddir => "a directory".into(),
        Operation::SeqRead | Operation::RandomRead => {
            format!("a file of {} MiB or more", paths::LARGE >> 20)
        }
        Operation::ColdRead | Operation::WarmRead => {
            format!("a file of up to {} KiB", paths::SMALL >> 10)
        }
        Operation::CopyUp => {
            return format!(
                "it needs {} files of 1 to {} bytes, no programs, below --dir, one a round, the \
                 same in every mount",
                plan.rounds,
                paths::SMALL
            );
        }
        _ => "a file".to_owned(),
    };
    format!("it needs {needs} that is the same in every mount")
}

impl Outcome {
    fn new(operation: Operation, mounts: usize) -> Result<Outcome, BenchError> {
        let series = (0..mounts).map(|_| Series::new());
        let series: Result<Vec<Series>, _> = series.collect();
        Ok(Outcome {
            operation,
            series: series.map_err(|error| BenchError::Histogram(error.to_string()))?,
            failed: vec![0; mounts],
            failures: vec![None; mounts],
        })
    }

    fn add(&mut self, at: usize, pass: Pass) -> Result<(), BenchError> {
        self.failed[at] += pass.failed;
        let failure = &mut self.failures[at];
        *failure = failure.take().or(pass.failure);
        let added = self.series[at].add(&pass.samples);
        added.map_err(|error| BenchError::Histogram(error.to_string()))
    }
}
