//! Queues whose theory is known: the simulation has to agree within its own confidence.

mod common;

use std::sync::Arc;

use indicatif::ProgressBar;
use keyferry_sim::costs::Costs;
use keyferry_sim::replicate::{self, Mean};
use keyferry_sim::scenario::{Model, Scenario, Work};

/// Mean time in a queue of `slots` servers of mean service time 1, Poisson arrivals, exponential work (Erlang's C).
fn erlang_ms(slots: usize, busy: f64) -> f64 {
    let load = busy * slots as f64;
    let term = |power: usize| (1..=power).fold(1.0, |product, factor| product * load / factor as f64);
    let all_busy = term(slots) / (1.0 - busy);
    let waits = all_busy / ((0..slots).map(term).sum::<f64>() + all_busy);
    1.0 + waits / (slots as f64 * (1.0 - busy))
}

fn mean_ms(scenario: &Scenario) -> Mean {
    let outcomes = replicate::all(std::slice::from_ref(scenario), 24, &ProgressBar::hidden());
    assert!(outcomes[0].iter().all(|outcome| outcome.requests == scenario.requests && outcome.failed == 0));
    Mean::over(&outcomes[0], |outcome| outcome.mean_ns / 1e6)
}

/// 24 seeds, once and for all: an interval that is right 99 times in 100 (Student's t of 23 is 2.807 there and 2.069 for 95 %), as
/// there are several of them here; and 3 %.
#[track_caller]
fn agrees(scenario: &Scenario, theory_ms: f64) {
    let mean = mean_ms(scenario);
    let off_ms = (mean.value - theory_ms).abs();
    assert!(off_ms <= mean.half_95 * 2.807 / 2.069, "{mean:.4} ms, by theory {theory_ms:.4}");
    assert!((mean.value / theory_ms - 1.0).abs() < 0.03, "{mean:.4} ms, by theory {theory_ms:.4}");
}

#[test]
fn one_server_is_mm1() {
    assert!((erlang_ms(1, 0.8) - 5.0).abs() < 1e-9);
    agrees(&common::queue(1, 1, 0.5, Model::Session), 2.0);
    agrees(&common::queue(1, 1, 0.8, Model::Session), 5.0);
}

#[test]
fn several_slots_are_mmc() {
    agrees(&common::queue(1, 4, 0.8, Model::Session), erlang_ms(4, 0.8));
    agrees(&common::queue(1, 16, 0.9, Model::Rr), erlang_ms(16, 0.9));
}

#[test]
fn one_queue_for_a_cluster_is_mmc_over_all_slots() {
    agrees(&common::queue(4, 2, 0.8, Model::Central), erlang_ms(8, 0.8));
}

/// Work that is always the same waits half as long (Pollaczek and Khinchine).
#[test]
fn even_work_is_md1() {
    let mut scenario = common::queue(1, 1, 0.8, Model::Session);
    scenario.load.work = Work::Mix("1000".parse().unwrap());
    agrees(&scenario, 3.0);
}

/// A core that jobs share: 1 / (1 - busy), whatever the law of their lengths (Kleinrock 1976, 4.4). One job after the other would
/// take 3.0, 5.0 and 17.6 ms.
#[test]
fn a_shared_core_cares_for_no_law_of_work() {
    let mut scenario = common::queue(1, 1, 0.8, Model::Session);
    scenario.costs = Arc::new(Costs { app_on_core: true, ..Costs::nothing() });
    let mix = |text: &str| Work::Mix(text.parse().unwrap());
    for work in [mix("1000"), Work::Exponential(1e6), mix("100:9,9100:1")] {
        scenario.load.work = work;
        agrees(&scenario, 5.0);
    }
}

/// Little's law: requests under way are those that come in the time they take. Utilisation is the load's.
#[test]
fn slots_are_busy_as_the_load_says() {
    let scenario = common::queue(4, 2, 0.7, Model::Rr);
    let outcomes = replicate::all(&[scenario], 4, &ProgressBar::hidden());
    let busy = Mean::over(&outcomes[0], |outcome| outcome.app.iter().sum::<f64>() / 4.0);
    assert!((busy.value - 0.7).abs() < 0.01, "{busy}");
}
