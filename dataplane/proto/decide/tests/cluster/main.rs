//! What the default policy is for, in figures: against a cluster that lends nothing, and against all slots behind one
//! line, which no cluster can beat. Requests take 2 ms on average, a move 0.1 ms, and words are 0.2 to 1 ms old.
//!
//! `cargo test -p keyferry-decide --test cluster -- --nocapture` prints the figures.

mod sim;
mod workload;

use keyferry_decide::Policy;
use sim::{Cluster, Outcome, central, run};
use workload::{Tail, requests};

const REQUESTS: usize = 60_000;

const SERVICE_US: f64 = 2_000.0;

const MOVE_NS: u64 = 100_000;

/// What the configuration says without being told.
const ESTIMATE: Policy = Policy::Estimate { move_cost_us: 50 };

struct Figures {
    estimate: Outcome,
    mean: f64,
    p99: f64,
    central_mean: f64,
}

/// Runs one cluster lending by the estimate and lending nothing, on the same requests.
fn compare(busy: &[f64], slots: usize, tail: Tail, move_ns: u64) -> Figures {
    let nodes = busy.len();
    let all = requests(REQUESTS, busy, slots, SERVICE_US, tail, 1);
    let cluster = Cluster { nodes, slots, policy: ESTIMATE, move_ns };
    let estimate = run(cluster, &all, 2);
    let never = run(Cluster { policy: Policy::Never, ..cluster }, &all, 2);
    let figures = Figures {
        mean: estimate.mean() / never.mean(),
        p99: estimate.p99() / never.p99(),
        central_mean: estimate.mean() / central(nodes * slots, &all).mean(),
        estimate,
    };
    println!(
        "{nodes:>2} nodes of {slots:>2} slots, {:.2} to {:.2} busy, {tail:?}: mean {:.3} and p99 {:.3} of never, mean \
         {:.3} of one line; {:.3} moved, longest line of lent ones {}",
        busy.iter().copied().fold(1.0, f64::min),
        busy.iter().copied().fold(0.0, f64::max),
        figures.mean,
        figures.p99,
        figures.central_mean,
        figures.estimate.moved_share(),
        figures.estimate.lent_line_max,
    );
    figures
}

/// Every other node nearly busy, the others not.
fn skewed(nodes: usize) -> Vec<f64> {
    (0..nodes).map(|node| if node % 2 == 0 { 0.95 } else { 0.35 }).collect()
}

#[test]
fn skewed_arrivals_wait_about_as_in_one_line() {
    for tail in [Tail::Exponential, Tail::Heavy] {
        for nodes in [4, 8, 16] {
            let figures = compare(&skewed(nodes), 4, tail, MOVE_NS);
            assert!(figures.mean <= 0.40 && figures.p99 <= 0.30);
            assert!(figures.central_mean <= 1.10);
        }
        // Many slots are a short line by themselves: less is there to gain, and that is gained.
        for (nodes, slots) in [(8, 8), (16, 16)] {
            let figures = compare(&skewed(nodes), slots, tail, MOVE_NS);
            assert!(figures.mean <= 0.70 && figures.central_mean <= 1.05);
        }
        // With one slot each a request that comes a moment too soon waits a whole service time.
        let figures = compare(&skewed(4), 1, tail, MOVE_NS);
        assert!(figures.mean <= 0.15 && figures.p99 <= 0.15);
    }
}

#[test]
fn balanced_arrivals_lose_nothing() {
    for tail in [Tail::Fixed, Tail::Exponential, Tail::Heavy] {
        for (nodes, slots) in [(4, 1), (4, 4), (8, 8), (16, 4), (16, 16)] {
            for (busy, moved_max) in [(0.5, 0.15), (0.8, 0.45)] {
                let figures = compare(&vec![busy; nodes], slots, tail, MOVE_NS);
                assert!(figures.mean <= 1.02 && figures.p99 <= 1.02);
                // Of one slot, half find it taken and have something to gain.
                assert!(slots == 1 || figures.estimate.moved_share() <= moved_max);
            }
        }
    }
}

#[test]
fn the_only_light_node_is_not_buried() {
    for tail in [Tail::Exponential, Tail::Heavy] {
        for nodes in [4, 8, 16] {
            let mut busy = vec![0.9; nodes];
            busy[nodes - 1] = 0.1;
            let figures = compare(&busy, 4, tail, MOVE_NS);
            assert!(figures.mean <= 0.9 && figures.p99 <= 1.0);
            // No node sends another what that one's own line would not be worth.
            let Outcome { moved, moved_into_line, lent_line_max, .. } = figures.estimate;
            assert!(lent_line_max <= 24, "{lent_line_max} lent requests in one line");
            assert!(moved_into_line * 4 <= moved * 3, "{moved_into_line} of {moved} waited again");
        }
    }
}

#[test]
fn a_move_that_costs_more_than_was_said_is_found_out() {
    for tail in [Tail::Fixed, Tail::Exponential, Tail::Heavy] {
        for busy in [vec![0.5; 8], vec![0.8; 8]] {
            // Twenty times the configured cost, half a service time.
            let figures = compare(&busy, 4, tail, 1_000_000);
            assert!(figures.mean <= 1.02);
            // As long as four requests: hardly any move is worth it.
            let figures = compare(&busy, 4, tail, 8_000_000);
            assert!(figures.mean <= 1.02);
        }
    }
}

#[test]
fn a_run_replays() {
    let all = requests(5_000, &skewed(4), 4, SERVICE_US, Tail::Heavy, 3);
    let cluster = Cluster { nodes: 4, slots: 4, policy: ESTIMATE, move_ns: MOVE_NS };
    let outcome = |_| {
        let outcome = run(cluster, &all, 4);
        (outcome.mean(), outcome.p99(), outcome.moved)
    };
    let runs: Vec<_> = (0..3).map(outcome).collect();
    assert!(runs[0] == runs[1] && runs[1] == runs[2], "{runs:?}");
}
