/* Bodies for DPDK's inline functions, and struct sizes as this compiler sees them. */
#include "shim.h"

const size_t kf_layout[] = {
	KF_MBUF_BUF_ADDR,
	KF_MBUF_DATA_OFF,
	KF_MBUF_NB_SEGS,
	KF_MBUF_OL_FLAGS,
	KF_MBUF_PKT_LEN,
	KF_MBUF_DATA_LEN,
	KF_MBUF_HASH_RSS,
	KF_MBUF_BUF_LEN,
	KF_MBUF_TX_OFFLOAD,
	KF_MBUF_SIZE,
	sizeof(struct rte_eth_conf),
	offsetof(struct rte_eth_conf, rx_adv_conf.rss_conf),
	sizeof(struct rte_eth_dev_info),
	offsetof(struct rte_eth_dev_info, tx_offload_capa),
	offsetof(struct rte_eth_dev_info, default_txconf),
	sizeof(struct rte_eth_rxconf),
	sizeof(struct rte_eth_txconf),
	sizeof(struct rte_eth_rss_conf),
	sizeof(struct rte_eth_rss_reta_entry64),
	sizeof(struct rte_eth_stats),
	sizeof(struct rte_eth_link),
	sizeof(struct rte_ether_addr),
};
const size_t kf_layout_len = sizeof(kf_layout) / sizeof(kf_layout[0]);

int kf_errno(void)
{
	return rte_errno;
}

uint16_t kf_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, packets, count);
}

uint16_t kf_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

uint16_t kf_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, packets, count);
}

struct rte_mbuf *kf_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

void kf_pktmbuf_free(struct rte_mbuf *packet)
{
	rte_pktmbuf_free(packet);
}
