//! What sits on top of either end: sends a known stream, reads one and compares it, and closes, as planned.
//!
//! In: bytes, the time. Out: how much may be sent or read now, and whether it is time to close.

use keyferry_tcp::Segment;
use keyferry_time::Time;

use super::plan::{End, Reading, Side};

/// Byte `at` of a stream.
pub fn byte(salt: u64, at: u64) -> u8 {
    ((at ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Part of a stream, made when it is copied.
pub struct Piece {
    pub salt: u64,
    pub start: u64,
    pub len: usize,
}

impl Segment for Piece {
    fn len(&self) -> usize {
        self.len
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        fill(self.salt, self.start + at as u64, to);
    }
}

/// Writes a stream's bytes from `start` on.
pub fn fill(salt: u64, start: u64, to: &mut [u8]) {
    for (at, place) in (start..).zip(to) {
        *place = byte(salt, at);
    }
}

pub struct App {
    pub side: Side,
    /// Of what it sends, and of what it expects.
    pub salt: u64,
    expected_salt: u64,
    pub sent: u64,
    pub got: u64,
    pub eof: bool,
    /// It has closed, or its half of it.
    pub ended: bool,
    reads_at: Time,
    paused: bool,
}

impl App {
    pub fn new(side: Side, salt: u64, expected_salt: u64) -> App {
        App {
            side,
            salt,
            expected_salt,
            sent: 0,
            got: 0,
            eof: false,
            ended: false,
            reads_at: Time::ZERO,
            paused: false,
        }
    }

    /// Bytes to hand over now.
    pub fn may_send(&self) -> usize {
        let limit = match self.side.turns {
            None => self.side.sends,
            Some(turns) => {
                ((self.got / turns.theirs + u64::from(turns.asks)) * turns.own).min(self.side.sends)
            }
        };
        ((limit - self.sent.min(limit)) as usize).min(self.side.piece)
    }

    /// Bytes to read now.
    pub fn may_read(&mut self, now: Time) -> usize {
        if !self.reads_at.is_due(now) {
            return 0;
        }
        match self.side.reading {
            Reading::AtOnce => 1 << 20,
            Reading::Slowly { bytes, .. } => bytes,
            Reading::Pausing { at, long } if self.got >= at && !self.paused => {
                self.paused = true;
                self.reads_at = now + long;
                0
            }
            Reading::Pausing { at, .. } if !self.paused => (at - self.got) as usize,
            Reading::Pausing { .. } => 1 << 20,
        }
    }

    /// Bytes were read.
    pub fn read(&mut self, now: Time, bytes: &[u8]) -> Result<(), String> {
        for (at, found) in (self.got..).zip(bytes) {
            let expected = byte(self.expected_salt, at);
            if *found != expected {
                return Err(format!("byte {at} is {found:#x}, and was {expected:#x}"));
            }
        }
        self.got += bytes.len() as u64;
        if self.got > self.side.receives {
            return Err(format!("{} bytes, {} were sent", self.got, self.side.receives));
        }
        if let Reading::Slowly { every, .. } = self.side.reading {
            self.reads_at = now + every;
        }
        Ok(())
    }

    /// When it reads on, if it waits for that.
    pub fn reads_at(&self, now: Time) -> Option<Time> {
        Some(self.reads_at).filter(|at| !at.is_due(now))
    }

    /// Whether it is to close now.
    pub fn is_to_end(&self) -> bool {
        !self.ended
            && self.sent == self.side.sends
            && match self.side.end {
                End::Sent => true,
                End::All => self.got == self.side.receives,
                End::Eof => self.eof,
            }
    }

    /// Numbers it wants to have acknowledged: its SYN, its bytes, its FIN.
    pub fn wants(&self) -> u64 {
        1 + self.sent + u64::from(self.ended)
    }

    /// The peer has closed.
    pub fn ends(&mut self) -> Result<(), String> {
        self.eof = true;
        if self.got < self.side.receives {
            return Err(format!("end of file after {} of {} bytes", self.got, self.side.receives));
        }
        Ok(())
    }
}
