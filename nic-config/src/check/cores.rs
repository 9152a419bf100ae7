//! Cores: what else runs on those that spin, what they share, and how fast they may run.

use std::collections::BTreeSet;

use crate::finding::Finding;
use crate::host::Host;
use crate::list;
use crate::plan::PERFORMANCE;
use crate::wanted::Wanted;

pub(super) fn check(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    isolation(host, wanted, findings);
    ticks(host, wanted, findings);
    first_core(wanted, findings);
    twins(host, wanted, findings);
    governors(host, wanted, findings);
    interrupts(host, wanted, findings);
    if wanted.spin && host.kernel.transparent_hugepages == "always" {
        findings.push(Finding::note(
            "transparent hugepages are made at any time, and threads stop meanwhile",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ));
    }
}

fn named(cores: &BTreeSet<usize>) -> String {
    list::write(cores).replace(',', ", ")
}

fn isolation(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let shared = &wanted.spinning() - &host.cores.isolated;
    if !shared.is_empty() {
        findings.push(Finding::note(
            format!(
                "the kernel runs other work on spinning cores {}, which costs tail latency",
                named(&shared)
            ),
            format!(
                "keep them free: kernel argument isolcpus=managed_irq,domain,{}",
                list::write(&wanted.spinning())
            ),
        ));
    }
}

fn ticks(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    // The first core keeps the clock and always ticks.
    let ticking: BTreeSet<_> =
        (&wanted.spinning() - &host.cores.tickless).into_iter().filter(|core| *core != 0).collect();
    if host.kernel.arguments.is_none() || ticking.is_empty() {
        return;
    }
    let cores = list::write(&wanted.spinning().into_iter().filter(|core| *core != 0).collect());
    findings.push(Finding::note(
        format!(
            "the kernel's timer stops spinning cores {} up to a thousand times a second",
            named(&ticking)
        ),
        format!("kernel arguments nohz_full={cores} rcu_nocbs={cores}"),
    ));
}

/// Interrupts and timers that belong to no other core are its.
fn first_core(wanted: &Wanted, findings: &mut Vec<Finding>) {
    if wanted.spinning().contains(&0) {
        findings.push(Finding::note(
            "core 0 is a spinning thread's, and the kernel keeps its clock and unbound interrupts there",
            "choose another core, and leave 0 to [cores] control",
        ));
    }
}

fn twins(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let workers = &wanted.workers;
    let siblings = |core: &usize| host.cores.siblings.get(core).into_iter().flatten();
    let twins: BTreeSet<_> =
        workers.iter().copied().filter(|core| siblings(core).any(|twin| workers.contains(twin))).collect();
    if !twins.is_empty() {
        findings.push(Finding::slows(
            format!("worker cores {} share physical cores with each other", named(&twins)),
            "choose one thread of each physical core",
        ));
    }
    let others = wanted.apps.iter().chain(wanted.control.iter()).copied().collect::<BTreeSet<_>>();
    let others = &others - workers;
    let beside: BTreeSet<_> =
        others.into_iter().filter(|core| siblings(core).any(|twin| workers.contains(twin))).collect();
    if !beside.is_empty() {
        findings.push(Finding::note(
            format!("cores {} of other threads share physical cores with workers", named(&beside)),
            "leave the second threads of workers' physical cores idle",
        ));
    }
}

fn governors(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let is_slow =
        |core: &usize| host.cores.governors.get(core).is_some_and(|governor| governor != PERFORMANCE);
    let slow: BTreeSet<_> = (&wanted.workers | &wanted.apps).into_iter().filter(is_slow).collect();
    let Some(first) = slow.first() else { return };
    findings.push(Finding::slows(
        format!("cores {} run at what {} thinks is enough", named(&slow), host.cores.governors[first]),
        format!("cpupower --cpu {} frequency-set --governor performance", list::write(&slow)),
    ));
}

fn interrupts(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let spinning = wanted.spinning();
    let there: Vec<_> =
        host.interrupts.iter().filter(|interrupt| !interrupt.cores.is_disjoint(&spinning)).collect();
    let others = &host.cores.online - &spinning;
    if let Some(first) = there.first()
        && !others.is_empty()
    {
        findings.push(Finding::note(
            format!("{} interrupts may run on spinning cores {}", there.len(), named(&spinning)),
            format!(
                "keyferry-nic-config apply moves them, or for each: echo {} > /proc/irq/{}/smp_affinity_list",
                list::write(&others),
                first.number
            ),
        ));
    }
}
