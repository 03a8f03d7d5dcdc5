//! `statelite bench`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::progress::Progress;
use super::{Failure, Globals, print_json, say};
use crate::bench::{self, Mount, Observer, Operation, Plan, Report, plot};

const ABOUT: &str = "Measure what mounts cost, side by side

Looks paths up, opens, lists and reads them, and with --write creates and changes files, on every
mount in turn. Prints for each operation how long half of them took (p50), 99 % and 99.9 %, the
mean, how many there were, and the ratios to the first mount. Any directory can be measured. Those
of one run should show the same tree: only paths that are the same in all of them count.

Cold operations drop the kernel's names and inodes before (sync, then 2 written to
/proc/sys/vm/drop_caches). That needs root, and the whole machine looks its paths up anew
afterwards. --only with warm operations leaves it out.";

const AFTER_HELP: &str = "\
Example: the kernel's overlayfs and statelite over one image, on one CPU, with a picture:
  mount -t overlay -o lowerdir=/srv/image,upperdir=/srv/o/u,workdir=/srv/o/w none /mnt/overlay
  statelite mount --lower /srv/image --upper /srv/s/u --work /srv/s/w /mnt/statelite
  statelite bench --pin 0 --plot bench.html overlayfs=/mnt/overlay statelite=/mnt/statelite

Some operations on one node's root, without touching the machine's caches:
  statelite bench --only warm-stat,open,warm-read /srv/roots/cn1

With changes, in a directory that each mount has; nothing that is made stays:
  statelite bench --write --dir var/tmp overlayfs=/mnt/overlay cn1=/srv/roots/cn1

A time is the calling process's, from before the system call (or the two or three of them) to after
it, clock included. The same mount named twice shows the noise. A server that taskset has put on the
CPU of --pin answers without waking another one.";

/// Measure what mounts cost, side by side
#[derive(Args, Debug)]
#[command(long_about = ABOUT, after_long_help = AFTER_HELP)]
pub(super) struct BenchArgs {
    /// Mount points, or any directories; NAME is what reports call it [default: its last component].
    #[arg(required = true, value_name = "[NAME=]MOUNTPOINT", value_parser = clap::value_parser!(OsString))]
    mounts: Vec<OsString>,
    /// The mount that ratios are to [default: the first].
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Measure these alone.
    #[arg(long, value_name = "OPERATION,…", value_delimiter = ',', value_parser = operations())]
    only: Vec<Operation>,
    /// How often all of it is measured; reports have the medians.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    rounds: usize,
    /// How many paths an operation is measured with at most, in each round; also how many random
    /// reads, creations and appended bytes (10000 at most).
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = at_least_one)]
    paths: usize,
    /// Which paths, and their order, follow from this.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Fail where caches can't be dropped, instead of measuring warm operations only.
    #[arg(long)]
    cold: bool,
    /// Measure create-unlink and append too, in a directory that is made for it and removed again.
    #[arg(long, requires = "dir")]
    write: bool,
    /// Measure copy-up too: existing files below --dir are opened for writing. Their contents stay, but
    /// the copies stay in the upper too: from within a mount nobody can take them back.
    #[arg(long, requires = "write")]
    copy_up: bool,
    /// An existing, writable directory below each mount, for --write.
    #[arg(long, value_name = "SUBDIR", requires = "write", value_parser = below)]
    dir: Option<PathBuf>,
    /// Run on this CPU alone.
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Draw the distributions; .svg for the picture, .html for a page with the table.
    #[arg(long, value_name = "FILE.svg|FILE.html", value_parser = picture)]
    plot: Option<PathBuf>,
}

fn operations() -> impl TypedValueParser<Value = Operation> {
    let values = Operation::ALL.map(|op| PossibleValue::new(op.name()).help(op.what()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<Operation>())
}

fn at_least_one(word: &str) -> Result<usize, String> {
    match word.parse() {
        Ok(0) => Err("at least 1".into()),
        Ok(n) => Ok(n),
        Err(error) => Err(format!("{error}")),
    }
}

/// A path below a mount: a leading slash is the mount's root, and nothing leads out.
fn below(word: &str) -> Result<PathBuf, String> {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for part in Path::new(word).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return Err("a path below the mount, without ..".into()),
        }
    }
    Ok(clean)
}

fn picture(word: &str) -> Result<PathBuf, String> {
    match Path::new(word).extension().and_then(OsStr::to_str) {
        Some("svg" | "html") => Ok(word.into()),
        _ => Err("name a file that ends in .svg or .html".into()),
    }
}

/// `NAME=PATH`, or a path, whose last component is the name then.
fn mount(word: &OsStr) -> Result<Mount, String> {
    let bytes = word.as_bytes();
    let named = bytes
        .iter()
        .position(|b| *b == b'=')
        .map(|at| bytes.split_at(at));
    let (name, path) = match named {
        // A slash before it: the sign is the path's own.
        Some((name, rest)) if !name.contains(&b'/') => (
            String::from_utf8_lossy(name).into_owned(),
            OsStr::from_bytes(&rest[1..]),
        ),
        _ => {
            let last = Path::new(word).file_name().unwrap_or(word);
            (last.to_string_lossy().into_owned(), word)
        }
    };
    if name.is_empty() || name.chars().any(char::is_control) || path.is_empty() {
        return Err(format!("{}: a mount is NAME=MOUNTPOINT", word.display()));
    }
    Ok(Mount {
        name,
        path: path.into(),
    })
}

/// What clap can't see by itself is wrong.
fn plan(args: &BenchArgs) -> Result<Plan, String> {
    let mounts: Vec<Mount> = args
        .mounts
        .iter()
        .map(|word| mount(word))
        .collect::<Result<_, _>>()?;
    for (at, mount) in mounts.iter().enumerate() {
        if mounts[..at].iter().any(|other| other.name == mount.name) {
            let name = &mount.name;
            return Err(format!(
                "two mounts are called {name}: give them names, NAME=MOUNTPOINT"
            ));
        }
    }
    let base = match &args.base {
        None => 0,
        Some(base) => mounts
            .iter()
            .position(|mount| mount.name == *base)
            .ok_or_else(|| {
                let names: Vec<&str> = mounts.iter().map(|mount| mount.name.as_str()).collect();
                format!(
                    "--base {base}: no mount is called so; there are {}",
                    names.join(", ")
                )
            })?,
    };
    let named = !args.only.is_empty();
    let wanted = |op: &Operation| match named {
        true => args.only.contains(op),
        false if *op == Operation::CopyUp => args.copy_up,
        false => args.write || !op.writes(),
    };
    let operations: Vec<Operation> = Operation::ALL.into_iter().filter(wanted).collect();
    if let Some(op) = operations.iter().find(|op| op.writes())
        && !args.write
    {
        return Err(format!(
            "--only {op}: it writes; that needs --write and --dir"
        ));
    }
    Ok(Plan {
        mounts,
        base,
        operations,
        named,
        cold: args.cold,
        rounds: args.rounds,
        paths: args.paths,
        seed: args.seed,
        ground: args.dir.clone(),
        pin: args.pin,
        stop: Arc::default(),
    })
}

pub(super) fn run(globals: &Globals, args: &BenchArgs) -> Result<ExitCode, Failure> {
    let plan = match plan(args) {
        Ok(plan) => plan,
        Err(wrong) => {
            eprintln!("statelite: {wrong}");
            return Ok(ExitCode::from(2));
        }
    };
    if let Some(file) = &args.plot {
        can_be_written(file)?;
    }
    stop_on_signals(&plan.stop)?;
    let report = bench::run(&plan, &mut Shown::new())?;
    if globals.json {
        print_json(&report)?;
    } else {
        say(&report.text())?;
    }
    if let Some(file) = &args.plot {
        draw(&report, file)?;
    }
    Ok(match report.failed() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Known before minutes of measuring.
fn can_be_written(file: &Path) -> Result<(), Failure> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    rustix::fs::access(
        directory,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .map_err(|e| format!("--plot {}: {}: {e}", file.display(), directory.display()).into())
}

fn draw(report: &Report, file: &Path) -> Result<(), Failure> {
    let text = match file.extension().and_then(OsStr::to_str) {
        Some("html") => plot::html(report)?,
        _ => plot::svg(report)?,
    };
    std::fs::write(file, text).map_err(|e| format!("--plot {}: {e}", file.display()).into())
}

/// The first signal asks the run to end and clean up; the second ends it where it hangs.
fn stop_on_signals(stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(stop))?;
        signal_hook::flag::register(signal, Arc::clone(stop))?;
    }
    Ok(())
}

/// Progress on the terminal.
struct Shown(Progress);

impl Shown {
    fn new() -> Shown {
        Shown(Progress::counting("paths found"))
    }
}

impl Observer for Shown {
    fn found(&mut self, paths: usize) {
        self.0.advance(paths);
    }

    fn begins(&mut self, operations: usize) {
        self.0 = Progress::new("operations measured", operations);
    }

    fn measured(&mut self, operations: usize) {
        self.0.advance(operations);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn planned(words: &[&str]) -> Result<Plan, String> {
        let words = std::iter::once("bench").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        plan(&line.args)
    }

    #[test]
    fn names_of_mounts() {
        let named = |word: &str| {
            mount(word.as_ref())
                .map(|m| (m.name, m.path.display().to_string()))
                .ok()
        };
        let is = |name: &str, path: &str| Some((name.to_owned(), path.to_owned()));
        assert_eq!(named("/srv/roots/cn1"), is("cn1", "/srv/roots/cn1"));
        assert_eq!(named("a=/srv/x=y"), is("a", "/srv/x=y"));
        assert_eq!(named("./x=y"), is("x=y", "./x=y"));
        assert_eq!(named("/"), is("/", "/"));
        assert_eq!(named(".."), is("..", ".."));
        assert_eq!(named("=/x"), None);
        assert_eq!(named("a="), None);
        assert_eq!(named("a\nb=/x"), None);
    }

    #[test]
    fn what_is_measured() {
        let read = planned(&["/a"]).unwrap();
        assert!(read.operations.iter().all(|op| !op.writes()) && !read.named);
        assert_eq!(read.operations.len(), 11);
        let written = planned(&["--write", "--dir", "tmp", "/a"]).unwrap();
        assert_eq!(written.operations.len(), 13);
        assert!(!written.operations.contains(&Operation::CopyUp));
        let copied = planned(&["--write", "--copy-up", "--dir", "tmp", "/a"]).unwrap();
        assert_eq!(copied.operations.len(), 14);
        let only = planned(&["--only", "open,cold-stat", "/a"]).unwrap();
        assert_eq!(only.operations, [Operation::ColdStat, Operation::Open]);
        assert!(only.named);
    }

    #[test]
    fn the_base() {
        assert_eq!(planned(&["/a", "/b"]).unwrap().base, 0);
        assert_eq!(planned(&["--base", "b", "/a", "/b"]).unwrap().base, 1);
        assert!(
            planned(&["--base", "c", "/a", "/b"])
                .unwrap_err()
                .contains("a, b")
        );
    }

    #[test]
    fn wrong_lines() {
        for words in [
            &["--write", "/a"][..],
            &["--dir", "tmp", "/a"],
            &["--copy-up", "/a"],
            &["--only", "append", "/a"],
            &["--only", "stat", "/a"],
            &["--rounds", "0", "/a"],
            &["--paths", "0", "/a"],
            &["--plot", "x.png", "/a"],
            &["--write", "--dir", "../x", "/a"],
            &["/a/x", "/b/x"],
            &[],
        ] {
            assert!(planned(words).is_err(), "{words:?}");
        }
    }
}
