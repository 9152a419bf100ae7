//! Where a packet goes next: the longest matching prefix among our own networks and the configured routes.
//!
//! In: a destination. Out: the neighbour to hand the packet to, which is the destination itself on our own
//! networks and a gateway elsewhere. Fixed at start; owned by a worker's link.

use std::net::{IpAddr, Ipv6Addr};

use crate::cidr::{Cidr, mapped};

/// A network and the gateway that leads to it. A gateway for everything is a route to `0.0.0.0/0` or `::/0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The network behind the gateway.
    pub to: Cidr,
    /// The gateway, a neighbour of ours.
    pub via: IpAddr,
}

/// One row of the table; longest prefix first.
struct Row {
    network: u128,
    mask: u128,
    ipv4: bool,
    via: Option<IpAddr>,
}

/// The routing table. Scanned in order: a host has a handful of routes, and a scan of those beats a trie.
pub(crate) struct Routes(Vec<Row>);

/// IPv6 link-local addresses (RFC 4291 section 2.5.6) are always neighbours.
const LINK_LOCAL: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10);

impl Routes {
    pub(crate) fn new(addresses: &[Cidr], routes: &[Route]) -> Routes {
        let local = addresses.iter().copied().chain(Cidr::new(LINK_LOCAL.0, LINK_LOCAL.1));
        let mut rows: Vec<Row> = local
            .map(|to| row(to, None))
            .chain(routes.iter().map(|route| row(route.to, Some(route.via))))
            .collect();
        // Stable: of two equal prefixes our own network comes before a gateway, then the order of the file.
        rows.sort_by_key(|row| std::cmp::Reverse(row.mask));
        Routes(rows)
    }

    /// The neighbour that leads to `destination`.
    pub(crate) fn hop(&self, destination: IpAddr) -> Option<IpAddr> {
        self.find(destination).map(|row| row.via.unwrap_or(destination))
    }

    /// Whether `address` is on one of our own networks.
    pub(crate) fn is_neighbor(&self, address: IpAddr) -> bool {
        self.find(address).is_some_and(|row| row.via.is_none_or(|via| via == address))
            || self.0.iter().any(|row| row.via == Some(address))
    }

    fn find(&self, destination: IpAddr) -> Option<&Row> {
        let bits = mapped(destination);
        let ipv4 = destination.is_ipv4();
        self.0.iter().find(|row| (row.network ^ bits) & row.mask == 0 && row.ipv4 == ipv4)
    }
}

fn row(to: Cidr, via: Option<IpAddr>) -> Row {
    Row { network: mapped(to.address()), mask: to.mask(), ipv4: to.address().is_ipv4(), via }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(to: &str, via: &str) -> Route {
        Route { to: to.parse().unwrap(), via: via.parse().unwrap() }
    }

    #[test]
    fn the_longest_prefix_wins_and_families_stay_apart() {
        let routes = Routes::new(
            &["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
            &[
                route("0.0.0.0/0", "192.0.2.1"),
                route("198.51.100.0/24", "192.0.2.7"),
                route("::/0", "fe80::1"),
            ],
        );
        let hop = |to: &str| routes.hop(to.parse().unwrap()).map(|hop| hop.to_string());
        assert_eq!(hop("192.0.2.200").as_deref(), Some("192.0.2.200"));
        assert_eq!(hop("198.51.100.9").as_deref(), Some("192.0.2.7"));
        assert_eq!(hop("203.0.113.9").as_deref(), Some("192.0.2.1"));
        assert_eq!(hop("2001:db8::77").as_deref(), Some("2001:db8::77"));
        assert_eq!(hop("2001:db8:1::77").as_deref(), Some("fe80::1"));
        assert_eq!(hop("fe80::2").as_deref(), Some("fe80::2"));
    }

    #[test]
    fn without_a_default_route_there_is_none() {
        let routes = Routes::new(&["192.0.2.10/24".parse().unwrap()], &[route("::/0", "fe80::1")]);
        assert_eq!(routes.hop("203.0.113.9".parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_prefix(
            rows in prop::collection::vec((any::<u32>(), 0u8..=32), 1..12),
            destination: u32,
        ) {
            let table: Vec<Route> = rows
                .iter()
                .enumerate()
                .map(|(at, (to, prefix))| Route {
                    to: Cidr::new(IpAddr::V4((*to & 0xf).rotate_right(4).into()), *prefix).unwrap(),
                    via: IpAddr::V4((0x0a00_0000 + at as u32).into()),
                })
                .collect();
            let destination = IpAddr::V4((destination & 0xf).rotate_right(4).into());
            let mut best: Option<&Route> = None;
            for route in table.iter().filter(|route| route.to.contains(destination)) {
                if best.is_none_or(|best| route.to.prefix() > best.to.prefix()) {
                    best = Some(route);
                }
            }
            prop_assert_eq!(Routes::new(&[], &table).hop(destination), best.map(|route| route.via));
        }
    }
}
