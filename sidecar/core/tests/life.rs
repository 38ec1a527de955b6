//! Actor life (section 6, item 11): idle actors become passive and cost nothing; removal takes all of an actor when its
//! turn comes, and nothing of it comes back.
//!
//! Longer than most: what becomes passive, is removed and comes back meet in each other's tests.

mod script;

use std::collections::BTreeSet;

use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::{Offer, Operation, ReminderAsk, ReminderSpec, TailCall, TurnResult};
use kar_core::ids::{InvocationId, Kind, RequestId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, Target, Work};
use kar_core::limits::Limits;
use kar_core::message::{Control, Controlled};
use kar_core::record::{Op, Record};
use kar_core::reminder::CatchUp;
use kar_core::schedule::Schedule;

use script::{Script, done, text};

const IDLE_MS: u64 = 1_000;

/// Long enough for a take-over.
const RECOVERED_MS: u64 = 12_000;

fn kind() -> Kind {
    Kind::actor("Account")
}

/// A host that is told of idle actors, or not.
fn offer(is_told: bool) -> Offer {
    let kinds = vec![kind(), Kind::service("ledger")];
    let deactivates = if is_told { BTreeSet::from([kind()]) } else { BTreeSet::new() };
    Offer { kinds, concurrency: 4, deactivates, ..Offer::default() }
}

fn script(is_told: bool) -> Script {
    with(is_told, Limits { actor_idle_ms: IDLE_MS, ..Limits::default() })
}

fn with(is_told: bool, limits: Limits) -> Script {
    let mut script = Script::with(&[], limits);
    script.offer = Some(offer(is_told));
    script.replace(&[kind()]);
    script
}

fn remove(script: &mut Script, actor: &str) -> RequestId {
    script.request(Operation::RemoveActor { kind: kind(), actor: actor.into() })
}

fn removed(script: &mut Script, request: RequestId) {
    assert_eq!(script.outcome(request), Outcome::Done(Payload::default()));
}

/// What a turn of an actor reads.
fn balance(script: &mut Script, actor: &str) -> Option<String> {
    let call = script.invoke(None, Mode::Call, actor, "balance");
    let turn = script.turn("balance");
    let state = script.read(&turn).expect("it is answered at once");
    let found = state.get("balance").map(|v| String::from_utf8_lossy(&v.data).into_owned());
    script.finish(&turn, done("ok"));
    script.outcome(call);
    found
}

fn remind(script: &mut Script, actor: &str, after_ms: u64) {
    let spec = ReminderSpec {
        id: "tea".into(),
        method: "pour".into(),
        payload: text(""),
        due: Some(script.now + after_ms),
        schedule: Schedule::Every(60_000),
        catch_up: CatchUp::Each,
    };
    let (kind, actor, ask) = (kind(), actor.into(), ReminderAsk::Schedule(spec));
    let request = script.request(Operation::Remind { turn: None, kind, actor, ask });
    assert!(matches!(script.answers.remove(&request), Some(Ok(Response::Scheduled { .. }))));
}

fn awake(script: &Script) -> usize {
    script.node.held().awake
}

/// The turn that tells of an idle actor.
fn told(script: &mut Script) -> Turn {
    let turn = script.turns.pop_front().expect("the host is told");
    assert_eq!(turn.work, Work::Deactivate);
    turn
}

/// A call that does nothing; the number of its activation.
fn visit(script: &mut Script, actor: &str) -> u64 {
    let call = script.invoke(None, Mode::Call, actor, "visit");
    let turn = script.turn("visit");
    script.finish(&turn, done("ok"));
    script.outcome(call);
    turn.activation
}

fn ops(script: &Script) -> Vec<Op> {
    let batches = script.logs.values().flatten().filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops.clone()),
        _ => None,
    });
    batches.flatten().collect()
}

#[test]
fn an_idle_actor_leaves_memory_and_is_loaded_again() {
    let mut script = script(false);
    script.deposit("alice", "7");
    assert_eq!(awake(&script), 1);
    script.advance(IDLE_MS - 1);
    assert_eq!(awake(&script), 1);
    script.advance(2);
    assert_eq!(awake(&script), 0, "it was idle for long enough");
    assert!(script.turns.is_empty(), "a host without a hook is not told");
    assert!(script.notices.iter().any(|n| matches!(n, Notice::Passivated { count: 1, .. })));
    script.hold_loads = true;
    let call = script.invoke(None, Mode::Call, "alice", "balance");
    let turn = script.turn("balance");
    assert_eq!(script.read(&turn), None, "its state is loaded first");
    script.store_back();
    script.finish(&turn, done("ok"));
    script.outcome(call);
    assert_eq!(balance(&mut script, "alice").as_deref(), Some("7"));
}

#[test]
fn an_actor_in_use_stays_awake() {
    let mut script = script(true);
    let first = visit(&mut script, "alice");
    for _ in 0..5 {
        script.advance(IDLE_MS - 100);
        assert_eq!(visit(&mut script, "alice"), first, "one activation");
    }
    let call = script.invoke(None, Mode::Call, "alice", "long");
    let turn = script.turn("long");
    script.advance(10 * IDLE_MS);
    assert!(script.turns.is_empty(), "it is busy");
    script.finish(&turn, done("ok"));
    script.outcome(call);
    script.advance(IDLE_MS + 1);
    told(&mut script);
}

#[test]
fn a_host_with_a_hook_is_told_by_a_turn_like_others() {
    let mut script = script(true);
    let first = visit(&mut script, "alice");
    script.advance(IDLE_MS + 1);
    let turn = told(&mut script);
    assert_eq!((turn.mode, turn.activation), (Mode::Tell, first));
    // It is the actor's alone: a call waits.
    let call = script.invoke(None, Mode::Call, "alice", "visit");
    assert!(script.turns.is_empty());
    let before = ops(&script).len();
    script.finish(&turn, done("ignored"));
    let next = script.turn("visit");
    assert_ne!(next.activation, first, "what was remembered is gone");
    script.finish(&next, done("ok"));
    script.outcome(call);
    let logged = ops(&script).split_off(before);
    assert!(logged.iter().all(|op| !matches!(op, Op::Deactivate { .. })), "{logged:?}");
    script.advance(IDLE_MS + 1);
    let last = told(&mut script);
    script.finish(&last, done(""));
    assert_eq!(awake(&script), 0);
    script.assert_idle();
}

#[test]
fn what_a_deactivation_does_is_durable() {
    let mut script = script(true);
    visit(&mut script, "alice");
    script.advance(IDLE_MS + 1);
    let turn = told(&mut script);
    script.set(&turn, "balance", "9");
    script.finish(&turn, done(""));
    assert!(ops(&script).iter().any(|op| matches!(op, Op::Deactivate { .. })));
    assert_eq!(awake(&script), 0);
    assert_eq!(balance(&mut script, "alice").as_deref(), Some("9"));
}

#[test]
fn a_deactivation_that_has_flushed_is_tried_again_and_one_that_has_not_is_forgotten() {
    let mut script = script(true);
    for flushes in [false, true] {
        visit(&mut script, "alice");
        script.advance(IDLE_MS + 1);
        let turn = told(&mut script);
        script.set(&turn, "balance", "1");
        if flushes {
            let flush = script.request(Operation::Flush { turn: turn.token.clone() });
            assert_eq!(script.answers.remove(&flush), Some(Ok(Response::Ok)));
        }
        let session = script.next_session();
        let old = kar_core::ids::SessionId(session.0 - 1);
        script.event(Event::HostDown { session: old, dead: true });
        script.event(Event::HostUp { session, offer: offer(true) });
        script.advance(RECOVERED_MS.min(IDLE_MS / 2));
        if flushes {
            let again = told(&mut script);
            assert_eq!(again.token.attempt, 2);
            script.finish(&again, done(""));
        }
        assert!(script.turns.is_empty());
        assert_eq!(awake(&script), 0);
    }
    assert_eq!(balance(&mut script, "alice").as_deref(), Some("1"));
    script.advance(IDLE_MS + 1);
    let last = told(&mut script);
    script.finish(&last, done(""));
    script.assert_idle();
}

#[test]
fn a_failing_deactivation_is_told_and_the_actor_is_passive_all_the_same() {
    let mut script = script(true);
    let error = ApplicationError { code: "full".into(), retryable: true, ..Default::default() };
    let next = TailCall {
        target: Target { kind: kind(), actor: Some("alice".into()), affinity: None },
        method: "more".into(),
        payload: text(""),
        keeps_lock: false,
    };
    for result in [TurnResult::Ended(Outcome::Failed(error)), TurnResult::TailCall(next)] {
        visit(&mut script, "alice");
        script.advance(IDLE_MS + 1);
        let turn = told(&mut script);
        script.set(&turn, "balance", "lost");
        script.notices.clear();
        let token = turn.token.clone();
        script.event(Event::TurnResult { token, result });
        let failed = |n: &Notice| matches!(n, Notice::DeactivationFailed { .. });
        assert!(script.notices.iter().any(failed), "{:?}", script.notices);
        assert_eq!(awake(&script), 0);
    }
    assert_eq!(balance(&mut script, "alice"), None, "its segment was dropped");
    let dead: usize = script.node.partitions().iter().map(|view| view.dead.len()).sum();
    assert_eq!(dead, 0, "nobody sent it");
}

#[test]
fn activations_end_with_what_came_to_nothing() {
    let mut script = script(false);
    let first = visit(&mut script, "alice");
    assert_eq!(visit(&mut script, "alice"), first);
    let call = script.invoke(None, Mode::Call, "alice", "visit");
    let turn = script.turn("visit");
    assert_eq!(turn.activation, first);
    script.finish(&turn, Outcome::Failed(ApplicationError::default()));
    script.outcome(call);
    let second = visit(&mut script, "alice");
    assert_ne!(second, first, "a turn failed");
    let session = script.next_session();
    let old = kar_core::ids::SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    script.event(Event::HostUp { session, offer: offer(false) });
    script.advance(1);
    let third = visit(&mut script, "alice");
    assert_ne!(third, second, "another stream");
    let request = remove(&mut script, "alice");
    removed(&mut script, request);
    assert_ne!(visit(&mut script, "alice"), third, "it was removed");
    assert_ne!(visit(&mut script, "bob"), third, "another actor");
}

#[test]
fn no_more_are_awake_than_may_be_and_the_longest_idle_goes_first() {
    let limits = Limits { cached_actors_max: 3, actor_idle_ms: 60_000, ..Limits::default() };
    let mut script = with(false, limits);
    let mut activations = Vec::new();
    for actor in ["a", "b", "c", "a", "d", "e"] {
        script.advance(1);
        activations.push(visit(&mut script, actor));
        script.advance(1);
    }
    // All of one partition or not: of each no more than three.
    assert!(awake(&script) <= 6);
    let limits = Limits { cached_actors_max: 0, actor_idle_ms: 60_000, ..Limits::default() };
    let mut script = with(true, limits);
    visit(&mut script, "a");
    script.advance(1);
    let turn = told(&mut script);
    script.finish(&turn, done(""));
    assert_eq!(awake(&script), 0);
    script.assert_idle();
}

#[test]
fn so_many_deactivations_at_once_and_the_others_wait() {
    let limits = Limits { deactivations_max: 1, actor_idle_ms: IDLE_MS, ..Limits::default() };
    let mut script = with(true, limits);
    for actor in ["a", "b", "c", "d", "e", "f"] {
        visit(&mut script, actor);
    }
    script.advance(IDLE_MS + 1);
    let partitions = 2;
    let mut seen = 0;
    while seen < 6 {
        assert!(script.turns.len() <= partitions, "{} at once", script.turns.len());
        let turn = told(&mut script);
        script.finish(&turn, done(""));
        seen += 1;
        script.advance(1);
    }
    assert!(script.turns.is_empty());
    assert_eq!(awake(&script), 0);
}

#[test]
fn removal_takes_state_and_reminders_in_its_turn() {
    let mut script = script(false);
    script.deposit("alice", "7");
    remind(&mut script, "alice", 5_000);
    let before = script.invoke(None, Mode::Call, "alice", "before");
    let turn = script.turn("before");
    let request = remove(&mut script, "alice");
    let behind = script.invoke(None, Mode::Call, "alice", "behind");
    assert!(!script.answers.contains_key(&request), "it waits for its turn");
    assert!(script.read(&turn).is_some_and(|state| state.contains_key("balance")));
    script.finish(&turn, done("ok"));
    script.outcome(before);
    removed(&mut script, request);
    let turn = script.turn("behind");
    assert_eq!(script.read(&turn).map(|state| state.len()), Some(0), "it begins empty");
    script.finish(&turn, done("ok"));
    script.outcome(behind);
    script.advance(600_000);
    assert!(script.turns.is_empty(), "no reminder fires");
    assert_eq!(script.node.held().reminders, 0);
    assert!(script.store.values().all(|state| state.is_empty()), "{:?}", script.store);
    let held = |op: &&Op| match op {
        Op::Complete { segment, .. } => !segment.reminders.is_empty() && !segment.state.is_empty(),
        _ => false,
    };
    assert_eq!(ops(&script).iter().filter(held).count(), 1, "one decision");
    // Once more is as good.
    let request = remove(&mut script, "alice");
    removed(&mut script, request);
    script.assert_idle();
}

#[test]
fn removal_needs_no_host_and_makes_no_kind() {
    let mut script = script(false);
    script.deposit("alice", "7");
    script.replace(&[]);
    script.advance(RECOVERED_MS);
    let request = remove(&mut script, "alice");
    removed(&mut script, request);
    assert!(script.store.values().all(|state| state.is_empty()));
    let actor = "alice".into();
    let request = script.request(Operation::RemoveActor { kind: Kind::actor("Typo"), actor });
    script.advance(2_000);
    let answer = script.answers.remove(&request);
    assert_eq!(answer, Some(Err(RequestError::UnknownKind(Kind::actor("Typo")))));
    assert!(!script.members.kinds.contains_key(&Kind::actor("Typo")), "it was not made");
    let request =
        script.request(Operation::RemoveActor { kind: Kind::service("ledger"), actor: "x".into() });
    assert!(matches!(script.answers.remove(&request), Some(Err(RequestError::Invalid(_)))));
}

#[test]
fn a_removal_that_waits_is_carried_out_by_the_next_owner() {
    let mut script = script(false);
    script.deposit("alice", "7");
    remind(&mut script, "alice", 5);
    script.invoke(None, Mode::Tell, "alice", "first");
    let running = script.turn("first");
    assert!(script.read(&running).is_some());
    script.advance(10);
    let request = remove(&mut script, "alice");
    script.advance(50);
    assert!(!script.answers.contains_key(&request));
    // All that was accepted counts as started now: the tell, the firing, the removal.
    script.replace(&[kind()]);
    script.advance(RECOVERED_MS);
    let turn = script.turn("first");
    assert_eq!(turn.token.attempt, 2);
    script.finish(&turn, done("ok"));
    // The firing was in front of the removal.
    let turn = script.turn("pour");
    script.finish(&turn, done("ok"));
    assert!(script.turns.is_empty());
    assert!(script.store.values().all(|state| state.is_empty()), "{:?}", script.store);
    assert_eq!(script.node.held().reminders, 0);
    script.advance(600_000);
    assert!(script.turns.is_empty(), "no reminder fires");
    assert_eq!(balance(&mut script, "alice"), None);
}

#[test]
fn firings_that_wait_behind_a_removal_never_start_whoever_was_lost() {
    let mut script = script(false);
    script.invoke(None, Mode::Tell, "alice", "first");
    script.turn("first");
    let request = remove(&mut script, "alice");
    remind(&mut script, "alice", 5);
    script.advance(50);
    let fired = ops(&script).iter().filter(|op| matches!(op, Op::Fire { .. })).count();
    assert_eq!(fired, 1, "it waits behind the removal");
    script.answers.remove(&request);
    script.replace(&[kind()]);
    script.advance(RECOVERED_MS);
    let turn = script.turn("first");
    script.finish(&turn, done("ok"));
    script.advance(600_000);
    assert!(script.turns.is_empty(), "it went with its reminder");
    let unfinished: usize = script.node.partitions().iter().map(|v| v.invocations.len()).sum();
    assert_eq!(unfinished, 0);
}

#[test]
fn a_removal_can_be_cancelled_while_it_waits() {
    let mut script = script(false);
    script.deposit("alice", "7");
    script.invoke(None, Mode::Tell, "alice", "long");
    let turn = script.turn("long");
    let request = remove(&mut script, "alice");
    let views = script.node.partitions();
    let view = views.iter().find(|view| view.invocations.len() == 2).expect("both are there");
    let waits = view.invocations.iter().find(|i| i.mode == Mode::Call).expect("the removal");
    let control = kar_core::message::Control::Cancel(waits.uuid);
    let home = view.id.clone();
    script.request(Operation::Control { home, control });
    assert_eq!(script.outcome(request), Outcome::Cancelled);
    script.finish(&turn, done("ok"));
    assert_eq!(balance(&mut script, "alice").as_deref(), Some("7"));
}

/// What a partition's passive actors cost: nothing. The figures are the same for few and for many.
#[test]
fn passive_actors_cost_nothing() {
    let measure = |actors: usize| {
        let limits =
            Limits { actor_idle_ms: IDLE_MS, snapshot_after_records: 50, ..Limits::default() };
        let mut script = with(false, limits);
        for n in 0..actors {
            script.deposit(&format!("a{n}"), "1");
        }
        script.advance(10 * IDLE_MS);
        assert_eq!(script.store.len(), actors, "each has its place in the store");
        let held = script.node.held();
        let busy: usize = script.node.partitions().iter().map(|view| view.actors.len()).sum();
        let longest = script.snapshots.values().map(|s| format!("{s:?}").len()).max();
        script.records_read = 0;
        script.replace(&[kind()]);
        script.advance(RECOVERED_MS);
        let served = script.node.partitions().len();
        assert!(served >= 2, "it has taken over");
        (held, busy, longest.unwrap_or_default(), script.records_read)
    };
    let (held, busy, snapshot, read) = measure(500);
    let (held_many, busy_many, snapshot_many, read_many) = measure(10_000);
    assert_eq!((held.awake, busy, held_many.awake, busy_many), (0, 0, 0, 0));
    assert_eq!(held, held_many, "nothing is held for them");
    assert!(snapshot_many < snapshot + 500, "snapshots: {snapshot} and {snapshot_many}");
    assert!(read_many < read + 200, "records read by a take-over: {read} and {read_many}");
}

/// A process keeps nothing of what came to nothing: a tail call that is refused drops its turn's segment, too.
#[test]
fn a_refused_tail_call_ends_its_activation() {
    let mut script = script(false);
    let first = visit(&mut script, "alice");
    let call = script.invoke(None, Mode::Call, "alice", "visit");
    let turn = script.turn("visit");
    script.set(&turn, "balance", "lost");
    let next = TailCall {
        target: Target { kind: kind(), actor: Some("bob".into()), affinity: None },
        method: "more".into(),
        payload: text(""),
        keeps_lock: true,
    };
    let token = turn.token.clone();
    script.event(Event::TurnResult { token, result: TurnResult::TailCall(next) });
    assert!(matches!(script.outcome(call), Outcome::Failed(_)));
    assert_ne!(visit(&mut script, "alice"), first, "its memory is of what never was");
}

/// A turn that waits for calls, one of which re-enters its actor and fails, goes on with what it remembers itself: what
/// it does then is not in the memory of an activation that began above it.
#[test]
fn an_activation_above_an_older_turn_is_good_for_one_turn() {
    let mut script = script(false);
    let call = script.invoke(None, Mode::Call, "alice", "outer");
    let outer = script.turn("outer");
    let mut seen = vec![outer.activation];
    for fails in [true, false, false] {
        let inner = script.invoke(Some(&outer), Mode::Call, "alice", "inner");
        let turn = script.turn("inner");
        assert_eq!(seen.contains(&turn.activation), fails, "the first one is the outer one's");
        seen.push(turn.activation);
        let failed = Outcome::Failed(ApplicationError::default());
        script.finish(&turn, if fails { failed } else { done("ok") });
        script.outcome(inner);
    }
    script.set(&outer, "balance", "9");
    script.finish(&outer, done("ok"));
    script.outcome(call);
    let after = visit(&mut script, "alice");
    assert!(!seen.contains(&after), "nobody else's memory has the balance");
    assert_eq!(visit(&mut script, "alice"), after, "from here on it is one activation again");
}

/// A removal needs no host, whatever is in front of it.
#[test]
fn a_removal_does_not_wait_for_somebody_to_be_told_that_its_actor_is_idle() {
    let mut script = Script::with(&[], Limits { actor_idle_ms: IDLE_MS, ..Limits::default() });
    script.offer = Some(Offer { concurrency: 1, ..offer(true) });
    script.replace(&[kind()]);
    script.deposit("alice", "7");
    script.invoke(None, Mode::Call, "bob", "long");
    script.turn("long");
    // The host is to be told, and has no slot.
    script.advance(IDLE_MS + 1);
    assert!(script.turns.is_empty());
    let session = script.next_session();
    let old = kar_core::ids::SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    let request = remove(&mut script, "alice");
    script.advance(RECOVERED_MS);
    removed(&mut script, request);
    assert!(script.store.values().all(|state| state.is_empty()));
}

/// People are told of a removal once, when it is committed: one that is dropped with its reign is made again.
#[test]
fn a_removal_is_told_when_it_is_committed() {
    let mut script = script(false);
    script.deposit("alice", "7");
    script.hold = true;
    let request = remove(&mut script, "alice");
    let told = |script: &Script| {
        script.notices.iter().filter(|n| matches!(n, Notice::Removed { .. })).count()
    };
    assert_eq!(told(&script), 0);
    script.let_go();
    assert_eq!(told(&script), 1);
    removed(&mut script, request);
}

/// Too many actors are awake, and all but one of them are busy: the one goes at once, whatever their names.
#[test]
fn busy_actors_are_not_in_the_way_of_idle_ones() {
    let limits = Limits { cached_actors_max: 0, actor_idle_ms: 60_000, ..Limits::default() };
    for busy in ["a", "b", "c", "d"] {
        for idle in ["a", "b", "c", "d"].iter().filter(|idle| **idle != busy) {
            let mut script = with(false, limits.clone());
            let call = script.invoke(None, Mode::Call, busy, "long");
            let turn = script.turn("long");
            script.advance(1);
            visit(&mut script, idle);
            script.event(Event::Tick);
            assert_eq!(awake(&script), 1, "{idle} beside {busy}");
            script.finish(&turn, done("ok"));
            script.outcome(call);
            script.advance(2);
            assert_eq!(awake(&script), 0);
        }
    }
}

/// What somebody has taken up again is not dropped, though it waits behind the removal: it has started once.
#[test]
fn a_firing_that_was_parked_is_not_dropped_with_its_actor() {
    let limits = Limits { park_after_attempts: 1, ..Limits::default() };
    let mut script = with(false, limits);
    remind(&mut script, "alice", 5);
    script.advance(10);
    let firing = script.turn("pour");
    let session = script.next_session();
    let old = kar_core::ids::SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    script.event(Event::HostUp { session, offer: offer(false) });
    script.invoke(None, Mode::Tell, "alice", "long");
    let long = script.turn("long");
    let request = remove(&mut script, "alice");
    let InvocationId { home, uuid } = firing.token.invocation;
    let control = Control::Resume(uuid);
    let resumed = script.request(Operation::Control { home, control });
    assert_eq!(
        script.answers.remove(&resumed),
        Some(Ok(Response::Controlled(Controlled::Resumed)))
    );
    script.finish(&long, done("ok"));
    removed(&mut script, request);
    let again = script.turn("pour");
    assert_eq!((again.token.attempt, again.token.invocation.uuid), (2, uuid));
    script.finish(&again, done("ok"));
    script.advance(600_000);
    assert!(script.turns.is_empty(), "the reminder is gone");
    script.assert_idle();
}

/// A host is told of actors that it knows: another process, or the same one with another stream, knows none of them.
#[test]
fn nobody_is_told_of_an_actor_that_another_host_knew() {
    let mut script = Script::with(&[], Limits { actor_idle_ms: IDLE_MS, ..Limits::default() });
    script.offer = Some(Offer { concurrency: 1, ..offer(true) });
    script.replace(&[kind()]);
    visit(&mut script, "alice");
    script.invoke(None, Mode::Call, "bob", "long");
    script.turn("long");
    script.advance(IDLE_MS + 1);
    assert!(script.turns.is_empty(), "the host is to be told, and has no slot");
    let session = script.next_session();
    let old = kar_core::ids::SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: true });
    script.event(Event::HostUp { session, offer: offer(true) });
    script.advance(1);
    let long = script.turn("long");
    assert!(script.turns.is_empty(), "{:?}", script.turns);
    assert_eq!(awake(&script), 1);
    script.finish(&long, done("ok"));
}
