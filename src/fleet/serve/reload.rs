//! Reload: everything is read, checked and compiled beside what is in force; one error, and nothing
//! has changed. Then the nodes that differ change, and no other is touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Fleet;
use super::changes::{Comparer, Difference, need_restart};
use super::crew::gather;
use super::loaded::Loaded;
use super::node::{NewRules, Node, Wanted, Went};
use crate::control::{Change, Finding, NodeChange, Outcome, Reloaded};
use crate::fleet::build::{self, Compiled};
use crate::fuse::Leave;
use crate::tables::{Problem, Severity};

/// How long all nodes together may take to compile or to change.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is to be done to one node.
enum Step {
    Remove(Arc<Node>),
    Add(Arc<Node>, Option<Compiled>),
    Change(Arc<Node>, NewRules, Difference),
}

/// As [`Step`], before anything was compiled.
struct Plan {
    node: Arc<Node>,
    wanted: Option<Wanted>,
    /// Of a node that is there already.
    difference: Option<Difference>,
}

impl Fleet {
    /// Reads tables and configuration anew and goes by them, if they have no error. `why` is for
    /// the log.
    pub fn reload(self: &Arc<Self>, why: &str) -> Reloaded {
        let _one = self.reloading.lock();
        let began = Instant::now();
        self.manager.reloading();
        tracing::info!(why, "reading tables and configuration");
        let reloaded = match Loaded::read(&self.options) {
            Ok(loaded) => self.take(loaded),
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
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |since| since.as_secs());
            *self.refused.lock() = Some((now, errors));
            tracing::error!(errors, "the tables have errors: all goes on as before");
        }
        self.manager.ready(&self.status_line());
        reloaded
    }

    fn take(self: &Arc<Self>, loaded: Loaded) -> Reloaded {
        let mut problems: BTreeSet<Problem> = loaded.problems.iter().cloned().collect();
        let (plans, unchanged) = self.plan(&loaded);
        let compiled = self.compile(&plans, &loaded, &mut problems);
        let problems: Vec<Problem> = problems.into_iter().collect();
        let findings = problems.iter().map(finding).collect();
        if problems.iter().any(|p| p.severity == Severity::Error) {
            return refused(findings);
        }
        self.told.lock().clear();
        self.tell(&problems);
        let restart = need_restart(&self.config(), &loaded.config);
        for key in &restart {
            tracing::warn!(
                key,
                "has changed; it counts when the daemon is started again"
            );
        }
        let loaded = Arc::new(loaded);
        let config = loaded.config.clone();
        *self.loaded.write() = loaded.clone();
        for (node, wanted) in unchanged.iter().filter_map(|node| {
            let wanted = loaded.nodes.get(&node.name)?;
            Some((node, wanted.clone()))
        }) {
            node.refresh(wanted, &config);
        }
        self.ticker.wake();
        let mut steps = Vec::new();
        {
            let mut nodes = self.nodes.write();
            for (plan, compiled) in plans.into_iter().zip(compiled) {
                let node = plan.node;
                steps.push(match (plan.wanted, plan.difference) {
                    (None, _) => {
                        nodes.remove(&node.name);
                        Step::Remove(node)
                    }
                    (Some(_), None) => {
                        nodes.insert(node.name.clone(), node.clone());
                        Step::Add(node, compiled)
                    }
                    (Some(wanted), Some(difference)) => {
                        Step::Change(node, NewRules { wanted, compiled }, difference)
                    }
                });
            }
        }
        let told: Vec<NodeChange> = steps.iter().map(Step::begun).collect();
        let fleet = self.clone();
        let done = gather(steps, PATIENCE, move |step| step.run(&fleet));
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
    fn plan(&self, loaded: &Loaded) -> (Vec<Plan>, Vec<Arc<Node>>) {
        let (mut plans, mut unchanged) = (Vec::new(), Vec::new());
        let config = self.config();
        let now = self.nodes.read().clone();
        let mut comparer = Comparer::default();
        for node in now.values() {
            let Some(wanted) = loaded.nodes.get(&node.name) else {
                plans.push(Plan {
                    node: node.clone(),
                    wanted: None,
                    difference: None,
                });
                continue;
            };
            // What counts is what a mounted root goes by, not what it was to go by.
            let basis = match node.live() {
                Some(live) => Ok((live.spec, live.config)),
                None => node.wanted().map(|spec| (spec, config.clone())),
            };
            let difference = match (&basis, wanted) {
                (Ok((spec, config)), Ok(new)) => {
                    comparer.difference((spec, config), (new, &loaded.config))
                }
                (Err(old), Err(new)) if old == new => None,
                _ => Some(Difference::of_words("what the tables say of its image")),
            };
            match difference {
                None => unchanged.push(node.clone()),
                difference => plans.push(Plan {
                    node: node.clone(),
                    wanted: Some(wanted.clone()),
                    difference,
                }),
            }
        }
        for (name, wanted) in &loaded.nodes {
            if !now.contains_key(name) {
                plans.push(Plan {
                    node: Node::new(name.clone(), wanted.clone()),
                    wanted: Some(wanted.clone()),
                    difference: None,
                });
            }
        }
        (plans, unchanged)
    }

    /// Compiles what is to be mounted or changed. An image that is missing is that node's own
    /// trouble, and comes out when it is mounted.
    fn compile(
        &self,
        plans: &[Plan],
        loaded: &Loaded,
        problems: &mut BTreeSet<Problem>,
    ) -> Vec<Option<Compiled>> {
        let specs: Vec<_> = plans.iter().map(|plan| plan.wanted.clone()).collect();
        let config = loaded.config.clone();
        let compiled = gather(specs, PATIENCE, move |wanted| {
            build::compiled(&*wanted?.ok()?, &config).ok()
        });
        let compiled = compiled.into_iter().map(Option::flatten);
        compiled
            .inspect(|compiled| problems.extend(compiled.iter().flat_map(|c| c.problems.clone())))
            .collect()
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
            Step::Add(node, _) => (node, Change::Added),
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
            Step::Add(node, compiled) => node.mount(fleet, compiled),
            Step::Change(node, rules, difference) => {
                difference.tell(&mut said);
                let was = node.live();
                let before = was.as_ref().map(|live| difference.before(&live.view));
                let (live, went) = node.change(fleet, rules);
                if !live {
                    said.change = Change::Remounted;
                }
                if let (Outcome::Done, Some(before), Some(now)) =
                    (went.outcome, before, node.live())
                {
                    difference.after(before, &now.view, &mut said);
                }
                went
            }
        };
        said.outcome = went.outcome;
        said.message = went.message;
        said
    }
}
