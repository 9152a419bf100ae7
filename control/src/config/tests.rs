//! The example is complete and true, every mistake is named, and nothing panics.

mod bounds;
mod changes;
mod distributor;
mod host;
mod upstream;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = include_str!("../../../docs/examples/keyferry.toml");

/// The required keys of the example and nothing else.
const LEAST: &str = r#"
[node]
name = "a"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
[[certificate]]
chain = "/etc/keyferry/cert.pem"
key = "/etc/keyferry/key.pem"
[cluster]
ca = "/etc/keyferry/ca.pem"
certificate = "/etc/keyferry/a.pem"
key = "/etc/keyferry/a.key"
[[peer]]
name = "b"
address = "unix:/run/keyferry/b.sock"
"#;

/// A folder with the files the example names, in place of `/etc/keyferry` and `/var/www`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        let made = rcgen::generate_simple_self_signed(["example.net".to_owned()]).unwrap();
        folder.write("cert.pem", made.cert.pem().as_bytes(), 0o644);
        folder.write("key.pem", made.signing_key.serialize_pem().as_bytes(), 0o600);
        crate::ca::init(folder.0.path(), 1).unwrap();
        crate::ca::node(folder.0.path(), &["a".to_owned(), "n7".to_owned(), "d1".to_owned()], 1).unwrap();
        fs::create_dir(folder.0.path().join("www")).unwrap();
        folder.write("etcd-ca.pem", made.cert.pem().as_bytes(), 0o644);
        folder.write("etcd.pem", made.cert.pem().as_bytes(), 0o644);
        folder.write("etcd.key", made.signing_key.serialize_pem().as_bytes(), 0o600);
        let other = rcgen::generate_simple_self_signed(["example.net".to_owned()]).unwrap();
        folder.write("other.key", other.signing_key.serialize_pem().as_bytes(), 0o600);
        folder.write("etcd.password", b"secret\n", 0o600);
        folder
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn text(&self, text: &str) -> String {
        let folder = self.0.path().to_str().unwrap();
        text.replace("/etc/keyferry", folder).replace("/var/www", &format!("{folder}/www"))
    }

    fn parse(&self, text: &str) -> Result<Config, Problems> {
        self.parse_with(text, &[])
    }

    /// As an executable reads it that has these applications of its own.
    fn parse_with(&self, text: &str, own: &[String]) -> Result<Config, Problems> {
        parse(&self.text(text), &self.0.path().join("a.toml"), &BTreeSet::from([0, 1, 2, 3]), own).0
    }

    /// The problems of the example after `edits`, each of which has to change something.
    fn problems(&self, edits: &[(&str, &str)]) -> Vec<Problem> {
        let mut text = EXAMPLE.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "the example has no {from}");
            text = text.replacen(from, to, 1);
        }
        self.parse(&text).err().map(|problems| problems.list().to_vec()).unwrap_or_default()
    }
}

/// The example with its commented-out keys set.
fn uncommented() -> String {
    let key = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            let keys = ["vlan =", "eal =", "key_log =", "address =", "metrics =", "[cluster.etcd]"];
            keys.iter().chain(ETCD).chain(UPSTREAM).chain(REQUEST_LOGS).any(|key| rest.starts_with(key))
        })
    };
    let line = |line: &str| if key(line) { line[2..].to_owned() } else { line.to_owned() };
    let text = EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n");
    // The fabric's address goes with one driver only, an authority with endpoints of TLS.
    text.replace("driver = \"shm\"", "driver = \"verbs\"").replace("http://", "https://")
}

/// Keys of `[cluster.etcd]`, commented out in the example.
const ETCD: &[&str] = &[
    "endpoints =",
    "prefix =",
    "ttl_s =",
    "nodes_max =",
    "advertise =",
    "ca =",
    "certificate =",
    "key =",
    "user =",
    "password_file =",
];

/// Keys of upstreams and routes, commented out in the example; the rest is in an example of its own.
const UPSTREAM: &[&str] =
    &["upstream =", "[[upstream]]", "name =", "servers =", "[[route]]", "path_prefix =", "app ="];

/// Tables and keys of the logs of requests, commented out in the example.
const REQUEST_LOGS: &[&str] =
    &["[access_log]", "[slow_log]", "file =", "sample =", "over_ms =", "bytes_max =", "files_kept ="];

/// Without its `[[peer]]`, whose place etcd takes.
fn without_peer(text: &str) -> String {
    let (before, peer) = text.split_once("[[peer]]").unwrap();
    let rest = peer.find("\n[").map_or("", |at| &peer[at..]);
    format!("{before}{rest}")
}

/// Every key of the schema, `nic.mtu`.
fn schema() -> BTreeSet<String> {
    let context = Context::new(EXAMPLE, Path::new("a.toml"));
    read(context.root().unwrap(), &[]);
    context.into_parts().1
}

#[test]
fn the_example_is_valid_and_says_the_defaults() {
    let folder = Folder::new();
    let example = folder.parse(EXAMPLE).unwrap();
    assert_eq!(example, folder.parse(LEAST).unwrap());
    assert_eq!(example.limits.idle_timeout, Duration::from_secs(60));
    assert_eq!(example.https_ports().collect::<Vec<_>>(), [443]);
    assert_eq!(example.lease.policy, Policy::Estimate { move_cost_us: 50 });
}

#[test]
fn slots_are_read_and_none_means_no_bound() {
    let folder = Folder::new();
    assert_eq!(folder.parse(EXAMPLE).unwrap().slots, None);
    let config = folder.parse(&EXAMPLE.replacen("slots = 0 ", "slots = 8 ", 1)).unwrap();
    assert_eq!(config.slots, NonZeroUsize::new(8));
    let problems = folder.problems(&[("slots = 0 ", "slots = -1 ")]);
    assert!(problems.iter().any(|problem| problem.place == "[app] slots"), "{problems:?}");
}

/// What the file says of connections reaches TCP; without the table it is what TCP has by itself.
#[test]
fn tcp_is_tuned_as_the_file_says() {
    let folder = Folder::new();
    let told = |config: Config| format!("{:?}", config.tcp.tuning());
    assert_eq!(told(folder.parse(EXAMPLE).unwrap()), format!("{:?}", keyferry_tcp::Tuning::default()));
    let lines = "congestion = \"bbr\"\npacing = false\necn = false\ninitial_window = 4\nack_delay_ms = 40\n\
        mtu_raise_after_s = 300\nreceive_buffer_max = 65536\nreceive_memory_mib = 2\nsend_memory_mib = 3\nkeep_alive_s = 50\n\
        keep_alive_every_s = 6\nkeep_alive_probes = 7\nuser_timeout_ms = 8000\naccept_queue = 9\ntime_wait = 11\n";
    let config = folder.parse(&format!("{LEAST}[tcp]\n{lines}")).unwrap();
    let wanted = keyferry_tcp::Tuning {
        congestion: keyferry_tcp::Algorithm::Bbr,
        pacing: false,
        ecn: false,
        initial_segments: 4,
        ack_delay: Duration::from_millis(40),
        mtu_raise_after: Some(Duration::from_secs(300)),
        receive_bytes_max: 65_536,
        receive_budget_bytes: Some(2 << 20),
        send_budget_bytes: 3 << 20,
        keep_alive: Some(keyferry_tcp::KeepAlive {
            after: Duration::from_secs(50),
            every: Duration::from_secs(6),
            probes: 7,
        }),
        user_timeout: Some(Duration::from_secs(8)),
        accept_queue: 9,
        time_wait: Some(11),
    };
    assert_eq!(told(config), format!("{wanted:?}"));
}

#[test]
fn the_example_shows_every_key() {
    let full: toml::Table = toml::from_str(&uncommented()).unwrap();
    let keys = schema();
    assert!(keys.len() > 60, "the schema has {} keys", keys.len());
    for path in keys {
        let mut value = toml::Value::Table(full.clone());
        for part in path.split('.') {
            let inner = match &value {
                toml::Value::Array(tables) => tables.first().and_then(|table| table.get(part)),
                other => other.get(part),
            };
            value = inner.unwrap_or_else(|| panic!("the example does not show {path}")).clone();
        }
    }
    let config = Folder::new().parse(&without_peer(&uncommented())).unwrap();
    assert_eq!(config.nic.vlan, Some(42));
    assert_eq!(config.nic.eal.len(), 2);
}

#[test]
fn every_key_refuses_a_value_of_another_kind() {
    let folder = Folder::new();
    let example = toml::Value::Table(toml::from_str(&uncommented()).unwrap());
    for path in schema() {
        let mut broken = example.clone();
        let mut value = &mut broken;
        for part in path.split('.') {
            let table = if value.is_array() { &mut value[0] } else { value };
            value = &mut table[part];
        }
        *value = toml::Value::Datetime("2026-01-01".parse().unwrap());
        let text = toml::to_string(&broken).unwrap();
        let problems = folder.parse(&text).expect_err(&path);
        let key = path.rsplit('.').next().unwrap();
        let named = |problem: &Problem| problem.what.starts_with("write ") && problem.place.contains(key);
        assert!(problems.list().iter().any(named), "{path}: {problems}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
    let folder = Folder::new();
    let problems =
        folder.parse(&LEAST.replace("[[certificate]]", "adresses = []\n[[certificate]]")).unwrap_err();
    let problem = &problems.list()[0];
    assert_eq!((problem.line, problem.place.as_str()), (Some(7), "[nic]"));
    assert_eq!(problem.what, "there is no key adresses: did you mean addresses?");
    assert!(
        problems.to_string().ends_with("a.toml:7: [nic]: there is no key adresses: did you mean addresses?")
    );

    let table = folder.problems(&[("[limits]", "[limit]")]);
    assert_eq!(table[0].what, "there is no key limit: did you mean limits?");
    let peer = folder.problems(&[("name = \"b\"", "name = \"b\"\nzzz = 1")]);
    assert_eq!(
        (peer[0].place.as_str(), peer[0].what.as_str()),
        ("[[peer]]", "there is no key zzz: the keys here are name, address")
    );
}

/// Edits of the example, the place they break, and a piece of the sentence about it.
type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);

const CASES: &[Case] = &[
    (&[("name = \"a\"", "name = \"a b\"")], "[node] name", "is no name"),
    (&[("name = \"a\"", "")], "[node] name", "required"),
    (&[("\"bf\"", "\"bff\"")], "[node] model", "did you mean \"bf\""),
    (&[("workers = [1]", "workers = []")], "[cores] workers", "at least one worker"),
    (
        &[("workers = [1]", "workers = [1, 1]"), ("iface=kf0", "iface=kf0,qpairs=2")],
        "[cores] workers",
        "listed twice",
    ),
    (&[("workers = [1]", "workers = [9]")], "[cores] workers", "choose among 0-3"),
    (&[("control = 0", "control = 1")], "[cores] control", "set idle"),
    (&[("apps = []", "apps = [1]")], "[cores] apps", "set idle"),
    (&[("apps = []", "apps = [-1]")], "[cores] apps", "a list of core numbers"),
    (&[("device = \"net_af_packet0,iface=kf0\"", "")], "[nic] device", "required"),
    (&[("net_af_packet0", "net_af_pocket0")], "[nic] device", "did you mean \"net_af_packet\""),
    (&[("net_af_packet0,iface=kf0", "net_bonding0")], "[nic] device", "later release"),
    (&[("workers = [1]", "workers = [1, 2]")], "[nic] device", "qpairs=2"),
    (&[("[\"192.0.2.10/24\", \"2001:db8::10/64\"]", "[]")], "[nic] addresses", "this list is empty"),
    (&[("2001:db8::10/64", "192.0.2.10/25")], "[nic] addresses", "listed twice"),
    (&[("2001:db8::10/64", "2001:db8::10")], "[nic] addresses", "prefix"),
    (&[("2001:db8::10/64", "ff02::1/64")], "[nic] addresses", "unicast"),
    (
        &[("service_addresses = []", "service_addresses = [\"192.0.2.10\"]")],
        "[nic] service_addresses",
        "listed twice",
    ),
    (
        &[("service_addresses = []", "service_addresses = [\"224.0.0.1\"]")],
        "[nic] service_addresses",
        "unicast",
    ),
    (&[("gateways = []", "gateways = [\"192.0.3.1\"]")], "[nic] gateways", "outside every prefix"),
    (&[("gateways = []", "gateways = [\"192.0.2.10\"]")], "[nic] gateways", "own address"),
    (&[("gateways = []", "gateways = [\"192.0.2.1\", \"192.0.2.2\"]")], "[nic] gateways", "second IPv4"),
    (
        &[("routes = []", "routes = [{ to = \"10.0.0.0/8\", via = \"2001:db8::1\" }]")],
        "[nic] routes",
        "mixes",
    ),
    (&[("routes = []", "routes = [{ to = \"10.0.0.0/8\" }]")], "[nic] routes", "a list of routes"),
    (&[("mtu = 1500", "mtu = 1279")], "[nic] mtu", "1280 to 9000"),
    (&[("mtu = 1500", "mtu = 9001")], "[nic] mtu", "576 to 9000"),
    (&[("# vlan = 42", "vlan = 4095")], "[nic] vlan", "1 to 4094"),
    (&[("packets = 16384", "packets = 1000000")], "[nic] packets", "memory_mib"),
    (&[("# eal = [", "eal = [\"--vdev=net_null0\", ")], "[nic] eal", "[nic] device"),
    (&[("port = 80\n", "port = 443\n")], "[[listener]] port", "two listeners"),
    (&[("port = 80\n", "port = 70000\n")], "[[listener]] port", "1 to 65535"),
    (&[("port = 80\n", "")], "[[listener]] port", "required"),
    (&[("protocol = \"https\"", "protocol = \"redirect\"")], "[[listener]]", "no listener speaks https"),
    (&[("protocol = \"https\"", "protocol = \"HTTP/2\"")], "[[listener]] protocol", "later release"),
    (&[("/etc/keyferry/cert.pem", "/etc/keyferry/none.pem")], "[[certificate]] chain", "cannot be read"),
    (&[("/etc/keyferry/cert.pem", "/etc/keyferry/key.pem")], "[[certificate]] chain", "no certificate"),
    (&[("/etc/keyferry/key.pem", "/etc/keyferry/empty.pem")], "[[certificate]] key", "no private key"),
    (&[("/etc/keyferry/key.pem", "/etc/keyferry/other.key")], "[[certificate]] key", "another certificate"),
    (&[("key = \"/etc/keyferry/key.pem\"", "")], "[[certificate]] key", "required"),
    (&[("versions = [\"1.3\", \"1.2\"]", "versions = [\"1.1\"]")], "[tls] versions", "\"1.1\""),
    (&[("versions = [", "client_certificates = true\nversions = [")], "[tls]", "later release"),
    (&[("session_lifetime_s = 7200", "session_lifetime_s = 604801")], "[tls] session_lifetime_s", "604800"),
    (
        &[("kind = \"synthetic\"", "kind = \"static\""), ("/var/www", "/etc/keyferry/key.pem")],
        "[app.static] root",
        "not a folder",
    ),
    (
        &[("kind = \"synthetic\"", "kind = \"static\""), ("root = \"/var/www\"", "")],
        "[app.static] root",
        "required",
    ),
    (&[("{ fixed = 0 }", "{ fixed = -1 }")], "[app.synthetic] cost_us", "out of range"),
    (&[("{ fixed = 0 }", "{ pareto = [1, 0] }")], "[app.synthetic] cost_us", "out of range"),
    (&[("{ fixed = 0 }", "7")], "[app.synthetic] cost_us", "instead of this whole number"),
    (&[("credits = 16", "credits = 32"), ("slots = 256", "slots = 31")], "[lease] credits", "slots"),
    (&[("leases = 256", "leases = 257")], "[lease] leases", "receives"),
    (&[("leases = 256", "leases = 0")], "[lease] leases", "from 1 to"),
    (&[("# [access_log]", "[access_log]")], "[access_log] file", "required"),
    (
        &[
            ("# [access_log]", "[access_log]"),
            ("# file = \"/var/log/keyferry/access.log\"", "file = \"/var/log/keyferry/access.log\""),
            ("# sample = 0.01", "sample = 1.5"),
        ],
        "[access_log] sample",
        "above 0 up to 1",
    ),
    (&[("# [slow_log]", "[slow_log]\nfile = \"/etc/keyferry\"")], "[slow_log] file", "name a file in it"),
    (&[("log_format = \"text\"", "log_format = \"jsn\"")], "[admin] log_format", "did you mean \"json\""),
    (&[("# user = \"keyferry\"               # whom", "user = \"\" # whom")], "[admin] user", "empty"),
    (&[("slot_patience_ms = 100", "slot_patience_ms = 0")], "[lease] slot_patience_ms", "from 1 to"),
    (
        &[
            ("receives = 512", "receives = 32"),
            ("credits = 16", "credits = 17"),
            ("leases = 256", "leases = 16"),
        ],
        "[fabric] receives",
        "at least 33",
    ),
    (&[("driver = \"shm\"", "driver = \"verbs\"")], "[fabric] address", "required"),
    (&[("driver = \"shm\"", "driver = \"verbs\"\naddress = \"10.0.0\"")], "[fabric] address", "mlx5_0"),
    (&[("driver = \"shm\"", "driver = \"shm\"\naddress = \"10.0.0.1\"")], "[fabric] address", "leave it out"),
    (&[("name = \"b\"", "name = \"a\"")], "[[peer]] name", "this node itself"),
    (
        &[("unix:/run/keyferry/b.sock", "unix:/run/keyferry/a.sock")],
        "[[peer]] address",
        "listens there itself",
    ),
    (&[("unix:/run/keyferry/b.sock", "192.0.2.11:7411")], "[[peer]] address", "passes memory"),
    (&[("unix:/run/keyferry/b.sock", "192.0.2.11")], "[[peer]] address", "no address"),
    (&[("unix:/run/keyferry/b.sock", "192.0.2.11:0")], "[[peer]] address", "no port"),
    (&[("unix:/run/keyferry/b.sock", "unix:")], "[[peer]] address", "lacks a path"),
    (&[("name = \"b\"", "name = \"b-\"")], "[[peer]] name", "DNS name"),
    (&[("/etc/keyferry/ca.pem", "/etc/keyferry/empty.pem")], "[cluster] ca", "holds no certificate"),
    (
        &[("/etc/keyferry/ca.pem", "/etc/keyferry/cert.pem")],
        "[cluster] certificate",
        "not signed by the cluster's CA",
    ),
    (&[("/etc/keyferry/a.pem", "/etc/keyferry/n7.pem")], "[cluster] certificate", "not for a"),
    (&[("/etc/keyferry/a.key", "/etc/keyferry/n7.key")], "[cluster] key", "not the key of"),
    (&[("/etc/keyferry/a.key", "/etc/keyferry/open.key")], "[cluster] key", "chmod 600"),
    (&[("[\"unix:/run/keyferry/a.sock\"]", "[]")], "[cluster] listen", "empty"),
    (
        &[("heartbeat_timeout_ms = 3000", "heartbeat_timeout_ms = 10")],
        "[cluster] heartbeat_timeout_ms",
        "from 200",
    ),
    (&[("distributors = []", "distributors = [\"b\"]")], "[cluster] distributors", "another one's name"),
    (
        &[("distributors = []", "distributors = [\"d1\", \"d1\"]")],
        "[cluster] distributors",
        "another one's name",
    ),
    (&[("half_open = 1024", "half_open = 16385")], "[limits] half_open", "raise connections"),
    (&[("receive_buffer = 16384", "receive_buffer = 4095")], "[limits] receive_buffer", "from 4096"),
    (&[("congestion = \"cubic\"", "congestion = \"cubik\"")], "[tcp] congestion", "did you mean \"cubic\""),
    (&[("initial_window = 10", "initial_window = 101")], "[tcp] initial_window", "from 1 to 100"),
    (&[("ack_delay_ms = 10", "ack_delay_ms = 501")], "[tcp] ack_delay_ms", "from 0 to 500"),
    (
        &[("receive_buffer_max = 4194304", "receive_buffer_max = 8192")],
        "[tcp] receive_buffer_max",
        "lower [limits] receive_buffer",
    ),
    (&[("receive_memory_mib = 0", "receive_memory_mib = 3")], "[tcp] receive_memory_mib", "at least 4"),
    (&[("send_memory_mib = 256", "send_memory_mib = 0")], "[tcp] send_memory_mib", "from 1"),
    (&[("keep_alive_every_s = 15", "keep_alive_every_s = 0")], "[tcp] keep_alive_every_s", "from 1"),
    (&[("keep_alive_probes = 4", "keep_alive_probes = 256")], "[tcp] keep_alive_probes", "from 1 to 255"),
    (
        &[("user_timeout_ms = 0", "user_timeout_ms = 60001")],
        "[tcp] user_timeout_ms",
        "idle_timeout_ms ends the connection after 60000",
    ),
    (&[("accept_queue = 4096", "accept_queue = 0")], "[tcp] accept_queue", "from 1"),
    (&[("time_wait = 0", "time_wait = -1")], "[tcp] time_wait", "from 0"),
    (&[("/run/keyferry/a.ctl", "/run/keyferry/a.sock")], "[admin] socket", "its own path"),
    (
        &[("# metrics = \"127.0.0.1:9464\"", "metrics = \"0.0.0.0:9464\"")],
        "[admin] metrics",
        "a loopback address",
    ),
    (&[("# metrics = \"127.0.0.1:9464\"", "metrics = \"127.0.0.1\"")], "[admin] metrics", "no address"),
    (&[("# metrics = \"127.0.0.1:9464\"", "metrics = \"[::1]:0\"")], "[admin] metrics", "no port"),
    (
        &[("drain_timeout_ms = 1000", "drain_timeout_ms = 3600001")],
        "[admin] drain_timeout_ms",
        "from 0 to 3600000",
    ),
    (&[("[admin]", "[bgp]\n[admin]")], "", "later release"),
    (&[("[admin]", "[model]\nkind = \"bf\"\n[admin]")], "", "a key of a node's [node]"),
    (&[("[admin]", "[distributor]\nname = \"d\"\n[admin]")], "", "a file of its own"),
];

#[test]
fn each_mistake_is_one_sentence_at_its_place() {
    let folder = Folder::new();
    let key = fs::read(folder.0.path().join("a.key")).unwrap();
    folder.write("open.key", &key, 0o644);
    folder.write("empty.pem", b"", 0o600);
    for (edits, place, what) in CASES {
        let problems = folder.problems(edits);
        assert_eq!(problems.len(), 1, "{edits:?}: {problems:#?}");
        assert_eq!(problems[0].place, *place, "{edits:?}");
        assert!(problems[0].what.contains(what), "{edits:?}: {}", problems[0].what);
        assert!(problems[0].line.is_some(), "{edits:?} has no line");
    }
}

#[test]
fn members_come_from_etcd_or_from_the_file() {
    let folder = Folder::new();
    let least = without_peer(LEAST) + "[cluster.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";
    let config = folder.parse(&least).unwrap();
    assert_eq!((config.peers.len(), config.peers_max()), (0, 8));
    let etcd = config.cluster.as_ref().unwrap().etcd.clone().unwrap();
    assert_eq!((etcd.prefix.as_str(), etcd.ttl), ("/keyferry", Duration::from_secs(10)));
    assert_eq!(etcd.advertise, config.cluster.unwrap().listen);
    // What the example shows is the default, where there is one.
    let example = folder.parse(&without_peer(&uncommented())).unwrap().cluster.unwrap().etcd.unwrap();
    let shown = Etcd { endpoints: example.endpoints.clone(), tls: example.tls.clone(), ..etcd };
    assert_eq!(Etcd { user: None, ..example }, shown);

    let both =
        folder.parse(&(LEAST.to_owned() + "[cluster.etcd]\nendpoints = [\"http://h:1\"]\n")).unwrap_err();
    assert!(both.to_string().contains("remove this table, or every [[peer]]"), "{both}");
    folder.write("open", b"secret\n", 0o644);
    folder.write("two", b"secret\nsecret\n", 0o600);
    let path = |name: &str| folder.0.path().join(name).display().to_string();
    let with = |line: &str| folder.parse(&format!("{least}{line}\n"));
    assert!(with(&format!("user = \"kf\"\npassword_file = {:?}", path("etcd.password"))).is_ok());
    for (lines, place, what) in [
        ("user = \"kf\"".to_owned(), "[cluster.etcd] password_file", "required"),
        (format!("password_file = {:?}", path("etcd.password")), "[cluster.etcd] user", "required"),
        (
            format!("user = \"kf\"\npassword_file = {:?}", path("open")),
            "[cluster.etcd] password_file",
            "chmod 600",
        ),
        (
            format!("user = \"kf\"\npassword_file = {:?}", path("two")),
            "[cluster.etcd] password_file",
            "one line",
        ),
        (format!("ca = {:?}", path("ca.pem")), "[cluster.etcd] ca", "have no TLS"),
        ("advertise = [\"10.0.0.1:7411\"]".to_owned(), "[cluster.etcd] advertise", "unix:PATH"),
        ("prefix = \"a b\"".to_owned(), "[cluster.etcd] prefix", "printable"),
        ("ttl_s = 1".to_owned(), "[cluster.etcd] ttl_s", "from 2"),
        ("nodes_max = 33".to_owned(), "[cluster.etcd] nodes_max", "to 32"),
        ("lease = 1".to_owned(), "[cluster.etcd]", "there is no key"),
    ] {
        let problems = with(&lines).expect_err(&lines);
        let problem = &problems.list()[0];
        assert_eq!((problem.place.as_str(), problems.list().len()), (place, 1), "{problems}");
        assert!(problem.what.contains(what), "{problems}");
    }
    for (endpoints, place, what) in [
        ("[]", "[cluster.etcd] endpoints", "empty"),
        ("[\"127.0.0.1:2379\"]", "[cluster.etcd] endpoints", "no endpoint"),
        ("[\"http://127.0.0.1\"]", "[cluster.etcd] endpoints", "no endpoint"),
        ("[\"http://h:1/path\"]", "[cluster.etcd] endpoints", "no endpoint"),
        ("[\"https://h:1\"]", "[cluster.etcd] ca", "https endpoints need it"),
    ] {
        let problems =
            folder.parse(&least.replace("[\"http://127.0.0.1:2379\"]", endpoints)).expect_err(endpoints);
        let problem = &problems.list()[0];
        assert_eq!(problem.place, place, "{problems}");
        assert!(problem.what.contains(what), "{problems}");
    }
    let nowhere = least.replace("[cluster]", "[cluster]\nlisten = [\"0.0.0.0:7411\"]");
    let nowhere = nowhere + "[fabric]\ndriver = \"verbs\"\naddress = \"10.0.0.1\"\n";
    let problems = folder.parse(&nowhere).unwrap_err();
    assert!(problems.list()[0].what.contains("nobody reaches"), "{problems}");
}

#[test]
fn two_peers_differ() {
    let folder = Folder::new();
    let second = format!("{LEAST}[[peer]]\nname = \"b\"\naddress = \"unix:/run/keyferry/b.sock\"\n");
    let problems = folder.parse(&second).unwrap_err();
    let at: Vec<_> =
        problems.list().iter().map(|problem| (problem.line.unwrap(), problem.what.as_str())).collect();
    assert_eq!(at[0], (18, "\"b\" is listed twice: remove one"));
    assert_eq!(at[1], (19, "another peer has the same address: write this peer's own"));
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let edits = [
        ("name = \"a\"", ""),
        ("mtu = 1500", "mtu = 1"),
        ("slots = 256", "slot = 256"),
        ("half_open = 1024", "half_open = true"),
    ];
    let problems = Folder::new().problems(&edits);
    let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(places, ["[node] name", "[nic] mtu", "[fabric]", "[limits] half_open"]);
}

#[test]
fn syntax_errors_have_their_lines() {
    let problems = Folder::new().parse("[node]\nname = \n[nic\n").unwrap_err();
    assert!(problems.list().iter().all(|problem| problem.what.starts_with("this is not TOML")));
    assert_eq!(problems.list()[0].line, Some(2));
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let folder = Folder::new();
    let text = EXAMPLE.replace("/etc/keyferry/", "").replace("/run/keyferry/", "run/");
    let config = folder.parse(&text).unwrap();
    assert_eq!(config.certificates[0].chain, folder.0.path().join("cert.pem"));
    assert_eq!(config.admin.socket, folder.0.path().join("run/a.ctl"));
}

#[test]
fn models_that_do_not_lend_never_lend() {
    let folder = Folder::new();
    let config = folder.parse(
        &EXAMPLE
            .replace("model = \"bf\"", "model = \"rr\"")
            .replace("decide = \"estimate\"", "decide = \"always\""),
    );
    assert_eq!(config.unwrap().lease.policy, Policy::Never);
}

#[test]
fn defaults_follow_the_name() {
    let folder = Folder::new();
    let text = LEAST
        .replace("name = \"a\"", "name = \"n7\"")
        .replace("/a.pem", "/n7.pem")
        .replace("/a.key", "/n7.key");
    let config = folder.parse(&text).unwrap();
    let listen = crate::links::Address::Unix("/run/keyferry/n7.sock".into());
    assert_eq!(config.cluster.unwrap().listen, [listen]);
    assert_eq!(config.admin.socket, Path::new("/run/keyferry/n7.ctl"));
}

#[test]
fn a_node_alone_needs_no_certificate_for_links() {
    let folder = Folder::new();
    let alone = &LEAST[..LEAST.find("[cluster]").unwrap()];
    assert_eq!(folder.parse(alone).unwrap().cluster, None);
    let problems =
        folder.parse(&format!("{alone}[[peer]]\nname = \"b\"\naddress = \"unix:b\"\n")).unwrap_err();
    let missing: Vec<_> = problems.list().iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(missing, ["[cluster] ca", "[cluster] certificate", "[cluster] key"]);
}

#[test]
fn a_shared_core_needs_threads_that_give_way() {
    let folder = Folder::new();
    let text = EXAMPLE.replace("control = 0", "control = 1").replace("apps = []", "apps = [1]");
    assert!(folder.parse(&text).is_err());
    let config = folder.parse(&text.replace("idle = \"spin\"", "idle = \"yield\"")).unwrap();
    assert_eq!(config.cores.apps, [Core(1)]);
}

#[test]
fn ipv4_alone_allows_a_smaller_mtu() {
    let folder = Folder::new();
    let text = EXAMPLE.replace(", \"2001:db8::10/64\"", "").replace("mtu = 1500", "mtu = 600");
    assert_eq!(folder.parse(&text).unwrap().nic.mtu, 600);
}

#[test]
fn a_missing_file_is_one_problem() {
    let error = Config::load(Path::new("/nonexistent/a.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/a.toml: the file cannot be read"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is written in place of a piece of the example: a configuration or sentences, never a panic.
    #[test]
    fn survives_anything(at in 0..EXAMPLE.len(), bytes in 0usize..60, with in "[a-z0-9\\[\\]{}=\"., \n#-]{0,24}") {
        let end = (at + bytes).min(EXAMPLE.len());
        prop_assume!(EXAMPLE.is_char_boundary(at) && EXAMPLE.is_char_boundary(end));
        let text = format!("{}{with}{}", &EXAMPLE[..at], &EXAMPLE[end..]);
        if let Err(problems) = parse(&text, Path::new("/nonexistent/a.toml"), &BTreeSet::from([0, 1]), &[]).0 {
            for problem in problems.list() {
                prop_assert!(problem.what.len() > 10);
            }
        }
    }

    /// A line taken away takes a key, so the rest is a configuration with that key's default, or says what is required.
    #[test]
    fn every_line_matters_only_to_its_key(line in 0..EXAMPLE.lines().count()) {
        let folder = Folder::new();
        let text: Vec<_> = EXAMPLE.lines().enumerate().filter(|(index, _)| *index != line).map(|(_, line)| line).collect();
        let removed = EXAMPLE.lines().nth(line).unwrap();
        match folder.parse(&text.join("\n")) {
            Ok(config) if !removed.starts_with('[') && !removed.starts_with("protocol") => {
                prop_assert_eq!(config, folder.parse(EXAMPLE).unwrap());
            }
            Ok(_) => {}
            Err(problems) if removed.contains("required") || removed.starts_with("port") => {
                prop_assert!(problems.to_string().contains("required"), "{}", problems);
            }
            Err(problems) => prop_assert!(removed.starts_with('['), "{}", problems),
        }
    }
}
