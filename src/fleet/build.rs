//! What is planned for a node, made into its view: stores mounted, layers opened.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plan::Planned;
use super::shared::Shared;
use super::stores::{self, StoreError};
use crate::config::{Config, Io, LitetreeDirectories, PersistentSeed, Whiteouts};
use crate::fs::{IoMode, Roles, TreeMode, View, ViewOptions, ViewSpec};
use crate::layer::machinery::Form;
use crate::layer::{FormChoice, Layer, LayerSpec, MountRule, UpperSpec};
use crate::sys::Errno;
use crate::tables::{LiteOption, Location, NodeSpec, Origin, Problem, RuleRow};

/// Why a node has no view.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The image is not there.
    #[error("node {node}: image {image} is missing: {why}; has genimage been run?")]
    Image {
        /// The node.
        node: String,
        /// The image's name.
        image: String,
        /// Its root tree, and what is wrong.
        why: String,
    },
    /// Something could not be mounted.
    #[error("node {node}: {error}")]
    Store {
        /// The node.
        node: String,
        /// What.
        error: StoreError,
    },
    /// A layer answered an error when it was tried out.
    #[error("node {node}: {why}")]
    View {
        /// The node.
        node: String,
        /// Which layer is missing, or what it answered.
        why: String,
    },
    /// More litetree rows than a view can stack.
    #[error("node {node}: {count} litetrees; at most 200 can be stacked")]
    TooMany {
        /// The node.
        node: String,
        /// How many.
        count: usize,
    },
}

/// What a view is to be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// To be mounted: the node's tmpfs is mounted, stores are filled.
    Mount,
    /// To be asked only: nothing is mounted or made; an upper that does not exist is empty.
    Look,
}

/// All that a planned node's view is made of, what it needs mounted.
#[derive(Debug)]
pub struct Prepared {
    /// For [`View::new`], or [`crate::fs::Root::replace`].
    pub spec: ViewSpec,
    /// What is missing now.
    pub problems: Vec<Problem>,
    rows: Arc<[Arc<RuleRow>]>,
}

/// A view and what was found on the way.
#[derive(Debug)]
pub struct Built {
    /// The view.
    pub view: View,
    /// Rows that were left out or look wrong, beside [`NodeSpec::problems`], and what is missing.
    pub problems: Vec<Problem>,
    /// The row behind each rule index of the view.
    pub rows: Arc<[Arc<RuleRow>]>,
}

/// Plans one node and builds its view.
///
/// # Errors
/// As [`planned_view`].
pub fn node_view(
    spec: &NodeSpec,
    config: &Config,
    purpose: Use,
    shared: &Shared,
) -> Result<Built, BuildError> {
    let planned = Planned::of(spec.clone(), config)?;
    let mut built = planned_view(&planned, config, purpose, shared)?;
    built.problems.splice(0..0, planned.faults());
    Ok(built)
}

/// Builds a planned node's view. Its problems are what is missing now; the others are
/// [`Planned::problems`].
///
/// # Errors
/// [`BuildError`]; a store that is not mounted is none: its zones answer EIO until it is.
pub fn planned_view(
    planned: &Planned,
    config: &Config,
    purpose: Use,
    shared: &Shared,
) -> Result<Built, BuildError> {
    prepared(planned, config, purpose, shared)?.view()
}

/// What a planned node's view is made of: its tmpfs is mounted where the view is to be.
///
/// # Errors
/// [`BuildError`], other than that a layer answers an error.
pub fn prepared(
    planned: &Planned,
    config: &Config,
    purpose: Use,
    shared: &Shared,
) -> Result<Prepared, BuildError> {
    let spec = &**planned.spec();
    let node = || spec.node.clone();
    let failed = |error| BuildError::Store {
        node: node(),
        error,
    };
    if spec.trees.len() > 200 {
        return Err(BuildError::TooMany {
            node: node(),
            count: spec.trees.len(),
        });
    }
    let image = image_layer(&spec.image.rootimg, shared).map_err(|why| BuildError::Image {
        node: node(),
        image: spec.image.name.clone(),
        why,
    })?;
    if purpose == Use::Mount {
        stores::ensure_tmpfs(config, spec).map_err(failed)?;
        if config.mount_remote {
            let trees = spec
                .trees
                .iter()
                .map(|tree| (&tree.location, &tree.mntopts));
            let store = spec
                .store
                .iter()
                .map(|store| (&store.location, &store.mntopts));
            for (location, mntopts) in trees.chain(store) {
                // A server that is down is no reason to have no view: its zones answer EIO.
                if let Err(error) = stores::ensure_remote(location, mntopts) {
                    tracing::warn!(node = spec.node, %error);
                }
            }
        }
    }
    let mut layers = vec![image];
    let mut roles = Roles {
        images: vec![0],
        ..Roles::default()
    };
    for (at, tree) in spec.trees.iter().enumerate() {
        roles.trees.push(layers.len() as u8);
        layers.push(shared.layer(LayerSpec {
            label: format!("litetree {}", at + 1),
            base: tree.location.path.clone(),
            sub: None,
            require_mount: mount_rule(&tree.location, config),
            optional: !tree.location.require_mount,
            upper: None,
        }));
    }
    let mut add = |layer: LayerSpec| {
        layers.push(shared.layer(layer));
        Some(layers.len() as u8 - 1)
    };
    roles.tmpfs = add(tmpfs_layer(spec, config, purpose));
    if let Some(store) = &spec.store {
        roles.persistent = add(LayerSpec {
            require_mount: mount_rule(&store.location, config),
            ..kept_layer("persistent", &store.location.path, spec, config, purpose)
        });
    }
    if let Some(dir) = &config.localdisk_dir {
        roles.localdisk = add(LayerSpec {
            require_mount: listed_mount(dir, config),
            ..kept_layer("localdisk", dir, spec, config, purpose)
        });
    }
    let problems = missing(spec, config, &layers, &roles);
    let spec = ViewSpec {
        name: node(),
        rules: planned.rules().clone(),
        layers,
        roles,
        texts: (planned.litefile().clone(), litetree_text(spec).into()),
        options: ViewOptions {
            lifetime: config.cache_lifetime,
            watched: purpose == Use::Mount && shared.is_watching(),
            trees: match config.litetree_directories {
                LitetreeDirectories::Merge => TreeMode::Merge,
                LitetreeDirectories::First => TreeMode::First,
            },
            eager_seed: purpose == Use::Mount && config.persistent_seed == PersistentSeed::Eager,
            io: io_mode(config),
        },
        cache: shared.cache().clone(),
    };
    Ok(Prepared {
        spec,
        problems,
        rows: planned.rows().clone(),
    })
}

impl Prepared {
    /// The view.
    ///
    /// # Errors
    /// [`BuildError::View`] with what its layers answer when they are tried out.
    pub fn view(self) -> Result<Built, BuildError> {
        let (node, layers) = (self.spec.name.clone(), self.spec.layers.clone());
        let view = View::new(self.spec).map_err(|error| BuildError::View {
            why: match error {
                Errno::BUSY => match super::reset::mounted_on(&node) {
                    Ok(Some(point)) => format!("it is mounted already, on {}", point.display()),
                    _ => "another process writes to its upper layers".into(),
                },
                error => why(&layers, error),
            },
            node,
        })?;
        Ok(Built {
            view,
            problems: self.problems,
            rows: self.rows,
        })
    }
}

/// Litetrees and stores that are not there now: no error, since they may come.
fn missing(spec: &NodeSpec, config: &Config, layers: &[Arc<Layer>], roles: &Roles) -> Vec<Problem> {
    let why = |layer: u8| {
        let layer = &layers[layer as usize];
        let why = layer.missing()?;
        Some(format!("the {} is missing: {why}", layer.spec().label))
    };
    let trees = roles
        .trees
        .iter()
        .zip(&spec.trees)
        .filter_map(|(layer, tree)| {
            let help = match tree.location.require_mount {
                true => "until it is mounted, what a rule governs answers EIO",
                false => "until it is there, it counts as empty",
            };
            Some(Problem::warning(tree.at.clone(), why(*layer)?, help))
        });
    let help = "until it is there, what it governs answers EIO";
    let store = roles
        .persistent
        .zip(spec.store.as_ref())
        .and_then(|(layer, store)| Some(Problem::warning(store.at.clone(), why(layer)?, help)));
    let disk = roles.localdisk.and_then(why).map(|why| {
        let at = Origin {
            file: config.tables.clone(),
            ..Origin::default()
        };
        Problem::warning(at, format!("localdisk_dir: {why}"), help)
    });
    trees.chain(store).chain(disk).collect()
}

/// The layer that is missing says it better than its errno.
pub(super) fn why(layers: &[Arc<Layer>], error: Errno) -> String {
    let missing = layers.iter().find_map(|layer| {
        layer
            .missing()
            .filter(|_| !layer.spec().optional)
            .map(|why| format!("the {} is missing: {why}", layer.spec().label))
    });
    missing.unwrap_or_else(|| match error {
        Errno::BUSY => "it is mounted already: another process writes to its uppers".into(),
        error => format!("trying out its layers: {error}"),
    })
}

/// The image's layer, or why it is not there.
pub(super) fn image_layer(rootimg: &Path, shared: &Shared) -> Result<Arc<Layer>, String> {
    let image = shared.layer(LayerSpec {
        label: "image".into(),
        base: rootimg.into(),
        sub: None,
        require_mount: None,
        optional: false,
        upper: None,
    });
    match image.missing() {
        None => Ok(image),
        Some(why) => Err(why),
    }
}

fn mount_rule(location: &Location, config: &Config) -> Option<MountRule> {
    let off = || MountRule::Off(remote_top(&config.remote_root));
    let needed = location.require_mount;
    needed.then(|| listed_mount(&location.path, config).unwrap_or_else(off))
}

/// The directory that everything remote is found below: `/net` of `/net/<host><path>`.
fn remote_top(remote_root: &str) -> PathBuf {
    let fixed = remote_root.split('<').next().unwrap_or_default();
    match fixed.rsplit_once('/') {
        Some((top, _)) if !top.is_empty() => top.into(),
        _ => "/".into(),
    }
}

/// The `require_mount` path at or above a directory; the longest is the nearest.
fn listed_mount(path: &Path, config: &Config) -> Option<MountRule> {
    let listed = config
        .require_mount
        .iter()
        .filter(|listed| path.starts_with(listed));
    listed
        .max_by_key(|listed| listed.as_os_str().len())
        .map(|at| MountRule::At(at.clone()))
}

/// How the configuration wants deletions kept.
pub fn form(config: &Config) -> FormChoice {
    match config.whiteouts {
        Whiteouts::Auto => FormChoice::Auto,
        Whiteouts::Device => FormChoice::Fixed(Form::Device),
        Whiteouts::File => FormChoice::Fixed(Form::File),
    }
}

/// Which way the configuration wants files read and written.
pub fn io_mode(config: &Config) -> IoMode {
    match config.io {
        Io::Passthrough => IoMode::Passthrough,
        Io::Cached => IoMode::Cached,
        Io::Daemon => IoMode::Daemon,
    }
}

fn tmpfs_layer(spec: &NodeSpec, config: &Config, purpose: Use) -> LayerSpec {
    let base = stores::tmpfs_point(config, &spec.node);
    LayerSpec {
        label: "tmpfs upper".into(),
        sub: Some(b"upper".to_vec()),
        // Without its mount, writes would fill the server's own file system.
        require_mount: (purpose == Use::Mount).then(|| MountRule::At(base.clone())),
        optional: purpose == Use::Look,
        upper: Some(UpperSpec {
            work: Some(base.clone()),
            form: form(config),
            durable: false,
            read_only: purpose == Use::Look,
        }),
        base,
    }
}

fn kept_layer(
    kind: &str,
    base: &Path,
    spec: &NodeSpec,
    config: &Config,
    purpose: Use,
) -> LayerSpec {
    LayerSpec {
        label: format!("{kind} upper"),
        base: base.into(),
        sub: Some(spec.node.clone().into_bytes()),
        require_mount: None,
        optional: false,
        upper: Some(UpperSpec {
            work: None,
            form: form(config),
            durable: true,
            read_only: purpose == Use::Look,
        }),
    }
}

/// A table's option word for an option.
pub fn option_word(row: &RuleRow) -> String {
    let word = row.option.word();
    match (row.link, row.option) {
        (true, LiteOption::Tmpfs) => "link".into(),
        (true, _) => format!("link,{word}"),
        (false, _) => word.into(),
    }
}

/// A rule's path as a table has it.
pub fn rule_path(row: &RuleRow) -> String {
    let path = String::from_utf8_lossy(&row.path);
    if row.dir && row.path != b"/" {
        format!("{path}/")
    } else {
        path.into_owned()
    }
}

fn litetree_text(spec: &NodeSpec) -> String {
    let mut text = String::from("#priority,directory\n");
    for tree in &spec.trees {
        // Writing to a String cannot fail.
        if writeln!(text, "\"{}\",\"{}\"", tree.priority, tree.location.text).is_err() {
            break;
        }
    }
    text
}
