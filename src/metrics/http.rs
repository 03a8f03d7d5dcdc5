//! As much of HTTP/1.1 (RFC 9112) as one page takes: a request's head to an answer.

use super::text::CONTENT_TYPE;

/// A request's head has at most so many bytes.
pub(super) const LONGEST_HEAD: usize = 8 << 10;

/// What a request is answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The metrics.
    Metrics,
    /// The head of that answer.
    MetricsHead,
    /// An error.
    Refused(Status),
}

/// An error's status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Status {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Timeout,
    HeadTooLong,
    Internal,
    Version,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::Timeout => "408 Request Timeout",
            Status::HeadTooLong => "431 Request Header Fields Too Large",
            Status::Internal => "500 Internal Server Error",
            Status::Version => "505 HTTP Version Not Supported",
        }
    }

    fn why(self) -> &'static str {
        match self {
            Status::BadRequest => "that is no request",
            Status::NotFound => "there is only /metrics",
            Status::MethodNotAllowed => "there is only GET and HEAD",
            Status::Timeout => "the request did not come in time",
            Status::HeadTooLong => "the request is too long",
            Status::Internal => "the metrics could not be put together; the log says more",
            Status::Version => "HTTP/1.1 is spoken here",
        }
    }
}

/// Where the head ends, if all of it is there.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let ends = |end: &[u8]| bytes.windows(end.len()).position(|w| w == end);
    // A lone LF ends a line too (RFC 9112, 2.2).
    match (ends(b"\r\n\r\n"), ends(b"\n\n")) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads a head, without the empty line at its end.
pub(super) fn judge(head: &[u8]) -> Verdict {
    use Verdict::Refused;
    // Empty lines before a request are skipped (RFC 9112, 2.2).
    let Ok(head) = std::str::from_utf8(head.trim_ascii_start()) else {
        return Refused(Status::BadRequest);
    };
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Refused(Status::BadRequest);
    };
    let token =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    let fields_are_right =
        lines.all(|line| line.split_once(':').is_some_and(|(name, _)| token(name)));
    if !token(method) || target.is_empty() || !fields_are_right {
        return Refused(Status::BadRequest);
    }
    match version.strip_prefix("HTTP/") {
        Some("1.0" | "1.1") => {}
        Some(_) => return Refused(Status::Version),
        None => return Refused(Status::BadRequest),
    }
    let path = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    match (path.split('?').next(), method) {
        (Some("/metrics"), "GET") => Verdict::Metrics,
        (Some("/metrics"), "HEAD") => Verdict::MetricsHead,
        (Some("/metrics"), _) => Refused(Status::MethodNotAllowed),
        _ => Refused(Status::NotFound),
    }
}

/// The answer's bytes for the metrics' text.
pub(super) fn page(text: &str, head_only: bool) -> String {
    let length = text.len();
    let body = if head_only { "" } else { text };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// The answer's bytes for an error.
pub(super) fn refusal(status: Status) -> String {
    let body = format!("{}\n", status.why());
    let allow = match status {
        Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{allow}\
         Connection: close\r\n\r\n{body}",
        status.line(),
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged() {
        use Status::*;
        use Verdict::*;
        let cases: [(&[u8], Verdict); 17] = [
            (b"GET /metrics HTTP/1.1\r\nHost: x", Metrics),
            (b"\r\nGET /metrics?a=b HTTP/1.0", Metrics),
            (b"GET http://h:1/metrics HTTP/1.1", Metrics),
            (b"HEAD /metrics HTTP/1.1\nHost: x\nAccept: */*", MetricsHead),
            (b"POST /metrics HTTP/1.1", Refused(MethodNotAllowed)),
            (b"GET / HTTP/1.1", Refused(NotFound)),
            (b"GET http://h HTTP/1.1", Refused(NotFound)),
            (b"GET /metrics/ HTTP/1.1", Refused(NotFound)),
            (b"POST /other HTTP/1.1", Refused(NotFound)),
            (b"PRI * HTTP/2.0", Refused(Version)),
            (b"GET /metrics", Refused(BadRequest)),
            (b"GET  /metrics HTTP/1.1", Refused(BadRequest)),
            (b"GET /metrics FTP/1.1", Refused(BadRequest)),
            (b"GET /metrics HTTP/1.1\r\nno field", Refused(BadRequest)),
            (b"GET /metrics HTTP/1.1\r\nna me: x", Refused(BadRequest)),
            (b"\xff\xfe\x00\x01", Refused(BadRequest)),
            (b"", Refused(BadRequest)),
        ];
        for (head, verdict) in cases {
            assert_eq!(judge(head), verdict, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line_of_either_kind() {
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nA: b\r\n"), None);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r\nrest"), Some(14));
        assert_eq!(head_end(b"GET / HTTP/1.1\n\nGET\r\n\r\n"), Some(14));
    }

    #[test]
    fn answers_say_their_length() {
        assert!(
            page("a 1\n", false).ends_with("Content-Length: 4\r\nConnection: close\r\n\r\na 1\n")
        );
        assert!(page("a 1\n", true).ends_with("Content-Length: 4\r\nConnection: close\r\n\r\n"));
        let refused = refusal(Status::MethodNotAllowed);
        assert!(refused.starts_with("HTTP/1.1 405 "));
        assert!(refused.contains("\r\nAllow: GET, HEAD\r\n"));
    }
}
