//! Reload: everything is read, checked and compiled beside what is in force; one error, and nothing
//! has changed. Then the nodes that differ change, and no other is touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Fleet;
use super::changes::{Comparer, Difference, need_restart};
use super::crew::gather;
use super::loaded::Loaded;
use super::node::{Node, Wanted, Went};
use crate::control::{Change, Finding, NodeChange, Outcome, Reloaded, unix_seconds};
use crate::fuse::Leave;
use crate::tables::{Problem, Severity};

/// How long all nodes together may take to compile or to change.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who wants a reload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// Somebody, over the control socket.
    Socket,
    /// Somebody, by SIGHUP.
    Signal,
    /// Nobody: a table was changed. It may be half written, so that this way no node goes.
    Table,
}

/// What is to be done to one node.
enum Step {
    Remove(Arc<Node>),
    Add(Arc<Node>),
    Change(Arc<Node>, Wanted, Difference),
}

impl Fleet {
    /// Reads tables and configuration anew and goes by them, if they have no error.
    pub(super) fn reload(self: &Arc<Self>, asked: Asked) -> Reloaded {
        let _one = self.reloading.lock();
        let began = Instant::now();
        self.manager.reloading();
        tracing::info!(?asked, "reading tables and configuration");
        let before = self.loaded.read().clone();
        let reloaded = match Loaded::read(&self.options, Some(&before.plan)) {
            Ok(loaded) => self.take(loaded, asked),
            Err(text) => refused(vec![Finding { error: true, text }]),
        };
        let errors = reloaded.problems.iter().filter(|found| found.error).count();
        if reloaded.applied {
            *self.refused.lock() = None;
            self.reloads
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (changed, unchanged) = (reloaded.nodes.len(), reloaded.unchanged);
            let took = began.elapsed();
            tracing::info!(changed, unchanged, ?took, "reloaded");
        } else {
            for found in &reloaded.problems {
                match found.error {
                    true => tracing::error!("{}", found.text),
                    false => tracing::warn!("{}", found.text),
                }
            }
            *self.refused.lock() = Some((unix_seconds(SystemTime::now()), errors));
            tracing::error!(errors, "the tables have errors: all goes on as before");
        }
        self.tell_ready();
        reloaded
    }

    fn take(self: &Arc<Self>, loaded: Loaded, asked: Asked) -> Reloaded {
        let problems: BTreeSet<&Problem> = loaded.problems.iter().collect();
        let mut findings: Vec<Finding> = problems.iter().copied().map(finding).collect();
        if problems.iter().any(|p| p.severity == Severity::Error) {
            return refused(findings);
        }
        let (steps, unchanged) = self.steps(&loaded);
        let gone = steps.iter().filter_map(|step| match step {
            Step::Remove(node) => Some(node.name.as_str()),
            _ => None,
        });
        let gone: Vec<&str> = gone.collect();
        if let (Asked::Table, Some(first)) = (asked, gone.first()) {
            let (dir, n) = (loaded.config.tables.display(), gone.len());
            let text = format!(
                "{dir}: error: {n} nodes are gone, such as {first} (a table may be half written; \
                 statelite reload unmounts them)"
            );
            findings.push(Finding { error: true, text });
            return refused(findings);
        }
        self.told.lock().clear();
        self.tell(&loaded.problems);
        let restart = need_restart(&self.config(), &loaded.config);
        for key in &restart {
            tracing::warn!(
                key,
                "has changed; it counts when the daemon is started again"
            );
        }
        let loaded = Arc::new(loaded);
        let config = loaded.config.clone();
        // Before anything is done: a worker that follows goes on with it.
        self.keep.snapshot(&loaded.snapshot);
        *self.loaded.write() = loaded.clone();
        self.exporter.withdraw(gone);
        self.exporter.reloaded(loaded.clone());
        for (node, wanted) in unchanged.iter().filter_map(|node| {
            let wanted = loaded.nodes.get(&node.name)?;
            Some((node, wanted.clone()))
        }) {
            node.refresh(wanted, &config);
        }
        self.ticker.wake();
        {
            let mut nodes = self.nodes.write();
            for step in &steps {
                match step {
                    Step::Remove(node) => drop(nodes.remove(&node.name)),
                    Step::Add(node) => drop(nodes.insert(node.name.clone(), node.clone())),
                    Step::Change(..) => {}
                }
            }
        }
        let told: Vec<NodeChange> = steps.iter().map(Step::begun).collect();
        let fleet = self.clone();
        let done = gather(steps, PATIENCE, move |step| step.run(&fleet));
        self.exporter.settle();
        let nodes = told.into_iter().zip(done);
        Reloaded {
            applied: true,
            problems: findings,
            restart,
            nodes: nodes.map(|(begun, done)| done.unwrap_or(begun)).collect(),
            unchanged: unchanged.len(),
        }
    }

    /// What is to be done, and the nodes that nothing is to be done to.
    fn steps(&self, loaded: &Loaded) -> (Vec<Step>, Vec<Arc<Node>>) {
        let (mut steps, mut unchanged) = (Vec::new(), Vec::new());
        let config = self.config();
        let now = self.nodes.read().clone();
        let mut comparer = Comparer::default();
        for node in now.values() {
            let Some(wanted) = loaded.nodes.get(&node.name) else {
                steps.push(Step::Remove(node.clone()));
                continue;
            };
            // What counts is what a mounted root goes by, not what it was to go by.
            let basis = match node.live() {
                Some(live) => Ok((live.planned, live.config)),
                None => node.wanted().map(|planned| (planned, config.clone())),
            };
            let difference = match (&basis, wanted) {
                (Ok((old, config)), Ok(new)) => {
                    comparer.difference((old.spec(), config), (new.spec(), &loaded.config))
                }
                (Err(old), Err(new)) if old == new => None,
                (_, Err(fault)) => Some(Difference::of_words(&fault.why)),
                (Err(_), Ok(_)) => Some(Difference::of_words("there is an image for it")),
            };
            match difference {
                None => unchanged.push(node.clone()),
                Some(difference) => {
                    steps.push(Step::Change(node.clone(), wanted.clone(), difference));
                }
            }
        }
        for (name, wanted) in &loaded.nodes {
            if !now.contains_key(name) {
                let (exporter, keep) = (self.exporter.clone(), self.keep.clone());
                let node = Node::new(name.clone(), wanted.clone(), exporter, keep);
                steps.push(Step::Add(node));
            }
        }
        (steps, unchanged)
    }
}

fn finding(problem: &Problem) -> Finding {
    Finding {
        error: problem.severity == Severity::Error,
        text: problem.to_string(),
    }
}

fn refused(problems: Vec<Finding>) -> Reloaded {
    Reloaded {
        problems,
        ..Reloaded::default()
    }
}

impl Step {
    /// What is said of it while it has not ended.
    fn begun(&self) -> NodeChange {
        let (node, change) = match self {
            Step::Remove(node) => (node, Change::Removed),
            Step::Add(node) => (node, Change::Added),
            Step::Change(node, ..) => (node, Change::Changed),
        };
        let went = Went::hangs();
        NodeChange {
            node: node.name.clone(),
            change,
            outcome: went.outcome,
            message: went.message,
            rules_added: Vec::new(),
            rules_removed: Vec::new(),
            options_changed: Vec::new(),
            settings: Vec::new(),
            hides: Vec::new(),
            shows: Vec::new(),
        }
    }

    fn run(self, fleet: &Arc<Fleet>) -> NodeChange {
        let mut said = self.begun();
        let went = match self {
            Step::Remove(node) => {
                node.strike();
                // Its users keep it; nobody else finds it any more.
                let went = node.unmount(Leave::Lazily, "the tables have it no more");
                match went.outcome {
                    Outcome::Already => Went::plain(Outcome::Done),
                    _ => went,
                }
            }
            Step::Add(node) => node.mount(fleet),
            Step::Change(node, wanted, difference) => {
                difference.tell(&mut said);
                let was = node.live();
                let before = was.as_ref().map(|live| difference.before(&live.view()));
                let (live, went) = node.change(fleet, wanted);
                if !live {
                    said.change = Change::Remounted;
                }
                if let (Outcome::Done, Some(before), Some(now)) =
                    (went.outcome, before, node.live())
                {
                    difference.after(before, &now.view(), &mut said);
                }
                went
            }
        };
        said.outcome = went.outcome;
        said.message = went.message;
        said
    }
}
