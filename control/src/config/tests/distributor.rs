//! A distributor's file: its example, its keys, and what is wrong with those that are.

use keyferry_distribute::{Model, NodeId};

use super::super::changes::{Change, Changes};
use super::super::distributor::{Distributor, parse, read};
use super::*;

const EXAMPLE: &str = include_str!("../../../../docs/examples/distributor.toml");

/// The required keys of the example and nothing else.
const LEAST: &str = r#"
[distributor]
name = "d1"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
[[service]]
address = "203.0.113.1:443"
nodes = ["a", "b"]
[[service]]
address = "203.0.113.1:80"
model = "rr"
nodes = ["w"]
[[node]]
name = "a"
address = "192.0.2.10"
link = "192.0.2.10:7411"
[[node]]
name = "b"
address = "192.0.2.11"
link = "192.0.2.11:7411"
[[node]]
name = "w"
address = "192.0.2.80"
[cluster]
ca = "/etc/keyferry/ca.pem"
certificate = "/etc/keyferry/d1.pem"
key = "/etc/keyferry/d1.key"
[[peer]]
name = "d2"
address = "192.0.2.3:7411"
"#;

fn parsed(folder: &Folder, text: &str) -> Result<Distributor, Problems> {
    parse(&folder.text(text), &folder.0.path().join("d1.toml"), &BTreeSet::from([0, 1, 2, 3])).0
}

#[test]
fn the_example_is_complete_and_says_the_defaults() {
    let folder = Folder::new();
    let example = parsed(&folder, EXAMPLE).unwrap();
    assert_eq!(example, parsed(&folder, LEAST).unwrap());
    assert_eq!(example.services[0].nodes, [NodeId(0), NodeId(1)]);
    assert_eq!(example.services[1].model, Model::RoundRobin);
    let everyone = LEAST.replacen("nodes = [\"a\", \"b\"]", "", 1);
    assert_eq!(parsed(&folder, &everyone).unwrap().services[0].nodes.len(), 3);
    let context = Context::new(EXAMPLE, Path::new("d1.toml"));
    read(context.root().unwrap());
    for path in context.into_parts().1 {
        let key = path.rsplit('.').next().unwrap();
        // What a distributor has no use for is refused, not shown.
        let shown = match path.strip_prefix("cluster.etcd.") {
            Some(key) => format!("# {key} ="),
            None => format!("{key} ="),
        };
        let is_shown = [shown, format!("[{key}]"), format!("[{path}]")].iter().any(|it| EXAMPLE.contains(it));
        assert!(
            is_shown || ["apps", "service_addresses", "drain_timeout_ms"].contains(&key),
            "{path} is not shown"
        );
    }
}

const CASES: &[(&str, &str, &str, &str)] = &[
    ("name = \"d1\"", "name = \"d 1\"", "[distributor] name", "is no name"),
    ("flows = 1048576", "flows = 7", "[distributor] flows", "from 1024"),
    ("workers = [1]", "workers = [1, 2]", "[cores] workers", "one worker"),
    ("control = 0", "control = 0\napps = [2]", "[cores] apps", "runs no application"),
    (
        "gateways = []",
        "gateways = []\nservice_addresses = [\"203.0.113.1\"]",
        "[nic] service_addresses",
        "leave it out",
    ),
    ("203.0.113.1:443", "203.0.113.1", "[[service]] address", "no address and port"),
    ("203.0.113.1:80", "203.0.113.1:443", "[[service]] address", "another service's"),
    ("model = \"bf\"", "model = \"fb\"", "[[service]] model", "write one of"),
    ("nodes = [\"w\"]", "nodes = [\"x\"]", "[[service]] nodes", "no [[node]] called \"x\""),
    ("nodes = [\"w\"]", "nodes = []", "[[service]] nodes", "empty"),
    ("address = \"192.0.2.80\"", "address = \"192.0.3.80\"", "[[node]] address", "on no network"),
    ("address = \"192.0.2.80\"", "address = \"192.0.2.2\"", "[[node]] address", "distributor's own"),
    ("address = \"192.0.2.80\"", "address = \"192.0.2.11\"", "[[node]] address", "another node's"),
    ("name = \"w\"", "name = \"d2\"", "[[node]] name", "another one's name"),
    ("link = \"192.0.2.11:7411\"", "link = \"192.0.2.11\"", "[[node]] link", "no address"),
    ("weight = 1", "weight = 17", "[[node]] weight", "from 1 to 16"),
    ("/etc/keyferry/d1.pem", "/etc/keyferry/n7.pem", "[cluster] certificate", "not for d1"),
    ("name = \"d2\"", "name = \"d-\"", "[[peer]] name", "DNS name"),
    ("[admin]", "[admin]\ndrain_timeout_ms = 5", "[admin] drain_timeout_ms", "nothing to finish"),
    ("[admin]", "[tls]\n[admin]", "", "there is no key tls"),
];

#[test]
fn each_mistake_is_one_sentence_at_its_place() {
    let folder = Folder::new();
    for (from, to, place, what) in CASES {
        assert!(EXAMPLE.contains(from), "the example has no {from}");
        let mut text = EXAMPLE.replacen(from, to, 1);
        if *from == "name = \"w\"" {
            text = text.replacen("nodes = [\"w\"]", "nodes = [\"d2\"]", 1);
        }
        let problems = parsed(&folder, &text).unwrap_err();
        assert_eq!(problems.list().len(), 1, "{to}: {problems}");
        let problem = &problems.list()[0];
        assert_eq!(problem.place, *place, "{problems}");
        assert!(problem.what.contains(what) && problem.line.is_some(), "{problems}");
    }
}

/// The example with `[cluster.etcd]` as it is shown, in place of nodes with links and of the other distributor.
fn with_etcd() -> String {
    let text = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.starts_with("[cluster.etcd]") || ETCD.iter().any(|key| rest.starts_with(key)) => {
            rest
        }
        _ => line,
    });
    let text = text.collect::<Vec<_>>().join("\n").replace("http://", "https://");
    let mut tables: Vec<_> = text.split("\n[").map(ToOwned::to_owned).collect();
    tables.retain(|table| !table.starts_with("[peer]") && !table.contains("link = "));
    tables.join("\n[")
}

#[test]
fn nodes_come_from_etcd_or_from_the_file() {
    let folder = Folder::new();
    let read = parsed(&folder, &with_etcd()).unwrap();
    let etcd = read.etcd().unwrap();
    assert_eq!((etcd.nodes_max, etcd.prefix.as_str(), etcd.ttl), (64, "/keyferry", Duration::from_secs(10)));
    assert_eq!(etcd.advertise, read.cluster.as_ref().unwrap().listen);
    assert!(etcd.user.is_some() && etcd.tls.as_ref().unwrap().identity.is_some());
    // What the example shows is the default, where there is one.
    let least = LEAST[..LEAST.find("[[node]]").unwrap()].to_owned()
        + "[[node]]\nname = \"w\"\naddress = \"192.0.2.80\"\n"
        + &LEAST[LEAST.find("[cluster]").unwrap()..LEAST.find("[[peer]]").unwrap()]
        + "[cluster.etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\n";
    let least_read = parsed(&folder, &least).unwrap();
    let (endpoints, tls, user) = (etcd.endpoints.clone(), etcd.tls.clone(), etcd.user.clone());
    assert_eq!(*etcd, Etcd { endpoints, tls, user, ..least_read.etcd().unwrap().clone() });
    assert_eq!((read.nodes.len(), read.room()), (1, 1 + 2 * 64));
    let services = &read.services;
    assert!(services[0].has("a") && !services[0].has("c") && services[0].nodes.is_empty());
    let everyone = least.replacen("nodes = [\"a\", \"b\"]\n", "", 1);
    let everyone = &parsed(&folder, &everyone).unwrap().services[0];
    assert!(everyone.has("c") && everyone.nodes == [NodeId(0)]);
    // Nobody has to be there at the start.
    let nobody = least.replacen("[[node]]\nname = \"w\"\naddress = \"192.0.2.80\"\n", "", 1);
    assert_eq!(parsed(&folder, &nobody).unwrap().nodes, []);
}

#[test]
fn mistakes_with_etcd_are_named() {
    let folder = Folder::new();
    let linked = "[[node]]\nname = \"w\"\nlink = \"192.0.2.80:7411\"\n";
    let peer = "[[peer]]\nname = \"d2\"\naddress = \"192.0.2.3:7411\"\n[admin]";
    for (from, to, place, what) in [
        ("[[node]]\nname = \"w\"\n", linked, "[[node]] link", "remove [cluster.etcd], or this link"),
        ("[admin]", peer, "[cluster] etcd", "remove this table, or every [[peer]]"),
        ("nodes_max = 64", "nodes_max = 257", "[cluster.etcd] nodes_max", "from 1 to 256"),
        ("https://", "http://", "[cluster.etcd] ca", "have no TLS"),
        ("endpoints = ", "prefix2 = ", "[cluster.etcd] endpoints", "required"),
        ("ttl_s = 10", "ttl_s = 1", "[cluster.etcd] ttl_s", "from 2"),
        (
            "\"unix:/run/keyferry/d1.sock\"]  # where other distributors reach this one; w",
            "\"0.0.0.0:1\"] # w",
            "[cluster.etcd] advertise",
            "nobody reaches",
        ),
    ] {
        let text = with_etcd();
        assert!(text.contains(from), "the example has no {from}");
        let problems = parsed(&folder, &text.replacen(from, to, 1)).expect_err(to);
        let problem = problems.list().iter().find(|problem| problem.place == place);
        let problem = problem.unwrap_or_else(|| panic!("{to}: {problems}"));
        assert!(problem.what.contains(what) && problem.line.is_some(), "{problems}");
    }
}

#[test]
fn without_links_it_needs_no_certificate() {
    let folder = Folder::new();
    let text = LEAST[..LEAST.find("[cluster]").unwrap()].replace("link = ", "# ");
    let read = parsed(&folder, &text).unwrap();
    assert_eq!((read.cluster, read.nodes[0].link.as_ref()), (None, None));
    let missing = parsed(&folder, &LEAST[..LEAST.find("[cluster]").unwrap()]).unwrap_err();
    assert_eq!(missing.list()[0].place, "[cluster] ca");
    let nothing = parsed(&folder, &text[..text.find("[[service]]").unwrap()]).unwrap_err();
    assert!(nothing.to_string().contains("no [[service]]") && nothing.to_string().contains("no [[node]]"));
}

fn keys(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn nodes_come_and_go_while_it_runs() {
    let folder = Folder::new();
    let now = parsed(&folder, LEAST).unwrap();
    let taken = |text: &str| now.taking_over(&parsed(&folder, text).unwrap());
    let b = "name = \"b\"\naddress = \"192.0.2.11\"\nlink = \"192.0.2.11:7411\"\n";
    let c = b.replace("\"b\"", "\"c\"").replace("2.11", "2.12");
    let other = LEAST.replacen(b, &c, 1).replacen("[\"a\", \"b\"]", "[\"c\", \"a\"]", 1);
    let (next, changes) = taken(&other);
    let applied = ["[[node]] b: removed", "[[node]] c: added", "[[service]] 203.0.113.1:443: nodes"];
    assert_eq!(
        (keys(&changes.applied), changes.needs_restart),
        (applied.map(str::to_owned).to_vec(), vec![])
    );
    assert_eq!(next, parsed(&folder, &other).unwrap());
    // Whose order is another one is what it was.
    let [first, last] = [format!("[[node]]\n{b}"), "[cluster]".to_owned()];
    let turned = LEAST.replacen(&first, "", 1).replacen(&last, &format!("{first}{last}"), 1);
    let (next, changes) = taken(&turned);
    assert_eq!(changes, Changes::default());
    assert_eq!(next.services[0].nodes, [NodeId(0), NodeId(2)]);
    assert_eq!(next.nodes, parsed(&folder, &turned).unwrap().nodes);
}

#[test]
fn what_waits_of_nodes_is_named() {
    let folder = Folder::new();
    let now = parsed(&folder, LEAST).unwrap();
    let taken = |text: &str| now.taking_over(&parsed(&folder, text).unwrap());
    // Who stays serves what it did, and who comes what the file says.
    let c = "[[node]]\nname = \"c\"\naddress = \"192.0.2.12\"\n[cluster]";
    let text = LEAST.replacen("[cluster]", c, 1).replacen("[\"w\"]", "[\"w\", \"c\"]", 1);
    let (next, changes) = taken(&text.replacen("[\"a\", \"b\"]", "[\"a\", \"c\"]", 1));
    assert_eq!(keys(&changes.applied), ["[[node]] c: added", "[[service]] 203.0.113.1:80: nodes"]);
    assert_eq!(keys(&changes.needs_restart), ["[[service]] 203.0.113.1:443: nodes"]);
    assert_eq!(next.services[0].nodes, [0, 1, 3].map(NodeId));
    assert_eq!(next.services[1].nodes, [2, 3].map(NodeId));
    // One that is elsewhere.
    let moved = LEAST.replace("192.0.2.11", "192.0.2.12").replacen("2.80\"", "2.80\"\nweight = 3", 1);
    let (next, changes) = taken(&moved);
    assert_eq!(keys(&changes.applied), ["[[node]] w: weight"]);
    assert_eq!(keys(&changes.needs_restart), ["[[node]] b: address", "[[node]] b: link"]);
    assert_eq!((next.nodes[1].clone(), next.nodes[2].weight), (now.nodes[1].clone(), 3));
    // Lists are the file's or etcd's for as long as it runs, and links are made where there were some.
    let (next, changes) = taken(&with_etcd());
    assert!(keys(&changes.needs_restart).contains(&"[[node]] a: removed".to_owned()), "{changes:?}");
    assert_eq!(next.nodes, now.nodes);
    let etcd = parsed(&folder, &with_etcd()).unwrap();
    let changes = etcd.taking_over(&parsed(&folder, &with_etcd().replacen("[cluster]", c, 1)).unwrap()).1;
    assert_eq!(
        (changes.applied, keys(&changes.needs_restart)),
        (vec![], vec!["[[node]] c: added".to_owned()])
    );
    let alone = parsed(&folder, &LEAST[..LEAST.find("[cluster]").unwrap()].replace("link = ", "# ")).unwrap();
    let changes = alone.taking_over(&parsed(&folder, &LEAST.replace("\"b\"", "\"e\"")).unwrap()).1;
    assert_eq!(keys(&changes.applied)[0], "[[node]] b: removed");
    assert!(keys(&changes.needs_restart).contains(&"[[node]] e: added".to_owned()), "{changes:?}");
}

#[test]
fn an_operator_finds_its_socket() {
    let folder = Folder::new();
    folder.write("d1.toml", b"[distributor]\nname = \"d7\"\n", 0o644);
    let socket = Config::admin_socket(&folder.0.path().join("d1.toml")).unwrap();
    assert_eq!(socket, Path::new("/run/keyferry/d7.ctl"));
}
