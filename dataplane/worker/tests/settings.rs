//! Other settings while clients are served, in virtual time: what comes next goes by them, what is under way goes on.

mod common;

use std::time::Duration;

use keyferry_app::routes::Streams;
use keyferry_tcp::Times;
use keyferry_tls::Server;
use keyferry_worker::access::Rules;
use keyferry_worker::config::Rate;
use keyferry_worker::mailbox::Mail;
use keyferry_worker::settings::Settings;

use common::client::Habit;
use common::node::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, Options, certificate};
use common::{STEP_NS, World};

fn steps(time: Duration) -> usize {
    (time.as_nanos() as u64 / STEP_NS) as usize
}

/// What the world's workers go by at first, but for what `edit` makes of it.
fn tell(world: &World, tls: &Server, edit: impl Fn(&mut Settings)) {
    for mailbox in &world.node.mailboxes {
        let mut settings = Settings {
            tls: tls.clone(),
            handshakes: Options::default().handshakes,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(600),
            body_rate: Rate::bytes_per_second(1),
            idle_timeout: IDLE_TIMEOUT,
            http: keyferry_http::Limits::default(),
            streams: Streams::default(),
            app: None,
            app_slots: 1,
            body_bytes: Options::default().pools.body_bytes,
            policy: Options::default().policy,
            eager: false,
            credits: 16,
            claim_timeout: Duration::from_secs(5),
            silence_timeout: Duration::from_secs(5),
            slot_patience: keyferry_worker::slots::PATIENCE,
            session_wait: Duration::from_millis(20),
            tcp: Times {
                half_open_timeout: HANDSHAKE_TIMEOUT,
                idle_timeout: IDLE_TIMEOUT,
                keep_alive: None,
                user_timeout: None,
            },
            access: Rules::default(),
        };
        edit(&mut settings);
        assert!(mailbox.push(Mail::Settings(Box::new(settings))).is_ok(), "a mailbox has room");
    }
}

/// Clients go on, new ones come, and whoever began a handshake with the old certificate is the last to hold it.
#[test]
fn certificates_change_under_handshakes() {
    for workers in [1, 2] {
        let mut world = World::new(Options { workers, ..Options::default() }, u64::from(workers));
        let ask = world.establish(20, Habit::Asks);
        let halves = world.join_many(4, Habit::HalfHello(40));
        world.steps(100);
        let old = world.node.server.clone();
        let new = old.with_certificates(&[(0, certificate())]).expect("a certificate");
        assert_ne!(old.certificates(), new.certificates());
        // What is left of it are the handshakes under way, and the one here.
        world.node.server = new.clone();
        tell(&world, &new, |_| ());
        world.steps(10);
        assert_eq!(world.total("settings_taken"), u64::from(workers));
        let before = world.answered(&ask);
        let more = world.establish(20, Habit::Asks);
        world.steps(100);
        assert!(world.answered(&ask).iter().zip(before).all(|(now, then)| *now > then));
        assert!(world.answered(&more).iter().all(|replies| *replies > 0));
        assert!(ask.iter().chain(&more).all(|index| !world.clients[*index].closed));
        world.steps(steps(HANDSHAKE_TIMEOUT));
        assert!(halves.iter().all(|index| world.clients[*index].closed || world.clients[*index].reset));
        assert!(old.is_alone(), "the last handshake with it is over");
    }
}

/// Bounds hold for the next request of a connection, time-outs for what begins from then on.
#[test]
fn bounds_and_times_change_under_connections() {
    let mut world = World::new(Options::default(), 7);
    let ask = world.establish(5, Habit::Asks);
    let tls = world.node.server.clone();
    let short = Duration::from_millis(500);
    tell(&world, &tls, |settings| {
        settings.header_timeout = short;
        (settings.idle_timeout, settings.tcp.idle_timeout) = (short, short);
    });
    world.steps(10);
    let slow = world.join_many(3, Habit::SlowHead);
    let idle = world.establish(3, Habit::Idles);
    world.steps(3 * steps(short));
    let is_over = |world: &World, index: &usize| world.clients[*index].closed || world.clients[*index].reset;
    assert!(slow.iter().chain(&idle).all(|index| is_over(&world, index)), "{:#?}", world.counted());
    assert!(!ask.iter().any(|index| is_over(&world, index)));
    assert_eq!(world.total("refused_head_too_large"), 0);
    tell(&world, &tls, |settings| settings.http.head_bytes = 16);
    world.steps(100);
    assert!(ask.iter().all(|index| is_over(&world, index)), "{:#?}", world.counted());
    assert!(world.total("refused_head_too_large") >= ask.len() as u64, "{:#?}", world.counted());
}
