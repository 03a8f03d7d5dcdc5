//! Changes below mounted views: told by the watcher, forgotten in the shared cache, and passed on
//! to every kernel side that may hold what has changed.
//!
//! Owns: which views are mounted, what is on its way to each. May not: look into layers.
//!
//! The order matters: first the cache forgets, then a view decides what to look at again, then its
//! kernel side is told. A message may wait for a request of the view that it is for, and that for a
//! store that hangs: so each view has a queue of its own, sent by one thread at a time.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::cache::Cache;
use crate::fs::{Event, Mounts, Notice, Root};
use crate::fuse::Notifier;
use crate::holder::wire::TELLS;
use crate::layer::Layer;
use crate::pool::Pool;
use crate::sys::Res;
use crate::sys::mountinfo::{self, Mount};
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
    /// To see what is mounted in it.
    mounts: Arc<mountinfo::Table>,
    queue: Mutex<Queue>,
    /// All is sent.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Message>,
    /// A thread is sending.
    busy: bool,
    /// What was told since the last tick, and in the time before that: it is told once more, see
    /// [`Post::tick`].
    told: [Told; 2],
    /// The view's count of lasting answers at the last tick, and at the one before that.
    answers: [u64; 2],
}

/// What was told in a stretch of time.
#[derive(Debug, Default)]
struct Told {
    notices: Vec<Notice>,
    all: bool,
}

impl Told {
    fn add(&mut self, message: &Message) {
        match message {
            Message::Some(notices) if self.notices.len() + notices.len() <= MANY => {
                self.notices.extend(notices.iter().cloned());
            }
            _ => self.all = true,
        }
        if self.all {
            self.notices = Vec::new();
        }
    }

    fn message(self) -> Option<Message> {
        match self.all {
            true => Some(Message::All),
            false => (!self.notices.is_empty()).then_some(Message::Some(self.notices)),
        }
    }
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
                    self.idle.notify_all();
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
                        Notice::Tree { path, sure } => {
                            let renewed = self.root.view_arc().is_renewed(path);
                            if *sure || renewed {
                                self.tell_names(path)?;
                            }
                        }
                        other => self.notifier.tell(other)?,
                    }
                }
                Ok(())
            }
            Message::All => {
                let none =
                    mounts_in(&self.mounts, &self.point).is_some_and(|mounts| mounts.is_empty());
                let told = none && self.notifier.all_names()?;
                let view = self.root.view_arc();
                match told {
                    true => self.tell_each(view.every_dir(b""))?,
                    false => self.tell_names(b"")?,
                }
                for number in view.every_inode() {
                    if !self.notifier.inode(number)? {
                        view.is_not_held(number);
                    }
                }
                view.names_are_known();
                Ok(())
            }
        }
    }

    /// Every name at and below a directory is to be asked for again, and what is mounted there
    /// stays.
    fn tell_names(&self, top: &[u8]) -> Res<()> {
        let view = self.root.view_arc();
        // What is looked up while a directory is thrown away would stay in it.
        self.tell_each(view.every_dir(top))?;
        for (notice, drop) in view.every_name(top, &mounts_in(&self.mounts, &self.point)) {
            if let Notice::Entry { parent, name } = notice {
                self.notifier.name(parent, &name, drop)?;
            }
        }
        Ok(())
    }

    fn tell_each(&self, notices: Vec<Notice>) -> Res<()> {
        notices.iter().try_for_each(|n| self.notifier.tell(n))
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
    /// Roots that were lost before it was known whose they are.
    lost_early: Mutex<HashSet<RootId>>,
    mounts: Arc<mountinfo::Table>,
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
            lost_early: Mutex::default(),
            mounts: Arc::default(),
            senders: Pool::named(TELLS),
        }
    }

    /// From now on a root's changes are this layer's. False where the root was lost meanwhile.
    pub(super) fn add_layer(&self, root: RootId, layer: &Arc<Layer>) -> bool {
        let mut layers = self.layers.write();
        if self.lost_early.lock().remove(&root) {
            return false;
        }
        layers.entry(root).or_default().push(Arc::downgrade(layer));
        layer.set_watched(true);
        true
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
            mounts: self.mounts.clone(),
            queue: Mutex::default(),
            idle: Condvar::new(),
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
        post.queue.lock().told[0].add(&message);
        self.send_once(post, message);
    }

    /// Sends what is not told a second time.
    fn send_once(&self, post: &Arc<Post>, message: Message) {
        let mut queue = post.queue.lock();
        if queue.waiting.len() >= MANY {
            // It does not keep up. Whatever was to be told is part of this.
            post.root.view().all_changed();
            queue.waiting = vec![Message::All];
            queue.told[0].add(&Message::All);
        } else {
            queue.waiting.push(message);
        }
        if !std::mem::replace(&mut queue.busy, true) {
            let post = post.clone();
            self.senders.run(move || post.send_all());
        }
    }

    /// Lets go of what views keep and nobody uses.
    pub(super) fn let_go_idle(&self) {
        for post in self.views.read().clone() {
            post.root.view().let_go_idle();
        }
    }

    /// Once in a while: tells again what was told while the view was answering requests.
    ///
    /// An answer from before a change may come to the kernel's caches after the word of it: the
    /// answer was given, but who asked has not run since. Names being looked up for the first time
    /// are waited for ([`Notice::Wait`]), and attributes have versions; a name whose time is over
    /// and that is being asked for again has neither.
    pub(super) fn tick(&self) {
        for post in self.views.read().clone() {
            let again = {
                let mut queue = post.queue.lock();
                let answers = post.root.view().lasting_answers();
                let [last, before] = queue.answers;
                queue.answers = [answers, last];
                let [told, _] = &mut queue.told;
                let told = std::mem::take(told);
                let older = std::mem::replace(&mut queue.told[1], told);
                older.message().filter(|_| answers != before)
            };
            if let Some(message) = again {
                self.send_once(&post, message);
            }
        }
    }

    /// Returns once all that was told of before has been sent, what is told twice included.
    pub(super) fn settle(&self) {
        let views = self.views.read().clone();
        for post in &views {
            let told = std::mem::take(&mut post.queue.lock().told);
            for message in told.into_iter().rev().filter_map(Told::message) {
                self.send_once(post, message);
            }
        }
        for post in &views {
            let mut queue = post.queue.lock();
            while queue.busy {
                post.idle.wait(&mut queue);
            }
        }
    }

    /// The watched roots whose layers nobody has any more, and are forgotten by this.
    pub(super) fn abandoned(&self) -> Vec<RootId> {
        let mut gone = Vec::new();
        self.layers.write().retain(|root, layers| {
            layers.retain(|layer| layer.strong_count() > 0);
            if layers.is_empty() {
                gone.push(*root);
            }
            !layers.is_empty()
        });
        gone
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
        layer.names_changed();
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
            let view = post.root.view_arc();
            let unsure = |layer: &Arc<Layer>| !layer.is_upper() && !layer.is_watched();
            if !view.layers().iter().any(unsure) {
                continue;
            }
            let notices = view.unwatched_dirs();
            if !notices.is_empty() {
                self.send_once(&post, Message::Some(notices));
            }
        }
    }

    /// A root is watched no longer; its layers.
    fn end(&self, root: RootId) -> Vec<Arc<Layer>> {
        let mut known = self.layers.write();
        let Some(layers) = known.remove(&root) else {
            if !self.others.read().contains_key(&root) {
                self.lost_early.lock().insert(root);
            }
            return Vec::new();
        };
        let layers: Vec<_> = layers.iter().filter_map(Weak::upgrade).collect();
        layers.iter().for_each(|layer| layer.set_watched(false));
        layers
    }

    fn changed_in(&self, layer: &Layer, change: &Change<'_>) {
        let (id, dir) = (layer.id(), change.dir);
        if change.name.is_empty() || change.what != What::Entry {
            let path = join(dir, change.name);
            self.cache.forget(id, &path);
            let (path, dir) = (&path[..], change.is_dir);
            return self.tell(layer, Event::Object { path, dir });
        }
        if dir.is_empty() && change.name == b".default" && change.is_dir {
            // What liteimg moved away is shown all over the image.
            return self.layer_void(layer);
        }
        let path = join(dir, change.name);
        layer.names_changed();
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
        if !self.cache.has_seen(object.dev, object.ino) {
            return;
        }
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
            let layers = match why.still_watched() {
                true => self.layers_of(*root),
                false => self.end(*root),
            };
            for layer in &layers {
                self.layer_void(layer);
            }
            if let Some(tell) = self.others.read().get(root) {
                (tell.0)();
            }
        }
    }
}

/// What is mounted in the view that is mounted on a directory, whichever way it is reached. Other
/// mount namespaces are not seen.
fn mounts_in(table: &mountinfo::Table, point: &Path) -> Mounts {
    let table = match table.now() {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!(%error, "{}: what is mounted in views is not known", mountinfo::TABLE);
            return None;
        }
    };
    // The last one there is on top.
    let view = table.iter().rfind(|mount| mount.point == point)?;
    let instances: HashMap<u64, &Mount> = table
        .iter()
        .filter(|mount| mount.dev == view.dev)
        .map(|mount| (mount.id, mount))
        .collect();
    let in_view = |mount: &Mount| {
        let around = instances.get(&mount.parent)?;
        let below = mount.point.strip_prefix(&around.point).ok()?;
        let path = around.root.join(below);
        let path = path.as_os_str().as_bytes();
        Some(path.strip_prefix(b"/").unwrap_or(path).to_vec())
    };
    Some(table.iter().filter_map(in_view).collect())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}
