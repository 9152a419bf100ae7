//! The quick form of `paper` writes what the full one does, and the paper's claim can be seen in it.

use std::path::Path;
use std::process::Command;

/// A series of a figure: x and mean.
fn series(directory: &Path, figure: &str, name: &str) -> Vec<(f64, f64)> {
    let text = std::fs::read_to_string(directory.join(format!("{figure}.csv"))).unwrap();
    let lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let own = lines.filter(|fields| fields[0] == name);
    own.map(|fields| (fields[1].parse().unwrap(), fields[2].parse().unwrap())).collect()
}

#[test]
fn a_quick_run_shows_the_claim() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry-sim"));
    let output = command.args(["paper", "--quick", "--out"]).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    let (of_16, of_32) = last.strip_prefix("paper: nodes16=").unwrap().split_once(" nodes32=").unwrap();
    for (nodes, ratio) in [(16, of_16), (32, of_32)] {
        let ratio: f64 = ratio.parse().unwrap();
        assert!((0.3..0.9).contains(&ratio), "{nodes} nodes: {ratio}");
        let by_load = series(directory.path(), &format!("gain_{nodes}"), "bf");
        assert!(by_load.iter().any(|(k, mean)| *k == 12.0 && (mean - ratio).abs() < 0.006), "{by_load:?}");
        // The longer the distributor knows its clients, the more there is to even out.
        let lifetimes = series(directory.path(), &format!("lifetime_{nodes}"), "bf");
        assert_eq!(lifetimes.iter().map(|(x, _)| *x).collect::<Vec<_>>(), [1.0, 2.0, 8.0]);
        assert!(lifetimes[2].1 < lifetimes[0].1, "{lifetimes:?}");
        // Forwarding evens out; that costs nobody throughput.
        let spread = |model| series(directory.path(), &format!("spread_{nodes}"), model)[1].1;
        assert!(spread("bf") < spread("session"));
        let page = std::fs::read_to_string(directory.path().join("README.md")).unwrap();
        for figure in page.lines().filter_map(|line| line.split_once("](")?.1.strip_suffix(".svg)")) {
            for ending in ["svg", "csv"] {
                assert!(directory.path().join(format!("{figure}.{ending}")).exists(), "{figure}.{ending}");
            }
        }
    }
}
