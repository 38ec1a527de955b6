//! What a deadline bounds after its owner was lost: whatever has not started as far as the log says.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, Response};
use kar_core::event::{Offer, Operation};
use kar_core::ids::{Kind, RequestId, SessionId};
use kar_core::invocation::{Mode, Outcome, Target};
use kar_core::limits::Limits;
use kar_core::message::{Control, Controlled};

use script::{Script, done, text};

/// How long what is told here may wait for its start, ms.
const WITHIN_MS: u64 = 500;

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

fn account() -> Kind {
    Kind::actor("Account")
}

fn tell(script: &mut Script, actor: &str, method: &str) -> RequestId {
    let target = Target { kind: account(), actor: Some(actor.into()), affinity: None };
    script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Tell,
        target,
        method: method.into(),
        payload: text("in"),
        deadline: Some(script.now + WITHIN_MS),
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    })
}

fn expired(script: &Script) -> usize {
    let is_one =
        |notice: &&Notice| matches!(notice, Notice::DeadLetter { outcome: Outcome::Expired, .. });
    script.notices.iter().filter(is_one).count()
}

fn host(script: &mut Script, strict: bool) {
    let offer = Offer { kinds: vec![account()], concurrency: 4, strict, ..Offer::default() };
    let session = SessionId(script.id.0);
    script.event(Event::HostUp { session, offer });
}

/// Where no host is left, what waited for its start ends when its time is over; what had begun waits for a host.
#[test]
fn what_waited_behind_a_lost_turn_expires_and_the_turn_does_not() {
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    tell(&mut script, "alice", "second");
    tell(&mut script, "alice", "third");
    assert_eq!(script.turn("first").token.attempt, 1);
    script.replace(&[]);
    script.advance(WITHIN_MS / 2);
    assert_eq!(expired(&script), 0);
    script.advance(WITHIN_MS);
    assert_eq!(expired(&script), 2);
    script.replace(&[account()]);
    script.advance(LONG_MS);
    let again = script.turn("first");
    assert_eq!(again.token.attempt, 2);
    script.finish(&again, done(""));
    assert!(script.turns.is_empty(), "{:?}", script.turns);
    script.advance(LONG_MS);
    assert_eq!(expired(&script), 2);
}

/// In time they run, and count as all that may have run at a lost host.
#[test]
fn what_waited_behind_a_lost_turn_runs_in_time() {
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    tell(&mut script, "alice", "second");
    script.turn("first");
    script.replace(&[account()]);
    script.advance(WITHIN_MS - 1);
    for method in ["first", "second"] {
        let turn = script.turn(method);
        assert_eq!(turn.token.attempt, 2);
        script.finish(&turn, done(""));
    }
    script.assert_idle();
    assert_eq!(expired(&script), 0);
}

/// Nor does a hand-over make a start of it.
#[test]
fn what_has_only_waited_expires_after_a_lost_owner_and_a_hand_over() {
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    tell(&mut script, "alice", "second");
    script.turn("first");
    script.replace(&[]);
    script.advance(WITHIN_MS / 2);
    script.event(Event::Drain);
    assert!(script.drained);
    script.replace(&[]);
    script.advance(WITHIN_MS);
    assert_eq!(expired(&script), 1, "the second one");
    script.replace(&[account()]);
    script.advance(LONG_MS);
    let again = script.turn("first");
    assert_eq!(again.token.attempt, 2);
    script.finish(&again, done(""));
    script.assert_idle();
}

/// What was lost with its host may run on until the grace is over: nobody is told before that it has ended (P3).
#[test]
fn nothing_is_told_to_have_ended_while_code_of_it_may_run() {
    let grace = Limits::default().grace_ms;
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    tell(&mut script, "alice", "second");
    script.invoke(None, Mode::Tell, "alice", "third");
    let turn = script.turn("first");
    let mut third = turn.token.invocation.clone();
    script.advance(WITHIN_MS - 1);
    script.replace(&[]);
    let views = script.node.partitions();
    let waiting = views.iter().flat_map(|view| &view.invocations).find(|i| &*i.method == "third");
    third.uuid = waiting.expect("it waits").uuid;
    let cancel = Operation::Control { home: third.home, control: Control::Cancel(third.uuid) };
    let cancelled = script.request(cancel);
    let answer = script.answers.get(&cancelled);
    let asked = Ok(Response::Controlled(Controlled::CancelRequested));
    assert_eq!(answer, Some(&asked), "it may have begun at the lost host, as far as anybody knows");
    script.advance(grace - 2);
    let unfinished = |script: &Script| script.node.held().unfinished;
    assert_eq!((expired(&script), unfinished(&script)), (0, 3));
    script.advance(3);
    assert_eq!((expired(&script), unfinished(&script)), (1, 1), "the first one has begun");
}

/// A second attempt that has been logged is a start, whatever becomes of it.
#[test]
fn what_has_been_tried_twice_never_expires() {
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    script.turn("first");
    script.replace(&[account()]);
    script.advance(WITHIN_MS - 1);
    assert_eq!(script.turn("first").token.attempt, 2);
    script.replace(&[]);
    script.advance(LONG_MS);
    script.replace(&[account()]);
    script.advance(LONG_MS);
    assert_eq!(script.turn("first").token.attempt, 3);
    assert_eq!(expired(&script), 0);
}

/// With speculation a start may be lost with its host. Nothing of it came out, so it counts as none.
#[test]
fn a_start_that_was_lost_with_its_host_counts_as_none() {
    let mut script = Script::new(&[account()]);
    tell(&mut script, "alice", "first");
    let first = script.turn("first");
    tell(&mut script, "alice", "second");
    script.finish(&first, done(""));
    assert_eq!(script.turn("second").token.attempt, 1);
    // The record with the end of the first one and the start of the second one does not reach the log.
    let log = script.logs.values_mut().max_by_key(|log| log.len()).expect("there are logs");
    log.pop();
    script.replace(&[]);
    script.advance(LONG_MS);
    assert_eq!(expired(&script), 1, "the second one, whose start is not in the log");
}

/// Where only what is committed runs, a start is committed first: what expires has never run.
#[test]
fn without_speculation_a_start_is_logged_before_the_turn() {
    let mut script = Script::new(&[]);
    host(&mut script, true);
    // Its kind gets its partitions.
    tell(&mut script, "alice", "warm");
    let warm = script.turn("warm");
    script.finish(&warm, done(""));
    script.hold = true;
    tell(&mut script, "alice", "first");
    script.advance(1);
    assert!(script.turns.is_empty(), "its start is not committed");
    script.let_go();
    assert_eq!(script.turn("first").token.attempt, 1);
    script.replace(&[]);
    script.advance(LONG_MS);
    assert_eq!(expired(&script), 0, "it has started");
    host(&mut script, true);
    script.advance(LONG_MS);
    assert_eq!(script.turn("first").token.attempt, 2);
}

/// The same for one that was logged while it waited for its actor.
#[test]
fn without_speculation_the_start_of_a_waiting_call_is_logged_before_its_turn() {
    let mut script = Script::new(&[]);
    host(&mut script, true);
    tell(&mut script, "alice", "first");
    let first = script.turn("first");
    tell(&mut script, "alice", "second");
    script.hold = true;
    script.finish(&first, done(""));
    assert!(script.turns.is_empty());
    // The end of the first turn is committed; the start of the second one is not.
    script.hold = false;
    let end = script.held.pop_front().expect("a record is under way");
    script.hold = true;
    script.event(end);
    assert!(script.turns.is_empty(), "its start is not committed");
    script.let_go();
    assert_eq!(script.turn("second").token.attempt, 1);
}
