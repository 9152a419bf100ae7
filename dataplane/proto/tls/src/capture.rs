//! Catches the TLS 1.3 traffic secrets as rustls derives them, so that key updates can be derived later without it.
//!
//! rustls hands secrets to the `KeyLog` of its configuration, which all connections share; a handshake runs on one
//! thread from start to end of each call, so a cell of that thread tells whose they are.

use std::cell::RefCell;

use crate::schedule::TrafficSecret;

/// The application traffic secrets of one handshake.
#[derive(Default)]
pub(crate) struct Captured {
    pub(crate) client: Option<TrafficSecret>,
    pub(crate) server: Option<TrafficSecret>,
}

thread_local! {
    static CURRENT: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

/// Runs a step of a handshake, catching its secrets.
pub(crate) fn during<R>(captured: &mut Captured, step: impl FnOnce() -> R) -> R {
    CURRENT.set(Some(std::mem::take(captured)));
    let out = step();
    *captured = CURRENT.take().unwrap_or_default();
    out
}

/// The `KeyLog` of every configuration.
#[derive(Debug)]
pub(crate) struct Capture;

impl rustls::KeyLog for Capture {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        CURRENT.with_borrow_mut(|current| {
            let Some(current) = current else { return };
            match label {
                "CLIENT_TRAFFIC_SECRET_0" => current.client = TrafficSecret::new(secret),
                "SERVER_TRAFFIC_SECRET_0" => current.server = TrafficSecret::new(secret),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        label.ends_with("_TRAFFIC_SECRET_0")
    }
}
