//! Joins under random kills of the callers' and the callees' processes: turns that make several calls at once, of which
//! some fail. Every caller hears every outcome, no branch takes effect twice, a join that throws ends when all of its
//! branches have, and no retry begins while a branch of an earlier attempt runs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, ApplicationError};
use kar_tests::fire::{Fire, Load, nothing_left};
use kar_tests::journal::{Attempt, assert_happens_before};
use kar_tests::toll::now;
use kar_tests::{Client, Random, World, test_within};
use serde_json::{Value, json};
use tokio::task::LocalSet;

/// Processes that are killed.
const KILLS: u32 = 30;

/// Joins under way at once, each of an actor of its own.
const CLIENTS: u64 = 6;

/// Branches of a join, as `kar-test-app` has it; those with even numbers are keyed.
const BRANCHES: u64 = 4;

/// How long the first branch works, ms; the others twice as long, and so on.
const WORK_MS: u64 = 10;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(240);

/// A join that has ended.
struct Join {
    fails: Vec<u64>,
    throws: bool,
    outcome: Result<Value, ApplicationError>,
    /// When its client was told, by the journal's clock.
    told: Duration,
}

struct Joins {
    front: Client,
    load: Load,
    begun: Cell<u64>,
    ended: RefCell<BTreeMap<String, Join>>,
}

#[test]
fn joins_with_failing_branches_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("joins");
        let world = World::new("joins");
        let front = world.bare("front").await;
        let joins = Rc::new(Joins {
            front: front.client().await,
            load: Load::default(),
            begun: Cell::new(0),
            ended: RefCell::default(),
        });
        let mut fire = Fire::new(&world, random.fork());
        for (role, kind) in [("joiners", "Joiner"), ("branches", "Branch")] {
            for number in 1..=2 {
                let options = world.app_options(&format!("{role}-{number}"), &[role]);
                fire.host(options, kind).await;
            }
        }
        let local = LocalSet::new();
        let clients = (0..CLIENTS)
            .map(|number| local.spawn_local(client(joins.clone(), number, random.fork())))
            .collect();
        local.run_until(fire.burn(&joins.load, clients, KILLS, PAUSE_MAX_MS)).await;
        nothing_left(&world).await;
        judge(&world, &joins).await;
        println!("{:?}", fire.kills);
        fire.hits().assert("joins");
    });
}

/// Joins until all kills are through.
async fn client(joins: Rc<Joins>, number: u64, mut random: Random) {
    while !joins.load.over.get() {
        let join = format!("j{}", joins.begun.get());
        joins.begun.set(joins.begun.get() + 1);
        // None of them, one, or several.
        let failing = random.below(1 << BRANCHES) & random.below(1 << BRANCHES);
        let fails: Vec<u64> = (0..BRANCHES).filter(|at| failing & (1 << at) != 0).collect();
        let throws = random.below(2) == 0;
        let argument =
            json!({ "join": join, "fails": fails, "throws": throws, "milliseconds": WORK_MS });
        let joiner = format!("c{number}");
        let outcome = joins.front.call(("Joiner", &joiner), "join", &argument).await;
        let (outcome, told) = (outcome.expect("its own sidecar lives"), now());
        joins.ended.borrow_mut().insert(join, Join { fails, throws, outcome, told });
        joins.load.done();
    }
}

/// The key of a branch in books and journal; of one without a key, for this attempt of its join.
fn branch(join: &str, at: u64, by: &Attempt) -> String {
    let by = if at.is_multiple_of(2) { String::new() } else { format!("@{}", by.id) };
    format!("{join}/{at}{by}")
}

async fn judge(world: &World, joins: &Joins) {
    world.journal().assert_no_overlap(GRACE);
    let attempts = world.journal().attempts();
    let mut counted = state(&joins.front, "Joiner", (0..CLIENTS).map(|n| format!("c{n}"))).await;
    counted.extend(state(&joins.front, "Branch", (0..BRANCHES).map(|n| format!("b{n}"))).await);
    let (mut retried, mut failed, mut thrown) = (0, 0, 0);
    for (name, join) in &*joins.ended.borrow() {
        let own = &attempts[name];
        retried += own.len() - 1;
        failed += usize::from(!join.fails.is_empty());
        thrown += usize::from(join.outcome.is_err());
        for at in 0..BRANCHES {
            for by in own {
                let Some(branches) = attempts.get(&branch(name, at, by)) else { continue };
                assert_happens_before(own, branches, GRACE);
                let grace = |branch: &Attempt| if branch.ended { Duration::ZERO } else { GRACE };
                let runs_on = |branch: &&Attempt| branch.last > join.told + grace(branch);
                let runs_on = branches.iter().find(runs_on);
                assert!(runs_on.is_none(), "{name} was over, but {runs_on:?}");
            }
        }
        let last = own.last().expect("it ran");
        heard(name, join, last, &attempts);
        let once = (!join.throws).then_some(json!(1));
        assert_eq!(counted.remove(&format!("joined/{name}")), once, "{name}");
        for at in 0..BRANCHES {
            let failed = join.fails.contains(&at);
            let count = counted.remove(&branch(name, at, last));
            assert_eq!(count, (!failed).then_some(json!(1)), "{name}/{at} of {last:?}");
        }
    }
    // What is left was made, without a key, by attempts that were cut off: once, or not at all.
    for (key, count) in &counted {
        let (branch, _) = key.split_once('@').expect("nothing keyed or joined is left");
        let (join, at) = branch.split_once('/').expect("a branch has a number");
        let failed = joins.ended.borrow()[join].fails.iter().any(|fails| fails.to_string() == at);
        assert!(*count == json!(1) && !failed, "{key}: {count}");
    }
    let all = joins.ended.borrow().len();
    println!("{all} joins, {failed} with failing branches, {thrown} thrown, {retried} cut off");
    assert!(retried > 0 && failed > 0 && thrown > 0, "the test shows nothing");
}

/// The client heard what every branch has come to, by the attempts that took effect; or the first error.
fn heard(name: &str, join: &Join, last: &Attempt, attempts: &BTreeMap<String, Vec<Attempt>>) {
    let ended = |at: u64| {
        let branches = &attempts[&branch(name, at, last)];
        let ended = branches.last().filter(|branch| branch.ended).expect("it reached its end");
        ended.id.clone()
    };
    if join.throws && !join.fails.is_empty() {
        let error = join.outcome.as_ref().expect_err("a branch has failed");
        let of_failing = join.fails.iter().any(|at| error.message == ended(*at));
        assert!(error.code == "BranchFailed" && of_failing, "{name}: {error:?}");
        return;
    }
    let outcomes: Vec<Value> = (0..BRANCHES)
        .map(|at| match join.fails.contains(&at) {
            true => json!({ "code": "BranchFailed", "by": ended(at) }),
            false => json!({ "by": ended(at) }),
        })
        .collect();
    assert_eq!(join.outcome, Ok(json!(outcomes)), "{name}");
}

/// Everything that these actors have counted.
async fn state(
    client: &Client,
    kind: &str,
    ids: impl Iterator<Item = String>,
) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for id in ids {
        all.extend(client.committed(&ActorTarget { r#type: kind.into(), id }).await);
    }
    all
}
