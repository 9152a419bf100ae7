//! The aims of the product's decision are met, and a cluster that misses them is told so.

use std::path::Path;
use std::process::{Command, Output};

use keyferry_sim::costs::Costs;

fn decide(costs: &str) -> Output {
    let workloads = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/workloads");
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry-sim"));
    command.args(["decide", "--quick", "--costs", costs, "--workloads"]).arg(workloads).output().unwrap()
}

#[test]
fn aims_are_met_as_measured_and_missed_where_moves_are_dear() {
    let met = decide("measured");
    assert!(met.status.success(), "{}", String::from_utf8_lossy(&met.stderr));
    let text = String::from_utf8(met.stdout).unwrap();
    let last = text.lines().last().unwrap().strip_prefix("decide: ").unwrap();
    let names: Vec<_> = last.split(' ').map(|figure| figure.split_once('=').unwrap().0).collect();
    assert_eq!(names, ["mean", "p99", "bound", "balanced", "words", "regretted"]);

    // Messages take a core as long as a request is worked on: what moves is late, and nothing is near the bound.
    let mut costs = Costs::load("measured").unwrap();
    costs.lend.message = 5_000_000;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dear.toml");
    costs.save(&file).unwrap();
    let missed = decide(file.to_str().unwrap());
    assert!(!missed.status.success());
    let told = String::from_utf8(missed.stderr).unwrap();
    assert!(told.contains("an aim is missed") && told.contains("bound is"), "{told}");
}
