//! What waits for a time or for a lease: outcomes that no turn settles, retries, starts.

mod script;

use kar_core::Event;
use kar_core::event::TurnResult;
use kar_core::ids::{Kind, Number};
use kar_core::invocation::Mode;
use kar_core::limits::Limits;
use kar_core::record::{Op, Record};

use script::{Script, done};

/// Longer than every pause between retries.
const LONG_MS: u64 = 20_000;

fn host() -> Script {
    Script::new(&[Kind::actor("Account")])
}

/// Every decision in the logs.
fn decisions(script: &Script) -> Vec<Op> {
    let records = script.logs.values().flatten();
    let ops = records.filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops.clone()),
        _ => None,
    });
    ops.flatten().collect()
}

/// Numbers that partitions have settled on their own, a list for each decision.
fn settled(script: &Script) -> Vec<Vec<Number>> {
    let settles = decisions(script).into_iter().filter_map(|op| match op {
        Op::Settle { numbers, .. } => Some(numbers),
        _ => None,
    });
    settles.collect()
}

#[test]
fn outcomes_that_no_turn_settles_are_settled_together_after_the_delay() {
    let mut script = host();
    let root = script.invoke(None, Mode::Call, "alice", "root");
    let turn = script.turn("root");
    let calls: Vec<_> =
        (0..3).map(|_| script.invoke(Some(&turn), Mode::Call, "bob", "child")).collect();
    for call in calls {
        let child = script.turn("child");
        script.finish(&child, done("c"));
        assert_eq!(script.outcome(call), done("c"));
    }
    script.advance(Limits::default().settle_delay_ms - 1);
    assert_eq!(settled(&script), [] as [Vec<Number>; 0], "a turn may still do it");
    script.advance(1);
    assert_eq!(settled(&script), [[1, 2, 3]], "all of them in one decision");
    script.finish(&turn, done("r"));
    assert_eq!(script.outcome(root), done("r"));
    assert_eq!(settled(&script).len(), 1);
    script.assert_idle();
}

#[test]
fn a_turn_that_goes_on_settles_its_outcomes_itself() {
    let mut script = host();
    let root = script.invoke(None, Mode::Call, "alice", "root");
    let turn = script.turn("root");
    for _ in 0..2 {
        let call = script.invoke(Some(&turn), Mode::Call, "bob", "child");
        let child = script.turn("child");
        script.finish(&child, done("c"));
        script.outcome(call);
    }
    script.finish(&turn, done("r"));
    script.outcome(root);
    script.assert_idle();
    assert_eq!(settled(&script), [] as [Vec<Number>; 0]);
    let in_turn = decisions(&script).into_iter().filter_map(|op| match op {
        Op::Progress { settled, .. } => Some(settled.len()),
        _ => None,
    });
    assert_eq!(
        in_turn.sum::<usize>(),
        1,
        "the first one with the second call, the other with the end"
    );
}

#[test]
fn tells_that_were_accepted_are_settled_after_the_delay() {
    let mut script = host();
    script.invoke(None, Mode::Call, "alice", "root");
    let turn = script.turn("root");
    for _ in 0..3 {
        script.invoke(Some(&turn), Mode::Tell, "bob", "note");
    }
    script.finish(&turn, done("r"));
    script.advance(Limits::default().settle_delay_ms);
    assert_eq!(settled(&script), [[1, 2, 3]]);
    for _ in 0..3 {
        let note = script.turn("note");
        script.finish(&note, done(""));
    }
    script.assert_idle();
}

/// Fails attempts until one is under way whose failure is followed by a pause; tells its number.
fn fail(script: &mut Script, attempts: u32) {
    for attempt in 1..=attempts {
        script.advance(LONG_MS);
        let turn = script.turn("work");
        assert_eq!(turn.token.attempt, attempt);
        if attempt < attempts {
            let (token, result) = (turn.token, TurnResult::Cancelled);
            script.event(Event::TurnResult { token, result });
        }
    }
}

/// What keeps killing its node does not go round at full speed: (attempts, pause of the next one).
#[test]
fn the_pause_before_a_retry_counts_for_the_next_owner() {
    for (attempts, pause_ms) in [(6, 80), (8, 320), (10, 1_280)] {
        let mut script = host();
        script.invoke(None, Mode::Tell, "alice", "work");
        fail(&mut script, attempts);
        // The whole node dies while the attempt runs.
        script.replace(&[Kind::actor("Account")]);
        let grace_ms = Limits::default().grace_ms;
        script.advance(grace_ms.max(pause_ms) - 1);
        assert!(script.turns.is_empty(), "after {attempts} attempts: {:?}", script.turns);
        script.advance(1);
        let next = script.turn("work");
        assert_eq!(next.token.attempt, attempts + 1);
        script.finish(&next, done(""));
        script.assert_idle();
    }
}

#[test]
fn without_a_lease_nothing_starts() {
    let mut script = host();
    let root = script.invoke(None, Mode::Call, "alice", "root");
    let turn = script.turn("root");
    script.event(Event::Lease { valid: false });
    let nested = script.invoke(Some(&turn), Mode::Call, "bob", "nested");
    let call = script.invoke(None, Mode::Call, "carol", "call");
    let tell = script.invoke(None, Mode::Tell, "dave", "tell");
    assert!(script.answers.remove(&tell).is_some_and(|a| a.is_ok()), "it is accepted");
    let (token, result) = (turn.token, TurnResult::Cancelled);
    // A retry would wait for its call first, so the call fails with the attempt.
    script.event(Event::TurnResult { token, result });
    script.advance(5_000);
    assert!(script.turns.is_empty(), "another node may reign already: {:?}", script.turns);
    script.event(Event::Lease { valid: true });
    let mut methods: Vec<_> = script.turns.iter().map(|turn| turn.method.to_string()).collect();
    methods.sort();
    assert_eq!(methods, ["call", "nested", "tell"]);
    for turn in std::mem::take(&mut script.turns) {
        script.finish(&turn, done(""));
    }
    script.outcome(call);
    assert!(script.answers.remove(&nested).is_some_and(|answer| answer.is_err()));
    let retry = script.turn("root");
    script.finish(&retry, done("r"));
    assert_eq!(script.outcome(root), done("r"));
    script.assert_idle();
}
