//! `lookups LIST DIR...`: looks every path of LIST up below each DIR, one process a DIR, all at once,
//! after the kernel has forgotten names and inodes. Prints how many there were and how long it took,
//! from the first one's begin to the last one's end, as JSON.
//!
//! Owns: its own processes. May not: time what comes before (reading the list, starting); count a lookup
//! that fails.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, open, statat, sync};
use rustix::time::{ClockId, clock_gettime};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The first argument of a process that does the work: LIST DIR and its number and theirs follow.
const WORKER: &str = "--worker";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

fn main() -> Outcome<()> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match &args[..] {
        [worker, list, dir, number, of] if worker.as_os_str() == WORKER => {
            let parsed = |arg: &Path| arg.to_string_lossy().parse::<usize>();
            work(list, dir, parsed(number)?, parsed(of)?)
        }
        [list, dirs @ ..] if !dirs.is_empty() => lead(list, dirs),
        _ => Err("usage: lookups LIST DIR...".into()),
    }
}

/// CLOCK_MONOTONIC, which is one for all processes.
fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn at<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> String {
    move |error| format!("{}: {error}", path.display())
}

/// Says that it is ready, waits to be let go, then looks everything up and says when that began and ended.
fn work(list: &Path, dir: &Path, number: usize, of: usize) -> Outcome<()> {
    let text = std::fs::read(list).map_err(at(list))?;
    let mut paths = text
        .split(|byte| *byte == b'\n')
        .filter(|path| !path.is_empty())
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()?;
    // Not all of them at the same path at the same time.
    let from = paths.len() * number / of.max(1);
    paths.rotate_left(from);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(dir, flags, Mode::empty()).map_err(at(dir))?;
    println!("ready");
    std::io::stdin().read_exact(&mut [0])?;
    let began = now();
    for path in &paths {
        statat(&root, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| format!("{}/{}: {error}", dir.display(), path.to_string_lossy()))?;
    }
    println!("{began} {} {}", now(), paths.len());
    Ok(())
}

/// Processes that end with this one, however it ends.
struct Workers(Vec<(Child, BufReader<std::process::ChildStdout>)>);

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // One that has ended already needs no killing.
            child.kill().unwrap_or_default();
            child.wait().map(drop).unwrap_or_default();
        }
    }
}

fn lead(list: &Path, dirs: &[PathBuf]) -> Outcome<()> {
    let own = std::env::current_exe()?;
    let mut workers = Workers(Vec::new());
    for (number, dir) in dirs.iter().enumerate() {
        let mut child = Command::new(&own)
            .arg(WORKER)
            .args([list, dir])
            .args([number.to_string(), dirs.len().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(at(&own))?;
        let out = child.stdout.take().ok_or("a process without its output")?;
        workers.0.push((child, BufReader::new(out)));
    }
    for (_, out) in &mut workers.0 {
        line(out)?;
    }
    sync();
    std::fs::write(DROP_CACHES, "2").map_err(at(Path::new(DROP_CACHES)))?;
    for (child, _) in &mut workers.0 {
        let stdin = child.stdin.as_mut().ok_or("a process without its input")?;
        stdin.write_all(b"!")?;
    }
    let (mut first, mut last, mut lookups) = (i64::MAX, 0, 0);
    for (_, out) in &mut workers.0 {
        let told = line(out)?;
        let figures: Vec<i64> = told
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [began, ended, count] = figures[..] else {
            return Err(format!("a process said {told:?}").into());
        };
        (first, last, lookups) = (first.min(began), last.max(ended), lookups + count);
    }
    println!(
        "{{\"processes\": {}, \"lookups\": {lookups}, \"ns\": {}}}",
        dirs.len(),
        last - first
    );
    Ok(())
}

/// The next line of a process. One that ends without has said why on standard error.
fn line(out: &mut impl BufRead) -> Outcome<String> {
    let mut text = String::new();
    match out.read_line(&mut text)? {
        0 => Err("a process has failed".into()),
        _ => Ok(text),
    }
}
