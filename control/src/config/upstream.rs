//! `[[upstream]]`: origin servers a request can be sent on to.

use std::path::Path;
use std::time::Duration;

use keyferry_upstream::{Address, Forwarded, Health, Options, SERVERS_MAX};

use super::reader::{Context, Section};
use crate::links;

/// Upstreams of a node, at most.
pub const UPSTREAMS_MAX: usize = 64;

/// Connections to one server at most, for each application thread.
const CONNECTIONS_MAX: u64 = 16_384;
/// Requests that wait for a connection at most, for each application thread.
const QUEUE_MAX: u64 = 1 << 20;
/// Longest time any of them waits: an hour.
const MS_MAX: u64 = 3_600_000;
/// Longest silence of a WebSocket: a day.
const UPGRADED_MS_MAX: u64 = 86_400_000;
/// Failures and health checks in a row, at most.
const IN_A_ROW_MAX: u64 = 1_000;
/// Bytes of a name at most.
const NAME_BYTES_MAX: usize = 63;

const SERVERS: &str = "a list of servers, such as [\"10.0.0.1:8080\", \"unix:/run/app.sock\"]";

#[derive(Clone, Copy)]
enum Whose {
    Both,
    Legacy,
    Standard,
    None,
}

const WHOSE: &[(&str, Whose)] = &[
    ("both", Whose::Both),
    ("x-forwarded", Whose::Legacy),
    ("forwarded", Whose::Standard),
    ("none", Whose::None),
];

pub(super) fn read(mut section: Section<'_, '_>) -> Option<Options> {
    let name = section.parsed("name", "a name in quotes", name);
    let name = section.required("name", name, "a name, which [app] and [[route]] use");
    let folder = section.folder();
    let servers = section.parsed_list("servers", SERVERS, 1..=SERVERS_MAX, |text| server(text, folder));
    let servers = section.required("servers", servers, SERVERS);
    let defaults = Options::new("", Vec::new());
    let ms = |time: Duration| time.as_millis() as u64;
    let connections = section.number("connections", defaults.connections, 1..=CONNECTIONS_MAX);
    let idle = section.number("idle", defaults.idle, 0..=CONNECTIONS_MAX);
    let idle_timeout = section.millis("idle_timeout_ms", ms(defaults.idle_timeout), 1..=MS_MAX);
    let queue = section.number("queue", defaults.queue, 0..=QUEUE_MAX);
    let queue_timeout = section.millis("queue_timeout_ms", ms(defaults.queue_timeout), 1..=MS_MAX);
    let connect_timeout = section.millis("connect_timeout_ms", ms(defaults.connect_timeout), 1..=MS_MAX);
    let reply_timeout = section.millis("reply_timeout_ms", ms(defaults.reply_timeout), 1..=MS_MAX);
    let body_timeout = section.millis("body_timeout_ms", ms(defaults.body_timeout), 1..=MS_MAX);
    let upgraded_timeout =
        section.millis("upgraded_timeout_ms", ms(defaults.upgraded_timeout), 1..=UPGRADED_MS_MAX);
    let failures = section.number("failures", defaults.failures, 0..=IN_A_ROW_MAX);
    let out = section.millis("out_ms", ms(defaults.out), 1..=MS_MAX);
    let whose = section.choice("forwarded", WHOSE, Whose::Both);
    let trusted = section.flag("trust_forwarded", false);
    let via = section.flag("via", false);
    let proxy_protocol = section.flag("proxy_protocol", false);
    let health = read_health(section.section("health"));
    section.finish();
    let servers = servers?;
    if servers.is_empty() {
        // Each that was there has been reported.
        return None;
    }
    Some(Options {
        name: name?,
        servers,
        connections,
        idle,
        idle_timeout,
        queue,
        queue_timeout,
        connect_timeout,
        reply_timeout,
        body_timeout,
        upgraded_timeout,
        failures,
        out,
        forwarded: Forwarded {
            legacy: matches!(whose, Whose::Both | Whose::Legacy),
            standard: matches!(whose, Whose::Both | Whose::Standard),
            trusted,
        },
        via,
        proxy_protocol,
        health,
    })
}

/// Checks are made where a path is given.
fn read_health(mut section: Section<'_, '_>) -> Option<Health> {
    let path = section.parsed("path", "a path in quotes, such as \"/health\"", path);
    let host = section.parsed("host", "a host in quotes", host);
    let interval = section.millis("interval_ms", 2_000, 10..=MS_MAX);
    let timeout = section.millis("timeout_ms", 1_000, 1..=MS_MAX);
    let rise = section.number("rise", 2, 1..=IN_A_ROW_MAX);
    let fall = section.number("fall", 3, 1..=IN_A_ROW_MAX);
    section.finish();
    Some(Health { path: path?, host, interval, timeout, rise, fall })
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.chars().all(is_plain) {
        let what = format!("\"{text}\" is no name: write up to {NAME_BYTES_MAX}");
        return Err(format!("{what} letters, digits, \"-\", \"_\" and \".\""));
    }
    if super::app::is_builtin(text) {
        return Err(format!("\"{text}\" is an application that comes with keyferry: write another name"));
    }
    Ok(text.to_owned())
}

fn server(text: &str, folder: &Path) -> Result<Address, String> {
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        return Err(format!(
            "servers are asked in plain HTTP: write \"IP:PORT\" in place of a URL of {rest}"
        ));
    }
    match super::peer_address(text, folder) {
        Ok(links::Address::Unix(path)) => Ok(Address::Unix(path)),
        Ok(links::Address::Tcp(address)) => Ok(Address::Tcp(address)),
        Err(_) if text.ends_with(":0") => Err(format!("\"{text}\" has no port: write the server's")),
        Err(_) if text == "unix:" => Err("\"unix:\" lacks a path: write where the socket is".to_owned()),
        Err(_) => Err(format!(
            "\"{text}\" is no server: write \"IP:PORT\" or \"unix:PATH\"; names are not looked up"
        )),
    }
}

/// The path of requests.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is no path: write one that begins with \"/\", other characters than ASCII encoded"
    ))
}

/// A host without its port.
pub(super) fn host(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_literal = |text: &str| {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    if (!text.is_empty() && text.len() <= 255 && text.chars().all(is_plain)) || is_literal(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("\"{text}\" is no host: write a name or an address, without scheme and port"))
}

/// Whether names differ.
/// Whether each has a name that no application of the executable's own has.
pub(super) fn check_names(context: &Context<'_>, upstreams: &[(usize, Options)], own: &[String]) {
    for (index, upstream) in upstreams.iter().filter(|(_, upstream)| own.contains(&upstream.name)) {
        let what = format!("\"{}\" is an application of this executable: write another name", upstream.name);
        context.report(&format!("upstream[{index}].name"), what);
    }
}

pub(super) fn check(context: &Context<'_>, upstreams: &[(usize, Options)]) {
    for (position, (index, upstream)) in upstreams.iter().enumerate() {
        if upstreams[..position].iter().any(|(_, other)| other.name == upstream.name) {
            let what = format!("\"{}\" is another one's name too: give each its own", upstream.name);
            context.report(&format!("upstream[{index}].name"), what);
        }
        if upstream.idle > upstream.connections {
            let what = format!("only {} connections are opened: write at most so many", upstream.connections);
            context.report(&format!("upstream[{index}].idle"), what);
        }
    }
}
