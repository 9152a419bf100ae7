//! Every seed and every input that ever failed, executed once, without a fuzzer: what was mended stays mended.

use std::path::{Path, PathBuf};

use keyferry_fuzz_targets::{TARGETS, Target, run_target};

fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(kind).join(target.name)
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn seeds_and_regressions_hold() {
    for target in TARGETS {
        let seeds = inputs(&folder("seeds", target));
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for path in seeds.iter().chain(&inputs(&folder("regressions", target))) {
            let input = std::fs::read(path).unwrap();
            println!("{}", path.display());
            run_target(target, &input);
        }
    }
}

/// Cut anywhere, a seed is an input like any other.
#[test]
fn cut_seeds_hold() {
    for target in TARGETS {
        for path in inputs(&folder("seeds", target)) {
            let input = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            for kept in (0..input.len()).step_by(1 + input.len() / 64) {
                run_target(target, &input[..kept]);
            }
        }
    }
}

#[test]
fn folders_belong_to_targets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for kind in ["seeds", "regressions"] {
        for path in inputs(&root.join(kind)).into_iter().filter(|path| path.is_dir()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(TARGETS.iter().any(|target| target.name == name), "{} has no target", path.display());
        }
    }
    for target in TARGETS {
        let executable = root.join("fuzz_targets").join(format!("{}.rs", target.name));
        assert!(executable.is_file(), "{} is missing", executable.display());
    }
}
