//! The control socket itself: who may speak, and what is done about those who speak badly.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use serde_json::Value;

use crate::cluster::{Cluster, chmod, mode};
use crate::daemon::Daemon;

/// Somebody who is not root.
const NOBODY: u32 = 65534;

fn connect(c: &Cluster) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(c.path("run/control.sock")).unwrap())
}

fn reply(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

fn say(stream: &mut BufReader<UnixStream>, line: &[u8]) -> Value {
    stream.get_mut().write_all(&[line, b"\n"].concat()).unwrap();
    reply(stream)
}

#[test]
fn root_alone_may_ask() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    let socket = c.path("run/control.sock");
    assert_eq!(mode(&socket), 0o600);
    let as_nobody = || {
        c.command(&["status"])
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap()
    };
    let out = as_nobody();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("only root"),
        "{out:?}"
    );
    // The mode is not all that keeps others out.
    chmod(&socket, 0o666).unwrap();
    let out = as_nobody();
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("only root may ask the daemon"),
        "{out:?}"
    );
    assert!(d.log().contains("turned away"), "{}", d.log());
    assert!(c.run(&["status"]).status.success());
}

#[test]
fn garbage_is_answered_and_stops_nobody() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    let mut stream = connect(&c);
    for garbage in [
        &b"hello"[..],
        b"",
        b"\xff\xfe\0",
        b"[]",
        br#"{"v":1}"#,
        br#"{"v":1,"do":"dance"}"#,
        br#"{"do":"status"}"#,
    ] {
        let reply = say(&mut stream, garbage);
        assert_eq!(reply["error"]["code"], "garbage", "{reply}");
    }
    let reply = say(&mut stream, br#"{"v":99,"do":"status"}"#);
    assert!(
        reply["error"]["message"]
            .as_str()
            .unwrap()
            .contains("version 99"),
        "{reply}"
    );
    // The same connection still serves, and fields that it does not know are passed over.
    let reply = say(&mut stream, br#"{"v":1,"do":"status","colour":"red"}"#);
    assert_eq!(reply["ok"]["nodes"].as_array().unwrap().len(), 2, "{reply}");
    let reply = say(&mut stream, br#"{"v":1,"do":"umount","nodes":"nobody[1-"}"#);
    assert_eq!(reply["error"]["code"], "unknown", "{reply}");
    drop(d);
}

#[test]
fn a_line_without_end_and_callers_that_hang_stop_nobody() {
    let c = Cluster::new(&[]);
    let d = Daemon::start(&c);
    // More than a request may have: it is not read to its end.
    let mut long = connect(&c);
    let sent = long.get_mut().write_all(&vec![b'x'; 1 << 20]);
    // The daemon may be gone from the other end before all is written.
    assert!(sent.is_ok() || sent.is_err_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe));
    let hanging: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(&c);
            stream.get_mut().write_all(b"{\"v\":1,").unwrap();
            stream
        })
        .collect();
    assert!(c.run(&["status"]).status.success());
    assert_eq!(d.reload()["unchanged"], 2);
    // So many that no more are let in: they are told so, and after a while given up.
    let mut crowd = Vec::new();
    let turned_away = (0..200).any(|_| {
        let mut stream = connect(&c);
        stream
            .get_mut()
            .set_read_timeout(Some(std::time::Duration::from_millis(50)))
            .unwrap();
        let mut line = String::new();
        let told = stream.read_line(&mut line).is_ok() && line.contains("too many callers");
        crowd.push(stream);
        told
    });
    assert!(turned_away, "{}", d.log());
    crate::cluster::eventually("those that hang are given up", || {
        c.run(&["status"]).status.success()
    });
    drop((hanging, crowd));
}
