//! Counters of one app thread's upstreams.
//!
//! Written by that thread alone, published by its loop.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Requests begun.
    Requests,
    /// Replies that came whole.
    Replies,
    /// Connections opened.
    Connections,
    /// Requests sent over a connection that was kept.
    Reused,
    /// Requests sent again because a kept connection had ended.
    Repeated,
    /// Requests for which another server was tried.
    Elsewhere,
    /// Requests that waited for a connection.
    Queued,
    /// Connections that went on as WebSockets.
    Upgrades,
    /// Of them, those that ended because nothing was said for too long.
    UpgradesIdle,
    /// Servers left out after failures in a row.
    LeftOut,
    /// Health checks that failed.
    ChecksFailed,
    /// Servers that health checks took out.
    Fell,
    /// Servers that health checks brought back.
    Rose,
    /// No connection: refused, or unreachable.
    Connect,
    /// No connection in time.
    ConnectLate,
    /// The connection ended before a reply.
    Broken,
    /// No reply in time.
    ReplyLate,
    /// The body of the request was not taken in time.
    BodyLate,
    /// What came is no reply.
    Garbled,
    /// Its head is too large.
    HeadTooLarge,
    /// The body ended before its end.
    Cut,
    /// The body stood still for too long.
    Stalled,
    /// As many requests as may wait did.
    QueueFull,
    /// A request waited for too long.
    QueueLate,
    /// No server is well.
    NoServer,
    /// A target that cannot be sent on.
    Target,
}

/// How the counters are called; `upstream_failed_*` are requests that were not answered whole, by why.
pub const NAMES: &[&str] = &[
    "upstream_requests",
    "upstream_replies",
    "upstream_connections",
    "upstream_reused",
    "upstream_repeated",
    "upstream_elsewhere",
    "upstream_queued",
    "upstream_upgrades",
    "upstream_upgrades_idle",
    "upstream_left_out",
    "upstream_checks_failed",
    "upstream_fell",
    "upstream_rose",
    "upstream_failed_connect",
    "upstream_failed_connect_late",
    "upstream_failed_broken",
    "upstream_failed_reply_late",
    "upstream_failed_body_late",
    "upstream_failed_garbled",
    "upstream_failed_head_too_large",
    "upstream_failed_cut",
    "upstream_failed_stalled",
    "upstream_failed_queue_full",
    "upstream_failed_queue_late",
    "upstream_failed_no_server",
    "upstream_failed_target",
];

/// What they count, in their order.
pub const HELP: &[&str] = &[
    "Requests for an upstream.",
    "Replies of origin servers that came whole.",
    "Connections opened to origin servers.",
    "Requests sent over a connection that was kept.",
    "Requests sent again because a kept connection had ended.",
    "Requests for which another server was tried, as one took no connection.",
    "Requests that waited for a connection.",
    "Connections that went on as WebSockets.",
    "WebSockets that ended because neither side said anything for too long.",
    "Servers left out after failures in a row.",
    "Health checks that failed.",
    "Servers that health checks took out.",
    "Servers that health checks brought back.",
    "Requests: a server takes no connection.",
    "Requests: a server took no connection in time.",
    "Requests: the connection ended before the reply.",
    "Requests: the reply did not come in time.",
    "Requests: the server did not take the body in time.",
    "Requests: the reply was none of HTTP.",
    "Requests: the head of the reply was too large.",
    "Requests: the reply ended before its end.",
    "Requests: the reply stood still for too long.",
    "Requests: as many as may wait for a connection did.",
    "Requests: no connection was free in time.",
    "Requests: health checks have found every server ill.",
    "Requests: a target that cannot be sent on.",
];

const _: () = assert!(NAMES.len() == HELP.len());
const _: () = assert!(NAMES.len() == Count::Target as usize + 1);

/// The counters.
#[derive(Debug)]
pub struct Tally([AtomicU64; NAMES.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

impl Tally {
    pub(crate) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Their values, in the order of [`NAMES`].
    pub fn values(&self) -> [u64; NAMES.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// One of them; 0 if there is none of that name.
    pub fn value(&self, name: &str) -> u64 {
        let place = NAMES.iter().position(|known| *known == name);
        place.map_or(0, |place| self.0[place].load(Ordering::Relaxed))
    }
}
