//! Every sidecar is restarted in order, one after the other, those of the clients included, while everything that KAR
//! offers is in use. No call fails, none waits for much longer than turns take, nothing is cut off, nothing is done
//! twice, and all of it is in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use kar_proto::v1::{ActorTarget, GetInfoRequest, TellRequest};
use kar_tests::component::actor;
use kar_tests::events::{publication, to_actors};
use kar_tests::fire::{PROGRESS_LIMIT, nothing_left};
use kar_tests::grpc::json as bytes;
use kar_tests::reminders::once;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, NodeOptions, World, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, LocalSet};

/// Times that each sidecar is restarted.
const ROUNDS: usize = 2;

/// Nodes by name; hosts of everything, and nodes that clients use.
const HOSTS: [&str; 2] = ["host-1", "host-2"];
const FRONTS: [&str; 2] = ["front-1", "front-2"];

/// What hosts host.
const ROLES: [&str; 7] = ["echo", "slow", "accounts", "teller", "relay", "ringer", "ears"];

/// Longest time that a client may wait for anything. Turns take 0.1 s; what else it takes depends on what the machine
/// does besides, so no time near that can be asked for. That calls wait for the turns under way and for nothing else is
/// judged by what happened: each reign is handed over (`assert_handed_over`), so nobody waits until a node is given up,
/// and each turn ran once, to its end, so none was cancelled (`judge`). This shows who waits without a cause.
const SLOWEST: Duration = Duration::from_secs(5);

/// How long slow calls work, ms; so that partitions are busy when they are handed over.
const WORK_MS: u64 = 100;

/// Tells before a call that says how many have come.
const TELLS: i64 = 5;

/// Steps of a chain of tail calls.
const STEPS: i64 = 6;

/// Kinds of load.
const KINDS: [&str; 7] = ["calls", "nested", "publish", "reminders", "slow", "tails", "tells"];

/// What the clients share.
struct Load {
    fronts: RefCell<[Client; FRONTS.len()]>,
    /// The one that clients use: never one that is about to leave.
    current: Cell<usize>,
    over: Cell<bool>,
    done: RefCell<BTreeMap<&'static str, i64>>,
    slowest: RefCell<BTreeMap<&'static str, Duration>>,
}

#[test]
fn a_rolling_restart_of_every_sidecar_fails_and_holds_up_no_call() {
    test(async {
        let world = World::new("rolling");
        world.journal_turns();
        world.add_run_args(&["--log", "info,kar::driver::counters=debug"]);
        let mut hosts = [start(&world, HOSTS[0]).await, start(&world, HOSTS[1]).await];
        let mut fronts = [world.bare(FRONTS[0]).await, world.bare(FRONTS[1]).await];
        let client = fronts[0].client().await;
        prepare(&client).await;
        let load = Rc::new(Load {
            fronts: RefCell::new([client, fronts[1].client().await]),
            current: Cell::new(0),
            over: Cell::new(false),
            done: RefCell::default(),
            slowest: RefCell::default(),
        });
        let local = LocalSet::new();
        let clients = [
            local.spawn_local(calls(load.clone())),
            local.spawn_local(nested(load.clone())),
            local.spawn_local(publishes(load.clone())),
            local.spawn_local(reminders(load.clone())),
            local.spawn_local(slow(load.clone(), "s1")),
            local.spawn_local(slow(load.clone(), "s2")),
            local.spawn_local(tails(load.clone())),
            local.spawn_local(tells(load.clone())),
        ];
        let restarts = async {
            for _ in 0..ROUNDS {
                for host in &mut hosts {
                    load.goes_on(&clients).await;
                    leave(host).await;
                    *host = start(&world, &host.name).await;
                }
                for (at, front) in fronts.iter_mut().enumerate() {
                    load.goes_on(&clients).await;
                    load.current.set(1 - at);
                    // What clients have sent to it is there when this is answered: it came before on their connection.
                    let leaving = load.fronts.borrow()[at].clone();
                    leaving.system().get_info(GetInfoRequest {}).await.expect("it is there");
                    leave(front).await;
                    *front = world.bare(FRONTS[at]).await;
                    load.fronts.borrow_mut()[at] = front.client().await;
                }
            }
            load.goes_on(&clients).await;
            load.over.set(true);
            for client in clients {
                client.await.expect("no call failed");
            }
        };
        local.run_until(restarts).await;
        nothing_left(&world).await;
        judge(&world, &load).await;
    });
}

/// Lets a node leave in order: when it has handed over, its component is sent the signal, too, and ends by it.
async fn leave(node: &mut Node) {
    node.signal(Signal::TERM);
    let code = node.ended(READY_LIMIT).await;
    assert!(code == 0 || code == 128 + Signal::TERM.as_raw(), "{} left with {code}", node.name);
}

async fn start(world: &Rc<World>, name: &str) -> Node {
    let node = world.start(NodeOptions { ..world.app_options(name, &ROLES) }).await;
    node.hosts("Ear").await;
    node
}

async fn prepare(client: &Client) {
    client.create_topic("words", 1).await.expect("created");
    let ear = to_actors("ear", "words", ("Ear", "partitionkey"), "hear");
    client.subscribe(ear).await.expect("subscribed");
    for account in ["left", "right"] {
        let opened = client.call(("Account", account), "open", &json!({ "amount": 1_000 })).await;
        assert_eq!(opened.expect("answered"), Ok(json!(1_000)));
    }
}

// === impl Load ===

impl Load {
    /// Does something through the node that does not leave, and takes the time.
    async fn timed<T>(&self, kind: &'static str, what: impl AsyncFnOnce(Client) -> T) -> T {
        let client = self.fronts.borrow()[self.current.get()].clone();
        let begun = Instant::now();
        let done = what(client).await;
        let mut slowest = self.slowest.borrow_mut();
        let slowest = slowest.entry(kind).or_default();
        *slowest = begun.elapsed().max(*slowest);
        done
    }

    async fn call(
        &self,
        kind: &'static str,
        of: (&str, &str),
        method: &str,
        argument: &Value,
    ) -> Value {
        let answer = self.timed(kind, async |client| client.call(of, method, argument).await).await;
        match answer {
            Ok(Ok(answer)) => answer,
            other => panic!("{kind}: {other:?}"),
        }
    }

    fn done(&self, kind: &'static str) {
        *self.done.borrow_mut().entry(kind).or_default() += 1;
    }

    /// Waits until something of each kind has been done since, and begun anew.
    async fn goes_on(&self, clients: &[JoinHandle<()>]) {
        let before = self.done.borrow().clone();
        let more = |kind: &&str| self.done.borrow().get(kind) > before.get(kind);
        wait::until_true("every kind of load to go on", PROGRESS_LIMIT, async || {
            KINDS.iter().all(more) || clients.iter().any(JoinHandle::is_finished)
        })
        .await;
    }
}

async fn calls(load: Rc<Load>) {
    for count in 1.. {
        let answer = load.call("calls", ("Echo", "called"), "count", &json!(null)).await;
        assert_eq!(answer, json!(count));
        load.done("calls");
        if load.over.get() {
            return;
        }
    }
}

/// Calls that work for a while.
async fn slow(load: Rc<Load>, id: &str) {
    for count in 1.. {
        let argument = json!({ "key": format!("{id}-{count}"), "milliseconds": WORK_MS });
        let answer = load.call("slow", ("Slow", id), "work", &argument).await;
        assert_eq!(answer["done"], json!(count));
        load.done("slow");
        if load.over.get() {
            return;
        }
    }
}

/// Transfers, which call two accounts.
async fn nested(load: Rc<Load>) {
    for number in 0.. {
        let name = format!("t{number}");
        let order = json!({ "transfer": name, "from": "left", "to": "right", "amount": 0 });
        let answer = load.call("nested", ("Teller", "teller"), "transfer", &order).await;
        assert_eq!(answer, json!(name));
        load.done("nested");
        if load.over.get() {
            return;
        }
    }
}

async fn tails(load: Rc<Load>) {
    while !load.over.get() {
        let baton = json!({ "left": STEPS, "at": 0, "sum": 0 });
        let sum = load.call("tails", ("Relay", "r0"), "pass", &baton).await;
        assert_eq!(sum, json!(STEPS * (STEPS + 1) / 2));
        load.done("tails");
    }
}

/// Tells, and then a call, which comes behind them (P7): through the same node.
async fn tells(load: Rc<Load>) {
    for round in 1.. {
        let front = load.current.get();
        for _ in 0..TELLS {
            let request = TellRequest {
                target: Some(actor("Echo", "told")),
                method: "count".into(),
                payload: Some(bytes(&json!(null))),
                ..TellRequest::default()
            };
            let told = load.timed("tells", async |client| client.invocation().tell(request).await);
            told.await.expect("accepted");
        }
        let answer = load.call("tells", ("Echo", "told"), "count", &json!(null)).await;
        assert_eq!(answer, json!(round * (TELLS + 1)), "begun through {}", FRONTS[front]);
        load.done("tells");
        if load.over.get() {
            return;
        }
    }
}

fn ringer() -> ActorTarget {
    ActorTarget { r#type: "Ringer".into(), id: "r".into() }
}

/// One-shot reminders, one after the other; each rings.
async fn reminders(load: Rc<Load>) {
    for number in 0.. {
        let key = format!("k{number}");
        let argument = json!({ "key": key });
        let reminder = once(&ringer(), &key, Duration::from_millis(WORK_MS), &argument);
        let set = load.timed("reminders", async |client| client.schedule(reminder).await);
        set.await.expect("scheduled");
        let begun = Instant::now();
        wait::until_true("the reminder to ring", PROGRESS_LIMIT, async || {
            let state = load.timed("reads", async |client| client.committed(&ringer()).await).await;
            state.contains_key(&key)
        })
        .await;
        assert!(begun.elapsed() < SLOWEST, "{key} rang after {:?}", begun.elapsed());
        load.done("reminders");
        if load.over.get() {
            return;
        }
    }
}

async fn publishes(load: Rc<Load>) {
    while !load.over.get() {
        let number = load.done.borrow().get("publish").copied().unwrap_or(0);
        let event = publication("words", "ear", &json!(number));
        let published = load.timed("publish", async |client| client.publish(event).await);
        published.await.expect("durable");
        load.done("publish");
        // More would only make the journal of the one who hears them long.
        wait::moment(Duration::from_millis(20)).await;
    }
}

async fn judge(world: &World, load: &Load) {
    let done = load.done.borrow().clone();
    let slowest = load.slowest.borrow().clone();
    println!("{done:?} during {} restarts; slowest: {slowest:?}", ROUNDS * 4);
    for (kind, time) in slowest {
        assert!(time < SLOWEST, "{kind} took {time:?}");
    }
    let client = load.fronts.borrow()[0].clone();
    let ear = ActorTarget { r#type: "Ear".into(), id: "ear".into() };
    let words: Vec<i64> = (0..done["publish"]).collect();
    wait::until_true("every event to be heard", PROGRESS_LIMIT, async || {
        let heard = client.committed(&ear).await.remove("journal");
        heard.is_some_and(|heard| heard.as_array().is_some_and(|h| h.len() >= words.len()))
    })
    .await;
    assert_eq!(client.committed(&ear).await["journal"], json!(words), "once, and in order");
    let rung = client.committed(&ringer()).await;
    let once: BTreeMap<String, Value> =
        (0..done["reminders"]).map(|number| (format!("k{number}"), json!(1))).collect();
    // What was rung again, and how often it was idle, are counted under other keys.
    let rung: BTreeMap<_, _> = rung.into_iter().filter(|(key, _)| key.starts_with('k')).collect();
    assert_eq!(rung, once);
    // Whatever was under way was waited for, where it was.
    let attempts = world.journal().attempts();
    let cut_off: Vec<_> = attempts.values().flatten().filter(|attempt| !attempt.ended).collect();
    assert!(cut_off.is_empty(), "cut off: {cut_off:?}");
    let repeated: Vec<_> = attempts.values().filter(|attempts| attempts.len() > 1).collect();
    assert!(repeated.is_empty(), "repeated: {repeated:?}");
    assert_handed_over(world);
}

/// Every sidecar that left had released each partition that it owned, and lost none before.
fn assert_handed_over(world: &World) {
    let mut handed_over = 0;
    for name in HOSTS.iter().chain(&FRONTS) {
        for round in 1..=ROUNDS {
            let log = world.logs().remove(&format!("{name}.{round}.log")).expect("it has a log");
            assert!(!log.contains("partition dropped"), "{name} lost some in round {round}");
            let mut owned = BTreeSet::new();
            for line in log.lines() {
                let Some((what, rest)) = line.split_once(" partition=") else { continue };
                let partition = rest.split(' ').next().expect("its name");
                if what.contains("partition taken") {
                    owned.insert(partition);
                } else if what.contains("partition released") {
                    handed_over += usize::from(owned.remove(partition));
                }
            }
            assert!(owned.is_empty(), "{name} kept {owned:?} in round {round}");
        }
    }
    println!("{handed_over} partitions handed over");
    assert!(handed_over > 0, "the test shows nothing");
}
