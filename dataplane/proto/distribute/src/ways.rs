//! A table of fixed size that forgets: each key has two buckets it may be in, and where both are full the entry that
//! matters least gives way.
//!
//! In: keys, their hashes, entries that know how much they matter. Out: entries. All memory is taken at start; a look-up
//! reads two buckets, whatever is in the table. With two choices buckets fill evenly: nothing that matters is lost
//! before five eighths of the table are in use, and the table is made that much larger than it is asked to be.

/// Entries of a bucket.
pub(crate) const WAYS: usize = 8;
/// Entries a bucket on average, up to which practically none overflows.
const FULL: usize = 5;
/// How much an entry matters that is over: it is overwritten as if it were not there.
pub(crate) const OVER: u64 = 0;

struct Bucket<K, V>([Option<(K, V)>; WAYS]);

/// The table.
pub(crate) struct Ways<K, V> {
    buckets: Box<[Bucket<K, V>]>,
    used: usize,
}

impl<K: Copy + Eq, V: Copy> Ways<K, V> {
    /// A table that forgets none of `entries`.
    pub(crate) fn new(entries: usize) -> Ways<K, V> {
        let buckets = entries.div_ceil(FULL).next_power_of_two().max(2);
        Ways { buckets: (0..buckets).map(|_| Bucket([None; WAYS])).collect(), used: 0 }
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

    /// The buckets of a hash, different ones.
    fn choices(&self, hash: u64) -> [usize; 2] {
        let mask = self.buckets.len() - 1;
        let first = hash as usize & mask;
        let second = (hash >> 32) as usize & mask;
        [first, if second == first { first ^ 1 } else { second }]
    }

    /// The entry of a key.
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let choices = self.choices(hash);
        let is_there =
            |bucket: &Bucket<K, V>| bucket.0.iter().position(|way| matches!(way, Some((it, _)) if it == key));
        let (bucket, way) = choices.iter().find_map(|at| Some((*at, is_there(&self.buckets[*at])?)))?;
        self.buckets[bucket].0[way].as_mut().map(|(_, value)| value)
    }

    /// Puts an entry in place of the one of its key, of one that is over, or of the one that matters least; answers the
    /// one that had to go although it mattered.
    pub(crate) fn put(&mut self, hash: u64, key: K, value: V, matters: impl Fn(&V) -> u64) -> Option<(K, V)> {
        if let Some(there) = self.find(hash, &key) {
            *there = value;
            return None;
        }
        let choices = self.choices(hash);
        let vacant = |bucket: &Bucket<K, V>| bucket.0.iter().filter(|way| way.is_none()).count();
        // The emptier one first, so that both fill.
        let order = if vacant(&self.buckets[choices[1]]) > vacant(&self.buckets[choices[0]]) {
            [choices[1], choices[0]]
        } else {
            choices
        };
        let ways = order.iter().flat_map(|bucket| (0..WAYS).map(move |way| (*bucket, way)));
        let weigh = |(bucket, way): &(usize, usize)| match &self.buckets[*bucket].0[*way] {
            None => OVER,
            Some((_, value)) => matters(value),
        };
        let (bucket, way) = ways.min_by_key(weigh)?;
        let before = self.buckets[bucket].0[way].replace((key, value));
        self.used += usize::from(before.is_none());
        before.filter(|(_, value)| matters(value) != OVER)
    }

    /// Removes the entry of a key.
    pub(crate) fn remove(&mut self, hash: u64, key: &K) {
        for bucket in self.choices(hash) {
            for way in &mut self.buckets[bucket].0 {
                if matches!(way, Some((it, _)) if it == key) {
                    *way = None;
                    self.used -= 1;
                }
            }
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
        let end = (from + buckets).min(self.buckets.len());
        for bucket in self.buckets.get_mut(from..end)? {
            for way in &mut bucket.0 {
                if let Some((key, value)) = way
                    && !keep(key, value)
                {
                    *way = None;
                    self.used -= 1;
                }
            }
        }
        (end < self.buckets.len()).then_some(end)
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
            let mut table = Ways::new(16);
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
        let mut table = Ways::new(5 << 18);
        assert_eq!(table.capacity(), 5 << 18);
        let lost = (0..table.capacity() as u32)
            .filter(|key| table.put(hash(*key), *key, 1, |value| *value).is_some())
            .count();
        assert_eq!(lost, 0);
    }

    #[test]
    fn the_least_goes_first() {
        let mut table = Ways::new(1);
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
