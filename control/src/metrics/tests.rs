//! Every counter has its place, the text is what Prometheus reads, and families add up.

mod named;
mod page;

use std::collections::{BTreeMap, BTreeSet};

use keyferry_worker::counters::names;

use super::*;

/// What only grows and is in no family. A new counter belongs here, into [`GAUGES`] or into a family.
const COUNTERS: &[&str] = &[
    "log_entries",
    "log_dropped",
    "log_untraced",
    "log_lines_access",
    "log_lines_slow",
    "log_lines_lost",
    "log_files_put_aside",
    "log_files_opened_anew",
    "log_files_unopened",
    "log_left_out",
    "held",
    "held_late",
    "asked",
    "found",
    "flows_learnt",
    "datagrams_told",
    "datagrams_again",
    "datagrams_heard",
    "datagrams_out_of_order",
    "notices_heard",
    "notices_strange",
    "notices_lost",
    "requests",
    "replies_local",
    "replies_lent",
    "requests_answered",
    "requests_dropped",
    "replies_own",
    "redirected",
    "leases_granted",
    "leases_dropped",
    "leases_taken",
    "leases_served",
    "leases_declined",
    "leases_revoked",
    "leases_spoiled",
    "leases_lost",
    "leases_refused",
    "leases_failed",
    "leases_broken",
    "settings_taken",
    "peers_lost",
    "handshakes_full",
    "handshakes_resumed",
    "handshakes_failed",
    "sessions_put",
    "sessions_moved",
    "sessions_kept",
    "sessions_given",
    "takes",
    "takes_found",
    "takes_missed",
    "takes_late",
    "takes_dropped",
    "takes_skipped",
    "rested",
    "key_updates",
    "connections_opened",
    "connections_closed",
    "ended_by_close_notify",
    "ended_truncated",
    "uploads",
    "upload_bytes",
    "uploads_late",
    "uploads_cut",
    "uploads_unread",
    "upgrades",
    "upgraded_bytes",
    "starved",
    "rx_packets",
    "rx_handover",
    "rx_link",
    "rx_handshakes",
    "rx_flows",
    "rx_time_wait",
    "tx_packets",
    "tx_attached",
    "captured",
    "capture_missed",
    "syn_acks_again",
    "cookies",
    "path_mtu_told",
    "path_mtu_ignored",
    "path_mtu_suspected",
    "path_mtu_raised",
    "handed_over",
    "solicits",
    "neighbors_lost",
    "sessions_unannounced",
    "etcd_connects",
    "etcd_failures",
    "etcd_registrations",
    "moved_gain_us",
    "app_busy_ns",
    "by_client",
    "in_turn",
    "by_place",
    "unknown",
    "forwarded",
    "resets",
    "flows_lost",
    "clients_lost",
    "announced",
    "turns",
    "turns_idle",
    "links_made",
    "links_lost",
    "links_failed",
    "ticket_keys_taken",
    "ticket_keys_refused",
    "tickets_sealed",
    "tickets_opened",
    "tickets_refused",
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
];

fn all_names() -> impl Iterator<Item = &'static str> {
    let distributor = keyferry_worker::distribute::names();
    let control = Tally::help().chain(members::help()).chain(membership::help()).chain(reload::help());
    let control = control.chain(request_log::help()).chain(log::help());
    names().iter().chain(distributor).chain(tally::NAMES).copied().chain(control.map(|(name, _)| name))
}

#[test]
fn each_counter_has_one_place() {
    for name in all_names() {
        let known = COUNTERS.contains(&name);
        match class(name) {
            Class::Counter => {
                assert!(known, "{name}: does it only grow? Then write it into COUNTERS, else into GAUGES")
            }
            _ => assert!(!known, "{name} has two places"),
        }
    }
    let all: BTreeSet<_> = all_names().collect();
    for name in GAUGES.iter().chain(COUNTERS).chain(SUMS).chain([&BUSY.0]) {
        assert!(all.contains(name), "there is no counter {name} any more");
    }
    for family in FAMILIES {
        assert!(all.iter().any(|name| name.starts_with(family.prefix)), "{} has no counter", family.prefix);
    }
}

fn is_between_names(c: char) -> bool {
    !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// What the pages for operators name is there to be seen.
#[test]
fn what_is_documented_is_counted() {
    let pages = [
        include_str!("../../../docs/ARCHITECTURE.md"),
        include_str!("../../../docs/METRICS.md"),
        include_str!("../../../docs/OPERATIONS.md"),
        include_str!("../../../docs/UPSTREAM.md"),
    ];
    let counters: BTreeSet<_> = all_names().collect();
    let is_exported = |metric: &str| {
        let name = metric.trim_start_matches("keyferry_");
        counters.contains(name)
            || counters.contains(name.trim_end_matches("_total"))
            || FAMILIES.iter().any(|family| family.metric == metric)
            || metric.trim_end_matches("_bucket") == LATENCY
            || [BUSY.1, "keyferry_info", "keyferry_certificate_expiry_seconds"].contains(&metric)
    };
    let words = pages.iter().flat_map(|page| page.split(is_between_names));
    // Several at once are written by how they begin.
    for word in words.filter(|word| !word.ends_with('_')) {
        let is_of = |family: &Family| word.strip_prefix(family.prefix).is_some_and(|rest| !rest.is_empty());
        assert!(counters.contains(word) || !FAMILIES.iter().any(is_of), "no counter is called {word}");
        assert!(!word.starts_with("keyferry_") || is_exported(word), "no metric is called {word}");
    }
}

/// One line of the text: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads the text format as strictly as its description is: each metric has HELP and TYPE once, before its samples, which
/// stand together; no sample comes twice.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Sample>) {
    let (mut types, mut samples) = (BTreeMap::new(), Vec::<Sample>::new());
    let (mut helped, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut current = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && help.ends_with('.'), "{line}");
            assert!(helped.insert(name.to_owned()), "{line}: HELP twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "{line}: no HELP before");
            assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}: TYPE twice");
            current = name.to_owned();
        } else {
            assert!(!line.starts_with('#'), "{line}");
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line}: twice");
            let sample = sample(line);
            let is_its_own = match types[&current].as_str() {
                "histogram" => {
                    ["_bucket", "_sum", "_count"].iter().any(|part| sample.0 == current.clone() + part)
                }
                _ => sample.0 == current,
            };
            assert!(is_its_own, "{line}: not with its own");
            samples.push(sample);
        }
    }
    (types, samples)
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match head.split_once('{') {
        None => (head, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
    };
    assert!(is_name(name) && name.starts_with("keyferry_"), "{line}");
    let label = |label: &str| {
        let (name, value) = label.split_once('=').unwrap();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
        assert!(is_name(name) && !value.contains(['"', '\\']), "{line}");
        (name.to_owned(), value.to_owned())
    };
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(label).collect();
    (name.to_owned(), labels, value.parse().unwrap())
}

fn certificates() -> Vec<CertificateFacts> {
    let facts = |source: &str, serial: &str, not_after| CertificateFacts {
        source: source.to_owned(),
        name: "a.test".to_owned(),
        serial: serial.to_owned(),
        not_before: 0,
        not_after,
        digest: [0; 32],
    };
    // One is named twice.
    let all = [facts("/a.pem", "0a", 4_000_000_000), facts("/b.pem", "0b", -1)];
    vec![all[0].clone(), all[1].clone(), all[0].clone()]
}

/// A registry of two workers and the links; each counter has a value of its own.
fn metrics() -> (Metrics, u64) {
    let registry = Arc::new(Registry::new());
    let mut drops = 0;
    for worker in 0..2 {
        let values: Vec<u64> = (0..names().len() as u64).map(|place| 1000 * worker + place).collect();
        registry.block(names(), format!("worker {worker}")).publish(&values);
        let dropped = |(name, _): &(&&str, &u64)| name.starts_with("drop_") && **name != "drop_link";
        drops += names().iter().zip(&values).filter(dropped).map(|(_, value)| *value).sum::<u64>();
    }
    let _links = Tally::new(&registry);
    let about = [("node", "a".to_owned()), ("model", "bf".to_owned()), ("version", "0.1.0 (x)".to_owned())];
    (Metrics::new(registry, move || about.to_vec(), certificates), drops)
}

#[test]
fn the_text_is_what_prometheus_reads_and_families_add_up() {
    let (metrics, drops) = metrics();
    let (types, samples) = parse(&metrics.render());
    assert_eq!(types["keyferry_flows"], "gauge");
    assert_eq!(types["keyferry_requests_total"], "counter");
    let of = |name: &str| samples.iter().filter(|sample| sample.0 == name).collect::<Vec<_>>();
    let sum: f64 = of("keyferry_drops_total").iter().map(|sample| sample.2).sum();
    assert_eq!(sum, drops as f64);
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let has = |name: &str, pairs: &[(&str, &str)]| {
        let labels: BTreeMap<_, _> = labels(pairs);
        assert!(of(name).iter().any(|sample| sample.1 == labels), "no {name} {labels:?}");
    };
    has("keyferry_requests_total", &[("worker", "1")]);
    has("keyferry_drops_total", &[("worker", "0"), ("reason", "tcp_port_closed")]);
    has("keyferry_closes_total", &[("worker", "0"), ("reason", "timeout")]);
    has("keyferry_tcp_closes_total", &[("worker", "0"), ("reason", "finished")]);
    has("keyferry_decisions_total", &[("worker", "1"), ("outcome", "moved"), ("reason", "lighter")]);
    has("keyferry_refused_total", &[("worker", "0"), ("reason", "host")]);
    has("keyferry_alerts_total", &[("worker", "0"), ("direction", "sent"), ("alert", "close_notify")]);
    has("keyferry_links_up", &[]);
    has("keyferry_busy_seconds_total", &[("worker", "1")]);
    has("keyferry_info", &[("node", "a"), ("model", "bf"), ("version", "0.1.0 (x)")]);
    let expiry = "keyferry_certificate_expiry_seconds";
    has(expiry, &[("file", "/a.pem"), ("name", "a.test"), ("serial", "0a")]);
    has(expiry, &[("file", "/b.pem"), ("name", "a.test"), ("serial", "0b")]);
    // Whatever is counted is exported, but for sums of what is.
    let histogram = (latency::names().len() + 1, latency::names().len() + 2);
    let of_worker = names().len() - SUMS.len() - histogram.0 + histogram.1;
    assert_eq!(samples.len(), 2 * of_worker + Tally::help().count() + 1 + 2);
    // Again, with nothing twice.
    parse(&metrics.render());
}

/// Buckets hold all that is below their bound, as Prometheus has it, and the last one all there is.
#[test]
fn the_histogram_adds_up() {
    let registry = Arc::new(Registry::new());
    let mut values = vec![0; names().len()];
    let place = |name: &str| names().iter().position(|it| *it == name).unwrap();
    values[place(latency::names()[0])] = 5;
    values[place(latency::names()[2])] = 3;
    values[place(latency::names()[latency::BOUNDS_NS.len()])] = 2;
    values[place(latency::SUM)] = 17_000_000_000;
    registry.block(names(), "worker 0".to_owned()).publish(&values);
    let (types, samples) = parse(&Metrics::new(registry, Vec::new, Vec::new).render());
    assert_eq!(types[LATENCY], "histogram");
    let of = |name: &str, le: Option<&str>| {
        let has = |sample: &&Sample| {
            sample.0 == LATENCY.to_owned() + name && sample.1.get("le").map(String::as_str) == le
        };
        samples.iter().find(has).unwrap().2
    };
    assert_eq!((of("_bucket", Some("0.000001024")), of("_bucket", Some("0.000001536"))), (5.0, 5.0));
    assert_eq!((of("_bucket", Some("0.000002048")), of("_bucket", Some("+Inf"))), (8.0, 10.0));
    assert_eq!((of("_count", None), of("_sum", None)), (10.0, 17.0));
}

#[test]
fn a_file_may_be_called_anything() {
    let odd = "/a \"b\"\\c\n.pem".to_owned();
    let text = labelled("x", "What it is.", [(vec![("file", odd)], -1)]);
    assert_eq!(text, "# HELP x What it is.\n# TYPE x gauge\nx{file=\"/a \\\"b\\\"\\\\c\\n.pem\"} -1\n");
    assert_eq!(labelled("x", "What it is.", []), "");
}
