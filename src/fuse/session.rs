//! A mount's session: its beginning, its run, and its going on where a worker before this one was
//! killed.
//!
//! The kernel's first request (FUSE_INIT) is read here and kept, and its answer told to the kernel
//! once. fuser gets a socket that already holds the request, answers there, and finds the device in
//! the socket's place from then on: so a session begins anew over a connection that never ended.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use fuser::{Config, Session, SessionACL};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Adapter, IoNow, MountError, Notifier, unmount};
use crate::fs::{Keeper, Root};
use crate::keep::State;
use crate::sys::fusemount;

/// More than any first request, and as the kernel wants it (FUSE_MIN_READ_BUFFER).
const READ: usize = 64 << 10;

/// A session that a worker before this one has left.
#[derive(Debug)]
pub struct Left {
    /// The connection.
    pub device: OwnedFd,
    /// What [`MountPoint::state`] was.
    pub state: OwnedFd,
    /// Objects without a name, as [`Keeper`] got them.
    pub objects: BTreeMap<u64, OwnedFd>,
    /// The worker that left it has crashed, and was not killed by somebody.
    pub crashed: bool,
}

/// A mounted view, not yet serving.
#[derive(Debug)]
pub struct MountPoint {
    session: Session<Adapter>,
    notifier: Notifier,
    io: Arc<IoNow>,
    root: Arc<Root>,
    device: Arc<OwnedFd>,
    state: Arc<State>,
    goes_on: bool,
}

fn refused(point: &Path) -> impl Fn(io::Error) -> MountError + '_ {
    |error| MountError::Kernel {
        path: point.into(),
        error,
    }
}

/// Mounts; requests wait until [`MountPoint::run`].
///
/// # Errors
/// [`MountError`], with the reason and what to do.
pub fn mount(adapter: Adapter, point: &Path, threads: usize) -> Result<MountPoint, MountError> {
    let failed = |error| MountError::Point {
        path: point.into(),
        error,
    };
    if !std::fs::metadata(point).map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
    }
    let source = format!("statelite:{}", adapter.name());
    let device = fusemount::mount(&source, point).map_err(|e| refused(point)(e.into()))?;
    begin(adapter, device, threads).or_else(|error| {
        unmount(point).map_err(|e| refused(point)(e.into()))?;
        Err(refused(point)(error))
    })
}

fn begin(adapter: Adapter, device: OwnedFd, threads: usize) -> io::Result<MountPoint> {
    let mut request = vec![0; READ];
    let len = loop {
        match rustix::io::read(&device, &mut request) {
            Ok(len) => break len,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let (device, state) = (Arc::new(device), Arc::new(State::create(&request[..len])?));
    let root = adapter.root();
    root.view().keep_in(state.clone());
    let io = adapter.io();
    let (session, answer) = session(adapter, &device, &state, threads)?;
    rustix::io::write(&*device, &answer)?;
    Ok(MountPoint {
        notifier: Notifier::new(device.clone()),
        session,
        io,
        root,
        device,
        state,
        goes_on: false,
    })
}

/// Takes up a session where another worker has left it, which had `keeper` hold its objects without a name: open files, objects without a name and
/// numbers are known, and what that worker had not answered comes again, once [`MountPoint::run`]
/// is called. The kernel's caches are to be told then that anything may have changed.
///
/// # Errors
/// The state is of another layout, or the kernel's.
pub fn adopt(
    adapter: Adapter,
    left: Left,
    keeper: Arc<dyn Keeper>,
    threads: usize,
) -> Result<MountPoint, MountError> {
    let name = adapter.name();
    adapter.root().view().set_keeper(keeper);
    go_on(adapter, left, threads).map_err(refused(Path::new(&name)))
}

fn go_on(adapter: Adapter, left: Left, threads: usize) -> io::Result<MountPoint> {
    let Left {
        device,
        state,
        objects,
        crashed,
    } = left;
    let (device, state) = (Arc::new(device), Arc::new(State::open(state)?));
    state.ended(crashed);
    let (root, io) = (adapter.root(), adapter.io());
    io.serve(device.clone(), state.clone());
    let backings = state
        .backings()
        .into_iter()
        .filter_map(|(id, noted)| Some((id, io.taken_over(id, noted)?)));
    // Those that nobody has open go with the end of this.
    let backings = backings.collect();
    root.view().go_on(state.clone(), &backings, objects);
    let (session, _) = session(adapter, &device, &state, threads)?;
    Ok(MountPoint {
        notifier: Notifier::new(device.clone()),
        session,
        io,
        root,
        device,
        state,
        goes_on: true,
    })
}

/// Could [`adopt`] go on with this?
///
/// # Errors
/// Why not.
pub fn check_state(state: BorrowedFd<'_>) -> io::Result<()> {
    State::check(state)
}

/// A session over the device, and what it answered to the first request.
fn session(
    adapter: Adapter,
    device: &Arc<OwnedFd>,
    state: &Arc<State>,
    threads: usize,
) -> io::Result<(Session<Adapter>, Vec<u8>)> {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(threads.max(1));
    // A clone of the device takes along what was read from it, when it is closed.
    config.clone_fd = false;
    // Nobody has set it: the adapter is mounted once.
    adapter
        .notifier
        .get_or_init(|| Notifier::new(device.clone()));
    adapter.io().serve(device.clone(), state.clone());
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&ours, &state.init(), SendFlags::empty())?;
    let place = theirs.as_raw_fd();
    let session = Session::from_fd(adapter, theirs, SessionACL::All, config)?;
    let mut answer = vec![0; READ];
    let (len, _) = rustix::net::recv(&ours, &mut answer[..], RecvFlags::DONTWAIT)?;
    answer.truncate(len);
    // The session owns `place`, and reads its next request there.
    fusemount::put_in_place(device.as_fd(), place)?;
    Ok((session, answer))
}

impl MountPoint {
    /// Tells the kernel of changes, also while [`MountPoint::run`] serves. To be dropped when that
    /// has returned: the mount's connection lives as long as it does.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Which way the kernel reads and writes, also later.
    pub fn io(&self) -> Arc<IoNow> {
        self.io.clone()
    }

    /// The connection: whoever holds it keeps the mount alive.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// What another worker needs to go on ([`Left`]).
    pub fn state(&self) -> BorrowedFd<'_> {
        self.state.as_fd()
    }

    /// Is it one that another worker has begun?
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Who holds objects without a name for another worker.
    pub fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        self.root.view().set_keeper(keeper);
    }

    /// Serves until the view is unmounted.
    ///
    /// # Errors
    /// What reading requests answers, other than that the view was unmounted.
    pub fn run(self) -> io::Result<()> {
        let MountPoint {
            session,
            notifier,
            goes_on,
            device,
            state,
            ..
        } = self;
        if goes_on && let Err(error) = notifier.resend() {
            tracing::error!(%error, "what was not answered does not come again");
        }
        drop((notifier, device, state));
        session.run()
    }
}
