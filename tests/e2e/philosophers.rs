//! The sample of dining philosophers: all eat, though a host and the hub are killed in the middle of it.

use std::time::Duration;

use kar_tests::world::READY_LIMIT;
use kar_tests::{Node, NodeOptions, World, binaries, process, test, wait};
use serde_json::{Value, json};

/// Longest time from a kill to the next meal.
const PROGRESS_LIMIT: Duration = Duration::from_secs(30);

const MEALS: u32 = 30;

fn options(name: &str, words: &[&str]) -> NodeOptions {
    let mut command = vec![binaries::example("philosophers").to_string_lossy().into_owned()];
    command.extend(words.iter().map(|word| (*word).to_owned()));
    let args = vec!["--no-prefix".to_owned()];
    NodeOptions { name: name.into(), command, args, ..NodeOptions::default() }
}

async fn host(world: &World, name: &str, parts: &str, kind: &str) -> Node {
    let node = world.start(options(name, &[parts])).await;
    node.hosts(kind).await;
    node
}

/// Waits until the dinner has told of more meals than before; how many lines it has printed about that.
async fn more_meals(world: &World, before: usize) -> usize {
    wait::until("more meals", PROGRESS_LIMIT, async || {
        let log = world.logs().remove("dinner.1.log")?;
        let lines = log.lines().filter(|line| line.contains("meals")).count();
        (lines > before).then_some(lines)
    })
    .await
}

#[test]
fn all_philosophers_eat_though_processes_are_killed() {
    test(async {
        let world = World::new("table");
        let _both = [
            host(&world, "philosophers", "philosophers", "Philosopher").await,
            host(&world, "forks-1", "forks", "Fork").await,
        ];
        let mut victim = host(&world, "all", "both", "Fork").await;
        let meals = MEALS.to_string();
        let words =
            ["dinner", "--seats", "5", "--meals", &meals, "--meal-ms", "10", "--think-ms", "10"];
        let mut dinner = world.start(options("dinner", &words)).await;
        let mut told = more_meals(&world, 0).await;
        victim.kill_sidecar();
        victim.ended(READY_LIMIT).await;
        told = more_meals(&world, told).await;
        process::kill(world.hub().await);
        more_meals(&world, told).await;
        let code = dinner.ended(PROGRESS_LIMIT * 2).await;
        let log = world.logs().remove("dinner.1.log").expect("its log");
        let line = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or("null");
        let report: Value = serde_json::from_str(line).expect("its report is JSON");
        assert_eq!((code, &report["all_ate"]), (0, &json!(true)), "{report}");
        assert_eq!((&report["eaten"], &report["wanted"]), (&json!(5 * MEALS), &json!(5 * MEALS)));
        assert_eq!(report["wrong"], json!([]));
        let left = world.kar_here("get invocations", &["-o", "json"]).await;
        assert_eq!((left.code, left.stdout.trim()), (0, "[]"), "{left:?}");
    });
}
