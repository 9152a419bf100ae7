//! Clients that change their keys between requests, and in the middle of a reply that another node seals.

use std::fs;

use crate::client::{SClient, wire_request};
use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(between_requests, while_lent);

/// Long enough that the reply is under way when the next bytes of the client arrive.
const LONG_BYTES: usize = 8 << 20;

fn between_requests(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let messages = cluster.directory().join("messages");
    let mut client = connect(&cluster, &messages);
    for (seed, query) in (0..).zip(["&lend=0", "&lend=1", "&lend=1", "&lend=0", "&lend=1"]) {
        client.get(query, seed, 3_000);
        client.key_update(true);
        client.get(query, seed, 40_000);
        client.key_update(false);
    }
    client.get("", 99, 5);
    client.finish();
    assert_eq!(key_updates(&messages), (10, 5));
    cluster.finish();
}

fn while_lent(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let messages = cluster.directory().join("messages");
    let mut client = connect(&cluster, &messages);
    for round in 0..3 {
        // A KeyUpdate leaves s_client with the bytes behind it, here a pipelined request.
        client.send(&wire_request(&format!("/?bytes={LONG_BYTES}&seed={round}")));
        client.expect_begin();
        client.key_update(true);
        client.send(&wire_request("/?bytes=1000&seed=7"));
        client.expect_pattern(round, LONG_BYTES);
        client.expect_pattern(7, 1000);
    }
    client.finish();
    assert_eq!(key_updates(&messages), (3, 3));
    cluster.expect_replies(0, 6);
    cluster.finish();
}

fn connect(cluster: &Cluster, messages: &std::path::Path) -> SClient {
    let messages = messages.to_str().expect("the test's paths are text");
    SClient::connect(cluster, &["-tls1_3", "-msg", "-msgfile", messages])
}

/// KeyUpdates sent and received, from OpenSSL's own record of messages.
fn key_updates(messages: &std::path::Path) -> (usize, usize) {
    let text = fs::read_to_string(messages).expect("s_client wrote it");
    let count =
        |mark: &str| text.lines().filter(|line| line.starts_with(mark) && line.contains("KeyUpdate")).count();
    (count(">>>"), count("<<<"))
}
