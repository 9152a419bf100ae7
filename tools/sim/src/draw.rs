//! Random numbers of a law: a seeded source goes in, values come out. Pure.
//!
//! Each is the inverse of its distribution at a uniform number, so that one number is one value and streams of two runs stay
//! in step.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;
use serde::{Deserialize, Deserializer};

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers become unrelated ones.
pub const fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A uniform number in [0, 1) of a number, as the load generator has it.
pub fn uniform(number: u64) -> f64 {
    (splitmix64(number) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A uniform number in (0, 1], of which logarithms and negative powers are finite.
fn open(rng: &mut Rng) -> f64 {
    1.0 - rng.f64()
}

/// Of mean 1.
pub fn exponential(rng: &mut Rng) -> f64 {
    -open(rng).ln()
}

/// A Pareto number of this shape, from `least` on.
pub fn pareto(rng: &mut Rng, shape: f64, least: f64) -> f64 {
    least * open(rng).powf(-1.0 / shape)
}

/// A Pareto number between 1 and `span`, scaled to mean 1.
pub fn bounded_pareto(rng: &mut Rng, shape: f64, span: f64) -> f64 {
    let above = span.powf(-shape);
    let mean = shape / (shape - 1.0) * (1.0 - span.powf(1.0 - shape)) / (1.0 - above);
    (above + open(rng) * (1.0 - above)).powf(-1.0 / shape) / mean
}

/// Lognormal, of mean 1: `sigma` is the deviation of its logarithm.
pub fn lognormal(rng: &mut Rng, sigma: f64) -> f64 {
    (sigma * normal(rng) - sigma * sigma / 2.0).exp()
}

/// Of mean 0 and deviation 1 (Box and Muller 1958).
pub fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * open(rng).ln()).sqrt() * (std::f64::consts::TAU * rng.f64()).cos()
}

/// A number of trials of this mean, at least 1.
pub fn geometric(rng: &mut Rng, mean: f64) -> u32 {
    if mean <= 1.0 {
        return 1;
    }
    let trials = (open(rng).ln() / (1.0 - 1.0 / mean).ln()).ceil();
    trials.clamp(1.0, f64::from(u32::MAX)) as u32
}

/// Values by weight, as in `5000:60,8000:25`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    values: Vec<f64>,
    /// Running sum of the shares; the last is 1.
    upto: Vec<f64>,
}

impl Mix {
    /// Values and weights, of which one at least is positive; `None` otherwise.
    pub fn new(weighted: &[(f64, f64)]) -> Option<Mix> {
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        if !(sum.is_finite() && sum > 0.0) || weighted.iter().any(|(_, weight)| *weight < 0.0) {
            return None;
        }
        let mut reached = 0.0;
        let upto = weighted.iter().map(|(_, weight)| {
            reached += weight / sum;
            reached
        });
        Some(Mix { upto: upto.collect(), values: weighted.iter().map(|(value, _)| *value).collect() })
    }

    /// The value for a uniform number in [0, 1).
    pub fn at(&self, uniform: f64) -> f64 {
        let at = self.upto.partition_point(|upto| *upto <= uniform);
        self.values[at.min(self.values.len() - 1)]
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        let mut before = 0.0;
        let shares = self.upto.iter().map(|upto| upto - std::mem::replace(&mut before, *upto));
        self.values.iter().zip(shares).map(|(value, share)| value * share).sum()
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `VALUE[:WEIGHT],...`; without a weight it is 1.
    fn from_str(text: &str) -> Result<Mix, String> {
        let weighted = text.split(',').map(|part| {
            let (value, weight) = part.split_once(':').unwrap_or((part, "1"));
            match (value.trim().parse::<f64>(), weight.trim().parse::<f64>()) {
                (Ok(value), Ok(weight)) if value >= 0.0 && weight >= 0.0 => Ok((value, weight)),
                _ => Err(format!("{part:?} is not VALUE or VALUE:WEIGHT")),
            }
        });
        let weighted = weighted.collect::<Result<Vec<_>, _>>()?;
        Mix::new(&weighted).ok_or_else(|| "one weight has to be above 0".to_owned())
    }
}

/// How requests or sessions are spread over clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// In turn.
    Even,
    /// The k-th client has a share in proportion to k^-s.
    Zipf(f64),
    /// The first so many clients share this part of all.
    Hot(usize, f64),
}

impl Skew {
    /// Shares of so many clients, as numbers of clients by weight; `None`: in turn.
    pub fn shares(self, clients: usize) -> Option<Mix> {
        let weight = |client: usize| match self {
            Skew::Even => 1.0,
            Skew::Zipf(s) => ((client + 1) as f64).powf(-s),
            Skew::Hot(hot, share) if client < hot => share / hot.min(clients) as f64,
            Skew::Hot(hot, share) => (1.0 - share) / (clients - hot) as f64,
        };
        match self {
            Skew::Even => None,
            _ => Mix::new(&(0..clients).map(|client| (client as f64, weight(client))).collect::<Vec<_>>()),
        }
    }
}

impl FromStr for Skew {
    type Err = String;

    fn from_str(text: &str) -> Result<Skew, String> {
        let parts: Vec<_> = text.split(':').collect();
        let skew = match parts[..] {
            ["even"] => Some(Skew::Even),
            ["zipf", s] => s.parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0).map(Skew::Zipf),
            ["hot", clients, share] => match (clients.parse(), share.parse()) {
                (Ok(clients), Ok(share)) if clients > 0 && (0.0..=1.0).contains(&share) => {
                    Some(Skew::Hot(clients, share))
                }
                _ => None,
            },
            _ => None,
        };
        skew.ok_or_else(|| format!("{text:?}: write even, zipf:S (as in zipf:0.7) or hot:CLIENTS:SHARE"))
    }
}

impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skew::Even => write!(f, "even"),
            Skew::Zipf(s) => write!(f, "zipf:{s}"),
            Skew::Hot(clients, share) => write!(f, "hot:{clients}:{share}"),
        }
    }
}

impl<'de> Deserialize<'de> for Skew {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Skew, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mut draw: impl FnMut() -> f64) -> (f64, f64) {
        let values: Vec<f64> = (0..200_000).map(|_| draw()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance)
    }

    #[test]
    fn laws_have_their_moments() {
        let rng = &mut Rng::with_seed(7);
        let (mean, variance) = moments(|| exponential(rng));
        assert!((mean - 1.0).abs() < 0.01 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let (mean, variance) = moments(|| normal(rng));
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let (mean, variance) = moments(|| lognormal(rng, 0.5));
        assert!((mean - 1.0).abs() < 0.01 && (variance - (0.25f64.exp() - 1.0)).abs() < 0.02, "{variance}");
        let (mean, _) = moments(|| bounded_pareto(rng, 1.5, 1000.0));
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        let (mean, variance) = moments(|| pareto(rng, 4.0, 3.0));
        // a m / (a - 1), and m^2 a / ((a - 1)^2 (a - 2)).
        assert!((mean - 4.0).abs() < 0.02 && (variance - 2.0).abs() < 0.3, "{mean} {variance}");
        let (mean, variance) = moments(|| f64::from(geometric(rng, 10.0)));
        assert!((mean - 10.0).abs() < 0.1 && (variance - 90.0).abs() < 3.0, "{mean} {variance}");
        assert_eq!(geometric(rng, 1.0), 1);
    }

    #[test]
    fn mixes_and_skews_are_read_and_weighed() {
        let mix: Mix = "5000:60,8000:25,20000:11,50000:4".parse().unwrap();
        assert!((mix.mean() - 9200.0).abs() < 1e-6);
        assert_eq!(
            (mix.at(0.0), mix.at(0.599), mix.at(0.61), mix.at(0.999)),
            (5000.0, 5000.0, 8000.0, 50000.0)
        );
        for text in ["", "1:-1", "x", "1:0", "-1"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
        let shares = Skew::Zipf(0.7).shares(16).unwrap();
        assert!((shares.upto[0] - 0.2019).abs() < 1e-3, "{}", shares.upto[0]);
        assert_eq!("hot:2:0.8".parse(), Ok(Skew::Hot(2, 0.8)));
        assert_eq!(Skew::Even.shares(3), None);
        for text in ["zipf", "hot:0:1", "hot:1:2", "even:1"] {
            assert!(text.parse::<Skew>().is_err(), "{text}");
        }
    }
}
