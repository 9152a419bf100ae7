//! Counters for Prometheus: on this host alone, made when somebody asks.
//!
//! In: the registry's blocks. Out: its text format, which `crate::web` hands out. Names follow its customs: what grows ends in `_total`, reasons
//! are labels, so that one family adds up to all drops, closes or decisions. Control thread; no thread of its own.

use std::fmt::Write as _;
use std::sync::Arc;

use keyferry_distribute::Counters as Distributed;
use keyferry_tls::CertificateFacts;
use keyferry_upstream::tally;
use keyferry_worker::{Counters, distribute, latency};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::counters::{Registry, Snapshot};
use crate::links::Tally;
use crate::{log, members, membership, reload, request_log};

/// Who asks, for the facade of the `metrics` crates.
const ABOUT: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Counters whose names begin alike: one metric, what follows is a label.
struct Family {
    prefix: &'static str,
    metric: &'static str,
    label: &'static str,
    /// A label all of them have.
    fixed: Option<(&'static str, &'static str)>,
    help: &'static str,
}

impl Family {
    const fn of(prefix: &'static str, metric: &'static str, help: &'static str) -> Family {
        Family { prefix, metric, label: "reason", fixed: None, help }
    }

    const fn with(self, label: &'static str, value: &'static str) -> Family {
        Family { fixed: Some((label, value)), ..self }
    }

    const fn by(self, label: &'static str) -> Family {
        Family { label, ..self }
    }
}

const DECISIONS: &str = "Requests kept here or lent to a peer, by why.";
const ALERTS: &str = "TLS alerts, by direction and description.";

/// The families; of two prefixes that fit the first counts.
const FAMILIES: &[Family] = &[
    Family::of(
        "drop_",
        "keyferry_drops_total",
        "Packets dropped, handshakes of TCP given up and frames not sent, by why.",
    ),
    Family::of("closed_tcp_", "keyferry_tcp_closes_total", "TCP connections ended, by how."),
    Family::of("closed_", "keyferry_closes_total", "Connections this node ended, or saw reset, by why."),
    Family::of("kept_", "keyferry_decisions_total", DECISIONS).with("outcome", "kept"),
    Family::of("moved_", "keyferry_decisions_total", DECISIONS).with("outcome", "moved"),
    Family::of(
        "refused_",
        "keyferry_refused_total",
        "Requests refused with a reply of this node\'s own, by why.",
    ),
    Family::of(
        "violations_",
        "keyferry_peer_violations_total",
        "Queue pairs ended because the peer broke the protocol, by how.",
    ),
    Family::of(
        "slots_copied_",
        "keyferry_slots_copied_out_total",
        "Records copied out of reply slots because their clients had not acknowledged them, by why.",
    ),
    Family::of(
        "upstream_failed_",
        "keyferry_upstream_failures_total",
        "Requests to origin servers that were not answered whole, by why.",
    ),
    Family::of("reloads_", "keyferry_reloads_total", "Reloads of the configuration, by what became of them.")
        .by("outcome"),
    Family::of(
        "certificate_changes_",
        "keyferry_certificate_changes_total",
        "Changes of certificates' files that were noticed, by whether they were taken over.",
    )
    .by("outcome"),
    Family::of("alerts_received_", "keyferry_alerts_total", ALERTS).with("direction", "received").by("alert"),
    Family::of("alerts_sent_", "keyferry_alerts_total", ALERTS).with("direction", "sent").by("alert"),
];

/// Sums of counters that are exported one by one: a family with its sum in it would add up to twice as much.
pub(crate) const SUMS: &[&str] = &["closed_tls", "drop_link", "peer_violations", "slots_copied_out"];

/// Names that begin as a family's do and are in none.
const ALONE: &[&str] = &["moved_gain_us"];

/// Exported in seconds.
const BUSY: (&str, &str) = ("busy_ns", "keyferry_busy_seconds_total");

/// A histogram, in seconds.
const LATENCY: &str = "keyferry_reply_seconds";

/// What may fall.
const GAUGES: &[&str] = &[
    "leases_open",
    "leases_serving",
    "peers_ready",
    "handshakes_open",
    "handshakes_waiting",
    "flows",
    "half_open",
    "time_wait",
    "parked",
    "packets_in_use",
    "awake",
    "chunks_out",
    "requests_out",
    "records_out",
    "records_unsent",
    "gathers_out",
    "holding",
    "body_bytes",
    "requests_in_app",
    "slots_out",
    "draining",
    "drained",
    "links_up",
    "ticket_keys",
    "flows_max",
    "peers",
    "peers_copied",
    "held_now",
    "clients",
    "clients_max",
    "sessions_moving",
    "members",
    "etcd_connected",
    "nodes",
    "nodes_up",
    "nodes_refused",
    "certificates_retired",
];

/// Where a counter goes.
enum Class {
    /// Nowhere: its parts are exported.
    Sum,
    /// Text of our own: the facade counts in whole numbers.
    Busy,
    /// Text of our own: the facade makes a histogram out of what is observed, not of what was counted.
    Latency,
    Gauge,
    Counter,
    Of(&'static Family),
}

fn class(name: &str) -> Class {
    match name {
        _ if SUMS.contains(&name) => Class::Sum,
        _ if name == BUSY.0 => Class::Busy,
        _ if name == latency::SUM || latency::names().contains(&name) => Class::Latency,
        _ if ALONE.contains(&name) => Class::Counter,
        _ if GAUGES.contains(&name) => Class::Gauge,
        _ => match FAMILIES.iter().find(|family| name.starts_with(family.prefix)) {
            Some(family) => Class::Of(family),
            None => Class::Counter,
        },
    }
}

/// What each counter says that is a metric by itself.
fn helps() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = Counters::NAMES.iter().copied().zip(Counters::HELP.iter().copied());
    let distributed = Distributed::NAMES.iter().copied().zip(Distributed::HELP.iter().copied());
    let origins = tally::NAMES.iter().copied().zip(tally::HELP.iter().copied());
    let control = Tally::help().chain(members::help()).chain(membership::help()).chain(reload::help());
    let control = control.chain(request_log::help()).chain(log::help());
    let all = own.chain(distributed).chain(distribute::GAUGES.iter().copied()).chain(origins).chain(control);
    all.map(|(name, help)| (name, help.trim()))
}

/// Labels of the metric that tells processes apart, and is always 1.
pub type About = Vec<(&'static str, String)>;

/// What a process exports.
pub struct Metrics {
    recorder: PrometheusRecorder,
    registry: Arc<Registry>,
    about: Box<dyn Fn() -> About>,
    certificates: Box<dyn Fn() -> Vec<CertificateFacts>>,
}

impl Metrics {
    /// Of the counters of a registry, and of what may change while it runs: what is told `about` it, and its `certificates`.
    pub fn new(
        registry: Arc<Registry>,
        about: impl Fn() -> About + 'static,
        certificates: impl Fn() -> Vec<CertificateFacts> + 'static,
    ) -> Metrics {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics =
            Metrics { recorder, registry, about: Box::new(about), certificates: Box::new(certificates) };
        metrics.describe();
        metrics
    }

    fn describe(&self) {
        let counter = |name: String, help: &'static str| {
            self.recorder.describe_counter(KeyName::from(name), None, help.into());
        };
        for family in FAMILIES {
            counter(family.metric.to_owned(), family.help);
        }
        for (name, help) in helps() {
            match class(name) {
                Class::Counter => counter(format!("keyferry_{name}_total"), help),
                Class::Gauge => {
                    let name = KeyName::from(format!("keyferry_{name}"));
                    self.recorder.describe_gauge(name, None, help.into());
                }
                Class::Of(_) | Class::Sum | Class::Busy | Class::Latency => {}
            }
        }
    }

    /// Everything as it is now, in the text format.
    pub fn render(&self) -> String {
        let snapshot = self.registry.snapshot();
        for thread in &snapshot.threads {
            // Those of the control thread are the process's.
            let thread_of = |kind: &'static str| {
                let number = thread.label.strip_prefix(kind)?.strip_prefix(' ')?;
                Some(Label::new(kind, number.to_owned()))
            };
            let label = thread_of("worker").or_else(|| thread_of("app"));
            for (name, value) in &thread.values {
                self.take(name, *value, label.iter().cloned().collect());
            }
        }
        let info = labelled("keyferry_info", "What runs: always 1.", [((self.about)(), 1)]);
        let own = busy(&snapshot) + &latencies(&snapshot);
        self.recorder.handle().render() + &own + &info + &expiries(&(self.certificates)())
    }

    fn take(&self, name: &'static str, value: u64, mut labels: Vec<Label>) {
        let metric = match class(name) {
            Class::Sum | Class::Busy | Class::Latency => return,
            Class::Gauge => {
                let key = Key::from_parts(format!("keyferry_{name}"), labels);
                return self.recorder.register_gauge(&key, &ABOUT).set(value as f64);
            }
            Class::Counter => format!("keyferry_{name}_total"),
            Class::Of(family) => {
                labels.push(Label::new(family.label, &name[family.prefix.len()..]));
                labels.extend(family.fixed.map(|(name, value)| Label::new(name, value)));
                family.metric.to_owned()
            }
        };
        self.recorder.register_counter(&Key::from_parts(metric, labels), &ABOUT).absolute(value);
    }
}

/// When certificates end.
fn expiries(all: &[CertificateFacts]) -> String {
    let rows = all.iter().map(|facts| {
        let labels = [("file", &facts.source), ("name", &facts.name), ("serial", &facts.serial)];
        (labels.map(|(name, value)| (name, value.clone())).to_vec(), facts.not_after)
    });
    let mut rows: Vec<(About, i64)> = rows.collect();
    // A file may be named twice.
    rows.sort();
    rows.dedup();
    labelled("keyferry_certificate_expiry_seconds", "When a certificate ends, in seconds since 1970.", rows)
}

/// A gauge whose labels come and go: the facade would go on exporting those that are gone.
fn labelled(name: &str, help: &str, rows: impl IntoIterator<Item = (About, i64)>) -> String {
    let mut text = String::new();
    for (labels, value) in rows {
        if text.is_empty() {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        }
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
    }
    text
}

/// How long each worker was busy.
fn busy(snapshot: &Snapshot) -> String {
    let (name, metric) = BUSY;
    let mut text = String::new();
    for thread in &snapshot.threads {
        let (Some(number), Some(ns)) = (thread.label.strip_prefix("worker "), thread.values.get(name)) else {
            continue;
        };
        if text.is_empty() {
            let help = "Time of turns with something to do: how much of its core a worker needs.";
            let _ = writeln!(text, "# HELP {metric} {help}\n# TYPE {metric} counter");
        }
        let _ = writeln!(text, "{metric}{{worker=\"{number}\"}} {}", *ns as f64 / 1e9);
    }
    text
}

/// How long replies took, of each worker that says so.
fn latencies(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for thread in &snapshot.threads {
        let (Some(number), Some(sum)) =
            (thread.label.strip_prefix("worker "), thread.values.get(latency::SUM))
        else {
            continue;
        };
        if text.is_empty() {
            let help = "Time from a whole request to the end of its reply, sealed here or at a helper.";
            let _ = writeln!(text, "# HELP {LATENCY} {help}\n# TYPE {LATENCY} histogram");
        }
        let mut seen = 0;
        let bounds = latency::BOUNDS_NS.iter().map(|bound| (*bound as f64 / 1e9).to_string());
        for (name, bound) in latency::names().iter().zip(bounds.chain(["+Inf".to_owned()])) {
            seen += thread.values.get(name).copied().unwrap_or(0);
            let _ = writeln!(text, "{LATENCY}_bucket{{worker=\"{number}\",le=\"{bound}\"}} {seen}");
        }
        let sum = *sum as f64 / 1e9;
        let _ = writeln!(text, "{LATENCY}_sum{{worker=\"{number}\"}} {sum}");
        let _ = writeln!(text, "{LATENCY}_count{{worker=\"{number}\"}} {seen}");
    }
    text
}

#[cfg(test)]
mod tests;
