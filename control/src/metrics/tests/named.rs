//! No counter that no test speaks of: whoever adds one says where it counts.
//!
//! That a test names a counter does not prove that it makes it count; that none does proves that nobody has seen it.
//! Counters whose names come from an enum of their crate are left to the tests of that crate, which have the enum.

use std::fs;
use std::path::Path;

use super::*;

/// Beginnings of names that come from enums.
const OF_ENUMS: [&str; 7] =
    ["drop_link_", "drop_tcp_", "closed_tcp_", "closed_tls_", "alerts_", "replies_under_", "replies_over_"];

/// Beginnings that a crate's own tests leave out.
const LEFT_OUT: [&str; 2] = ["upstream_failed_", "upstream_"];

/// Adds what the tests of a folder say; `is_test`: it is a folder of tests.
fn read(folder: &Path, is_test: bool, said: &mut String) {
    for entry in
        fs::read_dir(folder).expect("a folder of the workspace").map(|entry| entry.expect("an entry"))
    {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // Of these are the names themselves.
        if path.ends_with("control/src/metrics") || path.ends_with("control/src/metrics.rs") {
            continue;
        }
        if path.is_dir() {
            read(&path, is_test || name == "tests", said);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("a text");
            let is_test = is_test || name == "tests.rs";
            let tests =
                if is_test { Some(&*text) } else { text.split_once("mod tests {").map(|(_, tests)| tests) };
            said.push_str(tests.unwrap_or_default());
        }
    }
}

/// Whether a name is there as a text or as a field.
fn is_named(said: &str, name: &str) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let is_field = |at: usize| said[..at].ends_with('.') && is_end(&said[at + name.len()..]);
    said.contains(&format!("\"{name}\"")) || said.match_indices(name).any(|(at, _)| is_field(at))
}

#[test]
fn each_counter_is_named_by_a_test() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut said = String::new();
    for folder in ["control/src", "dataplane", "tests"] {
        read(&workspace.join(folder), folder == "tests", &mut said);
    }
    let names = all_names().filter(|name| !OF_ENUMS.iter().any(|prefix| name.starts_with(prefix)));
    let is_unnamed = |name: &&str| {
        let short = LEFT_OUT.iter().filter_map(|prefix| name.strip_prefix(prefix));
        !short.chain([*name]).any(|name| is_named(&said, name))
    };
    let unnamed: Vec<_> = names.filter(is_unnamed).collect();
    assert!(unnamed.is_empty(), "no test names these counters: write one that makes them count: {unnamed:?}");
}
