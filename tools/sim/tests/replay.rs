//! The same seed is the same run; and no event takes memory once a run is under way.

mod common;

use keyferry_sim::scenario::{Model, OURS, Scenario};
use keyferry_sim::world::World;

#[test]
fn a_seed_is_a_run() {
    for model in [Model::Rr, Model::Session, OURS, Model::ShortestQueue, Model::Central] {
        let scenario = common::skewed(model);
        let first = World::new(&scenario).run();
        assert_eq!(World::new(&scenario).run(), first);
        assert_ne!(World::new(&Scenario { seed: 2, ..scenario }).run(), first);
    }
}

/// Requests come at the same moments and ask for the same whatever the model: so work is the same, waiting is not.
#[test]
fn models_are_given_the_same_work() {
    let run = |model| World::new(&common::skewed(model)).run();
    let (session, bf) = (run(Model::Session), run(OURS));
    let work = |outcome: &keyferry_sim::tally::Outcome| outcome.app.iter().sum::<f64>() * outcome.window_ns;
    assert!((work(&session) / work(&bf) - 1.0).abs() < 0.01);
    assert!(bf.moved > 0.1 && session.moved == 0.0);
    assert!(bf.mean_ns < session.mean_ns);
}

#[test]
fn events_take_no_memory() {
    let mut world = World::new(&common::skewed(OURS));
    while world.counts().1 < 10_000 && world.step() {}
    let counts = allocation_counter::measure(|| while world.counts().1 < 20_000 && world.step() {});
    // A line of a client that has never been so long grows, a handful of times.
    assert!(counts.count_total < 20, "{} allocations in 10,000 requests", counts.count_total);
}

/// Connections that clients keep are there when a run begins: their 12,000 handshakes, a fifth of a second of each core, are in
/// nobody's way. They are not all new either: some are replaced soon.
#[test]
fn a_run_begins_with_its_connections() {
    let mut scenario = common::skewed(Model::Session);
    scenario.load.clients = 1_000;
    (scenario.warm_up, scenario.requests) = (1, 200);
    let outcome = World::new(&scenario).run();
    assert!(outcome.p50_ns < 5e6, "{}", outcome.p50_ns);
    assert!((1..=20).contains(&(outcome.full + outcome.resumed)), "{} {}", outcome.full, outcome.resumed);
}
