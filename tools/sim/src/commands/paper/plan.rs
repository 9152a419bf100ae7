//! What is run for the paper's page: its figures, and everything it leaves open, place by place.
//!
//! In: what was chosen. Out: places, each a load that several models meet with the same seeds.

use keyferry_decide::Policy;

use super::setup::Setup;
use crate::replicate::Seeds;
use crate::scenario::{Model, OURS, Scenario};

/// Sizes of the paper's clusters.
pub const NODES: [usize; 2] = [16, 32];

/// The knob of arrivals; the paper names 12, high load, and 14, moderate.
const KNOBS: &[f64] = &[MOST, 11.0, HIGH, 13.0, 14.0, 16.0, 20.0];

/// The paper's high load, and its moderate one.
pub const HIGH: f64 = 12.0;
pub const MODERATE: f64 = 14.0;

/// More than the cluster can do: where throughput tells models apart.
pub const MOST: f64 = 10.0;

/// Lifetimes at the distributor, in mean lengths of a session.
const LIFETIMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 100.0];

/// What the paper leaves open, each swept alone.
pub const SWEEPS: [Sweep; 11] = [
    Sweep {
        name: "threshold",
        x: "threshold, ms of waiting work",
        values: &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0],
        set: |setup, value| setup.threshold_us = (value * 1e3) as u32,
        is_log: false,
    },
    Sweep {
        name: "dynamic_share",
        x: "share of dynamic requests",
        values: &[0.0, 0.01, 0.03, 0.1, 0.3, 1.0],
        set: |setup, value| setup.dynamic = value,
        is_log: false,
    },
    Sweep {
        name: "dynamic_cost",
        x: "dynamic content, times static",
        values: &[10.0, 30.0, 100.0, 300.0, 1000.0],
        set: |setup, value| setup.factor = (value, value),
        is_log: true,
    },
    Sweep {
        name: "static_cost",
        x: "static content, us of 1 KB",
        values: &STATICS_US,
        set: |setup, value| setup.static_ns = value * 1e3,
        is_log: true,
    },
    Sweep {
        name: "skew",
        x: "skew of clients, exponent of Zipf's law",
        values: &[0.0, 0.3, 0.5, 0.7, 0.8, 0.9],
        set: |setup, value| setup.skew = value,
        is_log: false,
    },
    Sweep {
        name: "clients",
        x: "clients a node",
        values: &[32.0, 64.0, 128.0, 256.0, 512.0, 1024.0],
        set: |setup, value| setup.clients_a_node = value as usize,
        is_log: true,
    },
    Sweep {
        name: "busy",
        x: "work offered at k = 12, of what the cluster can do",
        values: &[0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1],
        set: |setup, value| setup.busy_at_high = value,
        is_log: false,
    },
    Sweep {
        name: "gaps",
        x: "shape of the gaps between sessions; less is burstier",
        values: &[1.1, 1.3, 1.5, 1.9, 3.0],
        set: |setup, value| setup.shape = value,
        is_log: false,
    },
    Sweep {
        name: "requests",
        x: "requests of a session",
        values: &[2.0, 5.0, 10.0, 20.0, 50.0],
        set: |setup, value| {
            // A session is as long as before.
            setup.think_ns *= setup.requests / value;
            setup.requests = value;
        },
        is_log: true,
    },
    Sweep {
        name: "full",
        x: "full handshake, ms; the others in the paper's ratios to it",
        values: &[2.5, 3.0, 4.0, 5.0],
        set: |setup, value| setup.set_full_handshake(value * 1e6),
        is_log: false,
    },
    Sweep {
        name: "word",
        x: "load words, ms from one to the next",
        values: &[0.2, 1.0, 5.0, 10.0],
        set: |setup, value| setup.word_ns = Some((value * 1e6) as u64),
        is_log: true,
    },
];

/// Costs of static content of 1 KB, in us: from an answer out of memory to a file and a process for it.
const STATICS_US: [f64; 4] = [1.0, 5.0, 25.0, 100.0];

/// Shares of dynamic requests, each with each of these costs: where all that the paper says may hold at once.
const SHARES: &[f64] = &[0.0, 0.01, 0.03, 0.1, 0.3];

/// What the paper's sweep of lifetimes is looked for in: each content with each number of clients and each load. The first of
/// each is what was chosen.
const MIXES: &[Mixed] = &[
    Mixed { static_us: 25.0, dynamic: 0.1 },
    Mixed { static_us: 25.0, dynamic: 0.03 },
    Mixed { static_us: 5.0, dynamic: 0.03 },
];
const CLIENTS: &[usize] = &[256, 1024];
const BUSY: &[f64] = &[0.9, 1.05, 1.1, 1.15];

/// Lifetimes there.
pub const LIFETIMES_TOGETHER: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// The lifetime of them that the paper wants at least, and has its other figures with.
pub const LIFETIME_WANTED: f64 = 4.0;

/// Content of two kinds.
#[derive(Clone, Copy, Debug)]
pub struct Mixed {
    pub static_us: f64,
    pub dynamic: f64,
}

/// Where the paper's sweep of lifetimes is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Where {
    pub mixed: Mixed,
    pub clients: usize,
    pub busy: f64,
}

impl Where {
    /// The place at one lifetime.
    pub fn at(&self, nodes: usize, lifetime: f64) -> String {
        let Where { mixed: Mixed { static_us, dynamic }, clients, busy } = self;
        format!("{nodes}/all/{static_us}/{dynamic}/{clients}/{busy}/{lifetime}")
    }
}

/// One open parameter.
pub struct Sweep {
    pub name: &'static str,
    pub x: &'static str,
    values: &'static [f64],
    set: fn(&mut Setup, f64),
    pub is_log: bool,
}

/// What is run of it all: a quick run has what the paper names, and of what is swept the ends, on the smaller cluster.
pub struct Extent {
    pub quick: bool,
}

impl Extent {
    pub fn knobs(&self) -> &'static [f64] {
        if self.quick { &[MOST, HIGH, MODERATE] } else { KNOBS }
    }

    pub fn lifetimes(&self) -> &'static [f64] {
        if self.quick { &[1.0, 2.0, 8.0] } else { LIFETIMES }
    }

    /// Values of a sweep: fewer on the larger cluster.
    pub fn values(&self, sweep: &Sweep, nodes: usize) -> Vec<f64> {
        match sweep.values {
            [first, .., last] if self.quick => vec![*first, *last],
            all if nodes == NODES[0] => all.to_vec(),
            all => all.iter().copied().step_by(2).collect(),
        }
    }

    /// Sizes that what is open is swept with.
    pub fn swept(&self) -> &'static [usize] {
        if self.quick { &NODES[..1] } else { &NODES }
    }

    pub fn statics(&self) -> &'static [f64] {
        if self.quick { &STATICS_US[2..3] } else { &STATICS_US }
    }

    pub fn shares(&self) -> &'static [f64] {
        if self.quick { &SHARES[3..4] } else { SHARES }
    }

    /// Where the sweep of lifetimes is looked for.
    pub fn places(&self) -> Vec<Where> {
        let first = usize::from(self.quick);
        let of = |all: usize| if first == 1 { 1 } else { all };
        let mut places = Vec::new();
        for mixed in MIXES[..of(MIXES.len())].iter().copied() {
            for clients in CLIENTS[..of(CLIENTS.len())].iter().copied() {
                let busy = BUSY[..of(BUSY.len())].iter();
                places.extend(busy.map(|busy| Where { mixed, clients, busy: *busy }));
            }
        }
        places
    }
}

/// A load that models meet: by name, `16/k/12`, `16/lifetime/4`, `16/skew/0.7`, `16/map/5/0.1`.
pub struct Place {
    pub name: String,
    /// By the name of the model, or of what differs; `session` is what others are compared with.
    pub scenarios: Vec<(String, Scenario)>,
}

impl Place {
    fn new(name: String, setup: &Setup, nodes: usize, models: &[&str]) -> Place {
        let rate = setup.rate(nodes);
        let scenario = |name: &&str| ((*name).to_owned(), setup.scenario(nodes, rate, model(setup, name)));
        Place { name, scenarios: models.iter().map(scenario).collect() }
    }
}

/// A model by name: `bf` is the paper's threshold, `ours` what the product does.
fn model(setup: &Setup, name: &str) -> Model {
    match name {
        "rr" => Model::Rr,
        "session" => Model::Session,
        "bf" => Model::Bf(Policy::Threshold { us: setup.threshold_us }),
        _ => OURS,
    }
}

/// Places that are run alike.
pub struct Part {
    pub what: &'static str,
    pub seeds: Seeds,
    pub places: Vec<Place>,
}

/// All of it.
pub fn parts(base: &Setup, extent: &Extent) -> Vec<Part> {
    let shorter = |part: u64| Setup { measured: base.measured / part, ..base.clone() };
    let seeds = |least, most, narrow| match extent.quick {
        true => Seeds { least: 2, most: 2, narrow },
        false => Seeds { least, most, narrow },
    };
    vec![
        Part { what: "load", seeds: seeds(4, 6, 0.03), places: by_load(base, extent) },
        Part { what: "lifetimes", seeds: seeds(3, 5, 0.03), places: by_lifetime(base, extent) },
        Part { what: "sweeps", seeds: seeds(3, 5, 0.05), places: swept(&shorter(4), extent) },
        Part { what: "content", seeds: seeds(3, 4, 0.05), places: by_content(&shorter(4), extent) },
        Part { what: "all lifetimes", seeds: seeds(3, 3, 0.05), places: together(&shorter(3), extent) },
    ]
}

fn by_load(base: &Setup, extent: &Extent) -> Vec<Place> {
    let place = |nodes: usize, k: f64| {
        let setup = Setup { k, ..base.clone() };
        Place::new(format!("{nodes}/k/{k}"), &setup, nodes, &["rr", "session", "bf", "ours"])
    };
    NODES.into_iter().flat_map(|nodes| extent.knobs().iter().map(move |k| place(nodes, *k))).collect()
}

fn by_lifetime(base: &Setup, extent: &Extent) -> Vec<Place> {
    let place = |nodes: usize, lifetime: f64| {
        let setup = Setup { lifetime, ..base.clone() };
        Place::new(format!("{nodes}/lifetime/{lifetime}"), &setup, nodes, &["session", "bf", "ours"])
    };
    let lifetimes = extent.lifetimes();
    NODES.into_iter().flat_map(|nodes| lifetimes.iter().map(move |it| place(nodes, *it))).collect()
}

fn swept(base: &Setup, extent: &Extent) -> Vec<Place> {
    let mut places = Vec::new();
    for nodes in extent.swept().iter().copied() {
        for sweep in &SWEEPS {
            for value in extent.values(sweep, nodes) {
                let mut setup = base.clone();
                (sweep.set)(&mut setup, value);
                let name = format!("{nodes}/{}/{value}", sweep.name);
                places.push(Place::new(name, &setup, nodes, &["session", "bf", "ours"]));
            }
        }
    }
    places
}

fn by_content(base: &Setup, extent: &Extent) -> Vec<Place> {
    let nodes = NODES[0];
    let place = |static_us: f64, dynamic: f64| {
        let setup = Setup { static_ns: static_us * 1e3, dynamic, ..base.clone() };
        Place::new(format!("{nodes}/map/{static_us}/{dynamic}"), &setup, nodes, &["rr", "session", "bf"])
    };
    let shares = extent.shares();
    extent
        .statics()
        .iter()
        .flat_map(|static_us| shares.iter().map(move |it| place(*static_us, *it)))
        .collect()
}

fn together(base: &Setup, extent: &Extent) -> Vec<Place> {
    let nodes = NODES[0];
    let place = |at: &Where, lifetime: f64| {
        let setup = Setup {
            static_ns: at.mixed.static_us * 1e3,
            dynamic: at.mixed.dynamic,
            clients_a_node: at.clients,
            busy_at_high: at.busy,
            lifetime,
            ..base.clone()
        };
        // Without sessions a lifetime changes nothing.
        let models: &[&str] =
            if lifetime == LIFETIME_WANTED { &["rr", "session", "bf"] } else { &["session", "bf"] };
        Place::new(at.at(nodes, lifetime), &setup, nodes, models)
    };
    let places = extent.places();
    places.iter().flat_map(|at| LIFETIMES_TOGETHER.map(|lifetime| place(at, lifetime))).collect()
}
