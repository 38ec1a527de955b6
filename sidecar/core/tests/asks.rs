//! What is asked of owners from outside turns: answered only by a reign that is proved to be current, and asked of
//! whoever may know, never in circles.

mod script;

use kar_core::Event;
use kar_core::assign;
use kar_core::effect::{RequestError, Response};
use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Kind, NodeId, PartitionId, RequestId, Uuid};
use kar_core::invocation::{Mode, Target};
use kar_core::message::{AwaitResult, Control, ControlResult, Message, ReadResult};

use script::{Script, done};

const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

fn account() -> Kind {
    Kind::actor("Account")
}

/// Partition of an account.
fn home(actor: &str) -> PartitionId {
    let target = Target { kind: account(), actor: Some(actor.into()), affinity: None };
    PartitionId::new(account(), assign::partition_index(&target, Uuid(0), 2))
}

fn unknown(n: u128) -> InvocationId {
    InvocationId { home: home("alice"), uuid: Uuid(n) }
}

fn await_of(script: &mut Script, invocation: InvocationId) -> RequestId {
    script.request(Operation::Await { invocation })
}

fn is_unknown(answer: Option<&Result<Response, RequestError>>) -> bool {
    matches!(answer, Some(Err(RequestError::UnknownInvocation(_))))
}

#[test]
fn an_owner_says_unknown_only_when_it_has_read_to_the_end() {
    let mut script = Script::new(&[account()]);
    script.hold_barriers = true;
    let awaiting = await_of(&mut script, unknown(1));
    assert!(script.answers.is_empty(), "a successor may know it: {:?}", script.answers);
    assert_eq!(script.barriers, [home("alice")]);
    script.read_end();
    assert!(is_unknown(script.answers.get(&awaiting)), "{:?}", script.answers);
    assert_eq!(script.barriers, [], "one barrier is enough");
}

#[test]
fn an_owner_whose_reign_is_over_never_says_unknown() {
    let mut script = Script::new(&[account()]);
    script.peer(SECOND, &[]);
    script.hold_barriers = true;
    let claim = script.claimed_by(&home("alice"), SECOND);
    let awaiting = await_of(&mut script, unknown(1));
    script.event(claim);
    script.advance(100);
    assert!(!script.answers.contains_key(&awaiting), "{:?}", script.answers);
    let asked = |(to, message): &(NodeId, Message)| {
        *to == SECOND && matches!(message, Message::Await { .. })
    };
    assert!(script.sent.iter().any(asked), "the new owner is asked: {:?}", script.sent);
}

/// The invocation may have been accepted by a successor after the barrier was set for somebody else.
#[test]
fn who_asks_after_a_barrier_was_set_waits_for_the_next_one() {
    let mut script = Script::new(&[account()]);
    script.hold_barriers = true;
    let first = await_of(&mut script, unknown(1));
    let flood: Vec<_> = (2..200).map(|n| await_of(&mut script, unknown(n))).collect();
    assert_eq!(script.barriers.len(), 1, "one barrier at a time");
    script.read_end();
    assert!(is_unknown(script.answers.get(&first)));
    assert_eq!(script.answers.len(), 1, "{:?}", script.answers);
    assert_eq!(script.barriers.len(), 1, "one for all the others");
    script.read_end();
    assert!(flood.iter().all(|request| is_unknown(script.answers.get(request))));
    assert!(script.barriers.is_empty());
}

#[test]
fn a_flood_of_awaits_holds_back_no_turn() {
    let mut script = Script::new(&[account()]);
    script.hold_barriers = true;
    await_of(&mut script, unknown(1));
    let call = script.invoke(None, Mode::Call, "alice", "work");
    let turn = script.turn("work");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
}

#[test]
fn what_became_known_while_the_log_was_read_is_answered() {
    let mut script = Script::new(&[account()]);
    let start = script.invoke(None, Mode::Start, "alice", "work");
    let Some(Ok(Response::Accepted { invocation })) = script.answers.remove(&start) else {
        panic!("{:?}", script.answers)
    };
    script.hold_barriers = true;
    let known = await_of(&mut script, invocation);
    assert!(script.barriers.is_empty(), "what it holds needs no proof");
    let turn = script.turn("work");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(known), done("ok"));
}

#[test]
fn a_barrier_that_was_lost_with_the_reading_is_made_good_by_the_next_reading() {
    let mut script = Script::new(&[account()]);
    script.hold_barriers = true;
    let awaiting = await_of(&mut script, unknown(1));
    script.barriers.clear();
    script.event(Event::LogLost { partition: home("alice") });
    assert!(is_unknown(script.answers.get(&awaiting)), "{:?}", script.answers);
}

/// A node that hosts nothing, whose view says that `SECOND` should own everything.
fn outsider() -> Script {
    let mut script = Script::new(&[]);
    script.members.kinds.insert(account(), 2);
    script.peer(SECOND, &[account()]);
    script.peer(THIRD, &[]);
    assert_eq!(assign::desired_owner(&script.members, &home("alice")), Some(SECOND));
    script.sent.clear();
    script
}

fn await_message(script: &mut Script, from: NodeId, request: RequestId, result: AwaitResult) {
    script.event(Event::Peer { from, message: Message::Awaited { request, result } });
}

/// Whom the node has asked since the last time.
fn asked(script: &mut Script) -> Vec<NodeId> {
    let sent = script.sent.drain(..);
    let asks = sent.filter(|(_, m)| matches!(m, Message::Await { .. } | Message::Read { .. }));
    asks.map(|(to, _)| to).collect()
}

#[test]
fn a_hint_is_followed_at_once_and_circles_are_broken_by_pauses() {
    let mut script = outsider();
    let request = await_of(&mut script, unknown(1));
    assert_eq!(asked(&mut script), [SECOND]);
    for _ in 0..5 {
        // Two nodes with stale views name each other.
        await_message(&mut script, SECOND, request, AwaitResult::NotOwner(Some(THIRD)));
        assert_eq!(asked(&mut script), [THIRD], "a hint is followed at once");
        await_message(&mut script, THIRD, request, AwaitResult::NotOwner(Some(SECOND)));
        assert_eq!(asked(&mut script), [], "not in a circle");
        script.advance(500);
        assert_eq!(asked(&mut script), [SECOND], "the membership's wish, after a pause");
    }
    await_message(&mut script, SECOND, request, AwaitResult::NotOwner(Some(THIRD)));
    await_message(&mut script, THIRD, request, AwaitResult::Done(done("at last")));
    assert_eq!(script.outcome(request), done("at last"));
}

#[test]
fn refusals_in_a_row_are_asked_again_more_and_more_slowly() {
    let mut script = outsider();
    let request = await_of(&mut script, unknown(1));
    let mut times = Vec::new();
    for _ in 0..8 {
        assert_eq!(asked(&mut script), [SECOND]);
        let since = script.now;
        await_message(&mut script, SECOND, request, AwaitResult::NotOwner(None));
        while script.sent.is_empty() {
            script.advance(10);
        }
        times.push(script.now - since);
    }
    assert_eq!(times, [50, 100, 200, 400, 500, 500, 500, 500]);
    // A change of the membership is news: it is asked soon again.
    asked(&mut script);
    script.event(Event::Members(script.members.clone()));
    await_message(&mut script, SECOND, request, AwaitResult::NotOwner(None));
    script.advance(50);
    assert_eq!(asked(&mut script), [SECOND]);
}

#[test]
fn a_refusal_of_a_node_that_is_not_asked_any_more_changes_nothing() {
    let mut script = outsider();
    let read = script.read_outside("Account", "alice", None);
    assert_eq!(asked(&mut script), [SECOND]);
    let refusal = Message::ReadDone { request: read, result: ReadResult::NotOwner(Some(SECOND)) };
    script.event(Event::Peer { from: THIRD, message: refusal });
    assert_eq!(asked(&mut script), []);
    let hint = Message::ReadDone { request: read, result: ReadResult::NotOwner(Some(NodeId(9))) };
    script.event(Event::Peer { from: SECOND, message: hint });
    assert_eq!(asked(&mut script), [], "nobody can reach the hinted one");
    script.advance(50);
    assert_eq!(asked(&mut script), [SECOND]);
}

/// An owner that has sent a dead letter again, or dropped it, knows no such letter when it is asked once more.
#[test]
fn what_may_have_been_done_is_not_called_unknown() {
    let uuid = Uuid(1);
    let table = [
        (Control::Redrive(uuid), &[false][..], false),
        (Control::Redrive(uuid), &[false, false], true),
        (Control::Discard(uuid), &[true, false], false),
        (Control::Discard(uuid), &[true, false, false], true),
        (Control::Inspect(uuid), &[false, false], false),
    ];
    for (control, rounds, may_be_done) in table {
        let mut script = Script::new(&[]);
        script.members.kinds.insert(account(), 2);
        script.peer(SECOND, &[account()]);
        let request = script.request(Operation::Control { home: home("alice"), control });
        for (round, is_refused) in rounds.iter().enumerate() {
            if round > 0 {
                script.advance(script.limits.channel_timer_ms);
            }
            let asked = script.sent.drain(..).filter(|(to, message)| {
                *to == SECOND && matches!(message, Message::Control { .. })
            });
            assert_eq!(asked.count(), 1, "{control:?}");
            if *is_refused {
                let result = ControlResult::NotOwner(None);
                let message = Message::ControlDone { request, result };
                script.event(Event::Peer { from: SECOND, message });
            }
        }
        let message = Message::ControlDone { request, result: ControlResult::Unknown };
        script.event(Event::Peer { from: SECOND, message });
        match script.answers.get(&request) {
            Some(Err(RequestError::Unknown(_))) if may_be_done => {}
            answer => assert!(is_unknown(answer) && !may_be_done, "{control:?}: {answer:?}"),
        }
    }
}
