//! An address with its prefix length: what an interface has, and what a route leads to.
//!
//! Both families compare as one 128-bit number, IPv4 in its mapped form, so that a look-up is one mask and one
//! comparison. Plain values, owned by nobody.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address and the length of its prefix, `192.0.2.10/24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a [`Cidr`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CidrError {
    /// No `/` in it.
    #[error("an address with its prefix length is needed, such as 192.0.2.10/24")]
    Prefix,
    /// What stands before the `/` is not an IP address.
    #[error("not an IPv4 or IPv6 address")]
    Address,
    /// The prefix is longer than the address.
    #[error("the prefix length is at most 32 for IPv4 and 128 for IPv6")]
    Length,
}

impl Cidr {
    /// An address with its prefix length, or `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Cidr> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= bits).then_some(Cidr { address, prefix })
    }

    /// The address, host part included.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the prefix, in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `address` is of the same family and has the same prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (mapped(self.address) ^ mapped(address)) & self.mask() == 0
    }

    /// Whether `address` is the IPv4 broadcast address of the prefix.
    pub(crate) fn is_broadcast(self, address: Ipv4Addr) -> bool {
        match self.address {
            IpAddr::V4(own) if self.prefix < 31 => {
                let host = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                u32::from(own) | host == u32::from(address)
            }
            _ => false,
        }
    }

    /// The prefix as a mask over [`mapped`] addresses.
    pub(crate) fn mask(self) -> u128 {
        let bits = u32::from(self.prefix) + if self.address.is_ipv4() { 96 } else { 0 };
        u128::MAX.checked_shl(128 - bits).unwrap_or(0)
    }
}

/// An address as a number, IPv4 in its mapped form (RFC 4291 section 2.5.5.2).
pub(crate) fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => 0xffff_0000_0000 | u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Prefix)?;
        let address = address.parse().map_err(|_| CidrError::Address)?;
        let prefix = prefix.parse().map_err(|_| CidrError::Length)?;
        Cidr::new(address, prefix).ok_or(CidrError::Length)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn contains_by_prefix_and_family() {
        assert!(cidr("192.0.2.10/24").contains("192.0.2.255".parse().unwrap()));
        assert!(!cidr("192.0.2.10/24").contains("192.0.3.1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").contains("203.0.113.1".parse().unwrap()));
        assert!(!cidr("::/0").contains("203.0.113.1".parse().unwrap()));
        assert!(cidr("2001:db8::10/64").contains("2001:db8::ffff".parse().unwrap()));
        assert!(!cidr("2001:db8::10/128").contains("2001:db8::11".parse().unwrap()));
    }

    #[test]
    fn knows_the_broadcast_address() {
        assert!(cidr("192.0.2.10/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 255)));
        assert!(!cidr("192.0.2.10/24").is_broadcast(Ipv4Addr::new(192, 0, 2, 254)));
        assert!(!cidr("192.0.2.10/31").is_broadcast(Ipv4Addr::new(192, 0, 2, 11)));
    }

    #[test]
    fn refuses_nonsense() {
        assert_eq!("192.0.2.1".parse::<Cidr>(), Err(CidrError::Prefix));
        assert_eq!("192.0.2/24".parse::<Cidr>(), Err(CidrError::Address));
        assert_eq!("192.0.2.1/33".parse::<Cidr>(), Err(CidrError::Length));
        assert_eq!(cidr("2001:db8::1/64").to_string(), "2001:db8::1/64");
    }
}
