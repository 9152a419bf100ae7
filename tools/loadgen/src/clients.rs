//! Whose requests these are: source addresses and how load is spread over them. Text goes in once; random numbers go
//! in and indices of addresses come out. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::mix::Mix;

/// Most source addresses of a run.
pub const SOURCES_MAX: usize = 1 << 16;

/// Source addresses, each one client: `10.79.0.10-10.79.0.250,fd00::1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(pub Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Sources, String> {
        let mut addresses = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let parse = |text: &str| {
                text.trim().parse::<IpAddr>().map_err(|_| format!("{:?} is not an IP address", text.trim()))
            };
            let (first, last) = (parse(first)?, parse(last)?);
            let numbers = match (first, last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    (u128::from(first.to_bits()), u128::from(last.to_bits()))
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits(), last.to_bits()),
                _ => {
                    return Err(format!("{part:?} joins an IPv4 and an IPv6 address; give a range for each"));
                }
            };
            if numbers.0 > numbers.1 {
                return Err(format!("{part:?} ends before it starts; write the lower address first"));
            }
            if numbers.1 - numbers.0 >= (SOURCES_MAX - addresses.len()) as u128 {
                return Err(format!("more than {SOURCES_MAX} addresses; give fewer"));
            }
            addresses.extend((numbers.0..=numbers.1).map(|number| match first {
                // The number lies between two IPv4 addresses.
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
            }));
        }
        Ok(Sources(addresses))
    }
}

/// How connections are spread over clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// In turn.
    Even,
    /// The k-th client has a share in proportion to k^-s.
    Zipf(f64),
    /// The first so many clients share this part of all.
    Hot(usize, f64),
}

/// What a skew is one of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SkewOf {
    /// Each connection belongs to a client that is drawn when it is opened.
    #[default]
    Connections,
    /// Each request does; each client has as many connections as another.
    Requests,
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Skew, String> {
        const FORMS: &str = "write even, zipf:S (as in zipf:1.1) or hot:CLIENTS:SHARE (as in hot:4:0.8)";
        let mut parts = text.split(':');
        let skew = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("even"), None, ..) => Some(Skew::Even),
            (Some("zipf"), Some(s), None, _) => {
                s.parse().ok().filter(|s| (0.0..=10.0).contains(s)).map(Skew::Zipf)
            }
            (Some("hot"), Some(clients), Some(share), None) => {
                let clients = clients.parse().ok().filter(|&clients| clients > 0);
                let share = share.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                clients.zip(share).map(|(clients, share)| Skew::Hot(clients, share))
            }
            _ => None,
        };
        skew.ok_or_else(|| format!("{text:?}: {FORMS}"))
    }
}

impl Skew {
    /// The shares of `clients` clients; `None` where they take turns.
    pub fn shares(self, clients: usize) -> Option<Mix<usize>> {
        let weight = |client: usize| match self {
            Skew::Even => 1.0,
            Skew::Zipf(s) => ((client + 1) as f64).powf(-s),
            Skew::Hot(hot, share) if client < hot => share / hot.min(clients) as f64,
            Skew::Hot(hot, share) => (1.0 - share) / (clients - hot) as f64,
        };
        match self {
            Skew::Even => None,
            _ => Mix::new((0..clients).map(|client| (client, weight(client))).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mix::uniform;

    proptest! {
        #[test]
        fn ranges_hold_what_lies_between(first: u32, more in 0_u32..1000) {
            let last = first.saturating_add(more);
            let text = format!("{}-{}", Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
            let sources: Sources = text.parse().unwrap();
            prop_assert_eq!(sources.0.len() as u32, last - first + 1);
            prop_assert_eq!(sources.0[0], IpAddr::V4(Ipv4Addr::from_bits(first)));
            prop_assert_eq!(*sources.0.last().unwrap(), IpAddr::V4(Ipv4Addr::from_bits(last)));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "[0-9a-f:.,-]{0,40}", skew in "[a-z0-9.:]{0,12}") {
            let _ = text.parse::<Sources>();
            if let Ok(skew) = skew.parse::<Skew>() {
                let _ = skew.shares(3);
            }
        }
    }

    #[test]
    fn lists_and_ranges_join() {
        let sources: Sources = "10.0.0.9, 10.0.1.254-10.0.2.1,fd00::a-fd00::b".parse().unwrap();
        assert_eq!(sources.0.len(), 7);
        assert_eq!(sources.0[2], "10.0.1.255".parse::<IpAddr>().unwrap());
        assert_eq!(sources.0[6], "fd00::b".parse::<IpAddr>().unwrap());
        for text in ["", "10.0.0.2-10.0.0.1", "10.0.0.1-fd00::1", "a", "10.0.0.0-10.9.0.0", "::-ffff::"] {
            assert!(text.parse::<Sources>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_those_of_the_law() {
        let count = |skew: Skew| {
            let shares = skew.shares(10).unwrap();
            let mut counts = [0_u32; 10];
            (0..100_000).for_each(|seed| counts[*shares.draw(uniform(seed))] += 1);
            counts
        };
        let zipf = count(Skew::Zipf(1.0));
        // The tenth harmonic number is 2.929.
        assert!((33_500..34_800).contains(&zipf[0]), "{zipf:?}");
        assert!((16_400..17_700).contains(&zipf[1]), "{zipf:?}");
        let hot = count(Skew::Hot(2, 0.8));
        assert!((79_000..81_000).contains(&(hot[0] + hot[1])), "{hot:?}");
        assert_eq!("hot:2:0.8".parse(), Ok(Skew::Hot(2, 0.8)));
        assert!(count("hot:20:0.5".parse().unwrap()).iter().all(|&count| count > 0));
        for text in ["zipf", "zipf:x", "hot:0:1", "hot:1:2", "even:1", "hot:1"] {
            assert!(text.parse::<Skew>().is_err(), "{text}");
        }
    }
}
