/* What bindgen reads: the DPDK headers we use, DPDK's inline functions under names that can be linked, and the
 * layout of rte_mbuf as plain constants. Job of shim.c: give the inline functions a body. Runs on any thread. */
#ifndef KEYFERRY_DPDK_SHIM_H
#define KEYFERRY_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_alarm.h>
#include <rte_bus_vdev.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* Where the fields of an mbuf are. Most sit in anonymous unions, for which bindgen invents names that differ
 * between versions; offsets do not. */
enum kf_mbuf_layout {
	KF_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	KF_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	KF_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	KF_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	KF_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	KF_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	KF_MBUF_HASH_RSS = offsetof(struct rte_mbuf, hash.rss),
	KF_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	KF_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
	KF_MBUF_SIZE = sizeof(struct rte_mbuf),
};

/* Shifts inside tx_offload: see RTE_MBUF_L2_LEN_OFS and its neighbours in rte_mbuf_core.h. */
enum kf_tx_offload_shift {
	KF_TX_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS,
	KF_TX_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS,
	KF_TX_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS,
	KF_TX_TSO_SEGSZ_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS,
};

/* Macros of casts and shifts that bindgen cannot evaluate. */
static const uint64_t KF_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t KF_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t KF_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t KF_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t KF_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t KF_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t KF_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t KF_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t KF_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t KF_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t KF_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t KF_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t KF_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t KF_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t KF_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t KF_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t KF_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t KF_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t KF_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t KF_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t KF_RSS_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t KF_RSS_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;

/* Sizes as the C compiler sees them, in the order of dpdk_sys::LAYOUT: the crate's test compares both. */
extern const size_t kf_layout[];
extern const size_t kf_layout_len;

int kf_errno(void);
uint16_t kf_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
int kf_eth_rx_queue_count(uint16_t port, uint16_t queue);
uint16_t kf_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
uint16_t kf_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
struct rte_mbuf *kf_pktmbuf_alloc(struct rte_mempool *pool);
void kf_pktmbuf_free(struct rte_mbuf *packet);
int kf_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count);
void kf_pktmbuf_append(struct rte_mbuf *packet, struct rte_mbuf *empty, struct rte_mbuf *store, uint16_t at, uint16_t len);
void kf_pktmbuf_copy_out(const struct rte_mbuf *packet, uint32_t len, void *out);
uint16_t kf_mbuf_refcnt_read(const struct rte_mbuf *mbuf);

#endif
