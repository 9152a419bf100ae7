//! What a path carries: our TCP at both ends of a simulated bottleneck, in virtual time, by round trip, loss and
//! reordering, for each algorithm. The same seeds give the same figures on every machine.
//! `cargo bench -p keyferry-tcp --bench paths` prints a line for each path: megabits a second and the share of the
//! bottleneck's rate; `paths ALGORITHM` only those of one.

#[path = "../tests/common/path.rs"]
mod path;

use std::time::Duration;

use keyferry_tcp::{Algorithm, Tuning};
use path::{Link, transfer};

/// Runs of each path, with other seeds: what loss costs is a matter of luck.
const RUNS: u64 = 3;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (algorithm, name) in [(Algorithm::Cubic, "cubic"), (Algorithm::Bbr, "bbr"), (Algorithm::Reno, "reno")]
    {
        if !wanted.is_empty() && !wanted.iter().any(|word| word == name) {
            continue;
        }
        for rtt_ms in [10, 100] {
            for (loss_permille, reorder_percent) in [(0, 0), (1, 0), (10, 0), (30, 0), (0, 5)] {
                let link = Link {
                    megabits: 100,
                    rtt: Duration::from_millis(rtt_ms),
                    queue: Duration::from_millis(rtt_ms),
                    loss_permille,
                    reorder_percent,
                    ..Link::default()
                };
                let tuning = Tuning { congestion: algorithm, ..Tuning::default() };
                let mut figures: Vec<f64> =
                    (0..RUNS).map(|seed| transfer(&tuning, &link, seed).megabits).collect();
                figures.sort_by(f64::total_cmp);
                let median = figures[figures.len() / 2];
                println!(
                    "bench paths: algorithm={name} rtt_ms={rtt_ms} loss_permille={loss_permille} \
                     reorder_percent={reorder_percent} megabits={median:.1} share={:.2} worst={:.1}",
                    median / link.megabits as f64,
                    figures[0],
                );
            }
        }
    }
}
