//! The other distributors of the same services: what they are told, and what waits for their word.
//!
//! In: their datagrams, what this one has to tell. Out: datagrams, their notices. What notices mean to the tables is
//! [`together`](crate::together)'s. Owned by the distributor.
//!
//! - [`notice`]: what is told; [`channel`]: how it gets there, [`seal`]ed; [`datagram`]: in IP and UDP
//! - [`holds`]: packets that wait

pub(crate) mod channel;
pub(crate) mod datagram;
pub(crate) mod holds;
pub(crate) mod notice;
pub(crate) mod seal;

use std::net::IpAddr;
use std::time::Duration;

use keyferry_time::Time;

use crate::flow::FlowKey;
use crate::packet::Segment;
use crate::{NodeId, Verdict};
use channel::{Channel, DATAGRAM_BYTES_MAX};
use datagram::PACKET_BYTES_MAX;
use holds::{HoldId, Holds};
use notice::Notice;
use seal::Secrets;

/// Other distributors at most.
pub const PEERS_MAX: usize = 15;

/// Another distributor, by a number below [`PEERS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u8);

impl PeerId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where two distributors reach each other: addresses of one family, on a network of both their ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// This one's.
    pub own: IpAddr,
    /// The other's.
    pub peer: IpAddr,
}

/// A walk over the flow table, to tell a peer of what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Walk {
    /// All of it, from this bucket on: the two have just met.
    Copy(usize),
    /// What is alive here, from this bucket on: so that it does not grow old at the peer.
    Refresh(usize),
    /// Until the next.
    Rest(Time),
}

/// One of the others.
pub(crate) struct Peer {
    pub(crate) channel: Channel,
    ends: Ends,
    pub(crate) walk: Walk,
    /// It has told all it knew when the two met.
    pub(crate) has_told_all: bool,
    /// Connections it told of until then.
    pub(crate) copied: u64,
}

/// A SYN, held until another distributor knows where its connection goes.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    pub(crate) key: FlowKey,
    pub(crate) node: NodeId,
    pub(crate) life: u8,
    /// The mark at which each of the others knows; [`NEVER`] of one that is not told.
    pub(crate) marks: Marks,
}

/// A segment of a connection that is not known here, held until one of the others says that it knows, or none does.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) key: FlowKey,
    pub(crate) segment: Segment,
    /// Those who have not answered, a bit each.
    pub(crate) from: u16,
}

/// For each of the others, when it has what was told.
pub(crate) type Marks = [u64; PEERS_MAX];

/// The mark of who is not told.
const NEVER: u64 = u64::MAX;
const _: () = assert!(PEERS_MAX <= u16::BITS as usize);

/// All others.
pub(crate) struct Peers {
    peers: [Option<Peer>; PEERS_MAX],
    /// How many there are: each is large, and most distributors have none.
    met: usize,
    pub(crate) words: Holds<Word>,
    pub(crate) answers: Holds<Answer>,
    /// SYNs that another one knows of now.
    known: Vec<(HoldId, Word)>,
    /// Held packets whose wait is over.
    pub(crate) released: Vec<(HoldId, Verdict)>,
    /// Bytes of what goes out.
    payload: Box<[u8; DATAGRAM_BYTES_MAX]>,
}

impl Peers {
    pub(crate) fn new() -> Peers {
        Peers {
            peers: [const { None }; PEERS_MAX],
            met: 0,
            words: Holds::new(holds::SYNS),
            answers: Holds::new(holds::STRAYS),
            known: Vec::with_capacity(holds::SYNS.len()),
            released: Vec::with_capacity(holds::HOLDS_MAX),
            payload: Box::new([0; DATAGRAM_BYTES_MAX]),
        }
    }

    /// Another one, just met; in place of the one of that number.
    pub(crate) fn add(&mut self, id: PeerId, ends: Ends, secrets: Secrets) {
        let (channel, walk) = (Channel::new(secrets), Walk::Copy(0));
        let it = Peer { channel, ends, walk, has_told_all: false, copied: 0 };
        self.met += usize::from(self.peers[id.index()].replace(it).is_none());
    }

    /// One is gone; answers whether it was there.
    pub(crate) fn remove(&mut self, id: PeerId) -> bool {
        let was_there = self.peers[id.index()].take().is_some();
        self.met -= usize::from(was_there);
        was_there
    }

    /// Whether there are no others.
    pub(crate) fn is_empty(&self) -> bool {
        self.met == 0
    }

    /// Whether none of them is being told what is in the flow table.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_empty() || self.peers.iter().flatten().all(|peer| matches!(peer.walk, Walk::Rest(_)))
    }

    pub(crate) fn each(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        let ids = (0..).map(PeerId);
        ids.zip(&mut self.peers).filter_map(|(id, peer)| Some((id, peer.as_mut()?)))
    }

    pub(crate) fn get(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers[id.index()].as_mut()
    }

    /// How many there are, and how many of them have told all they knew.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.met, self.peers.iter().flatten().filter(|peer| peer.has_told_all).count())
    }

    /// What one has told of what it knew when the two met: connections, and whether those are all.
    pub(crate) fn copied(&self, id: PeerId) -> Option<(u64, bool)> {
        self.peers[id.index()].as_ref().map(|peer| (peer.copied, peer.has_told_all))
    }

    /// Tells everybody something; answers a mark for each, and how many had no room for it.
    pub(crate) fn tell_all(&mut self, notice: Notice) -> (Marks, u64) {
        let (mut marks, mut lost) = ([NEVER; PEERS_MAX], 0);
        for (id, peer) in self.each() {
            match peer.channel.tell(notice) {
                Some(mark) => marks[id.index()] = mark,
                None => lost += 1,
            }
        }
        (marks, lost)
    }

    /// Those who have not been silent for so long, a bit each.
    pub(crate) fn heard_within(&mut self, time: Duration, now: Time) -> u16 {
        let heard = self.each().filter(|(_, peer)| peer.channel.silence(now) <= time);
        heard.fold(0, |all, (id, _)| all | 1 << id.0)
    }

    /// SYNs that another one knows of, out of those held.
    pub(crate) fn known(&mut self) -> impl Iterator<Item = (HoldId, Word)> {
        let Peers { peers, words, known, .. } = self;
        let has = |peer: &Option<Peer>, mark| {
            peer.as_ref().is_some_and(|peer| mark != NEVER && peer.channel.has(mark))
        };
        let is_known = |word: &Word| peers.iter().zip(word.marks).any(|(peer, mark)| has(peer, mark));
        words.release(is_known, |id, word| known.push((id, word)));
        known.drain(..)
    }

    /// A packet has been taken from its place.
    pub(crate) fn free(&mut self, id: HoldId) {
        match holds::SYNS.contains(&(id.index() as u16)) {
            true => self.words.free(id),
            false => self.answers.free(id),
        }
    }

    /// Packets held.
    pub(crate) fn held(&self) -> usize {
        self.words.len() + self.answers.len()
    }

    /// Whose channel a datagram is for.
    pub(crate) fn whose(&self, datagram: &[u8]) -> Option<PeerId> {
        let id = Channel::id_of(datagram)?;
        let is_it = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.channel.id() == id);
        let at = self.peers.iter().position(is_it)?;
        Some(PeerId(at as u8))
    }

    /// The next packet for one of the others; its length.
    pub(crate) fn poll(&mut self, now: Time, out: &mut [u8; PACKET_BYTES_MAX]) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let payload = &mut *self.payload;
        let (ends, len) = self
            .peers
            .iter_mut()
            .flatten()
            .find_map(|peer| Some((peer.ends, peer.channel.poll(now, payload)?)))?;
        Some(datagram::write(ends, &payload[..len], out))
    }

    /// When something is to be sent again or has waited for long enough.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        let again = self.peers.iter().flatten().filter_map(|peer| peer.channel.poll_at());
        again.chain(self.words.poll_at()).chain(self.answers.poll_at()).min()
    }
}
