//! The mount table of this process' namespace.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where the kernel shows it; poll(2) tells of its changes.
pub const TABLE: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mount {
    /// Its number, as statx(2) tells it.
    pub id: u64,
    /// The mount that it is on.
    pub parent: u64,
    /// Major and minor of the file system (`sb->s_dev`).
    pub dev: (u32, u32),
    /// The directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// What mount(2) was given as the source.
    pub source: OsString,
}

/// All mounts, in the order of the table.
///
/// # Errors
/// What reading [`TABLE`] answers.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(TABLE)?))
}

/// The table as it is, read again only when it has changed.
#[derive(Debug, Default)]
pub struct Table {
    last: Mutex<Option<(File, Arc<[Mount]>)>>,
}

impl Table {
    /// All mounts, in the order of the table.
    ///
    /// # Errors
    /// What reading [`TABLE`] answers.
    pub fn now(&self) -> io::Result<Arc<[Mount]>> {
        let mut last = self.last.lock();
        if let Some((file, mounts)) = &*last {
            let mut fds = [PollFd::new(file, PollFlags::PRI)];
            let at_once = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // Tells of each change once, to each open file (proc(5)).
            if poll(&mut fds, Some(&at_once))? == 0 {
                return Ok(mounts.clone());
            }
        }
        // Opened before it is read: what changes in between is told of.
        let file = match last.take() {
            Some((file, _)) => file,
            None => File::open(TABLE)?,
        };
        let mounts: Arc<[Mount]> = read()?.into();
        *last = Some((file, mounts.clone()));
        Ok(mounts)
    }
}

pub(crate) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/x rw` (proc(5)).
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let id = text()?.parse().ok()?;
    let parent = text()?.parse().ok()?;
    let (major, minor) = text()?.split_once(':')?;
    let dev = (major.parse().ok()?, minor.parse().ok()?);
    let plain = |field| OsString::from_vec(unescaped(field));
    let root = plain(fields.next()?);
    let point = plain(fields.next()?);
    let mut fields = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = fields.next()?;
    let source = plain(fields.next().unwrap_or_default());
    Some(Mount {
        id,
        parent,
        dev,
        root: root.into(),
        point: point.into(),
        kind: String::from_utf8_lossy(kind).into_owned(),
        source,
    })
}

/// Blank, tab, newline and backslash are written as three octal digits.
pub(crate) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_again_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap();
        let table = Table::default();
        let is_there = || {
            let mounts = table.now().unwrap();
            mounts.iter().any(|mount| mount.point == point)
        };
        for _ in 0..2 {
            assert!(!is_there());
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", &point, "tmpfs", flags, None).unwrap();
            assert!(is_there() && is_there());
            rustix::mount::unmount(&point, rustix::mount::UnmountFlags::empty()).unwrap();
        }
        assert!(!is_there());
    }

    #[test]
    fn the_table_is_read() {
        let table = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            90 22 0:45 /a\\040b /mnt/c\\134d\\012e rw - tmpfs none rw,size=1k\nnonsense\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].kind, "ext4");
        assert_eq!(mounts[0].dev, (254, 0));
        assert_eq!((mounts[1].id, mounts[1].parent), (90, 22));
        assert_eq!(mounts[1].root, PathBuf::from("/a b"));
        assert_eq!(
            (mounts[0].source.to_str(), mounts[1].source.to_str()),
            (Some("/dev/vda"), Some("none"))
        );
        assert_eq!(mounts[1].point, PathBuf::from("/mnt/c\\d\ne"));
        assert_eq!(mounts[1].kind, "tmpfs");
        assert!(read().unwrap().iter().any(|m| m.point.as_os_str() == "/"));
    }
}
