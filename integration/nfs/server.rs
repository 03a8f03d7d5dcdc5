//! NFS-Ganesha over mounted roots, and its clients, in namespaces of their own.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use crate::cluster::{Cluster, dir, eventually, text};
use crate::daemon::prepare;

/// Starts it; see there.
const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/nfs/serve.sh");

/// A cluster of which an NFS server may be told.
pub fn site(rules: &[(&str, &str)]) -> Cluster {
    let c = Cluster::new(rules);
    prepare(&c);
    c.table("hosts", "#node,ip\n%1,10.9.1.1\n%2,\"10.9.2.1,fd00::2\"\n");
    c.set("exports_file", &c.quoted("exports.d/x.exports"));
    c.set("ganesha_file", &c.quoted("ganesha/statelite.conf"));
    c.set("ganesha_pid", &c.quoted("ganesha/pid"));
    c
}

/// The server, by what `ganesha/statelite.conf` of the cluster says.
pub struct Ganesha<'a> {
    cluster: &'a Cluster,
    child: Child,
    to: Option<ChildStdin>,
}

impl<'a> Ganesha<'a> {
    pub fn start(cluster: &'a Cluster) -> Self {
        let mut child = Command::new("unshare")
            .args(["-m", "-n", "--propagation", "slave", SERVE])
            .arg(dir(cluster.path("ganesha")))
            .arg("2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take(), child.stdout.take().unwrap());
        let ganesha = Self { cluster, child, to };
        // Who fails says so and ends.
        let mut line = String::new();
        BufReader::new(from).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        ganesha
    }

    /// A program in its namespaces.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-n", "-t", &self.child.id().to_string()]);
        command.arg(program);
        command
    }

    /// All that a command in its namespaces prints.
    pub fn run(&self, command: &str) -> String {
        let Output { stdout, stderr, .. } =
            self.command("bash").args(["-c", command]).output().unwrap();
        String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
    }

    /// Where a client finds a path of a node's root. Who is not that node comes from elsewhere.
    pub fn url(&self, version: u32, client: u32, node: u32, path: &str) -> String {
        let root = self.cluster.path("roots").join(self.cluster.node(node));
        address(version, client, &root.join(path))
    }

    /// Waits until it has followed the daemon: a node can mount its root.
    #[track_caller]
    pub fn comes_to_export(&self, node: u32) {
        let url = self.url(4, node, node, "");
        eventually("it is exported", || {
            let list = self.command("nfs-ls").arg(&url).output().unwrap();
            list.status.success() && !list.stdout.is_empty()
        });
    }

    /// A client of a node's root that comes from the node.
    pub fn client(&self, version: u32, node: u32) -> Client {
        let root = self.cluster.path("roots").join(self.cluster.node(node));
        self.client_of(version, node, &root)
    }

    /// A client of whatever is exported.
    pub fn client_of(&self, version: u32, from: u32, path: &Path) -> Client {
        let program = self.cluster.path("client");
        if !program.exists() {
            compile(&program);
        }
        Client::new(self.command(program), &address(version, from, path))
    }

    pub fn log(&self) -> String {
        text(self.cluster.path("ganesha/log"))
    }
}

fn address(version: u32, client: u32, path: &Path) -> String {
    format!(
        "nfs://10.9.{client}.100{}?version={version}{}",
        path.display(),
        if version == 4 { "&nfsport=12049" } else { "" }
    )
}

fn compile(to: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/nfs/client.c");
    let mut command = Command::new("cc");
    command.args(["-O1", "-Wall", "-Wextra", "-Werror", source, "-lnfs", "-o"]);
    let out = command.arg(to).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

impl Drop for Ganesha<'_> {
    fn drop(&mut self) {
        self.to = None;
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Mounts below it come and go in Ganesha's namespace too, as on a server, where / is shared.
pub struct Shared(PathBuf);

impl Shared {
    pub fn on(at: PathBuf) -> Self {
        let at = dir(at);
        mount_bind(&at, &at).unwrap();
        mount_change(&at, MountPropagationFlags::SHARED).unwrap();
        Self(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody but this test uses it, and what a failed one left below goes with it.
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// A client process; it ends when this is dropped.
pub struct Client {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    /// Why the last request was refused.
    why: String,
}

/// What the server or the client's library says: an errno, or of what goes by handle the protocol's status.
pub type Status = i32;

/// NFS3ERR_STALE and NFS4ERR_STALE.
pub const STALE: Status = 70;

impl Client {
    fn new(mut command: Command, url: &str) -> Self {
        command.arg(url).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take(), child.stdout.take().unwrap());
        let from = BufReader::new(from);
        let mut client = Self {
            child,
            to,
            from,
            why: String::new(),
        };
        client.answer().unwrap();
        client
    }

    /// A request and the lines of its answer.
    pub fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, Status> {
        writeln!(self.to.as_mut().unwrap(), "{}", words.join("\t")).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<String>, Status> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            // One that ends has said why on its standard error.
            assert_ne!(self.from.read_line(&mut line).unwrap(), 0, "a client ended");
            let line = line.trim_end_matches('\n');
            if let Some(data) = line.strip_prefix('=') {
                lines.push(data.to_owned());
            } else if line == "ok" {
                return Ok(lines);
            } else {
                line.clone_into(&mut self.why);
                let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
                return Err(status.unwrap_or_else(|| panic!("a client said {line:?}")));
            }
        }
    }

    /// A request that is granted; what it says in one line, or nothing.
    #[track_caller]
    pub fn get(&mut self, words: &[&str]) -> String {
        match self.ask(words) {
            Ok(lines) => lines.concat(),
            Err(_) => panic!("{words:?}: {}", self.why),
        }
    }

    /// Contents that are told in hexadecimal.
    #[track_caller]
    pub fn bytes(&mut self, words: &[&str]) -> Vec<u8> {
        let hex = self.get(words);
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.to = None;
        self.child.wait().ok();
    }
}

/// As requests have contents.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
