//! Bounds in numbers (rule C7): each is exceeded here, says its name, and holds up nobody else: others go on, and so
//! does what is owed already. What is free again is taken again.

mod script;

use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Kind, RequestId};
use kar_core::invocation::{Mode, Outcome, Refusal};
use kar_core::limits::Limits;

use script::{Script, done};

fn host(limits: Limits) -> Script {
    Script::with(&[Kind::actor("Account")], limits)
}

fn call(script: &mut Script, turn: Option<&Turn>, actor: &str, method: &str) -> RequestId {
    script.invoke(turn, Mode::Call, actor, method)
}

#[track_caller]
fn assert_told(script: &Script, name: &str) {
    let told = script.notices.iter().any(|n| matches!(n, Notice::Limit(hit) if hit.name == name));
    assert!(told, "nobody was told of {name}");
}

/// Everything ends; the turns that wait are taken in their order.
#[track_caller]
fn finish_all(script: &mut Script, requests: &[RequestId]) {
    while let Some(turn) = script.turns.pop_front() {
        script.finish(&turn, done(&turn.method));
    }
    for request in requests {
        let outcome = script.outcome(*request);
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }
    script.assert_idle();
}

#[test]
fn a_full_queue_refuses_roots_of_its_actor_and_nothing_else() {
    let mut script = host(Limits { queue_per_actor_max: 2, ..Limits::default() });
    let first = call(&mut script, None, "alice", "a");
    let alice = script.turn("a");
    let waiting = [call(&mut script, None, "alice", "b"), call(&mut script, None, "alice", "c")];
    let over = call(&mut script, None, "alice", "d");
    assert_eq!(script.outcome(over), Outcome::Refused(Refusal::ActorQueueFull));
    assert_told(&script, "queue_per_actor_max");
    // Another actor is called, and calls the full one: that is owed, and waits.
    let other = call(&mut script, None, "bob", "e");
    let bob = script.turn("e");
    let nested = call(&mut script, Some(&bob), "alice", "f");
    assert!(!script.answers.contains_key(&nested), "it waits");
    script.finish(&alice, done("a"));
    let b = script.turn("b");
    script.finish(&b, done("b"));
    // One place is free again.
    let again = call(&mut script, None, "alice", "g");
    let c = script.turn("c");
    script.finish(&c, done("c"));
    let f = script.turn("f");
    script.finish(&f, done("f"));
    assert_eq!(script.outcome(nested), done("f"));
    script.finish(&bob, done("e"));
    finish_all(&mut script, &[first, waiting[0], waiting[1], other, again]);
}

#[test]
fn a_full_partition_refuses_roots_and_lets_its_turns_go_on() {
    let mut script = host(Limits { unfinished_per_partition_max: 3, ..Limits::default() });
    let first = call(&mut script, None, "alice", "a");
    let alice = script.turn("a");
    let waiting = [call(&mut script, None, "alice", "b"), call(&mut script, None, "alice", "c")];
    let over = call(&mut script, None, "alice", "d");
    assert_eq!(script.outcome(over), Outcome::Refused(Refusal::PartitionFull));
    assert_told(&script, "unfinished_per_partition_max");
    // A call of a turn that runs is owed, though the partition is full.
    let nested = call(&mut script, Some(&alice), "alice", "e");
    let e = script.turn("e");
    script.finish(&e, done("e"));
    assert_eq!(script.outcome(nested), done("e"));
    script.finish(&alice, done("a"));
    let again = call(&mut script, None, "alice", "f");
    finish_all(&mut script, &[first, waiting[0], waiting[1], again]);
}

#[test]
fn too_many_roots_of_a_node_are_refused_and_its_turns_go_on() {
    let mut script = host(Limits { roots_per_node_max: 2, ..Limits::default() });
    let first = call(&mut script, None, "alice", "a");
    let alice = script.turn("a");
    let second = call(&mut script, None, "bob", "b");
    let over = call(&mut script, None, "carol", "c");
    match script.answers.remove(&over) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, "roots_per_node_max"),
        other => panic!("{other:?}"),
    }
    assert_told(&script, "roots_per_node_max");
    let nested = call(&mut script, Some(&alice), "carol", "d");
    let b = script.turn("b");
    let d = script.turn("d");
    script.finish(&d, done("d"));
    assert_eq!(script.outcome(nested), done("d"));
    script.finish(&b, done("b"));
    let again = call(&mut script, None, "carol", "e");
    script.finish(&alice, done("a"));
    finish_all(&mut script, &[first, second, again]);
}

#[test]
fn a_turn_makes_no_more_calls_at_once_than_it_may_and_others_make_theirs() {
    let mut script = host(Limits { calls_per_turn_max: 2, ..Limits::default() });
    let roots = [call(&mut script, None, "alice", "a"), call(&mut script, None, "bob", "b")];
    let (alice, bob) = (script.turn("a"), script.turn("b"));
    let open = [
        call(&mut script, Some(&alice), "carol", "c"),
        call(&mut script, Some(&alice), "dave", "d"),
    ];
    let over = call(&mut script, Some(&alice), "erin", "e");
    match script.answers.remove(&over) {
        Some(Err(RequestError::Limit(hit))) => assert_eq!(hit.name, "calls_per_turn_max"),
        other => panic!("{other:?}"),
    }
    assert_told(&script, "calls_per_turn_max");
    let others = call(&mut script, Some(&bob), "erin", "f");
    for _ in 0..3 {
        let turn = script.turns.pop_front().expect("it runs");
        script.finish(&turn, done(&turn.method));
    }
    for (request, text) in [(open[0], "c"), (open[1], "d"), (others, "f")] {
        assert_eq!(script.outcome(request), done(text));
    }
    let again = call(&mut script, Some(&alice), "erin", "g");
    let g = script.turn("g");
    script.finish(&g, done("g"));
    assert_eq!(script.outcome(again), done("g"));
    script.finish(&alice, done("a"));
    script.finish(&bob, done("b"));
    finish_all(&mut script, &roots);
}

/// Starts something of one actor, and carries it out.
fn start(script: &mut Script, method: &str) -> InvocationId {
    let start = script.invoke(None, Mode::Start, "alice", method);
    let Some(Ok(Response::Accepted { invocation })) = script.answers.remove(&start) else {
        panic!("it is not accepted")
    };
    let turn = script.turn(method);
    script.finish(&turn, done(method));
    invocation
}

#[track_caller]
fn assert_kept(script: &mut Script, invocation: &InvocationId, result: Option<&str>) {
    let asked = script.request(Operation::Await { invocation: invocation.clone() });
    match (script.answers.remove(&asked), result) {
        (Some(Ok(Response::Outcome { outcome, .. })), Some(text)) => {
            assert_eq!(outcome, done(text))
        }
        (Some(Err(RequestError::UnknownInvocation(_))), None) => {}
        (answer, _) => panic!("{result:?}: {answer:?}"),
    }
}

#[test]
fn results_of_starts_are_kept_for_their_time_and_the_latest_of_them() {
    let limits =
        Limits { results_per_partition_max: 2, result_retention_ms: 10_000, ..Limits::default() };
    let mut script = host(limits);
    let first = start(&mut script, "a");
    let second = start(&mut script, "b");
    assert_kept(&mut script, &first, Some("a"));
    script.advance(5_000);
    let third = start(&mut script, "c");
    script.advance(1_000);
    assert_kept(&mut script, &first, None);
    assert_told(&script, "results_per_partition_max");
    assert_kept(&mut script, &second, Some("b"));
    script.advance(4_100);
    assert_kept(&mut script, &second, None);
    assert_kept(&mut script, &third, Some("c"));
    script.advance(5_000);
    assert_kept(&mut script, &third, None);
    script.assert_idle();
}
