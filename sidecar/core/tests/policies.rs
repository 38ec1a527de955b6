//! Retry policies, parking of what keeps killing hosts, cancelling (design section 6, item 9).
//!
//! Longer than most: the three meet in each other's tests, and share the hosts that fail, die and are told to stop.

mod script;

use kar_core::Event;
use kar_core::assign::partition_index;
use kar_core::effect::{CancelReason, Notice, RequestError, Response, Turn};
use kar_core::event::{Offer, Operation, TailCall, TurnResult};
use kar_core::ids::{InvocationId, Kind, SessionId, Uuid};
use kar_core::invocation::{ApplicationError, Mode, Outcome, RetryPolicy, Target};
use kar_core::limits::Limits;
use kar_core::message::{Control, Controlled, Found};
use kar_core::node::{InvocationView, Phase};
use kar_core::trouble::Cause;

use script::{Script, done, text};

/// Longer than every grace and pause.
const LONG_MS: u64 = 40_000;

const POLICY: RetryPolicy =
    RetryPolicy { attempts_max: 3, initial_ms: 100, max_ms: 150, multiplier_percent: 200 };

fn account() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn error(retryable: bool) -> Outcome {
    let (code, message) = ("busy".into(), "later".into());
    Outcome::Failed(ApplicationError { code, message, retryable, ..Default::default() })
}

/// Calls an account with a retry policy.
fn call(
    script: &mut Script,
    actor: &str,
    method: &str,
    retry: Option<RetryPolicy>,
) -> kar_core::ids::RequestId {
    let kind = Kind::actor("Account");
    script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target: Target { kind, actor: Some(actor.into()), affinity: None },
        method: method.into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        retry,
        step_key: None,
        key: None,
    })
}

/// Calls an account, to start within a time.
fn call_within(
    script: &mut Script,
    actor: &str,
    method: &str,
    ms: u64,
) -> kar_core::ids::RequestId {
    let target = Target { kind: Kind::actor("Account"), actor: Some(actor.into()), affinity: None };
    script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target,
        method: method.into(),
        payload: text("in"),
        deadline: Some(script.now + ms),
        trace: "".into(),
        retry: None,
        step_key: None,
        key: None,
    })
}

fn view(script: &Script, method: &str) -> InvocationView {
    let views = script.node.partitions().into_iter().flat_map(|p| p.invocations);
    let mut found: Vec<_> = views.filter(|i| &*i.method == method).collect();
    assert_eq!(found.len(), 1, "{method}: {found:?}");
    found.remove(0)
}

fn id(script: &Script, method: &str) -> InvocationId {
    let find = |p: kar_core::node::PartitionView| {
        let uuid = p.invocations.iter().find(|i| &*i.method == method)?.uuid;
        Some(InvocationId { home: p.id, uuid })
    };
    script.node.partitions().into_iter().find_map(find).expect("it is unfinished")
}

fn control(
    script: &mut Script,
    home: InvocationId,
    cancel: bool,
) -> Result<Controlled, RequestError> {
    let uuid = home.uuid;
    let control = if cancel { Control::Cancel(uuid) } else { Control::Resume(uuid) };
    let request = script.request(Operation::Control { home: home.home, control });
    match script.answers.remove(&request) {
        Some(Ok(Response::Controlled(done))) => Ok(done),
        Some(Err(error)) => Err(error),
        other => panic!("not answered but {other:?}"),
    }
}

fn cancel(script: &mut Script, method: &str) -> Controlled {
    let id = id(script, method);
    control(script, id, true).expect("it is known")
}

/// The host's stream breaks, and comes back.
fn lose_host(script: &mut Script) {
    let session = script.next_session();
    let old = SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    let offer = Offer { kinds: account().to_vec(), concurrency: 4, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
}

#[test]
fn retryable_errors_are_retried_with_growing_pauses_and_the_last_one_is_the_outcome() {
    let mut script = Script::new(&account());
    let request = call(&mut script, "alice", "m", Some(POLICY));
    let behind = script.invoke(None, Mode::Call, "alice", "behind");
    for (attempt, pause) in [(1, 100), (2, 150)] {
        let turn = script.turn("m");
        assert_eq!(turn.token.attempt, attempt);
        script.finish(&turn, error(true));
        let seen = view(&script, "m");
        assert_eq!(seen.phase, Phase::Retrying);
        let ended = seen.ended.expect("it ended");
        assert_eq!((ended.cause, &*ended.error), (Cause::ApplicationError, "busy: later"));
        assert_eq!(ended.not_before, script.now + pause);
        script.advance(pause - 1);
        // The actor stays with it: what was sent after it waits.
        assert!(script.turns.is_empty(), "too early, or out of order");
        script.advance(1);
    }
    let turn = script.turn("m");
    script.finish(&turn, error(true));
    assert_eq!(script.outcome(request), error(true));
    let turn = script.turn("behind");
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(behind), done(""));
    script.assert_idle();
}

#[test]
fn errors_are_not_retried_unasked() {
    for (retry, retryable) in [(None, true), (Some(POLICY), false)] {
        let mut script = Script::new(&account());
        let request = call(&mut script, "alice", "m", retry);
        let turn = script.turn("m");
        script.finish(&turn, error(retryable));
        assert_eq!(script.outcome(request), error(retryable));
        script.assert_idle();
    }
}

#[test]
fn a_methods_policy_holds_where_the_call_says_nothing() {
    let mut script = Script::new(&account());
    let retries = [((Kind::actor("Account"), "m".into()), POLICY)].into();
    let offer = Offer { kinds: account().to_vec(), concurrency: 4, retries, ..Offer::default() };
    let session = SessionId(script.id.0);
    script.event(Event::HostDown { session, dead: true });
    script.event(Event::HostUp { session: SessionId(99), offer });
    let once = RetryPolicy { attempts_max: 1, ..POLICY };
    let request = call(&mut script, "alice", "m", Some(once));
    let turn = script.turn("m");
    script.finish(&turn, error(true));
    assert_eq!(script.outcome(request), error(true));
    let request = call(&mut script, "alice", "m", None);
    let turn = script.turn("m");
    script.finish(&turn, error(true));
    script.advance(100);
    let turn = script.turn("m");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(request), done("ok"));
    script.assert_idle();
}

#[test]
fn only_the_unflushed_segment_of_a_retried_attempt_is_dropped() {
    let mut script = Script::new(&account());
    let request = call(&mut script, "alice", "m", Some(POLICY));
    let turn = script.turn("m");
    script.set(&turn, "flushed", "1");
    script.request(Operation::Flush { turn: turn.token.clone() });
    script.set(&turn, "dropped", "1");
    script.finish(&turn, error(true));
    script.advance(100);
    let turn = script.turn("m");
    let state = script.read(&turn).expect("it is loaded");
    assert_eq!(state.keys().map(|k| &**k).collect::<Vec<_>>(), ["flushed"]);
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(request), done(""));
    script.assert_idle();
}

#[test]
fn a_retry_waits_for_every_call_of_the_turn() {
    let mut script = Script::new(&account());
    let request = call(&mut script, "alice", "m", Some(POLICY));
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    let child = script.turn("child");
    // A branch of it has failed while another one's call is under way (rule T1).
    script.finish(&turn, error(true));
    script.advance(1_000);
    assert!(script.turns.is_empty());
    script.finish(&child, done(""));
    script.advance(100);
    let turn = script.turn("m");
    assert_eq!(turn.token.attempt, 2);
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(request), done(""));
    script.assert_idle();
}

#[test]
fn a_methods_policy_holds_also_when_its_host_leaves_before_the_turns_calls_have_ended() {
    let mut script = Script::new(&account());
    let retries = [((Kind::actor("Account"), "m".into()), POLICY)].into();
    let offer = Offer { kinds: account().to_vec(), concurrency: 4, retries, ..Offer::default() };
    let session = SessionId(script.id.0);
    script.event(Event::HostDown { session, dead: true });
    script.event(Event::HostUp { session: SessionId(99), offer });
    let request = call(&mut script, "alice", "m", None);
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    let child = script.turn("child");
    script.finish(&turn, error(true));
    script.event(Event::HostDown { session: SessionId(99), dead: true });
    script.event(Event::HostUp {
        session: SessionId(100),
        offer: Offer { kinds: account().to_vec(), concurrency: 4, ..Offer::default() },
    });
    script.advance(LONG_MS);
    let again = script.turn("child");
    assert_ne!(again.token, child.token);
    script.finish(&again, done(""));
    script.advance(100);
    let turn = script.turn("m");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(request), done("ok"));
    script.assert_idle();
}

#[test]
fn the_pause_and_the_count_survive_a_take_over() {
    let mut script = Script::new(&account());
    let long = RetryPolicy { initial_ms: 5_000, max_ms: 5_000, ..POLICY };
    call(&mut script, "alice", "m", Some(long));
    for _ in 0..2 {
        let turn = script.turn("m");
        let failed_at = script.now;
        script.finish(&turn, error(true));
        script.replace(&account());
        script.advance(failed_at + 4_999 - script.now);
        assert!(script.turns.is_empty(), "before its pause was over");
        script.advance(1);
    }
    let turn = script.turn("m");
    script.finish(&turn, error(true));
    // The third error was the outcome: its caller is gone, and nothing is left to be done.
    script.advance(LONG_MS);
    assert!(script.turns.is_empty());
}

#[test]
fn what_keeps_killing_hosts_is_parked_and_lets_others_pass() {
    let limits = Limits { park_after_attempts: 3, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    let request = script.invoke(None, Mode::Call, "alice", "killer");
    let behind = script.invoke(None, Mode::Call, "alice", "behind");
    for _ in 0..3 {
        script.turn("killer");
        lose_host(&mut script);
        script.advance(1_000);
    }
    let seen = view(&script, "killer");
    assert_eq!((seen.phase, seen.attempt), (Phase::Parked, 3));
    assert_eq!(seen.ended.map(|e| e.cause), Some(Cause::HostLost));
    let parked = |n: &&Notice| matches!(n, Notice::Parked { losses: 3, .. });
    assert_eq!(script.notices.iter().filter(parked).count(), 1);
    let turn = script.turn("behind");
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(behind), done(""));
    // It survives its owner, and goes on when it is told to.
    script.replace(&account());
    script.advance(LONG_MS);
    assert!(script.turns.is_empty());
    assert_eq!(view(&script, "killer").phase, Phase::Parked);
    let killer = id(&script, "killer");
    assert_eq!(control(&mut script, killer.clone(), false), Ok(Controlled::Resumed));
    let turn = script.turn("killer");
    assert_eq!(turn.token.attempt, 4);
    assert_eq!(control(&mut script, killer, false), Ok(Controlled::NotParked));
    script.finish(&turn, done(""));
    assert!(!script.answers.contains_key(&request), "its caller's node is gone");
}

#[test]
fn a_parked_one_that_has_flushed_keeps_its_actor() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    let request = script.invoke(None, Mode::Call, "alice", "killer");
    let turn = script.turn("killer");
    script.set(&turn, "half", "done");
    script.request(Operation::Flush { turn: turn.token.clone() });
    let behind = script.invoke(None, Mode::Call, "alice", "behind");
    lose_host(&mut script);
    script.advance(LONG_MS);
    assert!(script.turns.is_empty(), "others saw it half done");
    assert_eq!(cancel(&mut script, "killer"), Controlled::Cancelled);
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    let turn = script.turn("behind");
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(behind), done(""));
    script.assert_idle();
}

#[test]
fn a_parked_call_of_a_service_that_has_flushed_goes_on() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let service = Kind::service("s");
    let mut script = Script::with(std::slice::from_ref(&service), limits);
    let request = script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Tell,
        target: Target { kind: service.clone(), actor: None, affinity: None },
        method: "m".into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        retry: None,
        step_key: None,
        key: None,
    });
    assert!(script.answers.contains_key(&request));
    let turn = script.turn("m");
    script.request(Operation::Flush { turn: turn.token.clone() });
    script.replace(std::slice::from_ref(&service));
    script.advance(LONG_MS);
    let parked = id(&script, "m");
    // Its host does not take it at once: it waits where it is found later.
    script.event(Event::Lease { valid: false });
    assert_eq!(control(&mut script, parked, false), Ok(Controlled::Resumed));
    assert!(script.turns.is_empty());
    script.event(Event::Lease { valid: true });
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn a_partition_taken_over_from_killed_nodes_parks_what_killed_them() {
    let limits = Limits { park_after_attempts: 2, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    script.invoke(None, Mode::Tell, "alice", "killer");
    // The first attempt ran ahead of the log: it might as well have waited.
    for _ in 0..3 {
        script.turn("killer");
        script.replace(&account());
        script.advance(LONG_MS);
    }
    assert!(script.turns.is_empty());
    let seen = view(&script, "killer");
    assert_eq!((seen.phase, seen.attempt), (Phase::Parked, 3));
}

/// Neither what waits for its actor nor what waits for a slot of the host has killed anybody, however often whoever
/// owns it is lost.
#[test]
fn what_only_waits_is_never_parked() {
    let limits = Limits { park_after_attempts: 2, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    // The host has four slots; in a partition they go to whoever comes first by name.
    let names = |first: char| {
        let kind = Kind::actor("Account");
        let target =
            |name: &str| Target { kind: kind.clone(), actor: Some(name.into()), affinity: None };
        let all = (0..64).map(|n| format!("{first}{n}"));
        let here = all.filter(|name| partition_index(&target(name), Uuid(0), 2) == 0);
        here.collect::<Vec<_>>()
    };
    let (killers, waiters) = (&names('k')[..4], &names('w')[..3]);
    for actor in killers {
        script.invoke(None, Mode::Tell, actor, "killer");
    }
    for actor in waiters {
        script.invoke(None, Mode::Tell, actor, "waiter");
    }
    script.invoke(None, Mode::Tell, &killers[0], "behind");
    for lost in 0..3 {
        let mut started: Vec<_> = script.turns.drain(..).map(|turn| turn.method).collect();
        started.retain(|method| &**method != "killer");
        assert!(started.is_empty(), "after {lost} losses {started:?} started");
        script.replace(&account());
        script.advance(LONG_MS);
    }
    let views = script.node.partitions().into_iter().flat_map(|p| p.invocations);
    let parked: Vec<_> = views.filter(|i| i.phase == Phase::Parked).collect();
    assert_eq!(parked.len(), killers.len(), "{parked:?}");
    assert!(parked.iter().all(|i| &*i.method == "killer"), "{parked:?}");
    let turns: Vec<_> = script.turns.drain(..).collect();
    assert_eq!(turns.len(), 1 + waiters.len(), "{turns:?}");
    for turn in turns {
        assert_eq!(turn.token.attempt, 2, "as one that may have run ahead of the log");
        script.finish(&turn, done(""));
    }
}

/// What waits where only committed work runs is not said to have begun.
#[test]
fn a_strict_host_parks_nothing_that_only_waited_for_a_slot() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = Script::with(&[], limits);
    let offer =
        Offer { kinds: account().to_vec(), concurrency: 1, strict: true, ..Offer::default() };
    script.offer = Some(offer.clone());
    script.event(Event::HostUp { session: SessionId(1), offer });
    call_within(&mut script, "alice", "killer", LONG_MS * 10);
    call_within(&mut script, "bob", "waiter", LONG_MS * 10);
    script.advance(1_000);
    script.turn("killer");
    script.replace(&account());
    script.advance(1_000);
    // The first one is known to have begun, because it has a deadline; the second one is known not to have.
    let turn = script.turn("waiter");
    assert_eq!(view(&script, "killer").phase, Phase::Parked);
    script.finish(&turn, done(""));
}

/// A call with a deadline expires, and its caller is told so, while it waits for a slot of a host.
#[test]
fn what_waits_for_a_slot_expires() {
    for strict in [false, true] {
        let mut script = Script::new(&[]);
        let offer = Offer { kinds: account().to_vec(), concurrency: 1, strict, ..Offer::default() };
        script.event(Event::HostUp { session: SessionId(1), offer });
        let first = script.invoke(None, Mode::Call, "alice", "first");
        script.advance(1);
        let turn = script.turn("first");
        let waits = call_within(&mut script, "bob", "waits", 500);
        script.advance(499);
        assert!(!script.answers.contains_key(&waits));
        script.advance(1);
        assert_eq!(script.outcome(waits), Outcome::Expired, "strict: {strict}");
        script.finish(&turn, done(""));
        assert_eq!(script.outcome(first), done(""));
        // Its place in the queue for slots is nobody's.
        let next = script.invoke(None, Mode::Call, "bob", "next");
        script.advance(1);
        let turn = script.turn("next");
        script.finish(&turn, done(""));
        assert_eq!(script.outcome(next), done(""));
        script.assert_idle();
    }
}

/// Operators are told of what is committed, once: a decision that is dropped is made again.
#[test]
fn what_was_dropped_with_a_reign_was_not_told() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    let told = |script: &Script| {
        let count = |wanted: fn(&&Notice) -> bool| script.notices.iter().filter(wanted).count();
        let dead = count(|n| matches!(n, Notice::DeadLetter { .. }));
        (dead, count(|n| matches!(n, Notice::Parked { .. })))
    };
    script.invoke(None, Mode::Tell, "alice", "fails");
    script.invoke(None, Mode::Tell, "alice", "kills");
    let turn = script.turn("fails");
    script.hold = true;
    script.finish(&turn, error(false));
    script.turn("kills");
    lose_host(&mut script);
    assert_eq!(told(&script), (0, 0), "nothing of it is committed");
    // Neither record is in the log: the reign ends, and the next one decides anew.
    let home = turn.token.invocation.home.clone();
    let log = script.logs.get_mut(&home).expect("it is served");
    log.truncate(log.len() - script.held.len());
    script.held.clear();
    script.hold = false;
    script.event(Event::LogLost { partition: home });
    script.advance(LONG_MS);
    let turn = script.turn("fails");
    script.finish(&turn, error(false));
    script.turn("kills");
    lose_host(&mut script);
    assert_eq!(told(&script), (1, 1));
}

#[test]
fn hand_overs_and_errors_do_not_park() {
    let limits = Limits { park_after_attempts: 2, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    script.invoke(None, Mode::Tell, "alice", "slow");
    for _ in 0..4 {
        let turn = script.turn("slow");
        script.event(Event::Drain);
        script.advance(script.limits.drain_timeout_ms + 1);
        script.event(Event::TurnResult { token: turn.token, result: TurnResult::Cancelled });
        script.advance(LONG_MS);
        assert!(script.drained);
        script.replace(&account());
        script.advance(LONG_MS);
    }
    let turn = script.turn("slow");
    assert_eq!(turn.token.attempt, 5);
    script.finish(&turn, done(""));
    script.assert_idle();
}

#[test]
fn what_has_not_started_ends_at_once() {
    let mut script = Script::new(&account());
    let first = script.invoke(None, Mode::Call, "alice", "first");
    let turn = script.turn("first");
    let waits = script.invoke(None, Mode::Call, "alice", "waits");
    let waiting = id(&script, "waits");
    assert_eq!(cancel(&mut script, "waits"), Controlled::Cancelled);
    assert_eq!(script.outcome(waits), Outcome::Cancelled);
    script.finish(&turn, done(""));
    assert_eq!(script.outcome(first), done(""));
    assert!(script.turns.is_empty());
    script.assert_idle();
    let unknown = control(&mut script, waiting.clone(), true);
    assert_eq!(unknown, Err(RequestError::UnknownInvocation(Box::new(waiting))));
}

/// Its calls end, whatever they call: their callers would rest with it for ever otherwise.
#[test]
fn a_parked_one_lets_the_calls_of_its_flow_in() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    let child = script.turn("child");
    // Its child calls back into its actor, and every host is lost.
    script.invoke(Some(&child), Mode::Call, "alice", "back");
    script.turn("back");
    script.replace(&account());
    script.advance(LONG_MS);
    for method in ["child", "m"] {
        assert_eq!(view(&script, method).phase, Phase::Parked);
    }
    // That one has flushed nothing, and is no flow's but theirs: it ends, and who is resumed finds its outcome.
    let back = script.turn("back");
    script.finish(&back, done(""));
    assert!(script.turns.is_empty(), "both rest with their actors");
    let (m, child) = (id(&script, "m"), id(&script, "child"));
    // What waits for such an actor shows for whom.
    script.invoke(None, Mode::Tell, "bob", "behind");
    assert_eq!(view(&script, "behind").behind, Some(child.uuid));
    assert_eq!(view(&script, "child").behind, None);
    assert_eq!(control(&mut script, child, false), Ok(Controlled::Resumed));
    let turn = script.turn("child");
    script.finish(&turn, done(""));
    assert_eq!(control(&mut script, m, false), Ok(Controlled::Resumed));
    while let Some(turn) = script.turns.pop_front() {
        script.finish(&turn, done(""));
    }
    script.assert_idle();
}

/// How a turn that was asked to stop ends, and what its invocation comes to.
#[test]
fn a_parked_one_that_is_to_end_rests_no_more_whoever_owns_it() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    script.invoke(None, Mode::Tell, "alice", "m");
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    script.turn("child");
    script.replace(&account());
    script.advance(LONG_MS);
    let (m, child) = (id(&script, "m"), script.turn("child"));
    assert_eq!(view(&script, "m").phase, Phase::Parked);
    assert_eq!(control(&mut script, m.clone(), true), Ok(Controlled::CancelRequested));
    // The owner drops the partition, and takes it up again.
    script.hold = true;
    script.invoke(None, Mode::Tell, "alice", "other");
    script.event(Event::LogLost { partition: m.home });
    script.let_go();
    script.advance(LONG_MS);
    let child = script.turns.pop_front().unwrap_or(child);
    script.finish(&child, done(""));
    let other = script.turn("other");
    script.finish(&other, done(""));
    script.assert_idle();
}

#[test]
fn a_running_turn_is_told_and_its_result_counts() {
    let tail = || {
        let target =
            Target { kind: Kind::actor("Account"), actor: Some("bob".into()), affinity: None };
        TailCall { target, method: "next".into(), payload: text(""), keeps_lock: false }
    };
    let cases = [
        (TurnResult::Cancelled, Outcome::Cancelled, None),
        (TurnResult::Ended(done("late")), done("late"), Some("1")),
        // It is not tried again.
        (TurnResult::Ended(error(true)), error(true), None),
        // What it did stays; the next step does not start.
        (TurnResult::TailCall(tail()), Outcome::Cancelled, Some("1")),
    ];
    for (result, outcome, stays) in cases {
        let mut script = Script::new(&account());
        let request = call(&mut script, "alice", "m", Some(POLICY));
        let turn = script.turn("m");
        assert_eq!(cancel(&mut script, "m"), Controlled::CancelRequested);
        let told = (turn.token.clone(), CancelReason::Requested);
        assert_eq!(script.cancelled, std::slice::from_ref(&told));
        // Asked again, it is not told again; and it is still the current attempt.
        assert_eq!(cancel(&mut script, "m"), Controlled::CancelRequested);
        assert_eq!(script.cancelled, [told]);
        let set = script.set(&turn, "key", "1");
        assert_eq!(script.answers.remove(&set), Some(Ok(Response::Ok)));
        script.event(Event::TurnResult { token: turn.token, result });
        assert_eq!(script.outcome(request), outcome);
        script.advance(LONG_MS);
        assert!(script.turns.is_empty());
        script.assert_idle();
        let read = script.read_outside("Account", "alice", None);
        let state = script.state(read);
        assert_eq!(state.get("key"), stays.map(text).as_ref(), "{outcome:?}");
    }
}

#[test]
fn a_turn_that_stops_waits_for_its_calls() {
    let mut script = Script::new(&account());
    let request = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "bob", "child");
    let child = script.turn("child");
    assert_eq!(cancel(&mut script, "m"), Controlled::CancelRequested);
    script.event(Event::TurnResult { token: turn.token, result: TurnResult::Cancelled });
    script.advance(1_000);
    assert!(!script.answers.contains_key(&request));
    script.finish(&child, done(""));
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    script.assert_idle();
}

#[test]
fn no_attempt_follows_the_request_whoever_owns_the_partition() {
    let mut script = Script::new(&account());
    script.invoke(None, Mode::Tell, "alice", "m");
    script.turn("m");
    assert_eq!(cancel(&mut script, "m"), Controlled::CancelRequested);
    script.replace(&account());
    script.advance(LONG_MS);
    assert!(script.turns.is_empty());
    script.assert_idle();
    // Nor where only its host is lost.
    script.invoke(None, Mode::Tell, "alice", "m");
    script.turn("m");
    assert_eq!(cancel(&mut script, "m"), Controlled::CancelRequested);
    lose_host(&mut script);
    script.advance(LONG_MS);
    assert!(script.turns.is_empty());
    script.assert_idle();
    let dead = script.notices.iter().any(|n| matches!(n, Notice::DeadLetter { .. }));
    assert!(!dead, "somebody wanted it so");
}

#[test]
fn a_chain_that_has_left_ends_when_it_comes_home_or_where_it_runs() {
    let to = |script: &mut Script, turn: &Turn, kind: Kind, actor: Option<&str>| {
        let target = Target { kind, actor: actor.map(Into::into), affinity: None };
        let (method, payload) = ("next".into(), text(""));
        let call = TailCall { target, method, payload, keeps_lock: false };
        let (token, result) = (turn.token.clone(), TurnResult::TailCall(call));
        script.event(Event::TurnResult { token, result });
    };
    let (actor, service) = (Kind::actor("Account"), Kind::service("ledger"));
    let kinds = [actor.clone(), service.clone()];
    // At its home: it ends if it comes back.
    let mut script = Script::new(&kinds);
    let request = script.invoke(None, Mode::Call, "alice", "first");
    let home = id(&script, "first");
    let first = script.turn("first");
    to(&mut script, &first, service.clone(), None);
    let second = script.turn("next");
    assert_eq!(control(&mut script, home, true), Ok(Controlled::CancelMoved));
    to(&mut script, &second, actor, Some("alice"));
    assert!(script.turns.is_empty());
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    script.assert_idle();
    // Where it runs.
    let mut script = Script::new(&kinds);
    let request = script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    to(&mut script, &first, service, None);
    let second = script.turn("next");
    assert_eq!(cancel(&mut script, "next"), Controlled::CancelRequested);
    script.event(Event::TurnResult { token: second.token, result: TurnResult::Cancelled });
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    script.assert_idle();
}

#[test]
fn that_one_is_not_parked_is_told_when_its_acceptance_is_committed() {
    let mut script = Script::new(&account());
    call(&mut script, "alice", "m", Some(POLICY));
    script.turn("m");
    let id = id(&script, "m");
    script.hold = true;
    let control = Control::Resume(id.uuid);
    let asked = script.request(Operation::Control { home: id.home, control });
    assert!(!script.answers.contains_key(&asked), "it is not even logged yet");
    script.let_go();
    let told = Response::Controlled(Controlled::NotParked);
    assert_eq!(script.answers.remove(&asked), Some(Ok(told)));
}

#[test]
fn what_is_known_of_an_invocation_is_told_when_it_is_committed() {
    let mut script = Script::new(&account());
    let request = call(&mut script, "alice", "m", Some(POLICY));
    let turn = script.turn("m");
    let id = id(&script, "m");
    let inspect = |script: &mut Script| {
        let control = Control::Inspect(id.uuid);
        script.request(Operation::Control { home: id.home.clone(), control })
    };
    let found = |script: &mut Script, request| match script.answers.remove(&request) {
        Some(Ok(Response::Controlled(Controlled::Found(found)))) => *found,
        other => panic!("not found but {other:?}"),
    };
    // Its acceptance is not even decided yet.
    script.hold = true;
    let asked = inspect(&mut script);
    assert!(!script.answers.contains_key(&asked));
    script.let_go();
    let Found::Unfinished(view) = found(&mut script, asked) else { panic!("it runs") };
    assert_eq!((view.phase, view.attempt, view.ended), (Phase::Running, 1, None));
    script.finish(&turn, error(true));
    let asked = inspect(&mut script);
    let Found::Unfinished(view) = found(&mut script, asked) else { panic!("it is retried") };
    assert_eq!((view.phase, view.retry_at), (Phase::Retrying, script.now + 100));
    assert_eq!(view.ended.map(|e| e.cause), Some(Cause::ApplicationError));
    script.advance(100);
    let turn = script.turn("m");
    script.finish(&turn, done("secret"));
    assert_eq!(script.outcome(request), done("secret"));
    // While its caller may still ask for it, without what it returned.
    let asked = inspect(&mut script);
    assert_eq!(found(&mut script, asked), Found::Ended(Outcome::Done(Default::default())));
    script.advance(LONG_MS);
    let asked = inspect(&mut script);
    let unknown = RequestError::UnknownInvocation(Box::new(id.clone()));
    assert_eq!(script.answers.remove(&asked), Some(Err(unknown)));
}
