//! A node that the membership has given up: what it says of what it sent, and of what it did not.

mod script;

use std::collections::BTreeMap;

use kar_core::effect::{Notice, RequestError, Response};
use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Kind, NodeId, PartitionId, RequestId, Sender, Uuid};
use kar_core::invocation::{Mode, StateOp, Target};
use kar_core::limits::Limits;
use kar_core::message::Message;
use kar_core::select::{Select, Selected};
use kar_core::{Effect, Event, assign};

use script::{Script, filled, text};

const SECOND: NodeId = NodeId(2);

fn account() -> Kind {
    Kind::actor("Account")
}

fn home(actor: &str) -> PartitionId {
    let target = Target { kind: account(), actor: Some(actor.into()), affinity: None };
    PartitionId::new(account(), assign::partition_index(&target, Uuid(0), 2))
}

/// An actor of the other partition than alice's.
fn elsewhere() -> String {
    let others = (0..32).map(|n| format!("x{n}"));
    others.into_iter().find(|name| home(name) != home("alice")).expect("one of many")
}

fn invocation() -> InvocationId {
    InvocationId { home: home("alice"), uuid: Uuid(7) }
}

#[test]
fn a_closed_channel_leaves_open_requests_unknown_and_takes_no_new_ones() {
    let mut script = Script::new(&[]);
    script.members.kinds.insert(account(), 2);
    script.peer(SECOND, &[account()]);
    let call = script.invoke(None, Mode::Call, "alice", "work");
    let tell = script.invoke(None, Mode::Tell, "alice", "note");
    let other = elsewhere();
    let elsewhere = script.invoke(None, Mode::Call, &other, "work");
    let message = Message::ChannelClosed { sender: Sender::Node(script.id), from: home("alice") };
    script.event(Event::Peer { from: SECOND, message });
    for sent in [call, tell] {
        let answer = script.answers.remove(&sent);
        assert!(matches!(answer, Some(Err(RequestError::Unknown(_)))), "{answer:?}");
    }
    let told = Notice::ChannelClosed { partition: home("alice") };
    assert_eq!(script.notices.iter().filter(|n| **n == told).count(), 1);
    script.sent.clear();
    for mode in [Mode::Call, Mode::Tell, Mode::Start] {
        let late = script.invoke(None, mode, "alice", "late");
        match script.answers.remove(&late) {
            Some(Err(RequestError::ChannelClosed(partition))) => {
                assert_eq!(*partition, home("alice"));
            }
            other => panic!("nothing was sent, and that is known: {other:?}"),
        }
    }
    script.advance(2_000);
    let sent = script.sent.iter().any(|(_, m)| matches!(m, Message::Request { .. }));
    assert!(!sent, "{:?}", script.sent);
    assert!(!script.answers.contains_key(&elsewhere), "other channels are open");
    assert_eq!(script.node.roots_open(), 1);
}

/// What a request comes to when its node is given up.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Again,
    Unknown,
    Superseded,
}

#[test]
fn every_request_of_a_node_that_is_given_up_is_answered_or_given_back() {
    let mut script = Script::new(&[account()]);
    script.invoke(None, Mode::Tell, "alice", "work");
    let turn = script.turn("work");
    let (kind, direct) = (Kind::service("greeter"), Kind::service("nobody"));
    script.hold_kinds = true;
    script.hold_loads = true;
    script.hold_barriers = true;
    script.members.kinds.insert(direct.clone(), 2);
    script.peer(SECOND, std::slice::from_ref(&direct));
    // Its host is a member, and not connected.
    script.peer(NodeId(3), &[Kind::service("far")]);
    script.event(Event::PeerDown { node: NodeId(3) });
    script.answers.clear();
    let parked = |kind: &Kind| Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target: Target { kind: kind.clone(), actor: None, affinity: None },
        method: "m".into(),
        payload: text(""),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    };
    let direct_call = |kind: Kind| Operation::InvokeDirect {
        kind,
        method: "m".into(),
        payload: text(""),
        trace: "".into(),
    };
    let token = turn.token.clone();
    let state =
        Operation::StateOf { kind: account(), actor: "alice".into(), select: Select::all() };
    let write = vec![StateOp::Set { key: "k".into(), value: filled(1) }];
    let table = [
        (Operation::StateRead { turn: token.clone(), select: Select::all() }, End::Superseded),
        (
            Operation::StateApply { turn: token.clone(), ops: write, conditions: Vec::new() },
            End::Superseded,
        ),
        (Operation::Flush { turn: token }, End::Superseded),
        (parked(&kind), End::Again),
        (Operation::Await { invocation: invocation() }, End::Again),
        (direct_call(direct), End::Unknown),
        (state, End::Again),
        (direct_call(Kind::service("far")), End::Again),
        (parked(&kind), End::Again),
    ];
    let mut asked = Vec::new();
    for (operation, end) in table {
        let request = script.request(operation.clone());
        assert_eq!(script.answers.get(&request), None, "{operation:?} waits");
        asked.push((request, operation, end));
    }
    let root = script.invoke(None, Mode::Call, "bob", "root");
    asked.push((root, parked(&kind), End::Unknown));
    let again = script.node.end();
    let mut answers = BTreeMap::new();
    while let Some(effect) = script.node.poll_effect() {
        let Effect::Respond { request, response } = effect else { panic!("{effect:?}") };
        assert!(answers.insert(request, response).is_none(), "answered twice");
    }
    assert!(script.node.poll_append().is_none());
    for (request, operation, end) in &asked {
        let given = again.iter().find(|(id, _)| id == request);
        let found = match (given, answers.remove(request)) {
            (Some((_, given)), None) => {
                assert_eq!(given, operation);
                End::Again
            }
            (None, Some(Err(RequestError::Unknown(_)))) => End::Unknown,
            (None, Some(Err(RequestError::TurnSuperseded(_)))) => End::Superseded,
            other => panic!("{operation:?}: {other:?}"),
        };
        assert_eq!(found, *end, "{operation:?}");
    }
    assert!(answers.is_empty(), "{answers:?}");
    let order: Vec<RequestId> = again.iter().map(|(request, _)| *request).collect();
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_node_that_has_not_seen_the_membership_misses_no_kind() {
    let mut script = Script::unseen(Limits::default());
    let awaiting = script.request(Operation::Await { invocation: invocation() });
    let read = script.read_outside("Account", "alice", None);
    script.advance(5_000);
    assert!(script.answers.is_empty(), "it knows nothing: {:?}", script.answers);
    script.members.nodes.insert(script.id, Default::default());
    script.event(Event::Members(script.members.clone()));
    script.advance(500);
    assert!(script.answers.is_empty(), "another node may just have used the kind");
    script.advance(600);
    let answer = script.answers.remove(&awaiting);
    assert!(matches!(answer, Some(Err(RequestError::UnknownInvocation(_)))), "{answer:?}");
    assert_eq!(
        script.answers.remove(&read),
        Some(Ok(Response::State(Selected::Entries(BTreeMap::new()))))
    );
}
