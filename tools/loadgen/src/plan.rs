//! Draws the requests of one thread: which size, which seed, meant for when, when to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_app::synthetic::splitmix64;

use crate::args::Args;
use crate::arrivals::{Arrivals, Process};
use crate::check::Check;
use crate::target::Target;

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// What its body has to be.
    pub check: Check,
    /// When it was meant to be sent; in a closed loop, when it was.
    pub intended: Instant,
    /// When it was handed to TLS.
    pub started: Instant,
    /// When the head of its reply was read.
    pub first_byte: Option<Instant>,
}

/// One thread's source of requests.
#[derive(Debug)]
pub struct Plan {
    target: Arc<Target>,
    sizes: Vec<u64>,
    rotate: Vec<String>,
    /// Requests still to be sent; `None`: no end but time.
    left: Option<u64>,
    /// Requests drawn; with the thread's own start, no two requests of a run share a seed.
    drawn: u64,
    start: u64,
    /// Open loop: when requests are meant to be sent.
    arrivals: Option<Arrivals>,
    /// The moment arrivals count from.
    epoch: Instant,
    text: String,
}

impl Plan {
    /// One plan a thread. `process`: none in a closed loop; `epoch`: the start of the run.
    pub fn split(args: &Args, target: &Arc<Target>, process: Option<&Process>, epoch: Instant) -> Vec<Plan> {
        let threads = args.threads.get();
        (0..threads)
            .map(|index| Plan {
                target: Arc::clone(target),
                sizes: args.bytes_mix.clone(),
                rotate: args.rotate.clone(),
                left: args.requests.map(|requests| {
                    requests / threads as u64 + u64::from((index as u64) < requests % threads as u64)
                }),
                drawn: 0,
                start: args.seed.wrapping_add((index as u64) << 48),
                arrivals: process.map(|process| {
                    Arrivals::new(process.clone(), args.seed, index, threads, args.duration())
                }),
                epoch,
                text: String::new(),
            })
            .collect()
    }

    /// Whether every request has been drawn.
    pub fn is_done(&self) -> bool {
        self.left == Some(0) || self.arrivals.as_ref().is_some_and(|arrivals| arrivals.peek().is_none())
    }

    /// Whether requests have moments of their own.
    pub fn is_open_loop(&self) -> bool {
        self.arrivals.is_some()
    }

    /// The moment of the next request, in an open loop.
    pub fn next_at(&self) -> Option<Instant> {
        self.arrivals.as_ref().and_then(Arrivals::peek).map(|offset| self.epoch + offset)
    }

    /// Whether a request may be sent now.
    pub fn is_due(&self, now: Instant) -> bool {
        !self.is_done() && (!self.is_open_loop() || self.next_at().is_some_and(|next| next <= now))
    }

    /// Gives up the requests that were due by `now`, and tells how many there were.
    pub fn drop_overdue(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.epoch);
        let overdue = self.arrivals.as_mut().map_or(0, |arrivals| arrivals.drain_until(elapsed));
        overdue.min(self.left.unwrap_or(u64::MAX))
    }

    /// The next request and its text; `None` after the last, and in an open loop before its moment.
    pub fn draw(&mut self, now: Instant) -> Option<(Exchange, &str)> {
        if !self.is_due(now) {
            return None;
        }
        let offset = self.arrivals.as_mut().and_then(Arrivals::take);
        let intended = offset.map_or(now, |offset: Duration| self.epoch + offset);
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        // Seeds are mixed because bodies of neighbouring seeds are the same but for a shift of eight bytes.
        let seed = splitmix64(self.start.wrapping_add(self.drawn));
        let size = self.sizes[(splitmix64(seed) % self.sizes.len() as u64) as usize];
        let turn = (self.drawn % self.rotate.len().max(1) as u64) as usize;
        let extra = self.rotate.get(turn).map(String::as_str);
        self.drawn += 1;
        self.target.write_request(size, seed, extra, &mut self.text);
        Some((
            Exchange { check: Check::new(seed, size), intended, started: now, first_byte: None },
            &self.text,
        ))
    }
}
