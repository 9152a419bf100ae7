//! Whatever happens, each request ends once, and nothing of it stays.

mod common;

use std::sync::Arc;

use keyferry_decide::Policy;
use keyferry_sim::costs::Costs;
use keyferry_sim::draw::Skew;
use keyferry_sim::scenario::{Failure, Gaps, Kept, Model, OURS, Scenario, Sessions, Sizes, Web, Work};
use keyferry_sim::world::World;
use proptest::prelude::*;

fn models() -> impl Strategy<Value = Model> {
    prop_oneof![
        Just(Model::Rr),
        Just(Model::Session),
        Just(OURS),
        Just(Model::Bf(Policy::Threshold { us: 500 })),
        Just(Model::Bf(Policy::Always)),
        Just(Model::ShortestQueue),
    ]
}

fn failures(nodes: usize) -> impl Strategy<Value = Vec<Failure>> {
    let moment = 0u64..400_000_000;
    let failure = (0..nodes, moment.clone(), prop::option::of(moment))
        .prop_map(|(node, at_ns, later)| Failure { node, at_ns, back_ns: later.map(|later| at_ns + later) });
    prop::collection::vec(failure, 0..3)
}

prop_compose! {
    fn scenarios()(nodes in 2usize..7)(
        nodes in Just(nodes),
        failures in failures(nodes),
        model in models(),
        (workers, slots, helpers) in (1usize..4, 1usize..4, 1usize..6),
        processes in 1usize..40,
        (kept, sessions) in prop_oneof![
            Just((None, None)),
            (1usize..4, 1u32..9).prop_map(|(connections, requests)| (Some(Kept { connections, requests }), None)),
            (1.0..9.0, 0.0..5e6).prop_map(|(requests, think_ns)| (None, Some(Sessions { requests, think_ns }))),
        ],
        is_paper in any::<bool>(),
        shared in any::<bool>(),
        slow in 1.0..4.0,
        lifetime_ns in 1_000_000u64..1_000_000_000,
        gaps in prop_oneof![Just(Gaps::Poisson), Just(Gaps::Pareto { shape: 1.5, span: 1e3 }), Just(Gaps::Lognormal(1.0))],
        seed in any::<u64>(),
    ) -> Scenario {
        let mut scenario = common::queue(nodes, slots, 0.7, model);
        scenario.cluster.workers = workers;
        scenario.cluster.helpers = helpers;
        scenario.cluster.processes = processes;
        scenario.cluster.failures = failures;
        scenario.cluster.sessions_shared = shared;
        scenario.cluster.slow = vec![(0, slow)];
        scenario.cluster.lifetime_ns = lifetime_ns;
        scenario.cluster.notice_ns = 20_000_000;
        scenario.costs = Arc::new(Costs::load(if is_paper { "paper" } else { "measured" }).unwrap());
        scenario.load.skew = Skew::Zipf(1.0);
        scenario.load.sizes = Sizes::Web(Web::default());
        scenario.load.work = Work::Lognormal(1e6, 1.5);
        (scenario.load.kept, scenario.load.sessions, scenario.load.gaps) = (kept, sessions, gaps);
        (scenario.warm_up, scenario.requests, scenario.seed) = (100, 1_500, seed);
        scenario
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_request_ends_once(scenario in scenarios()) {
        let mut world = World::new(&scenario);
        while world.counts().0 < 2_000 && world.step() {}
        world.close();
        let from = world.handled();
        while world.step() {
            prop_assert!(world.handled() - from < 10_000_000, "it never ends");
            let (begun, ended, _) = world.counts();
            prop_assert!(ended <= begun);
        }
        let (begun, ended, under_way) = world.counts();
        prop_assert_eq!((ended, under_way), (begun, 0));
        prop_assert_eq!(world.in_applications(), 0);
        prop_assert_eq!(world.leases_open(), 0);
        let outcome = world.outcome();
        prop_assert_eq!(outcome.requests, 1_500);
        // Nobody is busier than there is time.
        for share in outcome.cores.iter().chain(&outcome.app) {
            prop_assert!((0.0..=1.0 + 1e-6).contains(share), "{} busy", share);
        }
        prop_assert!(outcome.failed == 0 || !scenario.cluster.failures.is_empty(), "{} failed", outcome.failed);
        prop_assert!(outcome.p50_ns <= outcome.p99_ns);
    }
}

/// More than can be served: the run ends all the same, and tells how many requests had not ended. Where all can be served none is cut
/// short.
#[test]
fn a_run_ends_although_its_requests_do_not() {
    let run = |busy| {
        let scenario =
            Scenario { warm_up: 100, requests: 2_000, ..common::queue(2, 1, busy, Model::Session) };
        World::new(&scenario).run()
    };
    let (over, under) = (run(5.0), run(0.5));
    assert_eq!((over.requests, under.requests, under.cut_short), (2_000, 2_000, 0));
    // Of 4,100 that came in the time a fifth was served.
    assert!((1_000..1_400).contains(&over.cut_short), "{}", over.cut_short);
    assert!(over.mean_ns > 50.0 * under.mean_ns);
}
