//! Compares a host with what a node wants. Pure: a [`Host`] and a [`Wanted`] go in, findings come out, worst first.

mod cores;
mod memory;
mod port;
mod rdma;

use crate::device::Device;
use crate::finding::Finding;
use crate::host::Host;
use crate::wanted::Wanted;

/// Everything on this host that blocks or slows the node, worst first.
pub fn check(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    environment(host, &mut findings);
    aes(host, &mut findings);
    memory::check(host, wanted, &mut findings);
    match &wanted.device {
        Some(Device::Pci(address)) => port::pci(host, wanted, *address, &mut findings),
        Some(Device::Vdev(vdev)) => port::virtual_device(host, wanted, vdev, &mut findings),
        None => {}
    }
    addresses(host, wanted, &mut findings);
    cores::check(host, wanted, &mut findings);
    rdma::check(host, wanted, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn environment(host: &Host, findings: &mut Vec<Finding>) {
    if let Some(value) = &host.ia32cap {
        findings.push(Finding::slows(
            format!(
                "OPENSSL_ia32cap is set to \"{value}\" in the environment, which can make AES 35 times slower"
            ),
            "unset it where the node is started",
        ));
    }
}

fn aes(host: &Host, findings: &mut Vec<Finding>) {
    let features = host.features;
    if !(features.aes && features.clmul) {
        findings.push(Finding::slows(
            "this processor (or virtual machine) shows no AES instructions, so sealing takes many times longer",
            "run on a processor that has them, or let the virtual machine see the host's (QEMU: -cpu host)",
        ));
    } else if !(features.vaes && features.avx512) {
        findings.push(Finding::note(
            "this processor seals without VAES and AVX-512, at about half the rate",
            "nothing has to be done; newer processors seal faster",
        ));
    }
}

/// An address the kernel also has: its TCP answers every segment of ours with a reset.
fn addresses(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    for address in wanted.addresses.iter().filter(|address| host.network.addresses.contains(address)) {
        findings.push(Finding::blocks(
            format!("the kernel answers for {address} too, and resets the node's connections"),
            format!("take it from the kernel: ip address delete {address} from the interface that has it"),
        ));
    }
}
