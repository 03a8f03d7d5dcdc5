//! Walking paths as a process in the view would, symlinks followed: for `explain`, and for the
//! canonical form of rules' paths.
//!
//! Owns: the order of steps on the way. May not: decide what a name is; that is `resolve`.

use std::rc::Rc;

use super::View;
use super::resolve::{Dir, Here, NAME_MAX, Outcome, join};
use crate::sys::{Errno, Res};

/// A symlink in a path is followed this often (MAXSYMLINKS, include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// Where a walk with symlinks followed has come to.
pub(super) enum Walk {
    /// The directory, the last name, and what it is; or the first name that a missing store keeps
    /// from being looked up.
    Done {
        dir: Dir,
        name: Vec<u8>,
        outcome: Res<Outcome>,
    },
    /// The root itself.
    Root(Box<Here>),
}

/// A directory on the way, and those above it. A clone is cheap.
#[derive(Clone)]
struct Place {
    dir: Rc<Dir>,
    above: Option<Rc<Place>>,
}

impl Place {
    fn down(&mut self, dir: Dir) {
        let above = Place {
            dir: std::mem::replace(&mut self.dir, Rc::new(dir)),
            above: self.above.take(),
        };
        self.above = Some(Rc::new(above));
    }

    fn up(&mut self) {
        if let Some(above) = self.above.take() {
            *self = Rc::unwrap_or_clone(above);
        }
    }
}

/// A walk that has come to a directory.
#[derive(Clone)]
struct Walker<'v> {
    view: &'v View,
    place: Place,
    links: usize,
}

impl<'v> Walker<'v> {
    fn new(view: &'v View) -> Res<Self> {
        let dir = Rc::new(view.root_object()?.into_dir()?);
        let place = Place { dir, above: None };
        Ok(Walker {
            view,
            place,
            links: 0,
        })
    }

    /// Puts a symlink's names before those that are left, and goes to the root where they say so.
    fn follow(&mut self, link: &Here, todo: &mut Vec<Vec<u8>>) -> Res<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = self.view.readlink_of(link)?;
        if target.starts_with(b"/") {
            let dir = Rc::new(self.view.root_object()?.into_dir()?);
            self.place = Place { dir, above: None };
        }
        todo.extend(split_names(&target).map(<[u8]>::to_vec));
        Ok(())
    }

    /// Goes into what was found; what does not exist is taken by its word.
    fn enter(&mut self, name: &[u8], outcome: Outcome) -> Res<()> {
        let dir = &self.place.dir;
        let next = match outcome {
            Outcome::Here(here) => here.into_dir()?,
            Outcome::Absent { .. } => Dir {
                path: join(&dir.path, name),
                pos: self.view.rules.step(dir.pos, name),
                srcs: Default::default(),
            },
        };
        self.place.down(next);
        Ok(())
    }

    /// Walks one name of a path, which is not its last, symlinks followed.
    fn step(&mut self, name: &[u8]) -> Res<()> {
        let mut todo = vec![name.to_vec()];
        while let Some(name) = todo.pop() {
            if name == b".." {
                self.place.up();
                continue;
            }
            match self.view.resolve(&self.place.dir, &name)? {
                Outcome::Here(here) if here.kind() == libc::S_IFLNK => {
                    self.follow(&here, &mut todo)?;
                }
                outcome => self.enter(&name, outcome)?,
            }
        }
        Ok(())
    }

    /// Walks the rest of a path, its names last first.
    fn finish(mut self, mut todo: Vec<Vec<u8>>, follow_last: bool) -> Res<Walk> {
        while let Some(name) = todo.pop() {
            if name == b".." {
                self.place.up();
                continue;
            }
            let last = todo.is_empty();
            let outcome = match self.view.resolve(&self.place.dir, &name) {
                Err(Errno::IO) => return Ok(self.done(name, Err(Errno::IO))),
                outcome => outcome?,
            };
            match outcome {
                Outcome::Here(here) if here.kind() == libc::S_IFLNK && (!last || follow_last) => {
                    self.follow(&here, &mut todo)?;
                }
                outcome if last => return Ok(self.done(name, Ok(outcome))),
                outcome => self.enter(&name, outcome)?,
            }
        }
        // The last symlink led to a directory that was walked through already.
        match self.place.above.take() {
            Some(above) if !self.place.dir.path.is_empty() => {
                let name = crate::sys::obj::split(&self.place.dir.path).1.to_vec();
                self.place = Rc::unwrap_or_clone(above);
                let outcome = self.view.resolve(&self.place.dir, &name);
                Ok(self.done(name, outcome))
            }
            _ => self.view.root_object().map(Walk::Root),
        }
    }

    fn done(self, name: Vec<u8>, outcome: Res<Outcome>) -> Walk {
        Walk::Done {
            dir: Rc::unwrap_or_clone(self.place.dir),
            name,
            outcome,
        }
    }
}

impl View {
    /// Walks a path as a process in the view would; what does not exist is taken by its word.
    pub(super) fn walk(&self, path: &[u8], follow_last: bool) -> Res<Walk> {
        let names = split_names(path).map(<[u8]>::to_vec);
        Walker::new(self)?.finish(names.collect(), follow_last)
    }

    /// Each path with the symlinks in its directories followed, and where a path says so a symlink
    /// at its end; without a leading slash. What does not exist is taken by its word. The directories
    /// that a path has in common with the one before are not looked up again (sort them), and a last
    /// name that is not followed not at all.
    ///
    /// # Errors
    /// For each path: `ELOOP`, `ENOTDIR`, `ENAMETOOLONG` and what the layers answer.
    pub fn canonical<'p>(
        &self,
        paths: impl IntoIterator<Item = (&'p [u8], bool)>,
    ) -> Vec<Res<Vec<u8>>> {
        let mut way = Way {
            names: Vec::new(),
            walkers: Vec::new(),
        };
        let mut canonical = |(path, follow_last): (&'p [u8], bool)| {
            let mut names = split_names(path);
            let last = names.next();
            let dirs: Vec<&[u8]> = names.rev().collect();
            let walker = way.to(self, &dirs)?;
            if let Some(name) = last.filter(|name| !follow_last && *name != b"..") {
                if name.len() > NAME_MAX {
                    return Err(Errno::NAMETOOLONG);
                }
                return Ok(join(&walker.place.dir.path, name));
            }
            let todo = last.map(<[u8]>::to_vec).into_iter().collect();
            Ok(match walker.finish(todo, follow_last)? {
                Walk::Done { dir, name, outcome } => {
                    outcome?;
                    join(&dir.path, &name)
                }
                Walk::Root(_) => Vec::new(),
            })
        };
        paths.into_iter().map(&mut canonical).collect()
    }
}

/// The directories of the path that was walked last.
struct Way<'v, 'p> {
    names: Vec<&'p [u8]>,
    /// At the root, then behind each of the names.
    walkers: Vec<Walker<'v>>,
}

impl<'v, 'p> Way<'v, 'p> {
    /// A walker behind all of these names.
    fn to(&mut self, view: &'v View, dirs: &[&'p [u8]]) -> Res<Walker<'v>> {
        let same = self.names.iter().zip(dirs).take_while(|(a, b)| a == b);
        let same = same.count();
        self.names.truncate(same);
        self.walkers.truncate(same + 1);
        let mut walker = match self.walkers.last() {
            Some(walker) => walker.clone(),
            None => {
                let walker = Walker::new(view)?;
                self.walkers.push(walker.clone());
                walker
            }
        };
        for name in &dirs[same..] {
            walker.step(name)?;
            self.names.push(name);
            self.walkers.push(walker.clone());
        }
        Ok(walker)
    }
}

/// The names of a path, last first, "." and empty ones left out.
fn split_names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::tests::plain;

    /// What the walk of this path alone gives.
    fn alone(view: &View, path: &[u8], follow_last: bool) -> Res<Vec<u8>> {
        match view.walk(path, follow_last)? {
            Walk::Done { dir, name, outcome } => outcome.map(|_| join(&dir.path, &name)),
            Walk::Root(_) => Ok(Vec::new()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        /// Whatever an image's symlinks lead to, and in whichever order paths come.
        #[test]
        fn many_paths_are_walked_as_each_alone(
            objects in proptest::collection::vec(("[abc](/[abc]){0,2}", 0..3_u8, "/?([abc.]|\\.\\.)(/([abc]|\\.\\.)){0,2}"), 0..12),
            paths in proptest::collection::vec(("(/[abcx]){0,5}", any::<bool>()), 1..20),
            sorted: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let view = plain(dir.path(), |lower| {
                for (path, kind, target) in &objects {
                    let path = lower.join(path);
                    // What can't be made, since another object is in the way, is not.
                    let made = match kind {
                        0 => std::fs::create_dir_all(&path),
                        1 => std::fs::write(&path, "x"),
                        _ => symlink(target, &path),
                    };
                    made.ok();
                }
            });
            let mut paths: Vec<(&[u8], bool)> = paths.iter().map(|(path, dir)| (path.as_bytes(), *dir)).collect();
            if sorted {
                paths.sort_unstable();
            }
            let expected: Vec<_> = paths.iter().map(|(path, dir)| alone(&view, path, *dir)).collect();
            prop_assert_eq!(view.canonical(paths), expected);
        }
    }

    #[test]
    fn links_are_counted_over_the_whole_path() {
        let dir = tempfile::tempdir().unwrap();
        let view = plain(dir.path(), |lower| symlink(".", lower.join("l")).unwrap());
        let path = |links: usize| [&b"/l".repeat(links)[..], b"/f"].concat();
        let (few, many, long) = (
            path(40),
            path(41),
            b"/".iter()
                .chain(&[b'n'; 256])
                .copied()
                .collect::<Vec<u8>>(),
        );
        let found = view.canonical([
            (&few[..], false),
            (&many[..], false),
            (&long[..], false),
            (b"/", true),
        ]);
        assert_eq!(
            found,
            [
                Ok(b"f".to_vec()),
                Err(Errno::LOOP),
                Err(Errno::NAMETOOLONG),
                Ok(Vec::new())
            ]
        );
    }
}
