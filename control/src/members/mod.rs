//! Who is in the cluster, as etcd has it. In: where etcd is, who this process is, whose links live. Out: the list of the
//! others, each time it is another one. Control thread.
//!
//! A process registers a key of its own under an etcd lease (here a *registration*: leases are what requests are lent
//! by), reads the keys of all and watches them from there. etcd is asked who there is and where, never who somebody
//! proves to be: that is for certificates. Nor is it asked whether a member can be used: that is for the links. So while
//! etcd cannot be reached the last known members stay, and when it has lost its data they have a while to come back.
//!
//! - [`entry`]: a member's key and value
//! - [`book`]: who is known, and who is to go
//! - `etcd`: the connection
//! - `tally`: what is counted

pub mod book;
pub mod entry;
mod etcd;
mod tally;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Etcd, FileError};
use crate::counters::Registry;
use crate::links::{Address, Peer};

pub(crate) use tally::help;

/// Members at most, whatever their role: etcd is not trusted to keep it small.
pub const MEMBERS_MAX: usize = 256;

/// What a member is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It serves clients.
    Node,
    /// It spreads clients over nodes.
    Distributor,
}

/// A process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, for which it has a certificate.
    pub name: String,
    /// What it is there for.
    pub role: Role,
    /// Where its links are, the preferred first.
    pub addresses: Vec<Address>,
    /// When it started: tells its lives apart.
    pub incarnation: u64,
    /// A node's own addresses on its port's network, where distributors send packets.
    pub port_addresses: Vec<IpAddr>,
    /// A node's share of new clients beside the others'.
    pub weight: u8,
}

impl Member {
    /// Where to connect to it: on this machine, if memory is passed to it, else by a network if that can be.
    pub(crate) fn reached(&self, passes_memory: bool) -> Option<Peer> {
        let is_local = |address: &&Address| matches!(address, Address::Unix(_));
        let addresses = || self.addresses.iter();
        let address = match passes_memory {
            true => addresses().find(is_local),
            // Paths are of use on one machine only.
            false => addresses().find(|address| !is_local(address)).or_else(|| addresses().next()),
        };
        Some(Peer { name: self.name.clone(), address: address?.clone() })
    }
}

/// All members but this one, in the order of their names.
pub type List = Arc<[Member]>;

/// Whether the link to the member of this name lives.
pub type IsLinked = Rc<dyn Fn(&str) -> bool>;

/// Longest leave-taking.
const LEAVE: Duration = Duration::from_secs(1);

/// Follows etcd until it is told to leave.
pub struct Members {
    list: watch::Receiver<List>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Members {
    /// Starts to register `own` and to follow the others. Within a [`tokio::task::LocalSet`]. etcd need not be there yet.
    ///
    /// # Errors
    /// A file of the configuration cannot be used.
    pub fn start(
        config: &Etcd,
        own: Member,
        is_linked: IsLinked,
        registry: &Registry,
    ) -> Result<Members, FileError> {
        let access = etcd::Access::load(config)?;
        let (out, list) = watch::channel(List::from([]));
        let (leave, leaving) = watch::channel(false);
        let follower = etcd::Follower::new(access, config, own, is_linked, out, registry);
        let task = tokio::task::spawn_local(follower.run(leaving));
        Ok(Members { list, leave, task })
    }

    /// The others, now and whenever that changes.
    pub fn list(&self) -> watch::Receiver<List> {
        self.list.clone()
    }

    /// Takes this process off the list, where etcd can be told.
    pub async fn leave(self) {
        self.leave.send_replace(true);
        let _ = tokio::time::timeout(LEAVE, self.task).await;
    }
}
