//! The worlds there are: what Linux is told by sysctl, and what our TCP is told.

use std::net::IpAddr;
use std::time::Duration;

use keyferry_tcp::{Algorithm, Config, RxChecksum, Stretch, Tuning};

use super::plan::Kind;
use crate::common::{PORT, SERVER_V4, SERVER_V6};

/// One of both sides' settings.
pub struct Settings {
    pub name: &'static str,
    /// From `net` on.
    pub sysctls: &'static [(&'static str, &'static str)],
    pub mtu: u16,
    /// Linux's and ours.
    pub linux_congestion: &'static str,
    congestion: Algorithm,
    receive_bytes: usize,
    receive_bytes_max: usize,
    /// Memory of all receive buffers together, in bytes for each connection.
    budget: Option<usize>,
    half_open: u32,
    /// The port computes checksums and cuts segments.
    offload: bool,
    pub kind: Kind,
}

/// Bytes of all receive buffers that some connections together find enough.
const LITTLE: usize = 64_000;

const PLAIN: Settings = Settings {
    name: "plain",
    sysctls: &[],
    mtu: 1_500,
    linux_congestion: "cubic",
    congestion: Algorithm::Cubic,
    receive_bytes: 65_536,
    receive_bytes_max: 4 << 20,
    budget: None,
    half_open: 1_024,
    offload: false,
    kind: Kind { marks: false, linux_first: false },
};

/// All worlds; seed s runs in the world s modulo their number.
pub const ALL: [Settings; 15] = [
    PLAIN,
    Settings { name: "no SACK", sysctls: &[("ipv4.tcp_sack", "0")], ..PLAIN },
    Settings {
        name: "no timestamps",
        sysctls: &[("ipv4.tcp_timestamps", "0")],
        receive_bytes: 16_384,
        ..PLAIN
    },
    Settings { name: "no window scaling", sysctls: &[("ipv4.tcp_window_scaling", "0")], ..PLAIN },
    Settings {
        name: "no options",
        sysctls: &[
            ("ipv4.tcp_window_scaling", "0"),
            ("ipv4.tcp_timestamps", "0"),
            ("ipv4.tcp_sack", "0"),
            ("ipv4.tcp_ecn", "0"),
        ],
        linux_congestion: "reno",
        congestion: Algorithm::Reno,
        receive_bytes: 8_192,
        ..PLAIN
    },
    Settings {
        name: "ECN",
        sysctls: &[("ipv4.tcp_ecn", "1")],
        kind: Kind { marks: true, linux_first: false },
        ..PLAIN
    },
    Settings {
        name: "small buffers",
        sysctls: &[("ipv4.tcp_rmem", "4096 8192 16384"), ("ipv4.tcp_wmem", "4096 8192 16384")],
        receive_bytes: 4_096,
        receive_bytes_max: 4_096,
        ..PLAIN
    },
    Settings { name: "large packets", sysctls: &[], mtu: 9_000, receive_bytes: 262_144, ..PLAIN },
    Settings { name: "BBR", sysctls: &[], linux_congestion: "bbr", congestion: Algorithm::Bbr, ..PLAIN },
    Settings {
        name: "windows taken back",
        sysctls: &[("ipv4.tcp_shrink_window", "1"), ("ipv4.tcp_rmem", "4096 16384 65536")],
        ..PLAIN
    },
    Settings { name: "small packets", sysctls: &[("ipv4.tcp_ecn", "1")], mtu: 1_280, ..PLAIN },
    Settings { name: "offloads", sysctls: &[], offload: true, ..PLAIN },
    Settings {
        name: "little memory",
        sysctls: &[],
        receive_bytes: 16_384,
        receive_bytes_max: 65_536,
        budget: Some(1_200),
        ..PLAIN
    },
    Settings {
        name: "cookies",
        sysctls: &[],
        half_open: 1,
        kind: Kind { marks: false, linux_first: true },
        ..PLAIN
    },
    Settings {
        name: "by counting",
        linux_congestion: "reno",
        sysctls: &[
            ("ipv4.tcp_recovery", "0"),
            ("ipv4.tcp_early_retrans", "0"),
            ("ipv4.tcp_dsack", "0"),
            ("ipv4.tcp_frto", "0"),
        ],
        ..PLAIN
    },
];

impl Settings {
    pub fn config(&self) -> Config {
        Config {
            addresses: vec![SERVER_V4, SERVER_V6] as Vec<IpAddr>,
            ports: vec![PORT],
            mtu: self.mtu,
            connections: 2_048,
            half_open: self.half_open,
            half_open_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(120),
            receive_bytes: self.receive_bytes,
            send_bytes: 65_536,
            rx_checksum: RxChecksum::Verify,
            tx_checksum_offload: self.offload,
            stretch: if self.offload { Stretch::of_port(65_535) } else { Stretch::of_egress(16) },
            seed: 7,
        }
    }

    pub fn tuning(&self, connections: usize) -> Tuning {
        Tuning {
            congestion: self.congestion,
            receive_bytes_max: self.receive_bytes_max,
            receive_budget_bytes: self.budget.map(|bytes| (bytes * connections).max(LITTLE)),
            ..Tuning::default()
        }
    }
}
