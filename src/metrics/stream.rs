//! A connection over TCP or a unix socket in which nothing waits beyond a deadline, and the client's
//! side of a scrape.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::Address;

/// More than this is no answer of ours: 10,000 nodes have 20 MB.
const LARGEST_ANSWER: u64 = 256 << 20;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

macro_rules! each {
    ($self:expr, $stream:ident => $what:expr) => {
        match $self {
            Stream::Tcp($stream) => $what,
            Stream::Unix($stream) => $what,
        }
    };
}

impl Stream {
    /// Connects; where nobody accepts, it gives up after `patience`.
    ///
    /// # Errors
    /// What connecting answers.
    pub fn connect(address: &Address, patience: Duration) -> io::Result<Stream> {
        match address {
            Address::Tcp(address) => TcpStream::connect_timeout(address, patience).map(Stream::Tcp),
            Address::Unix(path) => connect_unix(path, patience).map(Stream::Unix),
        }
    }

    /// Reads what is there, or comes before the deadline.
    ///
    /// # Errors
    /// `TimedOut`, and what reading answers.
    pub fn read_until(&mut self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let left = left(deadline)?;
        each!(self, s => s.set_read_timeout(Some(left)))?;
        each!(self, s => s.read(buf)).map_err(timed_out)
    }

    /// Writes all, unless the deadline comes first.
    ///
    /// # Errors
    /// `TimedOut`, and what writing answers.
    pub fn write_until(&mut self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = left(deadline)?;
            each!(self, s => s.set_write_timeout(Some(left)))?;
            match each!(self, s => s.write(bytes)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(timed_out(e)),
            }
        }
        Ok(())
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        each!(self, s => s.shutdown(how))
    }

    pub(super) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(s) => Stream::Tcp(s.try_clone()?),
            Stream::Unix(s) => Stream::Unix(s.try_clone()?),
        })
    }
}

/// std's connect has no time limit for unix sockets; the kernel's is the one for sending.
fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

/// A socket's own time limit is told as EAGAIN.
fn timed_out(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => e,
    }
}

/// Asks an endpoint for its metrics, within `patience` altogether.
///
/// # Errors
/// What connecting, writing and reading answer; `InvalidData` for what is no answer of ours.
pub fn get(address: &Address, patience: Duration) -> io::Result<String> {
    let deadline = Instant::now() + patience;
    let mut stream = Stream::connect(address, patience)?;
    let host = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_until(request.as_bytes(), deadline)?;
    let mut answer = Vec::new();
    let mut buf = vec![0; 64 << 10];
    loop {
        match stream.read_until(&mut buf, deadline) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if answer.len() as u64 > LARGEST_ANSWER {
            return Err(invalid("the answer is too long"));
        }
    }
    let answer = String::from_utf8(answer).map_err(|_| invalid("the answer is no text"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| invalid("the answer is not HTTP's"))?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(invalid(format!("the answer is \"{status}\"")));
    }
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, n)| n.trim().parse::<usize>().ok());
    match length {
        Some(length) if length == body.len() => Ok(body.to_owned()),
        _ => Err(invalid("the answer is not complete")),
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
