//! The addresses of services, as packets have them: the first thing a packet is asked.
//!
//! In: a destination. Out: the service's number. Pure.

use std::net::SocketAddr;

/// Addresses and ports with the number of their service.
pub(crate) struct Doors {
    /// As one number; most packets are asked this alone.
    v4: Vec<(u64, u16)>,
    v6: Vec<(([u8; 16], u16), u16)>,
}

impl Doors {
    /// Those of services in their order.
    pub(crate) fn new(services: impl Iterator<Item = SocketAddr>) -> Doors {
        let mut doors = Doors { v4: Vec::new(), v6: Vec::new() };
        for (service, address) in (0..).zip(services) {
            match address {
                SocketAddr::V4(it) => doors.v4.push((number(it.ip().octets(), it.port()), service)),
                SocketAddr::V6(it) => doors.v6.push(((it.ip().octets(), it.port()), service)),
            }
        }
        doors
    }

    #[inline]
    pub(crate) fn v4(&self, ip: [u8; 4], port: u16) -> Option<u16> {
        let wanted = number(ip, port);
        self.v4.iter().find(|(it, _)| *it == wanted).map(|(_, service)| *service)
    }

    #[inline]
    pub(crate) fn v6(&self, ip: [u8; 16], port: u16) -> Option<u16> {
        self.v6.iter().find(|(it, _)| *it == (ip, port)).map(|(_, service)| *service)
    }
}

fn number(ip: [u8; 4], port: u16) -> u64 {
    u64::from(u32::from_le_bytes(ip)) << 16 | u64::from(port)
}
