//! One worker: its process, and what is on its way to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use super::wire::{self, Kind, Packet};
use crate::sys::inherit;

/// What the service manager gave to the holder, and is none of a worker's business.
const OF_THE_MANAGER: [&str; 7] = [
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
];

#[derive(Debug)]
struct Outgoing {
    kind: Kind,
    text: String,
    descriptors: Vec<OwnedFd>,
}

/// A worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    socket: OwnedFd,
    outbox: VecDeque<Outgoing>,
    /// It has closed its end.
    silent: bool,
    /// When it was given its task.
    pub(super) since: Instant,
    /// Since when it serves.
    pub(super) serves: Option<Instant>,
    /// When it was last heard of.
    pub(super) heard: Instant,
}

impl Worker {
    /// Starts the program of a descriptor.
    ///
    /// # Errors
    /// execve(2)'s and all before it.
    pub(super) fn start(program: &OwnedFd, args: &[OsString]) -> io::Result<Worker> {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&here, true)?;
        // `there` waits for room and `here` does not: they have open files of their own.
        inherit::leave(&there, true)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        let (name, args) = args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        command.arg0(name).args(args);
        // An interrupt from a terminal is for the holder, who passes it on.
        command.process_group(0);
        command.env(wire::SOCKET, there.as_raw_fd().to_string());
        for name in OF_THE_MANAGER {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let mut worker = Worker {
            child,
            socket: here,
            outbox: VecDeque::new(),
            silent: false,
            since: Instant::now(),
            serves: None,
            heard: Instant::now(),
        };
        worker.send(Kind::Hello, wire::VERSION.to_string(), Vec::new());
        Ok(worker)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket, and what to wait for; nothing once its end is closed, since it is ending then.
    pub(super) fn polled(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let room = match self.outbox.is_empty() {
            true => PollFlags::empty(),
            false => PollFlags::OUT,
        };
        (!self.silent).then_some((self.socket.as_fd(), PollFlags::IN | room))
    }

    /// Sends something once there is room.
    pub(super) fn send(&mut self, kind: Kind, text: String, descriptors: Vec<OwnedFd>) {
        self.outbox.push_back(Outgoing {
            kind,
            text,
            descriptors,
        });
    }

    /// Sends what there is room for. A worker that has ended is noticed elsewhere.
    pub(super) fn pass_on(&mut self) {
        while let Some(next) = self.outbox.front() {
            let descriptors: Vec<_> = next.descriptors.iter().map(|fd| fd.as_fd()).collect();
            match wire::send(&self.socket, next.kind, &next.text, &descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.outbox.clear(),
                Ok(()) => self.outbox.pop_front(),
            };
        }
    }

    /// What it has said, if anything.
    pub(super) fn says(&mut self) -> Option<Packet> {
        match wire::receive(&self.socket) {
            Ok(Some(packet)) => {
                self.heard = Instant::now();
                Some(packet)
            }
            Ok(None) => {
                self.silent = true;
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                eprintln!("statelite: holder: worker {}: {error}", self.pid());
                None
            }
        }
    }

    /// Has it ended, and how?
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        match self.child.try_wait() {
            Ok(ended) => ended,
            Err(error) => {
                eprintln!("statelite: holder: worker {}: {error}", self.pid());
                None
            }
        }
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        if let Err(error) = sent {
            eprintln!("statelite: holder: worker {}: {error}", self.pid());
        }
    }
}

/// How a process ended, for people.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (_, Some(signal)) => format!("it was killed by signal {signal}"),
        _ => "it ended".into(),
    }
}
