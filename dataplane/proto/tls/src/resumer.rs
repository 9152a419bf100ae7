//! What clients come back by: sessions and ticket keys. It outlives the certificates of a [`Server`](crate::Server), which may
//! be replaced while it runs, so whoever looks after sessions holds this and no key of a certificate.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::server::{ProducesTickets, StoresServerSessions};
use rustls::time_provider::TimeProvider;

use crate::server::{ConfigError, Resumption};
use crate::session::{NoTable, Table};
use crate::ticket::{NoTickets, TicketCounts, TicketKey, Ticketer};

/// Longest life of a session (RFC 8446 4.6.1).
pub const SESSION_LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Sessions and ticket keys of a server; cheap to clone and to share.
#[derive(Clone)]
pub struct Resumer {
    pub(crate) table: Option<Arc<Table>>,
    ticketer: Option<Arc<Ticketer>>,
    /// Sessions made here go to whoever is to keep them.
    pub(crate) is_shared: bool,
}

impl Resumer {
    pub(crate) fn new(
        how: Resumption,
        provider: &CryptoProvider,
        clock: &Arc<dyn TimeProvider>,
    ) -> Result<Resumer, ConfigError> {
        let is_shared = matches!(how, Resumption::Shared { .. });
        let (table, ticketer) = match how {
            Resumption::Off => (None, None),
            Resumption::Table { lifetime, .. }
            | Resumption::Shared { lifetime, .. }
            | Resumption::Tickets { lifetime }
                if lifetime < Duration::from_secs(1) || lifetime > SESSION_LIFETIME_MAX =>
            {
                return Err(ConfigError::SessionLifetime);
            }
            Resumption::Table { sessions, lifetime } | Resumption::Shared { sessions, lifetime } => {
                (Some(Arc::new(Table::new(sessions, lifetime, Arc::clone(clock)))), None)
            }
            Resumption::Tickets { lifetime } => {
                let ticketer = Ticketer::new(lifetime, provider.secure_random, Arc::clone(clock));
                let what = "the system gives no randomness, or its clock is before 1970: set it";
                let unable = || ConfigError::Provider { what: what.to_owned() };
                (None, Some(Arc::new(ticketer.ok_or_else(unable)?)))
            }
        };
        Ok(Resumer { table, ticketer, is_shared })
    }

    /// Whether every handshake is a full one.
    pub(crate) fn is_off(&self) -> bool {
        self.table.is_none() && self.ticketer.is_none()
    }

    pub(crate) fn storage(&self) -> Arc<dyn StoresServerSessions> {
        match &self.table {
            Some(table) => Arc::clone(table) as _,
            None => Arc::new(NoTable),
        }
    }

    pub(crate) fn tickets(&self) -> Arc<dyn ProducesTickets> {
        match &self.ticketer {
            Some(ticketer) => Arc::clone(ticketer) as _,
            None => Arc::new(NoTickets),
        }
    }

    /// Forgets sessions and ticket keys whose time is over, so that they are erased even when no client comes. For
    /// the control thread, every few seconds.
    pub fn expire(&self) {
        if let Some(table) = &self.table {
            table.expire();
        }
        if let Some(ticketer) = &self.ticketer {
            ticketer.expire();
        }
    }

    /// Where the ticket keys of this node are; `None`: it makes no tickets.
    fn ticketer(&self) -> Option<&Ticketer> {
        self.ticketer.as_deref()
    }

    /// Whether clients come back by tickets.
    pub fn makes_tickets(&self) -> bool {
        self.ticketer().is_some()
    }

    /// Looks after ticket keys of a cluster, which one node makes, this one if `is_maker`. For the control thread, about
    /// once a second.
    pub fn tend_ticket_keys(&self, is_maker: bool) {
        if let Some(ticketer) = self.ticketer() {
            ticketer.tend(is_maker);
        }
    }

    /// Changes whenever there is a ticket key more.
    pub fn ticket_keys_version(&self) -> u64 {
        self.ticketer().map_or(0, Ticketer::version)
    }

    /// Every ticket key, for another node of the cluster: whoever has them can open what clients keep.
    pub fn ticket_keys(&self) -> Vec<TicketKey> {
        self.ticketer().map_or_else(Vec::new, Ticketer::all)
    }

    /// Takes another node's ticket key.
    pub fn take_ticket_key(&self, key: &TicketKey) {
        if let Some(ticketer) = self.ticketer() {
            ticketer.take(key);
        }
    }

    /// What has become of tickets and their keys.
    pub fn ticket_counts(&self) -> TicketCounts {
        self.ticketer().map_or_else(TicketCounts::default, Ticketer::counts)
    }

    /// Sessions kept here.
    pub fn sessions(&self) -> usize {
        self.table.as_ref().map_or(0, |table| table.len())
    }
}
