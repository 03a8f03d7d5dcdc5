//! Running a mounted view: in the foreground until it is unmounted or told to stop, or in the
//! background, with the parent waiting until the mount is ready or its reason is known.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::Metrics;
use super::shared::Shared;
use crate::fs::{Root, View};
use crate::fuse::{self, Adapter, MountError};
use crate::pool::Pool;

/// What the background process says once requests are served.
const READY: &str = "ready";

/// Says on standard output why the mount failed: standard error may be a log file.
pub fn report_failure(error: &dyn std::error::Error) {
    println!("statelite: {error}");
}

/// Why a view is not mounted any more, or never was.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The session ended with an error.
    #[error("the session ended: {0}")]
    Session(io::Error),
    /// Signals cannot be waited for.
    #[error("waiting for signals: {0}")]
    Signals(io::Error),
    /// The background process could not be started.
    #[error("starting in the background: {0}")]
    Background(io::Error),
    /// It ended before the mount was ready; it has said why.
    #[error("the mount failed")]
    NotReady {
        /// Its exit code.
        code: i32,
    },
}

/// Is this the process in the background?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Background {
    /// No: messages go to the terminal, and an interrupt unmounts.
    No,
    /// Yes: the parent waits for the word on standard output.
    Yes,
}

/// Mounts and serves until the view is unmounted, or SIGINT or SIGTERM asks for it.
///
/// # Errors
/// [`RunError`].
pub fn run_foreground(
    view: View,
    shared: &Shared,
    point: &Path,
    threads: usize,
    background: Background,
    metrics: Option<&Metrics>,
) -> Result<(), RunError> {
    crate::sys::creds::clear_umask();
    raise_open_files();
    let name = view.name().to_owned();
    let root = Arc::new(Root::new(view));
    let mut adapter = Adapter::new(root.clone(), Arc::new(Pool::default()));
    if let Some(metrics) = metrics {
        adapter = adapter.with_metrics(metrics.node(&root));
    }
    let mut signals =
        signal_hook::iterator::Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
            .map_err(RunError::Signals)?;
    let point = &std::path::absolute(point).map_err(RunError::Background)?;
    let mounted = fuse::mount(adapter, point, threads)?;
    tracing::info!(view = name, point = %point.display(), "mounted");
    let attached = shared.attach(root, point.clone(), mounted.notifier());
    let stop = signals.handle();
    let unmounts = point.clone();
    let waiter = std::thread::spawn(move || {
        for signal in signals.forever() {
            tracing::info!(signal, point = %unmounts.display(), "asked to stop");
            if let Err(error) = fuse::unmount(&unmounts) {
                tracing::error!(%error, point = %unmounts.display(), "not unmounted; asking again is possible");
                continue;
            }
            return;
        }
    });
    if background == Background::Yes {
        detach().map_err(RunError::Background)?;
    }
    let ended = mounted.run().map_err(RunError::Session);
    drop(attached);
    stop.close();
    if waiter.join().is_err() {
        tracing::error!("the thread that waits for signals failed");
    }
    tracing::info!(view = name, point = %point.display(), "unmounted");
    ended
}

/// Every file that is open in the view is a descriptor here: as many as the kernel allows.
pub(super) fn raise_open_files() {
    if let Err(error) = crate::sys::privileges::raise_descriptors() {
        tracing::warn!(%error, "the limit of open files stays as it was");
    }
}

/// Tells the parent that the mount is ready, and lets go of what it gave: its terminal, its
/// directory, its pipes.
fn detach() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{READY}")?;
    out.flush()?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if rustix::termios::isatty(io::stderr()) || is_pipe() {
        rustix::stdio::dup2_stderr(&null)?;
    }
    std::env::set_current_dir("/")
}

/// A pipe on standard error is the parent's: it ends with the parent. A file is a log.
fn is_pipe() -> bool {
    crate::sys::obj::stat(io::stderr()).is_ok_and(|stat| stat.kind() != libc::S_IFREG)
}

/// Runs this program again with `args`, in a session of its own, until it has said that the mount
/// is ready. `name` is what it is called in lists of processes.
///
/// # Errors
/// [`RunError::NotReady`] where it ended instead; what it said is on standard error by then.
pub fn start_background(
    name: &str,
    args: Vec<OsString>,
    log: Option<&Path>,
) -> Result<(), RunError> {
    let stderr = match log {
        None => Stdio::piped(),
        Some(path) => std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .map_err(RunError::Background)?
            .into(),
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .process_group(0);
    let mut child = command.spawn().map_err(RunError::Background)?;
    // Read beside the word: a child with much to say must not wait for us.
    let said = child.stderr.take().map(|mut err| {
        std::thread::spawn(move || {
            let mut said = String::new();
            err.read_to_string(&mut said).map(|_| said)
        })
    });
    let mut word = String::new();
    if let Some(out) = child.stdout.take() {
        let mut out = BufReader::new(out);
        out.read_line(&mut word).map_err(RunError::Background)?;
        if word.trim_end() != READY {
            out.read_to_string(&mut word)
                .map_err(RunError::Background)?;
        }
    }
    // It ends when the process ends, or lets go of it once it is ready.
    if let Some(Ok(said)) = said.map(std::thread::JoinHandle::join) {
        eprint!("{}", said.map_err(RunError::Background)?);
    }
    if word.trim_end() == READY {
        return Ok(());
    }
    eprint!("{word}");
    let status = child.wait().map_err(RunError::Background)?;
    Err(RunError::NotReady {
        code: status.code().unwrap_or(1),
    })
}
