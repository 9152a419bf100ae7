//! Filters against their text, and against a model that knows what a frame is made of.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::DEPTH_MAX;

fn filter(text: &str) -> Filter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn complaint(text: &str) -> String {
    text.parse::<Filter>().map(|filter| filter.to_string()).expect_err(text).to_string()
}

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Made {
    tags: usize,
    network: Network,
    ends: (IpAddr, IpAddr),
    transport: u8,
    ports: (u16, u16),
    /// A fragment behind the first.
    is_later: bool,
    /// Bytes of options or extension headers, in units of 8.
    more: usize,
}

impl Made {
    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        for _ in 0..self.tags {
            frame.extend([0x81, 0x00, 0x00, 0x07]);
        }
        let payload = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        match self.network {
            Network::Ip => {
                frame.extend([0x08, 0x00, 0x45 + 2 * self.more as u8, 0, 0, 0, 0, 0]);
                frame.extend([0, u8::from(self.is_later), 64, self.transport, 0, 0]);
                frame.extend(octets(self.ends.0));
                frame.extend(octets(self.ends.1));
                frame.resize(frame.len() + 8 * self.more, 1);
            }
            Network::Ip6 => {
                let first = match (self.more, self.is_later) {
                    (0, false) => self.transport,
                    (0, true) => 44,
                    _ => 60,
                };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, first, 64]);
                frame.extend(octets(self.ends.0));
                frame.extend(octets(self.ends.1));
                let behind = if self.is_later { 44 } else { self.transport };
                for left in (0..self.more).rev() {
                    frame.extend([if left > 0 { 60 } else { behind }, 0, 1, 4, 0, 0, 0, 0]);
                }
                if self.is_later {
                    frame.extend([self.transport, 0, 0, 8, 0, 0, 0, 1]);
                }
            }
            Network::Arp => {
                frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2]);
                frame.extend(octets(self.ends.0));
                frame.extend([0; 6]);
                frame.extend(octets(self.ends.1));
                return frame;
            }
        }
        frame.extend(payload);
        frame
    }

    /// What the filter should say.
    fn is_wanted(&self, term: &Term) -> bool {
        let is_ip = self.network != Network::Arp;
        let of = |side: &Side, source: bool, destination: bool| match side {
            Side::Source => source,
            Side::Destination => destination,
            Side::Either => source || destination,
        };
        match term {
            Term::Is(Kind::Ip) => self.network == Network::Ip,
            Term::Is(Kind::Ip6) => self.network == Network::Ip6,
            Term::Is(Kind::Arp) => !is_ip,
            Term::Is(Kind::Tcp) => is_ip && self.transport == 6,
            Term::Is(Kind::Udp) => is_ip && self.transport == 17,
            Term::Is(Kind::Icmp) => self.network == Network::Ip && self.transport == 1,
            Term::Is(Kind::Icmp6) => self.network == Network::Ip6 && self.transport == 58,
            Term::Host(side, host) => of(side, self.ends.0 == *host, self.ends.1 == *host),
            Term::Net(side, net) => of(side, net.contains(self.ends.0), net.contains(self.ends.1)),
            Term::Port(side, port) => {
                let has_ports = is_ip && !self.is_later && [6, 17].contains(&self.transport);
                has_ports && of(side, self.ports.0 == *port, self.ports.1 == *port)
            }
            Term::Not(term) => !self.is_wanted(term),
            Term::All(terms) => terms.iter().all(|term| self.is_wanted(term)),
            Term::Any(terms) => terms.iter().any(|term| self.is_wanted(term)),
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Few, so that filters and frames meet.
fn v4() -> impl Strategy<Value = IpAddr> {
    (0..2u8, 0..3u8).prop_map(|(net, host)| Ipv4Addr::new(192, 0, net, host).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    (0..2u16, 0..3u16).prop_map(|(net, host)| Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host).into())
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(443), any::<u16>()]
}

fn made() -> impl Strategy<Value = Made> {
    let network = prop_oneof![Just(Network::Ip), Just(Network::Ip6), Just(Network::Arp)];
    let transport = prop_oneof![Just(6u8), Just(17), Just(1), Just(58), Just(132)];
    (0..3usize, network, transport, (port(), port()), any::<bool>(), 0..4usize).prop_flat_map(
        |(tags, network, transport, ports, is_later, more)| {
            let end = || if network == Network::Ip6 { v6().boxed() } else { v4().boxed() };
            let of = move |ends| Made { tags, network, ends, transport, ports, is_later, more };
            (end(), end()).prop_map(of)
        },
    )
}

fn term() -> impl Strategy<Value = Term> {
    let side = || prop_oneof![Just(Side::Source), Just(Side::Destination), Just(Side::Either)];
    let net = prop_oneof![
        Just("192.0.0.0/24"),
        Just("192.0.1.0/31"),
        Just("0.0.0.0/0"),
        Just("fd00::/32"),
        Just("fd00:1::/64"),
        Just("::/0")
    ];
    let leaf = prop_oneof![
        (0..Kind::ALL.len()).prop_map(|at| Term::Is(Kind::ALL[at])),
        (side(), prop_oneof![v4(), v6()]).prop_map(|(side, host)| Term::Host(side, host)),
        (side(), net).prop_map(|(side, net)| Term::Net(side, net.parse().unwrap())),
        (side(), port()).prop_map(|(side, port)| Term::Port(side, port)),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|term| Term::Not(Box::new(term))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Term::All),
            prop::collection::vec(inner, 2..4).prop_map(Term::Any),
        ]
    })
}

proptest! {
    #[test]
    fn a_filter_is_what_it_prints(term in term()) {
        let made = Filter(Some(term));
        let text = made.to_string();
        prop_assume!(text.len() <= crate::TEXT_BYTES_MAX);
        prop_assert_eq!(text.parse::<Filter>().unwrap(), made, "{}", text);
    }

    #[test]
    fn it_says_what_a_model_says(term in term(), made in made()) {
        let expected = made.is_wanted(&term);
        prop_assert_eq!(Filter(Some(term.clone())).wants(&made.frame()), expected, "{} of {:?}", term, made);
    }

    /// Whatever it is cut to, a frame is read without a panic, and says nothing that the whole one would not.
    #[test]
    fn what_is_cut_off_is_not_seen(made in made(), kept in 0usize..120) {
        let frame = made.frame();
        let whole = Frame::read(&frame);
        let cut = Frame::read(&frame[..kept.min(frame.len())]);
        prop_assert!(cut.network.is_none() || cut.network == whole.network);
        prop_assert!(cut.ends.is_none() || cut.ends == whole.ends);
        prop_assert!(cut.ports.is_none() || cut.ports == whole.ports);
    }

    #[test]
    fn any_text_is_a_filter_or_told_why(text in "(host|net|port|tcp|src|and|or|not|[()!&|]|192.0.2.1|::/0|443|x| ){0,24}") {
        match text.parse::<Filter>() {
            Ok(filter) => prop_assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

#[test]
fn words_of_tcpdump_mean_what_they_mean_there() {
    let same = [
        ("tcp port 443", "tcp and port 443"),
        ("src 192.0.2.1", "src host 192.0.2.1"),
        ("dst 192.0.2.0/24", "dst net 192.0.2.0/24"),
        ("ip6 src net fd00::/8", "ip6 and src net fd00::/8"),
        ("!arp&&(udp||tcp)", "not arp and (udp or tcp)"),
        ("not not tcp", "not not tcp"),
        ("  ", ""),
    ];
    for (written, printed) in same {
        assert_eq!(filter(written).to_string(), printed, "{written}");
    }
    assert_eq!(filter(""), Filter::default());
    assert!(Filter::default().wants(&[]), "all there is");
}

#[test]
fn a_wrong_word_is_named_with_what_to_write() {
    let expected = [
        ("hots 192.0.2.1", "\"hots\" here: did you mean host?"),
        ("tpc", "\"tpc\" here: did you mean tcp?"),
        ("tcp prot 443", "\"prot\" here: did you mean port?"),
        ("tcp adn udp", "\"adn\" here: did you mean and?"),
        ("src prt 80", "\"prt\" here: did you mean port?"),
        ("192.0.2.1", "\"192.0.2.1\" here: write host"),
        ("host", "ends behind \"host\": write an address"),
        ("tcp and", "ends behind \"and\""),
        ("host example.com", "\"example.com\" is none behind \"host\""),
        ("port 65536", "at most 65535"),
        ("net 192.0.2.1", "such as 192.0.2.0/24"),
        ("net 192.0.2.1/24", "write net 192.0.2.0/24, or host 192.0.2.1"),
        ("net 192.0.2.1/0", "write net 0.0.0.0/0"),
        ("net fd00::1/64", "write net fd00::/64"),
        ("icmp port 7", "icmp has no ports"),
        ("tcp and udp or arp", "parentheses around one of them"),
        ("(tcp", "a '(' without"),
        ("tcp)", "a ')' without"),
        ("(tcp udp)", "write and or or between"),
        ("()", "\")\" here"),
    ];
    for (text, says) in expected {
        let said = complaint(text);
        assert!(said.contains(says), "{text}: {said}");
    }
}

#[test]
fn filters_are_bounded() {
    assert!(complaint(&format!("host ::{}", " ".repeat(crate::TEXT_BYTES_MAX))).contains("too long"));
    let deep = |depth: usize| format!("{}tcp{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(filter(&deep(DEPTH_MAX)).to_string(), "tcp");
    assert!(complaint(&deep(DEPTH_MAX + 1)).contains("inside each other"));
    assert!(complaint(&format!("{}tcp", "not ".repeat(DEPTH_MAX + 1))).contains("inside each other"));
}
