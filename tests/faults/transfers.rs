//! A bank under fire: transfers by nested calls between actors of two components while processes are killed. Sum
//! constant, every transfer applied once, none lost; clients see no error but "unknown" where their own sidecar died.

use std::collections::BTreeSet;
use std::time::Duration;

use kar_tests::fire::{DOUBLE_EVERY, RECOVERY_MAX_MS};
use kar_tests::{Node, Random, World, process, test_within, wait};

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
        let world = World::new("bank");
        world.journal_turns();
        let toll = bank::run(&world, plan, &mut random, somebody).await;
        toll.hits(&world.journal()).assert("bank");
    });
}

#[test]
fn a_bank_stays_balanced_when_everything_is_killed_at_once_20_times() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank, everything");
        let plan = Plan { transfers: 1_000, strikes: 28, padding: 0, excuses: &[] };
        let world = World::new("bankall");
        world.journal_turns();
        let toll = bank::run(&world, plan, &mut random, everything).await;
        toll.hits(&world.journal()).assert("bank, everything");
    });
}

/// Everything goes through inboxes: answers, questions and nested calls, too.
#[test]
fn a_bank_without_peers_stays_balanced_under_40_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("bank, no peers");
        let world = World::new("bankno");
        world.add_run_args(&["--no-peer"]);
        world.journal_turns();
        let plan = Plan { transfers: 600, strikes: 40, padding: 0, excuses: &[] };
        let toll = bank::run(&world, plan, &mut random, somebody).await;
        toll.hits(&world.journal()).assert("bank, no peers");
    });
}

/// Kills one process, now and then another one while the first is recovered from, and starts again what has died.
async fn somebody(bank: &mut Bank, random: &mut Random) {
    let mut victims = BTreeSet::from_iter(kill(bank, random).await);
    if random.below(DOUBLE_EVERY) == 0 {
        wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
        victims.extend(kill(bank, random).await);
    }
    for victim in victims {
        bank.restart(victim).await;
    }
}

/// Kills one process; the node that is to be started again. Clients' own sidecars are killed by that: their clients are
/// to know before.
async fn kill(bank: &mut Bank, random: &mut Random) -> Option<usize> {
    let two = |random: &mut Random| usize::from(random.below(2) == 1);
    match random.below(10) {
        0 => {
            let hub = bank.world.hub().await;
            bank.toll.strike([], true);
            process::kill(hub);
            None
        }
        1 => Some(HOSTS + two(random)),
        n => {
            // Mostly tellers: accounts do what they are told in no time.
            let victim = two(random) + if random.below(3) == 0 { 0 } else { 2 };
            let component = bank.nodes[victim].component_now();
            bank.toll.strike([component], false);
            match component {
                Some(component) if n < 6 => process::kill(component),
                _ => bank.nodes[victim].kill_sidecar(),
            }
            Some(victim)
        }
    }
}

/// Kills every process of the application, the clients' sidecars and the hub included, now and then again while it
/// comes back, and starts everything again.
async fn everything(bank: &mut Bank, random: &mut Random) {
    wait::moment(Duration::from_millis(random.below(PAUSE_MAX_MS))).await;
    for front in [0, 1] {
        bank.changed(Some(front));
    }
    kill_all(bank, random).await;
    bank.respawn_all().await;
    if random.below(DOUBLE_EVERY) == 0 {
        wait::moment(Duration::from_millis(random.below(RECOVERY_MAX_MS))).await;
        kill_all(bank, random).await;
        bank.respawn_all().await;
    }
    for node in &mut bank.nodes {
        node.ready().await;
    }
    for front in [0, 1] {
        bank.changed(Some(front));
    }
}

async fn kill_all(bank: &mut Bank, random: &mut Random) {
    let hub = bank.world.hub().await;
    let components: Vec<_> = bank.nodes.iter().map(Node::component_now).collect();
    bank.toll.strike(components.clone(), true);
    let sidecars = bank.nodes.iter().map(Node::pid);
    let mut victims: Vec<_> =
        sidecars.chain(components.into_iter().flatten()).chain([hub]).collect();
    // Each time another one dies first.
    let first = usize::try_from(random.below(victims.len() as u64)).expect("small");
    victims.rotate_left(first);
    victims.into_iter().for_each(process::kill);
}
