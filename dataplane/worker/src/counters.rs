//! What a worker counts. Plain numbers with one writer; the worker copies them to where control reads them.
//!
//! Link and TCP count for themselves, each drop and each end of a connection by its reason, and [`latency`] each reply by
//! the time it took; [`names`] and [`append`] put theirs behind the worker's own.

use std::sync::OnceLock;

use crate::latency::{self, Latency};
use crate::tls_counters::TlsCounters;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counters and gauges of one worker.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Names, in the order of [`values`](Counters::values).
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),+];

            /// What each of [`NAMES`](Counters::NAMES) counts, in one or two sentences.
            pub const HELP: &'static [&'static str] = &[$(concat!($($doc),+)),+];

            /// Values, in the order of [`NAMES`](Counters::NAMES).
            pub fn values(&self) -> [u64; Counters::NAMES.len()] {
                [$(self.$name),+]
            }
        }
    };
}

counters! {
    /// Requests fully received from clients here, or begun while their bodies came. Each ends as one of the next four.
    requests,
    /// Replies made and sealed here.
    replies_local,
    /// Replies a helper sealed and this node sent.
    replies_lent,
    /// Requests answered here without the application, or for it: redirects, 500, 501, 502, 503.
    requests_answered,
    /// Requests whose connection ended before their reply.
    requests_dropped,
    /// Replies made here without the application: those above, and refusals of what was no whole request. Each is
    /// redirected, or refused for one of the next reasons.
    replies_own,
    /// Requests to the plain listener, answered with a redirect.
    redirected,
    /// Requests refused (400): request line or fields not well-formed.
    refused_syntax,
    /// Requests refused (505): neither HTTP/1.0 nor HTTP/1.1.
    refused_version,
    /// Requests refused (431): request line and fields too long, or too many fields.
    refused_head_too_large,
    /// Requests refused (414): target too long.
    refused_target_too_long,
    /// Requests refused (400): not exactly one good Host.
    refused_host,
    /// Requests refused (400): Content-Length invalid or said more than once.
    refused_content_length,
    /// Requests refused (400): Content-Length and Transfer-Encoding.
    refused_both_lengths,
    /// Requests refused (501): a transfer coding besides chunked.
    refused_transfer_encoding,
    /// Requests refused (400): chunked not once, not last, or in HTTP/1.0.
    refused_framing,
    /// Requests refused (400): chunks not well-formed.
    refused_chunk,
    /// Requests refused (413): body too large.
    refused_body_too_large,
    /// Requests refused (501): CONNECT.
    refused_method,
    /// Requests refused (417): an expectation other than 100-continue.
    refused_expectation,
    /// Requests refused (408): not whole in time.
    refused_late,
    /// Requests refused (503): no buffer, or the application has too many.
    refused_busy,
    /// Requests refused (502): a helper gave no answer, and they may not run twice.
    refused_lost,
    /// Requests refused (500): the application failed before it gave a reply.
    refused_failed,
    /// Requests refused (501): a WebSocket of an application that is no upstream.
    refused_upgrade,
    /// Requests whose bodies came while they ran.
    uploads,
    /// Bytes of such bodies given to the application.
    upload_bytes,
    /// Of those requests, ones given up because no more of the body came in time.
    uploads_late,
    /// Ones whose client ended its side before the body was whole.
    uploads_cut,
    /// Ones whose reply ended before the body was whole; the rest is discarded, and the connection ends.
    uploads_unread,
    /// Connections that went on in another protocol.
    upgrades,
    /// Bytes their clients sent in it.
    upgraded_bytes,
    /// Leases granted to helpers. Each ends as a reply lent, refused, failed, broken or dropped.
    leases_granted,
    /// Leases taken back because the client's connection ended first.
    leases_dropped,
    /// Leases offered to this node as a helper. Each ends as one of the next five.
    leases_taken,
    /// Leases returned whole by this node as a helper.
    leases_served,
    /// Leases this node declined.
    leases_declined,
    /// Leases revoked before this node had returned them.
    leases_revoked,
    /// Leases returned by this node without a whole reply.
    leases_spoiled,
    /// Leases that ended here with their queue pair.
    leases_lost,
    /// Leases under way, as lender.
    leases_open,
    /// Leases under way, as helper.
    leases_serving,
    /// Grants the helper declined; the requests ran here.
    leases_refused,
    /// Leases that ended before go because the helper was late or lost; the requests ran here or got a 502.
    leases_failed,
    /// Leases that ended after go without a whole reply; their connections were reset.
    leases_broken,
    /// Queue pairs ended because the peer broke the protocol; by reason in the next four.
    peer_violations,
    /// Queue pairs ended by a message that was forged, replayed or out of order.
    violations_forged,
    /// Queue pairs ended by a message that was sealed well and is no message.
    violations_malformed,
    /// Queue pairs ended by a message that gave back receives never used.
    violations_credit,
    /// Queue pairs ended by a message, record or doorbell that does not fit its lease.
    violations_lease,
    /// Queue pairs ended: the peer asked for answers and gave no receives for them.
    violations_flood,
    /// Times that other settings were taken over.
    settings_taken,
    /// Queue pairs lost.
    peers_lost,
    /// Queue pairs ready.
    peers_ready,
    /// Requests kept: lending is off or there is no peer.
    kept_off,
    /// Requests kept: this node ends.
    kept_draining,
    /// Requests kept: they cannot be lent.
    kept_not_lendable,
    /// Requests kept: they asked to stay.
    kept_pinned,
    /// Requests kept: no peer is connected, takes requests and has room for one.
    kept_no_peer,
    /// Requests kept: no peer that could take them has a fresh load word.
    kept_stale,
    /// Requests kept: a slot of the application is free here.
    kept_idle,
    /// Requests kept: little work waits here.
    kept_light,
    /// Requests kept: no peer is lighter by the threshold, or a move costs more than it saves.
    kept_balanced,
    /// Requests lent because the policy is `always`.
    moved_forced,
    /// Requests lent to a peer lighter by the threshold.
    moved_lighter,
    /// Requests lent to a peer where they were to wait less, the cost of the move included.
    moved_sooner,
    /// What those were to wait less, in us.
    moved_gain_us,
    /// TLS handshakes with a full key exchange and certificate.
    handshakes_full,
    /// TLS handshakes resumed.
    handshakes_resumed,
    /// TLS handshakes that failed.
    handshakes_failed,
    /// TLS handshakes under way.
    handshakes_open,
    /// TLS handshakes that wait for a session of another node.
    handshakes_waiting,
    /// Sessions that went to the node they live at: made here, or moved.
    sessions_put,
    /// Of those, sessions kept here before, whose home is another one now.
    sessions_moved,
    /// Whether sessions are being moved: 0 or 1.
    sessions_moving,
    /// Sessions of other nodes that live here.
    sessions_kept,
    /// Sessions given to other nodes' handshakes.
    sessions_given,
    /// Sessions asked for at the nodes they live at. Each ends as one of the next four.
    takes,
    /// Sessions that came.
    takes_found,
    /// Sessions that were not there.
    takes_missed,
    /// Sessions that did not come in time.
    takes_late,
    /// Sessions whose client was gone before they came.
    takes_dropped,
    /// Sessions not asked for at the node they live at: no queue pair to it, no room in it, or too many handshakes wait.
    takes_skipped,
    /// Clients whose sessions distributors were not told of: control was late.
    sessions_unannounced,
    /// TLS connections that keep their AEAD contexts: those that have spoken lately.
    awake,
    /// Times a TLS connection that said nothing gave its AEAD contexts back.
    rested,
    /// KeyUpdates received.
    key_updates,
    /// TCP connections.
    flows,
    /// TCP handshakes under way.
    half_open,
    /// TCP connections both sides have closed that may still hear old segments.
    time_wait,
    /// TCP connections opened.
    connections_opened,
    /// TCP connections ended.
    connections_closed,
    /// Entries made for the access log and the slow-request log.
    log_entries,
    /// Entries dropped: the thread that writes them was late.
    log_dropped,
    /// Requests that were to be followed for the logs and were not: too many were.
    log_untraced,
    /// Connections ended: a TLS fault of the client.
    closed_tls,
    /// Established TLS connections whose client said close_notify.
    ended_by_close_notify,
    /// Established TLS connections whose client sent its FIN without close_notify: what it sent may be cut short.
    ended_truncated,
    /// Connections ended: the request was refused.
    closed_refused,
    /// Connections ended: no handshake or no request in time.
    closed_timeout,
    /// Connections ended: reset by the client.
    closed_reset,
    /// Connections ended: the application failed.
    closed_app,
    /// Connections reset because there was no buffer for a reply of our own.
    closed_unanswered,
    /// Connections reset because a lease broke.
    closed_lease,
    /// Connections ended: their clients held buffers for too long when others needed them.
    closed_slow,
    /// Connections reset: no handshake done when places ran short.
    closed_silent,
    /// Connections reset amid their handshake: too many handshakes were under way.
    closed_handshake,
    /// Connections ended in order because this node ends: behind a reply that said so, or idle for too long.
    closed_draining,
    /// Connections reset: still open when this node had to end.
    closed_deadline,
    /// Times a connection waited for a buffer.
    starved,
    /// Packets received from the port. With `rx_handover` they are all there is: each is handed over, taken by the
    /// link layer, a handshake, a flow or TIME-WAIT, or dropped and counted by its reason.
    rx_packets,
    /// Packets other workers handed over.
    rx_handover,
    /// Packets taken by the link layer: ARP, neighbour discovery, echo.
    rx_link,
    /// Packets taken by TCP handshakes.
    rx_handshakes,
    /// Packets taken by TCP connections.
    rx_flows,
    /// Packets answered for TCP connections in TIME-WAIT.
    rx_time_wait,
    /// Packets sent.
    tx_packets,
    /// Packets whose payload was not copied into them.
    tx_attached,
    /// Packets copied for an operator who captures.
    captured,
    /// Packets an operator who captures wanted and did not get: copies were made faster than they were read.
    capture_missed,
    /// SYN-ACKs sent again.
    syn_acks_again,
    /// TCP connections made out of what their clients returned: their handshakes were forgotten for want of room.
    cookies,
    /// Connections whose segments got smaller because a router said so.
    path_mtu_told,
    /// Such words that were about nothing under way, or no news.
    path_mtu_ignored,
    /// Connections whose segments got smaller because large ones vanished.
    path_mtu_suspected,
    /// Times the segments of a connection got larger again.
    path_mtu_raised,
    /// Packets handed to the worker that owns their flow.
    handed_over,
    /// Neighbours asked for their MAC address.
    solicits,
    /// Neighbours that did not answer, or no more.
    neighbors_lost,
    /// Packets received and dropped: the owner's ring was full.
    drop_handover,
    /// Copies of ARP and neighbour discovery dropped: another worker's ring was full or there was no packet buffer.
    drop_handover_copy,
    /// SYNs received and dropped: more came than there was time for.
    drop_syns,
    /// Packets received and dropped: not for this node or not understood; by reason in `drop_link_*`.
    drop_link,
    /// Packets received and dropped: the port found a bad checksum.
    drop_checksum,
    /// Packets dropped by the port because the worker was late.
    drop_missed,
    /// Packets dropped by the port because it found no packet buffer.
    drop_missed_no_buffer,
    /// Frames of the link layer not sent: no packet buffer.
    drop_no_buffer,
    /// Frames of the link layer not sent: too many were waiting.
    drop_outgoing_full,
    /// Packets not sent: no route, or neither IPv4 nor IPv6.
    drop_no_route,
    /// Packets not sent: too many wait for neighbours.
    drop_parked_full,
    /// Packets not sent: the neighbour did not answer in time.
    drop_parked_late,
    /// Packets not sent: the port did not keep up.
    drop_tx_full,
    /// Packets the port took and did not send.
    drop_tx_error,
    /// Packets that wait for a neighbour's MAC address.
    parked,
    /// Packet buffers out of the pool, besides those the port's rings hold.
    packets_in_use,
    /// Application chunks out of the pool.
    chunks_out,
    /// Request buffers out of the pool.
    requests_out,
    /// Sealed-record buffers out of the pool.
    records_out,
    /// Of those, the ones that wait for nothing but the port.
    records_unsent,
    /// Gathering buffers out of the pool.
    gathers_out,
    /// Connections that hold buffers while their clients are waited for.
    holding,
    /// Bytes of request bodies being read.
    body_bytes,
    /// Requests the application has.
    requests_in_app,
    /// Reply slots granted or taken.
    slots_out,
    /// Records copied out of reply slots because their clients had not acknowledged them; by reason in the next two.
    slots_copied_out,
    /// Records copied out because their clients took longer than the patience.
    slots_copied_late,
    /// Records copied out because few slots were left.
    slots_copied_short,
    /// 1: nothing new is taken, because this node ends.
    draining,
    /// 1: and nothing is left of what was taken.
    drained,
    /// Time the application has worked on requests, all together, in ns.
    app_busy_ns,
    /// Turns of the worker.
    turns,
    /// Turns in which there was nothing to do.
    turns_idle,
    /// Time of the others, in ns: against the clock on the wall, how much of its core the worker needs.
    busy_ns,
}

/// Counters that add up, once nothing is under way: the first is the sum of the others. Of one worker, and of any
/// number together.
pub const SUMS: &[(&str, &[&str])] = &[
    ("requests", &["replies_local", "replies_lent", "requests_answered", "requests_dropped"]),
    (
        "replies_own",
        &[
            "redirected",
            "refused_syntax",
            "refused_version",
            "refused_head_too_large",
            "refused_target_too_long",
            "refused_host",
            "refused_content_length",
            "refused_both_lengths",
            "refused_transfer_encoding",
            "refused_framing",
            "refused_chunk",
            "refused_body_too_large",
            "refused_method",
            "refused_expectation",
            "refused_late",
            "refused_busy",
            "refused_lost",
            "refused_failed",
            "refused_upgrade",
        ],
    ),
    (
        "leases_granted",
        &["replies_lent", "leases_refused", "leases_failed", "leases_broken", "leases_dropped"],
    ),
    (
        "leases_taken",
        &["leases_served", "leases_declined", "leases_revoked", "leases_spoiled", "leases_lost"],
    ),
    ("slots_copied_out", &["slots_copied_late", "slots_copied_short"]),
    ("takes", &["takes_found", "takes_missed", "takes_late", "takes_dropped"]),
    (
        "peer_violations",
        &[
            "violations_forged",
            "violations_malformed",
            "violations_credit",
            "violations_lease",
            "violations_flood",
        ],
    ),
];

/// Names of everything a worker publishes, in the order of its values.
pub fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let own = Counters::NAMES.iter().map(|name| (*name).to_owned());
        let link = keyferry_link::DropReason::ALL.iter().map(|reason| format!("drop_link_{}", reason.name()));
        let tcp = keyferry_tcp::DropReason::ALL.iter().map(|reason| format!("drop_tcp_{}", reason.name()));
        let closes =
            keyferry_tcp::CloseReason::ALL.iter().map(|reason| format!("closed_tcp_{}", reason.name()));
        // Leaked once a process: they are as static as the enums they come from.
        own.chain(link)
            .chain(tcp)
            .chain(closes)
            .chain(TlsCounters::names())
            .map(|name| &*name.leak())
            .chain(latency::names().iter().copied())
            .chain([latency::SUM])
            .collect()
    })
}

/// Appends the values that stand for [`names`] behind the worker's own.
pub(crate) fn append(
    link: &[u64],
    tcp: &keyferry_tcp::Counters,
    tls: &TlsCounters,
    latency: &Latency,
    out: &mut Vec<u64>,
) {
    out.extend(link);
    out.extend(tcp.drops);
    out.extend(tcp.closed);
    tls.append(out);
    latency.append(out);
}
