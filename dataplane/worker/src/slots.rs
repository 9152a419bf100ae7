//! Reply slots that records are in. A slot is scarce, and its record stays until the client has acknowledged it: one that
//! has been there for too long, or keeps the slot from others when slots are short, is copied into a buffer of the worker's
//! own, from which it is sent again, and the slot is released as if it had been acknowledged.
//!
//! In: records taken and released, the time. Out: slots released. Looked at with each exchange of load words; as long as
//! clients acknowledge, a look is one comparison a queue pair. Owned by a worker.

use std::ops::ControlFlow;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_app::App;
use keyferry_nic::Nic;
use keyferry_tcp::{ConnId, List, no_hint};
use keyferry_time::Time;

use crate::pool::Pools;
use crate::segment::{Outgoing, SlotRecord};
use crate::turn::Worker;

/// A usual time after which a record is copied out: longer than most round trips, and than acknowledgements are held back.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Records copied out in one look at all queue pairs, at most: a quarter of a megabyte, which takes some 30 us.
const COPIES_A_LOOK: usize = 16;

/// Slots of one queue pair that are thought about in one look, at most.
const SLOTS_A_LOOK: usize = 64;

/// Whose record is in a slot, and since when.
#[derive(Clone, Copy)]
struct Occupant {
    owner: ConnId,
    since: Time,
}

/// Slots of one queue pair that records of clients are in.
pub(crate) struct Occupied {
    /// The one taken longest ago first, and behind all those that were put off.
    order: List,
    occupants: Box<[Option<Occupant>]>,
}

impl Occupied {
    /// No record in any of so many slots.
    pub(crate) fn new(slots: u16) -> Occupied {
        Occupied {
            order: List::new(slots.into(), no_hint),
            occupants: vec![None; slots.into()].into_boxed_slice(),
        }
    }

    /// A record of this connection came in a slot.
    pub(crate) fn occupy(&mut self, slot: u16, owner: ConnId, now: Time) {
        self.occupants[usize::from(slot)] = Some(Occupant { owner, since: now });
        self.order.push_back(slot.into());
    }

    /// A slot's record is not needed any more.
    pub(crate) fn release(&mut self, slot: u16) {
        self.order.remove(slot.into());
        self.occupants[usize::from(slot)] = None;
    }

    /// A slot's record cannot be copied out now: it is thought about again after all others, as if it had come at `since`.
    fn put_off(&mut self, slot: u16, since: Time) {
        self.order.remove(slot.into());
        self.order.push_back(slot.into());
        if let Some(occupant) = &mut self.occupants[usize::from(slot)] {
            occupant.since = since;
        }
    }

    fn first(&self) -> Option<(u16, Occupant)> {
        let slot = self.order.front()?;
        Some((slot as u16, self.occupants[slot as usize]?))
    }

    /// Whether a slot's record came at this time or before.
    fn is_since(&self, slot: u16, time: Time) -> bool {
        self.occupants[usize::from(slot)].is_some_and(|occupant| occupant.since <= time)
    }
}

/// A copy of the record in a slot, whose bytes nobody else can write from here on; `None` while local replies may need the
/// buffers.
fn copied(record: &SlotRecord, pools: &mut Pools) -> Option<Outgoing> {
    if !pools.records.is_ample() {
        return None;
    }
    let mut copy = pools.records.take()?;
    copy.len = record.len;
    record.slots.read(record.at, &mut copy.buffer.bytes_mut()[..record.len]);
    Some(Outgoing::sealed(copy, pools))
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Copies out what has been in slots for too long.
    pub(crate) fn free_slots(&mut self) {
        let mut left = COPIES_A_LOOK;
        let peers = self.peers.len();
        // Another queue pair comes first each time, so that none uses up for ever what all may take.
        let first = self.counters.turns as usize % peers.max(1);
        for peer in (first..peers).chain(0..first) {
            self.free_slots_of(peer, &mut left);
        }
    }

    fn free_slots_of(&mut self, peer_index: usize, left: &mut usize) {
        let patience = self.config.leases.slot_patience;
        let occupied = self.peers[peer_index].as_ref().map_or(0, |peer| peer.occupied.order.len());
        for _ in 0..occupied.min(SLOTS_A_LOOK) {
            if *left == 0 || !self.pools.records.is_ample() {
                return;
            }
            let Some(peer) = self.peers[peer_index].as_mut() else { return };
            let Some((slot, Occupant { owner, since })) = peer.occupied.first() else { return };
            let late = (since + patience).is_due(self.now);
            if !late && !peer.lender.is_short() {
                return;
            }
            if !late && peer.lender.is_bound(slot) {
                // Others would not get it.
                peer.occupied.put_off(slot, since);
                continue;
            }
            // Of the same connection, all that is late as well; of what is not, no more than others need.
            let latest = Time(self.now.0.saturating_sub(patience.as_nanos() as u64));
            let until = if late { latest } else { since };
            let copies = self.copy_out(peer_index, owner, until, *left);
            *left -= copies;
            self.counters.slots_copied_out += copies as u64;
            let why = if late {
                &mut self.counters.slots_copied_late
            } else {
                &mut self.counters.slots_copied_short
            };
            *why += copies as u64;
            if copies == 0
                && let Some(peer) = self.peers[peer_index].as_mut()
            {
                peer.occupied.put_off(slot, self.now);
            }
        }
    }

    /// Copies out at most `most` records of a connection that came at `until` or before, and answers how many. What TCP has
    /// no room for stays in its slot while the lease is under way: the helper would only write more of what the client does
    /// not take.
    fn copy_out(&mut self, peer_index: usize, id: ConnId, until: Time, most: usize) -> usize {
        let Some(peer) = self.peers[peer_index].as_ref() else { return 0 };
        let Some(conn) = self.conns[id.index()].as_mut().filter(|conn| conn.id == id) else { return 0 };
        let (pools, peer_id) = (&mut self.pools, peer.id);
        let mut freed = ArrayVec::<u16, COPIES_A_LOOK>::new();
        let mut visit = |segment: &mut Outgoing, queued: bool| {
            if freed.len() == most {
                return ControlFlow::Break(());
            }
            let record = match segment {
                Outgoing::Slot(record) if record.peer == peer_id => &*record,
                _ => return ControlFlow::Continue(()),
            };
            let slot = record.slot;
            if peer.occupied.is_since(slot, until) && (queued || !peer.lender.is_bound(slot)) {
                let Some(copy) = copied(record, pools) else { return ControlFlow::Break(()) };
                *segment = copy;
                freed.push(slot);
            }
            ControlFlow::Continue(())
        };
        self.tcp.replace(id, |segment| visit(segment, true));
        let _ = conn.backlog.iter_mut().try_for_each(|segment| visit(segment, false));
        conn.copied |= !freed.is_empty();
        for slot in &freed {
            self.slot_released(peer_id, *slot);
        }
        // What its client holds now is what others may come to wait for.
        self.note(id.index());
        freed.len()
    }
}
