//! The driver when its node is not there yet, or is replaced: every request is answered, or goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kar::driver::outlets::{Answer, Backend, Inboxes, Log, Membership, RecordTooLong, Store};
use kar::driver::{Driver, DriverConfig};
use kar_core::Event;
use kar_core::effect::{Append, RequestError};
use kar_core::event::{Cell, Member, Members, Operation};
use kar_core::ids::{Epoch, InvocationId, Kind, NodeId, Offset, PartitionId, ProposalId, Uuid};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{ActorOps, Mode, Payload, Target};
use kar_core::limits::Limits;
use kar_core::select::Select;
use kar_core::snapshot::{Snapshot, SnapshotKey};

/// A hub that does not answer.
struct Silent;

impl Backend for Silent {}

impl Log for Silent {
    fn append(&self, _: Append) -> Result<(), RecordTooLong> {
        Ok(())
    }
    fn read(&self, _: &PartitionId, _: Offset) {}
    fn barrier(&self, _: &PartitionId) {}
    fn stop(&self, _: &PartitionId) {}
    fn trim(&self, _: &PartitionId, _: Offset) {}
}

impl Inboxes for Silent {
    fn append_inbox(&self, _: &InboxId, _: ProposalId, _: &InboxEntry) {}
    fn read_inbox(&self, _: &InboxId, _: Offset) {}
    fn stop_inbox(&self, _: &InboxId) {}
    fn trim_inbox(&self, _: &InboxId, _: Offset) {}
}

impl Store for Silent {
    fn read_cell(&self, _: &PartitionId) {}
    fn load_actor(&self, _: &PartitionId, _: Epoch, _: &Arc<str>) {}
    fn fence(&self, _: &PartitionId, _: Epoch) {}
    fn write(&self, _: &PartitionId, _: Cell, _: Offset, _: Vec<ActorOps>) {}
    fn put_snapshot(&self, _: &PartitionId, _: SnapshotKey, _: Arc<Snapshot>) {}
    fn get_snapshot(&self, _: &PartitionId, _: SnapshotKey) {}
    fn delete_snapshot(&self, _: &PartitionId, _: SnapshotKey) {}
    fn list_snapshots(&self, _: &PartitionId) {}
}

impl Membership for Silent {
    fn offer(&self, _: &[Kind], _: bool) {}
    fn ensure_kind(&self, _: &Kind, _: u32) {}
}

type Answers = Arc<Mutex<BTreeMap<&'static str, Answer>>>;

fn ask(driver: &Driver, answers: &Answers, name: &'static str, operation: Operation) {
    let answers = answers.clone();
    let responder = Box::new(move |answer| {
        let twice = answers.lock().expect("nobody panics").insert(name, answer);
        assert!(twice.is_none(), "{name} is answered twice");
    });
    driver.batch().request(operation, responder);
}

fn call(kind: &str) -> Operation {
    Operation::Invoke {
        turn: None,
        mode: Mode::Call,
        target: Target { kind: Kind::service(kind), actor: None, affinity: None },
        method: "m".into(),
        payload: Payload::default(),
        deadline: None,
        trace: "".into(),
        step_key: None,
        retry: None,
        key: None,
    }
}

fn members(own: NodeId) -> Event {
    let nodes = BTreeMap::from([(own, Member::default())]);
    Event::Members(Members { nodes, kinds: BTreeMap::from([(Kind::service("known"), 1)]) })
}

fn started() -> InvocationId {
    InvocationId { home: PartitionId::new(Kind::service("known"), 0), uuid: Uuid(1) }
}

fn driver() -> Arc<Driver> {
    let driver = Driver::new(DriverConfig {
        limits: Limits::default(),
        partitions: 2,
        no_peer: false,
        describe: kar::convert::view::describe,
    });
    driver.attach(Box::new(Silent));
    driver
}

#[test]
fn a_request_before_the_node_has_joined_or_after_its_end_is_answered() {
    let (driver, answers) = (driver(), Answers::default());
    ask(&driver, &answers, "early", call("known"));
    driver.join(NodeId(1));
    driver.detach();
    ask(&driver, &answers, "late", call("known"));
    for (name, answer) in std::mem::take(&mut *answers.lock().expect("nobody panics")) {
        assert!(matches!(answer, Err(RequestError::Unavailable(_))), "{name}: {answer:?}");
    }
}

#[test]
fn when_the_node_is_replaced_requests_that_changed_nothing_go_on() {
    let (driver, answers) = (driver(), Answers::default());
    driver.join(NodeId(1));
    driver.handle(members(NodeId(1)));
    ask(&driver, &answers, "sent", call("known"));
    ask(&driver, &answers, "parked", call("unknown"));
    ask(&driver, &answers, "await", Operation::Await { invocation: started() });
    let read =
        Operation::StateOf { kind: Kind::actor("a"), actor: "x".into(), select: Select::all() };
    ask(&driver, &answers, "read", read);
    let answered = || answers.lock().expect("nobody panics").keys().copied().collect::<Vec<_>>();
    assert_eq!(answered(), [] as [&str; 0]);
    driver.join(NodeId(2));
    assert_eq!(answered(), ["sent"], "nobody can tell how that ends");
    let sent = answers.lock().expect("nobody panics").remove("sent");
    assert!(matches!(sent, Some(Err(RequestError::Unknown(_)))), "{sent:?}");
    // The next node has them: with a third one they go on again, and an answer finds its way.
    driver.handle(members(NodeId(2)));
    driver.join(NodeId(3));
    driver.handle(members(NodeId(3)));
    assert_eq!(answered(), [] as [&str; 0]);
    assert_eq!(driver.counters()["requests_open_now"], 3);
    let message = kar_core::message::Message::Awaited {
        request: kar_core::ids::RequestId(3),
        result: kar_core::message::AwaitResult::Unknown,
    };
    driver.handle(Event::Peer { from: NodeId(3), message });
    assert_eq!(answered(), ["await"]);
    let answer = answers.lock().expect("nobody panics").remove("await");
    assert!(matches!(answer, Some(Err(RequestError::UnknownInvocation(_)))), "{answer:?}");
}
