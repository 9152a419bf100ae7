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
    latency_ns: Histogram<u64>,
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
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)
                .expect("the bounds are valid"),
        }
    }

    /// A reply was right and took `latency`.
    pub fn reply(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency_ns.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
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
        let _ = self.latency_ns.add(&other.latency_ns);
    }
}

/// What a run saw. Latency is from handing a request to TLS to its last byte; a closed loop does not see the wait
/// of requests that were not sent because the server was slow.
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
    /// Latency of right replies.
    pub latency_us: Latency,
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
        let quantile = |q| tally.latency_ns.value_at_quantile(q) as f64 / 1e3;
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
            latency_us: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                p999: quantile(0.999),
                max: tally.latency_ns.max() as f64 / 1e3,
            },
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
        let Report { errors: e, latency_us: l, .. } = self;
        writeln!(f, "requests     {} in {:.2} s, {:.0}/s", self.requests, self.seconds, self.requests_per_s)?;
        writeln!(f, "body bytes   {}", self.bytes)?;
        writeln!(f, "mismatches   {}", self.mismatches)?;
        writeln!(
            f,
            "errors       connect {} tls {} reset {} closed {} http {} status {} timeout {}",
            e.connect, e.tls, e.reset, e.closed, e.http, e.status, e.timeout
        )?;
        writeln!(
            f,
            "latency us   p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
            l.p50, l.p90, l.p99, l.p999, l.max
        )?;
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
        one.reply(Duration::from_micros(100));
        one.error(ErrorKind::Reset, &"gone");
        let mut two = Tally::new();
        two.reply(Duration::from_micros(300));
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
