//! The largest packet a path takes: from what the port takes downwards, where larger ones vanish (RFC 8899 section 4.3,
//! RFC 4821 section 7.7) or a router says so (RFC 1191, RFC 8201); and upwards again, when the path may have changed.
//!
//! In: time-outs, packets too big, what became of a segment that was larger. Out: segment sizes. Part of a connection.
//!
//! Upwards data itself is the probe (RFC 4821 section 7): one segment is larger than the others, with enough behind it that
//! its loss is noticed by what overtakes it. That loss tells of its size, so the window stays as it is.

use keyferry_time::Time;

use crate::connection::{Connection, Shared};
use crate::draft::{TCP_HEADER_BYTES, ip_header_bytes};
use crate::rack::DUPLICATES;
use crate::seam::Segment;
use crate::sending::Sending;

/// Time-outs in a row after which a path that takes only small packets is suspected.
const TIMEOUTS_MIN: u8 = 2;

/// Packets nearly every path takes (RFC 8899 section 5.1.2, BASE_PLPMTU).
const BASE_MTU: u16 = 1_200;

/// Least packet a path is believed to need (RFC 8200 section 5; for IPv4 RFC 1191 section 3 allows 68, but what asks for so
/// little asks for a packet for each few bytes, and 576 is what every host takes, RFC 791).
const IPV6_MTU_MIN: u16 = 1_280;
const IPV4_MTU_MIN: u16 = 576;

/// What paths take, for routers that do not say (RFC 1191 section 7.1): the next one down is tried.
const PLATEAUS: [u16; 6] = [8_166, 4_352, 2_002, 1_492, 1_006, IPV4_MTU_MIN];

/// Larger segments of one size that have to be lost for it to be too large (RFC 8899 section 5.1.2, MAX_PROBES).
const TRIES_MAX: u8 = 3;

/// What is gained by less than this is not searched for.
const GAP_MIN: u16 = 32;

/// The search for what a path takes, since it was found to take less than it might.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    /// The second in which that was found; [`u32::MAX`]: it takes all it might.
    since_s: u32,
    /// The next packet tried; 0: the largest there may be. And one that is too large; 0: none is known.
    next: u16,
    high: u16,
    /// How often `next` was lost.
    tries: u8,
    /// A first one has been tried.
    begun: bool,
}

fn second(now: Time) -> u32 {
    (now.0 / 1_000_000_000) as u32
}

impl Search {
    /// There is nothing to search for.
    pub(crate) const OVER: Search = Search { since_s: u32::MAX, next: 0, high: 0, tries: 0, begun: false };

    fn from(now: Time) -> Search {
        Search { since_s: second(now), ..Search::OVER }
    }
}

impl<S: Segment> Connection<S> {
    /// A time-out: where several follow each other, large packets may vanish on the way. Answers whether they are taken to.
    pub(crate) fn black_hole(&mut self, now: Time, sending: &Sending<S>) -> bool {
        let large = sending.flight.first().is_some_and(|first| first.len >= u32::from(self.mss));
        let suspected = sending.doublings > TIMEOUTS_MIN && large && self.path_mtu > BASE_MTU;
        if suspected {
            self.take_less(now, BASE_MTU);
        }
        suspected
    }

    fn take_less(&mut self, now: Time, mtu: u16) {
        self.path_mtu = mtu;
        self.size_segments();
        self.search = Search::from(now);
    }

    /// A router says that it cannot pass a packet of `len` bytes on, but one of `mtu`, or nothing of that (0). Answers whether
    /// that was news.
    pub(crate) fn too_big(&mut self, now: Time, len: u16, mtu: u32) -> bool {
        let mtu = match mtu {
            0 => PLATEAUS.into_iter().find(|plateau| *plateau < len).unwrap_or(IPV4_MTU_MIN),
            mtu => u16::try_from(mtu).unwrap_or(u16::MAX),
        };
        // What could have passed was not held up (RFC 5927 section 7.2).
        if mtu >= len {
            return false;
        }
        let least = if self.flow.peer.is_ipv4() { IPV4_MTU_MIN } else { IPV6_MTU_MIN };
        let mtu = mtu.max(least);
        if mtu < self.path_mtu {
            self.take_less(now, mtu);
        } else if self.search.begun && len > self.path_mtu && mtu < self.search.next {
            // Of the segment that was larger, whose size need not be guessed any more.
            self.search = Search { next: mtu, high: mtu + 1, tries: 0, ..self.search };
            if mtu == self.path_mtu {
                self.search = Search::from(now);
            }
        } else {
            return false;
        }
        let most = u32::from(mtu) - (ip_header_bytes(self.flow.peer.ip()) + TCP_HEADER_BYTES) as u32;
        if let Some(sending) = &mut self.sending {
            // What was larger is lost, and not for want of capacity.
            sending.flight.judge(|piece| Some(piece.len > most));
            sending.flight.take_lost_probe();
        }
        true
    }

    /// The largest packet there may be to the peer.
    fn mtu_max(&self, shared: &Shared<S>) -> u16 {
        let headers = (ip_header_bytes(self.flow.peer.ip()) + TCP_HEADER_BYTES) as u16;
        shared.config.mtu.min(self.peer_mss.saturating_add(headers))
    }

    /// Bytes of a segment larger than the others that is to go out next, of `most` that both windows take.
    pub(crate) fn larger(
        &mut self,
        now: Time,
        most: u32,
        sending: &Sending<S>,
        shared: &Shared<S>,
    ) -> Option<u32> {
        let Search { since_s, next, begun, .. } = self.search;
        let after = shared.tuning.mtu_raise_after.filter(|_| since_s != u32::MAX)?;
        // Without selective acknowledgements its loss would be told from congestion by nothing.
        if !self.sack || sending.recovery.is_on() || sending.flight.is_probed() {
            return None;
        }
        if !begun && u64::from(second(now).wrapping_sub(since_s)) < after.as_secs() {
            return None;
        }
        let top = self.mtu_max(shared);
        let size = if next == 0 { top } else { next.min(top) };
        if size <= self.path_mtu {
            self.search = Search::OVER;
            return None;
        }
        let mss = u32::from(self.mss);
        let len = mss + u32::from(size - self.path_mtu);
        if most < len + DUPLICATES * mss {
            return None;
        }
        self.search = Search { next: size, begun: true, ..self.search };
        Some(len)
    }

    /// The larger segment was lost.
    pub(crate) fn larger_is_lost(&mut self, now: Time) {
        self.search.tries += 1;
        if self.search.tries >= TRIES_MAX {
            self.search.high = self.search.next;
            self.search_on(now);
        }
    }

    /// It has arrived: so may all others.
    pub(crate) fn larger_arrived(&mut self, now: Time, shared: &mut Shared<S>) {
        self.path_mtu = self.search.next;
        self.size_segments();
        shared.counters.path_mtu_raised += 1;
        if self.path_mtu >= self.mtu_max(shared) {
            self.search = Search::OVER;
        } else {
            self.search_on(now);
        }
    }

    /// Between what arrives and what does not.
    fn search_on(&mut self, now: Time) {
        let Search { high, since_s, .. } = self.search;
        let open = high.saturating_sub(self.path_mtu);
        self.search = match high {
            0 => Search { since_s, begun: true, ..Search::OVER },
            _ if open <= GAP_MIN => Search::from(now),
            _ => Search { since_s, next: self.path_mtu + open / 2, high, tries: 0, begun: true },
        };
    }
}
