//! Calls of services in Rust past all logs, and with a key that keeps them together.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_sdk::{CallError, Client, Error, Host, Kar, RetryPolicy, ServiceContext};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, test, wait};

use super::stage::Stage;

const QUICK: RetryPolicy =
    RetryPolicy::attempts(3).backoff(Duration::from_millis(1), Duration::from_millis(5), 2.0);

/// Keys that are looked at.
const KEYS: usize = 16;

/// Answers who it is.
struct Desk(&'static str, Stage);

#[kar_sdk::service(name = "desk")]
impl Desk {
    /// Whether the invocation is a direct one, and whether its turn has a token.
    async fn look(&self, ctx: &mut ServiceContext) -> Result<(bool, bool), Error> {
        // For a direct one there is nothing to do.
        ctx.flush().await?;
        Ok((ctx.is_direct(), !ctx.token().is_empty()))
    }

    #[kar(retry = QUICK)]
    async fn fails(&self, ctx: &mut ServiceContext) -> Result<(), Error> {
        self.1.note(if ctx.is_direct() { "direct" } else { "durable" });
        Err(Error::retryable("busy", "try again"))
    }

    async fn who(&self, _ctx: &mut ServiceContext) -> Result<String, Error> {
        Ok(self.0.to_owned())
    }

    /// Looks from inside a turn, and fails: what was asked directly is no part of it.
    async fn asks(&self, ctx: &mut ServiceContext) -> Result<(bool, bool), Error> {
        Ok(ctx.service("desk").call_direct("look", &()).await?)
    }
}

async fn hosted(node: &Node, name: &'static str, stage: &Stage) -> Host {
    let host = Host::builder().service(Desk(name, stage.clone())).socket(&node.socket);
    host.start().await.expect("hosted")
}

async fn connected(node: &Node) -> Client {
    Kar::builder().socket(&node.socket).connect().await.expect("connected")
}

#[test]
fn direct_calls_go_past_all_logs_and_are_made_once() {
    test(async {
        let world = World::new("sdkdirect");
        let (node, front) = (world.bare("a").await, world.bare("front").await);
        let client = connected(&front).await;
        let desk = client.service("desk");
        let none = desk.call_direct::<(bool, bool)>("look", &()).await;
        assert!(matches!(none, Err(CallError::NoHost(_))), "{none:?}");
        let stage = Stage::default();
        let _host = hosted(&node, "a", &stage).await;
        let look = async || desk.call_direct::<(bool, bool)>("look", &()).await;
        let looked = wait::until("a host to be known", READY_LIMIT, async || match look().await {
            Ok(looked) => Some(looked),
            Err(CallError::NoHost(_)) => None,
            Err(other) => panic!("{other}"),
        })
        .await;
        assert_eq!(looked, (true, false));
        let durable = desk.call::<(bool, bool)>("look", &()).await.expect("looked");
        assert_eq!(durable, (false, true));
        let within = desk.call::<(bool, bool)>("asks", &()).await.expect("asked");
        assert_eq!(within, (true, false), "a turn may make one, too");
        // No policy makes it again.
        for (what, times) in [("direct", 1), ("durable", 3)] {
            let call = match what {
                "direct" => desk.call_direct::<()>("fails", &()),
                _ => desk.call::<()>("fails", &()),
            };
            let error = call.await.expect_err("it fails");
            assert_eq!(error.application().expect("its own").code, "busy", "{what}");
            assert_eq!(stage.count(what), times, "{what}");
        }
    });
}

#[test]
fn calls_with_one_affinity_key_are_handled_by_one_owner() {
    test(async {
        let world = World::new("sdkaffinity");
        let (a, b, front) =
            (world.bare("a").await, world.bare("b").await, world.bare("front").await);
        let stage = Stage::default();
        let (_host, other) = (hosted(&a, "a", &stage).await, hosted(&b, "b", &stage).await);
        let client = connected(&front).await;
        let who = async |key: &str| {
            let desk = client.service("desk").affinity_key(key);
            desk.call::<String>("who", &()).await.expect("answered")
        };
        let all = async || {
            let mut owners = BTreeMap::new();
            for key in (0..KEYS).map(|key| format!("k{key}")) {
                let owner = who(&key).await;
                owners.insert(key, owner);
            }
            owners
        };
        let mut before = BTreeMap::new();
        wait::until_true("the hosts to share the keys", READY_LIMIT, async || {
            let now = all().await;
            let is_settled =
                now == before && ["a", "b"].iter().all(|n| now.values().any(|o| o == n));
            before = now;
            is_settled
        })
        .await;
        for _ in 0..5 {
            assert_eq!(all().await, before, "each key has its owner");
        }
        // Without a key, which of them is open: both get some.
        let desk = client.service("desk");
        for name in ["a", "b"] {
            wait::until_true("each to be called", READY_LIMIT, async || {
                desk.call::<String>("who", &()).await.expect("answered") == name
            })
            .await;
        }
        // The owner's end is nobody's: the other one has them all.
        b.kill_sidecar();
        drop(other);
        assert!(all().await.values().all(|owner| owner == "a"));
    });
}
