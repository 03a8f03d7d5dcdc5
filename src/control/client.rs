//! Asking the daemon.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{
    Answer, Ask, LineError, MAX_REPLY, MAX_REQUEST, Refusal, Reply, Request, VERSION, read_line,
    write_line,
};

/// A daemon that mounts or compares thousands of nodes takes its time.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers on {0}: start it with statelite serve, or name its socket (control in the configuration)"
    )]
    NotRunning(PathBuf),
    /// The socket can't be used.
    #[error("{path}: {error}{}", hint(.error))]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Half an answer.
    #[error("asking the daemon: {0}")]
    Line(#[from] LineError),
    /// It can't be understood.
    #[error(
        "the daemon answers what this program does not understand ({0}); is it of another version?"
    )]
    Answer(serde_json::Error),
    /// It was refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (only root may ask the daemon)",
        _ => "",
    }
}

/// A question is asked again so often where the process that was to answer has ended over it: another
/// goes on.
const TRIES: u32 = 5;

/// Asks, and waits for the answer; `T` is what [`Ask`] names for the request. What changes something is
/// asked for once.
///
/// # Errors
/// [`ClientError`].
pub fn ask<T: DeserializeOwned>(socket: &Path, ask: Ask) -> Result<T, ClientError> {
    let asks = matches!(
        ask,
        Ask::Status { .. } | Ask::Explain { .. } | Ask::Show { .. }
    );
    let mut tries = 1;
    loop {
        match ask_once(socket, ask.clone()) {
            Err(ClientError::Line(LineError::Cut | LineError::Socket(_)))
                if asks && tries < TRIES =>
            {
                tries += 1;
            }
            answer => return answer,
        }
    }
}

fn ask_once<T: DeserializeOwned>(socket: &Path, ask: Ask) -> Result<T, ClientError> {
    let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.into())
        }
        _ => ClientError::Socket {
            path: socket.into(),
            error,
        },
    })?;
    let request = Request { v: VERSION, ask };
    let line = serde_json::to_vec(&request).map_err(ClientError::Answer)?;
    if line.len() > MAX_REQUEST {
        return Err(LineError::TooLong(MAX_REQUEST).into());
    }
    // Who is refused is told so before the request is read.
    let written = write_line(&stream, &line, PATIENCE);
    let mut rest = Vec::new();
    let line = match (read_line(&stream, &mut rest, MAX_REPLY, PATIENCE), written) {
        (Ok(Some(line)), _) => line,
        (_, Err(error)) | (Err(error), Ok(())) => return Err(error.into()),
        (Ok(None), Ok(())) => return Err(LineError::Cut.into()),
    };
    let reply: Reply<T> = serde_json::from_slice(&line).map_err(ClientError::Answer)?;
    match reply.result {
        Answer::Ok(answer) => Ok(answer),
        Answer::Error(refusal) => Err(ClientError::Refused(refusal)),
    }
}
