//! The command line: parsed once, validated whole, then only read.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::arrivals::Law;
use crate::slo::Slo;

/// Largest reply a run may ask for, in bytes: well above the 64 MiB of the tests, far below an overflow.
pub const REPLY_BYTES_MAX: u64 = 1 << 32;

/// Drives an HTTPS front end, in a closed loop or at a given rate, and checks every byte of every reply.
#[derive(Clone, Debug, Parser)]
#[command(name = "keyferry-load", version)]
pub struct Args {
    /// What to ask: `https://HOST[:PORT]/PATH[?QUERY]`. Size and seed of each reply are added to the query.
    #[arg(long)]
    pub url: http::Uri,
    /// Connect to this address instead of what DNS says for HOST.
    #[arg(long, value_name = "HOST:IP")]
    pub resolve: Option<Resolve>,
    /// Connections kept open, all threads together.
    #[arg(long, short = 'c', default_value = "16")]
    pub connections: NonZeroUsize,
    /// Threads, one a core.
    #[arg(long, short = 't', default_value = "1")]
    pub threads: NonZeroUsize,
    /// Pin thread i to the i-th of these cores.
    #[arg(long, value_delimiter = ',', value_name = "CORE,...")]
    pub cores: Vec<usize>,
    /// Seconds to run; without it, until --requests are done.
    #[arg(long, short = 'd', value_name = "SECONDS", required_unless_present_any = ["requests", "trace"], value_parser = seconds)]
    pub duration: Option<f64>,
    /// Open loop: send this many requests a second, all threads together, whether or not replies come.
    #[arg(long, value_parser = rate, conflicts_with = "trace")]
    pub rate: Option<f64>,
    /// Law of the gaps between the requests of --rate.
    #[arg(long, value_enum, default_value = "constant", requires = "rate")]
    pub arrivals: Law,
    /// Open loop: send at the moments of this file, one a line, in seconds from the start.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Seconds at the start whose requests are sent but not measured.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warm_up: Option<f64>,
    /// Fail (exit status 3) unless the run meets this goal, as in `p99<2ms,errors<0.1%,rate>1000`.
    #[arg(long)]
    pub slo: Option<Slo>,
    /// Requests to send, all threads together; without it, until --duration is over.
    #[arg(long, short = 'n')]
    pub requests: Option<u64>,
    /// Close a connection after this many requests and open a new one; 0: never.
    #[arg(long, default_value_t = 0)]
    pub requests_per_connection: u64,
    /// Requests a connection may have under way: above 1 they are pipelined.
    #[arg(long, default_value = "1")]
    pub pipeline: NonZeroUsize,
    /// Send a TLS 1.3 KeyUpdate, and ask for one, after this many requests of a connection; 0: never.
    #[arg(long, default_value_t = 0)]
    pub key_update_every: u64,
    /// Sizes of replies in bytes; each request draws one.
    #[arg(long, value_delimiter = ',', default_value = "1024", value_parser = clap::value_parser!(u64).range(..=REPLY_BYTES_MAX))]
    pub bytes_mix: Vec<u64>,
    /// Query parts added to requests in turn, as in `lend=0,lend=1`.
    #[arg(long, value_delimiter = ',', value_name = "QUERY,...")]
    pub rotate: Vec<String>,
    /// Seconds a request, or a connection being opened, may take.
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: f64,
    /// Trust the certificates of this PEM file.
    #[arg(long, value_name = "FILE", required_unless_present = "insecure")]
    pub ca: Option<PathBuf>,
    /// Accept any certificate.
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Offer this TLS version only.
    #[arg(long, value_enum, value_name = "VERSION")]
    pub tls: Option<TlsVersion>,
    /// Never resume a TLS session.
    #[arg(long)]
    pub no_resumption: bool,
    /// Where the seeds of replies start; the same value asks for the same replies.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub json: bool,
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

/// Positive seconds, whole or not, within what a `Duration` and a clock can add up.
fn seconds(text: &str) -> Result<f64, String> {
    const SECONDS_MAX: f64 = 1e6;
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= SECONDS_MAX => Ok(value),
        _ => Err(format!("give seconds between 0 and {SECONDS_MAX}")),
    }
}

/// Requests a second.
fn rate(text: &str) -> Result<f64, String> {
    const RATE_MAX: f64 = 1e8;
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= RATE_MAX => Ok(value),
        _ => Err(format!("give requests a second between 0 and {RATE_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_takes_both_families() {
        let v6 = Resolve { host: "a.test".into(), address: "fd00::1".parse().unwrap() };
        assert_eq!("a.test:fd00::1".parse(), Ok(v6.clone()));
        assert_eq!("a.test:[fd00::1]".parse(), Ok(v6));
        assert!("a.test".parse::<Resolve>().is_err());
        assert!("a.test:b.test".parse::<Resolve>().is_err());
    }

    #[test]
    fn an_end_and_a_trust_anchor_are_required() {
        let parse = |rest: &[&str]| {
            Args::try_parse_from(["keyferry-load", "--url", "https://a/"].iter().chain(rest)).map(|_| ())
        };
        assert!(parse(&["--duration", "1", "--insecure"]).is_ok());
        assert!(parse(&["--requests", "1", "--insecure"]).is_ok());
        assert!(parse(&["--insecure"]).is_err());
        assert!(parse(&["--duration", "1"]).is_err());
        assert!(parse(&["--duration", "-1", "--insecure"]).is_err());
        assert!(parse(&["--duration", "1", "--insecure", "--ca", "x"]).is_err());
    }
}
