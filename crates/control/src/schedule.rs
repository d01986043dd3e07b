//! Which node gets an instance: filter, then weigh. Pure; booking happens afterwards, under the store's constraints.

use lambda_types::shape::LaunchProfile;
use lambda_types::{ImageId, NodeId};

use crate::store::node::{NodeRow, Resources};

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) image: ImageId,
    pub(crate) profile: LaunchProfile,
    pub(crate) need: Resources,
}

/// A node and whether it was heard from lately.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) node: NodeRow,
    pub(crate) fresh: bool,
}

/// What no node has: the filter that the last candidates failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Any node.
    Node,
    /// A node with the image.
    Image,
    /// One of those that offers the profile.
    Profile,
    /// One of those that was heard from lately.
    FreshNode,
    /// One of those with room.
    Room,
}

/// Nodes that can take it, best first.
pub(crate) fn choose(candidates: &[Candidate], wanted: &Wanted) -> Result<Vec<NodeId>, Missing> {
    let mut left: Vec<&Candidate> = candidates.iter().collect();
    keep(&mut left, Missing::Node, |_| true)?;
    keep(&mut left, Missing::Image, |it| it.node.images.iter().any(|image| image.id == wanted.image))?;
    keep(&mut left, Missing::Profile, |it| it.node.profiles.contains(&wanted.profile))?;
    keep(&mut left, Missing::FreshNode, |it| it.fresh)?;
    keep(&mut left, Missing::Room, |it| it.node.capacity.minus(it.node.used).covers(wanted.need))?;
    left.sort_by_key(|it| (std::cmp::Reverse(free_per_mille(it, wanted.need)), it.node.id));
    Ok(left.into_iter().map(|it| it.node.id).collect())
}

fn keep(left: &mut Vec<&Candidate>, reason: Missing, test: impl Fn(&Candidate) -> bool) -> Result<(), Missing> {
    left.retain(|it| test(it));
    if left.is_empty() { Err(reason) } else { Ok(()) }
}

/// The share that stays free of the resource that would be scarcest: spreading keeps room for large shapes.
fn free_per_mille(candidate: &Candidate, need: Resources) -> u64 {
    let (capacity, free) = (candidate.node.capacity, candidate.node.capacity.minus(candidate.node.used).minus(need));
    let share = |free: u64, all: u64| free.saturating_mul(1000).checked_div(all).unwrap_or(0);
    share(free.vcpus, capacity.vcpus)
        .min(share(free.memory_mib, capacity.memory_mib))
        .min(share(free.disk_gib, capacity.disk_gib))
}

#[cfg(test)]
mod tests {
    use lambda_types::node::{Acceleration, OfferedImage};

    use super::*;

    fn candidate(id: u128, used_mib: u64) -> Candidate {
        let image = OfferedImage { id: ImageId::from_bits(7), name: "debian-12".into(), version: "1".into() };
        Candidate {
            node: NodeRow {
                id: NodeId::from_bits(id),
                tunnel: "127.0.0.1:1".parse().unwrap(),
                acceleration: Acceleration::Tcg,
                profiles: vec![LaunchProfile::Tpm],
                tees: Vec::new(),
                images: vec![image],
                capacity: Resources { vcpus: 8, memory_mib: 8192, disk_gib: 100 },
                used: Resources { memory_mib: used_mib, ..Resources::default() },
                generation: 1,
                last_seen_ms: 0,
            },
            fresh: true,
        }
    }

    fn wanted(memory_mib: u64) -> Wanted {
        Wanted {
            image: ImageId::from_bits(7),
            profile: LaunchProfile::Tpm,
            need: Resources { vcpus: 1, memory_mib, disk_gib: 1 },
        }
    }

    #[test]
    fn the_emptier_node_comes_first_and_full_ones_not_at_all() {
        let nodes = [candidate(1, 4096), candidate(2, 1024), candidate(3, 8192)];
        assert_eq!(choose(&nodes, &wanted(512)).unwrap(), [NodeId::from_bits(2), NodeId::from_bits(1)]);
    }

    #[test]
    fn equal_nodes_are_ordered_by_id() {
        let nodes = [candidate(2, 0), candidate(1, 0)];
        assert_eq!(choose(&nodes, &wanted(512)).unwrap(), [NodeId::from_bits(1), NodeId::from_bits(2)]);
    }

    #[test]
    fn the_reason_names_the_last_filter() {
        assert_eq!(choose(&[], &wanted(1)), Err(Missing::Node));
        assert_eq!(choose(&[candidate(1, 0)], &wanted(9000)), Err(Missing::Room));
        let mut stale = candidate(1, 0);
        stale.fresh = false;
        assert_eq!(choose(&[stale], &wanted(1)), Err(Missing::FreshNode));
        let other = Wanted { image: ImageId::from_bits(8), ..wanted(1) };
        assert_eq!(choose(&[candidate(1, 0)], &other), Err(Missing::Image));
        let mut plain = candidate(1, 0);
        plain.node.profiles.clear();
        assert_eq!(choose(&[plain], &wanted(1)), Err(Missing::Profile));
    }
}
