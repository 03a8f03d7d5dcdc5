//! Which privileges this process keeps (capabilities(7)).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::{Errno, Res};

/// What a process that serves roots uses: to mount, to hand files to the kernel and to watch
/// (SYS_ADMIN, DAC_READ_SEARCH); to be who asks and to make whatever nodes make (up to SETGID); to
/// give up the others, and to end commands of the tables. A mount.nfs that it starts (`mount_remote`)
/// has a port of its own. Not SYS_RESOURCE: with it, what nodes write would count for no quota.
const USED: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    // To see which files NFS-Ganesha, a process with more rights, has open (`fleet::serve::export`).
    .union(CapabilitySet::SYS_PTRACE);

/// Gives up, for this thread and all that it starts from now on, every capability that serving does
/// not use, and that any program could gain more than it is started with.
///
/// # Errors
/// prctl(2)'s and capset(2)'s.
pub fn confine() -> Res<()> {
    set_no_new_privs(true)?;
    let now = capabilities(None)?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(USED).iter() {
            match remove_capability_from_bounding_set(capability) {
                // This kernel does not have it.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    clear_ambient_capability_set()?;
    let kept = CapabilitySets {
        effective: now.effective.intersection(USED),
        permitted: now.permitted.intersection(USED),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)
}

/// As [`confine`], and puts aside all that is left: only a program that this process starts has it.
///
/// # Errors
/// prctl(2)'s and capset(2)'s.
pub fn hold() -> Res<()> {
    confine()?;
    let now = capabilities(None)?;
    let effective = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, ..now })
}

/// Every open file of a view is a descriptor here: as many as the kernel allows, or else as the
/// hard limit does.
///
/// # Errors
/// setrlimit(2)'s: the limit stays as it was.
pub fn raise_descriptors() -> Res<()> {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|n| n.trim().parse().ok());
    let set = |most| {
        let (current, maximum) = (most, most);
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
    };
    let hard = getrlimit(Resource::Nofile).maximum;
    // Without CAP_SYS_RESOURCE the hard limit stays where it is.
    set(most.or(hard)).or_else(|_| set(hard))
}
