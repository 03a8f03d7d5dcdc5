//! One worker: its process, and what is on its way to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

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

/// Between two looks whether its first thread has ended. The kernel tells of that only once all have (pidfd_open(2) too, from
/// Linux 6.15 on, whatever its flags).
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks at what is left then. Its threads end one after the other, and how it has ended is known once all have: so
/// that one look is not enough.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// After so many in a row it is over.
const LOOKS: u32 = 3;

/// A worker.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// When to look at its threads.
    pub(super) look: Instant,
    /// So many looks in a row found nothing to wait for.
    looks: u32,
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
        let (_, args) = args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        // Not the holder's: who sends a signal by name, as by pidof(8), means that.
        command.arg0("statelite-work").args(args);
        // An interrupt from a terminal is for the holder, who passes it on.
        command.process_group(0);
        command.env(wire::SOCKET, there.as_raw_fd().to_string());
        for name in OF_THE_MANAGER {
            command.env_remove(name);
        }
        let child = command.spawn()?;
        let mut worker = Worker {
            child,
            look: Instant::now() + LOOK,
            looks: 0,
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

    /// Has it ended, and how? What is left of it then is no more than threads named
    /// [`wire::TELLS`] in their last system call.
    pub(super) fn ended(&mut self, now: Instant) -> Option<End> {
        let reaped = self.reaped();
        if reaped.is_some() || now < self.look {
            return reaped.map(End::Known);
        }
        let ended = is_zombie(self.pid());
        self.look = now + if ended { LOOK_AGAIN } else { LOOK };
        self.looks = match ended && only_tells(self.pid()) {
            true => self.looks + 1,
            false => 0,
        };
        (self.looks >= LOOKS).then_some(End::Unknown)
    }

    /// Is nothing of it left, and how has it ended?
    pub(super) fn reaped(&mut self) -> Option<ExitStatus> {
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

/// A thread's name and state (proc_pid_stat(5)).
fn thread(stat: &str) -> Option<(&str, char)> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    Some((name, rest.trim_start().chars().next()?))
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    matches!(thread(&stat), Some((_, 'Z')))
}

/// Are there threads beside the first, which has ended, and are they all of those named
/// [`wire::TELLS`], and wait so that no signal ends it?
fn only_tells(pid: u32) -> bool {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let Ok(entries) = std::fs::read_dir(&tasks) else {
        return false;
    };
    let others = entries.flatten().map(|entry| entry.file_name());
    let mut others = others.filter(|id| **id != *pid.to_string()).peekable();
    others.peek().is_some()
        && others.all(|id| {
            let stat = std::fs::read_to_string(tasks.join(id).join("stat")).unwrap_or_default();
            thread(&stat) == Some((wire::TELLS, 'D'))
        })
}

/// How a worker ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Known(ExitStatus),
    /// Not all of its threads have ended, and none will do anything any more.
    Unknown,
}

impl End {
    pub(super) fn code(self) -> Option<i32> {
        match self {
            End::Known(status) => status.code(),
            End::Unknown => None,
        }
    }

    /// May it have been at fault itself? Not where it ended, or by a signal that somebody sends.
    /// (SIGABRT is also what a worker ends itself with that will never answer.)
    pub(super) fn has_crashed(self) -> bool {
        let faults = [
            Signal::ABORT,
            Signal::BUS,
            Signal::FPE,
            Signal::ILL,
            Signal::SEGV,
            Signal::SYS,
            Signal::TRAP,
        ];
        match self {
            End::Known(status) => status
                .signal()
                .is_some_and(|by| faults.iter().any(|fault| fault.as_raw() == by)),
            End::Unknown => true,
        }
    }

    /// For people.
    pub(super) fn how(self) -> String {
        match self {
            End::Known(status) => how(status),
            End::Unknown => "it was killed, or crashed".into(),
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
