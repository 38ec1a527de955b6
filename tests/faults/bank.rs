//! A bank whose load goes on while somebody strikes: transfers by nested calls between actors of two components,
//! judged by the accounts' own books.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kar_proto::v1::{ActorTarget, ApplicationError, GetAllRequest};
use kar_tests::errors::reason;
use kar_tests::grpc::value;
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, Random, Toll, World, wait};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tonic::{Code, Status};

/// Transfers under way at once.
const CLIENTS: usize = 24;

/// Accounts, each opened with so much.
const ACCOUNTS: usize = 20;
const OPENING: i64 = 1_000;

/// Tellers that are actors, who count the transfers that they have done.
const TELLERS: usize = 7;

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// Longest time from a strike until as many transfers have ended as were to.
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);

/// Nodes by name and role: hosts, then the clients' sidecars.
const NODES: [(&str, &str); 6] = [
    ("accounts-1", "accounts"),
    ("accounts-2", "accounts"),
    ("tellers-1", "teller"),
    ("tellers-2", "teller"),
    ("front-0", ""),
    ("front-1", ""),
];

/// How many of them are hosts.
pub(crate) const HOSTS: usize = 4;

/// How much is done to the bank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Transfers, all in all.
    pub(crate) transfers: usize,
    /// Strikes, spread evenly over the transfers.
    pub(crate) strikes: usize,
    /// Bytes that each transfer carries for nothing.
    pub(crate) padding: usize,
    /// Reasons that a client may be given though its own sidecar lives.
    pub(crate) excuses: &'static [&'static str],
}

/// What everybody looks at.
pub(crate) struct Bank {
    pub(crate) world: Rc<World>,
    pub(crate) nodes: Vec<Node>,
    /// What was killed, for who strikes by killing.
    pub(crate) toll: Toll,
    books: Rc<Books>,
}

/// What the clients share.
struct Books {
    plan: Plan,
    world: Rc<World>,
    started: Cell<usize>,
    finished: Cell<usize>,
    unknown: Cell<usize>,
    /// Requests to tellers that are actors, repeated ones included.
    asked: Cell<usize>,
    /// The clients' own sidecars: odd from the kill to the restart, then even again. Only clients whose connection
    /// was made before the last change, or while it is odd, may see "unknown".
    fronts: [Cell<usize>; 2],
}

/// Makes transfers in this world, strikes whenever so many are through, and audits the books in the end. What was
/// killed.
pub(crate) async fn run(
    world: &Rc<World>,
    plan: Plan,
    random: &mut Random,
    mut strike: impl AsyncFnMut(&mut Bank, &mut Random),
) -> Toll {
    let books = Rc::new(Books {
        plan,
        world: world.clone(),
        started: Cell::new(0),
        finished: Cell::new(0),
        unknown: Cell::new(0),
        asked: Cell::new(0),
        fronts: [Cell::new(0), Cell::new(0)],
    });
    let toll = Toll::default();
    let mut bank = Bank { world: world.clone(), nodes: Vec::new(), toll, books: books.clone() };
    for (name, role) in NODES {
        bank.nodes.push(start(world, name, role).await);
    }
    open_accounts(&bank.nodes[HOSTS].client().await).await;
    let local = LocalSet::new();
    for number in 0..CLIENTS {
        local.spawn_local(client(books.clone(), number, random.fork()));
    }
    local
        .run_until(async {
            for number in 1..=plan.strikes {
                books.through(number * plan.transfers / (plan.strikes + 1)).await;
                strike(&mut bank, random).await;
            }
            books.through(plan.transfers).await;
        })
        .await;
    let Plan { transfers, strikes, .. } = plan;
    let unknown = books.unknown.get();
    println!("{transfers} transfers, {strikes} strikes, {unknown} answers unknown and asked again");
    let client = bank.nodes[HOSTS].client().await;
    audit(plan, &client).await;
    let (done, asked) = (done(&client).await, bank.books.asked.get());
    let least = (0..transfers).filter(|transfer| is_actors(*transfer)).count();
    assert!(
        (least..=asked).contains(&done),
        "{least} transfers, asked for {asked} times, were done {done} times"
    );
    let attempts = world.journal().attempts();
    assert!(attempts.len() >= transfers, "the journal has {} turns only", attempts.len());
    world.journal().assert_no_overlap(GRACE);
    bank.toll
}

async fn start(world: &World, name: &str, role: &str) -> Node {
    world.start(options(world, name, role)).await
}

fn options(world: &World, name: &str, role: &str) -> kar_tests::NodeOptions {
    if role.is_empty() {
        return kar_tests::NodeOptions { name: name.into(), ..Default::default() };
    }
    world.app_options(name, &[role])
}

async fn open_accounts(client: &Client) {
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let opened = client.call(("Account", &id), "open", &json!({ "amount": OPENING })).await;
        assert_eq!(opened.expect("answered"), Ok(json!(OPENING)));
    }
}

// === impl Bank ===

impl Bank {
    /// Kills a node if it still lives, and starts it again.
    pub(crate) async fn restart(&mut self, node: usize) {
        let front = node.checked_sub(HOSTS);
        self.changed(front);
        self.nodes[node].kill_sidecar();
        self.nodes[node].ended(READY_LIMIT).await;
        let (name, role) = NODES[node];
        self.nodes[node] = start(&self.world, name, role).await;
        self.changed(front);
    }

    /// Starts all nodes again, which somebody has killed; does not wait until they serve.
    pub(crate) async fn respawn_all(&mut self) {
        for node in &mut self.nodes {
            node.ended(READY_LIMIT).await;
        }
        let spawn =
            |(name, role): &(&str, &str)| self.world.spawn(&options(&self.world, name, role));
        self.nodes = NODES.iter().map(spawn).collect();
    }

    /// A client's sidecar is killed, or there again.
    pub(crate) fn changed(&self, front: Option<usize>) {
        if let Some(front) = front {
            let state = &self.books.fronts[front];
            state.set(state.get() + 1);
        }
    }

    /// Transfers that are through.
    pub(crate) fn finished(&self) -> usize {
        self.books.finished.get()
    }
}

// === impl Books ===

impl Books {
    async fn through(&self, due: usize) {
        wait::until_true("transfers to go on", PROGRESS_LIMIT, async || self.finished.get() >= due)
            .await;
    }

    /// Fails unless there is a reason for what a client was told.
    #[track_caller]
    fn excuse(&self, front: usize, since: usize, transfer: usize, status: &Status) {
        let reason = reason(status);
        if self.plan.excuses.contains(&reason.as_str()) {
            return;
        }
        let died = since % 2 == 1 || self.fronts[front].get() != since;
        assert!(died, "t{transfer}: the client's own sidecar lives, but: {status:?}");
        // What a plain gRPC client sees when the sidecar at the other end of its socket dies.
        let broken = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
        assert!(broken.contains(&status.code()), "{status:?}");
        assert!(["", "OUTCOME_UNKNOWN"].contains(&reason.as_str()), "{status:?}");
    }
}

/// Takes transfers until there are none left.
async fn client(bank: Rc<Books>, number: usize, mut random: Random) {
    let front = number % bank.fronts.len();
    let socket = bank.world.path().join(format!("front-{front}.sock"));
    let mut connection = None;
    while bank.started.get() < bank.plan.transfers {
        let transfer = bank.started.get();
        bank.started.set(transfer + 1);
        let from = random.below(ACCOUNTS as u64);
        let to = (from + 1 + random.below(ACCOUNTS as u64 - 1)) % ACCOUNTS as u64;
        let order = json!({
            "transfer": format!("t{transfer}"),
            "from": format!("account-{from}"),
            "to": format!("account-{to}"),
            "amount": 1 + random.below(5),
            "padding": "x".repeat(bank.plan.padding),
        });
        // "Unknown" is answered by asking again: accounts know the transfers that they have applied.
        loop {
            let (client, since) = match connection.take() {
                Some(connection) => connection,
                None => {
                    let since = bank.fronts[front].get();
                    (connect(&socket).await, since)
                }
            };
            bank.asked.set(bank.asked.get() + usize::from(is_actors(transfer)));
            match send(&client, transfer, &order).await {
                // A teller's own calls were refused: it says so.
                Ok(Err(error)) if error.code == "KarError" && !bank.plan.excuses.is_empty() => {
                    connection = Some((client, since));
                }
                Ok(answer) => {
                    assert_eq!(answer, Ok(json!(format!("t{transfer}"))));
                    connection = Some((client, since));
                    break;
                }
                Err(status) => bank.excuse(front, since, transfer, &status),
            }
            bank.unknown.set(bank.unknown.get() + 1);
        }
        bank.finished.set(bank.finished.get() + 1);
    }
}

async fn connect(socket: &std::path::Path) -> Client {
    wait::until("the client's sidecar", READY_LIMIT, async || Client::unix(socket).await.ok()).await
}

/// Half of the transfers go to tellers that are actors, the others to the service.
fn is_actors(transfer: usize) -> bool {
    transfer.is_multiple_of(2)
}

async fn send(
    client: &Client,
    transfer: usize,
    order: &Value,
) -> Result<Result<Value, ApplicationError>, Status> {
    if is_actors(transfer) {
        let teller = format!("teller-{}", transfer % TELLERS);
        client.call(("Teller", &teller), "transfer", order).await
    } else {
        client.invoke("teller", "transfer", order).await
    }
}

/// The sum is what it was, and every transfer left one account once and reached another once.
async fn audit(plan: Plan, client: &Client) {
    let (mut sum, mut withdrawn, mut deposited) = (0, BTreeSet::new(), BTreeSet::new());
    for account in 0..ACCOUNTS {
        let id = format!("account-{account}");
        let balance = client.call(("Account", &id), "balance", &json!(null)).await;
        let balance = balance.expect("answered").expect("no error");
        let actor = ActorTarget { r#type: "Account".into(), id: id.clone() };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = client.actor_state().get_all(request).await.expect("read").into_inner();
        let stored = state.entries.get("balance").map(value);
        assert_eq!(stored, Some(balance.clone()), "{id}: its turn and its state differ");
        sum += balance.as_i64().expect("a number");
        for key in state.entries.keys() {
            if let Some(transfer) = key.strip_prefix("withdraw/") {
                assert!(withdrawn.insert(transfer.to_owned()), "{transfer} left twice");
            }
            if let Some(transfer) = key.strip_prefix("deposit/") {
                assert!(deposited.insert(transfer.to_owned()), "{transfer} arrived twice");
            }
        }
    }
    assert_eq!(sum, OPENING * ACCOUNTS as i64, "money was made or lost");
    let all: BTreeSet<String> = (0..plan.transfers).map(|n| format!("t{n}")).collect();
    assert!(withdrawn == all && deposited == all, "transfers were lost");
}

/// How many transfers the tellers that are actors have done. Accounts leave a repeated transfer out; these do not.
async fn done(client: &Client) -> usize {
    let mut done = 0;
    for teller in 0..TELLERS {
        let actor = ActorTarget { r#type: "Teller".into(), id: format!("teller-{teller}") };
        let request = GetAllRequest { actor: Some(actor), turn_token: String::new() };
        let state = client.actor_state().get_all(request).await.expect("read").into_inner();
        done += state.entries.get("done").map_or(0, |done| value(done).as_u64().expect("a number"));
    }
    usize::try_from(done).expect("fits")
}
