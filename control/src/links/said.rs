//! Sentences in the log about links and members, each once in a while. In: a sentence and when. Out: whether to log it. Whoever can
//! reach the listener can cause some of them, so neither their number nor what is kept of them grows with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The same sentence is logged again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// Different sentences logged within that time.
const SENTENCES_MAX: usize = 16;

/// What was logged lately.
#[derive(Default)]
pub(crate) struct Said(VecDeque<(Instant, String)>);

impl Said {
    /// Whether `sentence` is news, which it then no longer is.
    pub(crate) fn is_news(&mut self, sentence: &str, now: Instant) -> bool {
        while self.0.front().is_some_and(|(when, _)| now.duration_since(*when) >= AGAIN) {
            self.0.pop_front();
        }
        if self.0.len() == SENTENCES_MAX || self.0.iter().any(|(_, said)| said == sentence) {
            return false;
        }
        self.0.push_back((now, sentence.to_owned()));
        true
    }

    /// Things changed: whatever happens next is news.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_news_once_a_minute_and_not_too_many_are() {
        let mut said = Said::default();
        let start = Instant::now();
        assert!(said.is_news("wrong CA", start));
        assert!(!said.is_news("wrong CA", start + AGAIN / 2));
        assert!(said.is_news("expired", start + AGAIN / 2));
        assert!(said.is_news("wrong CA", start + AGAIN));
        let news = (0..1000).filter(|i| said.is_news(&i.to_string(), start + AGAIN)).count();
        assert_eq!(news, SENTENCES_MAX - 2);
        assert!(said.is_news("later", start + 3 * AGAIN));
        said.forget();
        assert!(said.is_news("later", start + 3 * AGAIN));
    }
}
