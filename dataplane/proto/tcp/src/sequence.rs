//! Sequence numbers: arithmetic modulo 2^32 (RFC 9293 section 3.4), and where a connection's begin (RFC 6528).
//!
//! In: a flow, the secret, the time. Out: numbers. Pure.

use std::cmp::Ordering;
use std::ops::{Add, AddAssign, Sub};

use keyferry_time::Time;

use crate::flow::{Flow, Secret};

/// The clock of RFC 6528 section 3 ticks every 4 us.
const TICK_NS: u64 = 4_000;

/// A sequence number. Compared by which of two lies ahead of the other by less than half of the space, which holds
/// for any two numbers of one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seq(pub(crate) u32);

impl Seq {
    /// Bytes from `earlier` to this one, modulo 2^32.
    pub(crate) fn since(self, earlier: Seq) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The one further ahead.
    pub(crate) fn max(self, other: Seq) -> Seq {
        if self < other { other } else { self }
    }

    /// The one less far ahead.
    pub(crate) fn min(self, other: Seq) -> Seq {
        if other < self { other } else { self }
    }
}

impl PartialOrd for Seq {
    fn partial_cmp(&self, other: &Seq) -> Option<Ordering> {
        Some((self.0.wrapping_sub(other.0) as i32).cmp(&0))
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, by: u32) -> Seq {
        Seq(self.0.wrapping_add(by))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, by: u32) {
        *self = *self + by;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, by: u32) -> Seq {
        Seq(self.0.wrapping_sub(by))
    }
}

/// A flow's initial sequence number now: ISN = M + F(flow, secret) of RFC 6528. It moves on with the clock, so that a
/// flow's next connection begins behind its last one, and an outsider cannot foresee it.
pub(crate) fn initial(secret: Secret, flow: &Flow, now: Time) -> Seq {
    let clock = (now.0 / TICK_NS) as u32;
    Seq(clock.wrapping_add(secret.sequence(flow)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow(local: &str, peer: &str) -> Flow {
        Flow { peer: peer.parse().unwrap(), local: local.parse().unwrap() }
    }

    #[test]
    fn numbers_move_with_the_clock_and_differ_by_every_part_of_the_flow() {
        let secret = Secret::new(1);
        let one = flow("192.0.2.1:443", "192.0.2.7:1000");
        let now = Time::from_us(1_000_000);
        let first = initial(secret, &one, now);
        assert_eq!(initial(secret, &one, now + Duration::from_micros(8)), first + 2);
        for other in [
            flow("192.0.2.2:443", "192.0.2.7:1000"),
            flow("192.0.2.1:444", "192.0.2.7:1000"),
            flow("192.0.2.1:443", "192.0.2.8:1000"),
            flow("192.0.2.1:443", "192.0.2.7:1001"),
        ] {
            assert_ne!(initial(secret, &other, now), first);
        }
        assert_ne!(initial(Secret::new(2), &one, now), first);
    }

    #[test]
    fn numbers_wrap() {
        let near_the_end = Seq(u32::MAX - 1);
        assert!(near_the_end < near_the_end + 4);
        assert_eq!((near_the_end + 4).since(near_the_end), 4);
        assert_eq!(near_the_end.max(Seq(2)), Seq(2));
        assert_eq!(near_the_end.min(Seq(2)), near_the_end);
        assert_eq!(Seq(2) - 4, near_the_end);
    }
}
