//! Finds libdpdk, generates the bindings and compiles the shim.
//!
//! In: libdpdk's pkg-config file and headers. Out: `bindings.rs` in OUT_DIR, the static shim, and link lines for the
//! few libraries we call; poll-mode drivers are shared objects which the EAL loads by itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fmt::Display};

/// Libraries whose functions we call. libdpdk's own list has about fifty, which Debian links as needed.
const LIBRARIES: &[&str] = &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_bus_vdev"];

/// The one release series whose headers the allowlist was checked against.
const VERSION: &str = "22.11";

const FUNCTIONS: &[&str] = &[
    "kf_.*",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_alarm_set",
    "rte_eal_init",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_openlog_stream",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_vdev_init",
    "rte_vdev_uninit",
    "fdopen",
];

const TYPES: &[&str] = &[
    "kf_.*",
    "rte_eth_conf",
    "rte_eth_dev_info",
    "rte_eth_link",
    "rte_eth_rss_conf",
    "rte_eth_rss_reta_entry64",
    "rte_eth_rxconf",
    "rte_eth_stats",
    "rte_eth_txconf",
    "rte_ether_addr",
];

const CONSTANTS: &[&str] =
    &["KF_.*", "kf_.*", "RTE_ETH_NAME_MAX_LEN", "RTE_ETH_RETA_GROUP_SIZE", "RTE_PKTMBUF_HEADROOM"];

/// Types only ever handled by pointer. Opaque, their anonymous unions and bit fields need no names here.
const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool", "rte_device", "rte_eth_dev_portconf", "_IO_FILE"];

fn main() -> ExitCode {
    for file in ["build.rs", "src/shim.h", "src/shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let flags = flags()?;
    compile_shim(&flags)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: build with cargo")?);
    bind(&flags, &out.join("bindings.rs"))
}

/// What to install, said in the same words whichever part is missing.
fn missing(what: &str, why: impl Display) -> String {
    let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    format!(
        "{what}: install the Debian packages with `apt-get install libdpdk-dev clang libclang-dev pkg-config`, or \
         build without the feature \"dpdk\" ({why})"
    )
}

/// What pkg-config has to say, without its advice.
fn reason(error: &pkg_config::Error) -> String {
    match error {
        pkg_config::Error::ProbeFailure { output, .. } | pkg_config::Error::Failure { output, .. } => {
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it gives no reason").into()
        }
        pkg_config::Error::Command { .. } => "pkg-config does not run".into(),
        _ => "pkg-config failed".into(),
    }
}

/// Compiler flags of libdpdk; prints its link lines.
fn flags() -> Result<Vec<String>, String> {
    let next = VERSION.rsplit_once('.').map(|(year, _)| format!("{year}.12")).unwrap_or_default();
    let library = pkg_config::Config::new()
        .cargo_metadata(false)
        .range_version(VERSION..next.as_str())
        .probe("libdpdk")
        .map_err(|error| missing(&format!("libdpdk {VERSION} was not found"), reason(&error)))?;
    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    let includes = library.include_paths.iter().map(|path| format!("-I{}", path.display()));
    // The crate above reads only some of the flags; DPDK's headers need these two as well: its configuration
    // first, and the instruction set its inline functions were written for.
    let fixed = ["-include", "rte_config.h", "-march=corei7"].map(String::from);
    let machine = if cfg!(target_arch = "x86_64") { &fixed[..] } else { &fixed[..2] };
    Ok(includes.chain(machine.iter().cloned()).collect())
}

fn compile_shim(flags: &[String]) -> Result<(), String> {
    let mut shim = cc::Build::new();
    shim.file("src/shim.c").opt_level(3).warnings(true).flag("-Wno-unused-const-variable");
    for flag in flags {
        shim.flag(flag);
    }
    shim.try_compile("keyferry_dpdk_shim").map_err(|error| missing("DPDK's headers do not compile", error))
}

fn bind(flags: &[String], to: &Path) -> Result<(), String> {
    let list = |names: &[&str]| names.join("|");
    let builder = bindgen::Builder::default()
        .header("src/shim.h")
        .clang_args(flags)
        .allowlist_function(list(FUNCTIONS))
        .allowlist_type(list(TYPES))
        .allowlist_var(list(CONSTANTS))
        .opaque_type(list(OPAQUE))
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_debug(false)
        .generate_comments(false)
        .layout_tests(false);
    // bindgen panics where there is no libclang; that is to read like everything else that is missing.
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let bindings = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate()));
    std::panic::set_hook(loud);
    bindings
        .map_err(|_| missing("libclang was not found", "bindgen reads C headers through it"))?
        .map_err(|error| missing("the bindings to DPDK were not generated", error))?
        .write_to_file(to)
        .map_err(|error| format!("{} cannot be written: {error}", to.display()))
}
