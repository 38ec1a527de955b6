//! Who is there, as it changes; and what listings cannot tell.

use std::time::{Duration, Instant};

use kar_proto::v1::{
    ListActorsRequest, ListInvocationsRequest, WatchTopologyRequest, WatchTopologyResponse,
};
use kar_tests::errors::assert_error;
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, process, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::{Code, Streaming};

/// The first topology told that is as wanted.
async fn until(
    watch: &mut Streaming<WatchTopologyResponse>,
    what: &str,
    wanted: impl Fn(&WatchTopologyResponse) -> bool,
) -> WatchTopologyResponse {
    let deadline = Instant::now() + READY_LIMIT;
    let found = async {
        loop {
            let told = watch.message().await.expect("it goes on").expect("it goes on");
            if wanted(&told) {
                return told;
            }
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::time::timeout(left, found).await.unwrap_or_else(|_| panic!("not told: {what}"))
}

fn node(told: &WatchTopologyResponse, name: &str) -> Option<u64> {
    told.nodes.iter().find(|node| node.name == name).map(|node| node.incarnation)
}

/// How many partitions of `Echo` a node owns.
fn owned(told: &WatchTopologyResponse, incarnation: u64) -> usize {
    let kinds = told.kinds.iter().filter(|kind| kind.kind == "a.Echo");
    kinds.flat_map(|kind| &kind.owners).filter(|owner| **owner == incarnation).count()
}

#[test]
fn watchers_are_told_who_comes_and_goes_and_who_owns_what() {
    test(async {
        let world = World::new("watch");
        let a = world.app("a", &["echo"]).await;
        a.hosts("Echo").await;
        let client = a.client().await;
        let request = WatchTopologyRequest {};
        let mut watch = client.system().watch_topology(request).await.expect("taken").into_inner();
        let first = until(&mut watch, "a alone", |told| {
            node(told, "a").is_some_and(|a| owned(told, a) > 0)
        })
        .await;
        let all = owned(&first, node(&first, "a").expect("it is there"));
        let mut b = world.app("b", &["echo"]).await;
        let both = until(&mut watch, "two owners", |told| {
            node(told, "b").is_some_and(|b| owned(told, b) > 0)
        })
        .await;
        let (a_is, b_is) = (node(&both, "a").expect("there"), node(&both, "b").expect("there"));
        assert_eq!(owned(&both, a_is) + owned(&both, b_is), all, "{both:?}");
        b.signal(Signal::TERM);
        let mut last = until(&mut watch, "b leaving", |told| {
            told.nodes.iter().any(|node| node.incarnation == b_is && node.leaving)
                || node(told, "b").is_none()
        })
        .await;
        // What follows quickly may be told at once; it is not told twice.
        if node(&last, "b").is_some() {
            last = until(&mut watch, "b gone", |told| node(told, "b").is_none()).await;
        }
        assert_eq!(owned(&last, a_is), all, "{last:?}");
        b.ended(READY_LIMIT).await;
        // The end of the sidecar is the end of the stream, and does not wait for whoever follows.
        let mut a = a;
        a.signal(Signal::TERM);
        let end = async {
            while watch.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        };
        let end = tokio::time::timeout(READY_LIMIT, end).await.expect("the stream ends");
        assert_error(end, Code::Unavailable, "DRAINING");
        a.ended(READY_LIMIT).await;
    });
}

#[test]
fn the_command_line_follows_nodes() {
    test(async {
        let world = World::new("follow");
        let a = world.app("a", &["echo"]).await;
        a.hosts("Echo").await;
        let data_dir = world.data_dir();
        let data_dir = data_dir.to_str().expect("the path is UTF-8");
        let args = ["get", "nodes", "--watch", "--app", "follow", "--data-dir", data_dir];
        let mut follow = world.spawn_kar("follow", &args);
        let shown = async |what: &str| {
            wait::until_true(what, READY_LIMIT, async || {
                world.logs().values().any(|log| log.contains(what))
            })
            .await;
        };
        shown("live     a  hosts echo,Echo").await;
        let mut b = world.app("b", &["slow"]).await;
        shown("  b  hosts slow,Slow").await;
        b.kill_sidecar();
        b.ended(READY_LIMIT).await;
        shown("gone     b").await;
        follow.signal(Signal::INT);
        follow.ended(READY_LIMIT).await;
    });
}

/// A node that does not answer is named, with its partitions; the rows of others are there.
#[test]
fn listings_say_what_they_leave_out() {
    test(async {
        let world = World::new("partial");
        let front = world.bare("front").await;
        let client = front.client().await;
        let host = world.app("host", &["slow"]).await;
        host.hosts("Slow").await;
        let caller = client.clone();
        let call = tokio::spawn(async move {
            let argument = json!({ "key": "k", "milliseconds": 1_000 });
            caller.call(("Slow", "s1"), "work", &argument).await
        });
        wait::until_true("the actor to be busy", READY_LIMIT, async || {
            let listed = client.system().list_actors(ListActorsRequest::default()).await;
            let listed = listed.expect("listed").into_inner();
            !listed.actors.is_empty() && listed.left_out.is_none()
        })
        .await;
        process::signal(host.pid(), Signal::STOP);
        let listed = client.invocation().list_invocations(ListInvocationsRequest::default()).await;
        let left_out = listed.expect("listed").into_inner().left_out.expect("it is told");
        assert_eq!(left_out.nodes[0].name, "host", "{left_out:?}");
        assert!(left_out.partitions.iter().any(|p| p.starts_with("a.Slow/")), "{left_out:?}");
        process::signal(host.pid(), Signal::CONT);
        call.await.expect("no panic").expect("answered").expect("no error");
        wait::until_true("listings to be complete again", Duration::from_secs(30), async || {
            let listed = client.system().list_actors(ListActorsRequest::default()).await;
            listed.expect("listed").into_inner().left_out.is_none()
        })
        .await;
    });
}

#[test]
fn the_command_line_says_what_is_beyond_its_limit() {
    test(async {
        let world = World::new("beyond");
        let mut nodes = Vec::new();
        for name in ["a", "b", "c"] {
            nodes.push(world.bare(name).await);
        }
        let json = world.kar_here("get nodes", &["--limit", "2", "-o", "json"]).await;
        let rows: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(rows[2]["left_out"]["beyond_limit"], 2, "{rows}");
        let table = world.kar_here("get nodes", &["--limit", "2"]).await;
        assert!(table.stderr.contains("more than 2 (--limit)"), "{table:?}");
        let whole = world.kar_here("get nodes", &["-o", "json"]).await;
        assert!(!whole.stdout.contains("left_out"), "{whole:?}");
    });
}
