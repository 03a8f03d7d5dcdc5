//! The thread that reads events and calls the sink: one event after the other, with no lock held
//! while the sink has it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::tree::{Told, Tree};
use super::{Change, Sink, Stats};
use crate::sys::fanotify::Group;
use crate::sys::{Errno, mountinfo};

/// The mount table is read at most so often: where thousands of views are mounted one after the
/// other, each of them is a change of it.
const MOUNTS_EVERY: Duration = Duration::from_millis(100);

/// Several thousand events at once.
const BUFFER: usize = 256 << 10;

/// What the thread and its watcher share.
pub(super) struct Shared {
    pub(super) tree: Mutex<Tree>,
    group: Arc<Group>,
    sink: Arc<dyn Sink>,
    /// Wakes the thread.
    wake: OwnedFd,
    stop: AtomicBool,
    settling: Mutex<Settling>,
    settled: Condvar,
    events: AtomicU64,
    delivered: AtomicU64,
    overflows: AtomicU64,
}

#[derive(Default)]
struct Settling {
    wanted: u64,
    done: u64,
    ended: bool,
}

/// Starts the thread.
pub(super) fn start(sink: Arc<dyn Sink>) -> io::Result<(Arc<Shared>, JoinHandle<()>)> {
    let group = Arc::new(Group::new()?);
    let shared = Arc::new(Shared {
        tree: Mutex::new(Tree::new(group.clone())),
        group,
        sink,
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        stop: AtomicBool::new(false),
        settling: Mutex::default(),
        settled: Condvar::new(),
        events: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
        overflows: AtomicU64::new(0),
    });
    let mounts = File::open(mountinfo::TABLE)?;
    let own = shared.clone();
    let name = std::thread::Builder::new().name("watch".into());
    let thread = name.spawn(move || {
        let end = End(&own);
        if let Err(error) = own.run(&mounts) {
            tracing::error!("changes of watched directories can't be read any more: {error}");
        }
        drop(end);
    })?;
    Ok((shared, thread))
}

/// However the thread ends, nobody waits for it, and nobody believes that he will be told.
struct End<'s>(&'s Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut told = Vec::new();
        self.0.tree.lock().end(&mut told);
        {
            let mut settling = self.0.settling.lock();
            settling.ended = true;
            self.0.settled.notify_all();
        }
        // A sink that panicked is not called again, and one that is dropped needs no word.
        if !std::thread::panicking() && !self.0.stop.load(Relaxed) {
            self.0.tell(&mut told);
        }
    }
}

impl Shared {
    pub(super) fn stats(&self) -> Stats {
        let (roots, marks, lookups) = self.tree.lock().count();
        Stats {
            events: self.events.load(Relaxed),
            delivered: self.delivered.load(Relaxed),
            lookups,
            overflows: self.overflows.load(Relaxed),
            roots,
            marks,
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // EAGAIN: the counter is full, so the thread is being woken anyway.
        while let Err(Errno::INTR) = rustix::io::write(&self.wake, &1_u64.to_ne_bytes()) {}
    }

    pub(super) fn settle(&self) {
        let mut settling = self.settling.lock();
        settling.wanted += 1;
        let wanted = settling.wanted;
        self.wake();
        while settling.done < wanted && !settling.ended {
            self.settled.wait(&mut settling);
        }
    }

    fn run(&self, mounts: &File) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        // When the mount table was read last, and when a change that was told is to be looked at.
        let mut looked: Option<Instant> = None;
        let mut due: Option<Instant> = None;
        loop {
            self.tree.lock().rest();
            let mut fds = [
                PollFd::from_borrowed_fd(self.group.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                // After the wake: so a mount from before a settle() is seen with it.
                PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI),
            ];
            let wait = due.map(|due| due.saturating_duration_since(Instant::now()));
            let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
            match poll(&mut fds, wait.as_ref()) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let [events, woken, mounts] = fds.map(|fd| fd.revents());
            if self.stop.load(Relaxed) {
                return Ok(());
            }
            let settling = (!woken.is_empty()).then(|| self.woken()).transpose()?;
            let now = Instant::now();
            if !mounts.is_empty() && due.is_none() {
                due = Some(looked.map_or(now, |at| at + MOUNTS_EVERY));
            }
            if due.is_some_and(|due| due <= now || settling.is_some()) {
                (looked, due) = (Some(now), None);
                let mut told = Vec::new();
                self.tree.lock().mounts_changed(&mut told)?;
                self.tell(&mut told);
            }
            if !events.is_empty() || settling.is_some() {
                let mut left = match settling {
                    // What is in the queue now happened before; more may come without end.
                    Some(_) => self.group.waiting()?,
                    None => 1,
                };
                while left > 0 {
                    match self.read(&mut buffer)? {
                        0 => break,
                        read => left = left.saturating_sub(read),
                    }
                }
            }
            if let Some(wanted) = settling {
                self.tree.lock().rest();
                let mut settling = self.settling.lock();
                settling.done = wanted;
                self.settled.notify_all();
            }
        }
    }

    /// Takes the wake, and says up to which settle() it counts.
    fn woken(&self) -> io::Result<u64> {
        match rustix::io::read(&self.wake, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(self.settling.lock().wanted),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads once, and tells what was read. How many events that was.
    fn read(&self, buffer: &mut [u8]) -> io::Result<u64> {
        let events = match self.group.read(buffer) {
            Err(Errno::AGAIN) => return Ok(0),
            events => events?,
        };
        let mut count = 0;
        let mut told = Vec::new();
        for event in events {
            count += 1;
            match event {
                Some(event) => {
                    if event.is_overflow() {
                        self.overflows.fetch_add(1, Relaxed);
                    }
                    self.tree.lock().event(&event, &mut told);
                }
                // As good as dropped by the kernel.
                None => {
                    tracing::error!("an event of fanotify can't be understood");
                    self.tree.lock().overflow(&mut told);
                }
            }
            self.tell(&mut told);
        }
        self.events.fetch_add(count, Relaxed);
        Ok(count)
    }

    fn tell(&self, told: &mut Vec<Told<'_>>) {
        for one in told.drain(..) {
            match one {
                Told::Name {
                    root,
                    dir,
                    name,
                    what,
                    is_dir,
                    pid,
                    object,
                } => {
                    self.delivered.fetch_add(1, Relaxed);
                    let change = Change {
                        dir: &dir,
                        name: &name,
                        what,
                        is_dir,
                        pid,
                        object,
                    };
                    self.sink.changed(root, &change);
                }
                Told::Object {
                    roots,
                    object,
                    what,
                } => self.sink.object_changed(&roots, object, what),
                Told::Lost { roots, why } => self.sink.lost(&roots, &why),
            }
        }
    }
}
