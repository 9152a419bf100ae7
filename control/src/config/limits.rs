//! `[limits]`: bounds of each worker.

use std::time::Duration;

use keyferry_http::HEADERS_MAX;

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Least buffer of a connection, in bytes.
pub const BUFFER_BYTES_MIN: usize = 4096;
/// Largest buffer of a connection, in bytes; TCP's window with scaling is larger, a worker's memory is not.
pub const BUFFER_BYTES_MAX: usize = 16 << 20;
/// Longest timeout, in ms: a day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;

/// Bounds of each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Connections of them whose TCP handshake is under way.
    pub half_open: u32,
    /// Connections of them whose TLS handshake is under way.
    pub handshakes: u32,
    /// TLS handshake, from the connection on.
    pub handshake_timeout: Duration,
    /// Connection without a request.
    pub idle_timeout: Duration,
    /// Request head, from its first byte on.
    pub header_timeout: Duration,
    /// Request body, from the end of its head on, besides what its bytes may take at `body_rate`.
    pub body_timeout: Duration,
    /// The slowest a long body may come, in bytes a second.
    pub body_rate: u32,
    /// Receive buffer of a connection, in bytes.
    pub receive_buffer: usize,
    /// Send buffer of a connection, in bytes.
    pub send_buffer: usize,
    /// Request head, in bytes.
    pub header_bytes: usize,
    /// Request target, in bytes.
    pub target_bytes: usize,
    /// Header fields of a request.
    pub headers: usize,
    /// Request body, in bytes.
    pub body_bytes: usize,
    /// Request body that streams to an upstream, in bytes.
    pub streamed_bytes: usize,
    /// Line of a chunk's size with its extensions, and all trailers of a body, in bytes.
    pub chunk_line_bytes: usize,
    /// Requests handed to the application and not yet answered.
    pub requests_in_app: usize,
}

impl Limits {
    /// Goes by another table of the file. Tables and buffers are made at start.
    pub(super) fn take_over(&mut self, new: &Limits, ledger: &mut Ledger) {
        let Limits {
            connections,
            half_open,
            handshakes,
            handshake_timeout,
            idle_timeout,
            header_timeout,
            body_timeout,
            body_rate,
            receive_buffer,
            send_buffer,
            header_bytes,
            target_bytes,
            headers,
            body_bytes,
            streamed_bytes,
            chunk_line_bytes,
            requests_in_app,
        } = self;
        let table = "[limits]";
        ledger.fixed(table, "connections", connections, &new.connections);
        ledger.fixed(table, "half_open", half_open, &new.half_open);
        ledger.live(table, "handshakes", handshakes, &new.handshakes);
        ledger.live(table, "handshake_timeout_ms", handshake_timeout, &new.handshake_timeout);
        ledger.live(table, "idle_timeout_ms", idle_timeout, &new.idle_timeout);
        ledger.live(table, "header_timeout_ms", header_timeout, &new.header_timeout);
        ledger.live(table, "body_timeout_ms", body_timeout, &new.body_timeout);
        ledger.live(table, "body_rate", body_rate, &new.body_rate);
        ledger.fixed(table, "receive_buffer", receive_buffer, &new.receive_buffer);
        ledger.fixed(table, "send_buffer", send_buffer, &new.send_buffer);
        ledger.live(table, "header_bytes", header_bytes, &new.header_bytes);
        ledger.live(table, "target_bytes", target_bytes, &new.target_bytes);
        ledger.live(table, "headers", headers, &new.headers);
        ledger.live(table, "body_bytes", body_bytes, &new.body_bytes);
        ledger.live(table, "streamed_bytes", streamed_bytes, &new.streamed_bytes);
        ledger.live(table, "chunk_line_bytes", chunk_line_bytes, &new.chunk_line_bytes);
        ledger.fixed(table, "requests_in_app", requests_in_app, &new.requests_in_app);
    }
}

pub(super) fn read(mut section: Section<'_, '_>) -> Limits {
    let timeout = 1..=TIMEOUT_MS_MAX;
    let buffer = BUFFER_BYTES_MIN as u64..=BUFFER_BYTES_MAX as u64;
    let limits = Limits {
        connections: section.number("connections", 16_384, 1..=1 << 24),
        half_open: section.number("half_open", 1024, 1..=1 << 20),
        handshakes: section.number("handshakes", 256, 1..=1 << 20),
        handshake_timeout: section.millis("handshake_timeout_ms", 10_000, timeout.clone()),
        idle_timeout: section.millis("idle_timeout_ms", 60_000, timeout.clone()),
        header_timeout: section.millis("header_timeout_ms", 10_000, timeout.clone()),
        body_timeout: section.millis("body_timeout_ms", 20_000, timeout),
        body_rate: section.number("body_rate", 1024, 1..=1 << 30),
        receive_buffer: section.number("receive_buffer", 16_384, buffer.clone()),
        send_buffer: section.number("send_buffer", 65_536, buffer),
        header_bytes: section.number("header_bytes", 8192, 256..=1 << 20),
        target_bytes: section.number("target_bytes", 4096, 64..=1 << 20),
        headers: section.number("headers", 64, 1..=HEADERS_MAX as u64),
        body_bytes: section.number("body_bytes", 1 << 20, 0..=1 << 30),
        streamed_bytes: section.number("streamed_bytes", 1 << 30, 0..=1 << 40),
        chunk_line_bytes: section.number("chunk_line_bytes", 1024, 32..=1 << 16),
        requests_in_app: section.number("requests_in_app", 1024, 1..=1 << 20),
    };
    section.finish();
    limits
}

/// Whether the parts are within the whole.
pub(super) fn check(context: &Context<'_>, limits: &Limits) {
    for (key, part) in [("half_open", limits.half_open), ("handshakes", limits.handshakes)] {
        if part > limits.connections {
            let what = format!("{part} of {} connections cannot be in this state", limits.connections);
            context.report(&format!("limits.{key}"), format!("{what}: lower {key} or raise connections"));
        }
    }
}
