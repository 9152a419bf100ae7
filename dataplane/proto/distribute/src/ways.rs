//! A table of fixed size that forgets: each key has two buckets it may be in, and where both are full the entry that
//! matters least gives way.
//!
//! In: keys, their hashes, entries that know how much they matter. Out: entries. All memory is taken at start; a look-up
//! reads the tags of one bucket, of a second one for few keys (4 % where four sevenths of the table are in use), and a single
//! entry. The second choice is taken only where the first bucket is nearly full; where both are full, an entry of theirs that
//! has room in its other bucket goes there. So nothing that matters is lost before five sevenths of the table are in use, and
//! the table is made that much larger than it is asked to be.
//!
//! A bucket's tags lie beside its entries: both are on one page, so that a look-up waits for one translation of an address and
//! not for two. A table of a million entries has sixteen thousand pages, or so many parts of larger ones where the memory below
//! a virtual machine is in small ones, and a core remembers two thousand.

/// Entries of a bucket: with their tags they are four cache lines.
pub(crate) const WAYS: usize = 7;
/// Entries a bucket on average, up to which practically none overflows.
const FULL: usize = 5;
/// Entries of a bucket below which no other one is looked for. With more of them fewer keys have their second choice, and more
/// find both full: of a million 40,000 and 60, with five of them 81,000 and 1, with seven 18,000 and 1,600.
const AMPLE: usize = 6;
/// How much an entry matters that is over: it is overwritten as if it were not there.
pub(crate) const OVER: u64 = 0;

/// Tag of a way that holds nothing; others have their highest bit set.
const VACANT: u8 = 0;
/// Tags of a bucket, as one word; the last byte is no entry's, and vacant.
type Tags = [u8; 8];
/// A one in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; size_of::<Tags>()]);

/// An entry, aligned so that it lies in one cache line as long as it has no more than its 32 bytes.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Way<K, V>(Option<(K, V)>);

/// Tags and entries, aligned so that they are on one page if an entry has no more than its 32 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(256))]
struct Bucket<K, V> {
    tags: Tags,
    ways: [Way<K, V>; WAYS],
}

/// Where an entry was seen, until the table changes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    bucket: u32,
    way: u32,
}

/// The table.
pub(crate) struct Ways<K, V> {
    buckets: Box<[Bucket<K, V>]>,
    used: usize,
}

/// So many of them, in memory that `taken` is told of first.
fn filled<T: Clone>(it: T, count: usize, taken: impl Fn(*const u8, usize)) -> Box<[T]> {
    let mut all = Vec::<T>::with_capacity(count);
    taken(all.as_ptr().cast(), count * size_of::<T>());
    all.resize(count, it);
    all.into()
}

/// What is kept of a hash beside its entry, from bits that choose no bucket.
fn tag(hash: u64) -> u8 {
    (hash >> 56) as u8 | 0x80
}

/// The bytes of `tags` that equal `tag`, as their highest bits. A byte above one that does may be marked without cause.
fn matches(tags: u64, tag: u8) -> u64 {
    let differ = tags ^ (u64::from(tag) * ONES);
    differ.wrapping_sub(ONES) & !differ & (ONES << 7)
}

/// Which way the lowest mark is of.
fn first(marks: u64) -> usize {
    // None marked is the last way, so that it is one in any case.
    ((marks | 1 << (WAYS * 8 - 1)).trailing_zeros() / 8) as usize
}

impl<K: Copy + Eq, V: Copy> Ways<K, V> {
    /// A table that forgets none of `entries`. `taken` is told of its memory (start, bytes) before anything is there.
    pub(crate) fn new(entries: usize, taken: impl Fn(*const u8, usize)) -> Ways<K, V> {
        let buckets = entries.div_ceil(FULL).next_power_of_two().max(2);
        let empty = Bucket { tags: [VACANT; size_of::<Tags>()], ways: [Way(None); WAYS] };
        Ways { buckets: filled(empty, buckets, &taken), used: 0 }
    }

    /// Entries, those that are over included.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Buckets, for who sweeps them.
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Entries of which none is forgotten.
    pub(crate) fn capacity(&self) -> usize {
        self.buckets.len() * FULL
    }

    /// Entries there are places for, of which some push others out.
    pub(crate) fn places(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// The bucket of a hash that is looked at first.
    fn near(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// The other one.
    fn far(&self, hash: u64) -> usize {
        let (near, far) = (self.near(hash), (hash >> 32) as usize & (self.buckets.len() - 1));
        if far == near { near ^ 1 } else { far }
    }

    fn choices(&self, hash: u64) -> [usize; 2] {
        [self.near(hash), self.far(hash)]
    }

    /// Where the tags of a hash are: memory [`spot`](Ways::spot) reads.
    #[inline]
    pub(crate) fn tags(&self, hash: u64) -> *const u8 {
        self.buckets[self.near(hash)].tags.as_ptr()
    }

    /// Where the entry of a hash seems to be, by its tags. It may be another's, which [`at`](Ways::at) finds out.
    #[inline]
    pub(crate) fn spot(&self, hash: u64) -> Place {
        let mut bucket = self.near(hash);
        let mut marks = self.buckets[bucket].marks(hash);
        if marks == 0 {
            bucket = self.far(hash);
            marks = self.buckets[bucket].marks(hash);
        }
        Place { bucket: bucket as u32, way: first(marks) as u32 }
    }

    /// The entry at a place: memory [`at`](Ways::at) reads.
    #[inline]
    pub(crate) fn entry(&self, place: Place) -> *const u8 {
        std::ptr::from_ref(&self.buckets[place.bucket as usize].ways[place.way as usize]).cast()
    }

    /// The entry of a key at a place, if it is still there.
    #[inline]
    pub(crate) fn at(&mut self, place: Place, key: &K) -> Option<&mut V> {
        match &mut self.buckets[place.bucket as usize].ways[place.way as usize].0 {
            Some((it, value)) if it == key => Some(value),
            _ => None,
        }
    }

    /// Where the entry of a key is: bucket and way.
    fn locate(&self, hash: u64, key: &K) -> Option<(usize, usize)> {
        self.choices(hash).into_iter().find_map(|at| Some((at, self.buckets[at].locate(hash, key)?)))
    }

    /// The entry of a key, to read.
    pub(crate) fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let (bucket, way) = self.locate(hash, key)?;
        self.buckets[bucket].ways[way].0.as_ref().map(|(_, value)| value)
    }

    /// The entry of a key.
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let (bucket, way) = self.locate(hash, key)?;
        self.buckets[bucket].ways[way].0.as_mut().map(|(_, value)| value)
    }

    /// Puts an entry in place of the one of its key, of one that is over, or of the one that matters least; answers the
    /// one that had to go although it mattered. `rehash` says the hash of a key again. While the table
    /// `is_swept` by somebody who has to meet all entries, none moves: a sweep begins anywhere and goes round.
    pub(crate) fn put(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        matters: impl Fn(&V) -> u64,
        rehash: impl Fn(&K) -> u64,
        is_swept: bool,
    ) -> Option<(K, V)> {
        if let Some(there) = self.find(hash, &key) {
            *there = value;
            return None;
        }
        let [near, far] = self.choices(hash);
        let used = |bucket: usize| self.buckets[bucket].tags.iter().filter(|tag| **tag != VACANT).count();
        let is_far = used(near) >= AMPLE && used(far) < used(near);
        let choices = if is_far { [far, near] } else { [near, far] };
        let ways = choices.into_iter().flat_map(|bucket| (0..WAYS).map(move |way| (bucket, way)));
        let weigh = |&(bucket, way): &(usize, usize)| {
            self.buckets[bucket].ways[way].0.as_ref().map_or(OVER, |(_, value)| matters(value))
        };
        let least = ways.min_by_key(weigh)?;
        let may_move = !is_swept && weigh(&least) != OVER && self.used < self.capacity();
        let moved = if may_move { self.make_room(choices, rehash) } else { None };
        let (bucket, way) = moved.unwrap_or(least);
        let bucket = &mut self.buckets[bucket];
        bucket.tags[way] = tag(hash);
        let before = bucket.ways[way].0.replace((key, value));
        self.used += usize::from(before.is_none());
        before.filter(|(_, value)| matters(value) != OVER)
    }

    /// Has an entry of these buckets go to its other one, and answers where it was.
    fn make_room(&mut self, choices: [usize; 2], rehash: impl Fn(&K) -> u64) -> Option<(usize, usize)> {
        for from in choices {
            for way in 0..WAYS {
                let entry = self.buckets[from].ways[way].0?;
                let hash = rehash(&entry.0);
                let [near, far] = self.choices(hash);
                let to = if near == from { far } else { near };
                let other = &mut self.buckets[to];
                if let Some(room) = other.tags[..WAYS].iter().position(|tag| *tag == VACANT) {
                    (other.tags[room], other.ways[room].0) = (tag(hash), Some(entry));
                    self.buckets[from].clear(way);
                    return Some((from, way));
                }
            }
        }
        None
    }

    /// Removes the entry of a key.
    pub(crate) fn remove(&mut self, hash: u64, key: &K) {
        if let Some((bucket, way)) = self.locate(hash, key) {
            self.buckets[bucket].clear(way);
            self.used -= 1;
        }
    }

    /// Shows the entries of so many buckets from `from` on, and drops those that `keep` does not want; answers where to
    /// go on, `None` after the last.
    pub(crate) fn sweep(
        &mut self,
        from: usize,
        buckets: usize,
        mut keep: impl FnMut(&K, &mut V) -> bool,
    ) -> Option<usize> {
        let all = self.buckets.len();
        let end = (from + buckets).min(all);
        for bucket in &mut self.buckets[from.min(end)..end] {
            for way in 0..WAYS {
                if let Some((key, value)) = &mut bucket.ways[way].0
                    && !keep(key, value)
                {
                    bucket.clear(way);
                    self.used -= 1;
                }
            }
        }
        (end < all).then_some(end)
    }
}

impl<K: Copy + Eq, V: Copy> Bucket<K, V> {
    /// Ways whose tag is the hash's.
    fn marks(&self, hash: u64) -> u64 {
        matches(u64::from_le_bytes(self.tags), tag(hash))
    }

    fn locate(&self, hash: u64, key: &K) -> Option<usize> {
        let mut marks = self.marks(hash);
        while marks != 0 {
            let way = first(marks);
            if matches!(&self.ways[way].0, Some((it, _)) if it == key) {
                return Some(way);
            }
            marks &= marks - 1;
        }
        None
    }

    fn clear(&mut self, way: usize) {
        self.tags[way] = VACANT;
        self.ways[way].0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    /// Spreads small numbers over all bits (splitmix64).
    fn hash(key: u32) -> u64 {
        let mut bits = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^ (bits >> 27)
    }

    fn rehash(key: &u32) -> u64 {
        hash(*key)
    }

    proptest! {
        /// As a map would, but for what it said it forgot.
        #[test]
        fn it_is_a_map_that_says_what_it_forgets(
            steps in prop::collection::vec((0u32..64, 1u64..9, any::<bool>()), 0..400),
        ) {
            let mut table = Ways::new(16, |_, _| ());
            let mut model = HashMap::new();
            for (key, value, put) in steps {
                if put {
                    let gone = table.put(hash(key), key, value, |value| *value, rehash, false);
                    model.insert(key, value);
                    if let Some((gone, _)) = gone {
                        prop_assert!(model.remove(&gone).is_some());
                    }
                } else {
                    table.remove(hash(key), &key);
                    model.remove(&key);
                }
                prop_assert_eq!(table.used(), model.len());
                for key in 0..64 {
                    prop_assert_eq!(table.find(hash(key), &key).map(|value| *value), model.get(&key).copied());
                }
            }
        }
    }

    #[test]
    fn nothing_is_lost_up_to_its_capacity() {
        let mut table = Ways::new(5 << 18, |_, _| ());
        assert_eq!(table.capacity(), 5 << 18);
        let lost = (0..table.capacity() as u32)
            .filter(|key| table.put(hash(*key), *key, 1, |value| *value, rehash, false).is_some())
            .count();
        assert_eq!(lost, 0);
    }

    #[test]
    fn a_sweep_meets_all_that_were_there() {
        let mut table = Ways::new(5 << 10, |_, _| ());
        let before = table.capacity() as u32 * 9 / 10;
        for key in 0..before {
            table.put(hash(key), key, 1, |value| *value, rehash, false);
        }
        let (mut seen, mut at, mut new) = (HashSet::new(), Some(0), before..);
        while let Some(from) = at {
            at = table.sweep(from, 16, |key, _| {
                seen.insert(*key);
                true
            });
            for key in new.by_ref().take(8) {
                table.put(hash(key), key, 2, |value| *value, rehash, true);
            }
        }
        let missed = (0..before).filter(|key| table.get(hash(*key), key).is_some() && !seen.contains(key));
        assert_eq!(missed.count(), 0);
    }

    #[test]
    fn the_least_goes_first() {
        let mut table = Ways::new(1, |_, _| ());
        assert_eq!(table.capacity(), 10);
        for key in 0..14 {
            table.put(hash(key), key, u64::from(key) + 5, |value| *value, rehash, false);
        }
        assert_eq!(table.put(hash(16), 16, 99, |value| *value, rehash, false), Some((0, 5)));
        assert_eq!(
            table.put(hash(17), 17, 99, |value| if *value == 7 { OVER } else { *value }, rehash, false),
            None
        );
        assert!(table.find(hash(2), &2).is_none(), "it was over");
        let mut seen = 0;
        assert_eq!(
            table.sweep(0, 1, |_, value| {
                seen += 1;
                *value != 99
            }),
            Some(1)
        );
        assert_eq!(
            table.sweep(1, 9, |_, value| {
                seen += 1;
                *value != 99
            }),
            None
        );
        assert_eq!((seen, table.used()), (14, 12));
    }
}
