//! The far end of a queue pair that serves what it is lent: the test's own helper, which can be told to break.

use std::collections::{BTreeMap, VecDeque};

use arrayvec::ArrayVec;
use keyferry_fabric::{BURST, Completion, QueuePair as _, WrId};
use keyferry_lease::message::Return;
use keyferry_lease::{LeaseId, Message};
use keyferry_tls::LentSealer;
use keyferry_worker::peer::SLOT_BYTES;

use super::World;
use super::peer::{Peer, SLOTS};

/// Plaintext of one record.
const RECORD_BYTES: usize = 16_384;

/// A request being served.
struct Work {
    lease: LeaseId,
    /// The reply has more than one record.
    long: bool,
    /// Plaintext of the reply not sealed yet.
    reply: VecDeque<u8>,
    sealer: Option<Box<LentSealer>>,
    slots: VecDeque<u16>,
    records: u32,
    bytes: u64,
}

/// What the lender has said.
enum Said {
    Granted(LeaseId, Vec<u8>),
    Gone(LeaseId, Box<LentSealer>, Vec<u16>),
    Slots(LeaseId, Vec<u16>),
    Revoked(LeaseId),
    Nothing,
}

/// A helper of the first worker's.
pub struct Helper {
    peer: Peer,
    works: BTreeMap<u16, Work>,
}

impl Helper {
    /// Connects one, and waits until the worker has it.
    pub fn connect(world: &mut World) -> Helper {
        Helper { peer: Peer::connect(world), works: BTreeMap::new() }
    }

    /// Leases of replies longer than a record that are not whole.
    pub fn serving_long(&self) -> usize {
        self.works.values().filter(|work| work.long).count()
    }

    /// Takes what has come, and seals what it has slots for.
    pub fn serve(&mut self) {
        if self.peer.is_over() {
            return;
        }
        for said in self.hear() {
            match said {
                Said::Granted(lease, reply) => self.granted(lease, reply),
                Said::Gone(lease, sealer, slots) => {
                    let work = self.works.get_mut(&lease.index).expect("a key of a lease that was granted");
                    work.sealer = Some(sealer);
                    work.slots.extend(slots);
                }
                Said::Slots(lease, slots) => {
                    if let Some(work) = self.works.get_mut(&lease.index) {
                        work.slots.extend(slots);
                    }
                }
                Said::Revoked(lease) => {
                    let known = self.works.remove(&lease.index).is_some();
                    self.peer.say(&if known {
                        Message::Revoked { lease }
                    } else {
                        Message::TooLate { lease }
                    });
                }
                Said::Nothing => {}
            }
        }
        let open: Vec<u16> = self.works.keys().copied().collect();
        open.into_iter().for_each(|index| self.seal(index));
        if self.peer.channel.owes_credit() {
            self.peer.say(&Message::Credit);
        }
    }

    fn hear(&mut self) -> Vec<Said> {
        let mut all = Vec::new();
        loop {
            let mut completions = ArrayVec::<Completion, BURST>::new();
            let Peer { queue_pair, channel } = &mut self.peer;
            queue_pair.poll(&mut completions);
            if completions.is_empty() {
                return all;
            }
            for completion in completions {
                let Completion::Message(received) = completion else { continue };
                let message =
                    channel.open(queue_pair.message(&received)).expect("the worker keeps the order");
                all.push(match message {
                    Message::Grant { lease, head, .. } => Said::Granted(lease, reply_to(head)),
                    Message::Go { lease, key, slots } => {
                        let sealer = LentSealer::decode(key).expect("a key");
                        Said::Gone(lease, Box::new(sealer), slots.to_vec())
                    }
                    Message::Slots { lease, slots } => Said::Slots(lease, slots.to_vec()),
                    Message::Revoke { lease } => Said::Revoked(lease),
                    _ => Said::Nothing,
                });
                queue_pair.repost(received);
                channel.gave_back();
            }
        }
    }

    fn granted(&mut self, lease: LeaseId, reply: Vec<u8>) {
        let long = reply.len() > RECORD_BYTES;
        let work = Work {
            lease,
            long,
            reply: reply.into(),
            sealer: None,
            slots: VecDeque::new(),
            records: 0,
            bytes: 0,
        };
        assert!(self.works.insert(lease.index, work).is_none(), "one lease at a time has an index");
        self.peer.say(&Message::Claim { lease, records: u32::from(!long) });
    }

    fn seal(&mut self, index: u16) {
        let Some(work) = self.works.get_mut(&index) else { return };
        let Some(sealer) = work.sealer.as_mut() else { return };
        let mut over = false;
        while !over && let Some(slot) = work.slots.pop_front() {
            let bytes: Vec<u8> = work.reply.drain(..work.reply.len().min(RECORD_BYTES)).collect();
            over = work.reply.is_empty();
            let at = usize::from(slot) * SLOT_BYTES;
            let queue_pair = &mut self.peer.queue_pair;
            let into = &mut queue_pair.staging()[at..at + SLOT_BYTES];
            let len = sealer.seal_data(&bytes, into).expect("the range is long");
            work.records += 1;
            work.bytes += len as u64;
            let bell = (!over).then(|| work.lease.doorbell());
            queue_pair.write(WrId(0), at..at + len, at, bell).expect("there is room");
            if bell.is_some() {
                self.peer.channel.rang();
            }
        }
        if over {
            let Work { lease, records, bytes, .. } = *work;
            self.works.remove(&index);
            let outcome = Return { records, bytes, status: 200, keep_alive: true, complete: true };
            self.peer.say(&Message::Return { lease, outcome });
        }
    }

    /// Overwrites all slots, which only a helper that is broken does.
    pub fn scribble(&mut self) {
        self.hear();
        for slot in 0..SLOTS {
            let range = slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES;
            self.peer.queue_pair.staging()[range.clone()].fill(0xa5);
            self.peer.queue_pair.write(WrId(0), range.clone(), range.start, None).expect("there is room");
        }
    }

    /// Says what ends the queue pair.
    pub fn breaks(&mut self) {
        self.peer.send(&[0; 40]);
    }
}

/// The reply of the application to a request for so many bytes.
fn reply_to(head: &[u8]) -> Vec<u8> {
    let head = std::str::from_utf8(head).expect("a head of text");
    let bytes = head.split_once("bytes=").map_or("", |(_, rest)| rest);
    let bytes = bytes.split(|digit: char| !digit.is_ascii_digit()).next().unwrap_or_default();
    let bytes: usize = bytes.parse().expect("how many");
    let mut reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
    reply.extend((0..bytes).map(|at| ((at * 31) >> 3) as u8));
    reply
}
