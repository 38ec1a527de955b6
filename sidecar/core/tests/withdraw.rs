//! Calls of an attempt that is over are withdrawn if they have not started (rule T2): the retry does not wait for them.

mod script;

use kar_core::Event;
use kar_core::effect::Turn;
use kar_core::event::{Offer, Operation, TurnResult};
use kar_core::ids::{InvocationId, Kind, NodeId, PartitionId, RequestId, Sender, SessionId, Uuid};
use kar_core::invocation::{Invocation, Mode, Outcome, Owed, Target};
use kar_core::message::{Control, Message};
use kar_core::record::{End, Op, Record};

use script::{Script, done, text};

/// Longer than every grace and pause, shorter than anything is given up.
const LONG_MS: u64 = 5_000;

fn account() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn lose_host(script: &mut Script) {
    let session = script.next_session();
    let old = SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    let offer = Offer { kinds: account().to_vec(), concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
}

/// A call with a step key.
fn keyed(script: &mut Script, turn: &Turn, actor: &str, method: &str) -> RequestId {
    let kind = Kind::actor("Account");
    script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target: Target { kind, actor: Some(actor.into()), affinity: None },
        method: method.into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        step_key: Some("step".into()),
        retry: None,
        key: None,
    })
}

/// The turns that were dispatched since the last look, by method.
fn turns(script: &mut Script) -> Vec<Turn> {
    let mut turns: Vec<_> = script.turns.drain(..).collect();
    turns.sort_by_key(|turn| turn.method.clone());
    turns
}

fn methods(turns: &[Turn]) -> Vec<(&str, u32)> {
    turns.iter().map(|turn| (&*turn.method, turn.token.attempt)).collect()
}

fn withdrawn(script: &Script) -> usize {
    let records = script.logs.values().flatten();
    let ops = records.filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    let is_one =
        |op: &&Op| matches!(op, Op::Complete { end: End::Outcome(Outcome::Withdrawn), .. });
    ops.flatten().filter(is_one).count()
}

/// A call of `alice` that has called `bob`, who is busy: the call, and both turns.
fn parent(script: &mut Script, is_keyed: bool) -> (RequestId, Turn, Turn) {
    script.invoke(None, Mode::Tell, "bob", "long");
    let long = script.turn("long");
    let request = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    if is_keyed {
        keyed(script, &turn, "bob", "child");
    } else {
        script.invoke(Some(&turn), Mode::Call, "bob", "child");
    }
    assert!(script.turns.is_empty(), "the child waits behind the long turn");
    (request, turn, long)
}

#[test]
fn a_retry_does_not_wait_for_what_waits() {
    let mut script = Script::new(&account());
    let (request, ..) = parent(&mut script, false);
    lose_host(&mut script);
    let again = turns(&mut script);
    assert_eq!(methods(&again), [("long", 2), ("m", 2)]);
    assert_eq!(withdrawn(&script), 1);
    // It makes a call of its own, which runs as any.
    let (long, turn) = (&again[0], &again[1]);
    script.invoke(Some(turn), Mode::Call, "bob", "child");
    script.finish(long, done(""));
    let child = script.turn("child");
    assert_eq!(child.token.attempt, 1);
    script.finish(&child, done(""));
    script.finish(turn, done("ok"));
    assert_eq!(script.outcome(request), done("ok"));
    script.assert_idle();
}

#[test]
fn a_take_over_withdraws_as_well() {
    let mut script = Script::new(&account());
    parent(&mut script, false);
    script.replace(&account());
    script.advance(LONG_MS);
    // The child was never logged: its caller's owner sends it again, and withdraws it.
    assert_eq!(methods(&turns(&mut script)), [("long", 2), ("m", 2)]);
    assert_eq!(withdrawn(&script), 1);
}

#[test]
fn what_has_a_key_or_has_started_is_waited_for() {
    let mut script = Script::new(&account());
    parent(&mut script, true);
    lose_host(&mut script);
    script.advance(LONG_MS);
    let long = turns(&mut script);
    assert_eq!(methods(&long), [("long", 2)], "a call with a key stays");
    script.finish(&long[0], done(""));
    let child = script.turn("child");
    lose_host(&mut script);
    script.advance(LONG_MS);
    let child_again = script.turn("child");
    assert_eq!(child_again.token.attempt, child.token.attempt + 1);
    assert!(script.turns.is_empty(), "it has started");
    script.finish(&child_again, done(""));
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    assert_eq!(withdrawn(&script), 0);
    script.assert_idle();

    let mut script = Script::new(&account());
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    script.turn("child");
    lose_host(&mut script);
    script.advance(LONG_MS);
    let child = script.turn("child");
    assert!(script.turns.is_empty(), "it has started, though it flushed nothing");
    script.finish(&child, done(""));
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    assert_eq!(withdrawn(&script), 0);
    script.assert_idle();
}

#[test]
fn a_turn_that_stops_when_it_is_asked_to_leaves_what_waits() {
    let mut script = Script::new(&account());
    let (request, turn, long) = parent(&mut script, false);
    let InvocationId { home, uuid } = turn.token.invocation.clone();
    script.request(Operation::Control { home, control: Control::Cancel(uuid) });
    assert_eq!(withdrawn(&script), 0, "it may go on");
    script.event(Event::TurnResult { token: turn.token, result: TurnResult::Cancelled });
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    assert_eq!(withdrawn(&script), 1);
    script.finish(&long, done(""));
    script.assert_idle();
}

#[test]
fn a_turn_that_failed_waits_for_its_calls() {
    let mut script = Script::new(&account());
    let (request, turn, long) = parent(&mut script, false);
    // A branch of it failed; its program made the call, and nobody asked for its end (rule T1).
    script.finish(&turn, Outcome::Failed(Default::default()));
    script.advance(LONG_MS);
    assert!(!script.answers.contains_key(&request));
    script.finish(&long, done(""));
    let child = script.turn("child");
    script.finish(&child, done(""));
    assert_eq!(script.outcome(request), Outcome::Failed(Default::default()));
    assert_eq!(withdrawn(&script), 0);
    script.assert_idle();
}

#[test]
fn the_retry_starts_when_the_withdrawal_is_committed() {
    let mut script = Script::new(&account());
    parent(&mut script, false);
    script.hold = true;
    lose_host(&mut script);
    assert_eq!(withdrawn(&script), 1, "it is under way");
    assert!(script.turns.is_empty());
    // Record by record; the last one is the one with the retry's attempt.
    let mut started = Vec::new();
    while let Some(next) = script.held.pop_front() {
        assert!(!methods(&started).contains(&("m", 2)), "before its attempt is committed");
        script.event(next);
        started.append(&mut turns(&mut script));
    }
    assert_eq!(methods(&started), [("long", 2), ("m", 2)]);
}

/// A question is of its call: a number may be another one's, if it was never committed.
#[test]
fn only_the_call_that_is_named_is_withdrawn() {
    let mut script = Script::new(&account());
    script.invoke(None, Mode::Tell, "alice", "long");
    let long = script.turn("long");
    let to = long.token.invocation.home.clone();
    let from = NodeId(7);
    script.peer(from, &[]);
    let sender = Sender::Log { partition: PartitionId::new(Kind::actor("Other"), 0), log: Uuid(7) };
    let invocation = Invocation {
        uuid: Uuid(70),
        actor: Some("alice".into()),
        method: "child".into(),
        chain: [Uuid(9)].into(),
        ..script::invocation()
    };
    let epoch = script.epoch(&to);
    let message = Message::Request {
        sender: sender.clone(),
        from_epoch: 1,
        to: to.clone(),
        epoch,
        number: 1,
        floor: 1,
        closed_from: None,
        asks: false,
        promised: false,
        again: false,
        owed: Owed::Invocation(invocation.into()),
    };
    script.event(Event::Peer { from, message });
    let other = Sender::Log { partition: PartitionId::new(Kind::actor("Other"), 1), log: Uuid(8) };
    let wrong = [
        (sender.clone(), (1, Uuid(71))),
        (sender.clone(), (2, Uuid(70))),
        (other, (1, Uuid(70))),
        // A root's call, which nobody but its client may end.
        (sender.clone(), (1, long.token.invocation.uuid)),
    ];
    for (sender, call) in wrong {
        let message = Message::Withdraw { sender, to: to.clone(), calls: vec![call] };
        script.event(Event::Peer { from, message });
        assert_eq!(withdrawn(&script), 0);
    }
    let message = Message::Withdraw { sender, to, calls: vec![(1, Uuid(70))] };
    script.event(Event::Peer { from, message: message.clone() });
    assert_eq!(withdrawn(&script), 1);
    let told = script.sent.iter().any(|(_, message)| {
        matches!(message, Message::Reply { number: 1, outcome: Outcome::Withdrawn, .. })
    });
    assert!(told);
    // Asked again, it is over; and what is behind it is not in anybody's way.
    script.event(Event::Peer { from, message });
    assert_eq!(withdrawn(&script), 1);
    script.finish(&long, done(""));
    assert!(script.turns.is_empty());
}

/// The question may be lost, or come before the call: it is asked again while the retry waits.
#[test]
fn it_is_asked_again() {
    let mut script = Script::new(&account());
    let other = NodeId(9);
    // `Other` is served elsewhere.
    let kind = Kind::actor("Other");
    script.members.kinds.insert(kind.clone(), 1);
    script.peer(other, std::slice::from_ref(&kind));
    script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target: Target { kind, actor: Some("x".into()), affinity: None },
        method: "child".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    });
    lose_host(&mut script);
    let asked = |script: &Script| {
        let sent = script.sent.iter();
        sent.filter(|(to, m)| *to == other && matches!(m, Message::Withdraw { .. })).count()
    };
    assert!(asked(&script) > 0);
    script.sent.clear();
    script.advance(script.limits.channel_timer_ms * 3);
    assert_eq!(asked(&script), 3);
}
