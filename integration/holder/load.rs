//! Readers and writers in a root, that remember every error and the longest pause.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What the load has met.
#[derive(Default)]
pub struct Met {
    stop: AtomicBool,
    errors: Mutex<Vec<String>>,
    rounds: AtomicU64,
    longest: Mutex<Duration>,
}

impl Met {
    fn timed(&self, what: &str, work: impl FnOnce() -> std::io::Result<()>) {
        let began = Instant::now();
        if let Err(error) = work() {
            self.errors.lock().push(format!("{what}: {error}"));
        }
        let took = began.elapsed();
        let mut longest = self.longest.lock();
        *longest = took.max(*longest);
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// Threads at work in a root, until this is asked for what they met.
pub struct Load {
    met: Arc<Met>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// In a root with `image` files `f0`… and a writable directory `dir`.
    pub fn start(image: &Path, files: usize, dir: &Path) -> Load {
        let met = Arc::<Met>::default();
        let mut load = Load {
            met,
            threads: Vec::new(),
        };
        let (of, at) = (image.to_owned(), dir.to_owned());
        load.spawn(move |met| read(met, &of, files));
        load.spawn(move |met| write(met, &at.join("w")));
        let at = dir.to_owned();
        load.spawn(move |met| names(met, &at.join("n")));
        load
    }

    /// One thread that reads what is cold.
    pub fn of_a_reader(image: &Path, files: usize) -> Load {
        let mut load = Load {
            met: Arc::default(),
            threads: Vec::new(),
        };
        let of = image.to_owned();
        load.spawn(move |met| read(met, &of, files));
        load
    }

    fn spawn(&mut self, work: impl Fn(&Met) + Send + 'static) {
        let met = self.met.clone();
        self.threads.push(std::thread::spawn(move || {
            while !met.stop.load(Ordering::Acquire) {
                work(&met);
            }
        }));
    }

    pub fn rounds(&self) -> u64 {
        self.met.rounds()
    }

    /// The longest pause so far, forgotten with this.
    pub fn pause(&self) -> Duration {
        std::mem::take(&mut *self.met.longest.lock())
    }

    /// Waits until it has gone on.
    #[track_caller]
    pub fn goes_on(&self) {
        let before = self.rounds();
        crate::cluster::eventually("the load goes on", || self.rounds() > before + 20);
    }

    /// Ends it; how many rounds there were. Fails where there was any error.
    #[track_caller]
    pub fn end(self) -> (u64, Duration) {
        self.met.stop.store(true, Ordering::Release);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let errors = self.met.errors.lock();
        assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
        (self.met.rounds(), *self.met.longest.lock())
    }
}

/// Opens, reads and looks at files; each one twice, so that names and contents are also in caches.
fn read(met: &Met, image: &Path, files: usize) {
    for n in 0..files {
        let path = image.join(format!("f{n}"));
        let expected = format!("file {n}\n");
        met.timed("a read", || {
            let mut text = String::new();
            File::open(&path)?.read_to_string(&mut text)?;
            assert_eq!(text, expected);
            path.symlink_metadata().map(drop)
        });
        let absent = image.join(format!("absent{n}"));
        met.timed("an absent name", || match absent.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(std::io::Error::other("it is there")),
        });
        if met.stop.load(Ordering::Acquire) {
            return;
        }
    }
    // What the kernel knows is forgotten: the next round asks the daemon.
    if let Err(error) = std::fs::write("/proc/sys/vm/drop_caches", "2") {
        met.errors.lock().push(format!("drop_caches: {error}"));
    }
}

/// Appends to a file that stays open, and reads all of it.
fn write(met: &Met, path: &Path) {
    let mut options = File::options();
    options.read(true).append(true).create(true);
    let mut written: Vec<u8> = Vec::new();
    let mut file = None;
    met.timed("opening to write", || {
        file = Some(options.open(path)?);
        Ok(())
    });
    let Some(mut file) = file else { return };
    for n in 0..200 {
        let line = format!("line {n}\n");
        met.timed("a write", || file.write_all(line.as_bytes()));
        written.extend(line.as_bytes());
        met.timed("reading it again", || {
            let mut all = Vec::new();
            file.seek(SeekFrom::Start(0))?;
            file.read_to_end(&mut all)?;
            match all == written {
                true => Ok(()),
                false => Err(std::io::Error::other(format!(
                    "{} bytes, not {}",
                    all.len(),
                    written.len()
                ))),
            }
        });
    }
    drop(file);
    met.timed("unlink", || std::fs::remove_file(path));
}

/// Makes, renames, links and removes.
fn names(met: &Met, dir: &Path) {
    let at = |name: &str| -> PathBuf { dir.join(name) };
    met.timed("mkdir", || std::fs::create_dir(dir));
    for n in 0..50 {
        let (one, two, three) = (
            at(&format!("a{n}")),
            at(&format!("b{n}")),
            at(&format!("c{n}")),
        );
        let fresh = || File::create_new(&one).and_then(|mut file| file.write_all(b"x"));
        met.timed("create", fresh);
        met.timed("rename", || std::fs::rename(&one, &two));
        met.timed("link", || std::fs::hard_link(&two, &three));
        met.timed("symlink", || std::os::unix::fs::symlink("x", &one));
        for gone in [&one, &two, &three] {
            met.timed("unlink", || std::fs::remove_file(gone));
        }
    }
    met.timed("readdir", || match std::fs::read_dir(dir)?.count() {
        0 => Ok(()),
        n => Err(std::io::Error::other(format!("{n} names are left"))),
    });
    met.timed("rmdir", || std::fs::remove_dir(dir));
}
