//! Writes the seeds of every target to `tests/fuzz/seeds`: `cargo run -p keyferry-fuzz-targets --example seeds`.

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in keyferry_fuzz_targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in (target.seeds)() {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
