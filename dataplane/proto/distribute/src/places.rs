//! Tables of places for all services, made where no packet waits for them. In: who is up. Out: what a distributor takes with
//! [`set_places`](crate::Distributor::set_places).
//!
//! One table takes about two milliseconds, a turn of a worker some microseconds: so the control thread has them made,
//! and packets go by the old ones until then. Pure.

use std::sync::Arc;

use crate::maglev::{Maglev, Place};
use crate::{NodeId, Services};

/// A node that is up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Share {
    /// What it is called here.
    pub id: NodeId,
    /// What it is called everywhere.
    pub name: String,
    /// Its share beside the others'.
    pub weight: u8,
    /// What it serves.
    pub services: Services,
}

/// What tables are made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// How often nodes had joined and left.
    pub revision: u64,
    /// How many services there are.
    pub services: usize,
    /// Who is up.
    pub nodes: Vec<Share>,
}

impl Plan {
    /// Makes the tables; services with the same nodes have one together.
    pub fn make(&self) -> Places {
        let mut made: Vec<(Vec<Place<'_>>, Arc<Maglev>)> = Vec::new();
        let tables = (0..self.services).map(|service| {
            let nodes = self.nodes.iter().filter(|node| node.services.has(service));
            let places: Vec<_> =
                nodes.map(|node| Place { id: node.id, name: &node.name, weight: node.weight }).collect();
            if let Some((_, table)) = made.iter().find(|(other, _)| *other == places) {
                return Arc::clone(table);
            }
            let table = Arc::new(Maglev::new(&places));
            made.push((places, Arc::clone(&table)));
            table
        });
        Places { tables: tables.collect(), revision: self.revision }
    }
}

/// A table for each service.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    revision: u64,
    tables: Vec<Arc<Maglev>>,
}

impl Places {
    /// How often nodes had joined and left when these were planned.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// A service's.
    pub(crate) fn of(&self, service: usize) -> &Maglev {
        &self.tables[service]
    }

    /// Whether a node has places in any.
    pub fn has(&self, node: NodeId) -> bool {
        self.tables.iter().any(|table| table.has(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_with_the_same_nodes_have_one_table() {
        let share = |id: u16, services: &[usize]| Share {
            id: NodeId(id),
            name: format!("n{id}"),
            weight: 1,
            services: services.iter().copied().collect(),
        };
        let plan = Plan { revision: 3, services: 3, nodes: vec![share(0, &[0, 1, 2]), share(1, &[0, 2])] };
        let places = plan.make();
        assert!(Arc::ptr_eq(&places.tables[0], &places.tables[2]));
        assert!(places.of(0).has(NodeId(1)) && !places.of(1).has(NodeId(1)));
        assert!(places.has(NodeId(1)) && !places.has(NodeId(2)));
        assert_eq!(places.revision(), 3);
    }
}
