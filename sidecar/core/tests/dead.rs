//! Dead letters: tells that ended without success are kept, sent again once, and dropped by bounds that say so.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response};
use kar_core::event::{Operation, TurnResult};
use kar_core::ids::{InvocationId, Kind};
use kar_core::invocation::{ApplicationError, Mode, Outcome};
use kar_core::limits::Limits;
use kar_core::message::{Control, Controlled};
use kar_core::node::DeadLetterView;

use script::{Script, done, text};

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

fn account() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn error() -> Outcome {
    Outcome::Failed(ApplicationError { code: "no".into(), ..Default::default() })
}

fn letters(script: &Script) -> Vec<(InvocationId, DeadLetterView)> {
    let views = script.node.partitions().into_iter();
    let rows = views.flat_map(|p| {
        let home = p.id;
        p.dead.into_iter().map(move |l| (InvocationId { home: home.clone(), uuid: l.uuid }, l))
    });
    rows.collect()
}

fn control(
    script: &mut Script,
    id: &InvocationId,
    control: Control,
) -> Result<Controlled, RequestError> {
    let request = script.request(Operation::Control { home: id.home.clone(), control });
    match script.answers.remove(&request) {
        Some(Ok(Response::Controlled(done))) => Ok(done),
        Some(Err(error)) => Err(error),
        other => panic!("not answered but {other:?}"),
    }
}

/// A tell that fails.
fn fail(script: &mut Script, actor: &str) {
    script.invoke(None, Mode::Tell, actor, "m");
    let turn = script.turn("m");
    script.finish(&turn, error());
}

#[test]
fn a_failed_tell_is_kept_and_sent_again_once() {
    let mut script = Script::new(&account());
    fail(&mut script, "alice");
    // It survives its owner.
    script.replace(&account());
    script.advance(LONG_MS);
    let kept = letters(&script);
    let [(id, letter)] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((&*letter.method, &letter.outcome, letter.attempts), ("m", &error(), 1));
    // Behind a call that is under way: it takes its place in the queue.
    let call = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    let again = control(&mut script, id, Control::Redrive(id.uuid));
    let Ok(Controlled::Redriven(new)) = again else { panic!("{again:?}") };
    assert!(letters(&script).is_empty());
    let unknown = RequestError::UnknownInvocation(Box::new(id.clone()));
    assert_eq!(control(&mut script, id, Control::Redrive(id.uuid)), Err(unknown));
    assert!(script.turns.is_empty());
    script.finish(&first, done(""));
    assert_eq!(script.outcome(call), done(""));
    let turn = script.turn("m");
    assert_eq!((turn.token.invocation.uuid, turn.token.attempt), (new, 1));
    assert_eq!((turn.mode, turn.payload.clone()), (Mode::Tell, text("in")));
    script.finish(&turn, done(""));
    script.assert_idle();
    assert!(letters(&script).is_empty());
}

#[test]
fn what_was_sent_again_survives_its_owner() {
    let mut script = Script::new(&account());
    fail(&mut script, "alice");
    let id = letters(&script)[0].0.clone();
    control(&mut script, &id, Control::Redrive(id.uuid)).expect("it is there");
    script.turn("m");
    script.replace(&account());
    script.advance(LONG_MS);
    let turn = script.turn("m");
    assert_eq!(turn.token.attempt, 2);
    // It fails again: it is a dead letter again, under its new id.
    script.finish(&turn, error());
    let kept = letters(&script);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, turn.token.invocation);
}

#[test]
fn what_was_sent_again_starts_when_that_is_committed() {
    let mut script = Script::new(&account());
    fail(&mut script, "alice");
    let id = letters(&script)[0].0.clone();
    script.hold = true;
    let operation =
        Operation::Control { home: id.home.clone(), control: Control::Redrive(id.uuid) };
    let request = script.request(operation);
    assert!(script.turns.is_empty() && !script.answers.contains_key(&request));
    script.let_go();
    script.turn("m");
    assert!(script.answers.contains_key(&request));
}

#[test]
fn an_expired_tell_is_sent_again_without_its_deadline() {
    let mut script = Script::new(&[]);
    let kind = Kind::actor("Account");
    let target = kar_core::invocation::Target { kind, actor: Some("alice".into()), affinity: None };
    let deadline = Some(script.now + 50);
    script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Tell,
        target,
        method: "m".into(),
        payload: text("in"),
        deadline,
        trace: "".into(),
        retry: None,
        step_key: None,
        key: None,
    });
    script.advance(1_000);
    let kept = letters(&script);
    assert_eq!(kept[0].1.outcome, Outcome::Expired);
    let id = kept[0].0.clone();
    control(&mut script, &id, Control::Redrive(id.uuid)).expect("it is there");
    script.advance(1_000);
    script.replace(&account());
    script.advance(LONG_MS);
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn neither_calls_nor_what_succeeded_or_was_cancelled_is_a_dead_letter() {
    let mut script = Script::new(&account());
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.finish(&turn, error());
    assert_eq!(script.outcome(call), error());
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    let id = turn.token.invocation.clone();
    control(&mut script, &id, Control::Cancel(id.uuid)).expect("it runs");
    script.event(Event::TurnResult { token: turn.token, result: TurnResult::Cancelled });
    assert!(letters(&script).is_empty());
    script.assert_idle();
}

#[test]
fn the_oldest_go_first_beyond_the_bounds_and_after_their_time() {
    let by_count = Limits { dead_letters_per_partition_max: 2, ..Limits::default() };
    let by_bytes = Limits { dead_letters_bytes_per_partition_max: 300, ..Limits::default() };
    let by_time = Limits { dead_letter_retention_ms: 5_000, ..Limits::default() };
    for (limits, left) in [(by_count, 2), (by_bytes, 1), (by_time, 0)] {
        let mut script = Script::with(&account(), limits);
        let mut told = Vec::new();
        for _ in 0..3 {
            script.advance(100);
            fail(&mut script, "alice");
            told.extend(letters(&script).last().map(|(id, _)| id.uuid));
        }
        script.advance(LONG_MS);
        let kept: Vec<_> = letters(&script).iter().map(|(id, _)| id.uuid).collect();
        assert_eq!(kept, told[3 - left..]);
        let dropped = script.notices.iter().filter_map(|notice| match notice {
            Notice::DeadLettersDropped { count, .. } => Some(*count),
            _ => None,
        });
        assert_eq!(dropped.sum::<usize>(), 3 - left);
        // The next owner keeps no more.
        script.replace(&account());
        script.advance(1_000);
        assert_eq!(letters(&script).len(), left);
    }
}

#[test]
fn somebody_discards_one() {
    let mut script = Script::new(&account());
    fail(&mut script, "alice");
    let id = letters(&script)[0].0.clone();
    assert_eq!(control(&mut script, &id, Control::Cancel(id.uuid)), Ok(Controlled::Ended));
    assert_eq!(control(&mut script, &id, Control::Discard(id.uuid)), Ok(Controlled::Discarded));
    let unknown = RequestError::UnknownInvocation(Box::new(id.clone()));
    assert_eq!(control(&mut script, &id, Control::Discard(id.uuid)), Err(unknown));
    assert!(letters(&script).is_empty());
}
