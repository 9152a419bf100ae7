//! Why a queue pair cannot be had: sentences that say what to do. Control thread, at set-up.

use std::io;

use super::choose::ChooseError;
use super::host::LinkLayer;
use super::offer::OfferError;
use crate::LimitsError;

/// Why there is no queue pair.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// No port fits.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// The device went away between being listed and being opened, or has no user-space driver here.
    #[error(
        "{device} cannot be used from this process: its user-space driver is missing (install ibverbs-providers), or \
         it has just been removed"
    )]
    NoDriver {
        /// Device.
        device: String,
    },
    /// The device's file may not be opened.
    #[error(
        "{device} may not be opened: let this user read and write /dev/infiniband/uverbs* (a container needs the \
         devices passed in)"
    )]
    Permission {
        /// Device.
        device: String,
    },
    /// The device's file is not there.
    #[error(
        "{device} has no file in /dev/infiniband: load ib_uverbs (modprobe ib_uverbs), and in a container pass the devices in"
    )]
    NoFile {
        /// Device.
        device: String,
    },
    /// Memory cannot be mapped.
    #[error(
        "{bytes} bytes for a queue pair cannot be had ({source}): free some memory, or lower [fabric] receives or slots"
    )]
    Memory {
        /// How much.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory cannot be pinned.
    #[error(
        "{bytes} bytes cannot be pinned for {device}: the limit of locked memory is {limit} (raise it: ulimit -l \
         unlimited, or LimitMEMLOCK=infinity in the service's unit)"
    )]
    LockedMemory {
        /// How much.
        bytes: usize,
        /// Device.
        device: String,
        /// The limit, in bytes, or "unlimited".
        limit: String,
    },
    /// The device takes fewer work requests than the configuration wants.
    #[error(
        "{device} takes {most} work requests a queue pair and {need} are needed: lower [fabric] receives or slots"
    )]
    QueueDepth {
        /// Device.
        device: String,
        /// Its limit.
        most: usize,
        /// What the limits ask for.
        need: usize,
    },
    /// The device sends too few bytes inline.
    #[error(
        "{device} sends at most {most} bytes inline and a load word has {need}: name another device in [fabric] address"
    )]
    Inline {
        /// Device.
        device: String,
        /// What it can.
        most: u32,
        /// What is needed.
        need: u32,
    },
    /// Another call failed.
    #[error("{call} on {device}: {source}: look at the end of dmesg")]
    Call {
        /// The call, by its name in libibverbs.
        call: &'static str,
        /// Device.
        device: String,
        /// What it said.
        source: io::Error,
    },
    /// The peer's offer is no offer.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// One end has InfiniBand and the other Ethernet below.
    #[error(
        "this node's port is {ours} and the peer's is {theirs}: name ports of one network in both [fabric] address"
    )]
    LinkLayer {
        /// Here.
        ours: LinkLayer,
        /// There.
        theirs: LinkLayer,
    },
    /// The limits agreed are of no use.
    #[error("agreed limits: {0}: check [fabric] of both nodes")]
    Limits(#[from] LimitsError),
}

impl VerbsError {
    /// What kept a device from being opened.
    pub(super) fn of_opening(name: &str, error: io::Error) -> VerbsError {
        let device = name.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied => VerbsError::Permission { device },
            io::ErrorKind::NotFound => VerbsError::NoFile { device },
            _ => VerbsError::Call { call: "ibv_open_device", device, source: error },
        }
    }

    /// Unless a queue pair of this device takes so many work requests.
    pub(super) fn check_depth(name: &str, most: usize, need: usize) -> Result<(), VerbsError> {
        let too_few = || VerbsError::QueueDepth { device: name.to_owned(), most, need };
        if need > most { Err(too_few()) } else { Ok(()) }
    }

    /// Unless it sends so many bytes inline.
    pub(super) fn check_inline(name: &str, most: u32, need: usize) -> Result<(), VerbsError> {
        let too_few = || VerbsError::Inline { device: name.to_owned(), most, need: need as u32 };
        if (most as usize) < need { Err(too_few()) } else { Ok(()) }
    }

    /// Unless both ends' ports are of one kind.
    pub(super) fn check_networks(ours: LinkLayer, theirs: LinkLayer) -> Result<(), VerbsError> {
        if ours == theirs { Ok(()) } else { Err(VerbsError::LinkLayer { ours, theirs }) }
    }

    /// What kept memory from being registered.
    pub(super) fn of_registering(bytes: usize, name: &str, error: io::Error) -> VerbsError {
        let device = name.to_owned();
        match error.kind() {
            // ENOMEM is how the kernel says that the limit of locked memory is reached.
            io::ErrorKind::OutOfMemory => {
                VerbsError::LockedMemory { bytes, device, limit: locked_memory_limit() }
            }
            _ => VerbsError::Call { call: "ibv_reg_mr", device, source: error },
        }
    }
}

fn locked_memory_limit() -> String {
    match rustix::process::getrlimit(rustix::process::Resource::Memlock).current {
        Some(bytes) => format!("{bytes} bytes"),
        None => "unlimited".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_kernel_refuses_says_what_to_do() {
        let opening = |errno: Errno| VerbsError::of_opening("mlx5_0", errno.into()).to_string();
        assert!(opening(Errno::ACCESS).contains("mlx5_0 may not be opened: let this user read and write"));
        assert!(opening(Errno::PERM).contains("/dev/infiniband/uverbs*"));
        assert!(opening(Errno::NOENT).contains("load ib_uverbs (modprobe ib_uverbs)"));
        assert!(opening(Errno::IO).starts_with("ibv_open_device on mlx5_0: Input/output error"));
        let registering = |errno: Errno| VerbsError::of_registering(4096, "mlx5_0", errno.into()).to_string();
        assert!(registering(Errno::NOMEM).starts_with("4096 bytes cannot be pinned for mlx5_0"));
        assert!(registering(Errno::NOMEM).contains("ulimit -l unlimited"));
        assert!(registering(Errno::INVAL).contains("look at the end of dmesg"));
    }
    #[test]
    fn what_an_adapter_cannot_do_says_what_to_do() {
        let refused = |outcome: Result<(), VerbsError>| outcome.expect_err("it cannot").to_string();
        assert!(VerbsError::check_depth("mlx5_0", 96, 96).is_ok());
        let said = refused(VerbsError::check_depth("mlx5_0", 96, 97));
        assert_eq!(
            said,
            "mlx5_0 takes 96 work requests a queue pair and 97 are needed: lower [fabric] receives or slots"
        );
        assert!(VerbsError::check_inline("mlx5_0", 64, 64).is_ok());
        let said = refused(VerbsError::check_inline("mlx5_0", 60, 64));
        assert!(
            said.starts_with("mlx5_0 sends at most 60 bytes inline and a load word has 64: name another"),
            "{said}"
        );
    }

    #[test]
    fn ports_of_two_networks_are_told_apart() {
        let kinds = [LinkLayer::InfiniBand, LinkLayer::Ethernet];
        assert!(kinds.into_iter().all(|kind| VerbsError::check_networks(kind, kind).is_ok()));
        let error = VerbsError::check_networks(LinkLayer::InfiniBand, LinkLayer::Ethernet);
        assert_eq!(
            error.expect_err("they cannot meet").to_string(),
            "this node's port is InfiniBand and the peer's is Ethernet: name ports of one network in both [fabric] address"
        );
    }
}
