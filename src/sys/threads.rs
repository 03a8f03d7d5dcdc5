//! What the threads of this process are doing (`/proc/self/task`), as far as the kernel tells.

use std::collections::HashMap;
use std::io;
use std::path::Path;

/// What a thread was doing when it was looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doing {
    /// It waits in a system call that no file system and no child can make wait: for another thread,
    /// a request, a caller, or the time.
    Waits,
    /// It runs, or wants to.
    Runs,
    /// It may wait for a file system, or a child; or that is not known.
    Unknown,
}

/// A thread.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thread {
    /// What it was doing.
    pub doing: Doing,
    /// Its time in user space so far, in ticks of the clock (a hundredth of a second).
    pub user: u64,
    /// Its time in the kernel.
    pub system: u64,
    /// How often it has waited for something.
    pub waits: u64,
}

/// The id of the thread that asks.
pub fn own() -> u32 {
    let own = rustix::thread::gettid();
    own.as_raw_nonzero().get().cast_unsigned()
}

/// All threads but the one that asks, by their ids. Those named `tells` write for no store: what they
/// wait for in a write is other threads' answers.
///
/// # Errors
/// What listing them answers; one that has ended meanwhile is left out.
pub fn others(tells: &str) -> io::Result<HashMap<u32, Thread>> {
    let own = own();
    let mut threads = HashMap::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let Some(id) = id.filter(|id| *id != own) else {
            continue;
        };
        if let Ok(thread) = look(&entry.path(), tells) {
            threads.insert(id, thread);
        }
    }
    Ok(threads)
}

fn look(task: &Path, tells: &str) -> io::Result<Thread> {
    let read = |name: &str| std::fs::read_to_string(task.join(name));
    let (user, system) = times(&read("stat")?).unwrap_or_default();
    let waits = read("status")?
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok());
    let is_named = || read("comm").is_ok_and(|name| name.trim_end() == tells);
    let syscall = read("syscall").unwrap_or_default();
    let doing = match doing(&syscall) {
        Doing::Unknown if is_write(&syscall) && is_named() => Doing::Waits,
        other => other,
    };
    Ok(Thread {
        doing,
        user,
        system,
        waits: waits.unwrap_or_default(),
    })
}

/// utime and stime of proc_pid_stat(5): the 12th and 13th after the name, which may have blanks.
fn times(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn is_write(syscall: &str) -> bool {
    let number = syscall.split_ascii_whitespace().next().map(str::parse);
    number == Some(Ok(libc::SYS_writev))
}

/// Of proc_pid_syscall(5): `running`, or the call's number and arguments, or -1 for one that waits
/// outside of any (in a page fault, say).
fn doing(syscall: &str) -> Doing {
    let mut words = syscall.split_ascii_whitespace();
    let Some(word) = words.next() else {
        return Doing::Unknown;
    };
    if word == "running" {
        return Doing::Runs;
    }
    let Ok(number) = word.parse::<libc::c_long>() else {
        return Doing::Unknown;
    };
    match number {
        libc::SYS_futex
        | libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_poll
        | libc::SYS_ppoll
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_restart_syscall
        | libc::SYS_rt_sigtimedwait
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg => Doing::Waits,
        libc::SYS_read | libc::SYS_readv => {
            let argument = words.next().and_then(|word| word.strip_prefix("0x"));
            let fd = argument.and_then(|word| i32::from_str_radix(word, 16).ok());
            let file = fd.and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
            match file {
                // A pipe may be a child's, who waits for a store.
                Some(file) if is_no_store(&file) => Doing::Waits,
                _ => Doing::Unknown,
            }
        }
        _ => Doing::Unknown,
    }
}

fn is_no_store(file: &Path) -> bool {
    let name = file.to_string_lossy();
    name == "/dev/fuse" || name.starts_with("anon_inode:") || name.starts_with("socket:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    fn eventually(what: &str, mut is: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is() {
            assert!(std::time::Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_thread_is_seen_waiting_running_and_in_a_pipe() {
        let lock = Arc::new(Mutex::new(()));
        let stop = Arc::new(AtomicBool::new(false));
        let held = lock.lock().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let spawn = |work: Box<dyn FnOnce() + Send>| {
            let id = Arc::new(AtomicU32::new(0));
            let tell = id.clone();
            let thread = std::thread::spawn(move || {
                let own = rustix::thread::gettid().as_raw_nonzero().get();
                tell.store(own.cast_unsigned(), Ordering::Release);
                work();
            });
            (id, thread)
        };
        let waits = lock.clone();
        let (waiter, one) = spawn(Box::new(move || drop(waits.lock().unwrap())));
        let spins = stop.clone();
        let (runner, two) = spawn(Box::new(move || {
            while !spins.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
        }));
        let (piped, three) = spawn(Box::new(move || {
            std::io::Read::read(&mut &reader, &mut [0])
                .map(drop)
                .unwrap();
        }));
        let of = |id: &AtomicU32| {
            others("")
                .unwrap()
                .get(&id.load(Ordering::Acquire))
                .copied()
        };
        let is = |id: &AtomicU32, doing| of(id).is_some_and(|thread| thread.doing == doing);
        eventually("one waits", || is(&waiter, Doing::Waits));
        eventually("one runs", || is(&runner, Doing::Runs));
        eventually("and its time is counted", || {
            of(&runner).is_some_and(|t| t.user > 2)
        });
        let in_pipe = || is(&piped, Doing::Unknown) && of(&piped).is_some_and(|t| t.waits > 0);
        eventually("one reads a pipe", in_pipe);
        stop.store(true, Ordering::Release);
        drop((held, writer));
        for thread in [one, two, three] {
            thread.join().unwrap();
        }
    }

    #[test]
    fn lines_of_procfs_are_understood() {
        let stat = "12 (a) b (c) S 1 1 1 0 -1 4194560 1 2 3 4 55 66 0 0 20 0 1 0 9";
        assert_eq!(times(stat), Some((55, 66)));
        assert_eq!(doing("running\n"), Doing::Runs);
        assert_eq!(doing("-1 0x7f 0x7f\n"), Doing::Unknown);
        assert_eq!(doing(""), Doing::Unknown);
        let futex = format!("{} 0x1 0x2\n", libc::SYS_futex);
        assert_eq!(doing(&futex), Doing::Waits);
        assert_eq!(
            doing(&format!("{} 0x3\n", libc::SYS_openat)),
            Doing::Unknown
        );
        assert_eq!(
            doing(&format!("{} 0xffffff\n", libc::SYS_read)),
            Doing::Unknown
        );
    }
}
