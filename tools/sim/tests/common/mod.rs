//! Scenarios that tests begin with.

#![allow(dead_code)] // not every test needs all of it

use std::sync::Arc;

use keyferry_sim::costs::Costs;
use keyferry_sim::draw::{Mix, Skew};
use keyferry_sim::scenario::{Cluster, Gaps, Kept, Load, Model, Scenario, Sizes, Work};

/// One size.
pub fn bytes(bytes: f64) -> Sizes {
    Sizes::Mix(Mix::new(&[(bytes, 1.0)]).unwrap())
}

/// Requests on connections of their own, exponential work of 1 ms, on nodes whose stages cost nothing else.
pub fn queue(nodes: usize, slots: usize, busy: f64, model: Model) -> Scenario {
    Scenario {
        cluster: Cluster { nodes, slots, ..Cluster::default() },
        load: Load {
            rate: busy * 1e3 * (nodes * slots) as f64,
            gaps: Gaps::Poisson,
            clients: 64,
            skew: Skew::Even,
            sessions: None,
            kept: None,
            sizes: bytes(1024.0),
            work: Work::Exponential(1e6),
        },
        costs: Arc::new(Costs::nothing()),
        model,
        warm_up: 20_000,
        requests: 100_000,
        seed: 1,
    }
}

/// Four nodes as measured, skewed clients with kept connections.
pub fn skewed(model: Model) -> Scenario {
    let mut scenario = queue(4, 2, 0.6, model);
    scenario.costs = Arc::new(Costs::load("measured").unwrap());
    scenario.load.skew = Skew::Zipf(0.7);
    scenario.load.clients = 16;
    scenario.load.kept = Some(Kept { connections: 12, requests: 40 });
    scenario.warm_up = 2_000;
    scenario.requests = 20_000;
    scenario
}
