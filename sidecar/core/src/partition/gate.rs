//! Proposals, and what waits for their commit (rules L3–L5).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Partition;
use crate::cover::Transition;
use crate::effect::{Append, Effect, Notice, RequestError, Response};
use crate::env::Env;
use crate::ids::{
    Millis, NodeId, Number, Offset, PartitionId, ProposalId, RequestId, Sender, TopicPartition,
    TurnToken, Uuid,
};
use crate::invocation::ActorOps;
use crate::limits::LimitHit;
use crate::message::Message;
use crate::record::{Op, Record};
use crate::size::Tally;
use crate::snapshot::Snapshot;

use super::snapshots::Dispensable;

/// Decisions that a record has room for from the start, if the last one had as many.
const CUT_OPS_MAX: usize = 32;

/// A record that was proposed and not read back yet.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) seq: u64,
    pub(super) proposal: ProposalId,
    since: Millis,
    /// Its state operations, for the store.
    store: Vec<ActorOps>,
    /// Itself, if it holds decisions.
    record: Option<Arc<Record>>,
}

/// Something that waits for a commit.
#[derive(Clone, Debug)]
pub(super) enum Gated {
    /// A message about decided things.
    Send { to: NodeId, message: Message },
    /// A tell or start is durable.
    Accepted { to: NodeId, sender: Sender, number: Number },
    /// An obligation may be sent.
    Out { to: PartitionId, number: Number },
    /// Events up to a number may be sent to their topic.
    Publish { to: TopicPartition, upto: Number },
    /// An obligation's closing may be told.
    Closed { to: PartitionId, number: Number },
    /// A flush is done: what it is answered with.
    Flushed { request: RequestId, token: TurnToken, answer: Response },
    /// An invocation's attempt (or acceptance) is logged: it may start.
    Start { uuid: Uuid },
    /// A completion of the actor is committed.
    Caught { actor: Arc<str> },
    /// A subscription is committed, or goes on: its topic is read.
    Deliver { subscription: Uuid },
    /// The reign has ended in order.
    Released,
    /// The log says that the inbox was taken up to here.
    Taken { below: Offset },
    /// A snapshot's last record is committed.
    Saved(Box<Snapshot>),
    /// A snapshot is named.
    Named(Box<Dispensable>),
    /// What was decided is told to operators, once: a decision that is dropped is made again.
    Notice(Box<Notice>),
}

impl InFlight {
    pub(super) fn new(seq: u64, proposal: ProposalId, since: Millis) -> Self {
        Self { seq, proposal, since, store: Vec::new(), record: None }
    }
}

impl Partition {
    /// Decides: applies at once, to be logged with the next record.
    pub(super) fn push(&mut self, env: &mut Env, op: Op) {
        let bytes = op.size();
        if self.reign.pending_bytes + bytes > env.limits.record_bytes_target {
            // A long decision gets a record of its own: together they might not fit into one.
            env.cover(Transition::CutLong);
            self.cut(env);
        }
        let mut store = Vec::new();
        let applied = self.state.apply(&env.rules, &op, &mut store);
        debug_assert!(applied || !env.rules.turn_token, "an owner's own decision was void: {op:?}");
        for ops in &store {
            self.apply_to_cache(env, ops);
        }
        self.reign.pending_store.append(&mut store);
        self.reign.pending_bytes += bytes;
        if self.reign.pending.capacity() == 0 {
            // As many as last time: growing would move them several times.
            self.reign.pending.reserve_exact(self.reign.cut_ops.clamp(1, CUT_OPS_MAX));
        }
        self.reign.pending.push(op);
        if self.reign.pending_bytes >= env.limits.record_bytes_target {
            env.cover(Transition::CutFull);
            self.cut(env);
        }
    }

    /// Cuts what was decided into a record, unless too many are in flight.
    pub(crate) fn flush(&mut self, env: &mut Env) {
        if !self.serving() || self.reign.pending.is_empty() {
            return;
        }
        if self.reign.inflight.len() < env.limits.records_in_flight_max {
            self.log_floors(env);
            self.log_taken(env);
            if !env.may_speculate() {
                // They cannot start before they are logged: a record that goes anyway takes them along, so that no
                // record of their own stands between an actor's turns.
                self.reign.accept_at = None;
                self.log_held_roots(env);
            }
            self.cut(env);
        } else {
            env.cover(Transition::FlushWaits);
        }
    }

    /// Cuts what was decided into a record.
    pub(super) fn cut(&mut self, env: &mut Env) {
        if self.reign.pending.is_empty() {
            return;
        }
        let ops = std::mem::take(&mut self.reign.pending);
        self.reign.cut_ops = ops.len();
        let store = std::mem::take(&mut self.reign.pending_store);
        self.reign.pending_bytes = 0;
        self.state.seq += 1;
        let seq = self.state.seq;
        let before = if env.rules.clock_forward { self.state.clock } else { 0 };
        let time = before.max(env.now);
        self.state.clock = time;
        let proposal = env.proposal();
        let record = Arc::new(Record::Batch { epoch: self.state.epoch, seq, time, ops });
        let own = Some(record.clone());
        let own = InFlight { store, record: own, ..InFlight::new(seq, proposal, env.now) };
        self.reign.inflight.push_back(own);
        env.appends.push_back(Append { partition: self.id.clone(), proposal, record });
        self.take_snapshot(env);
    }

    /// The sequence number that everything decided so far is committed with.
    pub(super) fn gate_seq(&self) -> u64 {
        self.state.seq + u64::from(!self.reign.pending.is_empty())
    }

    /// Lets an effect out once everything decided so far is committed (rule L5).
    pub(super) fn gate(&mut self, env: &mut Env, gated: Gated) {
        let seq = self.gate_seq();
        let open = match &gated {
            Gated::Send { .. } => !env.rules.gate_replies,
            Gated::Accepted { .. } => !env.rules.gate_acceptances,
            Gated::Out { .. } => !env.rules.gate_calls,
            Gated::Publish { .. } => !env.rules.gate_publishes,
            Gated::Closed { .. } => !env.rules.close_only_committed,
            Gated::Saved(_) => !env.rules.snapshot_committed,
            Gated::Notice(_) => !env.rules.gate_notices,
            Gated::Flushed { .. } => !env.rules.gate_flushes,
            Gated::Released => !env.rules.gate_release,
            Gated::Deliver { .. } => !env.rules.gate_deliveries,
            Gated::Taken { .. } => !env.rules.gate_taken,
            Gated::Named(_) => !env.rules.gate_named,
            _ => false,
        };
        if open || seq <= self.reign.committed {
            self.let_out(env, gated);
        } else {
            self.reign.gated.push_back((seq, gated));
        }
    }

    /// Tells operators of what was decided once it is committed.
    pub(super) fn gate_notice(&mut self, env: &mut Env, notice: Notice) {
        self.gate(env, Gated::Notice(Box::new(notice)));
    }

    /// The same once a record is committed that is under way.
    pub(super) fn gate_at(&mut self, seq: u64, gated: Gated) {
        debug_assert!(seq > self.reign.committed);
        let at = self.reign.gated.partition_point(|(before, _)| *before <= seq);
        self.reign.gated.insert(at, (seq, gated));
    }

    /// Something was decided of an invocation before its start.
    pub(super) fn note_decided(&mut self, uuid: Uuid) {
        let seq = self.gate_seq();
        if let Some(item) = self.reign.items.get_mut(&uuid) {
            item.decided = seq;
        }
    }

    /// A turn has flushed.
    pub(super) fn note_progress(&mut self, uuid: Uuid) {
        let seq = self.gate_seq();
        let actor = self.reign.items.get(&uuid).and_then(|item| item.invocation.actor.as_ref());
        if let Some(actor) = actor.and_then(|name| self.reign.actors.get_mut(name)) {
            actor.decided = seq;
        }
    }

    /// An own record was read back (rule L4).
    pub(super) fn committed(&mut self, env: &mut Env, offset: Offset, proposal: ProposalId) {
        let Some(at) = self.reign.inflight.iter().position(|f| f.proposal == proposal) else {
            // Of an earlier reign of this node: void.
            env.cover(Transition::OwnStale);
            self.state.offset = offset;
            return;
        };
        self.state.offset = offset;
        if at > 0 && env.rules.gapless_sequence && env.rules.drop_all_after_void {
            // Records before it are missing, so it is void, and so will be all that follow.
            self.drop_all(env, "a record was lost", (0, None));
            return;
        }
        for _ in 0..at {
            // Only with rules switched off: goes on as if nothing had happened.
            self.reign.inflight.pop_front();
        }
        let Some(record) = self.reign.inflight.pop_front() else { return };
        self.reign.committed = record.seq;
        if let Some(record) = &record.record {
            self.unsaved.add(record);
        }
        if !record.store.is_empty() {
            self.state.last_write = offset;
            self.owe_store(offset, record.store);
        }
        self.tell_accepted(env);
        while self.reign.gated.front().is_some_and(|(seq, _)| *seq <= self.reign.committed) {
            let Some((_, gated)) = self.reign.gated.pop_front() else { break };
            self.let_out(env, gated);
            if !self.serving() {
                return;
            }
        }
        self.write_store(env);
        self.take_snapshot(env);
        self.flush(env);
    }

    /// Tells what was accepted, each sender all of it in one message, before everything else that waits for the same
    /// commit: nobody needs to hear of an acceptance late.
    fn tell_accepted(&mut self, env: &mut Env) {
        let gated = &mut self.reign.gated;
        let ready = gated.partition_point(|(seq, _)| *seq <= self.reign.committed);
        let accepted = gated.range(..ready).filter(|(_, g)| matches!(g, Gated::Accepted { .. }));
        if accepted.count() < 2 {
            return;
        }
        let (mut told, mut others) = (BTreeMap::<_, Vec<_>>::new(), Vec::with_capacity(ready));
        for (seq, gated) in gated.drain(..ready) {
            match gated {
                Gated::Accepted { to, sender, number } => {
                    told.entry((sender, to)).or_default().push(number);
                }
                other => others.push((seq, other)),
            }
        }
        for other in others.into_iter().rev() {
            gated.push_front(other);
        }
        for ((sender, to), numbers) in told {
            env.cover(Transition::GateAccepted);
            if numbers.len() > 1 {
                env.cover(Transition::GateAcceptedMore);
            }
            env.send(to, Message::Accepted { sender, from: self.id.clone(), numbers });
        }
    }

    /// An own record was not written: its log takes none of that length.
    pub(crate) fn append_refused(&mut self, env: &mut Env, proposal: ProposalId) {
        if self.serving() && self.reign.inflight.iter().any(|f| f.proposal == proposal) {
            self.drop_all(env, "a record was longer than its log takes", (0, None));
        }
    }

    fn let_out(&mut self, env: &mut Env, gated: Gated) {
        env.cover(match &gated {
            Gated::Send { .. } => Transition::GateSend,
            Gated::Accepted { .. } => Transition::GateAccepted,
            Gated::Out { .. } => Transition::GateOut,
            Gated::Publish { .. } => Transition::GatePublish,
            Gated::Closed { .. } => Transition::GateClosed,
            Gated::Flushed { .. } => Transition::GateFlushed,
            Gated::Start { .. } => Transition::GateStart,
            Gated::Caught { .. } => Transition::GateCaught,
            Gated::Deliver { .. } => Transition::GateDeliver,
            Gated::Released => Transition::GateReleased,
            Gated::Taken { .. } => Transition::GateTaken,
            Gated::Saved(_) => Transition::GateSaved,
            Gated::Named(_) => Transition::GateNamed,
            Gated::Notice(_) => Transition::GateNotice,
        });
        match gated {
            Gated::Send { to, message } => env.send(to, message),
            Gated::Accepted { to, sender, number } => {
                let (from, numbers) = (self.id.clone(), vec![number]);
                env.send(to, Message::Accepted { sender, from, numbers });
            }
            Gated::Out { to, number } => {
                let (route, out) = self.route_parts(&to);
                route.send(env, out, number);
            }
            Gated::Publish { to, upto } => self.may_publish(env, &to, upto),
            Gated::Closed { to, number } => {
                let (route, _) = self.route_parts(&to);
                route.settled(env, number);
            }
            Gated::Flushed { request, answer, .. } => env.respond(request, Ok(answer)),
            Gated::Start { uuid } => {
                if let Some(item) = self.reign.items.get_mut(&uuid) {
                    env.cover(Transition::WaitCommitQueued);
                    item.stage = super::reign::ItemStage::Queued;
                    item.cleared = true;
                    self.pump_item(env, uuid);
                }
            }
            Gated::Caught { actor } => {
                if let Some(a) = self.reign.actors.get_mut(&actor) {
                    a.ahead = a.ahead.saturating_sub(1);
                    self.pump_actor(env, &actor);
                }
            }
            Gated::Deliver { subscription } => self.deliver(env, subscription),
            Gated::Released => self.released(env),
            Gated::Taken { below } => self.trim_inbox(env, below),
            Gated::Saved(snapshot) => self.saved(env, *snapshot),
            Gated::Named(goes) => self.named(env, *goes),
            Gated::Notice(notice) => env.notice(*notice),
        }
    }

    /// Work of a reign that is due by now.
    pub(super) fn tick_reign(&mut self, env: &mut Env) {
        let now = env.now;
        let late = |f: &InFlight| f.since + env.limits.append_timeout_ms <= now;
        if self.reign.inflight.front().is_some_and(late) && env.rules.append_timeout {
            self.drop_all(env, "an append was not read back in time", (0, None));
            return;
        }
        if let Some(since) = self.reign.leaving
            && !self.reign.leaving_cancelled
            && since + env.limits.drain_timeout_ms <= now
        {
            self.cancel_turns(env);
        }
        let patience = env.limits.drain_timeout_ms + env.limits.grace_ms * 5;
        if self.reign.leaving.is_some_and(|since| since + patience <= now) && !self.reign.released {
            self.drop_all(env, "the host did not stop its turns", (0, None));
            return;
        }
        if self.reign.released {
            return;
        }
        if self.reign.accept_at.is_some_and(|at| at <= now) {
            self.reign.accept_at = None;
            self.log_held_roots(env);
        }
        if self.reign.close_at.is_some_and(|at| at <= now) {
            self.log_closings(env);
        }
        if self.reign.settle_at.is_some_and(|at| at <= now) {
            self.log_settled(env);
        }
        if self.reign.taking.at.is_some_and(|at| at <= now) {
            self.log_taken(env);
        }
        self.fence_due(env);
        self.close_departed(env);
        self.forget_results(env);
        self.forget_keys(env);
        self.drop_dead(env);
        self.expire(env);
        self.retry_due(env);
        self.probe_due(env);
        self.withdraw_due(env);
        self.fire_due(env);
        self.passivate_due(env);
        self.tick_routes(env);
        self.tick_deliveries(env);
        self.publish_due(env);
        if self.reign.dispatch_after > 0 && self.reign.dispatch_after <= now {
            self.reign.dispatch_after = 0;
            self.end_cancelled(env);
            self.pump_all(env);
        }
    }

    /// When the reign has something to do.
    pub(super) fn reign_timeout(&self, env: &Env) -> Option<Millis> {
        let reign = &self.reign;
        // One after the other: it is asked for after everything that happens.
        let mut soonest = Millis::MAX;
        let mut due = |at: Option<Millis>| soonest = soonest.min(at.unwrap_or(Millis::MAX));
        let oldest = reign.inflight.front().filter(|_| env.rules.append_timeout);
        due(oldest.map(|f| f.since + env.limits.append_timeout_ms));
        if let Some(since) = reign.leaving {
            let drained = since + env.limits.drain_timeout_ms;
            due((!reign.leaving_cancelled).then_some(drained));
            let cancelled = reign.leaving_cancelled && !reign.released;
            due(cancelled.then_some(drained + env.limits.grace_ms * 5));
        }
        if !reign.released {
            due(reign.accept_at);
            due(reign.close_at);
            due(reign.settle_at);
            due(reign.taking.at);
            due(reign.fence_at);
            due(reign.probes.at);
            due(reign.withdrawals.at);
            due((reign.dispatch_after > 0).then_some(reign.dispatch_after));
            due(reign.deadlines.first().map(|(at, _)| *at));
            due(reign.retries.first().map(|(at, _)| *at));
            due(self.next_firing(env));
            due(self.next_passive(env));
            let departed = reign.departed.values().min();
            due(departed.map(|since| since + env.limits.departed_grace_ms));
            let oldest = self.state.results_by_age.front();
            due(oldest.map(|(at, _)| at + env.limits.result_retention_ms));
            due(self.state.keys.oldest().map(|at| at + env.limits.key_retention_ms));
            due(self.has_surplus_results(env).then_some(env.now));
            due(self.dead_timeout(env));
            due(reign.publishing.timeout());
            due(reign.routes.values().filter_map(|route| route.timer()).min());
            due(reign.deliveries.timeout());
        }
        (soonest != Millis::MAX).then_some(soonest)
    }

    fn has_surplus_results(&self, env: &Env) -> bool {
        let Tally { count, bytes } = self.state.results.tally();
        count > env.limits.results_per_partition_max
            || bytes > env.limits.results_bytes_per_partition_max
            || self.state.keys.has_surplus(env.limits.keys_bytes_per_partition_max)
    }

    /// Drops results of `start` whose time is over, and the oldest ones beyond the bounds.
    fn forget_results(&mut self, env: &mut Env) {
        let limits = &env.limits;
        let Tally { mut count, mut bytes } = self.state.results.tally();
        let (mut uuids, mut hit) = (Vec::new(), None);
        for (at, uuid) in &self.state.results_by_age {
            let surplus = if count > limits.results_per_partition_max {
                Some(("results_per_partition_max", limits.results_per_partition_max))
            } else if bytes > limits.results_bytes_per_partition_max {
                Some(("results_bytes_per_partition_max", limits.results_bytes_per_partition_max))
            } else {
                None
            };
            hit = hit.or(surplus);
            if surplus.is_none() && at + limits.result_retention_ms > env.now {
                break;
            }
            if let Some(outcome) = self.state.results.get(uuid) {
                count -= 1;
                bytes -= outcome.size();
                uuids.push(*uuid);
            }
        }
        if !uuids.is_empty() {
            self.push(env, Op::Forget { uuids });
        }
        if let Some((name, limit)) = hit {
            self.gate_notice(env, Notice::Limit(LimitHit { name, limit: limit as u64 }));
        }
        self.forget_outcomes(env);
    }

    /// Drops the oldest outcomes under idempotency keys beyond their bound: how many are yet to come was not known when
    /// the keys were taken. The keys stay, so nothing is done twice.
    fn forget_outcomes(&mut self, env: &mut Env) {
        let limit = env.limits.keys_bytes_per_partition_max;
        let uuids = self.state.keys.surplus_outcomes(limit);
        if !uuids.is_empty() {
            env.cover(Transition::KeyOutcomesDropped);
            self.push(env, Op::Forget { uuids });
            let name = "keys_bytes_per_partition_max";
            self.gate_notice(env, Notice::Limit(LimitHit { name, limit: limit as u64 }));
        }
    }

    /// A flush that waits for its commit.
    pub(super) fn gate_flush(&mut self, env: &mut Env, request: RequestId, token: TurnToken) {
        self.gate(env, Gated::Flushed { request, token, answer: Response::Ok });
    }

    /// A request was refused before anything was decided.
    pub(super) fn superseded(&self, env: &mut Env, request: RequestId, token: &TurnToken) {
        env.emit(Effect::Respond {
            request,
            response: Err(RequestError::TurnSuperseded(Box::new(token.clone()))),
        });
    }
}
