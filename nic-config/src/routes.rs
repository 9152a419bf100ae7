//! The kernel's routes and established TCP connections, from `/proc/net`; and which interface carries an address.
//!
//! `/proc/net/route` shows the main table, and of several next hops the first.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// `ESTABLISHED` of `tcp_states.h`.
const ESTABLISHED: &str = "01";
/// `RTF_UP` and `RTF_REJECT` of `route.h`.
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpAddr,
    /// Bits of `to` that count.
    pub prefix: u8,
    /// The interface it goes by.
    pub interface: String,
    /// There is a router on the way.
    pub has_gateway: bool,
}

/// An established TCP connection of the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// This end.
    pub local: (IpAddr, u16),
    /// The other end.
    pub remote: (IpAddr, u16),
}

/// Routes and connections of this network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Routes that can be used.
    pub routes: Vec<Route>,
    /// Connections.
    pub connections: BTreeSet<Connection>,
}

impl Route {
    /// Everywhere no other route leads to.
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }

    fn covers(&self, address: IpAddr) -> bool {
        match (self.to, address) {
            (IpAddr::V4(to), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix.min(32));
                (to.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(to), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix.min(128));
                (to.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Routes {
    pub(crate) fn read(root: &Path) -> Routes {
        let text = |name: &str| std::fs::read_to_string(root.join("proc/net").join(name)).unwrap_or_default();
        Routes {
            routes: [routes_v4(&text("route")), routes_v6(&text("ipv6_route"))].concat(),
            connections: [connections(&text("tcp")), connections(&text("tcp6"))]
                .into_iter()
                .flatten()
                .collect(),
        }
    }

    /// Interfaces of the longest prefix that covers an address: where packets to it leave, and, for one of this
    /// host's own addresses, where it belongs.
    pub fn interfaces_to(&self, address: IpAddr) -> BTreeSet<&str> {
        let fitting = || self.routes.iter().filter(|route| route.covers(address));
        let longest = fitting().map(|route| route.prefix).max();
        fitting()
            .filter(|route| Some(route.prefix) == longest)
            .map(|route| route.interface.as_str())
            .collect()
    }
}

/// Columns: interface, destination, gateway, flags, three numbers, mask; numbers are in the host's byte order.
fn routes_v4(text: &str) -> Vec<Route> {
    let route = |row: &str| {
        let columns: Vec<_> = row.split_whitespace().collect();
        let [interface, to, gateway, flags, _, _, _, mask, ..] = columns[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_usable = flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0;
        is_usable.then_some(Route {
            to: IpAddr::V4(address_v4(to)?),
            prefix: u32::from_str_radix(mask, 16).ok()?.count_ones() as u8,
            interface: interface.to_owned(),
            has_gateway: address_v4(gateway)? != Ipv4Addr::UNSPECIFIED,
        })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// Columns: destination, its prefix, source, its prefix, next hop, three numbers, flags, interface.
fn routes_v6(text: &str) -> Vec<Route> {
    let address = |digits: &str| {
        let bits = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
        Some(Ipv6Addr::from_bits(bits))
    };
    let route = |row: &str| {
        let columns: Vec<_> = row.split_whitespace().collect();
        let [to, prefix, _, _, gateway, _, _, _, flags, interface] = columns[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_usable = flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0 && interface != "lo";
        is_usable.then_some(Route {
            to: IpAddr::V6(address(to)?),
            prefix: u8::from_str_radix(prefix, 16).ok().filter(|prefix| *prefix <= 128)?,
            interface: interface.to_owned(),
            has_gateway: address(gateway)? != Ipv6Addr::UNSPECIFIED,
        })
    };
    text.lines().filter_map(route).collect()
}

/// Columns: number, local and remote `ADDRESS:PORT`, state.
fn connections(text: &str) -> Vec<Connection> {
    let connection = |row: &str| {
        let mut columns = row.split_whitespace().skip(1);
        let (local, remote, state) = (columns.next()?, columns.next()?, columns.next()?);
        (state == ESTABLISHED).then_some(())?;
        Some(Connection { local: end(local)?, remote: end(remote)? })
    };
    text.lines().skip(1).filter_map(connection).collect()
}

fn end(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let address = match address.len() {
        8 => IpAddr::V4(address_v4(address)?),
        32 => {
            // Four words, each in the host's byte order.
            let mut bytes = [0; 16];
            for (word, bytes) in bytes.chunks_exact_mut(4).enumerate() {
                let digits = address.get(word * 8..word * 8 + 8)?;
                bytes.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

fn address_v4(digits: &str) -> Option<Ipv4Addr> {
    let bits = u32::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 8)?;
    Some(Ipv4Addr::from(bits.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn reads_routes() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    eth2\t000200C0\t00000000\t0201\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let routes = Routes { routes: routes_v4(text), ..Routes::default() };
        assert_eq!(routes.routes.len(), 2);
        assert!(routes.routes[0].is_default() && routes.routes[0].has_gateway);
        assert_eq!(routes.interfaces_to("192.0.2.9".parse().unwrap()), BTreeSet::from(["eth1"]));
        assert_eq!(routes.interfaces_to("203.0.113.9".parse().unwrap()), BTreeSet::from(["eth0"]));
        assert_eq!(routes.interfaces_to("::1".parse().unwrap()), BTreeSet::new());
    }

    #[test]
    fn reads_ipv6_routes() {
        let zero = "0".repeat(32);
        let row = |to: &str, prefix: &str, flags: &str, interface: &str| {
            format!("{to} {prefix} {zero} 00 {zero} 00000100 00000001 00000000 {flags} {interface}\n")
        };
        let text = row("fd000000000000000000000000000000", "40", "00000001", "eth0")
            + &row(&zero, "00", "00000003", "eth1")
            + &row(&zero, "00", "00200200", "lo");
        let routes = Routes { routes: routes_v6(&text), ..Routes::default() };
        assert_eq!(routes.routes.iter().map(Route::is_default).collect::<Vec<_>>(), [false, true]);
        assert_eq!(routes.interfaces_to("fd00::7".parse().unwrap()), BTreeSet::from(["eth0"]));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn reads_connections() {
        let text = "  sl  local_address rem_address   st\n\
                    0: 0A0200C0:0016 076433C6:D431 01 0:0\n\
                    1: 0A0200C0:0016 00000000:0000 0A 0:0\n\
                    2: 0000000000000000FFFF00000A0200C0:0016 0000000000000000FFFF0000076433C6:D431 01 0:0\n";
        let expected = Connection {
            local: ("192.0.2.10".parse().unwrap(), 22),
            remote: ("198.51.100.7".parse().unwrap(), 54321),
        };
        assert_eq!(connections(text), [expected, expected]);
    }

    proptest! {
        #[test]
        fn survives_anything(text in "(\\PC|[0-9A-F]{8}|[ \t\n:]){0,200}") {
            routes_v4(&text);
            routes_v6(&text);
            connections(&text);
        }

        #[test]
        fn a_route_covers_its_own_network(bits in any::<u32>(), host in any::<u32>(), prefix in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let route = Route {
                to: Ipv4Addr::from_bits(bits & mask).into(), prefix, interface: String::new(), has_gateway: false,
            };
            prop_assert!(route.covers(Ipv4Addr::from_bits(bits & mask | host & !mask).into()));
            let outside = bits ^ (1 << (31 - u32::from(prefix.saturating_sub(1))));
            prop_assert_eq!(route.covers(Ipv4Addr::from_bits(outside).into()), prefix == 0);
        }
    }
}
