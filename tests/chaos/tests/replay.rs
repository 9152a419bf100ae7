//! A run is its seed: played again it is the same, and a plan survives being written down.

use keyferry_chaos::plan::Plan;
use keyferry_chaos::world;

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..40 {
        let plan = Plan::from_seed(seed);
        let first = world::run(&plan).expect("nothing goes wrong");
        // Another thread: neither its randomness nor its hash maps are those of this one.
        let second = std::thread::spawn(move || world::run(&plan)).join().expect("no panic");
        assert_eq!(Ok(first), second, "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    let trace = |seed| world::run(&Plan::from_seed(seed)).expect("nothing goes wrong").trace;
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_plan_survives_being_written() {
    for seed in 0..200 {
        let plan = Plan::from_seed(seed);
        let text = serde_json::to_string(&plan).expect("a plan can be written");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("and read"), plan);
    }
}

/// Plans that found something, cut down: what they found does not come back.
#[test]
fn plans_that_once_failed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/plans");
    let files: Vec<_> =
        std::fs::read_dir(folder).expect("there are plans").map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "{folder} has plans");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a plan is text");
        let plan: Plan = serde_json::from_str(&text).expect("of this shape");
        world::run(&plan).unwrap_or_else(|failure| panic!("{}: {failure:?}", file.display()));
    }
}

/// Records leave slots both ways, and what is sent again is compared with what was sent first.
#[test]
fn records_are_copied_out_of_slots() {
    let reports = (0..40).map(|seed| world::run(&Plan::from_seed(seed)).expect("nothing goes wrong"));
    let (late, short) = reports
        .fold((0, 0), |(late, short), report| (late + report.copied_late, short + report.copied_short));
    assert!(late > 0 && short > 0, "{late} were late, {short} left because slots were short");
}

/// The checks of resumption have something to look at.
#[test]
fn clients_roam() {
    let reports = (0..40).map(|seed| world::run(&Plan::from_seed(seed)).expect("nothing goes wrong"));
    let (taken, again) =
        reports.fold((0, 0), |(taken, again), report| (taken + report.taken, again + report.offered_again));
    assert!(taken > 0 && again > 0, "{taken} sessions came from elsewhere, {again} PSKs were offered again");
}
