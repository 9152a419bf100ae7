//! What a run measures: latencies, what cores were used for, how requests moved.
//!
//! In: requests that end, work that is given out. Out: an [`Outcome`]. Work is counted when it is given out, so what of it was
//! still waiting when the measured part began or ended is corrected for. Owned by a run.

use hdrhistogram::Histogram;
use keyferry_decide::Reason;

/// Latencies are told apart up to this; longer ones count as this.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// What a core, or a slot, is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Use {
    /// TCP connections.
    Tcp,
    /// Full handshakes: asymmetric cryptography.
    Full,
    /// Resumed ones.
    Resumed,
    /// Requests read, replies begun.
    Request,
    /// The application.
    App,
    /// Sealing.
    Seal,
    /// Sending to clients.
    Send,
    /// Lending: messages, keys, copies.
    Lend,
}

impl Use {
    /// All, in the order of their counts.
    pub const ALL: [Use; 8] =
        [Use::Tcp, Use::Full, Use::Resumed, Use::Request, Use::App, Use::Seal, Use::Send, Use::Lend];

    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Use::Tcp => "tcp",
            Use::Full => "full handshake",
            Use::Resumed => "resumed handshake",
            Use::Request => "request",
            Use::App => "application",
            Use::Seal => "sealing",
            Use::Send => "sending",
            Use::Lend => "lending",
        }
    }
}

/// Counts of a run under way.
pub struct Tally {
    /// Latencies of measured requests, in ns.
    latency: Histogram<u64>,
    sum_ns: f64,
    /// Measured requests that have ended, those that failed among them.
    pub ended: u64,
    /// Of them, failed ones.
    pub failed: u64,
    /// Measured requests that had not ended when the run did; they count as ended.
    pub cut_short: u64,
    /// Requests ended while any was measured, whichever they are.
    pub done: u64,
    /// Requests lent.
    pub moved: u64,
    /// Of them, those that found more waiting at the helper than where they came from.
    pub regretted: u64,
    /// Handshakes.
    pub full: u64,
    /// Resumed ones.
    pub resumed: u64,
    /// Decisions by [`Reason`].
    pub reasons: [u64; Reason::ALL.len()],
    /// Ns of cores and slots, by use.
    pub uses: [u64; Use::ALL.len()],
    /// Ns of a node's cores, and of its slots.
    pub core_ns: Vec<u64>,
    /// Of its slots.
    pub app_ns: Vec<u64>,
    /// When the measured part began.
    pub since_ns: Option<u64>,
}

impl Tally {
    /// Nothing counted.
    pub fn new(nodes: usize) -> Tally {
        Tally {
            latency: Histogram::new_with_max(LATENCY_NS_MAX, DIGITS)
                .expect("an hour in three digits is a histogram"),
            sum_ns: 0.0,
            ended: 0,
            failed: 0,
            cut_short: 0,
            done: 0,
            moved: 0,
            regretted: 0,
            full: 0,
            resumed: 0,
            reasons: [0; Reason::ALL.len()],
            uses: [0; Use::ALL.len()],
            core_ns: vec![0; nodes],
            app_ns: vec![0; nodes],
            since_ns: None,
        }
    }

    /// A measured request has its reply.
    pub fn ended(&mut self, latency_ns: u64) {
        self.ended += 1;
        self.sum_ns += latency_ns as f64;
        self.latency.saturating_record(latency_ns);
    }

    /// A measured request has taken so long, and the run ends.
    pub fn cut_short(&mut self, latency_ns: u64) {
        self.cut_short += 1;
        self.ended(latency_ns);
    }

    /// A measured request has none.
    pub fn failed(&mut self) {
        self.ended += 1;
        self.failed += 1;
    }

    /// The measured part begins: `backlog_ns` is what each node's cores and slots have to do yet.
    pub fn begin(&mut self, now_ns: u64, backlogs_ns: impl Iterator<Item = (u64, u64)>) {
        *self = Tally { since_ns: Some(now_ns), ..Tally::new(self.core_ns.len()) };
        for (node, (core_ns, app_ns)) in backlogs_ns.enumerate() {
            (self.core_ns[node], self.app_ns[node]) = (core_ns, app_ns);
        }
    }

    /// It ends. `cores` and `slots`: of each node.
    pub fn end(
        mut self,
        now_ns: u64,
        backlogs_ns: impl Iterator<Item = (u64, u64)>,
        cores: usize,
        slots: usize,
    ) -> Outcome {
        for (node, (core_ns, app_ns)) in backlogs_ns.enumerate() {
            self.core_ns[node] = self.core_ns[node].saturating_sub(core_ns);
            self.app_ns[node] = self.app_ns[node].saturating_sub(app_ns);
        }
        let window_ns = now_ns.saturating_sub(self.since_ns.unwrap_or(0)).max(1) as f64;
        let served = self.ended - self.failed;
        let share = |ns: &Vec<u64>, of: usize| -> Vec<f64> {
            ns.iter().map(|ns| *ns as f64 / window_ns / of.max(1) as f64).collect()
        };
        Outcome {
            mean_ns: self.sum_ns / served.max(1) as f64,
            p50_ns: self.latency.value_at_quantile(0.5) as f64,
            p99_ns: self.latency.value_at_quantile(0.99) as f64,
            requests: self.ended,
            failed: self.failed,
            cut_short: self.cut_short,
            per_s: self.done as f64 / window_ns * 1e9,
            moved: self.moved as f64 / self.done.max(1) as f64,
            regretted: self.regretted as f64 / self.moved.max(1) as f64,
            full: self.full,
            resumed: self.resumed,
            reasons: self.reasons,
            uses: self.uses,
            cores: share(&self.core_ns, cores),
            app: share(&self.app_ns, slots),
            window_ns,
        }
    }
}

/// What a run measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Mean latency.
    pub mean_ns: f64,
    /// Its median.
    pub p50_ns: f64,
    /// Its 99th percentile.
    pub p99_ns: f64,
    /// Requests measured.
    pub requests: u64,
    /// Of them, those that have no reply.
    pub failed: u64,
    /// Of them, those that had not ended when the run did: their latency is what it was by then.
    pub cut_short: u64,
    /// Requests ended a second.
    pub per_s: f64,
    /// Share of requests that were lent.
    pub moved: f64,
    /// Share of those that found more waiting at the helper than where they came from.
    pub regretted: f64,
    /// Full handshakes.
    pub full: u64,
    /// Resumed ones.
    pub resumed: u64,
    /// Decisions by [`Reason`].
    pub reasons: [u64; Reason::ALL.len()],
    /// Ns by use.
    pub uses: [u64; Use::ALL.len()],
    /// Each node's cores: the share of the time in which they worked.
    pub cores: Vec<f64>,
    /// Each node's slots.
    pub app: Vec<f64>,
    /// How long was measured.
    pub window_ns: f64,
}

impl Outcome {
    /// The share of all work that is of one use.
    pub fn share(&self, of: Use) -> f64 {
        self.uses[of as usize] as f64 / self.uses.iter().sum::<u64>().max(1) as f64
    }
}
