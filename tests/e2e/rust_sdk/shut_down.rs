//! A client has its sidecar end.

use kar_sdk::{ActorContext, Client, Error, Host, Kar, Started};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, World, process, test};

use super::stage::Stage;

/// Works until it may end, and counts.
struct Worker(Stage);

#[kar_sdk::actor]
impl Worker {
    async fn work(&self, ctx: &mut ActorContext) -> Result<u32, Error> {
        let done = ctx.state().get::<u32>("done").await?.unwrap_or_default() + 1;
        ctx.state().set("done", &done)?;
        self.0.note("works");
        self.0.pass("end").await;
        Ok(done)
    }
}

async fn connected(node: &Node) -> Client {
    Kar::builder().socket(&node.socket).connect().await.expect("connected")
}

#[test]
fn a_sidecar_that_is_shut_down_lets_turns_end_and_leaves_its_actors_to_others() {
    test(async {
        let world = World::new("sdkdown");
        let mut node = world.bare("a").await;
        let stage = Stage::default();
        let host = Host::builder().actor(Worker(stage.clone())).socket(&node.socket);
        let _host = host.start().await.expect("hosted");
        let heir = world.bare("b").await;
        let client = connected(&heir).await;
        let working: Started<u32> =
            WorkerClient::new(&client, "w").work().start().await.expect("started");
        stage.until("works", 1).await;
        let own = connected(&node).await;
        own.operator().shut_down().await.expect("it is told");
        // It has returned at once, while the turn runs; nobody cuts that off.
        assert!(node.alive());
        stage.open("end");
        assert_eq!(working.outcome().await.expect("it ends"), 1);
        assert_eq!(node.ended(READY_LIMIT).await, 0);
        assert_eq!(stage.count("works"), 1, "{:?}", stage.log());
        let heir = Host::builder().actor(Worker(stage.clone())).socket(&heir.socket);
        let _heir = heir.start().await.expect("hosted");
        assert_eq!(WorkerClient::new(&client, "w").work().await.expect("worked"), 2);
    });
}

#[test]
fn a_component_ends_with_the_sidecar_that_is_shut_down() {
    test(async {
        let world = World::new("sdkdown2");
        let mut node = world.app("a", &["echo"]).await;
        node.hosts("echo").await;
        let component = node.component_pid().await;
        connected(&node).await.operator().shut_down().await.expect("it is told");
        let code = node.ended(READY_LIMIT).await;
        assert!(!process::alive(component), "kar run ended with {code}");
    });
}
