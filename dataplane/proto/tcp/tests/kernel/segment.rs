//! What the relay sees of a segment.

use std::fmt;

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpOption, TcpPacket};

/// A segment's header, and whose connection it is of.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub from_port: u16,
    pub to_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// Bytes of payload.
    pub len: u32,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub acks: bool,
    /// The shift a SYN offers.
    pub shift: Option<u8>,
    /// The first SACK block, for a failure's message.
    pub sack: Option<(u32, u32)>,
}

impl Seen {
    /// Reads an IP packet; `None` if there is no TCP in it: Linux also looks for IPv6 routers.
    pub fn of(packet: &[u8]) -> Option<Seen> {
        let at = if packet[0] >> 4 == 4 {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            usize::from(ip.header_len())
        } else {
            Ipv6Packet::new_checked(packet).ok()?;
            40
        };
        let next = if at == 40 { packet[6] } else { packet[9] };
        let tcp = TcpPacket::new_checked(packet.get(at..)?).ok().filter(|_| next == 6)?;
        let (mut shift, mut options) = (None, tcp.options());
        while let Ok((rest, option)) = TcpOption::parse(options) {
            match option {
                TcpOption::WindowScale(bits) => shift = Some(bits),
                TcpOption::EndOfList => break,
                _ => {}
            }
            options = rest;
            if options.is_empty() {
                break;
            }
        }
        let sack = tcp.selective_ack_ranges().ok().and_then(|ranges| ranges[0]);
        Some(Seen {
            from_port: tcp.src_port(),
            to_port: tcp.dst_port(),
            seq: tcp.seq_number().0 as u32,
            ack: tcp.ack_number().0 as u32,
            window: tcp.window_len(),
            len: tcp.payload().len() as u32,
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            acks: tcp.ack(),
            shift,
            sack,
        })
    }

    /// Numbers it takes.
    pub fn numbers(&self) -> u32 {
        self.len + u32::from(self.syn) + u32::from(self.fin)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (flag, name) in [(self.syn, "S"), (self.fin, "F"), (self.rst, "R"), (self.acks, "A")] {
            write!(f, "{}", if flag { name } else { "." })?;
        }
        write!(f, " {}+{} ack {} win {}", self.seq, self.len, self.ack, self.window)?;
        if let Some((from, to)) = self.sack {
            write!(f, " sack {from}:{to}")?;
        }
        Ok(())
    }
}
