//! `kar get nodes --watch`: who comes and goes.

use std::collections::BTreeMap;

use kar_proto::v1::{NodeInfo, WatchTopologyRequest, WatchTopologyResponse};
use serde_json::{Value, json};

use super::args::{Format, ListArgs};
use super::client::with_session;
use super::exit::{Code, Failure, Outcome};
use super::get::{NOTHING, node_json, read};
use super::payload::line_if_read;

/// Follows the nodes until the command is interrupted.
pub(crate) async fn nodes(args: ListArgs) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let request = WatchTopologyRequest {};
        let answer = session.system().watch_topology(request).await.map_err(read)?;
        let mut topologies = answer.into_inner();
        let mut shown = Shown::default();
        while let Some(mut topology) = topologies.message().await.map_err(read)? {
            topology.nodes.retain(|node| session.own_node() != Some(&node.name));
            let lines = match args.output {
                Format::Json => vec![topology_json(&topology).to_string()],
                Format::Table => shown.changes(&topology),
            };
            for text in lines {
                // `| head` has enough.
                if !line_if_read(&text)? {
                    return Ok(());
                }
            }
        }
        Err(Failure::new(Code::Unavailable, "the sidecar ended")
            .advise("follow the nodes through another one"))
    })
    .await
}

/// One line for each topology.
fn topology_json(topology: &WatchTopologyResponse) -> Value {
    let nodes: Vec<Value> = topology.nodes.iter().map(node_json).collect();
    let name = |owner: &u64| {
        let node = topology.nodes.iter().find(|node| node.incarnation == *owner);
        node.map(|node| node.name.clone())
    };
    let kinds = topology.kinds.iter().map(|kind| {
        let owners: Vec<Option<String>> = kind.owners.iter().map(name).collect();
        json!({ "kind": kind.kind, "owners": owners })
    });
    json!({ "nodes": nodes, "kinds": kinds.collect::<Vec<_>>() })
}

/// What was shown last.
#[derive(Default)]
struct Shown {
    nodes: BTreeMap<u64, NodeInfo>,
    owned: BTreeMap<u64, usize>,
}

// === impl Shown ===

impl Shown {
    /// A line for each node that is not as it was shown last.
    fn changes(&mut self, topology: &WatchTopologyResponse) -> Vec<String> {
        let mut owned: BTreeMap<u64, usize> = BTreeMap::new();
        for owner in topology.kinds.iter().flat_map(|kind| &kind.owners) {
            *owned.entry(*owner).or_default() += 1;
        }
        let now: BTreeMap<u64, NodeInfo> =
            topology.nodes.iter().map(|node| (node.incarnation, node.clone())).collect();
        let mut lines = Vec::new();
        for node in self.nodes.values().filter(|node| !now.contains_key(&node.incarnation)) {
            lines.push(format!("gone     {}", node.name));
        }
        for node in now.values() {
            let before = self.nodes.get(&node.incarnation);
            let partitions = owned.get(&node.incarnation).copied().unwrap_or(0);
            let moved = self.owned.get(&node.incarnation).copied().unwrap_or(0) != partitions;
            if before == Some(node) && !moved {
                continue;
            }
            let state = match (node.leaving, before) {
                (true, _) => "leaving ",
                (false, None) => "live    ",
                (false, Some(_)) => "changed ",
            };
            let hosts = [&node.services[..], &node.actor_types[..]].concat().join(",");
            let hosts = if hosts.is_empty() { "nothing".into() } else { hosts };
            lines.push(format!("{state} {}  hosts {hosts}  owns {partitions}", node.name));
        }
        (self.nodes, self.owned) = (now, owned);
        lines
    }
}

#[cfg(test)]
mod tests {
    use kar_proto::v1::KindOwners;

    use super::*;

    fn topology(nodes: &[(u64, bool)], owners: &[u64]) -> WatchTopologyResponse {
        let node = |(incarnation, leaving): &(u64, bool)| NodeInfo {
            name: format!("n{incarnation}"),
            incarnation: *incarnation,
            actor_types: vec!["K".into()],
            leaving: *leaving,
            ..NodeInfo::default()
        };
        WatchTopologyResponse {
            nodes: nodes.iter().map(node).collect(),
            kinds: vec![KindOwners { kind: "a.K".into(), owners: owners.to_vec() }],
        }
    }

    #[test]
    fn only_changes_are_shown() {
        let mut shown = Shown::default();
        let first = topology(&[(1, false)], &[1, 1]);
        assert_eq!(shown.changes(&first), ["live     n1  hosts K  owns 2"]);
        assert_eq!(shown.changes(&first), Vec::<String>::new());
        let second = topology(&[(1, false), (2, false)], &[1, 2]);
        assert_eq!(
            shown.changes(&second),
            ["changed  n1  hosts K  owns 1", "live     n2  hosts K  owns 1"]
        );
        let third = topology(&[(1, true), (2, false)], &[2, 2]);
        assert_eq!(
            shown.changes(&third),
            ["leaving  n1  hosts K  owns 0", "changed  n2  hosts K  owns 2"]
        );
        assert_eq!(shown.changes(&topology(&[(2, false)], &[2, 2])), ["gone     n1"]);
        assert_eq!(topology_json(&second)["kinds"][0]["owners"], json!(["n1", "n2"]));
    }
}
