//! Another program that takes over all roots: asked for here, and answered by whichever of the two
//! goes on.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use rustix::fs::{CWD, Mode, OFlags};

use super::Fleet;
use super::answers::{line, refuse};
use crate::control::{Answer, Code, Refusal, Upgraded, write_line};
use crate::holder::link::without_deleted;

/// How long who asked has to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

impl Fleet {
    /// Has a program take over. Where it does, this process ends and that one answers the caller;
    /// so what is returned is why it does not.
    pub(super) fn upgrade(
        self: &Arc<Self>,
        program: Option<PathBuf>,
        caller: &UnixStream,
    ) -> Vec<u8> {
        let (Err(why) | Ok(why)) = self.try_upgrade(program, caller);
        tracing::error!(why, "no other program takes over");
        line(Answer::<()>::Error(refuse(Code::Failed, why)))
    }

    fn try_upgrade(&self, program: Option<PathBuf>, caller: &UnixStream) -> Result<String, String> {
        if self.is_stopping() {
            return Err("the daemon is stopping".into());
        }
        let path = match program {
            Some(path) => path,
            None => std::fs::read_link("/proc/self/exe")
                .map(without_deleted)
                .map_err(|error| format!("where this program lies is not known: {error}"))?,
        };
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let program = rustix::fs::openat(CWD, &path, flags, Mode::empty());
        let program = program.map_err(|error| failed(error.into()))?;
        tracing::info!(path = %path.display(), "another program is to take over");
        let (refused, why) = bounded(1);
        let tell = move |why: String| {
            if refused.send(why).is_err() {
                tracing::debug!("nobody waits for it");
            }
        };
        let asked = self.keep.replace(&program, caller.as_fd(), tell);
        asked.map_err(failed)?;
        let why = why.recv();
        self.keep.asker_is_answered();
        let why = why.unwrap_or_else(|_| "the holder has ended".into());
        Ok(format!("{}: {why}", path.display()))
    }

    /// Tells who asked for this program that it serves; or that the one before it does again.
    pub(super) fn tell_asker(&self) {
        let Some(asker) = self.keep.take_asker() else {
            return;
        };
        let reply = match &self.keep.told.back {
            None => line(Answer::Ok(Upgraded {
                version: env!("CARGO_PKG_VERSION").into(),
                pid: std::process::id(),
            })),
            Some(why) => {
                let message =
                    format!("it took over and failed: {why}; the one before it serves again");
                line(Answer::<()>::Error(Refusal {
                    code: Code::Failed,
                    message,
                }))
            }
        };
        if let Err(error) = write_line(&UnixStream::from(asker), &reply, PATIENCE) {
            tracing::debug!(%error, "who asked for it is gone");
        }
        self.keep.asker_is_answered();
    }
}
