//! What a host has for RDMA, as plain data: devices, ports, GIDs, and the addresses of their network interfaces. In:
//! nothing. Out: what `discover.rs` fills in and `choose.rs` reads. Control thread, at set-up.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// All RDMA devices of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// In the order of their names.
    pub devices: Vec<Device>,
}

/// One RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name, as `mlx5_0`.
    pub name: String,
    /// What it speaks.
    pub transport: Transport,
    /// In the order of their numbers.
    pub ports: Vec<Port>,
}

/// What a device speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// InfiniBand's transport, over InfiniBand or Ethernet (RoCE).
    InfiniBand,
    /// RDMA over TCP: its queue pairs are connected by other means and know no immediates.
    Iwarp,
    /// Something without reliable-connected queue pairs.
    Other,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Counted from 1.
    pub number: u8,
    /// Whether it carries traffic.
    pub state: PortState,
    /// What is below the transport.
    pub link_layer: LinkLayer,
    /// The local identifier a subnet manager gave it; 0 is none. Always 0 on Ethernet.
    pub lid: u16,
    /// Whether the subnet wants a global routing header on every packet.
    pub grh_required: bool,
    /// The largest packet now.
    pub mtu: Mtu,
    /// The GID table, without empty entries.
    pub gids: Vec<Gid>,
    /// Addresses of the network interfaces on this port: IPoIB, or the Ethernet interface itself.
    pub addresses: Vec<IpAddr>,
}

/// Whether a port carries traffic (`ibv_query_port(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// No link.
    Down,
    /// Link, but no subnet manager has configured it.
    Initializing,
    /// Configured, not yet carrying data.
    Armed,
    /// Carries traffic.
    Active,
}

/// What is below the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// LIDs, a subnet manager.
    InfiniBand,
    /// RoCE: every packet has a GID.
    Ethernet,
}

/// One entry of a port's GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Index in the table.
    pub index: u8,
    /// The GID, which has the shape of an IPv6 address; an IPv4 address is mapped (`::ffff:a.b.c.d`).
    pub address: Ipv6Addr,
    /// What packets with it look like.
    pub kind: GidKind,
    /// The network interface it comes from (a VLAN or a bond has its own entries); none on InfiniBand.
    pub interface: Option<String>,
}

/// What packets with a GID look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand.
    InfiniBand,
    /// An Ethernet type of its own: not routed.
    RoceV1,
    /// UDP port 4791 over IP.
    RoceV2,
}

/// A path MTU of InfiniBand's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mtu {
    /// 256 bytes.
    B256 = 1,
    /// 512 bytes.
    B512 = 2,
    /// 1024 bytes.
    B1024 = 3,
    /// 2048 bytes.
    B2048 = 4,
    /// 4096 bytes.
    B4096 = 5,
}

impl Mtu {
    /// From the number the transport has for it (`enum ibv_mtu`).
    pub fn from_code(code: u32) -> Option<Mtu> {
        [Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096].into_iter().find(|mtu| mtu.code() == code)
    }

    /// The number the transport has for it.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Payload bytes of a packet.
    pub fn bytes(self) -> u32 {
        128 << self.code()
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkLayer::InfiniBand => "InfiniBand",
            LinkLayer::Ethernet => "Ethernet",
        })
    }
}
