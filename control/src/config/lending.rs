//! `[lease]` and `[fabric]`: when requests are lent, and what they travel over.

use std::path::Path;
use std::time::Duration;

use keyferry_decide::Policy;
use keyferry_fabric::verbs;
use keyferry_lease::{CREDITS_MAX, LEASES_MAX, message};

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Peers a node lends to, at most.
pub const PEERS_MAX: usize = 32;
/// Longest path of a Unix socket, in bytes: `sun_path` without its NUL (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Receives a queue pair keeps for what ends leases, whatever else is under way.
const RECEIVES_SPARE: u32 = 16;

/// When and how requests are lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who decides; [`Policy::Never`] unless the node's model is `bf`.
    pub policy: Policy,
    /// The key is sent with the request.
    pub eager: bool,
    /// Leases under way on one queue pair.
    pub leases: usize,
    /// Reply slots one lease may hold.
    pub credits: usize,
    /// Grant to claim.
    pub claim_timeout: Duration,
    /// Silence of a helper that may write.
    pub silence_timeout: Duration,
    /// How long a record stays in its reply slot while the client does not acknowledge it.
    pub slot_patience: Duration,
}

impl Lease {
    /// Goes by another table of the file. `fabric` is what queue pairs are made of; whose model is another one has another
    /// policy as well.
    pub(super) fn take_over(&mut self, new: &Lease, fabric: &Fabric, same_model: bool, ledger: &mut Ledger) {
        let Lease { policy, eager, leases, credits, claim_timeout, silence_timeout, slot_patience } = self;
        let key = match (*policy, new.policy) {
            (Policy::Threshold { .. }, Policy::Threshold { .. }) => "threshold_us",
            (Policy::Estimate { .. }, Policy::Estimate { .. }) => "move_cost_us",
            _ => "decide",
        };
        match same_model {
            true => ledger.live("[lease]", key, policy, &new.policy),
            false => *policy = new.policy,
        }
        ledger.live("[lease]", "eager", eager, &new.eager);
        ledger.fixed("[lease]", "leases", leases, &new.leases);
        let fits = credits_fit(new.credits, fabric);
        ledger.live_if(fits, "[lease]", "credits", credits, &new.credits);
        ledger.live("[lease]", "claim_timeout_ms", claim_timeout, &new.claim_timeout);
        ledger.live("[lease]", "silence_timeout_ms", silence_timeout, &new.silence_timeout);
        ledger.live("[lease]", "slot_patience_ms", slot_patience, &new.slot_patience);
    }
}

/// What queue pairs are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// The driver.
    pub driver: Driver,
    /// Where this node's queue pairs live: with `verbs`, and only then.
    pub address: Option<verbs::Address>,
    /// Largest message, in bytes: a lent request has to fit one.
    pub message_bytes: usize,
    /// Posted receives of a queue pair.
    pub receives: usize,
    /// Reply slots of a queue pair, one TLS record each.
    pub slots: u16,
}

/// A fabric driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Shared memory, between nodes on one machine.
    Shm,
    /// RDMA adapters.
    Verbs,
}

impl Fabric {
    /// What another table of the file would change.
    pub(super) fn compare(&self, new: &Fabric, ledger: &mut Ledger) {
        let Fabric { driver, address, message_bytes, receives, slots } = self;
        ledger.fixed("[fabric]", "driver", driver, &new.driver);
        ledger.fixed("[fabric]", "address", address, &new.address);
        ledger.fixed("[fabric]", "message_bytes", message_bytes, &new.message_bytes);
        ledger.fixed("[fabric]", "receives", receives, &new.receives);
        ledger.fixed("[fabric]", "slots", slots, &new.slots);
    }
}

/// Whether one lease may hold so many slots of such a queue pair.
fn credits_fit(credits: usize, fabric: &Fabric) -> bool {
    credits <= usize::from(fabric.slots) && credits + RECEIVES_SPARE as usize <= fabric.receives
}

#[derive(Clone, Copy)]
enum Decide {
    Never,
    Always,
    Threshold,
    Estimate,
}

const DECIDE: &[(&str, Decide)] = &[
    ("estimate", Decide::Estimate),
    ("threshold", Decide::Threshold),
    ("never", Decide::Never),
    ("always", Decide::Always),
];

pub(super) fn read_lease(mut section: Section<'_, '_>) -> Lease {
    let decide = section.choice("decide", DECIDE, Decide::Estimate);
    let move_cost_us = section.number("move_cost_us", 50, 0..=60_000_000);
    let us = section.number("threshold_us", 2000, 0..=60_000_000);
    let lease = Lease {
        policy: match decide {
            Decide::Never => Policy::Never,
            Decide::Always => Policy::Always,
            Decide::Threshold => Policy::Threshold { us },
            Decide::Estimate => Policy::Estimate { move_cost_us },
        },
        eager: section.flag("eager", false),
        leases: section.number("leases", 256, 1..=LEASES_MAX as u64),
        credits: section.number("credits", 16, 1..=CREDITS_MAX as u64),
        claim_timeout: section.millis("claim_timeout_ms", 5000, 1..=600_000),
        silence_timeout: section.millis("silence_timeout_ms", 2000, 1..=600_000),
        slot_patience: section.millis("slot_patience_ms", 100, 1..=600_000),
    };
    section.finish();
    lease
}

pub(super) fn read_fabric(mut section: Section<'_, '_>) -> Fabric {
    let driver = section.choice("driver", &[("shm", Driver::Shm), ("verbs", Driver::Verbs)], Driver::Shm);
    let wants =
        "an IP address of this host's RDMA port, or its device: \"10.0.0.1\", \"mlx5_0\" or \"mlx5_0:1\"";
    let address = section.parsed("address", wants, str::parse::<verbs::Address>);
    let address = match driver {
        Driver::Verbs => section.required("address", address, wants),
        Driver::Shm => {
            if address.is_some() {
                section.report(
                    "address",
                    "the shm driver has no address: leave it out, or write driver = \"verbs\"",
                );
            }
            None
        }
    };
    let fabric = Fabric {
        driver,
        address,
        message_bytes: section.number("message_bytes", 8192, 2048..=1 << 20),
        receives: section.number("receives", 512, 32..=32_768),
        slots: section.number("slots", 256, 1..=32_768),
    };
    section.finish();
    fabric
}

/// Whether the sizes of leases and queue pairs fit each other.
pub(super) fn check_sizes(context: &Context<'_>, lease: &Lease, fabric: &Fabric) {
    if lease.credits > usize::from(fabric.slots) {
        let what =
            format!("one lease may hold {} slots and a queue pair has {}", lease.credits, fabric.slots);
        context.report("lease.credits", format!("{what}: lower credits or raise [fabric] slots"));
    }
    // Every lease owes its peer at least two messages on the way to its end: a claim and a return, or go and revoke.
    let need = 2 * lease.leases;
    if need > fabric.receives {
        let what = format!(
            "{} leases need {need} receives and a queue pair posts {}",
            lease.leases, fabric.receives
        );
        context.report("lease.leases", format!("{what}: lower leases or raise [fabric] receives"));
    }
    let need = lease.credits + RECEIVES_SPARE as usize;
    if need > fabric.receives {
        let what = format!("{} are too few for one lease of {} records", fabric.receives, lease.credits);
        context.report("fabric.receives", format!("{what}: write at least {need}"));
    }
}

// The least message holds a grant and some request; a go with its key and a full slot list has to fit it too.
const _: () = assert!(message::GRANT_BYTES + keyferry_lease::channel::TAG_BYTES < 256);
const _: () = assert!(
    message::HEADER_BYTES
        + message::KEY_BYTES_MAX
        + 2 * CREDITS_MAX
        + keyferry_lease::channel::TAG_BYTES
        + 16
        <= 512
);

/// Whether a path can be a Unix socket's.
pub(super) fn check_socket(context: &Context<'_>, path: &str, socket: &Path) {
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES_MAX {
        let what = format!("{} is {bytes} bytes long", socket.display());
        context.report(path, format!("{what}: a socket's path has at most {SOCKET_PATH_BYTES_MAX}"));
    }
    if socket.is_dir() {
        context.report(path, format!("{} is a folder: name a file in it", socket.display()));
    }
}
