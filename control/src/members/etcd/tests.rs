//! An etcd that fails in each way there is, on a real socket: what is said of it, and that all is begun again.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::*;
use crate::counters::Registry;
use crate::members::{Members, Role};

/// Longest wait for anything that has to come.
const LONG: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(1);

/// What an etcd does that is asked to watch, or to renew a registration.
#[derive(Clone, Copy)]
enum Script {
    /// It answers nothing.
    Mute,
    /// It watches, and renews nothing.
    Idle,
    /// It ends what it is to watch.
    Ends,
    /// It will not watch any more.
    Cancels,
    /// What has changed is no longer to be had; asked again it ends.
    Compacts,
    /// It tells of members that are of no use, and ends.
    Tells,
}

/// A reply as it goes out: its frames, and then its end or nothing.
struct Reply {
    frames: VecDeque<Frame<Bytes>>,
    stays: bool,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.frames.pop_front() {
            None if self.stays => Poll::Pending,
            frame => Poll::Ready(frame.map(Ok)),
        }
    }
}

/// A message of gRPC.
fn message(fields: &[u8]) -> Frame<Bytes> {
    let len = (fields.len() as u32).to_be_bytes();
    Frame::data([&[0][..], &len, fields].concat().into())
}

/// The end of a reply that has nothing to complain of.
fn end() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    Frame::trailers(trailers)
}

/// One message and no more.
fn whole(fields: &[u8]) -> Reply {
    Reply { frames: VecDeque::from([message(fields), end()]), stays: false }
}

/// One message, and others may follow.
fn lasting(fields: &[u8]) -> Reply {
    Reply { frames: VecDeque::from([message(fields)]), stays: true }
}

/// A field of a message that is a text or a message itself.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("a short one");
    // The length in two bytes of seven bits.
    [&[number << 3 | 2, len as u8 | 0x80, (len >> 7) as u8], bytes].concat()
}

/// What a watch says of a member that has written this: events = 11 { kv = 2 { key = 1, value = 5 } }.
fn written(key: &str, member: &Member) -> Vec<u8> {
    let pair =
        [field(1, format!("/keyferry/nodes/{key}").as_bytes()), field(5, entry::value(member).as_bytes())];
    field(11, &field(2, &pair.concat()))
}

/// Somebody whose value is of another name; a later process of this one's; and one more than there is room for.
fn of_no_use() -> Vec<u8> {
    let later = Member { incarnation: 2, ..own() };
    [written("x", &member("y")), written("a", &later), written("b", &member("b")), written("c", &member("c"))]
        .concat()
}

/// The reply to this call; `watches`: how many there were before it. Fields are those of etcd's `rpc.proto`.
fn reply(script: Script, call: &str, watches: usize) -> Reply {
    const REGISTRATION: &[u8] = &[0x10, 7, 0x18, 1]; // ID = 2, TTL = 3
    const REVISION: &[u8] = &[0x0a, 2, 0x18, 1]; // header = 1 { revision = 3 }
    const WATCHES: &[u8] = &[0x18, 1]; // created = 3
    const COMPACTED: &[u8] = &[0x20, 1, 0x28, 5]; // canceled = 4, compact_revision = 5
    const CANCELS: &[u8] = b"\x20\x01\x32\x0dno permission"; // canceled = 4, cancel_reason = 6
    match (script, call) {
        (Script::Mute, _) => Reply { frames: VecDeque::new(), stays: true },
        (_, "LeaseGrant") => whole(REGISTRATION),
        (_, "LeaseKeepAlive") => lasting(REGISTRATION),
        (_, "Range") => whole(REVISION),
        (Script::Cancels, "Watch") => lasting(CANCELS),
        (Script::Compacts, "Watch") if watches == 0 => lasting(COMPACTED),
        (Script::Ends | Script::Compacts, "Watch") => whole(WATCHES),
        (Script::Tells, "Watch") => whole(&[WATCHES, &of_no_use()].concat()),
        (_, "Watch") => lasting(WATCHES),
        _ => whole(&[]),
    }
}

/// Starts an etcd; tells each call as it comes, by its name.
async fn etcd(script: Script) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let (address, (told, calls)) = (listener.local_addr().expect("it listens"), mpsc::unbounded_channel());
    tokio::task::spawn_local(async move {
        let watches = Rc::new(std::cell::Cell::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let (told, watches) = (told.clone(), Rc::clone(&watches));
            let serve =
                service_fn(move |request: Request<hyper::body::Incoming>| {
                    let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                    let response = Response::builder()
                        .header("content-type", "application/grpc")
                        .body(reply(script, &call, watches.get()));
                    watches.set(watches.get() + usize::from(call == "Watch"));
                    // Who has heard enough is gone.
                    let _ = told.send(call);
                    std::future::ready(response)
                });
            let connection =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), serve);
            tokio::task::spawn_local(connection);
        }
    });
    (address, calls)
}

fn config(address: SocketAddr) -> Etcd {
    Etcd {
        endpoints: vec![format!("http://{address}")],
        prefix: "/keyferry".to_owned(),
        ttl: TTL,
        nodes_max: 1,
        advertise: Vec::new(),
        tls: None,
        user: None,
    }
}

fn own() -> Member {
    member("a")
}

fn member(name: &str) -> Member {
    let (addresses, port_addresses) = (Vec::new(), Vec::new());
    Member { name: name.to_owned(), role: Role::Node, addresses, incarnation: 1, port_addresses, weight: 1 }
}

/// Runs this on a runtime of its own, as the control thread does.
fn run<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(async { timeout(LONG, what).await.expect("it ends") }))
}

/// Who follows such an etcd, how its first connection ends, and what was asked meanwhile.
fn connection(script: Script) -> (Follower, String, Vec<String>) {
    run(async {
        let (address, mut calls) = etcd(script).await;
        let config = config(address);
        let access = Access::load(&config).expect("it names no files");
        let (out, _list) = watch::channel(List::from([]));
        let mut follower = Follower::new(access, &config, own(), Rc::new(|_| false), out, &Registry::new());
        let Err(error) = follower.connection(&config.endpoints[0], &mut Backoff::new(BACKOFF)).await;
        (follower, error.to_string(), std::iter::from_fn(|| calls.try_recv().ok()).collect())
    })
}

#[test]
fn each_way_in_which_etcd_fails_is_said() {
    let said = |script| connection(script).1;
    assert_eq!(said(Script::Ends), "it ended the connection");
    assert_eq!(
        said(Script::Cancels),
        "it watches no more (no permission): see what [cluster.etcd] user may read there"
    );
    let see = "see whether it runs and has a leader";
    assert_eq!(said(Script::Idle), format!("it has not renewed this process's registration for 1 s: {see}"));
    assert_eq!(said(Script::Mute), format!("it did not answer within 3 s: {see}"));
}

#[test]
fn what_is_no_longer_to_be_had_is_read_again() {
    let (_, said, calls) = connection(Script::Compacts);
    assert_eq!(said, "it ended the connection");
    let count = |call: &str| calls.iter().filter(|it| *it == call).count();
    assert_eq!(["LeaseGrant", "Range", "Watch"].map(count), [1, 2, 2], "{calls:?}");
}

#[test]
fn members_that_are_of_no_use_are_told() {
    let (mut follower, ..) = connection(Script::Tells);
    for sentence in [
        "etcd: /keyferry/nodes/x is no member: its value is of another name",
        "etcd: another process is registered as a, and started later: give each its own [node] name",
        "etcd lists more nodes than this process has room for: raise [cluster.etcd] nodes_max",
    ] {
        assert!(!follower.said.is_news(sentence, Instant::now()), "it was not told: {sentence}");
    }
    assert!(follower.said.is_news("etcd: anything else", Instant::now()));
    assert_eq!(follower.book.members().map(|member| &*member.name).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn connections_that_end_are_counted_and_followed_by_others() {
    let total = run(async {
        let (address, mut calls) = etcd(Script::Ends).await;
        let registry = Registry::new();
        let members =
            Members::start(&config(address), own(), Rc::new(|_| false), &registry).expect("no files");
        // The third one is under way.
        for _ in 0..3 {
            while calls.recv().await.expect("it goes on") != "Watch" {}
        }
        let total = registry.snapshot().total;
        members.leave().await;
        total
    });
    let counts = ["etcd_connects", "etcd_failures", "etcd_registrations", "etcd_connected", "members"];
    assert_eq!(counts.map(|name| total[name]), [2, 2, 3, 0, 0]);
}
