//! How far an owner runs ahead of its log (rules L4 and L6) is bounded, and the bounds hold up nobody else.

mod script;

use kar_core::ids::Kind;
use kar_core::invocation::Mode;
use kar_core::limits::Limits;

use script::{Script, done};

const CALLS: usize = 10;

fn kinds() -> [Kind; 1] {
    [Kind::actor("Account")]
}

/// Finishes every turn that starts; how many there were.
fn finish_all(script: &mut Script) -> usize {
    let mut started = 0;
    while let Some(turn) = script.turns.pop_front() {
        started += 1;
        script.finish(&turn, done("ok"));
    }
    started
}

#[test]
fn a_hot_actors_turns_run_ahead_of_the_log_up_to_the_bound() {
    let limits = Limits { speculation_per_actor_max: 3, ..Limits::default() };
    let mut script = Script::with(&kinds(), limits);
    script.hold = true;
    let calls: Vec<_> = (0..CALLS).map(|_| script.invoke(None, Mode::Call, "alice", "m")).collect();
    assert_eq!(finish_all(&mut script), 3, "the next one waits for a commit");
    script.invoke(None, Mode::Call, "bob", "m");
    assert_eq!(finish_all(&mut script), 1, "another actor waits for nobody");
    script.let_go();
    script.advance(10);
    assert_eq!(finish_all(&mut script), CALLS - 3);
    for call in calls {
        assert_eq!(script.outcome(call), done("ok"));
    }
    script.assert_idle();
}

#[test]
fn decisions_beyond_the_records_in_flight_travel_together() {
    let mut script = Script::new(&kinds());
    script.hold = true;
    let calls: Vec<_> = (0..CALLS).map(|_| script.invoke(None, Mode::Call, "alice", "m")).collect();
    assert_eq!(finish_all(&mut script), CALLS);
    let most = Limits::default().records_in_flight_max;
    assert_eq!(script.held.len(), most);
    let before: usize = script.logs.values().map(Vec::len).sum();
    script.let_go();
    script.advance(10);
    for call in calls {
        assert_eq!(script.outcome(call), done("ok"));
    }
    let after: usize = script.logs.values().map(Vec::len).sum();
    assert_eq!(after - before, 1, "what had to wait is one record");
    script.assert_idle();
}
