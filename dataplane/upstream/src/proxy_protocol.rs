//! The head of a connection that says whose it is: PROXY protocol, version 2.
//!
//! In: the two ends of the client's connection. Out: bytes that go before everything else. Pure.

use std::net::{IpAddr, SocketAddr};

use keyferry_http::Ends;

/// What each begins with (the protocol's section 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, a connection of the sender's own.
const LOCAL: u8 = 0x20;
/// Version 2, on behalf of another.
const PROXIED: u8 = 0x21;

const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The bytes; `None`: nobody's connection, a health check.
pub(crate) fn header(ends: Option<Ends>) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let (command, family) = match ends.map(|Ends { client, local }| (client, local)) {
        None => (LOCAL, 0),
        Some((SocketAddr::V4(client), SocketAddr::V4(local))) => {
            addresses.extend(client.ip().octets().into_iter().chain(local.ip().octets()));
            addresses.extend(client.port().to_be_bytes().into_iter().chain(local.port().to_be_bytes()));
            (PROXIED, TCP_OVER_IPV4)
        }
        Some((client, local)) => {
            let octets = |end: SocketAddr| match end.ip() {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            addresses.extend(octets(client).into_iter().chain(octets(local)));
            addresses.extend(client.port().to_be_bytes().into_iter().chain(local.port().to_be_bytes()));
            (PROXIED, TCP_OVER_IPV6)
        }
    };
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family, 0, addresses.len() as u8]);
    bytes.extend(addresses);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, local: &str) -> Option<Ends> {
        Some(Ends { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    /// Against the bytes of the protocol's own description (its section 2.2).
    #[test]
    fn headers_are_those_of_the_protocol() {
        let four = header(ends("192.0.2.7:50000", "198.51.100.1:443"));
        let mut expected = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c".to_vec();
        expected.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x01, 0xbb]);
        assert_eq!(four, expected);
        let six = header(ends("[2001:db8::7]:50000", "[2001:db8::1]:443"));
        assert_eq!((six.len(), &six[12..16]), (16 + 36, &[0x21, 0x21, 0, 36][..]));
        assert_eq!(six[16..20], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(six[48..], [0xc3, 0x50, 0x01, 0xbb]);
        assert_eq!(header(None)[12..], [0x20, 0, 0, 0]);
    }
}
