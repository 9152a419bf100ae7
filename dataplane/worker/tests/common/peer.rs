//! The far end of a queue pair: a node with the right keys that does whatever a test wants it to.

use std::sync::Arc;

use arrayvec::ArrayVec;
use keyferry_decide::{LoadWord, NodeId};
use keyferry_fabric::sim::QueuePair;
use keyferry_fabric::{BURST, Completion, Limits, QueuePair as _, State, WrId};
use keyferry_lease::message::SessionName;
use keyferry_lease::{Channel, Incarnation, Message, PairSecret, Role};
use keyferry_worker::mailbox::{Connect, Mail};
use keyferry_worker::peer::SLOT_BYTES;

use super::World;

const MESSAGE_BYTES: usize = 8192;
/// Reply slots at each end.
pub const SLOTS: usize = 32;
const LATENCY_NS: u64 = 2_000;
const LIMITS: Limits = Limits {
    message_bytes_max: MESSAGE_BYTES,
    receives: 256,
    posted_max: 512,
    slots_bytes: SLOTS * SLOT_BYTES,
    staging_bytes: SLOTS * SLOT_BYTES,
};

/// What a worker says about sessions.
pub enum Said {
    /// Keep this one: its name, whether it goes on once, its secrets.
    Put(SessionName, bool, Vec<u8>),
    /// Whether this one is there: a token, its name.
    Take(u32, SessionName),
}

/// One end of a queue pair whose other end is the first worker's.
pub struct Peer {
    pub(super) queue_pair: QueuePair,
    /// Its end of the sealed channel.
    pub channel: Channel,
}

impl Peer {
    /// Connects one, and waits until the worker has it.
    pub fn connect(world: &mut World) -> Peer {
        Peer::connect_with(world, LIMITS.receives)
    }

    /// As [`connect`](Peer::connect), with so many receives posted at each end.
    pub fn connect_with(world: &mut World, receives: usize) -> Peer {
        let limits = Limits { receives, ..LIMITS };
        let before = world.total("peers_ready");
        let (queue_pair, theirs) = world.node.fabric.pair(limits, LATENCY_NS);
        let secret = PairSecret::new([7; 32]);
        let life = Incarnation { random: [[1; 32], [2; 32]], incarnation: [3, 4], pair: 0 };
        let channel = |role| Channel::new(&secret, &life, role, limits.receives as u32);
        let connect = Connect {
            queue_pair: Box::new(theirs),
            channel: channel(Role::Second),
            node: NodeId::of("peer"),
            moved: Arc::default(),
        };
        let sent = world.node.mailboxes[0].push(Mail::Peer(Box::new(connect)));
        assert!(sent.is_ok(), "a letter box has room");
        world.until(10, "the worker has the queue pair", |world| world.total("peers_ready") > before);
        Peer { queue_pair, channel: channel(Role::First) }
    }

    /// Seals and sends a message, whatever the worker's credit. Nothing once the queue pair is in error.
    pub fn say(&mut self, message: &Message<'_>) {
        let mut sealed = [0; MESSAGE_BYTES];
        let len = self.channel.seal(message, &mut sealed).expect("a message fits");
        self.send(&sealed[..len]);
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut completions = ArrayVec::<Completion, BURST>::new();
        // What the worker said stays unread, and its receive is not posted again.
        self.queue_pair.poll(&mut completions);
        if !self.is_over() {
            self.queue_pair.send(WrId(0), bytes).expect("what was posted is done");
        }
    }

    /// Tells how busy it is.
    pub fn tell_load(&mut self, word: &LoadWord) {
        self.queue_pair.write_load(&word.encode()).expect("a queue pair that is ready takes a word");
    }

    /// What the worker has said about sessions since; the rest is read and forgotten.
    pub fn hear(&mut self) -> Vec<Said> {
        let mut all = Vec::new();
        let mut completions = ArrayVec::<Completion, BURST>::new();
        self.queue_pair.poll(&mut completions);
        for completion in completions {
            let Completion::Message(received) = completion else { continue };
            match self.channel.open(self.queue_pair.message(&received)).expect("the worker keeps the order") {
                Message::Put { name, once, value, .. } => all.push(Said::Put(name, once, value.to_vec())),
                Message::Take { token, name } => all.push(Said::Take(token, name)),
                _ => {}
            }
            self.queue_pair.repost(received);
            self.channel.gave_back();
        }
        all
    }

    /// Whether the worker has ended the queue pair.
    pub fn is_over(&self) -> bool {
        self.queue_pair.state() == State::Error
    }
}
