//! NFS-Ganesha over mounted roots, in namespaces of its own, by what `statelite export` has printed.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, dir, eventually, put, text};
use crate::daemon::Daemon;
use crate::files::site;

/// Two nodes: who asks 10.9.N.100 comes from 10.9.N.1. Then commands from standard input, one a line.
const NAMESPACE: &str = r#"
    set -e
    mount -t tmpfs none /run; ip link set lo up
    for n in 1 2; do
      ip addr add 10.9.$n.1/32 dev lo; ip addr add 10.9.$n.100/32 dev lo
      ip route replace local 10.9.$n.100 dev lo src 10.9.$n.1 table local
    done
    set +e
    ganesha.nfsd -F -f "$1/main.conf" -L "$1/log" -p "$1/pid" -N NIV_EVENT & server=$!
    while read -r line; do
      eval "$line" 2>&1 | base64 -w0; echo
    done
    kill $server; wait $server"#;

struct Ganesha<'a> {
    cluster: &'a Cluster,
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl<'a> Ganesha<'a> {
    fn start(cluster: &'a Cluster) -> Self {
        let at = dir(cluster.path("ganesha"));
        dir(at.join("recovery"));
        let main = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 12049; Enable_NLM = false; Enable_RQUOTA = false; \
             Enable_UDP = false; mount_path_pseudo = true; fsid_device = false; }}\n\
             NFSv4 {{ Minor_Versions = 0, 1; Graceless = true; RecoveryBackend = fs; RecoveryRoot = \"{0}/recovery\"; }}\n\
             NFS_KRB5 {{ Active_krb5 = false; }}\n%include \"{0}/statelite.conf\"\n",
            at.display()
        );
        put(at.join("main.conf"), main);
        let mut child = Command::new("unshare")
            .args([
                "-m",
                "-n",
                "--propagation",
                "slave",
                "bash",
                "-c",
                NAMESPACE,
                "bash",
            ])
            .arg(&at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take(), child.stdout.take().unwrap());
        let from = BufReader::new(from);
        let mut ganesha = Self {
            cluster,
            child,
            to,
            from,
        };
        eventually("Ganesha listens", || {
            ganesha.run("ss -Hltn").contains(":12049 ")
        });
        ganesha
    }

    /// What a command in its namespaces prints.
    fn run(&mut self, command: &str) -> String {
        writeln!(self.to.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let out = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut out = out.unwrap();
        out.stdin
            .take()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        String::from_utf8_lossy(&out.wait_with_output().unwrap().stdout).into_owned()
    }

    /// What a client reads of a node's root.
    fn cat(&mut self, client: u32, node: u32, path: &str) -> String {
        let url = self.url(client, node, path);
        self.run(&format!("timeout 20 nfs-cat '{url}'"))
    }

    /// A client reads it once Ganesha has followed the daemon.
    #[track_caller]
    fn comes_to_read(&mut self, node: u32, path: &str, expected: &str) {
        let mut last = String::new();
        let end = Instant::now() + Duration::from_secs(60);
        while last != expected {
            assert!(
                Instant::now() < end,
                "{path}: {last:?}, not {expected:?}\n{}",
                self.log()
            );
            last = self.cat(node, node, path);
            // Whatever the kernel has forgotten meanwhile, handles open again.
            assert!(!last.contains("STALE"), "{path}: {last}\n{}", self.log());
        }
    }

    fn url(&self, client: u32, node: u32, path: &str) -> String {
        let root = self.cluster.path("roots").join(self.cluster.node(node));
        format!(
            "nfs://10.9.{client}.100{}/{path}?version=4&nfsport=12049",
            root.display()
        )
    }

    fn log(&self) -> String {
        text(self.cluster.path("ganesha/log"))
    }
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
struct Shared(std::path::PathBuf);

impl Shared {
    fn on(at: std::path::PathBuf) -> Self {
        let at = dir(at);
        rustix::mount::mount_bind(&at, &at).unwrap();
        rustix::mount::mount_change(&at, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        Self(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Nobody but this test uses it, and what a failed one left below goes with it.
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn two_nodes() -> Cluster {
    let c = site(&[("/etc/x", "tmpfs")]);
    put(c.image("etc/x"), "image\n");
    put(c.image("etc/motd"), "of all\n");
    c
}

#[test]
fn each_node_reads_its_own_root_and_no_other() {
    let c = two_nodes();
    let _shared = Shared::on(c.path("roots"));
    let d = Daemon::start(&c);
    std::fs::write(d.at(1, "etc/x"), "of one\n").unwrap();
    std::fs::write(d.at(2, "etc/x"), "of two\n").unwrap();
    let out = c.run(&["export", "--format", "ganesha"]);
    assert!(out.status.success(), "{out:?}");
    put(c.path("ganesha/statelite.conf"), &out.stdout);
    let mut g = Ganesha::start(&c);
    for (node, expected) in [(1, "of one\n"), (2, "of two\n")] {
        g.comes_to_read(node, "etc/x", expected);
        g.comes_to_read(node, "etc/motd", "of all\n");
        let url = g.url(node, node, "etc");
        eventually("it is listed", || {
            let list = g.run(&format!("timeout 20 nfs-ls '{url}'"));
            list.contains(" x\n") && list.contains(" motd\n")
        });
        let other = g.cat(node, 3 - node, "etc/x");
        assert!(other.contains("NFS4ERR_NOENT"), "{other}");
    }
    // Live: what changes on the server is seen by a client that asks again.
    std::fs::write(c.image("etc/motd"), "another\n").unwrap();
    g.comes_to_read(1, "etc/motd", "another\n");
    assert!(!g.log().contains("Errors processing block"), "{}", g.log());
}

#[test]
fn the_daemon_keeps_ganesha_in_step() {
    let c = two_nodes();
    let _shared = Shared::on(c.path("roots"));
    c.set("export", "\"ganesha\"");
    // It holds what it exports: it is let go of before it is unmounted, and given again after a reset.
    put(c.path("ganesha/statelite.conf"), "");
    let d = Daemon::start(&c);
    let mut g = Ganesha::start(&c);
    std::fs::write(d.at(1, "etc/x"), "of one\n").unwrap();
    g.comes_to_read(1, "etc/x", "of one\n");
    assert!(c.run(&["umount", &c.node(1)]).status.success());
    assert_eq!(d.status_of(1)["detached"], 0);
    eventually("it is not exported", || {
        g.cat(1, 1, "etc/x").contains("Failed to")
    });
    g.comes_to_read(2, "etc/x", "image\n");
    assert!(c.run(&["mount", &c.node(1)]).status.success());
    g.comes_to_read(1, "etc/x", "of one\n");
    let out = c.run(&["reset", "--on-boot", &c.node(1)]);
    assert!(out.status.success(), "{out:?}");
    // As after a boot.
    g.comes_to_read(1, "etc/x", "image\n");
    // Numbers of exports do not change on the way.
    let id = |text: &str, node: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("\"{node}\";")))
            .unwrap();
        line.to_owned()
    };
    let now = text(c.path("ganesha/statelite.conf"));
    let printed = c.says(&["export", "--format", "ganesha"]);
    assert_eq!(id(&now, &c.node(1)), id(&printed, &c.node(1)));
}
