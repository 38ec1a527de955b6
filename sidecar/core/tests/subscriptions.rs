//! Subscriptions at their owner: commands, what is read and when, and what becomes of each event.

mod script;

use std::sync::Arc;

use kar_core::effect::{Notice, RequestError, Response};
use kar_core::event::{Member, Operation, SubscriptionsOf};
use kar_core::events::{CloudEvent, EventTime, Filter};
use kar_core::ids::{Kind, NodeId, Offset, PartitionId, Sender, Uuid};
use kar_core::inbox::{InboxBody, InboxEntry, InboxId};
use kar_core::invocation::{Invocation, Mode, Owed, Payload, Target, Work};
use kar_core::limits::Limits;
use kar_core::message::Message;
use kar_core::record::{Op, Record};
use kar_core::subscription::{
    FetchId, FetchResult, FetchedEvent, Instance, SubscriptionAsk, SubscriptionChange,
    SubscriptionCommand, SubscriptionError, SubscriptionSpec, SubscriptionStart,
    SubscriptionTarget, SubscriptionView, TopicRef,
};
use kar_core::{Effect, Event};

use script::{Script, done};

/// Longer than every pause.
const LONG_MS: u64 = 5_000;

fn kind() -> Kind {
    Kind::actor("Customer")
}

fn spec() -> SubscriptionSpec {
    SubscriptionSpec {
        name: "orders".into(),
        topic: TopicRef { name: "orders".into(), id: "t1".into(), partitions: 1 },
        target: SubscriptionTarget::Actor {
            name: "Customer".into(),
            instance: Instance::Attribute("who".into()),
        },
        method: "add".into(),
        filter: Some(Filter::Not(Box::new(Filter::Exact(vec![("type".into(), "no".into())])))),
        start: SubscriptionStart::Earliest,
        offsets: vec![1],
        in_flight: 3,
        retry: None,
        dead_letter: None,
    }
}

fn event(offset: Offset, kind: &str, who: Option<&str>) -> FetchedEvent {
    let who = who.map(|who| ("who".to_owned(), who.to_owned()));
    let event = CloudEvent {
        id: offset.to_string(),
        source: "/s".into(),
        kind: kind.into(),
        subject: String::new(),
        time: EventTime::default(),
        data_schema: String::new(),
        data: Payload::default(),
        attributes: who.into_iter().collect(),
    };
    FetchedEvent { offset, event, stored: format!("event {offset}").into() }
}

/// A read of the topic that was asked for.
#[derive(Clone)]
struct Read {
    id: FetchId,
    topic_id: Arc<str>,
    from: Offset,
    events_max: usize,
}

fn read(script: &mut Script) -> Read {
    match script.topics.pop_front() {
        Some(Effect::Fetch { id, topic_id, from, events_max, .. }) => {
            Read { id, topic_id, from, events_max }
        }
        other => panic!("{other:?}"),
    }
}

fn answer(script: &mut Script, read: &Read, events: Vec<FetchedEvent>) {
    let next = events.last().map_or(read.from, |event| event.offset + 1);
    let result = FetchResult::Events { events, next, start: 1, end: 10 };
    script.event(Event::Fetched { id: read.id.clone(), result });
}

fn subscribe(script: &mut Script, spec: SubscriptionSpec) -> Result<Response, RequestError> {
    let request = script.request(Operation::Subscribe { spec: Arc::new(spec) });
    script.answers.remove(&request).expect("it is answered")
}

fn change(script: &mut Script, change: SubscriptionChange) -> Result<Response, RequestError> {
    let name = "orders".into();
    let request = script.request(Operation::ChangeSubscription { name, change });
    script.answers.remove(&request).expect("it is answered")
}

fn view(script: &mut Script) -> SubscriptionView {
    let of = SubscriptionsOf::Name("orders".into());
    let request = script.request(Operation::Subscriptions { of });
    match script.answers.remove(&request) {
        Some(Ok(Response::Subscriptions(mut all))) if all.len() == 1 => all.remove(0),
        other => panic!("{other:?}"),
    }
}

/// Somebody has subscribed, and the topic is being read.
fn subscribed(limits: Limits) -> (Script, Read) {
    let mut script = Script::with(&[kind()], limits);
    let created = subscribe(&mut script, spec());
    assert!(matches!(created, Ok(Response::Subscribed { created: true, .. })), "{created:?}");
    let read = read(&mut script);
    assert_eq!((&*read.topic_id, read.from, read.events_max), ("t1", 1, 3));
    (script, read)
}

#[test]
fn wanted_events_are_delivered_in_order_and_the_floor_follows() {
    let (mut script, first) = subscribed(Limits::default());
    let events = vec![
        event(1, "yes", Some("alice")),
        event(2, "no", Some("alice")),
        event(3, "yes", Some("alice")),
    ];
    answer(&mut script, &first, events);
    for offset in [1, 3] {
        let turn = script.turn("add");
        assert_eq!(turn.actor.as_deref(), Some("alice"));
        assert_eq!(turn.payload.data, format!("event {offset}"));
        script.finish(&turn, done("ok"));
    }
    script.advance(LONG_MS);
    let progress = view(&mut script).partitions[0];
    assert_eq!((progress.floor, progress.end, progress.under_way), (4, 10, 0));
    assert_eq!(read(&mut script).from, 4);
    assert!(script.turns.is_empty() && script.topics.is_empty(), "one read at a time");
}

#[test]
fn the_next_owner_reads_from_the_floor_and_delivers_nothing_twice() {
    let (mut script, first) = subscribed(Limits::default());
    let events = || vec![event(1, "yes", Some("alice")), event(2, "yes", Some("bob"))];
    answer(&mut script, &first, events());
    for _ in 0..2 {
        let turn = script.turn("add");
        script.finish(&turn, done("ok"));
    }
    // Before the floor is logged.
    script.replace(&[kind()]);
    script.advance(LONG_MS);
    let again = read(&mut script);
    assert_eq!(again.from, 1);
    // An answer to the reader before it comes to nothing.
    answer(&mut script, &first, events());
    answer(&mut script, &again, events());
    script.advance(LONG_MS);
    assert!(script.turns.is_empty());
    assert_eq!(view(&mut script).partitions[0].floor, 3);
}

#[test]
fn what_names_nobody_is_told_and_passed_when_all_before_it_is_done() {
    let limits = Limits { deliveries_waiting_max: 0, ..Limits::default() };
    let (mut script, first) = subscribed(limits);
    answer(&mut script, &first, vec![event(1, "yes", Some("alice")), event(2, "yes", None)]);
    let undeliverable = |script: &Script| {
        let is_it = |notice: &&Notice| matches!(notice, Notice::Undeliverable { offset: 2, .. });
        script.notices.iter().filter(is_it).count()
    };
    let turn = script.turn("add");
    script.advance(LONG_MS);
    // With that bound an event counts as accepted when it has ended.
    assert_eq!((view(&mut script).partitions[0].floor, undeliverable(&script)), (1, 0));
    script.finish(&turn, done("ok"));
    script.advance(LONG_MS);
    assert_eq!((view(&mut script).partitions[0].floor, undeliverable(&script)), (3, 1));
}

#[test]
fn it_reads_on_when_half_of_what_may_be_under_way_is_free() {
    // With that bound an event counts as accepted when it has ended.
    let limits = Limits { deliveries_waiting_max: 0, ..Limits::default() };
    let (mut script, first) = subscribed(limits);
    let events = ["alice", "bob", "carol"].iter().zip(1..);
    let events = events.map(|(who, offset)| event(offset, "yes", Some(who))).collect();
    answer(&mut script, &first, events);
    for free in [0, 1] {
        script.advance(LONG_MS);
        assert!(script.topics.is_empty(), "{free} of 3 is free");
        let turn = script.turn("add");
        script.finish(&turn, done("ok"));
    }
    let second = read(&mut script);
    assert_eq!((second.from, second.events_max), (4, 2));
}

/// `subscription_in_flight_bytes_max`: with so much under way of one topic partition nothing more of it is asked for,
/// and all that is left while there is less; other partitions of the topic go on.
#[test]
fn what_a_subscription_has_under_way_is_bounded_in_bytes_and_other_partitions_go_on() {
    let limits = Limits {
        // With that bound an event counts as accepted when it has ended.
        deliveries_waiting_max: 0,
        subscription_in_flight_bytes_max: 2_000,
        ..Limits::default()
    };
    let mut script = Script::with(&[kind()], limits);
    let topic = TopicRef { partitions: 2, ..spec().topic };
    subscribe(&mut script, SubscriptionSpec { topic, offsets: vec![1, 1], ..spec() })
        .expect("it is created");
    let bytes = |script: &Script| match script.topics.front() {
        Some(Effect::Fetch { bytes_max, .. }) => *bytes_max,
        other => panic!("{other:?}"),
    };
    assert_eq!(bytes(&script), 2_000);
    let (long, other) = (read(&mut script), read(&mut script));
    let long_event = |offset, who| {
        let stored = script::filled(3_000).data;
        FetchedEvent { stored, ..event(offset, "yes", Some(who)) }
    };
    // One may go beyond it; of three that may be under way two are left.
    answer(&mut script, &long, vec![long_event(1, "alice")]);
    let alice = script.turn("add");
    script.advance(LONG_MS);
    assert!(script.topics.is_empty(), "of this one nothing more is read");
    for offset in 1..=3 {
        let now = if offset == 1 { other.clone() } else { read(&mut script) };
        assert_eq!((now.id.topic_partition, now.from), (1, offset));
        answer(&mut script, &now, vec![event(offset, "yes", Some("dave"))]);
        let dave = script.turn("add");
        script.finish(&dave, done("ok"));
        script.advance(LONG_MS);
    }
    assert!(bytes(&script) > 1_000, "short ones leave room");
    assert_eq!(read(&mut script).id.topic_partition, 1);
    assert!(script.topics.is_empty());
    script.finish(&alice, done("ok"));
    script.advance(LONG_MS);
    assert_eq!(bytes(&script), 2_000, "all of it is free again");
    let long = read(&mut script);
    assert_eq!((long.id.topic_partition, long.from), (0, 2), "nothing was passed over");
}

/// What all branches have under way is bounded: beyond it each delivers one event after the other, so that whoever is
/// slow keeps nobody else from reading.
#[test]
fn what_all_have_under_way_together_is_bounded_and_nobody_waits_for_others() {
    // With that bound an event counts as accepted when it has ended.
    let limits = Limits {
        deliveries_waiting_max: 0,
        deliveries_bytes_per_partition_max: 1,
        ..Limits::default()
    };
    let mut script = Script::with(&[kind()], limits);
    let topic = TopicRef { partitions: 2, ..spec().topic };
    subscribe(&mut script, SubscriptionSpec { topic, offsets: vec![1, 1], ..spec() })
        .expect("it is created");
    let reads = [read(&mut script), read(&mut script)];
    assert_eq!(reads.each_ref().map(|read| read.events_max), [3, 3]);
    let events = ["alice", "bob", "carol"].iter().zip(1..);
    let events = events.map(|(who, offset)| event(offset, "yes", Some(who))).collect();
    answer(&mut script, &reads[0], events);
    let alice = script.turn("add");
    answer(&mut script, &reads[1], vec![event(1, "yes", Some("dave")), event(2, "no", None)]);
    let dave = script.turn("add");
    script.advance(LONG_MS);
    assert!(script.turns.is_empty() && script.topics.is_empty(), "both have one");
    let under_way = view(&mut script).partitions.into_iter().map(|p| p.under_way);
    assert_eq!(under_way.collect::<Vec<_>>(), [1, 1]);
    for who in ["bob", "carol"] {
        let turn = if who == "bob" { &alice } else { &script.turn("add") };
        script.finish(turn, done("ok"));
        script.advance(LONG_MS);
        let next = read(&mut script);
        assert_eq!((next.id.topic_partition, next.events_max), (0, 1), "as long as dave is there");
        answer(&mut script, &next, vec![event(next.from, "yes", Some(who))]);
    }
    let carol = script.turn("add");
    assert_eq!(carol.payload.data, "event 3");
    script.finish(&dave, done("ok"));
    script.advance(LONG_MS);
    let next = read(&mut script);
    assert_eq!((next.id.topic_partition, next.from), (1, 2), "what was not taken is read again");
    script.finish(&carol, done("ok"));
    script.advance(LONG_MS);
    let next = read(&mut script);
    assert_eq!((next.from, next.events_max), (4, 3), "there is room");
}

#[test]
fn paused_it_reads_nothing_and_goes_on_where_it_was() {
    let (mut script, first) = subscribed(Limits::default());
    let paused = change(&mut script, SubscriptionChange::Pause);
    assert_eq!(paused, Ok(Response::SubscriptionChanged { changed: true }));
    assert!(script.stopped.contains(&first.id), "nobody waits for it");
    // It was under way.
    answer(&mut script, &first, vec![event(1, "yes", Some("alice"))]);
    script.advance(LONG_MS);
    assert!(script.turns.is_empty() && script.topics.is_empty() && view(&mut script).paused);
    let again = change(&mut script, SubscriptionChange::Pause);
    assert_eq!(again, Ok(Response::SubscriptionChanged { changed: false }));
    change(&mut script, SubscriptionChange::Resume).expect("it goes on");
    let again = read(&mut script);
    assert_eq!(again.from, 1);
    // Once it is over, too; and what was answered is not stopped.
    script.stopped.clear();
    answer(&mut script, &again, Vec::new());
    let last = read(&mut script);
    change(&mut script, SubscriptionChange::Unsubscribe).expect("it is over");
    assert_eq!(script.stopped, [last.id]);
    assert!(script.topics.is_empty());
}

/// An event of a newer version is not passed over: the subscription waits there, and says so, once.
#[test]
fn an_event_that_is_not_understood_is_waited_at_and_told() {
    let (mut script, mut read_now) = subscribed(Limits::default());
    answer(&mut script, &read_now, vec![event(1, "yes", Some("alice"))]);
    script.turn("add");
    for _ in 0..3 {
        read_now = read(&mut script);
        assert_eq!(read_now.from, 2);
        let result = FetchResult::Unreadable(2);
        script.event(Event::Fetched { id: read_now.id, result });
        assert!(script.topics.is_empty(), "there is a pause");
        assert_eq!(view(&mut script).partitions[0].unreadable, 2);
        script.advance(LONG_MS);
    }
    let told = |notice: &&Notice| matches!(notice, Notice::EventUnreadable { offset: 2, .. });
    assert_eq!(script.notices.iter().filter(told).count(), 1);
    let understood = read(&mut script);
    answer(&mut script, &understood, vec![event(2, "yes", Some("bob"))]);
    script.turn("add");
    assert_eq!(view(&mut script).partitions[0].unreadable, 0);
}

/// A topic that cannot be read for seconds is told of, once for each time.
#[test]
fn a_topic_that_stays_away_is_told_of() {
    let (mut script, mut read_now) = subscribed(Limits::default());
    for _ in 0..20 {
        let result = FetchResult::Unavailable;
        script.event(Event::Fetched { id: read_now.id, result });
        script.advance(LONG_MS);
        read_now = read(&mut script);
    }
    let told = |notice: &&Notice| matches!(notice, Notice::ReadingWaits { .. });
    assert_eq!(script.notices.iter().filter(told).count(), 1);
}

#[test]
fn what_is_not_yet_committed_to_go_on_delivers_nothing() {
    let (mut script, first) = subscribed(Limits::default());
    change(&mut script, SubscriptionChange::Pause).expect("it pauses");
    script.hold = true;
    let accepts = |script: &Script| {
        let records = script.logs.iter().filter(|(id, _)| id.kind == kind());
        let is_batch = |record: &&Arc<Record>| matches!(&***record, Record::Batch { .. });
        records.map(|(_, log)| log.iter().filter(is_batch).count()).sum::<usize>()
    };
    let before = accepts(&script);
    for change in
        [SubscriptionChange::Resume, SubscriptionChange::Pause, SubscriptionChange::Resume]
    {
        let name = "orders".into();
        script.request(Operation::ChangeSubscription { name, change });
    }
    // It was under way since before the pause.
    answer(&mut script, &first, vec![event(1, "yes", Some("alice"))]);
    assert!(script.topics.is_empty(), "nor is anything read");
    assert_eq!(accepts(&script), before);
    script.let_go();
    let again = read(&mut script);
    answer(&mut script, &again, vec![event(1, "yes", Some("alice"))]);
    let turn = script.turn("add");
    script.finish(&turn, done("ok"));
}

#[test]
fn a_topic_that_is_away_is_asked_again_and_one_that_is_gone_is_not() {
    let (mut script, first) = subscribed(Limits::default());
    let result = FetchResult::Unavailable;
    script.event(Event::Fetched { id: first.id, result });
    assert!(script.topics.is_empty(), "there is a pause");
    script.advance(LONG_MS);
    let again = read(&mut script);
    let events = FetchResult::Events { events: Vec::new(), next: 7, start: 7, end: 7 };
    script.event(Event::Fetched { id: again.id, result: events });
    let is_skipped =
        |notice: &Notice| matches!(notice, Notice::EventsSkipped { from: 1, to: 7, .. });
    assert!(script.notices.iter().any(is_skipped), "{:?}", script.notices);
    let third = read(&mut script);
    assert_eq!(third.from, 7);
    script.event(Event::Fetched { id: third.id, result: FetchResult::Gone });
    script.advance(LONG_MS);
    assert!(script.topics.is_empty() && view(&mut script).topic_gone);
    assert!(script.notices.iter().any(|notice| matches!(notice, Notice::TopicGone { .. })));
}

#[test]
fn the_same_again_is_the_same_and_other_settings_are_an_error() {
    let (mut script, _) = subscribed(Limits::default());
    let own = view(&mut script).subscription.uuid;
    let later = SubscriptionSpec { offsets: vec![9], ..spec() };
    let again = subscribe(&mut script, later);
    assert_eq!(again, Ok(Response::Subscribed { subscription: own, created: false }));
    let other = SubscriptionSpec { method: "other".into(), ..spec() };
    let name: Arc<str> = "orders".into();
    let differs = subscribe(&mut script, other.clone());
    assert_eq!(differs, Err(RequestError::SubscriptionDiffers(name.clone())));
    let ended = change(&mut script, SubscriptionChange::Unsubscribe);
    assert_eq!(ended, Ok(Response::SubscriptionChanged { changed: true }));
    let unknown = change(&mut script, SubscriptionChange::Resume);
    assert_eq!(unknown, Err(RequestError::UnknownSubscription(name)));
    let ended = change(&mut script, SubscriptionChange::Unsubscribe);
    assert_eq!(ended, Ok(Response::SubscriptionChanged { changed: false }));
    let new = subscribe(&mut script, other);
    let Ok(Response::Subscribed { subscription, created: true }) = new else { panic!("{new:?}") };
    assert!(subscription > own, "ids ascend");
}

#[test]
fn less_or_more_under_way_than_may_be_is_refused_by_name_and_the_subscription_stays() {
    let limits = Limits { subscription_in_flight_max: 7, ..Limits::default() };
    let (mut script, first) = subscribed(limits);
    let all = |script: &mut Script| {
        let pages = [0, 1].map(|partition| {
            let of = SubscriptionsOf::Partition(partition);
            let request = script.request(Operation::Subscriptions { of });
            script.answers.remove(&request).expect("it is answered").expect("listed")
        });
        format!("{pages:?}")
    };
    let before = all(&mut script);
    assert!(before.contains("in_flight: 3"), "{before}");
    // Of the one that is there, and of one that is not there yet.
    for (in_flight, name) in [(0, "orders"), (8, "orders"), (0, "more"), (8, "more")] {
        let spec = SubscriptionSpec { in_flight, name: name.into(), ..spec() };
        let error = RequestError::Subscription(SubscriptionError::InFlight(7));
        assert!(error.to_string().contains("1 to 7 (subscription_in_flight_max)"), "{error}");
        assert_eq!(subscribe(&mut script, spec), Err(error));
        assert_eq!(all(&mut script), before, "{in_flight} of {name}");
    }
    // It reads and delivers as if nobody had asked.
    assert!(script.topics.is_empty() && script.stopped.is_empty());
    answer(&mut script, &first, vec![event(1, "yes", Some("alice"))]);
    let turn = script.turn("add");
    assert_eq!(turn.payload.data, "event 1");
    script.finish(&turn, done("ok"));
    // The bound itself is allowed.
    let widest = SubscriptionSpec { in_flight: 7, name: "widest".into(), ..spec() };
    let created = subscribe(&mut script, widest);
    assert!(matches!(created, Ok(Response::Subscribed { created: true, .. })), "{created:?}");
}

/// A node that is a member, and asks for things of its own.
const OTHER: NodeId = NodeId(50);

/// The other node is here for a short while: nothing moves.
fn connect(script: &mut Script) {
    let member = Member { transient: true, ..Member::default() };
    script.members.nodes.insert(OTHER, member);
    script.event(Event::PeerUp { node: OTHER });
    script.event(Event::Members(script.members.clone()));
}

/// The other node puts something on its channel to a partition.
fn owes(script: &mut Script, to: &PartitionId, number: u64, owed: Owed) {
    let message = Message::Request {
        sender: Sender::Node(OTHER),
        from_epoch: 0,
        to: to.clone(),
        epoch: script.epoch(to),
        number,
        floor: number,
        closed_from: None,
        asks: false,
        promised: false,
        again: false,
        owed,
    };
    script.event(Event::Peer { from: OTHER, message });
}

fn command(asked_at: u64, ask: SubscriptionAsk) -> Owed {
    Owed::Subscription(Arc::new(SubscriptionCommand { uuid: Uuid::v7(asked_at, 77), ask }))
}

/// Owners' clocks differ; what one node was asked for one after the other is told apart all the same.
#[test]
fn what_was_subscribed_before_a_removal_was_asked_for_ends_with_it_and_nothing_else() {
    let (mut script, first) = subscribed(Limits::default());
    connect(&mut script);
    let home = first.id.partition;
    let settings = |name: &str| {
        let instance = Instance::Fixed("alice".into());
        let target = SubscriptionTarget::Actor { name: "Customer".into(), instance };
        SubscriptionSpec { name: name.into(), target, ..spec() }
    };
    // The clock of the node that is asked is far behind the owner's, which says 1,000 and more.
    for (number, (asked_at, name)) in (1..).zip([(500, "before"), (502, "after")]) {
        let (spec, target_partitions) = (Arc::new(settings(name)), 2);
        let ask = SubscriptionAsk::Subscribe { spec, target_partitions };
        owes(&mut script, &home, number, command(asked_at, ask));
    }
    let removed = |time| {
        let (kind, actor) = (kind(), "alice".into());
        command(2_000, SubscriptionAsk::ActorRemoved { kind, actor, time })
    };
    let left = |script: &Script| {
        let mut all = script.node.subscriptions();
        all.retain(|view| view.subscription.spec.name != spec().name);
        all.into_iter().map(|view| view.subscription.spec.name.to_string()).collect::<Vec<_>>()
    };
    owes(&mut script, &home, 3, removed(499));
    assert_eq!(left(&script), ["after", "before"]);
    owes(&mut script, &home, 4, removed(501));
    assert_eq!(left(&script), ["after"]);
    let is_told = |notice: &&Notice| matches!(notice, Notice::SubscriptionRemoved { .. });
    assert_eq!(script.notices.iter().filter(is_told).count(), 1);
}

/// And a removal tells them when it was asked for, not when it was carried out.
#[test]
fn a_removal_says_when_it_was_asked_for() {
    let (mut script, _) = subscribed(Limits::default());
    connect(&mut script);
    let target = Target { kind: kind(), actor: Some("alice".into()), affinity: None };
    let index = kar_core::assign::partition_index(&target, Uuid(0), 2);
    let home = PartitionId::new(kind(), index);
    let removal = Invocation {
        work: Work::Remove,
        mode: Mode::Call,
        actor: Some("alice".into()),
        uuid: Uuid::v7(500, 77),
        ..script::invocation()
    };
    let log = script.logs.get(&home).map_or(0, Vec::len);
    owes(&mut script, &home, 1, Owed::Invocation(Arc::new(removal)));
    let mut times = Vec::new();
    for record in &script.logs[&home][log..] {
        let Record::Batch { ops, .. } = &**record else { continue };
        let sends = ops.iter().filter_map(|op| match op {
            Op::Complete { segment, .. } => Some(&segment.sends),
            _ => None,
        });
        times.extend(sends.flatten().filter_map(|send| match &send.obligation.owed {
            Owed::Subscription(command) => match command.ask {
                SubscriptionAsk::ActorRemoved { time, .. } => Some(time),
                _ => None,
            },
            _ => None,
        }));
    }
    assert_eq!(times, [500, 500], "each partition of subscriptions is told");
}

#[test]
fn what_is_lost_on_its_way_through_an_inbox_is_said_again_soon() {
    let mut script = Script::with(&[], Limits::default());
    script.members.kinds.insert(kind(), 2);
    let host = Member { kinds: vec![kind()], no_peer: true, transient: true, ..Member::default() };
    script.members.nodes.insert(OTHER, host);
    script.event(Event::Members(script.members.clone()));
    let created = subscribe(&mut script, spec());
    assert!(matches!(created, Ok(Response::Subscribed { created: true, .. })), "{created:?}");
    let first = read(&mut script);
    answer(&mut script, &first, vec![event(1, "yes", Some("alice"))]);
    let requests = |script: &Script| {
        let all = script.inboxes.values().flatten();
        let is_request = |entry: &&Arc<InboxEntry>| {
            matches!(&entry.body, InboxBody::Channel { message: Message::Request { .. }, .. })
        };
        all.filter(is_request).count()
    };
    assert_eq!(requests(&script), 1);
    // Longer than the pause between two tries, and shorter than the channels' period.
    script.advance(200);
    let inboxes: Vec<_> = script.inboxes_read.iter().cloned().collect();
    for inbox in inboxes.into_iter().filter(|inbox| matches!(inbox, InboxId::Partition(_))) {
        script.event(Event::InboxLost { inbox });
    }
    script.advance(10);
    assert_eq!(requests(&script), 2);
}
