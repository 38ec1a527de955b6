//! Channels out: what this partition's turns owe others, and what comes back.

use super::Partition;
use super::gate::Gated;
use super::reign::ItemStage;
use crate::cover::Transition;
use crate::effect::{Notice, Response};
use crate::env::Env;
use crate::ids::{Epoch, InvocationId, NodeId, Number, PartitionId, Sender, Uuid};
use crate::invocation::{Obligation, Outcome};
use crate::record::{Op, Send};
use crate::route::{Opened, Route};
use crate::size::Tally;
use crate::state::Outbound;

impl Partition {
    /// This partition as a sender.
    pub(super) fn as_sender(&self) -> Sender {
        Sender::Log { partition: self.id.clone(), log: self.state.log.unwrap_or_default() }
    }

    /// What turns have made and is not settled, sent or not (rule C7).
    pub(super) fn outbox(&self) -> Tally {
        self.state.owed.plus(self.state.topics.owed()).plus(self.reign.buffered)
    }

    /// The channel to a partition, made if need be.
    pub(super) fn route(&mut self, to: &PartitionId) -> &mut Route {
        if !self.reign.routes.contains_key(to) {
            let sender = self.as_sender();
            let committed = self.state.outbound.get(to).map_or(1, |out| out.next);
            let route = Route::new(sender, self.state.epoch, to.clone(), committed);
            self.reign.routes.insert(to.clone(), route);
        }
        self.reign.routes.get_mut(to).expect("it was inserted if it was absent")
    }

    /// The channel with what is owed on it.
    pub(super) fn route_parts(&mut self, to: &PartitionId) -> (&mut Route, &Outbound) {
        self.route(to);
        let out = self.state.outbound.entry(to.clone()).or_default();
        let route = self.reign.routes.get_mut(to).expect("`route` has just made it");
        (route, out)
    }

    /// Numbers obligations in their channels: the numbers are used up with the decision that carries them.
    pub(super) fn number(&mut self, obligations: Vec<Obligation>) -> Vec<Send> {
        let mut used = std::collections::BTreeMap::new();
        let mut sends = Vec::with_capacity(obligations.len());
        for obligation in obligations {
            // The channel exists before the decision is applied, so that its committed numbers are right.
            self.route(&obligation.to);
            let first = self.state.outbound.get(&obligation.to).map_or(1, |out| out.next);
            let next = used.entry(obligation.to.clone()).or_insert(first);
            sends.push(Send { number: *next, obligation });
            *next += 1;
        }
        sends
    }

    /// Lets obligations go once they are committed.
    pub(super) fn gate_sends(&mut self, env: &mut Env, sends: Vec<(PartitionId, Number)>) {
        for (to, number) in sends {
            self.gate(env, Gated::Out { to, number });
        }
    }

    /// Closes obligations that a decision settled, once it is committed (rule C4).
    pub(super) fn gate_closed(
        &mut self,
        env: &mut Env,
        closed: impl IntoIterator<Item = (PartitionId, Number)>,
    ) {
        for (to, number) in closed {
            self.reign.outcomes.remove(&(to.clone(), number));
            if let Some(settling) = self.reign.settling.get_mut(&to) {
                settling.remove(&number);
            }
            self.route(&to).unsettle(number);
            self.gate(env, Gated::Closed { to, number });
        }
    }

    /// The receiver serves, and says what it knows.
    pub(crate) fn opened(&mut self, env: &mut Env, from: NodeId, to: &PartitionId, opened: Opened) {
        if self.serving() {
            let (route, out) = self.route_parts(to);
            route.opened(env, out, from, opened);
        }
    }

    /// Requests below `next` have arrived.
    pub(crate) fn known(
        &mut self,
        env: &mut Env,
        from: NodeId,
        to: &PartitionId,
        epoch: Epoch,
        next: Number,
    ) {
        if self.serving() {
            let (route, out) = self.route_parts(to);
            route.known(env, out, from, epoch, next);
        }
    }

    /// Numbers were answered: the channel's window moves.
    fn answered(&mut self, env: &mut Env, to: &PartitionId, numbers: &[Number]) {
        let (route, out) = self.route_parts(to);
        for number in numbers {
            route.answered(env, out, *number);
        }
    }

    /// The receiver is not the owner.
    pub(crate) fn not_owner(
        &mut self,
        env: &mut Env,
        from: NodeId,
        to: &PartitionId,
        epoch: Epoch,
        hint: Option<NodeId>,
    ) {
        if self.serving() {
            let (route, out) = self.route_parts(to);
            route.not_owner(env, out, from, epoch, hint);
        }
    }

    /// The receiver misses numbers.
    pub(crate) fn gap(&mut self, env: &mut Env, from: NodeId, to: &PartitionId, epoch: Epoch) {
        if self.serving() {
            let (route, out) = self.route_parts(to);
            route.gap(env, out, from, epoch);
        }
    }

    /// A nested call's outcome: durable at the callee, taken from any epoch (section 18, decision 1).
    pub(crate) fn reply(
        &mut self,
        env: &mut Env,
        callee: &PartitionId,
        number: Number,
        outcome: Outcome,
    ) {
        // After a `Release` nothing is decided any more: the next owner asks again.
        if !self.serving() || self.reign.released {
            if self.serving() {
                env.cover(Transition::ReplyReleased);
            }
            return;
        }
        let out = self.state.outbound.get(callee);
        let Some(obligation) = out.and_then(|out| out.open.get(&number)) else { return };
        let (is_awaited, parent) = (obligation.owed.is_awaited(), obligation.parent);
        let is_keyed = obligation.step_key.is_some();
        let invocation = InvocationId { home: callee.clone(), uuid: obligation.owed.uuid() };
        self.answered(env, callee, &[number]);
        let child = (callee.clone(), number);
        if !is_awaited || !self.reign.outcomes.insert(child.clone()) {
            env.cover(Transition::ReplyAgain);
            return;
        }
        if is_keyed {
            self.settle_keyed(env, (callee, number), outcome.clone());
        } else {
            self.settle_later(env, callee, [number]);
        }
        let Some(parent) = parent else { return };
        let Some(item) = self.reign.items.get_mut(&parent) else {
            return env.cover(Transition::ReplyOrphan);
        };
        match &mut item.stage {
            ItemStage::Running(turn) => {
                env.cover(Transition::ReplyRunning);
                if !is_keyed {
                    turn.received.push(child.clone());
                }
                if let Some(request) = turn.calls.remove(&child) {
                    if turn.result.is_some() && turn.calls.is_empty() {
                        env.cover(Transition::ReturnedPastCalls);
                    }
                    let invocation = Some(invocation);
                    env.respond(request, Ok(Response::Outcome { invocation, outcome }));
                    self.maybe_end(env, parent);
                }
            }
            ItemStage::WaitChildren => {
                env.cover(Transition::ReplyChildren);
                item.stage = ItemStage::Queued;
                self.pump_item(env, parent);
            }
            ItemStage::Queued
            | ItemStage::WaitSlot
            | ItemStage::WaitCommit
            | ItemStage::Parked
            | ItemStage::Moved => {
                env.cover(Transition::ReplyEarly);
            }
        }
    }

    /// Tells were accepted.
    pub(crate) fn accepted(&mut self, env: &mut Env, receiver: &PartitionId, numbers: &[Number]) {
        if !self.serving() || self.reign.released {
            return;
        }
        let Some(out) = self.state.outbound.get(receiver) else { return };
        let tells: Vec<_> = numbers
            .iter()
            .copied()
            .filter(|n| out.open.get(n).is_some_and(|o| !o.owed.is_awaited()))
            .collect();
        if tells.is_empty() {
            return;
        }
        self.answered(env, receiver, &tells);
        self.settle_later(env, receiver, tells);
    }

    /// Obligations whose durable outcome is here are settled by the partition if no turn does it first (section 18,
    /// decision 3): else what a long or a failed turn has received would be owed, and kept at the callee, without end.
    fn settle_later(
        &mut self,
        env: &Env,
        to: &PartitionId,
        numbers: impl IntoIterator<Item = Number>,
    ) {
        self.reign.settling.entry(to.clone()).or_default().extend(numbers);
        if !env.rules.settle_late {
            return;
        }
        let at = env.now + env.limits.settle_delay_ms;
        self.reign.settle_at = Some(self.reign.settle_at.map_or(at, |t| t.min(at)));
    }

    /// A number has retired at the receiver (section 18, decision 4).
    pub(crate) fn gone(&mut self, env: &mut Env, receiver: &PartitionId, number: Number) {
        if !self.serving() {
            return;
        }
        let out = self.state.outbound.get(receiver);
        let Some(obligation) = out.and_then(|out| out.open.get(&number)) else { return };
        if !obligation.owed.is_awaited() {
            env.cover(Transition::GoneTell);
            return self.accepted(env, receiver, &[number]);
        }
        let child = (receiver.clone(), number);
        if self.reign.outcomes.contains(&child) || !self.reign.doubted.insert(child) {
            return;
        }
        env.cover(Transition::GoneDoubted);
        // A successor may have closed it, and its claim not be read yet: only the log tells who is wrong. Nothing is
        // dispatched meanwhile.
        self.hold_until_read(env);
    }

    /// The log was read to its end, and this reign goes on: what was called retired meanwhile has to be settled by now.
    pub(super) fn check_doubted(&mut self, env: &mut Env) {
        let still_open = |(to, number): &(PartitionId, Number)| {
            self.state.outbound.get(to).is_some_and(|out| out.open.contains_key(number))
                && !self.reign.outcomes.contains(&(to.clone(), *number))
        };
        let broken = self.reign.doubted.iter().any(still_open);
        if !broken && !self.reign.doubted.is_empty() {
            env.cover(Transition::DoubtSettled);
        }
        self.reign.doubted.clear();
        if broken {
            env.notice(Notice::BrokenInvariant { what: "an open call's number has retired" });
            self.drop_all(env, "an open call's number has retired at its callee", (0, None));
        }
    }

    /// Logs what no turn has settled meanwhile: tells that were accepted, outcomes of calls.
    pub(super) fn log_settled(&mut self, env: &mut Env) {
        self.reign.settle_at = None;
        self.log_delivered(env);
        self.log_published(env);
        for (to, numbers) in std::mem::take(&mut self.reign.settling) {
            let Some(out) = self.state.outbound.get(&to) else { continue };
            let numbers: Vec<_> =
                numbers.into_iter().filter(|n| out.open.contains_key(n)).collect();
            if numbers.is_empty() {
                continue;
            }
            env.cover(Transition::LogSettled);
            self.push(env, Op::Settle { to: to.clone(), numbers: numbers.clone() });
            self.gate_closed(env, numbers.into_iter().map(|n| (to.clone(), n)));
        }
    }

    /// Children of an invocation whose outcomes are not here.
    pub(super) fn has_open_children(&self, uuid: Uuid) -> bool {
        let entry = self.state.entries.get(&uuid);
        entry.is_some_and(|e| e.children.iter().any(|c| !self.reign.outcomes.contains(c)))
    }

    /// Peers or members changed: channels find their way anew.
    pub(crate) fn review_routes(&mut self, env: &mut Env, lost: Option<NodeId>) {
        for (to, route) in &mut self.reign.routes {
            if let Some(out) = self.state.outbound.get(to) {
                route.reconsider(env, out, lost);
            }
        }
        self.review_deliveries(env, lost);
    }

    pub(super) fn tick_routes(&mut self, env: &mut Env) {
        for (to, route) in &mut self.reign.routes {
            if let Some(out) = self.state.outbound.get(to) {
                route.tick(env, out);
            }
        }
    }
}
