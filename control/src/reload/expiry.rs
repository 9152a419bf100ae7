//! Certificates that are about to end: said in the log once a day, and for Prometheus. In: what is known of each, and the time.
//! Out: sentences. Control thread.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyferry_tls::CertificateFacts;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{error, warn};

/// Between looks.
const LOOK: Duration = Duration::from_secs(600);
/// The same is said again after so long.
const AGAIN: Duration = Duration::from_secs(24 * 3600);

/// The first second that four digits of a year do not reach.
const YEAR_10000: u64 = 253_402_300_800;

/// What was said of a certificate, and when.
#[derive(Default)]
struct Said(HashMap<(String, String), (Stage, Instant)>);

/// How far a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It ends soon.
    Ending,
    /// It has ended.
    Ended,
}

/// Says what is to be said, for ever; `look` brings what is known now, and how long before its end a certificate is warned of.
/// `changed`: that is something else.
pub(crate) async fn tend(look: impl Fn() -> (Vec<CertificateFacts>, Duration), changed: &Notify) {
    let mut said = Said::default();
    loop {
        let (all, warning) = look();
        for (stage, sentence) in said.news(&all, warning, now(), Instant::now()) {
            match stage {
                Stage::Ending => warn!("{sentence}"),
                Stage::Ended => error!("{sentence}"),
            }
        }
        let _ = timeout(LOOK, changed.notified()).await;
    }
}

/// In seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A time as people write it.
pub(crate) fn date(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds < YEAR_10000 => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
        }
        _ => format!("{seconds} s after 1970"),
    }
}

impl Said {
    fn news(
        &mut self,
        all: &[CertificateFacts],
        warning: Duration,
        now: i64,
        at: Instant,
    ) -> Vec<(Stage, String)> {
        let name = |facts: &CertificateFacts| (facts.source.clone(), facts.serial.clone());
        self.0.retain(|known, _| all.iter().any(|facts| name(facts) == *known));
        let mut news = Vec::new();
        for facts in all {
            let left = facts.not_after - now;
            let stage = match left {
                ..0 => Stage::Ended,
                _ if left.unsigned_abs() < warning.as_secs() => Stage::Ending,
                _ => continue,
            };
            let is_known =
                |(said, when): &(Stage, Instant)| *said == stage && at.duration_since(*when) < AGAIN;
            if self.0.get(&name(facts)).is_some_and(is_known) {
                continue;
            }
            self.0.insert(name(facts), (stage, at));
            let what = match stage {
                Stage::Ended => format!("expired on {}: whoever checks it refuses it", date(facts.not_after)),
                Stage::Ending => format!("expires in {} days, on {}", left / 86_400, date(facts.not_after)),
            };
            let CertificateFacts { source, name, serial, .. } = facts;
            let sentence = format!(
                "the certificate for {name} ({source}, serial {serial}) {what}: put a new one in its place; it is taken \
                 over by itself, or with `keyferry ctl reload`"
            );
            news.push((stage, sentence));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn facts(source: &str, serial: &str, not_after: i64) -> CertificateFacts {
        CertificateFacts {
            source: source.to_owned(),
            name: "a.test".to_owned(),
            serial: serial.to_owned(),
            not_before: 0,
            not_after,
            digest: [0; 32],
        }
    }

    #[test]
    fn an_end_is_said_in_time_once_a_day_and_when_it_has_come() {
        let (mut said, at) = (Said::default(), Instant::now());
        let all = [facts("a.pem", "01", 100 * 86_400), facts("b.pem", "02", 400 * 86_400)];
        let mut news = |day: i64, after: Duration| said.news(&all, 21 * DAY, day * 86_400, at + after);
        assert!(news(79, Duration::ZERO).is_empty());
        let first = news(80, Duration::ZERO);
        assert!(matches!(&first[..], [(Stage::Ending, sentence)] if sentence.contains("expires in 20 days")));
        assert!(first[0].1.contains("a.pem, serial 01") && first[0].1.contains("1970-04-11"), "{first:?}");
        assert!(news(80, DAY / 2).is_empty());
        assert_eq!(news(81, DAY).len(), 1);
        let ended = news(101, DAY + Duration::from_secs(1));
        assert!(
            matches!(&ended[..], [(Stage::Ended, sentence)] if sentence.contains("expired on")),
            "{ended:?}"
        );
        assert!(news(101, DAY + Duration::from_secs(2)).is_empty());
    }

    #[test]
    fn another_certificate_in_its_place_is_another_one() {
        let (mut said, at) = (Said::default(), Instant::now());
        let mut news = |serial: &str, end: i64| said.news(&[facts("a.pem", serial, end)], DAY, 10, at).len();
        assert_eq!(
            [news("01", 20), news("01", 20), news("02", 20), news("03", 1 << 40), news("02", 20)],
            [1, 0, 1, 0, 1]
        );
    }
}
