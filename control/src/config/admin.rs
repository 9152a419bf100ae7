//! `[admin]`: where an operator asks, how a node ends, what it logs, whom it runs as.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::changes::Ledger;
use super::reader::Section;
use crate::drain::DRAIN_MAX;

/// Where an operator asks, and how a node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket `keyferry ctl` connects to.
    pub socket: PathBuf,
    /// Where Prometheus finds the counters; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How long what is open may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// What goes to standard error.
    pub log: LogLevel,
    /// How it is written.
    pub log_format: LogFormat,
    /// Whom the process becomes once it has opened all that takes more rights; `None`: it stays who it is.
    pub user: Option<String>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What does not work.
    Error,
    /// And what may not for long.
    Warn,
    /// And what changes.
    Info,
    /// And what libraries have to tell.
    Debug,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

impl Admin {
    /// Goes by another table of the file.
    pub(super) fn take_over(&mut self, new: &Admin, ledger: &mut Ledger) {
        let Admin { socket, metrics, drain_timeout, log, log_format, user } = self;
        ledger.fixed("[admin]", "socket", socket, &new.socket);
        ledger.fixed("[admin]", "metrics", metrics, &new.metrics);
        ledger.live("[admin]", "drain_timeout_ms", drain_timeout, &new.drain_timeout);
        ledger.live("[admin]", "log", log, &new.log);
        ledger.fixed("[admin]", "log_format", log_format, &new.log_format);
        ledger.fixed("[admin]", "user", user, &new.user);
    }
}

/// What is logged, from the least to the most.
const LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];

const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

pub(super) fn read(mut section: Section<'_, '_>, node: &str) -> Admin {
    let socket = section.file("socket").unwrap_or_else(|| PathBuf::from(format!("/run/keyferry/{node}.ctl")));
    let metrics =
        section.parsed("metrics", "\"IP:PORT\" of this host alone, such as \"127.0.0.1:9464\"", loopback);
    let drain_timeout = section.millis("drain_timeout_ms", 1000, 0..=DRAIN_MAX.as_millis() as u64);
    let log = section.choice("log", LEVELS, LogLevel::Info);
    let log_format = section.choice("log_format", FORMATS, LogFormat::Text);
    let user = section.parsed("user", "a user's name, such as \"keyferry\"", |name| match name {
        "" => Err("this name is empty: leave the key out where the process stays who it is"),
        name => Ok(name.to_owned()),
    });
    section.finish();
    Admin { socket, metrics, drain_timeout, log, log_format, user }
}

/// Counters tell much of a service, and whoever asks is not asked who it is.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let example = "such as \"127.0.0.1:9464\" or \"[::1]:9464\"";
    let address: SocketAddr =
        text.parse().map_err(|_| format!("\"{text}\" is no address: write \"IP:PORT\", {example}"))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{} can be reached from elsewhere, and everybody may ask: write a loopback address, {example}, and let \
             an agent on this host collect from it",
            address.ip()
        ));
    }
    match address.port() {
        0 => Err(format!("\"{text}\" has no port: write one, {example}")),
        _ => Ok(address),
    }
}
