//! Bounds of the hub that are exceeded: who is held up or refused by them, who is not, and that nothing is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use tonic::Code;

use super::*;
use crate::wal::read::Reader;
use crate::wal::segment;

/// Notes that a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client's task that waits until it is heard.
struct Listening(ConnId, Arc<Woken>);

impl Listening {
    fn new(bare: &mut Bare, id: ConnId) -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(bare.engine.poll_input(id, &mut Context::from_waker(&waker)).is_pending());
        Self(id, woken)
    }

    fn is_woken_to_be_heard(&self, bare: &mut Bare) -> bool {
        self.1.0.load(Ordering::Relaxed) && is_heard(bare, self.0)
    }
}

fn is_heard(bare: &mut Bare, id: ConnId) -> bool {
    bare.engine.poll_input(id, &mut Context::from_waker(Waker::noop())).is_ready()
}

fn open(bare: &mut Bare, id: ConnId, log: u32) {
    let name = format!("a.K/{log}");
    bare.say(id, ClientFrame::OpenLog(wire::OpenLog { log, name })).unwrap();
}

fn append(bare: &mut Bare, id: ConnId, log: u32, record: u64, bytes: usize) {
    let record = wire::Append { log, id: record, record: vec![log as u8; bytes].into() };
    bare.say(id, ClientFrame::Append(record)).unwrap();
}

fn read(bare: &mut Bare, id: ConnId, log: u32) {
    let read = wire::ReadLog { log, from: 1, reading: log };
    bare.say(id, ClientFrame::ReadLog(read)).unwrap();
}

/// Log and offset of the records that are told next.
fn entries(bare: &mut Bare, id: ConnId) -> Vec<(u32, u64)> {
    let entry = |frame| match frame {
        Frame::Entry(entry) => Some((entry.log, entry.offset)),
        _ => None,
    };
    bare.told(id).into_iter().filter_map(entry).collect()
}

/// `clients_max`
#[test]
fn a_client_too_many_is_refused_by_name_and_the_others_go_on() {
    let mut bare = Bare::new();
    bare.engine.limits.clients_max = 2;
    let (first, second) = (bare.client("app", false), bare.client("other", false));
    let refused = bare.engine.attach().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("clients_max is 2"), "{refused}");
    bare.topic(first);
    assert!(matches!(bare.answers(first).get(&1), Some(Response::TopicCreated(_))));
    bare.engine.detach(second);
    let third = bare.client("other", false);
    assert!(bare.told(third).iter().any(|frame| matches!(frame, Frame::Welcome(_))));
}

/// `fetches_max`
#[test]
fn a_fetch_too_many_that_would_wait_is_refused_and_the_others_go_on() {
    let mut bare = Bare::new();
    bare.engine.limits.fetches_max = 1;
    let (client, other) = (bare.client("app", false), bare.client("other", false));
    let topic = bare.topic(client);
    let fetch = |bare: &mut Bare, id, number, partition, wait_ms| {
        let (topic_id, first, bytes_max) = (topic.clone(), 1, 2_000);
        let fetch = wire::FetchEvents {
            topic_id,
            partition,
            first,
            bytes_max,
            wait_ms,
            ..Default::default()
        };
        bare.ask(id, number, Request::FetchEvents(fetch));
    };
    fetch(&mut bare, client, 2, 0, 1_000);
    fetch(&mut bare, other, 2, 1, 1_000);
    match bare.answers(other).remove(&2) {
        Some(Response::Refused(refused)) => {
            assert_eq!((refused.bound.as_str(), refused.limit), ("fetches_max", 1));
            assert_eq!(refused.reason(), wire::RefusedReason::TopicLimit);
        }
        answer => panic!("{answer:?}"),
    }
    // Who does not wait takes up nothing, events come in, and who waited is told them.
    fetch(&mut bare, other, 3, 1, 0);
    assert!(matches!(bare.answers(other).get(&3), Some(Response::EventsFetched(_))));
    bare.append_numbered(other, &topic, 1, 1..2);
    bare.commit();
    let answer = bare.answers(client).remove(&2);
    let Some(Response::EventsFetched(fetched)) = answer else { panic!("{answer:?}") };
    assert_eq!(fetched.events.len(), 1);
    // There is room for the other one.
    fetch(&mut bare, other, 4, 1, 1_000);
    assert_eq!(bare.answers(other).get(&4), None, "it waits");
    assert_eq!(bare.engine.stats().fetches_waiting, 1);
}

/// `fetches_max`, `outbox_bytes_max`
#[test]
fn who_takes_nothing_holds_up_its_own_fetches_and_nobody_elses() {
    let mut bare = Bare::new();
    bare.engine.limits.fetches_max = 1;
    bare.engine.limits.outbox_bytes_max = 2;
    let (slow, other) = (bare.client("app", false), bare.client("other", false));
    let topic = bare.topic(slow);
    let fetch = |partition, wait_ms| {
        let (topic_id, first, bytes_max) = (topic.clone(), 1, 2_000);
        let consumer = wire::FetchEvents::default();
        Request::FetchEvents(wire::FetchEvents {
            topic_id,
            partition,
            first,
            bytes_max,
            wait_ms,
            ..consumer
        })
    };
    bare.append_numbered(slow, &topic, 0, 1..2);
    bare.commit();
    for id in [slow, other] {
        drop(bare.answers(id));
    }
    // The first one is read, which is all that may be; the second one is held, and the third one refused.
    (2..5).for_each(|number| bare.ask(slow, number, fetch(0, 0)));
    let answers = bare.answers(slow);
    let [Some(Response::Refused(refused)), None, None] =
        [4, 2, 3].map(|number| answers.get(&number))
    else {
        panic!("{answers:?}")
    };
    assert_eq!((refused.bound.as_str(), refused.limit), ("fetches_max", 1));
    // Another client waits for events, and is read those that are there.
    bare.ask(other, 2, fetch(1, 1_000));
    bare.ask(other, 3, fetch(0, 0));
    assert_eq!(bare.answers(other).get(&2), None, "it waits");
    let reads = bare.threads.1.try_iter().map(|job| match job {
        DiskJob::Fetch(job) => (job.conn, job.number),
        _ => panic!("another job"),
    });
    assert_eq!(reads.collect::<Vec<_>>(), [(slow, 2), (other, 3)]);
    // Whoever waits beyond the bound is refused, as before.
    bare.ask(other, 4, fetch(1, 1_000));
    assert!(matches!(bare.answers(other).get(&4), Some(Response::Refused(_))));
}

/// `uncommitted_bytes_max`
#[test]
fn with_too_much_to_commit_nobody_is_heard_everybody_is_told_and_nothing_is_lost() {
    let mut bare = Bare::new();
    bare.engine.limits.uncommitted_bytes_max = 10_000;
    let (hot, calm) = (bare.client("app", false), bare.client("app", false));
    open(&mut bare, hot, 1);
    open(&mut bare, calm, 1);
    append(&mut bare, hot, 1, 1, 9_000);
    bare.commit();
    assert!(is_heard(&mut bare, hot));
    read(&mut bare, calm, 1);
    append(&mut bare, hot, 1, 2, 9_000);
    assert!(is_heard(&mut bare, hot), "that is within the bound");
    append(&mut bare, hot, 1, 3, 9_000);
    let tasks = [Listening::new(&mut bare, hot), Listening::new(&mut bare, calm)];
    // What is durable is told meanwhile, and however long it takes, nobody counts as silent.
    let job = bare.told_or_read(calm);
    assert_eq!(job, [(1, 1)]);
    for _ in 0..=2 * SILENT_MAX {
        bare.engine.tick(SILENT_MAX);
    }
    assert_eq!(bare.engine.conns(), 2);
    assert!(tasks.iter().all(|task| !task.is_woken_to_be_heard(&mut bare)));
    bare.commit();
    assert!(tasks.iter().all(|task| task.is_woken_to_be_heard(&mut bare)));
    append(&mut bare, calm, 1, 4, 1);
    bare.commit();
    assert_eq!(bare.replayed().logs.values().map(|log| log.index.last()).sum::<u64>(), 4);
}

/// `store_steps_max`
#[test]
fn who_has_too_many_store_steps_under_way_is_not_heard_and_others_are() {
    let mut bare = Bare::new();
    bare.engine.limits.store_steps_max = 2;
    let (hot, calm) = (bare.client("app", false), bare.client("app", false));
    let load = |bare: &mut Bare, id, actor: String| {
        let load = wire::LoadActor { log: 1, actor, ..Default::default() };
        bare.say(id, ClientFrame::LoadActor(load)).unwrap();
    };
    open(&mut bare, hot, 1);
    open(&mut bare, calm, 1);
    (0..2).for_each(|n| load(&mut bare, hot, format!("a{n}")));
    assert!(is_heard(&mut bare, hot), "that is within the bound");
    load(&mut bare, hot, "a2".into());
    let task = Listening::new(&mut bare, hot);
    assert!(is_heard(&mut bare, calm));
    load(&mut bare, calm, "b".into());
    append(&mut bare, calm, 1, 1, 1);
    bare.commit();
    assert!(!task.is_woken_to_be_heard(&mut bare), "the store has done nothing");
    let actor = |job| match job {
        StoreJob::Step { step: crate::store::StoreStep::Load { actor, .. }, .. } => actor,
        _ => panic!("another job"),
    };
    let asked: Vec<_> = bare.threads.0.try_iter().map(actor).collect();
    assert_eq!(asked, ["a0", "a1", "a2", "b"], "nothing is lost");
    bare.engine.stored(hot, Vec::new());
    assert!(task.is_woken_to_be_heard(&mut bare));
}

/// `read_ahead_bytes`
#[test]
fn no_more_is_read_ahead_than_the_bound_and_other_logs_are_told_meanwhile() {
    let mut bare = Bare::new();
    bare.engine.limits.read_ahead_bytes = 10_000;
    let (writer, reader) = (bare.client("app", false), bare.client("app", false));
    for id in [writer, reader] {
        (1..=2).for_each(|log| open(&mut bare, id, log));
    }
    let records = 12;
    (1..=records).for_each(|n| append(&mut bare, writer, 1, n, 4_000));
    append(&mut bare, writer, 2, 1, 1);
    bare.commit();
    bare.told(reader);
    (1..=2).for_each(|log| read(&mut bare, reader, log));
    let mut disk = bare.reader();
    let (mut told, mut readings, mut other_at) = (Vec::new(), 0, None);
    while told.len() < records as usize {
        told.extend(bare.told_entries(reader, &mut other_at, readings));
        // The reader asks for nothing more as long as it has not got what it asked for.
        let jobs: Vec<_> = bare.threads.1.try_iter().collect();
        for job in jobs {
            let DiskJob::Read(job) = job else { panic!("another job") };
            let found = disk.read(job.log, job.first, &job.addresses, job.bytes_max).unwrap();
            let bytes: usize = found.iter().map(Bytes::len).sum();
            assert!(bytes < 10_000 + 4_000, "{bytes} bytes were read ahead");
            readings += 1;
            bare.engine.read(&job, found);
        }
        assert!(readings < 100, "nothing comes any more: {told:?}");
    }
    assert_eq!(told, (1..=records).collect::<Vec<_>>(), "all of it, once, in order");
    assert!(readings > 4, "the bound was not reached");
    assert_eq!(other_at, Some(2), "the other log waits for nothing but its own record");
}

impl Bare {
    /// The disk reader of this log.
    fn reader(&self) -> Reader {
        let segments = Arc::new(Segments::default());
        segment::list(self.dir.path()).unwrap().into_iter().for_each(|one| segments.insert(one));
        Reader::new(self.dir.path().to_owned(), segments)
    }

    /// The records that are told next; those that have to be read are.
    fn told_or_read(&mut self, id: ConnId) -> Vec<(u32, u64)> {
        let mut told = entries(self, id);
        let mut disk = self.reader();
        for job in self.threads.1.try_iter().collect::<Vec<_>>() {
            let DiskJob::Read(job) = job else { continue };
            let found = disk.read(job.log, job.first, &job.addresses, job.bytes_max).unwrap();
            self.engine.read(&job, found);
        }
        told.extend(entries(self, id));
        told
    }

    /// Offsets of the first log's records that are told next; after how many readings the second one's was.
    fn told_entries(&mut self, id: ConnId, other: &mut Option<u32>, readings: u32) -> Vec<u64> {
        let told = entries(self, id);
        if told.iter().any(|(log, _)| *log == 2) {
            *other = Some(readings);
        }
        told.into_iter().filter(|(log, _)| *log == 1).map(|(_, offset)| offset).collect()
    }
}

#[test]
fn what_cannot_be_synced_is_not_acknowledged_and_ends_the_hub() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    open(&mut bare, client, 1);
    append(&mut bare, client, 1, 1, 1);
    bare.commit();
    drop(bare.told(client));
    append(&mut bare, client, 1, 2, 1);
    let hub = Hub::new(bare.engine);
    let mut tries = 0;
    hub.commit_loop(|_| {
        tries += 1;
        Err(HubError::io(
            "sync",
            std::path::Path::new("log"),
            std::io::Error::other("the disk is gone"),
        ))
    });
    let fault = hub.with(Engine::take_fault).expect("the hub ends");
    assert_eq!((tries, fault.exit_code()), (1, crate::exit_code::IO), "{fault}");
    bare.engine = hub.engine.into_inner().unwrap();
    let told = bare.told(client);
    assert!(!told.iter().any(|frame| matches!(frame, Frame::Own(_) | Frame::Entry(_))), "{told:?}");
}

/// Looks at the commit thread after as many commits, at most, to see it wait for more: it does so for 200 µs.
const LOOKS_MAX: usize = 10_000;
/// As many where it never waits.
const LOOKS: usize = 100;

#[test]
fn only_after_a_commit_of_a_few_records_the_next_one_waits_for_more() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    open(&mut bare, client, 1);
    append(&mut bare, client, 1, 1, 1);
    bare.commit();
    let log = *bare.engine.logs.keys().max().expect("one is open");
    let Bare { engine, mut committer, dir: _dir, .. } = bare;
    let hub = Hub::new(engine);
    let mut next = 2..;
    // Whether the thread waits for more after a commit of so many records, before it is idle.
    let mut waits = |records: usize| {
        while !hub.with(|engine| matches!(engine.committer, CommitterState::Idle)) {
            std::thread::yield_now();
        }
        hub.with(|engine| {
            for record in next.by_ref().take(records) {
                engine.append(client, log, record, Bytes::from_static(b"r"));
            }
        });
        loop {
            match hub.with(|engine| engine.committer) {
                CommitterState::Pacing => return true,
                CommitterState::Idle => return false,
                CommitterState::Busy => std::thread::yield_now(),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| hub.commit_loop(|batch| committer.commit(batch)));
        let seen = [*PACED.start(), *PACED.end()].map(|few| (0..LOOKS_MAX).any(|_| waits(few)));
        let unseen = [1, PACE_ENOUGH].map(|other| (0..LOOKS).any(|_| waits(other)));
        hub.with(|engine| engine.stopping = true);
        assert_eq!((seen, unseen), ([true; 2], [false; 2]));
    });
}
