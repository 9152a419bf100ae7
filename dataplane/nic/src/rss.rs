//! Which worker owns a packet: receive side scaling with a symmetric Toeplitz key, the same in software as in ports.
//!
//! In: a frame of any content. Out: its flow's hash, or that every worker must see it. The two directions of a
//! connection hash alike, so a packet we build can be attributed too. Pure; any thread.

use crate::headers::{self, Content, ICMP, ICMPV6, TCP};

/// Bytes of the longest key a port takes; most take the first 40.
pub const KEY_BYTES: usize = 52;

/// The key: two bytes repeated, which makes the hash symmetric, since addresses and ports then change places
/// without changing the windows of the key they are multiplied with (Woo and Park, "Scalable TCP Session
/// Monitoring with Symmetric Receive-side Scaling", 2012).
pub const KEY: [u8; KEY_BYTES] = key();

/// Entries of the redirection table every port and the software agree on; ports with larger ones repeat it.
pub const RETA_SIZE: u16 = 128;

const fn key() -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let mut at = 0;
    while at < KEY_BYTES {
        key[at] = if at % 2 == 0 { 0x6d } else { 0x5a };
        at += 1;
    }
    key
}

/// What a frame is to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A TCP packet with this hash: it belongs to [`owner`].
    Flow(u32),
    /// A router's word that a packet of the flow with this hash was too big: for [`owner`], which no port knows.
    Report(u32),
    /// ARP or neighbour discovery: every worker must see it.
    Shared,
    /// Anything else, IP fragments too: whoever receives it answers it.
    Other,
}

/// The worker that owns packets with `hash`; what a port's redirection table says as well.
pub const fn owner(hash: u32, queues: u16) -> u16 {
    (hash % RETA_SIZE as u32) as u16 % queues
}

/// The Toeplitz hash of `input` under `key`, bit by bit, as the "Introduction to Receive Side Scaling" of the
/// NDIS documentation defines it. The reference; packets are hashed by [`classify`].
///
/// # Panics
/// If the key is less than four bytes longer than the input.
pub const fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    assert!(key.len() >= input.len() + 4);
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let mut hash = 0;
    let mut at = 0;
    while at < input.len() {
        let mut bit = 0;
        while bit < 8 {
            if input[at] & (0x80 >> bit) != 0 {
                hash ^= window;
            }
            let next = if at + 4 < key.len() { key[at + 4] >> (7 - bit) & 1 } else { 0 };
            window = window << 1 | next as u32;
            bit += 1;
        }
        at += 1;
    }
    hash
}

/// Hashes of a byte at an even and at an odd place of the input.
static TABLES: [[u32; 256]; 2] = tables();

const fn tables() -> [[u32; 256]; 2] {
    let mut tables = [[0; 256]; 2];
    let mut byte = 0;
    while byte < 256 {
        tables[0][byte] = toeplitz(&KEY, &[byte as u8, 0]);
        tables[1][byte] = toeplitz(&KEY, &[0, byte as u8]);
        byte += 1;
    }
    tables
}

/// The hash of an input of whole 16-bit words. A Toeplitz hash is linear, and this key repeats after 16 bits, so
/// all words meet the same windows and can be added before the look-up.
fn hash(addresses: &[u8], ports: &[u8]) -> u32 {
    let words = addresses.as_chunks::<4>().0.iter().chain(ports.as_chunks::<4>().0);
    let sum = words.fold(0, |sum, word| sum ^ u32::from_be_bytes(*word));
    let [_, _, even, odd] = (sum ^ sum >> 16).to_be_bytes();
    TABLES[0][usize::from(even)] ^ TABLES[1][usize::from(odd)]
}

/// Says whose a received frame is, VLAN tags and IPv6 extension headers included.
pub fn classify(frame: &[u8]) -> Class {
    let ip = match headers::parse(frame) {
        Content::Ip(ip) => ip,
        Content::Arp => return Class::Shared,
        Content::Other => return Class::Other,
    };
    match (ip.protocol, &frame[ip.l4..ip.end]) {
        (TCP, l4) if l4.len() >= 4 => Class::Flow(hash(ip.addresses(frame), &l4[..4])),
        // Router and neighbour solicitation and advertisement, redirect (RFC 4861 section 4).
        (ICMPV6, [133..=137, ..]) if ip.ipv6 => Class::Shared,
        (ICMP, [3, 4, ..]) if !ip.ipv6 => report(&frame[ip.l4..ip.end], false),
        (ICMPV6, [2, ..]) if ip.ipv6 => report(&frame[ip.l4..ip.end], true),
        _ => Class::Other,
    }
}

/// Whose a report is: the packet it returns went the other way, and hashes alike.
fn report(message: &[u8], ipv6: bool) -> Class {
    let returned = message.get(8..).and_then(|packet| headers::returned(packet, ipv6));
    returned.map_or(Class::Other, |(addresses, ports)| Class::Report(hash(addresses, ports)))
}

#[cfg(test)]
mod tests;
