//! Every key that differs is named, and is in effect or waits for a restart: never both, never neither.

use toml::Value;

use super::super::changes::{Change, Changes};
use super::*;

/// Keys whose other values have to be written by hand, each with one.
const OTHERWISE: &[(&str, &str)] = &[
    ("node.model", "\"rr\""),
    ("cores.control", "3"),
    ("cores.workers", "[2]"),
    ("cores.apps", "[3]"),
    ("cores.idle", "\"yield\""),
    ("nic.device", "\"net_af_packet0,iface=kf1\""),
    ("nic.addresses", "[\"192.0.2.11/24\"]"),
    ("nic.service_addresses", "[\"203.0.113.1\"]"),
    ("nic.gateways", "[\"192.0.2.1\"]"),
    ("nic.routes", "[{ to = \"198.51.100.0/24\", via = \"192.0.2.7\" }]"),
    ("nic.hugepages", "\"never\""),
    ("nic.eal", "[]"),
    ("tls.versions", "[\"1.3\"]"),
    ("tls.resumption", "\"tickets\""),
    ("tls.max_fragment", "4096"),
    ("tls.key_log", "\"/etc/keyferry/keys.log\""),
    ("app.slots", "7"),
    ("lease.decide", "\"never\""),
    ("fabric.address", "\"10.0.0.2\""),
    ("cluster.ca", "\"/etc/keyferry/ca2.pem\""),
    ("cluster.certificate", "\"/etc/keyferry/a2.pem\""),
    ("cluster.key", "\"/etc/keyferry/a2.key\""),
    ("cluster.listen", "[\"unix:/run/keyferry/a2.sock\", \"unix:/run/keyferry/a.sock\"]"),
    ("cluster.distributors", "[\"d2\"]"),
    ("cluster.etcd.endpoints", "[\"https://127.0.0.1:2380\"]"),
    ("cluster.etcd.prefix", "\"/other\""),
    ("cluster.etcd.advertise", "[\"192.0.2.9:7411\"]"),
    ("cluster.etcd.ca", "\"/etc/keyferry/ca.pem\""),
    ("cluster.etcd.certificate", "\"/etc/keyferry/cert.pem\""),
    ("cluster.etcd.key", "\"/etc/keyferry/other.key\""),
    ("cluster.etcd.user", "\"other\""),
    ("cluster.etcd.password_file", "\"/etc/keyferry/other.password\""),
    ("tcp.receive_memory_mib", "64"),
    ("tcp.congestion", "\"bbr\""),
    ("admin.socket", "\"/run/keyferry/other.ctl\""),
    ("admin.metrics", "\"127.0.0.1:9465\""),
    ("admin.log", "\"debug\""),
    ("admin.log_format", "\"json\""),
    ("admin.user", "\"other\""),
    ("access_log.file", "\"/var/log/keyferry/other.log\""),
    ("access_log.sample", "0.5"),
    ("slow_log.file", "\"/var/log/keyferry/others.log\""),
];

/// Keys that other tests look at: tables, lists of tables, and what is not in effect beside the example's other keys.
const ELSEWHERE: &[&str] = &[
    "node",
    "node.name",
    "cores",
    "nic",
    "tls",
    "app",
    "lease",
    "fabric",
    "cluster",
    "cluster.etcd",
    "tcp",
    "limits",
    "admin",
    "access_log",
    "slow_log",
    "app.kind",
    "app.synthetic",
    "app.static",
    "listener",
    "certificate",
    "peer",
    "fabric.driver",
    "lease.threshold_us",
    "tcp.keep_alive_every_s",
    "tcp.keep_alive_probes",
];

fn folder() -> Folder {
    let folder = Folder::new();
    let copy = |from: &str, to: &str| {
        fs::copy(folder.0.path().join(from), folder.0.path().join(to)).unwrap();
    };
    copy("ca.pem", "ca2.pem");
    copy("a.pem", "a2.pem");
    copy("a.key", "a2.key");
    copy("etcd.password", "other.password");
    folder
}

/// The whole example, without peers.
fn example(folder: &Folder) -> Value {
    Value::Table(toml::from_str(&folder.text(&without_peer(&uncommented()))).unwrap())
}

/// The example with another value of one key; `None`: no value that is tried is valid.
fn otherwise(folder: &Folder, path: &str) -> Option<Config> {
    let with = |value: &dyn Fn(&Value) -> Value| {
        let mut edited = example(folder);
        let place = path.split('.').fold(&mut edited, |table, key| &mut table[key]);
        *place = value(place);
        folder.parse(&toml::to_string(&edited).unwrap()).ok()
    };
    if let Some((_, text)) = OTHERWISE.iter().find(|(key, _)| *key == path) {
        let written: toml::Table = format!("it = {}", folder.text(text)).parse().unwrap();
        return with(&|_| written["it"].clone());
    }
    let candidates: [&dyn Fn(&Value) -> Value; 3] = [
        &|value| value.as_bool().map_or(value.clone(), |flag| Value::Boolean(!flag)),
        &|value| value.as_integer().map_or(value.clone(), |number| Value::Integer(number + 1)),
        &|value| value.as_integer().map_or(value.clone(), |number| Value::Integer(number - 1)),
    ];
    let now = folder.parse(&toml::to_string(&example(folder)).unwrap()).unwrap();
    candidates.into_iter().filter_map(with).find(|config| *config != now)
}

fn change(table: &'static str, key: &str) -> Change {
    Change { table, key: key.to_owned() }
}

#[test]
fn every_key_that_differs_is_named() {
    let folder = folder();
    let now = folder.parse(&toml::to_string(&example(&folder)).unwrap()).unwrap();
    assert_eq!(now.taking_over(&now, true), (now.clone(), Changes::default()));
    let is_own = |path: &String| {
        let is_of_list = ["listener.", "certificate.", "peer.", "app.s", "app.u", "route", "upstream"]
            .iter()
            .any(|it| path.starts_with(it));
        path == "app.slots" || !is_of_list && !ELSEWHERE.contains(&path.as_str())
    };
    let mut seen = 0;
    for path in schema().into_iter().filter(is_own) {
        let new = otherwise(&folder, &path).unwrap_or_else(|| panic!("write another {path} into OTHERWISE"));
        let (next, changes) = now.taking_over(&new, true);
        let (table, key) = path.rsplit_once('.').unwrap();
        let (table, key) = (format!("[{table}]"), key.to_owned());
        let named: Vec<_> = changes.applied.iter().chain(&changes.needs_restart).collect();
        let is_it = |change: &&Change| change.table == table && change.key == key;
        assert!(named.iter().any(is_it), "{path}: {changes:?}");
        // What is in effect is the one or the other.
        let expected = if changes.applied.is_empty() { &now } else { &new };
        assert_eq!((&next, named.len()), (expected, 1), "{path}: {changes:?}");
        seen += 1;
    }
    assert!(seen >= 90, "{seen} keys");
}

#[test]
fn what_waits_for_a_restart_keeps_nothing_else() {
    let folder = folder();
    let now = folder.parse(EXAMPLE).unwrap();
    let edit = |from: &str, to: &str, text: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let text = edit("connections = 16384", "connections = 20000", EXAMPLE);
    let text = edit("headers = 64 ", "headers = 32 ", &text);
    let text = edit("idle_timeout_ms = 60000 ", "idle_timeout_ms = 90000 ", &text);
    let text = edit("decide = \"estimate\"", "decide = \"threshold\"", &text);
    let new = folder.parse(&text).unwrap();
    let (next, changes) = now.taking_over(&new, true);
    let applied = [("[lease]", "decide"), ("[limits]", "idle_timeout_ms"), ("[limits]", "headers")];
    assert_eq!(changes.applied, applied.map(|(table, key)| change(table, key)));
    assert_eq!(changes.needs_restart, [change("[limits]", "connections")]);
    assert_eq!((next.limits.headers, next.limits.connections), (32, 16_384));
    assert_eq!(next.limits.idle_timeout, Duration::from_secs(90));
    // What still differs is still named, and nothing else.
    let (again, changes) = next.taking_over(&new, true);
    assert_eq!((again, changes.applied), (next, Vec::new()));
    assert_eq!(changes.needs_restart, [change("[limits]", "connections")]);
}

#[test]
fn tables_of_one_kind_are_named_one_by_one() {
    let folder = folder();
    let now = folder.parse(EXAMPLE).unwrap();
    let taken = |text: &str| now.taking_over(&folder.parse(text).unwrap(), true);
    let more = "[[peer]]\nname = \"c\"\naddress = \"unix:/run/keyferry/c.sock\"\n";
    let (next, changes) = taken(&format!("{EXAMPLE}\n{more}"));
    assert_eq!(changes.applied, [change("[[peer]]", "c: added")]);
    assert_eq!(next.peers.len(), 2);
    let moved = EXAMPLE.replace("unix:/run/keyferry/b.sock", "unix:/run/keyferry/b2.sock");
    assert_eq!(taken(&moved).1.applied, [change("[[peer]]", "b: changed")]);
    let chain = folder.0.path().join("cert.pem").display().to_string();
    let twice = "[[certificate]]\nchain = \"/etc/keyferry/etcd.pem\"\nkey = \"/etc/keyferry/etcd.key\"\n";
    let (next, changes) = taken(&format!("{EXAMPLE}\n{twice}"));
    assert_eq!(changes.applied.len(), 1, "{changes:?}");
    assert!(changes.applied[0].key.ends_with("etcd.pem: added"));
    assert_eq!(
        next.taking_over(&now, true).1.applied[0].key,
        format!("{}: removed", next.certificates[1].chain.display())
    );
    assert_ne!(chain, next.certificates[1].chain.display().to_string());
    let port = EXAMPLE.replacen("port = 80\n", "port = 8080\n", 1);
    assert_eq!(
        taken(&port).1.needs_restart,
        [change("[[listener]]", "80: removed"), change("[[listener]]", "8080: added")]
    );
}

/// Whether there are links at all is decided at start, and who this node is as well.
#[test]
fn links_rest_on_what_is_in_effect() {
    let folder = folder();
    let now = folder.parse(EXAMPLE).unwrap();
    let alone = without_peer(EXAMPLE);
    let (next, changes) = now.taking_over(&folder.parse(&alone).unwrap(), true);
    assert_eq!(changes.needs_restart, [change("[cluster]", ""), change("[[peer]]", "b: removed")]);
    assert_eq!((changes.applied, &next), (Vec::new(), &now));
    let (_, changes) = folder.parse(&alone).unwrap().taking_over(&now, true);
    assert_eq!(changes.needs_restart, [change("[cluster]", ""), change("[[peer]]", "b: added")]);
    let renamed = EXAMPLE.replacen("name = \"a\"", "name = \"n7\"", 1).replace("keyferry/a.", "keyferry/n7.");
    let (next, changes) = now.taking_over(&folder.parse(&renamed).unwrap(), true);
    assert!(changes.applied.is_empty() && next == now, "{changes:?}");
    // More credits than the queue pairs of now have receives for.
    let wide = EXAMPLE.replace("credits = 16", "credits = 32");
    assert_eq!(
        now.taking_over(&folder.parse(&wide).unwrap(), true).1.applied,
        [change("[lease]", "credits")]
    );
    let narrow = EXAMPLE.replace("slots = 256 ", "slots = 20 ");
    let narrow = folder.parse(&narrow).unwrap();
    let (next, changes) = narrow.taking_over(&folder.parse(&wide).unwrap(), true);
    assert_eq!(changes.needs_restart, [change("[lease]", "credits"), change("[fabric]", "slots")]);
    assert_eq!(next.lease.credits, 16);
}

/// Routes and upstreams are taken over by their names, wherever they are in the file.
#[test]
fn what_answers_is_taken_over_together() {
    const UPSTREAM: &str = include_str!("../../../../docs/examples/upstream.toml");
    let folder = folder();
    let parse = |text: &str| folder.parse(text).unwrap();
    let edit = |from: &str, to: &str, text: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let now = parse(UPSTREAM);
    let taken = |text: &str| {
        let (next, changes) = now.taking_over(&parse(text), true);
        assert_eq!((next, changes.needs_restart), (parse(text), Vec::new()), "{text}");
        changes.applied
    };
    // Another upstream before the others, which have other places then: what names them is as it was.
    let new = "[[upstream]]\nname = \"new\"\nservers = [\"10.0.0.9:80\"]\n\n[[upstream]]\nname = \"app\"";
    let more = edit("[[upstream]]\nname = \"app\"", new, UPSTREAM);
    assert_eq!(taken(&more), [change("[[upstream]]", "new: added")]);
    let other = edit("app = \"api\"", "app = \"new\"", &more);
    let both = [change("[[route]]", "/api: changed"), change("[[upstream]]", "new: added")];
    assert_eq!(taken(&other), both);
    let host = edit("host = \"files.example.net\"", "host = \"f.example.net\"", UPSTREAM);
    let [gone, here] = ["files.example.net/public: removed", "f.example.net/public: added"];
    assert_eq!(taken(&host), [change("[[route]]", gone), change("[[route]]", here)]);
    let default = edit("upstream = \"app\"", "upstream = \"api\"", UPSTREAM);
    assert_eq!(taken(&default), [change("[app]", "upstream")]);
    let kind = edit("kind = \"upstream\"", "kind = \"static\"", UPSTREAM);
    assert_eq!(taken(&kind), [change("[app]", "kind")]);
    let servers = edit("unix:/run/api.sock", "unix:/run/other.sock", UPSTREAM);
    assert_eq!(taken(&servers), [change("[[upstream]]", "api: changed")]);
    let dots = edit("[app.static]\n", "[app.static]\ndotfiles = true\ncache_ms = 7\n", UPSTREAM);
    assert_eq!(taken(&dots), ["dotfiles", "cache_ms"].map(|key| change("[app.static]", key)));
    let cost = edit("[app.static]\n", "[app.synthetic]\nbytes = { fixed = 1 }\n[app.static]\n", UPSTREAM);
    assert_eq!(taken(&cost), [change("[app.synthetic]", "bytes")]);

    // Without anything that reaches upstreams a route to one waits, and all that goes with it.
    let alone = parse(EXAMPLE);
    let tables = &UPSTREAM[UPSTREAM.find("[[route]]\npath_prefix").unwrap()..];
    let with_one = edit("apps = []", "apps = [2]", &format!("{EXAMPLE}\n{tables}"));
    let (next, changes) = alone.taking_over(&parse(&with_one), false);
    let waits = [
        change("[cores]", "apps"),
        change("[[route]]", "/api: added"),
        change("[[upstream]]", "app: added"),
        change("[[upstream]]", "api: added"),
    ];
    assert_eq!(
        (next, changes),
        (alone.clone(), Changes { applied: Vec::new(), needs_restart: waits.to_vec() })
    );
    let (next, changes) =
        alone.taking_over(&parse(&edit("app = \"api\"", "app = \"synthetic\"", &with_one)), false);
    assert_eq!(changes.needs_restart, [change("[cores]", "apps")]);
    assert_eq!((changes.applied.len(), next.routes.len()), (3, 1));
}

/// The model decides whether anything is lent.
#[test]
fn another_model_is_another_policy() {
    let folder = folder();
    let now = folder.parse(EXAMPLE).unwrap();
    let (next, changes) =
        now.taking_over(&folder.parse(&EXAMPLE.replace("\"bf\" ", "\"rr\" ")).unwrap(), true);
    assert_eq!(changes.applied, [change("[node]", "model")]);
    assert_eq!((next.node.model, next.lease.policy), (Model::Rr, Policy::Never));
    let (back, _) = next.taking_over(&now, true);
    assert_eq!(back, now);
}
