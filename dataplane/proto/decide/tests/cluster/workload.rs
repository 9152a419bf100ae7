//! Requests to come: when, to which node, and what each takes. The same seed makes the same ones.

/// Random numbers of a seed.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Draws {
        Draws(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least)
    }
}

/// How long requests take.
#[derive(Clone, Copy, Debug)]
pub enum Tail {
    /// All alike.
    Fixed,
    /// Memoryless.
    Exponential,
    /// Log-normal with a sigma of 1.5: one in a hundred takes 30 times the median.
    Heavy,
}

/// A request to come.
pub struct Request {
    /// When, in ns.
    pub at: u64,
    /// To which node.
    pub node: usize,
    /// What it takes, in ns.
    pub service_ns: u64,
}

/// So many requests to nodes that are each busy for a share of their slots' time, in the order they come.
pub fn requests(
    count: usize,
    busy: &[f64],
    slots: usize,
    service_us: f64,
    tail: Tail,
    seed: u64,
) -> Vec<Request> {
    const SIGMA: f64 = 1.5;
    let mut draws = Draws::new(seed);
    let total: f64 = busy.iter().sum();
    let gap_ns = service_us * 1_000.0 / (total * slots as f64);
    let mut at = 0.0;
    let one = |_| {
        at += draws.exponential(gap_ns);
        let mut place = draws.uniform() * total;
        let node = busy.iter().position(|share| {
            place -= share;
            place < 0.0
        });
        let factor = match tail {
            Tail::Fixed => 1.0,
            Tail::Exponential => draws.exponential(1.0),
            Tail::Heavy => {
                // Box and Muller's normal deviate; the mean is 1.
                let radius = (-2.0 * draws.uniform().ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * draws.uniform()).cos();
                (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
            }
        };
        Request {
            at: at as u64,
            node: node.unwrap_or(busy.len() - 1),
            service_ns: (service_us * 1_000.0 * factor) as u64 + 1,
        }
    };
    (0..count).map(one).collect()
}
