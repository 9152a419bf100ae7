//! Moments that have come and wait for a connection: all in one line, or a line for each client, so that those of a busy
//! client hold nobody else up. Owned by one load thread's plan.

use std::collections::VecDeque;
use std::time::Instant;

/// Waiting moments.
#[derive(Debug)]
pub struct Due {
    lines: Vec<VecDeque<Instant>>,
    waiting: usize,
    /// The lines of moments that nobody has been told of yet.
    fresh: VecDeque<usize>,
    most: usize,
}

impl Due {
    /// So many lines, in which `most` moments wait at most, all together.
    pub fn new(lines: usize, most: usize) -> Due {
        let room = most / lines;
        Due {
            lines: (0..lines).map(|_| VecDeque::with_capacity(room)).collect(),
            waiting: 0,
            fresh: VecDeque::with_capacity(most),
            most,
        }
    }

    /// Moments waiting.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether another one has room.
    pub fn has_room(&self) -> bool {
        self.waiting < self.most
    }

    /// A moment has come.
    pub fn push(&mut self, line: usize, moment: Instant) {
        self.lines[line].push_back(moment);
        self.waiting += 1;
        if self.fresh.len() < self.most {
            self.fresh.push_back(line);
        }
    }

    /// The line of the next moment that is new: a connection that waits for it can go on.
    pub fn next_fresh(&mut self) -> Option<usize> {
        self.fresh.pop_front()
    }

    /// The oldest of a line.
    pub fn oldest(&self, line: usize) -> Option<Instant> {
        self.lines[line].front().copied()
    }

    /// Takes it.
    pub fn pop(&mut self, line: usize) -> Option<Instant> {
        let moment = self.lines[line].pop_front();
        self.waiting -= usize::from(moment.is_some());
        moment
    }

    /// Takes all.
    pub fn drain(&mut self) -> impl Iterator<Item = Instant> {
        self.waiting = 0;
        self.fresh.clear();
        self.lines.iter_mut().flat_map(|line| line.drain(..))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_do_not_wait_for_each_other() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut due = Due::new(2, 4);
        for (line, ms) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
            assert!(due.has_room());
            due.push(line, at(ms));
        }
        assert!(!due.has_room());
        assert_eq!(std::iter::from_fn(|| due.next_fresh()).collect::<Vec<_>>(), [0, 0, 1, 0]);
        assert_eq!((due.oldest(1), due.pop(1), due.pop(1)), (Some(at(3)), Some(at(3)), None));
        assert_eq!((due.pop(0), due.waiting()), (Some(at(1)), 2));
        assert_eq!(due.drain().collect::<Vec<_>>(), [at(2), at(4)]);
        assert_eq!((due.waiting(), due.oldest(0)), (0, None));
    }
}
