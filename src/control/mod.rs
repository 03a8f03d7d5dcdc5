//! What the daemon and the command line say to each other over the control socket.
//!
//! A connection carries requests, one JSON object a line, and one line of reply for each:
//! `{"v":1,"do":"status","nodes":"cn1"}`, then `{"v":1,"ok":{…}}` or
//! `{"v":1,"error":{"code":"unknown","message":"…"}}`. Fields that are not known are passed over;
//! a change that an older side would misread raises [`VERSION`].
//!
//! Owns: the words of both sides, their bounds, the client. May not: know what a daemon does.

mod client;
mod line;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::fs::explain::Explanation;

pub use client::{ClientError, ask};
pub use line::{LineError, read_line, write_line};

/// As times are told: seconds since 1970, 0 before that.
pub fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The version of the words below.
pub const VERSION: u32 = 1;
/// No request is longer.
pub const MAX_REQUEST: usize = 64 << 10;
/// No reply is longer.
pub const MAX_REPLY: usize = 256 << 20;

/// One line to the daemon.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Request {
    /// The version that the client speaks.
    pub v: u32,
    /// What it wants.
    #[serde(flatten)]
    pub ask: Ask,
}

impl Request {
    /// Understands a line, without its end.
    ///
    /// # Errors
    /// A sentence: it is no request, or of another version.
    pub fn read(line: &[u8]) -> Result<Request, String> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let garbage = |error: serde_json::Error| format!("no request: {error}");
        // The version first: what another one means is not to be guessed at.
        let Version { v } = serde_json::from_slice(line).map_err(garbage)?;
        if v != VERSION {
            return Err(format!("version {v} is not spoken here, only {VERSION}"));
        }
        serde_json::from_slice(line).map_err(garbage)
    }
}

/// What can be asked for. `nodes` is a noderange.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Ask {
    /// How nodes are: [`Status`].
    Status {
        /// All of them where it is left out.
        #[serde(default)]
        nodes: Option<String>,
    },
    /// Read tables and configuration anew: [`Reloaded`].
    Reload {},
    /// Mount what is not mounted: [`Done`].
    Mount {
        /// Which.
        nodes: String,
    },
    /// Unmount: [`Done`].
    Umount {
        /// Which.
        nodes: String,
        /// Also what is in use: out of the tree now, and away with its last user.
        #[serde(default)]
        lazy: bool,
    },
    /// Empty the tmpfs uppers: [`Done`].
    Reset {
        /// Which.
        nodes: String,
        /// Also of roots that are mounted.
        #[serde(default)]
        force: bool,
        /// Since they boot: once a boot. `nodes` may be an address then.
        #[serde(default)]
        boot: Option<Boot>,
    },
    /// Why paths are what they are: [`Explained`].
    Explain {
        /// Which.
        nodes: String,
        /// Paths in their roots.
        paths: Vec<String>,
    },
    /// What the tables say that are in force: [`Shown`].
    Show {
        /// Which.
        nodes: String,
    },
    /// Have another program take over all roots: [`Upgraded`], said by that one.
    Upgrade {
        /// Its file; what lies now where this one was started from, where it is left out.
        #[serde(default)]
        program: Option<PathBuf>,
    },
}

/// A boot, as its hook tells of it.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Boot {
    /// The same for all calls of one boot. Without it, calls within `boot_window` of the first one
    /// are of one boot.
    #[serde(default)]
    pub token: Option<String>,
}

/// One line from the daemon; `T` is what the request names.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Reply<T> {
    /// The version that the daemon speaks.
    pub v: u32,
    /// What was asked for, or why not.
    #[serde(flatten)]
    pub result: Answer<T>,
}

/// How a request went.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer<T> {
    /// It was done, for each node as it says.
    Ok(T),
    /// It was not understood, or not begun.
    Error(Refusal),
}

/// Why a request was not begun.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// The line is no request of this version.
    Garbage,
    /// The caller is not root.
    Denied,
    /// No such node here.
    Unknown,
    /// The daemon is stopping, or has too many callers.
    Unavailable,
    /// It failed.
    Failed,
}

/// How one node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not tried yet.
    Starting,
    /// Mounted, and requests are answered.
    Serving,
    /// Not mounted; it is tried again by itself.
    Retrying,
    /// Not mounted; the tables or the configuration have to change first.
    Failed,
    /// Not mounted, since somebody unmounted it.
    Unmounted,
}

impl State {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Serving => "serving",
            State::Retrying => "retrying",
            State::Failed => "failed",
            State::Unmounted => "unmounted",
        }
    }
}

/// The daemon and its nodes.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Status {
    /// The daemon.
    pub daemon: Daemon,
    /// Those that were asked for, by name.
    pub nodes: Vec<NodeStatus>,
    /// Those of them that the tables give to other servers.
    #[serde(default)]
    pub elsewhere: Vec<ElsewhereNode>,
}

/// The daemon itself.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Daemon {
    /// Process id of the one that stays.
    pub pid: u32,
    /// The version of the program that serves.
    pub version: String,
    /// Since when it runs, in seconds since 1970.
    pub since: u64,
    /// The process that serves.
    #[serde(default)]
    pub worker: Worker,
    /// The directory of the tables.
    pub tables: PathBuf,
    /// How often tables and configuration were read anew and taken.
    pub reloads: u64,
    /// The last reload that was refused since one was taken: when, and how many errors it had.
    pub refused: Option<(u64, usize)>,
    /// What NFS servers are told, where the configuration has them told.
    #[serde(default)]
    pub export: Option<ExportStatus>,
}

/// The process that serves, which is replaced when it ends.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Worker {
    /// Process id.
    pub pid: u32,
    /// Since when it serves, in seconds since 1970.
    pub since: u64,
    /// How many there were before it.
    pub replaced: u64,
    /// The end of the last of them.
    pub last: Option<Replaced>,
}

/// The end of a process that served.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Replaced {
    /// In seconds since 1970.
    pub at: u64,
    /// Why it ended.
    pub why: String,
}

/// Another program has taken over.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Upgraded {
    /// Its version.
    pub version: String,
    /// The process that serves now.
    pub pid: u32,
}

/// What NFS servers are told.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ExportStatus {
    /// The file that is kept in step.
    pub file: PathBuf,
    /// How many roots are in it.
    pub nodes: usize,
    /// Why it is not in step.
    pub error: Option<String>,
}

/// A node that other servers serve.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ElsewhereNode {
    /// The node.
    pub node: String,
    /// Whom the tables name.
    pub servers: Vec<String>,
    /// Where, as file:line:column.
    pub at: String,
}

/// One node.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// How it is.
    pub state: State,
    /// Why it is so.
    pub reason: Option<String>,
    /// What the tables or the configuration say and the mounted root does not do yet, and why.
    pub pending: Option<String>,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Where its root is mounted, or would be.
    pub mountpoint: PathBuf,
    /// The image's name.
    pub image: Option<String>,
    /// Each layer of the mounted root.
    pub layers: Vec<LayerStatus>,
    /// How file contents are read and written, where it is mounted: `passthrough`, by the kernel
    /// itself; `cached` or `daemon`, through this process.
    pub io: Option<String>,
    /// Inodes that the kernel holds.
    pub inodes: usize,
    /// Open files.
    pub open: usize,
    /// Roots of this node that were unmounted lazily and are still in use.
    pub detached: usize,
}

/// One layer of a root.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct LayerStatus {
    /// `image`, `litetree 1`, `tmpfs upper`, …
    pub layer: String,
    /// The directory on the server.
    pub path: PathBuf,
    /// Why it is not there.
    pub missing: Option<String>,
    /// How a change in it is noticed: `watched`, `its only writer` for an upper, or for how long
    /// what was found is believed.
    pub freshness: String,
    /// Why it is not watched.
    #[serde(default)]
    pub not_watched: Option<String>,
}

/// What was done to nodes.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Done {
    /// Each that was named.
    pub nodes: Vec<NodeDone>,
    /// Named, but not served here.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// What was done to one node.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct NodeDone {
    /// The node.
    pub node: String,
    /// How it went.
    pub outcome: Outcome,
    /// More about it.
    pub message: Option<String>,
}

/// How an operation on a node went.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done.
    Done,
    /// It was so already.
    Already,
    /// Done; somebody still uses what was there before.
    Detached,
    /// Not done: it is in use.
    Busy,
    /// Not done.
    Failed,
}

/// What a reload did.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Reloaded {
    /// The new tables and configuration are in force; otherwise nothing has changed.
    pub applied: bool,
    /// All that is wrong with them.
    pub problems: Vec<Finding>,
    /// Keys of the configuration that have changed and count only when the daemon is restarted.
    pub restart: Vec<String>,
    /// Nodes that changed.
    pub nodes: Vec<NodeChange>,
    /// How many did not.
    pub unchanged: usize,
}

/// A problem, as text with its place.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Finding {
    /// It stands in the way.
    pub error: bool,
    /// `file:line:column: error: what (what to do)`.
    pub text: String,
}

/// What a reload changed of one node.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct NodeChange {
    /// The node.
    pub node: String,
    /// What happened to it.
    pub change: Change,
    /// How that went.
    pub outcome: Outcome,
    /// More about it.
    pub message: Option<String>,
    /// New rules: option and path.
    #[serde(default)]
    pub rules_added: Vec<String>,
    /// Rules that are gone.
    #[serde(default)]
    pub rules_removed: Vec<String>,
    /// Rules whose option has changed.
    #[serde(default)]
    pub options_changed: Vec<String>,
    /// What else is different: image, litetrees, store, size.
    #[serde(default)]
    pub settings: Vec<String>,
    /// What the node has written and now does not see.
    #[serde(default)]
    pub hides: Vec<Written>,
    /// What the node has written before and sees again.
    #[serde(default)]
    pub shows: Vec<Written>,
}

/// What can happen to a node in a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new, and was mounted.
    Added,
    /// It is not served any more, and was unmounted.
    Removed,
    /// Its mounted root goes by the new rules.
    Changed,
    /// It was unmounted and mounted again.
    Remounted,
}

/// What an upper holds at a path.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Written {
    /// The path in the root.
    pub path: String,
    /// Which upper: `tmpfs`, `persistent`, `localdisk`.
    pub upper: String,
    /// How many entries it has there; 1 for what is no directory.
    pub count: usize,
    /// The first of their names.
    pub entries: Vec<String>,
}

/// Why paths are what they are.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Explained {
    /// In the order of nodes and paths.
    pub answers: Vec<PathAnswer>,
    /// Named, but not served here.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// Why a path is what it is.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct PathAnswer {
    /// The node.
    pub node: String,
    /// Its image.
    pub image: String,
    /// The litefile row that governs, as file:line:column.
    pub rule: Option<String>,
    /// That row's path and option.
    pub row: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub why: Explanation,
}

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Shown {
    /// Each node's.
    pub nodes: Vec<NodeShown>,
    /// Named, but not served here.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// What the tables say of a node.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct NodeShown {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_documented_and_take_unknown_fields() {
        let text = r#"{"v":1,"do":"umount","nodes":"cn1","colour":"red"}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        let ask = Ask::Umount {
            nodes: "cn1".into(),
            lazy: false,
        };
        assert_eq!(request, Request { v: 1, ask });
        for text in [
            r#"{"v":1,"do":"reload"}"#,
            r#"{"v":1,"do":"status","more":[]}"#,
        ] {
            serde_json::from_str::<Request>(text).unwrap();
        }
        for text in ["", "{}", r#"{"v":1,"do":"dance"}"#, r#"{"do":"reload"}"#] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn replies_go_there_and_back() {
        let reply = Reply {
            v: VERSION,
            result: Answer::Ok(Done::default()),
        };
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(text, r#"{"v":1,"ok":{"nodes":[],"elsewhere":[]}}"#);
        assert_eq!(serde_json::from_str::<Reply<Done>>(&text).unwrap(), reply);
        let refused: Reply<Done> =
            serde_json::from_str(r#"{"v":2,"error":{"code":"busy","message":"x"},"new":1}"#)
                .unwrap_or(Reply {
                    v: 0,
                    result: Answer::Ok(Done::default()),
                });
        assert_eq!(refused.v, 0, "a code that is not known is no answer");
    }
}
