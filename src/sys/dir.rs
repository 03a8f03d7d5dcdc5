//! Reading a directory: getdents64(2) as a list of (name, type); making one, and files of the server's own.

use std::fs::DirBuilder;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::RawDir;

use super::Res;

/// One entry as the backing file system lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RawEntry {
    /// The name, any bytes but NUL and slash.
    pub name: Box<[u8]>,
    /// `S_IFMT` bits, or 0 where the file system does not say.
    pub kind: u32,
}

/// Makes a directory, and those above it, for root alone to change: whatever the umask, which the
/// threads that answer requests have taken away. One that is there stays as it is.
///
/// # Errors
/// mkdir(2)'s.
pub fn make_all(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes a file to write, or empties one: only root may write in it, whatever the umask, and others
/// may read it if `readable`.
///
/// # Errors
/// open(2)'s.
pub fn create_file(path: &Path, readable: bool) -> std::io::Result<std::fs::File> {
    let mode = if readable { 0o644 } else { 0o600 };
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true).mode(mode);
    options.open(path)
}

/// Every entry but "." and "..", from the start.
///
/// # Errors
/// getdents64(2)'s.
pub fn list(fd: impl AsFd) -> Res<Vec<RawEntry>> {
    let mut buf = [MaybeUninit::<u8>::uninit(); 32 * 1024];
    let mut entries = Vec::new();
    let mut dir = RawDir::new(fd, &mut buf);
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        use rustix::fs::FileType;
        let kind = match entry.file_type() {
            FileType::Unknown => 0,
            known => known.as_raw_mode(),
        };
        entries.push(RawEntry {
            name: name.into(),
            kind,
        });
    }
    Ok(entries)
}
