//! How a request is run and answered: guarded against panics, long work beside the others, errors
//! logged in one place.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, ReplyEmpty, ReplyEntry, ReplyXattr, Request};

use super::find::Finder;
use super::io::IoNow;
use super::{Notifier, reply};
use crate::fs::{Caller, Entry, Root, View};
use crate::keep::request;
use crate::metrics::{self, Begun, Node, Op};
use crate::pool::Pool;
use crate::serving;
use crate::sys::{Errno, Res, creds};

/// Serves one view.
#[derive(Debug)]
pub struct Adapter {
    root: Arc<Root>,
    /// The kernel opens directories without asking.
    pub(super) no_opendir: bool,
    pub(super) io: Arc<IoNow>,
    pub(super) notifier: OnceLock<Notifier>,
    pool: Arc<Pool>,
    pub(super) finder: Finder,
    pub(super) node: Arc<Node>,
}

impl Adapter {
    /// An adapter whose long work (copying up large files) runs on `pool`.
    pub fn new(root: Arc<Root>, pool: Arc<Pool>) -> Adapter {
        let node = Node::unobserved(root.view().name());
        let io = Arc::new(IoNow::new(root.view().io()));
        Adapter {
            finder: Finder::new(root.clone()),
            root,
            no_opendir: false,
            io,
            notifier: OnceLock::new(),
            pool,
            node,
        }
    }

    /// The same, with its requests counted.
    #[must_use]
    pub fn with_metrics(self, node: Arc<Node>) -> Adapter {
        Adapter { node, ..self }
    }

    /// Counts its requests.
    pub fn counts(&self) -> Arc<Node> {
        self.node.clone()
    }

    /// The root that it serves.
    pub(super) fn root(&self) -> Arc<Root> {
        self.root.clone()
    }

    /// Which way the kernel reads and writes, as it turns out.
    pub fn io(&self) -> Arc<IoNow> {
        self.io.clone()
    }

    /// The view that serves now.
    pub(super) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.root.view()
    }

    /// The node's name.
    pub fn name(&self) -> String {
        self.view().name().to_owned()
    }

    /// The kernel wrote to it by itself: what it has of its attributes may be old.
    pub(super) fn forget_attributes(&self, number: u64) {
        let Some(notifier) = self.notifier.get() else {
            return;
        };
        if let Err(error) = notifier.attributes(number) {
            tracing::debug!(number, %error, "the kernel was not told of new times");
        }
    }

    /// Runs a request here.
    pub(super) fn guarded(&self, req: &Request, op: Op, number: INodeNo, work: impl FnOnce()) {
        let begun = self.begin(req);
        run_guarded(&self.view(), &self.node, op, begun, number.0, work);
    }

    /// From now on this thread serves the request.
    fn begin(&self, req: &Request) -> Begun {
        request::begin(req.unique().0);
        self.node.begin()
    }

    /// Runs what may take long beside the requests of the same view.
    pub(super) fn aside(
        &self,
        req: &Request,
        op: Op,
        number: INodeNo,
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        let begun = self.begin(req);
        let apart = self.view().may_take_long(number.0);
        self.begun(op, begun, number, apart, work);
    }

    /// Runs on a thread of the pool.
    pub(super) fn apart(
        &self,
        req: &Request,
        op: Op,
        number: INodeNo,
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        self.begun(op, self.begin(req), number, true, work);
    }

    /// Runs what came in before: here, or on a thread of the pool.
    fn begun(
        &self,
        op: Op,
        begun: Begun,
        number: INodeNo,
        apart: bool,
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        if !apart {
            let view = self.view();
            return run_guarded(&view, &self.node, op, begun, number.0, || work(&view));
        }
        let (root, node) = (self.root.clone(), self.node.clone());
        let unique = request::current();
        self.pool.run(move || {
            request::begin(unique);
            let view = root.view();
            run_guarded(&view, &node, op, begun, number.0, || work(&view));
        });
    }

    /// Is something being copied up that a removal would have to wait for?
    pub(super) fn waits(&self, parent: INodeNo, name: &[u8]) -> bool {
        self.pool.is_busy() && self.view().name_is_busy(parent.0, name)
    }

    /// As [`Adapter::aside`], for an object that is named in a directory.
    pub(super) fn aside_name(
        &self,
        req: &Request,
        op: Op,
        parent: INodeNo,
        name: &[u8],
        work: impl FnOnce(&View) + Send + 'static,
    ) {
        let begun = self.begin(req);
        let apart = self.view().name_may_take_long(parent.0, name);
        self.begun(op, begun, parent, apart, work);
    }

    pub(super) fn entry(&self, op: Op, number: INodeNo, result: Res<Entry>, reply: ReplyEntry) {
        match result {
            Ok(entry) => reply::entry(reply, &entry),
            Err(e) => reply.error(failed(&self.view(), op, number.0, e)),
        }
    }

    pub(super) fn done(&self, op: Op, number: INodeNo, result: Res<()>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(failed(&self.view(), op, number.0, e)),
        }
    }

    pub(super) fn sized(&self, op: Op, n: INodeNo, found: Res<Vec<u8>>, size: u32, r: ReplyXattr) {
        match found {
            Ok(value) if size == 0 => r.size(value.len() as u32),
            Ok(value) if value.len() <= size as usize => r.data(&value),
            Ok(_) => r.error(failed(&self.view(), op, n.0, Errno::RANGE)),
            Err(e) => r.error(failed(&self.view(), op, n.0, e)),
        }
    }
}

thread_local! {
    /// What the request that this thread is serving was answered with: an errno, or 0.
    static OUTCOME: Cell<i32> = const { Cell::new(0) };
}

pub(super) fn run_guarded(
    view: &View,
    node: &Node,
    op: Op,
    begun: Begun,
    number: u64,
    work: impl FnOnce(),
) {
    OUTCOME.set(0);
    creds::begin_request(asks_for_bits(op));
    if !view.may_serve() {
        // Dropped without an answer, the reply sends this.
        OUTCOME.set(libc::EIO);
        drop(work);
        let view = view.name();
        let op = op.name();
        tracing::error!(
            view,
            op,
            number,
            "a request that one worker after the other has crashed over is refused"
        );
    } else if catch_unwind(AssertUnwindSafe(|| serving::serve(work))).is_err() {
        // The reply, dropped without an answer, has sent this.
        OUTCOME.set(libc::EIO);
        let count = node.panicked();
        tracing::error!(
            view = view.name(),
            op = op.name(),
            number,
            count,
            "a request failed inside"
        );
    }
    view.was_served();
    node.finish(op, begun, OUTCOME.get());
}

/// Does this change nothing that setuid and setgid bits hang on, or ask for the right to keep them
/// before it does?
fn asks_for_bits(op: Op) -> bool {
    matches!(
        op,
        Op::Lookup
            | Op::Forget
            | Op::Getattr
            | Op::Setattr
            | Op::Readlink
            | Op::Unlink
            | Op::Open
            | Op::Read
            | Op::Flush
            | Op::Release
            | Op::Fsync
            | Op::Opendir
            | Op::Readdir
            | Op::Readdirplus
            | Op::Releasedir
            | Op::Statfs
            | Op::Getxattr
            | Op::Create
    )
}

/// The one place where errors of requests are noted: counted, and logged where nobody expects them.
pub(super) fn failed(view: &View, op: Op, number: u64, e: Errno) -> fuser::Errno {
    OUTCOME.set(e.raw_os_error());
    let (view, op) = (view.name(), op.name());
    if metrics::is_failure(e.raw_os_error()) {
        tracing::warn!(view, op, number, error = %e, "request failed");
    } else {
        tracing::debug!(view, op, number, error = %e, "request refused");
    }
    reply::errno(e)
}

/// A name is not there, which the kernel is told without an error.
pub(super) fn absent() {
    OUTCOME.set(libc::ENOENT);
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
        let dir = tempfile::tempdir().unwrap();
        let view = crate::fs::tests::plain(dir.path(), |_| ());
        let registry = metrics::Registry::new();
        let node = registry.node("n1", || None);
        let mut served = false;
        let run = |work: &mut dyn FnMut()| {
            run_guarded(&view, &node, Op::Read, node.begin(), 1, work);
        };
        run(&mut || panic!("as a test wants it"));
        run(&mut || served = true);
        run(&mut || panic!("and once more"));
        assert!(served);
        let text = registry.text();
        for line in [
            "statelite_panics_total 2",
            "statelite_request_errors_total{op=\"read\",errno=\"EIO\"} 2",
            "statelite_requests_total{node=\"n1\",op=\"read\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
