//! Kernel arguments: the IOMMU, and cores that are left to spinning threads alone (kernel-parameters.txt of Linux 6.1).

use std::collections::BTreeSet;

use super::{Plan, Reboot, Step};
use crate::device::Device;
use crate::drivers;
use crate::finding::Finding;
use crate::host::Host;
use crate::kernel::ARGUMENTS_FILE;
use crate::list;
use crate::operation::Operation;
use crate::wanted::Wanted;

/// An argument the kernel is to have.
struct Argument {
    name: &'static str,
    value: String,
    /// It has what this asks for, in these words or others.
    is_there: bool,
}

pub(super) fn plan(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    if host.kernel.arguments.is_none() {
        return;
    }
    let mut arguments = iommu(host, wanted);
    if needs_iommu(host, wanted) && arguments.iter().all(|argument| argument.is_there) {
        plan.notes.push(Finding::note(
            "the kernel was told to use the IOMMU, and finds none",
            "turn it on in the firmware's setup (VT-d, AMD-Vi); without one: --driver uio_pci_generic",
        ));
    }
    match cores(host, wanted) {
        Ok(cores) => arguments.extend(cores),
        Err(finding) => plan.notes.push(finding),
    }
    let missing: Vec<_> = arguments.iter().filter(|argument| !argument.is_there).collect();
    if missing.is_empty() {
        return;
    }
    let (theirs, ours): (Vec<_>, Vec<_>) =
        arguments.iter().partition(|argument| is_foreign(host, argument.name));
    let mut by_hand = Vec::new();
    for argument in theirs.iter().filter(|argument| !argument.is_there) {
        by_hand.push(format!(
            "the machine's own settings say {0}={1}: change that to {0}={2}",
            argument.name,
            host.kernel.argument(argument.name).unwrap_or_default(),
            argument.value
        ));
    }
    let added = words(ours.iter().copied());
    let text = file(&added);
    let mut operations = Vec::new();
    let is_missing = ours.iter().any(|argument| !argument.is_there);
    if is_missing && !host.kernel.has_grub {
        by_hand.push(format!(
            "add to the kernel's arguments, where this machine's boot loader has them: {added}"
        ));
    } else if is_missing {
        if host.kernel.arguments_file.as_deref() != Some(&text) {
            operations.push(Operation::Write { path: ARGUMENTS_FILE.to_owned(), text });
        }
        by_hand.push("update-grub".to_owned());
    }
    by_hand.push("reboot".to_owned());
    plan.steps.push(Step {
        what: "kernel arguments".to_owned(),
        why: "spinning cores are to themselves, and a port is given to user space through the IOMMU"
            .to_owned(),
        now: match host.kernel.arguments_file {
            Some(_) if operations.is_empty() && host.kernel.has_grub => {
                format!("/{ARGUMENTS_FILE} is written; the kernel was started without it")
            }
            _ => format!("without {}", names(&missing)),
        },
        wanted: words(arguments.iter()),
        reboot: Reboot::After,
        undo: format!("undo puts /{ARGUMENTS_FILE} back as it was; then update-grub, and reboot"),
        operations,
        by_hand: Some(by_hand.join("; ")),
    });
}

fn words<'a>(arguments: impl Iterator<Item = &'a Argument>) -> String {
    arguments.map(|argument| format!("{}={}", argument.name, argument.value)).collect::<Vec<_>>().join(" ")
}

fn names(arguments: &[&Argument]) -> String {
    arguments.iter().map(|argument| argument.name).collect::<Vec<_>>().join(", ")
}

/// Sourced by `grub-mkconfig` after the machine's own file, so it adds to what is there.
fn file(words: &str) -> String {
    format!(
        "# Made by keyferry-nic-config, which removes it with undo.\n\
         GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT {words}\"\n"
    )
}

/// Whether the kernel has an argument from elsewhere than our file.
fn is_foreign(host: &Host, name: &str) -> bool {
    host.kernel.argument(name).is_some_and(|value| {
        let file = host.kernel.arguments_file.as_deref().unwrap_or_default();
        !has_word(file, &format!("{name}={value}"))
    })
}

/// `iommu=pt`: the kernel's own devices do not pay for it. What our file has of these stays in it.
fn iommu(host: &Host, wanted: &Wanted) -> Vec<Argument> {
    let is_needed = needs_iommu(host, wanted);
    let file = host.kernel.arguments_file.as_deref().unwrap_or_default();
    let argument = |(name, value): (&'static str, &str)| Argument {
        name,
        value: value.to_owned(),
        is_there: host.kernel.argument(name) == Some(value),
    };
    let is_wanted = |(name, value): &(&'static str, &str)| {
        let suits = *name != "intel_iommu" || !host.kernel.is_amd;
        suits && (is_needed || has_word(file, &format!("{name}={value}")))
    };
    [("intel_iommu", "on"), ("iommu", "pt")].into_iter().filter(is_wanted).map(argument).collect()
}

fn has_word(file: &str, word: &str) -> bool {
    file.split([' ', '"']).any(|other| other == word)
}

/// VFIO is to drive a port of a machine whose IOMMU is off. A virtual machine mostly has none.
pub(super) fn needs_iommu(host: &Host, wanted: &Wanted) -> bool {
    let Some(Device::Pci(address)) = wanted.device else { return false };
    let Some(nic) = host.network.pci_nic(address) else { return false };
    let is_shared = nic.driver.as_deref().is_some_and(|driver| drivers::shared(driver).is_some());
    let is_vfio = wanted.driver.as_deref().is_none_or(|driver| driver == "vfio-pci");
    is_vfio
        && !is_shared
        && host.network.iommu_groups == 0
        && !host.kernel.is_guest
        && !host.network.vfio_without_iommu
}

fn cores(host: &Host, wanted: &Wanted) -> Result<Vec<Argument>, Finding> {
    let spinning = wanted.spinning();
    if spinning.is_empty() {
        return Ok(Vec::new());
    }
    let others = &host.cores.online - &spinning;
    if others.is_empty() {
        return Err(Finding::note(
            "every core spins, and none is left to the kernel",
            "leave it one, or set [cores] idle to \"yield\"",
        ));
    }
    // The kernel keeps its clock on the first core, which cannot do without ticks.
    let tickless: BTreeSet<_> = spinning.iter().copied().filter(|core| *core != 0).collect();
    let argument = |name, value: String, is_there| Argument { name, value, is_there };
    let offloaded = host.kernel.argument("rcu_nocbs").unwrap_or_default();
    // Tickless cores are offloaded with it (kernel-parameters.txt, nohz_full).
    let is_offloaded = |core: &usize| {
        offloaded == "all" || list::parse(offloaded).contains(core) || host.cores.tickless.contains(core)
    };
    let affinity = host.kernel.argument("irqaffinity");
    let is_affine = affinity.is_some_and(|text| list::parse(text).is_disjoint(&spinning));
    Ok(vec![
        argument(
            "isolcpus",
            format!("managed_irq,domain,{}", list::write(&spinning)),
            spinning.is_subset(&host.cores.isolated),
        ),
        argument("nohz_full", list::write(&tickless), tickless.is_subset(&host.cores.tickless)),
        argument("rcu_nocbs", list::write(&tickless), tickless.iter().all(is_offloaded)),
        argument("irqaffinity", list::write(&others), is_affine),
    ]
    .into_iter()
    .filter(|argument| !argument.value.is_empty())
    .collect())
}
