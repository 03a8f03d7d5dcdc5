//! A node that is to go by other rules.

use std::sync::Arc;

use super::{Fleet, Live, Node, Wanted, Went, changes};
use crate::config::Config;
use crate::control::{Outcome, State};
use crate::fleet::{Planned, Use, build, stores};
use crate::fuse::Leave;

impl Node {
    /// Goes by other rules from now on. The first word is false where the root had to be mounted
    /// anew for that.
    pub(in crate::fleet::serve) fn change(
        self: &Arc<Self>,
        fleet: &Arc<Fleet>,
        wanted: Wanted,
    ) -> (bool, Went) {
        self.inner.lock().wanted = wanted.clone();
        match self.work() {
            Ok(_work) => self.adopt(fleet, wanted),
            Err(went) => {
                self.put_off(fleet, went.message.clone().unwrap_or_default());
                (true, went)
            }
        }
    }

    pub(super) fn adopt(self: &Arc<Self>, fleet: &Arc<Fleet>, wanted: Wanted) -> (bool, Went) {
        let Some(live) = self.live() else {
            let went = match self.state() {
                State::Unmounted => Went::says(
                    Outcome::Already,
                    "it is unmounted; it counts when it is mounted",
                ),
                _ => self.mount_now(fleet),
            };
            return (true, went);
        };
        let planned = match wanted {
            Ok(planned) => planned,
            Err(fault) => {
                self.put_off(fleet, fault.why.clone());
                return (true, Went::says(Outcome::Failed, fault.why));
            }
        };
        let config = fleet.config();
        if changes::need_remount(&live.config, &config) {
            let went = self.leave(Leave::Idle);
            if went.outcome != Outcome::Done {
                let why = went.message.clone().unwrap_or_default();
                self.put_off(fleet, format!("it has to be mounted anew, and {why}"));
                return (false, went);
            }
            return (false, self.mount_now(fleet));
        }
        let (before, after) = (
            (&**live.planned.spec(), &*live.config),
            (&**planned.spec(), &*config),
        );
        let done = match changes::same_view(before, after) {
            // Its size, that is.
            true => stores::ensure_tmpfs(&config, planned.spec())
                .map(drop)
                .map_err(|error| error.to_string()),
            false => replace(fleet, &live, &planned, &config),
        };
        if let Err(why) = done {
            self.put_off(fleet, why.clone());
            return (true, Went::says(Outcome::Failed, why));
        }
        let mut inner = self.inner.lock();
        (inner.tries, inner.next_try, inner.pending) = (0, None, None);
        if let Some(live) = &mut inner.live {
            (live.planned, live.config) = (planned, config);
        }
        (true, Went::plain(Outcome::Done))
    }

    /// The root goes on by what it has; the new rules are tried again.
    fn put_off(&self, fleet: &Arc<Fleet>, why: String) {
        let mut inner = self.inner.lock();
        if inner.pending.as_ref() != Some(&why) {
            tracing::warn!(node = self.name, why, "new rules are not in force yet");
        }
        inner.pending = Some(why);
        drop(inner);
        self.try_later(fleet);
    }
}

/// The same mount, inodes and open files, by other rules and layers.
fn replace(
    fleet: &Fleet,
    live: &Live,
    planned: &Planned,
    config: &Arc<Config>,
) -> Result<(), String> {
    let prepared = build::prepared(planned, config, Use::Mount, &fleet.shared)
        .map_err(|error| error.to_string())?;
    fleet.tell(&prepared.problems);
    let root = live.attached.root();
    root.replace(prepared.spec)
        .map_err(|error| format!("the new rules could not be taken: {error}"))?;
    live.attached.all_changed();
    Ok(())
}
