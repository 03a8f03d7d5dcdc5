//! A view without tables: directories on top of one another, all of it writable, as overlayfs has
//! it. A `/` rule over these directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::shared::Shared;
use crate::fs::{IoMode, Roles, TreeMode, View, ViewOptions, ViewSpec};
use crate::layer::{FormChoice, LayerSpec, UpperSpec};
use crate::rules::{CompileOptions, Rule, compile};
use crate::tables::LiteOption;

/// What is to be mounted.
#[derive(Clone, Debug)]
pub struct PlainSpec {
    /// Read-only directories, the first on top.
    pub lower: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// A directory on the upper's file system.
    pub work: PathBuf,
    /// For how long what was found is believed.
    pub lifetime: Duration,
    /// How deletions are kept.
    pub form: FormChoice,
    /// Which way the kernel reads and writes.
    pub io: IoMode,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// A directory is missing or not usable.
    #[error("{what} {path}: {why}")]
    Layer {
        /// `--lower`, `--upper` or `--work`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Too many.
    #[error("{0} lower directories; at most 200 can be stacked")]
    TooMany(usize),
    /// The store refused to be tried out.
    #[error("{path}: {error}; {}", upper_hint(.error))]
    Upper {
        /// The upper.
        path: PathBuf,
        /// What it answered.
        error: crate::sys::Errno,
    },
}

fn upper_hint(error: &crate::sys::Errno) -> &'static str {
    match *error {
        crate::sys::Errno::BUSY => "another mount writes to this upper",
        _ => "the upper must be on a file system that can be written to",
    }
}

/// Builds the view.
///
/// # Errors
/// [`PlainError`] where a directory is missing, or upper and work are on different file systems.
pub fn plain_view(spec: &PlainSpec, shared: &Shared) -> Result<View, PlainError> {
    let spec = &spec.absolute()?;
    if spec.lower.len() > 200 {
        return Err(PlainError::TooMany(spec.lower.len()));
    }
    for lower in &spec.lower {
        check_dir("--lower", lower)?;
    }
    let upper = check_dir("--upper", &spec.upper)?;
    let work = check_dir("--work", &spec.work)?;
    use std::os::unix::fs::MetadataExt;
    if upper.dev() != work.dev() {
        return Err(PlainError::Layer {
            what: "--work",
            path: spec.work.clone(),
            why: format!(
                "is on another file system than --upper {}; both must be on one, since files move \
                 between them by rename",
                spec.upper.display()
            ),
        });
    }
    let lower = |(at, path): (usize, &PathBuf)| LayerSpec {
        label: format!("lower {}", at + 1),
        base: path.clone(),
        sub: None,
        require_mount: None,
        optional: false,
        upper: None,
    };
    let mut layers: Vec<LayerSpec> = spec.lower.iter().enumerate().map(lower).collect();
    let images = (0..layers.len()).map(|at| at as u8).collect();
    layers.push(LayerSpec {
        label: "upper".into(),
        base: spec.upper.clone(),
        sub: None,
        require_mount: None,
        optional: false,
        upper: Some(UpperSpec {
            work: Some(spec.work.clone()),
            form: spec.form,
            durable: survives_power_cut(&spec.upper),
            read_only: false,
        }),
    });
    let tmpfs = Some(layers.len() as u8 - 1);
    let rule = Rule {
        path: Vec::new(),
        dir: true,
        option: LiteOption::Tmpfs,
        link: false,
    };
    View::new(ViewSpec {
        name: spec.upper.display().to_string(),
        rules: compile(&[rule], &CompileOptions::default()),
        layers: layers.into_iter().map(|spec| shared.layer(spec)).collect(),
        roles: Roles {
            images,
            tmpfs,
            ..Roles::default()
        },
        texts: Default::default(),
        options: ViewOptions {
            lifetime: spec.lifetime,
            watched: shared.is_watching(),
            trees: TreeMode::Merge,
            eager_seed: false,
            io: spec.io,
        },
        cache: shared.cache().clone(),
    })
    .map_err(|error| PlainError::Upper {
        path: spec.upper.clone(),
        error,
    })
}

impl PlainSpec {
    /// The process in the background leaves the directory that relative paths are meant in. Where
    /// symlinks lead is found out once for an upper: a later one in its place is not followed.
    fn absolute(&self) -> Result<PlainSpec, PlainError> {
        let failed = |what, path: &PathBuf, why: String| PlainError::Layer {
            what,
            path: path.clone(),
            why,
        };
        let real = |what, path: &PathBuf| {
            std::fs::canonicalize(path)
                .map_err(|e| failed(what, path, format!("{e}; it must be an existing directory")))
        };
        let absolute = |what, path: &PathBuf| {
            std::path::absolute(path).map_err(|e| failed(what, path, e.to_string()))
        };
        Ok(PlainSpec {
            lower: self
                .lower
                .iter()
                .map(|path| absolute("--lower", path))
                .collect::<Result<_, _>>()?,
            upper: real("--upper", &self.upper)?,
            work: real("--work", &self.work)?,
            ..self.clone()
        })
    }
}

fn check_dir(what: &'static str, path: &Path) -> Result<std::fs::Metadata, PlainError> {
    let failed = |why: String| PlainError::Layer {
        what,
        path: path.into(),
        why,
    };
    let found = std::fs::metadata(path)
        .map_err(|e| failed(format!("{e}; it must be an existing directory")))?;
    if found.is_dir() {
        Ok(found)
    } else {
        Err(failed("is not a directory".into()))
    }
}

/// f_type of what is lost with the power anyway (include/uapi/linux/magic.h).
const VOLATILE: [u64; 2] = [0x0102_1994, 0x8584_58f6];

fn survives_power_cut(upper: &Path) -> bool {
    rustix::fs::statfs(upper).is_ok_and(|fs| !VOLATILE.contains(&(fs.f_type as u64)))
}
