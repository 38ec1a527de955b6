//! What a new owner finds: attempts counted, channels of nodes that are gone, operations of turns in their order.

mod script;

use kar_core::Event;
use kar_core::effect::{RequestError, Response};
use kar_core::event::{Member, Offer, Operation};
use kar_core::ids::{Kind, NodeId, Sender, SessionId};
use kar_core::invocation::{Invocation, Mode, Owed, Target};
use kar_core::limits::Limits;
use kar_core::message::Message;
use kar_core::record::{Op, Record};

use script::{Script, done, text};

/// Longer than every grace.
const LONG_MS: u64 = 40_000;

#[test]
fn the_first_retry_is_the_second_attempt_whoever_held_the_partition_meanwhile() {
    let account = [Kind::actor("Account")];
    let mut script = Script::new(&account);
    script.invoke(None, Mode::Tell, "alice", "work");
    assert_eq!(script.turn("work").token.attempt, 1);
    // A node without hosts takes over, and hands over in order: nothing runs there.
    script.replace(&[]);
    script.advance(LONG_MS);
    script.event(Event::Drain);
    script.advance(LONG_MS);
    assert!(script.drained);
    script.replace(&account);
    script.advance(LONG_MS);
    let second = script.turn("work");
    assert_eq!(second.token.attempt, 2);
    // It has run: the next one is the third, also after an orderly end.
    script.event(Event::Drain);
    script.advance(script.limits.drain_timeout_ms + 1);
    let result = kar_core::event::TurnResult::Cancelled;
    script.event(Event::TurnResult { token: second.token, result });
    script.advance(LONG_MS);
    assert!(script.drained);
    script.replace(&account);
    let third = script.turn("work");
    assert_eq!(third.token.attempt, 3);
    script.finish(&third, done(""));
    script.assert_idle();
}

#[test]
fn what_never_ran_is_a_first_attempt_after_an_orderly_end() {
    let account = [Kind::actor("Account")];
    let mut script = Script::new(&account);
    let first = script.invoke(None, Mode::Tell, "alice", "first");
    script.invoke(None, Mode::Tell, "alice", "second");
    assert!(script.answers.contains_key(&first));
    let turn = script.turn("first");
    script.event(Event::Drain);
    script.finish(&turn, done(""));
    script.advance(LONG_MS);
    assert!(script.drained && script.turns.is_empty());
    script.replace(&account);
    assert_eq!(script.turn("second").token.attempt, 1);
}

#[test]
fn channels_of_departed_nodes_are_remembered_in_bounded_space() {
    let limits = Limits { closed_channels_max: 8, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    let call = script.invoke(None, Mode::Call, "alice", "warm");
    let turn = script.turn("warm");
    script.finish(&turn, done(""));
    script.outcome(call);
    // Older than all that come and go, and never heard here: it stays a possible sender.
    let (old, offer) = (NodeId(50), Member::default());
    script.members.nodes.insert(old, offer);
    for id in 100..300 {
        ask(&mut script, NodeId(id), u64::from(id % 2 == 0));
        if id % 2 == 0 {
            let turn = script.turn("ask");
            script.finish(&turn, done(""));
        }
        script.members.nodes.remove(&NodeId(id));
        script.event(Event::Members(script.members.clone()));
        script.advance(LONG_MS);
    }
    let kept: Vec<_> = script.node.partitions().iter().map(|p| p.closed_channels).collect();
    assert!(kept.iter().all(|n| *n <= 8 + 3), "{kept:?}");
    let heard: Vec<_> = script.node.partitions().iter().map(|p| p.senders).collect();
    assert!(heard.iter().all(|n| *n <= 3), "{heard:?}");
    for id in [100, 200, 298] {
        script.sent.clear();
        ask(&mut script, NodeId(id), 2);
        assert!(script.turns.is_empty(), "node {id} was heard after its channel was closed");
        let told = |(to, message): &(NodeId, Message)| {
            *to == NodeId(id) && matches!(message, Message::ChannelClosed { .. })
        };
        assert!(script.sent.iter().any(told), "{:?}", script.sent);
    }
    ask(&mut script, old, 1);
    let turn = script.turn("ask");
    script.finish(&turn, done(""));
}

/// A call of another node arrives, to the partition that `alice` is in; number 0: it only opens its channel.
fn ask(script: &mut Script, from: NodeId, number: u64) {
    ask_as(script, from, number, false);
}

/// The same; `again`: it may have been sent to an earlier reign.
fn ask_as(script: &mut Script, from: NodeId, number: u64, again: bool) {
    script.members.nodes.entry(from).or_default();
    script.event(Event::Members(script.members.clone()));
    script.event(Event::PeerUp { node: from });
    let target =
        Target { kind: Kind::actor("Account"), actor: Some("alice".into()), affinity: None };
    let uuid = kar_core::ids::Uuid(u128::from(from.0) << 64 | u128::from(number));
    let index = kar_core::assign::partition_index(&target, uuid, 2);
    let to = kar_core::ids::PartitionId::new(target.kind, index);
    let served = script.node.partitions();
    let epoch = served.iter().find(|p| p.id == to).expect("it is served").epoch;
    let invocation =
        Invocation { uuid, actor: target.actor, method: "ask".into(), ..script::invocation() };
    let sender = Sender::Node(from);
    let open = Message::Open {
        sender: sender.clone(),
        from_epoch: 0,
        to: to.clone(),
        highest: number,
        open: Vec::from_iter((number > 0).then_some(number)),
        answered: Vec::new(),
        serial: 1,
    };
    script.event(Event::Peer { from, message: open });
    if number == 0 {
        return;
    }
    let message = Message::Request {
        sender,
        from_epoch: 0,
        to,
        epoch,
        number,
        floor: 0,
        closed_from: None,
        asks: false,
        promised: false,
        again,
        owed: Owed::Invocation(invocation.into()),
    };
    script.event(Event::Peer { from, message });
}

#[test]
fn what_a_turn_asks_for_takes_effect_in_order_also_while_a_kind_is_not_known() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let call = script.invoke(None, Mode::Call, "alice", "work");
    let turn = script.turn("work");
    script.hold_kinds = true;
    let unknown = |actor: &str, kind: &str| Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Tell,
        target: Target { kind: Kind::actor(kind), actor: Some(actor.into()), affinity: None },
        method: "note".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    };
    let first = script.request(unknown("first", "Later"));
    let set = script.set(&turn, "k", "v");
    let second = script.request(unknown("second", "Account"));
    let third = script.request(unknown("third", "Latest"));
    let flush = script.request(Operation::Flush { turn: turn.token.clone() });
    script.finish(&turn, done("ok"));
    assert!(script.answers.is_empty(), "{:?}", script.answers);
    // It has returned: what comes now is not part of it.
    let late = script.set(&turn, "k", "late");
    let answer = script.answers.remove(&late);
    assert!(matches!(answer, Some(Err(RequestError::TurnEnded(_)))), "{answer:?}");
    for kind in ["Later", "Latest"] {
        assert!(!script.answers.contains_key(&third), "before its kind is known");
        script.members.kinds.insert(Kind::actor(kind), 2);
        script.event(Event::Members(script.members.clone()));
    }
    for request in [first, second, third] {
        let answer = script.answers.remove(&request);
        assert!(matches!(answer, Some(Ok(Response::Accepted { .. }))), "{answer:?}");
    }
    assert_eq!(script.answers.remove(&set), Some(Ok(Response::Ok)));
    assert_eq!(script.answers.remove(&flush), Some(Ok(Response::Ok)));
    assert_eq!(script.outcome(call), done("ok"));
    let records = script.logs.values().flatten();
    let progress: Vec<Vec<_>> = records
        .filter_map(|record| match &**record {
            Record::Batch { ops, .. } => ops.iter().find_map(|op| match op {
                Op::Progress { segment, .. } => {
                    assert_eq!(segment.state.len(), 1);
                    let actor = |s: &kar_core::record::Send| match &s.obligation.owed {
                        Owed::Invocation(invocation) => invocation.actor.clone(),
                        _ => None,
                    };
                    Some(segment.sends.iter().filter_map(actor).collect())
                }
                _ => None,
            }),
            _ => None,
        })
        .collect();
    assert_eq!(progress, [["first".into(), "second".into(), "third".into()]]);
}

#[test]
fn a_turn_that_is_cancelled_while_a_kind_is_not_known_leaves_nothing_waiting() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    script.invoke(None, Mode::Tell, "alice", "work");
    let turn = script.turn("work");
    script.hold_kinds = true;
    let target = Target { kind: Kind::actor("Later"), actor: Some("x".into()), affinity: None };
    let call = script.request(Operation::Invoke {
        turn: Some(turn.token.clone()),
        mode: Mode::Call,
        target,
        method: "note".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    });
    let set = script.set(&turn, "k", "v");
    let result = kar_core::event::TurnResult::Cancelled;
    script.event(Event::TurnResult { token: turn.token.clone(), result });
    for request in [call, set] {
        let answer = script.answers.remove(&request);
        assert!(matches!(answer, Some(Err(RequestError::TurnSuperseded(_)))), "{answer:?}");
    }
    let again = script.turn("work");
    assert_eq!(again.token.attempt, 2);
    script.finish(&again, done(""));
    script.assert_idle();
}

/// Section 7: the bound of a hand-over is for turns that do not end, not for calls that keep coming.
#[test]
fn nested_calls_do_not_keep_a_partition_that_is_handed_over() {
    let account = Kind::actor("Account");
    let mut script = Script::new(std::slice::from_ref(&account));
    let index = |name: &str| {
        let target = Target { kind: account.clone(), actor: Some(name.into()), affinity: None };
        kar_core::assign::partition_index(&target, kar_core::ids::Uuid(0), 2)
    };
    let names: Vec<_> = (0..32).map(|n| format!("x{n}")).filter(|n| index(n) == 0).collect();
    let root = script.invoke(None, Mode::Call, &names[0], "root");
    let (first, second) = (script.turn("root"), NodeId(2));
    let member = Member { kinds: vec![account.clone()], ..Member::default() };
    script.members.nodes.insert(second, member);
    script.event(Event::PeerUp { node: second });
    // The members are told with the drain: from then on the other node is wanted as the owner.
    script.event(Event::Drain);
    script.event(Event::Members(script.members.clone()));
    nested(&mut script, second, 1, &names[1]);
    assert!(script.turns.is_empty(), "it waits for the next owner: {:?}", script.turns);
    script.finish(&first, done("ok"));
    assert_eq!(script.outcome(root), done("ok"));
    script.advance(1_000);
    assert!(script.node.partitions().is_empty(), "handed over once its turn has ended");
    let refused = |(to, message): &(NodeId, Message)| {
        *to == second && matches!(message, Message::NotOwner { .. })
    };
    assert!(script.sent.iter().any(refused), "{:?}", script.sent);
}

/// While a turn waits for calls, what it may be waiting for is let in.
#[test]
fn nested_calls_start_in_a_hand_over_while_a_turn_waits_for_calls() {
    let account = Kind::actor("Account");
    let mut script = Script::new(std::slice::from_ref(&account));
    script.invoke(None, Mode::Call, "x0", "root");
    let (first, second) = (script.turn("root"), NodeId(2));
    script.invoke(Some(&first), Mode::Call, "x1", "inner");
    let member = Member { kinds: vec![account.clone()], ..Member::default() };
    script.members.nodes.insert(second, member);
    script.event(Event::PeerUp { node: second });
    script.event(Event::Drain);
    script.event(Event::Members(script.members.clone()));
    let inner = script.turn("inner");
    script.finish(&inner, done("in"));
    script.finish(&first, done("out"));
    script.advance(1_000);
    assert!(script.node.partitions().is_empty() && script.drained);
}

/// What kills its host before its acceptance is in the log comes again with the next owner, and would again be gone
/// without a trace: so it is logged first.
#[test]
fn what_was_sent_before_starts_when_its_acceptance_is_committed() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    ask(&mut script, NodeId(7), 0);
    script.hold = true;
    ask_as(&mut script, NodeId(7), 1, false);
    let first = script.turn("ask");
    script.finish(&first, done(""));
    script.let_go();
    script.hold = true;
    ask_as(&mut script, NodeId(7), 2, true);
    assert!(script.turns.is_empty(), "its acceptance is not committed");
    script.let_go();
    let turn = script.turn("ask");
    script.finish(&turn, done(""));
}

/// A nested call of a partition that another node owns arrives.
fn nested(script: &mut Script, from: NodeId, number: u64, actor: &str) {
    let target = Target { kind: Kind::actor("Account"), actor: Some(actor.into()), affinity: None };
    let uuid = kar_core::ids::Uuid(u128::from(number) << 8);
    let index = kar_core::assign::partition_index(&target, uuid, 2);
    let to = kar_core::ids::PartitionId::new(target.kind, index);
    let served = script.node.partitions();
    let epoch = served.iter().find(|p| p.id == to).map_or(0, |p| p.epoch);
    let partition = kar_core::ids::PartitionId::new(Kind::actor("Other"), 0);
    let sender = Sender::Log { partition, log: kar_core::ids::Uuid(7) };
    let invocation = Invocation {
        uuid,
        actor: Some(actor.into()),
        method: "nested".into(),
        chain: [kar_core::ids::Uuid(9)].into(),
        ..script::invocation()
    };
    let invocation = std::sync::Arc::new(invocation);
    let message = Message::Request {
        sender,
        from_epoch: 1,
        to,
        epoch,
        number,
        floor: number,
        closed_from: None,
        owed: Owed::Invocation(invocation),
        asks: false,
        promised: false,
        again: false,
    };
    script.event(Event::Peer { from, message });
}

/// `host_return_ms`: a host whose stream broke may come back in that time, and nobody else is asked to host for it.
/// What came meanwhile waits, and what needs no host goes on.
#[test]
fn a_host_whose_stream_broke_has_its_time_to_come_back() {
    let kind = Kind::actor("Account");
    let limits = Limits { host_return_ms: 700, ..Limits::default() };
    let mut script = Script::with(std::slice::from_ref(&kind), limits);
    let offers = |script: &Script| script.members.nodes[&script.id].kinds.contains(&kind);
    let session = script.next_session();
    let offer = Offer { kinds: vec![kind.clone()], concurrency: 4, ..Offer::default() };
    let first = SessionId(session.0 - 1);
    script.event(Event::HostDown { session: first, dead: false });
    script.advance(699);
    assert!(offers(&script));
    script.event(Event::HostUp { session, offer: offer.clone() });
    script.advance(LONG_MS);
    assert!(offers(&script), "it is back");
    let next = script.next_session();
    script.event(Event::HostDown { session, dead: false });
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let tell = script.invoke(None, Mode::Tell, "bob", "n");
    assert!(matches!(script.answers.get(&tell), Some(Ok(Response::Accepted { .. }))));
    script.advance(699);
    assert!(offers(&script));
    script.advance(1);
    assert!(!offers(&script), "its time is over");
    assert!(script.turns.is_empty());
    script.event(Event::HostUp { session: next, offer });
    for method in ["m", "n"] {
        let turn = script.turn(method);
        script.finish(&turn, done("ok"));
    }
    assert_eq!(script.outcome(call), done("ok"), "nothing is lost");
    script.assert_idle();
}
