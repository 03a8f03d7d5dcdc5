//! OPEN and CREATE: what the kernel is told of an open file, and the files that it is handed.

use std::os::fd::BorrowedFd;

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyCreate, ReplyOpen, Request};

use super::adapter::{Adapter, caller, failed};
use super::reply::{self, GENERATION};
use crate::fs::{IoMode, OpenHow, Opened, View};
use crate::metrics::Op;
use crate::sys::fusemount;

/// FLUSH is a round trip at each close: it is asked for where a store may have something to say.
/// What the kernel has of the contents goes at an open unless it is known to be good.
fn open_flags(view: &View, number: u64, how: OpenHow, opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_NOFLUSH, view.closes_quietly(number, how));
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keeps_cache);
    flags
}

impl Adapter {
    pub(super) fn answer_open(&self, req: &Request, ino: INodeNo, how: OpenHow, reply: ReplyOpen) {
        if self.io.mode() == IoMode::Cached {
            // The kernel does not ask again (fs/fuse/file.c, fuse_file_open).
            return reply.error(fuser::Errno::ENOSYS);
        }
        let (io, caller) = (self.io.clone(), caller(req));
        let open = move |view: &View| {
            let hand = |fd: BorrowedFd<'_>, device| io.register(fd, device);
            match view.open_by(ino.0, how, caller, &hand) {
                Ok(opened) => {
                    let flags = open_flags(view, ino.0, how, &opened);
                    let handle = FileHandle(opened.handle);
                    match &opened.backing {
                        Some(backing) => {
                            let id = fusemount::as_opened(&reply, backing.id());
                            reply.opened_passthrough(handle, flags, &id);
                            id.into_raw();
                        }
                        None => reply.opened(handle, flags),
                    }
                }
                Err(e) => reply.error(failed(view, Op::Open, ino.0, e)),
            }
        };
        if how.writes() {
            self.aside(req, Op::Open, ino, open);
        } else {
            self.guarded(req, Op::Open, ino, || open(&self.view()));
        }
    }

    pub(super) fn answer_create(
        &self,
        req: &Request,
        (parent, name): (INodeNo, &[u8]),
        modes: (u32, u32),
        how: OpenHow,
        reply: ReplyCreate,
    ) {
        self.guarded(req, Op::Create, parent, || {
            let hand = |fd: BorrowedFd<'_>, device| self.io.register(fd, device);
            let view = self.view();
            match view.create_by((parent.0, name), modes, how, caller(req), &hand) {
                Ok((entry, opened)) => {
                    let (ttl, attr) = (&entry.lifetime, &reply::attr(&entry.attr));
                    let flags = open_flags(&view, entry.attr.number, how, &opened);
                    let handle = FileHandle(opened.handle);
                    match &opened.backing {
                        Some(backing) => {
                            let id = fusemount::as_created(&reply, backing.id());
                            reply.created_passthrough(ttl, attr, GENERATION, handle, flags, &id);
                            id.into_raw();
                        }
                        None => reply.created(ttl, attr, GENERATION, handle, flags),
                    }
                }
                Err(e) => reply.error(failed(&self.view(), Op::Create, parent.0, e)),
            }
        });
    }
}
