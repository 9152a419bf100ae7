//! B's side: requests lent to this worker over one queue pair.
//!
//! The worker that owns the queue pair owns this; it keeps its own state of each (job, key, waiting chunks) as `T`
//! in the entry, so that one look-up finds both. Entries are indexed by the lender's lease index, which is checked
//! against this side's own bound.

use std::collections::VecDeque;

use crate::CREDITS_MAX;
use crate::message::{LeaseId, SlotList};

/// Where a lent request stands at B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The application runs it.
    Running,
    /// The reply is ready, the key asked for.
    Claimed,
    /// The key is here: records are sealed.
    Sealing,
}

/// The lender said something about a lease that does not fit it: the peer is broken, the pair has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lender's message does not fit the lease's stage")]
pub struct Violation;

/// One lent request.
pub struct Served<T> {
    /// The lease, as the lender names it.
    pub lease: LeaseId,
    /// Where it stands.
    pub stage: Stage,
    /// Slots to fill, in order.
    pub slots: VecDeque<u16>,
    /// Records written.
    pub records: u32,
    /// Bytes written.
    pub bytes: u64,
    /// The worker's own state.
    pub state: T,
}

/// The helper's table of one queue pair.
pub struct Helper<T> {
    entries: Box<[Option<Served<T>>]>,
    spare_queues: Vec<VecDeque<u16>>,
    open: usize,
}

impl<T> Helper<T> {
    /// A table for lease indices below `leases`.
    pub fn new(leases: usize) -> Helper<T> {
        let spare_queues = (0..leases).map(|_| VecDeque::with_capacity(CREDITS_MAX)).collect();
        Helper { entries: (0..leases).map(|_| None).collect(), spare_queues, open: 0 }
    }

    /// Requests under way.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether a grant of this lease can be taken; `false` is answered with a decline.
    ///
    /// # Errors
    /// As [`grant`](Helper::grant): to be known before anything is taken for the lease.
    pub fn has_room(&self, lease: LeaseId) -> Result<bool, Violation> {
        match self.entries.get(usize::from(lease.index)) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(Violation),
        }
    }

    /// Takes a granted lease.
    ///
    /// # Errors
    /// [`Violation`] if that index is still in use here: the lender lost count.
    pub fn grant(&mut self, lease: LeaseId, state: T) -> Result<(), Violation> {
        let entry = self.entries.get_mut(usize::from(lease.index)).ok_or(Violation)?;
        if entry.is_some() {
            return Err(Violation);
        }
        let slots = self.spare_queues.pop().unwrap_or_default();
        *entry = Some(Served { lease, stage: Stage::Running, slots, records: 0, bytes: 0, state });
        self.open += 1;
        Ok(())
    }

    /// The entry of a lease that is under way.
    pub fn served(&mut self, lease: LeaseId) -> Option<&mut Served<T>> {
        self.entries.get_mut(usize::from(lease.index))?.as_mut().filter(|served| served.lease == lease)
    }

    /// The key arrived, with the first slots. `None` if the lease ended here meanwhile: the key is to be wiped.
    ///
    /// # Errors
    /// [`Violation`] if a key was there already, or more slots come than a lease can hold.
    pub fn go(&mut self, lease: LeaseId, slots: &SlotList) -> Result<Option<&mut Served<T>>, Violation> {
        let Some(served) = self.served(lease) else { return Ok(None) };
        if served.stage == Stage::Sealing {
            return Err(Violation);
        }
        served.stage = Stage::Sealing;
        self.more_slots(lease, slots)?;
        Ok(self.served(lease))
    }

    /// Further slots for a lease; those of one that ended meanwhile are dropped.
    ///
    /// # Errors
    /// [`Violation`] if no key was sent yet, or more slots come than a lease can hold.
    pub fn more_slots(&mut self, lease: LeaseId, slots: &SlotList) -> Result<(), Violation> {
        let Some(served) = self.served(lease) else { return Ok(()) };
        if served.stage != Stage::Sealing || served.slots.len() + slots.len() > CREDITS_MAX {
            return Err(Violation);
        }
        served.slots.extend(slots);
        Ok(())
    }

    /// Ends a lease and hands out its entry's state.
    pub fn end(&mut self, lease: LeaseId) -> Option<T> {
        self.served(lease)?;
        let served = self.entries[usize::from(lease.index)].take()?;
        let mut slots = served.slots;
        slots.clear();
        self.spare_queues.push(slots);
        self.open -= 1;
        Some(served.state)
    }

    /// Every request under way.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Served<T>> {
        self.entries.iter_mut().flatten()
    }

    /// Every lease under way.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.entries.iter().flatten().map(|served| served.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: LeaseId = LeaseId { index: 1, generation: 9 };

    #[test]
    fn nothing_is_sealed_before_go_and_nothing_after_the_end() {
        let mut helper = Helper::new(2);
        helper.grant(LEASE, "job").unwrap();
        assert_eq!(helper.has_room(LEASE), Err(Violation));
        assert_eq!(helper.grant(LEASE, "again"), Err(Violation));
        let slots: SlotList = [4, 5].into_iter().collect();
        assert_eq!(helper.more_slots(LEASE, &slots), Err(Violation), "no slots without a key");
        helper.go(LEASE, &slots).unwrap().unwrap();
        assert!(helper.go(LEASE, &slots).is_err(), "one key a lease");
        assert_eq!(helper.served(LEASE).unwrap().slots, [4, 5]);
        assert_eq!(helper.end(LEASE), Some("job"));
        assert!(helper.go(LEASE, &slots).unwrap().is_none(), "a late key finds nothing");
        assert_eq!(helper.open(), 0);
    }

    #[test]
    fn an_index_beyond_our_bound_is_declined_and_never_indexed() {
        let mut helper = Helper::<()>::new(2);
        let far = LeaseId { index: 2, generation: 1 };
        assert_eq!(helper.has_room(far), Ok(false));
        assert_eq!(helper.grant(far, ()), Err(Violation));
        assert!(helper.served(far).is_none());
    }

    #[test]
    fn more_slots_than_a_lease_can_hold_are_a_violation() {
        let mut helper = Helper::new(2);
        helper.grant(LEASE, ()).unwrap();
        let many: SlotList = (0..CREDITS_MAX as u16).collect();
        helper.go(LEASE, &many).unwrap();
        assert_eq!(helper.more_slots(LEASE, &[1].into_iter().collect()), Err(Violation));
    }
}
