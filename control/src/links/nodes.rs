//! Nodes as a distributor sees them. In: what their links tell. Out: news for the distributor's worker, and how each
//! node fares for an operator. Control thread.
//!
//! A node is up while its link lives. When a link ends without a word its node gets nothing new, and its connections
//! stay, until it is known to be gone: it said that it was ending, was silent for the whole time-out, refuses to be
//! connected to, or has come back as another process.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{NodeId, State};
use keyferry_worker::distribute::News;
use serde::Serialize;

use super::LinkError;
use super::message::{Hello, NodeState, Reason, Session};

/// Pause before news is offered again to a worker that has not taken what it has.
const AGAIN: Duration = Duration::from_millis(1);

/// How a node fares, for an operator.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub node: String,
    /// Whether it takes connections.
    pub state: &'static str,
    /// For how long, in ms.
    pub since_ms: u64,
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
    ids: HashMap<String, NodeId>,
    known: RefCell<Vec<Known>>,
}

struct Known {
    name: String,
    state: State,
    since: Instant,
    incarnation: u64,
    said: NodeState,
    sessions: u64,
}

impl Nodes {
    /// Nodes in their order, each with how it fares until its link says otherwise.
    pub fn new(nodes: impl IntoIterator<Item = (String, State)>, news: Arc<ArrayQueue<News>>) -> Nodes {
        let known: Vec<_> = nodes
            .into_iter()
            .map(|(name, state)| Known {
                name,
                state,
                since: Instant::now(),
                incarnation: 0,
                said: NodeState::default(),
                sessions: 0,
            })
            .collect();
        let ids = known.iter().zip(0..).map(|(known, id)| (known.name.clone(), NodeId(id))).collect();
        Nodes { news, ids, known: RefCell::new(known) }
    }

    /// How each fares.
    pub fn report(&self) -> Vec<NodeReport> {
        let report = |known: &Known| NodeReport {
            node: known.name.clone(),
            state: match known.state {
                State::Up => "up",
                State::Draining => "draining",
                State::Down => "down",
            },
            since_ms: u64::try_from(known.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            connections: known.said.connections,
            requests: known.said.requests,
            sessions: known.sessions,
        };
        self.known.borrow().iter().map(report).collect()
    }

    /// Its link has come to life.
    pub(super) async fn up(&self, hello: &Hello) {
        let Some(id) = self.id(&hello.node) else { return };
        let before =
            std::mem::replace(&mut self.known.borrow_mut()[id.index()].incarnation, hello.incarnation);
        if before != hello.incarnation {
            // Another process: what the one before had is gone with it.
            self.set(id, State::Down).await;
        }
        self.set(id, State::Up).await;
    }

    /// It says how it fares.
    pub(super) async fn heard(&self, node: &str, said: NodeState) {
        let Some(id) = self.id(node) else { return };
        self.known.borrow_mut()[id.index()].said = said;
        self.set(id, if said.draining { State::Draining } else { State::Up }).await;
    }

    /// It has a session of a client.
    pub(super) async fn has_session(&self, node: &str, session: Session) {
        let Some(id) = self.id(node) else { return };
        self.known.borrow_mut()[id.index()].sessions += 1;
        let lifetime = Duration::from_secs(session.lifetime_s.into());
        self.tell(News::Session { client: session.client, node: id, lifetime }).await;
    }

    /// Its link has ended.
    pub(super) async fn lost(&self, node: &str, error: &LinkError) {
        let Some(id) = self.id(node) else { return };
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
        self.ids.get(node).copied()
    }

    async fn set(&self, id: NodeId, state: State) {
        {
            let known = &mut self.known.borrow_mut()[id.index()];
            if known.state == state {
                return;
            }
            (known.state, known.since) = (state, Instant::now());
            tracing::info!(node = known.name, ?state, "a node fares otherwise");
        }
        self.tell(News::State(id, state)).await;
    }

    async fn tell(&self, news: News) {
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

    /// What the worker is told of node `b` while `told` happens.
    fn told(told: impl AsyncFnOnce(&Nodes)) -> Vec<State> {
        let news = Arc::new(ArrayQueue::new(16));
        let nodes =
            Nodes::new([("a".to_owned(), State::Up), ("b".to_owned(), State::Down)], Arc::clone(&news));
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
}
