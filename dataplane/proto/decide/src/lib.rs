//! Where a request runs: here, or on a node it is lent to.
//!
//! Pure: load words, a policy and a request's facts go in, a decision and its reason come out. The same code runs
//! in the worker and in the simulator. When unsure, the request stays here. [`home`] says where a session lives.

#![forbid(unsafe_code)]

mod estimate;
mod home;
mod load;
mod measure;

pub use home::{NodeId, home};
pub use load::{Freshness, LOAD_BYTES, LoadWord, word_interval};
pub use measure::{Lent, Service};

/// How a node decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every request runs here.
    Never,
    /// Every request that can be lent is lent, to the peers in turn. For tests: a request whose target contains
    /// `lend=0` stays.
    Always,
    /// Lend when the work waiting here exceeds the least loaded fresh peer's by more than this, in us.
    Threshold {
        /// The difference that is worth the move.
        us: u32,
    },
    /// Lend when a request would wait longer here than at a peer, with what the move costs.
    Estimate {
        /// What a move costs at least, in us; more where more was measured.
        move_cost_us: u32,
    },
}

/// What the decision needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// It can be lent at all: fully received, fits one grant, no Upgrade or CONNECT, a reply with its own framing.
    pub lendable: bool,
    /// It asked to stay (tests).
    pub pinned: bool,
}

/// What is known of one peer worker at the moment of the decision.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The queue pair is ready and has room for a grant, and a lease is left.
    pub ready: bool,
    /// Its load word is fresh; `word` means nothing otherwise.
    pub fresh: bool,
    /// The last load word read.
    pub word: LoadWord,
    /// Requests granted to it that the word does not know of.
    pub granted: u32,
    /// How much later its replies are ready than its words promise, in us.
    pub late_us: u32,
    /// What lending to it was measured to cost, in us.
    pub cost_us: u32,
}

impl Peer {
    /// A peer that is not connected: nothing is lent to it.
    pub fn absent() -> Peer {
        Peer { ready: false, fresh: false, word: LoadWord::default(), granted: 0, late_us: 0, cost_us: 0 }
    }

    /// Work waiting for one of its slots, in us, with what was granted since its word.
    fn waiting_us(&self) -> u32 {
        let granted_us = u64::from(self.granted) * u64::from(self.word.service_us);
        let waiting_us = u64::from(self.word.waiting_us) + granted_us / u64::from(self.word.capacity.max(1));
        u32::try_from(waiting_us).unwrap_or(u32::MAX)
    }

    /// Whether it takes a request, as far as we know.
    fn is_usable(&self) -> bool {
        self.ready && self.fresh && !self.word.draining && self.word.credits > self.granted
    }
}

/// Why a request stayed or moved; counted by the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The policy is `never`, or there are no peers.
    Off,
    /// The request cannot be lent.
    NotLendable,
    /// It asked to stay.
    Pinned,
    /// No peer is connected, takes requests and has room for one.
    NoPeer,
    /// No peer that could take it has a fresh load word.
    Stale,
    /// A slot is free here.
    Idle,
    /// Not enough work waits here.
    Light,
    /// It would not be answered sooner elsewhere: no peer is lighter by the threshold, or a move costs more than it saves.
    Balanced,
    /// Lent because the policy is `always`.
    Forced,
    /// Lent because a peer is lighter by the threshold.
    Lighter,
    /// Lent because it waits less at a peer, the cost of the move included.
    Sooner,
}

impl Reason {
    /// Every reason, in counter order.
    pub const ALL: [Reason; 11] = [
        Reason::Off,
        Reason::NotLendable,
        Reason::Pinned,
        Reason::NoPeer,
        Reason::Stale,
        Reason::Idle,
        Reason::Light,
        Reason::Balanced,
        Reason::Forced,
        Reason::Lighter,
        Reason::Sooner,
    ];
}

/// Where a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Index of the peer it is lent to; `None`: here.
    pub peer: Option<usize>,
    /// Why.
    pub reason: Reason,
    /// From the grant until the reply is ready there, as estimated, in us; 0 if it was not.
    pub expected_us: u32,
    /// How much sooner that is than here, in us.
    pub gain_us: u32,
}

const fn here(reason: Reason) -> Decision {
    Decision { peer: None, reason, expected_us: 0, gain_us: 0 }
}

const fn there(peer: usize, reason: Reason) -> Decision {
    Decision { peer: Some(peer), reason, expected_us: 0, gain_us: 0 }
}

/// Decides for one request. `own` is this node's load, as its word would tell it; `turn` a running number that spreads
/// requests over the peers.
pub fn decide(policy: Policy, facts: Facts, own: &LoadWord, peers: &[Peer], turn: usize) -> Decision {
    if policy == Policy::Never || peers.is_empty() {
        return here(Reason::Off);
    }
    if !facts.lendable {
        return here(Reason::NotLendable);
    }
    if facts.pinned {
        return here(Reason::Pinned);
    }
    match policy {
        Policy::Never => here(Reason::Off),
        Policy::Always => forced(peers, turn),
        Policy::Threshold { us } => lighter(us, own.waiting_us, peers, turn),
        Policy::Estimate { move_cost_us } => estimate::sooner(move_cost_us, own, peers, turn),
    }
}

fn forced(peers: &[Peer], turn: usize) -> Decision {
    let in_turn = (0..peers.len()).map(|step| (turn + step) % peers.len());
    match in_turn.into_iter().find(|index| peers[*index].ready && !peers[*index].word.draining) {
        Some(peer) => there(peer, Reason::Forced),
        None => here(Reason::NoPeer),
    }
}

fn lighter(threshold_us: u32, waiting_us: u32, peers: &[Peer], turn: usize) -> Decision {
    if waiting_us <= threshold_us {
        return here(Reason::Light);
    }
    let in_turn = (0..peers.len()).map(|step| (turn + step) % peers.len());
    let best = in_turn
        .filter(|index| peers[*index].is_usable())
        .map(|index| (peers[index].waiting_us(), index))
        .min_by_key(|(waiting, _)| *waiting);
    match best {
        None => here(none_usable(peers)),
        Some((waiting_there_us, peer)) if waiting_there_us.saturating_add(threshold_us) < waiting_us => {
            there(peer, Reason::Lighter)
        }
        Some(_) => here(Reason::Balanced),
    }
}

/// Why there is no usable peer.
fn none_usable(peers: &[Peer]) -> Reason {
    let stale = peers.iter().any(|peer| peer.ready && !peer.fresh);
    if stale { Reason::Stale } else { Reason::NoPeer }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts { lendable: true, pinned: false };

    fn waiting(waiting_us: u32) -> LoadWord {
        LoadWord { waiting_us, service_us: 10, credits: 100, ..LoadWord::default() }
    }

    fn peer(waiting_us: u32) -> Peer {
        Peer { ready: true, fresh: true, word: waiting(waiting_us), ..Peer::absent() }
    }

    fn threshold(waiting_us: u32, peers: &[Peer]) -> Decision {
        decide(Policy::Threshold { us: 100 }, FACTS, &waiting(waiting_us), peers, 0)
    }

    #[test]
    fn threshold_moves_only_for_a_gain_beyond_it() {
        assert_eq!(threshold(100, &[peer(0)]), here(Reason::Light));
        assert_eq!(threshold(150, &[peer(50)]), here(Reason::Balanced));
        assert_eq!(threshold(151, &[peer(50)]).peer, Some(0));
        assert_eq!(threshold(900, &[peer(500), peer(20), peer(300)]).peer, Some(1));
    }

    #[test]
    fn our_own_grants_since_the_word_count() {
        let crowded = Peer { granted: 88, ..peer(0) };
        assert_eq!(threshold(900, &[crowded]), here(Reason::Balanced));
        assert_eq!(threshold(900, &[crowded, peer(500)]).peer, Some(1));
    }

    #[test]
    fn always_takes_turns_and_respects_a_pin() {
        let peers = [peer(0), Peer { ready: false, ..peer(0) }, peer(0)];
        let to = |turn| decide(Policy::Always, FACTS, &waiting(0), &peers, turn).peer;
        assert_eq!((to(0), to(1), to(2), to(3)), (Some(0), Some(2), Some(2), Some(0)));
        let pinned = Facts { pinned: true, ..FACTS };
        assert_eq!(decide(Policy::Always, pinned, &waiting(0), &peers, 0), here(Reason::Pinned));
    }
}
