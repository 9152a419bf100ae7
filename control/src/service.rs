//! What systemd is told of a service of `Type=notify` (sd_notify(3)): that it serves, that it ends, and, where the unit
//! has a watchdog, that its threads still turn. Without systemd nothing is told. Control thread.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::interval;

use crate::counters::Registry;

/// It serves; what is said is shown by `systemctl status`.
pub fn ready(what: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// It ends: the watchdog no longer counts, the unit's time to stop does.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Tells for ever, twice in the watchdog's time, that this thread and all workers turn (systemd.service(5), `WatchdogSec=`).
/// When one of them stands nothing more is told, and systemd starts the service anew.
pub async fn watched(registry: &Registry) {
    let Some(within) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = interval((within / 2).max(Duration::from_millis(1)));
    let mut before = Vec::new();
    loop {
        ticks.tick().await;
        let now = turns(registry);
        match standing(&before, &now) {
            None => tell(&[NotifyState::Watchdog]),
            Some(thread) => {
                tracing::error!("{thread} stands: if it does not go on, systemd starts this service anew")
            }
        }
        before = now;
    }
}

/// How often each worker has turned.
fn turns(registry: &Registry) -> Vec<(String, u64)> {
    let threads = registry.snapshot().threads.into_iter();
    threads.filter_map(|thread| Some((thread.label, *thread.values.get("turns")?))).collect()
}

/// The first worker that has not turned in between.
fn standing<'a>(before: &[(String, u64)], now: &'a [(String, u64)]) -> Option<&'a str> {
    now.iter().find(|thread| before.contains(thread)).map(|(label, _)| label.as_str())
}

/// What cannot be told is no reason to end: the unit's own time limits say what happens then.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told how this service fares: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_not_turned_stands() {
        let registry = Registry::new();
        let one = registry.block(&["turns"], "worker 0".into());
        let two = registry.block(&["turns", "rx_packets"], "worker 1".into());
        let _links = registry.block(&["links_up"], "links".into());
        let start = turns(&registry);
        assert_eq!(standing(&[], &start), None, "nothing is known of the first look");
        one.publish(&[1]);
        two.publish(&[0, 9]);
        let next = turns(&registry);
        assert_eq!(standing(&start, &next), Some("worker 1"));
        two.publish(&[5, 9]);
        assert_eq!(standing(&next, &turns(&registry)), Some("worker 0"));
    }
}
