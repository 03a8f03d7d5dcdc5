//! Directories of an upper that are in use, kept open for a moment: a program that makes or
//! removes many names in one directory has it walked to once, not for each.
//!
//! What is kept is believed for as long as the caller says, and at most for [`LONGEST`], so that a
//! directory that somebody else moves or replaces in the store is noticed; what the daemon itself
//! moves or removes it must [`Layer::let_go_of`]. A root that is not the same any more takes all of
//! it along (SEMANTICS section 8).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::Layer;
use crate::budget::{self, DIRECTORIES};
use crate::sys::Res;
use crate::sys::obj::is_at_or_below;

/// As often as a root is looked at again.
const LONGEST: Duration = Duration::from_secs(1);
/// Each costs a descriptor.
const MOST: usize = 512;

#[derive(Debug)]
struct Kept {
    fd: budget::Kept,
    since: Instant,
}

impl Kept {
    fn new(fd: Arc<OwnedFd>, since: Instant) -> Kept {
        let fd = DIRECTORIES.keep(fd);
        Kept { fd, since }
    }
}

#[derive(Debug)]
struct State {
    /// Whose directories these are.
    root: Option<Arc<OwnedFd>>,
    dirs: LruCache<Box<[u8]>, Kept>,
    work: Option<Kept>,
    /// Rises with each change: what was opened before one is not kept after it.
    changes: u64,
}

/// The directories of one layer.
#[derive(Debug)]
pub(super) struct Held {
    state: Mutex<State>,
}

impl Default for Held {
    fn default() -> Self {
        let state = State {
            root: None,
            dirs: LruCache::unbounded(),
            work: None,
            changes: 0,
        };
        Held {
            state: Mutex::new(state),
        }
    }
}

impl State {
    fn belongs_to(&mut self, root: &Arc<OwnedFd>) {
        if self
            .root
            .as_ref()
            .is_none_or(|held| !Arc::ptr_eq(held, root))
        {
            self.clear();
            self.root = Some(root.clone());
        }
    }

    fn clear(&mut self) {
        self.root = None;
        self.work = None;
        self.dirs.clear();
        self.changes += 1;
    }

    fn let_go_where(&mut self, goes: impl Fn(&[u8], &Kept) -> bool) {
        let gone = self.dirs.iter().filter(|(held, kept)| goes(held, kept));
        let gone: Vec<Box<[u8]>> = gone.map(|(held, _)| held.clone()).collect();
        for held in gone {
            self.dirs.pop(&held);
        }
    }
}

fn believed(kept: &Kept, age: Duration) -> bool {
    kept.since.elapsed() < age.min(LONGEST)
}

impl Layer {
    /// The root, and everything held let go of where that is gone or another.
    fn held_root(&self) -> Res<Arc<OwnedFd>> {
        match self.root() {
            Ok(root) => {
                self.held.state.lock().belongs_to(&root);
                Ok(root)
            }
            Err(e) => {
                self.held.state.lock().clear();
                Err(e)
            }
        }
    }

    /// As [`Layer::open_dir`], a descriptor that may be shared, and as old as `age`.
    ///
    /// # Errors
    /// As [`Layer::open_dir`].
    pub fn hold_dir(&self, path: &[u8], age: Duration) -> Res<Arc<OwnedFd>> {
        if path.is_empty() {
            return self.held_root();
        }
        let root = self
            .root()
            .inspect_err(|_| self.held.state.lock().clear())?;
        let changes = {
            let mut state = self.held.state.lock();
            state.belongs_to(&root);
            if let Some(kept) = state.dirs.get(path)
                && believed(kept, age)
            {
                return Ok(kept.fd.get());
            }
            state.changes
        };
        let (fd, since) = (Arc::new(self.open_dir(path)?), Instant::now());
        let mut state = self.held.state.lock();
        if state.changes == changes && !age.is_zero() {
            state.dirs.put(path.into(), Kept::new(fd.clone(), since));
            if state.dirs.len() > MOST || DIRECTORIES.excess() > 0 {
                state.dirs.pop_lru();
            }
        }
        Ok(fd)
    }

    /// The work directory of an upper that has been tried out.
    ///
    /// # Errors
    /// As [`Layer::caps`].
    pub fn work(&self) -> Res<Arc<OwnedFd>> {
        self.caps()?;
        self.held_root()?;
        let changes = {
            let state = self.held.state.lock();
            if let Some(kept) = state.work.as_ref().filter(|kept| believed(kept, LONGEST)) {
                return Ok(kept.fd.get());
            }
            state.changes
        };
        let (fd, since) = (Arc::new(self.work_dir()?), Instant::now());
        let mut state = self.held.state.lock();
        if state.changes == changes {
            state.work = Some(Kept::new(fd.clone(), since));
        }
        Ok(fd)
    }

    /// Lets go of what is too old to be believed: nobody has asked for it since. To be said now
    /// and then, since each costs a descriptor.
    pub fn let_go_idle(&self) {
        let mut state = self.held.state.lock();
        state.let_go_where(|_, kept| !believed(kept, LONGEST));
        state.work = state.work.take().filter(|kept| believed(kept, LONGEST));
        drop(state);
        self.files.let_go_idle();
        self.let_go_of_last();
        self.let_go_of_idle_paths();
    }

    /// What was at `path`, and all below it, is not there any more: to be said once that is so,
    /// before the request is answered.
    pub fn let_go_of(&self, path: &[u8]) {
        let mut state = self.held.state.lock();
        state.changes += 1;
        state.let_go_where(|held, _| is_at_or_below(held, path));
    }

    /// As [`Layer::let_go_of`], of a directory that was empty: what was below it has been let go of
    /// when it went, and need not be looked for.
    pub fn let_go_of_empty(&self, path: &[u8]) {
        let mut state = self.held.state.lock();
        state.changes += 1;
        state.dirs.pop(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::UpperSpec;
    use crate::layer::tests::spec;
    use crate::sys::Errno;
    use crate::sys::obj;

    const SECOND: Duration = Duration::from_secs(1);

    fn upper(base: &std::path::Path) -> Layer {
        Layer::new(spec(base, Some(UpperSpec::default())))
    }

    #[test]
    fn what_was_moved_or_removed_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, at) = (upper(dir.path()), |name: &str| dir.path().join(name));
        for name in ["a/b", "ab", "c"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        let ino = |path: &[u8], age| {
            let fd = layer.hold_dir(path, age)?;
            Ok(obj::stat(&*fd).unwrap().ino)
        };
        let before = [b"a" as &[u8], b"a/b", b"ab"].map(|path| ino(path, SECOND));
        std::fs::rename(at("a"), at("gone")).unwrap();
        layer.let_go_of(b"a");
        assert_eq!(ino(b"a", SECOND), Err(Errno::NOENT));
        assert_eq!(ino(b"a/b", SECOND), Err(Errno::NOENT));
        assert_eq!(ino(b"ab", SECOND), before[2]);
        std::fs::rename(at("c"), at("a")).unwrap();
        assert!(ino(b"a", SECOND).is_ok_and(|now| Ok(now) != before[0]));
        std::fs::remove_dir(at("a")).unwrap();
        layer.let_go_of_empty(b"a");
        assert_eq!(ino(b"a", SECOND), Err(Errno::NOENT));
        assert_eq!(ino(b"ab", SECOND), before[2]);
    }

    #[test]
    fn what_may_not_be_old_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let layer = upper(dir.path());
        std::fs::create_dir(dir.path().join("a")).unwrap();
        layer.hold_dir(b"a", SECOND).unwrap();
        std::fs::remove_dir(dir.path().join("a")).unwrap();
        let again = layer.hold_dir(b"a", Duration::ZERO);
        assert_eq!(again.err(), Some(Errno::NOENT));
    }

    #[test]
    fn what_is_old_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let layer = upper(dir.path());
        for name in ["old", "new"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            layer.hold_dir(name.as_bytes(), SECOND).unwrap();
        }
        {
            let mut state = layer.held.state.lock();
            let old = state.dirs.get_mut(&b"old"[..]).unwrap();
            old.since = old.since.checked_sub(LONGEST).unwrap();
            state.dirs.get_mut(&b"new"[..]).unwrap().since = Instant::now() + SECOND;
        }
        layer.let_go_idle();
        let held = layer.held.state.lock();
        assert_eq!(
            (held.dirs.len(), held.dirs.contains(&b"new"[..])),
            (1, true)
        );
    }

    #[test]
    fn only_so_many_are_held() {
        let dir = tempfile::tempdir().unwrap();
        let layer = upper(dir.path());
        for n in 0..MOST + 10 {
            let name = n.to_string();
            std::fs::create_dir(dir.path().join(&name)).unwrap();
            layer.hold_dir(name.as_bytes(), SECOND).unwrap();
        }
        assert_eq!(layer.held.state.lock().dirs.len(), MOST);
    }
}
