//! Timer wheel: one timer a key, in memory made at start.
//!
//! In: deadlines by key (`set`, `cancel`) and the time (`expire`). Out: the keys that are due, and a lower bound
//! of the next deadline. Owned by whoever owns the keys: a worker's TCP, links or leases.
//!
//! The wheel is hierarchical (Varghese and Lauck, scheme 7): level `l` has 64 slots of 64^l ticks. A timer sits
//! at the level of the highest digit (base 64) in which its tick differs from the present one, so it moves down
//! at most once a level, setting and cancelling cost a few writes, and no slot is ever searched.

use std::time::Duration;

use crate::Time;

/// Bits of a tick number one level decides.
const DIGIT_BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << DIGIT_BITS;
/// Enough levels for every 64-bit tick number, so that no deadline is too far.
const LEVELS: usize = (u64::BITS as usize).div_ceil(DIGIT_BITS as usize);
/// The list of timers whose tick had come when they were set.
const DUE: u16 = (LEVELS * SLOTS) as u16;
/// Not in any list.
const IDLE: u16 = u16::MAX;
/// End of a list.
const NIL: u32 = u32::MAX;

/// One key's place in the lists.
#[derive(Clone, Copy)]
struct Entry {
    tick: u64,
    next: u32,
    prev: u32,
    list: u16,
}

/// A wheel for keys `0..keys`. No call allocates after [`Wheel::new`].
pub struct Wheel {
    entries: Box<[Entry]>,
    /// Heads of the slots' lists, level by level, and of the list [`DUE`].
    heads: Box<[u32]>,
    /// Which slots of a level hold timers.
    occupied: [u64; LEVELS],
    tick_ns: u64,
    /// The tick up to which timers have been expired.
    now: u64,
}

impl Wheel {
    /// A wheel for keys `0..keys` that expires timers in steps of `tick`: up to one tick late, never early.
    ///
    /// # Panics
    /// If `tick` is zero.
    pub fn new(keys: u32, tick: Duration) -> Wheel {
        Wheel::hinted(keys, tick, |_, _| ())
    }

    /// The same; `hint` is told of the memory of all keys, before it is written to, and how many bytes it has.
    ///
    /// # Panics
    /// If `tick` is zero.
    pub fn hinted(keys: u32, tick: Duration, hint: fn(*const u8, usize)) -> Wheel {
        let tick_ns = u64::try_from(tick.as_nanos()).expect("a tick of centuries");
        assert!(tick_ns > 0, "a tick must last");
        let mut entries = Vec::<Entry>::with_capacity(keys as usize);
        hint(entries.as_ptr().cast(), entries.capacity() * size_of::<Entry>());
        entries.resize(keys as usize, Entry { tick: 0, next: NIL, prev: NIL, list: IDLE });
        Wheel {
            entries: entries.into_boxed_slice(),
            heads: vec![NIL; usize::from(DUE) + 1].into(),
            occupied: [0; LEVELS],
            tick_ns,
            now: 0,
        }
    }

    /// Sets `key`'s timer, replacing the one it had. [`Time::NEVER`] cancels.
    ///
    /// # Panics
    /// If `key` is not of this wheel.
    pub fn set(&mut self, key: u32, at: Time) {
        self.cancel(key);
        if at != Time::NEVER {
            self.entries[key as usize].tick = at.0.div_ceil(self.tick_ns);
            self.insert(key);
        }
    }

    /// Cancels `key`'s timer if it has one.
    ///
    /// # Panics
    /// If `key` is not of this wheel.
    pub fn cancel(&mut self, key: u32) {
        let Entry { next, prev, list, .. } = self.entries[key as usize];
        if list == IDLE {
            return;
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
        } else {
            self.heads[usize::from(list)] = next;
            if next == NIL && list != DUE {
                self.occupied[usize::from(list) / SLOTS] &= !(1 << (usize::from(list) % SLOTS));
            }
        }
        self.entries[key as usize].list = IDLE;
    }

    /// Whether `key` has a timer.
    ///
    /// # Panics
    /// If `key` is not of this wheel.
    pub fn is_set(&self, key: u32) -> bool {
        self.entries[key as usize].list != IDLE
    }

    /// Tells where `key`'s timer is.
    pub fn ahead(&self, key: u32, ahead: impl Fn(*const u8)) {
        if let Some(entry) = self.entries.get(key as usize) {
            ahead(std::ptr::from_ref(entry).cast());
        }
    }

    /// Calls `due` with each key whose deadline, rounded up to a tick, has come; those timers are gone.
    pub fn expire(&mut self, now: Time, mut due: impl FnMut(u32)) {
        let target = now.0 / self.tick_ns;
        self.drain(DUE, |_, key| due(key));
        while let Some((level, slot, start)) = self.earliest()
            && start <= target
        {
            self.now = start;
            let list = (level * SLOTS + slot) as u16;
            self.drain(list, |wheel, key| {
                if wheel.entries[key as usize].tick <= start {
                    due(key);
                } else {
                    wheel.insert(key);
                }
            });
        }
        self.now = self.now.max(target);
    }

    /// A time before which nothing expires, or `None` without timers. Cheap; exact to a tick when the next
    /// deadline is less than 64 ticks away, else early by up to the span of the slot it is in.
    pub fn next(&self) -> Option<Time> {
        if self.heads[usize::from(DUE)] != NIL {
            return Some(Time(self.now.saturating_mul(self.tick_ns)));
        }
        self.earliest().map(|(_, _, start)| Time(start.saturating_mul(self.tick_ns)))
    }

    /// The first occupied slot: level, slot, and the tick it starts at. Each level lies wholly before the next,
    /// because its timers agree with `now` in every higher digit.
    fn earliest(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|slots| *slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = level as u32 * DIGIT_BITS;
        let higher = self.now.checked_shr(shift + DIGIT_BITS).unwrap_or(0);
        let start = higher.checked_shl(shift + DIGIT_BITS).unwrap_or(0) | (u64::from(slot) << shift);
        Some((level, slot as usize, start))
    }

    /// Links an idle entry into the list its tick belongs to.
    fn insert(&mut self, key: u32) {
        let tick = self.entries[key as usize].tick;
        let list = if tick <= self.now {
            DUE
        } else {
            let level = (u64::BITS - 1 - (tick ^ self.now).leading_zeros()) / DIGIT_BITS;
            let slot = (tick >> (level * DIGIT_BITS)) as usize % SLOTS;
            self.occupied[level as usize] |= 1 << slot;
            (level as usize * SLOTS + slot) as u16
        };
        let head = std::mem::replace(&mut self.heads[usize::from(list)], key);
        if head != NIL {
            self.entries[head as usize].prev = key;
        }
        let entry = &mut self.entries[key as usize];
        (entry.next, entry.prev, entry.list) = (head, NIL, list);
    }

    /// Takes every timer out of a list, then hands each on.
    fn drain(&mut self, list: u16, mut each: impl FnMut(&mut Wheel, u32)) {
        let mut key = std::mem::replace(&mut self.heads[usize::from(list)], NIL);
        if list != DUE {
            self.occupied[usize::from(list) / SLOTS] &= !(1 << (usize::from(list) % SLOTS));
        }
        while key != NIL {
            let entry = &mut self.entries[key as usize];
            entry.list = IDLE;
            let next = entry.next;
            each(self, key);
            key = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const KEYS: u32 = 24;
    const TICK_NS: u64 = 1_000;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    /// Spans from less than a tick to many levels.
    fn span() -> impl Strategy<Value = u64> {
        (0u32..44, any::<u64>()).prop_map(|(bits, noise)| noise & ((1 << bits) - 1))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..KEYS, span()).prop_map(|(key, after)| Step::Set(key, after)),
            1 => (0..KEYS).prop_map(Step::Cancel),
            3 => span().prop_map(Step::Advance),
        ]
    }

    fn rounded_up(at: u64) -> u64 {
        at.div_ceil(TICK_NS) * TICK_NS
    }

    proptest! {
        #[test]
        fn expires_what_a_sorted_map_would(start in span(), steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = Wheel::new(KEYS, Duration::from_nanos(TICK_NS));
            let mut model = BTreeMap::new();
            let mut now = start;
            wheel.expire(Time(now), |_| unreachable!());
            for step in steps {
                match step {
                    Step::Set(key, after) => {
                        // A deadline before `now` is allowed: it is due at once.
                        let at = (now + after).saturating_sub(500);
                        wheel.set(key, Time(at));
                        model.insert(key, at);
                    }
                    Step::Cancel(key) => {
                        wheel.cancel(key);
                        model.remove(&key);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut fired = Vec::new();
                        wheel.expire(Time(now), |key| fired.push(key));
                        fired.sort_unstable();
                        // What was due at its setting fires at the next call, the clock standing still or not.
                        let due: Vec<u32> = model
                            .iter()
                            .filter(|(_, at)| rounded_up(**at) <= now)
                            .map(|(key, _)| *key)
                            .collect();
                        prop_assert_eq!(&fired, &due);
                        model.retain(|key, _| !due.contains(key));
                    }
                }
                for key in 0..KEYS {
                    prop_assert_eq!(wheel.is_set(key), model.contains_key(&key));
                }
                let first = model.values().copied().map(rounded_up).min();
                match (wheel.next(), first) {
                    (None, None) => {}
                    (Some(bound), Some(first)) => prop_assert!(bound.0 <= first.max(now)),
                    (bound, first) => prop_assert!(false, "bound {bound:?}, first {first:?}"),
                }
            }
        }

        #[test]
        fn following_the_bound_reaches_each_deadline_in_few_steps(after in 1u64..1 << 44) {
            let mut wheel = Wheel::new(1, Duration::from_nanos(TICK_NS));
            wheel.set(0, Time(after));
            let mut steps = 0;
            let mut fired_at = None;
            while let Some(at) = wheel.next() {
                wheel.expire(at, |_| fired_at = Some(at.0));
                steps += 1;
                prop_assert!(steps <= LEVELS);
            }
            prop_assert_eq!(fired_at, Some(rounded_up(after)));
        }
    }

    #[test]
    fn never_is_no_deadline_and_the_last_tick_is_one() {
        let mut wheel = Wheel::new(2, Duration::from_nanos(1));
        wheel.set(0, Time::NEVER);
        assert_eq!(wheel.next(), None);
        wheel.set(1, Time(u64::MAX - 1));
        wheel.expire(Time(u64::MAX - 2), |_| unreachable!());
        let mut fired = Vec::new();
        wheel.expire(Time(u64::MAX - 1), |key| fired.push(key));
        assert_eq!(fired, [1]);
    }
}
