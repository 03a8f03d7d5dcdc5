//! What file handles would be without the part that the daemon has in them: the same server and clients over a file system of one file, which is
//! exported with the help of FUSE's handles, and without it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, InitFlags, KernelConfig, ReplyAttr, ReplyEntry, Request,
};

use crate::cluster::{Cluster, dir, put};
use crate::harness::drop_caches;
use crate::server::{Ganesha, STALE, Shared, site};

over_both_versions!(a_file_system_without_export_support);

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

/// A directory with the file `f`.
struct OneFile {
    with_handles: bool,
}

fn attributes(of: INodeNo) -> FileAttr {
    let (kind, perm) = match of {
        FILE => (FileType::RegularFile, 0o644),
        _ => (FileType::Directory, 0o755),
    };
    FileAttr {
        ino: of,
        size: 0,
        blocks: 0,
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
        flags: 0,
        blksize: 4096,
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.with_handles {
            let flag = InitFlags::FUSE_EXPORT_SUPPORT;
            config
                .add_capabilities(flag)
                .map_err(|_| io::ErrorKind::Unsupported)?;
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = match name.as_encoded_bytes() {
            b"f" if parent == INodeNo::ROOT => FILE,
            b"." if self.with_handles => parent,
            b".." if self.with_handles => INodeNo::ROOT,
            _ => return reply.error(Errno::ENOENT),
        };
        reply.entry(&TTL, &attributes(found), Generation(0));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }
}

fn exported(c: &Cluster, with_handles: bool) -> BackgroundSession {
    let at = dir(c.path("roots/one"));
    let mut config = Config::default();
    config.acl = fuser::SessionACL::All;
    fuser::spawn_mount(OneFile { with_handles }, at, &config).unwrap()
}

fn a_file_system_without_export_support(version: u32) {
    for with_handles in [true, false] {
        let c = site(&[]);
        let _shared = Shared::on(c.path("roots"));
        let _session = exported(&c, with_handles);
        let at = c.path("roots/one");
        put(c.path("ganesha/statelite.conf"), block(&at));
        let g = Ganesha::start(&c);
        let mut client = g.client_of(version, 1, &at);
        let file = client.get(&["handle", "f"]);
        client.get(&["fattr", &file]);
        drop_caches();
        let held = client.ask(&["fattr", &file]).map(|_| ());
        let expected = if with_handles { Ok(()) } else { Err(STALE) };
        assert_eq!(held, expected, "with handles: {with_handles}");
    }
}

fn block(at: &Path) -> String {
    let at = at.display();
    format!(
        "EXPORT {{ Export_Id = 1; Path = \"{at}\"; Pseudo = \"{at}\"; Attr_Expiration_Time = 0; Protocols = 3, 4; \
         Transports = TCP; SecType = sys; Access_Type = RW; Squash = No_Root_Squash; FSAL {{ Name = VFS; }} }}\n"
    )
}
