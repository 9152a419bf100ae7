//! A node as others see it: how many requests its application has, what they take, and what its load words said.
//!
//! In: requests that come and end. Out: load words as they were at a moment. Words are not events: a node's state changes
//! with its requests, so a word of any moment is the state before the first change after it. Owned by a run.

use keyferry_decide::{LoadWord, Service};

/// Words that a reader may still ask for, of moments at which one was written: as old as two intervals and the way.
const PAST: usize = 8;

/// A word's age is at most this many intervals, so that it is among those kept.
pub const INTERVALS_MAX: u64 = PAST as u64 - 3;

/// What a word says that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    outstanding: u32,
    service_us: u32,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// It runs.
    pub is_alive: bool,
    /// Others believe so.
    pub is_up: bool,
    /// Counts its failures and returns: what began in a life before is lost.
    pub life: u8,
    /// When it failed last.
    failed_ns: u64,
    /// Times that all it does takes longer.
    pub factor: f64,
    /// Slots of its application.
    slots: u32,
    /// Requests in the application.
    outstanding: u32,
    service: Service,
    /// When it writes words: at `phase_ns`, and each `word_ns` from there on.
    phase_ns: u64,
    word_ns: u64,
    /// States before a change, with the last word written before it; a ring, the oldest first from `oldest` on.
    past: [(u64, State); PAST],
    oldest: usize,
    /// Words written before the last change; the next change of the same interval changes no word.
    last: Option<u64>,
}

impl Node {
    /// A node that has nothing to do.
    pub fn new(slots: usize, factor: f64, phase_ns: u64, word_ns: u64) -> Node {
        Node {
            is_alive: true,
            is_up: true,
            life: 0,
            failed_ns: u64::MAX,
            factor,
            slots: slots as u32,
            outstanding: 0,
            service: Service::default(),
            phase_ns,
            word_ns,
            past: [(0, State::default()); PAST],
            oldest: 0,
            last: None,
        }
    }

    /// Requests in the application.
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    fn state(&self) -> State {
        State { outstanding: self.outstanding, service_us: self.service.mean_us() }
    }

    /// When it writes its first word.
    pub fn phase_ns(&self) -> u64 {
        self.phase_ns
    }

    /// The number of the last word written by then, from 1 on.
    fn number(&self, now_ns: u64) -> Option<u64> {
        Some(now_ns.checked_sub(self.phase_ns)? / self.word_ns + 1)
    }

    /// The state is about to change.
    fn keep_past(&mut self, now_ns: u64) {
        let number = self.number(now_ns);
        if let Some(number) = number
            && self.last.is_none_or(|last| last < number)
        {
            self.past[self.oldest] = (number, self.state());
            self.oldest = (self.oldest + 1) % PAST;
            self.last = Some(number);
        }
    }

    /// The application gets a request.
    pub fn begin(&mut self, now_ns: u64) {
        self.keep_past(now_ns);
        self.outstanding += 1;
    }

    /// It is done with one that took so long.
    pub fn end(&mut self, now_ns: u64, service_ns: u64) {
        self.keep_past(now_ns);
        self.outstanding -= 1;
        self.service.served(service_ns);
    }

    /// It fails: what it had is lost.
    pub fn fail(&mut self, now_ns: u64) {
        self.keep_past(now_ns);
        (self.is_alive, self.failed_ns, self.outstanding) = (false, now_ns, 0);
        self.life = self.life.wrapping_add(1);
    }

    /// It is back, and knows nothing.
    pub fn come_back(&mut self, now_ns: u64) {
        self.keep_past(now_ns);
        (self.is_alive, self.is_up, self.failed_ns) = (true, true, u64::MAX);
        (self.outstanding, self.service) = (0, Service::default());
        self.life = self.life.wrapping_add(1);
    }

    fn word_of(&self, state: State) -> LoadWord {
        let State { outstanding, service_us } = state;
        let waiting_us = u64::from(service_us) * u64::from(outstanding) / u64::from(self.slots);
        LoadWord {
            sequence: 1,
            waiting_us: u32::try_from(waiting_us).unwrap_or(u32::MAX),
            service_us,
            capacity: self.slots,
            // Buffers for requests are not what is short here.
            credits: u32::MAX,
            draining: false,
            outstanding,
            taken: 0,
        }
    }

    /// Its load as it is, for its own decisions.
    pub fn own(&self) -> LoadWord {
        self.word_of(self.state())
    }

    /// The last word written by then: its number, when it was written, and what it says. `None`: none was yet. Moments may
    /// not be further back than [`INTERVALS_MAX`].
    pub fn word(&self, by_ns: u64) -> Option<(u64, u64, LoadWord)> {
        let number = self.number(by_ns.min(self.failed_ns))?;
        let ring = (0..PAST).map(|step| &self.past[(self.oldest + step) % PAST]);
        let kept = self.last.is_some_and(|last| last >= number);
        let state = if kept {
            // Places without a state are of a word 0, which is before any other.
            ring.into_iter().find(|(until, _)| *until >= number).map_or(State::default(), |(_, state)| *state)
        } else {
            self.state()
        };
        Some((number, self.phase_ns + (number - 1) * self.word_ns, self.word_of(state)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Words are what a node would have written, whoever asks later.
        #[test]
        fn words_are_as_they_were_written(
            steps in prop::collection::vec((0u64..40, any::<bool>()), 1..200),
            phase_ns in 0u64..100,
        ) {
            let mut node = Node::new(2, 1.0, phase_ns, 100);
            let mut written: Vec<(u64, LoadWord)> = Vec::new();
            let mut now_ns = 0;
            for (gap_ns, begins) in steps {
                let next_ns = now_ns + gap_ns;
                // A word of the moment of a change is written before it.
                let mut at_ns = phase_ns + written.len() as u64 * 100;
                while at_ns <= next_ns {
                    written.push((at_ns, node.own()));
                    at_ns += 100;
                }
                now_ns = next_ns;
                if begins || node.outstanding() == 0 {
                    node.begin(now_ns);
                } else {
                    node.end(now_ns, 7_000 * u64::from(node.outstanding()));
                }
                for back in 0..INTERVALS_MAX {
                    let Some(by_ns) = now_ns.checked_sub(back * 100) else { continue };
                    let expected = written.iter().enumerate().rfind(|(_, (at_ns, _))| *at_ns <= by_ns);
                    let expected = expected.map(|(number, (at_ns, word))| (number as u64 + 1, *at_ns, *word));
                    prop_assert_eq!(node.word(by_ns), expected, "{} of {}", by_ns, now_ns);
                }
            }
        }
    }

    #[test]
    fn a_node_that_failed_writes_no_more() {
        let mut node = Node::new(1, 1.0, 0, 100);
        node.begin(50);
        node.fail(250);
        assert_eq!(
            node.word(240).map(|(number, at_ns, word)| (number, at_ns, word.outstanding)),
            Some((3, 200, 1))
        );
        assert_eq!(node.word(590).map(|(number, ..)| number), Some(3));
        node.come_back(600);
        assert_eq!(node.word(700).map(|(number, _, word)| (number, word.outstanding)), Some((8, 0)));
    }
}
