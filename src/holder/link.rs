//! The worker's side: what it is given by its holder, and what it gives to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process};

use super::wire::{self, Kind, Packet, Told, VERSION};
use crate::sys::inherit;

/// Descriptors by key.
pub type Given = BTreeMap<String, OwnedFd>;

/// Who waits for a program to take over; told why it does not.
type Waiting = Mutex<Option<Box<dyn FnOnce(String) + Send>>>;

/// The way to the holder.
pub struct Link {
    socket: OwnedFd,
    waiting: Waiting,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// Was this process started by a holder?
pub fn is_worker() -> bool {
    std::env::var_os(wire::SOCKET).is_some()
}

/// A program's path as procfs shows it, without the word that it has been replaced.
pub fn without_deleted(path: PathBuf) -> PathBuf {
    match path
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"))
    {
        Some(path) => path.into(),
        None => path,
    }
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Link {
    /// To whoever started this process. From now on this process ends when that does.
    ///
    /// # Errors
    /// There is no holder, or it speaks another version.
    pub fn open() -> io::Result<Link> {
        let number = std::env::var(wire::SOCKET).unwrap_or_default();
        let number = number.parse().map_err(|_| garbled("no holder's socket"))?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // execve(2) of a descriptor leaves its number as the process's name.
        rustix::thread::set_name(c"statelite-work")?;
        // A crash would wait with its dump for every thread, and those named [`wire::TELLS`] wait for
        // the next worker. (Serving another user's first request makes it so anyway.)
        let never = rustix::process::DumpableBehavior::NotDumpable;
        rustix::process::set_dumpable_behavior(never)?;
        let link = Link {
            socket: inherit::take(number)?,
            waiting: Waiting::default(),
        };
        let hello = link.next()?;
        match (hello.kind, hello.text.parse::<u32>()) {
            (Some(Kind::Hello), Ok(VERSION)) => Ok(link),
            _ => Err(garbled("the holder speaks another version: restart it")),
        }
    }

    fn next(&self) -> io::Result<Packet> {
        let packet = wire::receive(&self.socket)?;
        packet.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Waits until this process is to work; what it is given for that. Where it is only to be the
    /// next one it is asked before whether it can: what `check` says of that is passed on.
    ///
    /// # Errors
    /// The holder has ended.
    pub fn begin(
        &self,
        mut check: impl FnMut(&Given) -> Result<(), String>,
    ) -> io::Result<(Given, Told)> {
        let mut given = Given::new();
        loop {
            let packet = self.next()?;
            match packet.kind {
                Some(Kind::Held) => {
                    let keys = packet.text.lines().map(str::to_owned);
                    given.extend(keys.zip(packet.descriptors));
                }
                Some(Kind::Anew) => given.clear(),
                Some(Kind::Check) => match check(&given) {
                    Ok(()) => self.say(Kind::Fit, "")?,
                    Err(why) => self.say(Kind::Unfit, &why)?,
                },
                Some(Kind::Go) => return Ok((given, Told::read(&packet.text))),
                _ => {}
            }
        }
    }

    fn say(&self, kind: Kind, text: &str) -> io::Result<()> {
        wire::send(&self.socket, kind, text, &[])
    }

    /// Has descriptors held; when this returns they are, whatever becomes of this process.
    ///
    /// # Errors
    /// The holder has ended, and with it soon this process.
    pub fn hold(&self, what: &[(&str, BorrowedFd<'_>)]) -> io::Result<()> {
        for some in what.chunks(wire::MOST) {
            let (keys, descriptors): (Vec<&str>, Vec<_>) = some.iter().copied().unzip();
            wire::send(&self.socket, Kind::Hold, &keys.join("\n"), &descriptors)?;
        }
        Ok(())
    }

    /// Has keys let go of, one a line, or all below one that ends in `/`.
    pub fn let_go(&self, key: &str) {
        self.say_or_log(Kind::LetGo, key);
    }

    /// Says something to the service manager.
    pub fn tell(&self, text: &str) {
        self.say_or_log(Kind::Tell, text);
    }

    /// This process serves.
    pub fn serves(&self) {
        self.say_or_log(Kind::Serves, "");
    }

    /// This process lives.
    pub fn lives(&self) {
        self.say_or_log(Kind::Lives, "");
    }

    fn say_or_log(&self, kind: Kind, text: &str) {
        if let Err(error) = self.say(kind, text) {
            tracing::debug!(?kind, %error, "the holder was not told");
        }
    }

    /// Has another program take over, which is given `beside` with all that is held. Where it does, this process
    /// is killed; where not, `refused` is told why, by [`Link::listen`].
    ///
    /// # Errors
    /// Somebody else waits for that, or the holder has ended: nothing is done.
    pub fn replace(
        &self,
        program: &OwnedFd,
        beside: (&str, BorrowedFd<'_>),
        refused: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.hold(&[beside])?;
        wire::send(&self.socket, Kind::Replace, "", &[program.as_fd()])?;
        *waiting = Some(Box::new(refused));
        Ok(())
    }

    /// Hears what the holder says once this process works. When the holder has ended, this process
    /// is killed: nothing would replace it, and the next one clears up.
    pub fn listen(&self) {
        loop {
            match self.next() {
                Ok(packet) => {
                    if packet.kind == Some(Kind::NotTaken) {
                        match self.waiting.lock().take() {
                            Some(refused) => refused(packet.text),
                            None => {
                                tracing::error!(why = packet.text, "no other program takes over")
                            }
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the holder has ended");
                    if let Err(error) = kill_process(getpid(), Signal::KILL) {
                        tracing::error!(%error, "and this process goes on");
                    }
                    return;
                }
            }
        }
    }
}

/// The process id of the holder.
pub fn holder() -> Option<Pid> {
    getppid()
}
