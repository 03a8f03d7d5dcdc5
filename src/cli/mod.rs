//! The command line: clap types, and one file a command. Human output on standard output, `--json`
//! for programs, diagnostics on standard error.
//!
//! Owns: words and exit codes. May not: decide what is true of a node.
//!
//! Exit codes: 0 done; 1 the input has problems, or the work failed; 2 the command line is wrong;
//! 3 no daemon answers; 4 some nodes are not served; 5 something is in use.

mod bench;
mod check;
mod docs;
mod explain;
mod export;
mod generator;
mod mount;
pub(crate) mod options;
mod progress;
mod reload;
mod reset;
mod serve;
mod show;
mod status;
mod top;
mod umount;
mod upgrade;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, LogFormat};
use crate::control::{ClientError, Outcome};
use crate::fleet::{ControlError, RunError, ServeError};
use crate::logs::Limiter;
use crate::tables::{CsvDir, Problem, Tables};

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 the tables have problems, or the work failed; 2 the command line is wrong; 3 no
daemon answers; 4 some nodes are not served (status); 5 something is in use.

A first look, with the tables that `tabdump` wrote into a directory:
  statelite --tables /etc/statelite/tables check
  statelite show cn1
  statelite explain cn1 /etc/ntp.conf
  statelite mount cn1 /srv/roots/cn1
  statelite serve

Nodes are named as noderanges: cn1, cn1-cn40, cn[01-40], a group, @all, a,b and all,-cn7.";

/// A live root for every diskless node, merged from image, litetree and writable layers by the
/// litefile rules.
#[derive(Debug, Parser)]
#[command(name = "statelite", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
struct Globals {
    /// The configuration [default: /etc/statelite/statelite.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of the tables, one TABLE.csv each; over the configuration's `tables`.
    #[arg(long, global = true, value_name = "DIR")]
    tables: Option<PathBuf>,
    /// Print JSON for programs instead of text for people.
    #[arg(long, global = true)]
    json: bool,
    /// What to log on standard error: error, warn, info, debug, trace, or a filter such as
    /// `statelite::fs=debug`; over the configuration's `log`.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// Where the daemon logs, or a process in the background; without it, the daemon to standard
    /// error, and a mount in the background nowhere once it is ready.
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

impl Globals {
    /// The configuration, with the command line's words over it.
    fn load(&self) -> Result<Config, Failure> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(tables) = &self.tables {
            config.tables = std::path::absolute(tables)?;
        }
        Ok(config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Status(status::StatusArgs),
    Reload(reload::ReloadArgs),
    Mount(mount::MountArgs),
    Umount(umount::UmountArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Export(export::ExportArgs),
    Show(show::ShowArgs),
    Reset(reset::ResetArgs),
    Bench(bench::BenchArgs),
    Top(top::TopArgs),
    Upgrade(upgrade::UpgradeArgs),
    #[command(hide = true)]
    Completions(docs::CompletionsArgs),
    #[command(hide = true)]
    Man(docs::ManArgs),
    #[command(hide = true)]
    Generator(generator::GeneratorArgs),
}

/// What a command fails with: a sentence for people.
type Failure = Box<dyn std::error::Error>;

/// Exit codes beside 0, 1 and clap's 2.
const NO_DAEMON: u8 = 3;
const NOT_SERVED: u8 = 4;
const IN_USE: u8 = 5;

/// The exit code of what failed.
fn code_of(error: &Failure) -> ExitCode {
    if let Some(ClientError::NotRunning(_)) = error.downcast_ref() {
        return NO_DAEMON.into();
    }
    if let Some(ServeError::Control(ControlError::Taken { .. })) = error.downcast_ref() {
        return IN_USE.into();
    }
    ExitCode::FAILURE
}

/// The exit code of operations on several nodes.
fn worst(outcomes: impl IntoIterator<Item = Outcome>) -> ExitCode {
    let codes = outcomes.into_iter().map(|outcome| match outcome {
        Outcome::Done | Outcome::Already | Outcome::Detached => 0,
        Outcome::Busy => 1,
        Outcome::Failed => 2,
    });
    match codes.max() {
        None | Some(0) => ExitCode::SUCCESS,
        Some(1) => IN_USE.into(),
        Some(_) => ExitCode::FAILURE,
    }
}

/// What a daemon has to say of nodes, where one runs that may be asked; `None` where the command is
/// to look by itself.
///
/// # Errors
/// What the daemon answers, other than that it does not know the nodes.
fn of_daemon<T: serde::de::DeserializeOwned>(
    config: &Config,
    ask: crate::control::Ask,
) -> Result<Option<T>, Failure> {
    use crate::control::Code;
    match crate::control::ask(&config.control, ask) {
        Ok(answer) => Ok(Some(answer)),
        // Nobody listens there, or this process may not ask.
        Err(ClientError::NotRunning(_) | ClientError::Socket { .. }) => Ok(None),
        Err(ClientError::Refused(refusal))
            if matches!(refusal.code, Code::Unknown | Code::Denied) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The command line; the options of `mount -o` are checked as the flags that they stand for.
fn parsed_from(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut cli = Cli::try_parse_from(&words)?;
    if let Command::Mount(args) = &cli.command {
        let flags: Vec<_> = args.flags_of_options().collect();
        if !flags.is_empty() {
            cli = Cli::try_parse_from(words.into_iter().chain(flags))?;
        }
    }
    if let Command::Mount(args) = &cli.command
        && let Err(wrong) = args.validate(&cli.globals)
    {
        let kind = clap::error::ErrorKind::ArgumentConflict;
        return Err(Cli::command().error(kind, wrong));
    }
    Ok(cli)
}

/// Parses the command line, runs the command and says how it went.
pub fn main() -> ExitCode {
    let cli = parsed_from(std::env::args_os().collect()).unwrap_or_else(|wrong| wrong.exit());
    let limiter = Limiter::default();
    let ended = run(&cli, &limiter);
    limiter.flush();
    match ended {
        Ok(code) => code,
        Err(error) => {
            match (error.downcast_ref::<RunError>(), &cli.command) {
                // What a child in the background said has been passed on.
                (Some(RunError::NotReady { code }), _) => {
                    return ExitCode::from((*code).clamp(1, 255) as u8);
                }
                (_, Command::Mount(args)) if args.in_background() => {
                    crate::fleet::report_failure(&*error);
                }
                _ => eprintln!("statelite: {error}"),
            }
            code_of(&error)
        }
    }
}

/// A lasting process' log goes to the file that was named.
fn log_to_file(globals: &Globals) -> Result<(), Failure> {
    let Some(file) = &globals.log_file else {
        return Ok(());
    };
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file);
    let log = log.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(rustix::stdio::dup2_stderr(&log)?)
}

fn run(cli: &Cli, limiter: &Limiter) -> Result<ExitCode, Failure> {
    if let Command::Serve(args) = &cli.command {
        // It goes by a configuration that may not be the file's any more.
        return serve::run(&cli.globals, args, limiter);
    }
    let config = cli.globals.load()?;
    let lasting = match &cli.command {
        Command::Mount(args) => args.stays() || cli.globals.log_file.is_some(),
        _ => false,
    };
    start_logging(&cli.globals, &config, lasting, limiter)?;
    let (globals, config) = (&cli.globals, &config);
    match &cli.command {
        Command::Serve(args) => serve::run(globals, args, limiter),
        Command::Status(args) => status::run(globals, config, args),
        Command::Reload(args) => reload::run(globals, config, args),
        Command::Mount(args) => mount::run(globals, config, args),
        Command::Umount(args) => umount::run(globals, config, args),
        Command::Check(args) => check::run(globals, config, args),
        Command::Explain(args) => explain::run(globals, config, args),
        Command::Export(args) => export::run(globals, config, args),
        Command::Show(args) => show::run(globals, config, args),
        Command::Reset(args) => reset::run(globals, config, args),
        Command::Bench(args) => bench::run(globals, args),
        Command::Top(args) => top::run(globals, config, args),
        Command::Upgrade(args) => upgrade::run(globals, config, args),
        Command::Completions(args) => docs::completions(args),
        Command::Man(args) => docs::man(args),
        Command::Generator(args) => generator::run(config, args),
    }
}

/// `lasting`: the process stays and its log is kept; one that answers and ends logs errors only.
fn start_logging(
    globals: &Globals,
    config: &Config,
    lasting: bool,
    limiter: &Limiter,
) -> Result<(), Failure> {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{EnvFilter, Layer};
    let words = match &globals.log {
        Some(words) => words,
        None if lasting => &config.log,
        None => "error",
    };
    let filter = EnvFilter::try_new(words)
        .map_err(|e| format!("log filter {words:?}: {e}; try info, or statelite::fs=debug"))?;
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(rustix::termios::isatty(std::io::stderr()))
        .with_writer(std::io::stderr);
    let log = match config.log_format {
        LogFormat::Text => log.boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(log)
        .with(limiter.with(filter))
        .init();
    Ok(())
}

fn load_tables(config: &Config) -> Result<Tables, Failure> {
    if !config.tables.is_dir() {
        return Err(format!(
            "{}: no such directory; tables are read from it, one TABLE.csv each as tabdump prints \
             them (--tables, or tables in the configuration)",
            config.tables.display()
        )
        .into());
    }
    Ok(Tables::load(&CsvDir::new(&config.tables)))
}

/// Problems that do not stop a command go to standard error.
fn tell(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Prints; a reader that has gone away (`| head`) is no failure.
fn say(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
