//! The control socket: one daemon owns it, root alone may speak, and no caller holds up another.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode};

use super::Fleet;
use super::answers::{line, refuse};
use super::keep::{LISTENER, LOCK};
use crate::control::{
    Answer, Ask, Code, LineError, MAX_REQUEST, Refusal, Request, read_line, write_line,
};
use crate::holder::link::{self, Given, Link};
use crate::sys::Errno;

/// How long a caller has to send a request, and to take its reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many callers at once; root alone can come, so this is against mistakes.
const CALLERS: usize = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon has it.
    #[error(
        "another daemon{by} has the control socket {path}; stop it, or give this one another (control in the configuration)"
    )]
    Taken {
        /// The socket.
        path: PathBuf,
        /// " (process 7)", where that is known.
        by: String,
    },
    /// It can't be made.
    #[error("control socket {path}: {error}")]
    Make {
        /// The socket, or what stands beside it.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The process that stays: the one that holds what this one serves.
pub(super) fn daemon() -> u32 {
    let holder = link::holder().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    holder.unwrap_or_else(std::process::id)
}

/// The socket; it goes when this does.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Locked as long as this process lives. It is left there: a file that another process is about
    /// to lock must not be removed.
    _lock: File,
}

impl Socket {
    /// The socket that a worker before this one has left, whose callers wait in it; a new one where
    /// there is none, or the configuration wants another.
    pub(super) fn take(
        path: &Path,
        given: &mut Given,
        link: &Link,
    ) -> Result<Socket, ControlError> {
        let left = given.remove(LISTENER).zip(given.remove(LOCK));
        if let Some((listener, lock)) = left {
            let socket = Socket {
                path: path.into(),
                listener: listener.into(),
                _lock: lock.into(),
            };
            let address = socket.listener.local_addr();
            if address.is_ok_and(|address| address.as_pathname() == Some(path)) {
                return Ok(socket);
            }
        }
        let socket = Self::make(path)?;
        let what = [
            (LISTENER, socket.listener.as_fd()),
            (LOCK, socket._lock.as_fd()),
        ];
        link.hold(&what).map_err(|error| ControlError::Make {
            path: path.into(),
            error,
        })?;
        Ok(socket)
    }

    /// Takes the socket over from a daemon that has died; never from one that lives.
    fn make(path: &Path) -> Result<Socket, ControlError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| ControlError::Make { path, error }
        };
        if let Some(dir) = path.parent() {
            crate::sys::dir::make_all(dir).map_err(failed(dir))?;
        }
        let mut beside = path.to_owned().into_os_string();
        beside.push(".lock");
        let beside = PathBuf::from(beside);
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&beside)
            .map_err(failed(&beside))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = std::fs::read_to_string(&beside).unwrap_or_default();
                let by = match pid.trim() {
                    "" => String::new(),
                    pid => format!(" (process {pid})"),
                };
                return Err(ControlError::Taken {
                    path: path.into(),
                    by,
                });
            }
            Err(error) => return Err(failed(&beside)(error.into())),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(&lock, "{}", daemon()))
            .map_err(failed(&beside))?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(path)(error));
            }
            _ => {}
        }
        // Nobody else may connect in the moment before its mode is set.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(mask);
        Ok(Socket {
            path: path.into(),
            listener: listener.map_err(failed(path))?,
            _lock: lock,
        })
    }

    /// Answers callers, each on a thread of its own, until the process ends.
    pub(super) fn serve(&self, fleet: &Arc<Fleet>) -> io::Result<()> {
        let (listener, fleet) = (self.listener.try_clone()?, fleet.clone());
        let accept = move || {
            let callers = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => admit(stream, &callers, &fleet),
                    Err(error) => {
                        // Out of descriptors, say: that passes.
                        tracing::warn!(%error, "a caller could not be let in");
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("statelite-ctl".into());
        thread.spawn(accept).map(drop)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the control socket stays");
        }
    }
}

/// Counts a caller as long as it is there.
struct Caller(Arc<AtomicUsize>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn admit(stream: UnixStream, callers: &Arc<AtomicUsize>, fleet: &Arc<Fleet>) {
    let caller = Caller(callers.clone());
    if callers.fetch_add(1, Ordering::AcqRel) >= CALLERS {
        let refusal = refuse(Code::Unavailable, "too many callers at once");
        // What fits into the socket's buffer is written at once.
        return turn_away(&stream, refusal, Duration::from_millis(10));
    }
    let fleet = fleet.clone();
    let talk = move || {
        let _caller = caller;
        converse(&stream, &fleet);
    };
    let thread = std::thread::Builder::new().name("statelite-ctl".into());
    if let Err(error) = thread.spawn(talk) {
        tracing::warn!(%error, "no thread for a caller");
    }
}

fn turn_away(stream: &UnixStream, refusal: Refusal, patience: Duration) {
    tracing::warn!(why = refusal.message, "a caller was turned away");
    if let Err(error) = write_line(stream, &line(Answer::<()>::Error(refusal)), patience) {
        tracing::debug!(%error, "and did not hear why");
    }
}

fn converse(stream: &UnixStream, fleet: &Arc<Fleet>) {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) if peer.uid.is_root() => {}
        Ok(_) => {
            let refusal = refuse(Code::Denied, "only root may ask the daemon");
            return turn_away(stream, refusal, PATIENCE);
        }
        Err(error) => {
            let refusal = refuse(Code::Denied, format!("who asks is not known: {error}"));
            return turn_away(stream, refusal, PATIENCE);
        }
    }
    let mut rest = Vec::new();
    loop {
        let said = match read_line(stream, &mut rest, MAX_REQUEST, PATIENCE) {
            Ok(Some(said)) => said,
            Ok(None) => return,
            Err(error @ LineError::TooLong(_)) => {
                return turn_away(stream, refuse(Code::Garbage, error.to_string()), PATIENCE);
            }
            Err(error) => return tracing::debug!(%error, "a caller was given up"),
        };
        let reply = match Request::read(&said).map_err(|why| refuse(Code::Garbage, why)) {
            Ok(request) => {
                tracing::debug!(?request, "asked");
                match request.ask {
                    Ask::Upgrade { program } => fleet.upgrade(program, stream),
                    ask => fleet.answer(ask),
                }
            }
            Err(refusal) => line(Answer::<()>::Error(refusal)),
        };
        if let Err(error) = write_line(stream, &reply, PATIENCE) {
            return tracing::debug!(%error, "a caller did not take its reply");
        }
    }
}
