//! Origin servers behind a node: nginx and Python, asked by curl, sealed here and sealed by another node.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyferry_cluster::process::PAUSE;

use crate::client::Curl;
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(by_nginx, by_python, killed_in_the_midst, checks_bring_it_back, by_routes);

/// Longest wait for what an origin has to do.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// What curl says of a transfer that ended before its end: a body cut short, or a connection that broke.
const CUT: [i32; 2] = [18, 56];

/// A server, killed when it is dropped.
pub(super) struct Origin {
    child: Child,
    pub(super) socket: PathBuf,
}

impl Origin {
    pub(super) fn start(mut command: Command, socket: &Path) -> Origin {
        let child = command.stdin(Stdio::null()).spawn().expect("the origin server starts");
        let origin = Origin { child, socket: socket.to_owned() };
        let deadline = Instant::now() + LONG;
        while UnixStream::connect(&origin.socket).is_err() {
            assert!(Instant::now() < deadline, "{} is not listened on", socket.display());
            std::thread::sleep(PAUSE);
        }
        origin
    }

    pub(super) fn python(socket: &Path) -> Origin {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/client/python_origin.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(socket);
        Origin::start(python, socket)
    }

    /// Serves `folder`/www, stores below /put, and writes `folder`/log: a line for each request, with the number of its connection.
    pub(super) fn nginx(folder: &Path) -> Origin {
        let (socket, config) = (folder.join("nginx.sock"), folder.join("nginx.conf"));
        let path = folder.display();
        let text = format!(
            "daemon off; master_process off; user root; pid {path}/pid; error_log {path}/errors;
            events {{ worker_connections 256; }}
            http {{
                log_format seen '$connection $status $http_x_forwarded_for $http_forwarded $request';
                access_log {path}/log seen;
                client_body_temp_path {path}/bodies; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
                uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
                server {{
                    listen unix:{}; root {path}/www;
                    location /put/ {{ dav_methods PUT; create_full_put_path on; client_max_body_size 1g; }}
                }}
            }}",
            socket.display()
        );
        fs::write(&config, text).expect("the folder is writable");
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(&config).arg("-e").arg(folder.join("errors"));
        Origin::start(nginx, &socket)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Nodes in front of the origin at this socket, with these keys of its upstream, or tables.
pub(super) fn options(workers: usize, socket: &Path, more: &str) -> Options {
    let tables = format!("[[upstream]]\nname = \"app\"\nservers = [\"unix:{}\"]\n{more}\n", socket.display());
    Options::new(workers).apps(1).decide(Decide::Always).upstream(&tables)
}

fn big() -> Vec<u8> {
    (0..5_000_000u32).map(|index| (index % 251) as u8).collect()
}

fn by_nginx(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let root = folder.path().join("www");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("big.bin"), big()).expect("a file");
    fs::write(root.join("small.txt"), "small").expect("a file");
    let origin = Origin::nginx(folder.path());
    let cluster = Cluster::start(&options(workers, &origin.socket, "idle_timeout_ms = 600000"));
    for query in ["", "?lend=0"] {
        let whole = Curl::new(&cluster).get(&format!("/big.bin{query}")).run();
        assert_eq!(whole[0].status, 200);
        assert!(whole[0].body == big());
        let part =
            Curl::new(&cluster).option("--range").option("4999000-").get(&format!("/big.bin{query}")).run();
        assert_eq!((part[0].status, &part[0].body[..]), (206, &big()[4_999_000..]));
        let head = Curl::new(&cluster).option("--head").get(&format!("/small.txt{query}")).run();
        let text = String::from_utf8_lossy(&head[0].body).into_owned();
        assert_eq!(head[0].status, 200);
        assert!(text.contains("Content-Length: 5\r\n") && text.contains("server: nginx"), "{text}");
        let none = Curl::new(&cluster).get(&format!("/none{query}")).run();
        assert_eq!(none[0].status, 404);
    }
    // One client's many requests, over one connection to the node and few to the server.
    let mut curl = Curl::new(&cluster);
    for number in 0..60 {
        let lend = if number % 2 == 0 { "" } else { "&lend=0" };
        curl = curl.get(&format!("/small.txt?{number}{lend}"));
    }
    let fetched = curl.run();
    assert!(fetched.iter().all(|it| it.status == 200 && it.body == b"small"));
    assert_eq!(fetched.iter().map(|it| it.connects).sum::<u32>(), 1);
    cluster.expect_counts("both asked", |a, b| {
        let asked = [a, b].map(|node| node.total("upstream_replies"));
        asked.iter().all(|count| *count >= 34) && asked[0] + asked[1] == 68
    });
    let opened = cluster.a().status().total("upstream_connections")
        + cluster.b().status().total("upstream_connections");
    assert!(opened <= 4, "{opened} connections to the server");
    // Whose they were, by what either node was told; nginx writes a line once a reply has left.
    let told = "10.77.1.1 for=10.77.1.1;proto=https;host=";
    let deadline = Instant::now() + LONG;
    loop {
        let log = fs::read_to_string(folder.path().join("log")).expect("nginx has a log");
        if log.lines().filter(|line| line.contains(told)).count() == 68 {
            break;
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::sleep(PAUSE);
    }
    cluster.finish();
}

fn by_python(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = Origin::python(&folder.path().join("o.sock"));
    let cluster = Cluster::start(&options(workers, &origin.socket, ""));
    let upload = cluster.directory().join("upload");
    fs::write(&upload, &big()[..900_000]).expect("the test's directory is writable");
    for query in ["", "?lend=0"] {
        let echoed = Curl::new(&cluster)
            .option("--data-binary")
            .option(&format!("@{}", upload.display()))
            .get(&format!("/echo{query}"))
            .run();
        assert_eq!(echoed[0].status, 201);
        assert!(echoed[0].body == big()[..900_000]);
        let chunked = Curl::new(&cluster).get(&format!("/chunked{query}")).run();
        let expected: Vec<u8> = (0..200u8).flat_map(|it| vec![it; usize::from(it) * 7 + 1]).collect();
        assert!(chunked[0].body == expected);
        let fields = Curl::new(&cluster)
            .option("--header")
            .option("X-Forwarded-For: 203.0.113.9")
            .get(&format!("/fields{query}"))
            .run();
        let fields = String::from_utf8_lossy(&fields[0].body).into_owned();
        assert!(fields.contains("[\"x-forwarded-for\", \"10.77.1.1\"]"), "{fields}");
        assert!(fields.contains("[\"x-forwarded-proto\", \"https\"]"), "{fields}");
        assert!(fields.contains(&format!("[\"host\", \"{NAME}\"]")), "{fields}");
    }
    cluster.finish();
}

/// The server dies in the midst of its reply: curl must not take what it has for the whole.
fn killed_in_the_midst(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let socket = folder.path().join("o.sock");
    let mut origin = Origin::python(&socket);
    let cluster = Cluster::start(&options(workers, &socket, ""));
    let file = cluster.directory().join("half");
    for target in ["/half", "/half?lend=0", "/half-chunked", "/half-chunked?lend=0"] {
        let _ = fs::remove_file(&file);
        let mut curl = cluster.client("curl");
        curl.args(["--silent", "--no-buffer", "--resolve", &format!("{NAME}:443:{A4}"), "--cacert"]);
        curl.arg(cluster.ca()).arg("--output").arg(&file).arg(format!("https://{NAME}{target}"));
        let mut curl = curl.spawn().expect("curl starts");
        let deadline = Instant::now() + LONG;
        while fs::metadata(&file).map_or(0, |data| data.len()) < 100_000 {
            assert!(Instant::now() < deadline, "{target}: nothing comes");
            std::thread::sleep(PAUSE);
        }
        drop(origin);
        let status = curl.wait().expect("curl ends");
        assert!(status.code().is_some_and(|code| CUT.contains(&code)), "{target}: {status}");
        origin = Origin::python(&socket);
        // The next request goes to the one that is there now.
        let next = Curl::new(&cluster).get("/chunked").run();
        assert_eq!(next[0].status, 200);
    }
    cluster.expect_counts("each was cut", |a, b| {
        a.total("upstream_failed_cut") + b.total("upstream_failed_cut") == 4
    });
    cluster.finish();
}

fn checks_bring_it_back(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let socket = folder.path().join("o.sock");
    let health = "[upstream.health]\npath = \"/fields\"\ninterval_ms = 20\nrise = 1\nfall = 1";
    let cluster = Cluster::start(&options(workers, &socket, health));
    let both = |counter: &'static str| {
        cluster.expect_counts(counter, |a, b| [a, b].iter().all(|node| node.total(counter) == 1));
    };
    both("upstream_fell");
    let refused = Curl::new(&cluster).get("/fields?lend=0").run();
    assert_eq!((refused[0].status, &refused[0].body[..]), (503, &b"503 Service Unavailable\n"[..]));
    let origin = Origin::python(&socket);
    both("upstream_rose");
    for query in ["", "?lend=0"] {
        assert_eq!(Curl::new(&cluster).get(&format!("/fields{query}")).run()[0].status, 200);
    }
    cluster.finish();
    drop(origin);
}

/// Files, replies of the synthetic application and an origin server behind one name.
fn by_routes(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("files")).expect("a directory");
    fs::write(root.join("files/one.txt"), "one").expect("a file");
    let origin = Origin::python(&folder.path().join("o.sock"));
    let routes = "[[route]]\npath_prefix = \"/files\"\napp = \"static\"\n\
        [[route]]\npath_prefix = \"/made\"\napp = \"synthetic\"";
    let cluster = Cluster::start(&options(workers, &origin.socket, routes).root(&root));
    for query in ["", "?lend=0"] {
        let fetched = Curl::new(&cluster)
            .get(&format!("/files/one.txt{query}"))
            .get(&format!("/made{query}"))
            .get(&format!("/fields{query}"))
            .get(&format!("/filesystem{query}"))
            .run();
        let statuses: Vec<_> = fetched.iter().map(|it| it.status).collect();
        assert_eq!(statuses, [200, 200, 200, 404]);
        assert_eq!((&fetched[0].body[..], fetched[1].body.len()), (&b"one"[..], 1024));
        assert_eq!(fetched[3].body, b"nothing here");
    }
    cluster.finish();
}
