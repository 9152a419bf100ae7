//! Two ends in one process, over real sockets: what they agree on, and ends that do not keep to it.

mod mistaken;
mod strangers;

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{NodeId, Services, State};
use keyferry_fabric::{Limits, QueuePair, shm};
use keyferry_lease::{Channel, Message as LeaseMessage};
use keyferry_tls::{CertificatePem, Resumer, Resumption, Server, ServerOptions};
use keyferry_worker::announce::Announced;
use keyferry_worker::distribute::News;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use super::life::{self, Greeted};
use super::message::{Message, Offer, Reason, Role};
use super::socket::{Address, Socket};
use super::stream::Stream;
use super::*;
use crate::ca;
use crate::counters::Registry;
use crate::drain::Phase;
use crate::request_log::Names;

const LIMITS: Limits =
    Limits { message_bytes_max: 512, receives: 32, posted_max: 64, slots_bytes: 4096, staging_bytes: 4096 };

/// A folder with certificates for the nodes "a" and "b" and the distributors "d" and "e".
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        ca::init(folder.0.path(), 1).unwrap();
        ca::node(folder.0.path(), &["a".into(), "b".into(), "d".into(), "e".into()], 1).unwrap();
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// One end: the node's own part and its certificates.
    fn end(&self, node: &str, workers: usize) -> End {
        let file = |ending: &str| self.file(&format!("{node}.{ending}"));
        let trust = Trust::load(&self.file("ca.pem"), &file("pem"), &file("key"), node).unwrap();
        let mailboxes = (0..workers).map(|_| Arc::new(ArrayQueue::new(MAIL_MAX))).collect();
        let (phase, watched) = watch::channel(Phase::Serving);
        let announced = vec![Arc::new(ArrayQueue::new(16))];
        let announcer = Rc::new(Announcer::new(announced, Arc::new(Registry::new()), watched));
        let duty = Node {
            driver: Driver::Shm,
            address: None,
            limits: LIMITS,
            mailboxes,
            between: |queue_pair| queue_pair,
            tickets: None,
            announcer,
            names: Names::default(),
        };
        let local = local(node, Duty::Node(Box::new(duty)));
        End { local, trust, phase }
    }
}

fn local(name: &str, duty: Duty) -> Local {
    Local {
        node: name.to_owned(),
        incarnation: 7,
        heartbeat_timeout: Cell::new(Duration::from_millis(400)),
        tally: Tally::new(&Registry::new()),
        duty,
    }
}

struct End {
    local: Local,
    trust: Trust,
    phase: watch::Sender<Phase>,
}

impl End {
    /// What it has as a node.
    fn node(&self) -> &Node {
        match &self.local.duty {
            Duty::Node(node) => node,
            Duty::Distributor(_) => panic!("this end is a node"),
        }
    }

    fn stream(&self, socket: Socket) -> Stream {
        let tls = match self.local.node.as_str() {
            "a" => self.trust.connect(&trust::dns_name("b").unwrap()).unwrap(),
            _ => self.trust.accept().unwrap(),
        };
        Stream::new(socket, tls)
    }

    async fn greet(&self, socket: Socket) -> Result<Greeted, LinkError> {
        life::greet(&self.local, self.stream(socket)).await
    }

    /// The queue pairs and channels its workers have got, by worker.
    fn mail(&self) -> Vec<Vec<(Box<dyn QueuePair>, Channel)>> {
        let open = |mail| match mail {
            Mail::Peer(connect) => (connect.queue_pair, connect.channel),
            _ => panic!("nobody says anything else"),
        };
        let read = |mailbox: &Arc<ArrayQueue<Mail>>| std::iter::from_fn(|| mailbox.pop()).map(open).collect();
        self.node().mailboxes.iter().map(read).collect()
    }

    async fn has_mail(&self) {
        while self.node().mailboxes.iter().any(|mailbox| mailbox.is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn sockets() -> (Socket, Socket) {
    let (a, b) = UnixStream::pair().unwrap();
    (Socket::Unix(a), Socket::Unix(b))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// One life of a link between `a` and `b`, until `during` is over; then why each end ended.
async fn life<T>(a: &Rc<End>, b: &Rc<End>, during: impl AsyncFnOnce() -> T) -> (T, [(bool, LinkError); 2]) {
    let (ours, theirs) = sockets();
    let (stop, stopping) = watch::channel(false);
    let [one, other] = [(a, ours), (b, theirs)].map(|(end, socket)| {
        let (end, stopping) = (Rc::clone(end), stopping.clone());
        spawn_local(async move {
            let greeted = end.greet(socket).await.unwrap();
            greeted.live(&end.local, trusting(&end.trust), stopping).await
        })
    });
    let result = during().await;
    stop.send(true).unwrap();
    (result, [one.await.unwrap(), other.await.unwrap()])
}

/// Whether what one channel seals the other opens.
fn fits(one: &mut Channel, other: &mut Channel) -> bool {
    let mut wire = [0; 64];
    let len = one.seal(&LeaseMessage::Credit, &mut wire).unwrap();
    other.open(&mut wire[..len]).is_ok()
}

#[test]
fn workers_are_paired_in_turn_with_keys_of_their_own() {
    run(async {
        let folder = Folder::new();
        let (a, b) = (Rc::new(folder.end("a", 2)), Rc::new(folder.end("b", 3)));
        let (mut mail, ends) = life(&a, &b, async || {
            a.has_mail().await;
            b.has_mail().await;
            // Far longer than the time-out: heartbeats keep it up.
            tokio::time::sleep(3 * a.local.heartbeat_timeout.get()).await;
            [a.mail(), b.mail()]
        })
        .await;
        assert!(ends.iter().all(|(lived, _)| *lived), "{ends:?}");
        assert!(ends.iter().any(|(_, error)| error.to_string() == "this node ends"), "{ends:?}");
        let counts = mail.each_ref().map(|mail| mail.iter().map(Vec::len).collect::<Vec<_>>());
        assert_eq!(counts, [vec![2, 1], vec![1, 1, 1]], "pair k joins k % 2 with k % 3");
        let [at_a, at_b] = &mut mail;
        let (one, other) = (&mut at_a[0][1].1, &mut at_b[2][0].1);
        assert!(fits(one, other) && fits(other, one), "pair 2 joins worker 0 and worker 2");
        assert!(!fits(&mut at_a[0][0].1, &mut at_b[1][0].1), "another pair's keys are others");
        // The end of the link has fenced all of them.
        assert!(at_a.iter().flatten().all(|(pair, _)| pair.state() == keyferry_fabric::State::Error));
    });
}

/// A trust that does not change.
fn trusting(trust: &Trust) -> watch::Receiver<Trust> {
    watch::channel(trust.clone()).1
}

/// A server that makes tickets.
fn tickets(folder: &Folder) -> Option<Resumer> {
    let read = |name: &str| std::fs::read(folder.file(name)).unwrap();
    let options = ServerOptions {
        certificates: vec![CertificatePem {
            source: "test".into(),
            chain: read("a.pem"),
            key: zeroize::Zeroizing::new(read("a.key")),
        }],
        tls12: true,
        tls13: true,
        resumption: Resumption::Tickets { lifetime: Duration::from_secs(3600) },
        suites: None,
        fragment: keyferry_tls::Fragment::MAX,
        key_log: None,
    };
    Some(Server::new(&options).unwrap().resumer())
}

/// Each tells the other what it knows, and nothing back; an end that makes no tickets minds no key.
#[test]
fn ticket_keys_are_told_once() {
    run(async {
        let folder = Folder::new();
        let mut ends = ["a", "b"].map(|node| folder.end(node, 1));
        for end in &mut ends {
            if let Duty::Node(node) = &mut end.local.duty {
                node.tickets = tickets(&folder);
            }
        }
        let [a, b] = ends.map(Rc::new);
        let keys = |end: &End| end.local.tickets().unwrap().ticket_keys().len();
        let ((), ends) = life(&a, &b, async || {
            while keys(&a) < 2 || keys(&b) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert!(ends.iter().all(|(lived, _)| *lived), "{ends:?}");
        let counts = |end: &End| end.local.tickets().unwrap().ticket_counts();
        assert_eq!([counts(&a).keys_taken, counts(&b).keys_taken], [1, 1]);

        let none = Rc::new(folder.end("b", 1));
        let ((), ends) = life(&a, &none, async || {
            none.has_mail().await;
            tokio::time::sleep(3 * a.local.heartbeat_timeout.get()).await;
        })
        .await;
        assert!(ends.iter().all(|(lived, _)| *lived), "{ends:?}");
    });
}

#[test]
fn each_life_has_keys_of_its_own() {
    run(async {
        let folder = Folder::new();
        let (a, b) = (Rc::new(folder.end("a", 1)), Rc::new(folder.end("b", 1)));
        let mut lives = Vec::new();
        for _ in 0..2 {
            let (mail, _) = life(&a, &b, async || {
                a.has_mail().await;
                b.has_mail().await;
                [a.mail(), b.mail()].map(|mut mail| mail[0].remove(0).1)
            })
            .await;
            lives.push(mail);
        }
        let [[a1, b1], [a2, b2]] = &mut lives[..] else { panic!("two lives") };
        assert!(!fits(a1, b2), "what was sealed in one life opens in no other");
        assert!(!fits(a2, b1), "what was sealed in one life opens in no other");
    });
}

/// An end that greets as `a` and then does as it likes, against a real `b`. What ended b's link.
async fn against_b(rest: impl AsyncFnOnce(&mut Stream)) -> LinkError {
    let folder = Folder::new();
    let (a, b) = (folder.end("a", 1), Rc::new(folder.end("b", 1)));
    let (ours, theirs) = sockets();
    let (_stop, stopping) = watch::channel(false);
    let there = spawn_local(async move {
        match b.greet(theirs).await {
            Ok(greeted) => greeted.live(&b.local, trusting(&b.trust), stopping).await.1,
            Err(error) => error,
        }
    });
    let mut stream = a.stream(ours);
    stream.handshake().await.unwrap();
    rest(&mut stream).await;
    there.await.unwrap()
}

async fn say(stream: &mut Stream, messages: &[Message], descriptor: Option<&OwnedFd>) {
    let mut wire = Vec::new();
    messages.iter().for_each(|message| message.encode(&mut wire));
    // The other end may have hung up at an earlier one.
    let _ = stream.send(&wire, descriptor).await;
}

/// Says hello as an honest end does: its offers follow when the other's hello is here.
async fn greet(stream: &mut Stream) {
    stream.expect_descriptors();
    say(stream, &[hello()], None).await;
    stream.receive().await.unwrap();
}

fn hello() -> Message {
    Message::Hello(message::Hello {
        role: Role::Node,
        node: "a".into(),
        incarnation: 1,
        random: [1; 32],
        workers: 1,
        driver: Driver::Shm,
        limits: LIMITS,
    })
}

fn offer(index: u16, with_descriptor: bool, bytes: Vec<u8>) -> Message {
    Message::Offer(Offer { index, with_descriptor, bytes })
}

#[test]
fn messages_out_of_turn_end_the_link() {
    run(async {
        for messages in [
            vec![hello(), hello()],
            vec![hello(), Message::Heartbeat],
            vec![hello(), Message::Connected],
            vec![hello(), offer(1, true, Vec::new())],
            vec![hello(), offer(0, false, Vec::new())],
        ] {
            let error = against_b(async |stream| say(stream, &messages, None).await).await;
            assert!(matches!(error, LinkError::Order | LinkError::Wire(_)), "{messages:?}: {error}");
        }
        let error =
            against_b(async |stream| say(stream, &[hello(), Message::Bye(Reason::NotPeer)], None).await);
        assert!(matches!(error.await, LinkError::Bye(Reason::NotPeer)));
    });
}

#[test]
fn descriptors_are_those_announced() {
    run(async {
        let memory = || shm::prepare(LIMITS).unwrap().1;
        // One that was announced and does not come, one with a hello besides its own, one with bytes that shm has none of.
        let error = against_b(async |stream| say(stream, &[hello(), offer(0, true, Vec::new())], None).await);
        assert!(matches!(error.await, LinkError::Stream(StreamError::Descriptor)));
        let error = against_b(async |stream| {
            say(stream, &[hello()], Some(&memory())).await;
            say(stream, &[offer(0, true, Vec::new())], Some(&memory())).await;
        });
        let error = error.await;
        assert!(matches!(error, LinkError::Stream(StreamError::Descriptor)), "{error}");
        let error = against_b(async |stream| {
            greet(stream).await;
            say(stream, &[offer(0, true, vec![1])], Some(&memory())).await;
        });
        let error = error.await;
        assert!(matches!(error, LinkError::Order), "{error}");
        // Any other file is no memory.
        let error = against_b(async |stream| {
            greet(stream).await;
            let file = std::fs::File::open("/dev/null").unwrap();
            say(stream, &[offer(0, true, Vec::new())], Some(&file.into())).await;
        });
        let error = error.await;
        assert!(matches!(error, LinkError::Shm(_)), "{error}");
    });
}

/// Connects as it should, then falls silent, or says far too much.
#[test]
fn a_worker_that_does_not_read_its_mailbox_ends_the_link() {
    run(async {
        let folder = Folder::new();
        let (a, b) = (Rc::new(folder.end("a", 1)), Rc::new(folder.end("b", 1)));
        while a.node().mailboxes[0].push(Mail::Members(Box::new([]))).is_ok() {}
        let (ours, theirs) = sockets();
        let (_stop, stopping) = watch::channel(false);
        let [one, other] = [(a, ours), (b, theirs)].map(|(end, socket)| {
            let stopping = stopping.clone();
            spawn_local(async move {
                let greeted = end.greet(socket).await.unwrap();
                greeted.live(&end.local, trusting(&end.trust), stopping).await.1
            })
        });
        assert_eq!(one.await.unwrap().to_string(), "worker 0 does not read its mailbox");
        let error = other.await.unwrap();
        assert!(matches!(error, LinkError::Bye(Reason::Unable)), "{error}");
    });
}

#[test]
fn silence_and_chatter_end_the_link() {
    run(async {
        let connect = async |stream: &mut Stream| {
            let (_endpoint, memory) = shm::prepare(LIMITS).unwrap();
            greet(stream).await;
            say(stream, &[offer(0, true, Vec::new())], Some(&memory)).await;
            say(stream, &[Message::Connected], None).await;
        };
        let error = against_b(async |stream| {
            connect(stream).await;
            while stream.receive().await.is_ok() {}
        });
        let error = error.await;
        assert!(matches!(error, LinkError::Silent(_)), "{error}");
        let error = against_b(async |stream| {
            connect(stream).await;
            for _ in 0..20 {
                say(stream, &vec![Message::Heartbeat; 100], None).await;
            }
        });
        let error = error.await;
        assert!(matches!(error, LinkError::Order), "{error}");
    });
}

#[test]
fn over_tcp_it_is_the_same_but_memory_cannot_be_passed() {
    run(async {
        let folder = Folder::new();
        let (a, b) = (folder.end("a", 1), folder.end("b", 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (ours, theirs) = tokio::join!(Socket::connect(&address), listener.accept());
        let (ours, theirs) = (ours.unwrap(), Socket::Tcp(theirs.unwrap().0));
        let (ours, theirs) = tokio::join!(a.greet(ours), b.greet(theirs));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!((ours.peer().node.as_str(), theirs.peer().node.as_str()), ("b", "a"));
        assert!(trust::is_for(theirs.tls(), &trust::dns_name("a").unwrap()));
        assert!(!trust::is_for(theirs.tls(), &trust::dns_name("b").unwrap()));
        let (_stop, stopping) = watch::channel(false);
        let ends = tokio::join!(
            ours.live(&a.local, trusting(&a.trust), stopping.clone()),
            theirs.live(&b.local, trusting(&b.trust), stopping)
        );
        assert!(
            matches!(ends.0, (false, LinkError::NotLocal)) && matches!(ends.1, (false, LinkError::NotLocal))
        );
    });
}

/// Connections that say nothing do not keep a peer out.
#[test]
fn strangers_are_few_and_the_oldest_goes() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("b.sock"));
        let (a, b) = (folder.end("a", 1), folder.end("b", 1));
        let peer = |name: &str, address| Peer { name: name.to_owned(), address };
        let nowhere = Address::Unix(folder.file("a.sock"));
        let mailboxes = b.node().mailboxes.clone();
        let there = Links::new(
            b.local,
            b.trust,
            std::slice::from_ref(&socket),
            Others::of_node("b", &[peer("a", nowhere)], &[]),
        )
        .unwrap()
        .start();
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(Socket::connect(&socket).await.unwrap());
            tokio::task::yield_now().await;
        }
        let here = Links::new(a.local, a.trust, &[], Others::of_node("a", &[peer("b", socket)], &[]))
            .unwrap()
            .start();
        while mailboxes[0].is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        here.end().await;
        there.end().await;
    });
}

/// What a node tells of itself reaches the distributor's worker, which learns as well when the node is gone.
#[test]
fn a_distributor_hears_of_nodes() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("b.sock"));
        let b = folder.end("b", 1);
        let announcer = Rc::clone(&b.node().announcer);
        let start = |b: End| {
            let others = Others::of_node("b", &[], &["d".to_owned()]);
            let links = Links::new(b.local, b.trust, std::slice::from_ref(&socket), others);
            (links.unwrap().start(), b.phase)
        };
        let (there, phase) = start(b);
        let news = Arc::new(ArrayQueue::new(16));
        let (address, services) = (std::net::IpAddr::from([192, 0, 2, 1]), Services::default());
        let placed = Placed { name: "b".to_owned(), address, weight: 1, services };
        let nodes = Rc::new(Nodes::new([(placed, State::Down)], 1, 1, Arc::clone(&news)));
        let (certificate, key) = (folder.file("d.pem"), folder.file("d.key"));
        let trust = Trust::load(&folder.file("ca.pem"), &certificate, &key, "d").unwrap();
        let peer = Peer { name: "b".to_owned(), address: socket.clone() };
        let others = Others::of_distributor("d", vec![peer], &[]);
        let companions = Rc::new(Companions::new(Vec::new(), Arc::clone(&news), Arc::default()));
        let duty = Duty::Distributor(Front { nodes, companions });
        let here = Links::new(local("d", duty), trust, &[], others).unwrap().start();
        let next = async || loop {
            match news.pop() {
                Some(news) => return news,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let fares = async || match next().await {
            News::State(NodeId(0), state) => state,
            _ => panic!("how it fares"),
        };
        assert_eq!(fares().await, State::Up);
        let client = std::net::IpAddr::from([198, 51, 100, 7]);
        announcer.tell(Announced { client, lifetime: Duration::from_millis(60_900) });
        let News::Session { client: of, node: NodeId(0), lifetime } = next().await else {
            panic!("a session")
        };
        assert_eq!((of, lifetime), (client, Duration::from_secs(60)));
        phase.send(Phase::Draining).unwrap();
        assert_eq!(fares().await, State::Draining);
        there.end().await;
        assert_eq!(fares().await, State::Down);
        let (there, _phase) = start(folder.end("b", 1));
        assert_eq!(fares().await, State::Up);
        here.end().await;
        there.end().await;
    });
}

/// Two distributors give each other's workers what they need to speak, for as long as their link lives.
#[test]
fn distributors_meet_and_part() {
    run(async {
        let folder = Folder::new();
        let sockets = ["d", "e"].map(|name| Address::Unix(folder.file(&format!("{name}.sock"))));
        let start = |at: usize| {
            let (own, other) = [("d", "e"), ("e", "d")][at];
            let news = Arc::new(ArrayQueue::new(16));
            let nodes = Rc::new(Nodes::new([], 0, 0, Arc::clone(&news)));
            let addresses = vec![format!("10.0.0.{}/24", at + 1).parse().unwrap()];
            let companions = Rc::new(Companions::new(addresses, Arc::clone(&news), Arc::default()));
            let file = |ending| folder.file(&format!("{own}.{ending}"));
            let trust = Trust::load(&folder.file("ca.pem"), &file("pem"), &file("key"), own).unwrap();
            let peer = Peer { name: other.to_owned(), address: sockets[1 - at].clone() };
            let others = Others::of_distributor(own, Vec::new(), &[peer]);
            let duty = Duty::Distributor(Front { nodes, companions });
            let links = Links::new(local(own, duty), trust, std::slice::from_ref(&sockets[at]), others);
            (links.unwrap().start(), news)
        };
        let next = async |news: &ArrayQueue<News>| loop {
            match news.pop() {
                Some(news) => return news,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let ((there, e), (here, d)) = (start(1), start(0));
        let met = async |news: &ArrayQueue<News>| match next(news).await {
            News::Met { peer, ends, secrets } => (peer, ends, secrets),
            _ => panic!("it meets another"),
        };
        let ((_, at_d, ours), (_, at_e, theirs)) = (met(&d).await, met(&e).await);
        assert_eq!((at_d.own, at_d.peer), (at_e.peer, at_e.own));
        // What one of them seals the other one opens.
        let talk = |ends, secrets| {
            let config = keyferry_distribute::Config {
                flows: 16,
                clients: 16,
                idle_time: Duration::from_secs(9),
                client_time: Duration::from_secs(9),
                seed: 1,
                places_seed: 1,
            };
            let mut it = keyferry_distribute::Distributor::new(config, Vec::new(), Vec::new());
            it.add_peer(keyferry_distribute::PeerId(0), ends, secrets);
            it
        };
        let (mut one, mut other) = (talk(at_d, ours), talk(at_e, theirs));
        let (now, mut packet) = (Default::default(), [0; keyferry_distribute::PACKET_BYTES_MAX]);
        while one.keep_together(now) {}
        let len = one.poll_peers(now, &mut packet).expect("it has told all it knows");
        other.hear(now, &mut packet[28..len]);
        assert_eq!((other.peers(), other.counters().drop_forged), ((1, 1), 0));
        there.end().await;
        assert!(matches!(next(&d).await, News::Parted(_)));
        here.end().await;
    });
}

/// Names alone make nobody a peer: what it is has to fit as well.
#[test]
fn roles_are_checked() {
    run(async {
        let folder = Folder::new();
        let socket = Address::Unix(folder.file("b.sock"));
        let b = folder.end("b", 1);
        let others = Others::of_node("b", &[], &["a".to_owned()]);
        let there = Links::new(b.local, b.trust, std::slice::from_ref(&socket), others).unwrap().start();
        let a = folder.end("a", 1);
        let stream = a.stream(Socket::connect(&socket).await.unwrap());
        let greeted = life::greet(&a.local, stream).await.unwrap();
        let (_stop, stopping) = watch::channel(false);
        let (lived, error) = greeted.live(&a.local, trusting(&a.trust), stopping).await;
        assert!(!lived && matches!(error, LinkError::Bye(Reason::NotPeer)), "{error}");
        there.end().await;
    });
}

/// The next queue pair a worker gets.
async fn next_pair(mailbox: &ArrayQueue<Mail>) -> Box<dyn QueuePair> {
    loop {
        match mailbox.pop() {
            Some(Mail::Peer(connect)) => return connect.queue_pair,
            Some(_) => panic!("nobody says anything else"),
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn is_fenced(pair: &dyn QueuePair) {
    while pair.state() == keyferry_fabric::State::Ready {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Peers come, go, come back and move; who stays keeps its link all the while.
#[test]
fn peers_come_and_go() {
    run(async {
        let folder = Folder::new();
        ca::node(folder.0.path(), &["c".into()], 1).unwrap();
        let socket = |name: &str| Address::Unix(folder.file(name));
        let peer = |name: &str, address| Peer { name: name.to_owned(), address };
        let start = |name: &str, listen: &[Address], peers: &[Peer]| {
            let end = folder.end(name, 1);
            let mailbox = Arc::clone(&end.node().mailboxes[0]);
            let others = Others::of_node(name, peers, &[]);
            (Links::new(end.local, end.trust, listen, others).unwrap().start(), mailbox)
        };
        let (a, c) = (peer("a", socket("nowhere")), peer("c", socket("c.sock")));
        let (at_a, mail_a) = start("a", &[], &[]);
        let both = [socket("b.sock"), socket("b2.sock")];
        let (at_b, mail_b) = start("b", &both, std::slice::from_ref(&c));
        let (at_c, mail_c) = start("c", &[socket("c.sock")], &[peer("b", socket("b.sock"))]);
        let (kept, _kept) = (next_pair(&mail_b).await, next_pair(&mail_c).await);

        // One end alone knows the other: no link. Then both do.
        at_a.set_others(Others::of_node("a", &[peer("b", socket("b.sock"))], &[])).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(mail_a.is_empty() && mail_b.is_empty());
        at_b.set_others(Others::of_node("b", &[a.clone(), c.clone()], &[])).unwrap();
        let pairs = [next_pair(&mail_a).await, next_pair(&mail_b).await];

        // The end that is connected to lets it go, and takes it again.
        at_b.set_others(Others::of_node("b", std::slice::from_ref(&c), &[])).unwrap();
        for pair in &pairs {
            is_fenced(&**pair).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(mail_a.is_empty() && mail_b.is_empty(), "nobody else may connect");
        at_b.set_others(Others::of_node("b", &[c.clone(), a.clone()], &[])).unwrap();
        let pairs = [next_pair(&mail_a).await, next_pair(&mail_b).await];

        // It is reached elsewhere; the same list again changes nothing.
        at_a.set_others(Others::of_node("a", &[peer("b", socket("b2.sock"))], &[])).unwrap();
        for pair in &pairs {
            is_fenced(&**pair).await;
        }
        let pairs = [next_pair(&mail_a).await, next_pair(&mail_b).await];
        at_a.set_others(Others::of_node("a", &[peer("b", socket("b2.sock"))], &[])).unwrap();
        at_b.set_others(Others::of_node("b", &[a, c], &[])).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(pairs.iter().all(|pair| pair.state() == keyferry_fabric::State::Ready));

        // The end that connects lets it go.
        at_a.set_others(Others::of_node("a", &[], &[])).unwrap();
        for pair in &pairs {
            is_fenced(&**pair).await;
        }
        assert!(at_a.set_others(Others::of_node("a", &[peer("no name", socket("b.sock"))], &[])).is_err());
        assert_eq!(kept.state(), keyferry_fabric::State::Ready, "who stays is left alone");
        for links in [at_a, at_b, at_c] {
            links.end().await;
        }
        is_fenced(&*kept).await;
    });
}

/// Another authority takes the place of one, link by link: whoever is still believed keeps its link.
#[test]
fn who_is_no_longer_believed_is_let_go() {
    run(async {
        let (folder, other) = (Folder::new(), Folder::new());
        let socket = Address::Unix(folder.file("b.sock"));
        let peer = |name: &str| Peer { name: name.to_owned(), address: socket.clone() };
        let start = |name: &str, peer: Peer, listen: &[Address]| {
            let end = folder.end(name, 1);
            let mailbox = Arc::clone(&end.node().mailboxes[0]);
            let others = Others::of_node(name, &[peer], &[]);
            (Links::new(end.local, end.trust, listen, others).unwrap().start(), mailbox)
        };
        let (at_b, mail_b) = start("b", peer("a"), std::slice::from_ref(&socket));
        let (at_a, mail_a) = start("a", peer("b"), &[]);
        let pairs = [next_pair(&mail_a).await, next_pair(&mail_b).await];

        let read = |folder: &Folder| std::fs::read_to_string(folder.file("ca.pem")).unwrap();
        let both = folder.file("both.pem");
        std::fs::write(&both, read(&folder) + &read(&other)).unwrap();
        let load = |ca: &std::path::Path, from: &Folder, name: &str| {
            let file = |kind: &str| from.file(&format!("{name}.{kind}"));
            Trust::load(ca, &file("pem"), &file("key"), name).unwrap()
        };
        // First everybody believes both, then each shows its new certificate, then nobody believes the old ones.
        at_a.set_trust(load(&both, &folder, "a"));
        at_b.set_trust(load(&both, &other, "b"));
        assert!(at_b.trust().has_same_authority(&at_a.trust()));
        assert!(!at_b.trust().has_same_certificate(&load(&both, &folder, "b")));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(pairs.iter().all(|pair| pair.state() == keyferry_fabric::State::Ready), "links live on");

        at_b.set_trust(load(&other.file("ca.pem"), &other, "b"));
        for pair in &pairs {
            is_fenced(&**pair).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(mail_a.is_empty() && mail_b.is_empty(), "it shows its old certificate");
        at_a.set_trust(load(&other.file("ca.pem"), &other, "a"));
        let _pairs = [next_pair(&mail_a).await, next_pair(&mail_b).await];
        at_a.end().await;
        at_b.end().await;
    });
}
