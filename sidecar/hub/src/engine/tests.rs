//! What happens between two steps of the hub: instants that no test with processes can choose.

mod bounds;
mod topics;

use std::ops::Range;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Context, Poll, Waker};

use tonic::Status;
use wire::client_frame::Frame as ClientFrame;
use wire::state_request::Request;

use super::*;
use crate::options::Durability;
use crate::wal::commit::Committer;
use crate::wal::compact;
use crate::wal::mark::MarkFile;
use crate::wal::read::Segments;
use crate::wal::recover;
use crate::wal::segment::Segment;

/// Bytes of the log's files; small, so that they are soon full.
const SEGMENT: u64 = 64 << 10;
/// Ticks without a word after which a client is struck out.
const SILENT_MAX: u32 = 3;

/// An engine with its log on disk, and nobody on the other threads.
struct Bare {
    dir: tempfile::TempDir,
    engine: Engine,
    committer: Committer,
    threads: Jobs,
}

/// What is asked of the other threads, and not done.
type Jobs = (Receiver<StoreJob>, Receiver<DiskJob>, Receiver<TidyJob>, Receiver<SnapshotJob>);

#[expect(clippy::disallowed_methods, reason = "a test sends few")]
fn queue<T>() -> (Sender<T>, Receiver<T>) {
    channel()
}

fn limits() -> HubLimits {
    HubLimits { segment_bytes: SEGMENT, ..HubLimits::default() }
}

impl Bare {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = Segment::whole(1, 0, SEGMENT);
        first.create(dir.path()).unwrap();
        let segments = Arc::new(Segments::default());
        segments.insert(first);
        let (mark, _) = MarkFile::open(dir.path(), Durability::Os).unwrap();
        let sealed = Box::new(|_| ());
        let committer =
            Committer::new(dir.path(), Durability::Os, mark, segments, first, SEGMENT, sealed);
        let (threads, receivers) = threads();
        let writer = Writer::new(first, first.data(), SEGMENT);
        let mut engine =
            Replay::new().engine(limits(), "id".into(), writer, &[first], None, threads);
        engine.begin_first_file();
        let mut bare = Self { dir, engine, committer: committer.unwrap(), threads: receivers };
        bare.commit();
        bare
    }

    /// Everything that was appended becomes durable.
    fn commit(&mut self) {
        let batch = self.engine.writer.take();
        let syncs = self.committer.commit(&batch).unwrap();
        self.engine.committed(batch, syncs, Duration::ZERO);
    }

    /// What the next hub would know, if this one were killed now.
    fn replayed(&self) -> Engine {
        let (_, mark) = MarkFile::open(self.dir.path(), Durability::Os).unwrap();
        let mut replay = Replay::new();
        let end = recover::recover(self.dir.path(), mark, |what| replay.visit(what)).unwrap();
        let end = end.expect("there is a log");
        assert_eq!(replay.missing(), None);
        let last = end.segments[end.segments.len() - 1];
        let writer = Writer::new(last, end.address, SEGMENT);
        let (threads, _) = threads();
        replay.engine(limits(), "id".into(), writer, &end.segments, end.holding_from, threads)
    }

    /// This hub is killed, and another one goes on.
    fn restart(&mut self) {
        let (threads, receivers) = threads();
        self.engine = self.replayed();
        (self.engine.threads, self.threads) = (threads, receivers);
    }

    fn client(&mut self, app: &str, observer: bool) -> ConnId {
        let id = self.engine.attach().unwrap();
        let hello = wire::Hello {
            version: members::PROTOCOL_VERSION,
            application: app.into(),
            node_name: format!("n{id}"),
            observer,
            ..Default::default()
        };
        self.say(id, ClientFrame::Hello(hello)).unwrap();
        self.commit();
        id
    }

    fn say(&mut self, id: ConnId, frame: ClientFrame) -> Result<(), Status> {
        self.engine.handle(id, vec![wire::ClientFrame { frame: Some(frame) }])
    }

    fn ask_for_purge(&mut self, id: ConnId, number: u64) {
        self.ask(id, number, Request::Purge(wire::Purge::default()));
    }

    /// The frames that are told next.
    fn told(&mut self, id: ConnId) -> Vec<Frame> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.engine.poll_message(id, &mut cx) {
            Poll::Ready(Some(Ok(message))) => {
                message.frames.into_iter().filter_map(|frame| frame.frame).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Asks for something of topics; what it comes to is told with the next commit.
    fn ask(&mut self, id: ConnId, number: u64, request: Request) {
        let request = wire::StateRequest { number, request: Some(request) };
        self.say(id, ClientFrame::State(request)).unwrap();
    }

    /// The answers that are told next, by number.
    fn answers(&mut self, id: ConnId) -> BTreeMap<u64, Response> {
        let answer = |frame| match frame {
            Frame::State(answer) => Some((answer.number, answer.response?)),
            _ => None,
        };
        self.told(id).into_iter().filter_map(answer).collect()
    }

    /// Creates the only topic, of two partitions; returns its id.
    fn topic(&mut self, id: ConnId) -> String {
        self.wide_topic(id, 2)
    }

    fn wide_topic(&mut self, id: ConnId, partitions: u32) -> String {
        let info = wire::TopicInfo { name: "t".into(), partitions, ..Default::default() };
        let create = wire::CreateTopic { topic: Some(info) };
        self.ask(id, 1, Request::CreateTopic(create));
        self.commit();
        self.engine.topics.only_id()
    }

    /// Appends long events of a channel to the first partition.
    fn append_numbered(&mut self, id: ConnId, topic: &str, channel: u8, numbers: Range<u64>) {
        let event = |number| wire::NumberedEvent { number, event: vec![1; 9_000].into() };
        let append = wire::AppendEvents {
            topic_id: topic.to_owned(),
            partition: 0,
            channel: vec![channel; 16].into(),
            events: numbers.map(event).collect(),
        };
        self.ask(id, 1, Request::AppendEvents(append));
    }

    /// Appends records until the log goes on in another file.
    fn fill_a_file(&mut self, id: ConnId) {
        self.say(id, ClientFrame::OpenLog(wire::OpenLog { log: 1, name: "a.K/0".into() })).unwrap();
        let first = self.engine.writer.segment();
        while self.engine.writer.segment() == first {
            let record = Bytes::from(vec![1; 4_096]);
            self.say(id, ClientFrame::Append(wire::Append { log: 1, id: 1, record })).unwrap();
        }
    }
}

fn threads() -> (Threads, Jobs) {
    let ((store, a), (disk, b), (tidy, c), (snapshots, d)) = (queue(), queue(), queue(), queue());
    (Threads { store, disk, tidy, snapshots }, (a, b, c, d))
}

fn is_purging(engine: &Engine, app: &str) -> bool {
    engine.apps.get(app).is_some_and(|app| app.purging)
}

/// The file that begins between the record that a purge is done and its durability must not tell the next hub to go on
/// with it: what has been written since would go.
#[test]
fn a_purge_that_is_done_is_not_begun_again_by_the_next_file() {
    let mut bare = Bare::new();
    let (tool, other) = (bare.client("app", true), bare.client("other", false));
    bare.ask_for_purge(tool, 1);
    bare.commit();
    assert!(is_purging(&bare.replayed(), "app"), "until it is done the next hub goes on with it");
    let app: Arc<str> = "app".into();
    bare.engine.snapshots_purged(tool, 1, &app);
    bare.engine.store_purged(tool, 1, &app, 0);
    bare.fill_a_file(other);
    bare.commit();
    assert!(!is_purging(&bare.engine, "app"), "it is answered, and anybody may join");
    assert!(!is_purging(&bare.replayed(), "app"), "the next hub would delete what came since");
}

/// … nor may another purge of the same application, asked for meanwhile, go on when others have joined after the first.
#[test]
fn of_an_application_there_is_one_purge_at_a_time() {
    let mut bare = Bare::new();
    let tool = bare.client("app", true);
    bare.ask_for_purge(tool, 1);
    bare.ask_for_purge(tool, 2);
    let refused = bare.told(tool).into_iter().any(|frame| {
        let Frame::State(answer) = frame else { return false };
        let response = answer.response;
        answer.number == 2 && matches!(response, Some(wire::state_response::Response::Refused(_)))
    });
    assert!(refused, "the second one is refused");
}

/// A client that does not read is not heard; that must not keep it alive for ever.
#[test]
fn a_client_that_takes_nothing_is_struck_out() {
    let mut bare = Bare::new();
    let (frozen, slow) = (bare.client("app", false), bare.client("app", false));
    let much = bare.engine.limits.outbox_bytes_max + 1;
    for id in [frozen, slow] {
        let answers = (0..64).map(|_| (Frame::Alive(wire::Alive {}), much)).collect();
        bare.engine.stored(id, answers);
    }
    for _ in 0..=SILENT_MAX {
        assert!(bare.engine.paused(slow));
        bare.engine.tick(SILENT_MAX);
        assert!(!bare.told(slow).is_empty(), "it reads, slowly");
    }
    let members = &bare.engine.apps["app"].members;
    let alive: Vec<_> = members.values().filter_map(|member| member.conn).collect();
    assert_eq!(alive, [slow]);
}

/// All that holds is at the beginning of each file, however much there is of it: else the hub would end there, and the
/// next one at the same place.
#[test]
fn a_file_is_as_long_as_what_holds_and_the_record_that_needed_it() {
    let mut bare = Bare::new();
    let client = bare.client("app", false);
    let logs: u32 = 300;
    for log in 1..=logs {
        let name = format!("a.{}/{log}", "k".repeat(400));
        bare.say(client, ClientFrame::OpenLog(wire::OpenLog { log, name })).unwrap();
        let record = Bytes::from_static(b"x");
        bare.say(client, ClientFrame::Append(wire::Append { log, id: 1, record })).unwrap();
        bare.commit();
    }
    let record = Bytes::from(vec![1; 100_000]);
    bare.say(client, ClientFrame::Append(wire::Append { log: 1, id: 2, record })).unwrap();
    bare.commit();
    assert!(bare.engine.writer.segment().size > 2 * SEGMENT);
    let next = bare.replayed();
    assert_eq!(next.logs.len(), logs as usize);
    assert_eq!(next.logs.values().map(|log| log.index.last()).sum::<u64>(), u64::from(logs) + 1);
}

/// Whoever looks at an application that there is not leaves nothing behind.
#[test]
fn names_that_were_only_looked_at_are_forgotten() {
    let mut bare = Bare::new();
    let tool = bare.client("typo", true);
    let also = bare.client("typo", true);
    bare.engine.detach(tool);
    assert!(bare.engine.apps.contains_key("typo"), "somebody still looks");
    bare.engine.detach(also);
    assert!(!bare.engine.apps.contains_key("typo"));
    let member = bare.client("shop", false);
    let ensure = wire::EnsureKind { kind: Some(wire::Kind { name: "a.K".into(), partitions: 1 }) };
    bare.say(member, ClientFrame::EnsureKind(ensure)).unwrap();
    bare.commit();
    bare.engine.detach(member);
    assert!(bare.engine.apps.contains_key("shop"), "it has kinds");
}
