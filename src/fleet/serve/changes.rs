//! What is different between two readings of the tables, and what that does to what a node has
//! written.
//!
//! Owns: comparing. May not: change anything.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::control::{NodeChange, Written};
use crate::fleet::build::{option_word, rule_path};
use crate::fs::View;
use crate::layer::Found;
use crate::rules::UpperKind;
use crate::tables::{NodeSpec, RuleRow};

/// So many names of what is hidden are told; the rest is counted.
const NAMES: usize = 10;
/// At so many paths of a node it is looked at what is hidden: it takes a walk in each layer.
const PATHS: usize = 50;

/// What a node goes by.
pub(super) type Basis<'a> = (&'a NodeSpec, &'a Config);

/// A configuration with the keys at their defaults that no view depends on.
fn of_views(config: &Config) -> Config {
    let default = Config::default();
    Config {
        tables: default.tables,
        control: default.control,
        stop_grace: default.stop_grace,
        watch: default.watch,
        watch_tables: default.watch_tables,
        cache_size: default.cache_size,
        metrics: default.metrics,
        tmpfs_size: default.tmpfs_size,
        tmpfs_sizes: default.tmpfs_sizes,
        // What they stand for is in the nodes' rows.
        local_hosts: default.local_hosts,
        allow_commands: default.allow_commands,
        command_timeout: default.command_timeout,
        // Who mounts a view over the network, and when it is reset.
        server: default.server,
        export: default.export,
        exports_file: default.exports_file,
        ganesha_file: default.ganesha_file,
        ganesha_pid: default.ganesha_pid,
        boot_window: default.boot_window,
        log: default.log,
        log_format: default.log_format,
        ..config.clone()
    }
}

/// Keys that count only when the daemon is started again.
pub(super) fn need_restart(old: &Config, new: &Config) -> Vec<String> {
    let keys = [
        ("control", old.control != new.control),
        ("watch", old.watch != new.watch),
        ("watch_tables", old.watch_tables != new.watch_tables),
        ("cache_size", old.cache_size != new.cache_size),
        ("metrics", old.metrics != new.metrics),
        ("log", old.log != new.log),
        ("log_format", old.log_format != new.log_format),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key.into()).collect()
}

/// Can't it be done to a root that is mounted?
pub(super) fn need_remount(old: &Config, new: &Config) -> bool {
    (old.threads, &old.root, &old.tmpfs_dir) != (new.threads, &new.root, &new.tmpfs_dir)
}

fn same_rule(a: &RuleRow, b: &RuleRow) -> bool {
    (&a.path, a.dir, a.option, a.link) == (&b.path, b.dir, b.option, b.link)
}

/// Is the view the same one? In which lines of the tables that stands does not matter.
pub(super) fn same_view(old: Basis, new: Basis) -> bool {
    let ((old_spec, old_config), (spec, config)) = (old, new);
    let rules = Arc::ptr_eq(&old_spec.rules, &spec.rules)
        || old_spec.rules.len() == spec.rules.len()
            && old_spec
                .rules
                .iter()
                .zip(spec.rules.iter())
                .all(|(a, b)| same_rule(a, b));
    rules && same_but_rules(old_spec, spec) && of_views(old_config) == of_views(config)
}

fn same_but_rules(old: &NodeSpec, new: &NodeSpec) -> bool {
    old.image == new.image && old.has_same_trees(new) && old.has_same_store(new)
}

fn same_size((old_spec, old): Basis, (spec, new): Basis) -> bool {
    old.tmpfs_size_of(&old_spec.node, &old_spec.groups)
        == new.tmpfs_size_of(&spec.node, &spec.groups)
}

/// How two lists of rules differ.
#[derive(Debug, Default)]
pub(super) struct Rules {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
    /// The paths of all those, and whether a symlink at the end is followed.
    paths: Vec<(Vec<u8>, bool)>,
}

/// Compares; nodes of one image share their rules, so that each pair of lists is compared once.
/// The lists are kept as long as they are compared by their address.
#[derive(Debug, Default)]
pub(super) struct Comparer {
    seen: HashMap<(usize, usize), Compared>,
}

#[derive(Debug)]
struct Compared {
    rules: Arc<Rules>,
    _lists: [Arc<[Arc<RuleRow>]>; 2],
}

impl Comparer {
    /// How a node differs; `None` where it does not.
    pub(super) fn difference(&mut self, old: Basis, new: Basis) -> Option<Difference> {
        let ((old_spec, old_config), (spec, config)) = (old, new);
        let rules = self.rules(&old_spec.rules, &spec.rules);
        let same_config = of_views(old_config) == of_views(config);
        if rules.paths.is_empty()
            && same_config
            && same_but_rules(old_spec, spec)
            && same_size(old, new)
        {
            return None;
        }
        let settings = settings(old, new, same_config);
        Some(Difference { rules, settings })
    }

    fn rules(&mut self, old: &Arc<[Arc<RuleRow>]>, new: &Arc<[Arc<RuleRow>]>) -> Arc<Rules> {
        let key = (old.as_ptr().addr(), new.as_ptr().addr());
        let compared = self.seen.entry(key).or_insert_with(|| Compared {
            rules: Arc::new(compare(old, new)),
            _lists: [old.clone(), new.clone()],
        });
        compared.rules.clone()
    }
}

fn word(row: &RuleRow) -> String {
    format!("{} {}", option_word(row), rule_path(row))
}

/// Both are sorted by path, and have each path once.
fn compare(old: &Arc<[Arc<RuleRow>]>, new: &Arc<[Arc<RuleRow>]>) -> Rules {
    let mut rules = Rules::default();
    if Arc::ptr_eq(old, new) {
        return rules;
    }
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return rules,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        let gone = (order.is_le()).then(|| old.next()).flatten();
        let come = (order.is_ge()).then(|| new.next()).flatten();
        match (gone, come) {
            (Some(a), Some(b)) if same_rule(a, b) => continue,
            (Some(a), Some(b)) => {
                let to = option_word(b);
                rules
                    .changed
                    .push(format!("{}, was {}: {to}", rule_path(b), option_word(a)));
            }
            (Some(a), None) => rules.removed.push(word(a)),
            (None, Some(b)) => rules.added.push(word(b)),
            (None, None) => return rules,
        }
        if let Some(row) = come.or(gone) {
            rules.paths.push((row.path.clone(), row.dir));
        }
    }
}

fn settings(old: Basis, new: Basis, same_config: bool) -> Vec<String> {
    let ((old_spec, old_config), (spec, config)) = (old, new);
    let mut settings = Vec::new();
    let mut differ = |what: &str, old: String, new: String| {
        settings.push(format!("{what} {new}, was {old}"));
    };
    if old_spec.image != spec.image {
        let image = |spec: &NodeSpec| {
            let tree = spec.image.rootimg.display();
            format!("{} ({tree})", spec.image.name)
        };
        differ("image", image(old_spec), image(spec));
    }
    if !old_spec.has_same_trees(spec) {
        let list = |spec: &NodeSpec| {
            let trees = spec.trees.iter();
            let trees: Vec<String> = trees
                .map(|tree| tree.location.path.display().to_string())
                .collect();
            if trees.is_empty() {
                "none".into()
            } else {
                trees.join(" ")
            }
        };
        differ("litetrees", list(old_spec), list(spec));
    }
    if !old_spec.has_same_store(spec) {
        let store = |spec: &NodeSpec| {
            let store = spec.store.as_ref();
            store.map_or("none".into(), |s| s.location.path.display().to_string())
        };
        differ("store", store(old_spec), store(spec));
    }
    if !same_size(old, new) {
        let size =
            |(spec, config): Basis| config.tmpfs_size_of(&spec.node, &spec.groups).to_string();
        differ("tmpfs size", size(old), size(new));
    }
    if !same_config {
        settings.push(match need_remount(old_config, config) {
            true => "the configuration, in what needs a new mount".into(),
            false => "the configuration".into(),
        });
    }
    settings
}

/// How a node differs.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    rules: Arc<Rules>,
    settings: Vec<String>,
}

impl Difference {
    /// Of a node that had no view, or is to have none.
    pub(super) fn of_words(what: &str) -> Difference {
        Difference {
            rules: Arc::default(),
            settings: vec![what.into()],
        }
    }

    /// Into the reply.
    pub(super) fn tell(&self, change: &mut NodeChange) {
        change.rules_added = self.rules.added.clone();
        change.rules_removed = self.rules.removed.clone();
        change.options_changed = self.rules.changed.clone();
        change.settings = self.settings.clone();
    }

    /// What the node has written where its rules change, as it is now.
    pub(super) fn before(&self, view: &View) -> Vec<Place> {
        let paths = self.rules.paths.iter().take(PATHS);
        paths
            .filter_map(|(path, dir)| place(view, path, *dir))
            .collect()
    }

    /// What of it is hidden now, and what came into sight.
    pub(super) fn after(&self, before: Vec<Place>, view: &View, change: &mut NodeChange) {
        for place in before {
            let upper = governing(view, &place.path);
            if upper == place.upper {
                continue;
            }
            change.hides.extend(place.written);
            change
                .shows
                .extend(upper.and_then(|upper| written(view, upper, &place.path)));
        }
    }
}

/// A path, the upper that it is written to, and what that holds there.
pub(super) struct Place {
    path: Vec<u8>,
    upper: Option<UpperKind>,
    written: Option<Written>,
}

fn place(view: &View, path: &[u8], dir: bool) -> Option<Place> {
    // What can't be walked to now is hidden by nothing that is new.
    let path = view.canonical([(path, dir)]).pop()?.ok()?;
    let upper = governing(view, &path);
    let written = upper.and_then(|upper| written(view, upper, &path));
    Some(Place {
        path,
        upper,
        written,
    })
}

fn governing(view: &View, path: &[u8]) -> Option<UpperKind> {
    view.explain(path).ok()?.upper
}

/// What an upper has at a path; deletions don't count.
fn written(view: &View, kind: UpperKind, path: &[u8]) -> Option<Written> {
    let layer = view.upper(kind)?;
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let Ok(Found::Object(object)) = layer.probe(path) else {
        return None;
    };
    let mut names: Vec<String> = if object.stat.is_dir() {
        let listed = layer.list(path).ok()?.into_iter();
        listed
            .filter(|entry| !entry.whiteout)
            .map(|entry| text(&entry.name))
            .collect()
    } else {
        vec![text(crate::sys::obj::split(path).1)]
    };
    names.sort();
    let count = names.len();
    names.truncate(NAMES);
    (count > 0).then(|| Written {
        path: format!("/{}", text(path)),
        upper: kind.word().into(),
        count,
        entries: names,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{LiteOption, Origin};

    fn row(path: &str, option: LiteOption, line: u64) -> Arc<RuleRow> {
        Arc::new(RuleRow {
            path: path.into(),
            dir: false,
            option,
            link: false,
            at: Origin {
                line,
                ..Origin::default()
            },
        })
    }

    #[test]
    fn rules_are_compared_by_what_they_say_not_by_where() {
        use LiteOption::{Persistent, Ro, Tmpfs};
        let old: Arc<[Arc<RuleRow>]> =
            [row("/a", Tmpfs, 1), row("/b", Tmpfs, 2), row("/c", Ro, 3)].into();
        let moved: Arc<[Arc<RuleRow>]> =
            [row("/a", Tmpfs, 9), row("/b", Tmpfs, 8), row("/c", Ro, 7)].into();
        assert!(compare(&old, &moved).paths.is_empty());
        let new: Arc<[Arc<RuleRow>]> = [
            row("/b", Persistent, 1),
            row("/c", Ro, 2),
            row("/d", Tmpfs, 3),
        ]
        .into();
        let rules = compare(&old, &new);
        assert_eq!(rules.removed, ["tmpfs /a"]);
        assert_eq!(rules.added, ["tmpfs /d"]);
        assert_eq!(rules.changed, ["/b, was tmpfs: persistent"]);
        assert_eq!(rules.paths.len(), 3);
    }

    #[test]
    fn of_the_configuration_only_what_views_depend_on_counts() {
        let old = Config::default();
        let new = Config {
            stop_grace: std::time::Duration::ZERO,
            log: "debug".into(),
            control: "/elsewhere".into(),
            ..old.clone()
        };
        assert_eq!(of_views(&old), of_views(&new));
        assert_eq!(need_restart(&old, &new), ["control", "log"]);
        let new = Config {
            threads: 2,
            ..old.clone()
        };
        assert_ne!(of_views(&old), of_views(&new));
        assert!(need_remount(&old, &new));
    }
}
