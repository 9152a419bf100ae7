//! What is said of the paper: the page that holds the figures against what it says.

use std::fmt::Write as _;

use super::figures::{
    PAPER_CRYPTO, PAPER_HIGH, PAPER_LIFETIMES, PAPER_THROUGHPUT, breakdown, crypto, figures, idle, ratios,
};
use super::plan::{Extent, HIGH, LIFETIME_WANTED, LIFETIMES_TOGETHER, MODERATE, NODES, SWEEPS};
use super::setup::Setup;
use super::{Results, Spent};
use crate::commands::spread;
use crate::plot::Series;
use crate::replicate::Mean;
use crate::tally::Outcome;

/// As near to a figure of the paper's, of which it has two digits or a graph, counts as the same.
const NEAR: f64 = 0.10;

/// Nothing is gained above this.
const NOTHING: f64 = 0.95;

/// The page.
pub fn page(results: &Results, setup: &Setup, extent: &Extent) -> String {
    let mut text = String::from(
        "# The paper again\n\nWritten by `keyferry-sim paper`; [CLUSTER_SIM.md](../CLUSTER_SIM.md) says what is assumed, and what \
         to make of it. *bf* is the paper's scheme, a plain threshold; *ours* is the product's default policy in its place. Both \
         are the product's code. Means and half the width of their 90 % confidence; CSV files have 95 % as well.\n",
    );
    if extent.quick {
        text.push_str("\n**A quick run: shorter and fewer than the figures want.**\n");
    }
    text.push_str(&format!(
        "\n{} requests are measured in a run of the figures by load and lifetime, a quarter or a third as many in others. Chosen before the first run, and swept below: work offered at k = 12 {} of what processors can do, threshold {} us, static content {} us a KB, {} % dynamic at {} \
         to {} times static, gaps of shape {}, clients by Zipf {} with {} a node, {} requests a session and {} ms between them, \
         lifetime {} mean lengths of a session from its making. A session takes {:.1} ms of a processor.\n\n",
        setup.measured,
        setup.busy_at_high,
        setup.threshold_us,
        setup.static_ns / 1e3,
        setup.dynamic * 100.0,
        setup.factor.0,
        setup.factor.1,
        setup.shape,
        setup.skew,
        setup.clients_a_node,
        setup.requests,
        setup.think_ns / 1e6,
        setup.lifetime,
        setup.session_work_ns() / 1e6
    ));
    text.push_str(
        "| what | the paper | bf here | ours here | parameters | holds |\n|---|---|---|---|---|---|\n",
    );
    for nodes in NODES {
        compared(results, extent, nodes, setup, &mut text);
    }
    in_short(results, extent, &mut text);
    used(results, &mut text);
    text.push_str("\n## What it hangs on\n\nMean latency of bf by that of session at high load; one parameter at a time.\n");
    for nodes in extent.swept().iter().copied() {
        for sweep in &SWEEPS {
            let place = format!("{nodes}/{}", sweep.name);
            let series = ratios(results, &place, &extent.values(sweep, nodes), |it| it.mean_ns);
            swept(&mut text, nodes, sweep.x, &series);
        }
    }
    lifetimes(results, extent, &mut text);
    together(results, extent, NODES[0], &mut text);
    took(results, &mut text);
    text.push_str("\n## Figures\n");
    for nodes in NODES {
        let bars = breakdown(results, nodes);
        let _ = writeln!(text, "\n![{}]({}.svg)", bars.title, bars.name);
        for figure in figures(results, extent, nodes) {
            let _ = writeln!(text, "\n![{}]({}.svg)", figure.title, figure.name);
        }
    }
    text
}

/// Whether what the paper says holds here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// The interval is wider than what counts as near.
    Unsure,
}

impl Holds {
    fn name(self) -> &'static str {
        match self {
            Holds::Yes => "yes",
            Holds::No => "**no**",
            Holds::Unsure => "not sure",
        }
    }

    /// A figure near the paper's.
    fn near(mean: Mean, paper: f64) -> Holds {
        match (mean.value - paper).abs() <= NEAR {
            _ if mean.half_90 > NEAR => Holds::Unsure,
            true => Holds::Yes,
            false => Holds::No,
        }
    }

    fn if_so(holds: bool) -> Holds {
        if holds { Holds::Yes } else { Holds::No }
    }
}

/// The table "paper, ours, parameters" of a size.
fn compared(results: &Results, extent: &Extent, nodes: usize, setup: &Setup, text: &mut String) {
    let mut row = |what: &str, paper: &str, bf: String, ours: String, parameters: &str, holds: Holds| {
        let holds = holds.name();
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "| {nodes} nodes: {what} | {paper} | {bf} | {ours} | {parameters} | {holds} |");
    };
    let at = |k: f64, of: fn(&Outcome) -> f64| {
        ["bf", "ours"].map(|model| results.ratio(&format!("{nodes}/k/{k}"), model, "session", of))
    };
    let [bf, ours] = at(HIGH, |it| it.mean_ns);
    let as_said = Holds::near(bf, PAPER_HIGH);
    row("mean latency, bf / session", "about 0.60", bf.to_string(), ours.to_string(), "k = 12", as_said);
    let [moderate, ours] = at(MODERATE, |it| it.mean_ns);
    let is_less = Holds::if_so((bf.value..1.0).contains(&moderate.value));
    row("the same, moderate", "less gain", moderate.to_string(), ours.to_string(), "k = 14", is_less);
    let most = extent.knobs().iter().map(|k| (at(*k, |it| it.per_s), *k));
    let most = most.max_by(|([one, _], _), ([other, _], _)| one.value.total_cmp(&other.value));
    if let Some(([bf, ours], k)) = most {
        let gains =
            Holds::if_so((PAPER_THROUGHPUT - bf.value).abs() <= NEAR / 2.0 && bf.half_90 <= NEAR / 2.0);
        let parameters = format!("k = {k}, where it is most");
        row("throughput, bf / session", "up to 1.10", bf.to_string(), ours.to_string(), &parameters, gains);
    }
    for (lifetime, paper) in PAPER_LIFETIMES {
        let place = format!("{nodes}/lifetime/{lifetime}");
        let [bf, ours] = ["bf", "ours"].map(|model| results.ratio(&place, model, "session", |it| it.mean_ns));
        let what = format!("mean latency, lifetime {lifetime}x");
        let as_said = Holds::near(bf, paper);
        row(&what, &format!("{paper:.2}"), bf.to_string(), ours.to_string(), "k = 12", as_said);
    }
    let over = |model: &str, of: fn(&Outcome) -> f64| {
        Mean::over(results.of(&format!("{nodes}/k/{HIGH}/{model}")), of)
    };
    let [rr, session] = ["rr", "session"].map(|model| over(model, crypto));
    row(
        "processor time in asymmetric crypto under rr",
        "> 0.90",
        format!("{rr} (session {session})"),
        String::new(),
        &format!("{} % dynamic", setup.dynamic * 100.0),
        Holds::if_so(rr.value > PAPER_CRYPTO),
    );
    let [session, bf, ours] = ["session", "bf", "ours"].map(|model| over(model, spread));
    row(
        "utilisation, most less least, under session",
        "well above bf",
        format!("session {session}, bf {bf}"),
        ours.to_string(),
        "k = 12",
        Holds::if_so(session.value > 1.5 * bf.value),
    );
    let [session, bf, ours] = ["session", "bf", "ours"].map(|model| over(model, idle));
    row(
        "idle time",
        "least under bf",
        format!("session {session:.3}, bf {bf:.3}"),
        format!("{ours:.3}"),
        "k = 12",
        Holds::if_so(bf.value < session.value),
    );
}

/// Where the claim holds at all: over everything that is swept.
fn in_short(results: &Results, extent: &Extent, text: &mut String) {
    text.push_str("\n## Where the claim holds\n\nForwarding saves latency at high load, whatever the paper leaves open:\n\n");
    for nodes in extent.swept().iter().copied() {
        let (mut all, mut pays, mut fails, mut unsure) = (0, 0, Vec::new(), Vec::new());
        for sweep in &SWEEPS {
            for value in extent.values(sweep, nodes) {
                let place = format!("{nodes}/{}/{value}", sweep.name);
                let mean = results.ratio(&place, "bf", "session", |it| it.mean_ns);
                all += 1;
                match (mean.value + mean.half_90 < NOTHING, mean.value - mean.half_90 > NOTHING) {
                    (true, _) => pays += 1,
                    (_, true) => fails.push(format!("{} {value} ({mean})", sweep.name)),
                    _ => unsure.push(format!("{} {value} ({mean})", sweep.name)),
                }
            }
        }
        let _ = writeln!(
            text,
            "- {nodes} nodes: bf / session below {NOTHING} at {pays} of {all} swept values, the interval considered. Above it: {}. The \
             interval has it: {}.",
            list(&fails),
            list(&unsure)
        );
    }
}

/// What processors are used for, in percent.
fn used(results: &Results, text: &mut String) {
    text.push_str("\n## What processors are used for at high load, % of their work\n");
    for nodes in NODES {
        let bars = breakdown(results, nodes);
        let _ = write!(
            text,
            "\n| {nodes} nodes | {} |\n|---|{}\n",
            bars.parts.join(" | "),
            "---|".repeat(bars.parts.len())
        );
        for (model, shares) in bars.columns {
            let shares: Vec<_> = shares.iter().map(|share| format!("{:.1}", share.value * 100.0)).collect();
            let _ = writeln!(text, "| {model} | {} |", shares.join(" | "));
        }
    }
}

/// One sweep: its row of ratios, and where the claim holds.
fn swept(text: &mut String, nodes: usize, x: &str, series: &[Series]) {
    let Some(bf) = series.first() else { return };
    let columns: Vec<String> = bf.points.iter().map(|(value, _)| value.to_string()).collect();
    let _ = write!(
        text,
        "\n| {nodes} nodes: {x} | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for Series { name, points } in series {
        let values: Vec<String> = points.iter().map(|(_, mean)| mean.to_string()).collect();
        let _ = writeln!(text, "| {name} | {} |", values.join(" | "));
    }
    let of = |holds: &dyn Fn(f64) -> bool| {
        let values: Vec<String> = bf
            .points
            .iter()
            .filter(|(_, mean)| holds(mean.value))
            .map(|(value, _)| value.to_string())
            .collect();
        if values.is_empty() { "nowhere".to_owned() } else { format!("at {}", values.join(", ")) }
    };
    let _ = writeln!(
        text,
        "\nAs the paper has it (0.50 to 0.70): {}. More gained (below 0.50): {}. Less (0.70 to 0.95): {}. Nothing, or a loss \
         (above {NOTHING}): {}.",
        of(&|ratio| (0.50..=0.70).contains(&ratio)),
        of(&|ratio| ratio < 0.50),
        of(&|ratio| ratio > 0.70 && ratio <= NOTHING),
        of(&|ratio| ratio > NOTHING)
    );
}

/// What the paper has by lifetime: its sweep, and at the lifetime it wants its figure of high load.
const PAPER_TOGETHER: [f64; LIFETIMES_TOGETHER.len()] =
    [PAPER_LIFETIMES[0].1, PAPER_LIFETIMES[1].1, PAPER_HIGH, PAPER_LIFETIMES[2].1];

/// Where the paper's sweep of lifetimes comes out.
fn lifetimes(results: &Results, extent: &Extent, text: &mut String) {
    let nodes = NODES[0];
    let columns = LIFETIMES_TOGETHER.map(|it| format!("{it}x")).join(" | ");
    let said = PAPER_TOGETHER.map(|it| format!("{it:.2}")).join(" | ");
    let _ = write!(
        text,
        "\n## Where the lifetimes come out, {nodes} nodes\n\nMean latency of bf by that of session at k = 12, by lifetime at the \
         distributor: what few clients and much dynamic content leave of the difference that full handshakes make, and how \
         full the cluster is. *Off*: the worst of the four against the paper's.\n\n\
         | static, dynamic | clients a node | offered | {columns} | off | crypto under rr |\n|---|---|---|---|---|---|---|---|---|\n\
         | the paper | | | {said} | | > {PAPER_CRYPTO} |\n"
    );
    let (mut as_said, mut nearest) = (Vec::new(), (f64::INFINITY, String::new()));
    for at in extent.places() {
        let ratio = |lifetime| results.ratio(&at.at(nodes, lifetime), "bf", "session", |it| it.mean_ns);
        let means = LIFETIMES_TOGETHER.map(ratio);
        let off = means.iter().zip(PAPER_TOGETHER).map(|(mean, said)| (mean.value - said).abs());
        let off = off.fold(0.0, f64::max);
        let rr = Mean::over(results.of(&format!("{}/rr", at.at(nodes, LIFETIME_WANTED))), crypto);
        let name = format!(
            "{} us, {} % | {} | {}",
            at.mixed.static_us,
            at.mixed.dynamic * 100.0,
            at.clients,
            at.busy
        );
        let _ = writeln!(
            text,
            "| {name} | {} | {off:.2} | {:.2} |",
            means.map(|mean| mean.to_string()).join(" | "),
            rr.value
        );
        let plain = name.replace(" |", ",");
        if off < nearest.0 {
            nearest = (off, plain.clone());
        }
        if off <= NEAR {
            as_said.push(plain);
        }
    }
    let _ = writeln!(
        text,
        "\nAll four within {NEAR} of the paper's: {}. Nearest: {}, off by {:.2}.",
        list(&as_said),
        nearest.1,
        nearest.0
    );
}

/// As text.
fn list(places: &[String]) -> String {
    if places.is_empty() { "nowhere here".to_owned() } else { places.join("; ") }
}

/// How many runs the page is made of.
fn took(results: &Results, text: &mut String) {
    text.push_str(
        "\n## What it took\n\nModels of a place meet the same seeds. A place gets the least number of seeds, and further ones while \
         half the width of the 90 % interval of a ratio to `session` exceeds what is called narrow; what is still wide then is told \
         with its width. Intervals of what was stopped early are a little optimistic. A run ends once the measured requests have, or \
         as many have come again; what is under way then counts with the time it has had (*cut short*: the largest share of a run; \
         under rr, which cannot keep up, it is more).\n\n\
         | part | places | seeds | narrow | still wide | runs | requests, millions | cut short |\n|---|---|---|---|---|---|---|---|\n",
    );
    for Spent { what, seeds, places, wide, runs, requests, cut_short } in &results.spent {
        let _ = writeln!(
            text,
            "| {what} | {places} | {} to {} | {} | {wide} | {runs} | {:.1} | {:.2} % |",
            seeds.least,
            seeds.most,
            seeds.narrow,
            *requests as f64 / 1e6,
            cut_short * 100.0
        );
    }
}

/// Where what the paper says of latency and what it says of cryptography hold at once.
fn together(results: &Results, extent: &Extent, nodes: usize, text: &mut String) {
    let columns: Vec<String> = extent.shares().iter().map(|share| format!("{} %", share * 100.0)).collect();
    let _ = write!(
        text,
        "\n## Both at once, {nodes} nodes\n\nMean latency of bf by that of session, and behind it the share of processor time that \
         full handshakes take under rr; by what static content costs and how many requests are dynamic. In bold where \
         both are as the paper says (within {NEAR} of {PAPER_HIGH}; above {PAPER_CRYPTO}).\n\n| static | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    let mut both = Vec::new();
    for static_us in extent.statics() {
        let _ = write!(text, "| {static_us} us |");
        for share in extent.shares() {
            let place = format!("{nodes}/map/{static_us}/{share}");
            let gain = results.ratio(&place, "bf", "session", |it| it.mean_ns);
            let crypto = Mean::over(results.of(&format!("{place}/rr")), crypto);
            let cell = format!("{:.2}, {:.2}", gain.value, crypto.value);
            if (gain.value - PAPER_HIGH).abs() <= NEAR && crypto.value > PAPER_CRYPTO {
                both.push(format!("{static_us} us with {} %", share * 100.0));
                let _ = write!(text, " **{cell}** |");
            } else {
                let _ = write!(text, " {cell} |");
            }
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\nBoth hold: {}.", list(&both));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_interval_is_no_agreement() {
        let near = |value: f64, half_90: f64| {
            Holds::near(Mean { value, half_90, half_95: half_90 * 1.2 }, PAPER_HIGH)
        };
        assert_eq!(near(0.65, 0.05), Holds::Yes);
        assert_eq!(near(0.60, 0.20), Holds::Unsure);
        assert_eq!(near(0.75, 0.05), Holds::No);
    }
}
