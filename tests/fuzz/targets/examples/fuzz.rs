//! All targets in one executable, the one that `FUZZ_TARGET` names: for `tools/fuzz --smoke`, which has no time to build as many as
//! there are.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET is the name of a target"));

libfuzzer_sys::fuzz_target!(|input: &[u8]| keyferry_fuzz_targets::run(&TARGET, input));
