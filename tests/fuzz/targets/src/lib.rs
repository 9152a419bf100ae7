//! What the fuzzers run: for each parser of a peer's bytes one function that takes any bytes and asserts what has to
//! hold of the outcome.
//!
//! In: an input of a fuzzer, a seed, or one that failed once. Out: nothing, or a panic that says what does not hold.
//! The executables in `tests/fuzz/fuzz_targets` hand libFuzzer's inputs to [`run`]; the test `replay` does it with the
//! files of `tests/fuzz/seeds` and `tests/fuzz/regressions`. One thread.

#![forbid(unsafe_code)]

use std::cell::Cell;

pub mod input;

mod capture_filter;
mod client_hello;
mod client_packets;
mod config;
mod folders;
mod front;
mod handshake;
mod http_chunking;
mod http_head;
mod lease_messages;
mod link_messages;
mod load_word;
mod net;
mod notices;
mod packets;
mod records;
mod sealed;
mod static_files;
mod tcp_options;
mod tls_parties;
mod verbs_offer;

/// Heap bytes all executions of a process may keep together: what libraries set up when first used. A target that
/// kept a single byte each time would be found within a hundred thousand executions.
const KEPT_BYTES_MAX: i64 = 64 << 10;

/// An input to start from, and its name.
pub type Seed = (String, Vec<u8>);

/// One fuzz target.
pub struct Target {
    /// Its name: of the executable, and of the folders of its seeds and regressions.
    pub name: &'static str,
    /// Most heap bytes one execution may hold at once. The limits of the code under test, and a little more.
    pub heap_bytes_max: u64,
    /// Takes any bytes.
    pub execute: fn(&[u8]),
    /// Inputs a fuzzer starts from, each with a name: what it would not soon find by itself.
    pub seeds: fn() -> Vec<Seed>,
}

/// Every target.
pub static TARGETS: [&Target; 16] = [
    &capture_filter::TARGET,
    &client_hello::TARGET,
    &client_packets::TARGET,
    &config::TARGET,
    &handshake::TARGET,
    &http_chunking::TARGET,
    &http_head::TARGET,
    &lease_messages::TARGET,
    &link_messages::TARGET,
    &load_word::TARGET,
    &notices::TARGET,
    &packets::TARGET,
    &records::TARGET,
    &static_files::TARGET,
    &tcp_options::TARGET,
    &verbs_offer::TARGET,
];

thread_local! {
    static KEPT_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Executes the target of that name, as [`run_target`] does.
///
/// # Panics
/// If something does not hold: a finding. If there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.into_iter().find(|target| target.name == name);
    run_target(target.expect("an executable is named after its target"), input);
}

/// Executes a target on one input and holds its heap against the bounds. What C libraries take is not counted here;
/// libFuzzer's limit of resident memory bounds that.
///
/// # Panics
/// If something does not hold: a finding.
pub fn run_target(target: &Target, input: &[u8]) {
    let info = allocation_counter::measure(|| (target.execute)(input));
    assert!(
        info.bytes_max <= target.heap_bytes_max,
        "{} bytes of heap at once, {} are allowed",
        info.bytes_max,
        target.heap_bytes_max
    );
    let kept = KEPT_BYTES.get() + info.bytes_current;
    KEPT_BYTES.set(kept);
    assert!(kept <= KEPT_BYTES_MAX, "{kept} bytes of heap were kept, {} by this input", info.bytes_current);
}
