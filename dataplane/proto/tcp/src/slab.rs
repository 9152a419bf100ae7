//! Memory for values by index that grows a chunk at a time: what is there stays where it is, nothing is copied, and who has
//! few connections pays for few.
//!
//! In: indexes, mostly each once before any higher one. Out: values, made by `Default` when first asked for. A worker owns
//! one, in its TCP or beside it; memory is kept until the end, for connections come again.

use std::ops::{Index, IndexMut};

/// Values of a chunk, as a power of two: some megabytes, so that hugepages fit.
const CHUNK_BITS: u32 = 13;
const CHUNK: usize = 1 << CHUNK_BITS;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Told of memory that is about to be used: where it begins, and how many bytes.
pub type MemoryHint = fn(*const u8, usize);

/// Values by index.
pub struct Slab<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
    limit: usize,
    hint: MemoryHint,
}

impl<T: Default> Slab<T> {
    /// An empty one for indexes below `limit`. `hint` is told of each chunk's memory.
    pub fn new(limit: u32, hint: MemoryHint) -> Slab<T> {
        let limit = limit as usize;
        Slab { chunks: Vec::with_capacity(limit.div_ceil(CHUNK)), len: 0, limit, hint }
    }

    /// Indexes that have a value: all below this.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at an index, if there is one.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index >> CHUNK_BITS)?.get(index & (CHUNK - 1))
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index >> CHUNK_BITS)?.get_mut(index & (CHUNK - 1))
    }

    /// Tells of each cache line of the value at an index.
    pub fn ahead(&self, index: usize, ahead: impl Fn(*const u8)) {
        let Some(value) = self.get(index) else { return };
        let first = std::ptr::from_ref(value).cast::<u8>();
        (0..size_of::<T>()).step_by(LINE_BYTES).for_each(|at| ahead(first.wrapping_add(at)));
        // Values are not aligned to lines.
        ahead(first.wrapping_add(size_of::<T>().saturating_sub(1)));
    }

    /// Makes a value for this index, and for all before it that have none.
    ///
    /// # Panics
    /// If the index is not below the limit.
    pub fn grow_to(&mut self, index: usize) {
        assert!(index < self.limit, "an index beyond what was agreed at start");
        while self.len <= index {
            let at = self.len >> CHUNK_BITS;
            if at == self.chunks.len() {
                let chunk: Vec<T> = Vec::with_capacity(CHUNK.min(self.limit - self.len));
                (self.hint)(chunk.as_ptr().cast(), chunk.capacity() * size_of::<T>());
                self.chunks.push(chunk);
            }
            self.chunks[at].push(T::default());
            self.len += 1;
        }
    }
}

impl<T> Index<usize> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.chunks[index >> CHUNK_BITS][index & (CHUNK - 1)]
    }
}

impl<T> IndexMut<usize> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index >> CHUNK_BITS][index & (CHUNK - 1)]
    }
}

/// Tells nobody.
pub fn no_hint(_: *const u8, _: usize) {}

/// So many of a value, in memory told of before it is written to: afterwards its pages are what they are.
pub(crate) fn filled<T: Clone>(value: T, count: usize, hint: MemoryHint) -> Box<[T]> {
    let mut values = Vec::<T>::with_capacity(count);
    hint(values.as_ptr().cast(), values.capacity() * size_of::<T>());
    values.resize(count, value);
    values.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn memory_is_told_of_whole_and_where_it_is() {
        thread_local!(static TOLD: Cell<(usize, usize)> = const { Cell::new((0, 0)) });
        let values = filled(7u32, 1_000, |at, bytes| TOLD.set((at.addr(), bytes)));
        assert_eq!(TOLD.get(), (values.as_ptr().addr(), 4_000));
        assert!(values.len() == 1_000 && values.iter().all(|value| *value == 7));
    }

    #[test]
    fn values_stay_where_they_are_while_it_grows() {
        let mut slab: Slab<u64> = Slab::new(3 * CHUNK as u32 + 5, no_hint);
        slab.grow_to(1);
        slab[1] = 7;
        let at = std::ptr::from_ref(&slab[1]);
        slab.grow_to(3 * CHUNK + 4);
        assert_eq!((slab[1], slab.len(), slab.chunks.len()), (7, 3 * CHUNK + 5, 4));
        assert_eq!(std::ptr::from_ref(&slab[1]), at);
        assert_eq!((slab.get(3 * CHUNK + 4), slab.get(3 * CHUNK + 5)), (Some(&0), None));
    }

    #[test]
    #[should_panic(expected = "beyond what was agreed")]
    fn it_does_not_grow_beyond_its_limit() {
        Slab::<u64>::new(4, no_hint).grow_to(4);
    }
}
