//! Topics in an engine without threads and clients: channels, requests that come again, consumers, fetches, bounds.

use super::*;
use crate::topic::{EventRecord, Origin};

/// Numbered events that fill a file in the middle of what was sent: those of the file that is full count, too.
#[test]
fn channels_are_known_whichever_file_their_last_events_are_in() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic = bare.topic(client);
    let mut next = 1;
    let mut send = |bare: &mut Bare, channel: u8, count: u64| {
        bare.append_numbered(client, &topic, channel, next..next + count);
        next += count;
        next - 1
    };
    send(&mut bare, 1, 2);
    let first = bare.engine.writer.segment();
    let idle = send(&mut bare, 2, 2);
    let mut last = 0;
    while bare.engine.writer.segment() == first {
        last = send(&mut bare, 1, 3);
        bare.commit();
        let known = bare.replayed();
        let mark = |byte| known.topics.only_mark(u128::from_le_bytes([byte; 16]));
        assert_eq!((mark(1), mark(2)), (Some(last), Some(idle)));
    }
    // What is not durable is not known.
    send(&mut bare, 1, 3);
    let known = bare.replayed();
    assert_eq!(known.topics.only_mark(u128::from_le_bytes([1; 16])), Some(last));
}

/// Who waits for events is told them when they are durable, from memory; and from disk only what is not there.
#[test]
fn who_waits_for_events_needs_no_disk() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic_id = bare.topic(client);
    let fetch = |bare: &mut Bare, number, first| {
        let (topic_id, bytes_max, wait_ms) = (topic_id.clone(), 2_000, 1_000);
        let fetch = wire::FetchEvents { topic_id, first, bytes_max, wait_ms, ..Default::default() };
        bare.ask(client, number, Request::FetchEvents(fetch));
    };
    let append = |bare: &mut Bare, numbers: std::ops::RangeInclusive<u64>| {
        let event = |number| wire::NumberedEvent { number, event: vec![number as u8; 800].into() };
        let append = wire::AppendEvents {
            topic_id: topic_id.clone(),
            partition: 0,
            channel: vec![1; 16].into(),
            events: numbers.map(event).collect(),
        };
        bare.ask(client, 1, Request::AppendEvents(append));
        bare.commit();
    };
    let fetched = |bare: &mut Bare| {
        let fetched =
            bare.answers(client).into_iter().filter_map(|(number, response)| match response {
                Response::EventsFetched(fetched) => Some((number, fetched)),
                _ => None,
            });
        let firsts = |events: Vec<wire::FetchedEvent>| events.iter().map(|e| e.event[0]).collect();
        let fetched = fetched.map(|(n, f)| (n, (f.first, firsts(f.events), f.end)));
        fetched.collect::<BTreeMap<u64, (u64, Vec<u8>, u64)>>()
    };
    fetch(&mut bare, 10, 1);
    fetch(&mut bare, 11, 3);
    append(&mut bare, 1..=4);
    // As many as fit, each as it wants them.
    let wanted = [(10, (1, vec![1, 2, 3], 5)), (11, (3, vec![3, 4], 5))];
    assert_eq!(fetched(&mut bare), BTreeMap::from(wanted));
    assert!(bare.threads.1.try_recv().is_err(), "nothing was read");
    assert!(bare.engine.logs.values().all(|log| log.recent.is_empty()), "nothing is kept");
    // More than are kept in memory: the first of them are read.
    fetch(&mut bare, 12, 5);
    append(&mut bare, 5..=5 + RECENT_RECORDS_MAX as u64);
    assert_eq!(fetched(&mut bare), BTreeMap::new());
    assert!(matches!(bare.threads.1.try_recv(), Ok(DiskJob::Fetch(job)) if job.first == 5));
    // Nobody waits: nothing is kept for anybody.
    append(&mut bare, 50..=51);
    assert!(bare.engine.logs.values().all(|log| log.recent.is_empty()));
}

/// A compacted file has lost what says whose channels its events are of. A hub that was killed before the file had a
/// summary must not take that for damage: a later file begins with all channels.
#[test]
fn a_compacted_file_without_a_summary_needs_no_channels() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic = bare.topic(client);
    bare.fill_a_file(client);
    bare.commit();
    let run = vec![bare.engine.writer.segment()];
    bare.append_numbered(client, &topic, 1, 1..4);
    bare.fill_a_file(client);
    bare.commit();
    let next = bare.engine.writer.segment();
    // All that lives in the file, and nothing of the hub's own.
    let all = bare.engine.logs.values().flat_map(|log| log.index.places());
    let mut wanted: Vec<_> =
        all.filter(|at| (run[0].base..next.base).contains(&at.address)).collect();
    wanted.sort_unstable_by_key(|place| place.address);
    let plan = compact::Plan { run, next, wanted, hurry: false };
    let compacted = compact::compact(bare.dir.path(), plan, |_| true).unwrap().unwrap();
    compact::name(bare.dir.path(), &compacted).unwrap();
    compact::replace(bare.dir.path(), &compacted).unwrap();
    let known = bare.replayed();
    let mark = known.topics.only_mark(u128::from_le_bytes([1; 16]));
    assert_eq!(mark, Some(3));
}

/// A request comes again after the hub was lost, and the clock was set meanwhile: forward, so that what was appended
/// seems old, or back. It was appended a moment ago, and appends nothing.
#[test]
fn a_clock_that_is_set_makes_no_request_append_again() {
    for (before, after) in [(1_000_000_000, 1_003_600_000), (1_000_000_000, 996_400_000)] {
        let mut bare = Bare::new();
        bare.engine.topics.clock = Box::new(move || before);
        let client = bare.client("app", false);
        let topic = bare.topic(client);
        let publish = |sent_ms_ago| {
            let (request, event) = (Bytes::from(vec![7; 16]), Bytes::from_static(b"e"));
            let events = vec![wire::NewEvent { partition: 0, request, event }];
            let publish = wire::PublishEvents { topic_id: topic.clone(), events, sent_ms_ago };
            Request::PublishEvents(publish)
        };
        bare.ask(client, 2, publish(0));
        bare.commit();
        bare.restart();
        bare.engine.topics.clock = Box::new(move || after);
        let client = bare.client("app", false);
        bare.ask(client, 3, publish(5_000));
        while let Ok(DiskJob::Recall(job)) = bare.threads.1.try_recv() {
            let origin = Origin::Request(u128::from_le_bytes([7; 16]));
            let recalled = Recalled { origin, time_ms: before, bytes: 1 };
            let count = job.addresses.len();
            bare.engine.recalled(&job, [recalled].into_iter().take(count).collect());
        }
        for _ in 0..8 {
            // Long enough to forget what is old.
            bare.engine.tick_topics();
        }
        bare.ask(client, 4, publish(6_000));
        bare.commit();
        let answers = bare.answers(client);
        for number in [3, 4] {
            match &answers[&number] {
                Response::EventsPublished(published) => assert!(published.places[0].again),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// One wrong position among several: none of them counts.
#[test]
fn a_commit_counts_as_a_whole() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic = bare.topic(client);
    let open = wire::OpenConsumer { topic_id: topic.clone(), name: "c".into(), begin: vec![1, 1] };
    bare.ask(client, 2, Request::OpenConsumer(open.clone()));
    bare.commit();
    let Some(Response::ConsumerOpened(opened)) = bare.answers(client).remove(&2) else {
        panic!("it is opened")
    };
    let session = opened.consumer.unwrap_or_default().session;
    let at = |partition, ranges: &[(u64, u64)]| wire::ConsumerPosition {
        partition,
        floor: 5,
        acknowledged: ranges
            .iter()
            .map(|&(first, last)| wire::AcknowledgedRange { first, last })
            .collect(),
    };
    let many: Vec<_> = (0..300).map(|n| (10 + 2 * n, 10 + 2 * n)).collect();
    let wrong =
        [at(2, &[]), at(1, &many), at(1, &[(5, 6)]), at(1, &[(9, 8)]), at(1, &[(9, 9), (7, 7)])];
    for wrong in wrong {
        let commit = wire::CommitConsumer {
            topic_id: topic.clone(),
            name: "c".into(),
            session,
            positions: vec![at(0, &[(7, 9)]), wrong.clone()],
        };
        bare.ask(client, 3, Request::CommitConsumer(commit));
        let answer = bare.answers(client).remove(&3);
        let Some(Response::Refused(refused)) = answer else { panic!("{wrong:?}: {answer:?}") };
        assert_eq!(refused.reason(), wire::RefusedReason::Invalid);
        let consumers = bare.engine.topics.only_consumers();
        let floors: Vec<_> = consumers[0].positions.iter().map(|place| place.floor).collect();
        assert_eq!(floors, [1, 1], "{wrong:?}");
    }
}

/// Who does not want to wait is not kept waiting, and is told where the partition ends.
#[test]
fn a_fetch_that_does_not_wait_is_answered_at_once() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic = bare.topic(client);
    bare.append_numbered(client, &topic, 1, 1..4);
    bare.commit();
    let fetch = wire::FetchEvents { topic_id: topic, first: 9, bytes_max: 1, ..Default::default() };
    let fetch = |wait_ms| Request::FetchEvents(wire::FetchEvents { wait_ms, ..fetch.clone() });
    let nothing = wire::EventsFetched { first: 9, events: Vec::new(), end: 4 };
    let nothing = Some(Response::EventsFetched(nothing));
    bare.ask(client, 2, fetch(0));
    assert_eq!(bare.answers(client).remove(&2), nothing);
    bare.ask(client, 3, fetch(1));
    assert_eq!(bare.answers(client).remove(&3), None);
    (0..2).for_each(|_| bare.engine.tick_topics());
    assert_eq!(bare.answers(client).remove(&3), nothing);
}

/// However many consumers a topic has, and whatever they have acknowledged: what is told of it fits into a message, and
/// says what it leaves out.
#[test]
fn what_is_told_of_a_topic_is_bounded() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    bare.wide_topic(client, 256);
    for (consumers, ranges, told) in [(40, 256, 40), (1_000, 0, 600)] {
        bare.engine.topics.crowd(consumers, ranges);
        let list = wire::ListTopics { name: "t".into(), ..Default::default() };
        bare.ask(client, 2, Request::ListTopics(list));
        let answer = bare.answers(client).remove(&2);
        let Some(Response::TopicList(list)) = answer else { panic!("a list") };
        assert!(list.encoded_len() < 2 * crate::options::TOPIC_VIEW_BYTES_MAX);
        let view = &list.topics[0];
        assert!(view.consumers.len() >= told, "{}", view.consumers.len());
        assert_eq!(view.consumers.len() as u64 + u64::from(view.consumers_left_out), consumers);
    }
}

/// A consumer is forgotten, the answer is lost with the hub, and another one takes the name: the request comes again
/// and means the first one.
#[test]
fn a_consumer_is_not_forgotten_by_a_request_for_another_one() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let topic_id = bare.topic(client);
    let name = || "c".to_owned();
    let ask = |bare: &mut Bare, client, request| {
        bare.ask(client, 9, request);
        bare.commit();
        bare.answers(client).remove(&9).expect("answered")
    };
    let open = wire::OpenConsumer { topic_id: topic_id.clone(), name: name(), begin: vec![1, 1] };
    let find = wire::FindConsumer { topic_id: topic_id.clone(), name: name() };
    let find =
        |bare: &mut Bare, client| match ask(bare, client, Request::FindConsumer(find.clone())) {
            Response::ConsumerFound(found) => found.created_session,
            other => panic!("{other:?}"),
        };
    assert_eq!(find(&mut bare, client), 0, "there is none");
    ask(&mut bare, client, Request::OpenConsumer(open.clone()));
    let first = find(&mut bare, client);
    // Another session of it is the same consumer, for the next hub, too.
    ask(&mut bare, client, Request::OpenConsumer(open.clone()));
    bare.restart();
    let client = bare.client("app", false);
    assert_eq!(find(&mut bare, client), first);
    let delete = wire::DeleteConsumer { topic_id, name: name(), created_session: first };
    let delete = Request::DeleteConsumer(delete);
    let existed = |answer| match answer {
        Response::ConsumerDeleted(deleted) => deleted.existed,
        other => panic!("{other:?}"),
    };
    assert!(existed(ask(&mut bare, client, delete.clone())));
    ask(&mut bare, client, Request::OpenConsumer(open));
    bare.restart();
    let client = bare.client("app", false);
    let second = find(&mut bare, client);
    assert!(second > first);
    assert!(!existed(ask(&mut bare, client, delete)));
    bare.restart();
    let client = bare.client("app", false);
    assert_eq!(find(&mut bare, client), second, "it is still there");
}

/// A client that asks for everything and takes nothing: no more is read for it than its queue may hold, and nothing is
/// forgotten.
#[test]
fn what_is_read_for_a_client_that_takes_nothing_is_bounded() {
    const FETCHES: u64 = 100;
    let mut bare = Bare::new();
    bare.engine.limits.outbox_bytes_max = 20_000;
    let client = bare.client("app", false);
    let topic_id = bare.topic(client);
    let event = Bytes::from(vec![7; 5_000]);
    let append = wire::AppendEvents {
        topic_id: topic_id.clone(),
        partition: 0,
        channel: vec![1; 16].into(),
        events: vec![wire::NumberedEvent { number: 1, event: event.clone() }],
    };
    bare.ask(client, FETCHES, Request::AppendEvents(append));
    bare.commit();
    drop(bare.answers(client));
    let fetch = wire::FetchEvents {
        topic_id: topic_id.clone(),
        first: 1,
        bytes_max: 5_000,
        ..Default::default()
    };
    for number in 0..FETCHES {
        bare.ask(client, number, Request::FetchEvents(fetch.clone()));
    }
    // One that nobody waits for any more is not read.
    bare.say(
        client,
        ClientFrame::CancelFetch(wire::CancelFetch { number: FETCHES - 1, topic_id, partition: 0 }),
    )
    .unwrap();
    let origin = Origin::Channel { channel: 1, number: 1 };
    let record = EventRecord { time_ms: 1, origin, event }.encode();
    let mut answered = BTreeMap::new();
    while answered.len() < FETCHES as usize - 1 {
        // Nothing is taken while all that may be is read.
        let mut read = 0;
        while let Ok(DiskJob::Fetch(job)) = bare.threads.1.try_recv() {
            read += 1;
            bare.engine.fetched(&job, std::slice::from_ref(&record));
        }
        assert!((1..=5).contains(&read), "{read} at once");
        loop {
            let more = bare.answers(client);
            if more.is_empty() {
                break;
            }
            answered.extend(more);
        }
    }
    assert!(!answered.contains_key(&(FETCHES - 1)));
    assert_eq!(bare.engine.topics.stats.waiting, 0);
}
