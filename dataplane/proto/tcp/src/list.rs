//! A first-in first-out list of connection indexes.
//!
//! Each index is in the list at most once and can be taken out of the middle, so a list is bounded by the number
//! of connections, and a connection that ends leaves nothing behind in any. Fixed memory, owned by a
//! worker, in its TCP or beside it.

use crate::slab::{MemoryHint, filled};

const NIL: u32 = u32::MAX;
/// `next` of an index that is not in the list.
const ABSENT: u32 = u32::MAX - 1;

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
}

/// Connection indexes in the order they were added.
pub struct List {
    links: Box<[Link]>,
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    /// An empty list for indexes below `indexes`. `hint` is told of its memory.
    pub fn new(indexes: u32, hint: MemoryHint) -> List {
        let links = filled(Link { next: ABSENT, prev: NIL }, indexes as usize, hint);
        List { links, head: NIL, tail: NIL, len: 0 }
    }

    /// Indexes in the list.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The index added first.
    pub fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// Appends `index` unless it is in the list already.
    pub fn push_back(&mut self, index: u32) {
        if self.links[index as usize].next != ABSENT {
            return;
        }
        self.links[index as usize] = Link { next: NIL, prev: self.tail };
        match self.tail {
            NIL => self.head = index,
            tail => self.links[tail as usize].next = index,
        }
        self.tail = index;
        self.len += 1;
    }

    /// Whether `index` is in the list.
    pub fn contains(&self, index: u32) -> bool {
        self.links[index as usize].next != ABSENT
    }

    /// Tells where the list keeps note of `index`.
    pub fn ahead(&self, index: u32, ahead: impl Fn(*const u8)) {
        if let Some(link) = self.links.get(index as usize) {
            ahead(std::ptr::from_ref(link).cast());
        }
    }

    /// Takes the index added first.
    pub fn pop_front(&mut self) -> Option<u32> {
        let first = self.front()?;
        self.remove(first);
        Some(first)
    }

    /// Takes `index` out if it is in the list.
    pub fn remove(&mut self, index: u32) {
        let Link { next, prev } = self.links[index as usize];
        if next == ABSENT {
            return;
        }
        match prev {
            NIL => self.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        self.links[index as usize].next = ABSENT;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::slab::no_hint;

    proptest! {
        #[test]
        fn behaves_as_a_queue_of_distinct_indexes(steps in prop::collection::vec((0u32..8, any::<bool>()), 0..100)) {
            let mut list = List::new(8, no_hint);
            let mut model = VecDeque::new();
            for (index, push) in steps {
                if push {
                    list.push_back(index);
                    if !model.contains(&index) {
                        model.push_back(index);
                    }
                } else {
                    list.remove(index);
                    model.retain(|known| *known != index);
                }
                prop_assert_eq!(list.front(), model.front().copied());
                prop_assert_eq!(list.len(), model.len());
            }
            while let Some(index) = list.front() {
                list.remove(index);
                prop_assert_eq!(Some(index), model.pop_front());
            }
            prop_assert!(model.is_empty());
        }
    }
}
