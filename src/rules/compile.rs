//! Canonical rules to a [`RuleTree`].

use std::collections::HashMap;
use std::sync::Arc;

use crate::tables::LiteOption;

use super::shape::Builder;
use super::{Chain, RuleTree, Text, UpperKind, Zone, ZoneKind};

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

const DEFAULT: &[u8] = b".default";
const TMPFS: &[u8] = b".statelite/tmpfs";
const PERSISTENT: &[u8] = b".statelite/persistent";

/// Builds the tree. The last of several rules of one path wins; `tables` gives one a path.
pub fn compile(rules: &[Rule], options: &CompileOptions) -> RuleTree {
    let names_nodes = |rule: &Rule| {
        let below = rule.path.strip_prefix(PERSISTENT);
        below.is_some_and(|below| below.len() > 1 && below[0] == b'/')
    };
    // A rule in the place of a node's directory is that node's; without a name there is no place.
    let shareable = !options.node.is_empty() && !rules.iter().any(names_nodes);
    let root = zone(ZoneKind::Outside, 0, true);
    // Each rule comes twice, with its `.default`, and with directories that lead there.
    let mut out = Out {
        tree: Builder::new(root, rules.len() * 3),
        node: &options.node,
        shareable,
    };
    if options.compat_dirs {
        out.compat_dirs(rules, options.persistent);
    }
    let links = Links::new(rules, options.link_view);
    for (index, rule) in rules.iter().enumerate() {
        let zone = |kind, strip| Zone {
            rule: index as u32 + 1,
            ..zone(kind, strip, rule.dir)
        };
        let lite = ZoneKind::Lite(rule.option);
        // Below a link rule's path the view has a symlink: what a deeper rule governs is found
        // where that leads to.
        let home = links.home(&rule.path);
        match home {
            Home::View if !links.has(&rule.path) => {
                out.insert(Home::View, &rule.path, zone(lite, 0));
                continue;
            }
            Home::Persistent => {
                out.insert_kept(&rule.path, |strip| zone(lite, strip));
                continue;
            }
            _ => {}
        }
        // /etc/ntp.conf -> ../.statelite/tmpfs/etc/ntp.conf, and that is the file, or for a
        // persistent rule one more link to ../../persistent/<node>/etc/ntp.conf.
        if home == Home::View {
            let chain = zone(ZoneKind::Chain(Chain::ToTmpfs), 0);
            out.insert(Home::View, &rule.path, chain);
        }
        if links.has(&rule.path) && rule.option == LiteOption::Persistent {
            let chain = zone(ZoneKind::Chain(Chain::ToPersistent), 0);
            out.insert(Home::Tmpfs, &rule.path, chain);
            out.insert_kept(&rule.path, |strip| zone(lite, strip));
        } else {
            out.insert(Home::Tmpfs, &rule.path, zone(lite, names(TMPFS)));
        }
    }
    if options.mtab {
        let mtab = b"etc/mtab";
        let at = out.place(links.home(mtab), mtab);
        out.tree.mark_mtab(at);
    }
    RuleTree {
        shape: Arc::new(out.tree.finish(shareable)),
        node: options.node.as_slice().into(),
    }
}

/// Where a chain's symlink at `path` leads to.
pub(super) fn target(chain: Chain, path: &[u8], node: &[u8]) -> Box<[u8]> {
    let slashes = |path: &[u8]| path.iter().filter(|b| **b == b'/').count();
    let up = |count| b"../".repeat(count);
    match chain {
        Chain::ToTmpfs => [&up(slashes(path))[..], TMPFS, b"/", path].concat(),
        Chain::ToPersistent => {
            let rule = path.get(TMPFS.len() + 1..).unwrap_or_default();
            [&up(slashes(rule) + 1)[..], b"persistent/", node, b"/", rule].concat()
        }
    }
    .into()
}

fn zone(kind: ZoneKind, strip: usize, dir: bool) -> Zone {
    Zone {
        kind,
        dir,
        strip: strip as u8,
        rule: 0,
        at: 0,
    }
}

fn names(path: &[u8]) -> usize {
    let names = path.split(|b| *b == b'/');
    names.filter(|name| !name.is_empty()).count()
}

/// The tree that is being built, and for whom.
struct Out<'a> {
    tree: Builder,
    node: &'a [u8],
    /// The node's name is left open.
    shareable: bool,
}

impl Out<'_> {
    fn place(&mut self, home: Home, path: &[u8]) -> u32 {
        let top = match home {
            Home::View => 0,
            Home::Tmpfs => self.tree.place(0, TMPFS),
            Home::Default => self.tree.place(0, DEFAULT),
            Home::Persistent => {
                let all = self.tree.place(0, PERSISTENT);
                match self.shareable {
                    true => self.tree.own_name(all),
                    false => self.tree.place(all, self.node),
                }
            }
        };
        self.tree.place(top, path)
    }

    fn insert(&mut self, home: Home, path: &[u8], zone: Zone) {
        let at = self.place(home, path);
        self.tree.begin(at, zone);
    }

    /// A zone below the node's directory; `zone` is told how many names that has.
    fn insert_kept(&mut self, path: &[u8], zone: impl FnOnce(usize) -> Zone) {
        let own = usize::from(!self.node.is_empty());
        self.insert(Home::Persistent, path, zone(names(PERSISTENT) + own));
    }

    fn compat_dirs(&mut self, rules: &[Rule], persistent: bool) {
        let view = |kind, dir| zone(kind, 0, dir);
        self.insert(Home::View, b".statelite", view(ZoneKind::Virtual, true));
        for (name, text) in [
            (&b".statelite/litefile"[..], Text::Litefile),
            (b".statelite/litetree", Text::Litetree),
            (b".statelite/statelite.log", Text::Log),
        ] {
            self.insert(Home::View, name, view(ZoneKind::Text(text), false));
        }
        let mirror = |kind, strip| zone(ZoneKind::Mirror(kind), strip, true);
        self.insert(Home::Tmpfs, b"", mirror(UpperKind::Tmpfs, names(TMPFS)));
        if persistent {
            self.insert_kept(b"", |strip| mirror(UpperKind::Persistent, strip));
        }
        self.insert(Home::View, DEFAULT, view(ZoneKind::Virtual, true));
        for rule in rules.iter().filter(|rule| !rule.path.is_empty()) {
            let default = zone(ZoneKind::Default, names(DEFAULT), rule.dir);
            self.insert(Home::Default, &rule.path, default);
        }
    }
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
    /// Below `.default`: the image's own version.
    Default,
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
        tree.zone(tree.walk(path.as_bytes()).zone).kind
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
        let chain = |path: &str| {
            let target = tree.target(tree.zone(tree.walk(path.as_bytes()).zone));
            String::from_utf8(target.unwrap().to_vec()).unwrap()
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
