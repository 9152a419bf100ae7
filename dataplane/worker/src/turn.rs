//! One turn of a worker, in stage order. Read this file first.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_app::App;
use keyferry_fabric::{BURST as COMPLETIONS, Completion};
use keyferry_http::Ends;
use keyferry_lease::lender::Stage as LeaseStage;
use keyferry_lease::{Breach, LeaseId, Message, helper, lender};
use keyferry_nic::{BURST, Nic, prefetch};
use keyferry_tcp::{Event, List, Slab, Tcp};
use keyferry_time::{Time, Wheel};
use keyferry_tls::Server;
use zeroize::Zeroize;

use crate::access::Access;
use crate::announce::Announcements;
use crate::config::{Config, Parts};
use crate::conn::{Conn, Reply, Tls};
use crate::counters::{self, Counters};
use crate::drain::Drain;
use crate::homes::Homes;
use crate::latency::Latency;
use crate::load::Load;
use crate::mailbox::{Connect, Mail};
use crate::peer::{Peer, PeerId};
use crate::pool::Pools;
use crate::port::Port;
use crate::probe::{Probe, Stage};
use crate::receive::{Ahead, Receive};
use crate::run::Turning;
use crate::segment::Outgoing;
use crate::sessions::Sessions;
use crate::shed::Shed;
use crate::tls_counters::TlsCounters;

/// Packets that are no SYNs, after which the rest of the turn runs.
const PACKETS_A_TURN: usize = 2 * BURST;

/// Receive bursts in a turn, at most: SYNs wait elsewhere or are dropped, so that what is behind them in the port's queue is
/// reached, as much as such a queue holds.
const BURSTS_A_TURN_MAX: usize = 32;

/// Completion bursts handled for one queue pair a turn.
const COMPLETION_BURSTS_A_TURN: usize = 4;

/// Bytes of sealed records that are sent before more are sealed: a part of what a core's second-level cache holds.
const EMIT_BYTES: usize = 64 << 10;

/// Bytes of sealed records after which a turn ends, and what else there is to answer is the next one's: what was
/// acknowledged meanwhile gives its buffers back while they are in the processor's cache, and nothing waits long for its turn.
const TURN_BYTES: usize = 256 << 10;
const _: () = assert!(TURN_BYTES >= EMIT_BYTES);

/// Connections without a buffer that are looked at again in a turn.
const STARVED_A_TURN: usize = 256;

/// One core's share of the data plane: its queue of the port, its connections, its queue pairs. Shared with nobody.
pub struct Worker<N: Nic, A: App> {
    pub(crate) now: Time,
    pub(crate) config: Config,
    pub(crate) port: Port<N>,
    pub(crate) receive: Receive<N::Packet>,
    pub(crate) tcp: Tcp<Outgoing>,
    pub(crate) tls: Server,
    /// By the connection's index at TCP.
    pub(crate) conns: Slab<Option<Conn>>,
    pub(crate) deadlines: Wheel,
    pub(crate) app: keyferry_app::Port<A>,
    pub(crate) peers: Vec<Option<Peer>>,
    pub(crate) load: Load,
    pub(crate) pools: Pools,
    pub(crate) counters: Counters,
    /// Failures and alerts of TLS, by reason.
    pub(crate) tls_counters: TlsCounters,
    /// How long replies take.
    pub(crate) latency: Latency,
    pub(crate) mailbox: Arc<ArrayQueue<Mail>>,
    /// Whoever wants to know which clients have sessions here.
    pub(crate) announcements: Option<Announcements>,
    /// What is told of requests.
    pub(crate) access: Access,
    /// How far its end is.
    pub(crate) drain: Drain,
    /// The last turn had something to do.
    was_busy: bool,
    /// Counts decisions, so that ties go round the peers.
    pub(crate) decisions: usize,
    /// Connections to look at again.
    pub(crate) ready: List,
    /// Connections that wait for a buffer.
    pub(crate) starved: List,
    /// Connections that have their AEAD contexts, the one looked at longest ago first.
    pub(crate) awake: List,
    /// Handshakes that wait for sessions of other nodes.
    pub(crate) sessions: Sessions,
    /// Where sessions live.
    pub(crate) homes: Homes,
    /// Budgets, and who is let go when something runs short.
    pub(crate) shed: Shed,
    /// Storage of one call, kept to save its allocation.
    pub(crate) flight: Vec<u8>,
    pub(crate) views: Vec<keyferry_decide::Peer>,
    pub(crate) late: Vec<(LeaseId, LeaseStage, usize)>,
    pub(crate) sealed_chunks: Vec<keyferry_app::Chunk>,
    /// Bytes of records made since TCP sent last.
    pub(crate) sealed_bytes: usize,
    /// Bytes of records that this turn has made and TCP has sent.
    turn_bytes: usize,
    /// The last turn ended before all was answered.
    was_cut: bool,
    inbox: Box<[u8]>,
    lives: Vec<u8>,
}

impl<N: Nic, A: App> Worker<N, A> {
    /// A worker with no connection and no peer. Everything it needs later is allocated here.
    pub fn new(parts: Parts<N, A>) -> Worker<N, A> {
        let Parts { config, nic, link, mut tcp, tls, app, receive, pools, mailbox } = parts;
        tcp.hint_memory(keyferry_nic::prefer_hugepages, prefetch);
        let mut port = Port::new(nic, link);
        let pools = Pools::new(&pools, port.buffers(pools.records, keyferry_tls::RECORD_BYTES_MAX));
        let list = || List::new(config.connections, keyferry_nic::prefer_hugepages);
        Worker {
            now: Time::ZERO,
            port,
            receive,
            tcp,
            tls,
            conns: Slab::new(config.connections, keyferry_nic::prefer_hugepages),
            deadlines: Wheel::new(config.connections, crate::config::DEADLINE_TICK),
            app,
            peers: Vec::with_capacity(crate::peer::PEERS_MAX),
            load: Load::new(config.app_slots),
            pools,
            counters: Counters::default(),
            tls_counters: TlsCounters::default(),
            latency: Latency::default(),
            mailbox,
            announcements: None,
            access: Access::off(),
            drain: Drain::default(),
            was_busy: false,
            decisions: 0,
            ready: list(),
            starved: list(),
            awake: list(),
            sessions: Sessions::new(),
            homes: Homes::new(&config.members, config.node),
            shed: Shed::new(config.connections),
            flight: Vec::with_capacity(16 * 1024),
            views: Vec::with_capacity(crate::peer::PEERS_MAX),
            late: Vec::with_capacity(64),
            sealed_chunks: Vec::with_capacity(8),
            sealed_bytes: 0,
            turn_bytes: 0,
            was_cut: false,
            inbox: vec![0; config.message_bytes].into_boxed_slice(),
            lives: vec![0; crate::peer::PEERS_MAX],
            config,
        }
    }

    /// Tells from here on which clients have shaken hands.
    pub fn announce_to(mut self, announcements: Announcements) -> Worker<N, A> {
        self.announcements = Some(announcements);
        self
    }

    /// Tells from here on of requests.
    pub fn log_to(mut self, access: Access) -> Worker<N, A> {
        self.access = access;
        self
    }

    /// Does everything that can be done at `now`. Returns whether there was anything to do.
    pub fn turn(&mut self, now: Time) -> bool {
        self.turn_probed(now, &mut ())
    }

    /// As [`turn`](Worker::turn), telling a probe where each stage ends.
    pub fn turn_probed(&mut self, now: Time, probe: &mut impl Probe) -> bool {
        if self.was_busy {
            // The turn itself, and what its core did for the kernel meanwhile: the clock is read once a turn.
            self.counters.busy_ns += (now - self.now).as_nanos() as u64;
        }
        self.latency.turned(now);
        self.now = now;
        self.port.now = now;
        (self.turn_bytes, self.was_cut) = (0, false);
        probe.begin();
        let mut busy = self.read_mail();
        busy |= self.take_packets();
        // What is acknowledged is for those who wait, before others can ask for it.
        busy |= self.take_released();
        busy |= self.take_starved();
        probe.end_of(Stage::Packets);
        busy |= self.take_left_over();
        busy |= self.take_events();
        probe.end_of(Stage::Requests);
        busy |= self.take_parts();
        probe.end_of(Stage::Replies);
        for peer in 0..self.peers.len() {
            busy |= self.take_completions(peer);
        }
        probe.end_of(Stage::Fabric);
        busy |= self.take_ready();
        busy |= self.take_starved();
        busy |= self.hand_over();
        self.app.flush();
        self.timers();
        probe.end_of(Stage::Timers);
        self.emit();
        busy |= self.take_released();
        probe.end_of(Stage::Emit);
        self.port.link_turn();
        busy |= self.port.flush() > 0;
        probe.end_of(Stage::Transmit);
        busy |= self.take_syns();
        self.counters.turns += 1;
        self.counters.turns_idle += u64::from(!busy);
        self.was_busy = busy;
        busy
    }

    /// When the next turn is due though nothing arrives.
    pub fn poll_at(&self) -> Option<Time> {
        if self.was_cut || self.has_left_over() {
            return Some(self.now);
        }
        let deadlines = [
            self.tcp.poll_at(),
            self.deadlines.next(),
            self.sessions.next(),
            self.next_rest(),
            self.port.link.poll_at(),
            self.app.poll_at(),
            self.drain.next(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// What control has sent.
    fn read_mail(&mut self) -> bool {
        let mut busy = false;
        while let Some(mail) = self.mailbox.pop() {
            busy = true;
            match mail {
                Mail::Peer(connect) => self.connect_peer(*connect),
                Mail::Members(members) => self.set_members(&members),
                Mail::Settings(settings) => self.take_settings(*settings),
                Mail::Drain(wanted) => self.begin_drain(wanted),
                Mail::Capture(tap) => self.port.capture(tap),
            }
        }
        busy
    }

    /// Bursts of packets through link and TCP.
    fn take_packets(&mut self) -> bool {
        let mut busy = false;
        let conns = Conns { all: &self.conns, holding: &self.shed.holding, awake: &self.awake };
        for _ in 0..BURSTS_A_TURN_MAX {
            let packets = self.receive.burst(&mut self.port, &mut self.tcp, &conns);
            busy |= packets > 0;
            if packets < BURST || self.receive.others() >= PACKETS_A_TURN {
                break;
            }
        }
        busy
    }

    /// SYNs, when what others wait for is out. Their answers do not wait for the next turn.
    fn take_syns(&mut self) -> bool {
        let busy = self.receive.take_syns(&mut self.port, &mut self.tcp);
        busy | (self.port.flush() > 0)
    }

    /// Has TCP send.
    fn emit(&mut self) {
        self.turn_bytes += std::mem::take(&mut self.sealed_bytes);
        self.tcp.emit(self.now, &mut self.port);
    }

    /// Has TCP send if so much was sealed that it would leave the processor's cache before the end of the turn.
    fn emit_much(&mut self) {
        if self.sealed_bytes >= EMIT_BYTES {
            self.emit();
        }
    }

    /// Whether this turn has sealed its share; what is left is the next one's then.
    fn is_full(&mut self) -> bool {
        self.was_cut |= self.turn_bytes >= TURN_BYTES;
        self.was_cut
    }

    /// What TCP has to tell about connections.
    fn take_events(&mut self) -> bool {
        let mut busy = false;
        while !self.is_full()
            && let Some(event) = self.tcp.poll_event()
        {
            busy = true;
            match event {
                Event::Opened(id) => self.open(id),
                Event::Readable(id) => self.pump(id),
                Event::Writable(id) => self.flush(id.index()),
                Event::Eof(id) => self.eof(id),
                Event::Closed(id, reason) => self.forget(id, reason),
            }
            self.emit_much();
        }
        busy
    }

    /// Reply chunks the application has produced.
    fn take_parts(&mut self) -> bool {
        let mut busy = false;
        let mut parts = ArrayVec::<keyferry_app::Part, { keyferry_app::PARTS }>::new();
        while !self.is_full() {
            self.app.poll(&mut parts);
            if parts.is_empty() {
                break;
            }
            busy = true;
            for part in parts.drain(..) {
                self.take_part(part);
                self.emit_much();
            }
        }
        busy
    }

    /// What came over one queue pair: messages, doorbells, and room for what waits.
    fn take_completions(&mut self, peer_index: usize) -> bool {
        let mut busy = false;
        for _ in 0..COMPLETION_BURSTS_A_TURN {
            let mut completions = ArrayVec::<Completion, COMPLETIONS>::new();
            let Some(peer) = self.peers[peer_index].as_mut() else { return busy };
            peer.poll(&mut completions);
            if completions.is_empty() {
                break;
            }
            busy = true;
            for completion in completions {
                if let Err(why) = self.completion(peer_index, completion) {
                    self.count_violation(why);
                    self.lose_peer(peer_index);
                    return true;
                }
            }
        }
        if self.peers[peer_index].as_ref().is_some_and(|peer| !peer.is_ready()) {
            self.lose_peer(peer_index);
            return true;
        }
        self.unstick(peer_index);
        self.speak(peer_index);
        busy
    }

    fn count_violation(&mut self, why: Broken) {
        self.counters.peer_violations += 1;
        *match why {
            Broken::Message(Breach::Forged) => &mut self.counters.violations_forged,
            Broken::Message(Breach::Malformed) => &mut self.counters.violations_malformed,
            Broken::Message(Breach::Credit) => &mut self.counters.violations_credit,
            Broken::Lease => &mut self.counters.violations_lease,
            Broken::Flood => &mut self.counters.violations_flood,
        } += 1;
    }

    fn completion(&mut self, peer_index: usize, completion: Completion) -> Result<(), Broken> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        match completion {
            Completion::Posted(_) | Completion::Flushed(_) => Ok(()),
            Completion::Immediate(received, immediate) => {
                peer.queue_pair.repost(received);
                peer.channel.gave_back();
                Ok(self.doorbell(peer_index, immediate)?)
            }
            Completion::Message(received) => {
                // Copied so that the receive can be posted again and the message outlives the borrow of its peer.
                let mut inbox = std::mem::take(&mut self.inbox);
                let bytes = peer.queue_pair.message(&received);
                let len = bytes.len().min(inbox.len());
                inbox[..len].copy_from_slice(&bytes[..len]);
                peer.queue_pair.repost(received);
                peer.channel.gave_back();
                let outcome = self.message(peer_index, &mut inbox[..len]);
                self.inbox = inbox;
                outcome
            }
        }
    }

    fn message(&mut self, peer_index: usize, bytes: &mut [u8]) -> Result<(), Broken> {
        let Some(peer) = self.peers[peer_index].as_mut() else { return Ok(()) };
        let opened = peer.channel.open(bytes).map_err(Broken::Message)?;
        let mut holds_secret = false;
        let outcome = match opened {
            Message::Grant { lease, client, local, head, body } => {
                let ends = Ends { client, local };
                self.granted(peer_index, lease, ends, head, body).map_err(Broken::from)
            }
            Message::Go { lease, key, ref slots } => {
                holds_secret = true;
                self.gone(peer_index, lease, key, slots).map_err(Broken::from)
            }
            Message::Slots { lease, ref slots } => {
                self.more_slots(peer_index, lease, slots).map_err(Broken::from)
            }
            Message::Revoke { lease } => {
                self.revoked(peer_index, lease);
                Ok(())
            }
            Message::Decline { lease, why } => self.declined(peer_index, lease, why).map_err(Broken::from),
            Message::Revoked { lease } => {
                let ended = self.peers[peer_index].as_mut().map(|peer| peer.lender.revoked(lease));
                ended.unwrap_or(Ok(())).map_err(Broken::from)
            }
            Message::Alive { lease } => {
                let heard = self.peers[peer_index].as_mut().map(|peer| peer.lender.alive(lease, self.now));
                heard.unwrap_or(Ok(())).map_err(Broken::from)
            }
            Message::Claim { lease, records } => {
                self.claimed(peer_index, lease, records).map_err(Broken::from)
            }
            Message::Return { lease, ref outcome } => {
                self.returned(peer_index, lease, outcome).map_err(Broken::from)
            }
            Message::TooLate { .. } | Message::Credit => Ok(()),
            Message::Put { name, lives_s, once, value } => {
                holds_secret = true;
                self.keep_session(name, lives_s, once, value);
                Ok(())
            }
            Message::Take { token, name } => {
                self.give_session(peer_index, token, &name);
                Ok(())
            }
            Message::Taken { token, found } => {
                holds_secret = true;
                self.session_taken(token, found);
                Ok(())
            }
        };
        if holds_secret {
            bytes.zeroize();
        }
        let flooded = self.peers[peer_index].as_ref().is_some_and(Peer::is_flooded);
        outcome.and(if flooded { Err(Broken::Flood) } else { Ok(()) })
    }

    /// Connections that were put aside: after a reply, or after their share of a turn.
    pub(crate) fn take_ready(&mut self) -> bool {
        let mut busy = false;
        for _ in 0..self.ready.len() {
            if self.shed.records == 0 {
                break;
            }
            let Some(index) = self.ready.pop_front() else { break };
            busy = true;
            self.pump_index(index);
        }
        busy
    }

    /// Connections that waited for a buffer that may be there now, as many as may get one.
    fn take_starved(&mut self) -> bool {
        let mut busy = false;
        for _ in 0..self.starved.len().min(STARVED_A_TURN) {
            let Some(index) = self.starved.pop_front() else { break };
            self.flush(index as usize);
            self.pump_index(index);
            busy |= !self.starved.contains(index);
        }
        busy
    }

    /// Memory TCP is done with, and the port.
    fn take_released(&mut self) -> bool {
        let mut busy = self.pools.take_sent();
        while let Some((id, segment)) = self.tcp.released() {
            busy = true;
            self.release(segment);
            self.progress(id);
            self.trace_acknowledged(id);
        }
        self.port.copies = self.pools.has_many_unsent();
        busy
    }

    fn timers(&mut self) {
        self.tcp.timers(self.now, &mut self.port);
        let mut due = ArrayVec::<u32, 64>::new();
        self.deadlines.expire(self.now, |index| {
            // A deadline that does not fit comes again: it is set anew below from the connection's own.
            let _ = due.try_push(index);
        });
        for index in &due {
            self.too_late(*index as usize);
        }
        self.seeks_too_late();
        self.let_rest();
        self.go_on_draining();
        if self.load.is_due(self.now) {
            self.exchange_load();
        }
    }

    /// Tells the peers our load, reads theirs, and looks after leases and slots that wait too long.
    fn exchange_load(&mut self) {
        let outstanding = self.app.crowd();
        let room = self.pools.requests.left() as u32;
        let peers = self.peers.iter().flatten().count();
        let word = self.load.word(self.now, peers, outstanding, room, self.drain.is_on());
        let mut is_another = false;
        for index in 0..self.peers.len() {
            if let Some(peer) = self.peers[index].as_mut() {
                is_another |= peer.read_load(self.now);
                peer.write_load(&word);
                self.expire_leases(index);
                self.show_life(index);
            }
        }
        self.free_slots();
        if is_another {
            self.find_homes();
        }
    }

    fn connect_peer(&mut self, connect: Connect) {
        let free = self.peers.iter().position(Option::is_none);
        let index = free.unwrap_or(self.peers.len());
        if index >= crate::peer::PEERS_MAX {
            // Configuration bounds the peers, so this is a mistake of ours; the peer sees the pair end.
            let mut queue_pair = connect.queue_pair;
            return queue_pair.fail();
        }
        if index == self.peers.len() {
            self.peers.push(None);
        }
        self.lives[index] = self.lives[index].wrapping_add(1);
        let id = PeerId { index: index as u16, life: self.lives[index] };
        self.peers[index] = Some(Peer::new(id, connect, &self.config.leases));
        self.find_homes();
    }

    /// The queue pair is in error: ends both directions by A's own state and forgets it. Requests whose key never
    /// left run here or get a 502; connections whose key is out end, because their sequence numbers may be spent.
    pub(crate) fn lose_peer(&mut self, peer_index: usize) {
        let Some(mut peer) = self.peers[peer_index].take() else { return };
        self.counters.peers_lost += 1;
        peer.queue_pair.fail();
        self.find_homes();
        let served: Vec<LeaseId> = peer.helper.leases().collect();
        let owners: Vec<(LeaseId, LeaseStage, u32)> = peer.lender.owners().collect();
        self.counters.leases_lost += served.len() as u64;
        for lease in served {
            if let Some(mut served) = peer.end_served(lease) {
                for part in served.parts.drain(..) {
                    self.pools.give_chunk(part.chunk);
                }
                if let Some(job) = served.job {
                    self.app.cancel(job);
                }
            }
        }
        for (_, stage, owner) in owners {
            let owner = owner as usize;
            if let Some(conn) = self.conns[owner].as_mut() {
                conn.reply = Reply::None;
            }
            if stage == LeaseStage::Gone {
                self.break_lease(owner);
            } else {
                self.counters.leases_failed += 1;
                self.run_again(owner);
            }
        }
    }

    /// The values that stand for [`counters::names`], into `out`.
    pub fn publish(&self, out: &mut Vec<u64>) {
        out.clear();
        out.extend(self.snapshot().values());
        let (tcp, tls) = (self.tcp.counters(), &self.tls_counters);
        counters::append(&self.port.link_drops, tcp, tls, &self.latency, out);
    }

    /// Counters, with the gauges as they are now.
    pub fn snapshot(&self) -> Counters {
        let mut all = self.counters;
        self.port.count(&mut all);
        let tcp = self.tcp.counters();
        all.rx_handshakes = tcp.handshake_packets;
        all.rx_flows = tcp.flow_packets;
        all.rx_time_wait = tcp.time_wait_packets;
        all.syn_acks_again = tcp.syn_acks_again;
        all.cookies = tcp.cookies;
        all.path_mtu_told = tcp.path_mtu_told;
        all.path_mtu_ignored = tcp.path_mtu_ignored;
        all.path_mtu_suspected = tcp.path_mtu_suspected;
        all.path_mtu_raised = tcp.path_mtu_raised;
        all.half_open = tcp.half_open;
        all.time_wait = tcp.time_wait;
        all.sessions_moving = u64::from(self.homes.is_moving());
        all.handshakes_waiting = self.sessions.len() as u64;
        all.holding = self.shed.holding.len() as u64;
        all.body_bytes = self.pools.body_bytes as u64;
        all.flows = self.tcp.connections() as u64;
        all.chunks_out = self.pools.chunks.out() as u64;
        all.requests_out = self.pools.requests.out() as u64;
        all.records_out = self.pools.records.out() as u64;
        all.records_unsent = self.pools.unsent() as u64;
        all.gathers_out = self.pools.gathers.out() as u64;
        all.awake = self.awake.len() as u64;
        all.draining = self.drain.is_on().into();
        all.drained = self.is_drained().into();
        all.requests_in_app = self.app.outstanding() as u64;
        for peer in self.peers.iter().flatten() {
            all.peers_ready += 1;
            all.leases_open += peer.lender.open() as u64;
            all.leases_serving += peer.helper.open() as u64;
            all.slots_out += peer.lender.slots_out() as u64;
        }
        all
    }
}

impl<N: Nic, A: App> Turning for Worker<N, A> {
    fn turn(&mut self, now: Time) -> bool {
        Worker::turn(self, now)
    }

    fn poll_at(&self) -> Option<Time> {
        Worker::poll_at(self)
    }

    fn publish(&self, out: &mut Vec<u64>) {
        Worker::publish(self, out);
    }
}

/// What a packet's connection has here, besides what it has at TCP.
struct Conns<'a> {
    all: &'a Slab<Option<Conn>>,
    holding: &'a List,
    awake: &'a List,
}

impl Ahead for Conns<'_> {
    fn spotted(&self, place: usize) {
        self.all.ahead(place, prefetch);
        self.holding.ahead(place as u32, prefetch);
        self.awake.ahead(place as u32, prefetch);
    }

    fn near(&self, place: usize) {
        if let Some(Some(Conn { tls: Tls::Open(session), .. })) = self.all.get(place) {
            session.opener.ahead(prefetch);
            session.sealer.ahead(prefetch);
        }
    }
}

/// The peer broke the protocol: its queue pair has to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken {
    /// A message cannot be from the peer, in order.
    Message(Breach),
    /// What it says or writes does not fit the lease.
    Lease,
    /// It wants more answers than it has receives for.
    Flood,
}

impl From<lender::Violation> for Broken {
    fn from(_: lender::Violation) -> Broken {
        Broken::Lease
    }
}

impl From<helper::Violation> for Broken {
    fn from(_: helper::Violation) -> Broken {
        Broken::Lease
    }
}
