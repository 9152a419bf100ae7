//! Interrupts and the cores each may run on; from `/proc/irq`.

use std::collections::BTreeSet;
use std::path::Path;

use crate::host::{entries, line};
use crate::list;

/// Interrupts that are looked at, at most.
const INTERRUPTS_MAX: usize = 1 << 14;

/// One interrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: usize,
    /// Cores it may run on.
    pub cores: BTreeSet<usize>,
}

/// Every interrupt, by number.
pub(crate) fn read(root: &Path) -> Vec<Interrupt> {
    let folder = root.join("proc/irq");
    let interrupt = |name: String| {
        let number = name.parse().ok()?;
        let cores = list::parse(&line(&folder.join(name).join("smp_affinity_list")));
        (!cores.is_empty()).then_some(Interrupt { number, cores })
    };
    let mut all: Vec<_> = entries(&folder).into_iter().take(INTERRUPTS_MAX).filter_map(interrupt).collect();
    all.sort_by_key(|interrupt| interrupt.number);
    all
}

/// The file that says where an interrupt may run.
pub(crate) fn file(number: usize) -> String {
    format!("proc/irq/{number}/smp_affinity_list")
}
