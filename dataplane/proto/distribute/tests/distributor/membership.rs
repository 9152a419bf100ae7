//! Nodes that come and go: a place is somebody else's only when nothing of its holder can be taken for the next one's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use keyferry_distribute::{Plan, Services, Share};

use super::*;

/// Small tables, so that sweeps end and are seen half done.
const SMALL: Config = Config { flows: 1000, clients: 1000, ..CONFIG };
/// Places for nodes.
const ROOM: u16 = 3;
/// Of SERVICE and SERVICE6.
const BOTH: [usize; 2] = [0, 1];

/// Who holds each place, as a control thread knows it.
struct Cluster {
    it: Distributor,
    holders: HashMap<NodeId, Holder>,
    free: BTreeSet<NodeId>,
    revision: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Holder {
    name: String,
    state: State,
    /// Which of its lives it is in, over all nodes.
    life: u64,
}

impl Cluster {
    fn new(model: Model) -> Cluster {
        let service = |address: &str| Service { address: address.parse().unwrap(), model, nodes: Vec::new() };
        let services = vec![service(SERVICE), service(SERVICE6)];
        let it = Distributor::new(SMALL, services, Vec::new()).with_room(ROOM.into());
        Cluster { it, holders: HashMap::new(), free: (0..ROOM).map(NodeId).collect(), revision: 0 }
    }

    /// A node comes and is up, if there is a free place.
    fn join(&mut self, name: &str, life: u64) -> Option<NodeId> {
        let id = self.free.pop_first()?;
        let node = Node { name: name.to_owned(), weight: 1, state: State::Down };
        self.it.join(id, node, Services::from_iter(BOTH));
        self.it.set_state(id, State::Up);
        self.revision += 1;
        self.holders.insert(id, Holder { name: name.to_owned(), state: State::Up, life });
        Some(id)
    }

    fn leave(&mut self, id: NodeId) {
        self.it.leave(id);
        self.holders.remove(&id);
        self.revision += 1;
    }

    fn plan(&self) -> Plan {
        let up = self.holders.iter().filter(|(_, holder)| holder.state == State::Up);
        let share = |(id, holder): (&NodeId, &Holder)| Share {
            id: *id,
            name: holder.name.clone(),
            weight: 1,
            services: Services::from_iter(BOTH),
        };
        Plan { revision: self.revision, services: 2, nodes: up.map(share).collect() }
    }

    fn settle(&mut self) {
        let plan = self.plan();
        self.it.set_places(Arc::new(plan.make()));
        self.free_places();
    }

    fn free_places(&mut self) {
        while let Some(id) = self.it.vacated() {
            assert!(!self.holders.contains_key(&id) && self.free.insert(id), "{id:?} is not free");
        }
    }

    fn sweep(&mut self) {
        while self.it.sweep(|_| ()) {}
        self.free_places();
    }
}

#[test]
fn a_node_that_comes_gets_its_turn_and_its_places() {
    let mut cluster = Cluster::new(Model::RoundRobin);
    assert_eq!(cluster.it.route(at(1), &syn("198.51.100.1:1")), Verdict::Drop(DropReason::NoNode));
    let one = cluster.join("one", 0).unwrap();
    assert_eq!(node_of(cluster.it.route(at(1), &syn("198.51.100.1:1"))), one);
    assert_eq!(cluster.it.route(at(1), &ack("198.51.100.1:9", 1)), Verdict::Drop(DropReason::NoNode));
    cluster.settle();
    assert_eq!(node_of(cluster.it.route(at(1), &ack("198.51.100.1:9", 1))), one);
    let two = cluster.join("two", 0).unwrap();
    let nodes: BTreeSet<_> =
        (2..4).map(|port| node_of(cluster.it.route(at(1), &syn(&format!("198.51.100.1:{port}"))))).collect();
    assert_eq!(nodes, BTreeSet::from([one, two]));
    assert_eq!(node_of(cluster.it.route(at(1), &ack("198.51.100.1:1", 5))), one, "what is open stays");
}

#[test]
fn those_who_stay_are_still_taken_in_turn_when_one_leaves() {
    let mut cluster = Cluster::new(Model::RoundRobin);
    let ids = ["one", "two", "three"].map(|name| cluster.join(name, 0).unwrap());
    assert_eq!(node_of(cluster.it.route(at(1), &syn("198.51.100.1:1"))), ids[0]);
    cluster.leave(ids[0]);
    let turns: Vec<_> =
        (2..6).map(|port| node_of(cluster.it.route(at(1), &syn(&format!("198.51.100.1:{port}"))))).collect();
    assert_eq!(turns, [ids[1], ids[2], ids[1], ids[2]]);
}

#[test]
fn a_place_is_free_when_nothing_names_it() {
    let mut cluster = Cluster::new(Model::Session);
    for name in ["one", "two", "three"] {
        cluster.join(name, 0).unwrap();
    }
    cluster.settle();
    let client = "198.51.100.1:1";
    let node = node_of(cluster.it.route(at(1), &syn(client)));
    cluster.it.route(at(1), &ack(client, 5));
    let stale = cluster.plan();
    cluster.leave(node);
    assert_eq!(cluster.join("four", 1), None, "flows and clients of the one before are still known");
    let mut told = 0;
    while cluster.it.sweep(|_| told += 1) {}
    cluster.free_places();
    assert_eq!((told, cluster.join("four", 1)), (1, None), "it still has places");
    cluster.it.set_places(Arc::new(stale.make()));
    cluster.free_places();
    assert_eq!(cluster.join("four", 1), None, "tables of before it left are not taken");
    cluster.settle();
    assert_eq!(cluster.join("four", 1), Some(node));
    assert_ne!(
        node_of(cluster.it.route(at(2), &syn("198.51.100.1:2"))),
        node,
        "its client is not the next one's"
    );
}

/// News of a node that has left may come behind that.
#[test]
fn news_of_one_that_has_left_is_ignored() {
    let mut cluster = Cluster::new(Model::Session);
    let id = cluster.join("one", 0).unwrap();
    cluster.leave(id);
    cluster.it.set_state(id, State::Up);
    cluster.it.announce(at(1), "198.51.100.1".parse().unwrap(), id, Duration::from_secs(9));
    cluster.it.leave(id);
    assert_eq!(cluster.it.node(id).state, State::Down);
    assert_eq!(cluster.it.route(at(1), &syn("198.51.100.1:1")), Verdict::Drop(DropReason::NoNode));
    assert_eq!(cluster.it.clients().0, 0);
}

/// Lives are counted in eight bits: the 256th is held back until nobody of the first is left.
#[test]
fn lives_that_come_round_are_not_mixed_up() {
    for flaps in [255, 256, 257, 1000] {
        let mut cluster = Cluster::new(Model::RoundRobin);
        let id = cluster.join("one", 0).unwrap();
        let client = "198.51.100.1:1";
        cluster.it.route(at(1), &syn(client));
        cluster.it.route(at(1), &ack(client, 5));
        for _ in 0..flaps {
            cluster.it.set_state(id, State::Down);
            cluster.it.set_state(id, State::Up);
        }
        let verdict = cluster.it.route(at(2), &ack(client, 6));
        assert!(matches!(verdict, Verdict::Reset(_)), "{flaps}: {verdict:?}");
        cluster.sweep();
        assert_eq!(cluster.it.node(id).state, State::Up, "{flaps}: it is held back no longer than that");
    }
}

/// A node that comes and goes all the time does not keep another one's place from being free.
#[test]
fn a_sweep_ends_for_each_whatever_others_do() {
    let mut cluster = Cluster::new(Model::RoundRobin);
    let [one, two] = ["one", "two"].map(|name| cluster.join(name, 0).unwrap());
    cluster.settle();
    cluster.leave(one);
    cluster.settle();
    for _ in 0..100 {
        cluster.it.set_state(two, State::Down);
        cluster.it.set_state(two, State::Up);
        cluster.it.sweep(|_| ());
    }
    cluster.free_places();
    assert!(cluster.free.contains(&one));
}

#[derive(Clone, Debug)]
enum Step {
    Open { client: u8, port: u8 },
    Talk { client: u8, port: u8 },
    Announce { client: u8, node: u16 },
    Join,
    Leave { node: u16 },
    Flap { node: u16, times: u16, up: bool },
    Sweep { steps: u8 },
    Plan,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let (client, port, node) = (0u8..4, 0u8..3, 0..ROOM);
    let half = any::<bool>();
    prop_oneof![
        6 => (client.clone(), port.clone()).prop_map(|(client, port)| Step::Open { client, port }),
        6 => (client.clone(), port).prop_map(|(client, port)| Step::Talk { client, port }),
        1 => (client, node.clone()).prop_map(|(client, node)| Step::Announce { client, node }),
        3 => Just(Step::Join),
        2 => node.clone().prop_map(|node| Step::Leave { node }),
        2 => (node, prop_oneof![Just(1u16), 250u16..260], half)
            .prop_map(|(node, times, up)| Step::Flap { node, times, up }),
        2 => (0u8..30).prop_map(|steps| Step::Sweep { steps }),
        1 => Just(Step::Plan),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    /// Whatever comes, goes and comes back: a packet goes to the node that has its connection, in the life it began in, and a
    /// client to the node it was at, never to who has its place later.
    #[test]
    fn nobody_is_taken_for_another(steps in prop::collection::vec(step(), 0..120)) {
        let mut cluster = Cluster::new(Model::Session);
        let mut lives = 0;
        // The holder each connection and each client was given to.
        let mut flows: HashMap<(u8, u8), (NodeId, Holder)> = HashMap::new();
        let mut clients: HashMap<u8, String> = HashMap::new();
        let mut planned = cluster.plan();
        let name = |client: u8, port: u8| format!("198.51.100.{client}:{}", 1000 + u16::from(port));
        for step in steps {
            match step {
                Step::Open { client, port } => {
                    let before = *cluster.it.counters();
                    let verdict = cluster.it.route(at(1), &syn(&name(client, port)));
                    let Verdict::Forward(id) = verdict else {
                        prop_assert_eq!(verdict, Verdict::Drop(DropReason::NoNode));
                        continue;
                    };
                    let holder = cluster.holders.get(&id);
                    prop_assert!(holder.is_some(), "{:?} is nobody's", id);
                    let holder = holder.unwrap().clone();
                    let after = *cluster.it.counters();
                    if after.by_client > before.by_client {
                        prop_assert_eq!(&holder.name, &clients[&client]);
                    }
                    if after.by_client + after.in_turn == before.by_client + before.in_turn {
                        prop_assert_eq!(&flows[&(client, port)], &(id, holder.clone()), "a known flow");
                    }
                    if after.in_turn > before.in_turn {
                        clients.insert(client, holder.name.clone());
                    }
                    flows.insert((client, port), (id, holder));
                }
                Step::Talk { client, port } => {
                    let unknown = cluster.it.counters().unknown;
                    let verdict = cluster.it.route(at(1), &ack(&name(client, port), 5));
                    let live = flows.get(&(client, port)).filter(|(id, holder)| {
                        cluster.holders.get(id).is_some_and(|now| now.life == holder.life)
                    });
                    if let Some((id, _)) = live {
                        prop_assert_eq!(verdict, Verdict::Forward(*id));
                        prop_assert_eq!(cluster.it.counters().unknown, unknown, "its flow is known");
                    } else if let Verdict::Forward(id) = verdict {
                        prop_assert_eq!(cluster.it.counters().unknown, unknown + 1, "by its place only");
                        prop_assert!(cluster.holders.contains_key(&id), "{:?} is nobody's", id);
                        // And there it stays.
                        flows.insert((client, port), (id, cluster.holders[&id].clone()));
                    }
                }
                Step::Announce { client, node } => {
                    let id = NodeId(node);
                    let address = format!("198.51.100.{client}").parse().unwrap();
                    cluster.it.announce(at(1), address, id, Duration::from_secs(60));
                    if let Some(holder) = cluster.holders.get(&id) {
                        clients.insert(client, holder.name.clone());
                    }
                }
                Step::Join => {
                    lives += 1;
                    cluster.join(&format!("node-{lives}"), lives);
                }
                Step::Leave { node } if cluster.holders.contains_key(&NodeId(node)) => cluster.leave(NodeId(node)),
                Step::Flap { node, times, up } => {
                    let id = NodeId(node);
                    let Some(holder) = cluster.holders.get_mut(&id) else { continue };
                    lives += 1;
                    holder.life = lives;
                    holder.state = if up { State::Up } else { State::Down };
                    for _ in 0..times {
                        cluster.it.set_state(id, State::Up);
                        cluster.it.set_state(id, State::Down);
                    }
                    if up {
                        cluster.it.set_state(id, State::Up);
                    }
                }
                Step::Sweep { steps } => {
                    for _ in 0..steps {
                        cluster.it.sweep(|_| ());
                    }
                    cluster.free_places();
                }
                Step::Plan => planned = cluster.plan(),
                Step::Settle => {
                    cluster.it.set_places(Arc::new(planned.make()));
                    planned = cluster.plan();
                    cluster.free_places();
                }
                Step::Leave { .. } => {}
            }
        }
        // In the end every place that nobody holds is free.
        cluster.settle();
        cluster.sweep();
        prop_assert_eq!(cluster.free.len() + cluster.holders.len(), usize::from(ROOM));
    }
}
