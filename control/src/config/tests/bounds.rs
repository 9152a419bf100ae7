//! Lists, tables and paths: too many, too long, of another kind, or nowhere.

use super::*;

/// The sentences about the example after an edit, each behind its place.
fn said(folder: &Folder, from: &str, to: &str) -> Vec<String> {
    assert!(EXAMPLE.contains(from), "the example has no {from}");
    said_of(folder, &EXAMPLE.replacen(from, to, 1))
}

fn said_of(folder: &Folder, text: &str) -> Vec<String> {
    let problems = folder.parse(text).expect_err("it is refused");
    problems.list().iter().map(|problem| format!("{}: {}", problem.place, problem.what)).collect()
}

fn assert_said(said: &[String], sentence: &str) {
    assert!(said.iter().any(|it| it.contains(sentence)), "no {sentence} in {said:#?}");
}

#[test]
fn lists_have_an_end() {
    let folder = Folder::new();
    let many = |one: &str, max: usize| format!("[{}]", vec![one; max + 1].join(", "));
    let route = "{ to = \"198.51.100.0/24\", via = \"192.0.2.7\" }";
    for (key, value, one, sentence, max) in [
        ("workers", "[1]", "1", "[cores] workers: {} cores are too many: write at most {}", WORKERS_MAX),
        ("apps", "[]", "2", "[cores] apps: {} cores are too many: write at most {}", APPS_MAX),
        ("routes", "[]", route, "[nic] routes: {} routes are too many: write at most {}", ROUTES_MAX),
        (
            "distributors",
            "[]",
            "\"d1\"",
            "[cluster] distributors: {} entries are too many: write at most {}",
            DISTRIBUTORS_MAX,
        ),
    ] {
        let said = said(&folder, &format!("{key} = {value}"), &format!("{key} = {}", many(one, max)));
        let sentence = sentence.replacen("{}", &(max + 1).to_string(), 1).replacen("{}", &max.to_string(), 1);
        assert_said(&said, &sentence);
    }
    let text = EXAMPLE.to_owned() + &"[[listener]]\nport = 99\n".repeat(LISTENERS_MAX - 1);
    let sentence = format!("{} of them are too many: write at most {LISTENERS_MAX}", LISTENERS_MAX + 1);
    assert_said(&said_of(&folder, &text), &sentence);
}

#[test]
fn tables_are_tables() {
    let folder = Folder::new();
    for (line, sentence) in [
        ("cores = 1", "write a table, [cores], instead of this whole number"),
        ("listener = 1", "write a table for each, [[listener]], in double brackets"),
        ("listener = [1]", "write a table for each, [[listener]], in double brackets"),
    ] {
        assert_said(&said_of(&folder, &format!("{line}\n{LEAST}")), sentence);
    }
}

#[test]
fn paths_lead_somewhere() {
    let folder = Folder::new();
    let long = format!("/{}", "x".repeat(200));
    for (from, to, sentence) in [
        (
            "/run/keyferry/a.ctl",
            "",
            "[admin] socket: this path is empty or holds a NUL: write where the file is",
        ),
        ("/run/keyferry/a.ctl", "a\\u0000", "[admin] socket: this path is empty or holds a NUL"),
        ("/run/keyferry/a.ctl", long.as_str(), " is 201 bytes long: a socket's path has at most "),
        ("/run/keyferry/a.ctl", "/etc/keyferry", " is a folder: name a file in it"),
        (
            "unix:/run/keyferry/b.sock",
            "unix:b\\u0000",
            "[[peer]] address: this path holds a NUL: write where the socket is",
        ),
    ] {
        assert_said(&said(&folder, from, to), sentence);
    }
}

#[test]
fn routes_and_routers_are_addresses() {
    let folder = Folder::new();
    let twice = "routes = [{ to = \"10.0.0.0/8\", via = \"192.0.2.7\" }, { to = \"10.0.0.0/8\", via = \"192.0.2.8\" }]";
    for (from, to, sentence) in [
        ("routes = []", twice, "[nic] routes: 10.0.0.0/8 has two routes: keep one"),
        (
            "routes = []",
            "routes = [{ to = \"10.0.0.0/8\", via = \"x\" }]",
            "[nic] routes: via \"x\" is no IP address: write the router's",
        ),
        (
            "routes = []",
            "routes = [{ to = \"10.0.0.0\", via = \"192.0.2.7\" }]",
            "[nic] routes: \"10.0.0.0\": an address with its prefix length is needed",
        ),
        ("gateways = []", "gateways = [\"x\"]", "[nic] gateways: \"x\" is no IP address: write one such as"),
    ] {
        assert_said(&said(&folder, from, to), sentence);
    }
}

#[test]
fn a_user_of_etcd_has_a_name() {
    let least =
        without_peer(LEAST) + "[cluster.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\nuser = \"\"\n";
    let sentence = "[cluster.etcd] user: this name is empty: leave the key out where etcd has no users";
    assert_said(&said_of(&Folder::new(), &least), sentence);
}

#[test]
fn a_file_of_another_kind_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
    let error = Config::load(&file).unwrap_err().to_string();
    assert!(error.contains("the file is larger than 1048576 bytes: name the right one"), "{error}");
}
