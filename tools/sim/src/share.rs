//! A core whose jobs share it: of n jobs each gets an n-th, as processes do whose system gives each a short slice in turn.
//!
//! In: jobs, what is due once each is done, `now`. Out: what is due. All jobs present get the same, so one number says how far
//! each is: what a job has had since the core last had nothing to do. A job is done when this number has grown by its
//! length; the next to be done is the first of a heap. A server has so many processes and no more: what clients ask for
//! then waits in a line until one is free. Owned by a run.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use crate::events::Kind;

/// No event is planned.
const NEVER: u64 = u64::MAX;

/// What is due so long after a job is done, about the request or connection of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Then {
    /// What.
    pub kind: Kind,
    /// About which.
    pub index: u32,
    /// How much later.
    pub later_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    /// It is done when each job has had so much.
    until_ns: f64,
    /// Jobs that are done at the same moment are so in the order in which they came.
    number: u64,
    then: Then,
}

impl Ord for Job {
    fn cmp(&self, other: &Job) -> Ordering {
        self.until_ns.total_cmp(&other.until_ns).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Job) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Job {
    fn eq(&self, other: &Job) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Job {}

/// One core.
#[derive(Clone, Debug)]
pub struct Share {
    jobs: BinaryHeap<Reverse<Job>>,
    /// Jobs that wait for a process, and their lengths.
    line: VecDeque<(u64, Then)>,
    processes: usize,
    /// What each job that is here since the core was last idle has had, as of `at_ns`.
    had_ns: f64,
    at_ns: u64,
    /// When its next event is. It may be too soon, if jobs have come since it was planned.
    planned_ns: u64,
    added: u64,
}

impl Share {
    /// One that has nothing to do, and so many processes.
    pub fn new(processes: usize) -> Share {
        Share {
            jobs: BinaryHeap::new(),
            line: VecDeque::new(),
            processes,
            had_ns: 0.0,
            at_ns: 0,
            planned_ns: NEVER,
            added: 0,
        }
    }

    fn advance(&mut self, now_ns: u64) {
        match self.jobs.len() {
            // Small numbers again, so that none gets coarse in a long run.
            0 => self.had_ns = 0.0,
            jobs => self.had_ns += (now_ns - self.at_ns) as f64 / jobs as f64,
        }
        self.at_ns = now_ns;
    }

    /// A job of this length comes that needs no further process. Answers the moment at which [`Share::done`] has to be asked,
    /// unless it will be sooner.
    pub fn add(&mut self, now_ns: u64, ns: u64, then: Then) -> Option<u64> {
        self.advance(now_ns);
        self.begin(ns, then);
        self.plan()
    }

    /// The same, of a job that needs a process.
    pub fn admit(&mut self, now_ns: u64, ns: u64, then: Then) -> Option<u64> {
        if self.jobs.len() >= self.processes {
            self.line.push_back((ns, then));
            return None;
        }
        self.add(now_ns, ns, then)
    }

    fn begin(&mut self, ns: u64, then: Then) {
        self.added += 1;
        self.jobs.push(Reverse(Job { until_ns: self.had_ns + ns as f64, number: self.added, then }));
    }

    /// Whether the event of this moment is the one that was planned last.
    pub fn is_planned(&self, now_ns: u64) -> bool {
        self.planned_ns == now_ns
    }

    /// A job that is done by now; to be asked until there is none, and then [`Share::go_on`].
    pub fn done(&mut self, now_ns: u64) -> Option<Then> {
        self.advance(now_ns);
        let Reverse(first) = self.jobs.peek()?;
        if first.until_ns > self.had_ns {
            return None;
        }
        self.jobs.pop().map(|Reverse(job)| job.then)
    }

    /// The planned event has been: processes that are free now take what waits. Answers when the next event is.
    pub fn go_on(&mut self) -> Option<u64> {
        while self.jobs.len() < self.processes
            && let Some((ns, then)) = self.line.pop_front()
        {
            self.begin(ns, then);
        }
        self.planned_ns = NEVER;
        self.plan()
    }

    /// When the first job is done if no other comes, if nothing is planned so soon.
    fn plan(&mut self) -> Option<u64> {
        let Reverse(first) = self.jobs.peek()?;
        let left_ns = (first.until_ns - self.had_ns).max(0.0) * self.jobs.len() as f64;
        let due_ns = self.at_ns + left_ns.ceil() as u64;
        if due_ns >= self.planned_ns {
            return None;
        }
        self.planned_ns = due_ns;
        Some(due_ns)
    }

    /// What all its jobs have yet to get, those in line among them.
    pub fn left_ns(&self, now_ns: u64) -> u64 {
        let jobs = self.jobs.len().max(1) as f64;
        let had_ns = self.had_ns + (now_ns - self.at_ns) as f64 / jobs;
        let begun_ns: f64 = self.jobs.iter().map(|Reverse(job)| (job.until_ns - had_ns).max(0.0)).sum();
        begun_ns as u64 + self.line.iter().map(|(ns, _)| ns).sum::<u64>()
    }

    /// All jobs are taken from it: what would have been due.
    pub fn drop_all(&mut self, now_ns: u64) -> Vec<Then> {
        self.advance(now_ns);
        self.planned_ns = NEVER;
        let begun = std::mem::take(&mut self.jobs).into_sorted_vec().into_iter().rev();
        begun.map(|Reverse(job)| job.then).chain(self.line.drain(..).map(|(_, then)| then)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn then(index: u32) -> Then {
        Then { kind: Kind::Done, index, later_ns: 0 }
    }

    /// Runs a share to its end: which job was done when.
    fn ends(processes: usize, jobs: &[(u64, u64)]) -> Vec<(u64, u32)> {
        let mut share = Share::new(processes);
        let mut events: Vec<u64> = Vec::new();
        let (mut ends, mut next) = (Vec::new(), 0);
        loop {
            events.sort_unstable_by_key(|at_ns| Reverse(*at_ns));
            let arrives_ns = jobs.get(next).map_or(NEVER, |(at_ns, _)| *at_ns);
            let due_ns = events.last().copied().unwrap_or(NEVER);
            if due_ns.min(arrives_ns) == NEVER {
                return ends;
            }
            if due_ns <= arrives_ns {
                events.pop();
                if share.is_planned(due_ns) {
                    ends.extend(std::iter::from_fn(|| share.done(due_ns)).map(|then| (due_ns, then.index)));
                    events.extend(share.go_on());
                }
            } else {
                events.extend(share.admit(arrives_ns, jobs[next].1, then(next as u32)));
                next += 1;
            }
        }
    }

    #[test]
    fn jobs_get_the_same() {
        // Alone until 10, of two until 30, alone again.
        assert_eq!(ends(9, &[(0, 30), (10, 10)]), [(30, 1), (40, 0)]);
        // A short one passes two long ones: three share 3 ns each.
        assert_eq!(ends(9, &[(0, 1000), (0, 1000), (100, 3)]), [(109, 2), (2003, 0), (2003, 1)]);
        assert_eq!(ends(9, &[(5, 0), (5, 7), (5, 0)]), [(5, 0), (5, 2), (12, 1)]);
    }

    #[test]
    fn what_finds_no_process_waits_for_one() {
        assert_eq!(ends(1, &[(0, 30), (10, 10), (11, 1)]), [(30, 0), (40, 1), (41, 2)]);
        // Two share until 20; then the third with the first.
        assert_eq!(ends(2, &[(0, 30), (0, 10), (1, 5)]), [(20, 1), (30, 2), (45, 0)]);
        let mut share = Share::new(1);
        share.add(0, 10, then(0));
        assert_eq!(share.admit(0, 10, then(1)), None);
        assert_eq!(share.add(0, 4, then(2)), Some(8), "what needs no process does not wait for one");
        assert_eq!(share.left_ns(0), 24);
    }

    #[test]
    fn what_is_left_is_what_came_less_the_time() {
        let mut share = Share::new(9);
        share.add(0, 100, then(0));
        share.add(40, 30, then(1));
        assert_eq!(share.left_ns(60), 70);
        assert_eq!(share.drop_all(60), [then(1), then(0)], "the one that would be done first, first");
        assert_eq!((share.left_ns(60), share.done(90)), (0, None));
    }

    proptest! {
        /// The core never rests while it has a job, so its busy periods are those of jobs done in turn; a job takes its
        /// length at least.
        #[test]
        fn work_is_conserved(processes in 1usize..5, gaps in prop::collection::vec((0u64..60, 0u64..80), 1..60)) {
            let mut at_ns = 0;
            let jobs: Vec<(u64, u64)> = gaps.iter().map(|(gap_ns, ns)| { at_ns += gap_ns; (at_ns, *ns) }).collect();
            let ends = ends(processes, &jobs);
            prop_assert_eq!(ends.len(), jobs.len());
            let in_turn = jobs.iter().fold(0u64, |free_ns, (at_ns, ns)| free_ns.max(*at_ns) + ns);
            let last_ns = ends.iter().map(|(end_ns, _)| *end_ns).max().unwrap();
            // Moments are rounded up to a ns, once for each event.
            prop_assert!((in_turn..=in_turn + 2 * jobs.len() as u64).contains(&last_ns), "{} not {}", last_ns, in_turn);
            for (end_ns, index) in ends {
                let (at_ns, ns) = jobs[index as usize];
                prop_assert!(end_ns >= at_ns + ns);
            }
        }
    }
}
