//! The service manager (sd_notify(3)): what it is told, and what it holds for the holder.
//!
//! Nothing here waits for it: what it does not take at once is queued.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::index::{self, Index};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

/// The way to the service manager; nothing without one.
#[derive(Debug)]
pub(super) struct Manager {
    socket: Option<OwnedFd>,
    queue: VecDeque<(String, Option<OwnedFd>)>,
    index: Index,
    /// There was no room for something: said once.
    is_full: bool,
    /// It keeps descriptors over a restart.
    pub(super) keeps: bool,
    /// How often it wants to hear that this process lives.
    pub(super) watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Manager {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let own = u64::from(std::process::id());
        let ours = |name: &str| number(name).is_none_or(|pid| pid == own);
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let socket = connect(&name);
            let failed = |error| eprintln!("statelite: holder: {name:?}: {error}");
            socket.map_err(failed).ok()
        });
        let keeps = socket.is_some() && number("FDSTORE").is_some_and(|most| most > 0);
        let watchdog = number("WATCHDOG_USEC").filter(|_| ours("WATCHDOG_PID"));
        Manager {
            socket,
            queue: VecDeque::new(),
            index: Index::default(),
            is_full: false,
            keeps,
            watchdog: watchdog.map(|every| Duration::from_micros(every) / 2),
        }
    }

    /// Says something to it.
    pub(super) fn tell(&mut self, text: impl Into<String>) {
        self.add(text.into(), None);
    }

    /// What it has kept of a holder before this one, by key.
    pub(super) fn kept(&mut self) -> Vec<(String, OwnedFd)> {
        let (kept, index) = index::of_environment();
        self.index = index;
        kept
    }

    /// Has it keep a descriptor.
    pub(super) fn keep(&mut self, key: &str, descriptor: BorrowedFd<'_>) {
        if !self.keeps {
            return;
        }
        if let Err(error) = self.try_keep(key, descriptor) {
            eprintln!("statelite: holder: {key}: {error}");
        }
    }

    fn try_keep(&mut self, key: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let copy = descriptor.try_clone_to_owned()?;
        let name = self.index.add(key)?;
        // The first time, and when it was written anew: before what it names.
        if let Some((new, index, old)) = self.index.unkept()? {
            self.store(&new, index);
            self.tell(format!("FDSTOREREMOVE=1\nFDNAME={old}"));
        }
        match name {
            Some(name) => self.store(&name, copy),
            None if self.is_full => {}
            None => {
                self.is_full = true;
                eprintln!(
                    "statelite: holder: the service manager has no room for {key} and what comes after it: none of that outlives this process"
                );
            }
        }
        Ok(())
    }

    /// It is not to look whether it is alive: what can't be polled it would refuse.
    fn store(&mut self, name: &str, descriptor: OwnedFd) {
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}");
        self.add(text, Some(descriptor));
    }

    /// Has it let go of a key.
    pub(super) fn let_go(&mut self, key: &str) {
        if !self.keeps {
            return;
        }
        match self.index.remove(key) {
            Ok(Some(name)) => self.tell(format!("FDSTOREREMOVE=1\nFDNAME={name}")),
            Ok(None) => {}
            Err(error) => eprintln!("statelite: holder: {key}: {error}"),
        }
    }

    fn add(&mut self, text: String, descriptor: Option<OwnedFd>) {
        if self.socket.is_some() {
            self.queue.push_back((text, descriptor));
            self.pass_on();
        }
    }

    /// To be polled for room, where something waits.
    pub(super) fn waits(&self) -> Option<BorrowedFd<'_>> {
        let socket = self.socket.as_ref()?;
        (!self.queue.is_empty()).then_some(socket.as_fd())
    }

    /// Sends what it takes now.
    pub(super) fn pass_on(&mut self) {
        let Some(socket) = &self.socket else { return };
        while let Some((text, descriptor)) = self.queue.front() {
            match send(socket, text, descriptor.as_ref()) {
                Err(Errno::AGAIN | Errno::NOBUFS) => return,
                Ok(()) => {}
                Err(error) => {
                    eprintln!("statelite: holder: the service manager was not told: {error}");
                }
            }
            self.queue.pop_front();
        }
    }

    /// Waits until it has taken all, for so long at most.
    pub(super) fn flush(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        while let Some(socket) = self.waits() {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut room = [PollFd::new(&socket, PollFlags::OUT)];
            if !matches!(poll(&mut room, Some(&left)), Ok(1..) | Err(Errno::INTR)) {
                return;
            }
            self.pass_on();
        }
    }
}

fn connect(name: &OsStr) -> Result<OwnedFd, Errno> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

fn send(socket: &OwnedFd, text: &str, descriptor: Option<&OwnedFd>) -> Result<(), Errno> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::INVAL);
    }
    let parts = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// What there is no room for is left out, and nothing else with it.
    #[test]
    fn an_index_that_was_written_anew_is_kept_also_when_there_is_no_room() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut manager = Manager {
            socket: Some(ours.into()),
            queue: VecDeque::new(),
            index: Index::default(),
            is_full: false,
            keeps: true,
            watchdog: None,
        };
        // Nobody reads: from here on all is queued.
        while manager.queue.is_empty() {
            manager.tell("STATUS=x");
        }
        let key = |n: u32| format!("session/cn{n}/1@2/device");
        for n in 0..20_000 {
            manager.index.add(&key(n)).unwrap().unwrap();
        }
        assert!(manager.index.unkept().unwrap().is_some());
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        let object = "session/cn1/1@2/object/7";
        let is_kept = |manager: &Manager| {
            let mut told = manager.queue.iter();
            told.any(|(text, _)| text.starts_with("FDSTORE=1") && text.contains("FDNAME=index-2"))
        };
        for _ in 0..200_000 {
            manager.index.remove(&key(7)).unwrap().unwrap();
            manager.index.add(&key(7)).unwrap().unwrap();
            manager.keep(object, file.as_fd());
            if is_kept(&manager) {
                break;
            }
        }
        assert!(is_kept(&manager));
        assert!(manager.is_full);
        let objects = manager.queue.iter().filter(|(_, fd)| fd.is_some()).count();
        assert_eq!(objects, 1, "the index alone");
    }
}
