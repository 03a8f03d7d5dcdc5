//! fuser's trait over a [`View`]: each request is decoded, served and answered.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, absent, caller, failed, kills_suid};
use super::reply::{self, GENERATION};
use crate::fs::{Answer, Changes, IoMode, OpenHow, View};
use crate::metrics::Op;
use crate::sys::Errno;

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiate(config)
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if matches!(name.as_bytes(), b"." | b"..") {
            return self.lookup_number(req, parent, name.as_bytes(), reply);
        }
        self.guarded(req, Op::Lookup, parent, || {
            crate::stuck::here(name.as_bytes());
            let result = match self.view().answer(parent.0, name.as_bytes()) {
                Ok(Answer::Absent(lifetime)) if !lifetime.is_zero() => {
                    absent();
                    // An entry without an inode is an absence that the kernel may remember.
                    return reply.entry(&lifetime, &reply::NOTHING, GENERATION);
                }
                Ok(Answer::Absent(_)) => Err(Errno::NOENT),
                Ok(Answer::Entry(entry)) => Ok(entry),
                Err(e) => Err(e),
            };
            self.entry(Op::Lookup, parent, result, reply);
        });
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        self.guarded(req, Op::Forget, ino, || {
            self.view().forget_of_kernel(ino.0, nlookup)
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.guarded(req, Op::Getattr, ino, || {
            match self.view().getattr(ino.0, fh.map(|fh| fh.0)) {
                Ok(entry) => reply.attr(&entry.lifetime, &reply::attr(&entry.attr)),
                Err(e) => reply.error(failed(&self.view(), Op::Getattr, ino.0, e)),
            }
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime, mtime) = (reply::set_time(atime), reply::set_time(mtime));
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let caller = caller(req);
        self.aside(req, Op::Setattr, ino, move |view| {
            match view.setattr(ino.0, &changes, fh.map(|fh| fh.0), caller) {
                Ok(entry) => reply.attr(&entry.lifetime, &reply::attr(&entry.attr)),
                Err(e) => reply.error(failed(view, Op::Setattr, ino.0, e)),
            }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.guarded(req, Op::Readlink, ino, || {
            match self.view().readlink(ino.0) {
                Ok(target) => reply.data(&target),
                Err(e) => reply.error(failed(&self.view(), Op::Readlink, ino.0, e)),
            }
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.guarded(req, Op::Mknod, parent, || {
            let rdev = reply::rdev_from_wire(rdev);
            let made = self
                .view()
                .mknod(parent.0, name.as_bytes(), mode, umask, rdev, caller(req));
            self.entry(Op::Mknod, parent, made, reply);
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.guarded(req, Op::Mkdir, parent, || {
            let made = self
                .view()
                .mkdir(parent.0, name.as_bytes(), mode, umask, caller(req));
            self.entry(Op::Mkdir, parent, made, reply);
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if self.waits(parent, name.as_bytes()) {
            // It is being copied up, which is waited for beside the other requests.
            let name = name.as_bytes().to_vec();
            return self.apart(req, Op::Unlink, parent, move |view| {
                match view.unlink(parent.0, &name) {
                    Ok(()) => reply.ok(),
                    Err(e) => reply.error(failed(view, Op::Unlink, parent.0, e)),
                }
            });
        }
        self.guarded(req, Op::Unlink, parent, || {
            self.done(
                Op::Unlink,
                parent,
                self.view().unlink(parent.0, name.as_bytes()),
                reply,
            );
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.guarded(req, Op::Rmdir, parent, || {
            self.done(
                Op::Rmdir,
                parent,
                self.view().rmdir(parent.0, name.as_bytes()),
                reply,
            );
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.guarded(req, Op::Symlink, parent, || {
            let target = target.as_os_str().as_bytes();
            let made = self
                .view()
                .symlink(parent.0, link_name.as_bytes(), target, caller(req));
            self.entry(Op::Symlink, parent, made, reply);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let (name, newname) = (name.as_bytes().to_vec(), newname.as_bytes().to_vec());
        let waits = self.waits(newparent, &newname);
        let source = name.clone();
        let work = move |view: &View| {
            let renamed = view.rename((parent.0, &name), (newparent.0, &newname), flags);
            match renamed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(view, Op::Rename, parent.0, e)),
            }
        };
        if waits {
            self.apart(req, Op::Rename, parent, work);
        } else {
            self.aside_name(req, Op::Rename, parent, &source, work);
        }
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let newname = newname.as_bytes().to_vec();
        self.aside(req, Op::Link, ino, move |view| {
            match view.link(ino.0, newparent.0, &newname) {
                Ok(entry) => reply::entry(reply, &entry),
                Err(e) => reply.error(failed(view, Op::Link, ino.0, e)),
            }
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.answer_open(req, ino, OpenHow::from_raw(flags.0), reply);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.guarded(req, Op::Read, ino, || {
            let mut buf = vec![0; size as usize];
            match self.view().read(ino.0, fh.0, offset, &mut buf) {
                Ok(n) => {
                    self.node.read(n);
                    reply.data(&buf[..n]);
                }
                Err(e) => reply.error(failed(&self.view(), Op::Read, ino.0, e)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if fh.0 == 0 {
            // No open was told of: this may be the first that is heard of writing, and copy it up.
            let (data, node) = (data.to_vec(), self.node.clone());
            return self.aside(req, Op::Write, ino, move |view| {
                let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
                match view.write(ino.0, fh.0, offset, &data, kill) {
                    Ok(n) => {
                        node.written(n);
                        reply.written(n as u32);
                    }
                    Err(e) => reply.error(failed(view, Op::Write, ino.0, e)),
                }
            });
        }
        self.guarded(req, Op::Write, ino, || {
            let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            match self.view().write(ino.0, fh.0, offset, data, kill) {
                Ok(n) => {
                    self.node.written(n);
                    reply.written(n as u32);
                }
                Err(e) => reply.error(failed(&self.view(), Op::Write, ino.0, e)),
            }
        });
    }

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.io.mode() == IoMode::Cached {
            // Not asked again: it would be for each close, of what is only read, too.
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.guarded(req, Op::Flush, ino, || {
            self.done(Op::Flush, ino, self.view().flush(fh.0), reply)
        });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded(req, Op::Release, ino, || {
            if let Some(number) = self.view().release(fh.0) {
                self.forget_attributes(number);
            }
            reply.ok();
        });
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded(req, Op::Fsync, ino, || {
            self.done(
                Op::Fsync,
                ino,
                self.view().fsync(ino.0, fh.0, datasync),
                reply,
            );
        });
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.no_opendir {
            // The kernel does not ask again (fs/fuse/dir.c, fuse_dir_open).
            return reply.error(fuser::Errno::ENOSYS);
        }
        self.guarded(req, Op::Opendir, ino, || match self.view().opendir(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(e) => reply.error(failed(&self.view(), Op::Opendir, ino.0, e)),
        });
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.guarded(req, Op::Readdir, ino, || {
            let listed = self.view().readdir(ino.0, offset, |entry| {
                let name = OsStr::from_bytes(entry.name);
                reply.add(
                    INodeNo(entry.number),
                    entry.cookie,
                    reply::kind(entry.kind),
                    name,
                )
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(&self.view(), Op::Readdir, ino.0, e)),
            }
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.guarded(req, Op::Readdirplus, ino, || {
            let listed = self.view().readdirplus(ino.0, offset, |entry, attr, ttl| {
                let name = OsStr::from_bytes(entry.name);
                let attr = reply::attr(attr);
                let number = INodeNo(entry.number);
                reply.add(number, entry.cookie, name, &ttl, &attr, GENERATION)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(&self.view(), Op::Readdirplus, ino.0, e)),
            }
        });
    }

    fn releasedir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.guarded(req, Op::Releasedir, ino, || reply.ok());
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.guarded(req, Op::Fsyncdir, ino, || {
            self.done(Op::Fsyncdir, ino, self.view().fsyncdir(ino.0), reply);
        });
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.guarded(req, Op::Statfs, ino, || match self.view().statfs(ino.0) {
            Ok(fs) => reply.statfs(
                fs.f_blocks,
                fs.f_bfree,
                fs.f_bavail,
                fs.f_files,
                fs.f_ffree,
                fs.f_bsize as u32,
                fs.f_namemax as u32,
                fs.f_frsize as u32,
            ),
            Err(e) => reply.error(failed(&self.view(), Op::Statfs, ino.0, e)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let caller = caller(req);
        self.aside(req, Op::Setxattr, ino, move |view| {
            match view.setxattr(ino.0, &name, &value, flags, caller) {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(view, Op::Setxattr, ino.0, e)),
            }
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.guarded(req, Op::Getxattr, ino, || {
            let value = self.view().getxattr(ino.0, name.as_bytes());
            self.sized(Op::Getxattr, ino, value, size, reply);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.guarded(req, Op::Listxattr, ino, || {
            let names = self.view().listxattr(ino.0, caller(req));
            self.sized(Op::Listxattr, ino, names, size, reply);
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        self.aside(req, Op::Removexattr, ino, move |view| {
            match view.removexattr(ino.0, &name) {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(view, Op::Removexattr, ino.0, e)),
            }
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (at, how) = ((parent, name.as_bytes()), OpenHow::from_raw(flags));
        self.answer_create(req, at, (mode, umask), how, reply);
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let kill = kills_suid(req);
        let work =
            move |view: &View| match view.fallocate(ino.0, fh.0, offset, length, mode as u32, kill)
            {
                Ok(()) => reply.ok(),
                Err(e) => reply.error(failed(view, Op::Fallocate, ino.0, e)),
            };
        match fh.0 {
            0 => self.aside(req, Op::Fallocate, ino, work),
            _ => self.guarded(req, Op::Fallocate, ino, || work(&self.view())),
        }
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.guarded(req, Op::Lseek, ino, || {
            match self.view().lseek(ino.0, fh.0, offset, whence) {
                Ok(at) => reply.offset(at as i64),
                Err(e) => reply.error(failed(&self.view(), Op::Lseek, ino.0, e)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.guarded(req, Op::CopyFileRange, ino_in, || {
            // The reply counts in 32 bits (fuse_write_out).
            let len = len.min(u64::from(u32::MAX) & !0xfff);
            let from = (ino_in.0, fh_in.0, offset_in);
            let to = (ino_out.0, fh_out.0, offset_out);
            match self.view().copy_file_range(from, to, len, kills_suid(req)) {
                Ok(n) => {
                    self.node.written(n as usize);
                    reply.written(n as u32);
                }
                Err(e) => reply.error(failed(&self.view(), Op::CopyFileRange, ino_in.0, e)),
            }
        });
    }
}
