//! The application's state: several changes at once, and keys that expire.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kar_proto::v1::{
    DeleteRequest, ListRequest, SetRequest, StateEntry, StateServiceGetRequest, TransactRequest,
    TransactResponse,
};
use kar_tests::errors::{assert_error, metadata, reason};
use kar_tests::grpc::{json as bytes, value};
use kar_tests::{Client, World, process, test, test_within, wait};
use serde_json::{Value, json};
use tonic::{Code, Status};

fn set(key: &str, new: &Value, etag: &str) -> SetRequest {
    let (key, etag) = (key.into(), etag.into());
    SetRequest { key, value: Some(bytes(new)), etag, ..Default::default() }
}

fn delete(key: &str, etag: &str) -> DeleteRequest {
    DeleteRequest { key: key.into(), etag: etag.into(), request_id: String::new() }
}

async fn transact(
    client: &Client,
    sets: Vec<SetRequest>,
    deletes: Vec<DeleteRequest>,
) -> Result<TransactResponse, Status> {
    let request = TransactRequest { sets, deletes, request_id: String::new() };
    Ok(client.state().transact(request).await?.into_inner())
}

async fn read(client: &Client, key: &str) -> Option<Value> {
    let request = StateServiceGetRequest { key: key.into() };
    client.state().get(request).await.expect("read").into_inner().value.map(|v| value(&v))
}

fn lasting(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().expect("not so long"))
}

#[test]
fn a_transaction_is_all_or_none_and_names_the_key_that_is_in_the_way() {
    test(async {
        let world = World::new("transact");
        let (a, b) = (world.bare("a").await, world.bare("b").await);
        let (a, b) = (a.client().await, b.client().await);
        let done = transact(&a, vec![set("x", &json!(1), "*"), set("y", &json!(2), "*")], vec![]);
        let done = done.await.expect("both are absent");
        assert_eq!(done.etags.len(), 2);
        let (x, y) = (&done.etags[0], &done.etags[1]);
        let stale =
            transact(&b, vec![set("z", &json!(3), ""), set("x", &json!(4), y)], vec![]).await;
        let status = assert_error(stale, Code::Aborted, "CONDITION_FAILED");
        assert_eq!((metadata(&status, "key"), metadata(&status, "etag")), ("x".into(), x.clone()));
        let gone = transact(&b, vec![set("z", &json!(3), "")], vec![delete("nothing", y)]).await;
        let status = assert_error(gone, Code::Aborted, "CONDITION_FAILED");
        assert_eq!(metadata(&status, "key"), "nothing");
        assert_eq!(metadata(&status, "etag"), "", "there is no such key");
        assert_eq!(read(&a, "z").await, None, "nothing of it was done");
        let deletes = vec![delete("y", y), delete("nothing", "")];
        let done = transact(&b, vec![set("x", &json!(5), x)], deletes).await.expect("they hold");
        assert_eq!(done.existed, [true, false]);
        assert_eq!((read(&a, "x").await, read(&a, "y").await), (Some(json!(5)), None));
        assert_eq!(transact(&a, vec![], vec![]).await.expect("nothing to do"), Default::default());
    });
}

#[test]
fn transactions_that_make_no_sense_are_refused_by_name() {
    test(async {
        let world = World::new("senseless");
        let node = world.bare("a").await;
        let client = node.client().await;
        let with_id = SetRequest { request_id: "r".into(), ..set("a", &json!(1), "") };
        let too_short = SetRequest { time_to_live: lasting(0), ..set("a", &json!(1), "") };
        for (sets, deletes, field) in [
            (vec![set("a", &json!(1), ""), set("a", &json!(2), "")], vec![], "sets.key"),
            (vec![set("a", &json!(1), "")], vec![delete("a", "")], "deletes.key"),
            (vec![set("", &json!(1), "")], vec![], "sets.key"),
            (vec![with_id], vec![], "sets.request_id"),
            (vec![too_short], vec![], "sets.time_to_live"),
        ] {
            let refused = transact(&client, sets, deletes).await;
            let status = assert_error(refused, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(metadata(&status, "field"), field, "{status:?}");
        }
        let many = (0..=1_000).map(|n| set(&format!("k{n}"), &json!(n), "")).collect();
        let large = json!("v".repeat(3 << 20));
        let large = (0..2).map(|n| set(&format!("k{n}"), &large, "")).collect();
        for (sets, limit) in
            [(many, "state_transaction_changes_max"), (large, "state_transaction_bytes_max")]
        {
            let refused = transact(&client, sets, vec![]).await;
            let status = assert_error(refused, Code::ResourceExhausted, "LIMIT_REACHED");
            assert_eq!(metadata(&status, "limit"), limit, "{status:?}");
        }
        let all = client.state().list(ListRequest::default()).await.expect("listed").into_inner();
        assert_eq!(all.entries, []);
    });
}

const ACCOUNTS: u64 = 4;
const MOVERS: u64 = 3;
const KILLS: u64 = 8;

/// Movers take from one account and give to another, by the etags that they have read, while the hub is killed. An
/// unknown answer is asked for again with the same request id; were it done twice, or by half, the sum would change.
#[test]
fn what_transactions_move_stays_whole_while_the_hub_is_killed() {
    test_within(Duration::from_secs(120), async {
        let world = World::new("moves");
        let node = world.bare("a").await;
        let client = node.client().await;
        let sets = (0..ACCOUNTS).map(|n| set(&format!("account{n}"), &json!(100), "*")).collect();
        transact(&client, sets, vec![]).await.expect("all are new");
        let enough = Arc::new(AtomicBool::new(false));
        let mover = |n| tokio::spawn(moves(client.clone(), n, enough.clone()));
        let movers: Vec<_> = (0..MOVERS).map(mover).collect();
        for _ in 0..KILLS {
            wait::moment(Duration::from_millis(120)).await;
            process::kill(world.hub().await);
            let entries = all(&client, "account").await;
            let balance = |e: &StateEntry| value(e.value.as_ref().expect("set"));
            let balances: Vec<_> = entries.iter().map(balance).collect();
            let sum: i64 = balances.iter().filter_map(Value::as_i64).sum();
            assert_eq!(sum, 100 * ACCOUNTS as i64, "{balances:?}");
        }
        enough.store(true, Ordering::Relaxed);
        let mut made = 0;
        for mover in movers {
            made += mover.await.expect("no mover failed");
        }
        assert!(made as u64 > KILLS, "they moved: {made}");
        assert_eq!(all(&client, "moved").await.len(), made, "each move was made once");
    });
}

/// Every key that begins so.
async fn all(client: &Client, prefix: &str) -> Vec<StateEntry> {
    let (mut entries, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListRequest { prefix: prefix.into(), page_size: 1_000, page_token };
        let page = client.state().list(request).await.expect("listed").into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return entries;
        }
    }
}

/// Moves until it is enough; returns how often.
async fn moves(client: Client, mover: u64, enough: Arc<AtomicBool>) -> usize {
    let mut made = 0;
    while !enough.load(Ordering::Relaxed) {
        let from = (mover + made) % ACCOUNTS;
        let to = (from + 1 + made % (ACCOUNTS - 1)) % ACCOUNTS;
        if try_move(&client, (from, to), &format!("moved/{mover}/{made}")).await {
            made += 1;
        }
    }
    usize::try_from(made).expect("not so many")
}

/// False: somebody else was first.
async fn try_move(client: &Client, (from, to): (u64, u64), mark: &str) -> bool {
    let mut sets = Vec::new();
    for (account, amount) in [(from, -1), (to, 1)] {
        let key = format!("account{account}");
        let request = StateServiceGetRequest { key: key.clone() };
        let found = client.state().get(request).await.expect("read").into_inner();
        let balance = value(&found.value.expect("it is never deleted")).as_i64();
        sets.push(set(&key, &json!(balance.expect("a number") + amount), &found.etag));
    }
    // Of two that were done with one request id this would be the second.
    sets.push(set(mark, &json!(1), "*"));
    let request_id = format!("{mark}/{}/{}", sets[0].etag, sets[1].etag);
    once(client, TransactRequest { sets, deletes: vec![], request_id }).await
}

/// False: somebody else was first.
async fn once(client: &Client, request: TransactRequest) -> bool {
    loop {
        match client.state().transact(request.clone()).await {
            Ok(_) => return true,
            Err(status) if reason(&status) == "OUTCOME_UNKNOWN" => {}
            Err(status) => {
                let status = assert_error::<()>(Err(status), Code::Aborted, "CONDITION_FAILED");
                assert!(!metadata(&status, "key").starts_with("moved"), "done twice: {status:?}");
                return false;
            }
        }
    }
}

#[test]
fn keys_with_a_time_to_live_are_absent_after_it() {
    test(async {
        let world = World::new("expiry");
        let node = world.bare("a").await;
        let client = node.client().await;
        let for_long =
            SetRequest { time_to_live: lasting(3_600_000), ..set("long", &json!(1), "") };
        let for_short = SetRequest { time_to_live: lasting(300), ..set("short", &json!(1), "") };
        client.state().set(for_long).await.expect("set");
        transact(&client, vec![for_short, set("stays", &json!(1), "")], vec![]).await.expect("set");
        for (key, expires) in [("long", true), ("stays", false)] {
            let request = StateServiceGetRequest { key: key.into() };
            let found = client.state().get(request).await.expect("read").into_inner();
            assert_eq!(found.expire_time.is_some(), expires, "{key}");
        }
        wait::until_true("the key to expire", Duration::from_secs(10), async || {
            read(&client, "short").await.is_none()
        })
        .await;
        let listed =
            client.state().list(ListRequest::default()).await.expect("listed").into_inner();
        let keys: Vec<_> = listed.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["long", "stays"]);
        process::kill(world.hub().await);
        assert_eq!(read(&client, "short").await, None);
        let again = set("short", &json!(2), "*");
        client.state().set(again).await.expect("what has expired is absent");
    });
}
