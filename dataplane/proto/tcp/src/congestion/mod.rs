//! How much may be under way, and how fast it goes out.
//!
//! In: what acknowledgements and time-outs tell. Out: a window in bytes and a rate. Pure; part of a connection.

mod bbr;
mod cubic;
mod hystart;
mod reno;

use keyferry_time::Time;

use self::bbr::Bbr;
use self::cubic::Cubic;
use self::reno::Reno;

/// Which algorithm a connection uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406): fair beside what most servers use.
    #[default]
    Cubic,
    /// BBR: by measured rate and round trip, little moved by loss.
    Bbr,
    /// NewReno (RFC 5681): the plainest there is.
    Reno,
}

/// Bytes of an Ethernet segment, in which RFC 6928 section 2 counts.
const USUAL_MSS: u32 = 1_460;

/// Bytes of a first window of so many segments, but no more than as many of an Ethernet hold, or two segments (RFC 6928
/// section 2, which has ten).
pub(crate) fn initial_window(segments: u8, mss: u32) -> u32 {
    let segments = u32::from(segments.max(1));
    (segments * mss).min((2 * mss).max(segments * USUAL_MSS))
}

/// What was delivered between two points of a flight (draft-cheng-iccrg-delivery-rate-estimation).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) bytes_per_second: u64,
    /// Bytes delivered when the newest delivered piece was sent.
    pub(crate) prior_delivered: u64,
    /// The caller had no more to send meanwhile.
    pub(crate) app_limited: bool,
}

/// What one acknowledgement tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) now: Time,
    /// Bytes newly delivered, in order or not.
    pub(crate) delivered: u32,
    /// Bytes delivered in all.
    pub(crate) total_delivered: u64,
    /// Bytes in the pipe now, and before.
    pub(crate) pipe: u32,
    pub(crate) prior_pipe: u32,
    /// Bytes newly lost.
    pub(crate) lost: u32,
    /// Round trip of this acknowledgement, if it has one.
    pub(crate) rtt_ns: Option<u64>,
    pub(crate) smoothed_ns: u64,
    /// The window was what kept more from being sent.
    pub(crate) limited: bool,
    /// A loss is being recovered from.
    pub(crate) recovering: bool,
    pub(crate) rate: Option<Rate>,
    pub(crate) mss: u32,
}

/// What a window was before a loss that turns out to be none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    window: u32,
    threshold: u32,
}

/// The state of one of the algorithms.
pub(crate) enum Congestion {
    Cubic(Cubic),
    Reno(Reno),
    Bbr(Box<Bbr>),
}

impl Congestion {
    /// One that begins with so many bytes.
    pub(crate) fn new(algorithm: Algorithm, window: u32) -> Congestion {
        match algorithm {
            Algorithm::Cubic => Congestion::Cubic(Cubic::new(window)),
            Algorithm::Reno => Congestion::Reno(Reno::new(window)),
            Algorithm::Bbr => Congestion::Bbr(Box::new(Bbr::new(window))),
        }
    }

    /// Bytes that may be under way.
    pub(crate) fn window(&self) -> u32 {
        match self {
            Congestion::Cubic(cubic) => cubic.window,
            Congestion::Reno(reno) => reno.window,
            Congestion::Bbr(bbr) => bbr.window(),
        }
    }

    /// The window by which a connection may queue.
    pub(crate) fn window_to_queue(&self) -> u32 {
        match self {
            Congestion::Cubic(cubic) => cubic.window,
            Congestion::Reno(reno) => reno.window,
            Congestion::Bbr(bbr) => bbr.window_to_queue(),
        }
    }

    /// Bytes the window comes back to after a loss.
    pub(crate) fn threshold(&self) -> u32 {
        match self {
            Congestion::Cubic(cubic) => cubic.threshold,
            Congestion::Reno(reno) => reno.threshold,
            Congestion::Bbr(bbr) => bbr.window(),
        }
    }

    /// Whether a loss is answered by sending in proportion to what is delivered (RFC 6937); else the algorithm itself
    /// says what may be sent meanwhile.
    pub(crate) fn recovers_in_proportion(&self) -> bool {
        !matches!(self, Congestion::Bbr(_))
    }

    /// Bytes a second, or `None` before there is anything to tell it by. Where no rate is measured: so much more than a
    /// window a round trip that the window stays what limits.
    pub(crate) fn rate(&self, smoothed_ns: u64) -> Option<u64> {
        let by_window = |window: u32, threshold: u32| {
            if smoothed_ns == 0 {
                return None;
            }
            let percent = if window < threshold / 2 { 200 } else { 120 };
            Some((u64::from(window) * percent).saturating_mul(10_000_000) / smoothed_ns)
        };
        match self {
            Congestion::Cubic(cubic) => by_window(cubic.window, cubic.threshold),
            Congestion::Reno(reno) => by_window(reno.window, reno.threshold),
            Congestion::Bbr(bbr) => bbr.rate(),
        }
    }

    /// An acknowledgement came.
    pub(crate) fn acknowledged(&mut self, ack: &Ack) {
        match self {
            Congestion::Cubic(cubic) => cubic.acknowledged(ack),
            Congestion::Reno(reno) => reno.acknowledged(ack),
            Congestion::Bbr(bbr) => bbr.acknowledged(ack),
        }
    }

    /// Segments were lost, or a router marked some: once a window.
    pub(crate) fn congested(&mut self, now: Time, mss: u32, pipe: u32) {
        match self {
            Congestion::Cubic(cubic) => cubic.congested(now, mss),
            Congestion::Reno(reno) => reno.congested(mss),
            Congestion::Bbr(bbr) => bbr.recovery_began(pipe, mss),
        }
    }

    /// The retransmission timer fired: of what was under way all may be lost (RFC 5681 section 3.1).
    pub(crate) fn timed_out(&mut self, now: Time, mss: u32) {
        match self {
            Congestion::Cubic(cubic) => cubic.timed_out(now, mss),
            Congestion::Reno(reno) => reno.timed_out(mss),
            Congestion::Bbr(bbr) => bbr.timed_out(mss),
        }
    }

    /// All that was under way at the loss is acknowledged.
    pub(crate) fn recovered(&mut self) {
        match self {
            Congestion::Cubic(cubic) => cubic.window = cubic.window.max(cubic.threshold),
            Congestion::Reno(reno) => reno.window = reno.window.max(reno.threshold),
            Congestion::Bbr(bbr) => bbr.recovered(),
        }
    }

    /// What [`undo`](Congestion::undo) needs.
    pub(crate) fn before(&self) -> Before {
        Before { window: self.window(), threshold: self.threshold() }
    }

    /// Nothing was lost after all.
    pub(crate) fn undo(&mut self, before: Before) {
        match self {
            Congestion::Cubic(cubic) => cubic.undo(before.window, before.threshold),
            Congestion::Reno(reno) => {
                (reno.window, reno.threshold) = (reno.window.max(before.window), before.threshold);
            }
            Congestion::Bbr(bbr) => bbr.undo(),
        }
    }

    /// Nothing was sent for longer than a time-out: what the window says of the path is old, and it is a first one again, of
    /// so many bytes (RFC 5681 section 4.1).
    pub(crate) fn restart(&mut self, window: u32) {
        match self {
            Congestion::Cubic(cubic) => cubic.restart(window),
            Congestion::Reno(reno) => reno.window = reno.window.min(window),
            // Its model of the path forgets by itself.
            Congestion::Bbr(_) => {}
        }
    }
}
