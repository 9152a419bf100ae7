//! How far others have told a distributor what they knew when it met them, for whoever asks on another thread.
//!
//! In: what the distributor has of each, by its number. Out: the same. Written by the worker when it publishes its counters, read
//! by the control thread; a reader sees what one peer has told whole.

use std::sync::atomic::{AtomicU64, Ordering};

use keyferry_distribute::{Distributor, PEERS_MAX, PeerId};

/// Set beside the number of connections once these are all.
const ALL: u64 = 1 << 63;

/// What each has told.
#[derive(Default)]
pub struct Told([AtomicU64; PEERS_MAX]);

impl Told {
    /// Connections that one has told of, and whether these are all it knew; nothing of one that is not there.
    ///
    /// # Panics
    /// If there is no such number: a mistake of the caller.
    pub fn by(&self, peer: PeerId) -> (u64, bool) {
        let told = self.0[peer.index()].load(Ordering::Relaxed);
        (told & !ALL, told & ALL != 0)
    }

    /// As a distributor has it now.
    pub(crate) fn publish(&self, distributor: &Distributor) {
        for (peer, told) in (0..).map(PeerId).zip(&self.0) {
            let (flows, is_all) = distributor.copied(peer).unwrap_or_default();
            told.store(flows | if is_all { ALL } else { 0 }, Ordering::Relaxed);
        }
    }
}
