//! Nodes as a distributor sees them. In: what their links tell, and who is listed. Out: news for the distributor's worker,
//! and how each node fares for an operator. Control thread.
//!
//! A node is up while its link lives. When a link ends without a word its node gets nothing new, and its connections
//! stay, until it is known to be gone: it said that it was ending, was silent for the whole time-out, refuses to be
//! connected to, or has come back as another process. One that is no longer listed gets nothing new either, however its
//! link is.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Node, NodeId, Plan, Services, Share, State};
use keyferry_worker::distribute::{Join, News};
use serde::Serialize;
use tokio::sync::{Mutex, Notify};

use super::LinkError;
use super::message::{Hello, NodeState, Reason, Session};

/// Pause before news is offered again to a worker that has not taken what it has.
const AGAIN: Duration = Duration::from_millis(1);
/// For so long a node that gets nothing new says that it has no connections before that is believed: what it was given last
/// may still be on its way.
const IDLE: Duration = Duration::from_secs(3);

/// A node, as it is placed behind a distributor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// Where packets reach it.
    pub address: IpAddr,
    /// Its share beside the others'.
    pub weight: u8,
    /// What it serves.
    pub services: Services,
}

/// Who says that there is a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Listed {
    /// The configuration.
    File,
    /// etcd.
    Etcd,
    /// One of them did, and does no longer; its connections stay while its link lives.
    Gone,
}

/// A node there is, for whoever decides what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) placed: Placed,
    pub(crate) listed: Listed,
    /// Nobody loses anything when it is forgotten: it is gone by its link, or gets nothing new and has had nothing for a while.
    pub(crate) is_over: bool,
}

/// How a node fares, for an operator.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// Whether it takes connections.
    pub state: &'static str,
    /// For how long, in ms.
    pub since_ms: u64,
    /// Where packets reach it.
    pub address: IpAddr,
    /// Who says that there is one.
    pub listed: Listed,
    /// Connections it said it has.
    pub connections: u32,
    /// Requests it said its application has.
    pub requests: u32,
    /// Sessions it has announced.
    pub sessions: u64,
}

/// All nodes of a distributor; shared by the tasks of their links.
pub struct Nodes {
    news: Arc<ArrayQueue<News>>,
    /// News is told in the order it is made in, also when there is no room for a while.
    turn: Mutex<()>,
    table: RefCell<Table>,
    /// Those that take connections are other ones.
    changed: Notify,
}

#[derive(Default)]
struct Table {
    ids: HashMap<String, NodeId>,
    places: Vec<Option<Known>>,
    free: BTreeSet<NodeId>,
    services: usize,
    /// How often nodes have come and gone.
    revision: u64,
}

struct Known {
    placed: Placed,
    listed: Listed,
    /// By its link.
    linked: State,
    /// As the worker was told.
    state: State,
    since: Instant,
    incarnation: u64,
    said: NodeState,
    /// Since when its link says that it has no connections.
    idle_since: Option<Instant>,
    sessions: u64,
}

impl Known {
    fn new(placed: Placed, listed: Listed, state: State) -> Known {
        Known {
            placed,
            listed,
            linked: state,
            state,
            since: Instant::now(),
            incarnation: 0,
            said: NodeState::default(),
            idle_since: None,
            sessions: 0,
        }
    }

    fn is_over(&self) -> bool {
        let is_long = |since: Instant| since.elapsed() >= IDLE;
        let is_idle = || is_long(self.since) && self.idle_since.is_some_and(is_long);
        self.linked == State::Down || self.state == State::Draining && is_idle()
    }
}

impl Nodes {
    /// Nodes of the file in their order, each with how it fares until its link says otherwise. `room`: nodes at most;
    /// `services`: how many there are.
    pub fn new(
        nodes: impl IntoIterator<Item = (Placed, State)>,
        room: usize,
        services: usize,
        news: Arc<ArrayQueue<News>>,
    ) -> Nodes {
        let known = |(placed, state)| Some(Known::new(placed, Listed::File, state));
        let mut places: Vec<_> = nodes.into_iter().map(known).collect();
        let ids = (0..).zip(places.iter().flatten());
        let ids = ids.map(|(id, known)| (known.placed.name.clone(), NodeId(id))).collect();
        let free = (places.len()..room).map(|place| NodeId(place as u16)).collect();
        places.resize_with(room.max(places.len()), || None);
        let table = RefCell::new(Table { ids, places, free, services, revision: 0 });
        Nodes { news, turn: Mutex::default(), table, changed: Notify::new() }
    }

    /// How each fares.
    pub fn report(&self) -> Vec<NodeReport> {
        let report = |known: &Known| NodeReport {
            node: known.placed.name.clone(),
            state: match known.state {
                State::Up => "up",
                State::Draining => "draining",
                State::Down => "down",
            },
            since_ms: u64::try_from(known.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            address: known.placed.address,
            listed: known.listed,
            connections: known.said.connections,
            requests: known.said.requests,
            sessions: known.sessions,
        };
        self.table.borrow().places.iter().flatten().map(report).collect()
    }

    /// Waits until those that take connections are other ones.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What tables of places are made of now.
    pub(crate) fn plan(&self) -> Plan {
        let table = self.table.borrow();
        let share = |(id, known): (u16, &Known)| Share {
            id: NodeId(id),
            name: known.placed.name.clone(),
            weight: known.placed.weight,
            services: known.placed.services,
        };
        let all = (0..).zip(&table.places).filter_map(|(id, known)| Some((id, known.as_ref()?)));
        let up = all.filter(|(_, known)| known.state == State::Up);
        Plan { revision: table.revision, services: table.services, nodes: up.map(share).collect() }
    }

    /// All there are.
    pub(crate) fn present(&self) -> Vec<Present> {
        let present = |known: &Known| Present {
            placed: known.placed.clone(),
            listed: known.listed,
            is_over: known.is_over(),
        };
        self.table.borrow().places.iter().flatten().map(present).collect()
    }

    /// How many can come.
    pub(crate) fn vacant(&self) -> usize {
        self.table.borrow().free.len()
    }

    /// One comes, and fares so until its link says otherwise. Answers whether there was room.
    pub(crate) async fn join(&self, placed: Placed, listed: Listed, state: State) -> bool {
        let join = {
            let table = &mut *self.table.borrow_mut();
            let Some(id) = table.free.pop_first() else { return false };
            table.ids.insert(placed.name.clone(), id);
            table.places[id.index()] = Some(Known::new(placed.clone(), listed, state));
            table.revision += 1;
            let node = Node { name: placed.name, weight: placed.weight, state };
            Join { id, node, address: placed.address, services: placed.services }
        };
        self.tell(News::Join(Box::new(join))).await;
        self.changed.notify_one();
        true
    }

    /// One is none any more. Its place is free when the worker says so.
    pub(crate) async fn leave(&self, node: &str) {
        let id = {
            let table = &mut *self.table.borrow_mut();
            let Some(id) = table.ids.remove(node) else { return };
            table.places[id.index()] = None;
            table.revision += 1;
            id
        };
        self.tell(News::Leave(id)).await;
        self.changed.notify_one();
    }

    /// The worker names this place no more.
    pub(crate) fn free(&self, id: NodeId) {
        self.table.borrow_mut().free.insert(id);
    }

    /// Who lists it now.
    pub(crate) async fn set_listed(&self, node: &str, listed: Listed) {
        let Some(id) = self.id(node) else { return };
        self.with(id, |known| known.listed = listed);
        self.settle(id).await;
    }

    /// It is placed otherwise, in the life of this incarnation. What it had at another address is lost; there it is up
    /// when that is the process its link is with.
    pub(crate) async fn place(&self, placed: Placed, incarnation: u64) {
        let Some(id) = self.id(&placed.name) else { return };
        let (address, linked) = (placed.address, self.with(id, |known| known.linked));
        let before = self.with(id, |known| std::mem::replace(&mut known.placed, placed));
        if let Some(before) = before
            && before.address != address
        {
            self.set(id, State::Down).await;
            self.tell(News::Address(id, address)).await;
            if self.with(id, |known| known.incarnation) == Some(incarnation) {
                self.set(id, linked.unwrap_or_default()).await;
            }
        }
        self.changed.notify_one();
    }

    /// Its link has come to life.
    pub(super) async fn up(&self, hello: &Hello) {
        let Some(id) = self.id(&hello.node) else { return };
        let before = self.with(id, |known| {
            known.idle_since = None;
            std::mem::replace(&mut known.incarnation, hello.incarnation)
        });
        if before != Some(hello.incarnation) {
            // Another process: what the one before had is gone with it.
            self.set(id, State::Down).await;
        }
        self.set(id, State::Up).await;
    }

    /// It says how it fares.
    pub(super) async fn heard(&self, node: &str, said: NodeState) {
        let Some(id) = self.id(node) else { return };
        self.with(id, |known| {
            let is_idle = said.connections == 0;
            known.idle_since = is_idle.then(|| known.idle_since.unwrap_or_else(Instant::now));
            known.said = said;
        });
        self.set(id, if said.draining { State::Draining } else { State::Up }).await;
    }

    /// It has a session of a client.
    pub(super) async fn has_session(&self, node: &str, session: Session) {
        let Some(id) = self.id(node) else { return };
        self.with(id, |known| known.sessions += 1);
        let lifetime = Duration::from_secs(session.lifetime_s.into());
        self.tell(News::Session { client: session.client, node: id, lifetime }).await;
    }

    /// Its link has ended.
    pub(super) async fn lost(&self, node: &str, error: &LinkError) {
        let Some(id) = self.id(node) else { return };
        self.with(id, |known| known.idle_since = None);
        let gone = matches!(error, LinkError::Bye(Reason::Leaving) | LinkError::Silent(_));
        self.set(id, if gone { State::Down } else { State::Draining }).await;
    }

    /// It cannot be connected to.
    pub(super) async fn unreachable(&self, node: &str) {
        if let Some(id) = self.id(node) {
            self.set(id, State::Down).await;
        }
    }

    fn id(&self, node: &str) -> Option<NodeId> {
        self.table.borrow().ids.get(node).copied()
    }

    /// Does something with a node, if it is still there.
    fn with<T>(&self, id: NodeId, what: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.table.borrow_mut().places[id.index()].as_mut().map(what)
    }

    /// Its link has it otherwise.
    async fn set(&self, id: NodeId, linked: State) {
        self.with(id, |known| known.linked = linked);
        self.settle(id).await;
    }

    /// Tells the worker how it fares, if that is news.
    async fn settle(&self, id: NodeId) {
        let news = self.with(id, |known| {
            let state = match (known.linked, known.listed) {
                (State::Up, Listed::Gone) => State::Draining,
                (linked, _) => linked,
            };
            if known.state == state {
                return None;
            }
            (known.state, known.since) = (state, Instant::now());
            tracing::info!(node = known.placed.name, ?state, "a node fares otherwise");
            Some(state)
        });
        if let Some(state) = news.flatten() {
            self.tell(News::State(id, state)).await;
            self.changed.notify_one();
        }
    }

    /// Tells the worker, behind all it was told before.
    pub(crate) async fn tell(&self, news: News) {
        let _turn = self.turn.lock().await;
        tell(&self.news, news).await;
    }
}

/// Waits for room: the link is not read meanwhile, so its other end waits too.
pub(super) async fn tell(queue: &ArrayQueue<News>, mut news: News) {
    while let Err(refused) = queue.push(news) {
        news = refused;
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use keyferry_fabric::Limits;

    use super::super::message::Role;
    use super::*;
    use crate::config::Driver;

    fn hello(incarnation: u64) -> Hello {
        let limits =
            Limits { message_bytes_max: 0, receives: 0, posted_max: 0, slots_bytes: 0, staging_bytes: 0 };
        let (role, node, random) = (Role::Node, "b".to_owned(), [0; 32]);
        Hello { role, node, incarnation, random, workers: 1, driver: Driver::Shm, limits }
    }

    pub(super) fn placed(name: &str, number: u8) -> Placed {
        let address = IpAddr::from([192, 0, 2, number]);
        Placed { name: name.to_owned(), address, weight: 1, services: Services::from_iter([0]) }
    }

    /// What the worker is told of node `b` while `told` happens.
    fn told(told: impl AsyncFnOnce(&Nodes)) -> Vec<State> {
        let news = Arc::new(ArrayQueue::new(16));
        let file = [(placed("a", 1), State::Up), (placed("b", 2), State::Down)];
        let nodes = Nodes::new(file, 2, 1, Arc::clone(&news));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(told(&nodes));
        std::iter::from_fn(|| news.pop())
            .map(|news| match news {
                News::State(NodeId(1), state) => state,
                _ => panic!("only how it fares"),
            })
            .collect()
    }

    #[test]
    fn one_that_closes_keeps_its_connections_until_it_refuses_to_be_reached() {
        let states = told(async |nodes| {
            nodes.up(&hello(1)).await;
            nodes.lost("b", &LinkError::Failed).await;
            nodes.up(&hello(1)).await;
            nodes.lost("b", &LinkError::Failed).await;
            nodes.unreachable("b").await;
            nodes.unreachable("b").await;
        });
        assert_eq!(states, [State::Up, State::Draining, State::Up, State::Draining, State::Down]);
    }

    #[test]
    fn one_that_comes_back_as_another_process_was_gone() {
        let states = told(async |nodes| {
            nodes.up(&hello(1)).await;
            nodes.lost("b", &LinkError::Failed).await;
            nodes.up(&hello(2)).await;
        });
        assert_eq!(states, [State::Up, State::Draining, State::Down, State::Up]);
    }

    #[test]
    fn one_that_takes_leave_or_is_silent_is_gone() {
        let states = told(async |nodes| {
            nodes.up(&hello(1)).await;
            nodes.heard("b", NodeState { draining: true, ..NodeState::default() }).await;
            nodes.lost("b", &LinkError::Bye(Reason::Leaving)).await;
            nodes.up(&hello(2)).await;
            nodes.lost("b", &LinkError::Silent(Duration::ZERO)).await;
            nodes.up(&hello(2)).await;
            nodes.up(&Hello { node: "stranger".to_owned(), ..hello(3) }).await;
        });
        assert_eq!(states, [State::Up, State::Draining, State::Down, State::Up, State::Down, State::Up]);
    }

    async fn join(nodes: &Nodes, placed: Placed) -> bool {
        nodes.join(placed, Listed::Etcd, State::Down).await
    }

    /// What the worker is told while `told` happens to nodes of which the file has none.
    fn said(told: impl AsyncFnOnce(&Nodes)) -> Vec<String> {
        let news = Arc::new(ArrayQueue::new(16));
        let nodes = Nodes::new([], 2, 1, Arc::clone(&news));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(told(&nodes));
        let text = |news| match news {
            News::Join(join) => format!("{} joins at {} as {}", join.node.name, join.address, join.id.0),
            News::Leave(id) => format!("{} leaves", id.0),
            News::State(id, state) => format!("{} is {state:?}", id.0),
            News::Address(id, address) => format!("{} is at {address}", id.0),
            _ => panic!("only how it fares"),
        };
        std::iter::from_fn(|| news.pop()).map(text).collect()
    }

    #[test]
    fn members_come_and_go_and_places_are_used_again_when_they_are_free() {
        let told = said(async |nodes| {
            assert!(join(nodes, placed("b", 1)).await && join(nodes, placed("c", 2)).await);
            assert!(!join(nodes, placed("d", 3)).await, "there is no room");
            nodes.up(&hello(1)).await;
            nodes.leave("b").await;
            nodes.leave("b").await;
            nodes.lost("b", &LinkError::Failed).await;
            assert!(!join(nodes, placed("d", 3)).await, "the place is not free yet");
            nodes.free(NodeId(0));
            assert!(join(nodes, placed("d", 3)).await);
            assert_eq!(nodes.plan().revision, 4);
        });
        let expected = [
            "b joins at 192.0.2.1 as 0",
            "c joins at 192.0.2.2 as 1",
            "0 is Up",
            "0 leaves",
            "d joins at 192.0.2.3 as 0",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn one_that_is_no_longer_listed_keeps_its_connections_while_its_link_lives() {
        let told = said(async |nodes| {
            join(nodes, placed("b", 1)).await;
            nodes.up(&hello(1)).await;
            assert_eq!(nodes.plan().nodes.len(), 1);
            nodes.set_listed("b", Listed::Gone).await;
            assert_eq!((nodes.plan().nodes.len(), nodes.present()[0].listed), (0, Listed::Gone));
            nodes.heard("b", NodeState::default()).await;
            nodes.set_listed("b", Listed::Etcd).await;
            nodes.set_listed("b", Listed::Gone).await;
            nodes.lost("b", &LinkError::Bye(Reason::Leaving)).await;
        });
        assert_eq!(told[1..], ["0 is Up", "0 is Draining", "0 is Up", "0 is Draining", "0 is Down"]);
    }

    #[test]
    fn one_that_is_no_longer_listed_is_over_when_it_has_had_nothing_for_a_while() {
        said(async |nodes| {
            let is_over = || nodes.present()[0].is_over;
            let heard = async |connections| {
                nodes.heard("b", NodeState { connections, ..NodeState::default() }).await;
            };
            // As if it had been so for long.
            let wait = || {
                let earlier =
                    |since: &mut Instant| *since = since.checked_sub(IDLE).expect("the machine is up");
                nodes.with(NodeId(0), |known| {
                    earlier(&mut known.since);
                    if let Some(since) = &mut known.idle_since {
                        earlier(since);
                    }
                });
            };
            join(nodes, placed("b", 1)).await;
            assert!(is_over(), "it has never been there");
            nodes.up(&hello(1)).await;
            heard(0).await;
            wait();
            assert!(!is_over(), "it may be given something at any moment");
            nodes.set_listed("b", Listed::Gone).await;
            assert!(!is_over(), "what it was given last may be on its way");
            heard(1).await;
            wait();
            assert!(!is_over());
            heard(0).await;
            assert!(!is_over());
            wait();
            assert!(is_over());
            // It is lost, and nobody knows what it has.
            nodes.lost("b", &LinkError::Failed).await;
            wait();
            assert!(!is_over());
            nodes.up(&hello(1)).await;
            wait();
            assert!(!is_over(), "it has not said anything yet");
            nodes.lost("b", &LinkError::Bye(Reason::Leaving)).await;
            assert!(is_over());
        });
    }

    /// Whichever of etcd and the link tells first of a process that is somewhere else.
    #[test]
    fn one_that_has_moved_has_lost_what_it_had() {
        let told = said(async |nodes| {
            join(nodes, placed("b", 1)).await;
            nodes.up(&hello(1)).await;
            // The link first: it is taken to be where it was.
            nodes.up(&hello(2)).await;
            nodes.place(placed("b", 7), 2).await;
            // etcd first: the link is with the one before.
            nodes.place(placed("b", 8), 3).await;
            nodes.lost("b", &LinkError::Failed).await;
            nodes.up(&hello(3)).await;
            nodes.place(Placed { weight: 9, ..placed("b", 8) }, 3).await;
            assert_eq!(nodes.plan().nodes[0].weight, 9);
        });
        let expected = [
            ["0 is Up", "0 is Down", "0 is Up"].as_slice(),
            &["0 is Down", "0 is at 192.0.2.7", "0 is Up"],
            &["0 is Down", "0 is at 192.0.2.8", "0 is Draining", "0 is Down", "0 is Up"],
        ];
        assert_eq!(told[1..], expected.concat());
    }

    #[test]
    fn news_is_told_in_its_order_though_there_is_no_room() {
        let news = Arc::new(ArrayQueue::new(1));
        let nodes = Nodes::new([(placed("b", 1), State::Down)], 1, 1, Arc::clone(&news));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let states = [State::Up, State::Down, State::Up, State::Draining, State::Down];
        let told = runtime.block_on(async {
            let tell = |state| nodes.tell(News::State(NodeId(0), state));
            let all = states.map(tell);
            let take = async {
                let mut told = Vec::new();
                while told.len() < states.len() {
                    // Room comes at moments at which nobody has just been refused.
                    tokio::time::sleep(Duration::from_micros(700)).await;
                    told.extend(news.pop());
                }
                told
            };
            let [a, b, c, d, e] = all;
            tokio::join!(take, a, b, c, d, e).0
        });
        let told: Vec<_> = told
            .into_iter()
            .map(|news| match news {
                News::State(_, state) => state,
                _ => panic!("something else"),
            })
            .collect();
        assert_eq!(told, states);
    }
}
