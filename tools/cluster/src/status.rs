//! A process's counters, as `keyferry status` prints them. In: that JSON document. Out: sums, balance, what is at rest.

use std::fmt;

use keyferry_worker::counters::SUMS;
use serde_json::Value;

/// Counters that are back to zero once every client is gone. The first that is not names the leak.
const AT_REST: [&str; 10] = [
    "flows",
    "leases_open",
    "leases_serving",
    "chunks_out",
    "requests_out",
    "records_out",
    "gathers_out",
    "requests_in_app",
    "slots_out",
    "packets_in_use",
];

/// One answer.
pub struct Status(Value);

impl Status {
    /// Reads the one JSON document.
    pub fn parse(text: &[u8]) -> Status {
        Status(serde_json::from_slice(text).expect("status prints one JSON document"))
    }

    /// A counter of the whole node. An unknown name is a mistake of the test.
    pub fn total(&self, counter: &str) -> u64 {
        self.0["total"][counter].as_u64().unwrap_or_else(|| panic!("no counter {counter} in {self}"))
    }

    /// The sum of all counters of the whole node whose names begin so.
    pub fn sum_of(&self, prefix: &str) -> u64 {
        let counters = self.0["total"].as_object().expect("status has totals");
        counters.iter().filter(|(name, _)| name.starts_with(prefix)).filter_map(|(_, it)| it.as_u64()).sum()
    }

    /// The same counter of each worker.
    pub fn workers(&self, counter: &str) -> Vec<u64> {
        let threads = self.0["threads"].as_array().expect("status lists threads");
        threads
            .iter()
            .filter(|thread| thread["label"].as_str().is_some_and(|label| label.starts_with("worker ")))
            .map(|worker| {
                worker[counter].as_u64().unwrap_or_else(|| panic!("no counter {counter} in {self}"))
            })
            .collect()
    }

    /// The first counter that is not the sum of its parts, though the node is at rest.
    pub fn unbalanced(&self) -> Option<&'static str> {
        let sum = |parts: &[&str]| parts.iter().map(|part| self.total(part)).sum::<u64>();
        SUMS.iter().find(|(total, parts)| self.total(total) != sum(parts)).map(|(total, _)| *total)
    }

    /// Whether nothing of any client is left.
    pub fn is_at_rest(&self) -> bool {
        AT_REST.iter().all(|counter| self.total(counter) == 0)
    }
}

/// What the whole node has counted, without what it has not.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(counters) = self.0["total"].as_object() else { return self.0.fmt(f) };
        write!(f, "{}:", self.0["node"])?;
        let mut counted = counters.iter().filter(|(_, value)| value.as_u64() != Some(0));
        counted.try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
