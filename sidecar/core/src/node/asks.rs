//! What a node asks owners for, again and again until they answer: results of started invocations, and the state of
//! actors for somebody outside their turns. Nobody owes these anything, so nothing of it is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use crate::assign;
use crate::effect::{RequestError, Response};
use crate::ids::{InvocationId, Kind, Millis, NodeId, PartitionId, RequestId, Uuid};
use crate::invocation::Target;
use crate::limits::LimitHit;
use crate::message::{AwaitResult, Message, ReadResult};

/// How soon a node that did not answer for the partition is followed by another try, ms.
const NOT_OWNER_PAUSE_MS: Millis = 50;

/// How long an ask waits for its kind to become known, ms: another node may have just used it for the first time. A
/// kind that stays unknown has neither state nor invocations.
const KIND_WAIT_MS: Millis = 1_000;

/// All that is asked for.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: BTreeMap<RequestId, Ask>,
    /// When they are asked again.
    due: BTreeSet<(Millis, RequestId)>,
}

/// One thing asked for.
#[derive(Debug)]
struct Ask {
    wanted: Wanted,
    /// Whom it was sent to.
    asked: Option<NodeId>,
    again_at: Millis,
    since: Millis,
}

#[derive(Debug)]
enum Wanted {
    /// The outcome of a started invocation, however long it takes.
    Outcome(InvocationId),
    /// State of an actor.
    State { kind: Kind, actor: Arc<str>, keys: Option<Vec<Arc<str>>> },
    /// Reminders of an actor.
    Reminders { kind: Kind, actor: Arc<str> },
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
        keys: Option<Vec<Arc<str>>>,
    ) {
        self.ask_for(request, Wanted::State { kind, actor, keys });
    }

    /// Lists an actor's reminders at its owner.
    pub(super) fn list_reminders(&mut self, request: RequestId, kind: Kind, actor: Arc<str>) {
        self.ask_for(request, Wanted::Reminders { kind, actor });
    }

    fn ask_for(&mut self, request: RequestId, wanted: Wanted) {
        let limit = self.env.limits.roots_per_node_max;
        if self.asks.open.len() >= limit {
            let hit = self.env.limit("roots_per_node_max", limit);
            return self.env.respond(request, Err(RequestError::Limit(hit)));
        }
        let now = self.env.now;
        self.asks.open.insert(request, Ask { wanted, asked: None, again_at: now, since: now });
        self.ask(request);
    }

    /// Asks again: what is due, what was asked of a node that is lost, and what nobody could be asked for.
    pub(super) fn ask_again(&mut self, lost: Option<NodeId>) {
        let now = self.env.now;
        while let Some((at, request)) = self.asks.due.first().copied()
            && at <= now
        {
            self.ask(request);
        }
        let stranded = |ask: &Ask| ask.asked.is_none() || ask.asked == lost;
        let stranded = self.asks.open.iter().filter(|(_, ask)| stranded(ask));
        for request in stranded.map(|(request, _)| *request).collect::<Vec<_>>() {
            self.ask(request);
        }
    }

    /// Asks whoever seems to be the owner, and again after the channels' period.
    fn ask(&mut self, request: RequestId) {
        let (now, limits) = (self.env.now, &self.env.limits);
        let mut again_at = now + limits.channel_timer_ms;
        let Some(ask) = self.asks.open.get(&request) else { return };
        let home = match &ask.wanted {
            Wanted::Outcome(InvocationId { home, .. }) => {
                self.env.members.kinds.contains_key(&home.kind).then(|| home.clone())
            }
            Wanted::State { kind, actor, .. } | Wanted::Reminders { kind, actor } => {
                let give_up_at = ask.since + limits.accept_timeout_ms;
                if give_up_at <= now {
                    let what = "the actor's owner did not answer in time: ask again";
                    return self.answer_ask(request, Err(RequestError::Unavailable(what)));
                }
                again_at = again_at.min(give_up_at);
                self.home_of(kind, actor)
            }
        };
        let Some(home) = home else {
            let give_up_at = ask.since + KIND_WAIT_MS;
            if give_up_at <= now {
                let response = match &ask.wanted {
                    Wanted::State { .. } => Ok(Response::State(BTreeMap::new())),
                    Wanted::Reminders { .. } => Ok(Response::Reminders(Vec::new())),
                    Wanted::Outcome(id) => {
                        Err(RequestError::UnknownInvocation(Box::new(id.clone())))
                    }
                };
                return self.answer_ask(request, response);
            }
            return self.asks.again_at(request, again_at.min(give_up_at));
        };
        self.asks.again_at(request, again_at);
        let local = self.partitions.get(&home).and_then(|p| p.owner_hint(&self.env));
        let node = local.or_else(|| self.env.desired_owner(&home));
        // Without a connection it is asked as soon as there is one.
        let node = node.filter(|node| self.env.reachable(*node));
        let Some(ask) = self.asks.open.get_mut(&request) else { return };
        ask.asked = node;
        let Some(node) = node else { return };
        let message = match &ask.wanted {
            Wanted::Outcome(invocation) => {
                Message::Await { request, partition: home, uuid: invocation.uuid }
            }
            Wanted::State { actor, keys, .. } => {
                let (actor, keys) = (actor.clone(), keys.clone());
                Message::Read { request, partition: home, actor, keys }
            }
            Wanted::Reminders { actor, .. } => {
                Message::ListReminders { request, partition: home, actor: actor.clone() }
            }
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
    pub(super) fn awaited(&mut self, request: RequestId, result: AwaitResult) {
        let Some(Ask { wanted: Wanted::Outcome(id), .. }) = self.asks.open.get(&request) else {
            return;
        };
        let id = id.clone();
        match result {
            AwaitResult::NotOwner(_) => self.ask_soon(request),
            AwaitResult::Done(outcome) => {
                let response = Response::Outcome { invocation: Some(id), outcome };
                self.answer_ask(request, Ok(response));
            }
            AwaitResult::Unknown => {
                self.answer_ask(request, Err(RequestError::UnknownInvocation(Box::new(id))));
            }
        }
    }

    /// An owner answered about an actor's state.
    pub(super) fn read_done(&mut self, request: RequestId, result: ReadResult) {
        let ask = self.asks.open.get(&request);
        let fits = |ask: &Ask| match (&ask.wanted, &result) {
            (Wanted::State { .. }, ReadResult::Reminders(_))
            | (Wanted::Reminders { .. }, ReadResult::State(_))
            | (Wanted::Outcome(_), _) => false,
            (Wanted::State { .. } | Wanted::Reminders { .. }, _) => true,
        };
        if !ask.is_some_and(fits) {
            return;
        }
        match result {
            ReadResult::NotOwner(_) => self.ask_soon(request),
            ReadResult::State(state) => self.answer_ask(request, Ok(Response::State(state))),
            ReadResult::Reminders(all) => {
                self.answer_ask(request, Ok(Response::Reminders(all)));
            }
            ReadResult::TooLong(limit) => {
                let hit = LimitHit { name: "state_read_bytes_max", limit };
                self.answer_ask(request, Err(RequestError::Limit(hit)));
            }
        }
    }

    /// Whoever was asked is not the owner: another one is taking over.
    fn ask_soon(&mut self, request: RequestId) {
        let pause = self.env.limits.channel_timer_ms.min(NOT_OWNER_PAUSE_MS);
        self.asks.again_at(request, self.env.now + pause);
    }

    fn answer_ask(&mut self, request: RequestId, response: Result<Response, RequestError>) {
        self.asks.end(request);
        self.env.respond(request, response);
    }
}
