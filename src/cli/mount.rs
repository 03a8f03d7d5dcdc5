//! `statelite mount`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::options::{self, MountOptions};
use super::{Failure, Globals, load_tables, tell};
use crate::config::Config;
use crate::fleet::build::{form, io_mode};
use crate::fleet::{
    Background, Metrics, PlainSpec, Shared, Use, node_view, plain_view, run_foreground,
    start_background,
};
use crate::fs::View;
use crate::tables::NodeSpec;

/// Sources in fstab's form of a mount without tables; no node can be mounted by these names there.
const SOURCES: [&str; 3] = ["none", "statelite", "overlay"];

const ABOUT: &str = "Mount a node's root, or directories on top of one another

A node's root is what the tables say it is. It is mounted in the background: the command returns
when it can be used, or says why it cannot. Unmount it with umount(8).

Without a directory, the daemon (statelite serve) is asked to mount those of its nodes that are named.

Without tables, --lower, --upper and --work make a root that is writable everywhere, as overlayfs
does: `statelite mount --lower /a:/b --upper /u --work /w /mnt`. In the form of mount(8) that is
`mount -t statelite none /mnt -o lowerdir=/a:/b,upperdir=/u,workdir=/w`, with mount.statelite in /sbin.";

/// Mount a node's root, or directories on top of one another
#[derive(Args, Debug)]
#[command(long_about = ABOUT)]
pub(super) struct MountArgs {
    /// The node (not with --lower), and the directory to mount on; or nodes of the daemon's alone.
    #[arg(value_names = ["NODE", "MOUNTPOINT"], num_args = 1..=2, required = true)]
    node_and_point: Vec<PathBuf>,
    /// Read-only directories, the first on top.
    #[arg(long, value_name = "DIR[:DIR…]", requires = "upper", requires = "work")]
    lower: Option<OsString>,
    /// Where changes go.
    #[arg(long, value_name = "DIR", requires = "lower")]
    upper: Option<PathBuf>,
    /// A directory on the upper's file system for what is being copied.
    #[arg(long, value_name = "DIR", requires = "lower")]
    work: Option<PathBuf>,
    /// The same in the form of mount(8): lowerdir=DIR:…, upperdir=DIR, workdir=DIR, config=FILE,
    /// tables=DIR, threads=N, log=FILTER, log-file=FILE.
    #[arg(short = 'o', long, value_name = "NAME=VALUE,…", value_parser = OsStringValueParser::new().try_map(|text| options::parse(&text)))]
    options: Vec<MountOptions>,
    /// Stay in the foreground; an interrupt unmounts.
    #[arg(long, short)]
    foreground: bool,
    /// Request threads; over the configuration's `threads`.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// The root is this machine's own, and the process must outlive every other one: its name begins
    /// with @, as systemd has it for such daemons.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    serves_root: bool,
    /// Check the command line, and mount nothing.
    #[arg(long, hide = true)]
    check: bool,
    /// Set by the parent of a process in the background.
    #[arg(long, hide = true)]
    background: bool,
}

impl MountArgs {
    /// Does this process serve with its own terminal, or only start one that does?
    pub(super) fn stays(&self) -> bool {
        self.foreground
    }

    /// Is this the process that a mount in the background runs in?
    pub(super) fn in_background(&self) -> bool {
        self.background
    }

    /// What `-o` says, as flags.
    pub(super) fn flags_of_options(&self) -> impl Iterator<Item = OsString> {
        self.options.iter().flat_map(|options| &options.0).cloned()
    }

    /// What flags can't say of one another.
    ///
    /// # Errors
    /// A sentence; the command line is wrong.
    pub(super) fn validate(&self, globals: &Globals) -> Result<(), String> {
        let Some(node) = self.node() else {
            return Ok(());
        };
        // mount(8) needs a word there.
        let nobody = SOURCES.iter().any(|word| node == Path::new(word));
        let node = node.display();
        match &self.lower {
            Some(_) if !nobody => Err(format!(
                "with lowerdir (--lower) there is no node, but {node} was named: the tables say what a \
                 node's root is made of, or it is a mount of none"
            )),
            Some(_) if globals.tables.is_some() => Err(
                "tables are for a node's root, lowerdir (--lower) for a mount without them: not both"
                    .into(),
            ),
            None if nobody => Err(format!(
                "{node} is no node: lowerdir, upperdir and workdir say what to mount then"
            )),
            _ => Ok(()),
        }
    }

    /// The layers of a mount without tables.
    pub(super) fn plain_dirs(&self) -> Option<BTreeSet<PathBuf>> {
        let (lower, upper, work) = self.plain()?;
        let writable = [upper, work].into_iter().cloned();
        Some(writable.chain(std::env::split_paths(lower)).collect())
    }

    fn plain(&self) -> Option<(&OsString, &PathBuf, &PathBuf)> {
        Some((
            self.lower.as_ref()?,
            self.upper.as_ref()?,
            self.work.as_ref()?,
        ))
    }

    /// What the tables say of the node.
    ///
    /// # Errors
    /// No node is named, or it has no image.
    pub(super) fn spec(&self, config: &Config) -> Result<NodeSpec, Failure> {
        let Some(node) = self.node().and_then(Path::to_str) else {
            return Err("which node? statelite mount NODE MOUNTPOINT".into());
        };
        let tables = load_tables(config)?;
        tell(tables.problems());
        Ok(tables.node(node, config)?)
    }

    fn node(&self) -> Option<&Path> {
        (self.node_and_point.len() == 2).then(|| self.node_and_point[0].as_path())
    }

    fn point(&self) -> &Path {
        &self.node_and_point[self.node_and_point.len() - 1]
    }
}

pub(super) fn run(
    globals: &Globals,
    config: &Config,
    args: &MountArgs,
) -> Result<ExitCode, Failure> {
    if args.check {
        return Ok(ExitCode::SUCCESS);
    }
    if args.lower.is_none()
        && let [nodes] = &args.node_and_point[..]
    {
        let nodes = nodes.to_str().ok_or("a noderange is UTF-8")?;
        return super::umount::mount(globals, config, nodes);
    }
    if !args.foreground && !args.background {
        let mut again: Vec<OsString> = std::env::args_os().skip(1).collect();
        again.push("--background".into());
        let name = if args.serves_root {
            "@statelite"
        } else {
            "statelite"
        };
        start_background(name, again, globals.log_file.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shared = Shared::new(config);
    let view = view(config, args, &shared)?;
    let background = if args.background {
        Background::Yes
    } else {
        Background::No
    };
    let metrics = metrics(config, &shared);
    run_foreground(
        view,
        &shared,
        args.point(),
        args.threads.unwrap_or(config.threads),
        background,
        metrics.as_ref(),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// A root without metrics is better than none: where one process a root is mounted with one
/// configuration, only the first gets the address.
fn metrics(config: &Config, shared: &Shared) -> Option<Metrics> {
    Metrics::start(config.metrics.as_ref()?, shared, None)
        .inspect_err(|error| {
            if tracing::enabled!(tracing::Level::WARN) {
                tracing::warn!(%error, "the root is mounted without metrics");
            } else {
                eprintln!("statelite: {error}; the root is mounted without metrics");
            }
        })
        .ok()
}

fn view(config: &Config, args: &MountArgs, shared: &Shared) -> Result<View, Failure> {
    if let Some((lower, upper, work)) = args.plain() {
        return Ok(plain_view(
            &PlainSpec {
                lower: std::env::split_paths(lower).collect(),
                upper: upper.clone(),
                work: work.clone(),
                lifetime: config.cache_lifetime,
                form: form(config),
                io: io_mode(config),
            },
            shared,
        )?);
    }
    let spec = args.spec(config)?;
    tell(&spec.problems);
    let built = node_view(&spec, config, Use::Mount, shared)?;
    tell(&built.problems);
    Ok(built.view)
}
