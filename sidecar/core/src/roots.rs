//! Root invocations of this node's component: obligations without a log behind them (rule C1). The node keeps each
//! until its receiver reports a durable outcome.

use std::collections::{BTreeMap, BTreeSet};

use crate::cover::Transition;
use crate::effect::{Notice, RequestError, Response};
use crate::env::Env;
use crate::ids::{Epoch, InvocationId, Millis, NodeId, Number, PartitionId, RequestId, Sender};
use crate::invocation::{Obligation, Outcome, Owed};
use crate::partition::{answer_of, answer_to_command};
use crate::route::{Opened, ReadBack, Route, Said, is_promised};
use crate::state::Outbound;

/// All roots of a node, by the partition they go to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roots {
    channels: BTreeMap<PartitionId, Channel>,
    by_request: BTreeMap<RequestId, Waiting>,
    /// Tells and starts that wait to be accepted, by when they stop waiting.
    unaccepted: BTreeSet<(Millis, RequestId)>,
    open: usize,
}

/// What a request of the component waits for.
#[derive(Clone, Debug)]
struct Waiting {
    to: PartitionId,
    number: Number,
    /// When it stops waiting, for tells and starts.
    until: Option<Millis>,
    /// It is a call with an idempotency key: started, and then asked for.
    awaits: bool,
}

#[derive(Clone, Debug)]
struct Channel {
    out: Outbound,
    route: Route,
    /// Who asked; absent once nobody waits any more.
    requests: BTreeMap<Number, RequestId>,
    /// The receiver closed the channel (rule C6).
    closed: bool,
}

impl Channel {
    fn new(env: &Env, to: &PartitionId) -> Self {
        Self {
            out: Outbound::default(),
            route: Route::new(Sender::Node(env.id), 0, to.clone(), 1),
            requests: BTreeMap::new(),
            closed: false,
        }
    }
}

impl Roots {
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Owes an invocation to a partition. `awaits`: its outcome is asked for as soon as it is accepted.
    pub(crate) fn add(
        &mut self,
        env: &mut Env,
        request: RequestId,
        obligation: Obligation,
        awaits: bool,
    ) {
        let to = obligation.to.clone();
        let channel = self.channels.entry(to.clone()).or_insert_with(|| Channel::new(env, &to));
        if channel.closed {
            return env.respond(request, Err(RequestError::ChannelClosed(Box::new(to))));
        }
        let number = channel.out.next;
        channel.out.next += 1;
        let waits = !obligation.owed.is_awaited() && !awaits;
        let until = waits.then_some(env.now + env.limits.accept_timeout_ms);
        self.unaccepted.extend(until.map(|at| (at, request)));
        channel.out.open.insert(number, obligation);
        channel.requests.insert(number, request);
        self.by_request.insert(request, Waiting { to: to.clone(), number, until, awaits });
        self.open += 1;
        channel.route.send(env, &channel.out, number);
        if channel.route.by_inbox() && !env.rules.inbox_read_back {
            self.promise(env, &to, number);
        }
    }

    /// A request was read back from its partition's inbox.
    pub(crate) fn read_back(&mut self, env: &mut Env, to: &PartitionId, what: ReadBack) {
        if let Some(channel) = self.channels.get_mut(to)
            && channel.route.read_back(env, &channel.out, what)
            && let Said::Request(number) = what.said
        {
            self.promise(env, to, number);
        }
    }

    /// It is durable in the inbox, so it will be taken whatever becomes of this node: tells are told to be accepted.
    /// They stay owed until the owner has accepted them, too.
    fn promise(&mut self, env: &mut Env, to: &PartitionId, number: Number) {
        let Some(channel) = self.channels.get_mut(to) else { return };
        let Some(obligation) = channel.out.open.get(&number) else { return };
        if !is_promised(&obligation.owed) {
            return;
        }
        let invocation = InvocationId { home: to.clone(), uuid: obligation.owed.uuid() };
        if let Some(request) = channel.requests.remove(&number) {
            env.cover(Transition::RootPromised);
            self.forget(request);
            env.respond(request, Ok(Response::Accepted { invocation }));
        }
    }

    /// What was appended to an inbox may be lost.
    pub(crate) fn inbox_lost(&mut self, env: &Env, to: &PartitionId) {
        if let Some(channel) = self.channels.get_mut(to) {
            channel.route.break_run(env);
        }
    }

    /// Nobody waits for the answer; the invocation goes on.
    pub(crate) fn abandon(&mut self, request: RequestId) {
        if let Some(waiting) = self.forget(request)
            && let Some(channel) = self.channels.get_mut(&waiting.to)
        {
            channel.requests.remove(&waiting.number);
        }
    }

    /// A call ended, or something was refused.
    pub(crate) fn reply(
        &mut self,
        env: &mut Env,
        from: &PartitionId,
        number: Number,
        outcome: Outcome,
    ) {
        let Some((request, obligation)) = self.close(env, from, number) else { return };
        let Some(request) = request else { return };
        if let Owed::Remind(remind) = &obligation.owed {
            return env.respond(request, answer_of(&remind.change, outcome));
        }
        if let Owed::Subscription(command) = &obligation.owed {
            return env.respond(request, answer_to_command(command, outcome));
        }
        let invocation = InvocationId { home: from.clone(), uuid: obligation.owed.uuid() };
        env.respond(request, Ok(Response::Outcome { invocation: Some(invocation), outcome }));
    }

    /// Tells and starts are durable.
    pub(crate) fn accepted(&mut self, env: &mut Env, from: &PartitionId, numbers: &[Number]) {
        for number in numbers {
            let channel = self.channels.get(from);
            let is_call =
                channel.and_then(|c| c.out.open.get(number)).is_none_or(|o| o.owed.is_awaited());
            if is_call {
                continue;
            }
            let request = channel.and_then(|c| c.requests.get(number));
            let awaits = request.and_then(|r| self.by_request.get(r)).is_some_and(|w| w.awaits);
            let Some((request, obligation)) = self.close(env, from, *number) else { continue };
            let Some(request) = request else { continue };
            let invocation = InvocationId { home: from.clone(), uuid: obligation.owed.uuid() };
            if awaits {
                env.to_await.push_back((request, invocation));
            } else {
                env.respond(request, Ok(Response::Accepted { invocation }));
            }
        }
    }

    /// A number has retired: accepted, for tells; for an open call it cannot be (section 18, decision 4).
    pub(crate) fn gone(&mut self, env: &mut Env, from: &PartitionId, number: Number) {
        let channel = self.channels.get(from);
        let Some(obligation) = channel.and_then(|c| c.out.open.get(&number)) else { return };
        if !obligation.owed.is_awaited() {
            return self.accepted(env, from, &[number]);
        }
        env.notice(Notice::BrokenInvariant { what: "an open root call's number has retired" });
        if let Some((Some(request), _)) = self.close(env, from, number) {
            let error = RequestError::Unknown("the call's number has retired at its owner");
            env.respond(request, Err(error));
        }
    }

    /// The receiver closed the channel: this node was given up (rule C6). Also one that was not used yet: the mark that
    /// says so is not read again.
    pub(crate) fn channel_closed(&mut self, env: &mut Env, from: &PartitionId) {
        let channel = self.channels.entry(from.clone()).or_insert_with(|| Channel::new(env, from));
        if !std::mem::replace(&mut channel.closed, true) {
            env.notice(Notice::ChannelClosed { partition: from.clone() });
        }
        let numbers: Vec<_> = channel.out.open.keys().copied().collect();
        for number in numbers {
            if let Some((Some(request), _)) = self.close(env, from, number) {
                let error = RequestError::Unknown("the membership has given this sidecar up");
                env.respond(request, Err(error));
            }
        }
    }

    /// The node is given up: nobody can tell how what it has sent will end.
    pub(crate) fn end(&mut self, env: &mut Env) {
        for request in std::mem::take(self).by_request.into_keys() {
            let error = RequestError::Unknown("the membership has given this sidecar up");
            env.respond(request, Err(error));
        }
    }

    pub(crate) fn opened(&mut self, env: &mut Env, from: NodeId, to: &PartitionId, opened: Opened) {
        if let Some(channel) = self.channels.get_mut(to) {
            channel.route.opened(env, &channel.out, from, opened);
        }
    }

    pub(crate) fn known(
        &mut self,
        env: &mut Env,
        from: NodeId,
        to: &PartitionId,
        epoch: Epoch,
        next: Number,
    ) {
        if let Some(channel) = self.channels.get_mut(to) {
            channel.route.known(env, &channel.out, from, epoch, next);
        }
    }

    pub(crate) fn not_owner(
        &mut self,
        env: &mut Env,
        from: NodeId,
        to: &PartitionId,
        epoch: Epoch,
        hint: Option<NodeId>,
    ) {
        if let Some(channel) = self.channels.get_mut(to) {
            channel.route.not_owner(env, &channel.out, from, epoch, hint);
        }
    }

    pub(crate) fn gap(&mut self, env: &mut Env, from: NodeId, to: &PartitionId, epoch: Epoch) {
        if let Some(channel) = self.channels.get_mut(to) {
            channel.route.gap(env, &channel.out, from, epoch);
        }
    }

    /// Peers or members changed.
    pub(crate) fn review(&mut self, env: &mut Env, lost: Option<NodeId>) {
        for channel in self.channels.values_mut() {
            channel.route.reconsider(env, &channel.out, lost);
        }
    }

    pub(crate) fn tick(&mut self, env: &mut Env) {
        while let Some((at, request)) = self.unaccepted.first().copied()
            && at <= env.now
        {
            // It is still owed, and may still be accepted.
            self.abandon(request);
            let error = RequestError::Unknown("the target's log did not accept it in time");
            env.respond(request, Err(error));
        }
        for channel in self.channels.values_mut() {
            channel.route.tick(env, &channel.out);
        }
    }

    pub(crate) fn timeout(&self) -> Option<u64> {
        let unaccepted = self.unaccepted.first().map(|(at, _)| *at);
        self.channels.values().filter_map(|c| c.route.timer()).chain(unaccepted).min()
    }

    fn close(
        &mut self,
        env: &mut Env,
        to: &PartitionId,
        number: Number,
    ) -> Option<(Option<RequestId>, Obligation)> {
        let channel = self.channels.get_mut(to)?;
        let obligation = channel.out.open.remove(&number)?;
        channel.route.settled(env, number);
        channel.route.answered(env, &channel.out, number);
        let request = channel.requests.remove(&number);
        if let Some(request) = request {
            self.forget(request);
        }
        self.open -= 1;
        Some((request, obligation))
    }

    fn forget(&mut self, request: RequestId) -> Option<Waiting> {
        let waiting = self.by_request.remove(&request)?;
        if let Some(at) = waiting.until {
            self.unaccepted.remove(&(at, request));
        }
        Some(waiting)
    }
}
