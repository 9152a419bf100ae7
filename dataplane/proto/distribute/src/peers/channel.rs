//! What goes over between two distributors: notices, sealed into datagrams, each taken once and in order.
//!
//! In: notices to tell, the peer's datagrams, the time. Out: datagrams, the peer's notices, and which of ours it has.
//! Sans-IO; owned by the distributor's worker. Only the next datagram is taken, and what is lost is sent again from
//! there on (go-back-N): between distributors of one place next to nothing is lost, and order is what keeps two tables
//! alike. Memory is taken at start; a peer that takes nothing costs notices, which are counted, and nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use keyferry_time::Time;

use super::notice::{NOTICE_BYTES, Notice};
use super::seal::{ID_BYTES, Sealer, Secrets, TAG_BYTES, both};

/// Bytes of a datagram's payload at most: with the headers of UDP and IPv6 what every IPv6 network carries (RFC 8200 5).
pub(crate) const DATAGRAM_BYTES_MAX: usize = 1280 - 40 - 8;
/// Direction and number.
const HEADER_BYTES: usize = ID_BYTES + 8;
/// The number that is expected next, in front of the notices.
const ACK_BYTES: usize = 8;
/// Notices of one datagram.
pub(crate) const NOTICES_A_DATAGRAM: usize =
    (DATAGRAM_BYTES_MAX - HEADER_BYTES - ACK_BYTES - TAG_BYTES) / NOTICE_BYTES;
/// Datagrams under way.
const WINDOW: u64 = 64;
/// Notices that wait for room in the window.
pub(crate) const WAITING_MAX: usize = 4096;
/// Set in the numbers of datagrams that only acknowledge: they are not acknowledged themselves.
const BARE: u64 = 1 << 63;

/// Bounds of the time until something is sent again, which follows from how long the peer takes.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// How long the peer is thought to take, until it is known.
const RTT_FIRST: Duration = Duration::from_millis(1);

/// A datagram that is not acknowledged.
struct Sent {
    bytes: [u8; DATAGRAM_BYTES_MAX],
    len: usize,
    /// How many notices had been told with it.
    told: u64,
    at: Time,
    /// It was sent more than once: its time says nothing.
    again: bool,
}

/// Why a datagram is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// It is not the peer's, or damaged.
    Forged,
    /// It was taken before, or comes too early.
    OutOfOrder,
}

/// One end.
pub(crate) struct Channel {
    outgoing: Sealer,
    outgoing_bare: Sealer,
    incoming: Sealer,
    incoming_bare: Sealer,
    waiting: VecDeque<Notice>,
    /// Notices put into datagrams, and how many of them the peer has.
    told: u64,
    acknowledged: u64,
    window: Box<[Sent]>,
    /// Of datagrams: the first not acknowledged, the next to send again, the next new one.
    first: u64,
    cursor: u64,
    next: u64,
    bare: u64,
    /// When the first datagram under way was sent last, and since when nothing has been acknowledged.
    sent: Time,
    waits: Time,
    /// Of datagrams and their acknowledgements, smoothed; `None` until one was measured.
    rtt: Option<Duration>,
    /// Times in a row that nothing was acknowledged.
    retries: u32,
    expected: u64,
    owes_ack: bool,
}

impl Channel {
    pub(crate) fn new(secrets: Secrets) -> Channel {
        let (outgoing, incoming) = both(secrets);
        let unsent =
            || Sent { bytes: [0; DATAGRAM_BYTES_MAX], len: 0, told: 0, at: Time::ZERO, again: false };
        Channel {
            outgoing_bare: outgoing.again(),
            incoming_bare: incoming.again(),
            outgoing,
            incoming,
            waiting: VecDeque::with_capacity(WAITING_MAX),
            told: 0,
            acknowledged: 0,
            window: (0..WINDOW).map(|_| unsent()).collect(),
            first: 0,
            cursor: 0,
            next: 0,
            bare: BARE,
            sent: Time::ZERO,
            waits: Time::ZERO,
            rtt: None,
            retries: 0,
            expected: 0,
            owes_ack: false,
        }
    }

    /// Which of a station's channels a datagram is for; `None`: it is none.
    pub(crate) fn id_of(datagram: &[u8]) -> Option<[u8; ID_BYTES]> {
        (datagram.len() >= HEADER_BYTES + ACK_BYTES + TAG_BYTES).then(|| first_chunk(datagram))
    }

    /// What datagrams for this end begin with.
    pub(crate) fn id(&self) -> [u8; ID_BYTES] {
        self.incoming.id()
    }

    /// Tells the peer something, behind all that was told before. Answers the mark at which it
    /// [`has`](Channel::has) it; `None` if there is no room.
    pub(crate) fn tell(&mut self, notice: Notice) -> Option<u64> {
        if self.room() == 0 {
            return None;
        }
        self.waiting.push_back(notice);
        Some(self.told + self.waiting.len() as u64)
    }

    /// Notices that can be told now.
    pub(crate) fn room(&self) -> usize {
        WAITING_MAX - self.waiting.len()
    }

    /// Whether the peer has all that was told up to a mark.
    pub(crate) fn has(&self, mark: u64) -> bool {
        self.acknowledged >= mark
    }

    /// For how long the peer has not acknowledged what it should.
    pub(crate) fn silence(&self, now: Time) -> Duration {
        if self.first < self.next { now - self.waits } else { Duration::ZERO }
    }

    /// Takes a datagram of the peer; `heard` gets its notices, in the order they were told. Answers whether the peer
    /// has acknowledged something.
    pub(crate) fn take(
        &mut self,
        now: Time,
        datagram: &mut [u8],
        mut heard: impl FnMut(Notice),
    ) -> Result<bool, Refused> {
        let Some((header, sealed)) = datagram.split_at_mut_checked(HEADER_BYTES) else {
            return Err(Refused::Forged);
        };
        let number = u64::from_be_bytes(first_chunk(&header[ID_BYTES..]));
        let is_bare = number & BARE != 0;
        if !is_bare && number != self.expected {
            // Perhaps it has not heard that this end has it.
            self.owes_ack = true;
            return Err(Refused::OutOfOrder);
        }
        let incoming = if is_bare { &mut self.incoming_bare } else { &mut self.incoming };
        let opened = incoming.open(number, sealed).ok_or(Refused::Forged)?;
        let (ack, notices) = opened.split_at_checked(ACK_BYTES).ok_or(Refused::Forged)?;
        if !is_bare {
            self.expected += 1;
            self.owes_ack = true;
            // Kinds of later releases are for those who know them.
            notices.as_chunks::<NOTICE_BYTES>().0.iter().filter_map(Notice::decode).for_each(&mut heard);
        }
        Ok(self.acknowledge(now, u64::from_be_bytes(first_chunk(ack))))
    }

    /// The peer has all before `number`.
    fn acknowledge(&mut self, now: Time, number: u64) -> bool {
        if number <= self.first || number > self.next {
            return false;
        }
        let last = self.slot(number - 1);
        let (told, at, again) = (last.told, last.at, last.again);
        self.acknowledged = told;
        if !again {
            let took = now - at;
            self.rtt = Some(self.rtt.map_or(took, |rtt| (rtt * 7 + took) / 8));
        }
        (self.first, self.cursor) = (number, self.cursor.max(number));
        (self.sent, self.waits, self.retries) = (now, now, 0);
        true
    }

    fn slot(&mut self, number: u64) -> &mut Sent {
        &mut self.window[(number % WINDOW) as usize]
    }

    /// Sends again what was not acknowledged in time; answers whether there was something.
    pub(crate) fn timers(&mut self, now: Time) -> bool {
        let patience =
            (self.rtt.unwrap_or(RTT_FIRST) * 4).max(AGAIN.0) * self.retries.saturating_add(1).min(100);
        if self.first == self.cursor || now - self.sent < patience.min(AGAIN.1) {
            return false;
        }
        self.cursor = self.first;
        self.retries += 1;
        true
    }

    /// When [`timers`](Channel::timers) may have something to do.
    pub(crate) fn poll_at(&self) -> Option<Time> {
        (self.first < self.next).then(|| self.sent + AGAIN.0)
    }

    /// The next datagram to send, its length; `None`: nothing now.
    pub(crate) fn poll(&mut self, now: Time, out: &mut [u8; DATAGRAM_BYTES_MAX]) -> Option<usize> {
        if self.cursor < self.next {
            if self.cursor == self.first {
                self.sent = now;
            }
            let number = self.cursor;
            self.cursor += 1;
            let sent = self.slot(number);
            sent.again = true;
            out[..sent.len].copy_from_slice(&sent.bytes[..sent.len]);
            return Some(sent.len);
        }
        if !self.waiting.is_empty() && self.next - self.first < WINDOW {
            return Some(self.put_next(now, out));
        }
        if std::mem::take(&mut self.owes_ack) {
            let number = self.bare;
            self.bare += 1;
            let len = head(&self.outgoing.id(), number, self.expected, out) + TAG_BYTES;
            self.outgoing_bare.seal(number, &mut out[HEADER_BYTES..len]);
            return Some(len);
        }
        None
    }

    /// A datagram with what waits, kept until it is acknowledged.
    fn put_next(&mut self, now: Time, out: &mut [u8; DATAGRAM_BYTES_MAX]) -> usize {
        let number = self.next;
        let mut len = head(&self.outgoing.id(), number, self.expected, out);
        let notices = self.waiting.len().min(NOTICES_A_DATAGRAM);
        for notice in self.waiting.drain(..notices) {
            out[len..len + NOTICE_BYTES].copy_from_slice(&notice.encode());
            len += NOTICE_BYTES;
        }
        len += TAG_BYTES;
        self.outgoing.seal(number, &mut out[HEADER_BYTES..len]);
        self.told += notices as u64;
        self.owes_ack = false;
        if self.first == self.next {
            (self.sent, self.waits) = (now, now);
        }
        (self.next, self.cursor) = (number + 1, number + 1);
        let told = self.told;
        let sent = self.slot(number);
        (sent.len, sent.told, sent.at, sent.again) = (len, told, now, false);
        // It has to be sent again as it was sealed: a number seals one plaintext only.
        sent.bytes[..len].copy_from_slice(&out[..len]);
        len
    }
}

/// Writes what every datagram begins with; answers its bytes.
fn head(id: &[u8; ID_BYTES], number: u64, expected: u64, out: &mut [u8; DATAGRAM_BYTES_MAX]) -> usize {
    out[..ID_BYTES].copy_from_slice(id);
    out[ID_BYTES..HEADER_BYTES].copy_from_slice(&number.to_be_bytes());
    out[HEADER_BYTES..HEADER_BYTES + ACK_BYTES].copy_from_slice(&expected.to_be_bytes());
    HEADER_BYTES + ACK_BYTES
}

/// The first bytes, of which the caller knows that they are there.
fn first_chunk<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the length is known")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::notice::{FlowName, Name};
    use super::*;

    fn pair() -> (Channel, Channel) {
        let end = |is_first| Channel::new(Secrets::new(&[7; 32], b"fresh", is_first));
        (end(true), end(false))
    }

    fn notice(number: u16) -> Notice {
        Notice::Ask { flow: FlowName { client: [1; 16], port: number, service: Name(2) } }
    }

    fn port(notice: Notice) -> u16 {
        match notice {
            Notice::Ask { flow } => flow.port,
            other => panic!("{other:?}"),
        }
    }

    fn send(from: &mut Channel, now: Time) -> Vec<Vec<u8>> {
        let mut out = [0; DATAGRAM_BYTES_MAX];
        std::iter::from_fn(|| from.poll(now, &mut out).map(|len| out[..len].to_vec())).collect()
    }

    #[test]
    fn what_is_told_is_heard_and_acknowledged() {
        let (mut one, mut other) = pair();
        let now = Time::from_us(1);
        let marks: Vec<_> = (0..100).map(|number| one.tell(notice(number)).unwrap()).collect();
        let datagrams = send(&mut one, now);
        assert_eq!(datagrams.len(), 100usize.div_ceil(NOTICES_A_DATAGRAM));
        let mut heard = Vec::new();
        for mut datagram in datagrams {
            assert_eq!(Channel::id_of(&datagram), Some(other.id()));
            let mut replay = datagram.clone();
            assert_eq!(other.take(now, &mut datagram, |notice| heard.push(port(notice))), Ok(false));
            assert_eq!(other.take(now, &mut replay, |_| panic!("twice")), Err(Refused::OutOfOrder));
        }
        assert_eq!(heard, (0..100).collect::<Vec<_>>());
        assert!(marks.iter().all(|mark| !one.has(*mark)));
        let acks = send(&mut other, now);
        assert_eq!(acks.len(), 1, "one for all");
        assert_eq!(one.take(now, &mut acks[0].clone(), |_| ()), Ok(true));
        assert!(marks.iter().all(|mark| one.has(*mark)));
        assert!(send(&mut one, now).is_empty() && !one.timers(Time(u64::MAX / 2)));
    }

    #[test]
    fn a_peer_that_is_silent_is_seen_and_costs_only_notices() {
        let (mut one, _) = pair();
        let now = Time::from_us(1);
        let fits = WAITING_MAX + WINDOW as usize * NOTICES_A_DATAGRAM;
        let mut told = 0;
        while one.tell(notice(0)).is_some() {
            told += 1;
            if told % 7 == 0 {
                send(&mut one, now);
            }
        }
        assert!(told > WAITING_MAX && told <= fits, "{told} told, {fits} fit");
        assert_eq!(one.silence(now + Duration::from_secs(1)), Duration::from_secs(1));
    }

    #[test]
    fn what_the_peer_did_not_seal_is_refused() {
        let (mut one, mut other) = pair();
        let now = Time::from_us(1);
        one.tell(notice(1)).unwrap();
        let datagram = send(&mut one, now).remove(0);
        for at in HEADER_BYTES..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 1;
            assert_eq!(other.take(now, &mut damaged, |_| panic!("damaged")), Err(Refused::Forged));
        }
        for len in 0..datagram.len() {
            let mut cut = datagram[..len].to_vec();
            assert!(other.take(now, &mut cut, |_| panic!("cut")).is_err());
        }
        assert_eq!(one.take(now, &mut datagram.clone(), |_| panic!("its own")), Err(Refused::Forged));
        assert_eq!(other.take(now, &mut datagram.clone(), |_| ()), Ok(false));
    }

    proptest! {
        /// Whatever the network does, all is heard once and in order, and nothing is taken to be heard that was not.
        #[test]
        fn order_survives_the_network(
            told in prop::collection::vec(0usize..60, 1..40),
            fates in prop::collection::vec(0u8..8, 1..64),
        ) {
            let (mut one, mut other) = pair();
            let mut fates = fates.iter().cycle();
            let (mut now, mut next, mut marks) = (Time::from_us(1), 0, Vec::new());
            let (mut heard, mut late) = (Vec::new(), Vec::<(bool, Vec<u8>)>::new());
            let mut told = told.into_iter();
            for turn in 0..4000 {
                let batch = told.next();
                if batch.is_none() && heard.len() == next as usize {
                    break;
                }
                for _ in 0..batch.unwrap_or(0) {
                    marks.push(one.tell(notice(next)).unwrap());
                    next += 1;
                }
                one.timers(now);
                let mut under_way = std::mem::take(&mut late);
                under_way.extend(send(&mut one, now).into_iter().map(|datagram| (true, datagram)));
                under_way.extend(send(&mut other, now).into_iter().map(|datagram| (false, datagram)));
                for (forth, mut datagram) in under_way {
                    // In the end the network is a good one.
                    match if turn > 200 { 7 } else { *fates.next().unwrap() } {
                        0 | 1 => {}
                        2 => late.push((forth, datagram)),
                        fate => {
                            if fate == 3 {
                                late.push((forth, datagram.clone()));
                            }
                            let _ = match forth {
                                true => other.take(now, &mut datagram, |notice| heard.push(port(notice))),
                                false => one.take(now, &mut datagram, |_| ()),
                            };
                        }
                    }
                }
                let has = marks.iter().filter(|mark| one.has(**mark)).count();
                prop_assert!(has <= heard.len());
                now += Duration::from_millis(3);
            }
            prop_assert_eq!(heard, (0..next).collect::<Vec<_>>());
        }
    }
}
