//! A root's session: mounted, or gone on with where a worker before this one has left it; and its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::bounded;

use super::{Fault, Fleet, Live, Node, WAITER_STACK};
use crate::config::Config;
use crate::control::State;
use crate::fleet::serve::keep::{Keep, Left, SessionKeys};
use crate::fleet::{Planned, Use, build, stores};
use crate::fs::Root;
use crate::fuse::{self, Adapter, Leave, MountPoint};

/// A session that is about to run.
struct Ready {
    mounted: MountPoint,
    root: Arc<Root>,
    counts: Arc<crate::metrics::Node>,
    keys: Arc<SessionKeys>,
    point: PathBuf,
    mount_id: u64,
    planned: Planned,
    config: Arc<Config>,
}

impl Node {
    /// Goes on with the root that a worker before this one has left; mounts where there is none.
    pub(super) fn try_mount(self: &Arc<Self>, fleet: &Arc<Fleet>) -> Result<(), Fault> {
        match self.keep.take(&self.name, true) {
            Some(left) => self.go_on(fleet, left),
            None => self.mount_anew(fleet),
        }
    }

    /// What serves a root: an adapter over the view that the tables want.
    fn adapter(
        &self,
        fleet: &Fleet,
        planned: &Planned,
        config: &Config,
    ) -> Result<(Arc<Root>, Adapter), Fault> {
        let prepared = build::prepared(planned, config, Use::Mount, &fleet.shared)?;
        let built = prepared.view()?;
        fleet.tell(&built.problems);
        let root = Arc::new(Root::new(built.view));
        let mut adapter = Adapter::new(root.clone(), fleet.pool.clone());
        if let Some(metrics) = &fleet.metrics {
            adapter = adapter.with_metrics(metrics.node(&root));
        }
        Ok((root, adapter))
    }

    fn mount_anew(self: &Arc<Self>, fleet: &Arc<Fleet>) -> Result<(), Fault> {
        let planned = self.wanted()?;
        let config = fleet.config();
        let (root, adapter) = self.adapter(fleet, &planned, &config)?;
        let counts = adapter.counts();
        let point = config.root.join(&self.name);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Fault::new(format!("{}: {what}: {error}", point.display()))
        };
        if fuse::clear_dead(&point).map_err(|e| failed("unmounting a dead root", &e))? {
            tracing::warn!(point = %point.display(), "a root that nobody serves any more was unmounted");
        }
        crate::sys::dir::make_all(&point).map_err(|e| failed("making the mount point", &e))?;
        if stores::is_mount_point(&point) {
            return Err(failed(
                "is in use",
                &"something is mounted there, unmount it",
            ));
        }
        let mounted = fuse::mount(adapter, &point, config.threads).map_err(Fault::new)?;
        let mount_id = match fuse::mount_id(&point) {
            Ok(id) => id,
            Err(error) => {
                self.unmount_unserved(&point);
                return Err(failed("looking at the mounted root", &error));
            }
        };
        let held = self
            .keep
            .hold(&self.name, mount_id, mounted.device(), mounted.state());
        let keys = match held {
            Ok(keys) => Arc::new(keys),
            Err(error) => {
                self.unmount_unserved(&point);
                return Err(failed("having it held", &error));
            }
        };
        mounted.set_keeper(keys.clone());
        let ready = Ready {
            mounted,
            root,
            counts,
            keys,
            point: point.clone(),
            mount_id,
            planned,
            config,
        };
        if let Err(error) = self.run(fleet, ready, true) {
            self.unmount_unserved(&point);
            return Err(failed("no thread to serve it", &error));
        }
        self.served(&point);
        Ok(())
    }

    /// Goes on with sessions that are in use without a mount.
    pub(super) fn go_on_without_mounts(self: &Arc<Self>, fleet: &Arc<Fleet>) {
        while let Some(left) = self.keep.take(&self.name, false) {
            if let Err(Fault { why, .. }) = self.go_on(fleet, left) {
                tracing::warn!(
                    node = self.name,
                    why,
                    "a root that was unmounted and is in use is not gone on with"
                );
                return;
            }
        }
    }

    /// Goes on with a session. Where that is not possible now, programs wait until it is.
    pub(super) fn go_on(self: &Arc<Self>, fleet: &Arc<Fleet>, left: Left) -> Result<(), Fault> {
        let config = fleet.config();
        let adapted = self
            .wanted()
            .and_then(|planned| Ok((self.adapter(fleet, &planned, &config)?, planned)));
        let ((root, adapter), planned) = match adapted {
            Ok(adapted) => adapted,
            Err(fault) => {
                self.keep.give_back(&self.name, left);
                // The tables that it was mounted by had an image.
                return Err(Fault {
                    lasting: false,
                    ..fault
                });
            }
        };
        let counts = adapter.counts();
        let keys = Arc::new(self.keep.keys_of(&left));
        let (live, mount_id) = (left.point.is_some(), left.mount_id);
        let point = left
            .point
            .clone()
            .unwrap_or_else(|| config.root.join(&self.name));
        let mounted = match fuse::adopt(adapter, left.into_parts(), keys.clone(), config.threads) {
            Ok(mounted) => mounted,
            Err(error) => {
                // Whoever has files open there loses them: there is nothing left to go on with.
                tracing::error!(node = self.name, %error, "the root can't be gone on with: it is mounted anew");
                if live {
                    self.unmount_unserved(&point);
                }
                drop(keys);
                return match live {
                    true => self.mount_anew(fleet),
                    false => Err(Fault::new(error)),
                };
            }
        };
        let ready = Ready {
            mounted,
            root,
            counts,
            keys,
            point: point.clone(),
            mount_id,
            planned,
            config,
        };
        if let Err(error) = self.run(fleet, ready, live) {
            self.unmount_unserved(&point);
            return Err(Fault::new(format!("no thread to serve it: {error}")));
        }
        if live {
            self.served(&point);
        }
        Ok(())
    }

    /// Serves a session on a thread of its own. `live`: it is what is mounted, not one that is in use
    /// without.
    fn run(self: &Arc<Self>, fleet: &Arc<Fleet>, ready: Ready, live: bool) -> io::Result<()> {
        let Ready {
            mounted,
            root,
            counts,
            keys,
            point,
            mount_id,
            planned,
            config,
        } = ready;
        fleet.pulse.add(&counts);
        let goes_on = mounted.goes_on();
        let notifier = mounted.notifier();
        let attached = Arc::new(fleet.shared.attach(root, point.clone(), notifier));
        let (running, ended) = bounded(0);
        let session = {
            let mut inner = self.inner.lock();
            inner.sessions += 1;
            let session = inner.sessions;
            match live {
                true => {
                    inner.leaving = false;
                    inner.live = Some(Live {
                        attached: attached.clone(),
                        io: mounted.io(),
                        planned,
                        config,
                        point,
                        mount_id,
                        session,
                        ended,
                    });
                }
                false => inner.detached.push(session),
            }
            session
        };
        let (node, fleet, told) = (self.clone(), fleet.clone(), attached.clone());
        let serve = move || {
            let ended = mounted.run();
            // Until here it is told of changes, also when it was detached before.
            drop(attached);
            drop(keys);
            node.session_ended(&fleet, session, ended);
            drop(running);
        };
        let thread = std::thread::Builder::new()
            .name("statelite-root".into())
            .stack_size(WAITER_STACK);
        if let Err(error) = thread.spawn(serve) {
            let mut inner = self.inner.lock();
            inner.live.take_if(|live| live.session == session);
            inner.detached.retain(|detached| *detached != session);
            return Err(error);
        }
        if goes_on {
            // What has changed in layers while nobody watched them was told to nobody.
            told.all_changed();
        }
        Ok(())
    }

    fn served(&self, point: &Path) {
        self.set(State::Serving, None);
        self.exporter.offer(&self.name, point);
        let mut inner = self.inner.lock();
        (inner.tries, inner.next_try, inner.pending) = (0, None, None);
    }

    /// Its session is gone or never was, so nothing waits in it.
    fn unmount_unserved(&self, point: &Path) {
        if let Err(error) = fuse::unmount_how(point, Leave::AtOnce) {
            tracing::error!(node = self.name, point = %point.display(), %error, "not unmounted");
        }
    }

    fn session_ended(self: &Arc<Self>, fleet: &Arc<Fleet>, session: u64, ended: io::Result<()>) {
        let mut inner = self.inner.lock();
        inner.detached.retain(|detached| *detached != session);
        if inner
            .live
            .as_ref()
            .is_none_or(|live| live.session != session)
        {
            return;
        }
        let live = inner.live.take();
        let leaving = std::mem::take(&mut inner.leaving);
        drop(inner);
        self.exporter.gone(&self.name);
        // The view goes here, not under the lock.
        drop(live);
        if leaving {
            return;
        }
        match ended {
            Ok(()) => {
                self.keep.unmounted(&self.name, true);
                self.set(
                    State::Unmounted,
                    Some("it was unmounted by another program, such as umount(8)".into()),
                );
            }
            Err(error) => {
                self.set(State::Retrying, Some(format!("its session ended: {error}")));
                self.try_later(fleet);
            }
        }
    }
}

/// Ends a session that nobody goes on with: its users' files fail.
pub(in crate::fleet::serve) fn end_left(keep: &Keep, node: &str, left: Left) {
    drop(keep.keys_of(&left));
    if let Some(point) = &left.point
        && let Err(error) = fuse::unmount_how(point, Leave::AtOnce)
    {
        tracing::error!(node, point = %point.display(), %error, "not unmounted");
    }
}
