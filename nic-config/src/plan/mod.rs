//! What has to be done so that this host suits a core map. Pure: a [`Host`] and a [`Wanted`] go in, a [`Plan`] comes out, and
//! nothing is done. A host that suits gives an empty plan.

mod cores;
mod kernel;
pub(crate) mod memory;
mod notes;
pub(crate) mod port;

use serde::Serialize;

use crate::finding::Finding;
use crate::host::Host;
use crate::operation::Operation;
use crate::wanted::Wanted;

pub(crate) use cores::PERFORMANCE;
pub(crate) use notes::ports;

/// What there is to do, in the order in which it is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Why nothing of it is to be done; empty where all of it may be.
    pub refusals: Vec<Finding>,
    /// Steps.
    pub steps: Vec<Step>,
    /// Worth knowing, and nothing that could be done here.
    pub notes: Vec<Finding>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is changed.
    pub what: String,
    /// Why; one sentence without its full stop.
    pub why: String,
    /// What it is now.
    pub now: String,
    /// What it is to be.
    pub wanted: String,
    /// How it and a reboot go together.
    pub reboot: Reboot,
    /// How to undo it.
    pub undo: String,
    /// What `apply` does for it.
    pub operations: Vec<Operation>,
    /// What remains to be done by hand, if anything does.
    pub by_hand: Option<String>,
}

/// How a step and a reboot go together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reboot {
    /// It takes effect at once.
    #[default]
    No,
    /// It takes effect with the next start of the kernel.
    After,
    /// It can be done only when the machine has been rebooted for another step.
    Before,
}

/// The order of steps is that of the packet: the kernel's arguments, the port, its memory, the cores, what is left to the
/// operator.
pub fn plan(host: &Host, wanted: &Wanted) -> Plan {
    let mut plan = Plan::default();
    kernel::plan(host, wanted, &mut plan);
    port::plan(host, wanted, &mut plan);
    memory::plan(host, wanted, &mut plan);
    cores::plan(host, wanted, &mut plan);
    notes::plan(host, wanted, &mut plan);
    plan
}

impl Plan {
    /// Steps that `apply` does something for.
    pub fn operations(&self) -> usize {
        self.steps.iter().map(|step| step.operations.len()).sum()
    }
}
