//! Cuts a plan that goes wrong down to what it takes: faults, clients, requests and nodes are left out one after the
//! other, as long as something still goes wrong.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plan::{ClientPlan, Conduct, Fault, Plan};
use crate::world::{self, Report, Violation};

/// Runs spent on one plan at most.
const RUNS_MAX: usize = 2_000;

/// The part of a sentence that names what went wrong; counters may follow.
const KIND_CHARS: usize = 60;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what a panic says for its run's outcome, instead of printing it.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| PANIC.set(panic.to_string())));
}

/// Runs a plan; a panic is a violation too.
///
/// # Errors
/// What went wrong.
pub fn outcome(plan: &Plan) -> Result<Report, Violation> {
    catch_unwind(AssertUnwindSafe(|| world::run(plan))).unwrap_or_else(|_| {
        let what = format!("panic: {}", PANIC.take());
        Err(Violation { what, at_ns: 0 })
    })
}

/// The shortest plan found that goes wrong, and how.
pub fn shrink(plan: &Plan, violation: Violation) -> (Plan, Violation) {
    let kind = kind(&violation);
    let mut best = (plan.clone(), violation);
    let mut runs = 0;
    loop {
        let found = shorter(&best.0).into_iter().find_map(|plan| {
            runs += 1;
            if runs > RUNS_MAX {
                return None;
            }
            let violation = outcome(&plan).err().filter(|found| self::kind(found) == kind)?;
            Some((plan, violation))
        });
        match found {
            Some(shorter) => best = shorter,
            None => return best,
        }
    }
}

/// What went wrong, without its numbers: a plan cut down must not stray to another fault.
fn kind(violation: &Violation) -> String {
    violation.what.chars().take(KIND_CHARS).filter(|letter| !letter.is_ascii_digit()).collect()
}

/// Plans a step shorter, the boldest first.
fn shorter(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut other = plan.clone();
        change(&mut other);
        if other != *plan {
            plans.push(other);
        }
    };
    for client in 0..plan.clients.len() {
        if plan.clients.len() > 1 {
            with(&|plan| _ = plan.clients.remove(client));
        }
    }
    for fault in 0..plan.faults.len() {
        with(&|plan| _ = plan.faults.remove(fault));
    }
    if plan.nodes.len() > 1 {
        with(&without_last_node);
    }
    for client in 0..plan.clients.len() {
        with(&|plan| plan.clients[client].conduct = Conduct::Good);
        with(&|plan| plan.clients[client].pipeline = 1);
        with(&|plan| plan.clients[client].roam = None);
        with(&|plan| {
            if let Some(roam) = &mut plan.clients[client].roam {
                roam.twice = false;
            }
        });
        for request in 0..plan.clients[client].requests.len() {
            if plan.clients[client].requests.len() > 1 {
                with(&|plan| _ = plan.clients[client].requests.remove(request));
            }
            let at = |plan: &mut Plan, change: fn(&mut crate::plan::RequestPlan)| {
                change(&mut plan.clients[client].requests[request]);
            };
            with(&|plan| at(plan, |it| it.key_update = false));
            with(&|plan| at(plan, |it| it.pause_us = 0));
            with(&|plan| at(plan, |it| it.cost_us = 0));
            with(&|plan| at(plan, |it| it.think_us = 0));
            with(&|plan| at(plan, |it| it.chunked = false));
            with(&|plan| at(plan, |it| it.upload /= 2));
            with(&|plan| at(plan, |it| it.bytes /= 2));
        }
    }
    for fault in 0..plan.faults.len() {
        with(&|plan| {
            if let Fault::Transfers { count, .. } = &mut plan.faults[fault] {
                *count = (*count / 2).max(1);
            }
        });
    }
    plans
}

/// Leaves the last node out, with all that belongs to it.
fn without_last_node(plan: &mut Plan) {
    let last = plan.nodes.len() - 1;
    let visits = |client: &ClientPlan| match &client.roam {
        Some(roam) => roam.nodes.contains(&last),
        None => client.node == last,
    };
    if plan.clients.iter().any(visits) || plan.links.is_empty() {
        return;
    }
    let kept: Vec<usize> = (0..plan.links.len())
        .filter(|link| plan.links[*link].ends.iter().all(|(node, _)| *node != last))
        .collect();
    let place = |link: usize| kept.iter().position(|kept| *kept == link);
    plan.faults.retain_mut(|fault| match fault {
        Fault::Transfers { link, .. } | Fault::LinkDown { link, .. } => match place(*link) {
            Some(at) => {
                *link = at;
                true
            }
            None => false,
        },
        Fault::Frames { node, .. }
        | Fault::Partition { node, .. }
        | Fault::Kill { node, .. }
        | Fault::Freeze { node, .. }
        | Fault::Members { node, .. }
        | Fault::Drain { node, .. } => *node != last,
    });
    plan.links = kept.into_iter().map(|link| plan.links[link].clone()).collect();
    plan.nodes.pop();
}
