//! How long decisions are when they are stored: upper bounds, so that a record always fits into a log.
//!
//! A turn's effects are counted when they are buffered (design section 13), with these numbers; what is counted here is
//! therefore at least what the stored form takes (a test of the sidecar encodes everything and compares).

use bytes::Bytes;

use crate::events::{DEAD_LETTER_BYTES_MAX, EventOrigin, Filter, Publication};
use crate::ids::{Number, PartitionId, Sender, TopicPartition};
use crate::invocation::{
    ActorOps, ChainOutcome, Invocation, Obligation, Outcome, Owed, Payload, StateOp,
};
use crate::limits::Limits;
use crate::record::{
    AcceptInBrief, End, Op, Record, RecordedStep, ReminderOp, Segment, SubscriptionOp,
};
use crate::reminder::{Remind, Reminder, ReminderChange};
use crate::schedule::Schedule;
use crate::subscription::{
    Instance, Subscription, SubscriptionAsk, SubscriptionCommand, SubscriptionFence,
    SubscriptionSpec, SubscriptionTarget, TopicRef,
};

/// What a message in a message takes at most besides its content: two tags and lengths.
const NESTED: usize = 12;
/// What a number takes at most, with its tag.
const NUMBER: usize = 11;
/// A UUID with its tag and length.
const UUID: usize = 18;

/// Longest actor id that is counted on (the API's bound): decisions about turns do not repeat it, writes to the store
/// do.
const ACTOR_BYTES_MAX: usize = 512;

/// Longest name of a kind that is counted on (the API's bound).
const KIND_BYTES_MAX: usize = 128;

/// Most partitions of a kind (the API's bound).
const TARGET_PARTITIONS_MAX: usize = 1_024;

/// What a record takes besides its decisions.
const RECORD: usize = 64;

/// Longest name of a kind and longest method, content type, trace context or error code that are counted on, together
/// with actor ids; the API refuses longer ones.
const NAMES_BYTES_MAX: usize = 4 << 10;

/// How many things are held, and how many bytes they have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
}

impl Tally {
    /// One more.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    /// One less.
    pub(crate) fn remove(&mut self, bytes: usize) {
        // What is removed was added with the same size.
        debug_assert!(self.count > 0 && self.bytes >= bytes, "{self:?} less {bytes}");
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Some less, of these sizes.
    pub(crate) fn remove_all(&mut self, sizes: impl Iterator<Item = usize>) {
        sizes.for_each(|bytes| self.remove(bytes));
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }
}

fn text(text: &str) -> usize {
    text.len() + NESTED / 2
}

impl PartitionId {
    fn stored_size(&self) -> usize {
        self.kind.name.len() + NESTED + 2 * NUMBER
    }
}

impl Sender {
    fn stored_size(&self) -> usize {
        match self {
            Self::Node(_) => NESTED + NUMBER,
            Self::Log { partition, .. } => partition.stored_size() + 2 * NESTED + UUID,
            Self::Subscription { partition, .. } => {
                partition.stored_size() + 2 * NESTED + UUID + NUMBER
            }
        }
    }
}

impl Payload {
    fn stored_size(&self) -> usize {
        self.data.len() + text(&self.content_type) + 2 * NESTED
    }
}

impl Invocation {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        self.payload.stored_size()
            + text(&self.method)
            + self.actor.as_ref().map_or(0, |actor| text(actor))
            + (self.chain.len() + 1) * UUID
            + text(&self.trace)
            + self.home.as_ref().map_or(0, |home| home.stored_size() + NESTED)
            + self.retry.map_or(0, |_| 4 * NUMBER + NESTED)
            + self.event.as_ref().map_or(0, |event| event.stored_size())
            + 4 * NUMBER
            + NESTED
    }
}

impl ChainOutcome {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        UUID + self.outcome.size()
    }
}

impl Owed {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        match self {
            Self::Invocation(invocation) => invocation.size(),
            Self::Outcome(done) => done.size(),
            Self::Remind(remind) => remind.size(),
            Self::Subscription(command) => command.size(),
            Self::Fence(fence) => fence.fence.stored_size() + UUID + NESTED,
        }
    }
}

impl Reminder {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let schedule = match &self.schedule {
            Schedule::Once => 0,
            Schedule::Every(_) => NUMBER,
            Schedule::Cron { expression, zone } => text(expression) + text(zone) + NESTED,
        };
        text(&self.id) + text(&self.method) + self.payload.stored_size() + schedule + 2 * NUMBER
    }
}

impl ReminderChange {
    /// Size in bytes, at least what is stored; what it may drop is counted apart.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Set(reminder) => reminder.size(),
            Self::Cancel(id) => text(id),
            Self::CancelAll => NUMBER,
        };
        content + 2 * NESTED
    }
}

impl Remind {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        UUID + text(&self.actor) + self.change.size() + NESTED
    }
}

impl TopicRef {
    fn stored_size(&self) -> usize {
        text(&self.name) + text(&self.id) + NUMBER + NESTED
    }
}

impl Filter {
    fn stored_size(&self) -> usize {
        let content = match self {
            Self::Exact(compared) | Self::Prefix(compared) | Self::Suffix(compared) => {
                compared.iter().map(|(name, value)| text(name) + text(value) + NESTED).sum()
            }
            Self::All(filters) | Self::Any(filters) => {
                filters.iter().map(Self::stored_size).sum::<usize>()
            }
            Self::Not(filter) => filter.stored_size(),
        };
        content + 2 * NESTED
    }
}

impl SubscriptionSpec {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let topics = [Some(&self.topic), self.dead_letter.as_ref()];
        let target = match &self.target {
            SubscriptionTarget::Service { name, affinity } => {
                text(name) + affinity.as_ref().map_or(0, |name| text(name))
            }
            SubscriptionTarget::Actor { name, instance } => match instance {
                Instance::Fixed(id) | Instance::Attribute(id) => text(name) + text(id),
            },
        };
        text(&self.name)
            + topics.into_iter().flatten().map(TopicRef::stored_size).sum::<usize>()
            + target
            + text(&self.method)
            + self.filter.as_ref().map_or(0, Filter::stored_size)
            + self.offsets.len() * NUMBER
            + 8 * NUMBER
            + 6 * NESTED
    }
}

impl Subscription {
    /// Size in bytes, at least what is stored; with how far it has come.
    pub fn size(&self) -> usize {
        // A place for each partition of the topic, with its number.
        let floors = self.spec.offsets.len() * (2 * NUMBER + NESTED);
        self.spec.size() + floors + UUID + 3 * NUMBER + NESTED
    }
}

impl SubscriptionCommand {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let ask = match &self.ask {
            SubscriptionAsk::Subscribe { spec, .. } => spec.size() + NUMBER,
            SubscriptionAsk::Change { name, .. } => text(name) + NUMBER,
            SubscriptionAsk::ActorRemoved { kind, actor, .. } => {
                text(&kind.name) + text(actor) + 2 * NUMBER
            }
        };
        UUID + ask + 2 * NESTED
    }
}

impl SubscriptionFence {
    fn stored_size(&self) -> usize {
        (self.open.len() + 1) * UUID + NESTED
    }
}

impl SubscriptionOp {
    fn stored_size(&self) -> usize {
        let content = match self {
            Self::Nothing => 0,
            Self::Create(subscription) => subscription.size(),
            Self::End { names } => names.iter().map(|name| text(name)).sum(),
            Self::Pause { name, .. } => text(name) + NUMBER,
        };
        content + 2 * NESTED
    }
}

impl ReminderOp {
    fn stored_size(&self) -> usize {
        self.change.size() + self.dropped.len() * UUID + NESTED
    }
}

impl TopicPartition {
    fn stored_size(&self) -> usize {
        text(&self.id) + NUMBER + NESTED
    }

    /// Size in bytes of an event that is to go there, at least what is stored.
    pub(crate) fn publication_size(&self, event: &Bytes) -> usize {
        event.len() + self.stored_size() + NUMBER + 2 * NESTED
    }
}

impl Publication {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        self.to.publication_size(&self.event)
    }
}

impl EventOrigin {
    /// Size in bytes, at least what is stored.
    fn stored_size(&self) -> usize {
        let event = self.event.as_ref().map_or(0, |event| event.len() + NESTED);
        let dead_letter = self.dead_letter.as_ref().map_or(0, TopicPartition::stored_size);
        let names = text(&self.subscription) + text(&self.topic);
        names + self.place.stored_size() + dead_letter + event + NUMBER + NESTED
    }
}

impl Segment {
    fn stored_size(&self) -> usize {
        let sends = self.sends.iter().map(|send| send.obligation.size()).sum::<usize>();
        let reminders = self.reminders.iter().map(ReminderOp::stored_size).sum::<usize>();
        let publishes = self.publishes.iter().map(|p| p.publication.size()).sum::<usize>();
        state_of_actor(&self.state) + sends + reminders + publishes
    }
}

impl End {
    fn stored_size(&self) -> usize {
        match self {
            Self::Outcome(outcome) => outcome.size(),
            Self::Next { invocation, .. } => invocation.size() + NUMBER + NESTED,
            Self::Passed => NUMBER,
        }
    }
}

impl Obligation {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let key = self.step_key.as_ref().map_or(0, |key| text(key));
        self.owed.size() + self.to.stored_size() + UUID + NUMBER + NESTED + key
    }
}

impl RecordedStep {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        text(&self.key) + self.payload.stored_size() + 2 * NESTED
    }
}

impl Outcome {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Done(payload) => payload.stored_size(),
            Self::Failed(e) => {
                let texts = text(&e.code) + text(&e.message) + text(&e.detail);
                texts + e.payload.stored_size() + NUMBER
            }
            Self::Deadlock(cycle) => text(cycle),
            Self::Refused(_) | Self::Expired | Self::Cancelled | Self::Withdrawn => NUMBER,
        };
        content + 2 * NESTED
    }
}

/// What a key of an actor takes with its value, at least what is stored.
pub(crate) fn entry_size(key: &str, value: &Payload) -> usize {
    text(key) + value.stored_size() + 2 * NESTED
}

impl StateOp {
    /// Size in bytes, at least what is stored, in the log and in the store.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Set { key, value } => return entry_size(key, value),
            Self::Remove { key } => text(key),
            Self::RemoveRange(range) => {
                text(&range.from) + range.to.as_ref().map_or(0, |to| text(to)) + 2 * NESTED
            }
            Self::Clear => NUMBER,
        };
        content + 2 * NESTED
    }
}

impl ActorOps {
    /// Size in bytes, at least what a write to the store takes.
    pub fn size(&self) -> usize {
        text(&self.actor) + state(&self.ops) + NESTED
    }
}

impl AcceptInBrief {
    fn stored_size(&self) -> usize {
        let actor = self.actor.as_ref().map_or(0, |actor| text(actor));
        self.sender.stored_size() + actor + NUMBER + NESTED
    }
}

impl Op {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        let content = match self {
            Self::Accept { sender, invocation, .. } => {
                sender.stored_size() + NUMBER + invocation.size()
            }
            Self::Progress { segment, settled, steps, .. } => {
                let settled = settled.iter().map(settled_size).sum::<usize>();
                let steps = steps.iter().map(RecordedStep::size).sum::<usize>();
                UUID + 2 * NUMBER + segment.stored_size() + settled + steps
            }
            Self::Complete { accept, end, segment, .. } => {
                let accept = accept.as_ref().map_or(0, AcceptInBrief::stored_size);
                UUID + 2 * NUMBER + accept + end.stored_size() + segment.stored_size()
            }
            Self::Outcome { sender, done, .. } => {
                sender.stored_size() + 2 * NUMBER + NESTED + done.size()
            }
            Self::StepDone { to, outcome, .. } => {
                to.stored_size() + NESTED + NUMBER + outcome.size()
            }
            Self::Attempt { ended, .. } => {
                let ended = ended.as_ref().map_or(0, |e| text(&e.error) + 2 * NUMBER);
                UUID + 2 * NUMBER + ended
            }
            Self::Cancel { .. } | Self::Park { .. } | Self::Resume { .. } => UUID,
            Self::Settle { to, numbers } => to.stored_size() + NESTED + numbers.len() * NUMBER,
            Self::Again { sender, .. } => sender.stored_size() + NUMBER + UUID,
            Self::Closed { sender, open, .. } => {
                sender.stored_size() + NUMBER + NESTED + open.len() * NUMBER
            }
            Self::CloseChannel { open, .. } => 2 * NUMBER + NESTED + open.len() * NUMBER,
            Self::Snapshot { keeps, .. } => 6 * NUMBER + NESTED + keeps.len() * NUMBER,
            Self::Forget { uuids } | Self::ForgetKeys { uuids } | Self::Discard { uuids } => {
                uuids.len() * UUID
            }
            Self::Redrive { .. } => 2 * UUID,
            Self::Inbox { .. } => NUMBER,
            Self::Published { to, .. } => to.stored_size() + 2 * NUMBER,
            Self::TopicGone { to } => to.stored_size(),
            Self::Deactivate { actor, .. } => text(actor) + UUID,
            Self::Subscription { sender, change, outcome, sends, .. } => {
                let sends = sends.iter().map(|send| send.obligation.size()).sum::<usize>();
                let outcome = outcome.as_ref().map_or(0, Outcome::size);
                sender.stored_size() + NUMBER + UUID + change.stored_size() + outcome + sends
            }
            Self::Delivered { publishes, .. } => {
                let bytes =
                    publishes.iter().map(|publish| publish.publication.size()).sum::<usize>();
                UUID + 2 * NUMBER + bytes
            }
            Self::Fence { sender, fence, .. } => {
                sender.stored_size() + NUMBER + fence.stored_size()
            }
            Self::Fire { actor, id, .. } => text(actor) + text(id) + UUID + 2 * NUMBER,
        };
        content + 2 * NESTED
    }
}

impl Record {
    /// Size in bytes, at least what is stored.
    pub fn size(&self) -> usize {
        match self {
            Self::Claim { .. } | Self::Release { .. } => RECORD,
            Self::Batch { ops, .. } => RECORD + ops.iter().map(Op::size).sum::<usize>(),
        }
    }
}

fn state(ops: &[StateOp]) -> usize {
    ops.iter().map(StateOp::size).sum()
}

/// Operations as the store gets them: with their actor.
fn state_of_actor(ops: &[StateOp]) -> usize {
    if ops.is_empty() { 0 } else { state(ops) + ACTOR_BYTES_MAX + 2 * NESTED }
}

fn settled_size((to, _): &(PartitionId, Number)) -> usize {
    to.stored_size() + NUMBER + 2 * NESTED
}

impl Limits {
    /// The longest turn on its way to its host, bytes: its argument, what its steps recorded, and names. Steps are
    /// bounded when they are recorded, by at least what they take on the way.
    pub fn turn_bytes_max(&self) -> usize {
        let steps = self.step_bytes_per_invocation_max;
        self.message_bytes_max.saturating_add(steps).saturating_add(2 * NAMES_BYTES_MAX)
    }

    /// The longest record that can come about, bytes, and the longest write to the store: many small decisions up to
    /// the target, or one that completes a turn with all that it may have buffered and the longest result.
    pub fn record_bytes_max(&self) -> usize {
        // Whoever raises a bound beyond all reason is to be told, not to find it gone.
        let times = |count: usize, bytes: usize| count.saturating_mul(bytes);
        let sum = |parts: &[usize]| parts.iter().fold(0, |a: usize, b| a.saturating_add(*b));
        let names = 2 * NAMES_BYTES_MAX;
        let settled = times(self.calls_per_turn_max, KIND_BYTES_MAX + 3 * NUMBER + 3 * NESTED);
        // A turn may drop every firing that waits for its actor, each once.
        let dropped = times(self.queue_per_actor_max, UUID);
        // An event goes to its dead-letter topic whatever a turn may buffer.
        let segment = self.segment_bytes_max.max(self.message_bytes_max);
        let segment = sum(&[segment, DEAD_LETTER_BYTES_MAX]);
        let turn = sum(&[segment, self.message_bytes_max, settled, dropped, names]);
        // Lists of numbers and of what is forgotten are bounded by what may be there at once.
        let forgotten = self
            .results_per_partition_max
            .max(self.keys_per_partition_max)
            .max(self.dead_letters_per_partition_max);
        let open = sum(&[self.unfinished_per_partition_max, self.outbox_per_partition_max]);
        let open = times(open.max(self.roots_per_node_max), NUMBER);
        let lists = sum(&[open, times(forgotten, UUID), names]);
        // The end of a subscription tells every partition of its target's kind which ones there still are.
        let fence = times(self.subscriptions_per_partition_max, UUID);
        let fences = times(TARGET_PARTITIONS_MAX, sum(&[fence, KIND_BYTES_MAX, 12 * NESTED]));
        let letters = times(self.subscription_in_flight_max, DEAD_LETTER_BYTES_MAX + 2 * UUID);
        let buried = sum(&[self.subscription_in_flight_bytes_max, self.message_bytes_max, letters]);
        let settings = self.subscriptions_bytes_per_partition_max / 2;
        let subscribing = sum(&[fences.max(buried).max(settings), names]);
        let longest = turn
            .max(lists)
            .max(subscribing)
            .max(self.record_bytes_target)
            .max(self.store_batch_bytes);
        sum(&[RECORD, longest])
    }
}
