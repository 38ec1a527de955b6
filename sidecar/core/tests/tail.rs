//! Chains of tail calls (P6, C8): one entry for each, the caller gets the last step's outcome, locks kept or not.

mod script;

use std::sync::Arc;

use kar_core::Event;
use kar_core::effect::Turn;
use kar_core::event::{Member, TailCall, TurnResult};
use kar_core::ids::{Kind, NodeId, Sender, Uuid};
use kar_core::invocation::{ChainOutcome, Mode, Outcome, Owed, Target};
use kar_core::message::Message;
use kar_core::node::Phase;

use script::{Script, done, text};

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

fn kinds() -> [Kind; 2] {
    [Kind::actor("Account"), Kind::service("ledger")]
}

fn script() -> Script {
    Script::new(&kinds())
}

/// Ends a turn with a tail call to an account, or to the service if no account is named.
fn tail(script: &mut Script, turn: &Turn, actor: Option<&str>, method: &str, keeps_lock: bool) {
    let kind = if actor.is_some() { Kind::actor("Account") } else { Kind::service("ledger") };
    let target = Target { kind, actor: actor.map(Into::into), affinity: None };
    let call = TailCall { target, method: method.into(), payload: text("next"), keeps_lock };
    let (token, result) = (turn.token.clone(), TurnResult::TailCall(call));
    script.event(Event::TurnResult { token, result });
}

#[test]
fn the_caller_gets_the_last_steps_outcome() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    tail(&mut script, &first, Some("bob"), "second", false);
    let second = script.turn("second");
    assert_eq!((second.token.step, second.token.attempt), (2, 1));
    assert_eq!(second.token.invocation.uuid, first.token.invocation.uuid);
    tail(&mut script, &second, None, "third", false);
    let third = script.turn("third");
    assert_eq!((third.token.step, third.mode), (3, Mode::Call));
    assert!(script.answers.is_empty());
    script.finish(&third, done("end"));
    assert_eq!(script.outcome(call), done("end"));
    script.assert_idle();
}

#[test]
fn failing_steps_end_the_chain() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    tail(&mut script, &first, None, "second", false);
    let second = script.turn("second");
    let error = kar_core::invocation::ApplicationError::default();
    script.finish(&second, Outcome::Failed(error.clone()));
    assert_eq!(script.outcome(call), Outcome::Failed(error));
    script.assert_idle();
}

#[test]
fn a_chain_of_thousands_of_steps_leaves_one_entry() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "m");
    for step in 1..=3_000 {
        let turn = script.turn("m");
        assert_eq!(turn.token.step, step);
        // Through the service and back, which is another partition; and from actor to actor.
        let to = [None, Some("alice"), Some("bob")][step as usize % 3];
        tail(&mut script, &turn, to, "m", false);
        let held: usize = script.node.partitions().iter().map(|p| p.invocations.len()).sum();
        assert!(held <= 2, "{held} entries after step {step}");
    }
    let last = script.turn("m");
    script.finish(&last, done("end"));
    assert_eq!(script.outcome(call), done("end"));
    script.assert_idle();
}

#[test]
fn a_kept_lock_keeps_others_out() {
    let mut script = script();
    let chain = script.invoke(None, Mode::Call, "alice", "first");
    let other = script.invoke(None, Mode::Call, "alice", "other");
    let first = script.turn("first");
    tail(&mut script, &first, Some("alice"), "second", true);
    let second = script.turn("second");
    assert!(script.turns.is_empty(), "the lock was kept");
    tail(&mut script, &second, Some("alice"), "third", false);
    // Now the other one comes first.
    let between = script.turn("other");
    script.finish(&between, done("other"));
    assert_eq!(script.outcome(other), done("other"));
    let third = script.turn("third");
    script.finish(&third, done("end"));
    assert_eq!(script.outcome(chain), done("end"));
    script.assert_idle();
}

#[test]
fn a_lock_is_kept_only_for_the_same_actor() {
    let mut script = script();
    for to in [Some("bob"), None] {
        let call = script.invoke(None, Mode::Call, "alice", "first");
        let first = script.turn("first");
        tail(&mut script, &first, to, "second", true);
        match script.outcome(call) {
            Outcome::Failed(error) => assert_eq!(&*error.code, "kar.INVALID_TAIL_CALL"),
            other => panic!("{other:?}"),
        }
    }
    script.assert_idle();
}

#[test]
fn a_segment_takes_effect_with_its_tail_call() {
    let mut script = script();
    script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    assert!(script.read(&first).is_some_and(|state| state.is_empty()));
    script.set(&first, "k", "v");
    script.invoke(Some(&first), Mode::Tell, "bob", "told");
    assert!(script.turns.is_empty());
    tail(&mut script, &first, Some("alice"), "second", true);
    let (mut second, mut told) = (script.turns.pop_front(), script.turns.pop_front());
    if second.as_ref().is_some_and(|turn| &*turn.method == "told") {
        std::mem::swap(&mut second, &mut told);
    }
    let (second, told) = (second.expect("the next step"), told.expect("the tell"));
    let state = script.read(&second).expect("cached");
    assert_eq!(state.get("k"), Some(&text("v")));
    script.finish(&told, done(""));
    script.finish(&second, done(""));
    script.assert_idle();
}

#[test]
fn a_step_queues_behind_what_was_sent_before_it() {
    let mut script = script();
    let neighbour = neighbour("alice");
    for to in ["alice", &neighbour] {
        for mode in [Mode::Call, Mode::Tell] {
            let call = script.invoke(None, mode, "alice", "first");
            let first = script.turn("first");
            script.invoke(Some(&first), Mode::Tell, to, "told");
            tail(&mut script, &first, Some(to), "second", false);
            // P7: one sender, one actor.
            let told = script.turn("told");
            assert!(script.turns.is_empty(), "the step passed what was told before it");
            script.finish(&told, done(""));
            let second = script.turn("second");
            assert_eq!((second.token.step, second.mode), (2, mode));
            script.finish(&second, done("end"));
            if mode == Mode::Call {
                assert_eq!(script.outcome(call), done("end"));
            }
            script.assert_idle();
        }
    }
}

/// Another actor of the same partition.
fn neighbour(of: &str) -> String {
    let place = |actor: &str| {
        let actor = Some(actor.into());
        let target = Target { kind: Kind::actor("Account"), actor, affinity: None };
        kar_core::assign::partition_index(&target, Uuid::default(), 2)
    };
    let mut names = (0..).map(|n| format!("actor{n}"));
    names.find(|name| place(name) == place(of)).expect("there are no end of names")
}

#[test]
fn a_tail_step_waits_for_calls_of_its_turn() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    script.invoke(Some(&first), Mode::Call, "bob", "nested");
    let nested = script.turn("nested");
    tail(&mut script, &first, Some("carol"), "second", false);
    assert!(script.turns.is_empty(), "T1: the call has no outcome yet");
    script.finish(&nested, done(""));
    let second = script.turn("second");
    script.finish(&second, done("end"));
    assert_eq!(script.outcome(call), done("end"));
    script.assert_idle();
}

#[test]
fn stale_tokens_of_an_earlier_step_are_refused() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    tail(&mut script, &first, Some("alice"), "second", true);
    let second = script.turn("second");
    let set = script.set(&first, "k", "v");
    assert!(matches!(script.answers.remove(&set), Some(Err(_))));
    script.finish(&first, done("stale"));
    assert!(script.answers.is_empty());
    script.finish(&second, done("end"));
    assert_eq!(script.outcome(call), done("end"));
    script.assert_idle();
}

#[test]
fn another_owner_goes_on_with_the_step_that_was_logged() {
    let mut script = script();
    let start = script.invoke(None, Mode::Start, "alice", "first");
    assert!(script.answers.remove(&start).is_some_and(|answer| answer.is_ok()));
    let first = script.turn("first");
    tail(&mut script, &first, Some("alice"), "second", true);
    let second = script.turn("second");
    script.invoke(None, Mode::Tell, "alice", "other");
    script.replace(&kinds());
    script.advance(LONG_MS);
    // It keeps its lock, though it has not flushed anything.
    let again = script.turn("second");
    assert_eq!((again.token.step, again.token.attempt), (2, 2));
    assert!(script.turns.is_empty());
    tail(&mut script, &second, Some("alice"), "stale", true);
    tail(&mut script, &again, None, "third", false);
    let mut rest = [script.turns.pop_front(), script.turns.pop_front()].map(|t| t.expect("a turn"));
    rest.sort_by_key(|turn| turn.method.clone());
    assert_eq!(rest.clone().map(|turn| turn.method.to_string()), ["other", "third"]);
    let phases: Vec<_> = script
        .node
        .partitions()
        .into_iter()
        .flat_map(|view| view.invocations)
        .map(|invocation| invocation.phase)
        .collect();
    assert!(phases.contains(&Phase::Moved), "{phases:?}");
    script.replace(&kinds());
    script.advance(LONG_MS);
    for _ in 0..2 {
        let turn = script.turns.pop_front().expect("a retry");
        assert!(turn.token.attempt > 1);
        script.finish(&turn, done(&turn.method));
    }
    script.assert_idle();
}

#[test]
fn a_tail_call_to_a_kind_that_is_not_known_waits_for_it() {
    let mut script = script();
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    script.hold_kinds = true;
    let target = Target { kind: Kind::actor("Late"), actor: Some("x".into()), affinity: None };
    let call_late =
        TailCall { target, method: "second".into(), payload: text(""), keeps_lock: false };
    let (token, result) = (first.token.clone(), TurnResult::TailCall(call_late));
    script.event(Event::TurnResult { token, result });
    assert!(script.turns.is_empty() && !script.answers.contains_key(&call));
    script.hold_kinds = false;
    script.members.kinds.insert(Kind::actor("Late"), 1);
    script.event(Event::Members(script.members.clone()));
    // Nobody hosts it yet: the chain is there, and waits.
    let views = script.node.partitions();
    let late = views.iter().find(|view| &*view.id.kind.name == "Late").expect("it is served");
    assert_eq!(late.invocations.len(), 1);
}

/// Its home is there until it comes, whatever happens: one that nobody waits for is somebody's mistake. It is accepted
/// all the same, so that its sender is rid of it, and changes nothing, here or at the next owner.
#[test]
fn an_outcome_that_nobody_waits_for_is_accepted_and_changes_nothing() {
    const OTHER: NodeId = NodeId(50);
    let mut script = script();
    script.members.nodes.insert(OTHER, Member { transient: true, ..Member::default() });
    script.event(Event::PeerUp { node: OTHER });
    script.event(Event::Members(script.members.clone()));
    // A chain has left: its home is not the one that the outcome is for.
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    tail(&mut script, &first, None, "second", false);
    let second = script.turn("second");
    let views = script.node.partitions();
    let home = views.iter().find(|v| v.invocations.iter().any(|i| i.phase == Phase::Moved));
    let (home, epoch) = home.map(|view| (view.id.clone(), view.epoch)).expect("it has left");
    // Of one that never was, and of one that has not left.
    let here = script.invoke(None, Mode::Call, &neighbour("alice"), "here");
    let running = script.turn("here");
    for (number, uuid) in [(1, Uuid::v7(1, 1)), (2, running.token.invocation.uuid)] {
        let done = Arc::new(ChainOutcome { uuid, outcome: done("nobody's") });
        let message = Message::Request {
            sender: Sender::Node(OTHER),
            from_epoch: 0,
            to: home.clone(),
            epoch,
            number,
            floor: 1,
            closed_from: None,
            asks: false,
            promised: false,
            again: false,
            owed: Owed::Outcome(done),
        };
        script.event(Event::Peer { from: OTHER, message });
        let accepted = |(to, message): &(NodeId, Message)| match message {
            Message::Accepted { numbers, .. } => *to == OTHER && *numbers == [number],
            _ => false,
        };
        assert!(script.sent.iter().any(accepted), "{:?}", script.sent);
        assert!(script.answers.is_empty() && script.turns.is_empty());
    }
    script.finish(&running, done("here"));
    assert_eq!(script.outcome(here), done("here"));
    script.replace(&kinds());
    script.advance(LONG_MS);
    let again = script.turn("second");
    assert_eq!(again.token.invocation, second.token.invocation);
    script.finish(&again, done("end"));
    assert!(!script.answers.contains_key(&call), "its caller's node is gone");
    script.members.nodes.remove(&OTHER);
    script.event(Event::Members(script.members.clone()));
    script.advance(LONG_MS);
    script.assert_idle();
}
