//! What clients want, and when: arrivals, whose they are, and what each request asks for.
//!
//! In: a load and a seed. Out: gaps, clients, wishes. Streams are apart, and drawn in the order of arrivals: so the same seed
//! asks for the same whatever the model. Owned by a run.

use fastrand::Rng;

use crate::draw::{self, Mix, exponential, splitmix64, uniform};
use crate::scenario::{Content, Gaps, Load, Sizes, Web, Work};

/// Makes the clients of requests other numbers than what they ask for, as in the load generator.
const CLIENT_SALT: u64 = 0x636c_6965_6e74;

/// A KB.
const KB: f64 = 1024.0;

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wish {
    /// Of its reply.
    pub bytes: u32,
    /// Work of the application, on a node of ordinary speed.
    pub work_ns: u64,
}

/// The source of all arrivals of a run.
pub struct Wishes {
    load: Load,
    shares: Option<Mix>,
    gaps: Rng,
    clients: Rng,
    things: Rng,
    sessions: u64,
    /// Arrivals drawn, and wishes.
    arrived: u64,
    asked: u64,
}

impl Wishes {
    /// All of a load's.
    pub fn new(load: &Load, seed: u64) -> Wishes {
        let stream = |number: u64| Rng::with_seed(splitmix64(splitmix64(seed) ^ number));
        Wishes {
            shares: load.skew.shares(load.clients),
            gaps: stream(1),
            clients: stream(2),
            things: stream(3),
            sessions: splitmix64(seed ^ 4),
            arrived: 0,
            asked: 0,
            load: load.clone(),
        }
    }

    /// The moment of the next arrival, `last_ns` being that of the one before; `None` after the last.
    pub fn next_ns(&mut self, last_ns: u64) -> Option<u64> {
        let mean_ns = 1e9 / self.load.rate;
        let gap = match &self.load.gaps {
            Gaps::Poisson => exponential(&mut self.gaps),
            Gaps::Pareto { shape, span } => draw::bounded_pareto(&mut self.gaps, *shape, *span),
            Gaps::Lognormal(sigma) => draw::lognormal(&mut self.gaps, *sigma),
            Gaps::Trace(moments) => {
                let at = usize::try_from(self.arrived).ok()?;
                return moments.get(at).copied();
            }
            Gaps::Generator(seed) => {
                let number = splitmix64(splitmix64(*seed ^ splitmix64(0)).wrapping_add(self.arrived));
                -(((number >> 11) + 1) as f64 / (1_u64 << 53) as f64).ln()
            }
        };
        Some(last_ns.saturating_add((gap * mean_ns) as u64))
    }

    /// Whose the arrival is that has come.
    pub fn client(&mut self) -> u32 {
        let number = self.arrived;
        self.arrived += 1;
        let Some(shares) = &self.shares else { return (number % self.load.clients as u64) as u32 };
        let uniform = match self.load.gaps {
            Gaps::Generator(seed) => uniform(splitmix64(seed ^ CLIENT_SALT).wrapping_add(number)),
            _ => self.clients.f64(),
        };
        shares.at(uniform) as u32
    }

    /// What the next request asks for. Of the load generator's it is the next to be sent, of others the next to come.
    pub fn wish(&mut self) -> Wish {
        if let (Gaps::Generator(seed), Sizes::Mix(sizes), Work::Mix(work)) =
            (&self.load.gaps, &self.load.sizes, &self.load.work)
        {
            let number = splitmix64(seed.wrapping_add(self.asked));
            self.asked += 1;
            let (bytes, us) = (sizes.at(uniform(number)), work.at(uniform(!number)));
            return Wish { bytes: bytes as u32, work_ns: (us * 1e3) as u64 };
        }
        wish(&mut self.things, &self.load.sizes, &self.load.work)
    }

    /// Whether wishes are drawn when requests are sent.
    pub fn is_drawn_late(&self) -> bool {
        matches!(self.load.gaps, Gaps::Generator(_))
    }

    /// The source of one session's requests: its own, so that its course does not change others'.
    pub fn session(&mut self) -> Rng {
        self.sessions = self.sessions.wrapping_add(1);
        Rng::with_seed(splitmix64(self.sessions))
    }

    /// What the next request of a session asks for.
    pub fn wish_of(&self, session: &mut Rng) -> Wish {
        wish(session, &self.load.sizes, &self.load.work)
    }
}

fn wish(rng: &mut Rng, sizes: &Sizes, work: &Work) -> Wish {
    let bytes = match sizes {
        Sizes::Mix(mix) => mix.at(rng.f64()),
        Sizes::Web(web) => web_bytes(rng, web),
    };
    let work_ns = match work {
        Work::Mix(mix) => mix.at(rng.f64()) * 1e3,
        Work::Exponential(mean) => mean * exponential(rng),
        Work::Lognormal(mean, sigma) => mean * draw::lognormal(rng, *sigma),
        Work::Content(content) => content_ns(rng, content, bytes),
    };
    Wish { bytes: bytes as u32, work_ns: work_ns as u64 }
}

/// Barford and Crovella 1998 have files like these.
fn web_bytes(rng: &mut Rng, web: &Web) -> f64 {
    if rng.f64() < web.tail {
        return draw::pareto(rng, web.shape, web.body_max).min(web.max);
    }
    loop {
        let bytes = web.median * (web.sigma * draw::normal(rng)).exp();
        if bytes < web.body_max {
            return bytes.max(1.0);
        }
    }
}

fn content_ns(rng: &mut Rng, content: &Content, bytes: f64) -> f64 {
    let fixed = content.fixed + content.per_kb * bytes / KB;
    let (least, most) = content.factor;
    // Both numbers are drawn for each, so that a sweep of the share keeps the others.
    let (kind, place) = (rng.f64(), rng.f64());
    if kind < content.dynamic { fixed * (least + (most - least) * place) } else { fixed }
}

/// The mean of a load's wishes, from a sample of them: bytes and work, in ns.
pub fn means(load: &Load) -> (f64, f64) {
    const SAMPLE: u32 = 200_000;
    let rng = &mut Rng::with_seed(1);
    let (bytes, work_ns) = (0..SAMPLE).fold((0.0, 0.0), |(bytes, work_ns), _| {
        let wish = wish(rng, &load.sizes, &load.work);
        (bytes + f64::from(wish.bytes), work_ns + wish.work_ns as f64)
    });
    (bytes / f64::from(SAMPLE), work_ns / f64::from(SAMPLE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Skew;

    fn load(gaps: Gaps) -> Load {
        Load {
            rate: 1000.0,
            gaps,
            clients: 16,
            skew: Skew::Zipf(0.7),
            sessions: None,
            kept: None,
            sizes: Sizes::Mix("400:5,2000:3,12000:2".parse().unwrap()),
            work: Work::Mix("5000:60,8000:25,20000:11,50000:4".parse().unwrap()),
        }
    }

    #[test]
    fn rates_are_what_was_asked_for() {
        for gaps in [
            Gaps::Poisson,
            Gaps::Pareto { shape: 1.5, span: 1000.0 },
            Gaps::Lognormal(1.0),
            Gaps::Generator(7),
        ] {
            let mut wishes = Wishes::new(&load(gaps.clone()), 3);
            let mut now_ns = 0;
            for _ in 0..100_000 {
                now_ns = wishes.next_ns(now_ns).unwrap();
                wishes.client();
            }
            assert!((now_ns as f64 / 1e11 - 1.0).abs() < 0.05, "{gaps:?} {now_ns}");
        }
        let mut trace = Wishes::new(&load(Gaps::Trace([5, 9].into())), 3);
        let moments = std::iter::from_fn(|| {
            let next = trace.next_ns(0);
            trace.client();
            next
        });
        assert_eq!(moments.collect::<Vec<_>>(), [5, 9]);
    }

    /// As many of each as of `keyferry-load --rate 580 --seed 20071` with the committed workload.
    #[test]
    fn the_generators_requests_have_its_shares() {
        let mut wishes = Wishes::new(&Load { rate: 580.0, ..load(Gaps::Generator(20_071)) }, 0);
        let mut counts = [0u32; 16];
        for _ in 0..10_000 {
            counts[wishes.client() as usize] += 1;
        }
        assert!((1_900..2_140).contains(&counts[0]), "{counts:?}");
        let mean = (0..10_000).map(|_| wishes.wish().work_ns as f64).sum::<f64>() / 1e4;
        assert!((mean / 9.2e6 - 1.0).abs() < 0.03, "{mean}");
    }

    #[test]
    fn web_sizes_have_body_and_tail() {
        let rng = &mut Rng::with_seed(5);
        let sizes: Vec<f64> = (0..50_000).map(|_| web_bytes(rng, &Web::default())).collect();
        let tail = sizes.iter().filter(|bytes| **bytes >= 10_240.0).count() as f64 / 50_000.0;
        assert!((tail - 0.07).abs() < 0.01, "{tail}");
        assert!(sizes.iter().all(|bytes| (1.0..=1_048_576.0).contains(bytes)));
    }

    #[test]
    fn dynamic_content_costs_a_multiple() {
        let content = Content { fixed: 20_000.0, per_kb: 5_000.0, dynamic: 0.1, factor: (100.0, 1000.0) };
        let rng = &mut Rng::with_seed(5);
        let mean = (0..100_000).map(|_| content_ns(rng, &content, 1024.0)).sum::<f64>() / 1e5;
        // 25 us x (0.9 + 0.1 x 550)
        assert!((mean / 1_397_500.0 - 1.0).abs() < 0.03, "{mean}");
    }
}
