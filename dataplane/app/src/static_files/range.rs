//! Ranges of bytes (RFC 9110 14): what a Range field asks of a file of a given length.
//!
//! In: the field's value. Out: the ranges to send, or that there are none. Pure.

use std::ops::Range;

use arrayvec::ArrayVec;

/// Ranges of one reply at most: a request for more is answered with the whole file (RFC 9110 14.2 and 17.15).
pub(super) const RANGES_MAX: usize = 8;

/// The ranges of a reply: at least one, in the order asked for, none empty, none overlapping.
pub(super) type Ranges = ArrayVec<Range<u64>, RANGES_MAX>;

/// What a Range field comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The whole file: another unit, not well-formed, too many, or overlapping.
    Whole,
    /// These parts of it.
    Parts(Ranges),
    /// 416: nothing of it.
    Nothing,
}

/// Reads a Range field for a file of `length` bytes.
pub(super) fn parse(value: &[u8], length: u64) -> Asked {
    let Some((unit, set)) = value.iter().position(|byte| *byte == b'=').map(|at| value.split_at(at)) else {
        return Asked::Whole;
    };
    // Names of units have no case (RFC 9110 14.1).
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Asked::Whole;
    }
    let mut ranges = Ranges::new();
    let mut seen = 0;
    for spec in set[1..].split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if spec.is_empty() {
            continue;
        }
        let Some(range) = one(spec, length) else { return Asked::Whole };
        seen += 1;
        if seen > RANGES_MAX {
            return Asked::Whole;
        }
        if range.is_empty() {
            continue;
        }
        if ranges.iter().any(|other: &Range<u64>| range.start < other.end && other.start < range.end) {
            return Asked::Whole;
        }
        ranges.push(range);
    }
    match (seen, ranges.is_empty()) {
        (0, _) => Asked::Whole,
        (_, true) => Asked::Nothing,
        _ => Asked::Parts(ranges),
    }
}

/// One range; an empty one cannot be satisfied. `None`: not well-formed.
fn one(spec: &[u8], length: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first, last) {
        ([], []) => None,
        ([], suffix) => Some(length.saturating_sub(number(suffix)?)..length),
        (first, []) => Some(number(first)?.min(length)..length),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(length)..last.saturating_add(1).min(length))
        }
    }
}

/// Digits; a number too large for any file is the largest.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(ranges: &[(u64, u64)]) -> Asked {
        Asked::Parts(ranges.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn ranges_of_a_hundred_bytes() {
        for (value, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("bytes=10-19", parts(&[(10, 20)])),
            ("Bytes=90-", parts(&[(90, 100)])),
            ("bytes=-5", parts(&[(95, 100)])),
            ("bytes=-500", parts(&[(0, 100)])),
            ("bytes=50-500", parts(&[(50, 100)])),
            ("bytes=0-18446744073709551615", parts(&[(0, 100)])),
            ("bytes=0-99999999999999999999999", parts(&[(0, 100)])),
            ("bytes=0-1, 5-6 ,,-1", parts(&[(0, 2), (5, 7), (99, 100)])),
            ("bytes=50-60,0-10", parts(&[(50, 61), (0, 11)])),
            ("bytes=0-1,200-", parts(&[(0, 2)])),
            ("bytes=100-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=99999999999999999999999-", Asked::Nothing),
            ("bytes=100-200,300-", Asked::Nothing),
            ("bytes=5-4", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=,", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=1", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=1-2-3", Asked::Whole),
            ("bytes 1-2", Asked::Whole),
            ("lines=1-2", Asked::Whole),
            ("bytes=0-10,5-15", Asked::Whole),
            ("bytes=0-,-1", Asked::Whole),
            ("bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16", Asked::Whole),
        ] {
            assert_eq!(parse(value.as_bytes(), 100), expected, "{value}");
        }
        assert_eq!(parse(b"bytes=0-", 0), Asked::Nothing);
        assert_eq!(parse(b"bytes=-1", 0), Asked::Nothing);
    }

    proptest! {
        #[test]
        fn ranges_are_within_the_file(value in "bytes=([0-9]{0,3}-[0-9]{0,3},?){0,10}", length in 0u64..500) {
            if let Asked::Parts(ranges) = parse(value.as_bytes(), length) {
                prop_assert!(!ranges.is_empty());
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= length));
                prop_assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= length);
            }
        }

        #[test]
        fn any_bytes_are_read(value in proptest::collection::vec(any::<u8>(), 0..60), length in any::<u64>()) {
            parse(&value, length);
            parse(&[b"bytes=", &value[..]].concat(), length);
        }
    }
}
