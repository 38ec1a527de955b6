//! Who owns what nobody hosts: nodes that stay, not commands that come and go.

use kar_tests::world::READY_LIMIT;
use kar_tests::{World, test, wait};

#[test]
fn a_command_that_comes_and_goes_moves_nothing() {
    test(async {
        let world = World::new("caretaker");
        let node = world.bare("stays").await;
        let client = node.client().await;
        let told = world.kar_here("tell", &["nobody", "m"]).await;
        assert_eq!(told.code, 0, "{told:?}");
        let owned = async || node.info().await.partitions;
        let count = wait::until("every partition to be owned", READY_LIMIT, async || {
            let owned = owned().await;
            let all = owned.iter().filter(|p| p.starts_with("s.nobody/")).count();
            (all >= 8).then_some(all)
        })
        .await;
        let begun = client.figure("reigns_begun").await.expect("answered");
        for n in 0..3 {
            // A command that stays for a while, so that it is a member whom everybody knows.
            let data_dir = world.data_dir();
            let dir = data_dir.to_str().expect("UTF-8");
            let words = ["call", "--app", "caretaker", "--data-dir", dir, "nobody", "m"];
            let mut call = world.spawn_kar("call", &words);
            wait::until_true("the call to be accepted", READY_LIMIT, async || {
                let listed = world.kar_here("get invocations", &["-o", "json"]).await;
                listed.stdout.matches("\"mode\": \"call\"").count() == n + 1
            })
            .await;
            assert_eq!(owned().await.len(), count, "a command took something over");
            call.signal(rustix::process::Signal::INT);
            assert_eq!(call.ended(READY_LIMIT).await, 130);
        }
        assert_eq!(owned().await.len(), count);
        assert_eq!(client.figure("reigns_begun").await.expect("answered"), begun);
        assert_eq!(client.figure("reigns_released").await.expect("answered"), Some(0));
    });
}
