//! A read-only FUSE file system of a few files that fails when it is told to.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, Request, SessionACL,
};
use rustix::io::Errno;

/// What it is told, and what it saw.
#[derive(Debug)]
struct Faults {
    most: AtomicU64,
    fails_from: AtomicU64,
    errno: AtomicI32,
    short: AtomicU64,
}

#[derive(Clone)]
struct Files {
    files: Arc<Vec<(String, Vec<u8>)>>,
    faults: Arc<Faults>,
}

const TTL: Duration = Duration::ZERO;

impl Files {
    fn attr(&self, number: u64) -> Option<FileAttr> {
        let file = number.checked_sub(2).map(|at| self.files.get(at as usize));
        let (kind, perm, size) = match (number, file) {
            (1, _) => (FileType::Directory, 0o755, 0),
            (_, Some(Some((_, content)))) => (FileType::RegularFile, 0o644, content.len() as u64),
            _ => return None,
        };
        Some(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = self
            .files
            .iter()
            .position(|(known, _)| name == known.as_str());
        match at.and_then(|at| self.attr(at as u64 + 2)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(fuser::Errno::ESTALE),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the kernel's cache, so that what is short stays short.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let faults = &self.faults;
        let errno = faults.errno.load(Ordering::SeqCst);
        if errno != 0 && offset + u64::from(size) > faults.fails_from.load(Ordering::SeqCst) {
            return reply.error(fuser::Errno::from_i32(errno));
        }
        let content = &self.files[ino.0 as usize - 2].1;
        let from = (offset as usize).min(content.len());
        let rest = (content.len() - from).min(size as usize);
        let most = rest.min(faults.most.load(Ordering::SeqCst) as usize);
        if most < rest {
            faults.short.fetch_add(1, Ordering::SeqCst);
        }
        reply.data(&content[from..from + most]);
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (at, (name, _)) in self.files.iter().enumerate().skip(offset as usize) {
            let (number, next) = (INodeNo(at as u64 + 2), at as u64 + 1);
            if reply.add(number, next, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// The mounted store.
pub struct Store {
    at: PathBuf,
    files: Files,
    session: Mutex<Option<BackgroundSession>>,
}

impl Store {
    pub fn mount(at: &Path, files: &[(&str, Vec<u8>)]) -> Store {
        let files = files
            .iter()
            .map(|(n, c)| ((*n).into(), c.clone()))
            .collect();
        let faults = Faults {
            most: AtomicU64::new(u64::MAX),
            fails_from: AtomicU64::new(0),
            errno: AtomicI32::new(0),
            short: AtomicU64::new(0),
        };
        let store = Store {
            at: at.into(),
            files: Files {
                files: Arc::new(files),
                faults: Arc::new(faults),
            },
            session: Mutex::default(),
        };
        store.returns();
        store
    }

    /// From now on a read gives this many bytes at most.
    pub fn reads_at_most(&self, bytes: u64) {
        self.files.faults.most.store(bytes, Ordering::SeqCst);
    }

    pub fn short_reads(&self) -> u64 {
        self.files.faults.short.load(Ordering::SeqCst)
    }

    /// Reads at this offset and behind it fail, or no more.
    pub fn fails_from(&self, offset: u64, errno: Option<Errno>) {
        let errno = errno.map_or(0, Errno::raw_os_error);
        self.files.faults.fails_from.store(offset, Ordering::SeqCst);
        self.files.faults.errno.store(errno, Ordering::SeqCst);
    }

    /// Its connection ends: whoever comes gets ENOTCONN. Somebody has it in use, so it stays mounted.
    pub fn dies(&self) {
        let ended = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::FORCE);
        assert_eq!(ended, Err(Errno::BUSY));
    }

    /// It is mounted, anew where it was dead.
    pub fn returns(&self) {
        let mut session = self.session.lock().unwrap();
        if session.take().is_some() {
            rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).ok();
        }
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("faulty".into())];
        config.acl = SessionACL::All;
        *session = Some(fuser::spawn_mount(self.files.clone(), &self.at, &config).unwrap());
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.session.lock().unwrap().take();
        rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH).ok();
    }
}
