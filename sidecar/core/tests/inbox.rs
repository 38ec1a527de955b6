//! Inboxes: what takes this way, who is told what when, what an owner takes, and marks.
//!
//! Longer than most: all sides of one thing, and the words that its tests are written in.

mod script;

use std::sync::Arc;

use kar_core::Event;
use kar_core::effect::{RequestError, Response};
use kar_core::event::{Member, Operation};
use kar_core::ids::{Kind, NodeId, Number, PartitionId, RequestId, Sender, Uuid};
use kar_core::inbox::{InboxBody, InboxEntry, InboxId, Mark};
use kar_core::invocation::{Invocation, Mode, Owed, Target};
use kar_core::keys::RequestKey;
use kar_core::limits::Limits;
use kar_core::message::Message;
use kar_core::record::{Op, Record};

use script::{Script, done, text};

const OTHER: NodeId = NodeId(50);

fn account() -> Kind {
    Kind::actor("Account")
}

/// The partition that `alice` is in.
fn home() -> PartitionId {
    let target = Target { kind: account(), actor: Some("alice".into()), affinity: None };
    let index = kar_core::assign::partition_index(&target, Uuid(0), 2);
    PartitionId::new(account(), index)
}

/// A node that hosts nothing; another one, without a peer plane, hosts accounts.
fn beside_a_host(limits: Limits) -> Script {
    let mut script = Script::with(&[], limits);
    script.members.kinds.insert(account(), 2);
    let host = Member { kinds: vec![account()], no_peer: true, ..Member::default() };
    script.members.nodes.insert(OTHER, host);
    script.event(Event::Members(script.members.clone()));
    script
}

/// A node that hosts accounts; another one has no peer plane.
fn host(limits: Limits) -> Script {
    let mut script = Script::with(&[account()], limits);
    script.members.kinds.insert(account(), 2);
    let other = Member { no_peer: true, ..Member::default() };
    script.members.nodes.insert(OTHER, other);
    script.event(Event::Members(script.members.clone()));
    script
}

/// What is in the partition's inbox.
fn entries(script: &Script) -> Vec<Arc<InboxEntry>> {
    script.inboxes.get(&InboxId::Partition(home())).cloned().unwrap_or_default()
}

/// Numbers of the requests there.
fn numbers(script: &Script) -> Vec<Number> {
    let number = |entry: &Arc<InboxEntry>| match &entry.body {
        InboxBody::Channel { message: Message::Request { number, .. }, .. } => Some(*number),
        _ => None,
    };
    entries(script).iter().filter_map(number).collect()
}

/// What was said to the other node.
fn said(script: &Script) -> Vec<Message> {
    let entries = script.inboxes.get(&InboxId::of_node(OTHER)).cloned().unwrap_or_default();
    let message = |entry: Arc<InboxEntry>| match &entry.body {
        InboxBody::Node { to, message } if *to == OTHER => Some(message.clone()),
        _ => None,
    };
    entries.into_iter().filter_map(message).collect()
}

/// Somebody puts something into the partition's inbox, and the node reads it.
fn put(script: &mut Script, from: NodeId, body: InboxBody) {
    put_into(script, InboxId::Partition(home()), from, body);
}

/// The same with the node's own inbox.
fn put_message(script: &mut Script, from: NodeId, message: Message) {
    let (inbox, to) = (InboxId::of_node(script.id), script.id);
    put_into(script, inbox, from, InboxBody::Node { to, message });
}

fn put_into(script: &mut Script, inbox: InboxId, from: NodeId, body: InboxBody) {
    let entry = Arc::new(InboxEntry { from, body });
    let all = script.inboxes.entry(inbox.clone()).or_default();
    all.push(entry.clone());
    let offset = all.len() as u64;
    if script.inboxes_read.contains(&inbox) {
        script.event(Event::InboxRead { inbox, offset, entry });
    }
}

fn request(number: Number, closed_from: Number, mode: Mode) -> InboxBody {
    let invocation = Invocation {
        uuid: Uuid(u128::from(number) + 7_000),
        mode,
        actor: Some("alice".into()),
        ..script::invocation()
    };
    let message = Message::Request {
        sender: Sender::Node(OTHER),
        from_epoch: 0,
        to: home(),
        epoch: 0,
        number,
        floor: 0,
        closed_from: None,
        asks: false,
        promised: false,
        again: false,
        owed: Owed::Invocation(invocation.into()),
    };
    InboxBody::Channel { message, closed_from, run: 1 }
}

/// How far the log says that the inbox was taken.
fn taken(script: &Script) -> u64 {
    let records = script.logs.get(&home()).into_iter().flatten();
    let ops = records.filter_map(|record| match &**record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    let taken = ops.flatten().filter_map(|op| match op {
        Op::Inbox { taken } => Some(*taken),
        _ => None,
    });
    taken.max().unwrap_or(0)
}

/// Numbers that the other node was told to be accepted.
fn accepted(script: &Script) -> Vec<Number> {
    let numbers = |message| match message {
        Message::Accepted { numbers, .. } => Some(numbers),
        _ => None,
    };
    said(script).into_iter().filter_map(numbers).flatten().collect()
}

/// What a component may ask for.
enum Ask {
    Keyed,
    Service(&'static str),
}

fn ask(script: &mut Script, ask: Ask) -> RequestId {
    let alice = Target { kind: account(), actor: Some("alice".into()), affinity: None };
    let (target, key) = match ask {
        Ask::Keyed => (alice, Some(Box::new(RequestKey { uuid: Uuid(77), digest: 1 }))),
        Ask::Service(name) => (Target { kind: Kind::service(name), actor: None, ..alice }, None),
    };
    script.request(Operation::Invoke {
        turn: None,
        mode: Mode::Tell,
        target,
        method: "m".into(),
        payload: text("in"),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key,
    })
}

#[test]
fn a_tell_is_accepted_when_it_was_read_back_from_the_inbox_and_nothing_else_is() {
    let mut script = beside_a_host(Limits::default());
    let tell = script.invoke(None, Mode::Tell, "alice", "m");
    assert!(matches!(script.answers.get(&tell), Some(Ok(Response::Accepted { .. }))));
    for mode in [Mode::Call, Mode::Start] {
        let request = script.invoke(None, mode, "alice", "m");
        assert_eq!(script.answers.get(&request), None, "{mode:?}");
    }
    let keyed = ask(&mut script, Ask::Keyed);
    assert_eq!(script.answers.get(&keyed), None, "it may be refused for its key");
    // A statement, and all in order; they stay owed until the owner has them.
    let first = entries(&script).remove(0);
    assert!(matches!(&first.body, InboxBody::Channel { message: Message::Open { .. }, .. }));
    assert_eq!(numbers(&script), [1, 2, 3, 4]);
    assert_eq!(script.node.roots_open(), 4);
}

#[test]
fn what_may_be_lost_begins_again_with_all_that_is_open_and_is_told_only_then() {
    let mut script = beside_a_host(Limits::default());
    script.lose_entries = true;
    let tells: Vec<_> = (0..3).map(|_| script.invoke(None, Mode::Tell, "alice", "m")).collect();
    assert_eq!((numbers(&script), script.answers.len()), (vec![], 0));
    script.lose_entries = false;
    // The next one arrives, the others did not: whoever took the entries would not take it.
    let last = script.invoke(None, Mode::Tell, "alice", "m");
    assert_eq!((numbers(&script), script.answers.len()), (vec![4], 0));
    script.advance(60);
    assert_eq!(numbers(&script), [4, 1, 2, 3, 4]);
    for tell in tells.into_iter().chain([last]) {
        assert!(matches!(script.answers.get(&tell), Some(Ok(Response::Accepted { .. }))));
    }
}

#[test]
fn what_is_lost_again_and_again_is_appended_less_and_less_often() {
    let mut script = beside_a_host(Limits::default());
    script.invoke(None, Mode::Tell, "alice", "m");
    script.lose_entries = true;
    script.invoke(None, Mode::Tell, "alice", "m");
    let runs = |script: &mut Script| {
        let before = script.entries_lost;
        script.advance(600_000);
        script.entries_lost - before
    };
    let (first, second) = (runs(&mut script), runs(&mut script));
    assert!(first < 50 && second < 12, "{first}, {second}");
    script.lose_entries = false;
    script.advance(210_000);
    assert_eq!(numbers(&script), [1, 1, 2]);
}

#[test]
fn peers_are_waited_for_before_the_inbox_is_taken() {
    let mut script = beside_a_host(Limits { inbox_after_ms: 300, ..Limits::default() });
    script.members.nodes.entry(OTHER).and_modify(|member| member.no_peer = false);
    script.event(Event::Members(script.members.clone()));
    let tell = script.invoke(None, Mode::Tell, "alice", "m");
    script.advance(250);
    assert_eq!((numbers(&script), script.answers.get(&tell)), (vec![], None));
    script.advance(100);
    assert_eq!(numbers(&script), [1]);
    assert!(script.answers.contains_key(&tell));
    // They are back: it is stated there what is open, and the owner gets what it does not know.
    script.event(Event::PeerUp { node: OTHER });
    let sender = Sender::Node(script.id);
    let stated = |(to, message): &(NodeId, Message)| {
        *to == OTHER && matches!(message, Message::Open { highest: 1, .. })
    };
    assert!(script.sent.iter().any(stated), "{:?}", script.sent);
    let second = script.invoke(None, Mode::Tell, "alice", "m");
    assert_eq!(numbers(&script), [1, 2], "until the owner has answered");
    script.sent.clear();
    let opened = Message::Opened { sender, to: home(), epoch: 9, next: 2, resume_at: None };
    script.event(Event::Peer { from: OTHER, message: opened });
    let sent: Vec<_> = script
        .sent
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Request { number, promised, .. } => Some((*number, *promised)),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [(2, true)], "it was told to be accepted");
    assert!(script.answers.contains_key(&second));
    let third = script.invoke(None, Mode::Tell, "alice", "m");
    assert_eq!((numbers(&script).len(), script.answers.get(&third)), (2, None));
}

#[test]
fn an_owner_takes_entries_in_order_and_says_in_its_log_how_far() {
    let mut script = host(Limits::default());
    put(&mut script, OTHER, request(1, 1, Mode::Tell));
    // Two was lost on its way: three waits for it.
    put(&mut script, OTHER, request(3, 3, Mode::Tell));
    assert!(said(&script).iter().any(|m| matches!(m, Message::Gap { expected: 2, .. })));
    // Four and five are not to be sent any more.
    put(&mut script, OTHER, request(2, 1, Mode::Tell));
    put(&mut script, OTHER, request(3, 3, Mode::Tell));
    put(&mut script, OTHER, request(6, 4, Mode::Call));
    script.advance(50);
    assert_eq!(taken(&script), 5);
    assert_eq!(accepted(&script), [1, 2, 3]);
    for _ in 0..4 {
        let turn = script.turn("m");
        script.finish(&turn, done("ok"));
    }
    assert!(said(&script).iter().any(|m| matches!(m, Message::Reply { number: 6, .. })));
}

#[test]
fn the_next_owner_goes_on_where_the_log_says_and_takes_nothing_twice() {
    let mut script = host(Limits::default());
    put(&mut script, OTHER, request(1, 1, Mode::Call));
    put(&mut script, OTHER, request(2, 2, Mode::Call));
    script.advance(50);
    let (first, second) = (script.turn("m"), script.turns.len());
    script.finish(&first, done("ok"));
    assert_eq!(second, 0, "one at a time");
    script.inboxes_read.clear();
    put(&mut script, OTHER, request(3, 3, Mode::Call));
    script.replace(&[account()]);
    script.advance(3_000);
    let mut attempts = Vec::new();
    while let Some(turn) = script.turns.pop_front() {
        attempts.push((turn.token.invocation.uuid, turn.token.attempt));
        script.finish(&turn, done("ok"));
    }
    assert_eq!(attempts, [(Uuid(7_002), 2), (Uuid(7_003), 1)]);
    assert_eq!(taken(&script), 3);
}

#[test]
fn what_the_inbox_promises_is_not_refused() {
    let limits = Limits { unfinished_per_partition_max: 1, ..Limits::default() };
    let mut script = host(limits);
    for number in 1..=3 {
        put(&mut script, OTHER, request(number, number, Mode::Tell));
    }
    put(&mut script, OTHER, request(4, 4, Mode::Call));
    let refused: Vec<_> = said(&script)
        .into_iter()
        .filter_map(|m| match m {
            Message::Reply { number, .. } => Some(number),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [4]);
    assert_eq!(script.node.held().unfinished, 3);
    // What there is no room for stays with its sender, whose own bound acts, until it has ended.
    assert_eq!(accepted(&script), [1]);
    for number in [2, 3] {
        let turn = script.turn("m");
        script.finish(&turn, done("ok"));
        assert_eq!(accepted(&script).last(), Some(&(number - 1)));
    }
    // It is asked for meanwhile, and still waits.
    put(&mut script, OTHER, request(3, 3, Mode::Tell));
    assert_eq!(accepted(&script), [1, 2]);
    let turn = script.turn("m");
    script.finish(&turn, done("ok"));
    assert_eq!(accepted(&script), [1, 2, 3]);
}

#[test]
fn a_mark_that_was_read_for_another_channel_closes_the_later_ones_too() {
    // The node follows the inbox because its partition owes something there; its component has said nothing yet.
    let mut script = Script::with(&[Kind::service("Teller")], Limits::default());
    script.members.kinds.insert(account(), 2);
    let host = Member { kinds: vec![account()], no_peer: true, ..Member::default() };
    script.members.nodes.insert(OTHER, host);
    script.event(Event::Members(script.members.clone()));
    ask(&mut script, Ask::Service("Teller"));
    let turn = script.turn("m");
    script.invoke(Some(&turn), Mode::Call, "alice", "m");
    assert!(script.inboxes_read.contains(&InboxId::Partition(home())));
    let mark = Mark { nodes: vec![script.id], ..Mark::default() };
    put(&mut script, OTHER, InboxBody::Mark(mark));
    let tell = script.invoke(None, Mode::Tell, "alice", "m");
    let answer = script.answers.get(&tell);
    assert!(matches!(answer, Some(Err(RequestError::ChannelClosed(_)))), "{answer:?}");
}

#[test]
fn nothing_is_taken_or_told_behind_a_mark() {
    // The owner: everything before the mark is taken, and nothing behind it.
    let mut script = host(Limits::default());
    put(&mut script, OTHER, request(1, 1, Mode::Tell));
    let mark = Mark { nodes: vec![OTHER], ..Mark::default() };
    put(&mut script, NodeId(9), InboxBody::Mark(mark.clone()));
    put(&mut script, OTHER, request(2, 2, Mode::Tell));
    assert_eq!(script.node.held().unfinished, 1);
    assert!(said(&script).iter().any(|m| matches!(m, Message::ChannelClosed { .. })));
    // The sender: what it reads behind the mark was not taken.
    let mut script = beside_a_host(Limits::default());
    let before = script.invoke(None, Mode::Tell, "alice", "m");
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let mark = Mark { nodes: vec![script.id], ..Mark::default() };
    put(&mut script, OTHER, InboxBody::Mark(mark));
    let after = script.invoke(None, Mode::Tell, "alice", "m");
    assert!(matches!(script.answers.get(&before), Some(Ok(Response::Accepted { .. }))));
    assert!(matches!(script.answers.get(&call), Some(Err(RequestError::Unknown(_)))));
    assert!(matches!(script.answers.get(&after), Some(Err(RequestError::ChannelClosed(_)))));
}

#[test]
fn an_inbox_is_trimmed_behind_a_mark_that_repeats_what_is_closed() {
    let limits = Limits { inbox_trim_entries: 4, ..Limits::default() };
    let mut script = host(limits);
    let gone = Mark { nodes: vec![NodeId(5)], ..Mark::default() };
    put(&mut script, OTHER, InboxBody::Mark(gone));
    for number in 1..=3 {
        put(&mut script, OTHER, request(number, number, Mode::Tell));
    }
    script.advance(50);
    let start = script.inbox_starts.get(&InboxId::Partition(home())).copied();
    assert_eq!(start, Some(5));
    let base = entries(&script)[4].clone();
    let InboxBody::Mark(base) = &base.body else { panic!("{base:?}") };
    assert!(base.is_base && base.closes(NodeId(5)) && !base.closes(OTHER));
    assert_eq!(taken(&script), 5);
}

/// `inbox_trim_bytes`: a few long entries are enough, and what comes behind them is taken meanwhile.
#[test]
fn an_inbox_of_long_entries_is_trimmed_by_its_bytes() {
    let limits = Limits { inbox_trim_bytes: 10_000, ..Limits::default() };
    let mut script = host(limits);
    let start = |script: &Script| {
        script.inbox_starts.get(&InboxId::Partition(home())).copied().unwrap_or(1)
    };
    let put_long = |script: &mut Script, number| {
        let mut body = request(number, number, Mode::Tell);
        let InboxBody::Channel { message: Message::Request { owed, .. }, .. } = &mut body else {
            panic!("{body:?}")
        };
        let Owed::Invocation(invocation) = owed else { panic!("{owed:?}") };
        Arc::make_mut(invocation).payload = script::filled(4_000);
        put(script, OTHER, body);
    };
    (1..=2).for_each(|number| put_long(&mut script, number));
    script.advance(50);
    assert_eq!((start(&script), taken(&script)), (1, 2), "that is not enough");
    put_long(&mut script, 3);
    put(&mut script, OTHER, request(4, 4, Mode::Tell));
    script.advance(50);
    // Behind the third one there is a mark that repeats what is closed, and then the fourth one.
    let all = entries(&script);
    let marks = (1_u64..).zip(&all).filter(|(_, e)| matches!(&e.body, InboxBody::Mark(_)));
    let marks: Vec<_> = marks.collect();
    let [(mark, _)] = marks[..] else { panic!("{all:?}") };
    assert_eq!(start(&script), mark);
    assert_eq!(taken(&script), 5);
    assert_eq!(script.turns.len(), 1, "an actor's one after the other");
    let mut ended = 0;
    while let Some(turn) = script.turns.pop_front() {
        script.finish(&turn, done("ok"));
        ended += 1;
    }
    assert_eq!(ended, 4, "nothing is lost");
}

/// The same of the inbox that nodes share: what was read is trimmed one stretch later, for those that are slower.
#[test]
fn the_inbox_of_nodes_is_trimmed_by_its_bytes() {
    let limits = Limits { inbox_trim_bytes: 1_000, ..Limits::default() };
    let mut script = beside_a_host(limits);
    let inbox = InboxId::of_node(script.id);
    let mut stretches = Vec::new();
    let call = script.invoke(None, Mode::Call, "alice", "m");
    for _ in 0..100 {
        let message = Message::ChannelClosed { sender: Sender::Node(NodeId(7)), from: home() };
        put_message(&mut script, OTHER, message);
        let start = script.inbox_starts.get(&inbox).copied().unwrap_or(1);
        if stretches.last() != Some(&start) {
            stretches.push(start);
        }
    }
    assert!(stretches.len() > 3, "{stretches:?}");
    let longest = stretches.windows(2).map(|pair| pair[1] - pair[0]).max();
    let kept = script.inboxes[&inbox].len() as u64 + 1 - stretches[stretches.len() - 1];
    assert!(Some(kept) <= longest.map(|longest| 2 * longest), "{kept} are kept: {stretches:?}");
    // What is meant for this node is taken all the while.
    let (sender, outcome) = (Sender::Node(script.id), done("ok"));
    put_message(&mut script, OTHER, Message::Reply { sender, from: home(), number: 1, outcome });
    assert_eq!(script.outcome(call), done("ok"));
}

#[test]
fn who_loses_its_place_in_its_own_inbox_states_anew() {
    let mut script = beside_a_host(Limits::default());
    let call = script.invoke(None, Mode::Call, "alice", "m");
    let inbox = InboxId::of_node(script.id);
    let message = Message::ChannelClosed { sender: Sender::Node(NodeId(7)), from: home() };
    let body = InboxBody::Node { to: NodeId(7), message };
    let entry = Arc::new(InboxEntry { from: OTHER, body });
    script.event(Event::InboxRead { inbox: inbox.clone(), offset: 1, entry });
    let statements = |script: &Script| {
        let all = entries(script);
        let stated = |e: &&Arc<InboxEntry>| {
            matches!(&e.body, InboxBody::Channel { message: Message::Open { .. }, .. })
        };
        all.iter().filter(stated).count()
    };
    assert_eq!(statements(&script), 1);
    // What was said to it meanwhile is gone: the owner is asked again what became of the call.
    script.event(Event::InboxTrimmed { inbox: inbox.clone(), start: 5 });
    assert_eq!(statements(&script), 2);
    let (sender, outcome) = (Sender::Node(script.id), done("ok"));
    let message = Message::Reply { sender, from: home(), number: 1, outcome };
    let body = InboxBody::Node { to: script.id, message };
    let entry = Arc::new(InboxEntry { from: OTHER, body });
    script.event(Event::InboxRead { inbox: inbox.clone(), offset: 4, entry: entry.clone() });
    assert_eq!(script.answers.get(&call), None, "it is of a reading that has ended");
    script.event(Event::InboxRead { inbox, offset: 5, entry });
    assert!(script.answers.contains_key(&call));
}

#[test]
fn a_node_without_peers_is_asked_what_it_serves_until_it_answers_or_for_a_while() {
    let mut script = beside_a_host(Limits::default());
    let asked = |script: &Script| {
        said(script).iter().filter(|m| matches!(m, Message::Inspect { .. })).count()
    };
    let first = script.request(Operation::ViewOf { node: OTHER });
    assert_eq!(asked(&script), 1);
    script.advance(300);
    assert_eq!(asked(&script), 2, "the first may be lost");
    let view: Arc<[u8]> = b"accounts"[..].into();
    let answer = Message::Inspected { request: first, view: view.clone() };
    put_message(&mut script, NodeId(9), answer.clone());
    assert_eq!(script.answers.get(&first), None, "somebody else's");
    put_message(&mut script, OTHER, answer);
    assert_eq!(script.answers.get(&first), Some(&Ok(Response::View(view))));
    script.advance(300);
    assert_eq!(asked(&script), 2);
    // One that says nothing.
    let second = script.request(Operation::ViewOf { node: OTHER });
    script.advance(1_400);
    assert_eq!(script.answers.get(&second), None);
    script.advance(400);
    assert!(matches!(script.answers.get(&second), Some(Err(RequestError::Unavailable(_)))));
    // The other way round: its driver tells.
    let request = RequestId(77);
    put_message(&mut script, OTHER, Message::Inspect { request });
    let told = Message::Inspected { request, view: b"served"[..].into() };
    assert_eq!(said(&script).last(), Some(&told));
}

#[test]
fn a_direct_call_whose_answer_does_not_come_through_an_inbox_is_unknown_in_time() {
    let mut script = beside_a_host(Limits::default());
    let reads = Kind::service("reads");
    script.members.kinds.insert(reads.clone(), 2);
    script.members.nodes.entry(OTHER).and_modify(|member| member.kinds.push(reads.clone()));
    script.event(Event::Members(script.members.clone()));
    let (method, payload, trace) = ("m".into(), text(""), "".into());
    let call = script.request(Operation::InvokeDirect { kind: reads, method, payload, trace });
    assert!(said(&script).iter().any(|m| matches!(m, Message::Direct { .. })));
    script.advance(script.limits.accept_timeout_ms - 1);
    assert_eq!(script.answers.get(&call), None);
    script.advance(1);
    assert!(matches!(script.answers.get(&call), Some(Err(RequestError::Unknown(_)))));
}

#[test]
fn a_call_by_peers_costs_one_record_one_answer_and_no_word_in_an_inbox() {
    let mut script = host(Limits::default());
    script.members.nodes.insert(OTHER, Member::default());
    script.event(Event::Members(script.members.clone()));
    script.event(Event::PeerUp { node: OTHER });
    let (sender, epoch) = (Sender::Node(OTHER), script.epoch(&home()));
    let open = Message::Open {
        sender,
        from_epoch: 0,
        to: home(),
        highest: 0,
        open: Vec::new(),
        answered: Vec::new(),
        serial: 1,
    };
    script.event(Event::Peer { from: OTHER, message: open });
    let records = |script: &Script| script.logs.get(&home()).map_or(0, Vec::len);
    let before = records(&script);
    script.sent.clear();
    let InboxBody::Channel { message: mut call, .. } = request(1, 1, Mode::Call) else { panic!() };
    if let Message::Request { epoch: meant, .. } = &mut call {
        *meant = epoch;
    }
    script.event(Event::Peer { from: OTHER, message: call });
    let turn = script.turn("m");
    script.finish(&turn, done("out"));
    assert_eq!(records(&script) - before, 1);
    assert!(matches!(&script.sent[..], [(OTHER, Message::Reply { number: 1, .. })]));
    assert!(script.inboxes.values().all(Vec::is_empty), "{:?}", script.inboxes);
}
