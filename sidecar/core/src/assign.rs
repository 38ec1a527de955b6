//! Which node should own which partition, and which partition an invocation belongs to: pure functions of the
//! membership (design section 7). Rendezvous hashing: a change of members moves only what must move.

use crate::event::Members;
use crate::ids::{NodeId, PartitionId, Uuid};
use crate::invocation::Target;

/// The node that should own a partition: over live hosts of its kind that are not leaving; with none, over all nodes
/// that are not leaving (such a *caretaker* accepts but never dispatches), those that are here for a short while only
/// if there are no others, since all that they own moves again when they go; with none, nobody.
pub fn desired_owner(members: &Members, partition: &PartitionId) -> Option<NodeId> {
    let weigh = |node: &NodeId| {
        let seed = fnv(partition.kind.name.as_bytes(), fnv(&[partition.kind.class as u8], FNV));
        mix(seed ^ mix(u64::from(partition.index) + 1) ^ mix(node.0).rotate_left(17))
    };
    let staying = || members.nodes.iter().filter(|(_, m)| !m.leaving);
    staying()
        .filter(|(_, m)| m.kinds.contains(&partition.kind))
        .map(|(id, _)| *id)
        .max_by_key(weigh)
        .or_else(|| staying().filter(|(_, m)| !m.transient).map(|(id, _)| *id).max_by_key(weigh))
        .or_else(|| staying().map(|(id, _)| *id).max_by_key(weigh))
}

/// The partition of a target with `count` partitions: by actor id, else by affinity key, else by the invocation's uuid.
pub fn partition_index(target: &Target, uuid: Uuid, count: u32) -> u32 {
    let key = target.actor.as_ref().or(target.affinity.as_ref());
    let hash = match key {
        Some(key) => mix(fnv(key.as_bytes(), FNV)),
        None => mix(uuid.0 as u64),
    };
    // `count` is at least 1 wherever a kind is known; the bound keeps the function total.
    (hash % u64::from(count.max(1))) as u32
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: fixed for ever, because actors' partitions are stored by it.
fn fnv(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(seed, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// Finaliser of SplitMix64: spreads the bits.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Member;
    use crate::ids::Kind;

    fn members(hosts: &[u64], others: &[u64], kind: &Kind) -> Members {
        let mut members = Members::default();
        for id in hosts {
            let member = Member { kinds: vec![kind.clone()], ..Member::default() };
            members.nodes.insert(NodeId(*id), member);
        }
        for id in others {
            members.nodes.insert(NodeId(*id), Member::default());
        }
        members
    }

    #[test]
    fn a_departure_moves_only_the_departed_nodes_partitions() {
        let kind = Kind::actor("Account");
        let before = members(&[1, 2, 3], &[4], &kind);
        let after = members(&[1, 3], &[4], &kind);
        let mut owned = [0; 5];
        for index in 0..300 {
            let id = PartitionId::new(kind.clone(), index);
            let old = desired_owner(&before, &id).expect("hosts are alive");
            owned[old.0 as usize] += 1;
            let new = desired_owner(&after, &id).expect("hosts are alive");
            assert!(new == old || old == NodeId(2), "{id} moved from {old:?} to {new:?}");
        }
        assert!(owned[1..4].iter().all(|n| (60..140).contains(n)), "unbalanced: {owned:?}");
        assert_eq!(owned[4], 0, "node 4 is no host");
    }

    #[test]
    fn who_is_here_for_a_short_while_owns_only_what_nobody_else_can() {
        let kind = Kind::actor("Account");
        let transient = |members: &mut Members, id| {
            members.nodes.get_mut(&NodeId(id)).expect("it was put there").transient = true;
        };
        for index in 0..100 {
            let id = PartitionId::new(kind.clone(), index);
            let alone = desired_owner(&members(&[], &[1, 2], &kind), &id);
            let mut joined = members(&[], &[1, 2, 3, 4], &kind);
            transient(&mut joined, 3);
            transient(&mut joined, 4);
            assert_eq!(desired_owner(&joined, &id), alone, "{id} moved because a command came");
            let mut only = members(&[], &[3], &kind);
            transient(&mut only, 3);
            assert_eq!(desired_owner(&only, &id), Some(NodeId(3)), "somebody has to");
            // Whoever hosts is wanted, for however short a while.
            let mut host = members(&[3], &[1], &kind);
            transient(&mut host, 3);
            assert_eq!(desired_owner(&host, &id), Some(NodeId(3)));
        }
    }

    #[test]
    fn without_hosts_a_caretaker_owns() {
        let kind = Kind::service("greeter");
        let id = PartitionId::new(kind.clone(), 0);
        assert_eq!(desired_owner(&members(&[], &[7], &kind), &id), Some(NodeId(7)));
        assert_eq!(desired_owner(&members(&[], &[], &kind), &id), None);
        let mut leaving = members(&[7], &[], &kind);
        leaving.nodes.get_mut(&NodeId(7)).expect("it was put there").leaving = true;
        assert_eq!(desired_owner(&leaving, &id), None);
    }
}
