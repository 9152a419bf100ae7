//! A session made at one node goes on at another: what is asked for, what is given, and how often. rustls is the client.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use keyferry_tls::*;
use rustls::{ClientConfig, HandshakeKind};

const SHARED: Resumption = Resumption::Shared { sessions: 100, lifetime: Duration::from_secs(3600) };

/// Two nodes with one certificate, and a client that trusts it.
struct Nodes {
    a: Server,
    b: Server,
    config: Arc<ClientConfig>,
}

fn nodes(tls13: bool) -> Nodes {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = || {
        let options = ServerOptions { tls12: true, tls13: true, resumption: SHARED, ..options(&[&identity]) };
        Server::new(&options).unwrap()
    };
    let mut suites = all_suites();
    suites.retain(|suite| tls13 == (suite.version() == &rustls::version::TLS13));
    Nodes { a: server(), b: server(), config: Arc::new(client_config(&[&identity], &suites)) }
}

impl Nodes {
    /// A full handshake at A, which keeps what it made.
    fn meet(&self) -> Vec<SessionId> {
        let mut pair = connect(&self.a, client(&self.config, "a.test"), b"hello").unwrap();
        pair.early_request(b"hello");
        pair.reply(b"reply");
        let names = pair.server.sessions.iter().map(|it| it.name).collect();
        pair.server.sessions.drain(..).for_each(|it| self.a.keep(it));
        names
    }

    /// A handshake at B, whose sessions A keeps; returns what it asked for and whether it was resumed.
    fn come_to_b(&self, found: impl Fn(&Offered) -> Option<Session>) -> (Option<Offered>, bool) {
        let mut asked = None;
        let client = client(&self.config, "a.test");
        let mut pair = connect_with(&self.b, client, b"hello", |offered| {
            let found = found(&offered);
            asked = Some(offered);
            found
        })
        .unwrap();
        pair.early_request(b"hello");
        pair.reply(b"reply");
        let resumed = pair.client.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(pair.server.info.resumed, resumed);
        pair.server.sessions.drain(..).for_each(|it| self.a.keep(it));
        (asked, resumed)
    }
}

#[test]
fn a_session_of_tls13_goes_on_elsewhere_once() {
    let nodes = nodes(true);
    let names = nodes.meet();
    assert_eq!(names.len(), 2);
    for round in 0..3 {
        let (asked, resumed) = nodes.come_to_b(|offered| nodes.a.give(&offered[0]));
        let asked = asked.unwrap();
        assert!(asked.len() == 1 && resumed && (round > 0 || names.contains(&asked[0])));
        assert!(nodes.a.give(&asked[0]).is_none(), "there was one");
    }
}

#[test]
fn a_session_of_tls12_goes_on_elsewhere_as_often_as_the_client_likes() {
    let nodes = nodes(false);
    let names = nodes.meet();
    for _ in 0..3 {
        let (asked, resumed) = nodes.come_to_b(|offered| nodes.a.give(&offered[0]));
        assert_eq!((asked.unwrap().as_slice(), resumed), (&names[..], true));
    }
}

#[test]
fn what_nobody_has_takes_a_full_handshake() {
    for tls13 in [false, true] {
        let nodes = nodes(tls13);
        nodes.meet();
        let (asked, resumed) = nodes.come_to_b(|_| None);
        assert!(asked.is_some() && !resumed);
    }
}

#[test]
fn what_is_here_is_not_asked_for() {
    for tls13 in [false, true] {
        let nodes = nodes(tls13);
        for name in nodes.meet() {
            nodes.b.keep(nodes.a.give(&name).unwrap());
        }
        assert_eq!(nodes.come_to_b(|_| panic!("it is here")), (None, true));
    }
}

#[test]
fn a_new_client_is_served_at_once() {
    for tls13 in [false, true] {
        let nodes = nodes(tls13);
        let (asked, resumed) = nodes.come_to_b(|_| panic!("it has no session"));
        assert!(asked.is_none() && !resumed);
    }
}

#[test]
fn a_session_that_is_another_harms_nobody_else() {
    // What a peer brings is its word: a client that cannot prove the secret is refused.
    let nodes = nodes(true);
    nodes.meet();
    let client = client(&nodes.config, "a.test");
    let wrong = |offered: Offered| Session::new(offered[0], true, &[7; 200]);
    let pair = connect_with(&nodes.b, client, b"", wrong).unwrap();
    assert!(!pair.server.info.resumed, "bytes that are no session are none");
}

#[test]
fn a_record_that_comes_while_sessions_are_looked_for_is_our_own_fault() {
    let nodes = nodes(true);
    nodes.meet();
    let mut handshake = Handshake::new(&nodes.b);
    let mut out = Vec::new();
    let mut hello = from_client(&mut client(&nodes.config, "a.test"));
    assert!(matches!(handshake.advance(&mut hello, &mut out), Step::Absent(_)));
    let Step::Failed(failure) = handshake.advance(&mut hello, &mut out) else { panic!("it was taken") };
    assert_eq!(failure.reason, FailureReason::Ours(OwnFault::Internal));
}
