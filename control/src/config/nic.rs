//! `[nic]`: the port, its addresses and routes, and its packet memory.

use std::net::IpAddr;

use keyferry_link::{Cidr, Route};
use keyferry_nic_config::{Device, Hugepages};
use serde::Deserialize;

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Addresses of a node, at most.
pub const ADDRESSES_MAX: usize = 16;
/// Routes besides gateways, at most.
pub const ROUTES_MAX: usize = 64;
/// Least MTU with an IPv6 address (RFC 8200 section 5).
pub const MTU_MIN_IPV6: u16 = 1280;
/// Least MTU with IPv4 only: what every host must accept (RFC 791 section 3.2).
pub const MTU_MIN_IPV4: u16 = 576;
/// Largest MTU: jumbo frames.
pub const MTU_MAX: u16 = 9000;
/// Bytes of a packet buffer besides its frame: DPDK's `rte_mbuf` and headroom.
const PACKET_OVERHEAD_BYTES: u64 = 128 + 128;
/// Least data room of a packet buffer, in bytes; ports want at least this much.
const PACKET_DATA_BYTES_MIN: u64 = 2048;
/// Packet buffers a worker cannot do without: its queue's two rings, and as many again on their way.
const PACKETS_PER_WORKER_MIN: u64 = 2048;

/// The port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Which one.
    pub device: Device,
    /// The node's addresses; at least one.
    pub addresses: Vec<Cidr>,
    /// Addresses of services that a distributor hands on; ARP and neighbour discovery are left to it.
    pub service_addresses: Vec<IpAddr>,
    /// Default routers, one a family at most.
    pub gateways: Vec<IpAddr>,
    /// Other routes; gateways are not among them.
    pub routes: Vec<Route>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// VLAN every packet is tagged with.
    pub vlan: Option<u16>,
    /// Whether packet memory is in hugepages.
    pub hugepages: Hugepages,
    /// Packet memory, in MiB.
    pub memory_mib: u32,
    /// Packet buffers of the port.
    pub packets: u32,
    /// Further arguments to DPDK's EAL.
    pub eal: Vec<String>,
}

impl Nic {
    /// What another table of the file would change.
    pub(super) fn compare(&self, new: &Nic, ledger: &mut Ledger) {
        let Nic {
            device,
            addresses,
            service_addresses,
            gateways,
            routes,
            mtu,
            vlan,
            hugepages,
            memory_mib,
            packets,
            eal,
        } = self;
        ledger.fixed("[nic]", "device", device, &new.device);
        ledger.fixed("[nic]", "addresses", addresses, &new.addresses);
        ledger.fixed("[nic]", "service_addresses", service_addresses, &new.service_addresses);
        ledger.fixed("[nic]", "gateways", gateways, &new.gateways);
        ledger.fixed("[nic]", "routes", routes, &new.routes);
        ledger.fixed("[nic]", "mtu", mtu, &new.mtu);
        ledger.fixed("[nic]", "vlan", vlan, &new.vlan);
        ledger.fixed("[nic]", "hugepages", hugepages, &new.hugepages);
        ledger.fixed("[nic]", "memory_mib", memory_mib, &new.memory_mib);
        ledger.fixed("[nic]", "packets", packets, &new.packets);
        ledger.fixed("[nic]", "eal", eal, &new.eal);
    }
}

/// EAL arguments the node sets itself, and the key that stands for them.
const EAL_OURS: &[(&str, &str)] = &[
    ("--vdev", "[nic] device"),
    ("--no-pci", "[nic] device"),
    ("-a", "[nic] device"),
    ("--allow", "[nic] device"),
    ("--no-huge", "[nic] hugepages"),
    ("-m", "[nic] memory_mib"),
    ("--socket-mem", "[nic] memory_mib"),
    ("-l", "[cores]"),
    ("-c", "[cores]"),
    ("--lcores", "[cores]"),
];

const HUGEPAGES: &[(&str, Hugepages)] =
    &[("auto", Hugepages::Auto), ("require", Hugepages::Require), ("never", Hugepages::Never)];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteText {
    to: String,
    via: String,
}

pub(super) fn read(mut section: Section<'_, '_>) -> Option<Nic> {
    let wants = "a PCI address or a DPDK --vdev string in quotes, such as \"net_af_packet0,iface=eth1\"";
    let device = section.parsed("device", wants, str::parse::<Device>);
    let device = section.required("device", device, wants);

    let wants = "a list of addresses with prefix, such as [\"192.0.2.10/24\"]";
    let addresses = section.parsed_list("addresses", wants, 1..=ADDRESSES_MAX, cidr);
    let addresses = section.required("addresses", addresses, wants).unwrap_or_default();
    let wants = "a list of addresses, such as [\"192.0.2.1\"]";
    let service_addresses = section.parsed_list("service_addresses", wants, 0..=ADDRESSES_MAX, plain_address);
    let gateways = section.parsed_list("gateways", wants, 0..=2, plain_address).unwrap_or_default();
    let routes = routes(&mut section);

    let mtu = section.number("mtu", 1500, MTU_MIN_IPV4.into()..=MTU_MAX.into());
    let vlan = section.value::<i64>("vlan", "a number from 1 to 4094").and_then(|vlan| {
        let fits = u16::try_from(vlan).ok().filter(|vlan| (1..=4094).contains(vlan));
        if fits.is_none() {
            section
                .report("vlan", format!("{vlan} is no VLAN: write a number from 1 to 4094, or leave it out"));
        }
        fits
    });
    let hugepages = section.choice("hugepages", HUGEPAGES, Hugepages::Auto);
    let memory_mib = section.number("memory_mib", 256, 16..=1 << 20);
    let packets = section.number("packets", 16_384, PACKETS_PER_WORKER_MIN..=1 << 24);
    let wants = "a list of arguments in quotes, such as [\"--log-level\", \"lib.eal:info\"]";
    let eal: Vec<String> = section.value("eal", wants).unwrap_or_default();
    check_eal(&section, &eal);
    section.finish();
    let service_addresses = service_addresses.unwrap_or_default();
    Some(Nic {
        device: device?,
        addresses,
        service_addresses,
        gateways,
        routes,
        mtu,
        vlan,
        hugepages,
        memory_mib,
        packets,
        eal,
    })
}

fn cidr(text: &str) -> Result<Cidr, String> {
    text.parse::<Cidr>().map_err(|error| format!("\"{text}\": {error}; write one such as \"192.0.2.10/24\""))
}

pub(super) fn plain_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no IP address: write one such as \"192.0.2.1\""))
}

fn routes(section: &mut Section<'_, '_>) -> Vec<Route> {
    let wants = "a list of routes, such as [{ to = \"198.51.100.0/24\", via = \"192.0.2.7\" }]";
    let texts: Vec<RouteText> = section.value("routes", wants).unwrap_or_default();
    if texts.len() > ROUTES_MAX {
        section.report("routes", format!("{} routes are too many: write at most {ROUTES_MAX}", texts.len()));
    }
    let mut routes = Vec::new();
    for text in &texts {
        match (cidr(&text.to), text.via.parse::<IpAddr>()) {
            (Ok(to), Ok(via)) => routes.push(Route { to, via }),
            (Err(what), _) => section.report("routes", what),
            (_, Err(_)) => {
                section
                    .report("routes", format!("via \"{}\" is no IP address: write the router's", text.via));
            }
        }
    }
    routes
}

fn check_eal(section: &Section<'_, '_>, eal: &[String]) {
    for argument in eal {
        let name = argument.split('=').next().unwrap_or(argument);
        if let Some((_, key)) = EAL_OURS.iter().find(|(ours, _)| *ours == name) {
            section.report("eal", format!("{name} is set by the node itself: remove it and use {key}"));
        }
    }
}

/// Whether addresses, routers and sizes fit each other, and the port has a queue for each of `workers`.
pub(super) fn check(context: &Context<'_>, nic: &Nic, workers: usize) {
    check_addresses(context, nic);
    check_routers(context, nic);
    check_sizes(context, nic, workers);
    check_queues(context, &nic.device, workers);
}

fn check_addresses(context: &Context<'_>, nic: &Nic) {
    let own = nic.addresses.iter().map(|cidr| ("nic.addresses", cidr.address()));
    let services = nic.service_addresses.iter().map(|address| ("nic.service_addresses", *address));
    let all: Vec<_> = own.chain(services).collect();
    for (index, (path, address)) in all.iter().enumerate() {
        if all[..index].iter().any(|(_, other)| other == address) {
            context.report(path, format!("{address} is listed twice: remove one"));
        }
        if !is_unicast(*address) {
            let what = match *path {
                "nic.addresses" => "write a unicast address of the port's network",
                _ => "write a unicast address",
            };
            context.report(path, format!("{address} cannot be a node's: {what}"));
        }
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let is_anybody = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_unspecified(),
    };
    !is_anybody && !address.is_multicast() && !address.is_loopback()
}

fn check_routers(context: &Context<'_>, nic: &Nic) {
    let prefixes = || nic.addresses.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ");
    let routers = nic.gateways.iter().map(|via| ("nic.gateways", *via));
    let routers = routers.chain(nic.routes.iter().map(|route| ("nic.routes", route.via)));
    for (path, via) in routers.filter(|_| !nic.addresses.is_empty()) {
        if nic.addresses.iter().any(|cidr| cidr.address() == via) {
            context.report(path, format!("{via} is this node's own address: write the router's"));
        } else if !nic.addresses.iter().any(|cidr| cidr.contains(via)) {
            let what = format!(
                "{via} is outside every prefix of [nic] addresses ({}), so nothing can reach it",
                prefixes()
            );
            context.report(path, format!("{what}: write a router of one of these networks"));
        }
    }
    for (index, gateway) in nic.gateways.iter().enumerate() {
        if nic.gateways[..index].iter().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            let family = if gateway.is_ipv4() { "IPv4" } else { "IPv6" };
            context.report(
                "nic.gateways",
                format!("{gateway} is a second {family} gateway: keep one, use routes"),
            );
        }
    }
    for (index, route) in nic.routes.iter().enumerate() {
        if route.to.address().is_ipv4() != route.via.is_ipv4() {
            let what = format!("{} via {} mixes IPv4 and IPv6", route.to, route.via);
            context.report("nic.routes", format!("{what}: write a router of the destination's family"));
        }
        let same =
            |other: &Route| other.to.prefix() == route.to.prefix() && other.to.contains(route.to.address());
        if nic.routes[..index].iter().any(same) {
            context.report("nic.routes", format!("{} has two routes: keep one", route.to));
        }
    }
}

fn check_sizes(context: &Context<'_>, nic: &Nic, workers: usize) {
    let ipv6 = nic.addresses.iter().any(|cidr| !cidr.address().is_ipv4());
    let (least, why) =
        if ipv6 { (MTU_MIN_IPV6, "with an IPv6 address") } else { (MTU_MIN_IPV4, "with IPv4") };
    if nic.mtu < least {
        context.report("nic.mtu", format!("{} is too small: {why}, write {least} to {MTU_MAX}", nic.mtu));
    }
    let packets = u64::from(nic.packets);
    let need = PACKETS_PER_WORKER_MIN * workers as u64;
    if packets < need {
        context.report(
            "nic.packets",
            format!("{packets} are too few for {workers} workers: write at least {need}"),
        );
    }
    let each = PACKET_OVERHEAD_BYTES + PACKET_DATA_BYTES_MIN.max(u64::from(nic.mtu) + 22);
    let need_mib = (packets * each).div_ceil(1 << 20);
    if need_mib > u64::from(nic.memory_mib) {
        let what = format!("{packets} packets of {each} bytes do not fit {} MiB", nic.memory_mib);
        context
            .report("nic.packets", format!("{what}: lower packets or set memory_mib to at least {need_mib}"));
    }
}

/// The driver spreads packets over all its queues, so each must have a worker that polls it.
fn check_queues(context: &Context<'_>, device: &Device, workers: usize) {
    let Device::Vdev(vdev) = device else { return };
    let Some((argument, queues)) = vdev.queues() else { return };
    if workers > 0 && queues != Ok(workers as u16) {
        let has = queues.map_or_else(str::to_owned, |queues| queues.to_string());
        let what = format!("{} has {argument}={has}, and there are {workers} workers", vdev.driver());
        context.report("nic.device", format!("{what}: write {argument}={workers}, one queue a worker"));
    }
}
