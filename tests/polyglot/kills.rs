//! `kill -9` of a host in mid-call: the call answers from another host.

use std::collections::BTreeMap;
use std::time::Duration;

use kar_proto::v1::{InvocationInfo, InvocationState, ListInvocationsRequest};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, process, test_within, wait};
use serde_json::json;

use crate::language::{Language, Transport};

/// Kills in one test.
const ROUNDS: u64 = 20;

/// How long the code works, ms: long enough that a kill at a random moment of its first half lands in it.
const WORK_MS: u64 = 500;

/// Longest time from a kill to the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// The whole test: a JVM takes a second to start where two cores do much else.
const TEST_LIMIT: Duration = Duration::from_secs(300);

/// The greeter's call under way, and on which node its code runs.
pub(crate) async fn running(client: &Client) -> Option<InvocationInfo> {
    let request = ListInvocationsRequest { kind: "greeter".into(), ..Default::default() };
    // A node that dies just now cannot be asked.
    let listed = client.invocation().list_invocations(request).await.ok()?.into_inner();
    listed.invocations.into_iter().find(|i| i.state() == InvocationState::Running)
}

/// Kills hosts in this language, one after the other.
pub(crate) fn in_mid_call(language: &'static Language) {
    test_within(TEST_LIMIT, async {
        let mut random = Random::seeded(&format!("killed: {}", language.name));
        let world = World::new("killed");
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut hosts: BTreeMap<String, Node> = BTreeMap::new();
        // Three, so that two are there while the one that was killed starts again.
        for number in 0..3 {
            let name = format!("{}{number}", language.name);
            hosts.insert(name.clone(), language.host(&world, &name, Transport::Unix).await);
        }
        for round in 0..ROUNDS {
            let who = format!("round {round}");
            let call = tokio::spawn({
                let (client, argument) =
                    (client.clone(), json!({ "name": who, "millis": WORK_MS }));
                async move { client.invoke("greeter", "slow", &argument).await }
            });
            let first =
                wait::until("the code to run", ANSWER_LIMIT, async || running(&client).await).await;
            wait::moment(Duration::from_millis(random.below(WORK_MS / 2))).await;
            let victim = hosts.remove(&first.node).expect("it runs on one of the hosts");
            let component = victim.component_pid().await;
            process::kill(component);
            process::gone(component, ANSWER_LIMIT).await;
            assert!(!call.is_finished(), "the kill came too late to be in mid-call");
            let answer = tokio::time::timeout(ANSWER_LIMIT, call).await.expect("answered in time");
            let answer = answer.expect("no panic").expect("no error of KAR");
            assert_eq!(answer, Ok(json!(format!("Hello, {who}!"))));
            assert!(
                tried_again(&world, &first),
                "no other host ran {} after the kill",
                first.invocation_id
            );
            revive(language, &world, &mut hosts, victim).await;
        }
    });
}

/// Whether a node other than the first one says that it ran the invocation.
fn tried_again(world: &World, first: &InvocationInfo) -> bool {
    let own = format!("{}.", first.node);
    let others = world.logs().into_iter().filter(|(name, _)| !name.starts_with(&own));
    others.into_iter().any(|(_, log)| {
        let mut lines = log.lines().filter(|line| line.contains("tried again"));
        lines.any(|line| line.contains(&first.invocation_id))
    })
}

/// Starts a killed host again, and waits until there are two to choose from for certain.
async fn revive(
    language: &Language,
    world: &World,
    hosts: &mut BTreeMap<String, Node>,
    mut victim: Node,
) {
    // A sidecar whose component died ends by itself.
    victim.ended(READY_LIMIT).await;
    let fresh = world.spawn(&language.options(&victim.name, Transport::Unix));
    hosts.insert(victim.name.clone(), fresh);
    // The freshest is the one that may still be starting.
    for (name, node) in &*hosts {
        if *name != victim.name {
            node.hosts("greeter").await;
        }
    }
}
