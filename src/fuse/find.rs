//! Look-ups by number ("." and ".."), which are how the kernel decodes file handles: what is in
//! memory is answered at once, the rest one after the other by a thread beside the requests, since
//! it may take a walk of a layer. A flood of dead handles so costs one thread a view, and waits for
//! itself.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Instant;

use fuser::{INodeNo, ReplyEntry, Request};
use parking_lot::Mutex;

use super::adapter::{Adapter, failed, run_guarded};
use super::reply;
use crate::fs::{Entry, Root, View};
use crate::keep::request;
use crate::metrics::{Begun, Node, Op};
use crate::pool::Pool;
use crate::sys::{Errno, Res};

/// Not the threads that copy: these may be asleep between two walks.
static THREADS: LazyLock<Pool> = LazyLock::new(Pool::default);

/// One that waits.
struct Question {
    number: INodeNo,
    name: Box<[u8]>,
    asked: Instant,
    begun: Begun,
    /// The number of the request.
    unique: u64,
    reply: ReplyEntry,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Question>,
    /// A thread is at it.
    busy: bool,
}

/// What is asked for by number and takes long.
pub(super) struct Finder {
    root: Arc<Root>,
    queue: Arc<Mutex<Queue>>,
}

impl std::fmt::Debug for Finder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Finder")
    }
}

impl Finder {
    pub(super) fn new(root: Arc<Root>) -> Finder {
        Finder {
            root,
            queue: Arc::default(),
        }
    }

    fn ask(&self, question: Question, node: &Arc<Node>) {
        let mut queue = self.queue.lock();
        queue.waiting.push(question);
        if std::mem::replace(&mut queue.busy, true) {
            return;
        }
        drop(queue);
        let (root, queue, node) = (self.root.clone(), self.queue.clone(), node.clone());
        THREADS.run(move || answer_all(&root, &queue, &node));
    }
}

impl Drop for Finder {
    /// The session is over: what it holds open of stores is to be let go of.
    fn drop(&mut self) {
        self.root.view().end();
    }
}

fn answer_all(root: &Root, queue: &Mutex<Queue>, node: &Node) {
    loop {
        let waiting = {
            let mut queue = queue.lock();
            if queue.waiting.is_empty() {
                queue.busy = false;
                return;
            }
            std::mem::take(&mut queue.waiting)
        };
        for question in waiting {
            let Question {
                number,
                name,
                asked,
                begun,
                unique,
                reply,
            } = question;
            request::begin(unique);
            let view = root.view_arc();
            run_guarded(&view, node, Op::Lookup, begun, number.0, || {
                answer(&view, number, view.by_handle(number.0, &name, asked), reply);
            });
        }
    }
}

fn answer(view: &View, number: INodeNo, found: Res<Entry>, reply: ReplyEntry) {
    match found {
        Ok(entry) => reply::entry(reply, &entry),
        Err(e) => {
            let told = failed(view, Op::Lookup, number.0, e);
            reply.error(match e {
                Errno::STALE | Errno::NOENT | Errno::NOTDIR => told,
                // Its store may come back. Decoding takes every error but this one for ESTALE
                // (fs/exportfs/expfs.c), and nfsd has its clients try again.
                _ => fuser::Errno::ENOMEM,
            });
        }
    }
}

impl Adapter {
    /// LOOKUP of "." or "..".
    pub(super) fn lookup_number(
        &self,
        req: &Request,
        number: INodeNo,
        name: &[u8],
        reply: ReplyEntry,
    ) {
        let view = self.view();
        let ask = |reply| {
            let question = Question {
                number,
                name: name.into(),
                asked: Instant::now(),
                begun: self.node.begin(),
                unique: req.unique().0,
                reply,
            };
            self.finder.ask(question, &self.node);
        };
        if !view.knows(number.0) {
            return ask(reply);
        }
        self.guarded(req, Op::Lookup, number, || {
            match view.by_known_handle(number.0, name) {
                // Not where it was. It may have another name.
                Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) => ask(reply),
                known => answer(&view, number, known, reply),
            }
        });
    }
}
