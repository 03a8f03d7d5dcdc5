//! READDIRPLUS of what most directories of an image are: one lower layer has it alone, whatever changes
//! there is told of, and no rule lies in it. Its entries come out of one record of the shared cache, and
//! what each of them is follows from the directory.
//!
//! Whatever is not so is left to `resolve`, which says the same of such a directory, name by name.

use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;

use super::look::is_mirror;
use super::node::Checked;
use super::resolve::{Dir, Here, Trust, join};
use super::{Attr, DirEntry, Inode, Node, Source, Src, View};
use crate::cache::{Fact, Listing, ListingEntry, Lookup};
use crate::inode::{DirStream, id};
use crate::layer::Layer;
use crate::rules::Pos;
use crate::sys::Res;
use crate::sys::obj::Stat;

/// A directory that one layer has alone.
pub(super) struct Alone<'v> {
    layer: &'v Layer,
    src: Src,
    /// In the view and in the layer.
    path: &'v [u8],
    /// Where everything in it stands in the rules.
    pos: Pos,
    trust: Trust,
}

impl Alone<'_> {
    fn source(&self, kind: u32) -> Source {
        match kind {
            libc::S_IFDIR => Source::Dir(smallvec![self.src]),
            _ => Source::One(self.src),
        }
    }

    fn here(&self, name: &[u8], attr: Attr) -> Here {
        let source = self.source(attr.stat.kind());
        Here::below(join(self.path, name), self.pos, source, attr, self.trust)
    }
}

impl View {
    /// A directory as one that a layer has alone, where it is that; with the view's generation before
    /// it was looked at.
    pub(super) fn alone<'v>(&'v self, dir: &'v Dir, generation: u64) -> Option<Alone<'v>> {
        let [src] = dir.srcs[..] else { return None };
        let trust = Trust {
            lasting: true,
            generation,
        };
        let (layer, zone) = (self.layer(src), self.rules.zone(dir.pos.zone));
        let told = !layer.is_upper() && layer.is_watched();
        let same_path = !src.default && self.layer_path(zone, &dir.path, src) == dir.path;
        let pos = self.rules.step_any(dir.pos)?;
        (told && same_path && !is_mirror(zone)).then_some(Alone {
            layer,
            src,
            path: &dir.path,
            pos,
            trust,
        })
    }

    /// What it has, where that was kept.
    pub(super) fn listing(&self, dir: &Alone<'_>) -> Option<Arc<Listing>> {
        match self.cache.listing(dir.layer.id(), dir.path) {
            Lookup::Hit(listing) => Some(listing),
            Lookup::Miss(_) => None,
        }
    }

    /// Puts together and keeps what it has, once it was listed to its end: the cache mostly knows all
    /// of it then.
    pub(super) fn keep_listing(&self, dir: &Alone<'_>) {
        let layer = dir.layer.id();
        let Lookup::Miss(ticket) = self.cache.listing(layer, dir.path) else {
            return;
        };
        let Lookup::Hit(names) = self.cache.names(layer, dir.path) else {
            return;
        };
        if !self.cache.has_room_for_listing(dir.path, names.len()) {
            return;
        }
        let names = names.iter().filter(|name| !name.whiteout);
        let stream = DirStream::new(names.map(|name| (name.name.clone(), name.kind, 0)));
        let mut builder = Listing::builder(stream.after(0).len());
        for entry in stream.after(0) {
            let path = join(dir.path, &entry.name);
            let Some(Fact::Object(object)) = self.cache.peek(layer, &path) else {
                return;
            };
            let target = object.target.as_ref();
            if target.is_some_and(|target| dir.layer.read_through(&path, target).is_some()) {
                return;
            }
            builder.push(ListingEntry {
                cookie: entry.cookie,
                number: id::of_path(&path, 0),
                name: &entry.name,
                stat: &object.stat,
            });
        }
        let listing = Arc::new(builder.finish());
        self.cache.put_listing(layer, dir.path, listing, ticket);
    }

    /// What comes behind a cookie, each counted as a lookup where `add` took it.
    pub(super) fn add_listing(
        &self,
        parent: &Arc<Inode>,
        dir: &Alone<'_>,
        listing: &Listing,
        cookie: u64,
        mut add: impl FnMut(DirEntry<'_>, &Attr, Duration) -> bool,
    ) -> Res<()> {
        let checked = Checked::now(dir.trust);
        let for_all = self.lifetime(dir.trust);
        for listed in listing.after(cookie) {
            let stat = *listed.stat;
            let new = || self.listed(dir, &stat, checked);
            let mut attr = Attr {
                number: listed.number,
                stat,
            };
            let mut lifetime = for_all;
            let known = self.enter_new(parent, listed.name, (dir.pos, attr.number), new);
            if known.is_none() {
                let here = dir.here(listed.name, attr);
                let entry = self.enter_closely(parent, listed.name, here)?.0;
                (attr, lifetime) = (entry.attr, entry.lifetime);
            }
            let entry = DirEntry {
                cookie: listed.cookie,
                name: listed.name,
                number: attr.number,
                kind: stat.kind(),
            };
            if add(entry, &attr, lifetime) {
                // It did not fit, so the kernel never heard of it.
                self.forget(attr.number, 1);
                break;
            }
        }
        Ok(())
    }

    /// The node of one of its entries that nobody knew.
    fn listed(&self, dir: &Alone<'_>, stat: &Stat, checked: Checked) -> Node {
        let kind = stat.kind();
        let backing = (kind != libc::S_IFDIR).then_some((stat.dev, stat.ino));
        Node::new(dir.pos, kind, dir.source(kind), self.plan).checked(backing, checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::fs::tests::{ME, ROOT, plain};
    use crate::fs::{Entry, OpenHow};
    use crate::rules::{CompileOptions, Rule, compile};
    use crate::sys::Errno;
    use crate::tables::LiteOption;

    type Listed = (u64, Vec<u8>, Attr, Duration);

    /// A view whose lower layer is told of as if it were watched.
    fn told(dir: &std::path::Path, fill: impl FnOnce(&std::path::Path)) -> View {
        let mut view = plain(dir, fill);
        view.cache = Arc::new(Cache::new(4 << 20));
        view.layers[0].set_watched(true);
        view
    }

    /// A listing from a cookie on, of at most so many entries, without "." and "..". Where it comes to
    /// the end, that is asked for, as a kernel does.
    fn list(view: &View, number: u64, cookie: u64, most: usize) -> Vec<Listed> {
        let mut listed = Vec::new();
        let mut full = false;
        view.readdirplus(number, cookie, |entry, attr, lifetime| {
            assert_eq!((entry.number, entry.kind), (attr.number, attr.stat.kind()));
            if matches!(entry.name, b"." | b"..") {
                return false;
            }
            full = listed.len() == most;
            if !full {
                listed.push((entry.cookie, entry.name.into(), *attr, lifetime));
            }
            full
        })
        .unwrap();
        if let (false, Some(&(last, ..))) = (full, listed.last()) {
            assert!(list(view, number, last, most).is_empty());
        }
        listed
    }

    fn forget(view: &View, listed: &[Listed]) {
        for (_, _, attr, _) in listed {
            view.forget(attr.number, 1);
        }
    }

    fn has_record(view: &View, path: &[u8]) -> bool {
        matches!(
            view.cache.listing(view.layers[0].id(), path),
            Lookup::Hit(_)
        )
    }

    /// `d` of the lower directory, looked up.
    fn enter(view: &View, name: &[u8]) -> u64 {
        view.lookup(ROOT, name).unwrap().attr.number
    }

    fn some(lower: &std::path::Path) {
        let at = |name: &str| lower.join("d").join(name);
        std::fs::create_dir_all(at("sub/deep")).unwrap();
        for n in 0..20 {
            std::fs::write(at(&format!("f{n}")), vec![0; n]).unwrap();
        }
        std::os::unix::fs::symlink("f1", at("link")).unwrap();
        std::fs::hard_link(at("f3"), at("another")).unwrap();
    }

    #[test]
    fn a_record_says_what_resolve_says() {
        let dir = tempfile::tempdir().unwrap();
        let view = told(dir.path(), some);
        let d = enter(&view, b"d");
        assert!(!has_record(&view, b"d"));
        let ordinary = list(&view, d, 0, 100);
        assert_eq!(ordinary.len(), 23);
        assert!(has_record(&view, b"d"), "it was listed to its end");
        // Forgotten, then known still, then forgotten as often as it was counted.
        for counted in [1, 0, 2] {
            let before = view.inode_count();
            for _ in 0..counted {
                forget(&view, &ordinary);
            }
            assert_eq!(view.inode_count() + 23 == before, counted > 0);
            assert_eq!(list(&view, d, 0, 100), ordinary);
        }
        // What was entered from the record is what a look-up of it finds, and as good.
        for (_, name, attr, lifetime) in &ordinary {
            let (attr, lifetime) = (*attr, *lifetime);
            let inode = view.inode(attr.number).unwrap();
            let from_record = inode.data.snapshot();
            assert_eq!(view.lookup(d, name).unwrap(), Entry { attr, lifetime });
            let looked_up = inode.data.snapshot();
            assert_eq!(inode.path().unwrap(), [b"d/", &name[..]].concat());
            assert_eq!(from_record.source, looked_up.source);
            assert_eq!(from_record.pos, looked_up.pos);
            assert_eq!(from_record.backing, looked_up.backing);
            assert_eq!((from_record.renewed, looked_up.renewed), (false, false));
            assert!(view.is_fresh(&from_record));
        }
    }

    #[test]
    fn a_reader_goes_on_from_any_cookie_and_counts_what_it_took() {
        let dir = tempfile::tempdir().unwrap();
        let view = told(dir.path(), some);
        let d = enter(&view, b"d");
        let all = list(&view, d, 0, 100);
        forget(&view, &all);
        let before = view.inode_count();
        let mut parts = list(&view, d, 0, 5);
        assert!(has_record(&view, b"d"));
        assert_eq!(view.inode_count(), before + 5, "the sixth did not fit");
        while let Some(&(cookie, ..)) = parts.last() {
            let next = list(&view, d, cookie, 5);
            if next.is_empty() {
                break;
            }
            parts.extend(next);
        }
        assert_eq!(parts, all);
        forget(&view, &all);
        assert_eq!(view.inode_count(), before);
    }

    #[test]
    fn what_changes_below_changes_what_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let view = told(dir.path(), some);
        let d = enter(&view, b"d");
        let low = view.layers[0].id();
        list(&view, d, 0, 100);
        let size = |name: &[u8]| {
            let listed = list(&view, d, 0, 100);
            let found = listed.iter().find(|(_, listed, ..)| listed == name);
            found.map(|(_, _, attr, _)| attr.stat.size)
        };
        let at = |name: &str| dir.path().join("lower/d").join(name);
        std::fs::write(at("f2"), "more than it was").unwrap();
        view.cache.forget(low, b"d/f2");
        assert_eq!((size(b"f2"), size(b"f2")), (Some(16), Some(16)));
        assert!(has_record(&view, b"d"));
        std::fs::remove_file(at("f2")).unwrap();
        view.cache.forget(low, b"d");
        view.cache.forget(low, b"d/f2");
        assert_eq!((size(b"f2"), size(b"f2")), (None, None));
        std::fs::write(at("new"), "1").unwrap();
        view.cache.forget(low, b"d");
        view.cache.forget(low, b"d/new");
        assert_eq!((size(b"new"), size(b"new")), (Some(1), Some(1)));
    }

    #[test]
    fn an_open_file_that_another_replaces_keeps_its_number_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let view = told(dir.path(), some);
        let d = enter(&view, b"d");
        let number = |name: &[u8]| {
            let listed = list(&view, d, 0, 100);
            let found = listed.iter().find(|(_, listed, ..)| listed == name);
            found.unwrap().2.number
        };
        let first = number(b"f5");
        let handle = view
            .open(first, OpenHow::from_raw(libc::O_RDONLY), ME)
            .unwrap();
        let at = |name: &str| dir.path().join("lower/d").join(name);
        std::fs::write(at("n"), "newcomer").unwrap();
        std::fs::rename(at("n"), at("f5")).unwrap();
        view.cache.forget(view.layers[0].id(), b"d/f5");
        let (second, again) = (number(b"f5"), number(b"f5"));
        assert!(has_record(&view, b"d"));
        assert_ne!(first, second, "one number is one page cache");
        assert_eq!(second, again);
        view.release(handle);
    }

    #[test]
    fn what_is_no_layers_alone_has_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut view = told(dir.path(), |lower| {
            for name in ["d", "merged", "ruled", "chain"] {
                std::fs::create_dir(lower.join(name)).unwrap();
                std::fs::write(lower.join(name).join("f"), "x").unwrap();
            }
            let target = "../.statelite/tmpfs/chain/l";
            std::os::unix::fs::symlink(target, lower.join("chain/l")).unwrap();
        });
        let rule = |path: &[u8]| Rule {
            path: path.into(),
            dir: true,
            option: LiteOption::Tmpfs,
            link: false,
        };
        let rules = [rule(b""), rule(b"ruled/deep")];
        view.rules = compile(&rules, &CompileOptions::default());
        let made = view.mkdir(enter(&view, b"merged"), b"made", 0o755, 0, ME);
        made.unwrap();
        for (name, record) in [
            (&b"d"[..], true),
            (b"merged", false),
            (b"ruled", false),
            (b"chain", false),
        ] {
            let number = enter(&view, name);
            let first = list(&view, number, 0, 100);
            assert_eq!(list(&view, number, 0, 100), first);
            assert_eq!(has_record(&view, name), record, "{name:?}");
        }
        // Without the word of changes nothing is kept, and nothing believed that was.
        let d = enter(&view, b"d");
        view.layers[0].set_watched(false);
        std::fs::remove_file(dir.path().join("lower/d/f")).unwrap();
        assert!(list(&view, d, 0, 100).is_empty());
        assert_eq!(view.lookup(d, b"f").err(), Some(Errno::NOENT));
    }
}
