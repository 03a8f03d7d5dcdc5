//! `statelite export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Failure, Globals, load_tables, print_json, say, tell};
use crate::config::Config;
use crate::fleet::stores;
use crate::nfs::{self, Initrd, NodeRoot, Roots, Server, Told};
use crate::tables::{Elsewhere, Problem, Severity};

const ABOUT: &str = "Print what NFS servers and boot loaders need for the nodes' roots

By default, exports(5) lines for the kernel's NFS server: each node may mount its own root, by its
addresses in hosts. Nodes that noderes gives to other servers are left out.

  exports         for /etc/exports.d
  ganesha         EXPORT blocks, for an %include in ganesha.conf
  kernel-cmdline  root=… and what else the kernel is told
  dnsmasq         address, root and boot loader, for /etc/dnsmasq.d
  pxelinux        a file each, with its name in a comment

--install writes the file of exports or ganesha, whole and only if it has changed, and has the server
read it (exportfs -ra, SIGHUP). Files and more are keys of the configuration: export, exports_file,
ganesha_file, ganesha_pid, server. With export = \"exports\" or \"ganesha\", the daemon does it by itself.

Exit codes: 0 done; 1 a node is left out, since something is wrong with it, or the work failed.";

/// Print what NFS servers and boot loaders need for the nodes' roots
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct ExportArgs {
    /// A node, or a noderange [default: every node that this server serves].
    nodes: Option<String>,
    /// For whom [default: ganesha where the configuration's `export` says so, else exports].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Whose words a command line has [default: initramfs-tools for Debian and Ubuntu, else dracut].
    #[arg(long, value_enum)]
    initrd: Option<InitrdWord>,
    /// Write the file that the server reads, and tell it.
    #[arg(long, conflicts_with = "nodes")]
    install: bool,
    /// Another file than the configuration's.
    #[arg(long, value_name = "FILE", requires = "install")]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    Exports,
    Ganesha,
    KernelCmdline,
    Dnsmasq,
    Pxelinux,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InitrdWord {
    InitramfsTools,
    Dracut,
}

#[derive(Serialize)]
struct Answer {
    format: Format,
    /// What would be written, or was.
    text: String,
    nodes: Vec<NodeAnswer>,
    elsewhere: Vec<Elsewhere>,
    problems: Vec<Problem>,
    installed: Option<Installed>,
}

#[derive(Serialize)]
struct NodeAnswer {
    #[serde(flatten)]
    root: NodeRoot,
    /// The node's part, where it has a text of its own.
    text: Option<String>,
}

#[derive(Serialize)]
struct Installed {
    file: PathBuf,
    changed: bool,
    server: Told,
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &ExportArgs,
) -> Result<ExitCode, Failure> {
    let format = args.format.unwrap_or(match config.export {
        crate::config::Export::Ganesha => Format::Ganesha,
        _ => Format::Exports,
    });
    let server = match format {
        Format::Exports => Some(Server::Kernel),
        Format::Ganesha => Some(Server::Ganesha),
        _ if args.install => {
            return Err(
                "--install is for exports and ganesha: print the others, and put them where \
                        their server reads them"
                    .into(),
            );
        }
        _ => None,
    };
    let tables = load_tables(config)?;
    let names = match &args.nodes {
        Some(range) => tables.noderange(range)?,
        None => tables.nodes(),
    };
    let mut roots = Roots::of(&tables, config, &names, args.nodes.is_some());
    let file = args.file.as_deref();
    let file = file.or(server.map(|server| server.file(config)));
    if args.install && server == Some(Server::Ganesha) {
        only_mounted(&mut roots);
        roots.problems.extend(nfs::minor_versions(config));
    }
    let (text, parts) = text(&mut roots, args, format, file)?;
    let installed = match (server, file) {
        (Some(server), Some(file)) if args.install => Some(Installed {
            changed: nfs::install(file, &text)?,
            server: nfs::tell(server, config)?,
            file: file.to_owned(),
        }),
        _ => None,
    };
    let wrong = roots.problems.iter().any(|p| p.severity == Severity::Error);
    if globals.json {
        let parts = parts.into_iter().chain(std::iter::repeat(None));
        let nodes = roots.nodes.into_iter().zip(parts);
        print_json(&Answer {
            format,
            text,
            nodes: nodes
                .map(|(root, text)| NodeAnswer { root, text })
                .collect(),
            elsewhere: roots.elsewhere,
            problems: roots.problems,
            installed,
        })?;
    } else {
        tell(tables.problems());
        tell(&roots.problems);
        tell_elsewhere(&roots.elsewhere);
        match installed {
            None => say(&text)?,
            Some(done) => say(&said(&done, roots.nodes.len()))?,
        }
    }
    Ok(match wrong {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// NFS-Ganesha would export what lies under a mount point; exports(5) has an option against that.
fn only_mounted(roots: &mut Roots) {
    let problems = &mut roots.problems;
    roots.nodes.retain(|root| {
        let mounted = stores::is_mount_point(&root.path);
        if !mounted {
            let path = root.path.display();
            problems.push(Problem::warning(
                root.boot.at.clone(),
                format!(
                    "node {} is not exported: nothing is mounted on {path}",
                    root.boot.node
                ),
                "mount it first, with statelite serve",
            ));
        }
        mounted
    });
}

/// The whole text, and each node's part where it has one; whom there is none for goes from the list.
fn text(
    roots: &mut Roots,
    args: &ExportArgs,
    format: Format,
    file: Option<&Path>,
) -> Result<(String, Vec<Option<String>>), Failure> {
    let initrd = args.initrd.map(|word| match word {
        InitrdWord::InitramfsTools => Initrd::InitramfsTools,
        InitrdWord::Dracut => Initrd::Dracut,
    });
    let part = |root: &NodeRoot| -> Result<(String, String), Box<Problem>> {
        let node = &root.boot.node;
        match format {
            Format::Dnsmasq => Ok((node.clone(), nfs::dnsmasq(root)?)),
            Format::Pxelinux => nfs::pxelinux(root, initrd),
            _ => Ok((
                node.clone(),
                format!("{}\n", nfs::command_line(root, initrd)?),
            )),
        }
    };
    match format {
        Format::Exports => return Ok((nfs::exports(&roots.nodes), Vec::new())),
        Format::Ganesha => {
            // Numbers of exports stay what they are.
            let before = file.map(nfs::read).transpose()?.unwrap_or_default();
            return Ok((nfs::ganesha(&roots.nodes, &before)?, Vec::new()));
        }
        _ => {}
    }
    let (mut whole, mut parts, mut nodes) = (String::new(), Vec::new(), Vec::new());
    for root in std::mem::take(&mut roots.nodes) {
        match part(&root) {
            Ok((name, text)) => {
                whole.push_str(&format!("# {name}\n{text}"));
                parts.push(Some(text));
                nodes.push(root);
            }
            Err(problem) => roots.problems.push(*problem),
        }
    }
    roots.nodes = nodes;
    Ok((whole, parts))
}

fn tell_elsewhere(elsewhere: &[Elsewhere]) {
    for node in elsewhere {
        let Elsewhere { node, servers, at } = node;
        eprintln!(
            "{at}: node {node} is served by {}, and left out here",
            servers.join(", ")
        );
    }
}

fn said(done: &Installed, nodes: usize) -> String {
    let file = done.file.display();
    let what = match done.changed {
        true => "written",
        false => "is as it should be",
    };
    let told = match done.server {
        Told::Told => "the server has been told",
        Told::NotRunning => "no server runs",
    };
    format!("{file}: {what}, {nodes} nodes; {told}\n")
}
