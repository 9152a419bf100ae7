//! SYNs of sources nobody has, no two of them of one source, each with every checksum right.
//!
//! Sources are of the network for benchmarks (RFC 2544 appendix C.2.2), which the node reaches by its gateway alone; what it
//! answers goes nowhere.

use std::net::Ipv4Addr;

use super::client::{self, Client};

/// The first source's address, and how many there are.
const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SOURCES_BITS: u32 = 17;
/// The first port, and how many there are.
const PORT: u32 = 1024;
const PORTS: u32 = 64_000;

const IP: usize = 14;
const TCP: usize = IP + 20;

/// The next SYN, but for what is its own.
pub struct Spoofed {
    frame: Vec<u8>,
    /// Sums of what checksums cover, a SYN's own left out.
    ip_sum: u32,
    tcp_sum: u32,
    count: u64,
}

impl Spoofed {
    /// The first one is next.
    pub fn new() -> Spoofed {
        let mut frame = Client::new(0, &client::config()).1;
        // Both checksums, the source's address and port, the sequence number.
        for field in [IP + 10..IP + 16, TCP..TCP + 2, TCP + 4..TCP + 8, TCP + 16..TCP + 18] {
            frame[field].fill(0);
        }
        let pseudo_header = sum(&frame[IP + 16..TCP]) + 6 + (frame.len() - TCP) as u32;
        let (ip_sum, tcp_sum) = (sum(&frame[IP..TCP]), sum(&frame[TCP..]) + pseudo_header);
        Spoofed { frame, ip_sum, tcp_sum, count: 0 }
    }

    /// The next frame.
    pub fn frame(&mut self) -> &[u8] {
        let number = self.count;
        self.count += 1;
        let source = SOURCES.to_bits() + (number as u32 & ((1 << SOURCES_BITS) - 1));
        let port = PORT + (number >> SOURCES_BITS) as u32 % PORTS;
        // Anything that is not like the one before.
        let sequence = (number as u32).wrapping_mul(0x9e37_79b1);
        let source_sum = (source >> 16) + (source & 0xffff);
        let own_sum = source_sum + port + (sequence >> 16) + (sequence & 0xffff);
        self.frame[IP + 10..IP + 12].copy_from_slice(&(!fold(self.ip_sum + source_sum)).to_be_bytes());
        self.frame[IP + 12..IP + 16].copy_from_slice(&source.to_be_bytes());
        self.frame[TCP..TCP + 2].copy_from_slice(&(port as u16).to_be_bytes());
        self.frame[TCP + 4..TCP + 8].copy_from_slice(&sequence.to_be_bytes());
        self.frame[TCP + 16..TCP + 18].copy_from_slice(&(!fold(self.tcp_sum + own_sum)).to_be_bytes());
        &self.frame
    }
}

/// Adds 16-bit words (RFC 1071); a header is far too short to overflow.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}
