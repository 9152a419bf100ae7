//! Weighted choices, as in `1024:9,65536:1`: text goes in once, then random numbers go in and values come out.

use std::str::FromStr;

use keyferry_app::synthetic::splitmix64;

/// Values with the share each has of all draws.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix<T> {
    values: Vec<T>,
    /// Running sum of the shares; the last is 1.
    upto: Vec<f64>,
}

impl<T> Mix<T> {
    /// Values and weights, of which at least one is positive; `None` otherwise.
    pub fn new(weighted: Vec<(T, f64)>) -> Option<Mix<T>> {
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        if !(sum.is_finite() && sum > 0.0) || weighted.iter().any(|(_, weight)| *weight < 0.0) {
            return None;
        }
        let mut reached = 0.0;
        let (values, upto) = weighted
            .into_iter()
            .map(|(value, weight)| {
                reached += weight / sum;
                (value, reached)
            })
            .unzip();
        Some(Mix { values, upto })
    }

    /// The value for a uniform number in [0, 1).
    pub fn draw(&self, uniform: f64) -> &T {
        let at = self.upto.partition_point(|&upto| upto <= uniform);
        &self.values[at.min(self.values.len() - 1)]
    }

    /// The values.
    pub fn values(&self) -> &[T] {
        &self.values
    }
}

/// A uniform number in [0, 1) from a seed.
pub fn uniform(seed: u64) -> f64 {
    (splitmix64(seed) >> 11) as f64 / (1_u64 << 53) as f64
}

impl<T: FromStr> FromStr for Mix<T> {
    type Err = String;

    /// `VALUE[:WEIGHT],...`; without a weight it is 1.
    fn from_str(text: &str) -> Result<Mix<T>, String> {
        let weighted = text.split(',').map(|part| {
            let (value, weight) = part.split_once(':').unwrap_or((part, "1"));
            match (value.trim().parse(), weight.trim().parse::<f64>()) {
                (Ok(value), Ok(weight)) if weight >= 0.0 && weight.is_finite() => Ok((value, weight)),
                _ => Err(format!("{part:?} is not VALUE or VALUE:WEIGHT, as in 1024:9")),
            }
        });
        Mix::new(weighted.collect::<Result<_, _>>()?).ok_or_else(|| "one weight has to be above 0".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_follow_weights() {
        let mix: Mix<u64> = "1024:9, 65536:1,7:0".parse().unwrap();
        let mut counts = [0_u32; 3];
        for seed in 0..10_000 {
            let value = mix.draw(uniform(seed));
            counts[mix.values().iter().position(|known| known == value).unwrap()] += 1;
        }
        assert!((8_800..9_200).contains(&counts[0]), "{counts:?}");
        assert_eq!((counts[0] + counts[1], counts[2]), (10_000, 0));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused_and_any_draw_has_a_value(text in "[0-9:,.x-]{0,20}", seed: u64) {
            if let Ok(mix) = text.parse::<Mix<u64>>() {
                mix.draw(uniform(seed));
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1:-1", "1:x", "x", "1:0", "1,,2"] {
            assert!(text.parse::<Mix<u64>>().is_err(), "{text}");
        }
    }
}
