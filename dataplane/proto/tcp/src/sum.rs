//! The Internet checksum (RFC 1071), over bytes in pieces, and in the same pass as they are copied.
//!
//! In: pieces of any length, in order. Out: their sum. Pure.

use std::net::IpAddr;

/// Bytes added before the lanes are: their 32 bits hold what so many add up to.
const BLOCK_BYTES: usize = 1 << 16;
/// Bytes of a step: as many lanes as two of the narrowest vector registers hold.
const STEP_BYTES: usize = 32;
const LANES: usize = STEP_BYTES / 4;

/// Each lane takes two words a step.
const _: () = assert!((BLOCK_BYTES / STEP_BYTES) as u64 * 2 * 0xffff <= u32::MAX as u64);

/// Sum of the pieces so far. It does not depend on the byte order words are read in (RFC 1071 section 2), so they are read
/// as they lie in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    words: u64,
    /// An odd number of bytes came so far: the next one is the second half of a word.
    odd: bool,
}

impl Sum {
    /// Takes two words that are beside the pieces: of a header, by its fields. Reading a header back that was written a
    /// moment ago in smaller parts would stall the processor.
    #[inline]
    pub(crate) fn add_words(&mut self, words: u32) {
        self.words += u64::from(words.to_be());
    }

    /// Takes the next piece.
    pub(crate) fn add(&mut self, piece: &[u8]) {
        let mut words = 0;
        for block in piece.chunks(BLOCK_BYTES) {
            let (steps, rest) = block.as_chunks::<STEP_BYTES>();
            let mut lanes = [0; LANES];
            for step in steps {
                add_step(&mut lanes, step);
            }
            words += total(&lanes, rest);
        }
        self.join(words, piece.len());
    }

    /// Takes the next piece and copies it: half of what reading it twice would cost.
    ///
    /// # Panics
    /// If the two differ in length.
    pub(crate) fn add_copied(&mut self, piece: &[u8], to: &mut [u8]) {
        assert_eq!(piece.len(), to.len(), "a piece fills its place");
        let mut words = 0;
        for (block, to) in piece.chunks(BLOCK_BYTES).zip(to.chunks_mut(BLOCK_BYTES)) {
            let (steps, rest) = block.as_chunks::<STEP_BYTES>();
            let (places, to_rest) = to.as_chunks_mut::<STEP_BYTES>();
            let mut lanes = [0; LANES];
            for (step, place) in steps.iter().zip(places) {
                *place = *step;
                add_step(&mut lanes, step);
            }
            to_rest.copy_from_slice(rest);
            words += total(&lanes, rest);
        }
        self.join(words, piece.len());
    }

    /// Takes the words of a piece of so many bytes. Behind an odd byte each of its bytes is in the other half of a word.
    fn join(&mut self, words: u64, bytes: usize) {
        self.words += if self.odd { u64::from(fold(words).swap_bytes()) } else { words };
        self.odd ^= bytes % 2 == 1;
    }

    /// Takes the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of a TCP segment of `len` bytes.
    pub(crate) fn add_pseudo_header(&mut self, from: IpAddr, to: IpAddr, len: usize) {
        for end in [from, to] {
            match end {
                IpAddr::V4(end) => self.add_words(end.to_bits()),
                IpAddr::V6(end) => {
                    (0..4).for_each(|word| self.add_words((end.to_bits() >> (32 * word)) as u32))
                }
            }
        }
        const TCP: u32 = 6;
        // Of an IP packet, so 16 bits hold its length.
        self.add_words(TCP << 16 | len as u32);
    }

    /// The sum, folded to 16 bits.
    pub(crate) fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }
}

#[inline]
fn add_step(lanes: &mut [u32; LANES], step: &[u8; STEP_BYTES]) {
    let (words, _) = step.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let pair = u32::from_ne_bytes(*word);
        *lane += (pair & 0xffff) + (pair >> 16);
    }
}

/// The lanes and what is behind the last step, together.
fn total(lanes: &[u32; LANES], rest: &[u8]) -> u64 {
    let (words, last) = rest.as_chunks::<4>();
    let lanes = lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>();
    let words = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
    let mut word = [0; 4];
    word[..last.len()].copy_from_slice(last);
    lanes + words + u64::from(u32::from_ne_bytes(word))
}

fn fold(mut words: u64) -> u16 {
    while words > 0xffff {
        words = (words & 0xffff) + (words >> 16);
    }
    words as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::{IpAddress, IpProtocol, checksum};

    use super::*;

    /// 0 and 0xffff are one number.
    fn same(a: u16, b: u16) -> bool {
        a % 0xffff == b % 0xffff
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_what_smoltcp_says_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..3000),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut read, mut copied, mut to) = (Sum::default(), Sum::default(), vec![0xee; bytes.len()]);
            for cut in cuts.windows(2) {
                let piece = &bytes[cut[0]..cut[1]];
                read.add(piece);
                copied.add_copied(piece, &mut to[cut[0]..cut[1]]);
            }
            prop_assert!(same(read.folded(), checksum::data(&bytes)));
            prop_assert_eq!(read.folded(), copied.folded());
            prop_assert_eq!(to, bytes);
        }

        #[test]
        fn pseudo_headers_are_smoltcps(from: [u8; 16], to: [u8; 16], len in 0..65_000_usize) {
            let four = |end: [u8; 16]| IpAddr::from([end[0], end[1], end[2], end[3]]);
            for (from, to) in [(four(from), four(to)), (from.into(), to.into())] {
                let mut sum = Sum::default();
                sum.add_pseudo_header(from, to, len);
                let (a, b) = (IpAddress::from(from), IpAddress::from(to));
                let theirs = checksum::pseudo_header(&a, &b, IpProtocol::Tcp, len as u32);
                prop_assert!(same(sum.folded(), theirs));
            }
        }
    }

    #[test]
    fn words_beside_the_pieces_do_not_depend_on_where_those_end() {
        let (mut sum, mut even) = (Sum::default(), Sum::default());
        sum.add(&[1, 2, 3]);
        sum.add_words(0x0405_0607);
        sum.add(&[8]);
        even.add(&[1, 2, 3, 8, 4, 5, 6, 7]);
        assert_eq!(sum.folded(), even.folded());
    }

    #[test]
    fn lanes_hold_the_largest_block() {
        let bytes = vec![0xff; 3 * BLOCK_BYTES + 7];
        let (mut sum, mut to) = (Sum::default(), vec![0; bytes.len()]);
        sum.add_copied(&bytes, &mut to);
        assert!(same(sum.folded(), 0xff00) && to == bytes);
    }
}
