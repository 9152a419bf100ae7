//! Lease messages: any bytes decoded, any bytes opened, and both state machines driven by a peer that says what it
//! likes, with every slot and every lease accounted for.
//!
//! Input: a byte that picks one of four ways, then the message, the sealed bytes, or a series of steps.

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_lease::channel::{Breach, RATCHET_MESSAGES, TAG_BYTES};
use keyferry_lease::helper::{self, Helper};
use keyferry_lease::lender::{self, Lender};
use keyferry_lease::message::{Declined, Return};
use keyferry_lease::{CREDITS_MAX, Channel, Incarnation, LeaseId, Message, Role, SlotList};
use keyferry_time::Time;
use keyferry_tls::{LentSealer, RecordKey, SEALED_BYTES_MAX};
use zeroize::Zeroizing;

use crate::input::Input;
use crate::{Seed, Target};

/// Bytes of a message at most, here.
const MESSAGE_BYTES_MAX: usize = 1024;
const LEASES: usize = 4;
const SLOTS: u16 = 12;
const CREDITS: usize = 4;
const TIMEOUT: Duration = Duration::from_millis(10);
/// Steps of one series at most.
const STEPS_MAX: usize = 256;

pub(crate) static TARGET: Target =
    Target { name: "lease_messages", heap_bytes_max: 64 << 10, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 => decode(input.take(MESSAGE_BYTES_MAX)),
        1 => channels(&mut input),
        2 => Lending::new().run(&mut input),
        _ => Serving::new().run(&mut input),
    }
}

/// What decodes encodes to something that decodes alike, in exactly the room it takes.
fn decode(bytes: &[u8]) {
    let Some((message, given_back)) = Message::decode(bytes) else { return };
    let mut wire = [0; MESSAGE_BYTES_MAX];
    let len = message.encode(given_back, &mut wire).expect("as long as it was");
    assert_eq!(len, bytes.len(), "nothing is left over");
    assert!(message.encode(given_back, &mut wire[..len - 1]).is_err(), "nothing is cut off");
    let len = message.encode(given_back, &mut wire).expect("as long as it was");
    assert_eq!(Message::decode(&wire[..len]), Some((message, given_back)));
    if let Some((Message::Go { key, .. }, _)) = Message::decode(bytes) {
        lent_key(key);
    }
}

/// A key that decodes seals its range and nothing behind it.
fn lent_key(bytes: &[u8]) {
    let Some(key) = RecordKey::decode(bytes) else { return };
    let mut again = Zeroizing::new([0; RecordKey::WIRE_BYTES]);
    key.encode(&mut again[..]);
    assert_eq!(&again[..], bytes, "there is one form of each key");
    let (records, first) = (key.records(), key.first());
    assert!(records > 0 && first.checked_add(records).is_some(), "the range is a range");
    let mut sealer = LentSealer::new(key);
    let mut record = [0; 128];
    for used in 1..=records.min(3) {
        let len = sealer.seal_data(b"reply", &mut record).expect("within the range");
        assert!(len == sealer.sealed_len(5) && len <= SEALED_BYTES_MAX);
        assert_eq!((sealer.used(), sealer.records_left()), (used, records - used));
    }
    if records <= 3 {
        assert!(sealer.seal_data(b"reply", &mut record).is_err(), "beyond the range");
    }
}

/// Both ends of a channel: what is sealed opens once and in order, anything else is a breach.
fn channels(input: &mut Input<'_>) {
    let secret = Zeroizing::new([7; 32]);
    let life = Incarnation { random: [[1; 32], [2; 32]], incarnation: [3, 4], pair: input.u16() };
    let receives = 3 + u32::from(input.u8());
    let mut first = Channel::new(&secret, &life, Role::First, receives);
    let mut second = Channel::new(&secret, &life, Role::Second, receives);
    let mut sealed = 0;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let mut wire = [0; MESSAGE_BYTES_MAX + TAG_BYTES];
        match input.below(5) {
            0 => {
                let bytes = input.piece();
                wire[..bytes.len()].copy_from_slice(bytes);
                assert_eq!(second.open(&mut wire[..bytes.len()]), Err(Breach::Forged), "nobody sealed that");
                return;
            }
            1 => second.gave_back(),
            2 => first.rang(),
            step => {
                let bytes = input.piece();
                let Some((message, _)) = Message::decode(bytes) else { continue };
                if first.room() == 0 {
                    continue;
                }
                let len = first.seal(&message, &mut wire).expect("room for the longest");
                sealed += 1;
                assert!(sealed < RATCHET_MESSAGES && len == bytes.len() + TAG_BYTES);
                if step == 3 {
                    let at = usize::from(input.u8()) % len;
                    wire[at] ^= input.u8().max(1);
                    assert_eq!(second.open(&mut wire[..len]), Err(Breach::Forged), "it was changed");
                    return;
                }
                assert_eq!(second.open(&mut wire[..len]), Ok(message));
            }
        }
        // What comes back may give back more than was used: then it is a breach, never more room.
        if second.owes_credit() {
            let len = second.seal(&Message::Credit, &mut wire).expect("room for the shortest");
            match first.open(&mut wire[..len]) {
                Ok(Message::Credit) => assert!(first.room() <= receives),
                other => return assert_eq!(other, Err(Breach::Credit)),
            }
        }
    }
}

fn any_lease(input: &mut Input<'_>) -> LeaseId {
    LeaseId { index: u16::from(input.u8()) % (LEASES as u16 + 1), generation: u32::from(input.u8()) % 8 }
}

fn any_slots(input: &mut Input<'_>) -> SlotList {
    let count = input.below(CREDITS_MAX + 1);
    (0..count).map(|_| u16::from(input.u8())).collect()
}

/// A's side, and where every slot is.
struct Lending {
    lender: Lender,
    now: Time,
    /// Leases the lender has granted, with what we know of them.
    leases: Vec<Lent>,
    /// Slots whose record is on its way to the client.
    taken: Vec<u16>,
}

struct Lent {
    id: LeaseId,
    gone: bool,
    claimed: bool,
    records: u32,
    bytes: u64,
    granted: usize,
}

impl Lending {
    fn new() -> Lending {
        let limits = lender::Limits {
            leases: LEASES,
            slots: SLOTS,
            credits: CREDITS,
            claim_timeout: TIMEOUT,
            silence_timeout: TIMEOUT,
        };
        Lending { lender: Lender::new(limits), now: Time::ZERO, leases: Vec::new(), taken: Vec::new() }
    }

    fn run(mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            if self.step(input).is_err() {
                // The worker ends the pair, and table and slots with it.
                return;
            }
            self.check();
        }
        self.wind_up();
    }

    fn known(&mut self, id: LeaseId) -> Option<&mut Lent> {
        self.leases.iter_mut().find(|lent| lent.id == id)
    }

    fn forget(&mut self, id: LeaseId) {
        self.leases.retain(|lent| lent.id != id);
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), lender::Violation> {
        let kind = input.below(12);
        match kind {
            0 => {
                if let Some(id) = self.lender.grant(u32::from(input.u8()), self.now) {
                    assert!(self.known(id).is_none(), "a lease of that name is under way");
                    self.leases.push(Lent {
                        id,
                        gone: false,
                        claimed: false,
                        records: 0,
                        bytes: 0,
                        granted: 0,
                    });
                }
            }
            1 => self.claim(any_lease(input), input.below(CREDITS + 2))?,
            2 => self.doorbell(any_lease(input), input.u8())?,
            3 => self.returned(any_lease(input), input)?,
            4 => {
                let id = any_lease(input);
                let revoked = self.lender.stage(id) == Some(lender::Stage::Orphaned);
                let sealing = |lent: &mut Lent| lent.claimed && lent.gone || lent.records > 0;
                let may = revoked || self.known(id).is_some_and(|lent| !sealing(lent));
                let ended = self.lender.declined(id);
                assert_eq!(ended.is_ok(), may, "only what was not sealed, or was revoked, is declined");
                ended?;
                self.forget(id);
            }
            5 if !self.taken.is_empty() => {
                let slot = self.taken.swap_remove(input.below(256) % self.taken.len());
                let lease = self.lender.released(slot);
                assert_eq!(self.lender.released(slot), None, "released once");
                if let Some(id) = lease
                    && self.lender.wants_slots(id)
                {
                    self.top_up(id);
                }
            }
            6 => self.top_up(any_lease(input)),
            7 => {
                let id = any_lease(input);
                self.lender.orphan(id, self.now);
                assert_eq!(self.lender.owner(id), None, "it belongs to nobody");
            }
            8 => {
                let id = any_lease(input);
                let may = self.lender.stage(id) == Some(lender::Stage::Orphaned);
                let ended = self.lender.revoked(id);
                assert_eq!(ended.is_ok(), may, "only what was taken back is revoked");
                ended?;
                self.forget(id);
            }
            9 => {
                // The key goes with the grant.
                let id = any_lease(input);
                if self.lender.stage(id) == Some(lender::Stage::Granted) && self.lender.slots_free() > 0 {
                    self.go(id, input.below(CREDITS + 2));
                }
            }
            10 => {
                self.now += Duration::from_millis(u64::from(input.u8()));
                let now = self.now;
                let mut late = Vec::new();
                self.lender.expire(now, |id, _, _| late.push(id));
                assert!(late.iter().all(|id| self.known(*id).is_some()), "only leases under way are late");
                self.lender.expire(now, |id, _, _| panic!("{id:?} is named twice"));
                late.into_iter().for_each(|id| self.lender.orphan(id, now));
            }
            _ => {
                let id = any_lease(input);
                self.lender.excuse(id, self.now);
            }
        }
        Ok(())
    }

    fn claim(&mut self, id: LeaseId, want: usize) -> Result<(), lender::Violation> {
        let before = self.lender.stage(id);
        let claimed = self.lender.claim(id);
        let Some(lent) = self.known(id) else {
            assert_eq!(claimed, Err(lender::Violation::Stage), "a lease that nobody knows");
            return claimed.map(drop);
        };
        assert!(!lent.claimed || claimed.is_err(), "claimed twice");
        let owner = claimed?;
        lent.claimed = true;
        assert!(owner.is_none() || before == Some(lender::Stage::Granted), "a key for a lease without owner");
        if owner.is_some() && self.lender.slots_free() > 0 {
            self.go(id, want);
        }
        Ok(())
    }

    fn go(&mut self, id: LeaseId, want: usize) {
        let slots = self.lender.go(id, want.max(1), self.now);
        assert!(!slots.is_empty() && slots.len() <= CREDITS, "slots within the credit");
        self.hand_out(id, &slots);
        if let Some(lent) = self.known(id) {
            lent.gone = true;
        }
    }

    fn hand_out(&mut self, id: LeaseId, slots: &SlotList) {
        assert!(slots.iter().all(|slot| *slot < SLOTS && !self.taken.contains(slot)), "a slot in two places");
        let granted = slots.len();
        if let Some(lent) = self.known(id) {
            lent.granted += granted;
        }
    }

    fn top_up(&mut self, id: LeaseId) {
        let Some(slots) = self.lender.top_up(id) else { return };
        assert!(self.known(id).is_some_and(|lent| lent.gone), "slots before the key");
        self.hand_out(id, &slots);
    }

    fn doorbell(&mut self, id: LeaseId, bytes: u8) -> Result<(), lender::Violation> {
        let immediate = id.doorbell();
        let Some((lease, slot)) = self.lender.doorbell(immediate, self.now)? else { return Ok(()) };
        assert_eq!(lease.doorbell(), immediate);
        self.record(lease, slot, bytes);
        Ok(())
    }

    fn record(&mut self, id: LeaseId, slot: u16, bytes: u8) {
        assert!(slot < SLOTS && !self.taken.contains(&slot), "a slot in two places");
        self.taken.push(slot);
        self.lender.count(id, usize::from(bytes));
        let lent = self.known(id).expect("a record of a lease under way");
        assert!(lent.gone && lent.granted > 0, "a record without key or slot");
        lent.granted -= 1;
        lent.records += 1;
        lent.bytes += u64::from(bytes);
    }

    fn returned(&mut self, id: LeaseId, input: &mut Input<'_>) -> Result<(), lender::Violation> {
        let flags = input.u8();
        let (mut records, mut bytes) = (u32::from(input.u8()), u64::from(input.u8()));
        if let (Some(lent), true) = (self.known(id), flags & 4 != 0) {
            // The honest count, and the last record without a bell.
            let last = u32::from(lent.granted > 0 && flags & 8 != 0);
            records = lent.records + last;
            bytes = lent.bytes + u64::from(last);
        }
        let outcome =
            Return { records, bytes, status: 200, keep_alive: flags & 1 != 0, complete: flags & 2 != 0 };
        for slot in self.lender.last_records(id, &outcome, self.now)? {
            self.record(id, slot, 1);
        }
        let lent = self.known(id).expect("a return of a lease under way");
        assert!(lent.gone, "nothing can return before the key was given");
        let equal = (lent.records, lent.bytes) == (records, bytes);
        let counted = self.lender.returned(id, &outcome);
        assert_eq!(counted.is_ok(), equal, "a count that differs is no return");
        self.forget(id);
        counted
    }

    fn check(&self) {
        assert_eq!(self.lender.open(), self.leases.len(), "leases under way");
        assert!(self.leases.len() <= LEASES);
        let granted: usize = self.leases.iter().map(|lent| lent.granted).sum();
        assert!(self.lender.slots_out() >= granted + self.taken.len(), "slots are out");
        assert_eq!(self.lender.slots_out() + self.lender.slots_free(), usize::from(SLOTS));
        for lent in &self.leases {
            assert!(lent.granted <= CREDITS, "within its credit");
            assert!(self.lender.stage(lent.id).is_some());
        }
        assert_eq!(
            self.lender.owners().count(),
            self.leases.iter().filter(|it| self.lender.owner(it.id).is_some()).count()
        );
    }

    /// Every lease ends, every packet is sent: nothing is left out.
    fn wind_up(mut self) {
        for lent in std::mem::take(&mut self.leases) {
            self.lender.orphan(lent.id, self.now);
            self.lender.revoked(lent.id).expect("a revoked lease ends");
        }
        for slot in std::mem::take(&mut self.taken) {
            assert_eq!(self.lender.released(slot), None, "its lease is over");
        }
        assert_eq!((self.lender.open(), self.lender.slots_out()), (0, 0), "everything is back");
    }
}

/// B's side: messages of any lender, an application that ends when it likes.
struct Serving {
    helper: Helper<u8>,
    leases: Vec<LeaseId>,
}

impl Serving {
    fn new() -> Serving {
        Serving { helper: Helper::new(LEASES), leases: Vec::new() }
    }

    fn run(mut self, input: &mut Input<'_>) {
        for _ in 0..STEPS_MAX {
            if input.is_empty() {
                break;
            }
            if self.step(input).is_err() {
                return;
            }
            assert_eq!(self.helper.open(), self.leases.len());
            assert!(self.leases.len() <= LEASES && self.helper.leases().count() == self.leases.len());
        }
        for id in std::mem::take(&mut self.leases) {
            assert!(self.helper.end(id).is_some() && self.helper.end(id).is_none(), "it ends once");
        }
        assert_eq!(self.helper.open(), 0);
    }

    fn step(&mut self, input: &mut Input<'_>) -> Result<(), helper::Violation> {
        let kind = input.below(5);
        let id = any_lease(input);
        let known = self.leases.contains(&id);
        match kind {
            0 => {
                let in_use = self.leases.iter().any(|other| other.index == id.index);
                let room = self.helper.has_room(id);
                assert_eq!(room.is_err(), in_use, "told before anything is taken for it");
                if room == Ok(false) {
                    assert!(self.helper.grant(id, 0).is_err(), "beyond our bound");
                    return Ok(());
                }
                let granted = self.helper.grant(id, input.u8());
                assert_eq!(granted.is_err(), in_use, "one lease an index");
                granted?;
                self.leases.push(id);
            }
            1 => {
                let had_key = self.helper.served(id).is_some_and(|it| it.stage == helper::Stage::Sealing);
                let slots = any_slots(input);
                let gone = self.helper.go(id, &slots);
                assert!(!had_key || gone.is_err(), "one key a lease");
                let served = gone?;
                assert_eq!(served.is_some(), known, "a key for whoever asked");
            }
            2 => {
                let sealing = self.helper.served(id).is_some_and(|it| it.stage == helper::Stage::Sealing);
                let slots = any_slots(input);
                let more = self.helper.more_slots(id, &slots);
                assert!(more.is_err() || sealing || !known, "slots without a key");
                more?;
            }
            3 => {
                if let Some(served) = self.helper.served(id) {
                    assert!(known && served.slots.len() <= CREDITS_MAX, "within what a lease can hold");
                    served.slots.pop_front();
                    if served.stage == helper::Stage::Running {
                        served.stage = helper::Stage::Claimed;
                    }
                }
            }
            _ => {
                assert_eq!(self.helper.end(id).is_some(), known);
                self.leases.retain(|other| *other != id);
            }
        }
        Ok(())
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = vec![
        // grant, claim, doorbell, return of what was counted, release; another revoked and ended.
        (
            "lent".into(),
            vec![
                2, 0, 5, 1, 0, 1, 4, 2, 0, 1, 100, 2, 0, 1, 90, 3, 0, 1, 15, 0, 0, 5, 0, 5, 0, 0, 6, 7, 0, 2,
                4, 0, 2,
            ],
        ),
        // More records than one grant of slots holds.
        (
            "streamed".into(),
            vec![
                2, 0, 5, 1, 0, 1, 4, 2, 0, 1, 9, 2, 0, 1, 9, 5, 0, 5, 0, 6, 0, 1, 2, 0, 1, 9, 8, 50, 3, 0, 1,
                5, 0, 0,
            ],
        ),
        // grant, slots after go, ends.
        (
            "served".into(),
            vec![3, 0, 1, 1, 7, 3, 1, 1, 1, 1, 1, 3, 5, 0, 6, 0, 7, 0, 2, 1, 1, 1, 8, 0, 3, 1, 1, 4, 1, 1],
        ),
    ];
    for (name, wire) in messages() {
        let mut decoded = vec![0];
        decoded.extend(&wire);
        seeds.push((format!("decode-{name}"), decoded));
        let mut sealed = vec![1, 0, 0, 16, 4, wire.len() as u8];
        sealed.extend(&wire);
        sealed.extend([1, 1, 1, 1, 4, wire.len() as u8]);
        sealed.extend(&wire);
        sealed.extend([3, wire.len() as u8]);
        sealed.extend(&wire);
        sealed.extend([5, 1]);
        seeds.push((format!("sealed-{name}"), sealed));
    }
    seeds
}

/// One message of each kind, in its wire form.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let lease = LeaseId { index: 3, generation: 2 };
    let slots: SlotList = [5, 1, 9].into_iter().collect();
    let mut key = [0; RecordKey::WIRE_BYTES];
    // Format 2, TLS_AES_128_GCM_SHA256, two records from number 7, a key of 16 bytes, an IV, the longest fragment.
    key[..4].copy_from_slice(&[2, 0, 0x13, 0x01]);
    key[11] = 7;
    key[19] = 2;
    key[20..36].fill(0x4b);
    key[52..64].fill(0x1f);
    key[64..].copy_from_slice(&[0x40, 0]);
    let outcome = Return { records: 2, bytes: 1400, status: 200, keep_alive: true, complete: true };
    let end = SocketAddr::from(([192, 0, 2, 7], 50_000));
    let all = [
        (
            "grant",
            Message::Grant {
                lease,
                client: end,
                local: end,
                head: b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                body: b"",
            },
        ),
        ("go", Message::Go { lease, key: &key, slots: slots.clone() }),
        ("slots", Message::Slots { lease, slots }),
        ("revoke", Message::Revoke { lease }),
        ("decline", Message::Decline { lease, why: Declined::Busy }),
        ("claim", Message::Claim { lease, records: 1 }),
        ("return", Message::Return { lease, outcome }),
        ("revoked", Message::Revoked { lease }),
        ("too-late", Message::TooLate { lease }),
        ("credit", Message::Credit),
    ];
    let encode = |(name, message): &(&'static str, Message<'_>)| {
        let mut wire = [0; MESSAGE_BYTES_MAX];
        let len = message.encode(0, &mut wire).expect("a short message");
        (*name, wire[..len].to_vec())
    };
    all.iter().map(encode).collect()
}
