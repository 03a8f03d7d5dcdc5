//! Metrics of a mounted view: what is done to it is what is told; the endpoint; `statelite top`; repeated
//! log messages.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "metrics/exposition.rs"]
mod exposition;
mod harness;
#[path = "metrics/terminal.rs"]
mod terminal;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use exposition::Exposition;
use harness::*;
use statelite::metrics::{Address, get};

const PATIENCE: Duration = Duration::from_secs(60);

/// A view on a tmpfs, mounted with a configuration of its own.
struct View {
    root: PathBuf,
    upper: PathBuf,
    config: PathBuf,
    address: Address,
    /// What the mount command said.
    said: String,
    _store: Tmpfs,
    dir: tempfile::TempDir,
}

const TMPFS_SIZE: u64 = 32 << 20;

fn program() -> PathBuf {
    std::env::var_os("STATELITE_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_statelite").into(), PathBuf::from)
}

impl View {
    /// `address` gets the scratch directory.
    fn new(address: impl FnOnce(&Path) -> String, fill: impl FnOnce(&Path)) -> Self {
        let dir = scratch();
        let at = |name: &str| dir.path().join(name);
        for name in ["lower", "store", "view"] {
            mkdir(at(name), 0o755).unwrap();
        }
        let store = Tmpfs::new(&at("store"), TMPFS_SIZE);
        mkdir(at("store/upper"), 0o755).unwrap();
        mkdir(at("store/work"), 0o755).unwrap();
        fill(&at("lower"));
        let address = address(dir.path());
        let config = at("statelite.toml");
        // The kernel asks once for each name, and one thread answers in order; reads and writes come
        // to the daemon.
        let text = format!(
            "metrics = \"{address}\"\nio = \"daemon\"\ncache_lifetime = \"1h\"\nthreads = 1\nlog_format = \"json\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let ran = Command::new(program())
            .arg("--config")
            .arg(&config)
            .arg("--log-file")
            .arg(at("log"))
            .args(["mount", "--lower"])
            .arg(at("lower"))
            .arg("--upper")
            .arg(at("store/upper"))
            .arg("--work")
            .arg(at("store/work"))
            .arg(at("view"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut said = String::from_utf8(ran.stderr).unwrap();
        said += &std::fs::read_to_string(at("log")).unwrap();
        assert!(ran.status.success(), "{said}");
        Self {
            root: at("view"),
            upper: at("store/upper"),
            config,
            address: address.parse().unwrap(),
            said,
            _store: store,
            dir,
        }
    }

    fn with_socket(fill: impl FnOnce(&Path)) -> Self {
        Self::new(|dir| format!("unix:{}/run/m.sock", dir.display()), fill)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn node(&self) -> &str {
        self.upper.to_str().unwrap()
    }

    /// The metrics once all that was done is counted: the answer to a request may come before it is, and
    /// the kernel tells of closed files later.
    fn settled(&self) -> Exposition {
        statfs(&self.root).unwrap();
        let mut last = String::new();
        poll_until("metrics at rest", || {
            let now = get(&self.address, PATIENCE).unwrap();
            std::mem::replace(&mut last, now.clone()) == now
        });
        Exposition::parse(&last)
    }

    fn count(&self, metrics: &Exposition, op: &str) -> f64 {
        let labels = [("node", self.node()), ("op", op)];
        metrics.get("statelite_requests_total", &labels)
    }

    fn top(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program());
        command
            .arg("--config")
            .arg(&self.config)
            .arg("top")
            .args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn socket(&self) -> UnixStream {
        match &self.address {
            Address::Unix(path) => UnixStream::connect(path).unwrap(),
            Address::Tcp(_) => panic!("{} is no unix socket", self.address),
        }
    }

    fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if unmount(&self.root).is_err() {
            rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

fn statfs(path: &Path) -> Result<rustix::fs::StatFs> {
    rustix::fs::statfs(path)
}

fn fill(lower: &Path) {
    for n in 0..7 {
        write(lower.join(format!("l{n}")), "x").unwrap();
    }
    write(lower.join("thousand"), "y".repeat(1000)).unwrap();
    write(lower.join("read"), "z".repeat(3000)).unwrap();
}

#[test]
fn what_is_done_is_counted_exactly() {
    let view = View::with_socket(fill);
    for n in 0..7 {
        lstat(view.at(&format!("l{n}"))).unwrap();
    }
    for n in 0..3 {
        fails!(lstat(view.at(&format!("missing{n}"))), NOENT);
    }
    // A name that is not there is looked up before something is made in its place.
    for n in 0..4 {
        write(view.at(&format!("new{n}")), "").unwrap();
    }
    mkdir(view.at("d"), 0o755).unwrap();
    mkdir(view.at("d/full"), 0o755).unwrap();
    for _ in 0..5 {
        fails!(rmdir(view.at("d")), NOTEMPTY);
    }
    for _ in 0..2 {
        fails!(
            rustix::fs::removexattr(view.at("new0"), c"user.none"),
            NODATA
        );
    }
    chmod(view.at("thousand"), 0o600).unwrap();
    assert_eq!(read(view.at("read")).unwrap().len(), 3000);
    write(view.at("written"), "w".repeat(5000)).unwrap();

    let metrics = view.settled();
    // 7 and 3; of new files 4 and "written", of directories 2; "thousand" and "read".
    assert_eq!(view.count(&metrics, "lookup"), 7.0 + 3.0 + 5.0 + 2.0 + 2.0);
    assert_eq!(view.count(&metrics, "create"), 5.0);
    assert_eq!(view.count(&metrics, "mkdir"), 2.0);
    assert_eq!(view.count(&metrics, "rmdir"), 5.0);
    assert_eq!(view.count(&metrics, "release"), 6.0);
    let errors = |op, errno| {
        metrics.get(
            "statelite_request_errors_total",
            &[("op", op), ("errno", errno)],
        )
    };
    assert_eq!(errors("lookup", "ENOENT"), 3.0 + 5.0 + 2.0);
    assert_eq!(errors("rmdir", "ENOTEMPTY"), 5.0);
    assert_eq!(errors("removexattr", "ENODATA"), 2.0);
    let node = [("node", view.node())];
    assert_eq!(
        metrics.get("statelite_node_errors_total", &node),
        metrics.sum("statelite_request_errors_total")
    );
    assert_eq!(metrics.get("statelite_node_failures_total", &node), 0.0);
    assert_eq!(metrics.get("statelite_copy_ups_total", &[]), 1.0);
    assert_eq!(metrics.get("statelite_copy_up_bytes_total", &[]), 1000.0);
    assert_eq!(metrics.get("statelite_read_bytes_total", &[]), 3000.0);
    assert_eq!(metrics.get("statelite_written_bytes_total", &[]), 5000.0);
    assert_eq!(metrics.get("statelite_panics_total", &[]), 0.0);

    // Every request has a duration.
    for (labels, count) in metrics.of("statelite_request_duration_seconds_count") {
        assert_eq!(count, view.count(&metrics, &labels["op"]), "{labels:?}");
    }
    assert_eq!(
        metrics.sum("statelite_request_duration_seconds_count"),
        metrics.sum("statelite_requests_total")
    );
    let seconds = metrics.get("statelite_node_request_seconds_total", &node);
    let by_op = metrics.sum("statelite_request_duration_seconds_sum");
    assert!(
        seconds > 0.0 && (seconds - by_op).abs() < 1e-6,
        "{seconds} and {by_op}"
    );

    assert_eq!(metrics.get("statelite_nodes", &[]), 1.0);
    let inodes = metrics.get("statelite_node_inodes", &node);
    assert!((17.0..100.0).contains(&inodes), "{inodes}");
    assert_eq!(
        metrics.get("statelite_node_tmpfs_size_bytes", &node),
        TMPFS_SIZE as f64
    );
    let used = metrics.get("statelite_node_tmpfs_used_bytes", &node);
    let store = statfs(&view.upper).unwrap();
    assert_eq!(
        used,
        ((store.f_blocks - store.f_bfree) * store.f_bsize as u64) as f64
    );
    assert!(used >= 6000.0);
}

/// What the documents list is what is told.
#[test]
fn the_documented_families_are_the_ones_that_are_told() {
    let view = View::with_socket(fill);
    let doc = include_str!("../docs/OPERATIONS.md");
    let section = doc
        .split("\n## Metrics\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let listed: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `statelite_"))
        .map(|line| line.split(['`', '{']).next().unwrap())
        .collect();
    let metrics = view.settled();
    for family in metrics.families() {
        let name = family.strip_prefix("statelite_").unwrap();
        assert!(
            listed.contains(&name),
            "{family} is not in docs/OPERATIONS.md"
        );
    }
    // What only the daemon of many roots has.
    let parts = |name: &str| {
        ["lookup_cache_", "watch", "worker_"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    for name in listed.into_iter().filter(|name| !parts(name)) {
        let family = format!("statelite_{name}");
        assert!(
            metrics.families().contains(&*family),
            "{family} is not told"
        );
    }
}

#[test]
fn a_full_store_is_a_failure_and_its_messages_are_held_back() {
    let view = View::with_socket(fill);
    let file = open_rw(view.at("l0")).unwrap();
    let block = "f".repeat(1 << 20);
    let mut refused = 0.0;
    for at in 0..80 {
        if pwrite(&file, at << 20, &block) == Err(Errno::NOSPC) {
            refused += 1.0;
        }
    }
    assert!(refused > 40.0, "{refused}");
    let metrics = view.settled();
    let node = [("node", view.node())];
    let failures = metrics.get("statelite_node_failures_total", &node);
    assert!(failures >= refused, "{failures} and {refused}");
    drop(file);
    unmount(&view.root).unwrap();
    let mut told = (0.0, 0.0);
    poll_until("the count of what was left out", || {
        let log = view.log();
        let of = |message: &'static str| {
            log.iter()
                .filter(move |l| l["fields"]["message"] == message)
        };
        let written = of("request failed").count() as f64;
        let left_out = of("repeated messages were left out")
            .map(|l| l["fields"]["left_out"].as_f64().unwrap());
        told = (written, left_out.sum());
        told.0 + told.1 == failures
    });
    assert!(told.0 >= 10.0, "{told:?}");
}

#[test]
fn the_endpoint_takes_what_comes() {
    let view = View::with_socket(fill);
    let ask = |request: &[u8]| {
        let mut stream = view.socket();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut slow: Vec<UnixStream> = (0..5).map(|_| view.socket()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX").unwrap();
    }
    assert!(ask(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(ask(b"HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(b"DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(ask(b"\x00\xff\x80garbage\n\n").starts_with("HTTP/1.1 400 "));
    assert!(ask(&[b'a'; 30_000]).starts_with("HTTP/1.1 431 "));
    // One that asks and never reads.
    let mut deaf = view.socket();
    deaf.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    drop(slow);
    view.settled();
    lstat(view.at("l1")).unwrap();
}

#[test]
fn one_address_is_one_daemons_and_the_root_is_mounted_all_the_same() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let first = View::new(|_| port.to_string(), fill);
    let second = View::new(|_| port.to_string(), fill);
    assert!(
        second.said.contains("another process listens there"),
        "{}",
        second.said
    );
    lstat(second.at("l1")).unwrap();
    let metrics = first.settled();
    let nodes: Vec<_> = metrics.of("statelite_node_inodes").collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].0["node"], first.node());
}

#[test]
fn a_wrong_address_is_an_error_of_the_configuration() {
    let dir = scratch();
    let config = dir.path().join("s.toml");
    std::fs::write(&config, "\nmetrics = \"localhost:1\"\n").unwrap();
    let ran = Command::new(program())
        .arg("--config")
        .arg(&config)
        .arg("check")
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        said.contains("s.toml:2:11: \"localhost:1\" is no address"),
        "{said}"
    );
}

#[test]
fn the_socket_is_roots_and_goes_with_the_daemon() {
    let view = View::with_socket(fill);
    let Address::Unix(path) = &view.address else {
        panic!("{}", view.address);
    };
    assert_eq!(lstat(path).unwrap().st_mode & 0o777, 0o600);
    unmount(&view.root).unwrap();
    poll_until("the socket's end", || lstat(path).is_err());
}

#[test]
fn top_says_once_what_happens() {
    let view = View::with_socket(fill);
    fails!(lstat(view.at("missing")), NOENT);
    view.settled();
    let ran = view.top(&["--once", "--json", "--interval", "0.1"]);
    assert!(ran.status.success(), "{ran:?}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(report["all"]["nodes"], 1);
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["interval_seconds"].as_f64().unwrap() >= 0.1);
    let node = &report["nodes"][0];
    assert_eq!(node["node"], view.node());
    assert!(node["requests"].as_f64().unwrap() >= 2.0);
    assert_eq!(node["errors"], 1.0);
    assert_eq!(node["tmpfs_size_bytes"], TMPFS_SIZE as f64);

    // Without a terminal it is once, as text.
    let ran = view.top(&["--interval", "0.1", "--sort", "errors"]);
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(
        text.starts_with("1 nodes, ") && text.contains(view.node()),
        "{text}"
    );

    let ran = view.top(&["--metrics", "unix:/nonexistent/m.sock"]);
    assert_eq!(ran.status.code(), Some(1));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("/nonexistent/m.sock"), "{said}");
    assert_eq!(view.top(&["--sort", "colour"]).status.code(), Some(2));
    assert_eq!(view.top(&["--interval", "0"]).status.code(), Some(2));
}

#[test]
fn top_gives_the_terminal_back() {
    let view = View::with_socket(fill);
    let mut command = Command::new("setsid");
    command
        .arg("-c")
        .arg(program())
        .arg("--config")
        .arg(&view.config);
    command.args(["top", "--interval", "0.1"]);
    type End = (&'static str, fn(&mut terminal::Session));
    let ends: [End; 3] = [
        ("q", |session| session.type_in("q")),
        ("Ctrl-C", |session| session.type_in("\x03")),
        ("SIGTERM", |session| {
            session.signal(rustix::process::Signal::TERM)
        }),
    ];
    for (how, end) in ends {
        let mut session = terminal::Session::start(&mut command, 30, 24);
        session.wait_for("\x1b[?1049h");
        session.wait_for("nodes,");
        session.type_in("s\x1b[B");
        session.wait_for("latency");
        assert!(session.is_raw(), "{how}");
        session.resize(100, 30);
        session.wait_for("select");
        end(&mut session);
        let status = session.ended(how);
        assert!(status.success(), "{how}: {status}");
        assert!(
            session.is_as_before(),
            "{how}: the terminal's mode has changed"
        );
        let said = session.said();
        let left = said
            .rfind("\x1b[?1049l")
            .unwrap_or_else(|| panic!("{how}: {said:?}"));
        assert!(left > said.rfind("\x1b[?1049h").unwrap(), "{how}");
        let hidden = said.rfind("\x1b[?25l").unwrap_or(0);
        assert!(
            said.rfind("\x1b[?25h").is_some_and(|shown| shown > hidden),
            "{how}: no cursor"
        );
    }
}
