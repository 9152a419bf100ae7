//! What each stage of a request costs: a calibration, read from a file, or written from the last lines of benches.
//!
//! In: TOML, or lines `bench NAME: key=value ...`. Out: [`Costs`]. Two come with the simulator: `paper`, of the paper's
//! time, and `measured`, of this project's benches with the machine they ran on.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

const PAPER: &str = include_str!("../calibrations/paper.toml");
const MEASURED: &str = include_str!("../calibrations/measured.toml");

/// Costs of stages. Those of `core` are time of the core that does it, in ns; KB are 1,024 bytes of a reply.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Where the figures come from.
    pub source: String,
    /// The machine they were measured on.
    pub machine: String,
    /// The application works on the core that does everything else, as on servers of the paper's time; otherwise on slots
    /// of its own.
    pub app_on_core: bool,
    /// Time of a core.
    pub core: Core,
    /// What lending adds.
    pub lend: Lend,
    /// Between nodes.
    pub fabric: Fabric,
}

/// Time of a core, in ns.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Core {
    /// A TCP connection, opened and closed.
    pub tcp: u64,
    /// A full handshake.
    pub full: u64,
    /// A resumed one.
    pub resumed: u64,
    /// The reading of a request: packets in, open, parse, decide.
    pub request: u64,
    /// A reply whatever its size.
    pub reply: u64,
    /// Sealing, a KB.
    pub seal_per_kb: u64,
    /// Sending to the client, a KB.
    pub send_per_kb: u64,
}

/// What lending adds, in ns of a core.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lend {
    /// To say a message: sealed and posted, polled and opened, each side.
    pub message: u64,
    /// At the helper besides: the lent key made into a sealer.
    pub key: u64,
    /// A KB of the reply, at the helper.
    pub out_per_kb: u64,
    /// The same at the node that lent the request.
    pub in_per_kb: u64,
    /// The key goes with the request; otherwise it follows when the reply is ready.
    pub key_with_request: bool,
}

/// Between nodes, in ns.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fabric {
    /// A small message, one way.
    pub one_way: u64,
    /// A KB on the wire; a node sends one after the other.
    pub per_kb: u64,
}

impl Costs {
    /// One of those that come along, or a file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn load(name: &str) -> anyhow::Result<Costs> {
        let text = match name {
            "paper" => PAPER.to_owned(),
            "measured" => MEASURED.to_owned(),
            file => std::fs::read_to_string(file).with_context(|| format!("{file} cannot be read"))?,
        };
        toml::from_str(&text)
            .with_context(|| format!("{name} is no calibration: write one by `keyferry-sim calibrate`"))
    }

    /// Costs of nothing: for queues whose theory is known.
    pub fn nothing() -> Costs {
        Costs {
            source: String::new(),
            machine: String::new(),
            app_on_core: false,
            core: Core { tcp: 0, full: 0, resumed: 0, request: 0, reply: 0, seal_per_kb: 0, send_per_kb: 0 },
            lend: Lend { message: 0, key: 0, out_per_kb: 0, in_per_kb: 0, key_with_request: false },
            fabric: Fabric { one_way: 0, per_kb: 0 },
        }
    }

    /// What `measured` has, with what these lines of benches say put in its place: `bench record`, `request`, `sessions`, `lease`
    /// and `fabric_shm`, of which any may be missing. Answers the costs and which figures were used.
    ///
    /// # Errors
    /// No line says anything that is used.
    pub fn from_benches(text: &str, machine: String) -> anyhow::Result<(Costs, Vec<String>)> {
        let figures = figures(text);
        let mut costs = Costs::load("measured")?;
        let mut used = Vec::new();
        let mut take = |bench: &str, key: &str| {
            let figure = figures.get(&(bench.to_owned(), key.to_owned())).copied();
            if let Some(figure) = figure {
                used.push(format!("{bench} {key}={figure}"));
            }
            figure
        };
        let ns = |figure: f64| figure.max(0.0).round() as u64;
        if let Some(seal_ns) = take("record", "seal_16k_ns") {
            costs.core.seal_per_kb = ns(seal_ns / 16.0);
        }
        if let Some(key_ns) = take("record", "key_aes128_ns") {
            costs.lend.key = ns(key_ns);
        }
        if let Some(request_ns) = take("request", "ns_1k_conns") {
            // By its stages, 43 % of a request is over when it is decided where it runs. Its reply has 1 KiB.
            let ack_ns = take("request", "ack_1k_conns").unwrap_or(0.0);
            let of_size = (costs.core.seal_per_kb + costs.core.send_per_kb) as f64;
            costs.core.request = ns(request_ns * 0.43);
            costs.core.reply = ns(request_ns * 0.57 - of_size + ack_ns);
        }
        if let Some(resumed_us) = take("sessions", "local_resume_us_p50") {
            costs.core.resumed = ns(resumed_us * 1e3);
        }
        if let Some(added_us) = take("lease", "added_us_p50") {
            // Four messages and one WRITE cross; what is not their way is said at four ends of each side.
            let ways = 5.0 * take("fabric_shm", "oneway_64b_ns_p50").unwrap_or(190.0);
            costs.lend.message = ns((added_us * 1e3 - ways - costs.lend.key as f64) / 8.0);
        }
        if used.is_empty() {
            bail!(
                "none of these lines is of a bench that is known here: record, request, sessions, lease, fabric_shm"
            );
        }
        costs.machine = machine;
        costs.source = format!("cargo bench: {}", used.join(", "));
        Ok((costs, used))
    }

    /// Writes them as a file that [`load`](Costs::load) reads.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self)?;
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// `bench NAME: key=value ...`, by name and key.
fn figures(text: &str) -> HashMap<(String, String), f64> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("bench ")?.split_once(':'));
    lines
        .flat_map(|(name, rest)| {
            rest.split_whitespace().filter_map(move |pair| {
                let (key, value) = pair.split_once('=')?;
                Some(((name.trim().to_owned(), key.to_owned()), value.parse().ok()?))
            })
        })
        .collect()
}

/// The processor, its cores, and the kernel: what a calibration says of its machine.
pub fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("model name").unwrap_or_else(|| "unknown processor".to_owned());
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Last lines of benches, figures as in docs/BENCHMARKS.md, among what else is printed.
    const LINES: &str = "\
        Running benches/record.rs (target/release/deps/record-1)\n\
        bench record: seal_16k_vs_openssl=2.78 seal_16k_ns=1003 seal_4k_vs_openssl=2.74 seal_aes256_16k_vs_openssl=2.78 \
        open_16k_vs_openssl=2.72 key_aes128_ns=163\n\
        \x20  1000 connections, opened in 0.1 s:\n\
        bench request: ns_1_conn=1334 ack_1_conn=374 ns_1k_conns=1207 ack_1k_conns=215 allocs_per_request=0.000 \
        ns_1m_conns=1722 ack_1m_conns=676 ratio_1m_to_1k=1.46 ns_1m_conns_compact=2294 ratio_1m_to_1k_compact=1.95\n\
        bench sessions: local_resume_us_p50=49.30 remote_resume_us_p50=51.80 remote_take_added_us_p50=2.50\n\
        bench lease: added_us_p50=3.32 added_us_p99=5.93 local_us_p50=2.48 lent_us_p50=5.79\n\
        bench fabric_shm: oneway_64b_ns_p50=190\n";

    #[test]
    fn both_calibrations_are_whole_and_survive_writing() {
        for name in ["paper", "measured"] {
            let costs = Costs::load(name).unwrap();
            assert_eq!(toml::from_str::<Costs>(&toml::to_string(&costs).unwrap()).unwrap(), costs);
        }
        assert_eq!(Costs::load("paper").unwrap().core.full, 32 * Costs::load("paper").unwrap().core.resumed);
    }

    #[test]
    fn a_file_that_is_none_is_named_with_what_writes_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_str().unwrap();
        let told = Costs::load(name).unwrap_err().to_string();
        assert_eq!(told, format!("{name} is no calibration: write one by `keyferry-sim calibrate`"));
    }

    #[test]
    fn lines_of_benches_become_costs() {
        let (costs, used) = Costs::from_benches(LINES, "a machine".to_owned()).unwrap();
        assert_eq!(used.len(), 7, "{used:?}");
        assert_eq!((costs.core.seal_per_kb, costs.lend.key, costs.core.resumed), (63, 163, 49_300));
        // 0.43 x 1,207; 0.57 x 1,207 - 63 - 357 + 215
        assert_eq!((costs.core.request, costs.core.reply, costs.machine.as_str()), (519, 483, "a machine"));
        // (3,320 - 5 x 190 - 163) / 8
        assert_eq!(costs.lend.message, 276);
        let measured = Costs::load("measured").unwrap();
        assert_eq!((costs.core, costs.lend), (measured.core, measured.lend), "it is made of these lines");
        assert!(Costs::from_benches("bench other: x=1", String::new()).is_err());
    }

    /// The benches print what is read here: each name, as far as it is written in one piece there.
    #[test]
    fn benches_have_these_names() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for (file, bench, pieces) in [
            (
                "benches/record.rs",
                "record",
                &["\"seal{key}_{size_name}_ns=", "\"key_{name}_ns=", "(\"aes128\","][..],
            ),
            ("benches/request.rs", "request", &["ns_{name}=", " ack_{name}=", "k_conns\""]),
            ("benches/sessions.rs", "sessions", &["local_resume_us_p50="]),
            ("benches/lease.rs", "lease", &["added_us_p50="]),
            ("dataplane/fabric/benches/shm.rs", "fabric_shm", &["oneway_64b_ns_p50="]),
        ] {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(text.contains(&format!("bench {bench}:")), "{file}");
            pieces.iter().for_each(|piece| assert!(text.contains(piece), "{file} prints no {piece}"));
        }
    }
}
