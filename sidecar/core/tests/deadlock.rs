//! Flows that wait for each other in a circle (design section 6, item 6): the youngest of the calls that wait ends.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, Response, Turn};
use kar_core::event::{Operation, TailCall, TurnResult};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, Uuid};
use kar_core::invocation::{Mode, Outcome, Target};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::Message;
use kar_core::probe::{Confirm, Place};

use script::{Script, done, text};

/// Two periods of probes, and some.
const PROBED_MS: u64 = 2_100;

fn kinds() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn call(script: &mut Script, turn: &Turn, actor: &str, method: &str) -> RequestId {
    script.invoke(Some(turn), Mode::Call, actor, method)
}

fn root(script: &mut Script, actor: &str, method: &str) -> Turn {
    script.invoke(None, Mode::Call, actor, method);
    script.turn(method)
}

#[track_caller]
fn circle_of(script: &mut Script, request: RequestId) -> String {
    match script.outcome(request) {
        Outcome::Deadlock(circle) => circle.to_string(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn finish_all(script: &mut Script, turns: &[Turn]) {
    for turn in turns {
        script.finish(turn, done(""));
    }
}

#[test]
fn the_youngest_call_of_a_circle_ends_and_the_others_go_on() {
    let mut script = Script::new(&kinds());
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    let to_bob = call(&mut script, &a, "bob", "x");
    script.advance(1);
    let to_alice = call(&mut script, &b, "alice", "y");
    assert!(script.turns.is_empty());
    script.advance(PROBED_MS);
    let circle = circle_of(&mut script, to_alice);
    assert_eq!(circle, "Account/bob -> Account/alice -> Account/bob");
    assert!(!script.answers.contains_key(&to_bob), "one is enough");
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    assert_eq!(script.outcome(to_bob), done("x"));
    script.finish(&a, done(""));
    script.assert_idle();
}

/// An owner that was struck out and does not know it still sees who waited for whom.
#[test]
fn a_circle_is_believed_only_of_reigns_that_are_proved_to_be_current() {
    let mut script = Script::new(&kinds());
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    let to_bob = call(&mut script, &a, "bob", "x");
    script.advance(1);
    let to_alice = call(&mut script, &b, "alice", "y");
    script.hold_barriers = true;
    script.advance(PROBED_MS);
    assert!(script.answers.is_empty(), "{:?}", script.answers);
    let read: Vec<_> = script.barriers.drain(..).collect();
    assert!(!read.is_empty(), "it asked for no proof");
    for partition in read {
        script.event(Event::LogEnd { partition });
    }
    circle_of(&mut script, to_alice);
    script.hold_barriers = false;
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    script.outcome(to_bob);
    script.finish(&a, done(""));
    script.assert_idle();
}

#[test]
fn a_longer_circle_is_found_over_services_and_branches() {
    let mut script = Script::new(&kinds());
    let names = ["alice", "bob", "carol", "dave"];
    let turns: Vec<_> = names.iter().map(|name| root(&mut script, name, name)).collect();
    let mut last = None;
    for (at, turn) in turns.iter().enumerate() {
        // A branch beside it that is not part of anything.
        call(&mut script, turn, &format!("free{at}"), "free");
        script.advance(1);
        last = Some(call(&mut script, turn, names[(at + 1) % 4], "next"));
    }
    let free: Vec<_> = script.turns.drain(..).collect();
    assert_eq!(free.len(), 4);
    script.advance(PROBED_MS);
    let circle = circle_of(&mut script, last.expect("four were made"));
    assert_eq!(circle.matches(" -> ").count(), 4, "{circle}");
    finish_all(&mut script, &free);
    for turn in turns.iter().rev() {
        script.finish(turn, done(""));
        if let Some(next) = script.turns.pop_front() {
            script.finish(&next, done(""));
        }
    }
    script.assert_idle();
}

#[test]
fn those_who_only_wait_long_are_left_alone() {
    let mut script = Script::new(&kinds());
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    let waits = call(&mut script, &a, "bob", "x");
    script.advance(60_000);
    assert!(!script.answers.contains_key(&waits));
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    assert_eq!(script.outcome(waits), done("x"));
    script.finish(&a, done(""));
    script.assert_idle();
}

#[test]
fn a_circle_is_found_through_chains_of_tail_calls() {
    let mut script = Script::new(&kinds());
    // Alice calls a chain that goes from bob to carol, whose step calls dave.
    let a = root(&mut script, "alice", "a");
    call(&mut script, &a, "bob", "b");
    let b = script.turn("b");
    let target =
        Target { kind: Kind::actor("Account"), actor: Some("carol".into()), affinity: None };
    let tail = TailCall { target, method: "c".into(), payload: text(""), keeps_lock: false };
    let token = b.token.clone();
    script.event(Event::TurnResult { token, result: TurnResult::TailCall(tail) });
    let c = script.turn("c");
    let d = root(&mut script, "dave", "d");
    let to_dave = call(&mut script, &c, "dave", "x");
    script.advance(1);
    let to_alice = call(&mut script, &d, "alice", "y");
    script.advance(PROBED_MS);
    circle_of(&mut script, to_alice);
    script.finish(&d, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    assert_eq!(script.outcome(to_dave), done("x"));
    finish_all(&mut script, &[c, a]);
    script.assert_idle();
}

#[test]
fn a_circle_beyond_the_bound_of_a_path_is_not_found_and_the_bound_shows() {
    for (bound, found) in [(3, false), (4, true)] {
        let limits = Limits { deadlock_path_max: bound, ..Limits::default() };
        let mut script = Script::with(&kinds(), limits);
        let names = ["alice", "bob", "carol", "dave"];
        let turns: Vec<_> = names.iter().map(|name| root(&mut script, name, name)).collect();
        let calls: Vec<_> = turns
            .iter()
            .enumerate()
            .map(|(at, turn)| {
                script.advance(1);
                call(&mut script, turn, names[(at + 1) % 4], "next")
            })
            .collect();
        script.advance(PROBED_MS);
        assert_eq!(script.answers.contains_key(&calls[3]), found, "{bound}");
        let hit = Notice::Limit(LimitHit { name: "deadlock_path_max", limit: bound as u64 });
        assert_eq!(script.notices.contains(&hit), !found, "{bound}");
    }
}

#[test]
fn a_circle_among_more_calls_than_are_followed_at_once_is_found_in_turn() {
    let limits = Limits { deadlock_fanout_max: 2, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    for free in 0..9 {
        call(&mut script, &a, &format!("free{free}"), "free");
    }
    let to_bob = call(&mut script, &a, "bob", "x");
    let free: Vec<_> = script.turns.drain(..).collect();
    script.advance(1);
    let to_alice = call(&mut script, &b, "alice", "y");
    // Two of ten calls are followed in each period.
    script.advance(7 * PROBED_MS);
    circle_of(&mut script, to_alice);
    finish_all(&mut script, &free);
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    assert_eq!(script.outcome(to_bob), done("x"));
    script.finish(&a, done(""));
    script.assert_idle();
}

#[test]
fn a_keyed_call_that_was_deadlocked_is_made_again() {
    let mut script = Script::new(&kinds());
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    let to_bob = call(&mut script, &a, "bob", "x");
    let keyed = |script: &mut Script| {
        script.request(Operation::Invoke {
            turn: Some(b.token.clone()),
            mode: Mode::Call,
            target: Target {
                kind: Kind::actor("Account"),
                actor: Some("alice".into()),
                affinity: None,
            },
            method: "y".into(),
            payload: text(""),
            deadline: None,
            trace: "".into(),
            retry: None,
            step_key: Some("k".into()),
            key: None,
        })
    };
    script.advance(1);
    let first = keyed(&mut script);
    script.advance(PROBED_MS);
    circle_of(&mut script, first);
    let second = keyed(&mut script);
    assert!(!script.answers.contains_key(&second), "it waits anew");
    script.advance(PROBED_MS);
    circle_of(&mut script, second);
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done(""));
    script.outcome(to_bob);
    script.finish(&a, done(""));
    script.assert_idle();
}

#[test]
fn what_is_no_more_so_ends_nobody() {
    let mut script = Script::new(&kinds());
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    let waits = call(&mut script, &a, "bob", "x");
    let uuid_of = |request: &Script, method: &str| {
        let views = request.node.partitions().into_iter().flat_map(|p| p.invocations);
        views.filter(|view| &*view.method == method).map(|view| view.uuid).next().expect("it waits")
    };
    let (x, holder) = (uuid_of(&script, "x"), b.token.invocation.uuid);
    let partition: PartitionId = b.token.invocation.home.clone();
    let epoch = b.token.epoch;
    let place = |epoch, uuid, holder| Place {
        partition: partition.clone(),
        epoch,
        uuid,
        actor: "bob".into(),
        holder,
    };
    let caller = a.token.invocation.uuid;
    // Of an earlier reign; held by another one; before it a holder that is no caller of it.
    let stale =
        [place(epoch - 1, x, holder), place(epoch, x, Uuid(7)), place(epoch, Uuid(8), holder)];
    let before = place(epoch, Uuid(9), caller);
    for last in stale {
        let confirm = Confirm { places: vec![before.clone(), last], at: 1 };
        let message = Message::Confirm(Box::new(confirm));
        script.event(Event::Peer { from: NodeId(77), message });
    }
    let stranger = place(epoch, Uuid(9), Uuid(10));
    let confirm = Confirm { places: vec![stranger, place(epoch, x, holder)], at: 1 };
    script.event(Event::Peer { from: NodeId(77), message: Message::Confirm(Box::new(confirm)) });
    assert!(!script.answers.contains_key(&waits));
    script.finish(&b, done(""));
    let x = script.turn("x");
    script.finish(&x, done("x"));
    assert!(matches!(script.answers.get(&waits), Some(Ok(Response::Outcome { .. }))));
    script.finish(&a, done(""));
    script.outcome(waits);
    script.assert_idle();
}

#[test]
fn beyond_the_bound_of_visits_probes_wait_for_the_next_period() {
    let limits = Limits { deadlock_visits_max: 1, deadlock_probes_max: 1, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    let (a, b) = (root(&mut script, "alice", "a"), root(&mut script, "bob", "b"));
    call(&mut script, &a, "bob", "x");
    script.advance(1);
    call(&mut script, &b, "alice", "y");
    script.advance(PROBED_MS);
    let hit =
        |notice: &Notice| matches!(notice, Notice::Limit(hit) if hit.name == "deadlock_visits_max");
    assert!(script.notices.iter().any(hit));
}
