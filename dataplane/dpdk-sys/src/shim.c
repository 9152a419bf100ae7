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

int kf_eth_rx_queue_count(uint16_t port, uint16_t queue)
{
	return rte_eth_rx_queue_count(port, queue);
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

int kf_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, count);
}

/* Puts `len` bytes of `store` behind `packet`, as an indirect mbuf made of `empty`. Takes a reference to `store`. */
void kf_pktmbuf_append(struct rte_mbuf *packet, struct rte_mbuf *empty, struct rte_mbuf *store, uint16_t at, uint16_t len)
{
	rte_pktmbuf_attach(empty, store);
	empty->data_off = at;
	empty->data_len = len;
	empty->pkt_len = len;
	/* The caller bounds the chain. */
	(void)rte_pktmbuf_chain(packet, empty);
}

/* Copies the first `len` bytes of a packet, through all its segments, to `out`. It has as many. */
void kf_pktmbuf_copy_out(const struct rte_mbuf *packet, uint32_t len, void *out)
{
	const void *bytes = rte_pktmbuf_read(packet, 0, len, out);

	/* What lies in one segment is pointed to. */
	if (bytes != NULL && bytes != out)
		memcpy(out, bytes, len);
}

uint16_t kf_mbuf_refcnt_read(const struct rte_mbuf *mbuf)
{
	return rte_mbuf_refcnt_read(mbuf);
}
