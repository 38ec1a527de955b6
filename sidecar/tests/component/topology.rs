//! Following the topology: bounded for each watcher, and in their number.

use std::sync::Arc;

use kar::config::Bounds;
use kar::driver::outlets::{Directory, NodeCard};
use kar::grpc::topology::Watchers;
use kar_core::ids::NodeId;
use kar_proto::v1 as pb;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use crate::memory::TestNode;
use crate::reason;

fn directory(nodes: u64) -> Arc<Directory> {
    let card = |n| NodeCard {
        id: NodeId(n),
        name: format!("n{n}"),
        address: "unix:/nowhere".into(),
        process_id: 0,
        kinds: vec![],
        leaving: false,
        transient: false,
    };
    Arc::new((1..=nodes).map(|n| (NodeId(n), card(n))).collect())
}

#[tokio::test]
async fn a_slow_watcher_is_told_the_newest_and_nothing_gathers() {
    let node = TestNode::start().await;
    let (_closing, closed) = watch::channel(false);
    let watch = Watchers::new(closed).watch(node.driver.clone(), &Bounds::default());
    let mut watch = std::pin::pin!(watch.expect("the first one"));
    let mut next = async || watch.next().await.expect("it goes on").expect("no error").nodes.len();
    assert_eq!(next().await, 1, "what there is comes at once");
    for nodes in 1..=1_000 {
        node.driver.batch().set_directory(directory(nodes));
    }
    assert_eq!(next().await, 1_000, "one answer for a thousand changes");
    // Nothing else waits: the next answer is the next change.
    node.driver.batch().set_directory(directory(7));
    assert_eq!(next().await, 7);
    // A change that changes nothing is not told.
    node.driver.batch().set_directory(directory(7));
    node.driver.batch().set_directory(directory(8));
    assert_eq!(next().await, 8);
}

#[tokio::test]
async fn watchers_are_counted_and_end_with_the_sidecar() {
    let node = TestNode::start().await;
    let (closing, closed) = watch::channel(false);
    let watchers = Watchers::new(closed);
    let bounds = Bounds { topology_watchers_max: 2, ..Bounds::default() };
    let watch = || watchers.watch(node.driver.clone(), &bounds);
    let (first, second) = (watch().expect("there is room"), watch().expect("there is room"));
    let refused = watch().err().expect("there is none");
    assert_eq!(reason(&refused), "LIMIT_REACHED");
    assert!(refused.message().contains("topology-watchers-max"), "{refused:?}");
    drop(second);
    let _third = watch().expect("there is room again");
    let mut first = std::pin::pin!(first);
    let told: pb::WatchTopologyResponse = first.next().await.expect("told").expect("no error");
    assert_eq!(told.nodes.len(), 1);
    closing.send_replace(true);
    let end = first.next().await.expect("the end is told").expect_err("as an error");
    assert_eq!(reason(&end), "DRAINING");
    assert!(first.next().await.is_none());
}
