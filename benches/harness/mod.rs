//! What the benches share: a worker on a simulated port, and clients that speak to it without a kernel.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod client;
pub mod crowd;
pub mod front;
pub mod keys;
pub mod node;
pub mod pair;
pub mod patience;
pub mod settled;
pub mod siege;
pub mod spoofed;
pub mod traffic;
pub mod wallet;

/// The sample below which this share of all lies; sorts them.
pub fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get((samples.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// The median of some samples; sorts them.
pub fn median(samples: &mut [f64]) -> f64 {
    quantile(samples, 0.5)
}
