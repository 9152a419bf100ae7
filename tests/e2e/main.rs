//! End-to-end tests: real peers (curl, openssl, Python, wrk, the kernel's TCP) against two real nodes over DPDK.
//!
//! `tools/test` runs them; alone: `cargo test -p keyferry --test e2e`, as root. Every test makes its own nodes, so
//! any of them runs alone, and runs with one worker and with two. `KEYFERRY_E2E=full` adds what takes longer.

#![forbid(unsafe_code)]

mod cases;
mod client;
#[path = "../smuggling/corpus.rs"]
mod corpus;
mod embedded;
mod faulty;
mod harness;

/// Makes two tests of each function: with one worker a node and with two.
macro_rules! with_one_and_two_workers {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[test]
            fn one_worker() {
                super::$name(1);
            }
            #[test]
            fn two_workers() {
                super::$name(2);
            }
        }
    )+};
}
pub(crate) use with_one_and_two_workers;

/// Whether the longer matrix is asked for.
fn is_full() -> bool {
    std::env::var("KEYFERRY_E2E").is_ok_and(|value| value == "full")
}
