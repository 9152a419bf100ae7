//! Bodies that come while their requests run: nothing is lost, nothing piles up, and every client that stalls, leaves or is
//! refused comes to a definite end.

mod common;

use std::time::Duration;

use common::World;
use common::client::Habit;
use common::node::Options;
use common::sink::answer;
use keyferry_app::FEEDS_PER_JOB;
use proptest::prelude::*;

const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// Steps of a millisecond that are longer.
const LATE: usize = 2_500;

fn world(seed: u64) -> World {
    World::new(Options { body_timeout: BODY_TIMEOUT, body_rate: 1_000, ..Options::default() }, seed)
}

fn client_of(world: &mut World) -> usize {
    world.establish(1, Habit::Told)[0]
}

fn head(query: &str, framing: &str) -> Vec<u8> {
    format!("POST /sink{query} HTTP/1.1\r\nHost: flood.test\r\n{framing}\r\n\r\n").into_bytes()
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// In chunks of this size.
fn chunked(body: &[u8], each: usize) -> Vec<u8> {
    let chunk = |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let mut wire: Vec<u8> = body.chunks(each).flat_map(chunk).collect();
    wire.extend_from_slice(b"0\r\nExpires: never\r\n\r\n");
    wire
}

#[test]
fn a_body_goes_no_faster_than_it_is_taken() {
    let mut world = world(1);
    world.node.gate.shut();
    let sent = body(300_000);
    let client = client_of(&mut world);
    world.clients[client].tell(&[head("", "Content-Length: 300000"), sent.clone()].concat());
    world.until(500, "a request that runs", |world| world.total("uploads") == 1);
    // For longer than any client may stall: it is not its fault.
    let mut most = 0;
    for _ in 0..2 * LATE {
        world.step();
        most = most.max(world.total("chunks_out"));
    }
    assert!(!world.clients[client].has_said_all(), "the window is shut");
    assert_eq!((world.node.gate.taken(), most), (0, 1 + FEEDS_PER_JOB as u64));
    assert_eq!(world.total("requests_in_app"), 1);
    // Now it is taken in turns.
    for _ in 0..40 {
        world.node.gate.open();
        world.steps(3);
        world.node.gate.shut();
        world.steps(3);
    }
    world.node.gate.open();
    world.until(2_000, "an answer", |world| world.clients[client].answered == 1);
    assert_eq!(world.clients[client].last, answer(&sent).as_bytes());
    assert_eq!(world.total("closed_timeout"), 0);
    // The connection goes on.
    world.clients[client].tell(b"GET /?bytes=10 HTTP/1.1\r\nHost: flood.test\r\n\r\n");
    world.until(500, "another answer", |world| world.clients[client].answered == 2);
    world.assert_all_gone();
}

#[test]
fn chunks_stream_and_what_follows_them_is_the_next_request() {
    let mut world = world(2);
    let sent = body(60_000);
    let client = client_of(&mut world);
    let next = b"GET /?bytes=10 HTTP/1.1\r\nHost: flood.test\r\n\r\n";
    let wire = [head("", "Transfer-Encoding: chunked"), chunked(&sent, 777), next.to_vec()].concat();
    world.clients[client].tell(&wire);
    world.until(2_000, "both answers", |world| world.clients[client].answered == 2);
    assert_eq!((world.total("uploads"), world.total("requests")), (1, 2));
    world.assert_all_gone();
}

#[test]
fn a_short_body_is_awaited() {
    let mut world = world(3);
    let client = client_of(&mut world);
    world.clients[client].tell(&head("", "Content-Length: 10"));
    world.steps(100);
    world.clients[client].tell(&body(10));
    world.until(500, "an answer", |world| world.clients[client].answered == 1);
    assert_eq!(
        (world.clients[client].last.as_slice(), world.total("uploads")),
        (answer(&body(10)).as_bytes(), 0)
    );
    world.assert_all_gone();
}

/// One that was never behind, and one that could not send because the application was.
#[test]
fn a_client_that_stalls_is_told_so() {
    for was_blocked in [false, true] {
        let mut world = world(4);
        let client = client_of(&mut world);
        world.clients[client].tell(&head("", "Content-Length: 300000"));
        if was_blocked {
            world.node.gate.shut();
        }
        world.clients[client].tell(&body(60_000));
        world.until(500, "a request that runs", |world| world.total("uploads") == 1);
        if was_blocked {
            world.steps(LATE);
            assert_eq!(world.clients[client].refused, None, "it was not its fault");
            world.node.gate.open();
        }
        world.steps(LATE / 2);
        assert_eq!(world.clients[client].refused, None, "it has its time");
        world.steps(LATE / 2);
        assert_eq!(world.clients[client].refused, Some(408), "blocked before: {was_blocked}");
        assert_eq!((world.total("uploads_late"), world.total("requests_in_app")), (1, 0));
        world.assert_all_gone();
    }
}

/// A byte now and then is no progress.
#[test]
fn a_body_that_drips_is_late() {
    let mut world = world(5);
    let client = client_of(&mut world);
    world.clients[client].tell(&head("", "Content-Length: 300000"));
    for _ in 0..40 {
        world.clients[client].tell(b"x");
        world.steps(100);
    }
    assert_eq!((world.clients[client].refused, world.total("uploads_late")), (Some(408), 1));
    world.assert_all_gone();
}

/// The reply has begun: that it is not whole has to show.
#[test]
fn a_client_that_stalls_amid_its_reply_is_reset() {
    let mut world = world(6);
    let client = client_of(&mut world);
    world.clients[client].tell(&head("?begin=1", "Content-Length: 300000"));
    world.steps(LATE + 500);
    assert!(world.clients[client].reset);
    assert_eq!((world.total("uploads_late"), world.total("requests_dropped")), (1, 1));
    world.assert_all_gone();
}

#[test]
fn an_early_reply_arrives_and_ends_the_connection() {
    let mut world = world(7);
    let client = client_of(&mut world);
    world.clients[client].tell(&[head("?most=40000", "Content-Length: 300000"), body(300_000)].concat());
    let is_over = |world: &World| world.clients[client].closed && world.clients[client].has_said_all();
    world.until(3_000, "the end, and all that was sent", is_over);
    assert_eq!((world.clients[client].refused, world.clients[client].reset), (Some(413), false));
    assert_eq!((world.total("uploads_unread"), world.total("requests_in_app")), (1, 0));
    world.assert_all_gone();
}

#[test]
fn framing_that_is_bad_is_refused_amid_a_body() {
    let mut world = world(8);
    let client = client_of(&mut world);
    world.clients[client].tell(&head("", "Transfer-Encoding: chunked"));
    world.until(500, "a request that runs", |world| world.total("uploads") == 1);
    world.clients[client].tell(b"5\r\nhelloX");
    world.until(500, "a refusal", |world| world.clients[client].refused == Some(400));
    assert_eq!((world.total("refused_chunk"), world.total("requests_in_app")), (1, 0));
    world.assert_all_gone();
}

#[test]
fn who_leaves_amid_a_body_takes_the_request_along() {
    for says_so in [false, true] {
        let mut world = world(9);
        let client = client_of(&mut world);
        world.clients[client].tell(&[head("", "Content-Length: 300000"), body(50_000)].concat());
        world.until(500, "a request that runs", |world| world.total("uploads") == 1);
        world.steps(50);
        if says_so {
            world.clients[client].notify();
        } else {
            world.clients[client].leave();
        }
        world.until(500, "the end of the job", |world| world.total("requests_in_app") == 0);
        assert_eq!((world.total("uploads_cut"), world.total("requests_dropped")), (u64::from(says_so), 1));
        world.assert_all_gone();
    }
}

/// What a client and the application do, one after the other.
#[derive(Clone, Copy, Debug)]
enum Act {
    Send(usize),
    Pause(usize),
    Shut,
    Open,
    Notify,
    Leave,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0usize..40_000).prop_map(Act::Send),
        6 => (1usize..300).prop_map(Act::Pause),
        2 => Just(Act::Shut),
        2 => Just(Act::Open),
        1 => Just(Act::Pause(LATE)),
        1 => Just(Act::Notify),
        1 => Just(Act::Leave),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Whatever both do, the end is an answer to the whole body, a refusal, or the connection's; buffers are bounded, and
    /// nothing is left.
    #[test]
    fn every_upload_comes_to_an_end(
        seed in any::<u64>(),
        is_chunked in any::<bool>(),
        query in prop_oneof![4 => Just(""), 1 => Just("?most=20000"), 1 => Just("?begin=1")],
        acts in prop::collection::vec(act(), 1..24),
    ) {
        let mut world = world(seed);
        let sent = body(120_000);
        let framing = if is_chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 120000" };
        let wire = if is_chunked { chunked(&sent, 3_001) } else { sent.clone() };
        let client = client_of(&mut world);
        world.clients[client].tell(&head(query, framing));
        let mut left = &wire[..];
        let mut is_gone = false;
        for act in acts {
            match act {
                Act::Send(_) | Act::Notify | Act::Leave if is_gone => {}
                Act::Send(bytes) => {
                    let (piece, rest) = left.split_at(bytes.min(left.len()));
                    left = rest;
                    world.clients[client].tell(piece);
                }
                Act::Pause(steps) => world.steps(steps),
                Act::Shut => world.node.gate.shut(),
                Act::Open => world.node.gate.open(),
                Act::Notify => world.clients[client].notify(),
                Act::Leave => world.clients[client].leave(),
            }
            is_gone |= matches!(act, Act::Notify | Act::Leave);
            world.step();
            prop_assert!(world.total("chunks_out") <= 2 + FEEDS_PER_JOB as u64);
            prop_assert!(world.total("gathers_out") <= 2);
        }
        world.node.gate.open();
        if !is_gone {
            world.clients[client].tell(left);
        }
        world.steps(2 * LATE);
        let (it, expected) = (&world.clients[client], answer(&sent));
        if it.answered == 1 {
            prop_assert_eq!(it.last.as_slice(), expected.as_bytes());
        } else {
            prop_assert!(it.refused.is_some() || it.reset || it.closed || is_gone, "{it:?}");
        }
        prop_assert_eq!(world.total("requests_in_app"), 0, "{:#?}", world.counted());
        world.assert_all_gone();
    }
}
