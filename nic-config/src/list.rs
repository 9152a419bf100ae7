//! The kernel's list format, `0-3,8,10-11`: CPU and node lists of sysfs and procfs.

use std::collections::BTreeSet;

/// Largest number a list may name; more than any kernel's `NR_CPUS`, so that a garbled file cannot exhaust memory.
const NUMBER_MAX: usize = 1 << 14;

/// The numbers of a list; what is no number or range is left out.
pub(crate) fn parse(text: &str) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            numbers.extend(first..=last.min(NUMBER_MAX));
        }
    }
    numbers
}

/// Numbers in that format.
pub(crate) fn write(numbers: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text = |&(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_ranges_and_single_numbers() {
        assert_eq!(parse("0-3,8,10-11\n"), BTreeSet::from([0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse("\n"), BTreeSet::new());
        assert_eq!(parse("5-4"), BTreeSet::new());
        assert_eq!(write(&BTreeSet::from([0, 1, 2, 5, 7, 8])), "0-2,5,7-8");
    }

    proptest! {
        #[test]
        fn survives_anything(text in ".{0,64}") {
            prop_assert!(parse(&text).len() <= NUMBER_MAX + 1);
        }

        #[test]
        fn finds_every_number(numbers in proptest::collection::btree_set(0usize..NUMBER_MAX, 0..20)) {
            let text = numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            prop_assert_eq!(&parse(&text), &numbers);
            prop_assert_eq!(&parse(&write(&numbers)), &numbers);
        }
    }
}
