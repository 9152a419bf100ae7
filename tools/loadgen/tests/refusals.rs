//! What the executable refuses: each sentence is provoked from the command line, says what to do, and comes with exit
//! status 2. Nothing here reaches a server.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Arguments, and a piece of the sentence they are refused with. `FOLDER` is one with the files of [`folder`].
type Case = (&'static [&'static str], &'static str);

const URL: &str = "https://127.0.0.1:9/";

/// Labels of a DNS name have 63 bytes at most: this one is none, and is looked up nowhere.
const NO_NAME: &str = "https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test/";
const NO_NAME_RESOLVED: &str =
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test:127.0.0.1";

/// Values that are wrong by themselves.
const VALUES: &[Case] = &[
    (&[URL], "--duration <SECONDS>"),
    (&[URL, "-d", "0"], "give seconds above 0, up to 1000000"),
    (&[URL, "-d", "1", "--rate", "x"], "give requests a second above 0"),
    (&[URL, "-d", "1", "-c", "0"], "give 1 to 1048576"),
    (&[URL, "-d", "1", "-t", "1025"], "give 1 to 1024"),
    (&[URL, "-d", "1", "--weights", "0"], "give numbers above 0"),
    (&[URL, "-d", "1", "--resume", "101%"], "give a share from 0 to 1, or from 0% to 100%"),
    (&[URL, "-d", "1", "--resolve", "a.test"], "write it as HOST:IP"),
    (&[URL, "-d", "1", "--resolve", "a.test:b"], "\"b\" is not an IP address"),
    (&[URL, "-d", "1", "--synthetic", "--bytes-mix", "1:x"], "\"1:x\" is not VALUE or VALUE:WEIGHT"),
    (&[URL, "-d", "1", "--synthetic", "--bytes-mix", "1:0"], "one weight has to be above 0"),
    (&[URL, "-d", "1", "--synthetic", "--bytes-mix", "4294967297"], "give 4294967296 at most"),
    (&[URL, "-d", "1", "--method", "G T"], "\"G T\" is no method"),
    (&[URL, "-d", "1", "--method", "HEAD"], "HEAD has replies without a body; give another method"),
    (&[URL, "-d", "1", "--expect-sha256", "ab"], "64 hexadecimal digits"),
    (&[URL, "-d", "1", "--source", "x"], "\"x\" is not an IP address"),
    (&[URL, "-d", "1", "--source", "10.0.0.1-fd00::1"], "joins an IPv4 and an IPv6 address"),
    (&[URL, "-d", "1", "--source", "10.0.0.2-10.0.0.1"], "write the lower address first"),
    (&[URL, "-d", "1", "--source", "10.0.0.0-10.9.0.0"], "more than 65536 addresses; give fewer"),
    (&[URL, "-d", "1", "--source", "127.0.0.1", "--skew", "zipf"], "write even, zipf:S"),
    (&[URL, "-d", "1", "--slo", "p99"], "has neither < nor >; write it as in p99<2ms"),
    (&[URL, "-d", "1", "--slo", "p98<2ms"], "\"p98\" is not one of mean, p50"),
    (&[URL, "-d", "1", "--slo", "p99<2"], "\"2\" has no unit; add us, ms or s"),
    (&[URL, "-d", "1", "--slo", "errors<-1%"], "\"-1\" is not a number from 0 up"),
    (&[URL, "-d", "1", "--nic", "net_null0", "--nic-address", "10.0.0.1"], "such as 192.0.2.10/24"),
    (&[URL, "-d", "1", "--nic", "net_null0", "--nic-address", "a/8"], "not an IPv4 or IPv6 address"),
    (&[URL, "-d", "1", "--nic", "net_null0", "--nic-address", "10.0.0.1/33"], "at most 32 for IPv4"),
];

/// Arguments that do not go together, and files and names that are of no use.
const RUNS: &[Case] = &[
    (&[URL, "-d", "1", "--warm-up", "1"], "--warm-up takes all of --duration; make the run longer"),
    (&[URL, "-d", "1", "--weights", "1,2"], "2 weights for 1 URLs; give as many"),
    (&[URL, "-d", "1", "-c", "1", "-t", "2"], "give --connections as many at least"),
    (
        &[URL, "-d", "1", "--source", "127.0.0.1", "--skew-of", "requests"],
        "--skew-of requests is for an open loop; give --rate or --trace",
    ),
    (
        &[
            URL,
            "-d",
            "1",
            "--rate",
            "1",
            "-c",
            "1",
            "--source",
            "127.0.0.1-127.0.0.2",
            "--skew-of",
            "requests",
        ],
        "2 clients share 1 connections of a thread; give --connections 2 at least",
    ),
    (&[URL, "--trace", "FOLDER/none"], "cannot read FOLDER/none"),
    (&[URL, "--trace", "FOLDER/empty"], "trace FOLDER/empty: holds no moments; write one a line"),
    (&["http://127.0.0.1/", "-d", "1"], "the URL must start with https:// and a host"),
    (&["127.0.0.1", "-d", "1"], "the URL must start with https:// and a host"),
    (&[NO_NAME, "-d", "1"], "does not resolve; name its address by --resolve aaaa"),
    (&[NO_NAME, "--resolve", NO_NAME_RESOLVED, "-d", "1"], "is neither a DNS name nor an IP address"),
    (&[URL, "-d", "1", "-H", "X-A"], "write a header as NAME: VALUE"),
    (&[URL, "-d", "1", "-H", "X A: b"], "\"X A\" is no header name"),
    (&[URL, "-d", "1", "-H", "X-A: b\r\nX-B: c"], "is no header value"),
    (&[URL, "-d", "1", "--body", "FOLDER/none"], "cannot read FOLDER/none"),
    (&[URL, "-d", "1", "--ca", "FOLDER/none"], "cannot read FOLDER/none; name authorities by --ca"),
    (&[URL, "-d", "1", "--ca", "FOLDER/empty"], "FOLDER/empty holds no certificate; name another file"),
    (&[URL, "-d", "1", "--ca", "FOLDER/cut"], "FOLDER/cut is not PEM; name a file of certificates"),
    (&[URL, "-d", "1", "--ca", "FOLDER/text"], "FOLDER/text holds what is no authority's certificate"),
    (&[URL, "-d", "1", "--suites", "RC4"], "\"RC4\" is not a suite this client has; it has TLS13_"),
    (&[URL, "-d", "1", "--groups", "X1"], "\"X1\" is not a group this client has; it has "),
    (
        &[URL, "-d", "1", "--tls", "1.2", "--suites", "TLS13_AES_128_GCM_SHA256"],
        "the suites of --suites fit no version that is offered",
    ),
    (&[URL, "-d", "0.01", "--insecure", "--hdr", "FOLDER/none/log"], "cannot write FOLDER/none/log"),
    (&[URL, "-d", "0.01", "--insecure", "--hdr", "/dev/full"], "cannot write the log"),
    (&[URL, "-d", "0.01", "--insecure", "--json", "FOLDER/none/json"], "cannot write FOLDER/none/json"),
    (&["search", URL, "-d", "1"], "say what is to be met, as in --slo"),
    (
        &["search", URL, "-d", "1", "--slo", "p99<1s", "--rate", "1"],
        "leave out --rate, --trace and --requests",
    ),
    (&["search", URL, "-n", "1", "--slo", "p99<1s"], "say how long a trial lasts by --duration"),
    (&["compare", "FOLDER/none", "FOLDER/none"], "cannot read FOLDER/none"),
    (&["compare", "FOLDER/text", "FOLDER/text"], "FOLDER/text was not written by keyferry-load --json"),
];

/// Refused before DPDK starts.
#[cfg(feature = "nic")]
const PORTS: &[Case] = &[
    (
        &[URL, "-d", "1", "--nic", "net_null0", "--nic-address", "192.0.2.9/24", "-t", "2"],
        "--nic has one queue and one thread; leave --threads out",
    ),
    (&[URL, "-d", "1", "--nic", "net_null0"], "--nic needs an address that nobody else has"),
];
#[cfg(not(feature = "nic"))]
const PORTS: &[Case] =
    &[(&[URL, "-d", "1", "--nic", "net_null0"], "this keyferry-load was built without ports")];

/// Files that are not what they are named as.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pem = |base64: &str| format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    fs::write(folder.path().join("empty"), "").unwrap();
    fs::write(folder.path().join("cut"), pem("!")).unwrap();
    fs::write(folder.path().join("text"), pem("bm9uZQ==")).unwrap();
    folder
}

fn execute(folder: &Path, arguments: &[&str], stdout: Stdio) -> Output {
    let folder = folder.to_str().unwrap();
    Command::new(env!("CARGO_BIN_EXE_keyferry-load"))
        .args(arguments.iter().map(|argument| argument.replace("FOLDER", folder)))
        .stdout(stdout)
        .output()
        .unwrap()
}

fn each_is_refused(cases: &[Case]) {
    let folder = folder();
    for (arguments, sentence) in cases {
        let done = execute(folder.path(), arguments, Stdio::null());
        let told = String::from_utf8(done.stderr).unwrap();
        let sentence = sentence.replace("FOLDER", folder.path().to_str().unwrap());
        assert!(told.contains(&sentence), "{arguments:?}: {told}");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {told}");
    }
}

#[test]
fn values_that_are_wrong_say_what_is_right() {
    each_is_refused(VALUES);
}

#[test]
fn runs_that_cannot_start_say_what_to_do() {
    each_is_refused(RUNS);
}

#[test]
fn ports_need_what_they_need() {
    each_is_refused(PORTS);
}

#[test]
fn a_full_disk_is_told() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let folder = folder();
    let done = execute(folder.path(), &[URL, "-d", "0.01", "--insecure"], full.into());
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(told.contains("cannot write to standard output"), "{told}");
    assert_eq!(done.status.code(), Some(2), "{told}");
}
