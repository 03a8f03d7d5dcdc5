//! The daemon's configuration: `/etc/statelite/statelite.toml`.
//!
//! Owns: the keys, their defaults, their spelling. May not: look into tables, images or stores, or
//! act on any key.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::tables::nearest;
use values::{
    absolute, absolute_list, absolute_or_empty, bytes, duration, host_name, remote_root, threads,
};

pub(crate) use values::is_host;

/// Where the configuration is read from when no file is named.
pub const DEFAULT_PATH: &str = "/etc/statelite/statelite.toml";

/// A configuration file with every key at its default, commented.
pub const EXAMPLE: &str = include_str!("../docs/statelite.toml");

/// Every setting of the daemon. Each key has a default, so that an empty file is a valid one.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the tables: one `<table>.csv` each, as `tabdump` prints them.
    #[serde(deserialize_with = "absolute")]
    pub tables: PathBuf,
    /// Where the daemon mounts the roots: `<root>/<node>`.
    #[serde(deserialize_with = "absolute")]
    pub root: PathBuf,
    /// The socket on which the daemon is asked and told.
    #[serde(deserialize_with = "absolute")]
    pub control: PathBuf,
    /// The daemon reads changed tables by itself.
    pub watch_tables: bool,
    /// How long a stopping daemon waits for roots that are in use.
    #[serde(deserialize_with = "duration")]
    pub stop_grace: Duration,
    /// The tmpfs uppers: one tmpfs a node is mounted below this directory.
    #[serde(deserialize_with = "absolute")]
    pub tmpfs_dir: PathBuf,
    /// Size of one node's tmpfs, where `tmpfs_sizes` doesn't name the node or one of its groups.
    pub tmpfs_size: TmpfsSize,
    /// Size by node or group. The node's own entry wins, then the first of its groups that has one.
    pub tmpfs_sizes: BTreeMap<String, TmpfsSize>,
    /// Where `localdisk` files live, `<localdisk_dir>/<node>/<path>`; empty: nowhere.
    #[serde(deserialize_with = "absolute_or_empty")]
    pub localdisk_dir: Option<PathBuf>,
    /// Where this server finds `host:/path` of another host. `<host>` and `<path>` are replaced.
    #[serde(deserialize_with = "remote_root")]
    pub remote_root: String,
    /// Let the daemon mount what is remote, with the row's `mntopts`, instead of relying on the
    /// automounter.
    pub mount_remote: bool,
    /// Further names and addresses of this host in `host:/path`.
    pub local_hosts: Vec<String>,
    /// Local paths at or below which a store counts only while something is mounted there.
    #[serde(deserialize_with = "absolute_list")]
    pub require_mount: Vec<PathBuf>,
    /// Which `#CMD=command#` may run: none, or those that begin with the words of an entry.
    pub allow_commands: AllowCommands,
    /// How long such a command may take before it and all its children are killed.
    #[serde(deserialize_with = "duration")]
    pub command_timeout: Duration,
    /// How a directory is found in several litetrees (SEMANTICS section 2).
    pub litetree_directories: LitetreeDirectories,
    /// When a persistent path is first copied to its store (SEMANTICS section 2).
    pub persistent_seed: PersistentSeed,
    /// How `link` rules look to a node (SEMANTICS section 2).
    pub link_view: LinkView,
    /// Show `/.statelite` and `/.default` in every view (SEMANTICS section 7).
    pub compat_dirs: bool,
    /// How long a kernel may believe what it was told of a layer that can't be watched.
    #[serde(deserialize_with = "duration")]
    pub cache_lifetime: Duration,
    /// Have changes in layers told, and believe what was found until then, where a layer's file
    /// system can tell; otherwise all is believed for `cache_lifetime`.
    pub watch: bool,
    /// The most bytes that the cache of what lower layers have may take.
    #[serde(deserialize_with = "bytes")]
    pub cache_size: u64,
    /// How a deletion is stored in an upper (SEMANTICS section 6).
    pub whiteouts: Whiteouts,
    /// Which way the kernel reads and writes files.
    pub io: Io,
    /// Threads of one node's session.
    #[serde(deserialize_with = "threads")]
    pub threads: usize,
    /// Where metrics are told; empty: nowhere.
    #[serde(deserialize_with = "crate::metrics::Address::or_empty")]
    pub metrics: Option<crate::metrics::Address>,
    /// The name under which noderes knows this server; empty: each of its own names and addresses.
    #[serde(deserialize_with = "host_name")]
    pub server: String,
    /// What the daemon keeps in step with the roots that are mounted.
    pub export: Export,
    /// The exports(5) file that is written.
    #[serde(deserialize_with = "absolute")]
    pub exports_file: PathBuf,
    /// The file of EXPORT blocks that is written for NFS-Ganesha.
    #[serde(deserialize_with = "absolute")]
    pub ganesha_file: PathBuf,
    /// Where NFS-Ganesha has its process id.
    #[serde(deserialize_with = "absolute")]
    pub ganesha_pid: PathBuf,
    /// Calls of `reset --on-boot` that come within this time belong to one boot.
    #[serde(deserialize_with = "duration")]
    pub boot_window: Duration,
    /// What is logged: a level, or filters as `statelite::fleet=debug,info`.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tables: "/etc/statelite/tables".into(),
            root: "/run/statelite/roots".into(),
            control: "/run/statelite/control.sock".into(),
            watch_tables: true,
            stop_grace: Duration::from_secs(5),
            tmpfs_dir: "/run/statelite/tmpfs".into(),
            tmpfs_size: TmpfsSize::Bytes(1 << 30),
            tmpfs_sizes: BTreeMap::new(),
            localdisk_dir: None,
            remote_root: "/net/<host><path>".into(),
            mount_remote: false,
            local_hosts: Vec::new(),
            require_mount: Vec::new(),
            allow_commands: AllowCommands::default(),
            command_timeout: Duration::from_secs(10),
            litetree_directories: LitetreeDirectories::default(),
            persistent_seed: PersistentSeed::default(),
            link_view: LinkView::default(),
            compat_dirs: true,
            cache_lifetime: Duration::from_secs(1),
            watch: true,
            cache_size: 128 << 20,
            whiteouts: Whiteouts::default(),
            io: Io::default(),
            threads: 1,
            metrics: None,
            server: String::new(),
            export: Export::default(),
            exports_file: "/etc/exports.d/statelite.exports".into(),
            ganesha_file: "/etc/ganesha/statelite.conf".into(),
            ganesha_pid: "/run/ganesha/ganesha.pid".into(),
            boot_window: Duration::from_secs(60),
            log: "info".into(),
            log_format: LogFormat::default(),
        }
    }
}

/// What went wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file says something that is not understood.
    #[error("{}:{line}:{column}: {message}{}", file.display(), parenthesised(help))]
    Parse {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1.
        column: usize,
        /// What is wrong.
        message: String,
        /// What to do about it; may be empty.
        help: String,
    },
}

fn parenthesised(help: &str) -> String {
    if help.is_empty() {
        String::new()
    } else {
        format!(" ({help})")
    }
}

impl Config {
    /// Reads `path`, or the default file where none is named. A default file that doesn't exist
    /// means the defaults; a named one must exist.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = Self::file(path);
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file),
            Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                file: file.to_owned(),
                source,
            }),
        }
    }

    /// The file that is read: `path`, or the default one.
    pub fn file(path: Option<&Path>) -> &Path {
        path.unwrap_or(Path::new(DEFAULT_PATH))
    }

    /// Parses the text of a configuration file; `file` is for the messages.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| {
            let offset = e.span().map_or(0, |span| span.start).min(text.len());
            let before = &text.as_bytes()[..offset];
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            let column = offset
                - before
                    .iter()
                    .rposition(|b| *b == b'\n')
                    .map_or(0, |n| n + 1)
                + 1;
            let (message, help) = explain(e.message());
            ConfigError::Parse {
                file: file.to_owned(),
                line,
                column,
                message,
                help,
            }
        })
    }

    /// The tmpfs size of one node: its own entry in `tmpfs_sizes`, else that of its first group
    /// that has one, else `tmpfs_size`.
    pub fn tmpfs_size_of(&self, node: &str, groups: &[String]) -> TmpfsSize {
        std::iter::once(node)
            .chain(groups.iter().map(String::as_str))
            .find_map(|name| self.tmpfs_sizes.get(name))
            .copied()
            .unwrap_or(self.tmpfs_size)
    }
}

/// Splits serde's "unknown field `x`, expected one of …" into a sentence and a suggestion.
fn explain(message: &str) -> (String, String) {
    let words: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let kind = message.split_whitespace().next().unwrap_or_default();
    match (kind, words.as_slice()) {
        ("unknown", [found, known @ ..]) if !known.is_empty() => {
            let what = if message.starts_with("unknown field") {
                "key"
            } else {
                "value"
            };
            let hint = nearest::hint(found, known.iter().copied());
            let all = format!("known {what}s: {}", known.join(", "));
            let help = if hint.is_empty() {
                all
            } else {
                format!("{hint} {all}")
            };
            (format!("unknown {what} \"{found}\""), help)
        }
        _ => (message.to_owned(), String::new()),
    }
}

/// Size of a tmpfs: bytes, or a share of the memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum TmpfsSize {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the server's memory, 1 to 100.
    Percent(u8),
}

impl TmpfsSize {
    /// The size in bytes on a server with that much memory.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => memory / 100 * u64::from(percent),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("\"{text}\" is no size: write bytes, a number with K, M, G or T, or 1% to 100%")
        };
        let text_ = text.trim();
        let digits = text_.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text_[..digits].parse().map_err(|_| wrong())?;
        let unit = text_[digits..].trim().to_ascii_uppercase();
        let shift = match unit
            .strip_suffix("IB")
            .or(unit.strip_suffix('B'))
            .unwrap_or(&unit)
        {
            "%" => {
                return match number {
                    1..=100 => Ok(Self::Percent(number as u8)),
                    _ => Err(wrong()),
                };
            }
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(wrong()),
        };
        Self::from_bytes(number.checked_mul(1 << shift).ok_or_else(wrong)?)
    }

    fn from_bytes(bytes: u64) -> Result<Self, String> {
        // A tmpfs of size 0 is one without any limit.
        if bytes == 0 {
            return Err("a tmpfs of size 0 would have no limit: give a size".to_owned());
        }
        Ok(Self::Bytes(bytes))
    }
}

impl fmt::Display for TmpfsSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl<'de> Deserialize<'de> for TmpfsSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = TmpfsSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512M\", \"50%\" or a number of bytes")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<TmpfsSize, E> {
                let bytes = u64::try_from(n).map_err(|_| E::custom("a size is not negative"))?;
                TmpfsSize::from_bytes(bytes).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TmpfsSize, E> {
                TmpfsSize::from_text(text).map_err(E::custom)
            }
        }
        d.deserialize_any(Size)
    }
}

/// Which `#CMD=command#` of the tables may run.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllowCommands(Vec<String>);

impl AllowCommands {
    /// Allows the commands that begin with the words of one of these.
    pub fn new(prefixes: impl IntoIterator<Item = String>) -> Self {
        Self(prefixes.into_iter().collect())
    }

    /// True where the command, already split into words, begins with the words of an entry.
    pub fn allows(&self, words: &[&str]) -> bool {
        self.0.iter().any(|prefix| {
            let prefix: Vec<&str> = prefix.split_whitespace().collect();
            !prefix.is_empty() && words.starts_with(&prefix)
        })
    }

    /// The entries.
    pub fn prefixes(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for AllowCommands {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Allow;
        impl<'de> Visitor<'de> for Allow {
            type Value = AllowCommands;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, or a list of commands such as [\"uname -r\"]")
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<AllowCommands, E> {
                if on {
                    return Err(E::custom(
                        "\"true\" would run whatever a table says as the daemon's user: \
                         list the commands, such as [\"uname -r\"]",
                    ));
                }
                Ok(AllowCommands::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<AllowCommands, A::Error> {
                let mut prefixes = Vec::new();
                while let Some(prefix) = seq.next_element::<String>()? {
                    if prefix.trim().is_empty() {
                        return Err(de::Error::custom("an empty entry would allow no command"));
                    }
                    prefixes.push(prefix);
                }
                Ok(AllowCommands(prefixes))
            }
        }
        d.deserialize_any(Allow)
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $(#[$first:meta])* $default:ident $(, $(#[$other:meta])* $variant:ident)* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $name {
            $(#[$first])*
            #[default]
            $default,
            $($(#[$other])* $variant,)*
        }
    };
}

words! {
    /// How a directory is found in several litetrees.
    LitetreeDirectories {
        /// All of them and the image, merged.
        Merge,
        /// The first that is not empty, whole, as xCAT's boot script does.
        First,
    }
}
words! {
    /// When a persistent path is first copied to its store.
    PersistentSeed {
        /// A file at its first write.
        Lazy,
        /// The whole path at first boot, as xCAT does.
        Eager,
    }
}
words! {
    /// How `link` rules look to a node.
    LinkView {
        /// As the file itself, with its mode and owner.
        File,
        /// As xCAT's chain of two symlinks.
        Symlink,
    }
}
words! {
    /// How a deletion is stored in an upper.
    Whiteouts {
        /// As a device where the store can hold one, else as a file.
        Auto,
        /// As overlayfs does: a character device 0:0.
        Device,
        /// As aufs does: a file `.wh.<name>`.
        File,
    }
}
words! {
    /// Which way the kernel reads and writes files.
    Io {
        /// By itself in the file of a layer, where that cannot change while it is open.
        Passthrough,
        /// Through the daemon, which is not told of opens.
        Cached,
        /// Through the daemon.
        Daemon,
    }
}
words! {
    /// What the daemon keeps in step with the roots that are mounted.
    Export {
        /// Nothing.
        None,
        /// The file that the kernel's NFS server reads, exports(5).
        Exports,
        /// The file that NFS-Ganesha reads.
        Ganesha,
    }
}
words! {
    /// How the log is written.
    LogFormat {
        /// Lines for people.
        Text,
        /// One JSON object a line.
        Json,
    }
}

#[cfg(test)]
mod tests;
mod values;
