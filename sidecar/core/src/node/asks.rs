//! What a node asks owners for, again and again until they answer: results of started invocations, the state of
//! actors for somebody outside their turns, and what people want done to invocations. Nobody owes these anything, so
//! nothing of the asking is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use crate::assign;
use crate::cover::Transition;
use crate::effect::{RequestError, Response};
use crate::event::{Operation, SubscriptionsOf};
use crate::ids::{Class, InvocationId, Kind, Millis, NodeId, PartitionId, RequestId, Uuid};
use crate::invocation::{Invocation, Mode, Obligation, Owed, Target, Work};
use crate::limits::{LimitHit, Limits};
use crate::message::{AwaitResult, Control, ControlResult, Message, ReadResult};
use crate::select::Select;

/// How soon nodes that do not own the partition are followed by another try, ms; twice as long each time, up to the
/// channels' period.
const NOT_OWNER_PAUSE_MS: Millis = 50;

/// How long an ask waits for its kind to become known, ms: another node may have just used it for the first time. A
/// kind that stays unknown has neither state nor invocations.
const KIND_WAIT_MS: Millis = 1_000;

/// All that is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asks {
    open: BTreeMap<RequestId, Ask>,
    /// When the membership was first seen.
    members_seen_at: Option<Millis>,
    /// When they are asked again.
    due: BTreeSet<(Millis, RequestId)>,
}

/// One thing asked for.
#[derive(Clone, Debug)]
struct Ask {
    wanted: Wanted,
    /// Whom it was sent to.
    asked: Option<NodeId>,
    /// How often it was sent to somebody who has not refused it: what is to be done may have been done.
    sent: u32,
    /// That node was named by another one that was asked.
    is_hinted: bool,
    /// Rounds without an owner, since the membership changed.
    refusals: u32,
    again_at: Millis,
    since: Millis,
}

#[derive(Clone, Debug)]
enum Wanted {
    /// The outcome of a started invocation, however long it takes.
    Outcome(InvocationId),
    /// Something done to an invocation.
    Control(PartitionId, Control),
    /// State of an actor.
    State { kind: Kind, actor: Arc<str>, select: Select },
    /// Reminders of an actor.
    Reminders { kind: Kind, actor: Arc<str> },
    /// Subscriptions of a partition, or one of them.
    Subscriptions(SubscriptionsOf),
    /// The removal of an actor: only its kind is waited for, then it is owed like a call.
    Remove { kind: Kind, actor: Arc<str> },
}

impl Ask {
    /// When nobody is asked any more: an outcome may take as long as it likes, all else may not.
    fn give_up_at(&self, limits: &Limits) -> Option<Millis> {
        let is_outcome = matches!(self.wanted, Wanted::Outcome(_));
        (!is_outcome).then_some(self.since + limits.accept_timeout_ms)
    }
}

impl Asks {
    /// When the next one is asked again.
    pub(super) fn timeout(&self) -> Option<Millis> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Sets when one is asked again.
    fn again_at(&mut self, request: RequestId, at: Millis) {
        let Some(ask) = self.open.get_mut(&request) else { return };
        self.due.remove(&(ask.again_at, request));
        ask.again_at = at;
        self.due.insert((at, request));
    }

    /// The membership is seen.
    pub(super) fn members_seen(&mut self, now: Millis) {
        self.members_seen_at.get_or_insert(now);
    }

    /// Gives back all that is asked for.
    pub(super) fn end_all(&mut self) -> Vec<(RequestId, Operation)> {
        self.due.clear();
        let asks = std::mem::take(&mut self.open).into_iter();
        let operation = |wanted| match wanted {
            Wanted::Outcome(invocation) => Operation::Await { invocation },
            Wanted::Control(home, control) => Operation::Control { home, control },
            Wanted::State { kind, actor, select } => Operation::StateOf { kind, actor, select },
            Wanted::Reminders { kind, actor } => Operation::Reminders { turn: None, kind, actor },
            Wanted::Subscriptions(of) => Operation::Subscriptions { of },
            Wanted::Remove { kind, actor } => Operation::RemoveActor { kind, actor },
        };
        asks.map(|(request, ask)| (request, operation(ask.wanted))).collect()
    }

    /// Nobody asks for it any more.
    pub(super) fn end(&mut self, request: RequestId) {
        if let Some(ask) = self.open.remove(&request) {
            self.due.remove(&(ask.again_at, request));
        }
    }
}

impl Node {
    /// Waits for the outcome of a started invocation.
    pub(super) fn await_outcome(&mut self, request: RequestId, invocation: InvocationId) {
        let count = self.env.members.kinds.get(&invocation.home.kind);
        if count.is_some_and(|count| invocation.home.index >= *count) {
            let error = RequestError::UnknownInvocation(Box::new(invocation));
            return self.env.respond(request, Err(error));
        }
        self.ask_for(request, Wanted::Outcome(invocation));
    }

    /// Reads an actor's state at its owner.
    pub(super) fn read_state(
        &mut self,
        request: RequestId,
        kind: Kind,
        actor: Arc<str>,
        select: Select,
    ) {
        self.ask_for(request, Wanted::State { kind, actor, select });
    }

    /// Lists an actor's reminders at its owner.
    pub(super) fn list_reminders(&mut self, request: RequestId, kind: Kind, actor: Arc<str>) {
        self.ask_for(request, Wanted::Reminders { kind, actor });
    }

    /// Lists subscriptions at their owner.
    pub(super) fn list_subscriptions(&mut self, request: RequestId, of: SubscriptionsOf) {
        let count = self.env.members.kinds.get(&Kind::subscriptions());
        if let (SubscriptionsOf::Partition(index), Some(count)) = (&of, count)
            && index >= count
        {
            let error = RequestError::Invalid("subscriptions have no such partition");
            return self.env.respond(request, Err(error));
        }
        self.ask_for(request, Wanted::Subscriptions(of));
    }

    /// Has something done to an invocation.
    pub(super) fn control(&mut self, request: RequestId, home: PartitionId, control: Control) {
        let count = self.env.members.kinds.get(&home.kind);
        if count.is_some_and(|count| home.index >= *count) {
            let id = InvocationId { home, uuid: control.uuid() };
            let error = RequestError::UnknownInvocation(Box::new(id));
            return self.env.respond(request, Err(error));
        }
        self.ask_for(request, Wanted::Control(home, control));
    }

    /// Removes an actor: as soon as its kind is known its partition is owed a call that the owner carries out itself.
    pub(super) fn remove_actor(&mut self, request: RequestId, kind: Kind, actor: Arc<str>) {
        if kind.class != Class::Actor {
            let error = RequestError::Invalid("only actors can be removed");
            return self.env.respond(request, Err(error));
        }
        if self.env.leaving {
            return self.env.respond(request, Err(RequestError::Draining));
        }
        self.ask_for(request, Wanted::Remove { kind, actor });
    }

    fn owe_removal(&mut self, request: RequestId, to: PartitionId, actor: Arc<str>) {
        let (parked, limit) = (self.parked(), self.env.limits.roots_per_node_max);
        if self.roots.open() + parked >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let invocation = Invocation::system(Work::Remove, Mode::Call, actor, self.env.uuid());
        let owed = Owed::Invocation(Arc::new(invocation));
        let obligation = Obligation { to, owed, parent: None, step_key: None };
        self.roots.add(&mut self.env, request, obligation, false);
    }

    fn ask_for(&mut self, request: RequestId, wanted: Wanted) {
        let limit = self.env.limits.roots_per_node_max;
        if self.asks.open.len() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let now = self.env.now;
        let ask = Ask {
            wanted,
            asked: None,
            sent: 0,
            is_hinted: false,
            refusals: 0,
            again_at: now,
            since: now,
        };
        self.asks.open.insert(request, ask);
        self.ask(request, None);
    }

    /// Asks again what is due.
    pub(super) fn ask_due(&mut self) {
        let now = self.env.now;
        while let Some((at, request)) = self.asks.due.first().copied()
            && at <= now
        {
            self.ask(request, None);
        }
    }

    /// Peers or members changed: asks again what was asked of a node that is lost, and what nobody could be asked for.
    pub(super) fn review_asks(&mut self, lost: Option<NodeId>) {
        for ask in self.asks.open.values_mut() {
            ask.refusals = 0;
        }
        let stranded = |ask: &Ask| ask.asked.is_none() || ask.asked == lost;
        let stranded = self.asks.open.iter().filter(|(_, ask)| stranded(ask));
        for request in stranded.map(|(request, _)| *request).collect::<Vec<_>>() {
            self.ask(request, None);
        }
    }

    /// Asks the node that another one named, or else whoever seems to be the owner; and again after the channels'
    /// period.
    fn ask(&mut self, request: RequestId, hint: Option<NodeId>) {
        let (now, limits) = (self.env.now, &self.env.limits);
        let mut again_at = now + limits.channel_timer_ms;
        let Some(ask) = self.asks.open.get(&request) else { return };
        if let Some(give_up_at) = ask.give_up_at(limits) {
            if give_up_at <= now {
                let error = if let Wanted::Control(..) = ask.wanted {
                    RequestError::Unknown("the invocation's owner did not answer in time")
                } else {
                    let what = "the actor's owner did not answer in time: ask again";
                    RequestError::Unavailable(what)
                };
                return self.answer_ask(request, Err(error));
            }
            again_at = again_at.min(give_up_at);
        }
        let home = match &ask.wanted {
            Wanted::Outcome(InvocationId { home, .. }) => {
                self.env.members.kinds.contains_key(&home.kind).then(|| home.clone())
            }
            Wanted::Control(home, _) => {
                self.env.members.kinds.contains_key(&home.kind).then(|| home.clone())
            }
            Wanted::State { kind, actor, .. }
            | Wanted::Reminders { kind, actor }
            | Wanted::Remove { kind, actor } => self.home_of(kind, actor),
            Wanted::Subscriptions(SubscriptionsOf::Name(name)) => self.home_of_subscription(name),
            Wanted::Subscriptions(SubscriptionsOf::Partition(index)) => {
                let kind = Kind::subscriptions();
                let is_known = self.env.members.kinds.contains_key(&kind);
                is_known.then(|| PartitionId::new(kind, *index))
            }
        };
        let Some(home) = home else {
            self.env.cover(Transition::AskKind);
            // A node that has not seen the membership yet knows no kind at all.
            let missed_since = self.asks.members_seen_at.map(|at| at.max(ask.since));
            let give_up_at = missed_since.map_or(Millis::MAX, |at| at + KIND_WAIT_MS);
            if give_up_at <= now {
                let response = match &ask.wanted {
                    Wanted::State { select, .. } => Ok(Response::State(select.of_nothing())),
                    Wanted::Reminders { .. } => Ok(Response::Reminders(Vec::new())),
                    Wanted::Subscriptions(_) => Ok(Response::Subscriptions(Vec::new())),
                    Wanted::Remove { kind, .. } => Err(RequestError::UnknownKind(kind.clone())),
                    Wanted::Outcome(id) => {
                        Err(RequestError::UnknownInvocation(Box::new(id.clone())))
                    }
                    Wanted::Control(home, control) => {
                        let id = InvocationId { home: home.clone(), uuid: control.uuid() };
                        Err(RequestError::UnknownInvocation(Box::new(id)))
                    }
                };
                return self.answer_ask(request, response);
            }
            return self.asks.again_at(request, again_at.min(give_up_at));
        };
        if let Wanted::Remove { actor, .. } = &ask.wanted {
            let actor = actor.clone();
            self.asks.end(request);
            return self.owe_removal(request, home, actor);
        }
        self.asks.again_at(request, again_at);
        // What this node has read may be old: whoever was refused starts from the membership's wish.
        let is_first = self.asks.open.get(&request).is_some_and(|ask| ask.refusals == 0);
        let local = self.partitions.get(&home).filter(|_| is_first);
        let local = local.and_then(|p| p.owner_hint(&self.env));
        let node = hint.or(local).or_else(|| self.env.desired_owner(&home));
        // Without a connection it is asked as soon as there is one.
        let node = node.filter(|node| self.env.reachable(*node));
        let Some(ask) = self.asks.open.get_mut(&request) else { return };
        ask.asked = node;
        ask.is_hinted = hint.is_some();
        let Some(node) = node else { return };
        ask.sent = ask.sent.saturating_add(1);
        let message = match &ask.wanted {
            Wanted::Outcome(invocation) => {
                Message::Await { request, partition: home, uuid: invocation.uuid }
            }
            Wanted::Control(_, control) => {
                Message::Control { request, partition: home, control: *control }
            }
            Wanted::State { actor, select, .. } => {
                let (actor, select) = (actor.clone(), select.clone());
                Message::Read { request, partition: home, actor, select }
            }
            Wanted::Reminders { actor, .. } => {
                Message::ListReminders { request, partition: home, actor: actor.clone() }
            }
            Wanted::Subscriptions(of) => {
                let name = match of {
                    SubscriptionsOf::Name(name) => Some(name.clone()),
                    SubscriptionsOf::Partition(_) => None,
                };
                Message::ListSubscriptions { request, partition: home, name }
            }
            // It is owed, not asked for.
            Wanted::Remove { .. } => return,
        };
        self.env.send(node, message);
    }

    /// The partition of an actor, if its kind is known.
    pub(super) fn home_of(&self, kind: &Kind, actor: &Arc<str>) -> Option<PartitionId> {
        let count = self.env.members.kinds.get(kind)?;
        let target = Target { kind: kind.clone(), actor: Some(actor.clone()), affinity: None };
        // An actor's partition does not depend on the invocation.
        let index = assign::partition_index(&target, Uuid::default(), *count);
        Some(PartitionId::new(kind.clone(), index))
    }

    /// An owner answered about a started invocation.
    pub(super) fn awaited(&mut self, from: NodeId, request: RequestId, result: AwaitResult) {
        let Some(Ask { wanted: Wanted::Outcome(id), .. }) = self.asks.open.get(&request) else {
            return;
        };
        let id = id.clone();
        match result {
            AwaitResult::NotOwner(hint) => self.ask_elsewhere(from, request, hint),
            AwaitResult::Done(outcome) => {
                let response = Response::Outcome { invocation: Some(id), outcome };
                self.answer_ask(request, Ok(response));
            }
            AwaitResult::Unknown => {
                self.answer_ask(request, Err(RequestError::UnknownInvocation(Box::new(id))));
            }
        }
    }

    /// An owner did something to an invocation, or found nothing to do.
    pub(super) fn controlled(&mut self, from: NodeId, request: RequestId, result: ControlResult) {
        let Some(ask) = self.asks.open.get(&request) else { return };
        let Wanted::Control(home, control) = &ask.wanted else { return };
        let id = InvocationId { home: home.clone(), uuid: control.uuid() };
        let changes = !matches!(control, Control::Inspect(_));
        match result {
            ControlResult::NotOwner(hint) => self.ask_elsewhere(from, request, hint),
            ControlResult::Done(done) => self.answer_ask(request, Ok(Response::Controlled(done))),
            // What it was may have gone with what was asked for first.
            ControlResult::Unknown if changes && ask.sent > 1 => {
                let what = "its owner was asked again, and does not know the invocation (any more)";
                self.answer_ask(request, Err(RequestError::Unknown(what)));
            }
            ControlResult::Unknown => {
                self.answer_ask(request, Err(RequestError::UnknownInvocation(Box::new(id))));
            }
        }
    }

    /// An owner answered about an actor's state.
    pub(super) fn read_done(&mut self, from: NodeId, request: RequestId, result: ReadResult) {
        let ask = self.asks.open.get(&request);
        let fits = |ask: &Ask| match (&ask.wanted, &result) {
            (Wanted::State { select, .. }, ReadResult::State(read)) => select.fits(read),
            (_, ReadResult::State(_)) => false,
            (_, ReadResult::Reminders(_)) => matches!(ask.wanted, Wanted::Reminders { .. }),
            (_, ReadResult::Subscriptions(_)) => matches!(ask.wanted, Wanted::Subscriptions(_)),
            (Wanted::Outcome(_) | Wanted::Control(..) | Wanted::Remove { .. }, _) => false,
            (Wanted::State { .. } | Wanted::Reminders { .. } | Wanted::Subscriptions(_), _) => true,
        };
        if !ask.is_some_and(fits) {
            return;
        }
        match result {
            ReadResult::NotOwner(hint) => self.ask_elsewhere(from, request, hint),
            ReadResult::State(state) => self.answer_ask(request, Ok(Response::State(state))),
            ReadResult::Reminders(all) => {
                self.answer_ask(request, Ok(Response::Reminders(all)));
            }
            ReadResult::Subscriptions(all) => {
                self.answer_ask(request, Ok(Response::Subscriptions(all)));
            }
            ReadResult::TooLong(limit) => {
                let hit = LimitHit { name: "state_read_bytes_max", limit };
                self.answer_ask(request, Err(RequestError::Limit(hit)));
            }
        }
    }

    /// Whoever was asked is not the owner. The one that it names is asked at once; if that one is not the owner either,
    /// somebody is taking over, or two nodes with old views name each other: a pause, and again from the beginning.
    fn ask_elsewhere(&mut self, from: NodeId, request: RequestId, hint: Option<NodeId>) {
        let Some(ask) = self.asks.open.get_mut(&request) else { return };
        if ask.asked != Some(from) {
            return;
        }
        ask.sent = ask.sent.saturating_sub(1);
        let env = &self.env;
        let alive = |node: &NodeId| env.members.nodes.contains_key(node) && env.reachable(*node);
        let hint = hint.filter(|node| *node != from && !ask.is_hinted && alive(node));
        if hint.is_some() {
            return self.ask(request, hint);
        }
        env.cover(Transition::AskAgain);
        let most = env.limits.channel_timer_ms;
        let pause = most.min(NOT_OWNER_PAUSE_MS << ask.refusals.min(16));
        ask.refusals += 1;
        let give_up_at = ask.give_up_at(&env.limits).unwrap_or(Millis::MAX);
        self.asks.again_at(request, give_up_at.min(env.now + pause));
    }

    fn answer_ask(&mut self, request: RequestId, response: Result<Response, RequestError>) {
        self.asks.end(request);
        self.env.respond(request, response);
    }
}
