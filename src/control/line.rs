//! A line over a socket, of bounded length and within bounded time, whatever the other side does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Why no line was read or written.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It is longer than any that means something.
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    /// The other side went away in the middle of it.
    #[error("the line has no end")]
    Cut,
    /// It took too long.
    #[error("nothing came or went for too long")]
    Slow,
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

fn slow(error: io::Error) -> LineError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => LineError::Slow,
        _ => LineError::Socket(error),
    }
}

/// What is left until `end`; a socket takes no timeout of 0.
fn left(end: Instant) -> Result<Duration, LineError> {
    match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(LineError::Slow),
        left => Ok(left),
    }
}

/// Reads a line without its end; `None` where the other side is done. `rest` holds what came after
/// the line, for the next call.
///
/// # Errors
/// [`LineError`]; the connection is of no use then.
pub fn read_line(
    stream: &UnixStream,
    rest: &mut Vec<u8>,
    most: usize,
    patience: Duration,
) -> Result<Option<Vec<u8>>, LineError> {
    let end = Instant::now() + patience;
    let mut looked = 0;
    let mut buf = vec![0; 16 << 10];
    loop {
        if let Some(at) = rest[looked..].iter().position(|b| *b == b'\n') {
            let at = looked + at;
            if at > most {
                return Err(LineError::TooLong(most));
            }
            let after = rest.split_off(at + 1);
            let mut line = std::mem::replace(rest, after);
            line.pop();
            return Ok(Some(line));
        }
        looked = rest.len();
        if looked > most {
            return Err(LineError::TooLong(most));
        }
        stream.set_read_timeout(Some(left(end)?))?;
        match (&*stream).read(&mut buf) {
            Ok(0) if rest.is_empty() => return Ok(None),
            Ok(0) => return Err(LineError::Cut),
            Ok(n) => rest.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(slow(e)),
        }
    }
}

/// Writes a line and its end.
///
/// # Errors
/// [`LineError`].
pub fn write_line(stream: &UnixStream, line: &[u8], patience: Duration) -> Result<(), LineError> {
    let end = Instant::now() + patience;
    let whole = [line, b"\n"].concat();
    let mut todo = &whole[..];
    while !todo.is_empty() {
        stream.set_write_timeout(Some(left(end)?))?;
        match (&*stream).write(todo) {
            Ok(n) => todo = &todo[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(slow(e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_are_told_apart_and_bounded() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut rest = Vec::new();
        (&other).write_all(b"first\n\nthi").unwrap();
        let mut next = |most| read_line(&one, &mut rest, most, LONG);
        assert_eq!(next(9).unwrap().unwrap(), b"first");
        assert_eq!(next(9).unwrap().unwrap(), b"");
        (&other).write_all(b"rd\n").unwrap();
        assert_eq!(next(9).unwrap().unwrap(), b"third");
        (&other).write_all(b"0123456789\n").unwrap();
        assert!(matches!(next(9), Err(LineError::TooLong(9))));
    }

    #[test]
    fn a_line_without_an_end_is_none() {
        let (one, other) = UnixStream::pair().unwrap();
        (&other).write_all(b"half").unwrap();
        let slow = read_line(&one, &mut Vec::new(), 9, Duration::from_millis(1));
        assert!(matches!(slow, Err(LineError::Slow)), "{slow:?}");
        (&other).write_all(b"half").unwrap();
        drop(other);
        let cut = read_line(&one, &mut Vec::new(), 9, LONG);
        assert!(matches!(cut, Err(LineError::Cut)), "{cut:?}");
        assert!(read_line(&one, &mut Vec::new(), 9, LONG).unwrap().is_none());
    }

    #[test]
    fn who_does_not_read_is_not_waited_for() {
        let (one, _other) = UnixStream::pair().unwrap();
        let much = vec![b'x'; 8 << 20];
        let slow = write_line(&one, &much, Duration::from_millis(1));
        assert!(matches!(slow, Err(LineError::Slow)), "{slow:?}");
    }
}
