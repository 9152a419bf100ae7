//! What a client does about frames that are lost on their way to the node: it sends them again (RFC 6298 section 5).
//!
//! In: the frames it sends, the node's frames, the time. Out: which frames are to be sent again. Pure.

use std::collections::VecDeque;

use super::client;

/// Time-out of a SYN (RFC 6298 section 2.1).
const SYN_TIMEOUT_NS: u64 = 1_000_000_000;
/// Time-out of all else. RFC 6298 section 2.4 wants a second; Linux takes no less than this (TCP_RTO_MIN).
const TIMEOUT_NS: u64 = 200_000_000;

/// What of a client's has not been acknowledged.
#[derive(Default)]
pub struct Patience {
    /// Frames, each with the sequence number behind it.
    frames: VecDeque<(u32, Vec<u8>)>,
    timeout_ns: u64,
    due_ns: u64,
}

impl Patience {
    /// Takes note of a frame that is sent. An acknowledgement alone is none to wait for.
    pub fn sent(&mut self, now_ns: u64, frame: &[u8]) {
        let Some(end) = client::end(frame) else { return };
        if self.frames.is_empty() {
            self.timeout_ns = if client::is_syn(frame) { SYN_TIMEOUT_NS } else { TIMEOUT_NS };
            self.due_ns = now_ns + self.timeout_ns;
        }
        self.frames.push_back((end, frame.to_vec()));
    }

    /// Takes note of what a frame of the node's acknowledges.
    pub fn heard(&mut self, now_ns: u64, frame: &[u8]) {
        let Some(acknowledged) = client::acknowledged(frame) else { return };
        let before = self.frames.len();
        while self.frames.front().is_some_and(|(end, _)| acknowledged.wrapping_sub(*end) < 1 << 31) {
            self.frames.pop_front();
        }
        if self.frames.len() < before {
            (self.timeout_ns, self.due_ns) = (TIMEOUT_NS, now_ns + TIMEOUT_NS);
        }
    }

    /// What has to be sent again now, in order: all that is not acknowledged, and after twice that time once more.
    pub fn again(&mut self, now_ns: u64) -> Vec<Vec<u8>> {
        if self.frames.is_empty() || now_ns < self.due_ns {
            return Vec::new();
        }
        self.timeout_ns *= 2;
        self.due_ns = now_ns + self.timeout_ns;
        self.frames.iter().map(|(_, frame)| frame.clone()).collect()
    }
}
