//! The name of a port: a PCI address, or a virtual device in the form of DPDK's `--vdev`.
//!
//! Text comes in, a [`Device`] whose driver and arguments are known to make sense goes out; whether this host has
//! it is [`check`](crate::check)'s question.

use std::fmt;
use std::str::FromStr;

/// Longest argument list of a virtual device.
const ARGUMENTS_MAX: usize = 32;

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A PCI function.
    Pci(PciAddress),
    /// A virtual device.
    Vdev(Vdev),
}

/// Domain, bus, device and function; writes itself the way sysfs does, `0000:3b:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// A virtual device: `net_af_packet0,iface=eth1,qpairs=2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdev {
    text: String,
    driver: &'static str,
    arguments: Vec<(String, String)>,
}

/// Why a text names no port; each says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Neither form.
    Form(String),
    /// A `net_` driver DPDK does not have, and the nearest it has.
    Driver(String, &'static str),
    /// A driver that comes with a later release.
    Later(&'static str),
    /// Too many arguments, or one that is not `name=value`.
    Argument(String),
    /// The driver cannot do without this argument.
    Missing(&'static str, &'static str),
}

/// What is to be known of a driver for virtual devices.
struct Driver {
    name: &'static str,
    /// The argument it cannot do without, and an example of it.
    needs: Option<(&'static str, &'static str)>,
    /// The argument that is the name of a kernel interface.
    interface: Option<&'static str>,
    /// The argument that sets the number of queues; `None`: as many as are asked for.
    queues: Option<&'static str>,
}

/// The virtual network devices of DPDK 22.11 that a node can use.
const DRIVERS: &[Driver] = &[
    driver("net_af_packet", Some(("iface", "iface=eth1")), Some("iface"), Some("qpairs")),
    driver("net_af_xdp", Some(("iface", "iface=eth1")), Some("iface"), Some("queue_count")),
    driver("net_memif", None, None, None),
    driver("net_null", None, None, None),
    driver("net_pcap", None, None, None),
    driver("net_ring", None, None, None),
    driver("net_tap", None, None, None),
    driver("net_vhost", Some(("iface", "iface=/run/vhost.sock")), None, Some("queues")),
    driver("net_virtio_user", Some(("path", "path=/run/vhost.sock")), None, Some("queues")),
];

const fn driver(
    name: &'static str,
    needs: Option<(&'static str, &'static str)>,
    interface: Option<&'static str>,
    queues: Option<&'static str>,
) -> Driver {
    Driver { name, needs, interface, queues }
}

impl Vdev {
    /// The driver's name, without the instance number: `net_af_packet`.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// The value of an argument.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The kernel interface it takes its packets from.
    pub fn interface(&self) -> Option<&str> {
        self.known().interface.and_then(|name| self.argument(name))
    }

    /// The argument that sets its number of queues and the number it has now; `None` if the driver makes as many
    /// as are asked for.
    pub fn queues(&self) -> Option<(&'static str, Result<u16, &str>)> {
        let name = self.known().queues?;
        let value = self.argument(name).unwrap_or("1");
        Some((name, value.parse().map_err(|_| value)))
    }

    fn known(&self) -> &'static Driver {
        DRIVERS.iter().find(|driver| driver.name == self.driver).expect("only known drivers are parsed")
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        if let Some(address) = PciAddress::parse(text) {
            return Ok(Device::Pci(address));
        }
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if !stem.starts_with("net_") && !stem.starts_with("eth_") {
            return Err(DeviceError::Form(text.to_owned()));
        }
        if stem.starts_with("net_bonding") {
            return Err(DeviceError::Later("bonding"));
        }
        let known = DRIVERS.iter().find(|driver| driver.name == stem).ok_or_else(|| {
            let distance = |driver: &&Driver| strsim::damerau_levenshtein(driver.name, stem);
            let nearest = DRIVERS.iter().min_by_key(distance).expect("there are drivers");
            DeviceError::Driver(stem.to_owned(), nearest.name)
        })?;
        let vdev = Vdev { text: text.to_owned(), driver: known.name, arguments: arguments(rest)? };
        if let Some((name, example)) = known.needs
            && vdev.argument(name).is_none_or(str::is_empty)
        {
            return Err(DeviceError::Missing(known.name, example));
        }
        Ok(Device::Vdev(vdev))
    }
}

fn arguments(text: &str) -> Result<Vec<(String, String)>, DeviceError> {
    let parts: Vec<_> = text.split(',').filter(|part| !part.is_empty()).collect();
    if parts.len() > ARGUMENTS_MAX {
        return Err(DeviceError::Argument(text.to_owned()));
    }
    let pair = |part: &str| match part.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(DeviceError::Argument(part.to_owned())),
    };
    parts.into_iter().map(pair).collect()
}

impl PciAddress {
    /// Reads `0000:3b:00.0`, or `3b:00.0` in domain 0.
    pub fn parse(text: &str) -> Option<PciAddress> {
        let (rest, function) = text.split_once('.')?;
        let parts: Vec<_> = rest.split(':').collect();
        let (domain, bus, device) = match parts[..] {
            [domain, bus, device] => (domain, bus, device),
            [bus, device] => ("0", bus, device),
            _ => return None,
        };
        let hex = |text: &str, digits: usize| {
            let plain =
                !text.is_empty() && text.len() <= digits && text.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let device = u8::try_from(hex(device, 2)?).ok().filter(|device| *device < 32)?;
        let function = u8::try_from(hex(function, 1)?).ok().filter(|function| *function < 8)?;
        Some(PciAddress { domain: hex(domain, 8)?, bus: u8::try_from(hex(bus, 2)?).ok()?, device, function })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl fmt::Display for Vdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci(address) => address.fmt(f),
            Device::Vdev(vdev) => vdev.fmt(f),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::Form(text) => write!(
                f,
                "\"{text}\" names no port: write a PCI address such as \"0000:3b:00.0\" or a virtual device such as \
                 \"net_af_packet0,iface=eth1\""
            ),
            DeviceError::Driver(name, nearest) => {
                write!(f, "DPDK has no virtual device \"{name}\" a node can use: did you mean \"{nearest}\"?")
            }
            DeviceError::Later(what) => {
                write!(f, "{what} comes with a later release: name one port")
            }
            DeviceError::Argument(part) => write!(
                f,
                "\"{part}\" is no argument: write name=value, at most {ARGUMENTS_MAX} of them, separated by commas"
            ),
            DeviceError::Missing(driver, example) => {
                write!(
                    f,
                    "{driver} does not know where its packets come from: add an argument such as {example}"
                )
            }
        }
    }
}

impl std::error::Error for DeviceError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vdev(text: &str) -> Vdev {
        match text.parse() {
            Ok(Device::Vdev(vdev)) => vdev,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_pci_addresses() {
        assert_eq!("3b:00.0".parse::<Device>().unwrap().to_string(), "0000:3b:00.0");
        assert_eq!("10001:af:1f.7".parse::<Device>().unwrap().to_string(), "10001:af:1f.7");
        for wrong in ["0000:3b:20.0", "0000:3b:00.8", "3b:00", "0000:0000:3b:00.0", "0000:+b:00.0"] {
            assert!(matches!(wrong.parse::<Device>(), Err(DeviceError::Form(_))), "{wrong}");
        }
    }

    #[test]
    fn reads_virtual_devices() {
        let port = vdev("net_af_packet0,iface=kf0,qpairs=4");
        assert_eq!(port.driver(), "net_af_packet");
        assert_eq!(port.interface(), Some("kf0"));
        assert_eq!(port.queues(), Some(("qpairs", Ok(4))));
        assert_eq!(vdev("net_vhost0,iface=/run/v.sock").interface(), None);
        assert_eq!(vdev("net_vhost0,iface=/run/v.sock").queues(), Some(("queues", Ok(1))));
        assert_eq!(vdev("net_ring7").queues(), None);
        assert_eq!(vdev("net_af_xdp0,iface=a,queue_count=x").queues(), Some(("queue_count", Err("x"))));
    }

    #[test]
    fn refuses_what_dpdk_does_not_have() {
        let error = |text: &str| text.parse::<Device>().unwrap_err();
        assert_eq!(
            error("net_af_paket0,iface=x"),
            DeviceError::Driver("net_af_paket".into(), "net_af_packet")
        );
        assert_eq!(error("eth_ring0"), DeviceError::Driver("eth_ring".into(), "net_ring"));
        assert_eq!(error("net_bonding0,mode=1"), DeviceError::Later("bonding"));
        assert_eq!(error("net_af_packet0"), DeviceError::Missing("net_af_packet", "iface=eth1"));
        assert_eq!(error("net_af_packet0,iface="), DeviceError::Missing("net_af_packet", "iface=eth1"));
        assert_eq!(error("net_ring0,foo"), DeviceError::Argument("foo".into()));
        assert_eq!(error("eth1"), DeviceError::Form("eth1".into()));
    }

    proptest! {
        #[test]
        fn survives_anything_and_writes_back_what_it_read(text in "(net_[a-z_]{0,12}|[0-9a-f:.]{0,16})[0-9]?(,[a-z=]{0,8}){0,4}") {
            if let Ok(device) = text.parse::<Device>() {
                prop_assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
            }
        }
    }
}
