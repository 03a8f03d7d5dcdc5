//! What the daemon answers to each request.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Fleet;
use super::crew::gather;
use super::node::{Node, Went};
use super::reload::Asked;
use crate::control::{
    Answer, Ask, Code, Daemon, Done, ElsewhereNode, Explained, NodeDone, NodeShown, PathAnswer,
    Refusal, Replaced, Reply, Shown, State, Status, VERSION, Worker, unix_seconds,
};
use crate::fleet::shown;
use crate::fuse::Leave;

/// How long an operation on nodes may take before those that hang are left behind.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a look at nodes.
const GLANCE: Duration = Duration::from_secs(3);

/// A reply as a line.
pub(super) fn line<T: Serialize>(answer: Answer<T>) -> Vec<u8> {
    let reply = Reply {
        v: VERSION,
        result: answer,
    };
    serde_json::to_vec(&reply).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer can't be written down");
        br#"{"v":1,"error":{"code":"failed","message":"the answer can't be written down"}}"#.into()
    })
}

/// A refusal.
pub(super) fn refuse(code: Code, message: impl Into<String>) -> Refusal {
    let message = message.into();
    Refusal { code, message }
}

/// The nodes of a noderange: those that are served, and the names of others.
type Named = (Vec<Arc<Node>>, Vec<String>);

impl Fleet {
    /// Does what is asked for; the reply's line.
    pub(super) fn answer(self: &Arc<Self>, ask: Ask) -> Vec<u8> {
        fn either<T: Serialize>(result: Result<T, Refusal>) -> Vec<u8> {
            match result {
                Ok(answer) => line(Answer::Ok(answer)),
                Err(refusal) => line(Answer::<()>::Error(refusal)),
            }
        }
        let changes = !matches!(
            ask,
            Ask::Status { .. } | Ask::Explain { .. } | Ask::Show { .. }
        );
        if changes && self.is_stopping() {
            return either::<()>(Err(refuse(Code::Unavailable, "the daemon is stopping")));
        }
        match ask {
            Ask::Status { nodes } => either(self.status(nodes.as_deref())),
            Ask::Reload {} => either(Ok(self.reload(Asked::Socket))),
            Ask::Mount { nodes } => {
                let fleet = self.clone();
                let mount = move |node: &Arc<Node>| {
                    fleet.plan_again(std::slice::from_ref(node));
                    node.mount(&fleet)
                };
                either(self.each_of(&nodes, mount))
            }
            Ask::Umount { nodes, lazy } => {
                let how = if lazy { Leave::Lazily } else { Leave::Idle };
                let why = "unmounted by statelite umount";
                either(self.each_of(&nodes, move |node| node.unmount(how, why)))
            }
            Ask::Reset { nodes, force, boot } => {
                let fleet = self.clone();
                let nodes = match &boot {
                    Some(_) => self.loaded.read().by_address(nodes),
                    None => nodes,
                };
                let reset = move |node: &Arc<Node>| node.reset(&fleet, force, boot.as_ref());
                either(self.each_of(&nodes, reset))
            }
            Ask::Explain { nodes, paths } => either(self.explain(&nodes, paths)),
            Ask::Show { nodes } => either(self.show(&nodes)),
            // It needs the caller's own connection.
            Ask::Upgrade { .. } => {
                either::<()>(Err(refuse(Code::Garbage, "not asked for this way")))
            }
        }
    }

    fn named(&self, range: &str) -> Result<Named, Refusal> {
        let unknown = |error: String| refuse(Code::Unknown, error);
        let loaded = self.loaded.read().clone();
        let names = loaded.tables.noderange(range);
        let names = names.map_err(|error| unknown(error.to_string()))?;
        let nodes = self.nodes.read();
        let (mut found, mut elsewhere) = (Vec::new(), Vec::new());
        for name in names {
            match nodes.get(&name) {
                Some(node) => found.push(node.clone()),
                None => elsewhere.push(name),
            }
        }
        Ok((found, elsewhere))
    }

    fn each_of(
        self: &Arc<Self>,
        range: &str,
        work: impl Fn(&Arc<Node>) -> Went + Send + Sync + 'static,
    ) -> Result<Done, Refusal> {
        let (nodes, elsewhere) = self.named(range)?;
        let went = gather(nodes.clone(), PATIENCE, move |node| work(&node));
        self.exporter.settle();
        self.tell_status();
        let nodes = nodes.iter().zip(went).map(|(node, went)| {
            let Went { outcome, message } = went.unwrap_or_else(Went::hangs);
            let node = node.name.clone();
            NodeDone {
                node,
                outcome,
                message,
            }
        });
        Ok(Done {
            nodes: nodes.collect(),
            elsewhere,
        })
    }

    fn status(self: &Arc<Self>, range: Option<&str>) -> Result<Status, Refusal> {
        // Just begun: roots that another worker has served are about to be gone on with.
        let mut started = self.started.0.lock();
        if self.keep.told.replaced > 0 && !*started {
            self.started.1.wait_for(&mut started, GLANCE);
        }
        drop(started);
        let mut elsewhere: Vec<ElsewhereNode> = Vec::new();
        for other in &self.loaded.read().elsewhere {
            elsewhere.push(ElsewhereNode {
                node: other.node.clone(),
                servers: other.servers.clone(),
                at: other.at.to_string(),
            });
        }
        let nodes = match range {
            None => self.nodes(),
            Some(range) => {
                let (nodes, others) = self.named(range)?;
                elsewhere.retain(|node| others.contains(&node.node));
                let strange = |name: &&String| !elsewhere.iter().any(|node| node.node == **name);
                if let Some(name) = others.iter().find(strange) {
                    let message = format!("node {name} is not served here");
                    return Err(refuse(Code::Unknown, message));
                }
                nodes
            }
        };
        let config = self.config();
        let fleet = self.clone();
        let full = gather(nodes.clone(), GLANCE, move |node| node.status(&fleet));
        let nodes = nodes.iter().zip(full).map(|(node, full)| {
            full.unwrap_or_else(|| {
                let (mut status, _) = node.status_without_layers(&config.root);
                status.reason = Some("a layer does not answer".into());
                status
            })
        });
        Ok(Status {
            daemon: Daemon {
                pid: super::control::daemon(),
                version: env!("CARGO_PKG_VERSION").into(),
                since: self.keep.told.since,
                worker: self.worker(),
                tables: config.tables.clone(),
                reloads: self.reloads.load(Ordering::Relaxed),
                refused: *self.refused.lock(),
                export: self.exporter.status(),
            },
            nodes: nodes.collect(),
            elsewhere,
        })
    }

    fn worker(&self) -> Worker {
        let told = &self.keep.told;
        let last = (told.replaced > 0).then(|| Replaced {
            at: told.last,
            why: told.why.clone(),
        });
        Worker {
            pid: std::process::id(),
            since: unix_seconds(self.since),
            replaced: told.replaced,
            last,
        }
    }

    /// Of the live views; a node that is not mounted is looked at by whoever asks.
    fn explain(&self, range: &str, paths: Vec<String>) -> Result<Explained, Refusal> {
        let (nodes, mut elsewhere) = self.named(range)?;
        let mut served = Vec::new();
        for node in nodes {
            match node.live() {
                Some(live) => served.push((node.name.clone(), live)),
                None => elsewhere.push(node.name.clone()),
            }
        }
        let names: Vec<String> = served.iter().map(|(name, _)| name.clone()).collect();
        let all = gather(served, PATIENCE, move |(node, live)| {
            let answers = paths.iter().map(|path| {
                let why = live
                    .view()
                    .explain(path.as_bytes())
                    .map_err(|error| format!("{node}: {path}: {error}"))?;
                let row = why.rule.and_then(|rule| live.row(rule));
                Ok(shown::path_answer(live.planned.spec(), row, why))
            });
            answers.collect::<Result<Vec<PathAnswer>, String>>()
        });
        let mut answers = Vec::new();
        for (name, found) in names.iter().zip(all) {
            let hangs = || Err(format!("{name}: a layer does not answer"));
            let found = found.unwrap_or_else(hangs);
            answers.extend(found.map_err(|message| refuse(Code::Failed, message))?);
        }
        Ok(Explained { answers, elsewhere })
    }

    fn show(&self, range: &str) -> Result<Shown, Refusal> {
        let (nodes, mut elsewhere) = self.named(range)?;
        let mut shown = Vec::new();
        for node in nodes {
            let spec = match node.live() {
                Some(live) => Ok(live.planned),
                None => node.wanted(),
            };
            let spec = spec.map(|planned| planned.spec().clone());
            match spec {
                Ok(spec) => shown.push(NodeShown {
                    text: shown::text(&spec),
                    json: shown::json(&spec)
                        .map_err(|error| refuse(Code::Failed, error.to_string()))?,
                }),
                Err(_) => elsewhere.push(node.name.clone()),
            }
        }
        Ok(Shown {
            nodes: shown,
            elsewhere,
        })
    }

    /// "998 of 1000 nodes are served, 2 are tried again".
    pub(super) fn status_line(&self) -> String {
        let states: Vec<State> = self.nodes().iter().map(|node| node.state()).collect();
        let count = |state: State| states.iter().filter(|s| **s == state).count();
        let mut line = format!(
            "serving {} of {} nodes",
            count(State::Serving),
            states.len()
        );
        for state in [
            State::Starting,
            State::Retrying,
            State::Failed,
            State::Unmounted,
        ] {
            if count(state) > 0 {
                line.push_str(&format!(", {} {}", count(state), state.word()));
            }
        }
        line
    }
}
