//! B's side of the lease on the worker: a lent request runs in the application, its reply is sealed with the lent
//! key straight into registered memory and written into the lender's slots.

use arrayvec::ArrayVec;
use keyferry_app::{App, Chunk, Job};
use keyferry_fabric::PostError;
use keyferry_http::Ends;
use keyferry_lease::helper::{Stage, Violation};
use keyferry_lease::message::{Declined, Return};
use keyferry_lease::{LeaseId, SlotList};
use keyferry_nic::Nic;
use keyferry_tls::{LentSealer, RecordKey};

use crate::conn::Plain;
use crate::job::Owner;
use crate::peer::{Intent, Peer, PeerId, Served};
use crate::turn::Worker;

/// Signs of life within the lender's patience; both ends are configured alike.
const SIGNS_OF_LIFE: u32 = 4;

impl<N: Nic, A: App> Worker<N, A> {
    /// A grant: runs the request, or declines it. A broken request is the lender's fault and declined as well.
    pub(crate) fn granted(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        ends: Ends,
        head: &[u8],
        body: &[u8],
    ) -> Result<(), Violation> {
        self.counters.leases_taken += 1;
        match self.take_lent(peer_index, lease, ends, head, body)? {
            None => {}
            Some(why) => {
                self.counters.leases_declined += 1;
                if let Some(peer) = self.peers[peer_index].as_mut() {
                    peer.outbox.push_back(Intent::Decline(lease, why));
                }
            }
        }
        Ok(())
    }

    fn take_lent(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        ends: Ends,
        head: &[u8],
        body: &[u8],
    ) -> Result<Option<Declined>, Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(None) };
        peer.note_taken();
        if self.drain.is_on() {
            return Ok(Some(Declined::Draining));
        }
        if !peer.helper.has_room(lease)? {
            return Ok(Some(Declined::Busy));
        }
        let Some(mut request) = self.pools.requests.take() else { return Ok(Some(Declined::Busy)) };
        if request.read_wire(head, body, &self.config.http).is_err() {
            self.pools.give_request(request);
            return Ok(Some(Declined::Malformed));
        }
        request.came_over(ends);
        let Some(chunk) = self.pools.chunks.take() else {
            self.pools.give_request(request);
            return Ok(Some(Declined::Busy));
        };
        let job = Owner::Served(peer.id, lease).job();
        let served = Served {
            job: Some(job),
            parts: ArrayVec::new(),
            in_app: 1,
            sealer: None,
            status: 0,
            keep_alive: false,
            aborted: false,
            heard_at: self.now,
        };
        peer.helper.grant(lease, served)?;
        if let Err(job) = self.app.submit(Job { id: job, request, chunk }) {
            self.pools.give_request(job.request);
            self.pools.give_chunk(job.chunk);
            if let Some(peer) = self.peers[peer_index].as_mut() {
                peer.end_served(lease);
            }
            return Ok(Some(Declined::Busy));
        }
        Ok(None)
    }

    /// The key arrived.
    pub(crate) fn gone(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        key: &[u8],
        slots: &SlotList,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        if !RecordKey::is_wire_form(key) {
            return Err(Violation);
        }
        if let Some(served) = peer.helper.go(lease, slots)? {
            served.state.sealer = LentSealer::decode(key);
            served.state.heard_at = self.now;
            self.seal_lent(peer_index, lease);
        }
        Ok(())
    }

    /// More slots for a long reply.
    pub(crate) fn more_slots(
        &mut self,
        peer_index: usize,
        lease: LeaseId,
        slots: &SlotList,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        peer.helper.more_slots(lease, slots)?;
        self.seal_lent(peer_index, lease);
        Ok(())
    }

    /// The lender takes a lease back. After this answer nothing is written for it any more: writes posted before
    /// it arrive before it.
    pub(crate) fn revoked(&mut self, peer_index: usize, lease: LeaseId) {
        let known = self.end_served(peer_index, lease);
        self.counters.leases_revoked += u64::from(known);
        if let Some(peer) = self.peers[peer_index].as_mut() {
            peer.outbox.push_back(if known { Intent::Revoked(lease) } else { Intent::TooLate(lease) });
        }
    }

    /// Forgets a lent request: its job is cancelled, its key wiped.
    pub(crate) fn end_served(&mut self, peer_index: usize, lease: LeaseId) -> bool {
        let Some(peer) = self.peers[peer_index].as_mut() else { return false };
        let Some(mut served) = peer.end_served(lease) else { return false };
        for part in served.parts.drain(..) {
            self.pools.give_chunk(part.chunk);
        }
        if let Some(job) = served.job {
            self.app.cancel(job);
        }
        true
    }

    /// The application produced part of a lent reply.
    pub(crate) fn lent_part(&mut self, id: PeerId, lease: LeaseId, chunk: Chunk, end: Option<(u16, bool)>) {
        let peer_index = usize::from(id.index);
        let served = self.peers[peer_index]
            .as_mut()
            .filter(|peer| peer.id == id)
            .and_then(|peer| peer.helper.served(lease));
        let Some(served) = served else { return self.pools.give_chunk(chunk) };
        let state = &mut served.state;
        state.in_app = state.in_app.saturating_sub(1);
        let last = end.is_some();
        if let Some((status, keep_alive)) = end {
            (state.job, state.status, state.keep_alive) = (None, status, keep_alive);
        }
        if let Err(full) = state.parts.try_push(Plain::new(chunk, last)) {
            // The application produced more than it was given chunks for: our own mistake, the reply ends broken.
            state.aborted = true;
            self.pools.give_chunk(full.element().chunk);
        }
        if let (Some(job), true) = (state.job, state.has_room())
            && let Some(chunk) = self.pools.chunks.take()
        {
            state.in_app += 1;
            self.app.more(job, chunk);
        }
        if served.stage == Stage::Running {
            served.stage = Stage::Claimed;
            let records = u32::from(last);
            if let Some(peer) = self.peers[peer_index].as_mut() {
                peer.outbox.push_back(Intent::Claim { lease, records });
            }
        }
        self.seal_lent(peer_index, lease);
    }

    /// The application failed on a lent request.
    pub(crate) fn lent_failed(&mut self, id: PeerId, lease: LeaseId) {
        let peer_index = usize::from(id.index);
        let Some(peer) = self.peers[peer_index].as_mut().filter(|peer| peer.id == id) else { return };
        let Some(served) = peer.helper.served(lease) else { return };
        served.state.job = None;
        served.state.aborted = true;
        match served.stage {
            Stage::Running => {
                self.end_served(peer_index, lease);
                self.counters.leases_declined += 1;
                if let Some(peer) = self.peers[peer_index].as_mut() {
                    peer.outbox.push_back(Intent::Decline(lease, Declined::Failed));
                }
            }
            // The claim is on its way, or the key is here: the return says that the reply is not whole.
            Stage::Claimed | Stage::Sealing => self.seal_lent(peer_index, lease),
        }
    }

    /// Seals waiting chunks as far as key, slots, staging memory and the peer's receives reach.
    pub(crate) fn seal_lent(&mut self, peer_index: usize, lease: LeaseId) {
        let Some(peer) = self.peers[peer_index].as_mut() else { return };
        match seal_some(peer, lease, &mut self.sealed_chunks) {
            Ok(Progress::Waiting) => {}
            Ok(Progress::Stuck) => peer.stuck.push_back(lease),
            Ok(Progress::Done(outcome)) => {
                self.end_served(peer_index, lease);
                if let Some(peer) = self.peers[peer_index].as_mut() {
                    peer.outbox.push_back(Intent::Return(lease, outcome));
                }
                self.counters.leases_served += u64::from(outcome.complete);
                self.counters.leases_spoiled += u64::from(!outcome.complete);
            }
            Err(_) => peer.queue_pair.fail(),
        }
        self.recycle_lent(peer_index, lease);
    }

    /// Gives emptied chunks back: to the application while the reply goes on, else to the pool.
    fn recycle_lent(&mut self, peer_index: usize, lease: LeaseId) {
        while let Some(chunk) = self.sealed_chunks.pop() {
            let served = self.peers[peer_index].as_mut().and_then(|peer| peer.helper.served(lease));
            match served.map(|served| &mut served.state) {
                Some(state) if state.job.is_some() && state.has_room() => {
                    state.in_app += 1;
                    if let Some(job) = state.job {
                        self.app.more(job, chunk);
                    }
                }
                _ => self.pools.give_chunk(chunk),
            }
        }
    }

    /// Signs of life for leases whose key is here and whose application takes its time: without one the lender has
    /// to take silence for death.
    pub(crate) fn show_life(&mut self, peer_index: usize) {
        let Some(peer) = self.peers[peer_index].as_mut() else { return };
        let often = self.config.leases.silence_timeout / SIGNS_OF_LIFE;
        // What cannot be said now is no sign of life later.
        if peer.helper.open() == 0 || !peer.message_room() {
            return;
        }
        for served in peer.helper.all() {
            if served.stage == Stage::Sealing && (served.state.heard_at + often).is_due(self.now) {
                served.state.heard_at = self.now;
                peer.outbox.push_back(Intent::Alive(served.lease));
            }
        }
    }

    /// Tries again what waited for receives, staging memory or the send queue.
    pub(crate) fn unstick(&mut self, peer_index: usize) {
        let waiting = self.peers[peer_index].as_ref().map_or(0, |peer| peer.stuck.len());
        for _ in 0..waiting {
            let lease = self.peers[peer_index].as_mut().and_then(|peer| peer.stuck.pop_front());
            if let Some(lease) = lease {
                self.seal_lent(peer_index, lease);
            }
        }
    }
}

enum Progress {
    /// Everything ready is sealed, or the key or a slot has to come first: a message will wake us.
    Waiting,
    /// Receives, staging memory or the send queue are used up: try again next turn.
    Stuck,
    /// The last record is written.
    Done(Return),
}

fn seal_some(peer: &mut Peer, lease: LeaseId, emptied: &mut Vec<Chunk>) -> Result<Progress, PostError> {
    loop {
        let Some(served) = peer.helper.served(lease) else { return Ok(Progress::Waiting) };
        if served.stage != Stage::Sealing {
            return Ok(Progress::Waiting);
        }
        if served.state.parts.is_empty() {
            let broken = served.state.aborted;
            return Ok(if broken { Progress::Done(outcome(served, false)) } else { Progress::Waiting });
        }
        let Some(slot) = served.slots.front().copied() else { return Ok(Progress::Waiting) };
        let Some(staging) = peer.take_staging() else { return Ok(Progress::Stuck) };
        let Some(served) = peer.helper.served(lease) else { return Ok(Progress::Waiting) };
        served.slots.pop_front();
        let range = Peer::staging_range(staging, crate::peer::SLOT_BYTES);
        let into = &mut peer.queue_pair.staging()[range];
        let (sealed, ended) = seal_next(&mut served.state, into, emptied);
        let Some(len) = sealed else {
            // The lent range is used up: the lender ends the connection.
            let done = outcome(served, false);
            peer.give_staging(staging);
            return Ok(Progress::Done(done));
        };
        served.records += 1;
        served.bytes += len as u64;
        let done = ended.then(|| outcome(served, true));
        // The return behind the last record is its bell.
        let bell = (!ended).then(|| lease.doorbell());
        peer.write_record(staging, len, slot, bell)?;
        if let Some(done) = done {
            return Ok(Progress::Done(done));
        }
    }
}

/// Seals the next record of the first waiting chunk; `None` if the lent range is used up. Whether it was the reply's last.
fn seal_next(state: &mut Served, into: &mut [u8], emptied: &mut Vec<Chunk>) -> (Option<usize>, bool) {
    let (Some(sealer), Some(part)) = (state.sealer.as_mut(), state.parts.first_mut()) else {
        return (None, false);
    };
    let bytes = part.next(sealer.fragment());
    let (sealed, count) = (sealer.seal_data(bytes, into).ok(), bytes.len());
    part.advance(count);
    if !part.is_sealed() {
        return (sealed, false);
    }
    let Plain { chunk, last, .. } = state.parts.remove(0);
    emptied.push(chunk);
    (sealed, last)
}

fn outcome(served: &keyferry_lease::helper::Served<Served>, complete: bool) -> Return {
    Return {
        records: served.records,
        bytes: served.bytes,
        status: served.state.status,
        keep_alive: served.state.keep_alive,
        complete: complete && !served.state.aborted,
    }
}
