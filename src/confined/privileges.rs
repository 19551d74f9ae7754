//! Capabilities: those that mounts need, and giving them up.

use std::io;

use rustix::process::setpriority_process;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

/// The capabilities that root keeps: the same as in a Docker container.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// The niceness of the programs that run first.
const FIRST: i32 = -20;

/// Whether this process may make mounts without a new user namespace.
pub(super) fn may_mount() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Keeps the capability to make mounts in the next program of a user other than root.
pub(super) fn keep_for_mounts() -> io::Result<()> {
    let kept = CapabilitySet::SYS_ADMIN;
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: kept, ..sets })?;
    Ok(configure_capability_in_ambient_set(kept, true)?)
}

/// Gives up for good all capabilities that undo a mount or reach into other processes. Programs that this
/// process starts do not have the one that [`raise_priority`] needs either.
pub(super) fn give_up() -> io::Result<()> {
    clear_ambient_capability_set()?;
    let sets = capabilities(None)?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(OF_ROOT).iter() {
            match remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not know.
                Err(rustix::io::Errno::INVAL) => {}
                done => done?,
            }
        }
    }
    keep(sets.permitted.intersection(OF_ROOT.union(CapabilitySet::SYS_NICE)))
}

/// Has this process run before all others that are ready, if it may: thousands of them must not keep the
/// watch from ending them. Processes that it starts afterwards would run before others, too.
pub(super) fn raise_priority() -> io::Result<()> {
    let permitted = capabilities(None)?.permitted;
    if permitted.contains(CapabilitySet::SYS_NICE) {
        setpriority_process(None, FIRST)?;
        keep(permitted.difference(CapabilitySet::SYS_NICE))?;
    }
    Ok(())
}

fn keep(kept: CapabilitySet) -> io::Result<()> {
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?)
}
