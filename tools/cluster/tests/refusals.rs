//! What the executable refuses before it makes anything: each sentence names the file, or says what to write.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A committed workload, for more clients than its cluster has.
fn crowded() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/skewed.toml");
    let mut workload: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
    workload.insert("clients".to_owned(), toml::Value::Integer(100_000));
    toml::to_string(&workload).unwrap()
}

#[test]
fn each_file_that_is_of_no_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text"), "what = 1\n").unwrap();
    fs::write(folder.path().join("crowded"), crowded()).unwrap();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["run", "FOLDER/none"], 1, "FOLDER/none cannot be read: "),
        (&["run", "FOLDER/text"], 1, "FOLDER/text is no description: "),
        (&["models", "FOLDER/none"], 1, "FOLDER/none cannot be read: "),
        (&["models", "FOLDER/text"], 1, "FOLDER/text is no workload: "),
        (&["models", "FOLDER/crowded"], 1, "FOLDER/crowded: clients has to be at most that of [cluster]"),
        (&["capacity", "FOLDER/text", "--p99-ms", "1", "--rates", "1"], 1, "FOLDER/text is no workload: "),
        (&["models", "FOLDER/crowded", "--models", "fb"], 2, "write rr, session or bf"),
        (&["flood", "--model", "fb"], 2, "write rr, session or bf"),
    ];
    for (arguments, code, sentence) in cases {
        let here = |text: &str| text.replace("FOLDER", folder.path().to_str().unwrap());
        let arguments: Vec<_> = arguments.iter().map(|argument| here(argument)).collect();
        let done = Command::new(env!("CARGO_BIN_EXE_keyferry-cluster")).args(&arguments).output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert!(told.contains(&here(sentence)), "{arguments:?}: {told}");
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {told}");
    }
}
