//! The key log: the secrets of connections, for an operator who has asked to be able to read their own traffic.
//!
//! In: secrets as rustls derives them, on workers' threads during handshakes; out: lines in the format that tshark and
//! others read (NSS key log), taken by the thread that writes them. Between the two is a bounded queue: a worker never
//! waits, and what finds no room is counted. Without a key log in the configuration none of this exists, and no
//! environment variable makes it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use zeroize::{Zeroize, Zeroizing};

/// Lines that wait to be written: five to a handshake of TLS 1.3.
pub const LINES_MAX: usize = 4096;

/// Longest label: `CLIENT_HANDSHAKE_TRAFFIC_SECRET`.
const LABEL_BYTES_MAX: usize = 32;

/// A client random (RFC 8446 4.1.2).
const RANDOM_BYTES: usize = 32;

/// Longest secret: a traffic secret of SHA-384, or the 48 bytes of a master secret of TLS 1.2.
const SECRET_BYTES_MAX: usize = 48;

/// Longest line. Texts have its length from the start: a String that grows leaves copies behind.
pub const LINE_BYTES_MAX: usize = LABEL_BYTES_MAX + 1 + 2 * RANDOM_BYTES + 1 + 2 * SECRET_BYTES_MAX + 1;

/// One secret, in memory of its own size, erased once written.
struct Line {
    label: [u8; LABEL_BYTES_MAX],
    label_len: usize,
    random: [u8; RANDOM_BYTES],
    secret: [u8; SECRET_BYTES_MAX],
    secret_len: usize,
}

impl Line {
    /// Of parts that fit.
    fn new(label: &str, client_random: &[u8], secret: &[u8]) -> Line {
        let mut line = Line {
            label: [0; LABEL_BYTES_MAX],
            label_len: label.len(),
            random: [0; RANDOM_BYTES],
            secret: [0; SECRET_BYTES_MAX],
            secret_len: secret.len(),
        };
        line.label[..label.len()].copy_from_slice(label.as_bytes());
        line.random.copy_from_slice(client_random);
        line.secret[..secret.len()].copy_from_slice(secret);
        line
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LINE_BYTES_MAX));
        text.push_str(std::str::from_utf8(&self.label[..self.label_len]).unwrap_or_default());
        for part in [&self.random[..], &self.secret[..self.secret_len]] {
            text.push(' ');
            for byte in part {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
        }
        text.push('\n');
        text
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Secrets on their way from the workers to whoever writes them.
pub struct KeyLog {
    lines: ArrayQueue<Line>,
    lost: AtomicU64,
    /// The same once more, for an operator who captures packets.
    copies: ArrayQueue<Line>,
    copies_lost: AtomicU64,
    is_copied: AtomicBool,
}

impl Default for KeyLog {
    fn default() -> KeyLog {
        KeyLog {
            lines: ArrayQueue::new(LINES_MAX),
            lost: AtomicU64::new(0),
            copies: ArrayQueue::new(LINES_MAX),
            copies_lost: AtomicU64::new(0),
            is_copied: AtomicBool::new(false),
        }
    }
}

impl KeyLog {
    /// Takes in a secret. One that does not fit, or finds the queue full, is counted as lost.
    pub(crate) fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let fits = label.len() <= LABEL_BYTES_MAX
            && client_random.len() == RANDOM_BYTES
            && secret.len() <= SECRET_BYTES_MAX;
        if !fits {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // First: who captures has it before the packets it opens.
        if self.is_copied.load(Ordering::Acquire)
            && self.copies.push(Line::new(label, client_random, secret)).is_err()
        {
            self.copies_lost.fetch_add(1, Ordering::Relaxed);
        }
        if self.lines.push(Line::new(label, client_random, secret)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether secrets that come are kept for [`take_copy`](KeyLog::take_copy) as well. Those kept before are erased.
    pub fn copy(&self, is_copied: bool) {
        self.is_copied.store(is_copied, Ordering::Release);
        while self.copies.pop().is_some() {}
    }

    /// The next line of those kept besides, with its line feed.
    pub fn take_copy(&self) -> Option<Zeroizing<String>> {
        self.copies.pop().map(|line| line.text())
    }

    /// The next line to be written, with its line feed.
    pub fn take(&self) -> Option<Zeroizing<String>> {
        self.lines.pop().map(|line| line.text())
    }

    /// Secrets that found no room among those kept besides, since the start.
    pub fn copies_lost(&self) -> u64 {
        self.copies_lost.load(Ordering::Relaxed)
    }

    /// Secrets that were not logged, since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_format() {
        let log = KeyLog::default();
        log.log("CLIENT_RANDOM", &[0x0a; 32], &[0xfe; 48]);
        let line = log.take().unwrap();
        assert_eq!(*line, format!("CLIENT_RANDOM {} {}\n", "0a".repeat(32), "fe".repeat(48)));
        assert!(log.take().is_none());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_nothing_waits() {
        let log = KeyLog::default();
        for _ in 0..LINES_MAX + 3 {
            log.log("EXPORTER_SECRET", &[1; 32], &[2; 32]);
        }
        log.log("EXPORTER_SECRET", &[1; 31], &[2; 32]);
        log.log("EXPORTER_SECRET", &[1; 32], &[2; 49]);
        assert_eq!(log.lost(), 5);
        assert_eq!(std::iter::from_fn(|| log.take()).count(), LINES_MAX);
    }

    #[test]
    fn lines_are_kept_besides_while_somebody_captures() {
        let log = KeyLog::default();
        let of = |byte| log.log("CLIENT_RANDOM", &[byte; 32], &[byte; 48]);
        of(1);
        assert!(log.take_copy().is_none());
        log.copy(true);
        of(2);
        assert!(log.take_copy().is_some_and(|line| line.starts_with("CLIENT_RANDOM 0202")));
        of(3);
        log.copy(false);
        of(4);
        assert!(log.take_copy().is_none(), "none is left behind");
        assert_eq!(std::iter::from_fn(|| log.take()).count(), 4, "the log has all");
    }
}
