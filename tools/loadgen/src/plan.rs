//! Draws the requests of one thread: which size, seed and cost, meant for when, when to stop; and whose they are. The
//! same arguments draw the same plan. Knows no sockets. Owned by one load thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_app::synthetic::splitmix64;

use crate::args::{Args, Think};
use crate::arrivals::{Arrivals, Process};
use crate::check::{Check, Expected};
use crate::clients::SkewOf;
use crate::due::Due;
use crate::mix::{Mix, uniform};
use crate::target::{Target, Wish};

/// Moments that are due and for which no connection has room, kept apart from those to come. More of them wait in the
/// arrival process itself, where they cost nothing.
const DUE_MAX: usize = 1 << 12;
/// The same where each client has its own: what waits for a busy client may not keep the others' from coming.
const DUE_OF_CLIENTS_MAX: usize = 1 << 18;

/// Makes the clients of requests other numbers than what they ask for.
const CLIENT_SALT: u64 = 0x636c_6965_6e74;

/// A request under way.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What its body has to be.
    pub expected: Expected,
    /// When it was meant to be sent; in a closed loop, when it was.
    pub intended: Instant,
    /// When it was handed to TLS.
    pub started: Instant,
    /// When the head of its reply was read.
    pub first_byte: Option<Instant>,
    /// The status of its reply was not what it should be.
    pub is_refused: bool,
}

/// Who opens a connection, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Index of the target.
    pub target: usize,
    /// Index of the source address, 0 without any.
    pub client: usize,
}

/// What all threads' plans share.
#[derive(Debug)]
pub struct Scheme {
    /// Whom to ask.
    pub targets: Vec<Target>,
    /// Shares of targets; `None`: in turn.
    pub weights: Option<Mix<usize>>,
    /// Number of source addresses, at least 1.
    pub clients: usize,
    /// Shares of clients; `None`: in turn.
    pub skew: Option<Mix<usize>>,
    /// What they are shares of.
    pub skew_of: SkewOf,
    synthetic: Option<Synthetic>,
    expect_sha256: Option<[u8; 32]>,
    think: Option<Think>,
    process: Option<Process>,
    seed: u64,
    threads: usize,
    duration: Option<Duration>,
    requests: Option<u64>,
}

#[derive(Debug)]
struct Synthetic {
    sizes: Mix<u64>,
    costs: Option<Mix<u64>>,
    rotate: Vec<String>,
}

impl Scheme {
    /// Works out what all threads share. `process`: none in a closed loop.
    ///
    /// # Errors
    /// A target that cannot be asked.
    pub fn new(args: &Args, process: Option<Process>) -> anyhow::Result<Scheme> {
        let clients = args.source.as_ref().map_or(1, |sources| sources.0.len());
        Ok(Scheme {
            targets: args.urls.iter().map(|url| Target::new(url, args)).collect::<Result<_, _>>()?,
            weights: Mix::new(args.weights.iter().copied().enumerate().collect()),
            clients,
            skew: args.skew.shares(clients),
            skew_of: args.skew_of,
            synthetic: args.synthetic.then(|| Synthetic {
                sizes: args.bytes_mix.clone(),
                costs: args.cost_mix.clone(),
                rotate: args.rotate.clone(),
            }),
            expect_sha256: args.expect_sha256,
            think: args.think,
            process,
            seed: args.seed,
            threads: args.threads.get(),
            duration: args.duration(),
            requests: args.requests,
        })
    }
}

/// One thread's source of requests.
#[derive(Debug)]
pub struct Plan {
    scheme: Arc<Scheme>,
    index: usize,
    /// Requests still to be sent; `None`: no end but time.
    left: Option<u64>,
    /// Requests, moments, routes and pauses drawn; with the thread's own start, no two requests of a run share a seed.
    drawn: u64,
    arrived: u64,
    routes: u64,
    pauses: u64,
    start: u64,
    /// Open loop: when requests are meant to be sent.
    arrivals: Option<Arrivals>,
    /// Moments that have come.
    due: Due,
    /// The moment arrivals count from.
    epoch: Instant,
}

impl Plan {
    /// The part of thread `index`; `epoch`: the start of the run.
    pub fn new(scheme: Arc<Scheme>, index: usize, epoch: Instant) -> Plan {
        let threads = scheme.threads;
        let arrivals = scheme
            .process
            .clone()
            .map(|process| Arrivals::new(process, scheme.seed, index, threads, scheme.duration));
        let due = match scheme.skew_of {
            SkewOf::Connections => Due::new(1, DUE_MAX),
            SkewOf::Requests => Due::new(scheme.clients, DUE_OF_CLIENTS_MAX),
        };
        let share =
            |requests| requests / threads as u64 + u64::from((index as u64) < requests % threads as u64);
        Plan {
            left: scheme.requests.map(share),
            drawn: 0,
            arrived: 0,
            routes: 0,
            pauses: 0,
            start: scheme.seed.wrapping_add((index as u64) << 48),
            arrivals,
            due,
            epoch,
            index,
            scheme,
        }
    }

    /// Whom a connection of this route asks.
    pub fn target(&self, route: Route) -> &Target {
        &self.scheme.targets[route.target]
    }

    /// Whether every request has been drawn.
    pub fn is_done(&self) -> bool {
        let is_over = self.arrivals.as_ref().is_some_and(|arrivals| arrivals.peek().is_none());
        self.left == Some(0) || (is_over && self.due.waiting() == 0)
    }

    /// Requests still to be drawn, if their number is what ends the run.
    pub fn left(&self) -> usize {
        self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX)
    }

    /// Whether requests have moments of their own.
    pub fn is_open_loop(&self) -> bool {
        self.arrivals.is_some()
    }

    /// The next moment that has not come yet, in an open loop.
    pub fn next_at(&self) -> Option<Instant> {
        self.arrivals.as_ref().and_then(Arrivals::peek).map(|offset| self.epoch + offset)
    }

    /// Takes note of the moments that have come by `now`; returns how many are due in all, as far as it knows.
    pub fn arrive(&mut self, now: Instant) -> usize {
        let elapsed = now.saturating_duration_since(self.epoch);
        let left = self.left();
        let Some(arrivals) = &mut self.arrivals else { return 0 };
        while self.due.waiting() < left
            && self.due.has_room()
            && arrivals.peek().is_some_and(|next| next <= elapsed)
            && let Some(offset) = arrivals.take()
        {
            let line = match (self.scheme.skew_of, &self.scheme.skew) {
                (SkewOf::Connections, _) => 0,
                (SkewOf::Requests, None) => (self.arrived % self.scheme.clients as u64) as usize,
                (SkewOf::Requests, Some(shares)) => {
                    *shares.draw(uniform(splitmix64(self.start ^ CLIENT_SALT).wrapping_add(self.arrived)))
                }
            };
            self.arrived += 1;
            self.due.push(line, self.epoch + offset);
        }
        self.due.waiting()
    }

    /// Lines in which requests wait for connections: one, or one for each client.
    pub fn lines(&self) -> usize {
        match self.scheme.skew_of {
            SkewOf::Connections => 1,
            SkewOf::Requests => self.scheme.clients,
        }
    }

    /// Whether each client's requests wait for its own connections.
    pub fn is_by_client(&self) -> bool {
        self.scheme.skew_of == SkewOf::Requests
    }

    /// The line that connections of a route serve.
    pub fn line(&self, route: Route) -> usize {
        match self.scheme.skew_of {
            SkewOf::Connections => 0,
            SkewOf::Requests => route.client,
        }
    }

    /// The line of the next moment that has come and that no connection has been told of.
    pub fn next_fresh(&mut self) -> Option<usize> {
        self.due.next_fresh()
    }

    /// The oldest moment that is due in a line.
    pub fn oldest_due(&self, line: usize) -> Option<Instant> {
        self.due.oldest(line)
    }

    /// Gives up the requests that were due by `now`; `take` is told the moment of each.
    pub fn drop_overdue(&mut self, now: Instant, mut take: impl FnMut(Instant)) {
        while self.arrive(now) > 0 {
            for moment in self.due.drain() {
                take(moment);
                self.left = self.left.map(|left| left.saturating_sub(1));
            }
        }
    }

    /// The next request, appended to `out`; `None` after the last, and in an open loop when none is due.
    pub fn draw(&mut self, route: Route, now: Instant, out: &mut Vec<u8>) -> Option<Exchange> {
        if self.left == Some(0) {
            return None;
        }
        let intended = if self.is_open_loop() {
            let line = self.line(route);
            if self.due.oldest(line).is_none() {
                self.arrive(now);
            }
            self.due.pop(line)?
        } else {
            now
        };
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        // Seeds are mixed because bodies of neighbouring seeds are the same but for a shift of eight bytes.
        let seed = splitmix64(self.start.wrapping_add(self.drawn));
        let target = &self.scheme.targets[route.target];
        let expected = match (&self.scheme.synthetic, self.scheme.expect_sha256) {
            (Some(synthetic), _) => {
                let bytes = *synthetic.sizes.draw(uniform(seed));
                let turn = (self.drawn % synthetic.rotate.len().max(1) as u64) as usize;
                let wish = Wish {
                    bytes,
                    seed,
                    cost_us: synthetic.costs.as_ref().map(|costs| *costs.draw(uniform(!seed))),
                    extra: synthetic.rotate.get(turn).map(String::as_str),
                };
                target.write_request(Some(&wish), out);
                Expected::Pattern(Check::new(seed, bytes))
            }
            (None, hash) => {
                target.write_request(None, out);
                hash.map_or(Expected::Any, Expected::sha256)
            }
        };
        self.drawn += 1;
        Some(Exchange { expected, intended, started: now, first_byte: None, is_refused: false })
    }

    /// Whether replies to `exchange` may have this status.
    pub fn is_welcome(&self, status: u16) -> bool {
        if self.scheme.synthetic.is_some() { status == 200 } else { (200..400).contains(&status) }
    }

    /// Who opens the next connection, and to whom; `place`: the connection's among those of the thread.
    pub fn draw_route(&mut self, place: usize) -> Route {
        // Threads take turns too, so that few connections on many threads still reach different clients.
        let turn = self.routes * self.scheme.threads as u64 + self.index as u64;
        let draw = |shares: &Option<Mix<usize>>, turn: u64, count: usize, salt: u64| match shares {
            Some(shares) => *shares.draw(uniform(splitmix64(self.scheme.seed ^ salt).wrapping_add(turn))),
            None => (turn % count as u64) as usize,
        };
        let (targets, clients) = (self.scheme.targets.len(), self.scheme.clients);
        let target = draw(&self.scheme.weights, turn, targets, 1);
        // Each client asks each target.
        let rounds = turn / targets as u64;
        let client_turn = if self.scheme.skew.is_some() { turn } else { turn % targets as u64 + rounds };
        let client = match self.scheme.skew_of {
            SkewOf::Connections => draw(&self.scheme.skew, client_turn, clients, 2),
            // A client always has as many connections, also when some are lost.
            SkewOf::Requests => place % clients,
        };
        let route = Route { target, client };
        self.routes += 1;
        route
    }

    /// How long a connection thinks before its next request.
    pub fn draw_pause(&mut self) -> Option<Duration> {
        let think = self.scheme.think?;
        self.pauses += 1;
        Some(think.draw(uniform(splitmix64(!self.start).wrapping_add(self.pauses))))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arrivals::Law;

    fn plan(options: &[&str], process: Option<Process>) -> Plan {
        let fixed = ["keyferry-load", "https://127.0.0.1/a", "https://127.0.0.2/b", "--insecure"];
        let args = Args::parse_from(fixed.iter().chain(options));
        Plan::new(Arc::new(Scheme::new(&args, process).unwrap()), 0, Instant::now())
    }

    fn requests(plan: &mut Plan, now: Instant) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            let (route, mut out) = (plan.draw_route(0), Vec::new());
            if plan.draw(route, now, &mut out).is_none() {
                return texts;
            }
            texts.push(String::from_utf8(out).unwrap());
        }
    }

    #[test]
    fn a_seed_is_a_plan() {
        let options = [
            "-n",
            "50",
            "--synthetic",
            "--bytes-mix",
            "1,2:3",
            "--cost-mix",
            "5,6",
            "--source",
            "127.0.0.1-127.0.0.9",
            "--skew",
            "zipf:1",
        ];
        let texts = |seed: &str| {
            requests(&mut plan(&[&options[..], &["--seed", seed]].concat(), None), Instant::now())
        };
        assert_eq!(texts("1"), texts("1"));
        assert_eq!(texts("1").len(), 50);
        assert_ne!(texts("1"), texts("2"));
    }

    #[test]
    fn targets_take_turns_or_have_weights() {
        let count = |options: &[&str]| {
            let texts = requests(&mut plan(options, None), Instant::now());
            texts.iter().filter(|text| text.starts_with("GET /b ")).count()
        };
        assert_eq!(count(&["-n", "100"]), 50);
        assert!((60..90).contains(&count(&["-n", "100", "--weights", "1,3"])));
    }

    /// What waits for one client does not keep another's from being drawn.
    #[test]
    fn requests_of_a_busy_client_wait_for_its_own_connections() {
        let process = Process::Law { law: Law::Constant, per_s: 1000.0 };
        let options =
            ["-d", "1", "--source", "127.0.0.1-127.0.0.2", "--skew", "hot:1:0.9", "--skew-of", "requests"];
        let mut plan = plan(&options, Some(process));
        let later = plan.epoch + Duration::from_secs(2);
        assert_eq!(plan.arrive(later), 1000);
        let routes = [plan.draw_route(0), plan.draw_route(1), plan.draw_route(2)];
        assert_eq!(routes.map(|route| route.client), [0, 1, 0]);
        let mut out = Vec::new();
        let others = std::iter::from_fn(|| plan.draw(routes[1], later, &mut out)).count();
        assert!((60..150).contains(&others), "{others}");
        assert_eq!(plan.oldest_due(plan.line(routes[1])), None);
        assert_eq!(std::iter::from_fn(|| plan.draw(routes[2], later, &mut out)).count(), 1000 - others);
        assert!(plan.is_done());
    }

    #[test]
    fn what_is_due_is_drawn_once_and_the_rest_is_told() {
        let process = Process::Law { law: Law::Constant, per_s: 1000.0 };
        let mut plan = plan(&["-d", "1"], Some(process));
        let epoch = plan.epoch;
        let at = |ms| epoch + Duration::from_millis(ms);
        assert_eq!(plan.arrive(at(9)), 10);
        assert_eq!(plan.arrive(at(9)), 10);
        assert_eq!(requests(&mut plan, at(9)).len(), 10);
        assert_eq!(plan.next_at(), Some(at(10)));
        assert_eq!(plan.arrive(at(19)), 10);
        let mut dropped = Vec::new();
        plan.drop_overdue(at(29), |moment| dropped.push(moment));
        assert_eq!((dropped.len(), dropped[0], dropped[19]), (20, at(10), at(29)));
        assert!(!plan.is_done());
        plan.drop_overdue(at(5000), |moment| dropped.push(moment));
        assert_eq!(dropped.len(), 990);
        assert!(plan.is_done());
    }
}
