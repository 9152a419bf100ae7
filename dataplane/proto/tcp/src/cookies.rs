//! Handshakes that remember themselves: a SYN-ACK whose number and timestamp say what was agreed, for when the table of
//! handshakes is full and the peer's third segment finds its own forgotten (RFC 4987 section 3.6).
//!
//! In: SYNs, third segments. Out: initial sequence numbers, and handshakes made out of what comes back. The number holds
//! the time in steps of a minute, the segment size, and a keyed hash of both and of the flow; the lowest bits of our
//! timestamp, which the peer echoes, hold what only options say. Owned by a worker's TCP.

use std::time::Duration;

use keyferry_time::Time;

use crate::connection::Shared;
use crate::flow::{Flow, Secret};
use crate::half_open::HalfOpen;
use crate::packet::{Header, Options, SynOptions};
use crate::seam::Segment;
use crate::sequence::Seq;

/// How long a cookie counts, once or twice.
const STEP: Duration = Duration::from_secs(64);

/// How long third segments without a handshake are looked at after the table was full.
const PRESSURE: Duration = Duration::from_secs(64);

/// Segment sizes a cookie can tell: the largest that is no larger than the peer's is taken.
const SIZES: [u16; 8] = [48, 536, 1_024, 1_220, 1_360, 1_400, 1_440, 1_460];

/// Bits of the number that are the hash, the size, the time.
const HASH_BITS: u32 = 24;
const SIZE_BITS: u32 = 3;

/// Bits of our timestamp that say what options said: a scale, SACK, ECN.
const STAMP_BITS: u32 = 6;
const NO_SCALE: u32 = 15;

const _: () = assert!(1 << SIZE_BITS == SIZES.len());

#[derive(Default)]
pub(crate) struct Cookies {
    /// Until when third segments without a handshake may hold a cookie.
    until: Time,
}

fn step(now: Time) -> u32 {
    (now.0 / STEP.as_nanos() as u64) as u32
}

fn seal(secret: Secret, flow: &Flow, theirs: Seq, step: u32, size: u32) -> Seq {
    // A purpose of its own: no other number of the flow is of its kind.
    let purpose = 1 << 63 | u64::from(step & 0x0fff_ffff) << 35 | u64::from(size) << 32 | u64::from(theirs.0);
    let hash = secret.of(flow, purpose) >> (u32::BITS - HASH_BITS);
    Seq(step << (HASH_BITS + SIZE_BITS) | size << HASH_BITS | hash)
}

/// Our timestamp with what the options said in its lowest bits; never later than our clock, so that the next one is not
/// taken for an older one (RFC 7323 section 5).
pub(crate) fn stamp(clock: u32, options: SynOptions, ecn: bool) -> u32 {
    let scale = options.window_scale.map_or(NO_SCALE, u32::from);
    let said = scale | u32::from(options.sack) << 4 | u32::from(ecn) << 5;
    let mask = (1 << STAMP_BITS) - 1;
    let stamp = clock & !mask | said;
    if (stamp.wrapping_sub(clock) as i32) > 0 { stamp.wrapping_sub(1 << STAMP_BITS) } else { stamp }
}

impl Cookies {
    /// The number of a SYN-ACK whose handshake may be forgotten.
    pub(crate) fn make(
        &mut self,
        now: Time,
        flow: &Flow,
        theirs: Seq,
        mss: Option<u16>,
        secret: Secret,
    ) -> Seq {
        self.until = now + PRESSURE;
        let mss = mss.unwrap_or(SIZES[1]);
        let size = SIZES.iter().rposition(|size| *size <= mss).unwrap_or(0);
        seal(secret, flow, theirs, step(now), size as u32)
    }

    /// Whether third segments without a handshake may come.
    pub(crate) fn are_out(&self, now: Time) -> bool {
        !self.until.is_due(now)
    }

    /// The handshake a third segment completes, if it returns a cookie of ours.
    pub(crate) fn open<S: Segment>(
        &self,
        now: Time,
        header: &Header,
        hash: u32,
        packet: &[u8],
        shared: &Shared<S>,
    ) -> Option<HalfOpen> {
        if !self.are_out(now) || !header.ack || header.syn || header.rst {
            return None;
        }
        let (ours, theirs) = (header.acknowledges - 1, header.seq - 1);
        let size = (ours.0 >> HASH_BITS) & ((1 << SIZE_BITS) - 1);
        let is_ours = |step: u32| seal(shared.secret, &header.flow, theirs, step, size) == ours;
        if !is_ours(step(now)) && !is_ours(step(now).wrapping_sub(1)) {
            return None;
        }
        let stamps = Options::parse(header, packet).timestamps;
        // Without timestamps nothing tells what else was offered, so nothing was agreed.
        let said = stamps.map_or(NO_SCALE, |stamps| stamps.echo & ((1 << STAMP_BITS) - 1));
        let scale = said & NO_SCALE;
        let options = SynOptions {
            window: header.window,
            mss: Some(SIZES[size as usize]),
            window_scale: (scale != NO_SCALE).then_some(scale as u8),
            sack: said & 1 << 4 != 0,
            timestamps: stamps,
        };
        Some(HalfOpen {
            flow: header.flow,
            hash,
            since: now,
            ours,
            theirs,
            options,
            ecn: said & 1 << 5 != 0,
            cookie: true,
            // When the SYN-ACK was sent is forgotten, so it tells no round trip.
            again: 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_never_ahead_of_the_clock() {
        let options =
            SynOptions { window: 0, mss: None, window_scale: Some(14), sack: true, timestamps: None };
        for clock in [0u32, 1, 62, 63, 64, 1_000, u32::MAX] {
            let stamp = stamp(clock, options, true);
            assert!(clock.wrapping_sub(stamp) < 64, "{clock} {stamp}");
            assert_eq!(stamp & 63, 14 | 16 | 32);
        }
    }

    #[test]
    fn a_number_tells_the_flow_the_time_and_the_size_apart() {
        let flow = |peer: &str| Flow { peer: peer.parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
        let secret = Secret::new(1);
        let one = seal(secret, &flow("192.0.2.7:1000"), Seq(7), 3, 2);
        for other in [
            seal(secret, &flow("192.0.2.7:1001"), Seq(7), 3, 2),
            seal(secret, &flow("192.0.2.7:1000"), Seq(8), 3, 2),
            seal(secret, &flow("192.0.2.7:1000"), Seq(7), 4, 2),
            seal(secret, &flow("192.0.2.7:1000"), Seq(7), 3, 1),
            seal(Secret::new(2), &flow("192.0.2.7:1000"), Seq(7), 3, 2),
        ] {
            assert_ne!(one.0 & 0xff_ffff, other.0 & 0xff_ffff);
        }
    }
}
