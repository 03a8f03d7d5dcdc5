//! Roots: nested, doubled, refused, gone; and events that were lost.

use std::fs;
use std::os::unix::fs::MetadataExt;

use parking_lot::Condvar;

use super::*;
use What::Entry;

#[test]
fn roots_nest_and_repeat() {
    for bench in Bench::all() {
        let inner = bench.top.join("in/ner");
        fs::create_dir_all(&inner).unwrap();
        let outer = bench.watcher.watch(&bench.top).unwrap();
        let nested = bench.watcher.watch(&inner).unwrap();
        let again = bench.watcher.watch(&inner).unwrap();
        let by_link = bench.fs.path().join("link");
        std::os::unix::fs::symlink(&bench.top, &by_link).unwrap();
        let linked = bench.watcher.watch(&by_link).unwrap();
        let stats = bench.watcher.stats();
        assert_eq!((stats.roots, stats.marks), (4, 1));
        bench.heard();

        let told = |heard: Vec<Heard>| -> BTreeSet<(RootId, Vec<u8>)> {
            let name = |heard| match heard {
                Heard::Name {
                    root,
                    path,
                    what: Entry,
                    ..
                } => (root, path),
                other => panic!("{other:?}"),
            };
            heard.into_iter().map(name).collect()
        };
        fs::create_dir(inner.join("d")).unwrap();
        let expected = [
            (outer, b"in/ner/d".to_vec()),
            (nested, b"d".to_vec()),
            (again, b"d".to_vec()),
            (linked, b"in/ner/d".to_vec()),
        ];
        assert_eq!(told(bench.heard()), BTreeSet::from(expected.clone()));
        bench.watcher.unwatch(again);
        bench.watcher.unwatch(again);
        fs::remove_dir(inner.join("d")).unwrap();
        let rest = expected.into_iter().filter(|(root, _)| *root != again);
        assert_eq!(told(bench.heard()), rest.collect());
        // The inner one goes, the outer ones stay.
        fs::rename(&inner, bench.top.join("moved")).unwrap();
        let losses = bench.losses();
        assert_eq!(losses, [(vec![nested], Lost::Gone)]);
        fs::create_dir(bench.top.join("moved/d")).unwrap();
        let expected = [(outer, b"moved/d".to_vec()), (linked, b"moved/d".to_vec())];
        assert_eq!(told(bench.heard()), BTreeSet::from(expected));
        for root in [outer, linked] {
            bench.watcher.unwatch(root);
        }
        let stats = bench.watcher.stats();
        assert_eq!((stats.roots, stats.marks), (0, 0));
        // With the mark gone nothing even arrives.
        fs::remove_dir(bench.top.join("moved/d")).unwrap();
        assert_eq!(bench.heard(), []);
        assert_eq!(bench.watcher.stats().events, stats.events);
    }
}

#[test]
fn a_root_that_is_removed_renamed_or_replaced() {
    type Step = fn(&Path);
    let ways: [(&str, Step); 5] = [
        ("removed", |root| fs::remove_dir_all(root).unwrap()),
        ("renamed", |root| {
            fs::rename(root, root.with_extension("new")).unwrap()
        }),
        ("replaced", |root| {
            fs::create_dir(root.with_extension("over")).unwrap();
            fs::rename(root.with_extension("over"), root).unwrap();
        }),
        ("made anew", |root| {
            fs::remove_dir(root).unwrap();
            fs::create_dir(root).unwrap();
        }),
        ("moved with its parent, a symlink in its place", |root| {
            let up = root.parent().unwrap();
            fs::rename(up, up.with_extension("away")).unwrap();
            std::os::unix::fs::symlink(up.with_extension("away"), up).unwrap();
        }),
    ];
    for bench in Bench::all() {
        let other = bench.watcher.watch(&bench.top).unwrap();
        for (n, (how, step)) in ways.iter().enumerate() {
            let dir = bench.fs.path().join(format!("up{n}/root"));
            fs::create_dir_all(&dir).unwrap();
            let root = bench.watcher.watch(&dir).unwrap();
            bench.heard();
            step(&dir);
            assert_eq!(bench.losses(), [(vec![root], Lost::Gone)], "{how}");
            assert_eq!(bench.watcher.stats().roots, 1);
        }
        fs::create_dir(bench.top.join("d")).unwrap();
        assert_eq!(bench.names(other).len(), 1);
    }
}

#[test]
fn a_root_whose_file_system_is_unmounted() {
    for lazy in [false, true] {
        let bench = Bench::on(Mounted::ext4());
        let root = bench.watcher.watch(&bench.top).unwrap();
        fs::create_dir(bench.top.join("d")).unwrap();
        bench.heard();
        if lazy {
            assert!(run("umount", &["-l".as_ref(), bench.fs.path().as_ref()]));
        } else {
            // Nothing that the watcher holds is in the way.
            bench.fs.unmount();
        }
        assert_eq!(bench.losses(), [(vec![root], Lost::Gone)]);
        bench.fs.mount_again();
        let root = bench.watcher.watch(&bench.top).unwrap();
        fs::remove_dir(bench.top.join("d")).unwrap();
        assert_eq!(bench.names(root).len(), 1);
    }
}

#[test]
fn unmounted_and_mounted_again_between_two_looks() {
    // Where another process has a copy of the mount, it is the same file system afterwards, and
    // nothing is lost if the mount has the same number too.
    for _ in 0..100 {
        let gate = Arc::new(Gate::default());
        let watcher = Watcher::start(gate.clone()).unwrap();
        let (fs, other) = (Mounted::ext4(), Mounted::tmpfs());
        let root = watcher.watch(fs.path()).unwrap();
        watcher.watch(other.path()).unwrap();
        gate.hold(|| {
            fs::create_dir(other.path().join("d")).unwrap();
            gate.wait_until_held();
            fs.unmount();
            fs.mount_again();
        });
        watcher.settle();
        let losses = std::mem::take(&mut *gate.losses.lock());
        if !losses.is_empty() {
            assert_eq!(losses, [(vec![root], Lost::Gone)]);
            return;
        }
        let before = watcher.stats().delivered;
        fs::create_dir(fs.path().join("d")).unwrap();
        watcher.settle();
        assert_eq!(
            watcher.stats().delivered,
            before + 1,
            "neither lost nor told"
        );
    }
    panic!("somebody keeps a copy of every mount");
}

/// When the event is read, the object has one name, and not the one that the event tells. Where the
/// kernel's caches have just been dropped, nobody knows that name, and the object is told of alone.
#[test]
fn a_write_by_a_name_that_is_gone_is_told_of_the_other() {
    for fs in [Mounted::tmpfs(), Mounted::ext4()] {
        let gate = Arc::new(Gate::default());
        let watcher = Watcher::start(gate.clone()).unwrap();
        let at = |name: &str| fs.path().join(name);
        fs::write(at("a"), b"before").unwrap();
        fs::hard_link(at("a"), at("b")).unwrap();
        watcher.watch(fs.path()).unwrap();
        gate.hold(|| {
            fs::create_dir(at("d")).unwrap();
            gate.wait_until_held();
            fs::write(at("a"), b"after").unwrap();
            fs::remove_file(at("a")).unwrap();
        });
        watcher.settle();
        let (told, objects) = (gate.names.lock(), gate.objects.lock());
        let b = fs::metadata(at("b")).unwrap().ino();
        let alone = |(object, what): &(Object, What)| (object.ino, *what) == (b, What::Contents);
        assert!(
            told.contains(&(b"b".into(), What::Contents)) || objects.iter().any(alone),
            "{told:?}, {objects:?}"
        );
    }
}

#[test]
fn mounts_below_a_root() {
    let bench = Bench::on(Mounted::tmpfs());
    let point = bench.top.join("a\nb c");
    fs::create_dir(&point).unwrap();
    let args = ["-t", "tmpfs", "none"].map(OsStr::new);
    let mount = || assert!(run("mount", &[&args[..], &[point.as_os_str()]].concat()));
    let unmount = || assert!(run("umount", &[point.as_os_str()]));
    let root = bench.watcher.watch(&bench.top).unwrap();
    mount();
    assert_eq!(bench.losses(), [(vec![root], Lost::MountedOver)]);
    let refused = bench.watcher.watch(&bench.top).unwrap_err();
    assert_eq!(
        refused,
        NotWatched::MountBelow {
            path: bench.top.clone(),
            at: point.clone()
        }
    );
    unmount();
    bench.watcher.watch(&bench.top).unwrap();
    // Over the root itself.
    let root = bench.watcher.watch(&point).unwrap();
    mount();
    let mut losses = bench.losses();
    losses.sort_by_key(|(roots, _)| roots.clone());
    assert!(losses.contains(&(vec![root], Lost::Gone)), "{losses:?}");
    unmount();
}

#[test]
fn bind_mounts_see_what_happens_by_other_paths() {
    let bench = Bench::on(Mounted::ext4());
    fs::create_dir_all(bench.top.join("part/sub")).unwrap();
    fs::create_dir(bench.fs.path().join("rest")).unwrap();
    let bound = Mounted::bind(&bench.top.join("part"));
    let root = bench.watcher.watch(bound.path()).unwrap();
    fs::create_dir(bench.top.join("part/sub/d")).unwrap();
    fs::create_dir(bench.top.join("outside the mount")).unwrap();
    // By its path from the file system's top it would be one below the root.
    let twin = bench
        .fs
        .path()
        .join(bound.path().strip_prefix("/").unwrap())
        .join("sub");
    fs::create_dir_all(&twin).unwrap();
    fs::create_dir(twin.join("other")).unwrap();
    let expected = BTreeSet::from([("sub/d".to_owned(), Entry, true)]);
    assert_eq!(bench.names(root), expected);
    // A second root by another mount: one mark, and each has its own path.
    let second = bench.watcher.watch(&bench.top).unwrap();
    assert_eq!(bench.watcher.stats().marks, 1);
    fs::remove_dir(bound.path().join("sub/d")).unwrap();
    let heard = bench.heard();
    let told = |of, at: &[u8]| {
        heard
            .iter()
            .any(|h| matches!(h, Heard::Name { root, path, .. } if *root == of && path == at))
    };
    assert!(
        told(root, b"sub/d") && told(second, b"part/sub/d"),
        "{heard:?}"
    );
    bound.unmount();
    assert_eq!(bench.losses(), [(vec![root], Lost::Gone)]);
    fs::create_dir(bench.top.join("part/sub/d")).unwrap();
    assert_eq!(bench.names(second).len(), 1);
}

/// A sink that can be held up.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
    names: Mutex<Vec<(Vec<u8>, What)>>,
    objects: Mutex<Vec<(Object, What)>>,
    losses: Mutex<Vec<(Vec<RootId>, Lost)>>,
}

impl Gate {
    fn hold(&self, during: impl FnOnce()) {
        *self.state.lock() = (true, false);
        during();
        self.state.lock().0 = false;
        self.changed.notify_all();
    }
    fn wait_until_held(&self) {
        let mut state = self.state.lock();
        while !state.1 {
            self.changed.wait(&mut state);
        }
    }
}

impl Sink for Gate {
    fn changed(&self, _: RootId, change: &Change<'_>) {
        let name = joined(change.dir, change.name);
        self.names.lock().push((name, change.what));
        let mut state = self.state.lock();
        while state.0 {
            state.1 = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
    }
    fn object_changed(&self, _: &[RootId], object: Object, what: What) {
        self.objects.lock().push((object, what));
    }
    fn lost(&self, roots: &[RootId], why: &Lost) {
        self.losses.lock().push((roots.to_vec(), why.clone()));
    }
}

#[test]
fn an_overflow_loses_every_root_and_goes_on() {
    let gate = Arc::new(Gate::default());
    let watcher = Watcher::start(gate.clone()).unwrap();
    let fs = [Mounted::tmpfs(), Mounted::ext4()];
    let roots = fs.each_ref().map(|fs| watcher.watch(fs.path()).unwrap());
    let moved = fs[0].path().join("moved");
    fs::create_dir(&moved).unwrap();
    let third = watcher.watch(&moved).unwrap();
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    gate.hold(|| {
        fs::create_dir(fs[1].path().join("first")).unwrap();
        gate.wait_until_held();
        // The buffer that is being told took some of the queue.
        for n in 0..limit + 1 {
            fs::create_dir(fs[0].path().join(n.to_string())).unwrap();
        }
        fs::rename(&moved, fs[0].path().join("away")).unwrap();
    });
    watcher.settle();
    // That the third is gone is found whenever the next look at it is.
    let losses = std::mem::take(&mut *gate.losses.lock());
    let of = |id| {
        losses
            .iter()
            .filter(move |(ids, _)| ids.contains(&id))
            .map(|(_, why)| why)
    };
    for id in roots {
        assert_eq!(of(id).collect::<Vec<_>>(), [&Lost::Overflow]);
    }
    assert_eq!(of(third).next_back(), Some(&Lost::Gone));
    assert!(Lost::Overflow.still_watched() && !Lost::Gone.still_watched());
    assert_eq!(watcher.stats().overflows, 1);
    gate.names.lock().clear();
    fs::create_dir(fs[0].path().join("after")).unwrap();
    watcher.settle();
    assert_eq!(*gate.names.lock(), [(b"after".to_vec(), Entry)]);
}

#[test]
fn what_cannot_be_watched_is_refused_with_reasons() {
    let log = Arc::new(Log::default());
    let watcher = Watcher::start(log).unwrap();
    let text = |path: &str| watcher.watch(Path::new(path)).unwrap_err().to_string();
    assert!(
        text("/proc/self").contains("changes of proc can't be watched"),
        "{}",
        text("/proc/self")
    );
    assert!(
        text("/nowhere").starts_with("/nowhere: No such file"),
        "{}",
        text("/nowhere")
    );
    assert!(text("/proc/self/mountinfo").contains("Not a directory"));
    assert!(
        text("/").contains(" is a mount of its own"),
        "{}",
        text("/")
    );

    let fs = Mounted::tmpfs();
    for dir in ["l", "u", "w", "m"] {
        fs::create_dir(fs.path().join(dir)).unwrap();
    }
    let at = fs.path().display();
    let options = format!("lowerdir={at}/l,upperdir={at}/u,workdir={at}/w");
    let point = fs.path().join("m");
    let args = ["-t", "overlay", "-o", &options, "none"].map(OsStr::new);
    assert!(run("mount", &[&args[..], &[point.as_os_str()]].concat()));
    let refused = watcher.watch(&point).unwrap_err();
    assert!(run("umount", &[point.as_os_str()]));
    assert!(
        matches!(refused, NotWatched::FileSystem { kind, remote: false, .. } if kind == "overlay")
    );
    assert_eq!(watcher.stats(), Stats::default());
}

#[test]
fn settle_from_the_sink_and_after_the_end() {
    /// Settles from within, then panics.
    struct Own(Mutex<Option<Arc<Watcher>>>);
    impl Sink for Own {
        fn changed(&self, _: RootId, _: &Change<'_>) {
            if let Some(watcher) = self.0.lock().take() {
                watcher.settle();
            }
            panic!("on purpose");
        }
        fn object_changed(&self, _: &[RootId], _: Object, _: What) {}
        fn lost(&self, _: &[RootId], _: &Lost) {}
    }
    let own = Arc::new(Own(Mutex::new(None)));
    let watcher = Arc::new(Watcher::start(own.clone()).unwrap());
    *own.0.lock() = Some(watcher.clone());
    let fs = Mounted::tmpfs();
    watcher.watch(fs.path()).unwrap();
    fs::create_dir(fs.path().join("d")).unwrap();
    watcher.settle();
    // The thread is gone, and says so instead of making anybody wait.
    watcher.settle();
    assert_eq!(watcher.watch(fs.path()), Err(NotWatched::Ended));
    assert_eq!(watcher.stats().roots, 0);
}
