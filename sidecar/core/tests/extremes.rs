//! Bounds beyond all reason: times that no clock reaches are never over, and nothing is computed wrong with them.

mod script;

use kar_core::Event;
use kar_core::event::{Offer, Operation};
use kar_core::ids::{Kind, RequestId, SessionId, Uuid};
use kar_core::invocation::{ApplicationError, Mode, Outcome, RetryPolicy, Target};
use kar_core::keys::RequestKey;
use kar_core::limits::Limits;

use script::{Script, done, text};

fn kinds() -> [Kind; 1] {
    [Kind::actor("Account")]
}

/// Times that end nothing, so that they may be as long as one likes.
fn endless() -> Limits {
    let never = u64::MAX;
    Limits {
        result_retention_ms: never,
        key_retention_ms: never,
        dead_letter_retention_ms: never,
        host_return_ms: never,
        accept_timeout_ms: never,
        append_timeout_ms: never,
        channel_timer_ms: never,
        departed_grace_ms: never,
        drain_timeout_ms: never,
        actor_idle_ms: never,
        retry_max_ms: never,
        deadlock_probe_ms: never,
        trim_delay_ms: never,
        reminder_lateness_ms: never,
        ..Limits::default()
    }
}

fn send(
    script: &mut Script,
    mode: Mode,
    method: &str,
    options: impl FnOnce(&mut Options),
) -> RequestId {
    let mut asked = Options::default();
    options(&mut asked);
    let actor = Some("alice".into());
    script.request(Operation::Invoke {
        turn: None,
        mode,
        target: Target { kind: Kind::actor("Account"), actor, affinity: None },
        method: method.into(),
        payload: text("in"),
        deadline: asked.deadline,
        trace: "".into(),
        step_key: None,
        retry: asked.retry,
        key: asked.key.map(|key| Box::new(RequestKey { uuid: Uuid(key), digest: key })),
    })
}

#[derive(Default)]
struct Options {
    deadline: Option<u64>,
    retry: Option<RetryPolicy>,
    key: Option<u128>,
}

fn failed(retryable: bool) -> Outcome {
    Outcome::Failed(ApplicationError { retryable, ..Default::default() })
}

#[test]
fn endless_times_are_never_over() {
    let mut script = Script::with(&kinds(), endless());
    send(&mut script, Mode::Start, "start", |_| {});
    let turn = script.turn("start");
    script.finish(&turn, done("kept"));
    send(&mut script, Mode::Call, "keyed", |asked| asked.key = Some(7));
    let turn = script.turn("keyed");
    script.finish(&turn, done("kept"));
    send(&mut script, Mode::Tell, "tell", |asked| asked.deadline = Some(u64::MAX));
    let turn = script.turn("tell");
    script.finish(&turn, failed(false));
    script.advance(1_000_000_000);
    let held = script.node.held();
    assert_eq!((held.results, held.dead), (1, 1));
    let again = send(&mut script, Mode::Call, "keyed", |asked| asked.key = Some(7));
    assert_eq!(script.outcome(again), done("kept"));
    // The next owner reads the same.
    script.replace(&kinds());
    script.advance(1_000_000_000);
    let again = send(&mut script, Mode::Call, "keyed", |asked| asked.key = Some(7));
    assert_eq!(script.outcome(again), done("kept"));
}

/// Whoever calls chooses the pause.
#[test]
fn a_pause_without_end_is_one() {
    let never = u64::MAX;
    let policy = RetryPolicy {
        attempts_max: 3,
        initial_ms: never,
        max_ms: never,
        multiplier_percent: u32::MAX,
    };
    let mut script = Script::new(&kinds());
    let call = send(&mut script, Mode::Call, "m", |asked| asked.retry = Some(policy));
    let turn = script.turn("m");
    let id = turn.token.invocation.clone();
    script.finish(&turn, failed(true));
    script.advance(1_000_000);
    assert!(script.turns.is_empty(), "it rests");
    script.replace(&kinds());
    script.advance(1_000_000);
    assert!(script.turns.is_empty(), "it rests");
    let control = kar_core::message::Control::Cancel(id.uuid);
    script.request(Operation::Control { home: id.home, control });
    script.advance(1_000);
    assert!(script.node.partitions().iter().all(|view| view.invocations.is_empty()));
    // Nobody is left to tell: its node is gone.
    assert!(!script.answers.contains_key(&call));
}

#[test]
fn a_host_that_may_take_for_ever_to_return_is_waited_for() {
    let mut script = Script::with(&kinds(), endless());
    let call = send(&mut script, Mode::Call, "m", |_| {});
    script.turn("m");
    let session = script.next_session();
    let old = SessionId(session.0 - 1);
    script.event(Event::HostDown { session: old, dead: false });
    script.advance(1_000_000_000);
    assert!(script.turns.is_empty());
    let offer = Offer { kinds: kinds().to_vec(), concurrency: 1, ..Offer::default() };
    script.event(Event::HostUp { session, offer });
    script.advance(1_000);
    let turn = script.turn("m");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
}

/// Bounds are compared with what a log takes when a sidecar starts: a sum that wraps would pass for a small one.
#[test]
fn bounds_beyond_all_reason_fit_nowhere() {
    let max = usize::MAX;
    let defaults = Limits::default();
    let table = [
        Limits { queue_per_actor_max: max, ..defaults.clone() },
        Limits { calls_per_turn_max: max, ..defaults.clone() },
        Limits { unfinished_per_partition_max: max, ..defaults.clone() },
        Limits { outbox_per_partition_max: max, ..defaults.clone() },
        Limits { segment_bytes_max: max, ..defaults.clone() },
        Limits { keys_per_partition_max: max, ..defaults.clone() },
        Limits { roots_per_node_max: max, ..defaults },
    ];
    for limits in table {
        assert_eq!(limits.record_bytes_max(), max, "{limits:?}");
    }
    let limits = Limits { unfinished_per_partition_max: max, roots_per_node_max: max, ..endless() };
    let mut script = Script::with(&kinds(), limits);
    script.deposit("alice", "1");
}
