//! Where sessions live, as this worker sees it now, and the hand-over of those whose home is another one than before.
//!
//! In: the members, as control has them; which of them have a queue pair here; who is draining. Out: the *homes*: this
//! node, and the others that can be told something; without those that are draining, this one included. So the share of
//! a node that is gone lives at others until it is back, and a node that drains gives away all it has.
//!
//! When the homes change the worker walks over its part of the table, a few places a turn beside its other work, and
//! *puts* each session that lives elsewhere there. A session is at one node at any time, so a PSK goes on once (RFC 8446
//! appendix C.4) whatever nodes make of the homes meanwhile: where they disagree a client has a full handshake.

use arrayvec::ArrayVec;
use keyferry_app::App;
use keyferry_decide::{NodeId, home};
use keyferry_lease::message::SessionName;
use keyferry_nic::Nic;
use keyferry_tls::{Cursor, Walk};

use crate::peer::PEERS_MAX;
use crate::turn::Worker;

/// Members at most: a queue pair to each of the others, and this node.
pub const MEMBERS_MAX: usize = PEERS_MAX + 1;

/// Places of the table looked at in a turn: about two microseconds.
const LOOKS_A_TURN: usize = 32;

/// Sessions handed over in a turn.
const MOVES_A_TURN: usize = 8;

/// What a worker knows about where sessions live.
pub(crate) struct Homes {
    members: ArrayVec<NodeId, MEMBERS_MAX>,
    list: ArrayVec<NodeId, MEMBERS_MAX>,
    /// How far the hand-over has come.
    walk: Option<Cursor>,
}

impl Homes {
    pub(crate) fn new(members: &[NodeId], own: NodeId) -> Homes {
        let members: ArrayVec<_, MEMBERS_MAX> = members.iter().copied().take(MEMBERS_MAX).collect();
        // Nobody else can be told anything yet.
        let list = members.iter().copied().filter(|member| *member == own).collect();
        Homes { members, list, walk: None }
    }

    /// Whether a hand-over is under way.
    pub(crate) fn is_moving(&self) -> bool {
        self.walk.is_some()
    }

    /// The home of this session, if that is not `own`.
    fn elsewhere(&self, name: &SessionName, own: NodeId) -> Option<NodeId> {
        home(name, &self.list).filter(|home| *home != own)
    }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// The node a session lives at, if that is not this one.
    pub(crate) fn home_elsewhere(&self, name: &SessionName) -> Option<NodeId> {
        self.homes.elsewhere(name, self.config.node)
    }

    /// These are the members from now on.
    pub(crate) fn set_members(&mut self, members: &[NodeId]) {
        self.homes.members.clear();
        self.homes.members.extend(members.iter().copied().take(MEMBERS_MAX));
        self.find_homes();
    }

    /// Finds out who is a home; if that has changed, sessions are handed over.
    pub(crate) fn find_homes(&mut self) {
        let is_home = |member: &NodeId| match *member == self.config.node {
            true => !self.drain.is_on(),
            false => self.peers.iter().flatten().any(|peer| peer.node == *member && peer.is_home()),
        };
        let list = self.homes.members.iter().copied().filter(is_home).collect();
        if self.homes.list != list {
            self.homes.list = list;
            self.walk_again();
        }
    }

    /// There may be sessions here that live elsewhere.
    fn walk_again(&mut self) {
        let place = self.config.place;
        self.homes.walk = Some(Cursor::new(place.number, place.of));
    }

    /// A session is kept here now, though it lives elsewhere. While this node is there clients find it, so only one that
    /// drains looks again.
    pub(crate) fn came_astray(&mut self, name: &SessionName) {
        if self.homes.walk.is_none() && self.drain.is_on() && self.home_elsewhere(name).is_some() {
            self.walk_again();
        }
    }

    /// One turn's part of the hand-over. Whether it got anywhere.
    pub(crate) fn hand_over(&mut self) -> bool {
        let Some(mut cursor) = self.homes.walk else { return false };
        let (mut looks, mut moved) = (LOOKS_A_TURN, 0);
        while moved < MOVES_A_TURN {
            let (homes, own) = (&self.homes, self.config.node);
            match self.tls.walk(&mut cursor, &mut looks, |name| homes.elsewhere(name, own).is_some()) {
                Walk::Found(name) if self.move_session(&name) => moved += 1,
                Walk::Found(_) => {
                    cursor.back();
                    self.homes.walk = Some(cursor);
                    return moved > 0;
                }
                Walk::More => break,
                Walk::Over => {
                    self.homes.walk = None;
                    return true;
                }
            }
        }
        self.homes.walk = Some(cursor);
        true
    }

    /// Hands one session over. `false`: its home has no room to hear of it, and may have some later.
    fn move_session(&mut self, name: &SessionName) -> bool {
        let Some(home) = self.home_elsewhere(name) else { return true };
        let mut pairs = self.peers.iter().flatten().filter(|peer| peer.node == home && peer.is_ready());
        if !pairs.any(|peer| peer.message_room()) {
            // Without a queue pair there is a walk again when there is one.
            return !self.peers.iter().flatten().any(|peer| peer.node == home && peer.is_ready());
        }
        // A handshake of another worker may have taken it just now.
        let Some(session) = self.tls.hand_over(name) else { return true };
        if self.put_session(home, &session) {
            self.counters.sessions_moved += 1;
        } else {
            self.tls.keep(session);
        }
        true
    }
}
