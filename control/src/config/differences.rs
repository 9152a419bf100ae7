//! What differs between two configurations, by table: what a restart would change.

use super::Config;

impl Config {
    /// The tables that differ, as the file writes them.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
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
        } = self;
        let tables = [
            ("[node]", *node == other.node),
            ("[cores]", *cores == other.cores),
            ("[nic]", *nic == other.nic),
            ("[[listener]]", *listeners == other.listeners),
            ("[[certificate]]", *certificates == other.certificates),
            ("[tcp]", *tcp == other.tcp),
            ("[tls]", *tls == other.tls),
            ("[app]", (app, slots) == (&other.app, &other.slots)),
            ("[[route]]", *routes == other.routes),
            ("[[upstream]]", *upstreams == other.upstreams),
            ("[lease]", *lease == other.lease),
            ("[fabric]", *fabric == other.fabric),
            ("[cluster]", *cluster == other.cluster),
            ("[[peer]]", *peers == other.peers),
            ("[limits]", *limits == other.limits),
            ("[admin]", *admin == other.admin),
        ];
        tables.into_iter().filter(|(_, same)| !same).map(|(table, _)| table).collect()
    }
}
