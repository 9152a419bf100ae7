//! Kernel drivers of network functions, by what they leave to user space.

/// Drivers that give a PCI function to user space whole (DPDK 22.11, Getting Started Guide for Linux, "Linux Drivers").
pub const USER_DRIVERS: &[&str] = &["vfio-pci", "uio_pci_generic", "igb_uio"];

/// A driver that stays, while DPDK drives the same function through it: nothing has to be bound.
pub struct Shared {
    /// The driver's name.
    pub name: &'static str,
    /// Who says so.
    pub source: &'static str,
}

/// Drivers that share their function with DPDK ("bifurcated").
const SHARED: &[Shared] = &[
    Shared { name: "mlx4_core", source: "DPDK 22.11, Network Interface Controller Drivers, MLX4" },
    Shared { name: "mlx5_core", source: "DPDK 22.11, Network Interface Controller Drivers, MLX5" },
    Shared { name: "mana", source: "DPDK 22.11, Network Interface Controller Drivers, MANA" },
];

/// Whether a driver shares its function with DPDK, and who says so.
pub fn shared(driver: &str) -> Option<&'static Shared> {
    SHARED.iter().find(|shared| shared.name == driver)
}

/// Whether a driver gives its function to user space.
pub fn is_user(driver: &str) -> bool {
    USER_DRIVERS.contains(&driver)
}

/// PCI class and subclass of Ethernet controllers (PCI Code and ID Assignment Specification, class 02h). Wi-Fi adapters are
/// "other", 0x0280, and DPDK drives none of them.
pub const PCI_ETHERNET: u32 = 0x0200;
