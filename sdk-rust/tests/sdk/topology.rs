//! Who is there, as it changes.

use std::time::Duration;

use futures_util::FutureExt as _;
use kar_proto::v1 as proto;
use kar_sdk::{CallError, Kar};
use tonic::Status;

use crate::bounded;
use crate::common::Fake;

/// A node for each of these, and one partition of an actor type that the first one owns.
fn topology(names: &[&str]) -> proto::WatchTopologyResponse {
    let node = |(name, incarnation): (&&str, u64)| proto::NodeInfo {
        name: (*name).to_owned(),
        incarnation,
        actor_types: vec!["Account".into()],
        process_id: 77,
        leaving: *name == "leaving",
        ..proto::NodeInfo::default()
    };
    proto::WatchTopologyResponse {
        nodes: names.iter().zip(1..).map(node).collect(),
        kinds: vec![
            proto::KindOwners { kind: "a.Account".into(), owners: vec![1, 0] },
            proto::KindOwners { kind: "s.teller".into(), owners: vec![2] },
            proto::KindOwners { kind: "x.new".into(), owners: vec![1] },
        ],
    }
}

#[tokio::test]
async fn the_topology_is_told_at_once_and_when_it_has_changed() {
    let fake = Fake::start().await;
    fake.set_token("secret");
    fake.tell_topology(topology(&["a"]));
    let kar = Kar::builder().socket(&fake.socket).api_token("secret");
    let client = kar.connect().await.unwrap();
    let mut watch = client.watch_topology();
    let first = bounded(watch.next()).await.unwrap();
    assert_eq!(first.actor_types["Account"], [Some(1), None]);
    assert_eq!((first.services["teller"].as_slice(), first.services.len()), (&[Some(2)][..], 1));
    let node = first.node(1).unwrap();
    assert_eq!((node.name.as_str(), node.process_id, node.is_leaving), ("a", 77, false));
    assert_eq!(first.node(2), None, "the owner of a partition may have gone already");
    assert!(watch.next().now_or_never().is_none(), "nothing has changed");
    fake.tell_topology(topology(&["a", "leaving"]));
    let second = bounded(watch.next()).await.unwrap();
    assert!(second.nodes.len() == 2 && second.node(2).unwrap().is_leaving);
    // It is apart from the component's stream.
    fake.break_streams();
    fake.tell_topology(topology(&["b"]));
    assert_eq!(bounded(watch.next()).await.unwrap().nodes[0].name, "b");
    assert_eq!(fake.watches_begun(), 1);
}

#[tokio::test]
async fn a_watch_goes_on_when_its_stream_was_lost_and_says_nothing_twice() {
    let fake = Fake::start().await;
    fake.tell_topology(topology(&["a"]));
    let client = Kar::builder().socket(&fake.socket).connect().await.unwrap();
    let mut watch = client.watch_topology();
    bounded(watch.next()).await.unwrap();
    fake.end_watches();
    let again = async {
        while fake.watches_begun() < 2 {
            tokio::task::yield_now().await;
        }
        fake.tell_topology(topology(&["b"]));
    };
    let (told, ()) = bounded(futures_util::future::join(watch.next(), again)).await;
    assert_eq!(told.unwrap().nodes[0].name, "b", "what was known is not told again");
    // The client is closed, and the sidecar's other ways in are open.
    client.close();
    fake.tell_topology(topology(&["c"]));
    assert_eq!(bounded(watch.next()).await.unwrap().nodes[0].name, "c");
}

#[tokio::test]
async fn a_watch_that_is_refused_says_why_and_can_be_tried_again() {
    let fake = Fake::start().await;
    fake.tell_topology(topology(&["a"]));
    let kar = Kar::builder().socket(&fake.socket).reconnect_timeout(Duration::from_millis(50));
    let client = kar.connect().await.unwrap();
    let mut watch = client.watch_topology();
    fake.refuse_watches(Some(Status::unauthenticated("wrong API token")));
    let refused = bounded(watch.next()).await.unwrap_err();
    assert!(matches!(&refused, CallError::Rejected(r) if r.message == "wrong API token"));
    assert_eq!(fake.watches_begun(), 1, "it is not tried in vain");
    fake.refuse_watches(Some(Status::unavailable("not now")));
    let away = bounded(watch.next()).await.unwrap_err();
    assert!(matches!(away, CallError::Unavailable(_)), "{away:?}");
    assert!(fake.watches_begun() > 2, "it was tried for a while");
    fake.refuse_watches(None);
    assert_eq!(bounded(watch.next()).await.unwrap().nodes[0].name, "a");
}
