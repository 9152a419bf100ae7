//! Who gives way: while a distributor is behind, packets of connections it does not know; where its table is full,
//! connections of clients no node has a session of.
//!
//! Handing a packet on costs many times what telling that costs, and what a port's full ring loses it loses from everyone.

use keyferry_time::Time;

use super::{Client, ClientKey, Distributor};
use crate::flow::{FlowKey, Spread, is_past, tick};
use crate::packet::Packet;
use crate::peers::notice::Stage;
use crate::ways::Ways;

impl Distributor {
    /// Whether a packet has to give way: it belongs to no connection that is known, and no node has a session of its
    /// client. Counted as dropped if so. For whoever has more packets than can be handed on, before
    /// [`route`](Distributor::route).
    pub fn sheds(&mut self, now: Time, packet: &[u8]) -> bool {
        let Ok(Packet::Segment(segment)) = Packet::parse(packet) else { return false };
        let Some(service) = self.service(segment.flow.service) else { return false };
        let key = FlowKey::of(&segment.flow, service);
        let hash = self.hash(&key);
        if self.flows.find(hash, &key).is_some() || self.has_session(now, &key) {
            return false;
        }
        self.counters.drop_behind += 1;
        true
    }

    /// A connection goes on: it matters more if a node has a session of its client. Answers whether it has come to that now.
    /// Asked every two seconds at most, and no more once it is so.
    pub(super) fn prove(&mut self, now: Time, hash: u64, key: &FlowKey) -> bool {
        if self.has_session(now, key)
            && let Some(known) = self.flows.find(hash, key).filter(|known| known.stage == Stage::Answered)
        {
            known.stage = Stage::Served;
            return true;
        }
        false
    }

    fn has_session(&self, now: Time, flow: &FlowKey) -> bool {
        has_session(&self.clients, &self.spread, now, flow)
    }
}

/// Whether a node has said that it holds a session of a connection's client, which can still be resumed.
pub(crate) fn has_session(
    clients: &Ways<ClientKey, Client>,
    spread: &Spread,
    now: Time,
    flow: &FlowKey,
) -> bool {
    let key = ClientKey { client: flow.client, service: flow.service };
    let client = clients.get(spread.hash_client(&key.client, key.service), &key);
    client.is_some_and(|client| client.has_session && !is_past(client.until, tick(now)))
}
