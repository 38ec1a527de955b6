//! Windows of channels: what is under way at once, at both ends.

mod script;

use kar_core::Event;
use kar_core::event::{Member, Members, Operation};
use kar_core::ids::{Kind, NodeId, PartitionId, RequestId, Sender, Uuid};
use kar_core::invocation::{Invocation, Mode, Outcome, Owed, Target};
use kar_core::limits::Limits;
use kar_core::message::Message;
use script::{Script, done, filled};

const ACCOUNT: &str = "Account";

const OTHER: NodeId = NodeId(2);

/// The numbers of requests that were sent since the last look, those that ask marked.
fn requests(script: &mut Script) -> Vec<(u64, bool)> {
    let sent = script.sent.drain(..).filter_map(|(_, message)| match message {
        Message::Request { number, asks, .. } => Some((number, asks)),
        _ => None,
    });
    sent.collect()
}

/// A client's node whose calls go to a partition of another node.
struct Sending {
    script: Script,
    to: PartitionId,
}

impl Sending {
    fn new(limits: Limits) -> Self {
        let kind = Kind::actor(ACCOUNT);
        let mut script = Script::with(&[], limits);
        let host = Member { kinds: vec![kind.clone()], ..Member::default() };
        script.members.nodes.insert(OTHER, host);
        script.members.kinds.insert(kind.clone(), 1);
        script.event(Event::Members(script.members.clone()));
        script.event(Event::PeerUp { node: OTHER });
        Self { script, to: PartitionId::new(kind, 0) }
    }

    fn call(&mut self, bytes: usize) -> RequestId {
        let kind = Kind::actor(ACCOUNT);
        self.script.request(Operation::Invoke {
            turn: None,
            mode: Mode::Call,
            target: Target { kind, actor: Some("alice".into()), affinity: None },
            method: "m".into(),
            payload: filled(bytes),
            deadline: None,
            trace: "".into(),
            step_key: None,
            retry: None,
            key: None,
        })
    }

    fn answer(&mut self, message: Message) {
        self.script.event(Event::Peer { from: OTHER, message });
    }

    fn sender(&self) -> Sender {
        Sender::Node(NodeId(1))
    }

    fn opened(&mut self, epoch: u64, next: u64, resume_at: Option<u64>) {
        let (sender, to) = (self.sender(), self.to.clone());
        self.answer(Message::Opened { sender, to, epoch, next, resume_at });
    }

    fn known(&mut self, epoch: u64, next: u64) {
        let (sender, from) = (self.sender(), self.to.clone());
        self.answer(Message::Known { sender, from, epoch, next });
    }

    fn reply(&mut self, number: u64) {
        let (sender, from) = (self.sender(), self.to.clone());
        self.answer(Message::Reply { sender, from, number, outcome: done("x") });
    }

    /// The statements made since the last look: open numbers.
    fn statements(&mut self) -> Vec<Vec<u64>> {
        let sent = self.script.sent.drain(..).filter_map(|(_, message)| match message {
            Message::Open { open, .. } => Some(open),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn what_is_sent_again_goes_by_the_window_in_order_and_before_anything_new() {
    let limits = Limits { window_requests_max: 4, ..Limits::default() };
    let mut sending = Sending::new(limits);
    sending.call(1);
    sending.opened(5, 1, None);
    assert_eq!(requests(&mut sending.script), [(1, false)]);
    for _ in 2..=10 {
        sending.call(1);
    }
    assert_eq!(requests(&mut sending.script), [(2, true), (3, false), (4, false)]);
    // It moves with what has arrived, though nothing has ended.
    sending.known(5, 3);
    assert_eq!(requests(&mut sending.script), [(5, true), (6, false)]);
    // The connection breaks: everything that the owner does not know is sent again, a window of it.
    sending.script.event(Event::PeerDown { node: OTHER });
    sending.script.event(Event::PeerUp { node: OTHER });
    requests(&mut sending.script);
    sending.opened(5, 4, None);
    assert_eq!(requests(&mut sending.script), [(4, false), (5, true), (6, false), (7, false)]);
    sending.call(1);
    assert_eq!(requests(&mut sending.script), [], "a new one does not pass the others");
    // An answer is a sign, too; one of an older epoch is none.
    sending.known(4, 8);
    assert_eq!(requests(&mut sending.script), []);
    sending.reply(6);
    assert_eq!(requests(&mut sending.script), [(8, true), (9, false), (10, false)]);
    sending.known(5, 9);
    assert_eq!(requests(&mut sending.script), [(11, true)]);
}

/// A reign that was lost may have run what it was sent: whoever gets it next is told.
#[test]
fn what_was_sent_before_says_so() {
    let again = |sending: &mut Sending| {
        let sent = sending.script.sent.drain(..).filter_map(|(_, message)| match message {
            Message::Request { number, again, .. } => Some((number, again)),
            _ => None,
        });
        sent.collect::<Vec<_>>()
    };
    let limits = Limits { window_requests_max: 2, ..Limits::default() };
    let mut sending = Sending::new(limits);
    for _ in 0..3 {
        sending.call(1);
    }
    sending.opened(5, 1, None);
    assert_eq!(again(&mut sending), [(1, false), (2, false)]);
    sending.script.event(Event::PeerDown { node: OTHER });
    sending.script.event(Event::PeerUp { node: OTHER });
    sending.opened(6, 1, None);
    assert_eq!(again(&mut sending), [(1, true), (2, true)]);
    sending.known(6, 3);
    assert_eq!(again(&mut sending), [(3, false)], "the window had no room for it");
}

#[test]
fn the_window_counts_bytes_and_lets_the_longest_go_alone() {
    let limits = Limits { window_bytes_max: 10_000, ..Limits::default() };
    let mut sending = Sending::new(limits);
    for bytes in [20_000, 20_000, 100, 100] {
        sending.call(bytes);
    }
    sending.opened(5, 1, None);
    assert_eq!(requests(&mut sending.script), [(1, true)]);
    sending.known(5, 2);
    assert_eq!(requests(&mut sending.script), [(2, true)]);
    sending.known(5, 3);
    assert_eq!(requests(&mut sending.script), [(3, false), (4, false)]);
}

#[test]
fn a_request_that_got_lost_is_sent_again_after_a_statement() {
    let mut sending = Sending::new(Limits { window_requests_max: 2, ..Limits::default() });
    for _ in 0..3 {
        sending.call(1);
    }
    sending.opened(5, 1, None);
    assert_eq!(requests(&mut sending.script), [(1, true), (2, false)]);
    // No connection loses single messages; should it happen, the timer's statement mends it.
    sending.script.advance(2_000);
    assert_eq!(sending.statements().first(), Some(&vec![1, 2, 3]));
    sending.opened(5, 2, None);
    assert_eq!(requests(&mut sending.script), [(2, true), (3, false)]);
}

#[test]
fn a_channel_is_stated_again_when_the_last_outcome_of_a_part_has_come() {
    let mut sending = Sending::new(Limits::default());
    for _ in 0..5 {
        sending.call(1);
    }
    sending.opened(5, 1, None);
    sending.script.event(Event::PeerDown { node: OTHER });
    sending.script.event(Event::PeerUp { node: OTHER });
    assert_eq!(sending.statements().last(), Some(&vec![1, 2, 3, 4, 5]));
    // The outcomes come before the answer, or after it.
    sending.reply(1);
    sending.reply(2);
    sending.opened(5, 6, Some(2));
    assert_eq!(sending.statements(), [[3, 4, 5]]);
    sending.opened(5, 6, Some(4));
    assert_eq!(sending.statements(), [[0; 0]; 0]);
    sending.reply(3);
    sending.reply(4);
    assert_eq!(sending.statements(), [[5]]);
    sending.opened(5, 6, None);
    sending.reply(5);
    assert_eq!(sending.script.node.roots_open(), 0);
}

/// Calls of another node arrive at the owner of a partition, and are carried out.
fn ask(script: &mut Script, to: &PartitionId, number: u64, asks: bool) {
    let epoch = script.node.partitions().iter().find(|p| p.id == *to).expect("served").epoch;
    let invocation = Invocation {
        uuid: Uuid(u128::from(number) + 1_000),
        actor: Some(format!("a{number}").as_str().into()),
        ..script::invocation()
    };
    let message = Message::Request {
        sender: Sender::Node(OTHER),
        from_epoch: 0,
        to: to.clone(),
        epoch,
        number,
        floor: 1,
        closed_from: None,
        asks,
        promised: false,
        again: false,
        owed: Owed::Invocation(invocation.into()),
    };
    script.event(Event::Peer { from: OTHER, message });
}

fn serving(limits: Limits) -> (Script, PartitionId) {
    let kind = Kind::actor(ACCOUNT);
    let mut script = Script::with(std::slice::from_ref(&kind), limits);
    script.members.nodes.insert(OTHER, Member::default());
    script.event(Event::Members(Members::clone(&script.members)));
    script.event(Event::PeerUp { node: OTHER });
    (script, PartitionId::new(kind, 0))
}

fn state(script: &mut Script, to: &PartitionId, open: &[u64], answered: &[u64]) {
    let message = Message::Open {
        sender: Sender::Node(OTHER),
        from_epoch: 0,
        to: to.clone(),
        highest: open.last().copied().unwrap_or_default(),
        open: open.to_vec(),
        answered: answered.to_vec(),
        serial: 1,
    };
    script.event(Event::Peer { from: OTHER, message });
}

/// Numbers answered with outcomes since the last look, and what the owner said of the statement.
fn answers(script: &mut Script) -> (Vec<u64>, Option<(u64, Option<u64>)>) {
    let (mut numbers, mut said) = (Vec::new(), None);
    for (_, message) in script.sent.drain(..) {
        match message {
            Message::Reply { number, .. } => numbers.push(number),
            Message::Opened { next, resume_at, .. } => said = Some((next, resume_at)),
            _ => {}
        }
    }
    (numbers, said)
}

#[test]
fn an_owner_answers_a_statement_with_a_window_of_outcomes_and_says_that_there_are_more() {
    let (mut script, to) = serving(Limits { window_bytes_max: 10_000, ..Limits::default() });
    for number in 1..=7 {
        ask(&mut script, &to, number, false);
        if number < 7 {
            let turn = script.turn("m");
            script.finish(&turn, Outcome::Done(filled(4_000)));
        }
    }
    script.sent.clear();
    let all = [1, 2, 3, 4, 5, 6, 7];
    state(&mut script, &to, &all, &[]);
    assert_eq!(answers(&mut script), (vec![1, 2, 3], Some((8, Some(3)))));
    // What has come is closed, or stated as answered; the rest comes.
    state(&mut script, &to, &all[1..], &[2, 3]);
    assert_eq!(answers(&mut script), (vec![4, 5, 6], Some((8, None))));
    // The one that still runs is attached: its outcome comes by itself.
    let turn = script.turn("m");
    script.finish(&turn, done("late"));
    assert_eq!(answers(&mut script), (vec![7], None));
    state(&mut script, &to, &all[1..], &all[1..]);
    assert_eq!(answers(&mut script), (vec![], Some((8, None))));
}

#[test]
fn a_request_that_asks_is_told_what_has_arrived_though_its_turn_runs_on() {
    let (mut script, to) = serving(Limits::default());
    let epoch = script.node.partitions().iter().find(|p| p.id == to).expect("served").epoch;
    ask(&mut script, &to, 1, true);
    ask(&mut script, &to, 2, false);
    let known: Vec<_> = script
        .sent
        .drain(..)
        .filter(|(_, message)| matches!(message, Message::Known { .. }))
        .collect();
    let sender = Sender::Node(OTHER);
    assert_eq!(known, [(OTHER, Message::Known { sender, from: to, epoch, next: 2 })]);
    assert_eq!(script.turns.len(), 2, "nothing has ended");
}
