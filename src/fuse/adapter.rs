//! How a request is run and answered: guarded against panics, long work beside the others, errors
//! logged in one place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::{
    FopenFlags, Generation, INodeNo, InitFlags, ReplyEmpty, ReplyEntry, ReplyXattr, Request,
};

use super::reply;
use crate::fs::{Caller, Entry, OpenHow, Root, View};
use crate::pool::Pool;
use crate::sys::{Errno, Res};

/// Serves one view.
#[derive(Debug)]
pub struct Adapter {
    root: Arc<Root>,
    /// The kernel opens directories without asking.
    pub(super) no_opendir: bool,
    pool: Arc<Pool>,
    panics: Arc<AtomicU64>,
}

/// What the view cannot do without. Each is asked for alone: asking for several where one is
/// missing gets none (fuser's `add_capabilities`).
pub(super) const REQUIRED: [InitFlags; 2] =
    [InitFlags::FUSE_DONT_MASK, InitFlags::FUSE_ATOMIC_O_TRUNC];

/// What makes it better.
pub(super) const WANTED: [InitFlags; 6] = [
    // File handles are answered by number (LOOKUP of "." and "..").
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_POSIX_ACL,
    // The kernel then asks for no attribute before every write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
];

/// What saves requests where the kernel is told of every change in what it keeps: it opens
/// directories and keeps their listings without asking, and the targets of symlinks.
pub(super) const WATCHED: [InitFlags; 2] = [
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_CACHE_SYMLINKS,
];

impl Adapter {
    /// An adapter whose long work (copying up large files) runs on `pool`.
    pub fn new(root: Arc<Root>, pool: Arc<Pool>) -> Adapter {
        Adapter {
            root,
            no_opendir: false,
            pool,
            panics: Arc::default(),
        }
    }

    /// The view that serves now.
    pub(super) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.root.view()
    }

    /// The node's name.
    pub fn name(&self) -> String {
        self.view().name().to_owned()
    }

    pub(super) fn guarded(&self, op: &'static str, number: INodeNo, work: impl FnOnce()) {
        run_guarded(|| self.name(), &self.panics, op, number.0, work);
    }

    /// Runs what may take long beside the requests of the same view.
    pub(super) fn aside(
        &self,
        op: &'static str,
        number: INodeNo,
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        if !self.view().may_take_long(number.0) {
            return self.guarded(op, number, || work(&self.view()));
        }
        self.apart(op, number, work);
    }

    /// Runs on a thread of the pool.
    pub(super) fn apart(
        &self,
        op: &'static str,
        number: INodeNo,
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        let (root, panics) = (self.root.clone(), self.panics.clone());
        self.pool.run(move || {
            run_guarded(
                || root.view().name().to_owned(),
                &panics,
                op,
                number.0,
                || work(&root.view()),
            )
        });
    }

    /// Is something being copied up that a removal would have to wait for?
    pub(super) fn waits(&self, parent: INodeNo, name: &[u8]) -> bool {
        self.pool.is_busy() && self.view().name_is_busy(parent.0, name)
    }

    /// As [`Adapter::aside`], for an object that is named in a directory.
    pub(super) fn aside_name(
        &self,
        op: &'static str,
        parent: INodeNo,
        name: &[u8],
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        if !self.view().name_may_take_long(parent.0, name) {
            return self.guarded(op, parent, || work(&self.view()));
        }
        self.apart(op, parent, work);
    }

    pub(super) fn entry(
        &self,
        op: &'static str,
        number: INodeNo,
        result: Res<Entry>,
        reply: ReplyEntry,
    ) {
        match result {
            Ok(entry) => {
                reply.entry(&entry.lifetime, &reply::attr(&entry.attr), Generation(0));
            }
            Err(e) => reply.error(failed(&self.view(), op, number.0, e)),
        }
    }

    pub(super) fn done(
        &self,
        op: &'static str,
        number: INodeNo,
        result: Res<()>,
        reply: ReplyEmpty,
    ) {
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(failed(&self.view(), op, number.0, e)),
        }
    }

    pub(super) fn sized(
        &self,
        op: &'static str,
        n: INodeNo,
        found: Res<Vec<u8>>,
        size: u32,
        r: ReplyXattr,
    ) {
        match found {
            Ok(value) if size == 0 => r.size(value.len() as u32),
            Ok(value) if value.len() <= size as usize => r.data(&value),
            Ok(_) => r.error(fuser::Errno::from_i32(libc::ERANGE)),
            Err(e) => r.error(failed(&self.view(), op, n.0, e)),
        }
    }
}

fn run_guarded(
    view: impl FnOnce() -> String,
    panics: &AtomicU64,
    op: &str,
    number: u64,
    work: impl FnOnce(),
) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        let count = panics.fetch_add(1, Ordering::Relaxed) + 1;
        let view = view();
        tracing::error!(view, op, number, count, "a request failed inside");
    }
}

/// The one place where errors of requests are logged: those that nobody expects.
pub(super) fn failed(view: &View, op: &str, number: u64, e: Errno) -> fuser::Errno {
    match e {
        Errno::IO | Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE => {
            tracing::warn!(view = view.name(), op, number, error = %e, "request failed");
        }
        _ => tracing::debug!(view = view.name(), op, number, error = %e, "request refused"),
    }
    reply::errno(e)
}

/// FLUSH is a round trip at each close: it is asked for where a store may have something to say.
pub(super) fn open_flags(view: &View, number: u64, how: OpenHow) -> FopenFlags {
    match view.closes_quietly(number, how) {
        true => FopenFlags::FOPEN_NOFLUSH,
        false => FopenFlags::empty(),
    }
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
    }
}

/// FUSE_HANDLE_KILLPRIV_V2 without a flag of its own: root keeps setuid bits.
pub(super) fn kills_suid(req: &Request) -> bool {
    req.uid() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_request_is_caught_and_counted() {
        let panics = AtomicU64::new(0);
        let mut served = false;
        run_guarded(
            || "n1".into(),
            &panics,
            "read",
            1,
            || panic!("as a test wants it"),
        );
        run_guarded(|| "n1".into(), &panics, "read", 1, || served = true);
        run_guarded(
            || "n1".into(),
            &panics,
            "read",
            1,
            || panic!("and once more"),
        );
        assert!(served);
        assert_eq!(panics.load(Ordering::Relaxed), 2);
    }
}
