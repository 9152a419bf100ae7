//! Where a session lives: the one node of a cluster that keeps it, by rendezvous hash of its name, so that all nodes agree
//! without asking and a node that comes or goes moves only its own share.
//!
//! In: a session's name and the members. Out: a member. Pure. The hash needs no secret: names are drawn at random by
//! us, and a client that offers one of its own choosing has a node asked that has nothing.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// A node as the cluster's nodes know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The node of this name.
    pub fn of(name: &str) -> NodeId {
        let mut hasher = SipHasher13::new_with_keys(0x6b65_7966_6572_7279, 0x6e6f_6465_206e_616d);
        hasher.write(name.as_bytes());
        NodeId(hasher.finish())
    }
}

/// The member that keeps the session of this name; `None` without members.
pub fn home(session: &[u8; 32], members: &[NodeId]) -> Option<NodeId> {
    let weight = |member: &NodeId| {
        let mut hasher = SipHasher13::new_with_keys(member.0, 0x6b65_7966_6572_7279);
        hasher.write(session);
        (hasher.finish(), *member)
    };
    members.iter().copied().max_by_key(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(count: usize) -> Vec<NodeId> {
        (0..count).map(|at| NodeId::of(&format!("node-{at}"))).collect()
    }

    #[test]
    fn each_member_has_its_share() {
        let members = members(5);
        let mut shares = [0; 5];
        for at in 0..5_000u32 {
            let mut session = [0; 32];
            session[..4].copy_from_slice(&at.to_be_bytes());
            let home = home(&session, &members).unwrap();
            shares[members.iter().position(|member| *member == home).unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| (850..1150).contains(share)), "{shares:?}");
    }

    proptest! {
        #[test]
        fn only_the_share_of_who_leaves_moves(session: [u8; 32], count in 1usize..20, leaver in 0usize..20) {
            let all = members(count);
            let before = home(&session, &all).unwrap();
            let mut rest = all.clone();
            rest.reverse();
            prop_assert_eq!(home(&session, &rest), Some(before), "whatever their order");
            let left = rest.remove(leaver % count);
            let after = home(&session, &rest);
            prop_assert_eq!(after == Some(before), before != left);
        }
    }
}
