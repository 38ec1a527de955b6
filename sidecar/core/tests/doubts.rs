//! An open call whose number has retired at its callee: who is wrong only the log can tell, so it is asked, and nothing
//! is begun meanwhile.

mod script;

use kar_core::Event;
use kar_core::effect::{Notice, Turn};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, Sender, Uuid};
use kar_core::invocation::{Mode, Target};
use kar_core::message::Message;
use kar_core::record::Record;

use script::{Script, done};

/// A node that says what it likes.
const OTHER: NodeId = NodeId(50);

/// Longer than every pause.
const LONG_MS: u64 = 5_000;

fn kind() -> Kind {
    Kind::actor("Account")
}

/// Where an account is.
fn home(actor: &str) -> PartitionId {
    let target = Target { kind: kind(), actor: Some(actor.into()), affinity: None };
    PartitionId { kind: kind(), index: kar_core::assign::partition_index(&target, Uuid(0), 2) }
}

/// Another account, in alice's partition or in the other one.
fn account(with_alice: bool) -> String {
    let mut names = (0..).map(|n| format!("a{n}"));
    names.find(|name| (home(name) == home("alice")) == with_alice).expect("names have no end")
}

/// Alice calls somebody in the other partition: her call, her turn, what she asked, and the turn of that.
fn calling() -> (Script, RequestId, Turn, RequestId, Turn) {
    let mut script = Script::new(&[kind()]);
    script.event(Event::PeerUp { node: OTHER });
    let root = script.invoke(None, Mode::Call, "alice", "outer");
    let outer = script.turn("outer");
    let nested = script.invoke(Some(&outer), Mode::Call, &account(false), "inner");
    let inner = script.turn("inner");
    script.hold_barriers = true;
    (script, root, outer, nested, inner)
}

/// Somebody tells alice's partition that the number of her call has retired.
fn gone(script: &mut Script) {
    let partition = home("alice");
    let claim = script.logs[&partition].iter().find_map(|record| match **record {
        Record::Claim { id, .. } => Some(id),
        _ => None,
    });
    let sender = Sender::Log { partition, log: claim.expect("it is served") };
    let message = Message::Gone { sender, from: home(&account(false)), number: 1 };
    script.event(Event::Peer { from: OTHER, message });
}

fn alarms(script: &Script) -> usize {
    let is_one = |notice: &&Notice| matches!(notice, Notice::BrokenInvariant { .. });
    script.notices.iter().filter(is_one).count()
}

/// The end of the log is asked for, once, and nothing of the partition begins.
#[track_caller]
fn assert_in_doubt(script: &mut Script) {
    assert_eq!(script.barriers, [home("alice")]);
    gone(script);
    assert_eq!(script.barriers.len(), 1, "it is asked already");
    script.invoke(None, Mode::Tell, &account(true), "new");
    assert!(script.turns.is_empty(), "nothing begins meanwhile: {:?}", script.turns);
    assert_eq!(alarms(script), 0);
}

#[test]
fn what_the_log_does_not_settle_is_an_alarm_and_the_partition_begins_anew() {
    let (mut script, root, _, _, inner) = calling();
    let epoch = script.epoch(&home("alice"));
    gone(&mut script);
    assert_in_doubt(&mut script);
    script.hold_barriers = false;
    script.read_end();
    assert_eq!(alarms(&script), 1);
    // Its reign is over: another one goes by the log, in which the call is open.
    script.advance(LONG_MS);
    assert!(script.epoch(&home("alice")) > epoch);
    script.finish(&inner, done("in"));
    script.advance(LONG_MS);
    let mut methods = Vec::new();
    while let Some(turn) = script.turns.pop_front() {
        methods.push(turn.method.to_string());
        script.finish(&turn, done(&turn.method));
    }
    methods.sort();
    assert_eq!(methods, ["new", "outer"]);
    assert_eq!(script.outcome(root), done("outer"));
    assert_eq!(alarms(&script), 1, "{:?}", script.notices);
    script.assert_idle();
}

#[test]
fn what_is_settled_when_the_end_of_the_log_is_read_was_no_more_than_late() {
    let (mut script, root, outer, nested, inner) = calling();
    let epoch = script.epoch(&home("alice"));
    gone(&mut script);
    assert_in_doubt(&mut script);
    script.finish(&inner, done("in"));
    script.hold_barriers = false;
    script.read_end();
    assert_eq!(alarms(&script), 0);
    assert_eq!(script.outcome(nested), done("in"));
    let new = script.turn("new");
    script.finish(&new, done(""));
    script.finish(&outer, done("out"));
    assert_eq!(script.outcome(root), done("out"));
    assert_eq!(script.epoch(&home("alice")), epoch, "the reign went on");
    script.assert_idle();
}

#[test]
fn who_was_replaced_learns_it_by_its_log_and_raises_no_alarm() {
    let (mut script, ..) = calling();
    let epoch = script.epoch(&home("alice"));
    gone(&mut script);
    assert_in_doubt(&mut script);
    let claimed = script.claimed_by(&home("alice"), OTHER);
    script.event(claimed);
    script.hold_barriers = false;
    script.read_end();
    // The other one is no member, so this node claims the partition again.
    script.advance(LONG_MS);
    assert!(script.epoch(&home("alice")) > epoch + 1);
    assert_eq!(alarms(&script), 0, "{:?}", script.notices);
}

#[test]
fn what_has_an_outcome_already_is_in_no_doubt() {
    let (mut script, root, outer, nested, inner) = calling();
    script.finish(&inner, done("in"));
    assert_eq!(script.outcome(nested), done("in"));
    gone(&mut script);
    assert!(script.barriers.is_empty(), "nothing is asked");
    script.hold_barriers = false;
    script.finish(&outer, done("out"));
    assert_eq!(script.outcome(root), done("out"));
    assert_eq!(alarms(&script), 0);
    script.assert_idle();
}
