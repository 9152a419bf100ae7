//! What a process may do is given up once it has what it needed it for: its port, its sockets, its memory. In: whom it is to be.
//! Out: what it keeps. Called once by the control thread, before any thread of ours starts; those have what it has then.
//!
//! Nothing is kept, but the right to lock memory (`CAP_IPC_LOCK`) where the limit of locked memory cannot be lifted: memory is
//! locked as it is taken (`memory.rs`), which would fail beyond the limit. Nobody needs more later: packets come through
//! sockets, queues and mappings that are open, and files are read with the rights of the user.
//!
//! DPDK has a thread of its own for interrupts, which gives up the same. A driver may have more; they are named in the log if
//! they keep anything.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, bail};
use keyferry_nic::dpdk;
use nix::unistd::{Uid, User, initgroups, setresgid, setresuid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
};
use tracing::{info, warn};

use crate::config::{Admin, Cluster};
use crate::links::Address;

/// Gives up everything but what has to be kept, and becomes `user` where one is named and root started this process.
///
/// # Errors
/// There is no such user, or the system refuses; the sentence says what to do.
pub(crate) fn give_up(admin: &Admin, cluster: Option<&Cluster>) -> anyhow::Result<()> {
    let kept = kept();
    let user = admin.user.as_deref().map(find).transpose()?.flatten();
    bind().context("capabilities cannot be bounded: does a sandbox forbid prctl?")?;
    dpdk::on_interrupt_thread(|| {
        // What is wrong here is seen in what its thread keeps.
        let _ = bind();
    });
    if let Some(user) = &user {
        let cannot = || format!("admin.user: this process cannot become {}", user.name);
        for socket in sockets(admin, cluster) {
            chown(socket, Some(user.uid.as_raw()), Some(user.gid.as_raw())).with_context(cannot)?;
        }
        set_keep_capabilities(!kept.is_empty()).with_context(cannot)?;
        let dumpable = dumpable_behavior().with_context(cannot)?;
        become_user(user).with_context(cannot)?;
        // Of who has become another user the kernel decides anew whether there may be core dumps.
        set_dumpable_behavior(dumpable).with_context(cannot)?;
    }
    limit_to(kept).context("capabilities cannot be given up: does a sandbox forbid capset?")?;
    dpdk::on_interrupt_thread(move || {
        let _ = limit_to(kept);
    });
    let who = user.map_or_else(|| Uid::current().to_string(), |user| user.name);
    info!(user = who, kept = %names(kept), "gave up what it needs no more");
    let left: Vec<String> = others_with_more(kept).collect();
    if !left.is_empty() {
        warn!(
            "these threads of drivers keep capabilities: {}; they started with those of whoever started this process: name \
             a user (admin.user), or start it as one",
            left.join(", ")
        );
    }
    Ok(())
}

/// Whether there is a user of this name, as far as can be known.
pub(crate) fn is_user(name: &str) -> bool {
    !matches!(User::from_name(name), Ok(None))
}

/// What cannot be given up.
fn kept() -> CapabilitySet {
    let none = Rlimit { current: None, maximum: None };
    let limit = getrlimit(Resource::Memlock);
    if limit.current.is_none() || setrlimit(Resource::Memlock, none).is_ok() {
        return CapabilitySet::empty();
    }
    let now = capabilities(None).map_or(CapabilitySet::empty(), |now| now.permitted);
    now & CapabilitySet::IPC_LOCK
}

/// The user of this name, if this process is to become somebody else.
fn find(name: &str) -> anyhow::Result<Option<User>> {
    let found = User::from_name(name).context("admin.user: users cannot be read")?;
    let Some(user) = found else {
        bail!(
            "admin.user: there is no user {name}: make one with `adduser --system --group --no-create-home {name}`, or name \
             another"
        );
    };
    if user.uid == Uid::current() && user.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        bail!(
            "admin.user: only root can become {name}: start this process as root, or as {name}, or leave the key out"
        );
    }
    Ok(Some(user))
}

/// Sockets that others of that user connect to, and that it removes at its end.
fn sockets<'a>(admin: &'a Admin, cluster: Option<&'a Cluster>) -> impl Iterator<Item = &'a Path> {
    let listen = cluster.into_iter().flat_map(|cluster| &cluster.listen);
    let of_links = listen.filter_map(|address| match address {
        Address::Unix(path) => Some(path.as_path()),
        Address::Tcp(_) => None,
    });
    of_links.chain([admin.socket.as_path()])
}

/// All threads of the process change, which is why this is not rustix's.
fn become_user(user: &User) -> nix::Result<()> {
    let name = std::ffi::CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    initgroups(&name, user.gid)?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)
}

/// No program that this thread starts ever gets more than it has.
fn bind() -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            // The kernel does not know it, or whoever started us has bounded it and left us no right to.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::PERM) => break,
            Err(error) => return Err(error),
        }
    }
    match clear_ambient_capability_set() {
        Err(error) if error != Errno::INVAL => Err(error),
        _ => Ok(()),
    }
}

/// This thread has no more from here on.
fn limit_to(kept: CapabilitySet) -> rustix::io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
}

/// Threads of this process that have more, by name.
fn others_with_more(kept: CapabilitySet) -> impl Iterator<Item = String> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(Result::ok);
    threads.filter_map(move |thread| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        let permitted = u64::from_str_radix(&field("CapPrm:")?, 16).ok()?;
        (permitted & !kept.bits() != 0).then(|| field("Name:").unwrap_or_default())
    })
}

/// As capabilities(7) calls them.
fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_is_not_there_is_named_with_what_to_do() {
        let error = find("no-such-user-here").unwrap_err().to_string();
        assert!(error.contains("admin.user: there is no user no-such-user-here: make one"), "{error}");
    }

    #[test]
    fn who_it_is_already_it_need_not_become() {
        let own = User::from_uid(Uid::current()).unwrap().unwrap();
        assert!(find(&own.name).unwrap().is_none());
    }

    #[test]
    fn a_thread_gives_up_what_it_has_and_its_children_have_no_more() {
        let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
        let thread = std::thread::spawn(move || {
            bind().unwrap();
            limit_to(CapabilitySet::empty()).unwrap();
            let child = std::thread::spawn(status).join().unwrap();
            [status(), child]
        });
        for status in thread.join().unwrap() {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
            }
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        }
    }

    #[test]
    fn what_is_kept_is_named() {
        assert_eq!(names(CapabilitySet::empty()), "nothing");
        assert_eq!(names(CapabilitySet::IPC_LOCK | CapabilitySet::NET_RAW), "CAP_NET_RAW, CAP_IPC_LOCK");
    }
}
