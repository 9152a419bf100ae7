//! `[cores]`: which core runs what.

use std::collections::BTreeSet;

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Workers of a node, at most: queues of the port and shards of the session table.
pub const WORKERS_MAX: usize = 64;
/// Application threads of a node, at most.
pub const APPS_MAX: usize = 256;
/// Highest core number that is read.
const CORE_MAX: usize = 4095;

/// A logical core, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Core(pub usize);

/// Which core runs what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The control thread's.
    pub control: Core,
    /// One worker each, in the order of their queues; at least one.
    pub workers: Vec<Core>,
    /// One application thread each; empty: each worker runs the application itself.
    pub apps: Vec<Core>,
    /// What a worker or application thread does while it has nothing to do.
    pub idle: Idle,
}

/// What a thread does while it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: the core is its own.
    Spin,
    /// Offers the core to others between polls.
    Yield,
    /// Sleeps until a timer, or shortly.
    Sleep,
}

impl Cores {
    /// What another table of the file would change.
    pub(super) fn compare(&self, new: &Cores, ledger: &mut Ledger) {
        let Cores { control, workers, apps, idle } = self;
        ledger.fixed("[cores]", "control", control, &new.control);
        ledger.fixed("[cores]", "workers", workers, &new.workers);
        ledger.fixed("[cores]", "apps", apps, &new.apps);
        ledger.fixed("[cores]", "idle", idle, &new.idle);
    }
}

const IDLE: &[(&str, Idle)] = &[("spin", Idle::Spin), ("yield", Idle::Yield), ("sleep", Idle::Sleep)];

pub(super) fn read(mut section: Section<'_, '_>) -> Cores {
    let control = Core(section.number("control", 0, 0..=CORE_MAX as u64));
    let workers = list(&mut section, "workers", WORKERS_MAX).unwrap_or_else(|| vec![Core(1)]);
    let apps = list(&mut section, "apps", APPS_MAX).unwrap_or_default();
    let idle = section.choice("idle", IDLE, Idle::Spin);
    if workers.is_empty() {
        section.report("workers", "a node needs at least one worker: write its core, such as [1]");
    }
    section.finish();
    Cores { control, workers, apps, idle }
}

fn list(section: &mut Section<'_, '_>, key: &'static str, max: usize) -> Option<Vec<Core>> {
    let numbers: Vec<usize> = section.value(key, "a list of core numbers, such as [1, 2]")?;
    if numbers.len() > max {
        section.report(key, format!("{} cores are too many: write at most {max}", numbers.len()));
    }
    Some(numbers.into_iter().map(Core).collect())
}

/// Whether the cores exist and are shared only by threads that let each other run.
pub(super) fn check(context: &Context<'_>, cores: &Cores, usable: &BTreeSet<usize>) {
    let lists = [("cores.workers", &cores.workers), ("cores.apps", &cores.apps)];
    for (path, list) in lists {
        for (index, core) in list.iter().enumerate() {
            if list[..index].contains(core) {
                context.report(path, format!("core {} is listed twice: give each thread its own", core.0));
            }
        }
    }
    let control = vec![cores.control];
    for (path, list) in [("cores.control", &control), lists[0], lists[1]] {
        let missing: BTreeSet<_> =
            list.iter().map(|core| core.0).filter(|core| !usable.contains(core)).collect();
        for core in missing {
            context.report(
                path,
                format!("core {core} is not one this process may use: choose among {}", ranges(usable)),
            );
        }
    }
    if cores.idle != Idle::Spin {
        return;
    }
    let advice = "give it its own core, or set idle to \"yield\" or \"sleep\"";
    for worker in &cores.workers {
        if cores.apps.contains(worker) {
            let what = format!("core {} is also a worker's, which spins and lets nothing else run", worker.0);
            context.report("cores.apps", format!("{what}: {advice}"));
        }
    }
    if cores.workers.contains(&cores.control) || cores.apps.contains(&cores.control) {
        let what =
            format!("core {} is also a spinning thread's, which lets nothing else run", cores.control.0);
        context.report("cores.control", format!("{what}: {advice}"));
    }
}

/// Numbers as the kernel writes them: `0-3, 8`.
fn ranges(numbers: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_ranges() {
        assert_eq!(ranges(&BTreeSet::from([0, 1, 2, 5, 7, 8])), "0-2, 5, 7-8");
    }
}
