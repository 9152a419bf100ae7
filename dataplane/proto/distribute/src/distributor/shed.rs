//! What a distributor does not take on while it is behind: packets of connections it does not know, of clients no node
//! knows. Handing a packet on costs many times what telling that costs, and what a port's full ring loses it loses from
//! everyone.

use std::net::IpAddr;

use keyferry_time::Time;

use super::{ClientKey, Distributor, FlowKey, bytes, is_past, tick};
use crate::packet::Packet;

impl Distributor {
    /// Whether a packet has to give way: it belongs to no connection that is known, and no node has a session of its
    /// client. Counted as dropped if so. For whoever has more packets than can be handed on, before
    /// [`route`](Distributor::route).
    pub fn sheds(&mut self, now: Time, packet: &[u8]) -> bool {
        let Ok(Packet::Segment(segment)) = Packet::parse(packet) else { return false };
        let Some(service) = self.service(segment.flow.service) else { return false };
        let key = FlowKey::of(&segment.flow, service);
        let hash = self.hash(&key);
        if self.flows.find(hash, &key).is_some() || self.has_session(now, segment.flow.client.ip(), service) {
            return false;
        }
        self.counters.drop_behind += 1;
        true
    }

    /// Whether a node has said that it holds a session of this client, which can still be resumed.
    fn has_session(&mut self, now: Time, client: IpAddr, service: usize) -> bool {
        let key = ClientKey { client: bytes(client), service: service as u16 };
        let hash = self.hash_client(&key);
        let client = self.clients.find(hash, &key);
        client.is_some_and(|client| client.has_session && !is_past(client.until, tick(now)))
    }
}
