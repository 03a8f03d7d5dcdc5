//! The process that outlives the one that works: it holds the descriptors that mounts live by, and
//! starts a worker anew, which is given them and goes on.
//!
//! Owns: what is held, the worker's process, the way to the service manager. May not: know what a
//! descriptor is of or what a worker does; read a configuration; do anything that waits for a file
//! system. It is one thread that waits in poll(2). What both sides say is in [`wire`], the worker's
//! side is [`link`].
//!
//! A worker that ends is replaced at once, then after growing pauses; [`Holder::ended`] says when
//! that is given up. A program that is to replace the running one is started beside it, looks at what is held and
//! says whether it can go on with that; then the old worker is killed, as it may be at any time.

mod index;
pub mod link;
mod manager;
pub mod wire;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;

use crate::sys::privileges;
use manager::Manager;
use wire::{Kind, Packet, Told};
use worker::{End, Worker, how};

/// A worker that was not heard of for so long is stuck: it says so every few seconds, by a thread
/// that waits for nothing else.
const SILENCE: Duration = Duration::from_secs(60);
/// A program that is to take over says within this time whether it can.
const CHECK: Duration = Duration::from_secs(30);
/// A worker that has served for so long starts with a clean record: what ends it is not what it began with.
const CLEAN: Duration = Duration::from_millis(250);
/// The program from before is gone back to until the new one has served for so long.
const PROBATION: Duration = Duration::from_secs(10);
/// So many deaths in a row are answered at once.
const AT_ONCE: u32 = 3;
/// The pause before the next one; doubled up to [`LONGEST`].
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(10);
/// So many deaths in a row are the end where nothing precious is held.
const TRIES: u32 = 5;
/// So many deaths in a row are the end of a stop.
const STOP_TRIES: u32 = 3;
/// How long the service manager has to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The signals that it listens to.
const SIGNALS: [i32; 6] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCHLD,
];

/// A program that may become the running one.
#[derive(Debug)]
struct Newcomer {
    worker: Worker,
    program: OwnedFd,
    /// It has said that it can go on; the old one was killed.
    fit: bool,
}

#[derive(Debug)]
struct Holder {
    args: Vec<OsString>,
    program: OwnedFd,
    /// What ran before, until the running one has shown that it can.
    before: Option<OwnedFd>,
    held: BTreeMap<String, OwnedFd>,
    manager: Manager,
    worker: Option<Worker>,
    newcomer: Option<Newcomer>,
    /// Killed newcomers, and what is left of workers that have been replaced.
    dying: Vec<Worker>,
    /// When to start the next worker, where there is none.
    start: Option<Instant>,
    told: Told,
    /// The program that was to take over failed after the old worker was killed for it, and why.
    back: Option<String>,
    /// Deaths in a row.
    deaths: u32,
    /// Asked to let the service manager keep all, and end.
    leaving: bool,
    pinged: Instant,
}

/// Starts workers of the program that this process runs, with its arguments, until one ends well or
/// asks for it; the exit code.
///
/// # Errors
/// What is needed before the first worker: signals, the program's own file.
pub fn run() -> io::Result<ExitCode> {
    let mut manager = Manager::of_environment();
    let kept = manager.kept();
    let mut signals = Signals::listen()?;
    let program = open(c"/proc/self/exe")?;
    if let Err(error) = privileges::raise_descriptors() {
        say(&format!("the limit of open files stays as it was: {error}"));
    }
    privileges::hold()?;
    let now = Instant::now();
    let mut holder = Holder {
        args: std::env::args_os().collect(),
        program,
        before: None,
        held: BTreeMap::new(),
        manager,
        worker: None,
        newcomer: None,
        dying: Vec::new(),
        start: Some(now),
        told: Told {
            since: now_in_seconds(),
            ..Told::default()
        },
        back: None,
        deaths: 0,
        leaving: false,
        pinged: now,
    };
    for (key, descriptor) in kept {
        holder.held.insert(key, descriptor);
    }
    loop {
        holder.wait(&signals)?;
        for signal in signals.caught() {
            holder.caught(signal);
        }
        if let Some(code) = holder.go_on() {
            holder.manager.flush(LAST_WORDS);
            return Ok(code);
        }
    }
}

fn open(path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn now_in_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

fn say(text: &str) {
    eprintln!("statelite: holder: {text}");
}

impl Holder {
    /// Until there is something to do.
    fn wait(&mut self, signals: &Signals) -> io::Result<()> {
        let timeout = self.deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or_default()
        });
        let newcomer = self.newcomer.as_ref().map(|newcomer| &newcomer.worker);
        let workers = self.worker.iter().chain(newcomer);
        let mut fds = vec![PollFd::new(&signals.wakes, PollFlags::IN)];
        let polled: Vec<_> = workers.filter_map(Worker::polled).collect();
        fds.extend(polled.iter().map(|(fd, flags)| PollFd::new(fd, *flags)));
        let manager = self.manager.waits();
        fds.extend(manager.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When something is to be done by itself.
    fn deadline(&self) -> Option<Instant> {
        let ping = self.manager.watchdog.map(|every| self.pinged + every);
        let start = self.start.filter(|_| self.worker.is_none());
        let silent = self.worker.as_ref().map(|worker| worker.heard + SILENCE);
        let look = self.worker.as_ref().map(|worker| worker.look);
        let checked = self.newcomer.as_ref().filter(|newcomer| !newcomer.fit);
        let checked = checked.map(|newcomer| newcomer.worker.since + CHECK);
        let proves = self.worker.as_ref().filter(|_| self.before.is_some());
        let proves = proves.map(|worker| match worker.serves {
            Some(at) => at + PROBATION,
            None => worker.since + CHECK,
        });
        [ping, start, silent, look, checked, proves]
            .into_iter()
            .flatten()
            .min()
    }

    fn caught(&mut self, signal: i32) {
        match signal {
            // Where nobody would keep what is held, this is a stop like any other.
            libc::SIGUSR1 if self.manager.keeps => {
                self.leaving = true;
                self.drop_newcomer("the holder ends");
                if let Some(worker) = &self.worker {
                    worker.signal(Signal::KILL);
                }
            }
            libc::SIGTERM | libc::SIGINT | libc::SIGUSR1 => {
                self.told.stopping = true;
                self.drop_newcomer("the daemon is stopping");
                match &self.worker {
                    Some(worker) => worker.signal(Signal::TERM),
                    None => self.start = Some(Instant::now()),
                }
            }
            libc::SIGHUP => {
                if let Some(worker) = &self.worker {
                    worker.signal(Signal::HUP);
                }
            }
            libc::SIGUSR2 => match changed_program() {
                Ok(program) => self.replace(program),
                Err(error) => say(&format!("the program's file: {error}")),
            },
            _ => {}
        }
    }

    /// Does what is to be done; the exit code at the end.
    fn go_on(&mut self) -> Option<ExitCode> {
        let now = Instant::now();
        self.listen();
        if let Some(every) = self.manager.watchdog
            && now >= self.pinged + every
        {
            self.pinged = now;
            self.manager.tell("WATCHDOG=1");
        }
        self.dying.retain_mut(|worker| worker.reaped().is_none());
        self.look_at_newcomer(now);
        if let Some(worker) = &mut self.worker {
            if now >= worker.heard + SILENCE {
                say(&format!("worker {} is stuck: killed", worker.pid()));
                worker.signal(Signal::KILL);
                // Its end may take its time, where a store hangs.
                worker.heard = now;
            }
            if self.before.is_some() {
                match worker.serves {
                    Some(at) if now >= at + PROBATION => self.before = None,
                    None if now >= worker.since + CHECK => {
                        worker.signal(Signal::KILL);
                        worker.since = now;
                    }
                    _ => {}
                }
            }
            if let Some(end) = worker.ended(now) {
                return self.ended(end, now);
            }
        } else if self.leaving {
            return Some(ExitCode::SUCCESS);
        } else if self.start.is_some_and(|at| now >= at) {
            return self.start_worker(now);
        }
        self.pass_on();
        None
    }

    fn pass_on(&mut self) {
        let newcomer = self.newcomer.as_mut().map(|newcomer| &mut newcomer.worker);
        for worker in self.worker.iter_mut().chain(newcomer) {
            worker.pass_on();
        }
        self.manager.pass_on();
    }

    /// Does what workers ask for.
    fn listen(&mut self) {
        while let Some(packet) = self.worker.as_mut().and_then(Worker::says) {
            self.obey(packet);
        }
        while let Some(packet) = self.newcomer.as_mut().and_then(|new| new.worker.says()) {
            match packet.kind {
                Some(Kind::Fit) => {
                    let Some(newcomer) = &mut self.newcomer else {
                        return;
                    };
                    newcomer.fit = true;
                    match &self.worker {
                        Some(worker) => worker.signal(Signal::KILL),
                        None => self.promote(),
                    }
                }
                Some(Kind::Unfit) => self.drop_newcomer(&packet.text),
                _ => {}
            }
        }
    }

    fn obey(&mut self, packet: Packet) {
        match packet.kind {
            Some(Kind::Hold) => {
                for (key, descriptor) in packet.text.lines().zip(packet.descriptors) {
                    self.hold(key, descriptor);
                }
            }
            Some(Kind::LetGo) => packet.text.lines().for_each(|key| self.let_go(key)),
            Some(Kind::Tell) => self.manager.tell(packet.text),
            Some(Kind::Serves) => {
                if let Some(worker) = &mut self.worker {
                    worker.serves.get_or_insert_with(Instant::now);
                }
            }
            Some(Kind::Replace) => {
                if let Some(program) = packet.descriptors.into_iter().next() {
                    self.replace(program);
                }
            }
            _ => {}
        }
    }

    fn hold(&mut self, key: &str, descriptor: OwnedFd) {
        if !wire::is_passing(key) {
            if self.held.contains_key(key) {
                self.manager.let_go(key);
            }
            self.manager.keep(key, descriptor.as_fd());
        }
        self.held.insert(key.into(), descriptor);
    }

    fn let_go(&mut self, key: &str) {
        let keys: Vec<String> = match key.ends_with('/') {
            true => {
                let from = self.held.range(key.to_owned()..).map(|(held, _)| held);
                from.take_while(|held| held.starts_with(key))
                    .cloned()
                    .collect()
            }
            false => vec![key.into()],
        };
        for key in keys {
            if self.held.remove(&key).is_some() && !wire::is_passing(&key) {
                self.manager.let_go(&key);
            }
        }
    }

    fn holds_precious(&self) -> bool {
        self.held.keys().any(|key| key.starts_with(wire::PRECIOUS))
    }

    fn start_worker(&mut self, now: Instant) -> Option<ExitCode> {
        if self.told.stopping && !self.holds_precious() {
            return Some(ExitCode::SUCCESS);
        }
        match Worker::start(&self.program, &self.args) {
            Ok(worker) => {
                self.start = None;
                let mut worker = worker;
                give(&self.held, &mut worker, Kind::Go, self.told.write());
                worker.pass_on();
                self.worker = Some(worker);
                None
            }
            Err(error) => self.failed(&format!("no worker can be started: {error}"), 1, now),
        }
    }

    /// The worker has ended: what it had sent counts.
    fn ended(&mut self, end: End, now: Instant) -> Option<ExitCode> {
        self.listen();
        let mut worker = self.worker.take()?;
        let (code, serves, pid) = (end.code(), worker.serves, worker.pid());
        if worker.reaped().is_none() {
            say(&format!(
                "worker {pid}: threads of it wait in the kernel for what the next one answers"
            ));
            self.dying.push(worker);
        }
        if self.leaving {
            return Some(ExitCode::SUCCESS);
        }
        // All that it was to do is done, however the rest of it ends.
        let stopped_so =
            matches!(end, End::Unknown) && self.told.stopping && !self.holds_precious();
        if stopped_so && self.newcomer.is_none() {
            return Some(ExitCode::SUCCESS);
        }
        let stopped = code == Some(0) && (self.told.stopping || serves.is_some());
        let could_not_begin = code.is_some() && serves.is_none() && !self.holds_precious();
        if self.newcomer.is_none() && (stopped || could_not_begin && self.before.is_none()) {
            return Some(ExitCode::from(code.unwrap_or(1).clamp(0, 255) as u8));
        }
        self.told.replaced += 1;
        self.told.last = now_in_seconds();
        self.told.why = end.how();
        self.told.crashed = end.has_crashed();
        self.told.back = self.back.take();
        if self.newcomer.as_ref().is_some_and(|newcomer| newcomer.fit) {
            self.told.why = "another program has taken over".into();
            self.promote();
            return None;
        }
        if serves.is_some_and(|since| now >= since + CLEAN) {
            self.deaths = 0;
        }
        let why = format!("worker {pid}: {}", end.how());
        if let Some(before) = self.before.take() {
            self.program = before;
            self.told.back = Some(end.how());
            say("the program from before takes over again");
        }
        let code = code.filter(|code| *code != 0).unwrap_or(1);
        self.failed(&why, code.clamp(1, 255) as u8, now)
    }

    /// There is no worker: when is the next one?
    fn failed(&mut self, why: &str, code: u8, now: Instant) -> Option<ExitCode> {
        self.deaths += 1;
        let held = self.holds_precious();
        let given_up = !held && self.deaths >= TRIES
            || self.told.stopping && (!held || self.deaths >= STOP_TRIES);
        if given_up {
            say(&format!("{why}; that was the last try"));
            return Some(ExitCode::from(code));
        }
        let pause = match self.deaths.checked_sub(AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(more) => PAUSE.saturating_mul(1 << (more - 1).min(16)).min(LONGEST),
        };
        say(&format!("{why}; the next one starts in {pause:?}"));
        let n = self.deaths;
        self.manager
            .tell(format!("STATUS=a worker is started again, time {n}: {why}"));
        self.start = Some(now + pause);
        None
    }

    /// Starts a program that is to take over.
    fn replace(&mut self, program: OwnedFd) {
        let refused = match (&self.newcomer, &self.worker) {
            (Some(_), _) => Some("another program is about to take over"),
            (_, None) => Some("there is no worker now"),
            _ if self.told.stopping => Some("the daemon is stopping"),
            _ => None,
        };
        if let Some(why) = refused {
            return self.not_taken(why);
        }
        match Worker::start(&program, &self.args) {
            Ok(mut worker) => {
                give(&self.held, &mut worker, Kind::Check, String::new());
                worker.pass_on();
                self.newcomer = Some(Newcomer {
                    worker,
                    program,
                    fit: false,
                });
            }
            Err(error) => self.not_taken(&format!("it can't be started: {error}")),
        }
    }

    fn look_at_newcomer(&mut self, now: Instant) {
        let Some(newcomer) = &mut self.newcomer else {
            return;
        };
        if let Some(status) = newcomer.worker.reaped() {
            let why = how(status);
            self.drop_newcomer(&why);
        } else if !newcomer.fit && now >= newcomer.worker.since + CHECK {
            self.drop_newcomer("it did not say in time whether it can");
        }
    }

    /// It does not take over. (Where the old one was killed for it, that is replaced as always.)
    fn drop_newcomer(&mut self, why: &str) {
        let Some(mut newcomer) = self.newcomer.take() else {
            return;
        };
        self.back = newcomer.fit.then(|| why.to_owned());
        if newcomer.worker.reaped().is_none() {
            newcomer.worker.signal(Signal::KILL);
            self.dying.push(newcomer.worker);
        }
        self.not_taken(why);
    }

    fn not_taken(&mut self, why: &str) {
        say(&format!("a program that was to take over does not: {why}"));
        if let Some(worker) = &mut self.worker {
            worker.send(Kind::NotTaken, why.into(), Vec::new());
        }
    }

    /// The old worker is gone, and the newcomer goes on.
    fn promote(&mut self) {
        let Some(newcomer) = self.newcomer.take() else {
            return;
        };
        let Newcomer {
            mut worker,
            program,
            ..
        } = newcomer;
        worker.send(Kind::Anew, String::new(), Vec::new());
        give(&self.held, &mut worker, Kind::Go, self.told.write());
        worker.pass_on();
        worker.heard = Instant::now();
        worker.since = worker.heard;
        self.worker = Some(worker);
        self.before = Some(std::mem::replace(&mut self.program, program));
    }
}

/// All that is held, then a word.
fn give(held: &BTreeMap<String, OwnedFd>, worker: &mut Worker, kind: Kind, text: String) {
    let held: Vec<_> = held.iter().collect();
    for some in held.chunks(wire::MOST) {
        let (mut keys, mut copies) = (Vec::new(), Vec::new());
        for (key, descriptor) in some {
            match descriptor.try_clone() {
                Ok(copy) => {
                    keys.push(key.as_str());
                    copies.push(copy);
                }
                Err(error) => say(&format!("{key}: {error}")),
            }
        }
        worker.send(Kind::Held, keys.join("\n"), copies);
    }
    worker.send(kind, text, Vec::new());
}

/// What lies now where the program of this process was started from.
fn changed_program() -> io::Result<OwnedFd> {
    let path = std::fs::read_link("/proc/self/exe")?;
    open(&*link::without_deleted(path))
}

/// Signals, told by a byte in a socket and a flag each.
struct Signals {
    wakes: UnixStream,
    flags: [(i32, Arc<AtomicBool>); SIGNALS.len()],
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let (wakes, wake) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let flags = SIGNALS.map(|signal| (signal, Arc::<AtomicBool>::default()));
        for (signal, flag) in &flags {
            // The flag first: whoever is woken finds it.
            signal_hook::flag::register(*signal, flag.clone())?;
            signal_hook::low_level::pipe::register(*signal, wake.try_clone()?)?;
        }
        Ok(Signals { wakes, flags })
    }

    fn caught(&mut self) -> Vec<i32> {
        let mut bytes = [0; 64];
        while matches!(self.wakes.read(&mut bytes), Ok(1..)) {}
        let set = |flag: &AtomicBool| flag.swap(false, Ordering::AcqRel);
        let caught = self.flags.iter().filter(|(_, flag)| set(flag));
        caught.map(|(signal, _)| *signal).collect()
    }
}
