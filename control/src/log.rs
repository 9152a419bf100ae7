//! What happens off the packet path is told on standard error, a line each. In: how much of it, which may change. Any thread.

use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::LogLevel;

/// The level of this process, once it logs.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Begins to log.
pub(crate) fn start(level: LogLevel) {
    let (filter, handle) = reload::Layer::new(of(level));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // Refused only if an embedder has set up its own.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Logs so much from here on.
pub(crate) fn set(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // It fails only when the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(of(level));
    }
}

fn of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}
