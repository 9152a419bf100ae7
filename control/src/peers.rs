//! What a node does when the cluster's members change. In: the list as [`members`](crate::members) has it. Out: the peers
//! of its links, and to its workers the nodes at which sessions live. Control thread.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_decide::NodeId;
use keyferry_worker::mailbox::Mail;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::config::Driver;
use crate::links::{Others, Peer, Running};
use crate::members::{List, Member, Role};

/// How soon a worker whose mailbox is full is told again.
const AGAIN: Duration = Duration::from_millis(10);

/// What follows from the list at this node.
pub(crate) struct Followed<'a> {
    /// This node's name.
    pub(crate) own: &'a str,
    /// Distributors the file has, besides those on the list.
    pub(crate) distributors: &'a [String],
    /// What queue pairs are made on.
    pub(crate) driver: Driver,
    /// Workers to be told.
    pub(crate) mailboxes: &'a [Arc<ArrayQueue<Mail>>],
}

impl Followed<'_> {
    /// Does what each list wants, until there is none any more.
    pub(crate) async fn follow(&self, mut list: watch::Receiver<List>, links: &Running) {
        loop {
            let members = Arc::clone(&list.borrow_and_update());
            self.apply(&members, links).await;
            if list.changed().await.is_err() {
                // Whoever gave it out is gone; what it said last holds.
                return std::future::pending().await;
            }
        }
    }

    async fn apply(&self, members: &[Member], links: &Running) {
        let nodes = members.iter().filter(|member| member.role == Role::Node);
        let peers: Vec<Peer> = nodes.filter_map(|member| self.peer(member)).collect();
        let names = peers.iter().map(|peer| peer.name.as_str());
        let homes: Vec<NodeId> = names.chain([self.own]).map(NodeId::of).collect();
        let listed = members.iter().filter(|member| member.role == Role::Distributor);
        let mut distributors = self.distributors.to_vec();
        distributors.extend(listed.map(|member| member.name.clone()));
        distributors.sort_unstable();
        distributors.dedup();
        if let Err(error) = links.set_others(Others::of_node(self.own, &peers, &distributors)) {
            // Names are checked where they are read.
            warn!("{error}");
        }
        for mailbox in self.mailboxes {
            let mut mail = Mail::Members(homes.clone().into_boxed_slice());
            while let Err(back) = mailbox.push(mail) {
                mail = back;
                sleep(AGAIN).await;
            }
        }
    }

    /// Where a node is reached over this fabric.
    fn peer(&self, member: &Member) -> Option<Peer> {
        let peer = member.reached(self.driver == Driver::Shm);
        if peer.is_none() {
            warn!(member = member.name, "it has no address that suits this node's [fabric] driver");
        }
        peer
    }
}
