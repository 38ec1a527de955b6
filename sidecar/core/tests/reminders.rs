//! Reminders: each due time of a live one leads to one accepted invocation, whoever fails (section 6, item 10).
//!
//! Longer than most: catch-up, cancelling and hosts that are missing meet in each other's tests, and share one clock.

mod script;

use std::sync::Arc;

use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::{Offer, Operation, ReminderAsk, ReminderSpec, TailCall, TurnResult};
use kar_core::ids::{Kind, RequestId, SessionId, Uuid};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Target};
use kar_core::limits::Limits;
use kar_core::record::{Op, Record};
use kar_core::reminder::CatchUp;
use kar_core::schedule::Schedule;

use script::{Script, done, text};

const LATENESS_MS: u64 = 1_000;

fn kinds() -> [Kind; 2] {
    [Kind::actor("Account"), Kind::service("ledger")]
}

fn spec(id: &str, due: Option<u64>, schedule: Schedule, catch_up: CatchUp) -> ReminderSpec {
    ReminderSpec {
        id: id.into(),
        method: "ring".into(),
        payload: text(id),
        due,
        schedule,
        catch_up,
    }
}

fn remind(script: &mut Script, turn: Option<&Turn>, actor: &str, ask: ReminderAsk) -> RequestId {
    script.request(Operation::Remind {
        turn: turn.map(|turn| turn.token.clone()),
        kind: Kind::actor("Account"),
        actor: actor.into(),
        ask,
    })
}

fn schedule(script: &mut Script, turn: Option<&Turn>, actor: &str, spec: ReminderSpec) -> u64 {
    let request = remind(script, turn, actor, ReminderAsk::Schedule(spec));
    match script.answers.remove(&request) {
        Some(Ok(Response::Scheduled { due })) => due,
        other => panic!("{other:?}"),
    }
}

fn once(script: &mut Script, actor: &str, id: &str, due: u64) {
    let spec = spec(id, Some(due), Schedule::Once, CatchUp::Once);
    assert_eq!(schedule(script, None, actor, spec), due);
}

fn every(script: &mut Script, actor: &str, id: &str, period: u64, catch_up: CatchUp) -> u64 {
    let spec = spec(id, None, Schedule::Every(period), catch_up);
    schedule(script, None, actor, spec)
}

fn cancel(script: &mut Script, turn: Option<&Turn>, actor: &str, id: &str) -> usize {
    let request = remind(script, turn, actor, ReminderAsk::Cancel(id.into()));
    match script.answers.remove(&request) {
        Some(Ok(Response::Cancelled { count })) => count,
        other => panic!("{other:?}"),
    }
}

fn list(script: &mut Script, turn: Option<&Turn>, actor: &str) -> Vec<(String, u64)> {
    let turn = turn.map(|turn| turn.token.clone());
    let (kind, actor) = (Kind::actor("Account"), Arc::from(actor));
    let request = script.request(Operation::Reminders { turn, kind, actor });
    match script.answers.remove(&request) {
        Some(Ok(Response::Reminders(all))) => {
            all.iter().map(|reminder| (reminder.id.to_string(), reminder.due)).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Runs the turns that are there; the arguments of those that rang.
fn ring(script: &mut Script) -> Vec<String> {
    let mut rung = Vec::new();
    while let Some(turn) = script.turns.pop_front() {
        if &*turn.method == "ring" {
            assert_eq!((turn.mode, turn.token.attempt), (Mode::Tell, 1));
            rung.push(String::from_utf8_lossy(&turn.payload.data).into_owned());
        }
        script.finish(&turn, done("rung"));
    }
    rung
}

/// The log's firings of one reminder: due time, whether it made an invocation.
fn firings(script: &Script, wanted: &str) -> Vec<(u64, bool)> {
    let ops = script.logs.values().flatten().filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    let fired = ops.flatten().filter_map(|op| match op {
        Op::Fire { id, due, uuid, .. } if &**id == wanted => Some((*due, uuid.is_some())),
        _ => None,
    });
    fired.collect()
}

fn no_more(script: &mut Script) {
    script.advance(60_000);
    assert_eq!(ring(script), Vec::<String>::new());
    script.assert_idle();
}

#[test]
fn a_one_shot_fires_once_and_is_gone() {
    let mut script = Script::new(&kinds());
    once(&mut script, "alice", "tea", 5_000);
    assert_eq!(list(&mut script, None, "alice"), [("tea".to_owned(), 5_000)]);
    script.advance(3_999);
    assert_eq!(ring(&mut script), Vec::<String>::new());
    script.advance(1);
    assert_eq!(ring(&mut script), ["tea"]);
    assert!(list(&mut script, None, "alice").is_empty());
    no_more(&mut script);
}

#[test]
fn a_period_goes_on_across_owners() {
    let mut script = Script::new(&kinds());
    let first = every(&mut script, "alice", "beat", 10_000, CatchUp::Once);
    script.advance(25_000);
    script.replace(&kinds());
    script.advance(20_000);
    let expected: Vec<_> = (0..4).map(|n| (first + n * 10_000, true)).collect();
    assert_eq!(firings(&script, "beat"), expected);
    assert_eq!(cancel(&mut script, None, "alice", "beat"), 1);
    assert_eq!(cancel(&mut script, None, "alice", "beat"), 0);
    script.turns.clear();
    let mut script = script;
    script.replace(&kinds());
    script.advance(60_000);
    ring_all(&mut script);
    assert_eq!(firings(&script, "beat"), expected);
    script.assert_idle();
}

/// Ends whatever runs, retries included.
fn ring_all(script: &mut Script) {
    for _ in 0..20 {
        script.advance(1_000);
        while let Some(turn) = script.turns.pop_front() {
            script.finish(&turn, done("rung"));
        }
    }
}

#[test]
fn replacing_and_cancelling_drop_firings_that_have_not_started() {
    let mut script = Script::new(&kinds());
    let busy = script.invoke(None, Mode::Call, "alice", "busy");
    let turn = script.turn("busy");
    every(&mut script, "alice", "beat", 1_000, CatchUp::Each);
    let soon = script.now + 500;
    once(&mut script, "alice", "tea", soon);
    script.advance(3_500);
    assert_eq!(firings(&script, "beat").len(), 3);
    assert!(script.turns.is_empty(), "the actor is busy");
    // Replaced: what waits of the old one never starts; another one's does.
    let later = script.now + 5_000;
    let replacement = spec("beat", Some(later), Schedule::Once, CatchUp::Once);
    schedule(&mut script, None, "alice", replacement);
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(busy), done("ok"));
    assert_eq!(ring(&mut script), ["tea"]);
    script.advance(5_000);
    assert_eq!(ring(&mut script), ["beat"]);
    no_more(&mut script);
}

#[test]
fn what_a_firing_goes_on_with_is_not_dropped() {
    let mut script = Script::new(&kinds());
    let busy = script.invoke(None, Mode::Call, "alice", "busy");
    let turn = script.turn("busy");
    once(&mut script, "alice", "tea", 5_000);
    script.advance(5_000);
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(busy), done("ok"));
    let firing = script.turn("ring");
    // Its next step waits behind another call: it has started all the same.
    script.invoke(None, Mode::Call, "alice", "busy");
    tail_call(&mut script, &firing, "alice");
    let turn = script.turn("busy");
    assert_eq!(cancel(&mut script, None, "alice", "tea"), 0);
    script.finish(&turn, done("ok"));
    let step = script.turn("step");
    script.finish(&step, done("ok"));
    no_more(&mut script);
}

/// Ends a turn with a tail call to an actor, whose lock is not kept.
fn tail_call(script: &mut Script, turn: &Turn, actor: &str) {
    let kind = Kind::actor("Account");
    let call = TailCall {
        target: Target { kind, actor: Some(actor.into()), affinity: None },
        method: "step".into(),
        payload: text("on"),
        keeps_lock: false,
    };
    let (token, result) = (turn.token.clone(), TurnResult::TailCall(call));
    script.event(Event::TurnResult { token, result });
}

#[test]
fn an_actor_whose_work_goes_on_elsewhere_takes_firings_again() {
    let limits = Limits { queue_per_actor_max: 2, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    let near = neighbour(&script, "alice");
    script.invoke(None, Mode::Call, "alice", "busy");
    let busy = script.turn("busy");
    for n in 0..3 {
        once(&mut script, "alice", &format!("a{n}"), 5_000 + n);
    }
    script.advance(10_000);
    script.finish(&busy, done("ok"));
    // What waits leaves by tail calls to an actor that is busy too: nothing of alice ends.
    script.invoke(None, Mode::Call, &near, "busy");
    let mut rung = 0;
    for _ in 0..20 {
        while let Some(at) = script.turns.iter().position(|turn| &*turn.method == "ring") {
            let turn = script.turns.remove(at).expect("it is there");
            tail_call(&mut script, &turn, &near);
            rung += 1;
        }
        script.advance(10);
    }
    assert_eq!(rung, 3);
}

/// Another actor of the same partition.
fn neighbour(script: &Script, actor: &str) -> String {
    let home = |actor: &str| {
        let (kind, actor) = (Kind::actor("Account"), Some(actor.into()));
        let target = Target { kind, actor, affinity: None };
        kar_core::assign::partition_index(&target, Uuid(0), script.members.kinds[&target.kind])
    };
    (0..).map(|n| format!("b{n}")).find(|b| home(b) == home(actor)).expect("there are many")
}

#[test]
fn a_firing_that_waits_for_a_host_is_dropped_too() {
    let mut script = Script::new(&kinds());
    once(&mut script, "alice", "tea", 5_000);
    script.replace(&[]);
    script.advance(10_000);
    assert_eq!(firings(&script, "tea"), [(5_000, true)], "a caretaker fires");
    let all = remind(&mut script, None, "alice", ReminderAsk::CancelAll);
    assert_eq!(script.answers.remove(&all), Some(Ok(Response::Cancelled { count: 0 })));
    script.replace(&kinds());
    no_more(&mut script);
}

#[test]
fn a_turns_reminders_are_part_of_its_segment() {
    let mut script = Script::new(&kinds());
    once(&mut script, "alice", "old", 50_000);
    let call = script.invoke(None, Mode::Call, "alice", "plan");
    let turn = script.turn("plan");
    let tea = spec("tea", Some(20_000), Schedule::Once, CatchUp::Once);
    schedule(&mut script, Some(&turn), "alice", tea.clone());
    assert_eq!(cancel(&mut script, Some(&turn), "alice", "old"), 1);
    assert_eq!(cancel(&mut script, Some(&turn), "alice", "old"), 0);
    assert_eq!(list(&mut script, Some(&turn), "alice"), [("tea".to_owned(), 20_000)]);
    assert_eq!(list(&mut script, None, "alice"), [("old".to_owned(), 50_000)]);
    // It fails: nothing of it was.
    script.finish(&turn, Outcome::Failed(ApplicationError::default()));
    assert_eq!(script.outcome(call), Outcome::Failed(ApplicationError::default()));
    assert_eq!(list(&mut script, None, "alice"), [("old".to_owned(), 50_000)]);
    // Flushed, it stays though the turn fails.
    script.invoke(None, Mode::Call, "alice", "plan");
    let turn = script.turn("plan");
    schedule(&mut script, Some(&turn), "alice", tea);
    let flush = script.request(Operation::Flush { turn: turn.token.clone() });
    assert_eq!(script.answers.remove(&flush), Some(Ok(Response::Ok)));
    let late = spec("late", Some(30_000), Schedule::Once, CatchUp::Once);
    schedule(&mut script, Some(&turn), "alice", late);
    script.finish(&turn, Outcome::Failed(ApplicationError::default()));
    let expected = [("old".to_owned(), 50_000), ("tea".to_owned(), 20_000)];
    assert_eq!(list(&mut script, None, "alice"), expected);
    script.advance(50_000);
    assert_eq!(ring(&mut script), ["tea", "old"]);
}

#[test]
fn a_turn_has_its_own_actors_reminders_only() {
    let mut script = Script::new(&kinds());
    script.invoke(None, Mode::Call, "alice", "plan");
    let turn = script.turn("plan");
    let ask = ReminderAsk::Cancel("tea".into());
    let request = remind(&mut script, Some(&turn), "bob", ask);
    let answer = script.answers.remove(&request);
    assert!(matches!(answer, Some(Err(RequestError::Invalid(_)))), "{answer:?}");
    script.finish(&turn, done("ok"));
    let request = script.request(Operation::Remind {
        turn: None,
        kind: Kind::service("ledger"),
        actor: "alice".into(),
        ask: ReminderAsk::CancelAll,
    });
    let answer = script.answers.remove(&request);
    assert!(matches!(answer, Some(Err(RequestError::Invalid(_)))), "{answer:?}");
}

#[test]
fn missed_due_times_are_caught_up_by_policy() {
    let mut script = Script::new(&kinds());
    let mut first = 0;
    for (id, catch_up) in [("o", CatchUp::Once), ("e", CatchUp::Each), ("s", CatchUp::Skip)] {
        first = every(&mut script, id, id, 10_000, catch_up);
    }
    let late = spec("late", Some(first), Schedule::Once, CatchUp::Skip);
    schedule(&mut script, None, "late", late);
    // Nobody is there for the first three due times, and long enough after the third.
    script.now += 10_000 + 20_000 + LATENESS_MS + 500;
    script.replace(&kinds());
    script.notices.clear();
    script.advance(8_500);
    assert_eq!(firings(&script, "o"), [(first, true), (first + 30_000, true)]);
    let each: Vec<_> = (0..4).map(|n| (first + n * 10_000, true)).collect();
    assert_eq!(firings(&script, "e"), each);
    assert_eq!(firings(&script, "s"), [(first, false), (first + 30_000, true)]);
    assert_eq!(firings(&script, "late"), [(first, false)]);
    let mut rung = ring(&mut script);
    rung.sort();
    assert_eq!(rung, ["e", "e", "e", "e", "o", "o", "s"]);
}

#[test]
fn a_little_late_is_not_missed() {
    let mut script = Script::new(&kinds());
    let first = every(&mut script, "alice", "beat", 300, CatchUp::Skip);
    script.now += 300 + 900;
    script.advance(0);
    let expected: Vec<_> = (0..4).map(|n| (first + n * 300, true)).collect();
    assert_eq!(firings(&script, "beat"), expected);
}

#[test]
fn the_partitions_clock_never_runs_back() {
    let mut script = Script::new(&kinds());
    every(&mut script, "alice", "beat", 10_000, CatchUp::Each);
    script.advance(35_000);
    assert_eq!(ring(&mut script).len(), 3);
    // The next owner's clock is a minute behind.
    let before = script.now;
    script.now -= 34_000;
    script.replace(&kinds());
    script.advance(30_000);
    assert_eq!(firings(&script, "beat").len(), 3, "no due time comes again");
    script.advance(before - script.now + 6_000);
    assert_eq!(firings(&script, "beat").len(), 4);
}

#[test]
fn a_firing_starts_when_it_is_committed() {
    let mut script = Script::new(&kinds());
    once(&mut script, "alice", "tea", 5_000);
    script.hold = true;
    script.advance(5_000);
    assert_eq!(firings(&script, "tea").len(), 1);
    assert!(script.turns.is_empty(), "its record is not read back");
    script.let_go();
    assert_eq!(ring(&mut script), ["tea"]);
}

#[test]
fn a_change_asked_for_twice_happens_once() {
    let mut script = Script::new(&kinds());
    script.hold = true;
    let tea = spec("tea", Some(1_000), Schedule::Once, CatchUp::Once);
    let request = remind(&mut script, None, "alice", ReminderAsk::Schedule(tea));
    assert!(!script.answers.contains_key(&request), "it is not committed");
    // The channel is opened again and again meanwhile: the request is made again.
    script.advance(5_000);
    script.let_go();
    assert!(script.answers.contains_key(&request));
    script.advance(5_000);
    assert_eq!(ring(&mut script), ["tea"]);
    assert_eq!(firings(&script, "tea").len(), 1);
    no_more(&mut script);
}

#[test]
fn bounds_are_refusals_by_name() {
    let limits = Limits {
        reminders_per_actor_max: 2,
        reminders_per_partition_max: 3,
        reminders_bytes_per_partition_max: 1_000,
        ..Limits::default()
    };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    for id in ["a", "b"] {
        once(&mut script, "alice", id, 50_000);
    }
    let third = spec("c", Some(50_000), Schedule::Once, CatchUp::Once);
    let request = remind(&mut script, None, "alice", ReminderAsk::Schedule(third.clone()));
    let answer = script.answers.remove(&request);
    let refused = kar_core::invocation::Refusal::ActorRemindersFull;
    let expected = Response::Outcome { invocation: None, outcome: Outcome::Refused(refused) };
    assert_eq!(answer, Some(Ok(expected)));
    // Replacing needs no room, and in a turn the same holds.
    once(&mut script, "alice", "b", 40_000);
    script.invoke(None, Mode::Call, "alice", "plan");
    let turn = script.turn("plan");
    let request = remind(&mut script, Some(&turn), "alice", ReminderAsk::Schedule(third.clone()));
    match script.answers.remove(&request) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, "reminders_per_actor_max"),
        other => panic!("{other:?}"),
    }
    cancel(&mut script, Some(&turn), "alice", "a");
    // The turn may fail yet, and leave no room for others.
    let request = remind(&mut script, None, "alice", ReminderAsk::Schedule(third.clone()));
    let answer = script.answers.remove(&request);
    let expected = Response::Outcome { invocation: None, outcome: Outcome::Refused(refused) };
    assert_eq!(answer, Some(Ok(expected.clone())));
    schedule(&mut script, Some(&turn), "alice", third);
    let fourth = spec("d", Some(50_000), Schedule::Once, CatchUp::Once);
    let request = remind(&mut script, None, "alice", ReminderAsk::Schedule(fourth));
    assert_eq!(script.answers.remove(&request), Some(Ok(expected)));
    script.finish(&turn, done("ok"));
    assert_eq!(list(&mut script, None, "alice").len(), 2);
}

/// The reminders of a partition are bounded, in number and bytes, whichever actor has them.
#[test]
fn a_partitions_reminders_are_bounded() {
    use kar_core::invocation::Refusal;
    for (count, bytes, refusal) in
        [(3, 1_000_000, Refusal::RemindersFull), (1_000, 200, Refusal::RemindersBytesFull)]
    {
        let limits = Limits {
            reminders_per_partition_max: count,
            reminders_bytes_per_partition_max: bytes,
            ..Limits::default()
        };
        let mut script = Script::with(&[Kind::actor("Account")], limits);
        let mut refused = 0;
        for n in 0..20 {
            let tea = spec("tea", Some(50_000), Schedule::Once, CatchUp::Once);
            let request = remind(&mut script, None, &format!("x{n}"), ReminderAsk::Schedule(tea));
            match script.answers.remove(&request) {
                Some(Ok(Response::Scheduled { .. })) => {}
                Some(Ok(Response::Outcome { outcome: Outcome::Refused(why), .. })) => {
                    assert_eq!(why, refusal);
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 0, "{refusal:?}");
        let held = script.node.held();
        assert!(held.reminders <= 2 * count && held.reminders_bytes <= 2 * bytes, "{held:?}");
        script.advance(50_000);
        assert_eq!(ring(&mut script).len(), 20 - refused);
        let held = script.node.held();
        assert_eq!((held.reminders, held.reminders_bytes), (0, 0));
    }
}

#[test]
fn due_reminders_wait_for_room_and_are_not_lost() {
    let limits = Limits { unfinished_per_partition_max: 3, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    for n in 0..20 {
        once(&mut script, "alice", &format!("r{n:02}"), 5_000);
    }
    script.advance(10_000);
    assert_eq!(script.turns.len(), 1);
    let waits = |n: &Notice| matches!(n, Notice::RemindersWait { actor: None, .. });
    assert_eq!(script.notices.iter().filter(|n| waits(n)).count(), 1);
    let mut rung = Vec::new();
    for _ in 0..40 {
        rung.extend(ring(&mut script));
        script.advance(10);
    }
    let expected: Vec<_> = (0..20).map(|n| format!("r{n:02}")).collect();
    assert_eq!(rung, expected);
    no_more(&mut script);
}

/// `reminder_firings_per_record_max`: many that are due at once go record by record, and a call that comes meanwhile
/// goes between them.
#[test]
fn what_is_due_at_once_fires_a_few_per_record_and_calls_go_between() {
    let limits = Limits { reminder_firings_per_record_max: 2, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    let expected: Vec<_> = (0..10).map(|n| format!("r{n}")).collect();
    for id in &expected {
        once(&mut script, &format!("of {id}"), id, 5_000);
    }
    script.now = 6_000;
    script.event(Event::Tick);
    assert!(script.turns.len() < 5, "{} have fired in one step", script.turns.len());
    assert_eq!(script.node.poll_timeout(), Some(6_000), "the next ones follow without a pause");
    let call = script.invoke(None, Mode::Call, "zoe", "call");
    let mut began = Vec::new();
    for _ in 0..10 {
        while let Some(turn) = script.turns.pop_front() {
            let rung = String::from_utf8_lossy(&turn.payload.data).into_owned();
            began.push(if &*turn.method == "call" { "call".into() } else { rung });
            script.finish(&turn, done("ok"));
        }
        script.event(Event::Tick);
    }
    assert_eq!(script.outcome(call), done("ok"));
    let between = began.iter().position(|one| one == "call").expect("it has begun");
    assert!(between < 8, "it waited for all of them: {began:?}");
    began.remove(between);
    began.sort();
    assert_eq!(began, expected, "each once");
    let fired = |record: &Arc<Record>| match &**record {
        Record::Batch { ops, .. } => ops.iter().filter(|op| matches!(op, Op::Fire { .. })).count(),
        _ => 0,
    };
    let fired: Vec<_> = script.logs.values().flatten().map(fired).collect();
    assert_eq!((fired.iter().max(), fired.iter().sum()), (Some(&2), 10));
    no_more(&mut script);
}

#[test]
fn one_busy_actor_holds_up_nobody_else() {
    let limits = Limits { queue_per_actor_max: 2, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    script.invoke(None, Mode::Call, "alice", "busy");
    let busy = script.turn("busy");
    for n in 0..5 {
        once(&mut script, "alice", &format!("a{n}"), 5_000 + n);
    }
    once(&mut script, "bob", "b", 6_000);
    script.advance(10_000);
    assert_eq!(ring(&mut script), ["b"]);
    script.finish(&busy, done("ok"));
    let mut rung = Vec::new();
    for _ in 0..20 {
        rung.extend(ring(&mut script));
        script.advance(10);
    }
    assert_eq!(rung, ["a0", "a1", "a2", "a3", "a4"]);
    no_more(&mut script);
}

#[test]
fn a_shared_turn_sees_reminders_and_changes_none() {
    let mut script = Script::new(&kinds());
    once(&mut script, "alice", "tea", 50_000);
    let session = script.next_session();
    let shared = [(Kind::actor("Account"), [Arc::from("look")].into())].into();
    let offer = Offer { kinds: kinds().to_vec(), concurrency: 4, shared, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
    let call = script.invoke(None, Mode::Call, "alice", "look");
    let turn = script.turn("look");
    let tea = [("tea".to_owned(), 50_000)];
    assert_eq!(list(&mut script, Some(&turn), "alice"), tea);
    let request = remind(&mut script, Some(&turn), "alice", ReminderAsk::CancelAll);
    assert_eq!(script.answers.remove(&request), Some(Err(RequestError::SharedTurn)));
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    assert_eq!(list(&mut script, None, "alice"), tea);
}

/// A keyed call that is answered from what is kept flushes like one that is made (P5).
#[test]
fn reminders_before_a_kept_result_are_durable_with_it() {
    let mut script = Script::new(&kinds());
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    keyed_call(&mut script, &turn);
    let child = script.turn("n");
    script.finish(&child, done("kept"));
    let again = next_attempt(&mut script, "m");
    let tea = spec("tea", Some(script.now + 50_000), Schedule::Once, CatchUp::Once);
    schedule(&mut script, Some(&again), "alice", tea);
    let call = keyed_call(&mut script, &again);
    assert_eq!(script.outcome(call), done("kept"));
    // The turn is lost: what came before a call that was answered stays.
    let last = next_attempt(&mut script, "m");
    assert_eq!(list(&mut script, None, "alice").len(), 1);
    script.finish(&last, done(""));
}

fn keyed_call(script: &mut Script, turn: &Turn) -> RequestId {
    script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target: Target { kind: Kind::actor("Account"), actor: Some("bob".into()), affinity: None },
        method: "n".into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        step_key: Some("key".into()),
        retry: None,
        key: None,
    })
}

/// The host's process is gone, and another one comes.
fn next_attempt(script: &mut Script, method: &str) -> Turn {
    let session = script.next_session();
    script.event(Event::HostDown { session: SessionId(session.0 - 1), dead: true });
    let offer = Offer { kinds: kinds().to_vec(), concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
    script.turn(method)
}

fn host_up(script: &mut Script) {
    let session = script.next_session();
    let offer = Offer { kinds: kinds().to_vec(), concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
}

fn unfinished(script: &Script) -> usize {
    script.node.partitions().iter().map(|view| view.invocations.len()).sum()
}

/// Due times of a kind without hosts do not fill its partition: one firing of each reminder waits, and what came after
/// it is made up for by the reminder's policy when there is a host, and told (P9).
#[test]
fn without_a_host_one_firing_of_each_reminder_waits() {
    for catch_up in [CatchUp::Once, CatchUp::Each, CatchUp::Skip] {
        let mut script = Script::new(&kinds());
        let first = every(&mut script, "alice", "tea", 2_000, catch_up);
        every(&mut script, "alice", "far", 1_000_000, catch_up);
        script.replace(&[]);
        script.advance(40_000);
        assert_eq!(firings(&script, "tea"), [(first, true)], "{catch_up:?}");
        assert_eq!(unfinished(&script), 1);
        let missed = (script.now - first) / 2_000;
        script.notices.clear();
        host_up(&mut script);
        script.advance(1);
        let rung = ring(&mut script);
        let told = script.notices.iter().filter(|n| matches!(n, Notice::RemindersMissed { .. }));
        let told = told.count();
        match catch_up {
            // The one that waited, and all that were missed; the last one may have been in time.
            CatchUp::Each => assert_eq!((rung.len() as u64, told), (1 + missed, 0)),
            CatchUp::Once => assert!((2..=3).contains(&rung.len()) && told == 1, "{rung:?}"),
            CatchUp::Skip => assert!((1..=2).contains(&rung.len()) && told == 1, "{rung:?}"),
        }
        let before = firings(&script, "tea").len();
        script.advance(10_000);
        ring(&mut script);
        assert_eq!(firings(&script, "tea").len() - before, 5, "each in its time again");
    }
}

/// What waits because its last firing does goes on when that is over, whoever ends it.
#[test]
fn a_reminder_that_waits_for_a_host_can_be_changed() {
    let mut script = Script::new(&kinds());
    every(&mut script, "alice", "tea", 2_000, CatchUp::Once);
    script.replace(&[]);
    script.advance(20_000);
    assert_eq!(unfinished(&script), 1);
    // It is replaced: the firing that waits goes with it, and the new one fires in its time.
    let due = script.now + 500;
    once(&mut script, "alice", "tea", due);
    assert_eq!(unfinished(&script), 0);
    script.advance(1_000);
    assert_eq!(unfinished(&script), 1);
    every(&mut script, "bob", "tea", 2_000, CatchUp::Skip);
    script.advance(10_000);
    assert_eq!((unfinished(&script), cancel(&mut script, None, "bob", "tea")), (2, 1));
    assert_eq!(unfinished(&script), 1, "the firing that waited is dropped");
    // Somebody ends the firing that waits.
    every(&mut script, "carol", "tea", 2_000, CatchUp::Once);
    script.advance(10_000);
    let fired = firings(&script, "tea").len();
    let views = script.node.partitions();
    let of_carol = views.iter().flat_map(|view| view.invocations.iter().map(move |i| (view, i)));
    let mut of_carol = of_carol.filter(|(_, i)| i.actor.as_deref() == Some("carol"));
    let (home, uuid) = of_carol.next().map(|(view, i)| (view.id.clone(), i.uuid)).expect("one");
    let control = kar_core::message::Control::Cancel(uuid);
    script.request(Operation::Control { home, control });
    script.advance(1);
    assert!(firings(&script, "tea").len() > fired, "the next due time is as good as the first");
    assert_eq!(unfinished(&script), 2);
    host_up(&mut script);
    script.advance(1);
    ring(&mut script);
    cancel(&mut script, None, "carol", "tea");
    script.advance(1);
    ring(&mut script);
    no_more(&mut script);
}

/// What a turn finds of its actor's reminders is what there is, whoever changes them meanwhile.
#[test]
fn a_turn_sees_what_others_change_of_reminders() {
    let limits = Limits { reminders_per_actor_max: 3, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    let far = script.now + 1_000_000;
    let set = |id: &str| spec(id, Some(far), Schedule::Once, CatchUp::Once);
    schedule(&mut script, Some(&turn), "alice", set("own"));
    let near = script.now + 1_000;
    once(&mut script, "alice", "outside", near);
    let names = |script: &mut Script| {
        let listed = list(script, Some(&turn), "alice").into_iter();
        listed.map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut script), ["outside", "own"]);
    schedule(&mut script, Some(&turn), "alice", set("third"));
    let full = |script: &mut Script, turn: Option<&Turn>, id: &str| {
        let request = remind(script, turn, "alice", ReminderAsk::Schedule(set(id)));
        !matches!(script.answers.remove(&request), Some(Ok(Response::Scheduled { .. })))
    };
    assert!(full(&mut script, Some(&turn), "fourth"));
    assert!(full(&mut script, None, "fourth"), "with what the turn has buffered there is no room");
    assert!(!full(&mut script, Some(&turn), "third"), "it replaces one");
    // One fires, and is no more.
    script.advance(1_000);
    assert_eq!(names(&mut script), ["own", "third"]);
    assert!(!full(&mut script, Some(&turn), "fourth"));
    cancel(&mut script, Some(&turn), "alice", "own");
    assert_eq!(names(&mut script), ["fourth", "third"]);
    script.finish(&turn, done("ok"));
    assert_eq!(ring(&mut script), ["outside"]);
    assert_eq!(list(&mut script, None, "alice").len(), 2);
}
