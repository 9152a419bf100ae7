//! The command line: parsed once, validated whole, then only read.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use keyferry_link::Cidr;

use crate::arrivals::Law;
use crate::check::parse_sha256;
use crate::clients::{Skew, SkewOf, Sources};
use crate::mix::Mix;
use crate::slo::Slo;

/// Largest reply a run may ask for, in bytes: well above the 64 MiB of the tests, far below an overflow.
pub const REPLY_BYTES_MAX: u64 = 1 << 32;
/// Connections a run may keep open.
pub const CONNECTIONS_MAX: usize = 1 << 20;
/// Threads a run may have.
pub const THREADS_MAX: usize = 1 << 10;

const OTHER_COMMANDS: &str = "Other commands:
  keyferry-load search --slo GOAL [OPTIONS] URL...   the highest rate that meets a goal
  keyferry-load compare A.json B.json                two results, and whether they differ by more than noise

Exit status: 0 all was right; 1 a wrong body, or no reply at all; 2 the load could not start; 3 --slo was not met;
4 search cannot measure reliably.  All of it: docs/LOADGEN.md";

/// Drives HTTPS servers, in a closed loop or at a given rate, and reports latency from the moment requests were meant
/// to be sent.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyferry-load", version, after_help = OTHER_COMMANDS)]
pub struct Args {
    /// What to ask: `https://HOST[:PORT]/PATH[?QUERY]`; several are taken in turn.
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<http::Uri>,
    /// Shares of several URLs, as in `3,1`.
    #[arg(long, value_delimiter = ',', value_name = "WEIGHT,...", value_parser = weight)]
    pub weights: Vec<f64>,
    /// Connect to this address instead of what DNS says for HOST.
    #[arg(long, value_name = "HOST:IP")]
    pub resolve: Vec<Resolve>,

    /// Connections kept open, all threads together.
    #[arg(long, short = 'c', default_value = "16", help_heading = "Load", value_parser = connections)]
    pub connections: NonZeroUsize,
    /// Threads, one a core.
    #[arg(long, short = 't', default_value = "1", help_heading = "Load", value_parser = threads)]
    pub threads: NonZeroUsize,
    /// Pin thread i to the i-th of these cores.
    #[arg(long, value_delimiter = ',', value_name = "CORE,...", help_heading = "Load")]
    pub cores: Vec<usize>,
    /// Seconds to run, the warm-up included; without it, until --requests are done.
    #[arg(long, short = 'd', value_name = "SECONDS", help_heading = "Load",
        required_unless_present_any = ["requests", "trace"], value_parser = seconds)]
    pub duration: Option<f64>,
    /// Requests to send, all threads together; without it, until --duration is over.
    #[arg(long, short = 'n', help_heading = "Load")]
    pub requests: Option<u64>,
    /// Seconds at the start whose requests are sent but not measured.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    pub warm_up: Option<f64>,
    /// Open loop: send this many requests a second, all threads together, whether or not replies come.
    #[arg(long, value_parser = rate, conflicts_with_all = ["trace", "think"], help_heading = "Load")]
    pub rate: Option<f64>,
    /// Law of the gaps between the requests of --rate.
    #[arg(long, value_enum, default_value = "constant", requires = "rate", help_heading = "Load")]
    pub arrivals: Law,
    /// Open loop: send at the moments of this file, one a line, in seconds from the start.
    #[arg(long, value_name = "FILE", conflicts_with = "think", help_heading = "Load")]
    pub trace: Option<PathBuf>,
    /// Closed loop: seconds a connection waits between a reply and its next request, as in `0.01`, or on average, as
    /// in `exp:0.01`.
    #[arg(long, value_name = "[exp:]SECONDS", help_heading = "Load")]
    pub think: Option<Think>,
    /// Requests a connection may have under way: above 1 they are pipelined.
    #[arg(long, default_value = "1", help_heading = "Load")]
    pub pipeline: NonZeroUsize,
    /// Close a connection after this many requests and open a new one; 0: never. In an open loop the new one is
    /// opened when a request is due, which then waits for TCP and TLS; with --skew-of requests at once.
    #[arg(long, default_value_t = 0, help_heading = "Load")]
    pub requests_per_connection: u64,
    /// Never sleep: more exact moments, for a whole core.
    #[arg(long, help_heading = "Load")]
    pub spin: bool,
    /// Where random numbers start: the same value makes the same plan.
    #[arg(long, default_value_t = 0, help_heading = "Load")]
    pub seed: u64,
    /// Open loop: seconds after the end in which requests that were due are still sent; without it, as --timeout.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    pub drain: Option<f64>,
    /// Seconds a request, or a connection being opened, may take.
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    pub timeout: f64,

    /// Source addresses to connect from, each of them a client: `10.79.0.10-10.79.0.250,fd00::1`.
    #[arg(long, value_name = "IP[-IP],...", help_heading = "Clients")]
    pub source: Option<Sources>,
    /// How load is spread over --source: even, zipf:S, or hot:CLIENTS:SHARE.
    #[arg(long, default_value = "even", requires = "source", help_heading = "Clients")]
    pub skew: Skew,
    /// What is spread so: connections, or, in an open loop, requests over clients with as many connections each, where
    /// those of a busy client wait for one another.
    #[arg(long, value_enum, default_value = "connections", requires = "source", help_heading = "Clients")]
    pub skew_of: SkewOf,

    /// Instead of the kernel's sockets.
    #[command(flatten)]
    pub nic: NicArgs,

    /// Method of requests; HEAD and CONNECT are not for load.
    #[arg(long, default_value = "GET", value_parser = method, help_heading = "Requests")]
    pub method: String,
    /// A header of requests.
    #[arg(long, short = 'H', value_name = "NAME: VALUE", help_heading = "Requests")]
    pub header: Vec<String>,
    /// Send this file as the body of requests.
    #[arg(long, value_name = "FILE", help_heading = "Requests")]
    pub body: Option<PathBuf>,
    /// Fail when a body has another SHA-256.
    #[arg(long, value_name = "HEX", value_parser = parse_sha256, conflicts_with = "synthetic", help_heading = "Requests")]
    pub expect_sha256: Option<[u8; 32]>,
    /// The server runs keyferry's synthetic application: add size, seed and cost to the query, and check each byte of
    /// each body.
    #[arg(long, help_heading = "Requests")]
    pub synthetic: bool,
    /// Sizes of replies in bytes, with weights, as in `1024:9,65536:1`; each request draws one.
    #[arg(long, default_value = "1024", value_name = "BYTES[:WEIGHT],...", requires = "synthetic",
        value_parser = sizes, help_heading = "Requests")]
    pub bytes_mix: Mix<u64>,
    /// Costs of replies in microseconds, with weights; each request draws one.
    #[arg(long, value_name = "US[:WEIGHT],...", requires = "synthetic", help_heading = "Requests")]
    pub cost_mix: Option<Mix<u64>>,
    /// Query parts added to requests in turn, as in `lend=0,lend=1`.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "QUERY,...",
        requires = "synthetic",
        help_heading = "Requests"
    )]
    pub rotate: Vec<String>,

    /// Trust the certificates of this PEM file, not those of the system.
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub ca: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long, conflicts_with = "ca", help_heading = "TLS")]
    pub insecure: bool,
    /// Offer this TLS version only.
    #[arg(long, value_enum, value_name = "VERSION", help_heading = "TLS")]
    pub tls: Option<TlsVersion>,
    /// Offer these cipher suites only, in this order: `TLS13_AES_128_GCM_SHA256`, ...
    #[arg(long, value_delimiter = ',', value_name = "SUITE,...", help_heading = "TLS")]
    pub suites: Vec<String>,
    /// Offer these groups only, in this order: `X25519`, `secp256r1`, `X25519MLKEM768`, ...
    #[arg(long, value_delimiter = ',', value_name = "GROUP,...", help_heading = "TLS")]
    pub groups: Vec<String>,
    /// Share of handshakes that resume a session, from 0 to 1 or in percent.
    #[arg(long, default_value = "1", value_name = "SHARE", value_parser = share, help_heading = "TLS")]
    pub resume: f64,
    /// Never resume a TLS session, and keep none.
    #[arg(long, conflicts_with = "resume", help_heading = "TLS")]
    pub no_resumption: bool,
    /// Resume TLS 1.2 sessions by session ID only, without tickets.
    #[arg(long, help_heading = "TLS")]
    pub session_ids: bool,
    /// Send a TLS 1.3 KeyUpdate, and ask for one, after this many requests of a connection; 0: never.
    #[arg(long, default_value_t = 0, help_heading = "TLS")]
    pub key_update_every: u64,

    /// Write the result as one JSON document; `-`: to standard output, instead of the table.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write latency, second by second, as an HdrHistogram log (V2, compressed; tags: corrected, raw).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hdr: Option<PathBuf>,
    /// Write one HTML page with plots.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,
    /// Show live rates although standard error is no terminal.
    #[arg(long, help_heading = "Output")]
    pub progress: bool,
    /// Exit with status 3 unless the run meets this goal, as in `p99<2ms,errors<0.1%,rate>1000`.
    #[arg(long, value_name = "GOAL", help_heading = "Output")]
    pub slo: Option<Slo>,
}

/// A port of the generator's own.
#[derive(Clone, Debug, clap::Args)]
pub struct NicArgs {
    /// Send and receive through DPDK on this device, with a TCP of our own: a PCI address (`0000:3b:00.0`) or a vdev
    /// (`net_af_packet0,iface=eth1`, `net_virtio_user0,path=/run/vhost.sock`). One thread, which polls.
    #[arg(long, value_name = "DEVICE", help_heading = "Port")]
    pub nic: Option<String>,
    /// Addresses of that port, with prefix; those of --source come from their networks.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "IP/PREFIX,...",
        requires = "nic",
        help_heading = "Port"
    )]
    pub nic_address: Vec<Cidr>,
    /// Routers of that port, one of each family at most.
    #[arg(long, value_delimiter = ',', value_name = "IP,...", requires = "nic", help_heading = "Port")]
    pub gateway: Vec<IpAddr>,
    /// Largest IP packet of that port.
    #[arg(long, default_value = "1500", value_name = "BYTES", requires = "nic", help_heading = "Port",
        value_parser = clap::value_parser!(u16).range(1280..=9000))]
    pub nic_mtu: u16,
    /// Its packet memory, in MiB.
    #[arg(long, default_value = "128", value_name = "MIB", requires = "nic", help_heading = "Port",
        value_parser = clap::value_parser!(u32).range(64..=65_536))]
    pub nic_memory_mib: u32,
    /// Whether that is in hugepages; auto: where there are enough.
    #[arg(long, value_enum, default_value = "auto", requires = "nic", help_heading = "Port")]
    pub nic_hugepages: Pages,
}

/// Whether packet memory is in hugepages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Pages {
    Auto,
    Require,
    Never,
}

/// `keyferry-load search`: looks for the highest rate that meets --slo. Each trial lasts --duration.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyferry-load search", version)]
pub struct SearchArgs {
    /// What each trial does; its rate is the search's.
    #[command(flatten)]
    pub run: Args,
    /// First rate to try, in requests a second.
    #[arg(long, default_value = "100", value_parser = rate, help_heading = "Search")]
    pub from: f64,
    /// Highest rate to try.
    #[arg(long, default_value = "10000000", value_parser = rate, help_heading = "Search")]
    pub to: f64,
    /// How far above the result the lowest rate that failed may be.
    #[arg(long, default_value = "5%", value_parser = share, help_heading = "Search")]
    pub precision: f64,
    /// Times the result has to hold.
    #[arg(long, default_value = "3", help_heading = "Search")]
    pub repeats: NonZeroUsize,
}

/// `keyferry-load compare`: two results, and whether they differ by more than noise.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyferry-load compare", version)]
pub struct CompareArgs {
    /// The result to compare with, written by --json.
    pub a: PathBuf,
    /// The result to be compared.
    pub b: PathBuf,
}

/// A TLS version on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsVersion {
    /// RFC 5246.
    #[value(name = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    Tls13,
}

impl Args {
    /// How long requests are started; `None`: as long as there are any.
    pub fn duration(&self) -> Option<Duration> {
        self.duration.map(Duration::from_secs_f64)
    }

    /// How long the start of the run is not measured.
    pub fn warm_up(&self) -> Duration {
        self.warm_up.map_or(Duration::ZERO, Duration::from_secs_f64)
    }

    /// Longest wait for one reply or one handshake.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    /// What single arguments cannot say of each other.
    ///
    /// # Errors
    /// With what to change.
    pub fn validate(&self) -> anyhow::Result<()> {
        let warm_up = self.warm_up.unwrap_or(0.0);
        anyhow::ensure!(
            self.duration.is_none_or(|duration| warm_up < duration),
            "--warm-up takes all of --duration; make the run longer"
        );
        anyhow::ensure!(
            self.weights.is_empty() || self.weights.len() == self.urls.len(),
            "{} weights for {} URLs; give as many",
            self.weights.len(),
            self.urls.len()
        );
        anyhow::ensure!(
            self.threads <= self.connections,
            "{} threads share {} connections; give --connections as many at least",
            self.threads,
            self.connections
        );
        if self.skew_of == SkewOf::Requests {
            let clients = self.source.as_ref().map_or(1, |sources| sources.0.len());
            let connections = self.connections.get() / self.threads;
            anyhow::ensure!(
                self.rate.is_some() || self.trace.is_some(),
                "--skew-of requests is for an open loop; give --rate or --trace"
            );
            anyhow::ensure!(
                connections >= clients,
                "{clients} clients share {connections} connections of a thread; give --connections {} at least",
                clients * self.threads.get()
            );
        }
        Ok(())
    }
}

/// `--resolve HOST:IP`; an IPv6 address may stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The name as it stands in the URL.
    pub host: String,
    /// Where to connect.
    pub address: IpAddr,
}

impl FromStr for Resolve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, address) = text.split_once(':').ok_or("write it as HOST:IP")?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
        Ok(Resolve { host: host.to_owned(), address })
    }
}

/// Time between a reply and the next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Think {
    /// On average, in seconds.
    pub mean_s: f64,
    /// Exponentially distributed, not fixed.
    pub is_exponential: bool,
}

impl FromStr for Think {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, is_exponential) = text.strip_prefix("exp:").map_or((text, false), |rest| (rest, true));
        Ok(Think { mean_s: seconds(text)?, is_exponential })
    }
}

impl Think {
    /// The time for a uniform number in [0, 1).
    pub fn draw(&self, uniform: f64) -> Duration {
        let factor = if self.is_exponential { -(1.0 - uniform).ln() } else { 1.0 };
        Duration::from_secs_f64(self.mean_s * factor)
    }
}

/// Positive seconds, whole or not, within what a `Duration` and a clock can add up.
fn seconds(text: &str) -> Result<f64, String> {
    const SECONDS_MAX: f64 = 1e6;
    between(text, "seconds", SECONDS_MAX)
}

/// Requests a second.
pub fn rate(text: &str) -> Result<f64, String> {
    const RATE_MAX: f64 = 1e8;
    between(text, "requests a second", RATE_MAX)
}

fn between(text: &str, what: &str, max: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= max => Ok(value),
        _ => Err(format!("give {what} above 0, up to {max}")),
    }
}

fn weight(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("give numbers above 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let (text, whole) = text.strip_suffix('%').map_or((text, 1.0), |text| (text, 100.0));
    match text.parse::<f64>() {
        Ok(value) if (0.0..=whole).contains(&value) => Ok(value / whole),
        _ => Err("give a share from 0 to 1, or from 0% to 100%".to_owned()),
    }
}

fn connections(text: &str) -> Result<NonZeroUsize, String> {
    count(text, CONNECTIONS_MAX)
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    count(text, THREADS_MAX)
}

fn count(text: &str, max: usize) -> Result<NonZeroUsize, String> {
    text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= max).ok_or(format!("give 1 to {max}"))
}

fn sizes(text: &str) -> Result<Mix<u64>, String> {
    let mix: Mix<u64> = text.parse()?;
    match mix.values().iter().find(|&&bytes| bytes > REPLY_BYTES_MAX) {
        Some(bytes) => Err(format!("{bytes} bytes are too many; give {REPLY_BYTES_MAX} at most")),
        None => Ok(mix),
    }
}

fn method(text: &str) -> Result<String, String> {
    let method = http::Method::from_bytes(text.as_bytes())
        .map_err(|_| format!("{text:?} is no method; write one such as GET"))?;
    match method {
        http::Method::HEAD | http::Method::CONNECT => {
            Err(format!("{method} has replies without a body; give another method"))
        }
        _ => Ok(method.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &[&str]) -> Option<Args> {
        let fixed = ["keyferry-load", "https://a/"];
        let args = Args::try_parse_from(fixed.iter().chain(rest)).ok()?;
        args.validate().is_ok().then_some(args)
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        SearchArgs::command().debug_assert();
        CompareArgs::command().debug_assert();
    }

    #[test]
    fn resolve_takes_both_families() {
        let v6 = Resolve { host: "a.test".into(), address: "fd00::1".parse().unwrap() };
        assert_eq!("a.test:fd00::1".parse(), Ok(v6.clone()));
        assert_eq!("a.test:[fd00::1]".parse(), Ok(v6));
        assert!("a.test".parse::<Resolve>().is_err());
        assert!("a.test:b.test".parse::<Resolve>().is_err());
    }

    #[test]
    fn a_run_needs_an_end_and_sense() {
        for right in [
            &["-d", "1"] as &[&str],
            &["-n", "1", "--insecure"],
            &["--trace", "x"],
            &["-d", "2", "--warm-up", "1", "--resume", "80%"],
            &["-n", "1", "--synthetic", "--bytes-mix", "1:3,4"],
        ] {
            assert!(parse(right).is_some(), "{right:?}");
        }
        for wrong in [
            &[] as &[&str],
            &["-d", "-1"],
            &["-d", "1", "--insecure", "--ca", "x"],
            &["-d", "1", "--warm-up", "1"],
            &["-d", "1", "--weights", "1,2"],
            &["-d", "1", "-t", "2", "-c", "1"],
            &["-d", "1", "--rate", "1", "--think", "1"],
            &["-d", "1", "--bytes-mix", "5"],
            &["-d", "1", "--resume", "2"],
            &["-d", "1", "--method", "HEAD"],
            &["-d", "1", "--skew", "zipf:1"],
        ] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn thinking_is_fixed_or_exponential() {
        let fixed: Think = "0.5".parse().unwrap();
        assert_eq!(fixed.draw(0.9), Duration::from_millis(500));
        let exponential: Think = "exp:2".parse().unwrap();
        let mean = (0..10_000).map(|n| exponential.draw(f64::from(n) / 1e4).as_secs_f64()).sum::<f64>() / 1e4;
        assert!((1.98..2.02).contains(&mean), "{mean}");
    }
}
