//! Draws the requests of one thread: which size, which seed, when to stop.

use std::sync::Arc;
use std::time::Instant;

use keyferry_app::synthetic::splitmix64;

use crate::args::Args;
use crate::check::Check;
use crate::target::Target;

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// What its body has to be.
    pub check: Check,
    /// When it was handed to TLS.
    pub started: Instant,
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
    text: String,
}

impl Plan {
    /// One plan a thread.
    pub fn split(args: &Args, target: &Arc<Target>) -> Vec<Plan> {
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
                text: String::new(),
            })
            .collect()
    }

    /// Whether every request has been drawn.
    pub fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// The next request and its text, or `None` after the last.
    pub fn draw(&mut self, now: Instant) -> Option<(Exchange, &str)> {
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
        Some((Exchange { check: Check::new(seed, size), started: now }, &self.text))
    }
}
