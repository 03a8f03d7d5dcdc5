//! Options in the form of mount(8), `-o name=value,name`: to flags of `statelite mount`.
//!
//! Owns: their names. May not: judge a value; that is for the flag that it becomes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::tables::nearest;

/// Options with a value, and the flags that they are.
const FLAGS: [(&str, &str); 8] = [
    ("lowerdir", "--lower"),
    ("upperdir", "--upper"),
    ("workdir", "--work"),
    ("config", "--config"),
    ("tables", "--tables"),
    ("threads", "--threads"),
    ("log", "--log"),
    ("log-file", "--log-file"),
];
/// What a view is anyway, and what only mount(8) and systemd read.
const NOTHING: [&str; 12] = [
    "defaults", "rw", "suid", "dev", "exec", "async", "auto", "noauto", "nouser", "nofail",
    "_netdev", "comment",
];
/// What mount(8) knows and a view can't be.
const NOT_OFFERED: [&str; 15] = [
    "ro",
    "nosuid",
    "nodev",
    "noexec",
    "noatime",
    "nodiratime",
    "relatime",
    "strictatime",
    "lazytime",
    "sync",
    "dirsync",
    "user",
    "users",
    "owner",
    "group",
];

/// One `-o`, as flags.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct MountOptions(pub(crate) Vec<OsString>);

/// Reads one `-o`. A comma in a value is written as `\\,`, as for overlayfs.
///
/// # Errors
/// A sentence that names the option.
pub(crate) fn parse(text: &OsStr) -> Result<MountOptions, String> {
    let mut flags = Vec::new();
    for option in split(text.as_bytes()) {
        let (name, value) = match option.iter().position(|b| *b == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (&option[..], None),
        };
        let name = String::from_utf8_lossy(name);
        let name = &*name;
        if let Some((_, flag)) = FLAGS.iter().find(|(known, _)| *known == name) {
            let value = value.filter(|value| !value.is_empty());
            let value = value.ok_or_else(|| format!("option {name} needs a value: {name}=..."))?;
            // As one word, so that a value may begin with a dash.
            let mut word = OsString::from(flag);
            word.push("=");
            word.push(OsString::from_vec(value.to_vec()));
            flags.push(word);
        } else if name.is_empty() || NOTHING.contains(&name) || name.starts_with("x-") {
            continue;
        } else if name == "remount" {
            return Err(
                "a view can't be remounted this way: unmount it and mount it again, which \
                        keeps what its uppers hold"
                    .into(),
            );
        } else if ["bind", "rbind", "move"].contains(&name) {
            return Err(format!("{name} is for mount --{name}, without -t"));
        } else if NOT_OFFERED.contains(&name) {
            return Err(format!(
                "option {name} is not offered: rules decide what a node may write, and its root \
                 needs its own devices and programs"
            ));
        } else {
            let known = FLAGS.map(|(name, _)| name);
            let near = nearest::clause(name, known);
            let known = known.join(" ");
            return Err(format!("unknown option {name}{near}; known are {known}"));
        }
    }
    Ok(MountOptions(flags))
}

fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut options = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, options.last_mut()) {
            (b'\\', Some(option)) if bytes.peek() == Some(&b',') => {
                bytes.next();
                option.push(b',');
            }
            (b',', _) => options.push(Vec::new()),
            (byte, Some(option)) => option.push(byte),
            (_, None) => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &str) -> Result<String, String> {
        let words = parse(OsStr::new(text))?.0;
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        Ok(words.join("|"))
    }

    #[test]
    fn options_are_flags() {
        for (text, expected) in [
            ("", ""),
            ("rw,defaults,_netdev,x-systemd.requires=a,nofail", ""),
            (
                "lowerdir=/a:/b,upperdir=/u,workdir=/w",
                "--lower=/a:/b|--upper=/u|--work=/w",
            ),
            (
                "config=/c.toml,tables=/t,threads=2",
                "--config=/c.toml|--tables=/t|--threads=2",
            ),
            ("lowerdir=/a\\,b,rw", "--lower=/a,b"),
            ("tables=/a\\b=c", "--tables=/a\\b=c"),
        ] {
            assert_eq!(flags(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_option_is_named() {
        for (text, expected) in [
            ("ro", "option ro is not offered"),
            ("rw,remount", "can't be remounted"),
            ("bind", "bind is for mount --bind"),
            ("metacopy=on", "unknown option metacopy; known are lowerdir"),
            (
                "lowrdir=/a",
                "unknown option lowrdir: did you mean \"lowerdir\"?",
            ),
            ("config", "option config needs a value"),
            ("config=", "option config needs a value"),
        ] {
            let told = flags(text).unwrap_err();
            assert!(told.contains(expected), "{text}: {told}");
        }
    }
}
