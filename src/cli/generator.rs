//! `statelite generator`: systemd.generator(7).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Command, Failure, load_tables, parsed_from};
use crate::config::{AllowCommands, Config};
use crate::systemd::{self, FstabLine};

const SERVICE: &str = "statelite.service";

/// Have systemd mount what units of ours have their layers on before it starts them
#[derive(Args, Debug)]
pub(super) struct GeneratorArgs {
    /// The first directory that systemd names.
    dir: PathBuf,
    #[arg(long, default_value = "/etc/fstab", env = "SYSTEMD_FSTAB")]
    fstab: PathBuf,
}

/// Runs while nothing is mounted but the root: looks at no layer, and what can't be known of one
/// unit keeps no other from its drop-in.
pub(super) fn run(config: &Config, args: &GeneratorArgs) -> Result<ExitCode, Failure> {
    let config = without_commands(config.clone());
    let fstab = match std::fs::read(&args.fstab) {
        Ok(text) => systemd::fstab(&text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(format!("{}: {e}", args.fstab.display()).into()),
    };
    let service = dirs_of_service(&config);
    let mut units = vec![(SERVICE.to_owned(), SERVICE.to_owned(), service)];
    for line in fstab.iter().filter(|line| line.kind == "statelite") {
        let shown = line.point.display().to_string();
        units.push((shown, systemd::mount_unit(&line.point), dirs_of_line(line)));
    }
    let mut code = ExitCode::SUCCESS;
    for (shown, unit, needs) in units {
        match needs {
            Ok(needs) => write(&args.dir, &unit, &needs, &fstab)?,
            Err(error) => {
                eprintln!("statelite: {shown} waits for no layer: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn write(
    dir: &Path,
    unit: &str,
    needs: &BTreeSet<PathBuf>,
    fstab: &[FstabLine],
) -> Result<(), Failure> {
    let Some(text) = systemd::drop_in(unit, needs, fstab) else {
        return Ok(());
    };
    let dir = dir.join(format!("{unit}.d"));
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("50-layers.conf");
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()).into())
}

/// All that the nodes that this server serves are made of.
fn dirs_of_service(config: &Config) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut dirs = own_dirs(config);
    let tables = load_tables(config)?;
    for node in tables.nodes() {
        if tables.elsewhere(&node, config).is_some() {
            continue;
        }
        // One that the tables have no image for is told of by the daemon.
        if let Ok((spec, _)) = tables.node_alone(&node, config) {
            dirs.extend(spec.dirs().map(Path::to_owned));
        }
    }
    Ok(dirs)
}

/// Of a node, or of a mount without tables.
fn dirs_of_line(line: &FstabLine) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut words: Vec<OsString> = vec!["statelite".into(), "mount".into()];
    if !line.options.is_empty() {
        words.extend(["-o".into(), line.options.clone()]);
    }
    words.extend([line.source.clone(), line.point.clone().into()]);
    let cli = parsed_from(words)?;
    let Command::Mount(args) = &cli.command else {
        return Err("no mount".into());
    };
    if let Some(dirs) = args.plain_dirs() {
        return Ok(dirs);
    }
    let config = without_commands(cli.globals.load()?);
    let mut dirs = own_dirs(&config);
    dirs.extend(args.spec(&config)?.dirs().map(Path::to_owned));
    Ok(dirs)
}

/// systemd waits for its generators, and has started nothing that a table's command could ask: a
/// directory that takes one is not waited for.
fn without_commands(config: Config) -> Config {
    Config {
        allow_commands: AllowCommands::default(),
        ..config
    }
}

/// What every node of a configuration needs.
fn own_dirs(config: &Config) -> BTreeSet<PathBuf> {
    let dirs = [&config.tables, &config.root, &config.tmpfs_dir];
    let dirs = dirs.into_iter().chain(config.localdisk_dir.as_ref());
    dirs.cloned().collect()
}
