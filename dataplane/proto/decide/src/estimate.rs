//! The default policy: a request moves when it would be answered sooner elsewhere.
//!
//! What is compared is waiting: the time in line here, against the time in line at the better of two peers, what a move
//! costs, and a margin. A request that finds a free slot here never moves, so a cluster at ease pays nothing. Two peers
//! are drawn for each request and the others left alone (Mitzenmacher's power of two choices): words are a little old,
//! and nodes that all took the lightest peer would bury it before its next word says so. `tests/cluster` measures it.
//!
//! The decision is made once. To lend a request out of the line when a word tells of a free slot was tried: with four slots
//! a node replies come 1 % sooner, not worth a request that is taken back while it may be begun.

use arrayvec::ArrayVec;

use crate::load::LoadWord;
use crate::{Decision, Peer, Reason, here, none_usable};

/// The part of the time in line here that a move has to save besides its cost, as a divisor: estimates are that uncertain.
/// Less moves more and gains nothing, more leaves requests in line.
const MARGIN_DIVISOR: u32 = 8;

/// Of so few peers each is looked at: with three, replies come 5 % sooner than with two drawn of them. With seven it gains
/// nothing.
const ALL_PEERS: usize = 3;

/// A peer's replies are called late from this part of a service time on, as a divisor: below, chance looks the same.
const LATE_DIVISOR: u32 = 2;

/// Where a request waits less.
pub(crate) fn sooner(move_cost_us: u32, own: &LoadWord, peers: &[Peer], turn: usize) -> Decision {
    let wait_here_us = own.wait_us(0);
    if wait_here_us == 0 {
        return here(Reason::Idle);
    }
    let usable = || peers.iter().enumerate().filter(|(_, peer)| peer.is_usable());
    let count = usable().count();
    if count == 0 {
        return here(none_usable(peers));
    }
    let best = draw(count, turn)
        .into_iter()
        .filter_map(|rank| usable().nth(rank))
        .map(|(index, peer)| (time_there_us(move_cost_us, own.service_us, peer), index, peer))
        .min_by_key(|(there_us, ..)| *there_us);
    let Some((there_us, index, peer)) = best else { return here(Reason::NoPeer) };
    let margin_us = wait_here_us / MARGIN_DIVISOR;
    match wait_here_us.checked_sub(there_us.saturating_add(margin_us)) {
        None | Some(0) => here(Reason::Balanced),
        Some(_) => Decision {
            peer: Some(index),
            reason: Reason::Sooner,
            expected_us: peer.word.wait_us(peer.granted).saturating_add(own.service_us),
            gain_us: wait_here_us - there_us,
        },
    }
}

/// What a request lent to this peer costs before it is worked on: the move, the line there, and what the peer's word
/// has been found to leave out.
fn time_there_us(move_cost_us: u32, service_us: u32, peer: &Peer) -> u32 {
    let line_us = peer.word.wait_us(peer.granted);
    let late_us = peer.late_us.saturating_sub(service_us / LATE_DIVISOR);
    line_us.saturating_add(late_us).saturating_add(peer.cost_us.max(move_cost_us))
}

/// Different numbers below `count`: all of a few, in an order that goes round so that ties do too, or two. They follow
/// from the turn alone, so that a run replays, and look like chance, so that nodes do not fall into step.
fn draw(count: usize, turn: usize) -> ArrayVec<usize, ALL_PEERS> {
    let mixed = mix(turn as u64);
    let below = |bits: u32, count: usize| ((u64::from(bits) * count as u64) >> 32) as usize;
    let first = below(mixed as u32, count);
    if count <= ALL_PEERS {
        return (0..count).map(|step| (first + step) % count).collect();
    }
    let second = below((mixed >> 32) as u32, count - 1);
    [first, second + usize::from(second >= first)].into_iter().collect()
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(turn: u64) -> u64 {
    let mut z = turn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
