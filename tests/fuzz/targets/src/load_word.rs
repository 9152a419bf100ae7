//! Load words of any content, read and decided upon.
//!
//! Input: a policy, the work waiting here, the turn; then one peer after the other: flags, work granted, 64 bytes.

use std::time::Duration;

use keyferry_decide::{Facts, Freshness, LOAD_BYTES, LoadWord, Peer, Policy, Reason, decide};
use keyferry_time::Time;

use crate::input::Input;
use crate::{Seed, Target};

/// Peers of one decision at most.
const PEERS_MAX: usize = 8;

pub(crate) static TARGET: Target = Target { name: "load_word", heap_bytes_max: 4096, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let policy = match input.below(4) {
        0 => Policy::Never,
        1 => Policy::Always,
        2 => Policy::Threshold { us: input.u32() },
        _ => Policy::Estimate { move_cost_us: input.u32() },
    };
    let flags = input.u8();
    let facts = Facts { lendable: flags & 1 == 0, pinned: flags & 2 != 0 };
    let (waiting_us, turn) = (input.u32(), input.u32() as usize);
    let own =
        LoadWord { waiting_us, outstanding: waiting_us, service_us: 10, capacity: 2, ..LoadWord::default() };
    let mut peers = Vec::with_capacity(PEERS_MAX);
    while !input.is_empty() && peers.len() < PEERS_MAX {
        peers.push(peer(&mut input));
    }
    let decision = decide(policy, facts, &own, &peers, turn);
    let Some(chosen) = decision.peer else {
        assert!(
            !matches!(decision.reason, Reason::Forced | Reason::Lighter | Reason::Sooner),
            "kept, and counted as lent"
        );
        return;
    };
    let chosen = &peers[chosen];
    assert!(facts.lendable && !facts.pinned && policy != Policy::Never, "lent against the rules");
    assert!(chosen.ready && !chosen.word.draining, "lent to a peer that takes nothing");
    if let Policy::Threshold { us } = policy {
        let there = u64::from(chosen.word.waiting_us);
        assert!(chosen.fresh && chosen.word.credits > 0, "lent on the word of yesterday");
        assert!(there + u64::from(us) < u64::from(waiting_us), "lent to a peer that is no lighter");
    }
    if let Policy::Estimate { move_cost_us } = policy {
        let there = u64::from(chosen.word.wait_us(chosen.granted)) + u64::from(move_cost_us);
        assert!(chosen.fresh && chosen.word.credits > chosen.granted, "lent on the word of yesterday");
        assert!(there < u64::from(own.wait_us(0)), "lent to wait longer");
    }
}

fn peer(input: &mut Input<'_>) -> Peer {
    let (flags, granted) = (input.u8(), input.u32());
    let mut page = [0; LOAD_BYTES];
    let bytes = input.take(LOAD_BYTES);
    page[..bytes.len()].copy_from_slice(bytes);
    if flags & 4 != 0 {
        seal(&mut page);
    }
    let word = LoadWord::decode(&page);
    if let Some(word) = word {
        assert_ne!(word.sequence, 0, "no word has been written");
        assert_eq!(LoadWord::decode(&word.encode()), Some(word), "encoded and decoded it is the same");
    }
    let mut seen = Freshness::new(Duration::from_millis(10));
    assert_eq!(seen.see(&page, Time::from_us(5)), word.is_some(), "the first good word is news");
    assert!(!seen.see(&page, Time::from_us(9)), "the same word again is none");
    assert_eq!(seen.word(), word.unwrap_or_default());
    Peer {
        ready: flags & 1 == 0,
        fresh: seen.is_fresh(Time::from_us(9)),
        word: seen.word(),
        granted,
        late_us: 0,
        cost_us: 0,
    }
}

/// Makes a page consistent, since no mutation finds sums: its fields are taken as they are.
fn seal(page: &mut [u8; LOAD_BYTES]) {
    let field = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let word = LoadWord {
        sequence: field(0),
        waiting_us: field(4),
        service_us: field(8),
        capacity: field(12),
        credits: field(16),
        draining: field(20) & 1 != 0,
        outstanding: field(24),
        taken: field(28),
    };
    *page = word.encode();
}

fn seeds() -> Vec<Seed> {
    let page = |waiting_us, draining| {
        LoadWord {
            sequence: 1,
            waiting_us,
            service_us: 10,
            capacity: 2,
            credits: 50,
            draining,
            outstanding: waiting_us / 10,
            taken: 0,
        }
        .encode()
    };
    let input = |policy: u8, waiting_us: u32, pages: &[[u8; LOAD_BYTES]]| {
        let mut bytes = vec![policy];
        if policy >= 2 {
            bytes.extend(100u32.to_le_bytes());
        }
        bytes.push(0);
        bytes.extend(waiting_us.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        for page in pages {
            bytes.extend([4, 7, 0, 0, 0]);
            bytes.extend(page);
        }
        bytes
    };
    let pages = [page(50, false), page(10, true), page(20, false)];
    vec![
        ("threshold".into(), input(2, 1000, &pages)),
        ("balanced".into(), input(2, 110, &pages)),
        ("estimate".into(), input(3, 1000, &pages)),
        ("always".into(), input(1, 0, &pages)),
        ("never".into(), input(0, 0, &pages)),
        ("none".into(), input(2, 1000, &[])),
    ]
}
