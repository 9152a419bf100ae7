//! `[node]`: who this node is in its cluster.

use keyferry_distribute::maglev::WEIGHT_MAX;

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// How the cluster spreads its load.
    pub model: Model,
    /// Its share of new clients beside the others', for distributors that find it in etcd.
    pub weight: u8,
    /// Core dumps may be written, keys and all.
    pub core_dumps: bool,
}

/// How a cluster spreads its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Connections in turn; requests stay where they arrive.
    Rr,
    /// Connections to the node that holds the session; requests stay where they arrive.
    Session,
    /// Requests move: lend as `[lease]` says.
    Bf,
}

impl Node {
    /// Goes by another table of the file.
    pub(super) fn take_over(&mut self, new: &Node, ledger: &mut Ledger) {
        let Node { name, model, weight, core_dumps } = self;
        ledger.fixed("[node]", "name", name, &new.name);
        ledger.live("[node]", "model", model, &new.model);
        ledger.fixed("[node]", "weight", weight, &new.weight);
        ledger.fixed("[node]", "core_dumps", core_dumps, &new.core_dumps);
    }
}

const MODELS: &[(&str, Model)] = &[("bf", Model::Bf), ("rr", Model::Rr), ("session", Model::Session)];

pub(super) fn read(mut section: Section<'_, '_>) -> Option<Node> {
    let wants = "a name of letters, digits, dots, dashes and underscores, such as \"a\"";
    let name = section.parsed("name", wants, name);
    let name = section.required("name", name, wants);
    let model = section.choice("model", MODELS, Model::Bf);
    let weight = section.number("weight", 1, 1..=WEIGHT_MAX.into());
    let core_dumps = section.flag("core_dumps", false);
    section.finish();
    Some(Node { name: name?, model, weight, core_dumps })
}

/// Names go into file names, logs and metrics, so they are plain.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && text.len() <= NAME_BYTES_MAX && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "\"{text}\" is no name: start with a letter or digit, go on with letters, digits, dots, dashes and \
         underscores, at most {NAME_BYTES_MAX} in all"
    ))
}

/// A node lends to others by name, so each name is one node's.
pub(super) fn check_peers(context: &Context<'_>, node: &Node, peers: &[(usize, &str)]) {
    for (position, (index, name)) in peers.iter().enumerate() {
        let path = format!("peer[{index}].name");
        if *name == node.name {
            context.report(&path, format!("\"{name}\" is this node itself: list only the others"));
        }
        if peers[..position].iter().any(|(_, other)| other == name) {
            context.report(&path, format!("\"{name}\" is listed twice: remove one"));
        }
    }
}
