//! What a client is told whose own sidecar is killed, and what becomes of what it had asked for.

use std::future::IntoFuture;

use kar_sdk::{Error, Host, Kar, ServiceContext};
use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};

use super::stage::Stage;

/// Hosted when the sidecar that took the call is dead.
struct Later(Stage);

#[kar_sdk::service(name = "later")]
impl Later {
    async fn work(&self, _ctx: &mut ServiceContext) -> Result<(), Error> {
        self.0.note("ran");
        Ok(())
    }
}

#[test]
fn a_call_whose_own_sidecar_is_killed_is_unknown_and_is_carried_out() {
    test(async {
        let world = World::new("sdkunknown");
        let (near, far) = (world.bare("near").await, world.bare("far").await);
        let client = Kar::builder().socket(&near.socket).connect().await.expect("connected");
        let operator = Kar::builder().socket(&far.socket).connect().await.expect("connected");
        let mut call = Box::pin(client.service("later").call::<()>("work", &()).into_future());
        // Nobody hosts it, so it waits; it is accepted when it is listed.
        let accepted = wait::until_true("the call to be accepted", READY_LIMIT, async || {
            let mut listed = operator.operator().invocations().of("later").page_size(10);
            matches!(listed.next().await, Ok(Some(_)))
        });
        tokio::select! {
            answer = &mut call => panic!("nobody hosts it: {answer:?}"),
            () = accepted => {}
        }
        near.kill_sidecar();
        let answer = tokio::time::timeout(READY_LIMIT, call).await.expect("told within a bound");
        let error = answer.expect_err("its sidecar is dead");
        assert!(error.is_unknown(), "{error:?}");
        let stage = Stage::default();
        let host = Host::builder().service(Later(stage.clone())).socket(&far.socket);
        let _host = host.start().await.expect("hosted");
        stage.until("ran", 1).await;
        let repeated = operator.service("later").call::<()>("work", &());
        repeated.await.expect("the other sidecar lives");
        assert_eq!(stage.count("ran"), 2, "once for each time that it was asked for");
    });
}
