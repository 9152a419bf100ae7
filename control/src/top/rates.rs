//! What happened between two looks at a process, for each second of that time. In: two samples. Out: rates, and how long
//! the replies of that time took. Pure.

use std::collections::BTreeMap;

use super::sample::{Core, Latency, Moves, Peer, Sample};

/// What happened, a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Each worker, as the later sample orders them.
    pub cores: Vec<CoreRates>,
    /// All of them together; `busy` is that of the busiest.
    pub total: CoreRates,
    /// Requests that moved.
    pub moves: Option<MoveRates>,
    /// Requests lent to each peer a second, and borrowed from it, by name; of those that have such figures.
    pub peers: BTreeMap<String, (f64, f64)>,
    /// How long replies took; none if there was no reply.
    pub latency: Option<Times>,
    /// What was dropped or refused, by the counter's name.
    pub drops: BTreeMap<String, f64>,
}

/// Of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CoreRates {
    /// How much of its core it needed, from 0 to 1.
    pub busy: f64,
    /// Packets received a second.
    pub packets_in: f64,
    /// Packets sent a second.
    pub packets_out: f64,
    /// Requests a second.
    pub requests: f64,
    /// Connections begun a second.
    pub begun: f64,
    /// Full handshakes a second.
    pub handshakes_full: f64,
    /// Resumed handshakes a second.
    pub handshakes_resumed: f64,
}

/// Of requests that moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MoveRates {
    /// Leases granted a second.
    pub lent: f64,
    /// Replies that came back whole a second.
    pub returned: f64,
    /// Leases taken a second.
    pub borrowed: f64,
    /// Leases served whole a second.
    pub served: f64,
}

/// How long replies took, in us.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// On average.
    pub mean: f64,
    /// Half of them took less.
    pub p50: f64,
    /// Of a hundred 99 took less.
    pub p99: f64,
}

impl Rates {
    /// What happened from one sample to a later one of the same life; none if there is no such time between them.
    pub fn between(before: &Sample, now: &Sample) -> Option<Rates> {
        let us = now.about.at_us.checked_sub(before.about.at_us).filter(|us| *us > 0)?;
        if before.about.started_ms != now.about.started_ms {
            return None;
        }
        let per = Per { seconds: us as f64 / 1e6 };
        let earlier = |core: &Core| before.cores.iter().find(|it| it.worker == core.worker);
        let none = Core::default();
        let cores: Vec<_> =
            now.cores.iter().map(|core| per.core(earlier(core).unwrap_or(&none), core)).collect();
        let moves = before.moves.as_ref().zip(now.moves.as_ref());
        let latency = before.latency.as_ref().zip(now.latency.as_ref());
        let dropped = |name: &String| before.drops.get(name).copied().unwrap_or(0);
        Some(Rates {
            total: cores.iter().fold(CoreRates::default(), CoreRates::with),
            cores,
            moves: moves.map(|(before, now)| per.moves(before, now)),
            peers: now.peers.iter().filter_map(|peer| per.peer(&before.peers, peer)).collect(),
            latency: latency.and_then(|(before, now)| Times::between(before, now)),
            drops: now
                .drops
                .iter()
                .map(|(name, count)| (name.clone(), per.second(dropped(name), *count)))
                .collect(),
        })
    }
}

/// The time between two samples.
struct Per {
    seconds: f64,
}

impl Per {
    /// A count that went back has begun anew: what it has by now is not known to be of this time.
    fn second(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds
    }

    fn core(&self, before: &Core, now: &Core) -> CoreRates {
        CoreRates {
            busy: (self.second(before.busy_us, now.busy_us) / 1e6).min(1.0),
            packets_in: self.second(before.packets_in, now.packets_in),
            packets_out: self.second(before.packets_out, now.packets_out),
            requests: self.second(before.requests, now.requests),
            begun: self.second(before.begun, now.begun),
            handshakes_full: self.second(before.handshakes_full, now.handshakes_full),
            handshakes_resumed: self.second(before.handshakes_resumed, now.handshakes_resumed),
        }
    }

    fn peer(&self, before: &[Peer], now: &Peer) -> Option<(String, (f64, f64))> {
        let earlier = before.iter().find(|peer| peer.name == now.name);
        let (lent, borrowed) = (now.lent?, now.borrowed?);
        let of = |what: fn(&Peer) -> Option<u64>| earlier.and_then(what).unwrap_or(0);
        let rates = (self.second(of(|it| it.lent), lent), self.second(of(|it| it.borrowed), borrowed));
        Some((now.name.clone(), rates))
    }

    fn moves(&self, before: &Moves, now: &Moves) -> MoveRates {
        MoveRates {
            lent: self.second(before.lent, now.lent),
            returned: self.second(before.returned, now.returned),
            borrowed: self.second(before.borrowed, now.borrowed),
            served: self.second(before.served, now.served),
        }
    }
}

impl CoreRates {
    fn with(self, other: &CoreRates) -> CoreRates {
        CoreRates {
            busy: self.busy.max(other.busy),
            packets_in: self.packets_in + other.packets_in,
            packets_out: self.packets_out + other.packets_out,
            requests: self.requests + other.requests,
            begun: self.begun + other.begun,
            handshakes_full: self.handshakes_full + other.handshakes_full,
            handshakes_resumed: self.handshakes_resumed + other.handshakes_resumed,
        }
    }
}

impl Times {
    fn between(before: &Latency, now: &Latency) -> Option<Times> {
        if before.below_ns != now.below_ns || before.counts.len() != now.counts.len() {
            return None;
        }
        let counts: Vec<u64> =
            now.counts.iter().zip(&before.counts).map(|(now, before)| now.saturating_sub(*before)).collect();
        let all: u64 = counts.iter().sum();
        let quantile = |share: f64| quantile(&now.below_ns, &counts, share * all as f64) / 1e3;
        (all > 0).then(|| Times {
            mean: now.sum_us.saturating_sub(before.sum_us) as f64 / all as f64,
            p50: quantile(0.5),
            p99: quantile(0.99),
        })
    }
}

/// Below which so many of them are, if those in a bucket are spread evenly, in ns. Those of the last bucket are at its
/// lower bound, which is all that is known of them.
fn quantile(below_ns: &[u64], counts: &[u64], rank: f64) -> f64 {
    let (mut seen, mut lower) = (0.0, 0.0);
    for (place, count) in counts.iter().enumerate() {
        let Some(upper) = below_ns.get(place).map(|bound| *bound as f64) else { break };
        let count = *count as f64;
        if count > 0.0 && seen + count >= rank {
            return lower + (upper - lower) * (rank - seen) / count;
        }
        seen += count;
        lower = upper;
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::super::sample::Role;
    use super::super::sample::tests::about;
    use super::*;

    fn sample(at_s: u64, requests: u64, dropped: u64) -> Sample {
        Sample {
            about: about(Role::Node, at_s),
            cores: vec![Core { requests, busy_us: requests * 1_000, ..Core::default() }],
            moves: Some(Moves { lent: requests / 2, ..Moves::default() }),
            latency: Some(Latency {
                sum_us: 10 * requests,
                below_ns: vec![8_000, 16_000],
                counts: vec![requests, 0, 0],
            }),
            peers: Vec::new(),
            drops: BTreeMap::from([("drop_syns".to_owned(), dropped)]),
            certificates: Vec::new(),
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let rates = Rates::between(&sample(10, 100, 7), &sample(12, 500, 8)).unwrap();
        assert_eq!((rates.total.requests, rates.total.busy), (200.0, 0.2));
        assert_eq!(rates.moves.unwrap().lent, 100.0);
        assert_eq!(rates.drops["drop_syns"], 0.5);
        assert_eq!(rates.latency, Some(Times { mean: 10.0, p50: 4.0, p99: 7.92 }));
    }

    #[test]
    fn nothing_is_known_across_a_restart_or_within_no_time() {
        let (before, mut now) = (sample(10, 100, 7), sample(12, 5, 0));
        now.about.started_ms += 1;
        assert_eq!(Rates::between(&before, &now), None, "another life");
        assert_eq!(Rates::between(&before, &before), None, "no time has passed");
        assert_eq!(Rates::between(&sample(12, 100, 7), &before), None, "the other way round");
    }

    #[test]
    fn a_count_that_went_back_is_no_rate_and_a_new_worker_begins_at_nothing() {
        let (before, mut now) = (sample(10, 100, 7), sample(11, 40, 0));
        now.cores.push(Core { worker: 1, requests: 30, ..Core::default() });
        let rates = Rates::between(&before, &now).unwrap();
        assert_eq!((rates.cores[0].requests, rates.cores[1].requests), (0.0, 30.0));
        assert_eq!((rates.latency, rates.drops["drop_syns"]), (None, 0.0));
    }

    #[test]
    fn many_workers_are_summed_and_the_busiest_is_told() {
        let (mut before, mut now) = (sample(10, 0, 0), sample(11, 100, 0));
        before.cores.push(Core { worker: 1, ..Core::default() });
        now.cores.push(Core { worker: 1, requests: 300, busy_us: 2_000_000, ..Core::default() });
        let total = Rates::between(&before, &now).unwrap().total;
        assert_eq!((total.requests, total.busy), (400.0, 1.0), "a turn that was over later counts then");
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let bounds = [10, 20, 40];
        assert_eq!(quantile(&bounds, &[1, 1, 1, 0], 1.5), 15.0);
        assert_eq!(quantile(&bounds, &[0, 0, 4, 0], 2.0), 30.0);
        assert_eq!(
            quantile(&bounds, &[0, 0, 0, 4], 2.0),
            40.0,
            "without a bound only the lower one is known"
        );
        assert_eq!(quantile(&bounds, &[4, 0, 0, 4], 7.9), 40.0);
    }
}
