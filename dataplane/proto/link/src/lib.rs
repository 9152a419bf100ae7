//! The link under IP: Ethernet and VLAN headers, neighbours by ARP and neighbour discovery, routes, ICMP echo, routers'
//! word that a packet was too big.
//!
//! In: received frames, the time, next-hop questions. Out: IP packets with TCP for one of our addresses, reports about
//! packets we sent, answers written into the frame that asked, solicitations, and packets that waited for an answer.
//! Sans-IO; each worker owns one. No call allocates after [`Link::new`].
//!
//! A packet leaves by the routes, never to the MAC address its request came from: behind a distributor that is
//! the distributor's.

#![forbid(unsafe_code)]

mod arp;
mod cidr;
mod ethernet;
mod icmp;
mod ip;
mod ndisc;
mod neighbors;
mod parked;
mod routes;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};

use keyferry_time::Time;

pub use cidr::{Cidr, CidrError};
pub use ethernet::{Stations, readdress};
pub use neighbors::NEIGHBORS_MAX;
pub use parked::{PARKED_MAX, PARKED_PER_NEIGHBOR_MAX};
pub use routes::Route;

use icmp::Budget;
use neighbors::{Look, Neighbors, Solicit, Word};
use parked::Parked;
use routes::Routes;

/// Frames of our own waiting for [`Link::poll_transmit`], at most, beside the announcement of each address.
/// More are dropped: the timers ask again, and so do neighbours.
pub const OUTGOING_MAX: usize = 64;

/// The largest frame [`Link::poll_transmit`] writes, in bytes.
pub const TRANSMIT_BYTES_MAX: usize = ethernet::HEADER_BYTES_MAX + ndisc::PACKET_BYTES;

/// What a link is, fixed at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our MAC address.
    pub mac: [u8; 6],
    /// Our addresses, each with the prefix of its network.
    pub addresses: Vec<Cidr>,
    /// Networks behind gateways; a default gateway is a route to `0.0.0.0/0` or `::/0`.
    pub routes: Vec<Route>,
    /// Tag every frame with this VLAN and take no other; `None`: untagged.
    pub vlan: Option<u16>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// What became of a received frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// An IP packet with TCP for one of our addresses.
    Ip {
        /// Offset of the IP header in the frame.
        at: usize,
        /// Bytes of the IP packet by its own header; padding behind it is not counted.
        len: usize,
    },
    /// The frame now holds an answer of `len` bytes: transmit it.
    Reply {
        /// Bytes of the answer, at most those of the frame received.
        len: usize,
    },
    /// A router cannot pass on a packet of ours, and says how large one may be (RFC 1191 section 4, RFC 8201 section 4).
    /// Anyone may write such a report: TCP knows whether the packet was sent.
    TooBig {
        /// Offset in the frame of what is returned of our packet, from its IP header on.
        at: usize,
        /// Bytes of it.
        len: usize,
        /// The largest IP packet that is passed on, in bytes; 0 where the router does not know that it should say.
        mtu: u32,
    },
    /// Taken note of; nothing to do.
    Consumed,
    /// Dropped.
    Drop(DropReason),
}

/// Why a received frame was dropped; also an index for the caller's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Shorter than its headers say, or headers that contradict themselves.
    Malformed,
    /// For another station.
    OtherMac,
    /// Another VLAN, or none where one is configured.
    OtherVlan,
    /// Neither IP nor ARP.
    EtherType,
    /// For another IP address.
    OtherAddress,
    /// From an address nothing may come from (RFC 1122 section 3.2.1.3).
    Martian,
    /// A fragment: TCP with a segment size never makes them.
    Fragment,
    /// Neither TCP nor ICMP, or behind IPv6 extension headers.
    Protocol,
    /// Wrong ICMP checksum.
    Checksum,
    /// ICMP that asks for nothing we do.
    Icmp,
    /// ICMP beyond the rate we answer, or look into.
    IcmpRate,
    /// An answer was due, but the way back is not known yet.
    Unresolved,
}

impl DropReason {
    /// Every reason, in the order of [`DropReason::index`].
    pub const ALL: [DropReason; 12] = [
        DropReason::Malformed,
        DropReason::OtherMac,
        DropReason::OtherVlan,
        DropReason::EtherType,
        DropReason::OtherAddress,
        DropReason::Martian,
        DropReason::Fragment,
        DropReason::Protocol,
        DropReason::Checksum,
        DropReason::Icmp,
        DropReason::IcmpRate,
        DropReason::Unresolved,
    ];

    /// Its place in an array of counters of `DropReason::ALL.len()`.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::OtherMac => "other_mac",
            DropReason::OtherVlan => "other_vlan",
            DropReason::EtherType => "ether_type",
            DropReason::OtherAddress => "other_address",
            DropReason::Martian => "martian",
            DropReason::Fragment => "fragment",
            DropReason::Protocol => "protocol",
            DropReason::Checksum => "checksum",
            DropReason::Icmp => "icmp",
            DropReason::IcmpRate => "icmp_rate",
            DropReason::Unresolved => "unresolved",
        }
    }
}

/// The MAC address for a packet's destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// This one.
    Known([u8; 6]),
    /// A neighbour was asked; park the packet, or drop it and let its sender retry.
    Unresolved,
    /// No route leads there.
    NoRoute,
}

/// What a link counts beside dropped frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// ARP requests and neighbour solicitations sent.
    pub solicits: u64,
    /// Neighbours that never answered, or no more.
    pub neighbors_lost: u64,
    /// Parked packets dropped because their neighbour did not answer in time.
    pub parked_expired: u64,
    /// Packets refused by [`Link::park`].
    pub parked_refused: u64,
    /// Frames of our own dropped because `OUTGOING_MAX` were waiting.
    pub outgoing_full: u64,
}

/// A frame of our own waiting to be sent.
#[derive(Clone, Copy, Debug)]
enum Outgoing {
    Solicit(Solicit),
    /// Tells everyone which MAC address one of ours has.
    Announce(IpAddr),
    /// A neighbour advertisement that did not fit the frame that asked for it.
    Advertise {
        target: Ipv6Addr,
        to: ndisc::Solicitor,
    },
}

/// The link of one worker; `P` is a packet buffer that can wait for a neighbour's answer.
pub struct Link<P> {
    mac: [u8; 6],
    vlan: Option<u16>,
    mtu: u16,
    addresses: Vec<Cidr>,
    /// Addresses others answer for.
    services: Vec<IpAddr>,
    /// IPv6 needs a link-local address (RFC 4291 section 2.8); ours follows from the MAC address.
    link_local: Option<Ipv6Addr>,
    routes: Routes,
    neighbors: Neighbors,
    outgoing: VecDeque<Outgoing>,
    outgoing_max: usize,
    parked: Parked<P>,
    budget: Budget,
    /// Apart, so that a flood of questions hides no report.
    reports: Budget,
    counters: Counters,
}

impl<P> Link<P> {
    /// A link that knows no neighbours yet.
    pub fn new(config: Config) -> Link<P> {
        let Config { mac, addresses, routes, vlan, mtu } = config;
        let outgoing_max = OUTGOING_MAX + addresses.len();
        Link {
            mac,
            vlan,
            mtu,
            link_local: addresses.iter().any(|own| own.address().is_ipv6()).then(|| ndisc::link_local(mac)),
            routes: Routes::new(&addresses, &routes),
            addresses,
            services: Vec::new(),
            neighbors: Neighbors::new(),
            outgoing: VecDeque::with_capacity(outgoing_max),
            outgoing_max,
            parked: Parked::new(),
            budget: Budget::new(),
            reports: Budget::new(),
            counters: Counters::default(),
        }
    }

    /// Takes packets to these addresses too, and says nobody that they are here: a distributor has them, and hands on
    /// what comes for them.
    pub fn with_services(self, services: Vec<IpAddr>) -> Link<P> {
        Link { services, ..self }
    }

    /// Queues a gratuitous ARP request or an unsolicited advertisement for each address, so that switches and
    /// neighbours with an older entry learn where we are (RFC 5227 section 3, RFC 4861 section 7.2.6).
    pub fn announce(&mut self) {
        for at in 0..self.addresses.len() {
            self.queue(Outgoing::Announce(self.addresses[at].address()));
        }
    }

    /// Takes a received frame, from the Ethernet header on. Answers may be written into it.
    pub fn ingest(&mut self, now: Time, frame: &mut [u8]) -> Ingress {
        match self.sort(now, frame) {
            Ok(ingress) => ingress,
            Err(reason) => Ingress::Drop(reason),
        }
    }

    /// Where the IP packet begins of a frame that is for this station alone, whatever it holds; `None`: it is for
    /// [`ingest`](Link::ingest). For whoever hands packets on.
    #[inline]
    pub fn ip_at(&self, frame: &[u8]) -> Option<usize> {
        // Most frames are like this; the rest of it knows tags.
        if let Some([stations @ .., high, low]) = frame.first_chunk::<{ ethernet::header_bytes(None) }>()
            && self.vlan.is_none()
            && stations.starts_with(&self.mac)
            && matches!(u16::from_be_bytes([*high, *low]), ethernet::IPV4 | ethernet::IPV6)
        {
            return Some(ethernet::header_bytes(None));
        }
        let (header, group) = self.header(frame).ok()?;
        let is_ip = matches!(header.ethertype, ethernet::IPV4 | ethernet::IPV6);
        // One with a priority tag would need another header to leave.
        (is_ip && !group && header.len == self.header_bytes()).then_some(header.len)
    }

    /// The header of a frame for this station; whether it is for others too.
    fn header(&self, frame: &[u8]) -> Result<(ethernet::Header, bool), DropReason> {
        let header = ethernet::Header::parse(frame)?;
        let group = header.destination[0] & 1 != 0;
        if !group && header.destination != self.mac {
            return Err(DropReason::OtherMac);
        }
        // A priority tag (VLAN 0) leaves a frame untagged (IEEE 802.1Q section 6.9).
        if header.vlan.filter(|vlan| *vlan != 0) != self.vlan {
            return Err(DropReason::OtherVlan);
        }
        Ok((header, group))
    }

    fn sort(&mut self, now: Time, frame: &mut [u8]) -> Result<Ingress, DropReason> {
        let (header, group) = self.header(frame)?;
        match header.ethertype {
            ethernet::IPV4 => self.ingest_ipv4(now, frame, header.len, group),
            ethernet::IPV6 => self.ingest_ipv6(now, frame, header.len, group),
            ethernet::ARP => self.ingest_arp(now, frame, header.len),
            _ => Err(DropReason::EtherType),
        }
    }

    /// Bytes of the Ethernet header of every frame sent: 14, or 18 with a VLAN tag.
    pub fn header_bytes(&self) -> usize {
        ethernet::header_bytes(self.vlan)
    }

    /// Writes the Ethernet header into the first [`header_bytes`](Link::header_bytes) bytes of `frame`.
    ///
    /// # Panics
    /// If `frame` is shorter than that.
    pub fn write_header(&self, frame: &mut [u8], dst: [u8; 6], ipv6: bool) {
        let ethertype = if ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
        ethernet::write(frame, dst, self.mac, self.vlan, ethertype);
    }

    /// How a frame of ours to `dst` begins: for [`readdress`].
    pub fn stations(&self, dst: [u8; 6]) -> Stations {
        ethernet::stations(dst, self.mac)
    }

    /// Largest IP packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The MAC address a packet to `dst` goes to, by the routes. An unknown neighbour is asked.
    pub fn next_hop(&mut self, now: Time, dst: IpAddr) -> NextHop {
        let Some(hop) = self.routes.hop(dst) else {
            return NextHop::NoRoute;
        };
        let (outgoing, max, counters) = (&mut self.outgoing, self.outgoing_max, &mut self.counters);
        let look =
            self.neighbors.look(now, hop, |ask| queue(outgoing, max, counters, Outgoing::Solicit(ask)));
        match look {
            Look::Known(mac) => NextHop::Known(mac),
            Look::Wait(ask) => {
                if let Some(ask) = ask {
                    self.queue(Outgoing::Solicit(ask));
                }
                NextHop::Unresolved
            }
        }
    }

    /// How often what is known of neighbours has changed. While it stays the same [`next_hop`](Link::next_hop) says, and
    /// does, the same as it did.
    pub fn neighbor_changes(&self) -> u64 {
        self.neighbors.changes()
    }

    /// Keeps a packet to `dst` until its neighbour answers; then it comes out of [`unparked`](Link::unparked).
    ///
    /// # Errors
    /// Gives the packet back when too many wait already or no route leads there.
    pub fn park(&mut self, now: Time, dst: IpAddr, packet: P) -> Result<(), P> {
        let parked = match self.routes.hop(dst) {
            Some(hop) => self.parked.push(now, hop, packet),
            None => Err(packet),
        };
        if parked.is_err() {
            self.counters.parked_refused += 1;
        }
        parked
    }

    /// A packet whose neighbour has answered, and the MAC address it goes to. Oldest first.
    pub fn unparked(&mut self) -> Option<(P, [u8; 6])> {
        let neighbors = &self.neighbors;
        self.parked.pop(|hop| neighbors.peek(hop))
    }

    /// Writes the next frame of our own into `buffer` and returns its length. `buffer` should hold
    /// [`TRANSMIT_BYTES_MAX`] bytes; a frame that does not fit is dropped.
    pub fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<usize> {
        while let Some(outgoing) = self.outgoing.pop_front() {
            let written = match outgoing {
                Outgoing::Solicit(Solicit { hop: IpAddr::V4(hop), to }) => {
                    self.counters.solicits += 1;
                    self.write_arp_request(buffer, hop, to)
                }
                Outgoing::Solicit(Solicit { hop: IpAddr::V6(hop), to }) => {
                    self.counters.solicits += 1;
                    self.write_solicit(buffer, hop, to)
                }
                Outgoing::Announce(IpAddr::V4(own)) => self.write_arp_announcement(buffer, own),
                Outgoing::Announce(IpAddr::V6(own)) => {
                    self.write_advert(now, buffer, own, ndisc::Solicitor::Nobody)
                }
                Outgoing::Advertise { target, to } => self.write_advert(now, buffer, target, to),
            };
            if written.is_some() {
                return written;
            }
        }
        None
    }

    /// Handles what is due: retries, probes, neighbours and packets given up.
    pub fn timers(&mut self, now: Time) {
        let (outgoing, max, counters) = (&mut self.outgoing, self.outgoing_max, &mut self.counters);
        let parked = &mut self.parked;
        let (mut lost, mut expired) = (0, 0);
        self.neighbors.timers(
            now,
            |ask| queue(outgoing, max, counters, Outgoing::Solicit(ask)),
            |hop| {
                lost += 1;
                expired += parked.drop_for(hop);
            },
        );
        self.counters.neighbors_lost += lost;
        self.counters.parked_expired += expired + self.parked.expire(now);
    }

    /// When [`timers`](Link::timers) or [`poll_transmit`](Link::poll_transmit) has something to do at the
    /// earliest; [`Time::ZERO`] for now.
    pub fn poll_at(&self) -> Option<Time> {
        if !self.outgoing.is_empty() {
            return Some(Time::ZERO);
        }
        [self.neighbors.poll_at(), self.parked.poll_at()].into_iter().flatten().min()
    }

    /// Packets parked right now.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Counters since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn queue(&mut self, what: Outgoing) {
        queue(&mut self.outgoing, self.outgoing_max, &mut self.counters, what);
    }

    /// Learns a neighbour's MAC address, unless it is not one or the address is ours or not on our networks.
    fn learn(&mut self, now: Time, address: IpAddr, mac: [u8; 6], word: Word) {
        let unicast = mac[0] & 1 == 0 && mac != [0; 6];
        if unicast
            && !self.is_own(address)
            && self.routes.is_neighbor(address)
            && self.neighbors.learn(now, address, mac, word)
        {
            self.parked.wake();
        }
    }

    /// Whether `address` is configured here.
    fn is_configured(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address() == address)
    }

    /// Whether TCP may come to `address`: it is configured here, or a service's.
    fn is_served(&self, address: IpAddr) -> bool {
        self.is_configured(address) || self.services.contains(&address)
    }

    /// Whether `address` is ours, the link-local one included.
    fn is_own(&self, address: IpAddr) -> bool {
        self.is_configured(address) || self.link_local.is_some_and(|own| IpAddr::V6(own) == address)
    }

    /// The address of ours to ask `hop` from: one on its network, else any of the family.
    fn source_for(&self, hop: IpAddr) -> Option<IpAddr> {
        let same = self.addresses.iter().find(|own| own.contains(hop));
        let any = self.addresses.iter().find(|own| own.address().is_ipv4() == hop.is_ipv4());
        same.or(any).map(|own| own.address())
    }
}

fn queue(outgoing: &mut VecDeque<Outgoing>, max: usize, counters: &mut Counters, what: Outgoing) {
    if outgoing.len() < max {
        outgoing.push_back(what);
    } else {
        counters.outgoing_full += 1;
    }
}
