//! Changes below mounted views: told by the watcher, forgotten in the shared cache, and passed on
//! to every kernel side that may hold what has changed.
//!
//! Owns: which views are mounted, what is on its way to each. May not: look into layers.
//!
//! The order matters: first the cache forgets, then a view decides what to look at again, then its
//! kernel side is told. A message may wait for a request of the view that it is for, and that for a
//! store that hangs: so each view has a queue of its own, sent by one thread at a time.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::cache::Cache;
use crate::fs::{Event, Notice, Root};
use crate::fuse::Notifier;
use crate::layer::Layer;
use crate::pool::Pool;
use crate::sys::Res;
use crate::watch::{Change, Lost, Object, RootId, Sink, What};

/// A mounted view, as long as it is to be told of changes.
#[derive(Debug)]
pub struct Attached {
    view: Arc<Post>,
    hub: Arc<Hub>,
}

impl Attached {
    /// The node's root.
    pub fn root(&self) -> &Arc<Root> {
        &self.view.root
    }

    /// The rules or layers have changed: tells the kernel side that nothing is as it was.
    pub fn all_changed(&self) {
        self.hub.send(&self.view, Message::All);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.hub
            .views
            .write()
            .retain(|view| !Arc::ptr_eq(view, &self.view));
    }
}

/// What is on its way to one kernel side.
#[derive(Debug)]
struct Post {
    root: Arc<Root>,
    /// Where it is mounted.
    point: PathBuf,
    notifier: Notifier,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Message>,
    /// A thread is sending.
    busy: bool,
}

#[derive(Debug)]
enum Message {
    Some(Vec<Notice>),
    /// Nothing is as it was.
    All,
}

/// More messages than this to one view become one: all is void.
const MANY: usize = 4096;

impl Post {
    fn send_all(&self) {
        loop {
            let waiting = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.busy = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            for message in waiting {
                if let Err(error) = self.deliver(message) {
                    // The mount is gone, and whoever runs its session knows.
                    tracing::debug!(view = self.root.view().name(), %error, "not told of a change");
                }
            }
        }
    }

    fn deliver(&self, message: Message) -> Res<()> {
        match message {
            Message::Some(notices) => {
                for notice in &notices {
                    match notice {
                        Notice::Tree(path) => self.tell_names(path)?,
                        other => self.notifier.tell(other)?,
                    }
                }
                Ok(())
            }
            Message::All => {
                let view = self.root.view_arc();
                for notice in view.every_inode() {
                    self.notifier.tell(&notice)?;
                }
                let mounts = mounts_below(&self.point);
                if mounts.is_empty() && self.notifier.all_names()? {
                    return Ok(());
                }
                self.tell_names(b"")
            }
        }
    }

    /// Every name at and below a directory is to be asked for again, and what is mounted there
    /// stays.
    fn tell_names(&self, top: &[u8]) -> Res<()> {
        let view = self.root.view_arc();
        for (notice, drop) in view.every_name(top, &mounts_below(&self.point)) {
            if let Notice::Entry { parent, name } = notice {
                self.notifier.name(parent, &name, drop)?;
            }
        }
        Ok(())
    }
}

/// Where changes come in and go out.
#[derive(Debug)]
pub(super) struct Hub {
    cache: Arc<Cache>,
    layers: RwLock<HashMap<RootId, Vec<Weak<Layer>>>>,
    views: RwLock<Vec<Arc<Post>>>,
    /// Told of directories that are no layers: the tables.
    others: RwLock<HashMap<RootId, Tell>>,
    senders: Pool,
}

/// What to do at a change in a directory that is no layer.
struct Tell(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Tell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tell")
    }
}

impl Hub {
    pub(super) fn new(cache: Arc<Cache>) -> Hub {
        Hub {
            cache,
            layers: RwLock::default(),
            views: RwLock::default(),
            others: RwLock::default(),
            senders: Pool::default(),
        }
    }

    /// From now on a root's changes are this layer's.
    pub(super) fn add_layer(&self, root: RootId, layer: &Arc<Layer>) {
        let weak = Arc::downgrade(layer);
        self.layers.write().entry(root).or_default().push(weak);
        layer.set_watched(true);
    }

    /// A directory that is no layer.
    pub(super) fn add_other(&self, root: RootId, tell: Box<dyn Fn() + Send + Sync>) {
        self.others.write().insert(root, Tell(tell));
    }

    pub(super) fn attach(
        self: &Arc<Self>,
        root: Arc<Root>,
        point: PathBuf,
        notifier: Notifier,
    ) -> Attached {
        let view = Arc::new(Post {
            root,
            point,
            notifier,
            queue: Mutex::default(),
        });
        self.views.write().push(view.clone());
        Attached {
            view,
            hub: self.clone(),
        }
    }

    fn layers_of(&self, root: RootId) -> Vec<Arc<Layer>> {
        let layers = self.layers.read();
        let layers = layers.get(&root).into_iter().flatten();
        layers.filter_map(Weak::upgrade).collect()
    }

    /// The views that have a layer.
    fn views_with(&self, layer: &Layer) -> Vec<Arc<Post>> {
        let has = |post: &&Arc<Post>| {
            let view = post.root.view();
            view.layers().iter().any(|of| of.id() == layer.id())
        };
        self.views.read().iter().filter(has).cloned().collect()
    }

    fn send(&self, post: &Arc<Post>, message: Message) {
        let mut queue = post.queue.lock();
        if queue.waiting.len() >= MANY {
            // It does not keep up. Whatever was to be told is part of this.
            post.root.view().all_changed();
            queue.waiting = vec![Message::All];
        } else {
            queue.waiting.push(message);
        }
        if !std::mem::replace(&mut queue.busy, true) {
            let post = post.clone();
            self.senders.run(move || post.send_all());
        }
    }

    fn tell(&self, layer: &Layer, event: Event<'_>) {
        for post in self.views_with(layer) {
            let notices = post.root.view().changed(layer, event);
            if !notices.is_empty() {
                self.send(&post, Message::Some(notices));
            }
        }
    }

    /// Nothing is certain of a layer any more.
    pub(super) fn layer_void(&self, layer: &Layer) {
        self.cache.forget_layer(layer.id());
        for post in self.views_with(layer) {
            post.root.view().all_changed();
            self.send(&post, Message::All);
        }
    }

    /// The views of which a kernel may hold listings that nobody tells it about are asked to
    /// forget them.
    pub(super) fn refresh_unwatched(&self) {
        let views: Vec<Arc<Post>> = self.views.read().clone();
        for post in views {
            let notices = post.root.view().unwatched_dirs();
            if !notices.is_empty() {
                self.send(&post, Message::Some(notices));
            }
        }
    }

    fn changed_in(&self, layer: &Layer, change: &Change<'_>) {
        let (id, dir) = (layer.id(), change.dir);
        if change.name.is_empty() || change.what != What::Entry {
            let path = join(dir, change.name);
            self.cache.forget(id, &path);
            if change.is_dir && change.what == What::Attributes {
                // It may have become opaque, or ceased to be: what is below shows or not.
                let (dir, name) = crate::sys::obj::split(&path);
                let tree = true;
                return self.tell(layer, Event::Name { dir, name, tree });
            }
            return self.tell(layer, Event::Object(&path));
        }
        let path = join(dir, change.name);
        // The directory's times and names; the name.
        self.cache.forget(id, dir);
        match change.is_dir {
            true => self.cache.forget_below(id, &path),
            false => self.cache.forget(id, &path),
        }
        let (name, tree) = (change.name, change.is_dir);
        self.tell(layer, Event::Name { dir, name, tree });
    }
}

impl Sink for Hub {
    fn changed(&self, root: RootId, change: &Change<'_>) {
        for layer in self.layers_of(root) {
            self.changed_in(&layer, change);
        }
        if let Some(tell) = self.others.read().get(&root) {
            (tell.0)();
        }
    }

    fn object_changed(&self, roots: &[RootId], object: Object, _what: What) {
        for layer in roots.iter().flat_map(|root| self.layers_of(*root)) {
            self.cache.forget_object(layer.id(), object.dev, object.ino);
            self.tell(&layer, Event::Backing(object.dev, object.ino));
        }
    }

    fn lost(&self, roots: &[RootId], why: &Lost) {
        tracing::warn!(
            ?why,
            roots = roots.len(),
            "changes may have been missed: all is looked at again"
        );
        for root in roots {
            let layers = self.layers_of(*root);
            if !why.still_watched() {
                for layer in &layers {
                    layer.set_watched(false);
                }
                self.layers.write().remove(root);
            }
            for layer in &layers {
                self.layer_void(layer);
            }
            if let Some(tell) = self.others.read().get(root) {
                (tell.0)();
            }
        }
    }
}

/// What is mounted below a directory, as paths from there. Other mount namespaces are not seen.
fn mounts_below(point: &Path) -> Vec<Vec<u8>> {
    let table = match std::fs::read("/proc/self/mountinfo") {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(%error, "/proc/self/mountinfo: what is mounted in views is not known");
            return Vec::new();
        }
    };
    let mut top = point.as_os_str().as_bytes().to_vec();
    top.push(b'/');
    let points = table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4));
    points
        .filter_map(|point| Some(unescape(point).strip_prefix(&top[..])?.to_vec()))
        .collect()
}

/// Undoes the `\040` of proc(5)'s mount tables.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| byte == b'\\');
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}
