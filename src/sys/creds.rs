//! Acting as the caller of a request while an object is created, so that owner, group
//! (setgid directories), umask and default ACLs come from the backing file system itself,
//! in the same system call that creates the object.
//!
//! All of it is per thread (setfsuid(2), setfsgid(2), capset(2) act on the calling thread only;
//! umask(2) acts on the `fs_struct`, which each request thread unshares once).
//!
//! A capability that one request puts aside may stay aside for the next one that needs it so, since
//! each change of capabilities costs as much as a small request's work: [`begin_request`] says
//! for which, [`keep_bits`] has it back.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::Res;

thread_local! {
    /// The thread has an `fs_struct` of its own, with this umask.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
    /// The thread is without CAP_FSETID. A new one has what the thread has that started it.
    static LOWERED: Cell<bool> = Cell::new(inherits_lowered());
    /// It may stay so when the work that wanted it is done.
    static LINGERS: Cell<bool> = const { Cell::new(false) };
}

/// What every thread of the process may do. Asked for once, before any thread puts anything aside.
static CAPS: OnceLock<CapabilitySets> = OnceLock::new();

/// Who asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
}

/// The thread's credentials go back when this is dropped, so also when the work panics.
struct Restore {
    ids: bool,
}

impl Drop for Restore {
    fn drop(&mut self) {
        if self.ids {
            // setfsuid(0) raises the file system capabilities again (capabilities(7), "Effect of
            // user ID changes on capabilities").
            set_fs_ids(0, 0);
        }
        // A usual umask may stay for the next caller, who most often has the same: it takes
        // nothing from the owner, and all that the daemon makes for itself is the owner's alone.
        if UMASK.get().is_none_or(|umask| umask & 0o700 != 0) {
            set_umask(0);
        }
    }
}

fn set_umask(umask: u32) {
    if UMASK.get() != Some(umask) {
        rustix::process::umask(Mode::from_raw_mode(umask));
        UMASK.set(Some(umask));
    }
}

/// May this thread's umask take something from the mode of what is made?
pub fn umask_takes(mode: Mode) -> bool {
    UMASK
        .get()
        .is_none_or(|umask| mode.as_raw_mode() & umask != 0)
}

fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: both take an integer and change only the calling thread's credentials; they cannot
    // fail for a process with CAP_SETUID and CAP_SETGID, and touch no memory.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
}

/// Run `work` with the caller's user, group and umask, and with the daemon's capabilities:
/// the kernel has already checked what the caller may do, with groups that are not known here.
///
/// # Errors
/// What `work` returns; what unshare(2) or capset(2) return before it.
pub fn as_caller<T>(caller: Caller, umask: u32, work: impl FnOnce() -> Res<T>) -> Res<T> {
    if UMASK.get().is_none() {
        // SAFETY: CLONE_FS only gives this thread its own root, working directory and umask; no
        // descriptor or memory is affected (unshare(2)).
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
        set_umask(0);
    }
    let ids = caller.uid != 0 || caller.gid != 0;
    let restore = Restore { ids };
    set_umask(umask & 0o777);
    if ids {
        let caps = own_capabilities()?;
        set_fs_ids(caller.uid, caller.gid);
        if caller.uid != 0 {
            // Put aside or not, it goes here and comes back with the others.
            LOWERED.set(false);
            if caps.effective.intersects(fs_capabilities()) {
                rustix::thread::set_capabilities(None, caps)?;
            }
        }
    }
    let result = work();
    drop(restore);
    result
}

fn own_capabilities() -> Res<CapabilitySets> {
    if let Some(caps) = CAPS.get() {
        return Ok(*caps);
    }
    let caps = rustix::thread::capabilities(None)?;
    Ok(*CAPS.get_or_init(|| caps))
}

fn inherits_lowered() -> bool {
    let has = |caps: CapabilitySets| caps.effective.contains(CapabilitySet::FSETID);
    CAPS.get().is_some_and(|caps| has(*caps))
        && rustix::thread::capabilities(None).is_ok_and(|now| !has(now))
}

/// What setfsuid(2) to a user other than root drops (`CAP_FS_SET`, include/linux/capability.h).
fn fs_capabilities() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::MKNOD
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::LINUX_IMMUTABLE
}

/// A request begins on this thread. One that `asks` has [`keep_bits`] called before it changes
/// what setuid and setgid bits hang on; any other has all capabilities from the beginning.
pub fn begin_request(asks: bool) {
    LINGERS.set(asks);
    if !asks {
        raise();
    }
}

/// Has CAP_FSETID back where it was put aside: what is written, truncated, given away or given a
/// mode or an ACL from now on keeps its setuid and setgid bits.
///
/// # Errors
/// capset(2)'s.
pub fn keep_bits() -> Res<()> {
    if LOWERED.get() {
        rustix::thread::set_capabilities(None, own_capabilities()?)?;
        LOWERED.set(false);
    }
    Ok(())
}

fn raise() {
    if let Err(error) = keep_bits() {
        // It stays in the permitted set, from where it may always be raised.
        tracing::error!(%error, "a capability that was put aside is not back");
    }
}

/// Puts a capability back when it is dropped, unless it may stay aside.
struct Raise;

impl Drop for Raise {
    fn drop(&mut self) {
        if !LINGERS.get() {
            raise();
        }
    }
}

/// Runs `work` without CAP_FSETID: a file that is opened by it, or with the credentials that it
/// leaves, loses setuid and setgid bits when it is written to.
///
/// # Errors
/// capset(2)'s.
pub fn killing_suid<T>(work: impl FnOnce() -> T) -> Res<T> {
    if !LOWERED.get() {
        let mut without = own_capabilities()?;
        without.effective -= CapabilitySet::FSETID;
        rustix::thread::set_capabilities(None, without)?;
        LOWERED.set(true);
    }
    let raise = Raise;
    let result = work();
    drop(raise);
    Ok(result)
}

/// Makes the process create with the modes it asks for. Request threads do it for themselves;
/// this is for the thread that copies up before the first request.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    const ROOT: Caller = Caller { uid: 0, gid: 0 };
    const USER: Caller = Caller {
        uid: 4711,
        gid: 815,
    };

    fn make(caller: Caller, umask: u32, path: &Path) -> (u32, u32, u32) {
        as_caller(caller, umask, || {
            let mode = Mode::from_raw_mode(0o777);
            rustix::fs::mkdir(path, mode)
        })
        .unwrap();
        let made = path.metadata().unwrap();
        (made.uid(), made.gid(), made.permissions().mode() & 0o7777)
    }

    #[test]
    fn each_caller_has_its_own_ids_and_umask() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(make(ROOT, 0o022, &at("a")), (0, 0, 0o755));
        assert_eq!(make(USER, 0o022, &at("b")), (4711, 815, 0o755));
        assert_eq!(make(ROOT, 0o777, &at("c")), (0, 0, 0));
        // A umask that takes from the owner does not outlive its caller.
        std::fs::create_dir(at("d")).unwrap();
        let own = at("d").metadata().unwrap().permissions().mode();
        assert_eq!(own & 0o7777, 0o777);
        assert_eq!(make(USER, 0, &at("e")), (4711, 815, 0o777));
    }

    #[test]
    fn what_is_put_aside_is_back_for_whoever_needs_it() {
        let has = || {
            let now = rustix::thread::capabilities(None).unwrap();
            now.effective.contains(CapabilitySet::FSETID)
        };
        assert!(has(), "this needs root");
        // Outside of requests at once.
        assert!(!killing_suid(has).unwrap());
        assert!(has());
        let lower = || {
            begin_request(true);
            assert!(!killing_suid(has).unwrap());
            assert!(!has());
        };
        lower();
        begin_request(true);
        assert!(!killing_suid(has).unwrap());
        keep_bits().unwrap();
        assert!(has());
        lower();
        begin_request(false);
        assert!(has());
        // A caller's own ids raise it with the others.
        lower();
        assert!(as_caller(USER, 0o022, || Ok(has())).unwrap() && has());
        assert!(!killing_suid(has).unwrap());
        lower();
        let started = std::thread::spawn(move || {
            assert!(!has());
            begin_request(false);
            has()
        });
        assert!(started.join().unwrap());
        begin_request(false);
    }

    #[test]
    fn a_panic_in_between_restores_the_thread() {
        let dir = tempfile::tempdir().unwrap();
        let panicked = std::panic::catch_unwind(|| {
            as_caller(USER, 0o777, || -> Res<()> { panic!("as a test wants it") })
        });
        assert!(panicked.is_err());
        let path = dir.path().join("after");
        std::fs::create_dir(&path).unwrap();
        let made = path.metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), (0, 0));
        assert_eq!(made.permissions().mode() & 0o700, 0o700);
        let fs = rustix::thread::capabilities(None).unwrap().effective;
        assert!(fs.contains(CapabilitySet::DAC_OVERRIDE));
    }
}
