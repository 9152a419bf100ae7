//! Requests to the synthetic application and what its replies have to be.

use keyferry_app::synthetic::fill;
pub use keyferry_app::synthetic::fnv1a;

use crate::harness::NAME;

/// The body of `bytes` bytes for `seed`.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut body = vec![0; bytes];
    fill(seed, 0, &mut body);
    body
}

/// Fails at the first byte that is not the pattern's.
pub fn assert_is_pattern(body: &[u8], seed: u64, bytes: usize, what: &str) {
    assert_eq!(body.len(), bytes, "{what}: length");
    let expected = pattern(seed, bytes);
    if let Some(at) = body.iter().zip(&expected).position(|(found, expected)| found != expected) {
        panic!("{what}: byte {at} is {:#04x}, not {:#04x}", body[at], expected[at]);
    }
}

/// A whole GET request for `target`.
pub fn wire_request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n")
}
