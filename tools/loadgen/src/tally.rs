//! Counts of one thread over one second, and their sum. Plain numbers and histograms of fixed size; nothing here knows
//! of sockets. Written by one load thread, then handed over.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::check::Mismatch;

/// Longest latency the histograms tell apart, in nanoseconds: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Significant digits of latencies: 0.1 %.
const LATENCY_DIGITS: u8 = 3;

/// Why a request, or a connection with the requests under way on it, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ErrorKind {
    /// The TCP connection was not made.
    Connect,
    /// TLS failed: an alert, a bad record, a bad certificate.
    Tls,
    /// The server reset the connection.
    Reset,
    /// The server closed the connection before a reply was whole.
    Closed,
    /// The reply was not HTTP/1.1.
    Http,
    /// The reply's status was none that was asked for.
    Status,
    /// No whole reply, or no connection, in time.
    Timeout,
}

/// Names of [`ErrorKind`], in its order.
pub const ERROR_NAMES: [&str; 7] = ["connect", "tls", "reset", "closed", "http", "status", "timeout"];

/// Parts of a request's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// From `connect` to the end of TCP's handshake, once a connection.
    Tcp,
    /// From there to the end of TLS's handshake, once a connection.
    Tls,
    /// From handing a request to TLS to the head of its reply.
    FirstByte,
    /// From there to the last byte.
    LastByte,
}

/// Number of [`Phase`]s.
const PHASES: usize = 4;

/// What one thread counts.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Replies that were right to the last byte.
    pub requests: u64,
    /// Those of them that were whole before the run's time was over.
    pub requests_in_time: u64,
    /// Body bytes of all replies.
    pub bytes: u64,
    /// Bodies with a wrong byte or length.
    pub mismatches: u64,
    /// The first of them.
    pub first_mismatch: Option<Mismatch>,
    /// Handshakes with certificates.
    pub handshakes_full: u64,
    /// Handshakes that resumed a session.
    pub handshakes_resumed: u64,
    /// Connections opened.
    pub connections: u64,
    /// Failures by kind.
    pub errors: [u64; ERROR_NAMES.len()],
    /// The first failure.
    pub first_error: Option<String>,
    /// Right replies, and handshakes, of the warm-up, which are not measured.
    pub warm_up_requests: u64,
    /// Handshakes of the warm-up.
    pub warm_up_handshakes: u64,
    /// Requests whose moment came but that were never sent.
    pub unsent: u64,
    /// When the last reply was whole.
    pub last_reply: Option<Instant>,
    /// Latency from the intended moment.
    pub corrected_ns: Histogram<u64>,
    /// Latency from the actual moment.
    pub raw_ns: Histogram<u64>,
    /// How late the generator itself was: from a moment that was due while a connection had room, to its use.
    pub lag_ns: Histogram<u64>,
    phases_ns: [Histogram<u64>; PHASES],
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

impl Tally {
    /// Nothing counted yet.
    ///
    /// # Panics
    /// Never: the histogram's bounds are constants it accepts.
    pub fn new() -> Tally {
        let empty =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS).expect("the bounds are valid");
        Tally {
            requests: 0,
            requests_in_time: 0,
            bytes: 0,
            mismatches: 0,
            first_mismatch: None,
            handshakes_full: 0,
            handshakes_resumed: 0,
            connections: 0,
            errors: [0; ERROR_NAMES.len()],
            first_error: None,
            warm_up_requests: 0,
            warm_up_handshakes: 0,
            unsent: 0,
            last_reply: None,
            phases_ns: std::array::from_fn(|_| empty.clone()),
            raw_ns: empty.clone(),
            lag_ns: empty.clone(),
            corrected_ns: empty,
        }
    }

    /// A reply was right and took `corrected` from the moment it was meant to be sent, `raw` from when it was.
    pub fn reply(&mut self, corrected: Duration, raw: Duration) {
        self.requests += 1;
        self.corrected_ns.saturating_record(nanoseconds(corrected));
        self.raw_ns.saturating_record(nanoseconds(raw));
    }

    /// A request was never sent, `waited` after its moment. It waited at least that long, so it belongs to the latency
    /// that counts from that moment: without it, what a server left undone would not show.
    pub fn never_sent(&mut self, waited: Duration) {
        self.unsent += 1;
        self.corrected_ns.saturating_record(nanoseconds(waited));
    }

    /// A phase took `time`.
    pub fn phase(&mut self, phase: Phase, time: Duration) {
        self.phases_ns[phase as usize].saturating_record(nanoseconds(time));
    }

    /// A request was handed to an idle connection `time` after its moment.
    pub fn lag(&mut self, time: Duration) {
        self.lag_ns.saturating_record(nanoseconds(time));
    }

    /// Times of a phase.
    pub fn phase_ns(&self, phase: Phase) -> &Histogram<u64> {
        &self.phases_ns[phase as usize]
    }

    /// A body was wrong.
    pub fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        self.first_mismatch.get_or_insert(mismatch);
    }

    /// A request or a connection failed.
    pub fn error(&mut self, kind: ErrorKind, what: &dyn fmt::Display) {
        self.errors[kind as usize] += 1;
        self.first_error.get_or_insert_with(|| format!("{}: {what}", ERROR_NAMES[kind as usize]));
    }

    /// Failures of all kinds.
    pub fn failures(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Tally) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.requests_in_time, other.requests_in_time),
            (&mut self.warm_up_requests, other.warm_up_requests),
            (&mut self.warm_up_handshakes, other.warm_up_handshakes),
            (&mut self.unsent, other.unsent),
            (&mut self.bytes, other.bytes),
            (&mut self.mismatches, other.mismatches),
            (&mut self.handshakes_full, other.handshakes_full),
            (&mut self.handshakes_resumed, other.handshakes_resumed),
            (&mut self.connections, other.connections),
        ] {
            *sum += more;
        }
        for (sum, count) in self.errors.iter_mut().zip(other.errors) {
            *sum += count;
        }
        self.last_reply = self.last_reply.max(other.last_reply);
        self.first_mismatch = self.first_mismatch.take().or_else(|| other.first_mismatch.clone());
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        // All have the same bounds, so this cannot fail.
        let _ = self.corrected_ns.add(&other.corrected_ns);
        let _ = self.raw_ns.add(&other.raw_ns);
        let _ = self.lag_ns.add(&other.lag_ns);
        for (sum, part) in self.phases_ns.iter_mut().zip(&other.phases_ns) {
            let _ = sum.add(part);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
