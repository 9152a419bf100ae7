//! What is simulated of the paper: what it gives, and what was chosen where it gives nothing, before the first run.

use std::sync::Arc;

use crate::costs::Costs;
use crate::draw::Skew;
use crate::scenario::{Cluster, Content, Gaps, Load, Model, Scenario, Sessions, Sizes, Web, Work, word_ns};
use crate::wishes;

/// One choice of everything.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Costs of the paper's time.
    pub costs: Arc<Costs>,
    /// The paper's knob of arrivals: gaps between sessions are in proportion to it. 12 is its high load.
    pub k: f64,
    /// Work offered at k = 12, of what the cluster's processors can do if each session shakes hands in full once. Ours.
    pub busy_at_high: f64,
    /// How long the distributor knows a client, in mean lengths of a session. The paper wants 4 at least.
    pub lifetime: f64,
    /// The threshold. Ours: what the product has.
    pub threshold_us: u32,
    /// Processor time of static content of 1 KB. Ours: a page from memory, by a process that was waiting for it.
    pub static_ns: f64,
    /// Share of dynamic requests. Ours.
    pub dynamic: f64,
    /// Their cost, in that of static ones: the paper's.
    pub factor: (f64, f64),
    /// Shape of the gaps between sessions: the paper has Pareto's law. Ours: bursts at many time scales.
    pub shape: f64,
    /// How often nodes tell each other their load, where it is not as the product does.
    pub word_ns: Option<u64>,
    /// Zipf's exponent over clients. Ours: that of the committed workload.
    pub skew: f64,
    /// Clients. Ours: so many that most come back after some lengths of a session.
    pub clients_a_node: usize,
    /// Requests of a session. Ours.
    pub requests: f64,
    /// Between a reply and the next request. Ours: with 10 requests a session lasts a second.
    pub think_ns: f64,
    /// Requests that are measured: the paper's 100,000.
    pub measured: u64,
}

/// Of the cost of 1 KB so much is its size's.
const STATIC_OF_SIZE: f64 = 0.2;

/// The longest gap, in that of the shortest: a bound, so that runs have their rate.
const GAPS_SPAN: f64 = 1000.0;

impl Setup {
    /// What was chosen.
    ///
    /// # Errors
    /// None: the calibration comes along.
    pub fn chosen(quick: bool) -> anyhow::Result<Setup> {
        Ok(Setup {
            costs: Arc::new(Costs::load("paper")?),
            k: 12.0,
            busy_at_high: 0.9,
            lifetime: 4.0,
            threshold_us: 2_000,
            static_ns: 25_000.0,
            dynamic: 0.1,
            factor: (100.0, 1000.0),
            shape: 1.5,
            word_ns: None,
            skew: 0.7,
            clients_a_node: 256,
            requests: 10.0,
            think_ns: 1e8,
            measured: if quick { 4_000 } else { 100_000 },
        })
    }

    /// A full handshake takes so long, and what the paper gives in ratios to it changes with it: resumed ones 1 : 32, sealing a
    /// KB 1 : 400.
    pub fn set_full_handshake(&mut self, ns: f64) {
        let costs = Arc::make_mut(&mut self.costs);
        costs.core.full = ns as u64;
        costs.core.resumed = (ns / 32.0) as u64;
        costs.core.seal_per_kb = (ns / 400.0) as u64;
    }

    /// Mean length of a session, in ns.
    pub fn session_ns(&self) -> f64 {
        self.requests * self.think_ns
    }

    fn load(&self, nodes: usize) -> Load {
        Load {
            rate: 1.0,
            gaps: Gaps::Pareto { shape: self.shape, span: GAPS_SPAN },
            clients: self.clients_a_node * nodes,
            skew: if self.skew == 0.0 { Skew::Even } else { Skew::Zipf(self.skew) },
            sessions: Some(Sessions { requests: self.requests, think_ns: self.think_ns }),
            kept: None,
            sizes: Sizes::Web(Web::default()),
            work: Work::Content(Content {
                fixed: self.static_ns * (1.0 - STATIC_OF_SIZE),
                per_kb: self.static_ns * STATIC_OF_SIZE,
                dynamic: self.dynamic,
                factor: self.factor,
            }),
        }
    }

    /// Time of a processor that a session takes, if one of its handshakes is a full one, in ns.
    pub fn session_work_ns(&self) -> f64 {
        let (bytes, work_ns) = wishes::means(&self.load(1));
        let core = &self.costs.core;
        let of_size = (core.seal_per_kb + core.send_per_kb) as f64 * bytes / 1024.0;
        let each = (core.tcp + core.resumed + core.request + core.reply) as f64 + of_size + work_ns;
        self.requests * each + (core.full - core.resumed) as f64
    }

    /// Sessions a second.
    pub fn rate(&self, nodes: usize) -> f64 {
        let busy = self.busy_at_high * 12.0 / self.k;
        busy * nodes as f64 * 1e9 / self.session_work_ns()
    }

    /// One run, at this rate: that of its place, for all models.
    pub fn scenario(&self, nodes: usize, rate: f64, model: Model) -> Scenario {
        let load = Load { rate, ..self.load(nodes) };
        let lifetime_ns = self.lifetime * self.session_ns();
        // The distributor's table is as it always is once the first lifetime has passed.
        let a_lifetime = (load.rate * self.requests * lifetime_ns / 1e9) as u64;
        let cluster = Cluster {
            nodes,
            lifetime_ns: lifetime_ns as u64,
            word_ns: self.word_ns.unwrap_or(word_ns(nodes)),
            // From the session's making on, as a server of that time kept it.
            lifetime_restarts: false,
            ..Cluster::default()
        };
        Scenario {
            cluster,
            load,
            costs: Arc::clone(&self.costs),
            model,
            warm_up: a_lifetime.clamp(self.measured / 2, 3 * self.measured),
            requests: self.measured,
            seed: 2007,
        }
    }
}
