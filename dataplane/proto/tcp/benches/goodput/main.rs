//! What a path carries, beside Linux: Linux's TCP and ours send to a Linux receiver through the very same relay, at the same
//! time and with the same draws, for CUBIC and BBR; real time, real kernel. Needs root and a machine with nothing else to do.
//!
//! `cargo bench -p keyferry-tcp --bench goodput` takes some five minutes; `goodput cubic` or `bbr` the half of it; `goodput
//! cubic 100` only the paths of 100 ms. `--plot FILE.svg` draws the figures, and those of `--with FILE`, which holds the lines an earlier
//! run printed. The last line is `bench goodput: key=value ...`.

#[path = "../../tests/kernel/ground.rs"]
mod ground;
#[path = "../../tests/common/path.rs"]
mod path;
mod plot;
mod race;
mod relay;

use std::process::ExitCode;
use std::time::Duration;

use keyferry_tcp::Algorithm;
use path::Link;
use race::{Flow, Stack};
use relay::{Ground, Links};

/// Runs of each path, with other draws: what loss costs is a matter of luck.
const SEEDS: u64 = 5;
/// Each goes on for so long, or until it has carried so much.
const TIME: Duration = Duration::from_secs(20);
const BYTES: u64 = 50_000_000;
/// The argument that makes this the process inside.
const INSIDE: &str = "--inside";

/// One path and one algorithm, and what its runs came to: megabits a second.
#[derive(Clone, Debug)]
struct Figure {
    algorithm: String,
    rtt_ms: u64,
    loss_permille: u64,
    reorder_percent: u64,
    linux: Spread,
    ours: Spread,
}

/// Median, least, most.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Spread {
        figures.sort_by(f64::total_cmp);
        Spread { median: figures[figures.len() / 2], least: figures[0], most: figures[figures.len() - 1] }
    }

    fn parse(text: &str) -> Option<Spread> {
        let mut numbers = text.split('/').map(|number| number.parse().ok());
        Some(Spread { median: numbers.next()??, least: numbers.next()??, most: numbers.next()?? })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:.2}/{:.2}/{:.2}", self.median, self.least, self.most)
    }
}

impl Figure {
    fn ratio(&self) -> f64 {
        self.ours.median / self.linux.median
    }

    /// What a line of ours says.
    fn parse(line: &str) -> Option<Figure> {
        let words = line.strip_prefix("goodput: ")?;
        let value = |name: &str| {
            let mut pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let number = |name| value(name)?.parse().ok();
        Some(Figure {
            algorithm: value("algorithm")?.into(),
            rtt_ms: number("rtt_ms")?,
            loss_permille: number("loss_permille")?,
            reorder_percent: number("reorder_percent")?,
            linux: Spread::parse(value("linux")?)?,
            ours: Spread::parse(value("ours")?)?,
        })
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "goodput: algorithm={} rtt_ms={} loss_permille={} reorder_percent={} linux={} ours={} ratio={:.2}",
            self.algorithm,
            self.rtt_ms,
            self.loss_permille,
            self.reorder_percent,
            self.linux,
            self.ours,
            self.ratio()
        )
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.first().is_none_or(|word| word != INSIDE) {
        // Mounts of its own, for the name of the senders' namespace.
        let status =
            ground::inside(&["--mount", "--propagation", "private"]).arg(INSIDE).args(words).status();
        let good = status.expect("unshare runs (package util-linux)").success();
        return if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    ground::end_with_parent();
    words.remove(0);
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        words.get(at + 1).cloned()
    };
    let (drawn, with) = (option("--plot"), option("--with"));
    let only: Vec<&str> =
        words.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).collect();
    let wanted = |kind: &[&str], word: &str| {
        let named: Vec<&str> = only.iter().copied().filter(|word| kind.contains(word)).collect();
        named.is_empty() || named.contains(&word)
    };
    let mut figures: Vec<Figure> = Vec::new();
    if let Some(file) = with {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        figures.extend(text.lines().filter_map(Figure::parse));
    }
    if !only.contains(&"none") {
        let before = figures.len();
        let (ground, mut links) = Ground::new();
        for (algorithm, name) in [(Algorithm::Cubic, "cubic"), (Algorithm::Bbr, "bbr")] {
            for rtt_ms in [10, 100] {
                if wanted(&["cubic", "bbr"], name) && wanted(&["10", "100"], &rtt_ms.to_string()) {
                    measure(&ground, &mut links, algorithm, name, rtt_ms, &mut figures);
                }
            }
        }
        summary(&figures[before..]);
    }
    if let Some(file) = drawn {
        plot::draw(&file, &figures).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    ExitCode::SUCCESS
}

/// All losses of one algorithm at one round trip.
fn measure(
    ground: &Ground,
    links: &mut Links,
    algorithm: Algorithm,
    name: &str,
    rtt_ms: u64,
    figures: &mut Vec<Figure>,
) {
    let rtt = Duration::from_millis(rtt_ms);
    for (loss_permille, reorder_percent) in [(0, 0), (1, 0), (10, 0), (30, 0), (0, 5)] {
        let link = Link {
            rtt,
            queue: rtt,
            loss_permille,
            reorder_percent,
            bytes: BYTES,
            time: TIME,
            ..Link::default()
        };
        let flow = |stack, seed| Flow { stack, algorithm, link: link.clone(), seed };
        let mut pairs: Vec<[Flow; 2]> =
            (0..SEEDS).map(|seed| [flow(Stack::Linux, seed), flow(Stack::Ours, seed)]).collect();
        // What runs at the same time has to leave most of the machine idle.
        let slow = algorithm == Algorithm::Cubic && loss_permille > 0 && (loss_permille > 1 || rtt_ms > 10);
        let at_once = if slow { SEEDS as usize } else { 2 };
        let (mut linux, mut ours) = (Vec::new(), Vec::new());
        let mut late = Duration::ZERO;
        while !pairs.is_empty() {
            let now: Vec<Flow> = pairs.drain(..at_once.min(pairs.len())).flatten().collect();
            let outcome = race::run(ground, links, &now);
            late = late.max(outcome.late);
            for (flow, megabits) in now.iter().zip(outcome.megabits) {
                if flow.stack == Stack::Linux { linux.push(megabits) } else { ours.push(megabits) }
            }
        }
        let (linux, ours) = (Spread::of(linux), Spread::of(ours));
        let figure = Figure { algorithm: name.into(), rtt_ms, loss_permille, reorder_percent, linux, ours };
        println!("{figure} late_us_max={}", late.as_micros());
        figures.push(figure);
    }
}

fn summary(figures: &[Figure]) {
    let words: Vec<String> = ["cubic", "bbr"]
        .iter()
        .filter_map(|name| {
            let ratios = figures.iter().filter(|figure| figure.algorithm == *name).map(Figure::ratio);
            let ratios: Vec<f64> = ratios.collect();
            let worst = ratios.iter().copied().min_by(f64::total_cmp)?;
            let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
            Some(format!("{name}_worst={worst:.2} {name}_mean={mean:.2} {name}_paths={}", ratios.len()))
        })
        .collect();
    println!("bench goodput: {}", words.join(" "));
}
