//! The mount table of this process' namespace.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

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

fn parse(table: &[u8]) -> Vec<Mount> {
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
fn unescaped(field: &[u8]) -> Vec<u8> {
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
