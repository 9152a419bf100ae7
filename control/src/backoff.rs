//! Pauses between attempts that grow and are never the same, so that what comes back is not met by all at once.

use std::time::Duration;

/// Pauses of one who tries again and again.
pub(crate) struct Backoff {
    bounds: (Duration, Duration),
    next: Duration,
}

impl Backoff {
    /// From the first pause to the longest, each about twice the one before.
    pub(crate) fn new(bounds: (Duration, Duration)) -> Backoff {
        Backoff { bounds, next: bounds.0 }
    }

    /// It worked: the next pause is the first again.
    pub(crate) fn reset(&mut self) {
        self.next = self.bounds.0;
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = jittered(self.next);
        self.next = (self.next * 2).min(self.bounds.1);
        pause
    }
}

/// Between three and five quarters of `pause`.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ_within_bounds() {
        let mut backoff = Backoff::new((Duration::from_millis(50), Duration::from_secs(2)));
        assert!((37..=63).contains(&backoff.pause().as_millis()));
        assert!((75..=125).contains(&backoff.pause().as_millis()));
        let last: Vec<_> = (0..100).map(|_| backoff.pause()).skip(5).collect();
        assert!(last.iter().all(|pause| (1500..=2500).contains(&pause.as_millis())));
        assert!(last.iter().any(|pause| *pause != last[0]));
        backoff.reset();
        assert!(backoff.pause().as_millis() < 75);
    }
}
