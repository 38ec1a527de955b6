//! Hosts that register `strict`: a turn starts when what it stands on is committed, and waits for nothing else.

mod script;

use kar_core::Event;
use kar_core::assign::partition_index;
use kar_core::event::Offer;
use kar_core::ids::{Kind, SessionId, Uuid};
use kar_core::invocation::{Mode, Target};

use script::{Script, done};

fn strict_host() -> Script {
    let mut script = Script::new(&[]);
    let kinds = vec![Kind::actor("Account")];
    let offer = Offer { kinds, concurrency: 8, strict: true, ..Offer::default() };
    script.event(Event::HostUp { session: SessionId(1), offer });
    script
}

/// Two accounts of one partition.
fn neighbours() -> [String; 2] {
    let index = |name: &String| {
        let kind = Kind::actor("Account");
        let target = Target { kind, actor: Some(name.as_str().into()), affinity: None };
        partition_index(&target, Uuid(0), 2)
    };
    let mut names = (0..32).map(|n| format!("x{n}")).filter(|name| index(name) == 0);
    [names.next().expect("half of them"), names.next().expect("half of them")]
}

/// The oldest record under way is committed; what follows it stays under way.
fn commit_one(script: &mut Script) {
    let own = script.held.pop_front().expect("a record is under way");
    script.event(own);
}

#[test]
fn a_turn_waits_for_its_own_actor_and_not_for_its_neighbour() {
    let mut script = strict_host();
    let [alice, bob] = neighbours();
    script.invoke(None, Mode::Call, &alice, "first");
    let first = script.turn("first");
    script.invoke(None, Mode::Call, &alice, "second");
    // Its acceptance is committed.
    script.advance(script.limits.settle_delay_ms);
    script.hold = true;
    script.finish(&first, done("1"));
    assert_eq!(script.held.len(), 1, "the end of the first turn");
    script.invoke(None, Mode::Call, &bob, "other");
    assert_eq!(script.held.len(), 2, "the acceptance of the neighbour's call");
    assert!(script.turns.is_empty(), "neither stands on anything committed");
    commit_one(&mut script);
    let second = script.turn("second");
    assert!(script.turns.is_empty(), "the neighbour's call is not accepted yet");
    script.let_go();
    let other = script.turn("other");
    script.finish(&other, done("3"));
    script.finish(&second, done("2"));
    script.assert_idle();
}

#[test]
fn what_waits_behind_a_turn_is_logged_with_its_end() {
    let mut script = strict_host();
    let records = |script: &Script| script.logs.values().map(Vec::len).sum::<usize>();
    script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    let before = records(&script);
    script.invoke(None, Mode::Call, "alice", "second");
    script.advance(script.limits.accept_delay_ms);
    assert_eq!(records(&script), before, "a record of its own");
    script.finish(&first, done("1"));
    assert_eq!(records(&script), before + 1, "one for both");
    let second = script.turn("second");
    // Behind a long turn it does not wait for ever.
    script.invoke(None, Mode::Call, "alice", "third");
    script.advance(script.limits.settle_delay_ms);
    assert_eq!(records(&script), before + 2);
    script.finish(&second, done("2"));
    let third = script.turn("third");
    script.finish(&third, done("3"));
    script.assert_idle();
}

#[test]
fn a_turn_waits_for_what_was_decided_of_it_behind_other_records() {
    let mut script = strict_host();
    let [alice, bob] = neighbours();
    script.invoke(None, Mode::Call, &alice, "first");
    let first = script.turn("first");
    script.hold = true;
    script.invoke(None, Mode::Call, &bob, "other");
    script.finish(&first, done("1"));
    assert_eq!(script.held.len(), 2);
    commit_one(&mut script);
    let other = script.turn("other");
    script.invoke(None, Mode::Call, &alice, "second");
    assert!(script.turns.is_empty(), "the end of the first turn is not committed");
    script.let_go();
    let second = script.turn("second");
    script.finish(&other, done("3"));
    script.finish(&second, done("2"));
    script.assert_idle();
}
