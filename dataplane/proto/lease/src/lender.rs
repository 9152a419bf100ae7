//! A's side: leases under way on one queue pair, and the reply slots the peer writes into.
//!
//! The worker that owns the queue pair owns this. It knows each connection by an opaque `owner` number. All
//! decisions follow A's own state: before *go* a lease can be taken back at will, after it only the peer's return
//! (or the end of the queue pair) frees it.
//!
//! A slot is free, granted (the peer may write it), or taken (a record in it is on its way to the client). It
//! stays with its lease until that has returned and its record is needed there no more: the client has acknowledged it,
//! or it was copied out.

use std::collections::VecDeque;
use std::time::Duration;

use keyferry_time::Time;

use crate::message::{LeaseId, Return, SlotList};
use crate::{CREDITS_MAX, LEASES_MAX};

/// Slots are short when fewer than one in this many is free.
const SHORT_SHARE: usize = 8;

/// Sizes and times of a lender. Sizes are fixed at start, times and credits may change.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Leases under way at once; at most [`LEASES_MAX`].
    pub leases: usize,
    /// Reply slots of the queue pair.
    pub slots: u16,
    /// Slots one lease may hold; at most [`CREDITS_MAX`].
    pub credits: usize,
    /// Grant to claim.
    pub claim_timeout: Duration,
    /// Silence of a helper that may write.
    pub silence_timeout: Duration,
}

/// Where a lease stands at A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The request was sent, no key.
    Granted,
    /// The key was sent.
    Gone,
    /// Taken back before *go*, or its connection ended: it belongs to nobody; the helper's last word is awaited.
    Orphaned,
}

/// Something that reached a lease which has no such thing to wait for: the peer is broken, the pair has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// No slot was granted for the record announced.
    #[error("the helper wrote more records than it had slots for")]
    Slots,
    /// The return does not equal what was counted.
    #[error("the helper's return does not equal the records that were counted")]
    Count,
    /// A lease ended or claimed by the peer in a stage in which it cannot.
    #[error("the helper's message does not fit the lease's stage")]
    Stage,
}

struct Entry {
    live: Option<Stage>,
    generation: u32,
    owner: u32,
    deadline: Time,
    /// The helper has asked for the key.
    claimed: bool,
    /// The key was sent, also when the lease was taken back since.
    keyed: bool,
    /// Slots granted and not yet filled, in the order they are filled.
    granted: VecDeque<u16>,
    /// Slots sent and released again, not yet granted anew.
    spare: SlotList,
    /// Slots whose record is on its way to the client.
    taken: usize,
    records: u32,
    bytes: u64,
}

/// The lenders' table and slot pool of one queue pair.
pub struct Lender {
    limits: Limits,
    entries: Box<[Entry]>,
    vacant: Vec<u16>,
    free: Vec<u16>,
    /// Per slot: its lease's entry, while it is granted or taken.
    holder: Box<[Option<Holder>]>,
}

#[derive(Clone, Copy)]
struct Holder {
    lease: LeaseId,
    taken: bool,
}

impl Lender {
    /// A table with every slot free.
    ///
    /// # Panics
    /// If the limits exceed [`LEASES_MAX`] or [`CREDITS_MAX`]: configuration has checked them.
    pub fn new(limits: Limits) -> Lender {
        assert!(limits.leases <= LEASES_MAX && (1..=CREDITS_MAX).contains(&limits.credits));
        let entry = |_| Entry {
            live: None,
            generation: 0,
            owner: 0,
            deadline: Time::NEVER,
            claimed: false,
            keyed: false,
            granted: VecDeque::with_capacity(CREDITS_MAX),
            spare: SlotList::new(),
            taken: 0,
            records: 0,
            bytes: 0,
        };
        Lender {
            limits,
            entries: (0..limits.leases).map(entry).collect(),
            vacant: (0..limits.leases as u16).rev().collect(),
            free: (0..limits.slots).rev().collect(),
            holder: (0..limits.slots).map(|_| None).collect(),
        }
    }

    /// From here on leases may hold so many slots and take so long. What a lease has, and the deadline it waits for, it keeps.
    ///
    /// # Panics
    /// If `credits` exceed [`CREDITS_MAX`]: configuration has checked them.
    pub fn set_times(&mut self, credits: usize, claim_timeout: Duration, silence_timeout: Duration) {
        assert!((1..=CREDITS_MAX).contains(&credits));
        self.limits = Limits { credits, claim_timeout, silence_timeout, ..self.limits };
    }

    /// Leases not yet over, orphaned ones included.
    pub fn open(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    /// Slots granted or taken.
    pub fn slots_out(&self) -> usize {
        self.holder.len() - self.free.len()
    }

    /// Slots nobody holds.
    pub fn slots_free(&self) -> usize {
        self.free.len()
    }

    /// Whether so few slots are left that records of slow clients ought to leave theirs.
    pub fn is_short(&self) -> bool {
        self.free.len() * SHORT_SHARE < self.holder.len()
    }

    /// Whether the lease a slot was granted to is under way: until it ends the slot is its own.
    pub fn is_bound(&self, slot: u16) -> bool {
        let holder = self.holder.get(usize::from(slot)).copied().flatten();
        holder.is_some_and(|holder| self.stage(holder.lease).is_some())
    }

    fn entry(&mut self, lease: LeaseId) -> Option<&mut Entry> {
        self.entries
            .get_mut(usize::from(lease.index))
            .filter(|entry| entry.live.is_some() && entry.generation == lease.generation)
    }

    /// The lease's stage, if it is still under way.
    pub fn stage(&self, lease: LeaseId) -> Option<Stage> {
        let entry = self.entries.get(usize::from(lease.index))?;
        entry.live.filter(|_| entry.generation == lease.generation)
    }

    /// The owner of a lease that has one.
    pub fn owner(&self, lease: LeaseId) -> Option<u32> {
        let stage = self.stage(lease)?;
        (stage != Stage::Orphaned).then(|| self.entries[usize::from(lease.index)].owner)
    }

    /// Starts a lease for `owner`; `None` when the table or the slots are used up: keep the request.
    pub fn grant(&mut self, owner: u32, now: Time) -> Option<LeaseId> {
        if self.free.is_empty() {
            return None;
        }
        let index = self.vacant.pop()?;
        let deadline = now + self.limits.claim_timeout;
        let entry = &mut self.entries[usize::from(index)];
        entry.generation = entry.generation.wrapping_add(1);
        entry.live = Some(Stage::Granted);
        entry.owner = owner;
        entry.deadline = deadline;
        entry.claimed = false;
        entry.keyed = false;
        entry.taken = 0;
        entry.records = 0;
        entry.bytes = 0;
        Some(LeaseId { index, generation: entry.generation })
    }

    /// The grant was not posted after all.
    pub fn undo_grant(&mut self, lease: LeaseId) {
        debug_assert_eq!(self.stage(lease), Some(Stage::Granted));
        self.end(lease);
    }

    /// The helper wants to seal: the owner to ask for the key, or `None` if the lease was taken back meanwhile
    /// (a revoke is on its way to the helper), or the key was sent with the grant.
    ///
    /// # Errors
    /// [`Violation::Stage`] if it claims twice or after its end: each claim is answered, so a second one, while the
    /// answer still waits for room, would be answered twice.
    pub fn claim(&mut self, lease: LeaseId) -> Result<Option<u32>, Violation> {
        let entry = self.entry(lease).filter(|entry| !entry.claimed).ok_or(Violation::Stage)?;
        entry.claimed = true;
        Ok((entry.live == Some(Stage::Granted)).then_some(entry.owner))
    }

    /// The key goes out now. Names up to `want` slots (at least one, if the pool has any) for the helper; the
    /// caller clears the header of each before it posts *go*.
    pub fn go(&mut self, lease: LeaseId, want: usize, now: Time) -> SlotList {
        let deadline = now + self.limits.silence_timeout;
        if let Some(entry) = self.entry(lease) {
            entry.live = Some(Stage::Gone);
            entry.keyed = true;
            entry.deadline = deadline;
        }
        self.fill(lease, want)
    }

    /// As if the key had not gone out.
    #[cfg(feature = "planted-bugs")]
    pub fn forget_go(&mut self, lease: LeaseId) {
        if let Some(entry) = self.entry(lease) {
            entry.live = Some(Stage::Granted);
        }
    }

    /// Grants free slots to a lease until it holds `want`, within its credit and the pool's state: when the pool
    /// runs low, one at a time, so that slow clients cannot hold it all.
    fn fill(&mut self, lease: LeaseId, want: usize) -> SlotList {
        let low = self.free.len() * 4 < self.holder.len();
        let cap = if low { 1 } else { self.limits.credits };
        let held = self.held(lease);
        let count = want.min(cap).saturating_sub(held).min(self.free.len());
        let slots: SlotList = self.free.drain(self.free.len() - count..).collect();
        for slot in &slots {
            self.holder[usize::from(*slot)] = Some(Holder { lease, taken: false });
        }
        if let Some(entry) = self.entry(lease) {
            entry.granted.extend(&slots);
        }
        slots
    }

    fn held(&self, lease: LeaseId) -> usize {
        let entry = &self.entries[usize::from(lease.index)];
        entry.granted.len() + entry.spare.len() + entry.taken
    }

    /// A doorbell: the next granted slot holds a record. `None` for a lease that ended meanwhile.
    ///
    /// # Errors
    /// [`Violation::Slots`] if no slot is outstanding.
    pub fn doorbell(&mut self, immediate: u32, now: Time) -> Result<Option<(LeaseId, u16)>, Violation> {
        let index = immediate as u16;
        let Some(entry) = self.entries.get(usize::from(index)) else { return Err(Violation::Stage) };
        let lease = LeaseId { index, generation: entry.generation };
        if entry.live.is_none() || lease.doorbell() != immediate {
            return Ok(None);
        }
        self.record(lease, now).map(|slot| Some((lease, slot)))
    }

    /// Takes the next granted slot for a record announced by a doorbell or a return.
    fn record(&mut self, lease: LeaseId, now: Time) -> Result<u16, Violation> {
        let deadline = now + self.limits.silence_timeout;
        let entry = self.entry(lease).ok_or(Violation::Stage)?;
        if entry.live == Some(Stage::Granted) {
            return Err(Violation::Stage);
        }
        let slot = entry.granted.pop_front().ok_or(Violation::Slots)?;
        entry.records += 1;
        entry.deadline = deadline;
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::StaleCredit) {
            entry.spare.push(slot);
            return Ok(slot);
        }
        entry.taken += 1;
        if let Some(holder) = &mut self.holder[usize::from(slot)] {
            holder.taken = true;
        }
        Ok(slot)
    }

    /// Adds a record's length, read once from its slot by the caller.
    pub fn count(&mut self, lease: LeaseId, bytes: usize) {
        if let Some(entry) = self.entry(lease) {
            entry.bytes += bytes as u64;
        }
    }

    /// The slots a return announces and no doorbell did, in order; the caller reads and
    /// [`count`](Lender::count)s each, then calls [`returned`](Lender::returned).
    ///
    /// # Errors
    /// [`Violation`]: more records than slots, fewer than counted, no such lease, or one without key, of which
    /// nothing can return.
    pub fn last_records(
        &mut self,
        lease: LeaseId,
        outcome: &Return,
        now: Time,
    ) -> Result<SlotList, Violation> {
        let entry = self.entry(lease).filter(|entry| entry.keyed).ok_or(Violation::Stage)?;
        let rest = outcome.records.checked_sub(entry.records).ok_or(Violation::Count)?;
        if rest as usize > entry.granted.len() {
            return Err(Violation::Slots);
        }
        (0..rest).map(|_| self.record(lease, now)).collect()
    }

    /// Ends a lease whose return was counted.
    ///
    /// # Errors
    /// [`Violation::Count`] if records or bytes differ from what was counted.
    pub fn returned(&mut self, lease: LeaseId, outcome: &Return) -> Result<(), Violation> {
        let entry = self.entry(lease).ok_or(Violation::Stage)?;
        let equal = entry.records == outcome.records && entry.bytes == outcome.bytes;
        self.end(lease);
        if equal { Ok(()) } else { Err(Violation::Count) }
    }

    /// The helper does not take the request: nothing was sealed, nor will be, even where the key went with the grant.
    /// Names the owner that has it back; `None` if the lease was taken back meanwhile.
    ///
    /// # Errors
    /// [`Violation::Stage`] after a claim or a record.
    pub fn declined(&mut self, lease: LeaseId) -> Result<Option<u32>, Violation> {
        let entry = self.entry(lease).ok_or(Violation::Stage)?;
        let owner = match entry.live {
            Some(Stage::Orphaned) => None,
            _ if entry.claimed && entry.keyed || entry.records > 0 => return Err(Violation::Stage),
            _ => Some(entry.owner),
        };
        self.end(lease);
        Ok(owner)
    }

    /// The helper has let go of a lease that was taken back.
    ///
    /// # Errors
    /// [`Violation::Stage`] if it was not.
    pub fn revoked(&mut self, lease: LeaseId) -> Result<(), Violation> {
        self.entry(lease).filter(|entry| entry.live == Some(Stage::Orphaned)).ok_or(Violation::Stage)?;
        self.end(lease);
        Ok(())
    }

    /// Whether the helper has asked for the key.
    pub fn is_claimed(&self, lease: LeaseId) -> bool {
        self.stage(lease).is_some() && self.entries[usize::from(lease.index)].claimed
    }

    /// The lease's connection is gone, or A runs the request itself: the caller sends a revoke. Its slots stay out of
    /// use until the helper has answered; one that does not in time is to be fenced.
    pub fn orphan(&mut self, lease: LeaseId, now: Time) {
        let deadline = now + self.limits.silence_timeout;
        if let Some(entry) = self.entry(lease) {
            entry.live = Some(Stage::Orphaned);
            entry.deadline = deadline;
        }
    }

    fn end(&mut self, lease: LeaseId) {
        let Some(entry) = self.entries.get_mut(usize::from(lease.index)) else { return };
        entry.live = None;
        for slot in entry.granted.drain(..).chain(entry.spare.drain(..)) {
            self.holder[usize::from(slot)] = None;
            self.free.push(slot);
        }
        self.vacant.push(lease.index);
    }

    /// A record's slot is no longer referred to. Answers the lease that may now be given more slots.
    pub fn released(&mut self, slot: u16) -> Option<LeaseId> {
        let holder = self.holder[usize::from(slot)].as_mut().filter(|holder| holder.taken)?;
        let lease = holder.lease;
        holder.taken = false;
        let Some(entry) = self.entry(lease) else {
            self.holder[usize::from(slot)] = None;
            self.free.push(slot);
            return None;
        };
        entry.taken -= 1;
        entry.spare.push(slot);
        (entry.live == Some(Stage::Gone)).then_some(lease)
    }

    /// Whether enough slots of a streaming lease have come back to be worth a message: half of what it holds.
    pub fn wants_slots(&self, lease: LeaseId) -> bool {
        let Some(Stage::Gone) = self.stage(lease) else { return false };
        let entry = &self.entries[usize::from(lease.index)];
        entry.spare.len() * 2 >= self.limits.credits || (entry.granted.is_empty() && !entry.spare.is_empty())
    }

    /// Slots to grant to a streaming lease now, if enough have come back to be worth a message; the caller clears
    /// their headers and posts them.
    pub fn top_up(&mut self, lease: LeaseId) -> Option<SlotList> {
        let credits = self.limits.credits;
        let entry = self.entry(lease)?;
        if entry.live != Some(Stage::Gone) {
            return None;
        }
        let mut slots = std::mem::take(&mut entry.spare);
        entry.granted.extend(&slots);
        let more = self.fill(lease, credits);
        slots.extend(more);
        (!slots.is_empty()).then_some(slots)
    }

    /// Leases past their deadline: not claimed in time, silent after *go*, or their end not answered. Each is named
    /// once.
    pub fn expire(&mut self, now: Time, mut each: impl FnMut(LeaseId, Stage, u32)) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if let (Some(stage), true) = (entry.live, entry.deadline.is_due(now)) {
                entry.deadline = Time::NEVER;
                each(LeaseId { index: index as u16, generation: entry.generation }, stage, entry.owner);
            }
        }
    }

    /// The helper says that it still has the lease. Nothing is answered to one that ended meanwhile.
    ///
    /// # Errors
    /// [`Violation::Stage`] if it has no key: then it has nothing to say before its claim.
    pub fn alive(&mut self, lease: LeaseId, now: Time) -> Result<(), Violation> {
        match self.stage(lease) {
            Some(Stage::Gone) => self.excuse(lease, now),
            Some(Stage::Granted) => return Err(Violation::Stage),
            Some(Stage::Orphaned) | None => {}
        }
        Ok(())
    }

    /// Restarts the silence limit: the helper has no slot to write to, so it is the client we wait for.
    pub fn excuse(&mut self, lease: LeaseId, now: Time) {
        let deadline = now + self.limits.silence_timeout;
        if let Some(entry) = self.entry(lease) {
            entry.deadline = deadline;
        }
    }

    /// Whether the helper of a lease after *go* has a slot to write to.
    pub fn has_credit(&self, lease: LeaseId) -> bool {
        self.stage(lease).is_some() && !self.entries[usize::from(lease.index)].granted.is_empty()
    }

    /// Every lease that has an owner, for the end of the queue pair. Call [`orphan`](Lender::orphan) for none of
    /// them: the table is dropped with the queue pair.
    pub fn owners(&self) -> impl Iterator<Item = (LeaseId, Stage, u32)> + '_ {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let stage = entry.live.filter(|stage| *stage != Stage::Orphaned)?;
            Some((LeaseId { index: index as u16, generation: entry.generation }, stage, entry.owner))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lender(leases: usize, slots: u16) -> Lender {
        let timeout = Duration::from_millis(10);
        Lender::new(Limits { leases, slots, credits: 4, claim_timeout: timeout, silence_timeout: timeout })
    }

    fn outcome(records: u32, bytes: u64) -> Return {
        Return { records, bytes, status: 200, keep_alive: true, complete: true }
    }

    #[test]
    fn a_short_reply_takes_one_slot_and_gives_it_back() {
        let mut lender = lender(2, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        assert_eq!(lender.claim(lease), Ok(Some(5)));
        let slots = lender.go(lease, 1, Time::ZERO);
        assert_eq!(slots.len(), 1);
        let last = lender.last_records(lease, &outcome(1, 100), Time::ZERO).unwrap();
        assert_eq!(last, slots);
        lender.count(lease, 100);
        assert_eq!(lender.returned(lease, &outcome(1, 100)), Ok(()));
        assert_eq!((lender.open(), lender.slots_out()), (0, 1), "the slot waits for its packet");
        assert_eq!(lender.released(slots[0]), None);
        assert_eq!(lender.slots_out(), 0);
    }

    #[test]
    fn a_slot_is_bound_until_its_lease_ends() {
        let mut lender = lender(2, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        lender.claim(lease).unwrap();
        let slots = lender.go(lease, 2, Time::ZERO);
        assert!(!lender.is_bound(slots[0] ^ 4), "granted to nobody");
        lender.doorbell(lease.doorbell(), Time::ZERO).unwrap();
        assert!(slots.iter().all(|slot| lender.is_bound(*slot)));
        lender.count(lease, 100);
        lender.returned(lease, &outcome(1, 100)).unwrap();
        assert!(!lender.is_bound(slots[0]) && !lender.is_bound(slots[1]));
        assert_eq!(lender.slots_out(), 1);
        // The next lease has the other one.
        let next = lender.grant(6, Time::ZERO).unwrap();
        lender.go(next, 4, Time::ZERO);
        assert!(!lender.is_bound(slots[0]), "it waits for its packet alone");
        lender.released(slots[0]);
        assert!(!lender.is_bound(u16::MAX), "no slot");
    }

    #[test]
    fn slots_are_short_when_fewer_than_an_eighth_are_free() {
        let mut lender = Lender::new(Limits {
            leases: 64,
            slots: 32,
            credits: 1,
            claim_timeout: Duration::ZERO,
            silence_timeout: Duration::ZERO,
        });
        for out in 0..32 {
            assert_eq!(lender.is_short(), 32 - out < 4, "{out} are out");
            let lease = lender.grant(1, Time::ZERO).unwrap();
            assert_eq!(lender.go(lease, 1, Time::ZERO).len(), 1);
        }
        assert!(lender.is_short());
    }

    #[test]
    fn a_return_that_differs_from_the_count_is_a_violation() {
        let mut lender = lender(2, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        lender.claim(lease).unwrap();
        lender.go(lease, 2, Time::ZERO);
        lender.doorbell(lease.doorbell(), Time::ZERO).unwrap();
        lender.count(lease, 100);
        assert_eq!(lender.last_records(lease, &outcome(0, 0), Time::ZERO), Err(Violation::Count));
        assert_eq!(lender.last_records(lease, &outcome(5, 0), Time::ZERO), Err(Violation::Slots));
        assert!(lender.last_records(lease, &outcome(1, 99), Time::ZERO).unwrap().is_empty());
        assert_eq!(lender.returned(lease, &outcome(1, 99)), Err(Violation::Count));
    }

    #[test]
    fn a_claim_after_the_lease_was_taken_back_gets_no_key() {
        let mut lender = lender(1, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        lender.orphan(lease, Time::ZERO);
        assert_eq!(lender.claim(lease), Ok(None));
        assert_eq!(lender.owner(lease), None);
        assert!(lender.grant(6, Time::ZERO).is_none(), "the entry waits for the helper's word");
        assert_eq!(lender.revoked(lease), Ok(()));
        let next = lender.grant(6, Time::ZERO).unwrap();
        assert_eq!(next.index, lease.index);
        assert_eq!(lender.claim(lease), Err(Violation::Stage), "the old generation is unknown");
        assert_eq!(lender.doorbell(lease.doorbell(), Time::ZERO), Ok(None));
    }

    #[test]
    fn a_claim_is_answered_once() {
        let mut lender = lender(2, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        assert_eq!(lender.claim(lease), Ok(Some(5)));
        assert_eq!(lender.claim(lease), Err(Violation::Stage), "while go waits for room");
        lender.go(lease, 1, Time::ZERO);
        assert_eq!(lender.claim(lease), Err(Violation::Stage));
        let eager = lender.grant(6, Time::ZERO).unwrap();
        lender.go(eager, 1, Time::ZERO);
        assert_eq!(lender.claim(eager), Ok(None), "it crossed the key");
        assert_eq!(lender.claim(eager), Err(Violation::Stage));
    }

    #[test]
    fn a_helper_may_decline_before_it_claims_or_writes() {
        let mut lender = lender(4, 8);
        let plain = lender.grant(1, Time::ZERO).unwrap();
        assert_eq!(lender.declined(plain), Ok(Some(1)));
        assert_eq!(lender.declined(plain), Err(Violation::Stage), "once");
        let eager = lender.grant(2, Time::ZERO).unwrap();
        lender.go(eager, 2, Time::ZERO);
        assert_eq!(lender.declined(eager), Ok(Some(2)));
        assert_eq!((lender.open(), lender.slots_out()), (0, 0), "its slots are back");
        let claimed = lender.grant(3, Time::ZERO).unwrap();
        lender.claim(claimed).unwrap();
        lender.go(claimed, 1, Time::ZERO);
        assert_eq!(lender.declined(claimed), Err(Violation::Stage));
        let writing = lender.grant(4, Time::ZERO).unwrap();
        lender.go(writing, 1, Time::ZERO);
        lender.doorbell(writing.doorbell(), Time::ZERO).unwrap();
        assert_eq!(lender.declined(writing), Err(Violation::Stage));
        lender.orphan(writing, Time::ZERO);
        assert_eq!(lender.declined(writing), Ok(None), "it crossed the revoke");
    }

    #[test]
    fn only_what_was_taken_back_is_revoked() {
        let mut lender = lender(1, 8);
        let lease = lender.grant(1, Time::ZERO).unwrap();
        assert_eq!(lender.revoked(lease), Err(Violation::Stage));
        lender.go(lease, 1, Time::ZERO);
        assert_eq!(lender.revoked(lease), Err(Violation::Stage));
        lender.orphan(lease, Time::ZERO);
        assert_eq!(lender.revoked(lease), Ok(()));
        assert_eq!(lender.revoked(lease), Err(Violation::Stage));
    }

    #[test]
    fn a_return_before_go_is_a_violation() {
        let mut lender = lender(2, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        assert_eq!(lender.last_records(lease, &outcome(0, 0), Time::ZERO), Err(Violation::Stage));
        assert_eq!(lender.stage(lease), Some(Stage::Granted), "the request can still run here");
        lender.orphan(lease, Time::ZERO);
        assert_eq!(lender.last_records(lease, &outcome(0, 0), Time::ZERO), Err(Violation::Stage));
    }

    #[test]
    fn a_record_before_go_is_a_violation() {
        let mut lender = lender(1, 8);
        let lease = lender.grant(5, Time::ZERO).unwrap();
        assert_eq!(lender.doorbell(lease.doorbell(), Time::ZERO), Err(Violation::Stage));
    }

    #[test]
    fn deadlines_are_named_once_by_stage() {
        let mut lender = lender(2, 8);
        let late = Time::ZERO + Duration::from_millis(10);
        let granted = lender.grant(1, Time::ZERO).unwrap();
        let gone = lender.grant(2, Time::ZERO).unwrap();
        lender.go(gone, 1, Time::ZERO);
        let mut named = Vec::new();
        lender.expire(late, |lease, stage, owner| named.push((lease, stage, owner)));
        assert_eq!(named, [(granted, Stage::Granted, 1), (gone, Stage::Gone, 2)]);
        lender.expire(late, |_, _, _| panic!("named twice"));
        lender.orphan(gone, late);
        lender.expire(late + Duration::from_millis(10), |lease, stage, _| named.push((lease, stage, 0)));
        assert_eq!(named.last(), Some(&(gone, Stage::Orphaned, 0)));
    }

    proptest! {
        /// Any order of grants, records, releases, ends: slots are never lost or handed out twice.
        #[test]
        fn slots_and_leases_come_back(steps in proptest::collection::vec((0u8..7, any::<u8>()), 0..400)) {
            let mut lender = lender(4, 12);
            let mut live: Vec<LeaseId> = Vec::new();
            let mut taken: Vec<u16> = Vec::new();
            for (step, pick) in steps {
                let lease = live.get(usize::from(pick) % live.len().max(1)).copied();
                match (step, lease) {
                    (0, _) => live.extend(lender.grant(u32::from(pick), Time::ZERO)),
                    (1, Some(lease)) if lender.stage(lease) == Some(Stage::Granted) => {
                        let slots = lender.go(lease, usize::from(pick) % 6, Time::ZERO);
                        prop_assert!(slots.iter().all(|slot| !taken.contains(slot)));
                    }
                    (2, Some(lease)) => if let Ok(Some((_, slot))) = lender.doorbell(lease.doorbell(), Time::ZERO) {
                        prop_assert!(!taken.contains(&slot));
                        taken.push(slot);
                    },
                    (3, _) if !taken.is_empty() => {
                        let slot = taken.swap_remove(usize::from(pick) % taken.len());
                        lender.released(slot);
                    }
                    (4, Some(lease)) => { lender.top_up(lease); }
                    (5, Some(lease)) => lender.orphan(lease, Time::ZERO),
                    (6, Some(lease)) => {
                        if lender.declined(lease).is_err() {
                            lender.orphan(lease, Time::ZERO);
                            lender.revoked(lease).unwrap();
                        }
                        live.retain(|other| *other != lease);
                    }
                    _ => {}
                }
                prop_assert_eq!(lender.open(), live.len());
                prop_assert!(lender.slots_out() >= taken.len());
                let mut held: Vec<u16> = lender.free.clone();
                for entry in &lender.entries {
                    prop_assert!(entry.granted.len() + entry.spare.len() + entry.taken <= 4, "within its credit");
                    held.extend(&entry.granted);
                    held.extend(&entry.spare);
                }
                held.extend(&taken);
                held.sort_unstable();
                prop_assert_eq!(held, (0..12).collect::<Vec<u16>>(), "each slot is in one place");
            }
            for lease in live {
                lender.orphan(lease, Time::ZERO);
                lender.revoked(lease).unwrap();
            }
            for slot in taken {
                lender.released(slot);
            }
            prop_assert_eq!((lender.open(), lender.slots_out()), (0, 0));
        }
    }
}
