//! Mistakes put into leases and sessions on purpose, to see that the simulation's checkers find them. Only in builds
//! made for that, never in one with optimised-out assertions, as a release is.

use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(not(debug_assertions))]
compile_error!("planted bugs are for tests: build without --release");

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The lender forgets that it posted *go*: it would seal with sequence numbers that are spent.
    GoSkipped,
    /// A slot is granted again before the client has acknowledged its record.
    StaleCredit,
    /// The lender goes on one sequence number too early after a return.
    SequenceOffByOne,
    /// A node that gives away a session that may go on once keeps it.
    SessionGivenTwice,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 4] =
        [Bug::GoSkipped, Bug::StaleCredit, Bug::SequenceOffByOne, Bug::SessionGivenTwice];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::GoSkipped => "go-skipped",
            Bug::StaleCredit => "stale-credit",
            Bug::SequenceOffByOne => "sequence-off-by-one",
            Bug::SessionGivenTwice => "session-given-twice",
        }
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Bug, String> {
        let found = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        found.ok_or_else(|| format!("no such bug; there are {}", Bug::ALL.map(Bug::name).join(", ")))
    }
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Plants a mistake in this process.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8 + 1, Ordering::Relaxed);
}

/// Whether this mistake is planted.
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8 + 1
}
