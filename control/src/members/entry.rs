//! A member's key and value in etcd: `PREFIX/nodes/NAME` and a small JSON text. In: what somebody has written there. Out:
//! a member, or why it is none. Whoever may write to etcd may write anything, so everything has a bound.

use std::path::Path;

use keyferry_distribute::maglev::WEIGHT_MAX;
use serde::{Deserialize, Serialize};

use super::{Member, Role};
use crate::config::{self, member_name, peer_address};
use crate::links::trust;

/// Longest value read, in bytes.
pub const VALUE_BYTES_MAX: usize = 4096;
/// Addresses of a member, at most.
pub const ADDRESSES_MAX: usize = 8;
/// Addresses of its port, at most.
pub const PORT_ADDRESSES_MAX: usize = config::ADDRESSES_MAX;

/// Why a key is no member's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The key does not end in a member's name.
    #[error("its key does not end in the name of a member")]
    Name,
    /// The value is no JSON text of a member.
    #[error("its value is not what a member writes: {0}")]
    Value(String),
    /// Name and key differ.
    #[error("its value is of another name")]
    Other,
    /// An address is none.
    #[error("one of its addresses is of no use: {0}")]
    Address(String),
}

/// The value as it is written. Unknown fields are of later releases.
#[derive(Serialize, Deserialize)]
struct Value {
    name: String,
    role: Role,
    addresses: Vec<String>,
    incarnation: u64,
    /// Of a node; not there in earlier releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    port_addresses: Vec<String>,
    /// Of a node; 1 where it is not there.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u64,
}

fn one() -> u64 {
    1
}

fn is_one(weight: &u64) -> bool {
    *weight == 1
}

/// What the keys of all members begin with.
pub fn folder(prefix: &str) -> String {
    format!("{}/nodes/", prefix.trim_end_matches('/'))
}

/// The value of a member's key.
pub fn value(member: &Member) -> String {
    let value = Value {
        name: member.name.clone(),
        role: member.role,
        addresses: member.addresses.iter().map(ToString::to_string).collect(),
        incarnation: member.incarnation,
        port_addresses: member.port_addresses.iter().map(ToString::to_string).collect(),
        weight: member.weight.into(),
    };
    serde_json::to_string(&value).expect("a member is plain data")
}

/// The name that a key below `folder` ends in.
///
/// # Errors
/// It cannot be a member's.
pub fn name<'k>(folder: &str, key: &'k [u8]) -> Result<&'k str, EntryError> {
    let name = key.strip_prefix(folder.as_bytes()).and_then(|name| str::from_utf8(name).ok());
    let name = name.ok_or(EntryError::Name)?;
    let fits = member_name(name).is_ok() && trust::dns_name(name).is_ok();
    if fits { Ok(name) } else { Err(EntryError::Name) }
}

/// The member that a key of this name and its value describe.
///
/// # Errors
/// They describe none.
pub fn member(name: &str, value: &[u8]) -> Result<Member, EntryError> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(EntryError::Value(format!("it has {} bytes", value.len())));
    }
    let value: Value = serde_json::from_slice(value).map_err(|error| EntryError::Value(error.to_string()))?;
    if value.name != name {
        return Err(EntryError::Other);
    }
    if value.addresses.len() > ADDRESSES_MAX {
        return Err(EntryError::Address(format!("there are {}", value.addresses.len())));
    }
    let address = |text: &String| peer_address(text, Path::new("/")).map_err(EntryError::Address);
    let addresses = value.addresses.iter().map(address).collect::<Result<_, _>>()?;
    if value.port_addresses.len() > PORT_ADDRESSES_MAX {
        return Err(EntryError::Address(format!("there are {} of its port", value.port_addresses.len())));
    }
    let port_address = |text: &String| {
        text.parse().map_err(|_| EntryError::Address(format!("\"{text}\" is none of a port")))
    };
    let port_addresses = value.port_addresses.iter().map(port_address).collect::<Result<_, _>>()?;
    // A later release may have larger ones.
    let weight = value.weight.clamp(1, WEIGHT_MAX.into()) as u8;
    Ok(Member {
        name: value.name,
        role: value.role,
        addresses,
        incarnation: value.incarnation,
        port_addresses,
        weight,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::links::Address;

    #[test]
    fn a_member_survives_etcd() {
        let written = Member {
            name: "node-7".into(),
            role: Role::Distributor,
            addresses: vec![
                Address::Tcp("[2001:db8::7]:7411".parse().unwrap()),
                Address::Unix("/run/keyferry/7.sock".into()),
            ],
            incarnation: u64::MAX,
            port_addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            weight: 7,
        };
        let key = format!("{}node-7", folder("/keyferry/"));
        assert_eq!(key, "/keyferry/nodes/node-7");
        let name = name("/keyferry/nodes/", key.as_bytes()).unwrap();
        assert_eq!(member(name, value(&written).as_bytes()), Ok(written));
    }

    /// What a node of an earlier release writes, and what one writes that has nothing to say to distributors, is the same.
    #[test]
    fn what_is_not_there_has_a_default() {
        let text = r#"{"name":"a","role":"node","addresses":[],"incarnation":1}"#;
        let read = member("a", text.as_bytes()).unwrap();
        assert_eq!((&read.port_addresses[..], read.weight), (&[][..], 1));
        assert_eq!(value(&read), text);
        for (written, weight) in [(0, 1), (16, 16), (17, 16), (u64::MAX, 16)] {
            let text = text.replace("}", &format!(r#","weight":{written}}}"#));
            assert_eq!(member("a", text.as_bytes()).unwrap().weight, weight);
        }
    }

    #[test]
    fn what_is_no_member_is_refused() {
        for key in ["/k/nodes/", "/k/nodes/a b", "/k/nodes/a/b", "/other/nodes/a", "/k/nodes/-"] {
            assert_eq!(name("/k/nodes/", key.as_bytes()), Err(EntryError::Name), "{key}");
        }
        let text = |name: &str, role: &str, address: &str| {
            format!(
                r#"{{"name":"{name}","role":"{role}","addresses":["{address}"],"incarnation":1,"later":true}}"#
            )
        };
        assert!(member("a", text("a", "node", "10.0.0.1:7411").as_bytes()).is_ok());
        assert_eq!(member("b", text("a", "node", "10.0.0.1:7411").as_bytes()), Err(EntryError::Other));
        for address in ["10.0.0.1", "10.0.0.1:0", "unix:", "host:1"] {
            let wrong = member("a", text("a", "node", address).as_bytes());
            assert!(matches!(wrong, Err(EntryError::Address(_))), "{address}");
        }
        for value in [text("a", "king", "10.0.0.1:1"), "{}".into(), " ".repeat(VALUE_BYTES_MAX + 1)] {
            assert!(matches!(member("a", value.as_bytes()), Err(EntryError::Value(_))), "{value}");
        }
        let many = ["\"10.0.0.1:1\""; ADDRESSES_MAX + 1].join(",");
        let many = format!(r#"{{"name":"a","role":"node","addresses":[{many}],"incarnation":1}}"#);
        assert!(matches!(member("a", many.as_bytes()), Err(EntryError::Address(_))));
        let many = vec!["\"10.0.0.1\""; PORT_ADDRESSES_MAX + 1].join(",");
        for port in ["\"10.0.0.1/24\"", "\"host\"", &many] {
            let text =
                text("a", "node", "10.0.0.1:1").replace("}", &format!(r#","port_addresses":[{port}]}}"#));
            assert!(matches!(member("a", text.as_bytes()), Err(EntryError::Address(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn survives_anything(key in prop::collection::vec(any::<u8>(), 0..40), value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = name("/", &key);
            let _ = member("a", &value);
        }
    }
}
