//! A bank under fire: transfers by nested calls between actors of two components while processes are killed. Sum
//! constant, every transfer applied once, none lost; clients see no error but "unknown" where their own sidecar died.

use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Random, World, process, test_within, wait};

use crate::bank::{self, Bank, HOSTS, Plan};

/// Longest time that all may take.
const LIMIT: Duration = Duration::from_secs(420);

/// Longest time from the transfer that is due to the kill of everything, ms.
const PAUSE_MAX_MS: u64 = 100;

#[test]
fn a_bank_stays_balanced_under_200_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank");
        let plan = Plan { transfers: 2_000, strikes: 200, padding: 0, excuses: &[] };
        bank::run(&World::new("bank"), plan, &mut random, somebody).await;
    });
}

#[test]
fn a_bank_stays_balanced_when_everything_is_killed_at_once_20_times() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank, everything");
        let plan = Plan { transfers: 1_000, strikes: 20, padding: 0, excuses: &[] };
        bank::run(&World::new("bankall"), plan, &mut random, everything).await;
    });
}

/// Everything goes through inboxes: answers, questions and nested calls, too.
#[test]
fn a_bank_without_peers_stays_balanced_under_40_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank, no peers");
        let world = World::new("bankno");
        world.add_run_args(&["--no-peer"]);
        let plan = Plan { transfers: 600, strikes: 40, padding: 0, excuses: &[] };
        bank::run(&world, plan, &mut random, somebody).await;
    });
}

/// Kills one process, and starts again what has died.
async fn somebody(bank: &mut Bank, random: &mut Random) {
    let two = |random: &mut Random| usize::from(random.below(2) == 1);
    match random.below(10) {
        0 => process::kill(bank.world.hub().await),
        1 => bank.restart(HOSTS + two(random)).await,
        n => {
            let victim = two(random) + 2 * two(random);
            if n < 6
                && let Some(pid) = bank.nodes[victim].component_now()
            {
                process::kill(pid);
                bank.nodes[victim].ended(READY_LIMIT).await;
            }
            bank.restart(victim).await;
        }
    }
}

/// Kills every process of the application, the clients' sidecars and the hub included, and starts everything again.
async fn everything(bank: &mut Bank, random: &mut Random) {
    wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
    let mut victims = vec![bank.world.hub().await];
    for node in &bank.nodes {
        victims.extend([Some(node.pid()), node.component_now()].into_iter().flatten());
    }
    // Each time another one dies first.
    let first = usize::try_from(random.below(victims.len() as u64)).expect("small");
    victims.rotate_left(first);
    for front in [0, 1] {
        bank.changed(Some(front));
    }
    victims.into_iter().for_each(process::kill);
    bank.restart_all().await;
    for front in [0, 1] {
        bank.changed(Some(front));
    }
}
