//! A table of fixed size that forgets: each key has two buckets it may be in, and where both are full the entry that
//! matters least gives way.
//!
//! In: keys, their hashes, entries that know how much they matter. Out: entries. All memory is taken at start; a look-up
//! reads the tags of one bucket, of a second one for one key in ten, and a single entry, whatever is in the table. With two
//! choices buckets fill evenly: nothing that matters is lost before five eighths of the table are in use, and the table is
//! made that much larger than it is asked to be. The second choice is taken only where the first bucket is well filled:
//! so it is not looked at for most keys, and evens out as if it were always there.

/// Entries of a bucket: their tags are the bytes of one word.
pub(crate) const WAYS: usize = 8;
/// Entries a bucket on average, up to which practically none overflows.
const FULL: usize = 5;
/// Entries of a bucket below which no other one is looked for. With six, keys are lost before five eighths are in use.
const AMPLE: usize = 5;
/// How much an entry matters that is over: it is overwritten as if it were not there.
pub(crate) const OVER: u64 = 0;

/// Tag of a way that holds nothing; others have their highest bit set.
const VACANT: u8 = 0;
/// A one in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; WAYS]);

/// An entry, aligned so that it lies in one cache line as long as it has no more than its 32 bytes.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Way<K, V>(Option<(K, V)>);

/// Where an entry was seen, until the table changes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place(u32);

/// The table. Tags are apart from entries: those of a million entries are two megabytes, which a core's own cache holds.
pub(crate) struct Ways<K, V> {
    tags: Box<[[u8; WAYS]]>,
    ways: Box<[Way<K, V>]>,
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
    ((marks | 1 << 63).trailing_zeros() / 8) as usize
}

impl<K: Copy + Eq, V: Copy> Ways<K, V> {
    /// A table that forgets none of `entries`. `taken` is told of its memory (start, bytes) before anything is there.
    pub(crate) fn new(entries: usize, taken: impl Fn(*const u8, usize)) -> Ways<K, V> {
        let buckets = entries.div_ceil(FULL).next_power_of_two().max(2);
        Ways {
            tags: filled([VACANT; WAYS], buckets, &taken),
            ways: filled(Way(None), buckets * WAYS, &taken),
            used: 0,
        }
    }

    /// Entries, those that are over included.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Buckets, for who sweeps them.
    pub(crate) fn buckets(&self) -> usize {
        self.tags.len()
    }

    /// Entries of which none is forgotten.
    pub(crate) fn capacity(&self) -> usize {
        self.tags.len() * FULL
    }

    /// Entries there are places for, of which some push others out.
    pub(crate) fn places(&self) -> usize {
        self.tags.len() * WAYS
    }

    /// The bucket of a hash that is looked at first.
    fn near(&self, hash: u64) -> usize {
        hash as usize & (self.tags.len() - 1)
    }

    /// The other one.
    fn far(&self, hash: u64) -> usize {
        let (near, far) = (self.near(hash), (hash >> 32) as usize & (self.tags.len() - 1));
        if far == near { near ^ 1 } else { far }
    }

    fn choices(&self, hash: u64) -> [usize; 2] {
        [self.near(hash), self.far(hash)]
    }

    /// Ways of a bucket whose tag is the hash's.
    fn marks(&self, bucket: usize, hash: u64) -> u64 {
        matches(u64::from_le_bytes(self.tags[bucket]), tag(hash))
    }

    /// Where the tags of a hash are: memory [`spot`](Ways::spot) reads.
    #[inline]
    pub(crate) fn tags(&self, hash: u64) -> *const u8 {
        self.tags[self.near(hash)].as_ptr()
    }

    /// Where the entry of a hash seems to be, by its tags, and that memory. It may be another's, which [`at`](Ways::at)
    /// finds out.
    #[inline]
    pub(crate) fn spot(&self, hash: u64) -> (Place, *const u8) {
        let mut bucket = self.near(hash);
        let mut marks = self.marks(bucket, hash);
        if marks == 0 {
            bucket = self.far(hash);
            marks = self.marks(bucket, hash);
        }
        let at = bucket * WAYS + first(marks);
        (Place(at as u32), std::ptr::from_ref(&self.ways[at]).cast())
    }

    /// The entry of a key at a place, if it is still there.
    #[inline]
    pub(crate) fn at(&mut self, place: Place, key: &K) -> Option<&mut V> {
        match &mut self.ways[place.0 as usize].0 {
            Some((it, value)) if it == key => Some(value),
            _ => None,
        }
    }

    fn is_at(&self, at: usize, key: &K) -> bool {
        matches!(&self.ways[at].0, Some((it, _)) if it == key)
    }

    /// Where the entry of a key is.
    fn locate(&self, hash: u64, key: &K) -> Option<usize> {
        self.choices(hash).into_iter().find_map(|bucket| {
            let mut marks = self.marks(bucket, hash);
            while marks != 0 {
                let at = bucket * WAYS + first(marks);
                if self.is_at(at, key) {
                    return Some(at);
                }
                marks &= marks - 1;
            }
            None
        })
    }

    /// The entry of a key, to read.
    pub(crate) fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let at = self.locate(hash, key)?;
        self.ways[at].0.as_ref().map(|(_, value)| value)
    }

    /// The entry of a key.
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let at = self.locate(hash, key)?;
        self.ways[at].0.as_mut().map(|(_, value)| value)
    }

    /// Puts an entry in place of the one of its key, of one that is over, or of the one that matters least; answers the
    /// one that had to go although it mattered.
    pub(crate) fn put(&mut self, hash: u64, key: K, value: V, matters: impl Fn(&V) -> u64) -> Option<(K, V)> {
        if let Some(there) = self.find(hash, &key) {
            *there = value;
            return None;
        }
        let [near, far] = self.choices(hash);
        let used = |bucket: usize| self.tags[bucket].iter().filter(|tag| **tag != VACANT).count();
        let is_far = used(near) >= AMPLE && used(far) < used(near);
        let order = if is_far { [far, near] } else { [near, far] };
        let ways = order.iter().flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS);
        let weigh = |at: &usize| self.ways[*at].0.as_ref().map_or(OVER, |(_, value)| matters(value));
        let at = ways.min_by_key(weigh)?;
        self.tags[at / WAYS][at % WAYS] = tag(hash);
        let before = self.ways[at].0.replace((key, value));
        self.used += usize::from(before.is_none());
        before.filter(|(_, value)| matters(value) != OVER)
    }

    /// Removes the entry of a key.
    pub(crate) fn remove(&mut self, hash: u64, key: &K) {
        if let Some(at) = self.locate(hash, key) {
            self.clear(at);
        }
    }

    fn clear(&mut self, at: usize) {
        self.tags[at / WAYS][at % WAYS] = VACANT;
        self.ways[at].0 = None;
        self.used -= 1;
    }

    /// Shows the entries of so many buckets from `from` on, and drops those that `keep` does not want; answers where to
    /// go on, `None` after the last.
    pub(crate) fn sweep(
        &mut self,
        from: usize,
        buckets: usize,
        mut keep: impl FnMut(&K, &mut V) -> bool,
    ) -> Option<usize> {
        let all = self.tags.len();
        let end = (from + buckets).min(all);
        for at in from * WAYS..end * WAYS {
            if let Some((key, value)) = &mut self.ways[at].0
                && !keep(key, value)
            {
                self.clear(at);
            }
        }
        (end < all).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Spreads small numbers over all bits (splitmix64).
    fn hash(key: u32) -> u64 {
        let mut bits = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^ (bits >> 27)
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
                    let gone = table.put(hash(key), key, value, |value| *value);
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
            .filter(|key| table.put(hash(*key), *key, 1, |value| *value).is_some())
            .count();
        assert_eq!(lost, 0);
    }

    #[test]
    fn the_least_goes_first() {
        let mut table = Ways::new(1, |_, _| ());
        assert_eq!(table.capacity(), 10);
        for key in 0..16 {
            table.put(hash(key), key, u64::from(key) + 5, |value| *value);
        }
        assert_eq!(table.put(hash(16), 16, 99, |value| *value), Some((0, 5)));
        assert_eq!(table.put(hash(17), 17, 99, |value| if *value == 7 { OVER } else { *value }), None);
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
        assert_eq!((seen, table.used()), (16, 14));
    }
}
