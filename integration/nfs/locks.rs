//! Two clients and a process of the server want the same bytes: NLM beside NFSv3, and NFSv4's own locks.

use std::fs::File;

use crate::harness::sys::conflicting_lock;
use crate::server::Client;
use crate::site::{Served, cluster};

over_both_versions!(one_has_it_and_the_other_waits);

/// A client that has a file open, and what its requests for a lock call that.
fn opened(s: &Served<'_>, version: u32) -> (Client, String) {
    let mut client = s.ganesha.client(version, 1);
    client.get(&["open", "0", "/etc/image"]);
    let file = match version {
        3 => client.get(&["handle", "/etc/image"]),
        _ => "0".into(),
    };
    (client, file)
}

fn one_has_it_and_the_other_waits(version: u32) {
    let c = cluster();
    let s = Served::start(&c);
    let here = File::options()
        .write(true)
        .open(s.daemon.at(1, "etc/image"));
    let here = here.unwrap();
    let locked = |start| conflicting_lock(&here, start, 1).unwrap() == libc::F_WRLCK as i16;
    // libnfs counts wrong once a lock of version 4 was refused or given back: who goes on is another one.
    let refused = |start: &str| {
        let (mut client, file) = opened(&s, version);
        client.ask(&["lock", &file, start, "1"]).is_err()
    };
    let (mut one, file) = opened(&s, version);
    let (mut other, its) = opened(&s, version);
    assert!(!locked(0));
    one.get(&["lock", &file, "0", "10"]);
    assert!(locked(0) && locked(9) && !locked(10));
    assert!(refused("0") && refused("9"));
    // Beside it.
    other.get(&["lock", &its, "10", "10"]);
    assert!(refused("10") && refused("19"));
    one.get(&["unlock", &file, "0", "10"]);
    assert!(!locked(0) && locked(10));
    assert!(!refused("0") && refused("10"));
    other.get(&["unlock", &its, "10", "10"]);
    assert!(!locked(10) && !refused("10"));
}
