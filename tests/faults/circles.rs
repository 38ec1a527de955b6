//! Actors that call each other at random, so that flows wait in circles, under random kills and in hand-overs: every
//! circle is broken, and what was refused never ran.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, GetAllRequest};
use kar_tests::fire::{Fire, Load, PROGRESS_LIMIT, nothing_left};
use kar_tests::grpc::value;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, World, test_within, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

/// Processes that are killed.
const KILLS: u32 = 30;

/// Nodes of dancers.
const HOSTS: [&str; 3] = ["dancers-1", "dancers-2", "dancers-3"];

/// Times that two of them leave at once.
const ROUNDS: usize = 6;

/// Dancers; few, so that circles are frequent.
const DANCERS: u64 = 5;

/// Dances under way at once.
const CLIENTS: u64 = 6;

/// How long a dancer works before it asks another one, ms; so that kills land there.
const WORK_MS: u64 = 10;

/// Longest pause before a kill, ms.
const PAUSE_MAX_MS: u64 = 250;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

const LIMIT: Duration = Duration::from_secs(240);

/// A dance that has ended.
struct Dance {
    dancer: u64,
    with: u64,
    /// False: refused, because it would have waited in a circle.
    danced: bool,
}

struct Ball {
    front: Client,
    _node: Node,
    load: Load,
    begun: Cell<u64>,
    dances: RefCell<BTreeMap<u64, Dance>>,
}

#[test]
fn circles_of_waiting_flows_end_under_random_kills() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("circles");
        let world = World::new("circles");
        let ball = ball(&world).await;
        let mut fire = Fire::new(&world, random.fork());
        for name in HOSTS {
            fire.host(world.app_options(name, &["dancers"]), "Dancer").await;
        }
        let local = LocalSet::new();
        let clients = clients(&local, &ball, &mut random);
        local.run_until(fire.burn(&ball.load, clients, KILLS, PAUSE_MAX_MS)).await;
        let cut_off = judge(&world, &ball).await;
        println!("{:?}, {cut_off} dances cut off", fire.kills);
        fire.hits().assert("circles");
    });
}

#[test]
fn nodes_that_leave_at_once_while_they_call_each_other_end_and_cut_nothing_off() {
    test_within(LIMIT, async {
        let mut random = Random::seeded("leaving");
        let world = World::new("leaving");
        let ball = ball(&world).await;
        let mut nodes = Vec::new();
        for name in HOSTS {
            let node = world.app(name, &["dancers"]).await;
            node.hosts("Dancer").await;
            nodes.push(node);
        }
        let local = LocalSet::new();
        let clients = clients(&local, &ball, &mut random);
        let leaving = async {
            for round in 0..ROUNDS {
                let finished = ball.load.finished.get();
                wait::until_true("dances to end", PROGRESS_LIMIT, async || {
                    let failed = clients.iter().any(JoinHandle::is_finished);
                    failed || ball.load.finished.get() > finished + CLIENTS
                })
                .await;
                let pair = [round % HOSTS.len(), (round + 1) % HOSTS.len()];
                pair.iter().for_each(|at| nodes[*at].signal(Signal::TERM));
                for at in pair {
                    nodes[at].ended(READY_LIMIT).await;
                    nodes[at] = world.app(HOSTS[at], &["dancers"]).await;
                    nodes[at].hosts("Dancer").await;
                }
            }
            ball.load.over.set(true);
            for client in clients {
                client.await.expect("no call failed");
            }
        };
        local.run_until(leaving).await;
        assert_eq!(judge(&world, &ball).await, 0, "dances cut off");
    });
}

async fn ball(world: &Rc<World>) -> Rc<Ball> {
    world.add_run_args(&["--deadlock-probe-ms", "100"]);
    let front = world.bare("front").await;
    Rc::new(Ball {
        front: front.client().await,
        _node: front,
        load: Load::default(),
        begun: Cell::new(0),
        dances: RefCell::default(),
    })
}

fn clients(local: &LocalSet, ball: &Rc<Ball>, random: &mut Random) -> Vec<JoinHandle<()>> {
    (0..CLIENTS).map(|_| local.spawn_local(client(ball.clone(), random.fork()))).collect()
}

/// Lets dancers dance until all kills are through.
async fn client(ball: Rc<Ball>, mut random: Random) {
    while !ball.load.over.get() {
        let number = ball.begun.get();
        ball.begun.set(number + 1);
        let dancer = random.below(DANCERS);
        let with = (dancer + 1 + random.below(DANCERS - 1)) % DANCERS;
        let argument = json!({
            "dance": format!("n{number}"), "with": format!("d{with}"), "milliseconds": WORK_MS,
        });
        let answer = ball.front.call(("Dancer", &format!("d{dancer}")), "dance", &argument).await;
        let answer = answer.expect("its own sidecar lives and holds no actor").expect("no error");
        let danced = answer.as_bool().expect("a dance says whether it was one");
        ball.dances.borrow_mut().insert(number, Dance { dancer, with, danced });
        ball.load.done();
    }
}

/// Every dance was counted once by who asked; once by who was asked, or never if it was refused; and nothing else was.
/// How many attempts were cut off.
async fn judge(world: &World, ball: &Ball) -> usize {
    nothing_left(world).await;
    let mut found = BTreeMap::new();
    for dancer in 0..DANCERS {
        let actor = ActorTarget { r#type: "Dancer".into(), id: format!("d{dancer}") };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = ball.front.actor_state().get_all(request).await.expect("read").into_inner();
        found.extend(state.entries.iter().map(|(key, v)| (format!("{dancer}/{key}"), value(v))));
    }
    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    let dances = ball.dances.borrow();
    for (number, Dance { dancer, with, danced }) in &*dances {
        let what = if *danced { "danced" } else { "refused" };
        expected.insert(format!("{dancer}/{what}/n{number}"), json!(1));
        if *danced {
            expected.insert(format!("{with}/followed/n{number}"), json!(1));
        }
    }
    assert_eq!(found, expected);
    world.journal().assert_no_overlap(GRACE);
    let refused = dances.values().filter(|dance| !dance.danced).count();
    println!("{} dances, {refused} refused", dances.len());
    assert!(refused > 0 && refused < dances.len(), "the test shows nothing");
    let attempts = world.journal().attempts();
    attempts.values().flatten().filter(|attempt| !attempt.ended).count()
}
