//! Cores: their frequency, interrupts that would run on spinning ones, and transparent hugepages.

use super::{Plan, Reboot, Step};
use crate::host::Host;
use crate::interrupts;
use crate::list;
use crate::operation::Operation;
use crate::wanted::Wanted;

/// The governor that keeps a core's frequency up.
pub(crate) const PERFORMANCE: &str = "performance";
/// Where the kernel may look for memory to merge into hugepages.
const TRANSPARENT: &str = "sys/kernel/mm/transparent_hugepage/enabled";

pub(super) fn plan(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    governors(host, wanted, plan);
    interrupts(host, wanted, plan);
    transparent_hugepages(host, wanted, plan);
}

fn governors(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    let cores = &wanted.workers | &wanted.apps;
    let slow: Vec<_> = host
        .cores
        .governors
        .iter()
        .filter(|(core, governor)| cores.contains(core) && *governor != PERFORMANCE)
        .collect();
    let Some((_, first)) = slow.first() else { return };
    let file = |core: usize| format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
    let set = |core: usize| Operation::Set { path: file(core), value: PERFORMANCE.to_owned() };
    plan.steps.push(Step {
        what: format!("governor of cores {}", list::write(&slow.iter().map(|(core, _)| **core).collect())),
        why: "a core that slows down when there is little to do answers late when there is".to_owned(),
        now: (*first).clone(),
        wanted: PERFORMANCE.to_owned(),
        reboot: Reboot::No,
        undo: format!("{first} again"),
        operations: slow.iter().map(|(core, _)| set(**core)).collect(),
        by_hand: None,
    });
}

fn interrupts(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    let spinning = wanted.spinning();
    let others = &host.cores.online - &spinning;
    if spinning.is_empty() || others.is_empty() {
        return;
    }
    let there: Vec<_> =
        host.interrupts.iter().filter(|interrupt| !interrupt.cores.is_disjoint(&spinning)).collect();
    if there.is_empty() {
        return;
    }
    let away = |interrupt: &&interrupts::Interrupt| {
        let rest = &interrupt.cores - &spinning;
        let cores = if rest.is_empty() { &others } else { &rest };
        // Some have cores the kernel chooses ("managed"): those it does not let go.
        Operation::Try { path: interrupts::file(interrupt.number), value: list::write(cores) }
    };
    plan.steps.push(Step {
        what: format!("cores of {} interrupts", there.len()),
        why: "each one that runs on a spinning core delays what it polls".to_owned(),
        now: format!("some of {}", list::write(&spinning)),
        wanted: format!("only {}", list::write(&others)),
        reboot: Reboot::No,
        undo: "each may run where it might before".to_owned(),
        operations: there.iter().map(away).collect(),
        by_hand: None,
    });
}

fn transparent_hugepages(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    if host.kernel.transparent_hugepages != "always" || !wanted.spin {
        return;
    }
    plan.steps.push(Step {
        what: "transparent hugepages".to_owned(),
        why: "making them stops threads while pages are moved".to_owned(),
        now: "always".to_owned(),
        wanted: "madvise".to_owned(),
        reboot: Reboot::No,
        undo: format!("echo always > /{TRANSPARENT}"),
        operations: vec![Operation::Set { path: TRANSPARENT.to_owned(), value: "madvise".to_owned() }],
        by_hand: None,
    });
}
