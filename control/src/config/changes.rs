//! What another configuration changes of a process that runs. In: the configuration it goes by, and the one its file holds
//! now. Out: what it can go by from now on, and the name of every key that differs: taken over, or waiting for a restart.
//!
//! Each table says of its own keys which those are ([`Ledger::live`], [`Ledger::fixed`]); tables are taken apart there, so that no
//! key can be forgotten.

use std::fmt;

use serde::Serialize;

use super::distributor::Can;
use super::{Config, Distributor};

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Its table, as the file writes it.
    pub table: &'static str,
    /// The key, or which of several tables, and what is new about it.
    pub key: String,
}

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What can be taken over while it runs.
    pub applied: Vec<Change>,
    /// What is read at start only.
    pub needs_restart: Vec<Change>,
}

/// Takes down what differs.
#[derive(Default)]
pub(super) struct Ledger(Changes);

impl Ledger {
    /// A key that is taken over.
    pub(super) fn live<T: Clone + PartialEq>(
        &mut self,
        table: &'static str,
        key: &str,
        now: &mut T,
        new: &T,
    ) {
        if now != new {
            now.clone_from(new);
            self.applied(table, key);
        }
    }

    /// A key that is read at start.
    pub(super) fn fixed<T: PartialEq>(&mut self, table: &'static str, key: &str, now: &T, new: &T) {
        if now != new {
            self.needs_restart(table, key);
        }
    }

    /// A key that is taken over if it can be now.
    pub(super) fn live_if<T: Clone + PartialEq>(
        &mut self,
        can: bool,
        table: &'static str,
        key: &str,
        now: &mut T,
        new: &T,
    ) {
        if can { self.live(table, key, now, new) } else { self.fixed(table, key, now, new) }
    }

    /// A key that differs, and is taken over elsewhere if it can be.
    pub(super) fn differs(&mut self, can: bool, table: &'static str, key: impl Into<String>) {
        if can { self.applied(table, key) } else { self.needs_restart(table, key) }
    }

    pub(super) fn applied(&mut self, table: &'static str, key: impl Into<String>) {
        self.0.applied.push(Change { table, key: key.into() });
    }

    pub(super) fn needs_restart(&mut self, table: &'static str, key: impl Into<String>) {
        self.0.needs_restart.push(Change { table, key: key.into() });
    }

    /// Tables of one kind, told apart by a name; all of them, or none if they `can` not be.
    pub(super) fn list<T: Clone + PartialEq>(
        &mut self,
        can: bool,
        table: &'static str,
        now: &mut Vec<T>,
        new: &[T],
        name: impl Fn(&T) -> String,
    ) {
        let find = |list: &[T], wanted: &T| list.iter().find(|it| name(it) == name(wanted)).cloned();
        let mut keys = Vec::new();
        for it in now.iter().filter(|it| find(new, it).is_none()) {
            keys.push(format!("{}: removed", name(it)));
        }
        for it in new {
            match find(now, it) {
                None => keys.push(format!("{}: added", name(it))),
                Some(before) if before != *it => keys.push(format!("{}: changed", name(it))),
                Some(_) => {}
            }
        }
        if keys.is_empty() && now.as_slice() != new {
            keys.push("order".to_owned());
        }
        for key in keys {
            self.differs(can, table, key);
        }
        if can {
            *now = new.to_vec();
        }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.0
    }
}

impl Config {
    /// What a node that goes by this goes by when its file has become `new`, and what differs. Whether its applications
    /// `may_reach_upstreams` was decided at start.
    pub fn taking_over(&self, new: &Config, may_reach_upstreams: bool) -> (Config, Changes) {
        let (mut next, mut ledger) = (self.clone(), Ledger::default());
        let it = &mut ledger;
        // Taken apart, so that none can be forgotten.
        let Config {
            file: _,
            node,
            cores,
            nic,
            listeners,
            certificates,
            tcp,
            tls,
            app,
            slots,
            routes,
            upstreams,
            lease,
            fabric,
            cluster,
            peers,
            limits,
            admin,
            own: _,
            access_log,
            slow_log,
        } = &mut next;
        // Link certificates are for the name, and a new fabric wants new addresses: they go together.
        let same_name = node.name == new.node.name;
        let same_links = same_name && fabric.driver == new.fabric.driver && cluster.is_some();
        let same_model = node.model == new.node.model;
        node.take_over(&new.node, it);
        cores.compare(&new.cores, it);
        nic.compare(&new.nic, it);
        it.list(false, "[[listener]]", listeners, &new.listeners, |listener| listener.port.to_string());
        it.list(true, "[[certificate]]", certificates, &new.certificates, |certificate| {
            certificate.chain.display().to_string()
        });
        tcp.take_over(&new.tcp, it);
        tls.take_over(&new.tls, it);
        it.fixed("[app]", "slots", slots, &new.slots);
        let can = may_reach_upstreams || !new.reaches_upstreams();
        super::answers::take_over((app, routes, upstreams), new, can, it);
        lease.take_over(&new.lease, fabric, same_model, it);
        fabric.compare(&new.fabric, it);
        let same_links = same_links && new.cluster.is_some();
        super::cluster::take_over(cluster, new.cluster.as_ref(), same_links, it);
        it.list(same_links, "[[peer]]", peers, &new.peers, |peer| peer.name.clone());
        limits.take_over(&new.limits, it);
        admin.take_over(&new.admin, it);
        super::request_logs::take_over((access_log, slow_log), (&new.access_log, &new.slow_log), it);
        (next, ledger.into_changes())
    }
}

impl Distributor {
    /// What a distributor that goes by this goes by when its file has become `new`, and what differs.
    pub fn taking_over(&self, new: &Distributor) -> (Distributor, Changes) {
        let (mut next, mut ledger) = (self.clone(), Ledger::default());
        let it = &mut ledger;
        let Distributor { file: _, name, tables, cores, nic, services, nodes, cluster, peers, admin } =
            &mut next;
        let same_name = *name == new.name;
        let same_links = same_name && cluster.is_some() && new.cluster.is_some();
        it.fixed("[distributor]", "name", name, &new.name);
        tables.compare(&new.tables, it);
        cores.compare(&new.cores, it);
        nic.compare(&new.nic, it);
        // A list that moves to etcd, or from there, does so as a whole.
        let can = Can { list: self.etcd().is_none() && new.etcd().is_none(), link: same_links };
        super::distributor::take_over_nodes(can, nodes, &new.nodes, it);
        super::distributor::take_over_services(
            can,
            services,
            &new.services,
            (&self.nodes[..], &nodes[..]),
            it,
        );
        super::cluster::take_over(cluster, new.cluster.as_ref(), same_links, it);
        it.list(same_links, "[[peer]]", peers, &new.peers, |peer| peer.name.clone());
        admin.take_over(&new.admin, it);
        (next, ledger.into_changes())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, " {}", self.key) }
    }
}
