//! The Internet checksum (RFC 1071), over bytes in pieces, and in the same pass as they are copied.
//!
//! In: pieces of any length, in order. Out: their sum. Pure.

use std::net::IpAddr;

use pulp::{Arch, NullaryFnOnce};

/// Bytes added before their sum is: its 32 bits hold what so many add up to. The loops over a block are plain sums of words
/// that lie one behind the other, which compilers make vectors of.
const BLOCK_BYTES: usize = 1 << 16;
const _: () = assert!((BLOCK_BYTES / 4) as u64 * 2 * 0xffff <= u32::MAX as u64);

/// A piece of fewer bytes is not worth asking which instructions the processor has.
const WIDE_BYTES_MIN: usize = 256;

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
        self.join(widely(Read(piece), piece.len()), piece.len());
    }

    /// Takes the next piece and copies it: half of what reading it twice would cost.
    ///
    /// # Panics
    /// If the two differ in length.
    pub(crate) fn add_copied(&mut self, piece: &[u8], to: &mut [u8]) {
        assert_eq!(piece.len(), to.len(), "a piece fills its place");
        self.join(widely(Copied(piece, to), piece.len()), piece.len());
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

/// The words of a piece that is read.
struct Read<'a>(&'a [u8]);

impl NullaryFnOnce for Read<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut words = 0;
        for block in self.0.chunks(BLOCK_BYTES) {
            let (pairs, rest) = block.as_chunks::<4>();
            words += u64::from(pairs.iter().map(both).sum::<u32>()) + last(rest);
        }
        words
    }
}

/// The words of a piece that is copied to a place of its length.
struct Copied<'a>(&'a [u8], &'a mut [u8]);

impl NullaryFnOnce for Copied<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut words = 0;
        for (block, to) in self.0.chunks(BLOCK_BYTES).zip(self.1.chunks_mut(BLOCK_BYTES)) {
            let (pairs, rest) = block.as_chunks::<4>();
            let (places, to_rest) = to.as_chunks_mut::<4>();
            let copied = pairs.iter().zip(places).map(|(pair, place)| {
                *place = *pair;
                both(pair)
            });
            words += u64::from(copied.sum::<u32>()) + last(rest);
            to_rest.copy_from_slice(rest);
        }
        words
    }
}

/// Does a piece of so many bytes with the widest vectors the processor has, if it is long.
#[inline]
fn widely(sum: impl NullaryFnOnce<Output = u64>, bytes: usize) -> u64 {
    if bytes < WIDE_BYTES_MIN { sum.call() } else { Arch::new().dispatch(sum) }
}

/// Two words, together.
#[inline(always)]
fn both(pair: &[u8; 4]) -> u32 {
    let pair = u32::from_ne_bytes(*pair);
    (pair & 0xffff) + (pair >> 16)
}

/// What is behind the last two words, filled up with zeros.
#[inline(always)]
fn last(rest: &[u8]) -> u64 {
    let mut pair = [0; 4];
    pair[..rest.len()].copy_from_slice(rest);
    u64::from(u32::from_ne_bytes(pair))
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
    fn a_sum_holds_the_largest_block() {
        let bytes = vec![0xff; 3 * BLOCK_BYTES + 7];
        let (mut sum, mut to) = (Sum::default(), vec![0; bytes.len()]);
        sum.add_copied(&bytes, &mut to);
        assert!(same(sum.folded(), 0xff00) && to == bytes);
    }
}
