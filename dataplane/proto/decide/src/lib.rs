//! Where a request runs: here, or on a node it is lent to.
//!
//! Pure: load words, a policy and a request's facts go in, a decision and its reason come out. The same code runs
//! in the worker and in the simulator. When unsure, the request stays here. [`home`] says where a session lives.

#![forbid(unsafe_code)]

mod home;
mod load;

pub use home::{NodeId, home};
pub use load::{Freshness, LOAD_BYTES, LoadWord};

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
    /// The queue pair is ready and has room for a grant.
    pub ready: bool,
    /// Its load word is fresh; `word` means nothing otherwise.
    pub fresh: bool,
    /// The last load word read.
    pub word: LoadWord,
    /// Work granted to it since that word was read, in us.
    pub granted_us: u32,
}

impl Peer {
    /// A peer that is not connected: nothing is lent to it.
    pub fn absent() -> Peer {
        Peer { ready: false, fresh: false, word: LoadWord::default(), granted_us: 0 }
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
    /// No peer is connected, has room and (for `threshold`) a fresh word.
    NoPeer,
    /// Not enough work waits here.
    Light,
    /// No fresh peer is lighter by the threshold.
    Balanced,
    /// Lent because the policy is `always`.
    Forced,
    /// Lent because a peer is lighter by the threshold.
    Lighter,
}

impl Reason {
    /// Every reason, in counter order.
    pub const ALL: [Reason; 8] = [
        Reason::Off,
        Reason::NotLendable,
        Reason::Pinned,
        Reason::NoPeer,
        Reason::Light,
        Reason::Balanced,
        Reason::Forced,
        Reason::Lighter,
    ];
}

/// Where a request runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Index of the peer it is lent to; `None`: here.
    pub peer: Option<usize>,
    /// Why.
    pub reason: Reason,
}

const fn here(reason: Reason) -> Decision {
    Decision { peer: None, reason }
}

/// Decides for one request. `waiting_us` is the work waiting here for one app thread; `turn` a running number that
/// spreads ties over the peers.
pub fn decide(policy: Policy, facts: Facts, waiting_us: u32, peers: &[Peer], turn: usize) -> Decision {
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
        Policy::Threshold { us } => lighter(us, waiting_us, peers, turn),
    }
}

fn forced(peers: &[Peer], turn: usize) -> Decision {
    let in_turn = (0..peers.len()).map(|step| (turn + step) % peers.len());
    match in_turn.into_iter().find(|index| peers[*index].ready && !peers[*index].word.draining) {
        Some(peer) => Decision { peer: Some(peer), reason: Reason::Forced },
        None => here(Reason::NoPeer),
    }
}

fn lighter(threshold_us: u32, waiting_us: u32, peers: &[Peer], turn: usize) -> Decision {
    if waiting_us <= threshold_us {
        return here(Reason::Light);
    }
    let usable = |peer: &Peer| peer.ready && peer.fresh && !peer.word.draining && peer.word.credits > 0;
    let in_turn = (0..peers.len()).map(|step| (turn + step) % peers.len());
    let best = in_turn
        .filter(|index| usable(&peers[*index]))
        .map(|index| (peers[index].word.waiting_us.saturating_add(peers[index].granted_us), index))
        .min_by_key(|(waiting, _)| *waiting);
    match best {
        None => here(Reason::NoPeer),
        Some((there, peer)) if there.saturating_add(threshold_us) < waiting_us => {
            Decision { peer: Some(peer), reason: Reason::Lighter }
        }
        Some(_) => here(Reason::Balanced),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: Facts = Facts { lendable: true, pinned: false };

    fn peer(waiting_us: u32) -> Peer {
        let word = LoadWord { waiting_us, credits: 10, ..LoadWord::default() };
        Peer { ready: true, fresh: true, word, granted_us: 0 }
    }

    fn threshold(waiting_us: u32, peers: &[Peer]) -> Decision {
        decide(Policy::Threshold { us: 100 }, FACTS, waiting_us, peers, 0)
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
        let crowded = Peer { granted_us: 880, ..peer(0) };
        assert_eq!(threshold(900, &[crowded]), here(Reason::Balanced));
        assert_eq!(threshold(900, &[crowded, peer(500)]).peer, Some(1));
    }

    #[test]
    fn always_takes_turns_and_respects_a_pin() {
        let peers = [peer(0), Peer { ready: false, ..peer(0) }, peer(0)];
        let to = |turn| decide(Policy::Always, FACTS, 0, &peers, turn).peer;
        assert_eq!((to(0), to(1), to(2), to(3)), (Some(0), Some(2), Some(2), Some(0)));
        let pinned = Facts { pinned: true, ..FACTS };
        assert_eq!(decide(Policy::Always, pinned, 0, &peers, 0), here(Reason::Pinned));
    }

    proptest! {
        #[test]
        fn nothing_goes_to_a_stale_unready_or_draining_peer(
            waiting in any::<u32>(), turn in any::<usize>(), us in any::<u32>(),
            facts in proptest::collection::vec((any::<[bool; 4]>(), any::<u32>(), any::<u32>()), 0..5),
        ) {
            let peers: Vec<Peer> = facts.iter().map(|([ready, fresh, draining, full], waiting_us, granted_us)| Peer {
                ready: *ready,
                fresh: *fresh,
                word: LoadWord { waiting_us: *waiting_us, draining: *draining, credits: u32::from(!full), ..LoadWord::default() },
                granted_us: *granted_us,
            }).collect();
            let turn = turn % 1000;
            for policy in [Policy::Never, Policy::Always, Policy::Threshold { us }] {
                if let Some(index) = decide(policy, FACTS, waiting, &peers, turn).peer {
                    prop_assert!(peers[index].ready && !peers[index].word.draining);
                    if let Policy::Threshold { us } = policy {
                        prop_assert!(peers[index].fresh && peers[index].word.credits > 0);
                        prop_assert!(u64::from(peers[index].word.waiting_us) + u64::from(us) < u64::from(waiting));
                    }
                }
            }
        }
    }
}
