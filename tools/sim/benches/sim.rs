//! How many requests a second one core simulates.
//!
//! In: nothing. Out: a line for each scenario, and `bench sim: requests_per_s=...` of the first: 16 nodes that lend, on kept
//! connections, with measured costs. Memory is taken in a first part that is not timed.

use std::sync::Arc;
use std::time::Instant;

use keyferry_sim::costs::Costs;
use keyferry_sim::draw::Skew;
use keyferry_sim::scenario::{Cluster, Gaps, Kept, Load, Model, OURS, Scenario, Sizes, Work};
use keyferry_sim::world::World;

const WARM_UP: u64 = 200_000;
const REQUESTS: u64 = 2_000_000;

/// `nodes` nodes with eight slots, busy to `busy`, at which a request works for a millisecond.
fn scenario(nodes: usize, busy: f64, kept: Option<Kept>, model: Model) -> Scenario {
    let sizes = Sizes::Mix("400:5,2000:3,12000:2".parse().expect("a mix"));
    Scenario {
        cluster: Cluster { nodes, slots: 8, ..Cluster::default() },
        load: Load {
            rate: busy * 8e3 * nodes as f64,
            gaps: Gaps::Poisson,
            clients: 16 * nodes,
            skew: Skew::Zipf(0.7),
            sessions: None,
            kept,
            sizes,
            work: Work::Exponential(1e6),
        },
        costs: Arc::new(Costs::load("measured").expect("it comes along")),
        model,
        warm_up: WARM_UP,
        requests: u64::MAX / 2,
        seed: 7,
    }
}

/// Requests and events a second.
fn speed(scenario: &Scenario) -> (f64, f64) {
    let mut world = World::new(scenario);
    while world.counts().1 < WARM_UP && world.step() {}
    let (from, events) = (Instant::now(), world.handled());
    while world.counts().1 < WARM_UP + REQUESTS && world.step() {}
    let seconds = from.elapsed().as_secs_f64();
    (REQUESTS as f64 / seconds, (world.handled() - events) as f64 / seconds)
}

fn main() {
    let kept = Some(Kept { connections: 8, requests: 100 });
    let cases = [
        ("16 nodes, bf, kept connections", scenario(16, 0.7, kept, OURS)),
        ("16 nodes, session, kept connections", scenario(16, 0.7, kept, Model::Session)),
        ("16 nodes, bf, a connection each", scenario(16, 0.7, None, OURS)),
        ("256 nodes, bf, kept connections", scenario(256, 0.7, kept, OURS)),
    ];
    let mut headline = None;
    for (name, scenario) in &cases {
        let (requests, events) = speed(scenario);
        println!("{name}: {requests:.0} requests/s, {events:.0} events/s");
        headline.get_or_insert(requests);
    }
    println!("bench sim: requests_per_s={:.0}", headline.unwrap_or_default());
}
