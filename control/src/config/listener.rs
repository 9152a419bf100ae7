//! `[[listener]]`: which ports are served, and how.

use super::reader::{Context, Section};

/// Listeners of a node, at most.
pub const LISTENERS_MAX: usize = 16;

/// One port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// TCP port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 over TLS.
    Https,
    /// Plain HTTP, every request answered with a redirect to https.
    Redirect,
}

const PROTOCOLS: &[(&str, Protocol)] = &[("https", Protocol::Https), ("redirect", Protocol::Redirect)];

pub(super) fn read(mut section: Section<'_, '_>) -> Option<Listener> {
    let given = section.number("port", 0, 1..=65_535);
    let port = section.required("port", (given != 0).then_some(given), "a TCP port, such as 443");
    let protocol = section.choice("protocol", PROTOCOLS, Protocol::Https);
    section.finish();
    Some(Listener { port: port?, protocol })
}

/// What is served when the file names no listener: https on 443, and a redirect to it on 80.
pub(super) fn defaults() -> Vec<Listener> {
    vec![
        Listener { port: 443, protocol: Protocol::Https },
        Listener { port: 80, protocol: Protocol::Redirect },
    ]
}

/// Whether each port is served once and redirects lead somewhere.
pub(super) fn check(context: &Context<'_>, listeners: &[(usize, Listener)]) {
    for (position, (index, listener)) in listeners.iter().enumerate() {
        if listeners[..position].iter().any(|(_, other)| other.port == listener.port) {
            let path = format!("listener[{index}].port");
            context.report(&path, format!("port {} has two listeners: remove one", listener.port));
        }
    }
    if !listeners.is_empty() && !listeners.iter().any(|(_, listener)| listener.protocol == Protocol::Https) {
        let path = format!("listener[{}]", listeners[0].0);
        context.report(&path, "no listener speaks https, so there is nothing to redirect to: add one");
    }
}
