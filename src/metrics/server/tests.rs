use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::*;
use crate::metrics::{Op, Text, get};

/// For what must not happen at all, or happens in its own time.
const LONG: Duration = Duration::from_secs(60);

fn unix(dir: &tempfile::TempDir) -> Address {
    Address::Unix(dir.path().join("sub/m.sock"))
}

fn path(address: &Address) -> &Path {
    match address {
        Address::Unix(path) => path,
        Address::Tcp(_) => panic!("no path: {address}"),
    }
}

fn registry() -> Arc<Registry> {
    let registry = Registry::new();
    let node = registry.node("n1", || None);
    node.finish(Op::Lookup, node.begin(), 0);
    registry.source(move |text: &mut Text| {
        // Keeps the node.
        text.single(
            "seen",
            crate::metrics::Kind::Gauge,
            "-",
            node.name().len() as u64,
        );
    });
    registry
}

/// Sends bytes as they are, and reads to the end.
fn ask(address: &Address, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path(address)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_told_over_tcp_and_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let any = ["127.0.0.1:0", "[::1]:0"].map(|text| Address::Tcp(text.parse().unwrap()));
    for address in any.into_iter().chain([unix(&dir)]) {
        let server = match Server::start(&address, registry(), None) {
            Ok(server) => server,
            // A machine without IPv6.
            Err(e) if address.to_string().starts_with("[::1]") => {
                assert!(e.to_string().contains("ssign"), "{e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let text = get(server.address(), LONG).unwrap();
        assert!(text.contains("statelite_requests_total{node=\"n1\",op=\"lookup\"} 1\n"));
        let address = server.address().clone();
        drop(server);
        assert!(get(&address, LONG).is_err(), "{address} is still there");
    }
}

#[test]
fn what_listens_already_is_gone_on_with_at_its_address_only() {
    let dir = tempfile::tempdir().unwrap();
    let other = Address::Unix(dir.path().join("other"));
    let tcp = Address::Tcp("127.0.0.1:0".parse().unwrap());
    for address in [tcp, unix(&dir)] {
        // As if its process had ended without a chance to clear up, and somebody still had the descriptor.
        let server =
            std::mem::ManuallyDrop::new(Server::start(&address, registry(), None).unwrap());
        server.shared.ends.store(true, Ordering::Release);
        assert!(get(server.address(), LONG).is_err());
        let left = || Some(server.listener().try_clone_to_owned().unwrap());
        let taken = Server::start(server.address(), registry(), None);
        assert!(taken.unwrap_err().to_string().contains("another process"));
        let next = Server::start(server.address(), registry(), left()).unwrap();
        get(server.address(), LONG).unwrap();
        let elsewhere = Server::start(&other, registry(), left()).unwrap();
        get(&other, LONG).unwrap();
        drop((elsewhere, next));
    }
}

#[test]
fn wrong_requests_are_answered_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&unix(&dir), registry(), None).unwrap();
    let ask = |request: &[u8]| ask(server.address(), request);
    let ok = ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(ok.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4;"));
    let head = ask(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert!(ask(b"GET /nothing HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let post = ask(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.contains("Allow: GET, HEAD"),
        "{post}"
    );
    assert!(ask(b"\x16\x03\x01\x00\xa5\x01\n\n").starts_with("HTTP/1.1 400 "));
    assert!(ask(b"GET / HTTP/3.0\r\n\r\n").starts_with("HTTP/1.1 505 "));
    let long = format!("GET /metrics HTTP/1.1\r\nA: {}", "x".repeat(20_000));
    assert!(ask(long.as_bytes()).starts_with("HTTP/1.1 431 "));
    // Half a request, then no more.
    let mut stream = UnixStream::connect(path(server.address())).unwrap();
    stream.write_all(b"GET /metr").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn slow_clients_stop_nobody_and_the_oldest_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_patience(&unix(&dir), registry(), None, LONG).unwrap();
    let mut slow: Vec<UnixStream> = (0..2 * MOST)
        .map(|_| {
            let mut stream = UnixStream::connect(path(server.address())).unwrap();
            stream.write_all(b"GET /metrics HT").unwrap();
            stream
        })
        .collect();
    get(server.address(), LONG).unwrap();
    // The first ones' connections have ended, without an answer.
    for stream in &mut slow[..MOST] {
        let mut rest = String::new();
        match stream.read_to_string(&mut rest) {
            Ok(_) => assert!(!rest.contains(" 200 "), "{rest}"),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
    }
    // The last may still go on.
    let last = slow.last_mut().unwrap();
    last.write_all(b"TP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_request_that_does_not_come_in_time_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let patience = Duration::from_millis(50);
    let server = Server::with_patience(&unix(&dir), registry(), None, patience).unwrap();
    assert!(ask(server.address(), b"GET /metrics").starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_source_that_panics_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    registry.source(|_: &mut Text| panic!("as a test wants it"));
    let server = Server::start(&unix(&dir), registry, None).unwrap();
    for _ in 0..2 {
        let error = get(server.address(), LONG).unwrap_err().to_string();
        assert!(error.contains("500 Internal Server Error"), "{error}");
    }
}

#[test]
fn the_socket_is_its_owners_and_only_what_is_left_over_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let address = unix(&dir);
    let server = Server::start(&address, registry(), None).unwrap();
    let mode = std::fs::metadata(path(&address))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let taken = Server::start(&address, registry(), None)
        .unwrap_err()
        .to_string();
    assert!(taken.contains("another process listens there"), "{taken}");
    drop(server);
    assert!(!path(&address).exists(), "the socket's file is left");

    drop(std::os::unix::net::UnixListener::bind(path(&address)).unwrap());
    assert!(path(&address).exists());
    let server = Server::start(&address, registry(), None).unwrap();
    get(&address, LONG).unwrap();
    // Another's socket in its place is not removed.
    std::fs::remove_file(path(&address)).unwrap();
    let others = std::os::unix::net::UnixListener::bind(path(&address)).unwrap();
    drop(server);
    assert!(path(&address).exists());
    drop(others);

    std::fs::remove_file(path(&address)).unwrap();
    std::fs::write(path(&address), "a file").unwrap();
    let refused = Server::start(&address, registry(), None)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("no socket"), "{refused}");
    assert_eq!(std::fs::read(path(&address)).unwrap(), b"a file");
}
