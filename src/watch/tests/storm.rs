//! The promise as a whole: whoever reads again what was told, and nothing else, has the present
//! state, whatever several threads do at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, XattrFlags};

use super::*;

const THREADS: u64 = 4;
/// Of one thread, on one file system.
const OPERATIONS: usize = 12_500;
/// After so many it waits until they are told, so that the queue does not overflow.
const BURST: usize = 1_000;

/// What `Attributes` stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Attr {
    mode: u32,
    uid: u32,
    nlink: u64,
    mtime: (i64, i64),
    xattr: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Known {
    ino: u64,
    attr: Attr,
    /// Of a file: its bytes. Of a symlink: where it leads to.
    contents: Option<Vec<u8>>,
}

/// Attributes and contents of an object; nothing where there is none.
fn look(path: &Path) -> Option<Known> {
    let meta = fs::symlink_metadata(path).ok()?;
    let mut xattr = [0; 64];
    let len = rustix::fs::lgetxattr(path, "trusted.t", &mut xattr);
    let contents = match meta.mode() & libc::S_IFMT {
        libc::S_IFREG => fs::read(path).ok(),
        libc::S_IFLNK => Some(fs::read_link(path).ok()?.into_os_string().into_vec()),
        _ => None,
    };
    Some(Known {
        ino: meta.ino(),
        attr: Attr {
            mode: meta.mode(),
            uid: meta.uid(),
            nlink: meta.nlink(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            xattr: len.ok().map(|len| xattr[..len].to_vec()),
        },
        contents,
    })
}

/// What is known of a root.
#[derive(Clone)]
struct Model {
    root: PathBuf,
    known: BTreeMap<Vec<u8>, Known>,
}

/// What was told, without what makes no difference here.
enum Note {
    Name(Vec<u8>, Vec<u8>, What, bool),
    Object(Object, What),
}

impl Model {
    fn of(root: &Path) -> Model {
        let mut model = Model {
            root: root.into(),
            known: BTreeMap::new(),
        };
        model.read(b"", true);
        model
    }

    fn path(&self, below: &[u8]) -> PathBuf {
        self.root.join(OsString::from_vec(below.to_vec()))
    }

    /// Reads a name anew; of a directory also all below it, if that is wanted.
    fn read(&mut self, below: &[u8], deep: bool) {
        let path = self.path(below);
        let found = look(&path);
        let was_dir = self
            .known
            .get(below)
            .is_some_and(|k| k.attr.mode & libc::S_IFMT == libc::S_IFDIR);
        let is_dir = found
            .as_ref()
            .is_some_and(|k| k.attr.mode & libc::S_IFMT == libc::S_IFDIR);
        if deep || (was_dir && !is_dir) {
            let prefix = joined(below, b"/");
            let prefix = if below.is_empty() {
                b"".as_slice()
            } else {
                &prefix[..below.len() + 1]
            };
            self.known
                .retain(|path, _| !path.starts_with(prefix) || path.is_empty());
        }
        match found {
            None => drop(self.known.remove(below)),
            Some(known) => drop(self.known.insert(below.to_vec(), known)),
        }
        if let (true, Ok(entries)) = (deep && is_dir, fs::read_dir(&path)) {
            for entry in entries.filter_map(Result::ok) {
                self.read(&joined(below, &entry.file_name().into_vec()), true);
            }
        }
    }

    /// Reads attributes or contents anew, of the object that is known by this name.
    fn refresh(&mut self, below: &[u8], what: What) {
        let path = self.path(below);
        let Some(known) = self.known.get_mut(below) else {
            return;
        };
        let Some(found) = look(&path).filter(|found| found.ino == known.ino) else {
            return;
        };
        match what {
            What::Entry => unreachable!("told of an object"),
            What::Attributes => known.attr = found.attr,
            What::Contents => {
                known.contents = found.contents;
                known.attr.mtime = found.attr.mtime;
                // A write takes setuid bits and capabilities away.
                known.attr.mode = found.attr.mode;
            }
        }
    }

    fn apply(&mut self, note: &Note) {
        match note {
            Note::Name(dir, name, What::Entry, is_dir) => {
                self.read(&joined(dir, name), *is_dir);
                self.refresh(dir, What::Attributes);
            }
            Note::Name(dir, name, what, _) => self.refresh(&joined(dir, name), *what),
            Note::Object(object, what) => {
                let names = self
                    .known
                    .iter()
                    .filter(|(_, known)| known.ino == object.ino);
                for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                    self.refresh(&name, *what);
                }
            }
        }
    }
}

/// Kept up, brought up in the end, and what was told.
type Models = (Model, Model, Vec<Note>);

/// For each root a model that is kept up as things are told, and one that is brought up in the end.
#[derive(Default)]
struct Replay(Mutex<BTreeMap<RootId, Models>>);

impl Replay {
    fn take(&self, root: RootId, note: Note) {
        let mut models = self.0.lock();
        // A name that was told before the model was made is in it.
        if let Some((model, _, late)) = models.get_mut(&root) {
            model.apply(&note);
            late.push(note);
        }
    }
}

impl Sink for Replay {
    fn changed(&self, root: RootId, change: &Change<'_>) {
        let note = Note::Name(
            change.dir.to_vec(),
            change.name.to_vec(),
            change.what,
            change.is_dir,
        );
        self.take(root, note);
    }
    fn object_changed(&self, roots: &[RootId], object: Object, what: What) {
        roots
            .iter()
            .for_each(|root| self.take(*root, Note::Object(object, what)));
    }
    fn lost(&self, roots: &[RootId], why: &Lost) {
        panic!("lost {roots:?}: {why:?}");
    }
}

/// xorshift64*: what a thread does is the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.roll(of.len())]
    }
}

/// One thread's doings. Most fail, since what they want is not there, or in the way: also good.
struct Hand<'t> {
    dice: Dice,
    tops: [&'t Path; 4],
    open: Option<fs::File>,
}

impl Hand<'_> {
    fn path(&mut self) -> PathBuf {
        let mut path = self.dice.pick(&self.tops).to_owned();
        for _ in 0..=self.dice.roll(3) {
            path.push(bytes(self.dice.pick::<[u8]>(&[
                b"a",
                b"b",
                b"c",
                b"d (deleted)",
                b"e\n",
                b"\xff",
            ])));
        }
        path
    }

    fn step(&mut self, done: &AtomicUsize) {
        let (one, two) = (self.path(), self.path());
        let text = vec![b'x'; self.dice.roll(300)];
        let mode = Mode::from_raw_mode(0o600 | (self.dice.roll(64) as u32));
        let result: std::io::Result<()> = match self.dice.roll(24) {
            0 | 1 => fs::write(&one, &text),
            2..=4 => fs::create_dir(&one),
            5 => fs::create_dir_all(&one),
            6 => fs::OpenOptions::new()
                .append(true)
                .open(&one)
                .and_then(|mut f| f.write_all(&text)),
            7 => rustix::fs::chmod(&one, mode).map_err(Into::into),
            8 => std::os::unix::fs::lchown(&one, Some(text.len() as u32), None),
            9 => rustix::fs::lsetxattr(
                &one,
                "trusted.t",
                &text[..text.len().min(60)],
                XattrFlags::empty(),
            )
            .map_err(Into::into),
            10 => fs::File::open(&one).and_then(|f| {
                f.set_modified(
                    std::time::UNIX_EPOCH + std::time::Duration::from_secs(text.len() as u64),
                )
            }),
            11 => fs::remove_file(&one),
            12 => fs::remove_dir(&one),
            13 if self.dice.roll(8) == 0 => fs::remove_dir_all(&one),
            13..=15 => fs::rename(&one, &two),
            16 => rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE)
                .map_err(Into::into),
            17 | 18 => fs::hard_link(&one, &two),
            19 => std::os::unix::fs::symlink(&two, &one),
            20 => rustix::fs::mknodat(CWD, &one, rustix::fs::FileType::Socket, mode, 0)
                .map_err(Into::into),
            21 => fs::OpenOptions::new()
                .write(true)
                .open(&one)
                .map(|file| self.open = Some(file)),
            22 => self
                .open
                .as_mut()
                .map_or(Ok(()), |file| file.write_all(&text)),
            _ => nameless(&one, &two, &text),
        };
        done.fetch_add(usize::from(result.is_ok()), Relaxed);
    }
}

/// A file that is given its name when it is ready.
fn nameless(dir: &Path, name: &Path, text: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY;
    let mut file = fs::File::from(rustix::fs::open(dir, flags, Mode::RUSR)?);
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, path, CWD, name, AtFlags::SYMLINK_FOLLOW)?;
    file.write_all(text)
}

fn differences(model: &Model, now: &Model) -> Vec<String> {
    let paths: BTreeSet<_> = model.known.keys().chain(now.known.keys()).collect();
    let differ = paths
        .into_iter()
        .filter(|path| model.known.get(*path) != now.known.get(*path));
    let text = |path: &Vec<u8>| {
        let shown = String::from_utf8_lossy(path);
        format!(
            "{shown:?}:\n known {:?}\n is    {:?}",
            model.known.get(path),
            now.known.get(path)
        )
    };
    differ.map(text).collect()
}

fn storm(fs: &Mounted, seed: u64) {
    let replay = Arc::new(Replay::default());
    let watcher = Watcher::start(replay.clone()).unwrap();
    let [top, keep, outside] = ["top", "top/keep", "outside"].map(|dir| fs.path().join(dir));
    for dir in [&top, &keep, &outside] {
        fs::create_dir(dir).unwrap();
    }
    let roots = [&top, &keep, &top].map(|dir| watcher.watch(dir).unwrap());
    for (root, dir) in roots.iter().zip([&top, &keep, &top]) {
        let model = Model::of(dir);
        replay
            .0
            .lock()
            .insert(*root, (model.clone(), model, Vec::new()));
    }
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut hand = Hand {
                dice: Dice(seed * THREADS + thread + 1),
                tops: [&top, &top, &keep, &outside],
                open: None,
            };
            let (watcher, done) = (&watcher, &done);
            scope.spawn(move || {
                for n in 0..OPERATIONS {
                    hand.step(done);
                    if n % BURST == 0 {
                        watcher.settle();
                    }
                }
            });
        }
    });
    watcher.settle();
    let stats = watcher.stats();
    assert!(
        done.load(Relaxed) > OPERATIONS / 2,
        "{done:?} operations did something"
    );
    assert_eq!((stats.overflows, stats.roots, stats.marks), (0, 3, 1));
    for (model, mut last, late) in std::mem::take(&mut *replay.0.lock()).into_values() {
        let now = Model::of(&model.root);
        let found = differences(&model, &now);
        assert!(
            found.is_empty(),
            "seed {seed}, as told:\n{}",
            found.join("\n")
        );
        late.iter().for_each(|note| last.apply(note));
        let found = differences(&last, &now);
        assert!(
            found.is_empty(),
            "seed {seed}, in the end:\n{}",
            found.join("\n")
        );
    }
}

#[test]
fn what_is_told_is_all_that_changed_on_tmpfs() {
    storm(&Mounted::tmpfs(), 1);
}

#[test]
fn what_is_told_is_all_that_changed_on_ext4() {
    storm(&Mounted::ext4(), 2);
}
