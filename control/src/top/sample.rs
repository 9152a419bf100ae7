//! One look at a process, as `keyferry top` and the page at its metrics port have it: what it has counted so far, who it is
//! linked to, when its certificates end.
//!
//! In: its counters and its links. Out: plain data that goes over the admin socket (`sample`) and over HTTP
//! (`/state.json`) as the same JSON document. Counts grow from the process's start, so whoever looks twice knows rates
//! ([`super::rates`]). Made on the control thread when somebody asks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyferry_tls::CertificateFacts;
use keyferry_worker::latency;
use serde::{Deserialize, Serialize};

use crate::counters::Snapshot;
use crate::links::{CompanionReport, NodeReport, Row};
use crate::metrics;
use crate::reload::expiry;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It terminates TLS.
    Node,
    /// It gives nodes their clients.
    Distributor,
}

/// Everything that is shown of a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Who it is.
    #[serde(flatten)]
    pub about: About,
    /// Each worker, by number.
    pub cores: Vec<Core>,
    /// Requests that moved; none of a distributor.
    pub moves: Option<Moves>,
    /// How long replies took; none of a distributor.
    pub latency: Option<Latency>,
    /// Those it is linked to, or is to be.
    pub peers: Vec<Peer>,
    /// What was dropped or refused, by the counter's name; without those that are 0.
    pub drops: BTreeMap<String, u64>,
    /// Certificates that are shown now, the one that ends first before others.
    pub certificates: Vec<Certificate>,
}

/// Who a process is, and when this was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its release.
    pub version: String,
    /// The model it goes by; none of a distributor.
    pub model: Option<String>,
    /// Where it is in its life.
    pub phase: String,
    /// When it started, in ms since 1970: tells its lives apart.
    pub started_ms: u64,
    /// Time since then, in us, by a clock that only goes forward.
    pub at_us: u64,
    /// What the clock on its wall says, in seconds since 1970.
    pub clock_s: i64,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Its number.
    pub worker: usize,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Time of turns with something to do, in us.
    pub busy_us: u64,
    /// Packets received from the port.
    pub packets_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Requests fully received; of a distributor always 0.
    pub requests: u64,
    /// Connections begun.
    pub begun: u64,
    /// Connections there are.
    pub connections: u64,
    /// Requests the application has.
    pub in_app: u64,
    /// Handshakes with a full key exchange.
    pub handshakes_full: u64,
    /// Handshakes resumed.
    pub handshakes_resumed: u64,
}

/// Requests that moved between nodes, all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// Leases granted to helpers.
    pub lent: u64,
    /// Of those, requests whose reply came back whole.
    pub returned: u64,
    /// Leases taken as a helper.
    pub borrowed: u64,
    /// Of those, requests served whole.
    pub served: u64,
    /// Under way as lender.
    pub lending: u64,
    /// Under way as helper.
    pub helping: u64,
}

/// How long replies took: how many, by time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// All their times together, in us.
    pub sum_us: u64,
    /// Above all buckets but the last, which has no bound: each holds what took less than its own.
    pub below_ns: Vec<u64>,
    /// How many are in each, one more than bounds.
    pub counts: Vec<u64>,
}

/// Another process. What its role or ours has no such figure for is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// What it is, if that is known.
    pub role: Option<Role>,
    /// How it fares, in the words of `ctl peers`.
    pub state: String,
    /// For how long, in seconds.
    pub since_s: Option<u64>,
    /// Where it is.
    pub address: Option<String>,
    /// Queue pairs made with it.
    pub queue_pairs: Option<u64>,
    /// Requests lent to it since our start.
    pub lent: Option<u64>,
    /// Requests borrowed from it.
    pub borrowed: Option<u64>,
    /// When it was last heard, in ms ago.
    pub heard_ms: Option<u64>,
    /// Connections it said it has; of a distributor, those it has told of.
    pub connections: Option<u64>,
    /// Requests it said its application has.
    pub requests: Option<u64>,
    /// Sessions it has announced.
    pub sessions: Option<u64>,
    /// What the matter is.
    pub problem: Option<String>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Certificate {
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// The first name it is for.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its serial number.
    pub serial: String,
}

/// The life of a process so far.
pub(crate) struct Life {
    begun: Instant,
    started_ms: u64,
}

impl Life {
    /// It begins to serve.
    pub fn begin() -> Life {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Life { begun: Instant::now(), started_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) }
    }

    /// How long it has been.
    pub fn so_far(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Who it is, now; `phase` is written as `status` has it.
    pub fn about(
        &self,
        role: Role,
        name: &str,
        version: &str,
        model: Option<&str>,
        phase: impl Serialize,
    ) -> About {
        let phase = serde_json::to_value(phase).ok();
        About {
            role,
            name: name.to_owned(),
            version: version.to_owned(),
            model: model.map(str::to_owned),
            phase: phase.as_ref().and_then(|phase| phase.as_str()).unwrap_or_default().to_owned(),
            started_ms: self.started_ms,
            at_us: u64::try_from(self.so_far().as_micros()).unwrap_or(u64::MAX),
            clock_s: expiry::now(),
        }
    }
}

impl Sample {
    /// Of what a process knows of itself; `pins`: the core of each worker.
    pub fn new(
        about: About,
        pins: &[usize],
        snapshot: &Snapshot,
        peers: Vec<Peer>,
        certificates: &[CertificateFacts],
    ) -> Sample {
        let is_node = about.role == Role::Node;
        Sample {
            about,
            cores: cores(snapshot, pins),
            moves: is_node.then(|| moves(snapshot)),
            latency: is_node.then(|| times(snapshot)),
            peers,
            drops: drops(snapshot),
            certificates: ends(certificates),
        }
    }
}

fn cores(snapshot: &Snapshot, pins: &[usize]) -> Vec<Core> {
    let workers = snapshot.threads.iter().filter_map(|thread| {
        let worker = thread.label.strip_prefix("worker ")?.parse().ok()?;
        let of = |name| thread.values.get(name).copied().unwrap_or(0);
        Some(Core {
            worker,
            core: pins.get(worker).copied(),
            busy_us: of("busy_ns") / 1_000,
            packets_in: of("rx_packets"),
            packets_out: of("tx_packets"),
            requests: of("requests"),
            // A distributor's three ways to choose a node, each once a connection.
            begun: of("connections_opened") + of("by_client") + of("in_turn") + of("by_place"),
            connections: of("flows"),
            in_app: of("requests_in_app"),
            handshakes_full: of("handshakes_full"),
            handshakes_resumed: of("handshakes_resumed"),
        })
    });
    workers.collect()
}

fn total(snapshot: &Snapshot, name: &str) -> u64 {
    snapshot.total.get(name).copied().unwrap_or(0)
}

fn moves(snapshot: &Snapshot) -> Moves {
    let total = |name| total(snapshot, name);
    Moves {
        lent: total("leases_granted"),
        returned: total("replies_lent"),
        borrowed: total("leases_taken"),
        served: total("leases_served"),
        lending: total("leases_open"),
        helping: total("leases_serving"),
    }
}

fn times(snapshot: &Snapshot) -> Latency {
    Latency {
        sum_us: total(snapshot, latency::SUM) / 1_000,
        below_ns: latency::BOUNDS_NS.to_vec(),
        counts: latency::names().iter().map(|name| total(snapshot, name)).collect(),
    }
}

fn drops(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let is_one = |name: &str| {
        (name.starts_with("drop_") || name.starts_with("refused_")) && !metrics::SUMS.contains(&name)
    };
    let counted = snapshot.total.iter().filter(|(name, count)| **count > 0 && is_one(name));
    counted.map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn ends(all: &[CertificateFacts]) -> Vec<Certificate> {
    let one = |facts: &CertificateFacts| Certificate {
        not_after: facts.not_after,
        name: facts.name.clone(),
        file: facts.source.clone(),
        serial: facts.serial.clone(),
    };
    let mut ends: Vec<_> = all.iter().map(one).collect();
    // A file may be named twice.
    ends.sort();
    ends.dedup();
    ends
}

impl From<Row> for Peer {
    fn from(row: Row) -> Peer {
        Peer {
            name: row.name,
            role: None,
            state: row.link.to_owned(),
            since_s: row.since_s,
            address: row.address,
            queue_pairs: Some(row.queue_pairs as u64),
            lent: Some(row.lent),
            borrowed: Some(row.borrowed),
            heard_ms: row.heard_ms,
            connections: None,
            requests: None,
            sessions: None,
            problem: row.problem,
        }
    }
}

impl From<NodeReport> for Peer {
    fn from(report: NodeReport) -> Peer {
        Peer {
            name: report.node,
            role: Some(Role::Node),
            state: report.state.to_owned(),
            since_s: Some(report.since_ms / 1_000),
            address: Some(report.address.to_string()),
            queue_pairs: None,
            lent: None,
            borrowed: None,
            heard_ms: None,
            connections: Some(report.connections.into()),
            requests: Some(report.requests.into()),
            sessions: Some(report.sessions),
            problem: None,
        }
    }
}

impl From<CompanionReport> for Peer {
    fn from(report: CompanionReport) -> Peer {
        Peer {
            name: report.distributor,
            role: Some(Role::Distributor),
            state: report.state.to_owned(),
            since_s: report.since_ms.map(|since| since / 1_000),
            address: report.address.map(|address| address.to_string()),
            queue_pairs: None,
            lent: None,
            borrowed: None,
            heard_ms: None,
            connections: Some(report.flows_copied),
            requests: None,
            sessions: None,
            problem: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::counters::Registry;

    /// Of a process that has run for so long.
    pub(crate) fn about(role: Role, at_s: u64) -> About {
        About {
            role,
            name: "a".to_owned(),
            version: "0.1.0".to_owned(),
            model: (role == Role::Node).then(|| "bf".to_owned()),
            phase: "serving".to_owned(),
            started_ms: 1_700_000_000_000,
            at_us: at_s * 1_000_000,
            clock_s: 1_700_000_000 + at_s as i64,
        }
    }

    /// A certificate that ends so many days after the process's start.
    pub(crate) fn facts(source: &str, days: i64) -> CertificateFacts {
        CertificateFacts {
            source: source.to_owned(),
            name: "a.test".to_owned(),
            serial: "01".to_owned(),
            not_before: 0,
            not_after: 1_700_000_000 + days * 86_400,
            digest: [0; 32],
        }
    }

    #[test]
    fn a_node_is_what_its_threads_count() {
        let registry = Registry::new();
        let names: &[&str] = &[
            "requests",
            "flows",
            "busy_ns",
            "leases_granted",
            "drop_link",
            "drop_link_short",
            "refused_host",
            "drop_syns",
        ];
        registry.block(names, "worker 0".into()).publish(&[7, 2, 5_000_000, 3, 4, 4, 1, 0]);
        registry.block(names, "worker 1".into()).publish(&[1, 1, 1_000, 0, 0, 0, 0, 0]);
        registry.block(&["links_up"], "links".into()).publish(&[1]);
        let certificates = [facts("b.pem", 9), facts("a.pem", 3), facts("b.pem", 9)];
        let sample =
            Sample::new(about(Role::Node, 1), &[4, 6], &registry.snapshot(), Vec::new(), &certificates);
        let core = |worker, core, requests, connections, busy_us| Core {
            worker,
            core: Some(core),
            requests,
            connections,
            busy_us,
            ..Core::default()
        };
        assert_eq!(sample.cores, [core(0, 4, 7, 2, 5_000), core(1, 6, 1, 1, 1)]);
        assert_eq!(sample.moves, Some(Moves { lent: 3, ..Moves::default() }));
        // Neither a sum of others nor what has not happened.
        let drops: Vec<_> = sample.drops.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(drops, [("drop_link_short", 4), ("refused_host", 1)]);
        let files: Vec<_> = sample.certificates.iter().map(|it| it.file.as_str()).collect();
        assert_eq!(files, ["a.pem", "b.pem"], "the one that ends first, and each once");
        let latency = sample.latency.as_ref().unwrap();
        assert_eq!(latency.counts.len(), latency.below_ns.len() + 1);
    }

    #[test]
    fn every_name_is_one_that_is_counted() {
        let node = keyferry_worker::counters::names();
        let distributor = keyferry_worker::distribute::names();
        for name in [
            "busy_ns",
            "rx_packets",
            "tx_packets",
            "requests",
            "connections_opened",
            "flows",
            "requests_in_app",
            "handshakes_full",
            "handshakes_resumed",
            "leases_granted",
            "replies_lent",
            "leases_taken",
            "leases_served",
            "leases_open",
            "leases_serving",
            latency::SUM,
        ] {
            assert!(node.contains(&name), "{name}");
        }
        for name in ["busy_ns", "rx_packets", "tx_packets", "flows", "by_client", "in_turn", "by_place"] {
            assert!(distributor.contains(&name), "{name}");
        }
        assert!(latency::names().iter().all(|name| node.contains(name)));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let peers = vec![Peer::from(Row {
            name: "b".to_owned(),
            address: Some("unix:/b".to_owned()),
            link: "down",
            since_s: Some(3),
            queue_pairs: 0,
            lent: 5,
            borrowed: 0,
            heard_ms: None,
            problem: Some("nobody listens".to_owned()),
        })];
        let registry = Registry::new();
        registry.block(&["flows"], "worker 0".into()).publish(&[2]);
        for role in [Role::Node, Role::Distributor] {
            let sample =
                Sample::new(about(role, 1), &[], &registry.snapshot(), peers.clone(), &[facts("a", 1)]);
            let text = serde_json::to_string(&sample).unwrap();
            assert_eq!(serde_json::from_str::<Sample>(&text).unwrap(), sample);
            assert_eq!(sample.latency.is_some(), role == Role::Node);
        }
    }
}
