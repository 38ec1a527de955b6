//! What the driver hands its effects to; the edges implement it. None of these may block or call back into the
//! driver: they are called under its lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kar_core::effect::{Append, CancelReason, RequestError, Response, Turn};
use kar_core::event::Cell;
use kar_core::ids::{
    Epoch, Kind, NodeId, Number, Offset, PartitionId, ProposalId, TopicPartition, TurnToken, Uuid,
};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::invocation::{ActorOps, Payload};
use kar_core::message::Message;
use kar_core::snapshot::{Snapshot, SnapshotKey};
use kar_core::subscription::FetchId;

/// The answer to a request of the component.
pub type Answer = Result<Response, RequestError>;

/// Takes the answer to one request.
pub type Responder = Box<dyn FnOnce(Answer) + Send>;

/// The stream of the component that hosts.
pub trait Host: Send + Sync {
    /// Runs a turn.
    fn dispatch(&self, turn: Turn);
    /// Runs an at-most-once turn; `turn` comes back in its result.
    fn dispatch_direct(&self, turn: u64, call: DirectCall);
    /// Tells a turn to stop.
    fn cancel(&self, token: TurnToken, reason: CancelReason);
    /// Everything is handed over.
    fn drained(&self);
    /// The node was replaced: ends the stream, so that the component registers anew.
    fn replaced(&self);
}

/// An at-most-once call.
#[derive(Clone, Debug)]
pub struct DirectCall {
    /// The service.
    pub kind: Kind,
    /// Its method.
    pub method: Arc<str>,
    /// Argument.
    pub payload: Payload,
    /// W3C trace context.
    pub trace: Arc<str>,
}

/// An open connection to a peer.
pub trait Peer: Send + Sync {
    /// Sends in order.
    fn send(&self, message: Message);
    /// Ends the connection.
    fn close(&self);
}

/// A record is longer than its log takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTooLong {
    /// Its length.
    pub bytes: usize,
    /// The longest that the log takes.
    pub bytes_max: usize,
}

/// Durable logs, one for each partition. Results come back as events.
pub trait Log: Send {
    /// Appends a record, after those asked for before; its reading back reports it.
    ///
    /// # Errors
    ///
    /// If the log takes no record of that length; then nothing was appended.
    fn append(&self, append: Append) -> Result<(), RecordTooLong>;
    /// Reads from an offset and follows; reading under way for the log ends first.
    fn read(&self, log: &PartitionId, from: Offset);
    /// Reports when everything that is in the log now was read.
    fn barrier(&self, log: &PartitionId);
    /// Stops following.
    fn stop(&self, log: &PartitionId);
    /// Lets the records below an offset go, for good. Idempotent: a log never starts lower than before. What the offset
    /// must be is the caller's decision; a log may keep more than it must. What the store has said to hold must be
    /// durable before they are gone.
    fn trim(&self, log: &PartitionId, below: Offset);
}

/// Logs that everybody may append to. Results come back as events.
pub trait Inboxes: Send {
    /// Appends an entry, after those that this node has appended to the inbox before. That it may not have arrived is
    /// told as [`InboxLost`](kar_core::Event::InboxLost), unless this node has ended.
    fn append_inbox(&self, inbox: &InboxId, proposal: ProposalId, entry: &InboxEntry);
    /// Reads from an offset and follows; reading under way for the inbox ends first.
    fn read_inbox(&self, inbox: &InboxId, from: Offset);
    /// Stops following.
    fn stop_inbox(&self, inbox: &InboxId);
    /// Lets the entries below an offset go, for good. Idempotent.
    fn trim_inbox(&self, inbox: &InboxId, below: Offset);
}

/// Materialised state with a fence cell for each partition. Results come back as events.
pub trait Store: Send {
    /// Reads a partition's cell.
    fn read_cell(&self, partition: &PartitionId);
    /// Loads an actor and its partition's cell in one step, for a reign.
    fn load_actor(&self, partition: &PartitionId, epoch: Epoch, actor: &Arc<str>);
    /// Puts an epoch into the cell unless it has a newer one.
    fn fence(&self, partition: &PartitionId, epoch: Epoch);
    /// Applies operations and sets the cell's offset, in one step, if the cell is exactly the expected one.
    fn write(&self, partition: &PartitionId, expected: Cell, upto: Offset, ops: Vec<ActorOps>);
    /// Stores a partition's snapshot under a key of its own, for ever unchanged, beside everything else. The same again
    /// is no error.
    fn put_snapshot(&self, partition: &PartitionId, key: SnapshotKey, snapshot: Arc<Snapshot>);
    /// Reads a partition's snapshot and checks that it is as it was stored.
    fn get_snapshot(&self, partition: &PartitionId, key: SnapshotKey);
    /// Deletes a partition's snapshot, if there is one.
    fn delete_snapshot(&self, partition: &PartitionId, key: SnapshotKey);
    /// Lists the keys of a partition's snapshots.
    fn list_snapshots(&self, partition: &PartitionId);
}

/// The membership. Its views come back as events.
pub trait Membership: Send {
    /// Tells what this node hosts.
    fn offer(&self, kinds: &[Kind], leaving: bool);
    /// Registers a kind with a number of partitions, unless it has one.
    fn ensure_kind(&self, kind: &Kind, partitions: u32);
}

/// Names what is asked about a channel into a topic, and comes back with the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishAsk {
    /// Whose obligations it is about.
    pub partition: PartitionId,
    /// The topic's partition.
    pub to: TopicPartition,
    /// Names the channel.
    pub channel: Uuid,
    /// Names the question.
    pub serial: u64,
}

/// Topics. Results come back as events.
pub trait Topics: Send {
    /// Appends events by their numbers; a number that the topic has is passed over.
    fn append(&self, ask: PublishAsk, events: Vec<(Number, Bytes)>);
    /// Finds the highest number of a channel that has landed; all higher ones come after the offset `since`.
    fn learn(&self, ask: PublishAsk, since: Offset);
    /// Reads events from an offset, or waits for some: at most so many, of about so many bytes.
    fn fetch(&self, id: FetchId, topic_id: Arc<str>, from: Offset, max: (usize, usize));
    /// What one of these reads is not wanted any more: it is not answered.
    fn stop_fetch(&self, id: &FetchId);
    /// What is read for a partition is not wanted any more.
    fn stop(&self, partition: &PartitionId);
}

/// Everything durable, of one implementation.
pub trait Backend: Log + Inboxes + Store + Membership {}

/// A node as the membership describes it, for people and for dialling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCard {
    /// Incarnation.
    pub id: NodeId,
    /// Name.
    pub name: String,
    /// Where its peer plane listens; empty: it has none.
    pub address: String,
    /// Process id of the sidecar; 0 if unknown.
    pub process_id: u32,
    /// What it hosts.
    pub kinds: Vec<Kind>,
    /// It is leaving.
    pub leaving: bool,
    /// It joined for a short while only.
    pub transient: bool,
}

/// Everybody, by incarnation.
pub type Directory = BTreeMap<NodeId, NodeCard>;
