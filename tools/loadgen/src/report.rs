//! Counts of one thread ([`Tally`]) and what a run reports ([`Report`]), as text or JSON.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::Mismatch;

/// Longest latency the histogram tells apart, in nanoseconds: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Significant digits of latencies: 0.1 %.
const LATENCY_DIGITS: u8 = 3;

/// Why a connection, and the requests under way on it, came to an early end.
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
    /// The reply's status was not 200.
    Status,
    /// No whole reply, or no connection, in time.
    Timeout,
}

/// Names of [`ErrorKind`], in its order.
const ERROR_NAMES: [&str; 7] = ["connect", "tls", "reset", "closed", "http", "status", "timeout"];

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
    errors: [u64; ERROR_NAMES.len()],
    first_error: Option<String>,
    /// Right replies of the warm-up, which are not measured.
    pub warm_up_requests: u64,
    /// Requests whose moment came but that were never sent.
    pub unsent: u64,
    corrected_ns: Histogram<u64>,
    raw_ns: Histogram<u64>,
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
            bytes: 0,
            mismatches: 0,
            first_mismatch: None,
            handshakes_full: 0,
            handshakes_resumed: 0,
            connections: 0,
            errors: [0; ERROR_NAMES.len()],
            first_error: None,
            warm_up_requests: 0,
            unsent: 0,
            phases_ns: std::array::from_fn(|_| empty.clone()),
            raw_ns: empty.clone(),
            corrected_ns: empty,
        }
    }

    /// A reply was right and took `corrected` from the moment it was meant to be sent, `raw` from when it was.
    pub fn reply(&mut self, corrected: Duration, raw: Duration) {
        self.requests += 1;
        self.corrected_ns.saturating_record(nanoseconds(corrected));
        self.raw_ns.saturating_record(nanoseconds(raw));
    }

    /// A phase took `time`.
    pub fn phase(&mut self, phase: Phase, time: Duration) {
        self.phases_ns[phase as usize].saturating_record(nanoseconds(time));
    }

    /// A body was wrong.
    pub fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        self.first_mismatch.get_or_insert(mismatch);
    }

    /// A connection failed.
    pub fn error(&mut self, kind: ErrorKind, what: &dyn fmt::Display) {
        self.errors[kind as usize] += 1;
        self.first_error.get_or_insert_with(|| format!("{}: {what}", ERROR_NAMES[kind as usize]));
    }

    /// Errors of one kind.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors[kind as usize]
    }

    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        self.warm_up_requests += other.warm_up_requests;
        self.unsent += other.unsent;
        self.bytes += other.bytes;
        self.mismatches += other.mismatches;
        self.handshakes_full += other.handshakes_full;
        self.handshakes_resumed += other.handshakes_resumed;
        self.connections += other.connections;
        for (sum, count) in self.errors.iter_mut().zip(other.errors) {
            *sum += count;
        }
        self.first_mismatch = self.first_mismatch.take().or_else(|| other.first_mismatch.clone());
        self.first_error = self.first_error.take().or_else(|| other.first_error.clone());
        // Both have the same bounds, so this cannot fail.
        let _ = self.corrected_ns.add(&other.corrected_ns);
        let _ = self.raw_ns.add(&other.raw_ns);
        for (sum, part) in self.phases_ns.iter_mut().zip(&other.phases_ns) {
            let _ = sum.add(part);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a run saw. Corrected latency is from the moment a request was meant to be sent to its last byte, raw latency
/// from when it was handed to TLS. In a closed loop both are the same: it does not see the wait of requests that were
/// not sent because the server was slow.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Right replies.
    pub requests: u64,
    /// Right replies a second.
    pub requests_per_s: f64,
    /// Body bytes received.
    pub bytes: u64,
    /// Wrong bodies.
    pub mismatches: u64,
    /// The first wrong body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<String>,
    /// Failed connections by kind.
    pub errors: Errors,
    /// The first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Corrected latency of right replies.
    pub latency_us: Latency,
    /// Raw latency of right replies.
    pub latency_raw_us: Latency,
    /// Parts of it.
    pub phases_us: Phases,
    /// Right replies of the warm-up, in no other figure but the body bytes.
    pub warm_up_requests: u64,
    /// Requests that were due and never sent: the server, or the number of connections, was too slow by far.
    pub unsent: u64,
    /// Handshakes done.
    pub handshakes: Handshakes,
    /// Connections opened.
    pub connections: u64,
    /// Length of the run.
    pub seconds: f64,
}

/// Failures by kind.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Errors {
    pub connect: u64,
    pub tls: u64,
    pub reset: u64,
    pub closed: u64,
    pub http: u64,
    pub status: u64,
    pub timeout: u64,
}

/// Quantiles in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Latency by phase.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Phases {
    pub tcp: Latency,
    pub tls: Latency,
    pub first_byte: Latency,
    pub last_byte: Latency,
}

impl Latency {
    fn new(ns: &Histogram<u64>) -> Latency {
        let quantile = |q| ns.value_at_quantile(q) as f64 / 1e3;
        Latency {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ns.max() as f64 / 1e3,
        }
    }
}

/// Handshakes by kind.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Handshakes {
    pub full: u64,
    pub resumed: u64,
}

impl Report {
    /// Sums a run up.
    pub fn new(tally: &Tally, took: Duration) -> Report {
        let errors = |kind| tally.errors(kind);
        let phase = |phase: Phase| Latency::new(&tally.phases_ns[phase as usize]);
        let seconds = took.as_secs_f64();
        Report {
            requests: tally.requests,
            requests_per_s: tally.requests as f64 / seconds.max(f64::MIN_POSITIVE),
            bytes: tally.bytes,
            mismatches: tally.mismatches,
            first_mismatch: tally.first_mismatch.as_ref().map(ToString::to_string),
            errors: Errors {
                connect: errors(ErrorKind::Connect),
                tls: errors(ErrorKind::Tls),
                reset: errors(ErrorKind::Reset),
                closed: errors(ErrorKind::Closed),
                http: errors(ErrorKind::Http),
                status: errors(ErrorKind::Status),
                timeout: errors(ErrorKind::Timeout),
            },
            first_error: tally.first_error.clone(),
            latency_us: Latency::new(&tally.corrected_ns),
            latency_raw_us: Latency::new(&tally.raw_ns),
            phases_us: Phases {
                tcp: phase(Phase::Tcp),
                tls: phase(Phase::Tls),
                first_byte: phase(Phase::FirstByte),
                last_byte: phase(Phase::LastByte),
            },
            warm_up_requests: tally.warm_up_requests,
            unsent: tally.unsent,
            handshakes: Handshakes { full: tally.handshakes_full, resumed: tally.handshakes_resumed },
            connections: tally.connections,
            seconds,
        }
    }

    /// Something was answered, and nothing wrongly. Failed connections are for the reader to judge: some runs
    /// break servers on purpose.
    pub fn is_right(&self) -> bool {
        self.requests > 0 && self.mismatches == 0
    }

    /// Failed connections, wrong bodies and unsent requests as a share of all outcomes.
    pub fn error_share(&self) -> f64 {
        let Errors { connect, tls, reset, closed, http, status, timeout } = self.errors;
        // A wrong body is counted among `http` too, as its connection ends with it.
        let failed = connect + tls + reset + closed + http + status + timeout + self.unsent;
        failed as f64 / (failed + self.requests).max(1) as f64
    }

    /// One JSON document on one line.
    ///
    /// # Panics
    /// Never: every field is a number or text.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and text serialise")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.errors;
        writeln!(f, "requests     {} in {:.2} s, {:.0}/s", self.requests, self.seconds, self.requests_per_s)?;
        writeln!(f, "body bytes   {}", self.bytes)?;
        writeln!(f, "mismatches   {}", self.mismatches)?;
        writeln!(
            f,
            "errors       connect {} tls {} reset {} closed {} http {} status {} timeout {}",
            e.connect, e.tls, e.reset, e.closed, e.http, e.status, e.timeout
        )?;
        let phases = &self.phases_us;
        for (name, l) in [
            ("latency us", &self.latency_us),
            ("  raw", &self.latency_raw_us),
            ("  TCP", &phases.tcp),
            ("  TLS", &phases.tls),
            ("  first byte", &phases.first_byte),
            ("  last byte", &phases.last_byte),
        ] {
            writeln!(
                f,
                "{name:<12} p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
                l.p50, l.p90, l.p99, l.p999, l.max
            )?;
        }
        if self.unsent > 0 {
            writeln!(f, "unsent       {}: raise --connections, or the server is too slow", self.unsent)?;
        }
        writeln!(
            f,
            "handshakes   full {} resumed {}, connections {}",
            self.handshakes.full, self.handshakes.resumed, self.connections
        )?;
        for first in [&self.first_mismatch, &self.first_error].into_iter().flatten() {
            writeln!(f, "first fault  {first}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut one = Tally::new();
        one.reply(Duration::from_micros(100), Duration::from_micros(90));
        one.error(ErrorKind::Reset, &"gone");
        let mut two = Tally::new();
        two.reply(Duration::from_micros(300), Duration::from_micros(200));
        two.mismatch(Mismatch::Length { seed: 1, found: 2, expected: 3 });
        one.add(&two);
        let report = Report::new(&one, Duration::from_secs(2));
        assert_eq!((report.requests, report.mismatches, report.errors.reset), (2, 1, 1));
        assert!((report.latency_us.max - 300.0).abs() < 1.0, "{report}");
        assert!(!report.is_right());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["errors"]["reset"], 1);
        assert_eq!(json["first_error"], "reset: gone");
    }
}
