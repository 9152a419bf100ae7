//! The figures of the paper again: what each shows of the results, and what the paper has there.

use super::Results;
use super::plan::{Extent, HIGH, MOST, NODES, SWEEPS};
use crate::commands::spread;
use crate::plot::{Bars, Figure, Series};
use crate::replicate::Mean;
use crate::tally::{Outcome, Use};

/// What the paper has of lifetimes: bf / session by lifetime.
pub const PAPER_LIFETIMES: [(f64, f64); 3] = [(1.0, 1.0), (2.0, 0.90), (8.0, 0.45)];

/// What the paper has at high load: about.
pub const PAPER_HIGH: f64 = 0.60;

/// What it has of throughput, at most.
pub const PAPER_THROUGHPUT: f64 = 1.10;

/// What it has of asymmetric cryptography under rr, at least.
pub const PAPER_CRYPTO: f64 = 0.90;

/// A figure of an outcome.
type Of = fn(&Outcome) -> f64;

/// Idle time, on average over processors.
pub fn idle(outcome: &Outcome) -> f64 {
    1.0 - outcome.cores.iter().sum::<f64>() / outcome.cores.len() as f64
}

/// Processor time in full handshakes.
pub fn crypto(outcome: &Outcome) -> f64 {
    outcome.share(Use::Full)
}

/// All figures of a size, but the breakdown.
pub fn figures(results: &Results, extent: &Extent, nodes: usize) -> Vec<Figure> {
    let mut figures = by_load(results, extent, nodes);
    let place = format!("{nodes}/k");
    let knob = || "k: gaps between sessions; 12 is the paper's high load, 14 its moderate one".to_owned();
    figures.push(Figure {
        name: format!("gain_{nodes}"),
        title: format!("{nodes} nodes: mean latency of bf by that of session, by load"),
        x: knob(),
        y: "bf / session".to_owned(),
        series: ratios(results, &place, extent.knobs(), |it| it.mean_ns),
        paper: vec![(HIGH, PAPER_HIGH)],
        is_log: false,
    });
    figures.push(Figure {
        name: format!("throughput_gain_{nodes}"),
        title: format!("{nodes} nodes: throughput of bf by that of session, by load"),
        x: knob(),
        y: "bf / session".to_owned(),
        series: ratios(results, &place, extent.knobs(), |it| it.per_s),
        paper: vec![(MOST, PAPER_THROUGHPUT)],
        is_log: false,
    });
    figures.push(Figure {
        name: format!("lifetime_{nodes}"),
        title: format!(
            "{nodes} nodes: mean latency of bf by that of session, by lifetime at the distributor"
        ),
        x: "lifetime, in mean lengths of a session".to_owned(),
        y: "bf / session".to_owned(),
        series: ratios(results, &format!("{nodes}/lifetime"), extent.lifetimes(), |it| it.mean_ns),
        paper: PAPER_LIFETIMES.to_vec(),
        is_log: true,
    });
    if !extent.swept().contains(&nodes) {
        return figures;
    }
    if nodes == NODES[0] {
        figures.push(crypto_by_share(results, extent, nodes));
    }
    figures.extend(SWEEPS.iter().map(|sweep| Figure {
        name: format!("sweep_{}_{nodes}", sweep.name),
        title: format!("{nodes} nodes: mean latency of bf by that of session, high load"),
        x: sweep.x.to_owned(),
        y: "bf / session".to_owned(),
        series: ratios(results, &format!("{nodes}/{}", sweep.name), &extent.values(sweep, nodes), |it| {
            it.mean_ns
        }),
        paper: Vec::new(),
        is_log: sweep.is_log,
    }));
    figures
}

fn by_load(results: &Results, extent: &Extent, nodes: usize) -> Vec<Figure> {
    let by_load: [(&str, &str, Of, &[&str]); 5] = [
        ("latency", "mean latency, ms", |it| it.mean_ns / 1e6, &["session", "bf", "ours"]),
        ("latency_rr", "mean latency, ms", |it| it.mean_ns / 1e6, &["rr"]),
        ("throughput", "requests a second", |it| it.per_s, &["rr", "session", "bf", "ours"]),
        ("idle", "idle time of processors", idle, &["rr", "session", "bf", "ours"]),
        ("spread", "utilisation, most less least", spread, &["rr", "session", "bf", "ours"]),
    ];
    let figure = |(name, y, of, models): (&str, &str, Of, &[&str])| Figure {
        name: format!("{name}_{nodes}"),
        title: format!("{nodes} nodes: {y}, by load"),
        x: "k: gaps between sessions; 12 is the paper's high load, 14 its moderate one".to_owned(),
        y: y.to_owned(),
        series: lines(results, &format!("{nodes}/k"), extent.knobs(), models, of),
        paper: Vec::new(),
        is_log: false,
    };
    by_load.into_iter().map(figure).collect()
}

/// How much of its time a processor is in full handshakes under rr, by what the rest of a request costs.
fn crypto_by_share(results: &Results, extent: &Extent, nodes: usize) -> Figure {
    let series = |static_us: &f64| {
        let of = |share: &f64| Mean::over(results.of(&format!("{nodes}/map/{static_us}/{share}/rr")), crypto);
        Series {
            name: format!("static {static_us} us"),
            points: extent.shares().iter().map(|share| (*share, of(share))).collect(),
        }
    };
    Figure {
        name: format!("crypto_{nodes}"),
        title: format!("{nodes} nodes: processor time in full handshakes under rr"),
        x: "share of dynamic requests, each 100 to 1000 times static".to_owned(),
        y: "of all processor time".to_owned(),
        series: extent.statics().iter().map(series).collect(),
        paper: extent.shares().iter().map(|share| (*share, PAPER_CRYPTO)).collect(),
        is_log: false,
    }
}

/// A figure of each model over a place's values.
fn lines(results: &Results, place: &str, values: &[f64], models: &[&str], of: Of) -> Vec<Series> {
    let series = |model: &&str| Series {
        name: (*model).to_owned(),
        points: values
            .iter()
            .map(|value| (*value, Mean::over(results.of(&format!("{place}/{value}/{model}")), of)))
            .collect(),
    };
    models.iter().map(series).collect()
}

/// A figure by that of `session`, of both ways to forward.
pub fn ratios(results: &Results, place: &str, values: &[f64], of: Of) -> Vec<Series> {
    let ratio = |value: f64, model: &str| results.ratio(&format!("{place}/{value}"), model, "session", of);
    let series = |(model, name): (&str, &str)| Series {
        name: name.to_owned(),
        points: values.iter().map(|value| (*value, ratio(*value, model))).collect(),
    };
    [("bf", "bf"), ("ours", "ours")].map(series).into()
}

/// What processors are used for at high load.
pub fn breakdown(results: &Results, nodes: usize) -> Bars {
    let column = |model: &str| {
        let outcomes = results.of(&format!("{nodes}/k/{HIGH}/{model}"));
        let shares = Use::ALL.map(|used| Mean::over(outcomes, |outcome| outcome.share(used)));
        (model.to_owned(), shares.into())
    };
    Bars {
        name: format!("breakdown_{nodes}"),
        title: format!("{nodes} nodes: what processors are used for, high load"),
        parts: Use::ALL.map(|used| used.name().to_owned()).into(),
        columns: ["rr", "session", "bf", "ours"].map(column).into(),
    }
}
