//! Keeps what an NFS server exports in step with the roots that are mounted.
//!
//! Owns: the file of `export`, and who was told of which mount. May not: mount or unmount.
//!
//! An NFS server holds what it exports, so a root is taken from it before it is unmounted, and one
//! that was mounted anew is taken from it once before it is given again: it would go on with the old
//! mount otherwise. Lock order: `writing`, which is held across I/O, then `state`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::Fleet;
use super::loaded::Loaded;
use crate::config::{Config, Export};
use crate::control::ExportStatus;
use crate::nfs::{self, NodeRoot, Roots, Server};
use crate::tables::Problem;

/// Changes that follow one another are written together.
const PAUSE: Duration = Duration::from_millis(100);
/// What failed is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the kernel's server has to forget what it knows: each request of the last moments counts a second.
const FORGETTING: Duration = Duration::from_secs(8);
/// How long NFS-Ganesha has to let go of a mount.
const RELEASE: Duration = Duration::from_secs(2);

/// A mounted root: where, and the device number of the mount.
type Mounted = BTreeMap<String, (PathBuf, Device)>;
type Device = (u32, u32);

#[derive(Debug)]
struct State {
    loaded: Arc<Loaded>,
    mounted: Mounted,
    dirty: bool,
    /// What became of the last try.
    status: Option<ExportStatus>,
    problems: Vec<Problem>,
}

/// What was written, and for which mounts.
#[derive(Debug, Default)]
struct Written {
    to: Option<(Server, PathBuf)>,
    mounts: Mounted,
    /// The server does not know of the last change yet.
    untold: bool,
    /// When the kernel's server was last made to forget what it knew.
    forgot: Option<Instant>,
}

/// One daemon's exports.
#[derive(Debug)]
pub(super) struct Exporter {
    state: Mutex<State>,
    changed: Condvar,
    writing: Mutex<Written>,
}

impl Exporter {
    pub(super) fn new(loaded: Arc<Loaded>) -> Arc<Exporter> {
        Arc::new(Exporter {
            state: Mutex::new(State {
                loaded,
                mounted: Mounted::new(),
                // What a killed daemon has left is not what is mounted now.
                dirty: true,
                status: None,
                problems: Vec::new(),
            }),
            changed: Condvar::new(),
            writing: Mutex::default(),
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.dirty = true;
        drop(state);
        self.changed.notify_one();
    }

    /// A root is mounted, and its session runs.
    pub(super) fn offer(&self, node: &str, point: &Path) {
        let device = match device(point) {
            Ok(device) => device,
            Err(error) => {
                tracing::warn!(node, point = %point.display(), %error, "a root that can't be looked at is not exported");
                return;
            }
        };
        self.change(|state| {
            let mount = (point.to_owned(), device);
            state.mounted.insert(node.to_owned(), mount);
        });
    }

    /// A root is not mounted any more.
    pub(super) fn gone(&self, node: &str) {
        self.change(|state| drop(state.mounted.remove(node)));
    }

    /// Takes roots from the server, that they may be unmounted.
    pub(super) fn withdraw<'n>(&self, nodes: impl IntoIterator<Item = &'n str>) {
        let mut state = self.state.lock();
        let mut any = false;
        for node in nodes {
            any |= state.mounted.remove(node).is_some();
        }
        state.dirty |= any;
        drop(state);
        if any {
            self.settle();
        }
    }

    /// Whether the kernel's server was made to forget what was withdrawn before `since`: a root that is in
    /// use may not be, then. For an entry that was looked up just now, what exportfs does is no more than a wish.
    pub(super) fn forgets(&self, since: Instant) -> bool {
        let mut written = self.writing.lock();
        if !matches!(written.to, Some((Server::Kernel, _))) {
            return false;
        }
        if written.forgot.is_some_and(|forgot| forgot >= since) {
            return true;
        }
        let forgot = nfs::forget(FORGETTING).unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel's NFS server may still hold a root that is not exported any more");
            false
        });
        if forgot {
            written.forgot = Some(Instant::now());
        }
        forgot
    }

    /// Other tables, or another configuration.
    pub(super) fn reloaded(&self, loaded: Arc<Loaded>) {
        self.change(|state| state.loaded = loaded);
    }

    /// How it is, where something is exported. What is not written yet is not in step: who mounts a root by
    /// NFS before it is given again is told that its handles are stale.
    pub(super) fn status(&self) -> Option<ExportStatus> {
        let writing = self.writing.try_lock().is_none();
        let state = self.state.lock();
        let unwritten = || {
            let (_, file) = target(&state.loaded.config)?;
            Some(ExportStatus {
                file,
                nodes: 0,
                error: None,
            })
        };
        let mut status = state.status.clone().or_else(unwritten)?;
        if (writing || state.dirty) && status.error.is_none() {
            status.error = Some("they are being written".into());
        }
        Some(status)
    }

    /// Writes what has changed, now; what fails is logged, and tried again later.
    pub(super) fn settle(&self) {
        let mut written = self.writing.lock();
        let (loaded, mounted) = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.dirty) {
                return;
            }
            (state.loaded.clone(), state.mounted.clone())
        };
        let config = &loaded.config;
        let to = target(config);
        let went = bring_into_step(&mut written, &to, &loaded, mounted);
        let mut state = self.state.lock();
        let (problems, error) = match went {
            Ok(problems) => (problems, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        for problem in &problems {
            if !state.problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        let before = state
            .status
            .as_ref()
            .and_then(|status| status.error.as_ref());
        if let Some(error) = &error {
            if before != Some(error) {
                tracing::error!(error, "the exports are not in step; it is tried again");
            }
            state.dirty = true;
        }
        state.problems = problems;
        state.status = to.map(|(_, file)| ExportStatus {
            file,
            nodes: written.mounts.len(),
            error,
        });
    }
}

/// Runs until the daemon stops.
pub(super) fn run(fleet: &Arc<Fleet>) {
    let exporter = &fleet.exporter;
    while !fleet.is_stopping() {
        let mut state = exporter.state.lock();
        if !state.dirty {
            exporter.changed.wait(&mut state);
        }
        let failing = state
            .status
            .as_ref()
            .is_some_and(|status| status.error.is_some());
        drop(state);
        std::thread::sleep(if failing { AGAIN } else { PAUSE });
        if !fleet.is_stopping() {
            exporter.settle();
        }
    }
}

/// Who is told, and by which file.
fn target(config: &Config) -> Option<(Server, PathBuf)> {
    let server = match config.export {
        Export::None => return None,
        Export::Exports => Server::Kernel,
        Export::Ganesha => Server::Ganesha,
    };
    Some((server, server.file(config).to_owned()))
}

fn bring_into_step(
    written: &mut Written,
    to: &Option<(Server, PathBuf)>,
    loaded: &Loaded,
    mounted: Mounted,
) -> Result<Vec<Problem>, String> {
    let config = &loaded.config;
    // Another server than before: the old one lets go of everything.
    if let Some((server, file)) = written.to.clone()
        && written.to != *to
    {
        written.untold = true;
        write(server, &file, &[], config, &mut written.untold)?;
        *written = Written::default();
    }
    let Some((server, file)) = to else {
        return Ok(Vec::new());
    };
    let names: Vec<String> = mounted.keys().cloned().collect();
    let mut roots = Roots::of(&loaded.tables, config, &names, false);
    for root in &mut roots.nodes {
        if let Some((point, _)) = mounted.get(&root.boot.node) {
            root.path.clone_from(point);
        }
    }
    written.untold |= written.to.is_none();
    written.to.clone_from(to);
    let leaving: Vec<(PathBuf, Device)> = written
        .mounts
        .iter()
        .filter(|(node, mount)| mounted.get(*node) != Some(*mount))
        .map(|(_, mount)| mount.clone())
        .collect();
    if !leaving.is_empty() {
        let kept: Vec<NodeRoot> = roots
            .nodes
            .iter()
            .filter(|root| {
                let node = &root.boot.node;
                written.mounts.contains_key(node) && written.mounts.get(node) == mounted.get(node)
            })
            .cloned()
            .collect();
        written.untold = true;
        write(*server, file, &kept, config, &mut written.untold)?;
        written
            .mounts
            .retain(|node, mount| mounted.get(node) == Some(mount));
        match server {
            Server::Ganesha => {
                let devices: Vec<Device> = leaving.iter().map(|(_, device)| *device).collect();
                wait_for_release(config, &devices)?;
            }
            Server::Kernel => let_go(&leaving),
        }
    }
    write(*server, file, &roots.nodes, config, &mut written.untold)?;
    let exported: HashSet<&str> = roots.nodes.iter().map(|root| &*root.boot.node).collect();
    written.mounts = mounted
        .into_iter()
        .filter(|(node, _)| exported.contains(node.as_str()))
        .collect();
    let mut problems = roots.problems;
    if *server == Server::Ganesha {
        problems.extend(nfs::minor_versions(config));
    }
    Ok(problems)
}

/// Tells the server what it does not know.
fn write(
    server: Server,
    file: &Path,
    roots: &[NodeRoot],
    config: &Config,
    untold: &mut bool,
) -> Result<(), String> {
    let text = match server {
        Server::Kernel => nfs::exports(roots),
        Server::Ganesha => {
            let before = nfs::read(file).map_err(|error| error.to_string())?;
            nfs::ganesha(roots, &before).map_err(|error| error.to_string())?
        }
    };
    *untold |= nfs::install(file, &text).map_err(|error| error.to_string())?;
    if *untold {
        let told = nfs::tell(server, config).map_err(|error| error.to_string())?;
        *untold = false;
        tracing::debug!(file = %file.display(), nodes = roots.len(), ?told, "exports written");
    }
    Ok(())
}

/// Where nfsd keeps what clients hold, the mount is busy, as any that is in use: whoever unmounts is told.
fn let_go(leaving: &[(PathBuf, Device)]) {
    for (point, mounted) in leaving {
        // What is mounted there by now may be another root, which is given again in a moment.
        if device(point).ok() != Some(*mounted) {
            continue;
        }
        if let Err(error) = nfs::let_go(point) {
            tracing::warn!(point = %point.display(), %error, "the kernel's NFS server may still hold a root that is not exported any more");
        }
    }
}

/// The device number, without a request to the root's own session.
fn device(path: &Path) -> Result<Device, rustix::io::Errno> {
    let found = rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// NFS-Ganesha says nothing when it has read its file: it has when it holds none of those mounts.
fn wait_for_release(config: &Config, devices: &[Device]) -> Result<(), String> {
    let pid = nfs::ganesha_pid(&config.ganesha_pid).map_err(|error| error.to_string())?;
    let Some(pid) = pid else {
        return Ok(());
    };
    let held = PathBuf::from(format!("/proc/{}/fd", pid.as_raw_nonzero()));
    let end = Instant::now() + RELEASE;
    loop {
        // A process that ends meanwhile holds nothing.
        let files = std::fs::read_dir(&held).into_iter().flatten().flatten();
        let mut devices_held = files.filter_map(|file| device(&file.path()).ok());
        if !devices_held.any(|device| devices.contains(&device)) {
            return Ok(());
        }
        if Instant::now() >= end {
            tracing::warn!(pid = %pid.as_raw_nonzero(), "NFS-Ganesha still holds a root that is not exported any more");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
