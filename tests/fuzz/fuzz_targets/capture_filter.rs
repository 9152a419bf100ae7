#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keyferry_fuzz_targets::run("capture_filter", input));
