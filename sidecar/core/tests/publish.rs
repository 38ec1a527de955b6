//! Events of turns on their way into topics: with their segment or not at all, in order, once, and never lost silently;
//! and deliveries without success, whose events go to a topic.

mod script;

use std::sync::Arc;

use bytes::Bytes;
use kar_core::Effect;
use kar_core::Event;
use kar_core::effect::{Notice, RequestError, Response, Turn};
use kar_core::event::{Operation, TailCall, TurnResult};
use kar_core::events::{EventOrigin, Publication, PublishResult};
use kar_core::ids::{InvocationId, Kind, Number, Offset, RequestId, TopicPartition};
use kar_core::invocation::{ApplicationError, Mode, Outcome, Payload, Target};
use kar_core::limits::{LimitHit, Limits};
use kar_core::message::Control;

use script::{Script, done, text};

/// Longer than every pause and every wait for an answer.
const LONG_MS: u64 = 40_000;

/// The start of an attribute in a stored event.
const ATTRIBUTE: u8 = 0x52;

fn account() -> [Kind; 1] {
    [Kind::actor("Account")]
}

fn topic(id: &str, partition: u32) -> TopicPartition {
    TopicPartition { id: id.into(), partition }
}

fn failed() -> Outcome {
    let (code, message) = ("no".into(), "a\nb".into());
    Outcome::Failed(ApplicationError { code, message, ..Default::default() })
}

/// A turn publishes.
fn publish(script: &mut Script, turn: &Turn, events: &[(&str, u32, &'static str)]) -> RequestId {
    let publication = |(id, partition, event): &(&str, u32, &'static str)| {
        let event = Bytes::from_static(event.as_bytes());
        Publication { to: topic(id, *partition), event }
    };
    let events = events.iter().map(publication).collect();
    script.request(Operation::Publish { turn: turn.token.clone(), events })
}

fn published(script: &mut Script, turn: &Turn, events: &[(&str, u32, &'static str)]) {
    let request = publish(script, turn, events);
    assert_eq!(script.answers.remove(&request), Some(Ok(Response::Ok)));
}

/// A turn that is to publish.
fn turn(script: &mut Script) -> Turn {
    script.invoke(None, Mode::Tell, "alice", "m");
    script.turn("m")
}

/// A topic says what of a channel has landed.
fn landed(script: &mut Script, asked: &Effect, upto: Number, offset: Offset) {
    answer(script, asked, PublishResult::Landed { upto, offset });
}

fn answer(script: &mut Script, asked: &Effect, result: PublishResult) {
    let (Effect::Publish { partition, to, serial, .. }
    | Effect::LearnPublished { partition, to, serial, .. }) = asked
    else {
        panic!("{asked:?} asks no topic");
    };
    let (partition, to, serial) = (partition.clone(), to.clone(), *serial);
    script.event(Event::Published { partition, to, serial, result });
}

/// The next thing that is asked is what has landed, above a number and an offset.
fn asks(script: &mut Script, above: (Number, Offset)) -> Effect {
    let asked = script.topics.pop_front().expect("a topic is asked");
    let Effect::LearnPublished { upto, since, .. } = &asked else { panic!("{asked:?}") };
    assert_eq!((*upto, *since), above);
    asked
}

/// The next thing that is sent.
fn sends(script: &mut Script) -> (Effect, Vec<(Number, Bytes)>) {
    let sent = script.topics.pop_front().expect("events are sent");
    let Effect::Publish { events, .. } = sent.clone() else { panic!("{sent:?}") };
    (sent, events)
}

fn event(number: Number, event: &'static str) -> (Number, Bytes) {
    (number, Bytes::from_static(event.as_bytes()))
}

fn owed(script: &Script) -> usize {
    script.node.partitions().iter().map(|view| view.owed).sum()
}

#[test]
fn events_go_with_their_segment_in_order_and_once() {
    let mut script = Script::new(&account());
    let turn = turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "a"), ("t", 1, "b"), ("t", 0, "c")]);
    script.hold = true;
    script.finish(&turn, done(""));
    assert!(script.topics.is_empty(), "nothing is sent before it is committed");
    script.let_go();
    let (first, second) = (asks(&mut script, (0, 0)), asks(&mut script, (0, 0)));
    landed(&mut script, &first, 0, 0);
    let (sent, events) = sends(&mut script);
    assert_eq!(events, [event(1, "a"), event(2, "c")]);
    landed(&mut script, &sent, 2, 17);
    // An answer that comes again, or late, changes nothing.
    landed(&mut script, &sent, 1, 3);
    landed(&mut script, &second, 1, 5);
    assert!(script.topics.is_empty(), "what has landed is not sent again");
    script.advance(LONG_MS);
    assert_eq!(owed(&script), 0);
    // The numbers go on, and a new owner learns from where it is known.
    script.replace(&account());
    script.advance(LONG_MS);
    assert!(script.topics.is_empty(), "nothing is owed");
    let turn = self::turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "d")]);
    script.finish(&turn, done(""));
    let learns = asks(&mut script, (2, 17));
    landed(&mut script, &learns, 2, 17);
    assert_eq!(sends(&mut script).1, [event(3, "d")]);
}

#[test]
fn a_new_owner_sends_what_has_not_landed() {
    let mut script = Script::new(&account());
    let turn = turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "a"), ("t", 0, "b")]);
    script.finish(&turn, done(""));
    let learns = asks(&mut script, (0, 0));
    landed(&mut script, &learns, 0, 0);
    sends(&mut script);
    // One of them has landed; nobody was told.
    script.replace(&account());
    let learns = asks(&mut script, (0, 0));
    landed(&mut script, &learns, 1, 4);
    let (sent, events) = sends(&mut script);
    assert_eq!(events, [event(2, "b")]);
    landed(&mut script, &sent, 2, 5);
    script.advance(LONG_MS);
    assert_eq!(owed(&script), 0);
}

#[test]
fn what_a_turn_does_not_complete_is_not_published() {
    let mut script = Script::new(&account());
    let turn = turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "flushed")]);
    script.request(Operation::Flush { turn: turn.token.clone() });
    published(&mut script, &turn, &[("t", 0, "dropped")]);
    script.finish(&turn, failed());
    let learns = asks(&mut script, (0, 0));
    landed(&mut script, &learns, 0, 0);
    let (sent, events) = sends(&mut script);
    assert_eq!(events, [event(1, "flushed")]);
    landed(&mut script, &sent, 1, 1);
    script.advance(LONG_MS);
    assert_eq!((owed(&script), script.topics.len()), (0, 0));
}

#[test]
fn without_an_answer_it_is_learned_again_after_a_pause_and_people_are_told() {
    let limits = Limits { publish_retry_ms: 100, publish_retry_max_ms: 300, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    let turn = turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "a")]);
    script.finish(&turn, done(""));
    let mut asked = asks(&mut script, (0, 0));
    for pause in [100, 200, 300, 300] {
        answer(&mut script, &asked, PublishResult::Unavailable);
        script.advance(pause - 1);
        assert!(script.topics.is_empty());
        script.advance(1);
        asked = asks(&mut script, (0, 0));
    }
    let waits = Notice::PublishWaits {
        partition: script.node.partitions()[0].id.clone(),
        to: topic("t", 0),
        waiting: 1,
    };
    assert_eq!(script.notices.iter().filter(|notice| **notice == waits).count(), 1);
    landed(&mut script, &asked, 0, 0);
    let (sent, _) = sends(&mut script);
    // It is answered by nobody; that it takes nothing is no reason to send it at once, either.
    script.advance(script.limits.append_timeout_ms + 100);
    let asked = asks(&mut script, (0, 0));
    landed(&mut script, &sent, 1, 1);
    assert!(script.topics.is_empty(), "an answer to what was given up");
    landed(&mut script, &asked, 0, 0);
    let (sent, _) = sends(&mut script);
    landed(&mut script, &sent, 0, 0);
    assert!(script.topics.is_empty());
    script.advance(100);
    let asked = asks(&mut script, (0, 0));
    landed(&mut script, &asked, 1, 1);
    script.advance(LONG_MS);
    assert_eq!((owed(&script), script.topics.len()), (0, 0));
}

#[test]
fn one_window_is_under_way_at_a_time() {
    let limits =
        Limits { publish_window_events_max: 2, publish_window_bytes_max: 5, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    let turn = turn(&mut script);
    let events = ["a", "b", "c", "ddd", "eee", "fffffff", "g"];
    published(&mut script, &turn, &events.map(|event| ("t", 0, event)));
    script.finish(&turn, done(""));
    let learns = asks(&mut script, (0, 0));
    landed(&mut script, &learns, 0, 0);
    let mut windows = Vec::new();
    while !script.topics.is_empty() {
        let (sent, events) = sends(&mut script);
        assert!(script.topics.is_empty(), "one at a time");
        let last = events.last().expect("some are sent").0;
        windows.push(events.iter().map(|(number, _)| *number).collect::<Vec<_>>());
        landed(&mut script, &sent, last, last);
    }
    assert_eq!(windows, [vec![1, 2], vec![3, 4], vec![5], vec![6], vec![7]]);
}

#[test]
fn what_is_owed_to_a_topic_that_is_gone_is_lost_and_told() {
    let mut script = Script::new(&account());
    let turn = turn(&mut script);
    published(&mut script, &turn, &[("t", 0, "a"), ("t", 0, "b")]);
    script.request(Operation::Flush { turn: turn.token.clone() });
    let learns = asks(&mut script, (0, 0));
    published(&mut script, &turn, &[("t", 0, "c")]);
    answer(&mut script, &learns, PublishResult::Gone);
    let refused = publish(&mut script, &turn, &[("u", 0, "x"), ("t", 0, "d")]);
    let error = RequestError::TopicGone(topic("t", 0));
    assert_eq!(script.answers.remove(&refused), Some(Err(error)));
    assert_eq!(owed(&script), 0);
    // What it had buffered goes the same way, and nothing else with it.
    published(&mut script, &turn, &[("u", 0, "y")]);
    script.finish(&turn, done(""));
    let lost = |script: &Script| {
        let counts = script.notices.iter().filter_map(|notice| match notice {
            Notice::EventsLost { to, count, .. } if *to == topic("t", 0) => Some(*count),
            _ => None,
        });
        counts.collect::<Vec<_>>()
    };
    assert_eq!(lost(&script), [2, 1]);
    let learns = asks(&mut script, (0, 0));
    landed(&mut script, &learns, 0, 0);
    assert_eq!(sends(&mut script).1, [event(1, "y")]);
    assert_eq!(owed(&script), 1);
}

#[test]
fn bounds_act_where_a_turn_publishes() {
    let full = |limits: Limits, name: &'static str, limit: u64| {
        let mut script = Script::with(&account(), limits);
        let turn = turn(&mut script);
        published(&mut script, &turn, &[("t", 0, "a")]);
        let request = publish(&mut script, &turn, &[("t", 0, "b"), ("u", 0, "c")]);
        let hit = RequestError::Limit(LimitHit { name, limit });
        assert_eq!(script.answers.remove(&request), Some(Err(hit)));
        // Nothing of it was taken.
        script.finish(&turn, done(""));
        assert_eq!(owed(&script), 1, "{name}");
    };
    let usual = Limits::default;
    full(Limits { segment_sends_max: 2, ..usual() }, "segment_sends_max", 2);
    full(Limits { segment_bytes_max: 150, ..usual() }, "segment_bytes_max", 150);
    full(Limits { outbox_per_partition_max: 2, ..usual() }, "outbox_per_partition_max", 2);
    let bytes = "outbox_bytes_per_partition_max";
    full(Limits { outbox_bytes_per_partition_max: 150, ..usual() }, bytes, 150);
    let channels = "topic_channels_per_partition_max";
    full(Limits { topic_channels_per_partition_max: 1, ..usual() }, channels, 1);
}

/// Answers all that topics are asked, of which only one exists, and has nothing but what is sent now.
fn only_one_exists(script: &mut Script, name: &str) {
    while let Some(asked) = script.topics.pop_front() {
        let result = match &asked {
            Effect::Publish { to, events, .. } if *to.id == *name => {
                let upto = events.last().expect("some are sent").0;
                PublishResult::Landed { upto, offset: upto }
            }
            Effect::LearnPublished { to, upto, since, .. } if *to.id == *name => {
                PublishResult::Landed { upto: *upto, offset: *since }
            }
            _ => PublishResult::Gone,
        };
        answer(script, &asked, result);
    }
    // What has landed is settled.
    script.advance(LONG_MS);
}

#[test]
fn channels_to_topics_that_are_gone_leave_room_though_nothing_is_owed_to_them() {
    let limits = Limits { topic_channels_per_partition_max: 4, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    // A topic for each job, deleted when that is done.
    for job in 0..30 {
        let name = format!("job-{job}");
        let turn = turn(&mut script);
        published(&mut script, &turn, &[(&name, 0, "a"), (&name, 0, "b")]);
        script.finish(&turn, done(""));
        only_one_exists(&mut script, &name);
        assert_eq!(owed(&script), 0);
    }
    let is_lost = |notice: &Notice| matches!(notice, Notice::EventsLost { .. });
    assert!(!script.notices.iter().any(is_lost), "nothing was owed");
}

#[test]
fn who_is_refused_for_want_of_a_channel_has_others_looked_after() {
    let limits = Limits { topic_channels_per_partition_max: 3, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    for name in ["t", "u", "v"] {
        let turn = turn(&mut script);
        published(&mut script, &turn, &[(name, 0, "a")]);
        script.finish(&turn, done(""));
        // Nobody has been able to say whether others exist.
        while let Some(asked) = script.topics.pop_front() {
            let result = match &asked {
                Effect::Publish { .. } => PublishResult::Landed { upto: 1, offset: 1 },
                Effect::LearnPublished { to, .. } if *to.id == *name => {
                    PublishResult::Landed { upto: 0, offset: 0 }
                }
                _ => PublishResult::Unavailable,
            };
            answer(&mut script, &asked, result);
        }
        script.advance(LONG_MS);
        assert!(script.topics.is_empty(), "nobody waits for what is only looked after");
    }
    let is_waiting = |notice: &Notice| matches!(notice, Notice::PublishWaits { .. });
    assert!(!script.notices.iter().any(is_waiting));
    let turn = turn(&mut script);
    let refused = publish(&mut script, &turn, &[("w", 0, "a")]);
    let hit = LimitHit { name: "topic_channels_per_partition_max", limit: 3 };
    assert_eq!(script.answers.remove(&refused), Some(Err(RequestError::Limit(hit))));
    // By now "v" is the only one of them.
    only_one_exists(&mut script, "v");
    published(&mut script, &turn, &[("w", 0, "a")]);
}

/// Tells a method of an event; its dead letters go to a topic.
fn deliver(script: &mut Script, deadline: Option<u64>) -> InvocationId {
    let origin = EventOrigin {
        subscription: "billing".into(),
        topic: "orders".into(),
        place: topic("o", 3),
        offset: 42,
        dead_letter: Some(topic("d", 1)),
        event: None,
    };
    let kind = Kind::actor("Account");
    let request = script.request(Operation::Deliver {
        target: Target { kind, actor: Some("alice".into()), affinity: None },
        method: "m".into(),
        payload: text("order"),
        deadline,
        retry: None,
        origin: Arc::new(origin),
        key: None,
    });
    match script.answers.remove(&request) {
        Some(Ok(Response::Accepted { invocation })) => invocation,
        other => panic!("not accepted but {other:?}"),
    }
}

/// The dead letter that is sent: its attributes; there is no other one.
fn buried(script: &mut Script) -> Vec<(String, String)> {
    let learns = asks(script, (0, 0));
    let Effect::LearnPublished { to, .. } = &learns else { unreachable!("it was just looked at") };
    assert_eq!(*to, topic("d", 1));
    landed(script, &learns, 0, 0);
    let (sent, events) = sends(script);
    landed(script, &sent, 1, 1);
    script.advance(LONG_MS);
    assert_eq!((owed(script), script.topics.len()), (0, 0));
    let [(1, letter)] = events.as_slice() else { panic!("{events:?}") };
    attributes(letter.strip_prefix(b"order").expect("the event is unchanged"))
}

/// Reads attributes whose values are no longer than two digits of a length say.
fn attributes(mut bytes: &[u8]) -> Vec<(String, String)> {
    let take = |bytes: &mut &[u8], tag: u8| {
        assert_eq!(bytes[0], tag);
        let (mut length, mut head) = (usize::from(bytes[1] & 0x7f), 2);
        if bytes[1] & 0x80 != 0 {
            length |= usize::from(bytes[2]) << 7;
            head = 3;
        }
        let (content, rest) = bytes[head..].split_at(length);
        *bytes = rest;
        content.to_vec()
    };
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let attribute = take(&mut bytes, ATTRIBUTE);
        let mut rest = attribute.as_slice();
        let [name, value] = [0x0a, 0x12].map(|tag| take(&mut rest, tag));
        let text = |bytes| String::from_utf8(bytes).expect("attributes are texts");
        all.push((text(name), text(value)));
    }
    all
}

fn letter(reason: &str, attempts: &str) -> Vec<(String, String)> {
    let pairs = [
        ("kardeadletterreason", reason),
        ("kardeadletterattempts", attempts),
        ("kardeadlettersubscription", "billing"),
        ("kardeadlettertopic", "orders"),
        ("kardeadletterposition", "3/42"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Letters that are kept here.
fn kept(script: &Script) -> usize {
    script.node.partitions().iter().map(|view| view.dead.len()).sum()
}

#[test]
fn a_delivery_without_success_goes_to_its_topic() {
    let mut script = Script::new(&account());
    deliver(&mut script, None);
    let turn = script.turn("m");
    let event = turn.event.clone().expect("the turn knows what it delivers");
    assert_eq!(
        (&*event.subscription, event.offset, turn.payload.clone()),
        ("billing", 42, text("order"))
    );
    published(&mut script, &turn, &[("t", 0, "dropped")]);
    script.finish(&turn, failed());
    assert_eq!(buried(&mut script), letter("failed: no: a b", "1"));
    assert_eq!(kept(&script), 0, "it is in the topic");
    let told = |notice: &&Notice| matches!(notice, Notice::DeadLetter { .. });
    assert_eq!(script.notices.iter().filter(told).count(), 1);
}

#[test]
fn a_delivery_with_success_goes_nowhere() {
    let mut script = Script::new(&account());
    deliver(&mut script, None);
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    script.advance(LONG_MS);
    assert!(script.topics.is_empty());
}

#[test]
fn what_never_ran_goes_there_too() {
    let mut script = Script::new(&account());
    script.invoke(None, Mode::Call, "alice", "first");
    let first = script.turn("first");
    let (soon, cancelled) = (script.now + 5, deliver(&mut script, None));
    deliver(&mut script, Some(soon));
    script.advance(10);
    assert_eq!(buried(&mut script), letter("expired", "0"));
    let (home, control) = (cancelled.home, Control::Cancel(cancelled.uuid));
    script.request(Operation::Control { home, control });
    let (sent, events) = sends(&mut script);
    landed(&mut script, &sent, 2, 2);
    let [(2, event)] = events.as_slice() else { panic!("{events:?}") };
    let attributes = attributes(event.strip_prefix(b"order").expect("the event is unchanged"));
    assert_eq!(attributes, letter("cancelled", "0"));
    script.finish(&first, done(""));
    assert!(script.turns.is_empty());
}

#[test]
fn a_later_step_takes_the_event_along() {
    let mut script = Script::new(&account());
    deliver(&mut script, None);
    let turn = script.turn("m");
    let call = TailCall {
        target: Target { kind: Kind::actor("Account"), actor: Some("bob".into()), affinity: None },
        method: "next".into(),
        payload: text("another argument"),
        keeps_lock: false,
    };
    script.event(Event::TurnResult { token: turn.token, result: TurnResult::TailCall(call) });
    script.replace(&account());
    script.advance(LONG_MS);
    let next = script.turn("next");
    assert_eq!((next.payload.clone(), next.event.clone()), (text("another argument"), None));
    script.finish(&next, failed());
    let attributes = buried(&mut script);
    assert_eq!(attributes[0].1, "failed: no: a b");
}

#[test]
fn an_event_too_long_to_be_taken_along_is_an_error() {
    let mut script = Script::with(&account(), Limits { segment_bytes_max: 4, ..Limits::default() });
    deliver(&mut script, None);
    let turn = script.turn("m");
    let target = Target { kind: Kind::actor("Account"), actor: None, affinity: None };
    let payload = Payload::default();
    let call = TailCall { target, method: "next".into(), payload, keeps_lock: false };
    script.event(Event::TurnResult { token: turn.token, result: TurnResult::TailCall(call) });
    let reason = buried(&mut script)[0].1.clone();
    assert!(reason.starts_with("failed: kar.INVALID_TAIL_CALL"), "{reason}");
}

#[test]
fn deliveries_wait_while_too_much_is_on_its_way_to_topics() {
    let limits = Limits { outbox_per_partition_max: 1, ..Limits::default() };
    let mut script = Script::with(&account(), limits);
    deliver(&mut script, None);
    let turn = script.turn("m");
    script.finish(&turn, failed());
    let learns = asks(&mut script, (0, 0));
    deliver(&mut script, None);
    script.advance(script.limits.append_timeout_ms - 1);
    assert!(script.turns.is_empty(), "its event might have to wait, too");
    // Others do not wait.
    script.invoke(None, Mode::Call, "bob", "n");
    let other = script.turn("n");
    script.finish(&other, done(""));
    landed(&mut script, &learns, 0, 0);
    let (sent, _) = sends(&mut script);
    landed(&mut script, &sent, 1, 1);
    script.advance(LONG_MS);
    let turn = script.turn("m");
    script.finish(&turn, done(""));
    script.advance(LONG_MS);
    assert_eq!((owed(&script), script.topics.len()), (0, 0));
}
