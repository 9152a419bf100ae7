//! The name of a device: a PCI address, or DPDK's `--vdev` string. Attaches it to DPDK and takes it off again.
//!
//! In: text from the configuration. Out: a port number, or why not in one sentence: DPDK itself answers -1 and a log,
//! so the likely reasons are looked for here. Control thread.

use std::ffi::{CString, c_int};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use dpdk_sys as sys;

use super::log;

/// A device by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A PCI address, with its domain: `0000:3b:00.0`.
    Pci(String),
    /// A virtual device: name and arguments of `--vdev`.
    Virtual {
        /// `net_` driver and a number of the user's choice.
        name: String,
        /// What follows the first comma.
        arguments: String,
    },
}

/// Why there is no such port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Neither a PCI address nor a vdev string.
    #[error(
        "{0:?} names no device: write a PCI address such as \"0000:3b:00.0\", or a vdev string that starts with \
         \"net_\", such as \"net_af_packet0,iface=eth1\""
    )]
    Name(String),
    /// The network interface is not here.
    #[error(
        "{device} wants the network interface {interface:?}, which is not in this network namespace: create it or correct iface="
    )]
    NoInterface {
        /// The device.
        device: Device,
        /// The interface.
        interface: String,
    },
    /// The driver wants an interface.
    #[error("{0} wants the name of a network interface: add iface=NAME")]
    InterfaceMissing(Device),
    /// Taken.
    #[error("{device} is busy: end the process that uses it, or name another device (DPDK: {said})")]
    Busy {
        /// The device.
        device: Device,
        /// DPDK's log.
        said: String,
    },
    /// Not allowed.
    #[error("{device} may not be opened: run as root or with CAP_NET_RAW and CAP_NET_ADMIN (DPDK: {said})")]
    Permission {
        /// The device.
        device: Device,
        /// DPDK's log.
        said: String,
    },
    /// No driver took the virtual device.
    #[error("no DPDK driver takes {device}: correct the driver's name or its arguments (DPDK: {said})")]
    Vdev {
        /// The device.
        device: Device,
        /// DPDK's log.
        said: String,
    },
    /// Nothing at this PCI address.
    #[error("there is no PCI device {0}: `lspci -D` lists them")]
    NoPciDevice(String),
    /// The kernel has it.
    #[error(
        "{address} belongs to the kernel driver {driver}: bind it with `dpdk-devbind.py -b vfio-pci {address}` (DPDK: {said})"
    )]
    KernelDriver {
        /// The PCI address.
        address: String,
        /// The kernel's driver.
        driver: String,
        /// DPDK's log.
        said: String,
    },
    /// DPDK does not take it.
    #[error(
        "no DPDK driver takes the PCI device {address}, bound to {driver}: bind it to vfio-pci, or see which driver it needs (DPDK: {said})"
    )]
    Pci {
        /// The PCI address.
        address: String,
        /// The kernel's driver, or "nothing".
        driver: String,
        /// DPDK's log.
        said: String,
    },
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Pci(address) => f.write_str(address),
            Device::Virtual { name, arguments } if arguments.is_empty() => f.write_str(name),
            Device::Virtual { name, arguments } => write!(f, "{name},{arguments}"),
        }
    }
}

impl FromStr for Device {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Device, DeviceError> {
        if let Some(address) = pci_address(text) {
            return Ok(Device::Pci(address));
        }
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let driver = name.strip_prefix("net_").is_some_and(|driver| !driver.is_empty());
        let fits = driver && name.len() < sys::RTE_ETH_NAME_MAX_LEN as usize;
        if !fits || !name.bytes().all(plain) || text.contains('\0') {
            return Err(DeviceError::Name(text.into()));
        }
        Ok(Device::Virtual { name: name.into(), arguments: arguments.into() })
    }
}

/// `text` as a PCI address with domain, if it is one.
fn pci_address(text: &str) -> Option<String> {
    let hex =
        |part: &str, digits: usize| part.len() == digits && part.bytes().all(|it| it.is_ascii_hexdigit());
    let (rest, function) = text.split_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    let (domain, bus, slot) = match parts[..] {
        [bus, slot] => ("0000", bus, slot),
        [domain, bus, slot] => (domain, bus, slot),
        _ => return None,
    };
    let valid = hex(domain, 4) && hex(bus, 2) && hex(slot, 2) && hex(function, 1);
    valid.then(|| format!("{domain}:{bus}:{slot}.{function}").to_ascii_lowercase())
}

/// A device attached to DPDK; taken off when dropped.
#[derive(Debug)]
pub(super) struct Attached {
    pub port: u16,
    virtual_name: Option<CString>,
}

impl Attached {
    /// Attaches `device`. The EAL must run.
    pub fn attach(device: &Device) -> Result<Attached, DeviceError> {
        let text = |text: &str| CString::new(text).map_err(|_| DeviceError::Name(text.into()));
        let (name, virtual_name) = match device {
            Device::Pci(address) => {
                let address = text(address)?;
                // SAFETY: a C string, only read during the call.
                let (result, said) = log::captured(|| unsafe { sys::rte_dev_probe(address.as_ptr()) });
                check(result, device, said)?;
                (address, None)
            }
            Device::Virtual { name, arguments } => {
                let (name, arguments) = (text(name)?, text(arguments)?);
                interface(device)?;
                // SAFETY: two C strings, copied by the call.
                let init = || unsafe { sys::rte_vdev_init(name.as_ptr(), arguments.as_ptr()) };
                let (result, said) = log::captured(init);
                check(result, device, said)?;
                (name.clone(), Some(name))
            }
        };
        let mut port = 0;
        // SAFETY: a C string and a place for the answer.
        let found = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut port) } == 0;
        if found {
            return Ok(Attached { port, virtual_name });
        }
        if let Some(name) = &virtual_name {
            // SAFETY: the device was attached under this name just now.
            unsafe { sys::rte_vdev_uninit(name.as_ptr()) };
        }
        let nodev = rustix::io::Errno::NODEV.raw_os_error();
        Err(refused(-nodev, device, "it has no Ethernet port of its name".into()))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Errors here leave a device that cannot be attached again in this process; nothing else depends on it.
        if let Some(name) = &self.virtual_name {
            // SAFETY: the device was attached under this name; its port is closed or was never started.
            unsafe { sys::rte_vdev_uninit(name.as_ptr()) };
            return;
        }
        let mut info = sys::rte_eth_dev_info::default();
        // SAFETY: the port number is ours and `info` a place for the answer.
        let known = unsafe { sys::rte_eth_dev_info_get(self.port, &mut info) } == 0;
        if known && !info.device.is_null() {
            // SAFETY: the device was attached by us and is removed once.
            unsafe { sys::rte_dev_remove(info.device) };
        }
    }
}

fn check(result: c_int, device: &Device, said: String) -> Result<(), DeviceError> {
    if result == 0 { Ok(()) } else { Err(refused(result, device, said)) }
}

/// Drivers that sit on a network interface of the kernel's, which must exist.
const ON_INTERFACE: &[&str] = &["net_af_packet", "net_af_xdp", "net_pcap"];

/// Checks the interface a virtual device names. `net_tap` makes its own.
fn interface(device: &Device) -> Result<(), DeviceError> {
    let Device::Virtual { name, arguments } = device else { return Ok(()) };
    if !ON_INTERFACE.iter().any(|driver| name.starts_with(driver)) {
        return Ok(());
    }
    let Some(interface) = arguments.split(',').find_map(|argument| argument.strip_prefix("iface=")) else {
        // net_pcap reads files as well.
        return if name.starts_with("net_pcap") {
            Ok(())
        } else {
            Err(DeviceError::InterfaceMissing(device.clone()))
        };
    };
    if interface_exists(interface) {
        return Ok(());
    }
    Err(DeviceError::NoInterface { device: device.clone(), interface: interface.into() })
}

/// Asks the kernel, since /sys may show another network namespace's interfaces.
fn interface_exists(name: &str) -> bool {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    // Without a socket nothing is known: let DPDK try.
    let Ok(any) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return true };
    !matches!(netdevice::name_to_index(any, name), Err(rustix::io::Errno::NODEV | rustix::io::Errno::INVAL))
}

/// Finds the words for a refusal.
fn refused(result: c_int, device: &Device, said: String) -> DeviceError {
    use rustix::io::Errno;
    let device = device.clone();
    match (Errno::from_raw_os_error(result.saturating_neg()), &device) {
        (Errno::EXIST | Errno::BUSY, _) => DeviceError::Busy { device, said },
        (Errno::ACCESS, _) => DeviceError::Permission { device, said },
        // Most drivers answer -1 to everything, which reads as EPERM; their log names the reason.
        (_, Device::Virtual { .. }) if says(&said, &["busy", "Busy", "in use"]) => {
            DeviceError::Busy { device, said }
        }
        (_, Device::Virtual { .. }) if says(&said, NOT_ALLOWED) => DeviceError::Permission { device, said },
        (_, Device::Virtual { .. }) => DeviceError::Vdev { device, said },
        (_, Device::Pci(address)) => pci_refused(address, said),
    }
}

/// What drivers log when the process may not do what they need; net_af_packet does not say why it got no socket, but
/// there is no other reason.
const NOT_ALLOWED: &[&str] = &["not permitted", "Permission denied", "Could not open AF_PACKET socket"];

fn says(said: &str, words: &[&str]) -> bool {
    words.iter().any(|word| said.contains(word))
}

/// Kernel drivers that hand a device to user space.
const USER_SPACE_DRIVERS: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio"];

fn pci_refused(address: &str, said: String) -> DeviceError {
    let folder = Path::new("/sys/bus/pci/devices").join(address);
    if !folder.exists() {
        return DeviceError::NoPciDevice(address.into());
    }
    let driver = std::fs::read_link(folder.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    pci_refused_under(address.into(), driver, said)
}

/// Of a device that is there, under this kernel driver.
fn pci_refused_under(address: String, driver: Option<&str>, said: String) -> DeviceError {
    match driver {
        Some(driver) if USER_SPACE_DRIVERS.contains(&driver) && says(&said, &["busy", "Busy"]) => {
            DeviceError::Busy { device: Device::Pci(address), said }
        }
        Some(driver) if !USER_SPACE_DRIVERS.contains(&driver) => {
            DeviceError::KernelDriver { address, driver: driver.into(), said }
        }
        driver => DeviceError::Pci { address, driver: driver.unwrap_or("nothing").into(), said },
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Device, DeviceError, pci_refused_under, refused};

    #[test]
    fn names_are_told_apart() {
        let pci = |address: &str| Ok(Device::Pci(address.into()));
        assert_eq!("0000:3b:00.0".parse(), pci("0000:3b:00.0"));
        assert_eq!("3B:00.1".parse(), pci("0000:3b:00.1"));
        let Ok(Device::Virtual { name, arguments }) = "net_af_packet0,iface=eth1,qpairs=2".parse() else {
            panic!("a vdev string is not taken")
        };
        assert_eq!((name.as_str(), arguments.as_str()), ("net_af_packet0", "iface=eth1,qpairs=2"));
        for wrong in ["", "eth0", "3b:00", "net_", "3b:0g.0", "net_ring0;x", "crypto_null0"] {
            let parsed: Result<Device, _> = wrong.parse();
            assert_eq!(parsed, Err(DeviceError::Name(wrong.into())), "{wrong:?}");
        }
    }

    #[test]
    fn a_device_reads_as_it_was_written() {
        for text in ["0000:3b:00.0", "net_null0", "net_af_packet0,iface=eth1"] {
            assert_eq!(text.parse::<Device>().map(|it| it.to_string()), Ok(text.into()));
        }
    }

    #[test]
    fn what_keeps_a_virtual_device_says_what_to_do() {
        let device: Device = "net_af_packet0,iface=eth1".parse().unwrap();
        for (errno, said, sentence) in [
            (Errno::EXIST, "", "is busy: end the process"),
            (Errno::BUSY, "", "is busy: end the process"),
            (Errno::PERM, "eth1 in use", "is busy: end the process"),
            (Errno::ACCESS, "", "may not be opened: run as root"),
            (Errno::PERM, "Could not open AF_PACKET socket", "may not be opened: run as root"),
            (Errno::PERM, "no such argument", "no DPDK driver takes net_af_packet0,iface=eth1: correct"),
        ] {
            let error = refused(-errno.raw_os_error(), &device, said.into()).to_string();
            assert!(error.contains(sentence) && error.contains(said), "{errno}: {error}");
        }
    }

    #[test]
    fn what_keeps_a_pci_device_says_what_to_do() {
        for (driver, said, sentence) in [
            (Some("ice"), "", "belongs to the kernel driver ice: bind it with `dpdk-devbind.py -b vfio-pci"),
            (Some("vfio-pci"), "group is busy", "is busy: end the process"),
            (Some("vfio-pci"), "", "takes the PCI device 0000:3b:00.0, bound to vfio-pci"),
            (None, "", "bound to nothing: bind it to vfio-pci"),
        ] {
            let error = pci_refused_under("0000:3b:00.0".into(), driver, said.into()).to_string();
            assert!(error.contains(sentence) && error.contains(said), "{driver:?}: {error}");
        }
    }
}
