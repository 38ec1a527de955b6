//! Two nodes are drained at once while turns of each wait for turns of the other, through the same actors and back
//! (design section 7): both end within the bound, no caller notices, and nothing is lost or done twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kar_proto::v1::{ActorTarget, ListNodesRequest};
use kar_tests::fire::{PROGRESS_LIMIT, nothing_left};
use kar_tests::journal::assert_happens_before;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, World, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const KIND: &str = "ChainRust";

/// An actor, another one that it calls, and the first one again.
const LINKS: usize = 3;

/// Chains that wait at the gate in each of their links, in either direction.
const CHAINS: usize = 2 * LINKS;

/// Actors that are looked at for those that the hosts have.
const ACTORS: usize = 96;

/// What a process needs beyond the time that its turns have: handing over, and ending.
const GRACE: Duration = Duration::from_secs(10);

/// P3: code of a cut-off attempt may run on for so long.
const OVERLAP: Duration = Duration::from_millis(100);

/// Two hosts that are about to leave, one that stays, and a client's node.
struct Scene {
    world: Rc<World>,
    leaving: [Node; 2],
    stays: Node,
    client: Client,
    _front: Node,
    /// Actors by the host that has them, of those two.
    actors: [Vec<String>; 2],
    /// The file whose being there opens the gate.
    gate: PathBuf,
}

type Answers = Vec<JoinHandle<Value>>;

impl Scene {
    async fn new(name: &str, args: &[&str]) -> Self {
        let world = World::new(name);
        world.add_run_args(args);
        let hosts = ["host-1", "host-2", "host-3"];
        let mut nodes = Vec::new();
        for host in hosts {
            nodes.push(world.app(host, &["chain"]).await);
        }
        for node in &nodes {
            node.hosts(KIND).await;
        }
        let front = world.bare("front").await;
        let client = front.client().await;
        let mut pids = Vec::new();
        for node in &nodes {
            pids.push(json!(node.component_pid().await));
        }
        let mut shares: Vec<_> = settled(&client, &pids).await.into_iter().zip(nodes).collect();
        // Shares are not equal: who has least stays.
        shares.sort_by_key(|(ids, _)| ids.len());
        let [(_, stays), (few, second), (many, first)] = shares.try_into().expect("three");
        assert!(few.len() >= CHAINS, "{few:?} of {ACTORS} are too few");
        let (leaving, actors) = ([first, second], [many, few]);
        let gate = world.path().join("gate");
        Self { world, leaving, stays, client, _front: front, actors, gate }
    }

    /// The actors of a chain. Those of one direction begin at the first host, those of the other at the second.
    fn path(&self, chain: usize) -> [&str; LINKS] {
        let (a, b) = (&*self.actors[chain % 2][chain], &*self.actors[1 - chain % 2][chain]);
        [a, b, a]
    }

    /// Begins every chain, and waits until each is at its gate.
    async fn begin(&self) -> Answers {
        let mut answers = Vec::new();
        for chain in 0..CHAINS {
            let path = self.path(chain);
            let places: Vec<_> = path.iter().map(|id| [KIND, id]).collect();
            let mut gates = [""; LINKS];
            gates[chain / 2] = self.gate.to_str().expect("UTF-8");
            let link =
                json!({ "chain": chain, "at": 0, "path": places, "trail": [], "gates": gates });
            let (client, first) = (self.client.clone(), path[0].to_owned());
            answers.push(tokio::spawn(async move {
                let answer = client.call((KIND, &first), "link", &link).await;
                answer.expect("its own sidecar stays").expect("no error")
            }));
        }
        wait::until_true("every chain to be at its gate", READY_LIMIT, async || {
            let attempts = self.world.journal().attempts();
            (0..CHAINS).all(|chain| attempts.contains_key(&link(chain, chain / 2)))
        })
        .await;
        answers
    }

    /// Has both leave; returns when they are known to.
    async fn leave(&self) -> Instant {
        let begun = Instant::now();
        for node in &self.leaving {
            node.signal(Signal::TERM);
        }
        wait::until_true("both to be leaving", READY_LIMIT, async || {
            let listed = self.client.system().list_nodes(ListNodesRequest {}).await;
            let nodes = listed.expect("answered").into_inner().nodes;
            let leaves = |left: &Node| nodes.iter().any(|n| n.name == left.name && n.leaving);
            self.leaving.iter().all(leaves)
        })
        .await;
        begun
    }

    fn open(&self) {
        fs::write(&self.gate, "").expect("the gate can be opened");
    }

    /// Waits until both have ended, in order, no later than `limit` after they were asked to.
    async fn ended(&mut self, begun: Instant, limit: Duration) {
        for node in &mut self.leaving {
            let code = node.ended(limit.saturating_sub(begun.elapsed())).await;
            assert!(code == 0 || code == 128 + Signal::TERM.as_raw(), "{} left: {code}", node.name);
            let log = &self.world.logs()[&format!("{}.1.log", node.name)];
            for unclean in ["partition dropped", "not everything could be handed over"] {
                assert!(!log.contains(unclean), "{}: {unclean}", node.name);
            }
        }
    }

    /// Every chain was answered by its own trail, each link of it took effect once, and attempts did not overlap.
    /// Returns the processes of each link's attempts.
    async fn judge(&self, answers: Answers) -> BTreeMap<String, Vec<u32>> {
        let mut trails = Vec::new();
        for answer in answers {
            let answer = tokio::time::timeout(PROGRESS_LIMIT, answer).await;
            trails.push(answer.expect("answered in time").expect("no panic"));
        }
        let attempts = self.world.journal().attempts();
        let mut pids = BTreeMap::new();
        for (chain, trail) in trails.into_iter().enumerate() {
            let links: Vec<_> = (0..LINKS).map(|at| &attempts[&link(chain, at)]).collect();
            assert_eq!(trail.as_array().map(Vec::len), Some(LINKS), "{chain}: {trail}");
            for (at, own) in links.iter().enumerate() {
                let drawn = own.iter().any(|attempt| trail[at] == json!(attempt.id));
                assert!(drawn, "{chain}@{at}: {own:?} in {trail}");
                assert!(own.last().is_some_and(|attempt| attempt.ended), "{chain}@{at}: {own:?}");
                pids.insert(link(chain, at), own.iter().map(|attempt| attempt.pid()).collect());
            }
            for pair in links.windows(2) {
                assert_happens_before(pair[0], pair[1], OVERLAP);
            }
            let [first, second, _] = self.path(chain);
            let counted = [(first, vec![0, 2]), (second, vec![1])];
            for (id, places) in counted {
                let actor = ActorTarget { r#type: KIND.into(), id: id.into() };
                let once = places.into_iter().map(|at| (link(chain, at), json!(1))).collect();
                assert_eq!(self.client.committed(&actor).await, once, "{chain} in {id}");
            }
        }
        self.world.journal().assert_no_overlap(OVERLAP);
        pids
    }
}

/// Name of a link in the journal and in its actor.
fn link(chain: usize, at: usize) -> String {
    format!("{chain}@{at}")
}

/// Waits until the hosts have shared the actors out; each host's.
async fn settled(client: &Client, pids: &[Value]) -> Vec<Vec<String>> {
    let places = async || {
        let mut places = vec![Vec::new(); pids.len()];
        for number in 0..ACTORS {
            let id = format!("i{number}");
            let answer = client.call((KIND, &id), "pid", &json!(null)).await;
            let pid = answer.expect("answered").expect("no error");
            places[pids.iter().position(|other| *other == pid).expect("a host")].push(id);
        }
        places
    };
    let mut before = Vec::new();
    wait::until("the hosts to share the actors", READY_LIMIT, async || {
        let now = places().await;
        let is_settled = now == before && now.iter().all(|ids| !ids.is_empty());
        before.clone_from(&now);
        is_settled.then_some(now)
    })
    .await
}

#[test]
fn two_nodes_drained_at_once_let_each_others_nested_calls_end() {
    test(async {
        let mut scene = Scene::new("drains", &[]).await;
        let answers = scene.begin().await;
        let begun = scene.leave().await;
        scene.open();
        // Turns have 10 s before they are cancelled; nobody waits for that where they can end.
        scene.ended(begun, Duration::from_secs(10) + GRACE).await;
        let pids = scene.judge(answers).await;
        let left: Vec<_> = pids.iter().filter(|(_, pids)| pids.len() != 1).collect();
        assert!(left.is_empty(), "cut off: {left:?}");
        // Where a chain had been at the actors it came back to them, on the nodes that were leaving.
        for chain in 0..CHAINS {
            assert_eq!(pids[&link(chain, 0)], pids[&link(chain, 2)], "{chain}: {pids:?}");
        }
        nothing_left(&scene.world).await;
    });
}

#[test]
fn two_nodes_drained_at_once_end_though_their_turns_wait_for_each_other_beyond_the_bound() {
    const TURNS: Duration = Duration::from_secs(1);
    test(async {
        let args = ["--drain-timeout-ms", &TURNS.as_millis().to_string()];
        let mut scene = Scene::new("drains2", &args).await;
        let answers = scene.begin().await;
        let begun = scene.leave().await;
        // Nothing opens the gate: every turn is cancelled, and goes on where the third host has it.
        scene.ended(begun, TURNS + GRACE).await;
        scene.open();
        let pids = scene.judge(answers).await;
        let third = scene.stays.component_pid().await;
        for (link, pids) in &pids {
            assert_eq!(pids.last(), Some(&third), "{link}: {pids:?}");
        }
        nothing_left(&scene.world).await;
    });
}
