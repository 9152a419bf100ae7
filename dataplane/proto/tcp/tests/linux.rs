//! Our TCP and Linux's as each other's peers, in both roles, over a relay that loses, delays, reorders, repeats and changes
//! packets: every byte arrives as it was sent, connections end as they should, and nobody is silent for longer than the
//! RFCs' timers explain (`kernel/patience.rs`). Real time, real kernel; needs root.
//!
//! `LINUX_SEEDS=1000` for so many seeds, `LINUX_SEED=N` for one of them.

mod common;
mod kernel;

use kernel::ground;
use kernel::relay::Fate;
use kernel::settings::ALL;
use kernel::world::World;

/// Seeds that each change has to pass.
const SEEDS: u64 = 210;
/// Which world the process inside is.
const WORLD: &str = "KEYFERRY_LINUX_WORLD";
/// Packets changed on the way from which on a checksum has to have caught one: IPv6 covers not all of its header.
const CHANGED_MIN: u64 = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn streams_between_linux_and_us_are_exact_and_do_not_stall() {
    let seeds: Vec<u64> = match number("LINUX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LINUX_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let of = |world: usize| -> Vec<u64> {
        seeds.iter().copied().filter(|seed| (*seed % ALL.len() as u64) as usize == world).collect()
    };
    if let Some(world) = number(WORLD) {
        inside(world as usize, &of(world as usize));
        return;
    }
    let worlds = (0..ALL.len()).filter(|world| !of(*world).is_empty());
    let running: Vec<_> = worlds
        .map(|world| {
            let name = "streams_between_linux_and_us_are_exact_and_do_not_stall";
            let mut command = ground::inside(&[]);
            command.args(["--exact", name, "--nocapture"]).env(WORLD, world.to_string());
            (world, command.spawn().expect("unshare runs (package util-linux)"))
        })
        .collect();
    let failed: Vec<_> = running
        .into_iter()
        .filter_map(|(world, mut child)| {
            let status = child.wait().expect("a child ends");
            (!status.success()).then_some(ALL[world].name)
        })
        .collect();
    assert!(failed.is_empty(), "failed, or this is not root: {failed:?}");
}

/// In a namespace of its own.
fn inside(world: usize, seeds: &[u64]) {
    ground::end_with_parent();
    let settings = &ALL[world];
    let outcome = World::new(settings, seeds).run();
    println!(
        "linux: world={:?} seeds={} failed={} packets={} lost={} changed={} late={} twice={} wrong_at_linux={} \
         wrong_at_ours={} seconds={:.1}",
        settings.name,
        seeds.len(),
        outcome.failures.len(),
        outcome.fates.iter().flatten().sum::<u64>(),
        outcome.with(Fate::Lost),
        outcome.with(Fate::Changed),
        outcome.with(Fate::Late),
        outcome.with(Fate::Twice),
        outcome.wrong[0],
        outcome.wrong[1],
        outcome.seconds,
    );
    for (way, (fates, wrong)) in outcome.fates.iter().zip(outcome.wrong).enumerate() {
        let changed = fates[Fate::Changed as usize];
        assert!(
            changed < CHANGED_MIN || wrong > 0,
            "nobody saw that {changed} packets were changed, way {way}"
        );
    }
    assert!(outcome.failures.is_empty(), "in world {:?}:\n{}", settings.name, outcome.failures.join("\n"));
}
