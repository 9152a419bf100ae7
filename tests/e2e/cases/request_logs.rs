//! The access log and the slow-request log: lines for what clients ask, files put aside and opened anew, disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Curl, Reply, Tls, output_of};
use crate::harness::{Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(lines_say_what_was_asked, slow_requests_say_where_the_time_went);

/// Longest time until what a client has had is written.
const WRITTEN: Duration = Duration::from_secs(20);

fn access(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("a.access_log")
}

/// The lines of a file, each of which is whole and JSON.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("the log is there");
    assert!(text.is_empty() || text.ends_with('\n'), "{}: the last line is not whole", file.display());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// The line for a path, as soon as it is there.
fn wait_told(file: &Path, path: &str) -> Value {
    let deadline = Instant::now() + WRITTEN;
    loop {
        let text = fs::read_to_string(file).expect("the log is there");
        // The last line may be being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut all = whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(line) = all.find(|line| line["path"] == path) {
            return line;
        }
        assert!(Instant::now() < deadline, "no {path} in {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until A has written so many lines.
fn wait_written(cluster: &Cluster, log: &str, count: u64) {
    cluster.a().wait_for("lines", WRITTEN, |status| status.total(&format!("log_lines_{log}")) >= count);
}

/// `keyferry ctl reload`, which answers when files are open anew.
fn reload(cluster: &Cluster) -> Value {
    let said = output_of(&mut cluster.ctl("a", &["reload", "--json"]));
    serde_json::from_str(&said).expect("JSON")
}

fn lines_say_what_was_asked(workers: usize) {
    let options = Options::new(workers).decide(Decide::Always).line("access_log", "sample = 1");
    let cluster = Cluster::start(&options);
    Curl::new(&cluster).get("/lent?bytes=20000&seed=1").get("/own?lend=0&bytes=100&seed=1").run();
    Curl::new(&cluster).option("--head").option("--tls-max").option("1.2").get("/head?lend=0").run();
    let forged: &[u8] = b"/\"},{\"status\":200,\"path\":\"/x\x1b[2J\xc2\x9b\\";
    let ca = cluster.ca().to_owned();
    let refused = cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(
            &[
                &b"GET "[..],
                forged,
                b" HTTP/1.1\r\nHost: ",
                NAME.as_bytes(),
                b"\r\nConnection: close\r\n\r\n",
            ]
            .concat(),
        );
        Reply::read(&mut tls, false).status
    });
    wait_written(&cluster, "access", 4);
    let all = lines(&access(&cluster));
    assert_eq!(all.len(), 4, "{all:?}");
    let of = |path: &str| {
        let mut found = all.iter().filter(|line| line["path"] == path);
        found.next().unwrap_or_else(|| panic!("no {path} in {all:?}"))
    };
    let (lent, own, head) = (of("/lent"), of("/own"), of("/head"));
    assert_eq!((&lent["lent_to"], &lent["service_us"]), (&"b".into(), &Value::Null), "{lent}");
    assert!(own["lent_to"].is_null() && own["service_us"].is_u64(), "{own}");
    assert_eq!(lent["connection"], own["connection"], "curl kept its connection");
    for line in [lent, own, head] {
        assert_eq!(
            (&line["status"], &line["whole"], &line["acknowledged"]),
            (&200.into(), &true.into(), &true.into())
        );
        assert!(line["client"].as_str().is_some_and(|it| it.starts_with("10.77.1.1:")), "{line}");
        assert!(
            line["suite"].is_string() && line["time"].as_str().is_some_and(|it| it.ends_with('Z')),
            "{line}"
        );
        let stages =
            ["receive_us", "application_us", "seal_us", "transmit_us"].map(|stage| line[stage].as_u64());
        let sum: u64 = stages.iter().flatten().sum();
        let total = line["total_us"].as_u64().expect("a time");
        assert!(total - sum <= 3, "only what is less than a microsecond is left out: {line}");
    }
    assert!(lent["bytes"].as_u64() > Some(20_000) && own["bytes"].as_u64() > Some(100), "{lent} {own}");
    assert_eq!(
        (&lent["tls"], &head["tls"], &head["method"]),
        (&"TLSv1.3".into(), &"TLSv1.2".into(), &"HEAD".into())
    );
    let forged = of(&forged.escape_ascii().to_string());
    assert_eq!(forged["status"], refused, "{forged}");
    assert_eq!(cluster.a().status().total("log_lines_lost"), 0);
    cluster.finish();
}

fn slow_requests_say_where_the_time_went(workers: usize) {
    let options = Options::new(workers).line("slow_log", "over_ms = 400");
    let cluster = Cluster::start(&options);
    Curl::new(&cluster).get("/fast?bytes=10&seed=1").get("/slow?cost_us=500000").run();
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(b"GET /received HTTP/1.1\r\n");
        std::thread::sleep(Duration::from_millis(500));
        tls.send(b"Host: kf.test\r\nConnection: close\r\n\r\n");
        assert_eq!(Reply::read(&mut tls, false).status, 200);
    });
    let file = cluster.directory().join("a.slow_log");
    assert!(wait_told(&file, "/slow")["application_us"].as_u64() >= Some(490_000));
    assert!(wait_told(&file, "/received")["receive_us"].as_u64() >= Some(490_000));
    // On a loaded machine others may be slow as well, and then say so.
    cluster.wait_at_rest();
    let is_slow = |line: &Value| line["total_us"].as_u64() > Some(400_000);
    assert!(lines(&file).iter().all(is_slow), "{:?}", lines(&file));
    // What is slow changes with a reload, without a restart.
    cluster.edit_config("a", |text| text.replace("over_ms = 400", "over_ms = 3600000"));
    let answer = reload(&cluster);
    assert_eq!(answer["applied"], serde_json::json!([{"table": "[slow_log]", "key": "over_ms"}]), "{answer}");
    let before = cluster.a().status().total("log_entries");
    Curl::new(&cluster).get("/slow?cost_us=500000").run();
    cluster.wait_at_rest();
    assert_eq!(cluster.a().status().total("log_entries"), before);
    cluster.finish();
}

/// A part of many requests, the same at each run: what is drawn follows from the worker's number.
#[test]
fn a_sample() {
    let cluster = Cluster::start(&Options::new(1).line("access_log", "sample = 0.25"));
    for _ in 0..8 {
        (0..50).fold(Curl::new(&cluster), |curl, _| curl.get("/?bytes=1&seed=1")).run();
    }
    cluster.a().wait_for("all of them", WRITTEN, |status| {
        let [entries, lines] = ["log_entries", "log_lines_access"].map(|name| status.total(name));
        status.total("requests") == 400 && status.total("flows") == 0 && entries == lines
    });
    let count = lines(&access(&cluster)).len();
    assert!((60..=140).contains(&count), "{count} of 400 are a quarter, by and large");
    cluster.finish();
}

/// logrotate's way, again and again under load: nothing is lost, and nothing is torn.
#[test]
fn moved_and_opened_anew_under_load() {
    let cluster = Cluster::start(&Options::new(2).line("access_log", "sample = 1"));
    let load = cluster.loader(&["-c", "8", "-d", "100", "--bytes-mix", "100"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    let file = access(&cluster);
    let moved = |number: usize| file.with_extension(format!("moved{number}"));
    for number in 0..5 {
        let before = cluster.a().status().total("log_lines_access");
        wait_written(&cluster, "access", before + 100);
        fs::rename(&file, moved(number)).expect("the test's directory is writable");
        assert_eq!(reload(&cluster)["outcome"], "unchanged");
        // What it had is whole, and nothing is added any more.
        let had = lines(&moved(number)).len();
        assert!(had >= 100, "{had}");
    }
    // SIGHUP does the same, and is not answered: its end is counted.
    fs::rename(&file, moved(5)).expect("the test's directory is writable");
    cluster.a().hang_up();
    cluster.a().wait_for("it", WRITTEN, |status| status.total("log_files_opened_anew") == 6);
    stop.store(true, Ordering::Relaxed);
    let report = load.join().expect("the load ends in order");
    assert!(report.requests > 500, "{report}");
    cluster.wait_at_rest();
    let status = cluster.a().wait_for("all lines", WRITTEN, |status| {
        status.total("log_lines_access") == status.total("log_entries")
    });
    let written: usize = (0..6).map(moved).chain([file.clone()]).map(|file| lines(&file).len()).sum();
    assert_eq!(written as u64, status.total("log_lines_access"));
    let told = status.total("log_entries") + status.total("log_dropped") + status.total("log_untraced");
    assert_eq!((told, status.total("log_lines_lost")), (status.total("requests"), 0));
    cluster.finish();
}

#[test]
fn long_files_are_put_aside() {
    let options = Options::new(1).line("access_log", "sample = 1\nbytes_max = 65536\nfiles_kept = 2");
    let cluster = Cluster::start(&options);
    let load = cluster.loader(&["-c", "8", "-d", "100", "--bytes-mix", "100"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    cluster.a().wait_for("files", WRITTEN, |status| status.total("log_files_put_aside") >= 4);
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends in order");
    cluster.wait_at_rest();
    cluster.a().wait_for("all lines", WRITTEN, |status| {
        status.total("log_lines_access") == status.total("log_entries")
    });
    let numbered = |number: usize| access(&cluster).with_extension(format!("access_log.{number}"));
    for file in [access(&cluster), numbered(1), numbered(2)] {
        assert!(fs::metadata(&file).expect("it is kept").len() <= 65_536);
        lines(&file);
    }
    assert!(!numbered(3).exists());
    cluster.finish();
}

/// A file system with no room: lines are lost and counted, said once, and clients are served; then there is room.
#[test]
fn a_full_disk() {
    let options = Options::new(1).line("access_log", "sample = 1");
    let mut cluster = Cluster::start(&options);
    let disk = Disk::mount(cluster.directory().join("small"));
    cluster.take_a().stop();
    let line = format!("file = {:?}", disk.0.join("log"));
    cluster.edit_config("a", |text| text.replace("file = \"a.access_log\"", &line));
    cluster.start_a();
    cluster.wait_linked(1);
    fs::write(disk.0.join("ballast"), vec![0; 100 << 10]).expect_err("it is smaller than that");
    let ask = |cluster: &Cluster| {
        let curl = (0..50).fold(Curl::new(cluster), |curl, _| curl.get("/?bytes=10&seed=1"));
        assert!(curl.run().iter().all(|fetched| fetched.status == 200));
    };
    ask(&cluster);
    cluster.a().wait_for("lost lines", WRITTEN, |status| status.total("log_lines_lost") >= 40);
    ask(&cluster);
    cluster.a().wait_for("more", WRITTEN, |status| status.total("log_lines_lost") >= 90);
    assert_eq!(cluster.a().log().matches("cannot be written").count(), 1, "{}", cluster.a().log());
    fs::remove_file(disk.0.join("ballast")).expect("it is there");
    let before = cluster.a().status().total("log_lines_access");
    ask(&cluster);
    wait_written(&cluster, "access", before + 50);
    let text = fs::read_to_string(disk.0.join("log")).expect("the log is there");
    let whole = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert!(whole >= 50, "{text}");
    cluster.take_a().stop();
    drop(disk);
    cluster.start_a();
    cluster.wait_linked(1);
    cluster.finish();
}

/// A file system of 64 KiB.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Disk {
        fs::create_dir(&at).expect("the test's directory is writable");
        let mut mount = Command::new("mount");
        output_of(mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&at));
        Disk(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
