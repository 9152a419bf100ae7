//! Replies of a given cost and size, for benchmarks and for the workloads of the paper.
//!
//! Cost and size are fixed or drawn from a distribution; a request may ask for its own: `?bytes=N`, `cost_us=N`,
//! `seed=S`, `status=NNN`, `chunked=1`. The body is a published pattern, so that whoever reads it can check every
//! byte: [`fill`]. A POST, or another method that may carry a body, is answered with the body's length and hash in
//! `X-Body-Bytes` and `X-Body-Hash`. Runs on an app thread, or in the worker.

use std::task::Poll;
use std::time::Duration;

use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

use crate::{App, Body};

/// Longest piece of work done at a time, in us: what a request that computes may delay its thread's queues, or the
/// worker it runs in.
const SLICE_US: u64 = 50;

/// Processor time for which the speed of the core is measured at start.
const CALIBRATION: Duration = Duration::from_millis(4);

/// Where values are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always this value.
    Fixed(f64),
    /// Exponential, by its mean.
    Exponential(f64),
    /// Log-normal: median, and sigma of the logarithm.
    LogNormal(f64, f64),
    /// Pareto: least value, and alpha.
    Pareto(f64, f64),
}

/// What replies cost and how large they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Cost of a reply, in us.
    pub cost_us: Distribution,
    /// Size of a reply's body, in bytes.
    pub bytes: Distribution,
    /// The cost is burnt on the core; else only waited out.
    pub burn: bool,
    /// Where the random numbers start: the same seed draws the same replies.
    pub seed: u64,
}

/// The next output of SplitMix64 (Steele, Lea, Flood 2014) for state `x`.
pub const fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes of a block of the pattern.
const BLOCK_BYTES: usize = 64;

/// What each word of a block has more than the one before: odd, so that none of them are alike.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes the bytes of a body from `offset` on: byte i is byte i % 8, little-endian, of word i / 8, and word w is
/// `splitmix64(seed + w / 8) + w % 8 * 0x9e3779b97f4a7c15`, all modulo 2^64. Bytes that are missing, or elsewhere, show; and a random
/// number a block costs a fraction of what sealing the block does.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let mut number = seed.wrapping_add(offset / BLOCK_BYTES as u64);
    let skip = (offset % BLOCK_BYTES as u64) as usize;
    let (first, rest) = out.split_at_mut(if skip == 0 { 0 } else { (BLOCK_BYTES - skip).min(out.len()) });
    if !first.is_empty() {
        first.copy_from_slice(&block(number)[skip..skip + first.len()]);
        number = number.wrapping_add(1);
    }
    let (blocks, tail) = rest.as_chunks_mut::<BLOCK_BYTES>();
    for bytes in blocks {
        *bytes = block(number);
        number = number.wrapping_add(1);
    }
    tail.copy_from_slice(&block(number)[..tail.len()]);
}

/// One block of the pattern.
#[inline]
fn block(number: u64) -> [u8; BLOCK_BYTES] {
    let mut word = splitmix64(number);
    let mut bytes = [0; BLOCK_BYTES];
    for place in bytes.as_chunks_mut::<8>().0 {
        *place = word.to_le_bytes();
        word = word.wrapping_add(STEP);
    }
    bytes
}

/// FNV-1a, 64 bit: the hash of `X-Body-Hash`.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The synthetic application.
pub struct Synthetic {
    options: Options,
    drawn: u64,
    /// Work units a core does in a us. Work is counted, not timed: what another thread takes of the core in between
    /// is not taken for work done.
    units_per_us: u64,
}

/// One reply.
pub struct Task {
    bytes: u64,
    sent: u64,
    seed: u64,
    status: u16,
    chunked: bool,
    /// Work left, in us, if it is burnt.
    burn_us: u64,
    /// When it is done, if it is waited out.
    until: Time,
}

impl Synthetic {
    /// An application with its own random numbers; measures how fast this core works.
    pub fn new(options: Options) -> Synthetic {
        let burns = options.burn;
        Synthetic { options, drawn: 0, units_per_us: if burns { calibrate() } else { 1 } }
    }

    /// A uniform number in (0, 1).
    fn uniform(&mut self) -> f64 {
        self.drawn += 1;
        let bits = splitmix64(splitmix64(self.options.seed).wrapping_add(self.drawn)) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn draw(&mut self, from: Distribution) -> u64 {
        let value = match from {
            Distribution::Fixed(value) => value,
            Distribution::Exponential(mean) => -mean * self.uniform().ln(),
            Distribution::LogNormal(median, sigma) => {
                // Box and Muller's normal deviate.
                let (u, v) = (self.uniform(), self.uniform());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                median * (sigma * normal).exp()
            }
            Distribution::Pareto(least, alpha) => least * self.uniform().powf(-1.0 / alpha),
        };
        value.round() as u64
    }
}

/// One unit of work the compiler cannot skip.
fn unit(state: u64) -> u64 {
    std::hint::black_box(splitmix64(state))
}

fn work(units: u64) {
    let mut state = units;
    for _ in 0..units {
        state = unit(state);
    }
}

/// Units per us: the best of several short runs, since others can only make a run slower. By the thread's own clock:
/// who waits for a processor meanwhile is not slow.
fn calibrate() -> u64 {
    const UNITS: u64 = 20_000;
    let (start, mut best) = (thread_time(), Duration::MAX);
    let mut now = start;
    while now - start < CALIBRATION {
        work(UNITS);
        let end = thread_time();
        best = best.min(end - now);
        now = end;
    }
    (UNITS * 1_000 / (best.as_nanos() as u64).max(1)).max(1)
}

/// Processor time this thread has used.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Parameters a query may have.
const PARAMETERS: [&[u8]; 5] = [b"cost_us", b"bytes", b"seed", b"status", b"chunked"];

/// Their numbers, each where its parameter stands first in the query.
fn numbers(query: &[u8]) -> [Option<u64>; PARAMETERS.len()] {
    let (mut numbers, mut seen) = ([None; PARAMETERS.len()], [false; PARAMETERS.len()]);
    for pair in query.split(|byte| *byte == b'&') {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&pair[..equals], &pair[equals + 1..]);
        let Some(place) = PARAMETERS.iter().position(|known| *known == name) else { continue };
        if !std::mem::replace(&mut seen[place], true) {
            numbers[place] = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        }
    }
    numbers
}

impl App for Synthetic {
    type Task = Task;

    fn begin(&mut self, request: &Request, now: Time) -> Task {
        let [asked_cost, asked_bytes, seed, status, chunked] = numbers(request.query());
        let (cost, bytes) = (self.draw(self.options.cost_us), self.draw(self.options.bytes));
        let cost_us = asked_cost.unwrap_or(cost);
        let burn = self.options.burn;
        let waited = Duration::from_micros(if burn { 0 } else { cost_us });
        Task {
            bytes: asked_bytes.unwrap_or(bytes),
            sent: 0,
            seed: seed.unwrap_or(0),
            status: status.filter(|it| (200..600).contains(it)).unwrap_or(200) as u16,
            chunked: chunked == Some(1),
            burn_us: if burn { cost_us } else { 0 },
            until: now + waited,
        }
    }

    fn head(&mut self, task: &mut Task, request: &Request, now: Time) -> Poll<ReplyHead> {
        if task.burn_us > 0 {
            let slice = task.burn_us.min(SLICE_US);
            work(slice * self.units_per_us);
            task.burn_us -= slice;
            if task.burn_us > 0 {
                return Poll::Pending;
            }
        }
        if !task.until.is_due(now) {
            return Poll::Pending;
        }
        const TYPE: &str = "application/octet-stream";
        let mut head = if task.chunked {
            ReplyHead::chunked(task.status, TYPE)
        } else {
            ReplyHead::new(task.status, task.bytes, TYPE)
        };
        if !request.is_safe() {
            let mut digits = [0; 20];
            // Both are short and valid, so they always fit.
            let _ = head.header("X-Body-Bytes", decimal(request.body().len() as u64, &mut digits));
            let _ = head.header("X-Body-Hash", &hex(fnv1a(request.body())));
        }
        Poll::Ready(head)
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        let bytes = (task.bytes - task.sent).min(out.len() as u64) as usize;
        fill(task.seed, task.sent, &mut out[..bytes]);
        task.sent += bytes as u64;
        Poll::Ready(Body { bytes, end: task.sent == task.bytes })
    }

    fn deadline(&self, task: &Task) -> Option<Time> {
        (task.burn_us == 0).then_some(task.until)
    }
}

fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

fn hex(value: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(value >> (60 - 4 * place)) as usize & 0xf])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_does_not_depend_on_how_it_is_cut() {
        let mut whole = [0; 100];
        fill(7, 3, &mut whole);
        for cut in 0..100 {
            let mut parts = [0; 100];
            let (first, second) = parts.split_at_mut(cut);
            fill(7, 3, first);
            fill(7, 3 + cut as u64, second);
            assert_eq!(parts, whole);
        }
        let mut eight = [0; 8];
        fill(0, 0, &mut eight);
        assert_eq!(u64::from_le_bytes(eight), 0xe220_a839_7b1d_cdaf, "SplitMix64's published first output");
    }

    #[test]
    fn a_parameter_counts_where_it_stands_first() {
        let asked = numbers(b"seed=x&bytes=5&bytes=6&a&=1&seed=2&cost_us=+7&chunked=&status=404");
        assert_eq!(asked, [Some(7), Some(5), None, Some(404), None]);
        assert_eq!(numbers(b""), [None; PARAMETERS.len()]);
        assert_eq!(numbers(b"bytes=18446744073709551616&seeds=1&see=1"), [None; PARAMETERS.len()]);
    }

    #[test]
    fn distributions_have_their_means_and_bounds() {
        let seed = 1;
        let options =
            Options { cost_us: Distribution::Fixed(0.0), bytes: Distribution::Fixed(0.0), burn: false, seed };
        let mut app = Synthetic::new(options);
        let mut mean = |from| (0..20_000).map(|_| app.draw(from) as f64).sum::<f64>() / 20_000.0;
        assert!((mean(Distribution::Exponential(1000.0)) - 1000.0).abs() < 50.0);
        let log_normal_mean = 1000.0 * (0.5f64 * 0.5 / 2.0).exp();
        assert!((mean(Distribution::LogNormal(1000.0, 0.5)) - log_normal_mean).abs() < 50.0);
        assert!((mean(Distribution::Pareto(1000.0, 3.0)) - 1500.0).abs() < 75.0);
        assert!((0..1000).all(|_| app.draw(Distribution::Pareto(10.0, 2.0)) >= 10));
    }
}
