//! Several distributors of the same services: any of them can go on with the connections of any other (design.md,
//! "Distributor").
//!
//! In: their notices, the time. Out: notices, and packets that were held for an answer. Part of [`Distributor`].
//!
//! Routers spread packets over distributors and spread them anew when one comes or goes, so that a connection may arrive
//! at one that did not see it begin. All have the same Maglev places. A new connection that goes anywhere else is told
//! to the others, and its SYN is held until one of them has it; one that goes to its place is told once it is open, since
//! places change when nodes do. A segment of a connection that is not known is held while the others are asked.
//! Two that meet tell each other all they know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_time::Time;

use crate::distributor::{Client, Distributor, DropReason, Verdict};
use crate::flow::{FlowKey, Known, address, tick, ticks};
use crate::packet::{Segment, is_of_a_client};
use crate::peers::channel::{Refused, WAITING_MAX};
use crate::peers::holds::{HoldId, SYNS};
use crate::peers::notice::{FlowName, Name, Notice, Stage};
use crate::peers::seal::Secrets;
use crate::peers::{Answer, Ends, Marks, PeerId, Walk, Word, datagram};
use crate::pool::Node;
use crate::ways::WAYS;
use crate::{NodeId, PACKET_BYTES_MAX};

/// Buckets of the flow table that are told a peer in one turn, while the two meet.
const WALK_BUCKETS: usize = 16;
const _: () = assert!(WALK_BUCKETS * WAYS < WAITING_MAX);
/// Of an idle time, after which what is alive is told again, as a divisor.
const REFRESH_DIVISOR: u32 = 4;
/// A connection of which segments came here so lately is where it is, whatever another distributor says.
const OURS_TIME: Duration = Duration::from_secs(2);
/// New connections wait for nobody who has been silent for so long: they go where they need no word.
const SILENT_FOR_SYNS: Duration = Duration::from_millis(100);
/// Segments of connections that are not known do for longer: at the wrong node they would be answered with a reset, and
/// what is dropped meanwhile is sent again.
const SILENT_FOR_STRAYS: Duration = Duration::from_secs(1);

/// Nodes and services as others know them.
pub(crate) struct Names {
    nodes: Vec<Name>,
    services: Vec<Name>,
    node_ids: BTreeMap<Name, NodeId>,
}

impl Names {
    pub(crate) fn new(nodes: &[Node], services: impl Iterator<Item = SocketAddr>) -> Names {
        let nodes: Vec<_> = nodes.iter().map(|node| Name::of(&node.name)).collect();
        let node_ids = nodes.iter().copied().zip((0..).map(NodeId)).collect();
        Names { nodes, services: services.map(|address| Name::of(&address.to_string())).collect(), node_ids }
    }

    /// With room for so many nodes.
    pub(crate) fn reserve(&mut self, nodes: usize) {
        self.nodes.resize(nodes, Name::of(""));
    }

    /// A node has come.
    pub(crate) fn join(&mut self, id: NodeId, name: &str) {
        self.nodes[id.index()] = Name::of(name);
        self.node_ids.insert(Name::of(name), id);
    }

    /// A node is none any more.
    pub(crate) fn leave(&mut self, id: NodeId) {
        // Another one of that name may have come before.
        let name = self.nodes[id.index()];
        if self.node_ids.get(&name) == Some(&id) {
            self.node_ids.remove(&name);
        }
    }

    fn node(&self, id: NodeId) -> Name {
        self.nodes[id.index()]
    }

    fn flow(&self, key: &FlowKey) -> FlowName {
        FlowName { client: key.client, port: key.port, service: self.services[usize::from(key.service)] }
    }

    fn key(&self, flow: &FlowName) -> Option<FlowKey> {
        let service = self.services.iter().position(|name| *name == flow.service)?;
        Some(FlowKey { client: flow.client, port: flow.port, service: service as u16 })
    }

    fn notice(&self, key: &FlowKey, known: &Known, is_news: bool) -> Notice {
        Notice::Flow { flow: self.flow(key), node: self.node(known.node()), stage: known.stage, is_news }
    }
}

impl Distributor {
    /// Another distributor has been met; the two tell each other all they know.
    ///
    /// # Panics
    /// If the ends are of two families, or there is no such number: mistakes of the caller.
    pub fn add_peer(&mut self, id: PeerId, ends: Ends, secrets: Secrets) {
        assert!(datagram::is_one_family(ends), "ends of one family");
        self.peers.add(id, ends, secrets);
    }

    /// Another distributor is gone.
    pub fn remove_peer(&mut self, now: Time, id: PeerId) {
        if self.peers.remove(id) {
            // What it had told only some of the others goes round.
            for (_, peer) in self.peers.each() {
                peer.walk = Walk::Copy(0);
            }
            for answer in self.peers.answers.waits() {
                answer.from &= !(1 << id.0);
            }
            self.settle_answers(now);
        }
    }

    /// How many other distributors there are, and how many of them have told all they knew.
    pub fn peers(&self) -> (usize, usize) {
        self.peers.count()
    }

    /// Connections that one of them has told of since the two met, of those it knew then, and whether these are all; `None`: it
    /// is not there.
    ///
    /// # Panics
    /// If there is no such number: a mistake of the caller.
    pub fn copied(&self, id: PeerId) -> Option<(u64, bool)> {
        self.peers.copied(id)
    }

    /// Packets held.
    pub fn held(&self) -> usize {
        self.peers.held()
    }

    /// Takes the payload of a [`Verdict::Datagram`].
    pub fn hear(&mut self, now: Time, datagram: &mut [u8]) {
        let Some(from) = self.peers.whose(datagram) else {
            self.counters.drop_forged += 1;
            return;
        };
        let mut heard = std::mem::take(&mut self.heard);
        let taken = match self.peers.get(from) {
            Some(peer) => peer.channel.take(now, datagram, |notice| heard.push(notice)),
            None => Err(Refused::Forged),
        };
        match taken {
            Ok(_) => self.counters.datagrams_heard += 1,
            Err(Refused::Forged) => self.counters.drop_forged += 1,
            Err(Refused::OutOfOrder) => self.counters.datagrams_out_of_order += 1,
        }
        for notice in heard.drain(..) {
            self.counters.notices_heard += 1;
            self.heed(now, from, notice);
        }
        self.heard = heard;
        if taken == Ok(true) {
            self.settle_words(now);
        }
        self.settle_answers(now);
    }

    /// What is due: datagrams that were not acknowledged, packets that have waited for long enough, tables to be told.
    /// Answers whether there was something.
    pub fn keep_together(&mut self, now: Time) -> bool {
        if self.peers.is_empty() && self.peers.held() == 0 {
            return false;
        }
        let mut busy = false;
        for (_, peer) in self.peers.each() {
            if peer.channel.timers(now) {
                self.counters.datagrams_again += 1;
                busy = true;
            }
        }
        while let Some((id, word)) = self.peers.words.expire(now) {
            self.counters.held_late += 1;
            self.counters.by_place += 1;
            self.go_to_place(now, id, word.key, Stage::Opening);
            busy = true;
        }
        while let Some((id, _)) = self.peers.answers.expire(now) {
            self.counters.held_late += 1;
            // Anywhere but at its node it would be answered with a reset; it will be sent again, and be asked for again.
            self.peers.released.push((id, Verdict::Drop(DropReason::Unanswered)));
            busy = true;
        }
        busy | self.walk(now)
    }

    /// A held packet whose wait is over, and what becomes of it; the caller takes it from its place, which may be another
    /// one's next.
    pub fn released(&mut self) -> Option<(HoldId, Verdict)> {
        let (id, verdict) = self.peers.released.pop()?;
        self.peers.free(id);
        self.count(verdict);
        Some((id, verdict))
    }

    /// The next packet to another distributor, its length; checksums are in it.
    pub fn poll_peers(&mut self, now: Time, out: &mut [u8; PACKET_BYTES_MAX]) -> Option<usize> {
        let len = self.peers.poll(now, out)?;
        self.counters.datagrams_told += 1;
        Some(len)
    }

    /// When [`keep_together`](Distributor::keep_together) has something to do at the earliest.
    pub fn poll_at(&self) -> Option<Time> {
        self.peers.poll_at()
    }

    /// A connection that begins: its SYN waits until another distributor knows that it goes to `node`. `None`: nobody
    /// would know soon.
    pub(crate) fn hold_begin(&mut self, now: Time, key: FlowKey, node: NodeId) -> Option<HoldId> {
        if self.peers.words.is_full() || self.peers.heard_within(SILENT_FOR_SYNS, now) == 0 {
            return None;
        }
        let life = self.lives[node.index()];
        let marks = self.tell(self.names.notice(&key, &Known::new(now, node, life, Stage::Opening), true));
        self.peers.words.add(now, Word { key, node, life, marks })
    }

    /// A segment of a connection that is not known here: it waits for the others' answers. `None`: there is nobody to ask.
    fn hold_unknown(&mut self, now: Time, segment: &Segment, key: FlowKey) -> Option<HoldId> {
        if self.peers.answers.is_full() {
            return None;
        }
        let asked = self.peers.answers.waits().find(|answer| answer.key == key).map(|answer| answer.from);
        let from = asked.unwrap_or_else(|| self.peers.heard_within(SILENT_FOR_STRAYS, now));
        if from == 0 {
            return None;
        }
        let id = self.peers.answers.add(now, Answer { key, segment: *segment, from })?;
        if asked.is_none() {
            self.counters.asked += 1;
            let flow = self.names.flow(&key);
            self.tell(Notice::Ask { flow });
        }
        Some(id)
    }

    /// Whether a SYN of this connection is held.
    pub(crate) fn is_held(&mut self, key: &FlowKey) -> bool {
        self.peers.words.waits().any(|word| word.key == *key)
    }

    /// A connection has come further.
    pub(crate) fn tell_of(&mut self, key: &FlowKey, known: &Known) {
        if !self.peers.is_empty() {
            self.tell(self.names.notice(key, known, true));
        }
    }

    fn tell(&mut self, notice: Notice) -> Marks {
        let (marks, lost) = self.peers.tell_all(notice);
        self.counters.notices_lost += lost;
        marks
    }

    fn tell_one(&mut self, to: PeerId, notice: Notice) {
        let told = self.peers.get(to).map(|peer| peer.channel.tell(notice).is_some());
        self.counters.notices_lost += u64::from(told == Some(false));
    }

    /// What a notice means here.
    fn heed(&mut self, now: Time, from: PeerId, notice: Notice) {
        match notice {
            Notice::Flow { flow, node, stage, is_news } => {
                if let Some(peer) = self.peers.get(from).filter(|peer| !peer.has_told_all) {
                    peer.copied += 1;
                }
                let named = self.key(&flow).zip(self.names.node_ids.get(&node).copied());
                let Some((key, node)) = named else {
                    self.counters.notices_strange += 1;
                    return;
                };
                self.learn(now, from, key, node, (stage, is_news));
                self.answer(now, &key);
            }
            Notice::Ask { flow } => {
                let known = self.key(&flow).and_then(|key| Some((key, self.alive(now, &key)?)));
                let answer = match &known {
                    Some((key, known)) => self.names.notice(key, known, false),
                    None => Notice::Unknown { flow },
                };
                self.tell_one(from, answer);
            }
            Notice::Unknown { flow } => {
                let Some(key) = self.key(&flow) else { return };
                for answer in self.peers.answers.waits().filter(|answer| answer.key == key) {
                    answer.from &= !(1 << from.0);
                }
            }
            Notice::Copied => {
                if let Some(peer) = self.peers.get(from) {
                    peer.has_told_all = true;
                }
            }
        }
    }

    /// A connection that there can be here: of a service of this distributor, by a client whose packets would be taken.
    fn key(&self, flow: &FlowName) -> Option<FlowKey> {
        let key = self.names.key(flow)?;
        let (client, (service, _)) = (address(key.client), &self.services[usize::from(key.service)]);
        let is_one_family = client.is_ipv4() == service.is_ipv4();
        (is_one_family && is_of_a_client(client, key.port)).then_some(key)
    }

    /// A connection as another distributor has it, and whether it has come so far just now.
    fn learn(&mut self, now: Time, from: PeerId, key: FlowKey, node: NodeId, said: (Stage, bool)) {
        let (stage, is_news) = said;
        let (hash, life, times) = (self.hash(&key), self.lives[node.index()], self.times());
        if let Some(known) = self.flows.find(hash, &key).filter(|known| !known.is_over(now, times)) {
            if known.node() == node && known.life == life {
                // Its segments say more than what another one remembers of it, and a SYN says nothing of what follows.
                let is_further = match known.is_ours() {
                    _ if known.stage == Stage::Stray => true,
                    true => stage == Stage::Closing,
                    false => stage != Stage::Opening,
                };
                known.share();
                if is_further {
                    known.stage = stage;
                }
                if !known.is_ours() {
                    known.seen = tick(now);
                }
                return;
            }
            let lives = self.lives[known.node().index()] == known.life;
            // Of what nobody else was told it was not sure that it is here.
            let is_here = !known.may_begin_again() && !known.is_alone();
            let is_here = is_here && known.was_heard_within(OURS_TIME, tick(now));
            // One that both remember elsewhere stays where the same one of them has it, for both; what happens now is another
            // connection of that name, unless it is but an end.
            let is_from_before = (!is_news || stage == Stage::Closing) && known.stage != Stage::Stray;
            let names = &self.names;
            let comes_first = (known.stage, names.node(known.node())) > (stage, names.node(node));
            if lives && is_here {
                return;
            }
            if lives && is_from_before && comes_first {
                let known = self.names.notice(&key, &*known, false);
                self.tell_one(from, known);
                return;
            }
        }
        let known = Known::told(now, node, life, stage);
        self.know(now, hash, key, known);
        self.counters.flows_learnt += 1;
        let (service, client) = (usize::from(key.service), address(key.client));
        if stage != Stage::Closing && self.services[service].1.model.knows_clients() {
            let until = tick(now).wrapping_add(ticks(self.config.client_time));
            self.remember_if_new(now, client, service, Client { node, until, has_session: false });
        }
    }

    /// What is known of a connection, if it and its node live.
    fn alive(&mut self, now: Time, key: &FlowKey) -> Option<Known> {
        let (hash, times) = (self.hash(key), self.times());
        let known = *self.flows.find(hash, key)?;
        let lives = self.lives[known.node().index()] == known.life;
        (lives && !known.is_over(now, times)).then_some(known)
    }

    /// One of the others knows a connection that was asked for.
    fn answer(&mut self, now: Time, key: &FlowKey) {
        if self.alive(now, key).is_none() {
            return;
        }
        let hash = self.hash(key);
        let Distributor { flows, peers, counters, .. } = self;
        let Some(known) = flows.find(hash, key) else { return };
        let (released, mut is_further) = (&mut peers.released, false);
        peers.answers.release(
            |answer| answer.key == *key,
            |id, answer| {
                counters.found += 1;
                is_further |= known.hear(now, &answer.segment);
                released.push((id, Verdict::Forward(known.node())));
            },
        );
        let known = *known;
        if is_further {
            self.tell_of(key, &known);
        }
    }

    /// Lets go of the SYNs that another distributor knows of.
    fn settle_words(&mut self, now: Time) {
        let mut released = std::mem::take(&mut self.peers.released);
        let mut lost = ArrayVec::<_, { SYNS.end as usize }>::new();
        for (id, word) in self.peers.known() {
            match self.lives[word.node.index()] == word.life {
                true => released.push((id, Verdict::Forward(word.node))),
                false => lost.push((id, word.key)),
            }
        }
        self.peers.released = released;
        for (id, key) in lost {
            self.counters.by_place += 1;
            self.go_to_place(now, id, key, Stage::Opening);
        }
    }

    /// Lets go of the segments that nobody knows the connection of.
    fn settle_answers(&mut self, now: Time) {
        let mut nobodys = ArrayVec::<_, { SYNS.end as usize }>::new();
        self.peers.answers.release(|answer| answer.from == 0, |id, answer| nobodys.push((id, answer)));
        for (id, Answer { key, segment, .. }) in nobodys {
            // It may have begun anew here while the others were asked.
            if let Some(known) = self.alive(now, &key).filter(|known| !known.is_alone()) {
                self.peers.released.push((id, Verdict::Forward(known.node())));
                continue;
            }
            self.counters.unknown += 1;
            self.go_to_place(now, id, key, stage_of_stray(&segment));
        }
    }

    /// A held packet of a connection that goes where it needs nobody's word.
    fn go_to_place(&mut self, now: Time, id: HoldId, key: FlowKey, stage: Stage) {
        let verdict = self.put_in_place(now, key, stage);
        self.peers.released.push((id, verdict));
    }

    /// Whether nobody else has been told of a connection that is known here, and its place is another one since: then it may
    /// have begun anew at another distributor, which would have told nobody of one that is at its place.
    pub(crate) fn is_doubtful(&self, hash: u64, key: &FlowKey) -> bool {
        let is_it = |known: &&Known| !self.peers.is_empty() && known.is_alone();
        let Some(known) = self.flows.get(hash, key).filter(is_it) else { return false };
        let lives = self.lives[known.node().index()] == known.life;
        lives && self.by_place(usize::from(key.service), key) != Some(known.node())
    }

    /// A connection that nobody knows belongs to its place, and what goes on where it was before, and stays there.
    fn put_in_place(&mut self, now: Time, key: FlowKey, stage: Stage) -> Verdict {
        let hash = self.hash(&key);
        let before = self.flows.get(hash, &key).copied();
        let is_it = |known: &Known| stage != Stage::Opening && self.lives[known.node().index()] == known.life;
        let was_at = before.filter(is_it).map(|known| known.node());
        let stage = if was_at.is_some() && stage == Stage::Stray { Stage::Answered } else { stage };
        let Some(node) = was_at.or_else(|| self.by_place(usize::from(key.service), &key)) else {
            return Verdict::Drop(DropReason::NoNode);
        };
        let life = self.lives[node.index()];
        let known = Known::new(now, node, life, stage);
        if stage == Stage::Stray && before.is_none_or(|known| known.is_alone()) {
            self.know(now, hash, key, known.alone());
        } else {
            // Others may have heard otherwise.
            self.know(now, hash, key, known);
            self.tell_of(&key, &known);
        }
        Verdict::Forward(node)
    }

    /// Goes on with telling the others what is in the flow table.
    fn walk(&mut self, now: Time) -> bool {
        let (flows, lives, names, times) = (&mut self.flows, &self.lives, &self.names, self.config.times());
        let refresh_time = self.config.idle_time / REFRESH_DIVISOR;
        let mut busy = false;
        for (_, peer) in self.peers.each() {
            let (from, is_copy) = match peer.walk {
                Walk::Rest(until) if until.is_due(now) => (0, false),
                Walk::Rest(_) => continue,
                Walk::Copy(at) => (at, true),
                Walk::Refresh(at) => (at, false),
            };
            if peer.channel.room() <= WALK_BUCKETS * WAYS {
                continue;
            }
            busy = true;
            let channel = &mut peer.channel;
            let next = flows.sweep(from, WALK_BUCKETS, |key, known| {
                let is_alive = lives[known.node().index()] == known.life && !known.is_over(now, times);
                let is_fresh = known.stage.is_open() && known.was_heard_within(refresh_time, tick(now));
                // Of a stray one nobody knows where it is.
                if is_alive && (is_copy && known.stage != Stage::Stray || is_fresh) {
                    // There is room: that was looked at above.
                    let _ = channel.tell(names.notice(key, known, false));
                }
                true
            });
            peer.walk = match (next, is_copy) {
                (Some(at), true) => Walk::Copy(at),
                (Some(at), false) => Walk::Refresh(at),
                (None, _) => {
                    if is_copy {
                        let _ = peer.channel.tell(Notice::Copied);
                    }
                    Walk::Rest(now + refresh_time)
                }
            };
        }
        busy
    }

    /// A segment of a connection that is not known: forgotten, or of before this distributor was there.
    pub(crate) fn unknown_segment(&mut self, now: Time, segment: &Segment, key: FlowKey) -> Verdict {
        if segment.rst {
            // It ends nothing that would be missed.
            return Verdict::Drop(DropReason::Stray);
        }
        match self.hold_unknown(now, segment, key) {
            Some(id) => Verdict::Hold(id),
            None => {
                self.counters.unknown += 1;
                self.put_in_place(now, key, stage_of_stray(segment))
            }
        }
    }
}

/// How far a connection has come of which one segment is known.
fn stage_of_stray(segment: &Segment) -> Stage {
    if segment.fin { Stage::Closing } else { Stage::Stray }
}
