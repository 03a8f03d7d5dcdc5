//! The endpoint: GET /metrics over HTTP/1.1, a thread a connection, each with a deadline. Who is slow
//! stops nobody: beyond [`MOST`] connections the oldest is cut off.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::http::{self, Status, Verdict};
use super::{Address, Registry, Stream, clock};

/// Connections at once.
const MOST: usize = 32;
/// A request must be there after this, and its answer taken after as much again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for a client to take what was said before it is cut off.
const LINGER: Duration = Duration::from_secs(1);
/// Before accepting is tried again where it fails, as without descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("metrics: listening on {address}: {why}")]
pub struct ServeError {
    address: String,
    why: String,
}

/// An endpoint; dropped, it listens no more, and its socket's file is gone.
#[derive(Debug)]
pub struct Server {
    address: Address,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    file: Option<SocketFile>,
}

/// A unix socket's file: its device and inode, so that no other's is removed.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

#[derive(Debug)]
struct Shared {
    listener: Listener,
    registry: Arc<Registry>,
    patience: Duration,
    ends: AtomicBool,
    live: Mutex<BTreeMap<u64, Stream>>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Server {
    /// Listens, and answers from then on. A unix socket is for its owner only (0600); what a killed
    /// process left in its place is replaced. `left`: what another process has listened with, for this one
    /// to go on with if it is of this address.
    ///
    /// # Errors
    /// [`ServeError`]: the address is taken, or can't be used.
    pub fn start(
        address: &Address,
        registry: Arc<Registry>,
        left: Option<OwnedFd>,
    ) -> Result<Server, ServeError> {
        Self::with_patience(address, registry, left, PATIENCE)
    }

    fn with_patience(
        address: &Address,
        registry: Arc<Registry>,
        left: Option<OwnedFd>,
        patience: Duration,
    ) -> Result<Server, ServeError> {
        let failed = |e: io::Error| ServeError {
            address: address.to_string(),
            why: match e.kind() {
                io::ErrorKind::AddrInUse => "another process listens there".into(),
                _ => e.to_string(),
            },
        };
        let (listener, file) = match left.and_then(|left| go_on(address, left)) {
            Some(left) => left,
            None => listen(address).map_err(failed)?,
        };
        let address = match &listener {
            Listener::Tcp(tcp) => Address::Tcp(tcp.local_addr().map_err(failed)?),
            Listener::Unix(_) => address.clone(),
        };
        let shared = Arc::new(Shared {
            listener,
            registry,
            patience,
            ends: AtomicBool::new(false),
            live: Mutex::default(),
        });
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("statelite-metrics".into())
            .spawn(move || serving.accept())
            .map_err(failed)?;
        tracing::info!(%address, "metrics are told");
        clock::tell_if_slow();
        Ok(Server {
            address,
            shared,
            thread: Some(thread),
            file,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Does this listen at the address?
    pub fn is_at(listener: &OwnedFd, address: &Address) -> bool {
        let Ok(is) = rustix::net::getsockname(listener) else {
            return false;
        };
        match address {
            Address::Tcp(wanted) => SocketAddr::try_from(is)
                .is_ok_and(|is| is.ip() == wanted.ip() && [0, is.port()].contains(&wanted.port())),
            Address::Unix(path) => SocketAddrUnix::try_from(is)
                .is_ok_and(|is| is.path_bytes() == Some(path.as_os_str().as_bytes())),
        }
    }

    /// What it listens with.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.shared.listener.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(SocketFile { path, id }) = &self.file
            && std::fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == *id)
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the metrics' socket is left");
        }
        self.shared.ends.store(true, Ordering::Release);
        // This ends the accept that the thread waits in.
        if let Err(error) =
            rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both)
        {
            tracing::debug!(%error, "the metrics' listener");
            return;
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that answers for metrics failed");
        }
    }
}

fn listen(address: &Address) -> io::Result<(Listener, Option<SocketFile>)> {
    match address {
        Address::Tcp(address) => Ok((Listener::Tcp(TcpListener::bind(address)?), None)),
        Address::Unix(path) => {
            let listener = listen_unix(path)?;
            Ok((Listener::Unix(listener), Some(SocketFile::at(path)?)))
        }
    }
}

/// Listens with what is listening already, if that is at the address.
fn go_on(address: &Address, left: OwnedFd) -> Option<(Listener, Option<SocketFile>)> {
    if !Server::is_at(&left, address) {
        return None;
    }
    match address {
        Address::Tcp(_) => Some((Listener::Tcp(left.into()), None)),
        Address::Unix(path) => {
            let file = SocketFile::at(path).ok()?;
            Some((Listener::Unix(left.into()), Some(file)))
        }
    }
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        let made = std::fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.into(),
            id: (made.dev(), made.ino()),
        })
    }
}

fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        crate::sys::dir::make_all(dir)?;
    }
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the socket's mode: it is closed to others from the beginning.
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) => {
            remove_left_over(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    rustix::net::listen(&socket, 128)?;
    Ok(socket.into())
}

/// Removes a socket that nobody listens on any more.
fn remove_left_over(path: &Path) -> io::Result<()> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("a file is there that is no socket"));
    }
    match Stream::connect(&Address::Unix(path.into()), LINGER) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(tcp) => tcp.as_fd(),
            Listener::Unix(unix) => unix.as_fd(),
        }
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(tcp) => tcp.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(unix) => unix.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>) {
        let mut number = 0;
        loop {
            let accepted = self.listener.accept();
            if self.ends.load(Ordering::Acquire) {
                return;
            }
            match accepted {
                Ok(stream) => {
                    number += 1;
                    if let Err(error) = self.serve(number, stream) {
                        tracing::warn!(%error, "a scrape is not answered");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "no scrape is accepted now");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn serve(self: &Arc<Self>, number: u64, stream: Stream) -> io::Result<()> {
        let second = stream.try_clone()?;
        {
            let mut live = self.live.lock();
            if live.len() >= MOST
                && let Some((_, oldest)) = live.pop_first()
            {
                cut(&oldest);
            }
            live.insert(number, second);
        }
        let connection = Connection {
            shared: self.clone(),
            number,
        };
        std::thread::Builder::new()
            .name("statelite-scrape".into())
            .spawn(move || {
                let mut stream = stream;
                if let Err(error) = connection.answer(&mut stream) {
                    tracing::debug!(%error, "a scrape ended early");
                }
            })?;
        Ok(())
    }
}

/// A connection in the list of those that live, until it is dropped.
struct Connection {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.live.lock().remove(&self.number);
    }
}

fn cut(stream: &Stream) {
    // It may have ended by itself.
    if let Err(error) = stream.shutdown(Shutdown::Both) {
        tracing::trace!(%error, "a connection was gone before it was cut off");
    }
}

impl Connection {
    fn answer(&self, stream: &mut Stream) -> io::Result<()> {
        let verdict = match self.read_head(stream)? {
            None => return Ok(()),
            Some(verdict) => verdict,
        };
        let answer = match verdict {
            Verdict::Refused(status) => http::refusal(status),
            wanted => match catch_unwind(AssertUnwindSafe(|| self.shared.registry.text())) {
                Ok(text) => http::page(&text, wanted == Verdict::MetricsHead),
                Err(_) => {
                    tracing::error!(
                        "the metrics could not be put together: a source failed inside"
                    );
                    http::refusal(Status::Internal)
                }
            },
        };
        let deadline = Instant::now() + self.shared.patience;
        stream.write_until(answer.as_bytes(), deadline)?;
        stream.shutdown(Shutdown::Write)?;
        // Closed with something unread, the connection would be reset, and the answer lost with it.
        let deadline = Instant::now() + LINGER.min(self.shared.patience);
        let mut rest = [0; 4096];
        while stream.read_until(&mut rest, deadline)? > 0 {}
        Ok(())
    }

    /// What the request is to be answered with; nothing where none came.
    fn read_head(&self, stream: &mut Stream) -> io::Result<Option<Verdict>> {
        let deadline = Instant::now() + self.shared.patience;
        let mut head = Vec::new();
        let mut buf = [0; 2048];
        loop {
            match stream.read_until(&mut buf, deadline) {
                Ok(0) if head.is_empty() => return Ok(None),
                Ok(0) => return Ok(Some(Verdict::Refused(Status::BadRequest))),
                Ok(n) => head.extend_from_slice(&buf[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    return Ok(Some(Verdict::Refused(Status::Timeout)));
                }
                Err(e) => return Err(e),
            }
            if let Some(end) = http::head_end(&head) {
                return Ok(Some(http::judge(&head[..end])));
            }
            if head.len() > http::LONGEST_HEAD {
                return Ok(Some(Verdict::Refused(Status::HeadTooLong)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
