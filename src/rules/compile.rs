//! Canonical rules to a [`RuleTree`].

use std::collections::HashMap;

use crate::tables::LiteOption;

use super::{Node, RuleTree, Text, UpperKind, Zone, ZoneKind};

/// A litefile rule with its path canonicalised in the image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Without a leading or trailing slash; empty for `/`.
    pub path: Vec<u8>,
    /// A directory where it exists nowhere.
    pub dir: bool,
    /// What governs it.
    pub option: LiteOption,
    /// A `link` rule: matters to [`LinkView::Symlink`].
    pub link: bool,
}

/// How `link` rules show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LinkView {
    /// As the real file.
    #[default]
    File,
    /// As the first step of the chain of symlinks that liteimg would have made.
    Symlink,
}

/// What else a view shows (SEMANTICS section 7).
#[derive(Clone, Debug, Default)]
pub struct CompileOptions {
    /// The node's name, for `.statelite/persistent/<node>`.
    pub node: Vec<u8>,
    /// How `link` rules show.
    pub link_view: LinkView,
    /// Show `/.statelite` and `/.default`.
    pub compat_dirs: bool,
    /// Mind `/etc/mtab`.
    pub mtab: bool,
    /// There is a persistent store to mirror.
    pub persistent: bool,
}

const TMPFS: &[u8] = b".statelite/tmpfs";

/// Builds the tree. The last of several rules of one path wins; `tables` gives one a path.
pub fn compile(rules: &[Rule], options: &CompileOptions) -> RuleTree {
    let root = Zone {
        kind: ZoneKind::Outside,
        path: Box::default(),
        strip: 0,
        dir: true,
        rule: None,
    };
    let mut tree = RuleTree {
        zones: vec![root],
        nodes: vec![Node {
            own: true,
            guarded: true,
            ..Node::default()
        }],
    };
    let persistent = [&b".statelite/persistent/"[..], &options.node].concat();
    if options.compat_dirs {
        compat_dirs(&mut tree, rules, options, &persistent);
    }
    let links = Links::new(rules, options.link_view);
    for (index, rule) in rules.iter().enumerate() {
        let zone = |kind, strip| Zone {
            kind,
            path: Box::default(),
            strip,
            dir: rule.dir,
            rule: Some(index),
        };
        let lite = ZoneKind::Lite(rule.option);
        // Below a link rule's path the view has a symlink: what a deeper rule governs is found
        // where that leads to.
        let home = links.home(&rule.path);
        match home {
            Home::View if !links.has(&rule.path) => {
                tree.insert(&rule.path, zone(lite, 0));
                continue;
            }
            Home::Persistent => {
                let path = join(&persistent, &rule.path);
                tree.insert(&path, zone(lite, persistent.len() + 1));
                continue;
            }
            _ => {}
        }
        // /etc/ntp.conf -> ../.statelite/tmpfs/etc/ntp.conf, and that is the file, or for a
        // persistent rule one more link to ../../persistent/<node>/etc/ntp.conf.
        let in_tmpfs = join(TMPFS, &rule.path);
        let ups = rule.path.iter().filter(|b| **b == b'/').count();
        let chain = |ups: usize, target: &[u8]| {
            ZoneKind::Chain([&b"../".repeat(ups)[..], target].concat().into())
        };
        if home == Home::View {
            tree.insert(&rule.path, zone(chain(ups, &in_tmpfs), 0));
        }
        if links.has(&rule.path) && rule.option == LiteOption::Persistent {
            let target = join(&[&b"persistent/"[..], &options.node].concat(), &rule.path);
            tree.insert(&in_tmpfs, zone(chain(ups + 1, &target), 0));
            let path = join(&persistent, &rule.path);
            tree.insert(&path, zone(lite, persistent.len() + 1));
        } else {
            tree.insert(&in_tmpfs, zone(lite, TMPFS.len() + 1));
        }
    }
    if options.mtab {
        let mtab = b"etc/mtab";
        let at = tree.place(&match links.home(mtab) {
            Home::View => mtab.to_vec(),
            Home::Tmpfs => join(TMPFS, mtab),
            Home::Persistent => join(&persistent, mtab),
        });
        tree.nodes[at].mtab = true;
    }
    let outermost = tree.nodes[0].zone;
    tree.settle(0, outermost);
    tree
}

/// Where the content of a path lies, of those above it that are symlinks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Home {
    /// At the path itself.
    View,
    /// Below `.statelite/tmpfs`.
    Tmpfs,
    /// Below `.statelite/persistent/<node>`: every rule there is in its place, without a symlink.
    Persistent,
}

/// The rules that show as symlinks: path and option.
struct Links<'a>(HashMap<&'a [u8], LiteOption>);

impl<'a> Links<'a> {
    fn new(rules: &'a [Rule], link_view: LinkView) -> Self {
        let shown =
            |rule: &&Rule| rule.link && link_view == LinkView::Symlink && !rule.path.is_empty();
        let entry = |rule: &'a Rule| (&rule.path[..], rule.option);
        Links(rules.iter().filter(shown).map(entry).collect())
    }

    fn has(&self, path: &[u8]) -> bool {
        self.0.contains_key(path)
    }

    fn home(&self, path: &[u8]) -> Home {
        let mut home = Home::View;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        for (end, _) in ends {
            match self.0.get(&path[..end]) {
                Some(LiteOption::Persistent) => return Home::Persistent,
                Some(_) => home = Home::Tmpfs,
                None => {}
            }
        }
        home
    }
}

fn compat_dirs(tree: &mut RuleTree, rules: &[Rule], options: &CompileOptions, persistent: &[u8]) {
    let plain = |kind, strip, dir| Zone {
        kind,
        path: Box::default(),
        strip,
        dir,
        rule: None,
    };
    tree.insert(b".statelite", plain(ZoneKind::Virtual, 0, true));
    for (name, text) in [
        (&b".statelite/litefile"[..], Text::Litefile),
        (b".statelite/litetree", Text::Litetree),
        (b".statelite/statelite.log", Text::Log),
    ] {
        tree.insert(name, plain(ZoneKind::Text(text), 0, false));
    }
    let mirror = |kind, path: &[u8]| plain(ZoneKind::Mirror(kind), path.len() + 1, true);
    tree.insert(TMPFS, mirror(UpperKind::Tmpfs, TMPFS));
    if options.persistent {
        tree.insert(persistent, mirror(UpperKind::Persistent, persistent));
    }
    tree.insert(b".default", plain(ZoneKind::Virtual, 0, true));
    for rule in rules.iter().filter(|rule| !rule.path.is_empty()) {
        let zone = plain(ZoneKind::Default, ".default/".len(), rule.dir);
        tree.insert(&join(b".default", &rule.path), zone);
    }
}

fn join(dir: &[u8], path: &[u8]) -> Vec<u8> {
    [dir, b"/", path].concat()
}

impl RuleTree {
    /// The node of a path, made where it is not there.
    fn place(&mut self, path: &[u8]) -> usize {
        let mut at = 0usize;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            at = match self.nodes[at].children.get(name) {
                Some(&child) => child as usize,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[at].children.insert(name.into(), child as u32);
                    child
                }
            };
        }
        at
    }

    fn insert(&mut self, path: &[u8], mut zone: Zone) {
        zone.path = path.into();
        let at = self.place(path);
        let id = self.zones.len() as u32;
        self.zones.push(zone);
        self.nodes[at].zone = id;
        self.nodes[at].own = true;
    }

    /// Hands zones down to the nodes between rules, and marks what leads to a rule.
    fn settle(&mut self, root: usize, zone: u32) {
        let mut order = vec![(root, zone)];
        let mut next = 0;
        while next < order.len() {
            let (at, inherited) = order[next];
            next += 1;
            if !self.nodes[at].own {
                self.nodes[at].zone = inherited;
            }
            let zone = self.nodes[at].zone;
            let children: Vec<u32> = self.nodes[at].children.values().copied().collect();
            order.extend(children.into_iter().map(|child| (child as usize, zone)));
        }
        // Children come after their parents in `order`, so backwards settles from the leaves.
        for &(at, _) in order.iter().rev() {
            let below = self.nodes[at]
                .children
                .values()
                .any(|child| self.nodes[*child as usize].guarded);
            self.nodes[at].guarded = self.nodes[at].own || below;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, option: LiteOption) -> Rule {
        Rule {
            path: path.trim_matches('/').as_bytes().to_vec(),
            dir: path.ends_with('/'),
            option,
            link: false,
        }
    }

    fn kind(tree: &RuleTree, path: &str) -> ZoneKind {
        tree.zone(tree.walk(path.as_bytes()).zone).kind.clone()
    }

    #[test]
    fn the_deepest_rule_governs() {
        use LiteOption::*;
        let rules = [
            rule("/var/", Tmpfs),
            rule("/var/lib/", Persistent),
            rule("/var/lib/x", Ro),
        ];
        let tree = compile(&rules, &CompileOptions::default());
        assert_eq!(kind(&tree, "etc"), ZoneKind::Outside);
        assert_eq!(kind(&tree, "var"), ZoneKind::Lite(Tmpfs));
        assert_eq!(kind(&tree, "var/log/a/b"), ZoneKind::Lite(Tmpfs));
        assert_eq!(kind(&tree, "var/lib/y"), ZoneKind::Lite(Persistent));
        assert_eq!(kind(&tree, "var/lib/x/deep"), ZoneKind::Lite(Ro));
        assert!(tree.guarded(tree.walk(b"var")) && tree.begins(tree.walk(b"var")));
        assert!(!tree.guarded(tree.walk(b"var/log")));
        let names: Vec<&[u8]> = tree.rule_names(tree.walk(b"var")).collect();
        assert_eq!(names, [b"lib"]);
    }

    #[test]
    fn a_root_rule_takes_all_but_deeper_ones() {
        let rules = [
            rule("/", LiteOption::Tmpfs),
            rule("/home/", LiteOption::Persistent),
        ];
        let tree = compile(&rules, &CompileOptions::default());
        assert_eq!(kind(&tree, ""), ZoneKind::Lite(LiteOption::Tmpfs));
        assert_eq!(kind(&tree, "usr/bin"), ZoneKind::Lite(LiteOption::Tmpfs));
        assert_eq!(
            kind(&tree, "home/me"),
            ZoneKind::Lite(LiteOption::Persistent)
        );
    }

    #[test]
    fn parents_of_a_rule_are_guarded_but_in_the_outer_zone() {
        let tree = compile(
            &[rule("/a/b/c", LiteOption::Persistent)],
            &CompileOptions::default(),
        );
        assert_eq!(kind(&tree, "a/b"), ZoneKind::Outside);
        assert!(tree.guarded(tree.walk(b"a/b")) && !tree.begins(tree.walk(b"a/b")));
        assert!(tree.leads_deeper(tree.walk(b"a/b")));
        assert!(!tree.leads_deeper(tree.walk(b"a/b/c")));
    }

    #[test]
    fn mtab_guards_nothing() {
        let options = CompileOptions {
            mtab: true,
            ..CompileOptions::default()
        };
        let tree = compile(&[], &options);
        assert!(tree.is_mtab(tree.walk(b"etc/mtab")));
        assert!(!tree.guarded(tree.walk(b"etc/mtab")) && !tree.guarded(tree.walk(b"etc")));
        assert_eq!(tree.rule_names(tree.walk(b"etc")).count(), 0);
    }

    #[test]
    fn a_link_rule_shows_the_chain() {
        let options = CompileOptions {
            node: b"cn1".to_vec(),
            link_view: LinkView::Symlink,
            compat_dirs: true,
            persistent: true,
            mtab: true,
        };
        let mut tmpfs = rule("/etc/ntp.conf", LiteOption::Tmpfs);
        let mut kept = rule("/etc/keys", LiteOption::Persistent);
        (tmpfs.link, kept.link) = (true, true);
        let tree = compile(&[tmpfs, kept], &options);
        let chain = |path: &str| match kind(&tree, path) {
            ZoneKind::Chain(target) => String::from_utf8(target.to_vec()).unwrap(),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(chain("etc/ntp.conf"), "../.statelite/tmpfs/etc/ntp.conf");
        assert_eq!(
            chain(".statelite/tmpfs/etc/keys"),
            "../../persistent/cn1/etc/keys"
        );
        let file = tree.zone(tree.walk(b".statelite/tmpfs/etc/ntp.conf").zone);
        assert_eq!(file.kind, ZoneKind::Lite(LiteOption::Tmpfs));
        assert_eq!(
            file.layer_path(b".statelite/tmpfs/etc/ntp.conf"),
            b"etc/ntp.conf"
        );
        let kept = tree.zone(tree.walk(b".statelite/persistent/cn1/etc/keys").zone);
        assert_eq!(
            kept.layer_path(b".statelite/persistent/cn1/etc/keys"),
            b"etc/keys"
        );
    }
}
