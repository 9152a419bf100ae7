//! Alerts both ways, each counted by its description, and what went wrong by its name.

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

/// What is wrong with a first record is said to its client in plain text, and counts as what was said.
#[test]
fn what_a_client_is_told_is_counted() {
    let first: [(&[u8], &str, Alert); 5] = [
        (&[99, 3, 3, 0, 1, 0], "record_type", Alert::UNEXPECTED_MESSAGE),
        (&[22, 4, 0, 0, 1, 0], "record_version", Alert::PROTOCOL_VERSION),
        (&[22, 3, 3, 0x50, 0, 1], "record_too_long", Alert::RECORD_OVERFLOW),
        (&[23, 3, 3, 0, 1, 0], "unexpected_message", Alert::UNEXPECTED_MESSAGE),
        (&[22, 3, 3, 0, 4, 1, 0, 0, 0], "malformed", Alert::DECODE_ERROR),
    ];
    for (said, reason, alert) in first {
        let mut world = World::new(Options::default(), 2);
        let client = world.establish(1, Habit::Silent)[0];
        world.clients[client].put(said);
        world.until(100, reason, |world| world.clients[client].closed);
        let [21, _, _, 0, 2, 2, description] = *world.clients[client].rest() else {
            panic!("{reason}: no alert but {:?}", world.clients[client].rest())
        };
        assert_eq!(Alert(description), alert, "{reason}");
        for name in [format!("closed_tls_{reason}"), format!("alerts_sent_{}", alert.name())] {
            assert_eq!(world.total(&name), 1, "{name}: {:#?}", world.counted());
        }
        world.assert_all_gone();
    }
}
