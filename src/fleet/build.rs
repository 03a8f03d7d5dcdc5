//! What the tables say of a node, made into its view: layers opened, rule paths canonicalised in
//! the image, the rule tree compiled.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::stores::{self, StoreError};
use crate::config::{Config, LinkView, LitetreeDirectories, PersistentSeed, Whiteouts};
use crate::fs::{Roles, TreeMode, View, ViewOptions, ViewSpec};
use crate::layer::machinery::Form;
use crate::layer::{FormChoice, Layer, LayerSpec, MountRule, UpperSpec};
use crate::rules::{self, CompileOptions, Rule, compile};
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

/// A node's rules, compiled in its image: nothing is mounted or made yet.
#[derive(Debug)]
pub struct Compiled {
    image: Arc<Layer>,
    rules: rules::RuleTree,
    rows: Vec<RuleRow>,
    /// Rows that were left out, beside [`NodeSpec::problems`].
    pub problems: Vec<Problem>,
}

/// All that a view is made of, what it needs mounted.
#[derive(Debug)]
pub struct Prepared {
    /// For [`View::new`] or [`View::replace`].
    pub spec: ViewSpec,
    /// As [`Built::problems`].
    pub problems: Vec<Problem>,
    /// As [`Built::rows`].
    pub rows: Vec<RuleRow>,
}

/// A view and what was found on the way.
#[derive(Debug)]
pub struct Built {
    /// The view.
    pub view: View,
    /// Rows that were left out or look wrong, beside [`NodeSpec::problems`].
    pub problems: Vec<Problem>,
    /// The row behind each rule index of the view.
    pub rows: Vec<RuleRow>,
}

/// Builds a node's view.
///
/// # Errors
/// [`BuildError`]; a store that is not mounted is none: its zones answer EIO until it is.
pub fn node_view(spec: &NodeSpec, config: &Config, purpose: Use) -> Result<Built, BuildError> {
    let compiled = compiled(spec, config)?;
    prepared(spec, config, compiled, purpose)?.view(&spec.node)
}

/// The first half: what can be said without mounting or making anything.
///
/// # Errors
/// [`BuildError`] where the image is missing, or there are too many litetrees.
pub fn compiled(spec: &NodeSpec, config: &Config) -> Result<Compiled, BuildError> {
    if spec.trees.len() > 200 {
        return Err(BuildError::TooMany {
            node: spec.node.clone(),
            count: spec.trees.len(),
        });
    }
    let image = image_layer(spec)?;
    let mut problems = Vec::new();
    let (rules, rows) = rules_of(spec, config, &image, &mut problems)?;
    Ok(Compiled {
        image,
        rules,
        rows,
        problems,
    })
}

/// The second half: the node's tmpfs mounted where the view is to be, and the layers found.
///
/// # Errors
/// [`BuildError::Store`].
pub fn prepared(
    spec: &NodeSpec,
    config: &Config,
    compiled: Compiled,
    purpose: Use,
) -> Result<Prepared, BuildError> {
    let node = || spec.node.clone();
    let failed = |error| BuildError::Store {
        node: node(),
        error,
    };
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
    let Compiled {
        image,
        rules,
        rows,
        mut problems,
    } = compiled;
    let mut layers = vec![image];
    let mut roles = Roles {
        images: vec![0],
        ..Roles::default()
    };
    for (at, tree) in spec.trees.iter().enumerate() {
        roles.trees.push(layers.len() as u8);
        layers.push(Arc::new(Layer::new(LayerSpec {
            label: format!("litetree {}", at + 1),
            base: tree.location.path.clone(),
            sub: None,
            require_mount: mount_rule(&tree.location, config),
            optional: !tree.location.require_mount,
            upper: None,
        })));
    }
    let mut add = |layer: LayerSpec| {
        layers.push(Arc::new(Layer::new(layer)));
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
    problems.extend(missing(spec, config, &layers, &roles));
    let spec = ViewSpec {
        name: node(),
        rules,
        layers,
        roles,
        texts: (litefile_text(&rows), litetree_text(spec)),
        options: ViewOptions {
            lifetime: config.cache_lifetime,
            trees: match config.litetree_directories {
                LitetreeDirectories::Merge => TreeMode::Merge,
                LitetreeDirectories::First => TreeMode::First,
            },
            eager_seed: purpose == Use::Mount && config.persistent_seed == PersistentSeed::Eager,
        },
    };
    Ok(Prepared {
        spec,
        problems,
        rows,
    })
}

impl Prepared {
    /// The view.
    ///
    /// # Errors
    /// [`BuildError::View`] with what its layers answer when they are tried out.
    pub fn view(self, node: &str) -> Result<Built, BuildError> {
        let layers = self.spec.layers.clone();
        let view = View::new(self.spec).map_err(|error| BuildError::View {
            node: node.into(),
            why: match (error, super::reset::mounted_on(node)) {
                (Errno::BUSY, Ok(Some(point))) => {
                    format!("it is mounted already, on {}", point.display())
                }
                (Errno::BUSY, _) => "another process writes to its upper layers".into(),
                _ => why(&layers, error),
            },
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
fn why(layers: &[Arc<Layer>], error: Errno) -> String {
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

fn image_layer(spec: &NodeSpec) -> Result<Arc<Layer>, BuildError> {
    let image = Arc::new(Layer::new(LayerSpec {
        label: "image".into(),
        base: spec.image.rootimg.clone(),
        sub: None,
        require_mount: None,
        optional: false,
        upper: None,
    }));
    match image.missing() {
        None => Ok(image),
        Some(why) => Err(BuildError::Image {
            node: spec.node.clone(),
            image: spec.image.name.clone(),
            why,
        }),
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

/// Rows to rules: paths canonicalised in the image, what cannot be reported and left out.
fn rules_of(
    spec: &NodeSpec,
    config: &Config,
    image: &Arc<Layer>,
    problems: &mut Vec<Problem>,
) -> Result<(rules::RuleTree, Vec<RuleRow>), BuildError> {
    let bare = View::new(ViewSpec {
        name: spec.image.name.clone(),
        rules: compile(&[], &CompileOptions::default()),
        layers: vec![image.clone()],
        roles: Roles {
            images: vec![0],
            ..Roles::default()
        },
        texts: Default::default(),
        options: ViewOptions {
            lifetime: Duration::from_secs(1),
            trees: TreeMode::Merge,
            eager_seed: false,
        },
    });
    let bare = bare.map_err(|error| BuildError::View {
        node: spec.node.clone(),
        why: why(std::slice::from_ref(image), error),
    })?;
    let mut seen = std::collections::HashMap::<Vec<u8>, Origin>::new();
    let (mut rules, mut rows) = (Vec::new(), Vec::new());
    for row in spec.rules.iter() {
        let shown = String::from_utf8_lossy(&row.path);
        let mut problem = |message: String, help: &str| {
            problems.push(Problem::error(row.at.clone(), message, help));
        };
        match row.option {
            LiteOption::Persistent if spec.store.is_none() => {
                problem(
                    format!("{shown} is persistent, but node {} has no store", spec.node),
                    "add a row for the node to the statelite table",
                );
                continue;
            }
            LiteOption::Localdisk if config.localdisk_dir.is_none() => {
                problem(
                    format!("{shown} is localdisk, but there is no localdisk_dir"),
                    "set localdisk_dir in the configuration",
                );
                continue;
            }
            _ => {}
        }
        let path = match bare.canonical(&row.path, row.dir) {
            Ok(path) => path,
            Err(e) => {
                problem(
                    format!("{shown} cannot be in image {}: {e}", spec.image.name),
                    "a directory on the way is a file, or a loop of symlinks, in the image",
                );
                continue;
            }
        };
        if let Some(first) = seen.get(&path) {
            let path = String::from_utf8_lossy(&path);
            problem(
                format!("{shown} is /{path} in the image, which {first} has a rule for already"),
                "remove one of the two rows",
            );
            continue;
        }
        seen.insert(path.clone(), row.at.clone());
        rules.push(Rule {
            path,
            dir: row.dir,
            option: row.option,
            link: row.link,
        });
        rows.push(row.clone());
    }
    let options = CompileOptions {
        node: spec.node.clone().into_bytes(),
        link_view: match config.link_view {
            LinkView::File => rules::LinkView::File,
            LinkView::Symlink => rules::LinkView::Symlink,
        },
        compat_dirs: config.compat_dirs,
        mtab: true,
        persistent: spec.store.is_some(),
    };
    Ok((compile(&rules, &options), rows))
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

fn litefile_text(rows: &[RuleRow]) -> String {
    let mut text = String::from("#file,options\n");
    for row in rows {
        // Writing to a String cannot fail.
        if writeln!(text, "\"{}\",\"{}\"", rule_path(row), option_word(row)).is_err() {
            break;
        }
    }
    text
}

fn litetree_text(spec: &NodeSpec) -> String {
    let mut text = String::from("#priority,directory\n");
    for tree in &spec.trees {
        if writeln!(text, "\"{}\",\"{}\"", tree.priority, tree.location.text).is_err() {
            break;
        }
    }
    text
}
