//! P7 by the invocations' own names: what one sender sends to one actor is begun in the order sent, by peers, through
//! inboxes, and where the way changes. A turn's token names its invocation, and so does the answer to who sent it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kar_proto::v1::request::Operation;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::{
    ActorTarget, ApplicationError, CallActorRequest, ListNodesRequest, StartRequest, TellRequest,
    call_actor_response,
};
use kar_tests::component::{Component, Handle, Turn, actor, hello};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::world::READY_LIMIT;
use kar_tests::{Client, Node, NodeOptions, World, test, wait};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

const NO_PEER: &[&str] = &["--no-peer"];

/// What begins, in order: the number that it was sent with, and the name of the invocation.
type Begun = Arc<Mutex<Vec<(i64, String)>>>;

async fn bare(world: &World, name: &str, args: &[&str]) -> Node {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    world.start(NodeOptions { name: name.into(), args, ..NodeOptions::default() }).await
}

async fn host(node: &Node, kinds: &[&str]) -> Component {
    Component::connect(&node.client().await, hello(&[], kinds)).await.expect("welcome")
}

/// The id of a turn's invocation.
fn invocation(turn: &Turn) -> String {
    turn.token.rsplit_once('/').expect("a token names it first").0.to_owned()
}

/// Notes what begins, in order, and answers with the name of the invocation.
fn noting(host: Component, begun: &Begun) -> JoinHandle<()> {
    let begun = begun.clone();
    tokio::spawn(async move {
        host.serve(move |turn: Turn| {
            let begun = begun.clone();
            async move {
                let number = turn.argument().as_i64().expect("a number");
                begun.lock().expect("no panic").push((number, invocation(&turn)));
                Ok::<_, ApplicationError>(bytes(&json!(invocation(&turn))))
            }
        })
        .await;
    })
}

/// Waits until so many have begun, each for the first time.
async fn firsts(begun: &Begun, count: usize) -> Vec<(i64, String)> {
    wait::until("all to begin", READY_LIMIT, async || {
        // Turns that were under way, or ran ahead of the log, when their owner was killed begin again.
        let mut firsts: Vec<(i64, String)> = Vec::new();
        for (number, id) in begun.lock().expect("no panic").iter() {
            if firsts.last().is_none_or(|(last, _)| number > last) {
                firsts.push((*number, id.clone()));
            }
        }
        (firsts.len() == count).then_some(firsts)
    })
    .await
}

fn told(id: &str, argument: &Value, turn_token: &str) -> TellRequest {
    TellRequest {
        target: Some(actor("A", id)),
        method: "m".into(),
        payload: Some(bytes(argument)),
        turn_token: turn_token.into(),
        options: None,
    }
}

/// Tells the actor a number; the invocation's name.
async fn tell(client: &Client, number: i64) -> String {
    let request = told("x", &json!(number), "");
    client.invocation().tell(request).await.expect("accepted").into_inner().invocation_id
}

async fn inbox_appends(client: &Client) -> i64 {
    client.figure("inbox_appends").await.expect("answered").unwrap_or_default()
}

#[test]
fn what_one_sender_tells_stays_in_order_though_owners_and_ways_change() {
    const EACH: i64 = 30;
    test(async {
        let world = World::new("ways");
        let begun = Begun::default();
        let front = bare(&world, "front", &[]).await;
        let client = front.client().await;
        let mut sent = Vec::new();
        let mut send = async || {
            let number = sent.len() as i64 + 1;
            sent.push((number, tell(&client, number).await));
        };
        // By peers, through the inbox, by peers again: each owner is killed while it is told.
        for (round, args) in [&[][..], NO_PEER, &[]].into_iter().enumerate() {
            let node = bare(&world, &format!("host-{round}"), args).await;
            let notes = noting(host(&node, &["A"]).await, &begun);
            let mut before = inbox_appends(&client).await;
            if args == NO_PEER {
                // Its own node may have it until the new host takes it over: that needs no way at all.
                wait::until_true("the way to change", READY_LIMIT, async || {
                    before = inbox_appends(&client).await;
                    send().await;
                    inbox_appends(&client).await > before
                })
                .await;
                before = inbox_appends(&client).await;
            }
            for _ in 0..EACH {
                send().await;
            }
            let through_inbox = inbox_appends(&client).await - before;
            println!("round {round}: {through_inbox} entries for {EACH} tells");
            if args == NO_PEER {
                assert!(through_inbox >= EACH, "there is no other way: {through_inbox}");
            }
            if round == 2 {
                // The peers have it again: what is told makes no entries any more.
                wait::until_true("the way to change", READY_LIMIT, async || {
                    let before = inbox_appends(&client).await;
                    send().await;
                    inbox_appends(&client).await == before
                })
                .await;
                assert_eq!(firsts(&begun, sent.len()).await, sent);
                return;
            }
            node.kill_sidecar();
            notes.abort();
        }
    });
}

#[test]
fn without_peers_what_one_connection_sends_is_begun_in_the_order_sent() {
    const MANY: i64 = 60;
    test(async {
        let world = World::new("inorder");
        let begun = Begun::default();
        let (node, front) = (bare(&world, "host", NO_PEER).await, bare(&world, "f", NO_PEER).await);
        let _notes = noting(host(&node, &["A"]).await, &begun);
        let sender = host(&front, &[]).await;
        // All at once, and of all kinds; nobody waits for an answer before the next one is sent.
        let asked: Vec<JoinHandle<String>> =
            (0..MANY).map(|number| tokio::spawn(ask(sender.handle(), number))).collect();
        let mut sent = Vec::new();
        for (number, asked) in (0..MANY).zip(asked) {
            sent.push((number, asked.await.expect("no panic")));
        }
        assert_eq!(firsts(&begun, sent.len()).await, sent);
        assert!(inbox_appends(&front.client().await).await > 0, "it went through an inbox");
    });
}

/// Tells, starts or calls with a number; the invocation's name.
async fn ask(handle: Handle, number: i64) -> String {
    let (payload, method) = (Some(bytes(&json!(number))), "m".to_owned());
    let operation = match number % 3 {
        0 => Operation::Tell(told("x", &json!(number), "")),
        1 => {
            let target = Some(actor("A", "x"));
            Operation::Start(StartRequest { target, method, payload, options: None })
        }
        _ => Operation::CallActor(CallActorRequest {
            actor: Some(ActorTarget { r#type: "A".into(), id: "x".into() }),
            method,
            payload,
            ..CallActorRequest::default()
        }),
    };
    match handle.request(operation).await.expect("answered") {
        Answer::Tell(told) => told.invocation_id,
        Answer::Start(started) => started.invocation_id,
        Answer::CallActor(answer) => match answer.result {
            Some(call_actor_response::Result::Payload(name)) => {
                value(&name).as_str().expect("its name").to_owned()
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_peers_what_an_actors_turns_tell_is_begun_in_the_order_told() {
    const EACH: i64 = 10;
    test(async {
        let world = World::new("turns");
        let begun = Begun::default();
        let (left, right) =
            (bare(&world, "left", NO_PEER).await, bare(&world, "right", NO_PEER).await);
        let mut sender = host(&left, &["S"]).await;
        let _notes = noting(host(&right, &["A"]).await, &begun);
        let client = left.client().await;
        let mut sent = Vec::new();
        for round in 0..3 {
            let caller = client.clone();
            let called =
                tokio::spawn(async move { caller.call(("S", "s"), "go", &json!(null)).await });
            let turn = sender.next_turn().await;
            for number in round * EACH..(round + 1) * EACH {
                let request = told("x", &json!(number), &turn.token);
                match turn.handle.request(Operation::Tell(request)).await.expect("buffered") {
                    Answer::Tell(told) => sent.push((number, told.invocation_id)),
                    other => panic!("{other:?}"),
                }
                if number % 4 == 3 {
                    // In segments of their own.
                    turn.flush().await.expect("flushed");
                }
            }
            turn.finish(&json!(null)).await;
            called.await.expect("no panic").expect("answered").expect("no error");
        }
        assert_eq!(firsts(&begun, sent.len()).await, sent);
    });
}

/// In front of a sidecar's peer socket: whoever dials the sidecar comes through here, or not at all.
struct Door {
    /// Where others look for it.
    path: PathBuf,
    /// Where it listens.
    real: PathBuf,
    open: Option<JoinHandle<()>>,
}

impl Door {
    /// Moves the socket away. Until it is opened nobody new reaches the sidecar, which lives on.
    async fn before(world: &World, node: &Node) -> Self {
        let listed = node.client().await.system().list_nodes(ListNodesRequest {}).await;
        let mut nodes = listed.expect("answered").into_inner().nodes.into_iter();
        let address = nodes.find(|other| other.name == node.name).expect("itself").address;
        let path = PathBuf::from(address.strip_prefix("unix:").expect("a socket"));
        let real = world.path().join("real.peer");
        fs::rename(&path, &real).expect("the socket can be moved");
        Self { path, real, open: None }
    }

    fn open(&mut self) {
        let listener = UnixListener::bind(&self.path).expect("nobody listens there");
        let real = self.real.clone();
        self.open = Some(tokio::spawn(async move {
            // Connections end with whoever accepted them.
            let mut lines = JoinSet::new();
            while let Ok((mut outer, _)) = listener.accept().await {
                let mut inner = UnixStream::connect(&real).await.expect("the sidecar lives");
                lines.spawn(async move {
                    let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        }));
    }

    /// Cuts every connection, and lets nobody in.
    async fn close(&mut self) {
        fs::remove_file(&self.path).expect("it was open");
        let open = self.open.take().expect("it was open");
        open.abort();
        let _aborted = open.await;
    }
}

/// What a test sends, in order.
struct Sender {
    stream: Component,
    client: Client,
    sent: Vec<(i64, String)>,
}

impl Sender {
    /// Sends so many at once, of all kinds, and does something before any is answered; then waits for all answers.
    /// Returns how many entries of inboxes they took.
    async fn send(&mut self, count: i64, meanwhile: impl AsyncFnOnce()) -> i64 {
        let before = inbox_appends(&self.client).await;
        let first = self.sent.len() as i64 + 1;
        let numbers = first..first + count;
        let asked: Vec<JoinHandle<String>> =
            numbers.clone().map(|n| tokio::spawn(ask(self.stream.handle(), n))).collect();
        // Each has sent its request when it is here again.
        tokio::task::yield_now().await;
        meanwhile().await;
        for (number, asked) in numbers.zip(asked) {
            self.sent.push((number, asked.await.expect("no panic")));
        }
        inbox_appends(&self.client).await - before
    }

    /// Sends one after the other until one takes no inbox.
    async fn until_by_peers(&mut self) {
        wait::until_true("the peers to have it again", READY_LIMIT, async || {
            self.send(1, async || {}).await == 0
        })
        .await;
    }
}

#[test]
fn an_owner_that_lives_and_no_peer_reaches_is_served_by_its_inbox_until_one_does() {
    const MANY: i64 = 30;
    test(async {
        let world = World::new("unreached");
        let begun = Begun::default();
        // The younger one dials the older one.
        let node = bare(&world, "host", &[]).await;
        let _notes = noting(host(&node, &["A"]).await, &begun);
        let mut door = Door::before(&world, &node).await;
        let front = bare(&world, "front", &[]).await;
        let (stream, client) = (host(&front, &[]).await, front.client().await);
        let mut sender = Sender { stream, client, sent: Vec::new() };

        // It was never reached.
        let entries = sender.send(MANY, async || {}).await;
        assert!(entries >= MANY, "there is no other way: {entries}");
        door.open();
        sender.until_by_peers().await;
        assert_eq!(sender.send(MANY, async || {}).await, 0, "peers carry it");
        // It is lost while much is under way.
        sender.send(MANY, async || door.close().await).await;
        let entries = sender.send(MANY, async || {}).await;
        assert!(entries >= MANY, "there is no other way: {entries}");
        door.open();
        sender.until_by_peers().await;
        assert_eq!(sender.send(MANY, async || {}).await, 0, "peers carry it");

        wait::until_true("all to begin", READY_LIMIT, async || {
            begun.lock().expect("no panic").len() >= sender.sent.len()
        })
        .await;
        let begun = begun.lock().expect("no panic").clone();
        assert_eq!(begun, sender.sent, "in order, each once: its owner was never lost");
    });
}
