//! Packets that wait for what other distributors say, oldest first, none for long.
//!
//! In: what a packet waits for, and what has happened since. Out: the places of packets that may go. The packets themselves
//! are with the caller, each at its place. Pure; fixed size.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use keyferry_time::Time;

/// Packets held at once.
pub const HOLDS_MAX: usize = 1024;
/// Of them, SYNs. A new connection beyond them goes where it needs nobody's word.
pub(crate) const SYNS: Range<u16> = 0..HOLDS_MAX as u16 / 2;
/// And segments of connections that are not known. One beyond them goes to its place at once.
pub(crate) const STRAYS: Range<u16> = HOLDS_MAX as u16 / 2..HOLDS_MAX as u16;
/// Longest wait. An answer takes some 10 us, more where cores are shared; a SYN that is sent again comes after a second
/// (RFC 6298 2). A SYN that has waited in vain goes elsewhere than others may have heard: better late than there.
pub(crate) const HOLD_TIME: Duration = Duration::from_millis(100);

/// The place of a held packet, below [`HOLDS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HoldId(u16);

impl HoldId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Packets held, each for a reason of type `W`.
pub(crate) struct Holds<W> {
    free: Vec<HoldId>,
    held: VecDeque<(HoldId, Time, W)>,
}

impl<W> Holds<W> {
    /// Room for as many as there are places.
    pub(crate) fn new(places: Range<u16>) -> Holds<W> {
        let held = VecDeque::with_capacity(places.len());
        Holds { free: places.rev().map(HoldId).collect(), held }
    }

    /// Whether there is no room.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// A place for a packet; `None`: too many are held.
    pub(crate) fn add(&mut self, now: Time, waits: W) -> Option<HoldId> {
        let id = self.free.pop()?;
        self.held.push_back((id, now, waits));
        Some(id)
    }

    /// What is waited for.
    pub(crate) fn waits(&mut self) -> impl Iterator<Item = &mut W> {
        self.held.iter_mut().map(|(.., waits)| waits)
    }

    /// A place is empty again.
    pub(crate) fn free(&mut self, id: HoldId) {
        self.free.push(id);
    }

    /// Takes out those that need not wait any more; `go` gets each with its place, which is its own until it is
    /// [`free`](Holds::free)d: the packet is still there.
    pub(crate) fn release(&mut self, mut is_over: impl FnMut(&W) -> bool, mut go: impl FnMut(HoldId, W)) {
        for _ in 0..self.held.len() {
            let Some((id, since, waits)) = self.held.pop_front() else { return };
            if is_over(&waits) {
                go(id, waits);
            } else {
                self.held.push_back((id, since, waits));
            }
        }
    }

    /// Takes out the oldest if it has waited for long enough, as [`release`](Holds::release) does.
    pub(crate) fn expire(&mut self, now: Time) -> Option<(HoldId, W)> {
        let is_late = self.held.front().is_some_and(|(_, since, _)| now - *since >= HOLD_TIME);
        let (id, _, waits) = is_late.then(|| self.held.pop_front())??;
        Some((id, waits))
    }

    /// When the oldest has waited for long enough.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.held.front().map(|(_, since, _)| *since + HOLD_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_the_oldest_goes_first() {
        let mut holds = Holds::new(0..HOLDS_MAX as u16);
        let places: Vec<_> = (0..HOLDS_MAX as u64).map(|n| holds.add(Time(n), n).unwrap().index()).collect();
        let mut sorted = places.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..HOLDS_MAX).collect::<Vec<_>>());
        assert_eq!(holds.add(Time(1), 1), None);
        let mut gone = Vec::new();
        holds.release(|n| n % 2 == 0, |place, n| gone.push((place.index(), n)));
        let gone_places: Vec<_> = gone.iter().map(|(place, _)| *place).collect();
        assert!(gone.iter().all(|(place, n)| places[*n as usize] == *place) && gone.len() == HOLDS_MAX / 2);
        assert_eq!(holds.expire(Time(0) + HOLD_TIME), None);
        assert_eq!(holds.expire(Time(1) + HOLD_TIME).map(|(_, n)| n), Some(1));
        assert_eq!((holds.poll_at(), holds.len()), (Some(Time(3) + HOLD_TIME), HOLDS_MAX / 2 - 1));
        assert_eq!(holds.add(Time(9), 9), None, "the packets have not been taken");
        for (place, _) in gone {
            holds.free(HoldId(place as u16));
        }
        assert!(holds.add(Time(9), 9).is_some_and(|id| gone_places.contains(&id.index())));
    }
}
