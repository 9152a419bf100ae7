//! `[admin]`: where an operator asks, and how a node ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

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
}

pub(super) fn read(mut section: Section<'_, '_>, node: &str) -> Admin {
    let socket = section.file("socket").unwrap_or_else(|| PathBuf::from(format!("/run/keyferry/{node}.ctl")));
    let metrics =
        section.parsed("metrics", "\"IP:PORT\" of this host alone, such as \"127.0.0.1:9464\"", loopback);
    let drain_timeout = section.millis("drain_timeout_ms", 1000, 0..=DRAIN_MAX.as_millis() as u64);
    section.finish();
    Admin { socket, metrics, drain_timeout }
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
