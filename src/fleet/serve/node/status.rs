//! How a node is, for whoever asks.

use std::path::{Path, PathBuf};

use super::{Fleet, Live, Node};
use crate::control::{LayerStatus, NodeStatus, unix_seconds};
use crate::fleet::Planned;

impl Node {
    /// How it is. Looks at the layers, which takes long where a store hangs.
    pub(in crate::fleet::serve) fn status(&self, fleet: &Fleet) -> NodeStatus {
        let root = &fleet.config().root;
        let (mut status, live) = self.status_without_layers(root);
        if let Some(live) = live {
            let lifetime = live.config.cache_lifetime;
            let view = live.view();
            let layers = view.layers();
            status.layers = layers
                .iter()
                .map(|layer| LayerStatus {
                    layer: layer.spec().label.clone(),
                    path: layer_dir(layer.spec()),
                    missing: layer.missing(),
                    freshness: match (layer.is_upper(), layer.is_watched()) {
                        (true, _) => "its only writer".into(),
                        (false, true) => "watched".into(),
                        (false, false) => format!("{lifetime:?}"),
                    },
                    not_watched: fleet.shared.not_watched(layer),
                })
                .collect();
        }
        status
    }

    /// How it is, as far as that can be said at once.
    pub(in crate::fleet::serve) fn status_without_layers(
        &self,
        root: &Path,
    ) -> (NodeStatus, Option<Live>) {
        let inner = self.inner.lock();
        let live = inner.live.clone();
        let wanted = inner.wanted.as_ref().ok();
        let spec = live.as_ref().map(|live| &live.planned).or(wanted);
        let spec = spec.map(Planned::spec);
        let status = NodeStatus {
            node: self.name.clone(),
            state: inner.state,
            reason: inner.why.clone(),
            pending: inner.pending.clone(),
            since: unix_seconds(inner.since),
            mountpoint: live
                .as_ref()
                .map_or_else(|| root.join(&self.name), |live| live.point.clone()),
            image: spec.map(|spec| spec.image.name.clone()),
            layers: Vec::new(),
            io: live.as_ref().map(|live| live.io.mode().word().to_owned()),
            inodes: live.as_ref().map_or(0, |live| live.view().inode_count()),
            open: live.as_ref().map_or(0, |live| live.view().open_count()),
            detached: inner.detached.len(),
        };
        drop(inner);
        (status, live)
    }
}

fn layer_dir(spec: &crate::layer::LayerSpec) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    match &spec.sub {
        Some(sub) => spec.base.join(std::ffi::OsStr::from_bytes(sub)),
        None => spec.base.clone(),
    }
}
