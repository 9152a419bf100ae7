//! Initial sequence numbers (RFC 6528), and how a socket is made to use one.
//!
//! In: a flow, the secret, the time. Out: a sequence number; the seed of an interface whose socket will draw just
//! that number. smoltcp draws initial sequence numbers from its interface's generator and takes none from outside,
//! while ours are promised to the peer before there is a socket. So the generator, a multiplication and an addition
//! modulo 2^64, is run backwards. A socket that drew another number would be seen at once: `half_open` compares.

use keyferry_time::Time;
use smoltcp::wire::TcpSeqNumber;

use crate::flow::{Flow, Secret};

/// The clock of RFC 6528 section 3 ticks every 4 us.
const TICK_NS: u64 = 4_000;

/// Multiplier and increment of smoltcp's generator (`rand.rs` of 0.14.0).
const MULTIPLIER: u64 = 0xbb2e_fcec_3c39_611d;
const INCREMENT: u64 = 0x7590_ef39;
const INVERSE: u64 = inverse(MULTIPLIER);

/// The inverse of an odd number modulo 2^64, by Newton's method: each step doubles the bits that are right.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut right_bits = 3;
    while right_bits < 64 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        right_bits *= 2;
    }
    inverse
}

const _: () = assert!(MULTIPLIER.wrapping_mul(INVERSE) == 1);

/// A flow's initial sequence number now: ISN = M + F(flow, secret) of RFC 6528. It moves on with the clock, so that a
/// flow's next connection begins behind its last one, and an outsider cannot foresee it.
pub(crate) fn initial(secret: Secret, flow: &Flow, now: Time) -> TcpSeqNumber {
    let clock = (now.0 / TICK_NS) as u32;
    TcpSeqNumber(clock.wrapping_add(secret.sequence(flow)) as i32)
}

/// The generator's state before the one given.
const fn before(state: u64) -> u64 {
    state.wrapping_sub(INCREMENT).wrapping_mul(INVERSE)
}

/// What the generator gives in this state.
const fn output(state: u64) -> u32 {
    let shift = 29 - (state >> 61);
    (state >> shift) as u32
}

/// The seed of an interface whose first socket begins with `initial`.
pub(crate) fn seed_for(initial: TcpSeqNumber) -> u64 {
    // With the three highest bits clear the output is bits 29 to 60.
    let wanted = u64::from(initial.0 as u32) << 29;
    for low in 0..1 << 29 {
        let drawn = before(wanted | low);
        // The interface draws its first IPv4 identification before, and again if that is 0.
        let identification = output(drawn) ^ (output(drawn) >> 16);
        if identification as u16 != 0 {
            return before(drawn);
        }
    }
    unreachable!("one identification in 65,536 is 0, not all of them")
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
}
