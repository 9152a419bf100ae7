//! One queue pair to a worker of another node, with everything that hangs on it: the sealed channel, the leases
//! both ways, the load words. It lives as long as the queue pair; the next life is another [`Peer`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_app::JobId;
use keyferry_decide::{Freshness, Lent, LoadWord, NodeId};
use keyferry_fabric::{BURST, Completion, PostError, QueuePair, Slots, State, WrId};
use keyferry_lease::channel::TAG_BYTES;
use keyferry_lease::message::{Declined, GRANT_BYTES, Return};
use keyferry_lease::{CREDITS_MAX, Channel, Helper, LeaseId, Lender, Message, SlotList, lender};
use keyferry_time::Time;
use keyferry_tls::{LentSealer, SEALED_BYTES_MAX};

use crate::conn::{PARTS_MAX, Plain};
use crate::mailbox::Connect;
use crate::moved::Moved;
use crate::slots::Occupied;

/// Bytes of one reply slot, and of one staging slot: the largest record, rounded up to whole cache lines.
pub const SLOT_BYTES: usize = SEALED_BYTES_MAX.next_multiple_of(64);

/// Messages that wait for the peer's receives or the send queue; each lease has at most one of each kind under way.
const OUTBOX_START: usize = 64;

/// Messages of one lease that may wait at once: slots for each record released, and one of each other kind.
const MESSAGES_A_LEASE: usize = CREDITS_MAX + 8;

/// A load word is fresh this long after we saw it change.
const LOAD_LIFETIME: Duration = Duration::from_millis(20);

/// Low bits of a work request's id: the staging slot of a WRITE. The bits above count the posts.
const STAGING_BITS: u32 = 16;

/// Stands for everything but a WRITE from staging.
const NO_STAGING: u16 = u16::MAX;

/// A queue pair in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId {
    /// Index in the worker's table.
    pub index: u16,
    /// Counts the lives of that index.
    pub life: u8,
}

/// Queue pairs of one worker at most.
pub const PEERS_MAX: usize = 128;

/// Sizes and times of the leases on one queue pair.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// Leases under way, each way.
    pub leases: usize,
    /// Slots one lease may hold.
    pub credits: usize,
    /// Grant to claim.
    pub claim_timeout: Duration,
    /// Silence of a helper that may write.
    pub silence_timeout: Duration,
    /// How long a record stays in its slot while the client does not acknowledge it.
    pub slot_patience: Duration,
}

/// Bytes of the message that grants a request.
pub(crate) fn grant_bytes(head: usize, body: usize) -> usize {
    GRANT_BYTES + head + body + TAG_BYTES
}

/// A message to be said once there is room, in order. Keys are made only when *go* is really posted.
#[derive(Clone, Copy, Debug)]
pub enum Intent {
    /// Answer a claim with the key.
    Go {
        /// The lease.
        lease: LeaseId,
        /// Slots wanted.
        want: usize,
    },
    /// Give a streaming lease more slots, if there are any.
    Slots(LeaseId),
    /// Take a lease back.
    Revoke(LeaseId),
    /// Not taken.
    Decline(LeaseId, Declined),
    /// The reply is ready.
    Claim {
        /// The lease.
        lease: LeaseId,
        /// Records of the whole reply, 0 if unknown.
        records: u32,
    },
    /// All is written.
    Return(LeaseId, Return),
    /// Ended by a revoke.
    Revoked(LeaseId),
    /// A revoke came too late.
    TooLate(LeaseId),
    /// The key is here, the reply is not: the lender need not worry.
    Alive(LeaseId),
}

/// A lent request at the helper.
pub struct Served {
    /// The application's name for it; `None` once its reply has ended there.
    pub job: Option<JobId>,
    /// Chunks waiting for the key, a slot, or staging memory.
    pub parts: ArrayVec<Plain, PARTS_MAX>,
    /// Chunks the application has.
    pub in_app: usize,
    /// Seals with the lent key.
    pub sealer: Option<LentSealer>,
    /// Status and persistence, once the reply has ended.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// The application failed after *go*.
    pub aborted: bool,
    /// When the lender last heard of it.
    pub heard_at: Time,
}

impl Served {
    /// Whether the application may have one more chunk.
    pub fn has_room(&self) -> bool {
        self.parts.len() + self.in_app < PARTS_MAX
    }
}

/// When a lease went through its stages, at the lender.
#[derive(Clone, Copy, Default)]
struct Move {
    granted_at: Time,
    claimed_at: Option<Time>,
    /// Grant to claim, as estimated, in us; 0 if it was not.
    expected_us: u32,
    /// The reply is short, so that claim to return is no client's time.
    short: bool,
}

/// One queue pair and what hangs on it.
pub struct Peer {
    /// Its name in this life.
    pub id: PeerId,
    /// The node it is of.
    pub node: NodeId,
    /// The queue pair.
    pub queue_pair: Box<dyn QueuePair>,
    /// This end's reply slots.
    pub slots: Arc<dyn Slots>,
    /// The sealed channel.
    pub channel: Channel,
    /// Leases granted to the peer.
    pub lender: Lender,
    /// Slots that records of clients are in.
    pub(crate) occupied: Occupied,
    /// Leases granted by the peer.
    pub helper: Helper<Served>,
    /// Messages waiting for room.
    pub outbox: VecDeque<Intent>,
    /// Messages that may wait.
    outbox_max: usize,
    /// Leases served here that wait for receives, slots or staging.
    pub stuck: VecDeque<LeaseId>,
    /// The peer's load.
    pub load: Freshness,
    /// Requests granted to it so far, and grants taken from it; both count round.
    granted: u32,
    taken: u32,
    /// The same for whoever shows them.
    moved: Arc<Moved>,
    /// What lending to it has taken.
    lent: Lent,
    /// What is measured of each lease under way, by its place in the lender's table.
    moves: Box<[Move]>,
    /// Staging slots nothing is posted from.
    staging_free: Vec<u16>,
    /// Work requests posted so far, and completed: they complete in order.
    posted: u64,
    completed: u64,
    scratch: Box<[u8]>,
}

impl Peer {
    /// A peer on a queue pair just connected.
    pub fn new(id: PeerId, connect: Connect, limits: &LeaseLimits) -> Peer {
        let Connect { queue_pair, channel, node, moved } = connect;
        let fabric = queue_pair.limits();
        let slots = (fabric.slots_bytes / SLOT_BYTES).min(usize::from(u16::MAX)) as u16;
        let staging = (fabric.staging_bytes / SLOT_BYTES).min(usize::from(NO_STAGING)) as u16;
        let lender = Lender::new(lender::Limits {
            leases: limits.leases,
            slots,
            credits: limits.credits,
            claim_timeout: limits.claim_timeout,
            silence_timeout: limits.silence_timeout,
        });
        Peer {
            id,
            node,
            slots: queue_pair.slots(),
            channel,
            lender,
            occupied: Occupied::new(slots),
            helper: Helper::new(limits.leases),
            outbox: VecDeque::with_capacity(OUTBOX_START.max(limits.leases)),
            outbox_max: OUTBOX_START + 2 * limits.leases * MESSAGES_A_LEASE,
            stuck: VecDeque::with_capacity(limits.leases),
            load: Freshness::new(LOAD_LIFETIME),
            granted: 0,
            taken: 0,
            moved,
            lent: Lent::default(),
            moves: vec![Move::default(); limits.leases].into_boxed_slice(),
            staging_free: (0..staging).rev().collect(),
            posted: 0,
            completed: 0,
            scratch: vec![0; fabric.message_bytes_max].into_boxed_slice(),
            queue_pair,
        }
    }

    /// Whether the queue pair takes work.
    pub fn is_ready(&self) -> bool {
        self.queue_pair.state() == State::Ready
    }

    /// Work requests that may still be posted.
    pub fn post_room(&self) -> usize {
        let outstanding = usize::try_from(self.posted - self.completed).unwrap_or(usize::MAX);
        self.queue_pair.limits().posted_max.saturating_sub(outstanding)
    }

    /// Whether one more message can be posted now.
    pub fn message_room(&self) -> bool {
        self.channel.room() > 0 && self.post_room() > 0
    }

    /// Ends a lease served for the peer and hands out what hangs on it, but for the key: that is wiped where it lies,
    /// because a move would leave its bytes behind.
    pub fn end_served(&mut self, lease: LeaseId) -> Option<Served> {
        self.helper.served(lease)?.state.sealer = None;
        self.helper.end(lease)
    }

    /// Whether more messages wait than leases of both sides could have to say: the peer asks and takes no answers.
    pub fn is_flooded(&self) -> bool {
        self.outbox.len() > self.outbox_max
    }

    /// Whether a request of this size fits one grant.
    pub fn fits(&self, head: usize, body: usize) -> bool {
        grant_bytes(head, body) <= self.scratch.len()
    }

    /// Seals and SENDs a message. The caller has looked at [`message_room`](Peer::message_room).
    ///
    /// # Errors
    /// The queue pair is broken: what was sealed is lost, so the channel has to end with it.
    pub fn say(&mut self, message: &Message<'_>) -> Result<(), PostError> {
        let sealed = self.channel.seal(message, &mut self.scratch).map_err(|_| PostError::Bounds)?;
        self.queue_pair.send(self.next_post(NO_STAGING), &self.scratch[..sealed])?;
        self.posted += 1;
        Ok(())
    }

    /// Zeroes the record headers of slots about to be granted, so that an unwritten slot is never taken for one.
    pub fn clear_slots(&self, slots: &SlotList) {
        for slot in slots {
            self.slots.clear(usize::from(*slot) * SLOT_BYTES, keyferry_tls::HEADER_BYTES);
        }
    }

    /// A staging slot to seal into, if the send queue and the peer's receives have room for what follows.
    pub fn take_staging(&mut self) -> Option<u16> {
        // A doorbell and the return behind it.
        if self.channel.room() < 2 || self.post_room() < 2 {
            return None;
        }
        self.staging_free.pop()
    }

    /// Where a staging slot lies in the staging memory.
    pub fn staging_range(slot: u16, len: usize) -> Range<usize> {
        let at = usize::from(slot) * SLOT_BYTES;
        at..at + len
    }

    /// WRITEs a sealed record from a staging slot into the peer's slot, ringing its bell if asked to.
    ///
    /// # Errors
    /// The queue pair is broken.
    pub fn write_record(
        &mut self,
        staging: u16,
        len: usize,
        slot: u16,
        doorbell: Option<u32>,
    ) -> Result<(), PostError> {
        let to = usize::from(slot) * SLOT_BYTES;
        let from = Peer::staging_range(staging, len);
        self.queue_pair.write(self.next_post(staging), from, to, doorbell)?;
        self.posted += 1;
        if doorbell.is_some() {
            self.channel.rang();
        }
        Ok(())
    }

    /// The id of the next post.
    fn next_post(&self, staging: u16) -> WrId {
        WrId((self.posted + 1) << STAGING_BITS | u64::from(staging))
    }

    /// Gives back a staging slot nothing was posted from.
    pub fn give_staging(&mut self, staging: u16) {
        self.staging_free.push(staging);
    }

    /// Polls a burst of completions; those of our own posts are settled here. A second completion of one post, as some
    /// adapters give, must not free memory that is posted again.
    pub fn poll(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        self.queue_pair.poll(completions);
        let (completed, staging_free) = (&mut self.completed, &mut self.staging_free);
        completions.retain(|completion| match completion {
            Completion::Posted(wr) | Completion::Flushed(wr) => {
                let (number, staging) = (wr.0 >> STAGING_BITS, wr.0 as u16);
                if number > *completed {
                    *completed = number;
                    if staging != NO_STAGING {
                        staging_free.push(staging);
                    }
                }
                false
            }
            Completion::Message(_) | Completion::Immediate(..) => true,
        });
    }

    /// Reads the peer's load word. Whether sessions lived there and do no more, or the other way round.
    pub fn read_load(&mut self, now: Time) -> bool {
        let before = self.load.word().draining;
        if self.load.see(&self.queue_pair.read_load(), now) {
            self.lent.fade();
        }
        self.load.word().draining != before
    }

    /// Whether sessions may live there.
    pub fn is_home(&self) -> bool {
        self.is_ready() && !self.load.word().draining
    }

    /// A request was granted to the peer, and is expected to be ready there so long after.
    pub fn note_granted(&mut self, lease: LeaseId, expected_us: u32, now: Time) {
        self.granted = self.granted.wrapping_add(1);
        self.moved.lent();
        if let Some(moved) = self.moves.get_mut(usize::from(lease.index)) {
            *moved = Move { granted_at: now, claimed_at: None, expected_us, short: false };
        }
    }

    /// The peer's reply is ready; `short` if it is all in one chunk.
    pub fn note_claimed(&mut self, lease: LeaseId, short: bool, now: Time) {
        let Some(moved) = self.moves.get_mut(usize::from(lease.index)) else { return };
        (moved.claimed_at, moved.short) = (Some(now), short);
        if moved.expected_us > 0 {
            self.lent.ready(moved.expected_us, now - moved.granted_at);
        }
    }

    /// A lease came back whole.
    pub fn note_returned(&mut self, lease: LeaseId, now: Time) {
        let moved = self.moves.get(usize::from(lease.index)).copied().unwrap_or_default();
        if let Move { claimed_at: Some(claimed_at), short: true, .. } = moved {
            self.lent.exchanged(now - claimed_at);
        }
    }

    /// A grant of the peer was read.
    pub fn note_taken(&mut self) {
        self.taken = self.taken.wrapping_add(1);
        self.moved.borrowed();
    }

    /// What `decide` needs to know.
    pub fn view(&self, now: Time) -> keyferry_decide::Peer {
        let word = self.load.word();
        keyferry_decide::Peer {
            ready: self.is_ready()
                && self.message_room()
                && self.lender.slots_free() > 0
                && self.lender.open() < self.moves.len(),
            fresh: self.load.is_fresh(now),
            word,
            granted: self.granted.wrapping_sub(word.taken),
            late_us: self.lent.late_us(),
            cost_us: self.lent.cost_us(),
        }
    }

    /// Writes our load word into the peer's page.
    pub fn write_load(&mut self, word: &LoadWord) {
        // A refused word is replaced by the next one; the peer sees staleness by its own clock.
        let word = LoadWord { taken: self.taken, ..*word };
        let _ = self.queue_pair.write_load(&word.encode());
    }
}
