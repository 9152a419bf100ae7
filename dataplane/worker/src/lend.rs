//! A's side of the lease on the worker: grants out, claims answered with the key, records taken from slots.

use keyferry_app::App;
use keyferry_fabric::PostError;
use keyferry_lease::lender::{Stage, Violation};
use keyferry_lease::message::{Declined, Return};
use keyferry_lease::{LeaseId, Message};
#[cfg(feature = "planted-bugs")]
use keyferry_lease::{SlotList, planted};
use keyferry_nic::Nic;
use keyferry_tls::{HEADER_BYTES, RecordKey, SEALED_BYTES_MAX};
use zeroize::Zeroizing;

use crate::answer::Why;
use crate::conn::{Conn, Reply, Tls};
#[cfg(feature = "planted-bugs")]
use crate::peer::Peer;
use crate::peer::{Intent, PeerId, SLOT_BYTES};
use crate::segment::{Outgoing, SlotRecord};
use crate::turn::Worker;

/// Sequence numbers kept back when a connection's key is lent, for our own alerts and key updates.
const RECORDS_KEPT: u64 = 1 << 12;

/// A connection with fewer records left is not lent: it is rekeyed (TLS 1.3) or ends (TLS 1.2) first.
pub const RECORDS_TO_LEND: u64 = 1 << 20;

/// Type and version of every record a helper may write (RFC 8446 5.2; RFC 5246 6.2.3).
const APPLICATION_DATA: [u8; 3] = [23, 3, 3];

/// Shortest ciphertext of an AEAD record: a tag.
const CIPHERTEXT_MIN: usize = 16;

/// Gives the record key away: from here on the sealer refuses to seal until it is reclaimed.
fn lend_key(conn: &mut Conn) -> Option<RecordKey> {
    let Tls::Open(session) = &mut conn.tls else { return None };
    let records = session.sealer.records_left().checked_sub(RECORDS_KEPT)?;
    session.sealer.lend(records).ok()
}

/// Sends the key, and goes on as if it had not.
#[cfg(feature = "planted-bugs")]
fn forget_go(
    conn: &mut Conn,
    peer: &mut Peer,
    lease: LeaseId,
    key: &RecordKey,
    slots: SlotList,
) -> Result<(), PostError> {
    peer.lender.forget_go(lease);
    conn.reply = Reply::Lent { peer: peer.id, lease, gone: false };
    if let Tls::Open(session) = &mut conn.tls {
        // What is lent and not used comes back whole.
        let _ = session.sealer.reclaim(0);
    }
    let mut wire = [0; RecordKey::WIRE_BYTES];
    let len = key.encode(&mut wire);
    peer.say(&Message::Go { lease, key: &wire[..len], slots })
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Lends the request of a connection to a peer, where it is expected to be ready so long after. `false`: it has to run
    /// here.
    pub(crate) fn lend(&mut self, index: usize, peer_index: usize, expected_us: u32) -> bool {
        let Some(conn) = self.conns[index].as_mut() else { return false };
        let Some(peer) = self.peers[peer_index].as_mut() else { return false };
        let Some(request) = conn.request.as_deref() else { return false };
        let (head, body) = request.wire();
        if !peer.message_room() || !peer.fits(head.len(), body.len()) {
            return false;
        }
        let Some(lease) = peer.lender.grant(index as u32, self.now) else { return false };
        let (client, local) = (self.tcp.peer(conn.id), self.tcp.local(conn.id));
        if peer.say(&Message::Grant { lease, client, local, head, body }).is_err() {
            peer.lender.undo_grant(lease);
            peer.queue_pair.fail();
            return false;
        }
        peer.note_granted(lease, expected_us, self.now);
        conn.reply = Reply::Lent { peer: peer.id, lease, gone: false };
        self.counters.leases_granted += 1;
        let helper = peer.node;
        if self.config.eager {
            peer.outbox.push_back(Intent::Go { lease, want: self.config.leases.credits });
        }
        self.trace_helper(index, Some(helper));
        if self.config.eager {
            self.speak(peer_index);
        }
        true
    }

    /// Posts waiting messages, in order, as far as there is room.
    pub(crate) fn speak(&mut self, peer_index: usize) {
        let waiting = self.peers[peer_index].as_ref().map_or(0, |peer| peer.outbox.len());
        for _ in 0..waiting {
            let Some(peer) = self.peers[peer_index].as_mut() else { return };
            if !peer.message_room() {
                return;
            }
            let Some(intent) = peer.outbox.pop_front() else { break };
            if self.say(peer_index, intent).is_err() {
                return self.lose_peer(peer_index);
            }
        }
        let Some(peer) = self.peers[peer_index].as_mut() else { return };
        if peer.channel.owes_credit() && peer.post_room() > 0 && peer.say(&Message::Credit).is_err() {
            self.lose_peer(peer_index);
        }
    }

    fn say(&mut self, peer_index: usize, intent: Intent) -> Result<(), PostError> {
        if let Intent::Go { lease, want } = intent {
            return self.go(peer_index, lease, want);
        }
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        match intent {
            Intent::Go { .. } => Ok(()),
            Intent::Slots(lease) => match peer.lender.top_up(lease) {
                None => Ok(()),
                Some(slots) => {
                    peer.clear_slots(&slots);
                    peer.lender.excuse(lease, self.now);
                    peer.say(&Message::Slots { lease, slots })
                }
            },
            Intent::Revoke(lease) => peer.say(&Message::Revoke { lease }),
            Intent::Decline(lease, why) => peer.say(&Message::Decline { lease, why }),
            Intent::Claim { lease, records } => peer.say(&Message::Claim { lease, records }),
            Intent::Return(lease, outcome) => peer.say(&Message::Return { lease, outcome }),
            Intent::Revoked(lease) => peer.say(&Message::Revoked { lease }),
            Intent::TooLate(lease) => peer.say(&Message::TooLate { lease }),
            Intent::Alive(lease) => peer.say(&Message::Alive { lease }),
        }
    }

    /// The key leaves at the moment of posting, not before: a lease taken back meanwhile never gets one.
    fn go(&mut self, peer_index: usize, lease: LeaseId, want: usize) -> Result<(), PostError> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let Some(owner) = peer.lender.owner(lease) else { return Ok(()) };
        if peer.lender.slots_free() == 0 {
            peer.outbox.push_back(Intent::Go { lease, want });
            return Ok(());
        }
        if !self.settle_key_update(owner as usize) {
            // The helper's first record has to come behind our answer (RFC 8446 4.6.3), which waits for a buffer.
            let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
            peer.outbox.push_back(Intent::Go { lease, want });
            return Ok(());
        }
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let Some(conn) = self.conns[owner as usize].as_mut() else { return Ok(()) };
        let Some(key) = lend_key(conn) else {
            self.take_back(peer_index, lease);
            self.counters.leases_failed += 1;
            self.run_here(owner as usize);
            return Ok(());
        };
        let slots = peer.lender.go(lease, want.max(1), self.now);
        peer.clear_slots(&slots);
        conn.reply = Reply::Lent { peer: peer.id, lease, gone: true };
        #[cfg(feature = "planted-bugs")]
        if planted::is_planted(planted::Bug::GoSkipped) {
            return forget_go(conn, peer, lease, &key, slots);
        }
        // A key that went with the grant may come back unused.
        if peer.lender.is_claimed(lease)
            && let Some(request) = conn.request.take()
        {
            self.pools.give_request(request);
        }
        let mut wire = Zeroizing::new([0; RecordKey::WIRE_BYTES]);
        let len = key.encode(&mut wire[..]);
        peer.say(&Message::Go { lease, key: &wire[..len], slots })
    }

    /// Takes a lease back: the connection has no part in it any more, the helper is told.
    pub(crate) fn take_back(&mut self, peer_index: usize, lease: LeaseId) {
        if let Some(peer) = self.peers[peer_index].as_mut() {
            peer.lender.orphan(lease, self.now);
            peer.outbox.push_back(Intent::Revoke(lease));
        }
    }

    /// The helper's reply is ready: the key is due.
    pub(crate) fn claimed(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        records: u32,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let owner = peer.lender.claim(lease)?;
        peer.note_claimed(lease, records == 1, self.now);
        if let Some(owner) = owner {
            let credits = self.config.leases.credits;
            let want = if records == 0 { credits } else { credits.min(records as usize) };
            peer.outbox.push_back(Intent::Go { lease, want });
            self.trace_reply(owner as usize);
        } else if let Some(owner) = peer.lender.owner(lease) {
            self.let_go_of_request(owner as usize);
        }
        Ok(())
    }

    /// The helper answers a request whose key went with the grant: it does not run here any more.
    fn let_go_of_request(&mut self, owner: usize) {
        if let Some(request) = self.conns[owner].as_mut().and_then(|conn| conn.request.take()) {
            self.pools.give_request(request);
        }
    }

    /// The helper did not take the request, or its application failed on it: the same may not run twice unless it
    /// is safe.
    pub(crate) fn declined(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        why: Declined,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let Some(owner) = peer.lender.declined(lease)?.map(|owner| owner as usize) else { return Ok(()) };
        if let Some(conn) = self.conns[owner].as_mut()
            && let (Reply::Lent { gone: true, .. }, Tls::Open(session)) = (&conn.reply, &mut conn.tls)
            && session.sealer.reclaim(0).is_err()
        {
            self.break_lease(owner);
            return Ok(());
        }
        self.counters.leases_refused += 1;
        match why {
            Declined::Failed => self.run_again(owner),
            Declined::Busy | Declined::Draining | Declined::Malformed => self.run_here(owner),
        }
        Ok(())
    }

    /// A doorbell: one record is visible in the lease's next slot.
    pub(crate) fn doorbell(&mut self, peer_index: usize, immediate: u32) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        match peer.lender.doorbell(immediate, self.now)? {
            Some((lease, slot)) => self.record(peer_index, lease, slot),
            None => Ok(()),
        }
    }

    /// Takes a record out of a slot: its header is read once, checked, counted, and never asked again.
    fn record(&mut self, peer_index: usize, lease: LeaseId, slot: u16) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let at = usize::from(slot) * SLOT_BYTES;
        let mut header = [0; HEADER_BYTES];
        peer.slots.read(at, &mut header);
        let body = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let len = HEADER_BYTES + body;
        if header[..3] != APPLICATION_DATA || body < CIPHERTEXT_MIN || len > SEALED_BYTES_MAX {
            return Err(Violation::Count);
        }
        peer.lender.count(lease, len);
        let record = SlotRecord { slots: peer.slots.clone(), peer: peer.id, slot, at, len };
        let Some(owner) = peer.lender.owner(lease).map(|owner| owner as usize) else {
            self.release(Outgoing::Slot(record));
            return Ok(());
        };
        if let Some(conn) = &self.conns[owner] {
            peer.occupied.occupy(slot, conn.id, self.now);
        }
        // One whose key went with the grant is claimed by nobody.
        self.trace_reply(owner);
        self.enqueue(owner, Outgoing::Slot(record));
        Ok(())
    }

    /// The return: the last records, the count, and the connection is ours again.
    pub(crate) fn returned(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        outcome: &Return,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        for slot in peer.lender.last_records(lease, outcome, self.now)? {
            self.record(peer_index, lease, slot)?;
        }
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let owner = peer.lender.owner(lease);
        let counted = peer.lender.returned(lease, outcome);
        if counted.is_ok() && outcome.complete {
            peer.note_returned(lease, self.now);
        }
        let Some(owner) = owner.map(|owner| owner as usize) else { return counted };
        if counted.is_err() || !outcome.complete {
            self.break_lease(owner);
            return counted;
        }
        self.reclaim(owner, outcome);
        Ok(())
    }

    /// A lease ended after *go* without a whole reply: its sequence numbers may be spent, so the connection ends.
    pub(crate) fn break_lease(&mut self, owner: usize) {
        self.counters.leases_broken += 1;
        self.counters.closed_lease += 1;
        self.reset(owner);
    }

    fn reclaim(&mut self, owner: usize, outcome: &Return) {
        self.let_go_of_request(owner);
        let Some(conn) = self.conns[owner].as_mut() else { return };
        let Tls::Open(session) = &mut conn.tls else { return };
        let records = u64::from(outcome.records);
        #[cfg(feature = "planted-bugs")]
        let records = records - u64::from(planted::is_planted(planted::Bug::SequenceOffByOne));
        if session.sealer.reclaim(records).is_err() {
            return self.break_lease(owner);
        }
        conn.reply = Reply::None;
        conn.close_after |= !outcome.keep_alive;
        self.counters.replies_lent += 1;
        if let Some(asked) = conn.take_asked() {
            self.latency.ended(asked, self.now);
        }
        self.trace_sealed(owner, Some(outcome.status));
        self.reply_done(owner);
    }

    /// A record's slot is not needed any more; a long reply may get it again.
    pub(crate) fn slot_released(&mut self, id: PeerId, slot: u16) {
        let Some(peer) = self.peers[usize::from(id.index)].as_mut().filter(|peer| peer.id == id) else {
            return;
        };
        peer.occupied.release(slot);
        if let Some(lease) = peer.lender.released(slot)
            && peer.lender.wants_slots(lease)
        {
            peer.outbox.push_back(Intent::Slots(lease));
        }
    }

    /// Leases not claimed in time run here; after *go* a silent helper costs the connection, because only it knows
    /// which sequence numbers are spent.
    pub(crate) fn expire_leases(&mut self, peer_index: usize) {
        let now = self.now;
        let mut late = std::mem::take(&mut self.late);
        if let Some(peer) = self.peers[peer_index].as_mut() {
            peer.lender.expire(now, |lease, stage, owner| late.push((lease, stage, owner as usize)));
        }
        for (lease, stage, owner) in late.drain(..) {
            let Some(peer) = self.peers[peer_index].as_mut() else { break };
            match stage {
                Stage::Gone if !peer.lender.has_credit(lease) => peer.lender.excuse(lease, now),
                Stage::Gone => {
                    self.take_back(peer_index, lease);
                    self.break_lease(owner);
                }
                Stage::Granted => {
                    self.take_back(peer_index, lease);
                    self.counters.leases_failed += 1;
                    self.run_again(owner);
                }
                // It does not even answer a revoke: fenced, so that its slots can be used again.
                Stage::Orphaned => peer.queue_pair.fail(),
            }
        }
        self.late = late;
    }

    /// Runs a request here whose helper gave no answer. It may have run there, so only a safe one may run again
    /// (RFC 9110 9.2.1); another is answered with 502.
    pub(crate) fn run_again(&mut self, index: usize) {
        let safe = self.conns[index]
            .as_ref()
            .and_then(|conn| conn.request.as_deref())
            .is_some_and(|request| request.is_safe());
        if safe { self.run_here(index) } else { self.answer(index, Why::Lost) }
    }
}
