//! `persistent_seed = "eager"`: as xCAT does, a persistent path is copied whole before its first
//! use, and nothing below it is looked at again.

use std::sync::Arc;

use super::resolve::Outcome;
use super::upper::Data;
use super::{Inode, View};
use crate::inode::id;
use crate::rules::{Zone, ZoneKind};
use crate::sys::Res;
use crate::tables::LiteOption;

impl View {
    pub(super) fn seed(&self) -> Res<()> {
        for zone in self.rules.zones() {
            if zone.kind == ZoneKind::Lite(LiteOption::Persistent) {
                self.seed_zone(zone)?;
            }
        }
        Ok(())
    }

    fn seed_zone(&self, zone: &Zone) -> Res<()> {
        let Some(upper) = self.roles.persistent else {
            return Ok(());
        };
        let mut held: Vec<Arc<Inode>> = vec![self.inode(id::ROOT)?];
        let path = self.rules.path(zone);
        let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let mut reached = Ok(());
        for name in names {
            match self.child(&held[held.len() - 1], name) {
                Ok(inode) => held.push(inode),
                Err(e) => {
                    reached = Err(e);
                    break;
                }
            }
        }
        let seeded = reached.and_then(|()| {
            let root = &held[held.len() - 1];
            let here = self.object(root)?;
            // Marked only when all of it is there: what a crash leaves half done is done again.
            let done = here.upper == Some(upper)
                && (!here.attr.stat.is_dir() || self.is_pure(&here, upper));
            if done {
                return Ok(());
            }
            tracing::info!(view = self.name, path = %String::from_utf8_lossy(&path), "seeding");
            self.seed_tree(root)?;
            let here = self.copy_up(root, Data::Whole)?;
            match self.reach(&here)? {
                Some(fd) if here.attr.stat.is_dir() => self.layers[upper as usize].mark_opaque(fd),
                _ => Ok(()),
            }
        });
        for inode in held.iter().rev() {
            self.forget(inode.number, 1);
        }
        seeded
    }

    fn child(&self, parent: &Arc<Inode>, name: &[u8]) -> Res<Arc<Inode>> {
        let entry = self.lookup(parent.number, name)?;
        self.inode(entry.attr.number)
    }

    fn seed_tree(&self, inode: &Arc<Inode>) -> Res<()> {
        let here = self.copy_up(inode, Data::Whole)?;
        if !here.attr.stat.is_dir() {
            return Ok(());
        }
        let dir = here.into_dir()?;
        for (name, ..) in self.list(&dir)? {
            let pos = self.rules.step(dir.pos, &name);
            if pos.zone != dir.pos.zone {
                continue;
            }
            match self.resolve(&dir, &name)? {
                Outcome::Here(here) => {
                    let (_, child) = self.enter(inode, &name, *here)?;
                    let seeded = self.seed_tree(&child);
                    self.forget(child.number, 1);
                    seeded?;
                }
                Outcome::Absent { .. } => {}
            }
        }
        Ok(())
    }
}
