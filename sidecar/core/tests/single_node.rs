//! One node against a log that answers at once: the main paths, step by step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use kar_core::effect::{RequestError, Response, Turn};
use kar_core::event::{Cell, Member, Members, Offer, Operation, TurnResult};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, SessionId};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, StateOp, Target};
use kar_core::limits::{Limits, Rules};
use kar_core::message::Message;
use kar_core::record::Record;
use kar_core::{Effect, Event, Node, NodeConfig};

/// A node with logs and a store that answer at once, and whatever came out of it.
struct Script {
    node: Node,
    now: u64,
    logs: BTreeMap<PartitionId, Vec<Arc<Record>>>,
    store: BTreeMap<(PartitionId, Arc<str>), BTreeMap<Arc<str>, Payload>>,
    cells: BTreeMap<PartitionId, Cell>,
    members: Members,
    turns: VecDeque<Turn>,
    answers: BTreeMap<RequestId, Result<Response, RequestError>>,
    next_request: u64,
    /// Appends are kept back while this is set.
    hold: bool,
    held: VecDeque<Event>,
    drained: bool,
    direct_sent: usize,
}

impl Script {
    fn new(kinds: &[Kind]) -> Self {
        let config = NodeConfig {
            id: NodeId(1),
            seed: 7,
            limits: Limits::default(),
            rules: Rules::default(),
        };
        let mut script = Self {
            node: Node::new(config),
            now: 1_000,
            logs: BTreeMap::new(),
            store: BTreeMap::new(),
            cells: BTreeMap::new(),
            members: Members::default(),
            turns: VecDeque::new(),
            answers: BTreeMap::new(),
            next_request: 0,
            hold: false,
            held: VecDeque::new(),
            drained: false,
            direct_sent: 0,
        };
        script.members.nodes.insert(NodeId(1), Member::default());
        script.event(Event::Members(script.members.clone()));
        let offer = Offer { kinds: kinds.to_vec(), concurrency: 4, strict: false };
        script.event(Event::HostUp { session: SessionId(1), offer });
        script
    }

    fn event(&mut self, event: Event) {
        let mut queue = VecDeque::from([event]);
        while let Some(event) = queue.pop_front() {
            self.node.handle(self.now, event);
            while let Some(append) = self.node.poll_append() {
                let log = self.logs.entry(append.partition.clone()).or_default();
                log.push(append.record);
                let offset = log.len() as u64;
                let own = Event::LogOwn {
                    partition: append.partition,
                    offset,
                    proposal: append.proposal,
                };
                if self.hold { self.held.push_back(own) } else { queue.push_back(own) }
            }
            while let Some(effect) = self.node.poll_effect() {
                self.carry_out(effect, &mut queue);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, queue: &mut VecDeque<Event>) {
        match effect {
            Effect::ReadLog { partition, from } => {
                let log = self.logs.entry(partition.clone()).or_default();
                for (at, record) in log.iter().enumerate().skip(from as usize - 1) {
                    let (partition, record) = (partition.clone(), (**record).clone());
                    queue.push_back(Event::LogRead { partition, offset: at as u64 + 1, record });
                }
                queue.push_back(Event::LogEnd { partition });
            }
            Effect::EnsureKind { kind } => {
                self.members.kinds.insert(kind, 2);
                queue.push_back(Event::Members(self.members.clone()));
            }
            Effect::Offer { kinds, leaving } => {
                self.members.nodes.insert(NodeId(1), Member { kinds, leaving });
                queue.push_back(Event::Members(self.members.clone()));
            }
            Effect::Dispatch { turn, .. } => self.turns.push_back(turn),
            Effect::Respond { request, response } => {
                assert!(self.answers.insert(request, response).is_none(), "answered twice");
            }
            Effect::ReadCell { partition } => {
                let cell = self.cells.get(&partition).copied().unwrap_or_default();
                queue.push_back(Event::StoreCell { partition, cell });
            }
            Effect::FenceStore { partition, epoch } => {
                let cell = self.cells.entry(partition.clone()).or_default();
                let before = *cell;
                cell.epoch = epoch;
                queue.push_back(Event::StoreFenced { partition, epoch, cell: before });
            }
            Effect::WriteStore { partition, expected, upto, ops } => {
                let epoch = expected.epoch;
                let cell = self.cells.entry(partition.clone()).or_default();
                if *cell != expected {
                    let cell = *cell;
                    return queue.push_back(Event::StoreRefused { partition, epoch, cell });
                }
                cell.offset = upto;
                for actor in ops {
                    let state = self.store.entry((partition.clone(), actor.actor)).or_default();
                    for op in actor.ops {
                        match op {
                            StateOp::Set { key, value } => drop(state.insert(key, value)),
                            StateOp::Remove { key } => drop(state.remove(&key)),
                            StateOp::Clear => state.clear(),
                        }
                    }
                }
                queue.push_back(Event::StoreWritten { partition, epoch, upto });
            }
            Effect::LoadActor { partition, epoch, actor } => {
                let key = (partition.clone(), actor.clone());
                let state = self.store.get(&key).cloned().unwrap_or_default();
                let cell = self.cells.get(&partition).copied().unwrap_or_default();
                queue.push_back(Event::ActorLoaded { partition, epoch, actor, cell, state });
            }
            Effect::Notice(_) | Effect::StopLog { .. } | Effect::Cancel { .. } => {}
            Effect::Drained => self.drained = true,
            Effect::Send { message: Message::Direct { .. }, .. } => self.direct_sent += 1,
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn request(&mut self, operation: Operation) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.event(Event::Request { request, operation });
        request
    }

    fn invoke(&mut self, turn: Option<&Turn>, mode: Mode, actor: &str, method: &str) -> RequestId {
        let target =
            Target { kind: Kind::actor("Account"), actor: Some(actor.into()), affinity: None };
        self.request(Operation::Invoke {
            turn: turn.map(|t| t.token.clone()),
            mode,
            target,
            method: method.into(),
            payload: text("in"),
            deadline: None,
            trace: "".into(),
        })
    }

    fn turn(&mut self, method: &str) -> Turn {
        let turn = self.turns.pop_front().unwrap_or_else(|| panic!("no turn for {method}"));
        assert_eq!(&*turn.method, method);
        turn
    }

    fn finish(&mut self, turn: &Turn, outcome: Outcome) {
        let (token, result) = (turn.token.clone(), TurnResult::Ended(outcome));
        self.event(Event::TurnResult { token, result });
    }

    fn outcome(&mut self, request: RequestId) -> Outcome {
        match self.answers.remove(&request) {
            Some(Ok(Response::Outcome { outcome, .. })) => outcome,
            other => panic!("no outcome but {other:?}"),
        }
    }

    fn advance(&mut self, ms: u64) {
        let until = self.now + ms;
        for _ in 0..10_000 {
            match self.node.poll_timeout() {
                Some(at) if at <= until => {
                    self.now = at.max(self.now);
                    self.event(Event::Tick);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("the node asks for ticks without end");
    }

    fn assert_idle(&mut self) {
        self.advance(5_000);
        assert_eq!(self.node.roots_open(), 0);
        for view in self.node.partitions() {
            assert!(view.invocations.is_empty(), "{view:?}");
            assert_eq!((view.owed, view.kept, view.actors.len()), (0, 0, 0), "{view:?}");
        }
    }
}

fn text(text: &str) -> Payload {
    Payload { data: Bytes::copy_from_slice(text.as_bytes()), content_type: "text/plain".into() }
}

fn done(value: &str) -> Outcome {
    Outcome::Done(text(value))
}

#[test]
fn a_root_call_is_answered_once_it_is_committed() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    script.hold = true;
    let call = script.invoke(None, Mode::Call, "alice", "deposit");
    let turn = script.turn("deposit");
    script.finish(&turn, done("ok"));
    assert!(script.answers.is_empty(), "answered before the commit (rule L5)");
    script.hold = false;
    for event in std::mem::take(&mut script.held) {
        script.event(event);
    }
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn calls_of_one_actor_run_one_at_a_time_and_in_order() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let calls: Vec<_> = ["a", "b", "c"].map(|m| script.invoke(None, Mode::Call, "alice", m)).into();
    for (call, method) in calls.into_iter().zip(["a", "b", "c"]) {
        let turn = script.turn(method);
        assert!(script.turns.is_empty(), "two turns of one actor at once (P4)");
        script.finish(&turn, done(method));
        assert_eq!(script.outcome(call), done(method));
    }
    script.assert_idle();
}

#[test]
fn a_nested_call_may_come_back_to_its_actor() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let root = script.invoke(None, Mode::Call, "alice", "outer");
    let outer = script.turn("outer");
    let middle = script.invoke(Some(&outer), Mode::Call, "bob", "middle");
    let bob = script.turn("middle");
    let other = script.invoke(None, Mode::Call, "alice", "other");
    let inner = script.invoke(Some(&bob), Mode::Call, "alice", "inner");
    let inner_turn = script.turn("inner");
    assert!(script.turns.is_empty(), "a stranger was let in");
    script.finish(&inner_turn, done("1"));
    assert_eq!(script.outcome(inner), done("1"));
    script.finish(&bob, done("2"));
    assert_eq!(script.outcome(middle), done("2"));
    script.finish(&outer, done("3"));
    assert_eq!(script.outcome(root), done("3"));
    let stranger = script.turn("other");
    script.finish(&stranger, done("4"));
    assert_eq!(script.outcome(other), done("4"));
    script.assert_idle();
}

#[test]
fn state_is_seen_by_later_turns_and_dropped_with_an_error() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    for (value, outcome) in [
        ("1", done("")),
        ("2", Outcome::Failed(ApplicationError { code: "no".into(), ..Default::default() })),
    ] {
        let call = script.invoke(None, Mode::Call, "alice", "set");
        let turn = script.turn("set");
        let set = StateOp::Set { key: "k".into(), value: text(value) };
        let apply =
            script.request(Operation::StateApply { turn: turn.token.clone(), ops: vec![set] });
        assert_eq!(script.answers.remove(&apply), Some(Ok(Response::Ok)));
        let read = script.request(Operation::StateRead { turn: turn.token.clone(), keys: None });
        let seen = BTreeMap::from([("k".into(), text(value))]);
        assert_eq!(script.answers.remove(&read), Some(Ok(Response::State(seen))));
        script.finish(&turn, outcome.clone());
        assert_eq!(script.outcome(call), outcome);
    }
    let call = script.invoke(None, Mode::Call, "alice", "get");
    let turn = script.turn("get");
    let keys = Some(vec!["k".into(), "absent".into()]);
    let read = script.request(Operation::StateRead { turn: turn.token.clone(), keys });
    let seen = BTreeMap::from([("k".into(), text("1"))]);
    assert_eq!(script.answers.remove(&read), Some(Ok(Response::State(seen))));
    script.finish(&turn, done(""));
    script.outcome(call);
    script.assert_idle();
}

#[test]
fn a_dead_host_is_replaced_and_its_turn_tried_again() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let call = script.invoke(None, Mode::Call, "alice", "slow");
    let first = script.turn("slow");
    script.event(Event::HostDown { session: SessionId(1), dead: true });
    let offer = Offer { kinds: vec![Kind::actor("Account")], concurrency: 4, strict: false };
    script.event(Event::HostUp { session: SessionId(2), offer });
    let second = script.turn("slow");
    assert_eq!((first.token.attempt, second.token.attempt), (1, 2));
    let stale = script.request(Operation::StateRead { turn: first.token.clone(), keys: None });
    assert!(matches!(script.answers.remove(&stale), Some(Err(RequestError::TurnSuperseded(_)))));
    script.finish(&first, done("late"));
    assert!(script.answers.is_empty(), "a superseded turn ended the invocation");
    script.finish(&second, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn tells_and_starts_are_acknowledged_when_durable() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let tell = script.invoke(None, Mode::Tell, "alice", "note");
    assert!(matches!(script.answers.remove(&tell), Some(Ok(Response::Accepted { .. }))));
    let start = script.invoke(None, Mode::Start, "bob", "work");
    let Some(Ok(Response::Accepted { invocation })) = script.answers.remove(&start) else {
        panic!("not accepted")
    };
    let awaiting = script.request(Operation::Await { invocation: invocation.clone() });
    assert!(script.answers.is_empty());
    let note = script.turn("note");
    script.finish(&note, done(""));
    let work = script.turn("work");
    script.finish(&work, done("result"));
    assert_eq!(script.outcome(awaiting), done("result"));
    let again = script.request(Operation::Await { invocation });
    assert_eq!(script.outcome(again), done("result"));
    script.assert_idle();
}

#[test]
fn without_a_host_a_call_waits_or_expires() {
    let mut script = Script::new(&[]);
    let call = script.invoke(None, Mode::Call, "alice", "later");
    let target = Target { kind: Kind::actor("Account"), actor: Some("bob".into()), affinity: None };
    let hasty = script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target,
        method: "soon".into(),
        payload: text(""),
        deadline: Some(script.now + 50),
        trace: "".into(),
    });
    script.advance(200);
    assert_eq!(script.outcome(hasty), Outcome::Expired);
    let offer = Offer { kinds: vec![Kind::actor("Account")], concurrency: 4, strict: false };
    script.event(Event::HostUp { session: SessionId(1), offer });
    let turn = script.turn("later");
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    script.assert_idle();
}

#[test]
fn slots_bound_roots_and_are_given_back_by_suspended_turns() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    for n in 0..6 {
        script.invoke(None, Mode::Call, &format!("a{n}"), "root");
    }
    assert_eq!(script.turns.len(), 4, "concurrency is 4");
    let first = script.turn("root");
    script.invoke(Some(&first), Mode::Call, "z", "nested");
    assert_eq!(script.turns.len(), 5, "a nested turn and one more root");
    while let Some(turn) = script.turns.pop_back() {
        script.finish(&turn, done(""));
    }
    script.finish(&first, done(""));
    script.assert_idle();
}

#[test]
fn draining_releases_every_partition() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let turn = script.turn("m");
    script.event(Event::Drain);
    assert!(!script.drained, "a turn still runs");
    let refused = script.invoke(None, Mode::Call, "alice", "m");
    assert_eq!(script.answers.remove(&refused), Some(Err(RequestError::Draining)));
    script.finish(&turn, done("ok"));
    assert_eq!(script.outcome(call), done("ok"));
    assert!(script.drained);
    assert!(script.node.partitions().is_empty());
}

#[test]
fn a_direct_call_waits_a_moment_for_the_connection_to_a_live_host() {
    let kind = Kind::service("reads");
    let mut script = Script::new(&[]);
    let ask = |script: &mut Script, number| {
        let operation = Operation::InvokeDirect {
            kind: kind.clone(),
            method: "get".into(),
            payload: Payload::default(),
            trace: "".into(),
        };
        let request = RequestId(number);
        script.event(Event::Request { request, operation });
        request
    };
    let none = ask(&mut script, 101);
    assert_eq!(script.answers.remove(&none), Some(Err(RequestError::NoHost(kind.clone()))));
    // A host is a member, but not connected yet.
    let member = Member { kinds: vec![kind.clone()], leaving: false };
    script.members.nodes.insert(NodeId(2), member);
    script.event(Event::Members(script.members.clone()));
    let sent = ask(&mut script, 102);
    assert!(script.answers.is_empty(), "it waits");
    script.event(Event::PeerUp { node: NodeId(2) });
    assert_eq!(script.direct_sent, 1);
    script.event(Event::PeerDown { node: NodeId(2) });
    let lost = script.answers.remove(&sent);
    assert!(
        matches!(lost, Some(Err(RequestError::Unknown(_)))),
        "it was sent, then lost: {lost:?}"
    );
    // Nor does it wait for ever.
    let late = ask(&mut script, 103);
    assert!(script.answers.is_empty(), "it waits");
    script.now = script.node.poll_timeout().expect("it is waited for");
    script.event(Event::Tick);
    while script.answers.is_empty() {
        script.now = script.node.poll_timeout().expect("it is waited for");
        script.event(Event::Tick);
    }
    assert_eq!(script.answers.remove(&late), Some(Err(RequestError::NoHost(kind))));
    assert!(script.now <= 2_000 + 1, "it gave up at {}", script.now);
}
