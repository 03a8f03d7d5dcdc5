//! What a reboot of a node does to its root.

use std::sync::Arc;

use super::{Fault, Fleet, Node, Went};
use crate::config::Config;
use crate::control::{Boot, Outcome};
use crate::fleet::reset::{self, ResetError};
use crate::fs::View;
use crate::fuse::Leave;

/// A reset that waits until the root before has ended: a request that has not been answered yet may
/// still write to the upper.
#[derive(Debug)]
pub(super) struct Waiting {
    config: Arc<Config>,
    /// The root's, where it was mounted.
    view: Option<Arc<View>>,
    boot: Option<Boot>,
}

impl Node {
    /// Empties its tmpfs upper; a mounted root only with `force` or for a boot, and it is mounted again.
    pub(in crate::fleet::serve) fn reset(
        self: &Arc<Self>,
        fleet: &Arc<Fleet>,
        force: bool,
        boot: Option<&Boot>,
    ) -> Went {
        let _work = match self.work() {
            Ok(work) => work,
            Err(went) => return went,
        };
        let was = self.live();
        let config = was
            .as_ref()
            .map_or_else(|| fleet.config(), |live| live.config.clone());
        if let Some(boot) = boot {
            match reset::is_done(&config, &self.name, boot) {
                Ok(false) => {}
                Ok(true) => return Went::says(Outcome::Already, "it was reset for this boot"),
                Err(error) => return Went::says(Outcome::Failed, error.to_string()),
            }
        }
        if let Some(live) = &was {
            if !force && boot.is_none() {
                let mounted = ResetError::Mounted {
                    node: self.name.clone(),
                    point: live.point.clone(),
                };
                return Went::says(Outcome::Busy, mounted.to_string());
            }
            // As in a reboot, nobody keeps what was open: two views would write to one upper.
            let went = self.leave(Leave::AtOnce);
            if !matches!(went.outcome, Outcome::Done | Outcome::Detached) {
                return went;
            }
        }
        let again = {
            let mut inner = self.inner.lock();
            // One that waits already has the view that may yet write.
            let before = inner.reset.take().and_then(|waiting| waiting.view);
            let view = was.as_ref().map(|live| live.view()).or(before);
            let again = view.is_some();
            let boot = boot.cloned();
            inner.reset = Some(Waiting { config, view, boot });
            again
        };
        let emptied = self.catch_up();
        if again {
            let again = self.mount_now(fleet);
            if again.outcome == Outcome::Failed {
                return again;
            }
        }
        match emptied {
            Ok(true) => Went::plain(Outcome::Done),
            Ok(false) => Went::plain(Outcome::Already),
            Err(fault) => Went::says(Outcome::Failed, fault.why),
        }
    }

    /// Does the reset that waits, if there is one. Says whether there was anything to empty.
    pub(super) fn catch_up(&self) -> Result<bool, Fault> {
        let waiting = {
            let mut inner = self.inner.lock();
            let Some(waiting) = inner.reset.take() else {
                return Ok(false);
            };
            if waiting.view.is_some() && !inner.detached.is_empty() {
                inner.reset = Some(waiting);
                return Err(Fault::new(
                    "its root before has not ended, and it is to be reset: a store or an image may hang",
                ));
            }
            waiting
        };
        let emptied = reset::empty(&waiting.config, &self.name);
        // The next view has the same layers, which would go on with directories that are gone.
        for layer in waiting.view.iter().flat_map(|view| view.layers()) {
            layer.let_go_of(b"");
        }
        let emptied = emptied.map_err(Fault::new)?;
        if let Some(boot) = &waiting.boot {
            reset::note(&waiting.config, &self.name, boot).map_err(Fault::new)?;
        }
        Ok(emptied)
    }
}
