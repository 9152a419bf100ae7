//! Conformance, case by case: `tests/scripts/*.tcp`, each case a few lines of segments that say what RFC asks for what.

mod script;

use std::path::Path;

/// Cases there are at least: a script that is not found would not be missed otherwise.
const CASES_MIN: usize = 150;

#[test]
fn every_case_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let wanted = std::env::var("SCRIPT").unwrap_or_default();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut count, mut failures) = (0, Vec::new());
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "tcp")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let cases = script::parse(&std::fs::read_to_string(file).unwrap());
        for case in cases.unwrap_or_else(|why| panic!("{name}: {why}")) {
            if !format!("{name} {}", case.name).contains(&wanted) {
                continue;
            }
            count += 1;
            if let Err(why) = script::play::play(&case) {
                failures.push(format!("{name}: {}\n    {why}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= CASES_MIN || !wanted.is_empty(), "{count} cases only");
}
