//! Declarations of Debian's libdpdk 22.11, nothing else: bindgen's output for an allowlist, and the shim's functions
//! for what DPDK has only inline. Safe wrappers are in `keyferry-nic`; who may call what from which thread is in
//! DPDK's documentation of each function.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// Offsets and sizes as bindgen took them, in the order of `kf_layout` in shim.c, which has them from the C
/// compiler. They must be equal: a difference means that fields are read at the wrong place.
pub const LAYOUT: &[usize] = &[
    KF_MBUF_BUF_ADDR as usize,
    KF_MBUF_DATA_OFF as usize,
    KF_MBUF_NB_SEGS as usize,
    KF_MBUF_OL_FLAGS as usize,
    KF_MBUF_PKT_LEN as usize,
    KF_MBUF_DATA_LEN as usize,
    KF_MBUF_HASH_RSS as usize,
    KF_MBUF_BUF_LEN as usize,
    KF_MBUF_TX_OFFLOAD as usize,
    KF_MBUF_SIZE as usize,
    size_of::<rte_eth_conf>(),
    std::mem::offset_of!(rte_eth_conf, rx_adv_conf.rss_conf),
    size_of::<rte_eth_dev_info>(),
    std::mem::offset_of!(rte_eth_dev_info, tx_offload_capa),
    std::mem::offset_of!(rte_eth_dev_info, default_txconf),
    size_of::<rte_eth_rxconf>(),
    size_of::<rte_eth_txconf>(),
    size_of::<rte_eth_rss_conf>(),
    size_of::<rte_eth_rss_reta_entry64>(),
    size_of::<rte_eth_stats>(),
    size_of::<rte_eth_link>(),
    size_of::<rte_ether_addr>(),
];

#[cfg(test)]
mod tests {
    use super::{LAYOUT, kf_layout, kf_layout_len};

    #[test]
    fn layouts_are_the_c_compilers() {
        // SAFETY: a constant of the shim, never written.
        let len = unsafe { kf_layout_len };
        // SAFETY: shim.c defines the array with `len` elements and nothing writes it.
        let c = unsafe { std::slice::from_raw_parts(std::ptr::addr_of!(kf_layout).cast::<usize>(), len) };
        assert_eq!(LAYOUT, c);
    }
}
