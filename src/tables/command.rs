//! `#CMD=command#`: running what the site allowed.
//!
//! Owns: starting such a command, and what of its output is taken. May not: decide what is allowed, or know
//! what its output is for.
//!
//! No shell is between: `a; b` would make the list of allowed commands worthless. A command runs
//! once for a set of loaded tables, however many nodes ask for it.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::child::{self, MOST};
use crate::config::Config;

type Outcome = Result<Vec<u8>, String>;

/// What commands said, by their text.
#[derive(Debug, Default)]
pub(crate) struct Commands(Mutex<HashMap<Vec<u8>, Arc<OnceLock<Outcome>>>>);

impl Commands {
    /// A command's output without blanks around it, or why there is none.
    pub(crate) fn output(&self, command: &[u8], config: &Config) -> Outcome {
        let text =
            std::str::from_utf8(command).map_err(|_| "the command is not UTF-8".to_owned())?;
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() {
            return Err("there is no command".to_owned());
        }
        if !config.allow_commands.allows(&words) {
            return Err(format!(
                "the command \"{text}\" is not allowed: the configuration's allow_commands has {}",
                match config.allow_commands.prefixes() {
                    [] => "none".to_owned(),
                    list => format!("only \"{}\"", list.join("\", \"")),
                }
            ));
        }
        let cell = self.0.lock().entry(command.to_vec()).or_default().clone();
        cell.get_or_init(|| run(&words, config.command_timeout))
            .clone()
    }
}

fn run(words: &[&str], limit: Duration) -> Outcome {
    let name = words.join(" ");
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C")
        .current_dir("/");
    let ran =
        child::run(&mut command, limit).map_err(|e| format!("\"{name}\" cannot be run: {e}"))?;
    let Some(status) = ran.status else {
        return Err(format!(
            "\"{name}\" was killed: it took longer than {limit:?}"
        ));
    };
    let output = ran
        .output()
        .ok_or_else(|| format!("\"{name}\" left its output open"))?;
    if !status.success() {
        let said = ran.errors();
        let said = said.lines().next().unwrap_or_default();
        let colon = if said.is_empty() { "" } else { ": " };
        return Err(format!("\"{name}\" failed with {status}{colon}{said}"));
    }
    if output.len() > MOST {
        return Err(format!("\"{name}\" printed more than {MOST} bytes"));
    }
    match output.trim_ascii() {
        b"" => Err(format!("\"{name}\" printed nothing")),
        trimmed if trimmed.contains(&b'\n') => {
            Err(format!("\"{name}\" printed more than one line"))
        }
        trimmed => Ok(trimmed.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::AllowCommands;

    fn output(command: &str, allowed: &[&str]) -> Result<String, String> {
        let config = Config {
            allow_commands: AllowCommands::new(allowed.iter().map(|a| (*a).to_owned())),
            command_timeout: Duration::from_millis(400),
            ..Config::default()
        };
        let commands = Commands::default();
        commands
            .output(command.as_bytes(), &config)
            .map(|b| String::from_utf8(b).unwrap())
    }

    #[test]
    fn only_what_is_allowed_runs_and_without_a_shell() {
        assert_eq!(output("echo  a  b", &["echo"]).unwrap(), "a b");
        assert_eq!(output("echo $HOME;x", &["echo"]).unwrap(), "$HOME;x");
        assert!(
            output("echo a", &[])
                .unwrap_err()
                .contains("allow_commands has none")
        );
        assert!(
            output("echo a", &["echo b", "ech"])
                .unwrap_err()
                .contains("only \"echo b\", \"ech\"")
        );
        assert!(output(" ", &["echo"]).unwrap_err().contains("no command"));
    }

    #[test]
    fn failures_are_told() {
        assert!(
            output("/nonexistent", &["/nonexistent"])
                .unwrap_err()
                .contains("cannot be run")
        );
        assert!(
            output("false", &["false"])
                .unwrap_err()
                .contains("failed with exit status: 1")
        );
        assert!(
            output("ls /nonexistent", &["ls"])
                .unwrap_err()
                .contains("No such file")
        );
        assert!(
            output("true", &["true"])
                .unwrap_err()
                .contains("printed nothing")
        );
        assert!(output("cat /proc/mounts", &["cat"]).is_err());
        assert!(
            output("head -c 9999 /dev/zero", &["head"])
                .unwrap_err()
                .contains("more than 4096")
        );
    }

    #[test]
    fn a_command_and_its_children_end_with_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("slow");
        std::fs::write(&script, "sleep 300 & echo $! > \"$1\"; wait\n").unwrap();
        let pid = dir.path().join("pid");
        let command = format!("sh {} {}", script.display(), pid.display());
        let start = Instant::now();
        assert!(
            output(&command, &["sh"])
                .unwrap_err()
                .contains("was killed")
        );
        assert!(start.elapsed() < Duration::from_secs(30));
        let child = std::fs::read_to_string(pid).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        for _ in 0..100 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the child outlived the limit");
    }

    #[test]
    fn a_command_runs_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            allow_commands: AllowCommands::new(["mktemp".to_owned()]),
            ..Config::default()
        };
        let commands = Commands::default();
        let text = format!("mktemp -p {}", dir.path().display());
        let first = commands.output(text.as_bytes(), &config).unwrap();
        assert_eq!(commands.output(text.as_bytes(), &config).unwrap(), first);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
