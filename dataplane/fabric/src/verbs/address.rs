//! The fabric's address in the configuration: an IP address of this host, or an RDMA device. In: text. Out:
//! [`Address`]. Control thread, at start.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest device name; the kernel's own bound is 64 with the final zero (`IB_DEVICE_NAME_MAX`).
const NAME_BYTES_MAX: usize = 63;

/// Where this node's queue pairs live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The port that has this address.
    Ip(IpAddr),
    /// A device by its kernel name, and a port of it; without one its first that is active.
    Device {
        /// As `mlx5_0`.
        name: String,
        /// Counted from 1.
        port: Option<u8>,
    },
}

/// The text is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write an IP address of this host (10.0.0.1), or an RDMA device and maybe its port (mlx5_0 or mlx5_0:1)"
)]
pub struct AddressError;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            // One address, one spelling: a mapped IPv4 address is that IPv4 address.
            return Ok(Address::Ip(ip.to_canonical()));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => {
                (name, Some(port.parse().ok().filter(|port| *port > 0).ok_or(AddressError)?))
            }
            None => (text, None),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        // A name of digits and dots alone is an IP address that was mistyped.
        let named = name.bytes().any(|byte| byte.is_ascii_alphabetic());
        if !named || name.len() > NAME_BYTES_MAX || !name.bytes().all(allowed) {
            return Err(AddressError);
        }
        Ok(Address::Device { name: name.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(ip) => ip.fmt(f),
            Address::Device { name, port: None } => f.write_str(name),
            Address::Device { name, port: Some(port) } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ips_or_devices() {
        for text in ["10.0.0.1", "fd00::1", "mlx5_0", "mlx5_bond_0:2", "rxe-a", "roceo1.100"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("::ffff:10.0.0.1".parse(), Ok(Address::Ip([10, 0, 0, 1].into())));
        for text in [
            "",
            "10.0.0",
            "10.0.0.256",
            "mlx5_0:0",
            "mlx5_0:256",
            "mlx5_0:",
            "mlx5_0:1:2",
            "a b",
            "../a",
            "::g",
        ] {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
        assert_eq!("x".repeat(64).parse::<Address>(), Err(AddressError));
    }
}
