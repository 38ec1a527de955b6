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
        Self::with(kinds, Limits::default())
    }

    fn with(kinds: &[Kind], limits: Limits) -> Self {
        let config = NodeConfig { id: NodeId(1), seed: 7, limits, rules: Rules::default() };
        let mut script = Self {
            node: Node::new(config),
            now: 1_000,
            logs: BTreeMap::new(),
            store: BTreeMap::new(),
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
                self.members.nodes.insert(NodeId(1), Member { kinds, leaving, transient: false });
                queue.push_back(Event::Members(self.members.clone()));
            }
            Effect::Dispatch { turn, .. } => self.turns.push_back(turn),
            Effect::Respond { request, response } => {
                assert!(self.answers.insert(request, response).is_none(), "answered twice");
            }
            Effect::FenceStore { partition, .. } => {
                queue.push_back(Event::StoreFenced { partition, cell: Cell::default() });
            }
            Effect::WriteStore { partition, upto, ops, .. } => {
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
                queue.push_back(Event::StoreWritten { partition, upto });
            }
            Effect::LoadActor { partition, actor } => {
                let key = (partition.clone(), actor.clone());
                let state = self.store.get(&key).cloned().unwrap_or_default();
                let cell = Cell { epoch: 0, offset: u64::MAX };
                queue.push_back(Event::ActorLoaded { partition, actor, cell, state });
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

    /// Reads an account from outside its turns.
    fn read(&mut self, kind: &str, actor: &str, keys: Option<&[&str]>) -> RequestId {
        let keys = keys.map(|keys| keys.iter().map(|k| (*k).into()).collect());
        self.request(Operation::StateOf { kind: Kind::actor(kind), actor: actor.into(), keys })
    }

    /// What a read from outside was answered with.
    fn state(&mut self, request: RequestId) -> BTreeMap<Arc<str>, Payload> {
        match self.answers.remove(&request) {
            Some(Ok(Response::State(state))) => state,
            other => panic!("no state but {other:?}"),
        }
    }

    /// A call that sets a key of an account.
    fn deposit(&mut self, actor: &str, value: &str) -> RequestId {
        let call = self.invoke(None, Mode::Call, actor, "deposit");
        let turn = self.turn("deposit");
        let ops = vec![StateOp::Set { key: "balance".into(), value: text(value) }];
        let apply = self.request(Operation::StateApply { turn: turn.token.clone(), ops });
        assert_eq!(self.answers.remove(&apply), Some(Ok(Response::Ok)));
        self.finish(&turn, done("ok"));
        call
    }

    fn let_go(&mut self) {
        self.hold = false;
        while let Some(event) = self.held.pop_front() {
            self.event(event);
        }
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
    let member = Member { kinds: vec![kind.clone()], ..Member::default() };
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

#[test]
fn a_read_from_outside_shows_what_is_committed() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let read = script.read("Account", "alice", None);
    assert_eq!(script.state(read), BTreeMap::new());
    script.hold = true;
    script.deposit("alice", "7");
    // Decided, and not committed: neither the old state (a call may have been told already of what follows it) nor the
    // new one (it may never be) can be shown.
    let reads = [None, Some(&["balance", "owner"][..]), Some(&["owner"][..])]
        .map(|keys| script.read("Account", "alice", keys));
    let untouched = script.read("Account", "bob", None);
    assert!(!reads.iter().any(|read| script.answers.contains_key(read)), "{:?}", script.answers);
    script.let_go();
    let balance = BTreeMap::from([("balance".into(), text("7"))]);
    assert_eq!(reads.map(|read| script.state(read)), [balance.clone(), balance, BTreeMap::new()]);
    assert_eq!(script.state(untouched), BTreeMap::new());
    script.assert_idle();
}

#[test]
fn without_a_lease_a_read_waits_and_is_given_up_in_time() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    script.deposit("alice", "7");
    script.answers.clear();
    script.event(Event::Lease { valid: false });
    let read = script.read("Account", "alice", None);
    script.advance(2_000);
    assert!(script.answers.is_empty(), "a successor may reign: {:?}", script.answers);
    script.event(Event::Lease { valid: true });
    script.advance(100);
    assert_eq!(script.state(read).len(), 1);
    script.event(Event::Lease { valid: false });
    let read = script.read("Account", "alice", None);
    script.advance(Limits::default().accept_timeout_ms + 100);
    let answer = script.answers.remove(&read);
    assert!(matches!(answer, Some(Err(RequestError::Unavailable(_)))), "{answer:?}");
    assert_eq!(script.node.poll_timeout(), None, "nothing is asked any more");
}

#[test]
fn a_read_of_a_kind_that_nobody_uses_does_not_make_it() {
    let mut script = Script::new(&[Kind::actor("Account")]);
    let read = script.read("Acount", "alice", None);
    assert!(script.answers.is_empty(), "somebody may just be making it");
    script.advance(1_100);
    assert_eq!(script.state(read), BTreeMap::new());
    let id = "a.Acount/0/0192aaaa-0000-7000-8000-000000000000";
    let invocation = id.parse().expect("an id");
    let awaiting = script.request(Operation::Await { invocation });
    assert!(script.answers.is_empty());
    script.advance(1_100);
    let answer = script.answers.remove(&awaiting);
    assert!(matches!(answer, Some(Err(RequestError::UnknownInvocation(_)))), "{answer:?}");
    assert_eq!(script.members.kinds.keys().collect::<Vec<_>>(), [&Kind::actor("Account")]);
}

#[test]
fn a_state_too_long_for_one_answer_is_refused_with_the_limits_name() {
    let limits = Limits { state_read_bytes_max: 100, ..Limits::default() };
    let mut script = Script::with(&[Kind::actor("Account")], limits);
    script.deposit("alice", &"x".repeat(100));
    let read = script.read("Account", "alice", None);
    match script.answers.remove(&read) {
        Some(Err(RequestError::Limit(hit))) => {
            assert_eq!((hit.name, hit.limit), ("state_read_bytes_max", 100));
        }
        other => panic!("no limit but {other:?}"),
    }
    let read = script.read("Account", "alice", Some(&["owner"]));
    assert_eq!(script.state(read), BTreeMap::new());
}
