//! Keys that expire, by a clock that the tests move.

use std::sync::atomic::{AtomicU64, Ordering};

use wire::state_response::Response;

use super::*;

const START: u64 = 1_700_000_000_000;
const APP: &str = "app";

struct World {
    dir: tempfile::TempDir,
    time: Arc<AtomicU64>,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(START));
        let store = open(dir.path(), &time);
        Self { dir, time, store }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("store.db")
    }

    /// What a kill and another hub come to: nothing of the former's memory is left.
    fn replace(&mut self) {
        let closed = Store::open(&self.dir.path().join("none"), Durability::Os, Box::new(|| 0));
        self.store = closed.unwrap();
        self.store = open(self.dir.path(), &self.time);
    }

    fn pass(&self, ms: u64) {
        self.time.fetch_add(ms, Ordering::Relaxed);
    }

    fn ask(&mut self, request: Request) -> Response {
        let job = StoreJob::State { conn: 1, number: 1, app: APP.into(), request };
        let mut answers = self.store.transact(vec![job]).unwrap();
        let Some(Answer::Frames { frames, .. }) = answers.pop() else { panic!("no frames") };
        match frames.into_iter().next() {
            Some((Frame::State(response), _)) => response.response.unwrap(),
            other => panic!("no answer: {other:?}"),
        }
    }

    fn set(&mut self, key: &str, bytes: usize, time_to_live_ms: u64) -> String {
        match self.ask(Request::Set(set(key, bytes, "", time_to_live_ms))) {
            Response::Wrote(wrote) => wrote.etag,
            other => panic!("not set: {other:?}"),
        }
    }

    fn has(&mut self, key: &str) -> bool {
        match self.ask(Request::Get(wire::GetState { key: key.into() })) {
            Response::Got(got) => got.entry.is_some(),
            other => panic!("not read: {other:?}"),
        }
    }

    fn keys(&mut self) -> Vec<String> {
        let mut keys = Vec::new();
        let mut after = String::new();
        loop {
            let list = wire::ListState { prefix: String::new(), page_size: 10, after };
            let Response::List(page) = self.ask(Request::List(list)) else { panic!("no list") };
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
            if !page.more {
                return keys;
            }
            after = page.next_after;
        }
    }

    fn rows(&self) -> i64 {
        self.store.connection.query_row("SELECT count(*) FROM state", [], |r| r.get(0)).unwrap()
    }

    /// Everything goes from SQLite's log to its file.
    fn checkpoint(&self) {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.store.connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
    }

    /// Rounds until none is due; how many they were.
    fn tidy(&mut self) -> usize {
        let mut rounds = 0;
        loop {
            self.store.next_round = Instant::now();
            if self.store.until_round() != Some(Duration::ZERO) {
                return rounds;
            }
            self.store.round_if_due().unwrap();
            rounds += 1;
            assert!(rounds < 10_000, "rounds without end");
        }
    }
}

fn open(dir: &Path, time: &Arc<AtomicU64>) -> Store {
    let time = Arc::clone(time);
    let time = Box::new(move || time.load(Ordering::Relaxed));
    Store::open(&dir.join("store.db"), Durability::Os, time).unwrap()
}

fn set(key: &str, bytes: usize, etag: &str, time_to_live_ms: u64) -> wire::SetState {
    let value = wire::Value { data: vec![7; bytes].into(), content_type: String::new() };
    wire::SetState {
        key: key.into(),
        value: Some(value),
        etag: etag.into(),
        request_id: String::new(),
        time_to_live_ms,
    }
}

#[test]
fn a_key_is_absent_from_the_moment_that_its_time_has_passed() {
    let mut world = World::new();
    world.set("k", 1, 1_000);
    world.set("stays", 1, 0);
    world.pass(999);
    assert!(world.has("k"));
    assert_eq!(world.keys(), ["k", "stays"]);
    world.pass(1);
    assert!(!world.has("k"), "though it has not been removed yet");
    assert_eq!(world.rows(), 2);
    assert_eq!(world.keys(), ["stays"]);
    let delete = wire::DeleteState { key: "k".into(), ..Default::default() };
    let answer = world.ask(Request::Delete(delete));
    assert_eq!(answer, Response::Deleted(wire::DeletedState { existed: false }));
}

#[test]
fn conditions_see_what_has_expired_as_absent() {
    let mut world = World::new();
    let etag = world.set("k", 1, 1_000);
    world.pass(1_000);
    let failed = |etag: &str| {
        let (key, etag) = ("k".to_owned(), etag.to_owned());
        Response::ConditionFailed(wire::ConditionFailed { key, etag })
    };
    assert_eq!(world.ask(Request::Set(set("k", 1, &etag, 0))), failed(""));
    let delete = wire::DeleteState { key: "k".into(), etag, request_id: String::new() };
    let transact =
        wire::TransactState { sets: vec![], deletes: vec![delete], request_id: String::new() };
    assert_eq!(world.ask(Request::Transact(transact)), failed(""));
    let Response::Wrote(new) = world.ask(Request::Set(set("k", 1, "*", 0))) else {
        panic!("an expired key is not in the way")
    };
    assert_eq!(world.ask(Request::Set(set("k", 1, "*", 0))), failed(&new.etag));
}

#[test]
fn the_last_write_decides_how_long_a_key_lives() {
    let mut world = World::new();
    world.set("longer", 1, 1_000);
    world.set("for_ever", 1, 1_000);
    world.set("shorter", 1, 0);
    world.pass(500);
    world.set("longer", 1, 1_000);
    world.set("for_ever", 1, 0);
    world.set("shorter", 1, 10);
    world.pass(600);
    assert_eq!(world.keys(), ["for_ever", "longer"]);
    world.pass(400);
    assert_eq!(world.keys(), ["for_ever"]);
}

#[test]
fn what_was_told_to_be_absent_stays_so_when_clocks_are_set_back() {
    let mut world = World::new();
    world.set("k", 1, 1_000);
    world.set("later", 1, 10_000);
    world.pass(5_000);
    assert!(!world.has("k"), "told by a read, which is all that happens before the kill");
    // An hour back.
    world.time.store(START - 3_600_000, Ordering::Relaxed);
    world.replace();
    assert!(!world.has("k"));
    assert!(world.has("later"));
    // Time goes on from what was told.
    world.pass(4_999);
    assert!(world.has("later"));
    world.pass(1);
    assert!(!world.has("later"));
    // A write tells the time, too.
    world.set("new", 1, 1_000);
    world.time.store(START - 7_200_000, Ordering::Relaxed);
    world.replace();
    world.pass(1_000);
    assert!(!world.has("new"));
}

#[test]
fn what_has_expired_while_no_hub_ran_is_removed_by_the_next_one() {
    let mut world = World::new();
    for n in 0..10 {
        world.set(&format!("k{n}"), 1, 1_000);
    }
    world.pass(2_000);
    world.replace();
    world.tidy();
    assert_eq!(world.rows(), 0);
    assert_eq!(world.store.next_expiry, None);
    assert_eq!(world.store.until_round(), None, "nothing wakes an idle store");
}

#[test]
fn removing_goes_by_rounds_of_keys_and_bytes() {
    let mut world = World::new();
    for n in 0..3_000 {
        world.set(&format!("small{n:04}"), 1, 1_000);
    }
    world.pass(1_000);
    assert_eq!(world.keys(), Vec::<String>::new(), "passed over, by pages of their own");
    world.store.next_round = Instant::now();
    world.store.round_if_due().unwrap();
    assert_eq!(world.rows(), 3_000 - 1_024);
    world.tidy();
    assert_eq!(world.rows(), 0);
    for n in 0..10 {
        world.set(&format!("large{n}"), 3 << 20, 1_000);
    }
    world.pass(1_000);
    world.store.next_round = Instant::now();
    world.store.round_if_due().unwrap();
    assert_eq!(world.rows(), 10 - 3);
}

#[test]
fn a_page_ends_after_many_expired_keys_and_says_where_to_go_on() {
    let mut world = World::new();
    for n in 0..5_000 {
        world.set(&format!("k{n:04}"), 1, 1_000);
    }
    world.set("z", 1, 0);
    world.pass(1_000);
    let list = wire::ListState { prefix: String::new(), page_size: 10, after: String::new() };
    let Response::List(page) = world.ask(Request::List(list)) else { panic!("no list") };
    assert_eq!((page.entries.len(), page.more), (0, true));
    assert_eq!(page.next_after, "k4095");
    assert_eq!(world.keys(), ["z"]);
}

#[test]
fn space_comes_back() {
    let mut world = World::new();
    for n in 0..64 {
        world.set(&format!("k{n}"), 1 << 20, 1_000);
    }
    world.checkpoint();
    let full = std::fs::metadata(world.file()).unwrap().len();
    assert!(full > 64 << 20, "{full} bytes");
    world.pass(1_000);
    world.tidy();
    world.checkpoint();
    let empty = std::fs::metadata(world.file()).unwrap().len();
    assert!(empty < 6 << 20, "{empty} bytes of {full} are kept for nothing");
}

#[test]
fn a_file_that_keeps_its_pages_is_left_alone() {
    let mut world = World::new();
    let place = tempfile::tempdir().unwrap();
    let old = Connection::open(place.path().join("store.db")).unwrap();
    old.execute_batch("CREATE TABLE other (id INTEGER)").unwrap();
    drop(old);
    world.store = open(place.path(), &world.time);
    for n in 0..16 {
        world.set(&format!("k{n}"), 1 << 20, 1_000);
    }
    world.pass(1_000);
    assert!(world.tidy() < 10, "nothing is tried again and again");
    assert_eq!(world.rows(), 0);
}

#[test]
fn what_expires_is_found_by_its_index() {
    let world = World::new();
    for query in [
        "SELECT app, key, length(data) FROM state WHERE expires <= 1 ORDER BY expires LIMIT 5",
        "SELECT expires FROM state WHERE expires IS NOT NULL ORDER BY expires LIMIT 1",
    ] {
        let plan: String = world
            .store
            .connection
            .query_row(&format!("EXPLAIN QUERY PLAN {query}"), [], |row| row.get(3))
            .unwrap();
        assert!(plan.contains("state_expires") && !plan.contains("TEMP"), "{query}: {plan}");
    }
}

#[test]
fn a_store_of_the_first_version_is_taken_over() {
    let mut world = World::new();
    let file = world.dir.path().join("store.db");
    world.set("k", 1, 0);
    world.store = Store::open(&world.dir.path().join("none"), Durability::Os, Box::new(|| 0))
        .expect("another one, so that this one is closed");
    let old = Connection::open(&file).unwrap();
    old.execute_batch(
        "DROP INDEX state_expires; ALTER TABLE state DROP COLUMN expires; DROP TABLE clock; \
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(old);
    world.store = open(world.dir.path(), &world.time);
    assert!(world.has("k"));
    world.set("k2", 1, 1_000);
    world.pass(1_000);
    assert_eq!(world.keys(), ["k"]);
}

#[test]
fn transactions_are_all_or_none_and_remembered() {
    let mut world = World::new();
    let etag = world.set("a", 1, 0);
    let transact = |a: &str, id: &str| {
        let sets = vec![set("b", 1, "*", 0), set("a", 2, a, 0)];
        let deletes = vec![wire::DeleteState { key: "c".into(), ..Default::default() }];
        Request::Transact(wire::TransactState { sets, deletes, request_id: id.into() })
    };
    let failed = world.ask(transact("999", "r1"));
    let expected = wire::ConditionFailed { key: "a".into(), etag: etag.clone() };
    assert_eq!(failed, Response::ConditionFailed(expected));
    assert_eq!(world.keys(), ["a"], "nothing of it was done");
    let done = world.ask(transact(&etag, "r2"));
    let Response::Transacted(transacted) = &done else { panic!("{done:?}") };
    assert_eq!((transacted.etags.len(), &transacted.existed[..]), (2, &[false][..]));
    world.replace();
    assert_eq!(world.ask(transact(&etag, "r2")), done, "the answer of the first");
    assert_eq!(world.ask(transact("999", "r1")), failed, "that of a refusal, too");
    let answer = world.ask(transact(&etag, "r1"));
    assert!(matches!(answer, Response::Refused(_)), "another request: {answer:?}");
    let other = wire::SetState { request_id: "r2".into(), ..set("a", 1, "", 0) };
    assert!(matches!(world.ask(Request::Set(other)), Response::Refused(_)), "of another kind");
}

/// Else whoever uses a request id again by mistake would take a key for written that is not.
#[test]
fn a_request_id_is_for_one_request() {
    let mut world = World::new();
    let by_id =
        |key: &str| Request::Set(wire::SetState { request_id: "r".into(), ..set(key, 1, "", 0) });
    let first = world.ask(by_id("a"));
    assert!(matches!(first, Response::Wrote(_)), "{first:?}");
    let answer = world.ask(by_id("b"));
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
    assert_eq!(world.keys(), ["a"]);
    assert_eq!(world.ask(by_id("a")), first, "the answer of the first");
}

/// Ten thousand answers are remembered, and a transaction may have ten thousand changes.
#[test]
fn what_is_remembered_of_a_long_transaction_is_short() {
    let mut world = World::new();
    let transact = || {
        let sets = (0..5_000).map(|n| set(&format!("k{n}"), 1, "", 0)).collect();
        let delete = |n| wire::DeleteState { key: format!("d{n}"), ..Default::default() };
        let deletes = (0..5_000).map(delete).collect();
        Request::Transact(wire::TransactState { sets, deletes, request_id: "r".into() })
    };
    let done = world.ask(transact());
    let stored: i64 = world
        .store
        .connection
        .query_row("SELECT sum(length(answer)) FROM request", [], |row| row.get(0))
        .unwrap();
    assert!(stored < 6_000, "{stored} bytes");
    assert_eq!(world.ask(transact()), done, "and it is told in full");
}

#[test]
fn transactions_are_bounded_and_name_a_key_once() {
    let mut world = World::new();
    let many = (0..=10_000).map(|n| set(&format!("k{n}"), 1, "", 0)).collect();
    let large = (0..4).map(|n| set(&format!("k{n}"), 4 << 20, "", 0)).collect();
    let twice = vec![set("k", 1, "", 0), set("k", 1, "", 0)];
    for sets in [many, large, twice, vec![set("", 1, "", 0)]] {
        let transact = wire::TransactState { sets, ..Default::default() };
        let answer = world.ask(Request::Transact(transact));
        assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
    }
    let delete = wire::DeleteState { key: "k".into(), ..Default::default() };
    let (sets, deletes) = (vec![set("k", 1, "", 0)], vec![delete]);
    let both = wire::TransactState { sets, deletes, request_id: String::new() };
    assert!(matches!(world.ask(Request::Transact(both)), Response::Refused(_)));
    assert_eq!(world.rows(), 0);
}
