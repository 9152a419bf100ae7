//! A filter: what it is made of, what it says of a frame, and its text.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::str::FromStr;

use keyferry_link::Cidr;

use crate::frame::{Frame, ICMP, ICMP6, Network, TCP, UDP};
use crate::parse::{self, FilterError};

/// Which frames are wanted. Its text, printed, is read as the same filter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter(pub(crate) Option<Term>);

/// A part of a filter that is true of a frame, or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Term {
    Is(Kind),
    Host(Side, IpAddr),
    Net(Side, Cidr),
    Port(Side, u16),
    Not(Box<Term>),
    /// Two or more.
    All(Vec<Term>),
    /// Two or more.
    Any(Vec<Term>),
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Icmp,
    Icmp6,
    Arp,
    Ip,
    Ip6,
}

/// Which end of a packet is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Source,
    Destination,
    Either,
}

impl Filter {
    /// Whether a frame, from its Ethernet header on, is wanted.
    #[inline]
    pub fn wants(&self, frame: &[u8]) -> bool {
        match &self.0 {
            None => true,
            Some(term) => term.holds(&Frame::read(frame)),
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        parse::filter(text).map(Filter)
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |term| term.fmt(f))
    }
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Tcp, Kind::Udp, Kind::Icmp, Kind::Icmp6, Kind::Arp, Kind::Ip, Kind::Ip6];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Icmp => "icmp",
            Kind::Icmp6 => "icmp6",
            Kind::Arp => "arp",
            Kind::Ip => "ip",
            Kind::Ip6 => "ip6",
        }
    }

    fn holds(self, frame: &Frame) -> bool {
        let over = |network, protocol| frame.network == Some(network) && frame.transport == Some(protocol);
        match self {
            Kind::Tcp => frame.transport == Some(TCP),
            Kind::Udp => frame.transport == Some(UDP),
            Kind::Icmp => over(Network::Ip, ICMP),
            Kind::Icmp6 => over(Network::Ip6, ICMP6),
            Kind::Arp => frame.network == Some(Network::Arp),
            Kind::Ip => frame.network == Some(Network::Ip),
            Kind::Ip6 => frame.network == Some(Network::Ip6),
        }
    }
}

impl Side {
    /// Its word, with a blank behind it.
    fn prefix(self) -> &'static str {
        match self {
            Side::Source => "src ",
            Side::Destination => "dst ",
            Side::Either => "",
        }
    }

    fn holds<T>(self, ends: Option<(T, T)>, is_meant: impl Fn(T) -> bool) -> bool {
        let Some((source, destination)) = ends else { return false };
        match self {
            Side::Source => is_meant(source),
            Side::Destination => is_meant(destination),
            Side::Either => is_meant(source) || is_meant(destination),
        }
    }
}

impl Term {
    /// As deep as the text was, which is bounded.
    pub(crate) fn holds(&self, frame: &Frame) -> bool {
        match self {
            Term::Is(kind) => kind.holds(frame),
            Term::Host(side, host) => side.holds(frame.ends, |end| end == *host),
            Term::Net(side, net) => side.holds(frame.ends, |end| net.contains(end)),
            Term::Port(side, port) => side.holds(frame.ports, |end| end == *port),
            Term::Not(term) => !term.holds(frame),
            Term::All(terms) => terms.iter().all(|term| term.holds(frame)),
            Term::Any(terms) => terms.iter().any(|term| term.holds(frame)),
        }
    }

    /// Written as a part of another one.
    fn fmt_inside(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Term::All(_) | Term::Any(_) => write!(f, "({self})"),
            _ => self.fmt(f),
        }
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (terms, between) = match self {
            Term::Is(kind) => return f.write_str(kind.word()),
            Term::Host(side, host) => return write!(f, "{}host {host}", side.prefix()),
            Term::Net(side, net) => return write!(f, "{}net {net}", side.prefix()),
            Term::Port(side, port) => return write!(f, "{}port {port}", side.prefix()),
            Term::Not(term) => {
                f.write_str("not ")?;
                return term.fmt_inside(f);
            }
            Term::All(terms) => (terms, " and "),
            Term::Any(terms) => (terms, " or "),
        };
        for (index, term) in terms.iter().enumerate() {
            f.write_str(if index > 0 { between } else { "" })?;
            term.fmt_inside(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
