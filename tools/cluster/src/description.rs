//! What a cluster is made of, and the configuration files that follow from it: those an operator would write.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use crate::Etcd;
use crate::certificates::Certificates;
use crate::cluster::{Address, SERVICE_PORT, SERVICE4, SERVICE6};

/// How clients are spread over nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// In turn.
    Rr,
    /// Back to the node of their session.
    Session,
    /// The same, and nodes lend each other requests.
    Bf,
}

impl Model {
    /// As configurations call it.
    pub fn name(self) -> &'static str {
        match self {
            Model::Rr => "rr",
            Model::Session => "session",
            Model::Bf => "bf",
        }
    }
}

/// Where a cluster's members are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Members {
    /// In every file.
    File,
    /// In an etcd that the cluster brings along: nodes may come and go.
    Etcd,
}

/// Other nodes that members have room for, where etcd lists them.
const NODES_MAX: usize = 8;

/// What a cluster is made of. Tables of configuration are laid over those that the cluster writes itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Description {
    /// How many nodes; their names are `n1`, `n2`, ...
    pub nodes: usize,
    /// How many distributors: `d1`, ...
    pub distributors: usize,
    /// Client addresses of each family.
    pub clients: usize,
    /// Of the service, and of the nodes.
    pub model: Model,
    /// Where they are listed.
    pub members: Members,
    /// Further keys of every node.
    pub node: Table,
    /// Further keys of every distributor.
    pub distributor: Table,
}

impl Default for Description {
    fn default() -> Description {
        Description {
            nodes: 2,
            distributors: 1,
            clients: 8,
            model: Model::Bf,
            members: Members::File,
            node: Table::new(),
            distributor: Table::new(),
        }
    }
}

impl Description {
    /// With further keys of every node, such as `[lease]\ndecide = "never"`.
    ///
    /// # Panics
    /// If it is no TOML.
    pub fn with_node(mut self, text: &str) -> Description {
        lay_over(&mut self.node, text.parse().expect("the keys are TOML"));
        self
    }

    /// With further keys of every distributor.
    ///
    /// # Panics
    /// If it is no TOML.
    pub fn with_distributor(mut self, text: &str) -> Description {
        lay_over(&mut self.distributor, text.parse().expect("the keys are TOML"));
        self
    }

    /// What the nodes are called.
    pub fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("n{number}")).collect()
    }

    /// What the distributors are called.
    pub fn distributor_names(&self) -> Vec<String> {
        (1..=self.distributors).map(|number| format!("d{number}")).collect()
    }

    /// A node's configuration; `etcd`: the one that members are listed in.
    pub(crate) fn node_text(
        &self,
        number: usize,
        directory: &Path,
        certificates: &Certificates,
        etcd: Option<&Etcd>,
    ) -> String {
        let name = format!("n{number}");
        let (chain, key) = &certificates.leaves[0];
        let mut nic = nic(Address::Node(number));
        nic.insert("service_addresses".to_owned(), strings([SERVICE4, SERVICE6]));
        let mut cluster = links(directory, &name, etcd);
        let mut root = common(directory, &name, number);
        if etcd.is_none() {
            cluster.insert("distributors".to_owned(), strings(self.distributor_names()));
            root.insert("peer".to_owned(), peers(directory, &name, self.node_names()));
        }
        root.insert("node".to_owned(), text_table(&[("name", &name), ("model", self.model.name())]));
        root.insert("nic".to_owned(), Value::Table(nic));
        root.insert("cluster".to_owned(), Value::Table(cluster));
        let files = text_table(&[("chain", path(chain)), ("key", path(key))]);
        root.insert("certificate".to_owned(), Value::Array(vec![files]));
        root.insert("app".to_owned(), text_table(&[("kind", "synthetic")]));
        // A machine that is shared is slow: late is not lost.
        root.insert("tls".to_owned(), number_table(&[("session_wait_ms", 5000)]));
        root.insert("lease".to_owned(), number_table(&[("silence_timeout_ms", 20_000)]));
        lay_over(&mut root, self.node.clone());
        root.to_string()
    }

    /// A distributor's configuration.
    pub(crate) fn distributor_text(&self, number: usize, directory: &Path, etcd: Option<&Etcd>) -> String {
        let name = format!("d{number}");
        let service = |address: &str| {
            let address = std::net::SocketAddr::new(address.parse().expect("an address"), SERVICE_PORT);
            text_table(&[("address", &address.to_string()), ("model", self.model.name())])
        };
        let nodes = (1..=self.nodes).map(|number| {
            let node = format!("n{number}");
            text_table(&[
                ("name", &node),
                ("address", &Address::Node(number).v4()),
                ("link", &link(directory, &node)),
            ])
        });
        let mut root = common(directory, &name, 0);
        root.insert("distributor".to_owned(), text_table(&[("name", &name)]));
        root.insert("nic".to_owned(), Value::Table(nic(Address::Distributor(number))));
        root.insert("cluster".to_owned(), Value::Table(links(directory, &name, etcd)));
        root.insert("service".to_owned(), Value::Array(vec![service(SERVICE4), service(SERVICE6)]));
        if etcd.is_none() {
            root.insert("peer".to_owned(), peers(directory, &name, self.distributor_names()));
            root.insert("node".to_owned(), Value::Array(nodes.collect()));
        }
        lay_over(&mut root, self.distributor.clone());
        root.to_string()
    }
}

/// `[[peer]]` for each of these but oneself.
fn peers(directory: &Path, own: &str, names: Vec<String>) -> Value {
    let others = names.into_iter().filter(|name| name != own);
    let peer = |name: String| text_table(&[("name", &name), ("address", &link(directory, &name))]);
    Value::Array(others.map(peer).collect())
}

/// What nodes and distributors have in common. Cores are shared: whoever has nothing to do lets others run.
fn common(directory: &Path, name: &str, number: usize) -> Table {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let worker = i64::try_from(number % cores).unwrap_or(0);
    let mut table = Table::new();
    table.insert("control".to_owned(), Value::Integer(0));
    table.insert("workers".to_owned(), Value::Array(vec![Value::Integer(worker)]));
    table.insert("idle".to_owned(), Value::String("yield".to_owned()));
    let socket = directory.join(format!("{name}.ctl"));
    let mut root = Table::new();
    root.insert("cores".to_owned(), Value::Table(table));
    root.insert("admin".to_owned(), text_table(&[("socket", path(&socket))]));
    root
}

fn nic(address: Address) -> Table {
    let mut nic = Table::new();
    let device = format!("net_af_packet0,iface={},framecnt=4096", crate::cluster::PORT);
    nic.insert("device".to_owned(), Value::String(device));
    nic.insert("addresses".to_owned(), strings(address.with_prefix()));
    nic.insert("hugepages".to_owned(), Value::String("never".to_owned()));
    nic
}

fn links(directory: &Path, name: &str, etcd: Option<&Etcd>) -> Table {
    let file = |ending: &str| directory.join("cluster").join(format!("{name}.{ending}"));
    let mut table = Table::new();
    for (key, file) in
        [("ca", directory.join("cluster/ca.pem")), ("certificate", file("pem")), ("key", file("key"))]
    {
        table.insert(key.to_owned(), Value::String(path(&file).to_owned()));
    }
    table.insert("listen".to_owned(), strings([link(directory, name)]));
    if let Some(etcd) = etcd {
        let members: Table = etcd.table(NODES_MAX).parse().expect("the keys are TOML");
        table.insert("etcd".to_owned(), Value::Table(members));
    }
    table
}

/// Where someone listens for links.
fn link(directory: &Path, name: &str) -> String {
    format!("unix:{}/{name}.sock", path(directory))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the cluster's paths are text")
}

fn strings<T: Into<String>>(values: impl IntoIterator<Item = T>) -> Value {
    Value::Array(values.into_iter().map(|value| Value::String(value.into())).collect())
}

fn text_table(entries: &[(&str, &str)]) -> Value {
    let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), Value::String((*value).to_owned()));
    Value::Table(entries.iter().map(entry).collect())
}

fn number_table(entries: &[(&str, i64)]) -> Value {
    let entry = |(key, value): &(&str, i64)| ((*key).to_owned(), Value::Integer(*value));
    Value::Table(entries.iter().map(entry).collect())
}

/// Tables are joined key by key; anything else is replaced.
fn lay_over(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_over_those_of_the_cluster() {
        let description = Description::default()
            .with_node("[lease]\ndecide = \"never\"\n[limits]\nconnections = 9")
            .with_node("[lease]\ndecide = \"always\"");
        let folder = tempfile::tempdir().unwrap();
        let certificates = Certificates::issue(folder.path());
        let text = description.node_text(2, Path::new("/tmp/kf"), &certificates, None);
        let table: Table = text.parse().unwrap();
        assert_eq!(table["lease"]["decide"].as_str(), Some("always"));
        assert_eq!(table["lease"]["silence_timeout_ms"].as_integer(), Some(20_000));
        assert_eq!(table["limits"]["connections"].as_integer(), Some(9));
        assert_eq!(table["node"]["name"].as_str(), Some("n2"));
        assert_eq!(table["peer"][0]["address"].as_str(), Some("unix:/tmp/kf/n1.sock"));
        let distributor: Table = description.distributor_text(1, Path::new("/tmp/kf"), None).parse().unwrap();
        assert_eq!(distributor["node"].as_array().map(Vec::len), Some(2));
    }
}
