//! Alerts of clients, each counted by its description.

mod common;

use common::World;
use common::client::Habit;
use common::node::Options;
use keyferry_tls::Alert;

/// A fatal alert ends a handshake whatever it says, and nothing else is harmed. That a client says goodbye is no fault
/// (`refusals.rs`).
#[test]
fn what_a_client_complains_of_is_counted() {
    let mut world = World::new(Options::default(), 1);
    let honest = world.establish(1, Habit::Asks);
    let named = (1..=u8::MAX).map(Alert).filter(|alert| alert.name() != "unknown");
    let mut count = 0;
    for alert in named.chain([Alert(u8::MAX)]) {
        let client = world.establish(1, Habit::Silent)[0];
        world.clients[client].put(&[21, 3, 3, 0, 2, 2, alert.0]);
        count += 1;
        world.until(100, alert.name(), |world| world.total("closed_tls_peer_alert") == count);
        assert_eq!(world.total(&format!("alerts_received_{}", alert.name())), 1);
        assert_eq!([world.total("handshakes_failed"), world.total("closed_tls")], [count; 2]);
    }
    assert!(count > 20, "all that have a name");
    world.expect_progress(&honest, 50, 10, |_, _| ());
    world.assert_all_gone();
}
