//! A flood's packets: IPv4 with TCP, of clients that nobody is. In: a kind and a number. Out: the bytes of that packet.
//!
//! The same number is the same packet in every run. Sources are of 100.64.0.0/10 (RFC 6598), which no cluster on this
//! machine has, so that what nodes answer leaves by their gateway, as to any client of the Internet.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Sources there are at most: addresses of 100.64.0.0/12.
pub const SOURCES_MAX: u32 = 1 << SOURCE_BITS;
/// Longest packet, in bytes.
pub const PACKET_BYTES_MAX: usize = IP_BYTES + TCP_BYTES + SYN_OPTIONS.len();

const SOURCE_BITS: u32 = 20;
/// Where sources begin.
const SOURCES: u32 = u32::from_be_bytes([100, 64, 0, 0]);
/// Ports of a client begin here.
const PORTS: u16 = 1024;
const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
/// MSS 1460, no operation, window scale 7: of a client that does ordinary things.
const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 7];
/// Odd, so that a multiple modulo a power of two hits each number once: sources come in no order a table could like.
const SCATTER: u32 = 0x9e37_79b1;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// SYNs, and nothing behind them.
    Syns,
    /// A SYN and at once the acknowledgement that would open the connection, of a client that has not seen what it
    /// acknowledges: open to whoever sees one direction only.
    Opens,
    /// What belongs to nothing: acknowledgements, ends, resets. No fragments: a kernel that follows connections holds them
    /// back on the way.
    Garbage,
    /// All of them.
    Mixed,
}

impl Kind {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Syns => "syns",
            Kind::Opens => "opens",
            Kind::Garbage => "garbage",
            Kind::Mixed => "mixed",
        }
    }
}

/// The number of a packet's client, and its flags.
fn sort(kind: Kind, number: u64) -> (u64, u8) {
    match kind {
        Kind::Syns => (number, SYN),
        Kind::Opens => (number / 2, if number.is_multiple_of(2) { SYN } else { ACK }),
        Kind::Garbage => (number, [ACK, FIN | ACK, RST][(number % 3) as usize]),
        Kind::Mixed => match number % 3 {
            0 => sort(Kind::Syns, number / 3),
            1 => sort(Kind::Opens, number / 3),
            _ => sort(Kind::Garbage, number / 3),
        },
    }
}

/// Writes packet `number` of a flood of `service` from so many sources, and answers how long it is. The header's checksum
/// and length are left to the kernel, which fills them in on raw sockets.
pub fn write(
    kind: Kind,
    number: u64,
    sources: u32,
    service: SocketAddrV4,
    packet: &mut [u8; PACKET_BYTES_MAX],
) -> usize {
    let (client, flags) = sort(kind, number);
    let source = source(client, sources);
    let options: &[u8] = if flags == SYN { &SYN_OPTIONS } else { &[] };
    let tcp_bytes = TCP_BYTES + options.len();
    packet.fill(0);
    let (ip, tcp) = packet.split_at_mut(IP_BYTES);
    let tcp = &mut tcp[..tcp_bytes];
    ip[0] = 0x45;
    ip[4..6].copy_from_slice(&(client as u16).to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&source.ip().octets());
    ip[16..20].copy_from_slice(&service.ip().octets());
    tcp[0..2].copy_from_slice(&source.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&service.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&(client as u32).wrapping_mul(SCATTER).to_be_bytes());
    if flags & ACK != 0 {
        tcp[8..12].copy_from_slice(&(client as u32).to_be_bytes());
    }
    tcp[12] = (tcp_bytes as u8 / 4) << 4;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    tcp[TCP_BYTES..].copy_from_slice(options);
    let sum = checksum(*source.ip(), *service.ip(), tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    IP_BYTES + tcp_bytes
}

/// A client's address and port: all addresses once, then again with other ports.
fn source(client: u64, sources: u32) -> SocketAddrV4 {
    let sources = u64::from(sources.clamp(1, SOURCES_MAX));
    let (round, place) = (client / sources, (client % sources) as u32);
    let low = place.wrapping_mul(SCATTER) & (SOURCES_MAX - 1);
    let port = PORTS + (round.wrapping_mul(7919) % u64::from(u16::MAX - PORTS)) as u16;
    SocketAddrV4::new(Ipv4Addr::from_bits(SOURCES | low), port)
}

/// TCP's checksum over IPv4 (RFC 9293 3.1), its own field being zero; segments of a flood have an even length.
fn checksum(source: Ipv4Addr, destination: Ipv4Addr, tcp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
    };
    let mut sum = words(&source.octets()) + words(&destination.octets()) + 6 + tcp.len() as u32 + words(tcp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use keyferry_distribute::{Packet, Segment};

    use super::*;

    const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 443);

    /// The packet as a distributor reads it, with the length the kernel fills in.
    fn segment(kind: Kind, number: u64) -> Segment {
        let mut bytes = [0; PACKET_BYTES_MAX];
        let len = write(kind, number, 1_000_000, SERVICE, &mut bytes);
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        match Packet::parse(&bytes[..len]).expect("it is a packet") {
            Packet::Segment(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_million_syns_have_a_million_sources() {
        let sources: HashSet<_> = (0..1_000_000).map(|number| source(number, 1_000_000)).collect();
        let addresses: HashSet<_> = sources.iter().map(|source| *source.ip()).collect();
        assert_eq!((sources.len(), addresses.len()), (1_000_000, 1_000_000));
        assert_ne!(source(0, 1_000_000), source(1_000_000, 1_000_000), "the next round has other ports");
        let syn = segment(Kind::Syns, 17);
        assert!(syn.is_open_request() && syn.flow.service == SERVICE.into());
    }

    #[test]
    fn an_open_is_a_syn_and_its_acknowledgement() {
        let (syn, ack) = (segment(Kind::Opens, 8), segment(Kind::Opens, 9));
        assert_eq!(syn.flow, ack.flow);
        assert!(syn.is_open_request() && ack.ack && !ack.is_open_request());
    }

    #[test]
    fn garbage_opens_nothing() {
        assert!((0..9).all(|number| !segment(Kind::Garbage, number).is_open_request()));
    }

    #[test]
    fn the_checksum_is_the_receivers() {
        let mut bytes = [0; PACKET_BYTES_MAX];
        for kind in [Kind::Syns, Kind::Opens, Kind::Garbage] {
            for number in 0..10 {
                let len = write(kind, number, 9, SERVICE, &mut bytes);
                let source = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
                // With its own field in it the sum is zero (RFC 1071).
                assert_eq!(checksum(source, *SERVICE.ip(), &bytes[IP_BYTES..len]), 0);
            }
        }
    }
}
