//! What a run reports: counts go in, numbers with units come out, as a table or as JSON.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::tally::{Phase, Tally};

/// Points of the latency curve between two powers of ten of what is above: p90, p99, p99.9 and so on.
const CURVE_POINTS: i32 = 8;
/// The curve ends at 99.9999 %.
const CURVE_DECADES: i32 = 6;

/// What a run saw. Corrected latency is from the moment a request was meant to be sent to its last byte, raw latency
/// from when it was handed to TLS. In a closed loop both are the same: it does not see the wait of requests that were
/// not sent because the server was slow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Right replies.
    pub requests: u64,
    /// Right replies a second.
    pub requests_per_s: f64,
    /// Requests a second that were meant to be sent, in an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intended_per_s: Option<f64>,
    /// Body bytes received.
    pub bytes: u64,
    /// Wrong bodies.
    pub mismatches: u64,
    /// The first wrong body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<String>,
    /// Failures by kind.
    pub errors: Errors,
    /// The first failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Corrected latency of right replies.
    pub latency_us: Latency,
    /// Raw latency of right replies.
    pub latency_raw_us: Latency,
    /// Parts of it.
    pub phases_us: Phases,
    /// Right replies of the warm-up, in no other figure.
    pub warm_up_requests: u64,
    /// Handshakes of the warm-up, in no other figure.
    pub warm_up_handshakes: u64,
    /// Requests that were due and never sent: the server, or the number of connections, was too slow by far.
    pub unsent: u64,
    /// Handshakes done.
    pub handshakes: Handshakes,
    /// Connections opened.
    pub connections: u64,
    /// Length of the measured part of the run.
    pub seconds: f64,
    /// What limited the generator itself.
    pub generator: Generator,
    /// Seconds that were measured whole, in order.
    pub intervals: Vec<Interval>,
    /// The curve of latency over its quantiles.
    pub curve: Vec<CurvePoint>,
}

/// Failures by kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
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

/// Quantiles and mean in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
    pub mean: f64,
}

/// Latency by phase.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Phases {
    pub tcp: Latency,
    pub tls: Latency,
    pub first_byte: Latency,
    pub last_byte: Latency,
}

/// Handshakes by kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Handshakes {
    /// With certificates: also where the server refused to resume.
    pub full: u64,
    /// Resumed.
    pub resumed: u64,
    /// The share that resumed.
    pub resumed_share: f64,
    /// The share that was asked for.
    pub wanted_share: f64,
}

/// The generator's own state in the measured part of a run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Generator {
    /// Processor time of the busiest thread, as a share of the run; without polls that found nothing (--spin, --nic).
    pub cpu_share: f64,
    /// Processor time a request, all threads, in microseconds.
    pub cpu_us_per_request: f64,
    /// How late it was itself: from a moment that was due, while a connection had room, to its use.
    pub lag_us: Latency,
    /// Processor time that a hypervisor gave to others, as a share of the machine's time.
    pub steal_share: f64,
    /// Largest resident memory of the process, in bytes.
    pub rss_bytes_max: u64,
    /// Threads.
    pub threads: usize,
}

/// One second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// Its start, in seconds from the start of the run.
    pub second: u64,
    /// Right replies.
    pub requests: u64,
    /// Failures.
    pub errors: u64,
    /// Body bytes.
    pub bytes: u64,
    /// Handshakes.
    pub handshakes: u64,
    /// Corrected latency of its replies.
    pub p50_us: f64,
    /// Corrected latency of its replies.
    pub p99_us: f64,
    /// Corrected latency of its replies.
    pub p999_us: f64,
    /// Corrected latency of its replies.
    pub max_us: f64,
    /// Raw latency of its replies.
    pub raw_p99_us: f64,
}

/// A point of the latency curve.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Share of requests that were not slower.
    pub quantile: f64,
    /// Their slowest, corrected.
    pub corrected_us: f64,
    /// Their slowest, raw.
    pub raw_us: f64,
}

fn quantile_us(ns: &Histogram<u64>, quantile: f64) -> f64 {
    ns.value_at_quantile(quantile) as f64 / 1e3
}

impl Latency {
    fn new(ns: &Histogram<u64>) -> Latency {
        let quantile = |q| quantile_us(ns, q);
        Latency {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p95: quantile(0.95),
            p99: quantile(0.99),
            p999: quantile(0.999),
            p9999: quantile(0.9999),
            max: ns.max() as f64 / 1e3,
            mean: ns.mean() / 1e3,
        }
    }
}

impl Interval {
    /// Sums one second up.
    pub fn new(second: u64, tally: &Tally) -> Interval {
        Interval {
            second,
            requests: tally.requests,
            errors: tally.failures(),
            bytes: tally.bytes,
            handshakes: tally.handshakes_full + tally.handshakes_resumed,
            p50_us: quantile_us(&tally.corrected_ns, 0.5),
            p99_us: quantile_us(&tally.corrected_ns, 0.99),
            p999_us: quantile_us(&tally.corrected_ns, 0.999),
            max_us: tally.corrected_ns.max() as f64 / 1e3,
            raw_p99_us: quantile_us(&tally.raw_ns, 0.99),
        }
    }
}

/// What a report needs beside the counts.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Length of the measured part, in seconds.
    pub seconds: f64,
    /// Requests a second that were meant to be sent.
    pub intended_per_s: Option<f64>,
    /// Share of handshakes that was to resume.
    pub wanted_share: f64,
    /// Processor time of the busiest thread, as a share of its time.
    pub cpu_share: f64,
    /// Processor time of all threads, in seconds.
    pub cpu_s: f64,
    /// Share of the machine's time that a hypervisor took.
    pub steal_share: f64,
    /// Largest resident memory, in bytes.
    pub rss_bytes_max: u64,
    /// Threads.
    pub threads: usize,
}

impl Report {
    /// Sums a run up.
    pub fn new(tally: &Tally, measured: &Measured, intervals: Vec<Interval>) -> Report {
        let phase = |phase: Phase| Latency::new(tally.phase_ns(phase));
        let [connect, tls, reset, closed, http, status, timeout] = tally.errors;
        let handshakes = tally.handshakes_full + tally.handshakes_resumed;
        let answered = (tally.requests + tally.warm_up_requests).max(1);
        Report {
            requests: tally.requests,
            requests_per_s: tally.requests_in_time as f64 / measured.seconds.max(f64::MIN_POSITIVE),
            intended_per_s: measured.intended_per_s,
            bytes: tally.bytes,
            mismatches: tally.mismatches,
            first_mismatch: tally.first_mismatch.as_ref().map(ToString::to_string),
            errors: Errors { connect, tls, reset, closed, http, status, timeout },
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
            warm_up_handshakes: tally.warm_up_handshakes,
            unsent: tally.unsent,
            handshakes: Handshakes {
                full: tally.handshakes_full,
                resumed: tally.handshakes_resumed,
                resumed_share: tally.handshakes_resumed as f64 / handshakes.max(1) as f64,
                wanted_share: measured.wanted_share,
            },
            connections: tally.connections,
            seconds: measured.seconds,
            generator: Generator {
                cpu_share: measured.cpu_share,
                cpu_us_per_request: measured.cpu_s * 1e6 / answered as f64,
                lag_us: Latency::new(&tally.lag_ns),
                steal_share: measured.steal_share,
                rss_bytes_max: measured.rss_bytes_max,
                threads: measured.threads,
            },
            intervals,
            curve: curve(tally),
        }
    }

    /// Something was answered, and nothing wrongly. Failed connections are for the reader to judge: some runs
    /// break servers on purpose.
    pub fn is_right(&self) -> bool {
        self.requests > 0 && self.mismatches == 0
    }

    /// Failures of all kinds; a wrong body is one of `http`, as its connection ends with it.
    pub fn failures(&self) -> u64 {
        let Errors { connect, tls, reset, closed, http, status, timeout } = self.errors;
        connect + tls + reset + closed + http + status + timeout
    }

    /// Failures and unsent requests as a share of all outcomes.
    pub fn error_share(&self) -> f64 {
        let failed = self.failures() + self.unsent;
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

fn curve(tally: &Tally) -> Vec<CurvePoint> {
    (0..=CURVE_DECADES * CURVE_POINTS)
        .map(|at| {
            let quantile = 1.0 - 10_f64.powf(-f64::from(at) / f64::from(CURVE_POINTS));
            CurvePoint {
                quantile,
                corrected_us: quantile_us(&tally.corrected_ns, quantile),
                raw_us: quantile_us(&tally.raw_ns, quantile),
            }
        })
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (e, g, h) = (&self.errors, &self.generator, &self.handshakes);
        write!(f, "requests     {} in {:.2} s, {:.0}/s", self.requests, self.seconds, self.requests_per_s)?;
        match self.intended_per_s {
            Some(rate) => writeln!(f, " of {rate:.0}/s intended")?,
            None => writeln!(f, " (closed loop)")?,
        }
        let megabytes_per_s = self.bytes as f64 / 1e6 / self.seconds.max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "body bytes   {}, {megabytes_per_s:.1} MB/s, mismatches {}",
            self.bytes, self.mismatches
        )?;
        writeln!(
            f,
            "errors       connect {} tls {} reset {} closed {} http {} status {} timeout {}",
            e.connect, e.tls, e.reset, e.closed, e.http, e.status, e.timeout
        )?;
        writeln!(
            f,
            "{:<13}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "latency us", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        let phases = &self.phases_us;
        for (name, l) in [
            ("  corrected", &self.latency_us),
            ("  raw", &self.latency_raw_us),
            ("  TCP", &phases.tcp),
            ("  TLS", &phases.tls),
            ("  first byte", &phases.first_byte),
            ("  last byte", &phases.last_byte),
        ] {
            writeln!(
                f,
                "{name:<13}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>9.0}",
                l.mean, l.p50, l.p90, l.p99, l.p999, l.p9999, l.max
            )?;
        }
        if self.unsent > 0 {
            writeln!(f, "unsent       {}: raise --connections, or the server is too slow", self.unsent)?;
        }
        writeln!(
            f,
            "handshakes   full {} resumed {}, {:.2} % resumed of {:.2} % wanted; connections {}",
            h.full,
            h.resumed,
            h.resumed_share * 100.0,
            h.wanted_share * 100.0,
            self.connections
        )?;
        writeln!(
            f,
            "generator    busiest thread {:.0} % of a core, {:.2} us a request; \
             late by p50 {:.0} p99 {:.0} us; steal {:.1} %",
            g.cpu_share * 100.0,
            g.cpu_us_per_request,
            g.lag_us.p50,
            g.lag_us.p99,
            g.steal_share * 100.0
        )?;
        for first in [&self.first_mismatch, &self.first_error].into_iter().flatten() {
            writeln!(f, "first fault  {first}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::check::Mismatch;
    use crate::tally::ErrorKind;

    /// A report of `tally` for a second, for tests.
    pub(crate) fn report(tally: &Tally) -> Report {
        let measured = Measured {
            seconds: 1.0,
            intended_per_s: None,
            wanted_share: 1.0,
            cpu_share: 0.1,
            cpu_s: 0.1,
            steal_share: 0.0,
            rss_bytes_max: 0,
            threads: 1,
        };
        let mut tally = tally.clone();
        tally.requests_in_time = tally.requests;
        Report::new(&tally, &measured, vec![Interval::new(0, &tally)])
    }

    #[test]
    fn threads_add_up() {
        let mut one = Tally::new();
        one.reply(Duration::from_micros(100), Duration::from_micros(90));
        one.error(ErrorKind::Reset, &"gone");
        let mut two = Tally::new();
        two.reply(Duration::from_micros(300), Duration::from_micros(200));
        two.mismatch(Mismatch::Length { seed: 1, found: 2, expected: 3 });
        one.add(&two);
        let report = report(&one);
        assert_eq!((report.requests, report.mismatches, report.errors.reset), (2, 1, 1));
        assert!((report.latency_us.max - 300.0).abs() < 1.0, "{report}");
        assert!(!report.is_right());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["errors"]["reset"], 1);
        assert_eq!(json["first_error"], "reset: gone");
        let back: Report = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((back.requests, back.intervals.len()), (2, 1));
    }
}
