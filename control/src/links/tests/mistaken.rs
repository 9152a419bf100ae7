//! Peers that are reached and are not whom the configuration has there: what each end says of it, which the operator reads
//! in the log and in `ctl peers`.

use std::os::unix::fs::PermissionsExt;

use rcgen::SanType;

use super::strangers::certificate;
use super::*;

/// What a node `a`, whose configuration has a node `b` at this socket, says of who is there.
async fn said_by_a(folder: &Folder, socket: &Address) -> String {
    let a = folder.end("a", 1);
    let tally = a.local.tally.clone();
    let peer = Peer { name: "b".to_owned(), address: socket.clone() };
    let others = Others::of_node("a", &[peer], &[]);
    let links = Links::new(a.local, a.trust, &[], others).unwrap().start();
    let said = loop {
        let row = tally.roster().rows(&[]).into_iter().next();
        match row.and_then(|row| row.problem) {
            Some(said) => break said,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    links.end().await;
    said
}

#[test]
fn a_distributor_where_a_node_should_be() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("b.sock"));
        let news = Arc::new(ArrayQueue::new(16));
        let nodes = Rc::new(Nodes::new([], 0, 0, Arc::clone(&news)));
        let companions = Rc::new(Companions::new(Vec::new(), news, Arc::default()));
        let duty = Duty::Distributor(Front { nodes, companions });
        let others = Others::of_distributor("b", Vec::new(), &[]);
        let b = folder.end("b", 1);
        let there = Links::new(local("b", duty), b.trust, std::slice::from_ref(&socket), others);
        let there = there.unwrap().start();
        let said = said_by_a(&folder, &socket).await;
        assert_eq!(said, "it is a distributor, and this configuration has it as a node: check both");
        there.end().await;
    });
}

/// Its certificate is for the name it is called by here as well: only what it says of itself tells it apart.
#[test]
fn a_node_of_another_name() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("c.sock"));
        let both = ["b", "c"].map(|name| SanType::DnsName(name.try_into().unwrap()));
        let (chain, key) = certificate(&folder, |params| params.subject_alt_names = both.to_vec());
        for (name, bytes) in [("c.pem", chain), ("c.key", key)] {
            std::fs::write(folder.file(name), bytes).unwrap();
            std::fs::set_permissions(folder.file(name), PermissionsExt::from_mode(0o600)).unwrap();
        }
        let c = folder.end("c", 1);
        let others = Others::of_node("c", &[Peer { name: "a".to_owned(), address: socket.clone() }], &[]);
        let there = Links::new(c.local, c.trust, std::slice::from_ref(&socket), others).unwrap().start();
        let said = said_by_a(&folder, &socket).await;
        assert_eq!(said, "it calls itself `c`, this node's [[peer]] is `b`: check both configurations");
        there.end().await;
    });
}

/// The end that is connected to finds the same out, and counts it.
#[test]
fn a_node_where_a_distributor_should_be() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("b.sock"));
        let b = folder.end("b", 1);
        let registry = Registry::new();
        let local = Local { tally: Tally::new(&registry), ..b.local };
        let others = Others::of_node("b", &[], &["a".to_owned()]);
        let there = Links::new(local, b.trust, std::slice::from_ref(&socket), others).unwrap().start();
        let said = said_by_a(&folder, &socket).await;
        assert!(said.starts_with("it refused this end: by name, role or certificate"), "{said}");
        while registry.total("links_failed") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(["links_up", "links_made", "links_lost"].map(|name| registry.total(name)), [0; 3]);
        there.end().await;
    });
}

/// No file can have such limits, but an end of another make may say them.
#[test]
fn limits_of_no_use() {
    run(async {
        let Message::Hello(honest) = hello() else { panic!("it is a hello") };
        let limits = Limits { receives: 0, ..LIMITS };
        let messages = [Message::Hello(message::Hello { limits, ..honest })];
        let said = against_b(async |stream| say(stream, &messages, None).await).await.to_string();
        assert_eq!(said, "agreed limits: receives is 0, must be 1 to 32768: check [fabric] of both");
    });
}

#[test]
fn each_farewell_says_why() {
    for (reason, sentence) in [
        (Reason::Leaving, "it is ending, or has this node no longer among its peers"),
        (Reason::NotPeer, "it refused this end: by name, role or certificate"),
        (Reason::Driver, "it refused this node's [fabric] driver, or an address that does not suit it"),
        (Reason::Limits, "it refused the limits: check [fabric] of both"),
        (Reason::Protocol, "it refused a message of this node: run the same release on both"),
        (Reason::Silent, "it waited too long for this node"),
        (Reason::Failed, "a queue pair failed there"),
        (Reason::Unable, "it cannot have the queue pairs: its log says why"),
        (Reason::Down, "its port of the fabric is down"),
    ] {
        let said = LinkError::Bye(reason).to_string();
        assert!(said.starts_with(sentence), "{said}");
    }
}
