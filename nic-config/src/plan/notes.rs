//! What the plan cannot do and an operator may want to: how packets spread over workers, and what RoCE asks of adapters and
//! switches.

use super::Plan;
use crate::device::Device;
use crate::finding::Finding;
use crate::host::Host;
use crate::rdma::{RdmaDevice, RdmaPort};
use crate::wanted::Wanted;

/// The differentiated services code point of RoCE by custom, the priority it falls into (the upper
/// three bits), and the traffic class with it and ECN (RFC 3168 section 5: ECT(0)).
const DSCP: u8 = 26;
const PRIORITY: u8 = DSCP >> 3;
const TRAFFIC_CLASS: u8 = DSCP << 2 | 0b10;

pub(super) fn plan(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    let workers = wanted.workers.len();
    if workers > 1 && matches!(wanted.device, Some(Device::Pci(_))) {
        plan.notes.push(Finding::note(
            format!("the node asks the port for {workers} queues, one a worker, and spreads packets by RSS"),
            "nothing has to be done",
        ));
    }
    if !wanted.verbs {
        return;
    }
    for (device, port) in ports(host, wanted) {
        if port.is_ethernet {
            plan.notes.extend(roce(device, port));
        }
    }
}

/// RDMA ports of the wanted address; all there are where the file does not say.
pub(crate) fn ports<'h>(host: &'h Host, wanted: &'h Wanted) -> Vec<(&'h RdmaDevice, &'h RdmaPort)> {
    let all = host.network.rdma.iter().flat_map(|device| device.ports.iter().map(move |port| (device, port)));
    let Some(address) = wanted.fabric.as_deref() else { return all.collect() };
    let is_it = |device: &RdmaDevice, port: &RdmaPort| match address.parse::<std::net::IpAddr>() {
        Ok(ip) => {
            port.gids.iter().any(|gid| std::net::IpAddr::V6(gid.address).to_canonical() == ip.to_canonical())
        }
        Err(_) => match address.split_once(':') {
            Some((name, number)) => name == device.name && number.parse() == Ok(port.number),
            None => address == device.name,
        },
    };
    all.filter(|(device, port)| is_it(device, port)).collect()
}

/// Lossless transport wants PFC or ECN on adapters and switches alike.
fn roce(device: &RdmaDevice, port: &RdmaPort) -> Vec<Finding> {
    if device.is_software() {
        return vec![Finding::note(
            format!("{} is Soft-RoCE: it needs no PFC or ECN, and is slower than TCP", device.name),
            "take an adapter for anything but trying it out",
        )];
    }
    let interface = port.interface().unwrap_or("INTERFACE");
    let name = &device.name;
    let pfc: Vec<_> = (0..8).map(|priority| if priority == PRIORITY { "1" } else { "0" }).collect();
    let commands = match device.driver.as_deref() {
        Some("mlx5_core" | "mlx4_core") => format!(
            "mlnx_qos -i {interface} --trust dscp --pfc {}; cma_roce_tos -d {name} -t {TRAFFIC_CLASS}; \
             echo 1 > /sys/class/net/{interface}/ecn/roce_np/enable/{PRIORITY}; \
             echo 1 > /sys/class/net/{interface}/ecn/roce_rp/enable/{PRIORITY}",
            pfc.join(",")
        ),
        _ => format!(
            "dcb pfc set dev {interface} prio-pfc all:off {PRIORITY}:on; \
             dcb app add dev {interface} dscp-prio {DSCP}:{PRIORITY}"
        ),
    };
    vec![Finding::note(
        format!(
            "RoCE of {name} loses time with every packet lost: give it priority {PRIORITY} (DSCP {DSCP}) with PFC or \
             ECN, here and on every switch between"
        ),
        commands,
    )]
}
