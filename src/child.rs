//! Running another program, for so long and no longer.
//!
//! Owns: its output, its end, and that of the processes that it leaves. May not: know what it is for.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// More output than this, in bytes, is cut off.
pub const MOST: usize = 4096;

/// How long output may take to arrive when the program has ended.
const REST: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug)]
pub struct Ran {
    /// How it ended; `None` where it was killed, since its time was over.
    pub status: Option<ExitStatus>,
    output: Receiver<Vec<u8>>,
    errors: Receiver<Vec<u8>>,
}

impl Ran {
    /// What it wrote to standard output, up to a byte more than [`MOST`]; `None` where somebody still
    /// has it open.
    pub fn output(&self) -> Option<Vec<u8>> {
        self.output.recv_timeout(REST).ok()
    }

    /// What it wrote to standard error, without blanks around it and as far as it is there.
    pub fn errors(&self) -> String {
        let errors = self.errors.recv_timeout(REST).unwrap_or_default();
        String::from_utf8_lossy(&errors).trim().to_owned()
    }
}

/// Runs a command without input and waits for its end, at most for `limit`. What is left of its process
/// group is killed then.
///
/// # Errors
/// It cannot be started, or not be waited for.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Ran> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let output = drain(child.stdout.take());
    let errors = drain(child.stderr.take());
    let in_time = wait(&child, limit);
    // The leader is not reaped yet, so that its group is still its own.
    if let Err(error) = kill_process_group(Pid::from_child(&child), Signal::KILL)
        && error != Errno::SRCH
    {
        tracing::warn!(?command, %error, "its children cannot be killed");
    }
    let status = child.wait()?;
    Ok(Ran {
        status: in_time.then_some(status),
        output,
        errors,
    })
}

/// Waits until the child has ended, without reaping it; false where the limit came first.
fn wait(child: &Child, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let mut pause = Duration::from_micros(200);
    loop {
        match waitid(WaitId::Pid(Pid::from_child(child)), options) {
            Ok(Some(_)) => return true,
            Ok(None) | Err(Errno::INTR) if Instant::now() < deadline => std::thread::sleep(pause),
            _ => return false,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Reads a pipe to its end in a thread of its own, which a child that keeps the pipe open can't
/// make us wait for.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.by_ref().take(MOST as u64 + 1).read_to_end(&mut bytes);
            if read.is_ok() && send.send(bytes).is_ok() {
                // What is too much is thrown away, so that the program isn't stopped by it.
                std::io::copy(&mut pipe, &mut std::io::sink()).ok();
            }
        });
    }
    receive
}
