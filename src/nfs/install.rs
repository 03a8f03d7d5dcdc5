//! Writing what an NFS server reads, and telling it so.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use crate::child;
use crate::config::Config;

/// How long exportfs(8) may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An NFS server that has a file of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Server {
    /// The kernel's, with exports(5).
    Kernel,
    /// NFS-Ganesha.
    Ganesha,
}

impl Server {
    /// The file that it reads.
    pub fn file(self, config: &Config) -> &Path {
        match self {
            Server::Kernel => &config.exports_file,
            Server::Ganesha => &config.ganesha_file,
        }
    }
}

/// What became of the word that the file has changed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// The server has it.
    Told,
    /// No server runs: it reads the file when it starts.
    NotRunning,
}

/// Why a file was not written, or its server not told.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The file can't be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which, or its directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// exportfs(8) is not there, or complains.
    #[error("exportfs -ra: {0}; is the NFS server installed (nfs-kernel-server, nfs-utils)?")]
    Exportfs(String),
    /// NFS-Ganesha was not told.
    #[error("telling NFS-Ganesha (process {pid}, from {}): {why}", path.display())]
    Ganesha {
        /// Its process.
        pid: i32,
        /// The file that says so.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |error| InstallError::File { path, error }
}

/// The file's text; empty where there is none.
///
/// # Errors
/// [`InstallError::File`].
pub fn read(path: &Path) -> Result<String, InstallError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(failed(path)(error)),
    }
}

/// Puts the text into the file, all of it or nothing; a file that has it already is left alone. Says
/// whether it was written.
///
/// # Errors
/// [`InstallError::File`].
pub fn install(path: &Path, text: &str) -> Result<bool, InstallError> {
    if read(path)? == text {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    crate::sys::dir::make_all(dir).map_err(failed(dir))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Servers read the files of their directories by suffix, and this is none of theirs.
    let beside = dir.join(format!(".{name}.{}.new", std::process::id()));
    let written = replace(path, &beside, dir, text);
    if written.is_err()
        && let Err(error) = std::fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %beside.display(), %error, "a file of no use is left");
    }
    written.map_err(failed(path))?;
    Ok(true)
}

fn replace(path: &Path, beside: &Path, dir: &Path, text: &str) -> io::Result<()> {
    let mut file = crate::sys::dir::create_file(beside, true)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(beside, path)?;
    std::fs::File::open(dir)?.sync_all()
}

/// Has the server read its file.
///
/// # Errors
/// [`InstallError`].
pub fn tell(server: Server, config: &Config) -> Result<Told, InstallError> {
    match server {
        Server::Kernel => exportfs(),
        Server::Ganesha => hangup(&config.ganesha_pid),
    }
}

/// Also without nfsd in the kernel: what mountd reads is then up to date when it starts.
fn exportfs() -> Result<Told, InstallError> {
    let failed = |why: String| Err(InstallError::Exportfs(why));
    // Names that other files have may be asked of a name server that hangs.
    let ran = match child::run(Command::new("exportfs").arg("-ra"), PATIENCE) {
        Ok(ran) => ran,
        Err(error) => return failed(error.to_string()),
    };
    match ran.status {
        Some(status) if status.success() => Ok(Told::Told),
        Some(status) => failed(match &*ran.errors() {
            "" => status.to_string(),
            said => said.replace('\n', "; "),
        }),
        None => failed(format!("it has not ended after {PATIENCE:?}")),
    }
}

/// Where nfsd takes the path of a file system that it is to let go of.
const UNLOCK: &str = "/proc/fs/nfsd/unlock_filesystem";

/// Has the kernel's server give up what clients hold on a mount that it exports no longer: locks by NLM
/// (NFSv3), and by newer kernels open files and locks of NFSv4, too. Without nfsd nothing is held.
///
/// # Errors
/// [`InstallError::File`].
pub fn let_go(mount: &Path) -> Result<(), InstallError> {
    let path = Path::new(UNLOCK);
    let line = word(mount.as_os_str().as_encoded_bytes());
    // One write is one request.
    let written = std::fs::File::options().write(true).open(path);
    match written.and_then(|mut file| file.write_all(&line)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// What the kernel's server knows of exports, by handle and by path. An entry holds its mount.
const CACHES: &str = "/proc/net/rpc";

/// Has the kernel's server empty what it knows of exports, so that it holds none of those that are no
/// longer exported: `false` where it has not, as there is none, or it was asked too often meanwhile.
///
/// exportfs(8) asks it to as well. But a cache is emptied of what is older than a second that is counted on
/// with each request (`write_flush`, net/sunrpc/cache.c), and a request within the second of the last
/// leaves everything where it is until the clock has caught up. So this waits for the clock first.
///
/// # Errors
/// [`InstallError::File`].
pub fn forget(patience: Duration) -> Result<bool, InstallError> {
    forget_in(Path::new(CACHES), patience)
}

fn forget_in(caches: &Path, patience: Duration) -> Result<bool, InstallError> {
    let end = Instant::now() + patience;
    // The first holds entries of the second.
    for cache in ["nfsd.fh", "nfsd.export"] {
        let path = caches.join(cache).join("flush");
        let now = loop {
            let text = read(&path)?;
            let Ok(flushed) = text.trim().parse().map(Duration::from_secs) else {
                return Ok(false);
            };
            let now = kernel_clock();
            if flushed.as_secs() < now.as_secs() {
                break now;
            }
            let pause = (flushed + Duration::from_secs(1)).saturating_sub(now);
            if Instant::now() + pause > end {
                return Ok(false);
            }
            std::thread::sleep(pause);
        };
        let line = format!("{}\n", now.as_secs());
        std::fs::write(&path, line).map_err(failed(&path))?;
    }
    Ok(true)
}

/// The time of day as the kernel counts its seconds: with the last tick, behind clocks that are read.
fn kernel_clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    )
}

/// A line of one word, as nfsd reads it: blanks, backslashes and line ends in octal.
fn word(path: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(path.len() + 1);
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => line.extend(format!("\\{byte:03o}").bytes()),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

fn hangup(path: &Path) -> Result<Told, InstallError> {
    let Some(pid) = ganesha_pid(path)? else {
        return Ok(Told::NotRunning);
    };
    match kill_process(pid, Signal::HUP) {
        Ok(()) => Ok(Told::Told),
        Err(rustix::io::Errno::SRCH) => Ok(Told::NotRunning),
        Err(error) => Err(InstallError::Ganesha {
            pid: pid.as_raw_nonzero().get(),
            path: path.to_owned(),
            why: error.to_string(),
        }),
    }
}

/// NFS-Ganesha's process, where it runs. A file that is left over may name any other process.
///
/// # Errors
/// [`InstallError::File`].
pub fn ganesha_pid(path: &Path) -> Result<Option<Pid>, InstallError> {
    let text = read(path)?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Ok(None);
    };
    let comm = format!("/proc/{}/comm", pid.as_raw_nonzero());
    let is_it = std::fs::read_to_string(comm).is_ok_and(|name| name.starts_with("ganesha"));
    Ok(is_it.then_some(pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_file_is_replaced_whole_and_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/x.exports");
        assert_eq!(read(&path).unwrap(), "");
        assert!(install(&path, "one\n").unwrap());
        let first = path.metadata().unwrap().ino();
        assert!(!install(&path, "one\n").unwrap());
        assert_eq!(path.metadata().unwrap().ino(), first);
        assert!(install(&path, "two\n").unwrap());
        assert_eq!(read(&path).unwrap(), "two\n");
        let names = std::fs::read_dir(dir.path().join("new")).unwrap();
        assert_eq!(names.count(), 1, "nothing is left beside it");
        // A directory in its place: nothing is left then, either.
        let taken = dir.path().join("taken");
        std::fs::create_dir_all(taken.join("x")).unwrap();
        let error = install(&taken, "x").unwrap_err().to_string();
        assert!(error.starts_with(taken.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_path_is_one_word_for_nfsd() {
        assert_eq!(word(b"/r/cn1"), b"/r/cn1\n");
        assert_eq!(word(b"/a b\\\n\xff"), b"/a\\040b\\134\\012\xff\n");
    }

    #[test]
    fn what_nfsd_knows_is_emptied_when_the_clock_is_past_the_last_time() {
        let dir = tempfile::tempdir().unwrap();
        let seconds = || kernel_clock().as_secs();
        let flush = |cache: &str| dir.path().join(cache).join("flush");
        let known = |cache: &str| -> u64 {
            let text = std::fs::read_to_string(flush(cache)).unwrap();
            text.trim().parse().unwrap()
        };
        assert!(!forget_in(dir.path(), Duration::from_secs(60)).unwrap());
        let ahead = seconds() + 1;
        for (cache, last) in [("nfsd.fh", ahead), ("nfsd.export", 7)] {
            std::fs::create_dir(dir.path().join(cache)).unwrap();
            std::fs::write(flush(cache), format!("{last}\n")).unwrap();
        }
        // Too far away: nothing is written.
        assert!(!forget_in(dir.path(), Duration::ZERO).unwrap());
        assert_eq!((known("nfsd.fh"), known("nfsd.export")), (ahead, 7));
        assert!(forget_in(dir.path(), Duration::from_secs(60)).unwrap());
        assert!(known("nfsd.fh") > ahead && known("nfsd.export") > ahead);
        assert!(known("nfsd.export") <= seconds());
    }

    #[test]
    fn a_process_of_another_name_is_not_signalled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ganesha.pid");
        for text in ["", "no number", "0", "-1", &std::process::id().to_string()] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(hangup(&path).unwrap(), Told::NotRunning, "{text}");
        }
        assert_eq!(hangup(&dir.path().join("none")).unwrap(), Told::NotRunning);
    }
}
