//! What the Rust SDK registers and asks for, at a real sidecar.

mod forget;
mod life;
mod services;
mod shut_down;
mod stage;
mod sub_maps;
mod turns;
mod unknown;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kar_sdk::{
    ActorContext, CallError, Error, Host, Kar, RetryPolicy, ServiceContext, Topology, Write,
    Written,
};
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};

const QUICK: RetryPolicy =
    RetryPolicy::attempts(4).backoff(Duration::from_millis(1), Duration::from_millis(5), 2.0);

/// Fails, and counts how often.
#[derive(Default)]
struct Flaky {
    attempts: Arc<AtomicU32>,
}

#[kar_sdk::service(name = "flaky")]
impl Flaky {
    #[kar(retry = QUICK)]
    async fn patient(&self, ctx: &mut ServiceContext) -> Result<u32, Error> {
        self.fails(ctx.attempt())
    }

    async fn plain(&self, ctx: &mut ServiceContext) -> Result<u32, Error> {
        self.fails(ctx.attempt())
    }

    #[kar(retry = RetryPolicy::attempts(2))]
    async fn overruled(&self, ctx: &mut ServiceContext) -> Result<u32, Error> {
        self.fails(ctx.attempt())
    }
}

impl Flaky {
    fn fails(&self, attempt: u32) -> Result<u32, Error> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if attempt < 4 {
            return Err(Error::retryable("busy", format!("in attempt {attempt}")));
        }
        Ok(attempt)
    }
}

struct Holder;

#[kar_sdk::actor]
impl Holder {
    async fn version(&self, ctx: &mut ActorContext) -> Result<u32, Error> {
        Ok(ctx.attempt())
    }
}

#[test]
fn methods_register_their_retry_policies() {
    test(async {
        let world = World::new("retries");
        let node = world.bare("a").await;
        let flaky = Flaky::default();
        let attempts = flaky.attempts.clone();
        let host = Host::builder().service(flaky).socket(&node.socket);
        let host = host.service_retry::<Flaky>("overruled", QUICK).start().await.expect("hosted");
        let service = host.client().service("flaky");
        for (method, wanted) in [("patient", Ok(4)), ("plain", Err(1)), ("overruled", Ok(4))] {
            attempts.store(0, Ordering::SeqCst);
            let answer = service.call::<u32>(method, &()).await;
            match wanted {
                Ok(attempt) => assert_eq!(answer.expect("the last attempt"), attempt, "{method}"),
                Err(_) => {
                    let error = answer.expect_err("no policy retries it");
                    assert_eq!(error.application().expect("its own").code, "busy");
                }
            }
            let ran = wanted.unwrap_or_else(|ran| ran);
            assert_eq!(attempts.load(Ordering::SeqCst), ran, "{method}");
        }
        // A call says otherwise.
        attempts.store(0, Ordering::SeqCst);
        let once = service.call::<u32>("patient", &()).retry(RetryPolicy::attempts(1)).await;
        assert!(once.is_err() && attempts.load(Ordering::SeqCst) == 1, "{once:?}");
    });
}

#[test]
fn application_state_is_written_together_and_for_a_time() {
    test(async {
        let world = World::new("writes");
        let node = world.bare("a").await;
        let client = Kar::builder().socket(&node.socket).connect().await.expect("connected");
        let state = client.state();
        let lease =
            || Write::set("lock", "me").if_absent().time_to_live(Duration::from_millis(250));
        assert!(matches!(state.write(lease()).await, Ok(Written::Set(_))));
        let Err(CallError::ConditionFailed(conflict)) = state.write(lease()).await else {
            panic!("somebody has it")
        };
        assert!(conflict.key == "lock" && conflict.etag.is_some(), "{conflict:?}");
        wait::until_true("the lock to expire", Duration::from_secs(10), async || {
            state.write(lease()).await.is_ok()
        })
        .await;
        let done = state.transact([Write::set("a", &1), Write::delete("lock")]).await;
        let done = done.expect("no condition");
        assert!(matches!(done[1], Written::Deleted { .. }), "{done:?}");
        let Written::Set(version) = &done[0] else { panic!("{done:?}") };
        state.set("a", &2).await.expect("set");
        let stale = [Write::set("b", &1), Write::set("a", &3).if_version(version)];
        let Err(CallError::ConditionFailed(conflict)) = state.transact(stale).await else {
            panic!("it has changed")
        };
        assert_eq!(conflict.key, "a");
        assert_eq!(state.get::<i32>("b").await.expect("read"), None, "nothing of it was done");
    });
}

#[test]
fn the_topology_is_followed_also_while_the_sidecar_is_another_one() {
    test(async {
        let world = World::new("sdkwatch");
        let mut a = world.app("a", &["echo"]).await;
        a.hosts("Echo").await;
        let client = Kar::builder().socket(&a.socket).connect().await.expect("connected");
        let mut watch = client.watch_topology();
        let mut until = async |what: &str, wanted: &dyn Fn(&Topology) -> bool| {
            let found = async {
                loop {
                    let topology = watch.next().await.expect("it goes on");
                    if wanted(&topology) {
                        return topology;
                    }
                }
            };
            let found = tokio::time::timeout(READY_LIMIT, found).await;
            found.unwrap_or_else(|_| panic!("not told: {what}"))
        };
        let owned = |topology: &Topology, name: &str| {
            let node = topology.nodes.iter().find(|node| node.name == name);
            let incarnation = node.map(|node| node.incarnation);
            let owners = topology.actor_types.get("Echo").into_iter().flatten();
            owners.filter(|owner| owner.is_some() && **owner == incarnation).count()
        };
        let alone = until("a owns all", &|topology| owned(topology, "a") > 0).await;
        assert_eq!(owned(&alone, "a"), alone.actor_types["Echo"].len());
        assert!(alone.services.contains_key("echo"), "{alone:?}");
        let _b = world.app("b", &["echo"]).await;
        until("b owns some", &|topology| owned(topology, "b") > 0).await;
        let former = alone.nodes[0].incarnation;
        a.kill_sidecar();
        a.ended(READY_LIMIT).await;
        let _again = world.app("a", &["echo"]).await;
        let later = until("another a", &|topology| owned(topology, "a") > 0).await;
        assert_eq!(later.node(former), None, "{later:?}");
    });
}

#[test]
fn a_policy_for_nobody_is_a_mistake() {
    test(async {
        let error = Host::builder().actor(Holder).actor_retry::<Holder>("nothing", QUICK);
        let error = error.start().await.expect_err("it has no such method");
        assert!(error.to_string().contains("`nothing` of actor type Holder"), "{error}");
        let error = Host::builder().service_retry::<Flaky>("plain", QUICK).start().await;
        let error = error.expect_err("it is not hosted");
        assert!(error.to_string().contains("service flaky, which is not hosted"), "{error}");
    });
}
